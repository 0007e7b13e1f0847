"""A CSR matrix as a folder of ``.npy`` files, which may be larger than memory.

The files are the arrays of `scipy.sparse.save_npz`: ``data.npy``, ``indices.npy``, ``indptr.npy``,
and ``shape.npy``.
"""

from __future__ import annotations

import io
import os
import shlex
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from .. import _validation
from .._system.signals import suppress, unless_signalled
from . import npy
from .indices import index_dtype

NAMES = ("data", "indices", "indptr", "shape")
Wrap = Callable[[IO[bytes]], IO[bytes]]
_PIECE = 2**20  # numbers that are converted and written at a time
_ANEW = "write it anew with sparsejac.io.write_csr_blocks"
# A folder of version 0.1 has a file for each block of rows, and this list of them.
_LIST_OF_0_1 = "matrix.json"
_CONVERT = (
    "import json, sys; from scipy.sparse import load_npz; "
    "from sparsejac.io import write_csr_blocks; old, new = sys.argv[1:]; "
    f"J = json.load(open(old + '/{_LIST_OF_0_1}')); "
    "write_csr_blocks(new, ((b['first_row'], load_npz(old + '/' + b['file'])) "
    "for b in J['blocks']), shape=J['shape'])"
)


def files(path: Path) -> list[Path]:
    """The files of a folder, in the order of `NAMES`. All of them are there."""
    found = [path / f"{name}.npy" for name in NAMES]
    missing = [file.name for file in found if not file.is_file()]
    if missing and (path / _LIST_OF_0_1).is_file():
        old, new = (shlex.quote(str(path.absolute()) + end) for end in ("", "-converted"))
        raise ValueError(
            f"{path} is a matrix in the format of version 0.1, with {_LIST_OF_0_1}, which is not "
            f'read any more: convert it by python -c "{_CONVERT}" {old} {new}'
        )
    if missing:
        raise ValueError(
            f"{path} is not the folder of a CSR matrix, or not a complete one, as it has no "
            f"{' and no '.join(missing)}: {_ANEW}"
        )
    return found


def not_vector(path: Path, name: str, shape: tuple[int, ...]) -> ValueError:
    return ValueError(
        f"{path} does not hold a CSR matrix: {name}.npy must be a vector, got shape {shape}: "
        f"{_ANEW}"
    )


def size(path: Path, shape: NDArray[Any]) -> tuple[int, int]:
    """The rows and columns that ``shape.npy`` has."""
    if shape.ndim != 1:
        raise not_vector(path, "shape", shape.shape)
    sizes = shape.tolist()
    if shape.dtype.kind not in "iu" or len(sizes) != 2 or not 0 <= min(sizes) <= max(sizes) < 2**63:
        raise ValueError(
            f"{path} does not hold a CSR matrix: shape.npy must have two integers, the numbers of "
            f"rows and columns, got {sizes[:10]} ({shape.dtype}): {_ANEW}"
        )
    m, n = sizes
    return m, n


@_validation.naming_its_file
def read(path: Path) -> Any:
    """The matrix as a csr_array. Large arrays are mapped.

    SciPy's routines trust index arrays, so they are read once, and checked.
    """
    data, indices, indptr, shape = map(_load, files(path))
    sizes = size(path, shape)
    try:
        for name, array in (("indices", indices), ("indptr", indptr)):
            if array.dtype.kind not in "iu":
                raise ValueError(f"{name}.npy must have integers, got {array.dtype}")
        if data.dtype == np.float16:
            raise ValueError("data.npy has float16, which SciPy's sparse routines refuse")
        J = scipy.sparse.csr_array((data, indices, indptr), shape=sizes)
        J.check_format()  # it does not look at a structure whose last pointer is not positive
        if indptr[-1] != data.size or (indptr[1:] < indptr[:-1]).any():
            raise ValueError(
                f"index pointer values must form a non-decreasing sequence from 0 to {data.size}"
            )
    except unless_signalled(TypeError, ValueError) as error:
        raise ValueError(f"{path} does not hold a CSR matrix ({error}): {_ANEW}") from None
    return J


