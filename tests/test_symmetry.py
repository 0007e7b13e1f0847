"""What counts as symmetric: one rule wherever a symmetric A or Y is asked for, in memory and
streamed.
"""

import itertools

import numpy as np
import pytest
import scipy.sparse
from support import slow, slow_except

from sparsejac import JacobianBuilder, LeastSquares, RowSums, symmetric_scaling
from sparsejac._validation import symmetry_tolerance

K = 30
x = np.random.default_rng(3).uniform(0.5, 1.5, K)


def nearly(dtype, factor, *, seed=0):
    """A symmetric matrix, except that entry (2, 20) is off by a multiple of the tolerance."""
    B = np.random.default_rng(seed).uniform(0.1, 1, (K, K))
    B = ((B + B.T) / 2).astype(dtype)
    if np.dtype(dtype).kind == "c":
        B = B + 0.5j * B
    largest = min(abs(B[2]).max(), abs(B[20]).max())
    B[2, 20] += factor * symmetry_tolerance(B.dtype) * largest
    assert B[2, 20] != B[20, 2]
    return B


FORMS = {
    "C": lambda B, path: B,
    "F": lambda B, path: np.asfortranarray(B),
    "strided": lambda B, path: np.repeat(B, 2, axis=1)[:, ::2],
    "foreign": lambda B, path: B.astype(B.dtype.newbyteorder()),
    "csr": lambda B, path: scipy.sparse.csr_array(B),
    "csc": lambda B, path: scipy.sparse.csc_array(B),
    "coo": lambda B, path: scipy.sparse.coo_array(B),
}
USES = {
    "builder": lambda A: JacobianBuilder(A, rows="upper"),
    "builder, order F": lambda A: JacobianBuilder(A, rows="upper", order="F"),
    "Y": lambda A: LeastSquares(np.ones((K, K)), A, rows="upper"),
    "row sums": RowSums,
    "scaling": symmetric_scaling,
}


def streamed(B, path):
    np.save(path, B)
    return str(path)


@pytest.mark.parametrize("dtype", ["float64", *slow("float32")])
@pytest.mark.parametrize("form", [*FORMS, "npy", "function"])
@pytest.mark.parametrize("use", USES)
def test_rounding_is_accepted(tmp_path, use, form, dtype):
    B = nearly(dtype, 0.5)
    forms = FORMS | {"npy": streamed, "function": lambda B, path: lambda i0, i1: B[i0:i1]}
    USES[use](forms[form](B, tmp_path / "A.npy"))


@pytest.mark.parametrize("dtype", ["float64", *slow("float32")])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("use", USES)
def test_more_is_refused(tmp_path, use, form, dtype):
    B = nearly(dtype, 2)
    with pytest.raises(
        ValueError,
        match=r"\[(2, 20|20, 2)\] != .\[(20, 2|2, 20)\], by more than rounding: pass \(. \+ .\.T\) "
        r"/ 2",
    ):
        USES[use](FORMS[form](B, tmp_path))


@pytest.mark.parametrize("dtype", ["float64", *slow("float32")])
@pytest.mark.parametrize("use", USES)
def test_more_is_refused_when_streamed(tmp_path, use, dtype):
    """There the differences of a row add up, with any signs: √k times what one entry may."""
    USES[use](streamed(nearly("float64", np.sqrt(K) / 2), tmp_path / "A.npy"))
    B = nearly(dtype, 4 * np.sqrt(K))
    with pytest.raises(
        ValueError,
        match=r"the products of row (2|20) and of column (2|20) (of A |of Y )?with one vector "
        r"differ",
    ):
        USES[use](streamed(B, tmp_path / "B.npy"))


def test_each_row_has_its_own_measure():
    """An entry that is large in its own row is not small because another row has larger ones."""
    B = np.diag([1e12, 1.0, 1.0])
    B[1, 2], B[2, 1] = 1e-3, 2e-3
    for form in FORMS.values():
        with pytest.raises(ValueError, match="by more than rounding"):
            RowSums(form(B, None))


@pytest.mark.parametrize("form", ["csr", "csc"])
def test_an_entry_that_is_not_stored_is_zero(form):
    for value, accepted in ((0.0, True), (1e-16, True), (1e-6, False)):
        i, j = np.array([0, 1, 2, 0]), np.array([0, 1, 2, 2])
        A = scipy.sparse.coo_array(
            (np.array([1.0, 1.0, 1.0, value]), (i, j)), shape=(3, 3)
        ).asformat(form)
        for use in (RowSums, USES["builder"], symmetric_scaling):
            if accepted:
                use(A)
            else:
                with pytest.raises(
                    ValueError, match=r"A\[(0, 2|2, 0)\] != A\[(0, 2|2, 0)\], by more than rounding"
                ):
                    use(A)


@pytest.mark.parametrize(
    ("form", "dtype"),
    slow_except(
        [("C", "int8"), ("F", "uint8"), ("strided", "int64")],
        itertools.product(FORMS, ["int8", "uint8", "int64"]),
    ),
)
def test_integers_must_be_equal(form, dtype):
    B = np.full((4, 4), 3, dtype)
    RowSums(FORMS[form](B, None))
    B[0, 2] += 1
    with pytest.raises(ValueError, match="by more than rounding"):
        RowSums(FORMS[form](B, None))
    if dtype == "int64":
        B[:] = 2**62
        B[0, 2] -= 1
        with pytest.raises(ValueError, match="by more than rounding"):
            RowSums(FORMS[form](B, None))


@pytest.mark.parametrize("form", ["C", "csr"])
def test_nan_and_infinity(form):
    for one, other in itertools.product((np.nan, np.inf, -np.inf, 1.0), repeat=2):
        B = np.ones((3, 3))
        B[0, 2], B[2, 0] = one, other
        A = FORMS[form](B, None)
        if np.array_equal(one, other, equal_nan=True):
            RowSums(A, check_finite=False)
        else:
            with pytest.raises(ValueError, match="by more than rounding"):
                RowSums(A, check_finite=False)


@pytest.mark.parametrize("form", ["C", "csr"])
def test_only_a_symmetric_a_is_read_by_half(form):
    """The problem uses A as it is, not its upper triangle, for which this Y is exact."""
    A = nearly("float64", 0.9)
    F = A * np.outer(x, x)
    problem = LeastSquares(FORMS[form](A, None), np.triu(F) + np.triu(F, 1).T)
    left_over = (A[2, 20] - A[20, 2]) * x[2] * x[20]
    np.testing.assert_allclose(problem.cost(x), left_over**2 / 2, rtol=0.01)


def test_kernels_by_blas(tmp_path):
    """Matrices of the kind that users have: products of BLAS, and correlations."""
    X = np.random.default_rng(0).random((200, 7))
    squares = (X**2).sum(axis=1)
    K = np.exp(-(squares[:, np.newaxis] + squares - 2 * X @ X.T) / 0.1)
    for A in (
        K,
        np.abs(np.corrcoef(X.T)),
        np.abs(np.corrcoef(X)),
        (X @ X.T).astype(np.float32),
        X @ (3 * X).T,
    ):
        for form in (
            A,
            np.asfortranarray(A),
            streamed(A, tmp_path / "A.npy"),
            lambda i0, i1, A=A: A[i0:i1],
        ):
            assert symmetric_scaling(form, tol=1e-5).success
