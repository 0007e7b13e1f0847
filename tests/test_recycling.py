"""The memory of a dropped result is used for the next one, and never while anything can reach it.

A result's address says whose memory it has.
"""

import ctypes
import gc
import os
import pickle
import threading
import tracemalloc
import types

import numba
import numpy as np
import pytest
import scipy.sparse
from support import assert_same, integers, random_csr, slow

from sparsejac import JacobianBuilder, LeastSquares, _kernels
from sparsejac._backends import pool, protocol
from sparsejac._backends.threads import ThreadBackend
from sparsejac._kernels import assembly
from sparsejac._system import machine, recycling

K = 800  # J v takes 5 MB


@pytest.fixture(scope="module")
def A():
    return integers((K, K))


@pytest.fixture
def builder(A):
    return JacobianBuilder(A)


@pytest.fixture
def op(builder):
    return builder.operator(integers((K,), seed=1))


def product(A, op, v):
    x = op._x
    return (A * (np.outer(v, x) + np.outer(x, v))).ravel()


def address(array):
    return array.__array_interface__["data"][0]


def dropped(op):
    """The address of a result that nothing refers to any more."""
    return address(op @ np.ones(K))


def test_next_result_has_the_memory_of_the_last_that_was_dropped(A, op):
    place, v = dropped(op), integers((K,), seed=2)
    result = op @ v
    assert address(result) == place
    assert_same(result, product(A, op, v))


def test_result_that_is_kept_keeps_its_memory(A, op):
    v, w = integers((K,), seed=2), integers((K,), seed=3)
    first, second = op @ v, op @ w
    assert not np.shares_memory(first, second)
    assert_same(first, product(A, op, v))
    assert_same(second, product(A, op, w))


def test_result_does_not_own_its_memory_and_starts_at_a_cache_line(op):
    result = op @ np.ones(K)
    assert not result.flags.owndata
    assert result.flags.writeable
    assert result.flags.aligned
    assert result.flags.c_contiguous
    assert address(result) % 64 == 0


def test_small_result_owns_its_memory():
    assert (JacobianBuilder(np.eye(10)).operator(np.ones(10)) @ np.ones(10)).flags.owndata


def exported(array):
    """The array of somebody else over the same memory."""
    return np.from_dlpack(array)


@pytest.mark.parametrize(
    "kept",
    [
        lambda y: y[5:7],
        lambda y: y.reshape(K, K).T,
        lambda y: y.view(np.uint8),
        memoryview,
        lambda y: memoryview(y)[3:4],
        lambda y: memoryview(y.base)[8:16],
        exported,
        lambda y: np.lib.stride_tricks.as_strided(y, (3,), (8,)),
        np.frombuffer,
        lambda y: np.asarray(y.base),
        iter,
        lambda y: y.flat,
        lambda y: y.ctypes,
    ],
    ids=[
        "slice", "transpose", "dtype", "memoryview", "its slice", "of the base", "DLPack",
        "as_strided", "frombuffer", "asarray of the base", "iterator", "flat", "ctypes",
    ],
)  # fmt: skip
def test_view_keeps_the_memory(op, kept):
    v = np.arange(K) % 3 - 1.0
    result = op @ v
    place, expected = address(result), result.copy()
    view = kept(result)
    del result
    others = [op @ np.ones(K) for _ in range(2)]
    assert place not in [address(other) for other in others]
    del others
    for _ in range(3):
        assert address(op @ np.ones(K)) != place
    assert ctypes.string_at(place, expected.nbytes) == expected.tobytes()
    del view
    gc.collect()
    assert address(op @ np.ones(K)) == place


def test_exception_keeps_the_result(op):
    def fail():
        result = op @ np.ones(K)
        raise ValueError(address(result))

    with pytest.raises(ValueError, match=r"\d+") as caught:
        fail()
    place = int(str(caught.value))
    assert address(op @ np.ones(K)) != place
    assert address(op @ np.ones(K)) != place
    caught.value.__traceback__ = None
    del caught
    gc.collect()
    assert address(op @ np.ones(K)) == place


def test_result_in_a_cycle_is_freed_or_recycled(A, op):
    cycle = [op @ np.ones(K)]
    cycle.append(cycle)
    del cycle
    gc.collect()
    v = integers((K,), seed=4)
    assert_same(op @ v, product(A, op, v))


def test_result_cannot_be_resized(op):
    result = op @ np.ones(K)
    with pytest.raises(ValueError, match="does not own its data"):
        result.resize(5, refcheck=False)


