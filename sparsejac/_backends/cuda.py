"""The backend of an A in the memory of a GPU. Experimental: it has not been timed.

A, and all that has a number for each row of J, stay on the GPU as CuPy arrays. The k-vectors of an
operation are sent there, and its sums are fetched. Sums do not depend on the order in which the GPU
runs its threads: see `kernels.cu`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _validation
from .._matrix import registry
from .._matrix.layout import Layout
from .._matrix.scan import Scan
from .._system.forks import computed_once
from .._validation import Settings
from .cuda_device import TYPES, is_on_gpu
from .cuda_source import CudaPattern, CudaSource, source_of
from .protocol import Backend

_COLUMNS = 1024  # columns of a tile, as in kernels.cu
_BY_ENTRY, _BY_ROW, _BY_PLACE = map(np.int32, range(3))


class _Operation(NamedTuple):
    """A reduction: its edge function in kernels.cu, and its outputs.

    `either_way` says that it is the same for A and Aᵀ. Then half of a symmetric A is enough.
    """

    edge: str
    outputs: int = 1
    scalars: int = 0
    aligned: bool = False
    either_way: bool = True


_REDUCTIONS = {
    "rmatvec": _Operation("Weighted", aligned=True, either_way=False),
    "squares": _Operation("Squares"),
    "symmetric": _Operation("Symmetric"),
    "nonzeros": _Operation("Nonzeros"),
    "max_abs": _Operation("Largest", outputs=2, either_way=False),
    "beginning": _Operation("Beginning", scalars=3, aligned=True),
    "gradient": _Operation("Gradient", outputs=2, scalars=1, aligned=True),
    "curvature": _Operation("Curvature", aligned=True),
}


class CudaTarget(NamedTuple):
    """Numbers beside A on its GPU: of A's entries, of J's rows, or of places (i, j).

    With several `columns`, they are the rows of a matrix.
    """

    values: Any
    by: np.int32
    given_dtype: np.dtype[Any]
    columns: int = 1
    is_symmetric: bool = False


class CudaBackend(Backend):
    """The backend of a matrix in the memory of a GPU."""

    source: CudaSource
    local = False
    _halves = False  # whether A was symmetric to the bit when this backend was made for sums

    def __init__(self, source: CudaSource, layout: Layout, settings: Settings) -> None:
        if layout.pairs_transposed or not layout.rows_in_order:
            raise ValueError(
                'order="F" is not for an A on a GPU: leave it out, and pass cupy.ascontiguousarray'
                "(A.T), which has the columns of A as its rows"
            )
        if settings.memory is not None:
            raise ValueError(
                "memory= is for an A that is streamed, and this A is on a GPU: leave it out"
            )
        super().__init__(source, layout, settings)
        self.dtype, self._gpu = source.dtype, source.gpu

    # --- where things are

    def holds(self, value: object) -> bool:
        return self._gpu.holds(value)

    def brought(self, X: Any) -> Any:
        return self._gpu.downloaded(X) if self.holds(X) else X

    def returned(self, result: Any, X: Any) -> Any:
        return self._gpu.uploaded(result) if self.holds(X) else result

    def stays(self, what: str) -> Exception:
        return MemoryError(
            f"{what} would come from the GPU to this process: keep it there, with builder.value, "
            "op @ v or tocsr, or pass A.get() to compute it here"
        )

    def wrapped(self, operator: Any) -> Any:
        from cupyx.scipy.sparse.linalg import LinearOperator

        return LinearOperator(
            operator.shape,
            matvec=operator.dot,
            rmatvec=operator.H.dot,
            matmat=operator.dot,
            rmatmat=operator.H.dot,
            dtype=operator.dtype,
        )

    @computed_once
    def _bounds(self) -> tuple[Any, Any, Any]:
        """The bounds of the visited rows, and how many entries precede each, on the GPU."""
        pattern = self.pattern
        first = self._gpu.uploaded(pattern.first.astype(np.int64, copy=False))
        if isinstance(pattern, CudaPattern):
            return *pattern.on_gpu, first
        lo, hi = (self._gpu.uploaded(each) for each in (pattern.lo, pattern.hi))
        return lo, hi, first

    @property
    def _sparse(self) -> str:
        return "true" if self.source.sparse else "false"

    # --- maps

    def map(self, kernel: str, *args: Any, **how: Any) -> None:  # noqa: ARG002  # it has no place
        raise self.stays("a number for each row of J")

    def pair(self, x: NDArray[Any], v: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any] | None]:
        return x, v

    def mapped(
        self,
        kernel: str,
        *args: Any,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        columns: int = 1,
        target: CudaTarget | None = None,
        **_: Any,
    ) -> Any:
        """An array on the GPU. See `Backend.mapped`."""
        if kernel == "value":
            edge, x, v = "Value" if target is None else "Residual", args[-1], None
        elif kernel in ("matvec", "matmat"):
            edge, (x, v) = "Product", args
        else:
            raise self._unknown(kernel)
        self._check_real("x", dtype)
        gpu, pattern, by = self._gpu, self.pattern, _BY_ENTRY
        out = gpu.empty("the result", shape, dtype, zeros=pattern.implicit is not None)
        aligned, y_dtype = None, dtype
        if target is not None:
            aligned, by, y_dtype = target.values, target.by, np.dtype(target.values.dtype)
        types = ", ".join(TYPES[np.dtype(each)] for each in (self.dtype, dtype, y_dtype))
        several = "false" if v is None else "true"
        gpu.run_rows(
            f"map_rows<{edge}, {types}, {self._sparse}, {several}>",
            pattern.k,
            self.source.values,
            self.source.indices,
            *self._bounds,
            pattern.k,
            pattern.implicit is not None,
            columns,
            aligned,
            by,
            gpu.uploaded(x),
            None if v is None else gpu.uploaded(v),
            out,
        )
        return out

    def _unknown(self, kernel: str) -> Exception:
        if kernel.endswith("of_any_size"):
            return ValueError(
                f"products of x leave the range of {self.dtype}, which is not for an A on a GPU: "
                "scale x, or pass A.get()"
            )
        return ValueError(
            "rank=, loss= and regularization= are not for an A on a GPU: leave them out, or pass "
            "A.get()"
        )

    def _check_real(self, name: str, dtype: np.dtype[Any]) -> None:
        _validation.real(name, dtype, "an A on a GPU", "pass its real and imaginary parts")

    def jacobian(self, x: NDArray[Any]) -> Any:
        """J at x as a cupyx CSR matrix."""
        from cupyx.scipy.sparse import csr_matrix

        gpu, pattern = self._gpu, self.pattern
        self._check_real("x", x.dtype)
        if max(pattern.nnz, pattern.m) >= 2**31:
            raise ValueError(
                f"J has {pattern.nnz} entries, and cupyx has int32 indices: multiply by "
                "builder.operator(x) without forming it"
            )
        gpu.check_fits("J", pattern.nnz * (x.itemsize + 4) + 4 * pattern.m)
        data = gpu.empty("the numbers of J", (pattern.nnz,), x.dtype)
        columns = gpu.empty("the columns of J", (pattern.nnz,), np.int32)
        pointers = gpu.empty("the row pointers of J", (pattern.m + 1,), np.int32)
        types = ", ".join(TYPES[each] for each in (self.dtype, x.dtype))
        gpu.run_rows(
            f"jacobian<{types}, {self._sparse}>",
            pattern.m + 1,
            self.source.values,
            self.source.indices,
            *self._bounds,
            gpu.uploaded(pattern.diagonal.astype(np.int64)),
            pattern.k,
            pattern.implicit is not None,
            pattern.m,
            gpu.uploaded(x),
            data,
            columns,
            pointers,
            threads=True,
        )
        with gpu.here():
            return csr_matrix((data, columns, pointers), shape=(pattern.m, pattern.k))

    # --- reductions

    def reduce(
        self,
        kernel: str,
        x: Any,
        *args: Any,
        outputs: int = 1,
        columns: int | None = None,
        target: CudaTarget | None = None,
        **_: Any,
    ) -> NDArray[Any]:
        """See `Backend.reduce`. A pass takes one vector, and several vectors as many passes.

        **Memory.** Six k-vectors on the GPU. For a dense A and each output, also one float64 for
        each 64 of its numbers (128 from k = 4096 on, 256 from k = 16 384 on), and for each 1024.
        For a sparse A that is not symmetric, what `_columns` says, and it is kept.
        """
        if kernel == "squares_of_many":
            return np.stack([self.reduce("squares", u, False) for u in x[:outputs]])
        if kernel == "rmatmat" and target is not None:
            found = [
                self.reduce("rmatvec", x, False, target=target._replace(values=target.values[c:]))
                for c in range(columns or 0)
            ]
            return np.stack(found, axis=1) if found else np.empty((self.pattern.k, 0))
        if kernel not in _REDUCTIONS:
            raise self._unknown(kernel)
        operation, vectors = _REDUCTIONS[kernel], x if isinstance(x, tuple) else (x,)
        self._check_real("x", vectors[0].dtype)
        own = kernel == "squares" and bool(args[0])
        sums = self._sums(operation, vectors, target, own=own)
        return sums if isinstance(x, tuple) else sums[0, : self.pattern.k]

    def _sums(
        self,
        of: _Operation,
        vectors: tuple[NDArray[Any], ...],
        target: CudaTarget | None,
        *,
        own: bool = False,
        whole_rows: CudaBackend | None = None,
    ) -> NDArray[Any]:
        """The outputs as rows of k numbers, each with room for the scalars behind them.

        With `whole_rows`, the backend of all of a symmetric A, they are the sums of its rows
        without the diagonal.
        """
        gpu, k = self._gpu, self.pattern.k
        out = gpu.empty("sums over A", (of.outputs, k + of.scalars), np.float64)
        if k == 0:
            return np.zeros(out.shape)
        y_dtype = self.dtype if target is None else np.dtype(target.values.dtype)
        types = f"{of.edge}, {TYPES[self.dtype]}, {TYPES[y_dtype]}"
        x, v = (gpu.uploaded(each) for each in (vectors * 2)[:2])
        aligned = (None, _BY_ENTRY, 0) if target is None else (*target[:2], target.columns)
        symmetric = of.either_way and self._is_symmetric(target)
        if self.source.sparse:
            blocks = -(-k // 8)
            parts = gpu.empty("sums over A", (blocks * of.scalars,), np.float64)
            rows, columns = self, (None, None, None)
            if whole_rows is not None:
                rows = whole_rows
            elif not symmetric:
                columns = self._columns
            factor = 2.0 if symmetric and whole_rows is None else 1.0
            gpu.run_rows(
                f"sparse_sums<{types}>", k, self.source.values, self.source.indices, *rows._bounds,
                k, *columns, *aligned, whole_rows is not None, own, x, v, factor, k + of.scalars,
                out, parts,
            )  # fmt: skip
            factor = 1.0
        else:
            lo, hi, first = self._upper if symmetric else self._bounds
            height = tile_rows(k)
            down, across = -(-k // height), -(-k // _COLUMNS)
            blocks = down * across
            at_rows, at_columns, parts = (
                gpu.empty("partial sums over A", shape, np.float64)
                for shape in (
                    (across, of.outputs, k), (down, of.outputs, k), (blocks, of.scalars),
                )
            )  # fmt: skip
            gpu.run(
                f"dense_sums<{types}>", blocks, self.source.values, lo, hi, first, k, height,
                *aligned, symmetric, own, x, v, at_rows, at_columns, parts,
            )  # fmt: skip
            factor = 2.0 if symmetric else 1.0
            tiles = at_rows, across, at_columns, down
            args = *tiles, k, factor, k + of.scalars, out
            gpu.run_rows(f"add_tiles<{of.edge}>", k, *args, threads=True)
        if of.scalars:
            gpu.run("add_scalars", of.scalars, parts, blocks, of.scalars, factor, out[0, k:])
        return gpu.downloaded(out)

    def _is_symmetric(self, target: CudaTarget | None) -> bool:
        """Whether all of J's rows count, and A and a target were symmetric to the bit."""
        return self._halves and (target is None or target.is_symmetric)

    def for_sums(self) -> CudaBackend:
        """See `Backend.for_sums`. This takes a pass, if all of A counts."""
        found = object.__new__(CudaBackend)  # it is not copied as a pickle would be
        found.__dict__.update(self.__dict__)
        found._halves = self.layout.side is None and self.source.is_symmetric()
        return found

    @computed_once
    def _upper(self) -> tuple[Any, Any, Any]:
        """The bounds of the upper triangle of a dense A. Nothing is numbered by J's rows there."""
        own = np.arange(self.pattern.k, dtype=np.int64)
        _, hi, first = self._bounds
        return self._gpu.uploaded(self.pattern.lo + own), hi, first

    @computed_once
    def _columns(self) -> tuple[Any, Any, Any]:
        """The stored entries of each column: how many precede it, their rows, and their numbers.

        **Memory.** 12 bytes for each entry of A on the GPU, and while they are sorted 28.
        """
        gpu, source, k = self._gpu, self.source, self.pattern.k
        count = int(source.indices.size)
        gpu.check_fits("the order of A's entries by columns", 28 * count)
        with gpu.here():
            cupy = gpu.cupy
            entries = cupy.argsort(source.indices, kind="stable").astype(np.int64, copy=False)
            begin = cupy.searchsorted(source.indices[entries], cupy.arange(k + 1, dtype=np.int32))
            ends = source.bounds[1]
            rows = cupy.searchsorted(ends, entries, side="right").astype(np.int32)
        return begin.astype(np.int64, copy=False), rows, entries

    def row_products(self, u: NDArray[Any], *, own: bool) -> NDArray[Any]:
        """See `Backend.row_products`. Whole rows of a sparse symmetric A are gathered."""
        if not (own and self._gathers):
            return super().row_products(u, own=own)
        found = self._sums(_REDUCTIONS["symmetric"], (u,), None, whole_rows=self._whole)
        return found[0]

    @computed_once
    def _gathers(self) -> bool:
        """Whether whole rows of A without the diagonal give the products."""
        side, source = self.layout.side, self.source
        plain = side is not None and side.offset == 1 and side.groups is None
        return plain and source.sparse and source.is_symmetric()

    @computed_once
    def _whole(self) -> CudaBackend:
        """The backend of all entries of A."""
        return CudaBackend(self.source, Layout(transposed=False), self.settings)

    # --- the numbers beside A

    def weights(self, w: Any, dtype: np.dtype[Any]) -> CudaTarget:  # noqa: ARG002  # w has its own
        if not self.holds(w):
            raise TypeError(
                "the weights for J's rows must be a CuPy array, as A is on a GPU: pass "
                "cupy.asarray(w); instead of lsqr or lsmr of SciPy, whose vectors are in this "
                "process, solve with cg and operator.normal(), or with cupyx and operator.cupyx()"
            )
        self._check_on(w, "w")
        with self._gpu.here():
            values = self._gpu.cupy.ascontiguousarray(w).reshape(-1)
        columns = w.shape[1] if w.ndim == 2 else 1
        return CudaTarget(values, self._by_rows(), np.dtype(w.dtype), columns)

    def _by_rows(self) -> np.int32:
        """How a number for each row of J belongs to an entry."""
        if self.pattern.implicit is not None:
            return _BY_PLACE
        return _BY_ENTRY if self.pattern.is_whole else _BY_ROW

    def _check_on(self, value: Any, name: str) -> None:
        if value.dtype not in TYPES:
            raise TypeError(
                f"{name} must be float32 or float64 on a GPU, got {value.dtype}: pass "
                f"{name}.astype(cupy.float64)"
            )
        self._check_gpu(value.device.id, name)

    def _check_gpu(self, number: int, name: str) -> None:
        if number != self._gpu.number:
            raise ValueError(
                f"{name} is on GPU {number}, and A is on GPU {self._gpu.number}: copy {name} there"
            )

    def aligned(self, of: Any) -> CudaTarget:
        """The numbers of a Y at A's entries. `of` may also be a vector in the order of J's rows.

        **Memory.** If Y and A are sparse and of different structure, or Y is dense and A is sparse,
        a copy of Y with a number for each entry of A.
        """
        check = self.settings.check_finite
        if self.holds(of):
            self._check_on(of, "Y")
            return self._aligned_vector(of, check=check)
        if not isinstance(of, CudaSource):
            raise TypeError(
                "Y must be on the GPU, as A is: pass cupy.asarray(Y), or for a sparse Y "
                "cupyx.scipy.sparse.csr_matrix(Y)"
            )
        self._check_gpu(of.gpu.number, "Y")
        if check:
            of.check_finite("Y")
        own = self.source
        if own.has_structure_of(of):
            symmetric = own.is_symmetric() and of.is_symmetric()
            return CudaTarget(of.values, _BY_ENTRY, of.dtype, is_symmetric=symmetric)
        if not own.sparse:
            raise TypeError(
                "Y is sparse and A is dense, and on a GPU Y is not converted: pass Y.toarray(), or "
                "a sparse A"
            )
        return self._at_entries(of)

    def _aligned_vector(self, y: Any, *, check: bool) -> CudaTarget:
        with self._gpu.here():
            y = self._gpu.cupy.ascontiguousarray(y)
        of = CudaSource(self._gpu, self.pattern.k, y)
        if y.size == self.pattern.k**2:
            if check:
                of.check_finite("Y")
            own = self.source
            if own.sparse:
                return self._at_entries(of)
            symmetric = own.is_symmetric() and of.is_symmetric()
            return CudaTarget(y, _BY_ENTRY, of.dtype, is_symmetric=symmetric)
        if check:
            self._check_vector(y)
        own, by, symmetric = self.source, self._by_rows(), False
        if own.sparse and by == _BY_ENTRY:
            beside = CudaSource(self._gpu, own.k, y, own.indptr, own.indices)
            symmetric = own.is_symmetric() and beside.is_symmetric()
        return CudaTarget(y, by, np.dtype(y.dtype), is_symmetric=symmetric)

    def _check_vector(self, y: Any) -> None:
        """Refuse NaN and infinity in a vector in the order of J's rows."""
        gpu, (_, _, first) = self._gpu, self._bounds
        k, facts = self.pattern.k, gpu.empty("a check of Y", (4, self.pattern.k), np.float64)
        gpu.run_rows(
            f"row_facts<{TYPES[np.dtype(y.dtype)]}>", k, y, first[:-1], first[1:], k, facts
        )
        bad = gpu.downloaded(facts)[3]
        if bad.any():
            i = int(np.argmax(bad > 0))
            begin, end = int(self.pattern.first[i]), int(self.pattern.first[i + 1])
            numbers = gpu.downloaded(y[begin:end])
            q = int(np.argmin(np.isfinite(numbers)))
            raise _validation.not_finite("Y", (begin + q,), numbers[q])

    def _at_entries(self, of: CudaSource) -> CudaTarget:
        """The numbers of Y at the entries of a sparse A. It must be zero elsewhere."""
        gpu, own, k = self._gpu, self.source, self.pattern.k
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
        return CudaTarget(out, _BY_ENTRY, of.dtype, is_symmetric=symmetric)

    # --- scans, and single entries

    def check(self, symmetric: str | None) -> None:
        if self.settings.check_finite:
            self.source.check_finite("A")
        place = self.source.unequal() if symmetric else None
        if symmetric and place is not None:
            raise _validation.not_symmetric(*place, symmetric)

    def asymmetry(self) -> tuple[int, float] | None:
        place = self.source.unequal()
        if place is None:
            return None
        i, j = place
        return i, abs(self.source.number_at(i, j) - self.source.number_at(j, i))

    def scan(self) -> Scan:
        return Scan(self.diagonal(), *self.extremes())

    def extremes(self) -> tuple[Any, tuple[int, int], float]:
        return self.source.extremes()

    def at(self, entries: Any) -> NDArray[Any]:
        return self._gpu.taken(self.source.values, entries)

    def diagonal(self) -> NDArray[Any]:
        return self.diagonal_of(CudaTarget(self.source.values, _BY_ENTRY, self.dtype))

    def diagonal_of(self, target: Any) -> NDArray[Any]:
        pattern, found = self.pattern, np.zeros(self.pattern.k)
        places = pattern.diagonal_entries()
        stored = places >= 0
        if target.by == _BY_ROW:
            stored &= (pattern.lo <= places) & (places < pattern.hi)
            places = places - pattern.lo + pattern.first[:-1]
        elif target.by == _BY_PLACE:
            places = np.arange(pattern.k, dtype=np.int64) * (pattern.k + 1)
        found[stored] = self._gpu.taken(target.values, places[stored])
        return found

    def any_nonzero(self, target: Any) -> bool:
        with self._gpu.here():
            return bool(target.values.any())

    def visited(self) -> Any:
        raise self.stays("the pairs of all entries")

    def values(self, target: Any = None) -> NDArray[Any]:  # noqa: ARG002  # none is brought
        raise self.stays("the numbers of all entries")

    def positive_entries(self) -> Any:
        """See `Backend.positive_entries`. They come to this process, if they fit into its memory.

        On the GPU this takes 8 bytes for each visited entry, and 32 for each positive one.
        """
        gpu, pattern = self._gpu, self.pattern
        i, j = (
            gpu.empty("the pairs of all entries", (pattern.entries,), np.int32) for _ in range(2)
        )
        lo, hi, first = self._bounds
        args = self.source.indices, lo, hi, first, pattern.k, i, j
        gpu.run_rows(f"pairs<{self._sparse}>", pattern.k, *args)
        with gpu.here():
            # the position of a visited entry: its number, and the entries before it not visited
            positions = gpu.cupy.arange(pattern.entries) + (lo - first[:-1])[i]
            chosen = gpu.cupy.flatnonzero(self.source.values[positions] > 0)
            found = [each[chosen] for each in (i, j, positions)]
        count = int(chosen.size)
        _validation.fits("the positive entries of A", 16 * count, 'pass support="skip"')
        return tuple(map(gpu.downloaded, found))


def tile_rows(k: int) -> int:
    """The rows of a tile of a dense A: a large A has enough tiles for all processors of a GPU."""
    return 64 if k < 4096 else 128 if k < 16384 else 256


CudaSource.backend = CudaBackend
registry.MAKERS.append((is_on_gpu, source_of))
