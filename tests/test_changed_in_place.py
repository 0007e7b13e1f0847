"""An A or Y that its owner changes after it was handed over: the next call sees all of the change,
or none of it is believed.
"""

import copy
import gc
import itertools
import os
import pickle
import tempfile
import warnings
import weakref

import h5py
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
from support import integers

from sparsejac import JacobianBuilder, LeastSquares, RowSums, fit, symmetric_scaling
from sparsejac.io import write_csr_blocks

K = 40
x, v = np.random.default_rng(0).uniform(0.5, 1.5, (2, K))
BEFORE = np.ones((K, K))
AFTER = BEFORE + np.random.default_rng(1).integers(1, 9, (K, K))
AFTER += AFTER.T

FOLDERS = [
    None,
    *(["/dev/shm"] if os.access("/dev/shm", os.W_OK) else []),
]  # on tmpfs no mapped write changes the file's time


@pytest.fixture(params=FOLDERS, ids=["disk", "tmpfs"][: len(FOLDERS)])
def folder(request):
    with tempfile.TemporaryDirectory(dir=request.param) as name:
        yield name


class Owner:
    """Hands over a matrix, and changes it in place."""

    def __init__(self, folder, kind):
        self.A, self.values = getattr(self, kind)(folder)

    def _mapped(self, folder, array, name="A"):
        mapped = np.memmap(f"{folder}/{name}.bin", mode="w+", dtype=array.dtype, shape=array.shape)
        mapped[:] = array  # the pages are dirty when the matrix is handed over
        return mapped

    def memmap(self, folder):
        A = self._mapped(folder, BEFORE)
        return A, A

    def read_only_view_of_a_memmap(self, folder):
        A = self._mapped(folder, BEFORE)
        view = A.view()
        view.flags.writeable = False
        return view, A

    def path_of_a_mapped_npy(self, folder):
        path = f"{folder}/A.npy"
        mapped = np.lib.format.open_memmap(path, mode="w+", dtype=float, shape=(K, K))
        mapped[:] = BEFORE
        return path, mapped

    def memmap_opened_twice(self, folder):
        A = self._mapped(folder, BEFORE)
        return np.memmap(f"{folder}/A.bin", mode="r", dtype=float, shape=(K, K)), A

    def mapped_csr(self, folder):
        S = scipy.sparse.csr_array(BEFORE)
        data = self._mapped(folder, S.data)
        return scipy.sparse.csr_array((data, S.indices, S.indptr), shape=S.shape), data.reshape(
            K, K
        )

    def dataset(self, folder):
        dataset = h5py.File(f"{folder}/A.h5", "w").create_dataset("A", data=BEFORE, chunks=(7, 7))
        return dataset, dataset

    def in_memory(self, folder):
        A = BEFORE.copy()
        return A, A

    def change(self, numbers):
        self.values[...] = numbers


KINDS = [
    "memmap", "read_only_view_of_a_memmap", "path_of_a_mapped_npy", "memmap_opened_twice",
    "mapped_csr", "dataset", "in_memory",
]  # fmt: skip


