"""A projected Newton method for ``½‖A ∘ (x xᵀ) - Y‖² + ½ λ‖x‖²`` with ``low ≤ x ≤ high``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult

from .block_preconditioner import Preconditioner, Restricted
from .cone import Cone
from .descent import VISIBLE
from .fit_rank import NEAR, ROUNDING, BlockNewton
from .rank_points import RankPoint, RankSums, length_of
from .status import FitStatus

# A variable is fixed near a bound, and not only on it, or steps along the arc would be short. This
# is the largest distance, relative to the size of x if F were Y.
_CLOSE = 0.01
# The least fall of the cost, relative to that of the first-order model. Any small number will do.
_ARMIJO = 1e-4
_SHORT = 0.1  # a step is short if it is shorter than this, relative to x
_TRIALS = 8  # how often a Newton step is shortened
_GRADIENT_TRIALS = 30  # how often a step along the projected gradient is shortened
_SNAPS = 1000  # how often variables are moved onto bounds at the end, at most
_NEGATIVE = 1e-8  # a curvature is negative if it is below minus this, relative to the Hessian


class BoundedNewton(BlockNewton):
    """Runs one fit within bounds, by a two-metric projection method [1]_.

    Each step fixes the variables that are near a bound and whose gradient leads out of it. The
    others make a Newton step, computed by conjugate gradients in a trust region. The fixed ones
    make a step along the gradient, in the norm of D, the diagonal of ``JᵀJ + λ I`` with the lower
    bound of B. The search for a lower cost goes along the projection of this direction.

    The optimality is ``‖D^½ p‖ / ‖Y‖``. The projected step p is the nearest one to ``-grad / D``
    that stays within the bounds. Without bounds, this is ``‖D^-½ grad‖ / ‖Y‖``.

    Memory holds at most 12 arrays of the shape (count, r) more than without bounds.

    Parameters
    ----------
    sums : RankSums
    x0 : ndarray of shape (count, r)
        The start, which is within the bounds. It is replaced by the minimum on its ray if that is
        within the bounds as well, or if its projection has a lower cost.
    bounds : (ndarray, ndarray)
        low and high, of the shape of x.
    regularization, tol, callback, bar
        As for `BlockNewton`.

    References
    ----------
    .. [1] D. P. Bertsekas, "Projected Newton methods for optimization problems with simple
       constraints", SIAM J. Control Optim. 20 (1982), 221-246.
    """

    # The fractions of a length that are tried along a line.
    _fractions: Sequence[float] = (1.0, -1.0, 0.5, -0.5, 0.1, -0.1)
    _snaps = 0  # how often variables were moved onto bounds at the end
    _free: NDArray[np.bool_]  # the variables that make a Newton step
    _scale: NDArray[Any]  # D

    def __init__(
        self,
        sums: RankSums,
        x0: NDArray[Any],
        bounds: tuple[NDArray[Any], NDArray[Any]],
        regularization: float,
        tol: float,
        callback: Any,
        bar: Any,
    ) -> None:
        self._low, self._high = bounds
        super().__init__(sums, x0, regularization, tol, callback, bar)

    def _start(self, x0: NDArray[Any] | None) -> RankPoint:
        x0 = np.array(x0, np.float64, order="C")
        if self._in_range and self._norm == 0:
            return self._nearest_to_zero(x0)
        at = self._evaluate(x0)
        if not self._in_range:
            return at
        best = self._best_on_ray(at)
        x = self._clipped(best.x)
        there = best if np.array_equal(x, best.x) else self._evaluate(x)
        return there if there.cost < at.cost else at

    def _nearest_to_zero(self, x0: NDArray[Any]) -> RankPoint:
        """The start if Y is zero. The size of F there takes the place of that of Y."""
        counts = (self._degree > 0)[:, np.newaxis] | (self._lambda > 0)
        at = self._evaluate(self._clipped(np.where(counts, 0.0, x0)))
        self._measure_by(float(np.sqrt(2 * at.cost)))
        return at

    def _clipped(self, x: NDArray[Any]) -> NDArray[Any]:
        return np.clip(x, self._low, self._high)

    def _prepare(self) -> None:
        self._scale = np.einsum("iaa->ia", self._blocks) + self._least[:, np.newaxis]

    def _change(self) -> float:
        """How far x is from that of the blocks: the largest relative change of a column.

        D may change by any factor in a column that is small beside another one.
        """
        if self._of is None or self._at.x is self._of:
            return super()._change()
        weights = self._degree[:, np.newaxis]
        length = np.sqrt(np.sum(weights * self._of**2, axis=0))
        moved = np.sqrt(np.sum(weights * (self._at.x - self._of) ** 2, axis=0))
        column = np.divide(moved, length, out=np.where(moved > 0, np.inf, 0.0), where=length > 0)
        return max(super()._change(), float(np.max(column, initial=0.0)))

    def _descent(self, gradient: NDArray[Any]) -> NDArray[Any]:
        """``-grad / D``, or 0 where D is 0."""
        return np.divide(-gradient, self._scale, out=np.zeros(self._shape), where=self._scale > 0)

    def _projected(self, at: RankPoint) -> NDArray[Any]:
        """The step p of the optimality."""
        # The projection of x - grad / D, minus x, would lose digits.
        return np.clip(self._descent(at.gradient), self._low - at.x, self._high - at.x)

    def _steepness_of(self, at: RankPoint) -> float:
        return length_of(np.sqrt(self._scale) * self._projected(at))

    def _sharpened(self) -> bool:
        return super()._sharpened() or self._snapped()

    def _snapped(self) -> bool:
        """Move variables onto their bounds, if their step of the optimality ends there.

        If the bounds are narrow, all moves together may raise the cost, and the next moves would
        lead back. The steepest one alone, and a part of all moves, are then tried in turn. The
        slopes at both ends give the change of the cost, which may be far below the rounding of the
        cost.
        """
        at, p = self._at, self._projected(self._at)
        x = np.where((p < 0) & (p <= self._low - at.x), self._low, at.x)
        x = np.where((p > 0) & (p >= self._high - at.x), self._high, x)
        moved = x != at.x
        count = np.count_nonzero(moved)
        if self._snaps >= _SNAPS or count == 0:  # each takes passes over A
            return False
        all_moves = self._evaluate(x)
        found = all_moves if self._falls(at, all_moves) else None
        if found is None:
            slopes = np.divide(
                np.abs(at.gradient), np.sqrt(self._scale), out=np.full(x.shape, -1.0), where=moved
            )
            steepest = np.zeros(x.size, np.bool_)
            steepest[np.argmax(slopes)] = True
            one = np.where(steepest.reshape(x.shape), x, at.x)
            if count == 1 or self._snaps % 2:
                found = self._lower_between(at, all_moves)
            if found is None and count > 1:
                found = self._lower_between(at, self._evaluate(one))
        if found is None:
            return False
        self._snaps += 1
        self._move(found)
        return True

    @staticmethod
    def _falls(at: RankPoint, there: RankPoint) -> bool:
        """Whether the cost falls, by the slopes at both ends."""
        return float(np.sum((at.gradient + there.gradient) * (there.x - at.x))) < 0

    def _lower_between(self, at: RankPoint, there: RankPoint) -> RankPoint | None:
        """The point `there` if its cost is lower, or else the one where the slope vanishes.

        Within narrow bounds, a minimum between two bounds is as far from both as the bounds are.
        """
        if self._falls(at, there):
            return there
        s = there.x - at.x
        first, last = (float(np.sum(each.gradient * s)) for each in (at, there))
        if not first < 0:
            return None
        found = self._evaluate(self._clipped(at.x + first / (first - last) * s))
        return found if self._falls(at, found) else None

    def _step(self) -> bool:
        at = self._at
        if self._steepness == 0:
            return False
        along = self._descent(at.gradient)
        fixed = self._to_fix(along)
        self._free = ~fixed
        s, predicted, length, solved, negative = self._solve()
        self._last_negative = negative if self._exact else None
        self._overflow = not np.isfinite(predicted)
        p = self._projected(at)
        predicted += float(np.sum(self._scale * p**2, where=fixed)) / 2
        s = np.where(fixed, along, s)
        there = self._evaluate(self._clipped(at.x + s))
        if predicted < ROUNDING * at.cost:
            goes_on = self._tiny_step(there, predicted, length, solved=solved)
            if self._at is there and not solved:
                self._radius = 2 * length
            return goes_on or self._snapped()
        found = self._searched(s, there)
        if found is None:
            return self._snapped()
        there, t = found
        if t < 1:
            self._radius = t * length
        elif not solved:
            self._radius = 2 * length
        # If a short step of Gauss and Newton has to be shortened, their curvature is wrong.
        short = length * self._norm < _SHORT * self._length
        self._exact |= self._measured() < NEAR or (t < 1 and short)
        self._move(there)
        return True

    def _to_fix(self, along: NDArray[Any]) -> NDArray[np.bool_]:
        """The variables near a bound for which a step along the gradient leads to that bound."""
        close = min(self._measured(), _CLOSE) * float(np.sqrt(self._expected))
        below, above = self._at.x - self._low, self._high - self._at.x
        return (
            ((along < 0) & (below <= np.minimum(-along, close)))
            | ((along > 0) & (above <= np.minimum(along, close)))
            | (self._low == self._high)
        )

    def _forcing(self) -> float:
        # Smaller near a minimum, since a pass for a product takes less time than one for a cost.
        return float(min(0.1, np.sqrt(self._measured())))

    def _preconditioner(self, damping: NDArray[Any] | None) -> Preconditioner:
        shift = self._least if damping is None else self._least + damping
        return Restricted(self._blocks, shift, self._free)

    def _searched(self, s: NDArray[Any], there: RankPoint) -> tuple[RankPoint, float] | None:
        """Shorten the step s, which leads to `there`, until the cost falls enough.

        The result is the point, and the fraction of the step. If no fraction is short enough, the
        point is one along the projected gradient, and the fraction is a tenth. The result is None
        if that does not lower the cost either.
        """
        at, t = self._at, 1.0
        for _ in range(_TRIALS):
            fall = at.cost - there.cost
            if fall >= _ARMIJO * t * self._steepness**2:
                return there, t
            self._damped = True
            # The minimum of the parabola with the slope at x, and the two costs.
            slope = float(np.sum(at.gradient * (there.x - at.x)))
            best = -0.5 * slope / (-fall - slope) if fall + slope < 0 else 0.0
            t *= min(max(best, 0.1), 0.5) if np.isfinite(best) else 0.1
            there = self._evaluate(self._clipped(at.x + t * s))
        s, short = self._descent(at.gradient), 1.0
        for _ in range(_GRADIENT_TRIALS):
            there = self._evaluate(self._clipped(at.x + short * s))
            if at.cost - there.cost >= _ARMIJO * short * self._steepness**2:
                return there, 0.1
            short *= 0.25
        return None

    # --- where the projected gradient vanishes

    def _leave(self) -> bool | None:
        if self._norm == 0:
            return None
        x = self._at.x
        inside = (self._low < x) & (x < self._high)
        negative = None
        if inside.any():
            self._measure = Restricted(self._blocks, self._least, inside)
            negative = self._negative_curvature()
        if negative is None:
            negative = self._inward_curvature(~inside & (self._low < self._high))
        if negative is None:
            return None
        found = self._lower_within(*negative)
        if found is None:
            return False
        self._move(found)
        self._exact, self._radius, self._last_negative = True, np.inf, None
        return True

    def _inward_curvature(self, at_bound: NDArray[np.bool_]) -> tuple[NDArray[Any], float] | None:
        """Find a direction of negative curvature that leads away from bounds.

        Only variables count whose gradient vanishes although they are on a bound. This is so if x
        is zero in a column. Free variables may move with them. See `Cone` for the search, which may
        miss a negative curvature.
        """
        at, root = self._at, np.sqrt(self._scale)
        small = self._tol * self._norm * root
        idle = at_bound & (np.abs(at.gradient) <= small) & (root > 0)
        if not idle.any():
            return None
        inward = np.where(at.x == self._low, 1.0, -1.0) * idle
        free = (self._low < at.x) & (at.x < self._high) & (root > 0)
        inverse = np.divide(1.0, root, out=np.zeros(self._shape), where=root > 0)
        value, u, norm = Cone(inward, idle | free).least(
            lambda u: inverse * self._curved(inverse * u), self._random(self._shape[1])
        )
        if not value < -_NEGATIVE * norm:
            return None
        self._curvature = value / norm
        return inverse * u, value

    def _lower_within(self, v: NDArray[Any], curvature: float) -> RankPoint | None:
        """Find a point of lower cost along v or -v; None if the cost does not fall visibly.

        If it falls along the projection of the line at a few lengths, that point is the result.
        Otherwise it is the point at which the line meets the first bound, so that there is one
        more variable on a bound.
        """
        at, length = self._at, self._length_along(v, curvature)
        if not 0 < length < np.inf:
            return None
        if float(np.sum(at.gradient * v)) > 0:
            v = -v
        for t in self._fractions:
            there = self._evaluate(self._clipped(at.x + t * length * v))
            if there.cost < (1 - VISIBLE) * at.cost:
                return there
        room = np.where(v < 0, at.x - self._low, self._high - at.x)
        reach = np.divide(room, np.abs(v), out=np.full(self._shape, np.inf), where=v != 0)
        first = float(np.min(reach))
        if not 0 < first < length:
            return None
        x = np.where(reach <= first, np.where(v < 0, self._low, self._high), at.x + first * v)
        there = self._evaluate(self._clipped(x))
        return there if there.cost <= (1 + VISIBLE) * at.cost else None

    def _length_along(self, v: NDArray[Any], curvature: float) -> float:
        """How many times v to go first; 0 if that is unknown.

        It leads to the minimum if slope and third power are 0, but at most ten times as far as x is
        long.
        """
        fourth = self._fourth(v)
        if not 0 <= fourth < np.inf:
            return 0.0
        length = float(np.sqrt(-curvature / (4 * fourth))) if fourth > 0 else np.inf
        square = self._square(v)
        most = 10 * float(np.sqrt(self._square(self._at.x) / square)) if square > 0 else 0.0
        return min(length, most) if most > 0 else length

    def _result(self, status: FitStatus) -> OptimizeResult:
        result, x = super()._result(status), self._at.x
        result.active_mask = np.where(x >= self._high, 1, np.where(x <= self._low, -1, 0))
        return result


def nearest_with_sign(x: NDArray[Any], low: NDArray[Any], high: NDArray[Any]) -> NDArray[Any]:
    """The projection of x, where each x_i may change its sign if that is nearer to its bounds.

    Each connected part of A, and each column, has a sign of its own, which the data leave open.
    """
    same, other = np.clip(x, low, high), np.clip(-x, low, high)
    return np.where(np.abs(other + x) < np.abs(same - x), other, same)
