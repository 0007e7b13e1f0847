"""The processors and the memory that this process may use."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .signals import suppress, unless_signalled

_CGROUP = Path("/sys/fs/cgroup")


def cpu_count() -> int:
    """Count the processors that its affinity and its container's quota allow this process."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        count = os.cpu_count() or 1
    quota, _, period = _read(_CGROUP / "cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        count = min(count, -(-int(quota) // int(period)))
    return max(count, 1)


def available_memory() -> int | None:
    """Bytes that can be allocated without swapping in this container; None if unknown."""
    lines = _read(Path("/proc/meminfo")).splitlines()
    candidates = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    if not candidates:
        # macOS reports the total only, and Windows nothing.
        with suppress(AttributeError, ValueError, OSError):
            candidates.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    limit, used = _read(_CGROUP / "memory.max").strip(), _read(_CGROUP / "memory.current").strip()
    if limit.isdigit() and used.isdigit():
        # Cached file pages count as used, but the system frees them on demand.
        cached = [
            int(line.split()[1])
            for line in _read(_CGROUP / "memory.stat").splitlines()
            if line.startswith("inactive_file ")
        ]
        candidates.append(max(int(limit) - int(used) + sum(cached), 0))
    return min(candidates, default=None)


def peak_memory() -> int | None:
    """The largest resident size of this process, in bytes; None if it is not known."""
    for line in _read(Path("/proc/self/status")).splitlines():
        # getrusage would include the process that started this one.
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except unless_signalled(OSError):
        return ""
