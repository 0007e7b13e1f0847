"""`fit` within bounds: minima that SciPy finds too, conditions of second order, and messages."""

import types

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from rank_oracle import LeastSquares as DenseLeastSquares
from rank_oracle import rows_of_J
from scipy.optimize import Bounds, least_squares, minimize
from support import random_csr, slow
from test_robust import slope

from sparsejac import LeastSquares, fit
from sparsejac._solvers.descent import Descent
from sparsejac._solvers.fit_bounds import BoundedNewton
from sparsejac._solvers.gauge import balanced_within
from sparsejac._solvers.one_column import OneColumn

POSITIVE = (0, np.inf)


def data(form, shape, *, seed=0):
    """A, and a Y with numbers of both signs where A has entries."""
    rng = np.random.default_rng(seed)
    if form == "csr":
        A = random_csr(shape[0], 8, seed)[:, : shape[1]]
        Y = A.copy()
        Y.data = A.data * (rng.standard_normal(A.nnz) + 0.4)
        return A, Y
    A = rng.random(shape) + 0.1
    return A, A * (rng.standard_normal(shape) + 0.2)


def lbfgs(problem, x0, low, high, regularization=0.0):
    """The minimum that SciPy finds from x0, in the form of a vector."""

    def value_and_grad(x):
        cost, gradient = problem.value_and_grad(x)
        return cost + regularization * (x @ x) / 2, gradient + regularization * x

    options = {"ftol": 1e-16, "gtol": 1e-10, "maxiter": 10**4, "maxfun": 10**4}
    return minimize(
        value_and_grad, x0, jac=True, method="L-BFGS-B", bounds=Bounds(low, high), options=options
    )


def check_minimum(A, Y, result, low, high, *, bilinear=False, regularization=0.0):
    """The conditions of a minimum, from a dense J and Hessian by loops."""
    X = result.x.reshape(len(result.x), -1)
    stored = np.ones(A.shape) if isinstance(A, np.ndarray) else A.astype(bool).toarray()
    A, Y = (M if isinstance(M, np.ndarray) else M.toarray() for M in (A, Y))
    at = DenseLeastSquares(A, Y, X, rows_of_J(stored, "stored", "C"), bilinear=bilinear)
    norm = np.linalg.norm(Y) or 1.0  # as in the optimality of a fit to zeros
    check_conditions(at, result, low, high, regularization, norm)


def check_conditions(at, result, low, high, regularization, norm):
    """The conditions of a minimum, from the cost, the gradient and the Hessian `at` x."""
    x = result.x.ravel()
    assert result.cost == pytest.approx(at.cost + regularization * np.sum(x**2) / 2)
    g = at.gradient.ravel() + regularization * x
    np.testing.assert_allclose(result.grad.ravel(), g, atol=1e-9 * norm)
    low, high = (np.broadcast_to(bound, x.shape) for bound in (low, high))
    assert (low <= x).all()
    assert (x <= high).all()
    mask = result.active_mask.ravel()
    np.testing.assert_array_equal(mask, np.where(x == high, 1, np.where(x == low, -1, 0)))
    inside = mask == 0
    assert np.abs(g[inside]).max(initial=0) <= 1e-6 * norm
    assert g[(mask == -1)].min(initial=0) >= -1e-6 * norm
    assert g[(mask == 1) & (low < high)].max(initial=0) <= 1e-6 * norm
    H = at.hessian + regularization * np.eye(x.size)
    if inside.any():
        eigenvalues = np.linalg.eigvalsh(H[np.ix_(inside, inside)])
        assert eigenvalues[0] >= -1e-6 * np.abs(np.linalg.eigvalsh(H)).max()


@pytest.mark.parametrize("form", ["C", "csr"])
@pytest.mark.parametrize("bounds", [POSITIVE, (-0.2, 0.3), (0.1, 0.6)])
@pytest.mark.parametrize("regularization", [0.0, 0.7])
def test_one_column(form, bounds, regularization):
    A, Y = data(form, (40, 40))
    result = fit(A, Y, bounds=bounds, regularization=regularization)
    assert result.success
    assert result.active_mask.any()
    check_minimum(A, Y, result, *bounds, regularization=regularization)
    problem = LeastSquares(A, Y)
    other = lbfgs(problem, result.x, *bounds, regularization)
    assert result.cost <= other.fun * (1 + 1e-12)
    start = np.clip(np.ones(40), *bounds)
    again = fit(A, Y, start, bounds=bounds, regularization=regularization)
    assert again.success
    assert again.cost <= lbfgs(problem, start, *bounds, regularization).fun * (1 + 1e-9)


