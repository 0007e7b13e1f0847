"""Races: an operation beside its physical limit and its peers, interleaved, and what came out as
tables and a plot.

pytest-benchmark times one function after the other; on a shared machine that compares two moods of
it. Here a round runs every contestant once, in a random order, and the medians of many rounds are
compared.
"""

import os
import time
from pathlib import Path

import numpy as np
import pytest

# Threads of PyTorch and NumPy that have done their work spin for a while, for the next. Here that
# is somebody else's time. They read these when they are imported, which plugins of pytest may do.
_PATIENCE = {"OMP_WAIT_POLICY": "passive", "OPENBLAS_THREAD_TIMEOUT": "4"}

PLOT = Path(__file__).with_name("ratios.svg")
BUDGET = float(os.environ.get("RACE_SECONDS", "2"))  # for one heat, unless five rounds take longer
_tables = {}  # {title: rows, as {column: cell}}
# (group, problem, our name, our median in seconds, {contestant: its median divided by ours}).
_races = []


@pytest.fixture(scope="session", autouse=True)
def _other_threads_end():
    if not os.environ.keys() >= _PATIENCE.keys():
        settings = " ".join(f"{name}={value}" for name, value in _PATIENCE.items())
        pytest.exit(
            "the threads of other packages would slow down ours: run the benchmarks with "
            + settings,
            returncode=pytest.ExitCode.USAGE_ERROR,
        )


@pytest.fixture
def race(benchmark):
    """race(group, problem, contestants): the first contestant is ours, and all but a "limit" or
    "variant" must agree with it.

    There are two heats, ours against limits and variants, and ours against its peers: some of those
    need so much memory that whoever comes after them finds it given back to the system, and has to
    fault it in.
    """

    def run(group, problem, contestants):
        ours = next(iter(contestants))
        heats = {name: name.startswith(("limit", "variant", "one worker")) for name in contestants}
        ratios = {}
        rng = np.random.default_rng(0)

        def heat(names):
            times = {name: [] for name in names}
            _warm_up(ours, {name: contestants[name] for name in names})
            start = time.perf_counter()
            while (done := time.perf_counter() - start) < BUDGET or len(times[ours]) < 5:
                if done > BUDGET / 2 and len(times[ours]) > 200:
                    break
                for name in rng.permutation(names):
                    function = contestants[name]
                    begin = time.perf_counter()
                    result = function()
                    times[name].append(time.perf_counter() - begin)
                    del result
            medians = {name: float(np.median(measured)) for name, measured in times.items()}
            return medians[ours], {
                name: median / medians[ours] for name, median in medians.items() if name != ours
            }

        def both():
            seconds, found = heat([ours, *(name for name in contestants if heats[name])])
            ratios.update(found)
            peers = [name for name in contestants if name != ours and not heats[name]]
            if peers:
                ratios.update(heat([ours, *peers])[1])
            return seconds

        benchmark.group, benchmark.name = group, f"{group}, {problem}"
        seconds = benchmark.pedantic(both, rounds=1)
        benchmark.extra_info.update({"seconds": seconds, **ratios})
        _races.append(
            (
                group,
                problem,
                ours,
                seconds,
                {name: ratios[name] for name in contestants if name != ours},
            )
        )

    return run


@pytest.fixture
def record():
    """record(title, {column: cell}): a line of a table, for what is no race."""
    return lambda title, cells: _tables.setdefault(title, []).append(cells)


def _warm_up(ours, contestants):
    """Compile, see the memory for the first time, and compare: a peer that computes something else
    is no peer.
    """
    expected = contestants[ours]()
    for name, function in contestants.items():
        found = function()
        if not name.startswith(("limit", "variant")):
            _assert_same(name, found, expected)
        del found


def _assert_same(name, found, expected):
    if hasattr(expected, "indptr"):
        difference = abs(found - expected)
        assert difference.nnz == 0 or difference.max() <= 1e-5 * abs(expected).max(), name
    else:
        tolerance = 1e-4 if expected.dtype == np.float32 else 1e-9
        scale = np.abs(expected).max()
        np.testing.assert_allclose(
            np.asarray(found).reshape(expected.shape),
            expected,
            rtol=tolerance,
            atol=tolerance * scale,
            err_msg=name,
        )


