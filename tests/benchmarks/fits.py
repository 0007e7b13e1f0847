"""What the benchmarks of fits share: data with a known x, and interleaved runs of the solvers."""

import statistics
import time

import numpy as np
import scipy.sparse
from scipy.optimize import minimize


def ones_where_stored(A):
    """A CSR matrix of ones where a matrix, or a file of one, has entries."""
    if not scipy.sparse.issparse(A):
        A = scipy.sparse.load_npz(A)
    A = scipy.sparse.csr_array(A).astype(np.float64)
    A.sum_duplicates()
    A.data[:] = 1
    return A


def noisy(A, x, rng):
    """``A ∘ (x xᵀ)`` with a tenth of noise in each entry, for an A of ones."""
    Y = A.copy()
    i = np.repeat(np.arange(A.shape[0]), np.diff(A.indptr))
    Y.data = x[i] * x[A.indices] * (1 + 0.1 * rng.standard_normal(A.nnz))
    return Y


def lbfgs(problem, x0, most, bounds=None):
    """The x of SciPy's L-BFGS-B with our gradient, and its passes.

    It ends if the gradient falls to 1e-8 of its start, or after so many evaluations at most.
    """
    gtol = 1e-8 * np.abs(problem.grad(x0)).max()
    result = minimize(
        problem.value_and_grad,
        x0.ravel(),
        jac=True,
        method="L-BFGS-B",
        bounds=None if bounds is None else [bounds] * x0.size,
        options={"maxiter": most, "maxfun": most, "ftol": 1e-15, "gtol": gtol},
    )
    return result.x, result.nfev


def interleaved(solvers, few, problem, rounds):
    """({solver: median of its seconds}, {solver: its last result}).

    Each takes the arguments `few` first, which compiles. There are five rounds, and a solver takes
    part in so many of them as `rounds` says, if it says so.
    """
    times, found = {solver: [] for solver in solvers}, {}
    for run in solvers.values():
        run(*few)
    for number in range(5):
        for solver, run in solvers.items():
            if number < rounds.get(solver, 5):
                begin = time.perf_counter()
                found[solver] = run(*problem)
                times[solver].append(time.perf_counter() - begin)
    return {solver: statistics.median(measured) for solver, measured in times.items()}, found
