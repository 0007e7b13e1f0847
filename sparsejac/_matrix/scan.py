"""The numbers of a matrix that is streamed, and what scans note of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _validation
from .._kernels import compiled_kernel
from .._system.locks import OwnedLock
from .buffers import Buffer, converted
from .entries import COMPILED, Aligned, kernel_dtype, wide
from .indices import frozen
from .pattern import Pattern
from .source import Part, RowBlock, Source


class Scan(NamedTuple):
    """What a scan finds in a real matrix: its diagonal, and its lowest and largest entries."""

    diagonal: NDArray[np.float64]
    lowest: float
    lowest_at: tuple[int, int]
    largest: float


class StreamedEntries(Aligned):
    """The numbers of a streamed A or Y, read block by block.

    The first pass scans them: it checks that they are finite, and notes the diagonal and, if asked,
    the lowest and largest. A source that its owner may change unnoticed is scanned in every pass.
    """

    direct = False

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
        self._noting = OwnedLock()
        self.source, self.name, self._pattern = source, name, pattern
        self.check_finite = check_finite
        self.dtype = self.given_dtype = kernel_dtype(source.dtype, compiled)
        self.extra, self.sequential, self.owned_lock = (
            source.extra,
            source.sequential,
            source.owned_lock,
        )
        self.scanned = np.zeros(pattern.k, np.bool_)
        self._diagonal = np.zeros(pattern.k, wide(self.dtype))
        self._lowest, self._lowest_at, self._largest = np.inf, (0, 0), -np.inf

    def check_unchanged(self) -> None:
        if self.source.referenced is not None:
            self.source.referenced.check()

    @property
    def entry_bytes(self) -> int:
        return self.source.entry_bytes(self.dtype)

    @property
    def is_scanned(self) -> bool:
        """Whether all is scanned, and cannot have changed unnoticed."""
        return bool(self.scanned.all()) and not self.source.mutable

    @contextmanager
    def opened(self) -> Iterator[Callable[..., RowBlock]]:
        """A context for a pass that yields ``read(i0, i1, buffers, …)``: see `Source.opened`."""
        again, pattern = self.source.scan_each_pass, self._pattern
        with self.source.opened() as read:

            def block_of(
                i0: int, i1: int, buffers: list[Buffer], *, values: bool = True, columns: Any = None
            ) -> RowBlock:
                part = Part(i0, i1, *pattern.column_range(i0, i1, diagonal=self.whole_diagonal))
                data, indices, base = read(part, buffers, values=values, columns=columns)
                if values:
                    data = frozen(converted(data, self.dtype, buffers[1]).reshape(-1))
                    if again or not self.scanned[i0:i1].all():
                        self._scan(i0, i1, data, base)
                return RowBlock(data, indices, base)

            yield block_of

    def _scan(self, i0: int, i1: int, data: NDArray[Any], base: int) -> None:
        """Scan the visited entries of rows ``i0 <= i < i1``."""
        pattern = self._pattern
        if int(pattern.first[i1] - pattern.first[i0]) == data.size:
            self._scan_numbers(data, base)
        else:
            for begin, end in zip(
                pattern.lo[i0:i1].tolist(), pattern.hi[i0:i1].tolist(), strict=True
            ):
                self._scan_numbers(data[begin - base : end - base], begin)
        on_diagonal = pattern.diagonal_entries_of(i0, i1, visited=not self.whole_diagonal)
        stored = on_diagonal >= 0
        diagonal = data[on_diagonal[stored] - base]
        if self.whole_diagonal and self.check_finite and not np.isfinite(diagonal).all():
            q = int(np.argmin(np.isfinite(diagonal)))
            i = int(np.flatnonzero(stored)[q]) + i0
            raise _validation.not_finite(self.name, (i, i), diagonal[q])
        self._diagonal[i0:i1][stored] = diagonal
        self.scanned[i0:i1] = True

    def _scan_numbers(self, data: NDArray[Any], base: int) -> None:
        if not data.size:
            return
        if self.check_finite and data.dtype.kind in "fc":
            parts = data.view(data.real.dtype) if data.dtype.kind == "c" else data
            if compiled_kernel("not_finite")(parts):
                q = int(np.argmin(np.isfinite(data)))
                raise _validation.not_finite(self.name, self._place(base + q), data[q])
        if self.extremes:
            lowest, largest = float(np.min(data)), float(np.max(data))
            with self._noting:
                if lowest < self._lowest and lowest < 0:  # only negative entries need a place
                    self._lowest_at = self._place(base + int(np.argmax(data == lowest)))
                self._lowest = min(self._lowest, lowest)
                self._largest = max(self._largest, largest)

    def _place(self, entry: int) -> tuple[int, int]:
        """The pair (i, j) of an entry in the user's matrix."""
        return self.source.place(*self._pattern.pair(entry))

    def result(self) -> Scan:
        """What the scans have found."""
        diagonal = self._diagonal.astype(np.float64)
        return Scan(diagonal, self._lowest, self._lowest_at, self._largest)

    def take(self, scan: Scan) -> None:
        """Take over what another pass has scanned."""
        self.scanned[:] = True
        self._diagonal[:] = scan.diagonal

    def any_nonzero(self, visit: Callable[..., None]) -> bool:
        found: list[bool] = []  # one for each block of a pass
        visit(self, lambda block: found.append(bool(np.any(block.aligned[0]))))
        return any(found)

    def diagonal(self, scan: Callable[..., None]) -> NDArray[Any]:
        scan(self)
        return self._diagonal.copy()
