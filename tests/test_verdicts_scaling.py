"""The verdicts of scalings are those of linear programs, and what they name prevents a scaling."""

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
from linear_programs import Problem, possible_entries

from sparsejac import row_column_scaling, symmetric_scaling

TOL = 1e-8
_ROUNDING = 1e-13


def row_sums_hold(A, x, y, target):
    """Whether ``Σ_j A_ij x_i y_j`` is `target` to within TOL, by a loop."""
    numbers = [*x, *y]
    assert all(0 < number < math.inf for number in numbers)
    for row, x_i, d in zip(A.tolist(), x.tolist(), target.tolist(), strict=True):
        total = math.fsum(a * x_i * y_j for a, y_j in zip(row, y.tolist(), strict=True))
        if abs(total - d) > (TOL + _ROUNDING) * d:
            return False
    return True


def is_scaled(A, result, problem):
    if problem.columns is None:
        return row_sums_hold(A, result.x, result.x, problem.rows)
    r, c = result.r, result.c
    return row_sums_hold(A, r, c, problem.rows) and row_sums_hold(A.T, c, r, problem.columns)


def prevents(A, rows, row_sums, column_sums):
    """Whether all entries of some rows are in columns whose targets are less than theirs."""
    columns = [j for j in range(A.shape[1]) if any(A[i, j] > 0 for i in rows)]
    return rows.size > 0 and sum(row_sums[rows].tolist()) > sum(column_sums[columns].tolist())


def named_entries(result, A, *, symmetric):
    mask = np.zeros(A.shape, bool)
    mask[tuple(result.unsupported_entries.T)] = True
    return mask | mask.T if symmetric else mask


def scaled(problem, support, form=np.asarray, **options):
    A, d, q = problem
    if q is None:
        return symmetric_scaling(form(A), d, tol=TOL, support=support, **options)
    return row_column_scaling(form(A), d, q, tol=TOL, support=support, **options)


def check(problem, possible, support, form=np.asarray, **options):
    """Compare a result with the linear program's."""
    A, _, q = problem
    result = scaled(problem, support, form, **options)
    exists, in_limit = bool(np.all(possible == (A > 0))), bool(possible.any())
    assert result.success == (result.status == 1)
    if result.success:
        assert is_scaled(A, result, problem)
    if not in_limit:
        assert not result.success
        if support != "skip" or result.status == 4:  # rows without entries are always seen
            assert result.status == 4
            _check_certificate(problem, result)
    elif exists:
        assert result.success, result.message
        assert result.unsupported_rows.size == result.unsupported_entries.size == 0
    elif support in ("check", "drop"):
        assert result.status == {"check": 5, "drop": 6}[support]
        np.testing.assert_array_equal(
            named_entries(result, A, symmetric=q is None), (A > 0) & ~possible
        )
        if support == "drop":
            assert is_scaled(A * possible, result, problem)
            assert result.residual_after_dropping <= TOL < result.residual
    else:  # x may do to within the tolerance
        assert result.success or result.status == 5 or support == "skip"
    return result


def _check_certificate(problem, result):
    A, d, q = problem
    if q is None:
        assert prevents(A, result.unsupported_rows, d, d)
        return
    rows, columns = result.unsupported_rows, result.unsupported_columns
    assert rows.size or columns.size
    assert not rows.size or prevents(A, rows, d, q)
    assert not columns.size or prevents(A.T, columns, q, d)


def check_rows_that_are_left_out(problem, form=np.asarray, **options):
    """What ``"drop_rows"`` keeps has a scaling, and is scaled. The result is the program of it."""
    A, d, _ = problem
    result = scaled(problem, "drop_rows", form, **options)
    kept = result.kept
    assert result.status == (1 if kept.any() else 8)
    assert np.all(np.isnan(result.x[~kept]))
    assert np.count_nonzero(~kept) == sum(result.left_out.values())
    if not kept.any():
        return None
    rest = Problem(A[kept][:, kept], d[kept])
    assert row_sums_hold(rest.A, result.x[kept], result.x[kept], rest.rows)
    return rest


# --- the matrices ---------------------------------------------------------------------------------


