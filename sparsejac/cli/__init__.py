"""The command ``sparsejac``: build a Jacobian from files, check it, fit or scale a matrix."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from .common import ExitCode, as_typed, compilation_noticed
from .parser import make_parser

__all__ = ["ExitCode", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments. Default: those of the process.

    Returns
    -------
    code : int
        0 on success; 1 if a check, a fit or a scaling did not succeed; 2 if an option, a file or a
        matrix is not accepted; 3 if a scaling dropped entries; 4 if some chromosomes of a map have
        no scaling; 130 after Ctrl-C.
    """
    if sys.stderr is None:  # it was closed: messages and bars go nowhere
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  # it stays open, as stderr does
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that has no ∘ shows ? instead
            stream.reconfigure(errors="replace")
    arguments = make_parser().parse_args(argv)
    try:
        with compilation_noticed(arguments.command):
            code: int = arguments.run(arguments)
    except (OSError, ValueError, TypeError, MemoryError, ImportError) as error:
        message = " ".join(str(error).split()) or type(error).__name__
        message = as_typed(message, arguments)
        print(f"sparsejac {arguments.command}: error: {message}", file=sys.stderr)
        return ExitCode.MISUSED
    except KeyboardInterrupt as interruption:
        _delete_locals(interruption)
        print(f"sparsejac {arguments.command}: interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED
    return code


def _delete_locals(interruption: KeyboardInterrupt) -> None:
    """Delete what was at work, and let nothing say so.

    An object that was interrupted while it was made may raise an error when it is deleted, as a
    ZipFile does. Python would print that.
    """
    before, sys.unraisablehook = sys.unraisablehook, lambda _: None
    traceback.clear_frames(interruption.__traceback__)
    sys.unraisablehook = before
