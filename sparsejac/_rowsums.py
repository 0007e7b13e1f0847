"""The row sums of F, ``F(x) 1 = x ∘ (A x)``, for a symmetric A, of which one side of the diagonal is read."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, final

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike, NDArray

from . import _checks, _machine, _matrix, _sources
from ._checks import Pairs, Triangle, Uplo
from ._linear import Operator
from ._pattern import Indices, Pattern, Spans, frozen, index_dtype, triangle
from ._rows import MemoryRows, Rows
from ._sources import CsrSource, Source
from ._streamed import StreamedRows, Summary, block_entries, pattern_of

_silence = functools.partial(
    np.errstate, over="ignore", invalid="ignore"
)  # of overflow, as in the kernels


@final
class RowSums:
    """The map ``x ↦ x ∘ (A x)`` for a symmetric A: the row sums of ``F(x) = A ∘ (x xᵀ)``, and their k×k Jacobian.

    The Jacobian is ``Diag(A x) + Diag(x) A``. A may be given by one of its triangles, and parts of it may be left out, as contact maps ask
    for it: diagonals, or the entries within, or between, groups of rows.

    Parameters
    ----------
    A : array_like or SciPy sparse array or matrix, shape (k, k)
        Real and symmetric up to rounding, see `JacobianBuilder`, in any dtype that it takes. One triangle is read, and stands for both. Referenced if it is dense or in canonical CSR or CSC format, and never
        written to; other formats are converted once.
    uplo : {"U", "L"}, optional
        A holds its upper (lower) triangle only, and stands for the symmetric matrix: a sparse A must have no entries on the other side, of a
        dense one they are not read. Default: A is whole, which is checked.
    ignore_diags : int, default 0
        Leave out the entries with ``|i - j| < ignore_diags``: 1 leaves out the diagonal, 2 its neighbours too.
    groups : sequence of labels, shape (k,), optional
        The group of each row, such as its chromosome. The rows of a group must be neighbours.
    pairs : {"all", "within", "between"}, default "all"
        Which entries count: all of them, those of two rows of one group (cis), or of two groups (trans).
    check_finite : bool, default True
        Refuse NaN and infinity in A and in x.
    workers : int, optional
        As for `JacobianBuilder`.
    memory : int, optional
        As for `JacobianBuilder`.
    progress : bool, default False
        As for `JacobianBuilder`.

    Attributes
    ----------
    shape : tuple of int
        (k, k).
    nnz : int
        The entries that are read: those on one side of the diagonal.

    Raises
    ------
    ValueError
        If A is not square, not symmetric, not finite or structurally inconsistent, or has entries beside the triangle that `uplo` names; if the rows
        of a group are not neighbours; for values of the keywords other than those above.
    TypeError
        If A is complex or not a matrix of numbers.

    Notes
    -----
    **Memory.** Beside A: up to 40 k bytes, and as much again while it is made.

    **Later changes.** If values of A are changed in place, the next `value` sees that; an operator keeps the A x of when it was made. The structure of a
    sparse A must not change.

    **Streamed.** An A that is not in memory is taken as by `JacobianBuilder`, and looked at in one pass when this is made: whether it is symmetric, by
    products with a random vector, to rounding; how large its entries are; and its diagonal. After that five eighths of a file are
    read in a pass, where its rows are longer than 64 KiB. A contact map, or ``uplo``, holds one half to begin with.

    **Sums** are accumulated in float64 over one side of the diagonal, each entry of which counts for both, so a product is half a pass over
    a symmetric A.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsejac import RowSums
    >>> A = np.array([[0.0, 2.0, 1.0], [2.0, 0.0, 3.0], [1.0, 3.0, 0.0]])
    >>> sums = RowSums(A)
    >>> sums
    <RowSums: 3x3, 3 entries read>
    >>> sums.value([1.0, 2.0, 3.0])
    array([ 7., 22., 21.])
    >>> print(sums.operator([1.0, 2.0, 3.0]).toarray())
    [[ 7.  2.  1.]
     [ 4. 11.  6.]
     [ 3.  9.  7.]]

    Of the upper triangle, stored as counts:

    >>> import scipy.sparse
    >>> U = scipy.sparse.csr_array(np.triu(A).astype(np.int32))
    >>> RowSums(U, uplo="U").value([1.0, 2.0, 3.0])
    array([ 7., 22., 21.])
    """

    def __init__(
        self,
        A: Any,
        *,
        uplo: Uplo | None = None,
        ignore_diags: int = 0,
        groups: Sequence[Any] | NDArray[Any] | None = None,
        pairs: Pairs = "all",
        check_finite: bool = True,
        workers: int | None = None,
        memory: int | None = None,
        progress: bool = False,
    ) -> None:
        source = _sources.find("A", A)
        if source is None:
            A = _checks.matrix(A)
        _checks.real(
            "A",
            A.dtype if source is None else source.dtype,
            "RowSums",
            "pass its real part, or abs(A)",
        )
        k = A.shape[0] if source is None else source.k
        ignored = _checks.nonnegative_integer("ignore_diags", ignore_diags)
        pairs, uplo = _checks.pairs(pairs), _checks.uplo(uplo)
        ends = _checks.groups(groups, pairs, k)
        self._check_finite = _checks.flag("check_finite", check_finite)
        if workers is not None:
            workers = _checks.positive_integer("workers", workers)
        self._workers, self._memory, self._progress = (
            workers,
            _checks.memory(memory),
            _checks.flag("progress", progress),
        )
        self._own = ignored == 0 and pairs != "between"  # whether the diagonal counts
        self.shape = (k, k)
        self._source = source
        self._seen: Summary | None = None
        if source is not None:
            self._stream(
                source,
                _checks.uplo_of(uplo, half=source.half),
                min(max(ignored, 1), k),
                ends,
                pairs,
            )
            return
        # The transposed is the same matrix, and may be what the kernels can read; its upper triangle is the lower one.
        values, indices, indptr, mirrored = _readable(A)
        which: Triangle = "upper" if (uplo != "L") != mirrored else "lower"
        part = (
            which if uplo is not None and indices is None else None
        )  # what is beside it is not read
        if self._check_finite:
            _matrix.check_finite(values, indices, indptr, transposed=mirrored, part=part)
        if uplo is None:
            defect = _matrix.unequal(values, indices, indptr)
            if defect is not None:
                raise _checks.not_symmetric_sums(*defect)
        side = triangle(k, which, offset=min(max(ignored, 1), k))
        if indices is None or indptr is None:
            self._pattern = Pattern.dense(k, _restricted(side, ends, pairs))
        else:
            if uplo is not None:
                _check_triangle(values, Pattern.csr(indptr, indices, triangle(k, which)), uplo)
            self._pattern = Pattern.csr(indptr, indices, _restricted(side, ends, pairs))
        self._values, self._mirrored, self._part = values, mirrored, part
        self._place()
        self.nnz = self._pattern.entries + int(np.count_nonzero(self._diagonal))

    def _stream(
        self, source: Source, uplo: Uplo | None, offset: int, ends: Any, pairs: Pairs
    ) -> None:
        """The same of an A that is not in memory, with one pass that sees all of it."""
        block_entries(source, self._workers or _machine.cpu_count(), self._memory)
        which: Triangle = "upper" if (uplo != "L") != source.transposed else "lower"
        side = _restricted(triangle(source.k, which, offset=offset), ends, pairs)
        self._read_part = None if uplo is None else which
        place = self._whole()
        if (
            uplo is not None
            and isinstance(source, CsrSource)
            and place.pattern.entries < source.data.size
        ):
            raise _checks.beside_triangle(uplo, source.data.size - place.pattern.entries)
        if uplo is None:
            defect = place.asymmetry()
            if defect is not None:
                raise _checks.not_symmetric_row(*defect, "RowSums")
        place.look()
        self._seen = place.entries.summary()
        self._pattern = pattern_of(source, side)
        self._place()
        self.nnz = self._pattern.entries + int(np.count_nonzero(self._diagonal))

    def _whole(self) -> StreamedRows:
        """All that A has, not only the part that counts, for a pass that sees how small and large it is."""
        source = self._source
        assert source is not None
        place = self._streamed(
            source,
            pattern_of(
                source, None if self._read_part is None else triangle(source.k, self._read_part)
            ),
        )
        place.entries.extremes = True
        return place

    def _streamed(self, source: Source, pattern: Pattern) -> StreamedRows:
        return StreamedRows(
            source,
            pattern,
            self._workers or _machine.cpu_count(),
            self._memory,
            check_finite=self._check_finite,
            progress=self._progress,
        )

    def _place(self) -> None:
        self._rows: Rows
        if self._source is None:
            self._rows = MemoryRows(
                self._values, self._pattern, self._workers or _machine.cpu_count()
            )
        else:
            assert self._seen is not None
            self._rows = self._streamed(self._source, self._pattern)
            self._rows.entries.whole_diagonal = self._own
            self._rows.entries.seen[:] = True
            self._rows.entries.diagonal[:] = self._seen.diagonal
        self._diagonal = np.zeros(self.shape[0])
        self._take_diagonal()

    def _take_diagonal(self) -> None:
        """The diagonal as it is in memory now, or as the last pass over a streamed A has noted it."""
        if self._own and self._source is None:
            self._diagonal = self._rows.diagonal()
        elif self._own:
            self._diagonal = self._rows.entries.diagonal.astype(np.float64)

    def _current_diagonal(self) -> NDArray[Any]:
        """The diagonal as it is now: a pass over a streamed A that its owner may have changed."""
        if self._own and isinstance(self._rows, StreamedRows):
            self._rows.look()
        self._take_diagonal()
        return self._diagonal

    def __getstate__(self) -> dict[str, Any]:
        self._pattern.check_unchanged()
        return {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("_rows", "_diagonal")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._place()

    def __repr__(self) -> str:
        k = self.shape[0]
        return f"<RowSums: {k}x{k}, {self.nnz} entries read>"

    def value(self, x: ArrayLike) -> NDArray[Any]:
        """The row sums of F: ``x ∘ (A x)``.

        Parameters
        ----------
        x : array_like, shape (k,)

        Returns
        -------
        r : ndarray of float64, shape (k,)

        Raises
        ------
        ValueError
            If x has another shape, or is not finite.
        TypeError
            If x is complex, or not an array of numbers.

        Notes
        -----
        One pass. **Memory.** The result and 4 k-vectors, for a sparse A 2 more for each worker.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import RowSums
        >>> RowSums(np.array([[1.0, 2.0], [2.0, 3.0]])).value([1.0, 10.0])
        array([ 21., 320.])
        """
        x = self._point(x)
        self._take_diagonal()
        with _silence():
            return x * self._product(x)

    def operator(self, x: ArrayLike) -> RowSumsOperator:
        """The Jacobian of `value` at x, k×k and never formed: ``Diag(A x) + Diag(x) A``.

        Parameters
        ----------
        x : array_like, shape (k,)
            Copied.

        Returns
        -------
        J : RowSumsOperator

        Raises
        ------
        ValueError
            If x has another shape, or is not finite.
        TypeError
            If x is complex, or not an array of numbers.

        Notes
        -----
        One pass. **Memory.** 2 k-vectors, and while it is made those of `value`.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import RowSums
        >>> J = RowSums(np.array([[1.0, 2.0], [2.0, 3.0]])).operator([1.0, 10.0])
        >>> J @ [1.0, 0.0]
        array([22., 20.])
        """
        x = self._point(x)
        self._take_diagonal()
        with _silence():
            return RowSumsOperator(self, x, self._product(x))

    def nonzeros(self) -> NDArray[np.int64]:
        """How many entries of each row of A that count are not zero.

        Returns
        -------
        counts : ndarray of int64, shape (k,)

        Notes
        -----
        One pass. **Memory.** As `value`.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import RowSums
        >>> RowSums(np.array([[1.0, 2.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])).nonzeros()
        array([2, 1, 0])
        """
        found = self._rows.sum("nonzeros", frozen(np.ones(self.shape[0])))
        self._take_diagonal()
        return found.astype(np.int64) + (self._diagonal != 0)

    def _point(self, x: ArrayLike) -> NDArray[Any]:
        k = self.shape[0]
        found = _checks.vector("x", x, k, f"as A is {k}x{k}", finite=self._check_finite)
        _checks.real("x", found.dtype, "RowSums", "pass a real x")
        return np.array(found, np.float64)

    def _product(self, u: NDArray[Any]) -> NDArray[Any]:
        """``A u``, of a float64 vector."""
        found = self._rows.sum("symmetric", frozen(u))
        if self._source is not None:
            self._take_diagonal()  # the pass has noted it
        with _silence():
            found += self._diagonal * u
        return found

    def _check_nonnegative(self) -> float:
        """The largest entry; negative ones are refused."""
        if self._source is not None and self._source.mutable:
            place = self._whole()
            place.look()
            self._seen = place.entries.summary()
        if self._seen is not None:
            if self._seen.lowest < 0:
                raise _checks.negative(*self._seen.lowest_at, self._seen.lowest)
            return max(self._seen.largest, 0.0)
        pattern = self._pattern
        return _matrix.check_nonnegative(
            self._values,
            pattern.indices,
            pattern.indptr,
            transposed=self._mirrored,
            part=self._part,
        )

    def _without(self, entries: NDArray[Any], rows: NDArray[Any]) -> RowSums:
        """The same with zeros for these of the visited entries, and for the diagonal in these rows: in a copy of A's values."""
        if self._source is not None:
            raise ValueError(
                f'support="drop" leaves out {entries.size + rows.size} entries of A in a copy of it, and A is not in memory: write it without them, at '
                '`unsupported_entries` of the result of support="check"'
            )
        result = object.__new__(RowSums)
        result.__dict__.update(self.__dict__)
        result._values = self._values.copy()
        flat = result._values.reshape(-1)
        flat[entries] = 0
        result._place()
        result._diagonal[rows] = 0
        return result


@final
class RowSumsOperator(Operator):
    """The Jacobian of ``x ∘ (A x)``, ``Diag(A x) + Diag(x) A``, as a linear operator, k×k.

    Made by `RowSums.operator`.

    Attributes
    ----------
    shape : tuple of int
        (k, k).
    dtype : numpy.dtype
        float64.

    Notes
    -----
    **Memory.** A product allocates its result and 3 k-vectors, for a sparse A 2 more for each worker; of several vectors, each takes a pass over A.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.optimize import root
    >>> from sparsejac import RowSums
    >>> sums = RowSums(np.array([[0.0, 2.0, 1.0], [2.0, 0.0, 3.0], [1.0, 3.0, 0.0]]))
    >>> J = sums.operator([1.0, 2.0, 3.0])
    >>> J
    <3x3 RowSumsOperator with dtype=float64>
    >>> J.T @ [1.0, 0.0, 0.0]
    array([7., 2., 1.])
    >>> found = root(lambda x: sums.value(x) - 1, np.ones(3), jac=lambda x: sums.operator(x).toarray())
    >>> print(sums.value(found.x).round(6))
    [1. 1. 1.]
    """

    _name = "J"

    def __init__(self, sums: RowSums, x: NDArray[Any], Ax: NDArray[Any]) -> None:
        super().__init__(np.dtype(np.float64), sums.shape)
        self._sums, self._x, self._Ax = sums, x, Ax

    def _apply(self, X: NDArray[Any]) -> NDArray[Any]:
        self._sums._take_diagonal()
        return self._each_column(X, lambda v: self._Ax * v + self._x * self._sums._product(v))

    def _apply_adjoint(self, X: NDArray[Any]) -> NDArray[Any]:
        self._sums._take_diagonal()
        return self._each_column(X, lambda w: self._Ax * w + self._sums._product(self._x * w))

    def _each_column(self, X: NDArray[Any], product: Any) -> NDArray[Any]:
        if X.ndim == 2:
            result = np.empty(
                X.shape, np.result_type(self.dtype, _checks.float_dtype("x", X.dtype))
            )
            for c in range(X.shape[1]):
                result[:, c] = self._each_column(X[:, c], product)
            return result
        if X.dtype.kind == "c":
            return self._each_column(X.real, product) + 1j * self._each_column(X.imag, product)
        with _silence():
            return product(np.ascontiguousarray(X, np.float64))

    def diagonal(self) -> NDArray[Any]:
        """The diagonal, ``A x + diag(A) ∘ x``, without a pass over A, unless A is streamed and its owner may change it.

        Returns
        -------
        d : ndarray of float64, shape (k,)

        Notes
        -----
        **Memory.** The result and a k-vector.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import RowSums
        >>> RowSums(np.array([[1.0, 2.0], [2.0, 3.0]])).operator([1.0, 10.0]).diagonal()
        array([22., 62.])
        """
        with _silence():
            return self._Ax + self._sums._current_diagonal() * self._x

    def tocsr(self) -> scipy.sparse.csr_array:
        """The matrix, for a sparse A: its pattern is that of A and the diagonal.

        Returns
        -------
        J : scipy.sparse.csr_array, shape (k, k)
            In canonical format.

        Raises
        ------
        TypeError
            If A is dense: `toarray` is for that.
        MemoryError
            If it would not fit into memory; before anything is allocated.

        Notes
        -----
        **Memory.** For e entries that are read, four times the 2 e + k numbers and column indices that it may have.

        Examples
        --------
        >>> import scipy.sparse
        >>> from sparsejac import RowSums
        >>> A = scipy.sparse.csr_array([[1.0, 2.0], [2.0, 3.0]])
        >>> print(RowSums(A).operator([1.0, 10.0]).tocsr().toarray())
        [[22.  2.]
         [20. 62.]]
        """
        sums, k = self._sums, self.shape[0]
        pattern = sums._pattern
        if pattern.indices is None:
            raise TypeError(
                "tocsr is for a sparse A, and this A is dense: toarray() gives the k×k array"
            )
        count = 2 * pattern.entries + k
        _checks.fits(
            f"the {k}x{k} matrix, while it is made,",
            4 * count * (8 + index_dtype(k, k, count).itemsize),
            "multiply by it without forming it",
        )
        i, j = sums._rows.visited()
        a = sums._rows.values()
        own = np.arange(k, dtype=i.dtype)
        with _silence():
            numbers = np.concatenate([self._x[i] * a, self._x[j] * a, self.diagonal()])
        places = (np.concatenate([i, j, own]), np.concatenate([j, i, own]))
        return scipy.sparse.coo_array((numbers, places), shape=self.shape).tocsr()

    def toarray(self) -> NDArray[Any]:
        """The matrix as a k×k array.

        Returns
        -------
        J : ndarray of float64, shape (k, k)

        Raises
        ------
        MemoryError
            If it would not fit into memory; before anything is allocated.

        Notes
        -----
        **Memory.** One and a half times the result; for a sparse A the result and `tocsr`.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import RowSums
        >>> print(RowSums(np.array([[1.0, 2.0], [2.0, 3.0]])).operator([1.0, 10.0]).toarray())
        [[22.  2.]
         [20. 62.]]
        """
        sums, k = self._sums, self.shape[0]
        _checks.fits(
            f"the {k}x{k} array, while it is made,", 12 * k * k, "multiply by it without forming it"
        )
        pattern = sums._pattern
        if pattern.indices is not None:
            return self.tocsr().toarray()
        J = sums._rows.matrix()
        with _silence():
            for i in range(k):
                columns = slice(int(pattern.lo[i]) - i * k, int(pattern.hi[i]) - i * k)
                J[columns, i] = J[i, columns]
            J *= self._x[:, np.newaxis]
            J[np.arange(k), np.arange(k)] = self.diagonal()
        return J


def _readable(A: Any) -> tuple[NDArray[Any], Indices | None, Indices | None, bool]:
    """The values, and for a sparse A the structure, of A or of its transposed, whichever can be read as it is; and whether it is that."""
    if scipy.sparse.issparse(A):
        mirrored = A.format == "csc"
        return (*_matrix.csr_arrays(A, transposed=mirrored), mirrored)
    mirrored = A.flags.f_contiguous and not A.flags.c_contiguous
    return (A.T if mirrored else A), None, None, mirrored


def _restricted(
    side: Spans, ends: tuple[NDArray[np.int64], NDArray[np.int64]] | None, pairs: Pairs
) -> Spans:
    """The part of one side of the diagonal that is within the groups, or between them. `ends` are those of each row's group."""
    left, right = side
    if ends is None or pairs == "all":
        return side
    upper = left.size == 0 or right[0] == right.size
    if pairs == "within":
        left, right = np.maximum(left, ends[0]), np.minimum(right, ends[1])
    elif upper:
        left = np.maximum(left, ends[1])
    else:
        right = np.minimum(right, ends[0])
    return np.minimum(left, right), right


def _check_triangle(values: NDArray[Any], part: Pattern, uplo: Uplo) -> None:
    """A sparse A that is said to be a triangle has no entries beside it, zeros apart."""
    if part.entries == values.size:
        return
    inside = sum(np.count_nonzero(values[lo:hi]) for lo, hi in zip(part.lo, part.hi, strict=True))
    beyond = np.count_nonzero(values) - inside
    if beyond:
        raise _checks.beside_triangle(uplo, int(beyond))
