"""Sorts the pixels of old files, and sums duplicates."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def rows_of(indptr: NDArray[np.int64], start: int, stop: int) -> NDArray[np.int64]:
    """The row of each pixel from `start` to `stop`."""
    i0 = int(np.searchsorted(indptr, start, side="right")) - 1
    i1 = int(np.searchsorted(indptr, stop, side="left"))
    bounds = np.clip(indptr[i0 : i1 + 1], start, stop)
    return np.repeat(np.arange(i0, i0 + bounds.size - 1), np.diff(bounds))


def sorting(rows: NDArray[Any], columns: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The order in which pixels ascend, and the first pixel of each (row, column) in that order."""
    order = np.lexsort((columns, rows))
    rows, columns = rows[order], columns[order]
    new = np.ones(rows.size, np.bool_)
    new[1:] = (rows[1:] != rows[:-1]) | (columns[1:] != columns[:-1])
    return order, np.flatnonzero(new)


def summed(uri: str, counts: NDArray[Any], first: NDArray[np.intp]) -> NDArray[Any]:
    """Sum the counts of duplicates, whose groups begin at `first`. The dtype stays the same."""
    if first.size == counts.size:
        return counts
    kind, dtype = counts.dtype.kind, counts.dtype.newbyteorder("=")
    if kind == "f":
        with np.errstate(over="ignore", invalid="ignore"):
            found = np.add.reduceat(counts.astype(np.float64), first).astype(dtype)
        finite = np.isfinite(np.add.reduceat(np.where(np.isfinite(counts), 0.0, np.inf), first))
        wrong = finite & ~np.isfinite(found)
        total = " is beyond the largest"
    else:
        # A sum of 64-bit integers may overflow, so their high and low bits are added separately.
        wide = counts.astype(np.uint64 if kind == "u" else np.int64)
        high, low = (np.add.reduceat(half, first) for half in (wide >> 32, wide & 0xFFFFFFFF))
        high, low = high + (low >> 32), low & 0xFFFFFFFF
        limits = (0, 1) if kind == "b" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
        lowest, highest = (divmod(limit, 2**32) for limit in limits)
        wrong = (high < lowest[0]) | (high > highest[0])
        wrong |= (high == lowest[0]) & (low < lowest[1])
        wrong |= (high == highest[0]) & (low > highest[1])
        found = ((high << 32) | low).astype(dtype)
        at = int(np.argmax(wrong))
        total = f", {int(high[at]) * 2**32 + int(low[at])}, does not fit into"
    if wrong.any():
        raise ValueError(
            f"column pixels/count of {uri} has a pixel more than once, and the sum of its "
            f"counts{total} {dtype}: make the map anew, for instance with cooler, which adds them"
        )
    return found
