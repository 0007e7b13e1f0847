"""The largest absolute values of the rows and columns of F, against a dense loop."""

import numpy as np
import pytest
import scipy.sparse
from kinds import KINDS, Kinds, numbers

from sparsejac import JacobianBuilder

X = np.array([1.0, -2.0, 0.5, 3.0, -1.0, 2.0])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("rows", ["all", "stored", "upper"])
@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"cool"}))
def test_every_kind_of_matrix(tmp_path, kind, rows, order):
    A, _ = numbers(rows, kind, np.float64)
    builder = JacobianBuilder(KINDS[kind](Kinds(tmp_path), A), rows=rows, order=order)
    F = np.abs(A * np.outer(X, X))
    i, j = builder.max_abs(X)
    np.testing.assert_array_equal(i, F.max(axis=1))
    np.testing.assert_array_equal(j, F.max(axis=0))


@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_array])
@pytest.mark.parametrize("uplo", ["U", "L"])
def test_one_triangle_stands_for_both(form, uplo):
    A, _ = numbers("upper", "C", np.float64)
    held = form(np.triu(A) if uplo == "U" else np.tril(A))
    for found in JacobianBuilder(held, uplo=uplo).max_abs(X):
        np.testing.assert_array_equal(found, np.abs(A * np.outer(X, X)).max(axis=0))


@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_array])
@pytest.mark.parametrize("workers", [1, 2])
def test_nan_wins_in_every_row_of_a_group(form, workers):
    """Enough entries for several partial results."""
    A = np.random.default_rng(0).random((1100, 1100))
    A[[5, 1098], [900, 2]] = np.nan
    found = JacobianBuilder(form(A), check_finite=False, workers=workers).max_abs(np.ones(1100))
    for axis, largest in zip((1, 0), found, strict=True):
        np.testing.assert_array_equal(largest, A.max(axis=axis))


@pytest.mark.parametrize("dtype", ["f4", pytest.param("c16", marks=pytest.mark.slow)])
def test_results_are_real(dtype):
    A, _ = numbers("all", "C", dtype)
    A = A * np.array(1 if dtype == "f4" else 1j, dtype)
    i, j = JacobianBuilder(A).max_abs(X.astype("f4"))
    assert i.dtype == j.dtype == A.real.dtype
    np.testing.assert_allclose(i, np.abs(A * np.outer(X, X)).max(axis=1), rtol=1e-6)