def symmetric(bits, k, rng):
    """The matrix with this pattern of its upper triangle, with random numbers."""
    A = np.zeros((k, k))
    A[np.triu_indices(k)] = np.array(bits, float) * rng.lognormal(size=len(bits))
    return np.triu(A) + np.triu(A, 1).T


def patterns(size):
    return itertools.product([0, 1], repeat=size)


def row_targets(k, rng, most=3):
    """Equal integers, or any."""
    return np.ones(k) if rng.random() < 0.3 else rng.integers(1, most + 1, k).astype(float)


def exhaustive(k, target, part, parts):
    """All symmetric patterns of size k, those of one of some parts."""
    rng = np.random.default_rng([k, part])
    for bits in itertools.islice(patterns(k * (k + 1) // 2), part, None, parts):
        d = np.ones(k) if target == "ones" else rng.integers(1, 4, k).astype(float)
        yield Problem(symmetric(bits, k, rng), d)


def at_random(count, seed, largest=6):
    rng = np.random.default_rng([count, seed])
    for _ in range(count):
        k = int(rng.integers(1, largest + 1))
        bits = rng.random(k * (k + 1) // 2) < rng.uniform(0.2, 0.9)
        yield Problem(symmetric(bits, k, rng), row_targets(k, rng))


def column_targets(p, n, rng):
    """Positive integers with the sum of p; None if n is larger than that sum."""
    total = int(p.sum())
    if n > total:
        return None
    cuts = np.sort(rng.choice(np.arange(1, total), n - 1, replace=False))
    return np.diff(np.concatenate([[0], cuts, [total]])).astype(float)


def rectangular(shape, bits, rng):
    p = row_targets(shape[0], rng, 4)
    q = column_targets(p, shape[1], rng)
    while q is None:
        p += 1
        q = column_targets(p, shape[1], rng)
    A = np.array(bits, float).reshape(shape) * rng.lognormal(size=shape)
    return Problem(A, p, q)


def exhaustive_rectangular(largest):
    rng = np.random.default_rng(largest)
    for shape in itertools.product(range(1, largest + 1), repeat=2):
        for bits in patterns(math.prod(shape)):
            yield rectangular(shape, bits, rng)


def rectangular_at_random(count, seed, largest=5):
    rng = np.random.default_rng([count, seed])
    for _ in range(count):
        shape = tuple(rng.integers(1, largest + 1, 2).tolist())
        bits = rng.random(math.prod(shape)) < rng.uniform(0.3, 0.9)
        yield rectangular(shape, bits, rng)


def check_all(problems, tried, support="check"):
    problems = list(problems)
    for problem, possible in zip(problems, possible_entries(problems), strict=True):
        check(problem, possible, support)
    tried("small matrices with a linear program", len(problems))


# --- the tests ------------------------------------------------------------------------------------


def test_three_kinds_of_matrices():
    """The programs tell whether there is a scaling, one in the limit, or none."""
    ones = np.ones(2)
    problems = [
        Problem(np.array([[1.0, 1], [1, 1]]), ones),
        Problem(np.array([[1.0, 1], [1, 0]]), ones),
        Problem(np.array([[1.0, 1], [1, 0]]), np.array([1.0, 2])),
        Problem(np.array([[1.0, 1], [0, 1]]), ones, ones),
    ]
    found = possible_entries(problems)
    assert found[0].all()
    assert found[1].tolist() == [[False, True], [True, False]]
    assert not found[2].any()
    assert found[3].tolist() == [[True, False], [False, True]]
    for problem, possible in zip(problems, found, strict=True):
        check(problem, possible, "check")


def test_a_few_hundred_matrices(tried):
    check_all(at_random(200, 0), tried)
    check_all(rectangular_at_random(100, 0), tried)


@pytest.mark.long
@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("target", ["ones", "first", "second", "third"])
def test_all_patterns(k, target, tried):
    check_all(exhaustive(k, target, 0, 1), tried)


@pytest.mark.long
@pytest.mark.parametrize("part", range(8))
@pytest.mark.parametrize("target", ["ones", "integers"])
def test_all_patterns_of_size_5(part, target, tried):
    check_all(exhaustive(5, target, part, 8), tried)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 6))
def test_random_patterns(seed, tried):
    check_all(at_random(4000, seed), tried)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 6))
