"""Tests of contact maps in cooler's files.

They are read as stored, balanced as cooler balances them, and written so that cooler reads them.
"""

import gzip
import itertools
import re
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from support import slow

from sparsejac import JacobianBuilder, LeastSquares, RowSums, cli, cool, io, symmetric_scaling
from sparsejac._matrix import columns as _columns
from sparsejac._matrix import contact_map as _contact_map
from sparsejac._solvers import balancing as _balancing

cooler = pytest.importorskip("cooler", reason="contact maps are read by cooler")
pd = pytest.importorskip("pandas", reason="which brings pandas")
h5py = pytest.importorskip("h5py", reason="which brings h5py")

CHROMOSOMES = {"chrA": 60, "chrB": 45, "chrC": 30, "chrM": 1}


def contacts(seed=0):
    """Make counts that fall with distance and are fewer between chromosomes.

    Some bins have almost none.
    """
    rng = np.random.default_rng(seed)
    chromosome = np.repeat(np.arange(len(CHROMOSOMES)), list(CHROMOSOMES.values()))
    k = chromosome.size
    i, j = np.indices((k, k))
    expected = 300 / (1.0 + abs(i - j)) * np.where(chromosome[i] == chromosome[j], 1, 0.2)
    bias = rng.lognormal(0, 0.4, k)
    bias[[7, 70, 71]] = 0.003
    counts = np.triu(rng.poisson(expected * np.outer(bias, bias))).astype(np.int32)
    counts[20], counts[:20, 20] = 0, 0  # this bin has no contacts at all
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
        warnings.simplefilter("ignore")  # these warnings are cooler's own
        cooler.create_cooler(
            uri, bins, pixels, ordered=True, dtypes={"count": counts.dtype}, mode="a"
        )
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
    monkeypatch.setattr(_contact_map, "_PIECE", 100)
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
        warnings.simplefilter("ignore")  # cooler divides by zero, and reaches its iteration limit
        expected, stats = cooler.balance_cooler(
            cooler.Cooler(uri), tol=1e-12, max_iters=3000, **options
        )
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
        "tol", "min_nnz", "min_count", "mad_max", "cis_only", "ignore_diags", "scale", "converged",
        "var", "divisive_weights", "residual",
    }  # fmt: skip
    assert attributes["converged"]
    assert attributes["var"] < 1e-16
    with pytest.raises(
        ValueError,
        match=r'has a column "weight" already: choose another name.*overwrite=True, --force',
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
    """The other chromosomes are balanced, and the message names this one."""
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
        'support="drop_rows" leaves out only their bins without support; for the others: '
        "converged: "
    )
    assert result.left_out["unscaled"] == 44
    assert "44 on chromosomes without a scaling" in result.message
    assert np.isnan(result.weight[b]).all()
    assert np.isfinite(result.weight[:60]).sum() > 50
    assert result.stats["converged"].tolist() == [True, False, True, True]
    assert (
        cli.main(["scale", uri, "--cis-only", "--min-nnz", "1", "--mad-max", "0", "--write"]) == 4
    )
    assert "scaled in part: 1 of 4 chromosomes" in capsys.readouterr().out
    assert "weight" not in cooler.Cooler(uri).bins().columns
    result = cool.balance(uri, cis_only=True, min_nnz=1, mad_max=0, support="drop_rows", store=True)
    assert (result.status, result.success, result.unscaled) == (7, False, ["chrB"])
    assert result.message.startswith(
        "scaled in part: 1 of 4 chromosomes have no scaling and are left out (chrB: every bin "
        "lacks support); for the others: "
    )
    assert result.stats["converged"].tolist() == [True, False, True, True]
    assert "weight" not in cooler.Cooler(uri).bins().columns


@pytest.mark.parametrize("memory", [None, 2**23])
@pytest.mark.parametrize("rest", [0, 2])
def test_a_chromosome_of_which_no_bin_has_support(tmp_path, memory, rest, capsys):
    """The chromosome is a star between two others. Any rest of it is balanced."""
    sizes = [3, 5 + rest, 3]
    bins = cooler.binnify(pd.Series({f"c{c}": 10 * size for c, size in enumerate(sizes)}), 10)
    star = [(3, j) for j in range(4, 8)]
    pairs = [*((i, i) for i in (0, 1, 2)), *star, *((i, i) for i in range(8, 11 + rest))]
    pixels = pd.DataFrame(np.array(pairs), columns=["bin1_id", "bin2_id"]).assign(count=4)
    uri = str(tmp_path / "stars.cool")
    cooler.create_cooler(uri, bins, pixels, ordered=True)
    options = {"cis_only": True, "ignore_diags": 0, "min_nnz": 0, "mad_max": 0, "memory": memory}
    result = cool.balance(uri, support="drop_rows", store=True, **options)
    assert result.kept.sum() == 6 + rest
    assert (result.status, result.unscaled) == ((1, []) if rest else (7, ["c1"]))
    assert result.stats["converged"].tolist() == [True, rest > 0, True]
    assert ("weight" in cooler.Cooler(uri).bins().columns) == (rest > 0)
    if not rest:
        shell = [
            "--cis-only",
            "--ignore-diags",
            "0",
            "--min-nnz",
            "0",
            "--mad-max",
            "0",
            "--support",
            "drop_rows",
        ]
        assert cli.main(["scale", uri, "--write", *shell]) == 4
        assert "(c1: every bin lacks support)" in capsys.readouterr().out
    # A chromosome that a filter of the user leaves out does not count as unscaled.
    result = cool.balance(uri, support="drop_rows", blacklist=list(range(3, 8 + rest)), **options)
    assert (result.status, result.unscaled) == (1, [])


