"""The backend of a streamed A: kernels run on blocks of rows while the next blocks are read.

A pass opens its sources, which check that they have not changed. It then starts threads of its
own: one more than may compute, so that one can read while the others compute. Each thread takes the
next block, in order, reads it into a buffer of its own, and runs the kernel on it. When the pass
ends or fails, its threads, files and buffers are released.

The first pass scans the blocks: it checks that they are finite, and notes the diagonal and the
lowest and largest entries. A file that has not changed is not scanned again. A source that its
owner may change unnoticed is scanned in every pass.

The bits of a sum depend on A alone. A is split into units of rows. Each unit belongs to one of a
few partial sums, and units are added to it in order. If the budget does not suffice for a whole
unit, the unit is split into blocks where the kernels allow that.
"""

from __future__ import annotations

import contextlib
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _validation
from .._kernels import combine, compiled_kernel
from .._matrix.buffers import Room
from .._matrix.csr import CsrSource, row_blocks
from .._matrix.dense import TOGETHER, DenseSource, Part
from .._matrix.entries import COMPILED, Entries, Weights
from .._matrix.layout import Layout, layout_of_whole, pattern_of
from .._matrix.pattern import Indices, Pattern, frozen
from .._matrix.source import Source
from .._system import progress
from .._system.locks import Turn
from .._validation import Settings
from . import budget
from .budget import block_entries, kernel_dtype
from .partition import partial_sums
from .rows import Rows, Sum, Summary
from .threads import InOrder, Stop, aside, on_own_threads

_PARTIAL_SUMS = 4  # the largest number of them: a block waits for the one before it in its sum
_SUM_VECTORS = 12  # k-vectors of float64 that all partial sums may take
_DELAY = 2  # seconds before a progress bar is shown


