"""The start of a rank-r fit: eigenvectors of the data."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .rank_points import RankPoint, RankPoints, length_of

_EXTRA = 2  # how many columns a block of the Krylov space has besides r
_BLOCKS = 6  # the number of these blocks
_FILLED = 1e-2  # the size of columns for which there is no eigenvector, relative to the expected x


class RankStart(RankPoints):
    """Chooses the first point."""

    def _start(self, x0: NDArray[Any] | None) -> RankPoint:
        """Choose the first point, from x0 or from the data."""
        x = np.zeros(self._shape) if x0 is None else np.array(x0, np.float64, order="C")
        if not (self._in_range and x.size):
            return self._evaluate(x)
        # F does not depend on the other rows.
        reached = self._degree > 0
        if self._norm == 0 or self._lambda > 0:
            x[~reached] *= self._lambda == 0
        if self._norm == 0:
            x[reached] = 0.0
            return self._evaluate(x)
        largest = float(np.max(np.abs(x[reached]), initial=0.0))
        if largest == 0:
            x[reached] = self._from_data()[reached]
        else:
            usual = float(np.sqrt(self._expected))
            if not 1e-30 * usual < largest < 1e30 * usual and largest < np.inf:
                # F might leave the range of float64.
                x[reached] = np.ldexp(x[reached], int(np.frexp(usual)[1] - np.frexp(largest)[1]))
        return self._best_on_ray(self._evaluate(x))

    def _best_on_ray(self, at: RankPoint) -> RankPoint:
        """Find the best point on the ray through x, except for 0.

        There, the cost is ``½ s² FF - s FY + ½ λ s xx + ½ YY``, where s is the square of a factor.
        Because ``J x = 2 F``, ``g·x = 2 FF - 2 FY + λ xx``.
        """
        yy = self._norm**2
        for _ in range(40):
            xx = float(np.sum(at.x**2))
            inner = (float(np.sum(at.gradient * at.x)) - self._lambda * xx) / 2  # FF - FY
            ff = 2 * inner - 2 * (at.cost - self._lambda / 2 * xx) + yy
            if not np.isfinite(ff + inner + xx) or xx == 0:
                return at
            if 1e-8 * yy < ff < 1e8 * yy:
                square = (ff - inner - self._lambda / 2 * xx) / ff
                if square <= 0 or abs(square - 1) < 1e-2:
                    return at
                return self._evaluate(self._scaled(at.x, np.sqrt(square)))
            # x is far too long or too short, so F·Y is lost to rounding.
            if ff > 1e-8 * yy:
                beta = (yy / ff) ** 0.25
            else:
                mean = np.sum(self._degree[:, np.newaxis] * at.x**2) / np.sum(self._degree)
                beta = np.sqrt(self._expected / mean) if mean > 0 else 0.0
                if not 1.1 < beta < np.inf:
                    return at
            at = self._evaluate(self._scaled(at.x, beta))
        return at

    def _scaled(self, x: NDArray[Any], beta: float) -> NDArray[Any]:
        """``β x``. Rows without an entry of A stay as they are."""
        return np.where(self._degree[:, np.newaxis] > 0, beta * x, x)

    def _from_data(self) -> NDArray[Any]:
        """Compute x from the largest positive eigenvalues of ``W = Δ^-½ (A∘Y + (A∘Y)ᵀ) Δ^-½``.

        Δ = Diag(S 1). If ``A = 1``, then x xᵀ is the nearest matrix of rank r to Y. Columns for
        which there is no positive eigenvalue are small random numbers.
        """
        count, rank = self._shape
        total = float(np.sum(self._degree))
        root = np.zeros(count)
        np.divide(1.0, np.sqrt(self._degree), out=root, where=self._degree > 0)
        if count <= (_BLOCKS - 1) * (rank + _EXTRA):
            values, vectors = np.linalg.eigh(self._weighted(np.eye(count), root))
            values, vectors = values[::-1][:rank], vectors[:, ::-1][:, :rank]
        else:
            values, vectors = self._largest_eigenvalues(root)
        found = np.sqrt(self._expected) * _FILLED * self._random(rank)
        positive = values > 1e-12 * np.max(np.abs(values), initial=0.0)
        chosen = vectors[:, positive] * np.sqrt(values[positive] * total)
        found[:, : chosen.shape[1]] = root[:, np.newaxis] * chosen
        return found

    def _weighted(self, v: NDArray[Any], root: NDArray[Any]) -> NDArray[Any]:
        """``W v``, where root is the diagonal of Δ^-½."""
        self._count_product()
        column = root[:, np.newaxis]
        found = self._sums.curvature(np.zeros(v.shape), np.ascontiguousarray(column * v))
        found *= -column
        return found

    def _largest_eigenvalues(self, root: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Estimate the r largest eigenvalues of W, and their vectors, in a block Krylov space.

        A block has r columns and two more, and the space has six blocks, so W is multiplied six
        times.
        """
        count, rank = self._shape
        width = rank + _EXTRA
        basis = np.zeros((count, width * _BLOCKS), order="F")
        projected = np.zeros((width * _BLOCKS, width * _BLOCKS))
        block = self._random(width) * (root > 0)[:, np.newaxis]
        for number in range(_BLOCKS):
            before, to = basis[:, : width * number], width * (number + 1)
            for _ in range(2):  # once more, because rounding leaves something
                block = np.linalg.qr(block - before @ (before.T @ block))[0]
            basis[:, to - width : to] = block
            block = self._weighted(block, root)
            projected[:to, to - width : to] = basis[:, :to].T @ block
            projected[to - width : to, :to] = projected[:to, to - width : to].T
            block /= length_of(block) or 1.0
        values, vectors = np.linalg.eigh(projected)
        return values[::-1][:rank], basis @ vectors[:, ::-1][:, :rank]
