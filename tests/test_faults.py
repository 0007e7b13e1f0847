"""Tests of what can go wrong with a matrix that is not in memory.

Each fault in every operation ends in an error that names it. It never ends in a killed process or a
wrong number, and leaves no thread and no open file. The next call works.
"""

import contextlib
import functools
import gc
import itertools
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
import scipy.sparse
from failing import held, nothing_left
from support import integers, slow, slow_except, toarray

from sparsejac import JacobianBuilder, LeastSquares, RowSums, fit, io, symmetric_scaling
from sparsejac._backends import budget as _budget
from sparsejac._backends import partition as _partition
from sparsejac._backends import pool as _pool
from sparsejac._backends import protocol as _protocol
from sparsejac._backends import stream as _stream
from sparsejac._backends import stream_pass as _stream_pass
from sparsejac._backends import threads as _threads
from sparsejac._kernels import compile as _compile
from sparsejac._matrix import csr as _csr
from sparsejac._matrix import dense as _dense
from sparsejac._matrix import numbers as _numbers
from sparsejac._matrix import registry as _registry
from sparsejac._system import locks as _locks
from sparsejac._system import progress as _progress

cooler = pytest.importorskip("cooler", reason="contact maps are read by cooler")
pd = pytest.importorskip("pandas", reason="cooler brings pandas")
h5py = pytest.importorskip("h5py", reason="cooler brings h5py")
zarr = pytest.importorskip("zarr", reason="its arrays are streamed")

