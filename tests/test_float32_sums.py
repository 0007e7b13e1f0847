"""Sums of 10⁵ numbers of float32: their error is that of double precision, and one rounding.

The stated bound for a sum s of n terms t is ``|Δ| ≤ 2 n ε Σ|t| + u |s|``. ε is that of float64, and
u is half of the ε of the result's dtype. The exact sums are those of `math.fsum`, over products
whose error is a few ε.
"""

import itertools
import math

import numpy as np
import pytest
import scipy.sparse

from sparsejac import JacobianBuilder, LeastSquares, RowSums

K = 100_000
EPSILON = np.finfo(np.float64).eps
UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}

pytestmark = pytest.mark.slow  # kernels for float32


def exact_sums(where, terms, size):
    """Return, for each of `size` sums, its exact value, the sum of |terms|, and their number."""
    order = np.argsort(where, kind="stable")
    numbers, counts = iter(terms[order].tolist()), np.bincount(where, minlength=size)
    value, reach = np.empty(size), np.empty(size)
    for s, n in enumerate(counts.tolist()):
        of_sum = list(itertools.islice(numbers, n))
        value[s], reach[s] = math.fsum(of_sum), math.fsum(map(abs, of_sum))
    return value, reach, counts


def check(result, where, terms, *, precision=None):
    result = np.ravel(result)
    value, reach, n = exact_sums(where, terms, result.size)
    unit = UNIT[str(precision or result.dtype)]
    error = np.abs(result.astype(np.float64) - value)
    bound = 2 * n * EPSILON * reach + unit * np.abs(value)
    assert np.all(error <= bound), (error / bound).max()


def arrow(form, rows):
    """A matrix with a full row, a full column and a diagonal, so that two sums have K terms."""
    rng = np.random.default_rng(0)
    line = rng.standard_normal(K).astype(np.float32)
    other = line if rows == "upper" else rng.standard_normal(K).astype(np.float32)
    s, zeros = np.arange(1, K), np.zeros(K - 1, dtype=np.int64)
    i = np.concatenate([[0], zeros, s, s])
    j = np.concatenate([[0], s, zeros, s])
    data = np.concatenate([line[:1], line[1:], other[1:], rng.standard_normal(K - 1)])
    return scipy.sparse.coo_array((data.astype(np.float32), (i, j)), shape=(K, K)).asformat(form)


class Problem:
    """An A in one form, its builder, and its entries as visited: (i, j, a) in double precision."""

    def __init__(self, form, rows):
        rng = np.random.default_rng(1)
        if form == "wide":
            self.A, self.bilinear = rng.standard_normal((3, K)).astype(np.float32), True
        elif form == "tall":
            self.A, self.bilinear = rng.standard_normal((K, 3)).astype(np.float32), True
        else:
            self.A, self.bilinear = arrow(form, rows), False
        self.options = {"rows": rows, "bilinear": self.bilinear}
        entries = scipy.sparse.csr_array(self.A).tocoo()
        i, j, a = entries.row, entries.col, entries.data.astype(np.float64)
        if rows == "upper":
            i, j, a = (of_entry[i <= j] for of_entry in (i, j, a))
        self.i, self.j, self.a = i, j + self.A.shape[0] * self.bilinear, a
        self.k = sum(self.A.shape) if self.bilinear else K
        self.x, self.v = rng.standard_normal((2, self.k)).astype(np.float32)
        self.w = rng.standard_normal(a.size).astype(np.float32)
        self.both = np.concatenate([self.i, self.j])  # an entry counts for its row and its column

    def of_both(self, weights, x):
        """Terms ``weights x_j`` of the sums at i, then ``weights x_i`` of those at j."""
        x = x.astype(np.float64)
        return np.concatenate([weights * x[self.j], weights * x[self.i]])


@pytest.fixture(
    params=[
        ("csr", "stored"),
        ("csc", "stored"),
        ("csr", "upper"),
        ("wide", "all"),
        ("tall", "all"),
    ],
    ids="-".join,
    scope="module",
)
def problem(request):
    return Problem(*request.param)


