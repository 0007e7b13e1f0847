"""From which k on a sparse Jacobian pays in `scipy.optimize.least_squares`: time and peak memory of
one fit, in three forms.

    python -m pytest tests/benchmarks -o python_files='bench_*.py'

`dense` is what one writes by hand: three lines of NumPy, and SciPy's dense trust-region solver.
"""

import gc
import time
import tracemalloc

import numpy as np
import pytest
from scipy.optimize import least_squares

from sparsejac import JacobianBuilder

SIZES = [5, 10, 20, 30, 50, 100, 200]


def forms(k):
    """The Jacobian in three forms, as functions of x; and the residuals."""
    rng = np.random.default_rng(0)
    A, answer = 1 + rng.random((k, k)), 1 + rng.random(k)
    builder, Y, i = JacobianBuilder(A), A * np.outer(answer, answer), np.arange(k)

    def dense(x):
        J = np.zeros((k, k, k))
        J[i, :, i] = A * x
        J[:, i, i] += A * x[:, np.newaxis]
        return J.reshape(k * k, k)

    x = rng.random(k)
    np.testing.assert_allclose(dense(x), builder.tocsr(x).toarray())
    return (lambda x: (A * np.outer(x, x) - Y).ravel()), {
        "dense": dense,
        "csr": builder.tocsr,
        "operator": builder.operator,
    }


def fit(fun, jac, k):
    return least_squares(fun, np.ones(k), jac=jac, ftol=1e-10, xtol=1e-10, gtol=1e-10)


@pytest.mark.parametrize("form", ["dense", "csr", "operator"])
@pytest.mark.parametrize("k", [10, 100])
def test_least_squares(benchmark, k, form):
    fun, jacobians = forms(k)
    benchmark.pedantic(fit, args=(fun, jacobians[form], k), rounds=3, warmup_rounds=1)


def test_where_it_pays(capsys):
    with capsys.disabled():
        print(
            "\n\n    k  |  J alone, ms: dense     csr operator |  a fit, ms: dense     csr "
            "operator |  peak, MiB: dense     csr operator |  csr peak / J"
        )
        for k in SIZES:
            fun, jacobians = forms(k)
            x = np.linspace(0.5, 1.5, k)
            alone, whole, peaks = ({name: [] for name in jacobians} for _ in range(3))
            for _ in range(3 if k > 50 else 9):
                for name, jac in jacobians.items():
                    start = time.perf_counter()
                    jac(x)
                    middle = time.perf_counter()
                    fit(fun, jac, k)
                    alone[name].append(1e3 * (middle - start))
                    whole[name].append(1e3 * (time.perf_counter() - middle))
            for name, jac in jacobians.items():
                gc.collect()
                tracemalloc.start()
                fit(fun, jac, k)
                peaks[name].append(tracemalloc.get_traced_memory()[1] / 2**20)
                tracemalloc.stop()
            columns = [
                " ".join(f"{np.median(times[name]):8.3g}" for name in jacobians)
                for times in (alone, whole, peaks)
            ]
            ratio = peaks["csr"][0] * 2**20 / JacobianBuilder(np.ones((k, k))).csr_nbytes()
            print(
                f"{k:5d}  |            {columns[0]} |          {columns[1]} |          "
                f"{columns[2]} | {ratio:8.1f}"
            )
