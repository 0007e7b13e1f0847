"""Files: each format read as it is, each broken one refused with its name, each output complete or
absent.
"""

import contextlib
import errno
import gzip
import os
import pickle
import re
import signal
import stat
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from support import slow, toarray

from sparsejac import JacobianBuilder, cli, io, jacobian
from sparsejac._matrix import market_faults as _market_faults
from sparsejac._matrix import matrix_market as _matrix_market
from sparsejac._matrix import registry as _registry
from sparsejac._system import outputs


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
    (folder / "p.mtx").write_text(
        "%%MatrixMarket matrix coordinate pattern symmetric\n3 3 2\n2 1\n3 3\n"
    )
    np.testing.assert_array_equal(
        io.read_matrix("p.mtx").toarray(), [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    )
    (folder / "c.mtx").write_text(
        "%%MatrixMarket matrix coordinate complex general\n2 2 1\n2 1 1.5 -2\n"
    )
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
    with pytest.raises(
        ValueError, match=r"t.npy does not hold a matrix: its array has shape \(2, 2, 2\)"
    ):
        io.read_matrix("t.npy")
    with pytest.raises(
        ValueError, match=r"v.npy does not hold a matrix: its array has shape \(3,\)"
    ):
        io.read_matrix("v.npy")
    with pytest.raises(
        ValueError, match=r"m.npy does not hold a vector: its array has shape \(2, 3\)"
    ):
        io.read_vector("m.npy")


def test_missing_and_unknown(folder):
    with pytest.raises(FileNotFoundError, match=r"none\.npy"):
        io.read_matrix("none.npy")
    (folder / "folder.npy").mkdir()
    with pytest.raises(ValueError, match=r"folder\.npy is not the folder of a CSR matrix"):
        io.read_matrix("folder.npy")
    with pytest.raises(IsADirectoryError, match=r"folder\.npy"):
        io.read_vector("folder.npy")
    for name in ("a.txt", "a", "a.csv"):
        (folder / name).write_text("1 2\n")
        with pytest.raises(
            ValueError, match=f"{name} is of an unknown format: Matrix Market .* are read"
        ):
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
    with pytest.raises(
        ValueError, match=f"{name} (cannot be read: |cannot be read as Matrix Market|is empty)"
    ):
        io.read_matrix(name)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "content",
    [
        b"\x00\xff nonsense \n" * 50,
        b"%%MatrixMarket matrix nonsense\n",
        b"\x1f\x8b\x08\x00 nonsense",
    ],
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
    with pytest.raises(
        ValueError, match=r"a\.npz cannot be read.*it is not an archive; name it \.npy"
    ):
        io.read_matrix("a.npz")
    np.savez("two.npz", a=np.eye(2), b=np.eye(2))
    with pytest.raises(
        ValueError, match=r"two\.npz cannot be read.*one array was expected, it has 2: 'a', 'b'"
    ):
        io.read_matrix("two.npz")


def test_pickles_are_not_opened(folder):
    np.save("o.npy", np.array([[object()]], dtype=object), allow_pickle=True)
    np.savez("o.npz", a=np.array([[1]], dtype=object))
    for name in ("o.npy", "o.npz"):
        with pytest.raises(ValueError, match=f"{name} cannot be read.*allow_pickle"):
            io.read_matrix(name)


# --- writing --------------------------------------------------------------------------------------


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
    """SciPy's reader crashes the process on a last line that does not end, and reads 5 where 5.97
    was cut.
    """
    B = np.array([[1.5, 0, -2e-3], [0, 3.25, 0], [0, 0, 12345.6789]])
    sparse = scipy.sparse.coo_matrix(B if kind == "general" else B != 0)
    scipy.io.mmwrite(
        "full.mtx", B if kind == "array" else sparse, field="pattern" if kind == "pattern" else None
    )
    content = (folder / "full.mtx").read_bytes()
    name = "cut.mtx.gz" if zipped else "cut.mtx"
    for end in range(1, len(content)):
        (folder / name).write_bytes(gzip.compress(content[:end]) if zipped else content[:end])
        with pytest.raises(ValueError, match=f"{name} cannot be read"):
            io.read_matrix(name)
    (folder / name).write_bytes(gzip.compress(content) if zipped else content)
    np.testing.assert_array_equal(
        toarray(io.read_matrix(name)), toarray(sparse) if kind == "pattern" else B
    )
    (folder / name).write_bytes(gzip.compress(content[:-1]) if zipped else content[:-1])
    with pytest.raises(
        ValueError,
        match="its last line does not end, so it may be truncated: if it is complete, add a "
        "newline",
    ):
        io.read_matrix(name)


def test_damaged_headers(good):
    """What the readers raise on these is not a ValueError: here it is."""
    content = (good / "a.npy").read_bytes()
    (good / "a.npy").write_bytes(content.replace(b"}", b" ", 1))
    (good / "text.npy").write_text("1 2 3\n")
    archive = bytearray((good / "one.npz").read_bytes())
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        archive[archive.index(signature) + offset] = (
            93  # a method of compression that Python has not
        )
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

    monkeypatch.setattr("numpy.frombuffer", full)
    with pytest.raises(MemoryError, match="no room"):
        io.read_matrix("a.npy")


# --- the lines of a Matrix Market file ------------------------------------------------------------


def market(text, header="matrix coordinate real general", name="m.mtx"):
    """Read a file of this text; a text of one line is the only entry of a 1×1 matrix."""
    if isinstance(text, str):
        kind = header.split()[1]
        text = (
            text
            if "\n" in text
            else f"1 1 1\n1 1 {text}\n"
            if kind == "coordinate"
            else f"1 1\n{text}\n"
        )
        text = f"%%MatrixMarket {header}\n{text}".encode()
    with open(name, "wb") as file:
        file.write(gzip.compress(text) if name.endswith(".gz") else text)
    return toarray(io.read_matrix(name))


def raw(text):
    return ("%%MatrixMarket " + text).encode()


REAL = [
    "1.5",
    "+1.5",
    "-1.5",
    ".5",
    "-.5",
    "+.5",
    "5.",
    "5.e2",
    "1e3",
    "1E+3",
    "1e-3",
    "1e+03",
    "001.50",
    "1" * 40,
    "1e-999",
    "-0",
]
FORTRAN = ["2.5D+03", "2.5d-10", "1D3", "-.5d+00", "+5.D0", "1.23D-02"]
SPECIAL = ["inf", "-inf", "+inf", "Infinity", "-INFINITY", "nan", "NaN", "-nan"]
NO_NUMBER = [
    "2.5+3",
    "2,5",
    "0x1p3",
    "1e",
    "1e+",
    "e5",
    ".",
    "-",
    "+-1",
    "--1",
    "1.2.3",
    "1_0",
    "1f",
    "1.5D",
    "1e3.5",
    "1 2",
    "in",
    "infin",
    # Fmt: skip.
    "1..",
    "1;",
    "(1,2)",
    "1e5x",
    "one",
    "1D+03D",
    "1\0",
    "\u0661",
    "%1",
    "''",
]


@pytest.mark.parametrize("kind", ["coordinate", "array"])
@pytest.mark.parametrize("name", ["m.mtx", "m.mtx.gz"])
def test_numbers(folder, kind, name):
    for field in ("real", "double", "REAL"):
        for text in REAL + FORTRAN + SPECIAL:
            found = market(text, f"matrix {kind} {field} general", name)
            np.testing.assert_array_equal(found, [[float(re.sub("[dD](?=[-+0-9])", "e", text))]])
            assert found.dtype == np.float64
    for texts in (REAL, FORTRAN):
        for a, b in zip(texts, texts[::-1], strict=True):
            found = market(f"{a} {b}", f"matrix {kind} complex general", name)
            assert found == complex(*(float(text.lower().replace("d", "e")) for text in (a, b)))
    for text in ("0", "7", "+7", "-7", "9223372036854775807", "-9223372036854775808", "007"):
        found = market(text, f"matrix {kind} integer general", name)
        assert found.dtype == np.int64
        assert found == int(text)
    assert (
        market("18446744073709551615", f"matrix {kind} unsigned-integer general", name) == 2**64 - 1
    )


@pytest.mark.parametrize("kind", ["coordinate", "array"])
def test_what_is_no_number(folder, kind):
    cases = [("real", "a real number", text) for text in NO_NUMBER]
    cases += [
        ("complex", "two real numbers", text) for text in [*REAL[:3], "1.5 2,5", "1 2 3", "1 0x1"]
    ]
    cases += [
        ("integer", "an integer", text)
        for text in ["1e3", "3.7", "3.0", "1D3", "1 2", "inf", "0x10", "+-3", "1,000"]
    ]
    cases += [("unsigned-integer", "an integer without a sign", text) for text in ["-5", "1.0"]]
    line = 3
    for field, words, text in cases:
        with pytest.raises(
            ValueError,
            match=rf"m\.mtx cannot be read .*: line {line}, .*, must be .*{words}, as the header "
            rf"says",
        ):
            market(text, f"matrix {kind} {field} general")
    if kind == "coordinate":
        for text in ("7", "1.5", "1 2"):
            with pytest.raises(
                ValueError,
                match=r"line 3, '1 1 .*', must be a row and a column, as .* \(coordinate pattern\)",
            ):
                market(text, f"matrix {kind} pattern general")


@pytest.mark.parametrize(
    "line",
    ["1", "1 1", "a 1 1", "1 b 1", "+1 1 1", "1.0 1 1", "-1 1 1", "1,1,1", "1 1\t", "1 1 1 %"],
)
def test_lines_that_are_no_entries(folder, line):
    text = f"2 2 3\n1 1 1\n{line}\n2 2 1\n"
    with pytest.raises(
        ValueError,
        match=rf"line 4, {re.escape(repr(line.strip()))}, must be a row, a column and a real "
        rf"number, as",
    ):
        market(text)


@pytest.mark.parametrize("block", [1, 7, 30, 2**18])
def test_blanks_comments_and_ends_of_lines(folder, block, monkeypatch):
    monkeypatch.setattr(_matrix_market, "_BLOCK", block)
    lines = [
        "% a comment",
        "",
        "  % another",
        "%" + "x" * 100_000,
        " ",
        " 2\t2  3 ",
        "",
        " 1 1 1.5",
        "\t1\t2\t+2.5  ",
        " ",
        "2 2 3.5D0",
    ]
    for end in ("\n", "\r\n"):
        for after in ("", " \n\n", "\r\n"):
            text = (
                "%%MatrixMarket matrix coordinate real general \n" + end.join(lines) + end + after
            )
            np.testing.assert_array_equal(market(text.encode("latin-1")), [[1.5, 2.5], [0, 3.5]])
    text = "%%matrixmarket MATRIX Array Real GENERAL\n% \xe9\n2 2\n1\n\n2\n 3\n+4\n"
    np.testing.assert_array_equal(market(text.encode("latin-1")), [[1, 3], [2, 4]])
    lines[-1] = "2 2 3,5"
    with pytest.raises(ValueError, match="line 12, '2 2 3,5', must be"):
        market(raw("matrix coordinate real general\n" + "\n".join(lines) + "\n"))
    lines.append("2 2 4")
    lines[-2] = "2 1 1"
    with pytest.raises(
        ValueError,
        match="line 13, '2 2 4', is one more than the 3 lines with entries that the size line says",
    ):
        market(raw("matrix coordinate real general\n" + "\n".join(lines) + "\n"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"MatrixMarket matrix coordinate real general\n1 1 0\n",
         "its first line must begin with %%MatrixMarket"),
        (b"\n", "its first line must begin with"),
        (b"\xef\xbb\xbf%%MatrixMarket matrix coordinate real general\n1 1 0\n",
         "its first line must begin with"),
        (raw("matrix coordinate real\n1 1 0\n"),
         "its first line must be '%%MatrixMarket matrix FORMAT FIELD SYMMETRY', got"),
        (raw("matrix coordinate real general x\n1 1 0\n"), "its first line must be"),
        (raw("vector coordinate real general\n4 2\n1 1\n9 1\n"),
         "the object in line 1 must be matrix, got 'vector'"),
        (raw("vector array real general\n3\n1\n2\n3\n"),
         "the object in line 1 must be matrix, got 'vector'"),
        (raw("matrix sparse real general\n1 1 0\n"),
         "the format in line 1 must be coordinate or array, got 'sparse'"),
        (raw("matrix array float general\n1 1\n1\n"),
         "the field in line 1 must be real or .*, got 'float'"),
        (raw("matrix array real lower\n1 1\n1\n"),
         "the symmetry in line 1 must be general or .*, got 'lower'"),
        (raw("matrix array pattern general\n1 1\n1\n"),
         "a pattern must be coordinate, and .* line 1 says array pattern"),
        (raw("matrix coordinate pattern skew-symmetric\n2 2 1\n2 1\n"),
         "a pattern must be .*pattern skew-symmetric"),
        (raw("matrix coordinate pattern hermitian\n2 2 1\n2 1\n"),
         "a pattern must be .*pattern hermitian"),
        (raw("matrix array unsigned-integer skew-symmetric\n2 2\n1\n"),
         "line 1 says unsigned-integer skew-symmetric, and half of such"),
        (raw("matrix coordinate real general\n"),
         "line 2 must be the numbers of rows, columns and entries, got ''"),
        (raw("matrix coordinate real general\n1 1 1"), "its last line does not end"),
        (raw("matrix coordinate real general\n1 1\n1 1 1\n"),
         "line 2 must be the numbers of .*, got '1 1'"),
        (raw("matrix coordinate real general\n1 1 1 7\n1 1 1\n"), "line 2 must be the numbers of"),
        (raw("matrix coordinate real general\n%\n-1 1 0\n"),
         "line 3 must be the numbers of .*, got '-1 1 0'"),
        (raw("matrix coordinate real general\n1.0 1 0\n"), "line 2 must be the numbers of"),
        (raw("matrix array real general\n1 1 1\n1\n"),
         "line 2 must be the numbers of rows and columns, got '1 1 1'"),
        (raw("matrix coordinate real general\n" + "1" * 100_000 + " 1 1\n1 1 1\n"),
         "line 2 must be the numbers of"),
        (raw("matrix coordinate real general\n99999999999999999999 3 0\n"),
         r"sizes in line 2 must be below 2\*\*63"),
        (raw("matrix coordinate real symmetric\n2 3 0\n"),
         "a symmetric matrix must be square, but line 2 says 2 rows and 3"),
        (raw("matrix array real skew-symmetric\n3 2\n1\n2\n"),
         "a skew-symmetric matrix must be square"),
        (raw("matrix array complex hermitian\n3 2\n1 0\n"), "a hermitian matrix must be square"),
        (raw("matrix coordinate real general\n3 3 99999999999\n1 1 1\n"),
         "truncated: line 2 says that 99999999999 lines follow"),
        (raw("matrix array real general\n99999 99999\n1\n"),
         "truncated: line 2 says that 9999800001 lines follow"),
        (raw("matrix coordinate pattern general\n3 3 4\n1 1\n2 2\n3 3\n\n\n\n"),
         "truncated: it has 3 lines .* says 4"),
        (raw("matrix array real general\n2 2\n1\n2\n3.5\n"),
         "truncated: it has 3 lines with entries where its size line says 4"),
        (raw("matrix array real symmetric\n2 2\n1\n2\n3\n4\n"),
         "line 6, '4', is one more than the 3 lines"),
        (raw("matrix array real skew-symmetric\n2 2\n0\n1\n0\n"),
         "line 4, '1', is one more than the 1 lines"),
        (raw("matrix array real general\n0 0\n1\n"), "line 3, '1', is one more than the 0 lines"),
        (raw("matrix coordinate real general\n3 3 1\n1 1 1\n2 2 2\n"),
         "line 4, '2 2 2', is one more than the 1 lines"),
        (raw("matrix array real general\n2 2\n1 9\n2\n3\n4\n"),
         "line 3, '1 9', must be a real number, as the header says"),
        (raw("matrix coordinate real general\n1 1 1\n% c\n1 1 1\n"),
         "line 3, '% c', must be .*; comments stand before the size line"),
        (raw("matrix coordinate real general\n1 1 1\n" + "1" * 200_000),
         "line 3, '1{60}…', must be a row"),
        (raw("matrix coordinate real general\n1 1 1\n1 1 1\r1 1 1\n"), "line 3, .* must be a row"),
        (raw("matrix coordinate real general\n2 2 1\n0 1 1\n"),
         "line 3, '0 1 1', has a row outside 1 … 2"),
        (raw("matrix coordinate real general\n2 2 1\n3 1 1\n"),
         "line 3, '3 1 1', has a row outside 1 … 2"),
        (raw("matrix coordinate real general\n9 2 2\n\n9 1 1\n\n1 3 1\n"),
         "line 6, '1 3 1', has a column outside 1 … 2"),
        (raw("matrix coordinate pattern symmetric\n2 2 1\n2 0\n"),
         "line 3, '2 0', has a column outside 1 … 2"),
        (raw("matrix coordinate real general\n2 2 1\n4294967297 1 1\n"),
         "line 3, '4294967297 1 1', has a row outside 1 … 2"),
        (raw("matrix coordinate real general\n2 2 1\n1 99999999999999999999999 1\n"),
         "has a column outside 1 … 2"),
        (raw("matrix coordinate integer general\n1 1 1\n1 1 9223372036854775808\n"),
         "has an integer outside -9223372036854775808 … 92"),
        (raw("matrix array integer general\n1 1\n-9223372036854775809\n"),
         "line 3, .*, has an integer outside"),
        (raw("matrix array unsigned-integer general\n1 1\n18446744073709551616\n"),
         "line 3, .*, has an integer outside 0 … "),
        (raw("matrix coordinate real general\n2 2 2\n1 1 inf\n2 2 -1D999\n"),
         "line 4, '2 2 -1D999', has a number that is too large"),
        (raw("matrix array complex general\n1 1\n1 1e400\n"),
         "line 3, '1 1e400', has a number that is too large for float64"),
        (raw("matrix coordinate real symmetric\n2 2 1\n2 1 1e400\n"),
         "has a number that is too large for float64"),
        (raw("matrix array integer skew-symmetric\n2 2\n-9223372036854775808\n"),
         "has an integer whose negative does not fit into int64"),
        (raw("matrix coordinate integer skew-symmetric\n2 2 1\n2 1 -9223372036854775808\n"),
         "has an integer whose negative does not fit into int64"),
        (raw("matrix coordinate real skew-symmetric\n2 2 2\n2 1 1\n2 2 1D-9\n"),
         "line 4, .* is on the diagonal, which is zero in"),
        (raw("matrix coordinate complex hermitian\n2 2 2\n2 1 1 1\n2 2 1 0.5\n"),
         "line 4, .* is on the diagonal, which is real in"),
        (raw("matrix array complex hermitian\n2 2\n1 0\n2 3\n4 1\n"),
         "line 5, '4 1', is on the diagonal, which is real in a hermitian"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["m.mtx", "m.mtx.gz"])
def test_what_is_wrong_is_named_with_its_line(folder, capsys, content, words, name):
    with pytest.raises(ValueError, match=rf"^{re.escape(name)} cannot be read .*{words}") as info:
        market(content, name=name)
    assert "\n" not in str(info.value)
    assert cli.main(["check", name]) == cli.ExitCode.MISUSED
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(words, err)
    assert err.count("\n") == 1


@pytest.mark.parametrize("symmetry", ["symmetric", "skew-symmetric", "hermitian"])
@pytest.mark.parametrize("field", ["real", "complex", "integer", "pattern"])
@pytest.mark.parametrize("block", [1, 2**16])
def test_one_triangle_or_the_other_but_not_both(folder, monkeypatch, symmetry, field, block):
    monkeypatch.setattr(_market_faults, "_PIECE", block)
    if field == "pattern" and symmetry != "symmetric":
        return
    header = f"matrix coordinate {field} {symmetry}"
    value = {"real": " 2.5", "complex": " 2 3", "integer": " 4", "pattern": ""}[field]
    number = complex(*map(float, value.split())) if value else 1
    other = {"symmetric": number, "skew-symmetric": -number, "hermitian": np.conj(number)}[symmetry]
    np.testing.assert_array_equal(
        market(f"3 3 1\n3 1{value}\n", header), [[0, 0, other], [0] * 3, [number, 0, 0]]
    )
    np.testing.assert_array_equal(
        market(f"3 3 1\n1 3{value}\n", header), [[0, 0, number], [0] * 3, [other, 0, 0]]
    )
    for lines, line, words in [
        (
            (f"3 1{value}", f"3 2{value}", f"1 3{value}"),
            5,
            "is above the diagonal, where those before are below it",
        ),
        (
            (f"1 3{value}", f"1 2{value}", f"3 1{value}"),
            5,
            "is below the diagonal, where those before are above it",
        ),
        ((f"1 2{value}", f"2 1{value}", f"3 1{value}"), 4, "is below the diagonal"),
    ]:
        with pytest.raises(
            ValueError,
            match=rf"line {line}, '.*', {words}.*: a {symmetry} file holds one triangle, so write",
        ):
            market("3 3 3\n" + "\n".join(lines) + "\n", header)
    if symmetry == "symmetric":
        text = f"3 3 3\n2 2{value}\n2 1{value}\n1 1{value}\n"
        np.testing.assert_array_equal(
            market(text, header), number * np.array([[1, 1, 0], [1, 1, 0], [0, 0, 0]])
        )


def test_arrays_of_one_triangle(folder):
    numbers = "1\n2\n3\n4\n5\n6\n"
    np.testing.assert_array_equal(
        market(f"3 3\n{numbers}", "matrix array real symmetric"), [[1, 2, 3], [2, 4, 5], [3, 5, 6]]
    )
    skew = [[0, -1, -2], [1, 0, -3], [2, 3, 0]]
    for field in ("real", "integer"):
        np.testing.assert_array_equal(
            market("3 3\n1\n2\n3\n", f"matrix array {field} skew-symmetric"), skew
        )
    hermitian = [[1, 2 - 3j], [2 + 3j, 4]]
    np.testing.assert_array_equal(
        market("2 2\n1 0\n2 3\n4 0\n", "matrix array complex hermitian"), hermitian
    )


@pytest.mark.parametrize("field", ["real", "complex", "integer", "unsigned-integer", "pattern"])
def test_matrices_without_entries(folder, field):
    """SciPy's reader divides by zero where an array has no rows."""
    for sizes in ("0 0", "0 3", "3 0"):
        shape = tuple(map(int, sizes.split()))
        assert market(f"{sizes} 0\n", f"matrix coordinate {field} general").shape == shape
        if field != "pattern":
            found = market(f"{sizes}\n", f"matrix array {field} general")
            assert found.shape == shape
            assert found.dtype == market(f"{sizes} 0\n", f"matrix coordinate {field} general").dtype
    assert market("3 4 0\n").shape == (3, 4)
    np.testing.assert_array_equal(market("1 1\n", "matrix array real skew-symmetric"), [[0]])


def test_what_scipy_says_of_a_file_in_which_nothing_is_found(folder, monkeypatch):
    def refuses(*_, **__):
        raise RuntimeError("words of SciPy")

    monkeypatch.setattr("scipy.io.mmread", refuses)
    with pytest.raises(ValueError, match=r"m\.mtx cannot be read .*: words of SciPy"):
        market("1")
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(_market_faults, "_entries", lambda *_: iter(()))
    with pytest.raises(ValueError, match="it has changed while it was read: read it anew"):
        market("2 2 2\n2 1 1\n1 2 1\n", "matrix coordinate real symmetric")


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_ctrl_c_while_scipy_reads(folder, monkeypatch, error):
    def interrupted(*_):
        raise error

    monkeypatch.setattr(_matrix_market, "_normalised", interrupted)
    with pytest.raises(error):
        market("1")


def test_the_numbers_are_those_of_scipy(folder):
    """On a file of many blocks, with all signs, exponents and lengths."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal(30_000) * 10.0 ** rng.integers(-300, 300, 30_000)
    A = scipy.sparse.coo_array(
        (values, (rng.permutation(30_000), rng.integers(0, 500, 30_000))), shape=(30_000, 500)
    )
    scipy.io.mmwrite("A.mtx", A)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # of SciPy 1.18, about the class of the result
        expected = scipy.io.mmread("A.mtx")
    found = io.read_matrix("A.mtx")
    for name in ("row", "col", "data"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    text = (folder / "A.mtx").read_bytes()
    head, body = text[: text.index(b"30000 500")], text[text.index(b"30000 500") :]
    (folder / "B.mtx").write_bytes(head + body.replace(b"e", b"D"))
    np.testing.assert_array_equal(io.read_matrix("B.mtx").data, expected.data)
    lines = text.split(b"\n")
    lines[20_000] += b"x"
    (folder / "C.mtx").write_bytes(b"\n".join(lines))
    with pytest.raises(ValueError, match=r"line 20001, '.*x', must be"):
        io.read_matrix("C.mtx")


# --- the arrays of an archive ---------------------------------------------------------------------

B = np.array([[1.5, 0, 2, 0], [0, 0, 0, 3], [4, 0, 5, 0], [0, 6, 0, 0]])
FIVE = ["csr", "csc", "coo", "dia", "bsr"]


def saved(matrix, name="m.npz", **changes):
    """What save_npz writes, with some of its arrays replaced, or left out where they are None."""
    scipy.sparse.save_npz("good.npz", matrix, compressed=False)
    with np.load("good.npz") as archive:
        arrays = {key: archive[key] for key in archive.files} | changes
    np.savez(name, **{key: value for key, value in arrays.items() if value is not None})
    return name


@pytest.mark.parametrize("kind", ["array", "matrix"])
@pytest.mark.parametrize("format_", FIVE)
@pytest.mark.parametrize("dtype", ["f4", "f8", "c8", "c16", "i4", "bool", ">f8"])
def test_all_formats_of_scipy(folder, kind, format_, dtype):
    matrix = getattr(scipy.sparse, f"{format_}_{kind}")(B.astype(np.dtype(dtype).newbyteorder("=")))
    for compressed in (False, True):
        scipy.sparse.save_npz("a.npz", matrix, compressed=compressed)
        found = io.read_matrix("a.npz")
        assert type(found) is type(matrix)
        assert found.dtype == matrix.dtype
        np.testing.assert_array_equal(found.toarray(), matrix.toarray())
    saved(matrix, data=matrix.data.astype(dtype))
    np.testing.assert_array_equal(io.read_matrix("m.npz").toarray(), matrix.toarray())
    for index in ("i1", "u2", "i8", "u8", ">i4"):
        names = {"dia": ["offsets"], "coo": ["row", "col"]}.get(format_, ["indices", "indptr"])
        if format_ == "dia" and index[0] == "u":
            continue
        saved(matrix, **{name: getattr(matrix, name).astype(index) for name in names})
        np.testing.assert_array_equal(io.read_matrix("m.npz").toarray(), matrix.toarray())


def test_vectors_of_all_formats(folder):
    x = np.array([0, 1.5, 0, 2])
    for format_ in FIVE:
        for matrix in (x[np.newaxis], x[:, np.newaxis]):
            scipy.sparse.save_npz("x.npz", scipy.sparse.coo_array(matrix).asformat(format_))
            np.testing.assert_array_equal(io.read_vector("x.npz"), x)
    indices = np.array([1, 3], np.uint64)
    old, new = (
        {"coords": None, "row": indices - indices, "col": indices},
        {"coords": indices[np.newaxis], "row": None, "col": None},
    )
    for change in ({}, old, new):  # SciPy 1.13 stored a row of zeros
        saved(scipy.sparse.coo_array(x), **change)
        np.testing.assert_array_equal(io.read_vector("m.npz"), x)
    saved(scipy.sparse.coo_array(x), **(old | {"row": indices}))
    with pytest.raises(ValueError, match=r"its row\[0\] is 1, outside 0 … 0"):
        io.read_vector("m.npz")
    # A CSR array of one axis, which SciPy has from 1.15 on
    arrays = {
        "data": x[[1, 3]],
        "indices": np.array([1, 3]),
        "indptr": np.array([0, 2]),
        "shape": (4,),
    }
    np.savez("m.npz", format=b"csr", _is_array=True, **arrays)
    np.testing.assert_array_equal(io.read_vector("m.npz"), x)
    with pytest.raises(
        ValueError, match=r"m\.npz does not hold a matrix: its array has shape \(4,\)"
    ):
        io.read_matrix("m.npz")
    np.savez("m.npz", format=b"csr", _is_array=True, **(arrays | {"indices": np.array([1, 4])}))
    with pytest.raises(ValueError, match=r"its indices\[1\] is 4, outside 0 … 3"):
        io.read_vector("m.npz")
    np.savez("m.npz", format=b"csc", _is_array=True, **arrays)
    with pytest.raises(
        ValueError, match=r"its format is 'csc', and its 'shape' \(4,\) is not that of a matrix"
    ):
        io.read_vector("m.npz")


FAR = [-1, 4, 5, 1000, 2**31 - 1, -(2**31), 2**40, 2**62, -(2**63)]


@pytest.mark.parametrize("format_", ["csr", "csc", "coo", "bsr"])
@pytest.mark.parametrize("far", FAR)
def test_an_index_outside(folder, capsys, format_, far):
    matrix = scipy.sparse.coo_array(B).asformat(format_)
    names = {"coo": ["row", "col"]}.get(format_, ["indices"])
    for name in names:
        array = getattr(matrix, name).astype(np.int64)
        for place in range(array.size):
            changed = array.copy()
            changed[place] = far
            saved(matrix, **{name: changed})
            words = (
                rf"its {name}\[{place}\] is {far}, outside 0 … 3: write it anew with "
                r"scipy\.sparse\.save_npz"
            )
            for read in (io.read_matrix, io.read_vector):
                with pytest.raises(ValueError, match=rf"m\.npz cannot be read as .*: {words}"):
                    read("m.npz")
    assert cli.main(["check", "m.npz"]) == cli.ExitCode.MISUSED
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("far", FAR[1:])
def test_diagonals_beyond_the_matrix(folder, far):
    """SciPy takes and saves them, and they hold no entries."""
    matrix = scipy.sparse.dia_array(B)
    for place in range(len(matrix.offsets)):
        changed = matrix.offsets.astype(np.int64)
        changed[place] = far
        saved(matrix, offsets=changed)
        expected = B - np.diag(np.diag(B, matrix.offsets[place]), matrix.offsets[place])
        np.testing.assert_array_equal(io.read_matrix("m.npz").toarray(), expected)
    for shape in [(3, 3), (3, 5), (5, 3), (1, 3), (3, 1), (0, 3), (3, 0)]:
        for data, offsets in [
            (np.ones((3, 5)), [-1, 0, 1]),
            (np.ones((2, 3)), [0, 5]),
            (np.ones((1, 7)), [-6]),
        ]:
            matrix = scipy.sparse.dia_array((data, offsets), shape=shape)
            scipy.sparse.save_npz("m.npz", matrix)
            found = io.read_matrix("m.npz")
            assert (found.shape, found.format) == (shape, "dia")
            np.testing.assert_array_equal(found.tocsr().toarray(), matrix.tocsr().toarray())


@pytest.mark.parametrize("format_", FIVE)
def test_an_index_that_is_none_of_int64(folder, format_):
    matrix = scipy.sparse.coo_array(B).asformat(format_)
    name = {"dia": "offsets", "coo": "row"}.get(format_, "indices")
    array = np.abs(getattr(matrix, name)).astype(np.uint64)
    array[1] = 2**64 - 1
    saved(matrix, **{name: array})
    with pytest.raises(
        ValueError,
        match=rf"its {name}\[1\] is 18446744073709551615, which is not an index: write it anew",
    ):
        io.read_matrix("m.npz")


@pytest.mark.parametrize(
    ("format_", "changes", "words"),
    [
        ("csr", {"indptr": [0, 2, 3, 5, 7]},
         "its 'indptr' must rise from 0 to its 6 values: .*save_npz, after A.prune"),
        ("csr", {"indptr": [0, 2, 3, 5, 5]}, "its 'indptr' must rise from 0 to its 6 values"),
        ("csc", {"indptr": [1, 2, 3, 5, 6]}, "its 'indptr' must rise from 0"),
        ("csr", {"indptr": [0, 5, 3, 5, 6]}, "its 'indptr' must rise from 0"),
        ("csr", {"indptr": [0, -2, 3, 5, 6]}, "its 'indptr' must rise from 0"),
        ("csr", {"indptr": [0, 2**40, 3, 5, 6]}, "its 'indptr' must rise from 0"),
        ("csr", {"indptr": [0, 2, 3, 6]},
         r"its 'indptr' must be a vector of length 5, got shape \(4,\)"),
        ("csc", {"indptr": [[0, 2, 3, 5, 6]]},
         r"its 'indptr' must be a vector of length 5, got shape \(1, 5\)"),
        ("csr", {"shape": [5, 4]}, "its 'indptr' must be a vector of length 6"),
        ("csr", {"shape": [4, 3]}, r"its indices\[2\] is 3, outside 0 … 2"),
        ("csr", {"shape": [0, 0]}, "its 'indptr' must be a vector of length 1"),
        ("csr", {"shape": [4, -4]}, "its 'shape' must be one or two sizes, 0 or more, got "),
        ("csr", {"shape": [4]}, "its 'indptr' must be a vector of length 2"),
        ("csr", {"shape": [4, 4, 4]}, "its 'shape' must be one or two sizes"),
        ("csr", {"shape": [4.0, 4.0]}, "its 'shape' must be one or two sizes"),
        ("coo", {"shape": 4}, "its 'shape' must be one or two sizes"),
        ("coo", {"shape": np.array([2**63, 4], np.uint64)}, r"its 'shape' must be below 2\*\*63"),
        ("csr", {"indices": [0, 2, 3, 0, 2]}, "its 'indices' must be a vector of length 6"),
        ("csr", {"indices": [0.0, 2, 3, 0, 2, 1]}, "its 'indices' must be integers, got float64"),
        ("csr", {"indptr": np.array([0, 2, 3, 5, 6], "f4")},
         "its 'indptr' must be integers, got float32"),
        ("csr", {"data": [1.0, 2, 3]}, "its 'indices' must be a vector of length 3"),
        ("csr", {"data": [[1.0, 2, 3, 4, 5, 6]]}, "its 'data' must be a vector, got shape"),
        ("csr", {"data": np.zeros(6, "f2")},
         "its 'data' are float16, which SciPy's sparse routines refuse"),
        ("csr", {"data": np.zeros(6, "U3")},
         "its array 'data' cannot be read: its dtype is <U3, which is not numeric"),
        ("csr", {"data": np.zeros(6, "O")},
         "its array 'data' cannot be read: it holds Python objects"),
        ("csr", {"data": np.zeros(6, "M8[s]")}, "its array 'data' cannot be read: its dtype is"),
        ("csr", {"data": None}, "it has no array 'data'"),
        ("csr", {"indptr": None}, "it has no array 'indptr'"),
        ("coo", {"row": None}, "it has no array 'row'"),
        ("dia", {"offsets": None}, "it has no array 'offsets'"),
        ("csr", {"shape": None}, "it has no array 'shape'"),
        ("csr", {"format": "lil"}, "its format is 'lil', and csr, csc, bsr, coo, dia are read"),
        ("csr", {"format": b"coo"}, "it has no array 'row'"),
        ("csr", {"format": [b"csr", b"csc"]}, "its format is .*, and csr, csc"),
        ("csr", {"format": 3},
         "its array 'format' cannot be read: its dtype is int64, which is not text"),
        ("coo", {"row": [0, 1, 2]}, "its 'row' must be a vector of length 6"),
        ("coo", {"coords": np.zeros((2, 6), int), "shape": [4]},
         r"it has indices of 2 axes, and its 'shape' is \(4,\)"),
        ("coo", {"coords": np.zeros((3, 6), int)}, "it has indices of 3 axes, and its 'shape' is"),
        ("coo", {"coords": np.full((2, 6), 7)}, r"its coords\[0\]\[0\] is 7, outside 0 … 3"),
        ("dia", {"offsets": [0, 1]}, "its 'offsets' must be a vector of length"),
        ("dia", {"offsets": [0, 0, 1, 2]}, "its 'offsets' must have each diagonal once"),
        ("dia", {"data": np.ones(4)}, "its 'data' must be a row for each diagonal of a matrix"),
        ("bsr", {"shape": [4, 5]}, "its 'data' must be blocks that divide its shape"),
        ("bsr", {"data": np.ones((6, 1))}, "its 'data' must be blocks that divide its shape"),
        ("bsr", {"data": np.ones((3, 0, 2))}, "its 'data' must be blocks that divide its shape"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit(folder, format_, changes, words):
    matrix = scipy.sparse.coo_array(B).asformat(format_)
    if format_ == "bsr":
        matrix = scipy.sparse.bsr_array(B, blocksize=(2, 2))
    if format_ == "dia" and "offsets" in changes and changes["offsets"] == [0, 0, 1, 2]:
        changes = {"offsets": [0] * len(matrix.offsets)}
    saved(
        matrix,
        **{key: value if value is None else np.array(value) for key, value in changes.items()},
    )
    for read in (io.read_matrix, io.read_vector):
        with pytest.raises(ValueError, match=rf"m\.npz cannot be read as .*: {words}"):
            read("m.npz")


FUZZ = """
import sys, warnings
import numpy as np, scipy.sparse as sp
from sparsejac import io
rng = np.random.default_rng(int(sys.argv[1]))
B = np.array([[1.5, 0, 2, 0], [0, 0, 0, 3], [4, 0, 5, 0], [0, 6, 0, 0]])
matrices = [
    sp.coo_array(A).asformat(f)
    for A in (B, B[:1], B[:, :1])
    for f in ("csr", "csc", "coo", "dia", "bsr")
]
refused = read = 0
for _ in range(int(sys.argv[2])):
    sp.save_npz("g.npz", matrices[rng.integers(len(matrices))], compressed=False)
    with np.load("g.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    for _ in range(rng.integers(1, 3)):
        name = list(arrays)[rng.integers(len(arrays))]
        array = arrays[name]
        kind = rng.integers(5)
        if array.ndim == 0 or array.size == 0:
            continue
        if kind <= 1 and array.dtype.kind == "i":
            array = array.astype("i8")
            low = -3 if name != "shape" else 0
            numbers = [low, -low, 1, 2, 5, 9, 10**6 if low else 7, 2**40 if low else 3]
            array.flat[rng.integers(array.size)] = rng.choice(numbers)
            arrays[name] = array
        elif kind == 2:
            arrays[name] = array[:-1]
        elif kind == 3:
            arrays[name] = array.reshape(1, -1)
        else:
            with warnings.catch_warnings(action="ignore"):
                kinds = ["f8", "i2", "u8", "c16", "bool", "f2"]
                arrays[name] = array.astype(kinds[rng.integers(6)])
    np.savez("m.npz", **arrays)
    warnings.simplefilter("error")
    for reader in (io.read_matrix, io.read_vector):
        try:
            found = reader("m.npz")
        except ValueError as error:
            assert str(error).startswith("m.npz "), error
            refused += 1
            continue
        read += 1
        if sp.issparse(found):
            found.toarray(), found.tocsr().tocsc()
            found @ np.ones(found.shape[1]), found.T @ np.ones(found.shape[0])
print(refused, read)
"""


def test_changed_arrays_neither_crash_nor_pass(folder):
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, "0", "300"],
        check=False,
        timeout=100,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    refused, read = map(int, done.stdout.split())
    assert refused > 5 * read / 4 > 0


def test_a_damaged_archive(good):
    """A flipped bit is found by the archive's checksums, whichever array it is in."""
    for name in ("s.npz", "one.npz"):
        expected = toarray(io.read_matrix(name))
        content = (good / name).read_bytes()
        for place in range(0, len(content), 5):
            (good / name).write_bytes(
                content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]
            )
            for read in (io.read_matrix, io.read_vector):
                with contextlib.suppress(ValueError):
                    np.testing.assert_array_equal(toarray(read(name)), expected)


# --- the header of a .npy -------------------------------------------------------------------------


def flips(content, end):
    for place in range(end):
        for bit in range(8):
            yield content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :]


@pytest.mark.parametrize("version", [(1, 0), *slow(((2, 0),), ((3, 0),))])
def test_headers_that_are_damaged_anywhere(folder, version):
    """Each flipped bit, and each place to cut, is a ValueError of one line, in memory and streamed;
    or the matrix is read.
    """
    A = np.arange(1.0, 10).reshape(3, 3)
    with open("good.npy", "wb") as file:
        np.lib.format.write_array(file, A, version=version)
    content = (folder / "good.npy").read_bytes()
    np.testing.assert_array_equal(io.read_matrix("good.npy"), A)
    np.testing.assert_array_equal(JacobianBuilder("good.npy").value(np.ones(3)), A.ravel())
    for damaged in (
        *(content[:end] for end in range(len(content))),
        *flips(content, len(content) - 72),
    ):
        (folder / "m.npy").write_bytes(damaged)
        for read in (io.read_matrix, io.read_vector, streamed):
            try:
                found = read("m.npy")
            except ValueError as error:
                assert "\n" not in str(error)  # noqa: PT017
                assert "m.npy" in str(error) or "square" in str(error)  # noqa: PT017
            else:
                assert found.shape == (3, 3)
                assert np.array_equal(found, A) or np.array_equal(found.byteswap(), A)


def streamed(path):
    """What a builder reads from a .npy; its first block is enough."""
    from sparsejac._matrix.buffers import Buffer
    from sparsejac._matrix.source import Part

    source = _registry.npy_source("A", path)
    with source.opened() as read:
        part = Part(0, source.k, 0, source.k)
        found = np.array(read(part, [Buffer()]).data)
    return found.T if source.transposed else found


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: np.save("m.npy", scipy.sparse.csr_array(np.eye(3)), allow_pickle=True),
         (r"it holds Python objects, which are not opened \(NumPy's allow_pickle\): save a sparse "
         r"matrix with scipy\.sparse\.save_npz")),
        (lambda: np.save("m.npy", np.array([[None]]), allow_pickle=True),
         "it holds Python objects"),
        (lambda: Path("m.npy").write_bytes(pickle.dumps(scipy.sparse.csr_array(np.eye(3)))),
         "with scipy.sparse.save_npz"),
        (lambda: np.save("m.npy", np.array([["a"]])), "its dtype is <U1, which is not numeric"),
        (lambda: Path("m.npy").write_bytes(b"\x93NUMPY\x07\x00" + b" " * 99), "its version is 7.0"),
        (lambda: Path("m.npy").write_bytes(b"\x93NUMPY\x01\x00\xff\x00{"),
         "its header has 1 bytes, and 255 were announced"),
        (lambda: Path("m.npy").write_bytes(b"\x93NUMPY\x01\x00\x03\x00{{{"),
         "its header is damaged"),
        (lambda: write_npy((3, -3), 72), r"its shape is \(3, -3\), with a negative length"),
        (lambda: write_npy((3, 3), 71),
         r"(has 71 bytes of numbers where 72 are needed for its shape \(3, 3\)|it is truncated)"),
        (lambda: write_npy((3, 3), 80),
         "has 80 bytes of numbers where 72 are needed .* or more than one array was saved to it"),
        (lambda: write_npy((2**40, 2**40), 80), "truncated"),
    ],
)  # fmt: skip
def test_what_a_npy_cannot_be(folder, capsys, make, words):
    make()
    for read in (io.read_matrix, io.read_vector):
        with pytest.raises(ValueError, match=rf"m\.npy cannot be read as .*{words}"):
            read("m.npy")
    for read in (streamed, JacobianBuilder):
        with pytest.raises(
            ValueError,
            match=rf"m\.npy, of A, (cannot be read as a \.npy: |has [0-9]+ bytes where ).*{words}",
        ):
            read("m.npy")
    assert cli.main(["check", "m.npy"]) == cli.ExitCode.MISUSED
    assert capsys.readouterr().err.count("\n") == 1


