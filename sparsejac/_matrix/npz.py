"""Reads ``.npz`` files, and checks each index before SciPy gets it.

SciPy's routines do not check indices, and a wrong index makes them write outside their arrays.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from . import npy

_FORMATS = ("csr", "csc", "bsr", "coo", "dia")
_ANEW = "write it anew with scipy.sparse.save_npz"
_LISTED = 10  # how many names of arrays a message lists
_PIECE = 2**16  # how many indices are checked at a time


def read(path: Path) -> Any:
    """Read the result of `scipy.sparse.save_npz`, or a single array of `numpy.savez`."""
    with _opened(path) as (archive, names):
        return _only_matrix(archive, names)


def read_variables(path: Path, rows: tuple[int, int]) -> Any:
    """Read the X and Y that `sparsejac fit` writes, X above Y, or else what `read` reads.

    `rows` are the numbers of their rows: the shape of A.
    """
    with _opened(path) as (archive, names):
        if sorted(names) != ["X", "Y"]:
            return _only_matrix(archive, names)
        X, Y = (npy.member(archive, name) for name in ("X", "Y"))
    if X.ndim != 2 or Y.ndim != 2 or X.shape[1] != Y.shape[1]:
        raise ValueError(
            "its arrays X and Y must be matrices with as many columns each, got shapes "
            f"{X.shape} and {Y.shape}"
        )
    if (len(X), len(Y)) != rows:
        raise ValueError(
            f"its arrays X and Y must have {rows[0]} and {rows[1]} rows, as A is "
            f"{rows[0]}x{rows[1]}, got {len(X)} and {len(Y)}: take those of a fit of this A"
        )
    return np.concatenate([X, Y])


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[zipfile.ZipFile, list[str]]]:
    """The archive and the names of its arrays."""
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            raise ValueError("it is not an archive; name it .npy if it is an array")
        with zipfile.ZipFile(file) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            if len(set(names)) < len(names):
                raise ValueError("it has two arrays of one name: write it anew")
            yield archive, names


def _only_matrix(archive: zipfile.ZipFile, names: list[str]) -> Any:
    if "format" in names and len(names) > 1:
        return _sparse(archive, names)
    if len(names) != 1:
        listed = ", ".join(map(repr, names[:_LISTED])) + ", …" * (len(names) > _LISTED)
        raise ValueError(f"one array was expected, it has {len(names)}: {listed}")
    return npy.member(archive, names[0])


def _sparse(archive: zipfile.ZipFile, names: list[str]) -> Any:
    stored = npy.member(archive, "format", "SU")
    format_ = stored.item() if stored.ndim == 0 else stored.tolist()
    # SciPy stored bytes before version 1.0, and stores text since then.
    format_ = format_.decode("latin-1") if isinstance(format_, bytes) else format_
    if format_ not in _FORMATS:
        raise ValueError(f"its format is {format_!r}, and {', '.join(_FORMATS)} are read")
    shape = _shape(npy.member(archive, "shape"))
    data = _native(npy.member(archive, "data"))
    if data.dtype == np.float16:
        raise ValueError(
            f"its 'data' are float16, which SciPy's sparse routines refuse: {_ANEW}, as float32"
        )
    if format_ == "coo":
        axes: tuple[str, ...] = ("coords",) if "coords" in names else ("row", "col")
        arrays = [_integers(name, npy.member(archive, name)) for name in axes]
        coords = [*arrays[0]] if axes == ("coords",) else arrays
        if len(shape) == 1 and len(axes) == 2:  # SciPy 1.13 stores an array `row` of zeros
            _within("row", arrays[0], 0, 1)
            axes, coords = ("col",), coords[1:]
        _coo(data, coords, shape, axes)
        arguments: Any = data, tuple(coords)
    elif format_ == "dia":
        offsets = _integers("offsets", npy.member(archive, "offsets"))
        arguments = _dia(data, offsets, shape)
    else:
        indices, indptr = (
            _integers(name, npy.member(archive, name)) for name in ("indices", "indptr")
        )
        _compressed(format_, data, indices, indptr, shape)
        if len(shape) == 1:  # SciPy has CSR arrays of one dimension since version 1.15
            return scipy.sparse.coo_array((data, (indices,)), shape=shape)
        arguments = data, indices, indptr
    kind = (
        "array"
        if len(shape) == 1 or ("_is_array" in names and npy.member(archive, "_is_array").any())
        else "matrix"
    )
    return getattr(scipy.sparse, f"{format_}_{kind}")(arguments, shape=shape)


def _shape(array: NDArray[Any]) -> tuple[int, ...]:
    if (
        array.dtype.kind not in "iu"
        or array.ndim != 1
        or not 1 <= array.size <= 2
        or (array < 0).any()
    ):
        raise ValueError(
            f"its 'shape' must be one or two sizes, 0 or more, got {array.tolist()}: {_ANEW}"
        )
    shape = tuple(map(int, array))
    if max(shape) >= 2**63:
        raise ValueError(f"its 'shape' must be below 2**63, got {shape}: {_ANEW}")
    return shape


def _native(array: NDArray[Any]) -> NDArray[Any]:
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _integers(name: str, array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind not in "iu":
        raise ValueError(f"its {name!r} must be integers, got {array.dtype}: {_ANEW}")
    if array.dtype.kind != "u":
        return _native(array)
    if array.dtype.itemsize == 8 and (wrong := array >= 2**63).any():
        position = np.unravel_index(int(np.argmax(wrong)), array.shape)
        at = ", ".join(map(str, position))
        raise ValueError(f"its {name}[{at}] is {array[position]}, which is not an index: {_ANEW}")
    return _native(array).astype(np.int64)


def _within(name: str, indices: NDArray[Any], low: int, high: int) -> None:
    """Refuse indices outside ``low <= index < high``."""
    for start in range(0, indices.size, _PIECE):
        piece = indices[start : start + _PIECE]
        wrong = (piece < low) | (piece >= high)
        if wrong.any():
            position = int(np.argmax(wrong))
            raise ValueError(
                f"its {name}[{start + position}] is {piece[position]}, outside {low} … {high - 1}: "
                f"{_ANEW}"
            )


def _flat(name: str, array: NDArray[Any], size: int | None = None) -> None:
    if array.ndim != 1 or size not in (None, array.size):
        needed = "a vector" if size is None else f"a vector of length {size}"
        raise ValueError(f"its {name!r} must be {needed}, got shape {array.shape}: {_ANEW}")


def _coo(
    data: NDArray[Any], coords: list[Any], shape: tuple[int, ...], names: tuple[str, ...]
) -> None:
    _flat("data", data)
    if len(coords) != len(shape):
        raise ValueError(
            f"it has indices of {len(coords)} axes, and its 'shape' is {shape}: {_ANEW}"
        )
    for axis, (indices, size) in enumerate(zip(coords, shape, strict=True)):
        name = f"coords[{axis}]" if names == ("coords",) else names[axis]
        _flat(name, np.asarray(indices), data.size)
        _within(name, indices, 0, size)


def _dia(
    data: NDArray[Any], offsets: NDArray[Any], shape: tuple[int, ...]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the diagonals within the matrix.

    SciPy also saves diagonals outside the matrix, but reads their offsets modulo 2**32.
    """
    if data.ndim != 2 or len(shape) != 2:
        raise ValueError(
            f"its 'data' must be a row for each diagonal of a matrix, got shape {data.shape} for "
            f"{shape}: {_ANEW}"
        )
    _flat("offsets", offsets, len(data))
    m, n = shape
    if m + n >= 2**63:  # SciPy adds them in int64
        raise ValueError(f"its 'shape' must have a sum below 2**63, got {shape}: {_ANEW}")
    inside = (offsets >= min(1 - m, 0)) & (offsets < max(n, 1))
    if not inside.all():
        data, offsets = data[inside], offsets[inside]
    if np.unique(offsets).size < offsets.size:
        raise ValueError(
            f"its 'offsets' must have each diagonal once, got {offsets.tolist()[:10]}: {_ANEW}"
        )
    return data[:, :n], offsets