def test_one_map_of_several(tmp_path):
    path = tmp_path / "map.mcool"
    write(path, contacts(), "::/resolutions/10")
    uri = write(path, contacts(1), "::/resolutions/20")
    result = cool.balance(uri, store=True)
    np.testing.assert_array_equal(cooler.Cooler(uri).bins()["weight"][:], result.weight)
    with pytest.raises(
        ValueError,
        match="is not a contact map, as it has no table 'chroms': pass one of its 2 maps, ",
    ) as caught:
        cool.balance(path)
    assert str(caught.value).endswith(f"{path}::/resolutions/10, {path}::/resolutions/20")


def test_errors(uri, tmp_path, monkeypatch):
    for options, error, message in [
        (
            {"cis_only": True, "trans_only": True},
            ValueError,
            "cis_only and trans_only exclude each other",
        ),
        (
            {"blacklist": [500]},
            ValueError,
            "blacklist must be the numbers of bins, integers from 0 to 135",
        ),
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
    with pytest.raises(
        ValueError, match=r"text.cool is not a contact map, as HDF5 cannot open it: "
    ):
        cool.read(tmp_path / "text.cool")
    with pytest.raises(
        ValueError, match="weight must be a vector of length 136, one for each bin of"
    ):
        cool.write_weights(uri, [1.0], {})
    with pytest.raises(ValueError, match='"start" is a coordinate of the bins'):
        cool.write_weights(uri, np.ones(136), {}, name="start", overwrite=True)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(
        ImportError,
        match=r"need h5py, which comes with cooler and is not installed: pip install "
        r"'.\[cool\]'",
    ):
        cool.read(uri)


def test_a_square_map(tmp_path):
    bins = pd.DataFrame({"chrom": ["a"] * 3, "start": [0, 1, 2], "end": [1, 2, 3]})
    pixels = pd.DataFrame({"bin1_id": [0, 1], "bin2_id": [1, 0], "count": [1, 2]})
    with pytest.warns(UserWarning, match="non-symmetric"):
        cooler.create_cooler(
            str(tmp_path / "s.cool"), bins, pixels, ordered=True, symmetric_upper=False
        )
    with pytest.raises(
        ValueError,
        match="is not stored as the upper triangle of a symmetric matrix, but as 'square'",
    ):
        cool.read(tmp_path / "s.cool")


def test_attributes_beyond_what_hdf5_holds(uri):
    cool.write_weights(uri, np.ones(136), {"scale": np.ones(10_000), "tol": 1.0})
    with cooler.Cooler(uri).open("r") as group:
        assert dict(group["bins/weight"].attrs) == {"tol": 1.0}


@pytest.mark.parametrize(
    "name", ["/pixels/count", "a/b", "./start", "start", "", ".", "..", 3, "x" * 1000, "a\0b"]
)
def test_names_that_lead_elsewhere(uri, name):
    before = Path(uri).read_bytes()
    for function in (
        lambda: cool.balance(uri, store=True, store_name=name, overwrite=True),
        lambda: cool.write_weights(uri, np.ones(136), {}, name=name, overwrite=True),
    ):
        with pytest.raises(
            ValueError,
            match=r"the name of a column must be a few characters without a slash|is a coordinate",
        ):
            function()
    assert Path(uri).read_bytes() == before


def test_only_columns_are_replaced(uri):
    with cooler.Cooler(uri).open("r+") as group:
        group.create_group("bins/weight")
    with pytest.raises(
        ValueError,
        match=r'has "weight" in its bin table, which is not a column and cannot be replaced',
    ):
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
    with pytest.raises(
        TypeError, match="a column of weights is for real numbers, and weight is complex128"
    ):
        cool.write_weights(uri, np.ones(136) * 1j, {}, overwrite=True)


def test_a_run_that_was_killed(uri):
    """The next run removes what a killed run left, and restores the column it had hidden."""
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
    """The error is raised before anything is computed."""
    with h5py.File(uri, "r"):
        with pytest.raises(OSError, match=r"map.cool cannot be written: "):
            cool.balance(uri, store=True)
        assert cli.main(["scale", uri, "--write"]) == 2
        assert "map.cool cannot be written: " in capsys.readouterr().err
        assert cool.balance(uri).success


def test_a_table_that_is_missing(uri):
    with h5py.File(uri, "r+") as file:
        del file["pixels/count"]
    with pytest.raises(
        ValueError, match=r"map.cool is not a contact map, as it has no column 'pixels/count'"
    ):
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
    assert (
        cli.main(
            [
                "scale",
                uri,
                "--write",
                "--force",
                "--cis-only",
                "--mad-max",
                "3",
                "--ignore-diags",
                "1",
            ]
        )
        == 0
    )
    assert (
        cli.main(["scale", uri, "--write", "--name", "trans", "--trans-only", "--min-nnz", "5"])
        == 0
    )
    assert sorted(cooler.Cooler(uri).bins().columns) == ["chrom", "end", "start", "trans", "weight"]
    assert cli.main(["scale", uri, "--uplo", "U"]) == 2
    assert "--uplo is for matrices, and" in capsys.readouterr().err
    assert cli.main(["scale", uri, "--max-products", "3", "--write", "--name", "no"]) == 1
    assert "no" not in cooler.Cooler(uri).bins().columns
    assert cli.main(["scale", uri, "--force"]) == 2
    assert "pass --write as well" in capsys.readouterr().err
    assert cli.main(["scale", uri, "--trans-only", "-o", "trans.npy", "--min-nnz", "5"]) == 0
    np.testing.assert_array_equal(np.load("trans.npy"), cooler.Cooler(uri).bins()["trans"][:])


@pytest.mark.parametrize("name", ["tol=5.cool", "x: workers=3, y.cool", "map.cool"])
def test_what_a_second_run_is_told(uri, name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(uri).rename(name)
    assert cli.main(["scale", name, "--write", "--mad-max", "1"]) == 0
    assert re.search(
        r"left out \(\d+ by --min-nnz 10, \d+ by --mad-max 1\)", capsys.readouterr().out
    )
    for given, column in ((name, "weight"), (f"{name}::/", "weight")):
        assert cli.main(["scale", given, "--write"]) == 2
        expected = (
            f'{given} has a column "{column}" already: choose another name (--name), or pass '
            "--force\n"
        )
        assert capsys.readouterr().err == f"sparsejac scale: error: {expected}"
    for option in ("--max-products", "--mad-max"):
        assert cli.main(["scale", name, option, "-1"]) == 2
        assert capsys.readouterr().err.startswith(f"sparsejac scale: error: {option} must be ")


def test_the_same_by_hand(uri):
    """The lines in the docstring of `read` give the same result."""
    U, chromosomes = cool.read(uri)
    result = symmetric_scaling(
        U, uplo="U", ignore_diags=2, min_nnz=10, groups=chromosomes, pairs="within"
    )
    balanced = cool.balance(uri, cis_only=True, mad_max=0)
    np.testing.assert_allclose(result.x, balanced.weight, rtol=1e-7)
    assert scipy.sparse.issparse(U)


# --- read in each pass ----------------------------------------------------------------------------


@pytest.mark.slow  # this compiles kernels for int32 counts
def test_a_map_as_a(uri):
    """Every function that takes an A reads a map as the upper triangle of a symmetric A."""
    U = scipy.sparse.csr_array(contacts())
    S = scipy.sparse.csr_array(U + scipy.sparse.triu(U, 1).T)
    x = np.arange(1.0, U.shape[0] + 1)
    streamed, there = JacobianBuilder(uri), JacobianBuilder(S, rows="upper")
    assert repr(streamed) == repr(there)
    np.testing.assert_array_equal(streamed.value(x), there.value(x))
    np.testing.assert_array_equal(streamed.operator(x) @ x, there.operator(x) @ x)
    np.testing.assert_array_equal(
        streamed.operator(x).T @ there.value(x), there.operator(x).T @ there.value(x)
    )
    by_column = JacobianBuilder(uri, order="F")
    np.testing.assert_array_equal(
        by_column.operator(x).column_norms(), there.operator(x).column_norms()
    )
    with pytest.raises(ValueError, match="A is stored by rows, and this needs its columns"):
        by_column.value(x)
    for rows in ("all", "stored"):
        with pytest.raises(
            ValueError, match=f'rows must be "upper" for a contact map, .* got {rows!r}'
        ):
            JacobianBuilder(uri, rows=rows)
    assert LeastSquares(uri, uri).cost(x) == LeastSquares(S, S, rows="upper").cost(x)
    np.testing.assert_array_equal(RowSums(uri).value(x), RowSums(S).value(x))
    np.testing.assert_array_equal(
        RowSums(uri, uplo="U", ignore_diags=2).value(x), RowSums(S, ignore_diags=2).value(x)
    )
    with pytest.raises(
        ValueError, match='uplo must be "U" for a contact map, which holds the upper triangle, got'
    ):
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


@pytest.mark.parametrize("memory", [None, 2**23])
@pytest.mark.parametrize("how", ["replaced", *slow("changed", "grown")])
def test_weights_are_not_stored_into_another_map(uri, how, memory, monkeypatch, tmp_path, capsys):
    """The map changes before the weights are written."""
    other = write(tmp_path / "other.cool", contacts(1))
    scaled, last = _balancing.scaled, []

    def meanwhile(*arguments):
        result = scaled(*arguments)
        if how == "replaced":
            shutil.copy(other, f"{uri}.new")
            Path(f"{uri}.new").replace(uri)
        else:
            with h5py.File(uri, "r+") as file:
                if how == "grown":
                    file[f"more{len(file)}"] = np.zeros(1000)
                else:
                    file["pixels/count"][0] += 1
        last[:] = [Path(uri).read_bytes()]
        return result

    monkeypatch.setattr(_balancing, "scaled", meanwhile)
    # The statistics of a streamed map read it once more, and would detect the change.
    monkeypatch.setattr(_balancing, "statistics", lambda *_: {})
    with pytest.raises(
        OSError,
        match=r"map.cool cannot be written: it has changed since it was read, .*; balance it anew",
    ):
        cool.balance(uri, store=True, memory=memory)
    assert Path(uri).read_bytes() == last[0]
    assert (
        cli.main(["scale", uri, "--write", *([] if memory is None else ["--memory", "8MiB"])]) == 2
    )
    assert "it has changed since it was read" in capsys.readouterr().err
    assert Path(uri).read_bytes() == last[0]
    # The map is checked once more under the lock.
    monkeypatch.setattr(_columns, "check_unchanged", lambda *_: None)
    with pytest.raises(OSError, match="it has changed since it was read"):
        cool.balance(uri, store=True, memory=memory)
    monkeypatch.undo()
    assert cool.balance(uri, store=True, memory=memory).success


# --- what cooler divides by, and what does not balance a map --------------------------------------


def row_sums(uri, **options):
    balanced = cooler.Cooler(uri).matrix(**options)[:]
    i, j = np.indices(balanced.shape)
    return np.nansum(np.where(abs(i - j) < 2, 0, balanced), axis=0)


@pytest.mark.parametrize("name", ["KR", "VC", "VC_SQRT", "weight", "kr", "ICE"])
@pytest.mark.parametrize("way", ["balance", "write_weights", "command"])
def test_columns_by_which_cooler_divides(uri, name, way, capsys):
    """Cooler's balanced map has row sums of 1, in whichever way the column was written."""
    divisive = name in ("KR", "VC", "VC_SQRT")
    assert _columns.DIVISIVE == cooler.api._4DN_DIVISIVE_WEIGHTS
    if way == "balance":
        result = cool.balance(uri, store=True, store_name=name)
        assert (
            f"the column '{name}' is for 1/weight, as cooler divides" in result.message
        ) == divisive
        assert result.stats["divisive_weights"] is divisive
    elif way == "write_weights":
        result = cool.balance(uri)
        cool.write_weights(uri, result.weight, result.stats, name=name)
    else:
        result = cool.balance(uri)
        assert cli.main(["scale", uri, "--write", "--name", name]) == 0
        assert (", as 1/weight, by which cooler divides" in capsys.readouterr().out) == divisive
    np.testing.assert_allclose(row_sums(uri, balance=name)[result.kept], 1, atol=1e-7)
    with cooler.Cooler(uri).open("r") as group:
        column = group[f"bins/{name}"]
        assert column.attrs["divisive_weights"] == divisive
        np.testing.assert_allclose(
            column[:], 1 / result.weight if divisive else result.weight, rtol=1e-12
        )
    with pytest.raises(
        ValueError, match="weight must have reciprocals, which are what is written into 'KR'"
    ):
        cool.write_weights(uri, np.full(136, 1e-320), {}, name="KR", overwrite=True)


def hub(tmp_path):
    """Make a map whose first bin has a contact with itself that no scaling can keep."""
    bins = cooler.binnify(pd.Series({"a": 20}), 10)
    path = str(tmp_path / "hub.cool")
    cooler.create_cooler(
        path,
        bins,
        pd.DataFrame({"bin1_id": [0, 0], "bin2_id": [0, 1], "count": [500, 5]}),
        ordered=True,
    )
    return path


@pytest.mark.parametrize("options", [{}, {"cis_only": True}])
def test_weights_that_do_not_balance_the_map_are_not_stored(tmp_path, options, capsys):
    uri = hub(tmp_path)
    before = Path(uri).read_bytes()
    filters = {"ignore_diags": 0, "mad_max": 0, "min_nnz": 0}
    result = cool.balance(uri, support="drop", store=True, **filters, **options)
    assert (result.status, result.success) == (6, False)
    assert not np.any(result.stats["converged"])
    assert np.max(result.stats["var"]) > 1
    assert result.stats["residual"] == result.residual > 1
    assert "1 of its entries is dropped, in bin 0" in result.message
    shell = [
        "--ignore-diags",
        "0",
        "--mad-max",
        "0",
        "--min-nnz",
        "0",
        *["--cis-only"] * len(options),
    ]
    assert cli.main(["scale", uri, *shell, "--support", "drop", "--write"]) == 3
    assert "written" not in capsys.readouterr().out
    assert Path(uri).read_bytes() == before
    assert cli.main(["scale", uri, *shell, "--support", "drop_rows", "--write"]) == 0
    np.testing.assert_array_equal(
        cooler.Cooler(uri).bins()["weight"][:], [1 / np.sqrt(500), np.nan]
    )


@pytest.mark.slow
def test_a_shallow_map(tmp_path, capsys):
    """Most bins lack support. The option that the message names balances the rest."""
    rng = np.random.default_rng(0)
    bins = cooler.binnify(pd.Series({"a": 18_000, "b": 12_000}), 10)
    k = len(bins)
    coverage = rng.lognormal(0, 0.5, k)
    i, j = rng.choice(k, (2, 5 * k // 2), p=coverage / coverage.sum())
    i, j = np.minimum(i, j), np.maximum(i, j)
    pixels = (
        pd.DataFrame({"bin1_id": i, "bin2_id": j, "count": 1})
        .groupby(["bin1_id", "bin2_id"], as_index=False)
        .sum()
    )
    uri = str(tmp_path / "shallow.cool")
    cooler.create_cooler(uri, bins, pixels, ordered=True)
    result = cool.balance(uri)
    assert result.status == 4
    assert 'less than theirs; support="drop_rows" leaves such bins out; ' in result.message
    result = cool.balance(uri, support="drop_rows", store=True)
    assert result.success
    assert result.left_out["support"] > 0
    assert 100 < result.kept.sum() == k - sum(result.left_out.values())
    np.testing.assert_allclose(row_sums(uri, balance=True)[result.kept], 1, atol=1e-7)
    streamed = cool.balance(uri, support="drop_rows", memory=2**23)
    np.testing.assert_array_equal(streamed.kept, result.kept)
    assert cli.main(["scale", uri]) == 1
    assert "--support drop_rows leaves such bins out" in capsys.readouterr().out


# --- filters --------------------------------------------------------------------------------------


def test_a_result_without_filters_can_be_printed(uri):
    result = cool.balance(uri, min_nnz=0, mad_max=0, ignore_diags=0, max_products=3)
    assert "left_out: " in str(result)


def test_what_each_filter_leaves_out(uri, tmp_path, capsys):
    start = np.ones(136)
    start[[4, 5, 6]] = 0, np.nan, np.inf
    result = cool.balance(
        uri, blacklist=[3, 4, 100], x0=start, min_nnz=20, min_count=300, mad_max=3
    )
    assert list(result.left_out) == ["min_nnz", "min_count", "mad_max", "blacklist", "x0"]
    assert (result.left_out["blacklist"], result.left_out["x0"]) == (3, 2)
    assert sum(result.left_out.values()) == (~result.kept).sum()
    assert " of 136 bins are left out (" in result.message
    for words in ("by min_nnz=20", "3 by blacklist", "2 by x0"):
        assert words in result.message
    result = cool.balance(uri, min_nnz=1000)
    assert result.message == (
        "no scaling exists: every bin is left out; 136 of 136 bins are left out (136 by "
        "min_nnz=1000)"
    )
    assert cli.main(["scale", uri, "--min-nnz", "1000"]) == 1
    assert "(136 by --min-nnz 1000)" in capsys.readouterr().out


def test_a_blacklist_in_a_file(uri, tmp_path, capsys):
    lines = (
        "track name=x\n# a comment\n\nchrA\t5\t25\tname\t0\nchrB 0 10\n"
        "chrM\t10\t99999\nchrUn\t0\t10\nchrC\t40\t40\n"
    )
    bed = tmp_path / "out.bed"
    bed.write_text(lines)
    expected = cool.balance(uri, blacklist=[0, 1, 2, 60])
    result = cool.balance(uri, blacklist=bed)
    np.testing.assert_array_equal(result.weight, expected.weight)
    assert result.left_out["blacklist"] == 4
    assert result.message.endswith(f"; {bed} names chromosomes that the map does not have (chrUn)")
    (tmp_path / "out.bed.gz").write_bytes(gzip.compress(lines.encode()))
    np.testing.assert_array_equal(
        cool.balance(uri, blacklist=str(tmp_path / "out.bed.gz"), memory=2**22).kept, result.kept
    )
    assert cli.main(["scale", uri, "--blacklist", str(bed), "-o", str(tmp_path / "x.npy")]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), result.weight)
    assert f"4 by {bed}" in capsys.readouterr().out
    for text, message in [
        (
            "chrA\t5\n",
            r"out.bed, line 1: each line of a BED file must be a chromosome, a start and an end",
        ),
        ("chrA\t0\t5\nchrA\t-5\t8\n", r"out.bed, line 2: each line .* got 'chrA\\t-5\\t8'"),
        ("chrA\t9\t8\n", r"integers with 0 <= start <= end"),
        (
            "A\t0\t5\n",
            (
                r"out.bed names no chromosome of .*map.cool: it has A, and the map has chrA, "
                r"chrB, chrC; use the same names"
            ),
        ),
    ]:
        bed.write_text(text)
        with pytest.raises(ValueError, match=message):
            cool.balance(uri, blacklist=bed)
        assert cli.main(["scale", uri, "--blacklist", str(bed)]) == 2
    for content in (b"\xff\xfe\x00", gzip.compress(lines.encode())[:20]):
        path = tmp_path / ("cut.bed.gz" if content[0] == 0x1F else "binary.bed")
        path.write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read as a BED file"):
            cool.balance(uri, blacklist=path)
    with pytest.raises(FileNotFoundError):
        cool.balance(uri, blacklist=tmp_path / "none.bed")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.bed.gz",
            b"chrA\t0\t10\n",
            r"a.bed.gz cannot be read as a BED file: Not a gzipped file",
        ),
        (
            "a.bed.gz",
            gzip.compress(b"chrA\t0\t10\n", mtime=0)[:-8] + bytes(8),
            r"a.bed.gz cannot be read as a BED file: CRC check",
        ),
        ("a.bed", b"chrA\t0\t" + b"9" * 5000, r"a.bed, line 1: each line of a BED file must be"),
        (
            "a.bed",
            b"chrA\t" + b"0" * 5000 + b"1\t9",
            r"a.bed, line 1: each line of a BED file must be",
        ),
        (
            "a.bed",
            "chrA\t\u0661\t\u0669\n".encode(),
            r"a.bed, line 1: each line of a BED file must be",
        ),
        (
            "a.bed",
            "chrA\t1\t9\n".encode("utf-16"),
            r"a.bed cannot be read as a BED file: line 1 is not text",
        ),
        (
            "a.bed",
            b"chr\xe9\t1\t9\n",
            r"a.bed names no chromosome of .*: it has chr\ufffd, and the map",
        ),
    ],
)
def test_lists_that_cannot_be_read(uri, tmp_path, name, content, message, capsys):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        cool.balance(uri, blacklist=tmp_path / name)
    assert "\n" not in str(caught.value)
    assert cli.main(["scale", uri, "--blacklist", str(tmp_path / name)]) == 2
    assert re.search(message.replace("\ufffd", "."), capsys.readouterr().err)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    "content", [b"\xef\xbb\xbfchrA\t0\t10\n", b"chrA\t0\t10\tcaf\xe9\n", b"chrA\t000\t010\r\n"]
)
def test_lists_in_any_encoding(uri, tmp_path, content, zipped):
    bed = tmp_path / ("a.bed.gz" if zipped else "a.bed")
    bed.write_bytes(gzip.compress(content) if zipped else content)
    np.testing.assert_array_equal(
        cool.balance(uri, blacklist=bed).kept, cool.balance(uri, blacklist=[0]).kept
    )


