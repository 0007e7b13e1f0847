"""The state of one scaling: the kept rows, the units, the count of products, the residuals."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from .. import _validation
from .._backends.row_products import RowProducts
from .._system.forks import computed_once
from .._system.progress import time_left
from .outlook import passes_left
from .scaling_units import LOWEST, NARROW, TOP, TRUSTED, shift
from .status import ScalingStatus
from .support import entries_in_words, first_rows, make_support

Examination = Literal["auto", "check", "drop", "drop_rows", "skip"]
IMPOSSIBLE = (ScalingStatus.NO_SUPPORT, ScalingStatus.NO_TOTAL_SUPPORT)
_NEED_NO_EXAMINATION = (ScalingStatus.ENTRIES_DROPPED, ScalingStatus.NOTHING_KEPT)
_FILTERS = {"no_entries": "without entries that count", "support": "without support"}


class ScalingState:
    """Holds which rows are kept, multiplies by A, and makes the result."""

    # what messages say of x
    _scales, _numbers = "x scales", "x or A x"

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
        self._tol, self._limit, self._max_products, self._noun = (
            tol,
            max_products,
            max_products,
            noun,
        )
        self._support, self._callback, self._bar = support, callback, bar
        self._nit = self._n_products = self._called_at = 0
        # (products, residual, the best residual so far)
        self._history: list[tuple[int, float, float]] = []
        self._residual = self._dropped = np.inf
        self._kept = np.ones(sums.shape[0], np.bool_)
        # how many rows each filter left out; a row counts for the first filter only
        self.left_out: dict[str, int] = {}
        self._words: dict[str, str] = {}
        # whether to leave out rows whose entries are all in columns that are left out
        self.leaves_out_empty_rows = support == "drop_rows"
        self._found = make_support()
        self._unexamined = ""
        self._alpha = self._delta = 1.0
        self._log_alpha = self._shift = 0
        self._windows = NARROW
        self._d: NDArray[Any] | None = None
        # whether all entries of some row underflow, in the units of alpha
        self._lost = False
        self._last: NDArray[Any] | None = None

    # --- the rows that are kept -------------------------------------------------------------------

    @property
    def last_x(self) -> NDArray[Any] | None:
        """The x of the last step, in the units of the user, and None before the first step."""
        if self._last is None:
            return None
        return np.where(self._kept, self._in_user_units(self._last), np.nan)

    def leave_out(self, name: str, rows: NDArray[np.bool_], words: str = "") -> None:
        """Leave out some rows. `words` name the filter in messages."""
        rows = rows & self._kept
        self.left_out[name] = self.left_out.get(name, 0) + int(np.count_nonzero(rows))
        self._words[name] = words or _FILTERS.get(name, f"by {name}")
        self._kept = self._kept & ~rows

    def leave_out_poor_rows(self, min_nnz: int, min_count: float) -> None:
        """Leave out rows with too few entries or too small a sum."""
        nonzeros = None
        if min_nnz > 0:
            self._count_product()
            nonzeros = self._sums.nonzeros()
            self.leaves_out_empty_rows = True
        poor = self._product(np.ones(self._kept.size)) < min_count if min_count > 0 else None
        if nonzeros is not None:
            self.leave_out("min_nnz", nonzeros < min_nnz, f"by min_nnz={min_nnz}")
        if poor is not None:
            self.leave_out("min_count", poor, f"by min_count={min_count:g}")

    def _degree(self) -> NDArray[Any]:
        """``A 1 / alpha`` over the rows that are kept.

        It is 0 exactly where a row has no entries. Where it would underflow, it is 1.
        """
        ones = self._kept.astype(np.float64)
        degree = self._product(ones)
        if self._alpha > 1 and np.any(self._kept & (degree == 0)):
            # Small entries may have underflowed.
            self._count_product()
            lost = (degree == 0) & (self._sums.times(ones) > 0)
            degree[lost] = 1.0
            self._lost = bool(lost.any())
        return degree

    def _targets(self, target: ArrayLike) -> tuple[NDArray[np.float64], bool]:
        """Divide the targets by a power of four, and tell whether that is exact.

        Rows that are left out have the target 1.
        """
        kept = self._kept
        d = _validation.positive("target", target, kept)
        if not kept.any():
            return d, True
        smallest, largest = float(np.min(d[kept])), float(np.max(d[kept]))
        self._delta = float(np.ldexp(1.0, shift(smallest, largest, self._windows[1])))
        self._shift = (int(np.log2(self._delta)) - self._log_alpha) // 2
        d /= self._delta
        d[~kept] = 1.0
        return d, smallest / self._delta >= np.ldexp(1.0, -LOWEST - 3)

    @computed_once
    def _left_out(self) -> Any:
        """An index of the rows that are left out. If there are none, it costs nothing."""
        return slice(0) if self._kept.all() else ~self._kept

    # --- products and residuals -------------------------------------------------------------------

    def _product(self, u: NDArray[Any]) -> NDArray[Any]:
        """``A u / alpha``.

        alpha is a power of two. It is 1 unless entries of A are so large or small that sums might
        overflow or underflow.
        """
        self._count_product()
        if self._alpha == 1:
            return self._sums.times(u)
        up = self._up(u)
        return np.ldexp(self._sums.times(np.ldexp(u, up)), -up - self._log_alpha)

    def _up(self, u: NDArray[Any]) -> int:
        """The exponent by which u is scaled, so that ``A u`` is in units of alpha and finite."""
        largest = float(np.max(np.abs(u), initial=0.0))
        if largest == np.inf:
            return -self._log_alpha
        return min(-self._log_alpha, TOP - int(np.frexp(largest)[1]))

    def _values_at(self, x: NDArray[Any]) -> NDArray[Any]:
        """Compute A x anew, with 1 in the rows that are left out."""
        Ax = self._product(np.where(self._kept, x, 0.0))
        Ax[self._left_out] = 1.0
        return Ax

    def _scale_to_best(self, x: NDArray[Any], Ax: NDArray[Any], d: NDArray[Any]) -> float:
        """Multiply x and A x by the number that makes x the best on its ray: ``xᵀA x = d·1``."""
        kept = self._kept
        beta = _ratio(d[kept], (x * Ax)[kept])
        x[kept] *= beta
        Ax[kept] *= beta
        return beta

    def _exceeds_limit(self, more: int) -> bool:
        """Whether `more` products would exceed the limit."""
        return self._n_products + more > self._limit

    def _record(self, residual: float) -> None:
        residual = residual if residual >= 0 else np.inf  # NaN means that x or A x overflowed
        self._residual = residual
        best = min(residual, self._history[-1][2]) if self._history else residual
        self._history.append((self._n_products, residual, best))

    def _record_equal_x(self, degree: NDArray[Any], d: NDArray[Any]) -> float:
        """Record the residual of the best x whose entries are equal, and return that entry."""
        kept = self._kept
        beta = _ratio(d[kept], degree[kept]) if degree.any() else 1.0
        self._record(float(np.max(np.abs(beta * degree * beta - d)[kept] / d[kept])))
        return beta

    def _record_again(self, x: NDArray[Any], d: NDArray[Any]) -> None:
        """Record the residual of x in place of the last one."""
        r = x * self._values_at(x)
        del self._history[-1:]
        self._record(float(np.max((np.abs(r - d) / d)[self._kept])))

    def _end_status(self, *, stuck: bool = False) -> ScalingStatus:
        """The status if the scaling ends with the last residual."""
        if self._residual <= self._tol:
            return ScalingStatus.CONVERGED
        return ScalingStatus.ROUNDING if stuck else ScalingStatus.MAX_PRODUCTS

    def _count_product(self) -> None:
        self._n_products += 1
        if self._bar is not None:
            self._bar.update()
            if self._history:
                left = passes_left(self._history, self._n_products, self._tol)
                if left is not None:
                    left = min(left, self._limit - self._n_products)
                self._bar.set_postfix(
                    residual=f"{self._residual:.1e}",
                    left=time_left(self._bar, left),
                    refresh=False,
                )

    def _interrupted(self, x: NDArray[Any]) -> bool:
        self._last = x
        if self._callback is None or self._nit == self._called_at:
            return False
        self._called_at = self._nit
        try:
            self._callback(self._state(x))
        except StopIteration:
            return True
        return False

    # --- the result -------------------------------------------------------------------------------

    def _in_user_units(self, x: NDArray[Any]) -> NDArray[Any]:
        """Convert x to the units of the user.

        The units differ by a power of two. So this is exact except near overflow and underflow,
        where x stays positive and finite.
        """
        with np.errstate(all="ignore"):
            moved = np.ldexp(np.where(x >= 0, x, 1.0), self._shift)  # NaN becomes 1
            return np.clip(moved, np.nextafter(0, 1), np.finfo(np.float64).max)

    def _state(self, x: NDArray[Any], **more: Any) -> OptimizeResult:
        return OptimizeResult(
            x=np.where(self._kept, self._in_user_units(x), np.nan),
            residual=self._residual,
            nit=self._nit,
            n_products=self._n_products,
            **more,
        )

    def _final_status(self, x: NDArray[Any], status: ScalingStatus) -> ScalingStatus:
        """The status of x in the user's units. This records its residual for the user's A."""
        kept, d = self._kept, self._d
        if d is None:
            return status
        with np.errstate(all="ignore"):
            back = np.ldexp(self._in_user_units(x), -self._shift)
            moved = not np.array_equal(back[kept], x[kept])
            if moved or status is ScalingStatus.OUT_OF_RANGE:
                self._record_again(back, d)
            self._dropped = self._residual
            if self._found.unsupported and status not in IMPOSSIBLE:
                self._sums = self._whole
                self._record_again(back, d)
            # Products of tiny numbers lose digits, and the residual is then meaningless.
            more = 0 if self._alpha == 1 else max(0, -self._up(back[kept]) - self._log_alpha)
            trusted = np.max(back[kept] / d[kept]) <= np.ldexp(TRUSTED / kept.size, -more)
            small = kept & (back < self._alpha * np.finfo(np.float64).tiny)
            if status is ScalingStatus.CONVERGED and small.any():
                # `lost` is an upper bound of the relative error by underflow.
                self._count_product()
                lost = np.ldexp(self._sums.times(small.astype(np.float64)), -1075) * back / d
                trusted &= float(np.max(lost[kept])) < 1e-16
        if status is not ScalingStatus.CONVERGED:
            return status
        if not (trusted and self._dropped <= self._tol):
            return ScalingStatus.OUT_OF_RANGE
        return ScalingStatus.ENTRIES_DROPPED if self._found.unsupported else ScalingStatus.CONVERGED

    def _result(
        self, x: NDArray[Any], status: ScalingStatus, why: str | None = None
    ) -> OptimizeResult:
        status = self._final_status(x, status)
        message = status.message(
            limit=self._max_products,
            residual=self._residual,
            tol=self._tol,
            dropped=self._dropped,
            noun=self._noun,
            scales=self._scales,
            numbers=self._numbers,
            why=why,
        )
        if why is None and status not in _NEED_NO_EXAMINATION:
            message += self._unexamined
        dropped = self._found.unsupported if status not in IMPOSSIBLE else 0
        (i, j), own = self._found.index_pairs, self._found.diagonal
        entries = np.stack([np.concatenate([i, own]), np.concatenate([j, own])], axis=1)
        if dropped:
            message += self._dropped_in_words(entries)
        if any(self.left_out.values()):
            message += self._left_out_in_words()
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

    def _dropped_in_words(self, entries: NDArray[Any]) -> str:
        rows = np.unique(entries)
        where = f"{self._noun}{'s' * (len(rows) > 1)} {first_rows(rows)}"
        return f"; {entries_in_words(self._found.unsupported)} dropped, in {where}"

    def _left_out_in_words(self) -> str:
        by = ", ".join(
            f"{count} {self._words[name]}" for name, count in self.left_out.items() if count
        )
        count, k = int(np.count_nonzero(~self._kept)), self._kept.size
        return f"; {count} of {k} {self._noun}s {'is' if count == 1 else 'are'} left out ({by})"


def _ratio(d: NDArray[Any], r: NDArray[Any]) -> float:
    """``√(d·1 / r·1)``, which multiplies x so that it is the best on its ray.

    The quotient of the roots overflows later than the root of the quotient.
    """
    return float(np.sqrt(np.sum(d)) / np.sqrt(np.sum(r)))
