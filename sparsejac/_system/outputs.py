"""Writes outputs that are complete under their name, or absent, and checks such names."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .files import sync_folder, temporary_name
from .signals import suppress, unless_signalled

_REPLACES_FOLDERS = os.name != "nt"  # Windows replaces no folder, not even an empty one


def check_output(path: Path, suffix: str) -> None:
    """Refuse a name under which the result cannot be written, before any work is done."""
    if path.suffix != suffix:
        raise ValueError(f"the output must end in {suffix}, got {path}")
    if path.is_dir():
        raise ValueError(f"the output {path} is a folder")
    if path.exists():
        if not path.is_file():  # the output would replace a device such as /dev/null
            raise ValueError(f"the output {path} is not a regular file: choose another name")
        if not os.access(path, os.W_OK):
            raise ValueError(
                f"the output {path} is write-protected: make it writable, or choose another name"
            )
    _check_parent(path)


def check_output_folder(path: Path) -> None:
    """Refuse the name of a folder that cannot be written, before any work is done."""
    if path.exists() and not (
        path.is_dir() and not any(path.iterdir()) and not os.path.ismount(path)
    ):
        raise ValueError(
            f"the output {path} is there already, and only an empty folder on which no disk is "
            "mounted is replaced: remove it, or choose another name"
        )
    _check_parent(path)


def _check_parent(path: Path) -> None:
    parent = Path(os.path.realpath(path)).parent  # a link is followed
    if not parent.is_dir():
        raise ValueError(f"the folder of the output {path} does not exist")
    if not os.access(parent, os.W_OK):
        raise ValueError(f"the folder of the output {path} is not writable")


@contextmanager
def complete_or_absent(path: Path) -> Iterator[IO[bytes]]:
    """Open a new file that gets the name `path` at the end of the block.

    If the block fails, the file is removed. Until its end, the file has a unique temporary name in
    the same folder. If several writers write to `path`, the file of the last one to end remains. A
    symbolic link stays a link. The file has the permissions of the file that it replaces, or those
    of the user's umask. Errors of the system name `path`.
    """
    named, path = path, Path(os.path.realpath(path))
    part = temporary_name(path)
    try:
        with naming(named), part.open("wb") as file:
            _copy_mode(path, part)  # before anything is written that others may not read
            yield file
            file.flush()
            os.fsync(file.fileno())
        with naming(named):
            part.replace(path)
        sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Make errors of the system name the output."""
    try:
        yield
    except unless_signalled(OSError) as error:
        message = f"{path} cannot be written: {error.strerror or error}"
        raise (
            OSError(message) if error.errno is None else OSError(error.errno, message)
        ) from error


def _copy_mode(path: Path, part: Path, more: int = 0) -> None:
    with suppress(FileNotFoundError):
        part.chmod(stat.S_IMODE(path.stat().st_mode) | more)


@contextmanager
def complete_or_absent_folder(path: Path) -> Iterator[Path]:
    """Make a new folder in the same way. If there are several writers, the first one to end wins.

    The files in it must be on disk at the end of the block.
    """
    named, path = path, Path(os.path.realpath(path))
    part = temporary_name(path)
    try:
        with naming(named):
            part.mkdir()
        _copy_mode(path, part, stat.S_IRWXU)
        yield part
        sync_folder(part)
        _copy_mode(path, part)
        try:
            part.replace(path)  # the system refuses this if `path` is a folder with files
        except unless_signalled(OSError):
            check_output_folder(path)  # raises if another writer was first
            with naming(named):
                if _REPLACES_FOLDERS or not path.is_dir():
                    raise
                path.rmdir()  # it is empty
                part.replace(path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
