"""Tests of what surrounds the balancing of one map: all maps of a file, regions, HiC-Pro's files,
rescaled weights, and weights as text.
"""

import gzip
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from support import slow, slow_except

from sparsejac import cli, cool
from sparsejac._matrix import hicpro
from sparsejac._solvers import balancing

test_cool = pytest.importorskip("test_cool", reason="contact maps are written by cooler")
cooler, pd, h5py = test_cool.cooler, test_cool.pd, test_cool.h5py

SIZES = test_cool.CHROMOSOMES
STARTS = [10 * i for size in SIZES.values() for i in range(size)]
NAMES = [name for name, size in SIZES.items() for _ in range(size)]
CHROMOSOME = np.repeat(np.arange(len(SIZES)), list(SIZES.values()))


@pytest.fixture
def counts():
    return test_cool.contacts()


@pytest.fixture
def uri(tmp_path, counts):
    return test_cool.write(tmp_path / "map.cool", counts)


def symmetric(counts, ignore_diags=2):
    """The dense matrix of the contacts that count."""
    i, j = np.indices(counts.shape)
    whole = counts + np.triu(counts, 1).T
    return np.where(abs(i - j) < ignore_diags, 0, whole).astype(float)


# --- all maps of a file ---------------------------------------------------------------------------


@pytest.fixture
def mcool(tmp_path, counts):
    path = tmp_path / "map.mcool"
    for seed, size in enumerate((100, 20, 9)):
        test_cool.write(path, test_cool.contacts(seed), f"::/resolutions/{size}")
    return str(path)


def damage(path, group):
    with h5py.File(path, "r+") as file:
        column = file[f"{group}/pixels/bin2_id"]
        column[5] = 136


def columns_of(path, size):
    return list(cooler.Cooler(f"{path}::/resolutions/{size}").bins().columns)


def test_all_resolutions(mcool):
    results = cool.balance_all(mcool, store=True, cis_only=True)
    assert list(results) == [f"{mcool}::/resolutions/{size}" for size in (9, 20, 100)]
    for one, result in results.items():
        assert result.success
        assert result.stats["divisive_weights"] is False
        np.testing.assert_array_equal(result.weight, cool.balance(one, cis_only=True).weight)
        np.testing.assert_array_equal(cooler.Cooler(one).bins()["weight"][:], result.weight)
        with cooler.Cooler(one).open("r") as group:
            assert group["bins/weight"].attrs["cis_only"]
    with pytest.raises(ValueError, match='resolutions/9 has a column "weight" already'):
        cool.balance_all(mcool, store=True)
    results = cool.balance_all(mcool, store=True, store_name="KR")
    for one, result in results.items():
        assert "is for 1/weight, as cooler divides" in result.message
        np.testing.assert_allclose(cooler.Cooler(one).bins()["KR"][:], 1 / result.weight)


