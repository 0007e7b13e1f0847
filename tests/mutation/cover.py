"""Measures which branches of sparsejac the tests take: `cover.py [RUN [TEST ...]]`.

Two runs are put together. In the first one the kernels are compiled, and all default tests run. In
the second one the kernels are functions of Python, whose lines are seen, and those tests run that
need kernels. There a test that takes long is left out, as its matrix is made for compiled kernels.
What the second run writes also tells `mutate` which tests run a line.

RUN is `compiled` or `python`, to make one of these runs alone, or to add some tests to it. With
`report` what they have found is reported once more.
"""

import collections
import json
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DATA = ROOT / ".mutation"
PATH = {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, HERE)))}
NEEDED = 98.0  # percent
COUNTED = "covered_branches", "num_branches", "covered_lines", "num_statements"
WITHOUT_KERNELS = """
    cli columns compiled_versions completeness cool distributed faults io memory platforms
    plot progress promises rank_memory readme real_data turns
"""  # files of tests that are about files, processes and memory
OF_RARE_KERNELS = "edge_numbers"
ON_FIBERS = "cuda cuda_solvers"  # files of tests that are slow, and alone run kernels of a GPU
COMPILES_ALL = "tests/test_kernels.py::test_compile_leaves_nothing_to_compile"


def run(name, *arguments, **environment):
    """Run the tests under coverage, and write what they have run to a file of this name."""
    DATA.mkdir(exist_ok=True)
    for old in DATA.glob(f"{name}-part*"):
        old.unlink()
    measured = {
        "COVERAGE_FILE": str(DATA / f"{name}-part"),
        "COVERAGE_RCFILE": str(HERE / "coveragerc"),
    }
    known = os.environ | measured | PATH | environment
    options = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--max-versions=0", "--tb=line"]
    command = [sys.executable, "-m", "coverage", "run", *options, *arguments]
    # A failure is for the other tests to tell. Some tests know that kernels are compiled.
    subprocess.run(command, cwd=ROOT, env=known, check=False)
    time.sleep(5)  # processes that are about to end give their files other names
    parts = [part for part in DATA.glob(f"{name}-part*") if _is_whole(part)]
    _coverage(name, "combine", "-q", "--append", *parts)


def _is_whole(part):
    """Whether a data file can be read. Tests kill processes, which may be writing theirs."""
    from coverage import CoverageData
    from coverage.exceptions import CoverageException

    found = CoverageData(str(part))
    try:
        found.read()
        CoverageData(no_disk=True).update(found)
    except CoverageException:
        part.unlink()
        return False
    return True


def _coverage(name, command, *arguments):
    """Run a command of coverage on the data file of this name."""
    options = [f"--rcfile={HERE / 'coveragerc'}", f"--data-file={DATA / name}"]
    program = [sys.executable, "-m", "coverage", command, *options, *map(str, arguments)]
    subprocess.run(program, cwd=ROOT, env=os.environ | PATH, check=True)


def run_in_python(*tests):
    """All tests that need kernels, or the tests that are given."""
    options = ["-p", "recorder", "--seconds=3", f"--seconds-file={DATA / 'seconds.json'}"]
    # Numbers of NumPy warn of an overflow, where compiled code does not.
    options += ["-W", "ignore::RuntimeWarning"]
    left_out = [f"--ignore=tests/test_{name}.py" for name in WITHOUT_KERNELS.split()]
    # Some tests are slow for their kernels alone, which no default test compiles.
    slow = ["--whole", "-m", "slow", *(f"tests/test_{name}.py" for name in OF_RARE_KERNELS.split())]
    for some in [tests] if tests else [("tests", *left_out), slow]:
        run("python", *options, *some, NUMBA_DISABLE_JIT="1", COVERAGE_CONTEXTS="1")


def run_compiled(*tests):
    """All default tests and the command that compiles all kernels, or the tests that are given."""
    if tests:
        run("compiled", *tests)
        return
    # What writes the code of a kernel for LLVM runs only while that is compiled.
    for old in (ROOT / "sparsejac").rglob("__pycache__/*.nb[ci]"):
        old.unlink()
    run("compiled")
    run("compiled", "--whole", COMPILES_ALL)
    on_fibers = (f"tests/test_{name}.py" for name in ON_FIBERS.split())
    run("compiled", "--whole", "-m", "slow and not gpu", *on_fibers)


def report():
    """Print what is not covered, and how much is. Returns 1 if that is too little."""
    (DATA / "both").unlink(missing_ok=True)
    parts = [DATA / name for name in ("python", "compiled") if (DATA / name).exists()]
    _coverage("both", "combine", "-q", "--keep", *parts)
    _add_templates()
    _coverage("both", "report")
    _coverage("both", "json", "-q", "-o", DATA / "summary.json")
    return 0 if _print_packages() >= NEEDED else 1


def _print_packages():
    """Print how many branches and lines of each package are covered. Returns that of branches."""
    counts = collections.defaultdict(collections.Counter)
    for path, found in json.loads((DATA / "summary.json").read_text())["files"].items():
        package = Path(path).parent.as_posix()
        for name in (package, "all"):
            counts[name].update({of: found["summary"][of] for of in COUNTED})
    print(f"{'':24}{'branches':>24}{'lines':>24}")
    for name, of in sorted(counts.items(), key=lambda each: (each[0] == "all", each[0])):
        branches = of["covered_branches"], of["num_branches"]
        lines = of["covered_lines"], of["num_statements"]
        print(f"{name:24}{_share(*branches):>24}{_share(*lines):>24}")
    return 100 * counts["all"]["covered_branches"] / counts["all"]["num_branches"]


def _share(covered, number):
    return f"{covered} of {number}: {100 * covered / max(number, 1):.1f} %"


def _add_templates():
    from coverage import CoverageData
    from templates import with_templates

    data = CoverageData(str(DATA / "both"))
    data.read()
    data.set_context(None)
    for name in ("walks", "rank_walks"):
        path = ROOT / "sparsejac" / "_kernels" / f"{name}.py"
        data.add_arcs({str(path): with_templates(path.read_text(), data.arcs(str(path)) or ())})


def main():
    what, *tests = sys.argv[1:] or ["all"]
    if not tests and what != "report":  # from the beginning
        for name in {"all": ("python", "compiled")}.get(what, (what,)):
            (DATA / name).unlink(missing_ok=True)
    if what in ("all", "compiled"):
        run_compiled(*tests)
    if what in ("all", "python"):
        run_in_python(*tests)
    return report()


if __name__ == "__main__":
    sys.exit(main())