def test_random_rectangular_patterns(seed, tried):
    check_all(rectangular_at_random(3000, seed), tried)


@pytest.mark.long
def test_all_rectangular_patterns(tried):
    check_all(exhaustive_rectangular(3), tried)


FORMS = {
    "dense": (np.asarray, {}),
    "csr": (scipy.sparse.csr_array, {}),
    "upper": (lambda A: scipy.sparse.csr_array(np.triu(A)), {"uplo": "U"}),
    "streamed": (lambda A: lambda i, j: A[i:j].copy(), {}),
}


@pytest.mark.parametrize("count", [12, pytest.param(400, marks=pytest.mark.long)])
@pytest.mark.parametrize("form", FORMS)
def test_forms_and_modes(form, count, tried):
    problems = list(at_random(count, 7))
    possible = possible_entries(problems)
    form, options = FORMS[form]
    modes = ["auto", "check", "skip"] + ["drop"] * (form is not FORMS["streamed"][0])
    rest = []
    for problem, entries in zip(problems, possible, strict=True):
        for support in modes:
            check(problem, entries, support, form, **options)
        rest.append(check_rows_that_are_left_out(problem, form, **options))
        if np.all(entries == (problem.A > 0)) and entries.any():
            assert rest[-1].A.shape == problem.A.shape  # all rows are kept
    kept = [problem for problem in rest if problem is not None]
    for problem, entries in zip(kept, possible_entries(kept), strict=True):
        np.testing.assert_array_equal(entries, problem.A > 0)
    tried("small matrices with a linear program", count * (len(modes) + 1))


# The row 0 has its own entry, and one in a bipartite part of 2 or 4 rows, which has a matching.
PENDANT_2 = np.array([[1.0, 1, 0], [1, 0, 1], [0, 1, 0]])
PENDANT_4 = np.block(
    [[np.ones((1, 1)), np.eye(1, 4)], [np.eye(4, 1), 1 - np.kron(np.eye(2), np.ones((2, 2)))]]
)
LOOP = np.array([[1.0, 1], [1, 0]])  # a bipartite part of 2 rows, with one more entry in the row 0
TRIANGLE = 1 - np.eye(3)
# Parts of 4, 3, 3, 2 and 1 rows. The entries that connect them have no support.
CHAIN = scipy.linalg.block_diag(PENDANT_4[1:, 1:], TRIANGLE, TRIANGLE, 1 - np.eye(2), 1)
for i, j in ((0, 4), (10, 4), (10, 7), (12, 10)):
    CHAIN[i, j] = CHAIN[j, i] = 1


@pytest.mark.parametrize(
    ("parts", "left_out"),
    [
        ([PENDANT_2], [0]),
        ([PENDANT_2, PENDANT_4], [0, 3]),
        ([PENDANT_4, PENDANT_2, PENDANT_2], [0, 5, 8]),
        ([LOOP], [1]),
        ([LOOP, PENDANT_2], [1, 2]),
        ([PENDANT_2, LOOP, np.eye(2)], [0, 4]),
        ([CHAIN], [4, 5, 6, 10, 11]),  # the last row stays, as what it is connected to goes
    ],
)
def test_which_rows_are_left_out(parts, left_out):
    """Of two parts that an entry without support connects, the smaller one is left out. For an
    entry that connects rows of one bipartite part, it is what they are matched with.
    """
    A = scipy.linalg.block_diag(*parts)
    for form, options in FORMS.values():
        result = symmetric_scaling(form(A), support="drop_rows", **options)
        assert result.success
        kept = np.ones(len(A), bool)
        kept[left_out] = False
        np.testing.assert_array_equal(result.kept, kept)


