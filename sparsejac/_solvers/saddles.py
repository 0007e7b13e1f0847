"""Finds negative curvature where the gradient of a fit vanishes, and moves to a lower point."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

from .descent import VISIBLE
from .fit_points import Point, Points, reciprocal, weighted_norm
from .lanczos import Lanczos, steps_for

SWEEPS = 10  # the largest number of sweeps of a start
_VANISHED = 1e-6  # x_j counts as zero if x_j² is below this, relative to its average if F were Y
_NEGATIVE = 1e-8  # a curvature is negative if it is below minus this, relative to the Hessian
_LANCZOS = 8  # how many vectors Lanczos' method keeps where x is zero
_SMOOTH = 5  # how many averages over neighbours smooth an estimate of the size of x
_SPREAD = 24  # steps of the power method, whose vector reaches all connected parts


class Saddles(Points):
    """Finds points of lower cost along directions of negative curvature."""

    _last_negative: NDArray[Any] | None = None  # the last such direction in conjugate gradients
    _curvature = 0.0  # the least Ritz value, relative to the largest

    def _lower_point(self) -> Point | None:
        """Search for a point of lower cost along a direction of negative curvature.

        The result is None if no curvature is negative. It is the current point itself if the cost
        does not visibly fall.
        """
        at = self._at
        if self._norm == 0:
            return None
        small = _VANISHED * self._expected
        vanished = (self._degree > 0) & (at.x**2 <= small) & (at.scale <= small * self._degree)
        found = self._leave_zero(at, vanished)
        if found is None:
            negative = self._negative_curvature()
            if negative is not None:
                found = self._lower_along(at, *negative) or at
        return found

    def _negative_curvature(self) -> tuple[NDArray[Any], float] | None:
        """Find a direction v with ``v·H v < 0``; None if there seems to be none.

        The result is v and that number. v belongs to the least Ritz value of ``D^-½ H D^-½`` with
        the D of the optimality. The start of Lanczos' method is random, so that it has a component
        along every eigenvector. The last direction of negative curvature in conjugate gradients is
        added. The component along x is removed. Where the gradient is zero,
        ``H x = 2 S(x∘x) ∘ x``, so x belongs to the largest eigenvalue, which is 2 if A has no
        diagonal.
        """
        x, scale = self._at.x, self._at.scale
        root = np.sqrt(reciprocal(self._measure(x, scale)))

        def product(z: NDArray[Any]) -> NDArray[Any]:
            self._count_product()
            v = root * z
            hv = self._sums.curvature(x, v)
            v *= scale
            hv += v
            hv *= root
            return hv

        start = self._random() * (root > 0)
        if self._last_negative is not None:
            negative = np.divide(self._last_negative, root, out=np.zeros(x.size), where=root > 0)
            length = weighted_norm(negative, 1.0)
            if 0 < length < np.inf:
                start += (weighted_norm(start, 1.0) / length) * negative
            del negative
        known = np.divide(x, root, out=np.zeros(x.size), where=root > 0)
        length, largest = weighted_norm(known, 1.0), 0.0
        if 0 < length < np.inf:
            known /= length
            largest = 2 * float(np.sum(scale * (root * known) ** 2))
            if np.count_nonzero(start) > 1:
                start -= float(np.sum(start * known)) * known
        del known
        ritz = Lanczos(product, start, steps_for(start.size))
        norm = max(ritz.norm, largest)
        self._curvature = ritz.value / norm if norm > 0 else 0.0
        return None if self._curvature >= -_NEGATIVE else (root * ritz.vector(), ritz.value)

    def _leave_zero(self, at: Point, vanished: NDArray[np.bool_]) -> Point | None:
        """Find a point of lower cost. x is zero in the `vanished` variables and their neighbours.

        The gradient of these variables is zero, whatever the data are. The result is None if no
        curvature is negative, and `at` itself if none of the points that were tried is better.
        Connected parts of A may have data of very different sizes. So the size of each variable is
        estimated from the data first, and curvatures are relative to that size.
        """
        x = at.x
        if vanished.any():
            vanished, size = self._estimated_sizes(at, vanished)
        if not vanished.any():
            return None
        root = np.sqrt(reciprocal(self._degree) * reciprocal(size)) * vanished
        np.sqrt(size, out=size)
        value, v = self._most_negative_curvature(x, root)
        self._curvature = value
        if not value < -_NEGATIVE:
            return None
        w = self._spread(x, root, value)
        # v belongs to one connected part, w to all. The sign of v is arbitrary. v must have the
        # sign of w, because the small entries of the same part come from w.
        own = np.abs(v) > 1e-3 * np.max(np.abs(v))
        v *= np.copysign(1.0, np.sum(v * w)) * root
        np.sign(w, out=w)
        w *= size
        np.copyto(w, v * np.sqrt(np.sum(size**2, where=own) / np.sum(v**2, where=own)), where=own)
        del root, size, own
        there = self._evaluate(np.where(w != 0, w, x))
        del w
        for _ in range(SWEEPS):
            if there.cost < (1 - VISIBLE) * at.cost:
                return there
            there = self._evaluate(
                there.x - 0.5 * vanished * there.gradient * reciprocal(there.scale)
            )
        # A part with tiny data does not change the cost visibly, but it is fitted as well.
        return self._lower_along(at, v, value, visible=0.0) or at

    def _estimated_sizes(
        self, at: Point, vanished: NDArray[np.bool_]
    ) -> tuple[NDArray[np.bool_], NDArray[Any]]:
        """Find the variables that should be larger, and estimate their x_j².

        A product of the data with random numbers gives the estimate. Averages over neighbours
        smooth it within each connected part.
        """
        random = self._random()
        random = np.copysign(0.5 + np.abs(random) % 1.0, random) * vanished
        self._count_product()
        size = np.abs(self._sums.curvature(at.x, random)) * vanished
        inverse = reciprocal(self._degree)
        vanished = (size > 0) & (at.scale <= 1e-3 * size)
        size *= inverse
        vanished &= at.x**2 <= 1e-3 * size
        for _ in range(_SMOOTH if vanished.any() else 0):
            size *= vanished
            size = self._squares(size)
            size *= inverse
        size *= vanished
        return vanished, size

    def _spread(self, x: NDArray[Any], root: NDArray[Any], value: float) -> NDArray[Any]:
        """Find a direction of negative curvature in each connected part; 0 where there is none.

        A few steps of the power method, from random numbers, lead to the negative end of the
        spectrum. `value` is the least eigenvalue.
        """
        # The random numbers have one sign, because the result has one where A∘Y is positive.
        w = np.abs(self._random()) * (root > 0)
        for _ in range(_SPREAD):
            rw = self._scaled_curvature(x, root, w)
            negative = w * rw < 0
            rw /= value
            w += rw
            w /= np.max(np.abs(w))
        return w * negative

    def _scaled_curvature(
        self, x: NDArray[Any], root: NDArray[Any], z: NDArray[Any]
    ) -> NDArray[Any]:
        """``Diag(root) (M + Mᵀ) Diag(root) z``."""
        self._count_product()
        return root * self._sums.curvature(x, root * z)

    def _most_negative_curvature(
        self, x: NDArray[Any], root: NDArray[Any]
    ) -> tuple[float, NDArray[Any]]:
        """Find the least eigenvalue of ``Diag(root) (M + Mᵀ) Diag(root)`` at x, with unit vector.

        The relative error is at most 1 %. Lanczos' method keeps eight k-vectors, and ARPACK needs
        some more.
        """
        k = x.size

        def product(z: NDArray[Any]) -> NDArray[Any]:
            return self._scaled_curvature(x, root, z.reshape(-1))

        start = self._random() * (root > 0)
        if np.count_nonzero(start) > _LANCZOS:
            operator = LinearOperator((k, k), product, dtype=np.float64)
            with contextlib.suppress(ArpackError):  # it did not converge
                values, vectors = eigsh(
                    operator, k=1, which="SA", v0=start, tol=0.01, ncv=_LANCZOS, maxiter=200
                )
                return float(values[0]), vectors[:, 0]
        ritz = Lanczos(product, start, _LANCZOS)
        return ritz.value, ritz.vector()
