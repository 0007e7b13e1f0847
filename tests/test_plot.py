"""The pictures: what they show is what is there, counted by plain loops."""

import io
import itertools
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import scipy.sparse
from kinds import KINDS, SPARSE, Kinds
from matplotlib.figure import Figure
from support import ORDERS, ROWS, matrix, slow, slow_except
from test_cli import folder, run, wrong_use  # noqa: F401  # a fixture
from test_cool import contacts, write
from test_maps import write_hicpro

from sparsejac import JacobianBuilder, fit, plot, row_column_scaling, symmetric_scaling
from sparsejac._operators import raster
from sparsejac.cli import commands, scaling

USUAL = ("C", "F", "csr", "csc", "npy in columns", "function", "mapped csr", "cool")


@pytest.fixture
def ax():
    return Figure().subplots()


def cell(number, size, cells):
    return next(c for c in reversed(range(cells)) if number * cells >= c * size)


def counted(A, rows, order, cells, rank=1, *, bilinear=False):
    """The entries of J in each cell, from the definition of J's rows."""
    m, n = A.shape
    every = list(itertools.product(range(m), range(n)))
    if order == "F":
        every.sort(key=lambda pair: pair[::-1])
    if rows == "upper":
        every = [(i, j) for i, j in every if i <= j and A[i, j]]
    if rows == "stored":
        every = [(i, j) for i, j in every if A[i, j]]
    found = np.zeros(cells, int)
    columns = (m + n if bilinear else n) * rank
    for r, (i, j) in enumerate(every):
        for variable in {i, m + j} if bilinear else {i, j}:
            if A[i, j]:
                for s in range(variable * rank, (variable + 1) * rank):
                    found[cell(r, len(every), cells[0]), cell(s, columns, cells[1])] += 1
    return found


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("kind", slow_except(USUAL, KINDS))
def test_entries_in_cells(tmp_path, monkeypatch, kind, rows, order):
    if kind == "cool" and rows != "upper":
        pytest.skip("a .cool holds one triangle")
    monkeypatch.setattr(raster, "BLOCK", 7)
    A = np.ones((6, 6))
    if kind in SPARSE:
        A = np.abs(matrix(6, symmetric=rows == "upper"))
    builder = JacobianBuilder(KINDS[kind](Kinds(tmp_path), A), rows=rows, order=order)
    for cells in ((builder.shape[0], 6), (5, 4), (1, 1)):
        try:
            found = raster.count_entries(builder._assembly, *cells)
        except ValueError as error:
            assert "A is stored by" in str(error)  # noqa: PT017  # others fail the test as well
            assert not builder._rows.layout.rows_in_order
            return
        np.testing.assert_array_equal(found, counted(A, rows, order, cells))
        assert found.sum() == builder.nnz


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.parametrize("form", ["dense", "csr"])
def test_entries_in_cells_of_several_columns(form, bilinear, order):
    A = np.abs(matrix(7))[:, : 4 if bilinear else 7]
    A = A if form == "csr" else np.ones_like(A)
    there = scipy.sparse.csr_array(A) if form == "csr" else A
    builder = JacobianBuilder(there, rows="stored", order=order, rank=3, bilinear=bilinear)
    for cells in (builder.shape, (6, 5)):
        found = raster.count_entries(builder._assembly, *cells)
        wanted = counted(A, "stored", order, cells, 3, bilinear=bilinear)
        np.testing.assert_array_equal(found, wanted)


def test_a_pattern_that_is_small_is_exact(ax):
    A = scipy.sparse.csr_array([[0.0, 2, 0], [1, 3, 0], [0, 0, 0]])
    builder = JacobianBuilder(A)
    assert plot.pattern(builder, ax=ax) is ax
    (image,) = ax.images
    shown = image.get_array().filled(0)
    np.testing.assert_array_equal(shown, builder.tocsr(np.ones(3)).toarray() != 0)
    assert image.get_extent() == [-0.5, 2.5, 8.5, -0.5]
    assert ax.get_title() == "J: 9 × 3, 5 entries"
    ax.figure.savefig(io.BytesIO())


