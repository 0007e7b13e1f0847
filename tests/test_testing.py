"""The public checks: right where J is right, and loud where it is not."""

import warnings

import numpy as np
import pytest
import rank_oracle as oracle
import scipy.sparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator
from support import integers, matrix, slow

from sparsejac import JacobianBuilder, jacobian
from sparsejac._backends import threads as _threads
from sparsejac.testing import assert_adjoint, check_jacobian, dense_jacobian


def test_dense_jacobian_by_hand():
    A = np.array([[1.0, 2], [3, 4]])
    np.testing.assert_array_equal(dense_jacobian(A, [1, 10]), [[2, 0], [20, 2], [30, 3], [0, 80]])
    np.testing.assert_array_equal(
        dense_jacobian(A, [1, 10], order="F"), [[2, 0], [30, 3], [20, 2], [0, 80]]
    )
    S = scipy.sparse.coo_array(([5.0, 5.0], ([0, 1], [1, 0])), shape=(2, 2))
    np.testing.assert_array_equal(dense_jacobian(S, [1, 10], rows="stored"), [[50, 5], [50, 5]])
    np.testing.assert_array_equal(dense_jacobian(S, [1, 10], rows="upper"), [[50, 5]])
    np.testing.assert_array_equal(dense_jacobian(S, [1, 10]), [[0, 0], [50, 5], [50, 5], [0, 0]])
    assert (
        dense_jacobian(np.eye(2, dtype=np.float32), np.ones(2, np.complex64)).dtype == np.complex64
    )


def test_dense_jacobian_against_differences():
    """Central differences are exact for a quadratic."""
    A, x = matrix(5), integers((5,), seed=1)
    expected = [
        (A * np.outer(x + e, x + e) - A * np.outer(x - e, x - e)).ravel() / 2 for e in np.eye(5)
    ]
    np.testing.assert_array_equal(dense_jacobian(A, x), np.transpose(expected))


@pytest.mark.parametrize("dtype", ["float64", *slow("float32", "complex64", "complex128", "int32")])
@pytest.mark.parametrize("form", ["C", "csr"])
@pytest.mark.parametrize("rows", ["all", "stored", "upper"])
def test_ours_passes_on_rough_numbers(dtype, form, rows):
    rng = np.random.default_rng(0)
    A = 10 ** rng.uniform(-6, 6, (20, 20))
    A = (A + A.T).astype(dtype)
    A = scipy.sparse.csr_array(np.where(np.median(abs(A)) < A, A, 0)) if form == "csr" else A
    for order in "CF":
        assert len(check_jacobian(A, rng.standard_normal(20), rows=rows, order=order)) == 8
        assert len(check_jacobian(A, rows=rows, order=order, seed=3)) == 8


@pytest.mark.parametrize("k", [0, 1, 2])
def test_the_smallest(k):
    for A in (np.ones((k, k)), scipy.sparse.csr_array((k, k))):
        assert all(check.passed for check in check_jacobian(A, np.ones(k)))


@pytest.mark.parametrize(
    "convert",
    [lambda J: J.toarray(), lambda J: J, aslinearoperator],
    ids=["dense", "csr", "operator"],
)
def test_jacobians_of_others_pass(convert):
    A, x = matrix(6), integers((6,), seed=2)
    assert len(check_jacobian(A, x, J=convert(jacobian(A, x)))) == 4


def spoiled():
    """Jacobians with the mistakes that people make, at A and x."""
    A, x = np.arange(1.0, 26).reshape(5, 5), np.arange(1.0, 6)
    good = dense_jacobian(A, x)
    diagonal = good.copy()
    diagonal[np.arange(5) * 6] /= 2  # forgot that a diagonal entry counts twice
    one_sided = np.repeat(np.eye(5), 5, axis=0) * (A * x).reshape(
        -1, 1
    )  # forgot the second term of the product rule
    tiny = good.copy()
    tiny[7, 1] *= 1 + 1e-12
    return (
        A,
        x,
        {
            "diagonal": diagonal,
            "one-sided": one_sided,
            "other order": dense_jacobian(A, x, order="F"),
            "tiny": tiny,
            "of A.T": dense_jacobian(A.T, x),
            "NaN": good * np.nan,
        },
    )


