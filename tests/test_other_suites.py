"""Other people's tests and derivatives: those of SciPy and PyLops, and JAX.

The wheel of SciPy contains its tests. They run here with matrices and functions of ours in place of
their own. Any matrix M is a part of a Jacobian: with ``F = M ∘ (u vᵀ)`` at u = 1, the sums of the
rows of F are ``M v``. Any quadratic function is one of the entries of ``z zᵀ`` with z = (x, 1).

`test_operator.py` runs what of SciPy's `test_interface` takes an operator that exists. Its other
tests make operators of their own, to see how `LinearOperator` treats them.
"""

import importlib
import inspect
import warnings
from unittest import mock

import numpy as np
import pylops
import pylops.utils
import pytest
import scipy.optimize
import scipy.sparse
from kinds import Sliced
from scipy.sparse.linalg import aslinearoperator
from support import integers, matrix, slow, slow_except

from sparsejac import JacobianBuilder, LeastSquares, RowSums


def of_scipy(name):
    """A module of SciPy's tests, or None.

    Each version has marks of its own, so pytest must not ask whether they are registered here.
    """
    with mock.patch.object(pytest.mark, "_config", None):
        try:
            return importlib.import_module(name)
        except ImportError:  # some distributions leave the tests out
            return None


LSQR = of_scipy("scipy.sparse.linalg._isolve.tests.test_lsqr")
LSMR = of_scipy("scipy.sparse.linalg._isolve.tests.test_lsmr")
LEAST_SQUARES = of_scipy("scipy.optimize.tests.test_least_squares")


# --- lsqr and lsmr ------------------------------------------------------------------------------


def as_part_of_j(M):
    """M as a product with a Jacobian of ours in its middle. It is never formed."""
    if scipy.sparse.issparse(M):  # other index types need rare kernels
        M = scipy.sparse.csr_array(M)
        short = M.indices.astype(np.int32), M.indptr.astype(np.int32)
        M = scipy.sparse.csr_array((M.data, *short), shape=M.shape)
    else:
        M = np.asarray(M)
    m, n = M.shape
    J = JacobianBuilder(M, bilinear=True).operator(np.ones(m + n))
    rows = scipy.sparse.kron(scipy.sparse.eye_array(m), np.ones((1, n)))
    if scipy.sparse.issparse(M) and J.shape[0] != m * n:
        i, _ = JacobianBuilder(M, bilinear=True).row_pairs()
        rows = scipy.sparse.csr_array((np.ones(i.size), (i, np.arange(i.size))), shape=(m, i.size))
    columns = scipy.sparse.eye_array(m + n, n, k=-m)
    return aslinearoperator(rows.tocsr()) @ J @ aslinearoperator(columns.tocsr())


def solver_tests():
    for module in filter(None, (LSQR, LSMR)):
        for name, test in vars(module).items():
            if name == "test_nD":  # of an operator that is no matrix
                continue
            if name.startswith("test") and inspect.isfunction(test):
                yield module, None, name
            elif name.startswith("Test"):
                yield from ((module, test, each) for each in dir(test) if each.startswith("test"))


def slow_if_rare(module, suite, test):
    """A parameter of a test, which is slow if it needs kernels of complex or integer numbers."""
    rare = "omplex" in test or "gh_2466" in test
    marks = pytest.mark.slow if rare else ()
    return pytest.param(module, suite, test, id=f"{module.__name__[-4:]}-{test}", marks=marks)


