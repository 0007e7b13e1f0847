"""`fit`: the least-squares problem solved by Newton's method in k-space."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from . import _checks
from ._checks import Order, Rows
from ._kspace import Sums
from ._optimize import LeastSquares

_FORCING = 0.1  # conjugate gradients stop when the residual of the linear system has fallen to this
_SLOW = 0.5  # Gauss and Newton's step should have brought the gradient down to _FORCING: from here on, second derivatives pay
_SWEEPS = 10  # of the start
_INNER = 500  # steps of conjugate gradients in one of Newton's
_ROUNDING = 1e-10  # of the cost: below that, a difference of costs is mostly rounding, and the gradient decides

_MESSAGES = {
    0: "the maximum of {nit} iterations was reached: optimality is {optimality:.2g}, tol is {tol:.2g}",
    1: "converged: optimality {optimality:.2g} is at most tol, {tol:.2g}",
    2: "rounding prevents further progress: optimality is {optimality:.2g}, tol is {tol:.2g}",
    3: "the gradient is zero at the start, which need not be a minimum (x = 0 never shows a way): pass another x0, or none",
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
    A, Y, rows, order, check_finite, workers
        As for `LeastSquares`.
    x0 : array_like, shape (k,), optional
        Where to start. Default: from the data, see below.
    tol : float, default 1e-9
        Converged is what has an `optimality` of at most this.
    max_iter : int, default 200
        Newton steps at most.
    callback : callable, optional
        Called after each step with an `OptimizeResult` of ``x, cost, optimality, nit, nfev, n_products``. It may raise StopIteration to stop.
    progress : bool, default False
        Show a bar of the passes over A, with cost and optimality.

    Returns
    -------
    result : scipy.optimize.OptimizeResult
        ``x`` (float64), ``cost``, ``grad``; ``optimality``, which is ``‖D^-½ grad‖ / ‖Y‖`` with ``D = diag(JᵀJ)``: it is the same for any
        scaling of A, Y and x; ``nit`` steps; ``nfev`` passes for cost and gradient; ``n_products`` passes for products with a k×k
        matrix; ``success``, ``message`` and ``status``: 1 converged, 0 max_iter was reached, 2 rounding prevents progress, 3 the gradient is zero at the start, 99
        stopped by the callback.

    Raises
    ------
    ValueError
        As `LeastSquares`; if `x0` has another shape or is not finite; if `tol` is negative or `max_iter` not positive.
    TypeError
        As `LeastSquares`; if x0 is complex; if `callback` cannot be called.

    Notes
    -----
    **Method.** Gauss and Newton's steps, and Newton's with exact second derivatives once the former bring the gradient down by less than half
    although the cost falls as predicted (large residuals), in a trust region; each by preconditioned conjugate gradients [1]_ to a tenth,
    with ``diag(JᵀJ)`` as preconditioner and for the norm of the trust region. A step that fails is shortened at once to the minimum along it: the cost
    is a quartic polynomial on every line, and one product more tells its coefficients. SciPy's trust-krylov and trust-ncg have no
    preconditioner and solve more precisely; on the problems of the benchmark they take two to ten times the passes. SciPy's cg
    does not see negative curvature nor the trust region.

    **Start.** Ten steps of the power method, from the vector of ones, for the dominant eigenvector of ``D⁻¹ (A∘Y + (A∘Y)ᵀ)`` with ``D = Diag((A∘A + (A∘A)ᵀ) (x∘x))``, each
    averaged with its predecessor: each variable is set to what fits best if its neighbours are right. The first one is a weighted degree. It
    works for positive and for mixed data, and for each connected part by itself. Both starts are scaled to the minimum on their ray.

    **What is defined where the minimum is not.** ``F(x) = F(-x)``: of the two signs, the result has the one of its start; each connected part of A
    has its own. A variable that no entry of A reaches keeps its x0, or is 0. So does one whose neighbours are all zero, and a connected part that
    starts at zero: there the gradient is zero. A part that is bipartite, without entries on the diagonal, leaves F unchanged if one
    side is multiplied by what the other is divided by: the result is one of many. The problem is not convex: the
    result is a local minimum (or where the cost no longer falls), which may depend on the start.

    **Memory.** At most 20 k-vectors beside A and Y, where A is sparse in canonical format and Y has its structure, or both are
    dense; otherwise what `LeastSquares` converts.

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
    start = None if x0 is None else problem._point(x0).astype(np.float64)
    with _bar(progress) as bar, np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return _Newton(problem, start, tol, callback, bar).run(max_iter)


class _Newton:
    """One fit under way."""

    def __init__(self, problem: LeastSquares, x0: NDArray[Any] | None, tol: float, callback: Any, bar: Any) -> None:
        self._sums: Sums = problem._sums
        a, _ = problem.builder._diagonal()
        self._own = 2 * a**2 if a.any() else None  # S's diagonal
        del a
        self._tol, self._callback, self._bar = tol, callback, bar
        self.nit = self.nfev = self.n_products = 0
        self._exact = False
        self._radius = np.inf
        self._norm = 0.0
        if x0 is None:
            self._start_from_data()
        else:
            self._x = x0
            self._evaluate()
            self._to_the_minimum_on_its_ray()

    # --- the point ----------------------------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        self._cost, self._g, self._scale = self._sums.gradient(self._x)
        self.nfev += 1
        self._tick()
        if not self._norm:  # ‖Y‖² = 2 cost - ‖F‖² + 2 F·Y
            FF, FY = self._products_of_f()
            self._norm = float(np.sqrt(max(2 * self._cost - FF + 2 * FY, 0)))
        self._precondition()

    def _precondition(self) -> None:
        squares = self._scale if self._own is None else self._scale + self._own * self._x**2
        self._inverse = np.divide(1.0, squares, out=np.zeros(squares.size), where=squares > 0)
        self._steepness = float(np.sqrt(np.sum(self._g * self._g * self._inverse)))

    def _products_of_f(self) -> tuple[float, float]:
        """``‖F‖²`` and ``F·Y``: J x = 2 F, so ``g·x = 2 F·(F - Y)``, and ``JᵀF = x ∘ S (x∘x)``."""
        FF = float(np.sum(self._x**2 * self._scale)) / 2
        return FF, FF - float(np.sum(self._g * self._x)) / 2

    def _to_the_minimum_on_its_ray(self) -> None:
        """Scale x by the β for which ``½‖β² F - Y‖²`` is least, and all that was computed at x with it."""
        FF, FY = self._products_of_f()
        square = FY / FF if FF > 0 else 0.0
        if not 0 < square < np.inf:
            return
        beta = np.sqrt(square)
        JtF = self._x * self._scale
        self._g = beta * (square * JtF - (JtF - self._g))
        self._cost += ((square**2 - 1) * FF - 2 * (square - 1) * FY) / 2
        self._x = beta * self._x
        self._scale *= square
        self._precondition()

    def _start_from_data(self) -> None:
        self._x = np.ones(self._sums.k)
        for sweep in range(_SWEEPS + 1):
            self._evaluate()
            if sweep == 0:
                self._x[self._scale == 0] = 0.0  # nothing depends on it
            self._to_the_minimum_on_its_ray()
            if sweep == _SWEEPS or self.optimality <= 0.01:
                return
            # The best x_i if the others are right is x_i - g_i / scale_i.
            self._x -= 0.5 * np.divide(self._g, self._scale, out=np.zeros(self._g.size), where=self._scale > 0)

    @property
    def optimality(self) -> float:
        return self._steepness / self._norm if self._norm > 0 else self._steepness

    # --- the steps ----------------------------------------------------------------------------------------------------

    def run(self, max_iter: int) -> OptimizeResult:
        """Step until there is nothing to gain."""
        if not self._g.any() and self._cost > 0 and self.optimality <= self._tol:
            return self._result(3)
        while self.optimality > self._tol:
            if self.nit == max_iter:
                return self._result(0)
            self.nit += 1
            if not self._step():
                return self._result(2)
            if self._callback is not None:
                try:
                    self._callback(self._state(x=self._x.copy()))
                except StopIteration:
                    return self._result(99)
        return self._result(1)

    def _step(self) -> bool:
        """Move to a better x; False if there is none."""
        s, predicted, length, solved = self._solve()
        x, cost, steepness = self._x, self._cost, self._steepness
        before = x, cost, self._g, self._scale, self._inverse, steepness
        slope = float(np.sum(self._g * s))
        self._x = x + s
        self._evaluate()
        gained = cost - self._cost
        tiny = predicted < _ROUNDING * cost
        if tiny and self._steepness < steepness:
            return True
        if not tiny and gained > 0.1 * predicted:
            if gained < 0.25 * predicted:
                self._radius = 0.5 * length
            elif not solved:
                self._radius = 2 * length
            elif not self._exact and gained > 0.5 * predicted and self._steepness > _SLOW * steepness:
                self._exact = True
            return True
        shorter = 0.0 if tiny else self._shortest(s, cost, slope)
        self._x, self._cost, self._g, self._scale, self._inverse, self._steepness = before
        if not 0 < shorter < np.inf:
            return False
        self._radius = shorter * length
        self._x = x + shorter * s
        self._evaluate()
        if self._cost < cost:
            return True
        self._x, self._cost, self._g, self._scale, self._inverse, self._steepness = before
        return False

    def _shortest(self, s: NDArray[Any], cost: float, slope: float) -> float:
        """The step along s that is best: x + s is what was evaluated last, and the cost a quartic polynomial."""
        if not np.isfinite(self._cost):
            return 0.01
        self._count_product()
        fourth = float(np.sum(s**2 * self._sums.squares(s**2))) / 4
        rest, slope_there = self._cost - cost - slope - fourth, float(np.sum(self._g * s)) - slope - 4 * fourth
        third = slope_there - 2 * rest
        second = rest - third
        polynomial = np.polynomial.Polynomial([0.0, slope, second, third, fourth])
        roots = polynomial.deriv().roots()
        steps = roots.real[np.abs(roots.imag) <= 1e-6 * np.abs(roots.real)]
        steps = steps[steps > 0]
        return float(steps[np.argmin(polynomial(steps))]) if steps.size else 0.0

    def _solve(self) -> tuple[NDArray[Any], float, float, bool]:
        """Steihaug's conjugate gradients for ``H s = -g``: (s, the cost's predicted fall, ‖s‖, whether they got that far).

        ‖·‖ is the norm of the preconditioner, in which the trust region is a ball. Of k-vectors there are s, r, d and H d.
        """
        from . import _kernels

        x, inverse, scale = self._x, self._inverse, self._scale
        s, r, d = np.zeros(x.size), self._g.copy(), -inverse * self._g
        rz = self._steepness**2
        enough = rz * max(_FORCING, 0.3 * self._tol / self.optimality) ** 2
        # ‖s‖², s·d and ‖d‖² in that norm
        ss, sd, dd = 0.0, 0.0, rz
        solved = False
        for _ in range(_INNER):
            self._count_product()
            if self._exact:
                Hd = self._sums.curvature(x, d)
                dHd = _kernels.cg_product(d, None, Hd, scale)
            else:
                Hd = self._sums.squares(x * d)
                dHd = _kernels.cg_product(d, x, Hd, scale)
            alpha = rz / dHd if dHd > 0 else np.inf
            beyond = ss + alpha * (2 * sd + alpha * dd) if alpha < np.inf else np.inf
            if beyond >= self._radius**2 or alpha == np.inf:
                # To the boundary; without one, along negative curvature, as far as x is long.
                square = self._radius**2 if self._radius < np.inf else max(4 * ss, self._length_of_x())
                alpha = (np.sqrt(sd * sd + dd * (square - ss)) - sd) / dd
                _kernels.cg_step(alpha, d, Hd, inverse, s, r)
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
        return s, -float(np.sum(s * (self._g + r))) / 2, float(np.sqrt(ss)), solved

    def _length_of_x(self) -> float:
        return float(np.sum(np.divide(self._x**2, self._inverse, out=np.zeros(self._x.size), where=self._inverse > 0)))

    # --- what others see ----------------------------------------------------------------------------------------------

    def _count_product(self) -> None:
        self.n_products += 1
        self._tick()

    def _tick(self) -> None:
        if self._bar is not None:
            self._bar.update()
            if self.nfev > 1:
                self._bar.set_postfix(cost=f"{self._cost:.6g}", optimality=f"{self.optimality:.1e}", refresh=False)

    def _state(self, **more: Any) -> OptimizeResult:
        return OptimizeResult(
            cost=self._cost,
            optimality=self.optimality,
            nit=self.nit,
            nfev=self.nfev,
            n_products=self.n_products,
            **more,
        )

    def _result(self, status: int) -> OptimizeResult:
        message = _MESSAGES[status].format(nit=self.nit, optimality=self.optimality, tol=self._tol)
        return self._state(x=self._x, grad=self._g.copy(), status=status, success=status == 1, message=message)


@contextlib.contextmanager
def _bar(shown: bool) -> Any:
    if not shown:
        yield None
        return
    from tqdm import tqdm

    with tqdm(desc="fit", unit=" passes", leave=False) as bar:
        yield bar