@pytest.mark.parametrize(
    ("entries", "targets", "count"),
    [
        ([(0, 1), (0, 2)], [1, 1, 1, 1, 1, 1], 2),  # for the second one the row 0 is used up
        ([(1, 2), (0, 0)], [1, 1, 1, 1, 1, 1], 3),
        ([(0, 1)], [1, 2, 1, 1, 2, 1], 0),  # with these targets, rows are not matched one to one
    ],
)
def test_how_many_rows_of_a_bipartite_part_are_left(entries, targets, count):
    A = np.kron(1 - np.eye(2), np.ones((3, 3)))
    for i, j in entries:
        A[i, j] = A[j, i] = 1.0
    d = np.array(targets, float)
    kept = symmetric_scaling(A, d, support="drop_rows").kept
    assert np.count_nonzero(kept) == count


RECTANGULAR_FORMS = [np.asarray, np.asfortranarray, scipy.sparse.csr_array, scipy.sparse.csc_array]


@pytest.mark.parametrize("count", [8, pytest.param(400, marks=pytest.mark.long)])
@pytest.mark.parametrize("form", RECTANGULAR_FORMS)
def test_forms_and_modes_of_two_vectors(form, count, tried):
    problems = list(rectangular_at_random(count, 8))
    for problem, entries in zip(problems, possible_entries(problems), strict=True):
        for support in ("auto", "check", "drop", "skip"):
            check(problem, entries, support, form)
    tried("small matrices with a linear program", 4 * count)


@pytest.mark.parametrize("count", [20, pytest.param(2000, marks=pytest.mark.long)])
def test_targets_that_are_rounded(count, tried):
    """Tenths are no float64 numbers: only a lack of support that is more than rounding is named."""
    problems = list(at_random(count, 9)) + list(rectangular_at_random(count, 9))
    for problem, possible in zip(problems, possible_entries(problems), strict=True):
        A, d, q = problem
        tenths = Problem(A, d / 10, None if q is None else q / 10)
        result = scaled(tenths, "check")
        if not possible.any():
            assert result.status == 4
            _check_certificate(problem, result)
        elif np.all(possible == (A > 0)):
            assert result.success
            assert is_scaled(A, result, tenths)
        else:
            assert not result.success or is_scaled(A, result, tenths)
            assert result.status != 4
    tried("small matrices with a linear program", len(problems))


SHORT = np.array([[1.0, 1], [1, 0]])  # the row 1 lacks support if its target is the larger one


def test_the_limits_of_verdicts():
    """They are exact for integers whose sum is below 2³⁰. Else a lack of less than 1e-12 is not
    found, and nothing is said of a lack of total support.
    """
    third, last = 2.0**28 + 1, 2.0**29 - 3
    assert symmetric_scaling(PENDANT_2, [last, third, third], support="check").status == 5
    assert symmetric_scaling(PENDANT_2, [last + 1, third, third], support="check").status != 5
    large = np.array([2.0**40 + 1, 2.0**40])  # int32 does not hold them
    assert symmetric_scaling(SHORT, large, support="check").status != 5
    for scale in (1.0, 3.0, 1e-200):
        for lack, status in ((1.5e-12, 4), (5e-13, 0)):
            d = np.array([1, 1 + lack]) * scale
            assert symmetric_scaling(SHORT, d, support="check", max_products=9).status == status
    # The hub's target suffices, or does not, for the three others.
    star = np.array([[0, 1.0, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]])
    for hub, short in ((9.7, [0]), (5.3, [1, 2, 3])):
        result = symmetric_scaling(star, [hub, np.pi, 2, 2], support="check")
        assert (result.status, result.unsupported_rows.tolist()) == (4, short)


def test_rows_that_are_left_out_are_not_named():
    A = np.zeros((5, 5))
    A[1, 2:] = A[2:, 1] = A[0, 4] = A[4, 0] = 1  # the row 1 is all that three others have
    result = symmetric_scaling(A, mask=np.arange(5) == 0, support="check")
    assert (result.status, result.unsupported_rows.tolist()) == (4, [2, 3, 4])


@pytest.mark.parametrize("support", ["check", "drop", "drop_rows"])
def test_no_verdict_on_rounded_targets(support):
    """The entry (0, 0) takes the excess of the row 0, which is lost in integers below 2³⁰."""
    A = scipy.linalg.block_diag(SHORT, 1.0)
    result = symmetric_scaling(A, [1 + 2e-13, 1, np.pi], support=support, max_products=9)
    assert result.status == 0
    assert result.kept.all()
