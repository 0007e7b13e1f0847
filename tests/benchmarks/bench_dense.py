"""Dense A: every operation beside what moving its bytes takes, and beside the same by others."""

import sys

import numpy as np
import peers
import pytest
from limits import (
    copied,
    filled,
    filled_on_two_threads,
    into_fresh_memory,
    on_two_threads,
    two_threads,
)

from sparsejac import JacobianBuilder
from sparsejac._matrix.indices import frozen

SIZES = [300, 1000, 3000, 6000]
pytestmark = pytest.mark.filterwarnings("default")  # a peer's warnings are its own


@pytest.fixture(scope="module", params=SIZES, ids="k = {}".format)
def problem(request):
    k = request.param
    rng = np.random.default_rng(0)
    A, x, v, w = rng.random((k, k)), rng.random(k), rng.random(k), rng.random(k * k)
    others = {
        "JAX": peers.of_jax(A, x),
        "PyTorch": peers.of_torch(A, x),
        "NumPy": peers.of_numpy(A, x),
    }
    return k, A, x, v, w, others


def two_forms(A, x):
    """The builder and its operator, for two workers and for one."""
    return [
        (builder, builder.operator(x))
        for builder in (JacobianBuilder(A, workers=2), JacobianBuilder(A, workers=1))
    ]


@pytest.mark.parametrize("k", [100, 300, 1000, 2000, 3000, 6000])
def test_assembly(race, k):
    rng = np.random.default_rng(0)
    A, x = rng.random((k, k)), rng.random(k)
    builder, one = JacobianBuilder(A, workers=2), JacobianBuilder(A, workers=1)
    m, nnz = builder.shape[0], builder.nnz
    sizes = (nnz, np.float64), (nnz, np.int32), (m + 1, np.int32)
    contestants = {
        "tocsr": lambda: builder.tocsr(x),
        "limit: filling three fresh arrays": lambda: filled(sizes),
        **two_threads(k, {"limit: the same, two threads": lambda: filled_on_two_threads(sizes)}),
        "one worker": lambda: one.tocsr(x),
        "variant: into fresh memory": into_fresh_memory(
            other := JacobianBuilder(A, workers=2), lambda: other.tocsr(x)
        ),
    }
    if k <= 3000:
        contestants["SciPy kron"] = lambda: peers.kronecker(A, x)
        i, j = builder.row_pairs()
        contestants["SciPy COO"] = lambda: peers.triplets(A.ravel(), i, j, x, builder.shape)
    for name, make, largest in (
        ("asdex", peers.asdex_jacobian, 100),
        ("CasADi", peers.casadi_jacobian, 300),
    ):
        evaluate = make(A, x) if k <= largest else None
        if evaluate is not None:
            contestants[name] = evaluate
    race("tocsr", f"k = {k}", contestants)


@pytest.mark.parametrize("k", [*SIZES[:2], 2000, *SIZES[2:]])
def test_assembly_of_the_numbers(race, k):
    rng = np.random.default_rng(0)
    A, x = rng.random((k, k)), rng.random(k)
    builder, one = JacobianBuilder(A, workers=2), JacobianBuilder(A, workers=1)
    J, J1 = builder.tocsr(x), one.tocsr(x)
    data = np.empty(builder.nnz)
    ordinary = JacobianBuilder(A, workers=2)
    ordinary._assembly.caches = sys.maxsize
    J2 = ordinary.tocsr(x)
    contestants = {
        "tocsr(out=)": lambda: builder.tocsr(x, out=J),
        "limit: data.fill": lambda: data.fill(1),
        **two_threads(
            k,
            {
                "limit: the same, two threads": lambda: on_two_threads(
                    lambda array: array.fill(1), data
                )
            },
        ),
        "one worker": lambda: one.tocsr(x, out=J1),
        "variant: ordinary stores": lambda: ordinary.tocsr(x, out=J2),
    }
    race("tocsr(out=J)", f"k = {k}", contestants)


def test_value(race, problem):
    k, A, x, _, _, others = problem
    (builder, _), (one, _) = two_forms(A, x)
    contestants = {
        "value": lambda: builder.value(x),
        "limit: A.copy()": A.copy,
        **two_threads(k, {"limit: the same, two threads": copied(A)}),
        "one worker": lambda: one.value(x),
    }
    race("F(x)", f"k = {k}", contestants | peers.take(others, "value", None))


