"""Conjugate gradients in a trust region, the inner iteration of Newton's method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _kernels


class Step(NamedTuple):
    """A step, and how the iteration ended."""

    s: NDArray[Any]
    predicted: float  # by how much ``g·s + ½ s·H s`` falls
    length: float  # of s, in the norm of the preconditioner
    solved: bool  # False if the step ended at the boundary or the limit
    negative: NDArray[Any] | None = None  # a direction d with ``d·H d < 0``, if there was one


def steihaug(
    product: Callable[[NDArray[Any]], tuple[NDArray[Any], float]],
    gradient: NDArray[Any],
    inverse: NDArray[Any],
    *,
    enough: float,
    radius: float,
    limit: int,
    unit: float = 1.0,
    max_square: float = 0.0,
) -> Step:
    """Solve ``H s = -g`` by Steihaug's conjugate gradients [1]_.

    M = 1/inverse is the preconditioner, and defines the norm of the trust region. ``product(d)`` is
    ``(H d, d·H d)``. The norm of a residual is that of M's inverse. The iteration ends when the
    squared norm of the residual is at most `enough` times that of g. Squared lengths are divided by
    `unit`, so that they do not overflow. If the radius is infinite, a step along a direction of
    negative curvature is as long as x: `max_square` is the squared length of x, divided by `unit`.
    The k-vectors in memory are s, r, d and H d.

    .. [1] T. Steihaug, "The conjugate gradient method and trust regions in large scale
       optimization", SIAM J. Numer. Anal. 20 (1983), 626-637.
    """
    s, r, d = np.zeros(gradient.size), gradient.copy(), -inverse * gradient
    rz = float(-np.sum(r * d))
    enough *= rz
    # ‖s‖², s·d and ‖d‖² in the norm of M, divided by the unit
    ss, sd, dd = 0.0, 0.0, rz / unit
    solved = rz == 0  # by s = 0; a direction of no length leads to no boundary
    negative = None
    limit = 0 if solved else limit
    for _ in range(limit):
        Hd, dHd = product(d)
        alpha = rz / dHd if dHd > 0 else np.inf
        beyond = ss + alpha * (2 * sd + alpha * dd) if alpha < np.inf else np.inf
        if beyond >= radius * radius:
            negative = d if dHd < 0 else None
            # Go to the boundary, or, if the radius is infinite, as far as x is long.
            square = radius * radius if radius < np.inf else max(4 * ss, max_square)
            if dd > 0:  # it underflows if d is tiny, and the step ends here
                alpha = (np.sqrt(sd * sd + dd * (square - ss)) - sd) / dd
                _kernels.cg_step(float(alpha), d, Hd, inverse, s, r)
                ss = square
            break
        found = _kernels.cg_step(alpha, d, Hd, inverse, s, r)
        ss = beyond
        if found <= enough:
            solved = True
            break
        sd = (found / rz) * (sd + alpha * dd)
        dd = found / unit + (found / rz) ** 2 * dd
        _kernels.cg_direction(found / rz, r, inverse, d)
        rz = found
    # -(g·s + ½ s·Hs), and Hs = r - g
    return Step(s, -float(np.sum(s * (gradient + r))) / 2, float(np.sqrt(ss)), solved, negative)
