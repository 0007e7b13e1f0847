"""Reads Matrix Market files, and checks each line before SciPy parses it.

SciPy's reader stops inside a number that it does not understand and ignores the rest of the line:
it reads ``2.5D+03`` as 2.5. It can crash on a broken line of an array file. So it only gets
complete lines that match a regular expression, and exactly as many as the size line says.
"""

from __future__ import annotations

import inspect
import io
import re
from pathlib import Path
from typing import IO, Any

import numpy as np
import scipy.io
import scipy.sparse

from .._system.signals import unless_signalled
from .market_faults import blame, infinite, opened, out_of_range, wrong_dense, wrong_sparse
from .market_header import DTYPES, MAX_LINE, UNFINISHED, Header, read_header, shown
from .npy import INFLATED

_BLOCK = 2**18  # how many bytes of text are checked at a time
_EMPTY = re.compile(rb"(?:[ \t]*+\r?\n)+")


def read(path: Path) -> Any:
    """Read a COO array or an ndarray. A ValueError names the line that is wrong."""
    zipped = path.name.lower().endswith(".gz")
    with opened(path) as file:
        header = read_header(file)
        size = path.stat().st_size * (INFLATED if zipped else 1)
        if header.entries * header.smallest > size:  # check this before memory is allocated
            raise ValueError(
                f"it is truncated: line {header.size_line} says that {header.entries} lines follow"
            )
        body = _Body(file, header)
        if header.entries:
            try:
                # From SciPy 1.15 on, mmread takes an option for the class of sparse matrices.
                new = "spmatrix" in inspect.signature(scipy.io.mmread).parameters
                with np.errstate(invalid="ignore"):  # see the end of this function
                    matrix = scipy.io.mmread(body, **({"spmatrix": False} if new else {}))
            except MemoryError:
                raise
            except unless_signalled(Exception) as error:  # a number is too large, say
                body.raise_error()
                blame(path, header, out_of_range(header))
                raise ValueError(str(error)) from None
        elif header.format == "array":  # SciPy would divide by zero rows
            matrix = np.zeros(header.shape, DTYPES[header.field])
        else:
            matrix = scipy.sparse.coo_array(header.shape, dtype=DTYPES[header.field])
        while body.read(_BLOCK):  # check the lines after the entries
            pass
        body.raise_error()
    wrong = (
        wrong_sparse(matrix, header)
        if header.format == "coordinate"
        else wrong_dense(matrix, header)
    )
    if wrong is not None:
        blame(path, header, wrong)
        if wrong is not infinite:  # the file itself may contain inf
            raise ValueError("it has changed while it was read: read it anew")
    if header.symmetry == "skew-symmetric" and header.format == "coordinate":
        # SciPy multiplies the mirrored triangle by -1, which makes NaN of the 1 in inf + 1j.
        data, count = matrix.data, header.entries
        data[count:] = -data[:count][matrix.row[:count] != matrix.col[:count]]
    return matrix


class _Body(io.RawIOBase):
    """The file object that SciPy reads: a header, and as many checked lines as the header says.

    It ends before the first line that is wrong, and `raise_error` raises the error. `read` itself
    does not raise errors, because SciPy's reader does not handle them.
    """

    def __init__(self, file: IO[bytes], header: Header) -> None:
        self._file, self._header, self._lines = file, header, header.lines
        self._out, self._position = header.text, 0
        self._entries, self._line, self._rest, self._ended = 0, header.size_line + 1, b"", False
        self._error: BaseException | None = None

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while self._position == len(self._out) and not self._ended:
            self._out, self._position = b"", 0
            try:
                self._out = self._next()
            except BaseException as error:  # noqa: BLE001  # also Ctrl-C, which is raised later
                self._error, self._ended = error, True
        start = self._position
        self._position = len(self._out) if size < 0 else min(start + size, len(self._out))
        return self._out[start : self._position]

    def raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _next(self) -> bytes:
        data = self._file.read(_BLOCK)
        if not data:
            self._ended = True
            if self._rest:
                raise ValueError(UNFINISHED)
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
        if len(self._rest) > MAX_LINE:
            raise self._wrong(self._line, self._rest)
        return _normalised(block)

    def _check(self, block: bytes) -> None:
        position, entries = 0, self._entries
        while True:
            match = self._lines.match(block, position)
            end = match.end() if match else position
            entries += block.count(b"\n", position, end)
            if entries > self._header.entries:
                while entries > self._header.entries:  # go back to the first line too many
                    end = block.rfind(b"\n", 0, end - 1) + 1
                    entries -= 1
                number, line = (
                    self._line + block.count(b"\n", 0, end),
                    block[end : block.index(b"\n", end)],
                )
                raise ValueError(
                    f"line {number}, {shown(line)}, is one more than the {entries} lines with "
                    "entries that the size line says"
                )
            if end == len(block):
                break
            empty = _EMPTY.match(block, end)
            if empty is None:
                raise self._wrong(
                    self._line + block.count(b"\n", 0, end), block[end : block.index(b"\n", end)]
                )
            position = empty.end()
        self._entries = entries
        self._line += block.count(b"\n")

    def _wrong(self, number: int, line: bytes) -> ValueError:
        hint = "; comments stand before the size line" if line.lstrip().startswith(b"%") else ""
        return ValueError(f"line {number}, {shown(line)}, must be {self._header.needed}{hint}")


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
