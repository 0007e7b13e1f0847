"""The partition of A's rows into pieces of about the same number of entries."""

from __future__ import annotations

import numpy as np

from .._matrix.pattern import Pattern

# The least number of entries that a thread takes at a time: waiting for the GIL costs time too.
_PIECE = 2**18
# More than a few partial sums pay on many processors. On two, they must not cost time.
_FEW, _LARGE_PIECE = 8, 2**21


def pieces(entries: int, workers: int) -> int:
    """How many pieces threads share for a map over so many entries."""
    return min(entries // _PIECE + 1, 8 * workers)


def partial_sums(pattern: Pattern, most: int, rows: int | None = None) -> int:
    """How many partial sums to make: a power of two, at most `most`.

    There are many if one of them, of so many rows or of k, costs little compared with its entries.
    """
    rows = pattern.k if rows is None else rows
    pieces = most
    while pieces > 1:
        least = 4 * rows + (_PIECE if pieces <= _FEW else _LARGE_PIECE)
        if pattern.entries >= pieces * least:
            break
        pieces //= 2
    return pieces


def bounds_of(pattern: Pattern, i0: int, i1: int, pieces: int) -> list[int]:
    """The bounds that split rows ``i0 … i1`` into pieces of about the same number of entries."""
    if i1 <= i0:
        return [i0, i1]
    first = pattern.first
    begin, end = int(first[i0]), int(first[i1])
    targets = [begin + (end - begin) * piece // pieces for piece in range(1, pieces)]
    # In another dtype than that of `first`, NumPy would convert all of it.
    inner = np.searchsorted(first, np.array(targets, first.dtype)).clip(i0, i1)
    return sorted({i0, *inner.tolist(), i1})
