"""The walks over the rows of A, which are written once for all operations.

They are not called. `generate` makes kernels of them, and writes out what they leave open:

``VECTORS, OUTPUTS, AT_I, AT_J, SCALARS, ROWS``
    A loop over one of these is unrolled. In it ``name[v]`` is a variable of its own, `name_0` or
    `name_1`, as ``name[r][v]`` is `name_0_1`. The vectors that the kernel is given are ``x[v]``.
``ALIGNED, BY_ENTRY, FOUR, INTERLEAVED, OWN, PAST_CACHES``
    A condition on one of these is decided.
``EDGE(a, y, xi, xj)``
    A call of the edge function with those of its arguments that it wants, and its own.
``COMBINE(o, s, t)``
    ``s + t``, or what the monoid of output o makes of the two.

A row visits the entries ``lo[i] <= p < hi[i]``. Over sparse rows a reduction is given no vectors:
`out` is the vectors and the outputs, interleaved, so that what an entry needs of them is in one
cache line. A map over sparse rows is given two vectors interleaved.

A reduction goes on from what its outputs hold, and takes dense rows in fours from its first row on,
if the operation says so. So rows that are cut at a multiple of four, and added one part after the
other, give the same bits as in one call. Four rows at once take the outputs at j through the cache
once, not four times.
"""

# mypy: ignore-errors

from .row import _CACHED, _NO_SIGN, _ahead, _cell, _cells, _common, _side
from .stores import _finish, _store_one

# --- maps ---------------------------------------------------------------------------------------


def map_dense(data, indices, base, lo, hi, first, grid, i0, i1):
    """Write ``edge(entry)`` to the row of J for each entry."""
    for i in range(i0, i1):
        start, n, j0 = lo[i] - base, hi[i] - lo[i], int(lo[i]) - i * lo.size
        a, cells = data[start : start + n], out[first[i] : first[i] + n]
        if ALIGNED:
            y = None if aligned is None else aligned[lo[i] - aligned_base :][:n]
        for v in VECTORS:
            xs[v], xi[v] = x[v][j0 : j0 + n], x[v][i]
        for q in range(n):
            for v in VECTORS:
                xj[v] = xs[v][q]
            f = EDGE(a[q], None if aligned is None else y[q], xi, xj)
            if PAST_CACHES:  # this loop is not vectorised
                _store_one(out, first[i] + q, f)
            else:
                cells[q] = f
    if PAST_CACHES:
        _finish()


def map_sparse(data, indices, base, lo, hi, first, grid, i0, i1):
    """`map_dense` for sparse rows."""
    far = x_0.size > _CACHED
    for i in range(i0, i1):
        start, n = lo[i] - base, hi[i] - lo[i]
        a, columns = data[start : start + n], indices[start : start + n]
        cells = _cells(out, 0, grid, i, first[i], n)
        if ALIGNED:
            y = None if aligned is None else aligned[lo[i] - aligned_base :][:n]
        for v in VECTORS:
            xi[v] = x_0[i, v] if INTERLEAVED else x_0[i]
        for q in range(n):
            if far:
                _ahead(x_0, indices, start + q)
            j = columns[q] & _NO_SIGN
            for v in VECTORS:
                xj[v] = x_0[j, v] if INTERLEAVED else x_0[j]
            f = EDGE(a[q], None if aligned is None else y[q], xi, xj)
            cells[_cell(columns, grid, q)] = f


def map_dense_columns(data, indices, base, lo, hi, first, grid, i0, i1):
    """`map_dense` for each column of the last vector, which is a matrix."""
    for i in range(i0, i1):
        start, n, j0 = lo[i] - base, hi[i] - lo[i], int(lo[i]) - i * lo.size
        a, cells = data[start : start + n], out[first[i] : first[i] + n]
        xs, Vs, xi[0], Vi = x_0[j0 : j0 + n], x_1[j0 : j0 + n], x_0[i], x_1[i]
        for q in range(n):
            aq, xj[0], Vj, cell = a[q], xs[q], Vs[q], cells[q]
            for c in range(Vi.size):
                xi[1], xj[1] = Vi[c], Vj[c]
                cell[c] = EDGE(aq, None, xi, xj)


