"""Kernels for a matrix of variables: ``F = A ∘ (Z Zᵀ)`` with Z of shape (count, r).

The edge functions are those of `rank_walks`. Maps and the CSR form of J take any r. A reduction has
a kernel for any r, and over sparse rows one more for each number of `FEW`.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, call-arg, index"

import inspect
from typing import Any, NamedTuple

import numpy as np

from . import FEW, TILE
from .compile import _inline, _sum, _sum_part
from .generate import written_out
from .lanes import _conjugate as _conjugate_lanes
from .rank_walks import NONE, XV, XX, rank_dense, rank_sparse, rank_sparse_few, rank_sparse_many


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
    """The kernels of a reduction: one for any r, and one for each small number of columns."""
    edge = _sum_part(op.edge)
    few, many = (
        _sum_part(_function(name, op, walk, edge, own))
        for walk, own in ((rank_sparse_few, 8), (rank_sparse_many, 0))
    )
    sparse = _function(name, op, rank_sparse, edge, 8, FEW=few, MANY=many)
    found = {name: _sum(_function(name, op, rank_dense, edge), sparse)}
    for own in FEW:
        found[f"{name}_{own}"] = _sum(_function(f"{name}_{own}", op, rank_sparse_few, edge, own))
    return found


def _function(name, op, walk, edge, own=0, **walks):
    """The function of Python that a walk is with this edge function, for so many columns."""
    reads = list(inspect.signature(op.edge).parameters)
    extras = [each for each in reads if each not in ("a", "y", "w", "xx", "xv")]
    given_v = op.beta or "xv" in reads
    planes = 3 if given_v else 2
    lanes = min(own, 4)
    constants = {
        "ALIGNED": "y" in reads or "w" in reads,
        "BY_ENTRY": "y" in reads,
        "DOT_X": "xx" in reads,
        "DOT_V": "xv" in reads,
        "GIVEN_V": given_v,
        "BETA": op.beta,
        "SCALAR": op.scalar,
        "OWN": own,
        "LANES": lanes,
        "GROUPS": range(own // lanes if lanes else 0),
        "SUMS": (planes - 1) * own,
        "LINES": range(-(-planes * own // 8)),
        "EIGHT": 8 * planes,
        "AHEAD": 40 if own <= 4 else 16,
        "PLANES": planes,
        "ROWS": range(4),
        "PAIR": range(2),
        "TILE": TILE,
        "XX": XX,
        "XV": XV,
        "NONE": NONE,
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
    names = {
        "EDGE": edge,
        "CONJ": _conjugate if op.conjugate else _same,
        "CONJUGATE": _conjugate_lanes if op.conjugate else _same,
        **walks,
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