def test_all_cells(tmp_path, uri, counts, capsys):
    path = str(tmp_path / "cells.scool")
    bins = cooler.Cooler(uri).bins()[:]
    pixels = cooler.Cooler(uri).pixels()[:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cooler.create_scool(path, bins, {f"cell{n}": pixels for n in (10, 2)}, ordered=True)
    assert cli.main(["scale", path, "--all", "--write", "--name", "W"]) == 0
    out = capsys.readouterr().out
    assert out.index("cells/cell2\n") < out.index("cells/cell10\n")
    assert out.count("scale: converged: ") == 2
    assert f'2 of 2 maps are balanced\n   weights written to column "W" of 2 maps of {path}' in out
    expected = cool.balance(uri).weight
    for n in (2, 10):
        np.testing.assert_array_equal(
            cooler.Cooler(f"{path}::/cells/cell{n}").bins()["W"][:], expected
        )


@pytest.mark.parametrize("how", ["value", "column", *slow("table")])
def test_one_resolution_is_damaged(mcool, how, capsys):
    """The others are balanced and written, and the exit code and the result say so."""
    if how == "value":
        damage(mcool, "/resolutions/20")
    else:
        with h5py.File(mcool, "r+") as file:
            del file["/resolutions/20/pixels" if how == "table" else "/resolutions/20/pixels/count"]
    before = h5py_bytes(mcool, "/resolutions/20")
    results = cool.balance_all(mcool, store=True)
    assert [result.success for result in results.values()] == [True, False, True]
    bad = results[f"{mcool}::/resolutions/20"]
    assert (bad.status, str(bad.error)) == (-1, bad.message)
    assert re.search(
        {
            "value": "resolutions/20 is damaged: its column pixels/bin2_id must be from bin1_id to",
            "table": "resolutions/20 is not a contact map, as it has no table 'pixels': pass on",
            "column": "resolutions/20 is not a contact map, as it has no column 'pixels/count'$",
        }[how],
        bad.message,
    )
    assert "weight" in columns_of(mcool, 9)
    assert "weight" in columns_of(mcool, 100)
    assert h5py_bytes(mcool, "/resolutions/20") == before
    assert cli.main(["scale", mcool, "--all", "--write", "--force"]) == 2
    out, err = capsys.readouterr()
    assert out.count("scale: converged: ") == 2
    assert "scale: not balanced, because of an error\n" in out
    assert "2 of 3 maps are balanced\n" in out
    assert re.search("^sparsejac scale: error: .*resolutions/20 is ", err, re.MULTILINE)
    assert h5py_bytes(mcool, "/resolutions/20") == before


def h5py_bytes(path, group):
    """All numbers of a group, by their names."""
    found = {}
    with h5py.File(path, "r") as file:
        file[group].visititems(
            lambda name, item: found.update(
                {name: item[:].tobytes()} if hasattr(item, "shape") else {}
            )
        )
    return found


def test_exit_codes_of_several_maps(mcool, capsys):
    assert cli.main(["scale", mcool, "--all", "--max-products", "3", "--write"]) == 1
    assert "0 of 3 maps are balanced\n" in capsys.readouterr().out
    assert cli.main(["scale", mcool, "--all", "--mad-max", "0.1"]) == 0
    assert re.search("warning: .*resolutions/9: filters leave out ", capsys.readouterr().err)
    assert "weight" not in columns_of(mcool, 9)
    for option, message in (
        (["-o", "x.npy"], "--output is for one map, and --all is for all maps of a file"),
        (["--bed", "x.bed"], "--bed is for one map, and --all is for all maps of a file"),
        (["--plot", "x.png"], "--plot is for one map, and --all is for all maps of a file"),
        (["--tol", "-1"], "--tol must be at least 0"),
        (["--force"], "pass --write as well"),
    ):
        assert cli.main(["scale", mcool, "--all", *option]) == 2
        assert message in capsys.readouterr().err


def test_what_has_not_several_maps(uri, mcool, tmp_path):
    with pytest.raises(ValueError, match=r"map.cool does not hold several maps, as .mcool and "):
        cool.balance_all(uri)
    with pytest.raises(ValueError, match=r"names one map of a file, .*: pass the file, .*mcool$"):
        cool.balance_all(f"{mcool}::/resolutions/9")
    with pytest.raises(FileNotFoundError, match=r"none.mcool does not exist"):
        cool.balance_all(tmp_path / "none.mcool")
    with pytest.raises(TypeError, match="balance_all got the option 'x0': it takes those of bal"):
        cool.balance_all(mcool, x0=np.ones(136))
    with pytest.raises(
        TypeError, match=r"blacklist must be a BED file for several maps, .*got list"
    ):
        cool.balance_all(mcool, blacklist=[3])
    with pytest.raises(ValueError, match="tol must be at least 0"):
        cool.balance_all(mcool, tol=-1)
    with pytest.raises(TypeError, match="store must be True or False"):
        cool.balance_all(mcool, store=1)


def test_a_folder_of_maps_that_is_none(mcool):
    with h5py.File(mcool, "r+") as file:
        file["cells"] = 3
    with pytest.raises(ValueError, match=r"map.mcool cannot be read, the group /cells: "):
        cool.balance_all(mcool)


def test_several_maps_that_change(mcool, monkeypatch, tmp_path):
    """A file that changes while its maps are balanced stays as it is then."""
    balanced, last = balancing.balanced, []

    def meanwhile(*arguments):
        result = balanced(*arguments)
        with h5py.File(mcool, "r+") as file:
            file["resolutions/9/pixels/count"][0] += 1
        last[:] = [Path(mcool).read_bytes()]
        return result

    monkeypatch.setattr(balancing, "balanced", meanwhile)
    with pytest.raises(OSError, match=r"it has changed since it was read, .*; balance it anew"):
        cool.balance_all(mcool, store=True)
    assert Path(mcool).read_bytes() == last[0]


def test_maps_in_other_groups(tmp_path, counts):
    """Old files of several resolutions have no group ``resolutions``."""
    path = str(tmp_path / "old.mcool")
    for zoom in (1, 0):
        test_cool.write(path, counts, f"::/{zoom}")
    assert list(cool.balance_all(path)) == [f"{path}::/0", f"{path}::/1"]


# --- regions --------------------------------------------------------------------------------------

REGIONS = {
    "chrB": (60, 105),
    "chrA:100-400": (10, 40),
    "chrA:105-401": (10, 41),
    " chrA:1,00-4,00 ": (10, 40),
    "chrC:50-": (110, 135),
    "chrC:0-99,999": (105, 135),
}


@pytest.mark.parametrize("region", slow_except(["chrB", "chrA:105-401", "chrC:0-99,999"], REGIONS))
def test_a_region_is_balanced_as_if_it_were_alone(tmp_path, uri, counts, region):
    """Cooler balances a map that has these contacts only. It says which bins they are, too."""
    lo, hi = REGIONS[region]
    if not region.endswith(("-", "99,999")):
        assert cooler.Cooler(uri).extent(region.strip()) == (lo, hi)
    alone = np.zeros_like(counts)
    alone[lo:hi, lo:hi] = counts[lo:hi, lo:hi]
    other = test_cool.write(tmp_path / "alone.cool", alone)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, _ = cooler.balance_cooler(cooler.Cooler(other), tol=1e-12, max_iters=3000)
    result = cool.balance(uri, region=region)
    assert result.success
    assert 15 < result.kept.sum() <= hi - lo
    np.testing.assert_array_equal(np.isnan(result.weight), np.isnan(expected))
    np.testing.assert_allclose(result.weight, expected, rtol=1e-5)
    assert result.left_out["region"] == 136 - (hi - lo)
    assert f"{136 - (hi - lo)} outside {region}" in result.message
    assert result.stats["region"] == region
    assert not result.warning


def test_regions_of_pixels_in_any_order(uri):
    expected = cool.balance(uri, region="chrB:100-")
    test_cool.change_columns(uri, test_cool.divided)
    test_cool.change_columns(uri, test_cool.permuted)
    result = cool.balance(uri, region="chrB:100-", store=True)
    np.testing.assert_array_equal(result.weight, expected.weight)
    np.testing.assert_array_equal(cooler.Cooler(uri).bins()["weight"][:], expected.weight)


def test_a_name_with_colons(tmp_path, counts):
    path = str(tmp_path / "hla.cool")
    bins = pd.DataFrame({"chrom": ["HLA:1-2"] * 136, "start": range(136), "end": range(1, 137)})
    i, j = np.nonzero(counts)
    pixels = pd.DataFrame({"bin1_id": i, "bin2_id": j, "count": counts[i, j]})
    cooler.create_cooler(path, bins, pixels, ordered=True)
    whole = cool.balance(path, region="HLA:1-2")
    np.testing.assert_array_equal(whole.weight, cool.balance(path).weight)
    assert cool.balance(path, region="HLA:1-2:10-60").left_out["region"] == 86


HAS = r"which has no 'chrX': it has 'chrA', 'chrB', 'chrC', 'chrM'$"


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ("chrX", f"region must be on a chromosome of .*map.cool, {HAS}"),
        ("chrX:1-20", f"region must be on a chromosome of .*map.cool, {HAS}"),
        ("chrA:10", "region must be a chromosome, .* 'chr2:1,000,000-5,000,000', got 'chrA:10'$"),
        ("chrA:-5-10", "region must be a chromosome, .* got 'chrA:-5-10'$"),
        ("chrA:1e3-2e3", "region must be a chromosome, .* got 'chrA:1e3-2e3'$"),
        ("chrA:600-700", "region must hold a bin of 'chrA', which ends at 600, and start before"),
        ("chrA:50-50", "region must hold a bin of 'chrA', .* it ends, got 'chrA:50-50'$"),
        ("chrA:9" + "9" * 22 + "-", "region must hold a bin of 'chrA', which ends at 600"),
        ("", "region must be a chromosome, or a part of one such as .*, got ''$"),
        (3, "region must be a chromosome, or a part of one such as .*, got 3$"),
    ],
)
def test_regions_that_a_map_does_not_have(uri, region, message, capsys):
    with pytest.raises(ValueError, match=f"^{message}"):
        cool.balance(uri, region=region)
    if isinstance(region, str):
        assert cli.main(["scale", uri, "--region", region]) == 2
        assert re.search(f"error: --{message}", capsys.readouterr().err.strip())


