"""The CSR form of J, also from a block that begins inside a row of A."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, call-arg, index"

from .compile import _map, _map_part
from .row import _absolute, _below, _column, _columns, _width, _window
from .stores import _EIGHT, _finish, _store, _until_aligned


@_map
def csr_data(
    data, indices, base, lo, hi, first, grid, i0, i1, diagonal, start, stop, shift, x, out
):
    """The numbers of J's CSR form: ``A_ij x_j`` and ``A_ij x_i``, in the order of their columns.

    Only entries ``start <= p < stop`` are visited, and `shift` numbers of J precede them.
    ``diagonal[i]`` counts the diagonal entries of the rows before i: each makes one number of J
    where the others make two.
    """
    for i in range(i0, i1):
        p = max(lo[i], start)
        n = min(hi[i], stop) - p
        if n <= 0:
            continue
        a = data[p - base : p - base + n]
        columns = _columns(indices, p - base, n)
        j0 = int(p) - i * lo.size
        xs = _window(x, indices, j0, n)
        xi = x[i]
        # Only the first row of a block can start inside its row of A. Nothing precedes it then.
        o = 2 * first[i] - diagonal[i] - shift if p == lo[i] else 0
        m, on_diagonal = _below(columns, j0, i, n)
        left = out[o : o + 2 * m]
        for q in range(m):
            left[2 * q] = a[q] * xi
            left[2 * q + 1] = a[q] * xs[_column(columns, q)]
        o += 2 * m
        if on_diagonal:
            out[o] = 2 * (a[m] * xi)
            o += 1
            m += 1
        right = out[o : o + 2 * (n - m)]
        a = a[m:]
        columns = _columns(columns, m, n - m)
        xs = _window(xs, columns, m, n - m)
        for q in range(n - m):
            right[2 * q] = a[q] * xs[_column(columns, q)]
            right[2 * q + 1] = a[q] * xi


@_map_part
def _pairs(cells, a, xs, xi, below):
    """Write ``a x_i`` and ``a x_j`` for each entry, or the other way round if not `below`."""
    for q in range(a.size):
        first, second = a[q] * xi, a[q] * xs[q]
        cells[2 * q] = first if below else second
        cells[2 * q + 1] = second if below else first


@_map_part
def _pairs_past_caches(out, o, a, xs, xi, below):
    """Write `_pairs` to ``out[o]`` and on. All but the ends go past the caches."""
    n = a.size
    before = _until_aligned(out, o, 2 * n)
    count = (2 * n - before) // _EIGHT
    q, odd = before // 2, before % 2  # if it is odd, the stores begin between the two of a pair
    _pairs(out[o : o + 2 * q], a[:q], xs, xi, below)
    # A line that both kinds of stores write to would have to come from memory in between.
    if odd:
        out[o + 2 * q] = a[q] * (xi if below else xs[q])
    scaled_first = below == (odd == 0)
    s, t = (q, q + odd) if scaled_first else (q + odd, q)
    for c in range(count):
        _store(out, o + before + _EIGHT * c, a, xs, xi, s + 4 * c, t + 4 * c, scaled_first)
    q += 4 * count
    if odd:
        out[o + 2 * q + 1] = a[q] * (xs[q] if below else xi)
        q += 1
    _pairs(out[o + 2 * q : o + 2 * n], a[q:], xs[q:], xi, below)


@_map
def csr_data_past_caches(
    data, indices, base, lo, hi, first, grid, i0, i1, diagonal, start, stop, shift, x, out
):
    """`csr_data` for dense rows, where A, x and `out` are of one real floating-point dtype."""
    for i in range(i0, i1):
        p = max(lo[i], start)
        n = min(hi[i], stop) - p
        if n > 0:
            a, j0, xi = data[p - base : p - base + n], int(p) - i * lo.size, x[i]
            xs = x[j0 : j0 + n]
            o = 2 * first[i] - diagonal[i] - shift if p == lo[i] else 0  # as in `csr_data`
            m, on_diagonal = _below(None, j0, i, n)
            _pairs_past_caches(out, o, a[:m], xs, xi, True)
            o += 2 * m
            if on_diagonal:
                out[o] = 2 * (a[m] * xi)
                o += 1
                m += 1
            _pairs_past_caches(out, o, a[m:], xs[m:], xi, False)
    _finish()


@_map
def csr_indices(
    data,
    indices,
    base,
    lo,
    hi,
    first,
    grid,
    i0,
    i1,
    diagonal,
    start,
    stop,
    shift,
    row0,
    row1,
    columns_out,
    indptr,
):
    """The columns and row pointers of J's CSR form, for its rows ``row0 <= r < row1``.

    The rest is as in `csr_data`. ``indptr[0]`` is the caller's. With a `grid`, rows of J for which
    A has no entry get their pointers here, too.
    """
    k, width = lo.size, _width(grid)
    for i in range(i0, i1):
        p = max(lo[i], start)
        n = min(hi[i], stop) - p
        if n <= 0 and width < 0:
            continue
        n = max(n, 0)
        columns = _columns(indices, p - base, n)
        j0 = int(p) - i * k
        # An empty row of a grid has p > lo[i] only where a block starts behind its last entry.
        # Nothing precedes it.
        o = 2 * first[i] - diagonal[i] - shift if p == lo[i] else 0
        m, on_diagonal = _below(columns, j0, i, n)
        left = columns_out[o : o + 2 * m]
        right = columns_out[o + 2 * m + on_diagonal : o + 2 * n - on_diagonal]
        for q in range(m):
            left[2 * q] = _absolute(columns, j0, q)
            left[2 * q + 1] = i
        if on_diagonal:
            columns_out[o + 2 * m] = i
        for q in range(n - m - on_diagonal):
            right[2 * q] = i
            right[2 * q + 1] = _absolute(columns, j0, q + m + on_diagonal)
        if width < 0:
            r = first[i] + (p - lo[i]) - row0
            ends = indptr[r + 1 : r + 1 + n]
            for q in range(n):
                ends[q] = o + 2 * (q + 1) - (on_diagonal and q >= m)
        else:
            ends = indptr[1:]
            r = max(i * width, row0)
            for q in range(n):
                for s in range(r, i * width + _absolute(columns, j0, q)):
                    ends[s - row0] = o
                o += 1 if on_diagonal and q == m else 2
                r = i * width + _absolute(columns, j0, q)
                ends[r - row0] = o
                r += 1
            for s in range(r, min((i + 1) * width, row1)):
                ends[s - row0] = o
