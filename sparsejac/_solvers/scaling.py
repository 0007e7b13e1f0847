"""The solver of ``x ∘ (A x) = d``, which works with k-vectors only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from .. import _kernels, _validation
from .._system import machine
from .scaling_state import ScalingState
from .scaling_units import WIDE, clipped_start, shift
from .status import ScalingStatus
from .steihaug import Step, steihaug
from .support import (
    Support,
    bytes_needed,
    entries_in_words,
    examine,
    first_rows,
    has_positive_diagonal,
    make_support,
    supported_rows,
)

Verdict = tuple[ScalingStatus, str | None]  # the status, and the reason if no scaling exists
_REFRESH = 100  # A x is updated in each step, and computed anew after this many products
_SHRUNK = 1e-6  # A x is also computed anew if it has shrunk by this: its errors have grown
_WINDOW = 40  # products over which the speed of convergence is measured
# If more products than this remain, at that speed, the support of A is examined.
_PATIENCE = 200
# If more products than the second number remain, at the speed over a window of the first number,
# steps go along curves.
_LONG_WINDOW, _HOPELESS = 200, 2000
_LINE = 0.01  # the slope at the end of a line search, relative to that at its start
# The first and the least radius of the trust region, in units of log(x).
_RADIUS, _SHORTEST = 2.0, 1e-14
# Conjugate gradients reduce the residual of the linear system by this factor, or more near the end.
_FORCING = 0.1
_INNER = 1000  # the largest number of conjugate gradient steps in one Newton step
_SMALLEST = 1e-305  # products of a smaller x lose their digits
# The scaling ends if its residual is below this, and has not fallen in `_PATIENCE` products.
_ROUNDING = 1e-11


class Scaling(ScalingState):
    """Runs one scaling."""

    def run(self, target: ArrayLike, x0: ArrayLike | None) -> OptimizeResult:
        """Scale A, or say why that is not possible.

        The units are chosen so that A and the targets are near 1. If x overflows or underflows in
        these units, the scaling is tried once more, in units as near as possible to the user's.
        """
        before = dict(self.__dict__, left_out=dict(self.left_out), _history=[])
        result = self._run(target, x0)
        units = self._log_alpha, self._delta
        if result.status != ScalingStatus.OUT_OF_RANGE or units == (0, 1.0):
            return result
        counted = {name: self.__dict__[name] for name in ("_n_products", "_nit", "_called_at")}
        self.__dict__.update(before | counted | {"_windows": WIDE})
        again = self._run(target, x0)
        return (
            result
            if again.status == ScalingStatus.MAX_PRODUCTS and self._exceeds_limit(0)
            else again
        )

    def _run(self, target: ArrayLike, x0: ArrayLike | None) -> OptimizeResult:
        none_kept = np.zeros(self._kept.size, np.bool_)
        for name, value in (("target", target), ("x0", x0)):
            if value is not None:  # refuse a wrong kind before any work is done
                _validation.positive(name, value, none_kept)
        largest = self._sums.check_nonnegative()
        self._log_alpha = shift(largest, largest, self._windows[0])
        self._alpha = float(np.ldexp(1.0, self._log_alpha))
        with np.errstate(all="ignore"):  # as in the kernels
            if self._support == "drop_rows":
                self._drop_rows(target)
            degree = self._degree()
            while self.leaves_out_empty_rows and np.any(empty := self._kept & (degree == 0)):
                self.leave_out("no_entries", empty)
                degree = self._degree()
            kept = self._kept
            d, exact = self._targets(target)
            start = None if x0 is None else _validation.positive("x0", x0, kept)
            if not kept.any():
                return self._nothing_kept()
            self._d = d
            if self._shift:
                # These products are for the residual of x in the user's units.
                self._limit -= 2 if self._alpha > 1 else 1
            beta = self._record_equal_x(degree, d)
            verdict = self._verdict_at_start(degree, d, exact=exact)
            if verdict is None and self._found.unsupported:  # some entries were dropped
                degree = self._degree()
                beta = self._record_equal_x(degree, d)
            if verdict is None and self._exceeds_limit(1):
                verdict = self._end_status(), None
            if verdict is not None:
                return self._result(np.full(d.size, beta), *verdict)
            x = np.sqrt(d) / np.sqrt(degree) if start is None else clipped_start(start, kept)
            del start, degree
            x[~kept] = 1.0
            return self._along_lines(x, d) or self._along_curves(x, d)

    def _verdict_at_start(
        self, degree: NDArray[Any], d: NDArray[Any], *, exact: bool
    ) -> Verdict | None:
        """The status if the scaling ends before its first step; None if it does not."""
        empty = np.flatnonzero(self._kept & (degree == 0))
        if empty.size:
            return self._unsupported(make_support(empty))
        if self._lost or not exact:
            return ScalingStatus.OUT_OF_RANGE, None
        if self._support not in ("check", "drop"):
            return None
        verdict = self._examine(d)
        if verdict is None and self._found.unsupported and self._exceeds_limit(1):
            self._sums, self._found = self._whole, make_support()
            verdict = ScalingStatus.MAX_PRODUCTS, None
        return verdict

    def _drop_rows(self, target: ArrayLike) -> None:
        """Leave out rows without support."""
        d, exact = self._targets(target)
        before = self._kept
        if exact and before.any() and self._may_examine("drop_rows"):
            self.leave_out("support", before & ~supported_rows(self._sums, before, d))
            self._found = make_support(np.flatnonzero(before & ~self._kept))
        self._support = "skip"

    def _nothing_kept(self) -> OptimizeResult:
        x = np.zeros(self._kept.size)
        if x.size:
            return self._result(x, ScalingStatus.NOTHING_KEPT)
        self._record(0.0)
        return self._result(x, ScalingStatus.CONVERGED)

    # --- along straight lines, one product a step -------------------------------------------------

    def _along_lines(self, x: NDArray[Any], d: NDArray[Any]) -> OptimizeResult | None:
        """Scale by nonlinear conjugate gradients.

        If they take too long, the result is None, and x holds the last point. The k-vectors are x
        and the last x, A x, q, A q, s, z, the errors, and d.
        """
        Ax = self._values_at(x)
        self._scale_to_best(x, Ax, d)
        own = self._sums.diagonal / self._alpha
        q, Aq, s, z, error = (np.zeros(x.size) for _ in range(5))
        t, fresh, best, best_at, before, shrunk = 0.0, True, np.inf, 0, x.copy(), 1.0
        while True:
            above, below = _kernels.scaling_step(t, x, Ax, q, Aq, s, z, error, d, own)
            residual = float(np.max(error))
            if not (np.isfinite(residual + above + below) and np.min(x) > _SMALLEST):
                return self._result(before, ScalingStatus.OUT_OF_RANGE)
            self._record(residual)
            if residual < best:
                best, best_at = residual, self._n_products
            stuck = best < _ROUNDING and self._n_products > best_at + _PATIENCE
            due = shrunk < _SHRUNK or self._n_products % _REFRESH == 0
            if not fresh and (residual <= self._tol or stuck or self._exceeds_limit(2) or due):
                self._history.pop()  # the next residual is of the same x
                Ax, t, fresh, shrunk = self._values_at(x), 0.0, True, 1.0
                continue
            if self._interrupted(x):
                return self._result(x, ScalingStatus.CALLBACK)
            if residual <= self._tol or stuck or self._exceeds_limit(2):
                return self._result(x, self._end_status(stuck=stuck))
            if self._support == "auto" and self._products_left(_WINDOW) > _PATIENCE:
                verdict = self._examine(d)
                if verdict is not None:
                    return self._result(x, *verdict)
            if self._products_left(_LONG_WINDOW) > _HOPELESS:
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
        """Find the t for which ``½ (x + t q)ᵀA (x + t q) - d·log(x + t q)`` is least.

        With ``s = q/x`` the derivative is ``g·s + t (qᵀA q + d·(s²/(1 + t s)))``. In this form
        nothing cancels near t = 0. The derivative is negative at 0, and tends to infinity as an
        entry of x + t q tends to zero. t is bounded so that no x_i falls below a thousandth of
        itself: closer to zero, rounding would decide its sign.
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
        """Scale by Newton's method in a trust region, if straight lines are too short.

        ``A x`` is computed anew at each x. Every x is the best on its ray, so ``½ xᵀA x`` is the
        same for all, and only ``-d·log(x)`` of the function changes. The k-vectors are x and the
        next x, A x, g, the inverse of H's diagonal, four of conjugate gradients, and d.
        """
        Ax = self._values_at(x)
        self._scale_to_best(x, Ax, d)
        own = self._sums.diagonal / self._alpha
        radius, best, best_at = _RADIUS * float(np.sqrt(np.max(d))), np.inf, 0
        while True:
            r = x * Ax
            gradient = r - d
            residual = float(np.max(np.abs(gradient) / d))
            self._record(residual)
            if residual < 0.9 * best:
                best, best_at = residual, self._n_products
            stuck = self._n_products > best_at + (_PATIENCE if best < _ROUNDING else _INNER * 5)
            if self._interrupted(x):
                return self._result(x, ScalingStatus.CALLBACK)
            if residual <= self._tol or stuck or self._exceeds_limit(2):
                return self._result(x, self._end_status(stuck=stuck))
            inverse = 1 / (x * (Ax + own * x))
            steepness = float(np.sum(gradient**2 * inverse))
            enough = max(
                min(_FORCING**2, steepness / float(np.sum(d))), (0.3 * self._tol / residual) ** 2
            )
            step = self._newton_step(x, r, gradient, inverse, enough, radius)
            there = x * np.exp(step.s)
            Ax_there = self._values_at(there)
            beta = self._scale_to_best(there, Ax_there, d)
            gained = float(np.sum((d * (step.s + np.log(beta)))[self._kept]))
            self._nit += 1
            del r
            steepness_there = float(np.sum((there * Ax_there - d) ** 2 * inverse))
            # Near the end, a difference of the function's values is mostly rounding, so the
            # gradient decides.
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

    def _products_left(self, window: int) -> float:
        """Estimate how many products remain, from the speed at which the best residual falls."""
        if len(self._history) <= window:
            return 0.0
        (before, _, then), (now, _, best) = self._history[-1 - window], self._history[-1]
        speed = np.log(then / best) / (now - before) if best > 0 else np.inf
        return float(np.log(best / max(self._tol, 1e-15)) / speed) if speed > 0 else np.inf

    def _examine(self, d: NDArray[Any]) -> Verdict | None:
        """Find out whether A has support. The result is None if a scaling exists."""
        mode, self._support = self._support, "skip"
        if not self._may_examine(mode):
            return None
        found = examine(self._sums, self._kept, self._examined_targets(d))
        if found.rows.size or (found.unsupported and mode != "drop"):
            return self._unsupported(found)
        if found.unsupported:
            self._sums = self._whole.without(found.entries, found.diagonal)
            self._found = found
            self._limit -= 1  # for the residual of A itself
        return None

    def _examined_targets(self, d: NDArray[Any]) -> NDArray[Any]:
        """The targets, or numbers in their proportions for which the verdict is exact."""
        return d

    def _may_examine(self, mode: str) -> bool:
        """Whether an examination is needed and fits into memory."""
        if has_positive_diagonal(self._sums, self._kept):
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

    def _unsupported(self, found: Support) -> Verdict:
        self._found = found
        noun = self._noun
        if not found.rows.size:
            return ScalingStatus.NO_TOTAL_SUPPORT, (
                f"{entries_in_words(found.unsupported)} on no positive diagonal, "
                "and in the limit would be zero; "
                f'support="drop_rows" leaves out {noun}s until the rest has a scaling, '
                '"drop" only those entries'
            )
        who = f"{noun} {first_rows(found.rows)} has"
        if found.rows.size > 1:
            who = f"the {found.rows.size} {noun}s {first_rows(found.rows)} have"
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