def test_what_does_not_go_with_a_region(uri):
    with pytest.raises(ValueError, match="trans_only must be left out with a region, which is on"):
        cool.balance(uri, region="chrA", trans_only=True)
    with pytest.raises(ValueError, match="memory must be left out with a region, whose contacts"):
        cool.balance(uri, region="chrA", memory=2**23)


# --- rescaled weights -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"region": "chrB"}, {"trans_only": True}, {"memory": 2**22}]
)
def test_rescaled_weights_keep_the_sum(uri, counts, options):
    """This is iced's ``total_counts``. Weights differ by one number from those that are not."""
    plain, result = (cool.balance(uri, rescale=rescale, **options) for rescale in (False, True))
    kept = np.where(result.kept, 1.0, 0.0)
    S = symmetric(counts)
    if "trans_only" in options:
        S[CHROMOSOME[:, None] == CHROMOSOME] = 0
    weight = np.nan_to_num(result.weight)
    np.testing.assert_allclose(weight @ S @ weight, kept @ S @ kept, rtol=1e-12)
    if "trans_only" not in options:
        sums = (weight * (S @ weight))[result.kept]
        np.testing.assert_allclose(sums, result.stats["scale"], rtol=1e-7)
    ratio = (result.weight / plain.weight)[result.kept]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-12)
    assert ratio[0] > 2
    assert (result.stats["rescale"], "rescale" in plain.stats) == (True, False)


