"""A matrix in a folder of row blocks: written complete or not at all, read back to the bit, and
never a wrong number.
"""

import errno
import gc
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import tracemalloc
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from scipy.sparse.linalg import lsmr
from support import integers

from sparsejac import JacobianBuilder, io
from sparsejac._matrix import stored as _stored
from sparsejac._matrix import stored_files as _stored_files
from sparsejac._operators.stored import StoredCSR

DTYPES = [np.float32, np.float64, np.complex64, np.complex128]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def matrix(m=23, n=7, dtype=np.float64, index=np.int32):
    """With empty rows, unsorted columns, duplicates and a stored zero: whatever CSR can be."""
    rng = np.random.default_rng(m)
    counts = rng.integers(0, 6, m) * (rng.random(m) < 0.7)
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(index)
    values = integers((int(indptr[-1]),), dtype, low=1, high=99)
    values[:1] = 0
    return scipy.sparse.csr_array(
        (values, rng.integers(0, n, indptr[-1]).astype(index), indptr), shape=(m, n)
    )


def cut(J, *cuts):
    bounds = [0, *cuts, J.shape[0]]
    return [(a, J[a:b]) for a, b in pairwise(bounds)]


def written(J=None, cuts=(5, 5, 12), path="J"):
    J = matrix() if J is None else J
    io.write_csr_blocks(path, cut(J, *cuts), shape=J.shape)
    return J, io.read_matrix(path)


def assert_bits(actual, expected):
    assert isinstance(actual, scipy.sparse.csr_array)
    assert actual.shape == expected.shape
    for name in ("data", "indices", "indptr"):
        found, wanted = getattr(actual, name), getattr(expected, name)
        assert found.dtype == wanted.dtype
        assert found.tobytes() == wanted.tobytes()


# --- written and read back ------------------------------------------------------------------------


@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cuts", [(), (5, 5, 12), tuple(range(1, 23)), (0, 23)])
def test_round_trip(dtype, index, cuts):
    J = matrix(dtype=dtype, index=index)
    blocks = cut(J, *cuts)
    io.write_csr_blocks("J", iter(blocks), shape=J.shape)
    stored = io.read_matrix("J")
    assert (stored.shape, stored.nnz, stored.dtype) == (J.shape, J.nnz, J.dtype)
    assert stored.index_dtype == index
    assert stored.path == Path("J").absolute()
    assert_bits(stored[:], J)
    again = list(stored)
    assert [row for row, _ in again] == [row for row, _ in blocks]
    for (_, found), (_, wanted) in zip(again, blocks, strict=True):
        assert_bits(found, wanted)
    assert_bits(stored[:], scipy.sparse.vstack([block for _, block in blocks], format="csr"))
    for number, (_, block) in enumerate(blocks):
        assert_bits(scipy.sparse.load_npz(f"J/rows-{number:08d}.npz"), block)
    assert stored.indptr().dtype == np.int64
    np.testing.assert_array_equal(stored.indptr(), J.indptr)


def test_what_the_builder_yields():
    builder, x = JacobianBuilder(np.arange(25.0).reshape(5, 5)), np.arange(1.0, 6)
    io.write_csr_blocks("J", builder.iter_csr(x, block_rows=4), shape=builder.shape)
    assert_bits(io.read_matrix("J")[:], builder.tocsr(x))
    assert repr(io.read_matrix("J")).startswith(
        "<StoredCSR: 25x5, 45 entries, float64; 7 blocks in '/"
    )


def test_the_manifest():
    J = matrix()
    Path("J").mkdir(mode=0o700)  # an empty folder may be there
    written(J, (5,))
    manifest = json.loads(Path("J/matrix.json").read_text())
    names = ["rows-00000000.npz", "rows-00000001.npz"]
    assert sorted(os.listdir("J")) == ["matrix.json", *names]
    assert os.listdir() == ["J"]
    assert manifest == {
        "format": "sparsejac row blocks",
        "version": 1,
        "shape": [23, 7],
        "nnz": J.nnz,
        "dtype": "float64",
        "blocks": [
            {
                "file": name,
                "first_row": a,
                "rows": b - a,
                "nnz": J[a:b].nnz,
                "bytes": os.path.getsize(f"J/{name}"),
            }
            for name, a, b in zip(names, (0, 5), (5, 23), strict=True)
        ],
    }
    if os.name == "posix":
        assert Path("J").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("m", [0, 3])
@pytest.mark.parametrize("cuts", [(), (0,)])
def test_nothing_in_it(m, cuts):
    J = scipy.sparse.csr_array((m, 4))
    _, stored = written(J, cuts)
    assert_bits(stored[:], J)
    np.testing.assert_array_equal(stored.operator() @ np.ones(4), np.zeros(m))
    np.testing.assert_array_equal(stored.operator().H @ np.ones(m), np.zeros(4))


