"""Sources of matrices in memory, and the checks of their numbers. Their blocks are views.

A matrix is symmetric up to rounding if ``|A_ij - A_ji| <= τ m`` for all pairs. Here m is the lesser
of ``max_l |A_il|`` and ``max_l |A_jl|``, and τ is `_validation.symmetry_tolerance`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .. import _kernels, _validation
from .csr import CsrSource, row_blocks
from .dense import DenseSource, Reader
from .indices import ColumnRanges, Indices, frozen
from .numbers import MemoryNumbers
from .source import Source

_TILE = 256  # rows and columns of a dense matrix that are compared at a time
_ENTRIES = 2**14  # entries of a sparse matrix that are compared at a time


class MemorySource(Source):
    """A matrix in memory.

    Attributes
    ----------
    values : ndarray
        The numbers as the stored rows have them: k×k, or those of a canonical CSR matrix.
    """

    zero_copy = True
    values: NDArray[Any]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # NumPy pickles numbers in Fortran order in the machine's byte order. Sums over these would
        # have other bits.
        self.values = self.values.astype(self.dtype, copy=False)

    def with_values(self, values: NDArray[Any]) -> Self:
        """A matrix of the same structure with other numbers."""
        result = copy(self)
        result.values, result.dtype = values, values.dtype
        return result

    def without(self, entries: NDArray[Any]) -> Self:
        """A copy with zeros at these entries. It shares the structure."""
        values = self.values.copy()
        values.reshape(-1)[entries] = 0
        return self.with_values(values)

    def along_contiguous_axis(self) -> MemorySource:
        """The same symmetric matrix, along the axis in which its numbers are contiguous."""
        return self

    def check_finite(self, name: str) -> None:
        """Refuse NaN and infinity in what is read."""
        part, (first, _) = self.read_triangle, self.rows
        _validation.finite_blocks(name, self.values, self._place, part, first)

    def check_symmetric(self, needs: str) -> None:
        """Refuse a matrix that is not symmetric up to rounding. `needs` names what needs that."""
        defect = self.unequal()
        if defect is not None:
            raise _validation.not_symmetric(*defect, needs)

    def check_upper(self) -> None:
        """Refuse a Y of which the upper triangle is to be read, if it is not symmetric."""
        defect = self.unequal()
        if defect is not None:
            raise _validation.neither_symmetric_nor_upper(*defect)

    def extremes(self) -> tuple[Any, tuple[int, int], float]:
        """The lowest entry or 0, its place, and the largest entry or 0.

        The search ends at a negative entry. It reads A in pieces, so that no mask of A's size is
        made.
        """
        largest = 0.0
        for start, piece in _validation.pieces(self.values, self.read_triangle, self.rows[0]):
            if self.dtype.kind not in "bu" and piece.min() < 0:
                at = [int(index) for index in np.unravel_index(int(np.argmin(piece)), piece.shape)]
                return piece[tuple(at)], self._place(at[0] + start, *at[1:]), largest
            largest = max(largest, float(piece.max()))
        return 0.0, (0, 0), largest

    def asymmetry(self) -> tuple[int, int] | None:
        """A place of the stored rows where A and Aᵀ differ to the bit, in structure or numbers."""
        raise NotImplementedError

    def unequal(self) -> tuple[int, int] | None:
        """A place where A is not symmetric up to rounding; None if A is symmetric.

        This takes one pass if A is symmetric to the bit. Otherwise it takes three passes and a
        k-vector.
        """
        found = self.asymmetry()
        if found is None:
            return None
        return self._unequal(found, _validation.symmetry_tolerance(self.dtype))

    def _unequal(self, found: tuple[int, int], relative: float) -> tuple[int, int] | None:
        raise NotImplementedError

    def is_zero_outside(self, ranges: ColumnRanges) -> bool:
        """Whether all numbers outside these column ranges of the stored rows are zero."""
        raise NotImplementedError

    def _pair(self, *where: int) -> tuple[int, int]:
        """The stored row and column of the number at an index of `values`."""
        raise NotImplementedError

    def _place(self, *where: int) -> tuple[int, int]:
        """The pair (i, j) of the number at an index of `values`."""
        return self.place(*self._pair(*where))


class DenseMemory(MemorySource, DenseSource):
    """A dense matrix in memory."""

    mutable = True

    def __init__(self, values: NDArray[Any], *, transposed: bool = False) -> None:
        self.values, (self.k, self._width), self.dtype = values, values.shape, values.dtype
        self.transposed = transposed and values.shape != (1, 1)

    @contextmanager
    def opened_rows(self) -> Iterator[Reader]:
        yield lambda part, _: self.values[part.i0 : part.i1]

    def along_contiguous_axis(self) -> DenseMemory:
        return DenseMemory(self.values.T) if self.values.flags.f_contiguous else self

    def asymmetry(self) -> tuple[int, int] | None:
        """It takes one pass, and 1 MiB of memory."""
        return self._first_difference(None)

    def _unequal(self, found: tuple[int, int], relative: float) -> tuple[int, int] | None:
        if relative == 0:
            return found
        allowed = np.empty(self.k)
        for start, piece in _validation.pieces(self.values):
            allowed[start : start + len(piece)] = relative * np.abs(piece).max(axis=1)
        allowed[~np.isfinite(allowed)] = 0
        return self._first_difference(allowed)

    def _first_difference(self, allowed: NDArray[Any] | None) -> tuple[int, int] | None:
        """The first place at which A and Aᵀ differ by more than both rows allow."""
        values, step = self.values, _TILE
        for i in range(0, self.k, step):
            for j in range(0, i + 1, step):
                tile, mirror = (
                    values[i : i + step, j : j + step],
                    values[j : j + step, i : i + step].T,
                )
                if np.array_equal(tile, mirror):
                    continue
                same = (tile == mirror) | ((tile != tile) & (mirror != mirror))  # noqa: PLR0124  # NaN
                if allowed is not None:
                    most = np.minimum(allowed[i : i + step, np.newaxis], allowed[j : j + step])
                    with np.errstate(invalid="ignore", over="ignore"):
                        same |= np.abs(tile - mirror) <= most
                if not same.all():
                    a, b = np.unravel_index(int(np.argmin(same)), same.shape)
                    return i + int(a), j + int(b)
        return None

    def is_zero_outside(self, ranges: ColumnRanges) -> bool:
        bounds = zip(self.values, *ranges, strict=True)
        return not any(np.any(row[:left]) or np.any(row[right:]) for row, left, right in bounds)

    def _pair(self, *where: int) -> tuple[int, int]:
        i, j = where
        return i, j


class CsrMemory(MemorySource, CsrSource):
    """A CSR matrix in memory, in canonical format."""

    def __init__(
        self,
        values: NDArray[Any],
        indices: Indices,
        indptr: Indices,
        *,
        name: str = "A",
        transposed: bool = False,
        width: int | None = None,
    ) -> None:
        self.name, self.values, self.dtype, self._width = name, values, values.dtype, width
        self.columns, self.indptr = frozen(indices), frozen(indptr)
        self.k, self.index_dtype = indptr.size - 1, indptr.dtype
        self.transposed = transposed and (self.k, self.width) not in ((0, 0), (1, 1))
        self.on_diagonal = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.columns, self.indptr = frozen(self.columns), frozen(self.indptr)

    @property
    def data(self) -> MemoryNumbers:  # type: ignore[override]  # the numbers as a file has them
        return MemoryNumbers(self.values)

    @property
    def stored_indices(self) -> MemoryNumbers:  # type: ignore[override]  # as above
        return MemoryNumbers(self.columns)

    def _column_blocks(self) -> Iterator[tuple[int, int, int, Any]]:
        for i0, i1 in row_blocks(self.indptr, 0, self.k, _ENTRIES):
            base = int(self.indptr[i0])
            yield i0, i1, base, self.columns[base : int(self.indptr[i1])]

    def has_structure_of(self, other: Source) -> bool:
        return (
            isinstance(other, CsrMemory)
            and same_indices(self.indptr, other.indptr)
            and same_indices(self.columns, other.columns)
        )

    def asymmetry(self) -> tuple[int, int] | None:
        """It takes one pass, and two k-vectors."""
        cursor, entries = np.empty_like(self.indptr[:-1]), np.empty_like(self.indptr[:-1])
        _kernels.csr_diagonals(self.indptr, self.columns, 0, 0, self.k, cursor, entries)
        cursor += entries >= 0
        i, j = _kernels.csr_asymmetry(self.indptr, self.columns, self._comparable(), cursor)
        return (int(i), int(j)) if i >= 0 else None

    def _unequal(
        self,
        found: tuple[int, int],  # noqa: ARG002  # the kernel treats equal numbers as well
        relative: float,
    ) -> tuple[int, int] | None:
        i, j = _kernels.csr_unequal(
            self.indptr, self.columns, self._comparable(), relative or -1.0, np.empty(self.k)
        )
        return (int(i), int(j)) if i >= 0 else None

    def _comparable(self) -> NDArray[Any]:
        """The values in a dtype that Numba supports. They are copied if needed."""
        values = self.values
        if values.dtype == np.bool_:
            values = values.astype(np.uint8)
        elif not values.dtype.isnative:
            values = values.astype(values.dtype.newbyteorder("="))
        return frozen(values)

    def is_zero_outside(self, ranges: ColumnRanges) -> bool:
        return self.count_outside(ranges) == 0

    def count_outside(self, ranges: ColumnRanges) -> int:
        if super().count_outside(ranges) == 0:  # no entry at all, and that takes O(k log k)
            return 0
        left, right = ranges
        count = 0
        for i0, i1 in row_blocks(self.indptr, 0, self.k, _ENTRIES):
            part = slice(int(self.indptr[i0]), int(self.indptr[i1]))
            lengths, columns = np.diff(self.indptr[i0 : i1 + 1]), self.columns[part]
            outside = columns < np.repeat(left[i0:i1], lengths)
            outside |= columns >= np.repeat(right[i0:i1], lengths)
            count += int(np.count_nonzero(self.values[part][outside]))
        return count

    def _pair(self, *where: int) -> tuple[int, int]:
        (entry,) = where
        i = int(np.searchsorted(self.indptr, entry, side="right")) - 1
        return i, int(self.columns[entry])


def same_indices(one: Indices, other: Indices) -> bool:
    """Whether two index arrays are equal. No mask of their size is made."""
    if one.shape != other.shape:
        return False
    if one.ctypes.data == other.ctypes.data and one.dtype == other.dtype:
        return True
    step = 2**15
    return all(
        np.array_equal(one[p : p + step], other[p : p + step]) for p in range(0, one.size, step)
    )
