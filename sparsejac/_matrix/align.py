"""The alignment of Y with A: the numbers of Y at the entries of A.

Every Y is first a source: of dense rows, of CSR rows, or of a vector in the order of J's rows. It
is read along the axis along which A is read. A block of its rows then gives the numbers at the
entries of A in the same rows. If A is in memory, all of A is one block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from .. import _kernels, _validation
from .._validation import Triangle, Uplo
from .buffers import Buffer
from .csr import CsrSource
from .dense import DenseSource, FileRows
from .entries import TARGETS, Entries
from .indices import Indices, frozen, triangle
from .layout import Layout
from .memory import DenseMemory, MemorySource, same_indices
from .numbers import MemoryNumbers, Numbers, numbers
from .pattern import Pattern
from .registry import memory_source
from .source import Part, RowBlock, Source


class VectorRows(Source):
    """A vector that has a number for each visited entry of A, in the order of J's rows."""

    def __init__(self, vector: Numbers, pattern: Pattern, layout: Layout) -> None:
        self.vector, self._pattern = vector, pattern
        self.k, self._width, self.dtype = pattern.k, pattern.width, vector.dtype
        self.transposed = layout.transposed

    @property
    def mutable(self) -> bool:  # type: ignore[override]  # it may change between passes
        return self.vector.mutable

    @contextmanager
    def opened(self) -> Iterator[Callable[..., RowBlock]]:
        first = self._pattern.first
        with self.vector.opened() as read:

            def block(part: Part, buffers: list[Buffer], **_: Any) -> RowBlock:
                start, stop = int(first[part.i0]), int(first[part.i1])
                return RowBlock(read(start, stop, buffers[0]), None, start)

            yield block


