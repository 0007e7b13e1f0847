"""Writes columns of the bin table of a ``.cool`` file, which always is the old or the new file.

HDF5 changes several parts of a file. If that is interrupted, the file cannot be read any more. HDF5
may also crash the process when a write fails. So HDF5 never writes to a disk here. A file object
collects its changes in memory. A copy of the whole file gets the changes, is read once as a test,
and replaces the file.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _validation
from .._system.files import sync_folder, temporary_name
from .._system.signals import suppress, unless_signalled
from .._system.threads import undisturbed
from . import contact_map, map_files
from .numbers import File, identity
from .overlay import Overlay

# cooler divides by columns with these names, whatever their attributes say
DIVISIVE = frozenset({"KR", "VC", "VC_SQRT"})
# bytes of the largest attribute; HDF5 cannot hold numbers for ten thousand chromosomes
_ATTRIBUTE = 2**16 - 2**10
_GROWTH = 2**16  # bytes by which a file may grow in addition to the column
_REPLACES_OPEN_FILES = os.name != "nt"  # Windows refuses to replace a file that is open
_MAX_LENGTH = 200  # characters of a name
Identity = tuple[int, int, int, int]  # the result of `identity`
# the names of what a killed run of version 0.1 left in a file
_LEFTOVER = re.compile(r"\.(.+) (before|in the making)")


def check_name(name: Any) -> str:
    if isinstance(name, str) and len(name) > _MAX_LENGTH:
        raise ValueError(
            f"the name of a column must be a few characters without a slash, {_MAX_LENGTH} at "
            f"most, got {len(name)}: {name[:20]!r}…"
        )
    if not isinstance(name, str) or not name or name in {".", ".."} or "/" in name or "\0" in name:
        raise ValueError(
            "the name of a column must be a few characters without a slash, which are not NUL, "
            f"and not . or .., got {name!r}"
        )
    if name in ("chrom", "start", "end"):
        raise ValueError(
            f'"{name}" is a coordinate of the bins: choose another name for the column'
        )
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"the name of a column must be text that UTF-8 can encode, got {name!r}"
        ) from None
    return name


def check(uri: str | os.PathLike[str], name: str, *, overwrite: bool) -> None:
    """Refuse a column that cannot be written, before anything is computed."""
    path = Path(os.path.realpath(map_files.split(uri)[0]))
    with contact_map.reading(uri) as map_, map_.naming_errors("the bin table"):
        bins, k = map_.group["bins"], map_.k
        hidden = _hidden(map_.group, name)
        _check_own(uri, map_.group, path)
        if name in bins or hidden:
            if not overwrite:
                raise _exists_already(uri, name, hidden=hidden)
            if name in bins and not _may_be_replaced(bins, name, k):
                raise _not_a_column(uri, name)
    with _locked(path) as file:
        _check_disk_space(path, os.fstat(file).st_size + 10 * k + _GROWTH)


def write(
    uri: str | os.PathLike[str],
    name: str,
    columns: Mapping[str, tuple[NDArray[np.float64], Mapping[str, Any]]],
    *,
    overwrite: bool,
    read: Identity | None = None,
) -> None:
    """Write a column of this name, with its attributes, into each of these maps of one file.

    This restores columns that a killed run of version 0.1 has hidden. `read` is the identity of the
    file from which the values were computed. Another file is refused.
    """
    groups = {one: map_files.split(one)[1] or "/" for one in columns}

    def change(file: Any) -> None:
        for one, (values, stats) in columns.items():
            group = file[groups[one]]
            _recover(group)
            bins = group["bins"]
            if name in bins:
                if not overwrite:
                    raise _exists_already(one, name)
                if not _may_be_replaced(bins, name, values.size):
                    raise _not_a_column(one, name)
                del bins[name]
            column = bins.create_dataset(name, data=values, compression="gzip", compression_opts=6)
            for key, value in stats.items():
                _set(column, key, value)

    def verify(file: Any) -> bool:
        for one, (values, _) in columns.items():
            found = file[groups[one]]["bins"][name]
            if found.dtype != np.float64 or found[:].tobytes() != values.tobytes():
                return False
        return True

    _changed(uri, list(columns), change, verify, read)


def file_of(uri: str | os.PathLike[str]) -> Identity:
    """The identity of a map's file, which changes when the file is changed or replaced."""
    return identity(Path(map_files.split(uri)[0]).stat())


