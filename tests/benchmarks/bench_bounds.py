"""Fits within bounds on real patterns, beside SciPy's: A = 1 where they have entries, and
Y = A∘(x xᵀ) with a tenth of noise, where a fifth of x is negative. All start from x0 = 1, or with
several columns from random numbers.

With x ≥ 0 alone, the graph has no best x: nodes with one neighbour grow without bound where the
other neighbours of it draw it to zero.
"""

import numpy as np
import pytest
import scipy.sparse
from fits import interleaved, lbfgs, noisy, ones_where_stored
from scipy.optimize import least_squares

from sparsejac import LeastSquares, fit

pytestmark = pytest.mark.filterwarnings("default")
BOUNDS = {"0 ≤ x ≤ 5": (0.0, 5.0), "0.5 ≤ x ≤ 1.5": (0.5, 1.5)}


@pytest.fixture(params=["hic_yeast_10kb", "graph_enron"])
def data(request):
    name = request.param
    A = ones_where_stored(request.getfixturevalue("real_data")(f"{name}.npz"))
    rng = np.random.default_rng(0)
    k = A.shape[0]
    x = rng.lognormal(0, 0.5, k) * np.where(rng.random(k) < 0.2, -1, 1)
    return name, A, noisy(A, x, rng)


def ours(A, Y, x0, bounds, rank):
    result = fit(A, Y, x0, bounds=bounds, rank=rank)
    return result.x.ravel(), result.nfev + result.n_products


def with_gradients(A, Y, x0, bounds, rank):
    return lbfgs(LeastSquares(A, Y, rank=rank), x0, 2000, bounds)


def trf(A, Y, x0, bounds, rank):
    """`least_squares` with its method for bounds, to ``ftol=1e-12`` or 20 evaluations."""
    problem = LeastSquares(A, Y, rank=rank)
    options = {"ftol": 1e-12, "xtol": 1e-15, "gtol": 1e-15, "max_nfev": 20}
    result = least_squares(
        problem.fun, x0.ravel(), jac=problem.jac, bounds=bounds, tr_solver="lsmr", **options
    )
    return result.x, None


@pytest.mark.parametrize("rank", [None, 3])
@pytest.mark.parametrize("limits", BOUNDS)
def test_fit(data, rank, limits, benchmark, record):
    """Medians of interleaved rounds: five, two of L-BFGS-B, and one of `least_squares`."""
    (name, A, Y), bounds = data, BOUNDS[limits]
    k = A.shape[0]
    x0 = np.ones(k)
    if rank is not None:  # equal columns would stay equal
        x0 = np.clip(np.random.default_rng(1).random((k, rank)), *bounds)
    solvers = {"fit": ours, "L-BFGS-B": with_gradients, "least_squares": trf}
    few = scipy.sparse.eye_array(30, format="csr")
    few = few, few, np.full(x0[:30].shape, 1.2), bounds, rank
    which = f"{name}, {limits}" + (f", r = {rank}" if rank else "")
    benchmark.group, benchmark.name = "bounds", f"bounds, {which}"
    rounds = {"L-BFGS-B": 2, "least_squares": 1}
    arguments = solvers, few, (A, Y, x0, bounds, rank), rounds
    medians, found = benchmark.pedantic(interleaved, arguments, rounds=1)
    check = LeastSquares(A, Y, rank=rank)
    costs = {solver: check.cost(x) for solver, (x, _) in found.items()}
    for solver, (x, passes) in found.items():
        # The gradient, projected: 0 where it leads out of the bounds.
        step = np.clip(x - check.grad(x), *bounds) - x
        at_bound = np.mean((x <= bounds[0] + 1e-9) | (x >= bounds[1] - 1e-9))
        record(
            "fits within bounds",
            {
                "problem": which if solver == "fit" else "",
                "solver": solver,
                "ms": f"{1e3 * medians[solver]:.3g}",
                "× fit": f"{medians[solver] / medians['fit']:.1f}",
                "passes": passes or "",
                "cost above the best": f"{costs[solver] / min(costs.values()) - 1:.0e}",
                "projected gradient": f"{np.linalg.norm(step):.0e}",
                "at a bound": f"{at_bound:.0%}",
            },
        )
