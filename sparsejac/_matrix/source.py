"""The base class of the sources of a matrix."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._validation import Uplo


class Source:
    """Reads blocks of rows of a square matrix, wherever its numbers are.

    Attributes
    ----------
    k : int
        The matrix is k×k.
    dtype : numpy.dtype
        The dtype of its numbers.
    transposed : bool
        The rows that it reads (the stored rows) are the columns of the matrix.
    uplo : {"U", "L"} or None
        It holds this triangle of a symmetric matrix only. None: it holds the whole matrix.
    zero_copy : bool
        The numbers are in memory, and blocks are views of them.
    serial : bool
        One block must be read before the next one is asked for.
    mutable : bool
        Its owner may change numbers between two passes, and no check would notice.
    extra : int
        The number of arrays of the size of a block that it makes while it reads one.
    """

    k: int
    dtype: np.dtype[Any]
    transposed = False
    uplo: Uplo | None = None
    zero_copy = False
    serial = False
    mutable = False
    extra = 0

    @property
    def scan_each_pass(self) -> bool:
        """Whether each pass must scan the numbers again."""
        return self.mutable

    granule: int  # the number of rows that are always read and added together
    longest: int  # the least number of entries of a block
    chunked = False  # whether the rows of a granule are a chunk

    def entry_bytes(self, dtype: np.dtype[Any]) -> int:
        """The bytes of an entry in the buffers of one thread, for kernels that take this dtype."""
        return self.dtype.itemsize + (dtype.itemsize if self.dtype != dtype else 0)

    def opened(self) -> Any:
        """A context for a pass. It yields the reader of blocks."""
        raise NotImplementedError
