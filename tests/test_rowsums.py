"""Tests of the row sums of F and their Jacobian against a matrix that the tests build.

The numbers are integers, so the results are equal bit for bit.
"""

import copy
import itertools
import pickle
import sys

import numpy as np
import pytest
import scipy.sparse
from support import SIZES, assert_same, compare, integers, matrix, slow_except

from sparsejac import JacobianBuilder, RowSums, symmetric_scaling

FORMS = ["C", "F", "strided", "csr", "csc", "coo"]
PARTS = {
    "all": {},
    "off the diagonal": {"ignore_diags": 1},
    "off three diagonals": {"ignore_diags": 2},
    "far away": {"ignore_diags": 60},
    "within": {"pairs": "within"},
    "between": {"pairs": "between"},
    "within, off the diagonal": {"pairs": "within", "ignore_diags": 1},
    "between, far": {"pairs": "between", "ignore_diags": 3},
}


class Uncertain:
    """A label like pandas.NA. It does not tell whether it differs from another label."""

    __hash__ = None

    def __ne__(self, other):
        raise TypeError("boolean value of NA is ambiguous")

    __eq__ = __ne__


def groups_of(k):
    """Make groups of neighbouring rows, of all sizes, also of one row."""
    return np.repeat(list("abcdefghijklm"), [1, 2, 1, 4, 1, 9, 3, 1, 6, 1, 1, 17, 30])[:k]


def meant(A, uplo, part):
    """Build the symmetric matrix with zeros for entries that do not count.

    This uses no code of the library.
    """
    B = np.array(A.toarray() if scipy.sparse.issparse(A) else A, np.float64)
    if uplo is not None:
        B = np.triu(B) if uplo == "U" else np.tril(B)
        B = B + B.T - np.diag(np.diag(B))
    k = len(B)
    labels, result = groups_of(k), np.zeros((k, k))
    for i in range(k):
        for j in range(k):
            far = abs(i - j) >= part.get("ignore_diags", 0)
            pair = part.get("pairs", "all")
            if far and (pair == "all" or (labels[i] == labels[j]) == (pair == "within")):
                result[i, j] = B[i, j]
    return result


def given(k, form, uplo, dtype=np.float64):
    """Make a symmetric matrix of small integers that are not negative, or one triangle of it."""
    dense = form in ("C", "F", "strided")
    A = matrix(k, "C" if dense else "csr", dtype=dtype, symmetric=True)
    A = abs(A)
    if dense:
        B = (
            A
            if uplo is None
            else np.triu(A) + 7 * np.tril(A, -1)
            if uplo == "U"
            else np.tril(A) + 7 * np.triu(A, 1)
        )
        B = B.astype(dtype)
        return (
            np.asfortranarray(B)
            if form == "F"
            else np.repeat(B, 2, axis=1)[:, ::2]
            if form == "strided"
            else B
        )
    part = A if uplo is None else scipy.sparse.triu(A) if uplo == "U" else scipy.sparse.tril(A)
    return getattr(scipy.sparse.csr_array(part), f"to{form}")()


