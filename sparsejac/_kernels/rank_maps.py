"""Maps for a matrix of variables Z: F, J V, and the CSR form of J.

Row i of A has row ``i + row_offset`` of Z, and column j has row ``j + column_offset``. A dense row
has `width` entries. All of these kernels take any r.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, call-arg, index"

import numpy as np

from .compile import _map, _map_part
from .row import _NO_SIGN, _absolute, _cell, _cells, _columns, _width


@_map_part
def _dot(Z, i, V, j):
    total = -Z.dtype.type(0)  # so that the sign of a zero stays
    for c in range(Z.shape[1]):
        total += Z[i, c] * V[j, c]
    return total


@_map
def rank_value(
    data, indices, base, lo, hi, first, grid, i0, i1,
    aligned, aligned_base, width, row_offset, column_offset, Z, out,
):  # fmt: skip
    """``F_ij = A_ij (x_i·x_j)``, or ``F_ij - Y_ij`` unless `aligned` is empty."""
    for i in range(i0, i1):
        start, n, s = lo[i] - base, hi[i] - lo[i], (i + row_offset) & _NO_SIGN
        columns = _columns(indices, start, n)
        a, cells = data[start : start + n], _cells(out, 0, grid, i, first[i], n)
        j0 = int(lo[i]) - i * width
        for e in range(n):
            j = (_absolute(columns, j0, e) + column_offset) & _NO_SIGN
            f = a[e] * _dot(Z, s, Z, j)
            cells[_cell(columns, grid, e)] = (
                f if aligned.size == 0 else f - aligned[lo[i] + e - aligned_base]
            )


@_map
def rank_matvec(
    data, indices, base, lo, hi, first, grid, i0, i1,
    width, row_offset, column_offset, Z, V, out,
):  # fmt: skip
    """``(J V)_ij = A_ij (v_i·x_j + x_i·v_j)``."""
    for i in range(i0, i1):
        start, n, s = lo[i] - base, hi[i] - lo[i], (i + row_offset) & _NO_SIGN
        columns = _columns(indices, start, n)
        a, cells = data[start : start + n], _cells(out, 0, grid, i, first[i], n)
        j0 = int(lo[i]) - i * width
        for e in range(n):
            j = (_absolute(columns, j0, e) + column_offset) & _NO_SIGN
            cells[_cell(columns, grid, e)] = a[e] * (_dot(V, s, Z, j) + _dot(Z, s, V, j))


@_map
def rank_csr_data(
    data, indices, base, lo, hi, first, grid, i0, i1,
    diagonal, start, stop, shift, width, row_offset, column_offset, Z, out,
):  # fmt: skip
    """The numbers of J's CSR form: ``A_ij x_j`` for the columns of x_i, ``A_ij x_i`` for x_j's.

    `start`, `stop` and `diagonal` are as in `csr_data`, and so is `shift`, times r.
    """
    rank = Z.shape[1]
    for i in range(i0, i1):
        p, s = max(lo[i], start), (i + row_offset) & _NO_SIGN
        n = min(hi[i], stop) - p
        if n <= 0:
            continue
        a, columns = data[p - base : p - base + n], _columns(indices, p - base, n)
        j0 = int(p) - i * width
        # Only the first row of a block can start inside its row of A. Nothing precedes it then.
        o = (2 * first[i] - diagonal[i]) * rank - shift if p == lo[i] else 0
        for e in range(n):
            j = (_absolute(columns, j0, e) + column_offset) & _NO_SIGN
            t = a[e]
            if j == s:
                for c in range(rank):
                    out[o + c] = 2 * (t * Z[s, c])
                o += rank
                continue
            before, behind = (s, j) if j < s else (j, s)
            for c in range(rank):
                out[o + c] = t * Z[before, c]
                out[o + rank + c] = t * Z[behind, c]
            o += 2 * rank


@_map
def rank_csr_indices(
    data, indices, base, lo, hi, first, grid, i0, i1,
    diagonal, start, stop, shift, row0, row1, width, row_offset, column_offset, rank,
    columns_out, indptr,
):  # fmt: skip
    """The columns and row pointers of J's CSR form: see `rank_csr_data` and `csr_indices`."""
    places = _width(grid)
    for i in range(i0, i1):
        p, s = max(lo[i], start), i + row_offset
        n = min(hi[i], stop) - p
        if n <= 0 and places < 0:
            continue
        n = max(n, 0)
        columns = _columns(indices, p - base, n)
        j0 = int(p) - i * width
        o = (2 * first[i] - diagonal[i]) * rank - shift if p == lo[i] else 0
        r = max(i * places, row0) if places >= 0 else first[i] + (p - lo[i])
        for e in range(n):
            j = _absolute(columns, j0, e) + column_offset
            if places >= 0:  # rows of J for which A has no entry
                for empty in range(r, i * places + _absolute(columns, j0, e)):
                    indptr[empty - row0 + 1] = o
                r = i * places + _absolute(columns, j0, e)
            for c in range(rank):
                columns_out[o + c] = min(s, j) * rank + c
            o += rank
            if j != s:
                for c in range(rank):
                    columns_out[o + c] = max(s, j) * rank + c
                o += rank
            indptr[r - row0 + 1] = o
            r += 1
        if places >= 0:
            for empty in range(r, min((i + 1) * places, row1)):
                indptr[empty - row0 + 1] = o


@_map
def rank_max_abs(
    data, indices, base, lo, hi, first, grid, i0, i1, width, row_offset, column_offset, Z, out
):
    """The largest ``|A_ij (x_i·x_j)|`` of each row and of each column, NaN if there is one."""
    for i in range(i0, i1):
        start, n, s = lo[i] - base, hi[i] - lo[i], (i + row_offset) & _NO_SIGN
        columns = _columns(indices, start, n)
        j0 = int(lo[i]) - i * width
        for e in range(n):
            j = (_absolute(columns, j0, e) + column_offset) & _NO_SIGN
            f = abs(data[start + e] * _dot(Z, s, Z, j))
            if f > out[s, 0] or f != f:  # noqa: PLR0124  # that is the test for NaN
                out[s, 0] = f
            if f > out[j, 1] or f != f:  # noqa: PLR0124
                out[j, 1] = f


def _largest(total, part):
    np.maximum(total, part, out=total)


rank_max_abs.combine = _largest
