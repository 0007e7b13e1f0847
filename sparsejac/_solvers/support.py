"""Finds out whether a matrix can be scaled to given row sums, and which entries prevent it.

A symmetric A ≥ 0 has an x > 0 with ``x ∘ (A x) = d`` if and only if some matrix with the row and
column sums d is positive exactly where A is [1]_. For d = 1 this is total support: every positive
entry is on a positive diagonal. Support is weaker: some matrix with these sums is zero wherever A
is. For d = 1, A has support if there is a perfect matching of rows to columns, and for other d if
there is a flow that saturates them. An entry can be positive in such a matrix if it lies on a cycle
along which the flow can be changed, that is, in a strongly connected component of the residual
graph.

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

_CAPACITY = 2**30  # the largest sum of capacities, because SciPy's flows are int32
_BYTES = 100  # what an examination takes for each entry of the graph


class Support(NamedTuple):
    """The rows, columns and entries that prevent a scaling of A.

    Attributes
    ----------
    rows : ndarray
        Rows whose entries are in too few columns for their targets. It is empty if A has support.
    columns : ndarray
        Those columns.
    entries : ndarray
        The positions in A's values of entries on no positive diagonal, on the side of the diagonal
        that is read.
    index_pairs : tuple of ndarray
        (i, j) of these entries.
    diagonal : ndarray
        Rows whose diagonal entry is on no positive diagonal.
    """

    rows: NDArray[Any]
    columns: NDArray[Any]
    entries: NDArray[Any]
    index_pairs: tuple[NDArray[Any], NDArray[Any]]
    diagonal: NDArray[Any]

    @property
    def unsupported(self) -> int:
        """How many entries of the symmetric matrix are on no positive diagonal."""
        return 2 * self.entries.size + self.diagonal.size


def make_support(rows: NDArray[Any] | None = None) -> Support:
    """Make the result for a matrix with total support, or with some rows without entries."""
    nothing = np.zeros(0, np.intp)
    return Support(nothing if rows is None else rows, nothing, nothing, (nothing, nothing), nothing)


def has_positive_diagonal(sums: RowProducts, kept: NDArray[np.bool_]) -> bool:
    """Whether the diagonal is positive, so that a scaling exists.

    Diag(d) has the row sums d, and a part of it can be moved to any other entry.
    """
    return bool(np.all(sums.diagonal[kept] > 0))


def bytes_needed(sums: RowProducts) -> int:
    """Estimate the most memory that `examine` takes."""
    return _BYTES * (2 * sums.nnz + sums.shape[0])


class Graph(NamedTuple):
    """The positive entries on one side of the diagonal, and the rows with a positive A_ii."""

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
    entries = sums.rows.positive_entries()
    return Graph(*entries, np.flatnonzero(sums.diagonal > 0)).within(kept)


def examine(sums: RowProducts, kept: NDArray[np.bool_], d: NDArray[np.float64]) -> Support:
    """Find the support of A within the rows that are kept, for the targets d.

    The result is proved for A and d as float64 numbers.
    """
    return _examined(graph_of(sums, kept), kept, d)[0]


def supported_rows(
    sums: RowProducts, kept: NDArray[np.bool_], d: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Leave out rows without support until the rest has total support; return the rest.

    All rows that lack support are left out together. If the rest has support, but no total support,
    the entries with support connect its rows to parts. An entry without support connects two parts,
    and the smaller part is left out. If it connects two rows of one bipartite part, the two rows
    with which they are matched are left out. The two rows of the entry can be matched with each
    other, so the rest of the part still has a matching.
    """
    kept, graph = kept.copy(), graph_of(sums, kept)
    while kept.any():
        graph = graph.within(kept)
        found, partner = _examined(graph, kept, d)
        if found.rows.size:
            kept[found.rows] = False
        elif found.unsupported:
            kept[_rows_to_leave_out(graph, kept, found, partner)] = False
        else:
            break
    return kept


def _rows_to_leave_out(
    graph: Graph, kept: NDArray[np.bool_], found: Support, partner: NDArray[np.intp] | None
) -> NDArray[np.intp]:
    """Choose rows to leave out because of entries without support, at least one."""
    k = kept.size
    good = np.isin(graph.p, found.entries, invert=True)
    supported = scipy.sparse.coo_array(
        (np.ones(int(good.sum()), np.int8), (graph.i[good], graph.j[good])), shape=(k, k)
    )
    _, part = connected_components(supported, directed=False)
    i, j = (np.concatenate([index_pairs, found.diagonal]) for index_pairs in found.index_pairs)
    between = part[i] != part[j]
    if between.any():
        a, b = part[i[between]], part[j[between]]
        neighbours = scipy.sparse.coo_array(
            (np.ones(2 * a.size, np.int8), (np.append(a, b), np.append(b, a)))
        ).tocsr()
        sizes = np.bincount(part[kept])
        concerned = np.unique(np.append(a, b))
        stays, goes = np.zeros(sizes.size, np.bool_), np.zeros(sizes.size, np.bool_)
        for number in concerned[np.argsort(-sizes[concerned], kind="stable")]:
            others = neighbours.indices[neighbours.indptr[number] : neighbours.indptr[number + 1]]
            goes[number] = stays[others].any()
            stays[number] = not goes[number]
        rows = np.flatnonzero(kept)
        return rows[goes[part[rows]]]
    # The row and column of an entry are matched with each other, and their partners are left out.
    # Each row is used once.
    taken, out = np.zeros(k, np.bool_), np.zeros(k, np.bool_)
    for ends in np.stack([i, j], axis=1):
        if not taken[ends].any():
            taken[ends] = True
            out[ends if partner is None else partner[ends]] = True
    return np.flatnonzero(out)


