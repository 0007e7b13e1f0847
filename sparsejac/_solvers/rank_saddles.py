"""Finds negative curvature where the gradient of a rank-r fit vanishes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .lanczos import Lanczos, steps_for
from .rank_points import length_of
from .rank_start import RankStart

_NEGATIVE = 1e-8  # a curvature is negative if it is below minus this, relative to the Hessian


class RankSaddles(RankStart):
    """Finds directions of negative curvature."""

    _last_negative: NDArray[Any] | None = None  # the last such direction in conjugate gradients
    _curvature = 0.0  # the least Ritz value, relative to the largest

    def _negative_curvature(self) -> tuple[NDArray[Any], float] | None:
        """Find a direction v with ``v·H v < 0``; None if there seems to be none.

        The result is v and that number. v belongs to the least Ritz value of the Hessian in the
        variables ``Lᵀ v``, where L Lᵀ is the B of the optimality.
        The start of Lanczos' method is random, so that it has a component along every eigenvector.
        The last direction of negative curvature in conjugate gradients is added.
        """
        measure, shape = self._measure, self._shape

        def product(u: NDArray[Any]) -> NDArray[Any]:
            return measure.lower(self._curved(measure.upper(u.reshape(shape)))).reshape(-1)

        start = self._random(shape[1])
        if self._last_negative is not None:
            negative = measure.lower(self._curved(self._last_negative))
            length = length_of(negative)
            if 0 < length < np.inf:
                start += (length_of(start) / length) * negative
        ritz = Lanczos(product, start.reshape(-1), steps_for(start.size))
        self._curvature = ritz.value / ritz.norm if ritz.norm > 0 else 0.0
        if self._curvature >= -_NEGATIVE:
            return None
        return measure.upper(ritz.vector().reshape(shape)), ritz.value
