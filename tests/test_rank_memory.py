"""What operations with several columns of variables allocate, against their docstrings."""

import numpy as np
import pytest
import scipy.sparse
from support import random_csr, slow
from test_memory import MARGIN, frozen, peak  # noqa: F401  # a fixture

from sparsejac import JacobianBuilder, LeastSquares, fit

ROWS = 6000
CHECKS = 2 * 2**20  # of finiteness and symmetry, a MiB each
ROOM = 2**17  # in which the kernels treat tiles of dense rows
SUMS = 6  # arrays of the shape of X at most, for the one worker that so few entries have


def problem(form, *, bilinear):
    """A and a Y of the same structure."""
    if form == "csr":
        A = random_csr(ROWS, 20)
        A = A[: ROWS // 2] if bilinear else A
        Y = A.copy()
        Y.data = Y.data * 1.5
        return A, Y
    A = np.random.default_rng(0).random((700, 900 if bilinear else 700))
    return A, 1.5 * A


def operations(form, rank, *, bilinear):
    """{name: (function, the bytes that its docstring allows)}"""
    A, Y = problem(form, bilinear=bilinear)
    form_of = {"rank": rank, "bilinear": bilinear, "workers": 1}
    builder, least_squares = JacobianBuilder(A, **form_of), LeastSquares(A, Y, **form_of)
    if form == "csr":
        builder = JacobianBuilder(A, rows="stored", **form_of)
    count = sum(A.shape) if bilinear else A.shape[0]
    Z = np.random.default_rng(1).random((count, rank))
    z, m = Z.nbytes, builder.shape[0]
    blocks = z * rank
    room = 0 if form == "csr" else ROOM
    v, w = Z.ravel().copy(), np.ones(m)
    op = builder.operator(Z)
    N, H = op.normal(), least_squares.hess(Z)
    sums = (2 + SUMS) * z + room
    start = 12 * z * (rank + 2) // rank
    return {
        "value": (lambda: builder.value(Z), 8 * m + 2 * z),
        "tocsr": (lambda: builder.tocsr(Z), builder.csr_nbytes() + 2 * z),
        "J @ v": (lambda: op @ v, 8 * m + 2 * z),
        "J.T @ w": (lambda: op.T @ w, sums),
        "N @ v": (lambda: N @ v, sums),
        "N.block_diagonal": (N.block_diagonal, (2 + SUMS // 2) * blocks + room),
        "H @ v": (lambda: H @ v, sums),
        "LeastSquares": (lambda: LeastSquares(A, Y, **form_of), CHECKS + 8 * 12 * count),
        "value_and_grad": (lambda: least_squares.value_and_grad(Z * 1.0), sums + 2 * z),
        "fit": (
            lambda: fit(A, Y, Z, max_iter=20, **form_of),
            CHECKS + 16 * z + 3 * blocks + SUMS * z + room,
        ),
        "fit within bounds": (
            lambda: fit(A, Y, Z, max_iter=20, bounds=(0, 1), **form_of),
            CHECKS + 28 * z + 4 * blocks + SUMS * z + room,
        ),
        "fit from A and Y": (
            lambda: fit(A, Y, max_iter=3, **form_of),
            CHECKS + max(16 * z + 3 * blocks, start) + SUMS * z + room,
        ),
    }


@pytest.mark.filterwarnings("ignore:fit")
@pytest.mark.parametrize("bilinear", [False, True], ids=["symmetric", "bilinear"])
@pytest.mark.parametrize("rank", [3, *slow(9)])
@pytest.mark.parametrize("form", ["csr", *slow("C")])
def test_every_operation(form, rank, bilinear):
    for name, (function, allowed) in operations(form, rank, bilinear=bilinear).items():
        function()  # compiled
        found = peak(function)[1]
        assert found <= allowed + MARGIN, f"{name}: {found} bytes, {allowed} allowed"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:fit")
@pytest.mark.parametrize("bounds", [None, (0, 1)])
@pytest.mark.parametrize("form", ["csr", "C"])
def test_robust_fits(form, bounds):
    A, Y = problem(form, bilinear=False)
    Z = np.random.default_rng(1).random((A.shape[0], 3))
    z, blocks = 8 * Z.size, 8 * 3 * Z.size
    room = 0 if form == "csr" else ROOM
    allowed = CHECKS + (16 + SUMS) * z + 3 * blocks + room
    if bounds is not None:
        allowed += 12 * z + blocks

    def function():
        return fit(A, Y, Z, max_iter=20, rank=3, workers=2, loss="huber", bounds=bounds)

    function()  # compiled
    assert peak(function)[1] <= allowed + MARGIN


@pytest.mark.parametrize("bilinear", [False, True], ids=["symmetric", "bilinear"])
def test_the_builder_keeps_a_and_no_copy(bilinear):
    """Not of its indices either."""
    A, _ = problem("csr", bilinear=bilinear)
    JacobianBuilder(A, rank=3, bilinear=bilinear)
    builder, found = peak(lambda: JacobianBuilder(A, rank=3, bilinear=bilinear))
    assert found < 2**20 + 8 * 5 * sum(A.shape) + MARGIN
    assert np.shares_memory(builder._rows.source.values, A.data)
    assert np.shares_memory(builder._rows.pattern.indices, A.indices)
    assert scipy.sparse.issparse(A)
