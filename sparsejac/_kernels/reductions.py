"""Sums over the rows of A into k-vectors: products with Jᵀ, JᵀJ and A."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, call-arg, index"

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, call-arg, index"

import numpy as np

from .compile import _inline, _sum
from .row import _absolute, _ahead, _ahead_of_cache, _cell, _cells, _column, _columns, _window

# --- sums: each row of A adds into a k-vector -----------------------------------------------------------------------
# A sum goes on from what its output holds, and takes dense rows in fours from its first row on. So rows that are cut at a multiple of
# four, and added one part after the other, give the same bits as in one call.


@_inline
def _term(a, cells, q, conjugate, on_diagonal):
    """What an entry of A adds: a w_ij in ``Jᵀ w``, |a|² where there are no cells, where `conjugate` is None a real a itself."""
    if conjugate is None:
        return a.real
    if cells is not None:
        return (np.conj(a) if conjugate else a) * cells[q]
    square = a.real * a.real + a.imag * a.imag
    return 2 * square if on_diagonal else square


@_inline
def _add_row(data, indices, base, lo, first, grid, i, begin, end, x, w, w_base, conjugate, out):
    """For entries ``begin <= p < end`` of row i and their terms t: ``out_i += t x_j`` and ``out_j += t x_i``."""
    start, n = begin - base, end - begin
    a = data[start : start + n]
    columns = _columns(indices, start, n)
    j0 = begin - i * lo.size
    xs, outs = _window(x, indices, j0, n), _window(out, indices, j0, n)
    cells = None if w is None else _cells(w, w_base, grid, i, first[i] + begin - lo[i], n)
    one = out.dtype.type(
        1
    )  # makes the products of float32 numbers in float64 as well; for float64 it vanishes
    xi = x[i]
    if out.ndim == 1:  # dense rows only: `_add_packed_rows` is for sparse ones
        total = out.dtype.type(0)
        for q in range(n):
            t = _term(one * a[q], cells, q, conjugate, False)
            total += t * xs[q]
            outs[q] += t * xi
        out[i] += total
    else:
        outi = out[i]
        for q in range(n):
            _ahead(x, indices, start + q)
            _ahead(out, indices, start + q)
            j = _column(columns, q)
            aq = one * (np.conj(a[q]) if conjugate else a[q])
            xj, outj, cell = xs[j], outs[j], cells[_cell(columns, grid, q)]
            for c in range(outi.size):
                t = aq * cell[c]
                outj[c] += t * xi
                outi[c] += t * xj


@_inline
def _add_four_rows(data, base, lo, first, i, j0, j1, x, w, w_base, conjugate, out, sums):
    """`_add_row` for columns ``j0 <= j < j1`` of four dense rows at once. `sums` has four rows, or is None for a vector."""
    k, n = lo.size, j1 - j0
    p0 = i * k + j0
    p1, p2, p3 = p0 + k, p0 + 2 * k, p0 + 3 * k
    a0, a1 = data[p0 - base : p0 - base + n], data[p1 - base : p1 - base + n]
    a2, a3 = data[p2 - base : p2 - base + n], data[p3 - base : p3 - base + n]
    w0 = None if w is None else _cells(w, w_base, None, i, first[i] + p0 - lo[i], n)
    w1 = None if w is None else _cells(w, w_base, None, i, first[i + 1] + p1 - lo[i + 1], n)
    w2 = None if w is None else _cells(w, w_base, None, i, first[i + 2] + p2 - lo[i + 2], n)
    w3 = None if w is None else _cells(w, w_base, None, i, first[i + 3] + p3 - lo[i + 3], n)
    xs, outs = x[j0:j1], out[j0:j1]
    x0, x1, x2, x3 = x[i], x[i + 1], x[i + 2], x[i + 3]
    one = out.dtype.type(1)
    if out.ndim == 1:
        s0 = s1 = s2 = s3 = out.dtype.type(0)
        for q in range(n):
            t0, t1 = (
                _term(one * a0[q], w0, q, conjugate, False),
                _term(one * a1[q], w1, q, conjugate, False),
            )
            t2, t3 = (
                _term(one * a2[q], w2, q, conjugate, False),
                _term(one * a3[q], w3, q, conjugate, False),
            )
            xj = xs[q]
            s0 += t0 * xj
            s1 += t1 * xj
            s2 += t2 * xj
            s3 += t3 * xj
            outs[q] += (t0 * x0 + t1 * x1) + (t2 * x2 + t3 * x3)
        out[i] += s0
        out[i + 1] += s1
        out[i + 2] += s2
        out[i + 3] += s3
    else:
        sums[:] = 0
        s0, s1, s2, s3 = sums[0], sums[1], sums[2], sums[3]
        for q in range(n):
            b0, b1, b2, b3 = one * a0[q], one * a1[q], one * a2[q], one * a3[q]
            if conjugate:
                b0, b1, b2, b3 = np.conj(b0), np.conj(b1), np.conj(b2), np.conj(b3)
            v0, v1, v2, v3 = w0[q], w1[q], w2[q], w3[q]
            xj, outj = xs[q], outs[q]
            for c in range(outj.size):
                t0, t1, t2, t3 = b0 * v0[c], b1 * v1[c], b2 * v2[c], b3 * v3[c]
                s0[c] += t0 * xj
                s1[c] += t1 * xj
                s2[c] += t2 * xj
                s3[c] += t3 * xj
                outj[c] += (t0 * x0 + t1 * x1) + (t2 * x2 + t3 * x3)
        for r in range(4):
            outi = out[i + r]
            for c in range(outi.size):
                outi[c] += sums[r, c]


@_inline
def _common(indices, lo, hi, i, i1):
    """How many rows to take at a time from row i on, four dense ones or one, and the columns that they have in common.

    What a row visits begins, and ends, no further left than in the row above: the ends of the first and the last of them tell. One row
    has none with itself: `_beside` is all of it.
    """
    k = lo.size
    if indices is None and i + 4 <= i1:
        left, right = (
            max(lo[i] - i * k, lo[i + 3] - (i + 3) * k),
            min(hi[i] - i * k, hi[i + 3] - (i + 3) * k),
        )
        if left <= right:
            return 4, left, right
    return 1, hi[i] - i * k, hi[i] - i * k


@_inline
def _beside(lo, hi, r, left, right, side):
    """The entries of row r to the left of those columns, or to the right."""
    if side == 0:
        return lo[r], r * lo.size + left
    return r * lo.size + right, hi[r]


@_inline
def _add_rows(data, indices, base, lo, hi, first, grid, i0, i1, x, w, w_base, conjugate, out, sums):
    """Sum over rows ``i0 <= i < i1``, four at a time where A is dense."""
    i = i0
    while i < i1:
        rows, left, right = _common(indices, lo, hi, i, i1)
        if rows == 4:
            _add_four_rows(
                data, base, lo, first, i, left, right, x, w, w_base, conjugate, out, sums
            )
        for side in range(2 * rows):  # one call, which is compiled into its place, instead of three
            r = i + side // 2
            begin, end = _beside(lo, hi, r, left, right, side % 2)
            _add_row(
                data, indices, base, lo, first, grid, r, begin, end, x, w, w_base, conjugate, out
            )
        i += rows


@_inline
def _own(flag, i, j):
    """Whether an entry is on the diagonal, where that is asked for."""
    return False if flag is None else flag and j == i


@_inline
def _add_packed_rows(data, indices, base, lo, hi, first, grid, i0, i1, w, w_base, flag, out):
    """`_add_rows` for sparse rows; `out` is x and the sum, packed. The flag is `conjugate`, or without w the `own` of `squares`."""
    for i in range(i0, i1):
        start, n = lo[i] - base, hi[i] - lo[i]
        a, columns = data[start : start + n], indices[start : start + n]
        cells = None if w is None else _cells(w, w_base, grid, i, first[i], n)
        one, total = out.dtype.type(1), out.dtype.type(0)
        xi = out[i, 0]
        for q in range(n):
            _ahead_of_cache(out, indices, start + q)
            j = _column(columns, q)
            t = _term(one * a[q], cells, _cell(columns, grid, q), flag, _own(flag, i, j))
            total += t * out[j, 0]
            out[j, 1] += t * xi
        out[i, 1] += total


@_sum
def rmatvec(data, indices, base, lo, hi, first, grid, i0, i1, w, w_base, x, conjugate, out):
    """``Jᵀ w = (A∘W) x + (A∘W)ᵀ x``, with conj(A) where `conjugate` is set (x then comes conjugated).

    w is the part of it behind `w_base` numbers. x and `out` have the precision in which the sums are kept: float64 or complex128. For
    sparse rows x is None, and `out` is x and the sum, packed.
    """
    if out.ndim == 1:
        _add_rows(
            data, indices, base, lo, hi, first, grid, i0, i1, x, w, w_base, conjugate, out, None
        )
    else:
        _add_packed_rows(
            data, indices, base, lo, hi, first, grid, i0, i1, w, w_base, conjugate, out
        )


@_sum
def rmatmat(data, indices, base, lo, hi, first, grid, i0, i1, W, w_base, x, conjugate, sums, out):
    """`rmatvec` for the columns of W at once; nothing is packed. `sums` is room for four dense rows of `out`."""
    _add_rows(data, indices, base, lo, hi, first, grid, i0, i1, x, W, w_base, conjugate, out, sums)


@_sum
def squares(data, indices, base, lo, hi, first, grid, i0, i1, u, own, out):
    """``S u`` with ``S = |A|² + (|A|²)ᵀ``. With `own`, ``S_ii u_i`` is added once more: diag(JᴴJ), if u is |x|²."""
    if out.ndim == 1:
        # dense rows do not look for the diagonal: it is added after each four
        step = 4 if own else max(i1 - i0, 1)
        for begin in range(i0, i1, step):
            end = min(begin + step, i1)
            _add_rows(
                data, indices, base, lo, hi, first, grid, begin, end, u, None, 0, False, out, None
            )
            for i in range(begin, end if own else begin):
                p = i * (lo.size + 1)
                if lo[i] <= p < hi[i]:
                    out[i] += _term(out.dtype.type(1) * data[p - base], None, 0, False, True) * u[i]
    else:
        _add_packed_rows(data, indices, base, lo, hi, first, grid, i0, i1, None, 0, own, out)


@_sum
def symmetric(data, indices, base, lo, hi, first, grid, i0, i1, x, out):
    """``(T + Tᵀ) x``, where T has the visited entries: ``A x`` but for A's diagonal, if they are one side of it."""
    if out.ndim == 1:
        _add_rows(data, indices, base, lo, hi, first, grid, i0, i1, x, None, 0, None, out, None)
    else:
        _add_packed_rows(data, indices, base, lo, hi, first, grid, i0, i1, None, 0, None, out)


