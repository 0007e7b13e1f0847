"""What is refused of an A on a GPU, and of what lies beside it: see `cuda/cuda_checks.py`."""

import importlib.util
import os
import pickle
import re
import sys

import cuda_checks
import numpy as np
import pytest
import scipy.sparse
from cuda_checks import assert_equal, matrix, on_gpu
from scipy.sparse.linalg import lsqr
from support import integers
from test_structure import MODULES

from sparsejac import (
    JacobianBuilder,
    LeastSquares,
    RowSums,
    fit,
    row_column_scaling,
    symmetric_scaling,
)
from sparsejac._backends.cuda_device import is_on_gpu
from sparsejac._operators import raster

fibers = cuda_checks.fibers  # fixtures
RNG = np.random.default_rng(20)


def bad_arrays():
    """Values of A, and what the message says."""
    A = on_gpu(np.eye(4))
    yield (
        A.astype(np.complex128),
        TypeError,
        "A must be float32 or float64 on a GPU, got complex128",
    )
    yield A.astype(np.int64), TypeError, "got int64: pass A.astype"
    yield A.astype(np.float16), TypeError, "got float16: pass A.astype"
    yield on_gpu(np.asfortranarray(np.ones((4, 4)))), ValueError, "A must be C-contiguous on a GPU"
    yield A[::2, ::2], ValueError, "pass cupy.ascontiguousarray"
    yield A[:2], ValueError, "A must be a square matrix"
    nan = np.eye(4)
    nan[2, 1] = np.nan
    yield on_gpu(nan), ValueError, r"A\[2, 1\]|\(2, 1\)"
    yield on_gpu(scipy.sparse.csr_array(nan)), ValueError, r"A\[2, 1\]|\(2, 1\)"


def test_bad_arrays(fibers):
    for A, error, message in bad_arrays():
        with pytest.raises(error, match=message):
            JacobianBuilder(A)
    A = on_gpu(np.eye(4))
    for how, error, message in [
        ({"order": "F"}, ValueError, 'order="F" is not for an A on a GPU: leave it out'),
        ({"memory": 2**30}, ValueError, "memory= is for an A that is streamed"),
        ({"uplo": "U"}, ValueError, "uplo= is not for an A on a GPU"),
        ({"bilinear": True}, TypeError, "bilinear= is not for an A on a GPU"),
    ]:
        with pytest.raises(error, match=message):
            JacobianBuilder(A, **how)
    for act, option in [
        (lambda: JacobianBuilder(A, rank=2), "rank="),
        (lambda: LeastSquares(A, A, rank=2), "rank="),
        (lambda: LeastSquares(A, A, loss="huber"), "loss="),
        (lambda: fit(A, A, regularization=1), "regularization="),
        (lambda: JacobianBuilder(A)._rows.reduce("robust", np.ones(4)), "the operation robust"),
    ]:
        with pytest.raises(ValueError, match=f"^{option} is not for an A on a GPU: leave it out"):
            act()
    with pytest.raises(ValueError, match=r"Y is on a GPU, and A is not: pass cupy.asarray"):
        LeastSquares(np.eye(4), A)
    with pytest.raises(TypeError, match=r"Y must be on the GPU, as A is: pass cupy.asarray"):
        LeastSquares(A, np.eye(4))
    with pytest.raises(TypeError, match="w must be float32 or float64 on a GPU, got int64"):
        JacobianBuilder(A).hessian(on_gpu(np.ones(16, int)))


def test_bad_sparse_matrices(fibers):
    def csr(data, indices, indptr, index=np.int32, kind="csr"):
        found = on_gpu(scipy.sparse.csr_array(np.eye(2)))
        found.data = on_gpu(np.array(data, float))
        found.indices = on_gpu(np.array(indices, index))
        found.indptr = on_gpu(np.array(indptr, index))
        found.format = kind
        return found

    for A, error, message in [
        (csr([1, 2], [1, 0], [0, 2, 2]), ValueError, "must be canonical.* row 0 do not ascend"),
        (csr([1, 2], [1, 1], [0, 0, 2]), ValueError, "row 1 do not ascend: call A.sum_dup"),
        (csr([1, 2], [0, 2], [0, 1, 2]), ValueError, "row 1 do not"),
        (csr([1, 2], [0, 1], [0, 1, 3]), ValueError, "row 1 do not"),
        (csr([1, 2], [0, 1], [0, 1, 2], np.int64), TypeError, "must have int32 indices, got int64"),
        (csr([1, 2], [0, 1], [0, 1, 2], kind="csc"), TypeError, "must be a CSR matrix.*tocsr"),
    ]:
        with pytest.raises(error, match=message):
            JacobianBuilder(A)


