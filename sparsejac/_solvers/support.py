"""Whether a matrix can be scaled to given row sums: its support, by a maximum matching or flow, and what is on no positive diagonal.

A symmetric A ≥ 0 has an x > 0 with ``x ∘ (A x) = d`` if and only if some matrix with the row and column sums d is positive
exactly where A is [1]_. For d = 1 that is total support: every positive entry is on a positive diagonal. The weaker support, that a matrix with
these sums is positive at most where A is, is a perfect matching of rows to columns, or for another d a flow that saturates them; an
entry can be positive in such a matrix if it lies on a cycle along which the flow can be changed: in a strongly connected component of the
residual graph.

.. [1] J. Csima and B. N. Datta, "The DAD theorem for symmetric non-negative matrices", J. Combin. Theory A 12 (1972), 147-152.
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
_BYTES = 100  # for each entry of the graph, while all this is found out


class Support(NamedTuple):
    """What was found out."""

    rows: NDArray[
        Any
    ]  # rows whose entries are in too few columns for their targets: none if A has support
    columns: NDArray[Any]  # those columns
    entries: NDArray[
        Any
    ]  # which of A's values are on no positive diagonal, of those on the side that is read
    places: tuple[NDArray[Any], NDArray[Any]]  # (i, j) of them
    diagonal: NDArray[Any]  # rows whose diagonal entry is on none

    @property
    def unsupported(self) -> int:
        """How many entries of the symmetric matrix are on no positive diagonal."""
        return 2 * self.entries.size + self.diagonal.size


def without(rows: NDArray[Any] | None = None) -> Support:
    """Nothing amiss; or rows without entries."""
    nothing = np.zeros(0, np.intp)
    return Support(nothing if rows is None else rows, nothing, nothing, (nothing, nothing), nothing)


def is_obvious(sums: RowProducts, kept: NDArray[np.bool_]) -> bool:
    """Whether the diagonal is positive: Diag(d) is then such a matrix, and has room for a little of every other entry."""
    return bool(np.all(sums.diagonal[kept] > 0))


def bytes_needed(sums: RowProducts) -> int:
    """About how much memory `examine` takes, at most."""
    return _BYTES * (2 * sums.nnz + sums.shape[0])


class Graph(NamedTuple):
    """The positive entries on one side of the diagonal, and the rows whose diagonal entry is positive."""

    i: NDArray[Any]
    j: NDArray[Any]
    p: NDArray[Any]  # which of A's values they are
    own: NDArray[Any]

    def within(self, kept: NDArray[np.bool_]) -> Graph:
        """Those of rows and columns that are kept."""
        both = kept[self.i] & kept[self.j]
        return Graph(self.i[both], self.j[both], self.p[both], self.own[kept[self.own]])


def graph_of(sums: RowProducts, kept: NDArray[np.bool_]) -> Graph:
    """The graph of A within the rows that are kept. Memory: some hundred bytes for each entry and row, with what follows."""
    i, j = sums.rows.visited()
    p = sums.rows.positions()
    if isinstance(p, slice):
        p = np.arange(i.size)
    positive = sums.rows.values() > 0
    return Graph(i[positive], j[positive], p[positive], np.flatnonzero(sums.diagonal > 0)).within(
        kept
    )


def examine(sums: RowProducts, kept: NDArray[np.bool_], d: NDArray[np.float64]) -> Support:
    """The support of A within the rows that are kept, for the targets d. What is amiss is proved, for the numbers as they are."""
    if is_obvious(sums, kept):
        return without()
    return _examined(graph_of(sums, kept), kept, d)[0]


def supported_rows(
    sums: RowProducts, kept: NDArray[np.bool_], d: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """The rows that remain when those without support are left out, until the rest has total support, as far as that can be found out.

    Rows that lack support go together. If the rest has support, but no total support, rows that entries with support connect are a part. Of two parts that an
    entry without support connects, the smaller one goes. Within a bipartite part, the rows go that the ends of such an entry are matched with, as the ends
    can be matched with each other: the rest of the part still has a matching.
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
    """Rows to leave out, for the sake of entries without support. There is at least one."""
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
        beside = scipy.sparse.coo_array(
            (np.ones(2 * a.size, np.int8), (np.append(a, b), np.append(b, a)))
        ).tocsr()
        sizes = np.bincount(part[kept], minlength=beside.shape[0])
        concerned = np.unique(np.append(a, b))
        stays, goes = np.zeros(sizes.size, np.bool_), np.zeros(sizes.size, np.bool_)
        for number in concerned[np.argsort(-sizes[concerned], kind="stable")]:
            others = beside.indices[beside.indptr[number] : beside.indptr[number + 1]]
            goes[number] = stays[others].any()
            stays[number] = not goes[number]
        return np.flatnonzero(kept & goes[np.minimum(part, sizes.size - 1)] & (part < sizes.size))
    # Its ends are then matched with each other, and their partners go; each end is taken once.
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
    """The support of a graph; and of each row the column that it is matched with, if there is a matching."""
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
    if not exact:  # rounded targets tell nothing of sums that must be equal
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
    """Whether the sum of some targets is larger than that of others, for certain, and by more than the rounding of a user's numbers.

    The sign of an exact sum is exact, which makes this a proof.
    """
    return (
        math.fsum(more) > (1 + 1e-12) * math.fsum(less)
        and math.fsum([*more.tolist(), *(-less).tolist()]) > 0
    )


