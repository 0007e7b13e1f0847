"""Writes weights as text that other programs for contact maps read."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._system import outputs

_TABLE, _BIASES = (".tsv", ".tsv.gz"), (".biases", ".biases.gz")
SUFFIXES = (*_TABLE, *_BIASES)


def is_text(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)


def check_output(path: Path) -> None:
    """Refuse a name under which weights cannot be written as text, before any work is done."""
    if not is_text(path):
        raise ValueError(
            f"the output must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, got {path}"
        )
    outputs.check_output(path, path.suffix)


def write(
    path: Path,
    names: list[str],
    chromosomes: NDArray[Any],
    bounds: tuple[NDArray[Any], NDArray[Any]],
    weight: NDArray[np.float64],
) -> None:
    """Write the format that the name says. The file is complete or as before."""
    if path.name.lower().endswith(_TABLE):
        lines = _table(names, chromosomes, bounds, weight)
    else:
        biases, middles = _biases(weight), _midpoints(chromosomes, *bounds)
        lines = (
            f"{names[c]}\t{middle}\t{bias!r}\n"
            for c, middle, bias in zip(
                chromosomes.tolist(), middles.tolist(), biases.tolist(), strict=True
            )
        )
    with outputs.complete_or_absent(path) as file:
        if path.suffix.lower() != ".gz":
            file.writelines(line.encode(errors="replace") for line in lines)
            return
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as zipped:
            zipped.writelines(line.encode(errors="replace") for line in lines)


def _table(
    names: list[str],
    chromosomes: NDArray[Any],
    bounds: tuple[NDArray[Any], NDArray[Any]],
    weight: NDArray[np.float64],
) -> Iterator[str]:
    """The columns that ``cooler dump -t bins --header`` prints."""
    yield "chrom\tstart\tend\tweight\n"
    columns = (array.tolist() for array in (chromosomes, *bounds, weight))
    for c, start, end, value in zip(*columns, strict=True):
        yield f"{names[c]}\t{start}\t{end}\t{value!r}\n"


def _biases(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """1/weight, divided by the mean, and -1 in bins that are left out.

    This is what ``HiCKRy.py`` and ``HiCPro2FitHiC.py`` of Fit-Hi-C write.
    """
    left_out = np.isnan(weight)
    kept = weight[~left_out]
    if not np.all((kept > 0) & np.isfinite(kept)):
        raise ValueError(
            "weight must be positive and finite, or NaN in bins that are left out, to be written "
            "as biases, which are 1/weight"
        )
    result = np.full(weight.size, -1.0)
    if kept.size:
        relative = kept.min() / kept  # at most 1, so that nothing overflows
        result[~left_out] = relative / relative.mean()
    return result


def _midpoints(
    chromosomes: NDArray[Any], starts: NDArray[Any], ends: NDArray[Any]
) -> NDArray[np.int64]:
    """The midpoints of Fit-Hi-C. Short bins at the ends of chromosomes have that of a whole bin."""
    starts, widths = starts.astype(np.int64), (ends - starts).astype(np.int64)
    inner = np.append(chromosomes[1:] == chromosomes[:-1], False)[: widths.size]
    size = widths.max(initial=0)
    fixed = np.all(widths[inner] == size)
    middles: NDArray[np.int64] = starts + (size if fixed else widths) // 2
    return middles
