"""The CSR form of J: the whole matrix, blocks of its rows, or new numbers for an earlier one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from .. import _validation
from .._backends.protocol import Backend
from .._matrix.pattern import Indices, Offset, index_dtype


class Assembly:
    """Assembles J over the rows of a backend, and knows its shape and the hints of its messages.

    It keeps weak references to the index arrays that it returned, so that `check_out` knows them.
    """

    def __init__(self, rows: Backend) -> None:
        self.rows, self._pattern = rows, rows.pattern
        self.shape = (self._pattern.m, self._pattern.k)
        self.nnz = self._pattern.nnz
        # The index arrays that were given out.
        self._made: WeakValueDictionary[int, NDArray[Any]] = WeakValueDictionary()

    def __reduce__(self) -> tuple[Any, ...]:
        self._pattern.check_unchanged()
        return Assembly, (self.rows,)

    def check_vector_fits(self, what: str, nbytes: int) -> None:
        if nbytes < _validation.LARGE:
            return
        hint = (
            "form J block by block with builder.iter_csr(x), "
            "or work with J.T and column_norms of builder.operator(x)"
        )
        _validation.fits(what, nbytes, self._stored_first(hint))

    def _stored_first(self, hint: str) -> str:
        if self._pattern.implicit is None:
            return hint
        count = self._pattern.entries
        return f'take rows="stored", one row for each of the {count} stored entries of A; or {hint}'

    def check_out(self, out: Any, dtype: np.dtype[Any]) -> None:
        if not isinstance(out, scipy.sparse.csr_array):
            raise TypeError(
                "out must be a csr_array that this builder's tocsr returned, got "
                f"{_validation.type_name(out)}: leave out= away to get one"
            )
        if out.shape != self.shape or not (
            self._is_ours(out.indices) and self._is_ours(out.indptr)
        ):
            raise ValueError(
                "out must be a matrix that this builder's tocsr returned, with the index arrays "
                f"it came with; this {out.shape[0]}x{out.shape[1]} matrix is of another builder, "
                "a copy, or changed in its structure: leave out= away to get a fresh one"
            )
        data = np.asarray(out.data)
        if data.dtype != dtype:
            raise ValueError(
                f"out must have dtype {dtype}, that of A and x together, got {data.dtype}: leave "
                "out= away to get a fresh matrix"
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
                f"{data.shape}: leave out= away to get a fresh matrix"
            )

    def _is_ours(self, array: NDArray[Any]) -> bool:
        """Whether an index array is a whole one that `tocsr` made.

        SciPy's own methods replace it by views of it.
        """
        owner = _owner(array)
        return (
            self._made.get(id(owner)) is owner
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
            self._stored_first(hint),
        )
        J = self._block(x, 0, pattern.m, *pattern.bounds, pattern.columns_dtype)
        for array in (J.indices, J.indptr):
            self._made[id(_owner(array))] = _owner(array)
        return J

    def blocks(
        self, x: NDArray[Any], block_rows: int
    ) -> Iterator[tuple[int, scipy.sparse.csr_array]]:
        pattern = self._pattern
        for r0 in range(0, pattern.m, block_rows):
            pattern.check_unchanged()
            r1 = min(r0 + block_rows, pattern.m)
            begin, end = pattern.offset(r0), pattern.offset(r1)
            nnz = end.nnz - begin.nnz
            dtype = index_dtype(r1 - r0, pattern.k, nnz)
            nbytes = nnz * x.dtype.itemsize + (nnz + r1 - r0 + 1) * dtype.itemsize
            _validation.fits(f"a block of {r1 - r0} rows", nbytes, "take a smaller block_rows")
            yield r0, self._block(x, r0, r1, begin, end, dtype)

    def _block(
        self, x: NDArray[Any], r0: int, r1: int, begin: Offset, end: Offset, dtype: np.dtype[Any]
    ) -> scipy.sparse.csr_array:
        """Rows ``r0 <= r < r1`` of J, between the two cuts."""
        pattern = self._pattern
        nnz = end.nnz - begin.nnz
        data, indices, indptr = (
            np.empty(nnz, x.dtype),
            np.empty(nnz, dtype),
            np.empty(r1 - r0 + 1, dtype),
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

    def _fill_data(self, x: NDArray[Any], begin: Offset, end: Offset, out: NDArray[Any]) -> None:
        last = end.row + (end.row < self._pattern.k)  # the block may end inside a row of A
        self.rows.map(
            "csr_data",
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
    """A csr_array of arrays that are known to be sorted and free of duplicates."""
    J = scipy.sparse.csr_array(arrays, shape=shape, copy=False)
    J.has_canonical_format = True
    return J


def _owner(array: NDArray[Any]) -> NDArray[Any]:
    """The array that owns the memory of `array`."""
    return array if array.base is None else array.base
