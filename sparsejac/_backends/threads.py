"""The backend of a matrix in memory: kernels run on threads over its rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._kernels import combine, compiled_kernel
from .._matrix.buffers import Buffer
from .._matrix.entries import Entries, kernel_dtype
from .._matrix.indices import Indices
from .._matrix.layout import Layout
from .._matrix.memory import MemorySource
from .._matrix.scan import Scan
from .._system.forks import computed_once
from .._validation import Settings
from .partition import bounds_of, partial_sums, pieces
from .pool import CancelFlag, InOrder, on_threads
from .protocol import Backend, Reduction

# Up to so many entries, one thread is as fast as two: a kernel reads them in three milliseconds,
# and waking a thread takes a tenth of a millisecond.
_INLINE = 2**20
# Bytes of a contiguous copy, unless 32 rows need more. It holds a few cache lines of each column of
# a Fortran-ordered matrix.
_CONTIGUOUS = 2**20
_SUM_PIECES = 32  # the largest number of partial sums
# Sums over all entries that are the same for A and Aᵀ.
_EITHER_WAY = {"squares", "squares_of_many"}


class ThreadBackend(Backend):
    """The backend of an A in memory, dense or CSR."""

    source: MemorySource

    def __init__(self, source: MemorySource, layout: Layout, settings: Settings) -> None:
        super().__init__(source, layout, settings)
        self.dtype = kernel_dtype(source.dtype)

    @computed_once
    def entries(self) -> Entries:
        return Entries(self.source.values, self.pattern)

    @computed_once
    def _sum_bounds(self) -> list[int]:
        return self._bounds_of(None)

    def _bounds_of(self, rows: int | None) -> list[int]:
        """The bounds of the pieces for partial sums of so many rows, or of k."""
        # A alone decides on the pieces, so that the bits of sums do not depend on the
        # workers. Their number is a power of two, so that as many threads share them evenly.
        pattern = self.pattern
        count = partial_sums(pattern, _SUM_PIECES, rows)
        return bounds_of(pattern, *self.source.rows, count)

    def check(self, symmetric: str | None) -> None:
        if self.settings.check_finite:
            self.source.check_finite("A")
        if symmetric:
            self.source.check_symmetric(symmetric)

    def scan(self) -> Scan:
        return Scan(self.diagonal().real, *self.extremes())

    def extremes(self) -> tuple[Any, tuple[int, int], float]:
        return self.source.extremes()

    def map(
        self,
        kernel: str,
        *args: Any,
        rows: tuple[int, int] | None = None,
        columns: int = 1,
        structure: bool = False,
        visited_only: bool = False,
        target: Any = None,
    ) -> None:
        self.check_unchanged(target)
        if rows is None:
            (i0, i1), entries = self.source.rows, self.pattern.entries
        else:
            i0, i1 = rows
            entries = int(self.pattern.first[i1]) - int(self.pattern.first[i0])
        if entries * columns <= _INLINE:
            self._run(kernel, i0, i1, args, target, structure=structure, visited_only=visited_only)
            return
        bounds = bounds_of(self.pattern, i0, i1, pieces(entries * columns, self.workers))

        def write(piece: int) -> None:
            self._run(
                kernel,
                bounds[piece],
                bounds[piece + 1],
                args,
                target,
                structure=structure,
                visited_only=visited_only,
            )
            if self.on_progress is not None:
                self.on_progress(
                    int(self.pattern.first[bounds[piece + 1]] - self.pattern.first[bounds[piece]])
                )

        on_threads(write, len(bounds) - 1, self.workers)

    def diagonal(self) -> NDArray[Any]:
        return self.diagonal_of(self.entries)

    def diagonal_of(self, target: Any) -> NDArray[Any]:
        self.check_unchanged(target)
        diagonal: NDArray[Any] = target.diagonal(None)
        return diagonal

    def any_nonzero(self, target: Any) -> bool:
        self.check_unchanged(target)
        return bool(target.any_nonzero(None))

    def at(self, entries: Indices) -> NDArray[Any]:
        self.check_unchanged(None)
        numbers: NDArray[Any] = self.entries.at(entries)
        return numbers

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
        """See `Backend.reduce`.

        **Memory.** The result, and for each worker one of its size (for sparse rows: and of that of
        x) and with `columns` four of its rows.
        """
        self.check_unchanged(target)
        sparse = self.pattern.interleaved
        if isinstance(x, Reduction):
            of, bounds = x, self._bounds_of(x.shape[0])
        else:
            of, bounds = Reduction(x, outputs, extra, columns, interleaved=sparse), self._sum_bounds
        kernel = of.kernel(kernel)

        def add_rows(piece: int, out: NDArray[Any]) -> NDArray[Any]:
            self._run(kernel, bounds[piece], bounds[piece + 1], of.arguments(args, out), target)
            return of.sums(out)

        if len(bounds) == 2:
            sums = add_rows(0, of.part())
            return sums.copy() if of.interleaved else sums
        total = np.empty(of.shape, of.dtype)
        # A thread that is done with a partial sum uses its memory again: fresh memory is slow.
        spare: list[NDArray[Any]] = []
        stop = CancelFlag()
        order = InOrder(stop)

        def add(piece: int) -> None:
            try:
                out = spare.pop()
                of.sums(out)[:] = 0
            except IndexError:
                out = of.part()
            sums = add_rows(piece, out)
            # Pieces are taken in order, so those before this one are done or under way.
            if not order.wait(piece):
                return
            if piece == 0:
                total[:] = sums
            else:
                with np.errstate(over="ignore", invalid="ignore"):  # as in the kernels
                    combine(kernel, total, sums)
            order.done(piece)
            spare.append(out)

        # A sum over a sparse row takes twice as long for each entry.
        numbers = self.pattern.entries * (columns or of.inputs) * (2 if sparse else 1)
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
        visited_only: bool = False,
    ) -> None:
        run = compiled_kernel(kernel)
        pattern, own = self.pattern, self.entries
        row_bounds = self.bounds(visited_only=visited_only)
        if structure:
            run(None, pattern.indices, pattern.base, *row_bounds, i0, i1, *args)
        elif own.direct and (target is None or target.direct):
            args = args if target is None else (*target.contiguous(i0, i1, None), *args)
            run(own.values, pattern.indices, pattern.base, *row_bounds, i0, i1, *args)
        elif own.transposed is not None and pattern.is_square and kernel in _EITHER_WAY:
            run(own.transposed.reshape(-1), None, 0, *row_bounds, i0, i1, *args)
        else:
            buffers = Buffer(), Buffer()
            for b0, b1 in self._blocks(i0, i1):
                data, base = own.contiguous(b0, b1, buffers[0])
                aligned = () if target is None else target.contiguous(b0, b1, buffers[1])
                run(data, pattern.columns_from(base), base, *row_bounds, b0, b1, *aligned, *args)

    def _blocks(self, i0: int, i1: int) -> Iterator[tuple[int, int]]:
        """Blocks of consecutive rows whose entries fit into a buffer."""
        while i0 < i1:
            end = min(self.pattern.next_block(i0, _CONTIGUOUS // self.dtype.itemsize, 32), i1)
            yield i0, end
            i0 = end
