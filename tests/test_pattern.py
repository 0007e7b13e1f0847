"""The index arithmetic: which integers are wide enough, and where J can be row_offset."""

import tracemalloc

import numpy as np
import pytest
import scipy.sparse

from sparsejac import JacobianBuilder
from sparsejac._matrix.indices import index_dtype, searchsorted


def huge(k):
    """A dense k×k matrix of ones that takes eight bytes."""
    return np.broadcast_to(np.float64(1), (k, k))


@pytest.mark.parametrize(("k", "dtype"), [(32_768, np.int32), (32_769, np.int64)])
def test_dense_indices_are_int32_while_they_fit(k, dtype):
    builder = JacobianBuilder(huge(k), check_finite=False)
    size = np.dtype(dtype).itemsize
    assert builder.shape == (k**2, k)
    assert builder.nnz == 2 * k**2 - k
    assert builder.csr_nbytes() == builder.nnz * (8 + size) + (k**2 + 1) * size
    assert builder._assembly.columns_dtype == dtype
    # A dry run: the last rows of J, as they would stand in the whole.
    last = builder._pattern.row_offset(k**2 - 3), builder._pattern.row_offset(k**2)
    block = builder._assembly._block(np.ones(k), k**2 - 3, k**2, *last, np.dtype(dtype))
    np.testing.assert_array_equal(block.indices, [k - 3, k - 1, k - 2, k - 1, k - 1])
    assert last[0].nnz + block.nnz == builder.nnz


@pytest.mark.parametrize(("k", "dtype"), [(46_340, np.int32), (46_341, np.int64)])
def test_sparse_indices_with_all_rows_are_int32_while_they_fit(k, dtype):
    A = scipy.sparse.eye_array(k, format="csr")
    builder = JacobianBuilder(A)
    size = np.dtype(dtype).itemsize
    assert builder.csr_nbytes() == k * (8 + size) + (k**2 + 1) * size
    assert builder._assembly.columns_dtype == dtype
    assert JacobianBuilder(A, rows="stored")._assembly.columns_dtype == np.int32


def test_boundary_of_the_index_dtype():
    limit = 2**31
    for sizes in [(limit, 1, 1), (1, limit, 1), (1, 1, limit)]:
        assert index_dtype(*sizes) == np.int64
    assert index_dtype(limit - 1, limit - 1, limit - 1) == np.int32


def test_int64_index_arrays_are_written(monkeypatch):
    """What a J of more than 2³¹ entries is made of, at a size that fits: the same kernels, with
    int64 arrays.
    """
    builder = JacobianBuilder(np.arange(16.0).reshape(4, 4))
    x = np.arange(1.0, 5)
    expected = builder.tocsr(x)
    monkeypatch.setattr("sparsejac._operators.assembly.index_dtype", lambda *_: np.dtype(np.int64))
    J = builder.tocsr(x)
    assert J.indices.dtype == J.indptr.dtype == np.int64
    np.testing.assert_array_equal(J.toarray(), expected.toarray())


@pytest.mark.slow
def test_all_rows_of_a_huge_sparse_matrix_in_blocks():
    """k² rows that nobody could point at: still, each block is right."""
    k = 10**7
    A = scipy.sparse.csr_array((np.array([5.0]), ([k - 1], [3])), shape=(k, k))
    builder = JacobianBuilder(A)
    assert builder.shape == (10**14, k)
    start = (k - 1) * k
    block = builder._assembly._block(
        np.full(k, 2.0),
        start,
        start + 5,
        builder._pattern.row_offset(start),
        builder._pattern.row_offset(start + 5),
        np.dtype(np.int64),
    )
    np.testing.assert_array_equal(block.indptr, [0, 0, 0, 0, 2, 2])
    np.testing.assert_array_equal(block.indices, [3, k - 1])
    np.testing.assert_array_equal(block.data, [10, 10])


def test_searching_converts_nothing():
    array = np.arange(10**6, dtype=np.int32)
    tracemalloc.start()
    try:
        assert searchsorted(array, 77) == 77
        assert searchsorted(array, 77, side="right") == 78
        assert searchsorted(array, 2**40) == 10**6
        assert tracemalloc.get_traced_memory()[1] < 10_000
    finally:
        tracemalloc.stop()


def test_rows_without_columns_make_blocks():
    pattern = JacobianBuilder(np.ones((3, 0)), bilinear=True)._pattern
    assert pattern.next_block(1, 7, 2) == 8
