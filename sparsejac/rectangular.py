"""The function `row_column_scaling`, which scales a matrix to given row and column sums."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from . import _validation
from ._backends.row_products import RowProducts
from ._matrix.bipartite import BipartiteRows
from ._solvers.bipartite import BipartiteScaling
from ._system.progress import passes

_Support = Literal["auto", "check", "drop", "skip"]
_Targets = tuple[NDArray[np.float64], NDArray[np.float64]]
# The logarithms of the ends of the range of normal float64 numbers, and a margin
_LOWEST = math.log(np.finfo(np.float64).tiny) + 1
_HIGHEST = math.log(np.finfo(np.float64).max) - 1


def row_column_scaling(
    A: Any,
    row_target: ArrayLike = 1.0,
    column_target: ArrayLike | None = None,
    *,
    tol: float = 1e-8,
    support: _Support = "auto",
    max_products: int = 20_000,
    progress: bool = False,
    check_finite: bool = True,
    workers: int | None = None,
) -> OptimizeResult:
    """Scale a matrix to given row and column sums.

    Find r > 0 and c > 0 with ``r ∘ (A c) = row_target`` and ``c ∘ (Aᵀ r) = column_target``. The
    scaled matrix is ``Diag(r) A Diag(c)``. This is also known as matrix balancing, as Sinkhorn's
    problem, as RAS, as iterative proportional fitting, and as entropic optimal transport.

    Parameters
    ----------
    A : array_like or SciPy sparse array or matrix, shape (m, n)
        Without negative entries, in memory. It need not be square.
    row_target : float or array_like, shape (m,), default 1.0
        The row sums, which must be positive.
    column_target : float or array_like, shape (n,), optional
        The column sums, which must be positive. Their sum must be that of `row_target`, up to
        rounding (1e-12 of it). Default: equal numbers with that sum, which are 1 if A is square
        and `row_target` is 1.
    tol : float, default 1e-08
        The scaling has converged when its `residual` is at most this.
    support : {"auto", "check", "drop", "skip"}, default "auto"
        When to find out whether a scaling exists, and what to do if it does not. ``"auto"``: if
        convergence is slow. ``"check"``: at the start. ``"drop"``: at the start; the entries that
        no scaling can keep are dropped, so another matrix than A is scaled. ``"skip"``: never.
    max_products : int, default 20000
        The largest number of passes over A.
    progress : bool, default False
        Show a bar of the passes over A, with the residual.
    check_finite : bool, default True
        Refuse NaN and infinity in A.
    workers : int, optional
        As for `JacobianBuilder`.

    Returns
    -------
    result : scipy.optimize.OptimizeResult
        * ``r``, ``c``: float64, shapes (m,) and (n,), positive and finite. Their geometric means
          are equal, unless numbers would then leave the range of float64.
        * ``residual``: the largest of ``|r ∘ (A c) - row_target| / row_target`` and
          ``|c ∘ (Aᵀ r) - column_target| / column_target``.
        * ``residual_after_dropping``: the same without the entries that were dropped.
        * ``nit``: the number of steps.
        * ``n_products``: the number of passes over A. Each gives A c and Aᵀ r. Passes that examine
          the support of A do not count.
        * ``history``: an array of (passes so far, residual), as of `symmetric_scaling`.
        * ``unsupported_rows`` and ``unsupported_columns``: those that prevent a scaling, because
          their entries are in too few columns (rows) for their targets.
        * ``unsupported_entries``: an array of (i, j), the entries that prevent a scaling or were
          dropped.
        * ``success``, ``status`` and ``message``, which names rows and columns of A, and lists
          likely causes.

        The status is one of those of `symmetric_scaling`. Only 1 is a success: 0, MAX_PRODUCTS; 1,
        CONVERGED; 2, ROUNDING; 3, OUT_OF_RANGE; 4, NO_SUPPORT; 5, NO_TOTAL_SUPPORT; 6,
        ENTRIES_DROPPED.

    Raises
    ------
    ValueError
        If A is not finite or has negative entries; if a target is not positive, or has a shape that
        does not fit; if the sums of the two targets differ; if a keyword has another value than
        those above.
    TypeError
        If A or a target is complex, or does not hold numbers; if A is not in memory.

    Notes
    -----
    **Method.** A is one block of the symmetric matrix ``B = [[0, A], [Aᵀ, 0]]``. For ``x = [r; c]``
    both equations are ``x ∘ (B x) = [row_target; column_target]``, which the method of
    `symmetric_scaling` solves, by conjugate gradients in log(x). A pass reads A once, and adds to
    A c and to Aᵀ r. Sinkhorn's iteration ``r ← row_target / (A c)``,
    ``c ← column_target / (Aᵀ r)`` [1]_ reads A twice in each step, and converges linearly. It is
    faster if a few steps suffice. If it needs hundreds of them, as for a Gaussian kernel of small
    width, this method needs a fraction of that number.

    **Existence.** If all entries of A are positive, a scaling exists for all targets. In general
    it exists if and only if some matrix with these row and column sums is positive exactly where A
    is. A maximum flow decides this, as for `symmetric_scaling`, and the result is proved in the
    same cases. It is also proved if all rows have one target, and all columns another. If some
    matrix has these sums, and is zero wherever A is, Sinkhorn's iteration converges slowly to the
    scaled matrix that ``"drop"`` finds.

    **Uniqueness.** If r is multiplied by t, and c is divided by t, the result is another scaling.
    The one whose r and c have the same geometric mean is returned. If the bipartite graph of A
    has several parts, each part has a t of its own. ``Diag(r) A Diag(c)`` is unique.

    **Range.** For optimal transport with the cost C and the regularisation ε, pass
    ``A = exp(-C / ε)``. Entries that underflow to zero are no entries. There is no iteration on
    logarithms, so for a very small ε this is the wrong tool.

    **Memory.** Besides A, at most 20 vectors of length m+n, and 3 more for a second worker. The
    arrays of an A in canonical CSR or CSC format are referenced. Other sparse formats are converted
    once. A dense A is read with 4 bytes for each entry (8 from 2³¹ entries on), for column indices.
    It is referenced if it is contiguous, and otherwise copied. An examination of the support takes
    about two hundred bytes for each entry; ``"auto"`` skips it if they are not available.
    ``"drop"`` copies A's values.

    References
    ----------
    .. [1] R. Sinkhorn and P. Knopp, "Concerning nonnegative matrices and doubly stochastic
       matrices", Pacific J. Math. 21 (1967), 343-348.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsejac import row_column_scaling
    >>> A = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 0.0]])
    >>> result = row_column_scaling(A, [3.0, 6.0], [4.0, 4.0, 1.0])
    >>> r, c = result.r, result.c
    >>> print(result.success, (r * (A @ c)).round(6), (c * (A.T @ r)).round(6))
    True [3. 6.] [4. 4. 1.]

    Two rows that have entries in one column only, and targets that are too large for it:

    >>> B = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    >>> print(row_column_scaling(B).message.partition(", whose")[0])
    no scaling exists, as A has no support: the 2 rows 0, 1 have entries only in column 0
    """
    tol = _validation.nonnegative("tol", tol)
    max_products = _validation.positive_integer("max_products", max_products)
    progress = _validation.flag("progress", progress)
    support = _validation.choice("support", support, _Support)
    A = _validation.rectangular_matrix(A)
    targets = _targets(row_target, column_target, *A.shape)
    graph = BipartiteRows(A)
    sums = _products(graph, check_finite=check_finite, workers=workers)
    with passes("scale", shown=progress) as bar:
        scaling = BipartiteScaling(graph, sums, tol, max_products, support, bar)
        scaling.proportions = _proportions(graph, *targets)
        found = scaling.run(graph.join(*targets), None)
    return _result(found, graph, *targets)


def _products(graph: BipartiteRows, *, check_finite: bool, workers: int | None) -> RowProducts:
    return RowProducts(
        graph,
        uplo="L",
        ignore_diags=0,
        groups=None,
        pairs="all",
        check_finite=check_finite,
        workers=workers,
        memory=None,
        progress=False,
    )


def _targets(row_target: ArrayLike, column_target: ArrayLike | None, m: int, n: int) -> _Targets:
    rows = _validation.positive_line_sums("row_target", row_target, m, "row")
    if column_target is None:
        column_target = float(np.sum(rows / max(n, 1)))
    columns = _validation.positive_line_sums("column_target", column_target, n, "column")
    _validation.equal_totals(rows, columns)
    return rows, columns


def _proportions(
    graph: BipartiteRows, rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """The proportions of targets as integers, if rows have one target, and columns have another.

    The verdict on the support of A is then exact. For 3 rows and 7 columns, 1 and 3/7 become 7 and
    3. The result is None for other targets.
    """
    m, n = rows.size, columns.size
    if m == n or 0 in (m, n) or np.ptp(rows) > 0 or np.ptp(columns) > 0:
        return None
    common = math.gcd(m, n)
    return graph.join(np.full(m, float(n // common)), np.full(n, float(m // common)))


def _result(
    found: OptimizeResult,
    graph: BipartiteRows,
    row_target: NDArray[np.float64],
    column_target: NDArray[np.float64],
) -> OptimizeResult:
    """The result in terms of A's rows and columns."""
    r, c = graph.split(found.x)
    rows, columns = graph.nodes(found.unsupported_rows)
    half = _half_of_the_ratio(r, c, row_target, column_target) if 0 not in graph.shape else 0.0
    kept = ("residual", "residual_after_dropping", "nit", "n_products", "history")
    return OptimizeResult(
        r=_times(r, half),
        c=_times(c, -half),
        **{name: found[name] for name in kept},
        unsupported_rows=rows,
        unsupported_columns=columns,
        unsupported_entries=graph.edges(found.unsupported_entries),
        status=found.status,
        success=found.success,
        message=found.message,
    )


