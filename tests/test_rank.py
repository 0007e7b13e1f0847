"""``F = A ∘ (X Xᵀ)`` with X of shape (k, r), and ``F = A ∘ (X Yᵀ)``, against loops over entries.

Small integers are exact in all of our arithmetic, so they are compared bit for bit.
"""

import itertools
import pickle

import numpy as np
import pytest
import rank_oracle as oracle
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import least_squares, minimize
from scipy.sparse.linalg import cg
from support import ORDERS, ROWS, assert_same, compare, integers, slow, slow_except
from test_memory import MARGIN, fresh, peak

from sparsejac import JacobianBuilder, LeastSquares, io, jacobian
from sparsejac._backends import partition as _partition
from sparsejac._backends import threads as _threads

RANKS = [1, 2, 3, 8, 11]
BY_DEFAULT = [2, 8, 11]
FORMS = ["C", "csr", "csc"]
K, SHAPE = 5, (4, 3)  # of a square A, and of one of the bilinear form


# --- problems -------------------------------------------------------------------------------------


def small(shape, dtype, seed):
    """Integers, of which products of five and their sums are exact in the dtype."""
    low = -2 if np.dtype(dtype) in (np.float32, np.complex64) else -4
    return integers(shape, dtype, seed, low, 1 - low)


def numbers(shape, form="C", *, symmetric=False, dtype=np.float64, seed=0):
    """A as a dense array of small integers, and which entries are stored.

    A sparse A has an empty row, an empty column, and stored zeros, if it is not too small.
    """
    A = small(shape, dtype, seed)
    stored = np.ones(shape, np.bool_)
    if form not in ("C", "F", "function", "npy"):
        stored = np.random.default_rng(seed + 1).random(shape) < 0.6
        if min(shape) > 2:
            stored[1], stored[:, 1 if symmetric else 2] = False, False
    if symmetric:
        A, stored = np.triu(A) + np.triu(A, 1).T, np.triu(stored) | np.triu(stored, 1).T
    return np.where(stored, A, 0).astype(dtype), stored


def handed(A, stored, form, folder=None, index=np.int32):
    """A in the form in which a caller has it."""
    if form in ("C", "F"):
        return np.array(A, order=form)
    if form == "function":
        return lambda start, stop: A[start:stop].copy()
    if form == "npy":
        np.save(path := folder / "A.npy", A)
        return path
    i, j = (positions.astype(index) for positions in np.nonzero(stored))
    S = scipy.sparse.coo_array((A[i, j], (i, j)), shape=A.shape)
    if form != "folder":
        return S.asformat(form)
    S = S.tocsr()
    blocks = ((i, S[i : i + 2]) for i in range(0, S.shape[0], 2))
    io.write_csr_blocks(path := folder / "A", blocks, shape=S.shape)
    return path


def variables(shape, r, *, bilinear=False, dtype=np.float64, seed=1):
    """X of small integers, in the bilinear form [X; Y]."""
    return small((sum(shape) if bilinear else shape[0], r), dtype, seed)


def cases(bilinear):
    """The rows and orders of J that exist."""
    return list(itertools.product(["all", "stored"] if bilinear else ROWS, ORDERS))


both_forms = pytest.mark.parametrize("bilinear", [False, True], ids=["symmetric", "bilinear"])


def shape_of(bilinear):
    return SHAPE if bilinear else (K, K)


# --- the oracles by themselves --------------------------------------------------------------------


@pytest.mark.parametrize("form", ["C", "csr"])
@pytest.mark.parametrize("r", slow_except(BY_DEFAULT, RANKS))
def test_the_oracle_consists_of_jacobians_of_rank_one(r, form):
    """F is the sum of ``A ∘ (x xᵀ)`` over the columns x of X."""
    X = variables((K, K), r)
    for rows, order in cases(False):
        A, stored = numbers((K, K), form, symmetric=rows == "upper")
        given, pairs = handed(A, stored, form), oracle.rows_of_J(stored, rows, order)
        builder, J = JacobianBuilder(given, rows=rows, order=order), oracle.jacobian(A, X, pairs)
        for c in range(r):
            one = builder.tocsr(X[:, c])
            assert_same(one, J[:, c::r])
            indptr, indices = oracle.structure(stored, pairs, 1)
            np.testing.assert_array_equal(one.indptr, indptr)
            np.testing.assert_array_equal(one.indices, indices)
        assert_same(oracle.value(A, X, pairs), sum(builder.value(X[:, c]) for c in range(r)))
        w = integers((len(pairs),), seed=3)
        H = np.kron(builder.hessian(w).toarray(), np.eye(r))
        assert_same(oracle.curvature(A, X.shape, pairs, w), H)


@pytest.mark.parametrize("form", ["C", "csr"])
@pytest.mark.parametrize("r", slow_except(BY_DEFAULT, RANKS))
def test_the_bilinear_oracle_is_the_symmetric_one_with_a_in_the_upper_right_block(r, form):
    A, stored = numbers(SHAPE, form)
    Z, B, stored_in_B = variables(SHAPE, r, bilinear=True), *map(oracle.embedded, (A, stored))
    pairs = oracle.rows_of_J(stored, "stored", "C")
    pairs_of_B = oracle.rows_of_J(stored_in_B, "stored", "C")
    assert pairs_of_B == [(i, SHAPE[0] + j) for i, j in pairs]
    for name, more in [
        ("value", ()),
        ("jacobian", ()),
        ("normal", ()),
        ("transposed_times", (integers((len(pairs),), seed=3),)),
    ]:
        function = getattr(oracle, name)
        assert_same(function(A, Z, pairs, *more, bilinear=True), function(B, Z, pairs_of_B, *more))
    for one, other in zip(
        oracle.structure(stored, pairs, r, bilinear=True),
        oracle.structure(stored_in_B, pairs_of_B, r),
        strict=True,
    ):
        assert_same(one, other)


