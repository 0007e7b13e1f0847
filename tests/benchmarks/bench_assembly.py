"""Assembly beside its physical limit, writing arrays of the same sizes, and beside the Kronecker form in SciPy.

    python -m pytest tests/benchmarks -o python_files='bench_*.py'

pytest-benchmark times each in turn; `test_ratios` times them interleaved, so that the machine's moods hit all alike,
and prints the ratios of the medians.
"""

import time

import numpy as np
import pytest
import scipy.sparse

from sparsejac import JacobianBuilder

K = 2000


@pytest.fixture(scope="module")
def contestants():
    rng = np.random.default_rng(0)
    A, x = rng.random((K, K)), rng.random(K)
    builder = JacobianBuilder(A)
    m, nnz = builder.shape[0], builder.nnz
    J = builder.tocsr(x)
    column, identity = scipy.sparse.csr_array(x[:, np.newaxis]), scipy.sparse.eye_array(K, format="csr")

    def fill():
        for size, dtype in ((nnz, np.float64), (nnz, np.int32), (m + 1, np.int32)):
            np.empty(size, dtype).fill(1)

    def kronecker():
        return scipy.sparse.diags_array(A.ravel()) @ (
            scipy.sparse.kron(column, identity) + scipy.sparse.kron(identity, column)
        )

    assert abs(kronecker() - J).max() < 1e-15
    return {
        "tocsr": lambda: builder.tocsr(x),
        "tocsr(out=)": lambda: builder.tocsr(x, out=J),
        "fill three fresh arrays (NumPy, one thread)": fill,
        "fill the numbers only (NumPy, one thread)": lambda: J.data.fill(1),
        "diags(vec A) @ (kron(x, I) + kron(I, x)) (SciPy)": kronecker,
    }


@pytest.mark.parametrize("number", range(5))
def test_assembly(benchmark, contestants, number):
    name, function = list(contestants.items())[number]
    benchmark.name = f"{name}, k = {K}"
    benchmark.pedantic(function, rounds=3 if "kron" in name else 15, warmup_rounds=1)


def test_ratios(contestants, capsys):
    times = {name: [] for name in contestants}
    for round_ in range(12):
        for name, function in contestants.items():
            if "kron" in name and round_ % 4:
                continue
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    medians = {name: np.median(measured) for name, measured in times.items()}
    with capsys.disabled():
        print(f"\n\nassembly of J, dense k = {K}, medians of interleaved runs")
        for name, median in medians.items():
            print(f"  {name:<52} {1e3 * median:8.1f} ms   {median / medians['tocsr']:6.2f} × tocsr")