@_sum
def both_products(data, indices, base, lo, hi, first, grid, i0, i1, x, out):
    """``A x``, ``Aᵀ x``, ``|A| x`` and the largest |A_ij| of each row: the four rows of `out`.

    For sparse rows x is None, and `out` is x and the four, packed.
    """
    for i in range(i0, i1):
        start, n, j0 = lo[i] - base, hi[i] - lo[i], lo[i] - i * lo.size
        a, columns = data[start : start + n], _columns(indices, start, n)
        total = size = largest = 0.0
        if x is None:
            xi = out[i, 0]
            for q in range(n):
                _ahead_of_cache(out, indices, start + q)
                j = _column(columns, q)
                t = a[q] * out[j, 0]
                total += t
                size += abs(t)
                largest = max(largest, abs(1.0 * a[q]))
                out[j, 2] += a[q] * xi
            out[i, 1] += total
            out[i, 3] += size
            out[i, 4] += largest
        else:
            xs, outs, xi = x[j0 : j0 + n], out[1, j0 : j0 + n], x[i]
            for q in range(n):
                t = a[q] * xs[q]
                total += t
                size += abs(t)
                largest = max(largest, abs(1.0 * a[q]))
                outs[q] += a[q] * xi
            out[0, i] += total
            out[2, i] += size
            out[3, i] += largest


