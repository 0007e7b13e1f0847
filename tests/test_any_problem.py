"""Any problem: structure × dtypes × order × rows × uplo × layout × byte order × workers × blocks ×
source × rank × Y. Each public operation is compared with loops over the entries, or is refused as
it should be.

By default the forms and dtypes are drawn that need no kernels but those of other tests.
"""

import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
import rank_oracle as oracle
import targets
from forms import handed, mirrored, small
from hypothesis import given
from hypothesis import strategies as st
from problems import (
    environment,
    point,
    problems,
    row_sums,
    stores_past_caches,
    wrong_order,
)
from support import compare, slow

from sparsejac import JacobianBuilder, LeastSquares, RowSums

pytestmark = pytest.mark.usefixtures("dirty_results")
numbers = pytest.mark.parametrize("quick", [True, *slow(False)])
DENSE_TO_CSR = "tocsr is for a sparse A, and this A is dense"


def wide(dtype):
    return np.result_type(dtype, np.float64)


def same(found, expected, dtype=None):
    """Equal numbers, of the same shape, and of the dtype."""
    found = found.toarray() if hasattr(found, "toarray") else np.asarray(found)
    assert found.shape == np.shape(expected)
    assert np.array_equal(found, expected)
    assert dtype is None or found.dtype == dtype


def tightest(make, k):
    """What `make` makes with little `memory`: the least, and room for weights beside the blocks."""
    with pytest.raises(ValueError, match="memory must be at least") as caught:
        make(1)
    least = int(re.match(r"memory must be at least (\d+) bytes", str(caught.value))[1])
    blocks = least - 2**21 - 384 * (k + 1)
    return make(least + 12 * blocks)


def made(problem, make):
    """What `make` makes, in the budget that was drawn."""
    if not (problem.tight and problem.streamed):
        return make(None)
    stored_rows = problem.whole.shape[problem.by_columns()]
    return tightest(make, stored_rows)


class Expected:
    """J at x by loops, and what follows from it by dense algebra. All of it is exact."""

    def __init__(self, problem, x, default="all", stored=None):
        self.bilinear, self.shape = problem.bilinear, problem.whole.shape
        self.rank = problem.rank or 1
        a = problem.whole.numbers
        self.stored = problem.stored() if stored is None else stored
        self.dtype = np.result_type(
            *(wide(d) if d.kind in "biu" else d for d in (a.dtype, x.dtype))
        )
        self.A, Z = a.astype(wide(self.dtype)), x.astype(wide(self.dtype))
        self.Z = Z.reshape(-1, self.rank)
        self.pairs = oracle.rows_of_J(self.stored, problem.rows(default), problem.order)
        self.all_pairs = len(self.pairs) == a.size
        self.J = self.jacobian(self.Z)
        self.structure = oracle.structure(
            self.stored, self.pairs, self.rank, bilinear=self.bilinear
        )

    def value(self, Z):
        return oracle.value(self.A, Z.reshape(-1, self.rank), self.pairs, bilinear=self.bilinear)

    def jacobian(self, Z):
        Z = Z.reshape(-1, self.rank)
        return oracle.jacobian(self.A, Z, self.pairs, bilinear=self.bilinear)

    def curvature(self, w):
        return oracle.curvature(self.A, self.Z.shape, self.pairs, w, bilinear=self.bilinear)

    def slice(self, s):
        """∂F/∂x_s as a matrix."""
        found = np.zeros(self.shape, self.A.dtype)
        for row, (i, j) in enumerate(self.pairs):
            found[i, j] = self.J[row, s]
        return found


# --- builders -------------------------------------------------------------------------------------


@numbers
@given(data=st.data())
def test_builders(quick, data):
    problem = data.draw(problems(quick))
    with environment(problem) as forms:
        options, A = problem.options, problem.hand_over(forms)
        refused = problem.refused()
        if refused is not None:
            with pytest.raises(refused[0], match=refused[1]):
                JacobianBuilder(A, **options)
            return
        builder = made(problem, lambda memory: JacobianBuilder(A, memory=memory, **options))
        check_builder(problem, builder, Expected(problem, problem.x))
        if not quick:
            with stores_past_caches():
                check_builder(problem, builder, Expected(problem, problem.x))


