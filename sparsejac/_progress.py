"""The bar that a solver shows if it is asked to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def passes(solver: str, *, shown: bool) -> Iterator[Any]:
    """A bar of the passes over A; None unless it is `shown`."""
    if not shown:
        yield None
        return
    from tqdm import tqdm

    with tqdm(desc=solver, unit=" passes", leave=False) as bar:
        yield bar
