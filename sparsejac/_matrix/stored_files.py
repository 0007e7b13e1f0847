"""The files of a folder of row blocks: its manifest, and blocks that are read in parts."""

from __future__ import annotations

import io
import json
import math
import os
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._system.locks import Turn
from . import npy

MANIFEST = "matrix.json"
FORMAT, VERSION = "sparsejac row blocks", 1
CHECKSUMS = "_crc32"  # the end of the name of an array's checksums
CHECKED = 2**17  # bytes of an array with one checksum, a multiple of every dtype's size
_PIECE = 2**26  # bytes of one read: macOS refuses 2**31, and Ctrl-C waits for its end
_INDICES = (np.dtype(np.int32), np.dtype(np.int64))
ANEW = "write it anew, with sparsejac.io.write_csr_blocks"
_seeking = Turn()  # for systems that cannot read from a place without going there first


@dataclass(frozen=True)
class Block:
    """The file of a block, as it was when it was opened first.

    Attributes
    ----------
    path : Path
    signature : tuple of int
        Its size, when it was last written, and its inode.
    members : dict
        Where each array begins in it, and the dtype.
    checksums : dict
        The checksums of the pieces of `CHECKED` bytes of each array; empty in a folder of version
        0.1.
    sizes : dict
        How many elements each array has.
    """

    path: Path
    signature: tuple[int, int, int]
    members: dict[str, tuple[int, np.dtype[Any]]]
    checksums: dict[str, NDArray[np.uint32]]
    sizes: dict[str, int]


class File(io.FileIO):
    """An open file that is closed without a warning when nothing refers to it.

    The descriptor of `os.open` is lost if Ctrl-C comes before it is stored. C code alone makes this
    object, and closes it.
    """

    __del__ = io.FileIO.close


def broken(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path} {reason}: {ANEW}")


def described(
    path: Path,
) -> tuple[tuple[int, int], int, np.dtype[Any], list[tuple[str, int, int, int]]]:
    """Read a manifest: shape, nnz, dtype, and the name, bytes, rows and entries of each file."""
    manifest = path / MANIFEST
    try:
        text = manifest.read_bytes()
    except FileNotFoundError:
        path.stat()  # raises the system's own error if there is no such folder
        raise broken(
            path, f"has no {MANIFEST}, so it is not a matrix of row blocks, or not a complete one"
        ) from None
    try:
        description = json.loads(text)
        if description["format"] != FORMAT:
            raise ValueError(f"its format is {description['format']!r}, and {FORMAT!r} is read")
        if description["version"] != VERSION:
            raise ValueError(f"its version is {description['version']!r}, and {VERSION} is read")
        m, n = map(_count, description["shape"])
        nnz = _count(description["nnz"])
        dtype = np.dtype(str(description["dtype"]))
        if dtype.kind not in "biufc":
            raise ValueError(f"its dtype is {dtype}, which is not numeric")
        files = []
        row = entries = 0
        for block in description["blocks"]:
            first_row, rows, inside = map(_count, (block["first_row"], block["rows"], block["nnz"]))
            if first_row != row or (inside and not rows):
                raise ValueError(
                    f"the block at row {row} is said to begin at row {first_row} and to have "
                    f"{rows} rows"
                )
            if Path(block["file"]).name != block["file"]:
                raise ValueError(f"{block['file']!r} is not in the folder")
            files.append((block["file"], _count(block["bytes"]), rows, inside))
            row, entries = row + rows, entries + inside
        if (row, entries) != (m, nnz):
            raise ValueError(
                f"its blocks have {row} rows and {entries} entries, and the matrix {m} and {nnz}"
            )
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise broken(manifest, f"does not describe a matrix of row blocks ({error!r})") from None
    return (m, n), nnz, dtype, files


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value


