"""Y beside rows of A that are streamed, or Y that is streamed beside rows of A in memory: the numbers of Y where A has entries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from .. import _kernels, _validation
from .._matrix.buffers import Room
from .._matrix.csr import CsrSource, Source
from .._matrix.dense import DenseSource, FileRows, ObjectRows, Part, Reader
from .._matrix.entries import Entries
from .._matrix.memory import check_entries_finite, csr_arrays
from .._matrix.numbers import MemoryNumbers, Numbers, numbers
from .._matrix.pattern import Pattern, frozen, triangle
from .._matrix.registry import source_of
from .streamed import StreamedEntries, StreamedRows, diagonal_entries, pattern_of

_TARGETS = (np.dtype(np.float64), np.dtype(np.float32))


def in_memory(A: Any, Y: Any) -> Source:
    """An A in memory as a source that goes along with a Y that is streamed."""
    beside = target_source(Y)
    transposed = beside is not None and beside.transposed
    if scipy.sparse.issparse(A):
        return _csr_in_memory(A, "A", transposed=transposed)
    oriented = A.T if transposed else A
    if oriented.flags.c_contiguous:
        return FileRows(MemoryNumbers(oriented.reshape(-1)), len(A), transposed=transposed)
    return ObjectRows(oriented, transposed=transposed)


def align_target(Y: Any, own: Source, pattern: Pattern, *, check: bool, flipped: bool) -> Any:
    """Y beside the rows of `own`. `flipped` says whether J's rows, and so a vector Y, go by the columns of what `own` has as rows."""
    source = target_source(Y)
    if source is None:
        Y = _validation.target(Y, pattern.k, pattern.m)
    elif source.k != pattern.k:
        raise ValueError(
            f"Y must be a {pattern.k}x{pattern.k} matrix as A is, got {source.k}x{source.k}"
        )
    _validation.real("Y", Y.dtype if source is None else source.dtype, "least squares")
    if isinstance(own, CsrSource):
        return BesideCsr(
            _beside_csr(Y, source, own, pattern, flipped=flipped), own, pattern, check_finite=check
        )
    beside = _beside_dense(Y, source, own, pattern, check=check, flipped=flipped)
    if isinstance(beside, Entries):
        return beside
    return StreamedEntries(beside, pattern, "Y", check_finite=check, compiled=_TARGETS)


def target_source(Y: Any) -> Source | None:
    """The source of a Y that is not in memory. A mapped vector has none: it is read beside A's rows."""
    return None if isinstance(Y, np.ndarray) and Y.ndim == 1 else source_of("Y", Y)


def _beside_dense(
    Y: Any, source: Source | None, own: DenseSource, pattern: Pattern, *, check: bool, flipped: bool
) -> DenseSource | Entries:
    k = pattern.k
    # whether a vector of k² numbers has Y's columns one after the other
    swapped = flipped != own.transposed
    if source is None and scipy.sparse.issparse(Y):
        source = _csr_in_memory(Y, "Y", transposed=own.transposed)
    elif source is None:
        vector = numbers("Y", Y) if Y.ndim == 1 else None
        if vector is not None and pattern.m < k * k:
            return _Scattered(vector, pattern)
        if vector is None or isinstance(vector, MemoryNumbers):
            if vector is not None:
                Y = Y.reshape(k, k).T if swapped else Y.reshape(k, k)
            oriented = Y.T if own.transposed else Y
            if check:
                check_entries_finite(oriented, None, None, transposed=own.transposed, name="Y")
            return Entries(oriented, pattern, _TARGETS)
        source = FileRows(vector, k, transposed=swapped)
    if source.transposed != own.transposed:
        raise _validation.different_orders(transposed=own.transposed)
    return _Densified(source) if isinstance(source, CsrSource) else source


def _beside_csr(
    Y: Any, source: Source | None, own: CsrSource, pattern: Pattern, *, flipped: bool
) -> Any:
    k = pattern.k
    swapped = flipped != own.transposed  # as above
    if source is None and scipy.sparse.issparse(Y):
        return _csr_in_memory(Y, "Y", transposed=own.transposed)
    if source is None and Y.ndim == 1 and pattern.grid is None:
        if flipped:
            raise _validation.vector_by_other_lines(transposed=own.transposed)
        return numbers("Y", Y)
    if source is None:
        if Y.ndim == 1:
            Y = Y.reshape(k, k).T if swapped else Y.reshape(k, k)
        return ObjectRows(Y.T if own.transposed else Y, "Y")
    if source.transposed != own.transposed:
        raise _validation.different_orders(transposed=own.transposed)
    return source


def _csr_in_memory(B: Any, name: str, *, transposed: bool) -> CsrSource:
    values, indices, indptr = csr_arrays(B, transposed=transposed, name=name)
    return CsrSource(
        MemoryNumbers(values), MemoryNumbers(indices), indptr, name=name, transposed=transposed
    )


