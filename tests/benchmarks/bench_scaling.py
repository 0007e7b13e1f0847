"""Benchmarks of symmetric scaling against the iterations of other packages.

They compare products with A, wall time and memory at an equal measured residual.
"""

import statistics
import subprocess
import sys
import time
import tracemalloc
import warnings

import numpy as np
import peers
import pytest
import scipy.sparse
from support import random_csr

from sparsejac import symmetric_scaling

pytestmark = pytest.mark.filterwarnings("default")
TOLERANCES = [1e-6, 1e-8, 1e-10]
MOST = 20_000  # products
LIKE_A_MAP = "like a map, 2600 rows"
MAPS = ["hic_yeast_10kb", "hic_dm6_100kb"]
GRAPHS = ["graph_karate", "graph_airfoil", "graph_facebook", "graph_as_caida", "graph_enron"]
PROBLEMS = [
    "random, 10000 rows",
    *MAPS,
    "hic_dm6_100kb, each chromosome",
    "hic_gm12878_2mb, what is on no positive diagonal dropped",
    "struct_bcsstk13",
    "grid_494_bus",
    *(f"{name} + {epsilon:g} I" for name in GRAPHS for epsilon in (1e-2, 1e-4, 1e-6)),
]


def band_removed(A, width):
    A = A.tocoo()
    far = abs(A.row - A.col) >= width
    return scipy.sparse.coo_array((A.data[far], (A.row[far], A.col[far])), shape=A.shape).tocsr()


@pytest.fixture
def load(request):
    """Load a symmetric CSR matrix of float64 by its name in `PROBLEMS`.

    Every row is kept, and every entry counts.
    """

    def matrix(problem):
        name, _, rest = problem.partition(", ")
        name, _, epsilon = name.partition(" + ")
        if name == "random":
            A = random_csr(10_000, 10)
            return (A + A.T).tocsr()
        if name == LIKE_A_MAP.partition(", ")[0]:
            return like_a_map()
        real_data = request.getfixturevalue("real_data")
        A = scipy.sparse.csr_array(
            abs(scipy.sparse.load_npz(real_data(f"{name}.npz"))).astype(np.float64)
        )
        k = A.shape[0]
        if epsilon:
            return (A + float(epsilon.removesuffix(" I")) * scipy.sparse.eye_array(k)).tocsr()
        if name in MAPS and not rest:
            kept = np.isfinite(np.load(real_data(f"{name}_weights.npz"))["weight"])
            return scipy.sparse.csr_array(band_removed(A, 2)[kept][:, kept])
        if rest == "each chromosome":
            stored = np.load(real_data(f"{name}_weights.npz"))
            chromosome, whole = (
                stored["chrom"],
                scipy.sparse.diags_array(np.isfinite(stored["KR"]).astype(float)),
            )
            A = (whole @ A @ whole).tocoo()
            same = chromosome[A.row] == chromosome[A.col]
            A = scipy.sparse.coo_array(
                (A.data[same], (A.row[same], A.col[same])), shape=A.shape
            ).tocsr()
        if name == "hic_gm12878_2mb":
            result = symmetric_scaling(A, min_nnz=1, support="drop")
            A = A.tolil()
            for i, j in result.unsupported_entries:
                A[i, j] = A[j, i] = 0
            A = A.tocsr()
            A.eliminate_zeros()
        kept = np.asarray(A.sum(axis=0)).ravel() > 0
        return scipy.sparse.csr_array(A[kept][:, kept])

    return matrix


def damped_sinkhorn(A, tol, most=MOST):
    """Iterate ``x ← x / sqrt(x ∘ (A x))`` with SciPy's product.

    The result is a list of (products, residual), and x.
    """
    x, history = np.ones(A.shape[0]), []
    while True:
        r = x * (A @ x)
        history.append((len(history) + 1, float(np.max(np.abs(r - 1)))))
        if history[-1][1] <= tol or len(history) == most:
            return history, x
        x /= np.sqrt(r)


