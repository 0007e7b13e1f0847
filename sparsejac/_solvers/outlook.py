"""How many passes a solver still needs, from the speed at which it has converged."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import inf, log

_STEPS = 3  # the least number of steps whose speed is measured
_FALL = 2.0  # the least factor by which the measure must have fallen over them
_LEAST = 1e-15  # no measure falls below rounding


def passes_left(history: Sequence[tuple[float, ...]], passes: int, tol: float) -> float | None:
    """Estimate how many passes remain until a measure has fallen to `tol`.

    The convergence is taken as linear: over the later half of the passes, the logarithm of the
    measure fell at some speed, and will go on to fall at it. The result is None if that says
    nothing, as the half has few steps, or the measure has hardly fallen.

    Parameters
    ----------
    history : sequence of tuple
        The passes so far come first in each step, and the measure last.
    passes : int
        The passes until now, some of which may belong to the next step.
    tol : float
    """
    if not history:
        return None
    now, measure = history[-1][0], history[-1][-1]
    begin = bisect_left(history, now / 2, key=lambda step: step[0])
    then, before = history[begin][0], history[begin][-1]
    if len(history) - 1 - begin < _STEPS or now <= then:
        return None
    if not (0 < measure < inf and _FALL * measure <= before < inf):
        return None
    speed = log(before / measure) / (now - then)
    return max(log(measure / max(tol, _LEAST)) / speed - (passes - now), 0.0)
