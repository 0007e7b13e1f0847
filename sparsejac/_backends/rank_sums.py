"""Sums over A, and over a Y aligned with it, for several columns of variables."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._matrix.entries import TARGETS, Entries
from .._matrix.variables import Variables
from .protocol import Backend
from .rank_reduction import LargestOf, RankReduction
from .sizes import products_hold, split
from .sums import absolute_squares, doubled
from .threads import ThreadBackend

silence = functools.partial(np.errstate, over="ignore", invalid="ignore")  # as in the kernels


class RankSums:
    """Sums of the shape of Z, each from one pass over A and Y.

    Z and V are of double precision. If A is symmetric and all its entries count, `gram` may be a
    backend of its upper triangle alone, and `diagonal` its diagonal. A pass then reads half the
    entries. Its sums are doubled, and the entries on the diagonal are subtracted, as doubling
    counts them too often. If Y is symmetric as well, `rows` may be a backend of the upper triangle
    too, and `y_diagonal` is the diagonal of Y.
    """

    def __init__(
        self,
        rows: Backend,
        of: Variables,
        target: Any = None,
        *,
        gram: Backend | None = None,
        diagonal: NDArray[Any] | None = None,
        y_diagonal: NDArray[Any] | None = None,
    ) -> None:
        self._rows, self.of, self._target, self._gram = rows, of, target, gram or rows
        self._diagonal, self._y_diagonal = diagonal, y_diagonal
        self.count, self.rank = of.shape

    def _reduce(
        self,
        kernel: str,
        Z: NDArray[Any],
        V: NDArray[Any] | None = None,
        *args: Any,
        over: Backend | None = None,
        scalar: bool = False,
        **how: Any,
    ) -> NDArray[Any]:
        rows = over or self._rows
        reduction = RankReduction(
            self.of,
            rows.pattern.width,
            Z,
            V,
            scalar=scalar,
            interleaved=rows.pattern.interleaved,
        )
        return rows.reduce(kernel, reduction, *args, **how)

    def weighted(self, Z: NDArray[Any], weights: Any, *, conjugate: bool = False) -> NDArray[Any]:
        """``Jᵀ w = (A∘W) Z + (A∘W)ᵀ Z``, for any number of columns. See `_kernels.rank`."""
        return self._reduce("rank_rmatvec", Z, None, conjugate, target=weights)

    def squares(self, U: NDArray[Any]) -> NDArray[Any]:
        """``S U`` for a real U of any number of columns."""
        found = self._reduce("rank_squares", U, over=self._gram)
        if self._diagonal is not None:
            with silence():
                found *= 2
                found -= 2 * np.abs(self._diagonal[:, np.newaxis]) ** 2 * U
        return found

    def degree(self) -> NDArray[Any]:
        """``S 1``."""
        return self.squares(np.ones((self.count, 1)))[:, 0]

    def normal(self, Z: NDArray[Any], V: NDArray[Any]) -> NDArray[Any]:
        """``JᴴJ V``."""
        found = self._reduce("rank_normal", Z, V, over=self._gram)
        if self._diagonal is not None:
            with silence():
                a = np.abs(self._diagonal) ** 2
                found *= 2
                found -= (4 * a * np.sum(Z * V, axis=1))[:, np.newaxis] * np.conj(Z)
        return found

    def gradient(self, Z: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        """``½‖F - Y‖²``, and its gradient ``Jᵀ (F - Y)``."""
        found = self._reduce("rank_gradient", Z, scalar=True, target=self._target)
        squares, gradient = float(found[self.count, 0]), found[: self.count]
        if self._diagonal is not None and self._y_diagonal is not None:
            a = self._diagonal
            with silence():
                r = a * np.sum(Z * Z, axis=1) - self._y_diagonal
                squares = doubled(squares, r * r)
                gradient *= 2
                gradient -= (2 * a * r)[:, np.newaxis] * Z
        return squares / 2, gradient

    def curvature(self, Z: NDArray[Any], V: NDArray[Any]) -> NDArray[Any]:
        """The Hessian of ``½‖F - Y‖²`` times V."""
        found = self._reduce("rank_curvature", Z, V, target=self._target)
        if self._diagonal is not None and self._y_diagonal is not None:
            a = self._diagonal
            with silence():
                r = a * np.sum(Z * Z, axis=1) - self._y_diagonal
                found *= 2
                found -= (4 * a * a * np.sum(Z * V, axis=1))[:, np.newaxis] * Z
                found -= (2 * a * r)[:, np.newaxis] * V
        return found

    def blocks(self, Z: NDArray[Any]) -> NDArray[Any]:
        """The diagonal blocks of ``JᴴJ``, of the shape (count, r, r).

        Block i is ``Σ_j S_ij conj(z_j) z_jᵀ + S_ii conj(z_i) z_iᵀ``.
        """
        c, d = np.triu_indices(self.rank)
        products = np.conj(Z[:, c]) * Z[:, d]
        sums = self._squares_with_diagonal(products)
        found = np.empty((self.count, self.rank, self.rank), Z.dtype)
        found[:, c, d] = sums
        found[:, d, c] = np.conj(sums)
        return found

    def column_squares(self, Z: NDArray[Any]) -> NDArray[Any]:
        """The diagonal of ``JᴴJ``, in the shape of Z."""
        return self._squares_with_diagonal((np.conj(Z) * Z).real)

    def _squares_with_diagonal(self, U: NDArray[Any]) -> NDArray[Any]:
        """``S U``, where S_ii counts twice."""
        with silence():
            if U.dtype.kind == "c":
                halves = [self._squares_with_diagonal(part) for part in (U.real, U.imag)]
                return halves[0] + 1j * halves[1]
            found = self.squares(U)
            if not self._rows.layout.bilinear:
                a = self._rows.diagonal()
                found += 2 * absolute_squares(a)[:, np.newaxis] * U
            return found

    def has_target(self) -> bool:
        """Whether Y has a nonzero number, however small."""
        return bool(self._rows.any_nonzero(self._target))

    def reached(self) -> NDArray[np.bool_]:
        """The rows of Z for which A has a nonzero entry, however small."""
        rows, columns = self.max_abs(np.ones((self.count, 1)))
        found: NDArray[np.bool_] = (rows > 0) | (columns > 0)
        return found

    def max_abs(self, Z: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """The largest ``|F_ij|`` of the stored rows, and of the stored columns."""
        holds, Z = products_hold(Z, Z, self.rank), np.ascontiguousarray(Z)
        given = (Z,) if holds else split(Z)
        of = LargestOf(self.of, self._rows.pattern.width, *given)
        found = self._rows.reduce("rank_max_abs" if holds else "max_abs_of_any_size", of)
        return found[:, 0], found[:, 1]


def rank_sums_of(
    backend: Backend, of: Variables, target: Any, kind: type[RankSums] = RankSums
) -> RankSums:
    """The sums over A and Y. Half the entries are read if both are symmetric to the bit."""
    if not isinstance(backend, ThreadBackend) or backend.layout.side or backend.layout.bilinear:
        return kind(backend, of, target)
    source = backend.source
    if source.asymmetry() is not None:
        return kind(backend, of, target)
    contiguous = source.along_contiguous_axis()
    gram = ThreadBackend(contiguous, backend.layout.half(), backend.settings)
    a, y = backend.diagonal(), source.with_values(target.given)
    if y.asymmetry() is not None:
        return kind(backend, of, target, gram=gram, diagonal=a)
    values = y.along_contiguous_axis().values
    half = Entries(values, gram.pattern, TARGETS, target.referenced)
    y_diagonal = backend.diagonal_of(target)
    return kind(gram, of, half, diagonal=a, y_diagonal=y_diagonal)
