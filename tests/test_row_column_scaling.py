"""Tests of the scaling of rows and columns: it agrees with Sinkhorn, or names what prevents it."""

import re
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse
from scipy.optimize import linprog
from support import random_csr, slow

from sparsejac import row_column_scaling, symmetric_scaling
from sparsejac._system import machine as _machine

FORMS = [np.asarray, np.asfortranarray, scipy.sparse.csr_array, scipy.sparse.csc_matrix]


def sinkhorn(A, p, q, steps=100_000, tol=1e-13):
    """Compute the scaled matrix by Sinkhorn's iteration."""
    c = np.ones(A.shape[1])
    for _ in range(steps):
        r = p / (A @ c)
        c = q / (A.T @ r)
        if np.max(np.abs(r * (A @ c) - p) / p) <= tol:
            break
    return r[:, np.newaxis] * A * c


def targets(m, n, seed=0):
    rng = np.random.default_rng(seed)
    p, q = rng.lognormal(size=m), rng.lognormal(size=n)
    return p, q * (p.sum() / q.sum())


def residual(A, result, p, q):
    """Compute the residual by its definition, with NumPy."""
    A, r, c = np.asarray(A), result.r, result.c
    rows, columns = np.abs(r * (A @ c) - p) / p, np.abs(c * (A.T @ r) - q) / q
    return max(np.max(rows), np.max(columns))


def scaled(A, result):
    return result.r[:, np.newaxis] * np.asarray(A) * result.c


def gauge(result):
    return np.mean(np.log(result.r)) - np.mean(np.log(result.c))


# The rows 1 and 2 have entries in column 2 only, and the columns 0 and 1 in row 0 only.
NONE = np.array([[1.0, 1, 0], [0, 0, 1], [0, 0, 1]])
# The entry (0, 1) is zero in each matrix whose sums are 1.
PARTIAL = np.array([[1.0, 1], [0, 1]])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(1, 1), (30, 30), (7, 40), (40, 7), (1, 5), (5, 1)])
def test_agrees_with_sinkhorn(form, shape):
    A, (p, q) = np.random.default_rng(1).lognormal(size=shape), targets(*shape)
    result = row_column_scaling(form(A), p, q, tol=1e-12)
    assert (result.status, result.success) == (1, True)
    assert re.fullmatch(r"converged: the residual \S+ is at most tol, 1e-12", result.message)
    assert residual(A, result, p, q) == pytest.approx(result.residual, abs=1e-14)
    np.testing.assert_allclose(scaled(A, result), sinkhorn(A, p, q), rtol=1e-10)
    assert (result.r.shape, result.c.shape) == ((shape[0],), (shape[1],))
    assert abs(gauge(result)) < 1e-13
    assert result.history[-1].tolist() == [result.n_products, result.residual]
    for empty in (result.unsupported_rows, result.unsupported_columns, result.unsupported_entries):
        assert empty.size == 0


def test_a_gaussian_kernel():
    """This is entropic optimal transport. Sinkhorn takes several times as many steps."""
    rng = np.random.default_rng(0)
    points, others = rng.random((80, 1, 2)), rng.random((100, 2))
    A = np.exp(-((points - others) ** 2).sum(axis=2) / 0.02)
    p, q = np.full(80, 1 / 80), np.full(100, 1 / 100)
    result = row_column_scaling(A, p, q, tol=1e-12)
    assert result.success
    np.testing.assert_allclose(scaled(A, result), sinkhorn(A, p, q), rtol=1e-10)
    few = row_column_scaling(A, p, q)
    assert few.n_products < 150
    assert residual(A, few, p, q) <= 1.01e-8
    assert np.max(np.abs(sinkhorn(A, p, q, few.n_products).sum(axis=1) - p) / p) > 1e-6


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "lil", "dia", "bsr", "dok"])
def test_sparse(form):
    rng = np.random.default_rng(2)
    A = rng.lognormal(size=(30, 20)) * (rng.random((30, 20)) < 0.3)
    A[np.arange(30), np.arange(30) % 20] = 1.0
    # A is the pattern of a matrix with these sums, so a scaling exists.
    p, q = A.sum(axis=1), A.sum(axis=0)
    B = A * rng.lognormal(size=A.shape)
    result = row_column_scaling(scipy.sparse.coo_array(B).asformat(form), p, q, tol=1e-12)
    assert result.success
    np.testing.assert_allclose(scaled(B, result), sinkhorn(B, p, q), rtol=1e-10)


