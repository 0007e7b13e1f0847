"""Robust losses: the cost and its derivatives against dense formulas, and fits against SciPy."""

import pickle

import numpy as np
import pytest
import scipy.sparse
from scipy.optimize import approx_fprime, least_squares
from support import slow, slow_except

from sparsejac import LeastSquares, fit

LOSSES = ["soft_l1", "huber", "cauchy", "arctan"]
FORMS = {
    "dense": np.asarray,
    "csr": scipy.sparse.csr_array,
    "F": np.asfortranarray,
    "function": lambda M: lambda start, stop: M[start:stop],
}


def rho(loss, z):
    """The formulas that SciPy documents."""
    return {
        "soft_l1": 2 * (np.sqrt(1 + z) - 1),
        "huber": np.where(z <= 1, z, 2 * np.sqrt(z) - 1),
        "cauchy": np.log(1 + z),
        "arctan": np.arctan(z),
    }[loss]


def slope(loss, z):
    return {
        "soft_l1": 1 / np.sqrt(1 + z),
        "huber": 1 / np.sqrt(np.maximum(z, 1)),
        "cauchy": 1 / (1 + z),
        "arctan": 1 / (1 + z**2),
    }[loss]


def problem(seed=0, shape=(7, 7), *, symmetric=False):
    """A and Y with residuals of about 3."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal(shape) * (rng.random(shape) < 0.7)
    Y = 3 * rng.standard_normal(shape)
    if symmetric:
        A, Y = A + A.T, Y + Y.T
    return A, Y * (A != 0)


def factors(x, shape, rank, *, bilinear):
    Z = x.reshape(-1, rank or 1)
    return (Z[: shape[0]], Z[shape[0] :]) if bilinear else (Z, Z)


CASES = [
    *((symmetric, False) for symmetric in (False, True)),
    (False, True),
]
cases = pytest.mark.parametrize(
    ("symmetric", "bilinear"), CASES, ids=["general", "symmetric", "bilinear"]
)


@cases
@pytest.mark.parametrize(
    ("rank", "form"),
    [
        *((None, "dense"), (2, "dense"), (2, "csr")),
        *slow(
            *((None, form) for form in ("csr", "F", "function")),
            *((2, form) for form in ("F", "function")),
            *((rank, form) for rank in (1, 5, 9) for form in FORMS),
        ),
    ],
)
@pytest.mark.parametrize("loss", slow_except(["huber", "cauchy"], LOSSES))
def test_derivatives(loss, rank, form, symmetric, bilinear):
    if bilinear and form == "function":
        pytest.skip("a function gives a square A")
    A, Y = problem(shape=(7, 5) if bilinear else (7, 7), symmetric=symmetric)
    scale = 2.0 if rank is None else 0.5
    given = LeastSquares(
        *map(FORMS[form], (A, Y)), rank=rank, bilinear=bilinear, loss=loss, f_scale=scale
    )
    x = np.random.default_rng(1).standard_normal(given.shape[1])

    def cost(x):
        X, P = factors(x, A.shape, rank, bilinear=bilinear)
        return scale**2 * np.sum(rho(loss, (A * (X @ P.T) - Y) ** 2 / scale**2)) / 2

    value, gradient = given.value_and_grad(x)
    assert value == pytest.approx(cost(x))
    assert gradient == pytest.approx(approx_fprime(x, cost, 1e-7), rel=1e-4, abs=1e-4)
    H, steps = given.hess(x), 1e-6 * np.eye(x.size)
    expected = [(given.grad(x + s) - given.grad(x - s)) / 2e-6 for s in steps]
    assert H @ np.eye(x.size) == pytest.approx(np.array(expected), rel=1e-5, abs=1e-6)
    N, J, r = given.normal(x, 0.5), given.jac_csr(x), given.fun(x)
    z = (r / scale) ** 2
    expected = J.T @ (slope(loss, z)[:, np.newaxis] * J.toarray()) + 0.5 * np.eye(x.size)
    assert N @ np.eye(x.size) == pytest.approx(expected)
    if form != "function":
        for operator in (H, N):
            assert operator.toarray() == pytest.approx(operator @ np.eye(x.size))
    for operator in (H, N):
        assert operator.diagonal() == pytest.approx(np.diag(operator @ np.eye(x.size)))
    if rank is not None:
        count = x.size // rank
        blocks = np.einsum("iaib->iab", (N @ np.eye(x.size)).reshape(2 * (count, rank)))
        assert N.block_diagonal() == pytest.approx(blocks)


@pytest.mark.parametrize("rows", ["all", "upper"])
def test_rows(rows):
    A, Y = problem(symmetric=True)
    x, loss = np.arange(1.0, 8.0), {"loss": "cauchy", "f_scale": 0.1}
    given = LeastSquares(A, Y, rows=rows, **loss)
    r = (A * np.outer(x, x) - Y)[np.triu_indices(7) if rows == "upper" else ...].ravel()
    assert given.cost(x) == pytest.approx(0.005 * np.sum(np.log1p(100 * r**2)))
    assert given.hess(x).toarray() == pytest.approx(given.hess(x) @ np.eye(7))
    assert pickle.loads(pickle.dumps(given)).cost(x) == given.cost(x)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", [0.0, 1e-200, 1e-8, 1e8, 1e130])
def test_residuals_of_any_size(loss, size):
    """No overflow makes a number of a finite one."""
    given = LeastSquares(np.ones((1, 1)), np.zeros((1, 1)), loss=loss)
    x = np.array([np.sqrt(size)])
    z = min(size**2, 1e300)
    expected = z if size < 1e-5 else rho(loss, z)
    assert given.cost(x) == pytest.approx(expected / 2, rel=1e-12)
    assert np.isfinite(given.grad(x)).all()
    assert np.isfinite(given.hessp(x, x)).all()


def outliers(seed=0):
    """A matrix of rank 2, of which some entries are known, and of these a few are wrong."""
    rng = np.random.default_rng(seed)
    M = rng.standard_normal((60, 2)) @ rng.standard_normal((2, 40))
    known = rng.random(M.shape) < 0.6
    Y = np.where(known, M, 0.0)
    Y[known & (rng.random(M.shape) < 0.03)] += 4
    return known, Y, M


@pytest.mark.parametrize("loss", LOSSES)
def test_outliers(loss):
    known, Y, M = outliers()
    options = {"rank": 2, "bilinear": True, "regularization": 1e-3}
    plain = fit(known, Y, **options).x
    result = fit(known, Y, loss=loss, f_scale=0.2, **options)
    assert result.success, result.message
    found, wrong = (np.abs(Z[:60] @ Z[60:].T - M).max() for Z in (result.x, plain))
    assert found < wrong / 5
    again = fit(known, Y, result.x, loss=loss, f_scale=0.2, **options)
    assert again.cost == pytest.approx(result.cost)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("form", ["dense", *slow("csr")])
def test_a_fit_is_that_of_scipy(loss, form):
    rng = np.random.default_rng(0)
    u = 0.5 + rng.random(12)
    Y = np.outer(u, u) + 0.01 * rng.standard_normal((12, 12))
    Y[3, 4], Y[8, 2] = 7, -4
    A = np.ones((12, 12))
    result = fit(FORMS[form](A), FORMS[form](Y), loss=loss, f_scale=0.1)
    assert result.success, result.message
    of_scipy = least_squares(
        lambda x: (np.outer(x, x) - Y).ravel(),
        1.01 * result.x,
        loss=loss,
        f_scale=0.1,
        xtol=1e-12,
        ftol=1e-14,
    )
    assert result.cost == pytest.approx(of_scipy.cost, rel=1e-8)
    assert result.x == pytest.approx(of_scipy.x, abs=1e-4)


def test_negative_curvature_is_left():
    """At x = 0 the gradient vanishes."""
    A, Y = np.ones((6, 6)), np.full((6, 6), 2.0)
    problem = LeastSquares(A, Y, loss="huber", f_scale=0.5)
    result = fit(A, Y, np.zeros(6), loss="huber", f_scale=0.5)
    assert result.success
    assert result.cost == pytest.approx(0, abs=1e-12)
    assert problem.cost(result.x) == pytest.approx(result.cost)


@pytest.mark.parametrize("scale", [1e-20, 1.0])
def test_data_that_are_zero(scale):
    """The best x is zero, on whatever scale A is."""
    A = scale * np.diag([1.0, 1.0, 0.0])
    for loss in ("huber", "arctan"):
        result = fit(A, np.zeros((3, 3)), np.ones(3), loss=loss)
        assert (result.success, result.cost, result.x.tolist()) == (True, 0, [0, 0, 1])


def test_workers_make_no_difference():
    A, Y = problem(shape=(900, 900), symmetric=True)
    bits = {
        LeastSquares(A, Y, loss="huber", workers=workers).grad(np.ones(900)).tobytes()
        for workers in (1, 2)
    }
    assert len(bits) == 1


def test_the_linear_loss_changes_nothing():
    A, Y = problem(symmetric=True)
    plain, same = fit(A, Y), fit(A, Y, loss="linear", f_scale=1e-3)
    assert plain.x.tobytes() == same.x.tobytes()
    assert plain.n_products == same.n_products


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"loss": "l1"},
            "loss must be one of 'linear', 'soft_l1', 'huber', 'cauchy', 'arctan', got 'l1'",
        ),
        ({"loss": None}, "loss must be one of 'linear'.*, got None"),
        ({"f_scale": 0}, "f_scale must be between 1e-150 and 1e150, got 0: give the size of"),
        ({"f_scale": 1e155}, "f_scale must be between 1e-150 and 1e150, got 1e[+]155"),
        ({"f_scale": -1.0}, "f_scale must be at least 0 and finite, got -1.0"),
        ({"f_scale": np.nan}, "f_scale must be at least 0 and finite, got nan"),
    ],
)
@pytest.mark.parametrize("function", [fit, LeastSquares])
def test_messages(function, options, message):
    with pytest.raises(ValueError, match=message):
        function(np.eye(2), np.eye(2), **options)


def test_a_scale_that_is_no_number():
    with pytest.raises(TypeError, match="f_scale must be a real number, got '1'"):
        fit(np.eye(2), np.eye(2), loss="huber", f_scale="1")
