"""Sums over the residuals ``F - Y``: cost, gradient and curvature of least squares."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, call-arg, index"

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, call-arg, index"

from .compile import _inline, _sum
from .reductions import _beside, _common
from .row import _ahead_of_cache, _column, _columns

# --- least squares --------------------------------------------------------------------------------------------------
# y has the entries of Y where those of A are: entry p is ``y[p - y_base]``. Both are real.


@_inline
def _add_residuals_of_four(data, base, y, y_base, k, i, j0, j1, twice, x, v, out, squares_out):
    """`_add_residuals` for columns ``j0 <= j < j1`` of four dense rows at once."""
    n = j1 - j0
    p = i * k + j0
    a0, a1, a2, a3 = (
        data[p - base :][:n],
        data[p + k - base :][:n],
        data[p + 2 * k - base :][:n],
        data[p + 3 * k - base :][:n],
    )
    b0, b1, b2, b3 = (
        y[p - y_base :][:n],
        y[p + k - y_base :][:n],
        y[p + 2 * k - y_base :][:n],
        y[p + 3 * k - y_base :][:n],
    )
    xs, vs, outs = x[j0:j1], v[j0:j1], out[j0:j1]
    ds = None if squares_out is None else squares_out[j0:j1]
    x0, x1, x2, x3 = twice * x[i], twice * x[i + 1], twice * x[i + 2], twice * x[i + 3]
    z0, z1, z2, z3 = x[i] * x[i], x[i + 1] * x[i + 1], x[i + 2] * x[i + 2], x[i + 3] * x[i + 3]
    v0, v1, v2, v3 = v[i], v[i + 1], v[i + 2], v[i + 3]
    cost = s0 = s1 = s2 = s3 = d0 = d1 = d2 = d3 = 0.0
    for q in range(n):
        c0, c1, c2, c3 = (
            1.0 * a0[q],
            1.0 * a1[q],
            1.0 * a2[q],
            1.0 * a3[q],
        )  # float32 numbers in float64
        xj, vj = xs[q], vs[q]
        r0, r1 = c0 * (x0 * xj) - b0[q], c1 * (x1 * xj) - b1[q]
        r2, r3 = c2 * (x2 * xj) - b2[q], c3 * (x3 * xj) - b3[q]
        t0, t1, t2, t3 = c0 * r0, c1 * r1, c2 * r2, c3 * r3
        s0 += t0 * vj
        s1 += t1 * vj
        s2 += t2 * vj
        s3 += t3 * vj
        outs[q] += (t0 * v0 + t1 * v1) + (t2 * v2 + t3 * v3)
        if squares_out is not None:
            cost += (r0 * r0 + r1 * r1) + (r2 * r2 + r3 * r3)
            c0, c1, c2, c3, zj = c0 * c0, c1 * c1, c2 * c2, c3 * c3, xj * xj
            d0 += c0 * zj
            d1 += c1 * zj
            d2 += c2 * zj
            d3 += c3 * zj
            ds[q] += (c0 * z0 + c1 * z1) + (c2 * z2 + c3 * z3)
    out[i] += s0
    out[i + 1] += s1
    out[i + 2] += s2
    out[i + 3] += s3
    if squares_out is not None:
        squares_out[i] += d0
        squares_out[i + 1] += d1
        squares_out[i + 2] += d2
        squares_out[i + 3] += d3
    return cost


@_inline
def _add_residuals(data, base, y, y_base, k, i, begin, end, twice, x, v, out, squares_out):
    """For entries ``begin <= p < end`` of dense row i and ``t = a (twice a x_i x_j - y)``: ``out_i += t v_j``, ``out_j += t v_i``.

    Unless `squares_out` is None, it is given ``S (x∘x)``, and the sum of the squared residuals is returned; `twice` is 1 then.
    """
    n, j0 = end - begin, begin - i * k
    a, b = data[begin - base :][:n], y[begin - y_base :][:n]
    xs, vs, outs = x[j0 : j0 + n], v[j0 : j0 + n], out[j0 : j0 + n]
    ds = None if squares_out is None else squares_out[j0 : j0 + n]
    xi, zi, vi = twice * x[i], x[i] * x[i], v[i]
    cost = total = square = 0.0
    for q in range(n):
        c = 1.0 * a[q]
        r = c * (xi * xs[q]) - b[q]
        t = c * r
        total += t * vs[q]
        outs[q] += t * vi
        if squares_out is not None:
            cost += r * r
            square += c * c * (xs[q] * xs[q])
            ds[q] += c * c * zi
    out[i] += total
    if squares_out is not None:
        squares_out[i] += square
    return cost


@_inline
def _add_rows_of_residuals(
    data, base, lo, hi, i0, i1, y, y_base, twice, x, v, out, squares_out, cost
):
    """`_add_residuals` over rows ``i0 <= i < i1``, four at a time, as in `_add_rows`. The sum of squares goes on from `cost`."""
    k, i = lo.size, i0
    while i < i1:
        rows, left, right = _common(None, lo, hi, i, i1)
        if rows == 4:
            cost += _add_residuals_of_four(
                data, base, y, y_base, k, i, left, right, twice, x, v, out, squares_out
            )
        for side in range(2 * rows):
            r = i + side // 2
            begin, end = _beside(lo, hi, r, left, right, side % 2)
            cost += _add_residuals(
                data, base, y, y_base, k, r, begin, end, twice, x, v, out, squares_out
            )
        i += rows
    return cost


@_sum
def beginning(data, indices, base, lo, hi, first, grid, i0, i1, y, y_base, x, out):
    """``S x``, and behind it ``Σ y²``, ``Σ a y`` and ``Σ |a y|``: what a fit has to know before it has an x.

    `out` has one row, of k + 3 numbers. For sparse rows x is None, and `out` is x and the sum, packed.
    """
    k = lo.size
    if x is None:
        norm, overlap, size = out[k, 1], out[k + 1, 1], out[k + 2, 1]
    else:
        norm, overlap, size = out[0, k], out[0, k + 1], out[0, k + 2]
    for i in range(i0, i1):
        start, n, j0 = lo[i] - base, hi[i] - lo[i], lo[i] - i * k
        a, columns, b = (
            data[start : start + n],
            _columns(indices, start, n),
            y[lo[i] - y_base : hi[i] - y_base],
        )
        total = 0.0
        if x is None:
            xi = out[i, 0]
            for q in range(n):
                _ahead_of_cache(out, indices, start + q)
                j = _column(columns, q)
                c, bq = 1.0 * a[q], 1.0 * b[q]
                norm += bq * bq
                overlap += c * bq
                size += abs(c * bq)
                total += c * c * out[j, 0]
                out[j, 1] += c * c * xi
            out[i, 1] += total
        else:
            xs, outs, xi = x[j0 : j0 + n], out[0, j0 : j0 + n], x[i]
            for q in range(n):
                c, bq = 1.0 * a[q], 1.0 * b[q]
                norm += bq * bq
                overlap += c * bq
                size += abs(c * bq)
                total += c * c * xs[q]
                outs[q] += c * c * xi
            out[0, i] += total
    if x is None:
        out[k, 1], out[k + 1, 1], out[k + 2, 1] = norm, overlap, size
    else:
        out[0, k], out[0, k + 1], out[0, k + 2] = norm, overlap, size


@_sum
def gradient(data, indices, base, lo, hi, first, grid, i0, i1, y, y_base, x, out):
    """``Jᵀ(F - Y)``, ``S (x∘x)``, and behind them, at index k of the first, ``‖F - Y‖²``: all of a Newton step but its products.

    `out` has two rows, of k + 1 numbers each. For sparse rows x is None, and `out` is x and the two, packed.
    """
    k = lo.size
    if x is None:
        cost = out[k, 1]
        for i in range(i0, i1):
            start, n = lo[i] - base, hi[i] - lo[i]
            a, columns, b = (
                data[start : start + n],
                _columns(indices, start, n),
                y[lo[i] - y_base : hi[i] - y_base],
            )
            xi, total, square = out[i, 0], 0.0, 0.0
            zi = xi * xi
            for q in range(n):
                _ahead_of_cache(out, indices, start + q)
                j = _column(columns, q)
                c, xj = 1.0 * a[q], out[j, 0]
                r = c * (xi * xj) - b[q]
                cost += r * r
                total += c * r * xj
                square += c * c * (xj * xj)
                out[j, 1] += c * r * xi
                out[j, 2] += c * c * zi
            out[i, 1] += total
            out[i, 2] += square
        out[k, 1] = cost
    else:
        cost = out[0, k]
        out[0, k] = _add_rows_of_residuals(
            data, base, lo, hi, i0, i1, y, y_base, 1.0, x, x, out[0], out[1], cost
        )


@_sum
def curvature(data, indices, base, lo, hi, first, grid, i0, i1, y, y_base, x, v, out):
    """``(M + Mᵀ) v`` with ``M = A∘(2 F - Y)``: the Hessian of ``½‖F - Y‖²`` is ``Diag(S (x∘x)) + M + Mᵀ``.

    `out` has one row. For sparse rows x and v are None, and `out` is the three, packed.
    """
    if x is None:
        for i in range(i0, i1):
            start, n = lo[i] - base, hi[i] - lo[i]
            a, columns, b = (
                data[start : start + n],
                _columns(indices, start, n),
                y[lo[i] - y_base : hi[i] - y_base],
            )
            xi, vi, total = 2.0 * out[i, 0], out[i, 1], 0.0
            for q in range(n):
                _ahead_of_cache(out, indices, start + q)
                j = _column(columns, q)
                c = 1.0 * a[q]
                t = c * (c * (xi * out[j, 0]) - b[q])
                total += t * out[j, 1]
                out[j, 2] += t * vi
            out[i, 2] += total
    else:
        _add_rows_of_residuals(data, base, lo, hi, i0, i1, y, y_base, 2.0, x, v, out[0], None, 0.0)