def test_matvec(race, problem):
    k, A, x, v, _, others = problem
    (_, op), (_, one) = two_forms(A, x)
    third, third_op = two_forms(A, x)[0]
    rows, out = third._rows, np.zeros(k * k)
    operands = frozen(x), frozen(v)
    contestants = {
        "op @ v": lambda: op @ v,
        "limit: A.copy()": A.copy,
        **two_threads(k, {"limit: the same, two threads": copied(A)}),
        "one worker": lambda: one @ v,
        "variant: into fresh memory": into_fresh_memory(third, lambda: third_op @ v),
        "variant: ordinary stores": lambda: rows.map("matvec", *operands, out),
        "variant: past the caches": lambda: rows.map("matvec_past_caches", *operands, out),
    }
    race("J v", f"k = {k}", contestants | peers.take(others, "matvec", v))


def test_rmatvec(race, problem):
    k, A, x, _, w, others = problem
    (_, op), (_, one) = two_forms(A, x)
    a = A.ravel()
    contestants = {
        "op.T @ w": lambda: op.T @ w,
        "limit: np.dot(A, W)": lambda: np.dot(a, w),
        "one worker": lambda: one.T @ w,
    }
    race("Jᵀw", f"k = {k}", contestants | peers.take(others, "rmatvec", w))


def test_column_norms(race, problem):
    k, A, x, _, _, others = problem
    (_, op), (_, one) = two_forms(A, x)
    a = A.ravel()
    contestants = {
        "column_norms": op.column_norms,
        "limit: np.dot(A, A)": lambda: np.dot(a, a),
        "one worker": one.column_norms,
    }
    race("column norms", f"k = {k}", contestants | peers.take(others, "column_norms", None))


@pytest.mark.parametrize("operation", ["J V", "JᵀW"])
def test_blocks_of_8(race, problem, operation):
    k, A, x, v, w, others = problem
    (_, op), (_, one) = two_forms(A, x)
    (_, alone), _ = two_forms(A, x)  # a result of another size would take the spare memory
    if operation == "J V":
        V = np.random.default_rng(1).random((k, 8))
        contestants = {
            "op @ V": lambda: op @ V,
            "limit: filling the result": lambda: filled([(8 * k * k, np.float64)]),
            **two_threads(
                k,
                {
                    "limit: the same, two threads": lambda: filled_on_two_threads(
                        [(8 * k * k, np.float64)]
                    )
                },
            ),
            "one worker": lambda: one @ V,
            "variant: one vector": lambda: alone @ v,
        }
        others = peers.take(others, "matmat", V) if k <= 3000 else {}
    else:
        W = np.random.default_rng(1).random((k * k, 8))
        flat = W.ravel()
        contestants = {
            "op.T @ W": lambda: op.T @ W,
            "limit: np.dot(W, W)": lambda: np.dot(flat, flat),
            "one worker": lambda: one.T @ W,
            "variant: one vector": lambda: op.T @ w,
        }
        others = peers.take(others, "rmatmat", W) if k <= 3000 else {}
    race(f"{operation}, 8 vectors", f"k = {k}", contestants | others)


@pytest.mark.parametrize("operation", ["J v", "Jᵀw", "column norms", "F(x)"])
def test_layouts_and_dtypes(race, operation):
    """Not peers but ourselves: the same for float64 in C order, the first, and for other A."""
    k = 3000
    rng = np.random.default_rng(0)
    A, x, v, w = 100 * rng.random((k, k)), rng.random(k), rng.random(k), rng.random(k * k)
    variants = {
        "float64": A,
        "Fortran order": np.asfortranarray(A),
        "float32": A.astype(np.float32),
        "int32": A.astype(np.int32),
    }

    def times(A):
        dtype = np.float32 if A.dtype == np.float32 else np.float64
        builder, point = JacobianBuilder(A, workers=2), x.astype(dtype)
        op, forward, adjoint = builder.operator(point), v.astype(dtype), w.astype(dtype)
        return {
            "J v": lambda: op @ forward,
            "Jᵀw": lambda: op.T @ adjoint,
            "column norms": op.column_norms,
            "F(x)": lambda: builder.value(point),
        }[operation]

    contestants = {name: times(A) for name, A in variants.items()}
    contestants = {
        name if name == "float64" else f"variant: {name}": run for name, run in contestants.items()
    }
    race(f"{operation}, other A", f"dense, {k} rows", contestants)
