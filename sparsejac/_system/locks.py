"""Locks that pickle, are free in a forked child, and belong to one owner."""

from __future__ import annotations

import functools
import os
import threading
import types
import weakref
from typing import Any, ClassVar


class _MethodOfLock:
    """A method of an object's lock, as one of the object itself: `with` then calls C code alone."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, of: Any, owner: type) -> Any:
        return self if of is None else getattr(of._lock, self._name)

    def __call__(self, of: Any, *raised: object) -> Any:  # as contextlib.ExitStack does
        return getattr(of._lock, self._name)(*raised)


class Turn:
    """A lock of one thing at a time that pickles, is free in a forked child, and knows whether this thread has it.

    Ctrl-C cannot come between the moment when ``with turn:`` has the lock and the moment when it will release it.
    """

    _all: ClassVar[weakref.WeakSet[Turn]] = weakref.WeakSet()
    __enter__ = _MethodOfLock()
    __exit__ = _MethodOfLock()

    def __init__(self) -> None:
        self._lock: Any = threading.RLock()
        Turn._all.add(self)

    @property
    def owner(self) -> int:
        """The thread that has it, if that is this one; else 0."""
        return (
            threading.get_ident() if self._lock._is_owned() else 0
        )  # threading.Condition asks in the same way

    def _renew(self) -> None:
        if not self.owner:  # if the thread that forked has it, it keeps it
            self._lock = threading.RLock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Turn, ()


_turns: weakref.WeakValueDictionary[tuple[int, ...], Turn] = weakref.WeakValueDictionary()
_looking_up = Turn()


def turn_of(owner: Any) -> Turn:
    """The one turn of a function, or of an object with rows, however often it is handed over.

    Whoever takes the turn must keep it for as long as the owner: the owner is known by its address.
    """
    while isinstance(owner, functools.partial):
        owner = owner.func
    method = getattr(
        owner, "__func__", None
    )  # of a method there is a new object each time that it is asked for
    if method is None and not hasattr(owner, "shape"):
        call = next(
            (vars(kind)["__call__"] for kind in type(owner).__mro__ if "__call__" in vars(kind)),
            None,
        )
        if isinstance(
            call, types.FunctionType
        ):  # an object that can be called is its method __call__
            owner = types.MethodType(call, owner)
            method = call
    key = (id(owner),) if method is None else (id(method), id(owner.__self__))
    with _looking_up:
        turn = _turns.get(key)
        if turn is None:
            turn = _turns[key] = Turn()
        return turn


def _renew_turns() -> None:
    for turn in list(Turn._all):
        turn._renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_turns)
