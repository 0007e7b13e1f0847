"""`fit` where squares leave the range of float64: a success is one in exact arithmetic, and nothing
raises.
"""

import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse
from support import slow_except

from sparsejac import fit

OUT_OF_RANGE = (
    "leave the range of float64, so cost and gradient are not reliable: multiply A by p and Y by q"
)


def square_root(number):
    """To 60 digits."""
    scale = 10**60
    shift = max(0, (number.denominator.bit_length() - number.numerator.bit_length()) // 2 + 2)
    return Fraction(math.isqrt(int(number * 4**shift * scale * scale)), scale * 2**shift)


def exact(B):
    return [[Fraction(float(b)) for b in row] for row in np.atleast_2d(B)]


def exact_cost_and_optimality(A, Y, x):
    """``cost / ‖Y‖²`` and the square of the optimality, of these very numbers."""
    k = len(x)
    a, y, x = exact(A), exact(Y), exact(x)[0]
    cost, norm, total = Fraction(0), Fraction(0), Fraction(0)
    g, d, degree = [Fraction(0)] * k, [Fraction(0)] * k, [Fraction(0)] * k
    for i in range(k):
        for j in range(k):
            r = a[i][j] * x[i] * x[j] - y[i][j]
            cost, norm, total = cost + r * r / 2, norm + y[i][j] ** 2, total + 2 * a[i][j] ** 2
            row = [(i, x[j]), (j, x[i])] if i != j else [(i, 2 * x[i])]
            for q, derivative in row:
                g[q] += a[i][j] * derivative * r
                d[q] += (a[i][j] * derivative) ** 2
            degree[i] += a[i][j] ** 2
            degree[j] += a[i][j] ** 2
    if not norm:
        return (0.0, 0.0) if not cost else (np.inf, np.inf)
    if not total:
        return 0.5, 0.0
    floor = square_root(norm * 2 / total) / 10000
    squares = [max(d[i], floor * degree[i]) for i in range(k)]
    return float(cost / norm), float(
        sum(g[i] ** 2 / squares[i] for i in range(k) if squares[i]) / norm
    )


def powers(rng, low, high, shape):
    return 10.0 ** rng.uniform(low, high, shape)


def problem(seed):
    """A, Y and x0 of sizes that few would call reasonable."""
    rng = np.random.default_rng(seed)
    k, kind = int(rng.integers(1, 5)), seed % 12
    x0, signs = rng.choice([-1, 1], k) * powers(rng, -150, 150, k), rng.choice([-1, 1], (k, k))
    A, Y = rng.random((k, k)), signs * rng.random((k, k))
    if kind == 0:
        A, Y = powers(rng, 80, 160, (k, k)), powers(rng, -160, 160, (k, k))
    elif kind == 1:
        Y, x0 = Y * powers(rng, -200, 200, 1), rng.random(k)
    elif kind == 2:
        A, Y = signs * powers(rng, -160, 160, (k, k)), signs * powers(rng, -160, 160, (k, k))
    elif kind == 3:
        A, x0 = A * powers(rng, -320, -150, 1), None
    elif kind == 4:
        x0 = rng.choice([-1, 1], k) * powers(rng, -320, 300, k)
    elif kind == 5:
        A, Y, x0 = powers(rng, -320, 300, (k, k)) * (A < 0.5), powers(rng, -320, 300, (k, k)), None
    elif kind == 6:
        A, Y = powers(rng, -323, -300, (k, k)), 0 * A
    elif kind == 7:
        A, x0 = A * powers(rng, -160, 150, 1), None if seed % 24 < 12 else np.ones(k)
        x = powers(rng, -2, 2, k) * powers(rng, -70, 70, 1)
        Y = A * np.outer(x, x)
    elif kind == 8:
        A[:, 0] *= powers(rng, -320, -100, 1)
        A[0] *= 1 if rng.random() < 0.3 else powers(rng, -320, -100, 1)
        x0 = None if seed % 24 < 12 else np.zeros(k)
    elif kind == 9:
        A = np.where(A < 0.5, 1, powers(rng, -320, 150, (k, k)))
        Y = signs * np.where(rng.random((k, k)) < 0.5, 1, powers(rng, -320, 150, (k, k)))
        x0 = None if seed % 24 < 12 else np.zeros(k)
    elif kind == 10:
        A, Y = A + A.T, (Y + Y.T) * powers(rng, -330, -130, 1)
        x0 = None if seed % 24 < 12 else np.zeros(k)
    else:
        A, Y = powers(rng, -80, 80, (k, k)), signs * powers(rng, -80, 80, (k, k))
        x0 = (None, np.zeros(k), x0)[seed // 12 % 3]
    return A, Y, x0


@pytest.mark.parametrize("form", ["C", "csr"])
@pytest.mark.parametrize("kind", slow_except([0, 2, 3, 5, 6, 7, 10, 11], range(12)))
def test_a_success_is_one_in_exact_arithmetic(kind, form):
    for seed in range(kind, 360, 12):
        A, Y, x0 = problem(seed)
        if form == "csr":
            Y = np.where(A != 0, Y, 0)
        pair = (A, Y) if form == "C" else (scipy.sparse.csr_array(A), scipy.sparse.csr_array(Y))
        result = fit(*pair, x0, max_iter=50)
        assert result.success == (result.status == 1)
        if result.success:
            assert np.isfinite(result.x).all()
            cost, square = exact_cost_and_optimality(A, Y, result.x)
            assert square <= 1.1e-18, seed
            norm = float(np.sqrt(np.sum(Y**2)))
            assert result.cost == pytest.approx(cost * norm**2, rel=1e-9, abs=1e-12 * norm**2)


@pytest.mark.parametrize(
    ("A", "Y", "x0"),
    [
        ([[1e-170]], [[1e-100]], None),
        ([[1e-200]], [[1.0]], None),
        ([[1e170]], [[1.0]], None),
        ([[1.0]], [[1e-170]], None),
        ([[1.0]], [[1e-170]], [1.0]),
        ([[1.0]], [[1e170]], None),
        ([[1.0]], [[5e-324]], None),
        ([[1e-310]], [[1.0]], None),
        ([[1e-170]], [[0.0]], [1.0]),
        (
            [[0.0, 2e182], [-5e94, -2.7e174]],
            [[0.0, -1.5e109], [3.6e21, -4e-73]],
            [-8e-21, 2.6e-207],
        ),
        ([[1.0, 0], [1e-170, 0]], [[1.0, 0], [1e-170, 0]], None),
        ([[1.0, 0], [0, 1e170]], [[1.0, 0], [0, 1.0]], [1.0, 1.0]),
    ],
)
def test_out_of_range(A, Y, x0):
    for B, C in (
        (np.array(A), np.array(Y)),
        (scipy.sparse.csr_array(A), scipy.sparse.csr_array(Y)),
    ):
        result = fit(B, C, x0)
        assert (result.status, result.success) == (3, False)
        assert OUT_OF_RANGE in result.message or "is not a finite number" in result.message
        np.testing.assert_array_equal(result.x, np.zeros(len(A)) if x0 is None else x0)


def test_the_way_out_that_the_message_names():
    A, x = np.array([[0.0, 2], [1, 3]]), np.array([2.0, 5])
    Y = A * np.outer(x, x)
    small, large = 2.0**-600, 2.0**400
    result = fit(A * small, Y * large)
    assert OUT_OF_RANGE in result.message
    p, q = 1 / small, 1 / large
    scaled = fit(A * small * p, Y * large * q)
    np.testing.assert_allclose(scaled.x, x, rtol=1e-6)
    there = scaled.x * np.sqrt(p / q)
    np.testing.assert_allclose(A * small * there[:, np.newaxis] * there, Y * large, rtol=1e-6)


@pytest.mark.parametrize("size", [1e-320, 1e-200, 1e-90, 1e90, 1e200, 1e300])
def test_a_start_of_any_size(size):
    result = fit(np.ones((5, 5)), np.ones((5, 5)), size * np.arange(1, 6))
    assert result.success
    np.testing.assert_allclose(result.x, 1)


def test_what_is_zero_is_not_out_of_range():
    A = np.array([[1.0, 2, 0], [2, 1, 0], [0, 0, 0]])
    for B, Y in ((A, A), (A, 0 * A), (0 * A, A), (0 * A, 0 * A), (np.tril(A), np.tril(A))):
        assert fit(B, Y).success
        assert fit(B, Y, [1.0, 1, 5]).x[2] == 5


def test_a_streamed_target_that_is_too_small_to_be_squared(tmp_path):
    """Nothing but the numbers themselves tells it from zero."""
    A = np.lib.format.open_memmap(tmp_path / "A.npy", "w+", np.float64, (40, 40))
    Y = np.lib.format.open_memmap(tmp_path / "Y.npy", "w+", np.float64, (40, 40))
    A[:] = 1
    assert fit(A, Y, np.ones(40)).success
    Y[3, 5] = 1e-200
    assert fit(A, Y, np.ones(40)).status == 3
    Y[:] = 1
    assert fit(A, Y, np.ones(40)).success
    A[:, 7] = A[7] = 1e-200
    assert fit(A, Y, np.ones(40)).status == 3
