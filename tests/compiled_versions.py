"""The compiled versions of the kernels that the tests use, and their limit.

A kernel is compiled once for each signature. Each version takes about a second, and is most of what
the tests wait for. Each process notes the signatures of its kernels at its end. A version that was
read from the cache on disk counts as well. So the count does not depend on earlier runs. Processes
that a test starts are not counted. `.ci/run` counts the files that they leave.
"""

import re
import sys

import pytest

LIMIT = 150
OF_ONE_RANK = re.compile(r"^(rank|robust)_.*_[124]_sparse_few$")
_NAME = "compiled_versions"


def compiled_versions():
    """Return the versions that this process has compiled or loaded, as "module.kernel types".

    Those for a fixed number of columns of variables are left out: each of them serves a rank.
    """
    kernels = {
        id(kernel): kernel
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] == "sparsejac"
        for function in list(vars(module).values())
        for rows in ("compiled", "sparse")  # a kernel may have another function for sparse rows
        if hasattr(kernel := getattr(function, rows, None), "signatures")
    }
    return {
        f"{kernel.py_func.__module__}.{kernel.py_func.__name__} {signature}"
        for kernel in kernels.values()
        for signature in kernel.signatures
        if not OF_ONE_RANK.search(kernel.py_func.__name__)
    }


class Counter:
    """Add up the versions of all processes that run tests. Too many of them fail the session."""

    def __init__(self, limit):
        self.limit, self.versions = limit, set()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node):
        """A worker of pytest-xdist has ended."""
        self.versions |= set(getattr(node, "workeroutput", {}).get(_NAME, ()))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session, exitstatus):
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput[_NAME] = sorted(compiled_versions())
            return
        self.versions |= compiled_versions()
        if exitstatus == pytest.ExitCode.OK and self.limit and len(self.versions) > self.limit:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter):
        count = len(self.versions)
        terminalreporter.write_line(f"compiled versions of kernels: {count}")
        if self.limit and count > self.limit:
            terminalreporter.write_line(
                f"FAILED: at most {self.limit} compiled versions may be needed by default. "
                "Use the dtypes, layouts and index types of other tests, or mark the test as slow. "
                "--max-versions=0 lifts the limit.",
                red=True,
            )
