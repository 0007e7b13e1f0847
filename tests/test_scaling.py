"""Tests of symmetric scaling: it converges if a scaling exists, and else says why none does."""

import itertools
import re
from fractions import Fraction

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog
from support import slow

from sparsejac import symmetric_scaling
from sparsejac._system import machine as _machine


def positive(k, seed=0):
    A = np.random.default_rng(seed).lognormal(size=(k, k))
    return A + A.T


def residual(A, x, d=1.0):
    """Compute the residual by its definition, with NumPy."""
    A = A.toarray() if scipy.sparse.issparse(A) else np.asarray(A)
    return np.max(np.abs(x * (A @ x) - d) / d)


STAR = np.array([[0, 1, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]])
# This matrix has support, but (0, 1) is on no positive diagonal.
HALF = np.array([[1, 1, 0], [1, 0, 1], [0, 1, 0]])


@pytest.mark.parametrize(
    "form", [np.asarray, np.asfortranarray, scipy.sparse.csr_array, scipy.sparse.csc_matrix]
)
@pytest.mark.parametrize("k", [1, 2, 5, 60])
def test_converges(form, k):
    A = form(positive(k))
    result = symmetric_scaling(A)
    assert result.success
    assert result.status == 1
    assert residual(A, result.x) <= 1e-8
    assert result.residual == pytest.approx(residual(A, result.x), abs=1e-14)
    assert re.fullmatch(r"converged: the residual \S+ is at most tol, 1e-08", result.message)
    assert result.kept.all()
    assert result.x.dtype == np.float64
    assert result.history[-1].tolist() == [result.n_products, result.residual]
    assert result.n_products <= 40
    assert result.unsupported_rows.size == result.unsupported_entries.size == 0


def test_known_answers():
    """x is 1/√k for ones, 1/√a for a diagonal, x/√2 for 2 A, and 1 for a scaled matrix."""
    np.testing.assert_allclose(symmetric_scaling(np.ones((9, 9))).x, 1 / 3)
    np.testing.assert_allclose(symmetric_scaling(np.diag([1.0, 4.0, 16.0])).x, [1, 0.5, 0.25])
    A = positive(7)
    np.testing.assert_allclose(symmetric_scaling(2 * A).x, symmetric_scaling(A).x / np.sqrt(2))
    np.testing.assert_allclose(symmetric_scaling(scipy.sparse.eye_array(5)).x, 1)
    # The equations of a star with a diagonal can be solved by hand: x₀ (x₀ + 2 y) = 1 and
    # y (x₀ + y) = 1.
    result = symmetric_scaling(np.array([[1, 1, 1], [1, 1, 0], [1, 0, 1]]), tol=1e-13)
    y = np.sqrt((np.sqrt(5) - 1) / 2)
    np.testing.assert_allclose(result.x, [1 / y - y, y, y])


@pytest.mark.parametrize("scale", [1e-200, 1e-20, 1e20, 1e200])
def test_any_scale(scale):
    assert symmetric_scaling(positive(20) * scale).residual <= 1e-8
    assert symmetric_scaling(positive(20), scale).residual <= 1e-8


@given(
    st.integers(1, 30),
    st.integers(0, 2**32),
    st.floats(0, 12),
    st.sampled_from(["dense", "sparse"]),
)
def test_every_positive_diagonal(k, seed, spread, form):
    """A scaling exists and is found, also if entries and targets span many powers of ten."""
    rng = np.random.default_rng(seed)
    A = np.exp(spread * rng.standard_normal((k, k)))
    if form == "sparse":
        A = np.where(rng.random((k, k)) < 0.2, A, 0.0) + np.diag(np.exp(rng.standard_normal(k)))
    A = A + A.T
    d = np.exp(spread / 4 * rng.standard_normal(k))
    result = symmetric_scaling(scipy.sparse.csr_array(A) if form == "sparse" else A, d)
    assert result.success, result.message
    assert residual(A, result.x, d) <= 1.01e-8


