"""Threads, processes, and layouts: the same bits, however the rows are worked on."""

import copy
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.sparse
from support import assert_same, integers, matrix, random_csr, slow, toarray

from sparsejac import JacobianBuilder, LeastSquares
from sparsejac._backends import partition as _partition
from sparsejac._backends import pool as _pool
from sparsejac._backends import threads as _threads
from sparsejac._backends.pool import on_threads

K = 700


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    """Make pieces so small that small matrices have several of them, in maps and in sums."""
    monkeypatch.setattr(_threads, "_INLINE", 2**14)
    monkeypatch.setattr(_partition, "_PIECE", 2**15)


def large(form, dtype=np.float64):
    if form == "csr":
        return random_csr(70_000, 6).astype(dtype)  # vectors beyond the cache: asked for early
    A = np.random.default_rng(0).standard_normal((K, K)).astype(dtype)
    return A if form == "C" else np.asfortranarray(A)


def everything(A, x, workers, rows="stored"):
    builder = JacobianBuilder(A, rows=rows, workers=workers)
    op = builder.operator(x)
    w = np.linspace(-1, 1, builder.shape[0])
    W = np.stack([w, w[::-1]], axis=1)
    J = builder.tocsr(x)
    return [
        builder.value(x), op @ x[::-1], op @ np.stack([x, x[::-1]], axis=1), op.T @ w,
        op.T @ W, op.column_norms(),
        J.data, J.indices, J.indptr,
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float64", "int16"])
@pytest.mark.parametrize("form", ["C", "F", "csr"])
def test_same_bits_for_every_number_of_workers(form, dtype):
    A = large(form) if dtype == "float64" else (100 * large(form)).astype(dtype)
    x = np.random.default_rng(1).standard_normal(A.shape[0])
    expected = everything(A, x, 1)
    for workers in (2, 3, 8):
        for one, other in zip(expected, everything(A, x, workers), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("form", ["C", "csr"])
def test_large_problems_are_right(form):
    """On several threads and in several pieces, against SciPy's own products with J as CSR."""
    A = large(form)
    x, v = np.random.default_rng(2).standard_normal((2, A.shape[0]))
    builder = JacobianBuilder(A, rows="stored")
    i, j = builder.row_pairs()
    a = A.data if form == "csr" else A.ravel()
    J, op, w = builder.tocsr(x), builder.operator(x), a - 0.5
    expected = scipy.sparse.coo_array(
        (
            np.concatenate([a * x[j], a * x[i]]),
            (np.tile(np.arange(i.size), 2), np.concatenate([i, j])),
        ),
        shape=J.shape,
    )
    assert abs(J - expected.tocsr()).max() < 1e-15
    np.testing.assert_allclose(op @ v, J @ v, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(op.T @ w, J.T @ w, rtol=1e-12, atol=1e-10)
    np.testing.assert_allclose(op.column_norms(), scipy.sparse.linalg.norm(J, axis=0), rtol=1e-13)


@pytest.mark.parametrize("form", ["F", "strided", "reversed", "csr"])
def test_packed_blocks_are_as_good_as_one(form, monkeypatch):
    """A layout or dtype that the kernels do not read is copied block by block: here many, at cut
    rows too.
    """
    monkeypatch.setattr(_threads, "_CONTIGUOUS", 320)
    A = matrix(50, form, dtype="int16" if form == "csr" else "float64", density=0.2)
    plain = A.astype(np.float64) if form == "csr" else np.ascontiguousarray(A)
    x = integers((50,), seed=3)
    for one, other in zip(everything(plain, x, 1), everything(A, x, 2), strict=True):
        assert_same(other, one)
    for (_, one), (_, other) in zip(
        JacobianBuilder(plain).iter_csr(x, block_rows=123),
        JacobianBuilder(A).iter_csr(x, block_rows=123),
        strict=True,
    ):
        assert_same(other, one.toarray())


@pytest.mark.parametrize("form", ["C", "F", "strided", "csr"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_one_triangle_is_read_whatever_the_layout(form, order):
    """Which one shows when only the upper one is changed, after the check that they are equal: by
    rows in both orders, so
    with "F", the upper one by columns, it is the lower one.
    """
    A = matrix(9, form, symmetric=True, density=1.0)
    builder = JacobianBuilder(A, rows="upper", order=order)
    i, j = builder.row_pairs()
    before = toarray(A).astype(np.float64)
    if form == "csr":
        A.data[A.indices > np.repeat(np.arange(9), np.diff(A.indptr))] = 7
    else:
        A[np.triu_indices(9, 1)] = 7
    expected = np.where((i == j) | (order == "F"), before[i, j], 7.0)
    assert_same(builder.value(np.ones(9)), expected)


@pytest.mark.parametrize("form", ["C", "csr"])
@pytest.mark.parametrize("workers", [1, 2])
def test_sums_overflow_in_silence(form, workers):
    """Whether NumPy adds the partial sums or the kernel does."""
    A = large(form)
    values = A.data if form == "csr" else A.reshape(-1)
    values[:1000], values[-1000:] = np.inf, -np.inf
    op = JacobianBuilder(A, rows="stored", check_finite=False, workers=workers).operator(
        np.ones(A.shape[0])
    )
    with np.errstate(all="raise"):
        assert np.isnan(op.T @ np.ones(op.shape[0])).any()


@pytest.mark.parametrize(
    ("k", "count"), [(0, 1), (700, 1), (1100, 4), (3000, 8), (6000, 16), (10_000, 32), (10**5, 32)]
)
def test_more_partial_sums_of_a_larger_matrix(monkeypatch, k, count):
    monkeypatch.undo()  # the pieces of this file's other tests are small
    assert _partition.partial_sums(types.SimpleNamespace(k=k, entries=k * k), 32) == count


@pytest.mark.parametrize("k", [1, 3, 40])
@pytest.mark.parametrize("form", ["C", "csr"])
def test_results_own_their_memory(form, k):
    op = JacobianBuilder(matrix(k, form), rows="all").operator(np.ones(k))
    for result in (
        op @ np.ones(k),
        op.T @ np.ones(k * k),
        op.H @ np.ones(k * k),
        op.T @ np.ones((k * k, 2)),
    ):
        assert result.base is None
        assert result.flags.c_contiguous
        assert result.flags.writeable


def test_a_block_of_vectors_wakes_threads_sooner(monkeypatch):
    """What counts is the numbers that are moved: here 10 000 entries, and 10 000 times 8."""
    pieces = []
    monkeypatch.setattr(
        _threads,
        "on_threads",
        lambda work, n, workers: pieces.append(n) or on_threads(work, n, workers),
    )
    op = JacobianBuilder(np.ones((100, 100)), workers=2).operator(np.ones(100))
    op @ np.ones(100), op.T @ np.ones(10_000)
    assert pieces == []
    op @ np.ones((100, 8))
    assert len(pieces) == 1
    assert pieces[0] > 1


def test_sums_of_float32_are_kept_in_float64():
    k = 3000
    A, x = np.full((k, k), 0.1, np.float32), np.ones(k, np.float32)
    op = JacobianBuilder(A).operator(x)
    found = op.T @ np.ones(k * k, np.float32)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, 2 * k * np.float64(np.float32(0.1)), rtol=1e-7)


def test_several_python_threads_at_once():
    A = large("C")
    x = np.linspace(-1, 1, K)
    op = JacobianBuilder(A, workers=2).operator(x)
    w = np.linspace(0, 1, K * K)
    expected = op @ x, op.T @ w
    with ThreadPoolExecutor(8) as pool:
        for forward, adjoint in pool.map(lambda _: (op @ x, op.T @ w), range(24)):
            assert_same(forward, expected[0])
            assert_same(adjoint, expected[1])


def _child(op, w, expected):
    os._exit(0 if np.array_equal(op.T @ w, expected) and threading.active_count() >= 1 else 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_in_a_forked_child_after_the_parent_used_its_threads():
    op = JacobianBuilder(large("C"), workers=2).operator(np.ones(K))
    w = np.linspace(0, 1, K * K)
    expected = op.T @ w
    child = multiprocessing.get_context("fork").Process(target=_child, args=(op, w, expected))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert_same(op.T @ w, expected)


def test_under_spawn():
    builder = JacobianBuilder(matrix(6), order="F")
    op, v = builder.operator(integers((6,), seed=4)), integers((6,), seed=5)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert_same(pool.apply(op.matvec, (v,)), op @ v)


@pytest.mark.parametrize("form", ["C", "csr", *slow("F", "csc")])
@pytest.mark.parametrize("rows", ["stored", *slow("all", "upper")])
def test_pickles(form, rows):
    A = matrix(7, form, symmetric=rows == "upper")
    x, v = integers((7,), seed=6), integers((7,), seed=7)
    builder = JacobianBuilder(A, rows=rows, order="F", check_finite=False)
    op = builder.operator(x)
    for again in (
        pickle.loads(pickle.dumps(op)),
        copy.copy(op),
        copy.deepcopy(op),
        pickle.loads(pickle.dumps(op.T)).T,
    ):
        assert_same(again @ v, op @ v)
        assert again.dtype == op.dtype
    J = pickle.loads(pickle.dumps(builder)).tocsr(x)
    assert_same(J, builder.tocsr(x).toarray())


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("form", [np.asarray, np.asfortranarray, scipy.sparse.csc_array])
def test_pickles_have_the_bits_of_sums(form, order):
    """Also where NumPy's pickles lose the byte order: in those of Fortran's order."""
    rng = np.random.default_rng(0)
    A = form(rng.random((9, 9)) * 10.0 ** rng.integers(-6, 7, (9, 9)))
    if not scipy.sparse.issparse(A):
        A = A.astype(">f8")
    x, v = rng.random((2, 9))
    builder, problem = JacobianBuilder(A, order=order), LeastSquares(A, 2 * A, order=order)
    again = pickle.loads(pickle.dumps((builder, problem)))
    products = [each.operator(x).normal() @ v for each in (builder, again[0])]
    assert products[0].tobytes() == products[1].tobytes()
    assert (again[1].hess(x) @ v).tobytes() == (problem.hess(x) @ v).tobytes()
    assert again[1].grad(x).tobytes() == problem.grad(x).tobytes()


def test_a_pickle_holds_a_once():
    A = large("csr")
    size = A.data.nbytes + A.indices.nbytes + A.indptr.nbytes
    assert (
        len(pickle.dumps(JacobianBuilder(A, rows="stored").operator(np.ones(70_000))))
        < size + 8 * 70_000 + 10_000
    )


def test_an_exception_reaches_the_caller_and_stops_the_threads():
    done = []

    def work(piece):
        if piece == 3:
            raise ZeroDivisionError("piece 3")
        done.append(piece)

    with pytest.raises(ZeroDivisionError, match="piece 3"):
        on_threads(work, 10_000, 3)
    assert len(done) < 10_000
    on_threads(done.append, 5, 3)  # the pool still works


def test_a_failing_piece_of_a_sum_does_not_block_the_others(monkeypatch):
    op = JacobianBuilder(large("C"), workers=4).operator(np.ones(K))
    run = _threads.ThreadBackend._run
    calls = iter(range(100))

    def failing(self, *args):
        if next(calls) == 1:
            raise ZeroDivisionError("second piece")
        run(self, *args)

    monkeypatch.setattr(_threads.ThreadBackend, "_run", failing)
    with pytest.raises(ZeroDivisionError, match="second piece"):
        op.T @ np.ones(K * K)
    monkeypatch.undo()
    assert (op.T @ np.ones(K * K)).shape == (K,)


def test_no_thread_to_be_had(monkeypatch):
    def start_new_thread(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_pool, "_threads", [])
    monkeypatch.setattr("_thread.start_new_thread", start_new_thread)
    done = []
    on_threads(done.append, 7, 4)
    assert done == list(range(7))


INTERRUPTED = """
import signal, sys, time
import numpy as np
from sparsejac import JacobianBuilder, LeastSquares

k = 1200
A = np.ones((k, k))
builder = JacobianBuilder(A, workers=2)
x, w = np.ones(k), np.ones(k * k)
op = builder.operator(x)
J = builder.tocsr(x)
expected = op.T @ w, op @ x, J.data.copy()


def interrupt(*_):
    raise KeyboardInterrupt


signal.signal(signal.SIGALRM, interrupt)
rng = np.random.default_rng(int(sys.argv[1]))
interrupted, end = 0, time.monotonic() + float(sys.argv[2])
while interrupted <= 10 or time.monotonic() < end:  # a busy machine takes longer
    try:
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, 4e-3))
        while True:
            op.T @ w
            builder.tocsr(x, out=J)
    except KeyboardInterrupt:
        interrupted += 1
    J.data[:] = -1  # nobody may write into it any more
    time.sleep(1e-4)
    assert (J.data == -1).all()
signal.setitimer(signal.ITIMER_REAL, 0)
assert (op.T @ w == expected[0]).all()
assert (op @ x == expected[1]).all()
assert (builder.tocsr(x, out=J).data == expected[2]).all()
print("done")
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="signals are sent the POSIX way")
@pytest.mark.parametrize("seconds", ["1", *slow("3")])
def test_interrupted_again_and_again(seconds):
    """Ctrl-C at any moment: the threads stop before the caller goes on, and nothing hangs."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, "0", seconds],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_works_while_the_interpreter_shuts_down():
    program = (
        "import atexit, numpy as np, sparsejac\n"
        "op = sparsejac.JacobianBuilder(np.ones((1100, 1100)), workers=2).operator(np.ones(1100))\n"
        "op @ np.ones(1100)\n"
        "atexit.register(lambda: print((op @ np.ones(1100)).sum()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "2420000.0"
