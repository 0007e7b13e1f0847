"""Locks that pickle, are free in a forked child, and belong to one object."""

from __future__ import annotations

import functools
import os
import threading
import types
import weakref
from typing import Any, ClassVar


class _MethodOfLock:
    """A method of an object's lock as a method of the object.

    So a `with` statement calls C code only.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, of: Any, owner: type) -> Any:
        return self if of is None else getattr(of._lock, self._name)

    def __call__(self, of: Any, *raised: object) -> Any:  # contextlib.ExitStack calls it so
        return getattr(of._lock, self._name)(*raised)


class OwnedLock:
    """A reentrant lock that pickles, is free in a forked child, and knows if this thread has it.

    ``with lock:`` calls only C code to take the lock. So Ctrl-C cannot arrive after the lock is
    taken and before its release is certain.
    """

    _all: ClassVar[weakref.WeakSet[OwnedLock]] = weakref.WeakSet()
    __enter__ = _MethodOfLock()
    __exit__ = _MethodOfLock()

    def __init__(self) -> None:
        self._lock: Any = threading.RLock()
        OwnedLock._all.add(self)

    @property
    def owner(self) -> int:
        """The number of this thread if it has the lock, else 0."""
        # threading.Condition asks in the same way.
        return threading.get_ident() if self._lock._is_owned() else 0

    def _renew(self) -> None:
        if not self.owner:  # a lock of the thread that forked stays taken
            self._lock = threading.RLock()

    def __reduce__(self) -> tuple[Any, ...]:
        return OwnedLock, ()


_locks: weakref.WeakValueDictionary[tuple[int, ...], OwnedLock] = weakref.WeakValueDictionary()
_looking_up = OwnedLock()


def lock_of(owner: Any) -> OwnedLock:
    """The lock of a function, or of an object with rows. Every call for the same owner returns it.

    The owner is identified by its address. So a caller must keep the owner for as long as the lock.
    """
    while isinstance(owner, functools.partial):
        owner = owner.func
    # Each access to a method makes a new object.
    method = getattr(owner, "__func__", None)
    if method is None and not hasattr(owner, "shape"):
        call = next(
            (vars(kind)["__call__"] for kind in type(owner).__mro__ if "__call__" in vars(kind)),
            None,
        )
        if isinstance(call, types.FunctionType):
            # An object that can be called stands for its method __call__.
            owner = types.MethodType(call, owner)
            method = call
    key = (id(owner),) if method is None else (id(method), id(owner.__self__))
    with _looking_up:
        lock = _locks.get(key)
        if lock is None:
            lock = _locks[key] = OwnedLock()
        return lock


def _renew_turns() -> None:
    for lock in list(OwnedLock._all):
        lock._renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_turns)