def test_result_can_be_locked_and_unlocked(op):
    result = op @ np.ones(K)
    result.setflags(write=False)
    with pytest.raises(ValueError, match="read-only"):
        result[0] = 1
    result.setflags(write=True)
    result[0] = 1
    assert address(op @ np.ones(K)) != address(result)


@pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")
def test_shape_of_a_result_can_be_set(A, op):
    v = integers((K,), seed=2)
    result = op @ v
    result.shape = (K, K)
    assert_same(result, product(A, op, v).reshape(K, K))


def test_user_may_write_into_a_result(A, op):
    v = integers((K,), seed=2)
    result = op @ v
    result[:] = np.nan
    del result
    assert_same(op @ v, product(A, op, v))


def test_operators_share_the_spare_memory_of_their_builder(A, builder):
    place = dropped(builder.operator(np.ones(K)))
    assert address(builder.operator(np.arange(K)) @ np.ones(K)) == place
    assert address(builder.value(np.ones(K))) == place


def test_residuals_are_recycled(A):
    problem = LeastSquares(A, A)
    place = address(problem.fun(np.ones(K)))
    assert address(problem.fun(np.zeros(K))) == place


def test_numbers_of_a_csr_matrix_are_recycled(A, builder):
    x, y = integers((K,), seed=5), integers((K,), seed=6)
    place = address(builder.tocsr(x).data)
    J = builder.tocsr(y)
    assert address(J.data) == place
    again = builder.tocsr(x)
    assert_same(J @ x, product(A, builder.operator(y), x))
    assert_same(again @ x, product(A, builder.operator(x), x))
    assert J.indices.flags.owndata or J.indices.base.flags.owndata
    builder.tocsr(x, out=J)
    assert_same(J.data, again.data)


@pytest.mark.parametrize("change", ["sort_indices", "sum_duplicates", "eliminate_zeros", "prune"])
def test_scipy_may_change_a_matrix_in_place(A, builder, change):
    x = integers((K,), seed=5)
    builder.tocsr(x)
    J = builder.tocsr(x)
    getattr(J, change)()
    builder.tocsr(np.ones(K))
    assert_same(J @ x, product(A, builder.operator(x), x))


def test_one_result_at_most_is_kept(op):
    nbytes = (op @ np.ones(K)).nbytes
    recycling.Recycler.free_all()
    tracemalloc.start()
    try:
        results = [op @ np.ones(K) for _ in range(4)]
        assert tracemalloc.get_traced_memory()[0] > 4 * nbytes
        results.clear()
        assert nbytes < tracemalloc.get_traced_memory()[0] < 1.1 * nbytes
        op.matvec(np.ones(K))  # SciPy's name for it
        assert nbytes < tracemalloc.get_traced_memory()[0] < 1.1 * nbytes
    finally:
        tracemalloc.stop()


def test_much_larger_spare_memory_is_freed(op):
    op @ np.ones((K, 2)), op @ np.ones(K)  # compiles the kernels
    recycling.Recycler.free_all()
    tracemalloc.start()
    try:
        op @ np.ones((K, 8))
        assert tracemalloc.get_traced_memory()[0] > 64 * K**2
        op @ np.ones(K)
        assert tracemalloc.get_traced_memory()[0] < 9 * K**2
    finally:
        tracemalloc.stop()


def test_a_job_that_is_over_does_not_hold_the_result(A, monkeypatch):
    class KeptJob(pool._Job):
        """A job that is still referred to when it is over, as by a thread that is slow."""

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            jobs.append(self)

    op, v = JacobianBuilder(A, workers=2).operator(np.ones(K)), np.ones((K, 8))
    jobs = []
    monkeypatch.setattr(pool, "_Job", KeptJob)
    recycling.Recycler.free_all()
    place = address(op @ v)
    assert address(op @ v) == place
    assert len(jobs) == 2


def test_memory_goes_with_the_builder_and_its_results(A):
    JacobianBuilder(A).value(np.ones(K))  # compiles the kernel
    tracemalloc.start()
    try:
        builder = JacobianBuilder(A)
        early, late = builder.value(np.ones(K)), builder.value(np.ones(K))
        del early, builder
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] > 16 * K**2  # the spare memory, and `late`
        del late
        assert tracemalloc.get_traced_memory()[0] < 200_000
    finally:
        tracemalloc.stop()


def test_pickle_has_no_spare_memory(builder):
    dropped(builder.operator(np.ones(K)))
    pickled = pickle.dumps(builder)
    assert len(pickled) < 8.1 * K**2
    assert not pickle.loads(pickled)._rows.results.has(8 * K**2)
    assert builder._rows.results.has(8 * K**2)


