"""The Hessian of a robust cost, and its part of Gauss and Newton, never formed.

With the weights ρ' and the second derivatives ``ρ' + 2 z ρ''`` of the residuals r, they are
``Jᵀ Diag(ρ' + 2 z ρ'') J + (M + Mᵀ) ⊗ I`` with ``M = A∘(ρ' r)``, and ``Jᵀ Diag(ρ') J``.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from .._backends.robust_sums import RobustSums
from .._matrix.indices import frozen
from .base import silence
from .rank_assembly import RankAssembly
from .rank_hermitian import RankHessian, RankNormal


class _Weighted:
    """``Jᵀ Diag(h) J``, explicitly. The weights h of J's rows are an array of m numbers."""

    _assembly: RankAssembly
    _rank_sums: Any  # RobustSums
    _rows: Any
    _x: Any
    _y: Any
    _which: int  # of the numbers of `Loss.at`, the one that h is

    def _residuals(self) -> NDArray[Any]:
        found: NDArray[Any] = self._assembly.value(self._x, "the vector of residuals", self._y)
        return found

    def _row_weights(self) -> NDArray[Any]:
        with silence():
            return self._rank_sums.loss.at(self._residuals())[self._which]

    def _product_with_rows(self) -> scipy.sparse.csr_array:
        J = self._assembly.matrix(self._x)
        return (J.T @ (scipy.sparse.diags_array(self._row_weights()) @ J)).tocsr()

    def _squares(self, U: NDArray[Any]) -> NDArray[Any]:
        """``(A∘A∘h + (A∘A∘h)ᵀ) U``, where h is on the diagonal twice."""
        of = self._assembly
        ones = np.ones((of.variables.count, 1))
        single = RankAssembly(of.rows, dataclasses.replace(of.variables, rank=1))
        weights = self._row_weights() * single.value(frozen(ones))
        found = of.weighted(U, weights)
        if not self._rows.layout.bilinear:
            a, r = self._rank_sums.on_diagonal(self._x)
            found += 2 * (a * a * self._rank_sums.loss.at(r)[self._which])[:, np.newaxis] * U
        return found


class RobustNormal(_Weighted, RankNormal):
    """``Jᵀ Diag(ρ') J``."""

    _which = 1

    def __init__(
        self, assembly: Any, sums: RobustSums, x: NDArray[Any], damping: float, y: Any
    ) -> None:
        super().__init__(assembly, sums, x, damping)
        self._y = y

    def _products(self, U: NDArray[Any]) -> NDArray[Any]:
        if U.dtype.kind == "c":
            return self._products(U.real) + 1j * self._products(U.imag)
        return self._each(U, lambda V: self._rank_sums.robust_normal(self._x, V))

    def diagonal(self) -> NDArray[Any]:
        found = self._squares(self._x * self._x).reshape(-1) + self._d
        return found.astype(self.dtype, copy=False)

    def block_diagonal(self) -> NDArray[Any]:
        Z, rank = self._x, self._assembly.variables.rank
        c, d = np.triu_indices(rank)
        found = np.empty((Z.shape[0], rank, rank), Z.dtype)
        found[:, c, d] = found[:, d, c] = self._squares(Z[:, c] * Z[:, d])
        found += self._d * np.eye(rank)
        return found.astype(self.dtype, copy=False)

    def _normal(self) -> scipy.sparse.csr_array:
        return self._product_with_rows()


class RobustHessian(_Weighted, RankHessian):
    """The Hessian of the cost."""

    _which = 2

    def diagonal(self) -> NDArray[Any]:
        found = self._squares(self._x * self._x)
        if not self._rows.layout.bilinear:
            a, r = self._rank_sums.on_diagonal(self._x)
            with silence():
                found += (2 * a * self._rank_sums.loss.at(r)[1] * r)[:, np.newaxis]
        return found.reshape(-1).astype(self.dtype, copy=False)

    def _formed(self) -> scipy.sparse.csr_array:
        a, of = self._rows.values(), self._assembly.variables
        i, j = self._rows.visited()
        Z, s, t = self._x, i + np.int64(of.row_offset), j + np.int64(of.column_offset)
        r = a * np.einsum("er,er->e", Z[s], Z[t]) - self._rows.values(self._y)
        weights = a * self._rank_sums.loss.at(r)[1] * r
        return (self._product_with_rows() + self._second(weights)).tocsr()