@pytest.mark.parametrize("form", ["C", "csr"])
@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.parametrize("bounds", [POSITIVE, (-0.3, 0.4)])
def test_several_columns(form, bilinear, bounds):
    A, Y = data(form, (24, 18) if bilinear else (24, 24), seed=1)
    for rank in (2, None) if bilinear else (3,):
        result = fit(A, Y, bounds=bounds, rank=rank, bilinear=bilinear, regularization=0.1)
        assert result.success
        count = sum(A.shape) if bilinear else 24
        assert result.x.shape == result.grad.shape == result.active_mask.shape
        assert result.x.shape == ((count,) if rank is None else (count, rank))
        assert result.active_mask.any()
        check_minimum(A, Y, result, *bounds, bilinear=bilinear, regularization=0.1)
        problem = LeastSquares(A, Y, rank=rank, bilinear=bilinear)
        other = lbfgs(problem, result.x.ravel(), *bounds, 0.1)
        assert result.cost <= other.fun * (1 + 1e-12)


LOSSES = ["soft_l1", "huber", "cauchy", "arctan"]


def with_outliers(form, shape, *, seed=0):
    """The numbers of `data`, of which one in twenty is far too large."""
    A, Y = data(form, shape, seed=seed)
    values = Y.data if form == "csr" else Y
    values[np.random.default_rng(seed).random(values.shape) < 0.05] *= 20
    return A, Y


def check_robust_minimum(problem, result, low, high, regularization=0.0):
    """As `check_minimum`; `test_robust` compares the Hessian with the formulas of the losses."""
    x = result.x.ravel()
    at = types.SimpleNamespace(
        cost=problem.cost(x), gradient=problem.grad(x), hessian=problem.hess(x) @ np.eye(x.size)
    )
    norm = np.sqrt(2 * problem.cost(0 * x)) or 1.0
    check_conditions(at, result, low, high, regularization, norm)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("bounds", [POSITIVE, (-0.2, 0.3)])
@pytest.mark.parametrize(
    ("rank", "bilinear", "form"),
    [(None, False, "C"), (2, True, "csr"), *slow((None, False, "csr"), (3, False, "C"))],
)
def test_robust_losses(loss, bounds, rank, bilinear, form):
    A, Y = with_outliers(form, (24, 18) if bilinear else (24, 24), seed=2)
    problem = LeastSquares(A, Y, rank=rank, bilinear=bilinear, loss=loss, f_scale=0.5)
    spread = np.random.default_rng(0).random(problem.shape[1])
    for x0 in (None, np.clip(spread, *bounds), np.clip(np.zeros(problem.shape[1]), *bounds)):
        result = fit(problem, x0=x0, bounds=bounds, regularization=0.1)
        assert result.success, result.message
        assert result.active_mask.any()
        check_robust_minimum(problem, result, *bounds, 0.1)
        other = lbfgs(problem, result.x.ravel(), *bounds, 0.1)
        assert result.cost <= other.fun * (1 + 1e-12)


def test_a_robust_fit_stays_at_zero_if_that_is_better():
    """The start from these data has a higher cost, and so has the minimum near it."""
    A, Y = np.ones((2, 2)), np.array([[1.4, 0], [1.1, 4.1]])
    options = {"rank": 2, "loss": "cauchy", "f_scale": 0.1}
    zeros = np.zeros((2, 2))
    result = fit(A, Y, zeros, bounds=POSITIVE, regularization=0.1, **options)
    assert result.success
    assert result.cost <= LeastSquares(A, Y, **options).cost(zeros)


@pytest.mark.parametrize("loss", LOSSES)
def test_robust_losses_as_in_least_squares(loss):
    """From near the minimum, since there may be several."""
    A, Y = with_outliers("C", (15, 15), seed=3)
    problem = LeastSquares(A, Y)
    low, high = np.linspace(-0.5, 0.1, 15), np.linspace(0.4, 0.5, 15)
    options = {"loss": loss, "f_scale": 0.5, "bounds": (low, high)}
    result = fit(A, Y, np.full(15, 0.3), **options)
    assert result.success, result.message
    other = least_squares(
        problem.fun,
        np.clip(result.x, low + 1e-4, high - 1e-4),
        jac=lambda x: problem.jac_csr(x).toarray(),
        ftol=1e-15,
        xtol=1e-15,
        gtol=1e-12,
        max_nfev=2000,
        **options,
    )
    assert result.cost == pytest.approx(other.cost, rel=1e-8)
    np.testing.assert_allclose(result.x, other.x, atol=1e-4)