def test_nothing_is_kept_of_results_that_take_much_of_the_free_memory(op, monkeypatch):
    monkeypatch.setattr(machine, "available_memory", lambda: 8 * 8 * K**2 - 1)
    assert (op @ np.ones(K)).flags.owndata
    monkeypatch.setattr(machine, "available_memory", lambda: 8 * 8 * K**2)
    assert not (op @ np.ones(K)).flags.owndata


def test_spare_memory_of_all_builders_is_freed_before_a_memory_error(A, op, monkeypatch):
    builder = JacobianBuilder(A)
    place, nbytes = dropped(op), builder.csr_nbytes()
    spare = op._rows.results
    monkeypatch.setattr("sparsejac._validation.LARGE", 0)
    monkeypatch.setattr(machine, "available_memory", lambda: nbytes - spare.has(8 * K**2))
    builder.tocsr(np.ones(K))
    assert not spare.has(8 * K**2)
    monkeypatch.setattr(machine, "available_memory", lambda: nbytes - 1)
    with pytest.raises(MemoryError, match="would take"):
        builder.tocsr(np.ones(K))
    assert place


@pytest.mark.parametrize(
    "result",
    [
        lambda A: JacobianBuilder(A).value(np.ones(K)),
        lambda A: JacobianBuilder(scipy.sparse.csr_array(A)).value(np.ones(K)),
        lambda A: JacobianBuilder(A).row_pairs()[0],
        lambda A: JacobianBuilder(A).tocsr(np.ones(K)).data,
        lambda A: JacobianBuilder(A)._rows.visited()[0],
    ],
    ids=["value", "value with rows that A does not store", "row_pairs", "tocsr", "visited"],
)
@pytest.mark.parametrize("fails", [1, 2, 3])
def test_spare_memory_is_freed_if_the_system_has_none(A, op, monkeypatch, result, fails):
    """Whichever of the allocations fails first."""
    expected = result(A)
    dropped(op)
    spare, calls = op._rows.results, []

    def full(allocate):
        def run(*args):
            calls.append(args)
            if len(calls) >= fails and spare.has(8 * K**2):
                raise MemoryError
            return allocate(*args)

        return run

    names = {**vars(np), "empty": full(np.empty), "zeros": full(np.zeros)}
    with monkeypatch.context() as patch:  # for this module alone
        patch.setattr(recycling, "np", types.SimpleNamespace(**names))
        found = result(A)
    assert_same(found, expected)
    assert spare.has(8 * K**2) == (len(calls) < fails)


def test_spare_memory_is_freed_while_other_threads_begin_to_have_some():
    stop = threading.Event()

    def begin():
        while not stop.is_set():
            recycling.Recycler().empty((2**20,), np.dtype(np.float64))

    threads = [threading.Thread(target=begin) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20_000):
            recycling.Recycler.free_all()
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forked_child_frees_the_spare_memory(A):
    op = JacobianBuilder(A, workers=1).operator(np.ones(K))
    kept = op @ np.ones(K)
    dropped(op)
    assert op._rows.results.has(8 * K**2)
    child = os.fork()
    if child == 0:
        wrong = op._rows.results.has(8 * K**2)
        del kept  # it was made by the parent, and is recycled by the child
        wrong |= not np.array_equal(op @ np.ones(K), 2 * A.ravel())
        os._exit(bool(wrong))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert op._rows.results.has(8 * K**2)
    assert_same(kept, 2 * A.ravel())


def test_rows_that_A_does_not_store_are_zero():
    A = random_csr(K, 3)
    builder = JacobianBuilder(A)
    for _ in range(2):
        assert_same(builder.value(np.ones(K)), A.toarray().ravel())
        J = builder.tocsr(np.ones(K))
        J.data[:] = 7


