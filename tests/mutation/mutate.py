"""Looks for mutants of sparsejac that no test notices: `mutate.py [FILE[:LINE[-LINE]] ...]`.

A mutant is a file with one small change (see `operators`). It is killed if a test fails, crashes or
hangs. What survives has no test, or changes nothing that can be seen. Such mutants stand in
explained.toml with a reason, by the text of their lines.

A run of the tests under coverage says which of them run each line (see `cover`). A mutant takes the
time to fork a process that has everything but sparsejac loaded, and to run the few tests that have
killed its neighbours, or that are fast. The kernels run as Python, as compiling them would take
minutes. No file is changed: the process loads the mutant in place of the file.
"""

import argparse
import ast
import collections
import contextlib
import functools
import importlib
import json
import os
import random
import sys
import time
import tomllib
from pathlib import Path
from typing import NamedTuple

from runs import OPTIONS, Anew, InPlace, fits_in_place

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DATA = ROOT / ".mutation"
CORE = """
    _matrix/layout.py _matrix/pattern.py _matrix/align.py _backends/align.py
    _kernels/row.py _kernels/maps.py _kernels/reductions.py _kernels/residuals.py
    _kernels/robust.py _kernels/rank_maps.py _kernels/rank.py _kernels/walks.py
    _kernels/rank_walks.py _operators/*.py _solvers/*.py
"""
PRELOADED = """
    numpy scipy.sparse.linalg scipy.sparse.csgraph scipy.optimize numba llvmlite.binding pandas
    h5py cooler zarr pylops tqdm matplotlib.pyplot xml.etree.ElementTree unittest.mock
"""
LONGEST = 60  # of the fastest tests for one mutant


class Place(NamedTuple):
    """Some lines of a file, all of them by default."""

    file: str
    first: int = 1
    last: int = 10**9

    @classmethod
    def parse(cls, text):
        file, _, lines = text.partition(":")
        first, _, last = lines.partition("-")
        file = str(Path(file).resolve().relative_to(ROOT))
        return cls(file, int(first), int(last or first)) if lines else cls(file)


class Selection:
    """Which tests are run for a mutant of this file, and in which order."""

    def __init__(self, file, seconds, given):
        from coverage import CoverageData

        path = str(ROOT / file)
        self.seconds, self.given, self.kills = seconds, given, collections.Counter()
        self.failing, self._is_template = set(), file.endswith("walks.py")
        data = self._data = CoverageData(str(DATA / "python"))
        data.read()
        self._by_line = {
            line: {test for test in tests if test in seconds}
            for line, tests in data.contexts_by_lineno(path).items()
        }
        self._all = set().union(*self._by_line.values())
        if "/_kernels/" in file:  # what a kernel is made of is written into the walks
            for walks in ("walks.py", "rank_walks.py"):
                lines = data.contexts_by_lineno(str((ROOT / file).with_name(walks))).values()
                self._all |= {test for tests in lines for test in tests if test in seconds}
        tree = ast.parse((ROOT / file).read_text())
        self._named = [
            (node.lineno, node.end_lineno, name.value)
            for node in tree.body
            for name in ast.walk(node)
            if isinstance(name, ast.Constant) and isinstance(name.value, str)
        ]
        self._functions = [
            (node.lineno, node.body[0].lineno, node.end_lineno)
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef)
        ]

    def _covering(self, mutant):
        """The tests that run the lines of a mutant. If the lines are run at import, which may be
        while a test runs, these are the tests of the kernel that they make, or all of the file.
        """
        lines = range(mutant.line, mutant.last + 1)
        found = set().union(*(self._by_line.get(line, ()) for line in lines))
        for begin, body, end in self._functions:
            if begin <= mutant.line < body:
                some = (self._by_line.get(line, ()) for line in range(body, end + 1))
                found = found.union(*some)
        if not found and self._is_template:  # a line that is written out: as those below it
            below = (self._by_line.get(line) for line in range(mutant.line, mutant.line + 20))
            found = next(filter(None, below), set())
        inside = any(begin <= mutant.line <= end for begin, _, end in self._functions)
        return found if inside else self._of_kernel(mutant) or self._all

    def _of_kernel(self, mutant):
        """The tests that run a line with the name of the kernel that is made in these lines."""
        found = set()
        for begin, end, name in self._named:
            if begin <= mutant.line <= end and name.isidentifier():
                quoted = '_by_rows"' if name.endswith("_by_rows") else f'"{name}"'
                found = found.union(*(self._at(path, quoted) for path in self._users()))
        return found & self.seconds.keys()

    def _users(self):
        """The files that run kernels by their names."""
        return (
            path for path in (ROOT / "sparsejac").rglob("*.py") if path.parent.name != "_kernels"
        )

    def _at(self, path, text):
        """The tests that run lines with this text."""
        lines = path.read_text().splitlines()
        contexts = self._data.contexts_by_lineno(str(path)) if text in path.read_text() else {}
        return {
            test for line, tests in contexts.items() if text in lines[line - 1] for test in tests
        }

    def tests(self, mutant, budget, *, fastest=True):
        """First what has killed others. Then one case of each test, the fastest first, or any."""
        if self.given:
            return self.given, 10 * len(self.given)
        found = sorted(self._covering(mutant) - self.failing, key=self.seconds.get)
        killers = sorted(set(found) & set(self.kills), key=lambda test: -self.kills[test])[:4]
        if fastest:
            cases = collections.Counter()
            order = []
            for test in found:
                cases[test.partition("[")[0]] += 1
                order.append(cases[test.partition("[")[0]])
            found = [test for _, test in sorted(zip(order, found, strict=True), key=_first)]
        else:
            random.Random(mutant.change).shuffle(found)
        chosen, total = [], 0.0
        for test in dict.fromkeys([*killers, *found]):
            if total + self.seconds[test] <= budget or not chosen:
                chosen.append(test)
                total += self.seconds[test]
        chosen = chosen[: LONGEST if fastest else None]
        return chosen, total


