"""Functions that writers use so that a file or folder is complete under its name, or absent."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from .signals import suppress
from .threads import undisturbed


def temporary_name(path: Path) -> Path:
    """Make a hidden name in the same folder that no other writer uses.

    The process id would not suffice, because a process in another container may have the same one.
    The name is cut, because the name of a file has at most 255 bytes.
    """
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.part")


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to disk, if the file system can do that."""
    # Ctrl-C must not come while the descriptor has no name: it would stay open.
    undisturbed(_sync, folder)


def _sync(folder: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
