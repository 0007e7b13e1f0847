"""The commands `build`, `check` and `fit`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .. import _identities, _validation, io, plot
from .._system import machine
from .._system.outputs import complete_or_absent
from .._validation import Order, Rows
from ..builder import JacobianBuilder
from ..fitting import fit as solve
from . import pictures
from .common import (
    ExitCode,
    check_output,
    counting,
    describe,
    progress,
    read_by_rows,
    read_point,
    refuse_maps,
    say,
)


def build(arguments: argparse.Namespace) -> int:
    """Write the Jacobian at x as one CSR file, or block by block as a folder."""
    output: Path = arguments.output
    check_output(output, ".npz", [arguments.A, arguments.X])
    refuse_maps(arguments.A)
    A = read_by_rows(arguments.A, arguments.order, arguments.memory)
    x = read_point(arguments.X, A, arguments)
    describe(arguments.A.name, A)
    assemble_and_write(A, x, output, memory=arguments.memory, **_form(arguments))
    return ExitCode.DONE


def _form(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments of a builder that say which J is meant."""
    return {name: getattr(arguments, name) for name in ("rows", "order", "rank", "bilinear")}


def assemble_and_write(
    A: Any,
    x: Any,
    output: Path,
    *,
    rows: Rows,
    order: Order,
    rank: int | None = None,
    bilinear: bool = False,
    memory: int | None = None,
) -> Any:
    """Write J as one file and return it, or write a folder block by block and return None."""
    builder = JacobianBuilder(
        A,
        rank=rank,
        bilinear=bilinear,
        rows=rows,
        order=order,
        memory=memory,
        progress=sys.stderr.isatty(),
    )
    m, columns = builder.shape
    say(f"J: {m} x {columns}, {builder.nnz} stored entries, rows={rows}, order={order}")
    J = None
    if output.suffix == ".npz":
        J, nbytes, how = _write_whole(builder, x, output)
    else:
        nbytes, how = _write_blocks(builder, x, output)
    peak = machine.peak_memory()
    say(
        f"   {nbytes} bytes ({_validation.human_bytes(nbytes)}) {how}; "
        f"peak memory {'unknown' if peak is None else _validation.human_bytes(peak)}"
    )
    return J


def _write_whole(builder: JacobianBuilder, x: Any, output: Path) -> tuple[Any, int, str]:
    """Write J as one file. Returns J, its number of bytes, and a description."""
    started = time.perf_counter()
    with progress(total=2 * builder._pattern.entries, desc="assembling", unit="") as bar:
        builder._rows.on_progress = bar.update
        try:
            J = builder.tocsr(x)
        except MemoryError as error:
            raise MemoryError(
                f"{error}; or write it block by block: name a new folder, as in -o J"
            ) from None
        finally:
            builder._rows.on_progress = None
    assembled = time.perf_counter()
    nbytes = J.data.nbytes + J.indices.nbytes + J.indptr.nbytes
    with progress(total=nbytes, desc="writing", unit="B") as bar:
        io.write_csr(output, J, wrap=lambda file: counting(file, bar))
    written = time.perf_counter()
    return (
        J,
        nbytes,
        (
            f"in {J.data.dtype} and {J.indices.dtype}; assembled in {assembled - started:.3f} s, "
            f"compiling included, written to {output} in {written - assembled:.3f} s"
        ),
    )


def _write_blocks(builder: JacobianBuilder, x: Any, output: Path) -> tuple[int, str]:
    """Write J block by block as a folder. Returns its number of bytes, and a description."""
    started = time.perf_counter()
    blocks = 0
    with progress(total=builder.shape[0], desc="writing", unit=" rows") as bar:

        def counted() -> Iterator[tuple[int, Any]]:
            nonlocal blocks
            for first_row, block in builder.iter_csr(x):
                blocks += 1
                yield first_row, block
                bar.update(block.shape[0])

        io.write_csr_blocks(output, counted(), shape=builder.shape)
    seconds = time.perf_counter() - started
    nbytes = sum(file.stat().st_size for file in output.iterdir())
    return nbytes, (
        f"in {blocks} blocks of rows; assembled and written to the folder {output} in "
        f"{seconds:.3f} s, compiling included"
    )


