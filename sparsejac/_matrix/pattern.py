"""The index pattern: the rows of J, and the entries of A that they belong to.

It depends on the structure of A alone. It knows nothing of `order`: with ``order="F"`` the rows are
those of Aᵀ in ``"C"`` order, as ``A_ij x_i x_j`` is entry (j, i) of ``Aᵀ ∘ xxᵀ``. So the builder
makes the pattern from the structure of Aᵀ, and swaps i and j in the results.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import _kernels, _validation
from .._system.forks import computed_once
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


def _counts(each: NDArray[Any]) -> Any:
    """The sums of the numbers before each, and of all."""
    counts = np.zeros(each.size + 1, each.dtype)
    np.cumsum(each, out=counts[1:])
    return counts


@dataclass(frozen=True, eq=False)
class Pattern:
    """The rows of J: for each row i of A the entries ``lo[i] <= p < hi[i]``, by ascending column.

    Attributes
    ----------
    k : int
        A is k×k.
    entries : int
        The number of entries of A that are visited. J has as many rows that are not empty.
    indices : ndarray of int, `StoredColumns` or None
        The column of each stored entry of A, in memory or not. It is None for a dense A, whose
        entry p is (p // k, p % k).
    lo, hi : ndarray of int, shape (k,)
        The bounds of the entries that are visited in each row.
    first : ndarray of int, shape (k + 1,)
        The number of entries that are visited in the rows before i.
    grid : int or None
        k if J has implicit rows: one for each of the k² pairs, stored or not. None if J has one row
        for each visited entry.
    indptr : ndarray of int, shape (k + 1,), or None
        The indptr of the CSR matrix. It is the user's own array if A is referenced.
    on_diagonal : ndarray of int, shape (k,), or None
        The stored entry of each row that is on the diagonal, or -1. None if not known.
    """

    k: int
    entries: int
    indices: Any
    lo: Indices
    hi: Indices
    first: Indices
    grid: int | None = None
    indptr: Indices | None = None
    on_diagonal: Indices | None = None

    @classmethod
    def dense(cls, k: int, spans: ColumnRanges | None = None) -> Pattern:
        """All entries of a dense A, or those within column ranges. This takes O(k) memory."""
        i = np.arange(k + 1, dtype=np.int64)
        lo = i[:-1] * k
        lo, hi = (lo, lo + k) if spans is None else (lo + spans[0], lo + spans[1])
        first = _counts(hi - lo)
        return cls(k, int(first[-1]), None, frozen(lo), frozen(hi), frozen(first))

    @classmethod
    def csr(
        cls,
        indptr: Indices,
        indices: Any,
        spans: ColumnRanges | None = None,
        *,
        grid: bool = False,
        on_diagonal: Indices | None = None,
    ) -> Pattern:
        """The stored entries of a canonical CSR matrix, or those within column ranges.

        This takes O(k) memory and O(k log k) time.
        """
        k = indptr.size - 1
        lo, hi, first = indptr[:-1], indptr[1:], indptr
        if spans is not None:
            lo, hi = np.empty_like(lo), np.empty_like(hi)
            for i0, i1, base, block in blocks_of(indices, indptr):
                _kernels.csr_spans(indptr, block, base, i0, i1, *spans, lo, hi)
            first = _counts(hi - lo)
        indices = frozen(indices) if isinstance(indices, np.ndarray) else indices
        entries, lo, hi, first = int(first[-1]), frozen(lo), frozen(hi), frozen(first)
        return cls(
            k, entries, indices, lo, hi, first, k if grid else None, frozen(indptr), on_diagonal
        )

    @computed_once
    def diagonal(self) -> Indices:
        """The number of visited diagonal entries in the rows before i, shape (k + 1,)."""
        entries = self.diagonal_entries()
        is_visited = (self.lo <= entries) & (entries < self.hi)
        return frozen(_counts(is_visited.astype(self.first.dtype)))

    @computed_once
    def m(self) -> int:
        """The number of rows of J."""
        return self.entries if self.grid is None else self.k**2

    @computed_once
    def nnz(self) -> int:
        """The number of entries of J: two in each row of a visited entry, one on the diagonal."""
        return 2 * self.entries - int(self.diagonal[-1])

    @property
    def columns_dtype(self) -> np.dtype[Any]:
        """The dtype of the index arrays of the whole of J."""
        return index_dtype(self.m, self.k, self.nnz)

    def check_unchanged(self) -> None:
        """Refuse a referenced matrix whose structure changed, for example by `eliminate_zeros`.

        The check is O(1). A kernel with the old structure would write beyond its arrays.
        """
        if (
            self.indptr is not None
            and self.indices is not None
            and self.indptr[-1] != self.indices.size
        ):
            raise _validation.changed_structure(self.indices.size, int(self.indptr[-1]))

    def csr_nbytes(self, itemsize: int) -> int:
        """The exact number of bytes of the three arrays of J."""
        return self.nnz * itemsize + (self.nnz + self.m + 1) * self.columns_dtype.itemsize

    @computed_once
    def bounds(self) -> tuple[RowOffset, RowOffset]:
        """The row offsets of the first row of J, and of the end of the last row."""
        return RowOffset(0, int(self.lo[0]) if self.k else 0, 0), self.row_offset(self.m)

    def row_offset(self, r: int) -> RowOffset:
        """Where row r of J starts, in A and among the entries of J."""
        if r >= self.m:
            return RowOffset(self.k, int(self.hi[-1]) if self.k else 0, self.nnz)
        if self.grid is None:
            i = searchsorted(self.first, r, side="right") - 1
            p = int(self.lo[i]) + r - int(self.first[i])
        else:
            i, j = divmod(r, self.k)
            assert self.indices is not None  # only a sparse A has implicit rows
            columns = self.indices[self.lo[i] : self.hi[i]]
            p = int(self.lo[i]) + searchsorted(columns, j)
        before = int(self.first[i]) + p - int(self.lo[i])
        on_diagonal = int(self.diagonal[i]) + self._diagonal_before(i, p)
        return RowOffset(i, p, 2 * before - on_diagonal)

    def _diagonal_before(self, i: int, p: int) -> int:
        """1 if row i has a diagonal entry before entry p, else 0."""
        if self.diagonal[i + 1] == self.diagonal[i]:
            return 0
        if self.indices is None:
            return int(p > i * self.k + i)
        before = self.indices[self.lo[i] : p]
        return int(before.size > 0 and before[-1] >= i)

    def diagonal_entries(self) -> NDArray[np.int64]:
        """The entry of A that is on the diagonal in each row, or -1."""
        if self.indices is None:
            return np.arange(self.k, dtype=np.int64) * (self.k + 1)
        if self.on_diagonal is not None:
            return self.on_diagonal.astype(np.int64)
        assert self.indptr is not None
        entries = np.empty(self.k, np.int64)
        for i0, i1, base, block in blocks_of(self.indices, self.indptr):
            _kernels.csr_diagonals(self.indptr, block, base, i0, i1, None, entries)
        return entries

    @computed_once
    def _all_diagonal_entries(self) -> Any:
        return self.on_diagonal if self.on_diagonal is not None else self.diagonal_entries()

    def diagonal_entries_of(self, i0: int, i1: int, *, visited: bool = True) -> NDArray[Any]:
        """The entry on the diagonal in each of these rows, or -1 (also if it is not `visited`)."""
        entries: Any
        if self.indices is None:  # cheaper than an array of all of them
            entries = np.arange(i0, i1, dtype=np.int64) * (self.k + 1)
        else:
            entries = self._all_diagonal_entries[i0:i1]
        if not visited:
            return np.asarray(entries)
        is_visited = (entries >= self.lo[i0:i1]) & (entries < self.hi[i0:i1])
        return np.where(is_visited, entries, -1)

    def neighbours(self, s: int) -> tuple[tuple[Indices, Indices], tuple[Indices, Indices]]:
        """The visited entries of row s as (columns, entries), and of column s as (rows, entries).

        Both include the diagonal.
        """
        lo, hi = int(self.lo[s]), int(self.hi[s])
        if self.indices is None:
            positions = np.arange(self.k, dtype=np.int64) * self.k + s
            in_column = np.flatnonzero((self.lo <= positions) & (positions < self.hi))
            entries = np.arange(lo, hi, dtype=np.int64)
            return (entries - s * self.k, entries), (in_column, positions[in_column])
        positions = np.empty(self.k, np.int64)
        assert self.indptr is not None
        for i0, i1, base, block in blocks_of(self.indices, self.indptr):
            _kernels.csr_column(self.lo, self.hi, block, base, i0, i1, s, positions)
        in_column = np.flatnonzero(positions >= 0)
        in_row = self.indices[lo:hi], np.arange(lo, hi, dtype=np.int64)
        return in_row, (in_column, positions[in_column])


@dataclass(frozen=True)
class RowOffset:
    """Where a row of J starts.

    It starts in row `row` of A, at its entry `entry`, after `nnz` entries of J.
    """

    row: int
    entry: int
    nnz: int
