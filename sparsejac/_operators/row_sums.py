"""The Jacobian of the row sums ``x ∘ (A x)`` as a linear operator."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from .. import _validation
from .._backends.row_products import RowProducts
from .base import Operator, check_sparse, silence, sparse


@final
class RowSumsOperator(Operator):
    """The Jacobian ``Diag(A x) + Diag(x) A`` of ``x ∘ (A x)`` as a linear operator, k×k.

    `RowSums.operator` makes it.

    Attributes
    ----------
    shape : tuple of int
        (k, k).
    dtype : numpy.dtype
        float64.

    Notes
    -----
    **Memory.** A product allocates its result and 3 k-vectors, and for a sparse A 2 more for each
    worker. A product with several vectors takes one pass over A for each of them.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.optimize import root
    >>> from sparsejac import RowSums
    >>> sums = RowSums(np.array([[0.0, 2.0, 1.0], [2.0, 0.0, 3.0], [1.0, 3.0, 0.0]]))
    >>> J = sums.operator([1.0, 2.0, 3.0])
    >>> J
    <3x3 RowSumsOperator with dtype=float64>
    >>> J.T @ [1.0, 0.0, 0.0]
    array([7., 2., 1.])
    >>> def jac(x):
    ...     return sums.operator(x).toarray()
    >>> found = root(lambda x: sums.value(x) - 1, np.ones(3), jac=jac)
    >>> print(sums.value(found.x).round(6))
    [1. 1. 1.]
    """

    _name = "J"

    def __init__(self, products: RowProducts, x: NDArray[Any], Ax: NDArray[Any]) -> None:
        super().__init__(np.dtype(np.float64), products.shape)
        self._products, self._x, self._Ax = products, x, Ax

    @property
    def _rows(self) -> Any:
        return self._products.rows

    def _apply(self, X: NDArray[Any]) -> NDArray[Any]:
        self._products.take_diagonal()
        return self._each_column(X, lambda v: self._Ax * v + self._x * self._products.times(v))

    def _apply_adjoint(self, X: NDArray[Any]) -> NDArray[Any]:
        self._products.take_diagonal()
        return self._each_column(X, lambda w: self._Ax * w + self._products.times(self._x * w))

    def _each_column(self, X: NDArray[Any], product: Any) -> NDArray[Any]:
        if self._rows.holds(X):
            return self._rows.returned(self._each_column(self._rows.brought(X), product), X)
        if X.ndim == 2:
            result = np.empty(
                X.shape, np.result_type(self.dtype, _validation.float_dtype("x", X.dtype))
            )
            for c in range(X.shape[1]):
                result[:, c] = self._each_column(X[:, c], product)
            return result
        if X.dtype.kind == "c":
            return self._each_column(X.real, product) + 1j * self._each_column(X.imag, product)
        with silence():
            return product(np.ascontiguousarray(X, np.float64))

    def diagonal(self) -> NDArray[Any]:
        """The diagonal, ``A x + diag(A) ∘ x``.

        This takes a pass over A only if A is streamed and may change.

        Returns
        -------
        d : ndarray of float64, shape (k,)

        Notes
        -----
        **Memory.** The result and a k-vector.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import RowSums
        >>> RowSums(np.array([[1.0, 2.0], [2.0, 3.0]])).operator([1.0, 10.0]).diagonal()
        array([22., 62.])
        """
        with silence():
            return self._Ax + self._products.current_diagonal() * self._x

    def tocsr(self) -> scipy.sparse.csr_array:
        """The matrix in CSR format, for a sparse A.

        Its pattern is that of A and the diagonal.

        Returns
        -------
        J : scipy.sparse.csr_array, shape (k, k)
            In canonical format.

        Raises
        ------
        TypeError
            If A is dense. Use `toarray` then.
        MemoryError
            If it does not fit into memory, before anything is allocated.

        Notes
        -----
        **Memory.** The matrix may have 2 e + k numbers and column indices for e entries that are
        read. SciPy takes four times that to sort and sum them.

        Examples
        --------
        >>> import scipy.sparse
        >>> from sparsejac import RowSums
        >>> A = scipy.sparse.csr_array([[1.0, 2.0], [2.0, 3.0]])
        >>> print(RowSums(A).operator([1.0, 10.0]).tocsr().toarray())
        [[22.  2.]
         [20. 62.]]
        """
        products = self._products
        check_sparse(products.pattern, 8)
        i, j = products.rows.visited()
        a = products.rows.values()
        with silence():
            return sparse(i, j, self._x[i] * a, self._x[j] * a, self.diagonal())

    def toarray(self) -> NDArray[Any]:
        """The matrix as a k×k array.

        Returns
        -------
        J : ndarray of float64, shape (k, k)

        Raises
        ------
        MemoryError
            If it does not fit into memory, before anything is allocated.

        Notes
        -----
        **Memory.** One and a half times the result; for a sparse A the result and `tocsr`.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import RowSums
        >>> print(RowSums(np.array([[1.0, 2.0], [2.0, 3.0]])).operator([1.0, 10.0]).toarray())
        [[22.  2.]
         [20. 62.]]
        """
        products, k = self._products, self.shape[0]
        _validation.fits(
            f"the {k}x{k} array, while it is made,", 12 * k * k, "multiply by it without forming it"
        )
        pattern = products.pattern
        if pattern.interleaved:
            return self.tocsr().toarray()
        J = products.rows.matrix()
        with silence():
            for i in range(k):
                columns = slice(int(pattern.lo[i]) - i * k, int(pattern.hi[i]) - i * k)
                J[columns, i] = J[i, columns]
            J *= self._x[:, np.newaxis]
            J[np.arange(k), np.arange(k)] = self.diagonal()
        return J
