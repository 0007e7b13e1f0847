"""Index arrays: their dtypes, column ranges, and blocks of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .._validation import Triangle

Indices = NDArray[np.int32] | NDArray[np.int64]
# (left, right): the columns left[i] <= j < right[i] of each row i. Both ascend.
ColumnRanges = tuple[NDArray[np.int64], NDArray[np.int64]]


def index_dtype(rows: int, columns: int, entries: int) -> np.dtype[Any]:
    """int32 while the rows, columns and entries of a matrix are all below 2³¹, else int64.

    The arguments must be Python integers: in int32 the square of 50 000 is negative.
    """
    return np.dtype(np.int32 if max(rows, columns, entries) < 2**31 else np.int64)


def searchsorted(array: Indices, value: int, side: Literal["left", "right"] = "left") -> int:
    """`numpy.searchsorted` for a Python integer.

    NumPy itself would convert the whole array to int64.
    """
    return int(
        np.searchsorted(array, array.dtype.type(min(value, np.iinfo(array.dtype).max)), side=side)
    )


def triangle(k: int, which: Triangle, *, offset: int = 0) -> ColumnRanges:
    """The column ranges of a triangle that begins `offset` places from the diagonal."""
    i = np.arange(k, dtype=np.int64)
    if which == "upper":
        return np.minimum(i + offset, k), np.full(k, k)
    return np.zeros(k, np.int64), np.maximum(i + 1 - offset, 0)


def blocks_of(indices: Any, indptr: Indices) -> Iterator[tuple[int, int, int, Indices]]:
    """Blocks ``(i0, i1, base, columns)`` of rows i0 ≤ i < i1 with their column indices.

    The first column index is that of entry `base`. Indices in memory are one block.
    """
    if isinstance(indices, np.ndarray):
        yield 0, indptr.size - 1, 0, indices
    else:
        yield from indices.blocks(indptr)


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only view.

    Numba has a separate type for read-only arrays. If all inputs are read-only, each kernel is
    compiled for one type, not two.
    """
    view = array.view()
    view.setflags(write=False)
    return view


def counts(each: NDArray[Any]) -> Any:
    """The sums of the numbers before each, and of all."""
    counts = np.zeros(each.size + 1, each.dtype)
    np.cumsum(each, out=counts[1:])
    return counts