def _integers(d: NDArray[np.float64], kept: NDArray[np.bool_]) -> tuple[NDArray[np.int32], bool]:
    """Targets as integers in the same proportions, 0 where a row is left out; and whether they are exactly that."""
    result = np.zeros(d.size, np.int32)
    values, which, counts = np.unique(d[kept], return_inverse=True, return_counts=True)
    ratios = [
        float(value).as_integer_ratio() for value in values
    ]  # whose denominators are powers of two
    denominator = max(ratio[1] for ratio in ratios)
    whole = [numerator * (denominator // power) for numerator, power in ratios]
    common, largest = 0, whole[-1]
    for number in whole:
        common = math.gcd(common, number)
        if largest // common >= _CAPACITY:
            break
    else:
        whole = [number // common for number in whole]
        if (
            sum(number * count for number, count in zip(whole, counts.tolist(), strict=True))
            < _CAPACITY
        ):
            result[kept] = np.array(whole, np.int32)[which]
            return result, True
    result[kept] = np.floor(d[kept] * (_CAPACITY / np.sum(d[kept])))
    return result, False


def _matched(rows: Any, columns: Any, kept: NDArray[np.bool_]) -> tuple[Any, Any, Any]:
    """(rows, columns) of a maximum matching, and the rows that have no part in it."""
    graph = scipy.sparse.csr_array(
        (np.ones(rows.size, np.int8), (rows, columns)), shape=(kept.size, kept.size)
    )
    partner = maximum_bipartite_matching(graph, perm_type="column")
    matched = np.flatnonzero(partner >= 0)
    return matched, partner[matched], np.flatnonzero(kept & (partner < 0))


def _flow(rows: Any, columns: Any, capacity: NDArray[np.int32]) -> tuple[Any, Any, Any]:
    """The same of a maximum flow: where it is positive, and the rows with something left over."""
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
    """From each row to the columns of its entries, from a column (node k + j) back along the flow, from node 2k to what is left over."""
    start = np.concatenate(
        [rows, k + flow_columns.astype(rows.dtype), np.full(left_over.size, 2 * k, rows.dtype)]
    )
    end = np.concatenate([k + columns, flow_rows.astype(rows.dtype), left_over.astype(rows.dtype)])
    return scipy.sparse.csr_array(
        (np.ones(start.size, np.int8), (start, end)), shape=(2 * k + 1, 2 * k + 1)
    )
