"""Real matrices, where they are on this machine."""

import gzip
import itertools
import subprocess
import sys

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from support import slow

from sparsejac import JacobianBuilder, cli, symmetric_scaling
from sparsejac.testing import check_jacobian

GRAPHS = [
    "graph_karate",
    "graph_airfoil",
    "graph_facebook",
    "graph_as_caida",
    "graph_enron",
    "struct_bcsstk13",
    "grid_494_bus",
]
MAPS = ["hic_yeast_10kb", "hic_dm6_100kb", "hic_gm12878_2mb"]


@pytest.mark.slow  # kernels for int32 counts
@pytest.mark.parametrize("name", GRAPHS + MAPS)
def test_checks_hold(real_data, name):
    A = scipy.sparse.load_npz(real_data(f"{name}.npz"))
    x = 1 / np.sqrt(1.0 + abs(A).sum(axis=0))
    for rows in ("stored", "upper"):
        assert len(check_jacobian(A, np.asarray(x).ravel(), rows=rows)) == 8


@pytest.mark.parametrize("name", ["graph_karate", "graph_facebook"])
def test_degrees(real_data, name):
    """Jᵀ1 at x = 1 is twice the degree, for a symmetric A of ones."""
    A = scipy.sparse.load_npz(real_data(f"{name}.npz")).astype(np.float64)
    op = JacobianBuilder(A, rows="stored").operator(np.ones(A.shape[0]))
    np.testing.assert_array_equal(op.T @ np.ones(A.nnz), 2 * np.asarray(A.sum(axis=0)).ravel())


@pytest.mark.slow
def test_build_and_check_a_contact_map(real_data, tmp_path, capsys):
    """`sparsejac build` and `check` on 1380 bins and 1.8 million counts."""
    path = real_data("hic_dm6_100kb.npz")
    np.save(tmp_path / "x.npy", np.linspace(0.5, 1.5, 1380))
    assert (
        cli.main(
            [
                "build",
                str(path),
                str(tmp_path / "x.npy"),
                "-o",
                str(tmp_path / "J.npz"),
                "--rows",
                "stored",
            ]
        )
        == 0
    )
    J = scipy.sparse.load_npz(tmp_path / "J.npz")
    A = scipy.sparse.load_npz(path)
    assert J.shape == (A.nnz, 1380)
    assert J.nnz == 2 * A.nnz - np.count_nonzero(A.diagonal())
    assert cli.main(["check", str(path), str(tmp_path / "x.npy")]) == 0
    assert "8 of 8 checks hold" in capsys.readouterr().out


def test_gzipped_matrix_market(real_data, tmp_path, capsys):
    A = scipy.sparse.load_npz(real_data("graph_airfoil.npz"))
    scipy.io.mmwrite(tmp_path / "A.mtx", scipy.sparse.coo_matrix(A).astype(np.float64))
    (tmp_path / "A.mtx.gz").write_bytes(gzip.compress((tmp_path / "A.mtx").read_bytes()))
    assert cli.main(["check", str(tmp_path / "A.mtx.gz")]) == 0
    assert "8 of 8 checks hold" in capsys.readouterr().out


def many_contigs(seed=0):
    """10 million rows, 3673 stored entries, symmetric: the shape of a genome assembly in very many
    pieces.
    """
    k, rng = 10**7, np.random.default_rng(seed)
    i, j = rng.integers(0, k, (2, 1836))
    i, j, a = np.concatenate([i, j, [5]]), np.concatenate([j, i, [5]]), np.ones(3673)
    return scipy.sparse.coo_array((a, (i, j)), shape=(k, k)).tocsr()


def many_contigs_of_cooler(path):
    h5py = pytest.importorskip("h5py", reason="reading a .cool file takes h5py")
    with h5py.File(path) as file:
        pixels = {name: file[f"pixels/{name}"][:] for name in ("bin1_id", "bin2_id", "count")}
        k = file["bins/start"].shape[0]
    return scipy.sparse.coo_array(
        (pixels["count"], (pixels["bin1_id"], pixels["bin2_id"])), shape=(k, k)
    ).tocsr()


@pytest.mark.parametrize("source", slow("made", "file"))
def test_ten_million_rows_with_few_entries(source, request):
    A = (
        many_contigs()
        if source == "made"
        else many_contigs_of_cooler(request.getfixturevalue("real_data")("manycontigs.1.cool"))
    )
    k = A.shape[0]
    assert k == 10**7
    builder = JacobianBuilder(A, rows="stored")
    x = np.ones(k)
    J, op = builder.tocsr(x), builder.operator(x)
    assert J.shape == (A.nnz, k)
    np.testing.assert_array_equal(op @ x, 2 * A.data)
    np.testing.assert_array_equal(
        op.T @ np.ones(A.nnz), np.asarray(A.sum(axis=0) + A.sum(axis=1)).ravel()
    )
    np.testing.assert_array_equal((J.T @ np.ones(A.nnz)), op.T @ np.ones(A.nnz))


