"""The function `fit`, which finds the x whose ``A ∘ (x xᵀ)`` is nearest to Y."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from . import _validation
from ._backends.failures import last_x_saved
from ._operators.rank_assembly import RankAssembly
from ._solvers.fit import Newton
from ._solvers.fit_bounds import BoundedNewton, nearest_with_sign
from ._solvers.fit_rank import BlockNewton
from ._solvers.fit_robust import BoundedRobustNewton, RobustNewton
from ._solvers.gauge import balanced, balanced_within
from ._solvers.one_column import OneColumn
from ._system.progress import passes
from ._validation import LossName, Order, Rows, Uplo
from .least_squares import LeastSquares


def fit(
    A: Any,
    Y: Any = None,
    x0: ArrayLike | None = None,
    *,
    bounds: Any = None,
    rows: Rows | None = None,
    order: Order = "C",
    uplo: Uplo | None = None,
    tol: float = 1e-9,
    max_iter: int = 200,
    callback: Callable[[OptimizeResult], object] | None = None,
    progress: bool = False,
    check_finite: bool = True,
    workers: int | None = None,
    memory: int | None = None,
    rank: int | None = None,
    bilinear: bool = False,
    regularization: float = 0.0,
    loss: LossName = "linear",
    f_scale: float = 1.0,
) -> OptimizeResult:
    """Minimise ``½‖A ∘ (x xᵀ) - Y‖²``, a weighted low-rank approximation, by Newton's method.

    x is a vector, or with `rank` a matrix X. If it is `bilinear`, the cost is
    ``½‖A ∘ (X Yᵀ) - Y‖²``, where the result has X above its partner.

    Parameters
    ----------
    A : array_like or SciPy sparse array or matrix, shape (k, k), or (m, n) if `bilinear`
        Real; otherwise as for `LeastSquares`. Or a `LeastSquares`, which is fitted as it is: Y and
        the options `rows`, `order`, `uplo`, `check_finite`, `workers`, `memory`, `rank`,
        `bilinear`, `loss` and `f_scale` are its own then, and must be left out. A and Y are not
        checked again.
    Y : array_like or SciPy sparse array or matrix, of A's shape, or a vector of J's rows, optional
        As for `LeastSquares`.
    x0 : array_like, shape (k,), or with `rank` (k, r) or (k r,), optional
        The start. By default it is computed from the data, see the notes.
    bounds : (low, high) or scipy.optimize.Bounds, optional
        ``low <= x <= high``. Each is a number, or an array that broadcasts to the shape of x. With
        `rank`, it may be flat, as x0 may. -inf and inf stand for no bound. Equal bounds fix a
        variable. ``bounds=(0, np.inf)`` is the non-negative fit. x0 must be within the bounds, and
        a start from the data is projected.
    rows : {"all", "stored", "upper"}, default "stored"
        The entries of F and Y that are compared: see `LeastSquares`.
    order : {"C", "F"}, default "C"
        The order of a vector Y.
    uplo : {"U", "L"}, optional
        As for `LeastSquares`.
    tol : float, default 1e-09
        The fit has converged when its `optimality` is at most this.
    max_iter : int, default 200
        The largest number of Newton steps.
    callback : callable, optional
        Called with an `OptimizeResult` of ``x, cost, optimality, nit, nfev, n_products``: once at
        the start, where nit is 0, and after each step. It may raise StopIteration to stop.
    progress : bool, default False
        Show a bar of the passes over A, with cost and optimality, and the time that is left if the
        optimality falls on as over the later half of the passes. If A is streamed, also show a bar
        of each pass.
    check_finite : bool, default True
        Refuse NaN and infinity in A, Y and x0.
    workers : int, optional
        As for `JacobianBuilder`.
    memory : int, optional
        As for `JacobianBuilder`.
    rank : int, optional
        The number r of columns of x: see `JacobianBuilder`. x has the shape (k, r) then. Default: x
        is a vector.
    bilinear : bool, default False
        A and Y are m×n, and x has variables for the rows of A above those for its columns: see
        `JacobianBuilder`.
    regularization : float, default 0.0
        λ ≥ 0. The cost has the term ``λ ‖x‖² / 2`` more.
    loss : {"linear", "soft_l1", "huber", "cauchy", "arctan"}, default "linear"
        The cost is ``½ C² Σ ρ(r²/C²)`` for the residuals r, with ρ as in
        `scipy.optimize.least_squares`. All but the first are robust against outliers in Y.
    f_scale : float, default 1.0
        C, the size of residuals from which they count less.

    Returns
    -------
    result : scipy.optimize.OptimizeResult
        ``x`` (float64), ``cost`` and ``grad``; ``optimality``, which is ``‖D^-½ grad‖ / ‖Y‖`` with
        ``D = diag(JᵀJ)``, or with several columns its diagonal blocks; ``nit``, the number of
        steps; ``nfev``, the number of passes for cost and gradient; ``n_products``, the number of
        passes for products with a k×k matrix; ``history``, an array of (passes so far, cost,
        optimality) for the start and each step, where the passes are ``nfev + n_products``;
        ``success``, ``status`` and ``message``, which lists likely causes. With `bounds` also
        ``active_mask``, an integer array of the shape of x: -1 where x is at its lower bound, 1 at
        its upper bound, and 0 elsewhere.

        With `bounds`, the optimality is ``‖D^½ p‖ / ‖Y‖``, where p is the step nearest to
        ``-D⁻¹ grad`` for which ``x + p`` is within the bounds, and D is a diagonal in any case. If
        Y is zero, ``‖Y‖`` stands for the size of F at the x nearest to zero.
        ``grad`` is the gradient itself.

        The optimality does not depend on the scale of A and Y. D has a lower bound, so that x may
        tend to zero: 1e-4 times its value if all x_j were equal and F as large as Y.

        The status is an `enum.IntEnum`. Only 1 is a success:

        * 0, MAX_ITER: `max_iter` steps were made.
        * 1, CONVERGED: the optimality is at most `tol`, and no negative curvature was found.
        * 2, ROUNDING: rounding prevents further progress.
        * 3, OUT_OF_RANGE: float64 cannot hold the cost, the gradient, or the squares of A, Y or F.
          Cost, gradient and optimality may then be wrong by any amount.
        * 4, SADDLE: the gradient vanishes at a saddle that could not be left.
        * 5, DIVERGES: `max_iter` steps were made, and some x seem to grow without bound while the
          cost falls ever more slowly. With n steps, n ≥ 64, this means: the largest |x_j| grew by a
          tenth or more from step n/4 to n/2 and again to n, with a quarter of the latter growth
          (of its logarithm) after step 3n/4, and the cost fell both times, but less the second
          time. This proves nothing, and only takes the place of status 0. Add `regularization`,
          or bounds that limit x.
        * 99, CALLBACK: the callback stopped the fit.

    Raises
    ------
    ValueError
        As for `LeastSquares`; if `x0` has another shape or is not finite; if `tol` is negative or
        `max_iter` is not positive; if `regularization` is negative; if `bounds` have another
        shape, are NaN, cross, leave no finite x, or exclude x0.
    TypeError
        As for `LeastSquares`; if x0 is complex; if `callback` cannot be called; if `bounds` are no
        pair of real numbers or arrays; if Y, or an option of the problem, is given beside a
        `LeastSquares`, or neither is given.

    Notes
    -----
    **Method.** The first steps are those of Gauss and Newton in a trust region. Near a minimum with
    large residuals, such a step lowers the cost by less than it predicts. From then on the steps
    are Newton's, with exact second derivatives. Preconditioned conjugate gradients [1]_ reduce the
    residual of each linear system to a tenth. ``diag(JᵀJ)`` is the preconditioner and defines the
    norm of the trust region. After the first step that fails, Levenberg's damping is added, which
    vanishes with the gradient. A step that fails is shortened to the best length: on a line the
    cost is a quartic polynomial, whose coefficients take one more product. The inner loop is our
    own, because SciPy's cg supports neither negative curvature nor a trust region. SciPy's
    trust-krylov and trust-ncg have no preconditioner and solve more precisely. They took two to
    four times as many passes (`tests/benchmarks/bench_fit.py`).

    **Curvature.** Where the gradient vanishes, six steps of Lanczos' method search for a negative
    curvature of the Hessian H, in the form ``D^-½ H D^-½`` with the D of the optimality. That takes
    at most six products with H. The start of Lanczos' method is random, with a fixed seed. Its
    component along x, whose curvature is known, is removed. The last direction of negative
    curvature in conjugate gradients is added. If a Ritz value is below -1e-8 times the largest one,
    the point is a saddle. The fit then goes to the best point on the line along the Ritz vector, in
    either direction, and continues. This counts as a step. So success means that no Ritz value is
    below -1e-8. In a large problem six steps can miss a negative eigenvalue that is small or
    belongs to few variables. Up to 30 variables take as many steps as there are variables.

    **Start.** If most of ``A∘Y`` is positive, all x_j are equal at the start. Otherwise the start
    is in the direction in which the cost falls fastest from x = 0. Lanczos' method finds the most
    negative curvature there, and a power method treats those connected parts of A that the first
    vector does not reach. Curvatures are relative to the size of each variable, which is estimated
    from the data, so that parts of very different sizes are treated alike. An x0 of zeros is
    treated in the same way, but x is made equal only if all of ``A∘Y`` is positive. At most ten
    sweeps follow. Each sweep moves every variable half the way to the value that fits best if its
    neighbours are right. If x is equal, the first sweep leads to a weighted degree. Any other x0 is
    scaled to the minimum on its ray.

    **If the minimum is not unique.** ``F(x) = F(-x)``: the result has the sign of its start, and
    each connected part of A has its own sign. A variable without an entry of A keeps its x0, or is
    0, as it always is with `regularization`. If a part of x and all its neighbours tend to zero,
    the gradient vanishes there, whatever the data are. The fit then searches for the most negative
    curvature, as for the start, and starts these variables anew if the curvature is negative. This
    takes as many products as Lanczos' method needs. If a part of A is bipartite and has no entries
    on the diagonal, F stays the same if one side of x is multiplied by a number and the other side
    is divided by it. The result is
    then one of many. The problem is not convex: in general the result is a local minimum and
    depends on the start. For some data the cost falls while some x grow without bound and others
    vanish. The fit then ends with status 5, or with 0 if that is not visible yet.

    **Range.** The squares of A, of Y and of F must be float64 numbers. Entries beyond 1e±75 may be
    too large or too small for that. The status is 3 if a square overflows, or if so many entries of
    A or Y underflow that the result cannot be trusted. x0 may have any scale.

    **Several columns.** With `rank`, `bilinear` or `regularization`, blocks take the place of
    diagonals: the block of x_i in ``JᵀJ + λ I`` is an r×r matrix. The factors of these blocks are
    the preconditioner, and D above is their block diagonal. They are computed anew when x has moved
    by a twentieth of its length. Newton's steps begin below an optimality of 0.01, or after ten
    steps that hardly reduce the gradient. In the bilinear form, an x0 whose two factors have very
    different lengths is replaced by one with the same product X Yᵀ. The start is
    computed by six steps of a block Krylov method from ``A∘Y`` and fixed random numbers: its
    largest eigenvectors, or in the bilinear form its singular vectors, each relative to the size of
    A's rows. Columns for which the data have no positive eigenvalue begin with small random
    numbers. x is one of many solutions: any X Q with an orthogonal Q fits as well, and in the
    bilinear form any X G with Y G⁻ᵀ. Rows of A with fewer entries than r do not determine their
    x_i: take `regularization` then. The result also has ``n_blocks``, how often the blocks were
    computed, each of which takes ``r (r + 1) / 2`` sums in one pass.

    **Robust losses.** With another `loss` than "linear", the start is that of the squares, or x0 as
    it is. Steps are those of Gauss and Newton for the residuals with the weights ρ', and near a
    minimum those of Newton, with the blocks of several columns as the preconditioner. A step that
    fails is shortened by trying points. The optimality is relative to the root of twice the cost
    at x = 0. In general the cost has more local minima than the squares have. So with too small an
    `f_scale`, the fit finds a part of the data that fits well, and leaves the rest as outliers. If
    it is far below nearly all residuals, the cost hardly depends on x, and any x is optimal to
    within `tol`, an x0 too. Within bounds an x0 is taken as it is, too, unless it is zero.

    **Bounds.** With `bounds`, each step fixes the variables that are near a bound and whose
    gradient leads out of it; the others make a Newton step as above, also for a vector x. The
    search for a lower cost goes along the projection of the step (Bertsekas' two-metric method
    [2]_). The norm of the trust region and the preconditioner are those of several columns, without
    the fixed variables. Success means that the optimality is at most `tol` and that Lanczos' method
    found no negative curvature among the variables strictly within their bounds. Variables on a
    bound whose gradient vanishes, as in a column of zeros, are tested as well, together with those
    within their bounds. This test is a search in a cone by a power method, and for up to 200 such
    variables by 24 of them, each with the best partner. It may miss a negative curvature. A start
    from the data is that of the fit without bounds, where each x_i takes the sign that is nearer to
    its bounds and is then projected; so is an x0 of zeros, unless a robust cost is lower at zero.
    For squares, another x0 is scaled to the minimum on its ray, and projected, if that lowers the
    cost. Even if no bound is active, the steps are not those of a fit without bounds, and the
    result differs by rounding. It has ``n_blocks`` too; for a vector x, blocks are numbers and take
    no pass of their own.

    **Memory.** Besides A and Y, at most 20 k-vectors, and 3 more for a second worker if both are
    symmetric. If Lanczos' method is needed at x = 0 (data of both signs, x near 0), 35 k-vectors.
    Dense A and Y take 1 MiB, or what their layout needs, see `LeastSquares`, and what it converts.
    With several columns or a robust loss, at most 16 arrays of the shape of X and three of r×r
    blocks for each of its rows, or while the start is computed 12 arrays with two columns more than
    X. Besides there are the sums of each worker. For a sparse A, these are interleaved with
    what they are computed from, and are rounded up: at most six arrays of the shape of X. Bounds
    take 12 more arrays of the shape of x, and once more the blocks.

    References
    ----------
    .. [1] T. Steihaug, "The conjugate gradient method and trust regions in large scale
       optimization", SIAM J. Numer. Anal. 20 (1983), 626-637.
    .. [2] D. P. Bertsekas, "Projected Newton methods for optimization problems with simple
       constraints", SIAM J. Control Optim. 20 (1982), 221-246.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsejac import fit
    >>> A = np.array([[0.0, 2.0, 1.0], [2.0, 0.0, 3.0], [1.0, 3.0, 0.0]])
    >>> result = fit(A, A * np.outer([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]))
    >>> print(result.x.round(6), result.message.split(":")[0])
    [1. 2. 3.] converged

    The same data with another sign, and x ≥ 0:

    >>> x = np.array([1.0, 2.0, -3.0])
    >>> result = fit(A, A * np.outer(x, x), bounds=(0, np.inf))
    >>> result.success, result.active_mask
    (True, array([ 0,  0, -1]))

    A matrix of rank 2, of which some entries are unknown:

    >>> rng = np.random.default_rng(1)
    >>> M, known = rng.random((20, 2)) @ rng.random((2, 15)), rng.random((20, 15)) < 0.7
    >>> Z = fit(known, known * M, rank=2, bilinear=True).x
    >>> np.allclose(Z[:20] @ Z[20:].T, M)
    True

    Data of which a few are wrong:

    >>> x, wrong = np.linspace(1, 2, 30), np.zeros((30, 30))
    >>> wrong[3, 7] = wrong[20, 4] = 50
    >>> found = fit(np.ones((30, 30)), np.outer(x, x) + wrong, loss="cauchy", f_scale=0.1).x
    >>> np.allclose(abs(found), x, atol=1e-4)
    True
    """
    tol = _validation.nonnegative("tol", tol)
    max_iter = _validation.positive_integer("max_iter", max_iter)
    progress = _validation.flag("progress", progress)
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable, got {callback!r}")
    regularization = _validation.nonnegative("regularization", regularization)
    options: dict[str, Any] = {
        "rows": rows,
        "order": order,
        "uplo": uplo,
        "check_finite": check_finite,
        "workers": workers,
        "memory": memory,
        "rank": rank,
        "bilinear": bilinear,
        "loss": loss,
        "f_scale": f_scale,
    }
    if isinstance(A, LeastSquares):
        _validation.only_defaults(Y, options, _DEFAULTS)
        problem = A
    else:
        _validation.target_given(Y)
        problem = LeastSquares(A, Y, progress=progress, **options)
    builder = problem.builder
    if regularization:
        builder._rows.check_takes("regularization=")
    if x0 is not None:
        x0 = builder._checked_point("x0", x0)
        _validation.real("x0", x0.dtype, "least squares")
    of = builder._assembly.variables
    _validation.fits(
        f"what a fit of {of.count} rows and r = {of.rank} columns keeps",
        8 * of.size * (16 + 3 * of.rank) if of.rank > 1 else 0,
        "choose a smaller rank",
    )
    limits = None
    if bounds is not None:
        shape = _shape_of(problem)
        limits = _validation.bounds(bounds, shape)
        if x0 is not None:
            _validation.within("x0", x0.reshape(shape), limits)
    with (
        passes("fit", shown=progress) as bar,
        np.errstate(over="ignore", invalid="ignore", divide="ignore"),
    ):
        newton = _newton(problem, x0, limits, regularization, tol, callback, bar)
        with last_x_saved(lambda: newton.x):
            return _shaped(problem, newton.run(max_iter))


# The options of a problem, as fit has them if they are left out.
_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(LeastSquares).parameters.items()
    if parameter.default is not inspect.Parameter.empty
}


def _newton(
    problem: LeastSquares,
    x0: Any,
    limits: tuple[NDArray[Any], NDArray[Any]] | None,
    regularization: float,
    tol: float,
    callback: Any,
    bar: Any,
) -> Newton | BlockNewton:
    """The method for this problem. The one for a vector does without blocks."""
    builder = problem.builder
    of, several = builder._assembly.variables, isinstance(builder._assembly, RankAssembly)

    def shaped(state: OptimizeResult) -> None:
        callback(_shaped(problem, state))

    told = shaped if callback is not None else None
    if limits is not None:
        return _bounded(problem, x0, limits, regularization, tol, told, bar)
    robust = problem._loss.name != "linear"
    if not (several or robust) and regularization == 0:
        x0 = x0 if x0 is None else x0.reshape(-1)
        return Newton(problem._sums, builder._rows, x0, tol, told, bar)
    if x0 is not None:
        x0 = np.array(x0, np.float64, order="C").reshape(of.shape)
        if builder._rows.layout.bilinear:
            x0 = balanced(x0, max(of.row_offset, of.column_offset))
    newton = None
    if not robust or x0 is None:
        newton = BlockNewton(problem._rank_sums, x0, regularization, tol, told, bar)
        if not robust:
            return newton
        x0 = newton.x
    robust_newton = RobustNewton(problem._sums, x0, regularization, tol, told, bar)
    if newton is not None:
        robust_newton.count_also(newton)
    return robust_newton


def _bounded(
    problem: LeastSquares,
    x0: Any,
    limits: tuple[NDArray[Any], NDArray[Any]],
    regularization: float,
    tol: float,
    callback: Any,
    bar: Any,
) -> BoundedNewton:
    """The method within bounds, from x0, or from the start of the method without bounds."""
    builder = problem.builder
    of, several = builder._assembly.variables, isinstance(builder._assembly, RankAssembly)
    low, high = (np.ascontiguousarray(limit).reshape(of.shape) for limit in limits)
    robust, before = problem._loss.name != "linear", None
    if x0 is None or not x0.any():
        # A robust fit without bounds would begin at zeros if it is given zeros.
        start, is_zero = None if robust else x0, x0 is not None
        before = _newton(problem, start, None, regularization, tol, None, bar)
        x0 = nearest_with_sign(before.x.reshape(of.shape), low, high)
        if robust and is_zero:
            there, at_zero = before._evaluate(x0), before._evaluate(np.zeros(of.shape))
            x0 = (there if there.cost < at_zero.cost else at_zero).x
    sums = problem._sums
    if not (several or robust):
        sums = OneColumn(sums, builder._rows.diagonal())
    x0 = np.array(x0, np.float64, order="C").reshape(of.shape)
    if builder._rows.layout.bilinear:
        x0 = balanced_within(x0, max(of.row_offset, of.column_offset), low, high)
    method = BoundedRobustNewton if robust else BoundedNewton
    newton = method(sums, x0, (low, high), regularization, tol, callback, bar)
    if before is not None:
        newton.count_also(before)
    return newton


def _shape_of(problem: LeastSquares) -> tuple[int, ...]:
    """The shape that x has for the user."""
    builder = problem.builder
    return problem.shape[1:] if builder._rank is None else builder._assembly.variables.shape


def _shaped(problem: LeastSquares, result: OptimizeResult) -> OptimizeResult:
    """The result with arrays of the shape that x has for the user."""
    for name in ("x", "grad", "active_mask"):
        if name in result:
            result[name] = result[name].reshape(_shape_of(problem))
    return result
