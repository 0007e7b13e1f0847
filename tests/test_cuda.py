"""An A on a GPU, compared with the same A in memory: see `cuda/cuda_checks.py`."""

import cuda_checks
import numpy as np
import oracle
import pytest
import scipy.sparse
from cuda_checks import (
    assert_equal,
    check_least_squares,
    check_maps,
    check_products,
    check_row_sums,
    matrix,
    on_gpu,
)
from support import integers

from sparsejac import JacobianBuilder, LeastSquares, RowSums, fit, symmetric_scaling
from sparsejac._backends import cuda_sums

fibers, gpu = cuda_checks.fibers, cuda_checks.gpu  # fixtures
RNG = np.random.default_rng(20)

# around the borders of warps, of blocks of warps, and of tiles; 1024 columns make a tile
SIZES = [0, 1, 2, 7, 9, 31, 33, 63, 64, 65, 130]
LARGE = [1025]
FORMS = ["dense", "sparse"]
TYPES = [np.float64, np.float32]
ROWS = ["all", "stored", "upper"]


def test_a_dense_problem(gpu):
    """The one that runs by default."""
    A, Y = (matrix(65, "dense", seed=seed) for seed in (0, 1))
    here, there = LeastSquares(A, Y), LeastSquares(on_gpu(A), on_gpu(Y))
    x, v = integers((65,), seed=1), integers((65,), seed=2)
    assert there.cost(x) == here.cost(x)
    assert_equal(there.grad(x), here.grad(x))
    J, ours = here.jac(x), there.jac(x)
    assert_equal(ours @ v, J @ v)
    w = J @ v
    assert_equal(ours.T @ on_gpu(w), J.T @ w)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("k", SIZES)
def test_sizes(gpu, form, k):
    for symmetric in (False, True):
        A, Y = (matrix(k, form, symmetric=symmetric, seed=seed) for seed in (0, 0))
        Y = 2 * Y
        for rows in ROWS if symmetric else ROWS[:2]:
            check_maps(A, rows)
            check_products(A, rows)
            check_least_squares(A, Y, rows)
        if symmetric:
            check_row_sums(A)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("k", LARGE)
def test_large_sizes(gpu, form, k):
    """More columns than a tile has. They cost more than the others together."""
    A = matrix(k, form)
    check_maps(A, "stored")
    check_least_squares(A, 2 * A, "stored")
    check_least_squares(matrix(k, form, symmetric=True), matrix(k, form, symmetric=True), "upper")
    check_row_sums(matrix(k, form, symmetric=True))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("y_dtype", TYPES)
@pytest.mark.parametrize("dtype", TYPES)
def test_types(gpu, form, dtype, y_dtype):
    """x is float64, and so are results, unless A and x are float32."""
    A, S = matrix(70, form, dtype), matrix(70, form, dtype, symmetric=True)
    check_maps(A, "stored")
    check_products(A, "stored")
    check_least_squares(A, (2 * A).astype(y_dtype), "stored")
    check_row_sums(S)
    x = integers((70,), np.float32, seed=1)
    there, here = JacobianBuilder(on_gpu(A), rows="all"), JacobianBuilder(A, rows="all")
    assert there.value(x).dtype == dtype
    assert_equal(there.operator(x) @ x, here.operator(x) @ x)
    assert_equal(there.tocsr(x), here.tocsr(x))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_a_symmetric_matrix_and_another_target(gpu, form):
    A = matrix(70, form, symmetric=True)
    Y = matrix(70, form, seed=1) if form == "dense" else A.copy()
    if form == "sparse":
        Y.data = integers(Y.data.shape, seed=3)
    check_least_squares(A, Y, "stored")


@pytest.mark.slow
@pytest.mark.parametrize("height", [128, 256])
def test_tiles_of_large_matrices(gpu, monkeypatch, height):
    monkeypatch.setattr(cuda_sums, "tile_rows", lambda k: height)
    for k in (height - 1, height, height + 1):
        check_least_squares(matrix(k, "dense"), matrix(k, "dense", seed=1), "all")
        check_row_sums(matrix(k, "dense", symmetric=True))


