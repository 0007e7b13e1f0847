"""Conjugate gradients in a trust region, the inner iteration of Newton's method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _kernels


class Step(NamedTuple):
    """A step, and how it was found."""

    s: NDArray[Any]
    predicted: float  # by how much ``g·s + ½ s·H s`` falls
    length: float  # of s, in the norm of the preconditioner
    solved: bool  # False if the step ended at the boundary or the limit
    bent: NDArray[Any] | None = None  # a direction of negative ``d·H d``, if one was met


def steihaug(
    product: Callable[[NDArray[Any]], tuple[NDArray[Any], float]],
    gradient: NDArray[Any],
    inverse: NDArray[Any],
    *,
    enough: float,
    radius: float,
    limit: int,
    unit: float = 1.0,
    longest: float = 0.0,
) -> Step:
    """Solve ``H s = -g`` by Steihaug's conjugate gradients [1]_.

    M = 1/inverse is the preconditioner, and defines the norm of the trust region. ``product(d)`` is
    ``(H d, d·H d)``. The iteration ends when the square of the residual's length, in the norm of
    M's inverse, falls to the part `enough` of that of g. Squared lengths are measured in `unit`, so
    that they stay in the range of numbers. If the radius is not finite, a direction of negative
    curvature is followed as far as x is long; `longest` is the square of that in the unit. The
    k-vectors are s, r, d and H d.

    .. [1] T. Steihaug, "The conjugate gradient method and trust regions in large scale
       optimization", SIAM J. Numer. Anal. 20 (1983), 626-637.
    """
    s, r, d = np.zeros(gradient.size), gradient.copy(), -inverse * gradient
    rz = float(-np.sum(r * d))
    enough *= rz
    # ‖s‖², s·d and ‖d‖² in that norm and unit
    ss, sd, dd = 0.0, 0.0, rz / unit
    solved = False
    bent = None
    for _ in range(limit):
        Hd, dHd = product(d)
        alpha = rz / dHd if dHd > 0 else np.inf
        beyond = ss + alpha * (2 * sd + alpha * dd) if alpha < np.inf else np.inf
        if beyond >= radius * radius or alpha == np.inf:
            bent = d if dHd < 0 else None
            # Go to the boundary. Without one, follow negative curvature as far as x is long.
            square = radius * radius if radius < np.inf else max(4 * ss, longest)
            alpha = (np.sqrt(sd * sd + dd * (square - ss)) - sd) / dd if dd > 0 else 0.0
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
    return Step(s, -float(np.sum(s * (gradient + r))) / 2, float(np.sqrt(ss)), solved, bent)
