"""How the rows of A are shared out: pieces of about the same number of entries."""

from __future__ import annotations

from .._matrix.pattern import Pattern, searchsorted

# entries a thread takes at a time, at least: its turn at the interpreter takes time as well
_PIECE = 2**18


def pieces(entries: int, workers: int) -> int:
    """How many pieces threads take one after the other."""
    return min(entries // _PIECE + 1, 8 * workers)


def partial_sums(pattern: Pattern, most: int) -> int:
    """How many partial sums to make: many where one, of k numbers, costs little beside its entries. A power of two."""
    pieces = most
    while pieces > 1 and pattern.entries < pieces * (4 * pattern.k + _PIECE):
        pieces //= 2
    return pieces


def bounds_of(pattern: Pattern, i0: int, i1: int, pieces: int) -> list[int]:
    """Rows at which to cut ``i0 … i1`` into pieces of about the same number of entries."""
    begin, end = int(pattern.first[i0]), int(pattern.first[i1])
    targets = [begin + (end - begin) * piece // pieces for piece in range(1, pieces)]
    inner = (searchsorted(pattern.first, target) for target in targets)
    return sorted({i0, *(min(max(i, i0), i1) for i in inner), i1}) if i1 > i0 else [i0, i1]
