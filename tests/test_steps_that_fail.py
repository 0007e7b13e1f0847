"""What fits do where a step does not lower the cost, as it happens near the limits of rounding.

A method of the solver is replaced, so that it is the step that a test needs.
"""

import numpy as np
import pytest

from sparsejac import fit
from sparsejac._solvers import float_range
from sparsejac._solvers.block_preconditioner import BlockPreconditioner
from sparsejac._solvers.cone import Cone
from sparsejac._solvers.descent import Descent
from sparsejac._solvers.fit import Newton
from sparsejac._solvers.fit_bounds import BoundedNewton
from sparsejac._solvers.fit_rank import BlockNewton
from sparsejac._solvers.fit_robust import RobustNewton
from sparsejac._solvers.rank_start import RankStart
from sparsejac._solvers.status import FitStatus
from sparsejac._solvers.steihaug import Step

ONES = np.ones((2, 2))
# At (1, 0) the gradient is exactly zero, and the curvature along (0, 1) is negative.
SADDLE, AT_SADDLE = np.diag([1.0, 2.0]), np.array([1.0, 0.0])
KINDS = {
    "one column": {},
    "rank 2": {"rank": 2},
    "robust": {"loss": "soft_l1"},
    "bounds": {"bounds": (-5.0, 5.0)},
}
SOLVERS = {
    "one column": Newton,
    "rank 2": BlockNewton,
    "robust": RobustNewton,
    "bounds": BoundedNewton,
}


def start(x, kind):
    return np.stack([x, np.zeros(x.size)], axis=1) if kind == "rank 2" else x


@pytest.fixture(params=["one column", "rank 2"])
def kind(request):
    return request.param


@pytest.fixture
def solver(monkeypatch):
    """A function that returns the solver of a fit, before its first step."""

    def made(kind, A, Y, x0, **options):
        found = []
        with monkeypatch.context() as patch:
            patch.setattr(Descent, "run", lambda self, max_iter: found.append(self) or 1 / 0)
            with pytest.raises(ZeroDivisionError):
                fit(A, Y, start(x0, kind), **KINDS[kind], **options)
        return found[0]

    return made


def always(monkeypatch, kind, **methods):
    for name, result in methods.items():
        monkeypatch.setattr(SOLVERS[kind], name, lambda *_, result=result, **__: result)


# --- saddles --------------------------------------------------------------------------------------


def test_no_step_is_left_at_a_saddle(solver, kind):
    """It could be left, but that would be a step."""
    result = solver(kind, ONES, SADDLE, AT_SADDLE).run(0)
    assert (result.status, result.nit) == (FitStatus.MAX_ITER, 0)
    assert result.cost < 2


def test_no_step_is_left_at_a_saddle_that_cannot_be_left(solver, kind, monkeypatch):
    always(monkeypatch, kind, _lower_along=None)
    result = solver(kind, ONES, SADDLE, AT_SADDLE).run(0)
    assert (result.status, result.nit, result.cost) == (FitStatus.SADDLE, 0, 2)


def test_a_gradient_of_zero_shows_no_way(kind, monkeypatch):
    always(monkeypatch, kind, _lower_along=None)
    result = fit(ONES, SADDLE, start(AT_SADDLE, kind), **KINDS[kind])
    assert (result.status, result.nit, result.cost) == (FitStatus.SADDLE, 1, 2)


@pytest.mark.parametrize("length", [0.0, 1.0])
def test_negative_curvature_of_the_last_step_is_tried(solver, kind, length):
    """Also where its direction has vanished."""
    at = solver(kind, ONES, SADDLE, AT_SADDLE)
    at._history = []
    at._last_negative = length * start(np.array([0.0, 1.0]), kind)
    assert at._leave() is True
    assert at._at.cost < 2


def test_curvature_that_is_not_negative_leads_nowhere(solver):
    for kind in ("one column", "robust"):
        at = solver(kind, ONES, SADDLE, AT_SADDLE)
        v = at.x.copy()
        assert at._lower_along(at._at, v, 0.0) is None
        assert at._lower_along(at._at, 0 * v, -1.0) is None


def test_a_line_along_which_a_robust_cost_does_not_fall(solver):
    at = solver("robust", ONES, np.outer([1.0, 2.0], [1.0, 2.0]), np.array([1.0, 2.0]))
    assert at._lower_along(at._at, np.array([[1.0], [0.0]]), -1.0) is None


def test_lines_within_bounds(solver):
    at = solver("bounds", ONES, SADDLE, AT_SADDLE)
    v = np.array([[0.0], [1.0]])
    assert at._lower_within(v, -1.0).cost < 2
    assert at._lower_within(v, 0.0) is None
    with np.errstate(over="ignore", invalid="ignore"):
        assert at._lower_within(1e200 * v, -1.0) is None


