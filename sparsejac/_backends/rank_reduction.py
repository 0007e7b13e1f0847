"""What a reduction over several columns of variables takes and adds up."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._kernels import RANKS, TILE
from .._matrix.indices import frozen
from .._matrix.variables import Variables
from .protocol import Reduction, in_cache_lines

_LANES = 4  # if r is not fixed, a kernel treats so many numbers together


class LargestOf(Reduction):
    """Z, of shape (count, r), from which a reduction finds two numbers for each row of it."""

    several, interleaved, inputs = True, False, 2

    def __init__(self, of: Variables, width: int, Z: NDArray[Any]) -> None:
        self._places, self._Z = (width, of.row_offset, of.column_offset), frozen(Z)
        self.shape, self.dtype = (of.count, 2), np.dtype(np.float64)

    def part(self) -> NDArray[Any]:
        return np.zeros(self.shape)

    def arguments(self, args: tuple[Any, ...], out: NDArray[Any]) -> tuple[Any, ...]:
        return (*args, *self._places, self._Z, out)

    def sums(self, out: NDArray[Any]) -> NDArray[Any]:
        return out

    @property
    def numbers(self) -> int:
        return 2 * self.shape[0]


class RankReduction(Reduction):
    """Z, of shape (count, r), and V, from which a reduction adds up as many sums.

    With `scalar` there is a row more, which begins with the scalar. For sparse rows the kernel is
    given Z, V and the sums interleaved. For dense rows they are transposed.
    """

    several = True

    def __init__(
        self,
        of: Variables,
        width: int,
        Z: NDArray[Any],
        V: NDArray[Any] | None = None,
        *,
        scalar: bool = False,
        interleaved: bool,
    ) -> None:
        given = [each if interleaved else each.T for each in (Z, V) if each is not None]
        self._arrays = [frozen(np.ascontiguousarray(each)) for each in given]
        self._of, self.rank, self.dtype = of, Z.shape[1], Z.dtype
        self.inputs, self.interleaved = len(self._arrays) * self.rank, interleaved
        self.shape = (of.count + scalar, self.rank)
        self._places = width, of.row_offset, of.column_offset
        self._fixed = self.rank in RANKS
        self._length = self.rank if self._fixed else -(-self.rank // _LANES) * _LANES

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Arrays that a network has delivered may lie at any address."""
        self.__dict__.update(state)
        self._arrays = [frozen(np.require(each, requirements=["C", "A"])) for each in self._arrays]

    def kernel(self, name: str) -> str:
        return f"{name}_{self.rank}" if self.interleaved and self._fixed else name

    @property
    def numbers(self) -> int:
        return self.shape[0] * self._row_length if self.interleaved else self.shape[0] * self.rank

    @property
    def _row_length(self) -> int:
        """The numbers in a row of what is interleaved. If they are few, it fills cache lines."""
        numbers = (len(self._arrays) + 1) * self._length
        if not self._fixed:
            return numbers
        return -(-numbers // 8) * 8 if numbers > 8 else 1 << (numbers - 1).bit_length()

    def part(self) -> NDArray[Any]:
        if not self.interleaved:
            return np.zeros(self.shape[::-1], self.dtype)
        out = in_cache_lines(self.shape[0], self._row_length, self.dtype)
        out[:] = 0
        for number, given in enumerate(self._arrays):
            begin = number * self._length
            out[: self._of.count, begin : begin + self.rank] = given
        return out

    def arguments(self, args: tuple[Any, ...], out: NDArray[Any]) -> tuple[Any, ...]:
        if self.interleaved:
            return (*args, *self._places, out)
        room, total = np.empty(16 * TILE, self.dtype), np.empty((4, self.rank), self.dtype)
        return (*args, *self._places, *self._arrays, room, total, out)

    def sums(self, out: NDArray[Any]) -> NDArray[Any]:
        begin = len(self._arrays) * self._length
        return out[:, begin : begin + self.rank] if self.interleaved else out.T