def test_the_bound_tells_single_from_double_precision(problem):
    terms = problem.of_both(problem.a * problem.w, problem.x)
    naive = np.zeros(problem.k, dtype=np.float32)
    np.add.at(naive, problem.both, terms.astype(np.float32))
    with pytest.raises(AssertionError):
        check(naive, problem.both, terms)


def test_products_with_the_transpose(problem):
    J = JacobianBuilder(problem.A, **problem.options).operator(problem.x)
    terms = problem.of_both(problem.a * problem.w, problem.x)
    product = J.T @ problem.w
    assert product.dtype == np.float32
    check(product, problem.both, terms)
    check(J.T @ problem.w.astype(np.float64), problem.both, terms)
    check((J.T @ np.stack([problem.w, problem.w], axis=1))[:, 1], problem.both, terms)


def test_the_normal_matrix(problem):
    J = JacobianBuilder(problem.A, **problem.options).operator(problem.x)
    x, v, a = problem.x.astype(np.float64), problem.v.astype(np.float64), problem.a
    i, j = problem.i, problem.j
    through = [a * (a * x[j] * v[i]), a * (a * x[i] * v[j])]  # both entries of a row of J v
    where = np.concatenate([problem.both, problem.both])
    terms = np.concatenate([problem.of_both(one, problem.x) for one in through])
    check(J.normal() @ problem.v, where, terms)
    diagonal = np.concatenate([(a * x[j]) ** 2, (a * x[i]) ** 2])
    onto = i == j  # there J has one entry, 2 a x_i, whose square is 4 times that of each
    diagonal[: a.size][onto] *= 2
    diagonal[a.size :][onto] *= 2
    check(J.normal().diagonal(), problem.both, diagonal)


@pytest.mark.parametrize("by_y", [np.float32, np.float64])
def test_cost_gradient_and_hessian(problem, by_y):
    Y = (2 * problem.A).astype(by_y)
    fit = LeastSquares(problem.A, Y, **problem.options)
    x, v, a = problem.x.astype(np.float64), problem.v.astype(np.float64), problem.a
    i, j, y = problem.i, problem.j, 2 * problem.a
    f = a * (x[i] * x[j])
    cost, gradient = fit.value_and_grad(problem.x)
    nothing = np.zeros(4 * a.size, dtype=np.int64)
    squares = [f * f / 2, -f * y / 2, -f * y / 2, y * y / 2]
    check(np.array([cost]), nothing, np.concatenate(squares))
    terms = [problem.of_both(a * one, problem.x) for one in (f, -y)]
    check(gradient, np.tile(problem.both, 2), np.concatenate(terms))
    terms = [problem.of_both(a * one, problem.v) for one in (2 * f, -y)]
    square = a * a
    terms += [np.concatenate([square * x[j] ** 2 * v[i], square * x[i] ** 2 * v[j]])]
    check(fit.hessp(problem.x, problem.v), np.tile(problem.both, 3), np.concatenate(terms))


def test_columns_of_x():
    """Rank 2, for entries of one full row and one full column."""
    A = arrow("csr", "stored")
    entries = A.tocoo()
    i, j, a = entries.row, entries.col, entries.data.astype(np.float64)
    rng = np.random.default_rng(2)
    X = rng.standard_normal((K, 2)).astype(np.float32)
    w = rng.standard_normal(a.size).astype(np.float32)
    product = JacobianBuilder(A, rows="stored", rank=2).operator(X).T @ w
    Xd = X.astype(np.float64)
    for c in range(2):
        terms = np.concatenate([a * w * Xd[j, c], a * w * Xd[i, c]])
        check(product.reshape(K, 2)[:, c], np.concatenate([i, j]), terms)


def test_row_sums():
    A = arrow("csr", "upper")
    entries = A.tocoo()
    rng = np.random.default_rng(3)
    x, v = rng.standard_normal((2, K)).astype(np.float32)
    a, xd = entries.data.astype(np.float64), x.astype(np.float64)
    i, j = entries.row, entries.col
    sums = RowSums(A)
    check(sums.value(x), i, xd[i] * a * xd[j])
    J, vd = sums.operator(x), v.astype(np.float64)
    terms = np.concatenate([a * xd[j] * vd[i], a * xd[i] * vd[j]])
    check(J @ v, np.concatenate([i, i]), terms)
