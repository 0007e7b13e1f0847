"""Where the rows of A live, and how a kernel runs over them: in this process's memory, on threads.

A place offers two things. `map` runs a kernel that writes each row's own part of an output; the threads share out the
rows as they come. `sum` runs a kernel that adds into a k-vector; there the partial sums are fixed by A alone and added
in order, so that the result has the same bits for every number of workers. Rows elsewhere are `_streamed`.
"""

from __future__ import annotations

import _thread
import functools
import math
import mmap
import os
import queue
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ._pattern import Indices, Pattern, frozen, index_dtype, searchsorted

# Up to so many entries two threads win nothing: waking them takes a tenth of a millisecond, visiting these takes three.
_INLINE = 2**20
_PIECE = (
    2**18
)  # entries a thread takes at a time, at least: its turn at the interpreter takes time as well
_SUM_PIECES = 8  # partial sums, at most
_PACK = (
    2**20
)  # bytes of a packed block, unless 32 rows are more: a few cache lines of each Fortran-ordered column
_MAPPED = 2**16  # bytes of a buffer that is worth the system's attention
_EITHER_WAY = {"squares", "squares_of_many"}  # sums over all entries that are the same for A and Aᵀ
_COMPILED = tuple(
    map(np.dtype, (np.float64, np.float32, np.complex128, np.complex64, np.int32, np.int64))
)