@given(
    seed=st.integers(0, 10**6),
    k=st.integers(1, 7),
    rank=st.sampled_from([None, 2]),
    loss=st.sampled_from(LOSSES),
    f_scale=st.sampled_from([0.1, 1.0, 10.0]),
)
def test_any_bounds_of_a_robust_loss(seed, k, rank, loss, f_scale):
    A, Y, bounds, x0 = any_bounds(seed, k, rank)
    problem = LeastSquares(A, Y, rank=rank, loss=loss, f_scale=f_scale)
    result = fit(problem, x0=x0, bounds=bounds)
    assert result.cost <= problem.cost(x0) * (1 + 1e-12)
    assert ((bounds[0] <= result.x) & (result.x <= bounds[1])).all()
    if result.success:
        check_robust_minimum(problem, result, *(bound.ravel() for bound in bounds))


def test_the_same_as_least_squares():
    """SciPy's own method for bounds, with a dense J."""
    A, Y = data("C", (15, 15), seed=3)
    problem, start = LeastSquares(A, Y), np.full(15, 0.3)
    low, high = np.linspace(-0.5, 0.1, 15), np.linspace(0.4, 0.5, 15)
    other = least_squares(
        problem.fun,
        start,
        jac=lambda x: problem.jac_csr(x).toarray(),
        bounds=(low, high),
        ftol=1e-15,
        xtol=1e-15,
        gtol=1e-12,
    )
    result = fit(problem, x0=start, bounds=(low, high))
    assert result.success
    assert result.cost == pytest.approx(other.cost, rel=1e-9)
    np.testing.assert_allclose(result.x, other.x, atol=1e-6)
    np.testing.assert_array_equal(result.active_mask, np.sign(other.active_mask))


def any_bounds(seed, k, rank):
    """A and Y of small integers, bounds of small integers and infinities, and a start."""
    rng = np.random.default_rng(seed)
    A = rng.integers(0, 3, (k, k)).astype(float)
    Y = A * rng.integers(-3, 4, (k, k))
    low, high = np.sort(rng.integers(-2, 3, (2, k, rank or 1)), axis=0).astype(float)
    low[rng.random(low.shape) < 0.2] = -np.inf
    high[rng.random(low.shape) < 0.2] = np.inf
    shape = (k,) if rank is None else (k, rank)
    x0 = np.clip(rng.standard_normal(low.shape), low, high).reshape(shape)
    return A, Y, (low.reshape(shape), high.reshape(shape)), x0


@given(seed=st.integers(0, 10**6), k=st.integers(1, 7), rank=st.sampled_from([None, 1, 2]))
def test_any_bounds(seed, k, rank):
    """Never above the start, always within the bounds, and a success is a minimum."""
    A, Y, bounds, x0 = any_bounds(seed, k, rank)
    result = fit(A, Y, x0, bounds=bounds, rank=rank)
    assert result.cost <= LeastSquares(A, Y, rank=rank).cost(x0) * (1 + 1e-12)
    assert ((bounds[0] <= result.x) & (result.x <= bounds[1])).all()
    assert result.success == (result.status == 1)
    if result.success:
        check_minimum(A, Y, result, *(bound.ravel() for bound in bounds))


def test_without_active_bounds_the_minimum_is_that_of_fit():
    A, Y = data("csr", (200, 200))
    free = fit(A, Y, regularization=0.1)
    wide = fit(A, Y, regularization=0.1, bounds=(-100, 100))
    assert wide.success
    assert not wide.active_mask.any()
    np.testing.assert_allclose(wide.x, free.x, atol=1e-6)
    assert "active_mask" not in free