def test_no_blocks():
    io.write_csr_blocks("J", [], shape=(0, 4))
    stored = io.read_matrix("J")
    assert_bits(stored[:], scipy.sparse.csr_array((0, 4)))
    assert list(stored) == []
    assert stored.dtype == np.float64


def test_slices():
    J, stored = written()
    for rows in (
        slice(3),
        slice(4, 6),
        slice(5, 5),
        slice(9, 2),
        slice(-4, None),
        slice(-99, 99),
        slice(20, 21, 1),
    ):
        found = stored[rows]
        np.testing.assert_array_equal(found.toarray(), J[rows].toarray())
        assert found.shape == J[rows].shape
    for index in (3, (slice(3), slice(3)), [1, 2], None):
        with pytest.raises(TypeError, match="a stored matrix gives slices of its rows"):
            stored[index]
    with pytest.raises(
        IndexError, match="a stored matrix gives rows that follow each other, got a step of -1"
    ):
        stored[::-1]


def test_indices_of_both_kinds_are_read_as_the_wider(monkeypatch):
    J = matrix()
    blocks = cut(J, 5, 12)
    blocks[1] = (5, matrix(index=np.int64)[5:12])
    io.write_csr_blocks("J", blocks, shape=J.shape)
    stored = io.read_matrix("J")
    assert stored.index_dtype == np.int64
    monkeypatch.setattr(_stored, "_CONVERTED", 3)
    assert_bits(stored[:], matrix(index=np.int64))
    out = np.empty(J.nnz, np.int32)
    with (
        stored.open(),
        pytest.raises(
            ValueError, match=r"out must be a writeable, contiguous array of [0-9]+ int64, got"
        ),
    ):
        stored.read("indices", 0, J.nnz, out)


def test_indices_are_int64_from_2_to_the_31_on():
    shape = (2, 2**31)
    io.write_csr_blocks(
        "J", [(0, scipy.sparse.csr_array(([1.0], ([1], [2**31 - 1])), shape=shape))], shape=shape
    )
    stored = io.read_matrix("J")
    assert stored.index_dtype == np.int64
    assert stored[:].indices.tolist() == [2**31 - 1]


# --- parts of its arrays --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_parts_across_blocks(dtype, monkeypatch):
    monkeypatch.setattr(_stored_files, "_PIECE", 5)  # bytes: each read comes short
    J, stored = written(matrix(dtype=dtype))
    with stored.open():
        for start in range(0, J.nnz + 1, 3):
            for stop in range(start, J.nnz + 1, 4):
                for name, expected, kinds in (
                    ("data", J.data, [dtype]),
                    ("indices", J.indices, [np.int32, np.int64]),
                ):
                    for kind in kinds:
                        around = np.full(stop - start + 2, 77, kind)
                        stored.read(name, start, stop, around[1:-1])
                        np.testing.assert_array_equal(around[1:-1], expected[start:stop])
                        assert around[0] == around[-1] == 77


def test_what_cannot_be_read_into():
    J, stored = written()
    out = np.empty(3)
    with pytest.raises(ValueError, match=r"J is not open: read it within `with stored.open\(\):`"):
        stored.read("data", 0, 3, out)
    read_only = np.empty(3)
    read_only.flags.writeable = False
    with stored.open() as opened:
        assert opened is stored
        with pytest.raises(ValueError, match="name must be one of 'data', 'indices', got 'indptr'"):
            stored.read("indptr", 0, 3, out)
        for start, stop in ((-1, 2), (2, 1), (0, J.nnz + 1)):
            with pytest.raises(IndexError, match="entries must be 0 <= start <= stop <= "):
                stored.read("data", start, stop, out)
        for bad in (
            np.empty(4),
            np.empty(3, np.float32),
            np.empty(6)[::2],
            np.empty((3, 1)),
            read_only,
            [0, 0, 0],
        ):
            with pytest.raises(
                ValueError, match="out must be a writeable, contiguous array of 3 float64, got"
            ):
                stored.read("data", 0, 3, bad)
        with pytest.raises(
            ValueError,
            match=r"array of 3 int32 or int64, got numpy.ndarray of float64 and shape \(3,\): pass "
            r"numpy\.empty",
        ):
            stored.read("indices", 0, 3, out)


def descriptors():
    return set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()


@pytest.mark.parametrize("held", [0, 1, 128])
def test_files_are_opened_when_needed_and_closed_at_the_end(monkeypatch, held):
    monkeypatch.setattr(_stored, "_HELD", held)
    J, stored = written()
    out = np.empty(J.nnz)
    before = descriptors()
    with stored.open():
        assert len(stored._held) == 0
        stored.read("data", 0, 1, out[:1])
        assert len(stored._held) == min(held, 1)
        with stored.open():  # the end of the inner one closes nothing
            stored.read("data", 0, J.nnz, out)
        assert len(stored._held) == min(held, 3)  # one block is empty
        stored.close()
        assert stored._held == {}
        stored.read("data", 0, J.nnz, out)
    np.testing.assert_array_equal(out, J.data)
    with pytest.raises(IndexError), stored.open():
        stored.read("data", 0, J.nnz + 1, out)
    assert stored._held == {}
    assert descriptors() == before