def test_forms_that_are_converted():
    """Duplicates are summed, indices are sorted, and a dense A may have any strides."""
    A, (p, q) = np.random.default_rng(1).lognormal(size=(6, 9)), targets(6, 9)
    expected = scaled(A, row_column_scaling(A, p, q))
    i, j = (index.ravel() for index in np.indices(A.shape, np.int32))
    halves = scipy.sparse.coo_array(
        (np.tile(A.ravel() / 2, 2), (np.tile(i[::-1], 2), np.tile(j[::-1], 2))), shape=A.shape
    )
    halves.data[: A.size] = halves.data[A.size :] = A.ravel()[::-1] / 2
    backward = scipy.sparse.csr_array(A)[:, ::-1]
    stride = np.repeat(np.repeat(A, 2, axis=0), 3, axis=1)[::2, ::3]
    for form, reverse in ((halves, 1), (backward, -1), (stride, 1), (A.tolist(), 1)):
        found = row_column_scaling(form, p, q[::reverse])
        np.testing.assert_allclose(scaled(A[:, ::reverse], found)[:, ::reverse], expected, 1e-7)


def test_the_targets_that_are_the_default():
    A = np.random.default_rng(0).lognormal(size=(4, 6))
    np.testing.assert_allclose(scaled(A, row_column_scaling(A)).sum(axis=0), 4 / 6)
    by_target = row_column_scaling(A, [3.0, 1, 1, 1])
    np.testing.assert_allclose(scaled(A, by_target).sum(axis=0), 1)
    both = row_column_scaling(A, 0.3, 0.2)
    np.testing.assert_allclose(scaled(A, both).sum(axis=1), 0.3)
    np.testing.assert_allclose(scaled(A, both).sum(axis=0), 0.2)


def test_a_symmetric_matrix():
    A = np.random.default_rng(0).lognormal(size=(20, 20))
    A = A + A.T
    result, x = row_column_scaling(A, tol=1e-13), symmetric_scaling(A, tol=1e-13).x
    np.testing.assert_allclose(result.r, x, rtol=1e-10)
    np.testing.assert_allclose(result.c, x, rtol=1e-10)


def test_weak_support():
    """Sinkhorn's iteration takes a thousand steps for these."""
    A = np.triu(np.ones((40, 40))) + 1e-6 * np.tril(np.ones((40, 40)))
    assert residual(A, row_column_scaling(A), 1.0, 1.0) <= 1.01e-8
    assert row_column_scaling(A).n_products < 150


@pytest.mark.parametrize("of_A", [1e-200, 1e200])
@pytest.mark.parametrize("of_target", [1e-100, 1e100])
def test_any_scale(of_A, of_target):
    A, (p, q) = np.random.default_rng(0).lognormal(size=(5, 8)), targets(5, 8)
    result = row_column_scaling(of_A * A, of_target * p, of_target * q)
    assert result.success
    assert abs(gauge(result)) < 1e-10
    expected = scaled(A, row_column_scaling(A, p, q))
    found = (result.r[:, np.newaxis] * (of_A * A) * result.c) / of_target
    np.testing.assert_allclose(found, expected, rtol=1e-7)


def test_the_bits_do_not_depend_on_the_workers():
    A = random_csr(2000, 30)
    one, two = (row_column_scaling(A, workers=workers) for workers in (1, 2))
    np.testing.assert_array_equal(one.r, two.r)
    np.testing.assert_array_equal(one.c, two.c)


def test_empty():
    result = row_column_scaling(np.zeros((0, 0)))
    assert (result.success, result.r.shape, result.c.shape) == (True, (0,), (0,))
    assert result.unsupported_entries.shape == (0, 2)


