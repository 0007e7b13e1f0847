"""What a pass takes beside the computing, on a Dask cluster of two processes on this machine.

All vectors go through the loopback. The parts are made on the workers.
"""

import time

import numpy as np
import pytest
import scipy.sparse
from bench_streamed import Watch

from sparsejac import JacobianBuilder, LeastSquares, fit
from sparsejac._backends import cluster_parts

dask = pytest.importorskip("dask", reason="Dask is an extra")
distributed = pytest.importorskip("distributed", reason="Dask is an extra")
import sparsejac.distributed as ours  # it needs Dask

ROUNDS = 30


@pytest.fixture(scope="module")
def client():
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        yield client


def rows_of(i0, i1, k, per_row):
    """Random rows, made where they are needed."""
    rng = np.random.default_rng(i0)
    j = np.sort(rng.integers(0, k, (i1 - i0, per_row)), axis=1).ravel().astype(np.int32)
    indptr = np.arange(0, j.size + 1, per_row, dtype=np.int32)
    A = scipy.sparse.csr_array((rng.random(j.size), j, indptr), shape=(i1 - i0, k))
    A.sum_duplicates()
    return A


def halves(k, per_row):
    bounds = ((0, k // 2), (k // 2, k))
    return [dask.delayed(rows_of)(i0, i1, k, per_row) for i0, i1 in bounds]


def seconds_of(*args):
    start = time.perf_counter()
    cluster_parts.reduced(*args)
    return time.perf_counter() - start


class Clock:
    """The seconds that this process spends in each function of a transport."""

    def __init__(self, transport, monkeypatch):
        self.seconds = {}
        for name in ("send", "call", "gather"):
            monkeypatch.setattr(
                type(transport), name, self._timed(name, getattr(type(transport), name))
            )

    def _timed(self, name, function):
        def timed(*args):
            start = time.perf_counter()
            try:
                return function(*args)
            finally:
                self.seconds[name] = self.seconds.get(name, 0) + time.perf_counter() - start

        return timed


@pytest.mark.parametrize(("k", "per_row"), [(200_000, 20), (2_000_000, 5), (10_000_000, 2)])
def test_overhead(record, client, monkeypatch, k, per_row):
    A = ours.rows(halves(k, per_row), client=client)
    backend = (builder := JacobianBuilder(A, rows="stored"))._rows
    v = np.random.default_rng(0).random(k)
    normal = builder.operator(np.ones(k)).normal()
    normal @ v
    times = {name: [] for name in ("total", "compute", "send", "call", "gather")}
    for _ in range(ROUNDS):
        v = v * 1.001  # the same vector is not sent again
        with monkeypatch.context() as patch:
            clock, start = Clock(A.transport, patch), time.perf_counter()
            normal @ v
            times["total"].append(time.perf_counter() - start)
        for name, seconds in clock.seconds.items():
            times[name].append(seconds)
        handles = backend.on_parts(seconds_of, "squares", A.transport.send(v), (False,), {})
        times["compute"].append(max(A.transport.gather(handles)))
    ms = {name: 1000 * float(np.median(each)) for name, each in times.items()}
    record(
        "a pass on two workers, JᵀJ v, ms",
        {
            "k": k,
            "entries": k * per_row,
            "total": f"{ms['total']:.0f}",
            "the slowest compute": f"{ms['compute']:.0f}",
            "overhead": f"{ms['total'] - ms['compute']:.0f}",
            "of it submit": f"{ms['send'] + ms['call']:.0f}",
            "send and gather": f"{ms['gather'] - ms['compute']:.0f}",
        },
    )


def test_beside_one_process(record, client):
    k, per_row = 200_000, 200
    A = ours.rows(halves(k, per_row), client=client)
    x, v = np.ones(k), np.random.default_rng(0).random(k)
    there = JacobianBuilder(A, rows="stored").operator(x).normal()
    whole = scipy.sparse.vstack(dask.compute(*halves(k, per_row)), format="csr")
    here = JacobianBuilder(whole, rows="stored", workers=1).operator(x).normal()
    np.testing.assert_allclose(there @ v, here @ v, rtol=1e-12)
    times = {"cluster": [], "process": []}
    for _ in range(10):
        v = v * 1.001  # the same vector is not sent again
        for name, operator in (("cluster", there), ("process", here)):
            start = time.perf_counter()
            operator @ v
            times[name].append(time.perf_counter() - start)
    cluster, process = (float(np.median(times[name])) for name in ("cluster", "process"))
    record(
        "two workers beside one thread of one process, JᵀJ v",
        {
            "k": k,
            "entries": whole.nnz,
            "cluster, ms": f"{1000 * cluster:.0f}",
            "one thread, ms": f"{1000 * process:.0f}",
            "cluster / one thread": f"{cluster / process:.2f}",
        },
    )


def test_fit(record, client, real_data):
    A = scipy.sparse.load_npz(real_data("graph_enron.npz")).astype(np.float64).tocsr()
    A.data[:] = 1
    rng = np.random.default_rng(0)
    x = rng.lognormal(0, 0.5, A.shape[0])
    Y = A.multiply(x).multiply(x[:, np.newaxis]).tocsr()
    Y.data *= 1 + 0.1 * rng.standard_normal(Y.nnz)
    half, times, results = A.shape[0] // 2, {}, {}
    parts = (ours.rows([dask.delayed(M[:half]), dask.delayed(M[half:])]) for M in (A, Y))
    for place, given in (("memory", (A, Y)), ("cluster", tuple(parts))):
        measured = []
        for _ in range(4):
            start = time.perf_counter()
            results[place] = fit(*given, np.ones(A.shape[0]))
            measured.append(time.perf_counter() - start)
        times[place] = float(np.median(measured[1:]))  # the first one compiles
    here, there = results["memory"], results["cluster"]
    record(
        "a fit of Enron's mail on two workers",
        {
            "steps in memory": here.nit,
            "steps": there.nit,
            "passes": there.nfev + there.n_products,
            "s in memory": f"{times['memory']:.2f}",
            "times as long": f"{times['cluster'] / times['memory']:.1f}",
        },
    )


def test_memory_of_the_client(record, client):
    k = 10_000_000
    A = ours.rows(halves(k, 2), client=client)
    x = np.ones(k)
    with Watch() as watch:
        problem = LeastSquares(A, A)
        problem.grad(x)
        problem.hessp(x, x)
        problem.normal(x) @ x
    record(
        "anonymous memory of the client",
        {"k": k, "k-vectors": f"{watch.most / (8 * k):.1f}", "MiB": f"{watch.most / 2**20:.0f}"},
    )
