"""Files: each format read as it is, each broken one refused with its name, each output complete or absent."""

import errno
import gzip
import os

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from support import toarray

from sparsejac import io, jacobian


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_formats(folder):
    B = np.array([[1.0, 0], [2, 3]])
    S = scipy.sparse.csr_array(B)
    np.save("a.npy", B)
    np.save("large.npy", np.ones((200, 200), order="F"))
    np.savez("one.npz", A=B)
    scipy.sparse.save_npz("s.npz", S)
    scipy.io.mmwrite("d.mtx", B)
    scipy.io.mmwrite("s.mtx", scipy.sparse.coo_matrix(S))
    (folder / "s2.mtx.gz").write_bytes(gzip.compress((folder / "s.mtx").read_bytes()))
    for name in ("a.npy", "one.npz", "s.npz", "d.mtx", "s.mtx", "s2.mtx.gz"):
        np.testing.assert_array_equal(toarray(io.read_matrix(name)), B)
    assert isinstance(io.read_matrix("large.npy"), np.memmap)
    assert io.read_matrix("s.npz").format == "csr"


def test_symmetric_pattern_and_complex_matrix_market(folder):
    (folder / "p.mtx").write_text("%%MatrixMarket matrix coordinate pattern symmetric\n3 3 2\n2 1\n3 3\n")
    np.testing.assert_array_equal(io.read_matrix("p.mtx").toarray(), [[0, 1, 0], [1, 0, 0], [0, 0, 1]])
    (folder / "c.mtx").write_text("%%MatrixMarket matrix coordinate complex general\n2 2 1\n2 1 1.5 -2\n")
    np.testing.assert_array_equal(io.read_matrix("c.mtx").toarray(), [[0, 0], [1.5 - 2j, 0]])


@pytest.mark.parametrize("shape", [(3,), (3, 1), (1, 3)])
def test_vectors(folder, shape):
    x = np.arange(3.0)
    np.save("x.npy", x.reshape(shape))
    np.savez("x.npz", x=x.reshape(shape))
    names = ["x.npy", "x.npz"]
    if len(shape) == 2:
        scipy.io.mmwrite("x.mtx", x.reshape(shape))
        scipy.sparse.save_npz("xs.npz", scipy.sparse.csr_matrix(x.reshape(shape)))
        names += ["x.mtx", "xs.npz"]
    for name in names:
        np.testing.assert_array_equal(io.read_vector(name), x)


def test_neither_matrix_nor_vector(folder):
    np.save("t.npy", np.ones((2, 2, 2)))
    np.save("m.npy", np.ones((2, 3)))
    np.save("v.npy", np.ones(3))
    with pytest.raises(ValueError, match=r"t.npy does not hold a matrix: its array has shape \(2, 2, 2\)"):
        io.read_matrix("t.npy")
    with pytest.raises(ValueError, match=r"v.npy does not hold a matrix: its array has shape \(3,\)"):
        io.read_matrix("v.npy")
    with pytest.raises(ValueError, match=r"m.npy does not hold a vector: its array has shape \(2, 3\)"):
        io.read_vector("m.npy")


def test_missing_and_unknown(folder):
    with pytest.raises(FileNotFoundError, match=r"none\.npy"):
        io.read_matrix("none.npy")
    (folder / "folder.npy").mkdir()
    with pytest.raises(IsADirectoryError, match=r"folder\.npy"):
        io.read_matrix("folder.npy")
    for name in ("a.txt", "a", "a.csv"):
        (folder / name).write_text("1 2\n")
        with pytest.raises(ValueError, match=f"{name} is of an unknown format: Matrix Market .* are read"):
            io.read_matrix(name)


FORMATS = ["a.npy", "large.npy", "one.npz", "s.npz", "s.mtx", "s.mtx.gz"]


@pytest.fixture
def good(folder):
    B = np.arange(1.0, 10).reshape(3, 3)
    np.save("a.npy", B)
    np.save("large.npy", np.ones((200, 200)))
    np.savez("one.npz", A=B)
    scipy.sparse.save_npz("s.npz", scipy.sparse.csr_array(B))
    scipy.io.mmwrite("s.mtx", scipy.sparse.coo_matrix(B))
    (folder / "s.mtx.gz").write_bytes(gzip.compress((folder / "s.mtx").read_bytes()))
    return folder


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_truncated(good, name, part):
    content = (good / name).read_bytes()
    (good / name).write_bytes(content[: int(part * len(content))])
    with pytest.raises(ValueError, match=f"{name} (cannot be read: |cannot be read as Matrix Market|is empty)"):
        io.read_matrix(name)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "content", [b"\x00\xff nonsense \n" * 50, b"%%MatrixMarket matrix nonsense\n", b"\x1f\x8b\x08\x00 nonsense"]
)
def test_of_another_format(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} cannot be read"):
        io.read_matrix(name)


def test_archives_and_arrays_with_the_others_name(good):
    (good / "z.npy").write_bytes((good / "one.npz").read_bytes())
    (good / "a.npz").write_bytes((good / "a.npy").read_bytes())
    with pytest.raises(ValueError, match=r"z\.npy cannot be read.*name it \.npz"):
        io.read_matrix("z.npy")
    with pytest.raises(ValueError, match=r"a\.npz cannot be read.*it is no archive; name it \.npy"):
        io.read_matrix("a.npz")
    np.savez("two.npz", a=np.eye(2), b=np.eye(2))
    with pytest.raises(ValueError, match=r"two\.npz cannot be read.*one array was expected, it has 2: a, b"):
        io.read_matrix("two.npz")