def test_equal_bounds_fix_a_variable():
    A, Y = data("C", (12, 12))
    low, high = np.full(12, -np.inf), np.full(12, np.inf)
    low[[2, 5]] = high[[2, 5]] = [0.25, -2.0]
    result = fit(A, Y, bounds=(low, high))
    assert result.success
    assert result.x[[2, 5]].tolist() == [0.25, -2.0]
    check_minimum(A, Y, result, low, high)
    every = fit(A, Y, bounds=(0.5, 0.5), rank=2)
    assert every.success
    np.testing.assert_array_equal(every.x, np.full((12, 2), 0.5))
    np.testing.assert_array_equal(every.active_mask, 1)


def test_bounds_broadcast():
    A, Y = data("C", (10, 10))
    columns = fit(A, Y, rank=2, bounds=([0, -1], [np.inf, 0])).x
    assert (columns[:, 0] >= 0).all()
    assert (columns[:, 1] <= 0).all()
    rows = np.linspace(0, 1, 10)
    flat = fit(A, Y, rank=2, bounds=Bounds(-np.repeat(rows, 2), np.repeat(rows, 2)))
    tall = fit(A, Y, rank=2, bounds=[-rows[:, None], rows[:, None]])
    np.testing.assert_array_equal(flat.x, tall.x)


def test_a_start_that_has_to_be_left():
    """At x = 0, the gradient vanishes and all variables are on a bound."""
    A = np.ones((4, 4))
    for x0 in (None, np.zeros(4)):
        np.testing.assert_allclose(fit(A, 9 * A, x0, bounds=POSITIVE).x, 3)
        np.testing.assert_allclose(fit(A, 9 * A, x0, bounds=(-np.inf, 0)).x, -3)
        result = fit(A, -A, x0, bounds=POSITIVE)
        assert result.success
        np.testing.assert_array_equal(result.x, np.zeros(4))
        assert (result.active_mask == -1).all()
    Y = np.kron(np.eye(2), A)  # a rank of 2; a column of zeros has a zero gradient
    x0 = np.stack([np.repeat([1.0, 0.0], 4), np.zeros(8)], axis=1)
    result = fit(np.ones((8, 8)), Y, x0, bounds=POSITIVE, rank=2)
    assert result.success
    assert result.cost == pytest.approx(0, abs=1e-12)


def test_a_saddle_within_bounds_is_left():
    """Equal x are a saddle if the data want different ones."""
    A, Y = np.ones((2, 2)), np.array([[-1.0, 0.5], [0.5, -1.0]]) + 1.2
    result = fit(A, Y, [0.5, 0.5], bounds=(0.0, 2.0))
    assert result.success
    check_minimum(A, Y, result, 0.0, 2.0)
    B = np.array([[0.0, 1], [1, 0]])
    both = fit(B, -6 * B, [1.0, 1.0], bounds=(-1.0, 4.0))
    assert both.success
    assert both.x[0] * both.x[1] == pytest.approx(-4)
    assert sorted(both.active_mask.tolist()) == [-1, 1]


def test_variables_that_leave_a_bound_do_not_take_others_across_theirs():
    """The gradient of x_1 vanishes. Only an x_0 below its bound would lower the cost with it."""
    A = np.array([[2, 0.5, 1, 0.5], [0.5, 0, 0, 0], [1, 0, 0, 0.5], [0.5, 0, 0.5, -1]])
    Y = -np.array([[1.8, 0.3, 0.9, 0.9], [0.3, 0, 0, 0], [0.9, 0, 0, 0.6], [0.9, 0, 0.6, 0.3]])
    result = fit(A, Y, [0, 0, 0.4, 0.4], bounds=POSITIVE)
    assert (result.status, result.active_mask.tolist()) == (1, [-1, -1, -1, 0])
    assert result.x[3] == pytest.approx(np.sqrt(0.3))


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_data_that_are_zero(scale):
    """The best x is the one nearest to zero, on whatever scale A is."""
    low, high = np.array([-1.0, 1.0, 0.0, -3.0]), np.array([2.0, 2.0, np.inf, -2.0])
    for rank in (None, 1):
        shape = (4,) if rank is None else (4, 1)
        for x0 in (None, np.array([1.5, 1.5, 1.5, -2.5]).reshape(shape)):
            A = scale * np.ones((4, 4))
            bounds = low.reshape(shape), high.reshape(shape)
            for loss in ("linear", "huber", "arctan"):
                options = {"loss": loss, "f_scale": scale, "bounds": bounds, "rank": rank}
                result = fit(A, np.zeros((4, 4)), x0, **options)
                assert result.success
                np.testing.assert_array_equal(result.x.ravel(), [0, 1, 0, -2])
    few = fit(np.diag([scale, 0]), np.zeros((2, 2)), [0.5, 0.5], bounds=(-1, 1))
    np.testing.assert_array_equal(few.x, [0, 0.5])  # no entry of A depends on the second one


