"""Reads the header of a Matrix Market file: its first line, comments, and the size line."""

from __future__ import annotations

import codecs
import re
from typing import IO, NamedTuple

import numpy as np

MAX_LINE = 2**16  # bytes of a line
DTYPES = {
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
UNFINISHED = "its last line does not end, so it may be truncated: if it is complete, add a newline"


class Header(NamedTuple):
    format: str
    field: str
    symmetry: str
    shape: tuple[int, int]
    entries: int  # how many lines with entries follow
    size_line: int  # the number of the size line

    @property
    def text(self) -> bytes:
        """The header that SciPy reads instead. It has as many lines as the one in the file."""
        sizes = (*self.shape, self.entries) if self.format == "coordinate" else self.shape
        first = f"%%MatrixMarket matrix {self.format} {self.field} {self.symmetry}\n"
        return (first + "%\n" * (self.size_line - 2) + " ".join(map(str, sizes)) + "\n").encode()

    @property
    def needed(self) -> str:
        """Words that say what a line must hold."""
        words = ["a row", "a column"] if self.format == "coordinate" else []
        words += [] if self.field == "pattern" else [_WORDS[self.field]]
        listed = f"{', '.join(words[:-1])}{' and ' if words[1:] else ''}{words[-1]}"
        return f"{listed}, as the header says ({self.format} {self.field})"

    @property
    def lines(self) -> re.Pattern[bytes]:
        """A pattern that matches consecutive lines with entries."""
        line = _INDEX + rb"\d++" if self.format == "coordinate" else b""
        if self.field != "pattern":
            line += (rb"[ \t]++" if line else b"") + _VALUES[self.field]
        return re.compile(rb"(?:[ \t]*+" + line + rb"[ \t]*+\r?\n)*")

    @property
    def smallest(self) -> int:
        """The number of bytes of the shortest line."""
        numbers = (2 if self.format == "coordinate" else 0) + {"complex": 2, "pattern": 0}.get(
            self.field, 1
        )
        return 2 * numbers


def read_header(file: IO[bytes]) -> Header:
    format_, field, symmetry = _first_line(file)
    m, n, lines, number = _sizes(file, format_, symmetry)
    return Header(format_, field, symmetry, (m, n), lines, number)


def _first_line(file: IO[bytes]) -> tuple[str, str, str]:
    """Read format, field and symmetry."""
    first = file.readline(MAX_LINE)
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
            f"{shown(' '.join(words))}"
        )
    kind, format_, field, symmetry = (word.lower() for word in words[1:])
    for what, word, accepted in (
        ("object", kind, ["matrix"]),
        ("format", format_, ["coordinate", "array"]),
        ("field", field, list(DTYPES)),
        ("symmetry", symmetry, list(_SYMMETRIES)),
    ):
        if word not in accepted:
            raise ValueError(
                f"the {what} in line 1 must be {' or '.join(accepted)}, got {shown(word)}"
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
    return format_, field, symmetry


def _sizes(file: IO[bytes], format_: str, symmetry: str) -> tuple[int, int, int, int]:
    """Read the rows, the columns, the number of lines with entries, and the size line's number."""
    number, text = _size_line(file)
    count = 3 if format_ == "coordinate" else 2
    if not re.fullmatch(rb"[ \t]*\d+(?:[ \t]+\d+){%d}[ \t]*\r?\n" % (count - 1), text):
        if text and not text.endswith(b"\n") and len(text) < MAX_LINE:
            raise ValueError(UNFINISHED)
        sizes = "rows, columns and entries" if count == 3 else "rows and columns"
        raise ValueError(
            f"line {number} must be the numbers of {sizes}, got {shown(text.decode('latin-1'))}"
        )
    m, n, *rest = (int(size) for size in text.split())
    if max(m, n, *rest) >= 2**63:
        raise ValueError(
            f"the sizes in line {number} must be below 2**63, got {shown(text.decode('latin-1'))}"
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
    return m, n, lines, number


def _size_line(file: IO[bytes]) -> tuple[int, bytes]:
    """Read to the first line that is neither a comment nor empty. Returns its number and text."""
    number = 1
    while True:
        number += 1
        text = file.readline(MAX_LINE)
        if not text.lstrip().startswith(b"%") and (not text or text.strip()):
            return number, text
        while text and not text.endswith(b"\n"):  # the rest of a long comment
            text = file.readline(MAX_LINE)


def shown(text: str | bytes) -> str:
    """Shorten a text and put it in quotation marks."""
    text = text.decode("latin-1") if isinstance(text, bytes) else text
    text = text.strip(" \t\r\n")
    return repr(text if len(text) <= 60 else f"{text[:60]}…")