def test_pickles_are_not_opened(folder):
    np.save("o.npy", np.array([[object()]], dtype=object), allow_pickle=True)
    np.savez("o.npz", a=np.array([[1]], dtype=object))
    for name in ("o.npy", "o.npz"):
        with pytest.raises(ValueError, match=f"{name} cannot be read.*allow_pickle"):
            io.read_matrix(name)


# --- writing --------------------------------------------------------------------------------------------------------


def test_written_and_read_back(folder):
    J = jacobian(np.arange(9.0).reshape(3, 3), [1.0, 2, 3])
    io.write_csr("J.npz", J)
    again = scipy.sparse.load_npz("J.npz")
    assert isinstance(again, scipy.sparse.csr_array)
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(again, name), getattr(J, name))
        assert getattr(again, name).dtype == getattr(J, name).dtype
    assert os.listdir() == ["J.npz"]


@pytest.mark.parametrize("there", [True, False])
def test_a_disk_that_fills_leaves_what_was_there(folder, there):
    if there:
        (folder / "J.npz").write_bytes(b"precious")

    class Full:
        def __init__(self, file):
            self.file, self.left = file, 300

        def write(self, data):
            self.left -= len(data)
            if self.left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(data)

        def __getattr__(self, name):
            return getattr(self.file, name)

    with pytest.raises(OSError, match="No space left on device"):
        io.write_csr("J.npz", jacobian(np.eye(20), np.ones(20)), wrap=Full)
    assert os.listdir() == (["J.npz"] if there else [])
    if there:
        assert (folder / "J.npz").read_bytes() == b"precious"


def test_outputs_that_cannot_be(folder):
    J = jacobian(np.eye(2), [1, 2])
    with pytest.raises(ValueError, match=r"the output must end in \.npz, got J\.mat"):
        io.write_csr("J.mat", J)
    with pytest.raises(ValueError, match=r"the folder of the output nowhere/J\.npz does not exist"):
        io.write_csr("nowhere/J.npz", J)
    (folder / "d.npz").mkdir()
    with pytest.raises(ValueError, match=r"the output d\.npz is a folder"):
        io.write_csr("d.npz", J)
    assert sorted(os.listdir()) == ["d.npz"]


def test_a_folder_that_is_not_writable(folder, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)  # permission bits do not stop root
    with pytest.raises(ValueError, match=r"the folder of the output J\.npz is not writable"):
        io.write_csr("J.npz", jacobian(np.eye(2), [1, 2]))


@pytest.mark.skipif(os.name != "posix", reason="links and modes as in POSIX")
def test_a_link_stays_one_and_a_mode_is_kept(folder):
    (folder / "target.npz").write_bytes(b"old")
    (folder / "target.npz").chmod(0o600)
    (folder / "J.npz").symlink_to("target.npz")
    io.write_csr("J.npz", jacobian(np.eye(2), [1, 2]))
    assert (folder / "J.npz").is_symlink()
    assert scipy.sparse.load_npz("target.npz").shape == (4, 2)
    assert (folder / "target.npz").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("kind", ["general", "array", "pattern"])
def test_matrix_market_cut_anywhere(folder, kind, zipped):
    """SciPy's reader crashes the process on a last line that does not end, and reads 5 where 5.97 was cut."""
    B = np.array([[1.5, 0, -2e-3], [0, 3.25, 0], [0, 0, 12345.6789]])
    sparse = scipy.sparse.coo_matrix(B if kind == "general" else B != 0)
    scipy.io.mmwrite("full.mtx", B if kind == "array" else sparse, field="pattern" if kind == "pattern" else None)
    content = (folder / "full.mtx").read_bytes()
    name = "cut.mtx.gz" if zipped else "cut.mtx"
    for end in range(1, len(content)):
        (folder / name).write_bytes(gzip.compress(content[:end]) if zipped else content[:end])
        with pytest.raises(ValueError, match=f"{name} cannot be read"):
            io.read_matrix(name)
    (folder / name).write_bytes(gzip.compress(content) if zipped else content)
    np.testing.assert_array_equal(toarray(io.read_matrix(name)), toarray(sparse) if kind == "pattern" else B)
    (folder / name).write_bytes(gzip.compress(content[:-1]) if zipped else content[:-1])
    with pytest.raises(
        ValueError, match="its last line does not end, so it may be truncated: if it is complete, add a newline"
    ):
        io.read_matrix(name)


def test_damaged_headers(good):
    """What the readers raise on these is not a ValueError: here it is."""
    content = (good / "a.npy").read_bytes()
    (good / "a.npy").write_bytes(content.replace(b"}", b" ", 1))
    (good / "text.npy").write_text("1 2 3\n")
    archive = bytearray((good / "one.npz").read_bytes())
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        archive[archive.index(signature) + offset] = 93  # a method of compression that Python has not
    (good / "one.npz").write_bytes(archive)
    for name, words in [
        ("a.npy", ""),
        ("one.npz", "compression"),
        ("text.npy", "it does not start as an array of NumPy does"),
    ]:
        with pytest.raises(ValueError, match=f"{name} cannot be read as .*{words}"):
            io.read_matrix(name)


def test_a_matrix_that_does_not_fit_is_not_a_broken_file(good, monkeypatch):
    def full(*_, **__):
        raise MemoryError("no room")

    monkeypatch.setattr("numpy.load", full)
    with pytest.raises(MemoryError, match="no room"):
        io.read_matrix("a.npy")
