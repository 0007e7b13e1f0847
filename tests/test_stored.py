"""A CSR matrix as a folder of ``.npy`` files: written block by block, complete or not at all."""

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
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from scipy.sparse.linalg import lsmr
from support import integers, slow

from sparsejac import JacobianBuilder, cli, io
from sparsejac._matrix import csr_folder
from sparsejac._matrix.buffers import Buffer
from sparsejac._matrix.numbers import mapped_file

pytestmark = pytest.mark.usefixtures("dirty_results")

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


def by_numpy(path="J"):
    """The matrix as NumPy and SciPy read it, without this package."""
    data, indices, indptr, shape = (
        np.load(f"{path}/{name}.npy", allow_pickle=False)
        for name in ("data", "indices", "indptr", "shape")
    )
    return scipy.sparse.csr_array((data, indices, indptr), shape=tuple(shape))


@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cuts", [(), (5, 5, 12), tuple(range(1, 23)), (0, 23)])
def test_round_trip(dtype, index, cuts):
    _, found = written(matrix(dtype=dtype, index=index), cuts)
    narrow = matrix(dtype=dtype)  # int64 indices that int32 can hold are written as such
    assert_bits(found, narrow)
    assert_bits(by_numpy(), narrow)
    assert sorted(os.listdir("J")) == ["data.npy", "indices.npy", "indptr.npy", "shape.npy"]
    assert os.listdir() == ["J"]


def test_the_files_are_those_of_numpy():
    """To the byte, whatever the header was while they grew."""
    J, _ = written(matrix(3000, 900), (1000, 2000))
    for name in ("data", "indices", "indptr"):
        np.save("other.npy", getattr(J, name))
        assert Path("other.npy").read_bytes() == Path(f"J/{name}.npy").read_bytes()


def test_what_the_builder_yields():
    builder, x = JacobianBuilder(np.arange(25.0).reshape(5, 5)), np.arange(1.0, 6)
    io.write_csr_blocks("J", builder.iter_csr(x, block_rows=4), shape=builder.shape)
    assert_bits(io.read_matrix("J"), builder.tocsr(x))


def test_a_large_one_is_mapped():
    """SciPy's products, and ours, read it from disk."""
    J, found = written(matrix(40_000, 40_000), (10_000,))
    for name in ("data", "indices", "indptr"):
        path, _ = mapped_file(getattr(found, name))
        assert path == str(Path(f"J/{name}.npy").absolute())
    v = integers((40_000,))
    np.testing.assert_array_equal(found @ v, J @ v)
    np.testing.assert_array_equal(found.T @ v, J.T @ v)
    assert_bits(found[9_000:12_000], J[9_000:12_000])


@pytest.mark.skipif(os.name != "posix", reason="modes as in POSIX")
def test_an_empty_folder_keeps_its_permissions():
    Path("J").mkdir(mode=0o700)
    written()
    assert Path("J").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("m", [0, 3])
@pytest.mark.parametrize("cuts", [(), (0,)])
def test_nothing_in_it(m, cuts):
    J, found = written(scipy.sparse.csr_array((m, 4)), cuts)
    assert_bits(found, J)
    np.testing.assert_array_equal(found @ np.ones(4), np.zeros(m))


def test_no_blocks():
    io.write_csr_blocks("J", [], shape=(0, 4))
    assert_bits(io.read_matrix("J"), scipy.sparse.csr_array((0, 4)))


@pytest.mark.parametrize("piece", [1, 7, 2**20])
def test_indices_become_wider_when_the_entries_are_too_many(monkeypatch, piece):
    """The files that are there are rewritten in place, from their end on."""
    J = matrix(60, 9)

    def dtype(rows, columns, entries):
        return np.dtype(np.int32 if entries < J.nnz // 2 else np.int64)

    monkeypatch.setattr(csr_folder, "index_dtype", dtype)
    monkeypatch.setattr(csr_folder, "_PIECE", piece)
    io.write_csr_blocks("J", cut(J, *range(5, 60, 5)), shape=J.shape)
    for name in ("indices", "indptr"):
        found = np.load(f"J/{name}.npy")
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, getattr(J, name))
    np.testing.assert_array_equal(np.load("J/data.npy"), J.data)


def test_indices_are_int64_from_2_to_the_31_on():
    shape = (2, 2**31)
    J = scipy.sparse.csr_array(([1.0], ([1], [2**31 - 1])), shape=shape)
    io.write_csr_blocks("J", [(0, J)], shape=shape)
    found = io.read_matrix("J")
    assert found.indices.tolist() == [2**31 - 1]
    assert found.indices.dtype == found.indptr.dtype == np.int64


def test_a_solver_takes_it():
    builder, x = JacobianBuilder(np.random.default_rng(0).random((6, 6))), np.arange(1.0, 7)
    io.write_csr_blocks("J", builder.iter_csr(x, block_rows=5), shape=builder.shape)
    step = lsmr(io.read_matrix("J"), builder.value(x), atol=1e-12, btol=1e-12)[0]
    np.testing.assert_allclose(step, x / 2, rtol=1e-8)  # J(x) x = 2 F(x)


