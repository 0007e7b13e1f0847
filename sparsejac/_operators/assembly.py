"""F and J at an x: their numbers in CSR format, and products with J.

`Assembly` is for one variable for each row of A. `rank_assembly` has that for several.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from .. import _validation
from .._backends.protocol import CACHES, Backend
from .._backends.rank_sums import RankSums
from .._backends.sizes import products_hold, split
from .._backends.sums import Sums, absolute_squares
from .._matrix.entries import wide
from .._matrix.indices import Indices, frozen, index_dtype
from .._matrix.pattern import RowOffset
from .._matrix.variables import Variables
from .._system.recycling import allocated
from .base import silence
from .hermitian import HessianOperator, NormalOperator

NO_NUMBERS = frozen(np.empty(0))  # in place of a target


class Assembly:
    """Assembles J over the rows of a backend, and multiplies by it.

    x is an array of the shape `variables.shape`, or here (k,).

    Numbers of more than `caches` bytes are written past the caches. Fewer stay there for whoever
    reads them next.

    It keeps weak references to the index arrays that it returned, so that `check_out` can tell
    whether a matrix has them.
    """

    caches = CACHES

    def __init__(self, rows: Backend, variables: Variables) -> None:
        self.rows, self._pattern, self.variables = rows, rows.pattern, variables
        self.shape = (self._pattern.m, variables.size)
        self.nnz = self._pattern.nnz * variables.rank
        # the index arrays that were returned, by their addresses
        self._index_arrays: WeakValueDictionary[int, NDArray[Any]] = WeakValueDictionary()

    def __reduce__(self) -> tuple[Any, ...]:
        self._pattern.check_unchanged()
        return type(self), (self.rows, self.variables)

    @property
    def columns_dtype(self) -> np.dtype[Any]:
        """The dtype of the index arrays of the whole of J."""
        return index_dtype(*self.shape, self.nnz)

    def csr_nbytes(self, itemsize: int) -> int:
        """The exact number of bytes of the three arrays of J."""
        return self.nnz * itemsize + (self.nnz + self.shape[0] + 1) * self.columns_dtype.itemsize

    # --- F, and products with J

    def value(self, x: NDArray[Any], what: str = "the value of F", target: Any = None) -> Any:
        """F, or with a target F - Y, in the order of J's rows. `what` names it in messages."""
        kernel, of_x, nothing = self._value, (*self._places, x), self._no_target
        if not products_hold(x, x, self.variables.rank):
            of_x = *self._all_places, *split(x.reshape(self.variables.shape))
            kernel, nothing = "value_of_any_size", NO_NUMBERS
        none = (nothing, 0) if target is None else ()
        shape, how = (self.shape[0],), {} if target is None else {"target": target}
        return self.mapped(what, kernel, *none, *of_x, shape=shape, **how)

    _value = "value"
    _no_target: Any = None  # in place of Y
    _places: tuple[Any, ...] = ()  # what tells kernels to which variables a row and a column belong

    @property
    def _all_places(self) -> tuple[Any, ...]:
        """The same for kernels that are for any number of columns of variables."""
        return self._pattern.width, self.variables.row_offset, self.variables.column_offset

    def product(self, x: NDArray[Any], X: NDArray[Any]) -> Any:
        """``J X`` in the dtype of x, for a vector X, or for each column of a matrix."""
        mapped = functools.partial(
            self.mapped, "the product J @ x", shape=(self.shape[0], *X.shape[1:])
        )
        x = frozen(x)  # it is not read-only any more if it was pickled
        if not products_hold(x, X, 2):
            return self._product_of_any_size(x, X)
        if X.ndim == 1:
            return mapped("matvec", *self.rows.pair(x, X))
        return mapped("matmat", x, X, columns=X.shape[1])

    def _product_of_any_size(self, x: NDArray[Any], X: NDArray[Any]) -> Any:
        """`product` where a product of two numbers leaves the range of their dtype."""
        if X.ndim == 2:
            return self._each_product(x, X)
        (of_x, x), (of_v, v) = (split(each.reshape(self.variables.shape)) for each in (x, X))
        args, shape = (*self._all_places, of_x, of_v, x, v), self.shape[:1]
        return self.mapped("the product J @ x", "matvec_of_any_size", *args, shape=shape)

    def _each_product(self, x: NDArray[Any], X: NDArray[Any]) -> Any:
        """`product` for a matrix X, one column after the other."""
        if self.rows.local:
            nbytes = self.shape[0] * X.shape[1] * X.dtype.itemsize
            self.check_vector_fits("the product J @ x", nbytes)
        found = np.empty((self.shape[0], X.shape[1]), x.dtype)
        for c, column in enumerate(columns_of(X)):
            found[:, c] = self.product(x, column)
        return found

    def transposed_product(
        self, x: NDArray[Any], X: NDArray[Any], *, conjugate: bool
    ) -> NDArray[Any]:
        """``Jᵀ X`` in the dtype of x. With `conjugate`, A is conjugated, and x by the caller."""
        rows, weights = self.rows, self.rows.weights(X, x.dtype)
        if X.ndim == 1:
            return rows.reduce("rmatvec", x, conjugate, target=weights)
        return rows.reduce("rmatmat", x, conjugate, columns=X.shape[1], target=weights)

    def column_squares(self, x: NDArray[Any]) -> NDArray[Any]:
        """The squares of the norms of J's columns in float64, as an array of the shape of x."""
        return self.rows.reduce("squares", absolute_squares(x), True)

    def max_abs(self, x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """The largest absolute value in each row and in each column of F."""
        layout, wide_x = self.rows.layout, x.astype(wide(x.dtype))
        with silence():
            if products_hold(wide_x, wide_x, 1):
                size = frozen(np.abs(wide_x))
                found = self.rows.reduce("max_abs", (size,), outputs=2)
            else:
                sums = RankSums(self.rows, self.variables)
                found = np.stack(sums.max_abs(wide_x[:, np.newaxis]))
            found = found.astype(x.real.dtype)
        if layout.side is not None:  # an entry of a triangle stands for (j, i), too
            found[:] = np.maximum(*found)
        i, j = found[::-1] if layout.transposed else found
        return i.copy(), j.copy()

    def normal(self, x: NDArray[Any], damping: float) -> NormalOperator:
        """``JᴴJ + damping I``."""
        return NormalOperator(self.rows, Sums(self.rows.for_sums()), x, damping)

    def hessian(self, w: Any, dtype: np.dtype[Any]) -> HessianOperator:
        """The Hessian of ``wᵀF``."""
        return HessianOperator(self.rows, dtype, w=w)

    def slice(self, x: NDArray[Any], s: int) -> scipy.sparse.csr_array:
        """The derivative of F by variable s as a matrix of the shape of A."""
        in_row, in_column = self.rows.neighbours(s)
        if self.rows.layout.pairs_transposed:
            in_row, in_column = in_column, in_row
        columns, row_values = in_row
        others = in_column[0] != s
        lines, line_values = in_column[0][others], in_column[1][others]
        with silence():
            row_data = row_values.astype(x.dtype) * x[columns]
            row_data[columns == s] *= 2
            column_data = line_values.astype(x.dtype) * x[lines]
        i = np.concatenate([np.full(columns.size, s), lines])
        j = np.concatenate([columns, np.full(lines.size, s)])
        return placed(np.concatenate([row_data, column_data]), i, j, self.rows.source.shape)

    def mapped(self, what: str, kernel: str, *args: Any, shape: tuple[int, ...], **how: Any) -> Any:
        """A new array with a number, or a row of numbers, for each row of J.

        It has the dtype of x, the last of `args`. `what` names it in the message that it does not
        fit into memory.
        """
        dtype = next(each.dtype for each in args[::-1] if isinstance(each, np.ndarray))
        if self.rows.local:
            self.check_vector_fits(what, math.prod(shape) * dtype.itemsize)
        return self.rows.mapped(kernel, *args, shape=shape, dtype=dtype, **how)

    def check_vector_fits(self, what: str, nbytes: int) -> None:
        if not self.rows.local:
            raise self.rows.stays(what)
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
        values = getattr(self.rows.source, "values", None)
        if isinstance(values, np.ndarray) and np.may_share_memory(data, values):
            raise ValueError(
                "out.data shares its memory with A, which is never written to: omit out= to get a "
                "new matrix"
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
        if not self.rows.local:
            return self.rows.jacobian(x)
        if out is not None:
            self._fill_data(x, *pattern.bounds, out.data)
            return out
        hint = (
            "builder.operator(x) multiplies by it without forming it, "
            "builder.iter_csr(x) forms it block by block"
        )
        _validation.fits(
            f"the {self.shape[0]}x{self.shape[1]} CSR matrix{self._of_rank}",
            self.csr_nbytes(x.dtype.itemsize),
            self._or_stored_rows(hint),
        )
        J = self._block(x, 0, pattern.m, *pattern.bounds, self.columns_dtype)
        for array in (J.indices, J.indptr):
            self._index_arrays[id(_owner(array))] = _owner(array)
        return J

    def blocks(
        self, x: NDArray[Any], block_rows: int
    ) -> Iterator[tuple[int, scipy.sparse.csr_array]]:
        if not self.rows.local:
            raise self.rows.stays("a block of J")
        pattern = self._pattern
        for r0 in range(0, pattern.m, block_rows):
            pattern.check_unchanged()
            r1 = min(r0 + block_rows, pattern.m)
            begin, end = pattern.row_offset(r0), pattern.row_offset(r1)
            nnz = (end.nnz - begin.nnz) * self.variables.rank
            dtype = index_dtype(r1 - r0, self.shape[1], nnz)
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
        nnz = (end.nnz - begin.nnz) * self.variables.rank
        data, indices, indptr = (
            self.rows.results.empty((nnz,), x.dtype),
            allocated((nnz,), dtype),
            allocated((r1 - r0 + 1,), dtype),
        )
        indptr[0] = 0
        self._fill_data(x, begin, end, data)
        last = end.row + (end.row < pattern.k)
        between = pattern.diagonal, begin.entry, end.entry, begin.nnz * self.variables.rank
        self._fill_indices(*between, r0, r1, indices, indptr, rows=(begin.row, last))
        return canonical((data, indices, indptr), (r1 - r0, self.shape[1]))

    def _fill_indices(self, *args: Any, rows: tuple[int, int]) -> None:
        self.rows.map("csr_indices", *args, rows=rows, structure=True)

    _of_rank = ""  # what messages about the size of J add

    def _fill_data(
        self, x: NDArray[Any], begin: RowOffset, end: RowOffset, out: NDArray[Any]
    ) -> None:
        x = frozen(x)
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


def placed(
    numbers: NDArray[Any], i: NDArray[Any], j: NDArray[Any], shape: tuple[int, int]
) -> scipy.sparse.csr_array:
    """A csr_array with these numbers at the pairs (i, j), which are different."""
    dtype = index_dtype(*shape, numbers.size)
    indices = i.astype(dtype, copy=False), j.astype(dtype, copy=False)
    return scipy.sparse.coo_array((numbers, indices), shape=shape).tocsr()


def columns_of(X: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The columns of a matrix, each contiguous."""
    return (np.ascontiguousarray(column) for column in X.T)


def _owner(array: NDArray[Any]) -> NDArray[Any]:
    """The array that owns the memory of `array`."""
    base: NDArray[Any] | None = getattr(array, "base", None)  # a user may have made it a list
    return array if base is None else base
