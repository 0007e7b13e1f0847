"""The solver of ``x ∘ (A x) = d``. It works with k-vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from .. import _kernels, _validation
from .._system import machine
from .scaling_state import ScalingState
from .scaling_units import WIDE, shift, tamed
from .status import ScalingStatus
from .steihaug import Step, steihaug
from .support import (
    Support,
    bytes_needed,
    entries_of,
    examine,
    first_of,
    is_obvious,
    supported_rows,
    without,
)

_Verdict = tuple[ScalingStatus, str | None]  # and why, where no scaling exists
_REFRESH = 100  # products after which A x, which is updated in each step, is computed anew
_SHRUNK = 1e-6  # A x is also computed anew after it has shrunk to this: its errors have grown
_WINDOW = 40  # products over which the speed of convergence is measured
# Products that may be left to do, at that speed, before the support of A is examined.
_PATIENCE = 200
_LONG_WINDOW, _HOPELESS = 200, 2000  # the same, before steps along curves are tried
_LINE = 0.01  # the slope at the end of a line search, relative to that at its start
# The radius of the trust region, in units of log(x): at first, and where rounding ends the steps.
_RADIUS, _SHORTEST = 2.0, 1e-14
# Conjugate gradients reduce the residual of the linear system to this part, or less near the end.
_FORCING = 0.1
_INNER = 1000  # the largest number of conjugate gradient steps in one of Newton's
_SMALLEST = 1e-305  # an x below which its products lose their digits
_ROUNDING = 1e-11  # below this, a residual that does not fall in `_PATIENCE` products is the end


class Scaling(ScalingState):
    """One scaling under way."""

    def run(self, target: ArrayLike, x0: ArrayLike | None) -> OptimizeResult:
        """Scale, or say why that is not possible.

        If x leaves the range of numbers in units in which A and the targets are near 1, it is tried
        once more in units that are as near as possible to those of the user.
        """
        before = dict(self.__dict__, left_out=dict(self.left_out), _history=[])
        result = self._run(target, x0)
        units = self._log_alpha, self._delta
        if result.status != ScalingStatus.OUT_OF_RANGE or units == (0, 1.0):
            return result
        counted = {name: self.__dict__[name] for name in ("_n_products", "_nit", "_called_at")}
        self.__dict__.update(before | counted | {"_windows": WIDE})
        again = self._run(target, x0)
        return result if again.status == ScalingStatus.MAX_PRODUCTS and self._spent(0) else again

    def _run(self, target: ArrayLike, x0: ArrayLike | None) -> OptimizeResult:
        nobody = np.zeros(self._kept.size, np.bool_)
        for name, value in (("target", target), ("x0", x0)):
            if value is not None:  # refuse a wrong kind before any work is done
                _validation.positive(name, value, nobody)
        largest = self._sums.check_nonnegative()
        self._log_alpha = shift(largest, largest, self._windows[0])
        self._alpha = float(np.ldexp(1.0, self._log_alpha))
        with np.errstate(all="ignore"):  # as in the kernels
            if self._support == "drop_rows":
                self._drop_rows(target)
            degree = self._degree()
            while self.leave_lonely_out and np.any(lonely := self._kept & (degree == 0)):
                self.leave_out("no_entries", lonely)
                degree = self._degree()
            kept = self._kept
            d, exact = self._targets(target)
            start = None if x0 is None else _validation.positive("x0", x0, kept)
            if not kept.any():
                return self._nothing()
            self._d = d
            if self._shift:
                # for the residual of x as it is returned
                self._limit -= 2 if self._alpha > 1 else 1
            beta = self._note_of_ones(degree, d)
            verdict = self._verdict_at_start(degree, d, exact=exact)
            if verdict is None and self._found.unsupported:  # entries were dropped
                degree = self._degree()
                beta = self._note_of_ones(degree, d)
            if verdict is None and self._spent(1):
                verdict = self._last(), None
            if verdict is not None:
                return self._result(np.full(d.size, beta), *verdict)
            x = np.sqrt(d) / np.sqrt(degree) if start is None else tamed(start, kept)
            del start, degree
            x[~kept] = 1.0
            return self._along_lines(x, d) or self._along_curves(x, d)

    def _verdict_at_start(
        self, degree: NDArray[Any], d: NDArray[Any], *, exact: bool
    ) -> _Verdict | None:
        """Why the scaling ends before its first step; None if it does not."""
        lonely = np.flatnonzero(self._kept & (degree == 0))
        if lonely.size:
            return self._unsupported(without(lonely))
        if self._lost or not exact:
            return ScalingStatus.OUT_OF_RANGE, None
        if self._support not in ("check", "drop"):
            return None
        verdict = self._examine(d)
        if verdict is None and self._found.unsupported and self._spent(1):
            self._sums, self._found = self._whole, without()
            verdict = ScalingStatus.MAX_PRODUCTS, None
        return verdict

    def _drop_rows(self, target: ArrayLike) -> None:
        """Leave out rows without support."""
        d, exact = self._targets(target)
        before = self._kept
        if exact and before.any() and self._may_examine("drop_rows"):
            self.leave_out("support", before & ~supported_rows(self._sums, before, d))
            self._found = without(np.flatnonzero(before & ~self._kept))
        self._support = "skip"

    def _nothing(self) -> OptimizeResult:
        x = np.zeros(self._kept.size)
        if x.size:
            return self._result(x, ScalingStatus.NOTHING_KEPT)
        self._note(0.0)
        return self._result(x, ScalingStatus.CONVERGED)

    # --- along straight lines, one product a step -------------------------------------------------

    def _along_lines(self, x: NDArray[Any], d: NDArray[Any]) -> OptimizeResult | None:
        """Nonlinear conjugate gradients. If they take too long, return None and leave x there.

        The k-vectors are x and the last x, A x, q, A q, s, z, the errors, and d.
        """
        Ax = self._values_at(x)
        self._stretch(x, Ax, d)
        own = self._sums.diagonal / self._alpha
        q, Aq, s, z, error = (np.zeros(x.size) for _ in range(5))
        t, fresh, best, best_at, before, shrunk = 0.0, True, np.inf, 0, x.copy(), 1.0
        while True:
            above, below = _kernels.scaling_step(t, x, Ax, q, Aq, s, z, error, d, own)
            residual = float(np.max(error))
            if not (np.isfinite(residual + above + below) and np.min(x) > _SMALLEST):
                return self._result(before, ScalingStatus.OUT_OF_RANGE)
            self._note(residual)
            if residual < best:
                best, best_at = residual, self._n_products
            stuck = best < _ROUNDING and self._n_products > best_at + _PATIENCE
            due = shrunk < _SHRUNK or self._n_products % _REFRESH == 0
            if not fresh and (residual <= self._tol or stuck or self._spent(2) or due):
                self._history.pop()  # the next one is of the same x
                Ax, t, fresh, shrunk = self._values_at(x), 0.0, True, 1.0
                continue
            if self._interrupted(x):
                return self._result(x, ScalingStatus.CALLBACK)
            if residual <= self._tol or stuck or self._spent(2):
                return self._result(x, self._last(stuck=stuck))
            if self._support == "auto" and self._left_to_do(_WINDOW) > _PATIENCE:
                verdict = self._examine(d)
                if verdict is not None:
                    return self._result(x, *verdict)
            if self._left_to_do(_LONG_WINDOW) > _HOPELESS:
                return None
            slope = _kernels.scaling_direction(
                above / below if below > 0 else 0.0, x, Ax, q, s, z, d
            )
            if not slope < 0:
                slope = _kernels.scaling_direction(0.0, x, Ax, q, s, z, d)
            np.copyto(before, x)
            Aq = self._product(q)
            Aq[self._left_out] = 0.0
            t, fresh = self._length(slope, q, Aq, s, d), False
            shrunk *= 1 + t * min(float(np.min(s)), 0.0)
            self._nit += 1

    def _length(
        self, slope: float, q: NDArray[Any], Aq: NDArray[Any], s: NDArray[Any], d: NDArray[Any]
    ) -> float:
        """The t for which ``½ (x + t q)ᵀA (x + t q) - d·log(x + t q)`` is least.

        With ``s = q/x`` the derivative is ``g·s + t (qᵀA q + d·(s²/(1 + t s)))``. In this form
        nothing cancels near t = 0. The derivative is negative at 0, and grows beyond all bounds
        where x + t q stops being positive. t ends before that, where an x falls to a thousandth:
        closer to zero, rounding would decide on its sign.
        """
        square, weight = _kernels.scaling_line(q, Aq, s, d)
        lowest = float(np.min(s))
        low, high = 0.0, -0.999 / lowest if lowest < 0 else np.inf
        t = min(-slope / (square + weight) if square + weight > 0 else np.inf, high)
        t = t if t < np.inf else 1.0
        for _ in range(60):
            first, second = _kernels.scaling_slope(t, s, d)
            at_t, curvature = slope + t * (square + first), square + second
            if abs(at_t) <= -_LINE * slope or (at_t < 0 and t == high):
                break
            low, high = (low, t) if at_t > 0 else (t, high)
            t = min(t - at_t / curvature if curvature > 0 else np.inf, high)
            if not low < t < np.inf:
                t = 0.5 * (low + high) if high < np.inf else 2 * low
        return t

    # --- along curves x∘exp(t s), in log(x) -------------------------------------------------------

    def _along_curves(self, x: NDArray[Any], d: NDArray[Any]) -> OptimizeResult:
        """Newton's method in a trust region, if straight lines are too short.

        ``A x`` is computed anew at each x. Every x is the best on its ray, so ``½ xᵀA x`` is the
        same for all, and ``-d·log(x)`` remains of the function. The k-vectors are x and the next x,
        A x, g, the inverse of H's diagonal, four of conjugate gradients, and d.
        """
        Ax = self._values_at(x)
        self._stretch(x, Ax, d)
        own = self._sums.diagonal / self._alpha
        radius, best, best_at = _RADIUS * float(np.sqrt(np.max(d))), np.inf, 0
        while True:
            r = x * Ax
            gradient = r - d
            residual = float(np.max(np.abs(gradient) / d))
            self._note(residual)
            if residual < 0.9 * best:
                best, best_at = residual, self._n_products
            stuck = self._n_products > best_at + (_PATIENCE if best < _ROUNDING else _INNER * 5)
            if self._interrupted(x):
                return self._result(x, ScalingStatus.CALLBACK)
            if residual <= self._tol or stuck or self._spent(2):
                return self._result(x, self._last(stuck=stuck))
            inverse = 1 / (x * (Ax + own * x))
            steepness = float(np.sum(gradient**2 * inverse))
            enough = max(
                min(_FORCING**2, steepness / float(np.sum(d))), (0.3 * self._tol / residual) ** 2
            )
            step = self._newton_step(x, r, gradient, inverse, enough, radius)
            there = x * np.exp(step.s)
            Ax_there = self._values_at(there)
            beta = self._stretch(there, Ax_there, d)
            gained = float(np.sum((d * (step.s + np.log(beta)))[self._kept]))
            self._nit += 1
            del r
            steepness_there = float(np.sum((there * Ax_there - d) ** 2 * inverse))
            # Near the end a difference of the function's values is mostly rounding, so the gradient
            # decides.
            near = step.predicted < 1e-10 * float(np.sum(d))
            better = steepness_there < steepness if near else gained > 0.1 * step.predicted
            if better and np.isfinite(steepness_there):
                x, Ax = there, Ax_there
                if not near and gained < 0.25 * step.predicted:
                    radius = 0.5 * step.length
                elif not step.solved:
                    radius = max(radius, 2 * step.length)
            else:
                radius = 0.25 * step.length
                if radius < _SHORTEST:
                    near = np.max(x) < 1e100 * np.min(x)
                    return self._result(
                        x, ScalingStatus.ROUNDING if near else ScalingStatus.OUT_OF_RANGE
                    )

    def _newton_step(
        self,
        x: NDArray[Any],
        r: NDArray[Any],
        gradient: NDArray[Any],
        inverse: NDArray[Any],
        enough: float,
        radius: float,
    ) -> Step:
        inner = x if self._kept.all() else np.where(self._kept, x, 0.0)

        def product(v: NDArray[Any]) -> tuple[NDArray[Any], float]:
            Hd = self._product(inner * v)
            return Hd, _kernels.cg_product(v, inner, Hd, r, 0.0, r)

        limit = min(_INNER, self._limit - self._n_products - 1)
        return steihaug(product, gradient, inverse, enough=enough, radius=radius, limit=limit)

    # --- whether a scaling exists -----------------------------------------------------------------

    def _left_to_do(self, window: int) -> float:
        """How many more products it takes, at the speed at which the best residual has fallen."""
        if len(self._history) <= window:
            return 0.0
        (before, _, then), (now, _, best) = self._history[-1 - window], self._history[-1]
        speed = np.log(then / best) / (now - before) if best > 0 else np.inf
        return float(np.log(best / max(self._tol, 1e-15)) / speed) if speed > 0 else np.inf

    def _examine(self, d: NDArray[Any]) -> _Verdict | None:
        """Find out whether A has support: status and reason if it has none, or not enough."""
        mode, self._support = self._support, "skip"
        if not self._may_examine(mode):
            return None
        found = examine(self._sums, self._kept, d)
        if found.rows.size or (found.unsupported and mode != "drop"):
            return self._unsupported(found)
        if found.unsupported:
            self._sums = self._whole.without(found.entries, found.diagonal)
            self._found = found
            self._limit -= 1  # for the residual of A itself
        return None

    def _may_examine(self, mode: str) -> bool:
        """Whether an examination is needed, and the memory for it is there."""
        if is_obvious(self._sums, self._kept):
            return False
        needed, available = bytes_needed(self._sums), machine.available_memory()
        if self._sums.memory is not None:
            available = self._sums.memory
        if available is None or needed <= available:
            return True
        if mode != "auto":
            hint = 'leave out support="check", "drop" or "drop_rows"'
            hint += "" if self._sums.memory is None else ", or pass more memory="
            _validation.fits("the examination of A's support", needed, hint, available)
        self._unexamined = (
            f"; A's support was not examined, which would take {_validation.human_bytes(needed)}"
        )
        return False

    def _unsupported(self, found: Support) -> _Verdict:
        self._found = found
        noun = self._noun
        if not found.rows.size:
            return ScalingStatus.NO_TOTAL_SUPPORT, (
                f"{entries_of(found)} on no positive diagonal, "
                "and in the limit would be zero; "
                f'support="drop_rows" leaves out {noun}s until the rest has a scaling, '
                '"drop" only those entries'
            )
        who = f"{noun} {first_of(found.rows)} has"
        if found.rows.size > 1:
            who = f"the {found.rows.size} {noun}s {first_of(found.rows)} have"
        if found.columns.size == 0:
            return (
                ScalingStatus.NO_SUPPORT,
                f"{who} no entries; min_nnz=1 leaves such {noun}s out",
            )
        which = "1 column, whose target is"
        if found.columns.size > 1:
            which = f"{found.columns.size} columns, whose targets are"
        rest = self._kept.copy()
        rest[found.rows] = False
        remains = np.any(self._sums.times(rest.astype(np.float64))[rest] > 0)
        hint = f"leaves such {noun}s out" if remains else f"would leave out every {noun}"
        return ScalingStatus.NO_SUPPORT, (
            f'{who} entries only in {which} less than theirs; support="drop_rows" {hint}'
        )
