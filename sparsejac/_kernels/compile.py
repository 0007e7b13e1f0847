"""How kernels are compiled, and kept on disk."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, call-arg, index"

import functools
import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite.binding.ffi import lib as llvm
from numba.core import caching, event
from numba.core.compiler_lock import global_compiler_lock

from .._system.signals import suppress, unless_signalled
from .._system.threads import undisturbed
from . import listeners


class _Announcement(event.Listener):
    """Logs that a kernel is going to be compiled, which takes about a second."""

    def __init__(self):
        self.kernels = set()
        self.compiled = 0  # versions of kernels, in this process

    def on_start(self, event):
        kernel = event.data.get("dispatcher")
        if kernel in self.kernels:
            self.compiled += 1
            for listener in tuple(listeners):
                listener(kernel.py_func.__name__)
            arrays = [each.dtype for each in event.data["args"] if hasattr(each, "dtype")]
            folder = kernel.stats.cache_path
            _logger.info(
                "compiling the kernel %s for %s, once; Numba keeps it in %s",
                kernel.py_func.__name__,
                ", ".join(dict.fromkeys(map(str, arrays))),
                folder if folder and os.access(folder, os.W_OK) else "memory alone",
            )

    def on_end(self, event):
        pass


_logger = logging.getLogger("sparsejac")
announcement = _Announcement()
event.register("numba:compile", announcement)


def _kernel(**options):
    """`numba.njit` that keeps what it compiles on disk where it may, else in memory.

    A kernel may be a pair of functions, for dense rows and for sparse ones: Numba does not skip a
    branch that is for dense rows alone. Its second argument is None where rows are dense.
    """

    def decorate(function, of_sparse=None):
        compiled = _compiled(function, options)
        sparse = compiled if of_sparse is None else _compiled(of_sparse, options)

        @functools.wraps(function)
        def run(*args):
            chosen = compiled if of_sparse is None or args[1] is None else sparse
            # It is not run again after an error. The handler of a signal may have raised that when
            # the kernel had ended, and sums would be added twice.
            try:
                return chosen(*args)
            except BaseException:
                _give_locks_back()
                raise

        run.combine = _add  # type: ignore[attr-defined]
        run.compiled, run.sparse = compiled, sparse  # type: ignore[attr-defined]  # for tests
        return run

    return decorate


def _add(total, part):
    """Combine a partial result of a reduction into the total: the sum, unless it says otherwise."""
    np.add(total, part, out=total)


def _compiled(function, options):
    try:
        compiled = numba.njit(**_ALWAYS, cache=True, **options)(function)
    except unless_signalled(RuntimeError):  # "no locator available": no folder is writable
        compiled = numba.njit(**_ALWAYS, **options)(function)
        with suppress(Exception):  # of whatever kind, each process compiles it then
            compiled._cache = _read_only_cache(function)
    file: Any = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
    _name_by_signature(file)
    if hasattr(file, "_source_stamp"):
        file._source_stamp = _STAMP
    _look_in_the_package(file)
    _tolerate_errors_of_the_cache(compiled)
    _compile_undisturbed(compiled)
    announcement.kernels.add(compiled)
    return compiled


def _compile_undisturbed(compiled):
    """Compile and load on a thread that no signal interrupts.

    Both change tables that all kernels share. Numba calls this method for arguments of new types.
    """
    if not hasattr(compiled, "_compile_for_args"):  # it is not there with NUMBA_DISABLE_JIT=1
        return
    compile_for = compiled._compile_for_args

    def compile_or_give_locks_back(*args):
        try:
            return compile_for(*args)
        except BaseException:
            _give_locks_back()
            raise

    compiled._compile_for_args = functools.partial(undisturbed, compile_or_give_locks_back)


def _tolerate_errors_of_the_cache(compiled):
    """Let a kernel run that cannot be saved, and name the cache if none can be loaded.

    Numba calls both methods before the kernel runs.
    """
    cache = getattr(compiled, "_cache", None)
    if cache is None:  # NUMBA_DISABLE_JIT=1
        return
    save, load = cache.save_overload, cache.load_overload

    def save_overload(*args):
        with suppress(Exception):  # of whatever kind: it is in memory by now
            save(*args)

    def load_overload(*args):
        try:
            return load(*args)
        except MemoryError:
            raise
        except unless_signalled(Exception):  # of whatever kind, it is tried once more
            pass
        try:
            return load(*args)
        except MemoryError:
            raise
        except unless_signalled(Exception) as error:
            name, folder = compiled.py_func.__name__, compiled.stats.cache_path
            raise RuntimeError(_CACHE.format(name, folder, error)) from error

    cache.save_overload, cache.load_overload = save_overload, load_overload


def _give_locks_back():
    """Release Numba's locks that an exception between two bytecodes left with this thread.

    Other threads, ours among them, would wait for ever. Numba takes its locks in Python code.
    """
    for holder in (global_compiler_lock, getattr(llvm, "_lock", None)):
        lock: Any = getattr(holder, "_lock", None)
        while hasattr(lock, "_is_owned") and lock._is_owned():
            lock.release()


def _name_by_signature(file):
    """Name what Numba keeps on disk by the signature that it is for.

    Numba numbers it, by an index that it has read before. Two processes that compile at the same
    time can give one number to two signatures. From then on, one of them is answered with the code
    of the other.
    """

    def save(key, data):
        name = (
            file._index_name.removesuffix("nbi")
            + hashlib.sha256(repr(key).encode()).hexdigest()[:20]
            + ".nbc"
        )
        file._save_data(name, data)
        file._save_index(
            file._load_index() | {key: name}
        )  # what another process adds meanwhile is compiled again

    if all(
        hasattr(file, part) for part in ("_index_name", "_save_data", "_save_index", "_load_index")
    ):
        file.save = save


def _read_only_cache(function):
    """Make a cache over what is kept beside the package, which fails to save anything."""
    names = "InTreeCacheLocator", "_InTreeCacheLocator"  # before Numba 0.61
    locator: Any = next(filter(None, (getattr(caching, name, None) for name in names)))

    class ReadOnlyLocator(locator):
        def ensure_cache_path(self):
            pass

    class ReadOnlyImpl(caching.CompileResultCacheImpl):
        _locator_classes = [ReadOnlyLocator]  # noqa: RUF012  # as in Numba

    class ReadOnlyCache(caching.FunctionCache):
        _impl_class = ReadOnlyImpl

    cache = ReadOnlyCache(function)
    file: Any = cache._cache_file
    file.load = _load_or_none(file.load)
    return cache


def _load_or_none(load):
    """Make a `load` that finds nothing where it cannot read. The kernel is compiled then."""

    def load_or_none(key):
        with suppress(Exception):
            return load(key)

    return load_or_none


def _look_in_the_package(file):
    """Load also what is kept beside the package, if Numba keeps its own files elsewhere.

    Numba does so where this user may not write beside the package. In an image of a container,
    `sparsejac compile` wrote there when the image was made.
    """
    folder = str(Path(__file__).parent / "__pycache__")
    parts = ("_cache_path", "_index_name", "_source_stamp", "load")
    if all(hasattr(file, part) for part in parts) and file._cache_path != folder:
        ahead = type(file)(folder, file._index_name.removesuffix(".nbi"), _STAMP)
        load, load_ahead = file.load, _load_or_none(ahead.load)

        def load_either(key):
            found = load(key)
            return load_ahead(key) if found is None else found

        file.load = load_either


def _stamp():
    """When the files of this folder were written, and their sizes.

    A kernel is made of functions from several of them. Numba looks only at the file of the kernel.
    """
    files = sorted(Path(__file__).parent.glob("*.py"))
    return [(file.name, file.stat().st_mtime, file.stat().st_size) for file in files]


_STAMP = _stamp()
_CACHE = (
    "Numba cannot use its cache of the compiled kernel {}: remove the folder {}, "
    "or name another in NUMBA_CACHE_DIR ({})"
)
# A division by zero is infinite, and no exception.
_ALWAYS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
# What only kernels call needs no way in from Python, which takes as long to compile as itself.
_PART: Any = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_FAST: Any = {"fastmath": {"reassoc", "contract", "nsz"}}
# A function that does not say how it is compiled is compiled with the flags of its first caller,
# and keeps them for the others. So what computes says it, and belongs to maps or to reductions.
_STRICT: Any = {"fastmath": set()}
_inline = numba.njit(**_PART)  # for helpers that compute with integers alone
_map = _kernel(**_STRICT, no_cfunc_wrapper=True)
_map_part = numba.njit(**_PART, **_STRICT, error_model="numpy", forceinline=True)
# The flags let LLVM keep several partial sums in a register and contract a*b+c; they leave NaN and
# infinity alone ("nnan" and "ninf", which `fastmath=True` would add, do not).
_sum = _kernel(**_FAST, no_cfunc_wrapper=True)
_sum_part = numba.njit(**_PART, **_FAST, error_model="numpy", forceinline=True)
