"""A as its user has it, turned into what the kernels read: values, and for a sparse A canonical CSR arrays.

A's own arrays wherever they are that already. Here is also what can be wrong with them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from .. import _kernels, _validation
from .._validation import Triangle
from .pattern import Indices, Pattern, index_dtype


def csr_arrays(
    A: Any, *, transposed: bool, name: str = "A"
) -> tuple[NDArray[Any], Indices, Indices]:
    """Values, indices and indptr of A, or of Aᵀ, in canonical CSR: A's own arrays wherever they are that already."""
    k = A.shape[0]
    _validation.fits(
        f"a builder for a {k}x{k} A",
        4 * (k + 1) * index_dtype(k, k, 0).itemsize,
        "leave out rows and columns without entries",
    )
    source, mirrored = A, False
    if A.format in ("csr", "csc"):
        # the arrays of a CSC matrix are those of its transposed in CSR
        mirrored = A.format == "csc"
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
        stored = (
            int(indptr[-1])
            if indptr.size == k + 1 and 0 <= indptr[-1] <= values.size
            else values.size
        )
        indices, values = indices[:stored], values[:stored]  # SciPy allows spare room at the end
        canonical = _is_canonical(indptr, indices, values.size, k, name, A.format)
        if canonical and (mirrored == transposed):
            return values, np.ascontiguousarray(indices), np.ascontiguousarray(indptr)
        source = scipy.sparse.csr_array((values, indices, indptr), shape=(k, k))
    elif A.format == "coo":
        for axis, index in zip("ij", (A.row, A.col), strict=True):
            if index.size and (index.min() < 0 or index.max() >= k):
                raise _validation.bad_structure(
                    name, "coo", f"it has an index {axis} outside 0 … {k - 1}"
                )
    elif A.format == "bsr":
        try:
            type(A)((A.data, A.indices, A.indptr), shape=A.shape).check_format(full_check=True)
        except ValueError as error:
            raise _validation.bad_structure(name, "bsr", str(error)) from None
    elif A.format == "lil":
        for i, (columns, row) in enumerate(zip(A.rows, A.data, strict=True)):
            if len(columns) != len(row) or (columns and not 0 <= min(columns) <= max(columns) < k):
                raise _validation.bad_structure(
                    name,
                    "lil",
                    f"row {i} has an index outside 0 … {k - 1}, or more indices than values",
                )
    elif A.format == "dia":
        source = _coo_of_dia(A)
    return _summed(source, to_csc=mirrored != transposed)


def _is_canonical(indptr: Any, indices: Any, count: int, k: int, name: str, format_: str) -> bool:
    """Whether a CSR (or, of the transposed, CSC) structure is canonical; refuse one that cannot be read.

    One pass, nothing allocated.
    """
    if indptr.size != k + 1:
        raise _validation.bad_structure(
            name, format_, f"indptr has {indptr.size} elements instead of {k + 1}"
        )
    if indices.size != count:
        raise _validation.bad_structure(name, format_, f"{indices.size} indices for {count} values")
    defect, line = _kernels.csr_defect(indptr, indices, 0, 0, k, k)
    line_name = "column" if format_ == "csc" else "row"
    if defect == 1:
        raise _validation.bad_structure(
            name,
            format_,
            f"indptr must start at 0, not decrease and not pass the {count} values, which fails at {line_name} {line}",
        )
    if defect == 2:
        raise _validation.bad_structure(
            name, format_, f"{line_name} {line} has an index outside 0 … {k - 1}"
        )
    return bool(defect == 0)


def _coo_of_dia(A: Any) -> scipy.sparse.coo_array:
    """All entries that a DIA matrix stores; SciPy's conversion leaves out the zeros."""
    k = A.shape[0]
    j = np.broadcast_to(np.arange(A.data.shape[1]), A.data.shape)
    i = j - A.offsets[:, np.newaxis]
    inside = (i >= 0) & (i < k) & (j < k)
    return scipy.sparse.coo_array((A.data[inside], (i[inside], j[inside])), shape=A.shape)


