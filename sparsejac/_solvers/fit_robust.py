"""Newton's method for robust losses, whose cost is no polynomial along a line."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .descent import VISIBLE
from .fit_bounds import BoundedNewton
from .fit_rank import BlockNewton
from .rank_points import RankPoint, RankSums

_SHORTER = 30  # how often a step is made shorter


class RobustSums(RankSums, Protocol):
    """Sums whose cost, gradient and curvature are those of a robust loss."""

    def robust_normal(self, x: NDArray[Any], v: NDArray[Any], /) -> NDArray[Any]:
        """``Jᵀ Diag(ρ') J v``."""


class _Reweighted(BlockNewton):
    """What fits with a robust loss have in common, within bounds or not.

    Gauss-Newton steps are those of the reweighted least squares. The blocks are those of the
    squares, which bound the weighted ones.
    """

    _sums: RobustSums

    def _gauss_newton(self, v: NDArray[Any]) -> NDArray[Any]:
        return self._sums.robust_normal(self._at.x, v)

    def _times_to_x(self, v: NDArray[Any]) -> float:
        """How many times v is as long as x, or as an x for which F has the size of Y; or 0."""
        length = self._weighed(v)
        if not 0 < length < np.inf:
            return 0.0
        usual = max(self._weighed(self._at.x), self._expected * float(np.sum(self._degree)))
        return float(np.sqrt(usual / length))


class RobustNewton(_Reweighted):
    """Runs one fit with a robust loss, from a given point.

    Where a line would be searched by the coefficients of a quartic polynomial, points along it are
    tried.
    """

    def _start(self, x0: NDArray[Any] | None) -> RankPoint:
        x = np.zeros(self._shape) if x0 is None else x0
        if self._in_range and self._norm == 0:  # Y is zero, and so is the best x
            x = np.where((self._degree > 0)[:, np.newaxis] | (self._lambda > 0), 0.0, x)
        return self._evaluate(x)

    def _shorten(self, s: NDArray[Any], length: float, there: RankPoint) -> bool:
        """Shorten s until the cost falls; False if it does not.

        Each time, the minimum of the parabola through both costs and the first slope is tried, but
        at least a tenth of the length, and at most half.
        """
        at = self._at
        slope = float(np.sum(at.gradient * s))
        for _ in range(_SHORTER):
            bend = there.cost - at.cost - slope
            shorter = -slope / (2 * bend) if slope < 0 < bend < np.inf else 0.1
            shorter = min(max(shorter, 0.1), 0.5)
            s, slope, length = shorter * s, shorter * slope, shorter * length
            there = self._evaluate(at.x + s)
            if there.cost < at.cost:
                self._radius = length
                self._move(there)
                return True
        return False

    def _lower_along(
        self, at: RankPoint, v: NDArray[Any], curvature: float, *, visible: float = VISIBLE
    ) -> RankPoint | None:
        """Halve a step along v, which begins as long as x, until the cost falls."""
        times = self._times_to_x(v)
        if not (curvature < 0 < times):
            return None
        s = times * (-v if np.sum(at.gradient * v) > 0 else v)
        for _ in range(_SHORTER):
            there = self._evaluate(at.x + s)
            if there.cost < (1 - visible) * at.cost:
                return there
            s = 0.5 * s
        return None


class BoundedRobustNewton(_Reweighted, BoundedNewton):
    """Runs one fit with a robust loss within bounds, from a given point.

    Its memory is that of `BoundedNewton`.
    """

    _fractions = tuple(sign * 0.5**n for n in range(_SHORTER) for sign in (1, -1))

    def _best_on_ray(self, at: RankPoint) -> RankPoint:
        return at

    def _length_along(self, v: NDArray[Any], curvature: float) -> float:  # noqa: ARG002  # see below
        # The cost is no polynomial, so that the curvature does not tell where it is least.
        return self._times_to_x(v)
