"""Reads matrices and vectors from files, and writes files that are complete or absent."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from . import _validation
from ._matrix import csr_folder, matrix_market, npy, npz
from ._system.outputs import (
    check_output,
    check_output_folder,
    complete_or_absent,
    complete_or_absent_folder,
    naming,
)
from ._system.signals import unless_signalled

__all__ = ["read_matrix", "read_vector", "write_csr", "write_csr_blocks", "write_vector"]
_LONGEST = 600  # characters of an error of a reader
_FORMATS = "Matrix Market (.mtx, .mtx.gz), .npz or .npy"


def read_matrix(path: str | os.PathLike[str]) -> Any:
    """Read a matrix.

    Parameters
    ----------
    path : path_like
        Matrix Market (``.mtx``, ``.mtx.gz``), ``.npz`` (of `scipy.sparse.save_npz`, or of
        `numpy.savez` with one array) or ``.npy``, which is mapped and not read, unless it
        is small; or a folder of `write_csr_blocks`, which stays on disk, too.

    Returns
    -------
    A : numpy.memmap, ndarray or SciPy sparse array or matrix
        A folder gives a csr_array whose arrays are mapped into memory: ``A @ x`` and ``A[i:j]``
        read from disk what they need.

    Raises
    ------
    OSError
        If the file is missing or cannot be read.
    ValueError
        If it is of another format, truncated or damaged, or does not hold a matrix. Examples are an
        index outside the matrix, a line of a Matrix Market file that does not fit its header (the
        message names the line), and a ``symmetric`` file with entries of both triangles. If it is a
        folder that version 0.1 wrote; the message has the command that converts it.
    MemoryError
        If it does not fit into memory.

    Notes
    -----
    **Matrix Market.** Real numbers may have Fortran's exponents (``2.5D+03``). A last line without
    an end is refused, because it may be cut.

    **Memory.** The matrix as it is stored, and for a symmetric Matrix Market file as much again
    while its other triangle is made. A ``.npy`` takes none until its values are used. A folder
    takes a number for each row while its index arrays are checked, which are read once for that.
    A file that is cut short while it is mapped kills the process at the next access.

    Examples
    --------
    >>> import numpy as np, tempfile, os
    >>> from sparsejac.io import read_matrix
    >>> path = os.path.join(tempfile.mkdtemp(), "A.npy")
    >>> np.save(path, np.eye(3))
    >>> read_matrix(path).shape
    (3, 3)
    """
    if Path(path).is_dir():
        return csr_folder.read(Path(path))
    matrix = _read(Path(path))
    if len(matrix.shape) != 2:
        raise ValueError(f"{path} does not hold a matrix: its array has shape {matrix.shape}")
    return matrix


def read_vector(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read a vector.

    Parameters
    ----------
    path : path_like
        A file of `read_matrix`'s formats that holds a vector, or a matrix of one row or one column.

    Returns
    -------
    x : ndarray, shape (k,)

    Raises
    ------
    OSError
        If the file is missing or cannot be read.
    ValueError
        If it is of another format, truncated or damaged, or does not hold a vector.
    MemoryError
        If it does not fit into memory.

    Notes
    -----
    **Memory.** The vector, and as much again if it is stored as a sparse one.

    Examples
    --------
    >>> import numpy as np, tempfile, os
    >>> from sparsejac.io import read_vector
    >>> path = os.path.join(tempfile.mkdtemp(), "x.npy")
    >>> np.save(path, np.ones((3, 1)))
    >>> read_vector(path).shape
    (3,)
    """
    vector = _read(Path(path))
    shape = vector.shape
    if len(shape) != 1 and not (len(shape) == 2 and 1 in shape):
        raise ValueError(f"{path} does not hold a vector: its array has shape {shape}")
    return _dense(f"the vector in {path}", vector).reshape(-1)


def _read_variables(path: Path, rows: tuple[int, int] | None) -> NDArray[Any]:
    """Read a matrix of variables. An ``.npz`` may have parts X and Y of so many rows, X above Y."""
    read_npz = npz.read if rows is None else partial(npz.read_variables, rows=rows)
    return _dense(f"the array in {path}", _read(path, read_npz))


def _dense(what: str, variables: Any) -> NDArray[Any]:
    if scipy.sparse.issparse(variables):
        size = math.prod(variables.shape) * variables.dtype.itemsize
        _validation.fits(what, size, "leave out variables without an entry")
        variables = variables.toarray()
    return np.asarray(variables)


