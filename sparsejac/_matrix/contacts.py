"""The contacts that are balanced, of a file of cooler or of HiC-Pro, and the bins to leave out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import contact_map, hicpro, pixels
from .blacklist import bins_of_bed, numbered_bins
from .region import bins_of_region


@contextmanager
def opened(uri: Any, bed: Any = None) -> Iterator[contact_map.Map | hicpro.Triplets]:
    """Open a map of either kind. `bed` has the bins of a map of HiC-Pro."""
    if hicpro.is_triplets(uri):
        yield hicpro.Triplets(uri, bed)
        return
    if bed is not None:
        raise ValueError(
            f"bed must be left out for {os.fsdecode(uri)}, as only a .matrix of HiC-Pro has its "
            "bins in a BED file"
        )
    with contact_map.reading(uri) as map_:
        yield map_


class Contacts:
    """A contact map, with the bins that a blacklist or a region leaves out.

    `needs_names` says that the chromosomes of the bins must be known.
    """

    def __init__(
        self,
        uri: Any,
        *,
        blacklist: Any,
        region: str | None,
        bed: Any,
        memory: int | None,
        needs_names: bool,
    ) -> None:
        self.bed = os.fsdecode(blacklist) if isinstance(blacklist, (str, os.PathLike)) else None
        # the bins that each of them leaves out, with words for a message
        self.out: dict[str, tuple[NDArray[np.bool_], str]] = {}
        self.unknown: list[str] = []  # chromosomes of the BED file that the map does not have
        self.part: range | None = None  # the bins of the region
        if memory is not None and hicpro.is_triplets(uri):
            raise ValueError(
                f"memory must be left out for {os.fsdecode(uri)}, whose text is read into memory: "
                "or convert the file, for instance by cooler load -f coo"
            )
        with opened(uri, bed) as map_:
            needs_names = needs_names or region is not None or self.bed is not None
            named = needs_names or not isinstance(map_, hicpro.Triplets) or map_.named
            self.names = map_.names() if named else [""]
            self.chromosomes, self.k = map_.chromosomes(), map_.k
            if region is not None:
                self.part = bins_of_region(region, map_, self.names, self.chromosomes)
                outside = np.ones(self.k, np.bool_)
                outside[self.part] = False
                self.out["region"] = outside, f"outside {region}"
            if self.bed is not None:
                listed, self.unknown = bins_of_bed(self.bed, map_, self.names, self.chromosomes)
                self.out["blacklist"] = listed, f"by {self.bed}"
            elif blacklist is not None:
                self.out["blacklist"] = numbered_bins(blacklist, self.k), "by blacklist"
            self.A: Any = map_.matrix(strict=True, bins=self.part) if memory is None else None
        if memory is not None:
            self.A = pixels.source("A", os.fsdecode(uri), strict=True)
