"""Progress bars of solvers and long passes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


def bar(**options: Any) -> Any:
    """Make a bar of tqdm without its monitor, a thread that would outlive the bar.

    tqdm has a lock for threads and a lock for processes. If a child is killed while it has the lock
    for processes, the bars of its parent stop for ever. So our bars take only the lock for threads,
    unless the user has set another lock.
    """
    from tqdm import tqdm
    from tqdm.std import TqdmDefaultWriteLock

    class Bar(tqdm):  # type: ignore[misc]  # tqdm has no types
        monitor_interval = 0

        def refresh(self, nolock: bool = False, lock_args: Any = None) -> Any:  # noqa: ARG002
            """Refresh the bar as tqdm does, but release the lock if writing fails."""
            with self.get_lock():
                return super().refresh(nolock=True)

        def clear(self, nolock: bool = False) -> None:  # noqa: ARG002
            """Clear the bar in the same way."""
            with self.get_lock():
                super().clear(nolock=True)

    lock = vars(tqdm).get("_lock")
    if lock is None or isinstance(lock, TqdmDefaultWriteLock):
        Bar.set_lock(TqdmDefaultWriteLock.th_lock)
    return Bar(leave=False, **options)


def time_left(bar: Any, passes: float | None) -> str:
    """The time that so many passes take at the present rate, as tqdm writes it."""
    shown = bar.format_dict
    rate = shown["rate"] or (shown["n"] / shown["elapsed"] if shown["elapsed"] else 0.0)
    if passes is None or not rate:
        return "?"
    return str(bar.format_interval(passes / rate))


@contextlib.contextmanager
def passes(solver: str, *, shown: bool) -> Iterator[Any]:
    """Show a bar of the passes over A. The context is the bar, or None if it is not `shown`.

    tqdm shows their number, the time, and the rate. The solver adds how far it is, and the time
    that is left.
    """
    if not shown:
        yield None
        return
    with bar(desc=solver, unit=" passes") as shown_bar:
        yield shown_bar
