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

What makes the loops fast is easy to lose. Over dense rows they move A, W or the output at the speed of the memory bus:
the inner ones count from 0 over slices, so Numba sees that no index is negative, drops the wrap-around test, and LLVM
vectorises; sums take four rows at a time, so that a k-vector goes through the cache once where it went four times. Over
sparse rows the time is that of cache misses at random columns: what one entry needs of the k-vectors is packed side by
side in an array of shape (k, 2), one cache line of float64, and asked for `_AHEAD` entries before it is used.

Maps are compiled without `fastmath`, so the bits of an entry do not depend on the block in which it is computed.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, call-arg, index"

import functools
import hashlib

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic


def _kernel(**options):
    """`numba.njit` that keeps what it compiles on disk where it may, and in memory where it may not."""

    def decorate(function):
        try:
            compiled = numba.njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # "cannot cache function: no locator available": no folder is writable
            compiled = numba.njit(nogil=True, **options)(function)
        _name_by_signature(getattr(compiled._cache, "_cache_file", None))

        @functools.wraps(function)
        def run(*args):
            # Kernels raise nothing: an error is one of Numba's, and has come before anything ran.
            try:  # contextlib.suppress takes as long as a small call
                return compiled(*args)
            except Exception:  # noqa: BLE001, S110  # of whatever kind, it is tried once more
                pass
            try:  # if it could not be saved (the disk is full), it is in memory by now
                return compiled(*args)
            except Exception as error:
                raise RuntimeError(_CACHE.format(function.__name__, compiled.stats.cache_path, error)) from error

        run.compiled = compiled  # type: ignore[attr-defined]  # for tests
        return run

    return decorate


def _name_by_signature(file):
    """Name what Numba keeps on disk by the signature that it is for.

    Numba numbers it, by an index that it has read before. Two processes that compile at the same time can give one number
    to two signatures, and from then on one of them is answered with the code of the other.
    """

    def save(key, data):
        name = file._index_name.removesuffix("nbi") + hashlib.sha256(repr(key).encode()).hexdigest()[:20] + ".nbc"
        file._save_data(name, data)
        file._save_index(file._load_index() | {key: name})  # what another process adds meanwhile is compiled again

    if all(hasattr(file, part) for part in ("_index_name", "_save_data", "_save_index", "_load_index")):
        file.save = save


_CACHE = "Numba cannot use its cache of the compiled kernel {}: remove the folder {}, or name another in NUMBA_CACHE_DIR ({})"

_NO_SIGN = np.int64(2**63 - 1)
_CACHED = 2**17  # numbers that a core's own cache holds: asking for those early only takes time
_AHEAD = 40  # entries: about as many as are under way while one cache line comes from memory
_inline = numba.njit
_map = _kernel()
# The flags let LLVM keep several partial sums in a register and contract a*b+c; they leave NaN and infinity alone
# ("nnan" and "ninf", which `fastmath=True` would add, do not).
_sum = _kernel(fastmath={"reassoc", "contract", "nsz"})


# --- the walk along one row ---------------------------------------------------------------------------------------


