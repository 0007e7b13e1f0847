"""The walk along one row of A."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, call-arg, index"

from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.extending import intrinsic

from .compile import _inline

_NO_SIGN = np.int64(2**63 - 1)
_CACHED = 2**17  # numbers that a core's own cache holds: asking for those early only takes time
_LINE = 8  # numbers of float64 in a cache line
_AHEAD = 40  # entries: about as many as are under way while one cache line comes from memory


@intrinsic
def _prefetch_line(typing_context, array, position):
    """Ask for the cache line of ``array.flat[position]``, and do not wait for it."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        flag = ir.IntType(32)
        function = ir.FunctionType(ir.VoidType(), [address.type, flag, flag, flag])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [address.type], function)
        # to read, keep in all caches, data
        builder.call(prefetch, [address, flag(0), flag(3), flag(1)])
        return context.get_dummy_value()

    return types.void(array, position), generate


def _no_prefetch(array, position):
    """Python has no such instruction."""


_prefetch: Any = _no_prefetch if getattr(config, "DISABLE_JIT", False) else _prefetch_line


@_inline
def _ahead(vector, indices, p):
    """Sparse rows: ask now for what entry p + `_AHEAD` needs of a vector or of a matrix."""
    j = np.int64(indices[min(p + _AHEAD, indices.size - 1)])
    if vector.ndim == 2:
        j *= vector.shape[1]
    _prefetch(vector, j)


@_inline
def _columns(indices, start, n):
    return None if indices is None else indices[start : start + n]


@_inline
def _window(vector, indices, start, n):
    """What a row needs of a k-vector: a dense row meets n neighbours, a sparse one any of them."""
    return vector[start : start + n] if indices is None else vector


@_inline
def _column(columns, q):
    """Where, in a window, the column of entry q is.

    Without a sign bit no index can be one from the end, which saves a test.
    """
    return q if columns is None else columns[q] & _NO_SIGN


@_inline
def _absolute(columns, j0, q):
    """The column of entry q itself."""
    return j0 + q if columns is None else columns[q]


@_inline
def _width(grid):
    """The grid as a number. It is None for dense rows."""
    if grid is None:
        return np.int64(-1)
    return np.int64(grid)


@_inline
def _cells(vector, base, grid, i, start, n):
    """The part of an m-vector that belongs to row i of A. Its first `base` numbers are left out."""
    width = _width(grid)
    if width >= 0:
        return vector[i * width - base : (i + 1) * width - base]
    return vector[start - base : start - base + n]


@_inline
def _cell(columns, grid, q):
    """Where, in those cells, entry q is."""
    if columns is None:
        return np.int64(q)
    return np.int64(columns[q]) if grid >= 0 else np.int64(q)


@_inline
def _common(lo, hi, i, rows):
    """The columns ``left <= j < right`` that four dense rows visit from row i on.

    What a row visits begins, and ends, no further left than in the row above: the ends of the first
    and the last of them tell. If there are none, or not four rows, then ``left > right``.
    """
    k = lo.size
    if rows < 4:
        return k + 1, k
    left = max(lo[i] - i * k, lo[i + 3] - (i + 3) * k)
    right = min(hi[i] - i * k, hi[i + 3] - (i + 3) * k)
    return left, right


@_inline
def _side(lo, hi, r, left, right, side):
    """The entries of row r left of these columns, or right. Without any, all are on the left."""
    if left > right:
        return lo[r], (hi[r] if side == 0 else lo[r])
    if side == 0:
        return lo[r], r * lo.size + left
    return r * lo.size + right, hi[r]


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
