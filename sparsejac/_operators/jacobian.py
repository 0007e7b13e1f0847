"""J as a SciPy LinearOperator. Its products are computed from A and x."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from .. import _validation
from .._matrix.entries import wide
from .._matrix.indices import frozen
from .assembly import Assembly
from .base import Operator, silence
from .hermitian import NormalOperator


@final
class JacobianOperator(Operator):
    """The Jacobian of ``F(x) = A ∘ (x xᵀ)`` at x as a linear operator, never formed.

    `JacobianBuilder.operator` makes it. Its products with v of length k and w of length m are

    * ``J @ v = vec(A ∘ (v xᵀ + x vᵀ))``
    * ``J.T @ w = (A∘W) x + (A∘W)ᵀ x``, where W is w as a k×k matrix
    * ``J.H @ w`` is the same with the conjugates of A and x.

    Attributes
    ----------
    shape : tuple of int
        (m, k).
    dtype : numpy.dtype
        ``numpy.result_type`` of A and x, where integers and booleans count as float64. A product
        has the ``result_type`` of this and of its operand.

    Notes
    -----
    **Memory.** ``J @ v`` allocates its result: m numbers, or m·c for V of c columns. If x and v
    have another dtype or layout than the result, they are copied (k and k·c numbers). For a sparse
    A they are copied to an interleaved array (2 k numbers). ``J.T @ w`` and ``J.H @ w`` allocate
    O(k) numbers, or O(k c) for W of c columns. These are the result in double precision; for each
    worker another result (two for a sparse A and a vector) and four more of its rows; and a copy of
    x if x must be conjugated or is not in double precision. w is not copied unless its byte order
    is foreign. The memory of a large ``J @ v`` is recycled, as `JacobianBuilder` states. An A that
    is not C-contiguous adds a buffer of max(1 MiB, 32 rows of A) for each worker.

    **Accuracy.** ``J @ v`` is computed entry by entry in the dtype of the result. Sums are
    accumulated in double precision, in an order that depends on A alone. So the bits of a result do
    not depend on the number of workers. For n terms t, a sum of ``J.T @ w`` or of JᴴJ differs from
    the exact one by at most ``2 n ε Σ|t|`` with the ε of double precision, and by its rounding to
    the dtype of the result, if the terms are in its range.

    **Range.** An entry of ``J @ v`` overflows, or underflows, only if one of its two exact terms
    does. If products ``x_i v_j`` leave the range of the dtype, it takes 10 to 30 times as long, and
    copies of x and v with as many integers. In the sums of ``J.T @ w`` and of JᴴJ, a product of two
    or more factors of a term may leave the range of float64: the sum is infinite or NaN then, or
    the term has lost digits or is 0.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsejac import JacobianBuilder
    >>> A = np.array([[1.0, 2.0], [3.0, 4.0]])
    >>> J = JacobianBuilder(A).operator([1.0, 10.0])
    >>> J @ [1.0, 1.0]
    array([ 2., 22., 33., 80.])
    >>> J.T @ [1.0, 0.0, 0.0, 1.0]
    array([ 2., 80.])
    """

    _name = "J"

    def __init__(self, assembly: Assembly, x: NDArray[Any]) -> None:
        super().__init__(x.dtype, assembly.shape)
        self._assembly, self._rows = assembly, assembly.rows
        self._x = x  # the builder's copy, read-only

    def tocsr(self) -> scipy.sparse.csr_array:
        """J as a CSR matrix, as `JacobianBuilder.tocsr` makes it at this x.

        Returns
        -------
        J : scipy.sparse.csr_array, shape (m, k)
            A new matrix, which belongs to the caller.

        Raises
        ------
        MemoryError
            If it does not fit into memory, before anything is allocated.

        Notes
        -----
        **Memory.** The result: `JacobianBuilder.csr_nbytes`.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import JacobianBuilder
        >>> J = JacobianBuilder(np.eye(2)).operator([1.0, 2.0])
        >>> bool((J.tocsr() @ [1.0, 1.0] == J @ [1.0, 1.0]).all())
        True
        """
        return self._assembly.matrix(self._x)

    def column_norms(self) -> NDArray[Any]:
        """The Euclidean norms of J's columns, ``‖J[:, s]‖ = √diag(JᴴJ)_s``, in one pass over A.

        ``diag(JᴴJ)_s = Σ_j (|A_sj|² + |A_js|²) |x_j|²``, where j = s counts twice.

        Returns
        -------
        norms : ndarray, shape (k,)
            Real, in the precision of `dtype`. Squares are added in float64, so norms beyond about
            1e±154 overflow or vanish.

        Notes
        -----
        **Memory.** O(k) numbers: the result in float64, one more for each worker (two for a sparse
        A), and |x|².

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import JacobianBuilder
        >>> J = JacobianBuilder(np.array([[1.0, 2.0], [3.0, 4.0]])).operator([1.0, 10.0])
        >>> np.allclose(J.column_norms(), np.linalg.norm(J.tocsr().toarray(), axis=0))
        True
        """
        with silence():
            squares = self._assembly.column_squares(self._x).reshape(-1)
            return np.sqrt(squares).astype(self._x.real.dtype, copy=False)

    def normal(self, damping: float = 0.0) -> NormalOperator:
        """``JᴴJ + damping I`` as a k×k operator. Neither J nor JᴴJ is formed.

        Each product takes one pass over A.

        Parameters
        ----------
        damping : float, default 0.0
            The number that is added to the diagonal, as in the steps of Levenberg and Marquardt.

        Returns
        -------
        N : NormalOperator, shape (k, k)

        Raises
        ------
        ValueError
            If `damping` is negative or not finite.
        TypeError
            If it is not a real number.

        Notes
        -----
        **Memory.** A vector of k numbers, and the memory of `column_norms`.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import JacobianBuilder
        >>> J = JacobianBuilder(np.array([[1.0, 2.0], [3.0, 4.0]])).operator([1.0, 10.0])
        >>> J.normal() @ [1.0, 1.0]
        array([1434., 6543.])
        >>> J.T @ (J @ [1.0, 1.0])
        array([1434., 6543.])
        """
        damping = _validation.nonnegative("damping", damping)
        return self._assembly.normal(self._x, damping)

    def _apply(self, X: NDArray[Any]) -> NDArray[Any]:
        X, dtype = self._rows.brought(X), self._result_dtype(X)
        x = self._x if dtype == self._x.dtype else frozen(self._x.astype(dtype))
        return self._assembly.product(x, frozen(np.ascontiguousarray(X, dtype)))

    def _apply_adjoint(self, X: NDArray[Any]) -> NDArray[Any]:
        return self._apply_transpose(X, conjugate=self.dtype.kind == "c")

    def _apply_transpose(self, X: NDArray[Any], *, conjugate: bool) -> NDArray[Any]:
        dtype = self._result_dtype(X)
        doubled = wide(dtype)
        x = self._x if doubled == self._x.dtype else self._x.astype(doubled)
        if conjugate:
            x = np.conj(x)
        total = self._assembly.transposed_product(frozen(x), X, conjugate=conjugate)
        with silence():
            return self._rows.returned(total.astype(dtype, copy=False), X)

    def _result_dtype(self, X: NDArray[Any]) -> np.dtype[Any]:
        if X.dtype == self.dtype:
            return self.dtype
        return np.result_type(self.dtype, _validation.float_dtype("x", X.dtype))

    def _transpose(self) -> LinearOperator:
        return TransposedOperator(self, conjugate=False)

    def _adjoint(self) -> LinearOperator:
        return TransposedOperator(self, conjugate=True)


@final
class TransposedOperator(Operator):
    """``J.T`` or ``J.H``. SciPy's classes would copy and conjugate m-vectors, also real ones."""

    def __init__(self, of: JacobianOperator, *, conjugate: bool) -> None:
        super().__init__(of.dtype, of.shape[::-1])
        self._of, self._rows = of, of._rows
        self._conjugate = conjugate and of.dtype.kind == "c"
        self._name = "J.H" if conjugate else "J.T"

    def _apply(self, X: NDArray[Any]) -> NDArray[Any]:
        return self._of._apply_transpose(X, conjugate=self._conjugate)

    def _apply_adjoint(self, X: NDArray[Any]) -> NDArray[Any]:
        if self._conjugate or self.dtype.kind != "c":
            return self._of._apply(X)
        result = self._of._apply(np.conj(X))
        return np.conj(result, out=result)

    def _transpose(self) -> LinearOperator:
        # (Jᴴ)ᵀ is conj(J), which is rarely needed. SciPy's wrapper suffices.
        return super()._transpose() if self._conjugate else self._of

    def _adjoint(self) -> LinearOperator:
        return self._of if self._conjugate or self.dtype.kind != "c" else super()._adjoint()