@pytest.mark.parametrize(
    ("blacklist", "message"),
    [
        (np.zeros(136, bool), r"got bool of shape \(136,\): pass np.flatnonzero\(blacklist\)$"),
        (np.zeros(5, bool), r"got bool of shape \(5,\)$"),
        (np.arange(1000) % 137, "got 136$"),
        ([3, -1], "got -1$"),
        ([[1], [2, 3]], "got a list whose items differ in length$"),
    ],
)
def test_lists_of_other_things(uri, blacklist, message):
    with pytest.raises(
        ValueError, match=f"^blacklist must be the numbers of bins, integers from .*{message}"
    ):
        cool.balance(uri, blacklist=blacklist)


# --- pixels that are not in order -----------------------------------------------------------------


def change_columns(uri, change):
    """Change columns by ``change(columns)``, a dict."""
    with h5py.File(uri, "r+") as file:
        names = [
            f"{table}/{name}"
            for table in ("chroms", "bins", "pixels", "indexes")
            for name in file[table]
        ]
        columns = {name: file[name][:] for name in names}
        before = dict(columns)
        change(columns)
        for name in names:
            if columns.get(name) is not before[name]:
                del file[name]
                if name in columns:
                    file[name] = columns[name]


def permuted(columns):
    """Permute the pixels of each bin."""
    rng, offsets = np.random.default_rng(0), columns["indexes/bin1_offset"]
    order = np.concatenate(
        [rng.permutation(np.arange(lo, hi)) for lo, hi in itertools.pairwise(offsets)]
    )
    for name in ("pixels/bin2_id", "pixels/count"):
        columns[name] = columns[name][order.astype(int)]


