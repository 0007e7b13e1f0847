"""`LeastSquares`: the problem ``min ½‖A ∘ (x xᵀ) - Y‖²`` in the forms that SciPy's solvers take."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike, NDArray

from . import _validation
from ._backends.align import align_target, target_source
from ._backends.rank_sums import rank_sums_of
from ._backends.robust_sums import Loss
from ._matrix.entries import TARGETS, Entries
from ._matrix.indices import frozen
from ._matrix.registry import source_of_rows
from ._operators.hermitian import HessianOperator, NormalOperator
from ._operators.jacobian import JacobianOperator
from ._operators.least_squares_terms import least_squares_of
from ._operators.rank_assembly import RankAssembly
from ._system.forks import computed_once
from ._validation import LossName, Order, Rows, Uplo
from .builder import JacobianBuilder


class LeastSquares:
    """The problem ``min ½‖F(x) - Y‖²`` with ``F(x) = A ∘ (x xᵀ)``, for SciPy's solvers.

    `sparsejac.fit` solves the problem by itself. Cost and gradient come from one pass over A and Y,
    without a vector of residuals. JᵀJ and the Hessian are k×k operators, and are never formed.

    Parameters
    ----------
    A : array_like or SciPy sparse array or matrix, shape (k, k)
        A real matrix, as `JacobianBuilder` takes it.
    Y : array_like or SciPy sparse array or matrix, shape (k, k) or (m,)
        A real matrix like A, or a vector in the order of J's rows. Y must be zero where a sparse A
        stores no entry. Y is referenced if it is an array and A is dense, or if it has the
        structure of a sparse A.
    rows : {"all", "stored", "upper"}, default "stored"
        Which entries of F and Y are compared: see `JacobianBuilder`. Entries of a symmetric A that
        are off the diagonal count once with ``"upper"``, and twice with ``"stored"``. If `uplo` is
        given, the default is ``"upper"``.
    order : {"C", "F"}, default "C"
        The order of J's rows, of `fun`, and of a vector Y.
    uplo : {"U", "L"}, optional
        A holds its upper (lower) triangle only: see `JacobianBuilder`. `rows` is ``"upper"`` then,
        unless it is given. Then Y may be symmetric, or, in memory, hold the same triangle as A.
        With other `rows` it must be whole.
    check_finite : bool, default True
        Refuse NaN and infinity, in A and Y here and in x at each call.
    workers : int, optional
        As for `JacobianBuilder`.
    memory : int, optional
        As for `JacobianBuilder`.
    progress : bool, default False
        As for `JacobianBuilder`.
    rank : int, optional
        The number r of columns of x: see `JacobianBuilder`. x is of shape (k, r), or flat.
        Gradients, and products with the Hessian, have the shape of what they are given.
    bilinear : bool, default False
        A and Y are m×n, and ``F = A ∘ (X Yᵀ)``: see `JacobianBuilder`. x is X above Y.
    loss : {"linear", "soft_l1", "huber", "cauchy", "arctan"}, default "linear"
        The ρ of the cost ``½ C² Σ ρ(r²/C²)``, as in `scipy.optimize.least_squares`. All but the
        first let residuals r far above C count less than their squares.
    f_scale : float, default 1.0
        C, the size of residuals from which they count less. It does not matter for "linear".

    Attributes
    ----------
    builder : JacobianBuilder
        The builder of J.
    shape : tuple of int
        (m, k), the shape of J.

    Raises
    ------
    ValueError
        If A or Y has a shape, structure or value that is not allowed above; if Y is not zero where
        A has no entries.
    TypeError
        If A or Y is complex, or not a matrix of numbers.

    Notes
    -----
    **Weights.** For data M with weights ``W >= 0`` (0 where M is unknown), the problem
    ``½‖√W∘(M - x xᵀ)‖²`` is ``LeastSquares(√W, √W∘M)``.

    **Robust losses.** `loss` changes `cost`, its derivatives, and `normal`, which is
    ``Jᵀ Diag(ρ') J``. `fun` and `jac` stay those of the residuals: SciPy's `least_squares` applies
    its own `loss` to them. Explicit matrices and diagonals take an array of m numbers then.

    **Memory.** As for the builder, and up to 3 k numbers that belong to the last x. Symmetric A and
    Y take 7 k numbers more. If Y has another structure than a sparse A, it is converted once, to a
    number for each entry of A. If A is dense, a sparse Y is converted to an array.

    A pass allocates at most three k-vectors, and three more for each worker. It also allocates
    buffers of max(1 MiB, 32 rows) for each worker if A or Y is dense and not in C order, or if its
    dtype is not float64 or float32 (for A: also int32 or int64).

    **Later changes.** Whether A and Y are symmetric is checked here, and the results at the last x
    are kept. If values of A or Y change, make another problem. If an array of a referenced sparse A
    or Y is replaced, all calls raise a ValueError.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.optimize import least_squares, minimize
    >>> from sparsejac import LeastSquares
    >>> A = np.array([[1.0, 2.0], [3.0, 4.0]])
    >>> problem = LeastSquares(A, A * np.outer([2.0, 3.0], [2.0, 3.0]))
    >>> print(least_squares(problem.fun, [1.0, 1.0], jac=problem.jac).x.round(6))
    [2. 3.]
    >>> options = {"jac": True, "hess": problem.hess, "method": "trust-constr"}
    >>> print(minimize(problem.value_and_grad, [1.0, 1.0], **options).x.round(6))
    [2. 3.]
    """

    def __init__(
        self,
        A: Any,
        Y: Any,
        *,
        rows: Rows | None = None,
        order: Order = "C",
        uplo: Uplo | None = None,
        check_finite: bool = True,
        workers: int | None = None,
        memory: int | None = None,
        progress: bool = False,
        rank: int | None = None,
        bilinear: bool = False,
        loss: LossName = "linear",
        f_scale: float = 1.0,
    ) -> None:
        self._loss = Loss(_validation.choice("loss", loss, LossName), _validation.scale(f_scale))
        order, rank = _validation.order(order), _validation.rank(rank)
        bilinear = _validation.flag("bilinear", bilinear)
        settings = _validation.settings(check_finite, workers, memory, progress)
        source, rows = source_of_rows(
            A,
            rows,
            order,
            uplo,
            default="stored",
            beside=target_source(Y, bilinear=bilinear),
            bilinear=bilinear,
            check_finite=settings.check_finite,
        )
        _validation.real("A", source.dtype, "least squares")
        builder = JacobianBuilder._checked(source, rows, order, settings, rank, bilinear=bilinear)
        if self._loss.name != "linear":
            builder._rows.check_takes("loss=")
        self._set_up(builder, align_target(Y, builder._rows, uplo))

    def _set_up(self, builder: JacobianBuilder, target: Any) -> None:
        """Set the attributes. Unpickling does this without the checks of `__init__`."""
        self.builder, self.shape, self._target = builder, builder.shape, target
        self._terms = least_squares_of(builder._assembly, target, self._loss)
        self._y_dtype = _validation.float_dtype("Y", target.given_dtype)
        self._last: tuple[NDArray[Any], float, NDArray[Any], Any] | None = None
        self._shapes: list[tuple[int, ...]] = [self.shape[1:]]  # that x may have
        if builder._rank is not None:
            self._shapes.append(builder._assembly.variables.shape)

    def __getstate__(self) -> tuple[Any, ...]:
        target = self._target
        self.builder._rows.check_unchanged(target)
        if isinstance(target, Entries):
            return self.builder, target.given, target.referenced, tuple(self._loss)
        return self.builder, target, None, tuple(self._loss)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        builder, target, referenced, loss = state
        self._loss = Loss(*loss)
        if isinstance(target, np.ndarray):
            target = Entries(target, builder._pattern, TARGETS, referenced)
        self._set_up(builder, target)

    def __repr__(self) -> str:
        m, k = self.shape
        return f"<LeastSquares: {m} residuals, {k} variables>"

    def fun(self, x: ArrayLike) -> NDArray[Any]:
        """The residuals ``F(x) - Y`` in the order of J's rows.

        This is the first argument of `scipy.optimize.least_squares`.

        Parameters
        ----------
        x : array_like, shape (k,)

        Returns
        -------
        r : ndarray, shape (m,)

        Raises
        ------
        ValueError
            If x has another shape, or is not finite.
        TypeError
            If x is complex, or not an array of numbers.
        MemoryError
            If the result would not fit into memory. It is raised before it is allocated.

        Notes
        -----
        **Memory.** The result (m numbers), and a copy of x.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import LeastSquares
        >>> LeastSquares(np.array([[1.0, 2.0], [3.0, 4.0]]), np.ones((2, 2))).fun([1.0, 10.0])
        array([  0.,  19.,  29., 399.])
        """
        x = self._point(x)
        x = frozen(x.astype(np.result_type(x.dtype, self._y_dtype), copy=False))
        return self.builder._assembly.value(x, "the vector of residuals", self._target)

    def jac(self, x: ArrayLike) -> JacobianOperator:
        """J at x as an operator.

        Use it as ``least_squares(problem.fun, x0, jac=problem.jac)``.

        Parameters
        ----------
        x : array_like, shape (k,)

        Returns
        -------
        J : JacobianOperator, shape (m, k)

        Raises
        ------
        ValueError
            If x has another shape, or is not finite.
        TypeError
            If x is complex, or not an array of numbers.

        Notes
        -----
        **Memory.** A copy of x.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import LeastSquares
        >>> LeastSquares(np.ones((2, 2)), np.ones((2, 2))).jac([1.0, 2.0]).shape
        (4, 2)
        """
        return JacobianOperator(self.builder._assembly, self._point(x))

    def jac_csr(self, x: ArrayLike) -> scipy.sparse.csr_array:
        """J at x as a CSR matrix, for solvers that take no operator.

        For solvers that take dense matrices only, use ``jac_csr(x).toarray()``.

        Parameters
        ----------
        x : array_like, shape (k,)

        Returns
        -------
        J : scipy.sparse.csr_array, shape (m, k)
            A fresh matrix that belongs to the caller.

        Raises
        ------
        ValueError
            If x has another shape, or is not finite.
        TypeError
            If x is complex, or not an array of numbers.
        MemoryError
            If the result would not fit into memory. It is raised before anything is allocated.

        Notes
        -----
        **Memory.** The result: see `JacobianBuilder.csr_nbytes`.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import LeastSquares
        >>> LeastSquares(np.ones((2, 2)), np.ones((2, 2))).jac_csr([1.0, 2.0]).nnz
        6
        """
        return self.builder._assembly.matrix(self._point(x))

    def cost(self, x: ArrayLike) -> float:
        """The cost ``½‖F(x) - Y‖²``. The same pass computes the gradient for the next call.

        Parameters
        ----------
        x : array_like, shape (k,)

        Returns
        -------
        cost : float

        Raises
        ------
        ValueError
            If x has another shape, or is not finite.
        TypeError
            If x is complex, or not an array of numbers.

        Notes
        -----
        **Memory.** The memory of a pass: see the class.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import LeastSquares
        >>> LeastSquares(np.ones((2, 2)), np.ones((2, 2))).cost([1.0, 2.0])
        5.5
        """
        return self._at(x)[1]

    def grad(self, x: ArrayLike) -> NDArray[Any]:
        """The gradient of the cost, ``Jᵀ (F(x) - Y)``.

        Parameters
        ----------
        x : array_like, shape (k,)

        Returns
        -------
        g : ndarray of float64, shape (k,)

        Raises
        ------
        ValueError
            If x has another shape, or is not finite.
        TypeError
            If x is complex, or not an array of numbers.

        Notes
        -----
        **Memory.** The result, and the memory of a pass: see the class.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import LeastSquares
        >>> LeastSquares(np.ones((2, 2)), np.ones((2, 2))).grad([1.0, 2.0])
        array([ 4., 14.])
        """
        return self._at(x)[2].reshape(np.shape(x)).copy()

    def value_and_grad(self, x: ArrayLike) -> tuple[float, NDArray[Any]]:
        """The cost and its gradient from one pass over A and Y.

        `scipy.optimize.minimize` takes it: ``minimize(problem.value_and_grad, x0, jac=True)``.

        Parameters
        ----------
        x : array_like, shape (k,)

        Returns
        -------
        cost : float
        g : ndarray of float64, shape (k,)

        Raises
        ------
        ValueError
            If x has another shape, or is not finite.
        TypeError
            If x is complex, or not an array of numbers.

        Notes
        -----
        **Memory.** The result, and that of a pass, see the class. No vector has m numbers.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import LeastSquares
        >>> LeastSquares(np.ones((2, 2)), np.ones((2, 2))).value_and_grad([1.0, 2.0])
        (5.5, array([ 4., 14.]))
        """
        _, cost, gradient, _ = self._at(x)
        return cost, gradient.reshape(np.shape(x)).copy()

    def hess(self, x: ArrayLike) -> HessianOperator:
        """The Hessian of the cost, ``JᵀJ + A∘R + (A∘R)ᵀ`` with ``R = F - Y``, as a k×k operator.

        Parameters
        ----------
        x : array_like, shape (k,)

        Returns
        -------
        H : HessianOperator, shape (k, k)
            For solvers that take no operator (trust-exact, dogleg) use its ``.toarray()``, or for a
            sparse A its ``.tocsr()``.

        Raises
        ------
        ValueError
            If x has another shape, or is not finite.
        TypeError
            If x is complex, or not an array of numbers.

        Notes
        -----
        **Memory.** 2 k numbers.

        **Time.** One pass, unless the last cost or derivative was at the same x.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import LeastSquares
        >>> print(LeastSquares(np.ones((2, 2)), np.ones((2, 2))).hess([1.0, 2.0]).toarray())
        [[12.  6.]
         [ 6. 24.]]
        """
        point, _, _, scale = self._at(x)
        return self._terms.hessian(point, scale, np.result_type(self.builder.dtype, point.dtype))

    def hessp(self, x: ArrayLike, v: ArrayLike) -> NDArray[Any]:
        """The product of the Hessian with v: ``minimize(…, hessp=problem.hessp)``.

        Parameters
        ----------
        x : array_like, shape (k,)
        v : array_like, shape (k,)

        Returns
        -------
        Hv : ndarray of float64, shape (k,)

        Raises
        ------
        ValueError
            If x or v has another shape, or x is not finite.
        TypeError
            If x is complex, or x or v is not an array of numbers.

        Notes
        -----
        **Memory.** The result, and the memory of a pass: see the class.

        **Time.** One pass, and a second one unless the last cost or derivative was at the same x.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import LeastSquares
        >>> LeastSquares(np.ones((2, 2)), np.ones((2, 2))).hessp([1.0, 2.0], [1.0, 0.0])
        array([12.,  6.])
        """
        H = self.hess(x)
        if self.builder._rank is None:
            return H.matvec(v)
        v = self.builder._checked_point("v", v)
        return H.matvec(v.reshape(-1)).reshape(v.shape)

    def normal(self, x: ArrayLike, damping: float = 0.0) -> NormalOperator:
        """``JᵀJ + damping I`` at x as a k×k operator: the Gauss-Newton Hessian.

        Parameters
        ----------
        x : array_like, shape (k,)
        damping : float, default 0.0
            At least 0.

        Returns
        -------
        N : NormalOperator, shape (k, k)

        Raises
        ------
        ValueError
            If x has another shape, or is not finite; if `damping` is negative or not finite.
        TypeError
            If x is complex, or not an array of numbers.

        Notes
        -----
        **Memory.** 2 k numbers.

        **Time.** One pass, unless the last cost or derivative was at the same x.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import LeastSquares
        >>> print(LeastSquares(np.ones((2, 2)), np.ones((2, 2))).normal([1.0, 2.0]).toarray())
        [[12.  4.]
         [ 4. 18.]]
        """
        damping = _validation.nonnegative("damping", damping)
        point, _, _, scale = self._at(x)
        return self._terms.normal(point, scale, damping)

    def x_scale(self, x: ArrayLike) -> NDArray[Any]:
        """``1/√diag(JᵀJ)`` at x, and 1 where the diagonal is not positive.

        These are the scales of ``x_scale="jac"`` of `scipy.optimize.least_squares`, which does not
        accept an operator together with that option. They do not depend on `loss`.

        Parameters
        ----------
        x : array_like, shape (k,)

        Returns
        -------
        scale : ndarray of float64, shape (k,)

        Raises
        ------
        ValueError
            If x has another shape, or is not finite.
        TypeError
            If x is complex, or not an array of numbers.

        Notes
        -----
        **Memory.** The result, and the memory of a pass: see the class.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import LeastSquares
        >>> print(LeastSquares(np.eye(2), np.eye(2)).x_scale([1.0, 0.0]))
        [0.5 1. ]
        """
        point, _, _, scale = self._at(x)
        squares = self._terms.column_squares(point, scale).reshape(np.shape(x))
        return 1 / np.sqrt(np.where(squares > 0, squares, 1.0))

    # --- private

    @property
    def _sums(self) -> Any:
        return self._terms.sums

    @computed_once
    def _rank_sums(self) -> Any:
        """The sums of the squares for several columns, which any fit may need."""
        of = self.builder._assembly
        if isinstance(of, RankAssembly) and self._loss.name == "linear":
            return self._sums
        return rank_sums_of(of.rows, of.variables, self._target)

    def _point(self, x: Any) -> NDArray[Any]:
        point = self.builder._point(x)
        _validation.real("x", point.dtype, "least squares")
        return point

    def _at(self, x: Any) -> tuple[NDArray[Any], float, NDArray[Any], Any]:
        """(x, cost, gradient, S (x∘x)) in float64. Kept, as solvers ask for each in turn.

        With several columns, ``S (x∘x)`` is None.
        """
        last = self._last
        if (
            last is not None
            and type(x) is np.ndarray
            and x.dtype == np.float64
            and x.shape in self._shapes
            and np.array_equal(x.reshape(last[0].shape), last[0])
        ):
            self.builder._rows.check_unchanged(self._target)
            return last
        point = frozen(self._point(x).astype(np.float64))
        last = (point, *self._terms.gradient(point))
        self._last = last
        return last
