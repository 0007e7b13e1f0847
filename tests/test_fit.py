"""`fit`: the right minimum, defined results where there is none, and counts that are true."""

import itertools

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from support import random_csr, slow, slow_except

from sparsejac import LeastSquares, fit
from sparsejac._backends import sums as _sums
from sparsejac._solvers import fit as _fit


def weighted(form, k, noise, *, signs=False, seed=0):
    """A, Y = A∘xxᵀ with relative noise, and x."""
    rng = np.random.default_rng(seed)
    A = random_csr(k, 12, seed) if form == "csr" else rng.random((k, k)) + 0.1
    x = rng.lognormal(0, 0.5, k) * (rng.choice([-1, 1], k) if signs else 1)
    if form == "csr":
        i, j = A.nonzero()
        Y = A.copy()
        Y.data = A.data * x[i] * x[j] * (1 + noise * rng.standard_normal(A.nnz))
        return A, Y, x
    return A, A * np.outer(x, x) * (1 + noise * rng.standard_normal((k, k))), x


@pytest.mark.parametrize("form", ["C", "csr"])
@pytest.mark.parametrize("signs", [False, True])
@pytest.mark.parametrize("k", [5, 60, 400])
def test_exact_data_is_recovered(form, signs, k):
    A, Y, x = weighted(form, k, 0, signs=signs)
    for x0 in (None, np.abs(x) ** 0.5 * np.sign(x)):
        result = fit(A, Y, x0)
        assert result.success
        assert result.status == 1
        np.testing.assert_allclose(result.x * np.sign(result.x[0] * x[0]), x, rtol=1e-6)
        assert result.cost < 1e-12 * np.sum(Y**2 if form == "C" else Y.data**2)


@pytest.mark.parametrize("form", ["C", "csr"])
@pytest.mark.parametrize("noise", [0.1, 1.0])
@pytest.mark.parametrize("rows", ["stored", "upper"])
def test_a_minimum(form, noise, rows):
    """A point where the gradient vanishes and the Hessian is positive definite, which SciPy finds
    to be the best one near.
    """
    A, Y, _ = weighted(form, 50, noise)
    if rows == "upper":
        A, Y = A + A.T, Y + Y.T
    problem = LeastSquares(A, Y, rows=rows)
    result = fit(A, Y, rows=rows)
    assert result.success
    assert result.optimality <= 1e-9
    assert np.linalg.norm(result.grad) <= 1e-8 * np.linalg.norm(problem.grad(np.ones(50)))
    np.testing.assert_array_equal(result.grad, problem.grad(result.x))
    assert result.cost == problem.cost(result.x)
    assert np.linalg.eigvalsh(problem.hess(result.x).toarray())[0] > 0
    other = minimize(
        problem.value_and_grad,
        result.x * 1.01,
        jac=True,
        method="L-BFGS-B",
        options={"ftol": 1e-15},
    )
    assert result.cost <= other.fun * (1 + 1e-12)
    norm = np.sqrt(2 * problem.cost(np.zeros(50)))
    scale = 1 / problem.x_scale(result.x)
    assert result.optimality == pytest.approx(np.linalg.norm(result.grad / scale) / norm, rel=1e-6)


@given(
    k=st.integers(1, 12),
    seed=st.integers(0, 10**6),
    form=st.sampled_from(["C", "csr"]),
    log=st.integers(-12, 12),
)
def test_any_start_and_any_scale(k, seed, form, log):
    """It stops with a status that is true, never above its start, and scaling the data scales the
    answer.
    """
    A, Y, _ = weighted(form, k, 0.5, signs=seed % 2 == 0, seed=seed)
    x0 = np.random.default_rng(seed).standard_normal(k)
    result = fit(A, Y, x0)
    assert result.cost <= LeastSquares(A, Y).cost(x0) * (1 + 1e-12)
    assert result.success == (result.status == 1) == (result.optimality <= 1e-9)
    scaled = fit(A, Y * 4.0**log, x0 * 2.0**log)
    np.testing.assert_array_equal(scaled.x, result.x * 2.0**log)
    assert scaled.optimality == pytest.approx(result.optimality, rel=1e-6)