@pytest.mark.parametrize("uplo", [None, "U", "L"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("k", SIZES)
def test_value_and_nonzeros(k, form, uplo):
    A = given(k, form, uplo)
    before = copy.deepcopy(A)
    x = integers((k,), seed=3)
    for part in PARTS.values():
        B = meant(A, uplo, part)
        sums = RowSums(A, uplo=uplo, groups=groups_of(k), **part)
        assert_same(sums.value(x), x * (B @ x))
        assert_same(sums.nonzeros(), (B != 0).sum(axis=1))
        assert sums.shape == (k, k)
        assert repr(sums) == f"<RowSums: {k}x{k}, {sums.nnz} entries read>"
    assert_same(A, before.toarray() if scipy.sparse.issparse(before) else before)


@pytest.mark.parametrize("part", PARTS.values(), ids=list(PARTS))
@pytest.mark.parametrize("form", ["C", "csr"])
def test_operator(form, part):
    A = given(23, form, None)
    B, x = meant(A, None, part), integers((23,), seed=4)
    sums = RowSums(A, groups=groups_of(23), **part)
    J, dense = sums.operator(x), np.diag(B @ x) + x[:, np.newaxis] * B
    compare(J, dense)
    assert_same(J.toarray(), dense)
    assert_same(J.diagonal(), dense.diagonal())
    z = integers((23, 2), np.complex128)
    assert_same(J @ z, dense @ z)
    if form == "csr":
        assert_same(J.tocsr(), dense)
        assert J.tocsr().has_canonical_format
    else:
        with pytest.raises(
            TypeError, match=r"tocsr is for a sparse A, and this A is dense: toarray\(\)"
        ):
            J.tocsr()


def test_quadratic():
    """``r(x + h) - r(x - h) = 2 J(x) h``, and r is the row sums of JacobianBuilder's F."""
    A = given(50, "csr", None)
    sums, x, h = RowSums(A), integers((50,), seed=1), integers((50,), seed=2)
    assert_same(sums.value(x + h) - sums.value(x - h), 2 * (sums.operator(x) @ h))
    assert_same(sums.value(x), JacobianBuilder(A.toarray()).value(x).reshape(50, 50).sum(axis=1))


@pytest.mark.parametrize(
    ("form", "dtype"),
    slow_except(
        [
            *itertools.product(["C", "F", "csr"], [np.bool_, np.uint8, np.int64, np.dtype(">f8")]),
            ("F", np.float32),
        ],
        itertools.product(
            ["C", "F", "csr"],
            [np.bool_, np.uint8, np.int32, np.int64, np.float32, np.dtype(">f8")],
        ),
    ),
)
def test_dtypes_are_read_as_they_are(form, dtype):
    A = given(23, form, "U")
    if form == "csr":  # SciPy does not convert to a foreign byte order
        A.data = A.data.astype(dtype)
    else:
        A = A.astype(dtype)
    sums = RowSums(A, uplo="U")
    assert np.shares_memory(sums._products._source.values, A.data if form == "csr" else A)
    x = integers((23,), seed=5)
    exact = given(23, form, "U").astype(np.float64)
    if dtype == np.bool_:
        exact = exact != 0
    assert_same(sums.value(x), x * (meant(exact, "U", {}) @ x))
    assert sums.value(x.astype(np.float32)).dtype == np.float64


@pytest.mark.parametrize("form", ["C", "csr"])
def test_workers_change_no_bit(form):
    A = np.random.default_rng(0).random((2500, 2500))
    A = A + A.T if form == "C" else scipy.sparse.csr_array(A + A.T)
    x = np.random.default_rng(1).random(2500)
    one, two = (RowSums(A, workers=workers).value(x) for workers in (1, 2))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(one, x * (A @ x), rtol=1e-12)


@pytest.mark.slow  # unpickled row sums compile kernels of their own
def test_pickles():
    sums = pickle.loads(pickle.dumps(RowSums(given(7, "csr", "U"), uplo="U", ignore_diags=1)))
    x = integers((7,), seed=1)
    assert_same(sums.value(x), RowSums(given(7, "csr", "U"), uplo="U", ignore_diags=1).value(x))
    J = pickle.loads(pickle.dumps(sums.operator(x)))
    assert_same(J @ x, sums.operator(x) @ x)


@pytest.mark.parametrize("form", ["C", "csr"])
def test_changed_values_are_seen(form):
    A, x = given(7, form, None), integers((7,), seed=1)
    sums = RowSums(A)
    if form == "C":
        A *= 2
    else:
        A.data *= 2
    assert_same(sums.value(x), x * (A @ x))
    assert len(pickle.dumps(sums)) < len(pickle.dumps(A)) + 1500  # A is pickled once


def test_zeros_that_only_one_side_stores():
    A = scipy.sparse.csr_array(([1.0, 1, 1, 0], ([0, 1, 1, 2], [1, 0, 1, 1])), shape=(4, 4))
    assert A.nnz == 4
    assert_same(RowSums(A).value(np.ones(4)), np.array([1.0, 2, 0, 0]))
    blocks = scipy.sparse.bsr_array(np.triu(np.ones((4, 4))), blocksize=(2, 2))
    assert_same(RowSums(blocks, uplo="U").value(np.ones(4)), np.full(4, 4.0))
    A.data[3] = 5
    with pytest.raises(ValueError, match=r"A must be symmetric, but A\[(1, 2|2, 1)\] != "):
        RowSums(A)


def test_what_is_beside_a_triangle_is_not_read():
    for A, uplo in [([[1.0, 2.0], [np.nan, 3.0]], "U"), ([[1.0, -np.inf], [2.0, 3.0]], "L")]:
        assert_same(RowSums(A, uplo=uplo).value(np.ones(2)), np.array([3.0, 5.0]))
        assert_same(
            RowSums(np.asfortranarray(A), uplo=uplo).value(np.ones(2)), np.array([3.0, 5.0])
        )
        assert symmetric_scaling(A, uplo=uplo).success


def test_any_number_of_diagonals():
    for many in (3, 2**40, sys.maxsize, 2**70):
        assert_same(RowSums(np.ones((3, 3)), ignore_diags=many).value(np.ones(3)), np.zeros(3))


def test_nan_and_infinity_if_they_are_wanted():
    sums = RowSums(np.array([[1.0, np.nan], [np.nan, 2.0]]), check_finite=False)
    np.testing.assert_array_equal(sums.value([1.0, 0.0]), [np.nan, np.nan])
    np.testing.assert_array_equal(sums.operator([1.0, 0.0]).diagonal(), [np.nan, np.nan])


S = scipy.sparse.csr_array(np.array([[0.0, 2.0], [2.0, 1.0]]))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([[1.0, 2.0], [3.0, 4.0]],), ValueError,
         r'A must be symmetric, but A\[0, 1\] != A\[1, 0\].*uplo="U"'),
        ((np.eye(2) * 1j,), TypeError, "RowSums is for real numbers, and A is complex128"),
        ((np.ones((2, 3)),), ValueError, "A must be a square matrix"),
        (([[np.nan]],), ValueError, r"A must be finite, but A\[0, 0\] = nan"),
        ((S, {"uplo": "U"}), ValueError,
         r'uplo="U" is .* it has 1 entries below its diagonal: .*scipy.sparse.triu\(A\)'),
        ((S, {"uplo": "L"}), ValueError,
         r'uplo="L" is .* it has 1 entries above its diagonal: .*scipy.sparse.tril\(A\)'),
        ((S, {"uplo": "X"}), ValueError, "uplo must be one of 'U', 'L', got 'X'"),
        ((S, {"pairs": "cis"}), ValueError,
         "pairs must be one of 'all', 'within', 'between', got 'cis'"),
        ((S, {"pairs": "within"}), ValueError, 'pairs="within" needs groups'),
        ((S, {"groups": "ab"}), ValueError,
         r"groups must be a label for each of the 2 rows, .* shape \(\)"),
        ((np.eye(3), {"groups": ["a", "b", "a"]}), ValueError,
         "must be neighbours, but group 'a' begins again at row 2"),
        ((np.eye(3), {"groups": [1, 2, 1]}), ValueError,
         "must be neighbours, but group 1 begins again at row 2"),
        ((np.eye(2), {"groups": [[1], [2, 3]]}), ValueError,
         "groups must be labels that can be compared"),
        ((np.eye(3), {"groups": [1.0, 1.0, np.nan]}), ValueError,
         (r"groups must be a label for each row, but that of row 2 is missing \(NaN, NaT, or "
          r"masked\)")),
        ((np.eye(3), {"groups": [np.nan] * 3}), ValueError, "that of row 0 is missing"),
        ((np.eye(3), {"groups": ["a", float("nan"), "b"]}), ValueError, "that of row 1 is missing"),
        ((np.eye(3), {"groups": ("a", np.float32("nan"), "b")}), ValueError,
         "that of row 1 is missing"),
        ((np.eye(3), {"groups": np.array(["a", "a", np.nan], object)}), ValueError,
         "that of row 2 is missing"),
        ((np.eye(2), {"groups": np.array(["2001-01-01", "NaT"], "M8[D]")}), ValueError,
         "that of row 1 is missing"),
        ((np.eye(4), {"groups": ["a", "a", None, None]}), ValueError,
         r"that of row 2 is missing \(None\): give such rows"),
        ((np.eye(2), {"groups": np.array([1, None], object)}), ValueError,
         r"that of row 1 is missing \(None\)"),
        ((np.eye(2), {"groups": [("a", 1), ("a", 2)]}), ValueError,
         "but that of row 0 is a tuple: give each group a number"),
        ((np.eye(2), {"groups": [1, ("a", 2)]}), ValueError, "but that of row 1 is a tuple"),
        ((np.eye(2), {"groups": np.array([{}, {1: 2}], object)}), ValueError,
         "labels that can be compared, .*: unhashable"),
        ((np.eye(2), {"groups": [1, Uncertain()]}), ValueError, "that of row 1 is missing"),
        ((np.eye(2), {"groups": np.ma.array([1, 2], mask=[False, True])}), ValueError,
         "that of row 1 is missing"),
        ((S, {"ignore_diags": -1}), ValueError,
         "ignore_diags must be an integer, 0 or more, got -1"),
        ((S, {"ignore_diags": 1.5}), TypeError,
         r"ignore_diags must be an integer, 0 or more, got 1.5 \(float\)"),
        ((S, {"workers": 0}), ValueError, "workers must be a positive integer"),
        ((S, {"check_finite": 1}), TypeError, "check_finite must be True or False"),
    ],
)  # fmt: skip
def test_errors(arguments, error, message):
    A, options = (*arguments, {})[:2]
    with pytest.raises(error, match=message):
        RowSums(A, **options)


def test_errors_of_x():
    sums = RowSums(S)
    for method in (sums.value, sums.operator):
        with pytest.raises(
            ValueError, match=r"x must be a vector of length 2, as A is 2x2, got .* shape \(3,\)"
        ):
            method(np.ones(3))
        with pytest.raises(ValueError, match="x must be finite"):
            method([1.0, np.nan])
        with pytest.raises(TypeError, match="RowSums is for real numbers, and x is complex128"):
            method([1.0, 1j])


def test_too_large_for_memory(monkeypatch):
    monkeypatch.setattr("sparsejac._system.machine.available_memory", lambda: 1000)
    monkeypatch.setattr("sparsejac._validation.LARGE", 1)
    with pytest.raises(
        MemoryError, match="the 100x100 array, while it is made, would take 120000 bytes"
    ):
        RowSums(np.eye(100)).operator(np.ones(100)).toarray()
