"""The walks for a matrix of variables Z with a row of r numbers for each row and column of A.

They are templates, as those of `walks` are, and `rank` makes kernels of them. The row of Z that
belongs to row i of A is ``i + row_offset``, and that of column j is ``j + column_offset``. The
offsets are 0, unless the rows and the columns of A have variables of their own. A dense row has
`width` entries. What a template leaves open, apart from what `walks` explains, is

``DOT_X, DOT_V, GIVEN_V, BETA, SCALAR``
    What the edge function reads and returns. ``xx`` is ``x_i·x_j``. ``xv`` is
    ``x_i·v_j + v_i·x_j``. It returns α, β and a scalar, and the entry contributes
    ``α x_j + β v_j`` at i, and ``α x_i + β v_i`` at j.
``OWN, GROUPS, LANES``
    The number of columns that the kernel is for, which it treats as so many groups of LANES.
``FEW(ARGUMENTS), MANY(ARGUMENTS)``
    A call of another walk with the arguments of this one.
"""

# mypy: ignore-errors

import numpy as np

from . import TILE
from .lanes import _load, _plus_times, _same, _store, _total
from .row import _CACHED, _NO_SIGN, _cell, _cells, _prefetch

XX, XV, NONE = 8 * TILE, 12 * TILE, 16 * TILE  # where `room` has the dot products, and zeros


def rank_sparse(data, indices, base, lo, hi, first, grid, i0, i1):
    """Add what the entries of sparse rows contribute to the sums in `out`.

    A row of `out` has Z, V if it is given, and the sums, which have `own` numbers each: r, and
    zeros. The scalar is behind the last of the sums.
    """
    if out.shape[1] == EIGHT:
        FEW(ARGUMENTS)
    else:
        MANY(ARGUMENTS)


def rank_sparse_few(data, indices, base, lo, hi, first, grid, i0, i1):
    """`rank_sparse` for few numbers, which stay in registers for the entries of a row."""
    one, far, length = out.dtype.type(1), out.size > _CACHED, out.shape[1]
    none = _same(out, out.dtype.type(0), LANES)
    if SCALAR:
        scalar = out[out.shape[0] - 1, SUMS]
    for i in range(i0, i1):
        start, n, s = lo[i] - base, hi[i] - lo[i], (i + row_offset) & _NO_SIGN
        a, columns, at_i = data[start : start + n], indices[start : start + n], s * length
        if ALIGNED:
            if BY_ENTRY:
                y = aligned[lo[i] - aligned_base :][:n]
            else:
                y = _cells(aligned, aligned_base, grid, i, first[i], n)
        for c in GROUPS:
            xi[c], total[c] = _load(out, at_i + LANES * c, LANES), none
            if GIVEN_V:
                vi[c] = _load(out, at_i + OWN + LANES * c, LANES)
        for e in range(n):
            if far:
                later = min(start + e + AHEAD, indices.size - 1)
                ahead = (np.int64(indices[later]) + column_offset) * length
                for c in LINES:
                    _prefetch(out, ahead + 8 * c)
            at_j = ((columns[e] + column_offset) & _NO_SIGN) * length
            for c in GROUPS:
                xj[c] = _load(out, at_j + LANES * c, LANES)
                if GIVEN_V:
                    vj[c] = _load(out, at_j + OWN + LANES * c, LANES)
            if DOT_X:
                products = none
                for c in GROUPS:
                    products = _plus_times(products, xi[c], xj[c])
                xx = _total(products)
            if DOT_V:
                products = none
                for c in GROUPS:
                    products = _plus_times(products, xi[c], vj[c])
                    products = _plus_times(products, vi[c], xj[c])
                xv = _total(products)
            number = y[e if BY_ENTRY else _cell(columns, grid, e)] if ALIGNED else None
            found = EDGE(one * a[e], number, None, None)
            alpha, beta, more = found
            alphas = _same(out, one * alpha, LANES)
            if BETA:
                betas = _same(out, one * beta, LANES)
            for c in GROUPS:
                sums = _load(out, at_j + SUMS + LANES * c, LANES)
                sums = _plus_times(sums, alphas, CONJUGATE(xi[c]))
                total[c] = _plus_times(total[c], alphas, CONJUGATE(xj[c]))
                if BETA:
                    sums = _plus_times(sums, betas, vi[c])
                    total[c] = _plus_times(total[c], betas, vj[c])
                _store(out, at_j + SUMS + LANES * c, sums)
            if SCALAR:
                scalar += more
        ones = _same(out, one, LANES)
        for c in GROUPS:
            sums = _load(out, at_i + SUMS + LANES * c, LANES)
            _store(out, at_i + SUMS + LANES * c, _plus_times(sums, ones, total[c]))
    if SCALAR:
        out[out.shape[0] - 1, SUMS] = scalar


