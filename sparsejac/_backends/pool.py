"""The pool of threads. Its jobs do not hang after Ctrl-C or a lack of memory."""

from __future__ import annotations

import _thread
import functools
import os
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any

from .._system.threads import leave_no_record

# The main thread and the pool must survive two kinds of exceptions.
#
# KeyboardInterrupt is raised in the main thread, between any two bytecodes. So that thread takes no
# lock that another thread needs, and does no work of its own. It puts a job into a queue and waits.
# The put is one C call, which happens completely or not at all.
#
# MemoryError can be raised at any bytecode of any thread, even before the first bytecode of a new
# thread. So a waiting thread does not rely on a notification. It checks at intervals whether the
# other threads live.
#
# concurrent.futures hangs in both cases.

# Seconds after which a waiting main thread checks whether the threads live. It then also sees a
# Ctrl-C that came just before it began to wait.
_PATIENCE = 0.05
_GLANCE = 0.01  # seconds after which a thread that waits for another one checks the cancel flag
_LOST = (
    "a thread ended because there was no memory left for it: free memory, "
    "or pass a smaller workers="
)
_jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
_threads: list[_Thread] = []
_process = 0  # the number of forks between the started process and this one


def _forget_threads() -> None:
    """Forget threads and jobs in a forked child.

    The child has none of its parent's threads, and jobs that were waiting belong to the parent.
    """
    global _jobs, _threads, _process
    _jobs, _threads, _process = queue.SimpleQueue(), [], _process + 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


class CancelFlag:
    """The cancel flag. Ctrl-C may set it, as no lock is taken for it."""

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
    """Lets threads do a part of their pieces in order: piece p after piece p - 1, from piece 0 on.

    If a thread fails anywhere, it sets `stop`, and the waiting threads see that soon.
    """

    def __init__(self, stop: CancelFlag) -> None:
        self._stop, self._next = stop, 0
        self._waiting: dict[int, threading.Lock] = {}

    def wait(self, piece: int) -> bool:
        """Wait until it is the turn of this piece. Return False if the job is cancelled."""
        bell = _taken_lock()
        self._waiting[piece] = bell
        while self._next != piece:
            if self._stop.is_set:
                return False
            bell.acquire(timeout=_GLANCE)
        return not self._stop.is_set

    def done(self, piece: int) -> None:
        """Give the turn to the next piece."""
        self._waiting.pop(piece, None)
        self._next = piece + 1
        bell = self._waiting.get(piece + 1)
        if bell is not None:
            bell.release()


class _Thread:
    """A thread that others can check for life, whatever it dies of."""

    def __init__(self, target: Callable[..., None], *args: Any) -> None:
        # Only the interpreter refers to this function, and only while the thread runs. No frame of
        # the thread may refer to it: a traceback could keep that frame alive.
        function = functools.partial(target, self, *args)
        self._function, self._process = weakref.ref(function), _process
        _thread.start_new_thread(function, ())

    def lives(self) -> bool:
        return self._process == _process and self._function() is not None


def _nothing(piece: int) -> None:
    """The work of a job that is over."""


