"""Products with a matrix in a folder of row blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._matrix.stored import RowBlocks
from .base import Operator


class StoredOperator(Operator):
    """The products of a `StoredCSR` J: ``J @ x`` and ``J.H @ x``, for vectors and matrices.

    Each product reads J's files. Within a block SciPy adds in the dtype of the result, over the
    blocks in double precision.

    **Memory.** The result and one block, and for ``J.H @ x`` a product with a block.
    """

    _name = "J"

    def __init__(self, stored: RowBlocks) -> None:
        super().__init__(stored.dtype, stored.shape)
        self._stored = stored

    def _apply(self, X: NDArray[Any]) -> NDArray[Any]:
        out = np.empty((self.shape[0], *X.shape[1:]), np.result_type(self.dtype, X.dtype))
        for row, block in self._stored:
            out[row : row + block.shape[0]] = block @ X
            del block  # before the next one is read
        return out

    def _apply_adjoint(self, X: NDArray[Any]) -> NDArray[Any]:
        dtype = np.result_type(self.dtype, X.dtype)
        out = np.zeros((self.shape[1], *X.shape[1:]), np.result_type(dtype, np.float64))
        for row, block in self._stored:
            out += (block.T @ X[row : row + block.shape[0]].conj()).conj()
            del block
        return out.astype(dtype, copy=False)


class StoredCSR(RowBlocks):
    """A CSR matrix in a folder of `sparsejac.io.write_csr_blocks`.

    It pickles: the copy reads the same files.

    Parameters
    ----------
    path : path_like
        The folder.

    Attributes
    ----------
    path : Path
        The folder, absolute.
    shape : tuple of int
        (m, n).
    dtype : numpy.dtype
        That of the values.
    nnz : int
        How many entries are stored.
    index_dtype : numpy.dtype
        int32 if the indices of all blocks are, and m, n and nnz are below 2³¹; else int64.

    Raises
    ------
    OSError
        If there is no such folder, or a file cannot be opened.
    ValueError
        If its files are not those that were written. This is checked here and when numbers are
        read.

    Notes
    -----
    **Memory.** A few hundred bytes for each block, and 4 bytes for each 128 KiB of its file.

    **Checksums.** Each 128 KiB of an array has a checksum, which is compared whenever a part of
    them is read. Folders of version 0.1 have none.

    Examples
    --------
    >>> import numpy as np, tempfile, os
    >>> from scipy.sparse.linalg import lsmr
    >>> from sparsejac import JacobianBuilder
    >>> from sparsejac.io import read_matrix, write_csr_blocks
    >>> builder, path = JacobianBuilder(np.ones((3, 3))), os.path.join(tempfile.mkdtemp(), "J")
    >>> write_csr_blocks(path, builder.iter_csr([1.0, 2.0, 3.0], block_rows=4), shape=builder.shape)
    >>> J = read_matrix(path)
    >>> J[3:5].toarray()
    array([[2., 1., 0.],
           [0., 4., 0.]])
    >>> step = lsmr(J.operator(), builder.value([1.0, 2.0, 3.0]))[0]
    >>> np.allclose(step, [0.5, 1.0, 1.5])
    True
    """

    def operator(self) -> StoredOperator:
        """The matrix as a LinearOperator, which holds one block in memory at a time."""
        return StoredOperator(self)
