"""Rows that are not in memory: the same results as in memory, from every source, in blocks of every
size.
"""

import gc
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time

import h5py
import numpy as np
import pytest
import scipy.sparse
from kinds import Sliced
from support import integers, matrix, slow

from sparsejac import JacobianBuilder, LeastSquares, RowSums, fit, io, symmetric_scaling
from sparsejac._backends import budget as _budget
from sparsejac._backends import stream as _stream
from sparsejac._backends import stream_pass as _stream_pass
from sparsejac._matrix import dense as _dense
from sparsejac._matrix import numbers as _numbers
from sparsejac._matrix import registry as _registry
from sparsejac.testing import check_jacobian

K = 23
x = integers((K,), seed=1)
v = integers((K,), seed=2)


class Sources:
    """Matrices as sources of each kind, in a folder."""

    def __init__(self, folder):
        self.folder, self._count = folder, 0

    def path(self, suffix):
        self._count += 1
        return str(self.folder / f"{self._count}{suffix}")

    def npy(self, B, order="C"):
        np.save(path := self.path(".npy"), np.asarray(B, order=order))
        return path

    def fortran(self, B):
        return self.npy(B, "F")

    def memmap(self, B):
        return np.load(self.npy(B), mmap_mode="r")

    def part_of_a_memmap(self, B):
        framed = np.zeros((len(B) + 5, B.shape[1]), B.dtype)
        framed[3:-2] = B
        return self.memmap(framed)[3:-2]

    def function(self, B):
        return lambda start, stop: B[start:stop]

    def sliced(self, B):
        return Sliced(B)

    def hdf5(self, B):
        file = h5py.File(self.path(".h5"), "w")
        return file.create_dataset(
            "A", data=B, chunks=(min(5, len(B)), min(4, len(B))), compression="gzip"
        )

    def mapped(self, array):
        """A vector mapped from a file."""
        return np.load(self.npy(array), mmap_mode="r")

    def csr(self, B, format_="csr"):
        S = B if scipy.sparse.issparse(B) else getattr(scipy.sparse.coo_array(B), f"to{format_}")()
        arrays = tuple(map(self.mapped, (S.data, S.indices, S.indptr)))
        return getattr(scipy.sparse, f"{S.format}_array")(arrays, shape=S.shape)

    def csc(self, B):
        return self.csr(B.tocsc() if scipy.sparse.issparse(B) else B, "csc")

    def half_mapped(self, B):
        S = scipy.sparse.csr_array(B)
        return scipy.sparse.csr_array((self.mapped(S.data), S.indices, S.indptr), shape=S.shape)

    def folder_of_blocks(self, B):
        S = scipy.sparse.csr_array(B)
        path = self.path("")
        io.write_csr_blocks(
            path, ((i, S[i : i + 6]) for i in range(0, S.shape[0], 6)), shape=S.shape
        )
        return path


DENSE = ["npy", "fortran", "memmap", "part_of_a_memmap", "function", "sliced", "hdf5"]
SPARSE = ["csr", "csc", "half_mapped", "folder_of_blocks"]


@pytest.fixture
def sources(tmp_path):
    return Sources(tmp_path)


@pytest.fixture(params=[7, *slow(1, K)])
def block(request, monkeypatch):
    """Blocks of so many rows of a dense float64 A."""
    monkeypatch.setattr(_budget, "BLOCK", request.param * K * 8)


def same(actual, expected):
    if scipy.sparse.issparse(expected):
        for name in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(actual, name), getattr(expected, name))
            assert getattr(actual, name).dtype == getattr(expected, name).dtype
    np.testing.assert_array_equal(
        *(B.toarray() if scipy.sparse.issparse(B) else np.asarray(B) for B in (actual, expected))
    )
    assert actual.dtype == expected.dtype


def compare_builders(streamed, there):
    """On integers everything is exact; what needs rows that the file does not have in its order is
    refused.
    """
    assert (streamed.shape, streamed.nnz, streamed.dtype) == (there.shape, there.nnz, there.dtype)
    m, sparse = there.shape[0], there._pattern.indices is not None
    w, V = integers((m,), seed=3), integers((K, 3), seed=4)
    one, other = streamed.operator(x), there.operator(x)
    same(one.column_norms(), other.column_norms())
    same(one.normal(0.5) @ v, other.normal(0.5) @ v)
    same(one.normal() @ V, other.normal() @ V)
    same(one.normal().diagonal(), other.normal().diagonal())
    same(one.normal().toarray(), other.normal().toarray())
    if sparse:
        same(one.normal().tocsr(), other.normal().tocsr())
    for s in (0, 5, K - 1):
        same(streamed.slice(x, s), there.slice(x, s))
    backward = {
        "rmatvec": lambda b: b.operator(x).T @ w,
        "rmatmat": lambda b: b.operator(x).T @ np.stack([w, 2 * w], 1),
        "hessian": lambda b: b.hessian(w) @ v,
        "hessian.toarray": lambda b: b.hessian(w).toarray(),
        "hessian.diagonal": lambda b: b.hessian(w).diagonal(),
    }
    forward = {
        "value": lambda b: b.value(x),
        "matvec": lambda b: b.operator(x) @ v,
        "matmat": lambda b: b.operator(x) @ V,
        "tocsr": lambda b: b.tocsr(x),
    }
    flipped = not streamed._rows.layout.rows_in_order
    for function in backward.values():
        if flipped and sparse:
            with pytest.raises(
                ValueError,
                match=r"A is stored by (rows|columns), and this needs its (rows|columns): take "
                r"order=",
            ):
                function(streamed)
        else:
            same(function(streamed), function(there))
    for function in forward.values():
        if flipped:
            with pytest.raises(
                ValueError,
                match=r'and this needs its (rows|columns): take order="(C|F)", with which',
            ):
                function(streamed)
        else:
            same(function(streamed), function(there))
    if not flipped:
        same(np.stack(streamed.row_pairs()), np.stack(there.row_pairs()))
        blocks = zip(
            streamed.iter_csr(x, block_rows=50), there.iter_csr(x, block_rows=50), strict=True
        )
        for (row, J), (expected_row, expected) in blocks:
            assert row == expected_row
            same(J, expected)
        J = streamed.tocsr(x)
        same(streamed.tocsr(v, out=J), there.tocsr(v))