@_sum
def nonzeros(data, indices, base, lo, hi, first, grid, i0, i1, x, out):
    """``(T + Tᵀ) x`` with 1 in T for every visited entry that is not zero."""
    for i in range(i0, i1):
        start, n = lo[i] - base, hi[i] - lo[i]
        a, columns = data[start : start + n], _columns(indices, start, n)
        j0 = lo[i] - i * lo.size
        for q in range(n):
            if a[q] != 0:
                j = _absolute(columns, j0, q)
                if out.ndim == 1:
                    out[i] += x[j]
                    out[j] += x[i]
                else:  # x and the sum, packed
                    out[i, 1] += out[j, 0]
                    out[j, 1] += out[i, 0]


@_inline
def _add_squares_of_four(data, base, k, i, j0, j1, u, v, out_u, out_v):
    """``S u`` and ``S v`` for columns ``j0 <= j < j1`` of four dense rows: two vectors, as their sums fill the registers."""
    n = j1 - j0
    p = i * k + j0 - base
    a0, a1, a2, a3 = (
        data[p : p + n],
        data[p + k :][:n],
        data[p + 2 * k :][:n],
        data[p + 3 * k :][:n],
    )
    us, vs, us_out, vs_out = u[j0:j1], v[j0:j1], out_u[j0:j1], out_v[j0:j1]
    u0, u1, u2, u3 = u[i], u[i + 1], u[i + 2], u[i + 3]
    v0, v1, v2, v3 = v[i], v[i + 1], v[i + 2], v[i + 3]
    one = out_u.dtype.type(1)
    s0 = s1 = s2 = s3 = r0 = r1 = r2 = r3 = out_u.dtype.type(0)
    for q in range(n):
        t0, t1 = (
            _term(one * a0[q], None, q, False, False),
            _term(one * a1[q], None, q, False, False),
        )
        t2, t3 = (
            _term(one * a2[q], None, q, False, False),
            _term(one * a3[q], None, q, False, False),
        )
        uq, vq = us[q], vs[q]
        s0 += t0 * uq
        s1 += t1 * uq
        s2 += t2 * uq
        s3 += t3 * uq
        r0 += t0 * vq
        r1 += t1 * vq
        r2 += t2 * vq
        r3 += t3 * vq
        us_out[q] += (t0 * u0 + t1 * u1) + (t2 * u2 + t3 * u3)
        vs_out[q] += (t0 * v0 + t1 * v1) + (t2 * v2 + t3 * v3)
    out_u[i] += s0
    out_u[i + 1] += s1
    out_u[i + 2] += s2
    out_u[i + 3] += s3
    out_v[i] += r0
    out_v[i + 1] += r1
    out_v[i + 2] += r2
    out_v[i + 3] += r3


