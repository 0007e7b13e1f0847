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
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from llvmlite.binding.ffi import lib as llvm
from numba import types
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic


def _kernel(**options):
    """`numba.njit` that keeps what it compiles on disk where it may, and in memory where it may not."""

    def decorate(function):
        try:
            compiled = numba.njit(**_ALWAYS, cache=True, **options)(function)
        except RuntimeError:  # "cannot cache function: no locator available": no folder is writable
            compiled = numba.njit(**_ALWAYS, **options)(function)
        _name_by_signature(getattr(compiled._cache, "_cache_file", None))

        @functools.wraps(function)
        def run(*args):
            # Kernels raise nothing: an error is one of Numba's, and has come before anything ran.
            try:  # contextlib.suppress takes as long as a small call
                return compiled(*args)
            except (MemoryError, KeyboardInterrupt):  # which say nothing of the cache
                _give_locks_back()
                raise
            except Exception:  # noqa: BLE001, S110  # of whatever kind, it is tried once more
                pass
            try:  # if it could not be saved (the disk is full), it is in memory by now
                return compiled(*args)
            except (MemoryError, KeyboardInterrupt):
                _give_locks_back()
                raise
            except Exception as error:
                raise RuntimeError(
                    _CACHE.format(function.__name__, compiled.stats.cache_path, error)
                ) from error

        run.compiled = compiled  # type: ignore[attr-defined]  # for tests
        return run

    return decorate


def _give_locks_back():
    """Release Numba's locks where an exception between two bytecodes has left them with this thread.

    Other threads, ours among them, would wait for ever. Numba takes its locks in Python code.
    """
    for holder in (global_compiler_lock, getattr(llvm, "_lock", None)):
        lock: Any = getattr(holder, "_lock", None)
        while hasattr(lock, "_is_owned") and lock._is_owned():
            lock.release()


def _name_by_signature(file):
    """Name what Numba keeps on disk by the signature that it is for.

    Numba numbers it, by an index that it has read before. Two processes that compile at the same time can give one number
    to two signatures, and from then on one of them is answered with the code of the other.
    """

    def save(key, data):
        name = (
            file._index_name.removesuffix("nbi")
            + hashlib.sha256(repr(key).encode()).hexdigest()[:20]
            + ".nbc"
        )
        file._save_data(name, data)
        file._save_index(
            file._load_index() | {key: name}
        )  # what another process adds meanwhile is compiled again

    if all(
        hasattr(file, part) for part in ("_index_name", "_save_data", "_save_index", "_load_index")
    ):
        file.save = save


_CACHE = "Numba cannot use its cache of the compiled kernel {}: remove the folder {}, or name another in NUMBA_CACHE_DIR ({})"

_ALWAYS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
}  # a division by zero is infinite, and no exception
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
        builder.call(
            prefetch, [address, flag(0), flag(3), flag(1)]
        )  # to read, keep in all caches, data
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
def _cells(vector, base, grid, i, start, n):
    """The part of an m-vector, of which the first `base` numbers are left out, that belongs to row i of A."""
    return (
        vector[start - base : start - base + n]
        if grid is None
        else vector[i * grid - base : (i + 1) * grid - base]
    )


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
def csr_data(
    data, indices, base, lo, hi, first, grid, i0, i1, diagonal, start, stop, shift, x, out
):
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


@_map
def not_finite(numbers):
    """How many of these numbers are NaN or infinite. Without `fastmath`: with it, some versions of LLVM know that ``v - v`` is 0."""
    count = 0
    for q in range(numbers.size):
        count += numbers[q] - numbers[q] != 0
    return count


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
        step = (
            4 if own else max(i1 - i0, 1)
        )  # dense rows do not look for the diagonal: it is added after each four
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


# --- conjugate gradients: k-vectors only. BLAS would do them on threads of its own, which then spin on the cores of ours ----


@_sum
def cg_product(d, x, Hd, scale, damping, degree):
    """``Hd ← (scale + damping degree)∘d + x∘Hd``, or without x ``… + Hd``; returns ``d·Hd``."""
    total = 0.0
    for i in range(d.size):
        h = (scale[i] + damping * degree[i]) * d[i] + (Hd[i] if x is None else x[i] * Hd[i])
        Hd[i] = h
        total += d[i] * h
    return total


@_sum
def cg_step(alpha, d, Hd, inverse, s, r):
    """``s ← s + alpha d``, ``r ← r + alpha Hd``; returns ``r·z`` with the preconditioned ``z = inverse∘r``."""
    total = 0.0
    for i in range(d.size):
        s[i] += alpha * d[i]
        ri = r[i] + alpha * Hd[i]
        r[i] = ri
        total += inverse[i] * ri * ri
    return total


