"""What all sources of a matrix have in common."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._validation import Uplo


class Source:
    """Where the numbers of a square matrix are: it hands out blocks of its rows.

    Attributes
    ----------
    k : int
        The matrix is k×k.
    dtype : numpy.dtype
        That of its numbers.
    transposed : bool
        The rows that it hands out are the columns of the matrix.
    uplo : {"U", "L"} or None
        It holds this triangle of a symmetric matrix, and nothing else.
    zero_copy : bool
        The numbers are in memory, and blocks are views of them.
    serial : bool
        One block must be read before the next one is asked for.
    mutable : bool
        Its owner may change numbers between two passes, and nobody would notice.
    extra : int
        How many arrays of the size of a block it makes while it reads one.
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
        """Whether what a pass has seen does not hold for the next one."""
        return self.mutable

    granule: int  # rows that are always read, and added, together
    longest: int  # entries that are always in memory together, at least
    chunked = False  # whether the rows of a granule are those of a chunk

    def entry_bytes(self, dtype: np.dtype[Any]) -> int:
        """What an entry takes in the buffers of one thread, for kernels that want this dtype."""
        return self.dtype.itemsize + (dtype.itemsize if self.dtype != dtype else 0)

    def opened(self) -> Any:
        """For a pass: a context that yields what reads blocks."""
        raise NotImplementedError
