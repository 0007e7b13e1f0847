"""Reads the contact maps of HiC-Pro: a text file of triplets, and a BED file of bins.

A line of ``sample_10000.matrix`` has the numbers of two bins, counted from 1, and a count. A line
of ``sample_10000_abs.bed`` has a chromosome, a start, an end and the number of the bin. HiC-Pro's
manual describes both (https://nservant.github.io/HiC-Pro/RESULTS.html). It writes the upper
triangle, unless its option says otherwise.
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from .. import _validation
from .._system.forks import computed_once
from .blacklist import are_bounds, lines_of_bed
from .indices import index_dtype
from .market_faults import opened

Triple = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
SUFFIXES = (".matrix", ".matrix.gz")
_BLOCK = 2**20  # how many bytes of text are parsed at a time
_LINES = re.compile(
    rb"(?:[ \t]*+[0-9]{1,15}[ \t]++[0-9]{1,15}[ \t]++"
    rb"(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?[ \t]*+\r?\n)*+"
)


def is_triplets(path: str | os.PathLike[str]) -> bool:
    """Whether a name is that of a matrix of HiC-Pro."""
    return os.fsdecode(path).lower().endswith(SUFFIXES) and not Path(path).is_dir()


class Triplets:
    """A map of HiC-Pro. Without its BED file, the bins have numbers and no names."""

    def __init__(self, path: str | os.PathLike[str], bed: str | os.PathLike[str] | None) -> None:
        self.uri = os.fsdecode(path)
        self._bed = _bed_beside(self.uri) if bed is None else os.fsdecode(bed)

    @computed_once
    def _bins(self) -> tuple[list[str], NDArray[Any], NDArray[Any], NDArray[Any]]:
        if self._bed is None:
            raise ValueError(
                f"{self.uri} has numbers for its bins, and their chromosomes are needed: pass "
                f"bed=, the BED file that HiC-Pro writes, {_stem(self.uri)}_abs.bed"
            )
        return _read_bins(self._bed)

    @computed_once
    def _triplets(self) -> Triple:
        found = _read(self.uri)
        if not self.named:
            largest = int(found[1].max(initial=0))
            _validation.fits(
                f"{self.uri}, whose largest bin is {largest},",
                16 * largest,
                "check that bin, or pass a BED file of the bins",
            )
        return found

    @property
    def named(self) -> bool:
        """Whether the chromosomes of the bins are known."""
        return self._bed is not None

    @property
    def k(self) -> int:
        """The number of bins. Without names, it is the largest number of the file."""
        return self._bins[1].size if self.named else int(self._triplets[1].max(initial=0))

    def names(self) -> list[str]:
        """The names of the chromosomes."""
        return self._bins[0]

    def chromosomes(self) -> NDArray[Any]:
        """The number of each bin's chromosome. Without names, there is one chromosome."""
        return self._bins[1] if self.named else np.zeros(self.k, np.int32)

    def bounds(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Where each bin starts and ends."""
        return self._bins[2:]

    def matrix(self, *, strict: bool, bins: range | None = None) -> scipy.sparse.csr_array:  # noqa: ARG002
        """Make canonical CSR. Counts of a pair that has several lines are added.

        If `bins` is given, only the contacts among these bins are kept.
        """
        rows, columns, counts = self._triplets
        if columns.max(initial=0) > self.k:
            line = int(np.argmax(columns > self.k))
            raise ValueError(
                f"{self.uri}, line {line + 1}: it has bin {int(columns[line])}, and {self._bed} "
                f"has {self.k} bins: pass the BED file of the same resolution"
            )
        if bins is not None:
            inside = (rows > bins.start) & (columns <= bins.stop)  # they count from 1
            rows, columns, counts = rows[inside], columns[inside], counts[inside]
        dtype = index_dtype(self.k, self.k, rows.size)
        at = tuple(ids.astype(dtype) - dtype.type(1) for ids in (rows, columns))
        found = scipy.sparse.coo_array((counts, at), shape=(self.k, self.k)).tocsr()
        found.sum_duplicates()
        if not np.isfinite(found.data).all():
            raise ValueError(f"{self.uri} has a pair of bins whose counts add up to infinity")
        if np.array_equal(found.data, np.clip(np.round(found.data), 0, 2**31 - 1)):
            found = found.astype(np.int32)
        return found


def _stem(path: str) -> str:
    return re.sub(r"\.matrix(\.gz)?$", "", path, flags=re.IGNORECASE)


def _bed_beside(path: str) -> str | None:
    """The BED file that HiC-Pro writes beside a matrix, if it is there."""
    beside = [f"{_stem(path)}_abs.bed{suffix}" for suffix in ("", ".gz")]
    return next((name for name in beside if Path(name).is_file()), None)


# --- the bins -------------------------------------------------------------------------------------


@_validation.naming_its_file
def _read_bins(path: str) -> tuple[list[str], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Read names, and for each bin the number of its chromosome, its start and its end."""
    names: dict[str, int] = {}
    table: list[tuple[int, int, int]] = []
    for number, line in lines_of_bed(path):
        fields = line.split()
        if len(fields) < 4 or not are_bounds(*fields[1:3]) or fields[3] != str(len(table) + 1):
            raise ValueError(
                f"{path}, line {number}: each line of HiC-Pro's bins must be a chromosome, a "
                f"start, an end and the number of the bin, here {len(table) + 1}, got "
                f"{line.strip()[:80]!r}"
            )
        chromosome = names.setdefault(fields[0], len(names))
        if table and chromosome < table[-1][0]:
            raise ValueError(
                f"{path}, line {number}: the bins of a chromosome must be neighbours, and "
                f"{fields[0]!r} has bins before other chromosomes, too"
            )
        table.append((chromosome, int(fields[1]), int(fields[2])))
    chromosomes, starts, ends = np.array(table, np.int64).reshape(-1, 3).T
    return list(names), chromosomes.astype(np.int32), starts, ends


# --- the triplets ---------------------------------------------------------------------------------


@_validation.naming_its_file
def _read(path: str) -> Triple:
    """Read the numbers of the bins, from 1, and the counts."""
    parts: list[Triple] = [(np.empty(0), np.empty(0), np.empty(0))]
    number = 1
    try:
        with opened(Path(path)) as file:
            for block in _blocks(path, file):
                parts.append(_parsed(path, block, number))
                number += block.count(b"\n")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} cannot be read as a matrix of HiC-Pro: {error}") from None
    if len(parts) == 1:
        raise ValueError(f"{path} is empty")
    rows, columns, counts = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return rows, columns, counts