def one_triangle(Y: Any, place: Any, *, mirrored: bool, check: bool, progress: bool) -> Any:
    """For ``rows="upper"``: Y must be symmetric, or have nothing below its diagonal. Of a matrix on disk that takes a pass.

    Returned so that the triangle of it that is read, the lower one if that of A is, is there.
    """
    source = target_source(Y)
    if source is None:
        if np.ndim(Y) == 1:
            return Y
        Y = Y if scipy.sparse.issparse(Y) else np.asarray(Y)
        seen = (
            _csr_in_memory(Y, "Y", transposed=False)
            if scipy.sparse.issparse(Y)
            else in_memory(Y, None)
        )
    elif source.half:
        if mirrored:
            raise _validation.lower_is_read()
        return Y
    else:
        seen = source
    whole = StreamedRows(
        seen, pattern_of(seen), place.workers, None, check_finite=check, progress=progress
    )
    whole.entries.name = "Y"
    defect = whole.asymmetry()
    if defect is None:
        return Y
    below = triangle(seen.k, "upper" if seen.transposed else "lower", offset=1)
    part = StreamedRows(
        seen, pattern_of(seen, below), place.workers, None, check_finite=False, progress=progress
    )
    if np.any(part.sum("nonzeros", frozen(np.ones(seen.k)))):
        raise _validation.neither_symmetric_nor_upper_row(*defect)
    if mirrored and source is not None:
        raise _validation.lower_is_read()
    return Y.T if mirrored else Y


class _Densified(DenseSource):
    """A sparse Y beside a dense A."""

    extra = 2

    def __init__(self, of: CsrSource) -> None:
        self._of, self.k, self.dtype, self.transposed, self.serial = (
            of,
            of.k,
            of.dtype,
            of.transposed,
            of.serial,
        )

    @property
    def mutable(self) -> bool:  # type: ignore[override]  # it may change between two passes
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
    """A Y that has one number for each entry in a triangle of a dense A."""

    extra = 1

    def __init__(self, vector: Numbers, pattern: Pattern) -> None:
        self._vector, self._pattern, self.k, self.dtype = vector, pattern, pattern.k, vector.dtype

    @property
    def mutable(self) -> bool:  # type: ignore[override]  # it may change between two passes
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


class BesideCsr:
    """A Y beside a CSR A: its numbers at A's entries, and nothing elsewhere."""

    direct = False
    dtype = np.dtype(np.float64)
    extra = 2

    def __init__(
        self, source: Any, own: CsrSource, pattern: Pattern, *, check_finite: bool
    ) -> None:
        self.source, self._own, self._pattern, self._check_finite = (
            source,
            own,
            pattern,
            check_finite,
        )
        self.name, self.seen = "Y", np.zeros(pattern.k, np.bool_)
        self.diagonal = np.zeros(pattern.k)
        itemsize = source.dtype.itemsize
        if isinstance(source, DenseSource):  # beside a row of A, all of its columns
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
        """``read(i0, i1, rooms, columns)``: Y's numbers at the entries of these rows of A, whose columns those are."""
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
        for i in range(i0, i1):  # the rows of a triangle
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
        if (
            self._own.half and their_columns.size
        ):  # of a symmetric Y what is below the diagonal is there once more
            rows = np.repeat(np.arange(i0, i1), np.diff(their_local))
            upper = their_columns >= rows
            counts = np.bincount(rows[upper] - i0, minlength=i1 - i0)
            found, their_columns = found[upper], their_columns[upper]
            their_local = np.concatenate([[0], np.cumsum(counts)])
        out[:] = 0
        structures = (
            part.astype(np.int64) for part in (local, columns, their_local, their_columns)
        )
        count, i, j = _kernels.csr_align(*structures, found, out)
        if count:
            raise self._outside(int(count), int(i) + i0, int(j))

    def _gather(
        self, block: NDArray[Any], i0: int, i1: int, columns: NDArray[Any], out: NDArray[Any]
    ) -> None:
        base = int(self._own.indptr[i0])
        for i in range(i0, i1):
            row = slice(int(self._own.indptr[i]) - base, int(self._own.indptr[i + 1]) - base)
            out[row] = block[i - i0, columns[row]]
            # of a symmetric Y what is left of the diagonal is there once more
            first = i if self._own.half else 0
            left_out = np.count_nonzero(block[i - i0, first:]) - np.count_nonzero(out[row])
            if left_out:
                others = np.array(block[i - i0])
                others[:first] = others[columns[row]] = 0
                raise self._outside(int(left_out), i, int(np.flatnonzero(others)[0]))

    def _outside(self, count: int, i: int, j: int) -> ValueError:
        return _validation.outside(count, (j, i) if self._own.transposed else (i, j))

    def look(
        self, i0: int, i1: int, numbers: NDArray[Any], base: int, *, again: bool = False
    ) -> None:
        """Look at these numbers, unless they have been seen, or even then."""
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
        on_diagonal = diagonal_entries(self._pattern, i0, i1)
        found = on_diagonal >= 0
        self.diagonal[i0:i1][found] = numbers[on_diagonal[found] - base]
        self.seen[i0:i1] = True
