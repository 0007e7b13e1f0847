"""Numbers at the edge of their dtypes, against exact fractions.

An entry of F, of the residuals, of J and of J v is right to a few units in the last place, wherever
its exact value is in the range of its dtype. It does not matter in which order A_ij, x_i and x_j
could be multiplied without leaving the range.
"""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse
from hypothesis import settings
from kinds import Sliced
from support import slow, slow_except

from sparsejac import JacobianBuilder, LeastSquares, RowSums
from sparsejac._backends.sizes import products_hold, split

FORMS = {
    "C": np.asarray,
    "csr": scipy.sparse.csr_array,
    "streamed": Sliced,
}
# How far x, v and A reach, as powers of ten: J v multiplies x by v.
RANGES = {
    "one product is in range": (150, 150, 300),
    "no product need be in range": (320, 320, 320),
    "small x": ((-320, -150), (-320, -150), (200, 305)),
    "large x": ((150, 307), (150, 307), (-320, -200)),
    "subnormal A": (60, 60, (-323, -308)),
}


def powers(rng, reach, shape, dtype=np.float64):
    """Numbers of either sign, and zeros. Half of them are at one of the two ends."""
    low, high = reach if isinstance(reach, tuple) else (-reach, reach)
    factor = 38 / 308 if np.finfo(dtype).bits == 32 else 1
    exponents = rng.uniform(low, high, shape)
    ends = rng.choice([low, high], shape)
    exponents = np.where(rng.random(shape) < 0.5, exponents, ends) * factor
    with np.errstate(over="ignore", under="ignore"):
        found = (rng.choice([-1, 1], shape) * rng.uniform(1, 9, shape)).astype(dtype)
        found = (found * np.power(10.0, exponents)).astype(dtype)
    found[~np.isfinite(found)] = np.finfo(dtype).max
    found[rng.random(shape) < 0.1] = 0
    return found


def fractions(B):
    return [[Fraction(float(b)) for b in row] for row in B]


class Exact:
    """F, J v and the entries of J as fractions, beside the sums of the sizes of their terms."""

    def __init__(self, A, Z, V, pairs, *, bilinear):
        self._A, self._Z, self._V, self._pairs = fractions(A), fractions(Z), fractions(V), pairs
        self._below = len(A) if bilinear else 0  # where the variables of A's columns begin

    def _terms(self, *factors):
        for i, j in self._pairs:
            a, s, t = self._A[i][j], i, self._below + j
            yield [
                a * p * q for left, right in factors for p, q in zip(left[s], right[t], strict=True)
            ]

    def value(self):
        return list(self._terms((self._Z, self._Z)))

    def product(self):
        return list(self._terms((self._V, self._Z), (self._Z, self._V)))

    def jacobian(self):
        rank = len(self._Z[0])
        J = {}
        for row, (i, j) in enumerate(self._pairs):
            s, t = i, self._below + j
            for c, (one, other) in itertools.product(range(rank), ((s, t), (t, s))):
                at = row, one * rank + c
                J[at] = J.get(at, 0) + self._A[i][j] * self._Z[other][c]
        return J


def assert_right(found, terms, *, roundings):
    """Each number is the sum of its exact terms but for so many roundings of each.

    It is infinite only if the exact sum is beyond the largest number, up to these roundings.
    """
    limits = np.finfo(found.dtype)
    unit, last = Fraction(float(limits.eps)) / 2, Fraction(float(limits.smallest_subnormal))
    largest = Fraction(float(limits.max))
    for number, of in zip(found.tolist(), terms, strict=True):
        exact, size = sum(of), sum(map(abs, of))
        slack = size * unit * roundings * (1 + unit * roundings)
        if not np.isfinite(number):
            assert abs(exact) + slack >= largest
            assert (number > 0) == (exact > 0)
        else:
            assert abs(Fraction(number) - exact) <= slack + last, (number, float(exact))


def case(reach, seed, dtype, rank, *, bilinear):
    rng = np.random.default_rng(seed)
    of_x, of_v, of_a = RANGES[reach]
    m, n = (3, 4) if bilinear else (4, 4)
    shape = (m + n if bilinear else n, rank or 1)
    A = powers(rng, of_a, (m, n), dtype)
    return A, powers(rng, of_x, shape, dtype), powers(rng, of_v, shape, dtype)


EVERY_DAY = [("one product is in range", "C", "float64", None, False)]
EVERY_DAY.append(("one product is in range", "csr", "float64", None, False))
EVERY_DAY.append(("subnormal A", "C", "float64", None, False))


