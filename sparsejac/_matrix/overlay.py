"""A file object that keeps its changes in memory, and does not change the file below it."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

_PAGE = 2**14  # bytes of a page; a page is copied when one of its bytes changes
_PIECE = 2**23  # how many bytes are copied at a time


def _kept(method: Callable[..., Any]) -> Callable[..., Any]:
    """Keep an exception for `raise_failure`.

    HDF5 does not stop at an exception of its file object. h5py may lose it, or crash while it
    closes the file.
    """

    @functools.wraps(method)
    def call(self: Overlay, *args: Any) -> Any:
        try:
            return method(self, *args)
        except BaseException as error:  # noqa: BLE001  # `raise_failure` raises it
            self._failure = self._failure or error
            return 0

    return call


class Overlay:
    """A file object for HDF5 that keeps its changes in memory.

    After HDF5 has closed it, `raise_failure` raises the first exception of its methods. From then
    on what HDF5 read and wrote means nothing.
    """

    def __init__(self, file: int, size: int) -> None:
        self._file, self._stored, self.size, self._at = file, size, size, 0
        self._pages: dict[int, bytearray] = {}
        self._failure: BaseException | None = None

    def raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _page(self, number: int) -> bytearray | bytes:
        if number in self._pages:
            return self._pages[number]
        page, begin = bytearray(_PAGE), number * _PAGE
        view = memoryview(page)[: max(0, min(self._stored - begin, _PAGE))]
        done = 0
        os.lseek(self._file, begin, os.SEEK_SET)
        while done < len(view):
            piece = os.read(self._file, len(view) - done)
            if not piece:
                break
            view[done : done + len(piece)] = piece
            done += len(piece)
        return page

    def _ranges(self, count: int) -> Iterator[tuple[int, slice, slice]]:
        done = 0
        while done < count:
            number, offset = divmod(self._at, _PAGE)
            length = min(_PAGE - offset, count - done)
            yield number, slice(offset, offset + length), slice(done, done + length)
            done += length
            self._at += length

    @_kept
    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, count: int = -1) -> bytes:
        left = max(0, self.size - self._at)
        data = bytearray(left if count < 0 else min(left, count))
        self.readinto(data)
        return bytes(data)

    @_kept
    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        view[:] = bytes(len(view))  # after a failure HDF5 must not take what was there for data
        count = max(0, min(len(view), self.size - self._at))
        for number, own, part in self._ranges(count):
            view[part] = self._page(number)[own]
        return count

    @_kept
    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        for number, own, part in self._ranges(len(view)):
            page = self._page(number)
            assert isinstance(page, bytearray)
            page[own] = view[part]
            self._pages[number] = page
        self.size = max(self.size, self._at)
        return len(view)

    @_kept
    def truncate(self, size: int | None = None) -> int:
        size = self._at if size is None else size
        if size < self.size:  # if the file grows again, it is filled with zeros
            number, offset = divmod(size, _PAGE)
            page = bytearray(self._page(number))
            page[offset:] = bytes(_PAGE - offset)
            self._pages = {other: own for other, own in self._pages.items() if other < number} | {
                number: page
            }
            self._stored = min(self._stored, size)
        self.size = size
        return size

    def flush(self) -> None:
        pass

    def copy_to(self, copy: Any) -> None:
        """Write the file with its changes."""
        os.lseek(self._file, 0, os.SEEK_SET)
        left = min(self._stored, self.size)
        while left:
            piece = os.read(self._file, min(_PIECE, left))
            if not piece:
                raise OSError("it has become shorter while it was copied")
            copy.write(piece)
            left -= len(piece)
        for number, page in sorted(self._pages.items()):
            copy.seek(number * _PAGE)
            copy.write(page[: max(0, self.size - number * _PAGE)])
        copy.truncate(self.size)
