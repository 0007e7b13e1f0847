"""What a reduction over several columns of variables takes and adds up."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._kernels import FEW, TILE
from .._matrix.indices import frozen
from .._matrix.variables import Variables
from .protocol import Reduction, in_cache_lines


class LargestOf(Reduction):
    """Z, of shape (count, r), from which a reduction finds two numbers for each row of it."""

    several, interleaved, inputs = True, False, 2

    def __init__(self, of: Variables, width: int, *Z: NDArray[Any]) -> None:
        """Z is its exponents and its numbers if they are of any size."""
        self._places, self._Z = (width, of.row_offset, of.column_offset), tuple(map(frozen, Z))
        self.shape, self.dtype = (of.count, 2), np.dtype(np.float64)

    def part(self) -> NDArray[Any]:
        return np.zeros(self.shape)

    def arguments(self, args: tuple[Any, ...], out: NDArray[Any]) -> tuple[Any, ...]:
        return (*args, *self._places, *self._Z, out)

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
        self._own = next((own for own in (*FEW, 8) if own >= self.rank), -(-self.rank // 4) * 4)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Arrays that a network has delivered may lie at any address."""
        self.__dict__.update(state)
        self._arrays = [frozen(np.require(each, requirements=["C", "A"])) for each in self._arrays]

    def kernel(self, name: str) -> str:
        return f"{name}_{self._own}" if self.interleaved and self._own in FEW else name

    @property
    def numbers(self) -> int:
        return self.shape[0] * self._row_length if self.interleaved else self.shape[0] * self.rank

    @property
    def _row_length(self) -> int:
        """The numbers in a row of what is interleaved. If they are few, it fills cache lines."""
        numbers = (len(self._arrays) + 1) * self._own
        return 1 << (numbers - 1).bit_length() if self._own in FEW else numbers

    def part(self) -> NDArray[Any]:
        if not self.interleaved:
            return np.zeros(self.shape[::-1], self.dtype)
        out = in_cache_lines(self.shape[0], self._row_length, self.dtype)
        count, own = self._of.count, self._own
        for number, given in enumerate(self._arrays):
            begin = number * own
            out[:count, begin : begin + self.rank] = given
            out[:count, begin + self.rank : begin + own] = 0
        out[:count, len(self._arrays) * own :] = 0
        out[count:] = 0
        return out

    def arguments(self, args: tuple[Any, ...], out: NDArray[Any]) -> tuple[Any, ...]:
        if self.interleaved:
            return (*args, *self._places, out)
        room, total = np.empty(17 * TILE, self.dtype), np.empty((4, self.rank), self.dtype)
        return (*args, *self._places, *self._arrays, room, total, out)

    def sums(self, out: NDArray[Any]) -> NDArray[Any]:
        begin = len(self._arrays) * self._own
        return out[:, begin : begin + self.rank] if self.interleaved else out.T