def check_unchanged(uri: str | os.PathLike[str], read: Identity | None) -> None:
    """Refuse to write weights that were computed from other pixels."""
    if read is not None and file_of(uri) != read:
        raise _other_file(Path(os.path.realpath(map_files.split(uri)[0])))


def _other_file(path: Path) -> OSError:
    return OSError(
        f"{path} cannot be written: it has changed since it was read, and the weights may belong "
        "to another map; balance it anew"
    )


def recover(uri: str | os.PathLike[str]) -> None:
    """Restore columns that a killed run of version 0.1 has hidden."""
    with contact_map.reading(uri) as map_, map_.naming_errors("the bin table"):
        left = any(_LEFTOVER.fullmatch(name) for name in map_.group)
    root = map_files.split(uri)[1] or "/"
    if left:
        _changed(
            uri,
            [uri],
            lambda file: _recover(file[root]),
            lambda file: not any(_LEFTOVER.fullmatch(name) for name in file[root]),
        )


def _exists_already(uri: Any, name: str, *, hidden: bool = False) -> ValueError:
    more = ", which a killed run of version 0.1 has hidden" if hidden else ""
    return ValueError(f'{uri} has a column "{name}" already{more}: {_validation.REPLACE}')


def _not_a_column(uri: Any, name: str) -> ValueError:
    return ValueError(
        f'{uri} has "{name}" in its bin table, which is not a column and cannot be replaced: '
        "choose another name"
    )


def _may_be_replaced(bins: Any, name: str, k: int) -> bool:
    """Whether this is a column, or a link without a target."""
    try:
        return getattr(bins[name], "shape", None) == (k,)
    except KeyError:
        return type(bins.get(name, getlink=True)).__name__ != "HardLink"


def _set(column: Any, key: Any, value: Any) -> None:
    if not isinstance(key, str):
        raise TypeError(f"stats must have strings as keys, the names of attributes, got {key!r}")
    if not key or "\0" in key:  # HDF5 would end the name at NUL
        raise ValueError(
            f"stats must have names of attributes as keys, not empty and without NUL, got {key!r}"
        )
    try:
        if np.asarray(value).nbytes < _ATTRIBUTE:
            column.attrs[key] = value
    except unless_signalled(
        TypeError, ValueError, OverflowError, UnicodeError, RuntimeError, OSError
    ) as error:
        raise TypeError(
            f"stats[{key!r}] cannot be an attribute of HDF5, which holds numbers, strings and "
            f"arrays of them, got {value!r}: {error}"
        ) from None


def _check_own(uri: Any, group: Any, path: Path) -> None:
    """Refuse a table that is a link to another file, which would be changed in place."""
    for part in (group, group["bins"]):
        name = part.file.filename
        if not Path(os.fsdecode(name)).samefile(path):
            raise ValueError(
                f"{uri} has its bin table in another file, {os.fsdecode(name)}: pass that file"
            )


# --- what version 0.1 left ------------------------------------------------------------------------


def _hidden(group: Any, name: str) -> bool:
    return f".{name} before" in group and name not in group["bins"]


def _recover(group: Any) -> None:
    for left in [name for name in group if _LEFTOVER.fullmatch(name)]:
        match = _LEFTOVER.fullmatch(left)
        assert match is not None
        name, what = match.groups()
        if what == "before" and name not in group["bins"]:
            group.move(left, f"bins/{name}")
        else:
            del group[left]


# --- a copy that replaces its original ------------------------------------------------------------


