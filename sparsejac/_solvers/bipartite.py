"""The solver of ``r ∘ (A c) = p``, ``c ∘ (Aᵀ r) = q``: a scaling of the bipartite graph of A."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._backends.row_products import RowProducts
from .._matrix.bipartite import BipartiteRows
from .scaling import Scaling, Verdict
from .scaling_state import Examination
from .status import ScalingStatus
from .support import Support, entries_in_words, first_rows


class BipartiteScaling(Scaling):
    """Runs one scaling, and names rows and columns of A in its messages."""

    _scales, _numbers = "r and c scale", "r, c or a product with A"

    def __init__(
        self,
        graph: BipartiteRows,
        sums: RowProducts,
        tol: float,
        max_products: int,
        support: Examination,
        bar: Any,
    ) -> None:
        super().__init__(sums, tol, max_products, support, None, bar)
        self._graph = graph
        # integers in the proportions of the targets, if these are known
        self.proportions: NDArray[np.float64] | None = None

    def _examined_targets(self, d: NDArray[Any]) -> NDArray[Any]:
        return d if self.proportions is None else self.proportions

    def _may_examine(self, mode: str) -> bool:
        # If all entries are positive, the product of the two targets is a matrix with their sums.
        return not self._graph.all_positive() and super()._may_examine(mode)

    def _dropped_in_words(self, entries: NDArray[Any]) -> str:
        return f"; {entries_in_words(len(entries))} dropped, {self._in_rows(entries)}"

    def _in_rows(self, entries: NDArray[Any]) -> str:
        rows = np.unique(self._graph.edges(entries)[:, 0])
        return f"in row{'s' * (rows.size > 1)} {first_rows(rows)}"

    def _unsupported(self, found: Support) -> Verdict:
        self._found = found
        if not found.rows.size:
            where = self._in_rows(np.stack(found.index_pairs, axis=1))
            return ScalingStatus.NO_TOTAL_SUPPORT, (
                f"{entries_in_words(found.entries.size)} zero in every matrix with these row and "
                f'column sums, {where}; support="drop" drops them'
            )
        rows, columns = self._graph.nodes(found.rows)
        if not found.columns.size:
            who = " and ".join(
                _named(noun, of) for noun, of in (("row", rows), ("column", columns)) if of.size
            )
            verb = "has" if found.rows.size == 1 else "have"
            return ScalingStatus.NO_SUPPORT, (
                f"{who} {verb} no entries; remove them from A and from the targets"
            )
        # What is too much for some columns is too little for the other ones. One of both says all.
        into_rows, into_columns = self._graph.nodes(found.columns)
        if rows.size:
            return ScalingStatus.NO_SUPPORT, _too_few("row", rows, "column", into_columns)
        return ScalingStatus.NO_SUPPORT, _too_few("column", columns, "row", into_rows)


def _too_few(noun: str, numbers: NDArray[Any], other: str, into: NDArray[Any]) -> str:
    """Say that some rows have entries in too few columns, or the other way round."""
    verb, theirs = ("has", "its own") if numbers.size == 1 else ("have", "theirs")
    whose = "target is" if into.size == 1 else "targets are"
    return (
        f"{_named(noun, numbers)} {verb} entries only in {_named(other, into)}, whose {whose} less "
        f"than {theirs}; change these targets, or add entries"
    )


def _named(noun: str, numbers: NDArray[Any]) -> str:
    """The first of some rows or columns, for a message."""
    if numbers.size == 1:
        return f"{noun} {numbers[0]}"
    return f"the {numbers.size} {noun}s {first_rows(numbers)}"
