"""`fit`: the least-squares problem solved by Newton's method in k-space."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

from . import _checks, _progress
from ._checks import Order, Rows
from ._kspace import Sums
from ._optimize import LeastSquares
from ._steihaug import Step, steihaug

_FORCING = 0.1  # conjugate gradients stop when the residual of the linear system has fallen to this
_SLOW = 0.5  # Gauss and Newton's step should have brought the gradient down to _FORCING: from here on, second derivatives pay
_SWEEPS = 10  # of the start, at most
_NEAR = 0.1  # an optimality at which they end: Newton's steps are better from there on
_WAKES = 3  # times that variables which have vanished are started anew
_VANISHED = 1e-6  # of what x_j² would be on average if F were Y
_INNER = 500  # steps of conjugate gradients in one of Newton's
_ROUNDING = 1e-10  # of the cost: below that, a difference of costs is mostly rounding, and the gradient decides

_MESSAGES = {
    0: "the maximum of {nit} iterations was reached: optimality is {optimality:.2g}, tol is {tol:.2g}",
    1: "converged: optimality {optimality:.2g} is at most tol, {tol:.2g}",
    2: "rounding prevents further progress: optimality is {optimality:.2g}, tol is {tol:.2g}",
    3: "the cost or its gradient is not a finite number: A, Y or x0 has such, or F overflows",
    99: "stopped by the callback",
}


def fit(
    A: Any,
    Y: Any,
    x0: ArrayLike | None = None,
    *,
    rows: Rows | None = None,
    order: Order = "C",
    tol: float = 1e-9,
    max_iter: int = 200,
    callback: Callable[[OptimizeResult], object] | None = None,
    progress: bool = False,
    check_finite: bool = True,
    workers: int | None = None,
    memory: int | None = None,
) -> OptimizeResult:
    """Minimise ``½‖A ∘ (x xᵀ) - Y‖²``: weighted rank-one approximation, by Newton's method in k-space.

    Parameters
    ----------
    A : array_like or SciPy sparse array or matrix, shape (k, k)
        As for `LeastSquares`: real.
    Y : array_like or SciPy sparse array or matrix, shape (k, k) or (m,)
        As for `LeastSquares`.
    x0 : array_like, shape (k,), optional
        Where to start. Default: from the data, see below.
    rows : {"all", "stored", "upper"}, default "stored"
        Which entries of F and Y are compared: see `LeastSquares`.
    order : {"C", "F"}, default "C"
        That of a vector Y.
    tol : float, default 1e-09
        Converged is what has an `optimality` of at most this.
    max_iter : int, default 200
        Newton steps at most.
    callback : callable, optional
        Called after each step with an `OptimizeResult` of ``x, cost, optimality, nit, nfev, n_products``. It may raise StopIteration to stop.
    progress : bool, default False
        Show a bar of the passes over A, with cost and optimality; of a streamed A also one of each pass.
    check_finite : bool, default True
        Refuse NaN and infinity in A, Y and x0.
    workers : int, optional
        As for `JacobianBuilder`.
    memory : int, optional
        As for `JacobianBuilder`.

    Returns
    -------
    result : scipy.optimize.OptimizeResult
        ``x`` (float64), ``cost``, ``grad``; ``optimality``, which is ``‖D^-½ grad‖ / ‖Y‖`` with ``D = diag(JᵀJ)`` (not less than a
        ten-thousandth of what D would be if all x_j were equal and F as large as Y, so that x may tend to zero): the same for
        any scale of A and Y; ``nit`` steps; ``nfev`` passes for cost and gradient; ``n_products`` passes for
        products with a k×k matrix; ``success``, ``message`` and ``status``: 1 converged, 0 max_iter was reached, 2 rounding prevents
        progress, 3 cost or gradient are not finite, 99 stopped by the callback.

    Raises
    ------
    ValueError
        As `LeastSquares`; if `x0` has another shape or is not finite; if `tol` is negative or `max_iter` not positive.
    TypeError
        As `LeastSquares`; if x0 is complex; if `callback` cannot be called.

    Notes
    -----
    **Method.** Gauss and Newton's steps in a trust region; near a minimum with large residuals, which shows when such a step falls short of
    what it predicts, Newton's with exact second derivatives. Each is solved to a tenth by preconditioned conjugate gradients [1]_, with
    ``diag(JᵀJ)`` as preconditioner and for the norm of the trust region. Once a step has failed, Levenberg's damping is added, which
    vanishes with the gradient, and a step that fails is shortened to the best along it: on a line the cost is a
    quartic polynomial, and one product more tells its coefficients. The inner loop is our own: SciPy's cg knows
    neither negative curvature nor a trust region, and its trust-krylov and trust-ncg, which have no preconditioner and solve more
    precisely, took two to four times as many passes (`tests/benchmarks/bench_fit.py`).

    **Start.** If most of ``A∘Y`` is positive, all equal; otherwise the dominant eigenvector of ``D^-½ (A∘Y + (A∘Y)ᵀ) D^-½`` with ``D = Diag(S 1)``,
    ``S = A∘A + (A∘A)ᵀ``, by Lanczos, for its signs, and in connected parts that it does not reach random numbers of a fixed seed. From there at most
    ten sweeps, each of which moves every variable half the way to what fits best if its neighbours are right: the first one,
    from equal ones, to a weighted degree. Any start is scaled to the minimum on its ray.

    **What is defined where the minimum is not.** ``F(x) = F(-x)``: of the two signs, the result has the one of its start; each
    connected part of A has its own. A variable that no entry of A reaches keeps its x0, or is 0. Where x, or a part of it, is zero or
    tends to zero with all its neighbours, the gradient vanishes whatever the data: there the most negative curvature is looked for, and if there is any, the
    variables are started anew (three times at most). A part of A that is bipartite, without entries on the diagonal, leaves F unchanged if one side is
    multiplied by what the other is divided by: the result is one of many. The problem is not convex: the result is
    a point without a gradient, in general a local minimum, and depends on the start. There are data whose cost falls while some x grow without bound and others vanish:
    there it ends with status 0. Squares of A, of Y and of F must be numbers, which those beyond 1e±75 may not be: else status 3.

    **Memory.** Beside A and Y at most 20 k-vectors, and 3 more for a second worker if both are symmetric; 35 where Lanczos is
    needed (data of both signs, x near 0); for dense ones 1 MiB or what their layout needs, see `LeastSquares`, and what it converts.

    References
    ----------
    .. [1] T. Steihaug, "The conjugate gradient method and trust regions in large scale optimization", SIAM J. Numer. Anal. 20
       (1983), 626-637.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsejac import fit
    >>> A = np.array([[0.0, 2.0, 1.0], [2.0, 0.0, 3.0], [1.0, 3.0, 0.0]])
    >>> result = fit(A, A * np.outer([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]))
    >>> print(result.x.round(6), result.message.split(":")[0])
    [1. 2. 3.] converged
    """
    tol = _checks.nonnegative("tol", tol)
    max_iter = _checks.positive_integer("max_iter", max_iter)
    progress = _checks.flag("progress", progress)
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable, got {callback!r}")
    problem = LeastSquares(
        A, Y, rows=rows, order=order, check_finite=check_finite, workers=workers, memory=memory, progress=progress
    )
    if x0 is not None:
        k = problem.shape[1]
        x0 = _checks.vector("x0", x0, k, f"as A is {k}x{k}", finite=check_finite)
        _checks.real("x0", x0.dtype, "least squares")
    with _progress.passes("fit", shown=progress) as bar, np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return _Newton(problem, x0, tol, callback, bar).run(max_iter)


class _Point(NamedTuple):
    """x, and what one pass over A and Y says of it."""

    x: NDArray[Any]
    cost: float
    gradient: NDArray[Any]
    scale: NDArray[Any]  # S (x∘x): JᵀJ is its diagonal matrix and Diag(x) S Diag(x)
    steepness: float  # the gradient's length in the norm of JᵀJ's inverse diagonal


class _Newton:
    """One fit under way."""

    def __init__(self, problem: LeastSquares, x0: ArrayLike | None, tol: float, callback: Any, bar: Any) -> None:
        self._sums: Sums = problem._sums
        self._tol, self._callback, self._bar = tol, callback, bar
        self._nit = self._nfev = self._n_products = 0
        self._count_product()
        self._degree, squares, overlap, size = self._sums.beginning()  # S 1
        self._norm = float(np.sqrt(squares))
        total = float(np.sum(self._degree))
        self._expected = self._norm * np.sqrt(2 / total) if total > 0 else 0.0  # how large x_j² is on average if F is Y
        a = problem.builder._rows.diagonal()
        self._own = 2 * a**2 if a.any() else None  # S's diagonal
        del a
        self._radius = np.inf
        self._exact = self._damped = False
        self._overflow = False
        self._wakes = 0
        if x0 is None and self._norm > 0:
            self._at = self._from_data(positive=overlap > size / 2)  # then most of x can have one sign
        else:
            self._at = self._look(np.zeros(self._sums.k) if x0 is None else np.array(x0, np.float64))
            if self._norm == 0:
                self._at = self._look(np.where(self._degree > 0, 0.0, self._at.x))
            elif not self._at.x.any():
                self._at = self._away_from_zero(self._at)
            self._at = self._best_on_ray(self._at)

    # --- where to start -----------------------------------------------------------------------------------------------

    def _look(self, x: NDArray[Any]) -> _Point:
        cost, gradient, scale = self._sums.gradient(x)
        self._nfev += 1
        self._tick()
        return self._point(x, cost, gradient, scale)

    def _point(self, x: NDArray[Any], cost: float, gradient: NDArray[Any], scale: NDArray[Any]) -> _Point:
        # The floor is for x that tend to zero: there no J is left to measure by.
        squares = np.maximum(self._squared_norms(x, scale), 1e-4 * self._expected * self._degree)
        return _Point(x, cost, gradient, scale, _length(gradient, _inverse(squares)))

    def _squared_norms(self, x: NDArray[Any], scale: NDArray[Any]) -> NDArray[Any]:
        """diag(JᵀJ)."""
        return scale if self._own is None else scale + self._own * x**2

    def _best_on_ray(self, at: _Point) -> _Point:
        """The point ``β x`` for which ``½‖β² F - Y‖²`` is least.

        ``J x = 2 F``, so ``g·x = 2 F·(F - Y)``, and ``JᵀF = x ∘ S (x∘x)``: no pass is needed.
        """
        for _ in range(40):
            FF = float(np.sum(at.x**2 * at.scale)) / 2
            FY = FF - float(np.sum(at.gradient * at.x)) / 2
            if not (FF > 0 or at.gradient.any()) or not np.isfinite(FF + FY):
                return at
            if 1e-16 * self._norm**2 < FF < 1e8 * self._norm**2:
                square = FY / FF
                if square <= 0:  # the best is x = 0, or in another direction
                    return at
                beta, JtF = np.sqrt(square), at.x * at.scale
                gradient = beta * (square * JtF - (JtF - at.gradient))
                cost = max(square * (square * FF - 2 * FY) + self._norm**2, 0.0) / 2
                return self._point(self._scaled(at.x, beta), cost, gradient, square * at.scale)
            # x is far too long or too short, and F·Y lost in rounding: look again from where F is about as large as Y.
            size, wanted = (FF**0.25, self._norm) if FF > 0 else (np.max(np.abs(at.x)), self._expected)
            at = self._look(self._scaled(at.x, np.sqrt(wanted) / size))
        return at

    def _scaled(self, x: NDArray[Any], beta: float) -> NDArray[Any]:
        """``β x``, but for variables that nothing depends on."""
        return np.where(self._degree > 0, beta * x, x)

    def _from_data(self, *, positive: bool) -> _Point:
        reached = self._degree > 0  # nothing depends on the others
        if positive:
            at = self._look(np.where(reached, np.sqrt(self._expected), 0.0))
        else:
            at = self._away_from_zero(self._look(np.zeros(self._sums.k)))
            typical = np.sqrt(np.mean(at.x**2))
            # The eigenvector is of one connected part; in the others the sweeps begin with any signs.
            others = reached & (np.abs(at.x) < 1e-3 * typical)
            at = self._look(np.where(others, typical * self._random(), at.x))
        for _ in range(_SWEEPS):
            at = self._best_on_ray(at)
            if self._optimality(at) <= _NEAR:
                return at
            # The best x_i if the others are right is x_i - g_i / scale_i.
            at = self._look(at.x - 0.5 * at.gradient * _inverse(at.scale))
        return self._best_on_ray(at)

    def _away_from_zero(self, zero: _Point) -> _Point:
        """At x = 0 the gradient is zero: the point where the cost falls fastest, if it does anywhere."""
        if not np.isfinite(zero.cost):
            return zero
        value, v = self._most_negative_curvature(zero.x, np.sqrt(_inverse(self._degree)))
        return self._look(v) if value < -1e-8 * self._expected else zero

    def _most_negative_curvature(self, x: NDArray[Any], root: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        """The least eigenvalue, and ``root ∘`` its vector, of ``Diag(root) (M + Mᵀ) Diag(root)`` at x, to a hundredth.

        Of k-vectors, Lanczos takes eight and its own.
        """
        k = x.size

        def curvature(v: NDArray[Any]) -> NDArray[Any]:
            self._count_product()
            return root * self._sums.curvature(x, root * v.reshape(-1))

        if k == 1:
            return float(curvature(np.ones(1))[0]), root
        if k > 1:
            operator = LinearOperator((k, k), curvature, dtype=np.float64)
            with contextlib.suppress(ArpackError):  # not converged, or there is no curvature at all
                values, vectors = eigsh(
                    operator, k=1, which="SA", v0=self._random(), tol=0.01, ncv=min(k, 8), maxiter=200
                )
                return float(values[0]), root * vectors[:, 0]
        return 0.0, root

    def _woken(self) -> bool:
        """Start anew the variables that have vanished together with all their neighbours, if the cost falls there.

        At such a point all is stationary, whatever the data; steps may have led there along the one way that does.
        """
        at = self._at
        small = _VANISHED * self._expected
        asleep = (self._degree > 0) & (at.x**2 <= small) & (at.scale <= small * self._degree)
        if self._wakes == _WAKES or not asleep.any():
            return False
        self._wakes += 1
        value, v = self._most_negative_curvature(at.x, np.sqrt(_inverse(self._degree)) * asleep)
        if not value < -1e-6 * self._expected:
            return False
        size = np.sqrt(self._expected)
        v *= size / np.max(np.abs(v))
        # The direction is of one connected part: a little of any other helps those that sleep elsewhere.
        v += np.where(asleep, 0.01 * size * self._random(), 0.0)
        for _ in range(20):
            there = self._look(at.x + v)
            if there.cost < at.cost:
                self._at, self._exact, self._radius = there, True, np.inf
                return True
            v *= 0.5
        return False

    def _random(self) -> NDArray[Any]:
        return np.random.default_rng(self._wakes).standard_normal(self._sums.k)

    # --- the steps ----------------------------------------------------------------------------------------------------

    def run(self, max_iter: int) -> OptimizeResult:
        """Step until there is nothing to gain."""
        while True:
            if not np.isfinite(self._at.cost + self._at.steepness):
                return self._result(3)
            converged = self._optimality(self._at) <= self._tol
            if converged and not self._woken():
                break
            if self._nit == max_iter:
                return self._result(0)
            self._nit += 1
            if not self._step() and not self._woken():
                return self._result(3 if self._overflow else 2)
            if self._callback is not None:
                try:
                    self._callback(self._state(x=self._at.x.copy()))
                except StopIteration:
                    return self._result(99)
        if self._nit == 0:
            self._at = self._look(self._at.x)  # what is said of the best on a ray has lost the digits that ‖Y‖² has not
        return self._result(1)

    def _step(self) -> bool:
        """Move to a better point, or see what prevents it; False if nothing helps."""
        at = self._at
        s, predicted, length, solved = self._solve()
        self._overflow = not np.isfinite(predicted)
        there = self._look(at.x + s)
        gained = at.cost - there.cost
        if predicted < _ROUNDING * at.cost:  # a difference of costs is mostly rounding here, and the gradient decides
            if there.steepness < at.steepness:
                self._at = there
                return True
            if self._exact and solved:
                return False
            self._exact, self._radius = True, np.inf
            return True
        if gained > 0.1 * predicted:
            self._at = there
            if gained < 0.25 * predicted:
                self._radius = 0.5 * length
            elif not solved:
                self._radius = 2 * length
            near = self._optimality(at) < _NEAR
            self._exact |= near and (gained < 0.25 * predicted or (solved and there.steepness > _SLOW * at.steepness))
            return True
        if not self._damped:
            self._damped = True
            return True
        shorter = self._shorter(s, at, there)
        if not 0 < shorter < np.inf:
            return False
        self._exact |= self._optimality(at) < _NEAR
        self._radius = shorter * length
        there = self._look(at.x + shorter * s)
        if not there.cost < at.cost:
            return False
        self._at = there
        return True

    def _shorter(self, s: NDArray[Any], at: _Point, there: _Point) -> float:
        """How much of the step is best. Along it the cost is a quartic polynomial, of which five numbers are known."""
        if not np.isfinite(there.cost):
            return 0.01
        slope = float(np.sum(at.gradient * s))
        fourth = float(np.sum(s**2 * self._squares(s**2))) / 4  # ½‖F(s)‖²
        rest = there.cost - at.cost - slope - fourth
        third = float(np.sum(there.gradient * s)) - slope - 4 * fourth - 2 * rest
        coefficients = np.array([0.0, slope, rest - third, third, fourth])
        polynomial = np.polynomial.Polynomial(coefficients / np.max(np.abs(coefficients)))
        roots = polynomial.deriv().roots()
        steps = roots.real[(np.abs(roots.imag) <= 1e-6 * np.abs(roots.real)) & (roots.real > 0)]
        return float(steps[np.argmin(polynomial(steps))]) if steps.size else 0.0

    def _solve(self) -> Step:
        """Steihaug's conjugate gradients for ``H s = -g``.

        The norm of lengths is that of the preconditioner, in which the trust region is a ball: M = diag(JᵀJ), and from the first step that
        failed on Levenberg's damping, which grows with the gradient, ``μ S 1``. That is what M would be, times μ, if all x_j were as large as
        they are on average; M alone lets a variable run away whose neighbours happen to be small.
        """
        from . import _kernels

        x, _, gradient, scale, _ = self._at
        total = float(np.sum(self._degree))
        average = np.sqrt(float(np.sum(x**2 * scale)) / total) if total > 0 else 0.0  # of x_j²
        damping = float(min(1.0, self._optimality(self._at)) * average) if self._damped else 0.0
        inverse = _inverse(self._squared_norms(x, scale) + damping * self._degree)

        def product(d: NDArray[Any]) -> tuple[NDArray[Any], float]:
            if self._exact:
                self._count_product()
                Hd = self._sums.curvature(x, d)
                return Hd, _kernels.cg_product(d, None, Hd, scale, damping, self._degree)
            Hd = self._squares(x * d)
            return Hd, _kernels.cg_product(d, x, Hd, scale, damping, self._degree)

        unit = self._norm**2 or 1.0
        return steihaug(
            product,
            gradient,
            inverse,
            enough=max(_FORCING, 0.3 * self._tol / self._optimality(self._at)) ** 2,
            radius=self._radius,
            limit=_INNER,
            unit=unit,
            longest=_length(x, _inverse(inverse)) ** 2 / unit,
        )

    # --- what others see ----------------------------------------------------------------------------------------------

    def _optimality(self, at: _Point) -> float:
        return at.steepness / self._norm if self._norm > 0 else at.steepness

    def _squares(self, u: NDArray[Any]) -> NDArray[Any]:
        self._count_product()
        return self._sums.squares(u)

    def _count_product(self) -> None:
        self._n_products += 1
        self._tick()

    def _tick(self) -> None:
        if self._bar is not None:
            self._bar.update()
            if self._nit:
                cost, optimality = self._at.cost, self._optimality(self._at)
                self._bar.set_postfix(cost=f"{cost:.6g}", optimality=f"{optimality:.1e}", refresh=False)

    def _state(self, **more: Any) -> OptimizeResult:
        return OptimizeResult(
            cost=self._at.cost,
            optimality=self._optimality(self._at),
            nit=self._nit,
            nfev=self._nfev,
            n_products=self._n_products,
            **more,
        )

    def _result(self, status: int) -> OptimizeResult:
        message = _MESSAGES[status].format(nit=self._nit, optimality=self._optimality(self._at), tol=self._tol)
        return self._state(
            x=self._at.x, grad=self._at.gradient.copy(), status=status, success=status == 1, message=message
        )


def _inverse(diagonal: NDArray[Any]) -> NDArray[Any]:
    """1/d, and 0 where d is."""
    return np.divide(1.0, diagonal, out=np.zeros(diagonal.size), where=diagonal > 0)


def _length(v: NDArray[Any], weights: NDArray[Any]) -> float:
    return float(np.sqrt(np.sum(weights * v * v)))
