"""Where the rows of A live, and how a kernel runs over them: in this process's memory, on threads.

A place offers two things. `map` runs a kernel that writes each row's own part of an output; the threads share out the
rows as they come. `sum` runs a kernel that adds into a k-vector; there the partial sums are fixed by A alone and added
in order, so that the result has the same bits for every number of workers.
"""

from __future__ import annotations

import _thread
import contextlib
import functools
import os
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._pattern import Indices, Pattern, index_dtype, searchsorted

# Up to so many entries two threads win nothing: waking them takes a tenth of a millisecond, visiting these takes three.
_INLINE = 2**20
_PIECE = 2**18  # entries a thread takes at a time, at least: its turn at the interpreter takes time as well
_SUM_PIECES = 8  # partial sums, at most
_PACK = 2**20  # bytes of a packed block, unless 32 rows are more: a few cache lines of each Fortran-ordered column
_EITHER_WAY = {"squares", "squares_of_many"}  # sums over all entries that are the same for A and Aᵀ
_COMPILED = tuple(map(np.dtype, (np.float64, np.float32, np.complex128, np.complex64, np.int32, np.int64)))


class Entries:
    """One number for each entry of A, where their owner has them: a matrix of A's shape, or a vector beside CSR indices.

    The kernels read C-contiguous values of the `compiled` dtypes where they are. Anything else (Fortran order, strides,
    foreign byte order, small integers) is copied block by block into a buffer of at most max(1 MiB, 32 rows) for each
    worker: one more pass through the cache, and no version of every kernel to compile for every such dtype.
    """

    def __init__(self, values: NDArray[Any], pattern: Pattern, compiled: tuple[np.dtype[Any], ...] = _COMPILED) -> None:
        readable = values.flags.aligned and values.dtype in compiled
        self.direct = readable and values.flags.c_contiguous
        self.values = frozen(values.reshape(-1) if self.direct else values)
        # The transposed, if that is what the kernels can read.
        self.transposed = frozen(values.T) if readable and values.flags.f_contiguous and not self.direct else None
        native = values.dtype.newbyteorder("=")
        self.dtype = native if native in compiled else np.dtype(np.float64)
        self._pattern = pattern

    def packed(self, i0: int, i1: int, buffers: list[NDArray[Any]]) -> tuple[NDArray[Any], int]:
        """The entries of rows ``i0 <= i < i1``, and the number of the first: all of them, if they can be read where they are.

        `buffers` are the caller's to keep: the last one is used, and replaced by a larger one where it is too small.
        """
        if self.direct:
            return self.values, 0
        pattern, values = self._pattern, self.values
        if pattern.indices is None:
            base, block = i0 * pattern.k, values[i0:i1]
        else:
            base = int(pattern.lo[i0])
            block = values[base : int(pattern.hi[i1 - 1])]
        if not buffers or buffers[-1].size < block.size:
            buffers[:] = [np.empty(block.size, self.dtype)]
        packed = buffers[-1][: block.size]
        if self.transposed is None:
            np.copyto(packed.reshape(block.shape), block)
        else:
            _kernel("transpose")(self.transposed, i0, packed.reshape(block.shape))
        return frozen(packed), base


