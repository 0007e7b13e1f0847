"""Which rows J has, and where their entries are: what depends on the structure of A alone.

With ``order="F"`` the rows are those of Aᵀ in ``"C"`` order, as ``A_ij x_i x_j`` is entry (j, i) of ``Aᵀ ∘ xxᵀ``. So
nothing here knows of an order: the builder hands over the structure of Aᵀ, and swaps what it gives back.
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
ColumnRanges = tuple[
    NDArray[np.int64], NDArray[np.int64]
]  # columns left[i] <= j < right[i] of each row; both ascend


def index_dtype(rows: int, columns: int, entries: int) -> np.dtype[Any]:
    """int32 while the rows, columns and entries of a matrix are all below 2³¹, else int64.

    The arguments are Python integers: in int32 the square of 50 000 is negative.
    """
    return np.dtype(np.int32 if max(rows, columns, entries) < 2**31 else np.int64)


def searchsorted(array: Indices, value: int, side: Literal["left", "right"] = "left") -> int:
    """`numpy.searchsorted`, which for a Python integer would convert the array to int64, all of it."""
    return int(
        np.searchsorted(array, array.dtype.type(min(value, np.iinfo(array.dtype).max)), side=side)
    )


def triangle(k: int, which: Triangle, *, offset: int = 0) -> ColumnRanges:
    """The columns of a triangle, the diagonal included, or from that many places beside it on."""
    i = np.arange(k, dtype=np.int64)
    if which == "upper":
        return np.minimum(i + offset, k), np.full(k, k)
    return np.zeros(k, np.int64), np.maximum(i + 1 - offset, 0)


def blocks_of(indices: Any, indptr: Indices) -> Iterator[tuple[int, int, int, Indices]]:
    """Blocks of rows i0 ≤ i < i1 with their column indices, the first of which is that of entry `base`: one, if they are in memory."""
    if isinstance(indices, np.ndarray):
        yield 0, indptr.size - 1, 0, indices
    else:
        yield from indices.blocks(indptr)


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only view. Numba takes read-only arrays for a type of their own: this way there is one, not two."""
    view = array.view()
    view.setflags(write=False)
    return view


def _counts(each: NDArray[Any]) -> Any:
    """How many there are before each, and in all."""
    counts = np.zeros(each.size + 1, each.dtype)
    np.cumsum(each, out=counts[1:])
    return counts


@dataclass(frozen=True, eq=False)
class Pattern:
    """The rows of J: for each row i of A the entries ``lo[i] <= p < hi[i]``, in ascending order of their columns.

    Attributes
    ----------
    k : int
        A is k×k.
    entries : int
        How many entries of A are visited: as many as J has rows that are not empty.
    indices : ndarray of int, `StoredColumns` or None
        The column of each stored entry of A, in memory or not; None for a dense A, whose entry p is (p // k, p % k).
    lo, hi : ndarray of int, shape (k,)
        The entries that belong to each row.
    first : ndarray of int, shape (k + 1,)
        The entries that the rows before i visit.
    grid : int or None
        k where J has a row for each of the k² places, stored or not; None where it has one for each entry.
    indptr : ndarray of int, shape (k + 1,), or None
        That of the CSR matrix, the user's own where that is referenced.
    on_diagonal : ndarray of int, shape (k,), or None
        Which stored entry of each row is on the diagonal, or -1, where that has been found out already.
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
        """All entries of a dense A, or those within spans. O(k) memory."""
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
        """The stored entries of a canonical CSR matrix, or those within spans. O(k) memory, O(k log k) time."""
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
        """How many of the entries that the rows before i visit are on the diagonal, shape (k + 1,)."""
        entries = self.diagonal_entries()
        return frozen(
            _counts(((self.lo <= entries) & (entries < self.hi)).astype(self.first.dtype))
        )

    @computed_once
    def m(self) -> int:
        """How many rows J has."""
        return self.entries if self.grid is None else self.k**2

    @computed_once
    def nnz(self) -> int:
        """How many entries J has: two in each row that is not empty, one if it is of the diagonal."""
        return 2 * self.entries - int(self.diagonal[-1])

    @property
    def columns_dtype(self) -> np.dtype[Any]:
        """The dtype of the index arrays of the whole of J."""
        return index_dtype(self.m, self.k, self.nnz)

    def check_unchanged(self) -> None:
        """Catch, in O(1), what `eliminate_zeros` and its like do to a matrix that is referenced.

        A kernel that believed the old structure would write beyond its arrays.
        """
        if (
            self.indptr is not None
            and self.indices is not None
            and self.indptr[-1] != self.indices.size
        ):
            raise _validation.changed_structure(self.indices.size, int(self.indptr[-1]))

    def csr_nbytes(self, itemsize: int) -> int:
        """The bytes of the three arrays of J, exactly."""
        return self.nnz * itemsize + (self.nnz + self.m + 1) * self.columns_dtype.itemsize

    @computed_once
    def ends(self) -> tuple[Cut, Cut]:
        """The places before the first and behind the last row of J."""
        return Cut(0, int(self.lo[0]) if self.k else 0, 0), self.cut(self.m)

    def cut(self, r: int) -> Cut:
        """Where row r of J starts: before which entry, in which row of A, and behind how many entries of J."""
        if r >= self.m:
            return Cut(self.k, int(self.hi[-1]) if self.k else 0, self.nnz)
        if self.grid is None:
            i = searchsorted(self.first, r, side="right") - 1
            p = int(self.lo[i]) + r - int(self.first[i])
        else:
            i, j = divmod(r, self.k)
            assert self.indices is not None  # only a sparse A has a grid
            columns = self.indices[self.lo[i] : self.hi[i]]
            p = int(self.lo[i]) + searchsorted(columns, j)
        before = int(self.first[i]) + p - int(self.lo[i])
        on_diagonal = int(self.diagonal[i]) + self._diagonal_before(i, p)
        return Cut(i, p, 2 * before - on_diagonal)

    def _diagonal_before(self, i: int, p: int) -> int:
        """1 if row i has a diagonal entry before entry p, else 0."""
        if self.diagonal[i + 1] == self.diagonal[i]:
            return 0
        if self.indices is None:
            return int(p > i * self.k + i)
        before = self.indices[self.lo[i] : p]
        return int(before.size > 0 and before[-1] >= i)

    def diagonal_entries(self) -> NDArray[np.int64]:
        """Which entry of A is on the diagonal in each row, or -1."""
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
        """Which entry of these rows is on the diagonal, and visited, or -1."""
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
        """(columns, entries) of the visited entries in row s, and (rows, entries) of those in column s, diagonal included."""
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
        return (self.indices[lo:hi], np.arange(lo, hi, dtype=np.int64)), (
            in_column,
            positions[in_column],
        )


@dataclass(frozen=True)
class Cut:
    """A place between two rows of J: in row `row` of A, before entry `entry`, behind `nnz` entries of J."""

    row: int
    entry: int
    nnz: int
