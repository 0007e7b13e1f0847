"""Maps: each row of A writes its own rows of the output."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, call-arg, index"

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, call-arg, index"

from .compile import _map
from .row import _absolute, _ahead, _ahead_of_cache, _cell, _cells, _column, _columns, _window

# --- maps: each row of A writes its own rows of the output ----------------------------------------------------------


@_map
def value(data, indices, base, lo, hi, first, grid, i0, i1, y, y_base, x, out):
    """``F_ij = A_ij x_i x_j``, or ``F_ij - Y_ij`` unless y is None."""
    for i in range(i0, i1):
        start, n = lo[i] - base, hi[i] - lo[i]
        a = data[start : start + n]
        b = None if y is None else y[lo[i] - y_base : hi[i] - y_base]
        columns = _columns(indices, start, n)
        xs = _window(x, indices, lo[i] - i * lo.size, n)
        cells = _cells(out, 0, grid, i, first[i], n)
        xi = x[i]
        for q in range(n):
            _ahead_of_cache(x, indices, start + q)
            f = a[q] * (xi * xs[_column(columns, q)])
            cells[_cell(columns, grid, q)] = f if y is None else f - b[q]


@_map
def matvec(data, indices, base, lo, hi, first, grid, i0, i1, x, v, out):
    """``(J v)_ij = A_ij (v_i x_j + x_i v_j)``. For sparse rows x is x and v, packed, and v None."""
    for i in range(i0, i1):
        start, n = lo[i] - base, hi[i] - lo[i]
        a = data[start : start + n]
        cells = _cells(out, 0, grid, i, first[i], n)
        if x.ndim == 1:
            j0 = lo[i] - i * lo.size
            xs, vs = x[j0 : j0 + n], v[j0 : j0 + n]
            xi, vi = x[i], v[i]
            for q in range(n):
                cells[q] = a[q] * (vi * xs[q] + xi * vs[q])
        else:
            columns = indices[start : start + n]
            xi, vi = x[i, 0], x[i, 1]
            for q in range(n):
                _ahead_of_cache(x, indices, start + q)
                j = _column(columns, q)
                cells[_cell(columns, grid, q)] = a[q] * (vi * x[j, 0] + xi * x[j, 1])


@_map
def matmat(data, indices, base, lo, hi, first, grid, i0, i1, x, V, out):
    """`matvec` for the columns of V at once."""
    for i in range(i0, i1):
        start, n = lo[i] - base, hi[i] - lo[i]
        a = data[start : start + n]
        columns = _columns(indices, start, n)
        xs = _window(x, indices, lo[i] - i * lo.size, n)
        Vs = _window(V, indices, lo[i] - i * lo.size, n)
        cells = _cells(out, 0, grid, i, first[i], n)
        xi = x[i]
        Vi = V[i]
        for q in range(n):
            _ahead(x, indices, start + q)
            _ahead(V, indices, start + q)
            j = _column(columns, q)
            aq = a[q]
            xj = xs[j]
            Vj = Vs[j]
            cell = cells[_cell(columns, grid, q)]
            for c in range(Vi.size):
                cell[c] = aq * (Vi[c] * xj + xi * Vj[c])


@_map
def pairs(data, indices, base, lo, hi, first, grid, i0, i1, rows_out, columns_out):
    """Which entry (i, j) of F each row of J is."""
    for i in range(i0, i1):
        n = hi[i] - lo[i]
        columns = _columns(indices, lo[i] - base, n)
        j0 = lo[i] - i * lo.size
        e = first[i]
        for q in range(n):
            rows_out[e + q] = i
            columns_out[e + q] = _absolute(columns, j0, q)


@_map
def not_finite(numbers):
    """How many of these numbers are NaN or infinite. Without `fastmath`: with it, some versions of LLVM know that ``v - v`` is 0."""
    count = 0
    for q in range(numbers.size):
        count += numbers[q] - numbers[q] != 0
    return count
