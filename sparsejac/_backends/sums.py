"""Sums over A, and over a Y aligned with it, in k-vectors."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._matrix.entries import TARGETS, Entries, wide
from .._matrix.indices import frozen
from .protocol import Backend
from .threads import ThreadBackend

# Kernels raise no warning for overflow. NumPy must not either.
_silence = functools.partial(np.errstate, over="ignore", invalid="ignore")
_TOGETHER = 4  # the number of vectors that a pass over sparse rows takes at a time


class Sums:
    """Sums that one pass over A, and over a Y aligned with it, adds up in k-vectors of float64.

    If A is symmetric and all its entries count, `gram` may be a backend of its upper triangle
    alone, and `diagonal` its diagonal. A pass then reads half the entries. Its sums are doubled,
    and the entries on the diagonal are subtracted, as doubling counts them too often. If Y is
    symmetric as well, `rows` may be a backend of the upper triangle too, and `y_diagonal` is the
    diagonal of Y.
    """

    def __init__(
        self,
        rows: Backend,
        target: Any = None,
        *,
        gram: Backend | None = None,
        diagonal: NDArray[Any] | None = None,
        y_diagonal: NDArray[Any] | None = None,
    ) -> None:
        self._rows, self._target, self._gram = rows, target, gram or rows
        self._diagonal, self._y_diagonal = diagonal, y_diagonal
        self.k = rows.pattern.k
        self.symmetric = diagonal is not None  # whether A is known to be symmetric

    def squares(self, U: NDArray[Any]) -> NDArray[Any]:
        """``S u`` for a vector u, or for each row u of a matrix U, real or complex."""
        if U.dtype.kind == "c":
            parts = self.squares(np.concatenate([U.real, U.imag]))
            return parts[: len(U)] + 1j * parts[len(U) :]
        if U.ndim == 1:
            found = self._gram.reduce("squares", frozen(U), False)
        elif len(U) == 1:
            return self.squares(U[0])[np.newaxis]
        else:
            found = self._squares_of_many(U)
        if self._diagonal is not None:
            with _silence():
                found *= 2
                found -= 2 * self._diagonal**2 * U
        return found

    def _squares_of_many(self, U: NDArray[Any]) -> NDArray[Any]:
        count, k = U.shape
        group = _TOGETHER if self._gram.pattern.interleaved else count + count % 2
        found = np.empty(U.shape)
        for c in range(0, count, max(group, 1)):
            some = np.zeros((group, k))
            some[: count - c] = U[c : c + group]
            part = self._gram.reduce("squares_of_many", frozen(some), outputs=group)
            found[c : c + group] = part[: count - c]
        return found

    def beginning(self) -> tuple[NDArray[Any], float, float, float]:
        """``S 1``, ``‖Y‖²``, ``Σ A∘Y`` and ``Σ |A∘Y|``, from one pass.

        A fit needs them before it has an x.
        """
        k = self.k
        found = self._rows.reduce("beginning", (frozen(np.ones(k)),), extra=3, target=self._target)[
            0
        ]
        degree, (norm, overlap, size) = found[:k], found[k:].tolist()
        if self._diagonal is not None and self._y_diagonal is not None:
            a, b = self._diagonal, self._y_diagonal
            with _silence():
                degree = 2 * degree - 2 * a**2
                if overlap < np.inf:
                    overlap = 2 * overlap - float(np.sum(a * b))
                norm, size = doubled(norm, b * b), doubled(size, np.abs(a * b))
        return degree, norm, overlap, size

    def nonzeros(self) -> NDArray[Any]:
        """For each variable, the number of nonzero entries of A in its row and its column.

        This takes one pass.
        """
        return self._gram.reduce("nonzeros", frozen(np.ones(self.k)))

    def has_target(self) -> bool:
        """Whether Y has a nonzero number, however small."""
        return self._rows.any_nonzero(self._target)

    def gradient(self, x: NDArray[Any]) -> tuple[float, NDArray[Any], NDArray[Any]]:
        """``½‖F - Y‖²``, its gradient ``Jᵀ (F - Y)``, and ``S (x∘x)``, from one pass."""
        k = x.size
        found = self._rows.reduce("gradient", (frozen(x),), outputs=2, extra=1, target=self._target)
        squares, gradient, scale = float(found[0, k]), found[0, :k], found[1, :k]
        if self._diagonal is not None and self._y_diagonal is not None:
            a = self._diagonal
            with _silence():
                r = a * x * x - self._y_diagonal
                squares = doubled(squares, r * r)
                found *= 2
                gradient -= 2 * a * r * x
                scale -= 2 * (a * x) ** 2
        return squares / 2, gradient, scale

    def curvature(self, x: NDArray[Any], v: NDArray[Any]) -> NDArray[Any]:
        """The product ``(M + Mᵀ) v`` with ``M = A∘(2 F - Y)``, from one pass."""
        found = self._rows.reduce("curvature", (frozen(x), frozen(v)), target=self._target)[0]
        if self._diagonal is not None and self._y_diagonal is not None:
            a = self._diagonal
            with _silence():
                found *= 2
                found -= 2 * a * (2 * a * x * x - self._y_diagonal) * v
        return found


def sums_of(backend: Backend, target: Any) -> Sums:
    """The sums over A and Y. Half the entries are read if both are symmetric to the bit."""
    if not isinstance(backend, ThreadBackend) or backend.layout.side is not None:
        return Sums(backend.for_sums(), target)
    source = backend.source
    if source.asymmetry() is not None:
        return Sums(backend, target)
    contiguous = source.along_contiguous_axis()
    gram = ThreadBackend(contiguous, backend.layout.half(), backend.settings)
    a, y = backend.diagonal(), source.with_values(target.given)
    if y.asymmetry() is not None:
        return Sums(backend, target, gram=gram, diagonal=a)
    values = y.along_contiguous_axis().values
    half = Entries(values, gram.pattern, TARGETS, target.referenced)
    return Sums(gram, half, diagonal=a, y_diagonal=backend.diagonal_of(target))


def doubled(total: float, diagonal: NDArray[Any]) -> float:
    """A sum over all of a symmetric matrix, from that over its upper triangle.

    Its terms are not negative. If little but the diagonal is left, the difference is rounding, and
    may have either sign.
    """
    if not total < np.inf:  # NaN stays
        return total
    return max(2 * total - float(np.sum(diagonal)), 0.0)


def absolute_squares(x: NDArray[Any]) -> NDArray[Any]:
    """|x|² in float64."""
    x = x.astype(wide(x.dtype))
    return frozen(x.real**2 + x.imag**2) if x.dtype.kind == "c" else frozen(x * x)
