"""Makes the n-th call fail that the code of sparsejac makes: of NumPy, of the system, of itself.

A profiler sees each call of a C function (`c_call`), its end (`c_return`), and each call of a
function of Python. If it raises an exception, the call fails with it: before a C function has run,
as where there is no memory, or after that, as Ctrl-C does.
"""

import contextlib
import gc
import inspect
import io
import itertools
import os
import sys
import threading
import time
import types
import weakref

import pytest

import sparsejac
from sparsejac._backends import pool as _pool
from sparsejac._system import files as _files

_OURS = os.path.dirname(sparsejac.__file__) + os.sep
# What needs no memory, and is called to clean up: it cannot fail, and Ctrl-C is heard after it.
_SURE = frozenset({
    "release", "close", "discard", "pop", "clear", "unlink", "remove", "get_ident", "_is_owned",
    "getattr", "isinstance", "len", "type", "id", "__exit__", "__enter__", "next",
})  # fmt: skip


class Failure(Exception):
    """An error of a user's own."""


class NthCall:
    """Counts the calls that our code makes, in all of its threads, and makes the n-th one fail.

    An exception of the kind `error` is raised instead of the call, or after it.
    """

    def __init__(self):
        self.error = self.nth = None
        self.raised, self._count, self._after = None, itertools.count(1), False

    def counted(self, act):
        """Call `act`, and return how many calls it makes."""
        self._arm(None, None, after=False)
        with self._watching():
            act()
        return next(self._count) - 1

    def fails(self, act, nth, error, *, after=False):
        """Call `act`, whose n-th call fails. Return its result, or the exception that it raises.

        The traceback of the exception is dropped, because its frames refer to results.
        """
        self._arm(nth, error, after=after)
        try:
            with self._watching():
                return act()
        except BaseException as found:
            # A reader of files names the file, and a thread may end without memory.
            if f"call {nth} fails" not in str(found) and not isinstance(found, MemoryError):
                raise
            found.__traceback__ = None
            found.__context__ = found.__cause__ = None
            return found

    def _arm(self, nth, error, *, after):
        self.nth, self.error, self._after = nth, error, after
        self.raised, self._count = None, itertools.count(1)

    @contextlib.contextmanager
    def _watching(self):
        run = _pool._Job.run

        def watched(job, thread=None):
            sys.setprofile(self._see)
            try:
                run(job, thread)
            finally:
                sys.setprofile(None)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_pool._Job, "run", watched)
            sys.setprofile(self._see)
            try:
                yield
            finally:
                sys.setprofile(None)

    def _see(self, frame, event, called):
        if event == ("c_return" if self._after else "c_call"):
            ours = frame.f_code.co_filename.startswith(_OURS)
            if not ours or called.__name__ in _SURE:
                return
        elif (
            event != "call"
            or frame.f_code.co_flags & inspect.CO_GENERATOR
            or frame.f_code.co_filename == weakref.__file__
            # under coverage: a traceback of it would refer to the function of a new thread
            or frame.f_code.co_name == "_start_measured"
        ):
            return
        else:
            caller = frame.f_back
            named = (frame, caller) if caller else (frame,)
            if not any(each.f_code.co_filename.startswith(_OURS) for each in named):
                return
        if next(self._count) == self.nth:
            in_main = threading.get_ident() == threading.main_thread().ident
            self.raised = self.error if in_main or self.error is not KeyboardInterrupt else Failure
            raise self.raised(f"call {self.nth} fails")


def held():
    """Count the threads and the open files of this process."""
    threads = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
    files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    return threading.active_count(), threads, files


def nothing_left(before):
    """Check that no thread and no file is left.

    The system may list a thread that has ended for a moment, and Python may keep what is in a
    cycle.
    """
    for attempt in range(2000):
        if all(now <= then for now, then in zip(held(), before, strict=True)):
            return
        time.sleep(1e-3)
        if attempt % 500 == 499:
            gc.collect()
    assert held() == before


_WRITES = frozenset({
    "write", "writelines", "flush", "fsync", "close", "truncate", "open", "replace", "rename",
    "mkdir", "rmdir", "unlink", "chmod", "chown", "utime", "rmtree", "flock", "copystat",
})  # fmt: skip


# Of these, the ones that need space on a disk.
_NEED_SPACE = frozenset({"write", "writelines", "flush", "fsync", "replace", "mkdir"})


class Steps:
    """Counts the calls that write, of C functions, and does something before the n-th of them."""

    def __init__(self, *, need_space=False):
        self._count, self._nth, self._act = itertools.count(1), None, None
        self._names = _NEED_SPACE if need_space else _WRITES

    def counted(self, act):
        """Call `act`, and return how many such calls it makes."""
        return self.interrupted(act, None, None)

    def interrupted(self, act, nth, what):
        """Call `act`, and `what` before its n-th call that writes."""
        self._count, self._nth, self._act = itertools.count(1), nth, what
        with pytest.MonkeyPatch.context() as patch:
            # Its thread has no profiler.
            patch.setattr(_files, "undisturbed", lambda function, *args: function(*args))
            sys.setprofile(self._see)
            try:
                act()
            finally:
                sys.setprofile(None)
        return next(self._count) - 1

    def _see(self, frame, event, called):
        if event == "c_call" and called.__name__ in self._names and self._is_on_disk(called):
            number = next(self._count)
            if number == self._nth:
                self._act()

    def _is_on_disk(self, called):
        """Whether a call is one of a file, or of the system. That of a text, say, is not."""
        owner = getattr(called, "__self__", None)
        if isinstance(owner, types.ModuleType):
            return True
        if not isinstance(owner, io.IOBase) or isinstance(owner, io.BytesIO | io.StringIO):
            return False
        return getattr(owner, "name", None) not in (1, 2, "<stdout>", "<stderr>")
