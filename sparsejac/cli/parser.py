"""The options of each command."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any, NoReturn, get_args

from .. import _validation
from .._solvers.scaling_state import Examination
from .._system.version import __version__
from .commands import build, check, fit
from .common import ExitCode
from .compiling import ACCEPTED_DTYPES, compile_kernels
from .demo import demo
from .scaling import scale

_FILES = (
    "Matrix Market (.mtx, .mtx.gz), .npz, .npy, or a folder that build wrote; .npy files and "
    "folders are read block by block"
)
_CODES_OF_SCALE = (
    "Exit code: 0 x scales the matrix; 1 it does not; 2 wrong use; 3 x scales the matrix "
    "without the entries that were dropped (--support drop); 4 some chromosomes have no "
    "scaling (--cis-only). With 1 and 2, nothing is written but a picture. Weights are written "
    "into maps only if the exit code is 0. With "
    "--all, the weights of each map that is balanced are written, and the exit code is 0 if "
    "all are, and otherwise 2 if a map raised an error, or 1, 3 or 4, in this order."
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(ExitCode.MISUSED, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def make_parser() -> argparse.ArgumentParser:
    result = _Parser(
        prog="sparsejac",
        description="The sparse Jacobian of F(x) = A ∘ (x xᵀ), entry by entry A_ij x_i x_j.",
    )
    result.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = result.add_subparsers(
        dest="command", required=True, metavar="build | check | fit | scale | demo | compile"
    )
    _build_options(_command(commands, build))
    _check_options(_command(commands, check))
    _fit_options(_command(commands, fit))
    _scale_options(_command(commands, scale))
    _demo_options(_command(commands, demo))
    _compile_options(_command(commands, compile_kernels, "compile"))
    return result


def _command(commands: Any, run: Any, name: str | None = None) -> argparse.ArgumentParser:
    """Add a command. Its name and its summary are those of the function that runs it."""
    command: argparse.ArgumentParser = commands.add_parser(
        name or run.__name__, help=run.__doc__, description=run.__doc__
    )
    command.set_defaults(run=run)
    return command


def _matrix_argument(to: argparse.ArgumentParser) -> None:
    to.add_argument("A", type=Path, help=f"the k×k matrix, m×n if --bilinear is given: {_FILES}")


def _rank_options(to: argparse.ArgumentParser, verb: str) -> None:
    to.add_argument(
        "--rank", type=_rank, metavar="R", help=f"{verb} A ∘ (X Xᵀ), where X has R columns"
    )
    to.add_argument(
        "--bilinear",
        action="store_true",
        help=f"{verb} A ∘ (X Yᵀ), where A is m×n, X has m rows and Y has n; a .npy has X above Y",
    )


def _memory_option(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--memory",
        type=_bytes,
        metavar="SIZE",
        help=(
            "bytes of memory for a matrix that is read block by block, such as 512MiB (default: "
            "256 MiB of blocks)"
        ),
    )


def _plot_option(to: argparse.ArgumentParser, what: str) -> None:
    to.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help=f"draw {what} as .png, .svg, .pdf or another format of matplotlib",
    )


def _pattern_options(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--rows",
        choices=get_args(_validation.Rows),
        default="stored",
        help="the entries of F that are rows of J (default: %(default)s)",
    )
    to.add_argument(
        "--order",
        choices=get_args(_validation.Order),
        default="C",
        help="order J's rows by the rows of F (C) or by its columns (F) (default: %(default)s)",
    )


def _build_options(to: argparse.ArgumentParser) -> None:
    _matrix_argument(to)
    to.add_argument(
        "X",
        type=Path,
        help=(
            "the vector x of length k: the same formats, also a row or a column; or with --rank "
            "the matrix X, with --bilinear above Y, also from the .npz of a fit"
        ),
    )
    to.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="J.npz|J",
        help=(
            "the file to write; or, if J does not fit into memory, a new folder of .npy files that "
            "NumPy can map, whose name has no dot"
        ),
    )
    _rank_options(to, "take the J of")
    _pattern_options(to)
    _memory_option(to)


def _check_options(to: argparse.ArgumentParser) -> None:
    _matrix_argument(to)
    to.add_argument("X", type=Path, nargs="?", help="as for build (default: small random integers)")
    to.add_argument(
        "--seed", type=_seed, default=0, help="seed of the random vectors (default: %(default)s)"
    )
    _rank_options(to, "take the J of")
    _pattern_options(to)


def _fit_options(to: argparse.ArgumentParser) -> None:
    _matrix_argument(to)
    to.add_argument(
        "Y",
        type=Path,
        help="the matrix Y, zero where a sparse A stores nothing: the same formats",
    )
    to.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="x.npy",
        help=(
            "the file to write; with --rank it may end in .npz, which then holds an array X, and "
            "with --bilinear an array Y; if the fit does not succeed, its last x is written to "
            "x.unfinished.npy instead, from which --x0 can go on"
        ),
    )
    to.add_argument(
        "--x0",
        type=Path,
        metavar="X0",
        help=(
            "a vector to start from, or with --rank a matrix, also the .npz of another fit "
            "(default: a start from the data)"
        ),
    )
    _rank_options(to, "fit")
    to.add_argument(
        "--regularization",
        type=float,
        default=0.0,
        metavar="LAMBDA",
        help="add LAMBDA ‖x‖²/2 to the cost (default: %(default)s)",
    )
    to.add_argument("--nonnegative", action="store_true", help="find the best x ≥ 0")
    to.add_argument(
        "--loss",
        choices=get_args(_validation.LossName),
        default="linear",
        help="how residuals count: all but linear are robust against outliers (default: linear)",
    )
    to.add_argument(
        "--f-scale",
        type=float,
        default=1.0,
        metavar="C",
        help="the size of residuals from which such a loss lets them count less (default: 1)",
    )
    to.add_argument(
        "--tol", type=float, default=1e-9, help="the optimality to reach (default: %(default)s)"
    )
    to.add_argument(
        "--max-iter", type=int, default=200, help="Newton steps at most (default: %(default)s)"
    )
    _memory_option(to)
    to.add_argument(
        "--rows",
        choices=get_args(_validation.Rows),
        default="stored",
        help="the entries that are compared (default: %(default)s)",
    )
    _plot_option(to, "how cost and optimality fell over the passes,")


def _scale_options(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "A",
        metavar="FILE",
        help=(
            f"the matrix: {_FILES}; or a map, FILE.cool, FILE.mcool::/resolutions/10000, "
            "FILE.scool::/cells/NAME, or FILE.matrix or FILE.matrix.gz of HiC-Pro"
        ),
    )
    to.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="x.npy",
        help=(
            "write x, or the weights of a map, with NaN for rows that are left out; for a map also "
            ".tsv or .tsv.gz (chrom, start, end, weight), or .biases or .biases.gz (1/weight, for "
            "Fit-Hi-C)"
        ),
    )
    to.add_argument(
        "--tol",
        type=float,
        default=1e-8,
        help="the relative residual to reach (default: %(default)s)",
    )
    to.add_argument(
        "--max-products", type=int, default=20_000, help="passes at most (default: %(default)s)"
    )
    _memory_option(to)
    _filter_options(to)
    to.add_argument(
        "--support",
        choices=get_args(Examination),
        default="auto",
        help=(
            "when to find out whether a scaling exists: if convergence is slow (auto), at the "
            "start (check), at the start, and then drop entries that prevent one (drop) or leave "
            "out rows until the rest has a scaling (drop_rows), or never (skip) (default: "
            "%(default)s)"
        ),
    )
    to.add_argument(
        "--target",
        type=Path,
        metavar="D",
        help="for a matrix: the row sums, a vector (default: 1)",
    )
    to.add_argument(
        "--uplo",
        choices=get_args(_validation.Uplo),
        help="for a matrix: the file holds the upper or the lower triangle only",
    )
    _plot_option(to, "the matrix before and after, with its row sums,")
    _map_options(to)
    to.epilog = _CODES_OF_SCALE


def _filter_options(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--ignore-diags", type=int, help="diagonals to leave out (default: 2 for a map, else 0)"
    )
    to.add_argument(
        "--min-nnz",
        type=int,
        help="leave out rows with fewer entries (default: 10 for a map, else 0)",
    )
    to.add_argument("--min-count", type=float, default=0.0, help="leave out rows whose sum is less")


def _map_options(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--all",
        action="store_true",
        help="for a .mcool or .scool file: balance each of its maps, with a verdict for each",
    )
    part = to.add_mutually_exclusive_group()
    part.add_argument(
        "--cis-only", action="store_true", help="for a map: balance each chromosome by itself"
    )
    part.add_argument(
        "--trans-only", action="store_true", help="for a map: balance contacts between chromosomes"
    )
    to.add_argument(
        "--mad-max",
        type=float,
        help="for a map: leave out bins with far fewer contacts than others (default: 5)",
    )
    to.add_argument(
        "--blacklist",
        type=Path,
        metavar="FILE.bed",
        help="for a map: leave out bins that overlap with these intervals",
    )
    to.add_argument(
        "--region",
        metavar="REGION",
        help=(
            "for a map: balance this part by itself, such as chr2 or chr2:1,000,000-5,000,000; "
            "other weights are NaN"
        ),
    )
    to.add_argument(
        "--bed",
        type=Path,
        metavar="FILE_abs.bed",
        help="for a .matrix of HiC-Pro: its bins (default: the _abs.bed of the same name)",
    )
    to.add_argument(
        "--rescale",
        action="store_true",
        help="for a map: keep the sum of all contacts, instead of row sums of 1",
    )
    to.add_argument(
        "--write", action="store_true", help="for a map: write the weights into the file"
    )
    to.add_argument("--name", help="for a map: the column to write (default: weight)")
    to.add_argument("--force", action="store_true", help="for a map: replace a column of this name")


def _demo_options(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("sparsejac-demo"),
        metavar="FOLDER",
        help="where to write (default: %(default)s)",
    )


def _compile_options(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--dtype",
        nargs="+",
        action="extend",
        choices=ACCEPTED_DTYPES,
        metavar="DTYPE",
        help=f"the dtypes of the matrices: {', '.join(ACCEPTED_DTYPES)} (default: float64)",
    )
    to.add_argument(
        "--rank",
        nargs="+",
        action="extend",
        type=_rank,
        default=[],
        metavar="R",
        help="also the kernels for so many columns of variables; those for 9 take more, too",
    )
    to.epilog = (
        "The kernels are written beside the package. Where that is not possible, Numba keeps them "
        "in a folder of this user, or in the one that NUMBA_CACHE_DIR names. They are for this "
        "kind of processor: for others, set NUMBA_CPU_NAME and NUMBA_CPU_FEATURES, here and where "
        "sparsejac runs. Kernels for rarer kinds, such as CSR with int64 indices, are compiled at "
        "their first use."
    )


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be an integer, 0 or more, got {text!r}")
    return int(text)


def _rank(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be an integer, 1 or more, got {text!r}")
    return int(text)


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]i?)?B?", text.strip(), re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(
            f"must be a number of bytes, such as 512MiB or 2GB, got {text!r}"
        )
    unit = (match[2] or "").lower()
    base = 1024 if unit.endswith("i") else 1000
    return int(float(match[1]) * base ** (" kmgt".index(unit[0]) if unit else 0))