def rank_sparse_many(data, indices, base, lo, hi, first, grid, i0, i1):
    """`rank_sparse` for any number of numbers, of which four are treated together."""
    one, far, length = out.dtype.type(1), out.size > _CACHED, out.shape[1]
    own, none = length // PLANES, _same(out, out.dtype.type(0), 4)
    sums, distance = (PLANES - 1) * own, max(8, 512 // length)
    fours, lines = own // 4, (length + 7) // 8
    if SCALAR:
        scalar = out[out.shape[0] - 1, own]
    for i in range(i0, i1):
        start, n, s = lo[i] - base, hi[i] - lo[i], (i + row_offset) & _NO_SIGN
        a, columns, at_i = data[start : start + n], indices[start : start + n], s * length
        if ALIGNED:
            if BY_ENTRY:
                y = aligned[lo[i] - aligned_base :][:n]
            else:
                y = _cells(aligned, aligned_base, grid, i, first[i], n)
        for e in range(n):
            if far:
                later = min(start + e + distance, indices.size - 1)
                ahead = (np.int64(indices[later]) + column_offset) * length
                for line in range(lines):
                    _prefetch(out, ahead + 8 * line)
            at_j = ((columns[e] + column_offset) & _NO_SIGN) * length
            if DOT_X:
                products = none
                for four in range(fours):
                    c = 4 * four
                    xi, xj = _load(out, at_i + c, 4), _load(out, at_j + c, 4)
                    products = _plus_times(products, xi, xj)
                xx = _total(products)
            if DOT_V:
                products = none
                for four in range(fours):
                    c = 4 * four
                    xi, xj = _load(out, at_i + c, 4), _load(out, at_j + c, 4)
                    vi, vj = _load(out, at_i + own + c, 4), _load(out, at_j + own + c, 4)
                    products = _plus_times(_plus_times(products, xi, vj), vi, xj)
                xv = _total(products)
            number = y[e if BY_ENTRY else _cell(columns, grid, e)] if ALIGNED else None
            found = EDGE(one * a[e], number, None, None)
            alpha, beta, more = found
            alphas = _same(out, one * alpha, 4)
            if BETA:
                betas = _same(out, one * beta, 4)
            for four in range(fours):
                c = 4 * four
                p, q = at_i + c, at_j + c
                xi, xj = CONJUGATE(_load(out, p, 4)), CONJUGATE(_load(out, q, 4))
                at_p = _plus_times(_load(out, p + sums, 4), alphas, xj)
                if BETA:
                    at_p = _plus_times(at_p, betas, _load(out, q + own, 4))
                _store(out, p + sums, at_p)
                at_q = _plus_times(_load(out, q + sums, 4), alphas, xi)
                if BETA:
                    at_q = _plus_times(at_q, betas, _load(out, p + own, 4))
                _store(out, q + sums, at_q)
            if SCALAR:
                scalar += more
    if SCALAR:
        out[out.shape[0] - 1, own] = scalar


def rank_dense(data, indices, base, lo, hi, first, grid, i0, i1):
    """`rank_sparse` for four dense rows at a time, a tile of their columns after the other.

    Z, V and the sums are transposed, so that neighbours along the columns are neighbours in memory.
    The scalar is behind the first row of the sums. `room` holds α, β and the dot products of the
    four rows in a tile, and zeros, and `total` their sums at i. Rows that are cut at a multiple of
    four, and added one part after the other, give the same bits as in one call.
    """
    one, zero, rank = out.dtype.type(1), out.dtype.type(0), Z.shape[0]
    none = room[NONE : NONE + TILE]  # the partner of the last of an odd number of columns
    none[:] = 0
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
                for b in range(0, rank, 2):
                    for q in PAIR:
                        c = min(b + q, rank - 1)
                        near[q] = none[:n] if b + q == rank else Z[c, j : j + n]
                        for r in ROWS:
                            f[r][q] = zero if b + q == rank else Z[c, s[r]]
                    for e in range(n):
                        for r in ROWS:
                            room[XX + r * TILE + e] += f[r][0] * near_0[e] + f[r][1] * near_1[e]
            if DOT_V:
                room[XV : XV + 4 * TILE] = 0
                for b in range(0, rank, 2):
                    for q in PAIR:
                        c = min(b + q, rank - 1)
                        near[q] = none[:n] if b + q == rank else Z[c, j : j + n]
                        far[q] = none[:n] if b + q == rank else V[c, j : j + n]
                        for r in ROWS:
                            f[r][q] = zero if b + q == rank else Z[c, s[r]]
                            g[r][q] = zero if b + q == rank else V[c, s[r]]
                    for e in range(n):
                        for r in ROWS:
                            room[XV + r * TILE + e] += (
                                f[r][0] * far_0[e] + g[r][0] * near_0[e]
                            ) + (f[r][1] * far_1[e] + g[r][1] * near_1[e])
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
