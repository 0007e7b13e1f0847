"""Estimates the extreme eigenvalues of a symmetric operator by a few steps of Lanczos' method."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal

# If a new direction is this short, relative to the operator's norm, it is rounding, and the space
# is invariant.
_INVARIANT = 1e-10
_STEPS = 6  # how many products with the Hessian search for negative curvature
_FEW = 30  # up to so many variables take as many products as there are variables


class Lanczos:
    """The Ritz values of a symmetric operator in the Krylov space of `start`.

    The space has at most `steps` dimensions. The basis is not kept: memory holds `start`, three
    vectors, and the memory of a product. The basis vectors may lose orthogonality, which is rare in
    so few steps. A Ritz value is then found twice, but no Ritz value lies outside the spectrum.
    `vector` repeats the products. NumPy computes the sums instead of BLAS, because idle threads of
    BLAS would occupy the cores of our threads.

    Attributes
    ----------
    value : float
        The least Ritz value.
    norm : float
        The largest absolute Ritz value, an estimate of the operator's norm. Both are 0 if `start`
        or a product is zero or not finite.
    """

    def __init__(
        self, product: Callable[[NDArray[Any]], NDArray[Any]], start: NDArray[Any], steps: int
    ) -> None:
        self._product, self._start, self._steps = product, start, steps
        diagonal: list[float] = []
        off_diagonal: list[float] = []
        for _, alpha, beta in self._run():
            diagonal.append(alpha)
            off_diagonal.append(beta)
        del off_diagonal[-1:]
        self.value = self.norm = 0.0
        self._weights: list[float] = []
        if diagonal and np.isfinite(sum(diagonal) + sum(off_diagonal)):
            # NumPy's eigh fails for some of these matrices.
            values, vectors = eigh_tridiagonal(diagonal, off_diagonal, lapack_driver="stev")
            self.value, self.norm = float(values[0]), float(np.max(np.abs(values)))
            self._weights = vectors[:, 0].tolist()

    def _run(self) -> Iterator[tuple[NDArray[Any], float, float]]:
        """Yield each basis vector, its Rayleigh quotient, and the length of the next vector.

        The length is taken before the next vector is normalised.
        """
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
        """Compute the unit Ritz vector of the least Ritz value. This repeats the products."""
        found = np.zeros(self._start.size)
        for weight, (q, _, _) in zip(self._weights, self._run(), strict=False):
            found += weight * q
        length = _length(found)
        return found / length if length > 0 else found


def _length(v: NDArray[Any]) -> float:
    return float(np.sqrt(np.sum(v * v)))


def steps_for(size: int) -> int:
    """How many steps search for negative curvature among so many variables."""
    return size if size <= _FEW else _STEPS