def _first(pair):
    return pair[0]


class Tester:
    """Runs the mutants of one file."""

    def __init__(self, runs, file, seconds, given, budget):
        self.file, self.budget, self.runs = file, budget, runs
        self.selection = Selection(file, seconds, given)
        runs.left_out = self.selection.failing

    def is_killed(self, mutant):
        """Whether a test notices it: the few best ones first, then those that take longer."""
        for budget, fastest in ((self.budget, True), (10 * self.budget, False)):
            while True:
                tests, expected = self.selection.tests(mutant, budget, fastest=fastest)
                if not tests:
                    return False
                killer = self.runs.run(self.file, mutant.source, tests, 10 + 3 * expected)
                if killer is None:
                    if self.selection.given:
                        return False
                    break
                if self._is_right(killer):
                    self.selection.kills[killer] += 1
                    return True
                self.selection.failing.add(killer)
                print(f"left out, as it fails without a change: {killer}", flush=True)
        return False

    @functools.cache  # noqa: B019
    def _is_right(self, test):
        """Whether a test passes without a change."""
        if test == "import":
            return True
        return (
            self.runs.run(self.file, None, [test], 20 + 4 * self.selection.seconds.get(test, 10))
            is None
        )


def explanations():
    """The mutants that are explained: {(file, line, change): reason}."""
    with open(HERE / "explained.toml", "rb") as file:
        given = tomllib.load(file).get("mutant", [])
    return {
        (each["file"], each["line"].strip(), change): each["reason"]
        for each in given
        for change in each["changes"]
    }


def preload():
    """Load what sparsejac and its tests need, but not sparsejac."""
    os.environ |= {
        "NUMBA_DISABLE_JIT": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "HYPOTHESIS_PROFILE": "mutation",
        "MPLBACKEND": "agg",
    }
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT), str(HERE)]
    for name in PRELOADED.split():
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    from hypothesis import HealthCheck, Phase, settings

    settings.register_profile(
        "mutation",
        max_examples=20,
        derandomize=True,
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate),  # it need not find the smallest example
        suppress_health_check=list(HealthCheck),
    )
    assert "sparsejac" not in sys.modules


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("places", nargs="*", metavar="FILE[:LINE[-LINE]]")
    parser.add_argument("--sample", type=int, help="only so many mutants, chosen at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", type=float, default=3.0, help="seconds of tests for each")
    parser.add_argument("--tests", nargs="*", default=[], help="run no others, such as new ones")
    parser.add_argument("--list", action="store_true", help="print the mutants alone")
    return parser.parse_args()


