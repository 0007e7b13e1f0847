"""Maps for numbers of any size, where a product of two of them leaves the range of their dtype.

``1e-300 (1e200 1e200)`` is 1e100, but the product in brackets is infinite. Here each variable comes
as a number near 1 and the exponent n of a power of two. So a result overflows, or underflows, only
if its exact value does. `_backends.sizes` splits variables, and tells when that is needed.

The variables are a matrix Z, as in `rank_maps`. There is one loop for any number of columns.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, call-arg, index"

import numpy as np

from .compile import _map, _map_part, _sum
from .rank_maps import _largest
from .row import _NO_SIGN, _absolute, _cell, _cells, _columns

_LOWEST, _HIGHEST = -1074, 1023
_POWERS = 2.0 ** np.arange(_LOWEST, _HIGHEST + 1)
_OF_NONE = -20_000  # the exponent of an empty sum, which is -0.0: it keeps the sign of a zero
_HALFWAY = 600  # A times, or by, 2 to this is far from both ends of the range


@_map_part
def _power(n):
    """2ⁿ, where n is at most `_HIGHEST`."""
    return _POWERS[max(n, _LOWEST) - _LOWEST]


@_map_part
def _plus_dot(total, n, Z, of_z, i, V, of_v, j):
    """Add ``z_i·v_j`` to ``total 2ⁿ``. Returns the new total and its n."""
    for c in range(Z.shape[1]):
        more = of_z[i, c] + of_v[j, c]
        top = max(n, more)
        term = (np.float64(1) * Z[i, c]) * V[j, c]
        total, n = total * _power(n - top) + term * _power(more - top), top
    return total, n


@_map_part
def _times(a, total, n):
    """``a total 2ⁿ``, where the total is near 1 or cancelled. Only the last product may underflow.

    Each of two powers is a floating-point number, where 2ⁿ may be none.
    """
    a = np.float64(1) * a
    if max(abs(a.real), abs(a.imag)) < 1:
        f, n = a * _power(_HALFWAY) * total, n - _HALFWAY
    else:
        f, n = a * _power(-_HALFWAY) * total, n + _HALFWAY
    n = min(max(n, 2 * -_HIGHEST), 2 * _HIGHEST)
    half = n // 2
    return f * _power(half) * _power(n - half)


@_map
def value_of_any_size(
    data, indices, base, lo, hi, first, grid, i0, i1,
    aligned, aligned_base, width, row_offset, column_offset, of_z, Z, out,
):  # fmt: skip
    """``F_ij = A_ij (x_i·x_j)``, or ``F_ij - Y_ij`` unless `aligned` is empty."""
    zero, none = -np.float64(0) * Z.dtype.type(0), np.int64(_OF_NONE)
    for i in range(i0, i1):
        start, count, s = lo[i] - base, hi[i] - lo[i], (i + row_offset) & _NO_SIGN
        columns = _columns(indices, start, count)
        a, cells = data[start : start + count], _cells(out, 0, grid, i, first[i], count)
        j0 = int(lo[i]) - i * width
        for e in range(count):
            j = (_absolute(columns, j0, e) + column_offset) & _NO_SIGN
            total, n = _plus_dot(zero, none, Z, of_z, s, Z, of_z, j)
            f = _times(a[e], total, n)
            cells[_cell(columns, grid, e)] = (
                f if aligned.size == 0 else f - aligned[lo[i] + e - aligned_base]
            )


@_map
def matvec_of_any_size(
    data, indices, base, lo, hi, first, grid, i0, i1,
    width, row_offset, column_offset, of_z, of_v, Z, V, out,
):  # fmt: skip
    """``(J V)_ij = A_ij (v_i·x_j + x_i·v_j)``."""
    zero, none = -np.float64(0) * Z.dtype.type(0), np.int64(_OF_NONE)
    for i in range(i0, i1):
        start, count, s = lo[i] - base, hi[i] - lo[i], (i + row_offset) & _NO_SIGN
        columns = _columns(indices, start, count)
        a, cells = data[start : start + count], _cells(out, 0, grid, i, first[i], count)
        j0 = int(lo[i]) - i * width
        for e in range(count):
            j = (_absolute(columns, j0, e) + column_offset) & _NO_SIGN
            total, n = _plus_dot(zero, none, V, of_v, s, Z, of_z, j)
            total, n = _plus_dot(total, n, Z, of_z, s, V, of_v, j)
            cells[_cell(columns, grid, e)] = _times(a[e], total, n)


@_map
def max_abs_of_any_size(
    data, indices, base, lo, hi, first, grid, i0, i1,
    width, row_offset, column_offset, of_z, Z, out,
):  # fmt: skip
    """The largest ``|A_ij (x_i·x_j)|`` of each row and of each column, NaN if there is one."""
    zero, none = -np.float64(0) * Z.dtype.type(0), np.int64(_OF_NONE)
    for i in range(i0, i1):
        start, count, s = lo[i] - base, hi[i] - lo[i], (i + row_offset) & _NO_SIGN
        columns = _columns(indices, start, count)
        j0 = int(lo[i]) - i * width
        for e in range(count):
            j = (_absolute(columns, j0, e) + column_offset) & _NO_SIGN
            total, n = _plus_dot(zero, none, Z, of_z, s, Z, of_z, j)
            f = abs(_times(data[start + e], total, n))
            if f > out[s, 0] or f != f:  # noqa: PLR0124  # that is the test for NaN
                out[s, 0] = f
            if f > out[j, 1] or f != f:  # noqa: PLR0124
                out[j, 1] = f


max_abs_of_any_size.combine = _largest


@_sum
def extent(bits):
    """The smallest and the largest of these float64 numbers that are not 0, as integers.

    The bits of positive numbers have the order of the numbers. The smallest is that of NaN, and the
    largest 0, if there is none. Integers vectorise where floating-point numbers might be NaN.
    """
    least, most = np.int64(_NO_SIGN), np.int64(0)
    for q in range(bits.size):
        size = bits[q] & _NO_SIGN
        most = max(most, size)
        least = min(least, (size - 1) & _NO_SIGN)  # 0 becomes the largest
    return least, most