def map_sparse_columns(data, indices, base, lo, hi, first, grid, i0, i1):
    """`map_dense_columns` for sparse rows. The vectors are not interleaved."""
    for i in range(i0, i1):
        start, n = lo[i] - base, hi[i] - lo[i]
        a, columns = data[start : start + n], indices[start : start + n]
        cells = _cells(out, 0, grid, i, first[i], n)
        xi[0], Vi = x_0[i], x_1[i]
        for q in range(n):
            _ahead(x_0, indices, start + q)
            _ahead(x_1, indices, start + q)
            j = columns[q] & _NO_SIGN
            aq, xj[0], Vj, cell = a[q], x_0[j], x_1[j], cells[_cell(columns, grid, q)]
            for c in range(Vi.size):
                xi[1], xj[1] = Vi[c], Vj[c]
                cell[c] = EDGE(aq, None, xi, xj)


# --- reductions ---------------------------------------------------------------------------------


def reduce_dense(data, indices, base, lo, hi, first, grid, i0, i1):
    """Combine what the entries contribute into the rows of `out`, or into `out` if it is a vector.

    The scalars are behind the first row.
    """
    k = lo.size
    one, zero = out.dtype.type(1), out.dtype.type(0)  # `one` takes products of float32 to float64
    for o in OUTPUTS:
        outs[o] = out if out.ndim == 1 else out[o, :]
    for s in SCALARS:
        scalar[s] = outs_0[k + s]
    for i in range(i0, i1, 4 if FOUR else 1):
        rows, sides = 1, 1
        if FOUR:
            rows = min(4, i1 - i)
            sides, (left, right) = 2 * rows, _common(lo, hi, i, rows)
            if left <= right:
                n = right - left
                for r in ROWS:
                    p = (i + r) * k + left
                    a[r] = data[p - base :][:n]
                    if ALIGNED:
                        p = p if BY_ENTRY else first[i + r] + p - lo[i + r]
                        y[r] = aligned[p - aligned_base :][:n]
                    for v in VECTORS:
                        xi[r][v] = x[v][i + r]
                    for o in AT_I:
                        total[r][o] = zero
                for v in VECTORS:
                    xs[v] = x[v][left:right]
                for o in AT_J:
                    near[o] = outs[o][left:right]
                for q in range(n):
                    for v in VECTORS:
                        xj[v] = xs[v][q]
                    for r in ROWS:
                        to_i[r], to_j[r], more[r] = EDGE(one * a[r][q], y[r][q], xi[r], xj)
                        for o in AT_I:
                            total[r][o] = COMBINE(o, total[r][o], to_i[r][o])
                    for o in AT_J:
                        upper[o] = COMBINE(o, to_j_0[o], to_j_1[o])
                        lower[o] = COMBINE(o, to_j_2[o], to_j_3[o])
                        near[o][q] = COMBINE(o, near[o][q], COMBINE(o, upper[o], lower[o]))
                    for s in SCALARS:
                        scalar[s] += (more_0[s] + more_1[s]) + (more_2[s] + more_3[s])
                for r in ROWS:
                    for o in AT_I:
                        outs[o][i + r] = COMBINE(o, outs[o][i + r], total[r][o])
        for side in range(sides):
            if FOUR:
                row = i + side // 2
                begin, end = _side(lo, hi, row, left, right, side % 2)
            else:
                row, begin, end = i, lo[i], hi[i]
            n, j0 = end - begin, begin - row * k
            a = data[begin - base :][:n]
            if ALIGNED:
                p = begin if BY_ENTRY else first[row] + begin - lo[row]
                y = aligned[p - aligned_base :][:n]
            for v in VECTORS:
                xi[v], xs[v] = x[v][row], x[v][j0 : j0 + n]
            for o in AT_I:
                total[o] = zero
            for o in AT_J:
                near[o] = outs[o][j0 : j0 + n]
            for q in range(n):
                for v in VECTORS:
                    xj[v] = xs[v][q]
                to_i, to_j, more = EDGE(one * a[q], y[q], xi, xj)
                for o in AT_I:
                    total[o] = COMBINE(o, total[o], to_i[o])
                for o in AT_J:
                    near[o][q] = COMBINE(o, near[o][q], to_j[o])
                for s in SCALARS:
                    scalar[s] += more[s]
            for o in AT_I:
                outs[o][row] = COMBINE(o, outs[o][row], total[o])
        if OWN:
            for row in range(i, i + rows if own else i):
                p = row * (k + 1)
                if lo[row] <= p < hi[row]:
                    for v in VECTORS:
                        xi[v] = x[v][row]
                    to_i, to_j, more = EDGE(one * data[p - base], None, xi, xi)
                    for o in OUTPUTS:
                        outs[o][row] += to_i[o] + to_j[o]
    for s in SCALARS:
        outs_0[k + s] = scalar[s]


