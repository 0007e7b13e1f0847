"""A CSR matrix in a folder of row blocks, which may be larger than memory.

Each block is an uncompressed ``.npz``, so any part of its arrays can be read into its place.
Nothing is mapped: if a mapped file is cut short, the system kills the process; if a file that is
read is, there is an error.
"""

from __future__ import annotations

import os
import threading
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from .. import _validation
from .pattern import index_dtype
from .stored_files import (
    ANEW,
    Block,
    File,
    block_of,
    broken,
    described,
    fill,
    fill_checked,
    signature,
)

_CONVERTED = 2**17  # indices that are widened at a time
_HELD = 128  # files that stay open; the usual limit of a whole process is 1024
Name = Literal["data", "indices"]


class RowBlocks:
    """A CSR matrix in a folder of row blocks, the base of `StoredCSR`."""

    _files: Callable[[], _Files | None]  # gives the open files, if there are readers

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self.shape, self.nnz, self.dtype, files = described(self.path)
        self._blocks = [
            block_of(self.path / file, self.dtype, self.shape[1], *sizes) for file, *sizes in files
        ]
        self._first_rows = list(accumulate((rows for _, _, rows, _ in files), initial=0))
        self._first_entries = list(accumulate((nnz for *_, nnz in files), initial=0))
        wide = any(block.members["indices"][1] == np.int64 for block in self._blocks)
        # It does not depend on the number of entries.
        self._column_dtype = np.dtype(np.int64 if wide else np.int32)
        self.index_dtype = np.promote_types(index_dtype(*self.shape, self.nnz), self._column_dtype)
        self._begin()

    def indptr(self) -> NDArray[np.int64]:
        """The row offsets of the whole matrix, shape (m + 1,).

        **Memory.** The result, and 0.5 MiB.
        """
        with self.open():
            return self._pointers(0, self.shape[0])

    @contextmanager
    def open(self) -> Iterator[Self]:
        """Open the files for `read`.

        Files that have changed since the matrix was made are refused, here and when each is opened.
        """
        for block in self._blocks:
            try:
                now = signature(block.path.stat())
            except FileNotFoundError:
                now = None
            if now != block.signature:
                raise self._changed(block)
        reader, files = object(), None
        try:  # Ctrl-C may come at any line, so the end must not depend on how far this came
            with self._lock:
                files = self._files()
                if files is None:
                    files = _Files()
                    self._files = weakref.ref(files)
                files.readers[reader] = threading.get_ident()
            yield self
        finally:
            if files is not None:
                with self._lock:
                    files.readers.pop(reader, None)
                    if not files.readers:
                        files.close()

    def close(self) -> None:
        """Close the files, as the end of `open` does. No other thread may be reading."""
        with self._lock:
            files = self._files()
            if files is not None:
                files.close()

    def read(self, name: Name, start: int, stop: int, out: NDArray[Any]) -> None:
        """Read entries ``start <= p < stop`` of the whole matrix into `out`, within `open`.

        Several threads may read at once. `out` is contiguous. Its dtype is `dtype` for ``"data"``,
        and int64 for ``"indices"``, or int32 if the indices of all blocks are.

        Raises ValueError if a checksum is not the one that was written.

        **Memory.** 128 KiB; 0.5 MiB if int32 is read as int64 from a folder of version 0.1.
        """
        _validation.choice("name", name, Name)
        accepted = {self.dtype} if name == "data" else {self._column_dtype, np.dtype(np.int64)}
        files = self._files()
        if files is None or not files.readers:
            raise ValueError(f"{self.path} is not open: read it within `with stored.open():`")
        if not 0 <= start <= stop <= self.nnz:
            raise IndexError(
                f"entries must be 0 <= start <= stop <= {self.nnz}, got start={start} and "
                f"stop={stop}"
            )
        if not (
            isinstance(out, np.ndarray)  # type: ignore[redundant-expr]  # what this line finds out
            and out.shape == (stop - start,)
            and out.dtype in accepted
            and out.flags.c_contiguous
            and out.flags.writeable
        ):
            needed = (
                f"a writeable, contiguous array of {stop - start} "
                f"{' or '.join(sorted(map(str, accepted)))}"
            )
            came = (
                f"{_validation.type_name(out)} of {np.asarray(out).dtype} and shape {np.shape(out)}"
            )
            raise ValueError(f"out must be {needed}, got {came}: pass numpy.empty of these")
        self._read(name, start, stop, out)

    def __getitem__(self, rows: slice) -> scipy.sparse.csr_array:
        """The rows of a slice, in memory."""
        if not isinstance(rows, slice):
            raise TypeError(
                "a stored matrix gives slices of its rows, as stored[10:20], got the index "
                f"{rows!r}"
            )
        start, stop, step = rows.indices(self.shape[0])
        if step != 1:
            raise IndexError(
                f"a stored matrix gives rows that follow each other, got a step of {step}: leave "
                "it out"
            )
        with self.open():
            return self._rows(start, max(start, stop))

    def __iter__(self) -> Iterator[tuple[int, scipy.sparse.csr_array]]:
        """Yield the blocks as they were written: the first row, and a csr_array in memory."""
        with self.open():
            for start, stop in pairwise(self._first_rows):
                yield start, self._rows(start, stop)

    def __repr__(self) -> str:
        m, n = self.shape
        return (
            f"<StoredCSR: {m}x{n}, {self.nnz} entries, {self.dtype}; {len(self._blocks)} blocks "
            f"in {str(self.path)!r}>"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: value for name, value in self.__dict__.items() if name not in ("_lock", "_files")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    @property
    def _held(self) -> dict[int, File]:
        """The files that are open."""
        files = self._files()
        return {} if files is None else files.held

    def _begin(self) -> None:
        # It is reentrant, because the garbage collector may end an abandoned iteration while this
        # thread has the lock.
        self._lock = threading.RLock()
        self._files = _no_files
        _all.add(self)

    def _begin_anew(self) -> None:
        """In a forked child, keep only the reader in the thread that forked."""
        self._lock = threading.RLock()
        files = self._files()
        if files is not None:
            files.keep(threading.get_ident())

    def _rows(self, start: int, stop: int) -> scipy.sparse.csr_array:
        indptr = self._pointers(start, stop)
        first, last = int(indptr[0]), int(indptr[-1])
        nnz, (_, n) = last - first, self.shape
        dtype = np.promote_types(index_dtype(stop - start, n, nnz), self._column_dtype)
        self._check_fits(start, stop, nnz * (self.dtype.itemsize + dtype.itemsize))
        data, indices = np.empty(nnz, self.dtype), np.empty(nnz, dtype)
        self._read("data", first, last, data)
        self._read("indices", first, last, indices)
        if nnz and not (indices.min() >= 0 and indices.max() < n):
            # SciPy's products would write beyond their arrays.
            raise ValueError(
                f"{self.path} has columns outside 0 … {n - 1} in rows {start} … {stop - 1}: {ANEW}"
            )
        indptr -= first
        arrays = data, indices, indptr.astype(dtype, copy=False)
        return scipy.sparse.csr_array(arrays, shape=(stop - start, n))

    def _pointers(self, start: int, stop: int) -> NDArray[np.int64]:
        """The offsets of these rows in the whole matrix."""
        self._check_fits(start, stop, 8 * (stop - start + 1))
        out = np.zeros(stop - start + 1, np.int64)
        for number, lo, hi in _overlaps(self._first_rows, start, stop):
            first_row, first_entry = self._first_rows[number], self._first_entries[number]
            nnz = self._first_entries[number + 1] - first_entry
            part = out[lo - start : hi - start + 1]
            self._read_member(number, "indptr", lo - first_row, part)
            begins = part[0] == 0 if lo == first_row else part[0] >= 0
            ends = part[-1] == nnz if hi == self._first_rows[number + 1] else part[-1] <= nnz
            if not (begins and ends and (part[1:] >= part[:-1]).all()):
                raise broken(
                    self._blocks[number].path,
                    f"has row pointers that do not ascend from 0 to {nnz}",
                )
            part += first_entry
        return out

    def _check_fits(self, start: int, stop: int, nbytes: int) -> None:
        what = f"{stop - start} rows of {self.path}"
        _validation.fits(what, nbytes, "take a smaller slice of rows, or operator()")

    def _read(self, name: Name, start: int, stop: int, out: NDArray[Any]) -> None:
        for number, lo, hi in _overlaps(self._first_entries, start, stop):
            self._read_member(
                number, name, lo - self._first_entries[number], out[lo - start : hi - start]
            )

    def _read_member(self, number: int, name: str, start: int, out: NDArray[Any]) -> None:
        """Fill `out` with elements of a block's array, from `start` on."""
        block = self._blocks[number]
        offset, dtype = block.members[name]
        with self._opened(number) as file:
            descriptor = file.fileno()
            if name in block.checksums:
                fill_checked(descriptor, block, name, start, out)
                return
            offset += start * dtype.itemsize
            if dtype == out.dtype:
                fill(descriptor, block.path, offset, out)
                return
            buffer = np.empty(min(out.size, _CONVERTED), dtype)
            for first in range(0, out.size, _CONVERTED):
                piece = buffer[: out.size - first]
                fill(descriptor, block.path, offset + first * dtype.itemsize, piece)
                out[first : first + piece.size] = piece

    @contextmanager
    def _opened(self, number: int) -> Iterator[File]:
        """Open the file of a block. It stays open, unless too many do."""
        block = self._blocks[number]
        with self._lock:
            files = self._files()
            file = None if files is None else files.held.get(number)
            held = file is not None
            if file is None:
                try:
                    file = File(block.path)
                except FileNotFoundError:
                    raise self._changed(block) from None
                if signature(os.fstat(file.fileno())) != block.signature:
                    file.close()
                    raise self._changed(block)
                if files is not None and files.readers and len(files.held) < _HELD:
                    files.held[number], held = file, True
        try:
            yield file
        finally:
            if not held:
                file.close()

    def _changed(self, block: Block) -> ValueError:
        return ValueError(
            f"{block.path} has changed since it was opened (it was written to, replaced or "
            f"removed): open it anew, as by read_matrix({str(self.path)!r})"
        )


class _Files:
    """The open files of a folder, which the last reader closes.

    The frame of each reader refers to this object, and the matrix does not. So the files are closed
    even if Ctrl-C comes while the end of a reader is noted.
    """

    def __init__(self) -> None:
        self.readers: dict[object, int] = {}  # and the thread of each
        self.held: dict[int, File] = {}

    def close(self) -> None:
        for file in self.held.values():
            file.close()
        self.held.clear()

    def keep(self, thread: int) -> None:
        """Keep only the readers of this thread."""
        self.readers = {reader: its for reader, its in self.readers.items() if its == thread}
        if not self.readers:
            self.close()


def _no_files() -> _Files | None:
    return None


_all: weakref.WeakSet[RowBlocks] = weakref.WeakSet()


def _begin_anew() -> None:
    for stored in list(_all):
        stored._begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


def _overlaps(bounds: list[int], start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Yield the blocks that overlap with ``start … stop``, each with the overlap.

    Block b is ``bounds[b] … bounds[b + 1]``.
    """
    number = bisect_right(bounds, start) - 1
    while start < stop:
        end = min(bounds[number + 1], stop)
        if start < end:
            yield number, start, end
        start, number = end, number + 1
