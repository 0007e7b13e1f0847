"""The source of a matrix that a user passes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from .. import _validation
from .._system.signals import unless_signalled
from .._validation import Order, Rows, Uplo
from . import csr_folder, npy, pixels
from .buffers import Buffer
from .conversions import completed, csr_arrays
from .csr import CsrSource
from .dense import DenseSource, FileRows, FunctionRows, ObjectRows, _check_open
from .layout import is_wanted_transposed
from .memory import CsrMemory, DenseMemory
from .numbers import (
    FileNumbers,
    Numbers,
    _inode,
    _is_mapped_for_writing,
    _mappings,
    mapped_file,
    numbers,
)
from .referenced import Referenced
from .source import Source

AnySource = TypeVar("AnySource", bound=Source)

# What backends add: which matrices are for them, and what makes the source of one.
MAKERS: list[tuple[Callable[[Any], bool], Callable[..., Source]]] = []


def source_of_rows(
    A: Any,
    rows: Any,
    order: Order,
    uplo: Any,
    *,
    default: Rows = "all",
    beside: Source | None = None,
    bilinear: bool = False,
    check_finite: bool = False,
) -> tuple[Source, Rows]:
    """The source of A for J's rows, and the checked value of `rows`.

    If A is in memory, and Y is not, `beside` is the source of Y. Then A is read block by block too,
    along the same axis. A must be square unless the problem is `bilinear`.
    """
    source = stored_source("A", A, square=not bilinear)
    is_map = source is not None and source.uplo is not None
    uplo = _validation.uplo_of(uplo, is_map=is_map)
    rows = _validation.rows_of(rows, uplo, default, is_map=is_map)
    if bilinear:
        _validation.bilinear_options(rows, uplo)
    if source is None:
        A = _validation.matrix(A, square=not bilinear)
        if uplo is not None and rows != "upper":
            held = _holding(memory_source(A, transposed=False), uplo)
            if check_finite:  # here, so that the message names a place of A as it was given
                held.check_finite("A")
            A, uplo = completed(A, uplo), None
        wanted = is_wanted_transposed(rows, order, uplo)
        source = memory_source(A, transposed=wanted if beside is None else beside.transposed)
        source.zero_copy = beside is None
    elif uplo is not None and rows != "upper":
        raise _validation.cannot_complete(rows, uplo)
    return _holding(source, uplo), rows


def source_of_sums(A: Any, uplo: Any) -> Source:
    """The source of a symmetric A. It reads A along the axis in which A is contiguous."""
    source = stored_source("A", A)
    is_map = source is not None and source.uplo is not None
    uplo = _validation.uplo_of(uplo, is_map=is_map)
    return _holding(source or memory_source(_validation.matrix(A)), uplo)


def _holding(source: AnySource, uplo: Uplo | None) -> AnySource:
    """The same source, which is said to hold one triangle."""
    if uplo == source.uplo:
        return source
    source = copy(source)
    source.uplo = uplo
    source.check_outside()
    return source


def memory_source(
    A: Any, *, transposed: bool | None = None, name: str = "A"
) -> DenseMemory | CsrMemory:
    """The source of a matrix in memory.

    It reads the columns if `transposed`. If that is None, it reads along the contiguous axis.
    """
    if scipy.sparse.issparse(A):
        if transposed is None:
            transposed = A.format == "csc"
        arrays = csr_arrays(A, transposed=transposed, name=name)
        width = A.shape[0 if transposed else 1]
        source = CsrMemory(*arrays, name=name, transposed=transposed, width=width)
        its_own = A.format in ("csr", "csc")
        if its_own and (not arrays[0].size or np.may_share_memory(arrays[0], A.data)):
            source.referenced = Referenced(name, A, arrays[0].size, source.indptr)
        return source
    if transposed is None:
        transposed = A.flags.f_contiguous and not A.flags.c_contiguous
    return DenseMemory(A.T if transposed else A, transposed=transposed)


# --- matrices that are not in memory


def stored_source(name: str, A: Any, *, square: bool = True) -> Source | None:
    """The source of a matrix that is not in memory. None for anything else."""
    source = _find(name, A, square=square)
    if source is not None:
        _validation.float_dtype(name, source.dtype)
    return source


def _find(name: str, A: Any, *, square: bool) -> Source | None:
    if isinstance(A, (str, os.PathLike)):
        return _of_path(name, os.fsdecode(A), square=square)
    if isinstance(A, Source):
        if not square and A.backend is not None:
            raise _validation.bilinear_on_workers()
        return A
    for is_theirs, source_of in MAKERS:
        if is_theirs(A):
            return source_of(name, A, square=square)
    if scipy.sparse.issparse(A):
        return _of_sparse(name, A, square=square)
    if type(A).__module__.partition(".")[0] == "dask":
        raise _validation.lazy(name)
    source: DenseSource | None = None
    if (
        isinstance(A, np.memmap)
        and A.ndim == 2
        and (A.shape[0] == A.shape[1] or not square)
        and mapped_file(A) is not None
    ):
        _validation.float_dtype(name, A.dtype)
        source = _file_rows(numbers(name, A), A.shape, transposed=not A.flags.c_contiguous)
    elif callable(A) and not hasattr(A, "shape"):
        if not square:
            raise _validation.bilinear_function(name)
        source = FunctionRows(A, name)
    elif _has_rows(name, A):
        _check_shape(name, _validation.lengths(name, A.shape), square=square)
        _validation.float_dtype(name, np.dtype(A.dtype))
        source = ObjectRows(A, name)
    return source


def _has_rows(name: str, A: Any) -> bool:
    """Whether A is an object whose rows can be sliced.

    Objects that take part in NumPy's functions are excluded. They have labels or units, which a
    slice would lose, or are lazy.
    """
    if isinstance(A, np.ndarray) or hasattr(A, "__array_ufunc__") or not hasattr(A, "__getitem__"):
        return False
    _check_open(name, A)
    try:
        np.dtype(A.dtype)
        return len(A.shape) == 2
    except (AttributeError, TypeError):
        return False


def _check_shape(name: str, shape: tuple[int, ...], *, square: bool) -> None:
    if len(shape) != 2 or (square and shape[0] != shape[1]):
        raise _validation.wrong_shape(name, shape, square=square)


def _file_rows(stored: Numbers, shape: tuple[int, ...], *, transposed: bool) -> FileRows:
    k, width = shape[::-1] if transposed else shape
    return FileRows(stored, k, transposed=transposed and shape != (1, 1), _width=width)


def _of_path(name: str, path: str, *, square: bool) -> Source:
    if pixels.is_map(path):
        return pixels.source(name, path)
    if Path(path).is_dir():
        return _of_folder(name, Path(path), square=square)
    if not path.endswith(".npy"):
        raise ValueError(
            f"{name} may be the path of a .npy, a .cool, or a folder of write_csr_blocks, got "
            f"{path!r}: read it with sparsejac.io.read_matrix"
        )
    return npy_source(name, path, square=square)


def npy_source(name: str, path: str, *, square: bool = True) -> DenseSource:
    """The source of the matrix in a ``.npy``."""
    stored, shape, in_columns = _npy_numbers(name, path)
    _check_shape(name, shape, square=square)
    _validation.float_dtype(name, stored.dtype)
    return _file_rows(stored, shape, transposed=in_columns)


def _npy_numbers(name: str, path: str) -> tuple[FileNumbers, tuple[int, ...], bool]:
    """The numbers in a ``.npy``, their shape, and whether their order is Fortran's."""
    with open(path, "rb") as file:  # noqa: PTH123  # it raises the system's own error
        try:
            shape, in_columns, dtype = npy.header(file)
            offset = file.tell()
            npy.check_size(shape, dtype, os.fstat(file.fileno()).st_size - offset)
        except unless_signalled(ValueError) as error:
            raise ValueError(f"{path}, of {name}, cannot be read as a .npy: {error}") from None
    mutable = _is_mapped_for_writing(_inode(path), _mappings())
    found = FileNumbers.of(name, path, offset, dtype, math.prod(shape), mutable=mutable)
    return found, shape, in_columns


