"""What SciPy asks of a LinearOperator, and what it gets from ours."""

import contextlib
import inspect
import itertools

import numpy as np
import pylops.utils
import pytest
import scipy.optimize
import scipy.sparse
import scipy.sparse.linalg
import scipy.sparse.linalg.tests.test_interface as scipy_tests
from scipy.sparse.linalg import LinearOperator, aslinearoperator
from support import assert_same, integers, matrix, np_matrix, slow, slow_except

from sparsejac import JacobianBuilder, JacobianOperator
from sparsejac.testing import assert_adjoint, dense_jacobian

pytestmark = pytest.mark.usefixtures("dirty_results")

SCIPY_118 = tuple(map(int, scipy.__version__.split(".")[:2])) >= (1, 18)


def operator(k=3, dtype="float64", rows="all", form="C"):
    A = matrix(k, form, dtype=dtype, symmetric=rows == "upper")
    return JacobianBuilder(A, rows=rows).operator(integers((k,), dtype, seed=1))


def selected(op):
    """A 2×3 operator out of a 9×3 Jacobian, which SciPy's own tests ask for, and its matrix."""
    select = scipy.sparse.csr_array(([1.0, 1.0], ([0, 1], [1, 5])), shape=(2, 9))
    return aslinearoperator(select) @ op, select @ op.tocsr().toarray()


@pytest.mark.parametrize("test", ["test_basic", "test_dot"])
@pytest.mark.parametrize("dtype", ["float64", *slow("int32", "float32", "complex128")])
def test_scipys_own(test, dtype):
    """SciPy's suite for LinearOperator, on ours."""
    suite = scipy_tests.TestAsLinearOperator()
    suite.cases = [selected(operator(dtype=dtype)), selected_transposed(operator(dtype=dtype))]
    run = getattr(suite, test)
    run(**({"xp": np} if "xp" in inspect.signature(run).parameters else {}))  # from SciPy 1.18 on


def selected_transposed(op):
    select = scipy.sparse.csr_array(([1.0, 1.0], ([1, 5], [0, 1])), shape=(9, 2))
    # (Jᵀ S)ᵀ = Sᵀ J: the same matrix, by way of our .T
    return (op.T @ aslinearoperator(select)).T, select.T @ op.tocsr().toarray()


@pytest.mark.skipif(not SCIPY_118, reason="SciPy has this test from 1.18 on")
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("form", ["C", "csr"])
def test_scipys_dot_tests(dtype, form):
    suite = scipy_tests.TestDotTests()
    for op in (operator(4, dtype, form=form), operator(4, dtype).T, operator(4, dtype).H):
        suite.check_matvec(np, op, "float64", complex_data=dtype == "complex128")
        suite.check_matmat(
            np,
            op,
            "float64",
            complex_data=dtype == "complex128",
            check_operators=True,
            check_dot=True,
        )


@pytest.mark.parametrize("dtype", ["float64", "complex128", *slow("float32")])
def test_pylops_dot_test(dtype):
    op = operator(7, dtype)
    wrapped = pylops.LinearOperator(op) if hasattr(pylops, "LinearOperator") else op
    flag = 3 if dtype == "complex128" else 0
    assert pylops.utils.dottest(
        wrapped,
        *op.shape,
        rtol=1e-4 if dtype == "float32" else 1e-10,
        complexflag=flag,
        raiseerror=True,
    )


@pytest.mark.parametrize("rows", ["all", "stored", "upper"])
@pytest.mark.parametrize(
    ("form", "dtype"),
    slow_except(
        [("C", "float64"), ("csr", "float64"), ("C", "complex128")],
        itertools.product(["C", "csr"], ["float32", "float64", "complex64", "complex128"]),
    ),
)
def test_adjoint(dtype, rows, form):
    op = operator(7, dtype, rows, form)
    for form_of_op in (op, op.T, op.H, op.tocsr()):
        assert_adjoint(form_of_op)


def test_attributes():
    op = operator(7)
    assert isinstance(op, (LinearOperator, JacobianOperator))
    assert op.shape == (49, 7)
    assert op.T.shape == op.H.shape == (7, 49)
    assert op.dtype == op.T.dtype == np.float64
    assert op.T.T is op
    assert op.H.H is op
    assert op.H.T is op.T.H is op  # it is real
    for of, dtype in (("c16", "c16"), ("c8", "c16"), ("f4", "f8"), ("i8", "f8"), (">f8", "f8")):
        assert op._result_dtype(np.ones(7, of)) == np.dtype(dtype)
    assert operator(3, "complex128").H.H.dtype == np.complex128