def write_csr(
    path: str | os.PathLike[str], J: Any, *, wrap: Callable[[IO[bytes]], IO[bytes]] | None = None
) -> None:
    """Write a sparse matrix for `scipy.sparse.load_npz`, uncompressed.

    The file is written under another name in the same folder (``.J.npz.0123456789abcdef.part``) and
    takes the name `path` when it is complete. Whatever happens, `path` is the whole new file, or
    what it was before. If several writers write to `path`, the last one to end leaves its file.

    Parameters
    ----------
    path : path_like
        Must end in ``.npz``.
    J : SciPy sparse array or matrix
        CSR. Other formats are converted.
    wrap : callable, optional
        A function of the open file that returns the file object to write to, for a progress bar.

    Raises
    ------
    OSError
        If it cannot be written. `path` is then untouched.
    ValueError
        If `path` does not end in ``.npz``, cannot be the name of a file, or is write-protected.

    Notes
    -----
    **Memory.** 16 MiB besides J.

    Examples
    --------
    >>> import numpy as np, scipy.sparse, tempfile, os
    >>> from sparsejac import jacobian
    >>> from sparsejac.io import write_csr
    >>> path = os.path.join(tempfile.mkdtemp(), "J.npz")
    >>> write_csr(path, jacobian(np.eye(2), [1.0, 2.0]))
    >>> scipy.sparse.load_npz(path).shape
    (4, 2)
    """
    path = Path(path)
    check_output(path, ".npz")
    J = scipy.sparse.csr_array(J)
    arrays = {
        "data": J.data,
        "indices": J.indices,
        "indptr": J.indptr,
        "shape": J.shape,
        "format": b"csr",
        "_is_array": True,
    }
    # This is what scipy.sparse.save_npz writes. NumPy before 2.1 leaves its archive open when a
    # write fails, and complains on stderr.
    with (
        complete_or_absent(path) as file,
        zipfile.ZipFile(file if wrap is None else wrap(file), "w") as archive,
    ):
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def write_csr_blocks(
    path: str | os.PathLike[str],
    blocks: Iterable[tuple[int, Any]],
    *,
    shape: tuple[int, int],
    wrap: Callable[[IO[bytes]], IO[bytes]] | None = None,
) -> None:
    """Write a CSR matrix that may be larger than memory, as a folder of ``.npy`` files.

    The files are ``data.npy``, ``indices.npy``, ``indptr.npy`` and ``shape.npy``, the arrays of
    `scipy.sparse.save_npz`. `read_matrix` reads the folder, and `JacobianBuilder` takes its path.
    NumPy and SciPy alone can read it, too: see the example.

    The folder is written under another name in the same folder (``.J.0123456789abcdef.part``) and
    takes the name `path` when it is complete. Whatever happens, `path` is the whole matrix, or
    absent. If several writers write to `path`, the first one to end wins, and the others get a
    ValueError.

    Parameters
    ----------
    path : path_like
        The name of a new folder. An empty one may exist.
    blocks : iterable of (int, SciPy sparse array or matrix)
        Pairs of the first row and a CSR matrix of the rows from there on, in the order of the rows,
        without gaps, and of one dtype. `JacobianBuilder.iter_csr` yields such pairs.
    shape : tuple of int
        (m, n), the shape of the whole matrix.
    wrap : callable, optional
        A function of each open file that returns the file object to write to, for a progress bar.

    Raises
    ------
    OSError
        If it cannot be written.
    ValueError
        If `path` exists or cannot be made, before any block is computed; if another writer was
        first; if the blocks are not the rows of one matrix of this shape.
    TypeError
        If `shape` is not of integers.

    Notes
    -----
    **Index arrays.** They are int32 while m, n and the number of entries are below 2³¹, else int64.

    **Memory.** One block, and 16 MiB. A killed process leaves ``.J.0123456789abcdef.part``, which
    may be removed.

    Examples
    --------
    >>> import numpy as np, scipy.sparse, tempfile, os
    >>> from sparsejac import JacobianBuilder
    >>> from sparsejac.io import write_csr_blocks
    >>> builder, path = JacobianBuilder(np.ones((3, 3))), os.path.join(tempfile.mkdtemp(), "J")
    >>> write_csr_blocks(path, builder.iter_csr([1.0, 2.0, 3.0], block_rows=4), shape=builder.shape)
    >>> data, indices, indptr, shape = (
    ...     np.load(os.path.join(path, f"{name}.npy"), mmap_mode="r")
    ...     for name in ("data", "indices", "indptr", "shape")
    ... )
    >>> J = scipy.sparse.csr_array((data, indices, indptr), shape=tuple(shape))
    >>> J[8:].toarray()
    array([[0., 0., 6.]])
    """
    path = Path(path)
    if np.shape(shape) != (2,):
        raise ValueError(
            f"shape must be (m, n), that of the whole matrix, got {shape!r}: pass builder.shape"
        )
    m, n = (_validation.nonnegative_integer("shape", size) for size in shape)
    check_output_folder(path)
    dtype, row = None, 0
    with (
        complete_or_absent_folder(path) as part,
        csr_folder.Writer(part, (m, n), wrap) as writer,
    ):
        for item in blocks:
            J = _rows_of(item, row, (m, n), dtype)
            with naming(path):
                writer.append(J)
            dtype, row = J.dtype, row + J.shape[0]
            del item, J  # before the next one is made
        if row != m:
            raise ValueError(
                f"blocks must cover all {m} rows, as shape is ({m}, {n}), but they end before "
                f"row {row}"
            )
        with naming(path):
            writer.finish()


