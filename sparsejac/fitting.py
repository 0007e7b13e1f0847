"""The function `fit`: the x whose ``A ∘ (x xᵀ)`` is nearest to Y."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import OptimizeResult

from . import _validation
from ._solvers.fit import Newton
from ._system.progress import passes
from ._validation import Order, Rows
from .least_squares import LeastSquares


def fit(
    A: Any,
    Y: Any,
    x0: ArrayLike | None = None,
    *,
    rows: Rows | None = None,
    order: Order = "C",
    tol: float = 1e-9,
    max_iter: int = 200,
    callback: Callable[[OptimizeResult], object] | None = None,
    progress: bool = False,
    check_finite: bool = True,
    workers: int | None = None,
    memory: int | None = None,
) -> OptimizeResult:
    """Minimise ``½‖A ∘ (x xᵀ) - Y‖²``: weighted rank-one approximation, by Newton's method in k-space.

    Parameters
    ----------
    A : array_like or SciPy sparse array or matrix, shape (k, k)
        As for `LeastSquares`: real.
    Y : array_like or SciPy sparse array or matrix, shape (k, k) or (m,)
        As for `LeastSquares`.
    x0 : array_like, shape (k,), optional
        Where to start. Default: from the data, see below.
    rows : {"all", "stored", "upper"}, default "stored"
        Which entries of F and Y are compared: see `LeastSquares`.
    order : {"C", "F"}, default "C"
        That of a vector Y.
    tol : float, default 1e-09
        Converged is what has an `optimality` of at most this.
    max_iter : int, default 200
        Newton steps at most.
    callback : callable, optional
        Called after each step with an `OptimizeResult` of ``x, cost, optimality, nit, nfev, n_products``. It may raise StopIteration to stop.
    progress : bool, default False
        Show a bar of the passes over A, with cost and optimality; of a streamed A also one of each pass.
    check_finite : bool, default True
        Refuse NaN and infinity in A, Y and x0.
    workers : int, optional
        As for `JacobianBuilder`.
    memory : int, optional
        As for `JacobianBuilder`.

    Returns
    -------
    result : scipy.optimize.OptimizeResult
        ``x`` (float64), ``cost``, ``grad``; ``optimality``, which is ``‖D^-½ grad‖ / ‖Y‖`` with ``D = diag(JᵀJ)`` (not less than a
        ten-thousandth of what D would be if all x_j were equal and F as large as Y, so that x may tend to zero): the same for
        any scale of A and Y; ``nit`` steps; ``nfev`` passes for cost and gradient; ``n_products`` passes for
        products with a k×k matrix; ``success``, ``message`` and ``status``: 1 converged, and no negative curvature was
        found; 0 max_iter was reached; 2 rounding prevents progress; 3 cost or gradient are not finite, or float64 cannot
        hold the squares of A, Y or F; 4 the gradient vanishes at a saddle that could not be left; 99 stopped by the
        callback. Only 1 is a success. With status 3, cost, gradient and optimality may be wrong by any amount.

    Raises
    ------
    ValueError
        As `LeastSquares`; if `x0` has another shape or is not finite; if `tol` is negative or `max_iter` not positive.
    TypeError
        As `LeastSquares`; if x0 is complex; if `callback` cannot be called.

    Notes
    -----
    **Method.** Gauss and Newton's steps in a trust region; near a minimum with large residuals, which shows when such
    a step falls short of what it predicts, Newton's with exact second derivatives. Each is solved to a tenth by
    preconditioned conjugate gradients [1]_, with ``diag(JᵀJ)`` as preconditioner and for the norm of the trust
    region. Once a step has failed, Levenberg's damping is added, which vanishes with the gradient, and a step that
    fails is shortened to the best along it: on a line the cost is a quartic polynomial, and one product more tells
    its coefficients. The inner loop is our own: SciPy's cg knows neither negative curvature nor a trust region, and
    its trust-krylov and trust-ncg, which have no preconditioner and solve more precisely, took two to four times as
    many passes (`tests/benchmarks/bench_fit.py`).

    **Curvature.** Where the gradient has vanished, six steps of Lanczos' method look for a negative curvature of the
    Hessian H, in the form ``D^-½ H D^-½`` with the D of the optimality. That takes at most six products with H. The
    start is random, of a fixed seed, with no part in x, whose curvature is known, and with the last direction of
    negative curvature that conjugate gradients met. A Ritz value below -1e-8 of the largest is a saddle. The fit then
    goes to the best point on the line along its vector, in either direction, and continues. Each time counts as a
    step. So success means that no Ritz value is below -1e-8. In a large problem six steps can miss a negative
    eigenvalue that is small or belongs to few variables.

    **Start.** If most of ``A∘Y`` is positive, all x are equal. Otherwise the start is made from the direction in
    which the cost falls fastest from x = 0: from Lanczos' method for the most negative curvature there, and from a
    power method for those connected parts of A that the first vector does not reach. Curvatures are relative to what
    the data ask of each variable, so parts of very different sizes are alike. A start at x = 0 is treated in the same
    way, with equal x only if all of ``A∘Y`` is positive. At most ten sweeps follow. Each moves every variable half
    the way to what fits best if its neighbours are right: the first one, from equal ones, to a weighted degree. Any
    other start is scaled to the minimum on its ray.

    **What is defined where the minimum is not.** ``F(x) = F(-x)``: of the two signs, the result has the one of its
    start, and each connected part of A has its own. A variable that no entry of A reaches keeps its x0, or is 0.
    Where x, or a part of it, is zero or tends to zero with all its neighbours, the gradient vanishes whatever the
    data. The most negative curvature is looked for there, as for the start, and if it is negative, these variables
    start anew. This takes as many products as Lanczos' method needs. A part of A that is bipartite, without entries
    on the diagonal, leaves F unchanged if one side is multiplied by what the other is divided by: the result is one
    of many. The problem is not convex: the result is in general a local minimum, and depends on the start. There are
    data whose cost falls while some x grow without bound and others vanish: there it ends with status 0.

    **Range.** Squares of A, of Y and of F must be float64 numbers, which those of entries beyond 1e±75 may not be. If
    one overflows, or if so much of A's or Y's entries is lost to underflow that the result cannot be trusted, the
    status is 3. x0 may have any scale.

    **Memory.** Beside A and Y at most 20 k-vectors, and 3 more for a second worker if both are symmetric; 35 where
    Lanczos is needed at x = 0 (data of both signs, x near 0); for dense ones 1 MiB or what their layout needs, see
    `LeastSquares`, and what it converts.

    References
    ----------
    .. [1] T. Steihaug, "The conjugate gradient method and trust regions in large scale optimization", SIAM J. Numer. Anal. 20
       (1983), 626-637.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsejac import fit
    >>> A = np.array([[0.0, 2.0, 1.0], [2.0, 0.0, 3.0], [1.0, 3.0, 0.0]])
    >>> result = fit(A, A * np.outer([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]))
    >>> print(result.x.round(6), result.message.split(":")[0])
    [1. 2. 3.] converged
    """
    tol = _validation.nonnegative("tol", tol)
    max_iter = _validation.positive_integer("max_iter", max_iter)
    progress = _validation.flag("progress", progress)
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable, got {callback!r}")
    problem = LeastSquares(
        A,
        Y,
        rows=rows,
        order=order,
        check_finite=check_finite,
        workers=workers,
        memory=memory,
        progress=progress,
    )
    if x0 is not None:
        k = problem.shape[1]
        x0 = _validation.vector("x0", x0, k, f"as A is {k}x{k}", finite=check_finite)
        _validation.real("x0", x0.dtype, "least squares")
    with (
        passes("fit", shown=progress) as bar,
        np.errstate(over="ignore", invalid="ignore", divide="ignore"),
    ):
        return Newton(problem._sums, problem.builder._rows, x0, tol, callback, bar).run(max_iter)
