"""Sources of CSR rows, whose arrays are not all in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _kernels, _validation
from .buffers import Room
from .dense import DenseSource
from .numbers import Numbers
from .pattern import Indices

# columns of a sparse matrix that are looked at at a time, where no pass is under way
_COLUMNS = 2**20


# --- CSR rows -------------------------------------------------------------------------------------------------------


class StoredColumns:
    """The column indices of a CSR matrix that are not in memory, as far as `Pattern` asks for them."""

    def __init__(self, stored: Numbers, dtype: np.dtype[Any]) -> None:
        self._stored, self.size, self.dtype = stored, stored.size, dtype

    def __getitem__(self, part: slice) -> NDArray[Any]:
        with self._stored.opened() as read:
            return read(int(part.start), int(part.stop), Room()).astype(self.dtype)

    def blocks(self, indptr: Indices) -> Iterator[tuple[int, int, int, Any]]:
        room = Room()
        with self._stored.opened() as read:
            for i0, i1 in row_blocks(indptr, 0, indptr.size - 1, _COLUMNS):
                base, end = int(indptr[i0]), int(indptr[i1])
                yield i0, i1, base, read(base, end, room).astype(self.dtype, copy=False)


def row_blocks(indptr: Indices, i0: int, i1: int, entries: int) -> Iterator[tuple[int, int]]:
    """Consecutive rows of so many entries together, or one row of more."""
    while i0 < i1:
        end = int(indptr[i0]) + entries
        stop = (
            int(
                np.searchsorted(
                    indptr, indptr.dtype.type(min(end, np.iinfo(indptr.dtype).max)), side="right"
                )
            )
            - 1
        )
        stop = min(max(stop, i0 + 1), i1)
        yield i0, stop
        i0 = stop


class CsrSource:
    """A CSR matrix, or the transposed of a CSC one, whose arrays are not all in memory."""

    def __init__(
        self,
        data: Numbers,
        indices: Numbers,
        indptr: Any,
        *,
        name: str = "A",
        transposed: bool = False,
        half: bool = False,
    ) -> None:
        self.name, self.data, self.extra = name, data, 0
        self.serial, self.half = data.serial or indices.serial, half
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
                f"{indices.size} indices ({indices.dtype}) for {data.size} values, indptr of {indptr.dtype}",
            )
        self.index_dtype = (
            np.dtype(np.int32)
            if indices.dtype.itemsize < 8 and data.size < 2**31
            else np.dtype(np.int64)
        )
        self.indptr: Any = np.asarray(indptr, self.index_dtype)
        if (
            self.indptr[0] != 0
            or self.indptr[-1] != data.size
            or np.any(self.indptr[1:] < self.indptr[:-1])
        ):
            raise _validation.bad_structure(
                name, "csr", f"indptr must rise from 0 to the {data.size} values"
            )
        self.longest = int(np.max(np.diff(self.indptr), initial=1))  # row
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
    def mutable(self) -> bool:
        """As for `DenseSource`."""
        return self.data.mutable

    scan_each_pass = mutable

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """For a pass: the reader of the values, and that of the columns."""
        with ExitStack() as stack:
            yield (
                stack.enter_context(self.data.opened()),
                stack.enter_context(self.stored_indices.opened()),
            )


Source = DenseSource | CsrSource
