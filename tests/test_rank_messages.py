"""Bad input where F has a rank: each message names the argument, what was needed, and the way out.

The patterns are loose: they hold what a reader needs, not the words between.
"""

import re

import numpy as np
import pytest
import scipy.sparse

from sparsejac import JacobianBuilder, LeastSquares, fit
from sparsejac._system import machine as _machine

A, X = np.ones((4, 4)), np.ones((4, 2))
B, Z = np.ones((4, 3)), np.ones((7, 2))  # of the bilinear form


def raises(error, *parts):
    """pytest.raises for a message in which all the parts occur in this order."""
    return pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, parts)))


def raises_with(error, *parts):
    """pytest.raises for a message in which all the parts occur, in any order."""
    return pytest.raises(
        error, match="(?s)" + "".join(f"(?=.*{re.escape(part)})" for part in parts)
    )


@pytest.mark.parametrize("make", [JacobianBuilder, lambda A, **o: LeastSquares(A, A, **o)])
def test_rank_is_a_positive_integer(make):
    for bad in (0, -1):
        with raises(ValueError, "rank must be a positive integer", f"got {bad}"):
            make(A, rank=bad)
    for bad in (1.5, 2.0, "2", np.float64(2), [2]):
        with raises(TypeError, "rank must be a positive integer", "got"):
            make(A, rank=bad)
    assert JacobianBuilder(A, rank=np.int64(2)).shape == (16, 8)


def test_bilinear_is_true_or_false():
    for bad in (1, "yes", None):
        with raises(TypeError, "bilinear must be True or False"):
            JacobianBuilder(A, rank=2, bilinear=bad)


def uses(builder):
    return (
        builder.value,
        builder.tocsr,
        builder.operator,
        builder.iter_csr,
        builder.max_abs,
        lambda x: builder.slice(x, 0),
    )


def uses_of_problem(problem):
    return (
        problem.fun,
        problem.jac,
        problem.jac_csr,
        problem.cost,
        problem.grad,
        problem.value_and_grad,
        problem.hess,
        problem.normal,
        problem.x_scale,
        lambda x: problem.hessp(x, np.ones(8)),
    )


def test_x_of_another_shape():
    builder, problem = JacobianBuilder(A, rank=2), LeastSquares(A, A, rank=2)
    for use in (*uses(builder), *uses_of_problem(problem)):
        for bad in (np.ones(4), np.ones((4, 3)), np.ones(7), np.ones((2, 2, 2)), 1.0, [[1.0]]):
            with raises_with(ValueError, "x must", "(4, 2)", "(8,)", "got", str(np.shape(bad))):
                use(bad)
        with raises_with(ValueError, "x must", "(4, 2)", "(8,)", "(2, 4)", "X.T"):
            use(X.T)
    builder = JacobianBuilder(B, rank=2, bilinear=True)
    for use in uses(builder):
        for bad in (np.ones((4, 2)), np.ones((3, 2)), np.ones(7), np.ones((14, 1))):
            with raises_with(ValueError, "x must", "(7, 2)", "(14,)", "got", str(bad.shape)):
                use(bad)
        with raises_with(ValueError, "x must", "(7, 2)", "(14,)", "(2, 7)", "X.T"):
            use(Z.T)


def test_a_square_x_is_not_transposed():
    """Nothing tells that it should be."""
    assert JacobianBuilder(np.ones((2, 2)), rank=2).value(np.eye(2)).shape == (4,)


def test_v_of_another_shape():
    problem = LeastSquares(A, A, rank=2)
    for bad in (np.ones(4), np.ones((2, 4)), np.ones(9), np.ones((4, 2, 1))):
        with pytest.raises(ValueError, match=rf"(?s)must.*{re.escape(str(bad.shape))}"):
            problem.hessp(X, bad)


def test_x_of_no_rank_and_of_rank_1():
    for rank in (None, 1):
        for bad in (np.ones(5), np.ones((4, 2)), np.ones((1, 4))):
            with raises(ValueError, "x must", "4", "got", str(bad.shape)):
                JacobianBuilder(A, rank=rank).value(bad)


def test_a_rectangular_a_needs_bilinear():
    for bad in (B, scipy.sparse.csr_array(B)):
        for make in (
            JacobianBuilder,
            lambda A, **options: LeastSquares(A, A, **options),
        ):
            for rank in (2, 1):
                with raises_with(
                    ValueError, "A must be a square matrix", "(4, 3)", "bilinear=True"
                ):
                    make(bad, rank=rank)
    for bad in (np.ones(3), np.ones((2, 2, 2))):
        with raises(ValueError, "A must be a", "matrix", str(bad.shape)):
            JacobianBuilder(bad, rank=2, bilinear=True)


