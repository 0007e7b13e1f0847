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
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _validation
from .._kernels import combine, compiled_kernel
from .._matrix.buffers import Room
from .._matrix.entries import Aligned, Weights
from .._matrix.layout import Layout, layout_of_whole
from .._matrix.pattern import Indices, frozen
from .._matrix.scan import Scan, StreamedEntries
from .._matrix.source import Source
from .._system import progress
from .._validation import Settings
from . import budget
from .budget import block_entries
from .partition import partial_sums
from .pool import InOrder, Stop, aside, on_own_threads
from .protocol import Backend, Reduction

_PARTIAL_SUMS = 4  # the largest number of them: a block waits for the one before it in its sum
_SUM_VECTORS = 12  # k-vectors of float64 that all partial sums may take
_DELAY = 2  # seconds before a progress bar is shown
_BUFFERS = 5  # that a source may use for a block

Numbered = tuple[int, int, int]  # a block of rows: the number of its unit, and its bounds


class Block(NamedTuple):
    """Rows i0 ≤ i < i1 of A as a kernel takes them, and the aligned numbers of the target.

    `aligned` is empty without a target. Otherwise it has the target's numbers and the number of the
    first of them.
    """

    number: int  # of the block
    i0: int
    i1: int
    data: NDArray[Any]
    indices: NDArray[Any] | None
    base: int
    aligned: tuple[Any, ...]

    def rows(self, step: int) -> Iterator[tuple[int, int]]:
        """Its rows, at most `step` at a time."""
        for i0 in range(self.i0, self.i1, step):
            yield i0, min(i0 + step, self.i1)


