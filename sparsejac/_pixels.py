"""The pixel table of a ``.cool`` file: a sparse upper triangle, sorted by rows, that is read whole or in parts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from ._pattern import index_dtype
from ._rows import Room
from ._sources import CsrSource, changed, identity

if TYPE_CHECKING:
    import cooler

_PIECE = 2**17  # pixels that are read at a time, if they are not stored in larger chunks
_CACHE = 2**21  # bytes of chunks that are kept: a block ends in the chunk in which the next one begins


def opened(uri: str | os.PathLike[str]) -> cooler.Cooler:
    try:
        import cooler
    except ImportError as error:
        raise ImportError(
            "files of contact maps are opened with cooler, which is not installed: pip install '.[cool]' in a clone of the project, or pip install cooler"
        ) from error
    path = str(uri).partition("::")[0]
    if not Path(path).exists():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        found = cooler.Cooler(str(uri))
    except (KeyError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # no permission, or a lock
            raise OSError(error.errno, f"{path} cannot be opened: {error}") from error
        raise _no_map(uri, path) from error
    if found.storage_mode != "symmetric-upper":
        raise ValueError(
            f"{uri} is not stored as the upper triangle of a symmetric matrix, but as {found.storage_mode!r}"
        )
    return found


@contextmanager
def reading(uri: str | os.PathLike[str], *, cache: int = 0) -> Iterator[Any]:
    """The file, open, without HDF5's cache of chunks, of several MiB for each column: every chunk is read once."""
    with opened(uri).open("r", rdcc_nbytes=cache) as group:
        try:
            yield group
        except KeyError as error:  # a table, or a column of one
            raise _no_map(uri, str(uri).partition("::")[0]) from error


def _no_map(uri: Any, path: str) -> ValueError:
    maps = ", ".join(f"{path}::{name}" for name in _maps(path))
    way_out = f": pass one of its maps, {maps}" if maps else ""
    return ValueError(f"{uri} is not a contact map that cooler can open, with all its tables{way_out}")


def _maps(path: str) -> list[str]:
    """The maps that a file of several holds."""
    from cooler import fileops

    for listed in (fileops.list_coolers, fileops.list_scool_cells):
        try:
            names = [name for name in listed(path) if name != "/"]
        except (KeyError, OSError):
            continue
        if names:
            return names
    return []


def in_memory(group: Any) -> scipy.sparse.csr_array:
    """The pixel table as CSR: it is sorted by rows, and has their offsets."""
    k, columns, counts = group["bins/start"].size, group["pixels/bin2_id"], group["pixels/count"]
    dtype = index_dtype(k, k, columns.size)
    indptr = np.asarray(group["indexes/bin1_offset"][:], dtype)
    indices, values = np.empty(columns.size, dtype), np.empty(columns.size, counts.dtype)
    for column, out in ((columns, indices), (counts, values)):
        chunk = column.chunks[0] if column.chunks else _PIECE
        step = chunk * max(1, _PIECE // chunk)  # whole chunks: none is decompressed twice
        for start in range(0, out.size, step):
            part = np.s_[start : start + step]
            column.read_direct(out, part, part)
    return scipy.sparse.csr_array((values, indices, indptr), shape=(k, k))


def chromosomes(group: Any) -> NDArray[Any]:
    sizes = np.diff(group["indexes/chrom_offset"][:])
    return np.repeat(np.arange(sizes.size, dtype=np.int32), sizes)


@dataclass(frozen=True)
class _Column:
    """A column of the table, read in parts."""

    name: str
    uri: str
    column: str
    dtype: np.dtype[Any]
    size: int
    identity: tuple[int, int, int, int]
    serial = True
    mutable = False

    @contextmanager
    def opened(self) -> Iterator[Callable[[int, int, Room], NDArray[Any]]]:
        path = self.uri.partition("::")[0]
        if identity(Path(path).stat()) != self.identity:
            raise changed(self.name, path)
        with reading(self.uri, cache=_CACHE) as group:
            column = group[f"pixels/{self.column}"]

            def read(start: int, stop: int, room: Room) -> NDArray[Any]:
                out = room.take(stop - start, self.dtype)
                try:
                    if out.size:
                        column.read_direct(out, np.s_[start:stop])
                except OSError as error:
                    raise OSError(f"{path}, of {self.name}, cannot be read: {error}") from error
                return out

            yield read
        if identity(Path(path).stat()) != self.identity:  # meanwhile
            raise changed(self.name, path)


def source(name: str, uri: str) -> CsrSource:
    """The pixels as rows that are streamed. Their structure is looked at now, which reads one of the columns."""
    with reading(uri) as group:
        status = identity(Path(uri.partition("::")[0]).stat())
        columns, counts = group["pixels/bin2_id"], group["pixels/count"]
        indices = _Column(name, uri, "bin2_id", columns.dtype, columns.size, status)
        data = _Column(name, uri, "count", counts.dtype, counts.size, status)
        indptr = group["indexes/bin1_offset"][:]
    return CsrSource(data, indices, indptr, name=name, half=True)