class StreamedEntries:
    """The numbers of a streamed A or Y, read block by block, and what scans have noted of them."""

    def __init__(
        self,
        source: Source,
        pattern: Pattern,
        name: str,
        *,
        check_finite: bool,
        compiled: tuple[np.dtype[Any], ...] = COMPILED,
    ) -> None:
        self.extremes = False  # whether a scan notes the lowest and the largest entry
        self.whole_diagonal = False  # whether the diagonal is noted even where it is not visited
        self._noting = Turn()
        self.source, self.name, self._pattern = source, name, pattern
        self.check_finite = check_finite
        self.dtype, self.direct, k = kernel_dtype(source, compiled), False, pattern.k
        self.given_dtype = self.dtype
        self.seen = np.zeros(k, np.bool_)
        self.diagonal = np.zeros(k, np.complex128 if self.dtype.kind == "c" else np.float64)
        self.lowest, self.lowest_at, self.largest = np.inf, (0, 0), -np.inf

    @property
    def extra(self) -> int:
        return self.source.extra

    @property
    def mutable(self) -> bool:
        return self.source.mutable

    @property
    def scan_each_pass(self) -> bool:
        return self.source.scan_each_pass

    @property
    def entry_bytes(self) -> int:
        """The bytes that an entry takes in the buffers of one thread."""
        return self.source.entry_bytes(self.dtype)

    def reader(self, opened: Any) -> Callable[..., Any]:
        """A function ``read(i0, i1, rooms, …)`` for a pass over an opened source.

        It returns the numbers of these rows, their columns (None for a dense source), and the
        number of the first entry.
        """
        if isinstance(self.source, DenseSource):
            return self._dense_reader(opened)
        return self._csr_reader(*opened)

    def _dense_reader(self, read: Any) -> Callable[..., Any]:
        pattern, k = self._pattern, self._pattern.k
        whole = pattern.entries == k * k

        def block_of(
            i0: int, i1: int, rooms: list[Room], *_: Any, **__: Any
        ) -> tuple[NDArray[Any], None, int]:
            c0, c1 = 0, k
            if not whole:
                i = np.arange(i0, i1) * k
                c0, c1 = int(np.min(pattern.lo[i0:i1] - i)), int(np.max(pattern.hi[i0:i1] - i))
                if self.whole_diagonal:
                    c0, c1 = min(c0, i0), max(c1, i1)
            block = read(Part(i0, i1, c0, max(c0, c1)), rooms[0])
            return self._readable(block, rooms[1]), None, i0 * k

        return block_of

    def _csr_reader(self, read: Any, read_columns: Any) -> Callable[..., Any]:
        assert isinstance(self.source, CsrSource)
        source = self.source
        indptr, dtype = source.indptr, source.index_dtype

        def block_of(
            i0: int, i1: int, rooms: list[Room], *, structure: bool
        ) -> tuple[Any, Any, int]:
            base, end = int(indptr[i0]), int(indptr[i1])
            columns = _converted(read_columns(base, end, rooms[2]), dtype, rooms[3])
            if (
                source.stored_indices.mutable
            ):  # with wrong columns a kernel would write beyond its arrays
                defect, line = compiled_kernel("csr_defect")(
                    indptr, frozen(columns), base, i0, i1, self._pattern.k
                )
                if defect:
                    raise _validation.changed_columns(self.name, int(line))
            data = None if structure else self._readable(read(base, end, rooms[0]), rooms[1])
            return data, frozen(columns), base

        return block_of

    def _readable(self, block: NDArray[Any], room: Room) -> NDArray[Any]:
        return frozen(_converted(block, self.dtype, room).reshape(-1))

    # --- scanning

    def look(self, i0: int, i1: int, data: NDArray[Any], base: int, *, again: bool = False) -> None:
        """Scan the visited entries of rows ``i0 <= i < i1``, unless they are scanned already.

        With `again`, they are scanned in any case.
        """
        if self.seen[i0:i1].all() and not again:
            return
        if data.size:
            self._look_at_values(i0, i1, data, base)
        on_diagonal = self._pattern.diagonal_entries_of(i0, i1, visited=not self.whole_diagonal)
        found = on_diagonal >= 0
        diagonal = data[on_diagonal[found] - base]
        if self.whole_diagonal and self.check_finite and not np.isfinite(diagonal).all():
            q = int(np.argmin(np.isfinite(diagonal)))
            i = int(np.flatnonzero(found)[q]) + i0
            raise _validation.not_finite(self.name, (i, i), diagonal[q])
        self.diagonal[i0:i1][found] = diagonal
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
                raise _validation.not_finite(self.name, self.place(base + q), data[q])
        if self.extremes:
            lowest, largest = float(np.min(data)), float(np.max(data))
            with self._noting:
                if lowest < self.lowest and lowest < 0:  # only negative entries need a place
                    self.lowest_at = self.place(base + int(np.argmax(data == lowest)))
                self.lowest = min(self.lowest, lowest)
                self.largest = max(self.largest, largest)

    def summary(self) -> Summary:
        """What the scans have found."""
        return Summary(self.diagonal.astype(np.float64), self.lowest, self.lowest_at, self.largest)

    def place(self, entry: int) -> tuple[int, int]:
        """The pair (i, j) of an entry in the user's matrix."""
        pattern = self._pattern
        if pattern.indices is None:
            i, j = divmod(entry, pattern.k)
        else:
            assert pattern.indptr is not None
            i = int(np.searchsorted(pattern.indptr, entry, side="right")) - 1
            j = int(pattern.indices[entry : entry + 1][0])
        return (j, i) if self.source.transposed else (i, j)


class Block(NamedTuple):
    """Rows i0 ≤ i < i1 of A as a kernel takes them, and the aligned numbers of the target.

    `beside` is empty without a target. Otherwise it has the target's numbers and the number of the
    first of them.
    """

    number: int  # of the block
    i0: int
    i1: int
    data: NDArray[Any]
    indices: NDArray[Any] | None
    base: int
    beside: tuple[Any, ...]


