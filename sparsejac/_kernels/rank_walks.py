"""The walks for a matrix of variables Z with a row of r numbers for each row and column of A.

They are templates, as those of `walks` are, and `rank` makes kernels of them. The row of Z that
belongs to row i of A is ``i + row_offset``, and that of column j is ``j + column_offset``. The
offsets are 0, unless the rows and the columns of A have variables of their own. A dense row has
`width` entries. What a template leaves open, apart from what `walks` explains, is

``DOT_X, DOT_V, GIVEN_V, BETA, SCALAR``
    What the edge function reads and returns. ``xx`` is ``x_i·x_j``. ``xv`` is
    ``x_i·v_j + v_i·x_j``. It returns α, β and a scalar, and the entry contributes
    ``α x_j + β v_j`` at i, and ``α x_i + β v_i`` at j.
``FIXED, RANK, R``
    Whether r is fixed when the kernel is compiled, and its value. If so, Z, V and the sums are
    interleaved in `out`, so that what an entry needs of them lies in few cache lines.
"""

# mypy: ignore-errors

import numpy as np

from . import TILE
from .lanes import _dot, _two_dots
from .row import _CACHED, _NO_SIGN, _ahead_of_row, _cell, _cells

XX, XV = 8 * TILE, 12 * TILE  # where `room` has the dot products


def rank_sparse(data, indices, base, lo, hi, first, grid, i0, i1):
    """Add what the entries of sparse rows contribute to the sums in `out`.

    A row of `out` has those of Z, of V if it is given, and of the sums, which have r numbers each,
    or if r is not fixed, zeros up to a multiple of four. The scalar is behind the last of the sums.
    """
    one, zero, far = out.dtype.type(1), out.dtype.type(0), out.size > _CACHED
    if FIXED:
        pass
    else:
        length = out.shape[1]
        own = length // PLANES
        fours = own // 4
    if SCALAR:
        scalar = out[out.shape[0] - 1, SUMS if FIXED else own]
    for i in range(i0, i1):
        start, n, s = lo[i] - base, hi[i] - lo[i], (i + row_offset) & _NO_SIGN
        a, columns = data[start : start + n], indices[start : start + n]
        if ALIGNED:
            if BY_ENTRY:
                y = aligned[lo[i] - aligned_base :][:n]
            else:
                y = _cells(aligned, aligned_base, grid, i, first[i], n)
        if FIXED:
            for c in RANK:
                xi[c], total[c] = out[s, c], zero
            if GIVEN_V:
                for c in RANK:
                    vi[c] = out[s, R + c]
        else:
            Zi = s * length
            Vi, at_i = Zi + own, Zi + (PLANES - 1) * own
        for e in range(n):
            if far:
                _ahead_of_row(out, indices, start + e, column_offset)
            j = (columns[e] + column_offset) & _NO_SIGN
            if FIXED:
                for c in RANK:
                    xj[c] = out[j, c]
                if GIVEN_V:
                    for c in RANK:
                        vj[c] = out[j, R + c]
                if DOT_X:
                    xx = zero
                    for c in RANK:
                        xx += xi[c] * xj[c]
                if DOT_V:
                    xv = zero
                    for c in RANK:
                        xv += xi[c] * vj[c] + vi[c] * xj[c]
            else:
                Zj = j * length
                Vj, at_j = Zj + own, Zj + (PLANES - 1) * own
                if DOT_X:
                    xx = _dot(out, Zi, Zj, fours)
                if DOT_V:
                    xv = _two_dots(out, Zi, Vj, Vi, Zj, fours)
            number = y[e if BY_ENTRY else _cell(columns, grid, e)] if ALIGNED else None
            found = EDGE(one * a[e], number, None, None)
            alpha, beta, more = found
            if FIXED:
                for c in RANK:
                    if BETA:
                        total[c] += alpha * CONJ(xj[c]) + beta * vj[c]
                        out[j, SUMS + c] += alpha * CONJ(xi[c]) + beta * vi[c]
                    else:
                        total[c] += alpha * CONJ(xj[c])
                        out[j, SUMS + c] += alpha * CONJ(xi[c])
            else:
                alpha = one * alpha
                ADD(out, at_i, Zj, at_j, Zi, alpha, fours)
                if BETA:
                    beta = one * beta
                    ADD(out, at_i, Vj, at_j, Vi, beta, fours)
            if SCALAR:
                scalar += more
        if FIXED:
            for c in RANK:
                out[s, SUMS + c] += total[c]
    if SCALAR:
        out[out.shape[0] - 1, SUMS if FIXED else own] = scalar


