"""JᴴJ and Hessians for several columns of variables, never formed.

With Z of shape (count, r), block (i, j) of order r

* of ``JᴴJ`` follows from J's rows: see `_kernels.rank`;
* of ``∇² wᵀF`` is ``(A∘W + (A∘W)ᵀ)_ij I``;
* of ``∇² ½‖F - Y‖²`` is that of ``JᵀJ``, and ``(A∘R + (A∘R)ᵀ)_ij I`` with ``R = F - Y``.

The bilinear form has A in the upper right block of a larger matrix in place of A.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from .. import _validation
from .._backends.rank_sums import RankSums
from .._matrix.entries import wide
from .._matrix.indices import frozen
from .base import check_sparse, silence, sparse
from .hermitian import HessianOperator, NormalOperator


class _RankMatrix:
    """What explicit matrices have in common. They are made in CSR format first."""

    _assembly: Any
    _rows: Any
    _x: Any

    def _formed(self) -> scipy.sparse.csr_array:
        """The matrix in double precision."""
        raise NotImplementedError

    def tocsr(self) -> scipy.sparse.csr_array:
        check_sparse(self._rows.pattern, wide(self.dtype).itemsize)  # type: ignore[attr-defined]
        self._check_fits()
        with silence():
            return self._formed().astype(self.dtype, copy=False)  # type: ignore[attr-defined]

    def toarray(self) -> NDArray[Any]:
        self._check_fits()
        size, dtype = self._assembly.variables.size, self.dtype  # type: ignore[attr-defined]
        _validation.fits(
            f"the {size}x{size} array",
            size * size * wide(dtype).itemsize,
            "multiply by it without forming it",
        )
        with silence():
            return self._formed().toarray().astype(dtype, copy=False)

    def _check_fits(self) -> None:
        of, rank = self._assembly, self._assembly.variables.rank
        if not self._rows.local:
            raise _validation.on_workers("the explicit matrix")
        _validation.fits(
            f"the {of.shape[1]}x{of.shape[1]} matrix, while it is made from J for r = {rank},",
            4 * rank * of.csr_nbytes(16),
            "multiply by it without forming it",
        )

    def _normal(self) -> scipy.sparse.csr_array:
        J = self._assembly.matrix(self._x)
        return (J.conj().T @ J).tocsr()

    def _second(self, numbers: NDArray[Any]) -> scipy.sparse.csr_array:
        """``(M + Mᵀ) ⊗ I`` for an M with these numbers at A's visited entries."""
        of = self._assembly.variables
        i, j = self._rows.visited()
        s, t = i.astype(np.int64) + of.row_offset, j.astype(np.int64) + of.column_offset
        both = sparse(s, t, numbers, numbers, np.zeros(of.count))
        return scipy.sparse.kron(both, scipy.sparse.eye_array(of.rank), format="csr")

    def _each(self, U: NDArray[Any], product: Any) -> NDArray[Any]:
        """A product with each row of U, which is of the shape of Z."""
        shape = self._assembly.variables.shape
        if len(U) == 1:  # a copy of the result takes time
            found: NDArray[Any] = product(frozen(U.reshape(shape)))
            return found.reshape(U.shape)
        found = np.empty(U.shape, U.dtype)
        for u, result in zip(U, found, strict=True):
            result[:] = product(frozen(u.reshape(shape))).reshape(-1)
        return found


class RankNormal(_RankMatrix, NormalOperator):
    """`NormalOperator` for several columns of variables."""

    def __init__(self, assembly: Any, sums: RankSums, x: NDArray[Any], damping: float) -> None:
        LinearOperator.__init__(self, x.dtype, (x.size, x.size))
        self._assembly, self._rows, self._rank_sums = assembly, assembly.rows, sums
        self._x, self._d = frozen(x.astype(wide(x.dtype))), damping

    def _products(self, U: NDArray[Any]) -> NDArray[Any]:
        x = self._x if self._x.dtype == U.dtype else frozen(self._x.astype(U.dtype))
        return self._each(U, lambda V: self._rank_sums.normal(x, V))

    def diagonal(self) -> NDArray[Any]:
        found = self._rank_sums.column_squares(self._x).reshape(-1) + self._d
        return found.astype(np.empty(0, self.dtype).real.dtype, copy=False)

    def block_diagonal(self) -> NDArray[Any]:
        with silence():
            found = self._rank_sums.blocks(self._x)
            found += self._d * np.eye(self._assembly.variables.rank)
            return found.astype(self.dtype, copy=False)

    def _formed(self) -> scipy.sparse.csr_array:
        N = self._normal()
        return (N + self._d * scipy.sparse.eye_array(N.shape[0])).tocsr() if self._d else N


class RankHessian(_RankMatrix, HessianOperator):
    """`HessianOperator` for several columns of variables."""

    def __init__(
        self,
        assembly: Any,
        sums: RankSums,
        dtype: np.dtype[Any],
        *,
        w: Any = None,
        x: NDArray[Any] | None = None,
        y: Any = None,
    ) -> None:
        size = assembly.variables.size
        LinearOperator.__init__(self, dtype, (size, size))
        self._assembly, self._rows, self._rank_sums = assembly, assembly.rows, sums
        self._w, self._x, self._y, self._d = w, x, y, 0.0

    def _products(self, U: NDArray[Any]) -> NDArray[Any]:
        if U.dtype.kind == "c":
            return self._products(U.real) + 1j * self._products(U.imag)
        if self._x is None:
            return self._each(U, lambda V: self._rank_sums.weighted(V, self._w))
        return self._each(U, lambda V: self._rank_sums.curvature(self._x, V))

    def diagonal(self) -> NDArray[Any]:
        of, dtype = self._assembly.variables, self.dtype
        found = np.zeros(of.shape) if self._x is None else self._rank_sums.column_squares(self._x)
        with silence():
            if not self._rows.layout.bilinear:
                a = self._rows.diagonal()
                number = self._rows.diagonal_of(self._y if self._w is None else self._w)
                if self._x is not None:
                    number = a * np.sum(self._x * self._x, axis=1) - number
                found += (2 * a * number)[:, np.newaxis]
            return found.reshape(-1).astype(dtype, copy=False)

    def _formed(self) -> scipy.sparse.csr_array:
        rows, of = self._rows, self._assembly.variables
        i, j = rows.visited()
        a = rows.values()
        if self._x is None:
            in_csr = rows.pattern.interleaved
            w = self._w.at_pairs(i, j) if in_csr else self._w.matrix()[i, j]
            return self._second(a * w)
        Z, s, t = self._x, i + np.int64(of.row_offset), j + np.int64(of.column_offset)
        residuals = a * np.einsum("er,er->e", Z[s], Z[t]) - rows.values(self._y)
        return (self._normal() + self._second(a * residuals)).tocsr()
