"""Sources of CSR rows, in memory or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _kernels, _validation
from .._system.forks import computed_once
from .._validation import Uplo
from .buffers import Room
from .numbers import MemoryNumbers, Numbers
from .pattern import Indices, Pattern, frozen, searchsorted
from .source import Source

# The number of column indices that are read at a time outside a pass.
_COLUMNS = 2**20


class StoredColumns:
    """The column indices of a CSR matrix that are not in memory, as `Pattern` reads them."""

    def __init__(self, stored: Numbers, dtype: np.dtype[Any]) -> None:
        self._stored, self.size, self.dtype = stored, stored.size, dtype

    def __getitem__(self, part: slice) -> NDArray[Any]:
        with self._stored.opened() as read:
            return frozen(read(int(part.start), int(part.stop), Room()).astype(self.dtype))

    def blocks(self, indptr: Indices) -> Iterator[tuple[int, int, int, Any]]:
        room = Room()
        with self._stored.opened() as read:
            for i0, i1 in row_blocks(indptr, 0, indptr.size - 1, _COLUMNS):
                base, end = int(indptr[i0]), int(indptr[i1])
                block = read(base, end, room).astype(self.dtype, copy=False)
                yield i0, i1, base, frozen(block)


def row_blocks(indptr: Indices, i0: int, i1: int, entries: int) -> Iterator[tuple[int, int]]:
    """Blocks of consecutive rows that have at most so many entries together.

    A row that has more entries is a block by itself.
    """
    while i0 < i1:
        end = int(indptr[i0]) + entries
        stop = searchsorted(indptr, end, side="right") - 1
        stop = min(max(stop, i0 + 1), i1)
        yield i0, stop
        i0 = stop


class CsrSource(Source):
    """A CSR matrix, or the transpose of a CSC matrix, whose arrays are not all in memory."""

    granule = 1
    columns: Any  # the column indices, as an array or `StoredColumns`
    on_diagonal: Any  # the entry of each row that is on the diagonal, or -1; None if not known

    def __init__(
        self,
        data: Numbers,
        indices: Numbers,
        indptr: Any,
        *,
        name: str = "A",
        transposed: bool = False,
        uplo: Uplo | None = None,
    ) -> None:
        self.name, self.data, self.extra = name, data, 0
        self.serial, self.uplo = data.serial or indices.serial, uplo
        self.dtype, self.k, self.stored_indices = data.dtype, indptr.size - 1, indices
        self.transposed = transposed and self.k > 1
        if (
            indices.dtype.kind not in "iu"
            or indptr.dtype.kind not in "iu"
            or indices.size != data.size
        ):
            raise _validation.bad_structure(
                name,
                "csr",
                f"{indices.size} indices ({indices.dtype}) for {data.size} values, "
                f"indptr of {indptr.dtype}",
            )
        is_short = indices.dtype.itemsize < 8 and data.size < 2**31
        self.index_dtype = np.dtype(np.int32 if is_short else np.int64)
        self.indptr: Any = frozen(np.asarray(indptr, self.index_dtype))
        if (
            self.indptr[0] != 0
            or self.indptr[-1] != data.size
            or np.any(self.indptr[1:] < self.indptr[:-1])
        ):
            raise _validation.bad_structure(
                name, "csr", f"indptr must rise from 0 to the {data.size} values"
            )
        self.longest = int(np.max(np.diff(self.indptr), initial=1))  # entries of the longest row
        self.columns = StoredColumns(indices, self.index_dtype)
        self.on_diagonal = np.empty(self.k, self.index_dtype)
        for i0, i1, base, block in self.columns.blocks(self.indptr):
            defect, line = _kernels.csr_defect(self.indptr, block, base, i0, i1, self.k)
            if defect == 2:
                raise _validation.bad_structure(
                    name, "csr", f"row {line} has an index outside 0 … {self.k - 1}"
                )
            if defect:
                raise _validation.unsorted(name, line)
            _kernels.csr_diagonals(self.indptr, block, base, i0, i1, None, self.on_diagonal)

    @property
    def mutable(self) -> bool:  # type: ignore[override]  # it may change between two passes
        return self.data.mutable

    def entry_bytes(self, dtype: np.dtype[Any]) -> int:
        stored, ours = self.stored_indices.dtype, self.index_dtype
        indices = stored.itemsize + (ours.itemsize if stored != ours else 0)
        return super().entry_bytes(dtype) + indices

    def count_outside(self, part: Pattern) -> int:
        """How many entries are outside a part. In memory, only nonzero entries count."""
        return self.data.size - part.entries

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """A context for a pass that yields the reader of the values, and that of the columns."""
        with ExitStack() as stack:
            yield (
                stack.enter_context(self.data.opened()),
                stack.enter_context(self.stored_indices.opened()),
            )


class CsrMemory(CsrSource):
    """A CSR matrix in memory, in canonical format. Its blocks are views."""

    zero_copy = True

    def __init__(
        self,
        values: NDArray[Any],
        indices: Indices,
        indptr: Indices,
        *,
        name: str = "A",
        transposed: bool = False,
    ) -> None:
        self.name, self.values = name, values
        self.columns, self.indptr = frozen(indices), frozen(indptr)
        self.data, self.stored_indices = MemoryNumbers(values), MemoryNumbers(self.columns)
        self.dtype, self.k, self.index_dtype = values.dtype, indptr.size - 1, indptr.dtype
        self.transposed = transposed and self.k > 1
        self.on_diagonal = None

    @computed_once
    def longest(self) -> int:
        """The number of entries of the longest row, at least 1."""
        return int(np.max(np.diff(self.indptr), initial=1))

    @property
    def arrays(self) -> tuple[NDArray[Any], Indices, Indices]:
        """The values, indices and indptr."""
        return self.values, self.columns, self.indptr

    def without(self, entries: NDArray[Any]) -> CsrMemory:
        """A copy with zeros at these entries. It shares the structure."""
        result = copy(self)
        result.values = self.values.copy()
        result.values[entries] = 0
        result.data = MemoryNumbers(result.values)
        return result

    def readable(self) -> CsrMemory:
        """The matrix itself: see `DenseMemory.readable`."""
        return self

    def count_outside(self, part: Pattern) -> int:
        if part.entries == self.values.size:
            return 0
        rows = zip(part.lo, part.hi, strict=True)
        inside = sum(np.count_nonzero(self.values[lo:hi]) for lo, hi in rows)
        return int(np.count_nonzero(self.values) - inside)
