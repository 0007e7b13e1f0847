"""Sparse A, a row of J for each stored entry: random graphs of 20 entries a row, and real ones
where they are at hand.
"""

import numpy as np
import peers
import pytest
import scipy.sparse
from limits import filled, filled_on_two_threads, two_threads
from support import random_csr

from sparsejac import JacobianBuilder

SIZES = [10_000, 100_000, 500_000, 1_000_000]
GRAPHS = ["graph_facebook", "graph_enron", "hic_yeast_10kb"]
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module", params=[*SIZES, *GRAPHS], ids=str)
def problem(request):
    name = request.param
    if isinstance(name, int):
        A, title = random_csr(name, 20), f"k = {name}"
    else:
        path = request.getfixturevalue("real_data")(f"{name}.npz")
        A = scipy.sparse.csr_array(scipy.sparse.load_npz(path)).astype(np.float64)
        A.sum_duplicates()
        title = f"{name}, {A.shape[0]} rows"
    rng = np.random.default_rng(1)
    k = A.shape[0]
    x, v, w = rng.random(k), rng.random(k), rng.random(A.nnz)
    others = {"JAX": peers.of_jax(A, x), "NumPy": peers.of_numpy_sparse(A, x)}
    builders = (
        JacobianBuilder(A, rows="stored", workers=2),
        JacobianBuilder(A, rows="stored", workers=1),
    )
    return title, A, x, v, w, others, builders


def test_assembly(race, problem):
    title, A, x, _, _, _, (builder, one) = problem
    m, nnz = builder.shape[0], builder.nnz
    i, j = builder.row_pairs()

    sizes = (nnz, np.float64), (nnz, np.int32), (m + 1, np.int32)
    contestants = {
        "tocsr": lambda: builder.tocsr(x),
        "limit: filling three fresh arrays": lambda: filled(sizes),
        **two_threads(
            builder.shape[1], {"limit: the same, two threads": lambda: filled_on_two_threads(sizes)}
        ),
        "one worker": lambda: one.tocsr(x),
        "SciPy COO": lambda: peers.triplets(A.data, i, j, x, builder.shape),
    }
    race("sparse tocsr", title, contestants)


def test_assembly_of_the_numbers(race, problem):
    title, _, x, _, _, _, (builder, one) = problem
    J, J1, data = builder.tocsr(x), one.tocsr(x), np.empty(builder.nnz)
    contestants = {
        "tocsr(out=)": lambda: builder.tocsr(x, out=J),
        "limit: data.fill": lambda: data.fill(1),
        "one worker": lambda: one.tocsr(x, out=J1),
    }
    race("sparse tocsr(out=J)", title, contestants)


@pytest.mark.parametrize(
    "operation", ["F(x)", "J v", "Jᵀw", "column norms", "J V, 8 vectors", "JᵀW, 8 vectors"]
)
def test_products(race, problem, operation):
    title, A, x, v, w, others, (builder, one) = problem
    if A.nnz > 10**7 and "8" in operation:
        pytest.skip(
            "2·10⁷ entries and 8 vectors: the peers need more memory than most machines have"
        )
    V, W = (np.stack([array] * 8, axis=1) if "8" in operation else None for array in (v, w))
    op, op1 = builder.operator(x), one.operator(x)
    functions = {
        "F(x)": ("value", None, lambda: builder.value(x), lambda: one.value(x)),
        "J v": ("matvec", v, lambda: op @ v, lambda: op1 @ v),
        "Jᵀw": ("rmatvec", w, lambda: op.T @ w, lambda: op1.T @ w),
        "column norms": ("column_norms", None, op.column_norms, op1.column_norms),
        "J V, 8 vectors": ("matmat", V, lambda: op @ V, lambda: op1 @ V),
        "JᵀW, 8 vectors": ("rmatmat", W, lambda: op.T @ W, lambda: op1.T @ W),
    }
    name, operand, ours, ours_alone = functions[operation]
    contestants = {"sparsejac": ours, "one worker": ours_alone}
    if operation == "J v":
        contestants["limit: A.data.copy()"] = A.data.copy
    if operation == "Jᵀw":
        M = scipy.sparse.csr_array((A.data * w, A.indices, A.indptr), shape=A.shape)
        contestants["SciPy, A∘W given"] = lambda: M @ x + M.T @ x
    if "8" in operation:
        contestants["variant: one vector"] = (
            (lambda: op @ v) if operation[1] == " " else (lambda: op.T @ w)
        )
    race(f"sparse {operation}", title, contestants | peers.take(others, name, operand))
