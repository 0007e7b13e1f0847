"""The command's exit code 0, and a written file, mean the same as the success of the library."""

import os

import cooler
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from linear_programs import Problem
from test_verdicts_scaling import at_random, row_sums_hold

from sparsejac import cli, cool, fit, io, jacobian, symmetric_scaling

# What the README says of the statuses of a scaling. All others are 1.
CODES = {1: 0, 6: 3, 7: 4}
NOTICE = "compiling the kernels"
counts = pytest.mark.parametrize("count", [6, pytest.param(300, marks=pytest.mark.long)])


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """A function that runs the command: the exit code, stdout, and stderr without notices."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, [line for line in err.splitlines() if NOTICE not in line]

    return run


def written(name):
    """The array in a file, or None. The file is then removed."""
    if not os.path.exists(name):
        return None
    found = np.load(name)
    os.remove(name)
    return found


def save(name, A, *, sparse):
    """Write a matrix, and return the name, and what the command reads."""
    if sparse:
        scipy.sparse.save_npz(f"{name}.npz", scipy.sparse.csr_array(A))
        return f"{name}.npz", io.read_matrix(f"{name}.npz")
    np.save(f"{name}.npy", A)
    return f"{name}.npy", io.read_matrix(f"{name}.npy")


# --- scalings of matrices -------------------------------------------------------------------------


@counts
def test_scale(command, count, tried):
    rng, codes = np.random.default_rng(count), set()
    for number, (A, d, _) in enumerate(at_random(count, 11)):
        name, matrix = save("A", A, sparse=number % 2)
        np.save("d.npy", d)
        support = ("check", "drop", "drop_rows", "auto", "skip")[number % 5]
        most = int(rng.choice([3, 20_000]))
        result = symmetric_scaling(matrix, d, support=support, max_products=most)
        code, out, err = command(
            *("scale", name, "--target", "d.npy", "-o", "x.npy"),
            *("--support", support, "--max-products", most),
        )
        x = written("x.npy")
        assert err == []
        assert code == CODES.get(int(result.status), 1)
        assert ("scale: converged: the residual" in out) == (code == 0)
        assert ("   x written to x.npy\n" in out) == (x is not None) == (code in (0, 3))
        assert ("nothing is written to x.npy" in out) == (code == 1)
        if x is not None:
            np.testing.assert_array_equal(x, result.x)
            A[tuple(result.unsupported_entries.T)] *= code != 3
            A[tuple(result.unsupported_entries.T[::-1])] *= code != 3
            kept = ~np.isnan(x)
            rest = Problem(A[kept][:, kept], d[kept])
            assert row_sums_hold(rest.A, x[kept], x[kept], rest.rows)
        codes.add(code)
    assert {0, 1, 3} >= codes >= {0, 1}
    tried("runs of the command", count)


def wrong(command, *arguments):
    """Run the command with something that it refuses: one line on stderr, and nothing else."""
    before = {name: os.stat(name).st_mtime_ns for name in os.listdir()}
    code, _, err = command(*arguments)
    assert code == 2
    assert len(err) == 1
    assert err[0].startswith(f"sparsejac {arguments[0]}: error: ")
    assert before == {name: os.stat(name).st_mtime_ns for name in os.listdir()}


def test_wrong_use_and_outputs_that_cannot_be_written(command, monkeypatch):
    np.save("A.npy", np.ones((3, 3)))
    np.save("negative.npy", -np.ones((3, 3)))
    np.save("wide.npy", np.ones((2, 3)))
    np.save("x.npy", np.ones(3))
    os.mkdir("folder.npy")
    for output in ("none/z.npy", "A.npy", "folder.npy", "x.npy/z.npy"):
        wrong(command, "scale", "A.npy", "-o", output)
        wrong(command, "fit", "A.npy", "A.npy", "-o", output)
    for A in ("negative.npy", "wide.npy", "none.npy"):
        wrong(command, "scale", A, "-o", "z.npy")
    for A in ("wide.npy", "none.npy"):
        wrong(command, "fit", A, "A.npy", "-o", "z.npy")
        wrong(command, "build", A, "x.npy", "-o", "J.npz")
        wrong(command, "check", A)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    wrong(command, "scale", "A.npy", "-o", "z.npy")
    wrong(command, "fit", "A.npy", "A.npy", "-o", "z.npy")


# --- fits, and the other commands -----------------------------------------------------------------


@counts
def test_fit(command, count, tried):
    rng, codes = np.random.default_rng(count), set()
    for number in range(count):
        k = int(rng.integers(1, 6))
        A, Y = rng.standard_normal((2, k, k))
        name, matrix = save("A", A, sparse=number % 2)
        other, target = save("Y", Y, sparse=number % 2)
        rank = None if number % 3 else 2
        most = int(rng.choice([1, 200]))
        bounds = (0, np.inf) if number % 4 == 3 else None
        result = fit(matrix, target, rank=rank, max_iter=most, bounds=bounds)
        code, out, err = command(
            *("fit", name, other, "-o", "x.npy", "--max-iter", most),
            *(("--rank", rank) if rank else ()),
            *(("--nonnegative",) if bounds else ()),
        )
        x, unfinished = written("x.npy"), written("x.unfinished.npy")
        assert err == []
        assert code == (0 if result.success else 1)
        assert f"fit: {result.message}\n" in out
        assert ("   x written to x.npy\n" in out) == (x is not None) == (code == 0)
        assert (unfinished is None) == (code == 0)
        np.testing.assert_array_equal(unfinished if x is None else x, result.x)
        codes.add(code)
    assert codes == {0, 1}
    tried("runs of the command", count)


@counts
def test_build_and_check(command, count, tried):
    rng = np.random.default_rng(count)
    for number in range(count):
        k = int(rng.integers(1, 6))
        A, x = rng.integers(-4, 5, (k, k)).astype(float), rng.standard_normal(k)
        name, matrix = save("A", A, sparse=number % 2)
        np.save("x.npy", x)
        code, _, err = command("build", name, "x.npy", "-o", "J.npz")
        assert (code, err) == (0, [])
        J = scipy.sparse.load_npz("J.npz")
        rows = "stored" if number % 2 else "all"  # a dense A stores all entries
        np.testing.assert_array_equal(J.toarray(), jacobian(matrix, x, rows=rows).toarray())
        os.remove("J.npz")
        code, out, err = command("check", name, "x.npy")
        assert (code, err) == (0, [])
        assert "FAILS" not in out
    tried("runs of the command", 2 * count)


# --- contact maps ---------------------------------------------------------------------------------

FILTERS = {"mad_max": 0, "min_nnz": 0, "ignore_diags": 0}


def make_map(path, A, first):
    """A map whose chromosome a has the first bins."""
    bins = cooler.binnify(pd.Series({"a": 10 * first, "b": 10 * (len(A) - first)}), 10)
    i, j = np.nonzero(np.triu(A))
    pixels = pd.DataFrame({"bin1_id": i, "bin2_id": j, "count": A[i, j]})
    cooler.create_cooler(path, bins, pixels, ordered=True, dtypes={"count": np.float64})


def column(path):
    """The weights in the map, or None."""
    bins = cooler.Cooler(path).bins()
    return bins[:]["weight"].to_numpy() if "weight" in bins.columns else None


@pytest.mark.parametrize("count", [4, pytest.param(150, marks=pytest.mark.long)])
def test_maps(command, count, tried):
    rng, codes = np.random.default_rng(count), set()
    for number in range(count):
        k = int(rng.integers(4, 9))
        first = int(rng.integers(1, k))
        A = np.triu(rng.random((k, k)) < rng.uniform(0.3, 0.9)) * rng.integers(1, 9, (k, k))
        A = (np.triu(A) + np.triu(A, 1).T).astype(float)
        if not A.any():
            continue
        support = ("check", "auto", "drop", "drop_rows")[number % 4]
        cis_only = number % 3 == 2
        for path in ("library.cool", "command.cool"):
            make_map(path, A, first)
        options = {"support": support, "cis_only": cis_only, **FILTERS}
        result = cool.balance("library.cool", store=True, **options)
        code, out, err = command(
            *("scale", "command.cool", "--write", "-o", "w.npy", "--support", support),
            *("--mad-max", 0, "--min-nnz", 0, "--ignore-diags", 0),
            *(["--cis-only"] if cis_only else []),
        )
        assert [line for line in err if "warning" not in line] == []
        assert code == CODES.get(int(result.status), 1)
        weights = written("w.npy")
        assert (weights is not None) == (code in (0, 3, 4))
        assert ('weights written to column "weight"' in out) == (code == 0)
        for path in ("library.cool", "command.cool"):
            stored = column(path)
            assert (stored is not None) == (code == 0) == result.success
            if stored is not None:
                np.testing.assert_array_equal(stored, result.weight)
                np.testing.assert_array_equal(weights, stored)
                check_balanced(A, stored, first if cis_only else None)
        codes.add(code)
    assert 0 in codes
    assert len(codes) > 1
    tried("runs of the command", count)


def check_balanced(A, weights, first):
    """The rows of the balanced map sum to 1 over the bins that are kept."""
    if first is not None:
        A = A.copy()
        A[:first, first:] = A[first:, :first] = 0
    kept = ~np.isnan(weights)
    x = weights[kept]
    assert row_sums_hold(A[kept][:, kept], x, x, np.ones(x.size))