@intrinsic
def _prefetch(typing_context, array, position):
    """Ask for the cache line of ``array.flat[position]``, and do not wait for it."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        flag = ir.IntType(32)
        function = ir.FunctionType(ir.VoidType(), [address.type, flag, flag, flag])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [address.type], function)
        builder.call(prefetch, [address, flag(0), flag(3), flag(1)])  # to read, keep in all caches, data
        return context.get_dummy_value()

    return types.void(array, position), generate


@_inline
def _ahead(vector, indices, p):
    """Sparse rows: ask now for what entry p + `_AHEAD` needs of a vector, or of a matrix whose rows are packed."""
    if indices is not None:
        j = np.int64(indices[min(p + _AHEAD, indices.size - 1)])
        if vector.ndim == 2:
            j *= vector.shape[1]
        _prefetch(vector, j)


@_inline
def _ahead_of_cache(vector, indices, p):
    """`_ahead`, unless the vector fits into the cache: for loops so short that asking takes a good part of the time."""
    if vector.size > _CACHED:
        _ahead(vector, indices, p)


@_inline
def _columns(indices, start, n):
    return None if indices is None else indices[start : start + n]


@_inline
def _window(vector, indices, start, n):
    """What a row needs of a k-vector: a dense row meets n neighbours, a sparse one any of them."""
    return vector[start : start + n] if indices is None else vector


@_inline
def _column(columns, q):
    """Where, in a window, the column of entry q is. Without a sign bit no index can be one from the end: one test less."""
    return q if columns is None else columns[q] & _NO_SIGN


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


# --- maps: each row of A writes its own rows of the output ----------------------------------------------------------


@_map
def value(data, indices, base, lo, hi, first, grid, i0, i1, x, out):
    """``F_ij = A_ij x_i x_j``."""
    for i in range(i0, i1):
        start, n = lo[i] - base, hi[i] - lo[i]
        a = data[start : start + n]
        columns = _columns(indices, start, n)
        xs = _window(x, indices, lo[i] - i * lo.size, n)
        cells = _cells(out, grid, i, first[i], n)
        xi = x[i]
        for q in range(n):
            _ahead_of_cache(x, indices, start + q)
            cells[_cell(columns, grid, q)] = a[q] * (xi * xs[_column(columns, q)])


@_map
def matvec(data, indices, base, lo, hi, first, grid, i0, i1, x, v, out):
    """``(J v)_ij = A_ij (v_i x_j + x_i v_j)``. For sparse rows x is x and v, packed, and v None."""
    for i in range(i0, i1):
        start, n = lo[i] - base, hi[i] - lo[i]
        a = data[start : start + n]
        cells = _cells(out, grid, i, first[i], n)
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
        cells = _cells(out, grid, i, first[i], n)
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


@_inline
def _term(a, cells, q, conjugate, on_diagonal):
    """What an entry of A adds: a w_ij in ``Jᵀ w``, |a|² where there are no cells, in the squared norms of the columns."""
    if cells is not None:
        return (np.conj(a) if conjugate else a) * cells[q]
    square = a.real * a.real + a.imag * a.imag
    return 2 * square if on_diagonal else square


@_inline
def _add_row(data, indices, base, lo, first, grid, i, begin, end, x, w, conjugate, out):
    """For entries ``begin <= p < end`` of row i and their terms t: ``out_i += t x_j`` and ``out_j += t x_i``."""
    start, n = begin - base, end - begin
    a = data[start : start + n]
    columns = _columns(indices, start, n)
    j0 = begin - i * lo.size
    xs, outs = _window(x, indices, j0, n), _window(out, indices, j0, n)
    cells = None if w is None else _cells(w, grid, i, first[i] + begin - lo[i], n)
    one = out.dtype.type(1)  # makes the products of float32 numbers in float64 as well; for float64 it vanishes
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
def _add_four_rows(data, base, lo, first, i, j0, j1, x, w, conjugate, out, sums):
    """`_add_row` for columns ``j0 <= j < j1`` of four dense rows at once. `sums` has four rows, or is None for a vector."""
    k, n = lo.size, j1 - j0
    p0 = i * k + j0
    p1, p2, p3 = p0 + k, p0 + 2 * k, p0 + 3 * k
    a0, a1 = data[p0 - base : p0 - base + n], data[p1 - base : p1 - base + n]
    a2, a3 = data[p2 - base : p2 - base + n], data[p3 - base : p3 - base + n]
    w0 = None if w is None else _cells(w, None, i, first[i] + p0 - lo[i], n)
    w1 = None if w is None else _cells(w, None, i, first[i + 1] + p1 - lo[i + 1], n)
    w2 = None if w is None else _cells(w, None, i, first[i + 2] + p2 - lo[i + 2], n)
    w3 = None if w is None else _cells(w, None, i, first[i + 3] + p3 - lo[i + 3], n)
    xs, outs = x[j0:j1], out[j0:j1]
    x0, x1, x2, x3 = x[i], x[i + 1], x[i + 2], x[i + 3]
    one = out.dtype.type(1)
    if out.ndim == 1:
        s0 = s1 = s2 = s3 = out.dtype.type(0)
        for q in range(n):
            t0, t1 = _term(one * a0[q], w0, q, conjugate, False), _term(one * a1[q], w1, q, conjugate, False)
            t2, t3 = _term(one * a2[q], w2, q, conjugate, False), _term(one * a3[q], w3, q, conjugate, False)
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
def _add_rows(data, indices, base, lo, hi, first, grid, i0, i1, x, w, conjugate, out, sums):
    """Sum over rows ``i0 <= i < i1``, four at a time where A is dense."""
    i = i0
    while indices is None and i + 4 <= i1:
        # The rows of a triangle begin, or end, one entry apart: there is always a column that the four have in common.
        left = max(lo[i] - i * lo.size, lo[i + 3] - (i + 3) * lo.size)
        right = min(hi[i] - i * lo.size, hi[i + 3] - (i + 3) * lo.size)
        _add_four_rows(data, base, lo, first, i, left, right, x, w, conjugate, out, sums)
        for r in range(i, i + 4):
            begin, end = r * lo.size + left, r * lo.size + right
            _add_row(data, indices, base, lo, first, grid, r, lo[r], begin, x, w, conjugate, out)
            _add_row(data, indices, base, lo, first, grid, r, end, hi[r], x, w, conjugate, out)
        i += 4
    while i < i1:
        _add_row(data, indices, base, lo, first, grid, i, lo[i], hi[i], x, w, conjugate, out)
        i += 1


@_inline
def _add_packed_rows(data, indices, base, lo, hi, first, grid, i0, i1, w, conjugate, out):
    """`_add_rows` for sparse rows; `out` is x and the sum, packed."""
    for i in range(i0, i1):
        start, n = lo[i] - base, hi[i] - lo[i]
        a, columns = data[start : start + n], indices[start : start + n]
        cells = None if w is None else _cells(w, grid, i, first[i], n)
        one, total = out.dtype.type(1), out.dtype.type(0)
        xi = out[i, 0]
        for q in range(n):
            _ahead_of_cache(out, indices, start + q)
            j = _column(columns, q)
            t = _term(one * a[q], cells, _cell(columns, grid, q), conjugate, j == i)
            total += t * out[j, 0]
            out[j, 1] += t * xi
        out[i, 1] += total


@_sum
def rmatvec(data, indices, base, lo, hi, first, grid, i0, i1, x, w, conjugate, out):
    """``Jᵀ w = (A∘W) x + (A∘W)ᵀ x``, with conj(A) where `conjugate` is set (x then comes conjugated).

    x and `out` have the precision in which the sums are kept: float64 or complex128. For sparse rows x is None, and `out`
    is x and the sum, packed.
    """
    if out.ndim == 1:
        _add_rows(data, indices, base, lo, hi, first, grid, i0, i1, x, w, conjugate, out, None)
    else:
        _add_packed_rows(data, indices, base, lo, hi, first, grid, i0, i1, w, conjugate, out)


@_sum
def rmatmat(data, indices, base, lo, hi, first, grid, i0, i1, x, W, conjugate, sums, out):
    """`rmatvec` for the columns of W at once; nothing is packed. `sums` is room for four dense rows of `out`."""
    _add_rows(data, indices, base, lo, hi, first, grid, i0, i1, x, W, conjugate, out, sums)


@_sum
def column_squares(data, indices, base, lo, hi, first, grid, i0, i1, x, out):
    """``‖J[:, s]‖² = Σ_j (|A_sj|² + |A_js|²) |x_j|²``, and 4 |A_ss|² |x_s|² on the diagonal; x is |x|²."""
    if out.ndim == 1:
        _add_rows(data, indices, base, lo, hi, first, grid, i0, i1, x, None, False, out, None)
        one = out.dtype.type(1)
        for i in range(i0, i1):  # the other half of the diagonal: dense rows do not look for it
            p = i * (lo.size + 1)
            if lo[i] <= p < hi[i]:
                out[i] += _term(one * data[p - base], None, 0, False, True) * x[i]
    else:
        _add_packed_rows(data, indices, base, lo, hi, first, grid, i0, i1, None, False, out)


# --- a Fortran-ordered matrix ---------------------------------------------------------------------------------------


@_map
def transpose(source, i0, out):
    """``out[i, j] = source[j, i0 + i]`` for a square source: whole cache lines of both, and those of `source` asked for early."""
    n, k = out.shape
    for j in range(0, k - 7, 8):
        s0, s1, s2, s3 = source[j, i0:], source[j + 1, i0:], source[j + 2, i0:], source[j + 3, i0:]
        s4, s5, s6, s7 = source[j + 4, i0:], source[j + 5, i0:], source[j + 6, i0:], source[j + 7, i0:]
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
