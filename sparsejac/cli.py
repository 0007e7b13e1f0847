"""The command ``sparsejac``: build a Jacobian from files, check it, fit or scale a matrix, and a demonstration."""

from __future__ import annotations

import argparse
import enum
import io as io_module
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn, get_args

import numpy as np

from . import _validation, io, testing
from ._matrix import columns, pixels
from ._operators.stored import StoredCSR
from ._solvers.scaling_state import Examination
from ._solvers.status import ScalingStatus
from ._system import machine, outputs
from ._system.progress import bar as _progress_bar
from ._system.version import __version__
from .fitting import fit
from .jacobian import JacobianBuilder
from .scaling import symmetric_scaling


class ExitCode(enum.IntEnum):
    """What the command returns to the shell."""

    DONE = 0
    FAILED = 1  # a check, a fit or a scaling did not succeed
    MISUSED = 2  # an option, a file or a matrix cannot be taken
    DROPPED = 3  # x scales the matrix without the entries that were dropped
    IN_PART = 4  # some chromosomes of a map have no scaling
    INTERRUPTED = 130  # as shells report Ctrl-C


_CODES = {
    ScalingStatus.ENTRIES_DROPPED: ExitCode.DROPPED,
    ScalingStatus.IN_PART: ExitCode.IN_PART,
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(ExitCode.MISUSED, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str, optional
        Its arguments. Default: those of the process.

    Returns
    -------
    code : int
        0 done, 1 a check failed, or a fit or a scaling that did not come to its end, 2 wrong use: an option, a file or a matrix that cannot be taken, 3 a
        scaling after dropping entries, 4 a map of which some chromosomes have no scaling.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io_module.TextIOWrapper):  # a terminal that has no ∘ shows ?
            stream.reconfigure(errors="replace")
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except (OSError, ValueError, TypeError, MemoryError, ImportError) as error:
        message = " ".join(str(error).split()) or type(error).__name__
        message = _fitting(message, arguments)
        print(f"sparsejac {arguments.command}: error: {message}", file=sys.stderr)
        return ExitCode.MISUSED
    except KeyboardInterrupt:
        print(f"sparsejac {arguments.command}: interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED
    return code


def _fitting(message: str, arguments: argparse.Namespace, more: Iterable[str] = ()) -> str:
    """A message with options as they are typed, and names of files as they are, in each form in which messages have them."""
    given = set(more)
    for value in vars(arguments).values():
        if isinstance(value, (str, Path)):
            path = str(value)
            for name in (path, pixels.split(path)[0]):
                given |= {name, Path(name).name, os.path.realpath(name), " ".join(name.split())}
    return _validation.fitting(message, vars(arguments), shell=True, given=given)


def _say(text: str = "") -> None:
    """Print a line. A reader that has seen enough does not stop the work, nor change what it comes to."""
    try:
        print(text, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sparsejac",
        description="The sparse Jacobian of F(x) = A ∘ (x xᵀ), entry by entry A_ij x_i x_j.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="build | check | fit | scale | demo"
    )
    files = "Matrix Market (.mtx, .mtx.gz), .npz, .npy, or a folder of row blocks (the last two are read block by block)"

    def command(name: str, run: Any, summary: str) -> argparse.ArgumentParser:
        result = commands.add_parser(name, help=summary, description=summary)
        result.set_defaults(run=run)
        return result

    def memory_option(to: argparse.ArgumentParser) -> None:
        to.add_argument(
            "--memory",
            type=_bytes,
            metavar="SIZE",
            help="what may be held of a matrix that is read block by block, such as 512MiB (default: 256 MiB of blocks)",
        )

    def pattern_options(to: argparse.ArgumentParser) -> None:
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
            help="rows by rows of F (C) or by its columns (F) (default: %(default)s)",
        )

    build = command(
        "build",
        _build,
        "Write the Jacobian at x as a CSR matrix for scipy.sparse.load_npz, or as a folder of such row blocks.",
    )
    build.add_argument("A", type=Path, help=f"the k×k matrix: {files}")
    build.add_argument(
        "X", type=Path, help="the vector x of length k: the same formats, a row or a column too"
    )
    build.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="J.npz|J",
        help="the file to write, or, by a name without a dot, a new folder of row blocks: for what does not fit into memory",
    )
    pattern_options(build)
    memory_option(build)

    check = command(
        "check",
        _check,
        "Verify the Jacobian of your own matrix: exact identities, adjoint, CSR against operator.",
    )
    check.add_argument("A", type=Path, help=f"the k×k matrix: {files}")
    check.add_argument(
        "X", type=Path, nargs="?", help="the vector x of length k (default: small random integers)"
    )
    check.add_argument(
        "--seed", type=_seed, default=0, help="of the random vectors (default: %(default)s)"
    )
    pattern_options(check)

    fit = command(
        "fit",
        _fit,
        "Find the x for which A ∘ (x xᵀ) is nearest to Y: weighted rank-one approximation.",
    )
    fit.add_argument("A", type=Path, help=f"the k×k matrix: {files}")
    fit.add_argument(
        "Y",
        type=Path,
        help="the k×k matrix Y, zero where a sparse A stores nothing: the same formats",
    )
    fit.add_argument(
        "-o", "--output", type=Path, required=True, metavar="x.npy", help="the file to write"
    )
    fit.add_argument(
        "--x0",
        type=Path,
        metavar="X0",
        help="a vector to start from (default: a start from the data)",
    )
    fit.add_argument(
        "--tol", type=float, default=1e-9, help="the optimality to reach (default: %(default)s)"
    )
    fit.add_argument(
        "--max-iter", type=int, default=200, help="Newton steps at most (default: %(default)s)"
    )
    memory_option(fit)
    fit.add_argument(
        "--rows",
        choices=get_args(_validation.Rows),
        default="stored",
        help="the entries that are compared (default: %(default)s)",
    )

    scale = command(
        "scale",
        _scale,
        "Find the x > 0 for which x ∘ (A x) = target: scale a symmetric matrix, or balance a Hi-C contact map.",
    )
    scale.add_argument(
        "A",
        metavar="FILE",
        help=f"the matrix: {files}; or a map, FILE.cool, FILE.mcool::/resolutions/10000 or FILE.scool::/cells/NAME",
    )
    scale.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="x.npy",
        help="write x, of a map its weights, NaN where a row is left out",
    )
    scale.add_argument(
        "--tol",
        type=float,
        default=1e-8,
        help="the relative residual to reach (default: %(default)s)",
    )
    scale.add_argument(
        "--max-products", type=int, default=20_000, help="passes at most (default: %(default)s)"
    )
    memory_option(scale)
    scale.add_argument(
        "--ignore-diags", type=int, help="diagonals to leave out (default: 2 of a map, else 0)"
    )
    scale.add_argument(
        "--min-nnz",
        type=int,
        help="leave out rows with fewer entries (default: 10 of a map, else 0)",
    )
    scale.add_argument(
        "--min-count", type=float, default=0.0, help="leave out rows whose sum is less"
    )
    scale.add_argument(
        "--support",
        choices=get_args(Examination),
        default="auto",
        help="when to find out whether a scaling exists: if it is slow, first, first and drop entries that are in the way, first and leave "
        "out rows until the rest has a scaling, never (default: %(default)s)",
    )
    scale.add_argument(
        "--target", type=Path, metavar="D", help="of a matrix: its row sums, a vector (default: 1)"
    )
    scale.add_argument(
        "--uplo",
        choices=get_args(_validation.Uplo),
        help="of a matrix: the file has one triangle only",
    )
    part = scale.add_mutually_exclusive_group()
    part.add_argument("--cis-only", action="store_true", help="of a map: each chromosome by itself")
    part.add_argument(
        "--trans-only", action="store_true", help="of a map: contacts between chromosomes"
    )
    scale.add_argument(
        "--mad-max",
        type=float,
        help="of a map: leave out bins with far fewer contacts (default: 5)",
    )
    scale.add_argument(
        "--blacklist",
        type=Path,
        metavar="FILE.bed",
        help="of a map: leave out bins that overlap with these intervals",
    )
    scale.add_argument(
        "--write", action="store_true", help="of a map: write the weights into the file"
    )
    scale.add_argument("--name", help="of a map: the column to write (default: weight)")
    scale.add_argument(
        "--force", action="store_true", help="of a map: replace a column of this name"
    )

    scale.epilog = (
        "Exit code: 0 x scales the matrix; 1 it does not; 2 wrong use; 3 x scales what is left after dropping entries (--support drop), and not the "
        "matrix; 4 some chromosomes have no scaling (--cis-only). Weights are written on 0 only."
    )

    demo = command(
        "demo", _demo, "Build and check the Jacobian of a small real network, and draw its pattern."
    )
    demo.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("sparsejac-demo"),
        metavar="FOLDER",
        help="where to write (default: %(default)s)",
    )
    return parser


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be an integer, 0 or more, got {text!r}")
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


