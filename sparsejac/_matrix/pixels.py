"""The pixels of a contact map as a source of rows, which are read from its file in each pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .buffers import Buffer
from .contact_map import reading, row_ranges
from .csr import CsrSource
from .map_files import is_map, split
from .numbers import changed, identity
from .pixel_order import rows_of, sorting, summed

__all__ = ["is_map", "source"]

# Bytes of HDF5's cache. A block may end inside a chunk, and the next block then begins in it.
_CACHE = 2**21


@dataclass(frozen=True, eq=False)
class _Column:
    """A column of pixels that is read in parts."""

    name: str
    uri: str
    column: str
    dtype: np.dtype[Any]
    size: int
    identity: tuple[int, int, int, int]
    strict: bool = False
    sequential = True
    mutable = False

    @contextmanager
    def opened(self) -> Iterator[Callable[[int, int, Buffer], NDArray[Any]]]:
        path = split(self.uri)[0]
        if identity(Path(path).stat()) != self.identity:
            raise changed(self.name, path)
        with reading(self.uri, cache=_CACHE) as map_:
            column = map_.counts() if self.column == "count" else map_.ids(self.column)
            if column.dtype != self.dtype or column.size != self.size:
                raise changed(self.name, path)

            def read(start: int, stop: int, buffer: Buffer) -> NDArray[Any]:
                out = buffer.acquire(stop - start, self.dtype)
                if out.size:
                    map_.read(column, out, start)
                    if self.strict:
                        map_.check_counts(out, start)
                return out

            yield read
        if identity(Path(path).stat()) != self.identity:  # during the pass
            raise changed(self.name, path)


@dataclass(frozen=True, eq=False)
class _Sorted:
    """A column of pixels that do not ascend within their rows.

    Older versions of cooler wrote such pixels. Each block is sorted when it is read. Pixels that
    are stored more than once are summed. `before` holds the offsets of the rows in the file, and
    `now` those in the sorted column.
    """

    column: _Column
    columns: _Column
    before: NDArray[np.int64]
    now: NDArray[np.int64]
    sequential = True
    mutable = False

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.column.dtype

    @property
    def size(self) -> int:
        return int(self.now[-1])

    @contextmanager
    def opened(self) -> Iterator[Callable[[int, int, Buffer], NDArray[Any]]]:
        with ExitStack() as stack:
            read_columns = stack.enter_context(self.columns.opened())
            counts = (
                None if self.column is self.columns else stack.enter_context(self.column.opened())
            )
            buffers = Buffer(), Buffer()

            def read(start: int, stop: int, buffer: Buffer) -> NDArray[Any]:
                out = buffer.acquire(stop - start, self.dtype)
                if out.size:
                    i0 = int(np.searchsorted(self.now, start, side="right")) - 1
                    i1 = int(np.searchsorted(self.now, stop, side="left"))
                    begin, end = int(self.before[i0]), int(self.before[i1])
                    columns = read_columns(begin, end, buffers[0])
                    order, first = sorting(rows_of(self.before, begin, end), columns)
                    if counts is None:
                        found = columns[order][first]
                    else:
                        found = summed(
                            self.column.uri, counts(begin, end, buffers[1])[order], first
                        )
                    out[:] = found[start - int(self.now[i0]) :][: out.size]
                return out

            yield read


def source(name: str, uri: str, *, strict: bool = False) -> CsrSource:
    """Make a source of rows from the pixels. This reads two columns, to scan the structure."""
    with reading(uri) as map_:
        status = identity(Path(split(uri)[0]).stat())
        ids, counts = map_.ids("bin2_id"), map_.counts()
        indices = _Column(name, uri, "bin2_id", ids.dtype, map_.nnz, status)
        data = _Column(name, uri, "count", counts.dtype, map_.nnz, status, strict)
        indptr = map_.row_offsets()
        ascending = [ascends for _, _, ascends in map_.placed_pieces()]
        if all(ascending):
            return CsrSource(data, indices, indptr, name=name, uplo="U")
    now = np.zeros_like(indptr)
    with indices.opened() as read:
        buffer = Buffer()
        for i0, i1 in row_ranges(indptr):
            rows = rows_of(indptr, int(indptr[i0]), int(indptr[i1]))
            order, first = sorting(rows, read(int(indptr[i0]), int(indptr[i1]), buffer))
            now[i0 + 1 : i1 + 1] = now[i0] + np.searchsorted(
                rows[order][first], np.arange(i0, i1), side="right"
            )
    columns_in_order, counts_in_order = (
        _Sorted(column, indices, indptr, now) for column in (indices, data)
    )
    result = CsrSource(counts_in_order, columns_in_order, now, name=name, uplo="U")
    result.extra = 6  # how many numbers sorting takes for each pixel: rows, columns, their order
    return result