@pytest.mark.parametrize(
    ("module", "suite", "test"), [slow_if_rare(*each) for each in solver_tests()]
)
def test_lsqr_and_lsmr_with_our_operators(module, suite, test, monkeypatch, tried):
    """All of SciPy's tests of these solvers, with each matrix that a solver is given as ours."""
    used = []

    def solved_by(solver):
        def run(A, *args, **how):
            used.append(A)
            return solver(as_part_of_j(A), *args, **how)

        return run

    def operator(A):
        used.append(A)
        return as_part_of_j(A)

    for name in ("lsqr", "lsmr"):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, solved_by(getattr(module, name)))
    if hasattr(module, "aslinearoperator"):
        monkeypatch.setattr(module, "aslinearoperator", operator)
    with warnings.catch_warnings():
        # From SciPy 1.18 on, operators deprecate columns in place of vectors.
        warnings.filterwarnings("ignore", "column vectors", FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        if suite is None:
            getattr(module, test)()
        else:
            instance = suite()
            instance.setup_method()
            getattr(instance, test)()
    assert used
    tried("SciPy's tests with our operators", 1)


# --- least_squares ------------------------------------------------------------------------------


class Quadratic:
    """Residuals ``S vec(z zᵀ) `` with z = (x, 1), and their Jacobian, by way of a builder.

    `terms` are tuples ``(residual, i, j, coefficient)`` of ``z_i z_j``.
    """

    def __init__(self, k, terms, residuals):
        self.used = 0
        row, i, j, of = (np.array(each) for each in zip(*terms, strict=True))
        index = i.astype(np.int32), j.astype(np.int32)
        pattern = scipy.sparse.coo_array((np.ones(of.size), index), shape=(k + 1, k + 1)).tocsr()
        pattern.data[:] = 1
        self._builder = JacobianBuilder(pattern, rows="stored")
        at = {pair: p for p, pair in enumerate(zip(*self._builder.row_pairs(), strict=True))}
        entry = [at[pair] for pair in zip(i, j, strict=True)]
        shape = residuals, self._builder.shape[0]
        self._sums = scipy.sparse.coo_array((of, (row, entry)), shape=shape).tocsr()
        self._of_x = scipy.sparse.eye_array(k + 1, k).tocsr()

    def fun(self, x):
        self.used += 1
        return self._sums @ self._builder.value(np.append(x, 1.0))

    def csr(self, x):
        self.used += 1
        return self._sums @ self._builder.tocsr(np.append(x, 1.0)) @ self._of_x

    def dense(self, x):
        return self.csr(x).toarray()

    def operator(self, x):
        self.used += 1
        J = self._builder.operator(np.append(x, 1.0))
        return aslinearoperator(self._sums) @ J @ aslinearoperator(self._of_x)


def trivial(a):
    """``(x - a)² + 5``."""
    return Quadratic(1, [(0, 0, 0, 1.0), (0, 0, 1, -2.0 * a), (0, 1, 1, a * a + 5.0)], 1)


def broyden(n):
    """``(3 - x_i) x_i + 1 - x_(i-1) - 2 x_(i+1)``."""
    terms = [(i, i, i, -1.0) for i in range(n)] + [(i, i, n, 3.0) for i in range(n)]
    terms += [(i, n, n, 1.0) for i in range(n)] + [(i, i - 1, n, -1.0) for i in range(1, n)]
    return Quadratic(n, terms + [(i, i + 1, n, -2.0) for i in range(n - 1)], n)


def replace_functions(monkeypatch, module):
    """SciPy's quadratic functions and their Jacobians, by ours. Returns those that count uses."""
    rosenbrock = Quadratic(
        2, [(0, 1, 2, 10.0), (0, 0, 0, -10.0), (1, 2, 2, 1.0), (1, 0, 2, -1.0)], 2
    )
    identity = Quadratic(2, [(0, 0, 2, 1.0), (1, 1, 2, 1.0)], 2)
    made = {"rosenbrock": rosenbrock, "2d": identity}

    def of(a):
        return made.setdefault(a, trivial(a))

    def fun_trivial(x, a=0):
        return of(a).fun(x)

    def jac_trivial(x, a=0.0):
        return of(a).dense(x)

    for name, function in {
        "fun_trivial": fun_trivial,
        "jac_trivial": jac_trivial,
        "fun_rosenbrock": rosenbrock.fun,
        "jac_rosenbrock": rosenbrock.dense,
        "fun_2d_trivial": identity.fun,
        "jac_2d_trivial": identity.dense,
    }.items():
        assert hasattr(module, name)
        monkeypatch.setattr(module, name, function)

    class Broyden(module.BroydenTridiagonal):
        def __init__(self, n=100, mode="sparse"):
            super().__init__(n, mode)
            ours = made.setdefault(("broyden", n), broyden(n))
            jac = {"sparse": ours.csr, "operator": ours.operator, "dense": ours.dense}
            self.fun, self.jac = ours.fun, jac[mode]

    monkeypatch.setattr(module, "BroydenTridiagonal", Broyden)
    return made


NOT_QUADRATIC = "SciPy's test is about functions that are not quadratic, and uses none of ours"
# Tests that pickle functions for other processes by their names, and find SciPy's own there.
BY_NAME = {"test_workers"}


def least_squares_tests():
    if LEAST_SQUARES is None:
        return
    for suite in ("TestDogbox", "TestTRF", "TestLM"):
        methods = getattr(LEAST_SQUARES, suite, object)
        yield from ((suite, name) for name in dir(methods) if name.startswith("test"))
    yield from ((None, name) for name in dir(LEAST_SQUARES) if name.startswith("test"))


EVERY_DAY = [
    ("TestTRF", "test_linear_operator"),
    ("TestDogbox", "test_grad"),
    ("TestLM", "test_loss"),
]


@pytest.mark.parametrize(
    ("suite", "test"),
    slow_except(EVERY_DAY, least_squares_tests()),
)
def test_least_squares_with_our_functions(suite, test, monkeypatch, tried):
    """All of SciPy's tests: methods, losses, solvers of the trust region, bounds and scales."""
    run = getattr(LEAST_SQUARES if suite is None else getattr(LEAST_SQUARES, suite)(), test)
    if test in BY_NAME:
        pytest.skip("SciPy's test sends its functions to other processes by their names")
    if inspect.signature(run).parameters:
        pytest.skip("this version of SciPy parametrizes the test")
    made = replace_functions(monkeypatch, LEAST_SQUARES)
    run()
    if not sum(each.used for each in made.values()):
        pytest.skip(NOT_QUADRATIC)
    tried("SciPy's tests with our operators", 1)


# --- PyLops -------------------------------------------------------------------------------------


def builders(dtype, rank, *, bilinear, streamed):
    """A builder for each choice of rows and order, and an x."""
    A = matrix(6, "C", dtype=dtype, symmetric=not bilinear)
    A = A[:, :4] if bilinear else A
    for form in (Sliced,) if streamed else (np.asarray, scipy.sparse.csr_array):
        for rows in ("all", "stored") if bilinear else ("all", "stored", "upper"):
            how = {"rows": rows, "rank": rank, "bilinear": bilinear}
            for order in ("C",) if streamed else ("C", "F"):
                builder = JacobianBuilder(form(np.ascontiguousarray(A)), order=order, **how)
                yield builder, integers((builder.shape[1],), dtype, seed=3)


def passes(op):
    """PyLops' own dot test: ``(J v)·w = v·(Jᴴ w)``."""
    wrapped = pylops.LinearOperator(op) if hasattr(pylops, "LinearOperator") else op
    flag = 3 if op.dtype.kind == "c" else 0
    return pylops.utils.dottest(wrapped, *op.shape, rtol=1e-10, complexflag=flag, raiseerror=True)


OF_FLOAT64 = [("float64", None, False, False)]


@pytest.mark.parametrize(
    ("dtype", "rank", "bilinear", "streamed"),
    slow_except(
        OF_FLOAT64,
        [
            (dtype, rank, bilinear, streamed)
            for dtype in ("float64", "complex128")
            for rank in (None, 1, 3)
            for bilinear in (False, True)
            for streamed in (False, True)
        ],
    ),
)
def test_pylops_dottest_on_every_operator(dtype, rank, bilinear, streamed, tried):
    count = 0
    for builder, x in builders(dtype, rank, bilinear=bilinear, streamed=streamed):
        J = builder.operator(x)
        operators = [J, J.T, J.H, J.normal(), J.normal(damping=2.0)]
        if dtype == "float64":
            operators.append(builder.hessian(integers((builder.shape[0],), seed=4)))
        for op in operators:
            assert passes(op)
        count += len(operators)
    tried("operators in PyLops' dottest", count)


@pytest.mark.parametrize("loss", ["linear", *slow("soft_l1", "huber", "cauchy", "arctan")])
@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_array])
def test_pylops_dottest_on_problems_and_row_sums(form, loss, tried):
    A = form(matrix(6, "C", symmetric=True))
    problem = LeastSquares(A, 2 * A, loss=loss)
    x = np.arange(1.0, 7)
    operators = [problem.jac(x), problem.normal(x), problem.hess(x), RowSums(A).operator(x)]
    for op in operators:
        assert passes(op)
    tried("operators in PyLops' dottest", len(operators))


