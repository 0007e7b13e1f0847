"""A matrix in the memory of a GPU, dense or CSR, and the checks of its numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _validation
from .._matrix.indices import ColumnRanges, Indices, counts
from .._matrix.pattern import DensePattern, Pattern
from .._matrix.referenced import Referenced
from .._matrix.source import Source
from .._system.forks import computed_once
from .cuda_device import TYPES, Gpu, gpu_of, load_cupy

_PIECE = 2**22  # numbers that are compared at a time
_SIDE = 32  # rows that a block of `dense_asymmetry` compares


class CudaSource(Source):
    """A matrix in the memory of a GPU.

    Attributes
    ----------
    gpu : Gpu
    values : cupy.ndarray
        Its numbers as a vector.
    indptr, indices : cupy.ndarray or None
        The structure of a CSR matrix.
    """

    mutable = True

    def __init__(self, gpu: Gpu, k: int, values: Any, indptr: Any = None, indices: Any = None):
        self.gpu, self.k, self.values, self.dtype = gpu, k, values, np.dtype(values.dtype)
        self.indptr, self.indices, self.sparse = indptr, indices, indptr is not None

    def pattern(self, ranges: ColumnRanges | None, *, implicit_rows: bool) -> Pattern:
        if self.sparse:
            return CudaPattern(self, ranges, implicit_rows=implicit_rows)
        return DensePattern(self.k, ranges)

    def check_outside(self) -> None:
        raise ValueError(
            "uplo= is not for an A on a GPU: pass the whole symmetric matrix, A + triu(A, 1).T of "
            "an upper triangle, A + tril(A, -1).T of a lower one, with triu and tril of cupy, or "
            "of cupyx.scipy.sparse and then with tocsr()"
        )

    def only_target(self) -> Exception:
        return ValueError("Y is on a GPU, and A is not: pass cupy.asarray(A) too, or Y.get()")

    def has_structure_of(self, other: Source) -> bool:
        if not isinstance(other, CudaSource) or self.sparse != other.sparse:
            return False
        if not self.sparse:
            return True
        pairs = (self.indptr, other.indptr), (self.indices, other.indices)
        with self.gpu.here():
            return all(_equal(*pair) for pair in pairs)

    @computed_once
    def bounds(self) -> tuple[Any, Any]:
        """The bounds of the entries of all rows, on the GPU."""
        if self.sparse:
            with self.gpu.here():
                pointers = self.indptr.astype(np.int64)
        else:
            pointers = self.gpu.uploaded(np.arange(self.k + 1, dtype=np.int64) * self.k)
        return pointers[:-1], pointers[1:]

    @computed_once
    def by_columns(self) -> tuple[Any, Any, Any]:
        """The stored entries of each column: how many precede it, their rows, and their numbers.

        **Memory.** 12 bytes for each entry of A on the GPU, and while they are sorted 28.
        """
        gpu, k, count = self.gpu, self.k, int(self.indices.size)
        hint = 'take rows="upper" of a symmetric A'
        gpu.check_fits("the order of A's entries by columns", 28 * count, hint)
        with gpu.here():
            cupy = gpu.cupy
            entries = cupy.argsort(self.indices, kind="stable").astype(np.int64, copy=False)
            begin = cupy.searchsorted(self.indices[entries], cupy.arange(k + 1, dtype=np.int32))
            ends = self.bounds[1]
            rows = cupy.searchsorted(ends, entries, side="right").astype(np.int32)
        return begin.astype(np.int64, copy=False), rows, entries

    def type_of(self, kernel: str) -> str:
        """A kernel for the numbers of this matrix."""
        return f"{kernel}<{TYPES[self.dtype]}>"

    # --- checks

    def facts(self) -> NDArray[np.float64]:
        """Of each row the lowest and the largest number, or 0, the largest absolute value, and how
        many numbers are not finite. This takes one pass.
        """
        found = self.gpu.empty("a check of A", (4, self.k), np.float64)
        args = self.values, *self.bounds, self.k, found
        self.gpu.run_rows(self.type_of("row_facts"), self.k, *args)
        return self.gpu.downloaded(found)

    def _row(self, i: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """The columns and the numbers of a row."""
        if not self.sparse:
            return np.arange(self.k), self.gpu.downloaded(
                self.values[i * self.k : (i + 1) * self.k]
            )
        begin, end = self.gpu.downloaded(self.indptr[i : i + 2]).tolist()
        return tuple(  # type: ignore[return-value]  # there are two
            self.gpu.downloaded(each[begin:end]) for each in (self.indices, self.values)
        )

    def check_finite(self, name: str) -> None:
        """Refuse NaN and infinity."""
        bad = self.facts()[3]
        if not bad.any():
            return
        i = int(np.argmax(bad > 0))
        columns, numbers = self._row(i)
        q = int(np.argmin(np.isfinite(numbers)))
        raise _validation.not_finite(name, (i, int(columns[q])), numbers[q])

    def extremes(self) -> tuple[Any, tuple[int, int], float]:
        """The lowest number or 0, its place, and the largest number or 0."""
        low, high = self.facts()[:2]
        if not self.k or low.min() >= 0:
            return 0.0, (0, 0), float(high.max(initial=0.0))
        i = int(np.argmin(low))
        columns, numbers = self._row(i)
        q = int(np.argmin(numbers))
        return numbers[q], (i, int(columns[q])), float(high.max())

    def is_symmetric(self) -> bool:
        """Whether A and Aᵀ are equal to the bit now, in structure and numbers: one pass."""
        return self._first_difference(None, 0.0) is None

    def unequal(self) -> tuple[int, int] | None:
        """A place where A is not symmetric up to rounding, or None."""
        if self.is_symmetric():
            return None
        largest = self.facts()[2]
        largest[~np.isfinite(largest)] = 0
        relative = _validation.symmetry_tolerance(self.dtype)
        return self._first_difference(self.gpu.uploaded(largest), relative)

    def _first_difference(self, largest: Any, relative: float) -> tuple[int, int] | None:
        gpu, k = self.gpu, self.k
        if self.sparse:
            found = gpu.empty("a check of A", (k,), np.int64)
            args = self.values, self.indices, *self.bounds, k, largest, relative, found
            gpu.run_rows(self.type_of("sparse_asymmetry"), k, *args)
        else:
            found = gpu.empty("a check of A", (-(-k // _SIDE),), np.int64)
            kernel = self.type_of("dense_asymmetry")
            gpu.run(kernel, found.size, self.values, k, largest, relative, found)
        places = gpu.downloaded(found)
        if not (places >= 0).any():
            return None
        first = int(np.argmax(places >= 0))
        return (first, int(places[first])) if self.sparse else divmod(int(places[first]), k)

    def number_at(self, i: int, j: int) -> float:
        """The number at a place, or 0 where none is stored."""
        columns, numbers = self._row(i)
        return float(numbers[columns == j].sum())


class CudaPattern(Pattern):
    """The entries of a CSR matrix on a GPU that are visited.

    It has k-vectors in the memory of this process. The columns stay on the GPU.
    """

    interleaved = True

    def __init__(
        self, source: CudaSource, ranges: ColumnRanges | None, *, implicit_rows: bool
    ) -> None:
        gpu, k = source.gpu, source.k
        self._source = source
        lo, hi = source.bounds
        if ranges is not None:
            lo, hi = (gpu.empty("the pattern of A", (k,), np.int64) for _ in range(2))
            between = (gpu.uploaded(np.asarray(each, np.int64)) for each in ranges)
            args = source.indptr, source.indices, *between, k, lo, hi
            gpu.run_rows("spans", k, *args, threads=True)
        self.on_gpu = lo, hi
        lo, hi = gpu.downloaded(lo), gpu.downloaded(hi)
        super().__init__(k, k, int(source.indices.size), lo, hi, counts(hi - lo))
        self.implicit = k if implicit_rows else None

    def check_unchanged(self) -> None:
        if self._source.referenced is not None:
            self._source.referenced.check()

    def _positions(self, column: int, lo: Any, hi: Any) -> NDArray[np.int64]:
        gpu, found = self._source.gpu, self._source.gpu.empty("k numbers", (self.k,), np.int64)
        args = lo, hi, self._source.indices, self.k, column, found
        gpu.run_rows("in_column", self.k, *args, threads=True)
        return gpu.downloaded(found)

    def _diagonal_entries(self) -> NDArray[np.int64]:
        return self._positions(-1, *self._source.bounds)

    def in_row(self, i: int) -> tuple[Indices, Indices]:
        lo, hi = int(self.lo[i]), int(self.hi[i])
        columns = self._source.gpu.downloaded(self._source.indices[lo:hi])
        return columns, np.arange(lo, hi, dtype=np.int64)

    def in_column(self, j: int) -> tuple[Indices, Indices]:
        positions = self._positions(j, *self.on_gpu)
        rows = np.flatnonzero(positions >= 0)
        return rows, positions[rows]


def _equal(one: Any, other: Any) -> bool:
    """Whether two vectors on a GPU are equal. No mask of their size is made."""
    if one.shape != other.shape:
        return False
    if one.data.ptr == other.data.ptr:
        return True
    pieces = (slice(p, p + _PIECE) for p in range(0, one.size, _PIECE))
    return all(bool((one[piece] == other[piece]).all()) for piece in pieces)


# --- what a user passes


def source_of(name: str, A: Any, *, square: bool) -> CudaSource:
    """The source of a matrix on a GPU: a CuPy array, a cupyx CSR matrix, or what gives an array."""
    if not square:
        raise TypeError(f"bilinear= is not for an {name} on a GPU: pass {name}.get()")
    cupy = load_cupy()
    if type(A).__module__.partition(".")[0] == "cupyx":
        return _of_sparse(name, A)
    if not isinstance(A, cupy.ndarray):  # without a copy
        A = cupy.asarray(A) if hasattr(A, "__cuda_array_interface__") else cupy.from_dlpack(A)
    _check_square(name, A)
    _check_dtype(name, A.dtype)
    if not A.flags.c_contiguous:
        raise ValueError(
            f"{name} must be C-contiguous on a GPU, where it is not copied: pass "
            f"cupy.ascontiguousarray({name}), or {name}.T of a symmetric matrix in Fortran order"
        )
    return CudaSource(gpu_of(A), A.shape[0], A.reshape(-1))


def _check_square(name: str, A: Any) -> None:
    if A.ndim != 2 or A.shape[0] != A.shape[1]:
        hint = "pass a vector Y in one dimension" if name == "Y" else f"or pass {name}.get()"
        raise ValueError(f"{name} must be a square matrix on a GPU, got shape {A.shape}: {hint}")


def _check_dtype(name: str, dtype: Any) -> None:
    if dtype not in TYPES:
        raise TypeError(
            f"{name} must be float32 or float64 on a GPU, got {dtype}: pass "
            f"{name}.astype(cupy.float64), or {'its real part' if dtype.kind == 'c' else 'float32'}"
        )


def _of_sparse(name: str, A: Any) -> CudaSource:
    if getattr(A, "format", None) != "csr":
        raise TypeError(
            f"a sparse {name} on a GPU must be a CSR matrix, got {_validation.type_name(A)}: pass "
            f"{name}.tocsr()"
        )
    _check_square(name, A)
    _check_dtype(name, A.dtype)
    if {np.dtype(A.indptr.dtype), np.dtype(A.indices.dtype)} != {np.dtype(np.int32)}:
        raise TypeError(
            f"a sparse {name} on a GPU must have int32 indices, got {A.indptr.dtype} and "
            f"{A.indices.dtype}: with fewer than 2**31 entries, set both to .astype(cupy.int32)"
        )
    k, gpu = A.shape[0], gpu_of(A.data)
    parts = A.indptr, A.indices, A.data
    if A.indptr.size != k + 1 or A.indices.size != A.data.size:
        raise ValueError(
            f"a sparse {name} on a GPU must have {k + 1} row pointers, and an index for each "
            f"number, got {A.indptr.size}, {A.indices.size} and {A.data.size}: make it anew with "
            "cupyx.scipy.sparse.csr_matrix"
        )
    if not all(part.flags.c_contiguous for part in parts):
        raise ValueError(
            f"a sparse {name} on a GPU must have contiguous arrays, as they are not copied: pass "
            f"{name}.copy()"
        )
    bad = gpu.empty("a check of A", (k,), np.int32)
    gpu.run_rows("check_rows", k, A.indptr, A.indices, k, int(A.indices.size), bad, threads=True)
    found = gpu.downloaded(bad)
    if found.any():
        raise ValueError(
            f"a sparse {name} on a GPU must be canonical, and the columns of row "
            f"{int(np.argmax(found))} do not ascend: call {name}.sum_duplicates(), in place"
        )
    stored = int(gpu.downloaded(A.indptr[k:])[0])  # what comes behind is spare
    source = CudaSource(gpu, k, A.data[:stored], A.indptr, A.indices[:stored])
    source.referenced = Referenced(name, A, stored)
    return source