@pytest.mark.parametrize(
    "mistake", ["diagonal", "one-sided", "other order", "tiny", "of A.T", "NaN"]
)
def test_wrong_jacobians_fail(mistake):
    A, x, jacobians = spoiled()
    with pytest.raises(
        AssertionError, match=r"J is not the Jacobian of A∘\(xxᵀ\) at x: .* fails by "
    ):
        check_jacobian(A, x, J=jacobians[mistake])
    with pytest.raises(AssertionError, match="fails by"):
        check_jacobian(A, x, J=aslinearoperator(jacobians[mistake]))


@pytest.mark.parametrize("kernel", ["matvec", "rmatvec", "csr_data", "squares"])
def test_a_wrong_kernel_is_found(kernel, monkeypatch):
    """Spoil one number that one of our own kernels computes."""

    run = _threads.ThreadBackend._run

    def spoiling(self, name, i0, i1, args, *more, **options):
        run(self, name, i0, i1, args, *more, **options)
        if name == kernel:
            args[-1].reshape(-1)[2] += 1

    monkeypatch.setattr(_threads.ThreadBackend, "_run", spoiling)
    with pytest.raises(AssertionError, match="fails by"):
        check_jacobian(np.arange(1.0, 10).reshape(3, 3), [1.0, 2, 3])


@pytest.mark.parametrize("size", [1e-16, 1.0, 1e14, *slow(1e-8, 1e-3, 1e4)])
def test_no_error_hides_behind_a_large_or_small_x(size):
    """The steps are as large as x, entry by entry: in none of 40 tries is a wrong entry missed."""
    rng = np.random.default_rng(0)
    for seed in range(40):
        A, x = rng.standard_normal((6, 6)), size * rng.lognormal(0, 2, 6)
        J = dense_jacobian(A, x)
        assert len(check_jacobian(A, x, J=J, seed=seed)) == 4
        r, s = divmod(int(rng.choice(np.flatnonzero(J))), 6)
        J[r, s] *= 1 + 1e-9
        with pytest.raises(AssertionError, match="fails by"):
            check_jacobian(A, x, J=J, seed=seed)
    with pytest.raises(AssertionError, match="fails by"):
        check_jacobian(A, x, J=np.zeros((36, 6)))
    J = dense_jacobian(A, x)
    J[1, :2] += np.array([x[1], -x[0]])  # J x keeps its value
    with pytest.raises(AssertionError, match="fails by"):
        check_jacobian(A, x, J=J)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["float64", "complex128", *slow("float32", "complex64")])
def test_no_extra_entry_hides_where_x_is_small(dtype, order):
    """The sizes in x differ by sixteen orders of magnitude.

    An entry as large as its row's largest is found in each wrong column.
    """
    rng, k = np.random.default_rng(1), 5
    x = np.array([1e-8, 3e-5, -2.0, 7e4, 1e8])
    A = rng.standard_normal((k, k))
    if np.dtype(dtype).kind == "c":
        A, x = A + 1j * rng.standard_normal((k, k)), x * np.exp(1j * np.arange(k))
    A, x = A.astype(dtype), x.astype(dtype)
    J = dense_jacobian(A, x, order=order)
    for form in (np.asarray, scipy.sparse.csr_array, aslinearoperator):
        assert len(check_jacobian(A, x, J=form(J), order=order)) == 4
    for r in range(k * k):
        for c in set(range(k)) - set(divmod(r, k)):
            wrong = J.copy()
            wrong[r, c] = abs(J[r]).max()
            # As a matrix, as an operator, and as an operator whose adjoint alone is wrong.
            for given in (wrong, aslinearoperator(wrong), Broken(J, wrong.conj().T)):
                with pytest.raises(AssertionError, match="fails by"):
                    check_jacobian(A, x, J=given, order=order)


