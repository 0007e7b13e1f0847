"""Products A u of a symmetric matrix. One side of its diagonal is read."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _validation
from .._matrix.indices import frozen
from .._matrix.layout import layout_of_sums, layout_of_whole
from .._matrix.registry import source_of_sums
from .._validation import Pairs, Uplo
from .choice import backend_of, checked_backend
from .protocol import Backend
from .threads import ThreadBackend

# Kernels raise no warning for overflow. NumPy must not either.
_silence = functools.partial(np.errstate, over="ignore", invalid="ignore")


class RowProducts:
    """Products ``A u`` with the part of a symmetric A that counts. A is in memory or streamed.

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
        settings = _validation.settings(check_finite, workers, memory, progress)
        source = source_of_sums(A, uplo)
        _validation.real("A", source.dtype, "RowSums", "pass its real part, or abs(A)")
        k = source.k
        ignored = _validation.nonnegative_integer("ignore_diags", ignore_diags)
        pairs = _validation.pairs(pairs)
        bounds = _validation.groups(groups, pairs, k)
        self._own = ignored == 0 and pairs != "between"  # whether the diagonal counts
        self.shape = (k, k)
        self._source, self._settings = source, settings
        self._layout = layout_of_sums(source, min(max(ignored, 1), k), bounds, pairs)
        symmetric = "RowSums" if source.uplo is None else None
        whole = checked_backend(source, layout_of_whole(source), settings, symmetric)
        # One pass scans the whole of an A that is not in memory.
        self._seen = None if source.zero_copy else whole.scan()
        self.memory = whole.memory
        del whole
        self._set_up()
        self.nnz = self.pattern.entries + int(np.count_nonzero(self.diagonal))

    def _whole(self) -> Backend:
        """The backend of all that A holds, not only of the part that counts."""
        return backend_of(self._source, layout_of_whole(self._source), self._settings)

    def _set_up(self) -> None:
        self.rows = backend_of(self._source, self._layout, self._settings)
        self.pattern = self.rows.pattern
        if self._seen is not None:
            self.rows.take_scan(self._seen, whole_diagonal=self._own)
        self.diagonal = np.zeros(self.shape[0])
        self.take_diagonal()

    def take_diagonal(self) -> None:
        """Take the diagonal from memory, or from the last pass over a streamed A."""
        if self._own:
            noted = self.rows.noted_diagonal()
            self.diagonal = self.rows.diagonal() if noted is None else noted

    def current_diagonal(self) -> NDArray[Any]:
        """The diagonal as it is now.

        If A is streamed and may have changed, this takes a pass.
        """
        self.rows.check_unchanged(None)
        if self._own:
            self.diagonal = self.rows.diagonal().astype(np.float64)
        return self.diagonal

    def __getstate__(self) -> dict[str, Any]:
        self.pattern.check_unchanged()
        return {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("rows", "pattern", "diagonal")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._set_up()

    def times(self, u: NDArray[Any]) -> NDArray[Any]:
        """The product ``A u`` with a float64 vector."""
        found = self.rows.row_products(frozen(u), own=self._own)
        if self._own and (noted := self.rows.noted_diagonal()) is not None:
            self.diagonal = noted
        with _silence():
            found += self.diagonal * u
        return found

    def check_nonnegative(self) -> float:
        """Refuse negative entries, and return the largest entry."""
        if self._seen is None:
            lowest, place, largest = self._whole().extremes()
        else:
            if self._source.mutable:
                self._seen = self._whole().scan()
            _, lowest, place, largest = self._seen
        if lowest < 0:
            raise _validation.negative(*place, lowest)
        return max(largest, 0.0)

    def without(self, entries: NDArray[Any], rows: NDArray[Any]) -> RowProducts:
        """A copy with zeros at these visited entries, and on the diagonal in these rows.

        A's values are copied.
        """
        if not isinstance(self.rows, ThreadBackend):
            raise ValueError(  # noqa: TRY004  # the type of A is fine: it is not in memory
                f'support="drop" leaves out {entries.size + rows.size} entries of A in a copy of '
                "it, and A is not in memory: write it without them, at `unsupported_entries` of "
                'the result of support="check"'
            )
        result = object.__new__(RowProducts)
        result.__dict__.update(self.__dict__)
        result._source = self.rows.source.without(entries)
        result._set_up()
        result.diagonal[rows] = 0
        return result

    def nonzeros(self) -> NDArray[np.int64]:
        """How many nonzero entries of each row of A count. This takes one pass."""
        found = self.rows.reduce("nonzeros", frozen(np.ones(self.shape[0])))
        self.take_diagonal()
        return found.astype(np.int64) + (self.diagonal != 0)