@both_forms
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("r", [1, 2, *slow(3)])
def test_the_sums_of_the_oracle(r, dtype, bilinear):
    A, stored = numbers(shape_of(bilinear), "csr", dtype=dtype)
    Z = variables(A.shape, r, bilinear=bilinear, dtype=dtype)
    for rows, order in cases(bilinear):
        pairs = oracle.rows_of_J(stored, rows, order)
        J = oracle.jacobian(A, Z, pairs, bilinear=bilinear)
        w = integers((len(pairs),), dtype, seed=3)
        found = oracle.transposed_times(A, Z, pairs, w, bilinear=bilinear)
        assert_same(found.ravel(), J.T @ w)
        found = oracle.transposed_times(A, Z, pairs, w, bilinear=bilinear, conjugate=True)
        assert_same(found.ravel(), J.conj().T @ w)
        N = oracle.normal(A, Z, pairs, bilinear=bilinear, damping=3)
        assert_same(N, J.conj().T @ J + 3 * np.eye(Z.size))
        assert_same(oracle.blocks(N, r)[2], N[2 * r : 3 * r, 2 * r : 3 * r])
        H = oracle.hessian(A, Z.shape, pairs, w, bilinear=bilinear)
        assert_same(oracle.curvature(A, Z.shape, pairs, w, bilinear=bilinear), H)
        h = integers(Z.shape, dtype, seed=4)
        F = oracle.value(A, Z + h, pairs, bilinear=bilinear)
        F -= oracle.value(A, Z - h, pairs, bilinear=bilinear)
        assert_same(F, 2 * (J @ h.ravel()))
        assert w @ F == 2 * (H @ h.ravel() @ Z.ravel())


@both_forms
def test_the_formulas_of_the_specification(bilinear):
    """They are written with matrices, and the oracle with entries."""
    r, A = 3, numbers(shape_of(bilinear))[0]
    Z = variables(A.shape, r, bilinear=bilinear)
    m, B = len(A), oracle.embedded(A) if bilinear else A
    here = np.s_[:m, m:] if bilinear else np.s_[:, :]
    pairs = oracle.rows_of_J(np.ones(A.shape), "all", "C")
    J = oracle.jacobian(A, Z, pairs, bilinear=bilinear)
    assert_same(oracle.value(A, Z, pairs, bilinear=bilinear), (B * (Z @ Z.T))[here].ravel())
    V, W = integers(Z.shape, seed=5), np.zeros(B.shape)
    assert_same(J @ V.ravel(), (B * (V @ Z.T + Z @ V.T))[here].ravel())
    W[here] = integers(A.shape, seed=6)
    found = oracle.transposed_times(A, Z, pairs, W[here].ravel(), bilinear=bilinear)
    assert_same(found, (B * W) @ Z + (B * W).T @ Z)
    S, N = B * B + (B * B).T, oracle.normal(A, Z, pairs, bilinear=bilinear)
    D = [sum(S[i, j] * np.outer(z, z) for j, z in enumerate(Z)) for i in range(len(Z))]
    NV = [
        D[i] @ V[i] + sum(S[i, j] * (Z[i] @ V[j]) * Z[j] for j in range(len(Z)))
        for i in range(len(Z))
    ]
    assert_same(N @ V.ravel(), np.ravel(NV))
    own = [D[i] + S[i, i] * np.outer(Z[i], Z[i]) for i in range(len(Z))]
    assert_same(oracle.blocks(N, r), np.stack(own))
    H = oracle.hessian(A, Z.shape, pairs, W[here].ravel(), bilinear=bilinear)
    assert_same(H, np.kron(B * W + (B * W).T, np.eye(r)))


# --- the builder, its matrices and its operators --------------------------------------------------


def check(builder, A, stored, Z, pairs, *, bilinear=False, sparse=False):
    """Compare all that a builder of A, which may be sparse, computes with the oracle, exactly."""
    r, here = Z.shape[1], {"bilinear": bilinear}
    dtype = np.result_type(A if A.dtype.kind in "fc" else np.float64, Z)
    wide = np.result_type(dtype, np.float64)
    wide_A, wide_Z = A.astype(wide), Z.astype(wide)
    J = oracle.jacobian(wide_A, wide_Z, pairs, **here).astype(dtype)
    indptr, indices = oracle.structure(stored, pairs, r, **here)
    m, size = J.shape
    assert builder.shape == (m, size)
    assert all(type(number) is int for number in (*builder.shape, builder.nnz))
    assert builder.nnz == indices.size
    assert builder.dtype == (A.dtype if A.dtype.kind in "fc" else np.float64)
    for found, expected in zip(builder.row_pairs(), np.reshape(pairs, (m, 2)).T, strict=True):
        assert_same(found, expected.astype(int))

    f = oracle.value(wide_A, wide_Z, pairs, **here)
    for given_as in (Z, Z.ravel()):
        assert_same(builder.value(given_as), f.astype(dtype))
    for found, expected in zip(builder.max_abs(Z), _largest(wide_A, wide_Z, bilinear), strict=True):
        assert found.dtype == np.zeros(0, dtype).real.dtype
        np.testing.assert_allclose(found, expected, rtol=0 if dtype.kind == "f" else 1e-6)

    _check_csr(builder, J, indptr, indices, Z, dtype)
    op = builder.operator(Z)
    assert op.dtype == dtype
    compare(op, J)
    assert_same(op.tocsr(), J)
    exact = oracle.normal(wide_A, wide_Z, pairs, **here)
    norms = np.sqrt(np.diag(exact).real)
    assert_same(op.column_norms(), norms.astype(np.zeros(0, dtype).real.dtype))
    for damping in (0, 2):
        N = oracle.normal(wide_A, wide_Z, pairs, damping=damping, **here).astype(dtype)
        _check_hermitian(op.normal(damping), N, sparse)
        assert_same(op.normal(damping).block_diagonal(), oracle.blocks(N, r))
    if builder.dtype.kind == "f":
        w = integers((m,), seed=7)
        H = oracle.curvature(wide_A.real, Z.shape, pairs, w, **here)
        _check_hermitian(builder.hessian(w), H, sparse)
    _check_slices(builder, J, A.shape, Z, pairs)


def _largest(A, Z, bilinear):
    return oracle.largest(A, Z, bilinear=bilinear)


def _check_csr(builder, J, indptr, indices, Z, dtype):
    found = builder.tocsr(Z)
    found.check_format(full_check=True)
    assert found.has_canonical_format
    assert found.dtype == dtype
    assert_same(found, J)
    np.testing.assert_array_equal(found.indptr, indptr)
    np.testing.assert_array_equal(found.indices, indices)
    assert found.indices.dtype == found.indptr.dtype == np.int32
    nbytes = found.data.nbytes + found.indices.nbytes + found.indptr.nbytes
    assert builder.csr_nbytes(Z.dtype) == nbytes
    before = found.data.copy()
    assert builder.tocsr(2 * Z, out=found) is found
    np.testing.assert_array_equal(found.data, 2 * before)
    assert builder.tocsr(Z.ravel(), out=found) is found
    np.testing.assert_array_equal(found.data, before)
    m = len(J)
    for block_rows in (None, 1, 7):
        blocks = list(builder.iter_csr(Z, block_rows=block_rows))
        assert [row for row, _ in blocks] == list(range(0, m, block_rows or max(m, 1)))
        for row, block in blocks:
            block.check_format(full_check=True)
            stop = row + block.shape[0]
            assert_same(block, J[row:stop])
            np.testing.assert_array_equal(block.indptr, indptr[row : stop + 1] - indptr[row])
            np.testing.assert_array_equal(block.indices, indices[indptr[row] : indptr[stop]])