def test_a_pattern_that_is_large_is_binned(ax):
    """Every share times the places of its cell adds up to the entries."""
    plot.pattern(JacobianBuilder(np.ones((600, 600))), ax=ax)
    shown = ax.images[0].get_array().filled(0)
    assert shown.shape == (512, 512)
    heights, widths = (np.diff(raster.edges(size, 512)) for size in (360_000, 600))
    assert set(heights) == {703, 704}
    assert set(widths) == {1, 2}
    assert round(float(heights @ shown @ widths)) == 2 * 360_000 - 600
    assert ax.figure.axes[1].get_ylabel() == "share of the places that are entries"


@pytest.mark.parametrize("A", [np.ones((0, 0)), scipy.sparse.csr_array((4, 4))])
def test_a_pattern_without_entries(ax, A):
    plot.pattern(JacobianBuilder(A), ax=ax)
    assert not ax.images[0].get_array().filled(0).any()
    ax.figure.savefig(io.BytesIO())


def test_memory_of_a_pattern(ax):
    """J has 4e6 rows, and one of 1e12: a byte for each would be too much."""
    k = 1_000_000
    diagonal = scipy.sparse.eye_array(k, format="csr")
    for builder in (JacobianBuilder(np.ones((2000, 2000))), JacobianBuilder(diagonal)):
        plot.pattern(builder, ax=ax)  # imports
        tracemalloc.start()
        raster.count_entries(builder._assembly, 512, 512)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 24 * 2**20 + 16 * builder.shape[1]


def test_convergence(ax):
    A = np.ones((4, 4))
    result = fit(A, np.diag([1.0, 2, 3, 4]))
    assert result.history.shape == (result.nit + 1, 3)
    assert result.history[-1].tolist() == [
        result.nfev + result.n_products, result.cost, result.optimality,
    ]  # fmt: skip
    assert plot.convergence(result, ax=ax) is ax
    optimality, cost = ax.lines
    np.testing.assert_array_equal(optimality.get_xdata(), result.history[:, 0])
    np.testing.assert_array_equal(optimality.get_ydata(), result.history[:, 2])
    costs = result.history[:, 1]
    above = (costs - costs.min()) / costs[0]
    np.testing.assert_array_equal(cost.get_ydata(), np.where(above > 0, above, np.nan))
    assert np.count_nonzero(above) >= 2
    assert (ax.get_yscale(), ax.get_title()) == ("log", "converged")


def test_convergence_of_scalings(ax):
    A = np.array([[0.0, 2, 1], [2, 0, 3], [1, 3, 0]])
    for number, result in enumerate((symmetric_scaling(A), row_column_scaling(A, np.ones(3)))):
        plot.convergence(result, ax=ax)
        line = ax.lines[number]
        np.testing.assert_array_equal(line.get_xdata(), result.history[:, 0])
        np.testing.assert_array_equal(line.get_ydata(), result.history[:, 1])


def test_convergence_leaves_out_zeros(ax):
    """A fit that is exact at its start has no cost and no optimality."""
    result = fit(np.eye(2), np.zeros((2, 2)))
    plot.convergence(result, ax=ax)
    assert all(np.isnan(line.get_ydata()).all() for line in ax.lines)
    ax.figure.savefig(io.BytesIO())


@pytest.mark.parametrize("rank", [None, 1])
@pytest.mark.parametrize("stop", [1, 3])
def test_history_of_a_fit_that_stops(rank, stop):
    """It has a line for the start and each step, also of the step that was stopped."""
    A = np.abs(matrix(6, symmetric=True))
    told = []

    def callback(state):
        told.append((state.nfev + state.n_products, state.cost, state.optimality))
        if len(told) == stop:
            raise StopIteration

    result = fit(np.ones((6, 6)), A, callback=callback, rank=rank, tol=0)
    assert result.status == 99
    assert [tuple(line) for line in result.history] == told
    assert len(told) == result.nit + 1 == stop


def sums_in_cells(B, cells):
    k = len(B)
    found = np.zeros((cells, cells))
    for i, j in itertools.product(range(k), range(k)):
        found[cell(i, k, cells), cell(j, k, cells)] += B[i, j]
    places = sums_in_cells(np.ones((k, k)), cells) if B.min() != B.max() else np.ones_like(found)
    return found / places