# --- build ----------------------------------------------------------------------------------------------------------


def _build(arguments: argparse.Namespace) -> int:
    output: Path = arguments.output
    _check_output(output, ".npz", [arguments.A, arguments.X])
    _refuse_maps(arguments.A)
    A, x = (
        _read_by_rows(arguments.A, arguments.order, arguments.memory),
        io.read_vector(arguments.X),
    )
    _describe(arguments.A.name, A)
    _assemble_and_write(
        A, x, output, rows=arguments.rows, order=arguments.order, memory=arguments.memory
    )
    return ExitCode.DONE


def _assemble_and_write(
    A: Any,
    x: Any,
    output: Path,
    *,
    rows: _validation.Rows,
    order: _validation.Order,
    memory: int | None = None,
) -> Any:
    """Write J, whole or as a folder of row blocks; the whole of it is returned."""
    builder = JacobianBuilder(
        A, rows=rows, order=order, memory=memory, progress=sys.stderr.isatty()
    )
    m, k = builder.shape
    _say(f"J: {m} x {k}, {builder.nnz} stored entries, rows={rows}, order={order}")
    started = time.perf_counter()
    if output.suffix == ".npz":
        with _progress(total=2 * builder._pattern.entries, desc="assembling", unit="") as bar:
            builder._rows.tick = bar.update
            try:
                J = builder.tocsr(x)
            except MemoryError as error:
                raise MemoryError(
                    f"{error}; or write it block by block: name a new folder, as in -o J"
                ) from None
            finally:
                builder._rows.tick = None
        assembled = time.perf_counter()
        nbytes = J.data.nbytes + J.indices.nbytes + J.indptr.nbytes
        with _progress(total=nbytes, desc="writing", unit="B") as bar:
            io.write_csr(output, J, wrap=lambda file: _counting(file, bar))
        took = f"assembled in {assembled - started:.3f} s, compiling included, written to {output} in {time.perf_counter() - assembled:.3f} s"
        kinds = f"in {J.data.dtype} and {J.indices.dtype}"
    else:
        J, nbytes, blocks = None, 0, 0
        with _progress(total=m, desc="writing", unit=" rows") as bar:

            def counted() -> Iterator[tuple[int, Any]]:
                nonlocal nbytes, blocks
                for first_row, block in builder.iter_csr(x):
                    nbytes += block.data.nbytes + block.indices.nbytes + block.indptr.nbytes
                    blocks += 1
                    yield first_row, block
                    bar.update(block.shape[0])

            io.write_csr_blocks(output, counted(), shape=builder.shape)
        took = f"assembled and written to the folder {output} in {time.perf_counter() - started:.3f} s, compiling included"
        kinds = f"in {blocks} blocks of rows"
    peak = machine.peak_memory()
    _say(
        f"   {nbytes} bytes ({_validation.human_bytes(nbytes)}) {kinds}; {took}; "
        f"peak memory {'unknown' if peak is None else _validation.human_bytes(peak)}"
    )
    return J


