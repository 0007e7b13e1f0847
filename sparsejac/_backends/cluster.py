"""The backend of an A whose rows are on the workers of a cluster.

A worker holds a *part*: some consecutive rows of A, as a `ThreadBackend` of a k×k matrix that has
no other entries. F has a row of its own for each entry of A, so a map of A consists of the maps of
the parts, which stay where they are. A reduction of A is the sum of those of the parts.

This process holds k-vectors and sizes, and no pattern. What carries objects to workers is a
`Transport`.

The bits of a sum depend on the parts alone, not on the workers that have them: the partial sums of
the parts are added in the order of their rows, and those of many parts in a tree of fixed shape.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from .. import _validation
from .._kernels import combine
from .._matrix.align import VectorRows
from .._matrix.buffers import Buffer
from .._matrix.entries import kernel_dtype
from .._matrix.layout import Layout, layout_of_whole
from .._matrix.pattern import Pattern
from .._matrix.scan import Scan
from .._matrix.source import Part, Source
from .._system.forks import computed_once
from .._validation import Settings
from . import cluster_parts as on_worker
from .cluster_source import ClusterSource, Handle
from .failures import LostPartsError
from .protocol import Backend, Reduction

_ATTEMPTS = 2  # how often a reduction begins anew
_BY_ROWS = {"squares", "gradient", "curvature"}  # what a symmetric A sums up row by row
_DIRECT = 8  # so many partial sums are added in this process, and more of them in a tree


class SizedPattern(Pattern):
    """The sizes of a pattern whose index arrays are on the workers."""

    def __init__(
        self, source: ClusterSource, entries: int, diagonal: int, *, implicit_rows: bool
    ) -> None:
        self.k, self.entries, self._diagonal = source.k, entries, diagonal
        self.width = source.k
        self.interleaved, self.implicit = source.sparse, source.k if implicit_rows else None

    def row(self, i: Any) -> int:
        assert i == self.k
        return self.entries if self.implicit is None else self.k**2

    @property
    def nnz(self) -> int:
        return 2 * self.entries - self._diagonal

    @property
    def bounds(self) -> Any:
        raise _validation.on_workers("the CSR matrix")

    def row_offset(self, r: int) -> Any:  # noqa: ARG002  # it is nowhere in this process
        raise _validation.on_workers("a block of J")


class ClusterTarget(NamedTuple):
    """Numbers at A's entries, or for J's rows, that lie beside the parts of A."""

    parts: list[Handle]
    given_dtype: np.dtype[Any]
    is_symmetric: bool = False

    def check_unchanged(self) -> None:
        """They are copies."""


class ClusterBackend(Backend):
    """The backend of a matrix whose rows are on the workers of a cluster."""

    source: ClusterSource
    local = False

    def __init__(self, source: ClusterSource, layout: Layout, settings: Settings) -> None:
        super().__init__(source, layout, settings)
        self.dtype, self._transport = kernel_dtype(source.dtype), source.transport
        self._last_sent: list[tuple[NDArray[Any], Handle]] = []
        self._last_reduction: Handle | None = None
        own = replace(layout, implicit_rows=False)
        workers = settings.workers or self._transport.threads
        settings = settings._replace(workers=workers, memory=None, progress=False)
        view = on_worker.View(uuid.uuid4().hex, source.uplo, own, settings)
        self.view = self._transport.send(view)
        self._entries, diagonals = zip(*self._each(on_worker.sizes), strict=True)
        self.pattern = SizedPattern(
            source, sum(self._entries), sum(diagonals), implicit_rows=self.implicit
        )
        rows = np.diff(source.bounds) * source.k
        self.nnz_of_parts = [2 * e - d for e, d in zip(self._entries, diagonals, strict=True)]
        self.lengths = [*map(int, rows)] if self.implicit else [*self._entries]

    def __reduce__(self) -> Any:
        raise TypeError(
            "an A on a cluster does not pickle, as its rows belong to the client of this process: "
            "load it anew with sparsejac.distributed.rows"
        )

    @property
    def implicit(self) -> bool:
        return self.layout.implicit_rows and self.source.sparse

    def on_parts(
        self, function: Callable[..., Any], *args: Any, beside: ClusterTarget | None = None
    ) -> list[Handle]:
        """Run a function of a part, this view, and arguments where each part is.

        With `beside`, the numbers beside the part are the last argument.
        """
        call, parts, view = self._transport.call, self.source.parts, self.view
        if beside is None:
            return [call(function, part, view, *args) for part in parts]
        both = zip(parts, beside.parts, strict=True)
        return [call(function, part, view, *args, other) for part, other in both]

    def _each(self, function: Callable[..., Any], *args: Any, **how: Any) -> list[Any]:
        """What a function returns for each part."""
        return self._transport.gather(self.on_parts(function, *args, **how))

    def _sent(self, args: Any) -> Any:
        """The arguments of a kernel with vectors that are sent to the workers."""
        if isinstance(args, np.ndarray):
            return self._sent_once(args)
        if isinstance(args, Reduction):  # it is kept until its tasks have reached the scheduler
            self._last_reduction = self._transport.send(args)
            return self._last_reduction
        return tuple(map(self._sent, args)) if isinstance(args, tuple) else args

    def _sent_once(self, x: NDArray[Any]) -> Handle:
        """Send a vector, unless it is one of the last two: products at one x have x in common."""
        for each in self._last_sent:
            known, handle = each
            if known.dtype == x.dtype and _equal(known, x):
                break
        else:
            copy = x.copy()  # it may be sent after the caller has changed x
            each = copy, (handle := self._transport.send(copy))
        others = [other for other in self._last_sent if other is not each]
        self._last_sent = [each, *others[:1]]
        return handle

    # --- maps and reductions

    def map(self, kernel: str, *args: Any, **how: Any) -> None:  # noqa: ARG002  # it has no place
        raise _validation.on_workers("a number for each row of J")

    def mapped(
        self,
        kernel: str,
        *args: Any,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        target: Any = None,
        **how: Any,
    ) -> Any:
        """An array on the workers. See `Backend.mapped`."""
        if not self.layout.rows_in_order:
            raise self.wrong_order()
        like, sent = np.empty((0, *shape[1:]), dtype), self._sent(args)
        blocks = self.on_parts(
            on_worker.mapped, kernel, sent, like, how, self.implicit, beside=target
        )
        return self._transport.array(blocks, self.lengths, like)

    def reduce(
        self,
        kernel: str,
        x: NDArray[Any] | tuple[NDArray[Any], ...],
        *args: Any,
        target: Any = None,
        **how: Any,
    ) -> NDArray[Any]:
        """See `Backend.reduce`. Each part sends one partial sum."""
        return self._again_if_lost(lambda: self._sums(kernel, x, args, target, how), target)

    def _again_if_lost(
        self, run: Callable[[], NDArray[Any]], target: ClusterTarget | None = None
    ) -> NDArray[Any]:
        """Run an operation anew if a vector was lost with the worker that had it."""
        for _ in range(_ATTEMPTS):
            try:
                return run()
            except LostPartsError:
                self._last_sent = []
                kept = [*self.source.parts, *(target.parts if target else ())]
                if not self._transport.has(kept):
                    raise
        return run()

    def _sums(
        self, kernel: str, x: Any, args: Any, target: ClusterTarget | None, how: dict[str, Any]
    ) -> NDArray[Any]:
        if kernel in _BY_ROWS and not any(args) and self._is_symmetric(target):
            return self._sums_by_rows(f"{kernel}_by_rows", x, target, how)
        sums = self.on_parts(on_worker.reduced, kernel, self._sent(x), args, how, beside=target)
        while len(sums) > _DIRECT:
            pairs = zip(sums[::2], [*sums[1::2], None][: len(sums[::2])], strict=True)
            sums = [
                self._transport.call(on_worker.added, one, kernel, other) for one, other in pairs
            ]
        total, *others = self._transport.gather(sums)
        total = np.require(total, requirements=["W", "A"])
        with np.errstate(over="ignore", invalid="ignore"):  # as in the kernels
            for part in others:
                combine(kernel, total, part)
        return total

    def _sums_by_rows(
        self, kernel: str, x: Any, target: ClusterTarget | None, how: dict[str, Any]
    ) -> NDArray[Any]:
        """Twice the sums of each part over its own rows, which are those of a symmetric A."""
        found = self._each(on_worker.reduced_by_rows, kernel, self._sent(x), how, beside=target)
        own, scalars = zip(*found, strict=True)
        rows = np.concatenate(own, axis=-1)
        with np.errstate(over="ignore", invalid="ignore"):  # as in the kernels
            rows *= 2
            return np.concatenate([rows, sum(scalars)], axis=-1)

    def _is_symmetric(self, target: ClusterTarget | None) -> bool:
        """Whether A and a target are symmetric to the bit, and all of J's rows count."""
        if self.layout.side is not None or self.dtype.kind == "c":
            return False
        return self._a_is_symmetric and (target is None or target.is_symmetric)

    @computed_once
    def _a_is_symmetric(self) -> bool:
        return sum(self._each(on_worker.asymmetry)) % 2**64 == 0

    def row_products(self, u: NDArray[Any], *, own: bool) -> NDArray[Any]:
        """See `Backend.row_products`. Of a symmetric A each part returns the sums of its rows.

        They contain the diagonal. Without it the sums might be mostly rounding, unless the caller
        adds it again.
        """
        side, whole = self.layout.side, self._whole
        if not own or side is None or side.groups is not None or whole is None:
            return super().row_products(u, own=own)
        kernel, each = "symmetric_by_rows", whole._each

        def run() -> NDArray[Any]:
            found = each(on_worker.reduced_by_rows, kernel, self._sent(u), {})
            return np.concatenate([sums for sums, _ in found])

        products = self._again_if_lost(run)
        with np.errstate(over="ignore", invalid="ignore"):
            return products - self._own_diagonal * u

    @computed_once
    def _whole(self) -> ClusterBackend | None:
        """The backend of all of A, if A is symmetric to the bit."""
        if self.source.uplo is not None:
            return None
        found = ClusterBackend(self.source, layout_of_whole(self.source), self.settings)
        return found if found._a_is_symmetric else None

    # --- the numbers that lie beside A

    def holds(self, value: object) -> bool:
        return self._transport.is_array(value)

    def weights(self, w: Any, dtype: np.dtype[Any]) -> ClusterTarget:
        if not self.layout.rows_in_order:
            raise self.wrong_order()
        if self.holds(w):
            blocks = self._transport.blocks(w, self.lengths)
        else:
            ends = np.cumsum(self.lengths)
            blocks = [
                self._transport.put(w[end - n : end].copy())
                for end, n in zip(ends, self.lengths, strict=True)
            ]
        given = ClusterTarget(blocks, w.dtype)
        parts = self.on_parts(on_worker.weights, dtype, self.implicit, beside=given)
        return ClusterTarget(parts, w.dtype)

    def aligned(self, of: Any) -> ClusterTarget:
        """The numbers of a Y at A's entries, beside the parts of A.

        `of` may also be a vector on the workers, in the order of J's rows.
        """
        if self.holds(of):
            others = self._transport.blocks(of, self.lengths)
        elif isinstance(of, ClusterSource):
            others = of.parts_at(self.source.bounds)
        else:
            others = [self._transport.put(each) for each in self._blocks_of(of)]
        given = ClusterTarget(others, of.dtype)
        transposed = getattr(of, "transposed", False)
        parts = self.on_parts(on_worker.aligned, transposed, beside=given)
        self._transport.gather([self._transport.call(on_worker.nothing, part) for part in parts])
        found = ClusterTarget(parts, of.dtype)
        if self._is_symmetric(None):
            defect = sum(self._each(on_worker.asymmetry, beside=found)) % 2**64
            found = found._replace(is_symmetric=defect == 0)
        return found

    def _blocks_of(self, of: Source) -> list[Any]:
        """The rows of a Y that is in this process, or on its disk, between the bounds of A."""
        bounds, entries, buffers = self.source.bounds, 0, [Buffer() for _ in range(5)]
        found: list[Any] = []
        with (of.vector if isinstance(of, VectorRows) else of).opened() as read:
            for i0, i1, n in zip(bounds[:-1], bounds[1:], self._entries, strict=True):
                if isinstance(of, VectorRows):
                    found.append(np.array(read(entries, entries + n, buffers[0])))
                    entries += n
                    continue
                block = read(Part(i0, i1, 0, of.k), buffers)
                data = np.array(block.data)
                if block.indices is None:
                    found.append(data.reshape(i1 - i0, of.k))
                    continue
                indptr = of.indptr[i0 : i1 + 1] - of.indptr[i0]  # type: ignore[attr-defined]
                arrays = data, np.array(block.indices), indptr
                found.append(scipy.sparse.csr_array(arrays, shape=(i1 - i0, of.k)))
        return found

    # --- scans, and single entries

    def check(self, symmetric: str | None) -> None:
        if self.settings.check_finite:
            self._each(on_worker.check)
        if symmetric is None:
            return
        whole = self
        if self.layout.side is not None:
            whole = ClusterBackend(self.source, layout_of_whole(self.source), self.settings)
        defect = whole.asymmetry()
        if defect is not None:
            raise _validation.not_symmetric_row(*defect, symmetric)

    def scan(self) -> Scan:
        return Scan(self.diagonal().real, *self.extremes())

    def extremes(self) -> tuple[Any, tuple[int, int], float]:
        found = self._each(on_worker.extremes)
        lowest, place, _ = min(found, key=lambda each: each[0])
        return lowest, place, max(each[2] for each in found)

    @computed_once
    def _own_diagonal(self) -> NDArray[Any]:
        return np.concatenate(self._each(on_worker.diagonal))

    def diagonal(self) -> NDArray[Any]:
        return self._own_diagonal.copy()

    def diagonal_of(self, target: Any) -> NDArray[Any]:
        return np.concatenate(self._each(on_worker.diagonal, beside=target))

    def any_nonzero(self, target: Any) -> bool:
        calls = [self._transport.call(on_worker.any_nonzero, part) for part in target.parts]
        return any(self._transport.gather(calls))

    def neighbours(self, s: int) -> Any:
        in_row, in_column = zip(*self._each(on_worker.neighbours, s), strict=True)
        row, column = (
            tuple(map(np.concatenate, zip(*found, strict=True))) for found in (in_row, in_column)
        )
        return row, column

    def visited(self) -> Any:
        raise _validation.on_workers("the pairs of all entries")

    def positive_entries(self) -> Any:
        """See `Backend.positive_entries`. They come to this process, if they fit into its memory.

        The positions count those of each part.
        """
        return tuple(map(np.concatenate, zip(*self._each(on_worker.positive_entries), strict=True)))

    def values(self, target: Any = None) -> NDArray[Any]:  # noqa: ARG002  # none is brought
        raise _validation.on_workers("the numbers of all entries")


def _equal(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two arrays have the same bits. Most of those that differ do so at their begin."""
    if one.shape != other.shape:
        return False
    one, other = one.reshape(-1).view(np.uint8), other.reshape(-1).view(np.uint8)
    return np.array_equal(one[:64], other[:64]) and np.array_equal(one, other)