@pytest.mark.parametrize("cells", [512, 5])
@pytest.mark.parametrize(("pairs", "ignored"), [("all", 0), ("within", 0), ("between", 1)])
@pytest.mark.parametrize("form", ["dense", "U"])
def test_scaling(monkeypatch, form, pairs, ignored, cells):
    monkeypatch.setattr(plot, "_CELLS", cells)
    monkeypatch.setattr(plot, "_ROWS", 9)
    k, rng = 8, np.random.default_rng(0)
    A = rng.integers(1, 5, (k, k))
    A = np.triu(A) + np.triu(A, 1).T + 0.0
    A[:, 2] = A[2] = 0
    labels, d = np.array([0, 0, 0, 0, 1, 1, 1, 1]), rng.uniform(1, 1.2, k)
    if pairs == "between":
        d[:4] *= d[4:].sum() / (d[0] + d[1] + d[3])
    how = {"groups": labels, "pairs": pairs, "ignore_diags": ignored}
    there = A if form == "dense" else scipy.sparse.csr_array(np.triu(A))
    how["uplo"] = None if form == "dense" else "U"
    result = symmetric_scaling(there, d, min_nnz=1, **how)
    assert result.success
    figure = plot.scaling(there, result, d, **how, figure=Figure())
    same = labels[:, None] == labels
    counted = {"all": np.ones_like(same), "within": same, "between": ~same}[pairs]
    B = A * counted * (np.abs(np.subtract.outer(range(k), range(k))) >= ignored)
    x = np.where(result.kept, result.x, 0)
    before, after, sums = figure.axes[:3]
    for axes, wanted in ((before, B), (after, B * np.outer(x, x))):
        shown = axes.images[0].get_array().filled(0)
        np.testing.assert_allclose(shown, sums_in_cells(wanted, min(cells, k)), rtol=1e-13)
    if cells == 5:
        if (form, pairs) == ("U", "all"):
            figure.savefig(io.BytesIO())
        return
    of_a, of_f = (line.get_ydata() for line in sums.lines)
    np.testing.assert_allclose(of_a[result.kept], (B.sum(1) / B.sum(1)[result.kept].mean())[x > 0])
    np.testing.assert_allclose(of_f[result.kept], 1, rtol=1e-7)
    assert np.isnan(of_f[2])


def test_the_range_of_row_sums_of_a_bin(monkeypatch, ax):
    monkeypatch.setattr(plot, "_CELLS", 2)
    values, kept = np.array([1.0, 5, 3, 2, 9]), np.array([True, True, True, True, False])
    plot._draw_range(ax, values, kept, "sums", "C0")
    (corners,) = (path.vertices for path in ax.collections[0].get_paths())
    assert {tuple(corner) for corner in corners} >= {(1.5, 1.0), (1.5, 5.0), (4.0, 2.0)}
    assert corners[:, 1].max() == 5


def test_wrong_use(ax):
    builder, result = JacobianBuilder(np.eye(3)), symmetric_scaling(np.eye(3))
    with pytest.raises(TypeError, match=r"builder must be a JacobianBuilder, got numpy.ndarray"):
        plot.pattern(np.eye(3))
    for call in (lambda: plot.pattern(builder, ax=3), lambda: plot.convergence(result, ax=3)):
        with pytest.raises(TypeError, match="ax must be a matplotlib Axes, got int"):
            call()
    with pytest.raises(
        TypeError, match="result must have the history that fit and the scalings return, got"
    ):
        plot.convergence(np.eye(3), ax=ax)
    with pytest.raises(
        TypeError, match=r"result must be what symmetric_scaling or sparsejac.cool.balance returned"
    ):
        plot.scaling(np.eye(3), fit(np.eye(3), np.eye(3)))
    with pytest.raises(TypeError, match="figure must be a matplotlib Figure, got int"):
        plot.scaling(np.eye(3), result, figure=3)
    with pytest.raises(ValueError, match=r"result.x must be a vector of length 4"):
        plot.scaling(np.eye(4), result, figure=Figure())