@pytest.mark.parametrize("k", [6, 3000])
def test_its_path_is_an_A(k):
    """It is streamed, whether or not its files are large enough to be mapped."""
    A = matrix(k, k)
    A.sum_duplicates()
    written(A, (2, 4), "A")
    x, there = integers((k,)), JacobianBuilder(A, rows="stored")
    for source in ("A", Path("A"), io.read_matrix("A")):
        builder = JacobianBuilder(source, rows="stored")
        np.testing.assert_array_equal(builder.value(x), there.value(x))
    builder = pickle.loads(pickle.dumps(JacobianBuilder("A", rows="stored")))
    np.testing.assert_array_equal(builder.value(x), there.value(x))
    os.truncate("A/data.npy", os.path.getsize("A/data.npy") - 8)
    with pytest.raises(ValueError, match=r"data\.npy has changed since it was handed over as A"):
        builder.value(x)
    with pytest.raises(ValueError, match=r"data\.npy, of A, cannot be read .* it is truncated"):
        JacobianBuilder("A")


def test_an_A_of_another_shape():
    written(scipy.sparse.csr_array(np.ones((23, 7))))
    with pytest.raises(ValueError, match=r"A must be a square matrix, got shape \(23, 7\)"):
        JacobianBuilder("J")
    np.save("J/shape.npy", [7, 7])
    with pytest.raises(ValueError, match="A has an inconsistent csr structure: indptr of 23 rows"):
        JacobianBuilder("J")


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
    assert peak(lambda: io.write_csr_blocks("J", blocks(), shape=shape)) < 2 * block + margin
    assert peak(lambda: io.read_matrix("J")) < 4 * shape[0] + margin
    found, v, w = io.read_matrix("J"), np.ones(each), np.ones(shape[0])
    assert found.nnz == nnz
    assert peak(lambda: found[:rows]) < block + margin
    assert peak(lambda: found @ v) < 8 * shape[0] + margin
    assert peak(lambda: found.T @ w) < margin


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
    total = sum(path.stat().st_size for path in Path("whole").glob("*.npy"))

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
    assert_bits(io.read_matrix("J"), J)


@pytest.mark.parametrize(("function", "steps"), [("os.fsync", 4), ("pathlib.Path.replace", 1)])
def test_any_step_may_fail(monkeypatch, function, steps):
    """Each call in turn: those for the files, and that which gives the folder its name."""
    J = matrix()
    module, _, name = function.rpartition(".")
    real = getattr(sys.modules.get(module, Path), name)
    for n in range(steps):
        calls = []

        def fails(*arguments, n=n, calls=calls, **options):
            calls.append(arguments)
            if len(calls) == n + 1:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*arguments, **options)

        with monkeypatch.context() as patched:
            patched.setattr(function, fails)
            with pytest.raises(OSError, match="J cannot be written: Input/output error"):
                io.write_csr_blocks("J", cut(J, 12), shape=J.shape)
        assert os.listdir() == []


def test_an_error_of_the_blocks_comes_out_as_it_is():
    def failing():
        yield 0, matrix()[:5]
        raise OSError(errno.EIO, "the input is gone")

    with pytest.raises(OSError, match=rf"^\[Errno {errno.EIO}\] the input is gone$"):
        io.write_csr_blocks("J", failing(), shape=(23, 7))
    assert os.listdir() == []


def test_a_file_system_that_cannot_sync_folders(monkeypatch):
    real = os.fsync

    def fsync(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(descriptor)

    monkeypatch.setattr("os.fsync", fsync)
    J, found = written()
    assert_bits(found, J)


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="limits as in POSIX")
def test_a_limit_of_the_system():
    import resource

    J = scipy.sparse.csr_array(np.ones((100, 200)))
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
    assert sorted(os.listdir(left)) == ["data.npy", "indices.npy", "indptr.npy", "shape.npy"]
    with pytest.raises(ValueError, match=rf"{left}.* does not start as an array of NumPy"):
        io.read_matrix(left)
    with pytest.raises(ValueError, match=rf"{left}.*, of A, cannot be read as a \.npy: "):
        JacobianBuilder(left)
    for name in os.listdir(left):
        with pytest.raises((ValueError, EOFError)):  # NumPy's own
            np.load(f"{left}/{name}")
    J, found = written()
    assert_bits(found, J)
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
    J, found = written()
    assert os.path.islink("J")
    assert_bits(found, J)


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
    assert_bits(io.read_matrix("J"), J)


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
    assert_bits(io.read_matrix("J"), first)


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
    assert_bits(io.read_matrix("J"), J)
    assert os.listdir() == ["J"]


# --- folders that are not what was written --------------------------------------------------------


