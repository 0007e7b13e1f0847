"""k×k operators: JᴴJ and the Hessians of wᵀF and of ½‖F - Y‖², against dense matrices, to the bit
on integers.
"""

import itertools

import numpy as np
import pytest
import scipy.sparse
from scipy.sparse.linalg import cg, eigsh
from support import assert_same, compare, integers, matrix, random_csr, slow_except, toarray

from sparsejac import JacobianBuilder, LeastSquares
from sparsejac._backends import partition as _partition
from sparsejac._backends import threads as _threads
from sparsejac.testing import dense_jacobian

FORMS = ["C", "F", "strided", "csr", "csc"]


def dense_form(A, x, rows, order):
    """(J, i, j, A's entries) of the rows, from a loop over all k² and what the pattern says of
    them.
    """
    k = len(x)
    J = dense_jacobian(toarray(A), x)
    i, j = np.divmod(np.arange(k * k), k)
    if rows == "upper":
        keep = i <= j
    elif rows == "stored" and scipy.sparse.issparse(A):
        pattern = A.copy()
        pattern.data = np.ones_like(pattern.data)
        keep = pattern.toarray().ravel() != 0
    else:
        keep = np.ones(k * k, bool)
    if rows == "upper" and scipy.sparse.issparse(A):
        pattern = A.copy()
        pattern.data = np.ones_like(pattern.data)
        keep &= pattern.toarray().ravel() != 0
    chosen = np.flatnonzero(keep)
    if order == "F":
        chosen = chosen[np.lexsort((i[chosen], j[chosen]))]
    return J[chosen], i[chosen], j[chosen], toarray(A).ravel()[chosen]


def second_derivatives(k, i, j, weights):
    H = np.zeros((k, k), weights.dtype)
    np.add.at(H, (i, j), weights)
    np.add.at(H, (j, i), weights)
    return H


