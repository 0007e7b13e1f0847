"""One number for each entry of A, or for each row of J, in the form that the kernels read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._kernels import compiled_kernel
from .buffers import Buffer
from .indices import Indices, frozen
from .layout import Layout
from .pattern import Pattern
from .referenced import Referenced
from .source import RowBlock

COMPILED = tuple(
    map(np.dtype, (np.float64, np.float32, np.complex128, np.complex64, np.int32, np.int64))
)
# The dtypes of Y that the kernels read. Other dtypes are converted to float64.
TARGETS = (np.dtype(np.float64), np.dtype(np.float32))


class Aligned:
    """Numbers that lie as A's entries do, or as J's rows do.

    Attributes
    ----------
    direct : bool
        Kernels can read all of `values` in place.
    dtype : numpy.dtype
        The dtype in which kernels get the numbers.
    entry_bytes : int
        The bytes that an entry takes in the buffers of one thread.
    extra : int
        The number of arrays of the size of a block that are made while one is read.
    sequential : bool
        One block must be read before the next one is asked for.
    """

    direct: bool
    _pattern: Pattern
    values: NDArray[Any]
    dtype: np.dtype[Any]
    extra = 0
    sequential = False
    owned_lock: Any = None  # the lock of an object that answers one call at a time

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(values := state.get("values"), np.ndarray):
            self.values = frozen(values)  # a pickle does not contain that it was

    def check_unchanged(self) -> None:
        """Refuse numbers whose arrays were replaced: see `Pattern.check_unchanged`."""

    def contiguous(self, i0: int, i1: int, buffer: Buffer) -> tuple[NDArray[Any], int]:
        """The numbers for rows ``i0 <= i < i1`` as a contiguous array, and the number of the first.

        If the kernels can read all numbers in place, these are returned.
        """
        raise NotImplementedError

    @property
    def entry_bytes(self) -> int:
        return 0 if self.direct else self.dtype.itemsize

    @contextmanager
    def opened(self) -> Iterator[Callable[..., RowBlock]]:
        """A context for a pass that yields ``read(i0, i1, buffers, …)``: see `Source.opened`."""

        def read(i0: int, i1: int, buffers: list[Buffer], **_: Any) -> RowBlock:
            numbers, base = self.contiguous(i0, i1, buffers[0])
            return RowBlock(numbers, None, base)

        yield read

    def at(self, entries: Indices) -> NDArray[Any]:
        """The numbers of these entries of A, or of those on the diagonal."""
        raise NotImplementedError

    def any_nonzero(self, visit: Any) -> bool:  # noqa: ARG002  # not needed in memory
        """Whether a number is not zero, however small. If they are not in memory, visit blocks."""
        return bool(np.any(self.values))

    def diagonal(self, scan: Any) -> NDArray[Any]:  # noqa: ARG002  # as above
        """The numbers on A's diagonal, in double precision. If not in memory, they are scanned."""
        entries = self._pattern.diagonal_entries()
        stored = entries >= 0
        diagonal = np.zeros(entries.size, wide(self.dtype))
        diagonal[stored] = self.at(entries[stored])
        return diagonal


class Entries(Aligned):
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
        referenced: Referenced | None = None,
    ) -> None:
        self.referenced = referenced
        readable = values.flags.aligned and values.dtype in compiled
        self.given, self.given_dtype = values, values.dtype
        self.direct = readable and values.flags.c_contiguous
        self.values = frozen(values.reshape(-1) if self.direct else values)
        # The transpose, if the kernels can read it in place.
        self.transposed = (
            frozen(values.T) if readable and values.flags.f_contiguous and not self.direct else None
        )
        self.dtype, self._pattern = kernel_dtype(values.dtype, compiled), pattern

    def check_unchanged(self) -> None:
        if self.referenced is not None:
            self.referenced.check()

    def contiguous(self, i0: int, i1: int, buffer: Buffer) -> tuple[NDArray[Any], int]:
        if self.direct:
            return self.values, self._pattern.base
        base, before = self._pattern.start(i0), self._pattern.base
        if self.values.ndim == 2:
            first = before // max(self._pattern.width, 1)
            block = self.values[i0 - first : i1 - first]
        else:
            base = int(self._pattern.lo[i0])
            block = self.values[base : int(self._pattern.hi[i1 - 1])]
        copy = buffer.acquire(block.size, self.dtype).reshape(block.shape)
        if self.transposed is None:
            np.copyto(copy, block)
        else:
            compiled_kernel("transpose")(self.transposed, i0, copy)
        return frozen(copy.reshape(-1)), base

    def at(self, entries: Indices) -> NDArray[Any]:
        values, entries = self.values, entries - self._pattern.base
        return (
            values[entries] if values.ndim == 1 else values[np.divmod(entries, self._pattern.width)]
        )


class Weights(Aligned):
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

    def contiguous(self, i0: int, i1: int, buffer: Buffer) -> tuple[NDArray[Any], int]:
        if self.direct:
            return self.values, 0
        w, base, end = self.values, int(self._pattern.row(i0)), int(self._pattern.row(i1))
        block = w[base:end]
        if not self._in_order:
            k, width = self._pattern.k, self._pattern.width
            block = np.swapaxes(w.reshape(width, k, *w.shape[1:])[:, i0:i1], 0, 1)
        copy = buffer.acquire(block.size, self.dtype).reshape(block.shape)
        np.copyto(copy, block)
        rows = math.prod(block.shape[: block.ndim - w.ndim + 1])
        return frozen(copy.reshape(rows, *w.shape[1:])), base

    def at_pairs(self, i: NDArray[Any], j: NDArray[Any]) -> NDArray[Any]:
        """The weights of the visited entries, which are at these pairs (i, j)."""
        return self.values[self._pattern.rows_of_entries(i, j)]

    def matrix(self) -> NDArray[Any]:
        """The weights for a dense A as its stored rows, with zeros outside the visited triangle."""
        k, width = self._pattern.k, self._pattern.width
        if not self._in_order:
            return self.values.reshape(width, k).T
        return self._pattern.scattered(self.values).reshape(k, width)

    def at(self, entries: Indices) -> NDArray[Any]:
        pattern, i = self._pattern, self._pattern.rows_of(entries)
        rows = i if pattern.implicit else entries - pattern.lo[i]
        return self.values[pattern.row(i) + rows]


def _single(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.complex64 if dtype.kind == "c" else np.float32)


def wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in which sums of numbers of `dtype` are kept."""
    return np.dtype(np.complex128 if dtype.kind == "c" else np.float64)


def kernel_dtype(
    dtype: np.dtype[Any], compiled: tuple[np.dtype[Any], ...] = COMPILED
) -> np.dtype[Any]:
    """The dtype in which the kernels get numbers of a dtype."""
    native = dtype.newbyteorder("=")
    return native if native in compiled else np.dtype(np.float64)