def reduce_sparse(data, indices, base, lo, hi, first, grid, i0, i1):
    """`reduce_dense` for sparse rows; `out` has a column for each vector and each output."""
    k, far = lo.size, out.size > _CACHED
    one, zero = out.dtype.type(1), out.dtype.type(0)
    for s in SCALARS:
        scalar[s] = out[k + s, INPUTS]
    for i in range(i0, i1):
        start, n = lo[i] - base, hi[i] - lo[i]
        a, columns = data[start : start + n], indices[start : start + n]
        if ALIGNED:
            if BY_ENTRY:
                y = aligned[lo[i] - aligned_base :][:n]
            else:
                y = _cells(aligned, aligned_base, grid, i, first[i], n)
        for v in VECTORS:
            xi[v] = out[i, v]
        for o in AT_I:
            total[o] = zero
        for q in range(n):
            if far:
                _ahead(out, indices, start + q)
            j = columns[q] & _NO_SIGN
            for v in VECTORS:
                xj[v] = out[j, v]
            number = y[q if BY_ENTRY else _cell(columns, grid, q)] if ALIGNED else None
            to_i, to_j, more = EDGE(one * a[q], number, xi, xj)
            for o in AT_I:
                total[o] = COMBINE(o, total[o], to_i[o])
            for o in AT_J:
                out[j, INPUTS + o] = COMBINE(o, out[j, INPUTS + o], to_j[o])
            for s in SCALARS:
                scalar[s] += more[s]
            if OWN:
                if own and j == i:
                    for o in OUTPUTS:
                        total[o] += to_i[o] + to_j[o]
        for o in AT_I:
            out[i, INPUTS + o] = COMBINE(o, out[i, INPUTS + o], total[o])
    for s in SCALARS:
        out[k + s, INPUTS] = scalar[s]


def reduce_dense_columns(data, indices, base, lo, hi, first, grid, i0, i1):
    """`reduce_dense` for one vector and each column of w and of `out`; `sums` is four rows."""
    k, one = lo.size, out.dtype.type(1)
    for i in range(i0, i1, 4):
        rows = min(4, i1 - i)
        left, right = _common(lo, hi, i, rows)
        if left <= right:
            n = right - left
            for r in ROWS:
                p = (i + r) * k + left
                a[r], y[r] = (
                    data[p - base :][:n],
                    aligned[first[i + r] + p - lo[i + r] - aligned_base :][:n],
                )
                xi[r][0], total[r] = x_0[i + r], sums[r, :]
            xs, near = x_0[left:right], out[left:right]
            sums[:] = 0
            for q in range(n):
                for r in ROWS:
                    aq[r], yq[r] = one * a[r][q], y[r][q]
                xj[0], row = xs[q], near[q]
                for c in range(row.size):
                    for r in ROWS:
                        to_i[r], to_j[r], more = EDGE(aq[r], yq[r][c], xi[r], xj)
                        total[r][c] += to_i[r][0]
                    row[c] += (to_j_0_0 + to_j_1_0) + (to_j_2_0 + to_j_3_0)
            for r in range(4):
                row = out[i + r]
                for c in range(row.size):
                    row[c] += sums[r, c]
        for side in range(2 * rows):
            r = i + side // 2
            begin, end = _side(lo, hi, r, left, right, side % 2)
            n, j0 = end - begin, begin - r * k
            a, y = data[begin - base :][:n], aligned[first[r] + begin - lo[r] - aligned_base :][:n]
            xi[0], xs, near, row = x_0[r], x_0[j0 : j0 + n], out[j0 : j0 + n], out[r]
            for q in range(n):
                aq, yq, xj[0], other = one * a[q], y[q], xs[q], near[q]
                for c in range(row.size):
                    to_i, to_j, more = EDGE(aq, yq[c], xi, xj)
                    other[c] += to_j[0]
                    row[c] += to_i[0]


def reduce_sparse_columns(data, indices, base, lo, hi, first, grid, i0, i1):
    """`reduce_dense_columns` for sparse rows. Nothing is interleaved."""
    one = out.dtype.type(1)
    for i in range(i0, i1):
        start, n = lo[i] - base, hi[i] - lo[i]
        a, columns = data[start : start + n], indices[start : start + n]
        y = _cells(aligned, aligned_base, grid, i, first[i], n)
        xi[0], row = x_0[i], out[i]
        for q in range(n):
            _ahead(x_0, indices, start + q)
            _ahead(out, indices, start + q)
            j = columns[q] & _NO_SIGN
            aq, yq, xj[0], other = one * a[q], y[_cell(columns, grid, q)], x_0[j], out[j]
            for c in range(row.size):
                to_i, to_j, more = EDGE(aq, yq[c], xi, xj)
                other[c] += to_j[0]
                row[c] += to_i[0]
