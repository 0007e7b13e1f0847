"""Reading matrices and vectors from files, and writing a Jacobian so that the file is either complete or absent."""

from __future__ import annotations

import gzip
import inspect
import io
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import scipy.io
import scipy.sparse
from numpy.typing import NDArray

__all__ = ["read_matrix", "read_vector", "write_csr", "write_vector"]

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

    It is written under another name beside `path` (``.J.npz.1234.part``) and moved there when it is complete: whatever
    happens, `path` is the whole new file, or what it was before.

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
        If `path` does not end in ``.npz``, or is no name for a file.

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
    # What scipy.sparse.save_npz writes. NumPy before 2.1 leaves its archive open when a write fails, and complains on stderr.
    with (
        complete_or_absent(path) as file,
        zipfile.ZipFile(file if wrap is None else wrap(file), "w") as archive,
    ):
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def write_vector(path: str | os.PathLike[str], x: NDArray[Any]) -> None:
    """Write a vector for `numpy.load`, so that the file is the whole new one or what it was before: see `write_csr`.

    Parameters
    ----------
    path : path_like
        Must end in ``.npy``.
    x : ndarray, shape (k,)

    Raises
    ------
    OSError
        If it cannot be written; `path` is then untouched.
    ValueError
        If `path` does not end in ``.npy``, or is no name for a file.

    Notes
    -----
    **Memory.** None beside x.

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
        np.lib.format.write_array(file, np.ascontiguousarray(x), allow_pickle=False)


def check_output(path: Path, suffix: str) -> None:
    """Refuse, before any work is done, a name under which the result could not be written."""
    if path.suffix != suffix:
        raise ValueError(f"the output must end in {suffix}, got {path}")
    if not path.parent.is_dir():
        raise ValueError(f"the folder of the output {path} does not exist")
    if path.is_dir():
        raise ValueError(f"the output {path} is a folder")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"the folder of the output {path} is not writable")


@contextmanager
def complete_or_absent(path: Path) -> Iterator[IO[bytes]]:
    """A new file beside `path` that takes its name at the end of the block, and vanishes if that is not reached."""
    path = Path(os.path.realpath(path))  # a link stays one
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.is_file():
            shutil.copymode(path, part)
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
        reader = _read_mtx
    else:
        raise ValueError(f"{path} is of an unknown format: {_FORMATS} are read")
    with path.open("rb") as file:  # the system's own words if there is none, or it is a folder
        if not file.read(1):
            raise ValueError(f"{path} is empty")
    try:
        return reader(path)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  # a damaged file makes the readers raise almost anything
        raise ValueError(f"{path} cannot be read as {_FORMATS}: {str(error) or 'it is truncated'}") from None


class _Lines(io.RawIOBase):
    """A file whose last line ends, whatever it holds: SciPy's reader crashes the process on one that does not."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._last = b""
        self.ended = True

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        if not data and self._last not in (b"", b"\n"):
            self.ended, self._last = False, b""
            return b"\n"
        self._last = data[-1:] or self._last
        return data


def _read_mtx(path: Path) -> Any:
    # From SciPy 1.15 on, mmread wants to know which kind of sparse matrix is meant; before, there was one.
    options = {"spmatrix": False} if "spmatrix" in inspect.signature(scipy.io.mmread).parameters else {}
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
        lines = _Lines(file)
        matrix = scipy.io.mmread(lines, **options)
        while lines.read(2**20):  # what follows the entries
            pass
    if not lines.ended:  # 5 5 9 may be what is left of 5 5 9.97
        raise ValueError("its last line does not end, so it may be truncated: if it is complete, add a newline")
    return matrix


def _read_npy(path: Path) -> Any:
    with path.open("rb") as file:
        magic = file.read(6)
        if magic.startswith(b"PK"):
            raise ValueError("it is an archive, not an array: name it .npz")
        if magic != b"\x93NUMPY":
            raise ValueError("it does not start as an array of NumPy does")
        if path.stat().st_size < _MAPPED:
            file.seek(0)
            return np.load(file, allow_pickle=False)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _read_npz(path: Path) -> Any:
    with path.open("rb") as file:  # ours to close: NumPy forgets its own where the archive is broken
        if file.read(2) != b"PK":
            raise ValueError("it is no archive; name it .npy if it is an array")
        file.seek(0)
        archive = np.load(file, allow_pickle=False)
        if "format" in archive.files:
            file.seek(0)
            return scipy.sparse.load_npz(file)
        if len(archive.files) != 1:
            raise ValueError(f"one array was expected, it has {len(archive.files)}: {', '.join(archive.files)}")
        return archive[archive.files[0]]