def write_npy(shape, count):
    with open("m.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f8", "fortran_order": False, "shape": shape}
        )
        file.write(bytes(count))


def test_a_byte_order_mark(folder):
    """Some editors write one."""
    text = b"\xef\xbb\xbf%%MatrixMarket matrix coordinate real general\n2 2 1\n1 2 3.5\n"
    Path("bom.mtx").write_bytes(text)
    Path("bom.mtx.gz").write_bytes(gzip.compress(text))
    for name in ("bom.mtx", "bom.mtx.gz"):
        with pytest.raises(
            ValueError,
            match=rf"{name} cannot be read as .*, but a byte order mark stands before that",
        ):
            io.read_matrix(name)


WRITERS = {
    "x.npy": lambda: io.write_vector("x.npy", np.ones(1_000_000)),
    "J.npz": lambda: io.write_csr("J.npz", scipy.sparse.eye_array(300_000, format="csr")),
    "J": lambda: io.write_csr_blocks(
        "J", [(0, scipy.sparse.eye_array(300_000, format="csr"))], shape=(300_000, 300_000)
    ),
}


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limit of the size of files here")
@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_on_which_there_is_no_room(folder, name):
    """The error names the output, and says why; here a limit of the size of files stands for the
    end of a disk.
    """
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        with pytest.raises(
            OSError, match=rf"^\[Errno {errno.EFBIG}\] {name} cannot be written: File too large$"
        ) as caught:
            WRITERS[name]()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.errno == errno.EFBIG
    assert not Path(name).exists()
    assert [other for other in os.listdir() if other.endswith(".part")] == []