K = 12
WORKERS = 2
STEP = 3  # how many rows a block has

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Make blocks of a few rows, and more than one partial sum."""
    monkeypatch.setattr(_budget, "BLOCK", STEP * K * 8)
    monkeypatch.setattr(_partition, "_PIECE", 1)


# --- one matrix, on every kind of storage ---------------------------------------------------------


def dense():
    """Make a symmetric matrix of positive integers, for which every operation is defined."""
    U = np.triu(integers((K, K), seed=1, low=1, high=5))
    return U + np.triu(U, 1).T


def sparse():
    """Make the same matrix without some of its entries."""
    mask = np.triu(np.random.default_rng(2).random((K, K)) < 0.5) | np.eye(K, dtype=bool)
    return scipy.sparse.csr_array(dense() * (mask | mask.T))


def mapped_csr(folder):
    A, arrays = sparse(), []
    for name in ("data", "indices", "indptr"):
        np.save(folder / f"{name}.npy", getattr(A, name))
        arrays.append(np.load(folder / f"{name}.npy", mmap_mode="r"))
    return scipy.sparse.csr_array(tuple(arrays), shape=(K, K))


def cool(folder):
    bins = pd.DataFrame(
        [("c", 10 * i, 10 * (i + 1)) for i in range(K)], columns=["chrom", "start", "end"]
    )
    U = scipy.sparse.triu(sparse()).tocoo()
    order = np.lexsort((U.col, U.row))
    pixels = pd.DataFrame(
        {"bin1_id": U.row[order], "bin2_id": U.col[order], "count": U.data[order].astype(np.int32)}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # these warnings are cooler's own
        cooler.create_cooler(str(folder / "A.cool"), bins, pixels, ordered=True)
    return str(folder / "A.cool")


def npy(folder):
    np.save(folder / "A.npy", dense())
    return str(folder / "A.npy")


def memmap(folder):
    return np.load(npy(folder), mmap_mode="r")


def blocks(folder):
    A = sparse()
    io.write_csr_blocks(
        str(folder / "A"), ((i, A[i : i + 4]) for i in range(0, K, 4)), shape=A.shape
    )
    return str(folder / "A")


def hdf5(folder):
    file = h5py.File(folder / "A.h5", "w")
    return file.create_dataset("A", data=dense(), chunks=(4, K))


def zarr_array(folder):
    """Make an array whose fill value is not 0, so that a missing chunk counts as lost."""
    Z = zarr.create_array(
        str(folder / "A.zarr"),
        shape=(K, K),
        chunks=(4, 4),
        dtype="f8",
        fill_value=7,
        config={"write_empty_chunks": True},
    )
    Z[:] = dense()
    return Z


def function(folder):
    A = dense()
    return lambda start, stop: A[start:stop].copy()


# For each kind of storage: the function that makes it, the function that makes the same matrix in
# memory, and the pattern of the files in its folder that the tests damage.
PLACES = {
    "npy": (npy, dense, "A.npy"),
    "memmap": (memmap, dense, "A.npy"),
    "csr": (mapped_csr, sparse, "data.npy"),
    "csr's columns": (mapped_csr, sparse, "indices.npy"),
    "blocks": (blocks, sparse, "A/*.npy"),
    "cool": (cool, sparse, "A.cool"),
    "h5py": (hdf5, dense, None),
    "zarr": (zarr_array, dense, None),
    "function": (function, dense, None),
}
FILES = [place for place, (*_, file) in PLACES.items() if file]


def rows_of(place):
    return "upper" if place == "cool" else "stored"


# --- every operation ------------------------------------------------------------------------------

x, v, V = integers((K,), seed=3), integers((K,), seed=4), integers((K, 3), seed=5)


def weights(builder, columns=()):
    return integers((builder.shape[0], *columns), seed=6)


def target(place):
    """Make a symmetric Y with entries where A has them. For a contact map it has one triangle."""
    A = PLACES[place][1]()
    if not scipy.sparse.issparse(A):
        return A + 1.0
    Y = A.copy()
    Y.data = Y.data + 1.0
    return scipy.sparse.triu(Y, format="csr") if place == "cool" else Y


def fitted(A, place):
    return fit(A, target(place), rows=rows_of(place), x0=np.ones(K), max_iter=1, workers=WORKERS).x


def scaled(A, place):
    return symmetric_scaling(A, max_products=4, workers=WORKERS).x


# For each operation: the object on which it works, and a function that runs it.
OPERATIONS = {
    "value": ("builder", lambda b: b.value(x)),
    "tocsr": ("builder", lambda b: b.tocsr(x)),
    "iter_csr": (
        "builder",
        lambda b: np.vstack([J.toarray() for _, J in b.iter_csr(x, block_rows=50)]),
    ),
    "J v": ("builder", lambda b: b.operator(x) @ v),
    "J V": ("builder", lambda b: b.operator(x) @ V),
    "J.T w": ("builder", lambda b: b.operator(x).T @ weights(b)),
    "J.T W": ("builder", lambda b: b.operator(x).T @ weights(b, (3,))),
    "column_norms": ("builder", lambda b: b.operator(x).column_norms()),
    "normal v": ("builder", lambda b: b.operator(x).normal() @ v),
    "normal V": ("builder", lambda b: b.operator(x).normal() @ V),
    "normal toarray": ("builder", lambda b: b.operator(x).normal().toarray()),
    "normal diagonal": ("builder", lambda b: b.operator(x).normal().diagonal()),
    "hessian v": ("builder", lambda b: b.hessian(weights(b)) @ v),
    "hessian toarray": ("builder", lambda b: b.hessian(weights(b)).toarray()),
    "hessian diagonal": ("builder", lambda b: b.hessian(weights(b)).diagonal()),
    "slice": ("builder", lambda b: b.slice(x, 5)),
    "cost": ("problem", lambda p: np.array([p.cost(x)])),
    "grad": ("problem", lambda p: p.grad(x)),
    "hess v": ("problem", lambda p: p.hess(x) @ v),
    "hess toarray": ("problem", lambda p: p.hess(x).toarray()),
    "hess diagonal": ("problem", lambda p: p.hess(x).diagonal()),
    "normal of a problem": ("problem", lambda p: p.normal(x) @ v),
    "fun": ("problem", lambda p: p.fun(x)),
    "x_scale": ("problem", lambda p: p.x_scale(x)),
    "sums": ("sums", lambda s: s.value(x)),
    "sums' nonzeros": ("sums", lambda s: s.nonzeros()),
    "sums' operator": ("sums", lambda s: s.operator(x) @ v),
    "sums' toarray": ("sums", lambda s: s.operator(x).toarray()),
    "fit": ("fit", None),
    "symmetric_scaling": ("scaling", None),
}
ITERATIVE = ("fit", "symmetric_scaling")  # their results depend on rounding


def made(what, A, place):
    """Make the object on which an operation works."""
    if what == "builder":
        return JacobianBuilder(A, rows=rows_of(place), workers=WORKERS)
    if what == "problem":
        return LeastSquares(A, target(place), rows=rows_of(place), workers=WORKERS)
    if what == "sums":
        return RowSums(A, workers=WORKERS)
    return _registry.stored_source("A", A) or A


def run(name, of, place):
    """Run an operation. The result is an array."""
    what, operation = OPERATIONS[name]
    if operation is not None:
        return toarray(operation(of))
    return fitted(of, place) if what == "fit" else scaled(of, place)


@functools.cache
def in_memory(name, place):
    A = PLACES[place][1]()
    if OPERATIONS[name][0] == "sums" and place == "cool":
        return run(name, made("sums", A, place), place)
    return run(name, made(OPERATIONS[name][0], A, place), place)


def expect(name, found, expected):
    assert found.shape == expected.shape
    if name in ITERATIVE:
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    else:
        np.testing.assert_array_equal(found, expected)


def each(check):
    """Check every operation, and report all that fail with their errors."""
    wrong = []
    for name in OPERATIONS:
        try:
            check(name)
        except BaseException:  # noqa: BLE001  # the failures of pytest are not of class Exception
            wrong.append(f"{name}: {traceback.format_exc(limit=-1)}")
    assert not wrong, "\n".join(wrong)


def in_a_child(check):
    """Call a function in a forked child, so that a crash is a failure of this test only.

    A system that cannot fork calls it directly.
    """
    if not hasattr(os, "fork"):
        check()
        return
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)

    def child():
        try:
            check()
        except BaseException:  # noqa: BLE001  # as above
            writer.send(traceback.format_exc())
        else:
            writer.send("")

    process = context.Process(target=child)
    process.start()
    writer.close()
    try:
        said = reader.recv() if reader.poll(60) else "it does not answer: it hangs"
    except EOFError:
        said = "it was killed"
    if "hangs" in said:
        process.kill()
    process.join(10)
    assert said == "", f"{said} (exit code {process.exitcode})"


# --- the same results -----------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["csr", *slow("npy", "zarr")])
def test_the_same_as_in_memory(place, tmp_path):
    """The first pass scans A, and later passes need not.

    Passes of two threads at the same time do not disturb each other.
    """
    A = PLACES[place][0](tmp_path)

    def check(name):
        of, meet = made(OPERATIONS[name][0], A, place), threading.Barrier(2)

        def one(_):
            meet.wait(10)
            return run(name, of, place)

        with ThreadPoolExecutor(2) as pool:
            for found in [run(name, of, place), *pool.map(one, range(2))]:
                expect(name, found, in_memory(name, place))

    each(check)


def test_a_symmetric_target_with_a_contact_map(tmp_path):
    """The upper triangles of both are compared, as with a symmetric A in memory."""
    Y = sparse()
    Y.data = Y.data + 1.0
    expected = LeastSquares(sparse(), Y, rows="upper").cost(x)
    for whole in (Y, Y.toarray()):
        assert LeastSquares(cool(tmp_path), whole).cost(x) == expected


def test_a_function_is_never_called_for_two_passes_at_a_time():
    A, busy, twice = dense(), [], []

    def rows(start, stop):
        if busy:
            twice.append(start)
        busy.append(start)
        time.sleep(1e-3)
        busy.pop()
        return A[start:stop]

    builder = JacobianBuilder(rows, workers=WORKERS)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: builder.value(x), range(4)))
    assert not twice


def test_a_function_may_use_its_array_again(monkeypatch):
    """The function returns the same memory in each call, while we still compute with a block."""
    A, memory = dense(), np.empty((K, K))
    compiled = _stream.compiled_kernel

    def slowly(kernel):
        def run(*args):
            time.sleep(2e-3)
            return compiled(kernel)(*args)

        return run

    monkeypatch.setattr(_stream, "compiled_kernel", slowly)

    def rows(start, stop):
        block = memory[: stop - start]
        block[:] = 0
        time.sleep(1e-3)
        block[:] = A[start:stop]
        return block

    def check(name):
        expect(
            name,
            run(name, made(OPERATIONS[name][0], rows, "function"), "function"),
            in_memory(name, "function"),
        )

    each(check)


@pytest.mark.slow  # unpickled objects compile kernels of their own
@pytest.mark.parametrize("place", ["npy", "csr", "blocks"])
def test_pickles(place, tmp_path):
    """The copy reads the same files, as the original does in a forked child.

    It detects that they have changed.
    """
    A = PLACES[place][0](tmp_path)
    of = {name: made(what, A, place) for name, (what, _) in OPERATIONS.items()}

    def check(name):
        copied = pickle.loads(pickle.dumps(of[name]))
        expect(name, run(name, copied, place), in_memory(name, place))

    each(check)
    in_a_child(lambda: each(check))
    change("rewritten", tmp_path, PLACES[place][2])
    refused({name: pickle.dumps(one) for name, one in of.items()}, place, tmp_path)


# --- files that change ----------------------------------------------------------------------------


def change(fault, folder, pattern):
    """Damage all files that match a pattern."""
    files = sorted(folder.glob(pattern))
    assert files
    for file in files:
        status = file.stat()
        if fault == "deleted":
            file.unlink()
        elif fault == "replaced":  # the new file has the same size and time
            shutil.copy(file, folder / "other")
            os.utime(folder / "other", ns=(status.st_atime_ns, status.st_mtime_ns))
            os.replace(folder / "other", file)
        elif fault == "rewritten":  # the file keeps its content
            with open(file, "r+b") as stream:
                content = stream.read()
                stream.seek(0)
                stream.write(content)
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1000))
        else:
            size = {"truncated": 0, "shrunk": status.st_size - 8, "grown": status.st_size + 8}[
                fault
            ]
            os.truncate(file, size)


def refused(of, place, folder):
    """Check that the error of every operation names the file."""

    def check(name):
        with pytest.raises((ValueError, OSError)) as caught:
            run(name, pickle.loads(of[name]) if isinstance(of[name], bytes) else of[name], place)
        assert str(folder) in str(caught.value)

    each(check)


CHANGES = ["truncated", "shrunk", "grown", "rewritten", "replaced", "deleted"]


@pytest.mark.parametrize(
    ("place", "fault"),
    slow_except(  # by default each change and each kind of storage is tested once
        list(zip(FILES, CHANGES, strict=True)), itertools.product(FILES, CHANGES)
    ),
)
def test_a_file_changes_between_passes(place, fault, tmp_path):
    def check():
        A = PLACES[place][0](tmp_path)
        of = {name: made(what, A, place) for name, (what, _) in OPERATIONS.items()}
        change(fault, tmp_path, PLACES[place][2])
        refused(of, place, tmp_path)

    in_a_child(check)


@pytest.mark.parametrize(
    ("place", "fault"),
    slow_except(
        [("memmap", "truncated"), ("csr", "shrunk"), ("cool", "deleted")],
        itertools.product(FILES, ["truncated", "shrunk", "deleted"]),
    ),
)
def test_a_file_changes_before_it_is_handed_over(place, fault, tmp_path):
    """The system would kill a process that reads a mapped file beyond its new end."""

    def check():
        A = PLACES[place][0](tmp_path)
        change(fault, tmp_path, PLACES[place][2])

        def refused(name):
            with pytest.raises((ValueError, OSError)) as caught:
                made(OPERATIONS[name][0], A, place)
            assert str(tmp_path) in str(caught.value)

        each(refused)

    in_a_child(check)


def test_the_row_pointers_of_a_mapped_matrix_are_cut_off(tmp_path):
    def check():
        A = mapped_csr(tmp_path)
        os.truncate(tmp_path / "indptr.npy", 0)
        with pytest.raises((ValueError, OSError), match=r"indptr\.npy"):
            JacobianBuilder(A, rows="stored")

    in_a_child(check)


def test_a_mapped_file_is_replaced_before_it_is_handed_over(tmp_path):
    """The map holds the old file, and its name belongs to another file by now."""
    A = memmap(tmp_path)
    np.save(tmp_path / "other.npy", 2 * dense())
    os.replace(tmp_path / "other.npy", tmp_path / "A.npy")
    try:
        found = JacobianBuilder(A).value(x)
    except ValueError as error:
        assert "A.npy" in str(error)  # noqa: PT017
    else:
        expect("value", found, in_memory("value", "memmap"))


def reads(place, monkeypatch, act):
    """Call `act` before each read of a pass."""
    owner, name = {
        "cool": (h5py.Dataset, "read_direct"),
    }.get(place, (_numbers, "read_at"))
    read = getattr(owner, name)

    def patched(*args):
        act()
        return read(*args)

    monkeypatch.setattr(owner, name, patched)


@pytest.mark.parametrize(
    ("place", "nth"),
    slow_except(
        [("memmap", 3), ("blocks", 1), ("cool", 3)],
        [(place, nth) for place in FILES for nth in (1, 3) if place != "cool" or nth == 3],
    ),
)
def test_a_file_is_cut_short_during_a_pass(place, nth, tmp_path, monkeypatch):
    """The file is cut at the n-th read.

    The operation may have read enough before. If it has not, its error names the file.
    """
    left = [np.inf]

    def act():
        left[0] -= 1
        if left[0] == 0:
            change("truncated", tmp_path, PLACES[place][2])

    reads(place, monkeypatch, act)

    def check(name):
        for file in tmp_path.iterdir():
            shutil.rmtree(file) if file.is_dir() else file.unlink()
        of = made(OPERATIONS[name][0], PLACES[place][0](tmp_path), place)
        left[0] = nth
        try:
            found = run(name, of, place)
        except (ValueError, OSError) as error:
            assert str(tmp_path) in str(error)  # noqa: PT017
        else:
            expect(name, found, in_memory(name, place))
        left[0] = np.inf

    in_a_child(lambda: each(check))


def test_a_chunk_of_zarr_is_missing(tmp_path):
    A = zarr_array(tmp_path)
    of = {name: made(what, A, "zarr") for name, (what, _) in OPERATIONS.items()}
    chunk = tmp_path / "A.zarr" / "c" / "1" / "0"
    chunk.unlink()

    def between(name):
        with pytest.raises(ValueError, match="A lacks 1 of its 9 chunks"):
            run(name, of[name], "zarr")

    def beforehand(name):
        with pytest.raises(ValueError, match="A lacks 1 of its 9 chunks"):
            made(OPERATIONS[name][0], A, "zarr")

    each(between)
    each(beforehand)


def test_a_chunk_of_zarr_goes_missing_during_a_pass(tmp_path, monkeypatch):
    """The fill value of a lost chunk is never taken for data."""
    A, left = zarr_array(tmp_path), [np.inf]
    read = _dense.ObjectRows._read

    def patched(*args):
        left[0] -= 1
        if left[0] == 0:
            shutil.rmtree(tmp_path / "A.zarr" / "c" / "2")
        return read(*args)

    monkeypatch.setattr(_dense.ObjectRows, "_read", patched)

    def check(name):
        A[:] = dense()
        of = made(OPERATIONS[name][0], A, "zarr")
        left[0] = 2
        try:
            found = run(name, of, "zarr")
        except ValueError as error:
            assert "lacks" in str(error)  # noqa: PT017
        else:
            expect(name, found, in_memory(name, "zarr"))
        left[0] = np.inf

    each(check)


# --- functions that fail --------------------------------------------------------------------------


class Failure(Exception):
    pass


class Rows:
    """A function of rows that calls `act` on the block of its n-th call."""

    def __init__(self, act, slow=0.0):
        self.act, self.A, self.calls, self.nth, self.slow = act, dense(), 0, None, slow

    def __call__(self, start, stop):
        self.calls += 1
        if self.nth is not None and self.calls > self.nth:
            time.sleep(self.slow)
        block = self.A[start:stop].copy()
        return self.act(block) if self.calls == self.nth else block

    def calls_of(self, name):
        """Count the calls before an operation begins, and the calls at its end."""
        self.calls, self.nth = 0, None
        of = made(OPERATIONS[name][0], self, "function")
        before = self.calls
        run(name, of, "function")
        return before, self.calls


def done(name, rows, kept):
    """Make the object on which an operation works, and run the operation."""
    kept[:] = []
    kept.append(made(OPERATIONS[name][0], rows, "function"))
    return run(name, kept[0], "function")


def raising(block):
    raise Failure("this block cannot be had")


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_function_raises_at_any_block(name):
    rows = Rows(raising)
    _, last = rows.calls_of(name)
    assert last > K // STEP
    expected, before = in_memory(name, "function"), held()
    for nth in range(1, last + 1):
        rows.calls, rows.nth = 0, nth
        kept = []
        with pytest.raises(Failure, match="this block cannot be had"):
            done(name, rows, kept)
        nothing_left(before)
        rows.nth = None
        found = run(name, kept[0], "function") if kept else done(name, rows, kept)
        expect(name, found, expected)


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_function_is_not_called_again_after_it_has_raised(name):
    """A function that wraps a generator would raise another error in a later call."""

    def raising_slowly(block):
        time.sleep(5e-3)  # meanwhile the other threads wait for the lock
        raise Failure

    rows = Rows(raising_slowly)
    before, last = rows.calls_of(name)
    for nth in (before + 2, (before + last) // 2):
        rows.calls, rows.nth = 0, nth
        of = made(OPERATIONS[name][0], rows, "function")
        with pytest.raises(Failure):
            run(name, of, "function")
        assert rows.calls == nth


@pytest.mark.parametrize("place", ["csr", "h5py", *slow("npy", "blocks")])
def test_nothing_is_left_of_a_read_that_fails(place, tmp_path, monkeypatch):
    A, left = PLACES[place][0](tmp_path), [np.inf]

    def act():
        left[0] -= 1
        if left[0] <= 0:
            raise Failure("this block cannot be had")

    reads("cool" if place == "h5py" else place, monkeypatch, act)

    def check(name):
        of, before = made(OPERATIONS[name][0], A, place), held()
        left[0] = 2
        try:
            with pytest.raises(Failure, match="this block cannot be had"):
                run(name, of, place)
        finally:
            left[0] = np.inf
        nothing_left(before)
        expect(name, run(name, of, place), in_memory(name, place))
        nothing_left(before)

    each(check)


WRONG = {
    "a row too few": (
        lambda block: block[:-1],
        ValueError,
        "A must return rows .* as an array of shape",
    ),
    "a column too few": (
        lambda block: block[:, :-1],
        ValueError,
        "A must return rows .* as an array of shape",
    ),
    "a vector": (
        lambda block: block.ravel(),
        ValueError,
        "A must return rows .* as an array of shape",
    ),
    "another dtype": (
        lambda block: block.astype(np.float32),
        TypeError,
        "A must return float64 for rows",
    ),
    "integers": (lambda block: block.astype(np.int64), TypeError, "A must return float64 for rows"),
    "half precision": (
        lambda block: block.astype(np.float16),
        TypeError,
        "must have a dtype among",
    ),
    "strings": (lambda block: block.astype(str), TypeError, "must have a dtype among"),
    "a masked array": (lambda block: np.ma.masked_less(block, 2), TypeError, "is a masked array"),
    "a sparse block": (scipy.sparse.csr_array, TypeError, "must be a dense array"),
    "None": (lambda block: None, TypeError, "must be a NumPy array"),
    "NaN": (lambda block: block * np.nan, ValueError, "A must be finite"),
    "infinity": (lambda block: block * np.inf, ValueError, "A must be finite"),
}
FIRST = (
    "a column too few",
    "another dtype",
    "integers",
    "NaN",
    "infinity",
)  # in its first call the function may return these, as that call defines A


@pytest.mark.parametrize("wrong", WRONG)
def test_a_function_returns_what_it_should_not(wrong):
    act, error, match = WRONG[wrong]
    rows = Rows(act)

    def check(name):
        before, last = rows.calls_of(name)
        before_all, expected = held(), in_memory(name, "function")
        for nth in sorted(
            {1, 2, before + 2} if name in ("value", "cost", "sums") else {before + 2}
        ):
            if nth == 1 and wrong in FIRST:
                continue
            rows.calls, rows.nth, kept = 0, nth, []
            try:
                with pytest.raises(error, match=match):
                    done(name, rows, kept)
            except BaseException as failure:
                raise AssertionError(
                    f"in call {nth} of {last}, {before} of them before"
                ) from failure
            nothing_left(before_all)
            rows.nth = None
            if kept:
                expect(name, run(name, kept[0], "function"), expected)

    each(check)


def test_a_function_may_return_a_list():
    rows = Rows(lambda block: block.tolist())

    def check(name):
        for nth in {1, 2, rows.calls_of(name)[1]}:
            rows.calls, rows.nth = 0, nth
            of = made(OPERATIONS[name][0], rows, "function")
            expect(name, run(name, of, "function"), in_memory(name, "function"))

    each(check)


# --- Ctrl-C ---------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals are sent the POSIX way")
@pytest.mark.parametrize("name", OPERATIONS)
def test_interrupted_during_a_pass(name, monkeypatch):
    """The pass stops after the blocks under way. No thread is left, and the next call works."""
    monkeypatch.setattr(_budget, "BLOCK", 1)  # a block has one row

    def interrupt(block):
        # Unlike interrupt_main, this wakes a thread that waits.
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.02)
        return block

    rows = Rows(interrupt, slow=0.02)
    first, last = rows.calls_of(name)
    expected, before = in_memory(name, "function"), held()
    for nth in sorted({first + 1, (first + last) // 2, last}):
        rows.calls, rows.nth = 0, nth
        of = made(OPERATIONS[name][0], rows, "function")
        with pytest.raises(KeyboardInterrupt):
            run(name, of, "function")
        assert rows.calls <= nth + WORKERS + 6  # a busy machine delivers a signal late
        nothing_left(before)
        rows.nth = None
        expect(name, run(name, of, "function"), expected)


@pytest.mark.parametrize("name", ["value", "J.T w", "cost"])
def test_an_interrupt_that_a_function_raises_itself(name):
    def interrupt(block):
        raise KeyboardInterrupt

    rows = Rows(interrupt)
    first, _ = rows.calls_of(name)
    rows.calls, rows.nth = 0, first + 2
    of, before = made(OPERATIONS[name][0], rows, "function"), held()
    with pytest.raises(KeyboardInterrupt):
        run(name, of, "function")
    nothing_left(before)
    expect(name, run(name, of, "function"), in_memory(name, "function"))


AGAIN_AND_AGAIN = """
import os, signal, sys, tempfile, threading, time
import numpy as np
from sparsejac import JacobianBuilder
from sparsejac._backends import budget as _budget

