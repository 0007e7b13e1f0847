"""Uses the memory of a dropped result for the next result.

The system clears fresh memory page by page, when it is first touched. For a large result that takes
longer than computing it. A solver drops one result as it asks for the next.
"""

from __future__ import annotations

import ctypes
import math
import os
import weakref
from collections import deque
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from . import machine

LARGE = 2**22  # bytes of the smallest result that is recycled; malloc keeps smaller ones itself
_SHARE = 8  # memory is kept only for results of at most this part of the free memory
_LINE = 64  # bytes of a cache line


class _Owner(weakref.ref):  # type: ignore[type-arg]
    """A weak reference to the owner of a result, with the memory that the owner stands for."""

    __slots__ = ("memory", "used")
    memory: NDArray[np.uint8]
    used: bool  # whether the memory was that of another result before


class Recycler:
    """Allocates results, and keeps the memory of the last one that was dropped.

    A large result is an array that does not own its memory. Its base is a ctypes array, the owner.
    Everything that can reach the memory refers to the owner: views, memoryviews, and arrays of
    other packages. When the owner is deallocated, its memory becomes the spare memory, which is
    used for the next result of at most this size and at least half of it.

    The owner must not be an ndarray, because the base of a view is the last ndarray in a chain of
    bases. It must have a writable buffer, or NumPy would not make a result writable again after
    ``setflags(write=False)``. The memory is taken over by one call of C code, `deque.append`: in a
    method `__del__`, Python would drop a Ctrl-C.
    """

    # by their addresses: a set could change while another thread walks it
    _all: ClassVar[weakref.WeakValueDictionary[int, Recycler]] = weakref.WeakValueDictionary()

    def __init__(self) -> None:
        self._spare: deque[_Owner] = deque(maxlen=1)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array whose numbers are not set. A large one starts at a cache line."""
        nbytes = math.prod(shape) * dtype.itemsize
        if nbytes < LARGE:
            return np.empty(shape, dtype)
        memory = self._take(nbytes)
        used = memory is not None
        if memory is None:
            available = machine.available_memory()
            if available is not None and nbytes > available // _SHARE:
                return allocated(shape, dtype)
            memory = allocated((nbytes + _LINE,), np.dtype(np.uint8))
        Recycler._all[id(self)] = self
        start = -memory.ctypes.data % _LINE
        owner: Any = (ctypes.c_ubyte * nbytes).from_buffer(memory.data, start)
        reference = _Owner(owner, self._spare.append)
        reference.memory, reference.used = memory, used
        owner.reference = reference  # last, so that no interrupt leaves one without memory
        result = np.frombuffer(owner, dtype)
        return result if len(shape) == 1 else result.reshape(shape)

    @staticmethod
    def is_used(result: NDArray[Any]) -> bool:
        """Whether this vector has the memory of a dropped result."""
        reference = getattr(result.base, "reference", None)
        return reference is not None and reference.used

    def has(self, nbytes: int) -> bool:
        """Whether a result of so many bytes would be given the spare memory."""
        return any(_suits(owner.memory, nbytes) for owner in tuple(self._spare))

    def _take(self, nbytes: int) -> NDArray[np.uint8] | None:
        """The spare memory, if its size is right. If not, it is freed."""
        try:
            memory = self._spare.pop().memory
        except IndexError:
            return None
        return memory if _suits(memory, nbytes) else None

    def free(self) -> None:
        """Free the spare memory."""
        self._spare.clear()

    @classmethod
    def free_all(cls) -> None:
        """Free the spare memory of all builders."""
        for reference in cls._all.valuerefs():
            recycler = reference()
            if recycler is not None:
                recycler.free()


def _suits(memory: NDArray[np.uint8], nbytes: int) -> bool:
    return nbytes + _LINE <= memory.nbytes <= 2 * nbytes + _LINE


def allocated(shape: tuple[int, ...], dtype: np.dtype[Any], *, zeros: bool = False) -> NDArray[Any]:
    """Allocate an array of m numbers. If there is no memory, all spare memory is freed first."""
    allocate = np.zeros if zeros else np.empty
    try:
        return allocate(shape, dtype)
    except MemoryError:
        Recycler.free_all()
        return allocate(shape, dtype)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=Recycler.free_all)
