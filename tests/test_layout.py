"""Layouts and patterns alone, against their definitions: which entries of A are visited, for which
rows of J they stand, and what a pattern says of them.
"""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse

from sparsejac._matrix.indices import frozen
from sparsejac._matrix.layout import (
    Side,
    is_wanted_transposed,
    layout_of,
    layout_of_sums,
    layout_of_whole,
    pattern_of,
)
from sparsejac._matrix.pattern import CsrPattern, DensePattern, RowOffset

K = 5


def source(transposed=False, uplo=None, shape=(K, K)):
    """What a layout asks of a source of dense rows."""
    k, width = shape[::-1] if transposed else shape
    return SimpleNamespace(
        transposed=transposed,
        uplo=uplo,
        stored_triangle="upper" if (uplo != "L") != transposed else "lower",
        shape=shape,
        k=k,
        width=width,
        pattern=lambda ranges, *, implicit_rows: CsrPattern(
            frozen(np.arange(k + 1, dtype=np.int32) * np.int32(width)),
            frozen(np.tile(np.arange(width, dtype=np.int32), k)),
            ranges,
            implicit_rows=implicit_rows,
        ),
    )


def visited(of, layout):
    """The places (stored row, stored column) that are visited, in the order of the stored rows."""
    ranges = layout.side and layout.side.column_ranges(of.k)
    left, right = ranges if ranges else (np.zeros(of.k, int), np.full(of.k, of.width))
    assert np.all(left <= right)
    assert np.all((left >= 0) & (right <= of.width))
    return [(r, c) for r in range(of.k) for c in range(left[r], right[r])]


def flipped(places, swap):
    return [(c, r) if swap else (r, c) for r, c in places]


def definition(shape, rows, order):
    """The pairs (i, j) of the rows of J."""
    pairs = itertools.product(range(shape[0]), range(shape[1]))
    some = [(i, j) for i, j in pairs if rows == "all" or i <= j]
    return some if order == "C" else sorted(some, key=lambda pair: pair[::-1])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("rows", "uplo"), [("all", None), ("upper", None), ("upper", "U"), ("upper", "L")]
)
def test_each_visited_entry_stands_for_its_row(rows, uplo, transposed, order):
    """J's rows are those of the definition, in the order of the stored rows or of the columns."""
    shapes = [(K, K), (3, 4), (1, 4), (4, 1), (2, 3), (0, 3)] if rows == "all" else [(K, K), (1, 1)]
    for shape in shapes:
        of = source(transposed, uplo, shape)
        layout = layout_of(of, rows, order, bilinear=shape != (K, K))
        assert layout.transposed == transposed
        assert layout.implicit_rows == (rows == "all")
        assert layout.bilinear == (shape != (K, K))
        places = visited(of, layout)
        entries = flipped(places, transposed)
        pairs = flipped(places, layout.pairs_transposed)
        if rows == "all":
            assert pairs == entries
        elif uplo is not None:
            held = [(i, j) for i, j in itertools.product(range(shape[0]), repeat=2)]
            assert set(entries) == {(i, j) for i, j in held if (i <= j if uplo == "U" else i >= j)}
        expected = definition(shape, rows, order)
        assert layout.rows_in_order == (pairs == expected)
        by_columns = flipped(sorted(flipped(places, True)), not layout.pairs_transposed)
        assert expected in (pairs, by_columns)


@pytest.mark.parametrize("uplo", [None, "U", "L"])
def test_the_wanted_axis_gives_rows_in_order(uplo):
    for rows, order in itertools.product(["upper"] if uplo else ["all", "stored", "upper"], "CF"):
        wanted = is_wanted_transposed(rows, order, uplo)
        assert layout_of(source(wanted, uplo), rows, order).rows_in_order
        if rows == "upper" and not uplo:  # both triangles are there: it is read as it lies
            assert wanted is False
        else:
            assert not layout_of(source(not wanted, uplo), rows, order).rows_in_order


