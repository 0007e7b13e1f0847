"""Some consecutive rows of a matrix, in memory. They count as a k×k matrix without other entries.

So F, J and all sums of a matrix are those of its parts, one after the other or added.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from .. import _validation
from .conversions import csr_arrays
from .dense import Reader
from .indices import ColumnRanges, Indices, index_dtype
from .memory import CsrMemory, DenseMemory
from .pattern import DensePattern


class DenseRows(DenseMemory):
    """Some rows of a dense matrix."""

    sparse = False

    def __init__(self, values: NDArray[Any], first: int) -> None:
        super().__init__(values)
        self.k, self._first = values.shape[1], first

    @property
    def rows(self) -> tuple[int, int]:
        return self._first, self._first + len(self.values)

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    def block(self, i0: int, i1: int) -> NDArray[Any]:
        """The rows i0 ≤ i < i1, as far as they are held."""
        first, end = self.rows
        return self.values[max(i0, first) - first : max(min(i1, end) - first, 0)]

    def columns_of(self, i0: int, i1: int) -> tuple[Any, Indices]:
        """How many entries these rows have, each or all the same, and their columns."""
        return self.k, np.tile(np.arange(self.k), i1 - i0)

    def count_outside(self, ranges: ColumnRanges) -> int:  # noqa: ARG002  # they are not read
        return 0

    @contextmanager
    def opened_rows(self) -> Iterator[Reader]:
        first = self._first
        yield lambda part, _: self.values[part.i0 - first : part.i1 - first]

    def pattern(self, ranges: ColumnRanges | None, *, implicit_rows: bool) -> DensePattern:
        assert not implicit_rows
        return DensePattern(self.k, ranges, self.rows)

    def _pair(self, *where: int) -> tuple[int, int]:
        i, j = where
        return i + self._first, j


class CsrRows(CsrMemory):
    """Some rows of a sparse matrix. Its row pointers are k + 1 integers."""

    sparse = True

    def __init__(
        self, values: NDArray[Any], indices: Indices, indptr: Indices, rows: tuple[int, int]
    ) -> None:
        super().__init__(values, indices, indptr)
        self._held = rows

    @property
    def rows(self) -> tuple[int, int]:
        return self._held

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.columns.nbytes + self.indptr.nbytes

    def block(self, i0: int, i1: int) -> scipy.sparse.csr_array:
        """The rows i0 ≤ i < i1, as far as they are held."""
        first, end = self._held
        begin = min(max(i0, first), end)
        stop = max(min(i1, end), begin)
        indptr = self.indptr[begin : stop + 1]
        inside = slice(int(indptr[0]), int(indptr[-1]))
        arrays = self.values[inside], self.columns[inside], indptr - indptr[0]
        return scipy.sparse.csr_array(arrays, shape=(stop - begin, self.k))

    def columns_of(self, i0: int, i1: int) -> tuple[Any, Indices]:
        """How many entries these rows have, each, and their columns."""
        indptr = self.indptr[i0 : i1 + 1]
        return np.diff(indptr), self.columns[int(indptr[0]) : int(indptr[-1])]


RowsSource = DenseRows | CsrRows


def rows_source(block: Any, i0: int, k: int, name: str) -> RowsSource:
    """The source of the rows from i0 on that a dense or sparse block of k columns holds.

    Arrays that a network has delivered may lie at any address. They are copied then, because
    compiled code reads aligned numbers only.
    """
    count, columns = block.shape
    if columns != k or i0 + count > k:
        raise ValueError(
            f"{name} must have blocks of rows of a {k}x{k} matrix, got {count}x{columns} at row "
            f"{i0}: its blocks must hold whole rows"
        )
    _validation.float_dtype(name, block.dtype)
    if not scipy.sparse.issparse(block):
        block = _validation.array(name, block)  # it refuses masks
        return DenseRows(np.require(block, requirements=["C", "A"]), i0)
    block = block.tocsr()
    indptr = np.zeros(k + 1, index_dtype(k, k, int(block.nnz)))
    indptr[i0 : i0 + count + 1] = block.indptr
    indptr[i0 + count :] = block.indptr[-1]
    data, indices = (np.require(each, requirements=["A"]) for each in (block.data, block.indices))
    indices = indices.astype(indptr.dtype, copy=False)
    whole = scipy.sparse.csr_array((data, indices, indptr), shape=(k, k))
    return CsrRows(*csr_arrays(whole, transposed=False, name=name), (i0, i0 + count))
