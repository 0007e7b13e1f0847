"""An A on the workers of a Dask cluster: two processes, and one cluster for most of the tests.

Where sums are compared bit for bit, the numbers are small integers, and all arithmetic is exact.
`test_cluster.py` covers the operations, without Dask.
"""

import contextlib
import importlib.util
import itertools
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time

import in_process
import numpy as np
import pytest
import scipy.sparse
from support import integers, slow_except
from test_readme import CLUSTER

from sparsejac import JacobianBuilder, LeastSquares, RowSums, fit, io, symmetric_scaling

pytest.importorskip("distributed", reason="Dask is an optional extra")
import dask
import dask.array as da
import distributed as dask_distributed
from distributed import Client, LocalCluster

from sparsejac import distributed
from sparsejac._backends import failures

pytestmark = [
    pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="signals of POSIX are sent"),
]

K = 60
CUTS = [0, 25, 26, 26, K]  # a block has no rows
RNG = np.random.default_rng(15)
S = scipy.sparse.random_array((K, K), density=0.2, rng=RNG, format="csr")
S = scipy.sparse.csr_array(S + S.T + scipy.sparse.eye_array(K))
S.data = np.round(4 * S.data) + 1
D = S.toarray()
X, V = integers((K,), seed=1, low=1), integers((K,), seed=2)
RANDOM = RNG.random(K)


# --- the clusters, and a watchdog