def _check_output(output: Path, suffix: str, sources: Sequence[Path]) -> None:
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
                f"the output must end in .npz, or be the name of a new folder, without a dot, got {output}"
            )
        outputs.check_output_folder(output)
    else:
        outputs.check_output(output, suffix)


def _refuse_maps(*paths: Path) -> None:
    for path in paths:
        if pixels.is_map(path):
            raise ValueError(
                f"{path} is a contact map, which only sparsejac scale takes: in Python, JacobianBuilder, LeastSquares, fit and RowSums take its path"
            )


def _read_by_rows(path: Path, order: _validation.Order, memory: int | None) -> Any:
    """A matrix whose rows, or with ``order="F"`` whose columns, can be read: one that lies the other way in its file is loaded, if it fits."""
    A = io.read_matrix(path)
    if isinstance(A, np.memmap) and not (
        A.flags.c_contiguous if order == "C" else A.flags.f_contiguous
    ):
        room = machine.available_memory() if memory is None else memory
        if room is not None and 2 * A.nbytes < room:
            return np.array(A, order=order)
    return A


def _describe(name: str, A: Any) -> None:
    stored = f"{A.nnz} stored entries" if hasattr(A, "nnz") else "dense"
    _say(f"A: {name}, {A.shape[0]} x {A.shape[1]}, {stored}, {A.dtype}")


