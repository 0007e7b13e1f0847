"""The pool of threads, and jobs that Ctrl-C and a lack of memory cannot leave hanging."""

from __future__ import annotations

import _thread
import functools
import os
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any

# --- threads --------------------------------------------------------------------------------------------------------

# Threads that neither Ctrl-C nor a lack of memory can put out of order. KeyboardInterrupt is raised in the main thread, between
# any two bytecodes, so that thread takes no lock that another one needs, and does no work of its own: it puts a job into a
# queue (one C call, which happens or not) and waits. A MemoryError can be raised at any bytecode of any thread, even before the
# first one of a new thread. So whoever waits does not rely on being told: from time to time it looks whether the threads live.
# concurrent.futures hangs in both cases.

_PATIENCE = 0.05  # seconds after which whoever waits looks whether the threads live, and sees a Ctrl-C that came just before it waited
_GLANCE = (
    0.01  # seconds after which a thread that waits for another one sees that it is told to stop
)
_LOST = "a thread ended because there was no memory left for it: free memory, or pass a smaller workers="
_jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
_threads: list[_Thread] = []
_process = 0  # how many forks it is away from the process that was started


def _forget_threads() -> None:
    """A forked child has none of its parent's threads, and jobs that were waiting are the parent's."""
    global _jobs, _threads, _process
    _jobs, _threads, _process = queue.SimpleQueue(), [], _process + 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


class Stop:
    """A flag that Ctrl-C may set: no lock is taken for it."""

    def __init__(self) -> None:
        self.is_set = False


def _taken_lock() -> threading.Lock:
    try:
        lock = threading.Lock()
    except RuntimeError as error:  # "can't allocate lock"
        raise MemoryError("there is no memory left for a lock") from error
    lock.acquire()
    return lock


class InOrder:
    """Lets threads do a part of their pieces in order: piece p after piece p - 1, beginning with 0.

    Nothing is lost if a thread fails anywhere: `stop` is set then, and whoever waits sees it soon.
    """

    def __init__(self, stop: Stop) -> None:
        self._stop, self._next = stop, 0
        self._waiting: dict[int, threading.Lock] = {}

    def wait(self, piece: int) -> bool:
        """Wait until it is the turn of this piece; False if it will not be."""
        bell = _taken_lock()
        self._waiting[piece] = bell
        while self._next != piece:
            if self._stop.is_set:
                return False
            bell.acquire(timeout=_GLANCE)
        return not self._stop.is_set

    def done(self, piece: int) -> None:
        """It is the turn of the next piece."""
        self._waiting.pop(piece, None)
        self._next = piece + 1
        bell = self._waiting.get(piece + 1)
        if bell is not None:
            bell.release()


class _Thread:
    """A thread, of which anybody can tell whether it lives, whatever it dies of."""

    def __init__(self, target: Callable[..., None], *args: Any) -> None:
        # While it runs, the interpreter has this function; nobody else has. (A frame that had it may stay with a traceback.)
        function = functools.partial(target, self, *args)
        self._function, self._process = weakref.ref(function), _process
        _thread.start_new_thread(function, ())

    def lives(self) -> bool:
        return self._process == _process and self._function() is not None