@contextlib.contextmanager
def alarm(seconds):
    """Fail after some seconds, wherever the main thread waits."""

    def ring(*_):
        pytest.fail(f"the test hangs: it has taken {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def _watchdog(request):
    slow = request.node.get_closest_marker("slow")
    with alarm(500 if slow else 180 if "own_cluster" in request.fixturenames else 60):
        yield


@contextlib.contextmanager
def local_cluster(folder, **how):
    # With dashboard_address=None, Dask warns if another cluster has the port 8787.
    how = {"n_workers": 2, "threads_per_worker": 1, "silence_logs": logging.CRITICAL} | how
    with (
        LocalCluster(
            processes=True, dashboard_address=":0", local_directory=str(folder), **how
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """The cluster of most tests. Its workers have compiled the kernels."""
    with alarm(300), local_cluster(tmp_path_factory.mktemp("dask")) as client:
        for M in (S, D):
            A = distributed.rows(client.scatter(blocks(M)))
            for rows in ("stored", "upper"):
                compare(A, M, rows)
            fit(A, 2 * M)
            symmetric_scaling(A)
        signal.alarm(0)
        yield client


@pytest.fixture
def own_cluster(tmp_path):
    """Start clusters whose workers may be killed."""
    with contextlib.ExitStack() as stack:
        yield lambda **how: stack.enter_context(local_cluster(tmp_path / "dask", **how))


def blocks(M):
    return [M[a:b] for a, b in itertools.pairwise(CUTS)]


def pids(client):
    return client.run(os.getpid)


def all_alive(client, without=(), count=2):
    """Wait for workers that are none of those processes, and return their processes."""
    while True:
        with contextlib.suppress(Exception):  # a worker dies, or begins, while it is asked
            found = [*pids(client).values()]
            if len(found) == count and not {*found} & {*without}:
                return found
        time.sleep(0.1)


def worker_of(client, future):
    """The address of the worker that has this."""
    return client.who_has([future])[future.key][0]


# --- the forms of A


def dask_csr(client, folder):
    return da.from_array(D, chunks=(22, K)).map_blocks(
        scipy.sparse.csr_array, dtype=D.dtype, meta=scipy.sparse.csr_array((0, 0))
    )


def npy_file(client, folder):
    np.save(folder / "A.npy", D)
    return folder / "A.npy"


def csr_folder(client, folder):
    io.write_csr_blocks(folder / "A", ((i, S[i : i + 7]) for i in range(0, K, 7)), shape=S.shape)
    return str(folder / "A")


def npz_files(client, folder):
    for number, block in enumerate(blocks(S)):
        scipy.sparse.save_npz(folder / f"part-{number}.npz", block)
    return str(folder / "part-*.npz")


def zarr_array(client, folder):
    zarr = pytest.importorskip("zarr", reason="Zarr is optional")
    z = zarr.create_array(folder / "A.zarr", shape=D.shape, dtype=D.dtype, chunks=(13, 20))
    z[:] = D
    return z


def zarr_path(client, folder):
    zarr_array(client, folder)
    return folder / "A.zarr"


FORMS = {
    "Dask array": (D, lambda client, folder: da.from_array(D, chunks=(22, K))),
    "Dask array of CSR blocks": (S, dask_csr),
    "futures": (S, lambda client, folder: client.scatter(blocks(S))),
    "futures of dense blocks": (D, lambda client, folder: client.scatter(blocks(D))),
    "delayed": (S, lambda client, folder: [dask.delayed(block) for block in blocks(S)]),
    ".npy": (D, npy_file),
    "folder": (S, csr_folder),
    "Zarr array": (D, zarr_array),
    "Zarr path": (D, zarr_path),
    ".npz": (S, npz_files),
}


def compare(A, M, rows):
    """Compare operations over A on the cluster and M in memory."""
    here, there = (JacobianBuilder(each, rows=rows) for each in (M, A))
    assert (there.shape, there.nnz, there.dtype) == (here.shape, here.nnz, here.dtype)
    for x in (X, RANDOM):
        assert there.value(x).compute().tobytes() == here.value(x).tobytes()
        product = there.operator(x) @ RANDOM
        assert product.compute().tobytes() == (here.operator(x) @ RANDOM).tobytes()
    J, ours = here.operator(X), there.operator(X)
    np.testing.assert_array_equal(ours.T @ (J @ V), J.T @ (J @ V))
    np.testing.assert_array_equal(ours.T @ (ours @ V), J.T @ (J @ V))
    np.testing.assert_array_equal(ours.normal(2.0) @ V, J.normal(2.0) @ V)
    np.testing.assert_array_equal(RowSums(A).value(X), RowSums(M).value(X))


@pytest.mark.parametrize("name", FORMS)
def test_forms(client, tmp_path, name):
    M, make = FORMS[name]
    compare(distributed.rows(make(client, tmp_path), client=client), M, "stored")


# --- moved parts


@pytest.mark.parametrize("dtype", ["f8", *slow_except([], ["i1", "f4"])])
def test_moved_parts(own_cluster, dtype):
    """A part that a network delivers is read-only, and may lie at any address."""
    client = own_cluster()
    for M in (S.astype(dtype), D.astype(dtype)):
        A = distributed.rows(client.scatter(blocks(M)))
        client.replicate(A.parts, n=2)
        compare(A, M, "stored")
    A = {name: distributed.rows(client.scatter(blocks(M))) for name, M in (("S", S), ("D", D))}
    holders = {worker_of(client, part) for each in A.values() for part in each.parts}
    assert len(holders) == 2
    client.retire_workers([min(holders)])
    compare(A["S"], S, "upper")
    compare(A["D"], D, "upper")


def at_odd_addresses(value):
    """A copy as pickles of protocol 5 deliver it."""
    buffers = []
    data = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    raw = [in_process.moved(np.frombuffer(buffer, np.uint8)) for buffer in buffers]
    return pickle.loads(data, buffers=raw)


@pytest.mark.parametrize("M", [S, D], ids=["sparse", "dense"])
def test_parts_and_numbers_at_odd_addresses(M):
    """Compiled code reads wrong numbers from an address that is no multiple of their size."""
    whole = in_process.rows(M, [0, 25, K])
    builder = JacobianBuilder(whole, rows="stored")
    targets = [builder._rows.aligned(in_process.rows(2 * M, [0, 25, K]))]
    targets.append(builder._rows.weights(np.ones(builder.shape[0]), np.dtype(np.float64)))
    beside = [part.value for target in targets for part in target.parts]
    for part in [handle.value for handle in whole.parts] + beside:
        moved = at_odd_addresses(part)
        held = moved.source if hasattr(moved, "source") else moved.numbers
        for name in ("values", "columns", "indptr"):
            if (array := getattr(held, name, None)) is not None:
                assert array.flags.aligned
                own = part.source if hasattr(part, "source") else part.numbers
                np.testing.assert_array_equal(array, getattr(own, name))
                assert array.flags.writeable <= getattr(own, name).flags.writeable


# --- solvers


def on_cluster(Y, how, client):
    """Y in one of the places that a solver takes it from."""
    if how == "cluster":
        return distributed.rows(client.scatter([Y[:9], Y[9:]]))
    return Y


@pytest.mark.parametrize("M", [S, D], ids=["sparse", "dense"])
@pytest.mark.parametrize("how", ["cluster", "memory"])
def test_fit(client, M, how):
    Y = (
        M * np.outer(RANDOM + 0.5, RANDOM + 0.5)
        if M is D
        else scipy.sparse.csr_array(M.multiply(M))
    )
    A = distributed.rows(client.scatter(blocks(M)))
    here, there = fit(M, Y), fit(A, on_cluster(Y, how, client))
    assert there.success
    assert here.nit == there.nit > 1
    np.testing.assert_allclose(there.x, here.x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rows", ["stored", "upper"])
def test_fit_to_values_on_the_cluster(client, rows):
    A = distributed.rows(client.scatter(blocks(S)))
    here, there = JacobianBuilder(S, rows=rows), JacobianBuilder(A, rows=rows)
    one = fit(S, here.value(X), x0=X + RANDOM, rows=rows)
    other = fit(A, there.value(X), x0=X + RANDOM, rows=rows)
    assert one.nit == other.nit > 1
    np.testing.assert_allclose(other.x, one.x, rtol=0, atol=1e-12)
    np.testing.assert_allclose(other.x, X, rtol=1e-7)


@pytest.mark.parametrize("M", [S, D], ids=["sparse", "dense"])
def test_scaling(client, M):
    A = distributed.rows(client.scatter(blocks(M)))
    here, there = symmetric_scaling(M), symmetric_scaling(A)
    assert here.nit == there.nit > 1
    np.testing.assert_allclose(there.x, here.x, rtol=0, atol=1e-12)


def test_graph_enron(client, real_data, tmp_path):
    M = scipy.sparse.csr_array(scipy.sparse.load_npz(real_data("graph_enron.npz")))
    M = M.astype(np.float64)
    k = M.shape[0]
    io.write_csr_blocks(
        tmp_path / "A", ((i, M[i : i + 5000]) for i in range(0, k, 5000)), shape=M.shape
    )
    A = distributed.rows(tmp_path / "A")
    x = np.random.default_rng(0).uniform(0.5, 1.5, k)
    Y = JacobianBuilder(M, rows="stored").value(x)
    one, other = fit(M, Y), fit(A, JacobianBuilder(A, rows="stored").value(x))
    assert one.nit == other.nit
    np.testing.assert_allclose(other.x, one.x, rtol=0, atol=1e-12)
    B = scipy.sparse.csr_array(M + scipy.sparse.eye_array(k))
    one, other = (symmetric_scaling(each) for each in (B, distributed.rows([dask.delayed(B)])))
    assert one.nit == other.nit
    np.testing.assert_allclose(other.x, one.x, rtol=0, atol=1e-12)


# --- results that stay on the cluster


@pytest.mark.parametrize("dtype", ["f8", *slow_except([], ["f4", "c16"])])
def test_results_are_dask_arrays(client, dtype):
    M, x = S.astype(dtype), RANDOM.astype(dtype)
    A = distributed.rows(client.scatter(blocks(M)))
    here, there = JacobianBuilder(M, rows="stored"), JacobianBuilder(A, rows="stored")
    J, ours = here.operator(x), there.operator(x)
    both = np.stack([x, x], axis=1)
    results = [(there.value(x), here.value(x)), (ours @ x, J @ x), (ours @ both, J @ both)]
    if dtype != "c16":
        Y = scipy.sparse.csr_array(2 * M)
        results.append((LeastSquares(A, Y).fun(x), LeastSquares(M, Y).fun(x)))
    for array, expected in results:
        assert type(array) is da.Array
        assert (array.shape, array.dtype) == (expected.shape, expected.dtype)
        assert type(array._meta) is np.ndarray
        assert (array._meta.dtype, array._meta.ndim) == (expected.dtype, expected.ndim)
        np.testing.assert_array_equal(array.compute(), expected)
        assert array.sum().compute().dtype == expected.dtype
    w, W = ours @ x, ours @ both
    np.testing.assert_allclose(ours.T @ w, J.T @ (J @ x))
    np.testing.assert_allclose(ours.T @ w.compute(), J.T @ (J @ x))
    np.testing.assert_allclose(ours.H @ W, J.H @ (J @ both))
    np.testing.assert_allclose(ours.T @ w.rechunk(17), J.T @ (J @ x))
    np.testing.assert_allclose(ours.T @ W.rechunk((17, 1)), J.T @ (J @ both))
    np.testing.assert_allclose(ours.T @ (2 * w - 1), J.T @ (2 * (J @ x) - 1))
    ours_alone = da.from_array((J @ x), chunks=11)  # not made by us
    np.testing.assert_allclose(ours.T @ ours_alone, J.T @ (J @ x))


@pytest.mark.parametrize("rows", ["all", "stored", "upper"])
def test_csr_blocks(client, rows):
    for M in (S, D):
        A = distributed.rows(client.scatter(blocks(M)))
        found = dask.compute(*distributed.csr_blocks(JacobianBuilder(A, rows=rows), RANDOM))
        J = scipy.sparse.vstack(found, format="csr")
        expected = JacobianBuilder(M, rows=rows).tocsr(RANDOM)
        assert J.shape == expected.shape
        for name in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(J, name), getattr(expected, name))


@pytest.mark.parametrize(
    "operation",
    [
        lambda builder: builder.tocsr(X),
        lambda builder: list(builder.iter_csr(X)),
        lambda builder: builder.row_pairs(),
        lambda builder: builder.operator(X).normal().tocsr(),
        lambda builder: builder.hessian(np.ones(builder.shape[0])).toarray(),
        lambda builder: builder._rows.map("value"),
        lambda builder: builder._rows.values(),
    ],
    ids=["tocsr", "iter_csr", "row_pairs", "normal().tocsr", "hessian().toarray", "map", "values"],
)
def test_what_would_come_here_is_refused(client, operation):
    A = distributed.rows(client.scatter(blocks(S)))
    with pytest.raises(MemoryError, match=r"keep it there, with .*distributed\.csr_blocks"):
        operation(JacobianBuilder(A, rows="stored"))


# --- workers that die


def problem_on_disk(folder):
    """A, Y and the result of `fit`, and the paths of A and Y."""
    Y = S.multiply(S).tocsr()
    for name, M in (("A", S), ("Y", Y)):
        io.write_csr_blocks(
            folder / name, ((i, M[i : i + 7]) for i in range(0, K, 7)), shape=S.shape
        )
    return fit(S, Y), folder / "A", folder / "Y"


def solved(expected, A, Y):
    """Solve from the files on, and return the seconds that it took."""
    begin = time.monotonic()
    result = fit(distributed.rows(A), distributed.rows(Y))
    assert result.nit == expected.nit
    np.testing.assert_allclose(result.x, expected.x, rtol=0, atol=1e-12)
    return time.monotonic() - begin


def solved_with_a_death(client, problem, undisturbed, rng, dead):
    """Solve while a worker is killed at a random moment."""
    victim = int(rng.choice(sorted(all_alive(client, dead))))
    timer = threading.Timer(undisturbed * rng.random(), os.kill, (victim, signal.SIGKILL))
    timer.start()
    seconds = solved(*problem)
    timer.join()
    dead.append(victim)
    assert seconds < undisturbed + 15


@pytest.mark.parametrize("count", slow_except([3], [3, 20]))
def test_killed_workers(own_cluster, tmp_path, count):
    client = own_cluster()
    problem = problem_on_disk(tmp_path)
    solved(*problem)
    undisturbed, rng, dead = solved(*problem), np.random.default_rng(count), []
    for _ in range(count):
        client.cluster.scale(2)  # a nanny may give up a worker that was killed as it began
        solved_with_a_death(client, problem, undisturbed, rng, dead)


@pytest.mark.parametrize("count", slow_except([1], [1, 5]))
def test_killed_workers_without_nanny(own_cluster, tmp_path, count):
    client = own_cluster(n_workers=0)
    problem, rng, undisturbed, dead = problem_on_disk(tmp_path), np.random.default_rng(0), 1.0, []
    command = [sys.executable, "-m", "dask", "worker", client.cluster.scheduler_address]
    command += ["--no-nanny", "--nthreads=1", "--no-dashboard", f"--local-directory={tmp_path}"]
    with contextlib.ExitStack() as stack:

        def begin():
            worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(worker.wait)
            stack.callback(worker.kill)

        begin()
        for _ in range(count):
            begin()
            solved_with_a_death(client, problem, undisturbed, rng, dead)


def test_lost_blocks(own_cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(failures.tempfile, "tempdir", str(tmp_path))
    client, dead, at = own_cluster(n_workers=1), [], []  # two workers may both have a block
    error = failures.LostPartsError, "blocks that were scattered cannot be made again"

    def scattered():
        all_alive(client, dead, count=1)
        return client.scatter(blocks(S), hash=False)

    def kill():
        (victim,) = pids(client).values()
        dead.append(victim)
        os.kill(victim, signal.SIGKILL)

    lost = scattered()
    builder = JacobianBuilder(distributed.rows(lost))
    kill()
    with pytest.raises(error[0], match=error[1]):
        builder.operator(X).T @ np.ones(builder.shape[0])
    lost = scattered()
    kill()
    with pytest.raises(error[0], match=error[1]):
        distributed.rows(lost)
    A = distributed.rows(scattered())

    def callback(result):
        at.append(result.x)
        if len(at) == 2:
            kill()

    with pytest.raises(RuntimeError, match="the last x is kept") as caught:
        fit(A, S.multiply(S).tocsr(), callback=callback)
    assert isinstance(caught.value, error[0])
    np.testing.assert_array_equal(last_x(caught.value), at[-1])


def last_x(error):
    """The x in the file that a message names."""
    x = np.load(re.search(r'np\.load\("(.*)"\)', str(error))[1])
    assert x.shape == (K,)
    assert np.isfinite(x).all()
    return x


def test_stopped_worker(own_cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(failures.tempfile, "tempdir", str(tmp_path))
    client = own_cluster()
    Y, victim, stopped = S.multiply(S).tocsr(), min(pids(client).values()), []
    for timeout in (60, 3):  # the first operations load the kernels
        A = distributed.rows(client.scatter(blocks(S)), timeout=timeout)
        sums = RowSums(A)
        sums.value(X)
        if timeout > 3:
            fit(A, Y)
            symmetric_scaling(A)

    def stop(result=None):
        if result is None or result.nit >= 2:
            stopped.append(time.monotonic())
            os.kill(victim, signal.SIGSTOP)

    def refused(operation):
        try:
            with pytest.raises(
                TimeoutError, match=r"did not answer within .*distributed\.scheduler\.worker-ttl"
            ) as caught:
                operation()
            assert 2 < time.monotonic() - stopped[0] < 3 + 10
        finally:
            os.kill(victim, signal.SIGCONT)
            stopped.clear()
        np.testing.assert_array_equal(sums.value(X), RowSums(S).value(X))  # it goes on
        return caught.value

    refused(lambda: [stop(), sums.value(X)])
    with monkeypatch.context() as patch:
        patch.setattr(distributed, "_INLINE", 64)
        refused(lambda: [stop(), *(sums.value(X) for _ in range(2))])  # one is sent to each worker
    last_x(refused(lambda: fit(A, Y, callback=stop)))
    last_x(refused(lambda: symmetric_scaling(A, callback=stop)))


def test_workers_that_die_one_after_the_other(own_cluster):
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        own_cluster()
    with pytest.raises(MemoryError, match="workers died one after the other") as caught:
        distributed.rows([dask.delayed(os._exit)(1)])
    assert isinstance(caught.value, RuntimeError)


# --- vectors that are too large for a task


def test_scattered_vectors(client, monkeypatch):
    monkeypatch.setattr(distributed, "_INLINE", 64)
    for M in (S, D):
        A = distributed.rows(client.scatter(blocks(M)))
        compare(A, M, "stored")
    one, other = symmetric_scaling(S), symmetric_scaling(distributed.rows([dask.delayed(S)]))
    assert one.nit == other.nit


def test_vector_that_reaches_no_worker(client, monkeypatch):
    A = distributed.rows(client.scatter(blocks(S)))
    sums, calls = RowSums(A), []
    sums.value(2 * X)  # it sends more than a vector

    async def scatter(*_, **__):
        calls.append(1)
        raise dask_distributed.comm.CommClosedError

    monkeypatch.setattr(distributed, "_INLINE", 64)
    monkeypatch.setattr(client, "scatter", scatter)
    with pytest.raises(failures.LostPartsError, match="a vector was not sent"):
        sums.value(X)
    assert len(calls) == 9  # three times in each of three attempts


def test_lost_vectors(own_cluster, tmp_path, monkeypatch):
    """An operation whose vector is lost begins anew."""
    client = own_cluster()
    _, path, _ = problem_on_disk(tmp_path)
    A = distributed.rows(path)
    sums = RowSums(A)
    sums.value(2 * X)  # the vector of the last call is not sent again
    send, dead = distributed._DaskTransport.send, []

    def lost(self, x):
        future = send(self, x)
        if len(dead) < 2:
            dead.append(pids(client)[worker_of(client, future)])
            os.kill(dead[-1], signal.SIGKILL)
        return future

    monkeypatch.setattr(distributed, "_INLINE", 64)
    monkeypatch.setattr(distributed._DaskTransport, "send", lost)
    np.testing.assert_array_equal(sums.value(X), RowSums(S).value(X))
    assert len(dead) == 2


# --- J in a folder, and the README


@pytest.mark.parametrize("rows", ["all", "stored", "upper"])
def test_write_blocks(client, tmp_path, rows):
    """The workers write the folder that `write_csr_blocks` writes."""
    A = distributed.rows(client.scatter(blocks(S)))
    distributed.write_blocks(tmp_path / "J", JacobianBuilder(A, rows=rows), X)
    here = JacobianBuilder(S, rows=rows)
    io.write_csr_blocks(tmp_path / "here", here.iter_csr(X), shape=here.shape)
    for name in ("data", "indices", "indptr", "shape"):
        found, expected = (np.load(tmp_path / each / f"{name}.npy") for each in ("J", "here"))
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="is there already"):
        distributed.write_blocks(tmp_path / "J", JacobianBuilder(A, rows=rows), X)


def test_readme(client, tmp_path):
    """The three lines of the README."""
    (code,) = CLUSTER
    for name, M in (("A", S), ("Y", S.multiply(np.outer(X, X)).tocsr())):
        io.write_csr_blocks(tmp_path / name, [(0, M)], shape=M.shape)
        code = code.replace(f"/data/{name}", str(tmp_path / name))
    names = {}
    exec(compile(code, "README.md", "exec"), names)  # noqa: S102  # our own README
    np.testing.assert_allclose(names["result"].x, X)


# --- what is refused


def large_npy(folder, worker):
    """A file of 1.6 times what workers may hold. It is a hole, and takes no disk."""
    k = int(np.sqrt(1.6 * 2 * worker / 8))
    np.lib.format.open_memmap(folder / "large.npy", "w+", np.float64, (k, k))
    return folder / "large.npy"


def test_worker_that_is_too_small(own_cluster, tmp_path):
    """Nothing is loaded before the sizes are compared."""
    client = own_cluster(memory_limit="600MiB")
    path = large_npy(tmp_path, 0.6 * 600 * 2**20)
    lazy = da.from_array(np.load(path, mmap_mode="r"), chunks=(1000, -1))
    for form in (path, lazy):
        with pytest.raises(MemoryError, match=r"a worker would hold .* 60 % of .*600\.0 MiB"):
            distributed.rows(form)
        assert not client.cluster.scheduler.tasks


def save(folder, name, M, **how):
    np.save(folder / name, M)
    return folder / name


def save_npz(folder, *shapes):
    for number, shape in enumerate(shapes):
        scipy.sparse.save_npz(folder / f"{number}.npz", scipy.sparse.csr_array(shape))
    return str(folder / "*.npz")


def not_npz(folder):
    np.savez(folder / "a.npz", a=1)
    return str(folder / "*.npz")


def no_zip(folder):
    (folder / "a.npz").write_bytes(b"none")
    return folder / "*.npz"


def wide_folder(folder):
    io.write_csr_blocks(folder / "A", [(0, S[:5])], shape=(5, K))
    return folder / "A"


def wide_zarr(folder):
    zarr = pytest.importorskip("zarr", reason="Zarr is optional")
    return zarr.create_array(folder / "A.zarr", shape=(5, K), dtype="f8")


def scattered(*blocks):
    return distributed.distributed.get_client().scatter(list(blocks), hash=False)


NOT_ROWS = {
    "in memory": (
        lambda _: S,
        TypeError,
        r"A must be a Dask array, a list .* got scipy\.csr_array: an A in the memory",
    ),
    "a list of arrays": (lambda _: [D], TypeError, r"A\[0\] must be a future or a delayed block"),
    "an empty list": (lambda _: [], ValueError, "A must have at least one block of rows"),
    "other columns": (
        lambda _: scattered(D, D[:, :5]),
        ValueError,
        r"the blocks of A must have the same number of columns, got \[60, 5\]",
    ),
    "a vector as a block": (
        lambda _: scattered(X),
        ValueError,
        "a block of A must have two dimensions",
    ),
    "too few rows": (lambda _: scattered(D[:9]), ValueError, "blocks of 9 rows with 60 columns"),
    "strings": (
        lambda _: scattered(np.full((2, 2), "a")),
        TypeError,
        "A must have a dtype among",
    ),
    "dense and sparse blocks": (
        lambda _: scattered(D[:30], S[30:]),
        ValueError,
        "must all be dense or all be sparse, got both",
    ),
    "masked blocks": (
        lambda _: scattered(np.ma.masked_less(D, 2)),
        TypeError,
        "its mask would be lost",
    ),
    "chunks of unknown sizes": (
        lambda _: (rows := da.from_array(D, chunks=(20, K)))[rows[:, 0] >= 0],
        ValueError,
        r"sizes of A's chunks must be known: call A\.compute_chunk_sizes",
    ),
    "a wide Dask array": (
        lambda _: da.ones((5, 6)),
        ValueError,
        r"square matrix, got shape \(5, 6\)",
    ),
    "chunks of half rows": (
        lambda _: da.ones((6, 6), chunks=(6, 3)),
        ValueError,
        r"whole rows, and it has 2 of them .* pass A\.rechunk",
    ),
    "a wide .npy": (lambda d: save(d, "A.npy", D[:5]), ValueError, r"got shape \(5, 60\)"),
    "Fortran order": (
        lambda d: save(d, "A.npy", np.asfortranarray(D)),
        ValueError,
        "Fortran order, and its rows lie apart: write it in C order",
    ),
    "no file": (lambda d: d / "no.npy", FileNotFoundError, r"no\.npy"),
    "no folder": (
        lambda d: d / "no",
        ValueError,
        "no folder of write_csr_blocks, and no Zarr array",
    ),
    "no match": (lambda d: d / "no-*.npz", ValueError, "no file matches"),
    "no .npz": (not_npz, ValueError, r"a\.npz is not a sparse matrix of scipy\.sparse\.save_npz"),
    "no zip file": (
        no_zip,
        ValueError,
        r"a\.npz is not a sparse matrix of scipy\.sparse\.save_npz",
    ),
    "other .npz": (
        lambda d: save_npz(d, (3, 5), (2, 4)),
        ValueError,
        r"same number of columns, got \[4, 5\]",
    ),
    "a wide .npz": (lambda d: save_npz(d, (3, 5)), ValueError, "blocks of 3 rows with 5 columns"),
    "a wide folder": (wide_folder, ValueError, r"square matrix, got shape \(5, 60\)"),
    "a wide Zarr array": (wide_zarr, ValueError, r"square matrix, got shape \(5, 60\)"),
}


@pytest.mark.parametrize("name", NOT_ROWS)
def test_what_is_no_rows(client, tmp_path, name):
    make, error, message = NOT_ROWS[name]
    with pytest.raises(error, match=message):
        distributed.rows(make(tmp_path))


def with_number(M, i, j, value):
    M = M.toarray() if scipy.sparse.issparse(M) else M.copy()
    M[i, j] = value
    return scattered(M[:25], M[25:])


NOT_DONE = {
    "a Dask array as A": (
        lambda: JacobianBuilder(da.ones((3, 3))),
        TypeError,
        r"A is a Dask collection.*pass sparsejac\.distributed\.rows\(A\)",
    ),
    "a Dask array as Y": (
        lambda: fit(distributed.rows(scattered(S)), da.from_array(D)),
        TypeError,
        r"Y is a Dask collection.*pass sparsejac\.distributed\.rows\(Y\)",
    ),
    "a Dask vector as Y of an A in memory": (
        lambda: fit(D, da.ones(K * K)),
        TypeError,
        r"Y must be a NumPy array.* got dask\.Array: pass np\.asarray\(Y\)",
    ),
    "delayed as A": (lambda: JacobianBuilder(dask.delayed(S)), TypeError, "A is a Dask collection"),
    "Y alone on the cluster": (
        lambda: fit(S, distributed.rows(scattered(S))),
        ValueError,
        "Y is on the workers of a cluster, and A is not",
    ),
    "Y of another size": (
        lambda: fit(distributed.rows(scattered(S)), distributed.rows(scattered(np.ones((3, 3))))),
        ValueError,
        "Y must be a 60x60 matrix as A is, got 3x3",
    ),
    "a Dask Y of another length": (
        lambda: fit(distributed.rows(scattered(D)), da.ones(7)),
        ValueError,
        r"or a vector of length 3600 in the order of J's rows, got shape \(7,\)",
    ),
    "a Dask Y with NaN": (
        lambda: fit(distributed.rows(scattered(D)), da.full(K * K, np.nan)),
        ValueError,
        "Y must be finite",
    ),
    "a Dask w of another length": (
        lambda: JacobianBuilder(distributed.rows(scattered(D))).operator(X).T @ da.ones(7),
        ValueError,
        r"x must have shape \(3600,\) or \(3600, c\), got \(7,\)",
    ),
    "Dask weights of another length": (
        lambda: JacobianBuilder(distributed.rows(scattered(D))).hessian(da.ones(7)),
        ValueError,
        r"w must have shape \(3600,\), a weight for each row of J, got \(7,\)",
    ),
    "csr_blocks in memory": (
        lambda: distributed.csr_blocks(JacobianBuilder(S), X),
        TypeError,
        r"builder must have an A of sparsejac\.distributed\.rows, got one in this process",
    ),
    "J by columns": (
        lambda: JacobianBuilder(distributed.rows(scattered(D)), order="F").value(X),
        ValueError,
        "order",
    ),
    "blocks of J by columns": (
        lambda: distributed.csr_blocks(
            JacobianBuilder(distributed.rows(scattered(D)), order="F"), X
        ),
        ValueError,
        "order",
    ),
    "products with J by columns": (
        lambda: (
            JacobianBuilder(distributed.rows(scattered(D)), order="F").operator(X).T
            @ np.ones(K * K)
        ),
        ValueError,
        "order",
    ),
    "NaN": (
        lambda: JacobianBuilder(distributed.rows(with_number(D, 31, 7, np.nan))),
        ValueError,
        r"A must be finite, but A\[31, 7\] = nan",
    ),
    "A that is not symmetric": (
        lambda: symmetric_scaling(distributed.rows(with_number(D, 31, 7, 99.0))),
        ValueError,
        r"needs a symmetric A, but the products of row 7 and of column 7 .* differ by",
    ),
    "the lower triangle, and more": (
        lambda: JacobianBuilder(distributed.rows(scattered(S)), rows="upper", uplo="L"),
        ValueError,
        "entries above its diagonal",
    ),
    "negative entries": (
        lambda: symmetric_scaling(distributed.rows(with_number(np.ones((K, K)), 31, 31, -1.0))),
        ValueError,
        r"no negative entries, but A\[31, 31\] = -1\.0",
    ),
}


@pytest.mark.parametrize("name", NOT_DONE)
def test_what_is_refused(client, name):
    operation, error, message = NOT_DONE[name]
    with pytest.raises(error, match=message):
        operation()


def test_without_client_or_workers(own_cluster, monkeypatch):
    empty = own_cluster(n_workers=0)
    with pytest.raises(ValueError, match="has no workers: start some"):
        distributed.rows([dask.delayed(D)], client=empty)

    def none():
        raise ValueError

    with pytest.raises(TypeError, match=r"client must be a dask\.distributed\.Client, got str"):
        distributed.rows([dask.delayed(D)], client="tcp://localhost:1")
    with pytest.raises(ValueError, match="timeout must be a positive number of seconds"):
        distributed.rows([dask.delayed(D)], client=empty, timeout=0)
    with Client(empty.cluster, set_as_default=False) as closed:
        pass
    with pytest.raises(ValueError, match="client must be connected to its cluster"):
        distributed.rows([dask.delayed(D)], client=closed)
    monkeypatch.setattr(distributed.distributed, "get_client", none)
    with pytest.raises(ValueError, match=r"there is no Dask client: make one"):
        distributed.rows([dask.delayed(D)])


def test_without_dask(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    spec = importlib.util.find_spec("sparsejac.distributed")
    with pytest.raises(ImportError, match=r"install the extra, sparsejac-hadamard\[dask\]"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_without_zarr(client, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ValueError, match="and Zarr is not installed"):
        distributed.rows(tmp_path)
