"""`fit` ends at minima: saddles are left, and parts that are zero are started by themselves."""

import itertools

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
from support import random_csr, slow_except

from sparsejac import LeastSquares, fit
from sparsejac._solvers import fit as _fit
from sparsejac._solvers import rank_saddles as _rank_saddles
from sparsejac._solvers import saddles as _saddles
from sparsejac._solvers.lanczos import Lanczos
from sparsejac._solvers.quartic import least_of_quartic
from sparsejac._solvers.steihaug import steihaug

PAIR = np.array([[1, -0.3], [-0.3, 1]])


def least_curvature(A, Y, x):
    """The least eigenvalue of the Hessian, relative to its norm."""
    values = np.linalg.eigvalsh(LeastSquares(A, Y).hess(x).toarray())
    return values[0] / max(np.abs(values).max(), 1e-300)


def symmetric_circulant(numbers, k):
    return scipy.linalg.circulant(numbers[np.minimum(np.arange(k), k - np.arange(k))])


# --- saddles --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("Y", "best"),
    [
        (PAIR, 0.245),
        (np.eye(3) - 0.12 * (1 - np.eye(3)), 0.916),
        (1.1 * np.eye(8) - 0.1, 3.675),
        (np.kron(np.eye(4), PAIR), 3.515),
    ],
)
@pytest.mark.parametrize("form", ["C", "csr"])
def test_a_saddle_is_left(Y, best, form):
    """Equal x are stationary by symmetry.

    Nothing but the curvature tells that they are no minimum.
    """
    A = np.ones(Y.shape)
    if form == "csr":
        A, Y = scipy.sparse.csr_array(A), scipy.sparse.csr_array(Y)
        Y = A.multiply(Y.toarray()).tocsr()
    for x0 in (None, np.ones(Y.shape[0]), -3 * np.ones(Y.shape[0])):
        result = fit(A, Y, x0)
        assert result.success
        assert result.cost == pytest.approx(best, rel=1e-9)
        assert least_curvature(A, Y, result.x) >= -1e-7


