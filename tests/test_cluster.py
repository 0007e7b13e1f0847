"""Operations over an A whose rows are in parts, on a cluster within this process.

The numbers are small integers, so that all arithmetic is exact. Results have the bits of those of
the same A in memory.
"""

import itertools
import pickle

import in_process
import numpy as np
import pytest
import scipy.sparse
from kinds import numbers
from support import assert_same, integers, slow, toarray

from sparsejac import JacobianBuilder, LeastSquares, RowSums, fit, symmetric_scaling

K = 6
BOUNDS = {
    "one part": [0, K],
    "two": [0, 3, K],
    "uneven": [0, 1, K],
    "an empty one": [0, 2, 2, K],
    "a row each": [*range(K + 1)],
    "many": [0, 0, 1, 1, 2, 2, 3, 4, 5, 5, 5, K],
}
DTYPES = ["f8", *slow("f4", "c16", "c8", "i4", "i1", "bool")]
FORMS = {"dense": lambda B: B, "sparse": scipy.sparse.csr_array}


def gathered(array):
    return array.compute()


@pytest.fixture(params=itertools.product(FORMS, ["all", "stored", "upper"], BOUNDS))
def case(request):
    form, rows, bounds = request.param
    return form, rows, BOUNDS[bounds]


@pytest.mark.parametrize("dtype", DTYPES)
def test_operations(case, dtype):
    form, rows, bounds = case
    A, stored = numbers(rows, "csr" if form == "sparse" else "C", dtype)
    M = FORMS[form](A)
    if form == "sparse":  # explicit zeros stay
        indptr = np.cumsum([0, *stored.sum(axis=1)]).astype("i4")
        M = scipy.sparse.csr_array(
            (A[stored], np.nonzero(stored)[1].astype("i4"), indptr), shape=A.shape
        )
    x, v = np.arange(1.0, K + 1), np.arange(K, 0, -1.0)
    if dtype in ("f4", "c8"):
        x, v = x.astype("f4"), v.astype("f4")
    here, there = (JacobianBuilder(each, rows=rows) for each in (M, in_process.rows(M, bounds)))
    assert (there.shape, there.nnz, there.dtype) == (here.shape, here.nnz, here.dtype)
    assert there.csr_nbytes() == here.csr_nbytes()
    J, Jc = here.operator(x), there.operator(x)
    m = here.shape[0]
    w, W = np.arange(m) % 7 - 3.0, np.arange(3.0 * m).reshape(m, 3) % 5
    for ours, expected in (
        (there.value(x), here.value(x)),
        (Jc @ v, J @ v),
        (Jc @ np.stack([v, x], 1), J @ np.stack([v, x], 1)),
    ):
        assert ours.dtype == expected.dtype
        assert gathered(ours).tobytes() == expected.tobytes()
    np.testing.assert_array_equal(Jc.T @ (Jc @ v), J.T @ (J @ v))
    np.testing.assert_array_equal(Jc.H @ (Jc @ v), J.H @ (J @ v))
    for name in ("T", "H"):
        for each in (w, W):
            np.testing.assert_array_equal(getattr(Jc, name) @ each, getattr(J, name) @ each)
    np.testing.assert_array_equal(Jc.column_norms(), J.column_norms())
    np.testing.assert_array_equal(Jc.normal(1.0) @ v, J.normal(1.0) @ v)
    np.testing.assert_array_equal(Jc.normal().diagonal(), J.normal().diagonal())
    for one, other in zip(there.max_abs(x), here.max_abs(x), strict=True):
        np.testing.assert_array_equal(one, other)
    for s in range(K):
        one, other = there.slice(x, s), here.slice(x, s)
        assert (one != other).nnz == 0
        assert one.nnz == other.nnz
    if here.dtype.kind == "f":
        np.testing.assert_array_equal(there.hessian(w) @ v, here.hessian(w) @ v)
        np.testing.assert_array_equal(there.hessian(Jc @ v) @ v, here.hessian(J @ v) @ v)
        np.testing.assert_array_equal(there.hessian(w).diagonal(), here.hessian(w).diagonal())


def symmetric(form, dtype="f8"):
    rng = np.random.default_rng(3)
    A = np.triu(rng.integers(1, 5, (K, K)) * (rng.random((K, K)) < 0.7)).astype(dtype)
    return FORMS[form](A + np.triu(A, 1).T)


