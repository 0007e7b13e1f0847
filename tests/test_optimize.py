"""Tests of `LeastSquares`: on integers, by Taylor's theorem, and with every SciPy solver.

The results on integers are exact.
"""

import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import NonlinearConstraint, minimize
from scipy.sparse.linalg import eigsh, lobpcg, onenormest, svds
from support import assert_same, compare, integers, matrix, slow, toarray
from test_kspace import FORMS, dense_form, second_derivatives

from sparsejac import JacobianBuilder, LeastSquares

README = Path(__file__).parents[1] / "README.md"


def target(A, *, symmetric=False, seed=7):
    """Make a dense integer Y that has entries only where A has them."""
    k = A.shape[0]
    Y = integers((k, k), seed=seed)
    if symmetric:
        Y = np.triu(Y) + np.triu(Y, 1).T
    if scipy.sparse.issparse(A):
        pattern = A.copy()
        pattern.data = np.ones_like(pattern.data, dtype=float)
        Y *= pattern.toarray() != 0
    return Y


def exact(problem, A, Y, x, rows, order):
    J, i, j, a = dense_form(A, x, rows, order)
    f = toarray(A) * np.outer(x, x)
    r = (f - Y)[i, j]
    found = problem.fun(x)
    if found.size == r.size:
        assert_same(found, r)
    assert problem.cost(x) == r @ r / 2
    assert_same(problem.grad(x), J.T @ r)
    cost, gradient = problem.value_and_grad(x)
    assert cost == r @ r / 2
    assert_same(gradient, J.T @ r)
    normal = J.T @ J
    H = normal + second_derivatives(len(x), i, j, a * r)
    v = integers((len(x),), seed=9)
    assert_same(problem.hessp(x, v), H @ v)
    assert_same(problem.hess(x).toarray(), H)
    assert_same(problem.hess(x).diagonal(), np.diag(H))
    assert_same(problem.normal(x, 2) @ v, (normal + 2 * np.eye(len(x))) @ v)
    assert_same(problem.normal(x).toarray(), normal)
    norms = np.sqrt(np.diag(normal))
    np.testing.assert_allclose(problem.x_scale(x), 1 / np.where(norms > 0, norms, 1), rtol=1e-15)
    return H