@pytest.mark.parametrize("kind", DENSE)
@pytest.mark.parametrize("rows", ["all", "upper"])
def test_dense(sources, block, kind, rows):
    A = matrix(K, symmetric=rows == "upper")
    for order in ("C", "F"):
        streamed = JacobianBuilder(getattr(sources, kind)(A), rows=rows, order=order)
        assert (not streamed._rows.layout.rows_in_order) == (
            rows == "all" and (kind == "fortran") != (order == "F")
        )
        compare_builders(streamed, JacobianBuilder(A, rows=rows, order=order))


@pytest.mark.parametrize("kind", SPARSE)
@pytest.mark.parametrize("rows", ["all", "stored", "upper"])
def test_sparse(sources, block, kind, rows):
    A = matrix(K, "csr", symmetric=rows == "upper")
    for order in ("C", "F"):
        streamed = JacobianBuilder(getattr(sources, kind)(A), rows=rows, order=order)
        assert (not streamed._rows.layout.rows_in_order) == (
            rows != "upper" and (kind == "csc") != (order == "F")
        )
        compare_builders(streamed, JacobianBuilder(A, rows=rows, order=order))


def with_zeros(side):
    """A symmetric A that stores zeros on one side of the diagonal, or on both."""
    A = scipy.sparse.dok_array(matrix(K, "csr", symmetric=True))
    for i, j in ((1, 4), (3, 9), (3, 17)):
        assert not A[i, j]
        A[i, j] = A[j, i] = 7
    A = scipy.sparse.coo_array(A)
    i, j = A.coords
    is_zero = A.data == 7
    A.data[is_zero] = 0
    dropped = {"upper": i > j, "lower": i < j, "both": i < 0, "crossed": (i < j) == (i + j < 18)}
    kept = ~(is_zero & dropped[side])
    return scipy.sparse.csr_array((A.data[kept], (i[kept], j[kept])), shape=A.shape)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("rows", ["upper", *slow("all", "stored")])
@pytest.mark.parametrize("side", ["upper", "lower", "both", "crossed"])
@pytest.mark.parametrize("kind", ["csc", *slow("csr", "half_mapped", "folder_of_blocks")])
def test_zeros_on_one_side(sources, kind, side, rows, order):
    """J has the same rows as for an A in memory, or A is refused."""
    A = with_zeros(side)
    there = JacobianBuilder(A, rows=rows, order=order)
    given = getattr(sources, kind)(A)
    if rows == "upper" and kind == "csc" and side != "both":
        with pytest.raises(ValueError, match="on one side of the diagonal only, in row and column"):
            JacobianBuilder(given, rows=rows, order=order)
        compare_builders(
            JacobianBuilder(given.T, rows=rows, order=order),
            JacobianBuilder(A.T.tocsr(), rows=rows, order=order),
        )
        return
    compare_builders(JacobianBuilder(given, rows=rows, order=order), there)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("side", ["upper", "lower"])
@pytest.mark.parametrize("uplo", ["U", "L"])
@pytest.mark.parametrize("kind", ["csc", *slow("csr", "half_mapped", "folder_of_blocks")])
def test_zeros_on_one_side_of_a_triangle(sources, kind, uplo, side, order):
    A = with_zeros(side)
    A = scipy.sparse.csr_array((scipy.sparse.triu if uplo == "U" else scipy.sparse.tril)(A))
    options = {"rows": "upper", "order": order, "uplo": uplo}
    streamed = JacobianBuilder(getattr(sources, kind)(A), **options)
    compare_builders(streamed, JacobianBuilder(A, **options))


def test_zeros_on_one_side_of_an_A_beside_a_streamed_Y(sources):
    """A is read along the columns of Y."""
    A, Y = with_zeros("upper"), matrix(K, "csr", symmetric=True)
    with pytest.raises(ValueError, match=r"on one side .* 1: pass A\.T, or store zeros on both"):
        LeastSquares(A, sources.csc(Y), rows="upper")
    both = with_zeros("both")
    there = LeastSquares(both, Y, rows="upper").value_and_grad(x)
    cost, grad = LeastSquares(both, sources.csc(Y), rows="upper").value_and_grad(x)
    assert cost == there[0]
    same(grad, there[1])


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", ">f8", *slow("int64", "float32", "complex64", "complex128")]
)
@pytest.mark.parametrize("kind", ["npy", "csr"])
def test_dtypes(sources, kind, dtype):
    A = matrix(K, "C" if kind == "npy" else "csr", dtype=np.dtype(dtype).newbyteorder("="))
    if kind == "npy":
        A = A.astype(dtype)
    streamed, there = (
        JacobianBuilder(getattr(sources, kind)(A), rows="stored"),
        JacobianBuilder(A, rows="stored"),
    )
    w = integers((there.shape[0],), seed=3)
    same(streamed.value(x), there.value(x))
    same(streamed.tocsr(x), there.tocsr(x))
    same(streamed.operator(x).H @ w, there.operator(x).H @ w)
    same(streamed.operator(x).normal() @ v, there.operator(x).normal() @ v)


