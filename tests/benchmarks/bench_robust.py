"""Robust rank-one fits on real patterns, beside SciPy's: A = 1 where they have entries, and
Y = A∘(x xᵀ) with a tenth of noise, of which one entry in twenty is ten times as large.
"""

import numpy as np
import pytest
import scipy.sparse
from fits import interleaved, lbfgs, noisy, ones_where_stored
from scipy.optimize import least_squares

from sparsejac import LeastSquares, fit

pytestmark = pytest.mark.filterwarnings("default")
F_SCALE = 0.3


@pytest.fixture(params=["hic_yeast_10kb", "graph_facebook"])
def data(request):
    name = request.param
    A = ones_where_stored(request.getfixturevalue("real_data")(f"{name}.npz"))
    rng = np.random.default_rng(0)
    x = rng.lognormal(0, 0.5, A.shape[0])
    Y = noisy(A, x, rng)
    Y.data[rng.random(A.nnz) < 0.05] *= 10
    return name, A, Y, x


def ours(A, Y, x0, loss):
    result = fit(A, Y, x0, loss=loss, f_scale=F_SCALE)
    return result.x, result.nfev + result.n_products


def with_gradients(A, Y, x0, loss):
    return lbfgs(LeastSquares(A, Y, loss=loss, f_scale=F_SCALE), x0, 2000)


def trf(A, Y, x0, loss):
    """`least_squares` with this loss and our J, to ``ftol=1e-12`` or 20 evaluations."""
    problem = LeastSquares(A, Y)
    result = least_squares(
        problem.fun,
        x0,
        jac=problem.jac,
        tr_solver="lsmr",
        loss=loss,
        f_scale=F_SCALE,
        ftol=1e-12,
        xtol=1e-15,
        gtol=1e-15,
        max_nfev=20,
    )
    return result.x, None


@pytest.mark.parametrize("loss", ["linear", "soft_l1", "huber", "cauchy", "arctan"])
def test_fit(data, loss, benchmark, record):
    """Medians of interleaved rounds: five, two of L-BFGS-B, and one of `least_squares`."""
    name, A, Y, x = data
    x0 = np.ones(A.shape[0])
    few = scipy.sparse.eye_array(30, format="csr")
    few = few, few, np.full(30, 1.2), loss
    solvers = {"fit": ours, "L-BFGS-B": with_gradients, "least_squares": trf}
    rounds = {"L-BFGS-B": 2, "least_squares": 1}
    benchmark.group, benchmark.name = "robust", f"robust, {name}, {loss}"
    arguments = solvers, few, (A, Y, x0, loss), rounds
    medians, found = benchmark.pedantic(interleaved, arguments, rounds=1)
    check = LeastSquares(A, Y, loss=loss, f_scale=F_SCALE)
    costs = {solver: check.cost(x) for solver, (x, _) in found.items()}
    start = np.linalg.norm(check.grad(x0))
    for solver, (found_x, passes) in found.items():
        record(
            "robust fits",
            {
                "problem": f"{name}, {loss}" if solver == "fit" else "",
                "solver": solver,
                "ms": f"{1e3 * medians[solver]:.3g}",
                "× fit": f"{medians[solver] / medians['fit']:.1f}",
                "passes": passes or "",
                "cost above the best": f"{costs[solver] / min(costs.values()) - 1:.0e}",
                "gradient / its start": f"{np.linalg.norm(check.grad(found_x)) / start:.0e}",
                "error of x": f"{np.median(abs(abs(found_x) / x - 1)):.1%}",
            },
        )