@pytest.mark.parametrize("dtype", ["float64", *slow("complex128")])
def test_transposes_of_transposes(dtype):
    J = operator(4, dtype)
    M = J.tocsr().toarray()
    rng = np.random.default_rng(0)
    assert J.T.T is J
    for op, dense in (
        (J, M),
        (J.T, M.T),
        (J.H, M.conj().T),
        (J.T.H, M.conj()),
        (J.H.T, M.conj()),
        (J.H.H, M),
        (J.T.H.T, M.conj().T),
    ):
        assert op.shape == dense.shape
        v, w = (rng.standard_normal(n) + 1j * rng.standard_normal(n) for n in dense.shape[::-1])
        if dtype == "float64":
            v, w = v.real, w.real
        np.testing.assert_allclose(op @ v, dense @ v, rtol=1e-12)
        np.testing.assert_allclose(op.rmatvec(w), dense.conj().T @ w, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float64", *slow("float32", "complex128")])
def test_column_norms(dtype):
    J = operator(4, dtype)
    norms = J.column_norms()
    assert norms.dtype == np.empty(0, dtype).real.dtype
    np.testing.assert_allclose(norms, np.linalg.norm(J.tocsr().toarray(), axis=0), rtol=1e-5)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # NumPy's, of np.matrix
def test_columns_and_np_matrix_keep_their_form():
    op = operator(3)
    column = np.array([[1.0], [2], [3]])
    with (
        pytest.warns(FutureWarning, match="column vectors")
        if SCIPY_118
        else contextlib.nullcontext()
    ):
        assert op.matvec(column).shape == (9, 1)
    with (
        pytest.warns(FutureWarning, match="column vectors")
        if SCIPY_118
        else contextlib.nullcontext()
    ):
        assert op.rmatvec(np.ones((9, 1))).shape == (3, 1)
    assert (op @ column).shape == (9, 1)
    assert isinstance(op @ np_matrix(np.eye(3)), np.ndarray)
    assert_same(op.rmatmat(np_matrix(np.eye(9))), op.tocsr().toarray().T)


def test_batches_of_vectors_and_of_matrices():
    """Vectors lie along the last axis, and matrices in the last two."""
    op = operator(3)
    M = op.tocsr().toarray()
    for shape in ((3,), (2, 3), (2, 4, 3), (1, 3, 3)):
        x = integers(shape, seed=2)
        assert_same(op.matvec(x), x @ M.T)
        w = integers((*shape[:-1], 9), seed=3)
        assert_same(op.rmatvec(w), w @ M)
    for shape in ((3, 5), (2, 3, 5), (4, 2, 3, 5), (4, 2, 3, 1)):
        x = integers(shape, seed=4)
        assert_same(op.matmat(x), M @ x)
        w = integers((*shape[:-2], 9, 5), seed=5)
        assert_same(op.rmatmat(w), M.T @ w)


OPERANDS = [
    "bool",
    "int8",
    "uint64",
    "int64",
    "float32",
    "float64",
    "complex64",
    "complex128",
    ">f8",
    ">i4",
]


@pytest.mark.parametrize(
    ("dtype", "operand"),
    slow_except(
        [
            *(
                ("float64", operand)
                for operand in OPERANDS
                if operand not in ("float32", "complex64", "complex128")
            ),
            *(("complex128", operand) for operand in ("int8", "float32", "complex128")),
            ("float32", "float32"),
        ],
        [
            *(("float64", operand) for operand in OPERANDS),
            *(
                (dtype, operand)
                for dtype in ("float32", "complex64", "complex128")
                for operand in ("int8", "float32", "complex128")
            ),
        ],
    ),
)
def test_operands_of_every_dtype(dtype, operand):
    op = operator(3, dtype)
    dense = op.tocsr().toarray()
    v, w = integers((3,), operand, 2), integers((9,), operand, 3)
    counted = np.float64 if np.dtype(operand).kind in "biu" else np.dtype(operand).newbyteorder("=")
    for product, exact in [
        (op @ v, dense @ v),
        (op.T @ w, dense.T @ w),
        (op.H @ w, dense.conj().T @ w),
    ]:
        assert product.dtype == np.result_type(op.dtype, counted)
        assert_same(product, exact)


def test_operands_are_read_where_they_are():
    op = operator(7)
    dense = op.tocsr().toarray()
    w = np.repeat(integers((49,), seed=4), 2)[::2]
    w.flags.writeable = False
    assert_same(op.T @ w, dense.T @ w)
    assert_same(op.T @ w[::-1], dense.T @ w[::-1])
    assert_same(op.T @ list(w), dense.T @ w)
    unaligned = np.frombuffer(b"\0" + w.tobytes(), np.uint8)[1:].view(np.float64)
    assert_same(op.T @ unaligned, dense.T @ w)


# --- the solvers ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def problem():
    """A well-conditioned Jacobian, as operator, CSR and dense, and a right-hand side."""
    rng = np.random.default_rng(0)
    A, x = 1 + rng.random((12, 12)), 1 + rng.random(12)
    op = JacobianBuilder(A).operator(x)
    return op, op.tocsr(), dense_jacobian(A, x), rng.standard_normal(144)


@pytest.mark.parametrize("solver", [scipy.sparse.linalg.lsqr, scipy.sparse.linalg.lsmr])
def test_lsqr_and_lsmr(problem, solver):
    *forms, dense, b = problem
    expected = np.linalg.lstsq(dense, b)[0]
    for J in forms:
        np.testing.assert_allclose(solver(J, b, atol=1e-13, btol=1e-13)[0], expected, rtol=1e-9)


def test_svds(problem):
    *forms, dense, _ = problem
    expected = np.linalg.svd(dense, compute_uv=False)[:4]
    for J in forms:
        found = (
            scipy.sparse.linalg.svds(
                J, k=4, return_singular_vectors=False, rng=np.random.default_rng(0)
            )
            if SCIPY_118
            else (scipy.sparse.linalg.svds(J, k=4, return_singular_vectors=False, v0=np.ones(12)))
        )
        np.testing.assert_allclose(np.sort(found)[::-1], expected, rtol=1e-10)


def test_lsq_linear(problem):
    *forms, dense, b = problem
    expected = scipy.optimize.lsq_linear(dense, b, bounds=(-0.01, 0.01), method="trf", tol=1e-12).x
    for J in forms:
        found = scipy.optimize.lsq_linear(
            J, b, bounds=(-0.01, 0.01), method="trf", tol=1e-12, lsq_solver="lsmr", lsmr_tol=1e-14
        )
        np.testing.assert_allclose(found.x, expected, atol=1e-8)


@pytest.mark.parametrize("form", ["csr", "operator", "dense"])
@pytest.mark.parametrize("loss", ["linear", "soft_l1"])
@pytest.mark.parametrize("bounds", [(-np.inf, np.inf), (0.0, 10.0)])
def test_least_squares(form, loss, bounds):
    rng = np.random.default_rng(1)
    k = 10
    A, answer = 1 + rng.random((k, k)), 1 + rng.random(k)
    builder = JacobianBuilder(A)
    Y = builder.value(answer)
    jacobian = {
        "csr": builder.tocsr,
        "operator": builder.operator,
        "dense": lambda x: builder.tocsr(x).toarray(),
    }[form]
    options = {
        "jac": jacobian,
        "bounds": bounds,
        "loss": loss,
        "xtol": 1e-15,
        "ftol": 1e-15,
        "gtol": 1e-15,
    }
    found = scipy.optimize.least_squares(lambda x: builder.value(x) - Y, np.ones(k), **options)
    np.testing.assert_allclose(found.x, answer, rtol=1e-7)


def test_least_squares_with_exact_column_norms():
    """`x_scale="jac"` takes no LinearOperator; 1/column_norms does the same."""
    A = np.ones((6, 6))
    builder = JacobianBuilder(A)
    answer = np.arange(1.0, 7)
    Y = builder.value(answer)
    x0 = np.full(6, 2.0)
    found = scipy.optimize.least_squares(
        lambda x: builder.value(x) - Y,
        x0,
        jac=builder.operator,
        x_scale=1 / builder.operator(x0).column_norms(),
    )
    np.testing.assert_allclose(found.x, answer, rtol=1e-6)


class Labelled:
    """As a series of pandas, it has an index, which an array would lose."""

    def __array__(self, *_, **__):
        return np.ones(3)


@pytest.mark.parametrize(
    ("factor", "kind", "words"),
    [
        (None, TypeError, "x must be a NumPy array, got NoneType"),
        ("text", TypeError, r"x must be a NumPy array, got str: pass sparsejac\.io\.read_vector"),
        (b"text", TypeError, "x must be a NumPy array, got bytes"),
        (np.str_("text"), TypeError, "x must have a dtype among bool, integers"),
        ({0: 1.0}, TypeError, "x must be a NumPy array, got dict"),
        ({1.0}, TypeError, "x must be a NumPy array, got set"),
        ([[1.0], [1.0, 2.0]], ValueError, "x must be a rectangular array of numbers"),
        (np.ma.masked_array(np.ones(3), [0, 1, 0]), TypeError, "x .*mask"),
        (Labelled(), TypeError, r"got .*Labelled: pass np\.asarray\(x\), which keeps"),
    ],
)
def test_what_is_no_factor(factor, kind, words):
    """SciPy takes text for a number, and anything else for an array of objects."""
    J = JacobianBuilder(np.ones((3, 3))).operator(np.ones(3))
    for operator in (J, J.T, J.H, J.normal()):
        for multiply in (
            lambda A, x: A @ x,
            lambda A, x: A * x,
            lambda A, x: A.dot(x),
            lambda A, x: A.__rmatmul__(x),
            lambda A, x: A.__rmul__(x),
        ):
            with pytest.raises(kind, match=words):
                multiply(operator, factor)
    assert (2 * J).shape == (J * 2.0).shape == J.shape
