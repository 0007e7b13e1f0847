"""Tells whether float64 can hold the squares and products of a fit.

Overflow gives infinity or NaN, which is easy to detect. Underflow gives zero, which looks like a
solution. So a bound of the error by underflow in a sum is compared with that sum.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Sums of squares of A's rows and of Y between these limits leave a margin for other products.
SMALLEST, LARGEST = 1e-280, 1e280
_UNDERFLOW = 2.0**-1074  # the largest error of a product that underflows
_NEGLIGIBLE = 1e-14  # the largest error by underflow, relative to a converged value


def beginning_holds(degree: NDArray[Any], squares: float) -> bool:
    """Whether ``S 1`` and ``‖Y‖²`` are not too large, and ``‖Y‖²`` is 0 or not too small."""
    return bool(np.all(degree <= LARGEST)) and (squares == 0 or SMALLEST <= squares <= LARGEST)


def is_trusted(
    x: NDArray[Any],
    gradient: NDArray[Any],
    squared_norms: NDArray[Any],
    degree: NDArray[Any],
    norm: float,
) -> bool:
    """Whether underflow is negligible in the cost, the gradient and ``diag(JᵀJ)`` at x.

    These must be finite. The sum for one variable has at most 2 k terms. A term of its gradient is
    ``a (a x_i x_j - y) x_j``, whose factors are bounded by the entries of x, A and ``F - Y``. A
    term of its ``JᵀJ`` is a product of squares of x and A.
    """
    reached = degree > 0
    if norm == 0 or not reached.any():
        return True
    lost = 2 * x.size * _UNDERFLOW
    a, most = float(np.sqrt(np.max(degree))), float(np.max(np.abs(x), where=reached, initial=0.0))
    least = float(np.min(squared_norms, where=reached, initial=np.inf))
    factor = max(a, most, 1.0)
    wrong_f = (a + 1) * _UNDERFLOW
    return bool(
        x.size * wrong_f <= _NEGLIGIBLE * 1e-9 * norm
        and lost * factor <= _NEGLIGIBLE * norm * np.sqrt(least)
        and lost * factor * factor <= 1e-8 * least
        and lost * float(np.max(np.abs(gradient))) <= 1e-30 * norm * norm
        and least > SMALLEST * 1e-10
    )