@pytest.mark.parametrize("square", [False, True])
def test_bilinear_has_no_triangles(square):
    given = A if square else B
    for form in (np.asarray, scipy.sparse.csr_array):
        for options, name in [
            ({"rows": "upper"}, 'rows="upper"'),
            ({"uplo": "U"}, "uplo"),
            ({"uplo": "L"}, "uplo"),
            ({"uplo": "U", "rows": "all"}, "uplo"),
        ]:
            with raises_with(ValueError, name, "bilinear"):
                JacobianBuilder(form(given), rank=2, bilinear=True, **options)
            with raises_with(ValueError, name, "bilinear"):
                LeastSquares(form(given), form(given), rank=2, bilinear=True, **options)


def test_a_function_does_not_tell_its_number_of_rows():
    with raises(TypeError, "A must not be a function with bilinear=True", "shape, dtype, and rows"):
        JacobianBuilder(lambda start, stop: B[start:stop], rank=2, bilinear=True)


def test_y_of_another_shape():
    for bad in (np.ones((3, 4)), np.ones((7, 7)), np.ones(7), np.ones((2, 2)), np.ones(11)):
        with raises(ValueError, "Y must", "4x3", "12", "got", str(bad.shape)):
            LeastSquares(B, bad, rank=2, bilinear=True)
    S = scipy.sparse.csr_array(([1.0, 2.0], ([0, 2], [1, 2])), shape=(4, 3))
    for bad in (scipy.sparse.csr_array((3, 4)), np.ones(3), np.ones((3, 4))):
        with raises(ValueError, "Y must", "4x3", "2", "got", str(bad.shape)):
            LeastSquares(S, bad, rank=2, bilinear=True)
    for bad in (np.ones((4, 2)), np.ones(8), np.ones((3, 3))):
        with raises(ValueError, "Y must", "4x4", "16", "got", str(bad.shape)):
            LeastSquares(A, bad, rank=2)
    assert LeastSquares(S, np.ones(2), rank=2, bilinear=True).shape == (2, 14)


def test_y_where_a_has_no_entry():
    S = scipy.sparse.csr_array(([1.0, 2.0], ([0, 2], [1, 2])), shape=(4, 3))
    with raises(ValueError, "Y", "zero"):
        LeastSquares(S, B, rank=2, bilinear=True)


def test_complex_problems():
    for options in ({"rank": 2}, {"rank": 2, "bilinear": True}):
        with raises(TypeError, "least squares is for real numbers", "A is complex128"):
            LeastSquares(A * 1j, A, **options)
        with raises(TypeError, "real", "complex128"):
            JacobianBuilder(A * 1j, **options).hessian(np.ones(16))
    with raises(TypeError, "x is complex128"):
        LeastSquares(A, A, rank=2).grad(X * 1j)


def test_what_does_not_fit_is_refused_before_it_is_allocated(monkeypatch):
    k, r = 3000, 5
    options = {"check_finite": False}
    many = np.broadcast_to(1.0, (k, k))
    builders = [
        (JacobianBuilder(many, rank=r, **options), np.ones((k, r))),
        (JacobianBuilder(many, rank=r, bilinear=True, **options), np.ones((2 * k, r))),
    ]
    monkeypatch.setattr(_machine, "available_memory", lambda: 10**8)
    for builder, x in builders:
        with pytest.raises(MemoryError) as caught:
            builder.tocsr(x)
        message = str(caught.value)
        assert f"would take {builder.csr_nbytes()} bytes" in message
        assert re.search(rf"rank\W+{r}\b|\br\W+{r}\b", message), message
        assert "operator(x)" in message
        with raises(MemoryError, f"would take {3 * 8 * k * k} bytes"):
            builder.operator(x) @ np.ones((x.size, 3))
        with raises(MemoryError, "row_pairs would take"):
            JacobianBuilder(np.broadcast_to(1.0, (k, 2 * k)), rank=r, bilinear=True).row_pairs()
        with raises(MemoryError, "would take", "block_rows"):
            next(builder.iter_csr(x, block_rows=k * k))
        first_row, block = next(builder.iter_csr(x))
        assert first_row == 0
        assert block.data.nbytes < 2**26
        with raises(MemoryError, "would take"):
            builder.operator(x).normal().toarray()