@_sum
def cg_direction(beta, r, inverse, d):
    """``d ← beta d - z``."""
    for i in range(d.size):
        d[i] = beta * d[i] - inverse[i] * r[i]


# --- symmetric scaling: k-vectors only ------------------------------------------------------------------------------
# At x the map has the values r = x∘(A x), and ½ xᵀA x - d·log(x), by log(x), the gradient g = r - d and the Hessian
# H = Diag(r) + Diag(x) A Diag(x); z = g / diag(H). A direction q in x is s = q/x in log(x). No loop has a branch, so all of
# them vectorise: rows that are left out have x = A x = d = 1 and q = A q = 0, and change nothing.


@_sum
def scaling_step(t, x, Ax, q, Aq, s, z, error, d, own):
    """Go on to ``x + t q``: there, ``s``, ``z`` and ``|g|/d``; returns ``z·H s`` and ``s·H s``."""
    above = below = 0.0
    for i in range(x.size):
        xi, y = x[i] + t * q[i], Ax[i] + t * Aq[i]
        x[i], Ax[i] = xi, y
        r = xi * y
        g = r - d[i]
        error[i] = abs(g) / d[i]
        zi, si = g / (xi * (y + own[i] * xi)), q[i] / xi  # x² might leave the range of numbers
        z[i], s[i] = zi, si
        Hs = r * si + xi * Aq[i]
        above += zi * Hs
        below += si * Hs
    return above, below


@_sum
def scaling_direction(beta, x, Ax, q, s, z, d):
    """``s ← β s - z`` and q with it; returns ``g·s``."""
    slope = 0.0
    for i in range(x.size):
        si = beta * s[i] - z[i]
        s[i] = si
        q[i] = x[i] * si
        slope += (x[i] * Ax[i] - d[i]) * si
    return slope


@_sum
def scaling_line(q, Aq, s, d):
    """``q·A q`` and ``d·s²``: what a line search needs to know of its line."""
    square = weight = 0.0
    for i in range(q.size):
        square += q[i] * Aq[i]
        weight += d[i] * s[i] * s[i]
    return square, weight


@_sum
def scaling_slope(t, s, d):
    """``d·(s²/(1 + t s))`` and ``d·(s²/(1 + t s)²)``."""
    first = second = 0.0
    for i in range(s.size):
        w = s[i] / (1.0 + t * s[i])
        first += d[i] * w * s[i]
        second += d[i] * w * w
    return first, second


# --- a Fortran-ordered matrix ---------------------------------------------------------------------------------------


@_map
def transpose(source, i0, out):
    """``out[i, j] = source[j, i0 + i]`` for a square source: whole cache lines of both, and those of `source` asked for early."""
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


# --- the structure of a CSR matrix ----------------------------------------------------------------------------------


@_map
def csr_defect(indptr, indices, base, i0, i1, k):
    """What is wrong with a CSR structure, and in which row: 0 nothing, 1 indptr, 2 a column that A does not have,
    3 columns that are not in ascending order or come twice. The worst one found counts: 3 can be mended, 1 and 2 not.
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
        for q in range(
            n - 1
        ):  # no exit and no range test, so it vectorises: if they ascend, the ends tell the range
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
    """An (i, j) with ``A_ij != A_ji``, or (-1, -1). `cursor` is where each row has what is right of its diagonal, and is used up.

    Rows are visited in ascending order, so the entries right of the diagonal of row j are met, transposed, in the order in which
    they are stored: ``cursor[j]`` is the one that must come next. Half a pass, no transposed copy.
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
    """An (i, j) with ``|A_ij - A_ji| > relative max_l |A_il|``, or the same of row j; (-1, -1) if there is none.

    An entry that is not stored counts as 0. `relative` < 0 accepts equal numbers only: the difference of two large integers may
    round to 0. `tolerance` is a k-vector to work with.
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
            if not abs(1.0 * a - 1.0 * b) <= min(
                tolerance[i], tolerance[j]
            ):  # true of NaN and a number, too
                return i, np.int64(j)
    return -1, -1


@_map
def csr_align(indptr, indices, other_indptr, other_indices, other, out):
    """Write the numbers of another CSR matrix to where this one has its entries, and count those it has none for, zeros apart.

    Returned with the count: the first of them.
    """
    count, first_i, first_j = 0, -1, -1
    for i in range(indptr.size - 1):
        p, end = indptr[i], indptr[i + 1]
        for q in range(other_indptr[i], other_indptr[i + 1]):
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
    """Which entry of each row is on the diagonal, or -1, and where what is not left of it starts; `split` may be None."""
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
