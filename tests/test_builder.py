"""JacobianBuilder and jacobian against the definition, bit for bit on small integers."""

import numpy as np
import pytest
import scipy.sparse
from support import (
    DENSE_FORMS,
    ORDERS,
    ROWS,
    SIZES,
    SPARSE_FORMATS,
    assert_same,
    compare,
    integers,
    matrix,
    read_only,
    slow,
    slow_except,
    toarray,
)

from sparsejac import JacobianBuilder, jacobian
from sparsejac.testing import check_jacobian, dense_jacobian

pytestmark = pytest.mark.usefixtures("dirty_results")


def check_everything(A, x, rows, order, *, matrices=True):
    """Each public result of a builder against the dense Jacobian."""
    k = x.size
    builder = JacobianBuilder(A, rows=rows, order=order)
    expected = dense_jacobian(A, x, rows=rows, order=order)
    J = builder.tocsr(x)
    assert_same(J, expected)
    J.check_format(full_check=True)
    assert isinstance(J, scipy.sparse.csr_array)
    assert J.has_canonical_format
    assert J.dtype == expected.dtype
    assert (J.shape, J.nnz) == (builder.shape, builder.nnz)
    assert J.data.nbytes + J.indices.nbytes + J.indptr.nbytes == builder.csr_nbytes(x.dtype)
    assert_same(jacobian(A, x, rows=rows, order=order), expected)

    i, j = builder.row_pairs()
    assert i.dtype == j.dtype == J.indices.dtype
    assert_same(builder.value(x), (toarray(A)[i, j] * x[i] * x[j]).astype(J.dtype))
    compare(builder.operator(x), expected, matrices=matrices and k < 50)
    assert_same(builder.operator(x).tocsr(), expected)
    np.testing.assert_allclose(
        builder.operator(x).column_norms(), np.linalg.norm(expected, axis=0), rtol=1e-6
    )
    for s in range(min(k, 7)):
        dF = np.zeros((k, k), J.dtype)
        dF[i, j] = expected[:, s]
        found = builder.slice(x, s)
        found.check_format(full_check=True)
        assert found.has_canonical_format
        assert_same(found, dF)
        assert found.dtype == J.dtype
    for block_rows in (1, 2, k, 7, None) if 0 < k < 50 else (97, None):
        check_blocks(builder, x, J, block_rows)


def check_blocks(builder, x, J, block_rows):
    blocks = list(builder.iter_csr(x, block_rows=block_rows))
    starts = [start for start, _ in blocks]
    assert (
        starts == list(range(0, J.shape[0], block_rows or J.shape[0])) if J.shape[0] else not blocks
    )
    for start, block in blocks:
        block.check_format(full_check=True)
        assert block.has_canonical_format
        part = J[start : start + block.shape[0]]
        for name in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(block, name), getattr(part, name))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("form", ["C", "csr"])
@pytest.mark.parametrize("k", SIZES)
def test_every_size(k, form, rows, order):
    check_everything(
        matrix(k, form, symmetric=rows == "upper"), integers((k,), seed=5), rows, order
    )


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(
    "form",
    slow_except(
        {*DENSE_FORMS, *SPARSE_FORMATS} - {"dia"},  # which has int64 indices
        [*DENSE_FORMS, *SPARSE_FORMATS],
    ),
)
def test_every_form_of_a(form, rows, order):
    A = matrix(7, form, symmetric=rows == "upper")
    before = toarray(A).copy()
    check_everything(A, integers((7,), seed=6), rows, order)
    np.testing.assert_array_equal(toarray(A), before)


def test_read_only_memmap_and_matrix_classes(tmp_path):
    x = integers((7,), seed=7)
    B = matrix(7)
    expected = dense_jacobian(B, x)
    np.save(tmp_path / "A.npy", B)
    for A in (
        read_only(B),
        np.load(tmp_path / "A.npy", mmap_mode="r"),
        B.tolist(),
        np.broadcast_to(B[0], (7, 7)),
    ):
        assert_same(jacobian(A, x), dense_jacobian(A, x))
    for form in SPARSE_FORMATS:
        assert_same(jacobian(getattr(scipy.sparse, f"{form}_matrix")(B), x), expected)


# The dtypes for which kernels are compiled, in pairs that mix precision and kind, and those that
# are packed into float64.
COMPILED = ["float64", "float32", "complex128", "complex64", "int32", "int64"]
PACKED = ["bool", "int8", "uint8", "int16", "uint16", "uint32", "uint64"]


