"""Products A u of a symmetric matrix, of which one side of the diagonal is read."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from .. import _validation
from .._matrix.csr import CsrSource, Source
from .._matrix.memory import check_entries_finite, csr_arrays, largest_entry, unequal
from .._matrix.pattern import Indices, Pattern, Spans, frozen, triangle
from .._matrix.registry import source_of
from .._system import machine
from .._validation import Pairs, Triangle, Uplo
from .memory import MemoryRows
from .rows import Rows
from .streamed import StreamedRows, Summary, block_entries, pattern_of

_silence = functools.partial(
    np.errstate, over="ignore", invalid="ignore"
)  # of overflow, as in the kernels


class RowProducts:
    """``A u`` for a symmetric A, in memory or streamed, whose parts that do not count are left out.

    The keywords are those of `sparsejac.RowSums`.
    """

    def __init__(
        self,
        A: Any,
        *,
        uplo: Uplo | None,
        ignore_diags: int,
        groups: Sequence[Any] | NDArray[Any] | None,
        pairs: Pairs,
        check_finite: bool,
        workers: int | None,
        memory: int | None,
        progress: bool,
    ) -> None:
        source = source_of("A", A)
        if source is None:
            A = _validation.matrix(A)
        _validation.real(
            "A",
            A.dtype if source is None else source.dtype,
            "RowSums",
            "pass its real part, or abs(A)",
        )
        k = A.shape[0] if source is None else source.k
        ignored = _validation.nonnegative_integer("ignore_diags", ignore_diags)
        pairs, uplo = _validation.pairs(pairs), _validation.uplo(uplo)
        ends = _validation.groups(groups, pairs, k)
        self._check_finite = _validation.flag("check_finite", check_finite)
        if workers is not None:
            workers = _validation.positive_integer("workers", workers)
        self._workers, self.memory, self._progress = (
            workers,
            _validation.memory(memory),
            _validation.flag("progress", progress),
        )
        self._own = ignored == 0 and pairs != "between"  # whether the diagonal counts
        self.shape = (k, k)
        self._source = source
        self._seen: Summary | None = None
        if source is not None:
            self._stream(
                source,
                _validation.uplo_of(uplo, half=source.half),
                min(max(ignored, 1), k),
                ends,
                pairs,
            )
            return
        # The transposed is the same matrix, and may be what the kernels can read; its upper triangle is the lower one.
        values, indices, indptr, mirrored = _readable(A)
        which: Triangle = "upper" if (uplo != "L") != mirrored else "lower"
        # what is beside it is not read
        part = which if uplo is not None and indices is None else None
        if self._check_finite:
            check_entries_finite(values, indices, indptr, transposed=mirrored, part=part)
        if uplo is None:
            defect = unequal(values, indices, indptr)
            if defect is not None:
                raise _validation.not_symmetric_sums(*defect)
        side = triangle(k, which, offset=min(max(ignored, 1), k))
        if indices is None or indptr is None:
            self.pattern = Pattern.dense(k, _restricted(side, ends, pairs))
        else:
            if uplo is not None:
                _check_triangle(values, Pattern.csr(indptr, indices, triangle(k, which)), uplo)
            self.pattern = Pattern.csr(indptr, indices, _restricted(side, ends, pairs))
        self._values, self._mirrored, self._part = values, mirrored, part
        self._place()
        self.nnz = self.pattern.entries + int(np.count_nonzero(self.diagonal))

    def _stream(
        self, source: Source, uplo: Uplo | None, offset: int, ends: Any, pairs: Pairs
    ) -> None:
        """The same of an A that is not in memory, with one pass that sees all of it."""
        block_entries(source, self._workers or machine.cpu_count(), self.memory)
        which: Triangle = "upper" if (uplo != "L") != source.transposed else "lower"
        side = _restricted(triangle(source.k, which, offset=offset), ends, pairs)
        self._read_part = None if uplo is None else which
        place = self._whole()
        if (
            uplo is not None
            and isinstance(source, CsrSource)
            and place.pattern.entries < source.data.size
        ):
            raise _validation.beside_triangle(uplo, source.data.size - place.pattern.entries)
        if uplo is None:
            defect = place.asymmetry()
            if defect is not None:
                raise _validation.not_symmetric_row(*defect, "RowSums")
        place.look()
        self._seen = place.entries.summary()
        self.pattern = pattern_of(source, side)
        self._place()
        self.nnz = self.pattern.entries + int(np.count_nonzero(self.diagonal))

    def _whole(self) -> StreamedRows:
        """All that A has, not only the part that counts, for a pass that sees how small and large it is."""
        source = self._source
        assert source is not None
        place = self._streamed(
            source,
            pattern_of(
                source, None if self._read_part is None else triangle(source.k, self._read_part)
            ),
        )
        place.entries.extremes = True
        return place

    def _streamed(self, source: Source, pattern: Pattern) -> StreamedRows:
        return StreamedRows(
            source,
            pattern,
            self._workers or machine.cpu_count(),
            self.memory,
            check_finite=self._check_finite,
            progress=self._progress,
        )

    def _place(self) -> None:
        self.rows: Rows
        if self._source is None:
            self.rows = MemoryRows(self._values, self.pattern, self._workers or machine.cpu_count())
        else:
            assert self._seen is not None
            self.rows = self._streamed(self._source, self.pattern)
            self.rows.entries.whole_diagonal = self._own
            self.rows.entries.seen[:] = True
            self.rows.entries.diagonal[:] = self._seen.diagonal
        self.diagonal = np.zeros(self.shape[0])
        self.take_diagonal()

    def take_diagonal(self) -> None:
        """The diagonal as it is in memory now, or as the last pass over a streamed A has noted it."""
        if self._own and self._source is None:
            self.diagonal = self.rows.diagonal()
        elif self._own:
            self.diagonal = self.rows.entries.diagonal.astype(np.float64)

    def current_diagonal(self) -> NDArray[Any]:
        """The diagonal as it is now: a pass over a streamed A that its owner may have changed."""
        if self._own and isinstance(self.rows, StreamedRows):
            self.rows.look()
        self.take_diagonal()
        return self.diagonal

    def __getstate__(self) -> dict[str, Any]:
        self.pattern.check_unchanged()
        return {
            name: value for name, value in self.__dict__.items() if name not in ("rows", "diagonal")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._place()

    def times(self, u: NDArray[Any]) -> NDArray[Any]:
        """``A u``, of a float64 vector."""
        found = self.rows.sum("symmetric", frozen(u))
        if self._source is not None:
            self.take_diagonal()  # the pass has noted it
        with _silence():
            found += self.diagonal * u
        return found

    def check_nonnegative(self) -> float:
        """The largest entry; negative ones are refused."""
        if self._source is not None and self._source.mutable:
            place = self._whole()
            place.look()
            self._seen = place.entries.summary()
        if self._seen is not None:
            if self._seen.lowest < 0:
                raise _validation.negative(*self._seen.lowest_at, self._seen.lowest)
            return max(self._seen.largest, 0.0)
        pattern = self.pattern
        return largest_entry(
            self._values,
            pattern.indices,
            pattern.indptr,
            transposed=self._mirrored,
            part=self._part,
        )

    def without(self, entries: NDArray[Any], rows: NDArray[Any]) -> RowProducts:
        """The same with zeros for these of the visited entries, and for the diagonal in these rows: in a copy of A's values."""
        if self._source is not None:
            raise ValueError(
                f'support="drop" leaves out {entries.size + rows.size} entries of A in a copy of it, and A is not in memory: write it without them, at '
                '`unsupported_entries` of the result of support="check"'
            )
        result = object.__new__(RowProducts)
        result.__dict__.update(self.__dict__)
        result._values = self._values.copy()
        flat = result._values.reshape(-1)
        flat[entries] = 0
        result._place()
        result.diagonal[rows] = 0
        return result

    def nonzeros(self) -> NDArray[np.int64]:
        """How many entries of each row of A that count are not zero: one pass."""
        found = self.rows.sum("nonzeros", frozen(np.ones(self.shape[0])))
        self.take_diagonal()
        return found.astype(np.int64) + (self.diagonal != 0)


