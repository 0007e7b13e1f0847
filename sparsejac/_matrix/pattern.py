"""The index pattern: the rows of J, and the entries of A that they belong to.

It depends on the structure of A alone. It knows nothing of `order`: with ``order="F"`` the rows are
those of Aᵀ in ``"C"`` order, as ``A_ij x_i x_j`` is entry (j, i) of ``Aᵀ ∘ xxᵀ``. So the builder
makes the pattern from the structure of Aᵀ, and swaps i and j in the results.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _kernels
from .._system.forks import computed_once
from .indices import ColumnRanges, Indices, blocks_of, counts, frozen, searchsorted
from .referenced import Referenced


class Pattern:
    """The rows of J: for each row i of A the entries ``lo[i] <= p < hi[i]``, by ascending column.

    Attributes
    ----------
    k : int
        The number of stored rows of A.
    width : int
        The number of stored columns of A.
    has_diagonal : bool
        Row i and column i of A belong to the same variable. Otherwise no entry is on a diagonal.
    entries : int
        The number of entries of A that are visited. J has as many rows that are not empty.
    stored : int
        The number of entries of A that are stored, visited or not.
    indices : ndarray of int, `StoredColumns` or None
        The column of each stored entry of A, in memory or not. It is None for a dense A, whose
        entry p is (p // width, p % width).
    lo, hi : ndarray of int, shape (k,)
        The bounds of the entries that are visited in each row.
    first : ndarray of int, shape (k + 1,)
        The number of entries that are visited in the rows before i.
    base : int
        The number of entries before the first one whose number is stored. It is 0 unless a source
        has some rows of a dense A only.
    implicit : int or None
        `width` if J has implicit rows: one for each pair (i, j), stored or not. None if J has one
        row for each visited entry.
    """

    indices: Any = None
    base = 0
    implicit: int | None = None
    has_diagonal = True
    # Whether kernels take several k-vectors as the columns of one matrix. What an entry of a sparse
    # row needs of them is in one cache line then.
    interleaved = False

    def __init__(
        self, k: int, width: int, stored: int, lo: Indices, hi: Indices, first: Indices
    ) -> None:
        self.k, self.width, self.stored, self.entries = k, width, stored, int(first[-1])
        self.lo, self.hi, self.first = frozen(lo), frozen(hi), frozen(first)

    # --- what depends on how A is stored

    def start(self, i: int) -> int:
        """The number of stored entries before row i."""
        raise NotImplementedError

    def columns_from(self, entry: int) -> Any:  # noqa: ARG002  # a dense A has none
        """The columns of the stored entries from one on. None for a dense A."""
        return None

    def pair(self, entry: int) -> tuple[int, int]:
        """The row and the column of a stored entry."""
        raise NotImplementedError

    def rows_of(self, entries: Indices) -> NDArray[Any]:
        """The rows of stored entries."""
        raise NotImplementedError

    def _diagonal_entries(self) -> NDArray[np.int64]:
        """The entry of A that is in column i of each row i, or -1."""
        raise NotImplementedError

    def in_row(self, i: int) -> tuple[Indices, Indices]:
        """The visited entries of row i as (columns, entries)."""
        raise NotImplementedError

    def in_column(self, j: int) -> tuple[Indices, Indices]:
        """The visited entries of column j as (rows, entries)."""
        raise NotImplementedError

    def column_range(self, i0: int, i1: int, *, diagonal: bool) -> tuple[int, int]:  # noqa: ARG002
        """Columns that include those visited in some rows, and with `diagonal` also i0 … i1 - 1."""
        return 0, self.width

    def next_block(self, i0: int, entries: int, rows: int) -> int:
        """The end of a block of rows from i0 on that has at most so many visited entries.

        A dense block may have more if it has no more than so many `rows`. A block has at least one
        row.
        """
        raise NotImplementedError

    def check_unchanged(self) -> None:
        """Refuse a referenced matrix that lost entries, or whose arrays were replaced.

        The check is O(1). A kernel with the old structure would write beyond its arrays.
        """

    def _entry_at(self, i: int, j: int) -> int:
        """The first stored entry of row i that is not left of column j."""
        raise NotImplementedError

    def _is_beyond_diagonal(self, i: int, entry: int) -> bool:
        """Whether an entry is right of the diagonal, where row i has a diagonal entry."""
        raise NotImplementedError

    # --- what follows

    @property
    def is_whole(self) -> bool:
        """Whether every stored entry is visited."""
        return self.entries == self.stored

    @property
    def is_full(self) -> bool:
        """Whether the visited entries are all pairs (i, j)."""
        return self.entries == self.k * self.width

    @property
    def is_square(self) -> bool:
        """Whether the visited entries are all pairs, and as many in each row as in each column."""
        return self.is_full and self.k == self.width

    def diagonal_entries(self) -> NDArray[np.int64]:
        """The entry of A that is on the diagonal in each row, or -1."""
        if not self.has_diagonal:
            return np.full(self.k, -1, np.int64)
        return self._diagonal_entries()

    @computed_once
    def diagonal(self) -> Indices:
        """The number of visited diagonal entries in the rows before i, shape (k + 1,)."""
        entries = self.diagonal_entries()
        is_visited = (self.lo <= entries) & (entries < self.hi)
        return frozen(counts(is_visited.astype(self.first.dtype)))

    @computed_once
    def m(self) -> int:
        """The number of rows of J."""
        return int(self.row(self.k))

    def row(self, i: Any) -> Any:
        """The first row of J that belongs to row i of A, or to each of several rows."""
        return self.first[i] if self.implicit is None else i * self.width

    def rows_of_entries(self, i: NDArray[Any], j: NDArray[Any]) -> Any:
        """The rows of J that belong to the visited entries, which are at these pairs (i, j)."""
        return slice(None) if self.implicit is None else i.astype(np.int64) * self.width + j

    @computed_once
    def nnz(self) -> int:
        """The number of entries of J: two in each row of a visited entry, one on the diagonal."""
        return 2 * self.entries - int(self.diagonal[-1])

    @computed_once
    def bounds(self) -> tuple[RowOffset, RowOffset]:
        """The offsets of all rows of J: before the first row, and behind the last."""
        return RowOffset(0, int(self.lo[0]) if self.k else 0, 0), self.row_offset(self.m)

    def row_offset(self, r: int) -> RowOffset:
        """The place in A, and among the entries of J, where row r of J starts."""
        if r >= self.m:
            return RowOffset(self.k, int(self.hi[-1]) if self.k else 0, self.nnz)
        if self.implicit is None:
            i = searchsorted(self.first, r, side="right") - 1
            p = int(self.lo[i]) + r - int(self.first[i])
        else:
            i, j = divmod(r, self.width)
            p = self._entry_at(i, j)
        before = int(self.first[i]) + p - int(self.lo[i])
        has_diagonal = self.diagonal[i + 1] > self.diagonal[i]
        on_diagonal = int(self.diagonal[i]) + (has_diagonal and self._is_beyond_diagonal(i, p))
        return RowOffset(i, p, 2 * before - on_diagonal)

    @computed_once
    def _all_diagonal_entries(self) -> Any:
        return self.diagonal_entries()

    def diagonal_entries_of(self, i0: int, i1: int, *, visited: bool = True) -> NDArray[Any]:
        """The entry on the diagonal in each of these rows, or -1 (also if it is not `visited`)."""
        entries: Any = self._all_diagonal_entries[i0:i1]
        if not visited:
            return np.asarray(entries)
        is_visited = (entries >= self.lo[i0:i1]) & (entries < self.hi[i0:i1])
        return np.where(is_visited, entries, -1)

    def scattered(self, numbers: NDArray[Any]) -> NDArray[Any]:
        """The numbers of the visited entries at all stored entries, with zeros at the others."""
        if self.is_whole:
            return numbers
        out = np.zeros(self.stored, numbers.dtype)
        for i in range(self.k):
            out[self.lo[i] : self.hi[i]] = numbers[self.first[i] : self.first[i + 1]]
        return out


class DensePattern(Pattern):
    """All entries of a dense A, or those within column ranges. It takes O(k) memory.

    `rows` are the bounds of the rows that are stored. The other rows have no entries.
    """

    def __init__(
        self,
        k: int,
        ranges: ColumnRanges | None = None,
        rows: tuple[int, int] | None = None,
        *,
        width: int | None = None,
    ) -> None:
        width = k if width is None else width
        first = np.arange(k + 1, dtype=np.int64) * width
        lo, hi = first[:-1], first[1:]
        if ranges is not None:
            lo, hi = lo + ranges[0], lo + ranges[1]
        i0, i1 = rows or (0, k)
        if rows is not None:
            hi = hi.copy()
            hi[:i0], hi[i1:] = lo[:i0], lo[i1:]
        if ranges is not None or rows is not None:
            first = counts(hi - lo)
        super().__init__(k, width, (i1 - i0) * width, lo, hi, first)
        self.base, self._rows = i0 * width, (i0, i1)

    def start(self, i: int) -> int:
        return i * self.width

    def pair(self, entry: int) -> tuple[int, int]:
        return divmod(entry, self.width)

    def rows_of(self, entries: Indices) -> NDArray[Any]:
        return entries // self.width

    def _diagonal_entries(self) -> NDArray[np.int64]:
        entries = np.arange(self.k, dtype=np.int64) * (self.k + 1)
        entries[: self._rows[0]] = entries[self._rows[1] :] = -1
        return entries

    def in_row(self, i: int) -> tuple[Indices, Indices]:
        entries = np.arange(int(self.lo[i]), int(self.hi[i]), dtype=np.int64)
        return entries - i * self.width, entries

    def in_column(self, j: int) -> tuple[Indices, Indices]:
        positions = np.arange(self.k, dtype=np.int64) * self.width + j
        rows = np.flatnonzero((self.lo <= positions) & (positions < self.hi))
        return rows, positions[rows]

    def column_range(self, i0: int, i1: int, *, diagonal: bool) -> tuple[int, int]:
        starts = np.arange(i0, i1) * self.width
        c0, c1 = int(np.min(self.lo[i0:i1] - starts)), int(np.max(self.hi[i0:i1] - starts))
        if diagonal:
            c0, c1 = min(c0, i0), max(c1, i1)
        return c0, max(c0, c1)

    def next_block(self, i0: int, entries: int, rows: int) -> int:
        return i0 + max(rows, entries // max(self.width, 1))

    def _is_beyond_diagonal(self, i: int, entry: int) -> bool:
        return entry > i * self.width + i


class CsrPattern(Pattern):
    """The stored entries of a canonical CSR matrix, or those within column ranges.

    It takes O(k) memory and O(k log k) time. `indptr` is the user's own array if A is referenced.
    `on_diagonal` is the stored entry of each row that is on the diagonal, or -1. It is None if it
    is not known.
    """

    interleaved = True

    def __init__(
        self,
        indptr: Indices,
        indices: Any,
        ranges: ColumnRanges | None = None,
        *,
        implicit_rows: bool = False,
        on_diagonal: Indices | None = None,
        width: int | None = None,
        referenced: Referenced | None = None,
    ) -> None:
        k = indptr.size - 1
        width = k if width is None else width
        lo, hi, first = indptr[:-1], indptr[1:], indptr
        if ranges is not None:
            lo, hi = np.empty_like(lo), np.empty_like(hi)
            for i0, i1, base, block in blocks_of(indices, indptr):
                _kernels.csr_spans(indptr, block, base, i0, i1, *ranges, lo, hi)
            first = counts(hi - lo)
        super().__init__(k, width, indices.size, lo, hi, first)
        self.indices = frozen(indices) if isinstance(indices, np.ndarray) else indices
        self.implicit, self.indptr = width if implicit_rows else None, frozen(indptr)
        self._on_diagonal, self._referenced = on_diagonal, referenced

    def check_unchanged(self) -> None:
        if self._referenced is not None:
            self._referenced.check()

    def start(self, i: int) -> int:
        return int(self.indptr[i])

    def columns_from(self, entry: int) -> Any:
        return self.indices[entry:]

    def pair(self, entry: int) -> tuple[int, int]:
        return int(self.rows_of(entry)), int(self.indices[entry : entry + 1][0])

    def rows_of(self, entries: Any) -> NDArray[Any]:
        return np.searchsorted(self.indptr, entries, side="right") - 1

    def _diagonal_entries(self) -> NDArray[np.int64]:
        if self._on_diagonal is not None:
            return self._on_diagonal.astype(np.int64)
        entries = np.empty(self.k, np.int64)
        for i0, i1, base, block in blocks_of(self.indices, self.indptr):
            _kernels.csr_diagonals(self.indptr, block, base, i0, i1, None, entries)
        return entries

    def in_row(self, i: int) -> tuple[Indices, Indices]:
        lo, hi = int(self.lo[i]), int(self.hi[i])
        return self.indices[lo:hi], np.arange(lo, hi, dtype=np.int64)

    def in_column(self, j: int) -> tuple[Indices, Indices]:
        positions = np.empty(self.k, np.int64)
        for i0, i1, base, block in blocks_of(self.indices, self.indptr):
            _kernels.csr_column(self.lo, self.hi, block, base, i0, i1, j, positions)
        rows = np.flatnonzero(positions >= 0)
        return rows, positions[rows]

    def next_block(self, i0: int, entries: int, rows: int) -> int:  # noqa: ARG002  # see above
        return max(searchsorted(self.hi, int(self.lo[i0]) + entries, side="right"), i0 + 1)

    def _entry_at(self, i: int, j: int) -> int:
        lo = int(self.lo[i])
        return lo + searchsorted(self.indices[lo : self.hi[i]], j)

    def _is_beyond_diagonal(self, i: int, entry: int) -> bool:
        before = self.indices[self.lo[i] : entry]
        return bool(before.size > 0 and before[-1] >= i)


@dataclass(frozen=True)
class RowOffset:
    """A place between two rows of J.

    It is in row `row` of A, before entry `entry`, and behind `nnz` entries of J.
    """

    row: int
    entry: int
    nnz: int
