"""What is known without computing it: exact identities of a quadratic F, and J in other clothes."""

import itertools

import numpy as np
import pytest
import scipy.sparse
from support import ORDERS, assert_same, integers, matrix, slow_except, toarray

from sparsejac import JacobianBuilder, jacobian
from sparsejac.testing import check_jacobian


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("form", "dtype"),
    slow_except(
        [("C", "float64"), ("F", "float64"), ("csr", "float64"), ("C", "complex128")],
        itertools.product(["C", "F", "csr"], ["float64", "complex128"]),
    ),
)
def test_quadratic_oracles_hold_to_the_bit(form, order, dtype):
    A, x, h = matrix(9, form, dtype=dtype), integers((9,), dtype, 1), integers((9,), dtype, 2)
    builder = JacobianBuilder(A, order=order)
    F, J = builder.value, builder.operator(x)
    assert_same(F(x + h) - F(x - h), 2 * (J @ h))
    assert_same(F(x + h) - F(x) - J @ h, F(h))
    assert_same(J @ x, 2 * F(x))
    assert_same(J @ h, builder.operator(h) @ x)
    assert all(check.error == 0 for check in check_jacobian(A, x, order=order)[:3])


def test_kronecker_form():
    """J = Diag(vec A) (x ⊗ I + I ⊗ x), for both vecs."""
    A, x, I = matrix(6), integers((6, 1), seed=3), np.eye(6)
    kronecker = np.kron(x, I) + np.kron(I, x)
    assert_same(jacobian(A, x[:, 0]), np.diag(A.ravel(order="C")) @ kronecker)
    assert_same(jacobian(A, x[:, 0], order="F"), np.diag(A.ravel(order="F")) @ kronecker)


def test_order_f_is_order_c_of_the_transposed():
    A, x = matrix(6), integers((6,), seed=4)
    assert_same(jacobian(A, x, order="F"), jacobian(A.T, x).toarray())


def test_commutation_and_duplication():
    """The column-stacked J is the commuted row-major one; the J of a symmetric A is its upper rows,
    duplicated.
    """
    A, x, k = matrix(5, symmetric=True), integers((5,), seed=5), 5
    swapped = np.arange(k * k).reshape(k, k).T.ravel()
    assert_same(jacobian(A, x, order="F"), jacobian(A, x).toarray()[swapped])
    i, j = JacobianBuilder(A, rows="upper").row_pairs()
    number = np.zeros((k, k), int)
    number[i, j] = number[j, i] = np.arange(i.size)
    assert_same(jacobian(A, x), jacobian(A, x, rows="upper").toarray()[number.ravel()])


@pytest.mark.parametrize("form", ["C", "csr"])
def test_columns_are_the_slices(form):
    A, x = matrix(6, form), integers((6,), seed=6)
    builder = JacobianBuilder(A)
    columns = np.stack([builder.slice(x, s).toarray().ravel() for s in range(6)], axis=1)
    assert_same(builder.tocsr(x), columns)


def test_column_norms_are_the_root_of_the_diagonal_of_jhj():
    A, x = matrix(6, dtype="complex128"), integers((6,), "complex128", 7)
    S = abs(A) ** 2 + (abs(A) ** 2).T
    # JᴴJ = Diag(S |x|²) + Diag(x) S Diag(x̄); on integers only the root rounds
    JHJ = np.diag(S @ abs(x) ** 2) + np.diag(x) @ S @ np.diag(x.conj())
    np.testing.assert_allclose(
        JacobianBuilder(A).operator(x).column_norms(), np.sqrt(np.diag(JHJ).real), rtol=4e-16
    )


def test_a_by_hand():
    """k = 3, every row written down."""
    a, b, c, d, e, f, g, h, i = range(1, 10)
    p, q, r = 10, 20, 30
    J = jacobian(np.array([[a, b, c], [d, e, f], [g, h, i]], float), [p, q, r])
    by_hand = np.array(
        [
            [2 * a * p, 0, 0],  # (0, 0)
            [b * q, b * p, 0],  # (0, 1)
            [c * r, 0, c * p],  # (0, 2)
            [d * q, d * p, 0],  # (1, 0)
            [0, 2 * e * q, 0],  # (1, 1)
            [0, f * r, f * q],  # (1, 2)
            [g * r, 0, g * p],  # (2, 0)
            [0, h * r, h * q],  # (2, 1)
            [0, 0, 2 * i * r],  # (2, 2)
        ],
        dtype=float,
    )
    assert_same(J, by_hand)
    np.testing.assert_array_equal(J.indptr, [0, 1, 3, 5, 7, 8, 10, 12, 14, 15])
    np.testing.assert_array_equal(J.indices, [0, 0, 1, 0, 2, 0, 1, 1, 1, 2, 0, 2, 1, 2, 2])


def test_rows_that_a_does_not_store_are_empty():
    A = scipy.sparse.coo_array(([1.0, 2.0], ([0, 2], [2, 1])), shape=(4, 4))
    J = jacobian(A, [1.0, 2.0, 3.0, 4.0])
    assert_same(J, jacobian(toarray(A), [1.0, 2.0, 3.0, 4.0]).toarray())
    np.testing.assert_array_equal(np.flatnonzero(np.diff(J.indptr)), [0 * 4 + 2, 2 * 4 + 1])
