"""Checks of a Jacobian of ``F(x) = A ∘ (x xᵀ)``, ``A ∘ (X Xᵀ)`` or ``A ∘ (X Yᵀ)``.

They share no code with the kernels.

F is quadratic, so the identities of `check_jacobian` have no truncation error. They hold exactly in
exact arithmetic, and to the last bit for small integers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike, NDArray

from . import _validation
from ._identities import Check, adjoint_check, matrix_in_memory, sizes_of, verdicts, wide_integers
from ._validation import Order, Rows

__all__ = ["Check", "assert_adjoint", "check_jacobian", "dense_jacobian"]


def dense_jacobian(
    A: Any,
    x: ArrayLike,
    *,
    rank: int | None = None,
    bilinear: bool = False,
    rows: Rows | None = None,
    order: Order = "C",
) -> NDArray[Any]:
    """Compute the Jacobian of ``F(x) = A ∘ (x xᵀ)`` as a dense array, by loops over its definition.

    The entries are ``∂F_ij/∂x_s = A_ij (δ_is x_j + δ_js x_i)``, with one row for each (i, j). With
    `rank`, ``F = A ∘ (X Xᵀ)`` is a sum over the columns x of X, each with these derivatives. The
    function is a readable reference for small k.

    Parameters
    ----------
    A : array_like or SciPy sparse array or matrix, shape (k, k), or (m, n) if `bilinear`
    x : array_like, shape (k,), or (k, r) or (k r,)
        If `bilinear`, k is m + n: X is on top of Y.
    rank : int, optional
        The number r of columns of X: see `sparsejac.JacobianBuilder`. Column i r + c of J belongs
        to ``X[i, c]``. Default: x is a vector.
    bilinear : bool, default False
        F is ``A ∘ (X Yᵀ)``: see `sparsejac.JacobianBuilder`.
    rows : {"all", "stored", "upper"}, default "all"
        The entries of F that are rows of J: see `sparsejac.JacobianBuilder`.
    order : {"C", "F"}, default "C"
        The order of the rows: row-major, or the columns of F stacked.

    Returns
    -------
    J : ndarray, shape (m, k), or (m, k r)
        It has a row for each of the m entries of F that are asked for.

    Raises
    ------
    ValueError
        If A is not square and `bilinear` is False, or x does not have its size; if an option has
        another value than those above; if `bilinear` is True with ``rows="upper"``.
    TypeError
        If A or x is not an array of numbers, or `rank` is not an integer.

    Notes
    -----
    **Memory.** As many numbers as J has: k³ for ``rows="all"`` without a rank.

    Examples
    --------
    >>> from sparsejac.testing import dense_jacobian
    >>> dense_jacobian([[1.0, 2.0], [3.0, 4.0]], [1.0, 10.0])
    array([[ 2.,  0.],
           [20.,  2.],
           [30.,  3.],
           [ 0., 80.]])

    The same A with two columns, and its first row in the bilinear form:

    >>> dense_jacobian([[1.0, 2.0], [3.0, 4.0]], [[1.0, 5.0], [10.0, 50.0]], rank=2)
    array([[  2.,  10.,   0.,   0.],
           [ 20., 100.,   2.,  10.],
           [ 30., 150.,   3.,  15.],
           [  0.,   0.,  80., 400.]])
    >>> dense_jacobian([[1.0, 2.0]], [1.0, 10.0, 20.0], bilinear=True)
    array([[10.,  1.,  0.],
           [40.,  0.,  2.]])
    """
    A = matrix_in_memory(A, bilinear)
    rows, order = _rows(rows, bilinear), _validation.order(order)
    k, r, offset = sizes_of(A, rank, bilinear)
    x = _validation.point("x", x, A.shape, rank, bilinear=bilinear, finite=False).reshape(-1)
    dtype = np.result_type(
        _validation.float_dtype("A", A.dtype), _validation.float_dtype("x", x.dtype)
    )
    values, stored = _dense_with_pattern(A)
    m, n = A.shape
    pairs = [(i, j) for i in range(m) for j in range(n)]
    if order == "F":
        pairs = [(i, j) for j in range(n) for i in range(m)]
    if rows != "all":
        pairs = [(i, j) for i, j in pairs if stored[i, j]]
    if rows == "upper":
        pairs = [(i, j) for i, j in pairs if i <= j]
    X = x.astype(dtype).reshape(k, r)
    J = np.zeros((len(pairs), k, r), dtype)
    for row, (i, j) in enumerate(pairs):
        a = dtype.type(values[i, j])
        for c in range(r):
            J[row, i, c] += a * X[offset + j, c]
            J[row, offset + j, c] += a * X[i, c]
    return J.reshape(len(pairs), k * r)


def check_jacobian(
    A: Any,
    x: ArrayLike | None = None,
    *,
    J: Any = None,
    rank: int | None = None,
    bilinear: bool = False,
    rows: Rows | None = None,
    order: Order = "C",
    seed: int = 0,
) -> tuple[Check, ...]:
    """Check a Jacobian of ``F(x) = A ∘ (x xᵀ)`` on your own A and x by identities.

    F is quadratic, so the identities hold exactly for every h. Two random h are about as large as x
    in each entry. For the first identity, the entries of two more h all have the same size, and
    ``F(x+h) - F(x-h)`` is computed as ``2 A_ij (x_i h_j + h_i x_j)``. So a wrong entry of J is
    found even if the entries of x have very different sizes. With `rank`, these two h are taken for
    each column of X by itself, and are zero in the others.

    * ``F(x+h) - F(x-h) = 2 J h``
    * ``F(x+h) - F(x) - J h = F(h)``
    * ``J x = 2 F(x)``
    * ``⟨J u, w⟩ = ⟨u, Jᴴ w⟩``, see `assert_adjoint`; for an operator also each entry of ``Jᴴ w``,
      for a w that makes the rows of J equally large
    * if `J` is not given: ``J(x) h = J(h) x``, and equal ``J v``, ``Jᴴ w`` and column norms of CSR
      matrix and operator

    NumPy computes F here. The allowed deviation of each entry is a small multiple of the rounding
    error of its own terms. This assumes that no product of three of the numbers overflows or
    underflows.

    Parameters
    ----------
    A : array_like or SciPy sparse array or matrix, shape (k, k), or (m, n) if `bilinear`
    x : array_like, shape (k,), or (k, r) or (k r,), optional
        If `bilinear`, k is m + n: X is on top of Y. Default: small random integers, none of them
        zero.
    J : array_like, sparse array or LinearOperator, shape (m, k) or (m, k r), optional
        The Jacobian to check, for instance one that you wrote. By default,
        `sparsejac.JacobianBuilder` makes it, as CSR matrix and as operator.
    rank : int, optional
        The number r of columns of X in ``F = A ∘ (X Xᵀ)``: see `sparsejac.JacobianBuilder`.
        Default: x is a vector.
    bilinear : bool, default False
        F is ``A ∘ (X Yᵀ)``: see `sparsejac.JacobianBuilder`.
    rows : {"all", "stored", "upper"}, default "all"
        The entries of F that are rows of J: see `sparsejac.JacobianBuilder`.
    order : {"C", "F"}, default "C"
        The order of these rows.
    seed : int, default 0
        The seed of the random vectors.

    Returns
    -------
    checks : tuple of Check
        One for each identity. All have passed.

    Raises
    ------
    AssertionError
        If an identity does not hold. The message names each that fails, with its error.
    ValueError
        If the shapes do not fit together; if the squares of F's entries overflow or underflow; as
        for `sparsejac.JacobianBuilder`.
    TypeError
        If A or x is not an array of numbers.
    MemoryError
        If the vectors, or the CSR matrix if `J` is not given, do not fit into memory.

    Notes
    -----
    **Memory.** At most 16 vectors of lengths m and k (k r with `rank`), and the CSR matrix if `J`
    is not given.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsejac.testing import check_jacobian, dense_jacobian
    >>> A, x = np.arange(9.0).reshape(3, 3), np.array([1.0, 2.0, 3.0])
    >>> for check in check_jacobian(A, x):
    ...     print(check.passed, check.name)
    True F(x+h) - F(x-h) = 2 J h
    True F(x+h) - F(x) - J h = F(h)
    True J x = 2 F(x)
    True <J u, w> = <u, J^H w>
    True J(x) h = J(h) x
    True CSR @ v = operator @ v
    True CSR^H @ w = operator^H @ w
    True column norms of CSR = of operator
    >>> mine = dense_jacobian(A, x)
    >>> mine[1, 0] += 1e-9
    >>> check_jacobian(A, x, J=mine)
    Traceback (most recent call last):
        ...
    AssertionError: J is not the Jacobian of A∘(xxᵀ) at x: F(x+h) - F(x-h) = 2 J h fails ...
    >>> len(check_jacobian(A, rank=2))
    8
    >>> len(check_jacobian(A[:2], rank=2, bilinear=True))
    8
    """
    options: dict[str, Any] = {"rank": rank, "bilinear": bilinear, "rows": rows, "order": order}
    checks = tuple(verdicts(A, x, J=J, seed=seed, **options))
    failed = [
        f"{check.name} fails by {check.error:.3g} times its rounding error"
        for check in checks
        if not check.passed
    ]
    if failed:
        F = "A∘(XYᵀ)" if bilinear else "A∘(xxᵀ)" if rank is None else "A∘(XXᵀ)"
        raise AssertionError(f"J is not the Jacobian of {F} at x: " + "; ".join(failed))
    return checks


def assert_adjoint(op: Any, *, seed: int = 0) -> None:
    """Check ``⟨J u, w⟩ = ⟨u, Jᴴ w⟩`` for random u and w.

    This is the dot test of an operator and its adjoint.

    Parameters
    ----------
    op : LinearOperator, array_like or sparse array, shape (m, n)
        It is tested in its own dtype, with complex vectors if the dtype is complex.
    seed : int, default 0
        The seed of the random vectors.

    Raises
    ------
    AssertionError
        If the two sides differ by more than rounding errors, in their real or in their imaginary
        part.
    ValueError
        If `op` is not a matrix or an operator.
    TypeError
        If `op` is not an array of numbers.

    Notes
    -----
    **Memory.** Two vectors of length m and two of length n, and what the products of `op` need.

    The method is the dot-product test of J. F. Claerbout, *Earth Soundings Analysis* (1992),
    section 5.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsejac import JacobianBuilder
    >>> from sparsejac.testing import assert_adjoint
    >>> assert_adjoint(JacobianBuilder(np.ones((4, 4))).operator([1, 2, 3, 4]))
    """
    if isinstance(op, np.ndarray) or not hasattr(op, "shape"):
        op = _validation.array("op", op)
    if len(op.shape) != 2:
        raise ValueError(
            f"op must be an operator or a matrix of shape (m, n), got shape {op.shape}: a vector "
            "is op[:, np.newaxis]"
        )
    check = adjoint_check(
        op, np.random.default_rng(seed), _validation.float_dtype("op", np.dtype(op.dtype))
    )
    if not check.passed:
        raise AssertionError(
            f"the adjoint does not belong to the operator: {check.name} fails by "
            f"{check.error:.3g} times its rounding error"
        )


def _rows(rows: Rows | None, bilinear: bool) -> Rows:
    which = _validation.rows_of(rows, None, is_map=False)
    if bilinear:
        _validation.bilinear_options(which, None)
    return which


def _dense_with_pattern(A: Any) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Convert A to a dense array, and make a mask of the entries that are stored."""
    if not scipy.sparse.issparse(A):
        return np.asarray(A), np.ones(A.shape, np.bool_)
    stored = np.zeros(A.shape, np.bool_)
    if A.format == "dia":  # SciPy drops the zeros on a stored diagonal in conversions
        for offset in A.offsets:
            for j in range(min(A.shape[1], A.data.shape[1])):
                if 0 <= j - offset < A.shape[0]:
                    stored[j - offset, j] = True
    else:
        coo = A.tocoo()
        stored[coo.row, coo.col] = True
    return wide_integers(A).toarray(), stored
