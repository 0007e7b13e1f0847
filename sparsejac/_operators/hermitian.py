"""JᴴJ and Hessians as k×k operators that are never formed.

With ``S = |A|² + (|A|²)ᵀ``

* ``JᴴJ = Diag(S |x|²) + Diag(x) S Diag(x̄)``
* ``∇² wᵀF = A∘W + (A∘W)ᵀ``, where W is w as a k×k matrix
* ``∇² ½‖F - Y‖² = JᵀJ + A∘R + (A∘R)ᵀ = Diag(S (x∘x)) + M + Mᵀ`` with ``R = F - Y`` and
  ``M = A∘(2 F - Y)``.

All three are ``Diag(d) + T + Tᴴ`` for a T with the pattern of A. They follow from J's rows, which
have ``A_ij x_j`` in column i and ``A_ij x_i`` in column j. If i = j, both are in one column, and
the formulas hold without a special case.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from .. import _validation
from .._backends.protocol import Backend
from .._backends.sums import Sums, absolute_squares
from .._matrix.entries import wide
from .._matrix.indices import frozen
from .base import Operator, check_sparse, silence, sparse

_BLOCK = 2**20  # how many numbers a block of rows of an explicit matrix has


class _Hermitian(Operator):
    """``Diag(d) + T + Tᴴ``, k×k.

    Subclasses define the products of ``T + Tᴴ`` in `_products`, and the entries of T in `_term`.
    """

    _rows: Backend
    _d: NDArray[Any] | float

    def _products(self, U: NDArray[Any]) -> NDArray[Any]:
        """``(T + Tᴴ) u`` for each row u of U, in double precision."""
        raise NotImplementedError

    def _term(self, a: NDArray[Any], i: Any, j: Any, aligned: Any) -> NDArray[Any]:
        """The entries of T at (i, j), from the entries a of A and those of Y or W in `aligned`."""
        raise NotImplementedError

    def _aligned_entries(self, i: NDArray[Any], j: NDArray[Any]) -> Any:
        """The numbers of Y or W at A's entries (i, j), in the order of `Rows.visited`."""
        return None

    def _aligned_matrix(self) -> Any:
        """Y or W as a matrix that is aligned with a dense A."""
        return None

    def _apply(self, X: NDArray[Any]) -> NDArray[Any]:
        given, X = X, self._rows.brought(X)
        dtype = np.result_type(self.dtype, _validation.float_dtype("x", X.dtype))
        U = np.ascontiguousarray(X.T if X.ndim == 2 else X[np.newaxis], wide(dtype))
        with silence():
            result = self._products(U)
            if isinstance(self._d, np.ndarray) or self._d:
                result += self._d * U
            result = np.ascontiguousarray(result[0] if X.ndim == 1 else result.T, dtype)
            return self._rows.returned(result, given)

    def _apply_adjoint(self, X: NDArray[Any]) -> NDArray[Any]:
        return self._apply(X)

    def _adjoint(self) -> LinearOperator:
        return self

    def _transpose(self) -> LinearOperator:
        return super()._transpose() if self.dtype.kind == "c" else self

    def diagonal(self) -> NDArray[Any]:
        """The diagonal, for Jacobi's preconditioner.

        This takes no pass over A, or one if x has several columns.

        Returns
        -------
        d : ndarray, shape (k,)
            Real, in the precision of `dtype`.

        Notes
        -----
        **Memory.** The result in float64 and a few k-vectors.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import JacobianBuilder
        >>> N = JacobianBuilder(np.array([[1.0, 2.0], [3.0, 4.0]])).operator([1.0, 10.0]).normal()
        >>> N.diagonal()
        array([1304., 6413.])
        """
        a = self._rows.diagonal()
        i = np.arange(a.size)
        with silence():
            t = self._term(a, i, i, self._aligned_diagonal())
            return (self._d + 2 * t.real).astype(np.empty(0, self.dtype).real.dtype, copy=False)

    def _aligned_diagonal(self) -> Any:
        """Y or W on the diagonal."""
        return None

    def tocsr(self) -> scipy.sparse.csr_array:
        """The matrix in CSR format, for a sparse A.

        Its pattern is that of A + Aᵀ and the diagonal.

        Returns
        -------
        H : scipy.sparse.csr_array, shape (k, k)
            In canonical format. The pattern does not depend on the values, so entries may be zero.

        Raises
        ------
        TypeError
            If A is dense. Use `toarray` then.
        MemoryError
            If it does not fit into memory, before anything is allocated.

        Notes
        -----
        **Memory.** The matrix may have 2 e + k numbers and column indices for e stored entries of
        A. SciPy takes four times that to sort and sum them.

        Examples
        --------
        >>> import numpy as np, scipy.sparse
        >>> from sparsejac import JacobianBuilder
        >>> A = scipy.sparse.csr_array(np.array([[0.0, 2.0], [0.0, 4.0]]))
        >>> print(JacobianBuilder(A).operator([1.0, 10.0]).normal().tocsr().toarray())
        [[ 400.   40.]
         [  40. 6404.]]
        """
        rows, doubled = self._rows, wide(self.dtype)
        check_sparse(rows.pattern, doubled.itemsize)
        i, j = rows.visited()
        with silence():
            a = rows.values().astype(doubled, copy=False)
            t = self._term(a, i, j, self._aligned_entries(i, j))
            d = np.broadcast_to(np.asarray(self._d, t.dtype), (self.shape[0],))
            H = sparse(i, j, t, np.conj(t), d)
            H.sum_duplicates()
            return H.astype(self.dtype, copy=False)

    def toarray(self) -> NDArray[Any]:
        """The matrix as a k×k array.

        Returns
        -------
        H : ndarray, shape (k, k)

        Raises
        ------
        MemoryError
            If it does not fit into memory, before anything is allocated.

        Notes
        -----
        **Memory.** Twice the result in double precision; for a sparse A the result and `tocsr`.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import JacobianBuilder
        >>> N = JacobianBuilder(np.array([[1.0, 2.0], [3.0, 4.0]])).operator([1.0, 10.0]).normal()
        >>> print(N.toarray())
        [[1304.  130.]
         [ 130. 6413.]]
        """
        k, doubled = self.shape[0], wide(self.dtype)
        _validation.fits(
            f"the {k}x{k} array, while it is made,",
            2 * k * k * doubled.itemsize,
            "multiply by it without forming it",
        )
        if self._rows.pattern.interleaved:
            return self.tocsr().toarray()
        with silence():
            return self._dense(doubled)

    def _dense(self, doubled: np.dtype[Any]) -> NDArray[Any]:
        k = self.shape[0]
        T, aligned = self._rows.matrix().astype(doubled, copy=False), self._aligned_matrix()
        step, own = max(_BLOCK // max(k, 1), 1), np.arange(k)
        for i in range(0, k, step):
            rows = slice(i, i + step)
            T[rows] = self._term(
                T[rows], own[rows, np.newaxis], own, None if aligned is None else aligned[rows]
            )
        T += T.conj().T  # NumPy copies an operand that overlaps
        T[own, own] += self._d
        return T.astype(self.dtype, copy=False)


class NormalOperator(_Hermitian):
    """``JᴴJ + damping I`` as a linear operator, k×k. Neither J nor the product is formed.

    `JacobianOperator.normal` and `LeastSquares.normal` make it. Its formula is
    ``JᴴJ = Diag(S |x|²) + Diag(x) S Diag(x̄)`` with ``S = |A|² + (|A|²)ᵀ``. With ``rows="upper"``
    the formula holds for triu(A) in place of A.

    Attributes
    ----------
    shape : tuple of int
        (k, k).
    dtype : numpy.dtype
        The dtype of J; float64 if `LeastSquares` made the operator.

    Notes
    -----
    **Memory.** A product allocates its result, and its operand times x. Each worker takes as much
    as the result (for a sparse A two k-vectors for one vector, eight for several). Several vectors
    share a pass over A, four if A is sparse. If x is complex, each vector counts as two.

    If x has several columns, each vector takes a pass, and each worker three arrays of the shape of
    x. `tocsr` and `toarray` then form J first, and take a few times r times its memory.

    **Later changes.** The diagonal ``S |x|²`` is computed when the operator is made. If values of A
    change, make another operator.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse.linalg import cg
    >>> from sparsejac import JacobianBuilder
    >>> J = JacobianBuilder(np.array([[1.0, 2.0], [3.0, 4.0]])).operator([1.0, 10.0])
    >>> N = J.normal(damping=1.0)
    >>> N
    <2x2 NormalOperator with dtype=float64>
    >>> step, info = cg(N, J.T @ np.ones(4), rtol=1e-12)
    >>> np.allclose(N @ step, J.T @ np.ones(4))
    True
    """

    _name = "N"

    def __init__(
        self,
        rows: Backend,
        sums: Sums,
        x: NDArray[Any],
        damping: float,
        scale: Any = None,
    ) -> None:
        super().__init__(x.dtype, (x.size, x.size))
        self._rows, self._sums = rows, sums
        self._x = frozen(x.astype(wide(x.dtype)))
        with silence():
            if scale is None:  # the caller may have computed S |x|²
                scale = sums.squares(absolute_squares(x))
            self._d = scale + damping

    def block_diagonal(self) -> NDArray[Any]:
        """The blocks on the diagonal that belong to one row of X, for block Jacobi.

        Block i is ``Σ_j S_ij conj(x_j) x_jᵀ + S_ii conj(x_i) x_iᵀ``, and `damping` on its diagonal.
        F stays the same if X is rotated (``X Q`` with an orthogonal Q), and then block i becomes
        ``Qᵀ block Q``: a preconditioner of these blocks is as good as before. The diagonal alone
        has no such property.

        Returns
        -------
        D : ndarray, shape (k, r, r)
            Hermitian blocks. For one column of variables r is 1.

        Notes
        -----
        **Memory.** The result, and r (r + 1) / 2 numbers for each row of X, with as many sums for
        each worker. For r > 1 this takes a pass over A.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import JacobianBuilder
        >>> builder = JacobianBuilder(np.array([[1.0, 2.0], [3.0, 4.0]]), rank=2)
        >>> N = builder.operator(np.eye(2)).normal()
        >>> print(N.block_diagonal()[0])
        [[ 4.  0.]
         [ 0. 13.]]
        """
        return self.diagonal().reshape(-1, 1, 1).astype(self.dtype)

    def _products(self, U: NDArray[Any]) -> NDArray[Any]:
        return self._x * self._sums.squares(np.conj(self._x) * U)

    def _term(self, a: NDArray[Any], i: Any, j: Any, aligned: Any) -> NDArray[Any]:
        return absolute_squares(a) * (self._x[i] * np.conj(self._x[j]))


class HessianOperator(_Hermitian):
    """The Hessian of ``wᵀF`` or of ``½‖F - Y‖²`` as a linear operator, k×k, never formed.

    `JacobianBuilder.hessian` and `LeastSquares.hess` make it.

    * ``∇² wᵀF = A∘W + (A∘W)ᵀ``, where W is w as a k×k matrix. It is the same at every x.
    * ``∇² ½‖F - Y‖² = JᵀJ + A∘R + (A∘R)ᵀ`` with ``R = F - Y``.

    With ``rows="upper"`` the formulas hold for triu(A) in place of A.

    Attributes
    ----------
    shape : tuple of int
        (k, k).
    dtype : numpy.dtype
        float32 or float64: ``numpy.result_type`` of A and w; float64 if `LeastSquares` made it.

    Notes
    -----
    **Memory.** A product allocates its result, and for each worker one k-vector, or two to four if
    A is sparse. A product with several vectors takes one pass over A for each of them.

    **Later changes.** The diagonal ``S (x∘x)`` is computed when the operator is made. If values of
    A change, make another operator.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsejac import JacobianBuilder
    >>> H = JacobianBuilder(np.array([[1.0, 2.0], [3.0, 4.0]])).hessian([1.0, 1.0, 1.0, 1.0])
    >>> print(H.toarray())
    [[2. 5.]
     [5. 8.]]
    >>> H @ [1.0, 1.0]
    array([ 7., 13.])
    """

    _name = "H"

    def __init__(
        self,
        rows: Backend,
        dtype: np.dtype[Any],
        *,
        w: Any = None,
        x: NDArray[Any] | None = None,
        sums: Sums | None = None,
        y: Any = None,
        scale: NDArray[Any] | None = None,
    ) -> None:
        k = rows.pattern.k
        super().__init__(dtype, (k, k))
        self._rows, self._w, self._x, self._sums, self._y = rows, w, x, sums, y
        self._d = 0.0 if scale is None else scale

    def _products(self, U: NDArray[Any]) -> NDArray[Any]:
        if U.dtype.kind == "c":
            return self._products(U.real) + 1j * self._products(U.imag)
        return (
            np.stack([self._product_with(np.ascontiguousarray(u)) for u in U])
            if len(U)
            else np.empty(U.shape)
        )

    def _product_with(self, u: NDArray[Any]) -> NDArray[Any]:
        if self._sums is not None and self._x is not None:
            return self._sums.curvature(self._x, u)
        return self._rows.reduce("rmatvec", frozen(u), False, target=self._w)

    def _term(self, a: NDArray[Any], i: Any, j: Any, aligned: Any) -> NDArray[Any]:
        if self._x is None:
            return a * aligned
        return a * (2 * a * (self._x[i] * self._x[j]) - aligned)

    def _aligned_entries(self, i: NDArray[Any], j: NDArray[Any]) -> Any:
        if self._w is None:
            return self._rows.values(self._y)
        return self._w.at_pairs(i, j)

    def _aligned_matrix(self) -> Any:
        if self._w is None:
            return self._rows.matrix(self._y)
        return self._w.matrix()

    def _aligned_diagonal(self) -> Any:
        return self._rows.diagonal_of(self._y if self._w is None else self._w)
