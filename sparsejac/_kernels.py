"""The compiled kernels: every loop over the entries of A, for dense and CSR rows alike.

A kernel is a plain function of a block of rows of A and a few vectors. It never checks, allocates nothing unless a
comment says so, and does not know where its rows came from. It releases the GIL, so that threads can run it on
disjoint ranges of rows.

All of them walk the rows ``i0 <= i < i1`` in the same way, and start with the same arguments:

``data, indices, base``
    The entries of a block of rows, and their columns. Entry number p of A is ``data[p - base]``. For dense rows
    `indices` is None and p = i k + j: Numba compiles one version of the loop for each of the two.
``lo, hi``
    Row i visits the entries ``lo[i] <= p < hi[i]``: all of its row, or its part in one triangle.
``first``
    ``first[i]`` is the number of entries that the rows before i visit: where row i's rows of J start.
``grid``
    None where J has one row for each visited entry; k where J has a row for each of the k² places (`rows="all"` of
    a sparse A), so that entry (i, j) is row i k + j.

What makes the loops fast is easy to lose: the inner ones count from 0 over slices, so Numba sees that no index is
negative, drops the wrap-around test, and LLVM vectorises. Maps are compiled without `fastmath`, so the bits of an entry
do not depend on the block in which it is computed.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

import contextlib
import functools

import numba
import numpy as np


def _kernel(**options):
    """`numba.njit` that keeps what it compiles on disk where it may, and in memory where it may not."""

    def decorate(function):
        try:
            compiled = numba.njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # "cannot cache function: no locator available": no folder is writable
            compiled = numba.njit(nogil=True, **options)(function)

        @functools.wraps(function)
        def run(*args):
            # Kernels raise nothing: an error is one of Numba's, and has come before anything ran.
            with contextlib.suppress(Exception):
                return compiled(*args)
            try:  # if it could not be saved (the disk is full), it is in memory by now
                return compiled(*args)
            except Exception as error:
                raise RuntimeError(_CACHE.format(function.__name__, compiled.stats.cache_path, error)) from error

        run.compiled = compiled  # type: ignore[attr-defined]  # for tests
        return run

    return decorate


_CACHE = "Numba cannot use its cache of the compiled kernel {}: remove the folder {}, or name another in NUMBA_CACHE_DIR ({})"

_inline = numba.njit
_map = _kernel()
# The flags let LLVM keep several partial sums in a register and contract a*b+c; they leave NaN and infinity alone
# ("nnan" and "ninf", which `fastmath=True` would add, do not).
_sum = _kernel(fastmath={"reassoc", "contract", "nsz"})


# --- the walk along one row ---------------------------------------------------------------------------------------


@_inline
def _columns(indices, start, n):
    return None if indices is None else indices[start : start + n]


@_inline
def _window(vector, indices, start, n):
    """What a row needs of a k-vector: a dense row meets n neighbours, a sparse one any of them."""
    return vector[start : start + n] if indices is None else vector


@_inline
def _column(columns, q):
    """Where, in a window, the column of entry q is."""
    return q if columns is None else columns[q]


@_inline
def _absolute(columns, j0, q):
    """The column of entry q itself."""
    return j0 + q if columns is None else columns[q]


@_inline
def _cells(vector, grid, i, start, n):
    """The part of an m-vector that belongs to row i of A."""
    return vector[start : start + n] if grid is None else vector[i * grid : (i + 1) * grid]


@_inline
def _cell(columns, grid, q):
    """Where, in those cells, entry q is."""
    return q if grid is None else columns[q]


@_inline
def _below(columns, j0, i, n):
    """How many of a row's n sorted entries are left of the diagonal, and whether one is on it."""
    if columns is None:
        m = min(max(i - j0, 0), n)
        return m, m < n and j0 + m == i
    m = 0
    while m < n and columns[m] < i:
        m += 1
    return m, m < n and columns[m] == i


@_inline
def _abs2(a):
    return a.real * a.real + a.imag * a.imag


# --- maps: each row of A writes its own rows of the output ----------------------------------------------------------


@_map
def value(data, indices, base, lo, hi, first, grid, i0, i1, x, out):
    """``F_ij = A_ij x_i x_j``."""
    for i in range(i0, i1):
        n = hi[i] - lo[i]
        a = data[lo[i] - base : hi[i] - base]
        columns = _columns(indices, lo[i] - base, n)
        xs = _window(x, indices, lo[i] - i * lo.size, n)
        cells = _cells(out, grid, i, first[i], n)
        xi = x[i]
        for q in range(n):
            cells[_cell(columns, grid, q)] = a[q] * (xi * xs[_column(columns, q)])


