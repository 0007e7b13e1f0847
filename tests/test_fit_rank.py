"""The solver of rank-r fits, on dense reference sums."""

import numpy as np
import pytest
import scipy.sparse

from sparsejac import fit
from sparsejac._solvers.fit_rank import BlockNewton
from sparsejac._solvers.gauge import balanced
from sparsejac._solvers.status import FitStatus


class DenseSums:
    """What the solver needs of A and Y, computed with k×k matrices."""

    def __init__(self, A, Y, rank):
        self.A, self.Y, self.count, self.rank = A, Y, len(A), rank
        self.S = A**2 + A.T**2

    def gradient(self, x):
        R = self.A * (x @ x.T) - self.Y
        return float(np.sum(R * R)) / 2, (self.A * R + (self.A * R).T) @ x

    def curvature(self, x, v):
        M = self.A * (self.A * (x @ x.T) - self.Y)
        return (self.S * (x @ v.T + v @ x.T)) @ x + (M + M.T) @ v

    def normal(self, x, v):
        return (self.S * (x @ v.T + v @ x.T)) @ x

    def blocks(self, x):
        outer = x[:, :, None] * x[:, None, :]
        return np.tensordot(self.S, outer, 1) + np.diag(self.S)[:, None, None] * outer

    def degree(self):
        return self.S.sum(axis=1)

    def has_target(self):
        return bool(self.Y.any())

    def reached(self):
        return (self.A != 0).any(axis=0) | (self.A != 0).any(axis=1)


def run(sums, x0=None, regularization=0.0, max_iter=200, tol=1e-9, callback=None):
    with np.errstate(all="ignore"):
        return BlockNewton(sums, x0, regularization, tol, callback, None).run(max_iter)


def least_cost(Y, rank, regularization=0.0):
    """The cost of the best fit of rank r if A = 1."""
    w = np.linalg.eigvalsh(Y)
    chosen = np.maximum(np.sort(w)[::-1][:rank], 0)
    z = np.maximum(chosen - regularization / 2, 0)
    rest = np.sum(w**2) - np.sum(chosen**2)
    return (rest + np.sum((z - chosen) ** 2) + regularization * np.sum(z)) / 2


@pytest.fixture
def Y():
    B = np.random.default_rng(3).standard_normal((12, 12))
    return B + B.T


@pytest.mark.parametrize("rank", [1, 2, 3, 8, 20])
@pytest.mark.parametrize("regularization", [0.0, 2.0])
def test_eigenvalues(Y, rank, regularization):
    result = run(DenseSums(np.ones_like(Y), Y, rank), regularization=regularization)
    assert result.success
    assert result.cost == pytest.approx(least_cost(Y, rank, regularization))


@pytest.mark.parametrize("scale", [0.0, 1e-200, 1e-10, 1.0, 1e10, 1e150])
def test_starts_of_any_scale(Y, scale):
    x0 = scale * np.random.default_rng(0).standard_normal((12, 3))
    result = run(DenseSums(np.ones_like(Y), Y, 3), x0)
    assert result.success
    assert result.cost == pytest.approx(least_cost(Y, 3))


@pytest.mark.parametrize("columns", [[-1, -1, -1], [-2, -4, -3], [0, 0, 0]])
def test_saddles_are_left(Y, columns):
    w, V = np.linalg.eigh(Y)
    x0 = V[:, columns] * np.sqrt(np.abs(w[columns]))
    result = run(DenseSums(np.ones_like(Y), Y, 3), x0)
    assert result.success
    assert result.cost == pytest.approx(least_cost(Y, 3))


@pytest.mark.parametrize("rank", [2, 5])
def test_singular_values(rank):
    M = np.random.default_rng(1).standard_normal((30, 20))
    A, Y = np.zeros((50, 50)), np.zeros((50, 50))
    A[:30, 30:], Y[:30, 30:] = 1, M
    result = run(DenseSums(A, Y, rank))
    assert result.success
    x = result.x
    best = np.sum(np.linalg.svd(M)[1][rank:] ** 2) / 2
    assert result.cost == pytest.approx(best)
    assert np.sum((x[:30] @ x[30:].T - M) ** 2) / 2 == pytest.approx(best)


def test_completion():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((150, 3))
    A = (rng.random((150, 150)) < 0.3) * 1.0
    result = run(DenseSums(A, A * (x @ x.T), 3))
    assert result.success
    assert result.nfev + result.n_products < 60
    np.testing.assert_allclose(result.x @ result.x.T, x @ x.T, atol=1e-5)