def _blocks(path: str, file: IO[bytes]) -> Iterator[bytes]:
    """Yield blocks of whole lines."""
    rest = b""
    while data := file.read(_BLOCK):
        block = rest + data
        end = block.rfind(b"\n") + 1
        rest = block[end:]
        if len(rest) > _BLOCK:
            break
        yield block[:end]
    if rest:
        raise ValueError(
            f"{path} cannot be read as a matrix of HiC-Pro: it has a line without an end, so it "
            "may be cut: copy it anew"
        )


def _parsed(path: str, block: bytes, number: int) -> Triple:
    """Parse the lines of a block. Its first line has this number in the file."""

    def wrong(line: int, needed: str) -> ValueError:
        text = block.split(b"\n")[line].strip()[:80].decode(errors="replace")
        return ValueError(
            f"{path}, line {number + line}: each line of HiC-Pro's matrix must be {needed}, got "
            f"{text!r}"
        )

    match = _LINES.match(block)
    end = match.end() if match else 0
    if end < len(block):
        raise wrong(
            block.count(b"\n", 0, end),
            "the numbers of two bins and a count that is not negative",
        )
    i, j, counts = np.fromstring(block, sep=" ").reshape(-1, 3).T
    for bad, needed in (
        (i < 1, "the numbers of two bins, which count from 1, and a count"),
        (i > j, "in the upper triangle: have HiC-Pro write it (MATRIX_FORMAT = upper)"),
        (~np.isfinite(counts), "two bins and a count that float64 can hold"),
    ):
        if bad.any():
            raise wrong(int(np.argmax(bad)), needed)
    return i.copy(), j.copy(), counts.copy()