def _summed(source: Any, *, to_csc: bool) -> tuple[NDArray[Any], Indices, Indices]:
    """The arrays of `source` as canonical CSR, or CSC, of our own."""

    def convert(matrix: Any) -> Any:
        matrix = matrix.tocsc() if to_csc else matrix.tocsr()
        matrix = matrix.copy() if matrix is source else matrix
        matrix.sum_duplicates()
        return matrix

    result = convert(source)
    if result.dtype.kind in "iu" and result.dtype.itemsize < 8 and result.nnz < source.nnz:
        # Sums of duplicates may pass the range of a small dtype: 100 + 100 is -56 in int8.
        result = convert(source.astype(np.int64))
    return result.data, result.indices, result.indptr


def check_entries_finite(
    values: NDArray[Any],
    indices: Indices | None,
    indptr: Indices | None,
    *,
    transposed: bool,
    name: str = "A",
    part: Triangle | None = None,
) -> None:
    _validation.finite_blocks(
        name, values, lambda *where: _place(where, indices, indptr, transposed=transposed), part
    )


def _place(
    where: tuple[int, ...], indices: Indices | None, indptr: Indices | None, *, transposed: bool
) -> tuple[int, int]:
    """(i, j) of an entry that is at this place of A's values."""
    if indices is None or indptr is None:
        i, j = where
    else:
        i, j = int(np.searchsorted(indptr, where[0], side="right")) - 1, int(indices[where[0]])
    return (j, i) if transposed else (i, j)


def largest_entry(
    values: NDArray[Any],
    indices: Indices | None,
    indptr: Indices | None,
    *,
    transposed: bool,
    part: Triangle | None = None,
) -> float:
    """The largest entry; negative ones are refused. In pieces, so that no mask of A's size is made."""
    largest = 0.0
    for start, piece in _validation.pieces(values, part):
        if values.dtype.kind not in "bu" and piece.min() < 0:
            where = [int(index) for index in np.unravel_index(int(np.argmin(piece)), piece.shape)]
            i, j = _place((where[0] + start, *where[1:]), indices, indptr, transposed=transposed)
            raise _validation.negative(i, j, piece[tuple(where)])
        largest = max(largest, float(piece.max()))
    return largest


def asymmetry(
    values: NDArray[Any], indices: Indices | None, indptr: Indices | None
) -> tuple[int, int] | None:
    """Where A and Aᵀ differ first, in structure or numbers, if they do. One pass and O(k) memory, or for a dense A 1 MiB."""
    if indices is None or indptr is None:
        k, step = len(values), 256
        for i in range(0, k, step):
            for j in range(0, i + 1, step):
                tile, mirror = (
                    values[i : i + step, j : j + step],
                    values[j : j + step, i : i + step].T,
                )
                if not np.array_equal(tile, mirror, equal_nan=tile.dtype.kind in "fc"):
                    same = (tile == mirror) | (np.isnan(tile) & np.isnan(mirror))
                    a, b = np.unravel_index(int(np.argmin(same)), same.shape)
                    return i + int(a), j + int(b)
        return None
    values = _comparable(values)
    cursor, entries = np.empty_like(indptr[:-1]), np.empty_like(indptr[:-1])
    _kernels.csr_diagonals(indptr, indices, 0, 0, cursor.size, cursor, entries)
    cursor += entries >= 0
    i, j = _kernels.csr_asymmetry(indptr, indices, values, cursor)
    return (int(i), int(j)) if i >= 0 else None


def unequal(
    values: NDArray[Any], indices: Indices | None, indptr: Indices | None
) -> tuple[int, int] | None:
    """Where A is not symmetric up to rounding, if it is not: an (i, j) with ``|A_ij - A_ji| > τ max_l |A_il|``, or the same of row j.

    τ is `_validation.symmetry_tolerance`; an entry that is not stored counts as 0. One pass if A is symmetric to the bit. Otherwise three, and
    a k-vector.
    """
    found = asymmetry(values, indices, indptr)
    if found is None:
        return None
    relative = _validation.symmetry_tolerance(values.dtype)
    if indices is None or indptr is None:
        return _unequal_dense(values, relative) if relative > 0 else found
    values = _comparable(values)
    i, j = _kernels.csr_unequal(
        indptr, indices, values, relative or -1.0, np.empty(indptr.size - 1)
    )
    return (int(i), int(j)) if i >= 0 else None


