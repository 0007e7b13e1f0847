"""The public checks: right where J is right, and loud where it is not."""

import numpy as np
import pytest
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
    with pytest.raises(ValueError, match="got None"):
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