def check_builder(problem, builder, expected):
    x, dtype, J = point(problem), expected.dtype, expected.J
    m, n = J.shape
    rng = np.random.default_rng(problem.seed)
    assert builder.shape == (m, n)
    assert builder.nnz == expected.structure[1].size
    op = builder.operator(x)
    assert (op.shape, op.dtype) == ((m, n), dtype)
    if problem.in_order():
        check_forward(problem, builder, expected)
        compare(op, J.astype(dtype))
    else:
        check_refused(problem, builder, expected)
    rows, columns = builder.max_abs(x)
    for found, wanted in zip(
        (rows, columns),
        oracle.largest(expected.A, expected.Z, bilinear=problem.bilinear),
        strict=True,
    ):
        np.testing.assert_allclose(found, wanted, rtol=0 if dtype.kind == "f" else 1e-6)
    squares = (abs(J.real) ** 2 + abs(J.imag) ** 2).sum(axis=0)
    same(op.column_norms(), np.sqrt(squares).astype(op.column_norms().dtype))
    for damping in (0, 2):
        N = J.conj().T @ J + damping * np.eye(n)
        explicit = check_hermitian(
            problem, op.normal(damping), N.astype(dtype), rng, of_rows=is_of_rows(problem)
        )
        explicit(op.normal(damping).toarray, N)
        same(op.normal(damping).block_diagonal(), oracle.blocks(N, expected.rank), dtype)
    for s in {0, n // 2, n - 1} if n else ():
        same(builder.slice(x, s), expected.slice(s), dtype)
    check_curvature(problem, builder, expected, rng)


def check_forward(problem, builder, expected):
    """Results with a number for each row of J."""
    x, dtype, J = point(problem), expected.dtype, expected.J
    same(np.stack(builder.row_pairs(), axis=1), np.reshape(expected.pairs, (len(J), 2)))
    same(builder.value(x), expected.value(expected.Z), dtype)
    found = builder.tocsr(x)
    found.check_format(full_check=True)
    same(found, J, dtype)
    indptr, indices = expected.structure
    same(found.indptr, indptr)
    same(found.indices, indices)
    assert builder.csr_nbytes(dtype) == sum(
        part.nbytes for part in (found.data, found.indices, found.indptr)
    )
    other = point(problem, 2 * problem.x.astype(dtype))
    assert builder.tocsr(other, out=found) is found
    same(found, 2 * J, dtype)
    for block_rows in (None, 1 + problem.seed % 7):
        first = 0
        for row, block in builder.iter_csr(x, block_rows=block_rows):
            assert row == first
            block.check_format(full_check=True)
            same(block, J[row : row + block.shape[0]], dtype)
            first += block.shape[0]
        assert first == len(J)
    check_identities(problem, builder, expected)


def check_identities(problem, builder, expected):
    """F is quadratic, and J is linear in x."""
    x = problem.x.astype(expected.dtype)
    h = small(x.shape, expected.dtype, np.random.default_rng(problem.seed + 2))
    F = builder.value
    Jh = builder.operator(x) @ h.ravel()
    same(F(x + h) - F(x - h), 2 * Jh)
    same(F(x + h) - F(x) - Jh, F(h))
    same(builder.operator(x) @ x.ravel(), 2 * F(x))
    same(builder.operator(h) @ x.ravel(), Jh)


def check_hermitian(problem, found, wanted, rng, *, of_rows=False):
    """Compare an operator with its matrix. Return how its explicit forms are to be compared.

    `of_rows` says that these are made from J, and so need its rows.
    """
    n, dtype = len(wanted), found.dtype
    assert found.shape == wanted.shape
    for U in (small((n,), dtype, rng), small((n, 3), np.float64, rng)):
        same(found @ U, wanted @ U)
        same(found.H @ U, wanted @ U)
        same(found.T @ U, wanted.T @ U)
    same(found.diagonal(), np.diag(wanted).real)

    def explicit(make, numbers):
        if of_rows and not problem.in_order():
            with pytest.raises(ValueError, match=wrong_order(problem, problem.by_columns())):
                make()
        else:
            same(make(), numbers, dtype)

    if problem.sparse:
        explicit(found.tocsr, wanted)
    else:
        with pytest.raises(TypeError, match=DENSE_TO_CSR):
            found.tocsr()
    return explicit


def is_of_rows(problem):
    """Whether explicit matrices are made from J: those for several columns of variables are."""
    return (problem.rank or 1) > 1 or problem.bilinear


def check_curvature(problem, builder, expected, rng):
    """The Hessian of wᵀF."""
    w = small((len(expected.J),), "float64", rng)
    if builder.dtype.kind == "c":
        with pytest.raises(TypeError, match="the Hessian of wᵀF is for real numbers, and A is"):
            builder.hessian(w)
    elif takes_weights(problem):
        H = expected.curvature(w).real
        explicit = check_hermitian(problem, builder.hessian(w), H, rng)
        explicit(builder.hessian(w).toarray, H)
    else:
        with pytest.raises(ValueError, match=wrong_order(problem, problem.by_columns())):
            builder.hessian(w)


def takes_weights(problem):
    """Whether w can be read beside A. That of a whole dense A can be read along either axis."""
    whole = not problem.sparse and problem.rows() != "upper"
    return problem.in_order() or whole


def check_refused(problem, builder, expected):
    """What needs J's rows in another order than that of the file is refused."""
    x, (m, n) = point(problem), expected.J.shape
    op, v, w = builder.operator(x), np.ones(n), np.ones(m)
    refused = [lambda: builder.value(x), lambda: builder.tocsr(x), op.tocsr]
    refused += [lambda: op @ v, lambda: op @ np.ones((n, 2)), lambda: op.matvec(v)]
    if m:
        refused.append(lambda: next(builder.iter_csr(x)))
    if expected.all_pairs:
        same(np.stack(builder.row_pairs(), axis=1), np.reshape(expected.pairs, (m, 2)))
    else:
        refused.append(builder.row_pairs)
    backward = {
        "T": (lambda w: op.T @ w, expected.J.T),
        "H": (lambda w: op.H @ w, expected.J.conj().T),
        "rmatvec": (op.rmatvec, expected.J.conj().T),
    }
    for product, matrix in backward.values():
        if takes_weights(problem):
            same(product(w), matrix @ w)
        else:
            refused.append(lambda product=product: product(w))
    for call in refused:
        with pytest.raises(ValueError, match=wrong_order(problem, problem.by_columns())):
            call()


# --- bits -----------------------------------------------------------------------------------------


@numbers
@given(data=st.data())
def test_bits_depend_on_nothing_but_the_numbers(quick, data):
    """They are the same for every number of workers and every budget, and in copies.

    Results with a number for each row of J also have the same bits in memory.
    """
    problem = data.draw(problems(quick).filter(lambda drawn: drawn.refused() is None))
    problem = rough(problem)
    with environment(problem) as forms:
        options = {name: each for name, each in problem.options.items() if name != "workers"}
        A = problem.hand_over(forms)
        one = made(problem, lambda memory: JacobianBuilder(A, memory=memory, workers=1, **options))
        expected = bits(problem, one)
        others = [JacobianBuilder(A, workers=3, **options)]
        # Some forms do not pickle. NumPy's pickles of an object's numbers lose their byte order.
        if problem.form not in ("function", "hdf5", "contiguous hdf5", "object"):
            others.append(pickle.loads(pickle.dumps(one)))
        for other in others:
            assert bits(problem, other) == expected
        # A file by columns may have the other triangle read, in which other zeros are stored.
        alike = problem.lower_is_read() == problem.lower_is_read(by_columns=False)
        if problem.streamed and problem.in_order() and (alike or problem.rows() != "upper"):
            form = "csr" if problem.sparse else "C"
            options["rows"] = problem.rows()  # a contact map has others by default
            there = JacobianBuilder(handed(form, problem.given, forms), **options)
            maps = {name: expected[name] for name in ("value", "J", "J v")}
            found = bits(problem, there)
            assert {name: found[name] for name in maps} == maps


def rough(problem):
    """The problem with numbers whose sums are rounded."""
    of, rng = problem.whole, np.random.default_rng(problem.seed)
    if of.numbers.dtype.kind not in "fc":
        return problem
    factors = rng.uniform(0.5, 2, of.shape) * 10.0 ** rng.integers(-6, 7, of.shape)
    if of.shape[0] == of.shape[1] and np.array_equal(of.numbers, of.numbers.T):
        factors = mirrored(factors)
    dtype = of.numbers.dtype
    whole, given = (
        replace(each, numbers=(each.numbers * factors).astype(dtype))
        for each in (of, problem.given)
    )
    return replace(problem, whole=whole, given=given)


def bits(problem, builder):
    """The bytes of all that a builder computes."""
    x, (m, n) = point(problem), builder.shape
    rng = np.random.default_rng(problem.seed)
    v, w = rng.standard_normal(n), rng.standard_normal(m)
    op = builder.operator(x)
    normal = op.normal(0.5)
    found = {
        "norms": op.column_norms(),
        "N v": normal @ v,
        "diagonal": normal.diagonal(),
        "blocks": normal.block_diagonal(),
        "largest": np.concatenate(builder.max_abs(x)),
    }
    if problem.in_order():
        found |= {"value": builder.value(x), "J": builder.tocsr(x).data, "J v": op @ v}
    if takes_weights(problem):
        found |= {"Jᵀw": op.T @ w, "JᴴW": op.H @ np.stack([w, -w, 2 * w], axis=1)}
        if builder.dtype.kind == "f":
            found["H v"] = builder.hessian(w) @ v
    return {name: np.ascontiguousarray(each).tobytes() for name, each in found.items()}


# --- least squares --------------------------------------------------------------------------------


@numbers
@given(data=st.data())
def test_least_squares(quick, data):
    problem = data.draw(problems(quick, real=True))
    target = data.draw(targets.targets(problem, quick))
    with environment(problem) as forms:
        refused = targets.refused(problem, target)
        stored = targets.stored(problem, target)
        expected = Expected(problem, problem.x, "stored", stored)
        A, Y = problem.hand_over(forms), targets.hand_over(problem, target, expected.pairs, forms)

        def make(memory):
            options = problem.options | target.options
            return LeastSquares(A, Y, memory=memory, **options)

        if refused is not None:
            with pytest.raises(refused[0], match=refused[1]):
                make(None)
        elif not targets.is_outside(problem, target):
            check_least_squares(problem, target, made(problem, make), expected)
        elif problem.streamed or target.streamed:
            given = make(None)
            with pytest.raises(ValueError, match=targets.OUTSIDE):
                given.cost(point(problem))
        else:
            with pytest.raises(ValueError, match=targets.OUTSIDE):
                make(None)


def check_least_squares(problem, target, given, expected):
    """Compare at two points, as a problem keeps the results at the last one."""
    other = Expected(problem, -2 * problem.x.astype(float) + 1, "stored", expected.stored)
    for x, at in ((problem.x, expected), (other.Z.reshape(problem.x.shape), other)):
        check_at(problem, target, given, at, point(problem, x))
    check_at(problem, target, given, expected, point(problem))


def check_at(problem, target, given, expected, x):
    robust, J = bool(target.options), expected.J
    Y = targets.compared(problem, target).astype(float)
    r = expected.value(expected.Z) - np.array([Y[i, j] for i, j in expected.pairs])
    costs, slopes, bends = targets.loss_terms(target.options, r)
    N, G = J.T @ (slopes[:, np.newaxis] * J), expected.curvature(slopes * r)
    H = J.T @ (bends[:, np.newaxis] * J) + G
    agree = close if robust else same
    agree(given.cost(x), costs.sum())
    gradient = (J.T @ (slopes * r)).reshape(np.shape(x))
    agree(given.grad(x), gradient)
    for found, wanted in zip(given.value_and_grad(x), (costs.sum(), gradient), strict=True):
        agree(found, wanted)
    rng = np.random.default_rng(problem.seed)
    v = small(np.shape(x), "float64", rng)
    agree(given.hessp(x, v), (H @ v.ravel()).reshape(v.shape))
    squares = (J * J).sum(axis=0).reshape(np.shape(x))
    same(given.x_scale(x), 1 / np.sqrt(np.where(squares > 0, squares, 1)))
    for found, wanted in ((given.hess(x), H), (given.normal(x, 2), N + 2 * np.eye(len(N)))):
        check_k_by_k(problem, target, found, wanted, agree)
    rows = {
        "fun": (lambda: given.fun(x), r),
        "jac_csr": (lambda: given.jac_csr(x), J),
        "jac": (lambda: given.jac(x) @ np.ones(J.shape[1]), J.sum(axis=1)),
    }
    for make, wanted in rows.values():
        check_if_in_order(problem, target, make, wanted, same)


def close(found, wanted):
    found = found.toarray() if hasattr(found, "toarray") else np.asarray(found)
    scale = np.max(np.abs(wanted), initial=1)
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-13 * scale)


