"""A function, or an object with rows, is asked for one block at a time, however many builders there
are of it.
"""

import functools
import pickle
import threading
import time

import numpy as np
import pytest

from sparsejac import JacobianBuilder, LeastSquares, RowSums

K = 64
B = np.arange(1.0, K * K + 1).reshape(K, K)
B = B + B.T
x = np.ones(K)


class Rows:
    """Uses the memory of its result again, and notes how many ask at the same time."""

    def __init__(self):
        self.shape, self.dtype = B.shape, B.dtype
        self._buffer, self._inside, self.most = np.empty((K, K)), 0, 0

    def rows(self, start, stop):
        self._inside += 1
        self.most = max(self.most, self._inside)
        self._buffer[: stop - start] = B[start:stop]
        time.sleep(0.001)
        self._inside -= 1
        return self._buffer[: stop - start]

    def __getitem__(self, part):
        return self.rows(part.start, part.stop)


shared = Rows()


class Called:
    def __call__(self, start, stop):
        return shared.rows(start, stop)


called = Called()


def rows_of_a_module(start, stop):
    return shared.rows(start, stop)


def named(_, start, stop):
    return shared.rows(start, stop)


HANDED_OVER = {
    "a function": lambda: rows_of_a_module,
    "a method": lambda: shared.rows,  # each time a new object
    "an object that is called": lambda: called,
    "its method": lambda: called.__call__,
    "a partial function": lambda: functools.partial(named, "A"),
    "an object": lambda: shared,
}


def ask(calls, times=4):
    """Call on a thread for each."""
    errors, shared.most = [], 0

    def go(call):
        errors.extend(call for _ in range(times) if not call())

    threads = [threading.Thread(target=go, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(errors), shared.most


@pytest.mark.parametrize("kind", HANDED_OVER)
def test_several_owners(kind):
    make, F = HANDED_OVER[kind], B * np.outer(x, x)
    builders = [JacobianBuilder(make()) for _ in range(3)]
    problem, sums = LeastSquares(make(), B), RowSums(make())
    calls = [lambda b=b: np.array_equal(b.value(x), F.ravel()) for b in builders]
    calls += [lambda: problem.cost(x) == 0, lambda: np.array_equal(sums.value(x), B.sum(axis=1))]
    assert ask(calls) == (0, 1)


def test_an_object_and_its_call_are_one_function():
    builders = [JacobianBuilder(function) for function in (called, called.__call__)]
    assert ask([lambda b=b: np.array_equal(b.value(x), B.ravel()) for b in builders]) == (0, 1)


@pytest.mark.parametrize("kind", ["a function", "a partial function"])
def test_a_pickled_copy_takes_turns_as_well(kind):
    builder = JacobianBuilder(HANDED_OVER[kind]())
    calls = [
        lambda b=b: np.array_equal(b.value(x), B.ravel())
        for b in (builder, pickle.loads(pickle.dumps(builder)))
    ]
    assert ask(calls) == (0, 1)


@pytest.mark.parametrize("kind", HANDED_OVER)
def test_one_function_for_a_and_y(kind):
    make = HANDED_OVER[kind]
    problems = [LeastSquares(make(), make()) for _ in range(2)]
    assert ask([lambda p=p: p.cost(x) == 0 for p in problems]) == (0, 1)


def test_a_function_that_asks_itself_by_way_of_another_builder():
    other = []

    def rows(start, stop):
        if other:
            other[0].value(x)
        return B[start:stop]

    builder = JacobianBuilder(rows)
    other.append(JacobianBuilder(rows))
    with pytest.raises(RuntimeError, match="A was asked for rows while it was returning rows"):
        builder.value(x)


def test_a_new_owner_at_an_old_address():
    """An address is used again after its owner has gone: turns go with their owners."""
    for _ in range(50):
        values = Rows()
        assert np.array_equal(JacobianBuilder(values.rows).value(x), B.ravel())