def block_of(
    path: Path, dtype: np.dtype[Any], columns: int, size: int, rows: int, nnz: int
) -> Block:
    """Check that the file of a block is there, and holds the arrays that it should."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise broken(path, "is missing") from None
    if not stat.S_ISREG(status.st_mode) or status.st_size != size:
        raise broken(path, f"has {status.st_size} bytes, and {size} were written")
    shapes = {
        "data": ((nnz,), [dtype]),
        "indices": ((nnz,), _INDICES),
        "indptr": ((rows + 1,), _INDICES),
    }
    with path.open("rb") as file:  # raises the system's own error if that is not permitted
        try:
            with zipfile.ZipFile(file) as archive:
                for name, value in {"format": b"csr", "shape": [rows, columns]}.items():
                    with archive.open(f"{name}.npy") as member:
                        found = np.lib.format.read_array(member, allow_pickle=False).tolist()
                    if found != value:
                        raise ValueError(f"its {name} is {found!r} and not {value!r}")
                members = {
                    name: _member(file, archive.getinfo(f"{name}.npy"), *shapes[name])
                    for name in shapes
                }
                checksums = _checksums_in(
                    archive,
                    {name: shapes[name][0][0] * members[name][1].itemsize for name in shapes},
                )
        except Exception as error:  # noqa: BLE001  # a damaged archive can make zipfile raise any error
            raise broken(path, f"is not the block that {MANIFEST} says ({error})") from None
    return Block(
        path, signature(status), members, checksums, {name: shapes[name][0][0] for name in shapes}
    )


def checksums(array: NDArray[Any]) -> NDArray[np.uint32]:
    """The CRC-32 of each piece of `CHECKED` bytes of an array."""
    numbers = memoryview(np.ascontiguousarray(array).view(np.uint8).data)
    return np.array(
        [zlib.crc32(numbers[start : start + CHECKED]) for start in range(0, len(numbers), CHECKED)],
        np.uint32,
    )


def _checksums_in(archive: zipfile.ZipFile, sizes: dict[str, int]) -> dict[str, NDArray[np.uint32]]:
    """The checksums in a block. Those of version 0.1 have none."""
    names = archive.namelist()
    if not any(f"{name}{CHECKSUMS}.npy" in names for name in sizes):
        return {}
    found = {}
    for name, size in sizes.items():
        found[name] = npy.member(archive, f"{name}{CHECKSUMS}")
        if found[name].dtype != np.uint32 or found[name].shape != (-(-size // CHECKED),):
            raise ValueError(
                f"it has checksums of {found[name].dtype} and shape {found[name].shape} for "
                f"{size} bytes"
            )
    return found


def _member(
    file: Any, info: zipfile.ZipInfo, shape: tuple[int], dtypes: Any
) -> tuple[int, np.dtype[Any]]:
    """The offset of an array's numbers in the file, and their dtype."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(
            f"{info.filename} is compressed, and only what is not can be read in parts"
        )
    # The last 4 of a zip header's 30 bytes say how much follows them.
    file.seek(info.header_offset + 26)
    start = info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
    file.seek(start)
    found, _, dtype = npy.header(file)
    offset = file.tell()
    if found != shape or dtype not in dtypes:
        raise ValueError(
            f"{info.filename} has shape {found} and dtype {dtype}, not {shape} and {dtypes[-1]}"
        )
    if offset + math.prod(shape) * dtype.itemsize != start + info.file_size:
        raise ValueError(f"{info.filename} is longer or shorter than its array")
    return offset, dtype


def signature(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ino


def read_at(descriptor: int, out: memoryview, offset: int) -> int:
    """Read from a place in a file, and return the number of bytes. Threads may read at once."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [out], offset)
    with _seeking:
        os.lseek(descriptor, offset, os.SEEK_SET)
        data = os.read(descriptor, len(out))
    out[: len(data)] = data
    return len(data)


def fill(descriptor: int, path: Path, offset: int, out: NDArray[Any]) -> None:
    """Read into the memory of `out` from a place in a file. Threads may read at once."""
    left = out.view(np.uint8).data
    while left:
        count = read_at(descriptor, left[:_PIECE], offset)
        if count == 0:
            raise OSError(f"{path} ends at byte {offset}, earlier than when it was opened: {ANEW}")
        left, offset = left[count:], offset + count


def fill_checked(descriptor: int, block: Block, name: str, start: int, out: NDArray[Any]) -> None:
    """Read elements of an array from `start` on into `out`, and compare the checksums."""
    offset, dtype = block.members[name]
    per_piece, size = CHECKED // dtype.itemsize, block.sizes[name]
    buffer = None
    stop = start + out.size
    for number in range(start // per_piece, -(-stop // per_piece) if out.size else 0):
        first, last = number * per_piece, min((number + 1) * per_piece, size)
        lo, hi = max(first, start), min(last, stop)
        wanted = out[lo - start : hi - start]
        if (lo, hi) == (first, last) and dtype == out.dtype:
            piece = wanted
        else:
            buffer = np.empty(min(per_piece, size), dtype) if buffer is None else buffer
            piece = buffer[: last - first]
        place = offset + first * dtype.itemsize
        fill(descriptor, block.path, place, piece)
        if zlib.crc32(piece.view(np.uint8).data) != block.checksums[name][number]:
            raise broken(
                block.path,
                f"is damaged: the checksum of its {name} from byte {place} on is another than "
                "was written",
            )
        if piece is not wanted:
            wanted[:] = piece[lo - first : hi - first]
