"""Calls what no signal may end halfway, such as a change of tables that the process shares."""

from __future__ import annotations

import _thread
import functools
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from .signals import unless_signalled

_Result = TypeVar("_Result")
_PATIENCE = 0.1  # seconds after which a thread is looked for that may have died


def undisturbed(function: Callable[..., _Result], *args: Any) -> _Result:
    """Call a function on a thread that no signal interrupts: Python hears them on the main thread.

    If a handler raises meanwhile, as that of Ctrl-C does, then this is raised when the function has
    ended. `Thread.join` would not do: before Python 3.13 it takes a thread for dead if a handler
    raises while it waits.
    """
    if threading.get_ident() != threading.main_thread().ident:
        return function(*args)
    found: list[_Result] = []
    failed: list[BaseException] = []  # with the error of the function
    raised: list[BaseException] = []  # what handlers raised
    ended: list[bool] = []
    lock = _thread.allocate_lock()
    lock.acquire()

    def run() -> None:
        try:
            found.append(function(*args))
        except BaseException as error:  # noqa: BLE001  # the caller raises it
            failed.append(error)
        leave_no_record()
        ended.append(True)
        lock.release()

    work = functools.partial(run)
    lives = weakref.ref(work)  # only the interpreter refers to it, and only while the thread runs
    try:
        _thread.start_new_thread(work, ())
    except unless_signalled(RuntimeError):  # no thread is left, or the interpreter is shutting down
        return function(*args)
    except BaseException as error:  # noqa: BLE001  # a signal's handler may raise any
        raised.append(error)
    finally:
        del work
    while not ended and lives() is not None:
        try:
            lock.acquire(timeout=_PATIENCE)
        except BaseException as error:  # noqa: BLE001  # as above
            raised.append(error)
    return _result_of(found, raised + failed)


def _result_of(found: list[_Result], errors: list[BaseException]) -> _Result:
    if not errors and not found:
        raise MemoryError("there is no memory left for a thread")
    if not errors:
        return found[0]
    first = errors[0]
    try:
        raise first
    finally:
        del first  # its traceback refers to this frame
        errors.clear()


def leave_no_record() -> None:
    """Remove the record that `threading` may have made of this thread.

    It makes one if code asks for the current thread. Before Python 3.12 it never removes it.
    """
    records = getattr(threading, "_active", {})
    if type(records.get(threading.get_ident())).__name__ == "_DummyThread":
        records.pop(threading.get_ident(), None)