@_sum
def squares_of_many(data, indices, base, lo, hi, first, grid, i0, i1, U, out):
    """`squares` for an even number of vectors at once, the rows of U and of `out`. For sparse rows U is None and `out` is four
    vectors and their sums, packed: one cache line of float64 for each variable.
    """
    if U is None:
        one = out.dtype.type(1)
        for i in range(i0, i1):
            start, n = lo[i] - base, hi[i] - lo[i]
            a, columns = data[start : start + n], _columns(indices, start, n)
            u0, u1, u2, u3 = out[i, 0], out[i, 1], out[i, 2], out[i, 3]
            s0 = s1 = s2 = s3 = out.dtype.type(0)
            for q in range(n):
                _ahead_of_cache(out, indices, start + q)
                j = _column(columns, q)
                t = _term(one * a[q], None, q, False, False)
                s0 += t * out[j, 0]
                s1 += t * out[j, 1]
                s2 += t * out[j, 2]
                s3 += t * out[j, 3]
                out[j, 4] += t * u0
                out[j, 5] += t * u1
                out[j, 6] += t * u2
                out[j, 7] += t * u3
            out[i, 4] += s0
            out[i, 5] += s1
            out[i, 6] += s2
            out[i, 7] += s3
    else:
        k, i = lo.size, i0
        while i < i1:  # as in `_add_rows`
            rows, left, right = _common(None, lo, hi, i, i1)
            for c in range(0, U.shape[0] if rows == 4 else 0, 2):  # the four rows are in the cache
                _add_squares_of_four(
                    data, base, k, i, left, right, U[c], U[c + 1], out[c], out[c + 1]
                )
            for side in range(2 * rows):
                r = i + side // 2
                begin, end = _beside(lo, hi, r, left, right, side % 2)
                for c in range(U.shape[0]):
                    _add_row(
                        data,
                        None,
                        base,
                        lo,
                        first,
                        grid,
                        r,
                        begin,
                        end,
                        U[c],
                        None,
                        0,
                        False,
                        out[c],
                    )
            i += rows