def reached(history, tol):
    return next((int(products) for products, residual in history if residual <= tol), None)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_products(problem, load, benchmark, record):
    A = load(problem)
    found = {}

    def both():
        found["ours"] = symmetric_scaling(A, tol=TOLERANCES[-1])
        found["theirs"] = damped_sinkhorn(A, TOLERANCES[-1], most=5000)[0]

    benchmark.group, benchmark.name = "products", problem
    benchmark.pedantic(both, rounds=1)
    cells = {"matrix": problem, "k": A.shape[0], "entries": A.nnz}
    for tol in TOLERANCES:
        cells[f"to {tol:g}"] = reached(found["ours"].history, tol)
        cells[f"damped Sinkhorn to {tol:g}"] = reached(found["theirs"], tol) or "> 5000"
    record("products with A", cells)


def as_stored(A, upper):
    """Convert counts to int32: all of them, or the upper triangle."""
    A = A.astype(np.int32)
    return scipy.sparse.csr_array(scipy.sparse.triu(A)) if upper else A


@pytest.mark.parametrize(
    "problem",
    [
        "random, 10000 rows",
        LIKE_A_MAP,
        *MAPS,
        "graph_facebook + 0.01 I",
        "graph_enron + 0.01 I",
    ],
)
def test_time(problem, load, benchmark, record):
    """Measure medians of interleaved rounds from the matrix to a residual of 1e-8.

    Our time includes the checks of the matrix. The peer gets float64, and checks nothing, or with
    SciPy that the matrix is symmetric and not negative.
    """
    A = load(problem)
    counts = problem in MAPS or problem == LIKE_A_MAP
    B = as_stored(A, upper=False) if counts else A
    U = scipy.sparse.csr_array(scipy.sparse.triu(B))
    contestants = {
        "symmetric_scaling": lambda: symmetric_scaling(B).x,
        "one worker": lambda: symmetric_scaling(B, workers=1).x,
        'uplo="U"': lambda: symmetric_scaling(U, uplo="U").x,
        "damped Sinkhorn": lambda: damped_sinkhorn(A, 1e-8)[1],
        "the same, with checks": lambda: damped_sinkhorn(checked(A), 1e-8)[1],
    }
    medians = interleaved(contestants, benchmark, f"time, {problem}")
    for x in (contestant() for contestant in contestants.values()):
        assert np.max(np.abs(x * (A @ x) - 1)) <= 1.01e-8
    ours = medians["symmetric_scaling"]
    record(
        "to 1e-8: ms, and how many times as long the others took",
        {"matrix": problem, "ms": f"{1e3 * ours:.3g}"}
        | {n: f"{t / ours:.2f}" for n, t in list(medians.items())[1:]},
    )


def like_a_map():
    """Make a map with nearly all entries: counts that fall with the distance, and biases."""
    k, rng = 2600, np.random.default_rng(0)
    i, bias = np.arange(k), rng.lognormal(0, 0.5, k)
    decay = 600 / (1 + abs(np.subtract.outer(i, i))) ** 0.7
    upper = np.triu(rng.poisson(decay * np.outer(bias, bias)))
    return scipy.sparse.csr_array((upper + np.triu(upper, 1).T).astype(np.float64))


def checked(A):
    assert (A != A.T).nnz == 0
    assert A.data.min() >= 0
    return A


def interleaved(contestants, benchmark, name, rounds=9, slow=()):
    times = {contestant: [] for contestant in contestants}

    def all_rounds():
        for function in contestants.values():
            function()  # compiles the kernels, and brings the files into the page cache
        for number in range(rounds):
            for contestant, function in contestants.items():
                if contestant in slow and number >= 3:
                    continue
                begin = time.perf_counter()
                function()
                times[contestant].append(time.perf_counter() - begin)

    benchmark.group, benchmark.name = "scaling", name
    benchmark.pedantic(all_rounds, rounds=1)
    return {contestant: statistics.median(measured) for contestant, measured in times.items()}


def residual_of(A, kept, x):
    x = np.where(kept, x, 0.0)
    return float(np.max(np.abs(x * (A @ x) - 1)[kept]))


