"""What the tests of an A on a GPU share: fixtures, matrices, and comparisons with an A in memory.

Without a GPU, g++ compiles the kernels, and fibers stand for the threads of a block: see `fake.py`.
With `-m gpu` the same tests run on a card. Where results must be equal, numbers are small integers,
and all arithmetic is exact.
"""

import contextlib
import shutil
import types

import fake
import numpy as np
import pytest
import scipy.sparse
from support import integers

from sparsejac import JacobianBuilder, LeastSquares, RowSums
from sparsejac._backends import cuda_sums

FIBERS = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no compiler, g++")


@contextlib.contextmanager
def card():
    """CuPy on a GPU. Its state counts nothing, and its threads have their own order."""
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"there is no GPU: {error}")
    yield types.SimpleNamespace(order=0, downloads=[0], launched=[])


@pytest.fixture(
    params=[pytest.param("fibers", marks=FIBERS), pytest.param("card", marks=pytest.mark.gpu)]
)
def gpu(request):
    with fake.installed() if request.param == "fibers" else card() as state:
        yield state


@pytest.fixture
def fibers():
    """What a card cannot show."""
    if shutil.which("g++") is None:
        pytest.skip("there is no compiler, g++")
    with fake.installed() as state:
        yield state


# --- data


def on_gpu(A):
    import cupy
    from cupyx.scipy.sparse import csr_matrix

    if not scipy.sparse.issparse(A):
        return cupy.asarray(A)
    arrays = A.data, A.indices.astype(np.int32), A.indptr.astype(np.int32)
    return csr_matrix(tuple(map(cupy.asarray, arrays)), shape=A.shape)


