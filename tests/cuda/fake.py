"""A CuPy without a GPU: arrays are NumPy's in disguise, and g++ compiles the kernels with fibers.

It has what the backend calls, and is as strict as CuPy: no array becomes a NumPy array by itself.
Fresh memory is NaN, and a kernel that writes beside it is noticed. What goes to the GPU and back is
counted.
"""

import contextlib
import ctypes
import hashlib
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
COMPILED = HERE / "__pycache__"
GUARD = 2**15  # bytes before and after an array that no kernel may change
FLAGS = ["-O1", "-std=c++17", "-shared", "-fPIC", "-w", "-U_FORTIFY_SOURCE", "-ffp-contract=off"]


class State:
    """What tests read and set."""

    order = 0  # of the threads: forwards, backwards, or the last warp first
    free = 2**40  # bytes
    devices = 2
    current = 0
    driver_error = None
    downloads: list  # the sizes of the arrays that left the GPU
    uploads: list
    launched: list
    source = None  # the text of a mutant of the kernels

    def reset(self):
        self.order, self.free, self.current, self.driver_error, self.source = (
            0,
            2**40,
            0,
            None,
            None,
        )
        self.downloads, self.uploads, self.launched = [], [], []


state = State()
state.reset()


class Device:
    def __init__(self, number=None):
        self.id = state.current if number is None else number
        self.mem_info = state.free, 2**40

    def __enter__(self):
        self._before, state.current = state.current, self.id

    def __exit__(self, *_):
        state.current = self._before


class Array:
    """A cupy.ndarray."""

    __array_ufunc__ = None  # NumPy's arrays and operators leave it alone

    def __init__(self, numbers, device=None, guarded=None):
        self._a, self.device, self.guarded = numbers, device or Device(), guarded
        self.shape, self.dtype, self.ndim = numbers.shape, numbers.dtype, numbers.ndim
        self.size, self.nbytes, self.flags = numbers.size, numbers.nbytes, numbers.flags
        self.data = types.SimpleNamespace(ptr=numbers.ctypes.data, device_id=self.device.id)

    @property
    def __cuda_array_interface__(self):
        return self._a.__array_interface__

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __len__(self):
        return len(self._a)

    def __bool__(self):
        return bool(self._a)

    def __float__(self):
        return float(self._a)

    def get(self):
        state.downloads.append(self.size)
        return self._a.copy()

    def _new(self, numbers):
        return Array(np.asarray(numbers), self.device, self.guarded)

    def __getitem__(self, where):
        return self._new(self._a[_plain(where)])

    def __setitem__(self, where, numbers):
        self._a[_plain(where)] = _plain(numbers)

    @property
    def T(self):
        return self._new(self._a.T)

    def astype(self, dtype, copy=True):
        return self._new(self._a.astype(dtype, copy=copy))


def _plain(value):
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    if isinstance(value, Array):
        return value._a
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    return value


def _method(name):
    def method(self, *args, **how):
        return self._new(getattr(self._a, name)(*map(_plain, args), **how))

    return method


for _name in (
    *("reshape", "ravel", "any", "all", "sum", "copy", "__add__", "__radd__", "__sub__"),
    *("__rsub__", "__mul__", "__rmul__", "__truediv__", "__matmul__", "__neg__"),
    *("__eq__", "__ne__", "__gt__", "__lt__"),
):
    setattr(Array, _name, _method(_name))
Array.__hash__ = None
Array.__name__ = Array.__qualname__ = "ndarray"
Array.__module__ = "cupy"


def _empty(shape, dtype=float):
    made = np.empty(shape, dtype)
    memory = np.full(made.nbytes + 2 * GUARD, 0xA5, np.uint8)
    inside = memory[GUARD : GUARD + made.nbytes]
    inside[:] = 0xFF  # NaN, or -1
    return Array(inside.view(made.dtype).reshape(made.shape), guarded=memory)


def _asarray(value):
    if isinstance(value, Array):
        return value
    if hasattr(value, "__cuda_array_interface__"):  # of another package, without a copy
        return Array(
            np.asarray(types.SimpleNamespace(__array_interface__=value.__cuda_array_interface__))
        )
    value = np.array(value)
    state.uploads.append(value.size)
    return Array(value)


def _of_numpy(function):
    return lambda *args, **how: Array(np.asarray(function(*map(_plain, args), **how)))


class RawModule:
    """Compiles kernels when they are asked for. Compiled ones are kept beside this file."""

    def __init__(self, code, options, name_expressions):
        assert all(option.startswith("-") for option in options)
        self._code, self._names = state.source or code, name_expressions

    def get_function(self, name):
        assert name in self._names
        return _compiled(self._code, name)


_loaded = {}


