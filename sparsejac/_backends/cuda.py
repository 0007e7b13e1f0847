"""The backend of an A in the memory of a GPU. Experimental: it has not been timed.

A, and all that has a number for each row of J, stay on the GPU as CuPy arrays. The k-vectors of an
operation are sent there, and its sums are fetched. Sums do not depend on the order in which the GPU
runs its threads: see `kernels.cu`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _validation
from .._matrix import registry
from .._matrix.layout import Layout
from .._matrix.scan import Scan
from .._system.forks import computed_once
from .._validation import Settings
from . import cuda_sums, cuda_targets
from .cuda_device import TYPES, is_on_gpu
from .cuda_source import CudaPattern, CudaSource, source_of
from .cuda_sums import REDUCTIONS
from .cuda_targets import BY_ENTRY, CudaTarget
from .protocol import Backend


class CudaBackend(Backend):
    """The backend of a matrix in the memory of a GPU."""

    source: CudaSource
    local = False
    _halves = False  # whether A was symmetric to the bit when this backend was made for sums

    def __init__(self, source: CudaSource, layout: Layout, settings: Settings) -> None:
        if layout.pairs_transposed or not layout.rows_in_order:
            raise ValueError(
                'order="F" is not for an A on a GPU: leave it out, and pass cupy.ascontiguousarray'
                "(A.T), or A.T.tocsr() of a sparse A, which has the columns of A as its rows"
            )
        if settings.memory is not None:
            raise ValueError(
                "memory= is for an A that is streamed, and this A is on a GPU: leave it out"
            )
        super().__init__(source, layout, settings)
        self.dtype, self.gpu = source.dtype, source.gpu

    # --- where things are

    def holds(self, value: object) -> bool:
        return self.gpu.holds(value)

    def brought(self, X: Any) -> Any:
        return self.gpu.downloaded(X) if self.holds(X) else X

    def returned(self, result: Any, X: Any) -> Any:
        return self.gpu.uploaded(result) if self.holds(X) else result

    def stays(self, what: str) -> Exception:
        return MemoryError(
            f"{what} would come from the GPU to this process: keep it there, with builder.value, "
            "builder.tocsr or J @ v, multiply a k×k operator by numpy.eye(k), or pass A.get() to "
            "compute it here"
        )

    def wrapped(self, operator: Any) -> Any:
        from cupyx.scipy.sparse.linalg import LinearOperator

        return LinearOperator(
            operator.shape,
            matvec=operator.matvec,
            rmatvec=operator.rmatvec,
            matmat=operator.matmat,
            rmatmat=operator.rmatmat,
            dtype=operator.dtype,
        )

    @computed_once
    def bounds_on_gpu(self) -> tuple[Any, Any, Any]:
        """The bounds of the visited rows, and how many entries precede each, on the GPU."""
        pattern = self.pattern
        first = self.gpu.uploaded(pattern.first.astype(np.int64, copy=False))
        if isinstance(pattern, CudaPattern):
            return *pattern.on_gpu, first
        lo, hi = (self.gpu.uploaded(each) for each in (pattern.lo, pattern.hi))
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
        self.check_unchanged(target)
        if kernel == "value":
            edge, x, v = "Value" if target is None else "Residual", args[-1], None
        elif kernel in ("matvec", "matmat"):
            edge, (x, v) = "Product", args
        else:
            raise self._cannot_run(kernel)
        self._check_real("x", dtype)
        gpu, pattern, by = self.gpu, self.pattern, BY_ENTRY
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
            *self.bounds_on_gpu,
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

    def check_takes(self, option: str) -> None:
        raise self._not_for_gpus(option)

    def _cannot_run(self, kernel: str) -> ValueError:
        if kernel.endswith("of_any_size"):
            return ValueError(
                f"products of x leave the range of {self.dtype}, which is not for an A on a GPU: "
                "scale x, or pass A.get()"
            )
        return self._not_for_gpus(f"the operation {kernel}")

    @staticmethod
    def _not_for_gpus(what: str) -> ValueError:
        return ValueError(f"{what} is not for an A on a GPU: leave it out, or pass A.get()")

    def _check_real(self, name: str, dtype: np.dtype[Any]) -> None:
        _validation.real(name, dtype, "an A on a GPU", "pass its real and imaginary parts")

    def jacobian(self, x: NDArray[Any]) -> Any:
        """J at x as a cupyx CSR matrix."""
        from cupyx.scipy.sparse import csr_matrix

        gpu, pattern = self.gpu, self.pattern
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
            *self.bounds_on_gpu,
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
        For a sparse A that is not symmetric, what `CudaSource.by_columns` says, and it is kept.
        """
        if kernel == "squares_of_many":
            return np.stack([self.reduce("squares", u, False) for u in x[:outputs]])
        if kernel == "rmatmat" and target is not None:
            found = [
                self.reduce("rmatvec", x, False, target=target._replace(values=target.values[c:]))
                for c in range(columns or 0)
            ]
            return np.stack(found, axis=1) if found else np.empty((self.pattern.k, 0))
        if kernel not in REDUCTIONS:
            raise self._cannot_run(kernel)
        operation, vectors = REDUCTIONS[kernel], x if isinstance(x, tuple) else (x,)
        self._check_real("x", vectors[0].dtype)
        own = kernel == "squares" and bool(args[0])
        sums = cuda_sums.sums(self, operation, vectors, target, own=own)
        return sums if isinstance(x, tuple) else sums[0, : self.pattern.k]

    def is_symmetric(self, target: CudaTarget | None) -> bool:
        """Whether all of J's rows count, and A and a target were symmetric to the bit."""
        return self._halves and (target is None or target.is_symmetric)

    def for_sums(self) -> CudaBackend:
        """See `Backend.for_sums`. This takes a pass, if all of A counts."""
        found = object.__new__(CudaBackend)  # it is not copied as a pickle would be
        found.__dict__.update(self.__dict__)
        found._halves = self.layout.side is None and self.source.is_symmetric()
        return found

    @computed_once
    def upper(self) -> tuple[Any, Any, Any]:
        """The bounds of the upper triangle of a dense A. Nothing is numbered by J's rows there."""
        own = np.arange(self.pattern.k, dtype=np.int64)
        _, hi, first = self.bounds_on_gpu
        return self.gpu.uploaded(self.pattern.lo + own), hi, first

    def row_products(self, u: NDArray[Any], *, own: bool) -> NDArray[Any]:
        """See `Backend.row_products`. Whole rows of a sparse symmetric A are gathered."""
        if not (own and self._gathers):
            return super().row_products(u, own=own)
        found = cuda_sums.sums(self, REDUCTIONS["symmetric"], (u,), None, whole=self._whole)
        return found[0]

    @computed_once
    def _gathers(self) -> bool:
        """Whether whole rows of A without the diagonal give the products."""
        side, source = self.layout.side, self.source
        plain = side is not None and side.groups is None
        return plain and source.sparse and source.is_symmetric()

    @computed_once
    def _whole(self) -> CudaBackend:
        """The backend of all entries of A."""
        return CudaBackend(self.source, Layout(transposed=False), self.settings)

    # --- the numbers beside A

    def weights(self, w: Any, dtype: np.dtype[Any]) -> CudaTarget:  # noqa: ARG002  # w has its own
        return cuda_targets.weights(self, w)

    def aligned(self, of: Any) -> CudaTarget:
        """See `cuda_targets.aligned`."""
        return cuda_targets.aligned(self, of)

    def diagonal_of(self, target: Any) -> NDArray[Any]:
        return cuda_targets.diagonal_of(self, target)

    # --- scans, and single entries

    def check(self, symmetric: str | None) -> None:
        if self.settings.check_finite:
            self.source.check_finite("A")
        place = self.source.unequal() if symmetric else None
        if symmetric and place is not None:
            i, j = place
            raise ValueError(
                f"A must be symmetric for {symmetric}, but A[{i}, {j}] != A[{j}, {i}], by more "
                'than rounding: pass (A + A.T) / 2, or, where it is taken, rows="stored"'
            )

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
        return self.gpu.taken(self.source.values, entries)

    def diagonal(self) -> NDArray[Any]:
        return self.diagonal_of(CudaTarget(self.source.values, BY_ENTRY, self.dtype))

    def any_nonzero(self, target: Any) -> bool:
        with self.gpu.here():
            return bool(target.values.any())

    def visited(self) -> Any:
        raise self.stays("the pairs of all entries")

    def values(self, target: Any = None) -> NDArray[Any]:  # noqa: ARG002  # none is brought
        raise self.stays("the numbers of all entries")

    def positive_entries(self) -> Any:
        """See `Backend.positive_entries`. They come to this process, if they fit into its memory.

        On the GPU this takes 40 bytes for each visited entry, and 32 for each positive one.
        """
        gpu, pattern = self.gpu, self.pattern
        gpu.check_fits("the pairs of all entries", 40 * pattern.entries, 'pass support="skip"')
        i, j = (
            gpu.empty("the pairs of all entries", (pattern.entries,), np.int32) for _ in range(2)
        )
        lo, hi, first = self.bounds_on_gpu
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


CudaSource.backend = CudaBackend
registry.MAKERS.append((is_on_gpu, source_of))