@pytest.mark.parametrize("name", MAPS)
def test_tools_of_genomics(name, real_data, tmp_path, benchmark, record):
    """Run cooler's balance with its defaults, and all others to the residual that it reaches.

    iced works on the same bins.
    """
    cooler = peers.installed("cooler")
    if cooler is None:
        pytest.skip("cooler is not installed")
    from sparsejac import cool

    A = scipy.sparse.csr_array(scipy.sparse.load_npz(real_data(f"{name}.npz")))
    chromosome = np.load(real_data(f"{name}_weights.npz"))["chrom"]
    uri = peers.write_cool(cooler, tmp_path / "map.cool", A, chromosome)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weight, _ = cooler.balance_cooler(cooler.Cooler(uri))
    kept = np.isfinite(weight)
    far = band_removed(A, 2).astype(np.float64)
    tol = residual_of(far, kept, weight)
    U, mask = cool.read(uri)[0], ~kept
    part = scipy.sparse.csr_array(far[kept][:, kept])
    contestants = {
        "symmetric_scaling, the upper triangle in memory": lambda: (
            symmetric_scaling(U, uplo="U", mask=mask, ignore_diags=2, tol=tol).x
        ),
        "cool.balance, from the file": lambda: cool.balance(uri, tol=tol).x,
        "cooler.balance_cooler": lambda: cooler.balance_cooler(cooler.Cooler(uri))[0],
        "damped Sinkhorn, SciPy": lambda: padded(damped_sinkhorn(part, tol)[1], kept),
        **peers.of_iced(far, kept, lambda x: residual_of(far, kept, x) <= 1.05 * tol),
    }
    medians = interleaved(
        contestants, benchmark, f"tools, {name}", slow=("cooler.balance_cooler", "iced")
    )
    for contestant, function in contestants.items():
        tracemalloc.start()
        x = function()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        stored = U.data.nbytes + U.indices.nbytes + U.indptr.nbytes
        record(
            "tools of genomics, at the residual that cooler's defaults reach",
            {
                "map": name,
                "tool": contestant,
                "ms": f"{1e3 * medians[contestant]:.3g}",
                "× ours in memory": f"{medians[contestant] / next(iter(medians.values())):.1f}",
                "residual": f"{residual_of(far, kept, x):.1e}",
                "allocated, in units of the upper triangle": f"{peak / stored:.2f}",
            },
        )


def padded(x, kept):
    result = np.full(kept.size, np.nan)
    result[kept] = x
    return result


PEAK = """
import sys
from pathlib import Path
from sparsejac import cool
import cooler
cool.balance(sys.argv[2])  # a small map: everything is compiled and imported
def status(name):
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(name)))
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
result = cool.balance(sys.argv[1])
assert result.success, result.message
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the high-water mark is reset the Linux way")
@pytest.mark.parametrize("source", [*MAPS, 2 * 10**7])
def test_peak(source, tmp_path, request, benchmark, record):
    """Measure the process's peak of memory from the file to the weights.

    Its unit is the size of the upper triangle as it is stored.
    """
    cooler = peers.installed("cooler")
    if cooler is None:
        pytest.skip("cooler is not installed")
    small, chromosome = synthetic_map(10_000)
    uris = [peers.write_cool(cooler, tmp_path / "small.cool", small, chromosome)]
    if source in MAPS:
        real_data = request.getfixturevalue("real_data")
        A = scipy.sparse.csr_array(scipy.sparse.load_npz(real_data(f"{source}.npz")))
        chromosome = np.load(real_data(f"{source}_weights.npz"))["chrom"]
    else:
        A, chromosome = synthetic_map(source)
    uris.append(peers.write_cool(cooler, tmp_path / "map.cool", A, chromosome))
    U = scipy.sparse.csr_array(scipy.sparse.triu(A))
    stored = U.nnz * 8 + U.indptr.nbytes
    found = []

    def run():
        found.append(
            subprocess.run(
                [sys.executable, "-c", PEAK, *uris[::-1]],
                capture_output=True,
                text=True,
                check=True,
            )
        )

    benchmark.group, benchmark.name = "scaling", f"peak, {source}"
    benchmark.pedantic(run, rounds=1)
    cells = {
        "map": source,
        "stored, MiB": f"{stored / 2**20:.1f}",
        "peak / stored": f"{int(found[0].stdout) / stored:.2f}",
    }
    record("peak memory of cool.balance", cells)


def synthetic_map(count):
    """Make a map of one chromosome with counts near the diagonal."""
    k, rng = max(int(np.sqrt(count)), 100), np.random.default_rng(0)
    i = rng.integers(0, k, count, dtype=np.int32)
    j = np.minimum(i + rng.geometric(20 / k, count), k - 1).astype(np.int32)
    counts = rng.integers(1, 9, count, dtype=np.int32)
    return scipy.sparse.coo_array((counts, (i, j)), shape=(k, k)).tocsr(), np.zeros(k, int)
