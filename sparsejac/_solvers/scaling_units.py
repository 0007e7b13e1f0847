"""Units in which A, the targets and x stay away from the ends of the range of float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Binary digits before the point, and behind it, beyond which A, or targets, are scaled: first
# these, and then, if x leaves the range in the units that follow, wider ones.
NARROW, WIDE = (300, 100), (960, 960)
# The same if numbers are so far apart in size that they do not fit in between.
LOWEST, _HIGHEST = 1014, 1002
TOP = 1000  # the exponent of the largest number that is multiplied by A
# The largest x/d, times the number of rows, at which what underflow takes does not count.
TRUSTED = 2.0**1014


def shift(smallest: float, largest: float, within: int) -> int:
    """The exponent of an even power of two that takes numbers away from the ends of the range.

    It is 0 for numbers that are not that near to an end.
    """
    lowest, highest = int(np.frexp(smallest)[1]), int(np.frexp(largest)[1])
    below, above = (within, within) if highest - lowest <= 2 * within else (LOWEST, _HIGHEST)
    low, high = lowest + below, highest - above
    nearest = high if high > low else min(max(0, high), low)
    return nearest + (nearest % 2 if nearest > 0 else -(nearest % 2))


def tamed(start: NDArray[Any], kept: NDArray[np.bool_]) -> NDArray[Any]:
    """A start on the same ray, clipped so that products of its numbers stay in the range."""
    middle = np.sqrt(np.min(start[kept])) * np.sqrt(np.max(start[kept]))
    return np.clip(start / middle, 1e-100, 1e100)
