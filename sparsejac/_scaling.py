"""`symmetric_scaling`: x > 0 with ``x ∘ (A x) = d``, by preconditioned nonlinear conjugate gradients in log(x)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from . import _checks, _machine, _progress, _support
from ._checks import Pairs, Uplo
from ._rowsums import RowSums

Examination = Literal["auto", "check", "drop", "skip"]

_REFRESH = 100  # products after which A x, which is carried along, is computed anew
_WINDOW = 40  # products over which the speed of convergence is measured
_PATIENCE = 200  # products that may be left to do, at that speed, before the support of A is examined
_LINE = 0.01  # the slope at the end of a line search, relative to that at its start
_ROUNDING = 1e-11  # a residual below which none better in `_PATIENCE` products is the end

_MESSAGES = {
    0: "max_products = {limit} was reached: the residual is {residual:.2g}, tol is {tol:.2g}",
    1: "converged: the residual {residual:.2g} is at most tol, {tol:.2g}",
    2: "rounding prevents further progress: the residual is {residual:.2g}, tol is {tol:.2g}",
    3: "x or A x leaves the range of numbers: the residual was {residual:.2g}, tol is {tol:.2g}",
    99: "stopped by the callback",
}


def symmetric_scaling(
    A: Any,
    target: ArrayLike = 1.0,
    *,
    x0: ArrayLike | None = None,
    tol: float = 1e-8,
    mask: ArrayLike | None = None,
    min_nnz: int = 0,
    min_count: float = 0.0,
    support: Examination = "auto",
    max_products: int = 20_000,
    uplo: Uplo | None = None,
    ignore_diags: int = 0,
    groups: Sequence[Any] | NDArray[Any] | None = None,
    pairs: Pairs = "all",
    callback: Callable[[OptimizeResult], object] | None = None,
    progress: bool = False,
    check_finite: bool = True,
    workers: int | None = None,
) -> OptimizeResult:
    """Find x > 0 with ``x ∘ (A x) = target``: scale a symmetric matrix, ``Diag(x) A Diag(x)``, to given row sums.

    Parameters
    ----------
    A : array_like or SciPy sparse array or matrix, shape (k, k)
        Symmetric, without negative entries; as for `RowSums`: referenced, in any dtype.
    target : float or array_like, shape (k,), default 1.0
        The row sums, positive.
    x0 : array_like, shape (k,), optional
        Where to start, positive (NaN where a row is left out: a result may be the next start). Default: 1/sqrt(A 1), scaled.
    tol : float, default 1e-08
        Converged is what has a `residual` of at most this.
    mask : array_like of bool, shape (k,), optional
        Rows, and their columns, to leave out: True where that is so.
    min_nnz : int, default 0
        Leave out rows with fewer entries than this that are not zero, counted before any is left out; if it is at least 1, also rows that are left
        with none when others have gone.
    min_count : float, default 0.0
        Leave out rows whose sum is less than this, before any is left out.
    support : {"auto", "check", "drop", "skip"}, default "auto"
        When to find out whether a scaling exists: if convergence is slow; at the start; at the start, and leave out the entries that no scaling
        can keep; never.
    max_products : int, default 20000
        Passes over A at most.
    uplo : {"U", "L"}, optional
        A holds its upper (lower) triangle only: see `RowSums`, as for the next three.
    ignore_diags : int, default 0
        Leave out the entries with ``|i - j| < ignore_diags``.
    groups : sequence of labels, shape (k,), optional
        The group of each row, such as its chromosome; the rows of a group must be neighbours.
    pairs : {"all", "within", "between"}, default "all"
        Which entries count: all of them, those of two rows of one group (each group is then scaled by itself), or of two groups.
    callback : callable, optional
        Called after each step with an `OptimizeResult` of ``x, residual, nit, n_products``. It may raise StopIteration to stop.
    progress : bool, default False
        Show a bar of the passes over A, with the residual.
    check_finite : bool, default True
        Refuse NaN and infinity in A.
    workers : int, optional
        As for `JacobianBuilder`.

    Returns
    -------
    result : scipy.optimize.OptimizeResult
        ``x`` (float64), NaN in the rows that are left out, and ``kept``, which says where it is not; ``residual``, which is
        ``max |x ∘ (A x) - target| / target``; ``nit`` steps; ``n_products`` passes over A, all that there were; ``history``, the residual after each
        product with A; ``unsupported_rows`` and ``unsupported_entries`` (an array of (i, j), one side of the diagonal); ``success``, ``message`` and
        ``status``: 1 converged; 0 max_products was reached; 2 rounding prevents progress; 3 x leaves the range of numbers;
        4 no scaling exists, for A has no support: `unsupported_rows` have entries in too few columns; 5 none exists, for
        A has no total support: in the limit `unsupported_entries` would be zero; 99 stopped by the callback.

    Raises
    ------
    ValueError
        If A is not square, symmetric or finite, or has negative entries; if `target` or `x0` is not positive in a row that is
        kept; for shapes that do not fit, and values of keywords other than those above.
    TypeError
        If A, target or x0 is complex, or not of numbers; if `callback` cannot be called.

    Notes
    -----
    **Method.** The scaling is the minimum of ``½ xᵀA x - target·log(x)``, which in ``u = log(x)`` is convex, with the gradient ``r - target`` for
    ``r = x ∘ (A x)`` and the Hessian ``Diag(r) + Diag(x) A Diag(x)`` [1]_, [2]_. Conjugate gradients in u, preconditioned with the
    Hessian's diagonal, keep their directions conjugate by the Hessian at each point; and they move along straight lines in x, on which A x is
    linear: a product with A for each step gives the next direction, the exact minimum on the line, and the next residual. So the nonlinear
    iteration takes no more products than linear conjugate gradients would at its end, where Newton's method [3]_ solves a system anew in each
    step and Sinkhorn's iteration ``x ← x / sqrt(r / target)`` [4]_ converges linearly, at a speed that gets worse as A's support gets weaker.
    ``A x`` is carried along, computed anew every hundred products, and once more before the result is called converged.

    **What exists.** For every target there is a scaling if the diagonal is positive. For target 1 one exists if and only if A has total support: every
    positive entry is on a positive diagonal (a permutation whose entries are all positive); for other targets, if some symmetric matrix
    with those row sums is positive where A is, and only there [2]_. This is found out by a maximum matching, or flow, and the strongly connected components
    of its residual graph. It is unique but for parts of A that are bipartite: there one side times t and the other by t is another one. Where there is none, x
    diverges, and the residual tends to zero very slowly (with support) or not at all. For targets that are not in small integer ratios only the
    lack of support is found out, to rounding.

    **Memory.** Beside A, 14 k-vectors, and 4 more for each worker if A is sparse; if support is examined, some hundred bytes for each entry, and it is
    left out where the memory is not there; ``"drop"`` copies A's values.

    References
    ----------
    .. [1] A. W. Marshall and I. Olkin, "Scaling of matrices to achieve specified row and column sums", Numer. Math. 12 (1968), 83-90.
    .. [2] J. Csima and B. N. Datta, "The DAD theorem for symmetric non-negative matrices", J. Combin. Theory A 12 (1972), 147-152.
    .. [3] P. A. Knight and D. Ruiz, "A fast algorithm for matrix balancing", IMA J. Numer. Anal. 33 (2013), 1029-1047.
    .. [4] P. A. Knight, D. Ruiz and B. Uçar, "A symmetry preserving algorithm for matrix scaling", SIAM J. Matrix Anal. Appl. 35 (2014), 931-955.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsejac import symmetric_scaling
    >>> A = np.array([[0, 2, 1], [2, 0, 3], [1, 3, 0]])
    >>> result = symmetric_scaling(A)
    >>> print(result.message.split(":")[0], (result.x * (A @ result.x)).round(6))
    converged [1. 1. 1.]

    A star has no scaling: its rays have entries in one column only.

    >>> star = np.array([[0, 1, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]])
    >>> print(symmetric_scaling(star).message)
    no scaling exists, as A has no support: the 3 rows 1, 2, 3 have entries only in 1 column, whose target is less than theirs; leave rows out by mask or min_nnz, or add to the diagonal
    """
    tol = _checks.nonnegative("tol", tol)
    max_products = _checks.positive_integer("max_products", max_products)
    min_nnz = _checks.nonnegative_integer("min_nnz", min_nnz)
    min_count = _checks.nonnegative("min_count", min_count)
    progress = _checks.flag("progress", progress)
    support = _checks.choice("support", support, Examination)
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable, got {callback!r}")
    sums = RowSums(
        A,
        uplo=uplo,
        ignore_diags=ignore_diags,
        groups=groups,
        pairs=pairs,
        check_finite=check_finite,
        workers=workers,
    )
    sums._check_nonnegative()
    left_out = _checks.mask(mask, sums.shape[0])
    with _progress.passes("scale", shown=progress) as bar:
        scaling = Scaling(sums, ~left_out, tol, max_products, support, callback, bar)
        scaling.leave_out(min_nnz, min_count)
        return scaling.run(target, x0)


class Scaling:
    """One scaling under way."""

    def __init__(
        self,
        sums: RowSums,
        kept: NDArray[np.bool_],
        tol: float,
        max_products: int,
        support: Examination,
        callback: Any,
        bar: Any,
    ) -> None:
        self._sums, self._kept, self._tol, self._limit = sums, kept, tol, max_products
        self._support, self._callback, self._bar = support, callback, bar
        self._nit = self._n_products = 0
        self._history: list[tuple[int, float]] = []
        self._residual = np.inf
        self.leave_lonely_out = False  # leave out rows that have entries with rows that are left out alone
        self._found = _support.without()

    def leave_out(self, min_nnz: int, min_count: float) -> None:
        """Rows with too few entries, or too little in them."""
        enough = self._kept.copy()
        if min_nnz > 0:
            self._tick()
            enough &= self._sums.nonzeros() >= min_nnz
            self.leave_lonely_out = True
        if min_count > 0:
            enough &= self._product(np.ones(self._kept.size)) >= min_count
        self._kept = enough

    def run(self, target: ArrayLike, x0: ArrayLike | None) -> OptimizeResult:
        """Scale, or say why not."""
        d = _checks.positive("target", target, self._kept)
        start = None if x0 is None else _checks.positive("x0", x0, self._kept)
        with np.errstate(all="ignore"):  # as in the kernels
            degree = self._product(self._kept.astype(np.float64))
            while self.leave_lonely_out and np.any(lonely := self._kept & (degree == 0)):
                self._kept &= ~lonely
                degree = self._product(self._kept.astype(np.float64))
            kept = self._kept
            if not kept.any():
                return self._nothing()
            d[~kept] = 1.0
            beta = np.sqrt(np.sum(d[kept]) / np.sum(degree[kept]))
            self._note(float(np.max(np.abs(beta**2 * degree - d)[kept] / d[kept])))
            lonely = np.flatnonzero(kept & (degree == 0))
            verdict = self._unsupported(_support.without(lonely)) if lonely.size else None
            if verdict is None and self._support in ("check", "drop"):
                verdict = self._examine(d)
            if verdict is not None:
                return self._result(np.full(d.size, beta), *verdict)
            x = np.sqrt(d / degree) if start is None else start
            del start, degree, lonely
            x[~kept] = 1.0
            return self._iterate(x, d)

    def _nothing(self) -> OptimizeResult:
        x = np.zeros(self._kept.size)
        if x.size:
            return self._result(x, 4, "no scaling exists: every row is left out, by mask, min_nnz or min_count")
        self._note(0.0)
        return self._result(x, 1)

    @functools.cached_property
    def _left_out(self) -> Any:
        """An index of the rows that are left out: of nothing, at no cost, if none is."""
        return slice(0) if self._kept.all() else ~self._kept

    # --- the iteration ------------------------------------------------------------------------------------------------

    def _iterate(self, x: NDArray[Any], d: NDArray[Any]) -> OptimizeResult:
        """Of k-vectors there are x, A x, q, A q, s, z, the errors, and d."""
        from . import _kernels

        own = self._sums._diagonal
        Ax = self._values_at(x)
        beta = float(np.sqrt(np.sum(d[self._kept]) / np.sum((x * Ax)[self._kept])))
        x[self._kept] *= beta
        Ax[self._kept] *= beta
        q, Aq, s, t = np.zeros(x.size), np.zeros(x.size), np.empty(x.size), 0.0
        z, error = np.empty(x.size), np.empty(x.size)
        fresh, best, best_at = True, np.inf, 0
        while True:
            above, below = _kernels.scaling_step(t, x, Ax, q, Aq, s, z, error, d, own)
            residual = float(np.max(error))
            if not np.isfinite(residual + above + below):
                return self._result(x, 3)
            self._note(residual)
            if residual < best:
                best, best_at = residual, self._n_products
            if fresh and residual <= self._tol:
                return self._result(x, 1)
            if self._n_products >= self._limit:
                return self._result(x, 0)
            if best < _ROUNDING and self._n_products > best_at + _PATIENCE:
                return self._result(x, 2)
            if not fresh and (residual <= self._tol or self._n_products % _REFRESH == 0):
                Ax, t, fresh = self._values_at(x), 0.0, True
                continue
            if self._support == "auto" and self._is_slow():
                verdict = self._examine(d)
                if verdict is not None:
                    return self._result(x, *verdict)
            slope = _kernels.scaling_direction(above / below if below > 0 else 0.0, x, Ax, q, s, z, d)
            if not slope < 0:
                slope = _kernels.scaling_direction(0.0, x, Ax, q, s, z, d)
            Aq = self._product(q)
            Aq[self._left_out] = 0.0
            t, fresh = self._length(slope, q, Aq, s, d), False
            self._nit += 1
            if self._callback is not None:
                try:
                    self._callback(self._state(x + t * q))
                except StopIteration:
                    return self._result(x + t * q, 99)

    def _length(self, slope: float, q: NDArray[Any], Aq: NDArray[Any], s: NDArray[Any], d: NDArray[Any]) -> float:
        """The t for which ``½ (x + t q)ᵀA (x + t q) - d·log(x + t q)`` is least.

        With ``s = q/x`` its derivative is ``g·s + t (qᵀA q + d·(s²/(1 + t s)))``: in this form nothing cancels near t = 0. It is negative at 0, and
        grows beyond all bounds where x + t q stops being positive.
        """
        from . import _kernels

        square, weight = _kernels.scaling_line(q, Aq, s, d)
        lowest = float(np.min(s))
        low, high = 0.0, -1 / lowest if lowest < 0 else np.inf
        t = -slope / (square + weight) if square + weight > 0 else np.inf
        if not t < high:
            t = 0.5 * high if high < np.inf else 1.0
        for _ in range(60):
            first, second = _kernels.scaling_slope(t, s, d)
            at_t, curvature = slope + t * (square + first), square + second
            if abs(at_t) <= -_LINE * slope:
                break
            low, high = (low, t) if at_t > 0 else (t, high)
            t = t - at_t / curvature if curvature > 0 else np.inf
            if not low < t < high:
                t = 0.5 * (low + high) if high < np.inf else 2 * low
        return t

    def _values_at(self, x: NDArray[Any]) -> NDArray[Any]:
        """A x, computed anew, and 1 in the rows that are left out."""
        Ax = self._product(np.where(self._kept, x, 0.0))
        Ax[self._left_out] = 1.0
        return Ax

    # --- whether there is a scaling -----------------------------------------------------------------------------------

    def _is_slow(self) -> bool:
        """Whether at the speed of the last products more than `_PATIENCE` of them are left to do."""
        if len(self._history) <= _WINDOW:
            return False
        (before, then), (now, residual) = self._history[-1 - _WINDOW], self._history[-1]
        speed = np.log(then / residual) / (now - before)
        return bool(np.log(residual / max(self._tol, 1e-15)) > _PATIENCE * speed)

    def _examine(self, d: NDArray[Any]) -> tuple[int, str] | None:
        """Find out whether A has support: status and message if it has none, or not all that it needs."""
        needed, available = _support.bytes_needed(self._sums), _machine.available_memory()
        mode, self._support = self._support, "skip"
        if available is not None and needed > available:
            if mode != "auto":
                _checks.fits("the examination of A's support", needed, 'leave out support="check" or "drop"')
            return None
        found = _support.examine(self._sums, self._kept, d)
        if found.rows.size or (found.unsupported and mode != "drop"):
            return self._unsupported(found)
        if found.unsupported:
            self._sums = self._sums._without(found.entries, found.diagonal)
            self._found = found
        return None

    def _unsupported(self, found: _support.Support) -> tuple[int, str]:
        self._found = found
        if not found.rows.size:
            return 5, (
                f"no scaling exists, as A has support, but no total support: {found.unsupported} of its entries are on no positive diagonal, "
                'and in the limit would be zero; support="drop" leaves them out'
            )
        first = ", ".join(map(str, found.rows[:3])) + (", …" if found.rows.size > 3 else "")
        who = f"row {first} has" if found.rows.size == 1 else f"the {found.rows.size} rows {first} have"
        if found.columns.size == 0:
            what = "no entries; min_nnz=1 leaves such rows out"
        else:
            which = (
                "1 column, whose target is"
                if found.columns.size == 1
                else f"{found.columns.size} columns, whose targets are"
            )
            what = (
                f"entries only in {which} less than theirs; leave rows out by mask or min_nnz, or add to the diagonal"
            )
        return 4, f"no scaling exists, as A has no support: {who} {what}"

    # --- what others see ----------------------------------------------------------------------------------------------

    def _product(self, u: NDArray[Any]) -> NDArray[Any]:
        self._tick()
        return self._sums._product(u)

    def _tick(self) -> None:
        self._n_products += 1
        if self._bar is not None:
            self._bar.update()
            if self._history:
                self._bar.set_postfix(residual=f"{self._residual:.1e}", refresh=False)

    def _note(self, residual: float) -> None:
        self._residual = residual
        self._history.append((self._n_products, residual))

    def _state(self, x: NDArray[Any], **more: Any) -> OptimizeResult:
        return OptimizeResult(
            x=np.where(self._kept, x, np.nan),
            residual=self._residual,
            nit=self._nit,
            n_products=self._n_products,
            **more,
        )

    def _result(self, x: NDArray[Any], status: int, message: str | None = None) -> OptimizeResult:
        if message is None:
            message = _MESSAGES[status].format(limit=self._limit, residual=self._residual, tol=self._tol)
        (i, j), own = self._found.places, self._found.diagonal
        return self._state(
            x,
            kept=self._kept,
            history=np.array(self._history).reshape(-1, 2),
            unsupported_rows=self._found.rows,
            unsupported_entries=np.stack([np.concatenate([i, own]), np.concatenate([j, own])], axis=1),
            status=status,
            success=status == 1,
            message=message,
        )
