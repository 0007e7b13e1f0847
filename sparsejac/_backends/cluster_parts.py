"""What runs on the workers of a cluster: functions of a part of A.

A part is a source of some consecutive rows. What arrives at a worker is read-only, and may lie at
any address, where compiled code would read wrong numbers. It is copied then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from .._kernels import combine
from .._matrix.align import VectorRows, align
from .._matrix.buffers import Buffer
from .._matrix.entries import Weights
from .._matrix.indices import frozen, triangle
from .._matrix.layout import Layout
from .._matrix.numbers import MemoryNumbers
from .._matrix.rows import RowsSource, rows_source
from .._matrix.source import Source
from .._validation import Settings, Uplo, finite_blocks, mixed_blocks
from .threads import ThreadBackend

_HASHED = 2**18  # entries that are hashed at a time
_KEPT = 3  # the patterns that a part keeps for the last views of it
_lock = threading.Lock()


class View(NamedTuple):
    """How the rows of a part are read. `name` tells one view from others."""

    name: str
    uplo: Uplo | None
    layout: Layout
    settings: Settings


class Facts(NamedTuple):
    """What the client knows of a part."""

    rows: tuple[int, int]
    k: int
    dtype: np.dtype[Any]
    sparse: bool
    max_row_nnz: int


class RowsPart:
    """Some rows of a matrix on a worker, and the backends of its last views."""

    def __init__(self, source: RowsSource) -> None:
        self.source = source
        self._backends: dict[str, ThreadBackend] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _landed, (RowsPart, self.source)

    def __sizeof__(self) -> int:
        """The bytes of its arrays. A scheduler must know what it would take to move them."""
        return self.source.nbytes

    @property
    def facts(self) -> Facts:
        source = self.source
        return Facts(source.rows, source.k, source.dtype, source.sparse, source.max_row_nnz)

    def backend(self, view: View) -> ThreadBackend:
        found = self._backends.get(view.name)
        if found is None:
            source = copy(self.source)
            source.uplo = view.uplo
            found = ThreadBackend(source, view.layout, view.settings)
            with _lock:  # two tasks of one worker may be here
                self._backends[view.name] = found
                for name in [*self._backends][:-_KEPT]:
                    del self._backends[name]
        return found


class Beside(NamedTuple):
    """Numbers that lie beside a part, and their size for the scheduler."""

    numbers: Any

    def __reduce__(self) -> tuple[Any, ...]:
        return _landed, (Beside, self.numbers)

    def __sizeof__(self) -> int:
        return int(self.numbers.values.nbytes)


def _landed(kind: Callable[[Any], Any], held: Any) -> Any:
    """What has come from another worker. Its arrays may lie at any address."""
    for name in ("values", "columns", "indptr"):
        array = getattr(held, name, None)
        if isinstance(array, np.ndarray) and not array.flags.aligned:
            there = array.copy()
            there.flags.writeable = array.flags.writeable
            setattr(held, name, there)
    return kind(held)


# --- blocks of rows


def columns(block: Any) -> int:
    if getattr(block, "ndim", 0) != 2:
        raise ValueError("a block of A must have two dimensions, got " + type(block).__name__)
    return int(block.shape[1])


def size(block: Any) -> tuple[int, int]:
    itemsize = block.dtype.itemsize
    if scipy.sparse.issparse(block):
        return int(block.shape[0]), int(block.nnz) * (itemsize + 4)
    return int(block.shape[0]), int(block.size) * itemsize


# --- parts


def make_part(block: Any, i0: int, k: int, name: str) -> RowsPart:
    """A part that has the rows of a dense or sparse block, from row i0 on."""
    return RowsPart(rows_source(block, i0, k, name))


def loaded_part(blocks: Sequence[Any], i0: int, k: int) -> RowsPart:
    return make_part(stacked(blocks), i0, k, "A")


def facts(part: RowsPart) -> Facts:
    return part.facts


def joined(parts: Sequence[RowsPart], i0: int, i1: int) -> RowsPart:
    """The rows i0 ≤ i < i1, which these parts hold."""
    blocks = [part.source.block(i0, i1) for part in parts]
    return make_part(stacked(blocks), i0, parts[0].source.k, "Y")


def stacked(blocks: Sequence[Any]) -> Any:
    """Blocks of rows as one block, sparse if one of them is."""
    if len(blocks) == 1:
        return blocks[0]
    kinds = {scipy.sparse.issparse(block) for block in blocks}
    if len(kinds) > 1:
        raise mixed_blocks()
    if True in kinds:
        return scipy.sparse.vstack(blocks, format="csr")
    return np.concatenate(blocks)


def count_outside(part: RowsPart, uplo: Uplo) -> int:
    """How many entries a sparse part has outside a triangle. Those of a dense one are not read."""
    source = copy(part.source)
    source.uplo = uplo
    return source.count_outside(triangle(source.k, source.stored_triangle))


# --- a part and a view


def sizes(part: RowsPart, view: View) -> tuple[int, int]:
    """The numbers of the entries and of the diagonal entries that are visited."""
    pattern = part.backend(view).pattern
    return pattern.entries, int(pattern.diagonal[-1])


def check(part: RowsPart, view: View) -> None:
    part.backend(view).check(None)


def mapped(
    part: RowsPart,
    view: View,
    kernel: str,
    args: tuple[Any, ...],
    like: NDArray[Any],
    how: dict[str, Any],
    implicit: bool,
    beside: Beside | None = None,
) -> NDArray[Any]:
    """The rows of J that belong to the part. They have the dtype and the columns of `like`."""
    backend = part.backend(view)
    out = np.empty((backend.pattern.entries, *like.shape[1:]), like.dtype)
    backend.map(kernel, *_arrived(args), out, target=beside and beside.numbers, **how)
    if not implicit:
        return out
    i0, i1 = backend.source.rows
    whole = np.zeros(((i1 - i0) * backend.pattern.k, *like.shape[1:]), like.dtype)
    whole[places(backend)] = out
    return whole


def reduced(
    part: RowsPart,
    view: View,
    kernel: str,
    x: Any,
    args: tuple[Any, ...],
    how: dict[str, Any],
    beside: Beside | None = None,
) -> NDArray[Any]:
    """The partial sum of the part."""
    numbers = beside and beside.numbers
    return part.backend(view).reduce(kernel, _arrived(x), *args, target=numbers, **how)


def reduced_by_rows(
    part: RowsPart,
    view: View,
    kernel: str,
    x: Any,
    how: dict[str, Any],
    beside: Beside | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """What the part contributes to the sums of its own rows, and to the scalars."""
    sums = reduced(part, view, kernel, x, (), how, beside)
    source = part.source
    return sums[..., slice(*source.rows)].copy(), sums[..., source.k :].copy()


def asymmetry(part: RowsPart, view: View, beside: Beside | None = None) -> int:
    """A sum over the entries that is 0 for a symmetric matrix, and hardly ever for another.

    Each entry above the diagonal counts with a hash of its place and its number. Each entry below
    it counts with minus the hash that the entry at the mirrored place must have. Sums are modulo
    2⁶⁴, so that those of all parts add up to 0 if the matrix is symmetric to the bit.
    """
    backend = part.backend(view)
    source, k = part.source, np.uint64(part.source.k)
    numbers = backend.entries if beside is None else beside.numbers
    total, buffer, (begin, end) = 0, Buffer(), source.rows
    step = max(_HASHED // max(source.max_row_nnz, 1), 1)
    for i0 in range(begin, end, step):
        i1 = min(i0 + step, end)
        p0, p1 = backend.pattern.start(i0), backend.pattern.start(i1)
        data, base = numbers.contiguous(i0, i1, buffer)
        number = data[p0 - base : p1 - base].astype(np.float64) + 0.0  # -0.0 is 0.0
        counts, columns = source.columns_of(i0, i1)
        i = np.repeat(np.arange(i0, i1, dtype=np.uint64), counts)
        j = columns.astype(np.uint64)
        hashed = _mixed(np.minimum(i, j) * k + np.maximum(i, j)) ^ number.view(np.uint64)
        hashed = _mixed(hashed)
        total += int(hashed[i < j].sum()) - int(hashed[i > j].sum())
    return total % 2**64


def _mixed(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64, which maps 64 bits one to one to bits that look random."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def added(total: NDArray[Any], kernel: str, other: NDArray[Any] | None) -> NDArray[Any]:
    """The combination of two partial sums."""
    if other is None:
        return total
    total = np.array(total)
    with np.errstate(over="ignore", invalid="ignore"):  # as in the kernels
        combine(kernel, total, other)
    return total


def extremes(part: RowsPart, view: View) -> Any:
    return part.backend(view).extremes()


def diagonal(part: RowsPart, view: View, beside: Beside | None = None) -> NDArray[Any]:
    """The diagonal of A, or of the numbers beside it, in the rows of the part."""
    backend = part.backend(view)
    found = backend.diagonal() if beside is None else backend.diagonal_of(beside.numbers)
    return found[slice(*backend.source.rows)]


def positive_entries(part: RowsPart, view: View) -> Any:
    return part.backend(view).positive_entries()


def neighbours(part: RowsPart, view: View, s: int) -> Any:
    return part.backend(view).neighbours(s)


# --- numbers beside a part


def weights(
    part: RowsPart,
    view: View,
    dtype: np.dtype[Any],
    implicit: bool,
    w: NDArray[Any],
) -> Beside:
    backend = part.backend(view)
    w = w[places(backend)] if implicit else w
    return Beside(Weights(_arrived(w), backend.pattern, dtype, backend.layout))


def aligned(
    part: RowsPart,
    view: View,
    transposed: bool,
    other: Any,
) -> Beside:
    """The numbers of a Y at the entries of the part.

    `other` is a part of Y, a block of its rows, or numbers in the order of J's rows.
    """
    backend = part.backend(view)
    own, pattern, layout = backend.source, backend.pattern, backend.layout
    if isinstance(other, np.ndarray) and other.ndim == 1 and other.size != pattern.entries:
        other = other.reshape(-1, own.k)  # all places, as J has implicit rows
    if isinstance(other, np.ndarray) and other.ndim == 1:
        if view.settings.check_finite:
            finite_blocks("Y", other, lambda r: (r,))
        of: Source = VectorRows(MemoryNumbers(_arrived(other)), pattern, layout)
    else:
        is_part = isinstance(other, RowsPart)
        held = other.source if is_part else rows_source(other, own.rows[0], own.k, "Y")
        held = copy(held)
        held.transposed = transposed
        if view.settings.check_finite:
            held.check_finite("Y")
        of = held
    return Beside(align(of, own, pattern, layout))


def any_nonzero(beside: Beside) -> bool:
    return bool(beside.numbers.any_nonzero(None))


def nothing(_: Any) -> None:
    """Wait for an object, so that its errors are raised."""


def places(backend: ThreadBackend) -> NDArray[Any]:
    """The places of the visited entries among all k places of each row."""
    i, j = backend.visited()
    return (i.astype(np.int64) - backend.source.rows[0]) * backend.pattern.k + j


def _arrived(args: Any) -> Any:
    if isinstance(args, np.ndarray):
        return frozen(np.require(args, requirements=["C", "A"]))
    return tuple(map(_arrived, args)) if isinstance(args, tuple) else args
