"""A rectangular matrix, as the symmetric matrix of a bipartite graph.

The graph has a node for each row and each column of an m×n matrix A, and an edge for each entry.
Its matrix has the order m+n, and A and Aᵀ are its two blocks beside the diagonal. One triangle
suffices. Below the diagonal it is ``[[0, 0], [A, 0]]``, whose CSR arrays are those of A, except for
the pointers of n empty rows. If A is stored by columns, Aᵀ takes the place of A.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from .. import _validation
from .conversions import csr_arrays
from .indices import Indices, index_dtype
from .memory import CsrMemory


class BipartiteRows(CsrMemory):
    """The lower triangle of the matrix of order m+n. It refers to the numbers of A.

    The first `left` numbers of a vector belong to the columns of the block below the diagonal. The
    block is A, or Aᵀ if `by_columns`.
    """

    def __init__(self, A: Any) -> None:
        self.of_shape = m, n = A.shape
        if scipy.sparse.issparse(A):
            self.by_columns = A.format == "csc"
            values, indices, indptr = csr_arrays(A, transposed=self.by_columns)
        else:
            self.by_columns = A.flags.f_contiguous and not A.flags.c_contiguous
            values, indices, indptr = _dense_arrays(A.T if self.by_columns else A)
        self.left = m if self.by_columns else n
        dtype = index_dtype(m + n, m + n, values.size)
        pointers = np.zeros(m + n + 1, dtype)
        pointers[self.left :] = indptr
        super().__init__(values, indices.astype(dtype, copy=False), pointers)

    def place(self, i: int, j: int) -> tuple[int, int]:
        return (j, i - self.left) if self.by_columns else (i - self.left, j)

    def join(self, rows: NDArray[Any], columns: NDArray[Any]) -> NDArray[Any]:
        """One vector of numbers for A's rows and for its columns."""
        return np.concatenate([rows, columns] if self.by_columns else [columns, rows])

    def split(self, u: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """The numbers in a vector that belong to A's rows, and those that belong to its columns."""
        first, second = u[: self.left], u[self.left :]
        return (first, second) if self.by_columns else (second, first)

    def nodes(self, numbers: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """The rows of A, and its columns, of which these are the indices in a vector."""
        first, second = numbers[numbers < self.left], numbers[numbers >= self.left] - self.left
        return (first, second) if self.by_columns else (second, first)

    def edges(self, entries: NDArray[Any]) -> NDArray[Any]:
        """The (i, j) in A, in row-major order, of entries below the diagonal."""
        pairs = entries - [self.left, 0]
        pairs = pairs[:, ::-1] if self.by_columns else pairs
        return pairs[np.lexsort(pairs.T[::-1])]

    def all_positive(self) -> bool:
        """Whether each entry of A is stored, and is positive."""
        m, n = self.of_shape
        return self.values.size == m * n > 0 and bool(self.values.min() > 0)


def _dense_arrays(A: NDArray[Any]) -> tuple[NDArray[Any], Indices, Indices]:
    """CSR arrays that hold each entry of a dense matrix. The values are its own if possible."""
    m, n = A.shape
    dtype = index_dtype(m + n, m + n, m * n)
    hint = "pass A as a sparse matrix if it has few entries that are not zero"
    _validation.fits("the column indices of a dense A", m * n * dtype.itemsize, hint)
    indices = np.tile(np.arange(n, dtype=dtype), m)
    return A.reshape(-1), indices, n * np.arange(m + 1, dtype=dtype)
