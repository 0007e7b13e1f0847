"""Preconditioners of a fit, which are block diagonal matrices ``M = L Lᵀ`` with small blocks."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

# A block gets this part of its trace on its diagonal. Blocks are singular in rows with fewer than r
# entries, or if the rank is too large for the data.
_SHIFT = 1e-10


class Preconditioner(Protocol):
    """Multiplies arrays of the shape (count, r) by ``L⁻¹`` and ``L⁻ᵀ``."""

    def lower(self, v: NDArray[Any], /) -> NDArray[Any]: ...
    def upper(self, u: NDArray[Any], /) -> NDArray[Any]: ...


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


class Diagonal:
    """The diagonal matrix M, for one column of variables; L⁻¹ is 0 where M is not positive."""

    def __init__(self, diagonal: NDArray[Any]) -> None:
        self._inverse = np.zeros(diagonal.shape)
        np.divide(1.0, np.sqrt(diagonal), out=self._inverse, where=diagonal > 0)

    def lower(self, v: NDArray[Any]) -> NDArray[Any]:
        """``L⁻¹ v``."""
        return self._inverse * v

    def upper(self, u: NDArray[Any]) -> NDArray[Any]:
        """``L⁻ᵀ u``."""
        return self._inverse * u


class Restricted:
    """The blocks of some variables alone: L⁻¹ is 0 for the others.

    Parameters
    ----------
    blocks : ndarray of shape (count, r, r)
    shift : ndarray of shape (count,)
    free : ndarray of bool, of shape (count, r)
        The variables that remain.
    """

    def __init__(self, blocks: NDArray[Any], shift: NDArray[Any], free: NDArray[np.bool_]) -> None:
        self._free = free
        if free.shape[1] == 1:
            self._inner: Preconditioner = Diagonal(blocks[:, :, 0] + shift[:, np.newaxis])
            return
        # A block without its fixed rows and columns. Their diagonal stays, and is not used.
        kept = blocks * (free[:, :, np.newaxis] & free[:, np.newaxis, :])
        np.einsum("iaa->ia", kept)[:] = np.einsum("iaa->ia", blocks)
        self._inner = BlockPreconditioner(kept, shift)

    def lower(self, v: NDArray[Any]) -> NDArray[Any]:
        """``L⁻¹ v``."""
        return self._inner.lower(self._free * v)

    def upper(self, u: NDArray[Any]) -> NDArray[Any]:
        """``L⁻ᵀ u``."""
        return self._inner.upper(self._free * u)


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