@_map
def matvec(data, indices, base, lo, hi, first, grid, i0, i1, x, v, out):
    """``(J v)_ij = A_ij (v_i x_j + x_i v_j)``."""
    for i in range(i0, i1):
        n = hi[i] - lo[i]
        a = data[lo[i] - base : hi[i] - base]
        columns = _columns(indices, lo[i] - base, n)
        xs = _window(x, indices, lo[i] - i * lo.size, n)
        vs = _window(v, indices, lo[i] - i * lo.size, n)
        cells = _cells(out, grid, i, first[i], n)
        xi = x[i]
        vi = v[i]
        for q in range(n):
            j = _column(columns, q)
            cells[_cell(columns, grid, q)] = a[q] * (vi * xs[j] + xi * vs[j])


@_map
def matmat(data, indices, base, lo, hi, first, grid, i0, i1, x, V, out):
    """`matvec` for the columns of V at once."""
    for i in range(i0, i1):
        n = hi[i] - lo[i]
        a = data[lo[i] - base : hi[i] - base]
        columns = _columns(indices, lo[i] - base, n)
        xs = _window(x, indices, lo[i] - i * lo.size, n)
        Vs = _window(V, indices, lo[i] - i * lo.size, n)
        cells = _cells(out, grid, i, first[i], n)
        xi = x[i]
        Vi = V[i]
        for q in range(n):
            j = _column(columns, q)
            aq = a[q]
            xj = xs[j]
            Vj = Vs[j]
            cell = cells[_cell(columns, grid, q)]
            for c in range(Vi.size):
                cell[c] = aq * (Vi[c] * xj + xi * Vj[c])


@_map
def csr_data(data, indices, base, lo, hi, first, grid, i0, i1, diagonal, start, stop, shift, x, out):
    """The numbers of J's CSR form: a row's two entries ``A_ij x_j`` and ``A_ij x_i`` in the order of their columns.

    Only entries ``start <= p < stop`` are visited, and `shift` numbers of J precede them. ``diagonal[i]`` counts the
    diagonal entries of the rows before i: each makes one number of J where the others make two.
    """
    for i in range(i0, i1):
        p = max(lo[i], start)
        n = min(hi[i], stop) - p
        if n <= 0:
            continue
        a = data[p - base : p - base + n]
        columns = _columns(indices, p - base, n)
        j0 = p - i * lo.size
        xs = _window(x, indices, j0, n)
        xi = x[i]
        # Only the first row of a block can start inside its row of A, and there nothing precedes it.
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


@_map
def csr_indices(
    data, indices, base, lo, hi, first, grid, i0, i1, diagonal, start, stop, shift, row0, row1, columns_out, indptr
):
    """The columns and row pointers of J's CSR form, for its rows ``row0 <= r < row1``; the rest as in `csr_data`.

    ``indptr[0]`` is the caller's. With a `grid`, rows of J for which A has no entry get their pointers here too.
    """
    k = lo.size
    for i in range(i0, i1):
        p = max(lo[i], start)
        n = min(hi[i], stop) - p
        if n <= 0 and grid is None:
            continue
        n = max(n, 0)
        columns = _columns(indices, p - base, n)
        j0 = p - i * k
        # An empty row of a grid has p > lo[i] only where a block starts behind its last entry: nothing precedes it.
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
        if grid is None:
            r = first[i] + (p - lo[i]) - row0
            ends = indptr[r + 1 : r + 1 + n]
            for q in range(n):
                ends[q] = o + 2 * (q + 1) - (on_diagonal and q >= m)
        else:
            ends = indptr[1:]
            r = max(i * grid, row0)
            for q in range(n):
                for s in range(r, i * grid + np.int64(columns[q])):
                    ends[s - row0] = o
                o += 1 if on_diagonal and q == m else 2
                r = i * grid + np.int64(columns[q])
                ends[r - row0] = o
                r += 1
            for s in range(r, min((i + 1) * grid, row1)):
                ends[s - row0] = o


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


# --- sums: each row of A adds into a k-vector, which the caller made zero -------------------------------------------


@_sum
def rmatvec(data, indices, base, lo, hi, first, grid, i0, i1, x, w, conjugate, out):
    """``Jᵀ w = (A∘W) x + (A∘W)ᵀ x``, with conj(A) where `conjugate` is set (x then comes conjugated).

    x and `out` have the precision in which the sums are kept: float64 or complex128.
    """
    one = x.dtype.type(1)  # makes the products of float32 numbers in float64 as well; for float64 it vanishes
    for i in range(i0, i1):
        n = hi[i] - lo[i]
        a = data[lo[i] - base : hi[i] - base]
        columns = _columns(indices, lo[i] - base, n)
        xs = _window(x, indices, lo[i] - i * lo.size, n)
        outs = _window(out, indices, lo[i] - i * lo.size, n)
        cells = _cells(w, grid, i, first[i], n)
        xi = x[i]
        total = 0 * one
        for q in range(n):
            j = _column(columns, q)
            aq = one * a[q]
            t = (np.conj(aq) if conjugate else aq) * cells[_cell(columns, grid, q)]
            total += t * xs[j]
            outs[j] += t * xi
        out[i] += total


