"""Threads, processes and signals: several use one builder, operator or problem at the same time.

Each result is compared bit by bit with the one that a single thread gets.
"""

import contextlib
import gc
import multiprocessing
import os
import pickle
import pkgutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from support import integers

import sparsejac
from sparsejac import JacobianBuilder, LeastSquares, RowSums, io
from sparsejac._backends import threads as _threads
from sparsejac._matrix import hicpro

K = 60
pytestmark = pytest.mark.filterwarnings("ignore:This process.*:DeprecationWarning")


# --- one object, several threads ------------------------------------------------------------------


def dense():
    B = np.triu(integers((K, K), seed=1, low=1))
    return (B + np.triu(B, 1).T) * np.pi  # so that sums round, and their order shows


def sparse():
    B = dense()
    return scipy.sparse.csr_array(B * (B > 8))


def mapped(folder):
    np.save(folder / "A.npy", dense())
    return str(folder / "A.npy")


def blocks(folder):
    A = sparse()
    io.write_csr_blocks(folder / "A", ((i, A[i : i + 16]) for i in range(0, K, 16)), shape=A.shape)
    return str(folder / "A")


def function(folder):
    A, buffer = dense(), np.empty((K, K))

    def rows(start, stop):  # it uses the memory of its result again
        buffer[: stop - start] = A[start:stop]
        return buffer[: stop - start]

    return rows


SOURCES = {
    "dense": lambda folder: dense(),
    "csr": lambda folder: sparse(),
    "npy": mapped,
    "blocks": blocks,
    "function": function,
}
X, V = np.random.default_rng(0).random((2, 8, K)) + 0.5


class Shared:
    """One builder, one operator, one problem and the row sums of one A, and what they must give."""

    def __init__(self, A, name):
        A_ = sparse() if name in ("csr", "blocks") else dense()
        Y = A_.copy() if scipy.sparse.issparse(A_) else A_ + 1
        self.builder = JacobianBuilder(A, rows="stored", workers=2)
        self.problem = LeastSquares(A, Y, rows="stored", workers=2)
        self.sums = RowSums(A, workers=2)
        self.operator = self.builder.operator(X[0])
        self.w = np.random.default_rng(1).random(self.builder.shape[0])

    def calls(self, n):
        """What is computed at the n-th x, by an operation after the other."""
        x, v, b, p = X[n], V[n], self.builder, self.problem
        return {
            "value": lambda: b.value(x),
            "tocsr": lambda: b.tocsr(x).data,
            "J v": lambda: self.operator @ v,
            "J.T w": lambda: self.operator.T @ (self.w * (n + 1)),
            "normal v": lambda: b.operator(x).normal() @ v,
            "hessian v": lambda: b.hessian(self.w) @ v,
            "slice": lambda: b.slice(x, n).data,
            "blocks": lambda: np.concatenate([J.data for _, J in b.iter_csr(x, block_rows=500)]),
            "cost and gradient": lambda: np.append(*p.value_and_grad(x)[::-1]),
            "hessp": lambda: p.hessp(x, v),
            "fun": lambda: p.fun(x),
            "row sums": lambda: self.sums.value(x),
        }