class Room:
    """A buffer that is used again, and replaced by a larger one where it is too small.

    With `returned` its memory is the system's again as soon as it is dropped: what goes back to malloc may stay with the process.
    """

    def __init__(self, *, returned: bool = False) -> None:
        self._bytes, self._returned = np.empty(0, np.uint8), returned

    def take(self, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        nbytes = count * dtype.itemsize
        if self._bytes.size < nbytes:
            self._bytes = np.empty(0, np.uint8)  # before the new one comes, the old one goes
            own = self._returned and nbytes >= _MAPPED
            self._bytes = (
                np.frombuffer(_from_the_system(nbytes), np.uint8)
                if own
                else np.empty(nbytes, np.uint8)
            )
        return self._bytes[:nbytes].view(dtype)


def _from_the_system(nbytes: int) -> mmap.mmap:
    """Anonymous memory, which goes back when nobody refers to it; Python's default is to share it with forked children."""
    if sys.platform == "win32":
        return mmap.mmap(-1, nbytes)
    return mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class Entries:
    """One number for each entry of A, where their owner has them: a matrix of A's shape, or a vector beside CSR indices.

    The kernels read C-contiguous values of the `compiled` dtypes where they are. Anything else (Fortran order, strides,
    foreign byte order, small integers) is copied block by block into a buffer of at most max(1 MiB, 32 rows) for each
    worker: one more pass through the cache, and no version of every kernel to compile for every such dtype.
    """

    def __init__(
        self,
        values: NDArray[Any],
        pattern: Pattern,
        compiled: tuple[np.dtype[Any], ...] = _COMPILED,
    ) -> None:
        readable = values.flags.aligned and values.dtype in compiled
        self.direct = readable and values.flags.c_contiguous
        self.values = frozen(values.reshape(-1) if self.direct else values)
        # The transposed, if that is what the kernels can read.
        self.transposed = (
            frozen(values.T) if readable and values.flags.f_contiguous and not self.direct else None
        )
        native = values.dtype.newbyteorder("=")
        self.dtype = native if native in compiled else np.dtype(np.float64)
        self._pattern = pattern

    def packed(self, i0: int, i1: int, room: Room) -> tuple[NDArray[Any], int]:
        """The entries of rows ``i0 <= i < i1``, and the number of the first: all of them, if they can be read where they are."""
        if self.direct:
            return self.values, 0
        pattern, values = self._pattern, self.values
        if pattern.indices is None:
            base, block = i0 * pattern.k, values[i0:i1]
        else:
            base = int(pattern.lo[i0])
            block = values[base : int(pattern.hi[i1 - 1])]
        packed = room.take(block.size, self.dtype)
        if self.transposed is None:
            np.copyto(packed.reshape(block.shape), block)
        else:
            compiled_kernel("transpose")(self.transposed, i0, packed.reshape(block.shape))
        return frozen(packed), base

    @property
    def entry_bytes(self) -> int:
        """What an entry takes in a buffer."""
        return 0 if self.direct else self.dtype.itemsize

    def at(self, entries: Indices) -> NDArray[Any]:
        """The numbers of these entries of A."""
        values = self.values
        return values[entries] if values.ndim == 1 else values[np.divmod(entries, self._pattern.k)]


class Weights:
    """A number, or a row of them, for each row of J: w of ``Jᵀ w``.

    With `flipped`, the rows of the place are A's columns, and so are their weights taken.
    """

    def __init__(
        self, w: NDArray[Any], pattern: Pattern, dtype: np.dtype[Any], *, flipped: bool = False
    ) -> None:
        readable = w.flags.aligned and w.flags.c_contiguous and w.dtype in (dtype, _single(dtype))
        self.direct = readable and not flipped
        self.dtype, self._pattern, self._flipped = dtype, pattern, flipped
        self.values = frozen(w)

    def packed(self, i0: int, i1: int, room: Room) -> tuple[NDArray[Any], int]:
        """The weights of rows ``i0 <= i < i1`` of A, and the number of the first: all of them, if they can be read where they are."""
        if self.direct:
            return self.values, 0
        pattern, w = self._pattern, self.values
        if self._flipped:
            k = pattern.k
            block, base = np.swapaxes(w.reshape(k, k, *w.shape[1:])[:, i0:i1], 0, 1), i0 * k
        else:
            base = i0 * pattern.grid if pattern.grid else int(pattern.first[i0])
            block = w[base : i1 * pattern.grid if pattern.grid else int(pattern.first[i1])]
        packed = room.take(block.size, self.dtype).reshape(block.shape)
        np.copyto(packed, block)
        return frozen(
            packed.reshape(math.prod(block.shape[: block.ndim - w.ndim + 1]), *w.shape[1:])
        ), base

    @property
    def entry_bytes(self) -> int:
        """What an entry takes in a buffer."""
        return 0 if self.direct else self.dtype.itemsize

    def at_places(self, i: NDArray[Any], j: NDArray[Any]) -> NDArray[Any]:
        """The weights of the entries that are visited, where those are."""
        grid = self._pattern.grid
        return self.values if grid is None else self.values[i.astype(np.int64) * grid + j]

    def matrix(self) -> NDArray[Any]:
        """Beside a dense A: a k×k array, with zeros beside a triangle."""
        pattern, k, w = self._pattern, self._pattern.k, self.values
        if w.size == k * k:
            return w.reshape(k, k).T if self._flipped else w.reshape(k, k)
        W = np.zeros((k, k), w.dtype)
        for i in range(k):
            j0 = i * k
            W[i, pattern.lo[i] - j0 : pattern.hi[i] - j0] = w[
                pattern.first[i] : pattern.first[i + 1]
            ]
        return W

    def at(self, entries: Indices) -> NDArray[Any]:
        """The weights of these entries of A, which are on its diagonal."""
        pattern = self._pattern
        if pattern.indices is None:
            i = entries // pattern.k
        else:
            assert pattern.indptr is not None
            i = np.searchsorted(pattern.indptr, entries, side="right") - 1
        rows = i * (pattern.k + 1) if pattern.grid else pattern.first[i] + (entries - pattern.lo[i])
        return self.values[rows]


def _single(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.complex64 if dtype.kind == "c" else np.float32)


class Rows:
    """What all places have in common: numbers of A that are not a kernel's, gathered by the two things that they offer."""

    pattern: Pattern
    workers: int
    dtype: np.dtype[Any]  # in which the kernels are given A
    entries: Any  # A's numbers, by themselves
    tick: Callable[[int], object] | None = (
        None  # told of the entries of each piece that `map` has done
    )
    memory: int | None = None  # bytes that may be held at a time, where there is such a limit
    flipped = False  # whether these rows are the columns of the matrix whose rows J goes by

    def map(self, kernel: str, *args: Any, **how: Any) -> None:
        raise NotImplementedError

    def sum(
        self, kernel: str, x: NDArray[Any] | tuple[NDArray[Any], ...], *args: Any, **how: Any
    ) -> NDArray[Any]:
        raise NotImplementedError

    def at(self, entries: Indices) -> NDArray[Any]:
        """The values of these entries, of which there are not many: O(k)."""
        raise NotImplementedError

    def check_budget(self, target: Any) -> None:
        """Refuse a budget that is too small for what is beside A."""

    def diagonal(self) -> NDArray[Any]:
        """A's diagonal, in double precision; 0 where it stores none."""
        raise NotImplementedError

    def diagonal_of(self, target: Any) -> NDArray[Any]:
        """The same of what is beside A, in float64."""
        raise NotImplementedError

    def any_nonzero(self, target: Any) -> bool:
        """Whether a number of what is beside A is not zero, however small: without a pass over A, where it is in memory."""
        return bool(np.any(target.values))

    def pair(self, x: NDArray[Any], v: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Two k-vectors as the kernels of a map want them: for sparse rows packed."""
        if self.pattern.indices is None:
            return x, v
        packed = np.empty((x.size, 2), x.dtype)
        packed[:, 0], packed[:, 1] = x, v
        return frozen(packed), None

    def visited(self) -> tuple[Indices, Indices]:
        """(i, j) of the entries that are visited."""
        pattern, count = self.pattern, self.pattern.entries
        dtype = index_dtype(pattern.k, pattern.k, count)
        i, j = np.empty(count, dtype), np.empty(count, dtype)
        self.map("pairs", i, j, structure=True, compact=True)
        return i, j

    def positions(self) -> Any:
        """Which of A's values those are."""
        pattern = self.pattern
        if pattern.entries == (pattern.k**2 if pattern.indices is None else pattern.indices.size):
            return slice(None)
        return np.arange(pattern.entries) + np.repeat(
            pattern.lo - pattern.first[:-1], pattern.hi - pattern.lo
        )

    def values(self, target: Any = None) -> NDArray[Any]:
        """A's numbers at the entries that are visited, or the target's, in double precision: a vector of so many."""
        k, dtype = self.pattern.k, np.dtype(np.complex128 if self.dtype.kind == "c" else np.float64)
        found = np.empty(self.pattern.entries, dtype)
        if target is None:
            self.map("value", None, 0, frozen(np.ones(k, dtype)), found, compact=True)
            return found
        self.map("value", frozen(np.zeros(k, dtype)), found, compact=True, target=target)  # 0 - y
        return np.negative(found, out=found)

    def matrix(self, target: Any = None) -> NDArray[Any]:
        """The same of a dense A as a k×k array."""
        pattern, k = self.pattern, self.pattern.k
        found = self.values(target)
        if found.size == k * k:
            return found.reshape(k, k)
        out = np.zeros((k, k), found.dtype)
        for i in range(k):
            j0 = i * k
            out[i, pattern.lo[i] - j0 : pattern.hi[i] - j0] = found[
                pattern.first[i] : pattern.first[i + 1]
            ]
        return out

    def _gathered_diagonal(self, numbers: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
        entries = self.pattern.diagonal_entries()
        found = entries >= 0
        diagonal = np.zeros(entries.size, dtype)
        diagonal[found] = numbers.at(entries[found])
        return diagonal

    def spans(self, *, compact: bool = False) -> tuple[Any, ...]:
        """What every kernel is told of the rows. With `compact`, as if J had a row for each entry that is visited."""
        pattern = self.pattern
        return pattern.lo, pattern.hi, pattern.first, None if compact else pattern.grid


class Sum:
    """The k-vectors that a sum is made of: those that are given, and how its parts are laid out for the kernels.

    x is a k-vector, and so is the sum, or with `columns` a matrix of so many; or x is several k-vectors, as a tuple or as rows of a
    matrix, and the sum as many rows as there are `outputs`, of k numbers and so many `extra` ones. For sparse rows the kernel is
    given the vectors and the sums packed, side by side, except with `columns`.
    """

    def __init__(
        self,
        x: NDArray[Any] | tuple[NDArray[Any], ...],
        outputs: int,
        extra: int,
        columns: int | None,
        *,
        dense: bool,
    ) -> None:
        self.several = isinstance(x, tuple) or x.ndim == 2
        self._given = x if isinstance(x, tuple) else (x,)
        self._vectors: list[NDArray[Any]] = list(x) if self.several else [x]  # type: ignore[list-item]  # it is no tuple then
        self._k, self._extra, self._outputs, self._columns = (
            self._vectors[0].size,
            extra,
            outputs,
            columns,
        )
        self.dtype, self.inputs = self._vectors[0].dtype, len(self._vectors)
        self.packed, self._dense = not dense and columns is None, dense
        self.shape: tuple[int, ...] = (outputs, self._k + extra) if self.several else (self._k,)
        if columns is not None:
            self.shape = (self._k, columns)

    @property
    def part_nbytes(self) -> int:
        """What a part takes."""
        numbers = self._k * (self.inputs + self._outputs) if self.packed else math.prod(self.shape)
        return numbers * self.dtype.itemsize

    def part(self) -> NDArray[Any]:
        """Where a kernel may add."""
        if not self.packed:
            return np.zeros(self.shape, self.dtype)
        out = _in_cache_lines(self._k + self._extra, self.inputs + self._outputs, self.dtype)
        for column, vector in enumerate(self._vectors):
            out[: self._k, column] = vector
        out[:, self.inputs :] = 0
        return out

    def arguments(self, args: tuple[Any, ...], out: NDArray[Any]) -> tuple[Any, ...]:
        """The last arguments of a kernel that adds into a part."""
        seen = (None,) * len(self._given) if self.packed else self._given
        four = 4 if self._dense and self._k >= 4 else 0
        room = () if self._columns is None else (np.empty((four, self._columns), self.dtype),)
        return (*seen, *args, *room, out)

    def found(self, out: NDArray[Any]) -> NDArray[Any]:
        """The sums in a part."""
        if not self.packed:
            return out
        return out[:, self.inputs :].T if self.several else out[:, 1]


class MemoryRows(Rows):
    """The rows of A in memory: a dense matrix, or the values of a CSR matrix."""

    def __init__(self, values: NDArray[Any], pattern: Pattern, workers: int) -> None:
        self.entries = Entries(values, pattern)
        self.dtype = self.entries.dtype
        self._square = pattern.entries == pattern.k**2  # no triangle
        self.pattern = pattern
        self.workers = workers
        # Only A decides on the pieces. A power of two of them, so that as many threads share them evenly.
        self._sum_bounds = _bounds(pattern, 0, pattern.k, partial_sums(pattern, _SUM_PIECES))

    def map(
        self,
        kernel: str,
        *args: Any,
        rows: tuple[int, int] | None = None,
        columns: int = 1,
        structure: bool = False,
        compact: bool = False,
        target: Any = None,
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
            self._run(kernel, i0, i1, args, target, structure=structure, compact=compact)
            return
        bounds = _bounds(
            self.pattern, i0, i1, min(entries * columns // _PIECE + 1, 8 * self.workers)
        )

        def write(piece: int) -> None:
            self._run(
                kernel,
                bounds[piece],
                bounds[piece + 1],
                args,
                target,
                structure=structure,
                compact=compact,
            )
            if self.tick is not None:
                self.tick(
                    int(self.pattern.first[bounds[piece + 1]] - self.pattern.first[bounds[piece]])
                )

        on_threads(write, len(bounds) - 1, self.workers)

    def diagonal(self) -> NDArray[Any]:
        return self._gathered_diagonal(
            self.entries, np.dtype(np.complex128 if self.dtype.kind == "c" else np.float64)
        )

    def diagonal_of(self, target: Any) -> NDArray[Any]:
        return self._gathered_diagonal(target, np.dtype(np.float64))

    def at(self, entries: Indices) -> NDArray[Any]:
        return self.entries.at(entries)

    def sum(
        self,
        kernel: str,
        x: NDArray[Any] | tuple[NDArray[Any], ...],
        *args: Any,
        outputs: int = 1,
        extra: int = 0,
        columns: int | None = None,
        target: Any = None,
    ) -> NDArray[Any]:
        """The sum, in the dtype of x, that a kernel adds up over all rows: of which vectors, and how many, see `Sum`.

        Memory: the result, and for each worker one of its size (for sparse rows: and of that of x) and with `columns` four of its rows.
        """
        self.pattern.check_unchanged()
        dense, bounds = self.pattern.indices is None, self._sum_bounds
        of = Sum(x, outputs, extra, columns, dense=dense)

        def add_rows(piece: int, out: NDArray[Any]) -> NDArray[Any]:
            self._run(kernel, bounds[piece], bounds[piece + 1], of.arguments(args, out), target)
            return of.found(out)

        if len(bounds) == 2:
            sums = add_rows(0, of.part())
            return sums.copy() if of.packed else sums
        total = np.zeros(of.shape, of.dtype)
        spare: list[
            NDArray[Any]
        ] = []  # a thread that is done with one uses it again: fresh memory is slow
        stop = Stop()
        order = InOrder(stop)

        def add(piece: int) -> None:
            try:
                out = spare.pop()
            except IndexError:
                out = of.part()
            sums = add_rows(piece, out)
            # Pieces are taken in order, so those before this one are done or under way: no deadlock.
            if not order.wait(piece):
                return
            with np.errstate(over="ignore", invalid="ignore"):  # as in the kernels
                np.add(total, sums, out=total)
            order.done(piece)
            sums[:] = 0
            spare.append(out)

        # A sum over a sparse row takes twice as long for each entry.
        numbers = self.pattern.entries * (columns or of.inputs) * (1 if dense else 2)
        workers = self.workers if numbers > _INLINE else 1
        on_threads(add, len(bounds) - 1, workers, stop)
        return total

    def _run(
        self,
        kernel: str,
        i0: int,
        i1: int,
        args: tuple[Any, ...],
        target: Any = None,
        *,
        structure: bool = False,
        compact: bool = False,
    ) -> None:
        run = compiled_kernel(kernel)
        pattern, own = self.pattern, self.entries
        spans = self.spans(compact=compact)
        if structure:
            run(None, pattern.indices, 0, *spans, i0, i1, *args)
        elif own.direct and (target is None or target.direct):
            args = args if target is None else (target.values, 0, *args)
            run(own.values, pattern.indices, 0, *spans, i0, i1, *args)
        elif own.transposed is not None and self._square and kernel in _EITHER_WAY:
            run(own.transposed.reshape(-1), None, 0, *spans, i0, i1, *args)
        else:
            rooms = Room(), Room()
            for b0, b1 in self._blocks(i0, i1):
                data, base = own.packed(b0, b1, rooms[0])
                beside = () if target is None else target.packed(b0, b1, rooms[1])
                indices = None if pattern.indices is None else pattern.indices[base:]
                run(data, indices, base, *spans, b0, b1, *beside, *args)

    def _blocks(self, i0: int, i1: int) -> Iterator[tuple[int, int]]:
        """Consecutive rows whose entries fit into a buffer."""
        pattern, itemsize = self.pattern, self.dtype.itemsize
        while i0 < i1:
            if pattern.indices is None:
                stop = min(i0 + max(32, _PACK // (pattern.k * itemsize)), i1)
            else:
                end = int(pattern.lo[i0]) + _PACK // itemsize
                stop = min(max(searchsorted(pattern.hi, end, side="right"), i0 + 1), i1)
            yield i0, stop
            i0 = stop


def partial_sums(pattern: Pattern, most: int) -> int:
    """How many partial sums to make: many where one, of k numbers, costs little beside its entries. A power of two."""
    pieces = most
    while pieces > 1 and pattern.entries < pieces * (4 * pattern.k + _PIECE):
        pieces //= 2
    return pieces


@functools.cache
def compiled_kernel(name: str) -> Callable[..., Any]:
    """A compiled kernel. Importing Numba takes longer than importing everything else, so it is left to the first one."""
    from . import _kernels

    return getattr(_kernels, name)


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
    os.register_at_fork(after_in_child=_forget_threads)
    os.register_at_fork(after_in_child=_renew_turns)


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