# --- derivatives --------------------------------------------------------------------------------


class InNamespace:
    """F, its least squares and the row sums as functions of x, for NumPy or `jax.numpy`."""

    def __init__(self, xp, A, builder, rank, *, bilinear):
        i, j = builder.row_pairs()
        self._xp, self._a, self._shape = xp, A[i, j], (-1, rank or 1)
        self._i, self._j = i, j + (len(A) if bilinear else 0)

    def value(self, x):
        Z = x.reshape(self._shape)
        return self._a * self._xp.sum(Z[self._i] * Z[self._j], axis=1)

    def cost(self, x, y, loss):
        z = (self.value(x) - y) ** 2
        return 0.5 * self._xp.sum(getattr(self, loss)(z))

    def linear(self, z):
        return z

    def soft_l1(self, z):
        return 2 * (self._xp.sqrt(1 + z) - 1)

    def huber(self, z):
        inside = z <= 1  # the root of what is chosen not has a derivative, too
        return self._xp.where(inside, z, 2 * self._xp.sqrt(self._xp.where(inside, 1, z)) - 1)

    def cauchy(self, z):
        return self._xp.log1p(z)

    def arctan(self, z):
        return self._xp.arctan(z)


def problems(*, real=True):
    """Small problems of every form, order and choice of rows: A, how it is taken, and x."""
    for bilinear in (False, True):
        for rank in (None, 1, 2):
            rng = np.random.default_rng([bilinear, rank or 0])
            A = rng.uniform(-1, 1, (4, 3) if bilinear else (4, 4))
            A = A if bilinear else A + A.T
            if not real:
                A = A + 1j * (A @ A.T if not bilinear else A)
            x = rng.uniform(0.5, 1.5, (sum(A.shape) if bilinear else 4) * (rank or 1))
            for rows in ("all", "stored") if bilinear else ("all", "stored", "upper"):
                for order in "CF":
                    yield A, {"rows": rows, "order": order, "rank": rank, "bilinear": bilinear}, x