def everything(builder, sums):
    op, J = builder.operator(x), sums.operator(x)
    normal = op.normal()
    return {
        "value": builder.value(x),
        "norms": op.column_norms(),
        "normal": normal @ v,
        "normal diagonal": normal.diagonal(),
        "normal array": normal.toarray(),
        "hessian diagonal": builder.hessian(np.ones(builder.shape[0])).diagonal(),
        "row sums": sums.value(x),
        "row sums' product": J @ v,
        "row sums' adjoint": J.T @ v,
        "row sums' diagonal": J.diagonal(),
        "row sums' array": J.toarray(),
        "nonzeros": sums.nonzeros(),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_call_sees_the_change(folder, kind):
    owner = Owner(folder, kind)
    builder, sums = JacobianBuilder(owner.A), RowSums(owner.A)
    everything(builder, sums)
    owner.change(AFTER)
    wanted = everything(JacobianBuilder(AFTER), RowSums(AFTER))
    for name, numbers in everything(builder, sums).items():
        np.testing.assert_allclose(numbers, wanted[name], rtol=1e-13, err_msg=name)


def test_pages_that_were_clean_when_the_matrix_was_handed_over(folder):
    """Then the first write changes the file's time, which is no reason to refuse it."""
    np.save(path := f"{folder}/A.npy", BEFORE)
    mapped = np.load(path, mmap_mode="r+")
    for A in (mapped, path):
        builder = JacobianBuilder(A)
        builder.value(x)
        mapped[0, 0] += 5
        assert builder.value(x)[0] == mapped[0, 0] * x[0] ** 2
        mapped[0, 0] = 1


def test_another_file_is_refused_even_so(folder):
    np.save(path := f"{folder}/A.npy", BEFORE)
    builder = JacobianBuilder(np.load(path, mmap_mode="r+"))
    np.save(other := f"{folder}/B.npy", AFTER)
    os.replace(other, path)
    with pytest.raises(ValueError, match="has changed since it was handed over as A"):
        builder.value(x)


def test_a_memmap_whose_file_is_gone(folder):
    np.save(path := f"{folder}/A.npy", BEFORE)
    A = np.load(path, mmap_mode="r")
    os.remove(path)
    with pytest.raises(
        FileNotFoundError,
        match=r"A.npy, of A, is not there any more: write it anew, or pass numpy.asarray\(A\)",
    ):
        JacobianBuilder(A)


@pytest.mark.parametrize("kind", KINDS)
def test_an_operator_of_row_sums_has_one_diagonal(folder, kind):
    """It keeps its A x; what its products read of A is all new."""
    owner = Owner(folder, kind)
    J = RowSums(owner.A).operator(x)
    owner.change(AFTER)
    np.testing.assert_allclose(J @ v, (BEFORE @ x) * v + x * (AFTER @ v), rtol=1e-13)
    np.testing.assert_allclose(J.diagonal(), BEFORE @ x + np.diag(AFTER) * x, rtol=1e-13)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "in_memory"])
@pytest.mark.parametrize("place", [(0, 5), (7, 7), (K - 1, 0)])
def test_nan_that_comes_later_is_refused(folder, kind, place):
    owner = Owner(folder, kind)
    builder, sums, problem = (
        JacobianBuilder(owner.A),
        RowSums(owner.A),
        LeastSquares(owner.A, np.ones((K, K))),
    )
    everything(builder, sums)
    problem.cost(2 * x)
    changed = BEFORE.copy()
    changed[place] = np.nan
    owner.change(changed)
    refused = pytest.raises(ValueError, match=r"A must be finite, but A\[\d+, \d+\] = nan")
    for call in (builder.value, lambda x: builder.operator(x).column_norms(), problem.cost):
        with refused:
            call(x)
    if place != (K - 1, 0):  # of row sums the upper triangle is read
        with refused:
            sums.value(x)


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind not in ("in_memory", "mapped_csr")]
)
def test_a_target_that_changes(folder, kind):
    owner = Owner(folder, kind)
    A = BEFORE.copy()
    problem = LeastSquares(A, owner.A)
    problem.hess(2 * x).diagonal()
    owner.change(AFTER)
    wanted = LeastSquares(A, AFTER)
    np.testing.assert_allclose(problem.hess(x).diagonal(), wanted.hess(x).diagonal(), rtol=1e-13)
    np.testing.assert_allclose(problem.cost(v), wanted.cost(v), rtol=1e-13)
    owner.change(np.nan)
    with pytest.raises(ValueError, match=r"Y must be finite, but Y\[0, 0\] = nan"):
        problem.cost(x)