@pytest.mark.parametrize(
    ("reach", "form", "dtype", "rank", "bilinear"),
    slow_except(
        EVERY_DAY,
        itertools.product(RANGES, FORMS, ["float64", "float32"], [None, 2], [False, True]),
    ),
)
def test_maps_in_exact_arithmetic(reach, form, dtype, rank, bilinear, tried):
    count = settings().max_examples // 4
    for seed in range(count):
        A, Z, V = case(reach, seed, dtype, rank, bilinear=bilinear)
        order, rows = "CF"[seed % 2], ["all", "stored"][seed // 2 % 2]
        if form == "streamed":
            order = "C"  # its rows are read one after the other
        x, v = (Z, V) if rank else (Z[:, 0], V[:, 0])
        how = {"rows": rows, "order": order, "rank": rank, "bilinear": bilinear}
        builder = JacobianBuilder(FORMS[form](A), **how)
        i, j = builder.row_pairs()
        pairs = list(zip(i.tolist(), j.tolist(), strict=True))
        exact, r = Exact(A, Z, V, pairs, bilinear=bilinear), rank or 1
        assert_right(builder.value(x), exact.value(), roundings=r + 1)
        J = builder.operator(x)
        assert_right(J @ v.ravel(), exact.product(), roundings=2 * r + 1)
        both = (J @ np.stack([v.ravel(), x.ravel()], axis=1)).T
        assert_right(np.ascontiguousarray(both[0]), exact.product(), roundings=2 * r + 1)
        entries = J.tocsr().tocoo()
        of_J = exact.jacobian()
        terms = [[of_J[at]] for at in zip(entries.row, entries.col, strict=True)]
        assert_right(entries.data, terms, roundings=1)
        _assert_largest(builder.max_abs(x), exact.value(), pairs, roundings=r + 2)
    tried("problems in exact fractions", count)


def _assert_largest(found, terms, pairs, *, roundings):
    """The largest sizes of rows and columns. A cancelled sum is compared with its terms."""
    limits = np.finfo(found[0].dtype)
    unit, last = Fraction(float(limits.eps)), Fraction(float(limits.smallest_subnormal))
    for axis, numbers in enumerate(found):
        for at, number in enumerate(numbers.tolist()):
            some = [of for of, pair in zip(terms, pairs, strict=True) if pair[axis] == at]
            exact = max((abs(sum(of)) for of in some), default=0)
            allowed = max((sum(map(abs, of)) for of in some), default=0) * unit * roundings + last
            if np.isfinite(number):
                assert abs(Fraction(number) - exact) <= allowed
            else:
                assert exact + allowed >= Fraction(float(limits.max))


class Gaussian:
    """A complex number of two fractions. `reach` bounds what its parts were added up from."""

    def __init__(self, real, imag, reach):
        self.parts, self.reach = (real, imag), reach

    @classmethod
    def of(cls, z):
        real, imag = Fraction(float(z.real)), Fraction(float(z.imag))
        return cls(real, imag, abs(real) + abs(imag))

    def __mul__(self, other):
        (a, b), (c, d) = self.parts, other.parts
        return Gaussian(a * c - b * d, a * d + b * c, self.reach * other.reach)

    def __add__(self, other):
        (a, b), (c, d) = self.parts, other.parts
        return Gaussian(a + c, b + d, self.reach + other.reach)


def assert_complex_right(found, exact):
    """Each part is right but for some roundings, and finite unless what it is made of is not."""
    limits = np.finfo(found.dtype)
    unit, last = Fraction(float(limits.eps)), Fraction(float(limits.smallest_subnormal))
    for number, of in zip(found.tolist(), exact, strict=True):
        slack = 8 * unit * of.reach
        for part, exact_part in zip((number.real, number.imag), of.parts, strict=True):
            if np.isfinite(part):
                assert abs(Fraction(part) - exact_part) <= slack + 4 * last
            else:
                assert 4 * of.reach >= Fraction(float(limits.max))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["complex128", "complex64"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reach", RANGES)
def test_complex_maps_in_exact_arithmetic(reach, form, dtype, tried):
    count, real = settings().max_examples // 4, np.dtype(dtype).type(0).real.dtype
    for seed in range(count):
        one = case(reach, seed, real, None, bilinear=False)
        other = case(reach, seed + count, real, None, bilinear=False)
        with np.errstate(invalid="ignore"):
            A, Z, V = ((p + 1j * q).astype(dtype) for p, q in zip(one, other, strict=True))
        x, v = Z[:, 0], V[:, 0]
        builder = JacobianBuilder(FORMS[form](A))
        i, j = builder.row_pairs()
        a, xs, vs = (list(map(Gaussian.of, each)) for each in (A[i, j], x, v))
        pairs = list(zip(a, i.tolist(), j.tolist(), strict=True))
        assert_complex_right(builder.value(x), [a * (xs[s] * xs[t]) for a, s, t in pairs])
        product = [a * (vs[s] * xs[t] + xs[s] * vs[t]) for a, s, t in pairs]
        assert_complex_right(builder.operator(x) @ v, product)
    tried("problems in exact fractions", count)


@pytest.mark.parametrize("reach", RANGES)
def test_sums_are_right_where_products_of_some_factors_are_in_range(reach, tried):
    """The stated range of ``J.T @ w`` and of JᵀJ: it is that of each product of two or more
    factors of a term.
    """
    limits, tested = np.finfo(np.float64), 0
    smallest, largest = Fraction(float(limits.smallest_normal)), Fraction(float(limits.max))
    for seed in range(10 * settings().max_examples):
        A, Z, V = case(reach, seed, np.float64, None, bilinear=False)
        a, x, v, w = A[0, 1], Z[:2, 0], V[0, 0], V[1, 0]
        A = scipy.sparse.csr_array(([a], ([0], [1])), shape=(2, 2))
        J = JacobianBuilder(A, rows="stored").operator(x)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            of_w, of_v = (J.T @ [w])[0], (J.normal() @ [v, 0.0])[0]
        for found, factors in ((of_w, (a, w, x[1])), (of_v, (a, a, x[1], x[1], v))):
            exact = [Fraction(float(factor)) for factor in factors]
            sizes = {
                abs(math.prod(some))
                for n in range(2, len(exact) + 1)
                for some in itertools.combinations(exact, n)
            }
            if all(size == 0 or smallest <= size <= largest / 2 for size in sizes):
                value = math.prod(exact)
                assert abs(Fraction(float(found)) - value) <= 4 * abs(value) * Fraction(
                    float(limits.eps)
                )
                tested += 1
    assert tested > 0
    tried("terms of sums in exact fractions", tested)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_products_in_range_are_told_from_others(dtype, tried):
    """No sum of products is said to be in range that is not, and few the other way round."""
    count, wrong = 10 * settings().max_examples, 0
    limits = np.finfo(dtype)
    low, high = Fraction(float(limits.smallest_normal)), Fraction(float(limits.max))
    for seed in range(count):
        rng = np.random.default_rng(seed)
        reach = float(rng.choice([140, 153, 154, 155, 160, 320]))
        x, v = powers(rng, reach, 3, dtype), powers(rng, rng.uniform(0, reach), 2, dtype)
        sizes = [abs(p * q) for p in fractions([x])[0] for q in fractions([v])[0] if p * q]
        inside = all(size >= low for size in sizes) and 3 * max(sizes, default=0) <= high
        said = products_hold(x, v, 3)
        assert inside or not said
        wrong += said != inside
    assert wrong < count / 20
    tried("pairs of vectors", count)


@pytest.mark.parametrize("x", [[np.nan, 1e200], [np.inf, 1e-200], [0.0, 0.0], []])
def test_nothing_is_said_of_what_has_no_size(x):
    assert products_hold(np.array(x), np.array(x), 1)


@pytest.mark.parametrize(
    "x", [[5e-324, -1.0], [0.0, 1.7e308], [1e-310 + 2e300j, -3j], np.array([1e-45, 3e38], "f4")]
)
def test_numbers_split_exactly(x):
    x = np.array(x)
    exponents, near_one = split(x)
    assert near_one.dtype == x.dtype
    for given, n, one in zip(x.tolist(), exponents.tolist(), near_one.tolist(), strict=True):
        size = max(abs(complex(one).real), abs(complex(one).imag))
        assert 0.5 <= size < 1 if given else (size == 0 and n < -5000)
        power = Fraction(2) ** max(n, -1100)
        for part in ("real", "imag"):
            of_one = Fraction(getattr(complex(one), part))
            lost = abs(of_one * power - Fraction(getattr(complex(given), part)))
            assert lost <= power / 2**1074  # of a part that is far smaller than the other


# --- zeros, integers, duplicates ----------------------------------------------------------------


@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_array])
@pytest.mark.parametrize(
    ("how", "scale"),
    slow_except(
        [({}, 1.0)],
        itertools.product([{}, {"rank": 1}, {"bilinear": True}], [1.0, 1e-200, 1e200]),
    ),
)
def test_signs_of_zeros_are_those_of_the_products(form, how, scale):
    """The numbers of F and of J, one factor of which is 0.0 or -0.0. The structure is the same."""
    signed = np.array([0.0, -0.0, 1.0, -1.0])
    A, x = np.tile(signed, (4, 1)), signed * scale
    z = np.concatenate([x, x]) if how.get("bilinear") else x
    held = form(np.ones((4, 4)))
    held = A if isinstance(held, np.ndarray) else _with_data(held, A)
    builder = JacobianBuilder(held, rows="all", **how)
    f = builder.value(z if "rank" not in how else z[:, np.newaxis])
    exact = A * np.outer(signed, signed)
    assert np.signbit(f).tolist() == np.signbit(exact).ravel().tolist()
    J, plain = builder.tocsr(z), JacobianBuilder(np.ones((4, 4)), **how).tocsr(z)
    np.testing.assert_array_equal(J.indices, plain.indices)
    expected = []
    for i, j in itertools.product(range(4), repeat=2):
        at_i, at_j = A[i, j] * x[j], A[i, j] * x[i]  # of the columns i and j of J
        if how.get("bilinear"):
            expected += [at_i, at_j]  # column j is behind all columns i
        else:
            expected += [at_i, at_j] if i < j else [at_j, at_i] if i > j else [at_i]
    assert np.signbit(J.data).tolist() == np.signbit(expected).tolist()


