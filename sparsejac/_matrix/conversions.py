"""Matrices in memory as the kernels read them: canonical CSR arrays, and both triangles.

The arrays are the user's own if they are in that form already. Their structure is checked.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from .. import _kernels, _validation
from .._system.signals import unless_signalled
from .._validation import Uplo
from .entries import wide
from .indices import Indices, frozen, index_dtype


def csr_arrays(
    A: Any, *, transposed: bool, name: str = "A"
) -> tuple[NDArray[Any], Indices, Indices]:
    """Values, indices and indptr of A, or of Aᵀ, in canonical CSR.

    They are A's own arrays if these are canonical already. A need not be square.
    """
    m, n = A.shape
    k = max(m, n)
    _validation.fits(
        f"a builder for a {m}x{n} A",
        4 * (k + 1) * index_dtype(k, k, 0).itemsize,
        "leave out rows and columns without entries",
    )
    source, mirrored = A, False
    if A.format in ("csr", "csc"):
        # The arrays of a CSC matrix are those of its transpose in CSR.
        mirrored = A.format == "csc"
        lines, width = (n, m) if mirrored else (m, n)
        values, indices, indptr = A.data, A.indices, A.indptr
        for part_name, part in (("data", values), ("indices", indices), ("indptr", indptr)):
            if part.ndim != 1:
                raise _validation.bad_structure(
                    name, A.format, f"its {part_name} has {part.ndim} dimensions instead of 1"
                )
        if indices.dtype != indptr.dtype or indices.dtype not in (np.int32, np.int64):
            if indices.dtype.kind not in "iu" or indptr.dtype.kind not in "iu":
                raise _validation.bad_structure(
                    name, A.format, f"its index arrays are {indices.dtype} and {indptr.dtype}"
                )
            indices, indptr = indices.astype(np.int64), indptr.astype(np.int64)
        stored = values.size
        if indptr.size == lines + 1 and 0 <= indptr[-1] <= values.size:
            stored = int(indptr[-1])
        indices, values = (
            indices[:stored],
            values[:stored],
        )  # SciPy allows spare elements at the end
        canonical = _is_canonical(indptr, indices, values.size, lines, width, name, A.format)
        if canonical and (mirrored == transposed):
            return values, np.ascontiguousarray(indices), np.ascontiguousarray(indptr)
        source = scipy.sparse.csr_array((values, indices, indptr), shape=(lines, width))
    elif A.format == "coo":
        for axis, index, size in zip("ij", (A.row, A.col), (m, n), strict=True):
            if index.size and (index.min() < 0 or index.max() >= size):
                raise _validation.bad_structure(
                    name, "coo", f"it has an index {axis} outside 0 … {size - 1}"
                )
    elif A.format == "bsr":
        # SciPy does not look at a structure whose last pointer is not positive, or multiplies it.
        if A.indptr.size and (A.indptr[-1] < 0 or (A.indptr[1:] < A.indptr[:-1]).any()):
            raise _validation.bad_structure(name, "bsr", "indptr must start at 0 and not decrease")
        try:
            type(A)((A.data, A.indices, A.indptr), shape=A.shape).check_format(full_check=True)
        except unless_signalled(ValueError) as error:
            raise _validation.bad_structure(name, "bsr", str(error)) from None
    elif A.format == "lil":
        for i, (columns, row) in enumerate(zip(A.rows, A.data, strict=True)):
            if len(columns) != len(row) or (columns and not 0 <= min(columns) <= max(columns) < n):
                raise _validation.bad_structure(
                    name,
                    "lil",
                    f"row {i} has an index outside 0 … {n - 1}, or more indices than values",
                )
    elif A.format == "dia":
        source = _coo_of_dia(A)
    return _summed(source, to_csc=mirrored != transposed)


def _is_canonical(
    indptr: Any, indices: Any, count: int, lines: int, width: int, name: str, format_: str
) -> bool:
    """Whether a CSR or CSC structure is canonical. A structure that cannot be read is refused.

    A has so many `lines`, rows or columns, of so many numbers. This takes one pass, and allocates
    nothing.
    """
    if indptr.size != lines + 1:
        raise _validation.bad_structure(
            name, format_, f"indptr has {indptr.size} elements instead of {lines + 1}"
        )
    if indices.size != count:
        raise _validation.bad_structure(name, format_, f"{indices.size} indices for {count} values")
    defect, line = _kernels.csr_defect(frozen(indptr), frozen(indices), 0, 0, lines, width)
    line_name = "column" if format_ == "csc" else "row"
    if defect == 1:
        raise _validation.bad_structure(
            name,
            format_,
            f"indptr must start at 0, not decrease and not pass the {count} values, "
            f"which fails at {line_name} {line}",
        )
    if defect == 2:
        raise _validation.bad_structure(
            name, format_, f"{line_name} {line} has an index outside 0 … {width - 1}"
        )
    return bool(defect == 0)


def _coo_of_dia(A: Any) -> scipy.sparse.coo_array:
    """All entries that a DIA matrix stores. SciPy's conversion would leave out the zeros."""
    m, n = A.shape
    j = np.broadcast_to(np.arange(A.data.shape[1]), A.data.shape)
    i = j - A.offsets[:, np.newaxis]
    inside = (i >= 0) & (i < m) & (j < n)
    return scipy.sparse.coo_array((A.data[inside], (i[inside], j[inside])), shape=A.shape)