def test_rescaled_weights_of_each_chromosome(uri, counts):
    result = cool.balance(uri, rescale=True, cis_only=True)
    weight, kept, S = np.nan_to_num(result.weight), result.kept.astype(float), symmetric(counts)
    for c in range(3):
        one = c == CHROMOSOME
        S_c = S[np.ix_(one, one)]
        raw = kept[one] @ S_c @ kept[one]
        np.testing.assert_allclose(weight[one] @ S_c @ weight[one], raw, rtol=1e-12)
    with pytest.raises(TypeError, match="rescale must be True or False"):
        cool.balance(uri, rescale=2)


def test_rescaled_weights_of_cooler(uri):
    """Cooler without ``rescale_marginals`` gives the same weights but for a number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, _ = cooler.balance_cooler(
            cooler.Cooler(uri), tol=1e-5, max_iters=300, rescale_marginals=False
        )
    ratio = cool.balance(uri, rescale=True).weight / expected
    np.testing.assert_allclose(ratio, np.full(136, np.nanmedian(ratio)) + 0 * expected, rtol=1e-5)


def test_nothing_to_rescale(uri):
    result = cool.balance(uri, rescale=True, min_nnz=1000)
    assert (result.success, np.isnan(result.weight).all()) == (False, True)


# --- filters that leave out too much --------------------------------------------------------------


def test_a_warning_if_filters_leave_out_a_third(uri, capsys):
    assert cool.balance(uri).warning == ""
    filters = {"min_nnz": 0, "mad_max": 0}
    kept = np.flatnonzero(cool.balance(uri, **filters).kept)
    for count in (45, 46):
        result = cool.balance(uri, blacklist=kept[: count - (136 - kept.size)], **filters)
        assert (~result.kept).sum() == count
        assert bool(result.warning) == (count > 136 / 3)
    result = cool.balance(uri, blacklist=list(range(60)))
    count = int((~result.kept).sum())
    assert result.warning == (
        f"filters leave out {count} of 136 bins, more than a third: the map may have too few "
        "contacts for bins of this size, so take a coarser resolution"
    )
    assert cli.main(["scale", uri, "--min-nnz", "1000"]) == 1
    assert "sparsejac scale: warning: filters leave out 136 of 136 bins" in capsys.readouterr().err
    assert cli.main(["scale", uri]) == 0
    assert "warning" not in capsys.readouterr().err


# --- weights as text ------------------------------------------------------------------------------


def hickry(weight):
    """What ``HiCKRy.py`` of Fit-Hi-C writes for x, in its own order of operations."""
    kept = np.isfinite(weight)
    inverse = 1 / weight[kept]
    bias = inverse / (inverse.sum() / inverse.size)
    result = np.full(weight.size, -1.0)
    result[kept] = bias
    return result


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_export(uri, tmp_path, suffix, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weight = cool.balance(uri).weight
    assert cli.main(["scale", uri, "-o", f"w.tsv{suffix}"]) == 0
    assert f"   weights written to w.tsv{suffix}\n" in capsys.readouterr().out
    table = pd.read_csv(f"w.tsv{suffix}", sep="\t", converters={"weight": float})
    bins = cooler.Cooler(uri).bins()[:]
    assert list(table) == ["chrom", "start", "end", "weight"]
    assert table.chrom.tolist() == bins.chrom.tolist()
    assert (table.start.tolist(), table.end.tolist()) == (bins.start.tolist(), bins.end.tolist())
    np.testing.assert_array_equal(table.weight, weight)
    assert cli.main(["scale", uri, "-o", f"w.biases{suffix}"]) == 0
    opened = gzip.open if suffix else open
    with opened(f"w.biases{suffix}", "rt") as file:  # as fithic.py reads it
        words = [line.split() for line in file]
    assert [(chrom, int(middle)) for chrom, middle, _ in words] == [
        (name, start + 5) for name, start in zip(NAMES, STARTS, strict=True)
    ]
    bias = np.array([float(value) for _, _, value in words])
    np.testing.assert_allclose(bias, hickry(weight), rtol=1e-14)
    assert (bias == -1).sum() == np.isnan(weight).sum() > 0
    np.testing.assert_allclose(bias[bias > 0].mean(), 1, rtol=1e-14)


def test_midpoints_of_short_and_uneven_bins(tmp_path):
    for ends, expected in (
        ([100, 200, 230, 90], [50, 150, 250, 50]),  # the last bins are short
        ([100, 180, 230, 90], [50, 140, 205, 45]),
    ):
        starts = [0, ends[0], ends[1], 0]
        bins = pd.DataFrame({"chrom": list("aaab"), "start": starts, "end": ends})
        path = str(tmp_path / f"{ends[1]}.cool")
        cooler.create_cooler(
            path, bins, pd.DataFrame({"bin1_id": [0], "bin2_id": [1], "count": [1]}), ordered=True
        )
        cool.export_weights(tmp_path / "x.biases", path, [1e-310, 1e308, np.nan, 1.0])
        words = [line.split() for line in (tmp_path / "x.biases").read_text().splitlines()]
        assert [int(middle) for _, middle, _ in words] == expected
        assert [value for _, _, value in words] == ["3.0", "0.0", "-1.0", words[3][2]]


def test_export_wrong_use(uri, tmp_path, capsys):
    ones = np.ones(136)
    for name, weight, error, message in (
        (
            "x.txt",
            ones,
            ValueError,
            r"must end in .tsv, .tsv.gz, .biases or .biases.gz, got .*x.tx",
        ),
        ("x.tsv", ones[1:], ValueError, "weight must be a vector of length 136, one for each bin"),
        ("x.tsv", ones * 1j, TypeError, "a column of weights is for real numbers"),
        ("x.biases", ones * 0, ValueError, "weight must be positive and finite, or NaN in bins th"),
        ("x.biases", ones * np.inf, ValueError, "weight must be positive and finite, or NaN in b"),
        ("no/x.tsv", ones, ValueError, "the folder of the output .* does not exist"),
    ):
        with pytest.raises(error, match=message):
            cool.export_weights(tmp_path / name, uri, weight)
        assert not (tmp_path / name).exists()
    assert cli.main(["scale", uri, "-o", str(tmp_path / "x.txt")]) == 2
    assert "must end in .npy" in capsys.readouterr().err
    np.save(tmp_path / "S.npy", np.eye(3))
    assert cli.main(["scale", str(tmp_path / "S.npy"), "-o", str(tmp_path / "x.tsv")]) == 2
    assert "must end in .npy" in capsys.readouterr().err


# --- HiC-Pro --------------------------------------------------------------------------------------


def lines_of(counts):
    i, j = np.nonzero(counts)
    return [f"{a + 1}\t{b + 1}\t{counts[a, b]}\n" for a, b in zip(i, j, strict=True)]


def write_hicpro(folder, counts, *, bed=True, zipped=False):
    text = "".join(lines_of(counts)).encode()
    path = folder / ("map_10.matrix.gz" if zipped else "map_10.matrix")
    path.write_bytes(gzip.compress(text) if zipped else text)
    if bed:
        (folder / "map_10_abs.bed").write_text(
            "".join(
                f"{name}\t{start}\t{start + 10}\t{number}\n"
                for number, (name, start) in enumerate(zip(NAMES, STARTS, strict=True), 1)
            )
        )
    return str(path)


@pytest.mark.parametrize("zipped", [True, *slow(False)])
def test_matrices_of_hicpro(uri, tmp_path, counts, zipped, capsys):
    path = write_hicpro(tmp_path, counts, zipped=zipped)
    for options in ({}, {"cis_only": True}, {"trans_only": True}, {"region": "chrB:100-"}):
        expected = cool.balance(uri, **options)
        result = cool.balance(path, **options)
        np.testing.assert_array_equal(result.weight, expected.weight)
        assert result.message == expected.message
    bed = tmp_path / "black.bed"
    bed.write_text("chrB\t0\t100\n")
    np.testing.assert_array_equal(
        cool.balance(path, blacklist=bed).kept, cool.balance(uri, blacklist=bed).kept
    )
    for name in ("x.npy", "x.tsv"):
        assert cli.main(["scale", path, "-o", str(tmp_path / name)]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), cool.balance(uri).weight)
    cool.export_weights(tmp_path / "y.tsv", uri, cool.balance(uri).weight)
    assert (tmp_path / "x.tsv").read_bytes() == (tmp_path / "y.tsv").read_bytes()


def test_triplets_in_any_order(tmp_path, counts, monkeypatch):
    """Pairs may have several lines, which are added. Blocks end at any byte."""
    monkeypatch.setattr(hicpro, "_BLOCK", 997)
    rng = np.random.default_rng(0)
    half = counts // 2
    lines = [*lines_of(half), *lines_of(counts - half)]
    path = tmp_path / "x.matrix"
    path.write_text("".join(rng.permutation(lines)).replace("\t", "  "))
    A = hicpro.Triplets(path, None).matrix(strict=True)
    assert (A.dtype, A.indices.dtype, A.has_canonical_format) == (np.int32, np.int32, True)
    np.testing.assert_array_equal(A.toarray(), counts[: A.shape[0], : A.shape[0]])
    part = hicpro.Triplets(path, None).matrix(strict=True, bins=range(10, 50)).toarray()
    np.testing.assert_array_equal(part[10:50, 10:50], counts[10:50, 10:50])
    assert part.sum() == counts[10:50, 10:50].sum()


def test_counts_that_are_not_integers(tmp_path):
    path = tmp_path / "x.matrix"
    path.write_bytes(b"1 1 2.5\r\n1\t2\t.5e1\n 2 2 3.\n")
    A = hicpro.Triplets(path, None).matrix(strict=True)
    np.testing.assert_array_equal(A.toarray(), [[2.5, 5], [0, 3]])
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"x.matrix is empty"):
        cool.balance(path)
    path.write_bytes(b"1 1 1e308\n1 1 1e308\n")
    with pytest.raises(ValueError, match="has a pair of bins whose counts add up to infinity"):
        cool.balance(path)


def test_a_matrix_without_its_bed(uri, tmp_path, counts, capsys):
    """The bins are those of one chromosome. What needs names is refused."""
    path = write_hicpro(tmp_path, counts, bed=False)
    result = cool.balance(path)
    assert result.success
    weight = np.nan_to_num(result.weight)
    S = symmetric(counts)
    k = weight.size
    np.testing.assert_allclose((weight * (S[:k, :k] @ weight))[result.kept], 1, atol=1e-7)
    message = (
        r"map_10.matrix has numbers for its bins, and their chromosomes are needed: pass {}, the "
        r"BED file that HiC-Pro writes, .*map_10_abs.bed"
    )
    bed = tmp_path / "black.bed"
    bed.write_text("chrB\t0\t100\n")
    for options in (
        {"cis_only": True},
        {"trans_only": True},
        {"region": "chrA"},
        {"blacklist": bed},
    ):
        with pytest.raises(ValueError, match=message.format("bed=")):
            cool.balance(path, **options)
    with pytest.raises(ValueError, match=message.format("bed=")):
        cool.export_weights(tmp_path / "x.tsv", path, weight)
    for option in (["--cis-only"], ["-o", str(tmp_path / "x.biases")]):
        assert cli.main(["scale", path, *option]) == 2
        assert re.search(message.format("--bed"), capsys.readouterr().err)
    write_hicpro(tmp_path, counts)
    other = (tmp_path / "map_10_abs.bed").rename(tmp_path / "bins.bed")
    np.testing.assert_array_equal(
        cool.balance(path, bed=other, cis_only=True).weight, cool.balance(uri, cis_only=True).weight
    )
    assert cli.main(["scale", path, "--bed", str(other), "-o", str(tmp_path / "x.biases")]) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\t1\t5\n1\t2\n", r"line 2: each line of HiC-Pro's matrix must be .*, got '1\\t2'$"),
        ("1\t1\t5\t6\n", "line 1: .* the numbers of two bins and a count that is not negative"),
        ("1 1 5\n\n1 2 3\n", "line 2: .*, got ''$"),
        ("1 1 5\n1 2 -3\n", "line 2: .* a count that is not negative, got '1 2 -3'"),
        ("1 1 5\n1 2 nan\n", "line 2: .* a count that is not negative, got '1 2 nan'"),
        ("1 1 5\n1.5 2 3\n", "line 2: .* a count that is not negative, got '1.5 2 3'"),
        ("1 1 5\n1 2 3\n0 2 3\n", "line 3: .* which count from 1, and a count, got '0 2 3'"),
        ("1 1 5\n3 2 3\n", r"line 2: .* in the upper triangle: .*MATRIX_FORMAT = upper\), got '3"),
        ("1 1 5\n1 2 1e999\n", "line 2: .* a count that float64 can hold, got '1 2 1e999'"),
        ("1 1 5\n1 137 2\n", r"line 2: it has bin 137, and .*map_10_abs.bed has 136 bins: pass"),
        ("1 1 5\n1 2 3", "it has a line without an end, so it may be cut: copy it anew"),
        ("x" * 3000, "it has a line without an end"),
    ],
)
@pytest.mark.parametrize("block", [2**20, *slow(11)])
def test_malformed_triplets(tmp_path, counts, text, message, block, monkeypatch, capsys):
    monkeypatch.setattr(hicpro, "_BLOCK", block)
    path = write_hicpro(tmp_path, counts)
    (tmp_path / "map_10.matrix").write_text(text)
    with pytest.raises(ValueError, match=f"map_10.matrix.*{message}"):
        cool.balance(path)
    assert cli.main(["scale", path]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\t0\t10\n", "line 1: each line of HiC-Pro's bins must be .*, here 1, got 'a"),
        ("a\t0\t10\t1\na\t10\t20\t3\n", "line 2: .* the number of the bin, here 2, got"),
        ("a\t10\t0\t1\n", "line 1: each line of HiC-Pro's bins must be a chromosome, a start"),
        (
            "a 0 9 1\nb 0 9 2\na 9 18 3\n",
            "line 3: the bins of a chromosome must be neighbours, .*'a'",
        ),
    ],
)
def test_malformed_bins(tmp_path, counts, text, message):
    path = write_hicpro(tmp_path, counts)
    (tmp_path / "map_10_abs.bed").write_text(text)
    with pytest.raises(ValueError, match=f"map_10_abs.bed, {message}"):
        cool.balance(path)


def test_hicpro_wrong_use(uri, tmp_path, counts, capsys):
    path = write_hicpro(tmp_path, counts, zipped=True)
    with pytest.raises(
        ValueError, match=r"memory must be left out for .*gz, whose text is read in"
    ):
        cool.balance(path, memory=2**23)
    with pytest.raises(ValueError, match="cannot hold weights, as it is text of HiC-Pro"):
        cool.balance(path, store=True)
    with pytest.raises(ValueError, match=r"bed must be left out for .*map.cool, as only a .matrix"):
        cool.balance(uri, bed=tmp_path / "map_10_abs.bed")
    with pytest.raises(FileNotFoundError):
        cool.balance(tmp_path / "none.matrix")
    with pytest.raises(FileNotFoundError):
        cool.balance(path, bed=tmp_path / "none.bed")
    assert cli.main(["scale", path, "--write"]) == 2
    assert "cannot hold weights, as it is text of HiC-Pro" in capsys.readouterr().err
    data = (tmp_path / "map_10.matrix.gz").read_bytes()
    for wrong in (data[:-20], data[:-8] + bytes(8), b"1 1 1\n"):
        (tmp_path / "map_10.matrix.gz").write_bytes(wrong)
        with pytest.raises(ValueError, match="cannot be read as a matrix of HiC-Pro: "):
            cool.balance(path)


def test_a_real_map(real_data, tmp_path):
    """The same map as a file of cooler and as text of HiC-Pro has the same weights."""
    uri = str(real_data("hg19.GM12878-MboI.matrix.2000kb.cool"))
    coo = cool.read(uri)[0].tocoo()
    np.savetxt(tmp_path / "y.matrix", np.column_stack([coo.row + 1, coo.col + 1, coo.data]), "%d")
    bins = cooler.Cooler(uri).bins()[["chrom", "start", "end"]][:]
    bins["id"] = 1 + np.arange(len(bins))
    bins.to_csv(tmp_path / "y_abs.bed", sep="\t", header=False, index=False)
    for options in ({}, {"region": "chr1:50,000,000-150,000,000", "rescale": True}):
        options |= {"support": "drop_rows", "min_nnz": 5}
        expected, result = (
            cool.balance(uri, **options),
            cool.balance(tmp_path / "y.matrix", **options),
        )
        assert result.kept.sum() > 30
        np.testing.assert_array_equal(result.weight, expected.weight)


def test_a_bin_that_is_far_too_large(tmp_path):
    """One wrong digit must not take all memory."""
    (tmp_path / "x.matrix").write_text(f"1 2 3\n{10**12} {10**12} 3\n")
    with pytest.raises(MemoryError, match=r"whose largest bin is 10{12}.*check that bin"):
        cool.balance(tmp_path / "x.matrix", mad_max=0, min_nnz=0, ignore_diags=0)


def test_weights_do_not_replace_the_blacklist(mcool, tmp_path, capsys):
    bed = tmp_path / "b.tsv"
    bed.write_text("chrA\t0\t20\n")
    code = cli.main(["scale", f"{mcool}::/resolutions/9", "--blacklist", str(bed), "-o", str(bed)])
    assert code == 2
    assert "is also an input: choose another name" in capsys.readouterr().err
    assert bed.read_text() == "chrA\t0\t20\n"