def target_of(M, *, mirrored):
    """Integers at the entries of A."""
    rng = np.random.default_rng(4)
    Y = rng.integers(-3, 4, (K, K)).astype(float)
    Y = np.triu(Y) + np.triu(Y, 1).T if mirrored else Y
    if not scipy.sparse.issparse(M):
        return Y
    Y = Y * (M.toarray() != 0)
    return scipy.sparse.csr_array(Y)


TARGETS = {
    "matrix": lambda Y, here, bounds: Y,
    "vector": lambda Y, here, bounds: np.asarray(
        (Y.toarray() if scipy.sparse.issparse(Y) else Y)[here.builder.row_pairs()]
    ),
    "parts": lambda Y, here, bounds: in_process.rows(Y, bounds),
    "other parts": lambda Y, here, bounds: in_process.rows(Y, [0, 2, 5, K]),
    "dense": lambda Y, here, bounds: Y.toarray() if scipy.sparse.issparse(Y) else Y,
    "sparse": lambda Y, here, bounds: scipy.sparse.csr_array(Y),
}


@pytest.mark.cross_product
@pytest.mark.parametrize("mirrored", [False, *slow(True)])
@pytest.mark.parametrize("target", TARGETS)
def test_least_squares(case, target, mirrored):
    form, rows, bounds = case
    M = (
        symmetric(form)
        if mirrored or rows == "upper"
        else FORMS[form](numbers(rows, form, "f8")[0])
    )
    Y = target_of(M, mirrored=mirrored or rows == "upper")
    x, v = np.arange(1.0, K + 1), np.arange(K, 0, -1.0)
    here = LeastSquares(M, Y, rows=rows)
    there = LeastSquares(in_process.rows(M, bounds), TARGETS[target](Y, here, bounds), rows=rows)
    assert gathered(there.fun(x)).tobytes() == here.fun(x).tobytes()
    assert there.cost(x) == here.cost(x)
    np.testing.assert_array_equal(there.grad(x), here.grad(x))
    np.testing.assert_array_equal(there.hessp(x, v), here.hessp(x, v))
    np.testing.assert_array_equal(there.normal(x) @ v, here.normal(x) @ v)
    np.testing.assert_array_equal(there.hess(x).diagonal(), here.hess(x).diagonal())
    again = LeastSquares(there.builder._rows.source, there.fun(0 * x), rows=rows)
    np.testing.assert_array_equal(again.grad(x), LeastSquares(M, -Y, rows=rows).grad(x))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bounds", BOUNDS.values(), ids=BOUNDS)
@pytest.mark.cross_product
@pytest.mark.parametrize("uplo", ["U", "L", *slow(None)])
@pytest.mark.parametrize(
    "parts",
    [{}, {"ignore_diags": 1}, {"ignore_diags": 2}]
    + [{"groups": "aabbbc", "pairs": each} for each in ("within", "between")],
    ids=str,
)
def test_row_sums(form, bounds, uplo, parts):
    M = symmetric(form)
    half = {None: M, "U": FORMS[form](np.triu(M.toarray() if form == "sparse" else M))}
    half["L"] = half["U"].T.tocsr() if form == "sparse" else half["U"].T.copy()
    x, parts = np.arange(1.0, K + 1), {k: list(v) if k == "groups" else v for k, v in parts.items()}
    here, there = (
        RowSums(each, uplo=uplo, **parts)
        for each in (half[uplo], in_process.rows(half[uplo], bounds))
    )
    assert there.nnz == here.nnz
    np.testing.assert_array_equal(there.value(x), here.value(x))
    np.testing.assert_array_equal(there.nonzeros(), here.nonzeros())
    np.testing.assert_array_equal(there.operator(x) @ x, here.operator(x) @ x)
    np.testing.assert_array_equal(there.operator(x).diagonal(), here.operator(x).diagonal())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bounds", BOUNDS.values(), ids=BOUNDS)
