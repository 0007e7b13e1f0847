"""Files that were changed at random, for each reader: see `fuzzing`."""

import importlib.util
import io
import os
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.sparse
from fuzz_changes import array_file
from fuzz_readers import MARKER, READERS, Bomb, array_bytes

from sparsejac import JacobianBuilder, cool
from sparsejac.io import read_matrix, read_vector, write_csr_blocks

FUZZING = Path(__file__).with_name("fuzzing.py")
LONG = 100_000  # inputs of a reader
QUICK = ["npz", "mtx", "folder", "bed"]  # one of a kind


def fuzzed(*arguments, timeout=600):
    """How many inputs were refused and read."""
    path = filter(None, [str(FUZZING.parents[1]), os.environ.get("PYTHONPATH")])
    done = subprocess.run(
        [sys.executable, str(FUZZING), *map(str, arguments)],
        check=False,
        timeout=timeout,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
    )
    assert done.returncode == 0, done.stderr[-5000:]
    found = re.findall(r"^.*: (\d+) refused, (\d+) read$", done.stdout, re.MULTILINE)
    return [(int(refused), int(read)) for refused, read in found]


def test_a_few_changed_files_of_each_kind(tried):
    found = fuzzed(*QUICK, "--runs", 60)
    assert len(found) == len(QUICK)
    for refused, read in found:
        assert refused > 5
        assert read > 5
    tried("files changed at random", sum(map(sum, found)))


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_changed_files(name, tried):
    ((refused, read),) = fuzzed(name, "--runs", 1000, "--seed", 5)
    assert refused > 100
    assert read > 50
    tried("files changed at random", refused + read)


@pytest.mark.long
@pytest.mark.parametrize("name", READERS)
def test_many_changed_files(name, tried):
    """Those that reach new lines of the reader are kept and changed further, by libFuzzer."""
    guided = ["--guided"] if importlib.util.find_spec("atheris") else []
    ((refused, read),) = fuzzed(name, "--runs", LONG, "--seed", 9, *guided, timeout=10_000)
    assert refused + read >= LONG
    tried(f"files changed at random{', guided by coverage' if guided else ''}", refused + read)


# --- nothing in a file ever runs code -------------------------------------------------------------


