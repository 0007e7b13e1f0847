"""Kernels for a matrix of variables: ``F = A ∘ (Z Zᵀ)`` with Z of shape (count, r).

The edge functions are those of `rank_walks`. Maps and the CSR form of J take any r. A reduction has
a kernel for any r, and over sparse rows one for each r of `RANKS`.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, call-arg, index"

import inspect
from typing import Any, NamedTuple

import numpy as np

from . import RANKS, TILE
from .compile import _inline, _sum, _sum_part
from .generate import written_out
from .lanes import _add, _add_conjugate
from .rank_walks import XV, XX, rank_dense, rank_sparse


class RankOperation(NamedTuple):
    """What the walks must know of a reduction.

    Attributes
    ----------
    edge : callable
        It reads a, y or w, and the dot products ``xx`` and ``xv``. It returns α, β and a scalar.
    beta, scalar : bool
        β and the scalar are not zero.
    conjugate : bool
        α multiplies the conjugates of Z.
    """

    edge: Any
    beta: bool = False
    scalar: bool = False
    conjugate: bool = False


def _weighted(a, w, conjugate):
    """``Jᵀ w = (A∘W) Z + (A∘W)ᵀ Z``. With `conjugate` the caller conjugates Z."""
    return (np.conj(a) if conjugate else a) * w, 0.0, 0.0


def _squares(a):
    """``S U`` with ``S = |A|² + (|A|²)ᵀ``."""
    return a.real * a.real + a.imag * a.imag, 0.0, 0.0


def _normal(a, xv):
    """``Jᴴ J V``: entry (i, j) of J V is ``a (x_i·v_j + v_i·x_j)``."""
    return (a.real * a.real + a.imag * a.imag) * xv, 0.0, 0.0


def _gradient(a, y, xx):
    """``Jᵀ (F - Y)``, and ``‖F - Y‖²``."""
    r = a * xx - y
    return a * r, 0.0, r * r


def _curvature(a, y, xx, xv):
    """The Hessian of ``½‖F - Y‖²`` times V: ``Jᵀ J V + ((A∘R) + (A∘R)ᵀ) V``."""
    return a * a * xv, a * (a * xx - y), 0.0


@_inline
def _same(number):
    return number


@_inline
def _conjugate(number):
    return np.conj(number)


def _kernels(name, op):
    """The kernels of a reduction: one for any r, and one for each fixed r."""
    edge = _sum_part(op.edge)
    dense, sparse = _function(name, op, rank_dense, edge), _function(name, op, rank_sparse, edge)
    found = {name: _sum(dense, sparse)}
    for rank in RANKS:
        own = f"{name}_{rank}"
        found[own] = _sum(_function(own, op, rank_sparse, edge, rank))
    return found


def _function(name, op, walk, edge, rank=0):
    """The function of Python that a walk is with this edge function, for a fixed rank or any."""
    reads = list(inspect.signature(op.edge).parameters)
    extras = [each for each in reads if each not in ("a", "y", "w", "xx", "xv")]
    given_v = op.beta or "xv" in reads
    constants = {
        "ALIGNED": "y" in reads or "w" in reads,
        "BY_ENTRY": "y" in reads,
        "DOT_X": "xx" in reads,
        "DOT_V": "xv" in reads,
        "GIVEN_V": given_v,
        "BETA": op.beta,
        "SCALAR": op.scalar,
        "FIXED": rank > 0,
        "RANK": range(rank),
        "R": rank,
        "SUMS": (2 if given_v else 1) * rank,
        "PLANES": 3 if given_v else 2,
        "ROWS": range(4),
        "PAIR": range(2),
        "TILE": TILE,
        "XX": XX,
        "XV": XV,
    }
    dense = walk is rank_dense
    arguments = [
        *inspect.signature(walk).parameters,
        *(("aligned", "aligned_base") if constants["ALIGNED"] else ()),
        *extras,
        *("width", "row_offset", "column_offset"),
        *((*(("Z", "V") if given_v else ("Z",)), "room", "total") if dense else ()),
        "out",
    ]
    conjugate = op.conjugate
    names = {
        "EDGE": edge,
        "CONJ": _conjugate if conjugate else _same,
        "ADD": _add_conjugate if conjugate else _add,
    }
    return written_out(name, op, walk, arguments, constants, names)


_REDUCTIONS = {
    "rank_rmatvec": RankOperation(_weighted),
    "rank_squares": RankOperation(_squares),
    "rank_normal": RankOperation(_normal, conjugate=True),
    "rank_gradient": RankOperation(_gradient, scalar=True),
    "rank_curvature": RankOperation(_curvature, beta=True),
}
for _name, _op in _REDUCTIONS.items():
    globals().update(_kernels(_name, _op))
