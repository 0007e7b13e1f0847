"""Any A, any x: shapes, dtypes, layouts, patterns and orders, as Hypothesis finds them."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support import slow

from sparsejac import JacobianBuilder
from sparsejac.testing import check_jacobian, dense_jacobian

pytestmark = pytest.mark.usefixtures("dirty_results")

# Those whose kernels other tests compile anyway; integers stay exact in each of them.
DTYPES = [np.float64, np.complex128, np.int32, np.int8, np.bool_]
# And those that need no kernels but those of float64: indices have 32 bits then.
QUICK = [np.float64, np.int8, np.bool_]
numbers = pytest.mark.parametrize("quick", [True, *slow(False)])


@st.composite
def matrices(draw, quick, symmetric=False):
    """A k×k matrix of small integers, dense in some layout or sparse in some format, with zeros
    stored or not.
    """
    k = draw(st.integers(0, 8))
    dtype = draw(st.sampled_from(QUICK if quick else DTYPES))
    B = draw(
        hnp.arrays(
            np.int8, (k, k), elements=st.integers(0, 1) if dtype is np.bool_ else st.integers(-9, 9)
        )
    )
    if symmetric:
        B = np.triu(B) + np.triu(B, 1).T
    B = B.astype(dtype)
    form = draw(st.sampled_from(["C", "F", "reversed", "csr", "csc", "coo"]))
    if form == "C":
        return B
    if form == "F":
        return np.asfortranarray(B)
    if form == "reversed":
        return np.ascontiguousarray(B[::-1, ::-1])[::-1, ::-1]
    mask = draw(hnp.arrays(np.bool_, (k, k)))
    if symmetric:
        mask = np.triu(mask) | np.triu(mask, 1).T
    i, j = (index.astype(np.int32 if quick else np.int64) for index in np.nonzero(mask))
    order = draw(st.permutations(range(i.size)))
    coo = scipy.sparse.coo_array((B[i, j][order], (i[order], j[order])), shape=(k, k))
    return coo.asformat(form)


@st.composite
def problems(draw, quick):
    rows = draw(st.sampled_from(["all", "stored", "upper"]))
    A = draw(matrices(quick, symmetric=rows == "upper"))
    x = draw(hnp.arrays(np.int8, A.shape[0], elements=st.integers(-9, 9)))
    return (
        A,
        x.astype(draw(st.sampled_from([np.float64] if quick else [np.float64, np.complex128]))),
        rows,
        draw(st.sampled_from("CF")),
    )


@numbers
@given(data=st.data(), block_rows=st.integers(1, 70))
def test_csr_operator_blocks_and_definition_agree(quick, data, block_rows):
    A, x, rows, order = data.draw(problems(quick))
    builder = JacobianBuilder(A, rows=rows, order=order)
    expected = dense_jacobian(A, x, rows=rows, order=order)
    J = builder.tocsr(x)
    J.check_format(full_check=True)
    np.testing.assert_array_equal(J.toarray(), expected)
    blocks = [block.toarray() for _, block in builder.iter_csr(x, block_rows=block_rows)]
    np.testing.assert_array_equal(np.concatenate([np.zeros((0, x.size)), *blocks]), expected)
    op = builder.operator(x)
    v, w = np.arange(x.size) - 2.0, np.arange(len(expected)) % 5 - 2.0
    np.testing.assert_array_equal(op @ v, expected @ v)
    np.testing.assert_array_equal(op.T @ w, expected.T @ w)
    np.testing.assert_array_equal(op.H @ w, expected.conj().T @ w)
    np.testing.assert_array_equal(op @ x, 2 * builder.value(x))


@numbers
@given(data=st.data())
def test_slices_are_columns(quick, data):
    A, x, rows, order = data.draw(problems(quick))
    if x.size == 0:
        return
    s = data.draw(st.integers(0, x.size - 1))
    builder = JacobianBuilder(A, rows=rows, order=order)
    i, j = builder.row_pairs()
    expected = np.zeros((x.size, x.size), builder.tocsr(x).dtype)
    expected[i, j] = builder.tocsr(x).toarray()[:, s]
    found = builder.slice(x, s)
    found.check_format(full_check=True)
    np.testing.assert_array_equal(found.toarray(), expected)


# Products of three of these neither overflow nor underflow.
rough = st.one_of(st.just(0.0), st.floats(1e-50, 1e50), st.floats(-1e50, -1e-50))


@given(hnp.arrays(np.float64, (5, 5), elements=rough), hnp.arrays(np.float64, 5, elements=rough))
def test_identities_hold_for_rough_numbers(A, x):
    assert len(check_jacobian(A, x)) == 8
