"""Sums over A and Y for a robust loss."""

from __future__ import annotations

from typing import Any, NamedTuple, cast, get_args

import numpy as np
from numpy.typing import NDArray

from .._matrix.variables import Variables
from .._validation import LossName
from .protocol import Backend
from .rank_sums import RankSums, rank_sums_of, silence
from .sums import doubled

LOSSES = get_args(LossName)  # kernels know them by their places


class Loss(NamedTuple):
    """ρ, and the scale C of the cost ``½ C² Σ ρ(r²/C²)``."""

    name: str
    scale: float

    @property
    def arguments(self) -> tuple[int, float]:
        """What kernels are given."""
        return LOSSES.index(self.name), 1 / self.scale

    def at(self, r: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """``ρ(z)``, ``ρ'(z)`` and ``ρ'(z) + 2 z ρ''(z)`` for ``z = r²/C²``."""
        z = (r / self.scale) ** 2
        if self.name == "huber":
            inside, root = z <= 1, np.sqrt(np.maximum(z, 1))
            return np.where(inside, z, 2 * root - 1), 1 / root, inside * 1.0
        if self.name == "soft_l1":
            root = np.sqrt(1 + z)
            return 2 * (z / (1 + root)), 1 / root, root**-3
        if self.name == "cauchy":
            t = 1 / (1 + z)
            return np.log1p(z), t, t * (2 * t - 1)
        t = 1 / (1 + z**2)
        return np.arctan(z), t, t * (4 * t - 3)


class RobustSums(RankSums):
    """`RankSums` whose cost, gradient and curvature are those of a robust loss.

    The sums that do not depend on Y are those of the squares. They bound the others from above.
    """

    loss: Loss

    def gradient(self, Z: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        """The cost, and its gradient ``Jᵀ (ρ' r)``."""
        found = self._robust("robust_gradient", Z, scalar=True)
        total, gradient = float(found[self.count, 0]), found[: self.count]
        if self._half:
            a, r = self.on_diagonal(Z)
            with silence():
                rho, slope, _ = self.loss.at(r)
                total = doubled(total, rho)
                gradient *= 2
                gradient -= (2 * a * slope * r)[:, np.newaxis] * Z
        return total * self.loss.scale**2 / 2, gradient

    def robust_normal(self, Z: NDArray[Any], V: NDArray[Any]) -> NDArray[Any]:
        """``Jᵀ Diag(ρ') J V``."""
        found = self._robust("robust_normal", Z, V)
        if self._half:
            a, r = self.on_diagonal(Z)
            with silence():
                slope = self.loss.at(r)[1]
                found *= 2
                found -= (4 * a * a * slope * np.sum(Z * V, axis=1))[:, np.newaxis] * Z
        return found

    def curvature(self, Z: NDArray[Any], V: NDArray[Any]) -> NDArray[Any]:
        """The Hessian times V."""
        found = self._robust("robust_curvature", Z, V)
        if self._half:
            a, r = self.on_diagonal(Z)
            with silence():
                _, slope, bend = self.loss.at(r)
                found *= 2
                found -= (4 * a * a * bend * np.sum(Z * V, axis=1))[:, np.newaxis] * Z
                found -= (2 * a * slope * r)[:, np.newaxis] * V
        return found

    @property
    def _half(self) -> bool:
        """Whether Y, too, is symmetric, so that passes read the upper triangles alone."""
        return self._y_diagonal is not None

    def on_diagonal(self, Z: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """A's diagonal, and the residuals there."""
        a = self._rows.diagonal() if self._diagonal is None else self._diagonal
        y = self._y_diagonal if self._half else self._rows.diagonal_of(self._target)
        with silence():
            return a, a * np.sum(Z * Z, axis=1) - y

    def _robust(
        self, kernel: str, Z: NDArray[Any], V: NDArray[Any] | None = None, *, scalar: bool = False
    ) -> NDArray[Any]:
        return self._reduce(kernel, Z, V, *self.loss.arguments, scalar=scalar, target=self._target)


def robust_sums_of(backend: Backend, of: Variables, target: Any, loss: Loss) -> RobustSums:
    """The sums over A and Y for this loss."""
    sums = cast(RobustSums, rank_sums_of(backend, of, target, RobustSums))
    sums.loss = loss
    return sums