class AlignedSource(Source):
    """The numbers of a Y at the entries of A. They are zero where a sparse Y stores none.

    A nonzero number of Y where a sparse A stores no entry is refused. If A holds one triangle, Y
    may be a whole symmetric matrix. Its other triangle is not read.
    """

    extra = 2

    def __init__(self, of: Source, own: Source, pattern: Pattern) -> None:
        self.of, self._own, self._pattern = of, own, pattern
        self.k, self._width = own.k, own.width
        self.transposed, self.sequential = of.transposed, of.sequential
        self.referenced = of.referenced
        self._ranges = triangle(self.k, own.stored_triangle) if own.uplo else None
        kind = next(kind for kind in _KINDS if isinstance(of, kind[0]) and isinstance(own, kind[1]))
        self._write, self._bytes, computes = kind[2:]
        self.dtype = _validation.float_dtype("Y", of.dtype) if computes else of.dtype

    @property
    def owned_lock(self) -> Any:
        return self.of.owned_lock

    @property
    def mutable(self) -> bool:  # type: ignore[override]  # it may change between passes
        return self.of.mutable

    @property
    def scan_each_pass(self) -> bool:
        return self.of.scan_each_pass

    def entry_bytes(self, dtype: np.dtype[Any]) -> int:
        return dtype.itemsize + self._bytes(self.of, self._own)

    @contextmanager
    def opened(self) -> Iterator[Callable[..., RowBlock]]:
        with self.of.opened() as read:

            def block(
                part: Part, buffers: list[Buffer], *, columns: Any = None, **_: Any
            ) -> RowBlock:
                part = Part(part.i0, part.i1, 0, self.width)
                base, end = self._pattern.start(part.i0), self._pattern.start(part.i1)
                out = buffers[4].acquire(end - base, self.dtype)
                self._write(self, read(part, buffers), part, columns, out)
                return RowBlock(out, None, base)

            yield block

    def at_once(self) -> NDArray[Any]:
        """The numbers at all entries of an A in memory."""
        _validation.fits(
            "a copy of Y with a number for each entry of A",
            self._pattern.stored * self.dtype.itemsize,
            "pass a Y with the structure of A, or a sparse A",
        )
        with self.opened() as read:
            buffers = [Buffer() for _ in range(5)]
            part = Part(*self._own.rows, 0, self.width)
            return read(part, buffers, columns=self._pattern.indices).data

    # --- how the numbers of a block are written

    def _from_vector(self, block: RowBlock, part: Part, _: Any, out: NDArray[Any]) -> None:
        if block.data.size == out.size:
            np.copyto(out, block.data)
            return
        pattern, base = self._pattern, self._pattern.start(part.i0)
        out[:] = 0
        for i in range(part.i0, part.i1):  # Y has numbers for a triangle only
            numbers = slice(
                int(pattern.first[i]) - block.base, int(pattern.first[i + 1]) - block.base
            )
            out[int(pattern.lo[i]) - base : int(pattern.hi[i]) - base] = block.data[numbers]

    def _from_sparse_rows(self, block: RowBlock, part: Part, _: Any, out: NDArray[Any]) -> None:
        """Write CSR rows as dense rows."""
        indptr = self.of.indptr[part.i0 : part.i1 + 1]  # type: ignore[attr-defined]  # it is CSR
        arrays = block.data.astype(self.dtype, copy=False), block.indices, indptr - indptr[0]
        shape = (part.i1 - part.i0, self.width)
        scipy.sparse.csr_array(arrays, shape=shape).toarray(out=out.reshape(shape))

    def _from_dense_rows(
        self, block: RowBlock, part: Part, columns: Indices, out: NDArray[Any]
    ) -> None:
        """Take the numbers of dense rows at the entries of a sparse A."""
        base, inside = self._pattern.start(part.i0), slice(0, self.width)
        count, first = 0, (0, 0)
        for i in range(part.i0, part.i1):
            row = slice(self._pattern.start(i) - base, self._pattern.start(i + 1) - base)
            own, numbers = columns[row], block.data[i - part.i0]
            out[row] = numbers[own]
            if self._ranges is not None:  # A may store zeros outside its triangle
                inside = slice(int(self._ranges[0][i]), int(self._ranges[1][i]))
                own = own[slice(*np.searchsorted(own, (inside.start, inside.stop)))]
            left_out = np.count_nonzero(numbers[inside]) - np.count_nonzero(numbers[own])
            if left_out and not count:
                others = np.array(numbers[inside])
                others[own - inside.start] = 0
                first = i, inside.start + int(np.flatnonzero(others)[0])
            count += int(left_out)
        self._check_outside(count, *first)

    def _from_csr(self, block: RowBlock, part: Part, columns: Indices, out: NDArray[Any]) -> None:
        """Take the numbers of CSR rows at the entries of a sparse A."""
        of, own, (i0, i1) = self.of, self._own, part[:2]
        assert isinstance(of, CsrSource)
        assert isinstance(own, CsrSource)
        ours, theirs, shift = own.indptr[i0 : i1 + 1], of.indptr[i0 : i1 + 1], block.base
        alike = np.array_equal(ours - ours[0], theirs - shift)
        if alike and same_indices(columns, block.indices):
            np.copyto(out, block.data)
            return
        out[:] = 0
        lo, hi = of.indptr[:-1], of.indptr[1:]
        if self._ranges is not None:
            lo, hi = np.empty_like(lo), np.empty_like(hi)
            _kernels.csr_spans(of.indptr, block.indices, shift, i0, i1, *self._ranges, lo, hi)
        data = frozen(block.data.astype(self.dtype, copy=False))
        found = _kernels.csr_align(
            own.indptr, frozen(columns), int(ours[0]), i0, i1, frozen(lo), frozen(hi),
            block.indices, shift, data, out,
        )  # fmt: skip
        self._check_outside(*map(int, found))

    def _check_outside(self, count: int, i: int, j: int) -> None:
        if count:
            raise _validation.outside(count, self.place(i, j))