_budget.BLOCK = 5 * 60 * 8
np.save(os.path.join(sys.argv[1], "A.npy"), np.ones((60, 60)))
op = JacobianBuilder(os.path.join(sys.argv[1], "A.npy"), workers=2).operator(np.ones(60))
w = np.ones(3600)
expected = op.T @ w


def passes():
    while True:
        op.T @ w


def interrupt(_, frame):
    while frame is not None and frame.f_code is not passes.__code__:
        frame = frame.f_back
    if frame is not None:  # the timer repeats, so it also rings between two calls of passes
        raise KeyboardInterrupt


def held():
    threads, files = (len(os.listdir(f"/proc/self/{what}")) for what in ("task", "fd"))
    return threading.active_count(), threads, files


sys.unraisablehook = lambda _: None  # Python swallows some interrupts; the next comes soon
signal.signal(signal.SIGALRM, interrupt)
time.sleep(0.1)
rng, before, end = np.random.default_rng(0), held(), time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    try:
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 4e-3), 0.05)
        passes()
    except KeyboardInterrupt:
        pass
signal.setitimer(signal.ITIMER_REAL, 0)
right, end = (op.T @ w == expected).all(), time.monotonic() + 5
while any(now > then for now, then in zip(held(), before)) and time.monotonic() < end:
    time.sleep(0.01)  # on a busy machine, the system may still list a thread that has ended
