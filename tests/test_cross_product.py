"""The whole cross product: rows × order × kind of A × kind of Y × dtype, each against loops over
dense lists, or refused with a reason.
"""

import re

import numpy as np
import oracle
import pytest
from kinds import KINDS, MEMORY, STREAMED, K, Kinds, numbers
from support import ORDERS, ROWS, slow

from sparsejac import JacobianBuilder, LeastSquares, RowSums

x, v = [2, -1, 3, 1, -2, 1], [1, 2, -1, 0, 3, -2]
pytestmark = [pytest.mark.cross_product, pytest.mark.usefixtures("dirty_results")]
DTYPES = ["float64", *slow("float32", "int8")]
REFUSED = (
    "A is stored by (rows|columns), and this needs its (rows|columns)|"
    "Y must be stored as A is, which is read along|"
    "rows=.upper. reads the lower triangles of A and Y here"
)


@pytest.fixture
def kinds(tmp_path):
    return Kinds(tmp_path)


def targets(A, rows, pairs, dtype):
    """Y as numbers, and Y in every form."""
    Y = np.where(A != 0, np.random.default_rng(2).integers(1, 7, (K, K)), 0).astype(dtype)
    if rows == "upper":
        Y = np.triu(Y) + np.triu(Y, 1).T
    vector = np.array([Y[i, j] for i, j in pairs], Y.dtype)
    forms = {
        f"Y {name}": (make, Y) for name, make in KINDS.items() if name != "cool" or rows == "upper"
    }
    forms |= {
        "Y vector": (lambda kinds, B: vector, Y),
        "Y strided vector": (lambda kinds, B: np.repeat(vector, 2)[::2], Y),
        "Y mapped vector": (lambda kinds, B: kinds.mapped(vector), Y),
        "Y writable mapped vector": (lambda kinds, B: kinds.mapped(vector, "r+"), Y),
    }
    if rows == "upper":
        forms |= {
            f"triu(Y) {name}": (KINDS[name], np.triu(Y))
            for name in ("C", "csr", "npy", "npy in columns", "mapped csc")
        }
    return Y, forms


def agree(found, wanted):
    return np.array_equal(np.asarray(found, np.complex128), np.asarray(wanted, np.complex128))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("rows", ROWS)
def test_problems(kinds, rows, order, kind, dtype):
    if kind == "cool" and rows != "upper":
        with pytest.raises(ValueError, match='rows must be "upper" for a contact map'):
            JacobianBuilder(kinds.cool(numbers("upper", kind, dtype)[0]), rows=rows)
        return
    A, stored = numbers(rows, kind, dtype)
    pairs = oracle.rows_of_J(stored.tolist(), rows, order)
    Y, forms = targets(A, rows, pairs, dtype)
    wanted = oracle.least_squares(A.tolist(), Y.tolist(), x, v, pairs)
    residuals = [
        f - Y[i, j] for f, (i, j) in zip(oracle.value(A.tolist(), x, pairs), pairs, strict=True)
    ]
    point, direction = np.array(x, float), np.array(v, float)
    wrong, refused = [], []
    for name, (make, B) in forms.items():
        try:
            problem = LeastSquares(KINDS[kind](kinds, A), make(kinds, B), rows=rows, order=order)
        except ValueError as error:
            refused.append((name, str(error)))
            continue
        cost, gradient = problem.value_and_grad(point)
        found = cost, gradient, problem.hessp(point, direction), problem.x_scale(point) ** -2
        exact = [agree(a, b) for a, b in zip(found[:3], wanted[:3], strict=True)]
        exact.append(
            np.allclose(found[3][np.array(wanted[3]) > 0], [d for d in wanted[3] if d], rtol=1e-14)
        )
        exact.append(agree(problem.hess(point).toarray() @ direction, wanted[2]))
        try:
            exact.append(agree(problem.fun(point), residuals))
        except ValueError as error:
            refused.append((f"{name}: fun", str(error)))
        if not all(exact):
            wrong.append((name, exact))
    print(f"{len(forms)} combinations, {len(refused)} refused, {len(wrong)} wrong")
    assert not wrong
    assert not [case for case in refused if not re.search(REFUSED, case[1])]
    in_columns = ("in columns", "csc")
    if kind in MEMORY:  # a file is refused where it lies the other way, and nothing else is
        assert not [
            name
            for name, _ in refused
            if name in ("Y vector", "Y strided vector", *(f"Y {name}" for name in MEMORY))
        ]
    assert len(refused) < len(forms) or (order == "F") != any(word in kind for word in in_columns)


