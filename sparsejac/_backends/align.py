"""A Y aligned with A where one of them is streamed: the numbers of Y at the entries of A.

`sparsejac._matrix.align` does the same for two matrices in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from .. import _kernels, _validation
from .._matrix.align import aligned, check_triangle
from .._matrix.buffers import Room
from .._matrix.csr import CsrSource
from .._matrix.dense import DenseMemory, DenseSource, FileRows, Part, Reader
from .._matrix.entries import TARGETS, Entries
from .._matrix.layout import Layout, Side, layout_of_whole, stored_triangle
from .._matrix.memory import check_entries_finite, unequal
from .._matrix.numbers import MemoryNumbers, Numbers, numbers
from .._matrix.pattern import Pattern, frozen
from .._matrix.registry import memory_source, stored_source
from .._matrix.source import Source
from .._validation import Rows as WhichRows
from .._validation import Triangle, Uplo
from .memory import MemoryRows
from .rows import Rows
from .streamed import StreamedEntries, StreamedRows


def align_target(Y: Any, rows: Rows, which: WhichRows, uplo: Uplo | None) -> Any:
    """Align Y with A: return its numbers at A's entries, or what reads them block by block.

    The numbers are computed at once if A is in memory, and in each pass if A is streamed.
    """
    pattern = rows.pattern
    source = target_source(Y)
    if source is None:
        Y = _validation.target(Y, pattern.k, pattern.m)
    elif source.k != pattern.k:
        k = pattern.k
        raise ValueError(f"Y must be a {k}x{k} matrix as A is, got {source.k}x{source.k}")
    _validation.real("Y", Y.dtype if source is None else source.dtype, "least squares")
    if which == "upper":
        Y = _upper(Y, source, rows)
    elif uplo is not None and source is None:
        _check_whole(Y, uplo)
    if isinstance(rows, MemoryRows):
        y = aligned(Y, rows.source, pattern, rows.layout, check=rows.settings.check_finite)
        if which == "upper" and Y.ndim == 2:
            check_triangle(y, pattern, transposed=rows.layout.pairs_transposed)
        return Entries(y, pattern, TARGETS)
    align = _align_to_csr if isinstance(rows.source, CsrSource) else _align_to_dense
    return align(Y, source, rows)


def target_source(Y: Any) -> Source | None:
    """The source of a Y that is not in memory, or None.

    A mapped vector has no source: its numbers are read along A's rows.
    """
    return None if isinstance(Y, np.ndarray) and Y.ndim == 1 else stored_source("Y", Y)


def _align_to_dense(Y: Any, source: Source | None, rows: Rows) -> Any:
    pattern, layout, check = rows.pattern, rows.layout, rows.settings.check_finite
    if source is None and scipy.sparse.issparse(Y):
        source = memory_source(Y, transposed=layout.pairs_transposed, name="Y")
    elif source is None:
        vector = numbers("Y", Y) if Y.ndim == 1 else None
        if vector is not None and pattern.m < pattern.k**2:
            rows.check_weights()
            source = _Scattered(vector, pattern, layout)
        elif vector is None or isinstance(vector, MemoryNumbers):
            stored = _along_stored_rows(Y, layout, pattern.k)
            if check:
                transposed = layout.transposed
                check_entries_finite(stored, None, None, transposed=transposed, name="Y")
            return Entries(stored, pattern, TARGETS)
        else:
            along = layout.transposed == layout.rows_in_order
            source = FileRows(vector, pattern.k, transposed=along)
    if not source.zero_copy and source.transposed != layout.transposed:
        raise _validation.different_orders(transposed=layout.transposed)
    if isinstance(source, CsrSource):
        source = _Densified(source)
    return StreamedEntries(source, pattern, "Y", check_finite=check, compiled=TARGETS)


def _align_to_csr(Y: Any, source: Source | None, rows: Rows) -> AlignedCsr:
    layout, pattern, own = rows.layout, rows.pattern, rows.source
    assert isinstance(own, CsrSource)
    found: Any = source
    if source is None and scipy.sparse.issparse(Y):
        found = memory_source(Y, transposed=layout.pairs_transposed, name="Y")
    elif source is None and Y.ndim == 1 and pattern.grid is None:
        if not layout.rows_in_order:
            raise _validation.vector_by_other_lines(transposed=layout.transposed)
        found = numbers("Y", Y)
    elif source is None:
        found = DenseMemory(_along_stored_rows(Y, layout, pattern.k))
    elif source.transposed != layout.transposed:
        raise _validation.different_orders(transposed=layout.transposed)
    return AlignedCsr(found, own, pattern, check_finite=rows.settings.check_finite)


def _along_stored_rows(Y: NDArray[Any], layout: Layout, k: int) -> NDArray[Any]:
    """A view of Y as a matrix with a row for each stored row of A.

    Y is dense, or a vector of k² numbers in the order of J's rows.
    """
    if Y.ndim == 1:
        Y = Y.reshape(k, k)
        return Y if layout.rows_in_order else Y.T
    return Y.T if layout.pairs_transposed else Y


def _upper(Y: Any, source: Source | None, rows: Rows) -> Any:
    """The Y to align for ``rows="upper"``.

    It must be symmetric, or have no nonzeros below its diagonal. If A holds its lower triangle, Y
    may hold that as well. A matrix on disk is checked in a pass.
    """
    layout = rows.layout
    mirrored = layout.pairs_transposed != layout.transposed
    if source is None:
        if Y.ndim == 1:
            return Y
        if rows.source.uplo is not None:
            return _upper_of(Y, rows)
        if isinstance(rows, MemoryRows):
            return Y  # `align_target` checks it after it is aligned
        source = memory_source(Y, transposed=False, name="Y")
    elif source.uplo is not None:
        if mirrored:
            raise _validation.lower_is_read()
        return Y
    settings = rows.settings._replace(memory=None)
    whole = StreamedRows(source, layout_of_whole(source), settings)
    whole.entries.name = "Y"
    defect = whole.asymmetry()
    if defect is None:
        return Y
    side: Triangle = "upper" if source.transposed else "lower"
    below = Layout(side=Side(side, offset=1))
    part = StreamedRows(source, below, settings._replace(check_finite=False))
    if np.any(part.sum("nonzeros", frozen(np.ones(source.k)))):
        raise _validation.neither_symmetric_nor_upper_row(*defect)
    if mirrored and not source.zero_copy:
        raise _validation.lower_is_read()
    return Y


def _upper_of(Y: Any, rows: Rows) -> Any:
    """A Y in memory that goes with one triangle of A: beside a sparse A, its own triangle alone."""
    arrays = memory_source(Y, transposed=False, name="Y").arrays
    if scipy.sparse.issparse(Y):
        Y = scipy.sparse.csr_array(arrays, shape=Y.shape)  # duplicates are summed by now
    if is_triangle(Y, "L") and rows.source.uplo == "L":
        return Y.T
    if is_triangle(Y, "U"):
        return Y
    defect = unequal(*arrays)
    if defect is not None:
        raise _validation.neither_symmetric_nor_upper(*defect)
    if not isinstance(rows.source, CsrSource):
        return Y
    if not Y.dtype.isnative:  # SciPy takes no other byte order
        Y = Y.astype(Y.dtype.newbyteorder("="))
    pairs = scipy.sparse.coo_array(Y)
    inside = pairs.row <= pairs.col
    places = pairs.row[inside], pairs.col[inside]
    return scipy.sparse.coo_array((pairs.data[inside], places), shape=Y.shape).tocsr()


def _check_whole(Y: Any, uplo: Uplo) -> None:
    """Refuse a matrix in memory that holds the same triangle as A, where all of it is compared."""
    if Y.ndim == 2 and is_triangle(Y, uplo) and not is_triangle(Y, "L" if uplo == "U" else "U"):
        raise _validation.target_is_triangle(uplo)


def is_triangle(Y: Any, uplo: Uplo) -> bool:
    """Whether a matrix in memory has nothing outside one triangle."""
    if scipy.sparse.issparse(Y):
        pairs = scipy.sparse.coo_array(Y)
        outside = pairs.row > pairs.col if uplo == "U" else pairs.row < pairs.col
        return not np.any(pairs.data[outside])
    part = Y if uplo == "L" else Y.T
    return not any(np.any(part[i, i + 1 :]) for i in range(len(part)))


class _Densified(DenseSource):
    """A sparse Y as dense rows, for a dense A."""

    extra = 2

    def __init__(self, of: CsrSource) -> None:
        self._of, self.k, self.dtype = of, of.k, of.dtype
        self.transposed, self.serial = of.transposed, of.serial

    @property
    def mutable(self) -> bool:  # type: ignore[override]  # it may change between passes
        return self._of.mutable

    @contextmanager
    def opened(self) -> Iterator[Reader]:
        with self._of.opened() as (read, read_columns):

            def block(part: Part, _: Room) -> NDArray[Any]:
                indptr = self._of.indptr[part.i0 : part.i1 + 1]
                data, columns = (
                    numbers(int(indptr[0]), int(indptr[-1]), Room(returned=True))
                    for numbers in (read, read_columns)
                )
                rows = scipy.sparse.csr_array(
                    (data, columns, indptr - indptr[0]), shape=(part.i1 - part.i0, self.k)
                )
                return rows.toarray()

            yield block


class _Scattered(DenseSource):
    """A Y as dense rows, from a vector with a number for each entry in a triangle of a dense A."""

    extra = 1

    def __init__(self, vector: Numbers, pattern: Pattern, layout: Layout) -> None:
        self._vector, self._pattern, self.k, self.dtype = vector, pattern, pattern.k, vector.dtype
        self.transposed = layout.transposed

    @property
    def mutable(self) -> bool:  # type: ignore[override]  # it may change between passes
        return self._vector.mutable

    @contextmanager
    def opened(self) -> Iterator[Reader]:
        pattern, k = self._pattern, self.k
        with self._vector.opened() as read:

            def block(part: Part, room: Room) -> NDArray[Any]:
                i0, i1 = part.i0, part.i1
                out, start = np.zeros((i1 - i0, k), self.dtype), int(pattern.first[i0])
                found = read(start, int(pattern.first[i1]), room)
                for i in range(i0, i1):
                    row = slice(int(pattern.lo[i]) - i * k, int(pattern.hi[i]) - i * k)
                    out[i - i0, row] = found[
                        int(pattern.first[i]) - start : int(pattern.first[i + 1]) - start
                    ]
                return out

            yield block


class AlignedCsr:
    """A Y aligned with a CSR A: the numbers of Y at A's entries. Y must be zero elsewhere."""

    direct = False
    dtype = given_dtype = np.dtype(np.float64)
    extra = 2

    def __init__(
        self, source: Any, own: CsrSource, pattern: Pattern, *, check_finite: bool
    ) -> None:
        self.source, self._own, self._pattern = source, own, pattern
        self._check_finite = check_finite
        self._side = None if own.uplo is None else stored_triangle(own)
        self.name, self.seen = "Y", np.zeros(pattern.k, np.bool_)
        self.diagonal = np.zeros(pattern.k)
        itemsize = source.dtype.itemsize
        if isinstance(source, DenseSource):  # all k columns of Y for each row of A
            self.entry_bytes = 8 + itemsize * -(-own.k // own.longest)
        else:
            self.entry_bytes = 8 + itemsize + (16 if isinstance(source, CsrSource) else 0)

    @property
    def mutable(self) -> bool:
        return bool(self.source.mutable)

    @property
    def scan_each_pass(self) -> bool:
        return self.mutable or bool(getattr(self.source, "scan_each_pass", False))

    def reader(self, opened: Any) -> Callable[..., Any]:
        """A function ``read(i0, i1, rooms, columns)`` for a pass over an opened source.

        It returns Y's numbers at the entries of these rows of A. `columns` are the columns of those
        entries.
        """
        indptr = self._own.indptr

        def block_of(
            i0: int, i1: int, rooms: list[Room], columns: NDArray[Any]
        ) -> tuple[NDArray[Any], None, int]:
            base, end = int(indptr[i0]), int(indptr[i1])
            out = rooms[4].take(end - base, self.dtype)
            if isinstance(self.source, CsrSource):
                self._align(opened, i0, i1, rooms, columns, out)
            elif isinstance(self.source, DenseSource):
                self._gather(opened(Part(i0, i1, 0, self._own.k), rooms[0]), i0, i1, columns, out)
            else:  # a vector in the order of J's rows
                first = self._pattern.first
                self._spread(opened(int(first[i0]), int(first[i1]), rooms[0]), i0, i1, out)
            return frozen(out), None, base

        return block_of

    def _spread(self, found: NDArray[Any], i0: int, i1: int, out: NDArray[Any]) -> None:
        if found.size == out.size:
            np.copyto(out, found)
            return
        pattern, out[:] = self._pattern, 0
        shift, base = int(pattern.first[i0]), int(self._own.indptr[i0])
        for i in range(i0, i1):  # Y has numbers for a triangle only
            part = found[int(pattern.first[i]) - shift : int(pattern.first[i + 1]) - shift]
            out[int(pattern.lo[i]) - base : int(pattern.hi[i]) - base] = part

    def _align(
        self,
        opened: Any,
        i0: int,
        i1: int,
        rooms: list[Room],
        columns: NDArray[Any],
        out: NDArray[Any],
    ) -> None:
        read, read_columns = opened
        ours, theirs = self._own.indptr[i0 : i1 + 1], self.source.indptr[i0 : i1 + 1]
        begin, end = int(theirs[0]), int(theirs[-1])
        found = read(begin, end, rooms[0]).astype(self.dtype, copy=False)
        their_columns = read_columns(begin, end, rooms[2])
        local, their_local = ours - ours[0], theirs - theirs[0]
        if np.array_equal(local, their_local) and np.array_equal(columns, their_columns):
            np.copyto(out, found)
            return
        if self._side is not None and their_columns.size:
            # A symmetric Y has the other triangle as well.
            rows = np.repeat(np.arange(i0, i1), np.diff(their_local))
            inside = their_columns >= rows if self._side == "upper" else their_columns <= rows
            counts = np.bincount(rows[inside] - i0, minlength=i1 - i0)
            found, their_columns = found[inside], their_columns[inside]
            their_local = np.concatenate([[0], np.cumsum(counts)])
        out[:] = 0
        structures = (
            frozen(part.astype(np.int64)) for part in (local, columns, their_local, their_columns)
        )
        count, i, j = _kernels.csr_align(*structures, frozen(found), out)
        if count:
            raise self._outside(int(count), int(i) + i0, int(j))

    def _gather(
        self, block: NDArray[Any], i0: int, i1: int, columns: NDArray[Any], out: NDArray[Any]
    ) -> None:
        base = int(self._own.indptr[i0])
        for i in range(i0, i1):
            row = slice(int(self._own.indptr[i]) - base, int(self._own.indptr[i + 1]) - base)
            out[row] = block[i - i0, columns[row]]
            # A symmetric Y has the other triangle as well.
            outside = {"upper": slice(i), "lower": slice(i + 1, None), None: slice(0)}[self._side]
            others = np.array(block[i - i0])
            others[outside] = others[columns[row]] = 0
            left_out = np.count_nonzero(others)
            if left_out:
                raise self._outside(int(left_out), i, int(np.flatnonzero(others)[0]))

    def _outside(self, count: int, i: int, j: int) -> ValueError:
        return _validation.outside(count, (j, i) if self._own.transposed else (i, j))

    def look(
        self, i0: int, i1: int, numbers: NDArray[Any], base: int, *, again: bool = False
    ) -> None:
        """Check and note these numbers, if they are not noted already or `again` is set."""
        if self.seen[i0:i1].all() and not again:
            return
        if self._check_finite:
            ok = np.isfinite(numbers)
            if not ok.all():
                q = int(np.argmin(ok))
                i = int(np.searchsorted(self._own.indptr, base + q, side="right")) - 1
                j = int(self._own.columns[base + q : base + q + 1][0])
                raise _validation.not_finite(
                    "Y", (j, i) if self._own.transposed else (i, j), numbers[q]
                )
        on_diagonal = self._pattern.diagonal_entries_of(i0, i1)
        found = on_diagonal >= 0
        self.diagonal[i0:i1][found] = numbers[on_diagonal[found] - base]
        self.seen[i0:i1] = True