def _compiled(code, name):
    key = hashlib.sha256(
        "\0".join([code, name, *FLAGS, (HERE / "fibers.h").read_text()]).encode()
    ).hexdigest()[:24]
    if key not in _loaded:
        _loaded[key] = _loaded_library(code, name, COMPILED / f"{key}.so")
    library = _loaded[key]
    sizes = (ctypes.c_int * 64)()
    sizes = sizes[: library.sizes(sizes)]

    def launch(blocks, threads, args):
        assert len(args) == len(sizes), (name, len(args), len(sizes))
        found = []
        for size, given in zip(sizes, args, strict=True):
            value = given
            if isinstance(given, Array):
                assert given.flags.c_contiguous or given.size == 0
                assert given.device.id == state.current
                value = np.uint64(given.data.ptr)
            assert isinstance(value, np.generic), (name, value)
            assert value.nbytes == size, (name, value, size)
            found.append(value.tobytes())
        buffers = [ctypes.create_string_buffer(each, len(each)) for each in found]
        pointers = (ctypes.c_void_p * len(buffers))(*map(ctypes.addressof, buffers))
        state.launched.append(name)
        if library.launch(blocks[0], threads[0], state.order, pointers):
            raise RuntimeError(f"{name}: not all threads reach a barrier")
        for value in args:
            memory = getattr(value, "guarded", None)
            if memory is not None and not (
                (memory[:GUARD] == 0xA5).all() and (memory[-GUARD:] == 0xA5).all()
            ):
                raise RuntimeError(f"{name} writes beside an array")

    return launch


def _loaded_library(code, name, path):
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        text = (
            f"{code}\nusing Of = fibers::Kernel<{name}>;\n"
            'extern "C" int sizes(int *into) { return Of::sizes(into); }\n'
            'extern "C" int launch(unsigned b, int t, int o, void **a) {'
            " return Of::launch(b, t, o, a); }\n"
        )
        command = ["g++", *FLAGS, "-include", HERE / "fibers.h", "-x", "c++", "-", "-o", part]
        subprocess.run(command, input=text, text=True, check=True, capture_output=True)
        part.replace(path)
    return ctypes.CDLL(str(path))


class CUDARuntimeError(RuntimeError):
    pass


def _device_count():
    if state.driver_error:
        raise CUDARuntimeError(state.driver_error)
    return state.devices


class csr_matrix:
    """A cupyx.scipy.sparse.csr_matrix."""

    format, ndim = "csr", 2

    def __init__(self, arrays, shape):
        (self.data, self.indices, self.indptr), self.shape = arrays, shape
        self.dtype = self.data.dtype

    def get(self):
        import scipy.sparse

        arrays = self.data._a, self.indices._a, self.indptr._a
        return scipy.sparse.csr_matrix(arrays, self.shape)


csr_matrix.__module__ = "cupyx.scipy.sparse._csr"


class LinearOperator:
    """A cupyx.scipy.sparse.linalg.LinearOperator."""

    def __init__(self, shape, matvec, rmatvec, matmat, rmatmat, dtype):
        self.shape, self.dtype = shape, dtype
        self.matvec, self.rmatvec, self.matmat, self.rmatmat = matvec, rmatvec, matmat, rmatmat


def _of_scipy(name):
    """A solver of cupyx, by that of SciPy. The operator sees CuPy arrays."""

    def solver(A, *args, **how):
        import scipy.sparse.linalg

        def product(of):
            return lambda x: of(_asarray(x)).get()

        names = "matvec", "rmatvec", "matmat", "rmatmat"
        products = {each: product(getattr(A, each)) for each in names}
        operator = scipy.sparse.linalg.LinearOperator(A.shape, dtype=A.dtype, **products)
        found = getattr(scipy.sparse.linalg, name)(operator, *map(_plain, args), **how)
        if isinstance(found, tuple):
            return Array(found[0]), *found[1:]
        return Array(found)

    return solver


def modules():
    """The modules that stand for CuPy, by their names."""
    runtime = types.SimpleNamespace(getDeviceCount=_device_count, CUDARuntimeError=CUDARuntimeError)
    pool = types.SimpleNamespace(free_bytes=lambda: 0)
    cupy = types.ModuleType("cupy")
    cupy.ndarray, cupy.empty, cupy.asarray, cupy.RawModule = Array, _empty, _asarray, RawModule
    cupy.from_dlpack = lambda value: Array(np.from_dlpack(value.numbers))
    cupy.cuda = types.SimpleNamespace(Device=Device, runtime=runtime)
    cupy.get_default_memory_pool = lambda: pool
    for name in ("zeros", "arange", "argsort", "searchsorted", "flatnonzero", "ascontiguousarray"):
        setattr(cupy, name, _of_numpy(getattr(np, name)))
    found = {"cupy": cupy}
    for name in ("cupyx", "cupyx.scipy", "cupyx.scipy.sparse", "cupyx.scipy.sparse.linalg"):
        found[name] = types.ModuleType(name)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(found[parent], child, found[name])
    found["cupyx.scipy.sparse"].csr_matrix = csr_matrix
    found["cupyx.scipy.sparse.linalg"].LinearOperator = LinearOperator
    for name in ("cg", "lsmr", "eigsh", "lobpcg"):
        setattr(found["cupyx.scipy.sparse.linalg"], name, _of_scipy(name))
    return found


@contextlib.contextmanager
def installed():
    """Put these modules into `sys.modules`, and take them out again."""
    state.reset()
    before = {name: sys.modules.get(name) for name in modules()}
    sys.modules.update(modules())
    try:
        yield state
    finally:
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