@pytest.mark.parametrize("form", ["C", "csr"])
@pytest.mark.parametrize(
    ("a_dtype", "x_dtype"),
    [
        ("float64", "float64"),
        *slow(*((dtype, dtype) for dtype in COMPILED if dtype not in ("float64", "complex64"))),
        *((dtype, "float64") for dtype in PACKED),
        ("bool", "bool"),
        *slow(("float32", "float64"), ("float64", "float32"), ("int32", "complex128")),
    ],
)
def test_every_dtype(a_dtype, x_dtype, form):
    A, x = matrix(3, form, dtype=a_dtype, density=0.8), integers((3,), x_dtype, seed=8)
    counted = [
        np.dtype(np.float64) if np.dtype(dtype).kind in "biu" else np.dtype(dtype)
        for dtype in (a_dtype, x_dtype)
    ]
    J = JacobianBuilder(A).tocsr(x)
    assert J.dtype == np.result_type(*counted)
    assert JacobianBuilder(A).dtype == counted[0]
    check_everything(A, x, "stored", "C", matrices=a_dtype == x_dtype in ("float32", "complex128"))


@pytest.mark.parametrize("rows", slow_except(["stored"], ROWS))
def test_wide_indices(rows):
    """Those of 2³¹ entries and more, here of a few."""
    A = matrix(7, "csr", symmetric=rows == "upper")
    wide = scipy.sparse.csr_array(A.shape)
    wide.data, wide.indices, wide.indptr = (
        A.data,
        A.indices.astype(np.int64),
        A.indptr.astype(np.int64),
    )
    check_everything(wide, integers((7,), seed=6), rows, "C")


def test_structure_does_not_depend_on_values():
    A = scipy.sparse.csr_array((np.zeros(3), ([0, 1, 2], [1, 1, 0])), shape=(3, 3))
    builder = JacobianBuilder(A, rows="stored")
    J = builder.tocsr(np.zeros(3))
    assert J.nnz == builder.nnz == 5
    np.testing.assert_array_equal(J.indices, [0, 1, 1, 0, 2])
    assert jacobian(np.zeros((4, 4)), np.zeros(4)).nnz == 2 * 16 - 4


def test_duplicates_are_summed_and_unsorted_is_sorted():
    i, j, a = [0, 0, 1, 1, 1], [1, 1, 2, 0, 2], np.array([100, 100, 1, 2, 3], np.int8)
    x = np.array([1.0, 2.0, 3.0])
    expected = jacobian(np.array([[0, 200, 0], [2, 0, 4], [0, 0, 0.0]]), x).toarray()
    coo = scipy.sparse.coo_array((a, (i, j)), shape=(3, 3))
    raw = scipy.sparse.csr_array(
        (a, np.array(j, np.int32), np.array([0, 2, 5, 5], np.int32)), shape=(3, 3)
    )
    column_wise = scipy.sparse.csc_array(
        (a, np.array(i, np.int32), np.array([0, 0, 3, 5], np.int32)), shape=(3, 3)
    )
    column_wise.indices[:] = [0, 0, 1, 1, 1]
    for A in (coo, raw):
        data, columns = A.data.copy(), (A.col if A is coo else A.indices).copy()
        assert_same(jacobian(A, x), expected)  # 100 + 100 is not -56
        np.testing.assert_array_equal(A.data, data)
        np.testing.assert_array_equal(A.col if A is coo else A.indices, columns)
    assert_same(
        jacobian(column_wise, x), jacobian(column_wise.astype(float).toarray(), x).toarray()
    )


def test_duplicates_of_booleans_are_what_scipy_says():
    i, j = np.array([[0, 0], [1, 1]], np.int32)
    A = scipy.sparse.coo_array((np.array([True, True]), (i, j)), shape=(2, 2))
    np.testing.assert_array_equal(JacobianBuilder(A).value([1, 1]), A.toarray().ravel())
    assert len(check_jacobian(A, [1.0, 2])) == 8


def test_zeros_on_a_stored_diagonal_are_entries():
    A = scipy.sparse.dia_array((np.array([[1.0, 0, 3, 9], [7, 7, 8, 9]]), [0, 2]), shape=(3, 3))
    assert JacobianBuilder(A, rows="stored").shape[0] == A.nnz == 4
    assert_same(jacobian(A, np.ones(3)), jacobian(A.toarray(), np.ones(3)).toarray())