@pytest.mark.parametrize("rows", ["all", "stored", "upper"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("k", [1, 2, 9])
def test_normal(k, form, order, rows):
    A, x = matrix(k, form, symmetric=rows == "upper"), integers((k,), seed=5)
    J = dense_form(A, x, rows, order)[0]
    N = JacobianBuilder(A, rows=rows, order=order).operator(x).normal(damping=3)
    dense = J.T @ J + 3 * np.eye(k)
    compare(N, dense)
    assert_same(N.toarray(), dense)
    assert_same(N.diagonal(), np.diag(dense))
    if scipy.sparse.issparse(A):
        assert_same(N.tocsr(), dense)


@pytest.mark.parametrize(
    ("form", "dtype"),
    slow_except(
        [("C", "int16"), ("csr", "int16"), ("C", "complex128")],
        itertools.product(["C", "csr"], ["float32", "int16", "complex64", "complex128"]),
    ),
)
def test_normal_of_every_dtype(form, dtype):
    k = 7
    A = matrix(k, form, dtype=dtype)
    kinds = {
        "float32": ["float32", "complex128"],
        "int16": ["float64"],
        "complex64": ["complex64", "float32"],
    }
    for x_dtype in kinds.get(dtype, ["complex128"]):
        x = integers((k,), x_dtype, seed=5)
        J = dense_form(A, x, "all", "C")[0]
        N = JacobianBuilder(A).operator(x).normal()
        assert N.dtype == np.result_type(x_dtype, "float64" if dtype == "int16" else dtype)
        J = J.astype(
            np.result_type(J, np.float64)
        )  # products beyond 2²⁴ are rounded once, at the end
        dense, v = J.conj().T @ J, integers((k,), x_dtype, seed=6)
        if N.dtype in (np.float32, np.complex64):
            assert_same(N @ v, (dense @ v).astype(N.dtype))
            assert_same(N.H @ v, (dense @ v).astype(N.dtype))
        else:
            compare(N, dense)
        dense = dense.astype(N.dtype)
        assert_same(N.toarray(), dense)
        assert_same(N.diagonal(), np.diag(dense).real)
        assert N.diagonal().dtype.kind == "f"


@pytest.mark.parametrize("rows", ["all", "stored", "upper"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("form", FORMS)
def test_hessian_of_weights(form, order, rows):
    k = 6
    A = matrix(k, form, symmetric=rows == "upper")
    builder = JacobianBuilder(A, rows=rows, order=order)
    _, i, j, a = dense_form(A, np.ones(k), rows, order)
    w = integers((builder.shape[0],), seed=6)
    dense = second_derivatives(k, i, j, a * w)
    H = builder.hessian(w)
    compare(H, dense)
    assert_same(H.toarray(), dense)
    assert_same(H.diagonal(), np.diag(dense))
    if scipy.sparse.issparse(A):
        assert_same(H.tocsr(), dense)
    # wᵀF is quadratic: its second difference is its Hessian, without an error of truncation
    x, h = integers((k,), seed=7), integers((k,), seed=8)
    f = [w @ builder.value(x + s * h) for s in (-1, 0, 1)]
    assert f[0] - 2 * f[1] + f[2] == h @ (H @ h)


@pytest.mark.parametrize("form", ["C", "csr"])
@pytest.mark.parametrize("count", [2, 3, 4, 5, 8, 9])
def test_blocks_of_vectors(form, count):
    A, x = matrix(30, form), integers((30,), seed=5)
    N = JacobianBuilder(A, rows="stored").operator(x).normal()
    V = integers((30, count), seed=6)
    assert_same(N @ V, np.stack([N @ v for v in V.T], axis=1))
    assert_same(N @ np.asfortranarray(V), N @ V)
    assert (N @ V).flags.c_contiguous


@pytest.mark.parametrize("form", ["C", "F", "csr"])
def test_many_pieces_and_any_number_of_workers(form, monkeypatch):
    """The same bits, and right, where the rows are worked on in pieces by threads."""
    monkeypatch.setattr(_threads, "_INLINE", 2**10)
    monkeypatch.setattr(_partition, "_PIECE", 2**10)
    A = random_csr(3000, 12) if form == "csr" else np.random.default_rng(0).random((203, 203))
    A = np.asfortranarray(A) if form == "F" else A
    k = A.shape[0]
    x, v = np.random.default_rng(1).standard_normal((2, k))
    V = np.random.default_rng(2).standard_normal((k, 6))
    symmetric = A + A.T
    found = []
    for workers in (1, 2, 3):
        results = []
        for B in (A, symmetric):
            op = JacobianBuilder(B, rows="stored", workers=workers).operator(x)
            problem = LeastSquares(B, B * 0.5, workers=workers)
            cost, gradient = problem.value_and_grad(x)
            results += [
                op.normal() @ v,
                op.normal() @ V,
                cost,
                gradient,
                problem.hess(x) @ v,
                problem.normal(x) @ V,
            ]
        found.append(results)
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, two)
    for B, results in ((A, found[0][:6]), (symmetric, found[0][6:])):
        builder = JacobianBuilder(B, rows="stored")
        J, r = builder.tocsr(x), builder.value(x) - builder.value(np.ones(k)) * 0.5
        expected = [J.T @ (J @ v), J.T @ (J @ V), r @ r / 2, J.T @ r]
        expected += [expected[0] + builder.hessian(r) @ v, expected[1]]
        for one, two in zip(results, expected, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-11, atol=1e-11 * np.abs(two).max())


def test_the_explicit_matrix_has_the_pattern_of_both_triangles_and_the_diagonal():
    """Whatever the values: zeros of A and x, and sums that cancel, are entries."""
    A = scipy.sparse.csr_array(
        (np.array([0.0, 1.0]), (np.array([0, 1]), np.array([2, 0]))), shape=(4, 4)
    )
    N = JacobianBuilder(A, rows="stored").operator(np.zeros(4)).normal().tocsr()
    assert N.has_canonical_format
    i, j = N.tocoo().coords
    assert set(zip(i.tolist(), j.tolist(), strict=True)) == {
        (0, 0),
        (1, 1),
        (2, 2),
        (3, 3),
        (0, 2),
        (2, 0),
        (0, 1),
        (1, 0),
    }
    H = JacobianBuilder(A, rows="stored").hessian([0.0, 0.0]).tocsr()
    assert H.nnz == 8


def test_scipy_takes_them():
    builder = JacobianBuilder(matrix(9, "csr", density=0.8), rows="stored")
    J = builder.operator(np.arange(1.0, 10.0))
    N = J.normal(damping=1.0)
    b = J.T @ np.ones(J.shape[0])
    step, info = cg(N, b, rtol=1e-12, M=scipy.sparse.diags_array(1 / N.diagonal()))
    assert info == 0
    np.testing.assert_allclose(N.toarray() @ step, b, rtol=1e-9, atol=1e-8)
    values = np.linalg.eigvalsh(N.toarray())
    np.testing.assert_allclose(eigsh(N, k=2, which="LA", return_eigenvectors=False), values[-2:])
    assert N.T is N
    assert N.H is N
    complex_ = JacobianBuilder(np.eye(2) * 1j).operator([1, 2j]).normal()
    assert complex_.H is complex_


def test_what_is_refused():
    builder = JacobianBuilder(np.eye(3))
    op = builder.operator(np.ones(3))
    for damping in (-1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match=r"damping must be at least 0 and finite"):
            op.normal(damping)
    for damping in ("1", None, 1j, True, np.ones(3)):
        with pytest.raises(TypeError, match="damping must be a real number"):
            op.normal(damping)
    with pytest.raises(TypeError, match=r"tocsr is for a sparse A.*toarray\(\)"):
        op.normal().tocsr()
    with pytest.raises(
        ValueError,
        match=r"w must be a vector of length 9, a weight for each row of J.*shape \(3,\)",
    ):
        builder.hessian(np.ones(3))
    with pytest.raises(ValueError, match="w must be finite"):
        builder.hessian(np.full(9, np.nan))
    assert np.isnan(
        JacobianBuilder(np.eye(3), check_finite=False).hessian(np.full(9, np.nan)) @ np.ones(3)
    ).all()
    with pytest.raises(TypeError, match="Hessian of wᵀF is for real numbers, and w is complex128"):
        builder.hessian(np.ones(9) * 1j)
    with pytest.raises(TypeError, match="Hessian of wᵀF is for real numbers, and A is complex128"):
        JacobianBuilder(np.eye(3) * 1j).hessian(np.ones(9))
    with pytest.raises(ValueError, match=r"dimension mismatch in N @ x, where N is 3x3"):
        op.normal().matvec(np.ones(4))


def test_what_cannot_fit_is_refused_before_it_is_allocated():
    k = 10**6
    N = (
        JacobianBuilder(scipy.sparse.eye_array(k, format="csr"), rows="stored")
        .operator(np.ones(k))
        .normal()
    )
    with pytest.raises(
        MemoryError, match=r"1000000x1000000 array.*multiply by it without forming it"
    ):
        N.toarray()
    assert N.tocsr().nnz == k


def test_it_belongs_to_the_values_it_was_made_with():
    """x is copied; of A only the diagonal is kept."""
    A, x = np.eye(3), np.ones(3)
    N = JacobianBuilder(A).operator(x).normal()
    x[:] = 7
    assert_same(N @ np.ones(3), np.full(3, 4.0))