def matrix(k, form, dtype=np.float64, *, symmetric=False, random=False, seed=0):
    """A matrix of small integers, or of random numbers. A sparse one has empty rows."""
    rng = np.random.default_rng([seed, k])
    A = rng.uniform(0.5, 1.5, (k, k)) if random else rng.integers(-3, 4, (k, k)).astype(float)
    stored = rng.random((k, k)) < min(0.4, 20 / (k + 1))
    stored[: k // 8] = False
    stored[np.arange(k // 2, k), np.arange(k // 2, k)] = True
    if symmetric:
        A, stored = np.triu(A) + np.triu(A, 1).T, np.triu(stored) | np.triu(stored, 1).T
    if form == "dense":
        return A.astype(dtype)
    i, j = (index.astype(np.int32) for index in np.nonzero(stored))
    return scipy.sparse.coo_array((A[i, j].astype(dtype), (i, j)), shape=(k, k)).tocsr()


def in_double(A):
    return A.astype(np.float64)


def assert_equal(there, here):
    """Equal numbers of the same shape. A result on the GPU is fetched."""
    there = there.get() if hasattr(there, "get") else there
    if scipy.sparse.issparse(here):
        assert there.shape == here.shape
        for name in ("indptr", "indices", "data"):
            np.testing.assert_array_equal(getattr(there, name), getattr(here, name))
        return
    np.testing.assert_array_equal(there, here, strict=True)


# --- operations


def check_maps(A, rows):
    """F, J v, J V and J in CSR form."""
    here, there = (JacobianBuilder(each, rows=rows) for each in (in_double(A), on_gpu(A)))
    k = A.shape[0]
    x, v, V = integers((k,), seed=1), integers((k,), seed=2), integers((k, 3), seed=3)
    assert (there.shape, there.nnz, there.dtype) == (here.shape, here.nnz, A.dtype)
    J, ours = here.operator(x), there.operator(x)
    assert_equal(there.value(x), here.value(x))
    assert_equal(ours @ v, J @ v)
    assert_equal(ours @ V, J @ V)
    assert_equal(ours @ V[:, :1], J @ V[:, :1])
    if k:
        assert_equal(there.tocsr(x), here.tocsr(x))
        assert_equal(there.slice(x, k // 2), here.slice(x, k // 2))


def check_products(A, rows):
    """Products with Jᵀ, JᵀJ and Hessians."""
    here, there = (JacobianBuilder(each, rows=rows) for each in (in_double(A), on_gpu(A)))
    m, k = here.shape
    x, v, V = integers((k,), seed=1), integers((k,), seed=2), integers((k, 3), seed=3)
    w, W = integers((m,), seed=4), integers((m, 3), seed=5)
    J, ours = here.operator(x), there.operator(x)
    assert_equal(ours.T @ on_gpu(w), J.T @ w)
    assert_equal(ours.H @ on_gpu(W), J.H @ W)
    assert_equal(ours.rmatmat(on_gpu(np.asfortranarray(W))), J.H @ W)
    for one, other in [
        (ours.normal(2.0), J.normal(2.0)),
        (there.hessian(on_gpu(w)), here.hessian(w)),
    ]:
        assert_equal(one @ v, other @ v)
        assert_equal(one @ V, other @ V)
        assert_equal(one.matmat(on_gpu(V)), other @ V)
        assert_equal(one.diagonal(), other.diagonal())
    assert_equal(ours.column_norms(), J.column_norms())
    for one, other in zip(there.max_abs(x), here.max_abs(x), strict=True):
        assert_equal(one, other)


def check_least_squares(A, Y, rows):
    """Residuals, cost, gradient and Hessians of least squares."""
    here = LeastSquares(in_double(A), in_double(Y), rows=rows)
    there = LeastSquares(on_gpu(A), on_gpu(Y), rows=rows)
    k = A.shape[0]
    x, v = integers((k,), seed=1), integers((k,), seed=2)
    assert_equal(there.fun(x), here.fun(x))
    assert there.cost(x) == here.cost(x)
    assert_equal(there.grad(x), here.grad(x))
    assert_equal(there.hess(x) @ v, here.hess(x) @ v)
    assert_equal(there.hess(x).diagonal(), here.hess(x).diagonal())
    assert_equal(there.normal(x, 1.0) @ v, here.normal(x, 1.0) @ v)
    for one, other in zip(there._sums.beginning(), here._sums.beginning(), strict=True):
        np.testing.assert_array_equal(one, other)


def check_row_sums(A, **how):
    """The row sums of a symmetric A, and their Jacobian."""
    here, there = RowSums(in_double(A), **how), RowSums(on_gpu(A), **how)
    k = A.shape[0]
    x, v, V = integers((k,), seed=1), integers((k,), seed=2), integers((k, 3), seed=3)
    assert there.nnz == here.nnz
    assert_equal(there.value(x), here.value(x))
    for product in (lambda J: J @ v, lambda J: J.T @ v, lambda J: J @ V, lambda J: J.diagonal()):
        assert_equal(product(there.operator(x)), product(here.operator(x)))
    assert_equal(there.operator(x) @ on_gpu(v), here.operator(x) @ v)
    assert_equal(there.nonzeros(), here.nonzeros())


def instantiations():
    """Every kernel that the backend may ask for."""
    edges = [each.edge for each in cuda_sums.REDUCTIONS.values()]
    with_y = {each.edge for each in cuda_sums.REDUCTIONS.values() if each.aligned}
    names = ["add_scalars", "spans", "in_column", "check_rows", "pairs<true>", "pairs<false>"]
    names += [f"add_tiles<{edge}>" for edge in edges]
    floats = ["float", "double"]
    for a in floats:
        names += [
            f"{kernel}<{a}>"
            for kernel in ("row_facts", "dense_asymmetry", "sparse_asymmetry", "align_rows")
        ]
        for edge in edges:
            for y in floats if edge in with_y else [a]:
                names += [f"{walk}<{edge}, {a}, {y}>" for walk in ("dense_sums", "sparse_sums")]
        for x in floats if a == "float" else ["double"]:
            for sparse in ("true", "false"):
                names.append(f"jacobian<{a}, {x}, {sparse}>")
                names += [f"map_rows<Value, {a}, {x}, {x}, {sparse}, false>"]
                names += [f"map_rows<Product, {a}, {x}, {x}, {sparse}, true>"]
                names += [f"map_rows<Residual, {a}, {x}, {y}, {sparse}, false>" for y in floats]
    return names
