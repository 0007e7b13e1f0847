"""What each operation allocates, against the formula in its docstring."""

import gc
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from support import random_csr, slow

from sparsejac import JacobianBuilder, LeastSquares, RowSums, fit, jacobian, symmetric_scaling
from sparsejac.testing import check_jacobian

K = 1100  # enough entries for two threads
MARGIN = 200_000  # Python's own objects, and the threads'
DENSE_BUFFER = 2 * 2**20  # two workers, for an A that is packed


@pytest.fixture(autouse=True)
def frozen():
    """Exclude what other tests left from the collections of `peak`, which take a second else."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def peak(function):
    """(result, bytes): the most that was allocated at a time while the function ran, its result
    included.
    """
    gc.collect()
    tracemalloc.start()
    try:
        result = function()
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def problem(form, size=K):
    if form == "csr":
        return random_csr(20 * size, 20)
    A = np.random.default_rng(0).random((size, size))
    return A if form == "C" else np.asfortranarray(A)


def signed(Y):
    """With the signs of an x that has both, symmetric if Y is."""
    signs = np.random.default_rng(2).choice([-1.0, 1.0], Y.shape[0])
    if not scipy.sparse.issparse(Y):
        return Y * np.outer(signs, signs)
    result = Y.copy()
    result.data = Y.data * signs[Y.indices] * np.repeat(signs, np.diff(Y.indptr))
    return result


def fresh(problem):
    """Without what it remembers of the last x."""
    problem._last = None
    return problem


def operations_of(form, size=K):
    """{name: (function, the bytes that its docstring allows)}"""
    A = problem(form, size)
    k = A.shape[0]
    x = np.ones(k)
    builder = JacobianBuilder(A, rows="stored", workers=2)
    m, op = builder.shape[0], builder.operator(x)
    w, W, V = np.ones(m), np.ones((m, 4)), np.ones((k, 4))
    buffer = DENSE_BUFFER if form == "F" else 0
    packed = form == "csr"  # two k-vectors side by side
    sums = 8 * k * (1 + 2 * (1 + packed))  # the result, and one for each of two workers
    operations = {
        # name: (function, what its result and its docstring's O(k) come to)
        "tocsr": (lambda: builder.tocsr(x), builder.csr_nbytes() + 8 * k),
        "value": (lambda: builder.value(x), 8 * m + 8 * k),
        "operator": (lambda: builder.operator(x), 8 * k),
        "max_abs": (lambda: builder.max_abs(x), 8 * k * (8 + 2 * (2 + packed))),
        "J @ v": (lambda: op @ x, 8 * m + 8 * 2 * k * packed),
        "J.T @ w": (lambda: op.T @ w, sums),
        "J.H @ w": (lambda: op.H @ w, sums),
        "J @ V": (lambda: op @ V, 8 * 4 * m),
        "J.T @ W": (lambda: op.T @ W, 8 * (k + 4) * 4 * (1 + 2)),
        "column_norms": (
            op.column_norms,
            sums + 8 * k * 3,
        ),  # x as float64, |x|² and its square on the way
        "row_pairs": (builder.row_pairs, 2 * 4 * m),
        "slice": (lambda: builder.slice(x, 3), 8 * 40 * k),
        "iter_csr": (
            lambda: [len(block.data) for _, block in builder.iter_csr(x, block_rows=1000)],
            1000 * 2 * (2 * 8 + 12) + 8 * k,
        ),
    }
    many = 8 * k * (2 * 8 if packed else 4) * 2  # vectors and sums of a group, for each worker
    N, H = op.normal(), builder.hessian(w)
    operations |= {
        "normal": (op.normal, sums + 8 * 4 * k),
        "N @ v": (lambda: N @ x, sums + 8 * 4 * k),
        "N @ V": (lambda: N @ V, many + 8 * 4 * 5 * k),
        "N.diagonal": (N.diagonal, 8 * 8 * k),
        "H @ v": (lambda: H @ x, sums + 8 * 4 * k),
    }
    Y = A * np.random.default_rng(1).lognormal(size=A.shape) if form != "csr" else A.copy()
    if form == "csr":
        Y.data = A.data * np.random.default_rng(1).lognormal(size=A.nnz)
    pairs = {", symmetric": (A + A.T, Y + Y.T)}
    if form != "F":  # its buffers are seen with one of them
        pairs[""] = (A, Y)
    for name, (B, C) in pairs.items():
        fitted = LeastSquares(B, C, workers=2)
        dense = 0 if packed else 2**20  # tiles and their masks
        checks = 2 * 2**20  # of finiteness, symmetry and sign
        mixed = signed(C)
        operations |= {
            f"fit from mixed data{name}": (
                lambda B=B, C=mixed: fit(B, C, workers=2, max_iter=3),
                dense + 8 * 35 * k,
            ),
            f"LeastSquares{name}": (
                lambda B=B, C=C: LeastSquares(B, C, workers=2),
                checks + 8 * 12 * k,
            ),
            f"fun{name}": (lambda p=fitted: p.fun(x), 8 * fitted.shape[0] + 8 * 2 * k),
            f"value_and_grad{name}": (lambda p=fitted: fresh(p).value_and_grad(x), 8 * 16 * k),
            f"hessp{name}": (lambda p=fitted: fresh(p).hessp(x, x), 8 * 16 * k),
            f"fit{name}": (lambda B=B, C=C: fit(B, C, x, workers=2), dense + 8 * 20 * k),
            f"fit within bounds{name}": (
                lambda B=B, C=C: fit(B, C, x, workers=2, bounds=(x.min(), x.max())),
                dense + 8 * 32 * k,
            ),
            f"fit from data{name}": (lambda B=B, C=C: fit(B, C, workers=2), dense + 8 * 20 * k),
        }
    S = A + A.T
    U = scipy.sparse.triu(S).tocsr() if packed else S
    row_sums = RowSums(U, uplo="U", workers=2)
    both = row_sums.operator(x)
    pass_over = sums + 8 * 5 * k
    dense = 0 if packed else 2 * 2**20  # pieces of a triangle, and their masks
    operations |= {
        "RowSums": (lambda: RowSums(U, uplo="U", workers=2), dense + 80 * k),
        "RowSums.value": (lambda: row_sums.value(x), pass_over),
        "RowSums.nonzeros": (row_sums.nonzeros, pass_over),
        "RowSums.operator": (lambda: row_sums.operator(x), pass_over + 8 * 2 * k),
        "RowSumsOperator @ v": (lambda: both @ x, pass_over),
        "RowSumsOperator.T @ v": (lambda: both.T @ x, pass_over),
        "RowSumsOperator.diagonal": (both.diagonal, 8 * 3 * k),
        "symmetric_scaling": (
            lambda: symmetric_scaling(U, uplo="U", workers=1),
            dense + 8 * 20 * k,
        ),
        "symmetric_scaling, two workers": (
            lambda: symmetric_scaling(U, uplo="U", workers=2),
            dense + 8 * 23 * k,
        ),
    }
    J = builder.tocsr(x)
    operations["tocsr(out=)"] = (lambda: builder.tocsr(x, out=J), 8 * k)
    buffer *= 2  # for Y, too
    return {name: (function, allowed + buffer) for name, (function, allowed) in operations.items()}


@pytest.mark.parametrize(
    "form", ["csr", *slow("C")]
)  # of F the process's own high-water mark is enough
def test_every_operation(form):
    for name, (function, allowed) in operations_of(form).items():
        function()  # compiled
        found = peak(function)[1]
        assert found <= allowed + MARGIN, f"{name}: {found} bytes, {allowed} allowed"


@pytest.mark.parametrize("form", ["C", "F", "csr"])
def test_the_builder_keeps_a_and_little_else(form):
    A = problem(form)
    JacobianBuilder(A, rows="stored")
    builder, found = peak(lambda: JacobianBuilder(A, rows="stored"))
    assert found < 2**20 + 8 * 4 * A.shape[0] + MARGIN  # checking takes 1 MiB
    assert np.shares_memory(builder._rows.source.values, A.data if form == "csr" else A)


def test_checking_symmetry_takes_no_transposed_copy():
    A = problem("C")
    A += A.T
    S = scipy.sparse.csr_array(A)
    for matrix, allowed in ((A, 2**20), (S, 8 * 5 * K)):
        JacobianBuilder(matrix, rows="upper", check_finite=False)
        assert (
            peak(lambda matrix=matrix: JacobianBuilder(matrix, rows="upper", check_finite=False))[1]
            < allowed + MARGIN
        )


def test_no_dense_tensor_and_no_k2_vector():
    """rmatvec's own k²-long operand is the caller's; column norms need none at all."""
    k = 3000
    A = np.broadcast_to(1.0, (k, k))
    builder = JacobianBuilder(A, check_finite=False)
    op = builder.operator(np.ones(k))
    op.column_norms()
    assert peak(op.column_norms)[1] < k * k  # a k²-long array of anything would take as much


HIGH_WATER = """
import sys
from pathlib import Path
import numpy as np
from test_memory import K, operations_of