def divided(columns):
    """Store every third pixel as two pixels, which add up to it."""
    twice = np.arange(columns["pixels/count"].size) % 3 == 0
    counts = columns["pixels/count"]
    part = np.where(twice, counts // 2, counts)
    repeats = np.where(twice, 2, 1)
    first = np.append(0, np.cumsum(repeats))[:-1]
    new = np.repeat(counts - part, repeats)
    new[first] = part
    columns["pixels/count"] = new
    for name in ("pixels/bin1_id", "pixels/bin2_id"):
        columns[name] = np.repeat(columns[name], repeats)
    columns["indexes/bin1_offset"] = np.append(first, first.size and new.size)[
        columns["indexes/bin1_offset"]
    ]


@pytest.mark.parametrize("piece", [2**17, *slow(100)])
@pytest.mark.parametrize(
    "how", [[permuted], [divided], [divided, permuted]], ids=["permuted", "divided", "both"]
)
def test_pixels_in_any_order(uri, how, piece, monkeypatch):
    """Older versions of cooler wrote such maps. Results are the same for pixels in order.

    This holds in memory, streamed, and for a map as A.
    """
    monkeypatch.setattr(_contact_map, "_PIECE", piece)
    expected, x = cool.balance(uri), np.arange(1.0, 137)
    value, sums = JacobianBuilder(uri).value(x), RowSums(uri, ignore_diags=2).value(x)
    for change in how:
        change_columns(uri, change)
    assert_stored(cool.read(uri)[0], contacts())
    assert cool.read(uri)[0].has_canonical_format
    np.testing.assert_array_equal(cool.balance(uri).weight, expected.weight)
    for options in ({}, {"cis_only": True}, {"trans_only": True}):
        streamed = cool.balance(uri, memory=2**23, **options)
        np.testing.assert_allclose(streamed.weight, cool.balance(uri, **options).weight, rtol=1e-6)
    np.testing.assert_array_equal(JacobianBuilder(uri).value(x), value)
    np.testing.assert_array_equal(JacobianBuilder(uri, memory=2**21 + 2**17).value(x), value)
    np.testing.assert_array_equal(RowSums(uri, ignore_diags=2).value(x), sums)
    assert LeastSquares(uri, uri).cost(np.ones(136)) == 0
    found = symmetric_scaling(uri, min_nnz=10)
    np.testing.assert_allclose(
        found.x, symmetric_scaling(cool.read(uri)[0], uplo="U", min_nnz=10).x, rtol=1e-6
    )


def test_counts_whose_sum_is_too_large(uri):
    def change(columns):
        divided(columns)
        columns["pixels/count"] = np.full_like(columns["pixels/count"], 2**31 - 1)

    change_columns(uri, change)
    for call in (
        lambda: cool.read(uri),
        lambda: RowSums(uri),
        lambda: cool.balance(uri, memory=2**23),
    ):
        with pytest.raises(
            ValueError,
            match=r"column pixels/count of .*map.cool has a pixel more than once, and the sum of "
            r"its counts, 4294967294, does not fit into int32",
        ):
            call()


SUMS = {
    "u8": (np.array([2**63, 2**63], np.uint64), ", 18446744073709551616, does not fit into uint64"),
    "u8, three": (
        np.array([2**64 - 1, 2**64 - 1, 2], np.uint64),
        ", 36893488147419103232, does not fit into uint64",
    ),
    "i8": (np.array([2**62, 2**62]), ", 9223372036854775808, does not fit into int64"),
    "i8, negative": (np.array([-(2**63), -1]), ", -9223372036854775809, does not fit into int64"),
    "i4": (np.array([-(2**31), -1], np.int32), ", -2147483649, does not fit into int32"),
    "u2": (np.array([2**16 - 1, 1], np.uint16), ", 65536, does not fit into uint16"),
    "bool": (np.array([True, True]), ", 2, does not fit into bool"),
    "f4": (np.array([3e38, 3e38], np.float32), " is beyond the largest float32"),
    "f8": (np.array([1.7e308, 1.7e308]), " is beyond the largest float64"),
}


@pytest.mark.parametrize(("counts", "message"), SUMS.values(), ids=list(SUMS))
def test_sums_that_leave_the_range(tmp_path, counts, message):
    """A sum of 64 bits does not wrap around, and nothing warns."""
    path = str(tmp_path / "twice.cool")
    write_pixels(path, np.zeros(counts.size, int), counts)
    for call in (
        lambda: cool.read(path),
        lambda: RowSums(path),
        lambda: cool.balance(path, memory=2**23),
    ):
        with pytest.raises(
            ValueError,
            match=r"must be finite and not neg|column pixels/count of .*twice.cool has a pixel",
        ):
            call()
    with pytest.raises(
        ValueError, match=f"more than once, and the sum of its counts{message}: make the map anew"
    ):
        cool.read(path)


@pytest.mark.parametrize(
    "counts",
    [
        np.array([2**63, 2**63 - 1], np.uint64),
        np.array([2**62, 2**62 - 1]),
        np.array([-(2**62), -(2**62)]),
        np.array([2**32 - 1, 2**32 - 1, -5]),
        np.array([100, 27], np.int8),
        np.array([True, False]),
        np.array([1e38, 2e38], ">f4"),
        np.array([np.inf, 1.0]),
    ],
)
def test_sums_at_the_ends_of_the_range(tmp_path, counts):
    path = str(tmp_path / "twice.cool")
    write_pixels(path, np.zeros(counts.size, int), counts)
    assert cool.read(path)[0][0, 0] == sum(counts.tolist())


def write_pixels(path, columns, counts):
    """Write a map of three bins with pixels in the first one."""
    with h5py.File(path, "w") as file:
        file["chroms/name"], file["chroms/length"] = np.array([b"a"]), [3]
        file["bins/chrom"], file["bins/start"], file["bins/end"] = [0, 0, 0], [0, 1, 2], [1, 2, 3]
        file["pixels/bin1_id"], file["pixels/bin2_id"], file["pixels/count"] = (
            0 * columns,
            columns,
            counts,
        )
        file["indexes/bin1_offset"], file["indexes/chrom_offset"] = [0, *[len(counts)] * 3], [0, 3]


# --- damaged files --------------------------------------------------------------------------------


def moved(columns, name, at, by):
    columns[name] = columns[name].copy()
    columns[name][at] += by


def replaced(name, function):
    return lambda columns: columns.update({name: function(columns[name])})


def with_value(value, dtype=float):
    def change(column):
        column = column.astype(dtype)
        column[5] = value
        return column

    return change


DAMAGES = {
    "a short column": (replaced("pixels/count", lambda c: c[:-5]),
        r"its column pixels/count has \d+ values where \d+ are needed"),
    "a short bin1_id": (replaced("pixels/bin1_id", lambda c: c[:-5]),
        r"its column pixels/bin1_id has \d+ values where"),
    "too few offsets": (replaced("indexes/bin1_offset", lambda c: c[:-1]),
        r"its column indexes/bin1_offset has 136 values where 137"),
    "an offset off by one": (lambda c: moved(c, "indexes/bin1_offset", 7, 1),
        r"its column indexes/bin1_offset does not fit pixels/bin1_id"),
    "all offsets off by one": (lambda c: moved(c, "indexes/bin1_offset", slice(None), 1),
        r"its column indexes/bin1_offset does not rise from 0"),
    "falling offsets": (replaced("indexes/bin1_offset", lambda c: np.append(c[:-1][::-1], c[-1])),
        r"indexes/bin1_offset does not rise"),
    "chromosomes' offsets": (lambda c: moved(c, "indexes/chrom_offset", -1, 1),
        r"its column indexes/chrom_offset does not rise from 0 to the 136 bins"),
    "a column of text": (replaced("pixels/count", lambda c: c.astype("S4")),
        r"its column pixels/count has \|S4 where numbers are needed"),
    "places that are no integers": (replaced("pixels/bin2_id", lambda c: c.astype(float)),
        r"its column pixels/bin2_id has float64 where integers are needed"),
    "a table in two dimensions": (replaced("pixels/count", lambda c: c[:, None]),
        r"its column pixels/count is not a column"),
    "a place outside": (replaced("pixels/bin2_id", with_value(136, int)),
        (r"its column pixels/bin2_id must be from bin1_id to 135, the last bin, but it is 136 of "
         r"pixel 5")),
    "a negative place": (replaced("pixels/bin2_id", with_value(-1, int)),
        r"its column pixels/bin2_id must be from bin1_id"),
    "below the diagonal": (lambda c: moved(c, "pixels/bin2_id", -1, -100),
        r"its column pixels/bin2_id must be from bin1_id"),
    "a name twice": (replaced("chroms/name", lambda c: c[[0, 0, 1, 2]]),
        r"its column chroms/name has a name twice"),
}  # fmt: skip
COUNTS = {
    "NaN": (with_value(np.nan),
        (r"column pixels/count of .*map.cool must be finite and not negative, but it is nan of "
         r"pixel 5")),
    "infinity": (with_value(np.inf), r"must be finite and not negative, but it is inf of pixel 5"),
    "a negative count": (with_value(-1, int),
        (r"must be finite and not negative, but it is -1 of pixel 5: make the map anew without "
         r"such pixels$")),
    "half precision": (lambda c: c.astype(np.float16),
        r"column pixels/count of .*map.cool must have a dtype among"),
}  # fmt: skip


def calls(uri):
    yield lambda: cool.balance(uri)
    yield lambda: cool.balance(uri, memory=2**23)


@pytest.mark.parametrize(("change", "message"), DAMAGES.values(), ids=list(DAMAGES))
def test_damaged_tables(uri, change, message, capsys):
    """Every function reports the damage in one line that names the file and the column."""
    change_columns(uri, change)
    other = "chroms" in message or "chrom_offset" in message
    for call in (
        *calls(uri),
        *([] if other else [lambda: JacobianBuilder(uri), lambda: cool.read(uri)]),
    ):
        with pytest.raises(
            ValueError,
            match=f"map.cool is damaged: .*{message}.*; make the map anew, for instance with "
            f"cooler$",
        ):
            call()
    assert cli.main(["scale", uri]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "Traceback" not in err


@pytest.mark.parametrize(("change", "message"), COUNTS.values(), ids=list(COUNTS))
def test_counts_that_cannot_be_balanced(uri, change, message, capsys):
    """No hint names an argument that the function does not take."""
    change_columns(uri, replaced("pixels/count", change))
    for call in calls(uri):
        with pytest.raises((ValueError, TypeError), match=message) as caught:
            call()
        for word in ("check_finite", "abs(A)", "mask"):
            assert word not in str(caught.value)
    assert cli.main(["scale", uri, "--memory", "8MB"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_columns_that_hdf5_would_read_as_zeros(uri):
    def unwritten(file, old):
        return file.create_dataset("new", old.shape, old.dtype, chunks=(100,))

    def never(file, old):
        return file.create_dataset("new", old.shape, old.dtype)

    def virtual(file, old):
        layout = h5py.VirtualLayout(old.shape, old.dtype)
        layout[:] = h5py.VirtualSource("none.h5", "counts", old.shape)
        return file.create_virtual_dataset("new", layout)

    for make, message in [
        (unwritten, r"its column pixels/count lacks \d+ of its \d+ chunks"),
        (never, "its column pixels/count was made but never written"),
        (virtual, "its column pixels/count is a virtual dataset, and .* is missing"),
    ]:
        with h5py.File(uri, "r+") as file:
            make(file, file["pixels/bin1_id"])
            del file["pixels/count"]
            file.move("new", "pixels/count")
        for call in (*calls(uri), lambda: cool.read(uri), lambda: JacobianBuilder(uri)):
            with pytest.raises(ValueError, match=message):
                call()


@pytest.mark.parametrize("seed", range(4))
def test_damaged_bytes(uri, seed):
    """Bytes are flipped or cut off. The result is numbers, or an error that names the file.

    Its message has one line.
    """
    data, rng = Path(uri).read_bytes(), np.random.default_rng(seed)
    assert data.count(b"GCOL") == 1
    heap = data.index(b"GCOL")
    for turn in range(15):
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), int(rng.integers(1, 30))):
            if (
                not heap <= at < heap + 4096
            ):  # HDF5 1.14 itself may loop for ever in a damaged heap of strings
                damaged[at] = rng.integers(256)
        Path(uri).write_bytes(damaged if turn % 3 else data[: rng.integers(len(data))])
        for call in (
            *calls(uri),
            lambda: cool.write_weights(uri, np.ones(136), {}, overwrite=True),
        ):
            try:
                call()
            except (ValueError, OSError, TypeError, MemoryError) as error:
                assert uri in str(error)  # noqa: PT017
                assert "\n" not in str(error)  # noqa: PT017


def test_a_column_that_cannot_be_decompressed(uri):
    with h5py.File(uri, "r") as file:
        offset = file["pixels/count"].id.get_chunk_info(0).byte_offset
    data = bytearray(Path(uri).read_bytes())
    data[offset : offset + 8] = bytes(8)
    Path(uri).write_bytes(data)
    for call in calls(uri):
        with pytest.raises(OSError, match=r"map.cool cannot be read, column pixels/count: "):
            call()


# --- names ----------------------------------------------------------------------------------------


def test_colons_in_names(tmp_path, capsys, monkeypatch):
    """Two colons divide a file from its group only if a file is before them.

    A name that looks like one of a map counts as a file.
    """
    folder = tmp_path / "a::b"
    folder.mkdir()
    monkeypatch.chdir(folder)
    made = write(tmp_path / "map.cool", contacts())  # cooler cannot write into such a folder
    uri = shutil.copy(made, folder / "map.cool")
    shutil.copy(made, folder / "x::y.cool")
    expected = cool.balance("map.cool")
    for name in (uri, f"{uri}::/", folder / "x::y.cool", f"{folder}/x::y.cool::/"):
        np.testing.assert_array_equal(cool.balance(name).weight, expected.weight)
        cool.write_weights(name, expected.weight, {}, overwrite=True)
    assert cli.main(["scale", f"{folder}/x::y.cool"]) == 0
    np.save("c::d.npy", np.eye(3))
    np.testing.assert_array_equal(
        JacobianBuilder(folder / "c::d.npy").value(np.ones(3)), np.eye(3).ravel()
    )
    assert cli.main(["scale", str(folder / "c::d.npy")]) == 0
    io.write_csr_blocks(
        folder / "e::f", [(0, scipy.sparse.eye_array(3, format="csr"))], shape=(3, 3)
    )
    assert RowSums(str(folder / "e::f")).shape == (3, 3)
    assert cli.main(["scale", str(folder / "e::f")]) == 0
    capsys.readouterr()
    assert cli.main(["scale", "g::h.npy"]) == 2
    assert "No such file" in capsys.readouterr().err
    assert cli.main(["scale", "none.mcool::/resolutions/10"]) == 2
    assert "none.mcool does not exist" in capsys.readouterr().err
    (folder / "dir.cool").mkdir()
    with pytest.raises(IsADirectoryError, match=r"dir.cool is a folder, and not a contact map"):
        cool.balance("dir.cool")
    with pytest.raises(ValueError, match="is not a contact map, as it has no group '/none'"):
        cool.balance(f"{uri}::/none")


def test_which_commands_take_maps(uri, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.ones(136))
    x, out = str(tmp_path / "x.npy"), str(tmp_path / "J.npz")
    for arguments in (["check", uri], ["build", uri, x, "-o", out], ["fit", uri, uri, "-o", x]):
        assert cli.main(arguments) == 2
        assert (
            "map.cool is a contact map, which only sparsejac scale takes: in Python, "
            "JacobianBuilder" in capsys.readouterr().err
        )
    scool = str(tmp_path / "cells.scool")
    bins = cooler.Cooler(uri).bins()[:][["chrom", "start", "end"]]
    pixels = cooler.Cooler(uri).pixels()[:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cooler.create_scool(scool, bins, {f"cell{n}": pixels for n in (2, 10, 1)}, ordered=True)
    assert cli.main(["scale", scool]) == 2
    listed = ", ".join(f"{scool}::/cells/cell{n}" for n in (1, 2, 10))
    assert capsys.readouterr().err.endswith(f"pass one of its 3 maps, {listed}\n")
    with pytest.raises(ValueError, match="pass one of its 3 maps, ") as caught:
        cool.balance(scool)
    assert str(caught.value).endswith(listed)
    assert cli.main(["scale", f"{scool}::/cells/cell2", "--write"]) == 0
    assert "weight" in cooler.Cooler(f"{scool}::/cells/cell2").bins().columns
