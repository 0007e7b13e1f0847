"""Pictures that the commands write."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import _validation
from .._system import outputs
from .._system.signals import unless_signalled
from .common import check_output

_DPI = 120


def new_figure(width: float, height: float) -> Any:
    """A figure of so many inches, which pyplot does not know, so that no window opens."""
    _validation.matplotlib_is_there()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def check_picture(path: Path, sources: Sequence[Path]) -> None:
    """Refuse a picture that cannot be written, before any work is done."""
    figure = new_figure(1, 1)
    try:  # a format may need a program or a package that is missing
        figure.savefig(io.BytesIO(), format=path.suffix[1:])
    except unless_signalled(Exception) as error:
        raise ValueError(
            "the picture must end in what matplotlib can write, such as .png, .svg or .pdf, got "
            f"{path} ({error})"
        ) from error
    check_output(path, path.suffix, sources)


def save(figure: Any, path: Path) -> None:
    """Write a picture under its name, whole or not at all."""
    with outputs.complete_or_absent(path) as file:
        figure.savefig(file, format=path.suffix[1:], dpi=_DPI)