def _load(file: Path) -> NDArray[Any]:
    try:
        return npy.load(file)
    except unless_signalled(ValueError) as error:
        raise ValueError(f"{file} cannot be read as a .npy: {error}: {_ANEW}") from None


class Writer:
    """Writes a CSR matrix to a new folder, row block by row block.

    No file can be read before `finish`. The indices are int32 while rows, columns and entries are
    below 2³¹, because SciPy would convert others in memory.
    """

    def __init__(self, folder: Path, shape: tuple[int, int], wrap: Wrap | None) -> None:
        self._folder, self._shape, self._wrap = folder, shape, wrap
        self._arrays: dict[str, _GrowingArray] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.close()

    def append(self, J: Any) -> None:
        """Write the next rows, which are a CSR matrix."""
        if not self._arrays:
            self._begin(J.dtype)
        data, indices, indptr, _ = self._arrays.values()
        before = data.size
        dtype = index_dtype(*self._shape, before + int(J.nnz))
        for array in (indices, indptr):
            array.widen(dtype)
        data.append(J.data)
        indices.append(J.indices)
        indptr.append(J.indptr[1:], before)

    def finish(self) -> None:
        """Complete the files, and write them to disk."""
        if not self._arrays:
            self._begin(np.dtype(np.float64))
        for array in self._arrays.values():
            array.finish()

    def _begin(self, dtype: np.dtype[Any]) -> None:
        index = index_dtype(*self._shape, 0)
        for name, kind in zip(NAMES, (dtype, index, index, np.dtype(np.int64)), strict=True):
            file = (self._folder / f"{name}.npy").open("x+b")
            self._stack.callback(_close, file)
            self._arrays[name] = _GrowingArray(file, kind, self._wrap)
        self._arrays["indptr"].append(np.zeros(1, index))
        self._arrays["shape"].append(np.array(self._shape))


class _GrowingArray:
    """A ``.npy`` of one dimension that is written piece by piece.

    Its header is written last. It has zeros instead before that, which NumPy refuses to read.
    """

    def __init__(self, file: IO[bytes], dtype: np.dtype[Any], wrap: Wrap | None) -> None:
        self.size, self._dtype, self._file = 0, dtype, file
        self._out = file if wrap is None else wrap(file)
        self._out.write(bytes(len(self._header())))

    def append(self, numbers: NDArray[Any], add: int = 0) -> None:
        for start in range(0, numbers.size, _PIECE):
            piece = numbers[start : start + _PIECE].astype(self._dtype, copy=add != 0)
            if add:  # in this dtype, because the sum may be too large for the other one
                piece += add
            self._out.write(np.ascontiguousarray(piece).view(np.uint8).data)
        self.size += numbers.size

    def widen(self, dtype: np.dtype[Any]) -> None:
        """Rewrite the numbers in a wider dtype, in place and from the end on."""
        narrow, self._dtype = self._dtype, dtype
        if narrow == dtype:
            return
        begin = len(self._header())
        for start in reversed(range(0, self.size, _PIECE)):
            count = min(_PIECE, self.size - start)
            self._file.seek(begin + start * narrow.itemsize)
            piece = np.frombuffer(self._file.read(count * narrow.itemsize), narrow)
            self._file.seek(begin + start * dtype.itemsize)
            self._file.write(piece.astype(dtype).data)
        self._file.seek(0, os.SEEK_END)

    def finish(self) -> None:
        self._file.seek(0)
        self._file.write(self._header())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def _header(self) -> bytes:
        """NumPy makes it as long for every size, so that an array can grow."""
        header = io.BytesIO()
        descr = np.lib.format.dtype_to_descr(self._dtype)
        np.lib.format.write_array_header_1_0(
            header, {"descr": descr, "fortran_order": False, "shape": (self.size,)}
        )
        return header.getvalue()


def _close(file: IO[bytes]) -> None:
    with suppress(OSError):  # only a file that is not complete has anything left to write
        file.close()