def _of_folder(name: str, path: Path, *, square: bool) -> CsrSource:
    """The source of the matrix in a folder of `sparsejac.io.write_csr_blocks`."""
    (data, _), (indices, _), (indptr, _), (shape, _) = arrays = [
        _npy_numbers(name, str(file))[:2] for file in csr_folder.files(path)
    ]
    for file, (_, lengths) in zip(csr_folder.NAMES, arrays, strict=True):
        if len(lengths) != 1:
            raise csr_folder.not_vector(path, file, lengths)
    m, n = size = csr_folder.size(path, _read(shape))
    _check_shape(name, size, square=square)
    source = CsrSource(data, indices, _read(indptr), name=name, width=n)
    if source.k != m:
        raise _validation.bad_structure(name, "csr", f"indptr of {source.k} rows")
    return source


def _of_sparse(name: str, A: Any, *, square: bool) -> CsrSource | None:
    if A.format not in ("csr", "csc") or A.ndim != 2 or (square and A.shape[0] != A.shape[1]):
        return None
    if mapped_file(A.data) is None and mapped_file(A.indices) is None:
        return None
    _validation.float_dtype(name, A.dtype)
    indptr = _read(numbers(name, A.indptr))  # it may be mapped as well
    stored = int(indptr[-1]) if indptr.size else 0
    if not 0 <= stored <= min(A.data.size, A.indices.size):
        stored = A.data.size  # `CsrSource` then refuses the structure
    data, indices = numbers(name, A.data[:stored]), numbers(name, A.indices[:stored])
    transposed = A.format == "csc"
    width = A.shape[0 if transposed else 1]
    source = CsrSource(data, indices, indptr, name=name, transposed=transposed, width=width)
    source.referenced = Referenced(name, A, stored)
    return source


def _read(stored: Numbers) -> NDArray[Any]:
    """All numbers of a vector, in memory."""
    with stored.opened() as read:
        return np.array(read(0, stored.size, Buffer()))
