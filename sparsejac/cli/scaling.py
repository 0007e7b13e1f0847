"""The command `scale`, for matrices and for contact maps."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import io, plot
from .._matrix import columns, contacts, hicpro, map_files, weights_text
from .._solvers import balanced_files
from .._solvers.status import ScalingStatus
from ..scaling import symmetric_scaling
from . import pictures
from .common import ExitCode, as_typed, check_output, describe, say

_CODES = {
    ScalingStatus.ENTRIES_DROPPED: ExitCode.DROPPED,
    ScalingStatus.IN_PART: ExitCode.IN_PART,
}
# the code of several maps is the first of these that a map has
_WORST_FIRST = (ExitCode.MISUSED, ExitCode.FAILED, ExitCode.DROPPED, ExitCode.IN_PART)
# options of `scale` that only one kind of input takes
_OF_MATRICES = ("target", "uplo")
_OPTIONS_OF_MAPS = ("cis_only", "trans_only", "blacklist", "mad_max", "region", "bed", "rescale")
_OF_MAPS = (*_OPTIONS_OF_MAPS, "all", "write", "name", "force")


def scale(arguments: argparse.Namespace) -> int:
    """Scale a symmetric matrix to given row sums, or balance a Hi-C contact map."""
    triplets = hicpro.is_triplets(arguments.A)
    is_map = triplets or map_files.is_map(arguments.A)
    path = Path(arguments.A if triplets or not is_map else map_files.split(arguments.A)[0])
    output: Path | None = arguments.output
    read = arguments.target, arguments.bed, arguments.blacklist
    inputs = [path, *(Path(one) for one in read if one is not None)]
    _refuse_options_of_others(arguments, is_map=is_map)
    if not arguments.write and (arguments.name is not None or arguments.force):
        raise ValueError("--name and --force say how to write: pass --write as well")
    if arguments.all:
        return _scale_all(arguments)
    if output is not None:
        text = is_map and weights_text.is_text(output)
        check_output(output, output.suffix if text else ".npy", inputs)
        if text:
            with contacts.opened(arguments.A, arguments.bed) as map_:
                map_.names()  # raises if they are not known
    if arguments.plot is not None:
        pictures.check_picture(arguments.plot, inputs)
    started, name, read_from = time.perf_counter(), _column(arguments), None
    if arguments.write:
        read_from = balanced_files.prepare(arguments.A, name, overwrite=arguments.force)
    result = _scale_map(arguments) if is_map else _scale_matrix(arguments)
    _report(arguments, result, time.perf_counter() - started)
    if output is not None:
        if _code(result) == ExitCode.FAILED:
            say(f"   nothing is written to {output}, because that is no scaling")
        else:
            _write_output(arguments, output, result, is_map=is_map)
    if arguments.write and result.success:
        _write_columns(arguments, {arguments.A: result}, read_from)
    if arguments.plot is not None:
        _draw(arguments, result, is_map=is_map)
    return _code(result)


def _scale_all(arguments: argparse.Namespace) -> int:
    """Balance all maps of a file, and write the columns of those that are balanced."""
    for name in ("output", "plot", "bed"):
        if getattr(arguments, name) is not None:
            raise ValueError(f"--{name} is for one map, and --all is for all maps of a file")
    options = balanced_files.options_of_all(**_map_options(arguments))
    uris, read_from = map_files.maps_of(arguments.A), None
    if arguments.write:
        read_from = balanced_files.prepare_all(
            arguments.A, uris, _column(arguments), overwrite=arguments.force
        )
    done, codes, started = {}, [], time.perf_counter()
    for uri, result in balanced_files.balanced_each(uris, options):
        say(uri)
        codes.append(_code(result))
        if result.status < 0:
            message = as_typed(" ".join(result.message.split()), arguments, [uri])
            print(f"sparsejac scale: error: {message}", file=sys.stderr)
            say("scale: not balanced, because of an error")
            continue
        _report(arguments, result, time.perf_counter() - started, [uri])
        started = time.perf_counter()
        if result.success:
            done[uri] = result
    say(f"{len(done)} of {len(uris)} maps are balanced")
    if arguments.write and done:
        _write_columns(arguments, done, read_from)
    return next((code for code in _WORST_FIRST if code in codes), ExitCode.DONE)


def _code(result: Any) -> int:
    """The exit code of a result."""
    if result.success:
        return ExitCode.DONE
    return ExitCode.MISUSED if result.status < 0 else _CODES.get(result.status, ExitCode.FAILED)


def _report(
    arguments: argparse.Namespace, result: Any, seconds: float, more: list[str] | None = None
) -> None:
    given = [*getattr(result, "unscaled", []), *(more or [])]
    say(f"scale: {as_typed(result.message, arguments, given)}")
    say(
        f"   {np.count_nonzero(result.kept)} of {result.kept.size} rows, {result.n_products} "
        f"passes over A, in {seconds:.3f} s, reading and compiling included"
    )
    if warning := getattr(result, "warning", ""):
        which = "".join(f"{uri}: " for uri in more or [])
        print(f"sparsejac scale: warning: {which}{warning}", file=sys.stderr)


def _write_output(
    arguments: argparse.Namespace, output: Path, result: Any, *, is_map: bool
) -> None:
    if is_map and weights_text.is_text(output):
        from .. import cool

        cool.export_weights(output, arguments.A, result.weight, bed=arguments.bed)
    else:
        io.write_vector(output, result.weight if is_map else result.x)
    say(f"   {'weights' if is_map else 'x'} written to {output}")


def _column(arguments: argparse.Namespace) -> str:
    return "weight" if arguments.name is None else arguments.name


def _write_columns(
    arguments: argparse.Namespace, results: Mapping[str, Any], read: columns.Identity | None
) -> None:

    name = _column(arguments)
    balanced_files.write_balanced(results, name, overwrite=arguments.force, read=read)
    how = ", as 1/weight, by which cooler divides" if name in columns.DIVISIVE else ""
    where = arguments.A if len(results) == 1 else f"{len(results)} maps of {arguments.A}"
    say(f'   weights written to column "{name}" of {where}{how}')


def _refuse_options_of_others(arguments: argparse.Namespace, *, is_map: bool) -> None:
    """Refuse options for maps if the input is a matrix, and options for matrices if it is a map."""
    for name in _OF_MATRICES if is_map else _OF_MAPS:
        given = getattr(arguments, name)
        if given is not None and given is not False:
            kind, other = ("matrices", "a contact map") if is_map else ("contact maps", "a matrix")
            raise ValueError(
                f"--{name.replace('_', '-')} is for {kind}, and {arguments.A} is {other}"
            )


def _given(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The options that were given or have a default."""
    values = {name: getattr(arguments, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _scaling_options(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("tol", "max_products", "min_count", "support", "memory", "ignore_diags", "min_nnz")
    return {**_given(arguments, *names), "progress": sys.stderr.isatty()}


def _scale_matrix(arguments: argparse.Namespace) -> Any:
    A = io.read_matrix(arguments.A)
    d = 1.0 if arguments.target is None else io.read_vector(arguments.target)
    describe(Path(arguments.A).name, A)
    return symmetric_scaling(A, d, uplo=arguments.uplo, **_scaling_options(arguments))


def _map_options(arguments: argparse.Namespace) -> dict[str, Any]:
    return _scaling_options(arguments) | _given(arguments, *_OPTIONS_OF_MAPS)


def _scale_map(arguments: argparse.Namespace) -> Any:
    from .. import cool

    return cool.balance(arguments.A, **_map_options(arguments))


def _draw(arguments: argparse.Namespace, result: Any, *, is_map: bool) -> None:
    """Draw the matrix or map before and after, from the file, which is read once more."""
    how: dict[str, Any] = {"memory": arguments.memory, "uplo": arguments.uplo}
    target: Any = 1.0
    if is_map:
        A, how["ignore_diags"] = arguments.A, 2
        with contacts.opened(arguments.A, arguments.bed) as map_:
            how["groups"] = map_.chromosomes()
            if hicpro.is_triplets(A):  # the others are read block by block
                A, how["uplo"] = map_.matrix(strict=True), "U"
        how["pairs"] = "within" if arguments.cis_only else "all"
        how["pairs"] = "between" if arguments.trans_only else how["pairs"]
    else:
        A = io.read_matrix(arguments.A)
        target = 1.0 if arguments.target is None else io.read_vector(arguments.target)
    how |= _given(arguments, "ignore_diags")
    figure = pictures.new_figure(13, 4)
    plot.scaling(A, result, target, **how, figure=figure)
    pictures.save(figure, arguments.plot)
    say(f"   picture written to {arguments.plot}")