@pytest.mark.parametrize("uplo", ["U", *slow(None)])
def test_solvers(form, bounds, uplo):
    M = symmetric(form)
    Y = M * np.outer(np.arange(1, K + 1), np.arange(1, K + 1))
    if uplo == "U":
        M, Y = (FORMS[form](np.triu(toarray(each))) for each in (M, Y))
    here, there = (fit(A, Y, uplo=uplo) for A in (M, in_process.rows(M, bounds)))
    assert (there.nit, there.n_products) == (here.nit, here.n_products)
    np.testing.assert_allclose(there.x, here.x, rtol=1e-12)
    here, there = (symmetric_scaling(A, uplo=uplo) for A in (M, in_process.rows(M, bounds)))
    assert (there.nit, there.n_products) == (here.nit, here.n_products)
    np.testing.assert_allclose(there.x, here.x, rtol=1e-12)


@pytest.mark.parametrize(("form", "r"), [("dense", 2), ("csr", 6), *slow(("dense", 6), ("csr", 2))])
def test_several_columns(form, r):
    """Sums of integers are exact, and so the order of parts does not matter."""
    B = integers((K, K), np.float64, r) * (integers((K, K), np.float64, 1) > 0)
    M = scipy.sparse.csr_array(B) if form == "csr" else B
    Y, X, V = (B != 0) * integers((K, K)), integers((K, r)), integers((K, r), seed=2)
    here, there = (JacobianBuilder(A, rank=r) for A in (M, in_process.rows(M, [0, 2, 5, K])))
    expected, op = here.operator(X), there.operator(X)
    v, w = V.ravel(), integers((K * K,))
    assert_same(gathered(there.value(X)), here.value(X))
    assert_same(gathered(op @ v), expected @ v)
    assert_same(op.T @ w, expected.T @ w)
    assert_same(op.normal() @ v, expected.normal() @ v)
    assert_same(op.normal().block_diagonal(), expected.normal().block_diagonal())
    here = LeastSquares(M, scipy.sparse.csr_array(Y), rank=r)
    there = LeastSquares(in_process.rows(M, [0, 2, 5, K]), scipy.sparse.csr_array(Y), rank=r)
    assert there.cost(X) == here.cost(X)
    assert_same(there.grad(X), here.grad(X))
    assert_same(there.hessp(X, V), here.hessp(X, V))


def test_the_bilinear_form_is_refused():
    with pytest.raises(TypeError, match="A must not be on a cluster with bilinear=True"):
        JacobianBuilder(in_process.rows(np.eye(3), [0, 2, 3]), bilinear=True)


def test_an_a_on_a_cluster_does_not_pickle():
    builder = JacobianBuilder(in_process.rows(np.eye(3), [0, 2, 3]))
    with pytest.raises(TypeError, match="an A on a cluster does not pickle"):
        pickle.dumps(builder)