def test_large_residuals_need_second_derivatives(monkeypatch):
    """Gauss and Newton's steps alone take several times as many."""
    A, Y, _ = weighted("csr", 2000, 1.0, signs=True)
    with_them = fit(A, Y)
    monkeypatch.setattr(_fit, "_NEAR", 0.0)  # where second derivatives are first thought of
    without = fit(A, Y, max_iter=2000)
    assert with_them.success
    assert with_them.cost == pytest.approx(without.cost, rel=1e-6)
    assert 2 * (with_them.nit + _fit.SWEEPS) < without.nit


# --- what has no single answer --------------------------------------------------------------------


def test_variables_that_nothing_depends_on():
    A = scipy.sparse.csr_array(np.array([[1.0, 2, 0], [2, 1, 0], [0, 0, 0]]))
    Y = A.multiply(np.outer([1.0, 2, 3], [1.0, 2, 3])).tocsr()
    np.testing.assert_allclose(fit(A, Y).x, [1, 2, 0], atol=1e-6)
    np.testing.assert_allclose(fit(A, Y, [1.0, 1, 7]).x, [1, 2, 7], atol=1e-6)
    assert fit(np.zeros((3, 3)), np.zeros((3, 3))).x.tolist() == [0, 0, 0]
    assert fit(np.zeros((3, 3)), np.zeros((3, 3)), [1.0, 2, 3]).x.tolist() == [1, 2, 3]
    assert fit(np.zeros((0, 0)), np.zeros((0, 0))).success


def test_connected_parts_each_find_their_own():
    x = np.array([1.0, 2, 3, 0.01, 0.02, 0.03, 0.04])
    A = scipy.sparse.block_diag([scipy.sparse.csr_array(np.ones((n, n))) for n in (3, 4)]).tocsr()
    for signs in (1, np.array([1, -1, 1, -1, 1, -1, -1])):
        result = fit(A, A.multiply(np.outer(x * signs, x * signs)).tocsr())
        assert result.success
        np.testing.assert_allclose(np.abs(result.x), x, rtol=1e-5)
        for part in (slice(0, 3), slice(3, 7)):
            assert len(set((np.sign(result.x) * signs * np.ones(7))[part])) == 1


def test_the_sign_is_that_of_the_start():
    A, Y, x = weighted("C", 10, 0.1)
    up, down = fit(A, Y, x), fit(A, Y, -x)
    np.testing.assert_array_equal(up.x, -down.x)
    assert (fit(A, Y).x > 0).all()


def test_zero_is_left_where_the_cost_falls_and_kept_where_not():
    A = np.ones((4, 4))
    result = fit(A, np.full((4, 4), 9.0), np.zeros(4))
    np.testing.assert_allclose(np.abs(result.x), 3)
    for Y in (-A, 0 * A):
        for x0 in (None, np.zeros(4), np.ones(4)):
            result = fit(A, Y, x0)
            assert result.success
            np.testing.assert_allclose(result.x, 0, atol=1e-4)
            assert result.cost == pytest.approx(np.sum(Y**2) / 2)
    assert fit([[2.0]], [[8.0]]).x.tolist() == [2]
    assert fit([[2.0]], [[8.0]], [0.0]).x == pytest.approx([2])
    assert fit([[2.0]], [[-8.0]]).cost == 32


def test_no_data_where_a_is():
    """A∘Y is zero: nothing pulls x away from zero, and nothing has a curvature there."""
    for A, Y in ((np.eye(3), 1 - np.eye(3)), (np.zeros((3, 3)), np.ones((3, 3)))):
        for x0 in (None, np.zeros(3), np.ones(3)):
            result = fit(A, Y, x0)
            assert result.success
            assert result.cost == pytest.approx(np.sum(Y**2) / 2)