def _dense_bytes(of: Source, own: Source) -> int:
    return of.dtype.itemsize * -(-own.width // own.max_row_nnz)  # a whole row for each of A


def _vector_bytes(of: Source, _: Source) -> int:
    return of.dtype.itemsize


def _csr_bytes(of: Source, _: Source) -> int:
    return of.dtype.itemsize + 16


# The kinds of Y and of A, how a block is written, the bytes for each entry of A that are read, and
# whether compiled code writes the numbers, which takes floating-point numbers.
_KINDS: tuple[
    tuple[type[Source], type[Source], Callable[..., None], Callable[..., int], bool], ...
] = (
    (VectorRows, Source, AlignedSource._from_vector, _vector_bytes, False),
    (CsrSource, DenseSource, AlignedSource._from_sparse_rows, _vector_bytes, True),
    (DenseSource, CsrSource, AlignedSource._from_dense_rows, _dense_bytes, False),
    (CsrSource, CsrSource, AlignedSource._from_csr, _csr_bytes, True),
)


def align(of: Source, own: Source, pattern: Pattern, layout: Layout) -> Entries | Source:
    """The numbers of a Y at the entries of A: `Entries` in memory, or a source that has them."""
    if not of.zero_copy and of.transposed != layout.transposed:
        raise _validation.different_orders(transposed=layout.transposed)
    if own.has_structure_of(of):
        if isinstance(of, MemorySource):
            return Entries(of.values, pattern, TARGETS, of.referenced)
        return of
    aligned = AlignedSource(of, own, pattern)
    if not own.zero_copy:
        return aligned
    assert isinstance(own, MemorySource)
    return Entries(aligned.at_once().reshape(own.values.shape), pattern, TARGETS)


def source_of_target(
    Y: Any, own: Source, pattern: Pattern, layout: Layout, uplo: Uplo | None, *, check: bool
) -> Source:
    """A Y in memory, or a mapped vector, as a source that is read along the axis of A.

    Y has the shape of A, or is a vector in the order of J's rows. `uplo` is the triangle that the
    user's A holds, even if it was completed since. With `check`, numbers in memory must be finite.
    """
    if Y.ndim == 2:
        of = memory_source(Y, transposed=layout.pairs_transposed, name="Y")
        if check:
            of.check_finite("Y")
        return _whole(of, uplo) if layout.side is None else _upper(Y, of, own, layout)
    k, width = pattern.k, pattern.width
    vector = MemoryNumbers(Y) if own.zero_copy else numbers("Y", Y)
    in_memory = isinstance(vector, MemoryNumbers)
    if in_memory and check:
        _validation.finite_blocks("Y", Y, lambda r: (r,))
    if in_memory and Y.size == k * width:
        values = Y.reshape(k, width) if layout.rows_in_order else Y.reshape(width, k).T
        return DenseMemory(values, transposed=layout.pairs_transposed)
    if not layout.rows_in_order:
        raise _validation.vector_by_other_lines(transposed=layout.transposed)
    if Y.size == k * width:
        return FileRows(vector, k, transposed=layout.transposed, _width=width)
    return VectorRows(vector, pattern, layout)


_TRIANGLES: tuple[Triangle, Triangle] = ("upper", "lower")


def _whole(of: MemorySource, uplo: Uplo | None) -> MemorySource:
    """Refuse a Y that holds one triangle as the user's A does, where all of it is compared."""
    if uplo is not None:
        upper, lower = (of.is_zero_outside(triangle(of.k, which)) for which in _TRIANGLES)
        if upper != lower:
            raise _validation.target_is_triangle("U" if upper != of.transposed else "L")
    return of


def _upper(Y: Any, of: MemorySource, own: Source, layout: Layout) -> MemorySource:
    """The source of the upper triangle of a Y in memory: see `check_upper`.

    If A holds its lower triangle, Y may hold that as well.
    """
    assert layout.side is not None
    visited = layout.side.column_ranges(of.k)
    if of.is_zero_outside(visited):
        return of
    lower = memory_source(Y, transposed=not layout.pairs_transposed, name="Y")
    if not lower.is_zero_outside(visited):
        of.check_upper()
        return of
    if own.uplo != "L":
        raise _validation.upper_is_missing()
    return lower
