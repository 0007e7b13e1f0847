"""Tells whether the least cost of a fit seems to lie at infinity."""

from __future__ import annotations

import math

_LEAST = 64  # fewer steps do not show a trend
_GROWTH = 1.1  # by which factor the largest x grows at least while the number of steps doubles
# The least part of the logarithmic growth in the second half of the steps that is in their last
# quarter. Of a power of the number of steps, that part is 0.415.
_LAST = 0.25


class Divergence:
    """Keeps the cost and the largest |x_j| after each step.

    If the cost falls to its infimum only as some x grow without bound, steps get shorter and
    shorter. In examples, the largest x grows like a power of the number of steps, and what the cost
    is above its infimum falls like one. So it is tested after n/4, n/2 and n steps whether the
    largest x grew by a tenth each time, and whether the cost fell both times, but less the second
    time. The last quarter must have its part of the growth, unlike in a fit that converges.

    No test after finitely many steps can prove a divergence. So this one is made only where a fit
    ends without success anyway.
    """

    def __init__(self) -> None:
        self._costs: list[float] = []
        self._sizes: list[float] = []

    def add(self, steps: int, cost: float, size: float) -> None:
        """Note the state after this number of steps, unless it is known already."""
        if steps == len(self._costs):
            self._costs.append(cost)
            self._sizes.append(size)

    def seems(self) -> bool:
        """Whether x seems to diverge."""
        n = len(self._costs) - 1
        if n < _LEAST:
            return False
        first, second, late, third = (self._sizes[i] for i in (n // 4, n // 2, 3 * n // 4, n))
        if not (first > 0 and second >= _GROWTH * first and third >= _GROWTH * second):
            return False
        before, middle, after = (self._costs[i] for i in (n // 4, n // 2, n))
        goes_on = math.log(third / late) >= _LAST * math.log(third / second)
        return goes_on and 0 < middle - after < before - middle