@pytest.mark.parametrize("dtype", ["float64", "complex128", *slow("float32", "complex64")])
def test_no_false_alarm_where_the_sizes_differ_widely(dtype):
    rng = np.random.default_rng(2)
    for seed in range(20):
        k = int(rng.integers(1, 8))
        A, x = rng.standard_normal((k, k)), 10 ** rng.uniform(-8, 8, k) * rng.choice([-1, 1], k)
        if np.dtype(dtype).kind == "c":
            A, x = A + 1j * rng.standard_normal((k, k)), x * np.exp(1j * rng.uniform(0, 6, k))
        A, x = A.astype(dtype), x.astype(dtype)
        A[rng.random((k, k)) < 0.2] = 0
        assert len(check_jacobian(A, x, seed=seed)) == 8
        assert len(check_jacobian(A, x, J=dense_jacobian(A, x), seed=seed)) == 4


def test_zeros_in_x_are_no_place_to_hide():
    A, x = np.ones((4, 4)), np.array([0.0, 2, 0, 3])
    J = dense_jacobian(A, x)
    assert len(check_jacobian(A, x, J=J)) == 4
    for s in range(4):
        wrong = J.copy()
        wrong[2, s] += 1e-6
        with pytest.raises(AssertionError, match="fails by"):
            check_jacobian(A, x, J=wrong)
    assert len(check_jacobian(A, np.zeros(4))) == 8


@pytest.mark.parametrize("size", [1e155, 1e-200])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_numbers_whose_squares_leave_the_range_are_refused(size, dtype):
    A = np.arange(1.0, 10).reshape(3, 3).astype(dtype) * size
    with pytest.raises(
        ValueError, match=r"the entries of F are as large as .* multiply A by a power of two"
    ):
        check_jacobian(A)


def test_check_jacobian_needs_the_right_shape():
    with pytest.raises(
        ValueError,
        match=r"J must have shape \(9, 3\), a row for each of the 9 entries .* got \(3, 3\)",
    ):
        check_jacobian(np.eye(3), np.ones(3), J=np.eye(3))
    with pytest.raises(ValueError, match=r"got \(1,\)"):
        check_jacobian(np.eye(3), np.ones(3), J=[1])
    with pytest.raises(ValueError, match="x must be a vector of length 3"):
        check_jacobian(np.eye(3), np.ones(2))


def test_check_jacobian_says_what_it_cannot_hold():
    k = 100_000
    with pytest.raises(MemoryError, match=r'the check would take .* take rows="stored"'):
        check_jacobian(scipy.sparse.eye_array(k, format="csr"))


class Broken(LinearOperator):
    """An operator with an adjoint of somebody else."""

    def __init__(self, M, N):
        super().__init__(M.dtype, M.shape)
        self.M, self.N = M, N

    def _matvec(self, v):
        return self.M @ v

    def _rmatvec(self, w):
        return self.N @ w


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_assert_adjoint_finds_a_broken_one(dtype):
    rng = np.random.default_rng(0)
    M = rng.standard_normal((30, 7)).astype(dtype)
    if M.dtype.kind == "c":
        M += 1j * rng.standard_normal((30, 7)).astype(M.real.dtype)
    assert_adjoint(Broken(M, M.conj().T))
    one_entry = M.conj().T.copy()
    small = 1e-8 if M.dtype.itemsize > 8 or M.dtype == np.float64 else 0.3
    one_entry[3, 4] += small
    broken = [-M.conj().T, (1 + small) * M.conj().T, one_entry]
    if M.dtype.kind == "c":
        broken += [
            M.T,
            M.real.T,
            (M.conj().T) * np.exp(1j * small),
        ]  # the last one errs in the imaginary part
    for N in broken:
        with pytest.raises(
            AssertionError, match=r"the adjoint does not belong to the operator: .* fails by"
        ):
            assert_adjoint(Broken(M, N.astype(dtype)))


