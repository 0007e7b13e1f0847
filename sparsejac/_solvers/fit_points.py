"""The points of a fit: x with its cost, its gradient, and the diagonal of JᵀJ.

One pass over A and Y computes all three.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._backends.protocol import Backend
from .._backends.sums import Sums
from .._matrix.pattern import Pattern
from . import float_range
from .descent import Descent


class Point(NamedTuple):
    """x, and what one pass over A and Y computes from it."""

    x: NDArray[Any]
    cost: float
    gradient: NDArray[Any]
    scale: NDArray[Any]  # S (x∘x): JᵀJ is Diag(scale) + Diag(x) S Diag(x)
    steepness: float  # the length of the gradient in the norm of JᵀJ's inverse diagonal
    derived: bool = False  # computed from another point, without a pass


class Points(Descent):
    """Evaluates the points of one fit, and counts the passes."""

    _at: Point

    def __init__(self, sums: Sums, rows: Backend, bar: Any) -> None:
        self._sums, self._bar = sums, bar
        self._count_product()
        self._degree, squares, self._overlap, self._size = sums.beginning()  # S 1
        self._in_range = self._can_be_squared(rows.pattern, squares)
        self._norm = float(np.sqrt(squares))
        total = float(np.sum(self._degree))
        # the average of x_j² if F were Y
        self._expected = self._norm * np.sqrt(2 / total) if total > 0 else 0.0
        a = rows.diagonal()
        self._own = 2 * a**2 if a.any() else None  # the diagonal of S

    def _can_be_squared(self, pattern: Pattern, squares: float) -> bool:
        """Whether the squares of A and Y neither overflow nor underflow to zero."""
        if not float_range.beginning_holds(self._degree, squares) or (
            squares == 0 and self._sums.has_target()
        ):
            return False
        lost = self._degree < float_range.SMALLEST
        if self._sums.symmetric and not np.any(lost & (pattern.hi > pattern.lo)):
            return True  # such a row is empty, and so is its column
        if not lost.any():
            return True
        self._count_product()
        return not np.any(lost & (self._sums.nonzeros() > 0))

    def _evaluate(self, x: NDArray[Any]) -> Point:
        cost, gradient, scale = self._sums.gradient(x)
        self._nfev += 1
        self._show_progress()
        return self._point(x, cost, gradient, scale)

    def _point(
        self, x: NDArray[Any], cost: float, gradient: NDArray[Any], scale: NDArray[Any]
    ) -> Point:
        return Point(
            x, cost, gradient, scale, weighted_norm(gradient, reciprocal(self._measure(x, scale)))
        )

    def _measure(self, x: NDArray[Any], scale: NDArray[Any]) -> NDArray[Any]:
        """The D of the optimality. Its lower bound matters if x tends to zero."""
        return np.maximum(self._squared_norms(x, scale), 1e-4 * self._expected * self._degree)

    def _squared_norms(self, x: NDArray[Any], scale: NDArray[Any]) -> NDArray[Any]:
        """diag(JᵀJ)."""
        return scale if self._own is None else scale + self._own * x**2

    def _best_on_ray(self, at: Point) -> Point:
        """The point ``β x`` for which ``½‖β² F - Y‖²`` is least.

        This takes no pass, because ``J x = 2 F`` gives ``g·x = 2 F·(F - Y)``, and
        ``JᵀF = x ∘ S (x∘x)``.
        """
        for _ in range(40):
            FF = float(np.sum(at.x**2 * at.scale)) / 2
            FY = FF - float(np.sum(at.gradient * at.x)) / 2
            if not (FF > 0 or at.gradient.any()) or not np.isfinite(FF + FY):
                return at
            if 1e-16 * self._norm**2 < FF < 1e8 * self._norm**2:
                square = FY / FF
                if square <= 0:  # the best point on the ray is x = 0
                    return at
                beta, JtF = np.sqrt(square), at.x * at.scale
                gradient = beta * (square * JtF - (JtF - at.gradient))
                cost = max(square * (square * FF - 2 * FY) + self._norm**2, 0.0) / 2
                there = self._point(self._scaled(at.x, beta), cost, gradient, square * at.scale)
                return there._replace(derived=True)
            # x is far too long or too short, so F·Y is lost to rounding. Scale F to about the size
            # of Y first.
            if FF > 0:
                beta = np.sqrt(self._norm) / FF**0.25
            else:
                beta = np.sqrt(self._expected) / np.max(np.abs(at.x))
            at = self._evaluate(self._scaled(at.x, beta))
        return at

    def _scaled(self, x: NDArray[Any], beta: float) -> NDArray[Any]:
        """``β x``. Variables without an entry of A stay as they are."""
        return np.where(self._degree > 0, beta * x, x)

    def _optimality(self, at: Point) -> float:
        return at.steepness / self._norm if self._norm > 0 else at.steepness

    def _measured(self) -> float:
        return self._optimality(self._at)

    def _fourth(self, v: NDArray[Any]) -> float:
        return float(np.sum(v**2 * self._squares(v**2))) / 4

    def _squares(self, u: NDArray[Any]) -> NDArray[Any]:
        self._count_product()
        return self._sums.squares(u)

    def _random(self) -> NDArray[Any]:
        self._draws += 1
        return np.random.default_rng(self._draws).standard_normal(self._sums.k)


def reciprocal(diagonal: NDArray[Any]) -> NDArray[Any]:
    """1/d, or 0 where d is 0."""
    return np.divide(1.0, diagonal, out=np.zeros(diagonal.size), where=diagonal > 0)


def weighted_norm(v: NDArray[Any], weights: NDArray[Any] | float) -> float:
    return float(np.sqrt(np.sum(weights * v * v)))
