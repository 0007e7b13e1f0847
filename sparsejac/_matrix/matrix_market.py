"""Reads Matrix Market files, and checks each line before SciPy parses it.

SciPy's reader stops inside a number that it does not know (it reads ``2.5D+03`` as 2.5), ignores
the rest of the line, and can crash on a broken line of an array file. So it only gets complete
lines that match a regular expression, and exactly as many as the size line says.
"""

from __future__ import annotations

import codecs
import gzip
import inspect
import io
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import scipy.io
import scipy.sparse
from numpy.typing import NDArray

_BLOCK = 2**18  # bytes of text that are checked at a time
_LONGEST = 2**16  # bytes of the longest line
_PIECE = 2**16  # numbers that are checked at a time
_INFLATED = 1032  # bytes that a byte of a .gz can become at most
_DTYPES = {
    "real": np.float64,
    "double": np.float64,
    "complex": np.complex128,
    "integer": np.int64,
    "unsigned-integer": np.uint64,
    "pattern": np.float64,
}
_SYMMETRIES = ("general", "symmetric", "skew-symmetric", "hermitian")
_INDEX = rb"\d++[ \t]++"
_REAL = (
    rb"[-+]?(?:(?:\d++(?:\.\d*+)?|\.\d++)(?:[eEdD][-+]?\d++)?|(?i:inf(?:inity)?|nan(?:\(\w*+\))?))"
)
_VALUES = {
    "real": _REAL,
    "double": _REAL,
    "complex": _REAL + rb"[ \t]++" + _REAL,
    "integer": rb"[-+]?\d++",
    "unsigned-integer": rb"\+?\d++",
}
_WORDS = {
    "real": "a real number",
    "double": "a real number",
    "complex": "two real numbers",
    "integer": "an integer",
    "unsigned-integer": "an integer without a sign",
}
_EMPTY = re.compile(rb"(?:[ \t]*+\r?\n)+")
_UNFINISHED = "its last line does not end, so it may be truncated: if it is complete, add a newline"


class _Header(NamedTuple):
    format: str
    field: str
    symmetry: str
    shape: tuple[int, int]
    entries: int  # how many lines with entries follow
    size_line: int  # its number

    @property
    def text(self) -> bytes:
        """What SciPy reads instead of the first lines, with as many lines."""
        sizes = (*self.shape, self.entries) if self.format == "coordinate" else self.shape
        first = f"%%MatrixMarket matrix {self.format} {self.field} {self.symmetry}\n"
        return (first + "%\n" * (self.size_line - 2) + " ".join(map(str, sizes)) + "\n").encode()

    @property
    def needed(self) -> str:
        """The words for what a line must be."""
        words = ["a row", "a column"] if self.format == "coordinate" else []
        words += [] if self.field == "pattern" else [_WORDS[self.field]]
        listed = f"{', '.join(words[:-1])}{' and ' if words[1:] else ''}{words[-1]}"
        return f"{listed}, as the header says ({self.format} {self.field})"

    @property
    def lines(self) -> re.Pattern[bytes]:
        """Matches consecutive lines with entries."""
        line = _INDEX + rb"\d++" if self.format == "coordinate" else b""
        if self.field != "pattern":
            line += (rb"[ \t]++" if line else b"") + _VALUES[self.field]
        return re.compile(rb"(?:[ \t]*+" + line + rb"[ \t]*+\r?\n)*")

    @property
    def smallest(self) -> int:
        """The bytes of the shortest line."""
        numbers = (2 if self.format == "coordinate" else 0) + {"complex": 2, "pattern": 0}.get(
            self.field, 1
        )
        return 2 * numbers