print(right, *(max(now - then, 0) for now, then in zip(held(), before)))
"""


@pytest.mark.skipif(
    not os.path.isdir("/proc/self/fd"), reason="files are counted where Linux lists them"
)
@pytest.mark.parametrize("seconds", ["1", *slow("2")])
def test_interrupted_again_and_again(tmp_path, seconds):
    """Ctrl-C between any two bytecodes leaves no thread and no file."""
    command = [sys.executable, "-c", AGAIN_AND_AGAIN, str(tmp_path), seconds]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("True 0 0 0\n", "")


INTERRUPTED = """
import sys, threading, time
import numpy as np
from sparsejac import JacobianBuilder
from sparsejac._backends import budget as _budget

_budget.BLOCK = 1
A, calls, slow = np.ones((40, 40)), [], [0]


def rows(start, stop):
    calls.append(start)
    if len(calls) == 5 and slow[0]:
        print("now", flush=True)
    time.sleep(slow[0])
    return A[start:stop]


builder = JacobianBuilder(rows, workers=2)
expected = builder.operator(np.ones(40)).T @ np.ones(1600)
calls.clear()
slow[0] = 0.05
try:
    builder.operator(np.ones(40)).T @ np.ones(1600)
except KeyboardInterrupt:
    print("interrupted", len(calls) <= 9, threading.active_count())
