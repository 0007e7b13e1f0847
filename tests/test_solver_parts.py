"""Parts of the solvers alone: the gauge of two factors, the best point on a line, and verdicts."""

from typing import NamedTuple

import numpy as np
import pytest

from sparsejac._solvers.descent import VISIBLE, Descent
from sparsejac._solvers.gauge import balanced
from sparsejac._solvers.status import FitStatus

rng = np.random.default_rng(0)
X, Y = rng.standard_normal((7, 3)), rng.standard_normal((5, 3))
_SPLIT = len(X)


def product(Z, split=_SPLIT):
    return Z[:split] @ Z[split:].T


def balanced_pair(X, Y):
    Z = np.concatenate([X, Y])
    before = Z.copy()
    found = balanced(Z, len(X))
    np.testing.assert_array_equal(Z, before)
    assert found.shape == Z.shape
    return found[: len(X)], found[len(X) :]


# --- the gauge of two factors ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (1, 30),
        (30, 1),
        (1e-200, 1e150),
        (1e150, 1e-10),
        ([1, 1, 20], 1),
        (1, [20, 1, 1]),
        ([1, 40, 1], [1, 3, 1]),
    ],
)
def test_factors_of_full_rank_get_equal_grams(x, y):
    Xb, Yb = balanced_pair(X * x, Y * y)
    gram = Xb.T @ Xb
    np.testing.assert_allclose(Yb.T @ Yb, gram, rtol=1e-9, atol=1e-12 * gram.max())
    np.testing.assert_allclose(gram, np.diag(gram.diagonal()), atol=1e-12 * gram.max())
    expected = (X * x) @ (Y * y).T
    np.testing.assert_allclose(Xb @ Yb.T, expected, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("factor", [1, 10, 0.1, [9, 1, 0.12]])
@pytest.mark.parametrize("each", [1, [1, 50, 1000]])
def test_columns_of_about_the_same_length_are_left_alone(factor, each):
    same = X[:5] * each
    Z = np.concatenate([same * factor, same])
    assert balanced(Z, 5) is Z


def test_one_column_of_another_length_is_enough():
    same = X[:5] / np.sqrt(np.sum(X[:5] ** 2, axis=0))
    Z = np.concatenate([same * [1, 15, 1], same])
    found = balanced(Z, 5)
    assert found is not Z
    np.testing.assert_allclose(product(found, 5), product(Z, 5))


_DEPENDENT = [[1, 2, 3], [2, 4, 6], [1, 1, 1], [0, 1, 2]]


@pytest.mark.parametrize(
    ("X", "Y"),
    [
        (1000 * X[:2], Y),  # fewer rows than columns
        (X, 1e-3 * Y[:2]),
        (1e7 * X[:2] * [1000, 1, 1], Y),
        (np.array([[1e4, 0.0], [3e4, 0]]), np.array([[0.0, 2.0], [0, 1]])),  # so is the product
        (np.array([[1.0, 0, 0], [2, 0, 0]]), 1e-3 * Y),
        (np.array(_DEPENDENT) * 1e5, Y),
        (np.outer([1e5, 2e5, 3e5, 4e5], [1, 2, 3]), Y),
        (np.array([[1e4, 0.0]]), np.array([[0.0, 2.0]])),  # the product is zero
        (np.array([[1.0, 0, 0], [2, 0, 0]]), np.array([[300.0, 0, 0]])),  # most columns are zero
    ],
)
def test_factors_without_full_rank_are_multiplied(X, Y):
    Xb, Yb = balanced_pair(X, Y)
    lengths = [np.sqrt(np.sum(each**2, axis=0)) for each in (Xb, Yb)]
    middle = [np.median(each) or each.max() for each in lengths]
    assert 0.5 < middle[0] / middle[1] < 2
    factor = np.max(np.abs(Xb)) / np.max(np.abs(X))
    np.testing.assert_allclose(Xb, X * factor, rtol=1e-12)
    np.testing.assert_allclose(Yb, Y / factor, rtol=1e-12)


@pytest.mark.parametrize("wrong", [0.0, np.inf, np.nan])
def test_factors_that_are_zero_or_not_finite_stay(wrong):
    for at in (slice(7), slice(7, None)):
        Z = np.concatenate([1000 * X, Y])
        Z[at] = wrong
        assert balanced(Z, 7) is Z


# --- the best point on a line ---------------------------------------------------------------------


class Point(NamedTuple):
    x: np.ndarray
    cost: float
    gradient: np.ndarray


class Line(Descent):
    """``½‖x xᵀ - Y‖²``, and a count of its points."""

    def __init__(self, Y):
        self._Y, self.count = Y, 0

    def _evaluate(self, x):
        self.count += 1
        R = np.outer(x, x) - self._Y
        return Point(x, np.sum(R * R) / 2, (R + R.T) @ x)

    def _fourth(self, v):
        return np.sum(np.outer(v, v) ** 2) / 2

    def curvature(self, x, v):
        R = np.outer(x, x) - self._Y
        J = np.outer(x, v) + np.outer(v, x)
        return np.sum(J * J) + 2 * v @ R @ v

    def least(self, x, v):
        """The least cost on the line, by trial."""
        return min(self._evaluate(x + t * v).cost for t in np.linspace(-8, 8, 1601))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("sign", [1, -1])
def test_the_best_point_on_a_line(seed, sign):
    """At any size of Y, x and v."""
    rng = np.random.default_rng(seed)
    Q, size = rng.standard_normal((4, 4)), (1, 1e-4)[seed % 2]
    values, vectors = np.linalg.eigh(Q + Q.T)
    v = sign * (1, 0.3)[seed % 2] * (vectors[:, -1] + 0.2 * rng.random(4))
    x = np.sqrt(size) * (0.3 * np.sqrt(values[-1]) * vectors[:, -1] + 0.2 * rng.random(4))
    line = Line(size * (Q + Q.T))
    at, curvature = line._evaluate(x), line.curvature(x, v)
    assert curvature < 0
    line.count = 0
    found = line._lower_along(at, v, curvature)
    assert line.count == 2  # x is on one side
    least = min(line.least(x, np.sqrt(size) * v), line.least(x, 3 * np.sqrt(size) * v))
    assert found.cost - least <= 1e-4 * (at.cost - least)
    assert found.cost == pytest.approx(line._evaluate(found.x).cost)
    assert found.cost < at.cost


def test_a_saddle_takes_one_pass():
    """There the polynomial is even, and its minimum known."""
    line = Line(np.array([[1, -0.3], [-0.3, 1]]))
    x, v = np.full(2, np.sqrt(0.35)), np.array([1.0, -1.0])
    at = line._evaluate(x)
    line.count = 0
    found = line._lower_along(at, v, line.curvature(x, v))
    assert line.count == 1
    assert found.cost == pytest.approx(line.least(x, v), abs=1e-4)


def test_lines_on_which_nothing_falls():
    """The curvature is not negative, F does not depend on v, or the cost would overflow."""
    line = Line(np.eye(2))
    x, v = np.ones(2), np.array([1.0, -1.0])
    at = line._evaluate(x)
    line.count = 0
    for curvature, fourth in ((1.0, 1.0), (0.0, 1.0), (-1.0, 0.0), (-1.0, np.inf), (np.nan, 1.0)):
        line._fourth = lambda v, fourth=fourth: fourth
        with np.errstate(all="raise"):
            assert line._lower_along(at, v, curvature) is None
    assert line.count == 0


@pytest.mark.parametrize(
    ("visible", "rise", "is_lower"),
    [
        (VISIBLE, -1e-6, True),
        (VISIBLE, 0.0, False),
        (VISIBLE, 0.5, False),
        (0.0, 0.0, True),
        (0.0, 0.5e-13, True),
        (0.0, 1.5e-13, False),
        (0.0, 0.5, False),
    ],
)
def test_the_cost_there_decides(visible, rise, is_lower):
    """The polynomial is right to within rounding only. Where the fall need not be visible, the cost
    may rise by rounding.
    """
    line = Line(np.array([[1, -0.3], [-0.3, 1]]))
    x, v = np.full(2, 0.5), np.array([1.0, -1.0])
    at, curvature, exact = line._evaluate(x), line.curvature(x, v), line._evaluate
    line._evaluate = lambda x: exact(x)._replace(cost=at.cost * (1 + rise))
    assert (line._lower_along(at, v, curvature, visible=visible) is not None) == is_lower


def test_a_fall_that_is_not_visible():
    line = Line(np.array([[1, -0.3], [-0.3, 1]]) * (1 - 1e-9))
    x = np.full(2, np.sqrt(0.35))
    v, at = np.array([1.0, -1.0]), line._evaluate(x)
    line._evaluate = lambda x: Point(x, 0.9 * at.cost, 0 * x)
    assert line._lower_along(at, v, -1e-9) is None
    assert line._lower_along(at, v, -1e-9, visible=0.0) is not None


# --- how a descent ends ---------------------------------------------------------------------------


class Scripted(Descent):
    """Steps, and ways to leave a point, that end as they are told."""

    _in_range, _tol, _callback, _degree = True, 0.5, None, np.ones(1)

    def __init__(self, *, optimality=1.0, step=(), leave=(), overflow=False):
        self._at = Point(np.ones(1), 1.0, np.ones(1))
        self._optimality, self._overflow = optimality, overflow
        self._steps, self._ways = list(step), list(leave)

    def _measured(self):
        return self._optimality

    def _sharpened(self):
        return False

    def _is_finite(self):
        return True

    def _step(self):
        return self._steps.pop(0)

    def _leave(self):
        return self._ways.pop(0)

    def _result(self, status):
        assert not self._steps
        assert not self._ways
        return status


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"step": [False], "overflow": True}, FitStatus.OUT_OF_RANGE),
        ({"step": [True, False], "leave": [None]}, FitStatus.ROUNDING),
        ({"step": [False], "leave": [False]}, FitStatus.ROUNDING),
        ({"step": [False, False], "leave": [True, None]}, FitStatus.ROUNDING),
        ({"step": [True] * 30}, FitStatus.MAX_ITER),
        ({"optimality": 0.5, "leave": [None]}, FitStatus.CONVERGED),
        ({"optimality": 0.1, "leave": [True, True, None]}, FitStatus.CONVERGED),
        ({"optimality": 0.1, "leave": [False], "step": [False]}, FitStatus.SADDLE),
        ({"optimality": 0.1, "leave": [False] * 21, "step": [True] * 20}, FitStatus.SADDLE),
        ({"optimality": 0.1, "leave": [True] * 31}, FitStatus.MAX_ITER),
    ],
)
def test_how_a_descent_ends(given, status):
    """A failed step ends it only if no curvature is negative. Leaving a saddle is a step, too."""
    assert Scripted(**given).run(30) is status


def test_passes_of_two_fits_are_added():
    """The fit that finds the start of another one counts as well."""
    one, two = Scripted(), Scripted()
    one._nfev, one._n_products, one._n_blocks = 1, 20, 300
    two._nfev, two._n_products, two._n_blocks = 4, 50, 600
    one.count_also(two)
    assert (one._nfev, one._n_products, one._n_blocks) == (5, 70, 900)
    assert (two._nfev, two._n_products, two._n_blocks) == (4, 50, 600)