def test_assert_adjoint_takes_arrays_and_sparse():
    for op in (
        np.eye(3),
        [[1.0, 2.0]],
        scipy.sparse.csr_array(np.eye(3) * 1j),
        JacobianBuilder(np.eye(3)).operator(np.ones(3)),
    ):
        assert_adjoint(op, seed=4)


def test_assert_adjoint_needs_a_matrix():
    with pytest.raises(ValueError, match=r"op must be an operator or a matrix .* got shape \(3,\)"):
        assert_adjoint(np.ones(3))
    with pytest.raises(TypeError, match="op is a masked array, and its mask would be lost"):
        assert_adjoint(np.ma.ones((3, 3)))


@pytest.mark.parametrize("form", [np.ndarray.tolist, np.asmatrix])
def test_check_jacobian_takes_what_is_like_an_array(form):
    A, x = np.ones((3, 3)), np.array([1.0, 2.0, 3.0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        mine = form(dense_jacobian(A, x))
    assert len(check_jacobian(A, x, J=mine)) == 4


# --- with a rank ----------------------------------------------------------------------------------


def ranked(r, *, bilinear=False, dtype="float64"):
    """A and X, in the bilinear form [X; Y]."""
    A = integers((4, 3) if bilinear else (4, 4), dtype, low=1)
    return A, integers((7 if bilinear else 4, r), dtype, seed=1, low=1)


both_forms = pytest.mark.parametrize("bilinear", [False, True], ids=["symmetric", "bilinear"])


@both_forms
@pytest.mark.parametrize("form", ["C", "csr"])
@pytest.mark.parametrize("r", [1, 2, 5])
def test_dense_jacobian_with_a_rank(r, form, bilinear):
    A, X = ranked(r, bilinear=bilinear)
    stored = np.ones(A.shape, np.bool_)
    if form == "csr":
        stored[1], stored[:, 2] = False, False
        A = np.where(stored, A, 0)
    given = scipy.sparse.csr_array(A) if form == "csr" else A
    for rows in ("all", "stored") if bilinear else ("all", "stored", "upper"):
        for order in "CF":
            pairs = oracle.rows_of_J(stored, rows, order)
            expected = oracle.jacobian(A, X, pairs, bilinear=bilinear)
            options = {"rank": r, "bilinear": bilinear, "rows": rows, "order": order}
            for x in (X, X.ravel(), np.asfortranarray(X)):
                np.testing.assert_array_equal(dense_jacobian(given, x, **options), expected)
    if r == 1:
        x, options = X.ravel(), {"bilinear": bilinear}
        expected = dense_jacobian(given, x, rank=1, **options)
        np.testing.assert_array_equal(dense_jacobian(given, x, **options), expected)


@both_forms
@pytest.mark.parametrize("dtype", ["float64", *slow("float32", "complex64", "complex128")])
@pytest.mark.parametrize("form", ["C", "csr"])
@pytest.mark.parametrize("r", [2, *slow(8)])
def test_ours_passes_with_a_rank(r, form, dtype, bilinear):
    rng = np.random.default_rng(0)
    A = 10 ** rng.uniform(-6, 6, (20, 12 if bilinear else 20))
    A = A.astype(dtype) if bilinear else (A + A.T).astype(dtype)
    A = scipy.sparse.csr_array(np.where(np.median(abs(A)) < A, A, 0)) if form == "csr" else A
    X = rng.standard_normal((32 if bilinear else 20, r)) * 10.0 ** -np.arange(r)
    for rows in ("all", "stored") if bilinear else ("all", "stored", "upper"):
        options = {"rank": r, "bilinear": bilinear, "rows": rows}
        for order in "CF":
            assert len(check_jacobian(A, X, order=order, **options)) == 8
            assert len(check_jacobian(A, order=order, seed=3, **options)) == 8


@both_forms
def test_the_smallest_with_a_rank(bilinear):
    for shape in [(0, 0), (1, 1), (2, 2), *([(0, 2), (3, 0), (1, 3)] if bilinear else [])]:
        for A in (np.ones(shape), scipy.sparse.csr_array(shape)):
            assert len(check_jacobian(A, rank=3, bilinear=bilinear)) == 8


@both_forms
@pytest.mark.parametrize("dtype", ["float64", *slow("complex128")])
def test_each_wrong_entry_is_found(dtype, bilinear):
    """The sizes of the columns of X differ by twelve orders of magnitude."""
    A, X = ranked(3, bilinear=bilinear, dtype=dtype)
    X = X * np.array([1e6, 1.0, 1e-6])
    options = {"rank": 3, "bilinear": bilinear}
    J = dense_jacobian(A, X, **options)
    for form in (np.asarray, scipy.sparse.csr_array, aslinearoperator):
        assert len(check_jacobian(A, X, J=form(J), **options)) == 4
    formula = "A∘\\(XYᵀ\\)" if bilinear else "A∘\\(XXᵀ\\)"
    for row, column in np.argwhere(J):
        wrong = J.copy()
        wrong[row, column] *= 1 + 1e-9
        for given in (wrong, aslinearoperator(wrong), Broken(J, wrong.conj().T)):
            with pytest.raises(AssertionError, match=f"the Jacobian of {formula} at x: .* fails"):
                check_jacobian(A, X, J=given, **options)
    for row, column in np.argwhere(J == 0):
        wrong = J.copy()
        wrong[row, column] = abs(J[row, column % 3 :: 3]).max()
        for given in (wrong, aslinearoperator(wrong), Broken(J, wrong.conj().T)):
            with pytest.raises(AssertionError, match="fails by"):
                check_jacobian(A, X, J=given, **options)


def test_mistakes_with_a_rank():
    A, X = ranked(2)
    J = dense_jacobian(A, X, rank=2)
    mistakes = {
        "columns of X one after the other": np.concatenate([J[:, ::2], J[:, 1::2]], axis=1),
        "X and Y exchanged": dense_jacobian(A, X[:, ::-1], rank=2),
        "of the first column": np.kron(dense_jacobian(A, X[:, 0]), [1, 0]),
        "diagonal": np.where(np.arange(16)[:, np.newaxis] % 5 == 0, J / 2, J),
    }
    for wrong in mistakes.values():
        assert wrong.shape == J.shape
        with pytest.raises(AssertionError, match="fails by"):
            check_jacobian(A, X, J=wrong, rank=2)


def test_bad_arguments_with_a_rank():
    A, X = ranked(2)
    B, Z = ranked(2, bilinear=True)
    for check in (dense_jacobian, check_jacobian):
        for bad in (X[:2], X.T, np.ones(9)):
            with pytest.raises(ValueError, match=r"x must .*\(4, 2\).*\(8,\)"):
                check(A, bad, rank=2)
        with pytest.raises(ValueError, match=r"X\.T"):
            check(A, X.T, rank=2)
        with pytest.raises(ValueError, match=r"x must .*\(7, 2\).*\(14,\)"):
            check(B, X, rank=2, bilinear=True)
        with pytest.raises(ValueError, match="A must be a square matrix"):
            check(B, Z, rank=2)
        with pytest.raises(ValueError, match='rows="upper"'):
            check(B, Z, rank=2, bilinear=True, rows="upper")
        for error, bad in ((ValueError, 0), (TypeError, 1.5)):
            with pytest.raises(error, match="rank must be a positive integer"):
                check(A, X, rank=bad)
        with pytest.raises(TypeError, match="bilinear must be True or False"):
            check(A, X, rank=2, bilinear=1)
    with pytest.raises(ValueError, match='rows="upper" is for a symmetric A'):
        dense_jacobian(B, Z, rank=2, bilinear=True, rows="upper")
    with pytest.raises(ValueError, match=r"J must have shape \(16, 8\)"):
        check_jacobian(A, X, J=np.ones((16, 4)), rank=2)
