"""A plugin of coverage that sees the threads of `sparsejac._backends.pool`.

Coverage asks the module `threading` for new threads. The pool starts its own with `_thread`.
"""

import _thread
import sys
import threading

_start = _thread.start_new_thread


def _begin(call):
    """Call the function of a thread under coverage.

    No frame may refer to the function: the thread would seem to live for as long as a traceback.
    """
    sys.settrace(threading.gettrace())
    return call.pop()()


def _start_measured(function, args, kwargs=None):
    if threading.gettrace() is None or args or kwargs:  # the pool gives no arguments
        return _start(function, args, kwargs or {})
    return _start(_begin, ([function],))


def coverage_init(registry, options):
    _thread.start_new_thread = _start_measured