@pytest.mark.slow
def test_symmetric_circulants():
    """Many have a saddle with equal or alternating x, where conjugate gradients see no more than
    that symmetry.
    """
    saddles = successes = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        k = int(rng.integers(2, 13))
        Y = symmetric_circulant(rng.standard_normal(k // 2 + 1), k)
        mask = (rng.random(k // 2 + 1) < 0.6).astype(float)
        mask[1:2] = 1
        A = symmetric_circulant(mask, k) if seed % 2 else np.ones((k, k))
        x0 = (None, (-1.0) ** np.arange(k), np.zeros(k))[seed % 3]
        costs = []
        result = fit(A, Y, x0, callback=lambda state, costs=costs: costs.append(state.cost))
        assert (np.diff(costs) <= 1e-12 * result.cost).all()
        successes += result.success
        if result.success:
            assert least_curvature(A, Y, result.x) >= -1e-6, seed
        start = LeastSquares(A, Y)
        x = np.ones(k) if x0 is None else x0
        g, F = start.grad(x), A * np.outer(x, x)
        along = np.sum(F * Y) / np.sum(F * F) if np.any(F) else 0
        if np.allclose(g, g[0] * x) and along > 0:
            saddles += least_curvature(A, Y, x * np.sqrt(along)) < -1e-6
    assert saddles > 25
    assert successes > 270


def test_at_most_six_products_more(monkeypatch):
    A = random_csr(300, 12)
    Y = A.copy()
    Y.data = A.data * np.random.default_rng(0).lognormal(size=A.nnz)
    for k, few in ((300, A), (3, None)):
        matrix, data = (
            (few, Y) if few is not None else (np.ones((3, 3)), np.arange(9.0).reshape(3, 3) + 9)
        )
        checked = fit(matrix, data, np.ones(k))
        with monkeypatch.context() as patch:
            patch.setattr(_saddles, "steps_for", lambda size: 0)
            unchecked = fit(matrix, data, np.ones(k))
        assert checked.success
        assert checked.nfev == unchecked.nfev
        assert checked.n_products - unchecked.n_products == min(6, k)
        np.testing.assert_array_equal(checked.x, unchecked.x)


@pytest.mark.parametrize("rank", [None, 2])
def test_few_variables_are_searched_to_the_end(rank, monkeypatch):
    """With 20 variables, six steps of Lanczos might miss a negative curvature."""
    k, searched = 20 // (rank or 1), []

    def lanczos(product, start, steps):
        searched.append(steps)
        return Lanczos(product, start, steps)

    for module in (_saddles, _rank_saddles):
        monkeypatch.setattr(module, "Lanczos", lanczos)
    Y = np.random.default_rng(0).random((k, k))
    assert fit(np.ones((k, k)), Y, np.ones((k, rank) if rank else k), rank=rank).success
    assert set(searched) == {20}


def test_each_time_that_a_saddle_is_left_is_a_step():
    A, seen = np.ones((2, 2)), []
    result = fit(A, PAIR, callback=seen.append)
    assert [state.nit for state in seen] == list(range(result.nit + 1))
    assert seen[1].cost < 0.844 <= seen[0].cost
    few = fit(A, PAIR, max_iter=1)
    assert (few.status, few.nit, few.cost) == (0, 1, seen[1].cost)


def test_a_saddle_that_cannot_be_left_is_no_success(monkeypatch):
    monkeypatch.setattr(_fit.Newton, "_lower_along", lambda *_, **__: None)
    result = fit(np.ones((2, 2)), PAIR)
    assert (result.status, result.success) == (4, False)
    assert result.optimality <= 1e-9
    assert (
        "but this is a saddle that could not be left: the Hessian's least Ritz value is -0.43 of "
        "its" in result.message
    )


def test_flat_directions_are_no_saddles():
    """A bipartite A leaves F unchanged along a curve: its curvature there is zero, and rounding may
    have either sign.
    """
    rng = np.random.default_rng(0)
    for seed in range(30):
        n = int(rng.integers(1, 8))
        B = np.zeros((2 * n, 2 * n))
        B[:n, n:] = rng.random((n, n)) + 0.1
        Y = B * (1 + (seed % 3) * rng.standard_normal(B.shape))
        assert fit(B, Y, rng.random(2 * n) + 0.5).status in (0, 1)
        assert fit(B, B, rng.random(2 * n) + 0.5).success
    B = np.zeros((4, 4))
    B[0, 1] = B[2, 3] = 1
    Y = np.zeros((4, 4))
    Y[0, 1] = 1  # the other pair tends to zero
    assert fit(B, Y, np.ones(4)).success


def test_loose_tolerances_end_at_minima_too():
    for tol in (0.5, 1e-2, 1e-4):
        result = fit(np.ones((2, 2)), PAIR, tol=tol)
        assert result.success
        assert result.optimality <= tol
        assert result.cost < 0.7  # the saddle's is 0.845
        assert least_curvature(np.ones((2, 2)), PAIR, result.x) > 0


# --- zero -----------------------------------------------------------------------------------------


def parts(seed, decades, *, signs):
    """Exact data of separate parts of very different weights: the parts' A, x, and a start that is
    zero in most of them.
    """
    rng = np.random.default_rng(seed)
    blocks, x, start = [], [], []
    for _ in range(int(rng.integers(2, 8))):
        k = int(rng.integers(1, 8))
        weight = 10.0 ** rng.uniform(-decades, decades)
        B = rng.random((k, k)) + 0.1
        blocks.append(weight * (B + B.T))
        x.append(
            rng.lognormal(0, 1, k) * (rng.choice([-1, 1], k) if signs else 1) / np.sqrt(weight)
        )
        start.append(x[-1] * rng.lognormal(0, 0.1, k) * (rng.random() < 0.3))
    return blocks, x, np.concatenate(start)


@pytest.mark.parametrize(
    ("signs", "decades"),
    slow_except([(False, 3)], itertools.product([False, True], [0, 3, 6])),
)
def test_parts_of_any_weight_leave_zero(decades, signs):
    """300 exact problems in all six, from x = 0, and from an x that is zero in some parts."""
    left_over = []
    for seed in range(50):
        blocks, x, start = parts(seed, decades, signs=signs)
        data = [B * np.outer(z, z) for B, z in zip(blocks, x, strict=True)]
        A, Y = scipy.linalg.block_diag(*blocks), scipy.linalg.block_diag(*data)
        for x0 in (np.zeros(len(A)), start):
            result = fit(A, Y, x0)
            assert result.success, result.message
            left_over.append(result.cost / (np.sum(Y**2) / 2))
            ends = np.cumsum([len(B) for B in blocks])
            for B, Z, end in zip(blocks, data, ends, strict=True):
                here = result.x[end - len(B) : end]
                if np.sum(Z**2) > 1e-6 * np.sum(Y**2):
                    assert LeastSquares(B, Z).cost(here) < 0.5 * np.sum(Z**2)
                    assert least_curvature(B, Z, here) >= -1e-6
    # Each end is a minimum, nearly always the best one; rounding decides, which differs between
    # compilers.
    if not signs:
        assert np.mean(np.array(left_over) <= 1e-6) >= 0.95
        assert np.max(left_over) <= 0.1


def test_a_part_whose_data_are_tiny_leaves_zero_too():
    """Beside a part with large residuals its share of the cost is far below rounding."""
    A = scipy.linalg.block_diag(np.ones((3, 3)), 1.0)
    Y = scipy.linalg.block_diag(np.arange(9.0).reshape(3, 3), 1e-10)
    result = fit(A, Y, [1.0, 1, 1, 0])
    assert result.success
    assert abs(result.x[3]) == pytest.approx(1e-5, rel=1e-2)


def test_parts_that_the_data_push_to_zero_stay():
    A = scipy.linalg.block_diag(np.ones((2, 2)), np.ones((3, 3)))
    Y = scipy.linalg.block_diag(4 * np.ones((2, 2)), -np.ones((3, 3)))
    for x0 in (None, np.zeros(5), np.array([1.0, 1, 0, 0, 0])):
        result = fit(A, Y, x0)
        assert result.success
        np.testing.assert_allclose(np.abs(result.x), [2, 2, 0, 0, 0], atol=1e-4)


# --- the means ------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 6, 40])
def test_lanczos(k):
    rng = np.random.default_rng(k)
    H = rng.standard_normal((k, k))
    H += H.T
    products = []

    def product(z):
        products.append(z)
        return H @ z

    found = Lanczos(product, rng.standard_normal(k), 6)
    assert len(products) == min(6, k)
    v, values = found.vector(), np.linalg.eigvalsh(H)
    assert v @ v == pytest.approx(1)
    assert v @ H @ v == pytest.approx(found.value, rel=1e-6)
    assert values[0] - 1e-12 <= found.value
    assert found.norm <= np.abs(values).max() + 1e-12
    if k <= 6:
        assert found.value == pytest.approx(values[0])
        assert found.norm == pytest.approx(np.abs(values).max())


def test_lanczos_where_there_is_nothing_to_find():
    for product, start in (
        (lambda z: z, np.zeros(3)),
        (lambda z: z * np.nan, np.ones(3)),
        (lambda z: z, np.full(3, np.inf)),
        (lambda z: z, np.zeros(0)),
    ):
        with np.errstate(invalid="ignore"):
            found = Lanczos(product, start, 6)
        assert (found.value, found.norm) == (0, 0)
        assert not found.vector().any()
    assert Lanczos(lambda z: -2 * z, np.ones(5), 6).value == pytest.approx(-2)  # invariant at once
    assert Lanczos(lambda z: 0 * z, np.ones(5), 6).norm == 0


def test_conjugate_gradients_tell_what_curvature_they_met():
    def step(diagonal):
        def product(d):
            hd = diagonal * d
            return hd, float(d @ hd)

        return steihaug(
            product,
            np.array([1.0, 1.0]),
            np.ones(2),
            enough=1e-20,
            radius=np.inf,
            limit=9,
            max_square=1.0,
        )

    assert step(np.array([1.0, 2.0])).negative is None
    negative = step(np.array([1.0, -2.0])).negative
    assert negative @ (np.array([1.0, -2.0]) * negative) < 0


@pytest.mark.parametrize(
    ("coefficients", "backwards", "best"),
    [
        ((0, -1, 0, 1), False, np.sqrt(0.5)),
        ((0, -1, 0.1, 1), True, -0.7456009),
        ((0, -1, 0.1, 1), False, 0.6706009),
        ((-1, 1, 0, 0), False, 0.5),
        ((1, 1, 0, 0), False, 0),
        ((1, 1, 0, 0), True, -0.5),
        ((0, 0, 0, 0), True, 0),
        ((-1, 0, 0, 0), False, 0),
        ((np.nan, 1, 1, 1), True, 0),
        ((np.inf, 1, 1, 1), True, 0),
        ((-1, 1, 0, 5e-324), False, 0.5),
    ],
)
def test_the_least_of_a_quartic(coefficients, backwards, best):
    with np.errstate(all="raise"):
        found, fall = least_of_quartic(*coefficients, backwards=backwards)
    assert found == pytest.approx(best, abs=1e-6)
    powers = [found**n for n in (1, 2, 3, 4)]
    assert fall == pytest.approx(-float(np.dot(coefficients, powers)) if found else 0, rel=1e-9)