def _progress(**options: Any) -> Any:
    # Seen on a terminal only, and only if it takes long: compiling the kernels for the first time is not what it counts.
    return _progress_bar(delay=2, disable=None, unit_scale=True, **options)


def _counting(file: Any, bar: Any) -> Any:
    from tqdm.utils import CallbackIOWrapper

    return CallbackIOWrapper(bar.update, file, "write")


# --- check ----------------------------------------------------------------------------------------------------------


def _check(arguments: argparse.Namespace) -> int:
    _refuse_maps(arguments.A)
    A = io.read_matrix(arguments.A)
    x = None if arguments.X is None else io.read_vector(arguments.X)
    _describe(arguments.A.name, A)
    A = A[:] if isinstance(A, StoredCSR) else A  # the checks look at entries one by one
    return _print_verdicts(A, x, rows=arguments.rows, order=arguments.order, seed=arguments.seed)


def _print_verdicts(
    A: Any, x: Any, *, rows: _validation.Rows, order: _validation.Order, seed: int
) -> int:
    passed = []
    for check in testing.verdicts(A, x, rows=rows, order=order, seed=seed):
        passed.append(check.passed)
        verdict = "holds" if check.passed else "FAILS"
        _say(f"   {verdict}  {check.name:<36} error {check.error:.2g} of what rounding allows")
    _say(f"{sum(passed)} of {len(passed)} checks hold")
    return ExitCode.DONE if all(passed) else ExitCode.FAILED


# --- fit ------------------------------------------------------------------------------------------------------------


def _fit(arguments: argparse.Namespace) -> int:
    output: Path = arguments.output
    _check_output(
        output,
        ".npy",
        [path for path in (arguments.A, arguments.Y, arguments.x0) if path is not None],
    )
    _refuse_maps(arguments.A, arguments.Y)
    A, Y = io.read_matrix(arguments.A), io.read_matrix(arguments.Y)
    x0 = None if arguments.x0 is None else io.read_vector(arguments.x0)
    _describe(arguments.A.name, A)
    started = time.perf_counter()
    result = fit(
        A,
        Y,
        x0,
        rows=arguments.rows,
        tol=arguments.tol,
        max_iter=arguments.max_iter,
        memory=arguments.memory,
        progress=sys.stderr.isatty(),
    )
    seconds = time.perf_counter() - started
    _say(f"fit: {result.message}")
    _say(
        f"   cost ½‖A∘xxᵀ - Y‖² = {result.cost:.10g} after {result.nit} steps, {result.nfev + result.n_products} passes over A, "
        f"in {seconds:.3f} s, compiling included"
    )
    io.write_vector(output, result.x)
    _say(f"   x written to {output}")
    return ExitCode.DONE if result.success else ExitCode.FAILED


# --- scale ----------------------------------------------------------------------------------------------------------


def _scale(arguments: argparse.Namespace) -> int:
    is_map = pixels.is_map(arguments.A)
    path = Path(pixels.split(arguments.A)[0] if is_map else arguments.A)
    target: Path | None = arguments.target
    if arguments.output is not None:
        _check_output(arguments.output, ".npy", [path] if target is None else [path, target])
    options = {
        "tol": arguments.tol,
        "max_products": arguments.max_products,
        "min_count": arguments.min_count,
        "support": arguments.support,
        "memory": arguments.memory,
        "progress": sys.stderr.isatty(),
    }
    options |= {
        name: getattr(arguments, name)
        for name in ("ignore_diags", "min_nnz")
        if getattr(arguments, name) is not None
    }
    of_maps = ("cis_only", "trans_only", "mad_max", "blacklist", "write", "name", "force")
    foreign = ("target", "uplo") if is_map else of_maps
    for name in foreign:
        given = getattr(arguments, name)
        if given is not None and given is not False:
            kind, other = ("matrices", "a contact map") if is_map else ("contact maps", "a matrix")
            raise ValueError(
                f"--{name.replace('_', '-')} is for {kind}, and {arguments.A} is {other}"
            )
    if not arguments.write and (arguments.name is not None or arguments.force):
        raise ValueError("--name and --force say how to write: pass --write as well")
    name = "weight" if arguments.name is None else arguments.name
    started = time.perf_counter()
    read_from = None
    if arguments.write:
        from . import cool

        columns.check_name(name)
        read_from = cool.prepare(arguments.A, name, overwrite=arguments.force)
    result = _scale_map(arguments, options) if is_map else _scale_matrix(arguments, options)
    seconds = time.perf_counter() - started
    _say(f"scale: {_fitting(result.message, arguments, getattr(result, 'unscaled', []))}")
    _say(
        f"   {np.count_nonzero(result.kept)} of {result.kept.size} rows, {result.n_products} passes over A, "
        f"in {seconds:.3f} s, reading and compiling included"
    )
    if arguments.output is not None:
        io.write_vector(arguments.output, result.weight if is_map else result.x)
        _say(f"   {'weights' if is_map else 'x'} written to {arguments.output}")
    if arguments.write and result.success:
        cool.write_balanced(arguments.A, result, name, overwrite=arguments.force, read=read_from)
        how = ", as 1/weight, by which cooler divides" if name in columns.DIVISIVE else ""
        _say(f'   weights written to column "{name}" of {arguments.A}{how}')
    return ExitCode.DONE if result.success else _CODES.get(result.status, ExitCode.FAILED)


