"""Files of contact maps: their names, how they are opened, and which maps they hold."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .._system.signals import unless_signalled

SUFFIXES = (".cool", ".mcool", ".scool")


def split(uri: str | os.PathLike[str]) -> tuple[str, str | None]:
    """Split ``file::group`` into the file and the group.

    The name of a file may contain ``::``. So the first part must be a file, or have the suffix of a
    contact map.
    """
    text = os.fsdecode(uri)
    cuts = [match.start() for match in re.finditer("::", text)]
    if not cuts or Path(text).exists():
        return text, None
    for is_file in (
        lambda head: Path(head).is_file(),
        lambda head: head.lower().endswith(SUFFIXES),
    ):
        for cut in cuts:
            if is_file(text[:cut]):
                return text[:cut], text[cut + 2 :] or "/"
    return text, None


def is_map(uri: str | os.PathLike[str]) -> bool:
    """Whether a name is that of a contact map, and not of another file or a folder."""
    path, group = split(uri)
    return group is not None or (path.lower().endswith(SUFFIXES) and not Path(path).is_dir())


def maps_of(path: str | os.PathLike[str]) -> list[str]:
    """List the names of all maps of a file of several, in their natural order.

    A map that is damaged is listed as well.
    """
    with opened(path, 0) as (file, group):
        if group is not None:
            raise ValueError(
                f"{os.fsdecode(path)} names one map of a file, and all maps are to be balanced: "
                f"pass the file, {split(path)[0]}"
            )
        found = []
        for folder in ("resolutions", "cells"):
            try:
                found += [f"/{folder}/{name}" for name in file.get(folder, ())]
            except unless_signalled(Exception) as error:  # a damaged file may raise any error
                raise unreadable(os.fsdecode(path), f"the group /{folder}", error) from None
        found = sorted(found, key=_natural) or maps_in(file)
    if not found:
        raise ValueError(
            f"{os.fsdecode(path)} does not hold several maps, as .mcool and .scool files do: "
            "balance it as one map"
        )
    return [f"{os.fsdecode(path)}::{name}" for name in found]


@contextmanager
def opened(uri: str | os.PathLike[str], cache: int) -> Iterator[tuple[Any, str | None]]:
    """Open a file of maps. Yields it, and the group that the name has."""
    h5py = hdf5()
    path, group = split(uri)
    text = os.fsdecode(uri)
    if not Path(path).exists():
        raise FileNotFoundError(f"{path} does not exist")
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder, and not a contact map")
    try:
        file = h5py.File(path, "r", rdcc_nbytes=cache)
    except unless_signalled(OSError) as error:
        if error.errno is not None:  # there is no permission, or the file is locked
            raise OSError(error.errno, f"{path} cannot be opened: {error}") from error
        raise _no_hdf5(text, error) from error
    except unless_signalled(Exception) as error:  # a damaged file may raise any error
        raise _no_hdf5(text, error) from error
    with file:
        yield file, group


def hdf5() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            "files of contact maps need h5py, which comes with cooler and is not installed: "
            "pip install '.[cool]' in a clone of the project, or pip install cooler"
        ) from error
    return h5py


def _no_hdf5(uri: str, error: Exception) -> ValueError:
    return ValueError(
        f"{uri} is not a contact map, as HDF5 cannot open it: {' '.join(str(error).split())}"
    )


def maps_in(file: Any) -> list[str]:
    """List the maps in a file of several. A damaged file may hide some."""
    found: list[str] = []

    def collect(name: str, item: Any) -> None:
        if hasattr(item, "keys") and all(table in item for table in ("bins", "pixels", "indexes")):
            found.append("/" + name)

    try:
        file.visititems(collect)
    except unless_signalled(Exception):  # a damaged file may raise any error; keep the maps found
        return found
    return sorted(found, key=_natural)


def _natural(name: str) -> list[int | str]:
    """A key that sorts numbers in names by their size."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def unreadable(uri: str, what: str, error: Exception) -> OSError | ValueError:
    """Convert an error of the system or of HDF5 to an error with a message of one line."""
    words = " ".join(str(error).split()) or type(error).__name__
    message = f"{uri} cannot be read, {what}: {words}"
    if isinstance(error, OSError):
        return OSError(error.errno, message) if error.errno else OSError(message)
    return ValueError(message)