def at_once(act, threads, seconds):
    """Call ``act(n)`` on threads, again and again for so long: how many calls there were."""
    end, counts, errors = time.monotonic() + seconds, [0] * threads, []

    def run(n):
        try:
            while not errors and (not counts[n] or time.monotonic() < end):
                counts[n] += act(n)
        except BaseException as error:  # noqa: BLE001  # the main thread raises it
            errors.append(error)

    running = [threading.Thread(target=run, args=(n,)) for n in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(seconds + 120)
    assert not any(thread.is_alive() for thread in running), "a thread hangs"
    if errors:
        raise errors[0]
    return sum(counts)


SECONDS = [
    0.05,
    pytest.param(2, marks=pytest.mark.slow),
    pytest.param(60, marks=pytest.mark.long),
]


@pytest.mark.parametrize("seconds", SECONDS)
@pytest.mark.parametrize("source", SOURCES)
def test_eight_threads(source, seconds, tmp_path, monkeypatch, tried):
    """Each has its own x, its own matrix for `out=`, and keeps the last results of the others."""
    monkeypatch.setattr(_threads, "_INLINE", 0)
    shared = Shared(SOURCES[source](tmp_path), source)
    expected = [{name: call() for name, call in shared.calls(n).items()} for n in range(8)]
    own = [shared.builder.tocsr(x) for x in X]
    kept = [{} for _ in range(8)]

    def act(n):
        calls = shared.calls(n)
        for name, call in calls.items():
            found = call()
            assert found.tobytes() == expected[n][name].tobytes(), name
            last = kept[n].get(name)
            assert last is None or last.tobytes() == expected[n][name].tobytes(), name
            kept[n][name] = found
        own[n].data[:] = np.nan
        assert shared.builder.tocsr(X[n], out=own[n]) is own[n]
        assert own[n].data.tobytes() == expected[n]["tocsr"].tobytes()
        return len(calls) + 1

    tried("calls of eight threads", at_once(act, 8, seconds))


@pytest.mark.parametrize("seconds", SECONDS)
def test_builders_that_are_made_at_once(seconds, tmp_path, tried):
    """Of one A, dense, sparse or streamed; each is dropped as the next is made."""
    given = {name: make(tmp_path) for name, make in SOURCES.items()}
    expected = {name: JacobianBuilder(A, rows="stored").value(X[0]) for name, A in given.items()}

    def act(n):
        for name, A in given.items():
            assert JacobianBuilder(A, rows="stored").value(X[0]).tobytes() == (
                expected[name].tobytes()
            ), name
        if n == 0:
            gc.collect()
        return len(given)

    tried("builders that are made at once", at_once(act, 8, seconds))


@pytest.mark.parametrize("seconds", SECONDS)
@pytest.mark.usefixtures("dirty_results")
def test_recycled_memory_across_threads(seconds, tried):
    """A result that one thread made is dropped by another one, while others ask for the next."""
    builder = JacobianBuilder(dense(), workers=2)
    operator = builder.operator(X[0])
    expected = [operator @ v for v in V]
    handed = [expected[n].copy() for n in range(8)]

    def act(n):
        found = operator @ V[n]
        assert found.tobytes() == expected[n].tobytes()
        other = handed[n - 1]  # of a neighbour
        assert other.tobytes() == expected[n - 1].tobytes()
        handed[n] = found if n % 2 else found[:]
        return 1

    tried("results that another thread drops", at_once(act, 8, seconds))


# --- signals --------------------------------------------------------------------------------------

timers = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="timers are those of POSIX")


class TimeIsUp(Exception):
    """A time limit as users set it: a handler of SIGALRM raises it."""


@contextlib.contextmanager
def time_limits():
    """The times at which a time limit came."""
    came = []

    def handler(*_):
        came.append(time.monotonic())
        raise TimeIsUp

    before = signal.signal(signal.SIGALRM, handler)
    try:
        yield came
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@timers
@pytest.mark.parametrize("seconds", SECONDS)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_time_limit_ends_a_call_or_comes_after_it(workers, seconds, monkeypatch, tried):
    """It may come when a kernel ends. The kernel is not run once more: it would add twice."""
    monkeypatch.setattr(_threads, "_INLINE", 0 if workers > 1 else 2**40)
    A = np.tile(dense(), (6, 6))
    operator = JacobianBuilder(A, workers=workers).operator(np.ones(6 * K))
    random, w = np.random.default_rng(0), np.ones(36 * K**2)
    expected, heard, calls = operator.T @ w, 0, 0
    with time_limits() as came:
        end = time.monotonic() + seconds
        while time.monotonic() < end or calls < 300 or not heard:
            calls += 1
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 6e-4))
                found = operator.T @ w
                signal.setitimer(signal.ITIMER_REAL, 0)
            except TimeIsUp:
                heard += 1
            else:
                assert found.tobytes() == expected.tobytes()
            assert len(came) == heard, "a time limit was swallowed"
    assert (operator.T @ w).tobytes() == expected.tobytes()
    tried("calls with a time limit", calls)