def _with_data(S, A):
    """A sparse matrix that stores all numbers of A, zeros included."""
    return scipy.sparse.csr_array((A.ravel(), S.indices, S.indptr), shape=A.shape)


LARGE = [2**53 + 1, 2**53 + 3, 2**62 + 2**9 + 1, 2**63 - 1]


@pytest.mark.parametrize("dtype", slow_except(["uint64"], ["uint64", "int64"]))
@pytest.mark.parametrize("form", [np.asarray, *slow(scipy.sparse.csr_array)])
def test_large_integers_are_rounded_to_the_nearest_float(dtype, form):
    """As NumPy converts them, and nowhere wrapped: squares and sums of float64 hold more."""
    more = [2**64 - 1, 2**63 + 1] if dtype == "uint64" else [-(2**63), -(2**53) - 1]
    numbers = LARGE + more + [1] * 3
    A, ones = form(np.array(numbers, dtype).reshape(3, 3)), np.ones(3)
    assert JacobianBuilder(A).value(ones).tolist() == [float(number) for number in numbers]
    squares = [float(number) ** 2 for number in numbers]
    assert LeastSquares(A, 0 * A).cost(ones) == pytest.approx(sum(squares) / 2, rel=1e-15)
    rows, _ = JacobianBuilder(A).max_abs(ones)
    expected = np.abs(np.array(list(map(float, numbers))).reshape(3, 3)).max(axis=1)
    assert rows.tolist() == expected.tolist()
    symmetric = form(np.full((3, 3), max(numbers), dtype))
    assert RowSums(symmetric).value(ones).tolist() == [3 * float(max(numbers))] * 3


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "uint64", "float32"])
@pytest.mark.parametrize("format_", ["coo", "csr", "csc"])
def test_sums_of_duplicates_do_not_wrap(dtype, format_):
    """Of an A, and of a Y whose structure is that of A."""
    most = np.finfo(dtype).max if dtype == "float32" else np.iinfo(dtype).max
    numbers = np.array([most // 2, most // 2, most // 2, 1], dtype)
    at = np.array([0, 0, 0, 1], np.int32), np.array([1, 1, 1, 0], np.int32)
    A = scipy.sparse.coo_array((numbers, at), shape=(2, 2))
    if format_ == "csr":
        A = scipy.sparse.csr_array((numbers, at[1], np.array([0, 3, 4], np.int32)), shape=(2, 2))
    elif format_ == "csc":
        A = scipy.sparse.csc_array((numbers, at[0], np.array([0, 1, 4], np.int32)), shape=(2, 2))
        A.indices, A.data = np.array([1, 0, 0, 0], np.int32), numbers[::-1].copy()
    exact = np.inf if dtype == "float32" else float(3 * int(most // 2))
    how = {"rows": "stored", "check_finite": False}
    found = JacobianBuilder(A, **how).value(np.ones(2)).tolist()
    assert found == [pytest.approx(exact, rel=1e-15), 1.0]
    ones = scipy.sparse.csr_array(np.array([[0.0, 1.0], [1.0, 0.0]]))
    residuals = LeastSquares(ones, A, check_finite=False).fun(np.zeros(2)).tolist()
    assert residuals == [pytest.approx(-exact, rel=1e-15), -1.0]


@pytest.mark.slow
def test_many_duplicates_of_float32_are_summed_in_double_precision():
    numbers = np.full(100_000, 0.1, np.float32)
    at = np.zeros(numbers.size, np.int32)
    A = scipy.sparse.coo_array((numbers, (at, at)), shape=(1, 1))
    exact = np.float32(numbers.size * float(numbers[0]))
    assert JacobianBuilder(A, rows="stored").value(np.ones(1)) == exact