def read(path: Path) -> Any:
    """Read a COO array or an ndarray. A ValueError names the line that is wrong."""
    zipped = path.name.lower().endswith(".gz")
    with _opened(path) as file:
        header = _header(file)
        size = path.stat().st_size * (_INFLATED if zipped else 1)
        if header.entries * header.smallest > size:  # before memory is allocated for so many
            raise ValueError(
                f"it is truncated: line {header.size_line} says that {header.entries} lines follow"
            )
        body = _Body(file, header)
        if header.entries:
            try:
                # From SciPy 1.15 on, mmread asks which kind of sparse matrix is meant.
                asked = "spmatrix" in inspect.signature(scipy.io.mmread).parameters
                matrix = scipy.io.mmread(body, **({"spmatrix": False} if asked else {}))
            except MemoryError:
                raise
            except Exception as error:  # noqa: BLE001  # numbers too large, or lines missing
                body.raise_error()
                _blame(path, header, _out_of_range(header))
                raise ValueError(str(error)) from None
        elif header.format == "array":  # SciPy divides by the number of rows
            matrix = np.zeros(header.shape, _DTYPES[header.field])
        else:
            matrix = scipy.sparse.coo_array(header.shape, dtype=_DTYPES[header.field])
        while body.read(_BLOCK):  # what follows the entries
            pass
        body.raise_error()
    wrong = (
        _wrong_sparse(matrix, header)
        if header.format == "coordinate"
        else _wrong_dense(matrix, header)
    )
    if wrong is not None:
        _blame(path, header, wrong)
        if wrong is not _infinite:  # the file may say inf
            raise ValueError("it has changed while it was read: read it anew")
    return matrix


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _header(file: IO[bytes]) -> _Header:
    first = file.readline(_LONGEST)
    for mark in (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        if first.startswith(mark):
            raise ValueError(
                "its first line must begin with %%MatrixMarket, but a byte order mark stands "
                "before that: save it as ASCII, or UTF-8 without a mark"
            )
    words = first.decode("latin-1").split()
    if not words or words[0].lower() not in ("%%matrixmarket", "%matrixmarket"):
        raise ValueError("its first line must begin with %%MatrixMarket")
    if len(words) != 5:
        raise ValueError(
            "its first line must be '%%MatrixMarket matrix FORMAT FIELD SYMMETRY', got "
            f"{_shown(' '.join(words))}"
        )
    kind, format_, field, symmetry = (word.lower() for word in words[1:])
    for what, word, accepted in (
        ("object", kind, ["matrix"]),
        ("format", format_, ["coordinate", "array"]),
        ("field", field, list(_DTYPES)),
        ("symmetry", symmetry, list(_SYMMETRIES)),
    ):
        if word not in accepted:
            raise ValueError(
                f"the {what} in line 1 must be {' or '.join(accepted)}, got {_shown(word)}"
            )
    if field == "pattern" and (format_ == "array" or symmetry not in ("general", "symmetric")):
        raise ValueError(
            f"a pattern must be coordinate, and general or symmetric, but line 1 says {format_} "
            f"pattern {symmetry}"
        )
    if field == "unsigned-integer" and symmetry == "skew-symmetric":
        raise ValueError(
            "line 1 says unsigned-integer skew-symmetric, and half of such a matrix would be "
            "negative"
        )
    number, text = _size_line(file)
    count = 3 if format_ == "coordinate" else 2
    if not re.fullmatch(rb"[ \t]*\d+(?:[ \t]+\d+){%d}[ \t]*\r?\n" % (count - 1), text):
        if text and not text.endswith(b"\n") and len(text) < _LONGEST:
            raise ValueError(_UNFINISHED)
        sizes = "rows, columns and entries" if count == 3 else "rows and columns"
        raise ValueError(
            f"line {number} must be the numbers of {sizes}, got {_shown(text.decode('latin-1'))}"
        )
    m, n, *rest = (int(size) for size in text.split())
    if max(m, n, *rest) >= 2**63:
        raise ValueError(
            f"the sizes in line {number} must be below 2**63, got {_shown(text.decode('latin-1'))}"
        )
    if symmetry != "general" and m != n:
        raise ValueError(
            f"a {symmetry} matrix must be square, but line {number} says {m} rows and {n} columns"
        )
    if rest:
        (lines,) = rest
    elif symmetry == "general":
        lines = m * n
    else:
        lines = m * (m - 1) // 2 if symmetry == "skew-symmetric" else m * (m + 1) // 2
    return _Header(format_, field, symmetry, (m, n), lines, number)


def _size_line(file: IO[bytes]) -> tuple[int, bytes]:
    """The first line that is neither a comment nor empty, and its number."""
    number = 1
    while True:
        number += 1
        text = file.readline(_LONGEST)
        if not text.lstrip().startswith(b"%") and (not text or text.strip()):
            return number, text
        while text and not text.endswith(b"\n"):  # the rest of a long comment
            text = file.readline(_LONGEST)


class _Body(io.RawIOBase):
    """The file as SciPy gets it: the header, and as many checked lines with entries as it says.

    It ends before the first line that is wrong, and `raise_error` raises the error. `read` itself
    does not raise, because SciPy's reader, which calls it, is not made for that.
    """

    def __init__(self, file: IO[bytes], header: _Header) -> None:
        self._file, self._header, self._lines = file, header, header.lines
        self._out, self._place = header.text, 0
        self._entries, self._line, self._rest, self._ended = 0, header.size_line + 1, b"", False
        self._error: BaseException | None = None

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while self._place == len(self._out) and not self._ended:
            self._out, self._place = b"", 0
            try:
                self._out = self._next()
            except BaseException as error:  # noqa: BLE001  # Ctrl-C as well, which is raised later
                self._error, self._ended = error, True
        start = self._place
        self._place = len(self._out) if size < 0 else min(start + size, len(self._out))
        return self._out[start : self._place]

    def raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _next(self) -> bytes:
        data = self._file.read(_BLOCK)
        if not data:
            self._ended = True
            if self._rest:
                raise ValueError(_UNFINISHED)
            if self._entries < self._header.entries:
                raise ValueError(
                    f"it is truncated: it has {self._entries} lines with entries where its size "
                    f"line says {self._header.entries}"
                )
            return b""
        block = self._rest + data
        end = block.rfind(b"\n") + 1
        block, self._rest = block[:end], block[end:]
        self._check(block)
        if len(self._rest) > _LONGEST:
            raise self._wrong(self._line, self._rest)
        return _normalised(block)

    def _check(self, block: bytes) -> None:
        place, entries = 0, self._entries
        while True:
            match = self._lines.match(block, place)
            end = match.end() if match else place
            entries += block.count(b"\n", place, end)
            if entries > self._header.entries:
                while entries > self._header.entries:  # back to the first line that is too many
                    end = block.rfind(b"\n", 0, end - 1) + 1
                    entries -= 1
                number, line = (
                    self._line + block.count(b"\n", 0, end),
                    block[end : block.index(b"\n", end)],
                )
                raise ValueError(
                    f"line {number}, {_shown(line)}, is one more than the {entries} lines with "
                    "entries that the size line says"
                )
            if end == len(block):
                break
            empty = _EMPTY.match(block, end)
            if empty is None:
                raise self._wrong(
                    self._line + block.count(b"\n", 0, end), block[end : block.index(b"\n", end)]
                )
            place = empty.end()
        self._entries = entries
        self._line += block.count(b"\n")

    def _wrong(self, number: int, line: bytes) -> ValueError:
        hint = "; comments stand before the size line" if line.lstrip().startswith(b"%") else ""
        return ValueError(f"line {number}, {_shown(line)}, must be {self._header.needed}{hint}")


def _normalised(block: bytes) -> bytes:
    """Write numbers as SciPy reads them: with E for Fortran's D, and without a plus sign."""
    if b"\r" in block:
        block = block.replace(b"\r", b"")
    if b"D" in block or b"d" in block:
        block = block.translate(bytes.maketrans(b"Dd", b"Ee"))
    if b"+" in block:
        for before in (b" ", b"\t", b"\n"):
            block = block.replace(before + b"+", before)
        block = block.removeprefix(b"+")
    return block


# --- numbers that are wrong -----------------------------------------------------------------------

# A function of the number of an entry and the words of its line: what is wrong with it, or None.
_Reason = Callable[[int, list[bytes]], str | None]


def _blame(path: Path, header: _Header, wrong: _Reason) -> None:
    """Raise the error of the first line that is wrong."""
    for entry, (number, line) in enumerate(_entries(path, header)):
        reason = wrong(entry, line.split())
        if reason is not None:
            raise ValueError(f"line {number}, {_shown(line)}, {reason}")


def _entries(path: Path, header: _Header) -> Iterator[tuple[int, bytes]]:
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            if number > header.size_line and line.strip():
                yield number, line


def _out_of_range(header: _Header) -> _Reason:
    limits = {"integer": (-(2**63), 2**63), "unsigned-integer": (0, 2**64)}.get(header.field)

    def wrong(_: int, words: list[bytes]) -> str | None:
        if header.format == "coordinate":
            for what, word, size in zip(("row", "column"), words, header.shape, strict=False):
                if not 1 <= int(word) <= size:
                    return f"has a {what} outside 1 … {size}"
        if limits is not None and not limits[0] <= int(words[-1]) < limits[1]:
            return f"has an integer outside {limits[0]} … {limits[1] - 1}"
        return None

    return wrong


def _infinite(_: int, words: list[bytes]) -> str | None:
    for word in words:
        if b"inf" not in word.lower() and math.isinf(
            float(word.lower().replace(b"d", b"e").partition(b"(")[0])
        ):
            return "has a number that is too large for float64"
    return None


def _wrong_sparse(matrix: Any, header: _Header) -> _Reason | None:
    data = matrix.data[: header.entries]  # SciPy appends the other triangle
    if header.symmetry == "general":
        return _infinite if _too_large(data) else None
    rows, columns = matrix.row[: header.entries], matrix.col[: header.entries]
    first = None
    for start in range(0, header.entries, _PIECE):
        i, j, values = (array[start : start + _PIECE] for array in (rows, columns, data))
        sides = np.sign(i - j)
        off_diagonal = sides[sides != 0]
        first = off_diagonal[0] if first is None and off_diagonal.size else first
        if (
            (off_diagonal != first).any()
            or _bad_diagonal(values[sides == 0], header)
            or _bad_negative(values, header)
        ):
            return _wrong_symmetry(header, None if first is None else int(first))
    return _infinite if _too_large(data) else None


def _wrong_symmetry(header: _Header, first: int | None) -> _Reason:
    def wrong(_: int, words: list[bytes]) -> str | None:
        i, j = int(words[0]), int(words[1])
        side = (i > j) - (i < j)
        if side and side != first:
            other, one = ("below", "above") if side > 0 else ("above", "below")
            return (
                f"is {other} the diagonal, where those before are {one} it: a {header.symmetry} "
                "file holds one triangle, so write this one as general, or leave out one of its "
                "triangles"
            )
        dtype = np.dtype(_DTYPES[header.field])
        value: NDArray[Any] = np.array([_value(words[2:], dtype)], dtype)
        if side == 0 and _bad_diagonal(value, header):
            return _BAD_DIAGONAL[header.symmetry]
        if _bad_negative(value, header):
            return "has an integer whose negative is none of int64"
        return None

    return wrong


_BAD_DIAGONAL = {
    "skew-symmetric": "is on the diagonal, which is zero in a skew-symmetric matrix",
    "hermitian": "is on the diagonal, which is real in a hermitian matrix",
}


def _value(words: list[bytes], dtype: np.dtype[Any]) -> Any:
    if dtype.kind in "iu":
        return int(words[0])
    numbers = [float(word.lower().replace(b"d", b"e").partition(b"(")[0]) for word in words] or [
        1.0
    ]
    return complex(*numbers) if dtype.kind == "c" else numbers[0]


def _bad_diagonal(values: NDArray[Any], header: _Header) -> bool:
    if header.symmetry == "skew-symmetric":
        return bool((values != 0).any())
    return header.symmetry == "hermitian" and bool((values.imag != 0).any())


def _bad_negative(values: NDArray[Any], header: _Header) -> bool:
    return (
        header.symmetry == "skew-symmetric"
        and values.dtype == np.int64
        and bool((values == -(2**63)).any())
    )


def _wrong_dense(matrix: NDArray[Any], header: _Header) -> _Reason | None:
    if header.symmetry == "skew-symmetric" and any(
        _bad_negative(piece, header) for piece in _pieces(matrix)
    ):
        return lambda _, words: (
            "has an integer whose negative is none of int64" if int(words[0]) == -(2**63) else None
        )
    diagonal = np.diagonal(matrix)
    if header.symmetry == "hermitian" and _bad_diagonal(diagonal, header):
        column = int(np.argmax(diagonal.imag != 0))
        # The columns of the lower triangle follow each other.
        entry = sum(len(matrix) - before for before in range(column))
        return lambda place, _: _BAD_DIAGONAL["hermitian"] if place == entry else None
    return _infinite if _too_large(matrix) else None


def _too_large(values: NDArray[Any]) -> bool:
    return values.dtype.kind in "fc" and any(np.isinf(piece).any() for piece in _pieces(values))


def _pieces(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    step = max(1, _PIECE // max(1, values[:1].size))
    for start in range(0, len(values), step):
        yield values[start : start + step]


def _shown(text: str | bytes) -> str:
    """The text in quotation marks, shortened."""
    text = text.decode("latin-1") if isinstance(text, bytes) else text
    text = text.strip(" \t\r\n")
    return repr(text if len(text) <= 60 else f"{text[:60]}…")
