"""The base class of the sources of a matrix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .. import _validation
from .._validation import Triangle, Uplo
from .indices import ColumnRanges
from .pattern import Pattern
from .referenced import Referenced


class Part(NamedTuple):
    """A part of a matrix to read: the rows i0 ≤ i < i1, and at least the columns c0 ≤ j < c1."""

    i0: int
    i1: int
    c0: int
    c1: int


class RowBlock(NamedTuple):
    """Consecutive rows of a matrix.

    Attributes
    ----------
    data : ndarray or None
        The numbers. Those of dense rows are all k columns, of which only the ones asked for count.
    indices : ndarray of int or None
        The column of each number. None for dense rows.
    base : int
        The number of stored entries before the block.
    """

    data: Any
    indices: Any
    base: int


class Source:
    """Reads blocks of rows of a matrix, wherever its numbers are.

    Attributes
    ----------
    k : int
        The number of stored rows. The matrix is k×k, unless it is said to have another `width`.
    width : int
        The number of stored columns.
    dtype : numpy.dtype
        The dtype of its numbers.
    transposed : bool
        The rows that it reads (the stored rows) are the columns of the matrix.
    uplo : {"U", "L"} or None
        It holds this triangle of a symmetric matrix only. None: it holds the whole matrix.
    zero_copy : bool
        The numbers are in memory, and blocks are views of them.
    sequential : bool
        One block must be read before the next one is asked for.
    mutable : bool
        Its owner may change numbers between two passes, and no check would notice.
    extra : int
        The number of arrays of the size of a block that it makes while it reads one.
    granule : int
        The number of rows that are always read and added together.
    min_block_entries : int
        The least number of entries of a block.
    chunked : bool
        The rows of a granule are a chunk of a file.
    max_row_nnz : int
        The most entries that a row has.
    referenced : Referenced or None
        The user's own sparse matrix, if its arrays are read in place.
    """

    k: int
    dtype: np.dtype[Any]
    _width: int | None = None  # None is k
    transposed = False
    uplo: Uplo | None = None
    zero_copy = False
    sequential = False
    mutable = False
    extra = 0
    granule: int
    min_block_entries: int
    max_row_nnz: int
    chunked = False
    referenced: Referenced | None = None
    backend: Any = None  # the class of its backend, if only that one can run over it
    owned_lock: Any = None  # the lock of an object that answers one call at a time

    def only_target(self) -> Exception:
        """The error for a Y that is where A is not."""
        return _validation.only_target_on_workers()

    @property
    def width(self) -> int:
        return self.k if self._width is None else self._width

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the matrix."""
        return (self.width, self.k) if self.transposed else (self.k, self.width)

    @property
    def rows(self) -> tuple[int, int]:
        """The bounds of the rows that it holds. The others have no entries."""
        return 0, self.k

    @property
    def scan_each_pass(self) -> bool:
        """Whether each pass must scan the numbers again."""
        return self.mutable

    def entry_bytes(self, dtype: np.dtype[Any]) -> int:
        """The bytes of an entry in the buffers of one thread, for kernels that take this dtype."""
        return self.dtype.itemsize + (dtype.itemsize if self.dtype != dtype else 0)

    def opened(self) -> Any:
        """A context for a pass.

        It yields a function ``read(part, buffers, values=True, columns=None)`` that returns a
        `RowBlock`. The block may use the five buffers. Without `values`, only the structure is
        read. `columns` are the columns of A's entries, if the numbers are aligned with them.
        """
        raise NotImplementedError

    def pattern(self, ranges: ColumnRanges | None, *, implicit_rows: bool) -> Pattern:
        """The entries within column ranges, or all of them."""
        raise NotImplementedError

    def has_structure_of(self, other: Source) -> bool:
        """Whether another matrix is known to store numbers at the same entries."""
        raise NotImplementedError

    def row_blocks(
        self, i0: int, i1: int, unit: int, entries: int
    ) -> Iterator[tuple[int, int, int]]:
        """Yield the blocks ``(number of the unit, i0, i1)`` of these rows.

        A unit of rows has at most so many entries, and depends on the matrix alone. A unit of more
        than so many `entries` is split into blocks.
        """
        raise NotImplementedError

    @property
    def rows_per_call(self) -> int:
        """The most rows that a kernel may add in one call.

        It is less than k if a block may end within the rows that a kernel adds together.
        """
        return self.k

    def place(self, i: int, j: int) -> tuple[int, int]:
        """The place in the user's matrix of column j in stored row i."""
        return (j, i) if self.transposed else (i, j)

    @property
    def stored_triangle(self) -> Triangle:
        """The triangle of the stored rows that is held. The upper one if both are."""
        return "upper" if (self.uplo != "L") != self.transposed else "lower"

    @property
    def read_triangle(self) -> Triangle | None:
        """The triangle of the stored rows outside which there are numbers that do not count."""
        return None

    def check_sides(self) -> None:
        """Refuse a matrix that stores an entry on one side of the diagonal alone.

        It is symmetric if that is zero, but J has a row for it, or not, by the triangle that is
        read. A dense matrix stores all.
        """

    def check_outside(self) -> None:
        """Refuse entries outside the triangle that `uplo` names. A dense matrix may have them."""
