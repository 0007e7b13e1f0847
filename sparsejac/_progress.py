"""The bars that a solver, or a long pass, shows if it is asked to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


def bar(**options: Any) -> Any:
    """A bar of tqdm's, without its monitor: that is a thread which would stay when the bar is gone."""
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[misc]  # it has no types
        monitor_interval = 0

    return Bar(leave=False, **options)


@contextlib.contextmanager
def passes(solver: str, *, shown: bool) -> Iterator[Any]:
    """A bar of the passes over A; None unless it is `shown`."""
    if not shown:
        yield None
        return
    with bar(desc=solver, unit=" passes") as shown_bar:
        yield shown_bar