def test_threads_at_once(monkeypatch):
    monkeypatch.setattr(_stored, "_HELD", 2)
    monkeypatch.setattr(_stored, "_CONVERTED", 16)
    J, stored = written(matrix(400, 30), range(20, 400, 20))
    wrong = []

    def work(seed):
        rng = np.random.default_rng(seed)
        try:
            for _ in range(40):
                start, stop = np.sort(rng.integers(0, J.nnz + 1, 2)).tolist()
                data, indices = np.empty(stop - start), np.empty(stop - start, np.int64)
                with stored.open():
                    stored.read("data", start, stop, data)
                    stored.read("indices", start, stop, indices)
                assert (data == J.data[start:stop]).all()
                assert (indices == J.indices[start:stop]).all()
        except BaseException as error:  # noqa: BLE001
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert stored._held == {}


def test_a_pickle_reads_the_same_files(folder, monkeypatch):
    J, stored = written()
    with stored.open():
        stored.read("data", 0, 1, np.empty(1))
        again = pickle.loads(pickle.dumps(stored))
        operator = pickle.loads(pickle.dumps(stored.operator()))
    assert again._held == {}
    monkeypatch.chdir("/")
    assert_bits(again[:], J)
    np.testing.assert_array_equal(operator @ np.ones(7), J @ np.ones(7))
    shutil.rmtree(folder / "J")
    with pytest.raises(ValueError, match="has changed since it was opened"):
        again[:]


# --- its products ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_products(dtype):
    J, stored = written(matrix(dtype=dtype))
    op, dense = stored.operator(), J.toarray()
    assert (op.shape, op.dtype) == (J.shape, J.dtype)
    for kind in {np.float64, dtype}:
        for columns in ((), (1,), (3,), (0,)):
            v, w = integers((7, *columns), kind), integers((23, *columns), kind)
            for product, exact in (
                (op @ v, dense @ v),
                (op.H @ w, dense.conj().T @ w),
                (op.T @ w, dense.T @ w),
            ):
                np.testing.assert_array_equal(product, exact)
                assert product.dtype == np.result_type(dtype, kind)
    np.testing.assert_array_equal(
        op.rmatmat(integers((23, 2), dtype)), dense.conj().T @ integers((23, 2), dtype)
    )


def test_sums_over_blocks_are_in_double_precision():
    J = scipy.sparse.csr_array(np.float32([[2**24], [1], [1], [-(2**24)]]))
    _, stored = written(J, (1, 2, 3))
    assert stored.operator().H @ np.ones(4, np.float32) == [2]


def test_a_solver_takes_it():
    builder, x = JacobianBuilder(np.random.default_rng(0).random((6, 6))), np.arange(1.0, 7)
    io.write_csr_blocks("J", builder.iter_csr(x, block_rows=5), shape=builder.shape)
    step = lsmr(io.read_matrix("J").operator(), builder.value(x), atol=1e-12, btol=1e-12)[0]
    np.testing.assert_allclose(step, x / 2, rtol=1e-8)  # J(x) x = 2 F(x)


def peak(function):
    gc.collect()
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_memory_is_that_of_one_block():
    rows, each, count = 10_000, 8, 10
    block = rows * (each * 12 + 4)
    margin = 200_000

    def blocks():
        for number in range(count):
            indptr = np.arange(0, rows * each + 1, each, dtype=np.int32)
            indices = np.tile(np.arange(each, dtype=np.int32), rows)
            yield (
                number * rows,
                scipy.sparse.csr_array((np.ones(rows * each), indices, indptr), shape=(rows, each)),
            )
            del indptr, indices

    shape, nnz = (rows * count, each), rows * count * each
    chunk = rows * each * 8  # NumPy copies up to 16 MiB at a time, and so all of a small array
    assert (
        peak(lambda: io.write_csr_blocks("J", blocks(), shape=shape))
        < block + chunk + 4 * rows + margin
    )
    stored = io.read_matrix("J")
    assert peak(lambda: io.read_matrix("J")) < margin
    assert peak(stored.indptr) < 8 * shape[0] + 2**19 + margin
    reading = block + 8 * rows + 2**19 + margin
    assert (
        peak(lambda: [None for _ in stored]) < 2 * block + reading
    )  # the caller's, beside the next
    assert peak(lambda: stored[:rows]) < reading
    op, v, w = stored.operator(), np.ones(each), np.ones(shape[0])
    assert peak(lambda: op @ v) < 8 * shape[0] + reading + 8 * rows
    assert peak(lambda: op.H @ w) < reading
    out = np.empty(nnz)
    indices = np.empty(nnz, np.int64)

    def read():
        with stored.open():
            stored.read("data", 0, nnz, out)
            stored.read("indices", 0, nnz, indices)

    assert peak(read) < 2**19 + margin


