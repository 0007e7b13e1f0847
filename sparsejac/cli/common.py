"""Functions that the commands share: exit codes, printing, checks of files, progress bars."""

from __future__ import annotations

import argparse
import contextlib
import enum
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import _validation, io
from .._kernels import listeners
from .._matrix import map_files
from .._system import machine, outputs
from .._system.progress import bar
from . import hints


class ExitCode(enum.IntEnum):
    """The exit codes of the command."""

    DONE = 0
    FAILED = 1  # a check, a fit or a scaling did not succeed
    MISUSED = 2  # an option, a file or a matrix is not accepted
    DROPPED = 3  # x scales the matrix without the entries that were dropped
    IN_PART = 4  # some chromosomes of a map have no scaling
    INTERRUPTED = 130  # as shells report Ctrl-C


def say(text: str = "") -> None:
    """Print a line. If its reader has closed the pipe, the command goes on without output."""
    try:
        print(text, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise


def as_typed(message: str, arguments: argparse.Namespace, more: Iterable[str] = ()) -> str:
    """Write the options in a message as users type them, and leave names of files unchanged."""
    given = set(more)
    for value in vars(arguments).values():
        if isinstance(value, (str, Path)):
            path = str(value)
            for name in (path, map_files.split(path)[0]):
                given |= {name, Path(name).name, os.path.realpath(name), " ".join(name.split())}
    return hints.adapted(message, vars(arguments), shell=True, given=given)


def check_output(output: Path, suffix: str, sources: Sequence[Path]) -> None:
    for source in sources:
        if output.exists() and source.exists() and output.samefile(source):
            raise ValueError(f"the output {output} is also an input: choose another name")
        if source.is_dir() and source.resolve() in output.resolve().parents:
            raise ValueError(
                f"the output {output} is in a folder that is an input: choose another name"
            )
    if suffix == ".npz" and output.suffix != suffix:
        if output.suffix:
            raise ValueError(
                "the output must end in .npz, or be the name of a new folder, without a dot, got "
                f"{output}"
            )
        outputs.check_output_folder(output)
    else:
        outputs.check_output(output, suffix)


def refuse_maps(*paths: Path) -> None:
    for path in paths:
        if map_files.is_map(path):
            raise ValueError(
                f"{path} is a contact map, which only sparsejac scale takes: in Python, "
                "JacobianBuilder, LeastSquares, fit and RowSums take its path"
            )


def read_point(path: Path, A: Any, arguments: argparse.Namespace) -> Any:
    """Read x, or, with --rank, a matrix X, or, with --bilinear, the X and Y of a fit."""
    if arguments.rank is None:
        return io.read_vector(path)
    return io._read_variables(path, tuple(A.shape) if arguments.bilinear else None)


def read_by_rows(path: Path, order: _validation.Order, memory: int | None) -> Any:
    """Read a matrix so that its rows, or with ``order="F"`` its columns, are contiguous.

    A matrix that is stored in the other order is loaded if it fits into memory.
    """
    A = io.read_matrix(path)
    if isinstance(A, np.memmap) and not A.flags[order]:
        available = machine.available_memory() if memory is None else memory
        if available is not None and 2 * A.nbytes < available:
            return np.array(A, order=order)
    return A


@contextlib.contextmanager
def compilation_noticed(command: str) -> Iterator[None]:
    """Say on stderr, once, if kernels are compiled: a user may wait for half a minute."""
    text = "compiling the kernels for this kind of matrix, which takes 5 to 30 seconds once"
    notices = [] if command == "compile" else [f"sparsejac {command}: {text}"]

    def notice(_: str) -> None:
        with contextlib.suppress(OSError, IndexError):
            print(notices.pop(), file=sys.stderr)

    listeners.append(notice)
    try:
        yield
    finally:
        listeners.remove(notice)


def describe(name: str, A: Any) -> None:
    stored = f"{A.nnz} stored entries" if hasattr(A, "nnz") else "dense"
    say(f"A: {name}, {A.shape[0]} x {A.shape[1]}, {stored}, {A.dtype}")


def progress(**options: Any) -> Any:
    # The bar appears only on a terminal, and only after two seconds, because it does not count the
    # compilation of kernels.
    return bar(delay=2, disable=None, unit_scale=True, **options)


def counting(file: Any, bar: Any) -> Any:
    from tqdm.utils import CallbackIOWrapper

    return CallbackIOWrapper(bar.update, file, "write")