# --- several writers ------------------------------------------------------------------------------


def test_two_writers_to_one_file(folder):
    """Each file is whole, whoever ends last."""
    vectors = [np.full(size, float(size)) for size in (40_000, 20_000)]
    failed = []

    def write(x):
        try:
            for _ in range(10):
                io.write_vector("x.npy", x)
                content = Path("x.npy").read_bytes()
                assert any(content[128:] == vector.tobytes() for vector in vectors)
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=write, args=(x,)) for x in vectors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert os.listdir() == ["x.npy"]


def test_a_writer_within_another(folder):
    with outputs.complete_or_absent(folder / "x") as outer:
        outer.write(b"outer")
        with outputs.complete_or_absent(folder / "x") as inner:
            inner.write(b"in")
        assert (folder / "x").read_bytes() == b"in"
    assert (folder / "x").read_bytes() == b"outer"
    assert os.listdir() == ["x"]


@pytest.mark.skipif(os.name != "posix", reason="modes as in POSIX")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_the_umask_or_of_the_file_before(folder, mask):
    before = os.umask(mask)
    try:
        io.write_vector("new.npy", np.ones(3))
        io.write_csr_blocks("J", [], shape=(0, 1))
        (folder / "old.npy").write_bytes(b"")
        (folder / "old.npy").chmod(0o640)
        io.write_vector("old.npy", np.ones(3))
    finally:
        os.umask(before)
    modes = [
        stat.S_IMODE(os.stat(name).st_mode) for name in ("new.npy", "old.npy", "J", "J/data.npy")
    ]
    assert modes == [0o666 & ~mask, 0o640, 0o777 & ~mask, 0o666 & ~mask]