@pytest.mark.slow
def test_a_symmetric_a_sends_and_returns_one_vector():
    k = 1000
    A = scipy.sparse.random_array((k, k), density=0.01, rng=np.random.default_rng(0))
    A = scipy.sparse.csr_array(A + A.T)
    source = in_process.rows(A, [0, 300, 600, k])
    x, transport = np.ones(k), source.transport
    problem = LeastSquares(source, in_process.rows(2 * A, [0, 500, k]))
    sums = RowSums(source)
    normal, hessian = problem.normal(x), problem.hess(x)
    for operation, sent, received in (
        (lambda: normal @ x, 1, 1),
        (lambda: hessian @ (3 * x), 1, 1),  # it has x since the gradient at x
        (lambda: problem.cost(2 * x), 1, 2),  # the gradient and diag(JᵀJ)
        (lambda: sums.value(x), 1, 1),
    ):
        transport.sent = transport.received = 0
        operation()
        assert transport.sent <= 8 * k * sent + 100
        assert transport.received <= 8 * k * received + 100


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_an_entry_that_is_not_symmetric_is_found(form):
    """Then sums over the rows of a part would not be those of its columns."""
    k, rng = 50, np.random.default_rng(0)
    A = np.where(rng.random((k, k)) < 0.3, rng.random((k, k)), 0)
    A += A.T
    A[3, 7] = A[7, 3] = -0.0
    source = in_process.rows(FORMS[form](A), [0, 20, k])
    assert JacobianBuilder(source, rows="stored")._rows._is_symmetric(None)
    i, j = np.nonzero(A)
    for p in (0, i.size // 2):
        B = A.copy()
        B[i[p], j[p]] = np.nextafter(B[i[p], j[p]], 2)
        if i[p] == j[p]:
            continue
        source = in_process.rows(FORMS[form](B), [0, 20, k])
        backend = JacobianBuilder(source, rows="stored")._rows
        assert not backend._is_symmetric(None)
        x = rng.random(k)
        expected = JacobianBuilder(B).operator(x).normal() @ x
        found = JacobianBuilder(source, rows="stored").operator(x).normal() @ x
        np.testing.assert_allclose(found, expected, rtol=1e-14)


@pytest.mark.parametrize("form", FORMS)
def test_vectors_have_the_bits_of_the_last_call(form):
    """A vector is sent once. Zeros of both signs are different vectors, and so is a changed one."""
    M = FORMS[form](np.ones((K, K)))
    here, there = (
        JacobianBuilder(each, rows="stored") for each in (M, in_process.rows(M, [0, 3, K]))
    )
    x = np.zeros(K)
    for s in range(K):
        x[s] = -0.0
        assert gathered(there.value(x)).tobytes() == here.value(x).tobytes()
    op, v = there.operator(x + 1), np.ones(K)
    for s in range(K):
        v[s] = s
        np.testing.assert_array_equal(gathered(op @ v), here.operator(x + 1) @ v)
    w = np.ones(here.shape[0])
    H = there.hessian(w)
    w[:] = 2  # it was copied
    np.testing.assert_array_equal(H @ v, here.hessian(np.ones(w.size)) @ v)
    with pytest.raises(ValueError, match="a weight for each row of J, got"):
        there.hessian(there.operator(x) @ np.ones((K, 2)))


def test_vectors_there_of_a_wrong_length():
    """No vector comes to this process to be checked."""
    M, x = FORMS["sparse"](np.ones((K, K))), np.ones(K)
    there, smaller = (
        JacobianBuilder(in_process.rows(each, [0, 3, K]), rows="stored").operator(x)
        for each in (M, FORMS["sparse"](np.triu(np.ones((K, K)))))
    )
    for wrong in (smaller @ x, smaller @ np.ones((K, 3))):
        message = rf"x must have shape \({K * K},\) or \({K * K}, c\), got \(21,"
        with pytest.raises(ValueError, match=message):
            there.T @ wrong
    assert (there.T @ (there @ np.ones((K, 3)))).shape == (K, 3)


def test_targets_there_that_do_not_fit():
    M = np.arange(1.0, K * K + 1).reshape(K, K)
    there, smaller = (in_process.rows(each, [0, 3, len(each)]) for each in (M, M[:4, :4]))
    Y, short = (JacobianBuilder(A).value(np.ones(A.shape[0])) for A in (there, smaller))
    squares = (M - M[::-1, ::-1]) ** 2
    assert LeastSquares(there, Y).cost(np.ones(K)) == 0
    other = JacobianBuilder(in_process.rows(M[::-1, ::-1].copy(), [0, 3, K])).value(np.ones(K))
    assert LeastSquares(there, other).cost(np.ones(K)) == np.sum(squares) / 2
    message = rf"Y must be a {K}x{K} matrix as A is, or a vector of length {K * K} .* shape \(16,\)"
    with pytest.raises(ValueError, match=message):
        LeastSquares(there, short)
    with pytest.raises(ValueError, match="Y must be stored as A is, which is read along its rows"):
        LeastSquares(there, Y, order="F")
    Y.dtype = np.dtype("c16")
    with pytest.raises(TypeError, match="least squares is for real numbers, and Y is complex128"):
        LeastSquares(there, Y)
    with pytest.raises(ValueError, match="Y is on the workers of a cluster, and A is not"):
        LeastSquares(M, there)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("support", ["auto", "check", "drop_rows"])
def test_a_matrix_without_a_scaling(form, support):
    """The entries that are needed to find that out come to this process."""
    for A in ([[0, 0, 5.0], [0, 8, 1], [5, 1, 0]], [[0, 1.0, 1], [1, 0, 0], [1, 0, 0]]):
        U = FORMS[form](np.triu(A))
        here, there = (
            symmetric_scaling(each, uplo="U", support=support)
            for each in (U, in_process.rows(U, [0, 2, 3]))
        )
        assert there.status == here.status
        assert there.message == here.message
        np.testing.assert_array_equal(there.unsupported_rows, here.unsupported_rows)
