"""What several test files share: matrices in every form, and one comparison of an operator with its
dense matrix.
"""

import warnings

import numpy as np
import pytest
import scipy.sparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator


def np_matrix(B):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        return np.asmatrix(B)


def slow(*values):
    """Return parameters of a test that run with --whole only: rare dtypes, or slow cases."""
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)
        for value in values
    ]


def slow_except(default, values):
    """Return parameters of a test of which those in `default` run always, and the others with
    --whole.
    """
    return [one for value in values for one in ([value] if value in default else slow(value))]


SIZES = [0, 1, 2, 3, 7, 50]
ROWS = ["all", "stored", "upper"]
ORDERS = ["C", "F"]

DENSE_FORMS = {
    "C": np.ascontiguousarray,
    "F": np.asfortranarray,
    "strided": lambda B: np.repeat(np.repeat(B, 2, axis=0), 3, axis=1)[::2, ::3],
    "reversed": lambda B: np.ascontiguousarray(B[::-1, ::-1])[::-1, ::-1],
    "foreign byte order": lambda B: B.astype(B.dtype.newbyteorder()),
    "np.matrix": np_matrix,
}
SPARSE_FORMATS = ["csr", "csc", "coo", "lil", "dok", "dia", "bsr"]


def read_only(B):
    B = B.copy()
    B.flags.writeable = False
    return B


def integers(shape, dtype=np.float64, seed=0, low=-4, high=5):
    """Small integers, on which all of our arithmetic is exact; of a complex dtype both parts."""
    rng = np.random.default_rng([seed, *shape])
    dtype = np.dtype(dtype)
    if dtype.kind in "bu":
        low = 0
    values = rng.integers(low, high, shape)
    if dtype.kind == "c":
        values = values + 1j * rng.integers(low, high, shape)
    return values.astype(dtype)


def matrix(k, form="C", *, dtype=np.float64, symmetric=False, density=0.4, seed=0):
    """A k×k matrix of small integers, dense or sparse; a sparse one has empty rows and, stored,
    zeros.
    """
    B = integers((k, k), dtype, seed)
    if symmetric:
        B = np.triu(B) + np.triu(B, 1).T
        B = B.astype(dtype)
    if form in DENSE_FORMS:
        return DENSE_FORMS[form](B)
    mask = np.random.default_rng(seed + 1).random((k, k)) < density
    mask[: k // 5] = False
    if symmetric:
        mask = np.triu(mask) | np.triu(mask, 1).T
    i, j = (
        index.astype(np.int32) for index in np.nonzero(mask)
    )  # as SciPy's own have; int64 is another kernel to compile
    if form == "bsr" and k == 0:
        form = "csr"  # SciPy has no block of size 0
    return getattr(scipy.sparse.coo_array((B[i, j], (i, j)), shape=(k, k)), f"to{form}")()


def random_csr(k, per_row, seed=0):
    """A k×k CSR array with random entries, about as many in each row; its diagonal is stored."""
    rng = np.random.default_rng(seed)
    i, j = np.repeat(np.arange(k), per_row), rng.integers(0, k, k * per_row)
    i, j = (np.concatenate([index, np.arange(k)]).astype(np.int32) for index in (i, j))
    return scipy.sparse.coo_array((rng.random(i.size), (i, j)), shape=(k, k)).tocsr()


def toarray(A):
    return A.toarray() if scipy.sparse.issparse(A) else np.asarray(A)


def assert_same(actual, expected):
    """Equal bit for bit (0 and -0 apart), and of the same shape."""
    actual = toarray(actual)
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(actual, expected)


def compare(op, dense, *, seed=0, matrices=True):
    """Try an operator in every form against its dense matrix, on integers: exact equality."""
    assert isinstance(op, LinearOperator)
    m, n = dense.shape
    assert op.shape == (m, n)
    assert all(type(size) is int for size in op.shape)
    for dtype in {np.dtype(np.float64), op.dtype}:
        v, w = integers((n,), dtype, seed), integers((m,), dtype, seed + 1)
        for product, exact in [
            (op @ v, dense @ v),
            (op.matvec(v), dense @ v),
            (op.T @ w, dense.T @ w),
            (op.H @ w, dense.conj().T @ w),
            (op.rmatvec(w), dense.conj().T @ w),
            (op.T.rmatvec(v), dense.conj() @ v),
            (op.H.rmatvec(v), dense @ v),
            (op.T.T @ v, dense @ v),
            (op.H.H @ v, dense @ v),
            (op.H.T @ v, dense.conj() @ v),
            (w @ op, w @ dense),
            (aslinearoperator(op) @ v, dense @ v),
            ((2 * op) @ v, 2 * (dense @ v)),
            ((op.H @ op) @ v, dense.conj().T @ (dense @ v)),
        ]:
            assert_same(product, exact)
            assert product.dtype == np.result_type(op.dtype, dtype)
        if not matrices:
            continue
        V, W = integers((n, 3), dtype, seed + 2), integers((m, 3), dtype, seed + 3)
        for product, exact in [
            (op @ V, dense @ V),
            (op.matmat(V), dense @ V),
            (op.T @ W, dense.T @ W),
            (op.H @ W, dense.conj().T @ W),
            (op.rmatmat(W), dense.conj().T @ W),
            (op.T.rmatmat(V), dense.conj() @ V),
            (op @ V[:, :1], dense @ V[:, :1]),
            (op.T @ W[:, :1], dense.T @ W[:, :1]),
            (op @ V[:, :0], dense @ V[:, :0]),
            (op.T @ W[:, :0], dense.T @ W[:, :0]),
            (op.matvec(V.T.copy()), (dense @ V).T),  # a batch, the vectors along the last axis
            (op.rmatvec(W.T.copy()), (dense.conj().T @ W).T),
            (op.matmat(np.stack([V, 2 * V])), np.stack([dense @ V, 2 * (dense @ V)])),
        ]:
            assert_same(product, exact)
        if (
            dtype == op.dtype == np.float64
        ):  # other layouts are other kernels to compile: of one dtype
            assert_same(op.T @ np.asfortranarray(W), dense.T @ W)
            assert_same(op.T @ W[:, 1], dense.T @ W[:, 1])