@pytest.mark.parametrize("regularization", [0.0, 1.0])
@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (4, 2)])
def test_nothing_to_fit(shape, regularization):
    zeros = np.zeros((shape[0], shape[0]))
    for A in (zeros, zeros + 1):
        result = run(DenseSums(A, zeros, shape[1]), np.ones(shape), regularization)
        assert result.success
        expected = 1.0 if regularization == 0 and not A.any() else 0.0
        np.testing.assert_array_equal(result.x, np.full(shape, expected))
    assert run(DenseSums(zeros, zeros, shape[1])).success


def test_result_is_the_same_each_time(Y):
    A = (Y > 0) * 1.0
    first, second = (run(DenseSums(A, A * Y, 2)) for _ in range(2))
    np.testing.assert_array_equal(first.x, second.x)


def test_other_ends(Y):
    def stop(state):
        raise StopIteration

    A = np.where(Y > -1, 1.0, 0.0)
    sums = DenseSums(A, A * Y, 2)
    assert run(sums, max_iter=1).status is FitStatus.MAX_ITER
    stopped = run(sums, callback=stop)
    assert (stopped.status, stopped.nit) == (FitStatus.CALLBACK, 0)
    assert run(sums, tol=0.0).status is FitStatus.ROUNDING
    assert run(DenseSums(A, A * Y * 1e160, 2)).status is FitStatus.OUT_OF_RANGE
    assert run(DenseSums(A, Y * np.nan, 2)).status is FitStatus.OUT_OF_RANGE


# --- starts whose factors differ in length --------------------------------------------------------


@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csc_array])
@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("scale", [1e2, 1e9, 1e15, 1e120])
def test_unbalanced_starts(scale, rank, form):
    rng = np.random.default_rng(0)
    X, Y = rng.random((9, rank)) + 0.5, rng.random((7, rank)) + 0.5
    x0 = np.concatenate([scale * rng.random((9, rank)), rng.random((7, rank)) / scale])
    result = fit(form(np.ones((9, 7))), form(X @ Y.T), x0, rank=rank, bilinear=True)
    assert result.success
    assert result.cost < 1e-15
    assert result.nit < 60


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e150])
@pytest.mark.parametrize(
    ("m", "n", "rank"), [(9, 7, 1), (9, 7, 4), (3, 2, 5), (0, 3, 2), (2, 3, 2)]
)
def test_balanced(m, n, rank, scale):
    rng = np.random.default_rng(0)
    X, Y = scale * rng.standard_normal((m, rank)), rng.standard_normal((n, rank)) / scale
    if (m, n) == (2, 3):
        X[:, 1] = X[:, 0]  # not of full rank
    Z = np.concatenate([X, Y])
    found = balanced(Z.copy(), m)
    assert np.allclose(found[:m] @ found[m:].T, X @ Y.T, rtol=1e-9, atol=1e-12)
    if m:
        ratio = np.linalg.norm(found[:m]) / np.linalg.norm(found[m:])
        assert 1 / 12 < ratio < 12
    if scale == 1:
        assert found.tobytes() == Z.tobytes()


@pytest.mark.parametrize("wrong", [0.0, np.inf, np.nan])
def test_what_cannot_be_balanced(wrong):
    Z = np.ones((5, 2))
    Z[:3] = wrong
    assert balanced(Z, 3) is Z


# --- numbers whose squares vanish -----------------------------------------------------------------


@pytest.mark.parametrize("bilinear", [False, True])
def test_squares_that_underflow(bilinear):
    """They look like a matrix without entries, or like data of zeros."""
    A, options = np.ones((8, 8)), {"bilinear": bilinear, "rank": 2}
    u = np.random.default_rng(0).random(8) + 0.5
    Y = np.outer(u, u)
    assert fit(A, Y, **options).success
    tiny = A.copy()
    tiny[3] = tiny[:, 3] = 1e-170
    for given in ((tiny, Y), (A, 1e-165 * Y), (1e-162 * A, Y)):
        assert fit(*given, **options).status == FitStatus.OUT_OF_RANGE
    tiny[3] = tiny[:, 3] = 0
    assert fit(tiny, Y * (tiny != 0), **options).success


def test_second_derivatives_are_used_where_steps_are_slow():
    """Gauss-Newton steps alone would take 140."""
    U = np.random.default_rng(2).standard_normal((8, 5))
    slow = fit(np.ones((8, 8)) - 0.5 * np.eye(8), -U @ U.T, rank=5, regularization=0.1)
    assert slow.success
    assert slow.nit < 100


def test_a_rank_that_cannot_fit():
    with pytest.raises(MemoryError, match=r"keeps .* choose a smaller rank"):
        fit(np.eye(3), np.eye(3), rank=10**9)
