"""Loops over the structure of A: order, symmetry, alignment, diagonals."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, call-arg, index"

import numpy as np

from .compile import _inline, _map
from .row import _NO_SIGN, _prefetch

# --- a Fortran-ordered matrix -------------------------------------------------------------------


@_map
def transpose(source, i0, out):
    """``out[i, j] = source[j, i0 + i]`` for a square source.

    It takes whole cache lines of both, and asks early for those of `source`.
    """
    n, k = out.shape
    for j in range(0, k - 7, 8):
        s0, s1, s2, s3 = source[j, i0:], source[j + 1, i0:], source[j + 2, i0:], source[j + 3, i0:]
        s4, s5, s6, s7 = (
            source[j + 4, i0:],
            source[j + 5, i0:],
            source[j + 6, i0:],
            source[j + 7, i0:],
        )
        ahead = min(j + 16, k - 8) * k + i0
        for i in range(n):
            if i % 8 == 0:
                for c in range(8):
                    _prefetch(source, ahead + c * k + i)
            cells = out[i, j : j + 8]
            cells[0], cells[1], cells[2], cells[3] = s0[i], s1[i], s2[i], s3[i]
            cells[4], cells[5], cells[6], cells[7] = s4[i], s5[i], s6[i], s7[i]
    for j in range(k // 8 * 8, k):
        for i in range(n):
            out[i, j] = source[j, i0 + i]


# --- the structure of a CSR matrix --------------------------------------------------------------


@_map
def csr_defect(indptr, indices, base, i0, i1, k):
    """What is wrong with a CSR structure, and in which row.

    0 is nothing, 1 indptr, 2 a column that A does not have, 3 columns that are not in ascending
    order or come twice. The worst one found counts: 3 can be mended, 1 and 2 not.
    """
    if indptr[0] != 0:
        return 1, 0
    for i in range(i0, i1):
        if indptr[i + 1] < indptr[i] or indptr[i + 1] - base > indices.size:
            return 1, i
    defect, row = 0, 0
    for i in range(i0, i1):
        columns = indices[indptr[i] - base : indptr[i + 1] - base]
        n, falls = columns.size, 0
        # No exit and no range test, so it vectorises: if they ascend, the ends tell the range.
        for q in range(n - 1):
            falls += columns[q] >= columns[q + 1]
        if n == 0 or (falls == 0 and columns[0] >= 0 and columns[n - 1] < k):
            continue
        for j in columns:
            if j < 0 or j >= k:
                return 2, i
        defect, row = 3, i
    return defect, row


@_map
def csr_asymmetry(indptr, indices, data, cursor):
    """An (i, j) with ``A_ij != A_ji``, or (-1, -1).

    `cursor` is where each row has what is right of its diagonal, and is used up. Rows are visited
    in ascending order. So the entries right of the diagonal of row j are met, transposed, in the
    order in which they are stored, and ``cursor[j]`` is the one that must come next. This takes
    half a pass, and no transposed copy.
    """
    for i in range(cursor.size):
        for p in range(indptr[i] & _NO_SIGN, indptr[i + 1] & _NO_SIGN):
            j = indices[p] & _NO_SIGN
            if j >= i:
                break
            q = cursor[j] & _NO_SIGN
            if q == indptr[j + 1] or indices[q] > i:
                return i, j
            if indices[q] < i:  # stored, but its mirror image was never met
                return np.int64(indices[q]), j
            if data[p] != data[q] and not (np.isnan(data[p]) and np.isnan(data[q])):
                return i, j
            cursor[j] = q + 1
    for j in range(cursor.size):
        if cursor[j] < indptr[j + 1]:
            return np.int64(indices[cursor[j]]), j
    return -1, -1


@_map
def csr_unequal(indptr, indices, data, relative, tolerance):
    """An (i, j) with ``|A_ij - A_ji| > relative max_l |A_il|``, or the same of row j, or (-1, -1).

    An entry that is not stored counts as 0. `relative` < 0 accepts equal numbers only, as the
    difference of two large integers may round to 0. `tolerance` is a k-vector to work with.
    """
    for i in range(indptr.size - 1):
        largest = 0.0
        for p in range(indptr[i], indptr[i + 1]):
            largest = max(largest, abs(1.0 * data[p]))
        tolerance[i] = -1.0 if relative < 0 else relative * largest if np.isfinite(largest) else 0.0
    for i in range(indptr.size - 1):
        for p in range(indptr[i], indptr[i + 1]):
            j, a = indices[p], data[p]
            q = _search(indices, indptr[j], indptr[j + 1], i)
            b = data[q] if q < indptr[j + 1] and indices[q] == i else data.dtype.type(0)
            if a == b or (np.isnan(a) and np.isnan(b)):
                continue
            # This is true of NaN and a number, too.
            if not abs(1.0 * a - 1.0 * b) <= min(tolerance[i], tolerance[j]):
                return i, np.int64(j)
    return -1, -1


@_map
def csr_align(indptr, indices, base, i0, i1, lo, hi, other_indices, other_base, other, out):
    """Write the numbers of another CSR matrix to where rows ``i0 <= i < i1`` have their entries.

    Its entries ``lo[i] <= q < hi[i]`` are read. Numbers before `base` and `other_base` are not in
    the arrays. Returns how many of its nonzero entries have no place here, and the first of them.
    """
    count, first_i, first_j = 0, -1, -1
    for i in range(i0, i1):
        p, end = indptr[i] - base, indptr[i + 1] - base
        for q in range(lo[i] - other_base, hi[i] - other_base):
            j = other_indices[q]
            while p < end and indices[p] < j:
                p += 1
            if p < end and indices[p] == j:
                out[p] = other[q]
            elif other[q] != 0:
                if count == 0:
                    first_i, first_j = i, j
                count += 1
    return count, first_i, first_j


@_inline
def _search(indices, low, high, column):
    """The first of the sorted entries ``low <= p < high`` whose column is not left of this one."""
    while low < high:
        middle = (low + high) // 2
        if indices[middle] < column:
            low = middle + 1
        else:
            high = middle
    return low


@_map
def csr_diagonals(indptr, indices, base, i0, i1, split, entries):
    """Which entry of each row is on the diagonal, or -1, and where what is not left of it starts.

    `split` may be None.
    """
    for i in range(i0, i1):
        end = indptr[i + 1] - base
        p = _search(indices, indptr[i] - base, end, i)
        entries[i] = p + base if p < end and indices[p] == i else -1
        if split is not None:
            split[i] = p + base


@_map
def csr_spans(indptr, indices, base, i0, i1, left, right, lo, hi):
    """The entries of each row whose columns are ``left[i] <= j < right[i]``."""
    for i in range(i0, i1):
        end = indptr[i + 1] - base
        p = _search(indices, indptr[i] - base, end, left[i])
        lo[i] = p + base
        hi[i] = _search(indices, p, end, right[i]) + base


@_map
def csr_column(lo, hi, indices, base, i0, i1, s, positions):
    """The entry of each row that is in column s, or -1."""
    for i in range(i0, i1):
        end = hi[i] - base
        p = _search(indices, lo[i] - base, end, s)
        positions[i] = p + base if p < end and indices[p] == s else -1
