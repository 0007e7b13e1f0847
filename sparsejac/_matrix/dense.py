"""Sources of dense rows: files, functions, and objects with rows to slice.

A source is opened for a pass. It checks that it has not changed since the user passed it in. It
then reads blocks of rows. It never maps a file into memory: if the file became shorter, the system
would kill the process, whereas a read raises an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _validation
from .._system.locks import Turn, turn_of
from .buffers import Room
from .completeness import check_complete
from .numbers import Numbers
from .source import Source

TOGETHER = 4  # the number of dense rows that the kernels of sums take at a time
_LONG = 2**26  # if so many rows have more bytes, a block may have fewer rows
_SMALL = 2**16  # if a row has more bytes, a part of it may be read alone


class Part(NamedTuple):
    """A part of a dense matrix to read: rows i0 ≤ i < i1, and at least columns c0 ≤ j < c1."""

    i0: int
    i1: int
    c0: int
    c1: int


# It returns an array of these rows with all k columns. It may use the buffer for it.
Reader = Callable[[Part, Room], NDArray[Any]]


class DenseSource(Source):
    """The rows of a square matrix, or its columns if it is `transposed`."""

    step = 1  # rows that are read together if possible: the rows of a chunk

    @property
    def granule(self) -> int:  # type: ignore[override]  # it follows from the others
        """Whole chunks, so that none is read twice, and whole groups of rows that kernels add."""
        step = self.step
        if step < TOGETHER and TOGETHER * self.k * self.dtype.itemsize <= _LONG:
            step = math.lcm(step, TOGETHER)
        return max(min(step, self.k), 1)

    @property
    def longest(self) -> int:  # type: ignore[override]  # as above
        return self.granule * self.k

    @property
    def chunked(self) -> bool:  # type: ignore[override]  # as above
        return self.step > 1


class DenseMemory(DenseSource):
    """A dense matrix in memory. Its blocks are views."""

    zero_copy = mutable = True

    def __init__(self, values: NDArray[Any], *, transposed: bool = False) -> None:
        self.values, self.k, self.dtype = values, len(values), values.dtype
        self.transposed = transposed and self.k > 1

    @contextmanager
    def opened(self) -> Iterator[Reader]:
        yield lambda part, _: self.values[part.i0 : part.i1]

    @property
    def arrays(self) -> tuple[NDArray[Any], None, None]:
        """The values. `CsrMemory.arrays` has indices and indptr too."""
        return self.values, None, None

    def without(self, entries: NDArray[Any]) -> DenseMemory:
        """A copy with zeros at these entries."""
        result = copy(self)
        result.values = self.values.copy()
        result.values.reshape(-1)[entries] = 0
        return result

    def readable(self) -> DenseMemory:
        """The same symmetric matrix, along the axis in which its numbers are contiguous."""
        return DenseMemory(self.values.T) if self.values.flags.f_contiguous else self


@dataclass
class FileRows(DenseSource):
    """A matrix in a file. It is `transposed` if the file is in Fortran order."""

    stored: Numbers
    k: int
    transposed: bool = False

    def __post_init__(self) -> None:
        self.dtype = self.stored.dtype

    @property
    def mutable(self) -> bool:  # type: ignore[override]  # it may change between two passes
        return self.stored.mutable

    @contextmanager
    def opened(self) -> Iterator[Reader]:
        k = self.k
        with self.stored.opened() as numbers:

            def read(part: Part, room: Room) -> NDArray[Any]:
                i0, i1, c0, c1 = part
                # One read of whole rows is faster than a read for each row, unless the latter
                # leaves out a large part of long rows.
                if (
                    c1 - c0 > k // 2
                    or k * self.dtype.itemsize < _SMALL
                    or not hasattr(numbers, "fill")
                ):
                    return numbers(i0 * k, i1 * k, room).reshape(i1 - i0, k)
                block = room.take((i1 - i0) * k, self.dtype).reshape(i1 - i0, k)
                for i in range(i0, i1):
                    numbers.fill(i * k + c0, block[i - i0, c0:c1])
                return block

            yield read


def _kept(block: NDArray[Any], room: Room) -> NDArray[Any]:
    """A copy of a block, whose owner may use its memory again for the next one."""
    copy = room.take(block.size, block.dtype).reshape(block.shape)
    np.copyto(copy, block)
    return copy


@dataclass
class FunctionRows(DenseSource):
    """``rows(start, stop)`` of a function, called for one block after the other, in order.

    It is never called twice at the same time, even by several builders. So it may use the memory of
    its result again.
    """

    function: Callable[[int, int], Any]
    name: str = "A"
    serial = True
    scan_each_pass = True  # that it returns the same numbers each time cannot be checked
    extra = 8  # arrays of the size of a block, for what such a function allocates
    turn: Turn = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.turn = turn_of(self.function)
        with self.turn:
            found = self.function(0, 1)
        # If k is 0, the slice of row 0 is empty.
        first = found if np.shape(found) == (0, 0) else self._checked(0, 1, found)
        self.k, self.dtype = first.shape[1], first.dtype

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, turn=turn_of(state["function"]))

    def _rows(self, i0: int, i1: int, room: Room) -> NDArray[Any]:
        with self.turn:
            return _kept(self._checked(i0, i1, self.function(i0, i1)), room)

    def _checked(self, i0: int, i1: int, found: Any) -> NDArray[Any]:
        block = _validation.array(f"what {self.name} returned for rows({i0}, {i1})", found)
        k = getattr(self, "k", None)
        if block.ndim != 2 or block.shape != (i1 - i0, k or block.shape[1]):
            raise ValueError(
                f"{self.name} must return rows {i0} to {i1 - 1} as an array of shape "
                f"({i1 - i0}, {k or 'k'}), got shape {block.shape}"
            )
        if k is not None and block.dtype != self.dtype:
            raise TypeError(
                f"{self.name} must return {self.dtype} for rows({i0}, {i1}), as it did for "
                f"rows(0, 1), got {block.dtype}"
            )
        return block

    @contextmanager
    def opened(self) -> Iterator[Reader]:
        yield lambda part, room: self._rows(part.i0, part.i1, room)


@dataclass
class ObjectRows(DenseSource):
    """An object with rows to slice, such as a dataset of h5py or an array of Zarr."""

    matrix: Any
    name: str = "A"
    transposed: bool = False
    turn: Turn = field(init=False, repr=False)
    serial = mutable = True

    def __post_init__(self) -> None:
        self.turn = turn_of(self.matrix)
        self.k, self.dtype = int(self.matrix.shape[0]), np.dtype(self.matrix.dtype)
        chunks = getattr(self.matrix, "chunks", None)
        self.step = int(chunks[0]) if chunks else 1
        self.step = min(self.step, max(self.k, 1))
        self.extra = 1 if hasattr(self.matrix, "read_direct") else 2
        self._check_chunks()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, turn=turn_of(state["matrix"]))

    def _check_chunks(self) -> None:
        """Refuse missing data, which would be read as the fill value, without an error."""
        _check_open(self.name, self.matrix)
        check_complete(
            self.name,
            self.matrix,
            f"write them, or pass lambda i0, i1: {self.name}[i0:i1] if that is what they are",
        )

    @contextmanager
    def opened(self) -> Iterator[Reader]:
        self._check_chunks()
        if (
            tuple(self.matrix.shape) != (self.k, self.k)
            or np.dtype(self.matrix.dtype) != self.dtype
        ):
            raise ValueError(
                f"{self.name} has become {self.matrix.dtype} of shape {self.matrix.shape} since it "
                "was handed over: hand it over anew"
            )
        yield self._read
        self._check_chunks()  # a chunk may have been removed during the pass

    def _read(self, part: Part, room: Room) -> NDArray[Any]:
        i0, i1 = part.i0, part.i1
        with self.turn:
            if hasattr(self.matrix, "read_direct"):
                block = room.take((i1 - i0) * self.k, self.dtype).reshape(i1 - i0, self.k)
                self.matrix.read_direct(block, np.s_[i0:i1, :])
                return block
            return _kept(self._checked(i0, i1, np.asanyarray(self.matrix[i0:i1])), room)

    def _checked(self, i0: int, i1: int, found: Any) -> NDArray[Any]:
        block = _validation.array(f"{self.name}[{i0}:{i1}]", found)
        if block.shape != (i1 - i0, self.k) or block.dtype != self.dtype:
            raise ValueError(
                f"{self.name}[{i0}:{i1}] must be {self.dtype} of shape ({i1 - i0}, {self.k}), as "
                f"{self.name} says, got {block.dtype} of shape {block.shape}"
            )
        return block


def _check_open(name: str, A: Any) -> None:
    """Refuse an object of a closed HDF5 file: h5py would raise an obscure error for it."""
    if type(A).__module__.startswith("h5py.") and not A:
        raise ValueError(
            f"{name} is of a file that has been closed: open it again, and hand it over anew"
        )