def check_if_in_order(problem, target, make, wanted, agree):
    if targets.in_order(problem, target):
        agree(make(), wanted)
    else:
        with pytest.raises(ValueError, match=targets.message_of_order(problem, target)):
            make()


def check_k_by_k(problem, target, found, wanted, agree):
    """Compare the Hessian or JᵀJ with its matrix."""
    n, robust = len(wanted), bool(target.options)
    rng = np.random.default_rng(problem.seed)
    rare = "float64" if problem.quick else "complex128"
    for U in (small((n,), "float64", rng), small((n, 2), rare, rng)):
        agree(found @ U, wanted @ U)
        agree(found.H @ U, wanted @ U)
    parts = {"diagonal": (found.diagonal, np.diag(wanted))}
    if hasattr(found, "block_diagonal"):
        parts["blocks"] = found.block_diagonal, oracle.blocks(wanted, problem.rank or 1)
    for make, numbers_ in parts.values():
        if robust:
            check_if_in_order(problem, target, make, numbers_, agree)
        else:
            agree(make(), numbers_)
    explicit = [found.toarray]
    if problem.sparse:
        explicit.append(found.tocsr)
    else:
        with pytest.raises(TypeError, match=DENSE_TO_CSR):
            found.tocsr()
    for make in explicit:
        if robust or is_of_rows(problem):
            check_if_in_order(problem, target, make, wanted, agree)
        else:
            agree(make(), wanted)


