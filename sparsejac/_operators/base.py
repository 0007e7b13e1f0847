"""The base class of all operators, which checks the operands of products.

An operand is one vector, a matrix of vectors, or a batch.
"""

from __future__ import annotations

import functools
import math
import numbers
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from .. import _validation
from .._matrix.indices import index_dtype
from .._matrix.pattern import Pattern

# Overflow gives infinity without a warning, as in the kernels.
silence = functools.partial(np.errstate, over="ignore", invalid="ignore")


def check_sparse(pattern: Pattern, itemsize: int) -> None:
    """Refuse to make a sparse k×k matrix if A is dense, or if it does not fit into memory.

    Its pattern is that of A + Aᵀ and the diagonal.
    """
    if not pattern.interleaved:
        raise TypeError(
            "tocsr is for a sparse A, and this A is dense: toarray() gives the k×k array"
        )
    k, count = pattern.k, 2 * pattern.entries + pattern.k
    _validation.fits(
        f"the {k}x{k} matrix, while it is made,",
        4 * count * (itemsize + index_dtype(k, k, count).itemsize),
        "multiply by it without forming it",
    )


def sparse(
    i: NDArray[Any],
    j: NDArray[Any],
    entries: NDArray[Any],
    mirrored: NDArray[Any],
    diagonal: NDArray[Any],
) -> scipy.sparse.csr_array:
    """Make the k×k matrix with `entries` at (i, j), `mirrored` at (j, i), and a diagonal.

    Numbers at the same position are added.
    """
    k = diagonal.size
    own = np.arange(k, dtype=i.dtype)
    index_pairs = np.concatenate([i, j, own]), np.concatenate([j, i, own])
    values = np.concatenate([entries, mirrored, diagonal])
    return scipy.sparse.coo_array((values, index_pairs), shape=(k, k)).tocsr()


def _check_factor(x: Any) -> None:
    """Refuse what SciPy would take for a number, such as text, or for an array of one object.

    It would also drop the mask of a masked array, and the labels of a series of pandas.
    """
    if not (isinstance(x, (LinearOperator, numbers.Number)) or scipy.sparse.issparse(x)):
        _validation.array("x", x)


