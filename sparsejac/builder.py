"""`JacobianBuilder`: an A, its index pattern, and all that can be computed from them at an x."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike, NDArray

from . import _validation
from ._backends.choice import checked_backend
from ._backends.protocol import Backend
from ._matrix.indices import Indices, frozen
from ._matrix.layout import layout_of
from ._matrix.registry import source_of_rows
from ._matrix.source import Source
from ._operators.hermitian import HessianOperator
from ._operators.jacobian import JacobianOperator
from ._operators.rank_assembly import RankAssembly, assembly_of
from ._system.recycling import allocated
from ._validation import Order, Rows, Settings, Uplo

_BLOCK = 2**26  # bytes of a block of `iter_csr`, unless the caller chooses the number of rows


class JacobianBuilder:
    """Builds the Jacobian of ``F(x) = A ∘ (x xᵀ)`` from its index pattern.

    ``F_ij = A_ij x_i x_j``, so ``∂F_ij/∂x_s = A_ij (δ_is x_j + δ_js x_i)``. The row of J for entry
    (i, j) has the entries ``A_ij x_j`` in column i and ``A_ij x_i`` in column j. For i = j it has
    the one entry ``2 A_ii x_i``.

    Parameters
    ----------
    A : array_like or SciPy sparse array or matrix, shape (k, k); or a matrix that is not in memory
        Any strides and any sparse format. The dtype is bool, integer, float32, float64, complex64
        or complex128. A is never written to, and its structure must not change. A dense A is
        referenced, not copied. So is a sparse A in canonical CSR format, or in canonical CSC format
        with either ``order="F"`` or ``uplo="L"``, but not both; with ``rows="upper"`` and no
        `uplo`, CSR only. If the values of a referenced A change in place, later calls use the new
        values. If an array of A itself is replaced, as by ``A.data = ...`` or by ``A[i, j] = ...``
        for an entry that is not stored, they raise a ValueError. SciPy's ``A += B`` makes another
        matrix, which they do not use. Other sparse formats are converted once, here, and duplicates
        are summed. An A that is not in memory is streamed: see the notes.
    rows : {"all", "stored", "upper"}, default "all"
        Which entries of F are rows of J. ``"all"``: all k² entries. ``"stored"``: the stored
        entries of a sparse A, explicit zeros included. This is the choice for a large k. For a
        dense A it is the same as ``"all"``. ``"upper"``: the entries with i ≤ j of an A that is
        symmetric up to rounding, see the notes. If `uplo` is given, the default is ``"upper"``.
    order : {"C", "F"}, default "C"
        The order of the rows. ``"C"`` is row-major: with ``rows="all"``, entry (i, j) is row
        i k + j. ``"F"`` stacks the columns of F, like the vec of textbooks: entry (i, j) is row
        i + j k.
    uplo : {"U", "L"}, optional
        A holds its upper (lower) triangle only, and stands for the symmetric matrix. A sparse A
        must have no entries outside that triangle, except, in memory, zeros. In a dense A they are
        not read.
        `rows` is ``"upper"`` then, unless it is given. With ``"stored"`` and ``"all"``, an A in
        memory is completed in a copy (k² numbers, or twice the entries of a sparse A), and a
        streamed A is refused. Default: A is whole.
    check_finite : bool, default True
        Refuse NaN and infinity, in A here and in x at each call. False lets them through.
    workers : int, optional
        How many threads a large problem may use. Default: the processors that this process may use.
        The bits of results do not depend on it.
    memory : int, optional
        The bytes that a pass over a streamed A may hold at a time, without its results. The least
        value is the sum of 2 MiB, 384 k bytes, and the blocks of ``workers + 1`` threads. A block
        has at least four rows of a dense A, or the rows of a chunk, or the longest row of a sparse
        A. Default: 256 MiB for blocks. `memory` has no influence on an A in memory.
    progress : bool, default False
        Show a progress bar for each pass over a streamed A that takes longer than two seconds.
    rank : int, optional
        The number r of columns of x, which is then a matrix X of shape (k, r), or a flat vector
        (k r,) in C order. Then ``F = A ∘ (X Xᵀ)``, and column ``i r + c`` of J belongs to X[i, c].
        Default: x is a vector.
    bilinear : bool, default False
        A is m×n, its rows and its columns have variables of their own, and ``F = A ∘ (X Yᵀ)``. Then
        x is X above Y: of shape (m + n, r), or flat. Without `rank`, x is flat and r is 1. `rows`
        must not be ``"upper"``, and there is no `uplo`.

    Attributes
    ----------
    shape : tuple of int
        (m, k), the shape of J. With `rank` and `bilinear`, J has a column for each number of x.
    dtype : numpy.dtype
        The dtype of J for a real x that has no higher precision than A. It is the dtype of A, or
        float64 if A has integers or booleans.
    nnz : int
        The number of entries that `tocsr` stores: ``2 k² - k`` for a dense A. It does not depend on
        values: zeros in A and in x are entries too.

    Raises
    ------
    ValueError
        If A is not square, not finite, or has an inconsistent structure; if ``rows="upper"`` and A
        is not symmetric; if an option has a value that does not exist.
    TypeError
        If A is not a matrix of numbers, or has another dtype than those above.

    Notes
    -----
    **Memory.** The builder keeps A and O(k) integers: 4 k for a dense A, k to 4 k for a sparse one.
    Checking A takes 1 MiB. If a sparse A has to be converted, the converted form is kept. The
    copies that `uplo` may need are stated there.

    **Several columns.** ``F_ij = A_ij (x_i·x_j)`` for the rows x_i of X. The row of J for entry
    (i, j) has the entries ``A_ij x_jᵀ`` in the r columns of x_i and ``A_ij x_iᵀ`` in those of x_j,
    or for i = j the r entries ``2 A_ii x_iᵀ``. With ``bilinear=True`` the second factor of F is
    y_j, and no entry is on a diagonal. Where a docstring says k-vector, it means an array of the
    shape of X, and J has r times the entries. A product with several vectors takes a pass over A
    for each of them. F does not change if X becomes X Q with an orthogonal Q, or in the bilinear
    form X G and Y G⁻ᵀ with any invertible G. So J has r (r - 1) / 2 null directions, or r², and
    JᵀJ is singular: solve with damping, or by a method that takes that, such as `lsqr` or `cg`.

    **Recycled results.** The system clears fresh memory page by page, which takes longer than to
    compute F or J v. So a builder uses the memory of a result again when nothing refers to the
    result any more: neither a name, nor a view, nor an array of another package. This is done for
    F, J v, and the numbers of a CSR matrix, if they take 4 MiB to an eighth of the free memory. The
    builder keeps the memory of one dropped result at most. It takes it for the next result if that
    needs at least half of it, and frees it otherwise. It also frees it before a MemoryError, in a
    forked child, and when the builder and its results are gone. A pickle does not contain it. Such
    a result does not own its memory: ``result.flags.owndata`` is False, and ``result.resize``
    refuses. Copy a result to own it.

    **Time.** Checking reads A once, and for ``rows="upper"`` twice.

    **Symmetric** means ``|A_ij - A_ji| ≤ 1000 ε max_l |A_il|`` for all i and j. Here ε is the
    precision of A's dtype (0 for integers), and an entry that is not stored is 0. The tolerance is
    needed because BLAS leaves differences of some hundred ε in a symmetric product. The upper
    triangle of A is read, or with ``order="F"`` the lower one, and stands for both. The check takes
    one pass if A is symmetric to the bit, and two more if it is not.

    **Streamed.** An A that is not in memory is read block by block, once in each pass. The kernels
    run on one block while the next one is read. A may be

    * the path of a ``.npy``, or a `numpy.memmap` of a file that is contiguous there. To treat a
      mapped file as an A in memory, pass ``np.asarray(A)``. A mapping that copies what is written
      to it (mode ``"c"``) counts as an A in memory, too: its file must not change;
    * a CSR or CSC matrix with arrays that are mapped from files, or the path of a folder that
      `sparsejac.io.write_csr_blocks` wrote;
    * a dataset of h5py, an array of Zarr, or another object with ``shape``, ``dtype``, and rows to
      slice. Its chunks should have few rows, as no chunk is read twice in a pass. Missing data in
      HDF5 are refused: chunks, a dataset that was never written, external files, the sources of a
      virtual dataset, and the end of a file that is cut short while it is open for reading. Chunks
      that a Zarr array does not store are zeros if its ``fill_value`` is 0, and are refused
      otherwise. A write to a dataset or an array is not refused: the new numbers are used;
    * the path of a ``.cool``, which holds one triangle (``rows="upper"``);
    * a function ``rows(start, stop)`` that returns an array of shape ``(stop - start, k)``, the
      same each time. It is called for row 0 when the builder is made, to find k and the dtype. A
      pass calls it for consecutive blocks, in order, on a thread that is not the caller's. It is
      never called twice at the same time, even by several builders. A method of an object counts as
      one function, and so do partials of one function. Within `memory`, it may use eight arrays of
      the size of a block.

    The results of maps (F, J, J v) have the same bits as for an A in memory. Sums differ by
    rounding, ``|Δ| ≤ 2 k ε Σ|terms|``. Their bits depend on A alone, not on `workers` or `memory`.

    A file in Fortran order is read along its columns. Sums can use the columns. Results that need
    the rows of A are refused, unless ``order="F"`` asks for its columns.

    Each pass checks at its begin and at its end that a file is the same file, with the same size
    and time. The first pass checks whether A is finite. Every pass checks it where A may change
    unnoticed: for functions, for objects, and for files that this process has mapped for writing
    when they are passed in, as the time of such a file does not show every write. Where the system
    does not list the mappings of a process, as only Linux does, every pass checks all files. Writes
    of another process through a mapping of its own are not noticed.

    ``rows="upper"`` takes a pass that compares A u with Aᵀu for a random u. The products of a row
    may differ by their rounding, and by √k times the tolerance of one entry. An A that is stored
    by its columns is read in the other triangle. It must store zeros on both sides of the diagonal
    or on none, which takes a pass over the indices.

    **On a cluster.** What `sparsejac.distributed.rows` returns is an A whose rows are on the
    workers of a Dask cluster. F, the residuals and J v then stay there, as Dask arrays, and
    ``J.T @ w`` also takes such a w. `tocsr`, `iter_csr` and `row_pairs` raise a MemoryError;
    `sparsejac.distributed.csr_blocks` forms J on the workers. Maps have the same bits as in memory.
    Sums differ by rounding, and depend on which rows are together, but not on the workers.

    **On a GPU.** A may be a CuPy array, a CSR matrix of cupyx, or an array that says it is in the
    memory of a GPU (``__cuda_array_interface__``, DLPack): float32 or float64, in C order, and not
    copied. This is experimental. All with m numbers is there as well: F and J v are CuPy arrays, w
    must be one, and `tocsr` gives a matrix of cupyx. x is a NumPy array, and a product with k
    numbers is where its operand is. `cupyx` makes operators for the solvers of cupyx. There is no
    ``order="F"``, `uplo`, `rank` or `bilinear`. Maps have the same bits as in memory. Sums differ
    by rounding, and their bits depend on A alone.

    **Memory of a streamed A.** The builder keeps 40 k bytes. A pass takes ``workers + 1`` blocks of
    up to 8 MiB, each at least a row of A and of the matrix that is aligned with it. It also takes
    up to four k-vectors for each vector that it returns.

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
        rank: int | None = None,
        bilinear: bool = False,
    ) -> None:
        order, rank = _validation.order(order), _validation.rank(rank)
        bilinear = _validation.flag("bilinear", bilinear)
        settings = _validation.settings(check_finite, workers, memory, progress)
        finite = settings.check_finite
        source, rows = source_of_rows(A, rows, order, uplo, bilinear=bilinear, check_finite=finite)
        self._check_and_set_up(source, rows, order, settings, rank, bilinear=bilinear)

    @classmethod
    def _checked(cls, *args: Any, bilinear: bool) -> JacobianBuilder:
        """Make a builder over an existing source, with arguments that are checked."""
        builder = cls.__new__(cls)
        builder._check_and_set_up(*args, bilinear=bilinear)
        return builder

    def _check_and_set_up(
        self,
        source: Source,
        rows: Rows,
        order: Order,
        settings: Settings,
        rank: int | None,
        *,
        bilinear: bool,
    ) -> None:
        symmetric = 'rows="upper"' if rows == "upper" and source.uplo is None else None
        layout = layout_of(source, rows, order, bilinear=bilinear)
        backend = checked_backend(source, layout, settings, symmetric)
        if rank not in (None, 1):
            backend.check_takes("rank=")
        if symmetric is not None and source.transposed:
            source.check_sides()
        self._set_up(backend, rows, order, rank)

    def _set_up(self, backend: Backend, rows: Rows, order: Order, rank: int | None) -> None:
        """Set the attributes. Unpickling does this without the checks of `__init__`."""
        self._rows, self._pattern = backend, backend.pattern
        self._which, self._order, self._rank = rows, order, rank
        self._check_finite = backend.settings.check_finite
        self._assembly = assembly_of(backend, rank or 1)
        self.shape, self.nnz = self._assembly.shape, self._assembly.nnz
        self.dtype = _validation.float_dtype("A", backend.dtype)

    def __getstate__(self) -> tuple[Any, ...]:
        return self._rows, self._which, self._order, self._rank

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._set_up(*state)

    def __repr__(self) -> str:
        m, n = self.shape
        size = f"J is {m}x{n}, {self.nnz} entries, {self.dtype}"
        options = f"rows={self._which!r}, order={self._order!r}"
        if self._rank is not None:
            options += f", rank={self._rank}"
        if self._rows.layout.bilinear:
            options += ", bilinear=True"
        return f"<JacobianBuilder: {size}; {options}>"

    # --- results that depend on the pattern only

    def csr_nbytes(self, x_dtype: Any = None) -> int:
        """The exact number of bytes of the three arrays of a fresh `tocsr`.

        It is ``nnz (itemsize + index) + (m + 1) index``. The index arrays are int32 (index = 4)
        while m, k and nnz are all below 2³¹, else int64 (index = 8). They are int32 up to
        k = 32 768 for a dense A, and up to k = 46 340 for a sparse one with ``rows="all"``.

        Parameters
        ----------
        x_dtype : dtype_like, optional
            The dtype of x, if it has a higher precision than A or is complex.

        Returns
        -------
        nbytes : int

        Raises
        ------
        TypeError
            If x may not have this dtype.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import JacobianBuilder
        >>> JacobianBuilder(np.ones((1000, 1000))).csr_nbytes()
        27988004
        """
        x_dtype = self.dtype if x_dtype is None else _validation.dtype_of("x_dtype", x_dtype)
        return self._assembly.csr_nbytes(np.result_type(self.dtype, x_dtype).itemsize)

    def row_pairs(self) -> tuple[Indices, Indices]:
        """The entry (i, j) of F that each row of J belongs to.

        Returns
        -------
        i, j : ndarray of int, shape (m,)
            Fresh arrays, of int32 or int64 as in `csr_nbytes`.

        Raises
        ------
        MemoryError
            If they would not fit into memory. It is raised before they are allocated.

        Notes
        -----
        **Memory.** The result: 2 m integers.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import JacobianBuilder
        >>> i, j = JacobianBuilder(np.eye(3), rows="upper").row_pairs()
        >>> print(i, j)
        [0 0 0 1 1 2] [0 1 2 1 2 2]
        """
        pattern, m = self._pattern, self.shape[0]
        pattern.check_unchanged()
        dtype = self._assembly.columns_dtype
        self._assembly.check_vector_fits("row_pairs", 2 * m * dtype.itemsize)
        i, j = (allocated((m,), dtype) for _ in range(2))
        if pattern.implicit is None and not pattern.is_full:
            self._rows.map("pairs", pattern.width, i, j, structure=True)
            return (j, i) if self._rows.layout.pairs_transposed else (i, j)
        # All pairs have rows. Their order is J's, and not that in which a file may have them.
        lines, others = self._rows.source.shape[:: -1 if self._order == "F" else 1]
        i.reshape(lines, others)[:] = np.arange(lines, dtype=dtype)[:, np.newaxis]
        j.reshape(lines, others)[:] = np.arange(others, dtype=dtype)
        return (j, i) if self._order == "F" else (i, j)

    # --- results that depend on x

    def value(self, x: ArrayLike) -> NDArray[Any]:
        """The entries ``A_ij x_i x_j`` of F in the order of J's rows.

        Parameters
        ----------
        x : array_like, shape (k,)

        Returns
        -------
        f : ndarray, shape (m,)
            0 for rows without a stored entry of A. An entry overflows, or underflows, only if its
            exact value does.

        Raises
        ------
        ValueError
            If x has another shape, or is not finite.
        TypeError
            If x is not an array of numbers.
        MemoryError
            If the result would not fit into memory. It is raised before it is allocated.

        Notes
        -----
        **Memory.** The result (m numbers), and a copy of x. If products ``x_i x_j`` leave the range
        of the dtype, x is copied once more, with k integers, and F takes 10 to 30 times as long.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import JacobianBuilder
        >>> JacobianBuilder(np.array([[1.0, 2.0], [3.0, 4.0]])).value([1.0, 10.0])
        array([  1.,  20.,  30., 400.])
        """
        return self._assembly.value(self._point(x))

    def max_abs(self, x: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
        """The largest absolute value in each row and in each column of F, in one pass over A.

        ``rows_i = max_j |A_ij x_i x_j|`` and ``columns_j = max_i |A_ij x_i x_j|`` are those of the
        whole k×k matrix F, for every choice of `rows`. With ``rows="upper"`` F is symmetric, and
        they are equal.

        Parameters
        ----------
        x : array_like, shape (k,)

        Returns
        -------
        rows, columns : ndarray, shape (k,)
            Fresh arrays. They are real, in the precision of `dtype` and x. A row without an entry
            has 0, and one with NaN has NaN.

        Raises
        ------
        ValueError
            If x has another shape, or is not finite.
        TypeError
            If x is not an array of numbers.

        Notes
        -----
        **Memory.** Two k-vectors for the result, and in float64 x, |x|, the result, and once more
        two k-vectors (for a sparse A three) for each worker.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import JacobianBuilder
        >>> JacobianBuilder(np.array([[1.0, 2.0], [3.0, -4.0]])).max_abs([1.0, 0.1])
        (array([1. , 0.3]), array([1. , 0.2]))
        """
        return self._assembly.max_abs(self._point(x))

    def tocsr(
        self, x: ArrayLike, *, out: scipy.sparse.csr_array | None = None
    ) -> scipy.sparse.csr_array:
        """J at x as a CSR matrix. Its arrays are written once, at their final size.

        Parameters
        ----------
        x : array_like, shape (k,)
        out : scipy.sparse.csr_array, optional
            A matrix that `tocsr` of this builder returned before, with its structure unchanged.
            Only its numbers are rewritten.

        Returns
        -------
        J : scipy.sparse.csr_array, shape (m, k)
            The matrix is in canonical format: columns ascend, and there are no duplicates. Explicit
            zeros of A and zeros of x are stored, so that the structure is the same for every x. All
            three arrays are fresh and belong to the caller. If `out` is given, it is returned.

        Raises
        ------
        ValueError
            If x has another shape, or is not finite; if `out` comes from another builder, has
            another dtype, or other index arrays.
        TypeError
            If x is not an array of numbers.
        MemoryError
            If the result would not fit into memory. It is raised before anything is allocated.

        Notes
        -----
        **Memory.** The result (`csr_nbytes`), and a copy of x. With `out`, only the copy of x.

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
        """J at x in blocks of rows, for a J that does not fit into memory.

        Parameters
        ----------
        x : array_like, shape (k,)
        block_rows : int, optional
            The number of rows of J in a block. The last block may have fewer. Default: as many as
            fill 64 MiB.

        Yields
        ------
        first_row : int
            The first row of J in the block.
        block : scipy.sparse.csr_array, shape (block_rows, k)
            A fresh matrix each time. Its numbers are those of `tocsr`, bit for bit.

        Raises
        ------
        ValueError
            If x has another shape, or is not finite; if `block_rows` is not positive.
        TypeError
            If x is not an array of numbers, or `block_rows` is not an integer.

        Notes
        -----
        **Memory.** A copy of x, and one block, unless the caller keeps more of them.

        Each block of a streamed A takes one pass over its own rows. The pass reads the columns of a
        sparse A twice. If a block ends within a row of A, the next block reads that row again. So a
        block should cover many rows of A.

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
            rank = self._assembly.variables.rank
            block_rows = max(nbytes // (rank * (2 * x.dtype.itemsize + 8) + 4), 1)
        block_rows = _validation.positive_integer("block_rows", block_rows)
        return self._assembly.blocks(x, block_rows)

    def operator(self, x: ArrayLike) -> JacobianOperator:
        """J at x as a SciPy LinearOperator that never forms it.

        Parameters
        ----------
        x : array_like, shape (k,)
            It is copied: later changes of x have no effect.

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
        **Memory.** A copy of x. `JacobianOperator` states what the products allocate.

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
        """The Hessian of ``wᵀF``, ``Σ_r w_r ∇²F_r = A∘W + (A∘W)ᵀ``, as a k×k operator.

        W holds the weight of each entry of F. The Hessian is the same at every x. A
        `scipy.optimize.NonlinearConstraint` on F takes ``hess=lambda x, w: builder.hessian(w)``.

        Parameters
        ----------
        w : array_like, shape (m,)
            A real weight for each row of J. It is referenced: later changes of w take effect. If A
            is on a cluster, w is copied there. A w that lies there, or on a GPU, is not checked
            for NaN; if it is not contiguous, it is copied.

        Returns
        -------
        H : HessianOperator, shape (k, k)

        Raises
        ------
        ValueError
            If w has another shape, or is not finite.
        TypeError
            If A or w is complex, or w is not an array of numbers.

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
        weights = self._weights(w)
        for name, dtype in (("A", self.dtype), ("w", weights.dtype)):
            _validation.real(name, dtype, "the Hessian of wᵀF")
        dtype = np.result_type(self.dtype, _validation.float_dtype("w", weights.dtype))
        self._rows.check_weights()
        w = self._rows.weights(weights, np.dtype(np.float64))
        return self._assembly.hessian(w, dtype)

    def slice(self, x: ArrayLike, s: int) -> scipy.sparse.csr_array:
        """The derivative of F by one variable, ``∂F/∂x_s``, as a k×k matrix.

        It is zero outside row s and column s. Entry (s, j) is ``A_sj x_j``, entry (i, s) is
        ``A_is x_i``, and (s, s) is ``2 A_ss x_s``. With ``rows="upper"`` it has only the entries
        with i ≤ j.

        Parameters
        ----------
        x : array_like, shape (k,)
        s : int
            ``0 <= s < k``.

        Returns
        -------
        dF : scipy.sparse.csr_array, shape (k, k)
            The matrix is in canonical format.

        Raises
        ------
        ValueError
            If x has another shape, or is not finite.
        TypeError
            If x is not an array of numbers, or s is not an integer.
        IndexError
            If there is no variable s.

        Notes
        -----
        **Memory.** O(k).

        **Time.** O(k) for a dense A, and a binary search in each row of a sparse A.

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
        return self._assembly.slice(x, _validation.variable_index(s, self.shape[1]))

    # --- private

    def _point(self, x: Any) -> NDArray[Any]:
        """Return a checked, read-only copy of x in the dtype of the result."""
        self._pattern.check_unchanged()
        x = self._checked_point("x", x)
        return frozen(x.astype(self._result_dtype(x.dtype), order="C").reshape(self._x_shape))

    def _checked_point(self, name: str, x: Any) -> NDArray[Any]:
        """Return x as it is, if its shape is one of those that are accepted."""
        of, bilinear = self._rows.source.shape, self._rows.layout.bilinear
        finite = self._check_finite
        return _validation.point(name, x, of, self._rank, bilinear=bilinear, finite=finite)

    @property
    def _x_shape(self) -> tuple[int, ...]:
        """The shape in which kernels get x."""
        of = self._assembly
        return of.variables.shape if isinstance(of, RankAssembly) else of.shape[1:]

    def _weights(self, w: Any) -> Any:
        """Return checked weights for J's rows. Those on the workers of a cluster stay there."""
        if not self._rows.holds(w):
            needs, finite = "a weight for each row of J", self._check_finite
            return _validation.vector("w", w, self.shape[0], needs, finite=finite)
        if w.shape != self.shape[:1]:
            raise _validation.wrong_weights(w.shape, self.shape[0])
        return w

    def _result_dtype(self, x_dtype: np.dtype[Any]) -> np.dtype[Any]:
        if x_dtype == self.dtype:
            return self.dtype
        return np.result_type(self.dtype, _validation.float_dtype("x", x_dtype))


def jacobian(
    A: Any, x: ArrayLike, *, rows: Rows | None = None, order: Order = "C"
) -> scipy.sparse.csr_array:
    """The Jacobian of ``F(x) = A ∘ (x xᵀ)`` at x as a CSR matrix.

    It is ``JacobianBuilder(A, rows=rows, order=order).tocsr(x)``. For several x, or for products
    without the matrix, make a `JacobianBuilder` and keep it.

    Parameters
    ----------
    A : array_like or SciPy sparse array or matrix, shape (k, k)
    x : array_like, shape (k,)
    rows : {"all", "stored", "upper"}, default "all"
        Which entries of F are rows of J: see `JacobianBuilder`.
    order : {"C", "F"}, default "C"
        The order of the rows: ``"C"`` is row-major, ``"F"`` stacks the columns of F.

    Returns
    -------
    J : scipy.sparse.csr_array, shape (m, k)
        With ``rows="all"`` and ``order="C"``, row i k + j has the entries ``A_ij x_j`` in column i
        and ``A_ij x_i`` in column j.

    Raises
    ------
    ValueError
        If A is not square, x is not of its size, or one of them is not finite; and as
        `JacobianBuilder` raises it.
    TypeError
        If A or x is not an array of numbers.
    MemoryError
        If J would not fit into memory. It is raised before J is allocated.

    Notes
    -----
    **Memory.** The result, and O(k). For a dense A and k up to 32 768, the result has
    ``28 k² - 12 k + 4`` bytes in float64.

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