# --- row sums -------------------------------------------------------------------------------------


@numbers
@given(data=st.data())
def test_row_sums(quick, data):
    problem, counts = data.draw(row_sums(quick))
    with environment(problem) as forms:
        A = problem.hand_over(forms)
        refused = problem.refused()
        if refused is not None:
            with pytest.raises(refused[0], match=refused[1]):
                RowSums(A, **problem.options)
            return
        sums = made(problem, lambda memory: RowSums(A, memory=memory, **problem.options))
        check_row_sums(problem, sums, counts)


def check_row_sums(problem, sums, counts):
    k = len(counts)
    B, x = np.where(counts, problem.whole.numbers, 0).astype(float), problem.x.astype(float)
    Bx = np.array([sum(B[i, j] * x[j] for j in range(k)) for i in range(k)]).reshape(k)
    J = np.array([[x[i] * B[i, j] + (i == j) * Bx[i] for j in range(k)] for i in range(k)])
    J = J.reshape(k, k)
    same(sums.value(point(problem)), x * Bx, np.float64)
    same(sums.nonzeros(), np.count_nonzero(B, axis=1), np.int64)
    stored = np.triu(problem.stored() & counts, 1)
    assert sums.nnz == np.count_nonzero(stored) + np.count_nonzero(np.diag(B))
    op = sums.operator(point(problem))
    compare(op, J)
    same(op.diagonal(), np.diag(J), np.float64)
    same(op.toarray(), J, np.float64)
    if problem.sparse:
        op.tocsr().check_format(full_check=True)
        same(op.tocsr(), J, np.float64)
    else:
        with pytest.raises(TypeError, match=DENSE_TO_CSR):
            op.tocsr()
