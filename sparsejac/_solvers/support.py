"""Finds out whether a matrix can be scaled to given row sums, and which entries prevent it.

A symmetric A ≥ 0 has an x > 0 with ``x ∘ (A x) = d`` if and only if some matrix with the row and
column sums d is positive exactly where A is [1]_. For d = 1 this is total support: every positive
entry is on a positive diagonal. Support is weaker: a matrix with these sums is positive at most
where A is. It means a perfect matching of rows to columns, or for another d a flow that saturates
them. An entry can be positive in such a matrix if it lies on a cycle along which the flow can be
changed, that is, in a strongly connected component of the residual graph.

.. [1] J. Csima and B. N. Datta, "The DAD theorem for symmetric non-negative matrices",
   J. Combin. Theory A 12 (1972), 147-152.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from scipy.sparse.csgraph import (
    breadth_first_order,
    connected_components,
    maximum_bipartite_matching,
    maximum_flow,
)

from .._backends.row_products import RowProducts

_CAPACITY = 2**30  # of all rows: SciPy's flows are int32
_BYTES = 100  # for each entry of the graph during an examination


class Support(NamedTuple):
    """What A lacks.

    Attributes
    ----------
    rows : ndarray
        Rows whose entries are in too few columns for their targets. There are none if A has
        support.
    columns : ndarray
        Those columns.
    entries : ndarray
        The positions in A's values of entries on no positive diagonal, on the side that is read.
    places : tuple of ndarray
        (i, j) of these entries.
    diagonal : ndarray
        Rows whose diagonal entry is on no positive diagonal.
    """

    rows: NDArray[Any]
    columns: NDArray[Any]
    entries: NDArray[Any]
    places: tuple[NDArray[Any], NDArray[Any]]
    diagonal: NDArray[Any]

    @property
    def unsupported(self) -> int:
        """How many entries of the symmetric matrix are on no positive diagonal."""
        return 2 * self.entries.size + self.diagonal.size


def without(rows: NDArray[Any] | None = None) -> Support:
    """The support of a matrix that lacks nothing, or of one with rows without entries."""
    nothing = np.zeros(0, np.intp)
    return Support(nothing if rows is None else rows, nothing, nothing, (nothing, nothing), nothing)


def is_obvious(sums: RowProducts, kept: NDArray[np.bool_]) -> bool:
    """Whether the diagonal is positive.

    Then Diag(d) has the row sums d, and some of it can be moved to every other entry.
    """
    return bool(np.all(sums.diagonal[kept] > 0))


def bytes_needed(sums: RowProducts) -> int:
    """An estimate of the memory that `examine` takes at most."""
    return _BYTES * (2 * sums.nnz + sums.shape[0])


class Graph(NamedTuple):
    """The positive entries on one side of the diagonal, and rows with a positive diagonal entry."""

    i: NDArray[Any]
    j: NDArray[Any]
    p: NDArray[Any]  # their positions in A's values
    own: NDArray[Any]

    def within(self, kept: NDArray[np.bool_]) -> Graph:
        """The entries whose rows and columns are kept."""
        both = kept[self.i] & kept[self.j]
        return Graph(self.i[both], self.j[both], self.p[both], self.own[kept[self.own]])


def graph_of(sums: RowProducts, kept: NDArray[np.bool_]) -> Graph:
    """The graph of A within the rows that are kept."""
    i, j = sums.rows.visited()
    p = sums.rows.positions()
    if isinstance(p, slice):
        p = np.arange(i.size)
    positive = sums.rows.values() > 0
    return Graph(i[positive], j[positive], p[positive], np.flatnonzero(sums.diagonal > 0)).within(
        kept
    )


def examine(sums: RowProducts, kept: NDArray[np.bool_], d: NDArray[np.float64]) -> Support:
    """The support of A within the rows that are kept, for the targets d.

    What A lacks is proved for the float64 numbers as they are.
    """
    if is_obvious(sums, kept):
        return without()
    return _examined(graph_of(sums, kept), kept, d)[0]


def supported_rows(
    sums: RowProducts, kept: NDArray[np.bool_], d: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """The rows that remain when rows without support are left out until the rest has total support.

    Rows that lack support go together. If the rest has support, but no total support, the entries
    with support connect its rows to parts. An entry without support connects two parts, and the
    smaller part goes. Within a bipartite part, the rows go that the ends of such an entry are
    matched with. The ends can be matched with each other, so the rest of the part still has a
    matching.
    """
    kept = kept.copy()
    if is_obvious(sums, kept):
        return kept
    graph = graph_of(sums, kept)
    while kept.any():
        graph = graph.within(kept)
        found, partner = _examined(graph, kept, d)
        if found.rows.size:
            kept[found.rows] = False
        elif found.unsupported:
            kept[_in_the_way(graph, kept, found, partner)] = False
        else:
            break
    return kept


def _in_the_way(
    graph: Graph, kept: NDArray[np.bool_], found: Support, partner: NDArray[np.intp] | None
) -> NDArray[np.intp]:
    """At least one row to leave out, because of entries without support."""
    k = kept.size
    good = np.isin(graph.p, found.entries, invert=True)
    supported = scipy.sparse.coo_array(
        (np.ones(int(good.sum()), np.int8), (graph.i[good], graph.j[good])), shape=(k, k)
    )
    _, part = connected_components(supported, directed=False)
    i, j = (np.concatenate([places, found.diagonal]) for places in found.places)
    between = part[i] != part[j]
    if between.any():
        a, b = part[i[between]], part[j[between]]
        neighbours = scipy.sparse.coo_array(
            (np.ones(2 * a.size, np.int8), (np.append(a, b), np.append(b, a)))
        ).tocsr()
        sizes = np.bincount(part[kept], minlength=neighbours.shape[0])
        concerned = np.unique(np.append(a, b))
        stays, goes = np.zeros(sizes.size, np.bool_), np.zeros(sizes.size, np.bool_)
        for number in concerned[np.argsort(-sizes[concerned], kind="stable")]:
            others = neighbours.indices[neighbours.indptr[number] : neighbours.indptr[number + 1]]
            goes[number] = stays[others].any()
            stays[number] = not goes[number]
        return np.flatnonzero(kept & goes[np.minimum(part, sizes.size - 1)] & (part < sizes.size))
    # The ends of an entry are matched with each other, and their partners go. Each end is taken
    # once.
    taken, out = np.zeros(k, np.bool_), np.zeros(k, np.bool_)
    for row, column in zip(i.tolist(), j.tolist(), strict=True):
        ends = [row, column]
        if not taken[ends].any():
            taken[ends] = True
            out[ends if partner is None else partner[ends]] = True
    return np.flatnonzero(out)


def _examined(
    graph: Graph, kept: NDArray[np.bool_], d: NDArray[np.float64]
) -> tuple[Support, NDArray[np.intp] | None]:
    """The support of a graph, and for each row the matched column, if there is a matching."""
    k = kept.size
    i, j, p, own = graph
    rows = np.concatenate([i, j, own.astype(i.dtype)])
    columns = np.concatenate([j, i, own.astype(i.dtype)])
    capacity, exact = _integers(d, kept)
    equal = np.ptp(capacity[kept]) == 0
    flow_rows, flow_columns, left_over = (
        _matched(rows, columns, kept) if equal else _flow(rows, columns, capacity)
    )
    residual = _residual_graph(k, rows, columns, flow_rows, flow_columns, left_over)
    if left_over.size:
        reached = breadth_first_order(residual, 2 * k, return_predecessors=False)
        short = np.sort(reached[reached < k])
        into = np.sort(reached[(reached >= k) & (reached < 2 * k)] - k)
        if exact or _exceeds(d[short], d[into]):
            return without(short)._replace(columns=into), None
    if not exact:  # rounded targets do not tell whether sums are equal
        return without(), None
    _, label = connected_components(residual, directed=True, connection="strong")
    bad = label[i] != label[k + j]
    bad_own = own[label[own] != label[k + own]]
    partner = None
    if equal:
        partner = np.full(k, -1, np.intp)
        partner[flow_rows] = flow_columns
    return without()._replace(entries=p[bad], places=(i[bad], j[bad]), diagonal=bad_own), partner


def _exceeds(more: NDArray[np.float64], less: NDArray[np.float64]) -> bool:
    """Whether the sum of some targets exceeds that of others by more than a user's rounding.

    The sign of an exact sum is exact, so this is a proof.
    """
    return (
        math.fsum(more) > (1 + 1e-12) * math.fsum(less)
        and math.fsum([*more.tolist(), *(-less).tolist()]) > 0
    )


def _integers(d: NDArray[np.float64], kept: NDArray[np.bool_]) -> tuple[NDArray[np.int32], bool]:
    """Integers in the proportions of the targets, 0 in rows left out, and whether that is exact."""
    result = np.zeros(d.size, np.int32)
    values, which, counts = np.unique(d[kept], return_inverse=True, return_counts=True)
    # The denominators are powers of two.
    ratios = [float(value).as_integer_ratio() for value in values]
    denominator = max(ratio[1] for ratio in ratios)
    whole = [numerator * (denominator // power) for numerator, power in ratios]
    common, largest = 0, whole[-1]
    for number in whole:
        common = math.gcd(common, number)
        if largest // common >= _CAPACITY:
            break
    else:
        whole = [number // common for number in whole]
        total = sum(number * count for number, count in zip(whole, counts.tolist(), strict=True))
        if total < _CAPACITY:
            result[kept] = np.array(whole, np.int32)[which]
            return result, True
    result[kept] = np.floor(d[kept] * (_CAPACITY / np.sum(d[kept])))
    return result, False


def _matched(rows: Any, columns: Any, kept: NDArray[np.bool_]) -> tuple[Any, Any, Any]:
    """(rows, columns) of a maximum matching, and the rows without a partner."""
    graph = scipy.sparse.csr_array(
        (np.ones(rows.size, np.int8), (rows, columns)), shape=(kept.size, kept.size)
    )
    partner = maximum_bipartite_matching(graph, perm_type="column")
    matched = np.flatnonzero(partner >= 0)
    return matched, partner[matched], np.flatnonzero(kept & (partner < 0))


def _flow(rows: Any, columns: Any, capacity: NDArray[np.int32]) -> tuple[Any, Any, Any]:
    """(rows, columns) where a maximum flow is positive, and the rows that it does not saturate."""
    k = capacity.size
    all_rows = np.arange(k, dtype=rows.dtype)
    source, sink = 2 * k, 2 * k + 1
    graph = scipy.sparse.csr_array(
        (
            np.concatenate([np.minimum(capacity[rows], capacity[columns]), capacity, capacity]),
            (
                np.concatenate([rows, np.full(k, source, rows.dtype), k + all_rows]),
                np.concatenate([k + columns, all_rows, np.full(k, sink, rows.dtype)]),
            ),
        ),
        shape=(2 * k + 2, 2 * k + 2),
    )
    flow = maximum_flow(graph, source, sink).flow.tocoo()
    positive = (flow.data > 0) & (flow.row < k) & (flow.col >= k) & (flow.col < 2 * k)
    f_rows, f_columns, f = flow.row[positive], flow.col[positive] - k, flow.data[positive]
    sent = np.bincount(f_rows, weights=f, minlength=k)
    return f_rows, f_columns, np.flatnonzero(sent < capacity)


def _residual_graph(
    k: int, rows: Any, columns: Any, flow_rows: Any, flow_columns: Any, left_over: Any
) -> Any:
    """The residual graph.

    It leads from each row to the columns of its entries, from a column (node k + j) back along the
    flow, and from node 2k to the rows that are left over.
    """
    start = np.concatenate(
        [rows, k + flow_columns.astype(rows.dtype), np.full(left_over.size, 2 * k, rows.dtype)]
    )
    end = np.concatenate([k + columns, flow_rows.astype(rows.dtype), left_over.astype(rows.dtype)])
    return scipy.sparse.csr_array(
        (np.ones(start.size, np.int8), (start, end)), shape=(2 * k + 1, 2 * k + 1)
    )


def entries_of(found: Support) -> str:
    """How a message begins that says something of the unsupported entries."""
    count = found.unsupported
    return "1 of its entries is" if count == 1 else f"{count} of its entries are"


def first_of(rows: NDArray[Any]) -> str:
    """The first rows, for a message."""
    return ", ".join(map(str, rows[:3])) + (", …" if rows.size > 3 else "")