def _half_of_the_ratio(
    r: NDArray[Any],
    c: NDArray[Any],
    row_target: NDArray[np.float64],
    column_target: NDArray[np.float64],
) -> float:
    """The logarithm of what takes the geometric means of r and c to their common one.

    If numbers would then leave the range of float64, or lose digits, it is the nearest one for
    which that is not so. It is 0 if there is none. The products ``A c = row_target / r`` and
    ``Aᵀ r`` count as well.
    """
    log_r, log_c = np.log(r), np.log(c)
    low, high = _room(log_r, np.log(row_target))
    low_c, high_c = _room(log_c, np.log(column_target))
    low, high = max(low, -high_c), min(high, -low_c)
    if low > high:
        return 0.0
    return min(max(0.5 * float(np.mean(log_c) - np.mean(log_r)), low), high)


def _room(log_u: NDArray[Any], log_target: NDArray[Any]) -> tuple[float, float]:
    """Between which logarithms of a factor u and target/u are normal float64 numbers."""
    low = np.maximum(_LOWEST, log_target - _HIGHEST) - log_u
    high = np.minimum(_HIGHEST, log_target - _LOWEST) - log_u
    return float(np.max(low)), float(np.min(high))


def _times(u: NDArray[Any], logarithm: float) -> NDArray[Any]:
    """``u exp(logarithm)``"""
    # Two factors overflow later than one.
    moved: NDArray[Any] = u * math.exp(0.5 * logarithm) * math.exp(0.5 * logarithm)
    return moved