def test_the_current_axes_are_taken():
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    try:
        mine = plt.figure().subplots()
        assert plot.pattern(JacobianBuilder(np.eye(3))) is mine
        figure = plot.scaling(np.eye(3), symmetric_scaling(np.eye(3)))
        assert figure is plt.gcf()
        assert figure is not mine.figure
    finally:
        plt.close("all")


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pictures need matplotlib.*pip install '.\[plot\]'"):
        plot.pattern(JacobianBuilder(np.eye(3)))


def test_matplotlib_is_imported_on_demand():
    program = "import sys, sparsejac.plot, sparsejac.cli; print('matplotlib' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert ran.stdout.split() == [b"False"]


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def problem(folder):  # noqa: F811
    A = np.array([[0.0, 2, 1], [2, 0, 3], [1, 3, 0]])
    np.save("S.npy", A)
    np.save("Y.npy", A * np.outer([1, 2, 3], [1, 2, 3]))
    return folder


@pytest.mark.parametrize(
    ("command", "rest"),
    [("fit", ["Y.npy", "-o", "x.npy"]), ("scale", ["-o", "x.npy"])],
)
def test_plot_of_a_command(problem, capsys, command, rest):
    (problem / "p.png").write_text("an older file, which is replaced")
    pictures = {"p.png": b"\x89PNG"} | ({"p.svg": b"<?xml"} if command == "fit" else {})
    for name, begin in pictures.items():
        code, out, err = run(capsys, command, "S.npy", *rest, "--plot", name)
        assert (code, err) == (0, "")
        assert out.endswith(f"   picture written to {name}\n")
        assert (problem / name).read_bytes().startswith(begin)


@pytest.mark.parametrize(
    ("file", "option", "pairs"),
    [
        ("map.cool", ["--cis-only", "--rescale"], "within"),
        *slow(
            ("map_10.matrix", ["--trans-only"], "between"),
            ("map.cool", [], "all"),
            ("map.cool", ["--trans-only"], "between"),
            ("map.cool", ["--region", "chrB:100-"], "all"),
            ("map.cool", ["--memory", "16MiB"], "all"),
        ),
    ],
)
def test_plot_of_a_map(tmp_path, capsys, monkeypatch, file, option, pairs):
    monkeypatch.chdir(tmp_path)
    if file == "map.cool":
        write(file, contacts())
    else:
        write_hicpro(tmp_path, contacts())
    drawn = {}
    monkeypatch.setattr(
        plot,
        "scaling",
        lambda *args, real=plot.scaling, **how: drawn.update(how) or real(*args, **how),
    )
    code, out, _ = run(capsys, "scale", file, *option, "--plot", "p.png")
    assert (code, out.splitlines()[-1]) == (0, "   picture written to p.png")
    assert (drawn["pairs"], drawn["ignore_diags"]) == (pairs, 2)
    sums = drawn["figure"].axes[2].lines[1].get_ydata()
    np.testing.assert_allclose(sums[~np.isnan(sums)], 1, rtol=1e-7)


def test_a_picture_that_cannot_be_written(problem, capsys, monkeypatch):
    """It is refused before any work."""

    def never(*args, **how):
        pytest.fail("work was done")

    for module, name in (
        (commands, "solve"),
        (commands, "describe"),
        (scaling, "symmetric_scaling"),
        (scaling, "describe"),
    ):
        monkeypatch.setattr(module, name, never)
    fits, scales = ("fit", "S.npy", "Y.npy", "-o", "new.npy"), ("scale", "S.npy", "-o", "new.npy")
    (problem / "folder.png").mkdir()
    for arguments in (fits, scales):
        for name, message in [
            ("p.doc", r"must end in what matplotlib can write, such as .png, .*got p.doc"),
            ("p", "must end in what matplotlib can write"),
            ("none/p.png", "folder of the output none/p.png does not exist"),
            ("folder.png", "the output folder.png is a folder"),
        ]:
            wrong_use(capsys, *arguments, "--plot", name, message=message)
    np.save("S.png", np.eye(3))
    (problem / "S.png.npy").rename("S.png")
    wrong_use(capsys, "scale", "S.png", "--plot", "S.png", message="S.png is also an input")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for arguments in (fits, scales):
        message = r"pictures need matplotlib.*pip install '.\[plot\]'"
        wrong_use(capsys, *arguments, "--plot", "p.png", message=message)
    assert not (problem / "new.npy").exists()