def _check_hermitian(op, dense, sparse):
    compare(op, dense)
    assert_same(op.diagonal(), np.diag(dense).real)
    assert_same(op.toarray(), dense)
    if not sparse:
        with pytest.raises(TypeError, match="tocsr is for a sparse A"):
            op.tocsr()
        return
    found = op.tocsr()
    found.check_format(full_check=True)
    assert found.has_canonical_format
    assert_same(found, dense)


def _check_slices(builder, J, shape, Z, pairs):
    for s in sorted({0, 1, Z.size // 2, Z.size - 1} & set(range(Z.size))):
        expected = np.zeros(shape, J.dtype)
        for row, (i, j) in enumerate(pairs):
            expected[i, j] = J[row, s]
        found = builder.slice(Z, s)
        found.check_format(full_check=True)
        assert found.has_canonical_format
        assert found.dtype == J.dtype
        assert_same(found, expected)


def everything_is_right(
    shape, form, r, *, bilinear, rows, order, dtype="float64", x_dtype=None, folder=None, index="i4"
):
    A, stored = numbers(shape, form, symmetric=rows == "upper", dtype=dtype)
    Z = variables(shape, r, bilinear=bilinear, dtype=x_dtype or dtype)
    builder = JacobianBuilder(
        handed(A, stored, form, folder, index), rank=r, bilinear=bilinear, rows=rows, order=order
    )
    pairs = oracle.rows_of_J(stored, rows, order)
    check(
        builder,
        A,
        stored,
        Z,
        pairs,
        bilinear=bilinear,
        sparse=form in ("csr", "csc", "folder"),
    )


@both_forms
@pytest.mark.parametrize("form", ["C", "csr"])
@pytest.mark.parametrize("r", slow_except(BY_DEFAULT, RANKS))
def test_builder(r, form, bilinear):
    for rows, order in cases(bilinear):
        everything_is_right(shape_of(bilinear), form, r, bilinear=bilinear, rows=rows, order=order)


@both_forms
@pytest.mark.parametrize("form", ["F", "csc"])
@pytest.mark.parametrize("r", slow_except([2], RANKS))
def test_builder_of_columns(r, form, bilinear):
    for rows, order in cases(bilinear):
        everything_is_right(shape_of(bilinear), form, r, bilinear=bilinear, rows=rows, order=order)


@both_forms
@pytest.mark.parametrize("index", ["int32", "int64"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("dtype", "x_dtype"),
    slow(
        ("float32", "float32"),
        ("complex64", "complex64"),
        ("complex128", "complex128"),
        ("int64", "float64"),
        ("int32", "int32"),
        ("bool", "float64"),
        ("float32", "float64"),
        ("float64", "complex128"),
        ("float64", "float64"),
    ),
)
@pytest.mark.parametrize("r", [2, 8])
def test_builder_of_other_dtypes(r, dtype, x_dtype, form, index, bilinear):
    if form == "C" and index == "int64":
        pytest.skip("a dense A has no indices")
    for rows, order in cases(bilinear):
        everything_is_right(
            shape_of(bilinear),
            form,
            r,
            bilinear=bilinear,
            rows=rows,
            order=order,
            dtype=dtype,
            x_dtype=x_dtype,
            index=index,
        )


@pytest.mark.parametrize("form", ["C", "csr"])
@pytest.mark.parametrize("shape", [(0, 0), (1, 1), (2, 2), (0, 3), (3, 0)])
@pytest.mark.parametrize("r", [1, 11, *slow(3)])
def test_the_smallest(r, shape, form):
    for bilinear in {True, shape[0] != shape[1]}:
        for rows, order in cases(bilinear):
            everything_is_right(shape, form, r, bilinear=bilinear, rows=rows, order=order)


@pytest.mark.parametrize("form", ["C", "csr"])
@pytest.mark.parametrize("shape", [(1, 6), (6, 1), (2, 5), (0, 1), (1, 0), (0, 3), (1, 1)])
@pytest.mark.parametrize("r", [2, 8])
def test_no_row_or_a_single_one(r, shape, form):
    for rows, order in cases(True):
        everything_is_right(shape, form, r, bilinear=True, rows=rows, order=order)


@pytest.mark.parametrize("form", ["C", "F", "csr", "csc"])
@pytest.mark.parametrize("shape", [(0, 1), (1, 0), (0, 3)])
@pytest.mark.parametrize("order", ORDERS)
def test_an_a_without_rows_or_columns(order, shape, form):
    x, stored = np.ones(sum(shape)), np.zeros(shape, np.bool_)
    for dtype in (np.float64, np.int8):
        A = handed(np.zeros(shape, dtype), stored, form)
        problem = LeastSquares(A, A, bilinear=True, order=order)
        assert_same(problem.builder.value(x), np.zeros(0))
        assert_same(problem.jac(x).T @ np.zeros(0), np.zeros(x.size))
        assert_same(problem.fun(x), np.zeros(0))
        assert_same(problem.grad(x), np.zeros(x.size))


@both_forms
@pytest.mark.parametrize("r", [2, 8])
def test_an_a_without_entries(r, bilinear):
    shape = shape_of(bilinear)
    A, stored = np.zeros(shape), np.zeros(shape, np.bool_)
    Z = variables(shape, r, bilinear=bilinear)
    for rows, order in cases(bilinear):
        builder = JacobianBuilder(
            scipy.sparse.csr_array(shape), rank=r, bilinear=bilinear, rows=rows, order=order
        )
        pairs = oracle.rows_of_J(stored, rows, order)
        check(builder, A, stored, Z, pairs, bilinear=bilinear, sparse=True)


@both_forms
def test_duplicates_are_summed(bilinear):
    shape = shape_of(bilinear)
    i, j = np.array([0, 2, 0, 2], np.int32), np.array([1, 2, 1, 0], np.int32)
    S = scipy.sparse.coo_array(([1.0, 2.0, 3.0, 4.0], (i, j)), shape=shape)
    A, stored = np.zeros(shape), np.zeros(shape, np.bool_)
    A[0, 1], A[2, 2], A[2, 0] = 4, 2, 4
    stored[i, j] = True
    Z = variables(shape, 2, bilinear=bilinear)
    builder = JacobianBuilder(S, rank=2, bilinear=bilinear, rows="stored")
    pairs = oracle.rows_of_J(stored, "stored", "C")
    check(builder, A, stored, Z, pairs, bilinear=bilinear, sparse=True)


@pytest.mark.parametrize("uplo", ["U", "L"])
@pytest.mark.parametrize("form", ["C", "csr"])
@pytest.mark.parametrize("r", [2, *slow(1, 3, 8, 11)])
def test_uplo(r, form, uplo):
    """A holds one triangle and stands for the symmetric matrix."""
    A, stored = numbers((K, K), form, symmetric=True)
    triangle = np.triu if uplo == "U" else np.tril
    given = handed(triangle(A), triangle(stored), form)
    if form == "C":
        given[triangle(stored) == 0] = 99  # not read
    Z = variables((K, K), r)
    for rows, order in itertools.product([None, *ROWS], ORDERS):
        builder = JacobianBuilder(given, rank=r, rows=rows, order=order, uplo=uplo)
        pairs = oracle.rows_of_J(stored, rows or "upper", order)
        check(builder, A, stored, Z, pairs, sparse=form == "csr")


@pytest.mark.parametrize("form", ["function", "npy", "folder"])
@pytest.mark.parametrize("r", [2, *slow(1, 3, 8, 11)])
def test_streamed(r, form, tmp_path):
    for rows in ROWS:
        (folder := tmp_path / rows).mkdir()
        everything_is_right((K, K), form, r, bilinear=False, rows=rows, order="C", folder=folder)


# Take out the forms that a rectangular A may not have.
@pytest.mark.parametrize("form", ["npy", "folder"])
@pytest.mark.parametrize("r", [2, *slow(1, 3, 8, 11)])
def test_streamed_bilinear(r, form, tmp_path):
    for rows in ("all", "stored"):
        (folder := tmp_path / rows).mkdir()
        everything_is_right(SHAPE, form, r, bilinear=True, rows=rows, order="C", folder=folder)


@st.composite
def problems(draw):
    bilinear = draw(st.booleans())
    k = draw(st.integers(0, 6))
    shape = (k, draw(st.integers(0, 6)) if bilinear else k)
    rows, order = draw(st.sampled_from(cases(bilinear)))
    form, seed = draw(st.sampled_from(["C", "csr"])), draw(st.integers(0, 1000))
    A, stored = numbers(shape, form, symmetric=rows == "upper", seed=seed)
    Z = variables(shape, draw(st.sampled_from(BY_DEFAULT)), bilinear=bilinear, seed=seed + 1)
    return A, stored, form, Z, {"bilinear": bilinear, "rows": rows, "order": order}


@given(problems())
def test_any_problem(problem):
    A, stored, form, Z, options = problem
    builder = JacobianBuilder(handed(A, stored, form), rank=Z.shape[1], **options)
    pairs = oracle.rows_of_J(stored, options["rows"], options["order"])
    J = oracle.jacobian(A, Z, pairs, bilinear=options["bilinear"])
    assert_same(builder.tocsr(Z), J)
    op, w = builder.operator(Z), integers((len(pairs),), seed=2)
    v = integers((Z.size,), seed=3)
    assert_same(op @ v, J @ v)
    assert_same(op.T @ w, J.T @ w)
    assert_same(op.normal(1) @ v, J.T @ (J @ v) + v)
    if Z.size:
        _check_slices(builder, J, A.shape, Z, pairs)


# --- identities -----------------------------------------------------------------------------------


@both_forms
@pytest.mark.parametrize("form", ["C", "csr"])
@pytest.mark.parametrize("r", slow_except(BY_DEFAULT, RANKS))
def test_quadratic_oracles_hold_to_the_bit(r, form, bilinear):
    A, stored = numbers(shape_of(bilinear), form)
    Z, h = (variables(A.shape, r, bilinear=bilinear, seed=seed) for seed in (1, 2))
    for rows, order in itertools.product(["all", "stored"], ORDERS):
        builder = JacobianBuilder(
            handed(A, stored, form), rank=r, bilinear=bilinear, rows=rows, order=order
        )
        F, J = builder.value, builder.operator(Z)
        assert_same(F(Z + h) - F(Z - h), 2 * (J @ h.ravel()))
        assert_same(F(Z + h) - F(Z) - J @ h.ravel(), F(h))
        assert_same(J @ Z.ravel(), 2 * F(Z))
        assert_same(J @ h.ravel(), builder.operator(h) @ Z.ravel())
        w = integers((J.shape[0],), seed=3)
        H = builder.hessian(w)
        assert 2 * (w @ F(Z)) == Z.ravel() @ (H @ Z.ravel())
        assert_same(J.T @ w, H @ Z.ravel())


@pytest.mark.parametrize("form", ["C", "csr"])
@pytest.mark.parametrize("r", slow_except(BY_DEFAULT, RANKS))
def test_columns_of_x_have_their_own_jacobians(r, form):
    """The columns of J at c, c + r, … are the Jacobian of rank one at column c of X, to the bit."""
    A, stored = numbers((K, K), form)
    A = A * np.pi
    X, given = np.random.default_rng(0).standard_normal((K, r)), handed(A, stored, form)
    J = JacobianBuilder(given, rank=r).tocsr(X).toarray()
    for c in range(r):
        assert_same(jacobian(given, X[:, c]), J[:, c::r])


@pytest.mark.parametrize("r", slow_except(BY_DEFAULT, RANKS))
def test_the_bilinear_form_is_the_symmetric_one_with_a_in_the_upper_right_block(r):
    m, n = SHAPE
    A, stored = numbers(SHAPE, "csr")
    A = A * np.pi
    Z = np.random.default_rng(0).standard_normal((m + n, r))
    B = handed(oracle.embedded(A), oracle.embedded(stored), "csr")
    one = JacobianBuilder(handed(A, stored, "csr"), rank=r, bilinear=True, rows="stored")
    other = JacobianBuilder(B, rank=r, rows="stored")
    assert one.shape == other.shape
    assert one.nnz == other.nnz
    assert_same(one.tocsr(Z), other.tocsr(Z).toarray())
    assert_same(one.value(Z), other.value(Z))
    i, j = other.row_pairs()
    np.testing.assert_array_equal(one.row_pairs(), (i, j - m))
    w = np.random.default_rng(1).standard_normal(one.shape[0])
    close = {"rtol": 1e-12, "atol": 1e-12}
    np.testing.assert_allclose(one.operator(Z).T @ w, other.operator(Z).T @ w, **close)
    N, M = one.operator(Z).normal(), other.operator(Z).normal()
    np.testing.assert_allclose(N.toarray(), M.toarray(), **close)
    np.testing.assert_allclose(N.block_diagonal(), M.block_diagonal(), **close)
    assert_same(one.hessian(w).toarray(), other.hessian(w).toarray())


def test_a_by_hand():
    """k = 2 and r = 2, every row written down; then m = 1, n = 2 and r = 2."""
    a, b, c, d = 1.0, 2.0, 3.0, 4.0
    p, q, s, t = 10.0, 20.0, 30.0, 40.0
    by_hand = np.array(
        [
            [2 * a * p, 2 * a * q, 0, 0],  # (0, 0)
            [b * s, b * t, b * p, b * q],  # (0, 1)
            [c * s, c * t, c * p, c * q],  # (1, 0)
            [0, 0, 2 * d * s, 2 * d * t],  # (1, 1)
        ]
    )
    builder = JacobianBuilder(np.array([[a, b], [c, d]]), rank=2)
    J = builder.tocsr([[p, q], [s, t]])
    assert_same(J, by_hand)
    np.testing.assert_array_equal(J.indptr, [0, 2, 6, 10, 12])
    np.testing.assert_array_equal(J.indices, [0, 1, 0, 1, 2, 3, 0, 1, 2, 3, 2, 3])
    dot = p * s + q * t
    assert_same(
        builder.value([p, q, s, t]),
        np.array([a * (p * p + q * q), b * dot, c * dot, d * (s * s + t * t)]),
    )
    J = JacobianBuilder(np.array([[a, b]]), rank=2, bilinear=True).tocsr([[p, q], [s, t], [5, 6]])
    by_hand = np.array([[a * s, a * t, a * p, a * q, 0, 0], [b * 5, b * 6, 0, 0, b * p, b * q]])
    assert_same(J, by_hand)


def skew(r, seed=0):
    Omega = integers((r, r), seed=seed)
    return Omega - Omega.T


@pytest.mark.parametrize("r", [1, 2, 8, *slow(3)])
def test_null_directions(r):
    """F is the same for X Q with an orthogonal Q.

    So J is zero on X Ω with ΩT = -Ω, and for a complete pattern on nothing else.
    """
    k = 9
    A = numbers((k, k), "C", seed=2)[0]
    X = variables((k, k), r)
    builder = JacobianBuilder(A, rank=r)
    null = X @ skew(r)
    assert_same(builder.operator(X) @ null.ravel(), np.zeros(k * k))
    problem = LeastSquares(A, integers((k, k), seed=3), rank=r)
    assert np.sum(problem.grad(X) * null) == 0
    rng = np.random.default_rng(1)
    X, A = rng.standard_normal((k, r)), 1 + rng.random((k, k))
    J = JacobianBuilder(A, rank=r).tocsr(X).toarray()
    assert np.linalg.matrix_rank(J) == k * r - r * (r - 1) // 2


@pytest.mark.parametrize("r", [1, 2, *slow(3)])
def test_null_directions_of_the_bilinear_form(r):
    """F is the same for X G and Y G⁻ᵀ with an invertible G, so J is zero on [X M; -Y Mᵀ]."""
    m, n = 6, 5
    A = numbers((m, n), "C", seed=2)[0]
    Z, M = variables((m, n), r, bilinear=True), integers((r, r), seed=4)
    null = np.concatenate([Z[:m] @ M, -Z[m:] @ M.T])
    builder = JacobianBuilder(A, rank=r, bilinear=True)
    assert_same(builder.operator(Z) @ null.ravel(), np.zeros(m * n))
    problem = LeastSquares(A, integers((m, n), seed=3), rank=r, bilinear=True)
    assert np.sum(problem.grad(Z) * null) == 0
    rng = np.random.default_rng(1)
    Z, A = rng.standard_normal((m + n, r)), 1 + rng.random((m, n))
    J = JacobianBuilder(A, rank=r, bilinear=True).tocsr(Z).toarray()
    assert np.linalg.matrix_rank(J) == (m + n) * r - r * r


@both_forms
@pytest.mark.parametrize("form", ["C", "csr"])
@pytest.mark.parametrize("r", [2, 8, *slow(3)])
def test_undamped_conjugate_gradients_converge(r, form, bilinear):
    """JᵀJ is singular, but Jᵀw is in its range."""
    rng = np.random.default_rng(0)
    shape = (12, 11) if bilinear else (12, 12)
    A, Z = 1 + rng.random(shape), rng.standard_normal((sum(shape) if bilinear else 12, r))
    given = A if form == "C" else scipy.sparse.csr_array(A)
    J = JacobianBuilder(given, rank=r, bilinear=bilinear).operator(Z)
    b = J.T @ rng.standard_normal(J.shape[0])
    step, info = cg(J.normal(), b, rtol=1e-8, maxiter=10 * Z.size)
    assert info == 0
    np.testing.assert_allclose(J.H @ (J @ step), b, atol=1e-7 * np.linalg.norm(b))


# --- how X is given -------------------------------------------------------------------------------


@both_forms
def test_layouts_of_x(bilinear):
    """A matrix is read row by row, whatever its strides are."""
    r, A = 3, numbers(shape_of(bilinear))[0]
    Z = variables(A.shape, r, bilinear=bilinear)
    builder = JacobianBuilder(A, rank=r, bilinear=bilinear)
    problem = LeastSquares(A, 2 * A, rank=r, bilinear=bilinear)
    read_only = Z.copy()
    read_only.flags.writeable = False
    for given_as in (
        Z.ravel(),
        np.asfortranarray(Z),
        np.repeat(np.repeat(Z, 2, axis=0), 3, axis=1)[::2, ::3],
        np.repeat(Z.ravel(), 2)[::2],
        Z[::-1, ::-1].copy()[::-1, ::-1],
        Z.tolist(),
        Z.astype(Z.dtype.newbyteorder()),
        Z.astype(np.int64),
        read_only,
    ):
        assert_same(builder.value(given_as), builder.value(Z))
        assert_same(builder.tocsr(given_as), builder.tocsr(Z).toarray())
        v = Z.ravel()[::-1].copy()
        assert_same(builder.operator(given_as) @ v, builder.operator(Z) @ v)
        assert_same(builder.slice(given_as, 4), builder.slice(Z, 4).toarray())
        assert_same(np.ravel(problem.grad(given_as)), problem.grad(Z).ravel())
        assert_same(problem.hessp(Z, given_as).ravel(), problem.hessp(Z, Z).ravel())
        assert_same(problem.hess(given_as) @ v, problem.hess(Z) @ v)


@pytest.mark.parametrize("flat", [False, True])
def test_x_is_copied(flat):
    A, X = numbers((K, K))[0], variables((K, K), 2)
    Y = integers((K, K), seed=3)
    given = X.ravel() if flat else X
    builder, problem = JacobianBuilder(A, rank=2), LeastSquares(A, Y, rank=2)
    J = builder.operator(given)
    N, H, v = J.normal(), problem.hess(given), integers((X.size,), seed=4)
    expected, gradient = (J @ v, J.T @ (J @ v), H @ v), problem.grad(given)
    before = given.copy()
    given[:] = 7
    for found, right in zip((J @ v, N @ v, H @ v), expected, strict=True):
        assert_same(found, right)
    assert_same(problem.grad(given), LeastSquares(A, Y, rank=2).grad(given))
    assert_same(problem.grad(before), gradient)


# --- rank 1 ---------------------------------------------------------------------------------------


def everything(A, Y, Z, options):
    """All results for one A, Y and Z, as {name: array}. Vectors are flat."""
    builder, v, rng = JacobianBuilder(A, **options), Z.ravel()[::-1], np.random.default_rng(3)
    problem = LeastSquares(A, Y, **{"rows": "all"} | options)
    m = builder.shape[0]
    J, N = builder.operator(Z), builder.operator(Z).normal(0.5)
    w, V = rng.standard_normal(m), np.stack([v, 2 * v[::-1], Z.ravel()], axis=1)
    W = np.stack([w, w[::-1]], axis=1)
    H, hess, gauss = builder.hessian(w), problem.hess(Z), problem.normal(Z, 0.5)
    csr, (rows, columns) = builder.tocsr(Z), builder.max_abs(Z)
    results = {
        "shape": builder.shape, "nnz": builder.nnz, "nbytes": builder.csr_nbytes(),
        "i": builder.row_pairs()[0], "j": builder.row_pairs()[1],
        "value": builder.value(Z), "rows": rows, "columns": columns,
        "data": csr.data, "indices": csr.indices, "indptr": csr.indptr,
        "blocks": np.concatenate([B.data for _, B in builder.iter_csr(Z, block_rows=5)]),
        "slice": builder.slice(Z, 1).toarray(), "norms": J.column_norms(),
        "J v": J @ v, "J V": J @ V, "JT w": J.T @ w, "JH w": J.H @ w, "JT W": J.T @ W,
        "N v": N @ v, "N V": N @ V, "N diagonal": N.diagonal(), "N": N.toarray(),
        "N blocks": N.block_diagonal(), "H v": H @ v, "H V": H @ V, "H": H.toarray(),
        "H diagonal": H.diagonal(), "fun": problem.fun(Z), "cost": problem.cost(Z),
        "grad": problem.grad(Z), "value_and_grad": problem.value_and_grad(Z)[1],
        "jac": problem.jac(Z) @ v, "jac_csr": problem.jac_csr(Z).data,
        "hess": hess.toarray(), "hess v": hess @ v, "hess V": hess @ V,
        "hess diagonal": hess.diagonal(), "hessp": problem.hessp(Z, v),
        "gauss v": gauss @ v, "gauss": gauss.toarray(), "gauss blocks": gauss.block_diagonal(),
        "x_scale": problem.x_scale(Z),
    }  # fmt: skip
    if scipy.sparse.issparse(A):
        for name, op in (("N", N), ("H", H), ("hess", hess)):
            results[f"{name} csr"] = op.tocsr().toarray()
    return {name: np.asarray(result) for name, result in results.items()}


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    for name, result in one.items():
        assert result.dtype == other[name].dtype, name
        assert result.tobytes() == other[name].tobytes(), name


@both_forms
@pytest.mark.parametrize("form", ["C", "csr", *slow("F", "csc")])
def test_rank_1_has_the_bits_of_no_rank(form, bilinear):
    rng = np.random.default_rng(0)
    shape = (13, 9) if bilinear else (13, 13)
    A, stored = rng.standard_normal(shape), numbers(shape, form)[1]
    A = np.where(stored, A, 0)
    Y, x = np.where(stored, rng.standard_normal(shape), 0), rng.standard_normal(sum(shape))
    x = x if bilinear else x[:13]
    for rows, order in cases(bilinear):
        if rows == "upper":
            A, Y, stored = A + A.T, Y + Y.T, stored | stored.T
        given = handed(A, stored, form)
        options = {"rows": rows, "order": order, "bilinear": bilinear}
        expected = everything(given, Y, x, options | {"rank": None})
        for point in (x, x[:, np.newaxis]):
            assert_same_bits(everything(given, Y, point, options | {"rank": 1}), expected)
        if not bilinear:
            del options["bilinear"]
            assert_same_bits(everything(given, Y, x, options), expected)


# --- workers --------------------------------------------------------------------------------------


@both_forms
@pytest.mark.parametrize("form", ["C", "csr", *slow("F", "csc")])
@pytest.mark.parametrize("r", [2, 8, *slow(1, 3, 11)])
def test_same_bits_for_every_number_of_workers(r, form, bilinear, monkeypatch):
    """Pieces are made so small that a small A has several."""
    monkeypatch.setattr(_threads, "_INLINE", 2**8)
    monkeypatch.setattr(_partition, "_PIECE", 2**9)
    rng = np.random.default_rng(0)
    shape = (70, 50) if bilinear else (60, 60)
    A, Y = rng.standard_normal((2, *shape))
    stored = np.ones(shape, np.bool_)
    if form in ("csr", "csc"):
        stored = rng.random(shape) < 0.7
        stored[3] = False
        A, Y = np.where(stored, A, 0), np.where(stored, Y, 0)
    Z, given = rng.standard_normal((sum(shape) if bilinear else 60, r)), handed(A, stored, form)
    for order in ORDERS if r == 2 else "C":
        options = {"rank": r, "bilinear": bilinear, "order": order}
        expected = everything(given, Y, Z, options | {"workers": 1})
        for workers in (2, 5):
            assert_same_bits(everything(given, Y, Z, options | {"workers": workers}), expected)


# --- pickles and memory ---------------------------------------------------------------------------


@both_forms
@pytest.mark.parametrize("form", ["C", "csr"])
def test_pickles(form, bilinear):
    A, stored = numbers(shape_of(bilinear), form)
    r, Z = 2, variables(A.shape, 2, bilinear=bilinear)
    given = handed(A, stored, form)
    Y = np.where(stored, integers(A.shape, seed=3), 0)
    builder = JacobianBuilder(given, rank=r, bilinear=bilinear)
    problem = LeastSquares(given, Y, rank=r, bilinear=bilinear)
    copy, again = pickle.loads(pickle.dumps(builder)), pickle.loads(pickle.dumps(problem))
    assert (copy.shape, copy.nnz, repr(copy)) == (builder.shape, builder.nnz, repr(builder))
    assert_same(copy.tocsr(Z), builder.tocsr(Z).toarray())
    assert_same(copy.value(Z.ravel()), builder.value(Z))
    assert_same(again.grad(Z), problem.grad(Z))
    assert again.cost(Z) == problem.cost(Z)
    w, J = integers((builder.shape[0],), seed=4), builder.operator(Z)
    for op in (
        J,
        J.normal(1),
        builder.hessian(w),
        problem.hess(Z),
        problem.normal(Z),
        problem.jac(Z),
    ):
        v = integers((op.shape[1],), seed=5)
        other = pickle.loads(pickle.dumps(op))
        assert_same(other @ v, op @ v)
        assert_same(other.T @ (op @ v), op.T @ (op @ v))
    assert_same(
        pickle.loads(pickle.dumps(J.normal())).block_diagonal(), J.normal().block_diagonal()
    )


def test_repr_says_the_rank():
    assert "rank" in repr(JacobianBuilder(np.eye(3), rank=2))
    assert "bilinear" in repr(JacobianBuilder(np.ones((2, 3)), rank=2, bilinear=True))


def test_a_sparse_a_of_the_bilinear_form_is_referenced():
    """Neither its numbers nor its index arrays are copied, and no operation copies them."""
    rng, (m, n), r = np.random.default_rng(0), (3000, 2000), 2
    i, j = np.repeat(np.arange(m), 220), rng.integers(0, n, 220 * m)
    i, j = i.astype(np.int32), j.astype(np.int32)
    A = scipy.sparse.coo_array((rng.random(i.size), (i, j)), shape=(m, n)).tocsr()
    Y = scipy.sparse.csr_array((A.data**2, A.indices, A.indptr), shape=(m, n))
    options = {"rank": r, "bilinear": True, "rows": "stored", "workers": 2}
    JacobianBuilder(A, **options)
    builder, found = peak(lambda: JacobianBuilder(A, **options))
    allowed = 2**20 + 8 * 4 * (m + n) + MARGIN  # as in test_memory.py
    assert allowed < A.indices.nbytes < A.data.nbytes
    assert found < allowed
    assert np.shares_memory(builder._rows.source.values, A.data)
    A.data[0] = 5.0
    Z = rng.standard_normal((m + n, r))
    i, j = 0, A.indices[0]
    np.testing.assert_allclose(builder.value(Z)[0], 5 * (Z[i] @ Z[m + j]))
    J, problem = builder.operator(Z), LeastSquares(A, Y, **options)
    w, v, N = rng.standard_normal(A.nnz), Z.ravel(), J.normal()
    for product in (
        lambda: J.T @ w,
        J.column_norms,
        lambda: N @ v,
        N.block_diagonal,
        lambda: fresh(problem).value_and_grad(Z),
        lambda: fresh(problem).hessp(Z, Z),
    ):
        product()
        assert peak(product)[1] < A.indices.nbytes


# --- least squares --------------------------------------------------------------------------------


def check_least_squares(problem, A, Y, Z, pairs, *, bilinear=False, sparse=False):
    r, here = Z.shape[1], {"bilinear": bilinear}
    right = oracle.LeastSquares(A, Y, Z, pairs, **here)
    J = oracle.jacobian(A, Z, pairs, **here)
    assert problem.shape == problem.builder.shape == J.shape
    V = integers(Z.shape, seed=8)
    for point, v in itertools.product((Z, Z.ravel()), (V, V.ravel())):
        assert_same(problem.fun(point), right.residuals)
        assert problem.cost(point) == right.cost
        for found in (problem.grad(point), problem.value_and_grad(point)[1]):
            assert_same(found, right.gradient.reshape(point.shape))
        assert problem.value_and_grad(point)[0] == right.cost
        assert type(problem.cost(point)) is float
        product = right.hessian @ V.ravel()
        assert_same(problem.hessp(point, v), product.reshape(v.shape))
        assert_same(problem.x_scale(point), np.reshape(right.scale, point.shape))
    compare(problem.jac(Z), J, matrices=False)
    assert_same(problem.jac_csr(Z), J)
    _check_hermitian(problem.hess(Z), right.hessian, sparse)
    damped = right.normal + 2 * np.eye(Z.size)
    _check_hermitian(problem.normal(Z, 2), damped, sparse)
    assert_same(problem.normal(Z, 2).block_diagonal(), oracle.blocks(damped, r))


@both_forms
@pytest.mark.parametrize("form", ["C", "csr", *slow("F", "csc")])
@pytest.mark.parametrize("r", slow_except(BY_DEFAULT, RANKS))
def test_least_squares(r, form, bilinear):
    for rows, order in cases(bilinear):
        symmetric = rows == "upper"
        A, stored = numbers(shape_of(bilinear), form, symmetric=symmetric)
        Y = numbers(A.shape, symmetric=symmetric, seed=9)[0]
        Y, Z = np.where(stored, Y, 0), variables(A.shape, r, bilinear=bilinear)
        pairs = oracle.rows_of_J(stored, rows, order)
        targets = [Y, np.array([Y[pair] for pair in pairs])]
        if form in ("csr", "csc"):
            targets += [handed(Y, stored, form), scipy.sparse.coo_array(Y)]
        options = {"rank": r, "bilinear": bilinear, "rows": rows, "order": order}
        for target in targets if r == 2 else targets[:1]:
            problem = LeastSquares(handed(A, stored, form), target, **options)
            check_least_squares(
                problem, A, Y, Z, pairs, bilinear=bilinear, sparse=form in ("csr", "csc")
            )


@both_forms
@pytest.mark.parametrize("form", ["C", "csr"])
def test_rows_of_least_squares_are_those_stored(form, bilinear):
    A, stored = numbers(shape_of(bilinear), form)
    Y, Z = np.where(stored, 2.0, 0.0), variables(A.shape, 2, bilinear=bilinear)
    problem = LeastSquares(handed(A, stored, form), Y, rank=2, bilinear=bilinear)
    pairs = oracle.rows_of_J(stored, "stored", "C")
    check_least_squares(problem, A, Y, Z, pairs, bilinear=bilinear, sparse=form == "csr")


@pytest.mark.parametrize("uplo", ["U", "L"])
@pytest.mark.parametrize("form", ["C", "csr"])
@pytest.mark.parametrize("r", [2, *slow(8)])
def test_least_squares_of_a_triangle(r, form, uplo):
    A, stored = numbers((K, K), form, symmetric=True)
    Y, Z = np.where(stored, numbers((K, K), symmetric=True, seed=9)[0], 0), variables((K, K), r)
    triangle = np.triu if uplo == "U" else np.tril
    given = handed(triangle(A), triangle(stored), form)
    pairs = oracle.rows_of_J(stored, "upper", "C")
    problem = LeastSquares(given, Y, rank=r, uplo=uplo)
    check_least_squares(problem, A, Y, Z, pairs, sparse=form == "csr")


@pytest.mark.parametrize("form", ["C", "csr"])
@pytest.mark.parametrize("r", [2, 8])
def test_symmetric_a_and_y(r, form):
    """A pass may read half of them."""
    A, stored = numbers((K, K), form, symmetric=True)
    Y, Z = np.where(stored, numbers((K, K), symmetric=True, seed=9)[0], 0), variables((K, K), r)
    pairs = oracle.rows_of_J(stored, "stored", "C")
    problem = LeastSquares(handed(A, stored, form), Y, rank=r)
    check_least_squares(problem, A, Y, Z, pairs, sparse=form == "csr")


@both_forms
@pytest.mark.parametrize("shape", [(0, 0), (1, 1), (1, 4), (4, 1)])
def test_the_smallest_least_squares(shape, bilinear):
    if not bilinear and shape[0] != shape[1]:
        pytest.skip("the symmetric form has a square A")
    for form, r in itertools.product(["C", "csr"], [1, 3, 11]):
        A, stored = numbers(shape, form)
        Y, Z = np.where(stored, 3.0, 0.0), variables(shape, r, bilinear=bilinear)
        problem = LeastSquares(handed(A, stored, form), Y, rank=r, bilinear=bilinear)
        pairs = oracle.rows_of_J(stored, "stored", "C")
        check_least_squares(problem, A, Y, Z, pairs, bilinear=bilinear, sparse=form == "csr")


@pytest.mark.parametrize("form", ["function", "npy", "folder"])
def test_least_squares_of_a_streamed_a(form, tmp_path):
    A, stored = numbers((K, K), form)
    Y, Z = np.where(stored, 3.0, 0.0), variables((K, K), 2)
    given = handed(A, stored, form, tmp_path)
    target = handed(Y, stored, "csr") if form == "folder" else Y
    if form == "function":
        target = lambda start, stop: Y[start:stop].copy()
    problem = LeastSquares(given, target, rank=2)
    right = oracle.LeastSquares(A, Y, Z, oracle.rows_of_J(stored, "stored", "C"))
    assert_same(problem.fun(Z), right.residuals)
    assert problem.cost(Z) == right.cost
    assert_same(problem.grad(Z), right.gradient)
    assert_same(problem.hessp(Z, Z), (right.hessian @ Z.ravel()).reshape(Z.shape))
    assert_same(problem.normal(Z) @ Z.ravel(), right.normal @ Z.ravel())


def test_what_is_kept_of_the_last_x_has_the_shape_of_the_next():
    A, Y = numbers((K, K))[0], integers((K, K), seed=3)
    X = variables((K, K), 2)
    expected = LeastSquares(A, Y, rank=2).grad(X)
    problem = LeastSquares(A, Y, rank=2)
    for first, second in [(X, X.ravel()), (X.ravel(), X), (np.asfortranarray(X), X.ravel())]:
        for ask in (problem.cost, problem.grad, problem.hess):
            ask(first)
            assert_same(problem.grad(second), expected.reshape(second.shape))
            assert_same(problem.value_and_grad(second)[1], expected.reshape(second.shape))
    for point in (X, X.ravel()):  # the results belong to the caller
        problem.grad(point)[...] = 7
        problem.value_and_grad(point)[1][...] = 7
        problem.x_scale(point)[...] = 7
        problem.hessp(point, point)[...] = 7
        assert_same(problem.grad(point), expected.reshape(point.shape))


@both_forms
def test_solvers_take_it(bilinear):
    """Y has rank two, and a complete pattern, so a cost of zero is found."""
    rng, r = np.random.default_rng(4), 2
    shape = (7, 6) if bilinear else (7, 7)
    A, Z = 1 + rng.random(shape), rng.standard_normal((sum(shape) if bilinear else 7, r))
    m = shape[0]
    Y = A * (Z[:m] @ Z[m:].T if bilinear else Z @ Z.T)
    problem = LeastSquares(A, Y, rank=r, bilinear=bilinear)
    start = Z.ravel() + 0.1 * rng.standard_normal(Z.size)
    found = [
        least_squares(problem.fun, start, jac=problem.jac, method="trf").x,
        minimize(problem.value_and_grad, start, jac=True, method="L-BFGS-B", tol=1e-15).x,
        minimize(
            problem.value_and_grad, start, jac=True, hessp=problem.hessp, method="trust-ncg"
        ).x,
        minimize(problem.cost, start, jac=problem.grad, hess=problem.hess, method="trust-constr").x,
    ]
    for point in found:
        assert problem.cost(point) < 1e-8 * problem.cost(0 * point)


@pytest.mark.parametrize("r", [2, 7])
@pytest.mark.parametrize("shape", [(9, 1100), (1030, 6)])
def test_rows_that_are_longer_than_a_tile(shape, r):
    """The kernels of dense rows take a tile of 512 columns after the other."""
    m, of_x = shape[0], (sum(shape), r)
    shapes = shape, shape, of_x, of_x
    A, Y, X, V = (integers(each, seed=seed) for seed, each in enumerate(shapes))
    problem = LeastSquares(A, Y, rank=r, bilinear=True)
    x, y, v, w = X[:m], X[m:], V[:m], V[m:]
    R, JV = A * (x @ y.T) - Y, A * (v @ y.T + x @ w.T)
    assert_same(problem.fun(X), R.ravel())
    assert_same(problem.grad(X), np.vstack([(A * R) @ y, (A * R).T @ x]))
    assert_same(problem.normal(X) @ V.ravel(), np.vstack([(A * JV) @ y, (A * JV).T @ x]).ravel())
    second = np.vstack([(A * R) @ w, (A * R).T @ v])
    assert_same(problem.hessp(X, V), np.vstack([(A * JV) @ y, (A * JV).T @ x]) + second)


@pytest.mark.parametrize("shape", [(1, 3), (3, 1), (1, 1)])
@pytest.mark.parametrize("write", [np.ascontiguousarray, np.asfortranarray])
def test_pairs_of_a_file_with_a_single_line(write, shape, tmp_path):
    """It may be read along either axis, whatever the order."""
    np.save(tmp_path / "line.npy", write(np.ones(shape)))
    for order in ORDERS:
        for rows in ("all", "stored"):
            options = {"bilinear": True, "order": order, "rows": rows}
            pairs = JacobianBuilder(tmp_path / "line.npy", **options).row_pairs()
            expected = np.nonzero(np.ones(shape))
            assert np.array_equal(pairs, expected)
