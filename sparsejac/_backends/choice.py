"""The choice of the backend that runs operations over a source."""

from __future__ import annotations

from .._matrix.csr import CsrMemory
from .._matrix.dense import DenseMemory
from .._matrix.layout import Layout
from .._matrix.source import Source
from .._system import machine
from .._validation import Settings
from .budget import block_entries
from .memory import MemoryRows, check_memory
from .rows import Rows
from .streamed import StreamedRows


def check_budget(source: Source, settings: Settings) -> None:
    """Refuse a budget that is too small, before a k-vector is allocated."""
    if not source.zero_copy:
        block_entries(source, settings.workers or machine.cpu_count(), settings.memory)


def backend_of(source: Source, layout: Layout, settings: Settings) -> Rows:
    """The backend for a source: in memory if its blocks are views, else streamed."""
    if source.zero_copy and isinstance(source, (DenseMemory, CsrMemory)):
        return MemoryRows(source, layout, settings)
    return StreamedRows(source, layout, settings)


def checked_backend(
    source: Source, layout: Layout, settings: Settings, symmetric: str | None = None
) -> Rows:
    """The backend of an A whose values have not been checked yet.

    An A in memory is checked here. The values of a streamed A are checked in its first pass.
    `symmetric` names the feature that needs a symmetric A. The check of that takes a pass.
    """
    check_budget(source, settings)
    if source.zero_copy and isinstance(source, (DenseMemory, CsrMemory)):
        check_memory(source, finite=settings.check_finite, symmetric=symmetric)
    backend = backend_of(source, layout, settings)
    if symmetric and isinstance(backend, StreamedRows):
        backend.check_symmetric(symmetric)
    return backend
