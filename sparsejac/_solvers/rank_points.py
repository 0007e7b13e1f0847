"""The points of a rank-r fit: x of shape (count, r), with its cost and its gradient."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from . import float_range
from .block_preconditioner import BlockPreconditioner, Preconditioner
from .descent import Descent

_LEAST = 1e-4  # the lower bound of B, relative to its value if all rows were equal and F were Y
_STALE = 0.05  # the largest relative change of x after which the blocks are still used


class RankSums(Protocol):
    """Sums over A and Y, whose vectors are C-contiguous float64 arrays of shape (count, r)."""

    count: int
    rank: int

    def gradient(self, x: NDArray[Any], /) -> tuple[float, NDArray[Any]]:
        """The cost ``½‖F - Y‖²``, and its gradient."""

    def curvature(self, x: NDArray[Any], v: NDArray[Any], /) -> NDArray[Any]:
        """The Hessian times v; x and v may have another number of columns than r."""

    def normal(self, x: NDArray[Any], v: NDArray[Any], /) -> NDArray[Any]:
        """``JᵀJ v``."""

    def blocks(self, x: NDArray[Any], /) -> NDArray[Any]:
        """The diagonal blocks of JᵀJ, in the shape (count, r, r)."""

    def degree(self) -> NDArray[Any]:
        """``S 1``, in the shape (count,)."""

    def has_target(self) -> bool:
        """Whether Y has a nonzero number, however small."""

    def reached(self) -> NDArray[np.bool_]:
        """The rows of x for which A has a nonzero entry, however small."""


class RankPoint(NamedTuple):
    """x, with the cost and the gradient of ``½‖F - Y‖² + ½ λ‖x‖²``."""

    x: NDArray[Any]
    cost: float
    gradient: NDArray[Any]


class RankPoints(Descent):
    """Evaluates the points of one fit, and counts the passes."""

    _at: RankPoint
    _of: NDArray[Any] | None = None  # the x of the blocks, which is at or near self._at
    _length = 0.0  # the length of that x in the norm of the blocks
    _blocks: NDArray[Any]  # of JᵀJ
    _measure: Preconditioner  # the B of the optimality
    _steepness: float  # ‖B^-½ gradient‖ at self._at

    def __init__(self, sums: RankSums, regularization: float, bar: Any) -> None:
        self._sums, self._bar, self._lambda = sums, bar, regularization
        self._shape = (sums.count, sums.rank)
        self._degree = sums.degree()
        squares = 2 * self._evaluate(np.zeros(self._shape)).cost
        self._in_range = self._can_be_squared(squares)
        self._shift = np.full(sums.count, regularization)
        self._measure_by(float(np.sqrt(squares)))

    def _measure_by(self, norm: float) -> None:
        """Set the size of F to which the optimality is relative, in general ``‖Y‖``."""
        self._norm = norm
        total = float(np.sum(self._degree))
        # the average of ‖x_j‖² if F were of this size
        self._expected = norm * np.sqrt(2 / total) if total > 0 else 0.0
        self._least = self._shift + _LEAST * self._expected * self._degree

    def _can_be_squared(self, squares: float) -> bool:
        """Whether the squares of A and Y neither overflow nor underflow to zero."""
        if not float_range.beginning_holds(self._degree, squares) or (
            squares == 0 and self._sums.has_target()
        ):
            return False
        lost = self._degree < float_range.SMALLEST
        return not (lost.any() and np.any(lost & self._sums.reached()))

    def _evaluate(self, x: NDArray[Any]) -> RankPoint:
        cost, gradient = self._sums.gradient(x)
        self._nfev += 1
        self._show_progress()
        if self._lambda:
            cost += self._lambda / 2 * float(np.sum(x * x))
            gradient += self._lambda * x
        return RankPoint(x, cost, gradient)

    def _move(self, at: RankPoint) -> None:
        """Make `at` the current point. Its blocks are computed if x has changed much."""
        self._at = at
        if self._change() > _STALE:
            self._refresh()
        else:
            self._steepness = self._steepness_of(at)

    def _change(self) -> float:
        """How far the current x is from that of the blocks, relative to its length."""
        if self._at.x is self._of:
            return 0.0
        if self._of is None or not self._length > 0:
            return np.inf
        moved = self._at.x - self._of
        # The blocks may be singular, and then do not see a move, as where columns are equal.
        plain = np.sqrt(self._weighed(moved) / (self._weighed(self._of) or 1.0))
        return max(float(np.sqrt(self._square(moved))) / self._length, float(plain))

    def _square(self, v: NDArray[Any]) -> float:
        """The squared length of v in the norm of the blocks."""
        return float(np.sum(v * np.einsum("iab,ib->ia", self._blocks, v)))

    def _weighed(self, v: NDArray[Any]) -> float:
        """The squared length of v in the norm of the blocks, if all rows of x were equal."""
        return float(np.sum(self._degree[:, np.newaxis] * v * v))

    def _refresh(self) -> None:
        """Compute the blocks at the current point."""
        self._of = self._at.x
        self._blocks = self._sums.blocks(self._of)
        self._length = float(np.sqrt(self._square(self._of)))
        self._n_blocks += 1
        self._show_progress()
        self._prepare()
        self._steepness = self._steepness_of(self._at)

    def _prepare(self) -> None:
        """Derive from new blocks what `_steepness_of` needs."""
        self._measure = BlockPreconditioner(self._blocks, self._least)

    def _steepness_of(self, at: RankPoint) -> float:
        """The length of the gradient at a point, in the norm of B⁻¹ at the current point."""
        return length_of(self._measure.lower(at.gradient))

    def _measured(self) -> float:
        return self._steepness / self._norm if self._norm > 0 else self._steepness

    def _curved(self, v: NDArray[Any]) -> NDArray[Any]:
        """The Hessian at the current point times v."""
        self._count_product()
        found = self._sums.curvature(self._at.x, v)
        found += self._lambda * v
        return found

    def _fourth(self, v: NDArray[Any]) -> float:
        # At v, ``J v = 2 F``.
        self._count_product()
        return float(np.sum(v * self._sums.normal(v, v))) / 8

    def _random(self, columns: int) -> NDArray[Any]:
        self._draws += 1
        return np.random.default_rng(self._draws).standard_normal((self._shape[0], columns))


def length_of(v: NDArray[Any]) -> float:
    return float(np.sqrt(np.sum(v * v)))
