"""Finds, checks and reads the tables of a ``.cool`` file, whole or in parts.

The pixels are a sparse upper triangle, sorted by rows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from .. import _validation
from .._system.signals import unless_signalled
from .completeness import check_complete
from .indices import index_dtype
from .map_files import maps_in, opened, unreadable
from .pixel_order import rows_of, sorting, summed

_PIECE = 2**17  # pixels that are read at a time, if they are not stored in larger chunks
_LISTED = 10  # how many maps of a file a message lists


# --- one map of a file ----------------------------------------------------------------------------


class Map:
    """A map in an open file. Each error names the file and the column."""

    def __init__(self, uri: str, file: Any, group: str) -> None:
        self.uri, self._file = uri, file
        self.group: Any = None
        with self.naming_errors("the group"):
            self.group = file.get(group)
            if self.group is None or not hasattr(self.group, "keys"):
                raise self._no_map(f"it has no group {group!r}")
            missing = [
                name for name in ("chroms", "bins", "pixels", "indexes") if name not in self.group
            ]
            if missing:
                raise self._no_map(f"it has no table {missing[0]!r}")
            mode = self.group.attrs.get("storage-mode", "symmetric-upper")
        mode = mode.decode(errors="replace") if isinstance(mode, bytes) else mode
        if not isinstance(mode, str) or mode != "symmetric-upper":  # it may be an array
            words = " ".join(repr(mode).split())[:80]
            raise ValueError(
                f"{uri} is not stored as the upper triangle of a symmetric matrix, but as "
                f"{words}: make it with symmetric_upper=True"
            )
        self.k = self._column("bins/start").size
        self.nnz = self._column("pixels/bin2_id").size

    def _no_map(self, reason: str) -> ValueError:
        maps = maps_in(self._file)
        path = self._file.filename
        path = path.decode(errors="replace") if isinstance(path, bytes) else path
        listed = ", ".join(f"{path}::{name}" for name in maps[:_LISTED]) + ", …" * (
            len(maps) > _LISTED
        )
        own = getattr(self.group, "name", None)  # it is a map if it only lacks a column
        hint = f": pass one of its {len(maps)} maps, {listed}" if maps and own not in maps else ""
        return ValueError(f"{self.uri} is not a contact map, as {reason}{hint}")

    @contextmanager
    def naming_errors(self, what: str) -> Iterator[None]:
        """Make errors of h5py name the file and what was read. They may be of any class."""
        try:
            yield
        except unless_signalled(MemoryError) as error:
            if str(error).startswith(self.uri):
                raise
            words = str(error) or "there is not enough memory"
            raise MemoryError(f"{self.uri} cannot be read, {what}: {words}") from None
        except unless_signalled(Exception) as error:
            if isinstance(error, ValueError) and str(error).startswith(self.uri):
                raise
            raise unreadable(self.uri, what, error) from None

    def _wrong(self, name: str, reason: str) -> ValueError:
        return ValueError(
            f"{self.uri} is damaged: its column {name} {reason}; make the map anew, for instance "
            "with cooler"
        )

    def _column(self, name: str, kinds: str = "iu", size: int | None = None) -> Any:
        """Return a column after checking its kind of numbers, its size, and that it is complete."""
        with self.naming_errors(f"column {name}"):
            column = self.group.get(name)
            if column is None:
                raise self._no_map(f"it has no column {name!r}")
            shape, dtype = getattr(column, "shape", None), getattr(column, "dtype", None)
            if shape is None or dtype is None or len(shape) != 1:
                raise self._wrong(name, "is not a column, but a table or an array of another shape")
            if dtype.kind not in kinds:
                raise self._wrong(
                    name,
                    f"has {dtype} where {'integers' if kinds == 'iu' else 'numbers'} are needed",
                )
            if size is not None and column.size != size:
                raise self._wrong(name, f"has {column.size} values where {size} are needed")
            check_complete(
                f"{self.uri} is damaged: its column {name}",
                column,
                "make the map anew, for instance with cooler",
            )
        return column

    def whole(self, name: str, kinds: str = "iu", size: int | None = None) -> NDArray[Any]:
        column = self._column(name, kinds, size)
        _validation.fits(
            f"column {name} of {self.uri}",
            column.size * column.dtype.itemsize,
            "take a smaller map",
        )
        with self.naming_errors(f"column {name}"):
            return column[:]

    def counts(self) -> Any:
        column = self._column("pixels/count", "biuf", self.nnz)
        _validation.float_dtype(f"column pixels/count of {self.uri}", column.dtype)
        return column

    def ids(self, name: str) -> Any:
        """The column ``bin1_id`` or ``bin2_id`` of the pixels."""
        return self._column(f"pixels/{name}", size=self.nnz)

    def read(self, column: Any, out: NDArray[Any], start: int) -> None:
        with self.naming_errors(f"column {'/'.join(column.name.split('/')[-2:])}"):
            column.read_direct(out, np.s_[start : start + out.size])

    def offsets(self, name: str, count: int, end: int, what: str) -> NDArray[np.int64]:
        """Read a column of offsets: where each of `count` items begins, and the last one ends."""
        found = self.whole(name, size=count + 1).astype(np.int64)
        if found[0] != 0 or found[-1] != end or np.any(np.diff(found) < 0):
            raise self._wrong(name, f"does not rise from 0 to the {end} {what}")
        return found

    def chromosomes(self) -> NDArray[Any]:
        """The number of each bin's chromosome."""
        count = self._column("chroms/name", "SOU").size
        sizes = np.diff(self.offsets("indexes/chrom_offset", count, self.k, "bins"))
        return np.repeat(np.arange(sizes.size, dtype=np.int32), sizes)

    def names(self) -> list[str]:
        """The names of the chromosomes."""
        found = [
            name.decode(errors="replace") if isinstance(name, bytes) else str(name)
            for name in self.whole("chroms/name", "SOU").tolist()
        ]
        if len(set(found)) < len(found):
            raise self._wrong("chroms/name", "has a name twice")
        return found

    def bounds(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Where each bin starts and ends."""
        starts, ends = (self.whole(f"bins/{name}", size=self.k) for name in ("start", "end"))
        return starts, ends

    def row_offsets(self) -> NDArray[np.int64]:
        return self.offsets("indexes/bin1_offset", self.k, self.nnz, "pixels")

    def pieces(self, *columns: Any, pixels: range) -> Iterator[tuple[int, list[NDArray[Any]]]]:
        """Yield these pixels of the columns piece by piece. All pieces use the same buffers."""
        chunk = max([column.chunks[0] for column in columns if column.chunks] or [_PIECE])
        # A piece has whole chunks, so that no chunk is decompressed twice.
        step = min(chunk * max(1, _PIECE // chunk), max(len(pixels), 1))
        buffers = [np.empty(step, column.dtype) for column in columns]
        start = pixels.start
        while start < pixels.stop:
            stop = min((start // step + 1) * step, pixels.stop)
            parts = [buffer[: stop - start] for buffer in buffers]
            for column, part in zip(columns, parts, strict=True):
                self.read(column, part, start)
            yield start, parts
            start = stop

    def placed_pieces(
        self, *others: Any, pixels: range | None = None
    ) -> Iterator[tuple[int, list[NDArray[Any]], bool]]:
        """Yield pieces of ``bin1_id``, ``bin2_id`` and `others`, and whether the pixels ascend.

        Each pixel must be on the upper triangle. A wrong offset would move pixels to another bin,
        so ``bin1_id`` is compared with the offsets.
        """
        indptr, before = self.row_offsets(), (-1, -1)
        columns_read = self.ids("bin1_id"), self.ids("bin2_id"), *others
        pixels = range(self.nnz) if pixels is None else pixels
        for start, parts in self.pieces(*columns_read, pixels=pixels):
            rows, columns = parts[:2]
            bad = rows != rows_of(indptr, start, start + rows.size)
            if bad.any():
                at = int(np.argmax(bad))
                raise self._wrong(
                    "indexes/bin1_offset",
                    f"does not fit pixels/bin1_id, which is {rows[at]} of pixel {start + at}",
                )
            bad = (columns < rows) | (columns >= self.k)
            if bad.any():
                at = int(np.argmax(bad))
                raise self._wrong(
                    "pixels/bin2_id",
                    f"must be from bin1_id to {self.k - 1}, the last bin, but it is "
                    f"{columns[at]} of pixel {start + at}, whose bin1_id is {rows[at]}",
                )
            ascends = not np.any((columns[1:] <= columns[:-1]) & (rows[1:] == rows[:-1]))
            ascends &= (int(rows[0]), int(columns[0])) > before
            before = int(rows[-1]), int(columns[-1])
            yield start, parts, bool(ascends)

    def check_counts(self, counts: NDArray[Any], start: int) -> None:
        check_counts(self.uri, counts, start)

    def matrix(self, *, strict: bool, bins: range | None = None) -> scipy.sparse.csr_array:
        """Read the pixels as canonical CSR. `strict` refuses counts that cannot be balanced.

        If `bins` is given, only the contacts among these bins are read. The shape is the same.
        """
        counts, offsets = self.counts(), self.row_offsets()
        bins = range(self.k) if bins is None else bins
        pixels = range(int(offsets[bins.start]), int(offsets[bins.stop]))
        dtype = index_dtype(self.k, self.k, self.nnz)
        _validation.fits(
            f"the pixels of {self.uri}",
            len(pixels) * (dtype.itemsize + counts.dtype.itemsize),
            "read them in each pass: balance with memory=, or pass the path as A",
        )
        indices = np.empty(len(pixels), dtype)
        values = np.empty(len(pixels), counts.dtype.newbyteorder("="))
        sizes, end, in_order = np.zeros(len(bins), np.int64), 0, True
        for start, (rows, columns, found), ascends in self.placed_pieces(counts, pixels=pixels):
            if strict:
                self.check_counts(found, start)
            if len(bins) < self.k:
                inside = columns < bins.stop
                rows, columns, found = rows[inside], columns[inside], found[inside]  # noqa: PLW2901
                sizes += np.bincount(rows - bins.start, minlength=len(bins))
            part = np.s_[end : end + columns.size]
            indices[part], values[part], in_order = columns, found, in_order and ascends
            end = part.stop
        if len(bins) < self.k:
            offsets = np.zeros(self.k + 1, np.int64)
            offsets[bins.start + 1 : bins.stop + 1] = np.cumsum(sizes)
            offsets[bins.stop + 1 :] = end
        if not in_order:
            offsets, end = self._sort(offsets, indices, values)
        return scipy.sparse.csr_array(
            (values[:end], indices[:end], offsets.astype(dtype)), shape=(self.k, self.k)
        )

    def _sort(
        self, indptr: NDArray[np.int64], indices: Any, values: Any
    ) -> tuple[NDArray[np.int64], int]:
        """Sort pixels in place, and sum duplicates. Returns offsets and the number of pixels."""
        result, kept = np.zeros_like(indptr), 0
        for i0, i1 in row_ranges(indptr):
            part = np.s_[indptr[i0] : indptr[i1]]
            rows = rows_of(indptr, part.start, part.stop)
            order, first = sorting(rows, indices[part])
            count = first.size
            own, total = indices[part][order][first], summed(self.uri, values[part][order], first)
            indices[kept : kept + count], values[kept : kept + count] = own, total
            result[i0 + 1 : i1 + 1] = kept + np.searchsorted(
                rows[order][first], np.arange(i0, i1), side="right"
            )
            kept += count
        return result, kept


def check_counts(uri: str, counts: NDArray[Any], start: int) -> None:
    """Refuse counts that cannot be balanced."""
    if counts.dtype.kind in "bu":
        return
    fine = (counts >= 0) & (counts < np.inf) if counts.dtype.kind == "f" else counts >= 0
    if not fine.all():
        at = int(np.argmin(fine))
        raise ValueError(
            f"column pixels/count of {uri} must be finite and not negative, but it is "
            f"{counts[at]} of pixel {start + at}: make the map anew without such pixels"
        )


def row_ranges(indptr: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows whose pixels fit into a piece. A range has at least one row."""
    i0, k = 0, indptr.size - 1
    while i0 < k:
        i1 = min(
            max(int(np.searchsorted(indptr, indptr[i0] + _PIECE, side="right")) - 1, i0 + 1), k
        )
        yield i0, i1
        i0 = i1


@contextmanager
def reading(uri: str | os.PathLike[str], *, cache: int = 0) -> Iterator[Map]:
    """Open a map. By default HDF5 has no cache of chunks, because each chunk is read once."""
    with opened(uri, cache) as (file, group):
        yield Map(os.fsdecode(uri), file, "/" if group is None else group)
