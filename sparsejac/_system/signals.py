"""Tells an exception that the handler of a signal raised from one of the code that it interrupted.

Users set time limits in that way: a handler of SIGALRM raises TimeoutError, which is an OSError, or
a class of their own. It can come at any bytecode. Code that catches an error of a file would say
that the file cannot be read, and code that ignores one would go on beyond the limit.

So `except` clauses name their classes through `unless_signalled`.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import traceback
from types import TracebackType
from typing import Any, TypeVar

_Error = TypeVar("_Error", bound=Exception)


def unless_signalled(*kinds: type[_Error]) -> tuple[type[_Error], ...]:
    """The classes for an `except` clause, which is skipped if a handler of a signal raised.

    Python evaluates the clause when an exception has come, so it is known here.
    """
    return () if _is_of_a_signal(sys.exc_info()[2]) else kinds


class suppress(contextlib.suppress):  # noqa: N801  # named like its base
    """`contextlib.suppress` that lets the exception of a handler of a signal pass."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        return not _is_of_a_signal(trace) and bool(super().__exit__(kind, error, trace))


def _is_of_a_signal(trace: TracebackType | None) -> bool:
    """Whether a frame of this traceback is one of a handler."""
    if trace is None:
        return False
    handlers = {_code(signal.getsignal(each)) for each in signal.valid_signals()} - {None}
    return any(frame.f_code in handlers for frame, _ in traceback.walk_tb(trace))


def _code(handler: Any) -> Any:
    """The code that a handler runs: a function, a method, a partial or an object with a call."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    if not hasattr(handler, "__code__"):
        handler = vars(type(handler)).get("__call__")
    return getattr(handler, "__code__", None)
