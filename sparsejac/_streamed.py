"""Rows that are not in memory, and how a kernel runs over them: block after block, while the next ones are read.

A pass opens its sources, which see to it that they are what they were, and starts threads of its own: one more than may
compute, so that one of them can read while the others do. Each takes the next block, in order, reads it into a buffer of its
own, and runs the kernel on it. When the pass is over, or has failed, threads, files and buffers are gone.

In a first pass the blocks are looked at as they come: whether they are finite, what is on the diagonal, and how small and large
they are. Of a file that has not changed nobody needs to know again.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _checks, _progress
from ._pattern import Indices, Pattern, Spans, frozen
from ._rows import InOrder, Room, Rows, Stop, Sum, Turn, Weights, aside, compiled_kernel, on_own_threads, partial_sums
from ._sources import CsrSource, DenseSource, Part, Source, row_blocks

_BLOCK = 2**23  # bytes of a block, if there is room: from here on the time between two of them does not show
_DEFAULT = 2**28  # bytes for blocks, where nobody says how many
_PARTIAL_SUMS = 4  # at most: a block waits for the one before it in the same sum
_DELAY = 2  # seconds before a bar is shown
_VECTORS = 48  # k-vectors of float64 that the largest of our solvers, the pattern and the partial sums take together
_OTHER = 2**21  # bytes of threads, and of what they leave with malloc
_COMPILED = tuple(map(np.dtype, (np.float64, np.float32, np.complex128, np.complex64, np.int32, np.int64)))


class Summary(NamedTuple):
    """What one pass has seen of a real matrix."""

    diagonal: NDArray[np.float64]
    lowest: float
    lowest_at: tuple[int, int]
    largest: float


class StreamedEntries:
    """The numbers of A, or of Y beside it, where they are read block by block; and what has been seen of them."""

    def __init__(
        self,
        source: Source,
        pattern: Pattern,
        name: str,
        *,
        check_finite: bool,
        compiled: tuple[np.dtype[Any], ...] = _COMPILED,
    ) -> None:
        self.extremes = False  # whether anybody wants to know of them
        self._noting = Turn()
        self.source, self.name, self._pattern, self.check_finite = source, name, pattern, check_finite
        self.dtype, self.direct, k = _kernel_dtype(source, compiled), False, pattern.k
        self.seen = np.zeros(k, np.bool_)
        self.diagonal = np.zeros(k, np.complex128 if self.dtype.kind == "c" else np.float64)
        self.lowest, self.lowest_at, self.largest = np.inf, (0, 0), -np.inf

    @property
    def extra(self) -> int:
        return self.source.extra

    @property
    def entry_bytes(self) -> int:
        """What an entry takes in the buffers of one thread."""
        return entry_bytes(self.source, self.dtype)

    def reader(self, opened: Any) -> Callable[..., Any]:
        """``read(i0, i1, rooms, …)`` for a pass over an opened source: numbers, columns or None, and the first entry's number."""
        return self._dense_reader(opened) if isinstance(self.source, DenseSource) else self._csr_reader(*opened)

    def _dense_reader(self, read: Any) -> Callable[..., Any]:
        pattern, k = self._pattern, self._pattern.k
        whole = pattern.entries == k * k

        def block_of(i0: int, i1: int, rooms: list[Room], *_: Any, **__: Any) -> tuple[NDArray[Any], None, int]:
            c0, c1 = 0, k
            if not whole:
                i = np.arange(i0, i1) * k
                c0, c1 = int(np.min(pattern.lo[i0:i1] - i)), int(np.max(pattern.hi[i0:i1] - i))
            return self._readable(read(Part(i0, i1, c0, max(c0, c1)), rooms[0]), rooms[1]), None, i0 * k

        return block_of

    def _csr_reader(self, read: Any, read_columns: Any) -> Callable[..., Any]:
        assert isinstance(self.source, CsrSource)
        indptr, dtype = self.source.indptr, self.source.index_dtype

        def block_of(i0: int, i1: int, rooms: list[Room], *, structure: bool) -> tuple[Any, Any, int]:
            base, end = int(indptr[i0]), int(indptr[i1])
            columns = _converted(read_columns(base, end, rooms[2]), dtype, rooms[3])
            data = None if structure else self._readable(read(base, end, rooms[0]), rooms[1])
            return data, frozen(columns), base

        return block_of

    def _readable(self, block: NDArray[Any], room: Room) -> NDArray[Any]:
        return frozen(_converted(block, self.dtype, room).reshape(-1))

    # --- what is seen -------------------------------------------------------------------------------------------------

    def look(self, i0: int, i1: int, data: NDArray[Any], base: int) -> None:
        """Look at the entries of rows ``i0 <= i < i1`` that are visited, unless they have been seen."""
        if self.seen[i0:i1].all() and not self.source.changeable:
            return
        if data.size:
            self._look_at_values(i0, i1, data, base)
        on_diagonal = diagonal_entries(self._pattern, i0, i1)
        found = on_diagonal >= 0
        self.diagonal[i0:i1][found] = data[on_diagonal[found] - base]
        self.seen[i0:i1] = True

    def _look_at_values(self, i0: int, i1: int, data: NDArray[Any], base: int) -> None:
        pattern = self._pattern
        lo, hi = pattern.lo[i0:i1], pattern.hi[i0:i1]
        if int(pattern.first[i1] - pattern.first[i0]) == data.size:
            self._look_at(data, base)
        else:
            for begin, end in zip(lo.tolist(), hi.tolist(), strict=True):
                if begin < end:
                    self._look_at(data[begin - base : end - base], begin)

    def _look_at(self, data: NDArray[Any], base: int) -> None:
        if self.check_finite and data.dtype.kind in "fc":
            parts = data.view(data.real.dtype) if data.dtype.kind == "c" else data
            if compiled_kernel("not_finite")(parts):
                q = int(np.argmin(np.isfinite(data)))
                raise _checks.not_finite(self.name, self.place(base + q), data[q])
        if self.extremes:
            lowest, largest = float(np.min(data)), float(np.max(data))
            with self._noting:
                if lowest < self.lowest and lowest < 0:  # of one that is not negative nobody asks where
                    self.lowest_at = self.place(base + int(np.argmax(data == lowest)))
                self.lowest = min(self.lowest, lowest)
                self.largest = max(self.largest, largest)

    def summary(self) -> Summary:
        """What has been seen."""
        return Summary(self.diagonal.astype(np.float64), self.lowest, self.lowest_at, self.largest)

    def place(self, entry: int) -> tuple[int, int]:
        """(i, j) of an entry, as its user counts."""
        pattern = self._pattern
        if pattern.indices is None:
            i, j = divmod(entry, pattern.k)
        else:
            assert pattern.indptr is not None
            i = int(np.searchsorted(pattern.indptr, entry, side="right")) - 1
            j = int(pattern.indices[entry : entry + 1][0])
        return (j, i) if self.source.transposed else (i, j)


