"""A that holds one triangle: rows × order × uplo × kind of A × kind of Y × dtype.

Each case is compared with loops over dense lists, or is refused with a reason.
"""

import re

import numpy as np
import oracle
import pytest
import scipy.sparse
from kinds import KINDS, MEMORY, STREAMED, K, Kinds, numbers
from support import ORDERS, ROWS, slow
from test_cross_product import REFUSED, agree, targets

from sparsejac import JacobianBuilder, LeastSquares, fit

pytestmark = pytest.mark.usefixtures("dirty_results")

x, v = [2, -1, 3, 1, -2, 1], [1, 2, -1, 0, 3, -2]
point, direction = np.array(x, float), np.array(v, float)
TRIANGLE = {"U": np.triu, "L": np.tril}
DENSE = ("C", "F", "strided", "npy", "npy in columns", "memmap", "hdf5", "zarr", "function")


@pytest.fixture
def kinds(tmp_path):
    return Kinds(tmp_path)


def given(kinds, kind, A, uplo):
    """One triangle of A. Where a dense A has no numbers there is NaN, which nobody may read."""
    part = TRIANGLE[uplo](A)
    if kind in DENSE and A.dtype.kind == "f":
        part = np.where(TRIANGLE[uplo](np.ones_like(A)) != 0, part, np.nan)
    return KINDS[kind](kinds, part)


def is_refused(kinds, kind, rows, uplo, make):
    """Whether a combination is refused as it should be."""
    if kind == "cool" and uplo == "L":
        message = 'uplo must be "U" for a contact map'
    elif kind == "cool" and rows != "upper":
        message = 'rows must be "upper" for a contact map'
    elif kind in STREAMED and rows != "upper":
        message = 'rows must be "upper" for an A that is read from disk and holds one triangle'
    else:
        return False
    with pytest.raises(ValueError, match=message):
        make()
    return True


