"""The verdicts of fits: success is a minimum, and each other status means what it says."""

import itertools

import numpy as np
import pytest
import scipy.sparse
from fit_oracle import Dense
from hypothesis import given
from hypothesis import strategies as st

from sparsejac import fit

TOL = 1e-9
LOSSES = ["soft_l1", "huber", "cauchy", "arctan"]


class Problem:
    """The arguments of one fit, and what a loop says of its result."""

    def __init__(self, A, Y, stored, *, sparse, x0, **options):
        self.A, self.Y, self.x0, self.options = A, Y, x0, options
        self.sparse, self.stored = sparse, stored
        self.bilinear = options["bilinear"]
        self.shape = (sum(A.shape) if self.bilinear else len(A),)
        if options["rank"] is not None:
            self.shape += (options["rank"],)

    def __repr__(self):
        words = {"A": self.A, "Y": self.Y, "x0": self.x0, "sparse": self.sparse, **self.options}
        return ", ".join(f"{name}={value!r}" for name, value in words.items())

    def solved(self, tol=TOL, **more):
        A, Y = self.A, self.Y
        if self.sparse:
            i, j = (index.astype(np.int32) for index in np.nonzero(self.stored))
            A, Y = (
                scipy.sparse.coo_array((B[i, j], (i, j)), shape=B.shape).tocsr() for B in (A, Y)
            )
        return fit(A, Y, self.x0, tol=tol, **self.options, **more)

    def dense(self, x):
        m, n = self.A.shape
        upper = self.options["rows"] == "upper"
        pairs = [
            (i, j)
            for i, j in itertools.product(range(m), range(n))
            if self.stored[i, j] and (i <= j or not upper)
        ]
        options = self.options
        found = Dense(
            self.A,
            self.Y,
            np.reshape(x, (self.shape[0], -1)),
            pairs,
            bilinear=self.bilinear,
            regularization=options["regularization"],
            loss=options["loss"],
            scale=options["f_scale"],
        )
        special = options["regularization"] or options["loss"] != "linear"
        several = options["rank"] is not None or self.bilinear
        found.blocks = bool(several or special) and options["bounds"] is None
        found.always_added = found.blocks or options["bounds"] is not None
        if found.norm == 0 and options["bounds"] is not None:
            nearest = np.clip(0.0, *options["bounds"])  # to zero
            if not np.array_equal(nearest, x):
                found.norm = np.sqrt(2 * self.dense(nearest).cost)
            else:
                found.norm = np.sqrt(2 * found.cost)
        return found


# --- any problem ----------------------------------------------------------------------------------


