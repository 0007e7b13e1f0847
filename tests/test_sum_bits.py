"""The bits of a sum depend on A alone: not on `workers`, and of a streamed A not on `memory`."""

import re

import h5py
import numpy as np
import pytest
import scipy.sparse
from support import random_csr

from sparsejac import JacobianBuilder, LeastSquares, RowSums

K = 1100  # of a dense A enough entries for four partial sums, and bytes for two units
rng = np.random.default_rng(0)
DENSE = rng.random((K, K))
DENSE += DENSE.T
SPARSE = random_csr(6000, 180)
SPARSE = (SPARSE + SPARSE.T).tocsr()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    np.save(folder / "rows.npy", DENSE)
    np.save(folder / "columns.npy", np.asfortranarray(DENSE))
    for name in ("data", "indices", "indptr"):
        np.save(folder / f"{name}.npy", getattr(SPARSE, name))
    with h5py.File(folder / "chunks.h5", "w") as file:
        file.create_dataset("odd", data=DENSE, chunks=(7, 50))
        file.create_dataset("three", data=DENSE, chunks=(3, 100))
        yield {
            "rows": str(folder / "rows.npy"),
            "columns": str(folder / "columns.npy"),
            "chunks of 7 rows": file["odd"],
            "chunks of 3 rows": file["three"],
            "function": lambda i0, i1: DENSE[i0:i1],
            "csr": scipy.sparse.csr_array(
                tuple(
                    np.load(folder / f"{name}.npy", mmap_mode="r")
                    for name in ("data", "indices", "indptr")
                )
            ),
        }


def least_memory(A, **options):
    with pytest.raises(ValueError, match="memory must be at least") as caught:
        RowSums(A, memory=1, **options)
    return int(re.search(r"at least (\d+) bytes", str(caught.value))[1])


@pytest.mark.cross_product
@pytest.mark.parametrize(
    "kind", ["rows", "columns", "chunks of 7 rows", "chunks of 3 rows", "function", "csr"]
)
def test_streamed(files, kind):
    A = files[kind]
    k = SPARSE.shape[0] if kind == "csr" else K
    x, v = np.random.default_rng(1).random((2, k))
    Y = (
        scipy.sparse.csr_array((SPARSE.data**2, SPARSE.indices, SPARSE.indptr))
        if kind == "csr"
        else DENSE**2
    )
    w = np.random.default_rng(2).random(SPARSE.nnz if kind == "csr" else K * K)
    found = {}
    for workers in (1, 2, 5):
        least = least_memory(A, workers=workers)
        for memory in (None, 2 * least, least + least // 5):
            options = {"rows": "stored", "workers": workers, "memory": memory}
            op = JacobianBuilder(A, **options).operator(x)
            problem = LeastSquares(A, Y, **options)
            sums = {
                "norms": op.column_norms(),
                "Jᵀw": op.T @ w,
                "JᵀJ v": op.normal() @ v,
                "JᵀJ V": op.normal() @ np.stack([v, x, v + x], axis=1),
                "cost": problem.cost(x),
                "gradient": problem.grad(x),
                "hessp": problem.hessp(x, v),
                "start": np.hstack(problem._sums.beginning()),
                "row sums": RowSums(A, workers=workers, memory=memory).value(x),
            }
            for name, numbers in sums.items():
                found.setdefault(name, set()).add(np.asarray(numbers).tobytes())
    assert {name: len(different) for name, different in found.items()} == dict.fromkeys(found, 1)


@pytest.mark.parametrize("workers", [2, 64, 500])
def test_many_workers_get_smaller_blocks_and_the_same_bits(files, workers):
    """Without `memory`, 256 MiB are shared by all threads."""
    x = np.random.default_rng(1).random(K)
    one, other = (
        JacobianBuilder(files["rows"], workers=count).operator(x).column_norms()
        for count in (1, workers)
    )
    assert one.tobytes() == other.tobytes()


@pytest.mark.slow
def test_the_last_rows_of_a_unit(files, tmp_path):
    """Sizes that leave one to three rows behind the last four."""
    for k in (1, 2, 3, 5, 1025, 1026, 1027):
        A = np.random.default_rng(k).random((k, k))
        np.save(path := tmp_path / f"{k}.npy", A)
        x = np.random.default_rng(1).random(k)
        found = set()
        for workers in (1, 3):
            least = least_memory(str(path), workers=workers, uplo="U")
            for memory in (None, least, least + 10_000):
                op = JacobianBuilder(path, workers=workers, memory=memory).operator(x)
                found.add((op.column_norms().tobytes(), (op.T @ np.ones(k * k)).tobytes()))
        assert len(found) == 1
