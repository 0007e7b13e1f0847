"""`symmetric_scaling`: the x > 0 whose ``Diag(x) A Diag(x)`` has given row sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from . import _validation
from ._solvers.scaling import Examination, Scaling
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
    """Find x > 0 with ``x ∘ (A x) = target``: scale a symmetric matrix, ``Diag(x) A Diag(x)``, to given row sums.

    Parameters
    ----------
    A : array_like or SciPy sparse array or matrix, shape (k, k)
        Symmetric, without negative entries; referenced, as by `RowSums`.
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
    support : {"auto", "check", "drop", "drop_rows", "skip"}, default "auto"
        When to find out whether a scaling exists: if convergence is slow; at the start; at the start, and drop the entries that no scaling
        can keep (not of a streamed A), which scales another matrix than A; at the start, and leave out rows without support, as a mask does, until the
        rest has a scaling; never.
    max_products : int, default 20000
        Passes over A at most, but for those that `min_nnz` and `min_count` ask for, and of numbers at the ends of the range three more.
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
        Show a bar of the passes over A, with the residual; of a streamed A also one of each pass.
    check_finite : bool, default True
        Refuse NaN and infinity in A.
    workers : int, optional
        As for `JacobianBuilder`.
    memory : int, optional
        As for `JacobianBuilder`.

    Returns
    -------
    result : scipy.optimize.OptimizeResult
        ``x`` (float64), NaN in the rows that are left out, and ``kept``, which says where it is not; ``left_out``, a dict of how many rows each filter
        left out (``mask``, ``min_nnz``, ``min_count``, ``no_entries``, ``support``; a row counts for the first one that it met; the last two with 0 where no filter was set), as the message says, too; ``residual``, which is
        ``max |x ∘ (A x) - target| / target`` over the rows and columns that are kept; ``residual_after_dropping``, the same without the entries that were dropped;
        ``nit`` steps; ``n_products`` passes over A, all that there were, but for the one that looks at a streamed A, and those that examine its support; ``history``, an array of
        (passes so far, residual), first that of equal x, which the sums of A's rows tell, then that of the start; ``unsupported_rows`` and ``unsupported_entries`` (an array of (i, j), one side of the diagonal); ``success``, ``message`` and
        ``status``: 1 converged; 0 max_products was reached; 2 rounding prevents progress; 3 x leaves the range of numbers;
        4 no scaling exists, for A has no support: `unsupported_rows` have entries in too few columns; 5 none exists, for
        A has no total support: in the limit `unsupported_entries` would be zero; 6 x scales A without the `unsupported_entries` that were dropped, and not
        A, whose `residual` is larger; 99 stopped by the callback. Only 1 is success. Unless it is 1 or 6, x is that of
        the last step, and equal numbers where there was none. In the rows that are kept x is always positive and finite.

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
    ``r = x ∘ (A x)`` and the Hessian ``Diag(r) + Diag(x) A Diag(x)`` [1]_, [2]_. Nonlinear conjugate gradients in u, preconditioned with the
    Hessian's diagonal, keep each direction conjugate to the last one by the Hessian where they are; and they move along straight lines in x, on which A x is
    linear: one product with A gives the next direction, the exact minimum on its line, and the residual there. Newton's method [3]_
    solves a system anew in each step; Sinkhorn's iteration ``x ← x / sqrt(r / target)`` [4]_ converges linearly, the slower the weaker A's
    support is. Where straight lines are too short, as where x can grow in one part of A and fall in another at nearly no cost, and thousands of products would
    be left to do, Newton's method in u, in a trust region, goes on along curves ``x ∘ exp(s)``. ``A x`` is carried along, computed anew every hundred products,
    and once more before the result is called converged.

    **What exists.** For every target there is a scaling if the diagonal is positive. For target 1 one exists if and only if A has total support: every
    positive entry is on a positive diagonal (a permutation whose entries are all positive); for other targets, if some symmetric matrix
    with those row sums is positive where A is, and only there [2]_. This is found out by a maximum matching, or flow, and the strongly connected components
    of its residual graph. A scaling is unique but for parts of A that are bipartite: there one side times t and the other by t is another one. Where there is
    none, x diverges, and the residual tends to zero slowly (with support: ``"skip"``, or a loose `tol`, will find an x for it) or not at all. What is said of this is
    proved for A and the targets as the float64 numbers that they are. For targets that are not exactly in the ratios of integers whose sum is below 2³⁰ only a lack of
    support by more than 1e-12 is found out.

    **Rows that are dropped.** With ``support="drop_rows"`` all rows that lack support go together. Where the rest has no total support, its entries with support connect rows to parts,
    and of two parts that an entry without support connects, the smaller one goes. Success then describes the rows that are kept.

    **Memory.** Beside A at most 20 k-vectors, and 3 more for a second worker; if support is examined, some hundred bytes for each entry, and it is
    left out, as the message then says, where the memory is not there, or `memory` does not allow it; ``"drop"`` copies A's values.

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
    no scaling exists, as A has no support: the 3 rows 1, 2, 3 have entries only in 1 column, whose target is less than theirs; support="drop_rows" would leave out every row
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
        scaling.leave_poor_out(min_nnz, min_count)
        return scaling.run(target, x0)
