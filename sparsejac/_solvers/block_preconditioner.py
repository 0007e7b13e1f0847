"""Inverse Cholesky factors of many small matrices, the diagonal blocks of JᵀJ of a rank-r fit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# A block gets this part of its trace on its diagonal. Blocks are singular in rows with fewer than r
# entries, or if the rank is too large for the data.
_SHIFT = 1e-10


class BlockPreconditioner:
    """The block diagonal matrix ``M = D + Diag(shift) ⊗ I``, as ``M = L Lᵀ``.

    D has one r×r block for each of `count` rows. Multiplication by L⁻¹ turns a gradient into that
    of the variables ``u = Lᵀ v``, in which M is the identity. Rows whose block and shift are zero
    have L⁻¹ = 0 here, so they do not move. Memory holds L⁻¹, which has the size of D, and as much
    again while it is computed.
    """

    def __init__(self, blocks: NDArray[Any], shift: NDArray[Any]) -> None:
        rank = blocks.shape[1]
        trace = np.einsum("iaa->i", blocks)
        size = trace + shift
        tiny = ~(size > 0)  # also if it is not a number
        shifted = blocks.copy()
        diagonal = np.einsum("iaa->ia", shifted)  # a view
        diagonal += (shift + _SHIFT * trace)[:, np.newaxis]
        # Cholesky's method must neither overflow nor underflow.
        scale = np.ldexp(1.0, -2 * (np.frexp(np.where(tiny, 1.0, size))[1] // 2))
        shifted *= scale[:, np.newaxis, np.newaxis]
        shifted[tiny] = np.eye(rank)
        self._inverse = _inverse_factors(shifted)
        self._inverse *= np.where(tiny, 0.0, np.sqrt(scale))[:, np.newaxis, np.newaxis]

    def lower(self, v: NDArray[Any]) -> NDArray[Any]:
        """``L⁻¹ v``."""
        return np.einsum("iab,ib->ia", self._inverse, v)

    def upper(self, u: NDArray[Any]) -> NDArray[Any]:
        """``L⁻ᵀ u``."""
        return np.einsum("iba,ib->ia", self._inverse, u)


def _inverse_factors(matrices: NDArray[Any]) -> NDArray[Any]:
    """Compute L⁻¹ for each matrix ``L Lᵀ``, or NaN if one of them is not positive definite."""
    try:
        factors = np.linalg.cholesky(matrices)
    except np.linalg.LinAlgError:
        return np.full_like(matrices, np.nan)
    inverses = np.zeros_like(matrices)
    for a in range(matrices.shape[1]):
        row = inverses[:, a]
        row[:, a] = 1.0
        if a:
            row -= np.einsum("ib,ibc->ic", factors[:, a, :a], inverses[:, :a])
        row /= factors[:, a, a, np.newaxis]
    return inverses
