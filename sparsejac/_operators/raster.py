"""What the cells of a raster hold: entries of J, and numbers of a symmetric A before and after.

Both are counted from blocks of entries. So they take the raster, one block, and O(k).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._matrix.indices import blocks_of
from .assembly import Assembly

BLOCK = 2**17  # entries of A that are counted together, unless a row has more


def edges(size: int, cells: int) -> NDArray[np.int64]:
    """The bounds of the cells of a raster line: cell c has ``edges[c] <= i < edges[c + 1]``."""
    return -(-np.arange(cells + 1, dtype=np.int64) * size // max(cells, 1))


def _cells_of(size: int, cells: int) -> NDArray[np.int64]:
    """The cell of each number below `size`."""
    return np.arange(size, dtype=np.int64) * cells // max(size, 1)


def count_entries(assembly: Assembly, rows: int, columns: int) -> NDArray[np.int64]:
    """Count the entries of J in each cell of a raster of its rows and columns.

    J is not formed, and nothing has a number for each row of J.
    """
    backend, of, (m, n) = assembly.rows, assembly.variables, assembly.shape
    if not backend.local:
        raise backend.stays("the pattern of J")
    backend.check_row_structure()
    pattern, rank = backend.pattern, of.rank
    pattern.check_unchanged()
    counts, cells = np.zeros((rows, columns), np.int64), _cells_of(n, columns)
    for first, i, j in _pairs_in_blocks(pattern):
        r = np.arange(first, first + i.size)
        if pattern.implicit is not None:
            r = i * pattern.width + j
        r = r * rows // m
        top, bottom = int(r[0]), int(r[-1]) + 1
        r = (r - top) * columns
        s, t = (i + of.row_offset) * rank, (j + of.column_offset) * rank
        twice = s != t
        for c in range(rank):
            places = np.concatenate([r + cells[s + c], (r + cells[t + c])[twice]])
            found = np.bincount(places, minlength=(bottom - top) * columns)
            counts[top:bottom] += found.reshape(-1, columns)
    return counts


def _pairs_in_blocks(pattern: Any) -> Iterator[tuple[int, NDArray[Any], NDArray[Any]]]:
    """The pairs (i, j) of the visited entries, block by block, with the number of the first one."""
    whole = ((0, pattern.k, 0, None),)
    stored = whole if pattern.indices is None else blocks_of(pattern.indices, pattern.indptr)
    for begin, last, base, columns in stored:
        i0 = begin
        while i0 < last:
            end = min(pattern.next_block(i0, BLOCK, 1), last)
            lo, hi, first = pattern.lo[i0:end], pattern.hi[i0:end], int(pattern.first[i0])
            visited = (hi - lo).astype(np.int64)
            i = np.repeat(np.arange(i0, end, dtype=np.int64), visited)
            entries = np.arange(first, first + i.size)
            entries += np.repeat(lo - pattern.first[i0:end], visited)
            j = entries - i * pattern.width if columns is None else columns[entries - base]
            if i.size:
                yield first, i, j.astype(np.int64)
            i0 = end


class BeforeAndAfter(NamedTuple):
    """A symmetric A, and ``Diag(x) A Diag(x)``, as the sums in the cells, and as row sums."""

    before: NDArray[np.float64]
    after: NDArray[np.float64]
    row_sums: NDArray[np.float64]  # of A, over the rows that are kept
    scaled_row_sums: NDArray[np.float64]


def add_up(
    blocks: Iterator[tuple[int, Any]], x: NDArray[np.float64], cells: int, counts: Any
) -> BeforeAndAfter:
    """Add up a symmetric A from blocks of the Jacobian of its upper triangle at ``x = 1``.

    A row of J has A_ij in columns i and j, or 2 A_ii in column i. `counts` tells which pairs
    (i, j) count. x is 0 in the rows that are left out.
    """
    k, kept = x.size, x > 0
    cell = _cells_of(k, cells)
    found = BeforeAndAfter(*np.zeros((2, cells * cells)), *np.zeros((2, k)))
    for _, block in blocks:
        starts, ends = block.indptr[:-1], block.indptr[1:]
        i, j, a = block.indices[starts], block.indices[ends - 1], block.data[starts]
        a = np.where(i == j, a / 2, a).astype(np.float64)
        use = counts(i, j)
        i, j, a = i[use], j[use], a[use]
        off = i != j
        i, j, a = np.r_[i, j[off]], np.r_[j, i[off]], np.r_[a, a[off]]
        scaled, here = a * x[i] * x[j], cell[i] * cells + cell[j]
        for out, where, numbers in (
            (found.before, here, a),
            (found.after, here, scaled),
            (found.row_sums, i, a * (kept[i] & kept[j])),
            (found.scaled_row_sums, i, scaled),
        ):
            np.add(out, np.bincount(where, numbers, out.size), out=out)
    square = cells, cells
    return found._replace(before=found.before.reshape(square), after=found.after.reshape(square))