@pytest.mark.parametrize("width", [1e-3, 1e-6, 1e-10])
def test_narrow_bounds_end(width):
    """All variables that moved to their other bound at once would move back, again and again."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        k = int(rng.integers(1, 8))
        A, Y = rng.standard_normal((2, k, k))
        for x0 in (None, width * rng.uniform(-1, 1, k)):
            costs = []
            result = fit(
                A,
                Y,
                x0,
                bounds=(-width, width),
                callback=lambda state, c=costs: c.append(state.cost),
            )
            assert result.status in (1, 2, 4)
            assert np.all(np.abs(result.x) <= width)
            assert result.cost <= costs[0] * (1 + 1e-12)


@pytest.mark.parametrize("optimality", [1e-170, 5e-324])
def test_an_optimality_that_is_almost_zero(optimality):
    """The square of its quotient with tol would overflow. There is nothing to solve then."""
    fit_ = types.SimpleNamespace(_tol=1e-9)
    assert Descent._enough(fit_, 0.1, optimality) == 1
    assert Descent._enough(fit_, 0.1, 1e-3) == pytest.approx(0.01)
    assert Descent._enough(fit_, 0.1, 1e-9) == pytest.approx(0.09)


def test_a_column_that_is_small_at_the_start():
    """The size of its gradient then changes by a large factor, while x hardly does."""
    x = np.array([1.0, 2.0, -3.0])
    Y = np.outer(x, x)
    result = fit(np.ones((3, 3)), Y, rank=2, bounds=POSITIVE)
    assert result.success
    assert result.nit < 40
    check_minimum(np.ones((3, 3)), Y, result, *POSITIVE)


def test_connected_parts_have_signs_of_their_own():
    parts = np.ones((3, 3)), 4 * np.ones((2, 2))
    Y = scipy.sparse.block_diag([scipy.sparse.coo_array(part) for part in parts]).tocsr()
    A = Y.astype(bool).astype(float)
    np.testing.assert_allclose(fit(A, Y, bounds=POSITIVE).x, [1, 1, 1, 2, 2], rtol=1e-6)


def test_the_same_bits_for_any_number_of_workers():
    A, Y = data("C", (500, 500))
    one, two = (fit(A, Y, workers=workers, bounds=POSITIVE) for workers in (1, 2))
    np.testing.assert_array_equal(one.x, two.x)


def test_streamed(tmp_path):
    A, Y = data("C", (60, 60))
    np.save(tmp_path / "A.npy", A)
    np.save(tmp_path / "Y.npy", Y)
    for rank in (None, 2):
        near = fit(A, Y, bounds=POSITIVE, rank=rank)
        far = fit(tmp_path / "A.npy", tmp_path / "Y.npy", bounds=POSITIVE, rank=rank)
        assert far.success
        np.testing.assert_allclose(far.x, near.x, atol=1e-6)


def test_statuses_and_counts(monkeypatch):
    A, Y = data("csr", (100, 100))
    few = fit(A, Y, np.ones(100), bounds=POSITIVE, max_iter=2)
    assert (few.status, few.success, few.nit) == (0, False, 2)
    best = fit(A, Y, np.ones(100), bounds=(0, 1), tol=0)
    assert best.status in (1, 2)
    assert best.optimality < 1e-12
    seen = []
    calls = {"gradient": 0}
    gradient = OneColumn.gradient

    def counted(self, x):
        calls["gradient"] += 1
        return gradient(self, x)

    monkeypatch.setattr(OneColumn, "gradient", counted)
    result = fit(A, Y, np.ones(100), bounds=POSITIVE, callback=seen.append)
    assert result.nfev == calls["gradient"]
    assert [state.nit for state in seen] == list(range(result.nit + 1))
    assert (np.diff([state.cost for state in seen]) <= 1e-12 * result.cost).all()
    monkeypatch.setattr(BoundedNewton, "_lower_within", lambda *_: None)
    stuck = fit(np.ones((2, 2)), np.array([[0, 1.0], [1, 0]]) * -6, [1.0, 1.0], bounds=(-3, 3))
    assert (stuck.status, stuck.success) == (4, False)
    nan = fit(A, Y, np.full(100, 1e200), bounds=POSITIVE)
    assert nan.status == 3


def test_a_newton_step_that_cannot_be_shortened_enough(monkeypatch):
    """The projected gradient takes its place, and the fit goes on; or it ends."""
    A, Y = data("C", (20, 20))
    expected = fit(A, Y, np.ones(20), bounds=POSITIVE)
    search, steps = BoundedNewton._searched, []

    def uphill(self, s, there):
        steps.append(len(steps))
        if len(steps) > 3:
            return search(self, s, there)
        s = -100 * s
        return search(self, s, self._evaluate(self._clipped(self._at.x + s)))

    monkeypatch.setattr(BoundedNewton, "_searched", uphill)
    result = fit(A, Y, np.ones(20), bounds=POSITIVE)
    assert len(steps) > 3
    assert result.success
    assert result.cost == pytest.approx(expected.cost)
    monkeypatch.setattr(BoundedNewton, "_searched", lambda *_: None)
    assert fit(A, Y, np.ones(20), bounds=POSITIVE).status == 2


def test_inputs_are_left_alone():
    A, Y = data("C", (10, 10))
    x0, low, high = np.ones(10), np.zeros(10), np.full(10, 2.0)
    fit(A, Y, x0, bounds=(low, high))
    assert (x0 == 1).all()
    assert (low == 0).all()
    assert (high == 2).all()


@pytest.mark.parametrize(
    ("bounds", "error", "message"),
    [
        (3.0, TypeError, r"bounds must be a pair \(low, high\) of numbers or arrays.*got a float"),
        (
            (0, 1, 2),
            TypeError,
            r"bounds must be a pair .*got a tuple of length 3: pass \(0, np.inf",
        ),
        (([0, 0, 2.0], 1), ValueError, r"bounds must not cross, but those of x\[2\] are 2.0 and 1"),
        (
            (np.inf, np.inf),
            ValueError,
            r"bounds must leave a finite x, but those of x\[0\] are inf",
        ),
        (([0, 0], 1), ValueError, r"bounds\[0\] must be a number, or an array that broadcasts to "),
        ((0, [1, np.nan, 1]), ValueError, r"bounds\[1\] must not be NaN, but it is for x\[1\]"),
        ((0, 1j), TypeError, r"least squares is for real numbers, and bounds\[1\] is complex128"),
        (
            (0, [3, 3, 1.5]),
            ValueError,
            r"but 1 of its 3 values are not, the first x0\[2\] = 2.0, whose bounds are 0.0 and 1.5",
        ),
    ],
)
def test_what_is_refused(bounds, error, message):
    A = np.eye(3)
    with pytest.raises(error, match=message):
        fit(A, A, [2.0, 2.0, 2.0], bounds=bounds)


def test_messages_name_a_row_and_a_column():
    A = np.eye(3)
    low = np.zeros((3, 2))
    low[1, 1] = 5
    with pytest.raises(ValueError, match=r"those of x\[1, 1\] are 5.0 and 4.0"):
        fit(A, A, rank=2, bounds=(low, 4))
    with pytest.raises(ValueError, match=r"the first x0\[1, 1\] = 1.0, whose bounds are 5.0 and"):
        fit(A, A, np.ones(6), rank=2, bounds=(low, 9))


@pytest.mark.parametrize("name", ["hic_yeast_10kb", *slow("graph_enron")])
def test_real_patterns(name, real_data):
    A = scipy.sparse.csr_array(scipy.sparse.load_npz(real_data(f"{name}.npz"))).astype(np.float64)
    A.sum_duplicates()
    A.data[:] = 1
    rng = np.random.default_rng(0)
    k = A.shape[0]
    x, noise = rng.lognormal(0, 0.5, k), 1 + 0.1 * rng.standard_normal(A.nnz)
    x *= np.where(rng.random(k) < 0.2, -1, 1)
    Y = A.copy()
    Y.data = x[np.repeat(np.arange(k), np.diff(A.indptr))] * x[A.indices] * noise
    problem, bounds = LeastSquares(A, Y), (0.5, 1.5)
    result = fit(problem, x0=np.ones(k), bounds=bounds)
    assert result.success
    assert result.nfev + result.n_products < 200  # L-BFGS-B takes 42 and 809
    assert result.cost <= lbfgs(problem, result.x, *bounds).fun * (1 + 1e-12)
    other = lbfgs(problem, np.ones(k), *bounds)
    assert result.cost <= other.fun * (1 + 1e-8)  # on Enron's mail it stops above


# --- zeros that are no minimum --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("Y", "bilinear", "cost"),
    [
        ([[1.0, -3], [-4, -2]], True, 14.5),
        ([[3.0, -4], [-4, -4]], True, 24.0),
        ([[1.0, -5], [-5, 1]], False, 25.5),
        (6 * np.eye(3) - 5, False, 76.0),
    ],
)
def test_zeros_are_left_where_most_data_are_negative(Y, bilinear, cost):
    """Few directions lead to a lower cost, and random ones do not."""
    result = fit(np.ones(np.shape(Y)), Y, bilinear=bilinear, bounds=(0, np.inf))
    assert result.success
    assert result.cost == pytest.approx(cost)


@pytest.mark.parametrize("mean", [-1.0, 0.0])
def test_x_is_not_zero_if_an_entry_is_positive(mean):
    for seed in range(15):
        Y = np.random.default_rng(seed).standard_normal((6, 5)) + mean
        result = fit(np.ones((6, 5)), Y, bilinear=True, bounds=(0, np.inf))
        assert result.x.any()


@pytest.mark.parametrize("bounds", [(0, np.inf), (-np.inf, np.inf), (0, 30)])
@pytest.mark.parametrize("scale", [1e-5, 1e-10])
def test_unbalanced_starts_within_bounds(scale, bounds):
    rng = np.random.default_rng(0)
    B, x0 = rng.random((5, 4)) + 0.1, rng.random(9) + 0.1
    Y = B * np.outer(rng.random(5) + 0.1, rng.random(4) + 0.1)
    x0[:5] *= scale
    x0[5:] = np.minimum(x0[5:] / scale, bounds[1])
    result = fit(B, Y, x0, bilinear=True, bounds=bounds)
    assert result.success
    assert result.cost < 1e-12


def test_balanced_within():
    Z = np.array([[1e8, 2e8], [3e8, 1e8], [1e-8, 4e-8], [2e-8, 1e-8]])
    free = np.full(Z.shape, np.inf)
    for low, high in ((-free, free), (0 * Z, free)):
        found = balanced_within(Z, 2, low, high)
        assert np.allclose(found[:2] @ found[2:].T, Z[:2] @ Z[2:].T)
        assert found.max() < 100
        assert (low <= found).all()
    assert balanced_within(Z, 2, Z, Z) is Z


def narrow_problem(seed, width):
    """A box around zero that is far smaller than the x of the data, and a start in it."""
    rng = np.random.default_rng(seed)
    k = rng.integers(1, 4)
    A, Y = rng.standard_normal((2, k, k))
    return A, Y, None if seed % 3 == 0 else rng.uniform(-width, width, k)


@pytest.mark.parametrize("seeds", [range(12), *slow(range(12, 150))])
@pytest.mark.parametrize("width", [1e-6, 1e-7, 1e-8, 1e-10])
@pytest.mark.parametrize("loss", ["linear", "cauchy", *slow("soft_l1", "huber", "arctan")])
def test_bounds_far_below_the_usual_x(loss, width, seeds, tried):
    """Any point within them has a small optimality. The result is a minimum there nonetheless.

    The cost is ``½ x·H x`` there, with H from A∘(ρ' Y), up to what no float64 would show.
    """
    for seed in seeds:
        A, Y, x0 = narrow_problem(seed, width)
        result = fit(A, Y, x0, bounds=(-width, width), workers=1, loss=loss)
        residuals = Y if loss == "linear" else slope(loss, Y**2) * Y
        H = -(A * residuals + (A * residuals).T)
        slopes, x = H @ result.x / (np.sum(np.abs(H)) * width), result.x
        left = np.where(x <= -width, np.minimum(slopes, 0), slopes)
        left = np.where(x >= width, np.maximum(slopes, 0), left)
        if result.status != 0:  # its steps are those of the steepest descent at the end
            assert np.max(np.abs(left)) < 1e-3, (seed, result.message)
        assert result.status in (0, 1, 4), (seed, result.message)
    tried("fits within narrow bounds", len(seeds))