@pytest.mark.parametrize("dtype", [*DTYPES, "complex128"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("rows", ROWS)
def test_builders(kinds, rows, order, kind, dtype):
    if kind == "cool" and (rows != "upper" or dtype == "complex128"):
        pytest.skip("a contact map holds the upper triangle of a real matrix")
    A, stored = numbers(rows, kind, dtype)
    pairs = oracle.rows_of_J(stored.tolist(), rows, order)
    J = np.array(oracle.jacobian(A.tolist(), x, pairs)).reshape(len(pairs), K)
    builder = JacobianBuilder(KINDS[kind](kinds, A), rows=rows, order=order)
    point, direction = np.array(x, float), np.array(v, float)
    w = np.arange(1.0, len(pairs) + 1)
    op = builder.operator(point)
    assert builder.shape == J.shape
    assert agree(op.normal() @ direction, J.conj().T @ (J @ v))
    assert np.allclose(op.column_norms() ** 2, (abs(J) ** 2).sum(axis=0), rtol=1e-14)
    products = {
        "value": lambda: agree(builder.value(point), oracle.value(A.tolist(), x, pairs)),
        "J v": lambda: agree(op @ direction, J @ v),
        "tocsr": lambda: agree(builder.tocsr(point).toarray(), J),
        "row_pairs": lambda: agree(np.stack(builder.row_pairs(), axis=1), pairs),
        "Jᵀw": lambda: agree(op.T @ w, J.T @ w),
    }
    refused = []
    for name, agrees in products.items():
        try:
            assert agrees(), name
        except ValueError as error:
            refused.append((name, str(error)))
    by_columns = kind in ("npy in columns", "mapped csc")
    assert not [case for case in refused if not re.search(REFUSED, case[1])]
    assert not refused or (kind in STREAMED and by_columns != (order == "F"))


@pytest.mark.parametrize("uplo", [None, "U", "L"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pairs", ["all", "within", "between"])
@pytest.mark.parametrize("ignored", [0, 1, 3])
def test_row_sums(kinds, uplo, kind, pairs, ignored):
    if kind == "cool" and uplo != "U":
        pytest.skip("a contact map holds the upper triangle")
    A, _ = numbers("upper", kind, "float64")
    groups = [0, 0, 1, 1, 1, 2]
    counts = [
        [
            abs(i - j) >= ignored
            and (pairs == "all" or (groups[i] == groups[j]) == (pairs == "within"))
            for j in range(K)
        ]
        for i in range(K)
    ]
    part = {None: A, "U": np.triu(A), "L": np.tril(A)}[uplo]
    sums = RowSums(
        KINDS[kind](kinds, part), uplo=uplo, ignore_diags=ignored, groups=groups, pairs=pairs
    )
    M = np.array([[A[i, j] if counts[i][j] else 0 for j in range(K)] for i in range(K)])
    point = np.array(x, float)
    assert agree(
        sums.value(point), [x[i] * sum(M[i, j] * x[j] for j in range(K)) for i in range(K)]
    )
    J = np.diag(M @ x) + np.array(x)[:, np.newaxis] * M
    op = sums.operator(point)
    assert agree(op @ np.array(v, float), J @ v)
    assert agree(op.T @ np.array(v, float), J.T @ v)
    assert agree(op.diagonal(), np.diag(J))
    assert agree(op.toarray(), J)
    assert agree(sums.nonzeros(), (M != 0).sum(axis=0))