class _Job:
    """Pieces of work for several threads. Only those threads take its lock."""

    def __init__(
        self,
        work: Callable[[int], None],
        pieces: int,
        stop: Stop | None = None,
        *,
        last: bool = False,
    ) -> None:
        self._work = work
        self._last = last  # whether its threads end with it
        self._pieces = pieces
        self._next = 0
        self._inside: set[_Thread | None] = set()  # who is at it
        self._lock = _taken_lock()
        self._lock.release()
        self._finished = _taken_lock()
        self.over = False
        self.stop = stop or Stop()
        self.error: BaseException | None = None

    def run(self, thread: _Thread | None = None) -> None:
        """Take pieces, in ascending order, until there are no more, or one fails. What is raised here is a lack of memory."""
        self._inside.add(
            thread
        )  # first, and then see whether it is over: `_look` does it the other way round
        try:
            while not self.over and (piece := self._take()) is not None:
                self._work(piece)
        except BaseException as error:  # noqa: BLE001  # raised in the thread that asked for the work
            self.stop.is_set = True
            if self.error is None:
                self.error = error
        if self._last:
            _leave_no_record()
        self._inside.discard(thread)
        if not self._inside:
            self.over = True
            try:  # noqa: SIM105  # here and below, contextlib.suppress would need memory
                self._finished.release()
            except RuntimeError:  # another one, which left at the same moment, was faster
                pass

    def _take(self) -> int | None:
        with self._lock:
            if self.stop.is_set or self._next == self._pieces:
                return None
            self._next += 1
            return self._next - 1

    def finish(
        self,
        start: Callable[[], object],
        threads: Callable[[], list[_Thread]],
        again: Callable[[], object] = lambda: None,
    ) -> None:
        """Start it, wait until nobody is at it any more, and raise what was raised.

        `threads` are those that may be at it, and `again` tells them once more that there is work. An exception here, such as
        Ctrl-C, stops the job, and is raised when that has come to an end.
        """
        try:
            start()
            self._wait(threads, again)
        except BaseException:
            while not self.over:
                try:
                    self.stop.is_set = True
                    self._inside.discard(None)  # this thread itself
                    self._look(threads())
                    self._wait(threads, again)
                except BaseException:  # noqa: BLE001, S112  # another Ctrl-C; what came first is raised
                    continue
            raise
        error, self.error = self.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback has this frame

    def _wait(self, threads: Callable[[], list[_Thread]], again: Callable[[], object]) -> None:
        while not self.over:
            if not self._finished.acquire(timeout=_PATIENCE):
                self._look(threads())
                if not self._inside:
                    again()  # a thread may have ended with the job in its hands

    def _look(self, threads: list[_Thread]) -> None:
        """See to it that the job comes to an end if threads have died that were at it, or all that could be."""
        # First who is dead, then what they have left: meanwhile a thread may have come to its end as it should.
        dead = [
            thread for thread in list(self._inside) if thread is not None and not thread.lives()
        ]
        nobody = not any(thread.lives() for thread in threads)
        lost = self._inside.intersection(dead)
        if lost or (nobody and not (self._inside or self.over or self.stop.is_set)):
            self.stop.is_set = True
            if self.error is None:
                self.error = MemoryError(_LOST)
        self._inside.difference_update(lost)
        if self.stop.is_set and not self._inside:  # whoever comes now finds that it is stopped
            self.over = True


def _serve(thread: _Thread, jobs: queue.SimpleQueue[_Job]) -> None:
    """What a thread of the pool does. It ends if there is no memory for it."""
    try:
        while True:
            jobs.get().run(thread)
    except BaseException:  # noqa: BLE001, S110
        pass


def _run(thread: _Thread, job: _Job) -> None:
    """What a thread of one job does."""
    try:  # noqa: SIM105
        job.run(thread)
    except BaseException:  # noqa: BLE001, S110
        pass


def aside(work: Callable[[], None], stop: Stop) -> None:
    """Do work on a thread of its own, whose files and threads Ctrl-C then does not get into the hands of.

    Ctrl-C sets `stop`, which the work heeds soon, and is raised here when that has come to an end.
    """
    _on_new_threads(_Job(lambda _: work(), 1, stop, last=True), 1)


def on_own_threads(
    work: Callable[[int], None], pieces: int, workers: int, stop: Stop | None = None
) -> None:
    """`on_threads`, on threads that end with the work: what they run may not be ours alone. Never in the main thread: see `aside`.

    When a piece fails, `stop` is set.
    """
    if pieces:
        _on_new_threads(_Job(work, pieces, stop, last=True), min(workers, pieces))


def _on_new_threads(job: _Job, count: int) -> None:
    started: list[_Thread] = []

    def start() -> None:
        try:
            # Ctrl-C may come before a thread is in the list. That one finds that the job is stopped.
            while len(started) < count:
                started.append(_Thread(_run, job))
        except RuntimeError:  # the system has no thread left, or the interpreter is shutting down
            if not started:
                job.run()

    job.finish(start, lambda: started)


def _leave_no_record() -> None:
    """`threading` makes a record of a thread in which somebody asks for the current one, and before Python 3.12 never forgets it."""
    records = getattr(threading, "_active", {})
    if type(records.get(threading.get_ident())).__name__ == "_DummyThread":
        records.pop(threading.get_ident(), None)


def _pool(workers: int) -> list[_Thread]:
    """The threads of the pool that live, and new ones up to so many."""
    global _threads
    alive = [thread for thread in _threads if thread.lives()] if _threads else []
    try:
        while len(alive) < workers:
            alive.append(_Thread(_serve, _jobs))
    except RuntimeError:  # as above
        pass
    finally:
        _threads = alive
    return alive


def on_threads(
    work: Callable[[int], None], pieces: int, workers: int, stop: Stop | None = None
) -> None:
    """Call ``work(piece)`` for each piece, in ascending order, on up to `workers` threads.

    An exception in one of them, or Ctrl-C here, sets `stop`, stops them all after the pieces that they are at, and is raised here
    when they have stopped.
    """
    workers = min(workers, pieces)
    if workers > 1:
        workers = min(workers, len(_pool(workers)))
    if workers <= 1:
        for piece in range(pieces):
            work(piece)
        return
    job = _Job(work, pieces, stop)

    def start() -> None:
        for _ in range(workers):
            _jobs.put(job)

    def again() -> None:
        if _jobs.empty():
            _jobs.put(job)

    job.finish(start, lambda: _pool(1), again)
