"""JᵀJ v beside the product with the matrix it is made of: dense `A @ v`, sparse `S @ u` with S
stored.
"""

import numpy as np
import peers
import pytest
import scipy.sparse
from support import random_csr

from sparsejac import JacobianBuilder, LeastSquares

pytestmark = pytest.mark.filterwarnings("default")


@pytest.mark.parametrize("k", [300, 1000, 3000, 6000])
def test_normal_dense(race, k):
    """A symmetric A: JacobianBuilder reads all of it, LeastSquares sees that half is enough."""
    rng = np.random.default_rng(0)
    A, x, v = rng.random((k, k)), rng.random(k), rng.random(k)
    A += A.T
    N, one = (JacobianBuilder(A, workers=workers).operator(x).normal() for workers in (2, 1))
    half = LeastSquares(A, A, workers=2).normal(x)
    V = rng.random((k, 8))
    contestants = {
        "op.normal() @ v": lambda: N @ v,
        "limit: A @ v": lambda: A @ v,
        "one worker": lambda: one @ v,
        "variant: problem.normal(x) @ v": lambda: half @ v,
        "variant: 8 vectors": lambda: N @ V,
        "variant: 8 vectors, problem": lambda: half @ V,
    }
    race(
        "JᵀJ v",
        f"k = {k}",
        contestants | (peers.take({"JAX": peers.of_jax(A, x)}, "normal", v) if k <= 3000 else {}),
    )


@pytest.mark.parametrize("k", [10_000, 100_000, 1_000_000])
def test_normal_sparse(race, k):
    A = random_csr(k, 20)
    x, v = np.random.default_rng(1).random((2, k))
    N, one = (
        JacobianBuilder(A, rows="stored", workers=workers).operator(x).normal()
        for workers in (2, 1)
    )
    square = A.multiply(A).tocsr()
    S = (square + square.T).tocsr()
    d = S @ (x * x)
    V = np.random.default_rng(2).random((k, 8))
    contestants = {
        "op.normal() @ v": lambda: N @ v,
        "one worker": lambda: one @ v,
        "variant: 8 vectors": lambda: N @ V,
        "SciPy, S given": lambda: d * v + x * (S @ (x * v)),
    }
    race("sparse JᵀJ v", f"k = {k}", contestants)


@pytest.mark.parametrize("form", ["dense, 3000 rows", "sparse, 100000 rows"])
def test_passes_of_a_fit(race, form):
    rng = np.random.default_rng(0)
    if form.startswith("dense"):
        A = rng.random((3000, 3000))
        Y = A * rng.random(A.shape)
        copy = A.copy
    else:
        A = random_csr(100_000, 20)
        Y = scipy.sparse.csr_array((A.data * rng.random(A.nnz), A.indices, A.indptr), shape=A.shape)
        copy = A.data.copy
    k = A.shape[0]
    x, v = rng.random((2, k))
    problem = LeastSquares(A, Y, workers=2)
    sums = problem._sums
    contestants = {
        "cost, gradient and diagonal": lambda: sums.gradient(x)[1],
        "limit: copying A": copy,
        "variant: H v": lambda: sums.curvature(x, v),
        "variant: JᵀJ v": lambda: sums.squares(x * v),
    }
    race("a pass of a fit", form, contestants)