@pytest.mark.parametrize(
    ("of_a", "as_vector"),  # a vector is read at once if A is in memory
    [("csr", False), *itertools.product(["mapped csr", "npy"], [False, True])],
)
def test_a_target_of_another_structure_that_changes(folder, of_a, as_vector):
    """Y is dense or a vector, and is aligned anew with the entries of A in each pass."""
    D = BEFORE * (np.random.default_rng(2).random((K, K)) < 0.5)
    S = scipy.sparse.csr_array(D)
    if of_a == "npy":
        np.save(f"{folder}/A.npy", D)
        A, numbers = f"{folder}/A.npy", (2 * D).ravel()
    else:
        A, numbers = S, 2 * S.data
    if of_a == "mapped csr":
        write_csr_blocks(f"{folder}/A", [(0, S)], shape=S.shape)
        A = f"{folder}/A"
    if not as_vector:
        numbers = 2 * D
    np.save(f"{folder}/Y.npy", numbers)
    Y = np.load(f"{folder}/Y.npy", mmap_mode="r+")
    problem = LeastSquares(A, Y)
    problem.cost(v)
    place = np.unravel_index(np.flatnonzero(Y)[-1], Y.shape)
    Y[place] += 1
    assert problem.cost(x) == pytest.approx(LeastSquares(A, np.array(Y)).cost(x), rel=1e-13)
    Y[place] = np.nan
    with pytest.raises(ValueError, match=r"Y must be finite, but Y\[\d+, \d+\] = nan"):
        problem.cost(v)


def test_an_a_in_memory_beside_a_target_on_disk(folder):
    np.save(path := f"{folder}/Y.npy", AFTER)
    A = BEFORE.copy()
    problem = LeastSquares(A, path)
    problem.hess(v).diagonal()  # a problem remembers what it found at its last x
    A[:] = AFTER
    np.testing.assert_allclose(
        problem.hess(x).diagonal(), LeastSquares(AFTER, AFTER).hess(x).diagonal(), rtol=1e-13
    )


@pytest.mark.parametrize("kind", ["memmap", "path_of_a_mapped_npy", "dataset", "in_memory"])
def test_signs_are_looked_at_when_a_scaling_begins(folder, kind):
    owner = Owner(folder, kind)
    sums = RowSums(owner.A)
    changed = BEFORE.copy()
    changed[3, 4] = changed[4, 3] = -1
    owner.change(changed)
    with pytest.raises(
        ValueError, match=r"A must have no negative entries, but A\[(3, 4|4, 3)\] = -1"
    ):
        sums._products.check_nonnegative()
    with pytest.raises(
        ValueError, match=r"A must have no negative entries, but A\[(3, 4|4, 3)\] = -1"
    ):
        symmetric_scaling(owner.A)


def test_columns_that_change_are_refused(folder):
    """A kernel that believed them would write beyond its arrays."""
    S = scipy.sparse.csr_array(BEFORE)
    indices = np.memmap(f"{folder}/indices.bin", mode="w+", dtype=np.int32, shape=S.indices.shape)
    indices[:] = S.indices
    data = np.memmap(f"{folder}/data.bin", mode="w+", dtype=float, shape=S.data.shape)
    data[:] = S.data
    builder = JacobianBuilder(scipy.sparse.csr_array((data, indices, S.indptr), shape=S.shape))
    builder.value(x)
    indices[K + 3] = 10**9
    for call in (
        lambda: builder.value(x),
        lambda: builder.operator(x).column_norms(),
        lambda: builder.tocsr(x),
    ):
        with pytest.raises(
            ValueError,
            match="the column indices of A have changed since it was handed over, in row 1",
        ):
            call()


# --- sparse matrices whose arrays are not those that were handed over

SPARSE = np.triu(integers((K, K), low=1, high=9), 30)
SPARSE = SPARSE + SPARSE.T  # entry (0, 0) is not stored


def new_data(S):
    S.data = 2 * S.data


def new_entry(S):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.sparse.SparseEfficiencyWarning)
        S[0, 0] = 5.0


def new_diagonal(S):
    S.setdiag(np.ones(K))


def fewer_entries(S):
    S.data[:3] = 0
    S.eliminate_zeros()


def fewer_rows(S):
    """SciPy cuts the arrays off, or leaves them as they are."""
    S.resize((K - 1, K) if S.format == "csr" else (K, K - 1))


def more_columns(S):
    """Only the shape changes."""
    S.resize((K, K + 1) if S.format == "csr" else (K + 1, K))


def no_array(S):
    S.indices = S.indices.tolist()


def no_data(S):
    del S.data