class Operator(LinearOperator):  # type: ignore[misc]  # SciPy has no types
    """A LinearOperator that checks its operands.

    Subclasses define `_apply` and `_apply_adjoint` for a vector of shape (n,) or a matrix of shape
    (n, c), and the name of the operator in messages.
    """

    _name: str
    _rows: Any  # the backend

    def _apply(self, X: NDArray[Any]) -> NDArray[Any]:
        raise NotImplementedError

    def _apply_adjoint(self, X: NDArray[Any]) -> NDArray[Any]:
        raise NotImplementedError

    def matvec(self, x: Any) -> NDArray[Any]:
        """The product with a vector.

        Parameters
        ----------
        x : array_like, shape (n,), (n, 1) or (..., n)
            One vector, or a batch of them along the last axis; n is ``shape[1]``.

        Returns
        -------
        y : ndarray, shape (m,), (m, 1) or (..., m)
            m is ``shape[0]``.

        Raises
        ------
        ValueError
            If the length does not fit.
        TypeError
            If `x` is not an array of numbers.
        MemoryError
            If the result does not fit into memory, before it is allocated.
        """
        if self._needs_no_check(x, self.shape[1]):
            return self._apply(x)
        array = _validation.operand("x", x, self.shape[1], self._product(" @ x"), matrix=False)
        if array.ndim == 2 and not self._rows.local:
            return self._apply(np.asarray(array))  # SciPy would make a NumPy array of the result
        if isinstance(x, np.matrix) or array.shape == (self.shape[1], 1):
            return super().matvec(x)  # SciPy's rules for columns differ between its versions
        return self._matvec(array)

    def rmatvec(self, x: Any) -> NDArray[Any]:
        """The product of the adjoint with a vector.

        Parameters
        ----------
        x : array_like, shape (m,), (m, 1) or (..., m)
            One vector, or a batch of them along the last axis; m is ``shape[0]``.

        Returns
        -------
        y : ndarray, shape (n,), (n, 1) or (..., n)
            n is ``shape[1]``.

        Raises
        ------
        ValueError
            If the length does not fit.
        TypeError
            If `x` is not an array of numbers.
        MemoryError
            If the result does not fit into memory, before it is allocated.
        """
        if self._needs_no_check(x, self.shape[0]):
            return self._apply_adjoint(x)
        array = _validation.operand("x", x, self.shape[0], self._product(".H @ x"), matrix=False)
        if isinstance(x, np.matrix) or array.shape == (self.shape[0], 1):
            return super().rmatvec(x)
        return self._rmatvec(array)

    def matmat(self, X: Any) -> NDArray[Any]:
        """The product with a matrix. All its columns share the work.

        Parameters
        ----------
        X : array_like, shape (n, c) or (..., n, c)
            n is ``shape[1]``.

        Returns
        -------
        Y : ndarray, shape (m, c) or (..., m, c)
            m is ``shape[0]``.

        Raises
        ------
        ValueError
            If the shape does not fit.
        TypeError
            If `X` is not an array of numbers.
        MemoryError
            If the result does not fit into memory, before it is allocated.
        """
        if self._is_where_rows_are(X, self.shape[1]):
            return self._apply(X)
        array = _validation.operand("X", X, self.shape[1], self._product(" @ X"), matrix=True)
        return self._matmat(array)

    def rmatmat(self, X: Any) -> NDArray[Any]:
        """The product of the adjoint with a matrix. All its columns share the work.

        Parameters
        ----------
        X : array_like, shape (m, c) or (..., m, c)
            m is ``shape[0]``.

        Returns
        -------
        Y : ndarray, shape (n, c) or (..., n, c)
            n is ``shape[1]``.

        Raises
        ------
        ValueError
            If the shape does not fit.
        TypeError
            If `X` is not an array of numbers.
        MemoryError
            If the result does not fit into memory, before it is allocated.
        """
        if self._is_where_rows_are(X, self.shape[0]):
            return self._apply_adjoint(X)
        array = _validation.operand("X", X, self.shape[0], self._product(".H @ X"), matrix=True)
        return self._rmatmat(array)

    def dot(self, x: Any) -> Any:
        """The product with a vector, a matrix, an operator, or a scalar. ``@`` and ``*`` call it.

        Parameters
        ----------
        x : array_like, LinearOperator or scalar
            An array as for `matvec` or `matmat`, an operator to compose with this one, or a scalar
            by which to multiply it.

        Returns
        -------
        y : ndarray or LinearOperator

        Raises
        ------
        ValueError
            If the shape does not fit.
        TypeError
            If `x` is a masked array, or not an array of numbers.
        MemoryError
            If the result does not fit into memory, before it is allocated.
        """
        if self._needs_no_check(x, self.shape[1]):
            return self._apply(x)
        _check_factor(x)
        return super().dot(x)

    def __matmul__(self, x: Any) -> Any:
        if not self._needs_no_check(x, self.shape[1]):
            _check_factor(x)
        return super().__matmul__(x)

    def __rmatmul__(self, x: Any) -> Any:
        _check_factor(x)
        return super().__rmatmul__(x)

    def __rmul__(self, x: Any) -> Any:
        _check_factor(x)
        return super().__rmul__(x)

    def cupyx(self) -> Any:
        """The same operator for the solvers of cupyx, which refuse those of SciPy.

        It is for an A on a GPU. Its operands and results are CuPy arrays. Sums and products of
        operators over such an A are made of these.

        Returns
        -------
        operator : cupyx.scipy.sparse.linalg.LinearOperator

        Raises
        ------
        TypeError
            If A is not on a GPU.

        Notes
        -----
        **Memory.** None.

        Examples
        --------
        >>> import cupy, cupyx.scipy.sparse.linalg  # doctest: +SKIP
        >>> from sparsejac import JacobianBuilder  # doctest: +SKIP
        >>> N = JacobianBuilder(cupy.ones((3, 3))).operator([1, 2, 3]).normal()  # doctest: +SKIP
        >>> x, _ = cupyx.scipy.sparse.linalg.cg(N.cupyx(), cupy.ones(3))  # doctest: +SKIP
        """
        return self._rows.wrapped(self)

    def _needs_no_check(self, x: object, length: int) -> bool:
        """Whether the operand needs no check. A solver calls `matvec` thousands of times."""
        if type(x) is np.ndarray:
            return x.shape == (length,) and x.dtype == self.dtype
        return self._is_where_rows_are(x, length)

    def _is_where_rows_are(self, x: Any, length: int) -> bool:
        """Whether this is an operand that lies where the rows of A are, not in this process."""
        if not self._rows.holds(x):
            return False
        if x.ndim not in (1, 2) or x.shape[0] != length:
            raise _validation.wrong_length("x", x.shape, length)
        return True

    def _matvec(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._apply_to_vectors(x, self._apply, self.shape[1])

    def _rmatvec(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._apply_to_vectors(x, self._apply_adjoint, self.shape[0])

    def _matmat(self, X: NDArray[Any]) -> NDArray[Any]:
        return self._apply_to_matrices(X, self._apply)

    def _rmatmat(self, X: NDArray[Any]) -> NDArray[Any]:
        return self._apply_to_matrices(X, self._apply_adjoint)

    @staticmethod
    def _apply_to_vectors(x: NDArray[Any], apply: Any, length: int) -> NDArray[Any]:
        """Apply the operator to vectors along the last axis. A single vector may be a column."""
        x = np.asarray(x)
        if x.ndim == 1 or x.shape == (length, 1):
            return apply(x.reshape(-1))
        result = apply(x.reshape(math.prod(x.shape[:-1]), length).T)
        return result.T.reshape(*x.shape[:-1], result.shape[0])

    @staticmethod
    def _apply_to_matrices(X: NDArray[Any], apply: Any) -> NDArray[Any]:
        """Apply the operator to matrices in the last two axes."""
        X = np.asarray(X)
        if X.ndim == 2:
            return apply(X)
        front = np.moveaxis(X, -2, 0)
        result = apply(front.reshape(front.shape[0], math.prod(front.shape[1:])))
        return np.moveaxis(result.reshape(result.shape[0], *front.shape[1:]), 0, -2)

    def _product(self, of: str) -> str:
        return f"{self._name}{of}, where {self._name} is {self.shape[0]}x{self.shape[1]}"
