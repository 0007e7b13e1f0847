"""Units in which A, the targets and x neither overflow nor underflow in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# How near, in binary digits, A and the targets may be to the ends of the range of float64 before
# they are scaled. The wide pair is tried if x leaves the range with the narrow pair.
NARROW, WIDE = (300, 100), (960, 960)
# The same for numbers whose sizes differ so much that they do not fit in between.
LOWEST, _HIGHEST = 1014, 1002
TOP = 1000  # the exponent of the largest number that is multiplied by A
# The largest x/d, times the number of rows, at which the errors by underflow are negligible.
TRUSTED = 2.0**1014


def shift(smallest: float, largest: float, within: int) -> int:
    """The even exponent of a power of two that moves numbers away from the ends of the range.

    It is 0 for numbers that are not near an end.
    """
    lowest, highest = int(np.frexp(smallest)[1]), int(np.frexp(largest)[1])
    below, above = (within, within) if highest - lowest <= 2 * within else (LOWEST, _HIGHEST)
    low, high = lowest + below, highest - above
    nearest = high if high > low else min(max(0, high), low)
    return nearest + (nearest % 2 if nearest > 0 else -(nearest % 2))


def clipped_start(start: NDArray[Any], kept: NDArray[np.bool_]) -> NDArray[Any]:
    """Scale a start, and clip it so that products of its numbers do not overflow or underflow."""
    middle = np.sqrt(np.min(start[kept])) * np.sqrt(np.max(start[kept]))
    return np.clip(start / middle, 1e-100, 1e100)