class Block(NamedTuple):
    """Rows i0 ≤ i < i1 of A as a kernel wants them, and what is beside them: its numbers, and the number of the first."""

    number: int
    i0: int
    i1: int
    data: NDArray[Any]
    indices: NDArray[Any] | None
    base: int
    beside: tuple[Any, ...]


class StreamedRows(Rows):
    """The rows of A on disk or from a function, with `map` and `sum` as `MemoryRows` has them."""

    def __init__(
        self,
        source: Source,
        pattern: Pattern,
        workers: int,
        memory: int | None,
        *,
        check_finite: bool = True,
        flipped: bool = False,
        progress: bool = False,
    ) -> None:
        self.pattern, self.workers, self.memory = pattern, workers, memory
        self.entries = StreamedEntries(source, pattern, "A", check_finite=check_finite)
        self.dtype = self.entries.dtype
        self.flipped, self.progress = flipped, progress  # flipped: these rows are the columns of what J's rows go by
        self.passes = 0

    # --- the two things -----------------------------------------------------------------------------------------------

    def map(
        self,
        kernel: str,
        *args: Any,
        rows: tuple[int, int] | None = None,
        columns: int = 1,  # noqa: ARG002  # in memory it decides on threads
        structure: bool = False,
        compact: bool = False,
        target: Any = None,
    ) -> None:
        """As `MemoryRows.map`."""
        alike = structure and self.pattern.indices is None  # rows and columns have the same
        if self.flipped and not compact and not alike:
            raise _checks.wrong_order(columns=self.entries.source.transposed)
        run, spans = compiled_kernel(kernel), self.spans(compact=compact)

        def write(block: Block) -> None:
            run(block.data, block.indices, block.base, *spans, block.i0, block.i1, *block.beside, *args)

        if alike:
            run(None, None, 0, *spans, *(rows or (0, self.pattern.k)), *args)
        else:
            self._pass(kernel, write, rows or (0, self.pattern.k), target, structure=structure)

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
        """As `MemoryRows.sum`. A block adds into one of a few partial sums, which A and the blocks alone decide."""
        if isinstance(target, Weights) and self.flipped and self.pattern.indices is not None:
            raise _checks.wrong_order(columns=self.entries.source.transposed)
        of = Sum(x, outputs, extra, columns, dense=self.pattern.indices is None)
        run, spans = compiled_kernel(kernel), self.spans()
        count = partial_sums(self.pattern, _PARTIAL_SUMS)
        while self.memory is not None and count > 1 and count * of.part_nbytes > self.memory // 8:
            count //= 2
        parts: list[NDArray[Any] | None] = [None] * count
        stop = Stop()
        orders = [InOrder(stop) for _ in parts]

        def add(block: Block) -> None:
            before, which = divmod(block.number, count)
            # Blocks are taken in order, so those before this one are done or under way: no deadlock.
            if not orders[which].wait(before):
                return
            out = parts[which]
            if out is None:
                out = parts[which] = of.part()
            last = of.arguments(args, out)
            run(block.data, block.indices, block.base, *spans, block.i0, block.i1, *block.beside, *last)
            orders[which].done(before)

        self._pass(kernel, add, (0, self.pattern.k), target, stop=stop, columns=columns or 1)
        total = np.zeros(of.shape, of.dtype)
        with np.errstate(over="ignore", invalid="ignore"):  # as in the kernels
            for out in parts:
                if out is not None:
                    np.add(total, of.found(out), out=total)
        return total

    # --- a pass -------------------------------------------------------------------------------------------------------

    def _pass(
        self,
        name: str,
        visit: Callable[[Block], None],
        rows: tuple[int, int],
        target: Any = None,
        *,
        structure: bool = False,
        stop: Stop | None = None,
        columns: int = 1,
    ) -> None:
        """Visit blocks of rows, on threads. When a visit fails, or Ctrl-C comes, `stop` is set."""
        for numbers in (self.entries, target):
            turn = getattr(getattr(numbers, "source", None), "turn", None)
            if turn is not None and turn.owner == threading.get_ident():
                raise _checks.asked_while_answering(numbers.name)
        stop = stop or Stop()
        run = self._pass_aside
        aside(lambda: run(name, visit, rows, target, stop, columns, structure=structure), stop)

    def _pass_aside(
        self,
        name: str,
        visit: Callable[[Block], None],
        rows: tuple[int, int],
        target: Any,
        stop: Stop,
        columns: int,
        *,
        structure: bool,
    ) -> None:
        own: StreamedEntries = self.entries
        streamed = target if hasattr(target, "reader") else None
        blocks = list(self._blocks(rows, target, columns))
        serial = own.source.serial or (streamed is not None and streamed.source.serial)
        taking, showing = threading.Lock(), threading.Lock()
        waiting = iter(range(len(blocks)))
        spare: list[tuple[list[Room], list[Room]]] = []
        self.passes += not structure and rows == (0, self.pattern.k)

        with contextlib.ExitStack() as stack:
            read = own.reader(stack.enter_context(own.source.opened()))
            read_beside = None if streamed is None else streamed.reader(stack.enter_context(streamed.source.opened()))
            bar = stack.enter_context(_bar(name, rows[1] - rows[0], shown=self.progress))

            def fetch(number: int, rooms: tuple[list[Room], list[Room]]) -> Block:
                i0, i1 = blocks[number]
                data, indices, base = read(i0, i1, rooms[0], structure=structure)
                beside: tuple[Any, ...] = ()
                if streamed is not None and read_beside is not None:
                    numbers, _, first = read_beside(i0, i1, rooms[1], indices)
                    streamed.look(i0, i1, numbers, first)
                    beside = numbers, first
                elif target is not None:
                    beside = target.packed(i0, i1, rooms[1][0])
                if not structure:
                    own.look(i0, i1, data, base)
                return Block(number, i0, i1, data, indices, base, beside)

            def taken(rooms: tuple[list[Room], list[Room]]) -> Block | None:
                """The next block, or None if there is to be no other."""
                with taking:
                    if stop.is_set:
                        return None
                    if not serial:
                        number = next(waiting)
                    else:
                        try:
                            return fetch(next(waiting), rooms)
                        except BaseException:
                            stop.is_set = True  # before anyone else asks for another one
                            raise
                return fetch(number, rooms)

            def work(_: int) -> None:
                try:
                    try:
                        rooms = spare.pop()
                    except IndexError:
                        rooms = [Room(returned=True) for _ in range(4)], [Room(returned=True) for _ in range(5)]
                    block = taken(rooms)
                    if block is None:
                        return
                    visit(block)
                    spare.append(rooms)
                    if bar is not None:
                        with showing:
                            bar.update(block.i1 - block.i0)
                except BaseException:
                    stop.is_set = True
                    raise

            on_own_threads(work, len(blocks), self.workers + 1, stop)

    def _blocks(self, rows: tuple[int, int], target: Any, columns: int = 1) -> Iterator[tuple[int, int]]:
        """Consecutive rows that are read together."""
        entries, (i0, i1) = self._block_entries(target, columns), rows
        if isinstance(self.entries.source, CsrSource):
            yield from row_blocks(self.entries.source.indptr, i0, i1, entries)
            return
        step = max(entries // max(self.pattern.k, 1), 1)
        chunk = self.entries.source.step
        step = max(step // chunk * chunk, 1)  # whole chunks
        while i0 < i1:
            stop = min((i0 // step + 1) * step, i1)
            yield i0, stop
            i0 = stop

    def check_budget(self, target: Any) -> None:
        """Refuse a budget that is too small for what is beside A, before anything is done."""
        self._block_entries(target)

    def _block_entries(self, target: Any, columns: int = 1) -> int:
        """How many entries a block may have, for the budget to suffice."""
        beside = 0
        if target is not None:
            beside = target.entry_bytes * (self.workers + 1 + getattr(target, "extra", 0)) * columns
        return block_entries(self.entries.source, self.workers, self.memory, beside)

    # --- what is not a kernel's -----------------------------------------------------------------------------------------

    def look(self, target: Any = None) -> None:
        """See all of A (and what is beside it): a pass, unless there has been one."""
        if not (self.entries.seen.all() and (target is None or target.seen.all())):
            self._pass("look", lambda _: None, (0, self.pattern.k), target)

    def diagonal(self) -> NDArray[Any]:
        self.look()
        return self.entries.diagonal.copy()

    def diagonal_of(self, target: Any) -> NDArray[Any]:
        if hasattr(target, "at"):
            return self._gathered_diagonal(target, np.dtype(np.float64))
        self.look(target)
        return target.diagonal.copy()

    def of_all(self, source: Source) -> StreamedRows:
        """The place of all entries, where this one is of a part of them."""
        check = self.entries.check_finite
        return StreamedRows(
            source, pattern_of(source), self.workers, self.memory, check_finite=check, progress=self.progress
        )

    def asymmetry(self) -> tuple[int, float] | None:
        """A row in which ``A u`` and ``Aᵀ u`` differ, for a random u, by more than rounding, and by how much: of a whole A. A pass."""
        k = self.pattern.k
        dtype = np.complex128 if self.dtype.kind == "c" else np.float64
        u = frozen(np.random.default_rng(0).uniform(0.5, 1.0, k).astype(dtype))
        ours, theirs, size = self.sum("both_products", (u,), outputs=3)
        with np.errstate(invalid="ignore"):
            beyond = np.abs(ours - theirs) > 4 * (k + 4) * np.finfo(np.float64).eps * size.real
        if not beyond.any():
            return None
        i = int(np.argmax(beyond))
        return i, float(abs(ours[i] - theirs[i]))

    def at(self, entries: Indices) -> NDArray[Any]:
        pattern = self.pattern
        found = np.empty(entries.size, self.entries.dtype)
        if not entries.size:
            return found
        if pattern.indptr is None:
            i = entries // pattern.k
        else:
            i = np.searchsorted(pattern.indptr, entries, side="right") - 1

        def pick(block: Block) -> None:
            here = (i >= block.i0) & (i < block.i1)
            found[here] = block.data[entries[here] - block.base]

        self._pass("at", pick, (int(i.min()), int(i.max()) + 1))
        return found


def pattern_of(source: Source, spans: Spans | None = None, *, grid: bool = False) -> Pattern:
    """The entries of a source, or those within spans."""
    if isinstance(source, CsrSource):
        return Pattern.csr(source.indptr, source.columns, spans, grid=grid, on_diagonal=source.on_diagonal)
    return Pattern.dense(source.k, spans)


def entry_bytes(source: Source, dtype: np.dtype[Any]) -> int:
    """What an entry takes in the buffers of one thread, where the kernels want this dtype."""
    itemsize = source.dtype.itemsize + (dtype.itemsize if source.dtype != dtype else 0)
    if isinstance(source, CsrSource):
        stored, ours = source.stored_indices.dtype, source.index_dtype
        return itemsize + stored.itemsize + (ours.itemsize if stored != ours else 0)
    return itemsize


def block_entries(source: Source, workers: int, memory: int | None, beside: int = 0) -> int:
    """How many entries a block may have. A budget that does not suffice is refused, and this looks at nothing but k."""
    k, own = source.k, entry_bytes(source, _kernel_dtype(source))
    each = own * (workers + 1 + source.extra) + beside
    kept = _OTHER + _VECTORS * 8 * (k + 1)
    rows = 1 if isinstance(source, CsrSource) else source.step  # of a chunk, of which none is read twice
    longest = source.longest if isinstance(source, CsrSource) else rows * k
    if memory is None:
        what = f"k-vectors for this A of {k} rows, and for each thread {rows} of them,"
        _checks.fits(what, kept + longest * each, "take a smaller A, or one whose chunks have fewer rows")
        available = max(_DEFAULT, kept, longest * each)
    elif memory < kept + longest * each:
        raise _checks.small_memory(memory, kept + longest * each, k, kept=kept, rows=rows)
    else:
        available = memory - kept
    return max(min(available // each, max(_BLOCK // own, longest)), 1)


def _kernel_dtype(source: Source, compiled: tuple[np.dtype[Any], ...] = _COMPILED) -> np.dtype[Any]:
    native = source.dtype.newbyteorder("=")
    return native if native in compiled else np.dtype(np.float64)


def diagonal_entries(pattern: Pattern, i0: int, i1: int) -> NDArray[Any]:
    """Which entry of these rows is on the diagonal and visited, or -1."""
    own = pattern.on_diagonal
    entries: Any = np.arange(i0, i1, dtype=np.int64) * (pattern.k + 1) if own is None else own[i0:i1]
    return np.where((entries >= pattern.lo[i0:i1]) & (entries < pattern.hi[i0:i1]), entries, -1)


def _converted(block: NDArray[Any], dtype: np.dtype[Any], room: Room) -> NDArray[Any]:
    if block.dtype == dtype and block.flags.c_contiguous and block.flags.aligned:
        return block
    converted = room.take(block.size, dtype).reshape(block.shape)
    np.copyto(converted, block, casting="unsafe")
    return converted


@contextlib.contextmanager
def _bar(name: str, rows: int, *, shown: bool) -> Iterator[Any]:
    """A bar of the rows of a pass, if it takes longer than two seconds."""
    if not shown:
        yield None
        return
    with _progress.bar(total=rows, desc=name, unit=" rows", delay=_DELAY) as bar:
        yield bar
