"""F and J at an X with several columns, or with variables of their own for A's rows and columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from .._backends.protocol import Backend
from .._backends.rank_sums import RankSums
from .._backends.sizes import products_hold
from .._matrix.entries import wide
from .._matrix.indices import frozen
from .._matrix.pattern import RowOffset
from .._matrix.variables import Variables, variables_of
from .assembly import NO_NUMBERS, Assembly, columns_of, placed
from .base import silence
from .hermitian import HessianOperator, NormalOperator
from .rank_hermitian import RankHessian, RankNormal


class RankAssembly(Assembly):
    """`Assembly` for a matrix Z of variables, of the shape `variables.shape`.

    A product with several vectors takes a pass over A for each of them.
    """

    _value = "rank_value"
    _no_target = NO_NUMBERS

    def __init__(self, rows: Backend, variables: Variables) -> None:
        super().__init__(rows, variables)
        self._places = self._all_places
        self._of_rank = f", for r = {variables.rank},"
        self._sums = RankSums(rows, variables)

    def product(self, x: NDArray[Any], X: NDArray[Any]) -> Any:
        if X.ndim == 2:
            return self._each_product(x, X)
        if not products_hold(x, X, 2 * self.variables.rank):
            return self._product_of_any_size(x, X)
        args = *self._places, frozen(x), frozen(X.reshape(self.variables.shape))
        return self.mapped("the product J @ x", "rank_matvec", *args, shape=self.shape[:1])

    def transposed_product(
        self, x: NDArray[Any], X: NDArray[Any], *, conjugate: bool
    ) -> NDArray[Any]:
        if X.ndim == 1:
            return self.weighted(x, X, conjugate=conjugate).reshape(-1)
        found = np.empty((self.variables.size, X.shape[1]), x.dtype)
        for c, column in enumerate(columns_of(X)):
            found[:, c] = self.transposed_product(x, column, conjugate=conjugate)
        return found

    def weighted(
        self, Z: NDArray[Any], w: NDArray[Any], *, conjugate: bool = False
    ) -> NDArray[Any]:
        """``(A∘W) Z + (A∘W)ᵀ Z`` for a w with a number for each of J's rows."""
        weights = self.rows.weights(w, Z.dtype)
        return self._sums.weighted(Z, weights, conjugate=conjugate)

    def column_squares(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._sums.column_squares(x.astype(wide(x.dtype)))

    def max_abs(self, x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        layout = self.rows.layout
        i, j = self._sums.max_abs(x.astype(wide(x.dtype)))
        if not layout.bilinear:
            if layout.side is not None:  # an entry of a triangle stands for (j, i), too
                i = j = np.maximum(i, j)
            i, j = (j, i) if layout.transposed else (i, j)
        else:
            m, n = self.rows.source.shape
            whole = np.maximum(i, j)  # each variable is of rows only, or of columns only
            i, j = whole[:m], whole[m : m + n]
        with silence():
            return i.astype(x.real.dtype), j.astype(x.real.dtype)

    def normal(self, x: NDArray[Any], damping: float) -> NormalOperator:
        return RankNormal(self, self._sums, x, damping)

    def hessian(self, w: Any, dtype: np.dtype[Any]) -> HessianOperator:
        return RankHessian(self, self._sums, dtype, w=w)

    def slice(self, x: NDArray[Any], s: int) -> scipy.sparse.csr_array:
        layout, (s, c) = self.rows.layout, divmod(s, self.variables.rank)
        if not layout.bilinear:
            return super().slice(x[:, c], s)
        (m, n), swapped = self.rows.source.shape, layout.transposed
        of_row, own = s < m, s if s < m else s - m
        neighbours = self.rows.pattern.in_column(own) if of_row == swapped else None
        others, entries = neighbours or self.rows.pattern.in_row(own)
        with silence():
            numbers = self.rows.at(entries).astype(x.dtype) * x[others + (m if of_row else 0), c]
        same = np.full(others.size, own)
        i, j = (same, others) if of_row else (others, same)
        return placed(numbers, i, j, (m, n))

    def _fill_data(
        self, x: NDArray[Any], begin: RowOffset, end: RowOffset, out: NDArray[Any]
    ) -> None:
        last = end.row + (end.row < self._pattern.k)
        x = frozen(x)
        shift = begin.nnz * self.variables.rank
        between = self._pattern.diagonal, begin.entry, end.entry, shift
        rows = begin.row, last
        args = *between, *self._places, x, out
        self.rows.map("rank_csr_data", *args, rows=rows)

    def _fill_indices(self, *args: Any, rows: tuple[int, int]) -> None:
        *between, indices, indptr = args
        of = *self._places, self.variables.rank
        self.rows.map("rank_csr_indices", *between, *of, indices, indptr, rows=rows, structure=True)


def assembly_of(rows: Backend, rank: int) -> Assembly:
    """The assembly for so many variables for each row of A."""
    of = variables_of(rows.source, rows.layout, rank)
    return Assembly(rows, of) if rank == 1 and not rows.layout.bilinear else RankAssembly(rows, of)