class StreamBackend(Backend):
    """The backend of an A whose blocks are read in each pass: from disk, or from a function."""

    entries: StreamedEntries

    def __init__(self, source: Source, layout: Layout, settings: Settings) -> None:
        super().__init__(source, layout, settings)
        self.memory, self.progress = settings.memory, settings.progress
        finite = settings.check_finite
        self.entries = StreamedEntries(source, self.pattern, "A", check_finite=finite)
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
        visited_only: bool = False,
        target: Any = None,
    ) -> None:
        alike = structure and self._rows_and_columns_alike
        if not (self.layout.rows_in_order or visited_only or alike):
            raise self.wrong_order()
        run, bounds = compiled_kernel(kernel), self.bounds(visited_only=visited_only)

        def write(block: Block) -> None:
            numbers = block.data, block.indices, block.base
            run(*numbers, *bounds, block.i0, block.i1, *block.aligned, *args)

        rows = rows or (0, self.pattern.k)
        if alike:
            run(None, None, 0, *bounds, *rows, *args)
        else:
            self._pass(kernel, write, self._blocks(rows, target), target, structure=structure)

    def reduce(
        self,
        kernel: str,
        x: NDArray[Any] | tuple[NDArray[Any], ...],
        *args: Any,
        outputs: int = 1,
        extra: int = 0,
        columns: int | None = None,
        target: Any = None,
    ) -> NDArray[Any]:
        """See `Backend.reduce`. A unit of rows adds into one of a few partial sums.

        A alone decides into which.
        """
        if isinstance(target, Weights):
            self.check_weights()
        of = Reduction(x, outputs, extra, columns, interleaved=self.pattern.interleaved)
        run, bounds = compiled_kernel(kernel), self.bounds()
        count = partial_sums(self.pattern, _PARTIAL_SUMS)
        while count > 1 and count * of.part_nbytes > _SUM_VECTORS * 8 * (self.pattern.k + extra):
            count //= 2
        parts: list[NDArray[Any] | None] = [None] * count
        blocks = self._blocks((0, self.pattern.k), target, columns or 1)
        turns, before = [], [0] * count
        for unit, _, _ in blocks:
            turns.append((unit % count, before[unit % count]))
            before[unit % count] += 1
        stop = Stop()
        orders = [InOrder(stop) for _ in parts]

        def add(block: Block) -> None:
            which, earlier = turns[block.number]
            # Blocks are taken in order, so those before this one are done or under way.
            if not orders[which].wait(earlier):
                return
            out = parts[which]
            if out is None:
                out = parts[which] = of.part()
            last = *block.aligned, *of.arguments(args, out)
            for i0, i1 in block.rows(max(self.source.rows_per_call, 1)):
                run(block.data, block.indices, block.base, *bounds, i0, i1, *last)
            orders[which].done(earlier)

        self._pass(kernel, add, blocks, target, stop=stop)
        total = np.zeros(of.shape, of.dtype)
        with np.errstate(over="ignore", invalid="ignore"):  # as in the kernels
            for out in parts:
                if out is not None:
                    combine(kernel, total, of.sums(out))
        return total

    # --- a pass

    def _pass(
        self,
        name: str,
        visit: Callable[[Block], None],
        blocks: list[Numbered],
        target: Aligned | None = None,
        *,
        structure: bool = False,
        stop: Stop | None = None,
    ) -> None:
        """Visit blocks of rows on threads. A failed visit and Ctrl-C set the cancel flag `stop`."""
        for numbers, owner in ((self.entries, "A"), (target, "Y")):
            turn = getattr(numbers, "turn", None)
            if turn is not None and turn.owner == threading.get_ident():
                raise _validation.asked_while_answering(owner)
        one_pass = _Pass(self, name, visit, blocks, target, stop or Stop(), values=not structure)
        aside(one_pass.run, one_pass.stop)

    def _blocks(
        self, rows: tuple[int, int], target: Aligned | None, columns: int = 1
    ) -> list[Numbered]:
        """The blocks of rows that are read together.

        A block is a unit, or a part of one if the budget does not suffice for a unit. A alone
        decides on the units.
        """
        unit = max(budget.BLOCK // self.source.entry_bytes(self.dtype), 1)
        entries = self._block_entries(target, columns)
        return list(self.source.row_blocks(*rows, unit, entries))

    def check_budget(self, target: Any) -> None:
        self._block_entries(target)

    def _block_entries(self, target: Aligned | None, columns: int = 1) -> int:
        """How many entries a block may have within the budget."""
        aligned = 0
        if target is not None:
            aligned = target.entry_bytes * (self.workers + 1 + target.extra) * columns
        return block_entries(self.source, self.workers, self.memory, aligned)

    def any_nonzero(self, target: Any) -> bool:
        return bool(target.any_nonzero(self._visit_all))

    def _visit_all(self, target: Aligned, visit: Callable[[Block], None]) -> None:
        blocks = self._blocks((0, self.pattern.k), target)
        self._pass("any_nonzero", visit, blocks, target)

    # --- results of scans, and single entries

    def _scan_all(self, target: StreamedEntries | None = None) -> None:
        """Scan all of A, and the target.

        This takes a pass, unless all is scanned already and its owner cannot have changed it.
        """
        if not (self.entries.is_scanned and (target is None or target.is_scanned)):
            blocks = self._blocks((0, self.pattern.k), target)
            self._pass("scan", lambda _: None, blocks, target)

    def diagonal(self) -> NDArray[Any]:
        return self.entries.diagonal(lambda _: self._scan_all())

    def diagonal_of(self, target: Any) -> NDArray[Any]:
        diagonal: NDArray[Any] = target.diagonal(self._scan_all)
        return diagonal

    def check(self, symmetric: str | None) -> None:
        if symmetric is None:
            return
        whole = self
        if self.layout.side is not None:
            whole = StreamBackend(self.source, layout_of_whole(self.source), self.settings)
        self.entries.extremes = whole is self  # the same pass may serve `scan`
        defect = whole.asymmetry()
        if defect is not None:
            raise _validation.not_symmetric_row(*defect, symmetric)

    def scan(self) -> Scan:
        """Scan all entries in a pass, unless the result is known already."""
        self.entries.extremes = True
        self._scan_all()
        return self.entries.result()

    def take_scan(self, scan: Scan, *, whole_diagonal: bool) -> None:
        self.entries.whole_diagonal = whole_diagonal
        self.entries.take(scan)

    def noted_diagonal(self) -> NDArray[Any]:
        return self.entries.result().diagonal

    def asymmetry(self) -> tuple[int, float] | None:
        """A row in which ``A u`` and ``Aᵀ u`` differ by more than rounding, for a random u.

        It is returned with the difference, or None if there is none. A must be whole. The check
        takes one pass. It allows the rounding of these sums, and √n times the tolerance of
        `_matrix.memory` for one entry, where n is the number of entries in a row.
        """
        k, source = self.pattern.k, self.source
        dtype = np.complex128 if self.dtype.kind == "c" else np.float64
        u = frozen(np.random.default_rng(0).uniform(0.5, 1.0, k).astype(dtype))
        ours, theirs, size, largest = self.reduce("both_products", (u,), outputs=4)
        count = min(2 * source.max_row_nnz, k)
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
        found = np.empty(entries.size, self.entries.dtype)
        if not entries.size:
            return found
        i = self.pattern.rows_of(entries)

        def pick(block: Block) -> None:
            here = (i >= block.i0) & (i < block.i1)
            found[here] = block.data[entries[here] - block.base]

        rows = int(i.min()), int(i.max()) + 1
        self._pass("at", pick, self._blocks(rows, None))
        return found


class _Pass:
    """One pass over blocks of rows. It owns the opened sources and the buffers of the threads."""

    def __init__(
        self,
        backend: StreamBackend,
        name: str,
        visit: Callable[[Block], None],
        blocks: list[Numbered],
        target: Aligned | None,
        stop: Stop,
        *,
        values: bool,
    ) -> None:
        self._backend, self._name, self._visit, self._blocks = backend, name, visit, blocks
        self._own, self._target, self.stop, self._values = backend.entries, target, stop, values
        self._sequential = self._own.sequential or (target is not None and target.sequential)
        self._waiting = iter(range(len(blocks)))
        self._taking, self._showing = threading.Lock(), threading.Lock()
        self._spare: list[tuple[list[Room], list[Room]]] = []  # buffers that no thread uses

    def run(self) -> None:
        """Read and visit all blocks, on threads of their own."""
        rows = sum(i1 - i0 for _, i0, i1 in self._blocks)
        self._backend.passes += self._values and rows == self._backend.pattern.k
        with contextlib.ExitStack() as stack:
            self._read = stack.enter_context(self._own.opened())
            if self._target is not None:
                self._read_target = stack.enter_context(self._target.opened())
            self._bar = stack.enter_context(_bar(self._name, rows, shown=self._backend.progress))
            workers = self._backend.workers + 1
            on_own_threads(self._work, len(self._blocks), workers, self.stop)

    def _work(self, _: int) -> None:
        """Read and visit the next block."""
        try:
            try:
                buffers = self._spare.pop()
            except IndexError:
                buffers = _buffers(), _buffers()
            block = self._taken(buffers)
            if block is None:
                return
            self._visit(block)
            self._spare.append(buffers)
            if self._bar is not None:
                with self._showing:
                    self._bar.update(block.i1 - block.i0)
        except BaseException:
            self.stop.is_set = True
            raise

    def _taken(self, buffers: tuple[list[Room], list[Room]]) -> Block | None:
        """The next block, or None if the pass is cancelled."""
        with self._taking:
            if self.stop.is_set:
                return None
            number = next(self._waiting)
            if self._sequential:
                try:
                    return self._fetched(number, buffers)
                except BaseException:
                    self.stop.is_set = True  # before another thread asks for the next block
                    raise
        return self._fetched(number, buffers)

    def _fetched(self, number: int, buffers: tuple[list[Room], list[Room]]) -> Block:
        _, i0, i1 = self._blocks[number]
        data, indices, base = self._read(i0, i1, buffers[0], values=self._values)
        aligned: tuple[Any, ...] = ()
        if self._target is not None:
            numbers, _, first = self._read_target(i0, i1, buffers[1], columns=indices)
            aligned = numbers, first
        return Block(number, i0, i1, data, indices, base, aligned)


def _buffers() -> list[Room]:
    return [Room(returned=True) for _ in range(_BUFFERS)]


@contextlib.contextmanager
def _bar(name: str, rows: int, *, shown: bool) -> Iterator[Any]:
    """A progress bar of the rows of a pass. It is shown if the pass takes over two seconds."""
    if not shown:
        yield None
        return
    with progress.bar(total=rows, desc=name, unit=" rows", delay=_DELAY) as bar:
        yield bar
