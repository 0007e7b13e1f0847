"""What each operation allocates, against the formula in its docstring."""

import gc
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import scipy.sparse
from support import random_csr

from sparsejac import JacobianBuilder, jacobian
from sparsejac.testing import check_jacobian

K = 1000
MARGIN = 200_000  # Python's own objects, and the threads'
DENSE_BUFFER = 2 * 2**20  # two workers, for an A that is packed


def peak(function):
    """(result, bytes): the most that was allocated at a time while the function ran, its result included."""
    gc.collect()
    tracemalloc.start()
    try:
        result = function()
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def problem(form):
    if form == "csr":
        return random_csr(20_000, 20)
    A = np.random.default_rng(0).random((K, K))
    return A if form == "C" else np.asfortranarray(A)


@pytest.mark.parametrize("form", ["C", "F", "csr"])
def test_every_operation(form):
    A = problem(form)
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
        "J @ v": (lambda: op @ x, 8 * m + 8 * 2 * k * packed),
        "J.T @ w": (lambda: op.T @ w, sums),
        "J.H @ w": (lambda: op.H @ w, sums),
        "J @ V": (lambda: op @ V, 8 * 4 * m),
        "J.T @ W": (lambda: op.T @ W, 8 * k * 4 * (1 + 2)),
        "column_norms": (op.column_norms, sums + 8 * k * 3),  # x as float64, |x|² and its square on the way
        "row_pairs": (builder.row_pairs, 2 * 4 * m),
        "slice": (lambda: builder.slice(x, 3), 8 * 40 * k),
        "iter_csr": (
            lambda: [len(block.data) for _, block in builder.iter_csr(x, block_rows=1000)],
            1000 * 2 * (2 * 8 + 12) + 8 * k,
        ),
    }
    J = builder.tocsr(x)
    operations["tocsr(out=)"] = (lambda: builder.tocsr(x, out=J), 8 * k)
    for name, (function, allowed) in operations.items():
        function()  # compiled
        found = peak(function)[1]
        assert found <= allowed + buffer + MARGIN, f"{name}: {found} bytes, {allowed + buffer} allowed"


@pytest.mark.parametrize("form", ["C", "F", "csr"])
def test_the_builder_keeps_a_and_little_else(form):
    A = problem(form)
    JacobianBuilder(A, rows="stored")
    builder, found = peak(lambda: JacobianBuilder(A, rows="stored"))
    assert found < 2**20 + 8 * 4 * A.shape[0] + MARGIN  # checking takes 1 MiB
    assert np.shares_memory(builder._values, A.data if form == "csr" else A)


def test_checking_symmetry_takes_no_transposed_copy():
    A = problem("C")
    A += A.T
    S = scipy.sparse.csr_array(A)
    for matrix, allowed in ((A, 2**20), (S, 8 * 5 * K)):
        JacobianBuilder(matrix, rows="upper", check_finite=False)
        assert (
            peak(lambda matrix=matrix: JacobianBuilder(matrix, rows="upper", check_finite=False))[1] < allowed + MARGIN
        )


def test_no_dense_tensor_and_no_k2_vector():
    """rmatvec's own k²-long operand is the caller's; column norms need none at all."""
    k = 3000
    A = np.broadcast_to(1.0, (k, k))
    builder = JacobianBuilder(A, check_finite=False)
    op = builder.operator(np.ones(k))
    op.column_norms()
    assert peak(op.column_norms)[1] < k * k  # a k²-long array of anything would take as much


def test_high_water_mark_of_the_process():
    """tracemalloc sees NumPy; this sees everything: assembly takes its result, and next to nothing besides."""
    program = """
import numpy as np
from sparsejac import JacobianBuilder, _machine
k = 2000
A = np.ones((k, k))
builder = JacobianBuilder(A, workers=2)
JacobianBuilder(A[:700, :700].copy(), workers=2).tocsr(np.ones(700))  # compiled, and the threads are there
before = _machine.peak_memory()
J = builder.tocsr(np.ones(k))
after = _machine.peak_memory()
print(after - before - builder.csr_nbytes())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    assert -64 * 2**20 < int(done.stdout) < 8 * 2**20  # before, a few MiB were free


@pytest.mark.parametrize("form", ["C", "csr"])
def test_the_public_check(form):
    A = problem(form)
    builder = JacobianBuilder(A, rows="stored")
    m, k = builder.shape
    check_jacobian(A, np.ones(k), rows="stored")
    found = peak(lambda: check_jacobian(A, np.ones(k), rows="stored"))[1]
    assert found <= 16 * 8 * (m + k) + builder.csr_nbytes() + MARGIN


def test_memory_formula_of_the_docstring():
    assert "28 k² - 12 k + 4" in jacobian.__doc__
    assert JacobianBuilder(np.eye(K)).csr_nbytes() == 28 * K**2 - 12 * K + 4
