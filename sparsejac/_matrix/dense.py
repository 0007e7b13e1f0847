"""Sources of dense rows: files, functions, and objects with rows to slice.

A source is opened for a pass. It checks that it has not changed since the user passed it in. It
then reads blocks of rows. It never maps a file into memory: if the file became shorter, the system
would kill the process, whereas a read raises an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _validation
from .._system.locks import OwnedLock, lock_of
from .._validation import Triangle
from .buffers import Buffer
from .completeness import check_complete
from .indices import ColumnRanges
from .numbers import Numbers
from .pattern import DensePattern
from .source import Part, RowBlock, Source

TOGETHER = 4  # the number of dense rows that the kernels of sums take at a time
_LONG = 2**26  # if so many rows have more bytes, a block may have fewer rows
_SMALL = 2**16  # if a row has more bytes, a part of it may be read alone


# It returns an array of the rows of a part with all k columns. It may use the buffer for it.
Reader = Callable[[Part, Buffer], NDArray[Any]]


class DenseSource(Source):
    """The rows of a matrix, or its columns if it is `transposed`.

    Subclasses define `opened_rows`.
    """

    chunk_rows = 1  # rows that are read together if possible: the rows of a chunk

    def opened_rows(self) -> AbstractContextManager[Reader]:
        """A context for a pass that yields the reader of whole rows."""
        raise NotImplementedError

    @contextmanager
    def opened(self) -> Iterator[Callable[..., RowBlock]]:
        with self.opened_rows() as read:

            def block(
                part: Part, buffers: list[Buffer], *, values: bool = True, **_: Any
            ) -> RowBlock:
                rows = read(part, buffers[0]) if values else None
                return RowBlock(rows, None, part.i0 * self.width)

            yield block

    @property
    def granule(self) -> int:  # type: ignore[override]  # it follows from the others
        """Whole chunks, so that none is read twice, and whole groups of rows that kernels add."""
        step = self.chunk_rows
        if step < TOGETHER and TOGETHER * self.width * self.dtype.itemsize <= _LONG:
            step = math.lcm(step, TOGETHER)
        return max(min(step, self.k), 1)

    @property
    def rows_per_call(self) -> int:
        return self.granule if self.granule % TOGETHER else self.k

    @property
    def min_block_entries(self) -> int:  # type: ignore[override]  # as above
        return self.granule * self.width

    @property
    def max_row_nnz(self) -> int:  # type: ignore[override]  # as above
        return self.width

    @property
    def chunked(self) -> bool:  # type: ignore[override]  # as above
        return self.chunk_rows > 1

    @property
    def read_triangle(self) -> Triangle | None:
        return self.uplo and self.stored_triangle

    def pattern(
        self,
        ranges: ColumnRanges | None,
        *,
        implicit_rows: bool,  # noqa: ARG002  # a dense A stores all entries
    ) -> DensePattern:
        return DensePattern(self.k, ranges, width=self.width)

    def has_structure_of(self, other: Source) -> bool:
        return isinstance(other, DenseSource)

    def row_blocks(
        self, i0: int, i1: int, unit: int, entries: int
    ) -> Iterator[tuple[int, int, int]]:
        width, whole = max(self.width, 1), self.granule if self.chunked else 1
        height = max(unit // width // whole, 1) * whole  # of a unit, which consists of whole chunks
        most = entries // width
        most = height if most >= height else max(most // self.granule, 1) * self.granule
        while i0 < i1:
            number = i0 // height
            begin = number * height
            end = min(begin + ((i0 - begin) // most + 1) * most, begin + height, i1)
            yield number, i0, end
            i0 = end


@dataclass
class FileRows(DenseSource):
    """A matrix in a file. It is `transposed` if the file is in Fortran order."""

    stored: Numbers
    k: int
    transposed: bool = False
    _width: int | None = None

    def __post_init__(self) -> None:
        self.dtype = self.stored.dtype

    @property
    def mutable(self) -> bool:  # type: ignore[override]  # it may change between two passes
        return self.stored.mutable

    @contextmanager
    def opened_rows(self) -> Iterator[Reader]:
        width = self.width
        with self.stored.opened() as numbers:

            def read(part: Part, buffer: Buffer) -> NDArray[Any]:
                i0, i1, c0, c1 = part
                # One read of whole rows is faster than a read for each row, unless the latter
                # leaves out a large part of long rows.
                if (
                    c1 - c0 > width // 2
                    or width * self.dtype.itemsize < _SMALL
                    or not hasattr(numbers, "fill")
                ):
                    return numbers(i0 * width, i1 * width, buffer).reshape(i1 - i0, width)
                block = buffer.acquire((i1 - i0) * width, self.dtype).reshape(i1 - i0, width)
                for i in range(i0, i1):
                    numbers.fill(i * width + c0, block[i - i0, c0:c1])
                return block

            yield read


def _kept(block: NDArray[Any], buffer: Buffer) -> NDArray[Any]:
    """A copy of a block, whose owner may use its memory again for the next one."""
    copy = buffer.acquire(block.size, block.dtype).reshape(block.shape)
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
    sequential = True
    scan_each_pass = True  # that it returns the same numbers each time cannot be checked
    extra = 8  # arrays of the size of a block, for what such a function allocates
    owned_lock: OwnedLock = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.owned_lock = lock_of(self.function)
        with self.owned_lock:
            found = self.function(0, 1)
        # If k is 0, the slice of row 0 is empty.
        first = found if np.shape(found) == (0, 0) else self._checked(0, 1, found)
        self.k, self.dtype = first.shape[1], first.dtype

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, owned_lock=lock_of(state["function"]))

    def _rows(self, i0: int, i1: int, buffer: Buffer) -> NDArray[Any]:
        with self.owned_lock:
            return _kept(self._checked(i0, i1, self.function(i0, i1)), buffer)

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
    def opened_rows(self) -> Iterator[Reader]:
        yield lambda part, buffer: self._rows(part.i0, part.i1, buffer)


@dataclass
class ObjectRows(DenseSource):
    """An object with rows to slice, such as a dataset of h5py or an array of Zarr."""

    matrix: Any
    name: str = "A"
    transposed: bool = False
    owned_lock: OwnedLock = field(init=False, repr=False)
    sequential = mutable = True

    def __post_init__(self) -> None:
        self.owned_lock = lock_of(self.matrix)
        self.k, self._width = (int(size) for size in self.matrix.shape)
        self.dtype = np.dtype(self.matrix.dtype)
        chunks = getattr(self.matrix, "chunks", None)
        self.chunk_rows = int(chunks[0]) if chunks else 1
        self.chunk_rows = min(self.chunk_rows, max(self.k, 1))
        self.extra = 1 if hasattr(self.matrix, "read_direct") else 2
        self._check_chunks()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, owned_lock=lock_of(state["matrix"]))

    def _check_chunks(self) -> None:
        """Refuse missing data, which would be read as the fill value, without an error."""
        _check_open(self.name, self.matrix)
        check_complete(
            self.name,
            self.matrix,
            f"write them, or pass lambda i0, i1: {self.name}[i0:i1] if that is what they are",
        )

    @contextmanager
    def opened_rows(self) -> Iterator[Reader]:
        self._check_chunks()
        if (
            tuple(self.matrix.shape) != (self.k, self.width)
            or np.dtype(self.matrix.dtype) != self.dtype
        ):
            raise ValueError(
                f"{self.name} has become {self.matrix.dtype} of shape {self.matrix.shape} since it "
                "was handed over: hand it over anew"
            )
        yield self._read
        self._check_chunks()  # a chunk may have been removed during the pass

    def _read(self, part: Part, buffer: Buffer) -> NDArray[Any]:
        i0, i1 = part.i0, part.i1
        with self.owned_lock:
            if hasattr(self.matrix, "read_direct"):
                block = buffer.acquire((i1 - i0) * self.width, self.dtype)
                block = block.reshape(i1 - i0, self.width)
                self.matrix.read_direct(block, np.s_[i0:i1, :])
                return block
            return _kept(self._checked(i0, i1, np.asanyarray(self.matrix[i0:i1])), buffer)

    def _checked(self, i0: int, i1: int, found: Any) -> NDArray[Any]:
        block = _validation.array(f"{self.name}[{i0}:{i1}]", found)
        if block.shape != (i1 - i0, self.width) or block.dtype != self.dtype:
            raise ValueError(
                f"{self.name}[{i0}:{i1}] must be {self.dtype} of shape ({i1 - i0}, {self.width}), "
                f"as {self.name} says, got {block.dtype} of shape {block.shape}"
            )
        return block


def _check_open(name: str, A: Any) -> None:
    """Refuse an object of a closed HDF5 file: h5py would raise an obscure error for it."""
    if type(A).__module__.startswith("h5py.") and not A:
        raise ValueError(
            f"{name} is of a file that has been closed: open it again, and hand it over anew"
        )