@pytest.mark.parametrize("epsilon", [1e-2, 1e-4, 1e-6])
def test_weakly_supported(epsilon):
    """A leaf has an entry for its hub and an ε. Linearly convergent iterations stall here."""
    rng = np.random.default_rng(0)
    k = 300
    hub = np.array([rng.integers(0, max(i // 4, 1)) for i in range(1, k)])
    A = scipy.sparse.coo_array((np.ones(k - 1), (np.arange(1, k), hub)), shape=(k, k))
    A = (A + A.T + epsilon * scipy.sparse.eye_array(k)).tocsr()
    result = symmetric_scaling(A)
    assert result.success
    assert residual(A, result.x) <= 1.01e-8


def test_one_triangle_of_counts():
    A = np.random.default_rng(0).poisson(3, (50, 50)).astype(np.int32)
    A = np.triu(A) + np.triu(A, 1).T
    whole = symmetric_scaling(A)
    S = scipy.sparse.csr_array(A)
    for uplo, part in (("U", scipy.sparse.triu(S)), ("L", scipy.sparse.tril(S))):
        for form in ("csr", "csc", "coo"):
            one = symmetric_scaling(part.asformat(form), uplo=uplo)
            np.testing.assert_allclose(one.x, whole.x, rtol=1e-7)
    np.testing.assert_array_equal(
        symmetric_scaling(A, workers=1).x, symmetric_scaling(A, workers=2).x
    )


def test_parts_of_the_matrix():
    A, labels = positive(30), np.repeat([0, 1, 2], 10)
    i, j = np.indices(A.shape)
    for options, counts in [
        ({"ignore_diags": 2}, abs(i - j) >= 2),
        ({"groups": labels, "pairs": "within"}, labels[i] == labels[j]),
        ({"groups": labels, "pairs": "between"}, labels[i] != labels[j]),
    ]:
        result = symmetric_scaling(A, **options)
        assert residual(A * counts, result.x) <= 1e-8


# --- rows that are left out -----------------------------------------------------------------------


def test_rows_that_are_left_out():
    A = positive(20)
    mask = np.arange(20) % 3 == 0
    result = symmetric_scaling(A, np.arange(1.0, 21), mask=mask)
    np.testing.assert_array_equal(np.isnan(result.x), mask)
    np.testing.assert_array_equal(result.kept, ~mask)
    part = symmetric_scaling(A[~mask][:, ~mask], np.arange(1.0, 21)[~mask])
    np.testing.assert_allclose(result.x[~mask], part.x, rtol=1e-7)
    again = symmetric_scaling(A, np.arange(1.0, 21), mask=mask, x0=result.x)
    assert again.nit <= 1
    lonely = np.array([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 1, 0]])
    first = symmetric_scaling(lonely, min_nnz=2)
    assert symmetric_scaling(lonely, [1.0, 1.0, 1.0, np.nan], min_nnz=2, x0=first.x).nit <= 1
    assert symmetric_scaling(
        A, np.where(mask, -1.0, 1.0), mask=mask
    ).success  # the targets of rows that are left out do not count


def test_rows_with_too_little():
    A = positive(20)
    A[3], A[:, 3], A[3, 3] = 0, 0, 7.0
    A[5], A[:, 5] = A[5] / 1e6, A[:, 5] / 1e6
    assert np.flatnonzero(~symmetric_scaling(A, min_nnz=2).kept).tolist() == [3]
    assert np.flatnonzero(~symmetric_scaling(A, min_count=6.5).kept).tolist() == [5]
    assert np.flatnonzero(~symmetric_scaling(A, min_count=6.5, min_nnz=2).kept).tolist() == [3, 5]
    A[3, 3] = 0
    assert np.flatnonzero(~symmetric_scaling(A, min_nnz=1).kept).tolist() == [3]


def test_rows_whose_neighbours_are_left_out_go_with_them():
    """The path is 0 - 1 - 2 - 3 - 4 - 5. Without 1, node 0 is alone. Without 4, node 5 is."""
    A = np.diag(np.ones(5), 1)
    A += A.T
    mask = np.zeros(6, bool)
    mask[[1, 4]] = True
    result = symmetric_scaling(A, mask=mask, min_nnz=1)
    assert result.success
    np.testing.assert_array_equal(np.flatnonzero(result.kept), [2, 3])
    assert symmetric_scaling(A, mask=mask).unsupported_rows.tolist() == [0, 5]


def test_nothing_is_left():
    result = symmetric_scaling(np.eye(3), mask=[True] * 3)
    assert (result.success, result.status) == (False, 8)
    assert "every row is left out" in result.message
    assert np.isnan(result.x).all()
    empty = symmetric_scaling(np.zeros((0, 0)))
    assert (empty.success, empty.x.shape, empty.history.shape) == (True, (0,), (1, 2))


# --- where there is no scaling --------------------------------------------------------------------


def test_a_row_without_entries():
    A = positive(5)
    A[2], A[:, 2] = 0, 0
    for support in ("auto", "check", "drop", "skip"):
        result = symmetric_scaling(A, support=support)
        assert (result.status, result.success, result.n_products) == (4, False, 1)
        assert result.message == (
            "no scaling exists, as A has no support: row 2 has no entries; min_nnz=1 leaves such "
            "rows out"
        )
        assert result.unsupported_rows.tolist() == [2]


@pytest.mark.parametrize("support", ["auto", "check", "drop"])
def test_no_support(support):
    result = symmetric_scaling(STAR, support=support)
    assert result.status == 4
    assert (
        "the 3 rows 1, 2, 3 have entries only in 1 column, whose target is less than theirs"
        in result.message
    )
    assert result.unsupported_rows.tolist() == [1, 2, 3]
    assert result.n_products < 100
    assert result.message.endswith('; support="drop_rows" would leave out every row')
    beside = symmetric_scaling(scipy.linalg.block_diag(STAR, [[2.0]]), support=support)
    assert beside.message.endswith('; support="drop_rows" leaves such rows out')
    # The hub's target suffices for one leaf.
    assert symmetric_scaling(STAR, [3.0, 1.0, 1.0, 1.0]).success
    result = symmetric_scaling(STAR, [3.0, 1.0, 1.0, 1.5], support=support)
    assert result.status == 4
    assert result.unsupported_rows.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "form", [np.asarray, lambda B: scipy.sparse.csr_array(np.array(B, np.float64))]
)
def test_support_that_is_not_total(form):
    for support in ("auto", "check"):
        result = symmetric_scaling(form(HALF), support=support)
        assert result.status == 5
        assert "no total support: 2 of its entries are on no positive diagonal" in result.message
        assert result.unsupported_entries.tolist() == [[0, 1]]
        assert result.n_products < 100
    A = form(HALF)
    result = symmetric_scaling(A, support="drop")
    assert (result.status, result.success) == (6, False)
    np.testing.assert_allclose(result.x[0], 1)
    np.testing.assert_allclose(result.x[1] * result.x[2], 1)
    assert A[0, 1] == 1  # the caller's matrix has not changed
    assert symmetric_scaling(form(HALF), support="skip", max_products=200).status == 0


def test_support_of_a_vector_of_targets():
    """Entry (0, 1) can be positive if the targets of rows 1 and 2 may differ."""
    assert symmetric_scaling(HALF, [2.0, 2.0, 1.0], support="check").success
    assert symmetric_scaling(HALF, [2.0, 1.0, 1.0], support="check").status == 5
    assert symmetric_scaling(HALF, [1.0, 1.0, 2.0], support="check").status == 4


def test_what_dropped_entries_do_to_the_matrix():
    """Success and residual are those of the user's matrix. The message names dropped entries."""
    A = np.array([[500.0, 5.0], [5.0, 0.0]])
    for form in (np.asarray, scipy.sparse.csr_array):
        result = symmetric_scaling(form(A), support="drop")
        assert (result.status, result.success, result.unsupported_entries.tolist()) == (
            6,
            False,
            [[0, 0]],
        )
        assert result.residual == pytest.approx(residual(A, result.x))
        assert result.residual > 1
        assert result.residual_after_dropping <= 1e-8
        assert result.history[-1].tolist() == [result.n_products, result.residual]
        assert re.fullmatch(
            r"scaled after dropping entries, and A itself is not: x scales A without them to a "
            r"residual of \S+, tol is 1e-08, but that of A is \S+; "
            "1 of its entries is dropped, in row 0",
            result.message,
        )
    wide = np.kron(np.eye(4), A)
    assert symmetric_scaling(wide, support="drop").message.endswith(
        "4 of its entries are dropped, in rows 0, 2, 4, …"
    )
    slow = np.block(
        [
            [np.diag([500.0, 0.0]) + 5 * (1 - np.eye(2)), np.zeros((2, 30))],
            [np.zeros((30, 2)), positive(30)],
        ]
    )
    for most in range(1, 12):
        result = symmetric_scaling(slow, support="drop", max_products=most)
        assert result.n_products <= max(most, 1)
        assert not result.success
        assert result.residual == pytest.approx(residual(slow, result.x), rel=1e-6)

    def stop(_):
        raise StopIteration

    stopped = symmetric_scaling(slow, support="drop", callback=stop)
    assert stopped.status == 99
    assert stopped.message == "stopped by the callback; 1 of its entries is dropped, in row 0"
    assert stopped.residual == pytest.approx(residual(slow, stopped.x))


def test_results_can_be_printed():
    """SciPy cannot print a result with an empty dict. So `left_out` is never empty."""
    states = []
    result = symmetric_scaling(
        np.ones((3, 3)) + np.eye(3) * [1, 2, 3], callback=lambda state: states.append(str(state))
    )
    assert result.left_out == {"no_entries": 0, "support": 0}
    assert "left_out: no_entries: 0" in str(result)
    assert "residual: " in states[0]
    assert "every row is left out" in str(symmetric_scaling(np.ones((2, 2)), mask=[True, True]))


def test_rows_without_support_are_left_out():
    """Rows are left out until the rest has a scaling, which is success for the rows kept."""
    result = symmetric_scaling(STAR, support="drop_rows")
    assert (result.status, result.success) == (8, False)
    assert (
        result.message
        == "no scaling exists: every row is left out; 4 of 4 rows are left out (4 without support)"
    )
    both = scipy.sparse.csr_array(scipy.linalg.block_diag(STAR, positive(5), HALF))
    result = symmetric_scaling(both, support="drop_rows")
    assert result.success
    assert result.left_out == {"support": 5}
    assert result.message.endswith("; 5 of 12 rows are left out (5 without support)")
    np.testing.assert_array_equal(np.flatnonzero(~result.kept), [0, 1, 2, 3, 9])
    np.testing.assert_array_equal(result.unsupported_rows, [0, 1, 2, 3, 9])
    kept = result.kept
    assert residual(both[kept][:, kept], result.x[kept]) <= 1.01e-8
    again = symmetric_scaling(both, mask=~kept)
    assert again.success
    np.testing.assert_array_equal(result.x, again.x)
    # A bipartite part has one more entry, on one side. The row of that entry goes, and so does the
    # partner of the row.
    C = np.ones((3, 3))
    sides = np.block([[np.diag([7.0, 0, 0]), C], [C, np.zeros((3, 3))]])
    result = symmetric_scaling(sides, support="drop_rows")
    assert (result.success, result.kept.sum()) == (True, 4)
    assert symmetric_scaling([[500.0, 5.0], [5.0, 0.0]], support="drop_rows").kept.tolist() == [
        True,
        False,
    ]
    # The same with other targets.
    result = symmetric_scaling(HALF, [2.0, 1.0, 1.0], support="drop_rows")
    assert result.success
    assert (
        residual(
            HALF[result.kept][:, result.kept],
            result.x[result.kept],
            np.array([2.0, 1, 1])[result.kept],
        )
        <= 1e-8
    )


def test_how_many_rows_each_filter_leaves_out():
    A = positive(20)
    A[3], A[:, 3], A[3, 3] = 0, 0, 7.0
    A[5], A[:, 5] = A[5] / 1e6, A[:, 5] / 1e6
    mask = np.zeros(20, bool)
    mask[:2] = True
    result = symmetric_scaling(A, mask=mask, min_nnz=2, min_count=6.5)
    assert result.success
    assert result.left_out == {"mask": 2, "min_nnz": 1, "min_count": 1}
    assert sum(result.left_out.values()) == (~result.kept).sum()
    assert result.message.endswith(
        "; 4 of 20 rows are left out (2 by mask, 1 by min_nnz=2, 1 by min_count=6.5)"
    )
    result = symmetric_scaling(A, min_nnz=30)
    assert (
        result.message
        == "no scaling exists: every row is left out; 20 of 20 rows are left out (20 by min_nnz=30)"
    )


@pytest.mark.parametrize("support", ["auto", "check", "drop", "drop_rows", "skip"])
def test_verdicts_are_proofs(support):
    """The targets are nearly, but not exactly, in the ratios of small integers."""
    A = np.array([[2e-8, 5e5], [5e5, 0.0]])
    result = symmetric_scaling(A, A.sum(axis=1), support=support)
    assert (result.success, result.kept.all()) == (True, True)
    for d in ([1 + 2e-13, 1.0], [3 + 1e-12, 3.0], [1e-300 * (1 + 1e-15), 1e-300]):
        result = symmetric_scaling([[1.0, 1.0], [1.0, 0.0]], d, support=support, max_products=50)
        assert result.status not in (4, 5, 6)
        assert result.kept.all()


def test_integer_ratios_are_exact():
    """The verdict is the same if the integers are multiplied by a number without rounding."""
    for scale in (1.0, 0.1, 2.0**-1000, 2.0**70, 1 / 3):
        for d, status in (
            (np.array([2.0, 1, 1]), 5),
            (np.array([1.0, 1, 2]), 4),
            (np.array([2.0**20, 1, 1]), 5),
        ):
            assert symmetric_scaling(HALF, scale * d, support="check").status == status
    assert (
        symmetric_scaling(STAR, [0.3, 0.1, 0.1, 0.1], support="check", max_products=30).status != 4
    )  # they fit to rounding
    assert symmetric_scaling(STAR, [np.pi, 2, 2, 2.1], support="check").status == 4


def can_be_positive(A, d):
    """Find the entries that can be positive in a P ≥ 0, by linear programming.

    P is symmetric, has the row sums d, and is zero where A is. The result is None if there is no
    P.
    """
    i, j = np.nonzero(np.triu(A))
    equations = np.zeros((len(d), i.size))
    equations[i, np.arange(i.size)] = equations[j, np.arange(i.size)] = 1
    largest = np.zeros(A.shape, bool)
    for entry in range(i.size):
        found = linprog(-np.eye(i.size)[entry], A_eq=equations, b_eq=d)
        if found.status != 0:
            return None
        largest[i[entry], j[entry]] = largest[j[entry], i[entry]] = found.fun < -1e-9
    return largest


@pytest.mark.parametrize("seed", range(25))
def test_verdicts_are_those_of_linear_programming(seed):
    rng = np.random.default_rng(seed)
    k = int(rng.integers(2, 7))
    A = np.triu(rng.random((k, k)) < 0.4).astype(float)
    A = np.maximum(A, A.T)
    d = np.ones(k) if seed % 2 else rng.integers(1, 4, k).astype(float)
    possible = can_be_positive(A, d) if A.any() else None
    result = symmetric_scaling(A, d, support="check")
    if possible is None or not A.any(axis=0).all():
        assert result.status == 4
        rows = result.unsupported_rows
        columns = A[rows].any(axis=0)
        assert d[rows].sum() > d[columns].sum()
    elif (possible == (A > 0)).all():
        assert result.success
        assert residual(A, result.x, d) <= 1.01e-8
    else:
        assert result.status == 5
        bad = np.zeros(A.shape, bool)
        bad[tuple(result.unsupported_entries.T)] = True
        np.testing.assert_array_equal(bad | bad.T, (A > 0) & ~possible)
        dropped = symmetric_scaling(A, d, support="drop")
        assert dropped.status == 6
        assert residual(A * possible, dropped.x, d) <= 1.01e-8
    left = symmetric_scaling(A, d, support="drop_rows")
    kept = left.kept
    assert left.success == kept.any()
    if kept.any():
        assert residual(A[kept][:, kept], left.x[kept], d[kept]) <= 1.01e-8


def test_targets_without_a_common_measure():
    """The verdict on targets in irrational proportions says nothing false.

    It finds a lack of support, but not a lack of total support.
    """
    d = np.array([np.pi, 1.0, 1.0, np.e])
    assert symmetric_scaling(STAR, d, support="check").status == 4
    d = np.array([1 + np.pi + np.e, 1.0, np.pi, np.e])
    assert symmetric_scaling(STAR, d, support="check").success


def test_the_examination_needs_memory(monkeypatch):
    A = scipy.sparse.csr_array(HALF)
    monkeypatch.setattr(_machine, "available_memory", lambda: 100)
    monkeypatch.setattr("sparsejac._validation.LARGE", 1)
    with pytest.raises(
        MemoryError, match=r'examination of A\'s support would take .* leave out support="check"'
    ):
        symmetric_scaling(A, support="check")
    # A positive diagonal, however small, needs no examination.
    A = scipy.sparse.csr_array(HALF + 0.01 * np.eye(3))
    for support in ("check", "drop", "drop_rows"):
        assert symmetric_scaling(A, support=support).success


# --- how it ends ----------------------------------------------------------------------------------


@pytest.mark.parametrize("most", range(1, 15))
def test_no_more_products_than_allowed(most):
    result = symmetric_scaling(positive(30), max_products=most)
    assert result.n_products <= most
    assert result.residual == pytest.approx(residual(positive(30), result.x), rel=1e-6, abs=1e-14)
    assert result.success == (result.residual <= 1e-8)


def test_max_products():
    result = symmetric_scaling(positive(30), max_products=4)
    assert (result.status, result.success, result.n_products) == (0, False, 4)
    assert re.match(
        r"max_products = 4 was reached: the residual is \S+, tol is 1e-08; likely causes: .*",
        result.message,
    )


def test_rounding():
    result = symmetric_scaling(positive(30), tol=0.0)
    assert result.status in (1, 2)
    assert result.residual < 1e-14
    assert result.n_products < 400
    if result.status == 2:
        assert result.message.startswith("rounding prevents further progress")


def test_out_of_range():
    """x diverges for a star. The scaling ends with the last finite x."""
    result = symmetric_scaling(STAR, support="skip")
    assert result.status == 3
    assert "leaves the range of numbers" in result.message
    assert (result.x > 0).all()
    assert np.isfinite(result.x).all()
    assert result.residual == pytest.approx(residual(STAR, result.x))
    not_a_number = symmetric_scaling(np.full((3, 3), np.nan), check_finite=False)
    assert not_a_number.status == 3
    assert not_a_number.message.endswith("an entry of A is not a finite number")


@pytest.mark.parametrize(
    ("A", "d"),
    [
        ([[1e308, 1.7e308], [1.7e308, 1e308]], 1.0),
        (np.full((2, 2), 1e-310), 1.0),
        (np.eye(2), [1e308, 1.7e308]),
        (np.diag([1e300, 1e-300]), [1e-300, 1e300]),
        (1e-300 * np.eye(2), 1e300),
        (np.ones((3, 3)), [1e4, 1e8, 1e-12]),
        ([[1, 5, 6, 8], [5, 1, 13, 49], [6, 13, 1, 0.3], [8, 49, 0.3, 1]], [1e-8, 1e8, 1e-2, 1e6]),
    ],
)
def test_the_ends_of_the_range(A, d):
    result = symmetric_scaling(A, d)
    assert result.success
    assert (result.x > 0).all()
    with np.errstate(all="ignore"):
        r = result.x * (np.asarray(A) / 16 @ result.x) * 16
    assert np.max(np.abs(r - d) / d) <= 1.01e-8
    for scale in (1e160, 1e-165):
        assert symmetric_scaling(np.ones((2, 2)), x0=[scale, scale]).success


def exact_residual(A, x, d):
    """Compute the residual in rational numbers, which cannot overflow."""
    k = len(x)
    A, x, d = (np.vectorize(Fraction, [object])(np.asarray(part, float)) for part in (A, x, d))
    worst = max(abs(x[i] * sum(A[i, j] * x[j] for j in range(k)) - d[i]) / d[i] for i in range(k))
    return float(min(worst, Fraction(10) ** 300))


@pytest.mark.parametrize("of_d", [1e-320, 1e-200, 1.0, 1e200, 1e308])
@pytest.mark.parametrize("of_A", [1e-320, 1e-200, 1.0, 1e200, 1e307])
def test_success_is_that_of_x_at_every_scale(of_A, of_d):
    """On success x is finite and positive, and its residual is the one that is reported."""
    for k in (1, 3):
        A = (
            np.maximum(
                np.arange(1.0, k * k + 1).reshape(k, k), np.arange(1.0, k * k + 1).reshape(k, k).T
            )
            * of_A
        )
        d = np.full(k, of_d)
        for options in (
            {},
            {"support": "check"},
            {"support": "drop_rows"},
            {"max_products": 3},
            {"x0": np.geomspace(1e-50, 1e50, k)},
        ):
            result = symmetric_scaling(A, d, **options)
            assert (result.x > 0).all()
            assert np.isfinite(result.x).all()
            assert result.residual == pytest.approx(
                exact_residual(A, result.x, d), rel=1e-6, abs=1e-12
            )
            representable = np.log10(of_d) - np.log10(of_A) < 616
            if "max_products" not in options:
                assert result.success == (result.residual <= 1e-8) == representable


@pytest.mark.parametrize(
    ("A", "d"),
    [
        ([[1e308, 0], [0, 1e-320]], 1.0),  # the second row may underflow
        ([[1e308, 1e-320], [1e-320, 0]], 1.0),
        ([[1e-320, 1], [1, 1e-320]], [1e-320, 1e308]),
        (np.eye(2), [1e-323, 1e308]),
        ([[1, 1], [1, 1]], [1e-320, 1.0]),
        ([[0, 5e-324], [5e-324, 0]], 1e300),
    ],
)
@pytest.mark.parametrize("support", ["auto", "check", "drop", "drop_rows", "skip"])
def test_entries_at_both_ends_of_the_range(A, d, support):
    A, d = np.array(A, float), np.broadcast_to(d, 2).astype(float)
    result = symmetric_scaling(A, d, support=support, max_products=500)
    assert result.status != 4
    kept = result.kept
    assert (result.x[kept] > 0).all()
    assert np.isfinite(result.x[kept]).all()
    if result.success:
        assert exact_residual(A[kept][:, kept], result.x[kept], d[kept]) <= 1.01e-8


def test_starts_and_targets_far_away():
    A = np.array([[2.0, 7.0], [7.0, 8.0]])
    assert symmetric_scaling(A, x0=[1e-200, 1e200]).success
    assert symmetric_scaling(A * 1e-265, 1e158).success
    assert symmetric_scaling(np.full((2, 2), 6e-158), 1e154, x0=[1.33, 40.66]).success
    assert symmetric_scaling([[5.0]], max_products=1).success


@pytest.mark.parametrize(
    ("A", "d"),
    [
        ([[0, 0.401], [0.401, 0]], [1.0, 1e4]),
        ([[1.0, 2, 1], [2, 0, 2], [1, 2, 0]], [1e-7, 1e12, 1e4]),
        ([[0.0, 2, 2], [2, 2, 2], [2, 2, 1]], [10, 0.01, 0.001]),
    ],
)
@pytest.mark.parametrize("support", ["auto", "skip"])
def test_the_residual_is_that_of_x(A, d, support):
    """This holds also if x diverges. A x, which is updated in each step, then loses its digits."""
    A, d, seen = np.array(A), np.array(d), []
    result = symmetric_scaling(A, d, tol=0, max_products=300, support=support, callback=seen.append)
    for state in (*seen, result):
        assert (state.x > 0).all()
        assert state.residual == pytest.approx(residual(A, state.x, d), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("ends", [(1e-2, 1e-8), *slow(((1.0, 1e-10),), ((1.0, 1e-5),))])
def test_curved_valleys(ends):
    """The matrix is nearly bipartite with uneven diagonals.

    Straight lines leave the valley x_i x_j = const. Newton's steps in log(x) stay in it.
    """
    C = np.random.default_rng(0).random((10, 10))
    for A in (
        np.array([[ends[0], 1e5], [1e5, ends[1]]]),
        np.block([[ends[0] * np.eye(10), C], [C.T, ends[1] * np.eye(10)]]),
    ):
        result = symmetric_scaling(A)
        assert result.success
        assert residual(A, result.x) <= 1.01e-8
        assert result.n_products < 2000
        mask = np.zeros(len(A) + 1, bool)
        mask[1] = True
        B = np.insert(np.insert(A, 1, 7.0, axis=0), 1, 7.0, axis=1)
        masked = symmetric_scaling(B, mask=mask)
        assert masked.success
        assert residual(A, masked.x[~mask]) <= 1.01e-8
        for most in (205, 210, 250):
            assert symmetric_scaling(A, max_products=most).n_products <= most


def test_callback():
    seen = []
    result = symmetric_scaling(positive(30), callback=seen.append)
    assert len(seen) == result.nit
    assert [state.nit for state in seen] == list(range(1, result.nit + 1))
    np.testing.assert_array_equal(seen[-1].x, result.x)
    for state in seen:
        assert state.residual == pytest.approx(residual(positive(30), state.x), rel=1e-6, abs=1e-14)

    def stop(state):
        if state.nit == 3:
            raise StopIteration

    result = symmetric_scaling(positive(30), callback=stop)
    assert (result.status, result.nit, result.message) == (99, 3, "stopped by the callback")
    np.testing.assert_array_equal(result.x, seen[2].x)


def test_progress(capsys):
    symmetric_scaling(positive(30), progress=True)
    assert "scale" in capsys.readouterr().err


def test_start():
    A = positive(30)
    result = symmetric_scaling(A, x0=np.exp(5 * np.random.default_rng(0).standard_normal(30)))
    np.testing.assert_allclose(result.x, symmetric_scaling(A).x, rtol=1e-7)


E2 = np.eye(2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"A": -E2}, ValueError,
         r"A must have no negative entries, but A\[0, 0\] = -1.0.*pass abs\(A\)"),
        ({"A": scipy.sparse.csr_array([[1, -2], [-2, 1]])}, ValueError, r"A\[0, 1\] = -2"),
        ({"A": np.triu(np.ones((2, 2)))}, ValueError, 'A must be symmetric, .* or uplo="U"'),
        ({"target": 0.0}, ValueError,
         "target must be positive and finite in every row that is kept, but it is 0.0 in row 0"),
        ({"target": [1.0, -1.0]}, ValueError,
         "but it is -1.0 in row 1: change it, or leave the row out by mask="),
        ({"target": [1.0, 2.0, 3.0]}, ValueError,
         r"target must be a number, or a vector of length 2 .* shape \(3,\)"),
        ({"target": 1j}, TypeError,
         "a scaling is for real numbers, and target is complex128: pass target.real"),
        ({"x0": [1.0, np.nan]}, ValueError,
         "x0 must be positive and finite in every row that is kept, but it is nan in row 1"),
        ({"mask": [0, 1]}, ValueError,
         r"mask must be a boolean for each of the 2 rows, .* got int64 of shape \(2,\)"),
        ({"tol": -1.0}, ValueError, "tol must be at least 0 and finite"),
        ({"min_nnz": -1}, ValueError, "min_nnz must be an integer, 0 or more"),
        ({"min_count": -1}, ValueError, "min_count must be at least 0 and finite"),
        ({"max_products": 0}, ValueError, "max_products must be a positive integer"),
        ({"support": "no"}, ValueError,
         "support must be one of 'auto', 'check', 'drop', 'drop_rows', 'skip', got 'no'"),
        ({"callback": 1}, TypeError, "callback must be callable, got 1"),
        ({"progress": 1}, TypeError, "progress must be True or False"),
    ],
)  # fmt: skip
def test_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        symmetric_scaling(**({"A": E2} | arguments))


def test_which_entry_is_negative():
    A = np.ones((60, 60), np.float32)
    for i, j in itertools.product((0, 17, 59), repeat=2):
        B = A.copy()
        B[i, j] = B[j, i] = -3
        for form in (np.asarray, np.asfortranarray, scipy.sparse.csr_array, scipy.sparse.csc_array):
            with pytest.raises(ValueError, match=rf"A\[({i}, {j}|{j}, {i})\] = -3"):
                symmetric_scaling(form(B))