def test_numbers_that_can_be_represented_do_not_overflow():
    """a (x + x) would; 2 (a x) does not. And nothing warns of what does."""
    builder = JacobianBuilder(np.array([[1e-5]]))
    for data in (
        builder.tocsr([1e308]).data,
        builder.slice([1e308], 0).data,
        dense_jacobian([[1e-5]], [1e308])[0],
    ):
        np.testing.assert_allclose(data, [2e303])
    huge = JacobianBuilder(np.full((2, 2), 1e10))
    assert np.isinf(huge.operator([1e300, 1]).column_norms()).all()
    assert np.isinf(huge.slice([1e300, 1], 0).data).any()
    single = JacobianBuilder(np.full((2, 2), 1e30, np.float32)).operator(
        np.full(2, 1e5, np.float32)
    )
    assert np.isinf(single.T @ np.full(4, 1e10, np.float32)).all()
    bad = JacobianBuilder(np.array([[1, 1j * np.nan], [0, 0]]), check_finite=False)
    assert np.isnan(bad.slice([np.inf, 0], 0).data).any()


def test_spare_room_and_wide_indices():
    x = np.array([1.0, 2.0])
    arrays = np.array([1.0, 2.0, 9.0]), np.array([0, 1, 7], np.int64), np.array([0, 1, 2], np.int64)
    A = scipy.sparse.csr_array((arrays[0][:2], arrays[1][:2], arrays[2]), shape=(2, 2))
    A.data, A.indices = arrays[0], arrays[1]  # SciPy's own operations leave spare elements behind
    assert_same(jacobian(A, x, rows="stored"), np.array([[2.0, 0], [0, 8.0]]))
    assert jacobian(A, x, rows="stored").indices.dtype == np.int32


def test_values_of_a_are_referenced():
    for A in (matrix(5), matrix(5, "csr", density=1.0)):
        x = integers((5,), seed=9)
        builder = JacobianBuilder(A, rows="stored")
        op = builder.operator(x)
        before = builder.tocsr(x)
        (A if isinstance(A, np.ndarray) else A.data)[...] *= 3
        assert_same(builder.tocsr(x), 3 * before.toarray())
        assert_same(op @ x, 3 * (before @ x))


def test_x_is_copied():
    x = integers((5,), seed=10)
    op = JacobianBuilder(matrix(5)).operator(x)
    before = op @ np.ones(5)
    x[:] = 0
    assert_same(op @ np.ones(5), before)


@pytest.mark.parametrize("form", ["C", "csr"])
def test_results_share_nothing(form):
    A = matrix(6, form)
    x = np.array([1.0, 0, 2, 0, 0, 3])
    builder = JacobianBuilder(A)
    first, second = builder.tocsr(x), builder.tocsr(x)
    expected = second.toarray()
    for name in ("data", "indices", "indptr"):
        one, other = getattr(first, name), getattr(second, name)
        assert one.flags.writeable
        assert not np.shares_memory(one, other)
        source = A if form == "C" else getattr(A, name)
        assert not np.shares_memory(one, source)
    first.eliminate_zeros()
    first.data[:] = 99
    assert_same(second, expected)
    assert_same(builder.tocsr(x), expected)
    i, j = builder.row_pairs()
    i[:], j[:] = 0, 0
    assert_same(builder.tocsr(x), expected)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("form", ["C", "F", "csr", "csc"])
def test_out_rewrites_the_numbers_only(form, rows):
    A = matrix(7, form, symmetric=rows == "upper")
    builder = JacobianBuilder(A, rows=rows)
    J = builder.tocsr(integers((7,), seed=11))
    arrays = J.data, J.indices, J.indptr
    x = integers((7,), seed=12)
    assert builder.tocsr(x, out=J) is J
    assert (J.data is arrays[0], J.indices is arrays[1], J.indptr is arrays[2]) == (
        True,
        True,
        True,
    )
    assert_same(J, builder.tocsr(x).toarray())
    assert builder.tocsr(x, out=J) is J  # as often as one likes


def test_iter_csr_checks_before_the_first_block():
    builder = JacobianBuilder(np.eye(3))
    with pytest.raises(ValueError, match="length 3"):
        builder.iter_csr(np.ones(4))
    with pytest.raises(ValueError, match="block_rows must be a positive integer, got 0"):
        builder.iter_csr(np.ones(3), block_rows=0)
    with pytest.raises(TypeError, match=r"block_rows must be a positive integer, got 1\.5"):
        builder.iter_csr(np.ones(3), block_rows=1.5)


def test_slice_needs_a_variable():
    builder = JacobianBuilder(np.eye(3))
    for s in (3, -1):
        with pytest.raises(IndexError, match=f"0 <= s < 3, got {s}"):
            builder.slice(np.ones(3), s)
    with pytest.raises(TypeError, match="s must be an integer"):
        builder.slice(np.ones(3), 1.0)


def test_repr_says_what_it_is():
    assert repr(JacobianBuilder(np.eye(3), rows="upper", order="F")) == (
        "<JacobianBuilder: J is 6x3, 9 entries, float64; rows='upper', order='F'>"
    )
