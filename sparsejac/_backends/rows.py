"""What all backends have in common.

A backend offers two operations. `map` runs a kernel that writes each row's own part of an output.
Threads take the rows in any order. `sum` runs a kernel that adds into a k-vector. There A alone
determines the partial sums, and they are added in order. So the result has the same bits for every
number of workers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _validation
from .._matrix.layout import Layout
from .._matrix.pattern import Indices, Pattern, frozen, index_dtype
from .._matrix.source import Source
from .._system import machine
from .._validation import Order, Settings


class Summary(NamedTuple):
    """What a scan finds in a real matrix: its diagonal, and its lowest and largest entries."""

    diagonal: NDArray[np.float64]
    lowest: float
    lowest_at: tuple[int, int]
    largest: float


class Rows:
    """The base of all backends: what they derive from `map` and `sum`."""

    pattern: Pattern
    workers: int
    dtype: np.dtype[Any]  # the dtype in which the kernels get the numbers of A
    entries: Any  # the numbers of A
    # `map` calls it with the number of entries of each piece that it has finished.
    tick: Callable[[int], object] | None = None
    memory: int | None = None  # the budget in bytes, if there is one

    def __init__(self, source: Source, layout: Layout, settings: Settings) -> None:
        self.source, self.layout, self.settings = source, layout, settings
        self.workers = settings.workers or machine.cpu_count()

    def __reduce__(self) -> tuple[Any, ...]:
        self.pattern.check_unchanged()
        return type(self), (self.source, self.layout, self.settings)

    def map(self, kernel: str, *args: Any, **how: Any) -> None:
        raise NotImplementedError

    def sum(
        self, kernel: str, x: NDArray[Any] | tuple[NDArray[Any], ...], *args: Any, **how: Any
    ) -> NDArray[Any]:
        raise NotImplementedError

    def at(self, entries: Indices) -> NDArray[Any]:
        """The values of these entries. There are O(k) of them."""
        raise NotImplementedError

    def check_budget(self, target: Any) -> None:
        """Refuse a budget that is too small for a target."""

    def scan(self) -> Summary:
        """Scan the entries that are visited."""
        raise NotImplementedError

    def take_scan(self, seen: Summary, *, whole_diagonal: bool) -> None:
        """Take over what another pass has scanned.

        With `whole_diagonal`, later passes note the diagonal even where it is not visited.
        """

    def noted_diagonal(self) -> NDArray[Any] | None:
        """The diagonal that the last pass noted, or None if passes do not note it."""
        return None

    def diagonal(self) -> NDArray[Any]:
        """A's diagonal in double precision, with 0 where A stores no entry."""
        raise NotImplementedError

    def diagonal_of(self, target: Any) -> NDArray[Any]:
        """The diagonal of a target, in float64."""
        raise NotImplementedError

    def any_nonzero(self, target: Any) -> bool:
        """Whether a target has a nonzero number, however small.

        If the target is in memory, this takes no pass over A.
        """
        return bool(np.any(target.values))

    def pair(self, x: NDArray[Any], v: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Two k-vectors as the kernels of a map take them. For sparse rows they are interleaved."""
        if self.pattern.indices is None:
            return x, v
        packed = np.empty((x.size, 2), x.dtype)
        packed[:, 0], packed[:, 1] = x, v
        return frozen(packed), None

    def visited(self) -> tuple[Indices, Indices]:
        """The pairs (i, j) of the entries that are visited."""
        pattern, count = self.pattern, self.pattern.entries
        dtype = index_dtype(pattern.k, pattern.k, count)
        i, j = np.empty(count, dtype), np.empty(count, dtype)
        self.map("pairs", i, j, structure=True, compact=True)
        return i, j

    def positions(self) -> Any:
        """The positions of the visited entries among A's values."""
        pattern = self.pattern
        if pattern.entries == (pattern.k**2 if pattern.indices is None else pattern.indices.size):
            return slice(None)
        return np.arange(pattern.entries) + np.repeat(
            pattern.lo - pattern.first[:-1], pattern.hi - pattern.lo
        )

    def values(self, target: Any = None) -> NDArray[Any]:
        """A's numbers, or the target's, at the entries that are visited, in double precision."""
        k, dtype = self.pattern.k, np.dtype(np.complex128 if self.dtype.kind == "c" else np.float64)
        found = np.empty(self.pattern.entries, dtype)
        if target is None:
            self.map("value", None, 0, frozen(np.ones(k, dtype)), found, compact=True)
            return found
        self.map("value", frozen(np.zeros(k, dtype)), found, compact=True, target=target)  # 0 - y
        return np.negative(found, out=found)

    def matrix(self, target: Any = None) -> NDArray[Any]:
        """The `values` for a dense A as a k×k array, with zeros elsewhere."""
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

    def empty_rows(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array of m rows that a map fills. It is zero where A has no entries."""
        return np.empty(shape, dtype) if self.pattern.grid is None else np.zeros(shape, dtype)

    def check_weights(self) -> None:
        """Refuse weights for J's rows that cannot be read along the stored rows."""
        whole = self.pattern.indices is None and self.pattern.m == self.pattern.k**2
        if not (self.layout.rows_in_order or whole):
            raise self.wrong_order()

    def wrong_order(self) -> ValueError:
        """The error where J's rows do not follow the stored rows, as they would in the other order."""
        other: Order = "F" if self.layout.pairs_transposed else "C"
        return _validation.wrong_order(other, columns=self.layout.transposed)

    def spans(self, *, compact: bool = False) -> tuple[Any, ...]:
        """The arguments with which every kernel gets the rows.

        With `compact`, J has a row for each entry that is visited, as if no rows were implicit.
        """
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


def _in_cache_lines(rows: int, columns: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """An empty array that starts at a cache line.

    So a row of a power of two of numbers lies within one cache line.
    """
    memory = np.empty(rows * columns + 64 // dtype.itemsize, dtype)
    start = -memory.ctypes.data % 64 // dtype.itemsize
    return memory[start : start + rows * columns].reshape(rows, columns)