slow[0] = 0
print((builder.operator(np.ones(40)).T @ np.ones(1600) == expected).all())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent the POSIX way")
def test_interrupted_by_a_signal():
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "now\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (out, err) == ("interrupted True 1\nTrue\n", "")


OPENED_AND_INTERRUPTED = """
import gc, os, random, signal, sys, threading, time
import numpy as np, scipy.sparse as sp
from sparsejac import JacobianBuilder
from sparsejac.io import read_matrix, write_csr_blocks

folder, S = sys.argv[1], sp.csr_array(np.ones((60, 60)))
write_csr_blocks(folder + "/f", ((r, S[r : r + 9]) for r in range(0, 60, 9)), shape=(60, 60))
np.save(folder + "/A.npy", np.ones((60, 60)))
arrays = []
for name in ("data", "indices", "indptr"):
    np.save(f"{folder}/{name}.npy", getattr(S, name))
    arrays.append(np.load(f"{folder}/{name}.npy", mmap_mode="r"))
M, kept = sp.csr_array(tuple(arrays), shape=(60, 60)), read_matrix(folder + "/f")
opens = [
    lambda: JacobianBuilder(folder + "/f"),
    lambda: JacobianBuilder(folder + "/A.npy"),
    lambda: JacobianBuilder(M, rows="stored"),
    lambda: read_matrix(folder + "/f"),
]
for one in opens:
    one()


def held():
    files = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    return sum(os.readlink(file).startswith(folder) for file in files if os.path.islink(file))


def shoot():
    wait = random.Random(0)
    while not stop:
        time.sleep(wait.uniform(0.0002, 0.006))
        os.kill(os.getpid(), signal.SIGINT)


def interrupted(*_):  # it raises in what is tested alone, and once for each call
    global armed
    if armed:
        armed = False
        raise KeyboardInterrupt


sys.unraisablehook = lambda _: None  # Python swallows some interrupts; the next comes soon
gc.collect()
before, stop, count, end = held(), False, 0, time.monotonic() + float(sys.argv[2])
armed = False
signal.signal(signal.SIGINT, interrupted)
threading.Thread(target=shoot, daemon=True).start()
while count <= 20 or time.monotonic() < end:  # a busy machine takes longer
    try:
        armed = True
        opens[count % len(opens)]()
        armed = False
    except KeyboardInterrupt:
        count += 1
stop = True
time.sleep(0.1)
gc.collect()
print(held() - before, (kept[3:50].toarray() == 1).all())
"""


