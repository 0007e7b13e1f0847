"""Newton's method for ``½‖A ∘ (x xᵀ) - Y‖² + ½ λ‖x‖²``, where x has r columns."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult

from . import float_range
from .block_preconditioner import BlockPreconditioner, Preconditioner
from .descent import VISIBLE
from .rank_points import RankPoint, RankSums
from .rank_saddles import RankSaddles
from .status import FitStatus
from .steihaug import Step, steihaug

_FORCING = 0.1
# A step of Gauss and Newton should reduce the gradient by _FORCING. If it reduces it by less than
# this factor, second derivatives pay.
_SLOW = 0.5
# Second derivatives are used below this optimality. Before, a step that changes the gradient less
# than predicted shows only that x is far from a minimum.
NEAR = 0.01
# They are used above it as well after so many steps in a row that reduce the gradient slowly.
_PATIENCE = 10
_INNER = 500  # the largest number of conjugate gradient steps in one Newton step
ROUNDING = 1e-10  # a difference of costs below this, relative to the cost, is mostly rounding
_PRECISE = 0.01  # the largest relative change of x after which an optimality is precise enough


class BlockNewton(RankSaddles):
    """Runs one fit of rank r.

    Memory holds at most 16 arrays of the shape (count, r) and three of the shape (count, r, r): the
    blocks, and two inverse Cholesky factors. While a factor is computed, it holds 8 and five. The
    choice of a start holds at most 12 arrays of the shape (count, r + 2).

    Parameters
    ----------
    sums : RankSums
        The sums over A and Y. ``F = A ∘ (X Yᵀ)`` with two factors is the same for the matrix
        ``[[0, A], [0, 0]]``, where x holds X above Y.
    x0 : ndarray of shape (count, r), optional
        The start. It is scaled to the minimum on its ray. If it is None or zero, the start is
        computed from the data.
    regularization : float
        λ, which is not negative.
    tol : float
        The fit has converged if its optimality is at most this and no curvature is negative.
        The optimality is ``‖B^-½ grad‖ / ‖Y‖``. B holds the diagonal blocks of ``JᵀJ + λ I``, and
        a lower bound, so that x may tend to zero. B belongs to a point whose distance from x is at
        most a hundredth of the length of x if the fit has converged, and a twentieth otherwise.
    callback : callable, optional
        It is called after each step with an `OptimizeResult`, and may raise StopIteration.
    bar : object, optional
        A progress bar of the passes.
    """

    def __init__(
        self,
        sums: RankSums,
        x0: NDArray[Any] | None,
        regularization: float,
        tol: float,
        callback: Any,
        bar: Any,
    ) -> None:
        super().__init__(sums, regularization, bar)
        self._tol, self._callback = tol, callback
        self._radius = np.inf
        self._exact = self._damped = False
        self._in_vain = 0  # the number of steps in a row that have hardly reduced the gradient
        self._untrusted: RankPoint | None = None  # where rounding last ended the trust region
        self._move(self._start(x0))

    def _is_finite(self) -> bool:
        at = self._at
        return bool(np.isfinite(at.cost + self._steepness) and np.all(np.isfinite(at.x)))

    def _sharpened(self) -> bool:
        if self._change() <= _PRECISE:
            return False
        self._refresh()
        return True

    def _step(self) -> bool:
        at = self._at
        if self._steepness == 0:
            return False
        s, predicted, length, solved, negative = self._solve()
        self._last_negative = negative if self._exact else None
        self._overflow = not np.isfinite(predicted)
        there = self._evaluate(at.x + s)
        gained = at.cost - there.cost
        if predicted < ROUNDING * at.cost:
            return self._tiny_step(there, predicted, length, solved=solved)
        steepness = self._steepness_of(there)
        slow = steepness > _SLOW * self._steepness
        self._in_vain = self._in_vain + 1 if slow else 0
        near = self._measured() < NEAR or self._in_vain > _PATIENCE
        if gained > 0.1 * predicted:
            if gained < 0.25 * predicted:
                self._radius = 0.5 * length
            elif not solved:
                self._radius = 2 * length
            self._exact |= near and (gained < 0.25 * predicted or (solved and slow))
            self._move(there)
            return True
        if not self._damped:
            self._damped = True
            return True
        self._exact |= near
        return self._shorten(s, length, there)

    def _tiny_step(
        self, there: RankPoint, predicted: float, length: float, *, solved: bool
    ) -> bool:
        """End a step for which the difference of costs is partly rounding.

        So the gradient may decide.
        """
        at, gained = self._at, self._at.cost - there.cost
        lower = gained > max(0.1 * predicted, VISIBLE * at.cost)
        if lower or self._steepness_of(there) < self._steepness:
            self._move(there)
            return True
        if gained < -VISIBLE * at.cost:
            self._exact, self._radius = True, 0.25 * length
            return True
        if self._exact and (solved or self._untrusted is at):
            return False
        self._exact, self._radius, self._untrusted = True, np.inf, at
        return True

    def _shorten(self, s: NDArray[Any], length: float, there: RankPoint) -> bool:
        """Move along s, which leads too far; False if that does not lower the cost."""
        at = self._at
        shorter = self._shorter(s, at, there)
        if not 0 < shorter < np.inf:
            return False
        self._radius = shorter * length
        there = self._evaluate(at.x + shorter * s)
        if not there.cost < at.cost:
            return False
        self._move(there)
        return True

    def _solve(self) -> Step:
        """Solve ``H s = -g`` by Steihaug's conjugate gradients, in the variables ``Lᵀ s``.

        Lengths are measured in the norm of the preconditioner L Lᵀ, in which the trust region is a
        ball. It is the B of the optimality, plus damping.
        """
        x, rank = self._at.x, self._shape[1]
        square = self._square(x)
        damping = self._damping(square) if self._damped else None
        shift = self._shift if damping is None else self._shift + damping
        preconditioner = self._preconditioner(damping)
        column = shift[:, np.newaxis]

        def product(u: NDArray[Any]) -> tuple[NDArray[Any], float]:
            v = preconditioner.upper(u.reshape(-1, rank))
            self._count_product()
            hv = self._sums.curvature(x, v) if self._exact else self._gauss_newton(v)
            v *= column
            hv += v
            hu = preconditioner.lower(hv).reshape(-1)
            return hu, float(np.sum(u * hu))

        unit = self._norm * self._norm or 1.0
        step = steihaug(
            product,
            preconditioner.lower(self._at.gradient).reshape(-1),
            np.ones(x.size),
            enough=self._enough(self._forcing(), self._measured()),
            radius=self._radius,
            limit=_INNER,
            unit=unit,
            max_square=(square + float(np.sum(column * x * x))) / unit,
        )
        s, negative = preconditioner.upper(step.s.reshape(-1, rank)), step.negative
        if negative is not None:
            negative = preconditioner.upper(negative.reshape(-1, rank))
        return step._replace(s=s, negative=negative)

    def _gauss_newton(self, v: NDArray[Any]) -> NDArray[Any]:
        """The Hessian without second derivatives of F, and without λ, times v."""
        return self._sums.normal(self._at.x, v)

    def _forcing(self) -> float:
        """By which factor conjugate gradients reduce the residual of a linear system."""
        return _FORCING

    def _damping(self, square: float) -> NDArray[Any]:
        """Choose Levenberg's damping, which is added after the first step that fails.

        It grows with the gradient, and is relative to what the blocks would be if all rows of x
        had their average size. The blocks alone do not limit the step of a row whose neighbours
        happen to be small. `square` is the squared length of x in the norm of the blocks.
        """
        average = np.sqrt(square / float(np.sum(self._degree)))  # of ‖x_j‖²
        factor = min(1.0, self._measured()) * average / self._shape[1]
        return factor * self._degree

    def _preconditioner(self, damping: NDArray[Any] | None) -> Preconditioner:
        """The B of the optimality, plus damping."""
        if damping is None:
            return self._measure
        return BlockPreconditioner(self._blocks, self._least + damping)

    def _leave(self) -> bool | None:
        negative = None if self._norm == 0 else self._negative_curvature()
        if negative is None:
            return None
        found = self._lower_along(self._at, *negative)
        if found is None:
            return False
        self._move(found)
        self._exact, self._radius, self._last_negative = True, np.inf, None
        return True

    def _state(self, **more: Any) -> OptimizeResult:
        return OptimizeResult(
            cost=self._at.cost,
            optimality=self._measured(),
            nit=self._nit,
            nfev=self._nfev,
            n_products=self._n_products,
            n_blocks=self._n_blocks,
            **more,
        )

    def _result(self, status: FitStatus) -> OptimizeResult:
        at = self._at
        if status in (FitStatus.CONVERGED, FitStatus.ROUNDING, FitStatus.SADDLE):
            squares = np.einsum("iaa->i", self._blocks) + self._least
            x, gradient = (np.sqrt(np.sum(v * v, axis=1)) for v in (at.x, at.gradient))
            if not float_range.is_trusted(x, gradient, squares, self._degree, self._norm):
                status = FitStatus.OUT_OF_RANGE
        return self._state(
            x=at.x,
            grad=at.gradient.copy(),
            history=self._recorded(),
            status=status,
            success=status is FitStatus.CONVERGED,
            message=status.message(
                nit=self._nit,
                optimality=self._measured(),
                tol=self._tol,
                curvature=self._curvature,
            ),
        )
