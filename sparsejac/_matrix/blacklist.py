"""Reads which bins of a contact map are left out, from their numbers or a BED file."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._system.signals import unless_signalled
from .region import BinTable

_BOUND = re.compile(r"0{0,99}[0-9]{1,18}")  # a longer bound of an interval may not fit into int64


def numbered_bins(blacklist: Any, k: int) -> NDArray[Any]:
    """Return a boolean for each bin, which is True if its number is listed."""
    needed = f"blacklist must be the numbers of bins, integers from 0 to {k - 1}"
    try:
        bins = np.asarray(blacklist)
    except unless_signalled(ValueError):  # a ragged list
        raise ValueError(f"{needed}, got a list whose items differ in length") from None
    if bins.ndim != 1 or (bins.size and bins.dtype.kind not in "iu"):
        hint = (
            ": pass np.flatnonzero(blacklist)"
            if bins.dtype.kind == "b" and bins.shape == (k,)
            else ""
        )
        raise ValueError(f"{needed}, got {bins.dtype} of shape {bins.shape}{hint}")
    wrong = (bins < 0) | (bins >= k)
    if wrong.any():
        raise ValueError(f"{needed}, got {bins[np.argmax(wrong)]}")
    out = np.zeros(k, np.bool_)
    out[bins.astype(np.intp)] = True
    return out


def bins_of_bed(
    path: str, map_: BinTable, names: list[str], chromosomes: NDArray[Any]
) -> tuple[NDArray[np.bool_], list[str]]:
    """Find the bins that overlap with a BED file, and its chromosomes that the map lacks."""
    starts, ends = map_.bounds()
    out, known = np.zeros(map_.k, np.bool_), False
    unknown: dict[str, None] = {}
    first = np.searchsorted(chromosomes, np.arange(len(names) + 1))
    number = {name: c for c, name in enumerate(names)}
    for chromosome, begin, end in _intervals(path):
        c = number.get(chromosome)
        if c is None:
            unknown[chromosome.encode(errors="surrogateescape").decode(errors="replace")] = None
            continue
        known = True
        part = np.s_[first[c] : first[c + 1]]
        out[part] |= (starts[part] < end) & (ends[part] > begin)
    if unknown and not known:
        raise ValueError(
            f"{path} names no chromosome of {map_.uri}: it has {_shortened(list(unknown)[:3])}, "
            f"and the map has {_shortened(names[:3])}; use the same names"
        )
    return out, list(unknown)


def _shortened(names: list[str]) -> str:
    return ", ".join(name if len(name) <= 40 else f"{name[:40]}…" for name in names)


def _intervals(path: str) -> Iterator[tuple[str, int, int]]:
    for number, line in lines_of_bed(path):
        fields = line.split()
        if not fields or line.startswith("#") or fields[0] in ("track", "browser"):
            continue
        chromosome, *bounds = fields[:3]
        if len(bounds) < 2 or not are_bounds(*bounds):
            raise ValueError(
                f"{path}, line {number}: each line of a BED file must be a chromosome, a "
                "start and an end, integers with 0 <= start <= end, got "
                f"{line.strip()[:80]!r}"
            )
        yield chromosome, int(bounds[0]), int(bounds[1])


def are_bounds(start: str, end: str) -> bool:
    return all(map(_BOUND.fullmatch, (start, end))) and int(start) <= int(end)


def lines_of_bed(path: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a BED file, and their numbers."""
    # The names may have any encoding, and the file may begin with a byte order mark.
    how: dict[str, Any] = {"mode": "rt", "encoding": "utf-8", "errors": "surrogateescape"}
    try:
        with gzip.open(path, **how) if path.endswith(".gz") else Path(path).open(**how) as lines:
            for number, line in enumerate(lines, 1):
                if "\0" in line:
                    raise ValueError(
                        f"{path} cannot be read as a BED file: line {number} is not text"
                    )
                # Python's utf-8-sig would also drop a part of a mark that is all of the file.
                yield number, line.removeprefix("\ufeff") if number == 1 else line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} cannot be read as a BED file: {error}") from None