def _unequal_dense(values: NDArray[Any], relative: float) -> tuple[int, int] | None:
    k, step = len(values), 256
    allowed = np.empty(k)
    for start, piece in _validation.pieces(values):
        allowed[start : start + len(piece)] = relative * np.abs(piece).max(axis=1)
    allowed[~np.isfinite(allowed)] = 0
    for i in range(0, k, step):
        for j in range(0, i + 1, step):
            tile, mirror = values[i : i + step, j : j + step], values[j : j + step, i : i + step].T
            most = np.minimum(allowed[i : i + step, np.newaxis], allowed[j : j + step])
            with np.errstate(invalid="ignore", over="ignore"):
                same = (
                    (tile == mirror)
                    | (np.isnan(tile) & np.isnan(mirror))
                    | (np.abs(tile - mirror) <= most)
                )
            if not same.all():
                a, b = np.unravel_index(int(np.argmin(same)), same.shape)
                return i + int(a), j + int(b)
    return None


def _comparable(values: NDArray[Any]) -> NDArray[Any]:
    """The values, or a copy, in a dtype that Numba knows."""
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    return values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))


# --- Y, beside A ----------------------------------------------------------------------------------------------------


def beside(
    Y: Any, values: NDArray[Any], pattern: Pattern, *, transposed: bool, check: bool
) -> NDArray[Any]:
    """Y's numbers where `values` has those of A: a k×k array beside a dense A, a vector beside the values of a sparse one.

    Y's own memory where it is that already. With `transposed`, A's values are those of Aᵀ.
    """
    k = pattern.k
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
        numbers, indices, indptr = (
            Y.data,
            pattern.indices,
            pattern.indptr,
        )  # A's structure, which has been looked at
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
    out = np.zeros(pattern.indices.size)
    numbers = numbers.astype(np.float64, copy=False)
    count, i, j = _kernels.csr_align(pattern.indptr, pattern.indices, indptr, indices, numbers, out)
    if count:
        raise _validation.outside(int(count), (j, i) if transposed else (i, j))
    return out


def _from_rows(
    y: NDArray[Any], values: NDArray[Any], pattern: Pattern, *, transposed: bool
) -> NDArray[Any]:
    k = pattern.k
    if pattern.grid is not None:
        return _gathered(y.reshape(k, k), pattern, transposed=transposed)
    if pattern.m == values.size:
        return y.reshape(values.shape)
    out = np.zeros(
        values.shape, _validation.float_dtype("Y", y.dtype)
    )  # a triangle: what is outside it is not read
    flat = out.reshape(-1)
    for i in range(k):
        flat[pattern.lo[i] : pattern.hi[i]] = y[pattern.first[i] : pattern.first[i + 1]]
    return out


def _gathered(Y: NDArray[Any], pattern: Pattern, *, transposed: bool) -> NDArray[Any]:
    """The numbers of a dense Y at the stored entries of A; it must be zero elsewhere."""
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
    """Whether two index arrays are the same, without a mask of their size."""
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
    """For ``rows="upper"``: Y must be symmetric, or have nothing below its diagonal."""
    found = unequal(y, pattern.indices, pattern.indptr)
    if found is None:
        return
    for i in range(pattern.k):
        if pattern.indptr is None:
            row, shift, end = y[i], i * pattern.k, pattern.k
        else:
            row, shift, end = (
                y[pattern.indptr[i] : pattern.indptr[i + 1]],
                int(pattern.indptr[i]),
                None,
            )
        if np.any(row[: pattern.lo[i] - shift]) or np.any(row[pattern.hi[i] - shift : end]):
            raise _validation.neither_symmetric_nor_upper(*(found[::-1] if transposed else found))