@pytest.mark.skipif(
    not os.path.isdir("/proc/self/fd"), reason="files are counted where Linux lists them"
)
@pytest.mark.parametrize("seconds", ["1.5", *slow("4")])
def test_interrupted_while_files_are_opened(tmp_path, seconds):
    command = [sys.executable, "-W", "error", "-c", OPENED_AND_INTERRUPTED, str(tmp_path), seconds]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("0 True\n", "")


# A tracer may interrupt before the end of `with`, which no signal does. Python then closes the file
# with a warning.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("place", ["csr", *slow("npy", "blocks")])
def test_interrupted_at_any_line_while_files_are_opened(place, tmp_path, monkeypatch):
    for module in (_numbers, _registry):
        monkeypatch.setattr(module, "_mappings", list)  # a process may have thousands of them
    A, left = PLACES[place][0](tmp_path), [0]
    ours = (_dense.__file__, _numbers.__file__)

    def trace(frame, event, _):
        caller = frame.f_back.f_code.co_filename  # contextlib is traced for our calls only
        if frame.f_code.co_filename not in ours and (frame.f_code.co_filename, caller in ours) != (
            contextlib.__file__,
            True,
        ):
            return None
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
        return trace

    gc.collect()  # what earlier tests left is not closed while this one counts
    before, n, others = held(), 0, sys.gettrace()
    while left[0] <= 0:
        n += 2
        left[0] = n
        sys.settrace(trace)
        try:
            made("builder", A, place)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(others)
        nothing_left(before)
    assert n > 20


# --- no signal ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent the POSIX way")
def test_the_tests_pass_where_sigint_is_ignored():
    """A background job of a script ignores SIGINT."""
    tests = ["test_interrupted_by_a_signal", "test_interrupted_during_a_pass"]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        __file__,
        "-k",
        " or ".join(tests),
    ]
    ignoring = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]
    done = subprocess.run(
        ignoring + command, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, f"{1 + len(OPERATIONS)} passed" in done.stdout) == (0, True), (
        done.stdout
    )


IGNORED = """
import os, signal
import numpy as np
from sparsejac import JacobianBuilder

signal.signal(signal.SIGINT, signal.SIG_IGN)
A, calls = np.ones((40, 40)), []


def rows(start, stop):
    calls.append(start)
    os.kill(os.getpid(), signal.SIGINT)
    return A[start:stop]


total = JacobianBuilder(rows).value(np.ones(40)).sum()
print(total, len(calls) > 1, signal.getsignal(signal.SIGINT) == signal.SIG_IGN)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent the POSIX way")
def test_a_user_may_ignore_ctrl_c():
    done = subprocess.run(
        [sys.executable, "-c", IGNORED], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("1600.0 True True\n", "")


# --- forks ----------------------------------------------------------------------------------------

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here")


def forked(act):
    """Call `act` in a forked child: the result is its exit code, or -SIGALRM if it hangs."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            code = act() or 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def compiled():
    function = {}
    exec("def f(x):\n    return x + 1.5", function)  # noqa: S102  # a new function each time
    numba.njit(function["f"])(2.0)


def shown():
    with (
        open(os.devnull, "w") as nowhere,
        _progress.bar(total=50, mininterval=0, file=nowhere) as bar,
    ):
        for _ in range(50):
            bar.refresh()


