"""The backend of a streamed A: kernels run on blocks of rows while the next blocks are read.

The first pass scans the blocks: it checks that they are finite, and notes the diagonal and the
lowest and largest entries. A file that has not changed is not scanned again. A source that its
owner may change unnoticed is scanned in every pass.

The bits of a sum depend on A alone. A is split into units of rows. Each unit belongs to one of a
few partial sums, and units are added to it in order. If the budget does not suffice for a whole
unit, the unit is split into blocks where the kernels allow that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _validation
from .._kernels import combine, compiled_kernel
from .._matrix.entries import TARGETS, Aligned, Weights
from .._matrix.indices import Indices
from .._matrix.layout import Layout, layout_of_whole
from .._matrix.scan import Scan, StreamedEntries
from .._matrix.source import Source
from .._validation import Settings
from . import budget
from .budget import block_entries
from .partition import partial_sums
from .pool import CancelFlag, InOrder, aside
from .protocol import Backend, Reduction
from .stream_pass import Block, NumberedRows, Pass

_PARTIAL_SUMS = 4  # the largest number of them: a block waits for the one before it in its sum
_SUM_VECTORS = 12  # k-vectors of float64 that all partial sums may take


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
        if structure and self._rows_and_columns_alike:
            visited_only = True
        if not (self.layout.rows_in_order or visited_only):
            raise self.wrong_order()
        run, bounds = compiled_kernel(kernel), self.bounds(visited_only=visited_only)

        def write(block: Block) -> None:
            numbers = block.data, block.indices, block.base
            run(*numbers, *bounds, block.i0, block.i1, *block.aligned, *args)

        rows = rows or (0, self.pattern.k)
        if structure and not self.pattern.interleaved:  # a dense A has no structure to read
            run(None, None, 0, *bounds, *rows, *args)
        else:
            self._pass(kernel, write, self._blocks(rows, target), target, structure=structure)

    def reduce(
        self,
        kernel: str,
        x: Any,
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
        pattern, most, rows = self.pattern, _SUM_VECTORS * (self.pattern.k + extra), None
        if isinstance(x, Reduction):
            of, rows, most = x, x.shape[0], 2 * x.numbers
        else:
            of = Reduction(x, outputs, extra, columns, interleaved=pattern.interleaved)
        kernel = of.kernel(kernel)
        run, bounds = compiled_kernel(kernel), self.bounds()
        count = partial_sums(pattern, _PARTIAL_SUMS, rows)
        while count > 1 and count * of.part_nbytes > 8 * most:
            count //= 2
        parts: list[NDArray[Any] | None] = [None] * count
        blocks = self._blocks((0, self.pattern.k), target, columns or 1)
        turns, before = [], [0] * count
        for unit, _, _ in blocks:
            turns.append((unit % count, before[unit % count]))
            before[unit % count] += 1
        stop = CancelFlag()
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
        blocks: list[NumberedRows],
        target: Aligned | None = None,
        *,
        structure: bool = False,
        stop: CancelFlag | None = None,
    ) -> None:
        """Visit blocks of rows on threads. A failed visit and Ctrl-C set the cancel flag `stop`."""
        self.check_unchanged(target)
        for numbers, owner in ((self.entries, "A"), (target, "Y")):
            owned_lock = getattr(numbers, "owned_lock", None)
            if owned_lock is not None and owned_lock.owner == threading.get_ident():
                raise _validation.asked_while_answering(owner)
        stop = stop or CancelFlag()
        one_pass = Pass(self.entries, target, visit, blocks, stop, values=not structure)
        rows, workers = sum(i1 - i0 for _, i0, i1 in blocks), self.workers + 1
        self.passes += not structure and rows == self.pattern.k
        aside(lambda: one_pass.run(name, workers, shown=self.progress), stop)

    def _blocks(
        self, rows: tuple[int, int], target: Aligned | None, columns: int = 1
    ) -> list[NumberedRows]:
        """The blocks of rows that are read together.

        A block is a unit, or a part of one if the budget does not suffice for a unit. A alone
        decides on the units.
        """
        unit = max(budget.BLOCK // self.source.entry_bytes(self.dtype), 1)
        entries = self._block_entries(target, columns)
        return list(self.source.row_blocks(*rows, unit, entries))

    def aligned(self, of: Source) -> Any:
        """It is refused if the budget is too small for it."""
        y: Any = super().aligned(of)
        if isinstance(y, Source):
            check = self.settings.check_finite
            y = StreamedEntries(y, self.pattern, "Y", check_finite=check, compiled=TARGETS)
        self._block_entries(y)
        return y

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
        self.check_unchanged(target)
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