# --- steps ----------------------------------------------------------------------------------------


def test_a_step_that_leaves_the_range(kind, monkeypatch):
    far = Step(start(np.full(2, 1e200), kind), np.inf, 1.0, solved=True)
    always(monkeypatch, kind, _solve=far)
    result = fit(ONES, SADDLE, start(np.ones(2), kind), **KINDS[kind])
    assert (result.status, result.success) == (FitStatus.OUT_OF_RANGE, False)
    assert np.isfinite(result.cost)


def test_a_step_that_is_no_better_when_shortened(kind, monkeypatch):
    """At the minimum every step leads up, and that is no negative curvature."""
    x, passes = np.array([1.0, 2.0]), []
    up = Step(start(np.array([1.0, 1.0]), kind), 1.0, 1.0, solved=True)
    Y = np.outer(x, x) + 0.1 * np.eye(2)
    for shorter in (0.0, np.inf, 0.5):
        always(monkeypatch, kind, _solve=up, _shorter=shorter)
        result = fit(ONES, Y, start(x, kind), tol=1e-30, **KINDS[kind])
        assert result.status == FitStatus.ROUNDING
        assert result.cost <= 0.01
        passes.append(result.nfev)
    assert passes[0] == passes[1] < passes[2]  # nothing is tried without a length


def test_a_step_of_nothing_is_tried_with_second_derivatives(monkeypatch):
    tried = []

    def nothing(self):
        tried.append((self._exact, self._radius))
        return Step(np.zeros((2, 2)), 0.0, 0.0, solved=True)

    monkeypatch.setattr(BlockNewton, "_solve", nothing)
    x = np.array([1.0, 2.0])
    Y = np.outer(x, x) - 0.1 * np.eye(2)
    result = fit(ONES, Y, start(x, "rank 2"), rank=2, tol=1e-30)
    assert result.status == FitStatus.ROUNDING
    assert tried == [(False, np.inf), (True, np.inf)]


@pytest.mark.parametrize("length", [1e3, -1.0])
def test_a_robust_step_is_made_shorter_until_the_cost_falls(solver, length):
    """In the wrong direction it never falls."""
    at = solver("robust", ONES, np.outer([1.0, 2.0], [1.0, 2.0]), np.array([1.0, 1.5]))
    s = -length * at._at.gradient
    before = at._at.cost
    falls = at._shorten(s, 1.0, at._evaluate(at.x + s))
    assert falls == (length > 0)
    assert (at._at.cost < before) == falls


# --- starts and ends ------------------------------------------------------------------------------


def test_a_minimum_whose_numbers_are_not_to_be_trusted(kind, monkeypatch):
    """Underflow may have made the gradient small."""
    x = np.array([1.0, 2.0])
    assert fit(ONES, np.outer(x, x), start(x, kind), **KINDS[kind]).success
    monkeypatch.setattr(float_range, "is_trusted", lambda *_: False)
    result = fit(ONES, np.outer(x, x), start(x, kind), **KINDS[kind])
    assert (result.status, result.success) == (FitStatus.OUT_OF_RANGE, False)


def test_data_out_of_range_within_bounds():
    x0 = np.ones(2)
    result = fit(ONES, 1e200 * ONES, x0, bounds=(0, np.inf))
    assert (result.status, result.x.tolist()) == (FitStatus.OUT_OF_RANGE, [1, 1])


def test_a_start_whose_rows_meet_no_entry_of_a(solver):
    """F is zero at this x, and its length is right: it is left as it is."""
    A = np.array([[0.0, 1.0], [1.0, 0.0]])
    result = fit(A, A, np.eye(2), rank=2)
    assert result.success
    assert result.cost < 1e-12


def test_a_start_that_cannot_be_scaled(solver, monkeypatch):
    """It is given up after some trials."""
    monkeypatch.setattr(RankStart, "_scaled", lambda self, x, beta: x)
    assert 40 < solver("rank 2", ONES, ONES, np.full(2, 1e-8))._nfev < 45


def test_a_block_that_is_not_positive_definite():
    blocks = BlockPreconditioner(np.array([[[1.0, 2.0], [2.0, 1.0]]]), np.zeros(1))
    assert np.isnan(blocks.lower(np.ones((1, 2)))).all()


def test_a_cone_of_many_signs():
    """Pairs of variables are not tried there, and the least curvature is found all the same."""
    signs, diagonal = np.ones((300, 1)), np.ones((300, 1))
    diagonal[7] = -5
    value, u, _ = Cone(signs, signs > 0).least(
        lambda u: diagonal * u, np.random.default_rng(0).random((300, 1))
    )
    assert value == pytest.approx(-5, rel=1e-3)
    assert (u >= 0).all()
