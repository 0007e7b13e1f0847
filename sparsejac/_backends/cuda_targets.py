"""The numbers beside an A on a GPU: weights for J's rows, and a Y at A's entries."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _validation
from .._matrix.referenced import Referenced
from .cuda_device import TYPES
from .cuda_source import CudaSource

BY_ENTRY, BY_ROW, BY_PLACE = map(np.int32, range(3))


class CudaTarget(NamedTuple):
    """Numbers beside A on its GPU: of A's entries, of J's rows, or of places (i, j).

    With several `columns`, they are the rows of a matrix.
    """

    values: Any
    by: np.int32
    given_dtype: np.dtype[Any]
    columns: int = 1
    is_symmetric: bool = False
    referenced: Referenced | None = None

    def check_unchanged(self) -> None:
        """See `Aligned.check_unchanged`."""
        if self.referenced is not None:
            self.referenced.check()


def weights(backend: Any, w: Any) -> CudaTarget:
    """Weights for J's rows."""
    if not backend.holds(w):
        raise TypeError(
            "the weights for J's rows must be a CuPy array, as A is on a GPU: pass "
            "cupy.asarray(w); instead of lsqr or lsmr of SciPy, whose vectors are in this "
            "process, solve with cg and operator.normal(), or with cupyx and operator.cupyx()"
        )
    _check_on(backend, w, "w")
    with backend.gpu.here():
        values = backend.gpu.cupy.ascontiguousarray(w).reshape(-1)
    columns = w.shape[1] if w.ndim == 2 else 1
    return CudaTarget(values, _by_rows(backend), np.dtype(w.dtype), columns)


def _by_rows(backend: Any) -> np.int32:
    """How a number for each row of J belongs to an entry."""
    if backend.pattern.implicit is not None:
        return BY_PLACE
    return BY_ENTRY if backend.pattern.is_whole else BY_ROW


def _check_on(backend: Any, value: Any, name: str) -> None:
    if value.dtype not in TYPES:
        raise TypeError(
            f"{name} must be float32 or float64 on a GPU, got {value.dtype}: pass "
            f"{name}.astype(cupy.float64)"
        )
    _check_gpu(backend, value.device.id, name)


def _check_gpu(backend: Any, number: int, name: str) -> None:
    if number != backend.gpu.number:
        raise ValueError(
            f"{name} is on GPU {number}, and A is on GPU {backend.gpu.number}: copy {name} there"
        )


def aligned(backend: Any, of: Any) -> CudaTarget:
    """The numbers of a Y at A's entries. `of` may also be a vector in the order of J's rows.

    **Memory.** If Y and A are sparse and of different structure, or Y is dense and A is sparse,
    a copy of Y with a number for each entry of A.
    """
    check = backend.settings.check_finite
    if backend.holds(of):
        _check_on(backend, of, "Y")
        return _aligned_vector(backend, of, check=check)
    if not isinstance(of, CudaSource):
        raise TypeError(
            "Y must be on the GPU, as A is: pass cupy.asarray(Y), or for a sparse Y "
            "cupyx.scipy.sparse.csr_matrix(Y)"
        )
    _check_gpu(backend, of.gpu.number, "Y")
    if check:
        of.check_finite("Y")
    own = backend.source
    if own.has_structure_of(of):
        symmetric = own.is_symmetric() and of.is_symmetric()
        return CudaTarget(
            of.values, BY_ENTRY, of.dtype, is_symmetric=symmetric, referenced=of.referenced
        )
    if not own.sparse:
        raise TypeError(
            "Y is sparse and A is dense, and on a GPU Y is not converted: pass Y.toarray(), or "
            "a sparse A"
        )
    return _at_entries(backend, of)


def _aligned_vector(backend: Any, y: Any, *, check: bool) -> CudaTarget:
    with backend.gpu.here():
        y = backend.gpu.cupy.ascontiguousarray(y)
    own, by, symmetric = backend.source, _by_rows(backend), False
    of = CudaSource(backend.gpu, own.k, y)
    whole = y.size == own.k**2
    if check:
        first = backend.bounds_on_gpu[2]
        _check_vector(of, *(of.bounds if whole else (first[:-1], first[1:])))
    if whole and own.sparse:
        return _at_entries(backend, of)
    if by == BY_ENTRY:
        beside = CudaSource(backend.gpu, own.k, y, own.indptr, own.indices)
        symmetric = own.is_symmetric() and beside.is_symmetric()
    return CudaTarget(y, by, np.dtype(y.dtype), is_symmetric=symmetric)


def _check_vector(of: CudaSource, begin: Any, end: Any) -> None:
    """Refuse NaN and infinity in a vector, of which rows are given by their bounds on the GPU."""
    gpu, facts = of.gpu, of.gpu.empty("a check of Y", (4, of.k), np.float64)
    gpu.run_rows(of.type_of("row_facts"), of.k, of.values, begin, end, of.k, facts)
    bad = gpu.downloaded(facts)[3]
    if bad.any():
        i = int(np.argmax(bad > 0))
        b, e = (int(gpu.downloaded(each[i : i + 1])[0]) for each in (begin, end))
        numbers = gpu.downloaded(of.values[b:e])
        q = int(np.argmin(np.isfinite(numbers)))
        raise _validation.not_finite("Y", (b + q,), numbers[q])


def _at_entries(backend: Any, of: CudaSource) -> CudaTarget:
    """The numbers of Y at the entries of a sparse A. It must be zero elsewhere."""
    gpu, own, k = backend.gpu, backend.source, backend.pattern.k
    what = "a copy of Y with a number for each entry of A"
    out = gpu.empty(what, (int(own.indices.size),), of.dtype)
    outside = gpu.empty("a check of Y", (k,), np.int64)
    bounds = of.bounds if of.sparse else (None, None)
    args = own.indices, *own.bounds, k, of.values, of.indices, *bounds, out, outside
    gpu.run_rows(of.type_of("align_rows"), k, *args)
    counts = gpu.downloaded(outside)
    if counts.any():
        i = int(np.argmax(counts > 0))
        columns, numbers = of._row(i)
        stored = np.isin(columns, own._row(i)[0])
        j = int(columns[np.argmax((numbers != 0) & ~stored)])
        raise _validation.outside(int(counts.sum()), (i, j))
    beside = CudaSource(gpu, k, out, own.indptr, own.indices)
    symmetric = own.is_symmetric() and beside.is_symmetric()
    return CudaTarget(out, BY_ENTRY, of.dtype, is_symmetric=symmetric)


def diagonal_of(backend: Any, target: Any) -> NDArray[Any]:
    pattern, found = backend.pattern, np.zeros(backend.pattern.k)
    places = pattern.diagonal_entries()
    stored = places >= 0
    if target.by == BY_ROW:
        stored &= (pattern.lo <= places) & (places < pattern.hi)
        places = places - pattern.lo + pattern.first[:-1]
    elif target.by == BY_PLACE:
        places = np.arange(pattern.k, dtype=np.int64) * (pattern.k + 1)
    found[stored] = backend.gpu.taken(target.values, places[stored])
    return found