def _readable(A: Any) -> tuple[NDArray[Any], Indices | None, Indices | None, bool]:
    """The values, and for a sparse A the structure, of A or of its transposed, whichever can be read as it is; and whether it is that."""
    if scipy.sparse.issparse(A):
        mirrored = A.format == "csc"
        return (*csr_arrays(A, transposed=mirrored), mirrored)
    mirrored = A.flags.f_contiguous and not A.flags.c_contiguous
    return (A.T if mirrored else A), None, None, mirrored


def _restricted(
    side: Spans, ends: tuple[NDArray[np.int64], NDArray[np.int64]] | None, pairs: Pairs
) -> Spans:
    """The part of one side of the diagonal that is within the groups, or between them. `ends` are those of each row's group."""
    left, right = side
    if ends is None or pairs == "all":
        return side
    upper = left.size == 0 or right[0] == right.size
    if pairs == "within":
        left, right = np.maximum(left, ends[0]), np.minimum(right, ends[1])
    elif upper:
        left = np.maximum(left, ends[1])
    else:
        right = np.minimum(right, ends[0])
    return np.minimum(left, right), right


def _check_triangle(values: NDArray[Any], part: Pattern, uplo: Uplo) -> None:
    """A sparse A that is said to be a triangle has no entries beside it, zeros apart."""
    if part.entries == values.size:
        return
    inside = sum(np.count_nonzero(values[lo:hi]) for lo, hi in zip(part.lo, part.hi, strict=True))
    beyond = np.count_nonzero(values) - inside
    if beyond:
        raise _validation.beside_triangle(uplo, int(beyond))