class StreamedRows(Rows):
    """The backend of an A on disk or from a function. It offers what `MemoryRows` offers."""

    def __init__(self, source: Source, layout: Layout, settings: Settings) -> None:
        super().__init__(source, layout, settings)
        self.memory, self.progress = settings.memory, settings.progress
        self.pattern = pattern_of(source, layout)
        self.entries = StreamedEntries(
            source, self.pattern, "A", check_finite=settings.check_finite
        )
        self.dtype = self.entries.dtype
        self.passes = 0

    # --- the two operations

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
        # Rows and columns of a whole dense matrix have the same structure.
        alike = structure and self.pattern.indices is None and self.pattern.m == self.pattern.k**2
        if not self.layout.rows_in_order and not compact and not alike:
            raise self.wrong_order()
        run, spans = compiled_kernel(kernel), self.spans(compact=compact)

        def write(block: Block) -> None:
            run(
                block.data,
                block.indices,
                block.base,
                *spans,
                block.i0,
                block.i1,
                *block.beside,
                *args,
            )

        if alike:
            run(None, None, 0, *spans, *(rows or (0, self.pattern.k)), *args)
        else:
            self._pass_over(kernel, write, rows or (0, self.pattern.k), target, structure=structure)

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
        """As `MemoryRows.sum`. A unit of rows adds into one of a few partial sums, which A alone decides."""
        if isinstance(target, Weights):
            self.check_weights()
        of = Sum(x, outputs, extra, columns, dense=self.pattern.indices is None)
        run, spans = compiled_kernel(kernel), self.spans()
        count = partial_sums(self.pattern, _PARTIAL_SUMS)
        while count > 1 and count * of.part_nbytes > _SUM_VECTORS * 8 * (self.pattern.k + extra):
            count //= 2
        parts: list[NDArray[Any] | None] = [None] * count
        blocks = list(self._blocks((0, self.pattern.k), target, columns or 1))
        turns, before = [], [0] * count
        for unit in self._units(blocks):
            which = unit % count
            turns.append((which, before[which]))
            before[which] += 1
        source, step = self.entries.source, self.pattern.k
        if isinstance(source, DenseSource) and source.granule % TOGETHER:
            step = source.granule  # a block may end within four rows of its unit
        stop = Stop()
        orders = [InOrder(stop) for _ in parts]

        def add(block: Block) -> None:
            which, earlier = turns[block.number]
            # Blocks are taken in order, so those before this one are done or under way: no deadlock.
            if not orders[which].wait(earlier):
                return
            out = parts[which]
            if out is None:
                out = parts[which] = of.part()
            last = of.arguments(args, out)
            for i0 in range(block.i0, block.i1, step):
                i1 = min(i0 + step, block.i1)
                run(block.data, block.indices, block.base, *spans, i0, i1, *block.beside, *last)
            orders[which].done(earlier)

        self._pass(kernel, add, blocks, target, stop=stop)
        total = np.zeros(of.shape, of.dtype)
        with np.errstate(over="ignore", invalid="ignore"):  # as in the kernels
            for out in parts:
                if out is not None:
                    combine(kernel, total, of.found(out))
        return total

    # --- a pass

    def _pass_over(
        self,
        name: str,
        visit: Callable[[Block], None],
        rows: tuple[int, int],
        target: Any = None,
        *,
        structure: bool = False,
    ) -> None:
        """Visit blocks of these rows on threads, in any order."""
        self._pass(name, visit, list(self._blocks(rows, target)), target, structure=structure)

    def _pass(
        self,
        name: str,
        visit: Callable[[Block], None],
        blocks: list[tuple[int, int]],
        target: Any = None,
        *,
        structure: bool = False,
        stop: Stop | None = None,
    ) -> None:
        """Visit blocks of rows on threads. A failed visit and Ctrl-C set the cancel flag `stop`."""
        for numbers in (self.entries, target):
            turn = getattr(getattr(numbers, "source", None), "turn", None)
            if turn is not None and turn.owner == threading.get_ident():
                raise _validation.asked_while_answering(numbers.name)
        stop = stop or Stop()
        run = self._pass_aside
        aside(lambda: run(name, visit, blocks, target, stop, structure=structure), stop)

    def _pass_aside(
        self,
        name: str,
        visit: Callable[[Block], None],
        blocks: list[tuple[int, int]],
        target: Any,
        stop: Stop,
        *,
        structure: bool,
    ) -> None:
        own: StreamedEntries = self.entries
        streamed = target if hasattr(target, "reader") else None
        rows = sum(i1 - i0 for i0, i1 in blocks)
        serial = own.source.serial or (streamed is not None and streamed.source.serial)
        taking, showing = threading.Lock(), threading.Lock()
        waiting = iter(range(len(blocks)))
        spare: list[tuple[list[Room], list[Room]]] = []
        self.passes += not structure and rows == self.pattern.k

        with contextlib.ExitStack() as stack:
            read = own.reader(stack.enter_context(own.source.opened()))
            read_beside = None
            if streamed is not None:
                read_beside = streamed.reader(stack.enter_context(streamed.source.opened()))
            bar = stack.enter_context(_bar(name, rows, shown=self.progress))
            again = own.scan_each_pass
            again_beside = streamed is not None and streamed.scan_each_pass

            def fetch(number: int, rooms: tuple[list[Room], list[Room]]) -> Block:
                i0, i1 = blocks[number]
                data, indices, base = read(i0, i1, rooms[0], structure=structure)
                beside: tuple[Any, ...] = ()
                if streamed is not None and read_beside is not None:
                    numbers, _, first = read_beside(i0, i1, rooms[1], indices)
                    streamed.look(i0, i1, numbers, first, again=again_beside)
                    beside = numbers, first
                elif target is not None:
                    beside = target.packed(i0, i1, rooms[1][0])
                if not structure:
                    own.look(i0, i1, data, base, again=again)
                return Block(number, i0, i1, data, indices, base, beside)

            def taken(rooms: tuple[list[Room], list[Room]]) -> Block | None:
                """The next block, or None if the pass is cancelled."""
                with taking:
                    if stop.is_set:
                        return None
                    if not serial:
                        number = next(waiting)
                    else:
                        try:
                            return fetch(next(waiting), rooms)
                        except BaseException:
                            stop.is_set = True  # before another thread asks for the next block
                            raise
                return fetch(number, rooms)

            def work(_: int) -> None:
                try:
                    try:
                        rooms = spare.pop()
                    except IndexError:
                        rooms = (
                            [Room(returned=True) for _ in range(4)],
                            [Room(returned=True) for _ in range(5)],
                        )
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

    def _blocks(
        self, rows: tuple[int, int], target: Any, columns: int = 1
    ) -> Iterator[tuple[int, int]]:
        """The blocks of rows that are read together.

        A block is a unit, or a part of one if the budget does not suffice for a unit.
        """
        source, entries = self.entries.source, self._block_entries(target, columns)
        if isinstance(source, CsrSource):
            for u0, u1 in row_blocks(source.indptr, *rows, self._unit_entries):
                yield from row_blocks(source.indptr, u0, u1, entries)
            return
        step, height = source.granule, self._unit_height
        most = entries // max(self.pattern.k, 1)
        most = height if most >= height else max(most // step, 1) * step
        i0, end = rows
        while i0 < end:
            unit = i0 // height * height
            i1 = min(unit + ((i0 - unit) // most + 1) * most, unit + height, end)
            yield i0, i1
            i0 = i1

    @property
    def _unit_entries(self) -> int:
        """How many entries a unit has. A alone decides."""
        return max(budget.BLOCK // self.source.entry_bytes(self.dtype), 1)

    @property
    def _unit_height(self) -> int:
        """How many rows a unit of a dense A has. It consists of whole chunks."""
        source = self.entries.source
        assert isinstance(source, DenseSource)
        step = source.granule if source.step > 1 else 1
        return max(self._unit_entries // max(self.pattern.k, 1) // step, 1) * step

    def _units(self, blocks: list[tuple[int, int]]) -> list[int]:
        """The unit of each of these blocks of all rows."""
        source = self.entries.source
        if isinstance(source, DenseSource):
            return [i0 // self._unit_height for i0, _ in blocks]
        starts = [u0 for u0, _ in row_blocks(source.indptr, 0, self.pattern.k, self._unit_entries)]
        return [bisect_right(starts, i0) - 1 for i0, _ in blocks]

    def check_budget(self, target: Any) -> None:
        """Refuse a budget that is too small for the target, before anything is allocated."""
        self._block_entries(target)

    def _block_entries(self, target: Any, columns: int = 1) -> int:
        """How many entries a block may have within the budget."""
        beside = 0
        if target is not None:
            beside = target.entry_bytes * (self.workers + 1 + getattr(target, "extra", 0)) * columns
        return block_entries(self.source, self.workers, self.memory, beside)

    def any_nonzero(self, target: Any) -> bool:
        if isinstance(target, Entries):
            return super().any_nonzero(target)
        found: list[bool] = []  # one for each block of a pass
        self._pass_over(
            "any_nonzero",
            lambda block: found.append(bool(np.any(block.beside[0]))),
            (0, self.pattern.k),
            target,
        )
        return any(found)

    # --- results of scans, and single entries

    def look(self, target: Any = None) -> None:
        """Scan all of A, and the target.

        This takes a pass, unless all is scanned already and its owner cannot have changed it.
        """
        seen = (self.entries,) if target is None else (self.entries, target)
        if any(numbers.mutable or not numbers.seen.all() for numbers in seen):
            self._pass_over("look", lambda _: None, (0, self.pattern.k), target)

    def diagonal(self) -> NDArray[Any]:
        self.look()
        return self.entries.diagonal.copy()

    def diagonal_of(self, target: Any) -> NDArray[Any]:
        if hasattr(target, "at"):
            return self._gathered_diagonal(target, np.dtype(np.float64))
        self.look(target)
        return target.diagonal.copy()

    def check_symmetric(self, needs: str) -> None:
        whole = self
        if self.layout.side is not None:
            whole = StreamedRows(self.source, layout_of_whole(self.source), self.settings)
        self.entries.extremes = whole is self  # the same pass may serve `scan`
        defect = whole.asymmetry()
        if defect is not None:
            raise _validation.not_symmetric_row(*defect, needs)

    def scan(self) -> Summary:
        """Scan all entries in a pass, unless the result is known already."""
        self.entries.extremes = True
        self.look()
        return self.entries.summary()

    def take_scan(self, seen: Summary, *, whole_diagonal: bool) -> None:
        self.entries.whole_diagonal = whole_diagonal
        self.entries.seen[:] = True
        self.entries.diagonal[:] = seen.diagonal

    def noted_diagonal(self) -> NDArray[Any]:
        return self.entries.diagonal.astype(np.float64)

    def asymmetry(self) -> tuple[int, float] | None:
        """A row in which ``A u`` and ``Aᵀ u`` differ by more than rounding, for a random u.

        It is returned with the difference, or None if there is none. A must be whole. The check
        takes one pass. It allows the rounding of these sums, and √n times the tolerance of
        `_matrix.memory.unequal` for one entry, where n is the number of entries in a row.
        """
        k, source = self.pattern.k, self.entries.source
        dtype = np.complex128 if self.dtype.kind == "c" else np.float64
        u = frozen(np.random.default_rng(0).uniform(0.5, 1.0, k).astype(dtype))
        ours, theirs, size, largest = self.sum("both_products", (u,), outputs=4)
        count = min(2 * source.longest, k) if isinstance(source, CsrSource) else k
        with np.errstate(invalid="ignore", over="ignore"):
            allowed = 4 * (k + 4) * np.finfo(np.float64).eps * size.real
            # The roundings of the entries have random signs. So their sum grows like the root
            # of their number.
            allowed += np.sqrt(count) * _validation.symmetry_tolerance(source.dtype) * largest.real
            beyond = np.abs(ours - theirs) > allowed
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

        self._pass_over("at", pick, (int(i.min()), int(i.max()) + 1))
        return found


def _converted(block: NDArray[Any], dtype: np.dtype[Any], room: Room) -> NDArray[Any]:
    if block.dtype == dtype and block.flags.c_contiguous and block.flags.aligned:
        return block
    converted = room.take(block.size, dtype).reshape(block.shape)
    np.copyto(converted, block, casting="unsafe")
    return converted


@contextlib.contextmanager
def _bar(name: str, rows: int, *, shown: bool) -> Iterator[Any]:
    """A progress bar of the rows of a pass. It is shown if the pass takes over two seconds."""
    if not shown:
        yield None
        return
    with progress.bar(total=rows, desc=name, unit=" rows", delay=_DELAY) as bar:
        yield bar
