"""Several columns of variables: JᵀJ V beside passes with one column and beside physical limits, and
fits of rank r beside SciPy's minimisers.
"""

import contextlib
import statistics
import time

import numba
import numpy as np
import peers
import pytest
import scipy.sparse
from limits import on_two_threads
from scipy.optimize import minimize
from support import random_csr

from sparsejac import JacobianBuilder, LeastSquares, fit
from sparsejac._backends.partition import partial_sums
from sparsejac._kernels.row import _prefetch
from sparsejac.fitting import _newton

RANKS = [2, 3, 4, 8, 32]
SECONDS = 60  # for one run of one of SciPy's minimisers
CLOSE = 1e-9  # how far from the best cost, relative to it, a fit is as good as the best
pytestmark = pytest.mark.filterwarnings("default")


def rank_one_passes(A, X, V):
    """A function that makes 2 r passes over A, each with one column."""
    builder = JacobianBuilder(A, rows="stored", workers=2)
    columns = [
        (builder.operator(x).normal(), v.copy())
        for x, v in zip(X.T.copy(), V.T.copy(), strict=True)
    ]

    def passes():
        for _ in range(2):
            for op, v in columns:
                op @ v

    return passes


# --- sparse A -------------------------------------------------------------------------------------


@pytest.fixture(
    scope="module", params=[(10_000, 20), (1_000_000, 10)], ids=lambda param: str(param[0])
)
def sparse(request):
    k, per_row = request.param
    return k, random_csr(k, per_row)


@numba.njit(nogil=True, error_model="numpy")
def gather(indices, indptr, out, rank, i0, i1):
    """Touch, for each entry, what JᵀJ V must: three rows of numbers, of which one is written."""
    for p in range(indptr[i0], indptr[i1]):
        ahead = np.int64(indices[min(p + 8, indices.size - 1)]) * out.shape[1]
        for c in range(0, out.shape[1], 8):  # a cache line each
            _prefetch(out, ahead + c)
        row = out[np.uint64(indices[p])]
        x, v, total = row[:rank], row[rank : 2 * rank], row[2 * rank :]
        for c in range(rank):
            total[c] += x[c] + v[c]


