"""The command `demo`: the Jacobian of a small real network, checked and drawn."""

from __future__ import annotations

import argparse
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from .. import io, plot
from ..builder import JacobianBuilder
from . import pictures
from .commands import assemble_and_write, print_verdicts
from .common import describe, say


def demo(arguments: argparse.Namespace) -> int:
    """Build and check the Jacobian of a small real network, and draw its pattern."""
    folder: Path = arguments.output
    with resources.as_file(resources.files("sparsejac") / "data" / "les_miserables.mtx") as path:
        # The kernels that are compiled for it serve most matrices that a newcomer has.
        A = io.read_matrix(path).astype(np.float64).tocsr()
    degree = A.sum(axis=0)
    x = 1 / np.sqrt(np.asarray(degree, dtype=np.float64).ravel())
    say(
        "Who meets whom in Les Misérables: A_ij counts the chapters in which characters i and j "
        "appear together."
    )
    say(
        "With x = 1/sqrt(A 1), F(x) = A∘(x xᵀ) is the normalised adjacency matrix that spectral "
        "clustering uses."
    )
    say(
        "Its Jacobian has a row for each entry (i, j) of A, with A_ij x_j in column i and A_ij x_i "
        "in column j."
    )
    say()
    describe("les_miserables.mtx", A)
    folder.mkdir(parents=True, exist_ok=True)
    J = assemble_and_write(A, x, folder / "J.npz", rows="stored", order="C")
    say()
    say(
        "The pattern of Jᵀ, with a dot for each block of entries: the staircase is column i of "
        "each row, and the scatter is column j."
    )
    say(picture(J.T.tocoo(), width=80, height=20))
    say()
    say("Is it right? F is quadratic, so these identities hold up to rounding:")
    code = print_verdicts(A, x, rows="stored", order="C", seed=0)
    say()
    try:
        draw(A, folder / "J.png")
    except ImportError:
        say(
            f"Wrote {folder / 'J.npz'}. To get a picture as well: pip install '.[plot]' in a clone "
            "of the project."
        )
    else:
        say(f"Wrote {folder / 'J.npz'} and {folder / 'J.png'}.")
    return code


def picture(M: Any, *, width: int, height: int) -> str:
    """Draw the pattern of a COO matrix in at most `height` lines of `width` characters.

    The characters are Braille dots, or # if the output cannot encode these.
    """
    try:
        "⣿".encode(getattr(sys.stdout, "encoding", None) or "ascii")
        across, down = 2, 4
    except (UnicodeEncodeError, LookupError):
        across, down = 1, 1
    rows, columns = (
        min(size, limit)
        for size, limit in zip(M.shape, (height * down, width * across), strict=True)
    )
    dots = np.zeros((-(-rows // down) * down, -(-columns // across) * across), np.bool_)
    dots[
        M.row.astype(np.int64) * rows // M.shape[0], M.col.astype(np.int64) * columns // M.shape[1]
    ] = True
    cells = dots.reshape(dots.shape[0] // down, down, -1, across).transpose(0, 2, 1, 3)
    if across == 1:
        return "\n".join("".join("#" if dot else "." for dot in line.ravel()) for line in cells)
    # Unicode numbers the Braille dots in this way.
    weights = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
    return "\n".join(
        "".join(chr(0x2800 + code) for code in line) for line in (cells * weights).sum(axis=(2, 3))
    )


def draw(A: Any, path: Path) -> None:
    left, right = (figure := pictures.new_figure(10, 5)).subplots(1, 2)
    left.spy(A, markersize=2.2, color="black")
    left.set_title("A: who meets whom")
    left.set_xlabel("character j")
    left.set_ylabel("character i")
    left.xaxis.set_ticks_position("bottom")
    plot.pattern(JacobianBuilder(A, rows="stored"), ax=right)
    right.set_title("J: two entries a row, in columns i and j")
    right.set_xlabel("variable x_s")
    right.set_ylabel("entry (i, j) of F")
    pictures.save(figure, path)