def test_sizes_count_r(monkeypatch):
    """J of rank one fits into memory, and J of rank 20 does not."""
    k = 1000
    many = np.broadcast_to(1.0, (k, k))
    monkeypatch.setattr(_machine, "available_memory", lambda: 10**8)
    assert JacobianBuilder(many).tocsr(np.ones(k)).nnz == 2 * k * k - k
    builder = JacobianBuilder(many, rank=20)
    assert builder.nnz == 20 * (2 * k * k - k)
    with raises(MemoryError, f"would take {builder.csr_nbytes()} bytes"):
        builder.tocsr(np.ones((k, 20)))


def test_slice_beyond_the_variables():
    for builder, x, size in [
        (JacobianBuilder(A, rank=2), X, 8),
        (JacobianBuilder(B, rank=2, bilinear=True), Z, 14),
    ]:
        builder.slice(x, size - 1)
        for bad in (size, -1, 10**6):
            with raises(IndexError, f"s < {size}"):
                builder.slice(x, bad)
        with pytest.raises(TypeError):
            builder.slice(x, 1.5)


def test_out_of_another_rank():
    for other in (JacobianBuilder(A, rank=3), JacobianBuilder(A, rank=2), JacobianBuilder(A)):
        x = np.ones(other.shape[1])
        with raises(ValueError, "out must be a matrix that this builder's tocsr returned"):
            JacobianBuilder(A, rank=2).tocsr(X, out=other.tocsr(x))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_x_is_finite(bad):
    x = X.copy()
    x[2, 1] = bad
    builder, problem = JacobianBuilder(A, rank=2), LeastSquares(A, A, rank=2)
    for use in (*uses(builder), *uses_of_problem(problem)):
        for point in (x, x.ravel(), np.asfortranarray(x)):
            with raises(ValueError, "x must be finite", "[2, 1]", str(bad), "check_finite=False"):
                use(point)
    z = Z.copy()
    z[5, 0] = bad
    with raises(ValueError, "x must be finite", "[5, 0]", str(bad)):
        JacobianBuilder(B, rank=2, bilinear=True).value(z)
    f = JacobianBuilder(A, rank=2, check_finite=False).value(x)
    assert np.isfinite(f).sum() == 9


def test_a_and_y_are_finite():
    bad = B.copy()
    bad[3, 1] = np.nan
    for form in (np.asarray, np.asfortranarray, scipy.sparse.csr_array, scipy.sparse.csc_array):
        with raises(ValueError, "A must be finite, but A[3, 1] = nan"):
            JacobianBuilder(form(bad), rank=2, bilinear=True)
        with raises(ValueError, "Y", "finite"):
            LeastSquares(form(B), form(bad), rank=2, bilinear=True)


def test_lengths_of_operands():
    for builder, x, (m, n) in [
        (JacobianBuilder(A, rank=2), X, (16, 8)),
        (JacobianBuilder(B, rank=2, bilinear=True), Z, (12, 14)),
    ]:
        op = builder.operator(x)
        with raises(ValueError, f"J is {m}x{n}", f"x must have length {n}, got shape (4,)"):
            op.matvec(np.ones(4))
        with raises(ValueError, f"J is {m}x{n}", f"x must have length {m}, got shape (5,)"):
            op.rmatvec(np.ones(5))
        with raises(ValueError, f"X must have shape ({n}, n), got shape (4, 2)"):
            op.matmat(np.ones((4, 2)))
        with raises(ValueError, f"x must have length {n}"):
            op.normal().matvec(np.ones(4))
        with raises(ValueError, "w must be a vector of length", str(m), "(5,)"):
            builder.hessian(np.ones(5))
        with raises(ValueError, "damping"):
            op.normal(-1)


def test_a_structure_that_changes_later_is_noticed():
    S = scipy.sparse.csr_array(B)
    builder = JacobianBuilder(S, rank=2, bilinear=True, rows="stored")
    op = builder.operator(Z)
    S.data[0] = 0
    S.eliminate_zeros()
    normal = op.normal()
    uses = (builder.value, op.matvec, normal.matvec)
    for use in [*(lambda use=use: use(Z.ravel()) for use in uses), op.column_norms]:
        with raises(ValueError, "the structure of A has changed", "had 12", "now has 11"):
            use()


def test_a_negative_regularization():
    """λ ‖X‖² must not be negative."""
    with raises(ValueError, "regularization", "-1"):
        fit(A, A, rank=2, regularization=-1)
    with raises(ValueError, "regularization"):
        fit(A, A, rank=2, regularization=np.nan)