def _summed(source: Any, *, to_csc: bool) -> tuple[NDArray[Any], Indices, Indices]:
    """The arrays of a copy of `source` in canonical CSR or CSC."""

    def convert(matrix: Any) -> Any:
        matrix = matrix.tocsc() if to_csc else matrix.tocsr()
        matrix = matrix.copy() if matrix is source else matrix
        matrix.sum_duplicates()
        return matrix

    result = convert(source)
    if result.nnz < source.nnz:
        result = _wider(result, source, convert)
    return result.data, result.indices, result.indptr


def _wider(result: Any, source: Any, convert: Any) -> Any:
    """`result` with sums of duplicates from a wider dtype, if those of its own may be wrong."""
    dtype = result.dtype
    if dtype.kind in "fc" and dtype.itemsize < wide(dtype).itemsize:
        with np.errstate(over="ignore", invalid="ignore"):
            return convert(source.astype(wide(dtype))).astype(dtype)
    if dtype.kind in "iu" and dtype.itemsize < 8:
        return convert(source.astype(np.int64))  # 100 + 100 is -56 in int8
    if dtype.kind in "iu":
        doubles = convert(source.astype(np.float64))
        # A sum that is right but for a multiple of 2⁶⁴ is right if it is in this range.
        if np.abs(doubles.data).max(initial=0) > np.iinfo(dtype).max // 2:
            return doubles
    return result


def completed(A: Any, uplo: Uplo) -> Any:
    """A copy, with both triangles, of an A that holds one: k² numbers, or twice the entries.

    Entries of a sparse A outside its triangle are refused unless they are zero.
    """
    k = A.shape[0]
    if not scipy.sparse.issparse(A):
        hint = 'pass rows="upper", which reads the triangle where it is'
        _validation.fits("a whole copy of A", k * k * A.dtype.itemsize, hint)
        whole = np.array(A)
        for row in range(k):
            rest = slice(row) if uplo == "U" else slice(row + 1, k)
            whole[row, rest] = A[rest, row]
        return whole
    values, j, indptr = csr_arrays(A, transposed=False)
    i = np.repeat(np.arange(k, dtype=j.dtype), np.diff(indptr))
    inside = i <= j if uplo == "U" else i >= j
    outside = np.count_nonzero(values[~inside])
    if outside:
        raise _validation.outside_triangle(uplo, int(outside))
    i, j, values = i[inside], j[inside], values[inside]
    off = i != j
    places = np.concatenate([i, j[off]]), np.concatenate([j, i[off]])
    return scipy.sparse.coo_array((np.concatenate([values, values[off]]), places), shape=(k, k))