@pytest.mark.slow
def test_ten_million_rows_stay_below_a_gibibyte():
    program = """
import numpy as np, scipy.sparse
from sparsejac import JacobianBuilder
from sparsejac._system import machine
k = 10**7
i = np.arange(3673) * 2000
A = scipy.sparse.coo_array((np.ones(3673), (i, i[::-1])), shape=(k, k)).tocsr()
builder = JacobianBuilder(A, rows="stored")
x = np.ones(k)
op = builder.operator(x)
assert builder.tocsr(x).shape == (3673, k)
assert (op @ x).sum() == 2 * 3673
assert (op.T @ np.ones(3673)).sum() == 2 * 3673
print(machine.peak_memory())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300
    )
    assert int(done.stdout) < 2**30


def assert_same_but_for_a_factor(x, expected):
    """To 1e-6, where both have numbers; and they have them in the same places."""
    kept = np.isfinite(expected)
    np.testing.assert_array_equal(np.isfinite(x), kept)
    ratio = x[kept] / expected[kept]
    np.testing.assert_allclose(ratio / np.median(ratio), 1, rtol=1e-6)


@pytest.mark.parametrize("name", ["hic_yeast_10kb", "hic_dm6_100kb"])
def test_stored_weights_of_cooler(real_data, name):
    A = scipy.sparse.load_npz(real_data(f"{name}.npz"))
    weight = np.load(real_data(f"{name}_weights.npz"))["weight"]
    result = symmetric_scaling(A, mask=np.isnan(weight), ignore_diags=2)
    assert result.success
    assert_same_but_for_a_factor(result.x, weight)
    upper = symmetric_scaling(
        scipy.sparse.triu(A).tocsr(), uplo="U", mask=np.isnan(weight), ignore_diags=2
    )
    np.testing.assert_allclose(upper.x, result.x, rtol=1e-7)


def test_stored_vector_of_juicer(real_data):
    A = scipy.sparse.load_npz(real_data("hic_dm6_100kb.npz"))
    stored = np.load(real_data("hic_dm6_100kb_weights.npz"))
    expected, chromosome = 1 / stored["KR"], stored["chrom"]
    result = symmetric_scaling(
        A, mask=~np.isfinite(expected), groups=chromosome, pairs="within", min_nnz=1
    )
    assert result.success
    for one in np.unique(chromosome[np.isfinite(expected)]):
        assert_same_but_for_a_factor(result.x[chromosome == one], expected[chromosome == one])


@pytest.mark.parametrize(
    ("name", "epsilon"),
    [
        *((name, 1e-4) for name in GRAPHS[:3]),
        *slow(*itertools.product(GRAPHS[:3], [1e-2, 1e-6]), ("graph_as_caida", 1e-4)),
    ],
)
def test_weakly_supported_graphs(real_data, name, epsilon):
    A = scipy.sparse.load_npz(real_data(f"{name}.npz")).astype(np.float64)
    A = scipy.sparse.csr_array(A + epsilon * scipy.sparse.eye_array(A.shape[0]))
    result = symmetric_scaling(A)
    assert result.success
    assert np.max(np.abs(result.x * (A @ result.x) - 1)) <= 1.01e-8


def test_degrees_as_targets(real_data):
    """With its degrees as targets, a graph is scaled as it is."""
    A = scipy.sparse.load_npz(real_data("graph_facebook.npz"))
    result = symmetric_scaling(A, np.asarray(A.sum(axis=0), np.float64).ravel(), support="check")
    assert result.success
    np.testing.assert_allclose(result.x, 1)


def test_a_map_without_total_support(real_data):
    A = scipy.sparse.load_npz(real_data("hic_gm12878_2mb.npz"))
    result = symmetric_scaling(A, min_nnz=1)
    assert result.status == 5
    assert "no total support: 234 of its entries" in result.message
    assert result.n_products < 100
    dropped = symmetric_scaling(A, min_nnz=1, support="drop")
    assert (dropped.status, dropped.residual_after_dropping <= 1e-8, dropped.residual > 1) == (
        6,
        True,
        True,
    )
    left = symmetric_scaling(A, min_nnz=1, support="drop_rows")
    assert left.success
    assert left.left_out["support"] < 100
    inside = A[left.kept][:, left.kept]
    x = left.x[left.kept]
    np.testing.assert_allclose(x * (inside @ x), 1, atol=1.1e-8)