def test_heights_of_tiles():
    """A tile has a row for each number of the array that the kernel keeps for its rows."""
    assert [cuda_sums.tile_rows(k) for k in (1, 4095, 4096, 16384, 10**6)] == [
        64,
        64,
        128,
        256,
        256,
    ]


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_a_dense_loop(gpu, form):
    """The oracle that shares no code with either library."""
    A, Y = (matrix(7, form, symmetric=True, seed=seed) for seed in (0, 0))
    dense = np.asarray(A.toarray() if form == "sparse" else A)
    stored = dense != 0 if form == "sparse" else np.ones((7, 7), bool)
    if form == "sparse":
        A = scipy.sparse.csr_array(dense)
        Y = A
    x, v = integers((7,), seed=1), integers((7,), seed=2)
    for rows in ROWS:
        pairs = oracle.rows_of_J(stored.tolist(), rows, "C")
        problem = LeastSquares(on_gpu(A), on_gpu(Y), rows=rows)
        J = np.array(oracle.jacobian(dense.tolist(), x.tolist(), pairs)).reshape(-1, 7)
        cost, gradient, product, squares = oracle.least_squares(
            dense.tolist(), dense.tolist(), x.tolist(), v.tolist(), pairs
        )
        assert_equal(problem.builder.value(x), np.array(oracle.value(dense, x, pairs)))
        assert_equal(problem.jac(x) @ v, J @ v)
        np.testing.assert_array_equal(problem.jac_csr(x).get().toarray(), J)
        assert problem.cost(x) == cost
        np.testing.assert_array_equal(problem.grad(x), gradient)
        np.testing.assert_array_equal(problem.hess(x) @ v, product)
        np.testing.assert_array_equal(problem.normal(x).diagonal(), squares)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "how",
    [
        {"ignore_diags": 1},
        {"ignore_diags": 3},
        {"groups": np.arange(40) // 9, "pairs": "within"},
        {"groups": np.arange(40) // 9, "pairs": "between"},
    ],
    ids=str,
)
def test_row_sums_of_a_part(gpu, form, how):
    check_row_sums(matrix(40, form, symmetric=True), **how)


def with_another_zero(A):
    """A without its first entry, and with a zero that A does not store: as many entries as A."""
    A, stored = A.tocoo(), np.zeros(A.shape, bool)
    stored[A.row, A.col] = True
    i, j = np.argwhere(~stored)[-1]
    arrays = (np.append(each[1:], new) for each, new in ((A.data, 0), (A.row, i), (A.col, j)))
    data, rows, columns = arrays
    return scipy.sparse.coo_array((data, (rows, columns)), shape=A.shape).tocsr()


@pytest.mark.slow
@pytest.mark.parametrize("rows", ROWS)
def test_targets(gpu, rows):
    """Y as a vector, dense beside a sparse A, and with another structure than A."""
    for form in FORMS:
        A = matrix(33, form, symmetric=True)
        here = LeastSquares(A, A, rows=rows)
        x = integers((33,), seed=1)
        y = JacobianBuilder(A, rows=rows).value(np.ones(33))
        targets = [y]
        if form == "sparse":
            fewer = A.copy()
            fewer.data[::3] = 0
            fewer.eliminate_zeros()
            targets += [A.toarray()] + [fewer, with_another_zero(A)] * (rows != "upper")
        for Y in targets:
            here, there = (
                LeastSquares(A, Y, rows=rows),
                LeastSquares(on_gpu(A), on_gpu(Y), rows=rows),
            )
            assert there.cost(x) == here.cost(x)
            assert_equal(there.grad(x), here.grad(x))
            assert_equal(there.fun(x), here.fun(x))
            assert_equal(there.hess(x).diagonal(), here.hess(x).diagonal())


@pytest.mark.slow
def test_a_triangle_as_target(gpu):
    """With rows="upper", Y may be zero below its diagonal."""
    A, x = matrix(40, "dense", symmetric=True), integers((40,), seed=1)
    for Y in (np.triu(A), A):
        here, there = (LeastSquares(put(A), put(Y), rows="upper") for put in (np.asarray, on_gpu))
        assert there.cost(x) == here.cost(x)
    with pytest.raises(ValueError, match="holds its lower triangle only"):
        LeastSquares(on_gpu(A), on_gpu(np.tril(A)), rows="upper")


# --- solvers


def problems():
    for form in FORMS:
        for symmetric in (False, True):
            A = matrix(70, form, symmetric=symmetric, random=True)
            Y = A * np.outer(A.sum(0), A.sum(0)) if form == "dense" else A.multiply(A).tocsr()
            yield form, symmetric, A, Y


@pytest.mark.slow
def test_fits(gpu):
    for form, symmetric, A, Y in problems():
        noisy = Y + 0.1 * A
        for target in (Y, noisy) if form == "dense" else (noisy,):
            for rows in (None, "upper") if symmetric else (None,):
                here, there = fit(A, target, rows=rows), fit(on_gpu(A), on_gpu(target), rows=rows)
                assert (there.nit, there.status) == (here.nit, here.status), (form, rows)
                assert there.success
                np.testing.assert_allclose(there.x, here.x, rtol=1e-9)


@pytest.mark.slow
def test_fits_to_a_vector_from_an_x0(gpu):
    for form, _, A, _ in problems():
        x = RNG.uniform(0.5, 1.5, A.shape[0])
        here, there = JacobianBuilder(A, rows="stored"), JacobianBuilder(on_gpu(A), rows="stored")
        one = fit(A, here.value(x), x0=x + 0.1)
        other = fit(on_gpu(A), there.value(x), x0=x + 0.1)
        assert one.nit == other.nit, form
        np.testing.assert_allclose(other.x, one.x, rtol=1e-9)


@pytest.mark.slow
def test_a_fit_within_bounds(gpu):
    _, _, A, Y = next(iter(problems()))
    here, there = fit(A, Y, bounds=(0, 2)), fit(on_gpu(A), on_gpu(Y), bounds=(0, 2))
    assert here.nit == there.nit
    np.testing.assert_allclose(there.x, here.x, rtol=1e-9)


@pytest.mark.slow
def test_scalings(gpu):
    for form, symmetric, A, _ in problems():
        if not symmetric:
            continue
        if form == "sparse":
            A = scipy.sparse.csr_array(A + 0.1 * scipy.sparse.eye_array(70))  # noqa: PLW2901
        for how in ({}, {"ignore_diags": 1}):
            here, there = symmetric_scaling(A, **how), symmetric_scaling(on_gpu(A), **how)
            assert (there.nit, there.status) == (here.nit, here.status)
            np.testing.assert_allclose(there.x, here.x, rtol=1e-9)


@pytest.mark.slow
def test_a_matrix_without_a_scaling(gpu):
    """The entries that are needed to find that out come to this process."""
    for A in ([[0, 0, 5.0], [0, 8, 1], [5, 1, 0]], [[0, 1.0, 1], [1, 0, 0], [1, 0, 0]]):
        for put in (np.asarray, scipy.sparse.csr_array):
            here, there = symmetric_scaling(put(A)), symmetric_scaling(on_gpu(put(A)))
            assert (there.status, there.message) == (here.status, here.message)


# --- what may depend on the machine


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_bits(gpu, form, symmetric):
    """They are the same in five runs, and for every order of the threads."""
    A = matrix(70, form, symmetric=symmetric, random=True)
    x, v = RNG.random(70), RNG.random(70)
    w = RNG.random(JacobianBuilder(A, rows="stored").shape[0])

    def results():
        problem = LeastSquares(on_gpu(A), on_gpu(2 * A), rows="stored")
        J = problem.jac(x)
        yield J @ v
        yield J.T @ on_gpu(w)
        yield J.normal() @ v
        yield problem.grad(x)
        yield np.float64(problem.cost(x))
        yield problem.hess(x) @ v
        if symmetric:
            yield RowSums(on_gpu(A)).value(x)

    found = []
    for order in (0, 1, 2, 0, 1):
        gpu.order = order
        found.append([(r.get() if hasattr(r, "get") else r).tobytes() for r in results()])
    assert all(each == found[0] for each in found)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_nothing_of_m_numbers_reaches_this_process(fibers, form):
    """Neither in checks, nor in a product or a solver."""
    k = 70
    A = matrix(k, form, symmetric=True, random=True)
    Y = on_gpu(2 * A)
    there, x = on_gpu(A), np.ones(k)
    fibers.downloads.clear()
    fibers.uploads.clear()
    J = JacobianBuilder(there, rows="stored").operator(x)
    J.T @ (J @ x)
    J.tocsr()
    J.normal() @ x
    fit(there, Y)
    RowSums(there).value(x)
    LeastSquares(there, Y).fun(x)
    assert 0 < max(fibers.downloads) <= 4 * k
    assert 0 < max(fibers.uploads) <= k + 1


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_values_that_change(gpu, form):
    """A is not copied. What is made after a change sees it, whether or not A is symmetric still."""
    A = matrix(40, form, symmetric=True)
    x, v = integers((40,), seed=1), integers((40,), seed=2)
    there = on_gpu(A)
    builder = JacobianBuilder(there, rows="stored")
    assert_equal(builder.operator(x).normal() @ v, JacobianBuilder(A).operator(x).normal() @ v)
    numbers, on_card = (A.data, there.data) if form == "sparse" else (A, there)
    place = 5 if form == "sparse" else (7, 30)
    numbers[place] = on_card[place] = 9
    here = JacobianBuilder(A, rows="stored")
    assert_equal(builder.value(x), here.value(x))
    assert_equal(builder.operator(x).normal() @ v, here.operator(x).normal() @ v)
    assert_equal(builder.operator(x).column_norms(), here.operator(x).column_norms())
