"""Newton's method for ``x ∘ (A x) = d``, in k-vectors."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from .. import _kernels, _validation
from .._backends.row_products import RowProducts
from .._system import machine
from .._system.forks import computed_once
from .status import ScalingStatus
from .steihaug import steihaug
from .support import Support, bytes_needed, examine, is_obvious, supported_rows, without

Examination = Literal["auto", "check", "drop", "drop_rows", "skip"]
_REFRESH = 100  # products after which A x, which is carried along, is computed anew
_WINDOW = 40  # products over which the speed of convergence is measured
_PATIENCE = (
    200  # products that may be left to do, at that speed, before the support of A is examined
)
_LINE = 0.01  # the slope at the end of a line search, relative to that at its start
_LONG_WINDOW, _HOPELESS = 200, 2000  # the same, before steps along curves are tried
_RADIUS, _SHORTEST = (
    2.0,
    1e-14,
)  # of the trust region, in units of log(x): at first, and where rounding ends it
_FORCING = 0.1  # conjugate gradients stop when the residual of the linear system has fallen to this, or less near the end
_INNER = 1000  # steps of conjugate gradients in one of Newton's
_NARROW, _WIDE = (
    (300, 100),
    (960, 960),
)  # binary digits before the point, or behind it, beyond which A, and targets, are scaled
_LOWEST, _HIGHEST = (
    1014,
    1002,
)  # the same, where numbers are so far apart that they do not fit in between
_SHRUNK = (
    1e-6  # how far A x may have shrunk before it is computed anew: its errors have grown by as much
)
_SMALLEST = 1e-305  # an x below which its products lose their digits
_TOP = 1000  # the exponent of the largest number that is multiplied by A
# x/d, times the number of rows, up to which what is lost at the small end of the range does not count
_TRUSTED = 2.0**1014
_ROUNDING = 1e-11  # a residual below which none better in `_PATIENCE` products is the end
_IMPOSSIBLE = (ScalingStatus.NO_SUPPORT, ScalingStatus.NO_TOTAL_SUPPORT)
_COMPLETE = (
    ScalingStatus.CONVERGED,
    ScalingStatus.ENTRIES_DROPPED,
    ScalingStatus.NOTHING_KEPT,
)
_Verdict = tuple[ScalingStatus, str | None]  # and why, where no scaling exists
_FILTERS = {"no_entries": "without entries that count", "support": "without support"}


class Scaling:
    """One scaling under way."""

    def __init__(
        self,
        sums: RowProducts,
        tol: float,
        max_products: int,
        support: Examination,
        callback: Any,
        bar: Any,
        noun: str = "row",
    ) -> None:
        self._sums = self._whole = sums
        self._tol, self._limit, self._most, self._noun = tol, max_products, max_products, noun
        self._support, self._callback, self._bar = support, callback, bar
        self._nit = self._n_products = 0
        self._history: list[
            tuple[int, float, float]
        ] = []  # products, residual, and the best so far
        self._residual = self._dropped = np.inf
        self._kept = np.ones(sums.shape[0], np.bool_)
        self.left_out: dict[
            str, int
        ] = {}  # how many rows went by each filter, a row by the first of them that it met
        self._words: dict[str, str] = {}
        # rows whose entries are all with rows that are left out
        self.leave_lonely_out = support == "drop_rows"
        self._found = without()
        self._unexamined = ""
        self._alpha = self._delta = 1.0
        self._log_alpha = self._shift = 0
        self._windows = _NARROW
        self._d: NDArray[Any] | None = None
        self._called_at = 0
        self._lost = (
            False  # whether rows have entries that are too small beside the largest to count
        )

    @property
    def kept(self) -> NDArray[np.bool_]:
        return self._kept

    def leave_out(self, name: str, rows: NDArray[np.bool_], words: str = "") -> None:
        """Leave these rows out by the filter of this name, of which messages speak in these words."""
        rows = rows & self._kept
        self.left_out[name] = self.left_out.get(name, 0) + int(np.count_nonzero(rows))
        self._words[name] = words or _FILTERS.get(name, f"by {name}")
        self._kept = self._kept & ~rows

    def leave_poor_out(self, min_nnz: int, min_count: float) -> None:
        """Rows with too few entries, or too little in them."""
        nonzeros = None
        if min_nnz > 0:
            self._tick()
            nonzeros = self._sums.nonzeros()
            self.leave_lonely_out = True
        poor = self._product(np.ones(self._kept.size)) < min_count if min_count > 0 else None
        if nonzeros is not None:
            self.leave_out("min_nnz", nonzeros < min_nnz, f"by min_nnz={min_nnz}")
        if poor is not None:
            self.leave_out("min_count", poor, f"by min_count={min_count:g}")

    def run(self, target: ArrayLike, x0: ArrayLike | None) -> OptimizeResult:
        """Scale, or say why not. What leaves the range of numbers in units in which A and the targets are near 1 is tried once more, as near as it can be to theirs."""
        before = dict(self.__dict__, left_out=dict(self.left_out), _history=[])
        result = self._run(target, x0)
        units = self._log_alpha, self._delta
        if result.status != ScalingStatus.OUT_OF_RANGE or units == (0, 1.0):
            return result
        counted = {name: self.__dict__[name] for name in ("_n_products", "_nit", "_called_at")}
        self.__dict__.update(before | counted | {"_windows": _WIDE})
        again = self._run(target, x0)
        return result if again.status == ScalingStatus.MAX_PRODUCTS and self._spent(0) else again

    def _run(self, target: ArrayLike, x0: ArrayLike | None) -> OptimizeResult:
        nobody = np.zeros(self._kept.size, np.bool_)
        for name, value in (("target", target), ("x0", x0)):
            if value is not None:  # of the right kind, before anything is done
                _validation.positive(name, value, nobody)
        largest = self._sums.check_nonnegative()
        self._log_alpha = _shift(largest, largest, self._windows[0])
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
            lonely = np.flatnonzero(kept & (degree == 0))
            beta = self._note_of_ones(degree, d)
            verdict: _Verdict | None = None
            if lonely.size:
                verdict = self._unsupported(without(lonely))
            elif self._lost or not exact:
                verdict = ScalingStatus.OUT_OF_RANGE, None
            if verdict is None and self._support in ("check", "drop"):
                verdict = self._examine(d)
                if verdict is None and self._found.unsupported:  # and left out
                    if self._spent(1):
                        self._sums, self._found, verdict = (
                            self._whole,
                            without(),
                            (ScalingStatus.MAX_PRODUCTS, None),
                        )
                    else:
                        degree = self._degree()
                        beta = self._note_of_ones(degree, d)
            if verdict is None and self._spent(1):
                verdict = self._last(), None
            if verdict is not None:
                return self._result(np.full(d.size, beta), *verdict)
            x = np.sqrt(d) / np.sqrt(degree) if start is None else _tamed(start, kept)
            del start, degree, lonely
            x[~kept] = 1.0
            return self._along_lines(x, d) or self._along_curves(x, d)

    def _degree(self) -> NDArray[Any]:
        """``A 1 / alpha`` over the rows that are kept; 0 where, and only where, a row has no entries; 1 where it is lost."""
        ones = self._kept.astype(np.float64)
        degree = self._product(ones)
        if self._alpha > 1 and np.any(
            self._kept & (degree == 0)
        ):  # of small entries nothing may be left
            self._tick()
            lost = (degree == 0) & (self._sums.times(ones) > 0)
            degree[lost] = 1.0
            self._lost = bool(lost.any())
        return degree

    def _targets(self, target: ArrayLike) -> tuple[NDArray[np.float64], bool]:
        """Targets, divided by a power of four, 1 in the rows that are left out; and whether that is exact."""
        kept = self._kept
        d = _validation.positive("target", target, kept)
        if not kept.any():
            return d, True
        smallest, largest = float(np.min(d[kept])), float(np.max(d[kept]))
        self._delta = float(np.ldexp(1.0, _shift(smallest, largest, self._windows[1])))
        self._shift = (int(np.log2(self._delta)) - self._log_alpha) // 2
        d /= self._delta
        d[~kept] = 1.0
        return d, smallest / self._delta >= np.ldexp(1.0, -_LOWEST - 3)

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

    def _note_of_ones(self, degree: NDArray[Any], d: NDArray[Any]) -> float:
        """Note the residual of equal x, the best on their ray: that x."""
        kept = self._kept
        beta = _ratio(d[kept], degree[kept]) if degree.any() else 1.0
        self._note(float(np.max(np.abs(beta * degree * beta - d)[kept] / d[kept])))
        return beta

    @computed_once
    def _left_out(self) -> Any:
        """An index of the rows that are left out: of nothing, at no cost, if none is."""
        return slice(0) if self._kept.all() else ~self._kept

    def _values_at(self, x: NDArray[Any]) -> NDArray[Any]:
        """A x, computed anew, and 1 in the rows that are left out."""
        Ax = self._product(np.where(self._kept, x, 0.0))
        Ax[self._left_out] = 1.0
        return Ax

    def _stretch(self, x: NDArray[Any], Ax: NDArray[Any], d: NDArray[Any]) -> float:
        """Multiply x, and A x, by what makes it the best on its ray: ``xᵀA x = d·1``."""
        kept = self._kept
        beta = _ratio(d[kept], (x * Ax)[kept])
        x[kept] *= beta
        Ax[kept] *= beta
        return beta

    def _last(self, *, stuck: bool = False) -> ScalingStatus:
        """The status of an end at the residual that was noted last."""
        if self._residual <= self._tol:
            return ScalingStatus.CONVERGED
        return ScalingStatus.ROUNDING if stuck else ScalingStatus.MAX_PRODUCTS

    def _spent(self, more: int) -> bool:
        """Whether so many products more would be too many."""
        return self._n_products + more > self._limit

    # --- along straight lines, one product a step ---------------------------------------------------------------------

    def _along_lines(self, x: NDArray[Any], d: NDArray[Any]) -> OptimizeResult | None:
        """Nonlinear conjugate gradients; None, with x where they have come to, if it would take them too long.

        Of k-vectors there are x and the last x, A x, q, A q, s, z, the errors, and d.
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

        With ``s = q/x`` its derivative is ``g·s + t (qᵀA q + d·(s²/(1 + t s)))``: in this form nothing cancels near t = 0. It is negative at 0, and
        grows beyond all bounds where x + t q stops being positive. Before that, t ends where an x falls to a thousandth: closer to
        zero, rounding would decide on its sign.
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

    # --- along curves x∘exp(t s), in log(x) ---------------------------------------------------------------------------

    def _along_curves(self, x: NDArray[Any], d: NDArray[Any]) -> OptimizeResult:
        """Newton's method in a trust region, for where straight lines are too short: ``A x`` is computed anew at each x.

        Every x is the best on its ray, so ``½ xᵀA x`` is the same for all, and of the function there remains ``-d·log(x)``. Of k-vectors
        there are x and the next x, A x, g, the inverse of H's diagonal, four of conjugate gradients, and d.
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
            inner = x if self._kept.all() else np.where(self._kept, x, 0.0)

            def product(
                v: NDArray[Any], x: NDArray[Any] = inner, r: NDArray[Any] = r
            ) -> tuple[NDArray[Any], float]:
                Hd = self._product(x * v)
                return Hd, _kernels.cg_product(v, x, Hd, r, 0.0, r)

            step = steihaug(
                product,
                gradient,
                inverse,
                enough=max(
                    min(_FORCING**2, steepness / float(np.sum(d))),
                    (0.3 * self._tol / residual) ** 2,
                ),
                radius=radius,
                limit=min(_INNER, self._limit - self._n_products - 1),
            )
            there = x * np.exp(step.s)
            Ax_there = self._values_at(there)
            beta = self._stretch(there, Ax_there, d)
            gained = float(np.sum((d * (step.s + np.log(beta)))[self._kept]))
            self._nit += 1
            del r, product, inner
            steepness_there = float(np.sum((there * Ax_there - d) ** 2 * inverse))
            # A difference of the function's values is mostly rounding near its end, and the gradient decides.
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

    # --- whether there is a scaling -----------------------------------------------------------------------------------

    def _left_to_do(self, window: int) -> float:
        """How many products more it takes, at the speed at which the best residual fell in the last ones."""
        if len(self._history) <= window:
            return 0.0
        (before, _, then), (now, _, best) = self._history[-1 - window], self._history[-1]
        speed = np.log(then / best) / (now - before) if best > 0 else np.inf
        return float(np.log(best / max(self._tol, 1e-15)) / speed) if speed > 0 else np.inf

    def _examine(self, d: NDArray[Any]) -> _Verdict | None:
        """Find out whether A has support: status and message if it has none, or not all that it needs."""
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
        """Whether there is a need for it, and the memory."""
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
                f"{_entries(found)} on no positive diagonal, and in the limit would be zero; "
                f'support="drop_rows" leaves out {noun}s until the rest has a scaling, "drop" only those entries'
            )
        who = f"{noun} {_first(found.rows)} has"
        if found.rows.size > 1:
            who = f"the {found.rows.size} {noun}s {_first(found.rows)} have"
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

    # --- what others see ----------------------------------------------------------------------------------------------

    def _product(self, u: NDArray[Any]) -> NDArray[Any]:
        """``A u / alpha``: a power of two, and 1 unless entries of A are so large or small that sums might leave the range of numbers."""
        self._tick()
        if self._alpha == 1:
            return self._sums.times(u)
        up = self._up(u)
        return np.ldexp(self._sums.times(np.ldexp(u, up)), -up - self._log_alpha)

    def _up(self, u: NDArray[Any]) -> int:
        """The power of two by which u is multiplied, so that ``A u`` is in the units of alpha, and u in the range."""
        largest = float(np.max(np.abs(u), initial=0.0))
        return (
            min(-self._log_alpha, _TOP - int(np.frexp(largest)[1]))
            if largest < np.inf
            else -self._log_alpha
        )

    def _interrupted(self, x: NDArray[Any]) -> bool:
        if self._callback is None or self._nit == self._called_at:
            return False
        self._called_at = self._nit
        try:
            self._callback(self._state(x))
        except StopIteration:
            return True
        return False

    def _tick(self) -> None:
        self._n_products += 1
        if self._bar is not None:
            self._bar.update()
            if self._history:
                self._bar.set_postfix(residual=f"{self._residual:.1e}", refresh=False)

    def _note(self, residual: float) -> None:
        residual = residual if residual >= 0 else np.inf  # NaN, where x or A x has left the range
        self._residual = residual
        best = min(residual, self._history[-1][2]) if self._history else residual
        self._history.append((self._n_products, residual, best))

    def _returned(self, x: NDArray[Any]) -> NDArray[Any]:
        """The x that the user gets, in the units of the user: a power of two away, which is exact but at the ends of the range, where x stays positive and finite."""
        with np.errstate(all="ignore"):
            moved = np.ldexp(np.where(x >= 0, x, 1.0), self._shift)  # NaN has no units
            return np.clip(moved, np.nextafter(0, 1), np.finfo(np.float64).max)

    def _state(self, x: NDArray[Any], **more: Any) -> OptimizeResult:
        return OptimizeResult(
            x=np.where(self._kept, self._returned(x), np.nan),
            residual=self._residual,
            nit=self._nit,
            n_products=self._n_products,
            **more,
        )

    def _checked(self, x: NDArray[Any], status: ScalingStatus) -> ScalingStatus:
        """The status of x as it is returned. Its residual is that of the user's A, and is noted."""
        kept, d = self._kept, self._d
        if d is None:
            return status
        with np.errstate(all="ignore"):
            back = np.ldexp(self._returned(x), -self._shift)
            moved = not np.array_equal(back[kept], x[kept])
            if moved or (status is ScalingStatus.OUT_OF_RANGE and not self._spent(1)):
                self._note_anew(back, d)
            self._dropped = self._residual
            if self._found.unsupported and status not in _IMPOSSIBLE:
                self._sums = self._whole
                self._note_anew(back, d)
            # Products of numbers near the small end of the range lose digits, and the residual says nothing.
            more = 0 if self._alpha == 1 else max(0, -self._up(back[kept]) - self._log_alpha)
            trusted = np.max(back[kept] / d[kept]) <= np.ldexp(_TRUSTED / kept.size, -more)
            small = kept & (back < self._alpha * np.finfo(np.float64).tiny)
            if (
                status is ScalingStatus.CONVERGED and small.any()
            ):  # what they lose by the division is at most this
                self._tick()
                lost = np.ldexp(self._sums.times(small.astype(np.float64)), -1075) * back / d
                trusted &= float(np.max(lost[kept])) < 1e-16
        if status is not ScalingStatus.CONVERGED:
            return status
        if not (trusted and self._dropped <= self._tol):
            return ScalingStatus.OUT_OF_RANGE
        return ScalingStatus.ENTRIES_DROPPED if self._found.unsupported else ScalingStatus.CONVERGED

    def _note_anew(self, x: NDArray[Any], d: NDArray[Any]) -> None:
        """Note the residual of x instead of the last one."""
        r = x * self._values_at(x)
        del self._history[-1:]
        self._note(float(np.max((np.abs(r - d) / d)[self._kept])))

    def _result(
        self, x: NDArray[Any], status: ScalingStatus, why: str | None = None
    ) -> OptimizeResult:
        status = self._checked(x, status)
        message = status.message(
            limit=self._most,
            residual=self._residual,
            tol=self._tol,
            dropped=self._dropped,
            noun=self._noun,
            why=why,
        )
        if why is None and status not in _COMPLETE:
            message += self._unexamined
        dropped = self._found.unsupported if status not in _IMPOSSIBLE else 0
        (i, j), own = self._found.places, self._found.diagonal
        entries = np.stack([np.concatenate([i, own]), np.concatenate([j, own])], axis=1)
        rows = np.unique(entries)
        if dropped:
            message += f"; {_entries(self._found)} dropped, in {self._noun}{'s' * (len(rows) > 1)} {_first(rows)}"
        if any(self.left_out.values()):
            by = ", ".join(
                f"{count} {self._words[name]}" for name, count in self.left_out.items() if count
            )
            count, k = int(np.count_nonzero(~self._kept)), self._kept.size
            message += (
                f"; {count} of {k} {self._noun}s {'is' if count == 1 else 'are'} left out ({by})"
            )
        return self._state(
            x,
            kept=self._kept,
            # SciPy cannot print a result with an empty dict in it.
            left_out=dict(self.left_out) or dict.fromkeys(_FILTERS, 0),
            history=np.array(self._history).reshape(-1, 3)[:, :2],
            residual_after_dropping=self._dropped if dropped else self._residual,
            unsupported_rows=self._found.rows,
            unsupported_entries=entries,
            status=status,
            success=status is ScalingStatus.CONVERGED,
            message=message,
        )