# --- where there is no scaling --------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("rows", "columns", "who"),
    [
        ([2], [], "row 2 has"),
        ([], [1, 4], "the 2 columns 1, 4 have"),
        ([0, 1, 2, 3], [3], "the 4 rows 0, 1, 2, … and column 3 have"),
    ],
)
def test_rows_without_entries(form, rows, columns, who):
    A = np.ones((5, 6))
    A[rows], A[:, columns] = 0, 0
    for support in ("auto", "check", "drop", "skip"):
        result = row_column_scaling(form(A), support=support)
        assert (result.status, result.success, result.n_products) == (4, False, 1)
        assert result.message == (
            f"no scaling exists, as A has no support: {who} no entries; remove them from A and "
            "from the targets"
        )
        assert result.unsupported_rows.tolist() == rows
        assert result.unsupported_columns.tolist() == columns


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("support", ["auto", "check", "drop"])
def test_no_support(form, support):
    result = row_column_scaling(form(NONE), support=support)
    assert (result.status, result.success) == (4, False)
    assert result.message == (
        "no scaling exists, as A has no support: the 2 rows 1, 2 have entries only in column 2, "
        "whose target is less than theirs; change these targets, or add entries"
    )
    assert result.unsupported_rows.tolist() == [1, 2]
    assert result.unsupported_columns.tolist() == [0, 1]
    assert result.n_products < 60
    assert np.isfinite(result.r).all()
    assert np.isfinite(result.c).all()
    other = row_column_scaling(form(np.eye(2)), [1.0, 2.0], [2.0, 1.0], support=support)
    assert "row 1 has entries only in column 1, whose target is less than its own" in other.message
    wide = row_column_scaling(form(NONE), [1.0, 3.0, 4.0], [3.0, 4.0, 1.0], support="check")
    assert "the 2 rows 1, 2 have entries only in column 2" in wide.message
    assert row_column_scaling(form(NONE), [2.0, 1.0, 1.0], [1.0, 1.0, 2.0], support="check").success


@pytest.mark.parametrize("form", FORMS)
def test_support_that_is_not_total(form):
    for support in ("auto", "check"):
        result = row_column_scaling(form(PARTIAL), support=support)
        assert (result.status, result.success) == (5, False)
        assert result.message == (
            "no scaling exists, as A has support, but no total support: 1 of its entries is zero "
            'in every matrix with these row and column sums, in row 0; support="drop" drops them'
        )
        assert result.unsupported_entries.tolist() == [[0, 1]]
    A = form(PARTIAL)
    result = row_column_scaling(A, support="drop")
    assert (result.status, result.success) == (6, False)
    assert re.fullmatch(
        r"scaled after dropping entries, and A itself is not: r and c scale A without them to a "
        r"residual of \S+, tol is 1e-08, but that of A is \S+; "
        "1 of its entries is dropped, in row 0",
        result.message,
    )
    np.testing.assert_allclose(scaled(np.eye(2), result), np.eye(2))
    assert A[0, 1] == 1  # the caller's matrix has not changed
    assert result.residual == pytest.approx(residual(PARTIAL, result, 1.0, 1.0))
    assert result.residual_after_dropping <= 1e-8
    np.testing.assert_allclose(sinkhorn(PARTIAL, 1.0, 1.0, 3000), np.eye(2), atol=1e-3)
    assert row_column_scaling(PARTIAL, [2.0, 1.0], [1.0, 2.0], support="check").success


def test_verdicts_for_two_targets_are_exact():
    """1/3 is no float64. Row 0 must supply the whole of columns 0 to 2, and has another entry."""
    A = np.kron(np.eye(3), np.ones((1, 3)))
    A[0, 5] = 1.0
    for p in (1.0, 0.1, 1e-300):
        result = row_column_scaling(A, p, support="check")
        assert (result.status, result.unsupported_entries.tolist()) == (5, [[0, 5]])
        assert row_column_scaling(A, p, support="drop").residual_after_dropping <= 1e-8


def can_be_positive(A, p, q):
    """Find the entries that can be positive in a P ≥ 0 with these sums, by linear programming.

    P is zero where A is. The result is None if there is no P.
    """
    i, j = np.nonzero(A)
    equations = np.zeros((p.size + q.size, i.size))
    equations[i, np.arange(i.size)] = equations[p.size + j, np.arange(i.size)] = 1
    largest = np.zeros(A.shape, bool)
    for entry in range(i.size):
        found = linprog(-np.eye(i.size)[entry], A_eq=equations, b_eq=np.append(p, q))
        if found.status != 0:
            return None
        largest[i[entry], j[entry]] = found.fun < -1e-9
    return largest