@pytest.mark.cross_product
@pytest.mark.parametrize("dtype", ["float64", "int8", *slow("float32")])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("uplo", ["U", "L"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("rows", ROWS)
def test_builders(kinds, rows, order, uplo, kind, dtype):
    A, stored = numbers("upper", kind, dtype)

    def make():
        return JacobianBuilder(given(kinds, kind, A, uplo), rows=rows, order=order, uplo=uplo)

    if is_refused(kinds, kind, rows, uplo, make):
        return
    pairs = oracle.rows_of_J(stored.tolist(), rows, order)
    J = np.array(oracle.jacobian(A.tolist(), x, pairs)).reshape(len(pairs), K)
    builder = make()
    op = builder.operator(point)
    assert agree(op.normal() @ direction, J.T @ (J @ v))
    assert np.allclose(op.column_norms() ** 2, (J**2).sum(axis=0), rtol=1e-14)
    w = np.arange(1.0, len(pairs) + 1)
    products = {
        "value": lambda: agree(builder.value(point), oracle.value(A.tolist(), x, pairs)),
        "J v": lambda: agree(op @ direction, J @ v),
        "tocsr": lambda: agree(builder.tocsr(point).toarray(), J),
        "row_pairs": lambda: agree(np.stack(builder.row_pairs(), axis=1), pairs),
        "Jᵀw": lambda: agree(op.T @ w, J.T @ w),
        "slice": lambda: agree(builder.slice(point, 3).toarray(), slice_of(A, pairs, 3)),
    }
    refused = []
    for name, agrees in products.items():
        try:
            assert agrees(), name
        except ValueError as error:
            refused.append((name, str(error)))
    assert not [case for case in refused if not re.search(REFUSED, case[1])]
    assert not refused or kind in STREAMED


def slice_of(A, pairs, s):
    """∂F/∂x_s by a loop."""
    out = np.zeros((K, K))
    for i, j in pairs:
        out[i, j] = A[i, j] * ((i == s) * x[j] + (j == s) * x[i])
    return out


@pytest.mark.cross_product
@pytest.mark.parametrize("dtype", ["float64", "int8"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("uplo", ["U", "L"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("rows", ROWS)
def test_problems(kinds, rows, order, uplo, kind, dtype):
    A, stored = numbers("upper", kind, dtype)
    pairs = oracle.rows_of_J(stored.tolist(), rows, order)
    Y, forms = targets(A, "upper", pairs, dtype)
    if rows != "upper":
        forms = {name: form for name, form in forms.items() if "triu" not in name}
        forms = {name: form for name, form in forms.items() if name != "Y cool"}
    if uplo == "L" and rows == "upper":
        forms |= {f"tril(Y) {name}": (KINDS[name], np.tril(Y)) for name in LOWER}
    wanted = oracle.least_squares(A.tolist(), Y.tolist(), x, v, pairs)
    wrong, refused = [], []
    for name, (make_target, B) in forms.items():

        def make(make_target=make_target, B=B):
            target = make_target(kinds, B)
            return LeastSquares(
                given(kinds, kind, A, uplo), target, rows=rows, order=order, uplo=uplo
            )

        if is_refused(kinds, kind, rows, uplo, make):
            return
        try:
            problem = make()
        except ValueError as error:
            refused.append((name, str(error)))
            continue
        cost, gradient = problem.value_and_grad(point)
        found = cost, gradient, problem.hessp(point, direction)
        exact = [agree(a, b) for a, b in zip(found, wanted, strict=False)]
        exact.append(agree(problem.hess(point).toarray() @ direction, wanted[2]))
        if not all(exact):
            wrong.append((name, exact))
    print(f"{len(forms)} combinations, {len(refused)} refused, {len(wrong)} wrong")
    assert not wrong
    known = f"{REFUSED}|rows must be .upper. for an A that is read from disk"
    assert not [case for case in refused if not re.search(known, case[1])]
    assert len(refused) < len(forms)
    if kind in MEMORY:
        names = ("Y vector", "Y strided vector", *(f"Y {name}" for name in MEMORY))
        assert not [name for name, _ in refused if name in names]


LOWER = ("C", "csr", "npy", "npy in columns", "mapped csc", "function")
A3 = np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 5.0], [3.0, 5.0, 6.0]])


def test_the_default_rows_are_those_of_the_triangle():
    builder = JacobianBuilder(np.triu(A3), uplo="U")
    assert builder.shape == (6, 3)
    assert agree(builder.value([1.0, 1.0, 1.0]), [1, 2, 3, 4, 5, 6])
    assert LeastSquares(np.tril(A3), A3, uplo="L").shape == (6, 3)


@pytest.mark.parametrize("make", [np.asarray, scipy.sparse.csr_array, scipy.sparse.csc_array])
@pytest.mark.parametrize("uplo", ["U", "L"])
def test_fit_reads_one_triangle(uplo, make):
    Y = A3 * np.outer([1, 2, 3], [1, 2, 3])
    for target in (Y, TRIANGLE[uplo](Y)):
        result = fit(make(TRIANGLE[uplo](A3)), make(target), uplo=uplo, tol=1e-12)
        assert np.allclose(result.x, [1, 2, 3])
        assert result.status == 1


@pytest.mark.parametrize("rows", ROWS)
def test_entries_outside_the_triangle(rows):
    S = scipy.sparse.csr_array(A3)
    with pytest.raises(
        ValueError, match=r'uplo="U" is for an A that holds one triangle only.*3 ent'
    ):
        JacobianBuilder(S, uplo="U", rows=rows)
    zeros = S.copy()
    zeros[1, 0] = zeros[2, 0] = zeros[2, 1] = 0
    assert zeros.nnz == 9
    assert agree(
        JacobianBuilder(zeros, uplo="U", rows=rows).value(np.ones(3)),
        JacobianBuilder(scipy.sparse.csr_array(A3), rows=rows).value(np.ones(3)),
    )
    before = A3.copy()
    JacobianBuilder(before, uplo="L", rows=rows)
    assert agree(before, A3)


def test_uplo_has_two_values():
    with pytest.raises(ValueError, match="uplo must be one of 'U', 'L', got 'upper'"):
        JacobianBuilder(A3, uplo="upper")


def test_duplicates_of_a_small_target_do_not_overflow():
    A = np.array([[1.0, 2.0], [2.0, 3.0]])
    Y = scipy.sparse.coo_array((np.array([100, 100], np.int8), ([0, 0], [1, 1])), shape=(2, 2))
    problem = LeastSquares(scipy.sparse.csr_array(np.triu(A)), Y, uplo="U")
    assert agree(problem.fun(np.ones(2)), [1, 2 - 200, 3])


@pytest.mark.parametrize("rows", ["stored", "all"])
def test_a_target_that_is_a_triangle_must_be_completed(rows):
    with pytest.raises(ValueError, match=r"Y must be whole for rows=.*pass Y \+ triu\(Y, 1\)\.T"):
        LeastSquares(np.triu(A3), np.triu(A3), uplo="U", rows=rows)
    with pytest.raises(ValueError, match=r"Y must be whole for rows=.*pass Y \+ tril\(Y, -1\)\.T"):
        LeastSquares(np.tril(A3), scipy.sparse.csr_array(np.tril(A3)), uplo="L", rows=rows)
    assert LeastSquares(np.triu(A3), np.diag(np.ones(3)), uplo="U", rows=rows).shape == (9, 3)


def test_a_target_is_looked_at_before_it_is_read():
    for Y, message in (
        (np.ma.masked_array(A3, A3 > 5), "Y is a masked array, and its mask would be lost"),
        (np.ones((2, 3)), "Y must be a 3x3 matrix as A is"),
        (A3 * 1j, "least squares is for real numbers, and Y is complex128"),
    ):
        for options in ({"rows": "upper"}, {"uplo": "U"}):
            with pytest.raises((ValueError, TypeError), match=message):
                LeastSquares(A3, Y, **options)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("rows", ["stored", "all"])
def test_the_place_of_a_nan_is_one_of_the_triangle(rows, order):
    B = np.triu(A3)
    B[0, 1] = np.nan
    with pytest.raises(ValueError, match=r"A\[0, 1\] = nan"):
        JacobianBuilder(B, uplo="U", rows=rows, order=order)
    with pytest.raises(ValueError, match=r"A\[1, 0\] = nan"):
        JacobianBuilder(B.T, uplo="L", rows=rows, order=order)


def test_a_symmetric_target_that_is_asymmetric():
    Y = A3.copy()
    Y[0, 1] = 9
    with pytest.raises(ValueError, match="Y must be symmetric or zero below its diagonal"):
        LeastSquares(np.triu(A3), Y, uplo="U")


@pytest.mark.parametrize("name", ["C", "F", "npy", "npy in columns", "function", "csr", "folder"])
@pytest.mark.parametrize("uplo", ["U", "L"])
def test_zeros_that_a_stores_outside_its_triangle(kinds, uplo, name):
    """They are neither places for numbers of Y, nor do they make up for one that has no place."""
    A = scipy.sparse.csr_array(A3)
    A.data[:] = TRIANGLE[uplo](A3).ravel()
    assert A.nnz == 9
    x = np.array([1.0, 2.0, 3.0])
    problem = LeastSquares(A, KINDS[name](kinds, A3), uplo=uplo)
    assert problem.cost(x) == 0.5 * np.sum((A3 * np.outer(x, x) - A3)[np.triu_indices(3)] ** 2)
    for place in ((0, 1), (0, 2), (1, 2)):  # not stored, but its mirror image is, as a zero
        i, j = place if uplo == "U" else place[::-1]
        stored = np.ones((3, 3), bool)
        stored[i, j] = False
        holes = scipy.sparse.csr_array((A.toarray()[stored], np.nonzero(stored)), shape=(3, 3))
        assert holes.nnz == 8
        with pytest.raises(ValueError, match="Y has 1 entries that are not zero where A stores"):
            LeastSquares(holes, KINDS[name](kinds, A3), uplo=uplo).cost(x)


@pytest.mark.parametrize("dtype", [">f8", ">i2", *slow(">c8")])
@pytest.mark.parametrize("name", ["npy", "npy in columns", "memmap", "function", "zarr"])
@pytest.mark.parametrize("uplo", [None, "U"])
def test_upper_rows_of_numbers_in_another_byte_order(kinds, uplo, name, dtype):
    x = np.array([1.0, 2.0, 3.0])
    options = {"rows": "upper", "order": "F" if name == "npy in columns" else "C"}
    builder = JacobianBuilder(KINDS[name](kinds, A3.astype(dtype)), uplo=uplo, **options)
    whole = JacobianBuilder(A3, **options)
    assert agree(builder.tocsr(x).toarray(), whole.tocsr(x).toarray())
    assert agree(builder.row_pairs(), whole.row_pairs())


def test_the_structure_of_a_dense_matrix_is_not_read():
    calls = []

    def rows(start, stop):
        calls.append((start, stop))
        return A3[start:stop]

    builder = JacobianBuilder(rows, rows="upper")
    calls.clear()
    builder.row_pairs()
    assert not calls
    builder.tocsr([1.0, 2.0, 3.0])
    assert sum(stop - start for start, stop in calls) == 3


@pytest.mark.parametrize("name", ["C", "csr", "npy", "npy in columns", "folder", "function"])
@pytest.mark.parametrize("held", ["U", "L"])
@pytest.mark.parametrize("uplo", ["U", "L"])
@pytest.mark.parametrize("rows", ["stored", "all"])
def test_a_target_that_holds_one_triangle(kinds, rows, uplo, held, name):
    Y = KINDS[name](kinds, TRIANGLE[held](A3))
    side = "upper" if held == "U" else "lower"
    with pytest.raises(ValueError, match=f"Y must be whole for .* holds its {side} triangle only"):
        LeastSquares(TRIANGLE[uplo](A3), Y, rows=rows, uplo=uplo)


@pytest.mark.parametrize("name", ["C", "npy", "npy in columns"])
def test_a_target_with_entries_next_to_the_diagonal_alone(kinds, name):
    """They are enough to see which triangle it holds. A NaN is found after that."""
    Y = np.eye(K) + np.eye(K, k=1)
    for upper, side in ((Y, "upper"), (Y.T, "lower")):
        with pytest.raises(ValueError, match=f"Y must be whole .* its {side} triangle only"):
            LeastSquares(np.ones((K, K)), KINDS[name](kinds, upper), rows="all", uplo="U")
    Y[1, 0] = Y[0, 1] = np.nan
    with pytest.raises(ValueError, match="Y must be finite"):
        LeastSquares(np.ones((K, K)), KINDS[name](kinds, Y), rows="all", uplo="U").cost(np.ones(K))


def test_a_contact_map_as_a_target_holds_one_triangle(kinds):
    with pytest.raises(ValueError, match=r"Y must be whole for .* holds its upper triangle only"):
        LeastSquares(A3, kinds.cool(A3.astype(int)), rows="all")


@pytest.mark.parametrize("name", ["C", "csr", "npy", "folder", "function"])
@pytest.mark.parametrize("uplo", [None, "U"])
def test_a_lower_target_where_the_upper_triangle_is_read(kinds, uplo, name):
    A, expected = kinds.npy(A3), LeastSquares(A3, A3, rows="upper").cost([1.0, 2.0, 3.0])
    for own in (A3, A):
        with pytest.raises(ValueError, match=r"holds its lower triangle only: pass Y\.T"):
            LeastSquares(own, KINDS[name](kinds, np.tril(A3)), rows="upper", uplo=uplo)
        problem = LeastSquares(own, KINDS[name](kinds, np.tril(A3).T), rows="upper", uplo=uplo)
        assert problem.cost([1.0, 2.0, 3.0]) == expected


@pytest.mark.parametrize("order", ORDERS)
def test_a_lower_target_of_a_whole_matrix(kinds, order):
    """It is refused along whichever axis it is read."""
    with pytest.raises(ValueError, match=r"holds its lower triangle only: pass Y\.T"):
        LeastSquares(kinds.npy(A3), kinds.npy(np.tril(A3)), rows="upper", order=order)


@pytest.mark.parametrize("order", ORDERS)
def test_an_upper_target_where_the_lower_triangle_is_read(kinds, order):
    A, Y = kinds.npy(np.tril(A3)), np.triu(A3)
    with pytest.raises(
        ValueError, match=r"reads the lower triangles .* write Y \+ triu\(Y, 1\)\.T"
    ):
        LeastSquares(A, kinds.npy(Y), uplo="L", order=order)
    assert (
        LeastSquares(A, kinds.npy(Y + np.triu(Y, 1).T), uplo="L", order=order).cost(np.ones(3)) == 0
    )
