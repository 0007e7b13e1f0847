"""One number for each entry of A, or for each row of J, in the form that the kernels read."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._kernels import compiled_kernel
from .buffers import Room
from .layout import Layout
from .pattern import Indices, Pattern, frozen

COMPILED = tuple(
    map(np.dtype, (np.float64, np.float32, np.complex128, np.complex64, np.int32, np.int64))
)
# The dtypes of Y that the kernels read. Other dtypes are converted to float64.
TARGETS = (np.dtype(np.float64), np.dtype(np.float32))


class Entries:
    """One number for each entry of A, in the user's own memory.

    The numbers are a matrix of A's shape, or a vector that is aligned with CSR indices. The kernels
    read C-contiguous values of the `compiled` dtypes in place. Other values (Fortran order,
    strides, foreign byte order, small integers) are copied block by block, into a buffer of at most
    max(1 MiB, 32 rows) for each worker. That costs one more pass through the cache. In return, no
    version of every kernel has to be compiled for every such dtype.
    """

    def __init__(
        self,
        values: NDArray[Any],
        pattern: Pattern,
        compiled: tuple[np.dtype[Any], ...] = COMPILED,
    ) -> None:
        readable = values.flags.aligned and values.dtype in compiled
        self.given, self.given_dtype = values, values.dtype
        self.direct = readable and values.flags.c_contiguous
        self.values = frozen(values.reshape(-1) if self.direct else values)
        # The transpose, if the kernels can read it in place.
        self.transposed = (
            frozen(values.T) if readable and values.flags.f_contiguous and not self.direct else None
        )
        native = values.dtype.newbyteorder("=")
        self.dtype = native if native in compiled else np.dtype(np.float64)
        self._pattern = pattern

    def packed(self, i0: int, i1: int, room: Room) -> tuple[NDArray[Any], int]:
        """The entries of rows ``i0 <= i < i1`` as a contiguous array, and the number of the first.

        If the kernels can read all entries in place, these are returned.
        """
        if self.direct:
            return self.values, 0
        pattern, values = self._pattern, self.values
        if pattern.indices is None:
            base, block = i0 * pattern.k, values[i0:i1]
        else:
            base = int(pattern.lo[i0])
            block = values[base : int(pattern.hi[i1 - 1])]
        packed = room.take(block.size, self.dtype)
        if self.transposed is None:
            np.copyto(packed.reshape(block.shape), block)
        else:
            compiled_kernel("transpose")(self.transposed, i0, packed.reshape(block.shape))
        return frozen(packed), base

    @property
    def entry_bytes(self) -> int:
        """The bytes that an entry takes in a buffer."""
        return 0 if self.direct else self.dtype.itemsize

    def at(self, entries: Indices) -> NDArray[Any]:
        """The numbers of these entries of A."""
        values = self.values
        return values[entries] if values.ndim == 1 else values[np.divmod(entries, self._pattern.k)]


class Weights:
    """A number, or a row of numbers, for each row of J: the w of ``Jᵀ w``.

    If J's rows do not follow the stored rows, the weights are read along the stored columns.
    """

    def __init__(
        self, w: NDArray[Any], pattern: Pattern, dtype: np.dtype[Any], layout: Layout
    ) -> None:
        readable = w.flags.aligned and w.flags.c_contiguous and w.dtype in (dtype, _single(dtype))
        self.direct = readable and layout.rows_in_order
        self.dtype, self._pattern, self._in_order = dtype, pattern, layout.rows_in_order
        self.values = frozen(w)

    def packed(self, i0: int, i1: int, room: Room) -> tuple[NDArray[Any], int]:
        """The weights for rows ``i0 <= i < i1`` as a contiguous array, and the number of the first.

        If the kernels can read all weights in place, these are returned.
        """
        if self.direct:
            return self.values, 0
        pattern, w = self._pattern, self.values
        if not self._in_order:
            k = pattern.k
            block, base = np.swapaxes(w.reshape(k, k, *w.shape[1:])[:, i0:i1], 0, 1), i0 * k
        else:
            base = i0 * pattern.grid if pattern.grid else int(pattern.first[i0])
            block = w[base : i1 * pattern.grid if pattern.grid else int(pattern.first[i1])]
        packed = room.take(block.size, self.dtype).reshape(block.shape)
        np.copyto(packed, block)
        return frozen(
            packed.reshape(math.prod(block.shape[: block.ndim - w.ndim + 1]), *w.shape[1:])
        ), base

    @property
    def entry_bytes(self) -> int:
        """The bytes that an entry takes in a buffer."""
        return 0 if self.direct else self.dtype.itemsize

    def at_places(self, i: NDArray[Any], j: NDArray[Any]) -> NDArray[Any]:
        """The weights of the visited entries, which are at these pairs (i, j)."""
        grid = self._pattern.grid
        return self.values if grid is None else self.values[i.astype(np.int64) * grid + j]

    def matrix(self) -> NDArray[Any]:
        """The weights for a dense A as a k×k array, with zeros outside the visited triangle."""
        pattern, k, w = self._pattern, self._pattern.k, self.values
        if w.size == k * k:
            return w.reshape(k, k) if self._in_order else w.reshape(k, k).T
        W = np.zeros((k, k), w.dtype)
        for i in range(k):
            j0 = i * k
            W[i, pattern.lo[i] - j0 : pattern.hi[i] - j0] = w[
                pattern.first[i] : pattern.first[i + 1]
            ]
        return W

    def at(self, entries: Indices) -> NDArray[Any]:
        """The weights of these entries of A, which are on its diagonal."""
        pattern = self._pattern
        if pattern.indices is None:
            i = entries // pattern.k
        else:
            assert pattern.indptr is not None
            i = np.searchsorted(pattern.indptr, entries, side="right") - 1
        rows = i * (pattern.k + 1) if pattern.grid else pattern.first[i] + (entries - pattern.lo[i])
        return self.values[rows]


def _single(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.complex64 if dtype.kind == "c" else np.float32)


def wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in which sums of numbers of `dtype` are kept."""
    return np.dtype(np.complex128 if dtype.kind == "c" else np.float64)