@pytest.mark.parametrize("seed", range(24))
def test_verdicts_are_those_of_linear_programming(seed):
    rng = np.random.default_rng(seed)
    m, n = rng.integers(2, 6, 2)
    A = (rng.random((m, n)) < 0.6).astype(float)
    A[np.arange(m), np.arange(m) % n] = 1
    if seed % 3:
        P = A * rng.integers(0, 3, A.shape)
        p, q = P.sum(axis=1), P.sum(axis=0)
        p, q = p + 1, q + np.bincount(np.arange(m) % n, minlength=n)
        keep = q > 0
        A, q = A[:, keep], q[keep]
    else:
        p, q = np.full(m, float(n)), np.full(n, float(m))
    form = scipy.sparse.csc_array if seed % 2 else scipy.sparse.csr_array
    result = row_column_scaling(form(A), p, q, support="check")
    possible = can_be_positive(A, p, q) if A.any(axis=0).all() else None
    if possible is None:
        assert result.status == 4
        rows, columns = result.unsupported_rows, result.unsupported_columns
        assert not rows.size or p[rows].sum() > q[A[rows].any(axis=0)].sum()
        assert not columns.size or q[columns].sum() > p[A[:, columns].any(axis=1)].sum()
    elif (possible == (A > 0)).all():
        assert result.success
        np.testing.assert_allclose(scaled(A, result).sum(axis=1), p, rtol=1e-7)
    else:
        assert result.status == 5
        bad = np.argwhere((A > 0) & ~possible)
        np.testing.assert_array_equal(result.unsupported_entries, bad)
        dropped = row_column_scaling(form(A), p, q, support="drop")
        assert dropped.status == 6
        assert residual(A * possible, dropped, p, q) <= 1.01e-8


# --- how it ends ----------------------------------------------------------------------------------


def test_max_products():
    A, (p, q) = np.random.default_rng(1).lognormal(size=(30, 20)), targets(30, 20)
    result = row_column_scaling(A, p, q, max_products=4)
    assert (result.status, result.success, result.n_products) == (0, False, 4)
    assert result.message.startswith("max_products = 4 was reached")
    assert result.residual == pytest.approx(residual(A, result, p, q), rel=1e-6)


def test_out_of_range():
    result = row_column_scaling(NONE, support="skip", max_products=5000)
    assert not result.success
    for vector in (result.r, result.c):
        assert (vector > 0).all()
        assert np.isfinite(vector).all()
    tiny = row_column_scaling(np.full((2, 2), 1e-320), 1e308)
    assert tiny.status == 3
    assert tiny.message.startswith("r, c or a product with A leaves the range of numbers")


def exact_residual(A, result, p, q):
    """The residual in rational numbers, which neither overflow nor underflow."""
    B, r, c = ([Fraction(float(u)) for u in v] for v in (A.ravel(), result.r, result.c))
    n = len(c)
    lines = [
        *((r[i] * sum(B[i * n + j] * c[j] for j in range(n)), p[i]) for i in range(len(r))),
        *((c[j] * sum(B[i * n + j] * r[i] for i in range(len(r))), q[j]) for j in range(n)),
    ]
    return float(max(abs(total / Fraction(float(d)) - 1) for total, d in lines))


@pytest.mark.parametrize("seeds", [[0, 1, 2, 53, 135, 171, 203], *slow(range(300))])
def test_the_residual_is_that_of_r_and_c(seeds):
    """Also near the ends of the range, where r and c cannot have equal geometric means."""
    statuses = set()
    for seed in seeds:
        rng = np.random.default_rng(seed)
        shape = tuple(rng.integers(1, 5, 2).tolist())
        size = rng.choice([50, 150, 300])
        A = rng.lognormal(size=shape) * 10.0 ** rng.uniform(-size, size, shape)
        p, q = targets(*shape, seed=seed)
        if seed % 3 == 0:
            p, q = np.full(shape[0], 1 / shape[0]), np.full(shape[1], 1 / shape[1])
        unit = 10.0 ** rng.choice([0, -100, 100, -250, 250])
        most = int(rng.choice([5, 2000]))
        result = row_column_scaling(A, p * unit, q * unit, support="skip", max_products=most)
        expected = exact_residual(A, result, p * unit, q * unit)
        assert result.residual == pytest.approx(expected, rel=1e-6, abs=1e-12)
        statuses.add(int(result.status))
    assert {1, 3} <= statuses


def test_progress(capsys):
    row_column_scaling(np.ones((3, 4)), np.arange(1.0, 4), progress=True)
    assert "scale" in capsys.readouterr().err


def test_memory():
    """Nothing of the size of a sparse A is allocated, and of a dense A only column indices."""
    A = random_csr(3000, 60)[:, :2000].tocsr()
    A.sum_duplicates()
    p, q = A.sum(axis=1), A.sum(axis=0)
    dense = np.random.default_rng(0).random((700, 900))
    for B, of_B, vectors in (((A, p, q), 0, 5000), ((dense,), 4 * dense.size, 1600)):
        row_column_scaling(*B)  # compiled
        tracemalloc.start()
        try:
            assert row_column_scaling(*B).success
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak <= of_B + 8 * 23 * vectors + 700_000


