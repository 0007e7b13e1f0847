"""Long vectors that are read in parts, from a file or from memory."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .._system.locks import OwnedLock
from .._system.signals import unless_signalled
from .buffers import Buffer

_PIECE = 2**26  # bytes of one read: macOS refuses 2**31
_seeking = OwnedLock()  # for systems that cannot read from a place without going there first


class File(io.FileIO):
    """An open file that is closed without a warning when nothing refers to it.

    The descriptor of `os.open` is lost if Ctrl-C comes before it is stored. C code alone makes this
    object, and closes it.
    """

    __del__ = io.FileIO.close


def read_at(descriptor: int, out: memoryview, offset: int) -> int:
    """Read from a place in a file, and return the number of bytes. Threads may read at once."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [out], offset)
    with _seeking:
        os.lseek(descriptor, offset, os.SEEK_SET)
        data = os.read(descriptor, len(out))
    out[: len(data)] = data
    return len(data)


class Numbers(Protocol):
    """A long vector that can be read in parts."""

    @property
    def dtype(self) -> np.dtype[Any]: ...

    @property
    def size(self) -> int: ...

    @property
    def sequential(self) -> bool:
        """Whether a read must end before the next one begins."""

    @property
    def mutable(self) -> bool:
        """Whether the numbers may change between two passes without notice."""

    def opened(self) -> Any:
        """Open the vector for a pass. The context is a function ``read(start, stop, buffer)``."""


@dataclass(frozen=True)
class FileNumbers:
    """Contiguous numbers in a file, which begin at the byte `offset`."""

    name: str
    path: str
    offset: int
    dtype: np.dtype[Any]
    size: int
    identity: tuple[int, int, int, int] = field(default=(0, 0, 0, 0))
    # True if the numbers may change through a mapping
    mutable: bool = False
    # False if this process has such a mapping: a write through it need not change the file's time
    timed: bool = True
    sequential = False

    @classmethod
    def of(
        cls,
        name: str,
        path: Any,
        offset: int,
        dtype: np.dtype[Any],
        size: int,
        *,
        mutable: bool | None,
    ) -> FileNumbers:
        """Make them. `mutable` is None if the mappings of this process are not known.

        Each pass then scans the numbers, and also refuses a file with another time.
        """
        path = str(Path(path).absolute())
        try:
            status = Path(path).stat()
        except FileNotFoundError as error:
            raise FileNotFoundError(
                error.errno,
                f"{path}, of {name}, is not there any more: write it anew, or pass "
                f"numpy.asarray({name})",
            ) from None
        needed = offset + size * dtype.itemsize
        if status.st_size < needed:
            raise ValueError(
                f"{path}, of {name}, has {status.st_size} bytes where {needed} are needed: it is "
                "truncated, write it anew"
            )
        changes = mutable is not False
        return cls(name, path, offset, dtype, size, identity(status), changes, not mutable)

    @contextmanager
    def opened(self) -> Iterator[Callable[[int, int, Buffer], NDArray[Any]]]:
        with File(self.path) as opened:
            file = opened.fileno()
            self._check_unchanged(file)

            def read(start: int, stop: int, buffer: Buffer) -> NDArray[Any]:
                numbers = buffer.acquire(stop - start, self.dtype)
                self.fill(file, start, numbers)
                return numbers

            # for readers that have an array to fill
            read.fill = lambda start, numbers: self.fill(file, start, numbers)  # type: ignore[attr-defined]
            yield read
            self._check_unchanged(file)  # during the pass

    def _check_unchanged(self, file: int) -> None:
        """Refuse another file or length, and another time unless the file is mapped for writing."""
        count = 4 if self.timed else 3
        if identity(os.fstat(file))[:count] != self.identity[:count]:
            raise changed(self.name, self.path)

    def fill(self, file: int, start: int, numbers: NDArray[Any]) -> None:
        view = memoryview(numbers.view(np.uint8).data)
        position = self.offset + start * self.dtype.itemsize
        while view:
            count = read_at(file, view[:_PIECE], position)
            if count == 0:
                raise OSError(
                    f"{self.path}, of {self.name}, ends early, at byte {position}: it has been "
                    "truncated"
                )
            view, position = view[count:], position + count


def identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def changed(name: str, path: str) -> ValueError:
    return ValueError(
        f"{path} has changed since it was handed over as {name}: its size, its time or the file "
        "itself is another one; hand it over anew"
    )


@dataclass(frozen=True)
class MemoryNumbers:
    """A vector in memory, with the interface of a vector in a file."""

    values: NDArray[Any]
    sequential = False
    mutable = True

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.values.dtype

    @property
    def size(self) -> int:
        return self.values.size

    @contextmanager
    def opened(self) -> Iterator[Callable[[int, int, Buffer], NDArray[Any]]]:
        yield lambda start, stop, _: self.values[start:stop]


def numbers(name: str, array: NDArray[Any]) -> Numbers:
    """Make `Numbers` from a contiguous array. If it is mapped, they are read from its file."""
    mapped = mapped_file(array)
    if mapped is None:
        return MemoryNumbers(array.reshape(-1))
    mappings, address, inode = _mappings(), array.ctypes.data, _inode(mapped[0])
    own = [mapping for mapping in mappings or () if mapping.begin <= address < mapping.end]
    if array.size and own and inode not in (None, own[0].inode):
        # Another file has the name by now.
        raise changed(name, mapped[0])
    writable = _memmap(array).mode != "r"
    mutable = True if writable else _is_mapped_for_writing(inode, mappings)
    return FileNumbers.of(name, *mapped, array.dtype, array.size, mutable=mutable)


class Mapping(NamedTuple):
    """A range of addresses to which this process has mapped a file."""

    begin: int
    end: int
    for_writing: bool
    inode: int


_MAPS = Path("/proc/self/maps")
_MAPPING = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) .(.).(.) \S+ \S+ ([1-9]\d*)", re.MULTILINE)


def _mappings() -> list[Mapping] | None:
    """List the files that this process has mapped. It is None if only Linux would know them."""
    try:
        text = _MAPS.read_bytes()
    except unless_signalled(OSError):
        return None
    return [
        Mapping(int(begin, 16), int(end, 16), write + share == b"ws", int(inode))
        for begin, end, write, share, inode in _MAPPING.findall(text)
    ]


def _inode(path: str) -> int | None:
    try:
        return Path(path).stat().st_ino
    except unless_signalled(OSError):
        return None


def _is_mapped_for_writing(inode: int | None, mappings: list[Mapping] | None) -> bool | None:
    """Whether this process can write to a file through a mapping. None if that is not known.

    The mappings of other processes are not known. Only the inode is compared, because some file
    systems show another device here than in `os.stat`. An unnecessary scan does no harm.
    """
    if mappings is None:
        return None
    return any(mapping.for_writing and mapping.inode == inode for mapping in mappings)


def _memmap(array: Any) -> Any:
    """The memmap that owns the memory of an array, or None."""
    owner = array
    while isinstance(owner, np.ndarray):
        if isinstance(owner, np.memmap) and not isinstance(owner.base, np.ndarray):
            return owner
        owner = owner.base
    return None


def mapped_file(array: Any) -> tuple[str, int] | None:
    """The file and the offset of a contiguous array that is mapped, or None."""
    owner = _memmap(array)
    # An array that is copied on write (mode "c") may differ from its file.
    if owner is None or owner.filename is None or owner.mode == "c":
        return None
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        return None
    return str(owner.filename), int(owner.offset) + array.ctypes.data - owner.ctypes.data
