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
from .memory import CsrMemory, DenseMemory, MemorySource
from .pattern import DensePattern


class DenseRows(DenseMemory):
    """Some rows of a dense matrix."""

    def __init__(self, values: NDArray[Any], first: int) -> None:
        super().__init__(values)
        self.k, self._first = values.shape[1], first

    @property
    def rows(self) -> tuple[int, int]:
        return self._first, self._first + len(self.values)

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

    def __init__(
        self, values: NDArray[Any], indices: Indices, indptr: Indices, rows: tuple[int, int]
    ) -> None:
        super().__init__(values, indices, indptr)
        self._held = rows

    @property
    def rows(self) -> tuple[int, int]:
        return self._held


def rows_source(block: Any, i0: int, k: int, name: str) -> MemorySource:
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
        return DenseRows(np.require(block, requirements=["C", "A"]), i0)
    block = block.tocsr()
    indptr = np.zeros(k + 1, index_dtype(k, k, int(block.nnz)))
    indptr[i0 : i0 + count + 1] = block.indptr
    indptr[i0 + count :] = block.indptr[-1]
    data, indices = (np.require(each, requirements=["A"]) for each in (block.data, block.indices))
    indices = indices.astype(indptr.dtype, copy=False)
    whole = scipy.sparse.csr_array((data, indices, indptr), shape=(k, k))
    return CsrRows(*csr_arrays(whole, transposed=False, name=name), (i0, i0 + count))
