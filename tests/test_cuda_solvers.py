"""Solvers over an A on a GPU: SciPy's with vectors in this process, cupyx's with CuPy arrays.

See `cuda/cuda_checks.py`.
"""

import cuda_checks
import numpy as np
import pytest
from cuda_checks import matrix, on_gpu
from scipy.optimize import minimize
from scipy.sparse.linalg import cg, eigsh

from sparsejac import JacobianBuilder, LeastSquares, RowSums

gpu = cuda_checks.gpu  # a fixture
pytestmark = pytest.mark.slow
K = 40
X = np.linspace(0.5, 1.5, K)


def normals(A):
    """JᵀJ + I of an A in memory, and of the same one on the GPU."""
    return tuple(JacobianBuilder(put(A)).operator(X).normal(1.0) for put in (np.asarray, on_gpu))


def least_squares():
    """A problem in memory, and the same one on the GPU."""
    A = matrix(K, "dense", random=True, symmetric=True)
    Y = A * np.outer(X, X)
    return LeastSquares(A, Y), LeastSquares(on_gpu(A), on_gpu(Y))


def test_cg_of_scipy(gpu):
    here, there = normals(matrix(K, "dense", random=True))
    b = np.ones(K)
    np.testing.assert_allclose(cg(there, b, rtol=1e-12)[0], cg(here, b, rtol=1e-12)[0])


def test_eigsh_of_scipy(gpu):
    here, there = normals(matrix(K, "dense", random=True))
    kwargs = {"k": 2, "v0": np.ones(K), "return_eigenvectors": False}
    np.testing.assert_allclose(eigsh(there, **kwargs), eigsh(here, **kwargs))


def test_lbfgsb_of_scipy(gpu):
    here, there = least_squares()
    start = X + 0.1
    one, other = (
        minimize(each.value_and_grad, start, jac=True, method="L-BFGS-B") for each in (here, there)
    )
    assert other.success
    np.testing.assert_allclose(other.x, one.x, rtol=1e-4)


def test_trust_krylov_of_scipy(gpu):
    here, there = least_squares()
    options = {"jac": True, "method": "trust-krylov"}
    one, other = (
        minimize(each.value_and_grad, X + 0.1, hessp=each.hessp, **options)
        for each in (here, there)
    )
    assert other.success
    np.testing.assert_allclose(other.x, one.x, rtol=1e-6)


def own_cg(N, b, steps):
    """Conjugate gradients as cupyx has them, with what the CuPy of fibers can do."""
    x, r = 0 * b, b.copy()
    p, rr = r.copy(), float((r * r).sum())
    for _ in range(steps):
        q = N.matvec(p)
        alpha = rr / float((p * q).sum())
        x, r = x + alpha * p, r - alpha * q
        before, rr = rr, float((r * r).sum())
        p = r + rr / before * p
    return x


def test_an_operator_for_cupyx(gpu):
    """It takes and returns CuPy arrays. So do J and its adjoint."""
    import cupy

    A = matrix(K, "dense", random=True)
    here, there = normals(A)
    N, b = there.cupyx(), on_gpu(np.ones(K))
    found = own_cg(N, b, 10)
    assert type(found) is cupy.ndarray
    np.testing.assert_allclose(found.get(), own_cg(here, np.ones(K), 10))
    J, ours = (JacobianBuilder(put(A)).operator(X) for put in (np.asarray, on_gpu))
    wrapped = ours.cupyx()
    assert (wrapped.shape, wrapped.dtype) == (J.shape, J.dtype)
    V = np.stack([X, X**2], axis=1)
    for product, exact in [
        (wrapped.matvec(b), J @ np.ones(K)),
        (wrapped.matmat(on_gpu(V)), J @ V),
        (wrapped.rmatvec(wrapped.matvec(b)), J.T @ (J @ np.ones(K))),
        (wrapped.rmatmat(wrapped.matmat(on_gpu(V))), J.T @ (J @ V)),
    ]:
        assert type(product) is cupy.ndarray
        np.testing.assert_allclose(product.get(), exact, rtol=1e-13)


@pytest.mark.parametrize("symmetric", [False, True])
def test_other_operators_for_cupyx(gpu, symmetric):
    A = matrix(K, "sparse", symmetric=symmetric, random=True)
    x, w = on_gpu(X), np.ones(A.nnz)
    pairs = [
        (
            JacobianBuilder(A, rows="stored").hessian(w),
            JacobianBuilder(on_gpu(A), rows="stored").hessian(on_gpu(w)),
        ),
        (LeastSquares(A, A).hess(X), LeastSquares(on_gpu(A), on_gpu(A)).hess(X)),
    ]
    if symmetric:
        pairs.append(tuple(RowSums(each).operator(X) for each in (A, on_gpu(A))))
    for here, there in pairs:
        wrapped = there.cupyx()
        np.testing.assert_allclose(wrapped.matvec(x).get(), here @ X, rtol=1e-13)
        np.testing.assert_allclose(wrapped.rmatvec(x).get(), here.T @ X, rtol=1e-13)


LINES = {
    "cg": "cg(problem.normal(x0).cupyx(), -cupy.asarray(problem.grad(x0)))",
    "lsmr": "lsmr(problem.jac(x0).cupyx(), -problem.fun(x0))",
}


@pytest.mark.parametrize("solver", LINES)
def test_systems_by_cupyx(gpu, solver):
    """The lines of the README. Without a GPU, SciPy's solvers stand for those of cupyx."""
    import cupy
    from cupyx.scipy.sparse import linalg

    here, problem = least_squares()
    x0 = X + 0.1
    names = {solver: getattr(linalg, solver), "problem": problem, "x0": x0, "cupy": cupy}
    found = eval(LINES[solver], names)[0]  # our own README
    assert type(found) is cupy.ndarray
    expected = np.linalg.lstsq(here.jac_csr(x0).toarray(), -here.fun(x0))[0]
    np.testing.assert_allclose(found.get(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("solver", ["eigsh", "lobpcg"])
def test_eigenvalues_by_cupyx(gpu, solver):
    from cupyx.scipy.sparse import linalg

    here, there = normals(matrix(K, "dense", random=True))
    if solver == "eigsh":
        found = linalg.eigsh(there.cupyx(), k=2, return_eigenvectors=False)
    else:
        start = on_gpu(np.random.default_rng(0).random((K, 2)))
        found = linalg.lobpcg(there.cupyx(), start, largest=True, maxiter=200, tol=1e-9)[0]
    expected = np.linalg.eigvalsh(here.toarray())[-2:]
    np.testing.assert_allclose(np.sort(found.get()), expected, rtol=1e-5)