def _entries(found: Support) -> str:
    count = found.unsupported
    return "1 of its entries is" if count == 1 else f"{count} of its entries are"


def _first(rows: NDArray[Any]) -> str:
    return ", ".join(map(str, rows[:3])) + (", …" if rows.size > 3 else "")


def _shift(smallest: float, largest: float, within: int) -> int:
    """0; for numbers nearer to an end of the range than that, the even power of two that takes them away from there."""
    lowest, highest = int(np.frexp(smallest)[1]), int(np.frexp(largest)[1])
    below, above = (within, within) if highest - lowest <= 2 * within else (_LOWEST, _HIGHEST)
    low, high = lowest + below, highest - above
    nearest = high if high > low else min(max(0, high), low)
    return nearest + (nearest % 2 if nearest > 0 else -(nearest % 2))


def _ratio(d: NDArray[Any], r: NDArray[Any]) -> float:
    """What x is multiplied by to be the best on its ray: the root of ``d·1 / r·1``, as a quotient of roots, which overflows later."""
    return float(np.sqrt(np.sum(d)) / np.sqrt(np.sum(r)))


def _tamed(start: NDArray[Any], kept: NDArray[np.bool_]) -> NDArray[Any]:
    """A start whose numbers, on their ray, are not so far apart that products of them leave the range."""
    middle = np.sqrt(np.min(start[kept])) * np.sqrt(np.max(start[kept]))
    return np.clip(start / middle, 1e-100, 1e100)
