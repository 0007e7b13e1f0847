"""The choice of the backend that runs operations over a source."""

from __future__ import annotations

from typing import cast

from .._matrix.layout import Layout
from .._matrix.memory import MemorySource
from .._matrix.source import Source
from .._system import machine
from .._validation import Settings
from . import cuda  # noqa: F401  # it adds itself to the registry, without CuPy
from .budget import block_entries
from .protocol import Backend
from .stream import StreamBackend
from .threads import ThreadBackend


def backend_of(source: Source, layout: Layout, settings: Settings) -> Backend:
    """The backend for a source: its own, or threads if its blocks are views, else streaming."""
    if source.backend is not None:
        return cast(Backend, source.backend(source, layout, settings))
    if source.zero_copy:
        return ThreadBackend(cast(MemorySource, source), layout, settings)
    return StreamBackend(source, layout, settings)


def checked_backend(
    source: Source, layout: Layout, settings: Settings, symmetric: str | None = None
) -> Backend:
    """The backend of an A whose values have not been checked yet: see `Backend.check`."""
    if not (source.zero_copy or source.backend):
        # A budget that is too small is refused before k-vectors are allocated.
        block_entries(source, settings.workers or machine.cpu_count(), settings.memory)
    backend = backend_of(source, layout, settings)
    backend.check(symmetric)
    return backend
