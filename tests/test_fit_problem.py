"""`fit` of a `LeastSquares`, and data whose least cost lies at infinity."""

import numpy as np
import pytest
import scipy.sparse
from support import random_csr

from sparsejac import LeastSquares, fit, least_squares
from sparsejac._matrix.memory import MemorySource
from sparsejac._solvers.divergence import Divergence

CORNER = np.array([[0.0, 1], [1, 1]])  # x_0 x_1 = 1 is wanted, and x_1² = 0
WANTED = np.array([[0.0, 1], [1, 0]])


def data(form):
    rng = np.random.default_rng(0)
    A = random_csr(50, 6) if form == "csr" else rng.random((50, 50))
    if form != "csr":
        return A, A * rng.random((50, 50))
    Y = A.copy()
    Y.data = A.data * rng.random(A.nnz)
    return A, Y


# --- a problem that exists already ----------------------------------------------------------------


@pytest.mark.parametrize("form", ["C", "csr"])
@pytest.mark.parametrize("options", [{}, {"rank": 2}, {"regularization": 0.1}])
def test_the_same_bits_as_from_a_and_y(form, options):
    A, Y = data(form)
    rank = options.get("rank")
    problem = LeastSquares(A, Y, rank=rank)
    more = {name: option for name, option in options.items() if name != "rank"}
    for x0 in (None, np.ones(50 * (rank or 1))):
        ours, theirs = fit(problem, x0=x0, **more), fit(A, Y, x0, **options)
        assert ours.success
        np.testing.assert_array_equal(ours.x, theirs.x)
        assert (ours.nit, ours.nfev, ours.n_products) == (
            theirs.nit,
            theirs.nfev,
            theirs.n_products,
        )


def test_a_bilinear_problem():
    A = np.random.default_rng(0).random((7, 5))
    problem = LeastSquares(A, A * 2, bilinear=True)
    assert fit(problem).x.shape == (12,)
    assert fit(problem, bounds=(0, 10)).active_mask.shape == (12,)


@pytest.mark.parametrize("rank", [None, 2])
def test_the_cost_is_never_negative(rank):
    """Half of a symmetric matrix is read. What its diagonal counts too often is subtracted."""
    shape = (1,) if rank is None else (1, rank)
    for a in np.random.default_rng(0).random(40):
        A = np.array([[a]])
        result = fit(A, 1e20 * A, np.ones(shape), rank=rank)
        assert result.success
        assert 0 <= result.cost <= 1e-31 * 1e40
        assert LeastSquares(A, 1e20 * A, rank=rank).cost(result.x) >= 0


def test_no_work_is_done_twice(monkeypatch):
    """Neither A nor Y is checked, aligned, or tested for symmetry again."""
    A, Y = data("csr")
    A, Y = (A + A.T).tocsr(), (Y + Y.T).tocsr()
    problem = LeastSquares(A, Y)
    fit(problem, regularization=0.1)

    def again(*_, **__):
        raise AssertionError("done twice")

    for name in ("align_target", "source_of_rows", "least_squares_of", "rank_sums_of"):
        monkeypatch.setattr(least_squares, name, again)
    monkeypatch.setattr(MemorySource, "asymmetry", again)
    for more in ({}, {"regularization": 0.1}, {"bounds": (0, 1)}):
        assert fit(problem, **more).success


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"Y": np.eye(3)}, "Y must be left out if the first argument is a LeastSquares, which has"),
        ({"rank": 2}, "rank must be left out if the first argument is a LeastSquares"),
        (
            {"rows": "all", "order": "F", "uplo": "U", "check_finite": False},
            "rows, order, uplo, check_finite must be left out .* pass them to LeastSquares",
        ),
        (
            {"workers": 1, "memory": 2**20, "bilinear": True, "loss": "huber", "f_scale": 2.0},
            "workers, memory, bilinear, loss, f_scale must be left out",
        ),
    ],
)
def test_what_belongs_to_the_problem_is_refused(options, message):
    problem = LeastSquares(np.eye(3), np.eye(3))
    with pytest.raises(TypeError, match=message):
        fit(problem, **options)


def test_y_is_needed():
    with pytest.raises(TypeError, match="Y must be given, unless A is a LeastSquares"):
        fit(np.eye(3))


# --- a minimum at infinity ------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"x0": [1.0, 2.0]}, {"rank": 1}, {"bounds": (0, np.inf)}])
def test_growth_without_bound(options):
    result = fit(CORNER, WANTED, **options)
    assert (result.status, result.success, result.nit) == (5, False, 200)
    assert result.message.startswith(
        "some x seem to grow without bound while the cost falls ever more slowly, so these data "
        "have no best x: after 200 iterations"
    )
    assert "add regularization, or bounds" in result.message
    x = result.x.ravel() * 10 * np.array([1, 0.01])  # on the way to infinity the cost still falls
    x[1] = 1 / x[0]
    assert LeastSquares(CORNER, WANTED).cost(x) < result.cost
    assert fit(CORNER, WANTED, **options, regularization=0.01).success
    low = options.get("bounds", (-9, 9))[0]
    limited = fit(CORNER, WANTED, **(options | {"bounds": (low, 9)}))
    assert limited.success
    assert limited.x.max() == 9


def test_growth_with_a_cost_that_stays():
    """A hub wants x_0² = -1, and its leaves want products with it."""
    rng = np.random.default_rng(0)
    A = np.zeros((8, 8))
    A[0] = A[:, 0] = 1
    Y = A * rng.random((8, 8))
    Y = Y + Y.T
    Y[0, 0] = -1
    A, Y = scipy.sparse.csr_array(A), scipy.sparse.csr_array(Y)
    result = fit(A, Y, max_iter=100)
    assert result.status == 5
    assert 0.5 < result.cost < 0.51


def test_a_limit_of_steps_alone_is_no_divergence():
    """Few steps show no trend, and x need not grow where a fit is slow."""
    assert fit(CORNER, WANTED, max_iter=20).status == 0
    rng = np.random.default_rng(1)
    for size in (1.0, 1e-4):
        A, Y = rng.random((30, 30)), rng.standard_normal((30, 30))
        for limit in (40, 64, 75, 90):
            slow = fit(A, Y, rank=4, max_iter=limit, tol=0, x0=size * rng.random((30, 4)))
            assert slow.status in (0, 2)


@pytest.mark.parametrize(
    ("size", "cost", "expected"),
    [
        (lambda n: n**0.5, lambda n: n**-2.0, True),
        (lambda n: n**0.2, lambda n: 1 + n**-0.5, True),
        (lambda n: 3.0, lambda n: n**-2.0, False),
        (lambda n: n**0.05, lambda n: n**-2.0, False),
        (lambda n: n**0.5, lambda n: 0.5, False),
        (lambda n: n**0.5, lambda n: -float(n), False),
        (lambda n: float(min(n, 40)), lambda n: n**-2.0, False),
        (lambda n: 0.0, lambda n: 1.0, False),
    ],
    ids=["half a power", "a fifth", "x stays", "x grows little", "cost stays", "cost falls",
         "x stops", "zeros"],
)  # fmt: skip
def test_sequences(size, cost, expected):
    for last in (64, 100, 1000):
        divergence = Divergence()
        for n in range(last + 1):
            divergence.add(n, cost(max(n, 1)), size(max(n, 1)))
            divergence.add(n, np.nan, np.nan)  # known already
        assert divergence.seems() is expected
    few = Divergence()
    for n in range(64):
        few.add(n, n**-2.0 if n else 2.0, n**0.5)
    assert not few.seems()
