"""Progress bars of solvers and long passes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


def bar(**options: Any) -> Any:
    """A bar of tqdm without its monitor, a thread that would stay when the bar is gone.

    tqdm's lock consists of one for threads and one for processes. If a child is killed while it has
    the one for processes, the bars of its parent stop for ever. So ours take only the one for
    threads, unless the user has set another lock.
    """
    from tqdm import tqdm
    from tqdm.std import TqdmDefaultWriteLock

    class Bar(tqdm):  # type: ignore[misc]  # it has no types
        monitor_interval = 0

        def refresh(self, nolock: bool = False, lock_args: Any = None) -> Any:  # noqa: ARG002
            """Refresh as tqdm does, but release the lock if the bar cannot be written."""
            with self.get_lock():
                return super().refresh(nolock=True)

        def clear(self, nolock: bool = False) -> None:  # noqa: ARG002
            """Clear in the same way."""
            with self.get_lock():
                super().clear(nolock=True)

    lock = vars(tqdm).get("_lock")
    if lock is None or isinstance(lock, TqdmDefaultWriteLock):
        Bar.set_lock(TqdmDefaultWriteLock.th_lock)
    return Bar(leave=False, **options)


@contextlib.contextmanager
def passes(solver: str, *, shown: bool) -> Iterator[Any]:
    """A bar of the passes over A, or None if it is not `shown`."""
    if not shown:
        yield None
        return
    with bar(desc=solver, unit=" passes") as shown_bar:
        yield shown_bar
