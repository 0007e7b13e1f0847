"""A Y in memory, aligned with an A in memory: the numbers of Y at the entries of A."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from .. import _kernels, _validation
from .csr import CsrMemory
from .dense import DenseMemory
from .layout import Layout
from .memory import check_entries_finite, csr_arrays, unequal
from .pattern import Indices, Pattern, frozen


def aligned(
    Y: Any, source: DenseMemory | CsrMemory, pattern: Pattern, layout: Layout, *, check: bool
) -> NDArray[Any]:
    """The numbers of Y at the entries of A, in the order in which the source has them.

    They are a k×k array for a dense A, and a vector for a sparse one. If Y has them in this order
    already, they are Y's own memory.
    """
    k, values, transposed = pattern.k, source.values, layout.pairs_transposed
    if not scipy.sparse.issparse(Y):
        if Y.ndim == 1:  # in the order of J's rows
            if check:
                _validation.finite_blocks("Y", Y, lambda r: (r,))
            return _from_rows(Y, values, pattern, transposed=transposed)
        oriented = Y.T if transposed else Y
        if check:
            check_entries_finite(oriented, None, None, transposed=transposed, name="Y")
        if pattern.indices is not None:
            return _gathered(oriented, pattern, transposed=transposed)
        return oriented
    if (
        Y.format == ("csc" if transposed else "csr")
        and Y.data.shape == Y.indices.shape
        and _equal(Y.indptr, pattern.indptr)
        and _equal(Y.indices, pattern.indices)
    ):
        # Y has A's structure, which is checked already.
        numbers, indices, indptr = Y.data, pattern.indices, pattern.indptr
    else:
        numbers, indices, indptr = csr_arrays(Y, transposed=transposed, name="Y")
    if check:
        check_entries_finite(numbers, indices, indptr, transposed=transposed, name="Y")
    if pattern.indices is None:
        _validation.fits(
            "Y as a dense array, as A is one,",
            k * k * numbers.dtype.itemsize,
            "pass A as a sparse matrix",
        )
        return scipy.sparse.csr_array((numbers, indices, indptr), shape=(k, k)).toarray()
    assert pattern.indptr is not None
    if indices is pattern.indices or (
        _equal(indptr, pattern.indptr) and _equal(indices, pattern.indices)
    ):
        return numbers
    assert indices is not None
    assert indptr is not None
    out = np.zeros(pattern.indices.size)
    numbers = numbers.astype(np.float64, copy=False)
    count, i, j = _kernels.csr_align(
        pattern.indptr, pattern.indices, frozen(indptr), frozen(indices), frozen(numbers), out
    )
    if count:
        raise _validation.outside(int(count), (j, i) if transposed else (i, j))
    return out


def _from_rows(
    y: NDArray[Any], values: NDArray[Any], pattern: Pattern, *, transposed: bool
) -> NDArray[Any]:
    """Align a vector y that has a number for each row of J."""
    k = pattern.k
    if pattern.grid is not None:
        return _gathered(y.reshape(k, k), pattern, transposed=transposed)
    if pattern.m == values.size:
        return y.reshape(values.shape)
    # J's rows are a triangle. Numbers outside it are not read.
    out = np.zeros(values.shape, _validation.float_dtype("Y", y.dtype))
    flat = out.reshape(-1)
    for i in range(k):
        flat[pattern.lo[i] : pattern.hi[i]] = y[pattern.first[i] : pattern.first[i + 1]]
    return out


def _gathered(Y: NDArray[Any], pattern: Pattern, *, transposed: bool) -> NDArray[Any]:
    """The numbers of a dense Y at the stored entries of A. Y must be zero elsewhere."""
    assert pattern.indices is not None
    assert pattern.indptr is not None
    indices, indptr = pattern.indices, pattern.indptr
    out = np.empty(indices.size, Y.dtype)
    for i in range(pattern.k):
        row = slice(indptr[i], indptr[i + 1])
        out[row] = Y[i, indices[row]]
        left_out = np.count_nonzero(Y[i]) - np.count_nonzero(out[row])
        if left_out:
            others = np.array(Y[i])
            others[indices[row]] = 0
            count = left_out + sum(
                np.count_nonzero(Y[r]) - np.count_nonzero(Y[r, indices[indptr[r] : indptr[r + 1]]])
                for r in range(i + 1, pattern.k)
            )
            j = int(np.flatnonzero(others)[0])
            raise _validation.outside(int(count), (j, i) if transposed else (i, j))
    return out


def _equal(one: Indices | None, other: Indices | None) -> bool:
    """Whether two index arrays are equal. No mask of their size is made."""
    if one is None or other is None or one.shape != other.shape:
        return False
    if (
        np.shares_memory(one, other)
        and one.ctypes.data == other.ctypes.data
        and one.strides == other.strides
    ):
        return True
    step = 2**15
    return all(
        np.array_equal(one[p : p + step], other[p : p + step]) for p in range(0, one.size, step)
    )


def check_triangle(y: NDArray[Any], pattern: Pattern, *, transposed: bool) -> None:
    """For ``rows="upper"``, refuse a Y that is neither symmetric nor zero below its diagonal."""
    found = unequal(y, pattern.indices, pattern.indptr)
    if found is None:
        return
    for i in range(pattern.k):
        if pattern.indptr is None:
            row, shift, end = y[i], i * pattern.k, pattern.k
        else:
            row = y[pattern.indptr[i] : pattern.indptr[i + 1]]
            shift, end = int(pattern.indptr[i]), None
        if np.any(row[: pattern.lo[i] - shift]) or np.any(row[pattern.hi[i] - shift : end]):
            raise _validation.neither_symmetric_nor_upper(*(found[::-1] if transposed else found))
