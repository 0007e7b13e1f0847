"""Blocks of rows in files and Zarr arrays, which the workers of a cluster load."""

from __future__ import annotations

import glob
import itertools
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from .._matrix import csr_folder, npy
from .._system.signals import unless_signalled

_ROWS = 4  # the kernels of sums take so many dense rows at a time


class Block(NamedTuple):
    """Some rows of A, not loaded yet: a future or chunk of them, or what a worker calls."""

    rows: int
    nbytes: int
    given: Any = None
    load: Callable[..., Any] | None = None
    args: tuple[Any, ...] = ()


def of_path(path: str, count: int) -> tuple[list[Block], int]:
    if glob.has_magic(path):
        return _of_npz(sorted(glob.glob(path)), path)  # noqa: PTH207  # it may have folders
    path = str(Path(path).absolute())
    if path.endswith(".npy"):
        shape, in_columns, dtype = _header(Path(path))
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(f"A must be a square matrix, got shape {shape}")
        if in_columns and shape[0] > 1:
            raise ValueError(
                f"{path} is in Fortran order, and its rows lie apart: write it in C order"
            )
        return _cut(shape[0], shape[0] * dtype.itemsize, count, _ROWS, read_npy, (path,))
    if (Path(path) / "indptr.npy").is_file():
        return _of_folder(path, count)
    try:
        import zarr
    except ImportError:
        raise ValueError(
            f"{path} is no .npy and no folder of write_csr_blocks, and Zarr is not installed"
        ) from None
    try:
        return of_rows(zarr.open_array(path, mode="r"), count)
    except unless_signalled(FileNotFoundError, ValueError) as error:
        raise ValueError(
            f"{path} is no .npy, no folder of write_csr_blocks, and no Zarr array ({error})"
        ) from None


def _header(path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    with path.open("rb") as file:
        return npy.header(file)


def _cut(
    k: int, row: int, count: int, step: int, load: Callable[..., Any], args: tuple[Any, ...]
) -> tuple[list[Block], int]:
    """Cut rows of so many bytes into blocks of about the same number of rows."""
    each = max(-(-k // (count * step)) * step, step)
    bounds = [*range(0, k, each), k] if k else [0, 0]
    pairs = list(itertools.pairwise(bounds))
    return [Block(b - a, (b - a) * row, None, load, (*args, a, b)) for a, b in pairs], k


def of_rows(A: Any, count: int) -> tuple[list[Block], int]:
    if len(A.shape) != 2 or A.shape[0] != A.shape[1]:
        raise ValueError(f"A must be a square matrix, got shape {A.shape}")
    step = int(A.chunks[0])
    return _cut(A.shape[0], A.shape[1] * A.dtype.itemsize, count, step, read_rows, (A,))


def _of_folder(path: str, count: int) -> tuple[list[Block], int]:
    data, _, indptr, _ = csr_folder.files(Path(path))
    shape = np.load(Path(path) / "shape.npy")
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(f"A must be a square matrix, got shape {tuple(map(int, shape))}")
    k, starts = int(shape[0]), np.load(indptr, mmap_mode="r")
    entry = _header(data)[2].itemsize + starts.dtype.itemsize
    marks = int(starts[-1]) * np.arange(1, count) // count
    inner = np.searchsorted(starts, marks.astype(starts.dtype))
    bounds = sorted({0, k, *map(int, inner)}) if k else [0, 0]
    blocks = []
    for a, b in itertools.pairwise(bounds):
        nbytes = int(starts[b] - starts[a]) * entry
        blocks.append(Block(b - a, nbytes, None, read_folder, (path, a, b)))
    return blocks, k


def _of_npz(files: Sequence[str], pattern: str) -> tuple[list[Block], int]:
    if not files:
        raise ValueError(f"no file matches {pattern!r}")
    blocks, columns = [], set()
    for file in files:
        try:
            with zipfile.ZipFile(file) as archive:
                with archive.open("shape.npy") as member:
                    shape = tuple(map(int, np.lib.format.read_array(member)))
                with archive.open("data.npy") as member:
                    (stored,), _, dtype = npy.header(member)
        except unless_signalled(zipfile.BadZipFile, KeyError, ValueError) as error:
            raise ValueError(
                f"{file} is not a sparse matrix of scipy.sparse.save_npz ({error})"
            ) from None
        columns.add(shape[1])
        nbytes = int(stored) * (dtype.itemsize + 4)
        blocks.append(Block(shape[0], nbytes, None, read_npz, (str(Path(file).absolute()),)))
    if len(columns) != 1:
        raise ValueError(
            f"the files {pattern!r} must have the same number of columns, got {sorted(columns)}"
        )
    return blocks, columns.pop()


# --- what workers run


def read_npy(path: str, a: int, b: int) -> NDArray[Any]:
    return np.array(np.load(path, mmap_mode="r")[a:b])


def read_rows(A: Any, a: int, b: int) -> NDArray[Any]:
    return np.asarray(A[a:b])


def read_npz(file: str) -> Any:
    return scipy.sparse.load_npz(file).tocsr()


def read_folder(path: str, a: int, b: int) -> Any:
    data, indices, indptr, shape = (
        np.load(file, mmap_mode="r") for file in csr_folder.files(Path(path))
    )
    starts = np.array(indptr[a : b + 1])
    inside = slice(int(starts[0]), int(starts[-1]))
    arrays = np.array(data[inside]), np.array(indices[inside]), starts - starts[0]
    return scipy.sparse.csr_array(arrays, shape=(b - a, int(shape[1])))