def test_rows_that_do_not_fit(monkeypatch):
    _, stored = written()
    monkeypatch.setattr("sparsejac._validation.LARGE", 0)
    monkeypatch.setattr("sparsejac._system.machine.available_memory", lambda: 300)
    with pytest.raises(
        MemoryError,
        match=r"23 rows of .*J would take .*: take a smaller slice of rows, or operator\(\)",
    ):
        stored[:]
    assert stored[:2].shape == (2, 7)


# --- complete or absent ---------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("there", [True, False])
def test_an_exception_in_the_iterator(error, there):
    J = matrix()
    pieces = cut(J, 5, 12)
    if there:
        os.mkdir("J")

    def failing(n):
        for number, piece in enumerate(pieces):
            if number == n:
                raise error("on the way")
            yield piece
        raise error("at the end")

    for n in range(len(pieces) + 1):
        with pytest.raises(error, match=r"on the way|at the end"):
            io.write_csr_blocks("J", failing(n), shape=J.shape)
        assert os.listdir() == (["J"] if there else [])
        assert not there or os.listdir("J") == []


def test_a_disk_that_fills_at_any_byte():
    J = matrix()
    written(J, (12,), "whole")
    total = sum(path.stat().st_size for path in Path("whole").glob("*.npz"))

    class Full:
        left = 0

        def __init__(self, file):
            self.file = file

        def write(self, data):
            Full.left -= len(data)
            if Full.left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(data)

        def __getattr__(self, name):
            return getattr(self.file, name)

    for room in range(0, total, 97):
        Full.left = room
        with pytest.raises(OSError, match="No space left on device"):
            io.write_csr_blocks("J", cut(J, 12), shape=J.shape, wrap=Full)
        assert os.listdir() == ["whole"]
    Full.left = 2 * total
    io.write_csr_blocks("J", cut(J, 12), shape=J.shape, wrap=Full)
    assert_bits(io.read_matrix("J")[:], J)


@pytest.mark.parametrize("function", ["os.fsync", "pathlib.Path.replace", "json.dumps"])
def test_any_step_may_fail(monkeypatch, function):
    """Each call in turn: the files', the manifest's, and that which gives the folder its name."""
    J = matrix()
    module, _, name = function.rpartition(".")
    real = getattr(sys.modules.get(module, Path), name)
    steps = {
        "os.fsync": (0, 2, 4),
        "pathlib.Path.replace": range(4),
        "json.dumps": (0,),
    }  # a folder's fsync may fail
    for n in steps[function]:
        calls = []

        def fails(*arguments, n=n, calls=calls, **options):
            calls.append(arguments)
            if len(calls) == n + 1:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*arguments, **options)

        with monkeypatch.context() as patched:
            patched.setattr(function, fails)
            with pytest.raises(OSError, match="Input/output error"):
                io.write_csr_blocks("J", cut(J, 12), shape=J.shape)
        assert os.listdir() == []