def check(arguments: argparse.Namespace) -> int:
    """Verify the Jacobian of your own matrix by exact identities."""
    refuse_maps(arguments.A)
    A = io.read_matrix(arguments.A)
    x = None if arguments.X is None else read_point(arguments.X, A, arguments)
    describe(arguments.A.name, A)
    return print_verdicts(A, x, seed=arguments.seed, **_form(arguments))


def print_verdicts(A: Any, x: Any, **options: Any) -> int:
    passed = []
    for check in _identities.verdicts(A, x, **options):
        passed.append(check.passed)
        verdict = "holds" if check.passed else "FAILS"
        say(f"   {verdict}  {check.name:<36} error {check.error:.2g} of what rounding allows")
    say(f"{sum(passed)} of {len(passed)} checks hold")
    return ExitCode.DONE if all(passed) else ExitCode.FAILED


def fit(arguments: argparse.Namespace) -> int:
    """Find the x for which A ∘ (x xᵀ) is nearest to Y: weighted low-rank approximation."""
    output: Path = arguments.output
    several = arguments.rank is not None
    if output.suffix == ".npz" and not several:
        raise ValueError(f"{output} would hold a matrix X: give --rank, or a name with .npy")
    suffix = ".npz" if output.suffix == ".npz" else ".npy"
    inputs = [path for path in (arguments.A, arguments.Y, arguments.x0) if path is not None]
    unfinished = output.with_name(f"{output.stem}.unfinished{suffix}")
    check_output(output, suffix, inputs)
    check_output(unfinished, suffix, [arguments.A, arguments.Y])  # --x0 may be replaced
    if arguments.plot is not None:
        pictures.check_picture(arguments.plot, inputs)
    refuse_maps(arguments.A, arguments.Y)
    A, Y = io.read_matrix(arguments.A), io.read_matrix(arguments.Y)
    x0 = None if arguments.x0 is None else read_point(arguments.x0, A, arguments)
    describe(arguments.A.name, A)
    started = time.perf_counter()
    result = solve(
        A,
        Y,
        x0,
        rows=arguments.rows,
        tol=arguments.tol,
        max_iter=arguments.max_iter,
        memory=arguments.memory,
        progress=sys.stderr.isatty(),
        rank=arguments.rank,
        bilinear=arguments.bilinear,
        regularization=arguments.regularization,
        loss=arguments.loss,
        f_scale=arguments.f_scale,
        bounds=(0, np.inf) if arguments.nonnegative else None,
    )
    seconds = time.perf_counter() - started
    say(f"fit: {result.message}")
    F = "XYᵀ" if arguments.bilinear else "XXᵀ" if several else "xxᵀ"
    more = " + ½λ‖x‖²" if arguments.regularization else ""
    cost = f"½‖A∘{F} - Y‖²" if arguments.loss == "linear" else f"of the {arguments.loss} loss"
    say(
        f"   cost {cost}{more} = {result.cost:.10g} after {result.nit} steps, "
        f"{result.nfev + result.n_products} passes over A, in {seconds:.3f} s, compiling included"
    )
    _write_fitted(output if result.success else unfinished, result, arguments, A.shape[0])
    if arguments.plot is not None:
        figure = pictures.new_figure(7, 5)
        plot.convergence(result, ax=figure.subplots())
        pictures.save(figure, arguments.plot)
        say(f"   picture written to {arguments.plot}")
    return ExitCode.DONE if result.success else ExitCode.FAILED


def _write_fitted(path: Path, result: Any, arguments: argparse.Namespace, m: int) -> None:
    """Write x, or the factors X and Y, of which the first has m rows."""
    what = "x"
    if path.suffix == ".npz":
        split = m if arguments.bilinear else len(result.x)
        arrays = {"X": result.x[:split]}
        if arguments.bilinear:
            arrays["Y"] = result.x[split:]
        with complete_or_absent(path) as file:
            np.savez(file, **arrays)
        what = " and ".join(arrays)
    else:
        io.write_vector(path, result.x)
    if result.success:
        say(f"   {what} written to {path}")
    else:
        say(f"   the last {what} written to {path}, and nothing to {arguments.output}")
