"""The edge functions of maps and reductions, as functions of Python: exact numbers at one entry.

Numbers of several signs and sizes tell a product from a quotient, and |a| from a.
"""

import numpy as np
import pytest
from scipy.optimize._lsq.least_squares import IMPLEMENTED_LOSSES

from sparsejac import _kernels
from sparsejac._kernels import maps, rank, reductions, residuals, robust

a, y, w, xi, xj, vi, vj = -3.0, 4.0, 2.5, 5.0, -7.0, 11.0, 0.5
c = 2 - 3j


def plain(function):
    """A function of Python, also where it has been compiled."""
    return getattr(function, "py_func", function)


@pytest.fixture
def losses(monkeypatch):
    """Let functions of Python call those of Python: compiled ones have no way in from there."""
    for name in ("_rho", "_slope", "_bend"):
        monkeypatch.setattr(robust, name, plain(getattr(robust, name)))


def test_maps():
    assert maps._value(a, None, xi, xj) == 105
    assert maps._value(a, y, xi, xj) == 101
    assert maps._matvec(a, xi, xj, vi, vj) == -3 * (-77 + 2.5)


def test_products():
    for weighted, unpacked in ((reductions._weighted, False), (rank._weighted, True)):
        for conjugate, expected in ((False, 5 - 7.5j), (True, 5 + 7.5j)):
            found = weighted(c, w, conjugate)
            assert found == ((expected, 0, 0) if unpacked else expected)
    assert reductions._squares(c) == 13
    assert rank._squares(c) == (13, 0, 0)
    assert rank._normal(c, w) == (32.5, 0, 0)
    assert reductions._symmetric(c) == 2
    assert [reductions._nonzeros(number) for number in (0.0, -0.0, a, 1e-300)] == [0, 0, 1, 1]


def test_what_is_not_symmetric():
    assert reductions._both_products(a, xi, xj) == ((21, 21, 3), (-15,), ())
    assert reductions._both_products(-a, xi, xj) == ((-21, 21, 3), (15,), ())
    assert reductions._max_abs(a, xi, -xj) == ((105,), (105,), ())


def test_the_larger_of_two_numbers_or_nan():
    larger = plain(reductions._larger)
    assert [larger(1.0, 2.0), larger(2.0, 1.0), larger(-1 + 9j, -2.0)] == [2, 2, -1]
    assert np.isnan([larger(1.0, np.nan), larger(np.nan, 1.0), larger(np.nan, np.nan)]).all()


def test_residuals():
    r = 105 - 4  # a xi xj - y
    assert residuals._beginning(a, y, xi, xj) == ((9 * -7,), (9 * 5,), (16, -12, 12))
    assert residuals._gradient(a, y, xi, xj) == (
        (-3 * r * -7, 9 * 49),
        (-3 * r * 5, 9 * 25),
        (r * r,),
    )
    t = -3 * (2 * 105 - 4)
    assert residuals._curvature(a, y, xi, xj, vi, vj) == ((t * 0.5,), (t * 11,), ())
    xx, xv = 6.0, -2.5
    r = -18 - 4
    assert rank._gradient(a, y, xx) == (-3 * r, 0, r * r)
    assert rank._curvature(a, y, xx, xv) == (9 * xv, -3 * r, 0)


LOSSES = {"soft_l1": robust.SOFT_L1, "huber": robust.HUBER, "cauchy": robust.CAUCHY}
LOSSES["arctan"] = robust.ARCTAN


@pytest.mark.usefixtures("losses")
@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_those_of_scipy(name):
    """ρ, ρ' and ρ' + 2 z ρ'' of SciPy, at either side of each border."""
    z = np.array([1e-3, 0.5, 1.0, 1.0000001, 2.0, 50.0])
    expected = np.empty((3, z.size))
    IMPLEMENTED_LOSSES[name](z, expected, cost_only=False)
    rho, slope, second = expected
    bend = slope + 2 * z * second
    loss = LOSSES[name]
    for function, numbers in ((robust._rho, rho), (robust._slope, slope), (robust._bend, bend)):
        found = [function(loss, number) for number in z]
        np.testing.assert_allclose(found, numbers, rtol=1e-13, atol=1e-15)
    assert robust._rho(loss, 0.0) == 0
    assert robust._slope(loss, 0.0) == robust._bend(loss, 0.0) == 1
    large = robust._rho(loss, 1e200)
    limits = {"soft_l1": 2e100, "huber": 2e100, "cauchy": 200 * np.log(10), "arctan": np.pi / 2}
    assert large == pytest.approx(limits[name], rel=1e-14)
    assert robust._rho(loss, np.inf) == (np.pi / 2 if name == "arctan" else np.inf)


@pytest.mark.usefixtures("losses")
def test_robust_reductions():
    """With Huber's loss and C = 2 at both sides of its border, |r| = 2."""
    huber, xv = robust.HUBER, -2.5
    for xx, slope, bend, rho in ((-1.5, 1.0, 1.0, 0.0625), (6.0, 2 / 22, 0.0, 2 * 11 - 1.0)):
        r = a * xx - y
        assert robust._gradient(a, y, xx, huber, 0.5) == pytest.approx((a * slope * r, 0, rho))
        assert robust._normal(a, y, xx, xv, huber, 0.5) == pytest.approx((9 * slope * xv, 0, 0))
        found = robust._curvature(a, y, xx, xv, huber, 0.5)
        assert found == pytest.approx((9 * bend * xv, a * slope * r, 0))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of kernels in Python
def test_numbers_that_are_not_finite_are_counted():
    numbers = np.array([0.0, np.nan, 1.0, np.inf, -np.inf, -2.0, 1e308])
    numbers.flags.writeable = False
    assert _kernels.not_finite(numbers) == 3
    assert _kernels.not_finite(numbers[:1]) == 0
    assert _kernels.not_finite(numbers[:0]) == 0
    assert _kernels.not_finite(numbers[-2:]) == 0