def test_a_file_system_that_cannot_sync_folders(monkeypatch):
    real = os.fsync

    def fsync(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(descriptor)

    monkeypatch.setattr("os.fsync", fsync)
    J, stored = written()
    assert_bits(stored[:], J)


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="limits as in POSIX")
def test_a_limit_of_the_system():
    import resource

    J = scipy.sparse.csr_array(np.ones((100, 100)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            io.write_csr_blocks("J", cut(J, 10), shape=J.shape)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir() == []


KILLED = """
import os, signal
import scipy.sparse
from sparsejac import io

def blocks():
    for row in range(3):
        yield row, scipy.sparse.eye_array(1, 4, format="csr")
    os.kill(os.getpid(), signal.SIGKILL)

io.write_csr_blocks("J", blocks(), shape=(4, 4))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals as in POSIX")
def test_a_process_that_is_killed():
    done = subprocess.run([sys.executable, "-c", KILLED], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    (left,) = os.listdir()
    assert left.startswith(".J.")
    assert left.endswith(".part")
    assert sorted(os.listdir(left)) == [f"rows-{number:08d}.npz" for number in range(3)]
    with pytest.raises(
        ValueError,
        match=r"has no matrix\.json, so it is not a matrix of row blocks, or not a complete one",
    ):
        StoredCSR(left)
    with pytest.raises(ValueError, match=r"and by read_matrix a folder with its matrix\.json"):
        io.read_matrix(left)
    J, stored = written()
    assert_bits(stored[:], J)
    assert sorted(os.listdir()) == [left, "J"]  # another process might still write to it


def never():
    raise AssertionError("a block was asked for")
    yield


def test_outputs_that_cannot_be(monkeypatch):
    Path("file").write_text("precious")
    os.mkdir("full")
    Path("full/thing").write_text("precious")
    for name in ("file", "full", "/"):
        with pytest.raises(
            ValueError,
            match=f"the output {name} is there already, .*: remove it, or choose another name",
        ):
            io.write_csr_blocks(name, never(), shape=(1, 1))
    with pytest.raises(ValueError, match=r"the folder of the output nowhere/J does not exist"):
        io.write_csr_blocks("nowhere/J", never(), shape=(1, 1))
    for shape in (None, 3, (1, 2, 3)):
        with pytest.raises(
            ValueError,
            match=r"shape must be \(m, n\), that of the whole matrix, got .*: pass builder\.shape",
        ):
            io.write_csr_blocks("J", never(), shape=shape)
    with pytest.raises(TypeError, match=r"shape must be an integer, 0 or more, got 2\.5"):
        io.write_csr_blocks("J", never(), shape=(1, 2.5))
    with pytest.raises(ValueError, match="shape must be an integer, 0 or more, got -1"):
        io.write_csr_blocks("J", never(), shape=(-1, 2))
    os.mkdir("disk")
    monkeypatch.setattr("os.path.ismount", lambda path: path == Path("disk"))
    with pytest.raises(
        ValueError, match=r"the output disk is there already, .* on which no disk is mounted"
    ):
        io.write_csr_blocks("disk", never(), shape=(1, 1))
    monkeypatch.setattr("os.access", lambda *_: False)  # permission bits do not stop root
    with pytest.raises(ValueError, match="the folder of the output J is not writable"):
        io.write_csr_blocks("J", never(), shape=(1, 1))
    assert sorted(os.listdir()) == ["disk", "file", "full"]


def test_a_link_stays_one():
    os.mkdir("target")
    os.symlink("target", "J")
    J, stored = written()
    assert os.path.islink("J")
    assert_bits(stored[:], J)


def test_blocks_that_are_not_the_rows_of_one_matrix():
    J = matrix(6, 3)
    inconsistent = J[:6].copy()
    inconsistent.indices[-1] = 3
    for blocks, words in [
        (
            [(0, J[:2]), (3, J[3:])],
            "row 2 is next, but a block begins at row 3: yield them in the order of their rows",
        ),
        ([(0, J[:2]), (1, J[1:])], "row 2 is next, but a block begins at row 1"),
        ([(1, J)], "row 0 is next, but a block begins at row 1"),
        (
            [(0, J[:2]), (2, J[2:, :2].tocsr())],
            r"the one at row 2 has shape \(4, 2\): pass the shape of the whole",
        ),
        (
            [(0, J), (6, J)],
            r"blocks must be rows of a matrix of shape \(6, 3\), but the one at row 6 has shape",
        ),
        (
            [(0, J[:2]), (2, J[2:5])],
            r"blocks must cover all 6 rows, as shape is \(6, 3\), but they end before row 5",
        ),
        ([], "blocks must cover all 6 rows"),
        (
            [(0, J[:2]), (2, J[2:].astype(np.float32))],
            "one dtype, float64 as the first, but the one at row 2 has float32",
        ),
        ([(0, J.tocsc())], "got int and scipy.csc_array: yield "),
        (
            [(0, J.toarray())],
            "blocks must yield pairs of a first row and a CSR matrix, .* got int and numpy.ndarray",
        ),
        ([J], "got scipy.csr_array: yield "),
        ([(0.0, J)], "got float and scipy.csr_array"),
        ([(0, J, 1)], "got int and scipy.csr_array and int"),
        ([(0, inconsistent)], "blocks must be consistent matrices, but the one at row 0 is not"),
    ]:
        with pytest.raises(ValueError, match=words):
            io.write_csr_blocks("J", blocks, shape=(6, 3))
        assert os.listdir() == []


def test_numpy_integers_and_matrices_of_the_old_kind():
    J = matrix()
    blocks = [(np.int64(row), scipy.sparse.csr_matrix(block)) for row, block in cut(J, 5)]
    io.write_csr_blocks("J", blocks, shape=tuple(np.array(J.shape)))
    assert_bits(io.read_matrix("J")[:], J)


# --- folders that are not what was written --------------------------------------------------------


def test_missing():
    with pytest.raises(FileNotFoundError, match="nowhere"):
        StoredCSR("nowhere")
    Path("file").write_text("")
    with pytest.raises(NotADirectoryError, match="file"):
        StoredCSR("file")
    os.mkdir("J.npz")
    with pytest.raises(IsADirectoryError, match=r"J\.npz"):
        io.read_matrix("J.npz")
    written()
    with pytest.raises(ValueError, match="is of an unknown format"):
        io.read_vector("J")


def edit(change):
    description = json.loads(Path("J/matrix.json").read_text())
    change(description)
    Path("J/matrix.json").write_text(json.dumps(description))


def test_a_manifest_that_is_none():
    written()
    content = Path("J/matrix.json").read_bytes()
    for text in (b"", b"\xff\xfe", b"[" * 100_000, b"[]", b"7", b"{}", b"null", content[:-9]):
        Path("J/matrix.json").write_bytes(text)
        with pytest.raises(
            ValueError,
            match=r"matrix\.json does not describe a matrix of row blocks .*: write it anew, with",
        ):
            io.read_matrix("J")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(format="other"), "its format is 'other', and 'sparsejac row blocks' is read"),
        (lambda d: d.update(version=2), "its version is 2, and 1 is read"),
        (lambda d: d.update(shape=[23]), "not enough values"),
        (lambda d: d.update(shape=[22, 7]), "its blocks have 23 rows and .* entries, and the matrix 22 and "),
        (lambda d: d.update(shape=[23.0, 7]), "23.0 is not a count"),
        (lambda d: d.update(nnz=-1), "-1 is not a count"),
        (lambda d: d.update(nnz=1), "entries, and the matrix 23 and 1"),
        (lambda d: d.update(dtype="object"), "its dtype is object, which is not numeric"),
        (lambda d: d.update(dtype="nonsense"), "nonsense"),
        (lambda d: d.update(dtype=None), "None"),
        (lambda d: d.update(blocks=3), "not iterable"),
        (lambda d: d["blocks"].pop(), "its blocks have 12 rows"),
        (lambda d: d["blocks"][0].pop("rows"), "'rows'"),
        (lambda d: d["blocks"][2].update(first_row=6), "the block at row 5 is said to begin at row 6"),
        (lambda d: d["blocks"][1].update(nnz=1), "the block at row 5 is said to begin at row 5 and to have 0 rows"),
        (lambda d: d["blocks"][0].update(file="../x.npz"), "'../x.npz' is not in the folder"),
        (lambda d: d["blocks"][0].update(file=3), "TypeError"),
    ],
)  # fmt: skip
def test_a_manifest_that_is_wrong(change, words):
    written()
    edit(change)
    with pytest.raises(
        ValueError, match=rf"J/matrix\.json does not describe .*{words}.*: write it anew"
    ):
        io.read_matrix("J")


def replaced(name, J, *, save=None, **members):
    """A file of another matrix, whose size the manifest knows."""
    path = f"J/{name}"
    if save is not None:
        save(path)
    elif members:
        whole = {
            "data": J.data,
            "indices": J.indices,
            "indptr": J.indptr,
            "shape": J.shape,
            "format": b"csr",
        }
        whole = {key: value for key, value in {**whole, **members}.items() if value is not None}
        np.savez(path, **whole)
    else:
        scipy.sparse.save_npz(path, J, compressed=False)
    edit(
        lambda d: [b.update(bytes=os.path.getsize(path)) for b in d["blocks"] if b["file"] == name]
    )


def padded(path):
    """An archive whose member is longer than its array."""
    J = matrix()[:5]
    with zipfile.ZipFile(path, "w") as archive:
        for key, value in {"format": b"csr", "shape": J.shape, "data": J.data}.items():
            with archive.open(f"{key}.npy", "w") as member:
                np.lib.format.write_array(member, np.asanyarray(value))
                member.write(b"more")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda J: os.remove("J/rows-00000000.npz"), "is missing"),
        (lambda J: os.truncate("J/rows-00000000.npz", 99), "has 99 bytes, and [0-9]+ were written"),
        (lambda J: (os.remove("J/rows-00000000.npz"), os.mkdir("J/rows-00000000.npz")), "has [0-9]+ bytes, and "),
        (lambda J: replaced("rows-00000000.npz", J[:4]), r"its shape is \[4, 7\] and not \[5, 7\]"),
        (lambda J: replaced("rows-00000000.npz", J[:5, :3].tocsr()), r"its shape is \[5, 3\]"),
        (lambda J: replaced("rows-00000000.npz", J[:5].tocsc()), "its format is b'csc' and not b'csr'"),
        (lambda J: replaced("rows-00000000.npz", J[8:13]), r"data.npy has shape .* and dtype float64, not "),
        (lambda J: replaced("rows-00000000.npz", J[:5].astype(np.float32)), "dtype float32, not .* and float64"),
        (lambda J: replaced("rows-00000000.npz", J[:5], indptr=np.zeros(5, np.int32)), r"indptr.npy has shape \(5,\)"),
        (lambda J: replaced("rows-00000000.npz", J[:5], indices=J[:5].indices.astype(np.int16)), "indices.npy has .* int16"),
        (lambda J: replaced("rows-00000000.npz", J[:5], indices=None), "indices.npy"),
        (lambda J: replaced("rows-00000000.npz", J, save=lambda path: scipy.sparse.save_npz(path, J[:5])),
         "data.npy is compressed, and only what is not can be read in parts"),
        (lambda J: replaced("rows-00000000.npz", J, save=padded), "data.npy is longer or shorter than its array"),
        (lambda J: replaced("rows-00000000.npz", J, save=lambda path: Path(path).write_bytes(b"nonsense")), "zip"),
    ],
)  # fmt: skip
def test_a_block_that_is_another(change, words):
    J, _ = written()
    change(J)
    with pytest.raises(
        ValueError, match=rf"J/rows-00000000\.npz .*{words}.*: write it anew, with sparsejac.io"
    ):
        io.read_matrix("J")


def read_in_parts(stored):
    data, indices = np.empty(stored.nnz), np.empty(stored.nnz, np.int64)
    with stored.open():
        for start in range(0, stored.nnz, 4):
            stop = min(start + 4, stored.nnz)
            stored.read("data", start, stop, data[start:stop])
            stored.read("indices", start, stop, indices[start:stop])
    return scipy.sparse.csr_array(
        (data, indices.astype(np.int32), stored.indptr().astype(np.int32)), shape=stored.shape
    )


@pytest.mark.parametrize(
    "read",
    [lambda s: s[:], lambda s: next(iter(s))[1], read_in_parts],
    ids=["rows", "blocks", "parts"],
)
def test_damaged_anywhere(read):
    """A changed byte is an error of ours when it is opened or read, or no number depends on it."""
    J, _ = written(matrix(6, 3), ())
    path = Path("J/rows-00000000.npz")
    content = path.read_bytes()
    refused = 0
    for place in range(0, len(content), 3):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x41]) + content[place + 1 :])
        try:
            found = read(io.read_matrix("J"))
        except ValueError as error:
            assert "write it anew" in str(error)  # noqa: PT017
            refused += 1
        else:
            assert_bits(found, J)
    assert refused > 100


def test_each_piece_of_an_array_has_a_checksum(monkeypatch):
    """Only the pieces that are read are compared, whole ones and those of which a part is wanted."""
    monkeypatch.setattr(_stored_files, "CHECKED", 32)
    J, stored = written(matrix(60, 7), (20,))
    for start in range(0, J.nnz, 3):
        for stop in range(start, J.nnz + 1, 5):
            for name, expected in (("data", J.data), ("indices", J.indices)):
                for dtype in {expected.dtype, np.dtype(np.float64 if name == "data" else np.int64)}:
                    out = np.empty(stop - start, dtype)
                    with stored.open():
                        stored.read(name, start, stop, out)
                    np.testing.assert_array_equal(out, expected[start:stop])
    path = Path("J/rows-00000000.npz")
    place = stored._blocks[0].members["data"][0] + 8 * 9  # in the third piece of four numbers
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    again, out = io.read_matrix("J"), np.empty(8)
    with again.open():
        again.read("data", 0, 8, out)
        again.read("data", 12, 20, out)
        for start in (1, 4, 8, 11):
            with pytest.raises(
                ValueError,
                match=r"rows-00000000\.npz is damaged: the checksum of its data from byte [0-9]+ "
                r"on is another than was written: write it",
            ):
                again.read("data", start, start + 8, out)


def test_a_damaged_folder_beside_a_product_and_in_the_builder():
    A = scipy.sparse.csr_array(np.arange(1.0, 26).reshape(5, 5))
    io.write_csr_blocks("A", [(0, A)], shape=A.shape)
    stored = io.read_matrix("A")
    place, path = stored._blocks[0].members["data"][0] + 8 * 7, Path("A/rows-00000000.npz")
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    for use in (
        lambda: io.read_matrix("A").operator() @ np.ones(5),
        lambda: io.read_matrix("A").operator().H @ np.ones(5),
        lambda: JacobianBuilder("A", rows="stored").value(np.ones(5)),
    ):
        with pytest.raises(
            ValueError, match=r"rows-00000000\.npz is damaged: the checksum of its data"
        ):
            use()


def test_checksums_that_are_none():
    J, _ = written()
    replaced(
        "rows-00000000.npz",
        J[:5],
        data_crc32=np.zeros(3, np.uint32),
        indices_crc32=np.zeros(1),
        indptr_crc32=np.zeros(1),
    )
    with pytest.raises(
        ValueError, match=r"it has checksums of uint32 and shape \(3,\) for [0-9]+ bytes"
    ):
        io.read_matrix("J")


def test_a_folder_of_version_0_1_has_no_checksums():
    J, _ = written(cuts=(5,))
    for name, part in (("rows-00000000.npz", J[:5]), ("rows-00000001.npz", J[5:])):
        replaced(name, part)
    stored = io.read_matrix("J")
    assert all(block.checksums == {} for block in stored._blocks)
    assert_bits(stored[:], J)
    np.testing.assert_array_equal(stored.operator() @ np.ones(7), J @ np.ones(7))


def test_two_writers_to_one_folder():
    """The first to end wins; the other is told so, and takes nothing away."""
    first, second = matrix(), matrix(9, 4)

    def meanwhile():
        yield 0, second[:4]
        written(first, (5,), "J")
        yield 4, second[4:]

    with pytest.raises(
        ValueError, match=r"the output .*J is there already, .*: remove it, or choose another name"
    ):
        io.write_csr_blocks("J", meanwhile(), shape=second.shape)
    assert os.listdir() == ["J"]
    assert_bits(io.read_matrix("J")[:], first)


def test_many_writers_to_one_folder():
    results = []
    start = threading.Barrier(4)

    def work(number):
        J = matrix(20 + number, 3 + number)
        start.wait()
        try:
            io.write_csr_blocks("J", cut(J, 5), shape=J.shape)
            results.append(J)
        except ValueError as error:
            results.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (J,) = (result for result in results if not isinstance(result, ValueError))
    assert all("is there already" in str(result) for result in results if result is not J)
    assert_bits(io.read_matrix("J")[:], J)
    assert os.listdir() == ["J"]


def test_pointers_and_columns_are_looked_at_before_they_are_used():
    J, _ = written(cuts=(5,))
    good = J[:5]
    for name, place, value, words in [
        ("indptr", 0, 1, "has row pointers that do not ascend from 0 to"),
        ("indptr", -1, 1, "has row pointers that do not ascend from 0 to"),
        ("indptr", 2, 2**30, "has row pointers that do not ascend from 0 to"),
        ("indptr", 2, -1, "has row pointers that do not ascend from 0 to"),
        ("indices", 1, 7, "has columns outside 0 … 6 in rows "),
        ("indices", 1, -1, "has columns outside 0 … 6 in rows "),
    ]:
        array = getattr(good, name).copy()
        array[place] = value
        replaced("rows-00000000.npz", good, **{name: array})
        stored = io.read_matrix("J")
        for read in (
            lambda s: s[:],
            lambda s: s[:4],
            lambda s: s[1:5],
            list,
            lambda s: s.operator() @ np.ones(7),
        ):
            try:
                read(stored)
            except ValueError as error:
                assert words.strip() in str(error)  # noqa: PT017
            else:  # that part of it may be right
                assert read is not list
        with pytest.raises(ValueError, match=words):
            stored[:]
    np.testing.assert_array_equal(stored[5:].toarray(), J[5:].toarray())


# --- folders that change while they are open ------------------------------------------------------


def truncated(path):
    os.truncate(path, os.path.getsize(path) // 2)


def overwritten(path):
    content = Path(path).read_bytes()
    before = os.stat(path).st_mtime_ns
    Path(path).write_bytes(content)
    os.utime(path, ns=(before + 10**9, before + 10**9))  # coarse clocks are not what is tested


def exchanged(path):
    status = os.stat(path)
    shutil.copy2(path, "copy")
    os.replace("copy", path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


CHANGES = [truncated, overwritten, exchanged, os.remove]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("inside", [False, True])
def test_a_file_that_changes_before_it_is_read(change, inside):
    J, stored = written()
    path = "J/rows-00000003.npz"
    words = r"J/rows-00000003\.npz has changed since it was opened .*: open it anew, as by read_matrix\('/.*J'\)"
    out = np.empty(J.nnz)
    if inside:  # it is opened when it is needed
        with stored.open():
            stored.read("data", 0, 1, out[:1])
            change(path)
            with pytest.raises(ValueError, match=words):
                stored.read("data", 0, J.nnz, out)
    else:
        change(path)
    for use in (
        lambda: stored[:1],
        stored.indptr,
        lambda: next(iter(stored)),
        lambda: stored.operator() @ np.ones(7),
    ):
        with pytest.raises(ValueError, match=words):
            use()
    assert stored._held == {}


def test_a_file_that_is_cut_short_while_it_is_read():
    J, stored = written()
    out = np.empty(J.nnz)
    with stored.open():
        stored.read("data", 0, J.nnz, out)
        os.truncate("J/rows-00000002.npz", 120)
        with pytest.raises(
            OSError,
            match=r"rows-00000002\.npz ends at byte [0-9]+, earlier than when it was opened",
        ):
            stored.read("data", 0, J.nnz, out)


def test_a_file_that_is_removed_while_it_is_read_is_read_to_its_end():
    J, stored = written()
    out = np.empty(J.nnz)
    with stored.open():
        stored.read("data", 0, J.nnz, out)
        shutil.rmtree("J")
        out[:] = 0
        stored.read("data", 0, J.nnz, out)
    np.testing.assert_array_equal(out, J.data)
