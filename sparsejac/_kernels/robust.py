"""Reductions for robust losses: the cost is ``½ C² Σ ρ(r²/C²)`` over the residuals ``r = F - Y``.

ρ is one of those of `scipy.optimize.least_squares`, and C its scale. The kernels are those of
`rank`, with two arguments more: the number of the loss, and 1/C. A and Y are real.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, call-arg, index"

import numpy as np

from .compile import _sum_part
from .rank import RankOperation, _kernels

SOFT_L1, HUBER, CAUCHY, ARCTAN = range(1, 5)
_LARGE = 1e100  # for such a z, ``1 + z`` is z


@_sum_part
def _rho(loss, z):
    """ρ(z)."""
    if loss == HUBER:
        return z if z <= 1.0 else 2.0 * np.sqrt(z) - 1.0
    if loss == SOFT_L1:
        return 2.0 * (z / (1.0 + np.sqrt(1.0 + z))) if z < _LARGE else 2.0 * np.sqrt(z)
    return np.log1p(z) if loss == CAUCHY else np.arctan(z)


@_sum_part
def _slope(loss, z):
    """ρ'(z)."""
    if loss == HUBER:
        return 1.0 if z <= 1.0 else 1.0 / np.sqrt(z)
    if loss == SOFT_L1:
        return 1.0 / np.sqrt(1.0 + z)
    return 1.0 / (1.0 + z) if loss == CAUCHY else 1.0 / (1.0 + z * z)


@_sum_part
def _bend(loss, z):
    """``ρ'(z) + 2 z ρ''(z)``, the second derivative of ``½ C² ρ(r²/C²)`` by r.

    No power of z above the second is formed, as it would overflow first.
    """
    if loss == HUBER:
        return 1.0 if z <= 1.0 else 0.0
    t = _slope(loss, z)
    if loss == SOFT_L1:
        return t * t * t
    return t * (2.0 * t - 1.0) if loss == CAUCHY else t * (4.0 * t - 3.0)


def _gradient(a, y, xx, loss, inverse):
    """``Jᵀ (ρ' r)``, and ``Σ ρ``."""
    r = a * xx - y
    u = r * inverse
    z = u * u
    return a * (_slope(loss, z) * r), 0.0, _rho(loss, z)


def _normal(a, y, xx, xv, loss, inverse):
    """``Jᵀ Diag(ρ') J V``."""
    u = (a * xx - y) * inverse
    return a * a * (_slope(loss, u * u) * xv), 0.0, 0.0


def _curvature(a, y, xx, xv, loss, inverse):
    """The Hessian times V: ``Jᵀ Diag(ρ' + 2 z ρ'') J V + (M + Mᵀ) V`` with ``M = A∘(ρ' r)``."""
    r = a * xx - y
    u = r * inverse
    z = u * u
    return a * a * (_bend(loss, z) * xv), a * (_slope(loss, z) * r), 0.0


_REDUCTIONS = {
    "robust_gradient": RankOperation(_gradient, scalar=True),
    "robust_normal": RankOperation(_normal),
    "robust_curvature": RankOperation(_curvature, beta=True),
}
for _name, _op in _REDUCTIONS.items():
    globals().update(_kernels(_name, _op))
