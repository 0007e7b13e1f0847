"""Steihaug's conjugate gradients alone: the step, its length, and the decrease that it predicts."""

import numpy as np
import pytest

from sparsejac._solvers.steihaug import steihaug

rng = np.random.default_rng(0)
Q = rng.standard_normal((8, 8))
CONVEX, INDEFINITE = Q @ Q.T + np.eye(8), Q + Q.T
g = rng.standard_normal(8)
inverse = rng.uniform(0.5, 2, 8)


def step_of(
    H, *, g=g, radius=np.inf, limit=100, unit=1.0, max_square=0.0, enough=1e-24, count=None
):
    def product(d):
        if count is not None:
            count.append(1)
        Hd = H @ d
        return Hd, float(d @ Hd)

    return steihaug(
        product, g, inverse, enough=enough, radius=radius, limit=limit, unit=unit,
        max_square=max_square,
    )  # fmt: skip


def assert_consistent(step, H, unit=1.0):
    """What the step says of itself is so."""
    fall = -(g @ step.s + step.s @ H @ step.s / 2)
    assert step.predicted == pytest.approx(fall, rel=1e-9)
    assert step.predicted > 0
    assert step.length == pytest.approx(np.sqrt(np.sum(step.s**2 / inverse) / unit), rel=1e-9)


@pytest.mark.parametrize("unit", [1.0, 4.0])
def test_newton_step(unit):
    step = step_of(CONVEX, unit=unit)
    np.testing.assert_allclose(step.s, np.linalg.solve(CONVEX, -g), rtol=1e-8)
    assert (step.solved, step.negative) == (True, None)
    assert_consistent(step, CONVEX, unit)


@pytest.mark.parametrize("unit", [1.0, 4.0])
@pytest.mark.parametrize("factor", [0.01, 0.5, 0.99])
def test_boundary(factor, unit):
    """The step ends at the boundary, and a smaller radius never gains more."""
    whole = step_of(CONVEX, unit=unit)
    step = step_of(CONVEX, unit=unit, radius=factor * whole.length)
    assert step.length == pytest.approx(factor * whole.length, rel=1e-12)
    assert (step.solved, step.negative) == (False, None)
    assert_consistent(step, CONVEX, unit)
    assert step.predicted < whole.predicted


def test_the_limit_of_steps():
    step = step_of(CONVEX, limit=3)
    assert not step.solved
    assert_consistent(step, CONVEX)
    assert step.length < step_of(CONVEX).length


@pytest.mark.parametrize("enough", [0.3, 1e-3, 1e-6])
def test_it_ends_when_the_residual_is_small_enough(enough):
    """`enough` is relative: it is the same for a gradient of any size."""
    for size in (1e-3, 1.0, 1e3):
        step = step_of(CONVEX, g=size * g, enough=enough, count=(count := []))
        assert step.solved
        before = step_of(CONVEX, g=size * g, enough=enough, limit=len(count) - 1)
        assert not before.solved
        for each, small in ((step, True), (before, False)):
            r = size * g + CONVEX @ each.s
            assert (r @ (inverse * r) <= enough * size**2 * (g @ (inverse * g))) == small


@pytest.mark.parametrize("size", [0.0, 1e-170])  # the square of the other one underflows
@pytest.mark.parametrize("radius", [1.0, np.inf])
@pytest.mark.parametrize("limit", [0, 100])
@pytest.mark.parametrize("H", [CONVEX, INDEFINITE, -CONVEX, np.zeros((8, 8))])
def test_without_a_gradient_there_is_no_step(H, limit, radius, size):
    step = step_of(H, g=size * g, radius=radius, limit=limit, max_square=9.0)
    np.testing.assert_array_equal(step.s, 0)
    assert (step.predicted, step.length) == (0, 0)
    assert (step.solved, step.negative) == (True, None)


@pytest.mark.parametrize("H", [-CONVEX, np.zeros((8, 8))])
def test_a_direction_without_a_length(H):
    """A large unit makes its length underflow, and no multiple of it reaches the boundary."""
    step = step_of(H, g=1e-150 * g, radius=1.0, unit=1e200)
    np.testing.assert_array_equal(step.s, 0)
    assert (step.predicted, step.length, step.solved) == (0, 0, False)


def test_negative_curvature_goes_to_the_boundary():
    step = step_of(INDEFINITE, radius=1.5)
    assert step.length == pytest.approx(1.5, rel=1e-12)
    assert_consistent(step, INDEFINITE)
    far = step_of(INDEFINITE, max_square=9.0)  # without a radius it is as long as x
    assert far.negative @ INDEFINITE @ far.negative < 0
    assert far.length >= 3 - 1e-12
    assert_consistent(far, INDEFINITE)
    late = np.diag([1.0, 2, 3, 4, 5, 6, 7, -0.01])
    weak = step_of(late, g=1e-3 * g, max_square=0.0, count=(count := []))
    assert -1 < weak.negative @ late @ weak.negative < 0
    before = step_of(late, g=1e-3 * g, limit=len(count) - 1)
    assert weak.length == pytest.approx(2 * before.length)  # or twice as long as the step so far
    assert len(count) > 1


def test_no_curvature_is_no_negative_curvature():
    step = step_of(np.zeros((8, 8)), radius=2.0)
    assert (step.solved, step.negative) == (False, None)
    np.testing.assert_allclose(step.s, -inverse * g * (2 / np.sqrt(g @ (inverse * g))))
    assert_consistent(step, np.zeros((8, 8)))
