"""Reads headers of ``.npy`` files, and arrays in ``.npz`` files. A damaged file is a ValueError."""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import _validation
from .._system.signals import unless_signalled

INFLATED = 1032  # the most bytes to which a byte of a .gz or of an archive can expand
_PIECE = 2**24  # how many bytes are read from an archive at a time
# A smaller array is read: an empty one cannot be mapped, and a small one need not be.
_MAPPED = 2**16
_MAX_HEADER = 2**16  # bytes of a header; the header of an array of numbers has about 100
_PICKLED = (
    "it holds Python objects, which are not opened (NumPy's allow_pickle): "
    "save a sparse matrix with scipy.sparse.save_npz, and other numbers with a dtype of numbers"
)


def header(file: IO[bytes], kinds: str = "biufc") -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the shape, whether the order is Fortran's, and the dtype of an array.

    The position of the file is then the first byte of the numbers.
    """
    magic = file.read(6)
    if magic.startswith(b"PK"):
        raise ValueError("it is an archive, not an array: name it .npz")
    if magic[:1] == b"\x80":  # pickle.dump begins with this byte
        raise ValueError(_PICKLED)
    if magic != np.lib.format.MAGIC_PREFIX:
        raise ValueError("it does not start as an array of NumPy does")
    version = tuple(file.read(2))
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(
            "it does not start as an array of NumPy does: its version is "
            f"{'.'.join(map(str, version))}"
        )
    old = version == (1, 0)
    length = file.read(2 if old else 4)
    size = int.from_bytes(length, "little")
    text = file.read(min(size, _MAX_HEADER))
    if len(text) < size:
        raise ValueError(
            f"its header has {len(text)} bytes, and {size} were announced: it is truncated or "
            "damaged"
        )
    read = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's parser warns of damaged text
            shape, in_columns, dtype = read(io.BytesIO(length + text))
    except unless_signalled(Exception) as error:  # a damaged header can make the parser raise any
        raise ValueError(f"its header is damaged ({' '.join(str(error).split())})") from None
    if dtype.hasobject:
        raise ValueError(_PICKLED)
    if dtype.kind not in kinds:
        raise ValueError(
            f"its dtype is {dtype}, which is not {'text' if kinds == 'SU' else 'numeric'}"
        )
    if any(length < 0 for length in shape):
        raise ValueError(f"its shape is {shape}, with a negative length")
    if any(isinstance(length, bool) for length in shape):  # NumPy's parser takes them for integers
        raise ValueError(f"its header is damaged (its shape is {shape})")
    return tuple(map(int, shape)), bool(in_columns), dtype


def check_size(shape: tuple[int, ...], dtype: np.dtype[Any], found: int) -> None:
    """Refuse a number of bytes that does not fit the shape and dtype of an array."""
    needed = math.prod(shape) * dtype.itemsize
    if found < needed:
        raise ValueError(
            f"it has {found} bytes of numbers where {needed} are needed for its shape {shape}: "
            "it is truncated"
        )
    if found > needed:
        raise ValueError(
            f"it has {found} bytes of numbers where {needed} are needed for its shape {shape}: "
            "its header is damaged, or more than one array was saved to it"
        )


def load(path: Path) -> NDArray[Any]:
    """The array in a ``.npy``, which is mapped if it is large."""
    size = path.stat().st_size
    with path.open("rb") as file:
        shape, in_columns, dtype = header(file)
        check_size(shape, dtype, size - file.tell())
        order: Literal["C", "F"] = "F" if in_columns else "C"
        # NumPy's load would parse the header again, and warn of one that Python 2 wrote.
        if size < _MAPPED or 0 in shape:
            return np.frombuffer(file.read(), dtype).copy().reshape(shape, order=order)
        start = file.tell()
    return np.memmap(path, dtype, "r", start, shape, order)


def member(archive: zipfile.ZipFile, name: str, kinds: str = "biufc") -> NDArray[Any]:
    """Read an array of an ``.npz`` to its end, so that the checksum is compared."""
    try:
        info = archive.getinfo(f"{name}.npy")
    except KeyError:
        raise ValueError(f"it has no array {name!r}") from None
    try:
        with archive.open(info) as file:
            shape, in_columns, dtype = header(file, kinds)
            check_size(shape, dtype, info.file_size - file.tell())
            _check_fits(name, info, archive)
            array = np.empty(math.prod(shape), dtype)
            view = memoryview(array.view(np.uint8).data)
            while view:
                count = file.readinto(view[:_PIECE])  # type: ignore[attr-defined]  # it exists
                if not count:
                    raise ValueError("it is truncated")
                view = view[count:]
            file.read(1)
    except unless_signalled(ValueError) as error:
        raise ValueError(f"its array {name!r} cannot be read: {error}") from None
    return array.reshape(shape, order="F" if in_columns else "C")


def _check_fits(name: str, info: zipfile.ZipInfo, archive: zipfile.ZipFile) -> None:
    """Refuse a size of a member that its bytes cannot have, and one that is too large."""
    most = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: INFLATED}.get(info.compress_type)
    there = min(info.compress_size, Path(str(archive.filename)).stat().st_size)
    if most is not None and info.file_size > most * there:
        raise ValueError(
            f"its {there} bytes cannot hold the {info.file_size} that were announced: it is damaged"
        )
    _validation.fits(f"the array {name!r}", info.file_size, "take a smaller one, or a .npy")