def fewer_entries_again(S):
    """As many as before, so that the number of entries does not tell."""
    fewer_entries(S)
    S[0, 0], S[1, 1], S[2, 2] = 1, 2, 3


REFUSED = (
    r"{0}\.(data|indices|indptr|shape) is not what it was when {0} was handed over, as after "
    r"`{0}\.data = \.\.\.`, `{0}\.resize|the structure of {0} has changed since it was handed "
    r"over: it had"
)
REPLACED = [
    new_data, new_entry, new_diagonal, fewer_entries, fewer_entries_again, fewer_rows, more_columns,
    no_array, no_data,
]  # fmt: skip


def sparse(folder, form):
    """A matrix of the user in this form. The numbers of a mapped one are in a file."""
    S = getattr(scipy.sparse, form.removeprefix("mapped_"))(SPARSE)
    if form.startswith("mapped_"):
        data = np.memmap(f"{folder}/data.bin", mode="w+", dtype=float, shape=S.data.shape)
        data[:] = S.data
        S.data = data
    return S


def passes_over_a(A):
    """Calls that read A."""
    order = "F" if A.format == "csc" else "C"
    builder, ranks = (JacobianBuilder(A, rows="stored", order=order, rank=r) for r in (None, 2))
    problem, sums, X = LeastSquares(A, A.copy(), order=order), RowSums(A), np.ones((K, 2))
    op, J, w = builder.operator(x), sums.operator(x), np.ones(A.nnz)
    at_rank, N, H, H_of_cost = ranks.operator(X), op.normal(), builder.hessian(w), problem.hess(x)
    problem.cost(x)
    return [
        lambda: builder.value(x), lambda: builder.operator(x), lambda: builder.tocsr(x),
        builder.row_pairs, lambda: builder.slice(x, 3), lambda: builder.hessian(w),
        lambda: list(builder.iter_csr(x, block_rows=5)), lambda: op @ v, lambda: op.T @ w,
        lambda: op.normal() @ v, op.column_norms, lambda: ranks.value(X),
        lambda: at_rank @ np.ones(2 * K), lambda: at_rank.normal() @ np.ones(2 * K),
        lambda: problem.cost(v), lambda: problem.hess(2 * v) @ v, lambda: problem.fun(v),
        lambda: problem.cost(x), lambda: problem.grad(x), N.diagonal, N.block_diagonal,
        H.diagonal, H_of_cost.diagonal, J.diagonal, lambda: ranks.hessian(w).diagonal(),
        lambda: sums.value(x), lambda: J @ v, lambda: fit(problem, x0=v),
        lambda: pickle.dumps(builder), lambda: pickle.dumps(problem),
    ]  # fmt: skip


@pytest.mark.parametrize("form", ["csr_array", "csc_matrix", "mapped_csr_array"])
@pytest.mark.parametrize("change", REPLACED)
def test_arrays_of_a_that_are_replaced_are_refused(tmp_path, change, form):
    A = sparse(tmp_path, form)
    calls = passes_over_a(A)
    for call in calls:
        call()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.sparse.SparseEfficiencyWarning)
        change(A)
    for call in calls:
        with pytest.raises(ValueError, match=REFUSED.format("A")):
            call()


@pytest.mark.parametrize("loss", ["linear", "cauchy"])
@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("forms", [("csr_array", "csr_matrix"), ("mapped_csr_array", "csr_array")])
@pytest.mark.parametrize("change", REPLACED)
def test_arrays_of_y_that_are_replaced_are_refused(tmp_path, change, forms, symmetric, rank, loss):
    """Y has the structure of A, and its arrays are read. Otherwise it is copied."""
    A, Y = (sparse(tmp_path, form) for form in forms)
    if not symmetric:
        Y.data[-1] += 1
    problem = LeastSquares(A, Y, rank=rank, loss=loss)
    z = np.ones((K, 2)) if rank else x
    problem.cost(z)
    twin, H = copy.copy(problem), problem.hess(z)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.sparse.SparseEfficiencyWarning)
        change(Y)
    for call in (
        lambda: problem.cost(2 * z), lambda: problem.grad(3 * z), lambda: problem.fun(z),
        lambda: problem.hess(4 * z) @ z.ravel(), lambda: problem.cost(z), lambda: twin.cost(z),
        H.diagonal, lambda: H @ z.ravel(), lambda: pickle.dumps(problem),
        lambda: copy.copy(problem), lambda: copy.deepcopy(problem),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=REFUSED.format("Y")):
            call()