@pytest.mark.parametrize("kind", ["npy", "fortran", "csr", "csc"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_pairs_of_all_rows_do_not_depend_on_the_order_of_the_file(sources, kind, order):
    A = matrix(K, "csr" if kind in SPARSE else "C")
    pairs = JacobianBuilder(getattr(sources, kind)(A), order=order).row_pairs()
    expected = np.divmod(np.arange(K * K), K)
    same(np.stack(pairs), np.stack(expected[:: 1 if order == "C" else -1]).astype(np.int32))


@pytest.mark.parametrize("k", [0, 1, 2])
def test_small(sources, k):
    A = matrix(k)
    for source in (sources.npy(A), sources.sliced(A), sources.fortran(A)):
        there, streamed = JacobianBuilder(A), JacobianBuilder(source)
        u = np.arange(1.0, k + 1)
        if streamed._rows.layout.rows_in_order:
            same(streamed.tocsr(u), there.tocsr(u))
        same(streamed.operator(u).column_norms(), there.operator(u).column_norms())


def test_a_function_of_a_matrix_without_rows():
    builder = JacobianBuilder(lambda i0, i1: np.empty((0, 0))[i0:i1])
    assert builder.shape == (0, 0)
    assert builder.value([]).shape == (0,)


def test_nan_in_the_triangle_of_y_that_is_not_read(sources):
    A, Y = np.ones((4, 4)), np.ones((4, 4))
    for bad in (np.nan, np.inf):
        Y[2, 1] = bad
        for there, target in (
            (A, sources.npy(Y)),
            (sources.npy(A), sources.npy(Y)),
            (sources.npy(A), scipy.sparse.csr_array(Y)),
        ):
            with pytest.raises(ValueError, match=rf"Y must be finite, but Y\[2, 1\] = {bad}"):
                LeastSquares(there, target, rows="upper")


def test_a_hint_about_dtypes_can_be_followed(sources):
    with pytest.raises(
        TypeError,
        match=r"what A returned for rows\(0, 1\) must have a dtype among .* got float16: convert "
        r"it to float64",
    ):
        JacobianBuilder(lambda i0, i1: np.ones((i1 - i0, 3), np.float16))
    with pytest.raises(
        TypeError, match=r"x_dtype must have a dtype among .* got float16: convert it to float64"
    ):
        JacobianBuilder(np.ones((2, 2))).csr_nbytes(np.float16)


def compare_problems(streamed, there, *, maps=True):
    cost, gradient = there.value_and_grad(x)
    assert streamed.cost(x) == cost
    same(streamed.grad(x), gradient)
    same(streamed.hess(x) @ v, there.hess(x) @ v)
    same(streamed.hess(x).toarray(), there.hess(x).toarray())
    same(streamed.hess(x).diagonal(), there.hess(x).diagonal())
    same(streamed.normal(x) @ v, there.normal(x) @ v)
    same(streamed.x_scale(x), there.x_scale(x))
    np.testing.assert_allclose(
        streamed._sums.beginning()[0], there._sums.beginning()[0], rtol=1e-14
    )
    assert streamed._sums.beginning()[1:] == there._sums.beginning()[1:]
    if maps:
        same(streamed.fun(x), there.fun(x))


@pytest.mark.parametrize(
    "y_kind", ["npy", "function", "hdf5", "csr", "ndarray", "sparse", "vector", "mapped vector"]
)
@pytest.mark.parametrize("kind", ["npy", "csr", "ndarray", "in memory"])
def test_least_squares(sources, monkeypatch, kind, y_kind):
    """A of every kind beside Y of every kind, of which one at least is not in memory."""
    monkeypatch.setattr(_budget, "BLOCK", 7 * K * 8)
    sparse = kind in ("csr", "in memory")
    for rows in ("stored", "upper"):
        A = matrix(K, "csr" if sparse else "C", symmetric=rows == "upper")
        Y = np.array(integers((K, K), seed=9))
        if rows == "upper":
            Y += Y.T
        if sparse:
            mask = A.copy()
            mask.data = np.ones(A.nnz)
            Y *= mask.toarray()
        if y_kind in ("ndarray", "sparse", "vector", "mapped vector"):
            vector = Y[JacobianBuilder(A, rows=rows).row_pairs()]
            forms = {"ndarray": Y, "sparse": scipy.sparse.csr_array(Y), "vector": vector}
            beside = sources.mapped(vector) if y_kind == "mapped vector" else forms[y_kind]
        else:
            beside = getattr(sources, y_kind)(Y)
        ours = A if kind in ("ndarray", "in memory") else getattr(sources, kind)(A)
        compare_problems(LeastSquares(ours, beside, rows=rows), LeastSquares(A, Y, rows=rows))


def test_least_squares_in_columns(sources, block):
    """Where a file has A's columns one after the other, costs and gradients take them as they are,
    and so they do of Y.
    """
    A, Y = matrix(K), integers((K, K), seed=9)
    for order in ("C", "F"):
        there = LeastSquares(A, Y, order=order)
        for beside in (
            sources.fortran(Y),
            Y,
            np.asfortranarray(Y),
            scipy.sparse.csr_array(Y),
            Y.ravel(order=order),
        ):
            compare_problems(
                LeastSquares(sources.fortran(A), beside, order=order), there, maps=order == "F"
            )
    for beside in (sources.npy(Y), sources.function(Y), sources.mapped(Y.ravel())):
        with pytest.raises(
            ValueError, match="Y must be stored as A is, which is read along its columns"
        ):
            LeastSquares(sources.fortran(A), beside)
    with pytest.raises(
        ValueError, match="which is read along its rows, but Y can be read only along its columns"
    ):
        LeastSquares(sources.npy(A), sources.fortran(Y))
    S = matrix(K, "csr")
    T = S * 2
    there = LeastSquares(S, T)
    compare_problems(LeastSquares(sources.csc(S), sources.csc(T)), there, maps=False)
    compare_problems(LeastSquares(sources.csc(S), T), there, maps=False)
    for beside in (sources.csr(T), there.fun(np.zeros(K))):
        with pytest.raises(ValueError, match="Y must be stored as A is"):
            LeastSquares(sources.csc(S), beside)


def test_y_beside_nothing(sources):
    """Numbers of Y where A stores none, and what is not finite, are found as they are read, and
    where they are is said.
    """
    A = matrix(K, "csr")
    i, j = (int(index[0]) for index in np.nonzero(A.toarray() == 0))
    Y = np.zeros((K, K))
    Y[i, j] = 3
    A.eliminate_zeros()
    for beside in (Y, sources.npy(Y), sources.csr(Y)):
        with pytest.raises(
            ValueError, match=rf"not zero where A stores none, the first at \({i}, {j}\)"
        ):
            LeastSquares(sources.csr(A), beside).cost(x)
    i, j = int(A.indices[0] * 0 + np.flatnonzero(np.diff(A.indptr))[0]), int(A.indices[0])
    Y = A.astype(float).copy()
    Y.data[0] = np.nan
    with pytest.raises(
        ValueError, match=rf"Y must be finite, but Y\[{i}, {j}\] = nan: leave out unknown"
    ):
        LeastSquares(sources.csr(A), sources.csr(Y)).cost(x)
    assert np.isnan(LeastSquares(sources.csr(A), sources.csr(Y), check_finite=False).cost(x))
    with pytest.raises(ValueError, match="Y must be a 23x23 matrix as A is, got 5x5"):
        LeastSquares(sources.csr(A), sources.npy(np.eye(5)))


def test_finiteness_is_found_in_the_pass(sources, block):
    A = np.ones((K, K))
    A[11, 4] = np.inf
    for kind in DENSE:
        with pytest.raises(
            ValueError, match=r"A must be finite, but A\[11, 4\] = inf: pass check_finite=False"
        ):
            JacobianBuilder(getattr(sources, kind)(A)).operator(x).column_norms()
        assert np.isinf(
            JacobianBuilder(getattr(sources, kind)(A), check_finite=False)
            .operator(x)
            .column_norms()
        ).any()
    with pytest.raises(ValueError, match=r"A must be finite, but A\[11, 4\] = inf"):
        JacobianBuilder(sources.csr(A)).operator(x).column_norms()
    # What is beside the triangle that counts is not looked at.
    A = np.triu(A)
    A[12, 4] = np.nan
    assert np.isfinite(RowSums(sources.npy(np.where(np.isinf(A), 0, A)), uplo="U").value(x)).all()


# --- rounding -------------------------------------------------------------------------------------


def sums_of(builder, problem, w):
    """{name: (sum, sum of the absolute values of its terms)} at positive A, Y, w and x, where each
    is its own bound.
    """
    at = np.linspace(0.5, 1.5, builder.shape[1])
    J = builder.operator(at)
    return {
        "Jᵀw": J.T @ w,
        "JᵀJ v": J.normal() @ at,
        "norms": J.column_norms() ** 2,
        "gradient": problem.grad(at),
        "M v": problem.hess(at) @ at,
    }


@pytest.mark.parametrize("kind", ["csr", *slow("npy")])
def test_sums_agree_to_rounding(sources, monkeypatch, kind):
    """``|Δ| ≤ 2 k ε Σ|terms|``: each of two sums of n ≤ 2 k terms is within n ε Σ|terms| of the
    exact one, whatever its order.
    """
    k = 300
    rng = np.random.default_rng(0)
    A = rng.random((k, k)) * (rng.random((k, k)) < (1 if kind == "npy" else 0.2))
    A = A if kind == "npy" else scipy.sparse.csr_array(A)
    Y = -A  # so that no term of the residuals has another sign
    there = JacobianBuilder(A, rows="stored")
    w = rng.random(there.shape[0])
    expected = sums_of(there, LeastSquares(A, Y), w)
    source, beside = getattr(sources, kind)(A), getattr(sources, kind)(Y)
    found = []
    for rows in (1, 7, k):
        monkeypatch.setattr(_budget, "BLOCK", rows * k * 8)
        for workers in (1, 2, 3):
            builder = JacobianBuilder(source, rows="stored", workers=workers)
            problem = LeastSquares(source, beside, workers=workers)
            found.append(sums_of(builder, problem, w))
            same(builder.value(w[:k]), there.value(w[:k]))
            for name, value in found[-1].items():
                assert (
                    abs(value - expected[name]) <= 2 * k * np.finfo(float).eps * expected[name]
                ).all(), name
        for name in expected:  # and whatever the number of workers, the same bits
            same(found[-1][name], found[-3][name])
            same(found[-2][name], found[-3][name])


# --- symmetric A ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DENSE + SPARSE)
def test_row_sums(sources, block, kind):
    S = matrix(K, "csr" if kind in SPARSE else "C", symmetric=True)
    labels = np.repeat(["a", "b", "c"], [9, 8, 6])
    for options in (
        {},
        {"ignore_diags": 2},
        {"groups": labels, "pairs": "within"},
        {"groups": labels, "pairs": "between"},
    ):
        streamed, there = RowSums(getattr(sources, kind)(S), **options), RowSums(S, **options)
        same(streamed.value(x), there.value(x))
        same(streamed.nonzeros(), there.nonzeros())
        same(streamed.operator(x) @ v, there.operator(x) @ v)
        same(streamed.operator(x).toarray(), there.operator(x).toarray())
        assert streamed.nnz == there.nnz
    for uplo, half in (("U", np.triu), ("L", np.tril)):
        one = scipy.sparse.csr_array(half(S.toarray())) if kind in SPARSE else half(S)
        same(RowSums(getattr(sources, kind)(one), uplo=uplo).value(x), RowSums(S).value(x))


@pytest.mark.parametrize("kind", ["npy", "function", *slow("csr")])
def test_what_is_not_symmetric(sources, kind):
    S = np.random.default_rng(0).random((K, K))
    S += S.T
    S[3, 17] *= 1 + 1e-9
    source = getattr(sources, kind)(S)
    with pytest.raises(
        ValueError,
        match=r"RowSums needs a symmetric A, but the products of row (3|17) and of column",
    ):
        RowSums(source)
    with pytest.raises(
        ValueError, match=r'rows="upper" needs a symmetric A, but the products of row'
    ):
        JacobianBuilder(source, rows="upper")
    if kind != "function":
        JacobianBuilder(getattr(sources, kind)(S * 1j + S * 1j), rows="all")
    S[17, 3] = S[3, 17]
    RowSums(getattr(sources, kind)(S))
    JacobianBuilder(getattr(sources, kind)(S * (1 + 2j)), rows="upper")


def test_five_eighths_of_a_file_are_read(sources, monkeypatch):
    """Of a symmetric A the other half is looked at once."""
    monkeypatch.setattr(_dense, "_SMALL", 0)
    monkeypatch.setattr(_budget, "BLOCK", 4 * K * 8)
    read = []
    fill = _numbers.FileNumbers.fill

    def counting(self, file, start, numbers):
        read.append(numbers.size)
        fill(self, file, start, numbers)

    monkeypatch.setattr(_numbers.FileNumbers, "fill", counting)
    S = matrix(K, symmetric=True)
    sums = RowSums(sources.npy(S))
    assert sum(read) == K * K
    for u in (x, v):
        read.clear()
        same(sums.value(u), u * (S @ u))
        assert sum(read) <= 5 / 8 * K * (
            K + 4
        )  # rows of which more than half is wanted are read whole


def positive(k, seed=0):
    points = np.random.default_rng(seed).random((k, 2))
    squared = ((points[:, np.newaxis] - points) ** 2).sum(axis=2)
    return np.exp(-squared / 0.1)


@pytest.mark.parametrize("kind", ["npy", "fortran", "function", "hdf5", "csr"])
def test_scaling(sources, block, kind):
    A = positive(K)
    streamed, there = symmetric_scaling(getattr(sources, kind)(A)), symmetric_scaling(A)
    assert streamed.success
    np.testing.assert_allclose(streamed.x, there.x, rtol=1e-6)
    np.testing.assert_allclose(streamed.x * (A @ streamed.x), 1, rtol=1.1e-8)
    A[5, 6] = A[6, 5] = -1
    with pytest.raises(
        ValueError, match=r"A must have no negative entries, but A\[(5, 6|6, 5)\] = -1"
    ):
        symmetric_scaling(getattr(sources, kind)(A))


def test_scaling_where_support_matters(sources):
    star = np.array([[0.0, 1, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]])
    assert symmetric_scaling(sources.npy(star), support="check").status == 4
    path = np.array([[0, 1.0, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0]])
    assert symmetric_scaling(sources.csr(path), support="check").status == 5
    with pytest.raises(
        ValueError,
        match='support="drop" leaves out 1 entries of A in a copy of it, and A is not in',
    ):
        symmetric_scaling(sources.csr(path), support="drop")
    with pytest.raises(MemoryError, match="the examination of A's support would take"):
        symmetric_scaling(
            sources.npy(np.ones((300, 300)) - np.eye(300)), support="check", memory=2_400_000
        )


# --- passes ---------------------------------------------------------------------------------------


def test_passes_are_few_and_counted(sources):
    A = positive(K)
    Y = A * np.outer(x + 5, x + 5)
    problem = LeastSquares(sources.npy(A), sources.npy(Y))
    place = problem.builder._rows
    assert place.passes == 0
    problem.value_and_grad(x)
    problem.x_scale(x)
    problem.hess(x).diagonal()
    assert place.passes == 1  # cost, gradient and diagonal of JᵀJ
    problem.hessp(x, v)
    assert place.passes == 2
    operator = JacobianBuilder(sources.npy(A)).operator(x)
    operator.column_norms()
    operator.normal()
    assert operator._rows.passes == 2


def test_solvers_count_their_passes(sources, monkeypatch):
    places = []
    made = _stream.StreamBackend.__init__

    def remembering(self, *args, **options):
        made(self, *args, **options)
        places.append(self)

    monkeypatch.setattr(_stream.StreamBackend, "__init__", remembering)
    A = positive(K)
    result = fit(sources.npy(A), sources.npy(A * np.outer(x + 5, x + 5)))
    assert result.success
    assert sum(place.passes for place in places) == result.nfev + result.n_products
    places.clear()
    result = symmetric_scaling(sources.npy(A))
    assert sum(place.passes for place in places) == result.n_products + 1  # the one that looks at A


def test_a_bar_is_shown_if_it_is_asked_for(sources, monkeypatch, capsys):
    monkeypatch.setattr(_stream_pass, "_DELAY", 0)
    A = matrix(K)
    threads = threading.active_count()
    JacobianBuilder(sources.npy(A)).operator(x).column_norms()
    assert capsys.readouterr().err == ""
    JacobianBuilder(sources.npy(A), progress=True).operator(x).column_norms()
    assert "squares" in capsys.readouterr().err
    assert threading.active_count() == threads


# --- memory ---------------------------------------------------------------------------------------


def test_a_budget_that_is_too_small_says_what_is_needed(sources):
    for source in (
        sources.npy(matrix(K)),
        sources.csr(matrix(K, "csr")),
        sources.function(matrix(K)),
    ):
        with pytest.raises(
            ValueError, match=r"memory must be at least (\d+) bytes .* of 23 rows"
        ) as error:
            JacobianBuilder(source, memory=100)
        needed = int(str(error.value).split("at least ")[1].split()[0])
        JacobianBuilder(source, memory=needed).operator(x).column_norms()
        with pytest.raises(ValueError, match="memory must be at least"):
            JacobianBuilder(source, memory=needed - 1)
    for bad in (0, -1):
        with pytest.raises(ValueError, match=f"memory must be a number of bytes, got {bad}"):
            JacobianBuilder(matrix(K), memory=bad)
    with pytest.raises(TypeError, match=r"memory must be a number of bytes, got '1G' \(str\)"):
        JacobianBuilder(matrix(K), memory="1G")


def test_anonymous_memory_stays_within_the_budget(tmp_path):
    """Of a matrix of 128 MiB, with Y beside it, under 24 MiB: everything that solvers ask for."""
    program = """
        import threading, time
        import numpy as np
        from sparsejac import JacobianBuilder, LeastSquares, RowSums, fit, symmetric_scaling

        def anonymous():
            with open("/proc/self/status") as file:
                found = next(line for line in file if line.startswith("RssAnon"))
                return int(found.split()[1]) * 1024

        def operations(A, Y, k, **budget):
            u = np.linspace(1, 2, k)
            problem = LeastSquares(A, Y, **budget)
            return {
                "gradient": lambda: problem.value_and_grad(u),
                "hessp": lambda: problem.hessp(u, u),
                "norms": lambda: problem.jac(u).column_norms(),
                "normal": lambda: problem.jac(u).normal() @ u,
                "row sums": lambda: RowSums(A, **budget).value(u),
                "scaling": lambda: symmetric_scaling(A, tol=1e-3, **budget),
                "fit": lambda: fit(A, Y, tol=1e-3, max_iter=3, **budget),
            }

        small = np.ones((64, 64))
        np.save("small.npy", small)
        for operation in operations("small.npy", "small.npy", 64).values():
            operation()  # loads and compiles

        k, budget = 4096, 24 * 2**20
        A = np.lib.format.open_memmap("A.npy", "w+", np.float64, (k, k))
        for i in range(0, k, 64):
            A[i : i + 64] = 1 / (1 + abs(np.arange(i, i + 64)[:, None] - np.arange(k)))
        del A
        before, most, over = anonymous(), 0, False

        def watch():
            global most
            while not over:
                most = max(most, anonymous())
                time.sleep(0.0005)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            for name, operation in operations("A.npy", "A.npy", k, memory=budget).items():
                most = 0
                operation()
                time.sleep(0.002)
                print(name, (most - before) / budget)
                assert most - before <= budget, (name, most - before, budget)
        finally:
            over = True
            watcher.join()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# --- what is passed in ----------------------------------------------------------------------------


def test_what_cannot_be_streamed(sources, tmp_path):
    for source, message in [
        (
            str(tmp_path / "A.mtx"),
            r"may be the path of a \.npy, a \.cool, or a folder of write_csr_blocks, got .*A\.mtx",
        ),
        (sources.npy(np.ones((3, 4))), r"A must be a square matrix, got shape \(3, 4\)"),
        (sources.npy(np.ones(4)), r"A must be a square matrix, got shape \(4,\)"),
        (Sliced(np.ones((3, 4))), r"A must be a square matrix, got shape \(3, 4\)"),
        (
            lambda i, j: np.ones(3),
            r"A must return rows 0 to 0 as an array of shape \(1, k\), got shape \(3,\)",
        ),
        (
            lambda i, j: np.ones((1, 4)),
            r"A must return rows 0 to 3 as an array of shape \(4, 4\), got shape \(1, 4\)",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            JacobianBuilder(source).operator(np.ones(4)).column_norms()
    with pytest.raises(FileNotFoundError, match="none"):
        JacobianBuilder(str(tmp_path / "none.npy"))
    (tmp_path / "text.npy").write_text("1 2 3")
    with pytest.raises(ValueError, match="does not start as an array of NumPy does"):
        JacobianBuilder(tmp_path / "text.npy")
    for source in (
        sources.npy(np.ones((3, 3), np.float16)),
        Sliced(np.ones((3, 3), np.longdouble)),
    ):
        with pytest.raises(TypeError, match="A must have a dtype among"):
            JacobianBuilder(source)
    with pytest.raises(TypeError, match="least squares is for real numbers, and A is complex128"):
        LeastSquares(sources.npy(np.eye(3) * 1j), np.eye(3))


def test_structures_that_cannot_be_read(sources):
    S = matrix(K, "csr")

    def mapped(data, indices, indptr):
        A = scipy.sparse.csr_array(S.shape)
        A.data, A.indices, A.indptr = sources.mapped(data), sources.mapped(indices), indptr
        return A

    row = int(np.flatnonzero(np.diff(S.indptr) > 1)[0])
    swapped, beyond = S.indices.copy(), S.indices.copy()
    first = int(S.indptr[row])
    swapped[[first, first + 1]] = swapped[[first + 1, first]]
    beyond[first] = K
    with pytest.raises(
        ValueError, match=f"in ascending order and none twice, which fails in row {row}"
    ):
        JacobianBuilder(mapped(S.data, swapped, S.indptr), rows="stored")
    with pytest.raises(ValueError, match=f"row {row} has an index outside 0 … 22"):
        JacobianBuilder(mapped(S.data, beyond, S.indptr), rows="stored")
    falling = S.indptr.copy()
    falling[5] = falling[-1]
    with pytest.raises(ValueError, match="indptr must rise from 0 to the"):
        JacobianBuilder(mapped(S.data, S.indices, falling), rows="stored")
    with pytest.raises(ValueError, match=f"indptr must rise from 0 to the {S.nnz - 1} values"):
        JacobianBuilder(mapped(S.data[:-1], S.indices, S.indptr), rows="stored")


def test_what_stays_in_memory():
    """Arrays that are no file's: a copy on write, a plain view of a map, and what NumPy calls a map
    of nothing.
    """
    assert _registry.stored_source("A", np.ones((3, 3))) is None
    assert _registry.stored_source("A", scipy.sparse.csr_array(np.eye(3))) is None


def test_copies_on_write_are_read_from_memory(sources):
    path = sources.npy(np.ones((3, 3)))
    A = np.load(path, mmap_mode="c")
    A[0, 0] = 5
    assert JacobianBuilder(A).value(np.ones(3))[0] == 5
    assert _registry.stored_source("A", np.asarray(np.load(path, mmap_mode="r"))) is None


@pytest.mark.parametrize("kind", ["csr", *slow("npy", "memmap", "folder_of_blocks")])
def test_pickles(sources, kind):
    S = matrix(K, "csr" if kind in SPARSE else "C", symmetric=True)
    source = getattr(sources, kind)(S)
    builder = JacobianBuilder(source, rows="upper", memory=2**22, workers=2)
    copy = pickle.loads(pickle.dumps(builder))
    assert repr(copy) == repr(builder)
    same(copy.tocsr(x), builder.tocsr(x))
    problem = LeastSquares(source, source)
    assert pickle.loads(pickle.dumps(problem)).cost(x) == problem.cost(x)
    same(pickle.loads(pickle.dumps(RowSums(source))).value(x), RowSums(source).value(x))


def test_nothing_is_left_behind(sources):
    """No thread and no open file, between passes and after them."""
    problem = LeastSquares(sources.npy(positive(K)), sources.npy(positive(K)))
    problem.cost(x)
    gc.collect()
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    threads = threading.active_count()
    for at in (x, v, x):
        problem.value_and_grad(at)
        assert threading.active_count() == threads
    if before:
        assert len(os.listdir("/proc/self/fd")) == before


def test_blocks_follow_the_chunks(sources, monkeypatch):
    monkeypatch.setattr(_budget, "BLOCK", 12 * K * 8)
    place = JacobianBuilder(sources.hdf5(matrix(K)))._rows  # chunks of 5 rows
    assert [rows for _, *rows in place._blocks((0, K), None)] == [[0, 10], [10, 20], [20, 23]]
    assert [rows for _, *rows in place._blocks((3, 12), None)] == [[3, 10], [10, 12]]


def test_a_function_is_called_in_order_and_never_twice_at_once():
    A, calls, inside = positive(60), [], threading.Lock()

    def rows(start, stop):
        assert inside.acquire(blocking=False)
        try:
            calls.append((start, stop))
            return A[start:stop]
        finally:
            inside.release()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_budget, "BLOCK", 7 * 60 * 8)
        builder = JacobianBuilder(rows)
        calls.clear()
        builder.operator(np.ones(60)).column_norms()
    assert calls == [(i, min(i + 7, 60)) for i in range(0, 60, 7)]


@pytest.mark.slow
def test_a_gaussian_kernel_is_scaled():
    """A matrix that exists only as a function, under a budget that would not hold it."""
    k = 1500
    points = np.random.default_rng(0).random((k, 3))

    def rows(start, stop):
        squared = ((points[start:stop, np.newaxis] - points) ** 2).sum(axis=2)
        return np.exp(-squared / 0.02)

    result = symmetric_scaling(rows, memory=4 * 2**20)
    assert result.success
    np.testing.assert_allclose(result.x * (rows(0, k) @ result.x), 1, rtol=1e-7)


def test_objects_that_are_not_what_they_say(sources):
    class Liar(Sliced):
        def __getitem__(self, rows):
            return self._B[rows].astype(complex)

    with pytest.raises(
        ValueError,
        match=r"A\[0:23\] must be float64 of shape \(23, 23\), as A says, got complex128",
    ):
        JacobianBuilder(Liar(matrix(K))).value(x)
    file = h5py.File(sources.path(".h5"), "w")
    A = file.create_dataset("A", (K, K), np.float64, chunks=(5, K))
    A[:10] = np.ones((10, K))
    with pytest.raises(ValueError, match="A lacks 3 of its 5 chunks, which would be read as 0"):
        JacobianBuilder(A)
    A[:] = np.ones((K, K))
    builder = JacobianBuilder(A)
    A[3, 3] = np.nan  # what may change is looked at in each pass
    with pytest.raises(ValueError, match=r"A must be finite, but A\[3, 3\] = nan"):
        builder.value(x)
    A[3, 3] = 5
    assert builder.operator(np.ones(K)).normal().diagonal()[3] == 2 * 22 + 4 * 25
    file.close()
    for use in (lambda: builder.value(x), lambda: JacobianBuilder(A)):
        with pytest.raises(ValueError, match="A is of a file that has been closed: open it again"):
            use()


def test_objects_that_change_their_shape(sources):
    A = Sliced(matrix(K))
    builder = JacobianBuilder(A)
    A.shape = (K + 1, K + 1)
    with pytest.raises(
        ValueError, match=r"A has become float64 of shape \(24, 24\) since it was handed over"
    ):
        builder.value(x)


def test_a_budget_is_refused_before_anything_is_made():
    """A billion rows: their k-vectors alone are 8 GB each."""
    with pytest.raises(ValueError, match=r"memory must be at least .* of 1000000000 rows"):
        JacobianBuilder(lambda i, j: np.broadcast_to(1.0, (j - i, 10**9)), memory=10**6)
    with pytest.raises(
        MemoryError,
        match="k-vectors for this A of 1000000000 rows, and for each thread 1 of them, would take",
    ):
        RowSums(lambda i, j: np.broadcast_to(1.0, (j - i, 10**9)))


@pytest.mark.parametrize("kind", ["npy", "fortran", "ndarray", "csr", "sparse"])
def test_upper_rows_of_a_y_that_is_no_triangle(sources, kind):
    A = matrix(K, "csr" if kind in ("csr", "sparse") else "C", symmetric=True)
    Y = A.toarray() if scipy.sparse.issparse(A) else A.copy()
    source = {"ndarray": lambda B: B, "sparse": scipy.sparse.csr_array}.get(kind) or getattr(
        sources, kind
    )
    ours = (
        sources.fortran(A)
        if kind == "fortran"
        else sources.csr(A)
        if scipy.sparse.issparse(A)
        else sources.npy(A)
    )
    lower = 'rows="upper" reads the lower triangles of A and Y here'
    for order in ("C", "F"):
        there = LeastSquares(A, A, rows="upper", order=order)
        for beside in (Y, np.triu(Y)):
            if (
                beside is not Y
                and kind in ("npy", "csr", "fortran")
                and (order == "F") != (kind == "fortran")
            ):
                with pytest.raises(ValueError, match=lower):
                    LeastSquares(ours, source(beside), rows="upper", order=order)
            else:
                streamed = LeastSquares(ours, source(beside), rows="upper", order=order)
                assert streamed.cost(x) == there.cost(x)
                same(streamed.fun(x), there.fun(x))
    i, j = (int(index[-1]) for index in np.nonzero(np.tril(Y, -1)))
    Y[i, j] += 1
    what = rf"the products of row ({i}|{j}) and of column"
    if kind in ("ndarray", "sparse"):  # all of it is in memory, so that the entry can be named
        what = rf"Y\[({i}, {j}|{j}, {i})\] != Y"
    with pytest.raises(ValueError, match=f'rows="upper" reads .* but {what}'):
        LeastSquares(ours, source(Y), rows="upper")


def test_least_squares_at_the_least_budget(sources):
    A = matrix(K)
    for Y in (sources.npy(A), A.astype(np.int8), sources.function(A)):
        with pytest.raises(ValueError, match="memory must be at least") as error:
            LeastSquares(sources.npy(A), Y, memory=100)
        for _ in range(2):  # A alone needs less than A with Y
            needed = int(str(error.value).split("at least ")[1].split()[0])
            try:
                LeastSquares(sources.npy(A), Y, memory=needed).cost(x)
                break
            except ValueError as refused:
                error.value.args = refused.args
        else:
            pytest.fail("what is said to be needed is not enough")


def test_where_the_system_reads_from_no_place(sources, monkeypatch):
    """Windows, and macOS before 11."""
    there = JacobianBuilder(matrix(K)).tocsr(x)
    monkeypatch.delattr(os, "preadv", raising=False)
    same(JacobianBuilder(sources.npy(matrix(K))).tocsr(x), there)


def test_a_function_that_waits_for_itself():
    A = positive(K)

    def rows(start, stop):
        if nested:
            nested[0]()
        return A[start:stop]

    nested = []
    operator = JacobianBuilder(rows).operator(x)
    inner = JacobianBuilder(lambda start, stop: A[start:stop]).operator(x)
    expected = operator.column_norms()
    nested.append(inner.column_norms)  # of another A it may ask
    same(operator.column_norms(), expected)
    nested[0] = operator.column_norms
    with pytest.raises(
        RuntimeError,
        match="A was asked for rows while it was returning rows, which would wait for ever",
    ):
        operator.column_norms()
    nested.clear()
    same(operator.column_norms(), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_that_is_forked_during_a_pass(sources):
    """It has its parent's locks as they were, and nobody to open them."""
    A, began = positive(K), threading.Event()

    def rows(start, stop):
        began.set()
        time.sleep(0.2 if began.wait() and os.getpid() == parent and slow else 0)
        return A[start:stop]

    parent, slow = os.getpid(), []
    operators = [JacobianBuilder(rows).operator(x)]
    stored = JacobianBuilder(sources.folder_of_blocks(A), rows="stored")
    operators.append(stored.operator(x))
    slow.append(True)
    began.clear()
    with stored._rows.entries.source.data.opened():
        thread = threading.Thread(target=operators[0].column_norms)
        thread.start()
        began.wait()
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            for operator in operators:
                operator.column_norms()
            os._exit(0)
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


def test_chunks_are_not_read_twice(sources):
    """So a budget must hold the rows of a chunk."""
    file = h5py.File(sources.path(".h5"), "w")
    A = file.create_dataset("A", data=positive(300), chunks=(300, 20), compression="gzip")
    place = JacobianBuilder(A)._rows
    assert [rows for _, *rows in place._blocks((0, 300), None)] == [[0, 300]]
    with pytest.raises(
        ValueError, match="and for each thread a block of 300 rows, as its chunks have"
    ):
        JacobianBuilder(A, memory=4 * 2**20)
    with pytest.raises(
        TypeError,
        match=r"A must be a NumPy array or a SciPy sparse array or matrix, got h5py\.Dataset",
    ):
        check_jacobian(A, np.ones(300))


def test_what_was_not_found_out_is_said(sources):
    """A star has no scaling; the examination that would say so does not fit into the budget."""
    k = 300
    star = np.zeros((k, k))
    star[0, 1:] = star[1:, 0] = 1
    result = symmetric_scaling(sources.npy(star), memory=3 * 2**20, max_products=120)
    assert not result.success
    assert "; A's support was not examined, which would take 8.6 MiB" in result.message
