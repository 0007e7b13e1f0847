"""Assembles J in CSR format: the whole matrix, blocks of rows, or new numbers for a matrix."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from .. import _validation
from .._backends.protocol import CACHES, Backend
from .._matrix.indices import Indices, index_dtype
from .._matrix.pattern import RowOffset
from .._system.recycling import allocated


class Assembly:
    """Assembles J over the rows of a backend.

    Numbers of more than `caches` bytes are written past the caches. Fewer stay there for whoever
    reads them next.

    It keeps weak references to the index arrays that it returned, so that `check_out` can tell
    whether a matrix has them.
    """

    caches = CACHES

    def __init__(self, rows: Backend) -> None:
        self.rows, self._pattern = rows, rows.pattern
        self.shape = (self._pattern.m, self._pattern.k)
        self.nnz = self._pattern.nnz
        # the index arrays that were returned, by their addresses
        self._index_arrays: WeakValueDictionary[int, NDArray[Any]] = WeakValueDictionary()

    def __reduce__(self) -> tuple[Any, ...]:
        self._pattern.check_unchanged()
        return Assembly, (self.rows,)

    def mapped(
        self, what: str, kernel: str, *args: Any, shape: tuple[int, ...], dtype: Any, **how: Any
    ) -> Any:
        """A new array with a number, or a row of numbers, for each row of J.

        `what` names it in the message that it does not fit into memory.
        """
        if self.rows.local:
            self.check_vector_fits(what, math.prod(shape) * dtype.itemsize)
        return self.rows.mapped(kernel, *args, shape=shape, dtype=dtype, **how)

    def check_vector_fits(self, what: str, nbytes: int) -> None:
        if not self.rows.local:
            raise _validation.on_workers(what)
        if nbytes < _validation.LARGE or self.rows.results.has(nbytes):
            return
        hint = (
            "form J block by block with builder.iter_csr(x), "
            "or work with J.T and column_norms of builder.operator(x)"
        )
        _validation.fits(what, nbytes, self._or_stored_rows(hint))

    def _or_stored_rows(self, hint: str) -> str:
        if self._pattern.implicit is None:
            return hint
        count = self._pattern.entries
        return f'take rows="stored", one row for each of the {count} stored entries of A; or {hint}'

    def check_out(self, out: Any, dtype: np.dtype[Any]) -> None:
        if not isinstance(out, scipy.sparse.csr_array):
            raise TypeError(
                "out must be a csr_array that this builder's tocsr returned, got "
                f"{_validation.type_name(out)}: omit out= to get one"
            )
        if out.shape != self.shape or not (
            self._was_returned(out.indices) and self._was_returned(out.indptr)
        ):
            raise ValueError(
                "out must be a matrix that this builder's tocsr returned, with its own index "
                f"arrays; this {out.shape[0]}x{out.shape[1]} matrix is of another builder, is a "
                "copy, or its structure was changed: omit out= to get a new one"
            )
        data = np.asarray(out.data)
        if data.dtype != dtype:
            raise ValueError(
                f"out must have dtype {dtype}, that of A and x together, got {data.dtype}: omit "
                "out= to get a new matrix"
            )
        if (
            data is not out.data
            or data.shape != (self.nnz,)
            or not data.flags.c_contiguous
            or not data.flags.writeable
            or not data.flags.aligned
        ):
            raise ValueError(
                f"out.data must be a writable, contiguous array of {self.nnz} numbers, got shape "
                f"{data.shape}: omit out= to get a new matrix"
            )

    def _was_returned(self, array: NDArray[Any]) -> bool:
        """Whether an array is a whole index array that `tocsr` made.

        Methods of SciPy replace an index array by a view of it, so the owner is compared.
        """
        owner = _owner(array)
        return (
            self._index_arrays.get(id(owner)) is owner
            and array.size == owner.size
            and array.dtype == owner.dtype
        )

    def matrix(
        self, x: NDArray[Any], out: scipy.sparse.csr_array | None = None
    ) -> scipy.sparse.csr_array:
        pattern = self._pattern
        if out is not None:
            self._fill_data(x, *pattern.bounds, out.data)
            return out
        hint = (
            "builder.operator(x) multiplies by it without forming it, "
            "builder.iter_csr(x) forms it block by block"
        )
        _validation.fits(
            f"the {pattern.m}x{pattern.k} CSR matrix",
            pattern.csr_nbytes(x.dtype.itemsize),
            self._or_stored_rows(hint),
        )
        J = self._block(x, 0, pattern.m, *pattern.bounds, pattern.columns_dtype)
        for array in (J.indices, J.indptr):
            self._index_arrays[id(_owner(array))] = _owner(array)
        return J

    def blocks(
        self, x: NDArray[Any], block_rows: int
    ) -> Iterator[tuple[int, scipy.sparse.csr_array]]:
        pattern = self._pattern
        for r0 in range(0, pattern.m, block_rows):
            pattern.check_unchanged()
            r1 = min(r0 + block_rows, pattern.m)
            begin, end = pattern.row_offset(r0), pattern.row_offset(r1)
            nnz = end.nnz - begin.nnz
            dtype = index_dtype(r1 - r0, pattern.k, nnz)
            nbytes = nnz * x.dtype.itemsize + (nnz + r1 - r0 + 1) * dtype.itemsize
            _validation.fits(f"a block of {r1 - r0} rows", nbytes, "take a smaller block_rows")
            yield r0, self._block(x, r0, r1, begin, end, dtype)

    def _block(
        self,
        x: NDArray[Any],
        r0: int,
        r1: int,
        begin: RowOffset,
        end: RowOffset,
        dtype: np.dtype[Any],
    ) -> scipy.sparse.csr_array:
        """Assemble the rows ``r0 <= r < r1`` of J, between two row offsets."""
        pattern = self._pattern
        nnz = end.nnz - begin.nnz
        data, indices, indptr = (
            self.rows.results.empty((nnz,), x.dtype),
            allocated((nnz,), dtype),
            allocated((r1 - r0 + 1,), dtype),
        )
        indptr[0] = 0
        self._fill_data(x, begin, end, data)
        last = end.row + (end.row < pattern.k)
        self.rows.map(
            "csr_indices",
            pattern.diagonal, begin.entry, end.entry, begin.nnz, r0, r1, indices, indptr,
            rows=(begin.row, last), structure=True,
        )  # fmt: skip
        return canonical((data, indices, indptr), (r1 - r0, pattern.k))

    def _fill_data(
        self, x: NDArray[Any], begin: RowOffset, end: RowOffset, out: NDArray[Any]
    ) -> None:
        last = end.row + (end.row < self._pattern.k)  # the block may end inside a row of A
        past = not self._pattern.interleaved and out.nbytes > self.caches
        same_floats = out.dtype.kind == "f" and out.dtype == self.rows.dtype
        self.rows.map(
            "csr_data_past_caches" if past and same_floats else "csr_data",
            self._pattern.diagonal,
            begin.entry,
            end.entry,
            begin.nnz,
            x,
            out,
            rows=(begin.row, last),
        )


def canonical(
    arrays: tuple[NDArray[Any], Indices, Indices], shape: tuple[int, int]
) -> scipy.sparse.csr_array:
    """Make a csr_array of arrays that are sorted and have no duplicates."""
    J = scipy.sparse.csr_array(arrays, shape=shape, copy=False)
    J.has_canonical_format = True
    return J


def _owner(array: NDArray[Any]) -> NDArray[Any]:
    """The array that owns the memory of `array`."""
    return array if array.base is None else array.base
