"""A GPU: its memory, and the kernels of `kernels.cu`.

CuPy is imported when a matrix arrives that is on a GPU. It compiles a kernel at its first call, and
keeps it on disk.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from importlib import resources
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from .. import _validation
from .._system.signals import unless_signalled

THREADS, WARPS = 256, 8  # of a block, as in kernels.cu
TYPES = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}
_NOTHING = np.uint64(0)  # a null pointer
_SMALLER = "take operator.normal() and J.T, which need none of this size"  # than F or J v
_OF_CUDA = {2, 13}  # the DLPack types of the memory of a GPU
# Without fused multiplication and addition, maps have the bits that they have on the CPU.
_OPTIONS = ("-std=c++17", "--fmad=false")


def is_on_gpu(A: Any) -> bool:
    """Whether A is an array or a matrix in the memory of a GPU. CuPy is not imported for that."""
    if isinstance(A, np.ndarray) or scipy.sparse.issparse(A):
        return False
    if type(A).__module__.partition(".")[0] in ("cupy", "cupyx"):
        return True
    return any(map(_says, (lambda: hasattr(A, "__cuda_array_interface__"), lambda: _dlpack(A))))


def _dlpack(A: Any) -> bool:
    return A.__dlpack_device__()[0] in _OF_CUDA


def _says(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except unless_signalled(Exception):  # any object may be passed, and this one does not say
        return False


def load_cupy() -> Any:
    """CuPy, if it is there and can use a GPU."""
    try:
        import cupy
        import cupyx.scipy.sparse  # noqa: F401  # matrices of it may arrive
    except ImportError as error:
        raise ImportError(
            "an A on a GPU needs CuPy: install the wheel for the CUDA version of the driver, "
            "as in pip install cupy-cuda12x"
        ) from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise RuntimeError(
            f"CuPy cannot use a GPU ({error}), as the NVIDIA driver is missing or too old for this "
            "CuPy, or this process was forked from one that uses it: update the driver, install "
            "the CuPy of its CUDA version, spawn processes, or pass A.get()"
        ) from error
    if count == 0:
        raise RuntimeError("CuPy finds no GPU: make one visible, or pass A as a NumPy array")
    return cupy


def gpu_of(array: Any) -> Gpu:
    """The GPU that has an array."""
    return _gpu(load_cupy(), array.device.id, os.getpid())


@functools.lru_cache(maxsize=64)
def _gpu(cupy: Any, number: int, process: int) -> Gpu:
    # One for each GPU, as a kernel is loaded once for it.
    return Gpu(cupy, number, process)


@functools.cache
def _source() -> str:
    return resources.files(__package__).joinpath("kernels.cu").read_text(encoding="utf-8")


class Gpu:
    """One GPU, for arrays and kernels.

    Attributes
    ----------
    cupy : module
    number : int
        The number that CUDA gives the device.
    """

    def __init__(self, cupy: Any, number: int, process: int) -> None:
        self.cupy, self.number, self._process = cupy, number, process
        self._kernels: dict[str, Any] = {}

    def __reduce__(self) -> Any:
        raise TypeError(
            "an A on a GPU does not pickle, as its memory belongs to this process: send A.get(), "
            "and hand it over there"
        )

    def here(self) -> Any:
        """A context in which this is CuPy's current device."""
        if os.getpid() != self._process:
            raise RuntimeError(
                "A is on a GPU, which a forked child cannot use: hand A over in the child, and "
                'start processes with multiprocessing.get_context("spawn")'
            )
        return self.cupy.cuda.Device(self.number)

    def run(self, kernel: str, blocks: int, *args: Any) -> None:
        """Launch a kernel. Integers become int64, truth values and `np.int32` are int."""
        if blocks:
            with self.here():
                self._compiled(kernel)((blocks,), (THREADS,), tuple(map(_argument, args)))

    def run_rows(self, kernel: str, k: int, *args: Any, threads: bool = False) -> None:
        """Launch a kernel in which one warp, or one thread, has a row."""
        self.run(kernel, -(-k // (THREADS if threads else WARPS)), *args)

    def _compiled(self, kernel: str) -> Any:
        if kernel not in self._kernels:
            module = self.cupy.RawModule(
                code=_source(), options=_OPTIONS, name_expressions=(kernel,)
            )
            self._kernels[kernel] = module.get_function(kernel)
        return self._kernels[kernel]

    def holds(self, value: object) -> bool:
        """Whether this is a CuPy array."""
        return isinstance(value, self.cupy.ndarray)

    def empty(self, what: str, shape: Any, dtype: Any, *, zeros: bool = False) -> Any:
        """An array on the GPU, if it fits there. `what` names it in the message."""
        with self.here():
            count = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
            self.check_fits(what, count)
            return (self.cupy.zeros if zeros else self.cupy.empty)(shape, dtype)

    def check_fits(self, what: str, count: int, hint: str = _SMALLER) -> None:
        """Raise MemoryError if so many bytes are not free."""
        if count < _validation.LARGE:
            return
        with self.here():
            free = self.cupy.cuda.Device(self.number).mem_info[0]
            free += self.cupy.get_default_memory_pool().free_bytes()
        hint = f"these are of the memory of the GPU; free arrays there, or {hint}"
        _validation.fits(what, count, hint, free)

    def uploaded(self, x: NDArray[Any]) -> Any:
        """A copy of an array with O(k) numbers on the GPU."""
        with self.here():
            return self.cupy.asarray(np.ascontiguousarray(x))

    def downloaded(self, array: Any) -> NDArray[Any]:
        """A copy of an array with O(k) numbers in the memory of this process."""
        with self.here():
            found: NDArray[Any] = array.get()
            return found

    def taken(self, array: Any, places: NDArray[Any]) -> NDArray[Any]:
        """The numbers of a vector at some places, of which there are O(k)."""
        with self.here():
            return self.downloaded(array[self.uploaded(places)])


def _argument(value: Any) -> Any:
    """An argument of a kernel, in the size that its parameter has."""
    if value is None:
        return _NOTHING
    if isinstance(value, (bool, np.bool_)):
        return np.int32(value)
    if isinstance(value, int):
        return np.int64(value)
    return np.float64(value) if isinstance(value, float) else value
