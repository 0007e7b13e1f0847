"""Buffers that are used again for the next block of rows."""

from __future__ import annotations

import mmap
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAPPED = 2**16  # bytes of the smallest buffer that is mapped, and not taken from malloc


class Buffer:
    """A buffer that is used again, and replaced by a larger one if it is too small.

    If `release_to_os` is set, the system gets its memory back when the buffer is dropped. Memory
    that is freed to malloc may stay with the process.
    """

    def __init__(self, *, release_to_os: bool = False) -> None:
        self._bytes, self._release_to_os = np.empty(0, np.uint8), release_to_os

    def acquire(self, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        nbytes = count * dtype.itemsize
        if self._bytes.size < nbytes:
            self._bytes = np.empty(0, np.uint8)  # free the old memory before allocating the new
            own = self._release_to_os and nbytes >= _MAPPED
            self._bytes = (
                np.frombuffer(_from_the_system(nbytes), np.uint8)
                if own
                else np.empty(nbytes, np.uint8)
            )
        return self._bytes[:nbytes].view(dtype)


def converted(block: NDArray[Any], dtype: np.dtype[Any], buffer: Buffer) -> NDArray[Any]:
    """A block as a contiguous array of a dtype: itself if it is one, or a copy in a buffer."""
    if block.dtype == dtype and block.flags.c_contiguous and block.flags.aligned:
        return block
    copy = buffer.acquire(block.size, dtype).reshape(block.shape)
    np.copyto(copy, block, casting="unsafe")
    return copy


def _from_the_system(nbytes: int) -> mmap.mmap:
    """Map private memory. The system gets it back when nothing refers to it.

    By default, Python would share it with forked children.
    """
    if sys.platform == "win32":
        return mmap.mmap(-1, nbytes)
    return mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