def pytest_configure(config):
    config.option.benchmark_quiet = True  # the tables below say it


def pytest_terminal_summary(terminalreporter, config):
    write = terminalreporter.write_line
    for title, rows in _tables.items():
        write("")
        write(title)
        write("| " + " | ".join(rows[0]) + " |")
        write("|" + "---|" * len(rows[0]))
        for row in rows:
            write("| " + " | ".join(map(str, row.values())) + " |")
    if not _races:
        return
    for group in _groups():
        races = [race for race in _races if race[0] == group]
        names = list(dict.fromkeys(name for *_, ratios in races for name in ratios))
        write("")
        write(f"{group}: ms of {races[0][2]}, and how many times as long the others took")
        write("| | " + " | ".join(["ms", *names]) + " |")
        write("|---|---:|" + "---:|" * len(names))
        for _, problem, _, seconds, ratios in races:
            cells = [f"{ratios[name]:.2f}" if name in ratios else "" for name in names]
            write(f"| {problem} | {1e3 * seconds:.3g} | " + " | ".join(cells) + " |")
    write("")
    if config.option.keyword or not {"J v", "sparse J v"} <= set(_groups()):
        write(f"Not plotted, as these are not all races: {PLOT} stays as it is.")
    else:
        plot(_races)
        write(f"Plotted: {PLOT}")


def _groups():
    return dict.fromkeys(group for group, *_ in _races)


def plot(races):
    """Time relative to ours over k, a panel for each operation that several sizes were raced at."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    groups = {}
    for group, problem, _, _, ratios in races:
        if problem.startswith("k = "):
            groups.setdefault(group, {})[int(problem.removeprefix("k = "))] = ratios
    groups = {group: sizes for group, sizes in groups.items() if len(sizes) > 1}
    mpl.rcParams.update({"svg.hashsalt": "sparsejac", "font.size": 8, "axes.titlesize": 8})
    names = dict.fromkeys(
        name for sizes in groups.values() for ratios in sizes.values() for name in ratios
    )
    peers = [name for name in names if not name.startswith(("limit", "variant", "one worker"))]
    styles = {
        name: {"color": f"C{number}", "marker": "o", "markersize": 3}
        for number, name in enumerate(peers)
    }
    columns = 4
    rows = -(-len(groups) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(10, 0.6 + 2 * rows),
        layout="constrained",
        squeeze=False,
        sharey=True,
    )
    for axis, (group, sizes) in zip(axes.flat, groups.items(), strict=False):
        axis.axhline(1, color="black", linewidth=2, label="sparsejac")
        limits = [
            name
            for name in names
            if name.startswith("limit") and any(name in ratios for ratios in sizes.values())
        ]
        for limit in limits:  # NumPy's BLAS has threads of its own
            on_two = "two threads" in limit or "np.dot" in limit
            styles[limit] = {"color": "grey", "linestyle": ":" if on_two else "--"}
        for name in [*limits, *peers]:
            points = sorted((k, ratios[name]) for k, ratios in sizes.items() if name in ratios)
            if points:
                axis.plot(
                    *zip(*points, strict=True),
                    label=None if name in limits else name,
                    **styles[name],
                )
        under = next(
            (name.removeprefix("limit: ") for name in limits if "the same" not in name), ""
        )
        axis.set(
            title=f"{group}\n{under}",
            xscale="log",
            yscale="log",
            xticks=list(sizes),
            yticks=[0.1, 1, 10, 100],
        )
        axis.set(xticklabels=map(_short, sizes), yticklabels=["0.1", "1", "10", "100"])
        axis.minorticks_off()
        axis.grid(visible=True, alpha=0.3)
    for axis in axes.flat[len(groups) :]:
        axis.remove()
    handles = {
        label: handle
        for axis in axes.flat
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=6, frameon=False
    )
    figure.suptitle(
        "time divided by that of sparsejac, over k; dashed: the limit under the title, dotted: on "
        "two threads"
    )
    figure.savefig(PLOT, metadata={"Date": None})
    plt.close(figure)


def _short(k):
    """1500 → '1.5k'."""
    return f"{k / 10**6:g}M" if k >= 10**6 else f"{k / 1000:g}k" if k >= 1000 else str(k)