def _examined(
    graph: Graph, kept: NDArray[np.bool_], d: NDArray[np.float64]
) -> tuple[Support, NDArray[np.intp] | None]:
    """Find the support of a graph, and for each row the matched column if there is a matching."""
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
        if _exceeds(d[short], d[into]):
            return make_support(short)._replace(columns=into), None
    if not exact:  # with rounded targets, sums may differ although those of d are equal
        return make_support(), None
    _, label = connected_components(residual, connection="strong")
    bad = label[i] != label[k + j]
    bad_own = own[label[own] != label[k + own]]
    partner = None
    if equal:
        partner = np.full(k, -1, np.intp)
        partner[flow_rows] = flow_columns
    return make_support()._replace(
        entries=p[bad], index_pairs=(i[bad], j[bad]), diagonal=bad_own
    ), partner


def _exceeds(more: NDArray[np.float64], less: NDArray[np.float64]) -> bool:
    """Whether the sum of some targets exceeds that of others by more than the user's rounding.

    ``math.fsum`` rounds but once, so this is a proof.
    """
    return math.fsum(more) > (1 + 1e-12) * math.fsum(less)


def _integers(d: NDArray[np.float64], kept: NDArray[np.bool_]) -> tuple[NDArray[np.int32], bool]:
    """Find integers in the proportions of the targets, and tell whether they are exact.

    They are 0 in rows that are left out.
    """
    result = np.zeros(d.size, np.int32)
    values, which, counts = np.unique(d[kept], return_inverse=True, return_counts=True)
    # All denominators are powers of two.
    ratios = [float(value).as_integer_ratio() for value in values]
    denominator = max(ratio[1] for ratio in ratios)
    whole = [numerator * (denominator // power) for numerator, power in ratios]
    common = math.gcd(*whole)
    whole = [number // common for number in whole]
    total = sum(number * count for number, count in zip(whole, counts.tolist(), strict=True))
    if total < _CAPACITY:
        result[kept] = np.array(whole, np.int32)[which]
        return result, True
    result[kept] = np.floor(d[kept] * (_CAPACITY / np.sum(d[kept])))
    return result, False


def _matched(rows: Any, columns: Any, kept: NDArray[np.bool_]) -> tuple[Any, Any, Any]:
    """Find a maximum matching: its rows, its columns, and the rows without a partner."""
    graph = scipy.sparse.csr_array(
        (np.ones(rows.size, np.int8), (rows, columns)), shape=(kept.size, kept.size)
    )
    partner = maximum_bipartite_matching(graph, perm_type="column")
    matched = np.flatnonzero(partner >= 0)
    return matched, partner[matched], np.flatnonzero(kept & (partner < 0))


def _flow(rows: Any, columns: Any, capacity: NDArray[np.int32]) -> tuple[Any, Any, Any]:
    """Find a maximum flow: rows and columns where it is positive, and rows not saturated."""
    k = capacity.size
    all_rows = np.arange(k, dtype=rows.dtype)
    source, sink = 2 * k, 2 * k + 1
    graph = scipy.sparse.csr_array(
        (
            np.concatenate([capacity[rows], capacity, capacity]),
            (
                np.concatenate([rows, np.full(k, source, rows.dtype), k + all_rows]),
                np.concatenate([k + columns, all_rows, np.full(k, sink, rows.dtype)]),
            ),
        ),
        shape=(2 * k + 2, 2 * k + 2),
    )
    flow = maximum_flow(graph, source, sink).flow.tocoo()
    positive = (flow.data > 0) & (flow.row < k)
    f_rows, f_columns, f = flow.row[positive], flow.col[positive] - k, flow.data[positive]
    sent = np.bincount(f_rows, weights=f, minlength=k)
    return f_rows, f_columns, np.flatnonzero(sent < capacity)


def _residual_graph(
    k: int, rows: Any, columns: Any, flow_rows: Any, flow_columns: Any, left_over: Any
) -> Any:
    """Make the residual graph.

    Its edges lead from each row to the columns of its entries, from a column (node k + j) back
    along the flow, and from node 2k to the rows that are left over.
    """
    start = np.concatenate(
        [rows, k + flow_columns.astype(rows.dtype), np.full(left_over.size, 2 * k, rows.dtype)]
    )
    end = np.concatenate([k + columns, flow_rows.astype(rows.dtype), left_over.astype(rows.dtype)])
    return scipy.sparse.csr_array(
        (np.ones(start.size, np.int8), (start, end)), shape=(2 * k + 1, 2 * k + 1)
    )


def entries_in_words(count: int) -> str:
    """The first words of a message about the unsupported entries."""
    return "1 of its entries is" if count == 1 else f"{count} of its entries are"


def first_rows(rows: NDArray[Any]) -> str:
    """The first rows, for a message."""
    return ", ".join(map(str, rows[:3])) + (", …" if rows.size > 3 else "")
