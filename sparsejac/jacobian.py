"""`JacobianBuilder`: one A, its index pattern, and everything that can be made of it at a point x."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike, NDArray

from . import _validation
from ._backends.choice import checked_backend
from ._backends.rows import Rows as Backend
from ._matrix.entries import Weights
from ._matrix.layout import layout_of
from ._matrix.pattern import Indices, frozen, index_dtype
from ._matrix.registry import source_of_rows
from ._matrix.source import Source
from ._operators.assembly import Assembly, canonical
from ._operators.hermitian import HessianOperator
from ._operators.jacobian import JacobianOperator
from ._validation import Order, Rows, Settings, Uplo

_BLOCK = 2**26  # bytes of a block of iter_csr, unless the caller says how many rows


class JacobianBuilder:
    """Builds the Jacobian of ``F(x) = A ∘ (x xᵀ)`` from its index pattern.

    ``F_ij = A_ij x_i x_j``, so ``∂F_ij/∂x_s = A_ij (δ_is x_j + δ_js x_i)``: the row of J for entry (i, j) has the entries
    ``A_ij x_j`` in column i and ``A_ij x_i`` in column j, and ``2 A_ii x_i`` alone where i = j.

    Parameters
    ----------
    A : array_like or SciPy sparse array or matrix, shape (k, k); or rows that are not in memory
        Any strides, any sparse format; bool, integer, float32, float64, complex64 or complex128. It is referenced, not
        copied, if it is dense, or CSR (with ``order="F"``: CSC; with ``rows="upper"``: either) in canonical format: then a later change of its
        values is seen by later calls. Other sparse formats are converted once, here, and duplicates are summed. Its
        structure must not change. It is never written to. What is not in memory is streamed: see the notes.
    rows : {"all", "stored", "upper"}, default "all"
        Which entries of F are rows of J. ``"all"``: all k² of them. ``"stored"``: the stored entries of a sparse A, explicit
        zeros included, the choice for a large k; for a dense A the same as ``"all"``. ``"upper"``: those with i ≤ j, for an
        A that is symmetric up to rounding: see the notes.
    order : {"C", "F"}, default "C"
        The order of the rows: ``"C"`` is row-major (with ``rows="all"`` entry (i, j) is row i k + j), ``"F"`` stacks the columns of F, the
        vec of the textbooks (entry (i, j) is row i + j k).
    uplo : {"U", "L"}, optional
        A holds its upper (lower) triangle only, and stands for the symmetric matrix. A sparse A
        must have no entries outside that triangle, zeros apart; those of a dense A are not read.
        `rows` is ``"upper"`` then, unless it is given. For ``"stored"`` and ``"all"`` an A in memory
        is completed in a copy (k² numbers, or twice the entries of a sparse A), and a streamed A is
        refused. Default: A is whole.
    check_finite : bool, default True
        Refuse NaN and infinity, in A here and in x at each call. False lets them through.
    workers : int, optional
        How many threads a large problem may use. Default: the processors that this process may use. Results
        do not depend on it, to the bit.
    memory : int, optional
        For a streamed A: bytes that we may hold at a time, results apart; at least 2 MiB, 384 k, and for each of ``workers + 1`` threads four rows of a
        dense A, or a chunk's rows, or the longest row of a sparse A. Default: 256 MiB for blocks. No influence on an A in memory.
    progress : bool, default False
        For a streamed A: show a bar of a pass that takes longer than two seconds.

    Attributes
    ----------
    shape : tuple of int
        (m, k), the shape of J.
    dtype : numpy.dtype
        That of A, float64 for integers and booleans: the dtype of J for an x that has no higher precision and is not complex.
    nnz : int
        How many entries `tocsr` will store: ``2 k² - k`` for a dense A. It does not depend on values: zeros in A or x are entries.

    Raises
    ------
    ValueError
        If A is not square, not finite, inconsistent in its structure, or for ``rows="upper"`` not symmetric; if an option has no such value.
    TypeError
        If A is not a matrix of numbers, or of another dtype than those above.

    Notes
    -----
    **Memory.** The builder keeps A and O(k) integers: 4 k for a dense A, k to 4 k for a sparse one. Checking A takes 1 MiB.
    A sparse A that has to be converted is kept in its converted form. For `uplo` see there.

    **Time.** Checking reads A once, and for ``rows="upper"`` twice.

    **Symmetric** is an A with ``|A_ij - A_ji| ≤ 1000 ε max_l |A_il|`` for all i and j, where ε is the precision of its dtype (0 for integers), and an
    entry that is not stored is 0. BLAS leaves differences of some hundred ε in a symmetric product. The upper triangle of such an A is read, or for ``order="F"`` the lower one, and stands for both. What is symmetric
    to the bit takes one pass to find out, anything else two more.

    **Streamed.** An A that is not in memory is read block by block, once for each pass, while the kernels run on the blocks before. It may be

    * the path of a ``.npy``, or a `numpy.memmap` of a file, if it is contiguous there (``np.asarray(A)`` is one in memory, mapped);
    * a CSR or CSC matrix with arrays that are mapped from files, or a folder of row blocks that `sparsejac.io.write_csr_blocks` wrote;
    * a dataset of h5py, an array of Zarr, or another object with ``shape``, ``dtype``, and rows to slice: in chunks of few rows, as no chunk is read
      twice in a pass. Data that are missing in HDF5 are refused: chunks, a dataset that was never written, external files, the sources of a virtual
      dataset. Chunks that a Zarr array does not store are zeros if its ``fill_value`` is 0, and refused otherwise;
    * the path of a ``.cool``, which holds one triangle (``rows="upper"``);
    * a function ``rows(start, stop)`` that returns an array of shape ``(stop - start, k)``, the same each time. It is called for one block after the
      other, in order, never for two at a time, also by several builders (a method of an object, and partials of one function, are one function), on a thread that is not the caller's; and for row 0 when the builder is made, which tells k and the
      dtype. Of `memory`, eight arrays of a block's size are left to it.

    Maps (F, J, J v) have the bits that they have in memory. Sums differ by rounding, ``|Δ| ≤ 2 k ε Σ|terms|``; their bits depend on A alone, not
    on `workers` and not on `memory`. A file in Fortran order is read along its columns: sums take that as it is, what needs its rows is refused, unless ``order="F"``
    asks for its columns. Files are looked at when a pass begins and when it ends: size, time, and whether it is the same
    file. Whether A is finite is seen in the first pass. It is seen in each pass where A may change unnoticed: for functions, for objects, and for files
    that this process has mapped for writing when they are handed over, as their time does not tell of every write. What another process writes through a mapping of its own
    is not noticed. ``rows="upper"`` takes a pass that compares A u with Aᵀu for a random u. The products of a row may differ by their rounding, and by
    √k times what one entry may. The builder keeps 40 k bytes; a pass takes ``workers + 1`` blocks, of
    up to 8 MiB (at least a row of A, and of what is beside it), and up to four k-vectors for each that it returns.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsejac import JacobianBuilder
    >>> A = np.array([[1.0, 2.0], [3.0, 4.0]])
    >>> builder = JacobianBuilder(A)
    >>> builder
    <JacobianBuilder: J is 4x2, 6 entries, float64; rows='all', order='C'>
    >>> J = builder.tocsr([1.0, 10.0])
    >>> print(J.toarray())
    [[ 2.  0.]
     [20.  2.]
     [30.  3.]
     [ 0. 80.]]
    """

    def __init__(
        self,
        A: Any,
        *,
        rows: Rows | None = None,
        order: Order = "C",
        uplo: Uplo | None = None,
        check_finite: bool = True,
        workers: int | None = None,
        memory: int | None = None,
        progress: bool = False,
    ) -> None:
        order = _validation.order(order)
        settings = _validation.settings(check_finite, workers, memory, progress)
        finite = settings.check_finite
        source, rows = source_of_rows(A, rows, order, uplo, check_finite=finite)
        self._check_and_set_up(source, rows, order, settings)

    @classmethod
    def _checked(
        cls, source: Source, rows: Rows, order: Order, settings: Settings
    ) -> JacobianBuilder:
        """A builder over a source that is there already."""
        builder = cls.__new__(cls)
        builder._check_and_set_up(source, rows, order, settings)
        return builder

    def _check_and_set_up(
        self, source: Source, rows: Rows, order: Order, settings: Settings
    ) -> None:
        symmetric = 'rows="upper"' if rows == "upper" and source.uplo is None else None
        layout = layout_of(source, rows, order)
        self._set_up(checked_backend(source, layout, settings, symmetric), rows, order)

    def _set_up(self, backend: Backend, rows: Rows, order: Order) -> None:
        """What `__init__` does apart from its checks, and unpickling without them."""
        self._rows, self._pattern = backend, backend.pattern
        self._which, self._order = rows, order
        self._check_finite = backend.settings.check_finite
        self._assembly = Assembly(backend)
        self.shape, self.nnz = self._assembly.shape, self._assembly.nnz
        self.dtype = _validation.float_dtype("A", backend.dtype)

    def __getstate__(self) -> tuple[Any, ...]:
        return self._rows, self._which, self._order

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._set_up(*state)

    def __repr__(self) -> str:
        m, k = self.shape
        return f"<JacobianBuilder: J is {m}x{k}, {self.nnz} entries, {self.dtype}; rows={self._which!r}, order={self._order!r}>"

    # --- what depends on the pattern only ---------------------------------------------------------------------------

    def csr_nbytes(self, x_dtype: Any = None) -> int:
        """The bytes of the three arrays of a fresh `tocsr`, exactly.

        ``nnz (itemsize + index) + (m + 1) index``, where the index arrays are int32 (4 bytes) while m, k and nnz are all below
        2³¹, else int64: int32 up to k = 32 768 for a dense A, up to k = 46 340 for a sparse one with ``rows="all"``.

        Parameters
        ----------
        x_dtype : dtype_like, optional
            That of x, if it has a higher precision than A or is complex.

        Returns
        -------
        nbytes : int

        Raises
        ------
        TypeError
            If `x_dtype` is not one that x may have.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import JacobianBuilder
        >>> JacobianBuilder(np.ones((1000, 1000))).csr_nbytes()
        27988004
        """
        x_dtype = self.dtype if x_dtype is None else _validation.dtype_of("x_dtype", x_dtype)
        return self._pattern.csr_nbytes(np.result_type(self.dtype, x_dtype).itemsize)

    def row_pairs(self) -> tuple[Indices, Indices]:
        """Which entry (i, j) of F each row of J is.

        Returns
        -------
        i, j : ndarray of int, shape (m,)
            int32 or int64 as in `csr_nbytes`; fresh arrays.

        Raises
        ------
        MemoryError
            If they would not fit into memory; before they are allocated.

        Notes
        -----
        **Memory.** The result, 2 m integers.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import JacobianBuilder
        >>> i, j = JacobianBuilder(np.eye(3), rows="upper").row_pairs()
        >>> print(i, j)
        [0 0 0 1 1 2] [0 1 2 1 2 2]
        """
        pattern, m = self._pattern, self.shape[0]
        self._assembly.check_vector_fits("row_pairs", 2 * m * pattern.columns_dtype.itemsize)
        i, j = np.empty(m, pattern.columns_dtype), np.empty(m, pattern.columns_dtype)
        if pattern.grid is None:
            self._rows.map("pairs", i, j, structure=True)
        else:  # absent entries have rows as well
            i.reshape(pattern.k, pattern.k)[:] = np.arange(pattern.k, dtype=i.dtype)[:, np.newaxis]
            j.reshape(pattern.k, pattern.k)[:] = np.arange(pattern.k, dtype=j.dtype)
        return (i, j) if self._order == "C" else (j, i)

    # --- what depends on x ------------------------------------------------------------------------------------------

    def value(self, x: ArrayLike) -> NDArray[Any]:
        """The entries ``A_ij x_i x_j`` of F in the order of J's rows.

        Parameters
        ----------
        x : array_like, shape (k,)

        Returns
        -------
        f : ndarray, shape (m,)
            0 for rows without a stored entry of A.

        Raises
        ------
        ValueError
            If x has another shape, or is not finite.
        TypeError
            If x is not an array of numbers.
        MemoryError
            If the result would not fit into memory; before it is allocated.

        Notes
        -----
        **Memory.** The result, m numbers, and a copy of x.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import JacobianBuilder
        >>> JacobianBuilder(np.array([[1.0, 2.0], [3.0, 4.0]])).value([1.0, 10.0])
        array([  1.,  20.,  30., 400.])
        """
        x = self._point(x)
        self._assembly.check_vector_fits("the value of F", self.shape[0] * x.dtype.itemsize)
        out = self._rows.empty_rows((self.shape[0],), x.dtype)
        self._rows.map("value", None, 0, x, out)
        return out

    def tocsr(
        self, x: ArrayLike, *, out: scipy.sparse.csr_array | None = None
    ) -> scipy.sparse.csr_array:
        """J at x as a CSR matrix, written directly, once, at its final size.

        Parameters
        ----------
        x : array_like, shape (k,)
        out : scipy.sparse.csr_array, optional
            A matrix that this builder's `tocsr` returned before, whose structure is untouched. Only its numbers are
            rewritten.

        Returns
        -------
        J : scipy.sparse.csr_array, shape (m, k)
            In canonical format: columns ascending, no duplicates. Explicit zeros of A and zeros of x are stored, so the structure is the same for
            every x. All three arrays are fresh and the caller's own; with `out`, `out` itself.

        Raises
        ------
        ValueError
            If x has another shape, or is not finite; if `out` is not of this builder, of another dtype, or changed in its structure.
        TypeError
            If x is not an array of numbers.
        MemoryError
            If it would not fit into memory; before anything is allocated.

        Notes
        -----
        **Memory.** The result (`csr_nbytes`) and a copy of x; with `out` the copy of x alone.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import JacobianBuilder
        >>> builder = JacobianBuilder(np.array([[1.0, 2.0], [3.0, 4.0]]))
        >>> J = builder.tocsr([1.0, 10.0])
        >>> J.data
        array([ 2., 20.,  2., 30.,  3., 80.])
        >>> builder.tocsr([2.0, 20.0], out=J) is J
        True
        >>> J.data
        array([  4.,  40.,   4.,  60.,   6., 160.])
        """
        x = self._point(x)
        if out is not None:
            self._assembly.check_out(out, x.dtype)
        return self._assembly.matrix(x, out)

    def iter_csr(
        self, x: ArrayLike, *, block_rows: int | None = None
    ) -> Iterator[tuple[int, scipy.sparse.csr_array]]:
        """J at x block by block, for what does not fit as a whole.

        Parameters
        ----------
        x : array_like, shape (k,)
        block_rows : int, optional
            How many rows of J a block has (the last one may have fewer). Default: as many as fill 64 MiB.

        Yields
        ------
        first_row : int
            The row of J with which the block starts.
        block : scipy.sparse.csr_array, shape (block_rows, k)
            Its numbers are those of `tocsr`, bit for bit; a fresh matrix each time.

        Raises
        ------
        ValueError
            If x has another shape, or is not finite; if `block_rows` is not positive.
        TypeError
            If x is not an array of numbers, or `block_rows` not an integer.

        Notes
        -----
        **Memory.** One block, as long as the caller keeps no other, and a copy of x.

        Of a streamed A, each block is a pass over its own rows, which for a sparse A reads the columns twice; where a block ends within a row of A, that row
        is read again for the next one. So blocks should have many rows of A.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import JacobianBuilder
        >>> builder = JacobianBuilder(np.ones((3, 3)))
        >>> for first_row, block in builder.iter_csr([1.0, 2.0, 3.0], block_rows=4):
        ...     print(first_row, block.shape, block.nnz)
        0 (4, 3) 7
        4 (4, 3) 7
        8 (1, 3) 1
        """
        x = self._point(x)
        if block_rows is None:
            nbytes = _BLOCK if self._rows.memory is None else min(_BLOCK, self._rows.memory // 4)
            block_rows = max(nbytes // (2 * x.dtype.itemsize + 12), 1)
        block_rows = _validation.positive_integer("block_rows", block_rows)
        return self._assembly.blocks(x, block_rows)

    def operator(self, x: ArrayLike) -> JacobianOperator:
        """J at x as a SciPy LinearOperator that never forms it.

        Parameters
        ----------
        x : array_like, shape (k,)
            Copied: a later change of it does not matter.

        Returns
        -------
        J : JacobianOperator, shape (m, k)

        Raises
        ------
        ValueError
            If x has another shape, or is not finite.
        TypeError
            If x is not an array of numbers.

        Notes
        -----
        **Memory.** A copy of x. That of the products: see `JacobianOperator`.

        Examples
        --------
        >>> import numpy as np
        >>> from scipy.sparse.linalg import lsqr
        >>> from sparsejac import JacobianBuilder
        >>> J = JacobianBuilder(np.array([[1.0, 2.0], [3.0, 4.0]])).operator([1.0, 10.0])
        >>> step = lsqr(J, J @ [1.0, 2.0])[0]
        >>> np.allclose(step, [1.0, 2.0])
        True
        """
        return JacobianOperator(self._assembly, self._point(x))

    def hessian(self, w: ArrayLike) -> HessianOperator:
        """The Hessian of ``wᵀF``, ``Σ_r w_r ∇²F_r = A∘W + (A∘W)ᵀ``, as a k×k operator. It is the same at every x.

        That is what a `scipy.optimize.NonlinearConstraint` on F asks for: ``hess=lambda x, w: builder.hessian(w)``.

        Parameters
        ----------
        w : array_like, shape (m,)
            A weight for each row of J, real. Referenced: later changes are seen.

        Returns
        -------
        H : HessianOperator, shape (k, k)

        Raises
        ------
        ValueError
            If w has another shape, or is not finite.
        TypeError
            If A or w is complex, or w not an array of numbers.

        Notes
        -----
        **Memory.** None.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import JacobianBuilder
        >>> H = JacobianBuilder(np.array([[1.0, 2.0], [3.0, 4.0]])).hessian([0.0, 1.0, 0.0, 0.0])
        >>> print(H.toarray())
        [[0. 2.]
         [2. 0.]]
        """
        self._pattern.check_unchanged()
        w = _validation.vector(
            "w", w, self.shape[0], "a weight for each row of J", finite=self._check_finite
        )
        for name, dtype in (("A", self.dtype), ("w", w.dtype)):
            _validation.real(name, dtype, "the Hessian of wᵀF")
        dtype = np.result_type(self.dtype, _validation.float_dtype("w", w.dtype))
        self._rows.check_weights()
        weights = Weights(frozen(w), self._pattern, np.dtype(np.float64), self._rows.layout)
        return HessianOperator(self._rows, dtype, w=weights)

    def slice(self, x: ArrayLike, s: int) -> scipy.sparse.csr_array:
        """The derivative of F by one variable, ``∂F/∂x_s``, as a k×k matrix: it is zero outside row s and column s.

        Entry (s, j) is ``A_sj x_j``, entry (i, s) is ``A_is x_i``, and (s, s) is ``2 A_ss x_s``. With ``rows="upper"`` those with i ≤ j.

        Parameters
        ----------
        x : array_like, shape (k,)
        s : int
            ``0 <= s < k``.

        Returns
        -------
        dF : scipy.sparse.csr_array, shape (k, k)
            In canonical format.

        Raises
        ------
        ValueError
            If x has another shape, or is not finite.
        TypeError
            If x is not an array of numbers, or s not an integer.
        IndexError
            If there is no variable s.

        Notes
        -----
        **Memory.** O(k). **Time.** O(k) for a dense A; for a sparse one a binary search in each row.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import JacobianBuilder
        >>> builder = JacobianBuilder(np.array([[1.0, 2.0], [3.0, 4.0]]))
        >>> print(builder.slice([1.0, 10.0], 1).toarray())
        [[ 0.  2.]
         [ 3. 80.]]
        """
        x = self._point(x)
        k = self._pattern.k
        s = _validation.variable_index(s, k)
        in_row, in_column = self._pattern.neighbours(s)
        if self._rows.layout.pairs_transposed:
            in_row, in_column = in_column, in_row
        columns, entries = in_row
        others = in_column[0] != s
        lines, line_entries = in_column[0][others], in_column[1][others]
        counts = np.zeros(k + 1, index_dtype(k, k, columns.size + lines.size))
        counts[1:][lines] = 1
        counts[s + 1] = columns.size
        indptr = np.cumsum(counts, dtype=counts.dtype)
        before = int(np.searchsorted(lines, s))
        with np.errstate(over="ignore", invalid="ignore"):  # as in the kernels
            row_data = self._rows.at(entries).astype(x.dtype) * x[columns]
            row_data[columns == s] *= 2
            column_data = self._rows.at(line_entries).astype(x.dtype) * x[lines]
        in_s = np.full(lines.size, s, counts.dtype)
        indices = np.concatenate([in_s[:before], columns.astype(counts.dtype), in_s[before:]])
        data = np.concatenate([column_data[:before], row_data, column_data[before:]])
        return canonical((data, indices, indptr), (k, k))

    # --- behind the doors -------------------------------------------------------------------------------------------

    def _point(self, x: Any) -> NDArray[Any]:
        """A checked, read-only copy of x in the dtype of the result."""
        self._pattern.check_unchanged()
        x = _validation.point(x, self._pattern.k, finite=self._check_finite)
        return frozen(x.astype(self._result_dtype(x.dtype)))

    def _result_dtype(self, x_dtype: np.dtype[Any]) -> np.dtype[Any]:
        if x_dtype == self.dtype:
            return self.dtype
        return np.result_type(self.dtype, _validation.float_dtype("x", x_dtype))


def jacobian(
    A: Any, x: ArrayLike, *, rows: Rows | None = None, order: Order = "C"
) -> scipy.sparse.csr_array:
    """The Jacobian of ``F(x) = A ∘ (x xᵀ)`` at x as a CSR matrix: ``JacobianBuilder(A, rows=rows, order=order).tocsr(x)``.

    For several x, or for products without the matrix, keep the builder.

    Parameters
    ----------
    A : array_like or SciPy sparse array or matrix, shape (k, k)
    x : array_like, shape (k,)
    rows : {"all", "stored", "upper"}, default "all"
        Which entries of F are rows of J: see `JacobianBuilder`.
    order : {"C", "F"}, default "C"
        The order of the rows: row-major, or the columns of F stacked.

    Returns
    -------
    J : scipy.sparse.csr_array, shape (m, k)
        ``J[i k + j]`` has the entries ``A_ij x_j`` in column i and ``A_ij x_i`` in column j, with ``rows="all"`` and ``order="C"``.

    Raises
    ------
    ValueError
        If A is not square or x not of its size, or one of them not finite; and as `JacobianBuilder` does.
    TypeError
        If one of them is not an array of numbers.
    MemoryError
        If J would not fit into memory; before it is allocated.

    Notes
    -----
    **Memory.** The result: for a dense A and k up to 32 768, ``28 k² - 12 k + 4`` bytes in float64; and O(k).

    Examples
    --------
    >>> import numpy as np
    >>> from sparsejac import jacobian
    >>> J = jacobian(np.array([[1.0, 2.0], [3.0, 4.0]]), [1.0, 10.0])
    >>> print(J.toarray())
    [[ 2.  0.]
     [20.  2.]
     [30.  3.]
     [ 0. 80.]]
    """
    return JacobianBuilder(A, rows=rows, order=order).tocsr(x)