def rank_dense(data, indices, base, lo, hi, first, grid, i0, i1):
    """`rank_sparse` for four dense rows at a time, a tile of their columns after the other.

    Z, V and the sums are transposed, so that neighbours along the columns are neighbours in memory.
    The scalar is behind the first row of the sums. `room` holds α, β and the dot products of the
    four rows in a tile, and `total` their sums at i. Rows that are cut at a multiple of four, and
    added one part after the other, give the same bits as in one call.
    """
    one, zero, rank = out.dtype.type(1), out.dtype.type(0), Z.shape[0]
    if SCALAR:
        scalar = out[0, out.shape[1] - 1]
    for i in range(i0, i1, 4):
        rows = min(4, i1 - i)
        left, right = width, np.int64(0)
        for r in range(rows):
            if lo[i + r] < hi[i + r]:
                left = min(left, np.int64(lo[i + r] - (i + r) * width))
                right = max(right, np.int64(hi[i + r] - (i + r) * width))
        total[:] = 0
        for r in ROWS:
            s[r] = i + min(r, rows - 1) + row_offset
        for begin in range(left, right, TILE):
            n, j = min(TILE, right - begin), begin + column_offset
            if DOT_X:
                room[XX : XX + 4 * TILE] = 0
                for b in range(rank):
                    near_0 = Z[b, j : j + n]
                    for r in ROWS:
                        f[r] = Z[b, s[r]]
                    for e in range(n):
                        for r in ROWS:
                            room[XX + r * TILE + e] += f[r] * near_0[e]
            if DOT_V:
                room[XV : XV + 4 * TILE] = 0
                for b in range(rank):
                    near_0, far_0 = Z[b, j : j + n], V[b, j : j + n]
                    for r in ROWS:
                        f[r], g[r] = Z[b, s[r]], V[b, s[r]]
                    for e in range(n):
                        for r in ROWS:
                            room[XV + r * TILE + e] += f[r] * far_0[e] + g[r] * near_0[e]
            for r in range(rows):
                row = (i + r) * width + begin
                inside = max(lo[i + r], row)
                before, count = inside - row, min(hi[i + r], row + n) - inside
                if count < n:  # what is outside the range of the row is not read
                    room[r * TILE : r * TILE + n] = 0
                    if BETA:
                        room[(4 + r) * TILE : (4 + r) * TILE + n] = 0
                    if count <= 0:
                        continue
                a, alphas = data[inside - base :][:count], room[r * TILE + before :][:count]
                if ALIGNED:
                    p = inside if BY_ENTRY else first[i + r] + inside - lo[i + r]
                    y = aligned[p - aligned_base :][:count]
                if BETA:
                    betas = room[(4 + r) * TILE + before :][:count]
                if DOT_X:
                    xxs = room[XX + r * TILE + before :][:count]
                if DOT_V:
                    xvs = room[XV + r * TILE + before :][:count]
                for e in range(count):
                    if DOT_X:
                        xx = xxs[e]
                    if DOT_V:
                        xv = xvs[e]
                    found = EDGE(one * a[e], y[e], None, None)
                    alpha, beta, more = found
                    alphas[e] = alpha
                    if BETA:
                        betas[e] = beta
                    if SCALAR:
                        scalar += more
            room[rows * TILE : 4 * TILE] = 0
            if BETA:
                room[(4 + rows) * TILE : 8 * TILE] = 0
            for b in range(0, rank, 2):
                both = min(b + 1, rank - 1)  # the last of an odd number is its own partner
                for q in PAIR:
                    c = b if q == 0 else both
                    near[q] = Z[c, j : j + n]
                    if BETA:
                        far[q] = V[c, j : j + n]
                    for r in ROWS:
                        t[r][q], f[r][q] = zero, CONJ(Z[c, s[r]])
                        if BETA:
                            g[r][q] = V[c, s[r]]
                for e in range(n):
                    for r in ROWS:
                        for q in PAIR:
                            t[r][q] += room[r * TILE + e] * CONJ(near[q][e])
                if BETA:
                    for e in range(n):
                        for r in ROWS:
                            for q in PAIR:
                                t[r][q] += room[(4 + r) * TILE + e] * far[q][e]
                for r in ROWS:
                    total[r, b] += t[r][0]
                    if both > b:
                        total[r, both] += t[r][1]
                for q in PAIR:
                    if q == 0 or both > b:
                        near[q] = out[b if q == 0 else both, j : j + n]
                        for e in range(n):
                            if BETA:
                                near[q][e] += (
                                    (room[e] * f_0[q] + room[TILE + e] * f_1[q])
                                    + (room[2 * TILE + e] * f_2[q] + room[3 * TILE + e] * f_3[q])
                                ) + (
                                    (room[4 * TILE + e] * g_0[q] + room[5 * TILE + e] * g_1[q])
                                    + (room[6 * TILE + e] * g_2[q] + room[7 * TILE + e] * g_3[q])
                                )
                            else:
                                near[q][e] += (room[e] * f_0[q] + room[TILE + e] * f_1[q]) + (
                                    room[2 * TILE + e] * f_2[q] + room[3 * TILE + e] * f_3[q]
                                )
        for r in range(rows):
            for b in range(rank):
                out[b, i + r + row_offset] += total[r, b]
    if SCALAR:
        out[0, out.shape[1] - 1] = scalar