def found_mutants(places):
    from operators import mutants

    for place in places:
        for mutant in mutants((ROOT / place.file).read_text()):
            if place.first <= mutant.line <= place.last:
                yield place.file, mutant


def main():
    given = arguments()
    sys.path[:0] = [str(HERE)]
    places = [Place.parse(place) for place in given.places] or [
        Place(str(path.relative_to(ROOT)))
        for pattern in CORE.split()
        for path in sorted((ROOT / "sparsejac").glob(pattern))
    ]
    chosen = list(found_mutants(places))
    if given.sample is not None and given.sample < len(chosen):
        some = random.Random(given.seed).sample(range(len(chosen)), given.sample)
        chosen = [chosen[at] for at in sorted(some)]
    if given.list:
        for file, mutant in chosen:
            print(f"{file}:{mutant.line}: {mutant.change}")
        return 0
    if not (DATA / "python").exists():
        import cover

        cover.run_in_python()
    preload()
    return Session(chosen, given).run()


class Session:
    """Runs mutants, and prints the survivors and a table."""

    def __init__(self, chosen, given):
        self.chosen, self.given = chosen, given
        self.seconds = json.loads((DATA / "seconds.json").read_text())
        self.counts = {file: collections.Counter() for file, _ in chosen}
        self.survivors, self.began = [], time.monotonic()

    def run(self):
        left = self._unexplained()
        in_place, anew = [], []
        for file, mutant in left:
            fits = mutant.in_function and fits_in_place(file, mutant.source)
            (in_place if fits else anew).append((file, mutant))
        self._in_another_process(in_place)
        self._test(Anew(), anew, self._note)
        for file, counts in self.counts.items():
            print(f"{file}: {_said(counts)}")
        total = sum(self.counts.values(), collections.Counter())
        print(f"{_said(total)}, in {time.monotonic() - self.began:.0f} s")
        for each in self.survivors:
            print(f"survives: {each}")
        return 1 if self.survivors else 0

    def _unexplained(self):
        explained, left = explanations(), []
        for file, mutant in self.chosen:
            text = (ROOT / file).read_text().splitlines()[mutant.line - 1].strip()
            self.counts[file]["mutants"] += 1
            if (file, text, mutant.change) in explained:
                self.counts[file]["explained"] += 1
            else:
                left.append((file, mutant))
        return left

    def _note(self, file, mutant, killed):
        self.counts[file]["killed" if killed else "survivors"] += 1
        if not killed:
            self.survivors.append(f"{file}:{mutant.line}: {mutant.change}")
            print(f"  survives: {self.survivors[-1]}", flush=True)

    def _test(self, runs, chosen, note):
        for file in dict.fromkeys(file for file, _ in chosen):
            tester = Tester(runs, file, self.seconds, self.given.tests, self.given.budget)
            for mutant in (mutant for of, mutant in chosen if of == file):
                note(file, mutant, tester.is_killed(mutant))

    def _in_another_process(self, chosen):
        """Test those that can be put in place, in a process that loads sparsejac and its tests."""
        reader, pipe = os.pipe()
        child = os.fork() if chosen else None
        if child == 0:
            os.close(reader)
            code = 1
            try:
                code = self._collect_and_test(pipe, chosen)
            finally:
                os._exit(code)
        os.close(pipe)
        with open(reader) as results:
            for (file, mutant), result in zip(chosen, results, strict=True):
                self._note(file, mutant, result == "killed\n")
        if child is not None:
            os.waitpid(child, 0)

    def _collect_and_test(self, pipe, chosen):
        import pytest

        def note(file, mutant, killed):
            os.write(pipe, b"killed\n" if killed else b"survives\n")

        files = sorted({test.partition("::")[0] for test in self.given.tests or self.seconds})
        mutated = sorted({file for file, _ in chosen})
        plugin = InPlace(mutated, lambda runs: self._test(runs, chosen, note))
        return int(pytest.main([*OPTIONS.split(), *files], plugins=[plugin]))


def _said(counts):
    names = "mutants", "killed", "explained", "survivors"
    return ", ".join(f"{counts[name]} {name}" for name in names)


if __name__ == "__main__":
    sys.exit(main())
