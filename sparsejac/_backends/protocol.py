"""What all backends have in common.

A backend runs operations over the entries of A. `map` runs one that writes each row's own part of
an output. Threads take the rows in any order. `reduce` runs one that adds into k-vectors. There A
alone determines the partial sums, and they are added in order. So the result has the same bits for
every number of workers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _validation
from .._kernels import maps_go_past_caches
from .._matrix.align import align
from .._matrix.entries import Weights, wide
from .._matrix.indices import Indices, frozen, index_dtype
from .._matrix.layout import Layout, pattern_of
from .._matrix.pattern import Pattern
from .._matrix.scan import Scan
from .._matrix.source import Source
from .._matrix.variables import variables_of
from .._system import machine
from .._system.forks import computed_once
from .._system.recycling import Recycler, allocated
from .._validation import Order, Settings

_PAST_CACHES = {"value", "matvec"}  # the maps that can store past the caches
CACHES = 2**25  # bytes of an output that may stay in the caches for whoever reads it next


class Backend:
    """The base of all backends: what they derive from `map` and `reduce`.

    Attributes
    ----------
    source, layout, settings
        What it was made of. It pickles as these three.
    pattern : Pattern
        The entries of the source that the layout visits.
    entries : Aligned
        The numbers of A.
    dtype : numpy.dtype
        The dtype in which the kernels get the numbers of A.
    workers : int
        How many threads compute at the same time.
    results : Recycler
        Allocates results of m numbers.
    memory : int or None
        The budget in bytes, if there is one.
    local : bool
        Results with a number for each row of J are in the memory of this process.
    on_progress : callable or None
        `map` calls it with the number of entries of each piece that it has finished.
    """

    entries: Any
    dtype: np.dtype[Any]
    local = True
    on_progress: Callable[[int], object] | None = None
    memory: int | None = None

    def __init__(self, source: Source, layout: Layout, settings: Settings) -> None:
        self.source, self.layout, self.settings = source, layout, settings
        self.workers = settings.workers or machine.cpu_count()
        self.results = Recycler()

    @computed_once
    def pattern(self) -> Pattern:
        return pattern_of(self.source, self.layout)

    def __reduce__(self) -> tuple[Any, ...]:
        self.pattern.check_unchanged()
        return type(self), (self.source, self.layout, self.settings)

    # --- what each backend defines

    def map(self, kernel: str, *args: Any, **how: Any) -> None:
        """Run a kernel over all rows, or over the rows ``rows[0] <= i < rows[1]``.

        The kernel gets the entries of these rows, and `args`. Keywords:

        rows : tuple of int, optional
        columns : int, default 1
            How many numbers the kernel writes for each entry.
        structure : bool, default False
            The kernel does not read A's values.
        visited_only : bool, default False
            The output has a row for each visited entry, as if J had no implicit rows.
        target : Aligned, optional
            The kernel also reads a number of it at each entry.
        """
        raise NotImplementedError

    def reduce(self, kernel: str, x: Any, *args: Any, **how: Any) -> NDArray[Any]:
        """The sums, in the dtype of x, that a kernel adds up over all rows.

        What x may be is said by `Reduction`, and it may be a `Reduction` itself. Keywords:

        outputs, extra, columns
            The shape of the result: see `Reduction`.
        target : Aligned, optional
            The kernel also reads a number of it, or `columns` numbers, at each entry or row of J.
        """
        raise NotImplementedError

    def check(self, symmetric: str | None) -> None:
        """Refuse an A in memory that is not finite, and an A that is not symmetric.

        `symmetric` names what needs a symmetric A, or is None. The numbers of a streamed A are
        checked for NaN and infinity in its first pass.
        """
        raise NotImplementedError

    def at(self, entries: Indices) -> NDArray[Any]:
        """The values of these entries. There are O(k) of them."""
        raise NotImplementedError

    def scan(self) -> Scan:
        """Scan the entries that are visited."""
        raise NotImplementedError

    def extremes(self) -> tuple[Any, tuple[int, int], float]:
        """The lowest entry that is visited, or 0, its place, and the largest entry."""
        return self.scan()[1:]

    def diagonal(self) -> NDArray[Any]:
        """A's diagonal in double precision, with 0 where A stores no entry."""
        raise NotImplementedError

    def check_unchanged(self, target: Any) -> None:
        """Refuse sparse matrices whose arrays are not those that were handed over."""
        self.pattern.check_unchanged()
        if target is not None:
            target.check_unchanged()

    def diagonal_of(self, target: Any) -> NDArray[Any]:
        """The diagonal of a target, in float64."""
        raise NotImplementedError

    def any_nonzero(self, target: Any) -> bool:
        """Whether a target has a nonzero number. If it is in memory, this takes no pass over A."""
        raise NotImplementedError

    def aligned(self, of: Source) -> Any:
        """The numbers of a Y at A's entries, as a target of `map` and `reduce`."""
        return align(of, self.source, self.pattern, self.layout)

    def take_scan(self, scan: Scan, *, whole_diagonal: bool) -> None:
        """Take over what another pass has scanned.

        With `whole_diagonal`, later passes note the diagonal even where it is not visited.
        """

    def noted_diagonal(self) -> NDArray[Any] | None:
        """The diagonal that the last pass noted, or None if passes do not note it."""
        return None

    # --- what follows from these

    def pair(self, x: NDArray[Any], v: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Two k-vectors as the kernels of a map take them. For sparse rows they are interleaved."""
        if not self.pattern.interleaved:
            return x, v
        both = np.empty((x.size, 2), x.dtype)
        both[:, 0], both[:, 1] = x, v
        return frozen(both), None

    def mapped(
        self,
        kernel: str,
        *args: Any,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        **how: Any,
    ) -> Any:
        """A new array that a map fills. It is zero where A has no entries.

        The keywords of `map` are `columns` and `target`.
        """
        out = self.empty_rows(shape, dtype)
        self.map(self.kernel_into(out, kernel), *args, out, **how)
        return out

    def row_products(self, u: NDArray[Any], *, own: bool) -> NDArray[Any]:  # noqa: ARG002
        """``A u`` without A's diagonal, for the layout of sums.

        `own` says that the caller adds the diagonal's part.
        """
        return self.reduce("symmetric", u)

    def holds(self, value: object) -> bool:  # noqa: ARG002  # arrays are in memory
        """Whether this is an array where A is, not in the memory of this process."""
        return False

    def brought(self, X: Any) -> Any:
        """An operand with k numbers for each vector, in the memory of this process."""
        return X

    def returned(self, result: NDArray[Any], X: Any) -> Any:  # noqa: ARG002  # all are here
        """A result with k numbers for each vector, where its operand X is."""
        return result

    def for_sums(self) -> Backend:
        """The backend of many sums over A as it is now, which may read half of a symmetric A."""
        return self

    def check_takes(self, option: str) -> None:
        """Raise an exception if this backend cannot take an option."""

    def stays(self, what: str) -> Exception:
        """The error for a result that would come to this process, and is too large for that."""
        return _validation.on_workers(what)

    def jacobian(self, x: NDArray[Any]) -> Any:  # noqa: ARG002  # `Assembly` forms it
        """J at x in CSR format, if it is formed where A is."""
        raise self.stays("the CSR matrix")

    def wrapped(self, operator: Any) -> Any:
        """An operator over A for the solvers of cupyx."""
        raise TypeError(
            f"cupyx() is for an A on a GPU, and this {type(operator).__name__} is in the memory of "
            "this process or on a cluster: SciPy takes it as it is"
        )

    def weights(self, w: NDArray[Any], dtype: np.dtype[Any]) -> Any:
        """Weights for J's rows, as a target of `reduce`."""
        return Weights(frozen(w), self.pattern, dtype, self.layout)

    def neighbours(
        self, s: int
    ) -> tuple[tuple[Indices, NDArray[Any]], tuple[Indices, NDArray[Any]]]:
        """The visited entries of row s as (columns, values), and of column s as (rows, values).

        Both include the diagonal.
        """
        (columns, in_row), (lines, in_column) = self.pattern.in_row(s), self.pattern.in_column(s)
        return (columns, self.at(in_row)), (lines, self.at(in_column))

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

    def visited(self) -> tuple[Indices, Indices]:
        """The pairs (i, j) of the entries that are visited."""
        pattern, count = self.pattern, self.pattern.entries
        dtype = index_dtype(pattern.k, pattern.k, count)
        i, j = allocated((count,), dtype), allocated((count,), dtype)
        self.map("pairs", pattern.width, i, j, structure=True, visited_only=True)
        return i, j

    def positions(self) -> Any:
        """The positions of the visited entries among A's values."""
        pattern = self.pattern
        if pattern.is_whole:
            return slice(None)
        return np.arange(pattern.entries) + np.repeat(
            pattern.lo - pattern.first[:-1], pattern.hi - pattern.lo
        )

    def values(self, target: Any = None) -> NDArray[Any]:
        """A's numbers, or the target's, at the entries that are visited, in double precision."""
        dtype = wide(self.dtype)
        found = np.empty(self.pattern.entries, dtype)
        of, kernel, none = variables_of(self.source, self.layout, 1), "value", None
        places: tuple[int, ...] = ()
        x = np.full(of.count, target is None, dtype)
        if self.layout.bilinear:
            kernel, x, none = "rank_value", x[:, np.newaxis], frozen(np.empty(0))
            places = self.pattern.width, of.row_offset, of.column_offset
        if target is None:
            self.map(kernel, none, 0, *places, frozen(x), found, visited_only=True)
            return found
        self.map(kernel, *places, frozen(x), found, visited_only=True, target=target)  # 0 - y
        return np.negative(found, out=found)

    def positive_entries(self) -> tuple[Indices, Indices, Indices]:
        """The pairs (i, j) of the visited entries that are positive, and their positions."""
        i, j = self.visited()
        p = self.positions()
        if isinstance(p, slice):
            p = np.arange(i.size)
        positive = self.values() > 0
        return i[positive], j[positive], p[positive]

    def matrix(self, target: Any = None) -> NDArray[Any]:
        """The `values` for a dense A as an array of its stored rows, with zeros elsewhere."""
        pattern = self.pattern
        return pattern.scattered(self.values(target)).reshape(pattern.k, pattern.width)

    def empty_rows(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array of m rows that a map fills. It is zero where A has no entries."""
        if self.pattern.implicit is None:
            return self.results.empty(shape, dtype)
        return allocated(shape, dtype, zeros=True)

    def kernel_into(self, out: NDArray[Any], kernel: str) -> str:
        """The name of the fastest kernel of a map that writes a whole result of `empty_rows`.

        Stores past the caches do not pay for fresh memory. The system has just cleared it there.
        """
        large = out.nbytes > CACHES and out.dtype.kind == "f" and out.ndim == 1
        large = large and not self.pattern.interleaved and kernel in _PAST_CACHES
        if large and self.results.is_used(out) and maps_go_past_caches():
            return f"{kernel}_past_caches"
        return kernel

    def check_weights(self) -> None:
        """Refuse weights for J's rows that cannot be read along the stored rows."""
        if not (self.layout.rows_in_order or self._stores_all):
            raise self.wrong_order()

    def check_row_structure(self) -> None:
        """Refuse the structure of J's rows if these do not follow the stored rows.

        It does not matter for a square dense A, whose rows and columns have the same structure.
        """
        if not (self.layout.rows_in_order or self._rows_and_columns_alike):
            raise self.wrong_order()

    @property
    def _stores_all(self) -> bool:
        """Whether A is dense and whole."""
        return self.pattern.is_full and not self.pattern.interleaved

    @property
    def _rows_and_columns_alike(self) -> bool:
        """Whether the rows and the columns of A have the same structure."""
        return self._stores_all and self.pattern.is_square

    def wrong_order(self) -> ValueError:
        """The error for J's rows that do not follow the stored rows: the other order is needed."""
        other: Order = "F" if self.layout.pairs_transposed else "C"
        return _validation.wrong_order(other, columns=self.layout.transposed)

    def bounds(self, *, visited_only: bool = False) -> tuple[Any, ...]:
        """The arguments with which every kernel gets the rows."""
        pattern = self.pattern
        grid = -1 if visited_only or pattern.implicit is None else pattern.implicit
        return pattern.lo, pattern.hi, pattern.first, grid if pattern.interleaved else None


class Reduction:
    """The k-vectors that a reduction takes and adds up, and how the kernels get them.

    x is a k-vector, and so is the sum, or with `columns` a matrix of so many. Or x is several
    k-vectors, as a tuple or as rows of a matrix, and the sum as many rows as there are `outputs`,
    of k numbers and so many `extra` ones. For sparse rows the kernel is given the vectors and the
    sums interleaved, except with `columns`.
    """

    def __init__(
        self,
        x: NDArray[Any] | tuple[NDArray[Any], ...],
        outputs: int,
        extra: int,
        columns: int | None,
        *,
        interleaved: bool,
    ) -> None:
        self.several = isinstance(x, tuple) or x.ndim == 2
        self._given = x if isinstance(x, tuple) else (x,)
        self._vectors: list[NDArray[Any]] = [*x] if self.several else [*self._given]
        self._k, self._extra, self._outputs = self._vectors[0].size, extra, outputs
        self._columns, self.dtype = columns, self._vectors[0].dtype
        self.inputs, self._four = len(self._vectors), 0 if interleaved or self._k < 4 else 4
        self.interleaved = interleaved and columns is None
        self.shape: tuple[int, ...] = (outputs, self._k + extra) if self.several else (self._k,)
        if columns is not None:
            self.shape = (self._k, columns)

    def kernel(self, name: str) -> str:
        """The name of the kernel of an operation."""
        return name

    @property
    def numbers(self) -> int:
        """How many numbers a partial sum has."""
        if self.interleaved:
            return self._k * (self.inputs + self._outputs)
        return math.prod(self.shape)

    @property
    def part_nbytes(self) -> int:
        """The bytes of a partial sum."""
        return self.numbers * self.dtype.itemsize

    def part(self) -> NDArray[Any]:
        """Where a kernel may add a partial sum."""
        if not self.interleaved:
            return np.zeros(self.shape, self.dtype)
        out = in_cache_lines(self._k + self._extra, self.inputs + self._outputs, self.dtype)
        for column, vector in enumerate(self._vectors):
            out[: self._k, column] = vector
        out[:, self.inputs :] = 0
        return out

    def arguments(self, args: tuple[Any, ...], out: NDArray[Any]) -> tuple[Any, ...]:
        """The last arguments of a kernel that adds into a partial sum."""
        vectors = (None,) * len(self._given) if self.interleaved else self._given
        if self._columns is None:
            return (*vectors, *args, out)
        return (*vectors, *args, np.empty((self._four, self._columns), self.dtype), out)

    def sums(self, out: NDArray[Any]) -> NDArray[Any]:
        """The sums in a partial sum."""
        if not self.interleaved:
            return out
        return out[:, self.inputs :].T if self.several else out[:, 1]


def in_cache_lines(rows: int, columns: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """An empty array that starts at a cache line.

    So a row of a power of two of numbers lies within one cache line.
    """
    memory = np.empty(rows * columns + 64 // dtype.itemsize, dtype)
    start = -memory.ctypes.data % 64 // dtype.itemsize
    return memory[start : start + rows * columns].reshape(rows, columns)
