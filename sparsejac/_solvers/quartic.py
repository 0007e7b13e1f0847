"""The minimum of a quartic polynomial. Along a line, the cost of a fit is such a polynomial."""

from __future__ import annotations

import numpy as np


def least_of_quartic(
    slope: float, second: float, third: float, fourth: float, *, backwards: bool = False
) -> tuple[float, float]:
    """Find the t for which ``slope t + second t² + third t³ + fourth t⁴`` is least.

    The result is t and minus the minimum. Both are 0 if the polynomial has no negative value. Only
    t > 0 counts, unless `backwards`.
    """
    coefficients = np.array([0.0, slope, second, third, fourth])
    unit = float(np.max(np.abs(coefficients)))
    if not 0 < unit < np.inf:
        return 0.0, 0.0
    polynomial = np.polynomial.Polynomial(coefficients / unit).trim(1e-100)
    if polynomial.degree() < 2:
        return 0.0, 0.0
    roots = polynomial.deriv().roots()
    steps = roots.real[np.abs(roots.imag) <= 1e-6 * np.abs(roots.real)]
    steps = steps[(steps != 0) if backwards else (steps > 0)]
    if not steps.size:
        return 0.0, 0.0
    best = float(steps[np.argmin(polynomial(steps))])
    return best, -unit * float(polynomial(best))