def _changed(
    uri: str | os.PathLike[str],
    maps: Sequence[str | os.PathLike[str]],
    change: Callable[[Any], None],
    verify: Callable[[Any], bool],
    read: Identity | None = None,
) -> None:
    """Copy the file of some maps, call ``change(file)`` on the copy, and replace the file by it.

    Before the copy replaces the file, ``verify(file)`` reads it. If `read` is given, the file must
    still have that identity.
    """
    h5py = map_files.hdf5()
    path = Path(os.path.realpath(map_files.split(uri)[0]))  # a symbolic link stays a link
    for one in maps:
        with contact_map.reading(one) as map_, map_.naming_errors("the bin table"):
            _check_own(one, map_.group, path)
    with ExitStack() as until_replaced:
        file = until_replaced.enter_context(_locked(path))
        before = identity(os.fstat(file))
        if read is not None and before != read:
            raise _other_file(path)
        changes = Overlay(file, before[2])
        with _as_oserror(path, uri):
            undisturbed(_apply, changes, change)
        _check_disk_space(path, changes.size)
        part = temporary_name(path)
        try:
            with _as_oserror(path, uri):
                with part.open("xb") as copy:
                    part.chmod(0o600)  # it gets the permissions of the original later
                    changes.copy_to(copy)
                    copy.flush()
                    os.fsync(copy.fileno())
                with h5py.File(part, "r") as written:
                    if not verify(written):
                        raise OSError("its copy does not hold what was written")
                _copy_status(path, part)
                if identity(os.fstat(file)) != before or identity(path.stat()) != before:
                    raise OSError("it has changed while it was copied; try it again")
                if not _REPLACES_OPEN_FILES:
                    until_replaced.close()
                part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        sync_folder(path.parent)


def _apply(changes: Overlay, change: Callable[[Any], None]) -> None:
    try:
        with map_files.hdf5().File(changes, "r+") as opened:
            change(opened)
    finally:
        changes.raise_failure()


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Open the file with the lock that HDF5 takes for writing.

    Then no other program that takes such a lock has the file open.
    """
    if not path.is_file():
        raise OSError(f"{path} cannot be written: it is not a file")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(
            errno.EACCES,
            f"{path} cannot be written: a copy of it is written to its folder, which is read-only",
        )
    try:
        file = File(path, "r+")
    except unless_signalled(OSError) as error:
        raise _not_written(path, error) from error
    try:
        _lock(path, file.fileno())
        if identity(os.fstat(file.fileno()))[:2] != identity(path.stat())[:2]:
            raise OSError(
                f"{path} cannot be written: another process has replaced it just now; try it again"
            )
        yield file.fileno()
    finally:
        file.close()


def _lock(path: Path, file: int) -> None:
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except unless_signalled(OSError) as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise OSError(
                error.errno,
                f"{path} cannot be written: it is open in another program",
            ) from None


def _check_disk_space(path: Path, needed: int) -> None:
    """Refuse to write if the disk cannot hold a second copy."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        if limit != resource.RLIM_INFINITY and needed > limit:
            raise OSError(
                errno.EFBIG,
                f"{path} cannot be written: a file of {needed} bytes would be larger than this "
                "process may write (ulimit -f)",
            )
    except ImportError:  # on Windows
        pass
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f"{path} cannot be written: a copy of it takes {needed} bytes "
            f"({_validation.human_bytes(needed)}) for a while, and "
            f"{_validation.human_bytes(free)} are free on its disk",
        )


def _copy_status(path: Path, part: Path) -> None:
    """Give a copy the owner, permissions and extended attributes of its original, if possible."""
    status = path.stat()
    if hasattr(os, "chown"):
        with suppress(OSError):
            os.chown(part, status.st_uid, status.st_gid)
    shutil.copystat(path, part)
    os.utime(part)  # set the time to now


@contextmanager
def _as_oserror(path: Path, uri: Any) -> Iterator[None]:
    """Make errors of the system and of HDF5 name the file, on one line.

    Errors about the arguments stay as they are.
    """
    try:
        yield
    except MemoryError:
        raise
    except unless_signalled(OSError) as error:
        raise _not_written(path, error) from error
    except unless_signalled(Exception) as error:  # HDF5 may raise errors of any class
        if isinstance(error, (ValueError, TypeError)) and str(error).startswith(
            (os.fsdecode(uri), "stats")
        ):
            raise
        raise OSError(f"{path} cannot be written: {' '.join(str(error).split())}") from error


def _not_written(path: Path, error: OSError) -> OSError:
    message = f"{path} cannot be written: {error.strerror or ' '.join(str(error).split())}"
    return OSError(error.errno, message) if error.errno else OSError(message)
