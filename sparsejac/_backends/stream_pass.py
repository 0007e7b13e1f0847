"""One pass over blocks of rows: threads read them, and visit them.

A pass opens its sources, which check that they have not changed. It then starts threads of its
own: one more than may compute, so that one can read while the others compute. Each thread takes the
next block, in order, reads it into a buffer of its own, and runs the kernel on it. When the pass
ends or fails, its threads, files and buffers are released.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from numpy.typing import NDArray

from .._matrix.buffers import Buffer
from .._matrix.entries import Aligned
from .._system import progress
from .pool import CancelFlag, on_own_threads

_DELAY = 2  # seconds before a progress bar is shown
_BUFFERS = 5  # that a source may use for a block

NumberedRows = tuple[int, int, int]  # a block of rows: the number of its unit, and its bounds


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


class Pass:
    """One pass over blocks of rows. It owns the opened sources and the buffers of the threads."""

    def __init__(
        self,
        entries: Aligned,
        target: Aligned | None,
        visit: Callable[[Block], None],
        blocks: list[NumberedRows],
        stop: CancelFlag,
        *,
        values: bool,
    ) -> None:
        self._own, self._target, self._visit, self._blocks = entries, target, visit, blocks
        self.stop, self._values = stop, values
        self._sequential = self._own.sequential or (target is not None and target.sequential)
        self._waiting = iter(range(len(blocks)))
        self._taking, self._showing = threading.Lock(), threading.Lock()
        self._spare: list[tuple[list[Buffer], list[Buffer]]] = []  # buffers that no thread uses

    def run(self, name: str, workers: int, *, shown: bool) -> None:
        """Read and visit all blocks, on threads of their own, and show a progress bar."""
        rows = sum(i1 - i0 for _, i0, i1 in self._blocks)
        with contextlib.ExitStack() as stack:
            self._read = stack.enter_context(self._own.opened())
            if self._target is not None:
                self._read_target = stack.enter_context(self._target.opened())
            self._bar = stack.enter_context(_bar(name, rows, shown=shown))
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

    def _taken(self, buffers: tuple[list[Buffer], list[Buffer]]) -> Block | None:
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

    def _fetched(self, number: int, buffers: tuple[list[Buffer], list[Buffer]]) -> Block:
        _, i0, i1 = self._blocks[number]
        data, indices, base = self._read(i0, i1, buffers[0], values=self._values)
        aligned: tuple[Any, ...] = ()
        if self._target is not None:
            numbers, _, first = self._read_target(i0, i1, buffers[1], columns=indices)
            aligned = numbers, first
        return Block(number, i0, i1, data, indices, base, aligned)


def _buffers() -> list[Buffer]:
    return [Buffer(release_to_os=True) for _ in range(_BUFFERS)]


@contextlib.contextmanager
def _bar(name: str, rows: int, *, shown: bool) -> Iterator[Any]:
    """A progress bar of the rows of a pass. It is shown if the pass takes over two seconds."""
    if not shown:
        yield None
        return
    with progress.bar(total=rows, desc=name, unit=" rows", delay=_DELAY) as bar:
        yield bar
