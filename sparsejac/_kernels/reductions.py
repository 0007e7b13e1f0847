"""Reductions over the rows of A into k-vectors: products with Jᵀ, JᵀJ and A.

Vectors and sums have the precision in which the sums are kept: float64 or complex128.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, call-arg, index"

import numpy as np

from .compile import _sum, _sum_part
from .generate import Monoid, Operation, sum_kernel, sum_walk
from .walks import reduce_dense, reduce_dense_columns, reduce_sparse, reduce_sparse_columns


def _weighted(a, w, conjugate):
    """``Jᵀ w = (A∘W) x + (A∘W)ᵀ x``.

    With `conjugate`, A is conjugated here, and x by the caller.
    """
    return (np.conj(a) if conjugate else a) * w


def _squares(a):
    """``S u`` with ``S = |A|² + (|A|²)ᵀ``.

    With `own`, ``S_ii u_i`` counts twice: that is diag(JᴴJ), if u is |x|².
    """
    return a.real * a.real + a.imag * a.imag


def _symmetric(a):
    """``(T + Tᵀ) x``, where T has the visited entries of a real A.

    That is ``A x`` but for A's diagonal, if the visited entries are one side of it.
    """
    return a.real


def _nonzeros(a):
    """``(T + Tᵀ) x`` with 1 in T for every visited entry that is not zero."""
    return 1.0 if a != 0 else 0.0


@_sum_part
def _larger(s, t):
    """The larger of two real numbers, or NaN if one of them is NaN."""
    s, t = s.real, t.real  # outputs of a complex A are complex
    return t if t > s or t != t else s  # noqa: PLR0124  # that is the test for NaN


_maximum = Monoid(_larger, np.maximum)


def _both_products(a, xi, xj):
    """``A x``, ``Aᵀ x``, ``|A| x`` and the largest |A_ij| of each row."""
    t = a * xj
    return (t, abs(t), abs(a)), (a * xi,), ()


def _max_abs(a, xi, xj):
    """The largest ``|A_ij| x_i x_j`` of each row, and of each column; x is not negative."""
    f = abs(a) * (xi * xj)
    return (f,), (f,), ()


rmatvec = sum_kernel("rmatvec", Operation(_weighted, products=1))
rmatmat = sum_kernel(
    "rmatmat",
    Operation(_weighted, products=1),
    reduce_dense_columns,
    reduce_sparse_columns,
    room=("sums",),
)
squares = sum_kernel("squares", Operation(_squares, products=1, own=True))
symmetric = sum_kernel("symmetric", Operation(_symmetric, products=1))
nonzeros = sum_kernel("nonzeros", Operation(_nonzeros, products=1, rows=1))
both_products = sum_kernel(
    "both_products",
    Operation(
        _both_products, at_i=(0, 2, 3), at_j=(1,), monoids=(None, None, None, _maximum), rows=1
    ),
)
max_abs = sum_kernel("max_abs", Operation(_max_abs, at_j=(1,), monoids=(_maximum, _maximum)))
squares_by_rows = sum_kernel("squares_by_rows", Operation(_squares, products=1, by_rows=True))
symmetric_by_rows = sum_kernel("symmetric_by_rows", Operation(_symmetric, products=1, by_rows=True))
_pair = sum_walk(Operation(_squares, products=2), reduce_dense)
_four = sum_walk(Operation(_squares, products=4), reduce_sparse)


def _squares_dense(data, indices, base, lo, hi, first, grid, i0, i1, U, out):
    """`squares` for an even number of vectors, the rows of U and of `out`."""
    for i in range(i0, i1, 4):  # these rows are in the cache
        end = min(i + 4, i1)
        for c in range(0, U.shape[0], 2):  # two vectors, as their sums fill the registers
            sums = out[c : c + 2]
            _pair(data, indices, base, lo, hi, first, grid, i, end, U[c], U[c + 1], sums)


def _squares_sparse(data, indices, base, lo, hi, first, grid, i0, i1, U, out):
    """`_squares_dense` for sparse rows: `out` is four vectors and their sums, interleaved."""
    _four(data, indices, base, lo, hi, first, grid, i0, i1, None, None, None, None, out)


squares_of_many = _sum(_squares_dense, _squares_sparse)