def test_arrays_of_a_sparse_matrix(fibers):
    """They need not be those of the constructor."""
    A = matrix(9, "sparse")
    w = np.arange(float(A.nnz))

    def changed(name, array):
        found = on_gpu(A)
        setattr(found, name, on_gpu(array))
        return found

    with pytest.raises(ValueError, match=r"an index for each number, got 10, .*: make it anew"):
        JacobianBuilder(changed("data", A.data[:-3]))
    with pytest.raises(ValueError, match=r"must have 10 row pointers, .*, got 9, "):
        JacobianBuilder(changed("indptr", A.indptr[:-1]))
    strided = on_gpu(A)
    strided.data = on_gpu(np.repeat(A.data, 2))[::2]
    with pytest.raises(ValueError, match=r"must have contiguous arrays, .*: pass A.copy\(\)"):
        JacobianBuilder(strided)
    spare = on_gpu(A)
    spare.data = on_gpu(np.append(A.data, [7, np.nan]))
    spare.indices = on_gpu(np.append(A.indices, [3, 4]).astype(np.int32))
    there, here = (JacobianBuilder(each, rows="stored") for each in (spare, A))
    x = np.arange(9.0)
    assert there.shape == here.shape
    assert_equal(there.operator(x).T @ on_gpu(w), here.operator(x).T @ w)
    assert_equal(there.operator(x).normal() @ x, here.operator(x).normal() @ x)


def test_bad_operands(fibers, monkeypatch):
    A = on_gpu(np.eye(4))
    builder = JacobianBuilder(A)
    J = builder.operator(np.ones(4))
    with pytest.raises(TypeError, match=r"must be a CuPy array.*cg and operator.normal\(\)"):
        J.T @ np.ones(16)
    with pytest.raises(TypeError, match=r"instead of lsqr or lsmr of SciPy.*operator.normal\(\)"):
        lsqr(J, np.ones(16))
    with pytest.raises(TypeError, match=r"A must be a NumPy array .*: pass A.get\(\)"):
        row_column_scaling(A)
    with pytest.raises(TypeError, match="Implicit conversion to a NumPy array"):
        np.asarray(J @ np.ones(4))  # CuPy says so
    with pytest.raises(ValueError, match=r"x must have shape \(16,\)"):
        J.T @ on_gpu(np.ones(15))
    with pytest.raises(TypeError, match=r"x must be a NumPy array, got .*: pass x.get\(\)"):
        builder.value(on_gpu(np.ones(4)))
    with pytest.raises(TypeError, match="an A on a GPU is for real numbers, and x is complex128"):
        builder.value(1j * np.ones(4))
    with pytest.raises(
        ValueError, match="leave the range of float64, which is not for an A on a GPU"
    ):
        builder.value(np.array([1e200, 1e200, 1, 1]))
    for thing in (builder, J, LeastSquares(A, A), RowSums(A)):
        with pytest.raises(TypeError, match=r"an A on a GPU does not pickle.*send A.get"):
            pickle.dumps(thing)
    for operation in (
        lambda: list(builder.iter_csr(np.ones(4))),
        builder.row_pairs,
        lambda: J.normal().toarray(),
        lambda: raster.count_entries(builder._assembly, 2, 2),
        lambda: builder._rows.map("value"),
        builder._rows.visited,
    ):
        with pytest.raises(MemoryError, match=r"would come from the GPU.*pass A.get\(\)"):
            operation()
    with pytest.raises(TypeError, match=r"cupyx\(\) is for an A on a GPU"):
        JacobianBuilder(np.eye(4)).operator(np.ones(4)).cupyx()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(RuntimeError, match=r'forked child cannot use.*"spawn"'):
        J @ np.ones(4)


def test_machines_that_lack_something(fibers, monkeypatch):
    A = on_gpu(np.eye(4))
    fibers.driver_error = "cudaErrorInsufficientDriver"
    with pytest.raises(RuntimeError, match=r"driver is missing or too old.*update the driver"):
        JacobianBuilder(A)
    fibers.driver_error, fibers.devices = None, 0
    with pytest.raises(RuntimeError, match="CuPy finds no GPU"):
        JacobianBuilder(A)
    fibers.devices = 2
    fibers.current = 1
    Y = on_gpu(np.eye(4))
    fibers.current = 0
    with pytest.raises(ValueError, match="Y is on GPU 1, and A is on GPU 0: copy Y there"):
        LeastSquares(A, Y)
    builder = JacobianBuilder(A)
    fibers.free = 100
    monkeypatch.setattr("sparsejac._validation.LARGE", 0)
    with pytest.raises(
        MemoryError, match=r"would take 128 bytes .* are available: .* the GPU; free"
    ):
        builder.value(np.ones(4))
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match="an A on a GPU needs CuPy: install the wheel"):
        JacobianBuilder(A)


@pytest.mark.slow
def test_a_large_jacobian_is_refused(fibers, monkeypatch):
    builder = JacobianBuilder(on_gpu(np.eye(4)))
    monkeypatch.setitem(builder._pattern.__dict__, "nnz", 2**31)
    with pytest.raises(ValueError, match="J has 2147483648 entries, and cupyx has int32 indices"):
        builder.tocsr(np.ones(4))