@forks
@pytest.mark.parametrize(
    "busy", ["adds", *slow("streams", "compiles", "makes a builder", "opens", "shows a bar")]
)
def test_forked_while_another_thread(busy, tmp_path, monkeypatch):
    """The child can do all that the threads of its parent do."""
    monkeypatch.setattr(_threads, "_INLINE", 0)
    paths = npy(tmp_path), blocks(tmp_path)
    large = scipy.sparse.eye_array(100_000, format="csr")
    in_memory = JacobianBuilder(dense(), workers=WORKERS).operator(x)
    streamed = [JacobianBuilder(path, rows="stored", workers=WORKERS).operator(x) for path in paths]
    acts = {
        "makes a builder": lambda: JacobianBuilder(large, rows="stored"),
        "adds": lambda: in_memory.T @ np.ones(K * K),
        "streams": lambda: [operator.column_norms() for operator in streamed],
        "opens": lambda: (JacobianBuilder(paths[1]), io.read_matrix(paths[1])[3:8]),
        "compiles": compiled,
        "shows a bar": shown,
    }
    for act in acts.values():
        act()
    stop = []

    def work():
        while not stop:
            acts[busy]()

    def all_of_it():
        JacobianBuilder(scipy.sparse.eye_array(3, format="csr"))
        for act in list(acts.values())[1:]:
            act()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for wait in np.random.default_rng(0).uniform(0, 0.02, 8):
            time.sleep(wait)
            assert forked(all_of_it) == 0
    finally:
        stop.append(True)
        for thread in threads:
            thread.join()


