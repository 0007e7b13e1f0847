"""A few steps of Lanczos' method: the extreme eigenvalues of a symmetric operator, from a handful of products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_INVARIANT = 1e-10  # a new direction this short, relative to the operator, is rounding: the subspace is invariant


class Ritz(NamedTuple):
    """The least Ritz value, its unit vector, and the largest absolute Ritz value, which stands for the operator's norm."""

    value: float
    vector: NDArray[Any]
    norm: float


def lanczos(product: Callable[[NDArray[Any]], NDArray[Any]], start: NDArray[Any], steps: int) -> Ritz:
    """Find the least Ritz value of a symmetric operator in the Krylov space of `start`.

    There are at most `steps` products, and fewer if the space is invariant before. Every basis vector is kept and made orthogonal
    twice. NumPy's sums are used and no BLAS, whose threads would spin on the cores of ours. It holds `steps` + 3 vectors.
    """
    basis: list[NDArray[Any]] = []
    q, length = start, float(np.sqrt(np.sum(start * start)))
    diagonal: list[float] = []
    beside: list[float] = []
    norm = 0.0
    while length > 0 and length < np.inf and len(basis) < steps:
        q = q / length
        basis.append(q)
        r = product(q)
        diagonal.append(float(np.sum(q * r)))
        norm = max(norm, float(np.sqrt(np.sum(r * r))))
        for _ in range(2):
            for p in basis:
                r -= float(np.sum(p * r)) * p
        length = float(np.sqrt(np.sum(r * r)))
        if length <= _INVARIANT * norm:
            break
        beside.append(length)
        q = r
    n = len(diagonal)
    if n == 0 or not np.isfinite(np.sum(diagonal) + np.sum(beside[: n - 1])):
        return Ritz(0.0, np.zeros(start.size), 0.0)
    values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside[: n - 1], 1) + np.diag(beside[: n - 1], -1))
    vector = np.zeros(start.size)
    for weight, p in zip(vectors[:, 0].tolist(), basis, strict=True):
        vector += weight * p
    return Ritz(float(values[0]), vector, float(np.max(np.abs(values))))