def _scale_matrix(arguments: argparse.Namespace, options: dict[str, Any]) -> Any:
    A = io.read_matrix(arguments.A)
    d = 1.0 if arguments.target is None else io.read_vector(arguments.target)
    _describe(Path(arguments.A).name, A)
    return symmetric_scaling(A, d, uplo=arguments.uplo, **options)


def _scale_map(arguments: argparse.Namespace, options: dict[str, Any]) -> Any:
    from . import cool

    if arguments.blacklist is not None:
        options["blacklist"] = arguments.blacklist
    if arguments.mad_max is not None:
        options["mad_max"] = arguments.mad_max
    return cool.balance(
        arguments.A, cis_only=arguments.cis_only, trans_only=arguments.trans_only, **options
    )


# --- demo -----------------------------------------------------------------------------------------------------------


def _demo(arguments: argparse.Namespace) -> int:
    folder: Path = arguments.output
    with resources.as_file(resources.files("sparsejac") / "data" / "les_miserables.mtx") as path:
        A = io.read_matrix(path).tocsr()
    degree = A.sum(axis=0)
    x = 1 / np.sqrt(np.asarray(degree, dtype=np.float64).ravel())
    _say(
        "Who meets whom in Les Misérables: A_ij counts the chapters in which characters i and j appear together."
    )
    _say(
        "With x = 1/sqrt(A 1), F(x) = A∘(x xᵀ) is the normalised adjacency matrix of spectral clustering."
    )
    _say(
        "Its Jacobian by x has a row for each entry (i, j) of A, with A_ij x_j in column i and A_ij x_i in column j."
    )
    _say()
    _describe("les_miserables.mtx", A)
    folder.mkdir(parents=True, exist_ok=True)
    J = _assemble_and_write(A, x, folder / "J.npz", rows="stored", order="C")
    _say()
    _say(
        "The pattern of Jᵀ, a dot for each block of entries: the staircase is column i of each row, the scatter column j."
    )
    _say(_picture(J.T.tocoo(), width=80, height=20))
    _say()
    _say("Is it right? F is quadratic, so these identities hold to the last rounding error:")
    code = _print_verdicts(A, x, rows="stored", order="C", seed=0)
    _say()
    try:
        _draw(A, J, folder / "J.png")
    except ImportError:
        _say(
            f"Wrote {folder / 'J.npz'}. For a picture as well: pip install '.[plot]' in a clone of the project."
        )
    else:
        _say(f"Wrote {folder / 'J.npz'} and {folder / 'J.png'}.")
    return code


def _picture(M: Any, *, width: int, height: int) -> str:
    """The pattern of a COO matrix in at most `height` lines of `width` characters: Braille dots, or # where they cannot be shown."""
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
    weights = np.array(
        [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]]
    )  # Unicode's numbering of the dots
    return "\n".join(
        "".join(chr(0x2800 + code) for code in line) for line in (cells * weights).sum(axis=(2, 3))
    )


def _draw(A: Any, J: Any, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1])
    left.spy(A, markersize=2.2, color="black")
    left.set_title("A: who meets whom")
    left.set_xlabel("character j")
    left.set_ylabel("character i")
    right.spy(J, markersize=1.2, color="black", aspect="auto")
    right.set_title("J: two entries a row, in columns i and j")
    right.set_xlabel("variable x_s")
    right.set_ylabel("entry (i, j) of F")
    for axes in (left, right):
        axes.xaxis.set_ticks_position("bottom")
    with outputs.complete_or_absent(path) as file:
        figure.savefig(file, format="png", dpi=120)