@st.composite
def problems(draw, *, quick):
    """Small problems of all kinds, or of those that need few kernels."""

    def choose(*values):
        return draw(st.sampled_from(values))

    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rank = choose(None, 2) if quick else choose(None, None, 1, 2, 3)
    bilinear = not quick and choose(False, False, True)
    m, n = rng.integers(1, 5 if bilinear else 7, 2).tolist()
    n = n if bilinear else m
    A = _weights(choose("integers", "numbers", "ones"), (m, n), rng)
    sparse, rows = choose(False, True), choose(None, None, None, "upper") if not bilinear else None
    stored = np.ones((m, n), bool)
    if sparse:
        stored = rng.random((m, n)) < rng.choice([0.4, 0.7, 1])
    if choose(False, False, True):
        A[rng.integers(m)] = 0
    X = rng.standard_normal((m + n if bilinear else m, rank or 1))
    kind = choose("zero", "exact", "noisy", "indefinite", "negative", "integers", "any size")
    Y = _data(kind, A, X[:m] @ (X[m:] if bilinear else X).T, rng)
    if rows == "upper":
        A, Y = (np.triu(B) + np.triu(B, 1).T for B in (A, Y))
        stored = np.triu(stored) | np.triu(stored).T
    A, Y = (np.where(stored, B, 0.0) for B in (A, Y))
    A *= choose(1.0, 1.0, 1e-8, 1e8)
    Y *= choose(1.0, 1.0, 1e-40, 1e40)
    size = float(np.sqrt(np.sum(Y * Y)))
    largest = float(np.max(np.abs(A)))
    usual = np.sqrt(size / largest) if size > 0 and largest > 0 else 1.0
    loss, bounds, regularization = "linear", None, 0.0
    kinds = "bounds", "loss", "regularization", "bounds, loss", "bounds, regularization"
    more = choose("none", "none", *kinds)
    if "regularization" in more:
        regularization = float(rng.choice([1e-6, 0.1, 10]) * (size * largest or 1.0))
    if "bounds" in more:
        bounds = _bounds(choose("signs", "box", "any", "some"), X.shape, usual, rng)
    if "loss" in more:
        loss = choose("huber") if quick else choose(*LOSSES)
    starts = ["none", "zero", "saddle", "near", "any"]
    if loss == "linear":  # others take a start as it is, and hardly depend on x if it is far away
        starts.append("far")
    x0 = _start(choose(*starts), X, usual, rng)
    shape = X.shape if rank is not None else (len(X),)
    if bounds is not None:
        bounds = tuple(limit.reshape(shape) for limit in bounds)
    if x0 is not None:
        x0 = x0.reshape(shape)
        x0 = x0 if bounds is None else np.clip(x0, *bounds)
    scale = float(rng.choice([0.1, 1, 10]) * (size / np.sqrt(m * n) or 1.0))
    return Problem(
        A, Y, stored, sparse=sparse, x0=x0, rank=rank, bilinear=bilinear, rows=rows, loss=loss,
        f_scale=scale if loss != "linear" else 1.0, bounds=bounds, regularization=regularization,
    )  # fmt: skip


def _weights(kind, shape, rng):
    if kind == "ones":
        return np.ones(shape)
    if kind == "integers":
        return rng.choice([0.0, 1, 2, -1, 0.5], shape)
    return rng.standard_normal(shape)


def _data(kind, A, F, rng):
    """Y, from the matrix X Xᵀ of some X."""
    noise = rng.standard_normal(A.shape)
    return {
        "zero": 0 * A,
        "exact": A * F,
        "noisy": A * F + 0.1 * noise,
        "indefinite": noise,
        "negative": -np.abs(A * noise),  # the best scale of equal x is negative
        "integers": rng.integers(-2, 3, A.shape).astype(float),
        "any size": noise * np.exp(2 * rng.standard_normal(A.shape)),
    }[kind]


def _bounds(kind, shape, usual, rng):
    infinite = np.full(shape, np.inf)
    if kind == "signs":
        return np.zeros(shape), infinite
    if kind == "some":
        return np.where(rng.random(shape) < 0.5, 0.0, -np.inf), infinite
    usual = usual * 10.0 ** rng.choice([0, 0, -3, 3, -10])
    if kind == "box":
        return np.full(shape, -0.5 * usual), np.full(shape, 0.5 * usual)
    low = usual * rng.standard_normal(shape)
    return low, low + usual * rng.choice([0, 0.5, 1, np.inf], shape)


def _start(kind, X, usual, rng):
    if kind == "none":
        return None
    if kind == "far":
        zeros = rng.random(X.shape) < 0.5
        return usual * np.where(zeros, 0.0, X) * 10.0 ** rng.integers(-8, 9)
    equal = np.ones(X.shape)
    any_x = rng.standard_normal(X.shape)
    return usual * {"zero": 0 * X, "saddle": equal, "near": X, "any": any_x}[kind]


# --- what a result says ---------------------------------------------------------------------------