@pytest.mark.parametrize("rows", ["all", "stored", "upper"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("symmetric", ["neither", "A", "both"])
def test_exact_on_integers(form, order, rows, symmetric):
    if rows == "upper" and symmetric == "neither":
        pytest.skip("the upper rows are those of a symmetric A")
    A = matrix(9, form, symmetric=symmetric != "neither")
    Y = target(A, symmetric=symmetric == "both" or rows == "upper")
    problem = LeastSquares(A, Y, rows=rows, order=order)
    assert problem.shape == JacobianBuilder(A, rows=rows, order=order).shape
    for seed in (1, 2):
        H = exact(problem, A, Y, integers((9,), seed=seed), rows, order)
    compare(problem.hess(integers((9,), seed=2)), H)


@pytest.mark.parametrize("rows", ["all", "stored", "upper"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("form", ["C", "csr"])
@pytest.mark.parametrize(
    "narrow", [False, *slow(True)]
)  # the narrow dtypes compile kernels of their own
def test_every_form_of_y(narrow, form, order, rows):
    A = matrix(8, form, symmetric=True)
    Y = target(A, symmetric=True)
    i, j = JacobianBuilder(A, rows=rows, order=order).row_pairs()
    x = integers((8,), seed=3)
    forms = [
        Y, np.asfortranarray(Y), Y[::-1][::-1], Y.astype(">f8"),
        scipy.sparse.csr_array(Y), scipy.sparse.csc_array(Y), scipy.sparse.coo_array(Y),
        Y[i, j], Y.tolist(),
    ]  # fmt: skip
    if narrow:
        forms += [Y.astype("int16"), Y.astype(np.float32), Y[i, j].astype(int)]
    if rows == "upper":
        forms += [np.triu(Y), scipy.sparse.triu(scipy.sparse.csr_array(Y))]
    forms += [scipy.sparse.coo_array(Y[i, j])]  # one dimension, in the order of the rows
    if form == "csr":
        own = A.copy()
        own.data = Y[np.repeat(np.arange(8), np.diff(A.indptr)), A.indices]
        forms.append(own)
    for one in forms:
        before = toarray(one).copy() if not isinstance(one, list) else None
        exact(LeastSquares(A, one, rows=rows, order=order), A, Y, x, rows, order)
        if before is not None:
            assert_same(one, before)


@given(
    k=st.integers(1, 12),
    form=st.sampled_from(FORMS),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("dtype", ["float64", *slow("float32", "int8")])
def test_exact_on_any_integers(k, form, seed, dtype):
    A = matrix(k, form, dtype=dtype, seed=seed, symmetric=seed % 2 == 0)
    Y = target(A, symmetric=seed % 3 == 0, seed=seed)
    exact(LeastSquares(A, Y), A, Y, integers((k,), seed=seed), "stored", "C")


@pytest.mark.parametrize("form", ["C", "csr"])
def test_taylor(form):
    """Halving the step divides the error of a Taylor polynomial by 2, 4 or 8.

    The polynomials are the constant, the one with the gradient, and the one with the Hessian.
    """
    A = matrix(20, form).astype(float) / 9
    problem = LeastSquares(A, target(A) / 9)
    x, h = np.random.default_rng(0).standard_normal((2, 20))
    cost, gradient = problem.value_and_grad(x)
    curvature = h @ problem.hessp(x, h)
    steps = 2.0 ** -np.arange(8, 12)
    change = np.array([problem.cost(x + t * h) for t in steps]) - cost
    first = np.abs(change - steps * (gradient @ h))
    second = np.abs(change - steps * (gradient @ h) - steps**2 / 2 * curvature)
    np.testing.assert_allclose(first[:-1] / first[1:], 4, rtol=0.1)
    np.testing.assert_allclose(second[:-1] / second[1:], 8, rtol=0.1)


def test_weights():
    """The cost is ``½‖√W∘(M - xxᵀ)‖²``, as the docstring says."""
    rng = np.random.default_rng(0)
    W, M, x = rng.random((5, 5)), rng.random((5, 5)), rng.random(5)
    W[0, 1] = 0
    problem = LeastSquares(np.sqrt(W), np.sqrt(W) * M)
    np.testing.assert_allclose(problem.cost(x), np.sum(W * (M - np.outer(x, x)) ** 2) / 2)


def test_y_is_referenced_and_the_last_x_is_remembered(monkeypatch):
    A = np.ones((4, 4))
    Y = np.ones((4, 4))
    problem = LeastSquares(A, Y)
    assert np.shares_memory(problem._target.given, Y)
    S = scipy.sparse.csr_array(A)
    assert np.shares_memory(LeastSquares(S, S.copy())._target.given, S.data) is False
    T = S.copy()
    assert np.shares_memory(LeastSquares(S, T)._target.given, T.data)
    passes = []
    gradient = problem._sums.gradient
    monkeypatch.setattr(problem._sums, "gradient", lambda x: passes.append(1) or gradient(x))
    x = np.full(4, 2.0)
    first = problem.grad(x)
    problem.cost(x), problem.hessp(x, x), problem.normal(x), problem.x_scale(x)
    assert len(passes) == 1
    first[:] = 0  # the array belongs to the caller
    assert problem.grad(x).all()
    x[0] = 3
    problem.cost(x)
    assert len(passes) == 2
    assert repr(problem) == "<LeastSquares: 16 residuals, 4 variables>"


def test_overflow_is_silent_and_infinite():
    """A line search that steps too far gets infinity, whether A is symmetric or not."""
    A = np.ones((3, 3))
    with np.errstate(all="raise"):
        for Y in (A, np.tri(3)):
            for B in (A, scipy.sparse.csr_array(A)):
                problem = LeastSquares(B, Y)
                assert problem.cost(np.full(3, 1e80)) == np.inf
                far = np.full(3, 1e160)
                assert problem.cost(far) == np.inf
                (
                    problem.x_scale(far),
                    problem.hess(far).toarray(),
                    problem.normal(far).toarray(),
                    problem.hessp(far, far),
                )
                if B is not A:
                    problem.hess(far).tocsr()


@pytest.mark.slow  # an unpickled problem compiles kernels of its own
def test_a_pickle_holds_a_and_y_once():
    A = np.asfortranarray(np.random.default_rng(0).random((300, 300)))
    A += A.T.copy()
    problem = LeastSquares(A, A * 2)
    text = pickle.dumps(problem)
    assert len(text) < 2 * A.nbytes + 20_000
    x = np.ones(300)
    assert pickle.loads(text).cost(x) == problem.cost(x)
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(problem.hess(x))) @ x, problem.hess(x) @ x
    )


@pytest.mark.parametrize("form", ["dense", "sparse", "vector"])
def test_entries_of_y_where_a_has_none(form):
    A = scipy.sparse.csr_array(np.array([[1.0, 0, 0], [2, 0, 0], [0, 0, 3]]))
    Y = np.array([[1.0, 0, 5], [0, 7, 0], [0, 0, 0]])
    one = {"dense": Y, "sparse": scipy.sparse.csr_array(Y), "vector": Y.ravel()}[form]
    with pytest.raises(
        ValueError,
        match=r"Y has 2 entries that are not zero where A stores none, the first at \(0, 2\)",
    ):
        LeastSquares(A, one, rows="all")
    transposed = {"dense": Y.T, "sparse": scipy.sparse.csr_array(Y.T), "vector": Y.ravel()}[form]
    with pytest.raises(ValueError, match=r"the first at \(2, 0\)"):
        LeastSquares(A.T.tocsr(), transposed, rows="all", order="F")
    stored = scipy.sparse.csr_array((np.zeros(3), ([0, 1, 2], [1, 1, 1])), shape=(3, 3))
    assert LeastSquares(A, stored).cost(np.zeros(3)) == 0  # explicit zeros do not count as data


def test_what_is_refused():
    A, Y = np.eye(3), np.eye(3)
    for wrong in (np.ones((2, 2)), np.ones(3), np.ones((3, 3, 1)), 5.0):
        with pytest.raises(
            ValueError,
            match=r"Y must be a 3x3 matrix as A is, or a vector of length 9 in the order of J's "
            r"rows",
        ):
            LeastSquares(A, wrong)
    for one, other, name in ((A * 1j, Y, "A"), (A, Y * 1j, "Y")):
        with pytest.raises(
            TypeError, match=f"least squares is for real numbers, and {name} is complex128"
        ):
            LeastSquares(one, other)
    problem = LeastSquares(A, Y)
    for method in (
        "fun",
        "jac",
        "jac_csr",
        "cost",
        "grad",
        "value_and_grad",
        "hess",
        "normal",
        "x_scale",
    ):
        with pytest.raises(
            TypeError, match="least squares is for real numbers, and x is complex128"
        ):
            getattr(problem, method)(np.ones(3) * 1j)
        with pytest.raises(ValueError, match="x must be a vector of length 3"):
            getattr(problem, method)(np.ones(4))
        with pytest.raises(ValueError, match="x must be finite"):
            getattr(problem, method)(np.array([1, np.nan, 1]))
    with pytest.raises(ValueError, match="dimension mismatch in H @ x"):
        problem.hessp(np.ones(3), np.ones(4))
    Y[1, 2] = np.nan
    for one in (Y, scipy.sparse.csr_array(Y)):
        with pytest.raises(
            ValueError, match=r"Y must be finite, but Y\[1, 2\] = nan: leave out unknown entries"
        ):
            LeastSquares(A, one)
    with pytest.raises(ValueError, match=r"but Y\[5\] = nan"):
        LeastSquares(A, Y.ravel())
    assert np.isnan(LeastSquares(A, Y, check_finite=False).cost(np.ones(3)))
    with pytest.raises(
        TypeError, match="Y must be a NumPy array, a SciPy sparse array or matrix, got dict"
    ):
        LeastSquares(A, {})
    with pytest.raises(TypeError, match="Y must have a dtype among"):
        LeastSquares(A, np.eye(3, dtype=object))
    broken = scipy.sparse.csr_array(np.eye(3))
    broken.indices[0] = 9
    with pytest.raises(ValueError, match="Y has an inconsistent csr structure"):
        LeastSquares(A, broken)
    for form in (np.array, scipy.sparse.csr_array):
        with pytest.raises(
            ValueError,
            match=r"Y must be symmetric or zero below its diagonal, but Y\[(0, 1|1, 0)\] != Y\[(0, "
            r"1|1, 0)\]",
        ):
            LeastSquares(form(np.ones((2, 2))), form([[1.0, 2], [3, 4]]), rows="upper")


# --- SciPy ----------------------------------------------------------------------------------------

# The README lists these calls. Each call is run as it stands. A solver must find x, and a solver of
# linear systems its step.
SOLVERS = [
    ("`least_squares`: trf, dogbox, bounds, any loss",
     "least_squares(problem.fun, x0, jac=problem.jac, bounds=(0, 9), loss='soft_l1')"),
    ("– `x_scale='jac'`",
     "least_squares(problem.fun, x0, jac=problem.jac, x_scale=problem.x_scale(x0))"),
    ("– with a matrix", "least_squares(problem.fun, x0, jac=problem.jac_csr, x_scale='jac')"),
    ("– `tr_solver='exact'`, `method='lm'`",
     "least_squares(problem.fun, x0, jac=lambda x: problem.jac_csr(x).toarray(), method='lm')"),
    ("`curve_fit`",
     ("curve_fit(lambda _, *x: problem.fun(x), i, 0 * i, x0, "
      "jac=lambda _, *x: problem.jac_csr(x).toarray())")),
    ("`leastsq`, `root('lm')`",
     "leastsq(problem.fun, x0, Dfun=lambda x: problem.jac_csr(x).toarray())"),
    ("`minimize`: L-BFGS-B, BFGS, CG, TNC, SLSQP",
     "minimize(problem.value_and_grad, x0, jac=True, method='L-BFGS-B')"),
    ("– Newton-CG, trust-ncg, trust-krylov",
     "minimize(problem.value_and_grad, x0, jac=True, hessp=problem.hessp, method='trust-krylov')"),
    ("– trust-constr",
     "minimize(problem.value_and_grad, x0, jac=True, hess=problem.hess, method='trust-constr')"),
    ("– trust-exact, dogleg",
     ("minimize(problem.value_and_grad, x0, jac=True, hess=lambda x: problem.hess(x).toarray(), "
      "method='trust-exact')")),
    ("– F as a constraint",
     ("NonlinearConstraint(builder.value, low, high, jac=builder.tocsr, "
      "hess=lambda x, w: builder.hessian(w))")),
    ("`root('hybr')`, `fsolve`",
     "fsolve(problem.grad, x0, fprime=lambda x: problem.hess(x).toarray())"),
    ("`root('krylov')`, `newton_krylov`",
     "newton_krylov(problem.grad, x0, inner_M=diags_array(1 / problem.hess(x0).diagonal()))"),
    ("`lsqr`, `lsmr`, `lsq_linear`, `svds`", "lsmr(problem.jac(x0), -problem.fun(x0))"),
    ("`cg`, `minres`, `eigsh`, `lobpcg`, `onenormest`",
     "cg(problem.normal(x0), -problem.grad(x0))"),
    ("`splu`, `spsolve`", "spsolve(problem.normal(x0).tocsr(), -problem.grad(x0))"),
    ("`solve_ivp`: Radau, BDF",
     ("solve_ivp(lambda t, x: -problem.grad(x), (0, 9), x0, 'Radau', "
      "jac=lambda t, x: -problem.hess(x).tocsr())")),
]  # fmt: skip
# The same forms of call for the other solvers that these rows name.
OTHERS = [
    "least_squares(problem.fun, x0, jac=problem.jac, method='dogbox')",
    "least_squares(problem.fun, x0, jac=problem.jac_csr, tr_solver='lsmr')",
    "least_squares(problem.fun, x0, jac=lambda x: problem.jac_csr(x).toarray(), tr_solver='exact')",
    "least_squares(problem.fun, x0, jac_sparsity=problem.jac_csr(x0))",
    "root(problem.fun, x0, jac=lambda x: problem.jac_csr(x).toarray(), method='lm')",
    "minimize(problem.value_and_grad, x0, jac=True, method='BFGS')",
    "minimize(problem.value_and_grad, x0, jac=True, method='CG')",
    "minimize(problem.cost, x0, jac=problem.grad, method='TNC')",
    "minimize(problem.cost, x0, jac=problem.grad, method='SLSQP')",
    "minimize(problem.value_and_grad, x0, jac=True, hessp=problem.hessp, method='Newton-CG')",
    "minimize(problem.value_and_grad, x0, jac=True, hess=problem.hess, method='Newton-CG')",
    "minimize(problem.value_and_grad, x0, jac=True, hessp=problem.hessp, method='trust-ncg')",
    "minimize(problem.value_and_grad, x0, jac=True, hessp=problem.hessp, method='trust-constr')",
    (
        "minimize(problem.value_and_grad, x0, jac=True, hess=lambda x: problem.hess(x).tocsr(), "
        "method='trust-constr')"
    ),
    (
        "minimize(problem.value_and_grad, x0, jac=True, hess=lambda x: problem.hess(x).toarray(), "
        "method='dogleg')"
    ),
    "root(problem.grad, x0, jac=lambda x: problem.hess(x).toarray())",
    (
        "root(problem.grad, x0, method='krylov', options={'jac_options': {'inner_M': "
        "diags_array(1 / problem.hess(x0).diagonal())}})"
    ),
    "lsqr(problem.jac(x0), -problem.fun(x0))",
    "lsq_linear(problem.jac(x0), -problem.fun(x0))",
    "minres(problem.normal(x0), -problem.grad(x0))",
    (
        "solve_ivp(lambda t, x: -problem.grad(x), (0, 9), x0, 'BDF', jac=lambda t, x: "
        "-problem.hess(x).tocsr())"
    ),
    "-splu(problem.normal(x0).tocsr().tocsc()).solve(problem.grad(x0))",
]


@pytest.fixture(scope="module")
def small():
    """Make a problem with the solution 1 … 6 and a start where the Hessian is positive definite."""
    A = scipy.sparse.csr_array(np.ones((6, 6)) + np.diag(np.arange(6.0)))
    x = np.arange(1.0, 7.0)
    problem = LeastSquares(A, A.multiply(np.outer(x, x)).tocsr(), rows="all")
    return problem, x, 1.1 * x


@pytest.mark.parametrize("call", [call for _, call in SOLVERS] + OTHERS)
def test_every_solver(small, call):
    problem, x, x0 = small
    builder = problem.builder
    i, low, high = np.arange(36.0), -1e9, 1e9
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # SciPy warns of its own matrices, and of the covariance of an exact fit
        names = {"problem": problem, "builder": builder, "x0": x0, "i": i, "low": low, "high": high}
        for module in (scipy.integrate, scipy.optimize, scipy.sparse, scipy.sparse.linalg):
            names |= {name: getattr(module, name) for name in module.__all__}
        result = eval(call, names)
        if isinstance(result, NonlinearConstraint):
            result = minimize(
                problem.cost,
                x0,
                jac=problem.grad,
                hess=problem.hess,
                constraints=[result],
                method="trust-constr",
            )
    found = result[0] if isinstance(result, tuple) else result
    found = found.y[:, -1] if "solve_ivp" in call else getattr(found, "x", found)
    if re.match(r"ls(qr|mr|q_linear)|cg|minres|spsolve|-splu", call):
        expected = -np.linalg.lstsq(problem.jac_csr(x0).toarray(), problem.fun(x0))[0]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    else:
        np.testing.assert_allclose(found, x, rtol=1e-3)


def test_spectra(small):
    problem, _, x0 = small
    J = problem.jac_csr(x0).toarray()
    singular = np.linalg.svd(J, compute_uv=False)
    np.testing.assert_allclose(
        svds(problem.jac(x0), k=2, return_singular_vectors=False)[::-1], singular[:2]
    )
    N = problem.normal(x0)
    np.testing.assert_allclose(eigsh(N, k=1, return_eigenvectors=False), singular[:1] ** 2)
    assert onenormest(N) == pytest.approx(np.linalg.norm(J.T @ J, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = lobpcg(N, np.eye(6, 1), maxiter=50)[0]
    np.testing.assert_allclose(values, singular[:1] ** 2, rtol=1e-4)


def test_the_readme_has_this_table():
    lines = ["| solver | what to hand to it |", "|---|---|"]
    lines += [f"| {name} | `{call}` |" for name, call in SOLVERS]
    assert "\n".join(lines) in README.read_text(encoding="utf-8")
