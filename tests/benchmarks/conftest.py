"""Races: an operation beside its physical limit and its peers, interleaved, and what came out as tables and a plot.

pytest-benchmark times one function after the other; on a shared machine that compares two moods of it. Here one round runs
every contestant once, pytest-benchmark repeats the round, and the medians of the contestants are compared.
"""

import itertools
import os
import time
from pathlib import Path

import numpy as np
import pytest

PLOT = Path(__file__).with_name("ratios.svg")
BUDGET = float(os.environ.get("RACE_SECONDS", "3"))  # for one race, unless five rounds take longer
_races = []  # (group, problem, {contestant: median in seconds})


@pytest.fixture
def race(benchmark):
    """race(group, problem, contestants): the first contestant is ours, and all but a "limit" or "variant" must agree with it."""

    def run(group, problem, contestants):
        first = next(iter(contestants))
        expected, slow = None, 0.0
        for name, function in contestants.items():  # warm: compiled, and its memory seen before
            function()
            start = time.perf_counter()
            found = function()
            slow += time.perf_counter() - start
            if name == first:
                expected = found
            elif not name.startswith(("limit", "variant")):
                _assert_same(name, found, expected)
            del found
        expected = None
        times = {name: [] for name in contestants}

        def round_():
            for name, function in contestants.items():
                start = time.perf_counter()
                result = function()
                times[name].append(time.perf_counter() - start)
                del result

        benchmark.group = group
        benchmark.name = f"{group}, {problem}"
        benchmark.pedantic(round_, rounds=int(min(max(BUDGET / slow, 5), 200)))
        medians = {name: float(np.median(measured)) for name, measured in times.items()}
        benchmark.extra_info.update(medians)
        _races.append((group, problem, medians))

    return run


def _assert_same(name, found, expected):
    """A peer that computes something else is no peer."""
    if hasattr(expected, "indptr"):
        difference = abs(found - expected)
        assert difference.nnz == 0 or difference.max() <= 1e-5 * abs(expected).max(), name
    else:
        tolerance = 1e-4 if expected.dtype == np.float32 else 1e-9
        scale = np.abs(expected).max()
        np.testing.assert_allclose(
            np.asarray(found).reshape(expected.shape), expected, rtol=tolerance, atol=tolerance * scale, err_msg=name
        )


def pytest_configure(config):
    config.option.benchmark_quiet = True  # the tables below say it


def pytest_terminal_summary(terminalreporter):
    if not _races:
        return
    write = terminalreporter.write_line
    for group, races in itertools.groupby(_races, key=lambda race: race[0]):
        races = list(races)  # noqa: PLW2901
        names = list(dict.fromkeys(name for _, _, medians in races for name in medians))
        write("")
        write(f"{group}: ms of {names[0]}, and how many times as long the others took")
        write("| | " + " | ".join(names) + " |")
        write("|---|" + "---:|" * len(names))
        for _, problem, medians in races:
            ours = medians[names[0]]
            cells = [f"{medians[name] / ours:.2f}" if name in medians else "" for name in names[1:]]
            write(f"| {problem} | {1e3 * ours:.3g} | " + " | ".join(cells) + " |")
    plot(_races)
    write("")
    write(f"plotted: {PLOT}")


def plot(races):
    """Time relative to ours over k, a panel for each operation that several sizes were raced at."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    groups = {}
    for group, problem, medians in races:
        if problem.startswith("k = "):
            groups.setdefault(group, {})[int(problem[4:].split(",")[0].replace(" ", ""))] = medians
    groups = {group: sizes for group, sizes in groups.items() if len(sizes) > 1}
    if not groups:
        return
    mpl.rcParams.update({"svg.hashsalt": "sparsejac", "font.size": 8, "axes.titlesize": 9})
    columns = 4
    rows = -(-len(groups) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(11, 2.5 * rows), layout="constrained", squeeze=False)
    names = dict.fromkeys(name for sizes in groups.values() for medians in sizes.values() for name in list(medians)[1:])
    names = [name for name in names if name != "one worker" and not name.startswith("variant")]
    colours = {name: f"C{number % 10}" for number, name in enumerate(n for n in names if not n.startswith("limit"))}
    for axis, (group, sizes) in zip(axes.flat, groups.items(), strict=False):
        axis.axhline(1, color="black", linewidth=2)
        for name in names:
            points = [
                (k, medians[name] / next(iter(medians.values()))) for k, medians in sizes.items() if name in medians
            ]
            style = {"color": colours[name], "marker": "o"} if name in colours else {"color": "grey", "linestyle": "--"}
            if points:
                axis.plot(*zip(*sorted(points), strict=True), label=name, markersize=4, **style)
        axis.set(title=group, xscale="log", yscale="log", xticks=list(sizes), xticklabels=map(str, sizes))
        axis.minorticks_off()
        axis.grid(visible=True, alpha=0.3)
        axis.legend(fontsize=5.5, frameon=False)
    for axis in axes.flat[len(groups) :]:
        axis.remove()
    figure.suptitle("time relative to sparsejac, the black line; dashed: physical limits")
    figure.savefig(PLOT, metadata={"Date": None})
    plt.close(figure)
