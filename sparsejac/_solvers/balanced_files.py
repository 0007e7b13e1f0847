"""The steps in which maps are balanced and their weights are written into the file of the maps."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from .. import _validation
from .._matrix import columns, contact_map, hicpro
from .._system.signals import unless_signalled
from . import balancing
from .balancing_options import Options


def options_of_all(**options: Any) -> Options:
    blacklist = options.get("blacklist")
    if not isinstance(blacklist, (str, os.PathLike, type(None))):
        raise TypeError(
            "blacklist must be a BED file for several maps, in which bins have different numbers, "
            f"got {_validation.type_name(blacklist)}"
        )
    return Options(**options)


def balanced_each(uris: list[str], options: Options) -> Iterator[tuple[str, OptimizeResult]]:
    """Balance each map. A map that raises an error yields a result with the error."""
    for uri in uris:
        try:
            result = balancing.balanced(uri, options)
            result.stats["divisive_weights"] = False
        except unless_signalled(OSError, ValueError, TypeError, MemoryError) as error:
            message = str(error) or type(error).__name__
            result = OptimizeResult(success=False, status=-1, message=message, error=error)
        yield uri, result


def mark_divisive(result: OptimizeResult, name: str) -> None:
    """Say whether the column has 1/weight."""
    divisive = result.stats["divisive_weights"] = name in columns.DIVISIVE
    if divisive:
        result.message += (
            f"; the column {name!r} is for 1/weight, as cooler divides by columns of this name"
        )


def prepare(uri: str | os.PathLike[str], name: str, *, overwrite: bool) -> columns.Identity:
    """Refuse a column that cannot be written, and return the identity of the file.

    This is called before anything is computed.
    """
    columns.check_name(name)
    if hicpro.is_triplets(uri):
        raise ValueError(
            f"{os.fsdecode(uri)} cannot hold weights, as it is text of HiC-Pro: write them into "
            "another file"
        )
    columns.recover(uri)
    columns.check(uri, name, overwrite=overwrite)
    return columns.file_of(uri)


def prepare_all(
    path: str | os.PathLike[str], uris: list[str], name: str, *, overwrite: bool
) -> columns.Identity:
    """Do the same for all maps of a file that can be read."""
    columns.check_name(name)
    for uri in uris:
        try:
            with contact_map.reading(uri):
                pass
        except unless_signalled(OSError, ValueError, TypeError, MemoryError):
            continue  # the result of this map has the error
        prepare(uri, name, overwrite=overwrite)
    return columns.file_of(path)


def write_balanced(
    results: Mapping[Any, OptimizeResult],
    name: str,
    *,
    overwrite: bool,
    read: columns.Identity | None,
) -> None:
    """Write the weights of some maps of a file, which must not have changed since `prepare`."""
    uri = next(iter(results))
    columns.check_unchanged(uri, read)
    values = {
        os.fsdecode(one): column_of(one, result.weight, result.stats, name)
        for one, result in results.items()
    }
    columns.write(uri, name, values, overwrite=overwrite, read=read)


def column_of(
    uri: str | os.PathLike[str], weight: ArrayLike, stats: Mapping[str, Any], name: str
) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """Return the numbers and the attributes of a column."""
    if not isinstance(stats, Mapping):
        raise TypeError(
            f"stats must be a mapping of attributes, got {_validation.type_name(stats)}"
        )
    with contact_map.reading(uri) as map_:
        k = map_.k
    values = weights_of(uri, weight, k)
    column, attributes = values, dict(stats)
    if name in columns.DIVISIVE:
        with np.errstate(all="ignore"):
            column = 1 / values
        if not np.array_equal(np.isinf(column), values == 0):
            raise ValueError(
                f"weight must have reciprocals, which are what is written into {name!r}, but "
                "1/weight overflows"
            )
    if name in columns.DIVISIVE or "divisive_weights" in attributes:
        attributes["divisive_weights"] = name in columns.DIVISIVE
    return column, attributes


def weights_of(uri: Any, weight: ArrayLike, k: int) -> NDArray[np.float64]:
    values = _validation.vector("weight", weight, k, f"one for each bin of {uri}", finite=False)
    _validation.real("weight", values.dtype, "a column of weights", "pass weight.real")
    return values.astype(np.float64)