def test_the_longest_name(folder):
    name = "é" * 120 + ".npy"
    io.write_vector(name, np.ones(3))
    assert os.listdir() == [name]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="special files as in POSIX")
def test_outputs_that_are_not_replaced(folder, monkeypatch):
    os.mkfifo("pipe.npy")
    (folder / "link.npy").symlink_to("pipe.npy")
    for name in ("pipe.npy", "link.npy"):
        with pytest.raises(
            ValueError,
            match=rf"the output {re.escape(name)} is not a regular file: choose another name",
        ):
            io.write_vector(name, np.ones(3))
    assert stat.S_ISFIFO(os.stat("pipe.npy").st_mode)
    (folder / "there.npy").write_bytes(b"precious")
    monkeypatch.setattr(
        "os.access", lambda path, _: str(path) != "there.npy"
    )  # permission bits do not stop root
    with pytest.raises(
        ValueError,
        match=r"the output there\.npy is write-protected: make it writable, or choose another name",
    ):
        io.write_vector("there.npy", np.ones(3))
    assert (folder / "there.npy").read_bytes() == b"precious"
    (folder / "dangling.npy").symlink_to("nowhere/x.npy")
    with pytest.raises(ValueError, match=r"the folder of the output dangling\.npy does not exist"):
        io.write_vector("dangling.npy", np.ones(3))