@_sum
def rmatmat(data, indices, base, lo, hi, first, grid, i0, i1, x, W, conjugate, out):
    """`rmatvec` for the columns of W at once."""
    one = x.dtype.type(1)
    for i in range(i0, i1):
        n = hi[i] - lo[i]
        a = data[lo[i] - base : hi[i] - base]
        columns = _columns(indices, lo[i] - base, n)
        xs = _window(x, indices, lo[i] - i * lo.size, n)
        outs = _window(out, indices, lo[i] - i * lo.size, n)
        cells = _cells(W, grid, i, first[i], n)
        xi = x[i]
        outi = out[i]
        for q in range(n):
            j = _column(columns, q)
            aq = one * a[q]
            if conjugate:
                aq = np.conj(aq)
            xj = xs[j]
            outj = outs[j]
            cell = cells[_cell(columns, grid, q)]
            for c in range(outi.size):
                t = aq * cell[c]
                outj[c] += t * xi
                outi[c] += t * xj


@_sum
def column_squares(data, indices, base, lo, hi, first, grid, i0, i1, x2, out):
    """``‖J[:, s]‖² = Σ_j (|A_sj|² + |A_js|²) |x_j|²``, and 4 |A_ss|² |x_s|² on the diagonal; `x2` is |x|²."""
    one = x2.dtype.type(1)
    for i in range(i0, i1):
        n = hi[i] - lo[i]
        a = data[lo[i] - base : hi[i] - base]
        columns = _columns(indices, lo[i] - base, n)
        j0 = lo[i] - i * lo.size
        xs = _window(x2, indices, j0, n)
        outs = _window(out, indices, j0, n)
        xi = x2[i]
        total = 0 * one
        for q in range(n):
            j = _column(columns, q)
            t = _abs2(one * a[q])
            total += t * xs[j]
            outs[j] += t * xi
        m, on_diagonal = _below(columns, j0, i, n)
        if on_diagonal:
            total += 2 * _abs2(one * a[m]) * xi
        out[i] += total


# --- the structure of a CSR matrix ----------------------------------------------------------------------------------


@_map
def csr_defect(indptr, indices, k):
    """What is wrong with a CSR structure, and in which row: 0 nothing, 1 indptr, 2 a column that A does not have,
    3 columns that are not in ascending order or come twice. The worst one found counts: 3 can be mended, 1 and 2 not.
    """
    if indptr[0] != 0:
        return 1, 0
    for i in range(k):
        if indptr[i + 1] < indptr[i] or indptr[i + 1] > indices.size:
            return 1, i
    defect, row = 0, 0
    for i in range(k):
        previous = -1
        for j in indices[indptr[i] : indptr[i + 1]]:
            if j < 0 or j >= k:
                return 2, i
            if j <= previous:
                defect, row = 3, i
            previous = j
    return defect, row


@_map
def csr_asymmetry(indptr, indices, data, cursor):
    """The first (i, j) with ``A_ij != A_ji``, or (-1, -1). `cursor` is a copy of ``indptr[:-1]``, and is used up.

    Rows are visited in ascending order, so the entries of row j are met, transposed, in the order in which they are stored:
    ``cursor[j]`` is the one that must come next. One pass, no transposed copy.
    """
    for i in range(cursor.size):
        for p in range(indptr[i], indptr[i + 1]):
            j = indices[p]
            q = cursor[j]
            if q == indptr[j + 1] or indices[q] > i:
                return i, np.int64(j)
            if indices[q] < i:  # stored, but its mirror image was never met
                return np.int64(indices[q]), np.int64(j)
            if data[p] != data[q] and not (np.isnan(data[p]) and np.isnan(data[q])):
                return i, np.int64(j)
            cursor[j] += 1
    return -1, -1


@_map
def csr_diagonals(indptr, indices, split, diagonal):
    """Where in each row the diagonal and what is right of it starts, and how many diagonal entries earlier rows have.

    `split` has k elements or is None, `diagonal` k + 1.
    """
    count = 0
    diagonal[0] = 0
    for i in range(diagonal.size - 1):
        columns = indices[indptr[i] : indptr[i + 1]]
        low, high = 0, columns.size
        while low < high:
            middle = (low + high) // 2
            if columns[middle] < i:
                low = middle + 1
            else:
                high = middle
        if low < columns.size and columns[low] == i:
            count += 1
        diagonal[i + 1] = count
        if split is not None:
            split[i] = indptr[i] + low


@_map
def csr_column(lo, hi, indices, s, positions):
    """The entry of each row that is in column s, or -1."""
    for i in range(lo.size):
        low, high = lo[i], hi[i]
        while low < high:
            middle = (low + high) // 2
            if indices[middle] < s:
                low = middle + 1
            else:
                high = middle
        positions[i] = low if low < hi[i] and indices[low] == s else -1
