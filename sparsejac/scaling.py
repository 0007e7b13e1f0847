"""The function `symmetric_scaling`, which scales a symmetric matrix to given row sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from . import _validation
from ._backends.failures import last_x_saved
from ._solvers.scaling import Scaling
from ._solvers.scaling_state import Examination
from ._system.progress import passes
from ._validation import Pairs, Uplo
from .row_sums import RowSums


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
    memory: int | None = None,
) -> OptimizeResult:
    """Scale a symmetric matrix to given row sums: find x > 0 with ``x ∘ (A x) = target``.

    The scaled matrix is ``Diag(x) A Diag(x)``.

    Parameters
    ----------
    A : array_like or SciPy sparse array or matrix, shape (k, k)
        Symmetric, without negative entries. It is referenced, as by `RowSums`.
    target : float or array_like, shape (k,), default 1.0
        The row sums, which must be positive.
    x0 : array_like, shape (k,), optional
        The start, which must be positive. It may be NaN in rows that are left out, so that a result
        may be the next start. Default: 1/sqrt(A 1), scaled.
    tol : float, default 1e-08
        The scaling has converged when its `residual` is at most this.
    mask : array_like of bool, shape (k,), optional
        True for rows that are left out, together with their columns.
    min_nnz : int, default 0
        Leave out rows with fewer nonzero entries than this, counted before any row is left out. If
        it is at least 1, also leave out rows that have no entries left after that.
    min_count : float, default 0.0
        Leave out rows whose sum, before any row is left out, is less than this.
    support : {"auto", "check", "drop", "drop_rows", "skip"}, default "auto"
        When to find out whether a scaling exists, and what to do if it does not. ``"auto"``: if
        convergence is slow. ``"check"``: at the start. ``"drop"``: at the start; the entries that
        no scaling can keep are dropped, so another matrix than A is scaled; not for a streamed A.
        ``"drop_rows"``: at the start; rows without support are left out, as by a mask, until the
        rest has a scaling. ``"skip"``: never.
    max_products : int, default 20000
        The largest number of passes over A. Passes for `min_nnz` and `min_count` do not count, and
        numbers near overflow or underflow may take three more.
    uplo : {"U", "L"}, optional
        A holds its upper (lower) triangle only: see `RowSums`.
    ignore_diags : int, default 0
        Leave out the entries with ``|i - j| < ignore_diags``.
    groups : sequence of labels, shape (k,), optional
        The group of each row, as for `RowSums`.
    pairs : {"all", "within", "between"}, default "all"
        The entries that count, as for `RowSums`. With ``"within"`` each group is scaled by itself.
    callback : callable, optional
        Called after each step with an `OptimizeResult` of ``x, residual, nit, n_products``. It may
        raise StopIteration to stop.
    progress : bool, default False
        Show a bar of the passes over A, with the residual, and the time that is left if the
        residual falls on as over the later half of the passes. If A is streamed, also show a bar of
        each pass.
    check_finite : bool, default True
        Refuse NaN and infinity in A.
    workers : int, optional
        As for `JacobianBuilder`.
    memory : int, optional
        As for `JacobianBuilder`.

    Returns
    -------
    result : scipy.optimize.OptimizeResult
        * ``x``: float64, NaN in the rows that are left out. In the rows that are kept it is always
          positive and finite. Unless the status is 1 or 6, it is the x of the last step, or equal
          numbers if there was no step.
        * ``kept``: a boolean for each row, False if the row is left out.
        * ``left_out``: a dict of the numbers of rows that each filter left out (``mask``,
          ``min_nnz``, ``min_count``, ``no_entries``, ``support``). A row counts for the first
          filter only. If no filter was set, the last two are 0. The message says the same.
        * ``residual``: ``max |x ∘ (A x) - target| / target`` over the rows that are kept.
        * ``residual_after_dropping``: the same without the entries that were dropped.
        * ``nit``: the number of steps.
        * ``n_products``: the number of passes over A. The pass that scans a streamed A and passes
          that examine its support do not count.
        * ``history``: an array of (passes so far, residual). The first line belongs to equal x,
          whose residual follows from A's row sums, and the second to the start.
        * ``unsupported_rows`` and ``unsupported_entries``: the latter an array of (i, j) on one
          side of the diagonal.
        * ``success``, ``status`` and ``message``, which lists likely causes.

        The status is an `enum.IntEnum`. Only 1 is a success:

        * 0, MAX_PRODUCTS: `max_products` passes were made.
        * 1, CONVERGED: the residual is at most `tol`.
        * 2, ROUNDING: rounding prevents further progress.
        * 3, OUT_OF_RANGE: x or A x leaves the range of float64.
        * 4, NO_SUPPORT: no scaling exists, because A has no support. The `unsupported_rows` have
          entries in too few columns.
        * 5, NO_TOTAL_SUPPORT: no scaling exists, because A has no total support. The
          `unsupported_entries` tend to zero in the limit.
        * 6, ENTRIES_DROPPED: x scales A without the `unsupported_entries`, which were dropped. The
          `residual` of A itself is larger.
        * 7, IN_PART: some chromosomes have no scaling; by `sparsejac.cool.balance` only.
        * 8, NOTHING_KEPT: every row is left out.
        * 99, CALLBACK: the callback stopped the scaling.

    Raises
    ------
    ValueError
        If A is not square, symmetric or finite, or has negative entries; if `target` or `x0` is not
        positive in a row that is kept; if shapes do not fit; if a keyword has another value than
        those above.
    TypeError
        If A, target or x0 is complex, or does not hold numbers; if `callback` cannot be called.

    Notes
    -----
    **Method.** The scaling is the minimum of ``½ xᵀA x - target·log(x)``. In ``u = log(x)`` this is
    convex, with the gradient ``r - target`` for ``r = x ∘ (A x)`` and the Hessian
    ``Diag(r) + Diag(x) A Diag(x)`` [1]_, [2]_. Nonlinear conjugate gradients in u are
    preconditioned with the Hessian's diagonal. The Hessian at the current x makes each direction
    conjugate to the last one. The steps run along straight lines in x, on which A x is linear. So
    one product with A gives the next direction, the exact minimum on its line, and the residual
    there. Newton's method [3]_ would solve a linear system in each step. Sinkhorn's iteration
    ``x ← x / sqrt(r / target)`` [4]_ converges linearly, and slowly if A's support is weak. Steps
    along straight lines are too short if, for instance, x can grow in one part of A and fall in
    another while the function hardly changes. If thousands of products remain, Newton's method in u
    takes over, in a trust region and along curves ``x ∘ exp(s)``. ``A x`` is updated in each step.
    It is computed anew every hundred products, and once more before the scaling has converged.

    **Existence.** If the diagonal is positive, a scaling exists for every target. For target 1 a
    scaling exists if and only if A has total support: every positive entry is on a positive
    diagonal, which is a permutation whose entries are all positive. For other targets a scaling
    exists if and only if some symmetric matrix with those row sums is positive exactly where A is
    [2]_. A maximum matching or flow, and the strongly connected components of its residual graph,
    decide this. A scaling is unique except in bipartite parts of A: if one side is multiplied by t
    and the other side divided by t, the result is another scaling. If no scaling exists, x
    diverges. The residual then tends to zero slowly if A has support, so that ``"skip"`` or a large
    `tol` gives an x; otherwise it does not. The result about support is proved for A and the
    targets as float64 numbers. If the targets are not exactly in the ratios of integers whose sum
    is below 2³⁰, a lack of support is found only if it exceeds 1e-12.

    **Rows that are dropped.** With ``support="drop_rows"`` all rows that lack support are left out
    together. If the rest has no total support, the entries that have support connect its rows to
    parts. An entry without support connects two parts, and the smaller part is left out. Success
    then means that the rows that are kept are scaled.

    **Memory.** Besides A, at most 20 k-vectors, and 3 more for a second worker. An examination of
    the support takes about a hundred bytes for each entry. If these do not fit into memory, or
    exceed `memory`, ``"auto"`` skips the examination, and the message says so. ``"drop"`` copies
    A's values.

    References
    ----------
    .. [1] A. W. Marshall and I. Olkin, "Scaling of matrices to achieve specified row and column
       sums", Numer. Math. 12 (1968), 83-90.
    .. [2] J. Csima and B. N. Datta, "The DAD theorem for symmetric non-negative matrices", J.
       Combin. Theory A 12 (1972), 147-152.
    .. [3] P. A. Knight and D. Ruiz, "A fast algorithm for matrix balancing", IMA J. Numer. Anal. 33
       (2013), 1029-1047.
    .. [4] P. A. Knight, D. Ruiz and B. Uçar, "A symmetry preserving algorithm for matrix scaling",
       SIAM J. Matrix Anal. Appl. 35 (2014), 931-955.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsejac import symmetric_scaling
    >>> A = np.array([[0, 2, 1], [2, 0, 3], [1, 3, 0]])
    >>> result = symmetric_scaling(A)
    >>> print(result.message.split(":")[0], (result.x * (A @ result.x)).round(6))
    converged [1. 1. 1.]

    A star has no scaling, because its leaves have entries in one column only.

    >>> star = np.array([[0, 1, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]])
    >>> print(symmetric_scaling(star).message.partition(", whose")[0])
    no scaling exists, as A has no support: the 3 rows 1, 2, 3 have entries only in 1 column
    """
    tol = _validation.nonnegative("tol", tol)
    max_products = _validation.positive_integer("max_products", max_products)
    min_nnz = _validation.nonnegative_integer("min_nnz", min_nnz)
    min_count = _validation.nonnegative("min_count", min_count)
    progress = _validation.flag("progress", progress)
    support = _validation.choice("support", support, Examination)
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
        memory=memory,
        progress=progress,
    )
    left_out = _validation.mask(mask, sums.shape[0])
    with passes("scale", shown=progress) as bar:
        scaling = Scaling(sums._products, tol, max_products, support, callback, bar)
        if mask is not None:
            scaling.leave_out("mask", left_out)
        with last_x_saved(lambda: scaling.last_x):
            scaling.leave_out_poor_rows(min_nnz, min_count)
            return scaling.run(target, x0)
