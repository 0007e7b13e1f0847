"""A few steps of Lanczos' method: the extreme eigenvalues of a symmetric operator, from a handful of products."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

_INVARIANT = 1e-10  # a new direction this short, relative to the operator, is rounding: the space is invariant


class Lanczos:
    """The Krylov space of `start`, of at most `steps` dimensions, and the Ritz values of a symmetric operator in it.

    No basis is kept: beside `start` there are three vectors and what a product takes. So few steps lose little
    orthogonality. If they do lose it, a Ritz value is found twice, but none lies outside the spectrum. `vector` repeats
    the products. NumPy's sums are used and no BLAS, whose threads would spin on the cores of ours.

    Attributes
    ----------
    value : float
        The least Ritz value.
    norm : float
        The largest absolute Ritz value, which stands for the operator's norm. Both are 0 if `start` or a product is
        zero or not finite.
    """

    def __init__(
        self, product: Callable[[NDArray[Any]], NDArray[Any]], start: NDArray[Any], steps: int
    ) -> None:
        self._product, self._start, self._steps = product, start, steps
        diagonal: list[float] = []
        beside: list[float] = []
        for _, alpha, beta in self._run():
            diagonal.append(alpha)
            beside.append(beta)
        del beside[-1:]
        self.value = self.norm = 0.0
        self._weights: list[float] = []
        if diagonal and np.isfinite(sum(diagonal) + sum(beside)):
            values, vectors = np.linalg.eigh(
                np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
            )
            self.value, self.norm = float(values[0]), float(np.max(np.abs(values)))
            self._weights = vectors[:, 0].tolist()

    def _run(self) -> Iterator[tuple[NDArray[Any], float, float]]:
        """Yield each basis vector, its Rayleigh quotient, and the length of the next one before it is made a unit vector."""
        before, q = np.zeros(0), self._start
        length, beta, norm = _length(q), 0.0, 0.0
        for _ in range(self._steps):
            if not 0 < length < np.inf:
                return
            q = q / length
            r = self._product(q)
            norm = max(norm, _length(r))
            alpha = float(np.sum(q * r))
            r -= alpha * q
            if before.size:
                r -= beta * before
            length = beta = _length(r)
            yield q, alpha, beta
            if not length > _INVARIANT * norm:
                return
            before, q = q, r

    def vector(self) -> NDArray[Any]:
        """Return the unit Ritz vector of the least Ritz value; as many products again."""
        found = np.zeros(self._start.size)
        for weight, (q, _, _) in zip(self._weights, self._run(), strict=False):
            found += weight * q
        length = _length(found)
        return found / length if length > 0 else found


def _length(v: NDArray[Any]) -> float:
    return float(np.sqrt(np.sum(v * v)))
