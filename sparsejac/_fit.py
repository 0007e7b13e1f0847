"""`fit`: the least-squares problem solved by Newton's method in k-space."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from . import _checks
from ._checks import Order, Rows
from ._kspace import Sums
from ._optimize import LeastSquares

_FORCING = 0.1  # conjugate gradients stop when the residual of the linear system has fallen to this
_SLOW = 0.5  # Gauss and Newton's step should have brought the gradient down to _FORCING: from here on, second derivatives pay
_SWEEPS = 10  # of the start, at most
_NEAR = 0.1  # an optimality at which they end: Newton's steps are better from there on
_INNER = 500  # steps of conjugate gradients in one of Newton's
_ROUNDING = 1e-10  # of the cost: below that, a difference of costs is mostly rounding, and the gradient decides

_MESSAGES = {
    0: "the maximum of {nit} iterations was reached: optimality is {optimality:.2g}, tol is {tol:.2g}",
    1: "converged: optimality {optimality:.2g} is at most tol, {tol:.2g}",
    2: "rounding prevents further progress: optimality is {optimality:.2g}, tol is {tol:.2g}",
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
        Show a bar of the passes over A, with cost and optimality.
    check_finite : bool, default True
        Refuse NaN and infinity in A, Y and x0.
    workers : int, optional
        As for `JacobianBuilder`.

    Returns
    -------
    result : scipy.optimize.OptimizeResult
        ``x`` (float64), ``cost``, ``grad``; ``optimality``, which is ``‖D^-½ grad‖ / ‖Y‖`` with ``D = diag(JᵀJ)`` (not less than a
        ten-thousandth of what D would be if all x_j were equal and F as large as Y, so that x may tend to zero): the same for
        any scale of A and Y; ``nit`` steps; ``nfev`` passes for cost and gradient; ``n_products`` passes for
        products with a k×k matrix; ``success``, ``message`` and ``status``: 1 converged, 0 max_iter was reached, 2 rounding prevents
        progress, 99 stopped by the callback.

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

    **Start.** If most of ``A∘Y`` is positive, ones; otherwise the dominant eigenvector of ``D^-½ (A∘Y + (A∘Y)ᵀ) D^-½`` with ``D = Diag(S 1)``,
    ``S = A∘A + (A∘A)ᵀ``, by Lanczos, for its signs. From there at most ten sweeps, each of which moves every variable
    half the way to what fits best if its neighbours are right: the first one, from ones, to a weighted degree. Any start is scaled to the minimum on its ray.

    **What is defined where the minimum is not.** ``F(x) = F(-x)``: of the two signs, the result has the one of its start; each
    connected part of A has its own. A variable that no entry of A reaches keeps its x0, or is 0. ``x0 = 0``, where the gradient is zero, is left along
    the most negative curvature, and kept if there is none. A part of x0 that is zero while the rest is not stays zero. A part
    of A that is bipartite, without entries on the diagonal, leaves F unchanged if one side is multiplied by what the other is divided by: the result is one of many. The
    problem is not convex: the result is a local minimum, or another point without a gradient, and depends on the start. There are data whose cost falls
    while some x grow without bound and others vanish: there it ends with status 0.

    **Memory.** Beside A and Y at most 20 k-vectors, and 3 more for a second worker if both are symmetric; for dense ones 1 MiB or what their
    layout needs, see `LeastSquares`, and what it converts.

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
    problem = LeastSquares(A, Y, rows=rows, order=order, check_finite=check_finite, workers=workers)
    with _bar(progress) as bar, np.errstate(over="ignore", invalid="ignore", divide="ignore"):
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
        a, _ = problem.builder._diagonal()
        self._own = 2 * a**2 if a.any() else None  # S's diagonal
        del a
        self._tol, self._callback, self._bar = tol, callback, bar
        self._nit = self._nfev = self._n_products = 0
        self._norm = problem._norm_of_y()
        self._degree = np.zeros(self._sums.k)  # S 1
        self._expected = 0.0  # how large x_j² is on average if F is Y
        self._radius = np.inf
        self._exact = self._damped = False
        if x0 is None and self._norm > 0:
            self._at = self._from_data(positive=problem._is_mostly_positive())
        else:
            self._set_degree(self._squares(np.ones(self._sums.k)))
            self._at = self._look(np.zeros(self._sums.k) if x0 is None else problem._point(x0).astype(np.float64))
            if self._norm == 0:
                self._at = self._look(np.where(self._degree > 0, 0.0, self._at.x))
            elif not self._at.x.any():
                self._at = self._away_from_zero(self._at)
            self._at = self._best_on_ray(self._at)

    # --- where to start -----------------------------------------------------------------------------------------------

    def _set_degree(self, degree: NDArray[Any]) -> None:
        self._degree, total = degree, float(np.sum(degree))
        self._expected = self._norm * np.sqrt(2 / total) if total > 0 else 0.0

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
        for _ in range(3):
            FF = float(np.sum(at.x**2 * at.scale)) / 2
            FY = FF - float(np.sum(at.gradient * at.x)) / 2
            square = FY / FF if 0 < FF < np.inf else 0.0
            if square == 0 or square < -1e-6:  # the best is x = 0, or in another direction
                return at
            beta = np.sqrt(max(abs(square), 1e-15))
            x = np.where(self._degree > 0, beta * at.x, at.x)
            if square > 1e-6:
                JtF = at.x * at.scale
                gradient = beta * (square * JtF - (JtF - at.gradient))
                cost = max(square * (square * FF - 2 * FY) + self._norm**2, 0.0) / 2
                return self._point(x, cost, gradient, square * at.scale)
            at = self._look(x)  # x was far too long, and F·Y lost in rounding: look again from nearer
        return at

    def _from_data(self, *, positive: bool) -> _Point:
        at = self._look(np.ones(self._sums.k))
        self._set_degree(at.scale.copy())
        reached = self._degree > 0  # nothing depends on the others
        if positive:
            at = self._point(np.where(reached, 1.0, 0.0), *at[1:4])
        else:
            at = self._away_from_zero(at._replace(x=np.zeros(self._sums.k)))
            typical = np.sqrt(np.mean(at.x**2))
            # The eigenvector is of one connected part; in the others the sweeps begin with ones.
            at = self._look(np.where(reached & (np.abs(at.x) < 1e-3 * typical), typical, at.x))
        for _ in range(_SWEEPS):
            at = self._best_on_ray(at)
            if self._optimality(at) <= _NEAR:
                return at
            # The best x_i if the others are right is x_i - g_i / scale_i.
            at = self._look(at.x - 0.5 * at.gradient * _inverse(at.scale))
        return self._best_on_ray(at)

    def _away_from_zero(self, zero: _Point) -> _Point:
        """At x = 0 the gradient is zero: the point where the cost falls fastest, if it does anywhere."""
        k, root = self._sums.k, np.sqrt(_inverse(self._degree))

        def curvature(v: NDArray[Any]) -> NDArray[Any]:
            self._count_product()
            return root * self._sums.curvature(zero.x, root * v.reshape(-1))

        value, vector = np.inf, np.ones(k)
        if k == 1:
            value = float(curvature(vector)[0])
        elif k > 1:
            operator = LinearOperator((k, k), curvature, dtype=np.float64)
            first = np.random.default_rng(0).standard_normal(k)
            with contextlib.suppress(ArpackNoConvergence):
                values, vectors = eigsh(operator, k=1, which="SA", v0=first, tol=0.01, maxiter=50)
                value, vector = float(values[0]), vectors[:, 0]
        return self._look(root * vector) if value < -1e-8 * self._expected else zero

    # --- the steps ----------------------------------------------------------------------------------------------------

    def run(self, max_iter: int) -> OptimizeResult:
        """Step until there is nothing to gain."""
        while self._optimality(self._at) > self._tol:
            if self._nit == max_iter:
                return self._result(0)
            self._nit += 1
            if not self._step():
                return self._result(2)
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
        polynomial = np.polynomial.Polynomial([0.0, slope, rest - third, third, fourth])
        roots = polynomial.deriv().roots()
        steps = roots.real[(np.abs(roots.imag) <= 1e-6 * np.abs(roots.real)) & (roots.real > 0)]
        return float(steps[np.argmin(polynomial(steps))]) if steps.size else 0.0

    def _solve(self) -> tuple[NDArray[Any], float, float, bool]:
        """Steihaug's conjugate gradients for ``H s = -g``: (s, the cost's predicted fall, ‖s‖, whether they got that far).

        ‖·‖ is the norm of the preconditioner, in which the trust region is a ball: M = diag(JᵀJ), and from the first step that
        failed on Levenberg's damping, which grows with the gradient, ``μ S 1``. That is what M would be, times μ, if all x_j were as large as
        they are on average; M alone lets a variable run away whose neighbours happen to be small. Of k-vectors there are s, r,
        d, H d and M's inverse.
        """
        from . import _kernels

        x, _, gradient, scale, _ = self._at
        total = float(np.sum(self._degree))
        average = np.sqrt(float(np.sum(x**2 * scale)) / total) if total > 0 else 0.0  # of x_j²
        damping = float(min(1.0, self._optimality(self._at)) * average) if self._damped else 0.0
        inverse = _inverse(self._squared_norms(x, scale) + damping * self._degree)
        s, r, d = np.zeros(x.size), gradient.copy(), -inverse * gradient
        rz = float(-np.sum(r * d))
        enough = rz * max(_FORCING, 0.3 * self._tol / self._optimality(self._at)) ** 2
        # ‖s‖², s·d and ‖d‖² in that norm
        ss, sd, dd = 0.0, 0.0, rz
        solved = False
        for _ in range(_INNER):
            if self._exact:
                self._count_product()
                Hd = self._sums.curvature(x, d)
                dHd = _kernels.cg_product(d, None, Hd, scale, damping, self._degree)
            else:
                Hd = self._squares(x * d)
                dHd = _kernels.cg_product(d, x, Hd, scale, damping, self._degree)
            alpha = rz / dHd if dHd > 0 else np.inf
            beyond = ss + alpha * (2 * sd + alpha * dd) if alpha < np.inf else np.inf
            if beyond >= self._radius**2 or alpha == np.inf:
                # To the boundary; without one, along negative curvature, as far as x is long.
                square = self._radius**2 if self._radius < np.inf else max(4 * ss, _length(x, _inverse(inverse)) ** 2)
                alpha = (np.sqrt(sd * sd + dd * (square - ss)) - sd) / dd if dd > 0 else 0.0
                _kernels.cg_step(float(alpha), d, Hd, inverse, s, r)
                ss = square
                break
            found = _kernels.cg_step(alpha, d, Hd, inverse, s, r)
            ss = beyond
            if found <= enough:
                solved = True
                break
            sd = (found / rz) * (sd + alpha * dd)
            dd = found + (found / rz) ** 2 * dd
            _kernels.cg_direction(found / rz, r, inverse, d)
            rz = found
        # -(g·s + ½ s·Hs), and Hs = r - g
        return s, -float(np.sum(s * (gradient + r))) / 2, float(np.sqrt(ss)), solved

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


@contextlib.contextmanager
def _bar(shown: bool) -> Any:
    if not shown:
        yield None
        return
    from tqdm import tqdm

    with tqdm(desc="fit", unit=" passes", leave=False) as bar:
        yield bar