INTERRUPTED = """
import random, signal, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
import sparsejac._kernels.compile as compile
compile._STAMP = [("another", 0, 0)]  # what is kept on disk is for other files: all is compiled
import numpy as np
from sparsejac import JacobianBuilder, LeastSquares

class TimeIsUp(Exception):
    pass

def handler(*_):
    came.append(time.monotonic())
    raise (KeyboardInterrupt, TimeIsUp)[len(came) % 2]

came, heard, rng, B = [], 0, random.Random(int(sys.argv[1])), np.arange(36.0).reshape(6, 6)
signal.signal(signal.SIGALRM, handler)
lost = []  # Python ignores an exception in a destructor, or in a callback of ctypes
sys.unraisablehook = lambda unraisable: lost.append(unraisable.exc_type)
builder, problem = JacobianBuilder(B, workers=2), LeastSquares(B, B + 1, workers=2)
x, w = np.arange(1.0, 7), np.arange(36.0)
calls = [
    lambda: builder.value(x),
    lambda: builder.tocsr(x).data,
    lambda: builder.operator(x).T @ w,
    lambda: problem.grad(x * (1 + len(came))) / (1 + len(came)) ** 3,
]
def limited(call):
    try:
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-3, 0.4))
        call()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)

found = []
for call in calls:
    for attempt in range(int(sys.argv[2])):
        lost.clear()
        raised = False
        try:
            limited(call)
        except (KeyboardInterrupt, TimeIsUp):
            raised = True
        except Exception as error:  # Numba may raise its own error, of what was raised
            chain = [error]
            while chain[-1] is not None:
                chain.append(chain[-1].__cause__ or chain[-1].__context__)
            raised = any(isinstance(each, TimeIsUp) for each in chain) or "TimeIsUp" in repr(error)
        heard += raised or bool(lost)
    with ThreadPoolExecutor(1) as pool:  # no lock is left with this thread
        found.append(pool.submit(call).result(120))
F = B * np.outer(x, x)
J = np.array([B[i, j] * ((np.arange(6) == i) * x[j] + (np.arange(6) == j) * x[i])
              for i in range(6) for j in range(6)])
print((found[0] == F.ravel()).all(), (found[1] == JacobianBuilder(B).tocsr(x).data).all(),
      (found[2] == J.T @ w).all(), len(came) == heard, len(came), heard)
"""