def check(problem, result, seen, max_iter, tol=TOL):
    """Compare a result, and the states that the callback has seen, with the loop."""
    dense = problem.dense(result.x)
    assert np.all(np.isfinite(result.x))
    assert result.success == (result.status == 1)
    assert result.cost >= 0
    precision = 1e-13 * dense.squares
    assert result.cost == pytest.approx(dense.cost, rel=1e-9, abs=precision)
    rounding = 1e-12 * (dense.terms + np.max(np.abs(dense.gradient)))
    assert np.all(np.abs(result.grad.ravel() - dense.gradient) <= rounding + 1e-300)
    optimality, curvature, cone = _measured(problem, dense)
    # rounding, in units of the optimality
    root = np.sqrt(dense.diagonal())
    least = np.sqrt(np.sum((rounding / np.where(root > 0, root, np.inf)) ** 2)) / (dense.norm or 1)
    factor = 1.001 if not dense.always_added else 4  # D may belong to an x nearby
    status = int(result.status)
    if status == 1:
        assert optimality <= factor * tol + least
        # where a column of x is nearly zero, a curvature of zero is zero to within the root
        assert curvature >= -np.sqrt(max(tol, TOL))
    elif status in (0, 5):
        assert result.nit == max_iter
        if status == 5:
            _check_divergence(seen, max_iter, dense.degree > 0)
    elif status == 2:
        assert result.optimality > tol
        if problem.options["loss"] == "linear":  # others have valleys far below each other
            _check_that_nothing_is_lower(problem, dense, result.x)
    elif status == 3:  # where the best x is zero, and tol as well
        assert optimality < 1e-100
        assert tol < TOL
    else:
        assert status == 4, result.message
        assert optimality <= factor * tol + least
        # Within narrow bounds, a fit may take a corner for a saddle.
        assert curvature < 1e-9 or cone or problem.options["bounds"] is not None
    return status


def _measured(problem, dense):
    """The optimality, the least curvature, and whether variables on bounds could lower the cost."""
    bounds = problem.options["bounds"]
    if bounds is None:
        return dense.optimality(), dense.least_curvature(np.ones(dense.X.size, bool)), False
    low, high = (limit.ravel() for limit in bounds)
    x = dense.X.ravel()
    assert np.all((low <= x) & (x <= high))
    free = (low < x) & (x < high)
    idle = ~free & (np.abs(dense.gradient) <= TOL * dense.norm * np.sqrt(dense.diagonal()))
    return dense.optimality_within(low, high), dense.least_curvature(free), bool(idle.any())