def jax_in_double_precision():
    """JAX in double precision, or a skip."""
    jax = pytest.importorskip("jax", reason="JAX is not installed: pip install -e '.[peers]'")
    jax.config.update("jax_enable_x64", True)
    return jax, importlib.import_module("jax.numpy")


@pytest.mark.slow
@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_array])
def test_jacobians_of_jax(form, tried):
    """J of real and complex problems, J v, and the Hessian of wᵀF, against forward derivatives."""
    jax, jnp = jax_in_double_precision()
    count = 0
    for real in (True, False):
        for A, how, x in problems(real=real):
            rank, bilinear = how["rank"], how["bilinear"]
            builder = JacobianBuilder(form(A), **how)
            of = InNamespace(jnp, A, builder, rank, bilinear=bilinear)
            point = x if real else x * (1 + 0.5j)
            exact = np.asarray(jax.jacfwd(of.value, holomorphic=not real)(point))
            J = builder.operator(point)
            close = {"rtol": 1e-13, "atol": 1e-13}
            np.testing.assert_allclose(builder.value(point), of.value(point), **close)
            np.testing.assert_allclose(J.tocsr().toarray(), exact, **close)
            np.testing.assert_allclose(J @ np.eye(x.size), exact, **close)
            np.testing.assert_allclose(J.T @ np.eye(len(exact)), exact.T, **close)
            np.testing.assert_allclose(J.H @ np.eye(len(exact)), exact.conj().T, **close)
            normal = exact.conj().T @ exact
            np.testing.assert_allclose(J.normal().toarray(), normal, rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(J.normal() @ np.eye(x.size), normal, rtol=1e-12, atol=1e-12)
            if real:
                w = np.linspace(-1, 1, len(exact))
                hessian = jax.hessian(lambda z, of=of, w=w: of.value(z) @ w)(x)
                np.testing.assert_allclose(builder.hessian(w).toarray(), hessian, **close)
            count += 1
    tried("Jacobians of JAX", count)


@pytest.mark.slow
@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_array])
@pytest.mark.parametrize("loss", ["linear", "soft_l1", "huber", "cauchy", "arctan"])
def test_gradients_and_hessians_of_jax(form, loss, tried):
    """Of the cost with each loss, and the Jacobian of the row sums."""
    jax, jnp = jax_in_double_precision()
    count = 0
    for A, how, x in problems():
        problem = LeastSquares(form(A), form(0.3 * A), loss=loss, **how)
        of = InNamespace(jnp, A, problem.builder, how["rank"], bilinear=how["bilinear"])
        y = 0.3 * of._a

        def cost(z, of=of, y=y):
            return of.cost(z, y, loss)

        close = {"rtol": 1e-11, "atol": 1e-12}
        found, gradient = problem.value_and_grad(x)
        np.testing.assert_allclose(found, cost(x), **close)
        np.testing.assert_allclose(gradient, jax.grad(cost)(x), **close)
        hessian = jax.hessian(cost)(x)
        np.testing.assert_allclose(problem.hess(x).toarray(), hessian, **close)
        np.testing.assert_allclose(problem.hess(x) @ np.eye(x.size), hessian, **close)
        count += 1
        if how == {"rows": "all", "order": "C", "rank": None, "bilinear": False}:
            exact = jax.jacfwd(lambda z, A=A: z * (A @ z))(x)
            np.testing.assert_allclose(RowSums(form(A)).operator(x).toarray(), exact, **close)
    tried("gradients and Hessians of JAX", count)


