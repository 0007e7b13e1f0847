"""What the fits for one column of variables and for several have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult

from .._system.progress import time_left
from .divergence import Divergence
from .outlook import passes_left
from .quartic import least_of_quartic
from .status import FitStatus

VISIBLE = 1e-13  # a relative fall of the cost by more than this is not rounding
_POLISH = 20  # steps after convergence, if leaving a saddle does not visibly lower the cost


class Descent:
    """Makes steps from point to point. A point has x, cost and gradient.

    Subclasses define the methods that raise NotImplementedError.
    """

    _at: Any  # the current point
    _bar: Any
    _callback: Any
    _in_range: bool
    _tol: float
    _nit = _nfev = _n_products = _n_blocks = _draws = _polished = 0
    _told_nit = -1  # the number of steps at the last call of the callback
    _overflow = False
    # (passes, cost, optimality) at the start and each step
    _history: list[tuple[int, float, float]]
    _degree: NDArray[Any]  # S 1

    def _evaluate(self, x: NDArray[Any]) -> Any:
        """The point at x, from one pass."""
        raise NotImplementedError

    def _measured(self) -> float:
        """The optimality of the current point."""
        raise NotImplementedError

    def _sharpened(self) -> bool:
        """Compute anew what was good enough on the way; False if nothing was left."""
        raise NotImplementedError

    def _fourth(self, v: NDArray[Any]) -> float:
        """``½‖F(v)‖²``, the fourth coefficient of the cost on a line along v."""
        raise NotImplementedError

    def _step(self) -> bool:
        """Move to a better point, or change the method; False if nothing can be improved."""
        raise NotImplementedError

    def _leave(self) -> bool | None:
        """Leave a point where the gradient vanishes.

        The result is True if that lowers the cost, False if it does not visibly do so, and None if
        no curvature is negative at the point.
        """
        raise NotImplementedError

    def _is_finite(self) -> bool:
        raise NotImplementedError

    def _state(self, **more: Any) -> OptimizeResult:
        raise NotImplementedError

    def _result(self, status: FitStatus) -> OptimizeResult:
        raise NotImplementedError

    # --- what follows from these

    @property
    def x(self) -> NDArray[Any]:
        """The last point."""
        found: NDArray[Any] = self._at.x
        return found

    def count_also(self, other: Descent) -> None:
        """Add the passes of another fit to those of this one."""
        self._nfev += other._nfev
        self._n_products += other._n_products
        self._n_blocks += other._n_blocks

    def run(self, max_iter: int) -> OptimizeResult:
        """Make steps until the fit has converged, or a limit is reached."""
        self._history = []
        divergence = Divergence()
        while True:
            self._record()
            if not (self._in_range and self._is_finite()):
                return self._result(FitStatus.OUT_OF_RANGE)
            if not self._told():
                return self._result(FitStatus.CALLBACK)
            divergence.add(self._nit, self._at.cost, self._largest())
            if self._measured() <= self._tol:
                if self._sharpened():
                    continue
                left = self._leave()
                if left is None:
                    return self._result(FitStatus.CONVERGED)
                if self._nit == max_iter:
                    return self._result(FitStatus.MAX_ITER if left else FitStatus.SADDLE)
                self._nit += 1
                if not left:
                    # Either this is a saddle, or the gradient is still too large to distinguish
                    # the curvature from zero.
                    self._polished += 1
                    if self._polished > _POLISH or not self._step():
                        return self._result(FitStatus.SADDLE)
            elif self._nit == max_iter:
                diverges = divergence.seems()
                return self._result(FitStatus.DIVERGES if diverges else FitStatus.MAX_ITER)
            else:
                self._nit += 1
                if not self._step():
                    if self._overflow:
                        return self._result(FitStatus.OUT_OF_RANGE)
                    if not self._leave():
                        return self._result(FitStatus.ROUNDING)

    def _told(self) -> bool:
        """Call the callback, once for each number of steps; False if it stops the fit."""
        if self._callback is None or self._told_nit == self._nit:
            return True
        self._told_nit = self._nit
        try:
            self._callback(self._state(x=self._at.x.copy()))
        except StopIteration:
            return False
        return True

    def _largest(self) -> float:
        """The largest |x_j| among the variables that F depends on."""
        size = np.abs(self._at.x)
        size = size if size.ndim == 1 else np.max(size, axis=1, initial=0.0)
        return float(np.max(size, where=self._degree > 0, initial=0.0))

    def _record(self) -> None:
        """Record the current point. If it was sharpened, it takes the place of the one before."""
        passes = self._nfev + self._n_products
        self._history[self._nit :] = [(passes, self._at.cost, self._measured())]

    def _recorded(self) -> NDArray[np.float64]:
        """The history up to the current point."""
        self._record()
        return np.array(self._history, np.float64)

    def _shorter(self, s: NDArray[Any], at: Any, there: Any) -> float:
        """The best fraction of a step. Along a step the cost is a quartic polynomial.

        The costs and slopes at both ends and ``½‖F(s)‖²`` determine the polynomial.
        """
        if not np.isfinite(there.cost):
            return 0.01
        slope = float(np.sum(at.gradient * s))
        fourth = self._fourth(s)
        rest = there.cost - at.cost - slope - fourth
        third = float(np.sum(there.gradient * s)) - slope - 4 * fourth - 2 * rest
        return least_of_quartic(slope, rest - third, third, fourth)[0]

    def _lower_along(
        self, at: Any, v: NDArray[Any], curvature: float, *, visible: float = VISIBLE
    ) -> Any:
        """Find the best point on the line ``x + t v``; None if the cost does not visibly fall.

        `curvature` is ``v·H v``.
        """
        fourth = self._fourth(v)
        if not (curvature < 0 and 0 < fourth < np.inf):
            return None
        t = np.sqrt(-curvature / (4 * fourth))  # the minimum if slope and third power are 0
        s = t * v
        slope, second, fourth = (
            float(np.sum(at.gradient * s)),
            curvature * t**2 / 2,
            fourth * t**4,
        )
        there = self._evaluate(at.x + s)
        # A difference of slopes is more precise than a difference of costs, because other parts of
        # A contribute to the costs.
        third = (float(np.sum(there.gradient * s)) - slope - 2 * second - 4 * fourth) / 3
        best, fall = least_of_quartic(slope, second, third, fourth, backwards=True)
        if not fall > visible * at.cost:
            return None
        if abs(best - 1) > 0.1:
            there = self._evaluate(at.x + best * s)
        return there if there.cost < at.cost * (1 if visible else 1 + VISIBLE) else None

    def _enough(self, forcing: float, optimality: float) -> float:
        """By which square a linear system is solved well enough: 1 if there is nothing to solve."""
        # The square of a larger quotient might overflow, as far below tol.
        return min(max(forcing, 0.3 * self._tol / optimality), 1.0) ** 2

    def _count_product(self) -> None:
        self._n_products += 1
        self._show_progress()

    def _show_progress(self) -> None:
        if self._bar is not None:
            self._bar.update()
            if self._nit:
                cost, optimality = self._at.cost, self._measured()
                left = passes_left(self._history, self._nfev + self._n_products, self._tol)
                self._bar.set_postfix(
                    cost=f"{cost:.6g}",
                    optimality=f"{optimality:.1e}",
                    left=time_left(self._bar, left),
                    refresh=False,
                )