def _check_divergence(seen, n, reached):
    """The growth of x, and the fall of the cost, are those of the documentation."""
    assert n >= 64
    assert [state.nit for state in seen] == list(range(n + 1))
    sizes = [np.max(np.abs(seen[i].x[reached])) for i in (n // 4, n // 2, 3 * n // 4, n)]
    costs = [seen[i].cost for i in (n // 4, n // 2, n)]
    assert sizes[1] >= 1.1 * sizes[0]
    assert sizes[3] >= 1.1 * sizes[1]
    assert np.log(sizes[3] / sizes[2]) >= 0.2499 * np.log(sizes[3] / sizes[1])
    assert 0 < costs[1] - costs[2] < costs[0] - costs[1]


def _check_that_nothing_is_lower(problem, dense, x):
    """Steps along the gradient, and Newton's if they are short, lower the cost by rounding only."""
    d = dense.diagonal()
    step = -np.divide(dense.gradient, d, out=np.zeros(d.size), where=d > 0)
    newton = -np.linalg.lstsq(dense.hessian, dense.gradient)[0]
    newton *= min(1, 1e-2 * np.max(np.abs(x)) / (np.max(np.abs(newton)) or 1))  # to no other valley
    step *= min(1, 1e-2 * np.max(np.abs(x)) / (np.max(np.abs(step)) or 1))
    for direction, t in itertools.product((step, newton), (1, 0.1, 1e-2, 1e-3)):
        there = np.ravel(x) + t * direction
        if problem.options["bounds"] is not None:
            low, high = problem.options["bounds"]
            there = np.clip(there, low.ravel(), high.ravel())
        assert problem.dense(there).cost >= dense.cost - 1e-8 * (dense.cost + dense.norm**2)


def run(problem, max_iter=200, tol=TOL):
    seen = []
    result = problem.solved(tol, max_iter=max_iter, callback=seen.append)
    return check(problem, result, seen, max_iter, tol)


@given(problems(quick=True))
def test_any_fit(problem):
    run(problem)


@pytest.mark.parametrize("seeds", [[33, 72, 80], pytest.param(range(500), marks=pytest.mark.long)])
@pytest.mark.parametrize("rank", [None, 2])
def test_starts_that_are_saddles(rank, seeds, tried):
    """Equal x are stationary if all rows of Y have one sum. The curvature alone tells the rest."""
    for seed in seeds:
        rng = np.random.default_rng(seed)
        k = int(rng.integers(2, 7))
        numbers = rng.standard_normal(k)
        i = np.arange(k)
        distance = np.abs(i[:, np.newaxis] - i)
        Y = numbers[np.minimum(distance, k - distance)]
        Y += 0.1 - min(float(np.mean(Y)), 0.0)
        x0 = np.full((k, rank or 1), np.sqrt(float(np.mean(Y)) / (rank or 1)))
        problem = Problem(
            np.ones((k, k)), Y, np.ones((k, k), bool), sparse=False, rank=rank, rows=None,
            x0=x0 if rank else x0[:, 0], bilinear=False, loss="linear", f_scale=1.0, bounds=None,
            regularization=0.0,
        )  # fmt: skip
        assert np.max(np.abs(problem.dense(x0).gradient)) < 1e-12
        run(problem)
    tried("fits", len(seeds))


@pytest.mark.long
@given(problems(quick=False))
def test_any_fit_of_any_kind(problem):
    run(problem)


@pytest.mark.long
@given(problems(quick=False), st.integers(1, 9), st.sampled_from([0.0, 1e-14, 1e-5]))
def test_few_steps_and_tolerances_that_are_too_small(problem, max_iter, tol):
    run(problem, max_iter, tol)
    run(problem, 200, tol)


@pytest.mark.long
@given(problems(quick=False))
def test_a_fit_that_starts_where_one_ended(problem):
    first = problem.solved()
    problem.x0, seen = first.x, []
    again = problem.solved(callback=seen.append)
    check(problem, again, seen, 200)
    if first.success:
        size = problem.dense(first.x).norm
        # Within bounds, a search may find a curvature that it missed before.
        assert again.success or (problem.options["bounds"] is not None and again.status == 4)
        assert again.cost <= first.cost + 1e-12 * size**2


# --- data whose least cost is known ---------------------------------------------------------------


def star(seed):
    """A, Y and x_0 x_j that the data want, beside x_0² = 0: x_0 tends to 0, and all x_j to ∞."""
    rng = np.random.default_rng(seed)
    k = int(rng.integers(2, 7))
    A = np.zeros((k, k))
    A[0] = rng.uniform(0.5, 2, k)
    wanted = rng.choice([-1, 1], k) * rng.lognormal(size=k)
    Y = A * wanted * 10.0 ** rng.choice([0, -8, 8])
    Y[0, 0] = 0
    order = rng.permutation(k)
    return A[order][:, order], Y[order][:, order]


@pytest.mark.parametrize("count", [2, pytest.param(200, marks=pytest.mark.long)])
def test_no_success_where_the_infimum_is_not_attained(count, tried):
    """But with bounds or a regularization it is attained."""
    for seed in range(count):
        A, Y = star(seed)
        size = float(np.sqrt(np.sum(Y * Y)))
        limit = 10 * np.sqrt(size)
        x0 = None
        if seed % 2:
            x0 = limit * np.random.default_rng(seed).uniform(-1, 1, len(A))
        seen = []
        result = fit(A, Y, x0, callback=seen.append)
        assert (result.success, result.status in (0, 5)) == (False, True)
        assert fit(A, Y, x0, max_iter=63).status == 0  # so few steps do not show a trend
        if result.status == 5:
            _check_divergence(seen, 200, A.any(axis=0) | A.any(axis=1))
        assert result.cost < 0.05 * size**2
        for options in ({"bounds": (-limit, limit)}, {"regularization": 1e-2 * size}):
            assert fit(A, Y, x0, max_iter=2000, **options).success
    tried("fits", 4 * count)