def test_the_examination_needs_memory(monkeypatch):
    monkeypatch.setattr(_machine, "available_memory", lambda: 100)
    assert "support was not examined" in row_column_scaling(PARTIAL, max_products=80).message
    monkeypatch.setattr("sparsejac._validation.LARGE", 1)
    with pytest.raises(MemoryError, match=r"the column indices of a dense A .* pass A as a sparse"):
        row_column_scaling(np.ones((20, 30)))


ONES = np.ones((2, 3))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"A": -ONES}, ValueError, r"A must have no negative entries, but A\[0, 0\] = -1.0"),
        ({"A": scipy.sparse.csr_array([[1, 0, 2.0], [0, 0, -3]])}, ValueError, r"A\[1, 2\] = -3"),
        ({"A": scipy.sparse.csc_array([[1, 0, 2.0], [0, 0, -3]])}, ValueError, r"A\[1, 2\] = -3"),
        ({"A": np.asfortranarray([[1, 0, 2.0], [0, -3, 0]])}, ValueError, r"A\[1, 1\] = -3"),
        ({"A": np.array([[1, 0, 2.0], [0, np.nan, 0]])}, ValueError,
         r"A must be finite, but A\[1, 1\] = nan: pass check_finite=False"),
        ({"A": np.ones(3)}, ValueError,
         r"A must be a matrix with rows and columns, got shape \(3,\)"),
        ({"A": ONES * 1j}, TypeError, "a scaling is for real numbers, and A is complex128"),
        ({"A": "A.npy"}, TypeError, "A must be a NumPy array or a SciPy sparse array or matrix"),
        ({"row_target": 0.0}, ValueError,
         "row_target must be positive and finite, but it is 0.0 for row 0: change it, or remove "),
        ({"row_target": 0.0}, ValueError, "remove the row from A and from row_target"),
        ({"column_target": [1.0, 1, np.nan]}, ValueError,
         "column_target must be positive and finite, but it is nan for column 2"),
        ({"row_target": [1.0, 2.0, 3.0]}, ValueError,
         r"row_target must be a number, or one number for each of A's 2 rows, got shape \(3,\)"),
        ({"column_target": [1.0, 2.0]}, ValueError,
         r"column_target must be a number, or one number for each of A's 3 columns, got shape"),
        ({"row_target": 1j}, TypeError,
         "a scaling is for real numbers, and row_target is complex128: pass row_target.real"),
        ({"column_target": 1.0}, ValueError,
         "must have the same sum, .* but they sum to 2 and 3: leave out column_target, or"),
        ({"row_target": 1e308, "column_target": 1.0}, ValueError, "must have the same sum"),
        ({"tol": -1.0}, ValueError, "tol must be at least 0 and finite"),
        ({"max_products": 0}, ValueError, "max_products must be a positive integer"),
        ({"support": "drop_rows"}, ValueError,
         "support must be one of 'auto', 'check', 'drop', 'skip', got 'drop_rows'"),
        ({"progress": 1}, TypeError, "progress must be True or False"),
        ({"check_finite": 1}, TypeError, "check_finite must be True or False"),
    ],
)  # fmt: skip
def test_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        row_column_scaling(**({"A": ONES} | arguments))


def test_totals_may_differ_by_rounding():
    p, q = targets(5, 8)
    assert row_column_scaling(np.ones((5, 8)), p, q * (1 + 1e-14)).success
    with pytest.raises(ValueError, match="must have the same sum"):
        row_column_scaling(np.ones((5, 8)), p, q * (1 + 1e-11))


@pytest.mark.parametrize("form", ["csr", "csc"])
def test_inconsistent_structures(form):
    """The index is outside A, but not outside the matrix of its graph."""
    A = scipy.sparse.csr_array(np.ones((3, 3))).asformat(form)
    A.indices[-1] = 4
    with pytest.raises(ValueError, match=f"inconsistent {form} structure: .* outside 0 … 2"):
        row_column_scaling(A)
    B = scipy.sparse.coo_array(np.ones((3, 4)))
    B.coords = (B.row, np.where(B.col == 3, 4, B.col))
    with pytest.raises(ValueError, match="it has an index j outside 0 … 3"):
        row_column_scaling(B)
