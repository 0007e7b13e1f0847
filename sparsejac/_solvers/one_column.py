"""The sums of a rank-r fit for r = 1, from those for vectors, which are faster."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._backends.sums import Sums

_RECENT = 2  # a step needs the sums at its start and at its end


class OneColumn:
    """The `RankSums` of a fit with one column of variables.

    The pass for a gradient at x also computes ``S (x∘x)``, which the products at x need. It is kept
    for the last two x, which must not change. Memory holds these, as up to four k-vectors.

    Parameters
    ----------
    sums : Sums
        The sums over A and Y.
    diagonal : ndarray of shape (k,)
        That of A.
    """

    rank = 1

    def __init__(self, sums: Sums, diagonal: NDArray[Any]) -> None:
        self._sums, self.count = sums, sums.k
        self._own = 2 * diagonal.astype(np.float64) ** 2  # the diagonal of S
        self._recent: list[tuple[NDArray[Any], NDArray[Any]]] = []

    def gradient(self, x: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        """The cost ``½‖F - Y‖²``, and its gradient."""
        cost, gradient, scale = self._sums.gradient(x.reshape(-1))
        self._keep(x, scale)
        return cost, gradient.reshape(-1, 1)

    def curvature(self, x: NDArray[Any], v: NDArray[Any]) -> NDArray[Any]:
        """The Hessian times v."""
        found = self._sums.curvature(x.reshape(-1), v.reshape(-1))
        found += self._scale(x) * v.reshape(-1)
        return found.reshape(-1, 1)

    def normal(self, x: NDArray[Any], v: NDArray[Any]) -> NDArray[Any]:
        """``JᵀJ v``, which is ``S (x∘x) ∘ v + x ∘ S (x∘v)``."""
        found = self._sums.squares((x * v).reshape(-1))
        found *= x.reshape(-1)
        found += self._scale(x) * v.reshape(-1)
        return found.reshape(-1, 1)

    def blocks(self, x: NDArray[Any]) -> NDArray[Any]:
        """The diagonal of JᵀJ, in the shape (k, 1, 1)."""
        return (self._scale(x) + self._own * x.reshape(-1) ** 2).reshape(-1, 1, 1)

    def degree(self) -> NDArray[Any]:
        """``S 1``."""
        return self._sums.squares(np.ones(self.count))

    def has_target(self) -> bool:
        """Whether Y has a nonzero number, however small."""
        return self._sums.has_target()

    def reached(self) -> NDArray[np.bool_]:
        """The variables for which A has a nonzero entry, however small."""
        return self._sums.nonzeros() > 0

    def _scale(self, x: NDArray[Any]) -> NDArray[Any]:
        """``S (x∘x)``, from one pass if x is not one of the last two."""
        for known, scale in self._recent:
            if known is x:
                return scale
        return self._keep(x, self._sums.squares(x.reshape(-1) ** 2))

    def _keep(self, x: NDArray[Any], scale: NDArray[Any]) -> NDArray[Any]:
        self._recent = [(x, scale), *self._recent[: _RECENT - 1]]
        return scale