def gather_only(A, X, V, threads):
    """A function that only gathers. Its operands lie interleaved, and nothing else is made."""
    k, rank = X.shape
    outs = [np.hstack([X, V, np.zeros_like(X)]) for _ in range(threads)]
    middle = int(np.searchsorted(A.indptr, A.nnz // 2))
    if threads == 1:
        return lambda: gather(A.indices, A.indptr, outs[0], rank, 0, k)

    def half(number):
        (number,) = number
        gather(A.indices, A.indptr, outs[number], rank, *((0, middle), (middle, k))[number])

    return lambda: on_two_threads(half, np.arange(2))


@pytest.mark.parametrize("rank", RANKS)
def test_sparse(race, sparse, rank):
    k, A = sparse
    rng = np.random.default_rng(1)
    X, V = rng.random((k, rank)), rng.random((k, rank))
    builder = JacobianBuilder(A, rows="stored", rank=rank, workers=2)
    op, v = builder.operator(X).normal(), V.ravel()
    contestants = {
        "normal() @ v": lambda: (op @ v).reshape(k, rank),
        "variant: 2 r passes with one column": rank_one_passes(A, X, V),
    }
    if rank == 32:
        # As many threads as ours uses. It takes two where there are two partial sums or more.
        several = partial_sums(builder._pattern, 2, k) > 1
        contestants["limit: gathering alone"] = gather_only(A, X, V, 1 + several)
    others = peers.of_rank(A, X, V) if rank == 8 and k <= 10_000 else {}
    race("sparse JᵀJ V", f"{k} rows, r = {rank}", contestants | others)


# --- dense A --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [2, 4, 8, 32])
@pytest.mark.parametrize("k", [300, 3000], ids="k = {}".format)
def test_dense(race, k, rank):
    rng = np.random.default_rng(0)
    A, X, V = rng.random((k, k)), rng.random((k, rank)), rng.random((k, rank))
    B = rng.random((k, 4 * rank))
    op, v = JacobianBuilder(A, rank=rank, workers=2).operator(X).normal(), V.ravel()
    contestants = {
        "normal() @ v": lambda: (op @ v).reshape(k, rank),
        "variant: 2 r passes with one column": rank_one_passes(A, X, V),
        "limit: A @ B of the same flops": lambda: A @ B,
    }
    others = peers.of_rank(A, X, V) if rank == 8 else {}
    race("dense JᵀJ V", f"{k} rows, r = {rank}", contestants | others)


# --- fits -----------------------------------------------------------------------------------------


def counts(path):
    """A map of counts C, each with the weight 1/C."""
    C = scipy.sparse.csr_array(scipy.sparse.load_npz(path)).astype(np.float64)
    C.sum_duplicates()
    C.eliminate_zeros()
    A, Y = C.copy(), C
    A.data, Y.data = 1 / np.sqrt(C.data), np.sqrt(C.data)
    return A, Y


def completion(m, n, rank, known):
    """An m×n matrix of rank r, of which this part of the entries is known, with a noise of 1e-3."""
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((m, rank)), rng.standard_normal((n, rank))
    A = scipy.sparse.random_array((m, n), density=known, rng=rng, format="csr")
    A.sort_indices()
    A.data[:] = 1
    M = A.copy()
    i = np.repeat(np.arange(m), np.diff(A.indptr))
    M.data = np.einsum("ec,ec->e", X[i], Y[A.indices]) + 1e-3 * rng.standard_normal(A.nnz)
    return A, M


class Fit:
    """A problem, and the runs of the solvers on it: ``[(seconds, cost, passes), …]`` each."""

    def __init__(self, A, Y, options):
        self.given, self.options = (A, Y), options
        problem = LeastSquares(A, Y, **options)
        with np.errstate(all="ignore"):
            self.start = _newton(problem, None, None, 0.0, 0.0, None, None).x.copy()
        spread = np.random.default_rng(1).standard_normal(self.start.shape)
        self.random = spread * np.sqrt(np.mean(self.start**2))

    def ours(self, x0):
        history, begin = [], time.perf_counter()

        def told(state):
            seconds = time.perf_counter() - begin
            history.append((seconds, state.cost, state.nfev + state.n_products))

        result = fit(*self.given, x0, callback=told, **self.options)
        told(result)
        return history

    def scipy(self, method):
        """By closed forms of ours, and for trust-krylov with variables scaled by 1/√diag(JᵀJ)."""
        history, begin, passes = [], time.perf_counter(), 0
        problem = LeastSquares(*self.given, **self.options)
        x0 = self.start.ravel()
        scale = problem.x_scale(x0) if method == "trust-krylov" else np.ones(x0.size)

        def count():
            nonlocal passes
            passes += 1
            if time.perf_counter() - begin > SECONDS:
                raise TimeoutError

        def value_and_grad(z):
            count()
            cost, gradient = problem.value_and_grad(z * scale)
            history.append((time.perf_counter() - begin, cost, passes))
            return cost, gradient * scale

        def hessp(z, v):
            count()
            if not np.isfinite(v).all():  # trlib's own, where rounding leaves it nothing to do
                raise FloatingPointError
            return scale * problem.hessp(z * scale, scale * v)

        options = {"gtol": 1e-11 * np.linalg.norm(problem.grad(x0) * scale), "maxiter": 10**6}
        more = {"hessp": hessp}
        if method == "L-BFGS-B":
            options |= {"maxfun": 10**6, "ftol": 1e-16, "maxcor": 20}
            more = {}
        z0 = x0 / scale
        with contextlib.suppress(TimeoutError, FloatingPointError):
            minimize(value_and_grad, z0, jac=True, method=method, options=options, **more)
        history.append((time.perf_counter() - begin, history[-1][1], passes))
        return history


def reached(history, cost):
    """(seconds, passes) until the cost was as low as this; inf if it never was."""
    return next(
        ((seconds, passes) for seconds, found, passes in history if found <= cost),
        (np.inf, ""),
    )


@pytest.mark.parametrize(
    ("name", "rank"),
    [
        ("completion, 300x200", 3),
        ("completion, 2000x1500", 5),
        ("hic_yeast_10kb", 2),
        ("hic_yeast_10kb", 4),
    ],
)
def test_fit(benchmark, record, request, name, rank):
    """Seconds until the cost is within 1e-9 of the best that any of them found: medians of up to
    five interleaved runs.

    All but two begin at the point that `fit` makes of A and Y. The time to make it counts in "fit,
    from A and Y" alone. What has not reached the best cost may have gone to another local minimum.
    """
    if name.startswith("completion"):
        m, n = map(int, name.split()[1].split("x"))
        A, Y = completion(m, n, rank, 0.3 if m < 1000 else 0.1)
    else:
        A, Y = counts(request.getfixturevalue("real_data")(f"{name}.npz"))
    problem = Fit(A, Y, {"rank": rank, "bilinear": name.startswith("completion")})
    solvers = {
        "fit": lambda: problem.ours(problem.start),
        "fit, from A and Y": lambda: problem.ours(None),
        "fit, random start": lambda: problem.ours(problem.random),
        "trust-krylov": lambda: problem.scipy("trust-krylov"),
        "L-BFGS-B": lambda: problem.scipy("L-BFGS-B"),
    }
    runs = {solver: [] for solver in solvers}

    def rounds():
        problem.ours(None)  # compiled
        LeastSquares(A, Y, **problem.options).hessp(problem.start, problem.start)
        for _ in range(5):
            for solver, run in solvers.items():
                if sum(history[-1][0] for history in runs[solver]) < SECONDS / 6:
                    runs[solver].append(run())

    benchmark.group, benchmark.name = "fits of rank r", f"{name}, r = {rank}"
    benchmark.pedantic(rounds, rounds=1)
    least = {solver: min(cost for _, cost, _ in histories[0]) for solver, histories in runs.items()}
    best = min(least.values())
    found = {
        solver: [reached(history, best * (1 + CLOSE)) for history in histories]
        for solver, histories in runs.items()
    }
    medians = {
        solver: statistics.median(seconds for seconds, _ in times)
        for solver, times in found.items()
    }
    for solver, seconds in medians.items():
        ended = statistics.median(history[-1][0] for history in runs[solver])
        record(
            f"fits of rank r: to within {CLOSE:.0e} of the best cost",
            {
                "problem": f"{name}, r = {rank}, {A.nnz} entries" if solver == "fit" else "",
                "solver": solver,
                "s": f"{seconds:.3g}" if seconds < np.inf else "not reached",
                "× fit": f"{seconds / medians['fit']:.1f}" if seconds < np.inf else "",
                "passes": found[solver][0][1],
                "s to its own end": f"{ended:.3g}",
                "passes in all": runs[solver][0][-1][2],
                "cost above the best": f"{least[solver] / best - 1:.0e}",
                "runs": len(runs[solver]),
            },
        )