GROUPS = np.array([0, 0, 2, 2, 4]), np.array([2, 2, 4, 4, 5])  # 0 0 | 1 1 | 2


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("uplo", [None, "U", "L"])
@pytest.mark.parametrize("pairs", ["all", "within", "between"])
def test_sums_visit_each_pair_once(pairs, uplo, transposed):
    of = source(transposed, uplo)
    for offset, groups in itertools.product(
        range(4), [GROUPS] if pairs != "all" else [None, GROUPS]
    ):
        layout = layout_of_sums(of, offset, groups, pairs)
        assert (layout.transposed, layout.rows_in_order) == (transposed, True)
        assert not any((layout.pairs_transposed, layout.implicit_rows, layout.bilinear))
        wanted = [
            (i, j)
            for i, j in itertools.product(range(K), repeat=2)
            if j - i >= offset
            and (pairs == "all" or (GROUPS[0][i] == GROUPS[0][j]) == (pairs == "within"))
        ]
        entries = flipped(visited(of, layout), transposed)
        assert len(entries) == len(wanted)
        assert {tuple(sorted(entry)) for entry in entries} == set(wanted)
        if uplo is not None:
            assert all(i <= j if uplo == "U" else i >= j for i, j in entries)


@pytest.mark.parametrize("transposed", [False, True])
def test_the_whole_and_a_half(transposed):
    for uplo, count in ((None, K * K), ("U", K * (K + 1) // 2), ("L", K * (K + 1) // 2)):
        of = source(transposed, uplo)
        layout = layout_of_whole(of)
        assert layout.transposed == transposed
        entries = flipped(visited(of, layout), transposed)
        assert len(entries) == count
        assert uplo is None or all(i <= j if uplo == "U" else i >= j for i, j in entries)
    of = source(transposed)
    half = layout_of(of, "all", "C").half()
    assert all(r <= c for r, c in visited(of, half))
    assert pattern_of(of, half).m == len(visited(of, half)) == K * (K + 1) // 2


def test_a_pattern_has_a_diagonal_unless_its_variables_are_two_kinds():
    assert not layout_of(source(), "all", "C").bilinear
    for bilinear in (False, True):
        pattern = pattern_of(source(), layout_of(source(), "all", "C", bilinear=bilinear))
        assert pattern.has_diagonal is not bilinear
        assert pattern.m == pattern.implicit * K == K * K
        assert pattern.nnz == 2 * K * K - (0 if bilinear else K)


# --- patterns


def dense_case(k, width, side=None, rows=None):
    """A pattern, and the columns of the visited and of the stored entries of each row."""
    ranges = side and side.column_ranges(k)
    left, right = ranges if ranges else (np.zeros(k, int), np.full(k, width))
    stored = [range(width) if rows is None or rows[0] <= i < rows[1] else () for i in range(k)]
    places = [[j for j in stored[i] if left[i] <= j < right[i]] for i in range(k)]
    numbers = [range(i * width, (i + 1) * width) for i in range(k)]
    pattern = DensePattern(k, ranges, rows, width=width)
    pattern.has_diagonal = k == width  # else its variables are of two kinds
    return pattern, stored, places, numbers


def sparse_case(k, width, side=None, *, implicit=False, seed=0):
    mask = np.random.default_rng([seed, k, width]).random((k, width)) < 0.5
    mask[k // 2 : k // 2 + 1] = False
    A = scipy.sparse.csr_array(mask)
    ranges = side and side.column_ranges(k)
    left, right = ranges if ranges else (np.zeros(k, int), np.full(k, width))
    stored = [np.flatnonzero(row).tolist() for row in mask]
    places = [[j for j in stored[i] if left[i] <= j < right[i]] for i in range(k)]
    indptr, indices = (frozen(each.astype(np.int32)) for each in (A.indptr, A.indices))
    pattern = CsrPattern(indptr, indices, ranges, implicit_rows=implicit, width=width)
    return pattern, stored, places, [range(b, e) for b, e in itertools.pairwise(indptr.tolist())]


UPPER, LOWER = Side("upper"), Side("lower")
FAR, BELOW = Side("upper", offset=2), Side("lower", offset=1)
CASES = {
    "dense": lambda: dense_case(5, 5),
    "dense, one": lambda: dense_case(1, 1),
    "dense, wide": lambda: dense_case(3, 5),
    "dense, tall": lambda: dense_case(5, 3),
    "dense, upper": lambda: dense_case(5, 5, UPPER),
    "dense, lower": lambda: dense_case(5, 5, LOWER),
    "dense, far": lambda: dense_case(5, 5, FAR),
    "dense, below": lambda: dense_case(5, 5, BELOW),
    "sparse, below": lambda: sparse_case(6, 6, BELOW, seed=6),
    "dense, some rows": lambda: dense_case(5, 5, rows=(1, 4)),
    "dense, upper, some rows": lambda: dense_case(5, 5, UPPER, (2, 4)),
    "sparse": lambda: sparse_case(6, 6),
    "sparse, wide": lambda: sparse_case(4, 7, seed=1),
    "sparse, tall": lambda: sparse_case(7, 4, seed=2),
    "sparse, upper": lambda: sparse_case(6, 6, UPPER),
    "sparse, lower": lambda: sparse_case(6, 6, LOWER, seed=3),
    "sparse, far": lambda: sparse_case(6, 6, FAR, seed=4),
    "sparse, implicit": lambda: sparse_case(6, 6, implicit=True, seed=5),
    "sparse, wide, implicit": lambda: sparse_case(3, 6, implicit=True),
    "sparse, upper, implicit": lambda: sparse_case(6, 6, UPPER, implicit=True),
}


@pytest.fixture(params=CASES)
def case(request):
    pattern, stored, places, numbers = CASES[request.param]()
    entry = {  # the number of each visited entry
        (i, j): numbers[i][list(stored[i]).index(j)] if "sparse" in request.param else numbers[i][j]
        for i, row in enumerate(places)
        for j in row
    }
    return SimpleNamespace(pattern=pattern, stored=stored, places=places, entry=entry)


def test_without_rows():
    none = np.zeros(0, np.int32)
    for pattern in (DensePattern(0), CsrPattern(np.zeros(1, np.int32), none)):
        assert (pattern.m, pattern.nnz, pattern.width) == (0, 0, 0)
        assert pattern.bounds == (RowOffset(0, 0, 0), RowOffset(0, 0, 0))


def test_counts(case):
    pattern, visited = case.pattern, len(case.entry)
    k, width = len(case.places), pattern.width
    assert pattern.entries == visited
    assert pattern.stored == sum(map(len, case.stored))
    assert pattern.is_whole == (visited == pattern.stored)
    assert pattern.is_full == (visited == k * width)
    assert pattern.is_square == (visited == k * width and k == width)
    on_diagonal = [int((i, i) in case.entry and pattern.has_diagonal) for i in range(k)]
    np.testing.assert_array_equal(pattern.diagonal, np.cumsum([0, *on_diagonal]))
    assert pattern.m == (visited if pattern.implicit is None else k * width)
    assert pattern.nnz == 2 * visited - sum(on_diagonal)
    pattern.check_unchanged()


def test_entries_by_row_and_by_column(case):
    pattern = case.pattern
    for i, row in enumerate(case.places):
        columns, entries = pattern.in_row(i)
        assert (list(columns), list(entries)) == (row, [case.entry[i, j] for j in row])
        np.testing.assert_array_equal(pattern.rows_of(np.array(entries, int)), i)
        assert [pattern.pair(int(entry)) for entry in entries] == [(i, j) for j in row]
        assert all(entry >= pattern.start(i) for entry in entries)
        assert all(entry < pattern.start(i + 1) for entry in entries)
    for j in range(pattern.width):
        rows, entries = pattern.in_column(j)
        expected = [i for i, row in enumerate(case.places) if j in row]
        assert (list(rows), list(entries)) == (expected, [case.entry[i, j] for i in expected])


def test_diagonal_entries(case):
    pattern, k = case.pattern, len(case.places)
    if not pattern.has_diagonal:
        np.testing.assert_array_equal(pattern.diagonal_entries(), np.full(k, -1))
        return
    visited = [case.entry.get((i, i), -1) for i in range(k)]
    np.testing.assert_array_equal(pattern.diagonal_entries_of(0, k), visited)
    np.testing.assert_array_equal(pattern.diagonal_entries_of(1, k - 1), visited[1 : k - 1])
    stored = pattern.diagonal_entries_of(0, k, visited=False)
    for i in range(k):
        assert (stored[i] >= 0) == (i in case.stored[i])
        assert stored[i] < 0 or pattern.pair(int(stored[i])) == (i, i)


def test_offsets_of_all_rows_of_J(case):
    pattern = case.pattern
    entries = sorted(case.entry.items())
    for r in range(pattern.m + 2):
        offset = pattern.row_offset(r)
        if pattern.implicit is None:
            before, after = entries[:r], entries[r:]
        else:
            at = divmod(r, pattern.width)
            before, after = (
                [e for e in entries if (e[0] < at) == first] for first in (True, False)
            )
        ones = sum(i == j and pattern.has_diagonal for (i, j), _ in before)
        assert offset.nnz == 2 * len(before) - ones
        if r >= pattern.m:
            assert (offset.row, offset.entry) == (pattern.k, pattern.hi[-1])
            continue
        i = after[0][0][0] if pattern.implicit is None else r // pattern.width
        assert offset.row == i
        later = [number for (row, _), number in after if row == i]
        assert offset.entry == (later[0] if later else pattern.hi[i])
    assert pattern.bounds[0].row == pattern.bounds[0].nnz == 0
    assert pattern.bounds[0].entry == pattern.lo[0]
    assert pattern.bounds[1] == pattern.row_offset(pattern.m)


def test_rows_of_J_of_rows_and_entries(case):
    pattern = case.pattern
    pairs = np.array(sorted(case.entry)).reshape(-1, 2)
    rows = np.arange(pattern.m)[pattern.rows_of_entries(*pairs.T)]
    if pattern.implicit is None:
        np.testing.assert_array_equal(rows, np.arange(len(pairs)))
    else:
        np.testing.assert_array_equal(rows, pairs[:, 0] * pattern.width + pairs[:, 1])
    for i in range(len(case.places)):
        if pattern.implicit is None:
            assert pattern.row(i) == sum(map(len, case.places[:i]))
        else:
            assert pattern.row(i) == i * pattern.width


def test_blocks_and_columns(case):
    pattern, k = case.pattern, len(case.places)
    sparse = isinstance(pattern, CsrPattern)
    for i0 in range(k):
        for i1 in range(i0 + 1, k + 1):
            columns = [j for row in case.places[i0:i1] for j in row]
            c0, c1 = pattern.column_range(i0, i1, diagonal=False)
            assert all(c0 <= j < c1 for j in columns)
            if columns:
                assert 0 <= c0 <= c1 <= pattern.width
            d0, d1 = pattern.column_range(i0, i1, diagonal=True)
            assert sparse or (d0 <= min(c0, i0) and d1 >= i1)
        for entries in range(12):
            end = pattern.next_block(i0, entries, 2)
            count = sum(map(len, case.places[i0:end]))
            if sparse:
                fits = [
                    e for e in range(i0 + 1, k + 1) if pattern.hi[e - 1] <= pattern.lo[i0] + entries
                ]
                assert end == max(fits, default=i0 + 1)
                assert end == i0 + 1 or count <= entries
            else:
                assert end == i0 + max(2, entries // pattern.width)


def test_numbers_of_visited_entries_at_all_stored_ones(case):
    pattern = case.pattern
    if pattern.base:  # numbers of some rows
        return
    found = pattern.scattered(np.arange(1.0, pattern.entries + 1))
    assert found.size == pattern.stored or pattern.is_whole
    expected = np.zeros(pattern.stored)
    expected[sorted(case.entry.values())] = np.arange(1.0, pattern.entries + 1)
    np.testing.assert_array_equal(found, expected)