IMPORTING = """
import importlib, os, signal, sys, threading, time
import numpy as np
from sparsejac import JacobianBuilder

operator = JacobianBuilder(np.ones((3, 3))).operator(np.ones(3))
thread = threading.Thread(target=lambda: {work})
thread.start()
while "{module}" not in sys.modules:
    time.sleep(1e-3)
child = os.fork()
if child == 0:
    signal.alarm(60)
    os._exit(int((operator @ np.ones(3)).sum()))
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@forks
@pytest.mark.parametrize(
    ("work", "module"),
    [
        ("operator @ np.ones(3)", "numba"),
        *slow(("importlib.import_module('h5py')", "h5py._objects")),
    ],
)
def test_forked_while_another_thread_imports(work, module):
    """The import may need locks that a fork takes as well: those of `logging` and h5py."""
    command = [sys.executable, "-W", "ignore", "-c", IMPORTING.format(work=work, module=module)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    # h5py may register its handlers during the fork. It then releases a lock that it has not taken,
    # and says so.
    assert (done.stdout, "" if "h5py" in done.stderr else done.stderr) == ("18\n", "")


@forks
def test_a_fork_waits_for_locks_and_gives_them_back():
    """Locks that another thread held are free in the child, and later in the parent."""
    compiler = sys.modules["numba.core.compiler_lock"].global_compiler_lock._lock
    from tqdm.std import TqdmDefaultWriteLock

    for lock in (compiler, TqdmDefaultWriteLock.th_lock, _locks.OwnedLock()):
        has = threading.Event()

        def hold(lock=lock, has=has):
            with lock:
                has.set()
                time.sleep(0.2)

        thread = threading.Thread(target=hold)
        thread.start()
        has.wait()

        def takes(lock=lock):
            with lock:
                return 0

        assert forked(takes) == 0
        thread.join()
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(takes).result(10) == 0


@forks
def test_a_turn_belongs_to_the_thread_that_forks():
    turn = _locks.OwnedLock()
    with turn:
        assert turn.owner == threading.get_ident()
        assert forked(lambda: turn.owner == threading.get_ident()) == 1
        with contextlib.ExitStack() as stack:  # it calls __enter__ in another way
            stack.enter_context(turn)
    assert turn.owner == 0
    assert type(pickle.loads(pickle.dumps(turn))) is _locks.OwnedLock


# --- bars -----------------------------------------------------------------------------------------


def test_a_bar_that_cannot_write_keeps_no_lock():
    class Full:
        full = False

        def write(self, _):
            if self.full:
                raise OSError("no space left")

        def flush(self):
            pass

    file = Full()
    bar = _progress.bar(total=5, file=file)
    for act in (bar.refresh, bar.clear):
        file.full = True
        with pytest.raises(OSError, match="no space left"):
            act()
        file.full = False
        with ThreadPoolExecutor(1) as pool:
            pool.submit(shown).result(10)
    bar.close()


def test_the_lock_of_a_bar(monkeypatch):
    """Our bars do not wait for another process, which may have been killed.

    They take a lock that the user has set.
    """
    from tqdm import tqdm
    from tqdm.std import TqdmDefaultWriteLock

    def lock():
        with open(os.devnull, "w") as nowhere, _progress.bar(total=5, file=nowhere) as bar:
            return bar.get_lock()

    own = threading.RLock()
    for theirs, ours in ((TqdmDefaultWriteLock(), TqdmDefaultWriteLock.th_lock), (own, own)):
        monkeypatch.setattr(tqdm, "_lock", theirs, raising=False)
        assert lock() is ours
    monkeypatch.delattr(tqdm, "_lock")
    assert lock() is TqdmDefaultWriteLock.th_lock


# --- no memory ------------------------------------------------------------------------------------


def passes(folder):
    """Yield a map, a reduction and an assembly, in memory and streamed."""
    for A in (dense(), npy(folder), blocks(folder), function(folder)):
        builder = JacobianBuilder(A, rows="stored", workers=WORKERS)
        operator, w = builder.operator(x), np.ones(builder.shape[0])
        yield from (
            lambda J=operator: J @ v,
            lambda J=operator, w=w: J.T @ w,
            lambda b=builder: b.tocsr(x).data,
        )


def right_or_refused(act, expected):
    """Return 0 if the numbers are right, or an error reports a lack of memory."""
    try:
        return int(not (act() == expected).all())
    except (
        MemoryError,
        RuntimeError,
        SystemError,
    ):  # without memory, Python and NumPy may raise the other two
        return 0
    except TypeError as error:  # Python may say that a path it could not convert is no path
        return 0 if "path" in str(error) else 2


@pytest.mark.slow
@forks
def test_any_allocation_may_fail(tmp_path, monkeypatch):
    """The nth allocation of any thread fails. Waiting threads end, and the next call works."""
    testcapi = pytest.importorskip("_testcapi", reason="it makes allocations fail")
    monkeypatch.setattr(_threads, "_INLINE", 0)
    for number, act in enumerate(passes(tmp_path)):
        expected = act()
        for n in range(3 + 5 * number, 500, 61):

            def child(act=act, expected=expected, n=n):
                testcapi.set_nomemory(n, n + 1)
                try:
                    found = right_or_refused(act, expected)
                finally:
                    testcapi.remove_mem_hooks()
                return found or (0 if (act() == expected).all() else 3)

            assert forked(child) == 0, n


PLACES_OF_FAILURE = [
    (_pool._Job, "run"), (_pool._Job, "_take"), (_pool._Job, "_find_lost"),
    (_pool._Job, "_wait"), (_pool._Thread, "lives"),
    (_pool.InOrder, "wait"), (_pool.InOrder, "done"), (_protocol.Reduction, "part"),
    (_pool, "leave_no_record"), (_pool, "_run"), (_pool, "_serve"),
    (_pool, "_taken_lock"), (_numbers, "File"), (_stream_pass, "Buffer"), (_csr, "frozen"),
]  # fmt: skip


@pytest.mark.parametrize(("where", "name"), PLACES_OF_FAILURE)
def test_the_places_of_failure_exist(where, name):
    """Most of the tests below are slow: a function that was moved is missed here at once."""
    assert callable(getattr(where, name))


@forks
@pytest.mark.parametrize(
    ("where", "name"),
    slow_except(
        [
            (_pool._Job, "run"),
            (_pool.InOrder, "wait"),
            (_pool, "_serve"),
            (_numbers, "File"),
        ],
        PLACES_OF_FAILURE,
    ),
    ids=lambda one: getattr(one, "__name__", one),
)
def test_a_function_of_ours_finds_no_memory(where, name, tmp_path, monkeypatch):
    """The function raises MemoryError when it is called, or at its end."""
    monkeypatch.setattr(_threads, "_INLINE", 0)
    for act in list(passes(tmp_path))[:6]:  # those in memory, and those from a file
        expected, function = act(), getattr(where, name)
        for n, afterwards in [(1, False), (2, True)]:

            def child(act=act, expected=expected, function=function, n=n, afterwards=afterwards):
                _pool._forget_threads()
                calls = iter(range(1, 10**9))

                def failing(*args, **kwargs):
                    now = next(calls) == n
                    if now and not afterwards:
                        raise MemoryError
                    found = function(*args, **kwargs)
                    if now:
                        raise MemoryError
                    return found

                setattr(where, name, failing)
                found = right_or_refused(act, expected)
                setattr(where, name, function)
                return found or (0 if (act() == expected).all() else 3)

            assert forked(child) == 0, (n, afterwards)


@forks
def test_a_process_that_gets_no_more_memory(tmp_path, monkeypatch):
    resource = pytest.importorskip("resource", reason="it limits memory")
    if not os.path.isfile("/proc/self/statm"):
        pytest.skip("the size of a process is read from /proc, as on Linux")
    monkeypatch.setattr(_threads, "_INLINE", 0)
    for act in passes(tmp_path):
        expected = act()
        for more in (0, 2**20, 2**23 + 2**16, 2**24 + 2**17):

            def child(act=act, expected=expected, more=more):
                _pool._forget_threads()
                with open("/proc/self/statm") as file:
                    size = int(file.read().split()[0]) * resource.getpagesize()
                soft, hard = resource.getrlimit(resource.RLIMIT_AS)
                resource.setrlimit(resource.RLIMIT_AS, (size + more, hard))
                found = right_or_refused(act, expected)
                resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
                return found or (0 if (act() == expected).all() else 3)

            assert forked(child) == 0, more


def test_threads_that_end_without_having_worked(tmp_path, monkeypatch):
    """A thread that has no memory for its first step ends in this way."""
    monkeypatch.setattr(_threads, "_INLINE", 0)
    monkeypatch.setattr(_pool, "_threads", [])
    in_memory, streamed = (
        JacobianBuilder(A, workers=WORKERS).operator(x) for A in (dense(), npy(tmp_path))
    )
    before = held()
    for name, operator in (("_run", streamed), ("_serve", in_memory)):
        expected = operator.T @ np.ones(K * K)
        with monkeypatch.context() as patch:
            patch.setattr(_pool, "_threads", [])
            patch.setattr(_pool, name, lambda *_: None)
            if name == "_run":
                with pytest.raises(
                    MemoryError,
                    match=r"a thread ended because there was no memory left .* smaller workers=",
                ):
                    operator.T @ np.ones(K * K)
        np.testing.assert_array_equal(operator.T @ np.ones(K * K), expected)
    assert held()[2] == before[2]


def test_no_lock_to_be_had(monkeypatch):
    def no_lock():
        raise RuntimeError("can't allocate lock")

    with monkeypatch.context() as patch:
        patch.setattr(_pool.threading, "Lock", no_lock)
        with pytest.raises(MemoryError, match="there is no memory left for a lock"):
            _pool.InOrder(_pool.CancelFlag()).wait(0)


def test_an_error_is_kept_by_nobody():
    """An error, and what it refers to, is freed without the garbage collector."""

    def failing(_):
        raise Failure

    gc.disable()
    try:
        for run_on in (_pool.on_threads, _pool.on_own_threads):
            try:
                run_on(failing, 4, 2)
            except Failure as error:
                kept = weakref.ref(error)
            for _ in range(100):
                if kept() is None:
                    break
                time.sleep(0.01)  # a thread may still hold its frame
            assert kept() is None
    finally:
        gc.enable()


def test_a_compilation_that_is_interrupted_keeps_no_lock(monkeypatch):
    """Numba takes its lock in Python code, so Ctrl-C may come just after that."""
    from numba.core.compiler_lock import global_compiler_lock

    def interrupted():
        global_compiler_lock._lock.acquire()
        raise error

    for error in (KeyboardInterrupt(), MemoryError()):
        with monkeypatch.context() as patch:
            patch.setattr(global_compiler_lock, "acquire", interrupted)
            kernel = _compile._kernel()(lambda x: x + 1)  # a new kernel, not yet compiled
            with pytest.raises(type(error)):
                kernel(1.0)
        assert not global_compiler_lock._lock._is_owned()
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(global_compiler_lock._lock.acquire, timeout=60).result()
            assert pool.submit(global_compiler_lock._lock.release).result() is None
            assert pool.submit(compiled).result(60) is None