class MemoryRows:
    """The rows of A in memory: a dense matrix, or the values of a CSR matrix."""

    def __init__(self, values: NDArray[Any], pattern: Pattern, workers: int) -> None:
        self._entries = Entries(values, pattern)
        self._square = pattern.entries == pattern.k**2  # no triangle
        self.pattern = pattern
        self.workers = workers
        self.tick: Callable[[int], object] | None = None  # told of the entries of each piece that `map` has done
        # Only A decides on the pieces: more of them where a partial sum, of k numbers, costs little beside its entries. A
        # power of two of them, so that as many threads share them evenly.
        pieces = _SUM_PIECES
        while pieces > 1 and pattern.entries < pieces * (4 * pattern.k + _PIECE):
            pieces //= 2
        self._sum_bounds = _bounds(pattern, 0, pattern.k, pieces)

    def map(
        self,
        kernel: str,
        *args: Any,
        rows: tuple[int, int] | None = None,
        columns: int = 1,
        structure: bool = False,
        target: Entries | None = None,
    ) -> None:
        """Run a kernel over all rows, or ``rows[0] <= i < rows[1]``, of which each entry makes so many `columns`.

        With `structure`, the kernel is one that does not read A's values; with a `target`, it reads that beside them.
        """
        self.pattern.check_unchanged()
        if rows is None:
            (i0, i1), entries = (0, self.pattern.k), self.pattern.entries
        else:
            i0, i1 = rows
            entries = int(self.pattern.first[i1]) - int(self.pattern.first[i0])
        if entries * columns <= _INLINE:
            self._run(kernel, i0, i1, args, target, structure=structure)
            return
        bounds = _bounds(self.pattern, i0, i1, min(entries * columns // _PIECE + 1, 8 * self.workers))

        def write(piece: int) -> None:
            self._run(kernel, bounds[piece], bounds[piece + 1], args, target, structure=structure)
            if self.tick is not None:
                self.tick(int(self.pattern.first[bounds[piece + 1]] - self.pattern.first[bounds[piece]]))

        on_threads(write, len(bounds) - 1, self.workers)

    def visited(self) -> tuple[Indices, Indices, Any]:
        """(i, j, p) of the entries that are visited: where they are, and which of A's values they are."""
        pattern, count = self.pattern, self.pattern.entries
        dtype = index_dtype(pattern.k, pattern.k, count)
        i, j = np.empty(count, dtype), np.empty(count, dtype)
        self.map("pairs", i, j, structure=True)
        if count == (pattern.k**2 if pattern.indices is None else pattern.indices.size):
            return i, j, slice(None)
        return i, j, np.arange(count) + np.repeat(pattern.lo - pattern.first[:-1], pattern.hi - pattern.lo)

    def diagonal(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """A's diagonal, in double precision, and which entries those are: -1 where there is none."""
        entries = self.pattern.diagonal_entries()
        found = entries >= 0
        diagonal = np.zeros(entries.size, np.complex128 if self._entries.dtype.kind == "c" else np.float64)
        diagonal[found] = self.at(entries[found])
        return diagonal, entries

    def at(self, entries: Indices) -> NDArray[Any]:
        """The values of these entries."""
        values = self._entries.values
        return values[entries] if values.ndim == 1 else values[np.divmod(entries, self.pattern.k)]

    def pair(self, x: NDArray[Any], v: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Two k-vectors as the kernels of a map want them: for sparse rows packed."""
        if self.pattern.indices is None:
            return x, v
        packed = np.empty((x.size, 2), x.dtype)
        packed[:, 0], packed[:, 1] = x, v
        return frozen(packed), None

    def sum(
        self,
        kernel: str,
        x: NDArray[Any] | tuple[NDArray[Any], ...],
        *args: Any,
        outputs: int = 1,
        extra: int = 0,
        columns: int | None = None,
        target: Entries | None = None,
    ) -> NDArray[Any]:
        """The sum, in the dtype of x, that a kernel adds up over all rows.

        x is a k-vector, and so is the sum, or with `columns` a matrix of so many; or x is several k-vectors, as a tuple or as rows of a
        matrix, and the sum as many rows as there are `outputs`, of k numbers and so many `extra` ones. For sparse rows the kernel is
        given the vectors and the sums packed, side by side, except with `columns`.

        Memory: the result, and for each worker one of its size (for sparse rows: and of that of x) and with `columns` four of its rows.
        """
        self.pattern.check_unchanged()
        dense = self.pattern.indices is None
        packed = not dense and columns is None
        bounds = self._sum_bounds
        several = isinstance(x, tuple) or x.ndim == 2
        given = x if isinstance(x, tuple) else (x,)
        vectors: list[NDArray[Any]] = list(x) if several else [x]  # type: ignore[list-item]  # it is no tuple then
        k, dtype, inputs = vectors[0].size, vectors[0].dtype, len(vectors)
        shape: tuple[int, ...] = (outputs, k + extra) if several else (k,)
        if columns is not None:
            shape = (k, columns)

        def part() -> NDArray[Any]:
            if not packed:
                return np.zeros(shape, dtype)
            out = _in_cache_lines(k + extra, inputs + outputs, dtype)
            for column, vector in enumerate(vectors):
                out[:k, column] = vector
            out[:, inputs:] = 0
            return out

        def add_rows(piece: int, out: NDArray[Any]) -> NDArray[Any]:
            room = () if columns is None else (np.empty((4 if dense and k >= 4 else 0, columns), dtype),)
            seen = (None,) * len(given) if packed else given
            self._run(kernel, bounds[piece], bounds[piece + 1], (*seen, *args, *room, out), target)
            if not packed:
                return out
            return out[:, inputs:].T if several else out[:, 1]

        if len(bounds) == 2:
            sums = add_rows(0, part())
            return sums.copy() if packed else sums
        total = np.zeros(shape, dtype)
        spare: list[NDArray[Any]] = []  # a thread that is done with one uses it again: fresh memory is slow
        turn = threading.Condition()
        added = 0
        failed = False

        def add(piece: int) -> None:
            nonlocal added, failed
            try:
                try:
                    out = spare.pop()
                except IndexError:
                    out = part()
                sums = add_rows(piece, out)
                with turn:
                    # Pieces are taken in order, so those before this one are done or under way: no deadlock.
                    turn.wait_for(lambda: added == piece or failed)
                    if not failed:
                        with np.errstate(over="ignore", invalid="ignore"):  # as in the kernels
                            np.add(total, sums, out=total)
                    added += 1
                    turn.notify_all()
                sums[:] = 0
                spare.append(out)
            except BaseException:
                with turn:
                    failed = True
                    turn.notify_all()
                raise

        # A sum over a sparse row takes twice as long for each entry.
        numbers = self.pattern.entries * (columns or inputs) * (1 if dense else 2)
        workers = self.workers if numbers > _INLINE else 1
        on_threads(add, len(bounds) - 1, workers)
        return total

    def _run(
        self,
        kernel: str,
        i0: int,
        i1: int,
        args: tuple[Any, ...],
        target: Entries | None = None,
        *,
        structure: bool = False,
    ) -> None:
        run = _kernel(kernel)
        pattern, own = self.pattern, self._entries
        spans = (pattern.lo, pattern.hi, pattern.first, pattern.grid)
        if structure:
            run(None, pattern.indices, 0, *spans, i0, i1, *args)
        elif own.direct and (target is None or target.direct):
            args = args if target is None else (target.values, 0, *args)
            run(own.values, pattern.indices, 0, *spans, i0, i1, *args)
        elif own.transposed is not None and self._square and kernel in _EITHER_WAY:
            run(own.transposed.reshape(-1), None, 0, *spans, i0, i1, *args)
        else:
            rooms: tuple[list[NDArray[Any]], list[NDArray[Any]]] = ([], [])
            for b0, b1 in self._blocks(i0, i1):
                data, base = own.packed(b0, b1, rooms[0])
                beside = () if target is None else target.packed(b0, b1, rooms[1])
                indices = None if pattern.indices is None else pattern.indices[base:]
                run(data, indices, base, *spans, b0, b1, *beside, *args)

    def _blocks(self, i0: int, i1: int) -> Iterator[tuple[int, int]]:
        """Consecutive rows whose entries fit into a buffer."""
        pattern, itemsize = self.pattern, self._entries.dtype.itemsize
        while i0 < i1:
            if pattern.indices is None:
                stop = min(i0 + max(32, _PACK // (pattern.k * itemsize)), i1)
            else:
                end = int(pattern.lo[i0]) + _PACK // itemsize
                stop = min(max(searchsorted(pattern.hi, end, side="right"), i0 + 1), i1)
            yield i0, stop
            i0 = stop


@functools.cache
def _kernel(name: str) -> Callable[..., None]:
    """A compiled kernel. Importing Numba takes longer than importing everything else, so it is left to the first one."""
    from . import _kernels

    return getattr(_kernels, name)


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only view. Numba takes read-only arrays for a type of their own: this way there is one, not two."""
    view = array.view()
    view.setflags(write=False)
    return view


def _in_cache_lines(rows: int, columns: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """An empty array that starts where a cache line does, so that rows of a power of two of numbers do not straddle two."""
    memory = np.empty(rows * columns + 64 // dtype.itemsize, dtype)
    start = -memory.ctypes.data % 64 // dtype.itemsize
    return memory[start : start + rows * columns].reshape(rows, columns)


def _bounds(pattern: Pattern, i0: int, i1: int, pieces: int) -> list[int]:
    """Rows at which to cut ``i0 … i1`` into pieces of about the same number of entries."""
    begin, end = int(pattern.first[i0]), int(pattern.first[i1])
    targets = [begin + (end - begin) * piece // pieces for piece in range(1, pieces)]
    inner = (searchsorted(pattern.first, target) for target in targets)
    return sorted({i0, *(min(max(i, i0), i1) for i in inner), i1}) if i1 > i0 else [i0, i1]


# --- threads --------------------------------------------------------------------------------------------------------

# A thread pool that Ctrl-C cannot put out of order. KeyboardInterrupt is raised in the main thread, between any two
# bytecodes, so that thread touches no lock that another one needs, and does no work of its own: it puts a job into a
# queue (one C call, which happens or not) and waits. concurrent.futures does more than that at both ends, and hangs.

_jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
_threads = 0


def _forget_threads() -> None:
    """A forked child has none of its parent's threads, and jobs that were waiting are the parent's."""
    global _jobs, _threads
    _jobs, _threads = queue.SimpleQueue(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


class _Job:
    """Pieces of work for several threads. Only those threads take its lock."""

    def __init__(self, work: Callable[[int], None], pieces: int) -> None:
        self._work = work
        self._pieces = pieces
        self._next = 0
        self._active = 0
        self._lock = threading.Lock()
        self._finished = threading.Lock()
        self._finished.acquire()
        self.over = False
        self.stopped = False
        self.error: BaseException | None = None

    def run(self) -> None:
        """Take pieces, in ascending order, until there are no more, or one fails."""
        with self._lock:
            if self.over:
                return
            self._active += 1
        while (piece := self._take()) is not None:
            try:
                self._work(piece)
            except BaseException as error:  # noqa: BLE001  # raised in the thread that asked for the work
                self.stopped, self.error = True, self.error or error
        with self._lock:
            self._active -= 1
            if self._active == 0:
                self.over = True
                self._finished.release()

    def _take(self) -> int | None:
        with self._lock:
            if self.stopped or self._next == self._pieces:
                return None
            self._next += 1
            return self._next - 1

    def wait(self) -> None:
        while not self.over:
            self._finished.acquire()


def _serve(jobs: queue.SimpleQueue[_Job]) -> None:
    while True:
        jobs.get().run()


def on_threads(work: Callable[[int], None], pieces: int, workers: int) -> None:
    """Call ``work(piece)`` for each piece, in ascending order, on up to `workers` threads.

    An exception in one of them, or Ctrl-C here, stops them all after the pieces that they are at, and is raised here
    when they have stopped.
    """
    global _threads
    workers = min(workers, pieces)
    try:
        while _threads < workers and workers > 1:
            _thread.start_new_thread(_serve, (_jobs,))
            _threads += 1
    except RuntimeError:  # the system has no thread left, or the interpreter is shutting down
        workers = min(workers, _threads)
    if workers <= 1:
        for piece in range(pieces):
            work(piece)
        return
    job = _Job(work, pieces)
    try:
        for _ in range(workers):
            _jobs.put(job)
        job.wait()
    except BaseException:
        while not job.over:
            with contextlib.suppress(BaseException):  # another Ctrl-C, while the threads come to an end
                job.stopped = True
                _jobs.put(job)  # or else no thread may have heard of it
                job.wait()
        raise
    if job.error is not None:
        raise job.error
