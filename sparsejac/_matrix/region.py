"""Finds the bins of a region such as ``chr2:1,000,000-5,000,000``."""

from __future__ import annotations

import re
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

_LISTED = 30  # how many chromosomes a message lists
_BOUNDS = re.compile(r"([0-9][0-9,]{0,23})-([0-9][0-9,]{0,23})?")


class BinTable(Protocol):
    """A contact map whose bins are read from a table."""

    uri: str

    @property
    def k(self) -> int: ...

    def bounds(self) -> tuple[NDArray[Any], NDArray[Any]]: ...


def check_region(region: object) -> str | None:
    """Refuse a region that is not text. Whether a map has it is not known yet."""
    if region is not None and not (isinstance(region, str) and region.strip()):
        raise _no_region(region)
    return region


def _no_region(region: object) -> ValueError:
    return ValueError(
        "region must be a chromosome, or a part of one such as 'chr2:1,000,000-5,000,000', got "
        f"{region!r}"
    )


def bins_of_region(
    region: str, map_: BinTable, names: list[str], chromosomes: NDArray[Any]
) -> range:
    """Find the bins that overlap with a region, as ``cooler.Cooler.extent`` does.

    Positions count from 0, and the end is not part of the region. The name of a chromosome may
    contain colons. So the whole text is compared with the names first.
    """
    region = region.strip()
    name, part = region, None
    if region not in names and ":" in region:
        name, _, text = region.rpartition(":")
        part = _BOUNDS.fullmatch(text.strip())
        if part is None:
            raise _no_region(region)
    if name not in names:
        listed = ", ".join(map(repr, names[:_LISTED])) + ", …" * (len(names) > _LISTED)
        raise ValueError(
            f"region must be on a chromosome of {map_.uri}, which has no {name!r}: it has {listed}"
        )
    number = names.index(name)
    lo, hi = (int(at) for at in np.searchsorted(chromosomes, [number, number + 1]))
    if part is None:
        return range(lo, hi)
    starts, ends = (bound[lo:hi] for bound in map_.bounds())
    length = int(ends[-1]) if hi > lo else 0
    first, last = (int(text.replace(",", "")) if text else length for text in part.groups())
    last = min(last, length)
    found = np.flatnonzero((starts < last) & (ends > first)) if first < last else np.empty(0, int)
    if not found.size:
        raise ValueError(
            f"region must hold a bin of {name!r}, which ends at {length}, and start before it "
            f"ends, got {region!r}"
        )
    return range(lo + int(found[0]), lo + int(found[-1]) + 1)