def _compressed(
    format_: str,
    data: NDArray[Any],
    indices: NDArray[Any],
    indptr: NDArray[Any],
    shape: tuple[int, ...],
) -> None:
    lines, size = (1, *shape) if len(shape) == 1 else (shape if format_ != "csc" else shape[::-1])
    if format_ == "bsr":
        if (
            len(shape) != 2
            or data.ndim != 3
            or 0 in data.shape[1:]
            or lines % data.shape[1]
            or size % data.shape[2]
        ):
            raise ValueError(
                f"its 'data' must be blocks that divide its shape {shape}, got shape "
                f"{data.shape}: {_ANEW}"
            )
        lines, size = lines // data.shape[1], size // data.shape[2]
    else:
        if len(shape) == 1 and format_ != "csr":
            raise ValueError(
                f"its format is {format_!r}, and its 'shape' {shape} "
                f"is not that of a matrix: {_ANEW}"
            )
        _flat("data", data)
    _flat("indptr", indptr, lines + 1)
    _flat("indices", indices, len(data))
    if indptr[0] != 0 or indptr[-1] != len(data) or (indptr[1:] < indptr[:-1]).any():
        raise ValueError(
            f"its 'indptr' must rise from 0 to its {len(data)} values: {_ANEW}, after A.prune()"
        )
    _within("indices", indices, 0, size)