def write_vector(path: str | os.PathLike[str], x: NDArray[Any]) -> None:
    """Write a vector for `numpy.load`. The file is complete or as before: see `write_csr`.

    Parameters
    ----------
    path : path_like
        Must end in ``.npy``.
    x : ndarray, shape (k,)

    Raises
    ------
    OSError
        If it cannot be written. `path` is then untouched.
    ValueError
        If `path` does not end in ``.npy``, cannot be the name of a file, or is write-protected.

    Notes
    -----
    **Memory.** None besides x.

    Examples
    --------
    >>> import numpy as np, tempfile, os
    >>> from sparsejac.io import write_vector
    >>> path = os.path.join(tempfile.mkdtemp(), "x.npy")
    >>> write_vector(path, np.ones(3))
    >>> np.load(path)
    array([1., 1., 1.])
    """
    path = Path(path)
    check_output(path, ".npy")
    with complete_or_absent(path) as file:
        # NumPy writes to a file of the system by a call that does not say why it failed.
        np.lib.format.write_array(_Plain(file), np.ascontiguousarray(x), allow_pickle=False)


class _Plain:
    """An open file that NumPy does not recognise as one of the system."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, data: Any) -> int:
        return self._file.write(data)


def _rows_of(
    item: Any, row: int, shape: tuple[int, int], dtype: np.dtype[Any] | None
) -> scipy.sparse.csr_array:
    """The matrix of one item of `blocks`, which must begin at this row."""
    if not (
        isinstance(item, tuple)
        and len(item) == 2
        and isinstance(item[0], (int, np.integer))
        and scipy.sparse.issparse(item[1])
        and item[1].format == "csr"
        and item[1].ndim == 2
    ):
        parts = item if isinstance(item, tuple) else [item]
        raise ValueError(
            "blocks must yield pairs of a first row and a CSR matrix, as "
            "JacobianBuilder.iter_csr does, got "
            f"{' and '.join(map(_validation.type_name, parts))}: yield (first_row, "
            "matrix.tocsr())"
        )
    (m, n), (first_row, J) = shape, item
    if first_row != row:
        raise ValueError(
            f"blocks must have each row once and in order, and row {row} is next, but a block "
            f"begins at row {first_row}: yield them in the order of their rows, with no gap and "
            "no overlap"
        )
    if J.shape[1] != n or row + J.shape[0] > m:
        raise ValueError(
            f"blocks must be rows of a matrix of shape ({m}, {n}), but the one at row {row} has "
            f"shape {J.shape}: pass the shape of the whole"
        )
    if dtype is not None and dtype != J.dtype:
        raise ValueError(
            f"blocks must have one dtype, {dtype} as the first, but the one at row {row} has "
            f"{J.dtype}: convert it by astype"
        )
    try:
        J = scipy.sparse.csr_array(J)
        J.check_format()  # readers rely on it
    except unless_signalled(ValueError) as error:
        raise ValueError(
            f"blocks must be consistent matrices, but the one at row {row} is not, build it "
            f"anew: {error}"
        ) from None
    return J


@_validation.naming_its_file
def _read(path: Path, read_npz: Callable[[Path], Any] = npz.read) -> Any:
    name = path.name.lower()
    if name.endswith(".npy"):
        reader: Callable[[Path], Any] = npy.load
    elif name.endswith(".npz"):
        reader = read_npz
    elif name.endswith((".mtx", ".mtx.gz")):
        reader = matrix_market.read
    else:
        raise ValueError(
            f"{path} is of an unknown format: {_FORMATS} are read, and by read_matrix a folder "
            "of write_csr_blocks"
        )
    with path.open("rb") as file:  # raises the system's own error if it is missing or a folder
        if not file.read(1):
            raise ValueError(f"{path} is empty")
    try:
        return reader(path)
    except MemoryError:
        raise
    except unless_signalled(Exception) as error:  # a damaged file can raise any
        words = " ".join(str(error).split()) or "it is truncated"
        if len(words) > _LONGEST:  # an archive's may quote all of the file
            words = f"{words[:_LONGEST]}…"
        raise ValueError(f"{path} cannot be read as {_FORMATS}: {words}") from None
