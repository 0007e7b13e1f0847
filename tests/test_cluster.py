"""Operations over an A whose rows are in parts, on a cluster within this process.

The numbers are small integers, so that all arithmetic is exact. Results have the bits of those of
the same A in memory.
"""

import itertools

import numpy as np
import pytest
import scipy.sparse

from sparsejac import JacobianBuilder

from . import in_process
from .kinds import numbers

K = 6
BOUNDS = {
    "one part": [0, K],
    "two": [0, 3, K],
    "uneven": [0, 1, K],
    "an empty one": [0, 2, 2, K],
    "a row each": [*range(K + 1)],
    "many": [0, 0, 1, 1, 2, 2, 3, 4, 5, 5, 5, K],
}
DTYPES = ["f8", "f4", "c16", "c8", "i4", "i1", "bool"]
FORMS = {"dense": lambda B: B, "sparse": scipy.sparse.csr_array}


def gathered(array):
    return array.compute()


@pytest.fixture(params=itertools.product(FORMS, ["all", "stored", "upper"], BOUNDS))
def case(request):
    form, rows, bounds = request.param
    return form, rows, BOUNDS[bounds]


@pytest.mark.parametrize("dtype", DTYPES)
def test_operations(case, dtype):
    form, rows, bounds = case
    A, stored = numbers(rows, "csr" if form == "sparse" else "C", dtype)
    M = FORMS[form](A)
    if form == "sparse":  # explicit zeros stay
        M = scipy.sparse.csr_array(
            (A[stored], np.nonzero(stored)[1], np.cumsum([0, *stored.sum(axis=1)])), shape=A.shape
        )
    x, v = np.arange(1.0, K + 1), np.arange(K, 0, -1.0)
    if dtype in ("f4", "c8"):
        x, v = x.astype("f4"), v.astype("f4")
    here, there = (JacobianBuilder(each, rows=rows) for each in (M, in_process.rows(M, bounds)))
    assert (there.shape, there.nnz, there.dtype) == (here.shape, here.nnz, here.dtype)
    assert there.csr_nbytes() == here.csr_nbytes()
    J, Jc = here.operator(x), there.operator(x)
    m = here.shape[0]
    w, W = np.arange(m) % 7 - 3.0, np.arange(3.0 * m).reshape(m, 3) % 5
    for ours, expected in (
        (there.value(x), here.value(x)),
        (Jc @ v, J @ v),
        (Jc @ np.stack([v, x], 1), J @ np.stack([v, x], 1)),
    ):
        assert ours.dtype == expected.dtype
        assert gathered(ours).tobytes() == expected.tobytes()
    np.testing.assert_array_equal(Jc.T @ (Jc @ v), J.T @ (J @ v))
    np.testing.assert_array_equal(Jc.H @ (Jc @ v), J.H @ (J @ v))
    for name in ("T", "H"):
        for each in (w, W):
            np.testing.assert_array_equal(getattr(Jc, name) @ each, getattr(J, name) @ each)
    np.testing.assert_array_equal(Jc.column_norms(), J.column_norms())
    np.testing.assert_array_equal(Jc.normal(1.0) @ v, J.normal(1.0) @ v)
    np.testing.assert_array_equal(Jc.normal().diagonal(), J.normal().diagonal())
    for one, other in zip(there.max_abs(x), here.max_abs(x), strict=True):
        np.testing.assert_array_equal(one, other)
    for s in range(K):
        one, other = there.slice(x, s), here.slice(x, s)
        assert (one != other).nnz == 0
        assert one.nnz == other.nnz
    if here.dtype.kind == "f":
        np.testing.assert_array_equal(there.hessian(w) @ v, here.hessian(w) @ v)
        np.testing.assert_array_equal(there.hessian(Jc @ v) @ v, here.hessian(J @ v) @ v)
        np.testing.assert_array_equal(there.hessian(w).diagonal(), here.hessian(w).diagonal())
