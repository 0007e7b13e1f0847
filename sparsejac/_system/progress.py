"""The bars that a solver, or a long pass, shows if it is asked to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


def bar(**options: Any) -> Any:
    """A bar of tqdm's, without its monitor: that is a thread which would stay when the bar is gone.

    tqdm's own lock consists of one for threads and one for processes. A child that is killed while it has the one for processes
    stops the bars of its parent for ever, so ours take the one for threads alone, as long as nobody has set another lock.
    """
    from tqdm import tqdm
    from tqdm.std import TqdmDefaultWriteLock

    class Bar(tqdm):  # type: ignore[misc]  # it has no types
        monitor_interval = 0

        def refresh(self, nolock: bool = False, lock_args: Any = None) -> Any:  # noqa: ARG002  # as tqdm calls it
            """As tqdm's, which keeps the lock for ever if it cannot write."""
            with self.get_lock():
                return super().refresh(nolock=True)

        def clear(self, nolock: bool = False) -> None:  # noqa: ARG002
            """As `refresh`."""
            with self.get_lock():
                super().clear(nolock=True)

    lock = vars(tqdm).get("_lock")
    if lock is None or isinstance(lock, TqdmDefaultWriteLock):
        Bar.set_lock(TqdmDefaultWriteLock.th_lock)
    return Bar(leave=False, **options)


@contextlib.contextmanager
def passes(solver: str, *, shown: bool) -> Iterator[Any]:
    """A bar of the passes over A; None unless it is `shown`."""
    if not shown:
        yield None
        return
    with bar(desc=solver, unit=" passes") as shown_bar:
        yield shown_bar
