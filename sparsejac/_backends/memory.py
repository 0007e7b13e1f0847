"""The backend of a matrix in memory: kernels run on threads over its rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _validation
from .._kernels import combine, compiled_kernel
from .._matrix.buffers import Room
from .._matrix.csr import CsrMemory
from .._matrix.dense import DenseMemory
from .._matrix.entries import Entries
from .._matrix.layout import Layout, held_triangle, pattern_of
from .._matrix.memory import check_entries_finite, extremes, unequal
from .._matrix.pattern import Indices, searchsorted
from .._validation import Settings
from .partition import bounds_of, partial_sums, pieces
from .rows import Rows, Sum, Summary
from .threads import InOrder, Stop, on_threads

# Up to so many entries, one thread is as fast as two: a kernel reads them in three milliseconds,
# and waking a thread takes a tenth of a millisecond.
_INLINE = 2**20
# Bytes of a contiguous copy, unless 32 rows need more. It holds a few cache lines of each column of
# a Fortran-ordered matrix.
_PACK = 2**20
_SUM_PIECES = 8  # the largest number of partial sums
# Sums over all entries that are the same for A and Aᵀ.
_EITHER_WAY = {"squares", "squares_of_many"}


def check_memory(source: DenseMemory | CsrMemory, *, finite: bool, symmetric: str | None) -> None:
    """Refuse NaN and infinity in A, and with `symmetric` an A that is not symmetric.

    `symmetric` names the feature that needs a symmetric A, or is None.
    """
    if finite:
        part = held_triangle(source)
        check_entries_finite(*source.arrays, transposed=source.transposed, part=part)
    defect = unequal(*source.arrays) if symmetric else None
    if symmetric and defect:
        raise _validation.not_symmetric(*defect, symmetric)


class MemoryRows(Rows):
    """The backend of an A in memory: a dense matrix, or a CSR matrix."""

    source: DenseMemory | CsrMemory

    def __init__(self, source: DenseMemory | CsrMemory, layout: Layout, settings: Settings) -> None:
        super().__init__(source, layout, settings)
        self.pattern = pattern = pattern_of(source, layout)
        self.entries = Entries(source.values, pattern)
        self.dtype = self.entries.dtype
        self._square = pattern.entries == pattern.k**2  # all entries of a dense A
        # A alone decides on the pieces, so that the bits of sums do not depend on the
        # workers. Their number is a power of two, so that as many threads share them evenly.
        self._sum_bounds = bounds_of(pattern, 0, pattern.k, partial_sums(pattern, _SUM_PIECES))

    def scan(self) -> Summary:
        lowest, at, largest = extremes(
            *self.source.arrays, transposed=self.layout.transposed, part=held_triangle(self.source)
        )
        return Summary(self.diagonal().real, lowest, at, largest)

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
        """Run a kernel over all rows, or over ``rows[0] <= i < rows[1]``.

        The kernel writes `columns` numbers for each entry. With `structure`, it does not read A's
        values. With a `target`, it reads the target's number at each entry too.
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
        bounds = bounds_of(self.pattern, i0, i1, pieces(entries * columns, self.workers))

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
                combine(kernel, total, sums)
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
        """Blocks of consecutive rows whose entries fit into a buffer."""
        pattern, itemsize = self.pattern, self.dtype.itemsize
        while i0 < i1:
            if pattern.indices is None:
                stop = min(i0 + max(32, _PACK // (pattern.k * itemsize)), i1)
            else:
                end = int(pattern.lo[i0]) + _PACK // itemsize
                stop = min(max(searchsorted(pattern.hi, end, side="right"), i0 + 1), i1)
            yield i0, stop
            i0 = stop