@timers
@pytest.mark.parametrize(
    ("seed", "attempts"),
    [pytest.param(seed, 25, marks=pytest.mark.long) for seed in range(1, 6)],
)
def test_interrupted_while_kernels_are_compiled(seed, attempts, tmp_path, tried):
    """Ctrl-C and time limits are raised when it has ended. The next call is right."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(seed), str(attempts)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    *right, _, heard = done.stdout.split()
    assert right == ["True"] * 4, done.stdout + done.stderr
    tried("interrupts while kernels are compiled", int(heard))


# --- processes ------------------------------------------------------------------------------------


def in_another_process(pickled, n):
    """What the copy of a builder and an operator gives there, on threads of its own."""
    builder, operator = pickle.loads(pickled)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append((operator.T @ operator.dot(V[n])).tobytes()))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {*found}, builder.value(X[n]).tobytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "source"),
    [
        (method, source)
        for method in multiprocessing.get_all_start_methods()
        for source in (("dense", "csr", "npy", "blocks") if method == "fork" else ("npy",))
    ],
)
def test_processes_while_threads_run(method, source, tmp_path, monkeypatch, tried):
    """They are started by a fork, or anew, while threads of ours compute."""
    monkeypatch.setattr(_threads, "_INLINE", 0)
    builder = JacobianBuilder(SOURCES[source](tmp_path), rows="stored", workers=2)
    operator = builder.operator(X[0])
    pickled, stop = pickle.dumps((builder, operator)), []
    expected = [
        ((operator.T @ (operator @ v)).tobytes(), builder.value(x).tobytes())
        for x, v in zip(X, V, strict=True)
    ]

    def busy():
        while not stop:
            operator.T @ (operator @ V[0])

    threads = [threading.Thread(target=busy) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        context = multiprocessing.get_context(method)
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            found = list(pool.map(in_another_process, [pickled] * 8, range(8), timeout=200))
        assert found == [({product}, value) for product, value in expected]
    finally:
        stop.append(True)
        for thread in threads:
            thread.join()
    tried(f"calls in processes, by {method}", 8)


forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here")


@forking
@pytest.mark.parametrize(
    "seconds", [pytest.param(2, marks=pytest.mark.slow), pytest.param(60, marks=pytest.mark.long)]
)
def test_forks_while_threads_begin_and_end(seconds, tmp_path, monkeypatch, tried):
    """Each child computes with what its parent has: pools, locks and recycled memory are free."""
    monkeypatch.setattr(_threads, "_INLINE", 0)
    shared = Shared(mapped(tmp_path), "npy")
    here = Shared(sparse(), "csr")
    expected = [{n: c().tobytes() for n, c in each.calls(1).items()} for each in (shared, here)]
    forks = []

    def child():
        for each, wanted in zip((shared, here), expected, strict=True):
            each.problem._last = None
            for name, call in each.calls(1).items():
                if call().tobytes() != wanted[name]:
                    return 1
        return 0

    def act(n):
        if n:
            for each in (shared, here):
                each.problem._last = None
                for call in each.calls(n).values():
                    call()
            return 1
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)
            try:
                os._exit(child())
            finally:
                os._exit(2)
        forks.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        return 1

    at_once(act, 4, seconds)
    assert set(forks) == {0}
    tried("forks while threads run", len(forks))


@forking
@pytest.mark.parametrize("name", ["rank sums", "bins", "triplets"])
def test_a_fork_while_a_property_is_computed(name, tmp_path, monkeypatch):
    """The one of another object is computed in the child: no lock of the class is held there."""
    (tmp_path / "A.matrix").write_text("1 1 5\n1 2 3\n")
    (tmp_path / "A_abs.bed").write_text("a 0 10 1\na 10 20 2\n")
    of = hicpro.Triplets if name != "rank sums" else LeastSquares
    arguments = (tmp_path / "A.matrix", None) if name != "rank sums" else (dense(), dense())
    objects = [of(*arguments) for _ in range(2)]
    attribute = {"rank sums": "_rank_sums", "bins": "_bins", "triplets": "_triplets"}[name]
    module, function = {
        "rank sums": ("least_squares", "rank_sums_of"),
        "bins": ("_matrix.hicpro", "_read_bins"),
        "triplets": ("_matrix.hicpro", "_read"),
    }[name]
    place = f"sparsejac.{module}.{function}"
    began, over, compute = threading.Event(), threading.Event(), pkgutil.resolve_name(place)

    def slow(*of):
        began.set()
        over.wait(60)
        return compute(*of)

    monkeypatch.setattr(place, slow)
    thread = threading.Thread(target=getattr, args=(objects[0], attribute))
    thread.start()
    assert began.wait(60)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        over.set()
        os._exit(0 if getattr(objects[1], attribute) is not None else 1)
    over.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_no_property_takes_a_lock():
    """The one lock of `functools.cached_property`, before Python 3.12, would be held at a fork."""
    files = list(Path(sparsejac.__file__).parent.rglob("*.py"))
    for path in files:
        assert "@functools.cached_property" not in path.read_text(encoding="utf-8"), path
    assert len(files) > 100