def test_arrays_that_are_cut_off_are_the_same(tmp_path):
    """SciPy makes new arrays of the same memory."""
    A = sparse(tmp_path, "csr_array")
    problem, sums = LeastSquares(A, A.copy()), RowSums(A)
    A.eliminate_zeros()  # there are none
    A.sum_duplicates()
    A.prune()
    A.data[:] *= 2
    np.testing.assert_array_equal(problem.fun(x), A.data * np.outer(x, x)[A.nonzero()] - A.data / 2)
    np.testing.assert_allclose(sums.value(x), x * (A @ x), rtol=1e-14)


@pytest.mark.parametrize("copied", [pickle.loads, None])
def test_a_copy_does_not_follow(tmp_path, copied):
    A = sparse(tmp_path, "csr_array")
    builder, problem = JacobianBuilder(A, rows="stored"), LeastSquares(A, 2 * A)
    before = builder.value(x), problem.cost(x)
    both = (builder, problem)
    builder, problem = copied(pickle.dumps(both)) if copied else copy.deepcopy(both)
    new_data(A)
    np.testing.assert_array_equal(builder.value(x), before[0])
    assert problem.cost(2 * x / 2) == before[1]


@pytest.mark.parametrize("form", ["csr_array", "csc_array"])
def test_an_entry_in_a_matrix_that_had_none(form):
    A, Y = (getattr(scipy.sparse, form)((K, K)) for _ in range(2))
    order = "F" if form == "csc_array" else "C"
    problem = LeastSquares(A, Y, order=order, rows="all")
    problem.cost(x)
    new_entry(Y)
    with pytest.raises(ValueError, match=REFUSED.format("Y")):
        problem.cost(v)
    new_entry(A)
    for call in (problem.builder.value, problem.builder.tocsr):
        with pytest.raises(ValueError, match=REFUSED.format("A")):
            call(x)


def test_row_pointers_whose_file_was_cut(tmp_path):
    """They were read once. To read them again would crash the process."""
    A = scipy.sparse.csr_array((5000, 5000))
    for part in ("data", "indices", "indptr"):
        np.save(tmp_path / part, getattr(scipy.sparse.eye_array(5000, format="csr"), part))
        setattr(A, part, np.load(tmp_path / f"{part}.npy", mmap_mode="r"))
    builder = JacobianBuilder(A, rows="stored")
    os.truncate(tmp_path / "indptr.npy", 0)
    np.testing.assert_array_equal(builder.value(np.ones(5000)), 1)


def test_what_is_not_read_is_not_kept(tmp_path):
    A = sparse(tmp_path, "csr_array")
    Y = A.copy()
    kept = [weakref.ref(each) for each in (A, Y, Y.indices)]
    problem = LeastSquares(A, Y)
    del A, Y
    gc.collect()
    assert not any(each() is not None for each in kept)
    assert problem.cost(x) > 0


def test_entries_that_a_callback_of_a_scaling_removes():
    """The copy without dropped entries has the index arrays of A."""
    first = np.array([[500.0, 5], [5, 0]])  # entry (0, 0) is dropped
    A, calls = scipy.sparse.csr_array(scipy.linalg.block_diag(first, AFTER)), []
    A.data[-1] = 0

    def callback(state):
        calls.append(state)
        A.eliminate_zeros()

    with pytest.raises(ValueError, match=REFUSED.format("A")):
        symmetric_scaling(A, support="drop", callback=callback)
    assert len(calls) == 1


def test_a_matrix_that_was_dropped(tmp_path):
    A = sparse(tmp_path, "csr_array")
    builder, wanted = JacobianBuilder(A, rows="stored"), A.data * np.outer(x, x)[A.nonzero()]
    del A
    gc.collect()
    np.testing.assert_array_equal(builder.value(x), wanted)