def test_missing():
    with pytest.raises(FileNotFoundError, match="nowhere"):
        io.read_matrix("nowhere.npz")
    os.mkdir("J.npz")
    for read in (io.read_matrix, JacobianBuilder):
        with pytest.raises(
            ValueError,
            match=r"J\.npz is not the folder of a CSR matrix, or not a complete one, as it has no "
            r"data\.npy and no indices\.npy and no indptr\.npy and no shape\.npy: write it anew",
        ):
            read("J.npz")
    written()
    with pytest.raises(ValueError, match=r"is of an unknown format.*a folder of write_csr_blocks"):
        io.read_vector("J")
    os.remove("J/indices.npy")
    with pytest.raises(ValueError, match=r"J is not the folder .* as it has no indices\.npy: "):
        io.read_matrix("J")


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("data", lambda a: a[:-1], "indices and data should have the same size"),
        ("data", lambda a: a.astype("U3"), "its dtype is <U3, which is not numeric"),
        ("data", lambda a: a.reshape(1, -1), "data"),
        ("indices", lambda a: np.where(a == a.max(), 7, a), "indices must be < 7|index .* < 7"),
        ("indices", lambda a: np.where(a == a.max(), -1, a), "ind.* must be >=? 0"),
        ("indices", lambda a: a[1:], "indices and data should have the same size"),
        ("indices", lambda a: a + 0.5, r"indices\.npy must have integers, got float64"),
        ("indptr", lambda a: a[:-1], r"index pointer size \(?23\)? should be \(?24\)?"),
        ("indptr", lambda a: np.r_[a[:9], a[11], a[10:]], "non-decreasing"),
        ("indptr", lambda a: a + 1, "index pointer should start with 0|should be less"),
        ("indptr", lambda a: a.astype(float), r"indptr\.npy must have integers, got float64"),
        ("shape", lambda a: a[:1], ""),
        ("shape", lambda a: -a, "shape"),
        ("shape", lambda a: a[0], "must be a vector"),
        ("shape", lambda a: a.astype(float), r"shape\.npy must have two integers"),
    ],
)
def test_damaged(name, change, words):
    """SciPy would write beyond its arrays, so nothing of this may reach it."""
    written()
    np.save(f"J/{name}.npy", change(np.load(f"J/{name}.npy")))
    with pytest.raises(
        ValueError,
        match=rf"J(/data\.npy cannot| does not hold a CSR matrix).*({words}).*: write it",
    ):
        io.read_matrix("J")


@pytest.mark.parametrize("name", ["data", "indices", "indptr", "shape"])
def test_a_file_that_is_cut_short(name):
    written()
    os.truncate(f"J/{name}.npy", os.path.getsize(f"J/{name}.npy") - 1)
    with pytest.raises(
        ValueError, match=rf"J/{name}\.npy cannot be read as a \.npy: .* truncated: write it anew"
    ):
        io.read_matrix("J")


def test_a_file_that_is_cut_short_while_it_is_read():
    """It is not mapped where the builder reads it, so there is an error and no crash."""
    J, _ = written(scipy.sparse.csr_array(np.ones((9, 9))), (5,))
    data = JacobianBuilder("J")._rows.entries.source.data

    def read_twice():
        with data.opened() as read:
            np.testing.assert_array_equal(read(0, 81, Buffer()), J.data)
            os.truncate("J/data.npy", 128 + 8 * 37)
            read(0, 81, Buffer())

    with pytest.raises(OSError, match=r"data\.npy, of A, ends early, at byte 424: "):
        read_twice()


# --- folders of version 0.1 -----------------------------------------------------------------------


def folder_of_0_1(J, path):
    """What version 0.1 wrote: an archive for each block of rows, and a list of them."""
    os.mkdir(path)
    blocks = []
    for number, (row, block) in enumerate(cut(J, 5, 5, 12)):
        name = f"rows-{number:08d}.npz"
        scipy.sparse.save_npz(f"{path}/{name}", block, compressed=False)
        size = os.path.getsize(f"{path}/{name}")
        blocks.append(
            {
                "file": name,
                "first_row": row,
                "rows": block.shape[0],
                "nnz": block.nnz,
                "bytes": size,
            }
        )
    description = {
        "format": "sparsejac row blocks",
        "version": 1,
        "shape": list(J.shape),
        "nnz": J.nnz,
        "dtype": str(J.dtype),
        "blocks": blocks,
    }
    Path(path, "matrix.json").write_text(json.dumps(description, indent=1))


@pytest.mark.skipif(os.name != "posix", reason="the command is one of a POSIX shell")
@pytest.mark.parametrize("path", ['it\'s, a: "matrix" $of rows=3', *slow("J")])
def test_a_folder_of_version_0_1_is_refused_with_the_command_that_converts_it(
    path, monkeypatch, capsys
):
    J = matrix()
    folder_of_0_1(J, path)
    messages = []
    for read in (io.read_matrix, JacobianBuilder):
        with pytest.raises(
            ValueError,
            match=r"is a matrix in the format of version 0\.1, with matrix\.json, which is not "
            r"read any more: convert it by python -c ",
        ) as raised:
            read(path)
        messages.append(str(raised.value))
    assert cli.main(["check", path]) == 2
    messages.append(capsys.readouterr().err.strip())
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable), prepend=os.pathsep)
    for message in messages:
        command = message.partition("convert it by ")[2]
        subprocess.run(command, shell=True, check=True, timeout=60)
        assert_bits(io.read_matrix(f"{path}-converted"), J)
        shutil.rmtree(f"{path}-converted")
