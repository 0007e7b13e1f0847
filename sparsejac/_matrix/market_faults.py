"""Finds the wrong line of a Matrix Market file, after SciPy's reader or its numbers reveal one."""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .. import _validation
from .market_header import DTYPES, Header, shown

_PIECE = 2**16  # how many entries are checked at a time
_BAD_DIAGONAL = {
    "skew-symmetric": "is on the diagonal, which is zero in a skew-symmetric matrix",
    "hermitian": "is on the diagonal, which is real in a hermitian matrix",
}
# A function of the number of an entry and the words of its line. It says what is wrong, or None.
Fault = Callable[[int, list[bytes]], str | None]


def opened(path: Path) -> IO[bytes]:
    """Open the text of a file, which may be compressed."""
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def blame(path: Path, header: Header, wrong: Fault) -> None:
    """Raise an error for the first line that is wrong."""
    for entry, (number, line) in enumerate(_entries(path, header)):
        reason = wrong(entry, line.split())
        if reason is not None:
            raise ValueError(f"line {number}, {shown(line)}, {reason}")


def _entries(path: Path, header: Header) -> Iterator[tuple[int, bytes]]:
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            if number > header.size_line and line.strip():
                yield number, line


def out_of_range(header: Header) -> Fault:
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


def infinite(_: int, words: list[bytes]) -> str | None:
    for word in words:
        if b"inf" not in word.lower() and math.isinf(_float(word)):
            return "has a number that is too large for float64"
    return None


def _float(word: bytes) -> float:
    return float(word.lower().replace(b"d", b"e").partition(b"(")[0])


def wrong_sparse(matrix: Any, header: Header) -> Fault | None:
    data = matrix.data[: header.entries]  # SciPy appends the mirrored triangle
    if header.symmetry == "general":
        return infinite if _too_large(data) else None
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
    return infinite if _too_large(data) else None


def _wrong_symmetry(header: Header, first: int | None) -> Fault:
    def wrong(_: int, words: list[bytes]) -> str | None:
        i, j = int(words[0]), int(words[1])
        side = (i > j) - (i < j)
        if side and side != first:
            other, one = ("below", "above") if side > 0 else ("above", "below")
            return (
                f"is {other} the diagonal, where those before are {one} it: a "
                f"{header.symmetry} file holds one triangle, so write this file as general, or "
                "leave out one of its triangles"
            )
        dtype = np.dtype(DTYPES[header.field])
        value: NDArray[Any] = np.array([_value(words[2:], dtype)], dtype)
        if side == 0 and _bad_diagonal(value, header):
            return _BAD_DIAGONAL[header.symmetry]
        if _bad_negative(value, header):
            return "has an integer whose negative does not fit into int64"
        return None

    return wrong


def _value(words: list[bytes], dtype: np.dtype[Any]) -> Any:
    if dtype.kind in "iu":
        return int(words[0])
    numbers = [_float(word) for word in words] or [1.0]
    return complex(*numbers) if dtype.kind == "c" else numbers[0]


def _bad_diagonal(values: NDArray[Any], header: Header) -> bool:
    if header.symmetry == "skew-symmetric":
        return bool((values != 0).any())
    return header.symmetry == "hermitian" and bool((values.imag != 0).any())


def _bad_negative(values: NDArray[Any], header: Header) -> bool:
    return (
        header.symmetry == "skew-symmetric"
        and values.dtype == np.int64
        and bool((values == -(2**63)).any())
    )


def wrong_dense(matrix: NDArray[Any], header: Header) -> Fault | None:
    if header.symmetry == "skew-symmetric" and any(
        _bad_negative(piece, header) for _, piece in _validation.pieces(matrix)
    ):
        return lambda _, words: (
            "has an integer whose negative does not fit into int64"
            if int(words[0]) == -(2**63)
            else None
        )
    diagonal = np.diagonal(matrix)
    if header.symmetry == "hermitian" and _bad_diagonal(diagonal, header):
        column = int(np.argmax(diagonal.imag != 0))
        # The file lists the lower triangle column by column.
        entry = sum(len(matrix) - before for before in range(column))
        return lambda position, _: _BAD_DIAGONAL["hermitian"] if position == entry else None
    return infinite if _too_large(matrix) else None


def _too_large(values: NDArray[Any]) -> bool:
    return values.dtype.kind in "fc" and any(
        np.isinf(piece).any() for _, piece in _validation.pieces(values)
    )
