"""Reading matrices and vectors from files, and writing a Jacobian so that the file is either complete or absent."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import scipy.io
import scipy.sparse
from numpy.typing import NDArray

__all__ = ["read_matrix", "read_vector", "write_csr"]

_MAPPED = 2**16  # bytes of a .npy below which it is read: an empty array cannot be mapped, a small one need not be
_FORMATS = "Matrix Market (.mtx, .mtx.gz), .npz or .npy"


def read_matrix(path: str | os.PathLike[str]) -> Any:
    """Read a matrix.

    Parameters
    ----------
    path : path_like
        Matrix Market (``.mtx``, ``.mtx.gz``), ``.npz`` (of `scipy.sparse.save_npz`, or of `numpy.savez` with one array) or
        ``.npy``, which is mapped into memory, not read.

    Returns
    -------
    A : numpy.memmap, ndarray or SciPy sparse array or matrix

    Raises
    ------
    OSError
        If the file is missing or cannot be read.
    ValueError
        If it is of another format, truncated, or does not hold a matrix.

    Notes
    -----
    **Memory.** The matrix as it is stored; a ``.npy`` takes none until its values are used.

    Examples
    --------
    >>> import numpy as np, tempfile, os
    >>> from sparsejac.io import read_matrix
    >>> path = os.path.join(tempfile.mkdtemp(), "A.npy")
    >>> np.save(path, np.eye(3))
    >>> read_matrix(path).shape
    (3, 3)
    """
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
        If it is of another format, truncated, or does not hold a vector.

    Notes
    -----
    **Memory.** The vector.

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
    if scipy.sparse.issparse(vector):
        vector = vector.toarray()
    return np.asarray(vector).reshape(-1)


def write_csr(path: str | os.PathLike[str], J: Any, *, wrap: Callable[[IO[bytes]], IO[bytes]] | None = None) -> None:
    """Write a sparse matrix for `scipy.sparse.load_npz`, uncompressed.

    It is written under another name beside `path` and moved there when it is complete: whatever happens, `path` is the
    whole new file, or what it was before.

    Parameters
    ----------
    path : path_like
        Must end in ``.npz``.
    J : SciPy sparse array or matrix
        CSR; other formats are converted.
    wrap : callable, optional
        Given the open file, returns the file object to write to: for a progress bar.

    Raises
    ------
    OSError
        If it cannot be written; `path` is then untouched.
    ValueError
        If `path` does not end in ``.npz``.

    Notes
    -----
    **Memory.** 16 MiB beside J.

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
    if path.suffix != ".npz":
        raise ValueError(f"the output must end in .npz, got {path}")
    J = scipy.sparse.csr_array(J)
    arrays = {
        "data": J.data,
        "indices": J.indices,
        "indptr": J.indptr,
        "shape": J.shape,
        "format": b"csr",
        "_is_array": True,
    }
    # What scipy.sparse.save_npz writes. NumPy before 2.1 leaves its archive open when a write fails, and complains on stderr.
    with (
        complete_or_absent(path) as file,
        zipfile.ZipFile(file if wrap is None else wrap(file), "w") as archive,
    ):
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


@contextmanager
def complete_or_absent(path: Path) -> Iterator[IO[bytes]]:
    """A new file beside `path` that takes its name at the end of the block, and vanishes if that is not reached."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _read(path: Path) -> Any:
    name = path.name.lower()
    if name.endswith(".npy"):
        reader: Callable[[Path], Any] = _read_npy
    elif name.endswith(".npz"):
        reader = _read_npz
    elif name.endswith((".mtx", ".mtx.gz")):
        reader = scipy.io.mmread
    else:
        raise ValueError(f"{path} is of an unknown format: {_FORMATS} are read")
    with path.open("rb") as file:  # the system's own words if there is none, or it is a folder
        if not file.read(1):
            raise ValueError(f"{path} is empty")
    try:
        return reader(path)
    except OSError as error:  # not of the system, which could open it: "Not a gzipped file" is one
        raise ValueError(f"{path} cannot be read: {error}") from None
    except (ValueError, KeyError, EOFError, OverflowError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as {_FORMATS}: {str(error) or 'it is truncated'}") from None


def _read_npy(path: Path) -> Any:
    with path.open("rb") as file:
        if file.read(2) == b"PK":
            raise ValueError("it is an archive, not an array: name it .npz")
        if path.stat().st_size < _MAPPED:
            file.seek(0)
            return np.load(file, allow_pickle=False)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _read_npz(path: Path) -> Any:
    with path.open("rb") as file:  # ours to close: NumPy forgets its own where the archive is broken
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it is no archive; name it .npy if it is an array")  # noqa: TRY004
        if "format" in archive.files:
            file.seek(0)
            return scipy.sparse.load_npz(file)
        if len(archive.files) != 1:
            raise ValueError(f"one array was expected, it has {len(archive.files)}: {', '.join(archive.files)}")
        return archive[archive.files[0]]