def test_eight_threads(A):
    """Each keeps its last result while it, and the others, ask for the next."""
    builder = JacobianBuilder(A, workers=2)
    x = integers((K,), seed=1)
    op, wrong = builder.operator(x), []
    outer = np.add.outer

    def run(seed):
        v = np.random.default_rng(seed).integers(-3, 4, (20, K)).astype(float)
        last = expected = None
        for each in v:
            result = op @ each
            if last is not None and not np.array_equal(last, expected):
                wrong.append(seed)
            expected = (A * (outer(each, 0 * x) * x + outer(x, 0 * x) * each)).ravel()
            if not np.array_equal(result, expected):
                wrong.append(seed)
            last = result if seed % 2 else result[:]
            del result

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- stores past the caches -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs_past_caches():
    kernel = assembly._pairs_past_caches

    @numba.njit
    def run(out, o, a, x, xi, below):
        kernel(out, o, a, x, xi, below)

    return run


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_stores_past_caches_at_every_place(pairs_past_caches, dtype):
    """For each length and each place in a cache line, nothing else is written."""
    memory = np.empty(128, dtype)
    base = -(memory.ctypes.data // memory.itemsize) % 16
    for n in range(24):
        a, x = integers((n,), dtype, seed=n), integers((n,), dtype, seed=n + 1)
        for o in range(17):
            for below in (False, True):
                memory[:] = 99
                pairs_past_caches(memory[base:], o, a, x, dtype(3), below)
                expected = np.full(128, 99, dtype)
                pairs = [3 * a, a * x] if below else [a * x, 3 * a]
                expected[base + o : base + o + 2 * n] = np.transpose(pairs).ravel()
                assert_same(memory, expected)


def test_stores_past_caches_without_alignment(pairs_past_caches):
    """An address that is no multiple of the size of a number has no lines."""
    memory = np.zeros(8 * 60 + 4, np.uint8)
    out = memory[4:].view(np.float64)
    pairs_past_caches(out, 1, np.arange(20.0), np.ones(20), 3.0, True)
    assert_same(out[1:41:2], 3 * np.arange(20.0))
    assert_same(out[2:41:2], np.arange(20.0))
    assert out[0] == 0
    assert_same(out[41:], np.zeros(19))


@pytest.mark.parametrize("dtype", [np.float64, *slow(np.float32, np.int8)])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("rows", ["all", "upper"])
def test_maps_past_caches(monkeypatch, rows, order, dtype):
    """Into used memory they store past the caches, and the bits are the same."""
    monkeypatch.setattr(recycling, "LARGE", 1)
    monkeypatch.setattr(protocol, "CACHES", 0)
    monkeypatch.setattr(protocol, "maps_go_past_caches", lambda: True)
    kernels, run = [], ThreadBackend.map

    def map_and_note(self, kernel, *args, **how):
        kernels.append(kernel)
        run(self, kernel, *args, **how)

    monkeypatch.setattr(ThreadBackend, "map", map_and_note)
    rng = np.random.default_rng(0)
    A = rng.random((33, 33)) if dtype != np.int8 else integers((33, 33), dtype)
    A = (A + A.T).astype(dtype)
    problem = LeastSquares(A, A, rows=rows, order=order)
    builder, (x, v) = problem.builder, rng.random((2, 33)).astype(problem.builder.dtype)
    op = builder.operator(x)
    for product in (lambda: op @ v, lambda: builder.value(x), lambda: problem.fun(x)):
        recycling.Recycler.free_all()
        kernels.clear()
        expected = product().copy()
        found = product()
        assert kernels[1] == kernels[0] + "_past_caches"
        assert_same(found, expected)


@pytest.mark.parametrize("processor", ["znver4", "sapphirerapids"])
def test_processors_of_maps_past_caches(monkeypatch, processor):
    monkeypatch.setattr("llvmlite.binding.get_host_cpu_name", lambda: processor)
    assert _kernels.maps_go_past_caches.__wrapped__() == (processor == "znver4")


@pytest.mark.parametrize("rows", ["all", "upper"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_large_matrix(rows, order):
    """J is larger than the caches for which ordinary stores are used."""
    k = 2100
    A = integers((k, k)) if rows == "all" else np.ones((k, k))
    if rows == "upper":
        A *= np.add.outer(np.arange(k), np.arange(k)) % 5 - 2
    x, v = integers((k,), seed=1), integers((k,), seed=2)
    builder = JacobianBuilder(A, rows=rows, order=order)
    i, j = builder.row_pairs()
    expected = A[i, j] * (v[i] * x[j] + x[i] * v[j])
    J = builder.tocsr(x)
    assert J.data.nbytes > 2**25
    assert_same(J @ v, expected)
    J.data[:] = np.nan
    builder.tocsr(x, out=J)
    assert_same(J @ v, expected)
    J.data = np.empty(J.nnz + 1)[1:]  # at another place in a cache line
    assert_same(builder.tocsr(x, out=J) @ v, expected)
    start = 0
    for r0, block in builder.iter_csr(x, block_rows=2**22 + 12345 if rows == "all" else 10**6):
        assert r0 == start
        assert_same(block @ v, expected[r0 : r0 + block.shape[0]])
        start += block.shape[0]