def archive(method=zipfile.ZIP_STORED, **members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as written:
        for name, content in members.items():
            written.writestr(f"{name}.npy", content)
    return file.getvalue()


def objects():
    """Bytes that make a file when they are unpickled, as arrays and as bare pickles."""
    return array_bytes(np.array([[Bomb(), 1.0]], object), allow_pickle=True), pickle.dumps(Bomb())


def sparse_members():
    A = scipy.sparse.csr_array(np.eye(3))
    arrays = {"data": A.data, "indices": A.indices, "indptr": A.indptr, "shape": A.shape}
    arrays |= {"format": b"csr", "_is_array": True}
    return {name: array_bytes(np.asanyarray(array)) for name, array in arrays.items()}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_bomb_goes_off(here):
    """Otherwise the tests below would show nothing."""
    for content in objects():
        with pytest.raises(FileNotFoundError):
            MARKER.unlink()
        if content.startswith(b"\x80"):
            pickle.loads(content)  # this is what the readers must not do
        else:
            np.load(io.BytesIO(content), allow_pickle=True)
        MARKER.unlink()


@pytest.mark.parametrize("kind", [0, 1])
def test_no_array_is_unpickled(here, kind):
    content = objects()[kind]
    members = sparse_members()
    Path("A.npy").write_bytes(content)
    Path("A.npz").write_bytes(archive(A=content))
    names = ["A.npy", "A.npz"]
    for name in members:
        Path(f"{name}.npz").write_bytes(archive(**{**members, name: content}))
        Path(name).mkdir()
        for part in ("data", "indices", "indptr", "shape"):
            Path(name, f"{part}.npy").write_bytes(content if part == name else members[part])
        names += [
            f"{name}.npz",
            *([name] if name in ("data", "indices", "indptr", "shape") else []),
        ]
    for suffix in (".mtx", ".mtx.gz", ".npz", ".cool", ".matrix", ".bed"):
        Path(f"pickle{suffix}").write_bytes(content)
        names.append(f"pickle{suffix}")
    for name in names:
        for read in (read_matrix, read_vector, JacobianBuilder, cool.read, cool.balance):
            with pytest.raises((ValueError, OSError, TypeError)):
                read(name)
            assert not MARKER.exists(), (name, read)
    assert len(names) > 15


@pytest.mark.parametrize("place", ["pixels/count", "chroms/name", "bins/start", "storage-mode"])
def test_no_column_is_unpickled(here, place):
    """HDF5 has no objects of Python. A file of PyTables has pickles as opaque bytes."""
    Path("A.cool").write_bytes(READERS["cool"].seeds()[2][0])
    with h5py.File("A.cool", "r+") as file:
        if place == "storage-mode":
            file.attrs[place] = np.void(pickle.dumps(Bomb()))
        else:
            size = file[place].size
            del file[place]
            file[place] = np.full(size, np.void(pickle.dumps(Bomb())))
    for read in (cool.read, cool.balance):
        with pytest.raises(
            ValueError, match=rf"A\.cool .*{place}|A\.cool is not stored as the upper"
        ):
            read("A.cool")
        assert not MARKER.exists()


def test_no_name_in_an_archive_is_a_path(here):
    """Nothing is extracted, whatever the members are called."""
    Path("inside").mkdir()
    os.chdir("inside")
    for name in ("../x", "/tmp/../x", "..\\x", "x/../../y"):
        Path("A.npz").write_bytes(archive(**{name: array_bytes(np.eye(2))}))
        np.testing.assert_array_equal(read_matrix("A.npz"), np.eye(2))
    assert [path.name for path in here.rglob("*")] == ["inside", "A.npz"]


# --- a small file does not take much memory -------------------------------------------------------


def announced(size, method, *, packed=None):
    """A .npz of some bytes whose directory announces an array of `size` bytes."""
    header = array_file("<f8", (size // 8, 1), b"")
    content = bytearray(archive(method, A=header))
    place = content.rindex(b"PK\1\2") + 20
    struct.pack_into("<I", content, place + 4, len(header) + size)
    if packed is not None:
        struct.pack_into("<I", content, place, packed)
    return bytes(content)


@pytest.mark.parametrize("packed", [None, 2**31])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_sizes_that_an_archive_cannot_hold(here, method, packed, monkeypatch):
    """They are refused before memory is asked for."""
    monkeypatch.setattr("numpy.empty", None)
    Path("A.npz").write_bytes(announced(2**31, method, packed=packed))
    with pytest.raises(
        ValueError,  # Python 3.13 notices that the member would reach into the directory
        match=r"A\.npz .*( bytes cannot hold the 21\d+ that were announced|possible zip bomb)",
    ):
        read_matrix("A.npz")


def test_an_archive_that_expands_beyond_memory(here, monkeypatch):
    """Bzip2 can expand a byte to a million."""
    Path("A.npz").write_bytes(announced(2**31, zipfile.ZIP_BZIP2))
    monkeypatch.setattr("sparsejac._system.machine.available_memory", lambda: 2**30)
    with pytest.raises(
        MemoryError, match=r"the array 'A' would take 21.* are available: take a small"
    ):
        read_matrix("A.npz")


def test_a_sparse_vector_that_is_too_long(here):
    A = scipy.sparse.coo_array(([1.0], ([0], [3])), shape=(1, 2**50))
    scipy.sparse.save_npz("x.npz", A)
    assert read_matrix("x.npz").shape == A.shape
    with pytest.raises(
        MemoryError, match=r"the vector in x\.npz would take .* leave out variables"
    ):
        read_vector("x.npz")


# --- what the fuzz has found ----------------------------------------------------------------------


@pytest.fixture
def folder(here):
    write_csr_blocks("J", [(0, scipy.sparse.csr_array(np.eye(3)))], shape=(3, 3))
    return lambda name, array: np.save(f"J/{name}.npy", array)


@pytest.mark.parametrize("read", [read_matrix, JacobianBuilder])
@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        (
            "indptr",
            [0, 1, 2, -(2**63)],
            "index pointer values must form a non-decreasing sequence from 0 to|rise from 0",
        ),
        ("indptr", [0, 1, 2, 2**32 + 3], "should be less than|rise from 0 to the 3"),
        (
            "indptr",
            [0, 2, 1, 0],
            "index pointer values must form a non-decreasing sequence from 0 to|rise from 0",
        ),
        ("indptr", np.zeros(0, int), "index pointer size|rise from 0 to the 3"),
        ("shape", [3, 3, 3], r"two integers, the numbers of rows and columns, got \[3, 3, 3\]"),
        ("shape", [3.0, 3.0], r"two integers.*got \[3.0, 3.0\] \(float64\): write it anew"),
        ("shape", np.array([3, 2**63], np.uint64), "two integers"),
        ("shape", [[3, 3]], r"shape\.npy must be a vector, got shape \(1, 2\)"),
        ("data", [[1.0, 1.0, 1.0]], "should be 1-D|data.npy must be a vector"),
        ("data", np.ones(3, np.float16), "data.npy has float16|data must have a dtype|float16"),
    ],
)
def test_damaged_folders(folder, read, name, array, words):
    folder(name, array)
    with pytest.raises((ValueError, TypeError), match=words):
        read("J")


@pytest.mark.parametrize("end", [-1, -(2**31), 0])
def test_a_last_pointer_that_is_not_positive(end):
    """SciPy's check_format does not look at such a structure, and its routines crash."""
    A = scipy.sparse.bsr_array(np.eye(4), blocksize=(2, 2))
    A.indptr[-1] = end
    with pytest.raises(ValueError, match="A has an inconsistent bsr structure: indptr must start"):
        JacobianBuilder(A)


def test_a_mirrored_number_that_is_not_finite(here):
    """The negative of inf + 1j has the imaginary part -1, but (inf + 1j) (-1) has NaN."""
    first = "%%MatrixMarket matrix coordinate complex skew-symmetric\n2 2 1\n"
    Path("A.mtx").write_text(f"{first}2 1 inf 1\n")
    np.testing.assert_array_equal(
        read_matrix("A.mtx").data, [complex(np.inf, 1), complex(-np.inf, -1)]
    )


def test_an_attribute_that_is_an_array(here):
    Path("A.cool").write_bytes(READERS["cool"].seeds()[2][0])
    with h5py.File("A.cool", "r+") as file:
        file.attrs["storage-mode"] = np.ones(300)
    with pytest.raises(
        ValueError, match=r"A\.cool is not stored as the upper .*, but as array.{80}"
    ):
        cool.read("A.cool")


def test_a_byte_order_mark_that_is_cut(here):
    for text in (b"\xef", b"\xef\xbb", b"\xef\xbb\xbfx"):
        Path("A.bed").write_bytes(text)
        with pytest.raises(ValueError, match=r"A\.bed, line 1: each line of a BED file"):
            READERS["bed"].read()


def test_long_names_in_messages(here):
    Path("A.bed").write_text("x" * 5000 + " 1 2\n")
    with pytest.raises(ValueError, match=r"it has x{40}…, and the map has a, b"):
        READERS["bed"].read()
    Path("A.npz").write_bytes(archive(**{f"a\n{i}": array_bytes(np.eye(2)) for i in range(20)}))
    with pytest.raises(ValueError, match=r"one array was expected, it has 20: 'a\\n0', .*, …$"):
        read_matrix("A.npz")
    content = archive(A=array_bytes(np.eye(2)), B=array_bytes(np.eye(3)))
    Path("A.npz").write_bytes(content.replace(b"B.npy", b"A.npy"))
    with pytest.raises(ValueError, match="it has two arrays of one name: write it anew"):
        read_matrix("A.npz")


def test_an_error_that_quotes_the_file(here):
    content = archive(A=array_bytes(np.eye(9)))
    at = content.index(b"PK\3\4") + 26  # the length of the name in front of the member
    Path("A.npz").write_bytes(content[:at] + b"\xff\0" + content[at + 2 :])
    with pytest.raises(ValueError, match=r"^A\.npz cannot be read as .{630,680}…$"):
        read_matrix("A.npz")


@pytest.mark.parametrize("read", [read_matrix, JacobianBuilder])
def test_a_length_that_is_a_boolean(here, read):
    Path("A.npy").write_bytes(array_file("<f8", (True, 1), bytes(8)))
    with pytest.raises(ValueError, match=r"header is damaged \(its shape is \(True, 1\)\)"):
        read("A.npy")


def test_diagonals_of_a_matrix_that_is_too_large_for_int64(here):
    A = {"format": b"dia", "shape": [2**63 - 1, 4], "data": [[1.0]], "offsets": [0]}
    np.savez("A.npz", **A)
    with pytest.raises(ValueError, match=r"its 'shape' must have a sum below 2\*\*63"):
        read_matrix("A.npz")


@pytest.mark.parametrize("size", [3, 300])
def test_a_header_that_python_2_wrote(here, size):
    """Its integers end in L. NumPy's load would warn of it."""
    B = np.arange(float(size**2)).reshape(size, size)
    content = array_bytes(B).replace(
        f"({size}, {size}), }}  ".encode(), f"({size}L, {size}L), }}".encode()
    )
    Path("A.npy").write_bytes(content)
    np.testing.assert_array_equal(read_matrix("A.npy"), B)
    assert isinstance(read_matrix("A.npy"), np.memmap) == (size == 300)