operations = operations_of(sys.argv[1], 2 * K)
for name, (function, allowed) in operations.items():
    function()  # compiled, and the threads are there
for name, (function, allowed) in operations.items():
    Path("/proc/self/clear_refs").write_text("5")  # forget the high-water mark
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    result = function()
    after = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    del result
    grown = int(after["VmHWM"].split()[0]) - int(status["VmRSS"].split()[0])
    print(name, 1024 * grown, allowed, sep=";")
"""


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK),
    reason="the high-water mark is reset the Linux way",
)
@pytest.mark.parametrize("form", slow("F", "C", "csr"))
def test_high_water_mark_of_the_process(form):
    """tracemalloc sees NumPy's arrays; this sees everything: the compiled kernels', the threads',
    the allocator's.
    """
    done = subprocess.run(
        [sys.executable, "-c", HIGH_WATER, form],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    lines = [line.split(";") for line in done.stdout.splitlines()]
    assert len(lines) == (36 if form == "F" else 44)
    for name, found, allowed in lines:
        assert int(found) < int(allowed) + 6 * 2**20, (
            name
        )  # pages, and what the allocator keeps for later


@pytest.mark.parametrize("form", ["csr", *slow("C")])
def test_the_public_check(form):
    A = problem(form)
    builder = JacobianBuilder(A, rows="stored")
    m, k = builder.shape
    check_jacobian(A, np.ones(k), rows="stored")
    found = peak(lambda: check_jacobian(A, np.ones(k), rows="stored"))[1]
    assert found <= 16 * 8 * (m + k) + builder.csr_nbytes() + MARGIN


def test_scaling_along_curves():
    """Newton's steps in log(x) take no more than the straight lines."""
    k = 20 * K
    valley = np.array([[1e-2, 1e5], [1e5, 1e-8]])
    A = scipy.sparse.kron(
        scipy.sparse.diags_array(1 + np.arange(k // 2) / k),
        scipy.sparse.csr_array(valley),
        format="csr",
    )
    symmetric_scaling(A, max_products=210, workers=1)
    result, found = peak(lambda: symmetric_scaling(A, workers=1))
    assert result.success
    assert result.n_products > 200
    assert found <= 8 * 20 * k + MARGIN


def test_memory_formula_of_the_docstring():
    assert "28 k² - 12 k + 4" in jacobian.__doc__
    assert JacobianBuilder(np.eye(K)).csr_nbytes() == 28 * K**2 - 12 * K + 4
