"""Sources of CSR rows that are not in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _kernels, _validation
from .._system.forks import computed_once
from .._validation import Uplo
from .buffers import Buffer, converted
from .indices import ColumnRanges, Indices, frozen, searchsorted, triangle
from .numbers import Numbers
from .pattern import CsrPattern
from .source import Part, RowBlock, Source

# The number of column indices that are read at a time outside a pass.
_COLUMNS = 2**20


class StoredColumns:
    """The column indices of a CSR matrix that are not in memory, as `Pattern` reads them."""

    def __init__(self, stored: Numbers, dtype: np.dtype[Any]) -> None:
        self._stored, self.size, self.dtype = stored, stored.size, dtype

    def __getitem__(self, part: slice) -> NDArray[Any]:
        with self._stored.opened() as read:
            return frozen(read(int(part.start), int(part.stop), Buffer()).astype(self.dtype))

    def blocks(self, indptr: Indices) -> Iterator[tuple[int, int, int, Any]]:
        buffer = Buffer()
        with self._stored.opened() as read:
            for i0, i1 in row_blocks(indptr, 0, indptr.size - 1, _COLUMNS):
                base, end = int(indptr[i0]), int(indptr[i1])
                block = read(base, end, buffer).astype(self.dtype, copy=False)
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
    indptr: Any
    index_dtype: np.dtype[Any]
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
        width: int | None = None,
    ) -> None:
        self.name, self.data, self.extra, self._width = name, data, 0, width
        self.sequential, self.uplo = data.sequential or indices.sequential, uplo
        self.dtype, self.k, self.stored_indices = data.dtype, indptr.size - 1, indices
        self.transposed = transposed and (self.k, self.width) not in ((0, 0), (1, 1))
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
        if (  # as they are, because 2**32 is 0 in int32
            not indptr.size
            or indptr[0] != 0
            or indptr[-1] != data.size
            or np.any(indptr[1:] < indptr[:-1])
        ):
            raise _validation.bad_structure(
                name, "csr", f"indptr must rise from 0 to the {data.size} values"
            )
        self.indptr = frozen(np.asarray(indptr, self.index_dtype))
        self.columns = StoredColumns(indices, self.index_dtype)
        self.on_diagonal = np.empty(self.k, self.index_dtype)
        for i0, i1, base, block in self.columns.blocks(self.indptr):
            defect, line = _kernels.csr_defect(self.indptr, block, base, i0, i1, self.width)
            if defect == 2:
                raise _validation.bad_structure(
                    name, "csr", f"row {line} has an index outside 0 … {self.width - 1}"
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

    @computed_once
    def max_row_nnz(self) -> int:
        return int(np.max(np.diff(self.indptr), initial=1))

    @property
    def min_block_entries(self) -> int:  # type: ignore[override]  # it follows from the others
        return self.max_row_nnz

    def pattern(self, ranges: ColumnRanges | None, *, implicit_rows: bool) -> CsrPattern:
        return CsrPattern(
            self.indptr,
            self.columns,
            ranges,
            implicit_rows=implicit_rows,
            on_diagonal=self.on_diagonal,
            width=self.width,
            referenced=self.referenced,
        )

    def has_structure_of(self, other: Source) -> bool:  # noqa: ARG002  # to know it takes a pass
        return False

    def row_blocks(
        self, i0: int, i1: int, unit: int, entries: int
    ) -> Iterator[tuple[int, int, int]]:
        for number, (u0, u1) in enumerate(row_blocks(self.indptr, i0, i1, unit)):
            for b0, b1 in row_blocks(self.indptr, u0, u1, entries):
                yield number, b0, b1

    def check_sides(self) -> None:
        """Compare sums of random numbers, one for each column, modulo 2⁶⁴. It reads the indices."""
        weights = np.random.default_rng(0).integers(2**64, size=self.k, dtype=np.uint64)
        sums = np.zeros(self.k, np.uint64)
        for i0, i1, base, columns in self._column_blocks():
            ends = self.indptr[i0 : i1 + 1] - base
            rows = np.repeat(np.arange(i0, i1), np.diff(ends))
            right, left = columns > rows, columns < rows
            np.add.at(sums, rows[right], weights[columns[right]])
            np.subtract.at(sums, columns[left], weights[rows[left]])
        if sums.any():
            raise _validation.one_sided(self.name, int(np.argmax(sums != 0)))

    def _column_blocks(self) -> Iterator[tuple[int, int, int, Any]]:
        """Yield ``(i0, i1, base, columns)``."""
        yield from self.columns.blocks(self.indptr)

    def check_outside(self) -> None:
        if self.uplo is not None:
            held = triangle(self.k, self.stored_triangle)
            outside = self.count_outside(held)
            if outside:
                raise _validation.outside_triangle(self.uplo, outside)

    def count_outside(self, ranges: ColumnRanges) -> int:
        """How many entries are outside column ranges. In memory, only nonzero entries count."""
        return self.data.size - self.pattern(ranges, implicit_rows=False).entries

    @contextmanager
    def opened(self) -> Iterator[Callable[..., RowBlock]]:
        indptr, dtype = self.indptr, self.index_dtype
        with ExitStack() as stack:
            read = stack.enter_context(self.data.opened())
            read_columns = stack.enter_context(self.stored_indices.opened())

            def block_of(
                part: Part, buffers: list[Buffer], *, values: bool = True, **_: Any
            ) -> RowBlock:
                base, end = int(indptr[part.i0]), int(indptr[part.i1])
                columns = converted(read_columns(base, end, buffers[2]), dtype, buffers[3])
                if self.stored_indices.mutable:
                    # With wrong columns a kernel would write beyond its arrays.
                    defect, line = _kernels.csr_defect(
                        indptr, frozen(columns), base, part.i0, part.i1, self.width
                    )
                    if defect:
                        raise _validation.changed_columns(self.name, int(line))
                data = read(base, end, buffers[0]) if values else None
                return RowBlock(data, frozen(columns), base)

            yield block_of