@pytest.mark.slow
def test_bad_targets(fibers):
    A = matrix(9, "sparse", symmetric=True)
    more = A.toarray()
    i, j = np.argwhere(more == 0)[5]
    more[i, j] = 1
    for Y in (more, scipy.sparse.csr_array(more)):
        for B in (A, on_gpu(A)):
            put = on_gpu if B is not A else (lambda Y: Y)
            with pytest.raises(ValueError, match=rf"1 entries that are not zero.*\({i}, {j}\)"):
                LeastSquares(B, put(Y))
    with pytest.raises(
        TypeError, match="Y is sparse and A is dense, and on a GPU Y is not convert"
    ):
        LeastSquares(on_gpu(A.toarray()), on_gpu(A))
    y = JacobianBuilder(A, rows="stored").value(np.ones(9))
    y[7] = np.inf
    for B, put in ((A, np.asarray), (on_gpu(A), on_gpu)):
        with pytest.raises(ValueError, match=r"Y.*\b7\b.*inf"):
            LeastSquares(B, put(y))
    nan = np.ones((9, 9))
    nan[7, 3] = np.nan
    for Y, place in ((nan, "7, 3"), (nan.reshape(-1), "66")):
        for put in (np.asarray, on_gpu):
            with pytest.raises(ValueError, match=rf"Y must be finite, but Y\[{place}\] = nan"):
                LeastSquares(put(np.ones((9, 9))), put(Y))
    B = matrix(9, "dense", symmetric=True, random=True)
    B[7, 3] += 0.1
    for bad in (B, scipy.sparse.csr_array(B)):
        with pytest.raises(ValueError, match=r"A\[(7, 3|3, 7)\] != A"):
            JacobianBuilder(on_gpu(bad), rows="upper")
        with pytest.raises(ValueError, match=r"A must be symmetric"):
            RowSums(on_gpu(bad))
    B[7, 3] = B[3, 7] = -1
    for bad in (B, scipy.sparse.csr_array(B)):
        with pytest.raises(ValueError, match=r"\b(7, 3|3, 7)\b"):
            symmetric_scaling(on_gpu(bad))
    B[7, 3] = np.nextafter(-1, 0)  # symmetric up to rounding
    for near in (B, scipy.sparse.csr_array(B)):
        x = RNG.random(9)
        found = RowSums(on_gpu(near)).value(x)
        np.testing.assert_allclose(found, x * (B @ x), rtol=1e-12)


class Foreign:
    """An array of another package on a GPU."""

    def __init__(self, numbers, names):
        self.numbers = numbers
        if "interface" in names:
            self.__cuda_array_interface__ = numbers.__array_interface__
        if "dlpack" in names:
            self.__dlpack_device__ = lambda: (2, 0)


@pytest.mark.slow
@pytest.mark.parametrize("names", ["interface", "dlpack"])
def test_arrays_of_other_packages(fibers, names):
    A = matrix(9, "dense")
    foreign, x = Foreign(A, names), integers((9,), seed=1)
    assert_equal(JacobianBuilder(foreign).value(x), JacobianBuilder(A).value(x))
    assert 81 not in fibers.uploads  # it was not copied
    assert_equal(LeastSquares(foreign, foreign).grad(x), LeastSquares(A, A).grad(x))


def test_cupy_is_imported_when_it_is_needed():
    """What does not lie on a GPU needs no CuPy, and asks for none."""

    class Odd:
        def __getattr__(self, name):
            raise RuntimeError(name)

    for A in (np.eye(2), scipy.sparse.eye_array(2), [[1]], "A.npy", Odd(), len, None):
        assert not is_on_gpu(A)
    if importlib.util.find_spec("cupy") is None:
        with pytest.raises(ImportError, match="needs CuPy"):
            JacobianBuilder(Foreign(np.eye(2), "interface"))


def test_the_backend_alone_imports_cupy():
    """It does so within functions."""
    users = {}
    for module, path in MODULES.items():
        found = re.findall(r"^( *)(?:import|from) cupyx?\b", path.read_text("utf-8"), re.MULTILINE)
        if found:
            users[module] = min(map(len, found))
    assert {*users} == {"_backends.cuda", "_backends.cuda_device"}
    assert min(users.values()) > 0


def test_arrays_that_are_replaced(fibers):
    """As on a processor. To see that entries were removed in place would take a download."""
    A, Y = (matrix(9, "sparse", symmetric=True, seed=seed) for seed in (0, 0))
    for name in "AY":
        a, y = on_gpu(A), on_gpu(Y)
        problem, builder, sums = LeastSquares(a, y), JacobianBuilder(a, rows="stored"), RowSums(a)
        x, v = integers((9,), seed=1), integers((9,), seed=2)
        op = builder.operator(x)
        calls = [lambda: problem.cost(x), lambda: problem.fun(x)]  # noqa: B023
        if name == "A":
            calls += [
                lambda: builder.value(x), lambda: op @ v, lambda: op.normal() @ v,  # noqa: B023
                lambda: sums.value(x), lambda: builder.tocsr(x),  # noqa: B023
            ]  # fmt: skip
        of = a if name == "A" else y
        of.data = of.data * 2
        for call in calls:
            with pytest.raises(ValueError, match=rf"{name}\.data is not what it was when"):
                call()
