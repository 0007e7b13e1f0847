"""The row sums of F, ``F(x) 1 = x ∘ (A x)``, for a symmetric A."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _validation
from ._backends.row_products import RowProducts
from ._operators.base import silence
from ._operators.row_sums import RowSumsOperator
from ._validation import Pairs, Uplo


@final
class RowSums:
    """The map ``x ↦ x ∘ (A x)`` for a symmetric A, and its k×k Jacobian.

    The values are the row sums of ``F(x) = A ∘ (x xᵀ)``. The Jacobian is ``Diag(A x) + Diag(x) A``.
    One triangle of A suffices. Parts of A may be left out, as is usual for contact maps: diagonals,
    or the entries within or between groups of rows.

    Parameters
    ----------
    A : array_like or SciPy sparse array or matrix, shape (k, k)
        Real and symmetric up to rounding, in any dtype that `JacobianBuilder` takes. One triangle
        is read, and stands for both. A is referenced if it is dense or in canonical CSR or CSC
        format, and never written to. Other formats are converted once.
    uplo : {"U", "L"}, optional
        A holds its upper (lower) triangle only, and stands for the symmetric matrix. A sparse A
        must have no entries outside the triangle. Such entries of a dense A are not read. By
        default, A holds both triangles, and its symmetry is checked.
    ignore_diags : int, default 0
        Leave out the entries with ``|i - j| < ignore_diags``: 1 leaves out the diagonal, 2 its
        neighbours too.
    groups : sequence of labels, shape (k,), optional
        The group of each row, such as its chromosome. The rows of a group must be neighbours.
    pairs : {"all", "within", "between"}, default "all"
        The entries (i, j) that count: all of them, those with i and j in the same group (cis), or
        those with i and j in different groups (trans).
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
        The number of entries that are read, on one side of the diagonal.

    Raises
    ------
    ValueError
        If A is not square, not symmetric, not finite or structurally inconsistent, or has entries
        outside the triangle that `uplo` names; if the rows of a group are not neighbours; if a
        keyword has another value than those above.
    TypeError
        If A is complex or not a matrix of numbers.

    Notes
    -----
    **Memory.** Besides A, up to 40 k bytes, and as much again during construction.

    **Later changes.** If values of A are changed in place, the next `value` uses them. An operator
    keeps the A x that was computed when it was made. The structure of a sparse A must not change.
    If an array of a referenced sparse A is replaced, calls that read it raise a ValueError.

    **Streaming.** An A that is not in memory is accepted as by `JacobianBuilder`. During
    construction, one pass scans it. It tests by products with a random vector whether A is
    symmetric up to rounding, and records the diagonal and the largest entry. If the rows of a file
    are longer than 64 KiB, later passes read five eighths of it. A contact map, or an A with
    ``uplo``, holds one triangle only.

    **Sums** are accumulated in float64 over one side of the diagonal. Each entry counts for both
    sides, so a product reads half of a symmetric A. Their error is at most ``2 k ε Σ|terms|``, and
    the rounding to the dtype of the result.

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

    A may be the upper triangle, stored as counts:

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
        self._check_finite = _validation.flag("check_finite", check_finite)
        self._products = RowProducts(
            A,
            uplo=uplo,
            ignore_diags=ignore_diags,
            groups=groups,
            pairs=pairs,
            check_finite=check_finite,
            workers=workers,
            memory=memory,
            progress=progress,
        )
        self.shape, self.nnz = self._products.shape, self._products.nnz

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
        This takes one pass over A.

        **Memory.** The result and 4 k-vectors, and for a sparse A 2 more for each worker.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import RowSums
        >>> RowSums(np.array([[1.0, 2.0], [2.0, 3.0]])).value([1.0, 10.0])
        array([ 21., 320.])
        """
        x = self._point(x)
        self._products.take_diagonal()
        with silence():
            return x * self._products.times(x)

    def operator(self, x: ArrayLike) -> RowSumsOperator:
        """The Jacobian of `value` at x, ``Diag(A x) + Diag(x) A``, as a k×k operator.

        Parameters
        ----------
        x : array_like, shape (k,)
            It is copied.

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
        This takes one pass over A.

        **Memory.** 2 k-vectors, and during construction those of `value`.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import RowSums
        >>> J = RowSums(np.array([[1.0, 2.0], [2.0, 3.0]])).operator([1.0, 10.0])
        >>> J @ [1.0, 0.0]
        array([22., 20.])
        """
        x = self._point(x)
        self._products.take_diagonal()
        with silence():
            return RowSumsOperator(self._products, x, self._products.times(x))

    def nonzeros(self) -> NDArray[np.int64]:
        """The number of nonzero entries in each row of A, among those that count.

        Returns
        -------
        counts : ndarray of int64, shape (k,)

        Notes
        -----
        This takes one pass over A.

        **Memory.** As for `value`.

        Examples
        --------
        >>> import numpy as np
        >>> from sparsejac import RowSums
        >>> RowSums(np.array([[1.0, 2.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])).nonzeros()
        array([2, 1, 0])
        """
        return self._products.nonzeros()

    def _point(self, x: ArrayLike) -> NDArray[Any]:
        k = self.shape[0]
        found = _validation.vector("x", x, k, f"as A is {k}x{k}", finite=self._check_finite)
        _validation.real("x", found.dtype, "RowSums", "pass a real x")
        return np.array(found, np.float64)