@pytest.mark.slow
def test_jacobians_of_scipy(tried):
    """`scipy.differentiate` takes finite differences with an estimate of their error."""
    differentiate = pytest.importorskip(
        "scipy.differentiate", reason="SciPy has scipy.differentiate from 1.15 on"
    )
    count = 0
    for A, how, x in problems():
        builder = JacobianBuilder(A, **how)

        def values(points, builder=builder):
            flat = points.reshape(points.shape[0], -1)
            found = np.stack([builder.value(point) for point in flat.T], axis=1)
            return found.reshape(-1, *points.shape[1:])

        tolerances = {"atol": 1e-10, "rtol": 1e-10}
        result = differentiate.jacobian(values, x, tolerances=tolerances)
        assert result.success.all()
        np.testing.assert_allclose(builder.tocsr(x).toarray(), result.df, rtol=1e-8, atol=1e-9)
        problem = LeastSquares(A, 0.3 * A, **how)

        def gradients(points, problem=problem):
            flat = points.reshape(points.shape[0], -1)
            found = np.stack([problem.grad(point) for point in flat.T], axis=1)
            return found.reshape(points.shape)

        hessian = differentiate.jacobian(gradients, x, tolerances=tolerances)
        np.testing.assert_allclose(problem.hess(x).toarray(), hessian.df, rtol=1e-7, atol=1e-8)
        count += 2
    tried("Jacobians of scipy.differentiate", count)