def test_what_vanishes_is_started_anew():
    """Equal x tend to zero if their product is to be negative. Zero is a stationary saddle."""
    pair = np.array([[0, 1.0], [1, 0]])
    result = fit(pair, -6 * pair, [1, 1])
    assert result.success
    assert result.x[0] * result.x[1] == pytest.approx(-6)
    rng = np.random.default_rng(0)
    k = 200
    A = scipy.sparse.block_diag([scipy.sparse.csr_array(pair)] * (k // 2)).tocsr()
    x = rng.lognormal(0, 0.5, k) * rng.choice([-1, 1], k)
    Y = A.multiply(np.outer(x, x)).tocsr()
    for x0 in (None, np.ones(k)):
        result = fit(A, Y, x0)
        assert result.success
        assert result.cost < 1e-12
    B = np.zeros((4, 4))
    B[0, 0] = B[1, 3] = 1
    result = fit(B, np.array([[-2.0, 0, 1, 2], [-1, 0, -2, 1], [0, 0, -2, 2], [-2, 0, -1, -1]]))
    assert result.success
    assert result.cost == pytest.approx(14)


def test_what_is_not_finite_is_no_success(capfd):
    A = np.random.default_rng(0).random((20, 20))
    bad = A.copy()
    bad[3, 4] = np.nan
    with np.errstate(all="raise"):
        for B, Y, x0 in (
            (bad, A, None), (bad, A, np.ones(20)), (A, bad, None), (A, bad, np.ones(20)),
            (A, A, np.full(20, np.nan)), (A, A, np.full(20, np.inf)),
        ):  # fmt: skip
            result = fit(B, Y, x0, check_finite=False)
            assert (result.status, result.success) == (3, False)
            assert "not a finite number" in result.message
        x = np.linspace(1, 2, 20)
        assert fit(A * 1e80, A * np.outer(x, x) * 1e80).status == 3
    assert capfd.readouterr() == ("", "")  # nor a word from LAPACK


@pytest.mark.parametrize(
    ("a", "y", "start"),
    [(1e70, 1e70, None), (1e60, 1, None), (1, 1e-60, None), (1, 1, 1e-90), (1, 1, 1e60)],
)
def test_extreme_scales(a, y, start):
    A, Y, x = weighted("C", 20, 0)
    result = fit(A * a, Y * y, None if start is None else np.full(20, start))
    assert result.success
    assert result.nit < 12
    np.testing.assert_allclose(result.x, x * np.sqrt(y / a), rtol=1e-6)


def test_a_bipartite_part_keeps_the_ratio_of_its_start():
    A = np.array([[0.0, 1], [0, 0]])
    for x0 in ([1.0, 1.0], [1.0, 100.0]):
        result = fit(A, 6 * A, x0)
        np.testing.assert_allclose(result.x[0] * result.x[1], 6)
        np.testing.assert_allclose(result.x[1] / result.x[0], x0[1] / x0[0])


@pytest.mark.parametrize("size", [1e-9, 1e9])
def test_a_start_far_away(size):
    result = fit(np.ones((5, 5)), np.ones((5, 5)), size * np.arange(1, 6))
    assert result.success
    np.testing.assert_allclose(result.x, 1)


# --- the result, and what is seen on the way ------------------------------------------------------


def test_counts_are_true(monkeypatch):
    A, Y, _ = weighted("csr", 300, 0.3)
    counted = {"beginning": 0, "gradient": 0, "squares": 0, "curvature": 0}

    def counting(name):
        method = getattr(_sums.Sums, name)

        def run(self, *args):
            counted[name] += 1
            return method(self, *args)

        return run

    for name in counted:
        monkeypatch.setattr(_sums.Sums, name, counting(name))
    seen = []
    result = fit(A, Y, np.ones(300), callback=seen.append)
    assert result.nfev == counted["gradient"]
    assert result.n_products == counted["beginning"] + counted["squares"] + counted["curvature"]
    assert [state.nit for state in seen] == list(range(result.nit + 1))
    np.testing.assert_allclose(seen[0].x, seen[0].x[0])  # on the ray through x0
    assert seen[0].cost > result.cost
    assert (np.diff([s.cost for s in seen]) <= 1e-12 * result.cost).all()
    assert seen[-1].cost == result.cost
    np.testing.assert_array_equal(seen[-1].x, result.x)
    seen[-1].x[:] = 0
    assert result.x.all()


def test_statuses():
    A, Y, _ = weighted("csr", 300, 0.3)
    few = fit(A, Y, max_iter=2)
    assert (few.status, few.success, few.nit) == (0, False, 2)
    assert few.message.startswith("the maximum of 2 iterations was reached: optimality is")
    best = fit(A, Y, tol=0)
    assert (best.status, best.success) == (2, False)
    assert best.message.startswith("rounding prevents further progress")
    assert best.optimality < 1e-13

    def enough(state):
        if state.nit == 3:
            raise StopIteration

    stopped = fit(A, Y, callback=enough)
    assert (stopped.status, stopped.nit, stopped.message) == (99, 3, "stopped by the callback")

    def broken(_):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fit(A, Y, callback=broken)


def test_a_progress_bar(capsys):
    A, Y, _ = weighted("csr", 300, 0.3)
    result = fit(A, Y, progress=True)
    shown = capsys.readouterr().err
    assert "fit:" in shown
    fit(A, Y)
    assert capsys.readouterr().err == ""
    assert result.success


def test_the_same_bits_for_any_number_of_workers():
    A, Y, _ = weighted("C", 1200, 0.3)
    one, two = fit(A, Y, workers=1), fit(A, Y, workers=2)
    np.testing.assert_array_equal(one.x, two.x)


def test_inputs_are_left_alone():
    A, Y, x = weighted("csr", 50, 0.3)
    before = [array.copy() for array in (A.data, A.indices, Y.data, x)]
    fit(A, Y, x)
    for one, other in zip(before, (A.data, A.indices, Y.data, x), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("form", "dtype"),
    slow_except([("C", "bool")], itertools.product(["C", "csr"], ["float32", "int64", "bool"])),
)
def test_other_dtypes(form, dtype):
    """Computed in float64, whatever A and Y are."""
    A, Y, _ = weighted(form, 40, 0.2)
    A = (10 * A).astype(dtype)
    Y = (10 * Y).astype("float32" if dtype == "float32" else "int32")
    result = fit(A, Y)
    assert result.success
    assert result.x.dtype == np.float64
    np.testing.assert_allclose(
        result.x, fit(A.astype(np.float64), Y.astype(np.float64)).x, rtol=1e-7
    )


def test_what_is_refused():
    A = Y = np.eye(3)
    with pytest.raises(ValueError, match="tol must be at least 0 and finite, got -1"):
        fit(A, Y, tol=-1)
    with pytest.raises(ValueError, match="max_iter must be a positive integer, got 0"):
        fit(A, Y, max_iter=0)
    with pytest.raises(TypeError, match="callback must be callable, got 3"):
        fit(A, Y, callback=3)
    with pytest.raises(TypeError, match="progress must be True or False"):
        fit(A, Y, progress=1)
    with pytest.raises(
        ValueError,
        match=r"x0 must be a vector of length 3, as A is 3x3, got an array of shape \(2,\)",
    ):
        fit(A, Y, np.ones(2))
    with pytest.raises(ValueError, match="x0 must be finite"):
        fit(A, Y, [1, np.inf, 1])
    with pytest.raises(TypeError, match="least squares is for real numbers, and x0 is complex128"):
        fit(A, Y, np.ones(3) * 1j)
    with pytest.raises(TypeError, match="least squares is for real numbers, and A is complex128"):
        fit(A * 1j, Y)


# --- real matrices --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hic_yeast_10kb", *slow("hic_dm6_100kb", "graph_facebook")])
def test_real_patterns(name, real_data):
    """Weighted rank-one fits: from ones, from the data, and from 20 random starts, the same
    minimum.
    """
    A = scipy.sparse.csr_array(scipy.sparse.load_npz(real_data(f"{name}.npz"))).astype(np.float64)
    A.sum_duplicates()
    A.data[:] = 1
    rng = np.random.default_rng(0)
    k = A.shape[0]
    x, noise = rng.lognormal(0, 0.5, k), 1 + 0.1 * rng.standard_normal(A.nnz)
    Y = A.copy()
    Y.data = x[np.repeat(np.arange(k), np.diff(A.indptr))] * x[A.indices] * noise
    best = fit(A, Y, np.ones(k))
    assert best.success
    assert np.linalg.norm(best.grad) <= 1e-8 * np.linalg.norm(LeastSquares(A, Y).grad(np.ones(k)))
    assert best.nfev + best.n_products < 60
    for seed in (None, *range(3 if name != "graph_facebook" else 20)):
        result = fit(A, Y, None if seed is None else np.random.default_rng(seed).lognormal(0, 1, k))
        assert result.success
        assert result.cost == pytest.approx(best.cost, rel=1e-9)
