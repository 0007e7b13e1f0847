"""Newton's method for ``½‖A ∘ (x xᵀ) - Y‖²``, which works with k-vectors only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from .. import _kernels
from .._backends.protocol import Backend
from .._backends.sums import Sums
from . import float_range
from .fit_points import Point, reciprocal, weighted_norm
from .saddles import SWEEPS, Saddles
from .status import FitStatus
from .steihaug import Step, steihaug

_FORCING = 0.1  # conjugate gradients reduce the residual of a linear system by this factor
# A step of Gauss and Newton should reduce the gradient by _FORCING. If it reduces it by less than
# this factor, second derivatives pay.
_SLOW = 0.5
_NEAR = 0.1  # below this optimality, Newton's steps are better than sweeps
_INNER = 500  # the largest number of conjugate gradient steps in one Newton step
_ROUNDING = 1e-10  # a difference of costs below this, relative to the cost, is mostly rounding


class Newton(Saddles):
    """Runs one fit."""

    def __init__(
        self,
        sums: Sums,
        rows: Backend,
        x0: ArrayLike | None,
        tol: float,
        callback: Any,
        bar: Any,
    ) -> None:
        super().__init__(sums, rows, bar)
        self._tol, self._callback = tol, callback
        self._radius = np.inf
        self._exact = self._damped = False
        self._at = self._start(x0)

    def _start(self, x0: ArrayLike | None) -> Point:
        """Choose the first point, from x0 or from the data."""
        x = np.zeros(self._sums.k) if x0 is None else np.array(x0, np.float64)
        if not self._in_range:
            return self._evaluate(x)
        reached = self._degree > 0  # F does not depend on the other variables
        if self._norm == 0:
            return self._evaluate(np.where(reached, 0.0, x))
        largest = float(np.max(np.abs(x), where=reached, initial=0.0))
        if largest == 0:
            most = 0.5 if x0 is None else 1 - 1e-12
            return self._from_data(x, positive=self._overlap > most * self._size)
        usual = float(np.sqrt(self._expected))
        if not 1e-30 * usual < largest < 1e30 * usual and largest < np.inf:
            # F might leave the range of float64.
            x = np.where(reached, np.ldexp(x, int(np.frexp(usual)[1] - np.frexp(largest)[1])), x)
        return self._best_on_ray(self._evaluate(x))

    def _from_data(self, x: NDArray[Any], *, positive: bool) -> Point:
        """Choose a start if x is zero in all variables on which F depends."""
        if positive:  # most x_j can have the same sign
            at = self._evaluate(np.where(self._degree > 0, np.sqrt(self._expected), x))
        else:
            zero = self._evaluate(x)
            found = self._leave_zero(zero, self._degree > 0)
            if found is None:
                return zero
            at = found
        for _ in range(SWEEPS):
            at = self._best_on_ray(at)
            if self._optimality(at) <= _NEAR:
                return at
            # If the other variables are right, the best x_i is x_i - g_i / scale_i.
            at = self._evaluate(at.x - 0.5 * at.gradient * reciprocal(at.scale))
        return self._best_on_ray(at)

    def _sharpened(self) -> bool:
        if not self._at.derived:
            return False
        self._at = self._evaluate(self._at.x)  # its cost has lost digits to ‖Y‖²
        return True

    def _leave(self) -> bool | None:
        found = self._lower_point()
        if found is None:
            return None
        if found is self._at:
            return False
        self._at, self._exact, self._radius, self._last_negative = found, True, np.inf, None
        return True

    def _is_finite(self) -> bool:
        at = self._at
        return bool(
            np.isfinite(at.cost + at.steepness)
            and np.all(np.isfinite(at.scale))
            and np.all(np.isfinite(at.x))
        )

    def _step(self) -> bool:
        at = self._at
        if at.steepness == 0:
            return False
        s, predicted, length, solved, negative = self._solve()
        self._last_negative = negative if self._exact else None
        self._overflow = not np.isfinite(predicted)
        there = self._evaluate(at.x + s)
        gained = at.cost - there.cost
        if predicted < _ROUNDING * at.cost:
            # The difference of costs is mostly rounding, so the gradient decides.
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
            self._exact |= near and (
                gained < 0.25 * predicted or (solved and there.steepness > _SLOW * at.steepness)
            )
            return True
        if not self._damped:
            self._damped = True
            return True
        shorter = self._shorter(s, at, there)
        if not 0 < shorter < np.inf:
            return False
        self._exact |= self._optimality(at) < _NEAR
        self._radius = shorter * length
        there = self._evaluate(at.x + shorter * s)
        if not there.cost < at.cost:
            return False
        self._at = there
        return True

    def _solve(self) -> Step:
        """Solve ``H s = -g`` by Steihaug's conjugate gradients.

        Lengths are measured in the norm of the preconditioner M = diag(JᵀJ), in which the trust
        region is a ball. After the first step that fails, Levenberg's damping ``μ S 1`` is added,
        which grows with the gradient. It is μ times the value of M if all x_j had their average
        size. M alone does not limit the step of a variable whose neighbours happen to be small.
        """
        x, gradient, scale = self._at.x, self._at.gradient, self._at.scale
        total = float(np.sum(self._degree))
        average = np.sqrt(float(np.sum(x**2 * scale)) / total) if total > 0 else 0.0  # of x_j²
        damping = float(min(1.0, self._optimality(self._at)) * average) if self._damped else 0.0
        inverse = reciprocal(self._squared_norms(x, scale) + damping * self._degree)

        def product(d: NDArray[Any]) -> tuple[NDArray[Any], float]:
            if self._exact:
                self._count_product()
                Hd = self._sums.curvature(x, d)
                return Hd, _kernels.cg_product(d, None, Hd, scale, damping, self._degree)
            Hd = self._squares(x * d)
            return Hd, _kernels.cg_product(d, x, Hd, scale, damping, self._degree)

        unit = self._norm * self._norm or 1.0
        return steihaug(
            product,
            gradient,
            inverse,
            enough=self._enough(_FORCING, self._optimality(self._at)),
            radius=self._radius,
            limit=_INNER,
            unit=unit,
            max_square=weighted_norm(x, reciprocal(inverse)) ** 2 / unit,
        )

    def _state(self, **more: Any) -> OptimizeResult:
        return OptimizeResult(
            cost=self._at.cost,
            optimality=self._optimality(self._at),
            nit=self._nit,
            nfev=self._nfev,
            n_products=self._n_products,
            **more,
        )

    def _result(self, status: FitStatus) -> OptimizeResult:
        at = self._at
        if status in (FitStatus.CONVERGED, FitStatus.ROUNDING, FitStatus.SADDLE):
            squares = self._measure(at.x, at.scale)
            if not float_range.is_trusted(at.x, at.gradient, squares, self._degree, self._norm):
                status = FitStatus.OUT_OF_RANGE
        return self._state(
            x=at.x,
            grad=at.gradient.copy(),
            history=self._recorded(),
            status=status,
            success=status is FitStatus.CONVERGED,
            message=status.message(
                nit=self._nit,
                optimality=self._optimality(at),
                tol=self._tol,
                curvature=self._curvature,
            ),
        )
