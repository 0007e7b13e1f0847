"""Contact maps in cooler's files: read as stored, balanced as cooler balances them, written so that cooler reads them."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from sparsejac import JacobianBuilder, LeastSquares, RowSums, _pixels, cli, cool, symmetric_scaling

cooler = pytest.importorskip("cooler", reason="contact maps are read by cooler")
pd = pytest.importorskip("pandas", reason="which brings pandas")
h5py = pytest.importorskip("h5py", reason="which brings h5py")

CHROMOSOMES = {"chrA": 60, "chrB": 45, "chrC": 30, "chrM": 1}


def contacts(seed=0):
    """Counts that fall with distance, and are fewer between chromosomes; some bins have next to none."""
    rng = np.random.default_rng(seed)
    chromosome = np.repeat(np.arange(len(CHROMOSOMES)), list(CHROMOSOMES.values()))
    k = chromosome.size
    i, j = np.indices((k, k))
    expected = 300 / (1.0 + abs(i - j)) * np.where(chromosome[i] == chromosome[j], 1, 0.2)
    bias = rng.lognormal(0, 0.4, k)
    bias[[7, 70, 71]] = 0.003
    counts = np.triu(rng.poisson(expected * np.outer(bias, bias))).astype(np.int32)
    counts[20], counts[:20, 20] = 0, 0  # no contacts at all
    return counts


def write(path, counts, group=""):
    bins = pd.DataFrame(
        [(name, 10 * i, 10 * (i + 1)) for name, size in CHROMOSOMES.items() for i in range(size)],
        columns=["chrom", "start", "end"],
    )
    i, j = np.nonzero(counts)
    pixels = pd.DataFrame({"bin1_id": i, "bin2_id": j, "count": counts[i, j]})
    uri = f"{path}{group}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cooler's own
        cooler.create_cooler(uri, bins, pixels, ordered=True, dtypes={"count": counts.dtype}, mode="a")
    return uri


@pytest.fixture
def uri(tmp_path):
    return write(tmp_path / "map.cool", contacts())


def test_read(uri):
    U, chromosomes = cool.read(uri)
    assert_stored(U, contacts())
    np.testing.assert_array_equal(np.bincount(chromosomes), list(CHROMOSOMES.values()))


def assert_stored(U, counts):
    assert (U.dtype, U.indices.dtype, U.indptr.dtype) == (np.int32, np.int32, np.int32)
    assert U.nnz == np.count_nonzero(counts)
    np.testing.assert_array_equal(U.toarray(), counts)


def test_pixels_are_read_in_pieces(uri, monkeypatch):
    monkeypatch.setattr(_pixels, "_PIECE", 100)
    assert_stored(cool.read(uri)[0], contacts())


def test_floats_are_kept(tmp_path):
    U, _ = cool.read(write(tmp_path / "f.cool", contacts() / 4))
    assert U.dtype == np.float64
    np.testing.assert_array_equal(U.toarray(), contacts() / 4)


OPTIONS = {
    "defaults": {},
    "cis": {"cis_only": True},
    "trans": {"trans_only": True},
    "all diagonals": {"ignore_diags": 0},
    "other filters": {"mad_max": 2, "min_nnz": 40, "min_count": 3000, "blacklist": [3, 100]},
    "few filters": {"mad_max": 0, "min_nnz": 1},
    "cis, one diagonal": {"cis_only": True, "ignore_diags": 1, "mad_max": 3},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_the_weights_are_those_of_cooler(uri, options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cooler divides by zero, and by its own iteration limit
        expected, stats = cooler.balance_cooler(cooler.Cooler(uri), tol=1e-12, max_iters=3000, **options)
    result = cool.balance(uri, **options)
    assert result.success
    np.testing.assert_array_equal(np.isnan(result.weight), np.isnan(expected))
    np.testing.assert_allclose(result.weight, expected, rtol=1e-5)
    assert np.isnan(result.weight[20])
    assert set(stats) <= set(result.stats)
    for name, value in stats.items():
        if name not in ("tol", "var", "scale"):
            np.testing.assert_array_equal(result.stats[name], value, err_msg=name)
        assert np.shape(result.stats[name]) == np.shape(value)
    if not options.get("trans_only"):
        np.testing.assert_allclose(result.stats["scale"], stats["scale"], rtol=0.5)


def test_rows_of_the_balanced_map_sum_to_one(uri):
    result = cool.balance(uri, store=True)
    balanced = cooler.Cooler(uri).matrix(balance=True)[:]
    i, j = np.indices(balanced.shape)
    sums = np.nansum(np.where(abs(i - j) < 2, 0, balanced), axis=0)
    np.testing.assert_allclose(sums[result.kept], 1, atol=1.1e-8)
    assert result.residual <= 1e-8
    assert result.kept.sum() > 100


def test_what_is_stored(uri):
    result = cool.balance(uri, store=True)
    with cooler.Cooler(uri).open("r") as group:
        column = group["bins/weight"]
        np.testing.assert_array_equal(column[:], result.weight)
        attributes = dict(column.attrs)
    assert attributes.pop("generator").startswith("sparsejac-hadamard ")
    assert set(attributes) == {
        "tol", "min_nnz", "min_count", "mad_max", "cis_only", "ignore_diags", "scale", "converged", "var", "divisive_weights", "residual",
    }  # fmt: skip
    assert attributes["converged"]
    assert attributes["var"] < 1e-16
    with pytest.raises(
        ValueError, match=r'has a column "weight" already: choose another name.*overwrite=True, --force'
    ):
        cool.balance(uri, store=True)
    cool.balance(uri, store=True, store_name="other", ignore_diags=1)
    cool.balance(uri, store=True, overwrite=True, tol=1e-3)
    with cooler.Cooler(uri).open("r") as group:
        assert sorted(group["bins"]) == ["chrom", "end", "other", "start", "weight"]
        assert group["bins/weight"].attrs["tol"] == 1e-3


def test_what_has_not_converged_is_not_stored(uri):
    result = cool.balance(uri, store=True, max_products=5)
    assert (result.success, result.status) == (False, 0)
    assert "weight" not in cooler.Cooler(uri).bins().columns


def test_a_start(uri):
    first = cool.balance(uri)
    assert cool.balance(uri, x0=first.weight, min_nnz=0, mad_max=0).nit <= 1
    first = cool.balance(uri, trans_only=True)
    assert cool.balance(uri, x0=first.weight, trans_only=True).nit <= 1


def test_a_chromosome_that_cannot_be_balanced(tmp_path, capsys):
    """The others are, and it is named."""
    counts = contacts()
    b = slice(60, 105)
    counts[b, b] = 0
    counts[60, 62:105] = 100  # a star
    uri = write(tmp_path / "star.cool", counts)
    result = cool.balance(uri, cis_only=True, min_nnz=1, mad_max=0, store=True)
    assert (result.status, result.success) == (7, False)
    assert "weight" not in cooler.Cooler(uri).bins().columns
    assert result.unscaled == ["chrB"]
    assert result.message.startswith(
        "scaled in part: 1 of 4 chromosomes have no scaling and are left out (chrB: no support), "
        'support="drop_rows" leaves out only bins of them; for the others: converged: '
    )
    assert result.left_out["unscaled"] == 44
    assert "44 on chromosomes without a scaling" in result.message
    assert np.isnan(result.weight[b]).all()
    assert np.isfinite(result.weight[:60]).sum() > 50
    assert result.stats["converged"].tolist() == [True, False, True, True]
    assert cli.main(["scale", uri, "--cis-only", "--min-nnz", "1", "--mad-max", "0", "--write"]) == 4
    assert "scaled in part: 1 of 4 chromosomes" in capsys.readouterr().out
    assert "weight" not in cooler.Cooler(uri).bins().columns
    result = cool.balance(uri, cis_only=True, min_nnz=1, mad_max=0, support="drop_rows", store=True)
    assert (result.success, result.unscaled) == (True, [])
    assert cooler.Cooler(uri).open("r")["bins/weight"].attrs["converged"].all()


def test_one_map_of_several(tmp_path):
    path = tmp_path / "map.mcool"
    write(path, contacts(), "::/resolutions/10")
    uri = write(path, contacts(1), "::/resolutions/20")
    result = cool.balance(uri, store=True)
    np.testing.assert_array_equal(cooler.Cooler(uri).bins()["weight"][:], result.weight)
    with pytest.raises(
        ValueError, match="is not a contact map, as it has no table 'chroms': pass one of its 2 maps, "
    ) as caught:
        cool.balance(path)
    assert str(caught.value).endswith(f"{path}::/resolutions/10, {path}::/resolutions/20")


def test_errors(uri, tmp_path, monkeypatch):
    for options, error, message in [
        ({"cis_only": True, "trans_only": True}, ValueError, "cis_only and trans_only exclude each other"),
        ({"blacklist": [500]}, ValueError, "blacklist must be the numbers of bins, integers from 0 to 135"),
        ({"blacklist": [0.5]}, ValueError, "blacklist must be the numbers of bins"),
        ({"x0": [1.0]}, ValueError, "x0 must be a vector of length 136, a weight for each bin of "),
        ({"cis_only": 1}, TypeError, "cis_only must be True or False"),
        ({"ignore_diags": -1}, ValueError, "ignore_diags must be an integer, 0 or more"),
        ({"mad_max": -1}, ValueError, "mad_max must be at least 0"),
        ({"support": "x"}, ValueError, "support must be one of"),
    ]:
        with pytest.raises(error, match=message):
            cool.balance(uri, **options)
    with pytest.raises(FileNotFoundError, match=r"none.cool does not exist"):
        cool.read(tmp_path / "none.cool")
    (tmp_path / "text.cool").write_text("no HDF5")
    with pytest.raises(ValueError, match=r"text.cool is not a contact map, as HDF5 cannot open it: "):
        cool.read(tmp_path / "text.cool")
    with pytest.raises(ValueError, match="weight must be a vector of length 136, one for each bin of"):
        cool.write_weights(uri, [1.0], {})
    with pytest.raises(ValueError, match='"start" is a coordinate of the bins'):
        cool.write_weights(uri, np.ones(136), {}, name="start", overwrite=True)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"read with h5py, which comes with cooler, and is not installed: pip install '.\[cool\]'"):
        cool.read(uri)


def test_a_square_map(tmp_path):
    bins = pd.DataFrame({"chrom": ["a"] * 3, "start": [0, 1, 2], "end": [1, 2, 3]})
    pixels = pd.DataFrame({"bin1_id": [0, 1], "bin2_id": [1, 0], "count": [1, 2]})
    with pytest.warns(UserWarning, match="non-symmetric"):
        cooler.create_cooler(str(tmp_path / "s.cool"), bins, pixels, ordered=True, symmetric_upper=False)
    with pytest.raises(ValueError, match="is not stored as the upper triangle of a symmetric matrix, but as 'square'"):
        cool.read(tmp_path / "s.cool")


def test_attributes_beyond_what_hdf5_holds(uri):
    cool.write_weights(uri, np.ones(136), {"scale": np.ones(10_000), "tol": 1.0})
    with cooler.Cooler(uri).open("r") as group:
        assert dict(group["bins/weight"].attrs) == {"tol": 1.0}


@pytest.mark.parametrize("name", ["/pixels/count", "a/b", "./start", "start", "", ".", "..", 3, "x" * 1000, "a\0b"])
def test_names_that_lead_elsewhere(uri, name):
    before = Path(uri).read_bytes()
    for function in (
        lambda: cool.balance(uri, store=True, store_name=name, overwrite=True),
        lambda: cool.write_weights(uri, np.ones(136), {}, name=name, overwrite=True),
    ):
        with pytest.raises(
            ValueError, match=r"the name of a column must be a few characters without a slash|is a coordinate"
        ):
            function()
    assert Path(uri).read_bytes() == before


def test_only_columns_are_replaced(uri):
    with cooler.Cooler(uri).open("r+") as group:
        group.create_group("bins/weight")
    with pytest.raises(ValueError, match=r'has "weight" in its bin table, which is not a column, and is not replaced'):
        cool.balance(uri, store=True, overwrite=True)


@pytest.mark.parametrize("stats", [{"a": None}, {"a": 10**30}, None, {3: 4}])
def test_what_cannot_be_written_changes_nothing(uri, stats):
    cool.write_weights(uri, np.ones(136), {"tol": 1.0})
    with pytest.raises((TypeError, AttributeError, OverflowError)):
        cool.write_weights(uri, np.zeros(136), stats, overwrite=True)
    with cooler.Cooler(uri).open("r") as group:
        assert sorted(group["bins"]) == ["chrom", "end", "start", "weight"]
        assert sorted(group) == ["bins", "chroms", "indexes", "pixels"]
        np.testing.assert_array_equal(group["bins/weight"][:], 1)
        assert dict(group["bins/weight"].attrs) == {"tol": 1.0}
    with pytest.raises(TypeError, match="a column of weights is for real numbers, and weight is complex128"):
        cool.write_weights(uri, np.ones(136) * 1j, {}, overwrite=True)


def test_a_run_that_was_killed(uri):
    """What it left is no column, the next one clears it away, and a column that was about to be replaced comes back."""
    with cooler.Cooler(uri).open("r+") as group:
        group[".weight in the making"] = np.zeros(3)
        group[".weight before"] = np.full(136, 7.0)
    assert "weight" not in cooler.Cooler(uri).bins().columns
    with pytest.raises(ValueError, match='has a column "weight" already'):
        cool.write_weights(uri, np.ones(136), {})
    np.testing.assert_array_equal(cooler.Cooler(uri).bins()["weight"][:], 7)
    cool.write_weights(uri, np.ones(136), {}, overwrite=True)
    with cooler.Cooler(uri).open("r") as group:
        assert sorted(group) == ["bins", "chroms", "indexes", "pixels"]
        np.testing.assert_array_equal(group["bins/weight"][:], 1)


def test_a_file_that_others_have_open(uri, tmp_path, capsys):
    """Seen before anything is computed."""
    with h5py.File(uri, "r"):
        with pytest.raises(OSError, match=r"map.cool cannot be written: "):
            cool.balance(uri, store=True)
        assert cli.main(["scale", uri, "--write"]) == 2
        assert "map.cool cannot be written: " in capsys.readouterr().err
        assert cool.balance(uri).success


def test_a_table_that_is_missing(uri):
    with h5py.File(uri, "r+") as file:
        del file["pixels/count"]
    with pytest.raises(ValueError, match="map.cool is not a contact map, as it has no column 'pixels/count'"):
        cool.balance(uri)


def test_a_file_that_may_not_be_read(uri, monkeypatch):
    def locked(*_, **__):
        raise BlockingIOError(11, "unable to lock file")

    monkeypatch.setattr(h5py, "File", locked)
    with pytest.raises(OSError, match=r"map.cool cannot be opened: .*unable to lock"):
        cool.read(uri)


def test_a_file_of_single_cells(tmp_path):
    path = str(tmp_path / "cells.scool")
    counts = contacts()
    i, j = np.nonzero(counts)
    pixels = pd.DataFrame({"bin1_id": i, "bin2_id": j, "count": counts[i, j]})
    bins = cooler.Cooler(write(tmp_path / "map.cool", counts)).bins()[:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cooler.create_scool(path, bins, {"one": pixels}, ordered=True)
    with pytest.raises(ValueError, match=r"pass one of its 1 maps, .*cells.scool::/cells/one"):
        cool.balance(path)
    assert cool.balance(f"{path}::/cells/one").success


def test_command(uri, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["scale", uri, "--write", "-o", "x.npy"]) == 0
    out = capsys.readouterr().out
    assert "scale: converged: the residual" in out
    assert f'weights written to column "weight" of {uri}' in out
    np.testing.assert_array_equal(np.load("x.npy"), cooler.Cooler(uri).bins()["weight"][:])
    assert cli.main(["scale", uri, "--write"]) == 2
    assert 'has a column "weight" already' in capsys.readouterr().err
    assert cli.main(["scale", uri, "--write", "--force", "--cis-only", "--mad-max", "3", "--ignore-diags", "1"]) == 0
    assert cli.main(["scale", uri, "--write", "--name", "trans", "--trans-only", "--min-nnz", "5"]) == 0
    assert sorted(cooler.Cooler(uri).bins().columns) == ["chrom", "end", "start", "trans", "weight"]
    assert cli.main(["scale", uri, "--uplo", "U"]) == 2
    assert "--uplo is for matrices, and" in capsys.readouterr().err
    assert cli.main(["scale", uri, "--max-products", "3", "--write", "--name", "no"]) == 1
    assert "no" not in cooler.Cooler(uri).bins().columns
    assert cli.main(["scale", uri, "--force"]) == 2
    assert "pass --write as well" in capsys.readouterr().err
    assert cli.main(["scale", uri, "--trans-only", "-o", "trans.npy", "--min-nnz", "5"]) == 0
    np.testing.assert_array_equal(np.load("trans.npy"), cooler.Cooler(uri).bins()["trans"][:])


def test_the_same_by_hand(uri):
    """What the docstring of `read` shows."""
    U, chromosomes = cool.read(uri)
    result = symmetric_scaling(U, uplo="U", ignore_diags=2, min_nnz=10, groups=chromosomes, pairs="within")
    balanced = cool.balance(uri, cis_only=True, mad_max=0)
    np.testing.assert_allclose(result.x, balanced.weight, rtol=1e-7)
    assert scipy.sparse.issparse(U)


# --- read in each pass ------------------------------------------------------------------------------------------------


def test_a_map_as_a(uri):
    """Its pixels are the upper triangle of a symmetric A, wherever an A is taken."""
    U = scipy.sparse.csr_array(contacts())
    S = scipy.sparse.csr_array(U + scipy.sparse.triu(U, 1).T)
    x = np.arange(1.0, U.shape[0] + 1)
    streamed, there = JacobianBuilder(uri), JacobianBuilder(S, rows="upper")
    assert repr(streamed) == repr(there)
    np.testing.assert_array_equal(streamed.value(x), there.value(x))
    np.testing.assert_array_equal(streamed.operator(x) @ x, there.operator(x) @ x)
    np.testing.assert_array_equal(streamed.operator(x).T @ there.value(x), there.operator(x).T @ there.value(x))
    by_column = JacobianBuilder(uri, order="F")
    np.testing.assert_array_equal(by_column.operator(x).column_norms(), there.operator(x).column_norms())
    with pytest.raises(ValueError, match="A is stored by rows, and this needs its columns"):
        by_column.value(x)
    for rows in ("all", "stored"):
        with pytest.raises(ValueError, match=f'rows must be "upper" for a contact map, .* got {rows!r}'):
            JacobianBuilder(uri, rows=rows)
    assert LeastSquares(uri, uri).cost(x) == LeastSquares(S, S, rows="upper").cost(x)
    np.testing.assert_array_equal(RowSums(uri).value(x), RowSums(S).value(x))
    np.testing.assert_array_equal(RowSums(uri, uplo="U", ignore_diags=2).value(x), RowSums(S, ignore_diags=2).value(x))
    with pytest.raises(ValueError, match='uplo must be "U" for a contact map, which holds the upper triangle, got'):
        RowSums(uri, uplo="L")
    result, expected = symmetric_scaling(uri, min_nnz=10), symmetric_scaling(S, min_nnz=10)
    np.testing.assert_allclose(result.x, expected.x, rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"cis_only": True, "min_nnz": 3}, {"trans_only": True}])
def test_balance_without_keeping_the_map(uri, options):
    streamed, there = cool.balance(uri, memory=2**22, **options), cool.balance(uri, **options)
    assert streamed.success == there.success
    np.testing.assert_allclose(streamed.weight, there.weight, rtol=1e-6)
    assert streamed.unscaled == there.unscaled


def test_a_map_that_changes(uri):
    sums = RowSums(uri)
    with h5py.File(uri, "r+") as file:
        file["pixels/count"][0] = 100
    with pytest.raises(ValueError, match="has changed since it was handed over as A"):
        sums.value(np.ones(sums.shape[0]))