class _Job:
    """Pieces of work for several threads. Only these threads take its lock."""

    def __init__(
        self,
        work: Callable[[int], None],
        pieces: int,
        stop: CancelFlag | None = None,
        *,
        last: bool = False,
    ) -> None:
        self._work = work
        self._last = last  # whether its threads end with this job
        self._pieces = pieces
        self._next = 0
        self._inside: set[_Thread | None] = set()  # the threads that work on it
        self._lock = _taken_lock()
        self._lock.release()
        self._finished = _taken_lock()
        self.over = False
        self.stop = stop or CancelFlag()
        self.error: BaseException | None = None

    def run(self, thread: _Thread | None = None) -> None:
        """Do pieces, in ascending order, until none is left or one fails.

        Only a lack of memory is raised here. Exceptions of the work go to `error`.
        """
        # `add` comes before the check of `over`: `_find_lost` does the two in the other order.
        self._inside.add(thread)
        try:
            while not self.over and (piece := self._take()) is not None:
                self._work(piece)
        except BaseException as error:  # noqa: BLE001  # `finish` raises it
            self.stop.is_set = True
            if self.error is None:
                self.error = error
        if self._last:
            leave_no_record()
        self._inside.discard(thread)
        if not self._inside:
            self.over = True
            try:  # noqa: SIM105  # here and below, contextlib.suppress would need memory
                self._finished.release()
            except RuntimeError:  # another thread left at the same moment, and has released it
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
        """Start the job, wait until no thread works on it, and raise its error.

        `threads` returns the threads that may work on it. `again` tells them once more that there
        is work. An exception here, such as Ctrl-C, cancels the job, and is raised when it has
        ended. Afterwards the job does not refer to the work.
        """
        try:
            start()
            self._wait(threads, again)
        except BaseException:
            while not self.over:
                try:
                    self.stop.is_set = True
                    self._inside.discard(None)  # this thread itself
                    self._find_lost(threads())
                    self._wait(threads, again)
                except BaseException:  # noqa: BLE001, S112  # another Ctrl-C: the first is raised
                    continue
            raise
        finally:
            # A slow thread may hold this job for a while. It must not hold a result for as long.
            self._work = _nothing
        error, self.error = self.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback refers to this frame

    def _wait(self, threads: Callable[[], list[_Thread]], again: Callable[[], object]) -> None:
        while not self.over:
            if not self._finished.acquire(timeout=_PATIENCE):
                self._find_lost(threads())
                if not self._inside:
                    again()  # a thread may have died after it took the job from the queue

    def _find_lost(self, threads: list[_Thread]) -> None:
        """End the job if a thread has died that worked on it, or if no thread is left for it."""
        # Find the dead threads first, and what they left behind second: in between, a thread may
        # end normally.
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
        if self.stop.is_set and not self._inside:  # a thread that comes now sees the flag
            self.over = True


def _serve(thread: _Thread, jobs: queue.SimpleQueue[_Job]) -> None:
    """Run jobs on a thread of the pool. The thread ends if there is no memory for it."""
    try:
        while True:
            jobs.get().run(thread)
    except BaseException:  # noqa: BLE001, S110
        pass


def _run(thread: _Thread, job: _Job) -> None:
    """Run one job on a thread of its own."""
    try:  # noqa: SIM105
        job.run(thread)
    except BaseException:  # noqa: BLE001, S110
        pass


def aside(work: Callable[[], None], stop: CancelFlag) -> None:
    """Do work on a thread of its own, so that Ctrl-C does not interrupt it while it owns resources.

    Ctrl-C sets `stop`, which the work checks often. It is raised here when the work has ended.
    """
    _on_new_threads(_Job(lambda _: work(), 1, stop, last=True), 1)


def on_own_threads(
    work: Callable[[int], None], pieces: int, workers: int, stop: CancelFlag | None = None
) -> None:
    """Do what `on_threads` does, on threads that end with the work.

    The work may call code of the user. It must not be started in the main thread: see `aside`. A
    piece that fails sets `stop`.
    """
    if pieces:
        _on_new_threads(_Job(work, pieces, stop, last=True), min(workers, pieces))


def _on_new_threads(job: _Job, count: int) -> None:
    started: list[_Thread] = []

    def start() -> None:
        try:
            # Ctrl-C may come before a new thread is in the list. That thread then sees the cancel
            # flag.
            while len(started) < count:
                started.append(_Thread(_run, job))
        except RuntimeError:  # the system has no thread left, or the interpreter is shutting down
            if not started:
                job.run()

    job.finish(start, lambda: started)


def _pool(workers: int) -> list[_Thread]:
    """The living threads of the pool. New ones are started until there are `workers`."""
    global _threads
    alive = [thread for thread in _threads if thread.lives()] if _threads else []
    try:
        while len(alive) < workers:
            alive.append(_Thread(_serve, _jobs))
    except RuntimeError:  # the system has no thread left, as above
        pass
    finally:
        _threads = alive
    return alive


def on_threads(
    work: Callable[[int], None], pieces: int, workers: int, stop: CancelFlag | None = None
) -> None:
    """Call ``work(piece)`` for each piece, in ascending order, on up to `workers` threads.

    An exception in one of them, or Ctrl-C here, sets `stop`. Then all threads stop after their
    current pieces, and the exception is raised here.
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
