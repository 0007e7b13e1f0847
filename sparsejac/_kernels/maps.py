"""Maps: each row of A writes its own rows of the output."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, call-arg, index"

from .compile import _map
from .generate import Operation, map_kernel
from .row import _absolute, _columns
from .walks import map_dense_columns, map_sparse_columns


def _value(a, y, xi, xj):
    """``F_ij = A_ij x_i x_j``, or ``F_ij - Y_ij`` unless y is None."""
    f = a * (xi * xj)
    return f if y is None else f - y


def _matvec(a, xi, xj, vi, vj):
    """``(J v)_ij = A_ij (v_i x_j + x_i v_j)``; also for each column of a matrix in place of v."""
    return a * (vi * xj + xi * vj)


value = map_kernel("value", Operation(_value))
matvec = map_kernel("matvec", Operation(_matvec))
value_past_caches = map_kernel("value_past_caches", Operation(_value, past_caches=True))
matvec_past_caches = map_kernel("matvec_past_caches", Operation(_matvec, past_caches=True))
matmat = map_kernel("matmat", Operation(_matvec), map_dense_columns, map_sparse_columns)


@_map
def pairs(data, indices, base, lo, hi, first, grid, i0, i1, width, rows_out, columns_out):
    """Which entry (i, j) of F each row of J is."""
    for i in range(i0, i1):
        n = hi[i] - lo[i]
        columns = _columns(indices, lo[i] - base, n)
        j0 = int(lo[i]) - i * width
        e = first[i]
        for q in range(n):
            rows_out[e + q] = i
            columns_out[e + q] = _absolute(columns, j0, q)


@_map
def not_finite(numbers):
    """How many of these numbers are NaN or infinite.

    With `fastmath`, some versions of LLVM would know that ``v - v`` is 0.
    """
    count = 0
    for q in range(numbers.size):
        count += numbers[q] - numbers[q] != 0
    return count
