"""The alignment of a Y with the A of a backend."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _validation
from .._matrix.align import source_of_target
from .._matrix.indices import frozen
from .._matrix.layout import Layout, Side, layout_of_whole
from .._matrix.registry import stored_source
from .._matrix.source import Source
from .._validation import Settings, Triangle, Uplo
from .choice import backend_of
from .protocol import Backend
from .stream import StreamBackend


def align_target(Y: Any, backend: Backend, uplo: Uplo | None) -> Any:
    """Align Y with A: return its numbers at A's entries, or what reads them block by block.

    The numbers are computed at once if A is in memory, and in each pass if A is streamed. `uplo` is
    the triangle that the user's A holds, even if it was completed since.
    """
    pattern, layout, shape = backend.pattern, backend.layout, backend.source.shape
    if backend.holds(Y) and Y.shape != shape:
        return _on_workers(Y, backend)
    source = target_source(Y, bilinear=layout.bilinear)
    if source is None:
        Y = _validation.target(Y, shape, pattern.m)
    elif source.shape != shape:
        (m, n), (rows, columns) = shape, source.shape
        raise ValueError(f"Y must be a {m}x{n} matrix as A is, got {rows}x{columns}")
    if source is not None and source.backend not in (None, type(backend)):
        raise source.only_target()
    _validation.real("Y", (source or Y).dtype, "least squares")
    if source is not None and layout.side is not None:
        _check_upper(source, backend)
    elif source is not None:
        _check_whole(source, uplo, backend.settings)
    check = backend.settings.check_finite
    of = source or source_of_target(Y, backend.source, pattern, layout, uplo, check=check)
    return backend.aligned(of)


def _on_workers(Y: Any, backend: Backend) -> Any:
    """Align a vector that lies where A's rows are."""
    if Y.shape != (backend.pattern.m,):
        raise _validation.target_shape(Y.shape, backend.source.shape, backend.pattern.m)
    _validation.real("Y", _validation.float_dtype("Y", Y.dtype), "least squares")
    if not backend.layout.rows_in_order:
        raise _validation.vector_by_other_lines(transposed=backend.layout.transposed)
    return backend.aligned(Y)


def target_source(Y: Any, *, bilinear: bool) -> Source | None:
    """The source of a Y that is not in memory, or None.

    A mapped vector has no source: its numbers are read along A's rows.
    """
    return None if getattr(Y, "ndim", 2) == 1 else stored_source("Y", Y, square=not bilinear)


def _check_upper(source: Source, backend: Backend) -> None:
    """Refuse a Y on disk whose upper triangle cannot be read. This takes up to three passes.

    It must be symmetric, or be zero outside the triangle that is read. That is the lower one of Y
    if A is read along the other axis. If A is whole, then Y must be symmetric.
    """
    layout, own = backend.layout, backend.source
    lower_is_read = layout.pairs_transposed != layout.transposed
    if source.uplo is not None:  # a contact map, which holds its upper triangle
        if lower_is_read:
            raise _validation.lower_is_read()
        return
    settings = backend.settings._replace(memory=None)
    whole = backend_of(source, layout_of_whole(source), settings)
    if isinstance(whole, StreamBackend):
        whole.entries.name = "Y"
    defect = whole.asymmetry()
    if defect is None:
        return
    if lower_is_read and own.uplo == "L" and _is_zero(source, "upper", settings):
        return  # Y holds the triangle that A holds
    if not _is_zero(source, "lower", settings):
        if _is_zero(source, "upper", settings):
            raise _validation.upper_is_missing()
        raise _validation.neither_symmetric_nor_upper_row(*defect)
    if lower_is_read:
        raise _validation.lower_is_read()


def _check_whole(source: Source, uplo: Uplo | None, settings: Settings) -> None:
    """Refuse a Y on disk that holds one triangle, where all of it is compared.

    A contact map does. Of other Y this takes two passes, if the user's A holds one triangle.
    """
    if source.uplo is not None:
        raise _validation.target_is_triangle(source.uplo)
    if uplo is None:
        return
    settings = settings._replace(memory=None)
    upper, lower = _is_zero(source, "lower", settings), _is_zero(source, "upper", settings)
    if upper != lower:
        raise _validation.target_is_triangle("U" if upper else "L")


def _is_zero(source: Source, triangle: Triangle, settings: Settings) -> bool:
    """Whether Y is zero in a triangle, without its diagonal. This takes a pass."""
    stored: Triangle = "upper" if (triangle == "upper") != source.transposed else "lower"
    part = Layout(source.transposed, side=Side(stored, offset=1))
    backend = backend_of(source, part, settings._replace(check_finite=False))
    return not np.any(backend.reduce("nonzeros", frozen(np.ones(source.k))))
