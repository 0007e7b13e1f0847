"""The least curvature in a cone: some variables may only grow, others are free.

To decide whether a quadratic form is negative anywhere in such a cone is NP-hard. So this is a
search: a power method whose vectors are projected onto the cone, from random numbers and from the
most promising of some pairs of variables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_STEPS = 8  # of the power method
_COLUMNS = 24  # how many variables are tried as the first of a pair
_FEW = 200  # if more variables have a sign, pairs of a few of them say little


class Cone:
    """The vectors u with ``u * signs >= 0`` where signs is not 0, and zeros outside of `allowed`.

    Parameters
    ----------
    signs : ndarray of -1, 0, 1
    allowed : ndarray of bool
        All variables that may differ from 0. Those without a sign are free.
    """

    def __init__(self, signs: NDArray[Any], allowed: NDArray[np.bool_]) -> None:
        self._signs, self._allowed = signs, allowed

    def project(self, u: NDArray[Any]) -> NDArray[Any]:
        signs = self._signs
        return np.where(signs != 0, signs * np.maximum(signs * u, 0.0), u * self._allowed)

    def least(
        self, product: Callable[[NDArray[Any]], NDArray[Any]], random: NDArray[Any]
    ) -> tuple[float, NDArray[Any], float]:
        """Search for the least ``u·K u`` of a u of length 1.

        The result is that number, u, and an estimate of the norm of K. `product` multiplies by K.
        """
        starts, norm = [self.project(self._signs * np.abs(random))], 0.0
        if np.count_nonzero(self._signs) <= _FEW:
            pair, norm = self._best_pair(product, random)
            starts += [pair, self.project(random)]
        found, at = np.inf, starts[0]
        for start in starts:
            u = start
            for _ in range(_STEPS):
                length = float(np.sqrt(np.sum(u * u)))
                if not 0 < length < np.inf:
                    break
                u = u / length
                image = product(u)
                norm = max(norm, float(np.sqrt(np.sum(image * image))))
                value = float(np.sum(u * image))
                if value < found:
                    found, at = value, u
                u = self.project(norm * u - image)
        return found, at, norm

    def _best_pair(
        self, product: Callable[[NDArray[Any]], NDArray[Any]], random: NDArray[Any]
    ) -> tuple[NDArray[Any], float]:
        """Of pairs with one of some variables, the one with the most negative entry of K."""
        signs, norm, least = self._signs, 0.0, np.inf
        places = np.flatnonzero(signs)
        places = places[np.argsort(random.reshape(-1)[places])][:_COLUMNS]
        best = np.zeros(signs.shape)
        for p in places:
            one = np.zeros(signs.shape)
            one.flat[p] = signs.flat[p]
            image = product(one)
            norm = max(norm, float(np.sqrt(np.sum(image * image))))
            entries = np.where(signs != 0, signs * image, -np.abs(image))
            entries[~self._allowed] = np.inf
            q = int(np.argmin(entries))
            if entries.flat[q] < least:
                least, best = float(entries.flat[q]), one
                best.flat[q] = signs.flat[q] or -np.sign(image.flat[q])
        return best, norm
