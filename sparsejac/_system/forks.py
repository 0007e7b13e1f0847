"""Prevents a forked child from waiting for ever for a lock.

A child has one thread, the one that forked. If another thread held a lock at that moment, no thread
of the child releases it. Our own locks are made anew in the child, by the modules that use them.
The locks of other packages are taken before the fork and released after it, in the parent and in
the child. h5py and `logging` do the same with their locks. While the fork holds a lock, no other
thread is changing the data that it guards, so the child gets them complete. So a fork waits for the
end of a compilation.
"""

from __future__ import annotations

import _thread
import importlib
import logging  # noqa: F401  # its handler must be registered before ours: see `_take_locks`
import operator
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

from .signals import unless_signalled

_Value = TypeVar("_Value")
_IMPORTED = ("numba", "tqdm")  # that any thread may import on first use
# h5py also takes its lock before a fork, and its import needs that lock.
_WITH_OWN_LOCK = ("h5py", "cooler")
_COMPILATION = 300.0  # seconds that a fork waits for a compilation
_WRITING = 5.0  # seconds that a fork waits for a progress bar, whose terminal may be stopped
_IMPORT = 5.0  # seconds that a fork waits for the import of a module with its own lock


class computed_once(Generic[_Value]):  # noqa: N801  # named like functools.cached_property
    """A property that is computed at first use, and then replaced by an attribute.

    `functools.cached_property` of Python 3.11 holds one lock for all instances. This class has no
    lock, so two threads may compute the same value at the same time.
    """

    def __init__(self, function: Callable[[Any], _Value]) -> None:
        self._function, self.__doc__ = function, function.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> computed_once[_Value]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> _Value: ...

    def __get__(self, instance: object | None, owner: type) -> computed_once[_Value] | _Value:
        if instance is None:
            return self
        value = self._function(instance)
        instance.__dict__[self._name] = value
        return value


# --- locks of other packages ----------------------------------------------------------------------

_holding = threading.local()


def _attribute(module: str, *names: str) -> list[Any]:
    """A list with the lock of a module. It is empty if the module is not imported."""
    found: Any = sys.modules.get(module)
    for name in names:
        found = getattr(found, name, None)
    return [found] if hasattr(found, "acquire") else []


def _wait_for_import(module: str) -> None:
    """Wait until no thread is importing the module, for a limited time."""
    end = time.monotonic() + _IMPORT
    while time.monotonic() < end:
        spec = getattr(sys.modules.get(module), "__spec__", None)
        if not getattr(spec, "_initializing", False):
            return
        time.sleep(0.005)


def _take_locks() -> None:
    # The function that was registered last runs first. `logging` was imported above, so its lock is
    # free while this function waits for an import that may need it. If h5py is imported, its lock
    # is taken by now, so the wait for its import is limited. A Ctrl-C between the call of `acquire`
    # and the next bytecode would leave a lock that is never released. So one call of C code takes
    # each lock and appends it to the list. None marks the end of the list for `_release_locks`.
    held = _holding.locks = [None]
    try:
        locks = _attribute("sparsejac._kernels", "import_lock")
        held.extend(filter(operator.methodcaller("acquire", timeout=_COMPILATION), locks))
        for module in _IMPORTED:  # a module that is partly imported would stay so in the child
            if module in sys.modules:
                importlib.import_module(module)  # waits for a thread that imports it
        for module in _WITH_OWN_LOCK:
            _wait_for_import(module)
        # Numba takes them in this order.
        locks = [
            *_attribute("numba.core.compiler_lock", "global_compiler_lock", "_lock"),
            *_attribute("llvmlite.binding.ffi", "lib", "_lock", "_lock"),
        ]
        held.extend(filter(operator.methodcaller("acquire", timeout=_COMPILATION), locks))
        locks = _attribute("tqdm.std", "TqdmDefaultWriteLock", "th_lock")
        held.extend(filter(operator.methodcaller("acquire", timeout=_WRITING), locks))
    except KeyboardInterrupt:
        _thread.interrupt_main()  # Python drops exceptions here, so raise it after the fork
    except unless_signalled(Exception):  # an import failed; the thread that imports reports it
        pass


def _release_locks() -> None:
    held = getattr(_holding, "locks", None)
    if held:
        # This is one call of C code, as above.
        deque(map(operator.methodcaller("release"), iter(held.pop, None)), maxlen=0)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_take_locks)
    # A Ctrl-C during the fork is raised in the first call of `_release_locks`, and ends that call.
    # So there is a second one.
    for _ in range(2):
        os.register_at_fork(after_in_parent=_release_locks, after_in_child=_release_locks)
