"""Weighted rank-one fits on real patterns: A = 1 where they have entries, Y = A∘(x xᵀ) with a tenth
of noise, from x0 = 1.
"""

import statistics
import tracemalloc

import numpy as np
import pytest
import scipy.sparse
from fits import interleaved, lbfgs, noisy, ones_where_stored
from scipy.optimize import least_squares, minimize
from support import random_csr

from sparsejac import LeastSquares, fit

pytestmark = pytest.mark.filterwarnings("default")
PATTERNS = ["hic_yeast_10kb", "hic_dm6_100kb", "graph_facebook", "graph_enron"]
SEEDS = range(20)


@pytest.fixture(params=["random, 10000 rows", *PATTERNS])
def problem(request):
    name = request.param
    if name.startswith("random"):
        A = random_csr(10_000, 10)
        A = ones_where_stored((A + A.T).tocsr())
    else:
        A = ones_where_stored(request.getfixturevalue("real_data")(f"{name}.npz"))
    rng = np.random.default_rng(0)
    k = A.shape[0]
    Y = noisy(A, rng.lognormal(0, 0.5, k), rng)
    return name, A, Y, np.ones(k)


def ours(A, Y, x0):
    result = fit(A, Y, x0)
    return result.x, result.nfev + result.n_products


def trust_krylov(A, Y, x0):
    """With our closed forms, and variables scaled by 1/√diag(JᵀJ), to a gradient of 1e-8 of its
    start.
    """
    problem = LeastSquares(A, Y)
    scale, passes = problem.x_scale(x0), [1]

    def value_and_grad(z):
        passes[0] += 1
        cost, gradient = problem.value_and_grad(z * scale)
        return cost, gradient * scale

    def hessp(z, v):
        passes[0] += 1
        return scale * problem.hessp(z * scale, scale * v)

    tolerance = 1e-8 * np.linalg.norm(scale * problem.grad(x0))
    options = {"gtol": tolerance, "maxiter": 1000}
    result = minimize(
        value_and_grad, x0 / scale, jac=True, hessp=hessp, method="trust-krylov", options=options
    )
    return result.x * scale, passes[0]


def with_gradients(A, Y, x0):
    return lbfgs(LeastSquares(A, Y), x0, 10_000)


def scipy_csr(A, Y, x0):
    """`least_squares(csr, lsmr)` to ``ftol=1e-12``, or 100 evaluations: on graphs it does not get
    there.
    """
    problem = LeastSquares(A, Y)
    options = {"ftol": 1e-12, "xtol": 1e-15, "gtol": 1e-15, "max_nfev": 100}
    result = least_squares(problem.fun, x0, jac=problem.jac_csr, tr_solver="lsmr", **options)
    return result.x, None


def test_fit(problem, benchmark, record):
    """Medians of five interleaved rounds, one for least_squares. Each starts from A, Y and x0."""
    name, A, Y, x0 = problem
    check = LeastSquares(A, Y)
    start = np.linalg.norm(check.grad(x0))
    solvers = {
        "fit": ours,
        "trust-krylov": trust_krylov,
        "L-BFGS-B": with_gradients,
        "least_squares": scipy_csr,
    }
    few = scipy.sparse.eye_array(30, format="csr")
    few = few, few, np.full(30, 2.0)
    benchmark.group, benchmark.name = "fit", f"fit, {name}"
    rounds = {"L-BFGS-B": 2, "least_squares": 1}
    arguments = solvers, few, (A, Y, x0), rounds
    medians, found = benchmark.pedantic(interleaved, arguments, rounds=1)
    tracemalloc.start()
    fit(A, Y, x0)
    vectors = tracemalloc.get_traced_memory()[1] / (8 * A.shape[0])
    tracemalloc.stop()
    costs = {solver: check.cost(x) for solver, (x, _) in found.items()}
    for solver, (x, passes) in found.items():
        record(
            "fits",
            {
                "pattern": f"{name}, k = {A.shape[0]}, {A.nnz} entries" if solver == "fit" else "",
                "solver": solver,
                "ms": f"{1e3 * medians[solver]:.3g}",
                "× fit": f"{medians[solver] / medians['fit']:.1f}",
                "passes": passes or "",
                "cost above the best": f"{costs[solver] / min(costs.values()) - 1:.0e}",
                "gradient / its start": f"{np.linalg.norm(check.grad(x)) / start:.0e}",
                "peak, k-vectors": f"{vectors:.0f}" if solver == "fit" else "",
            },
        )


@pytest.mark.parametrize("kind", ["lognormal", "normal"])
def test_random_starts(problem, benchmark, record, kind):
    """20 seeds: how many converged, and how many of those to the best cost."""
    name, A, Y, x0 = problem
    best = fit(A, Y, x0).cost
    results = []

    def all_seeds():
        for seed in SEEDS:
            rng = np.random.default_rng(seed)
            start = (
                rng.lognormal(0, 1, x0.size)
                if kind == "lognormal"
                else rng.standard_normal(x0.size)
            )
            results.append(fit(A, Y, start))

    benchmark.group, benchmark.name = "random starts", f"{kind}, {name}"
    benchmark.pedantic(all_seeds, rounds=1)
    converged = [result for result in results if result.success]
    passes = [result.nfev + result.n_products for result in results]
    record(
        "random starts, seeds 0 to 19",
        {
            "pattern": name,
            "start": kind,
            "converged": len(converged),
            "to the best cost": sum(result.cost <= best * (1 + 1e-6) for result in converged),
            "passes (median)": int(statistics.median(passes)),
        },
    )
