"""The compiled versions that the tests use are counted in all processes, and are limited."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from compiled_versions import LIMIT, compiled_versions

from sparsejac import JacobianBuilder

CONFTEST = """
from compiled_versions import Counter

def pytest_configure(config):
    config.pluginmanager.register(Counter({limit}))
"""
# Two tests use kernels that are not compiled: "shared" with the same signature, and "own" with two.
TESTS = """
import sys, types
import pytest

@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test(dtype):
    def kernel(name, *signatures):
        function = types.SimpleNamespace(__module__="sparsejac", __name__=name)
        compiled = types.SimpleNamespace(py_func=function, signatures=signatures)
        return types.SimpleNamespace(compiled=compiled)

    module = sys.modules.setdefault(f"sparsejac.{dtype}", types.ModuleType(dtype))
    module.shared, module.own = kernel("shared", "int64"), kernel("own", dtype)
    assert dtype != FAILING
"""


def run(folder, limit, *options, failing=None):
    """Run two tests in a new process, and return its exit code and what it prints."""
    (folder / "conftest.py").write_text(CONFTEST.format(limit=limit))
    (folder / "test_two.py").write_text(f"FAILING = {failing!r}\n{TESTS}")
    # Options and plugins of the run that this test belongs to are not those of the new one.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, "test_two.py"],
        cwd=folder,
        env=environment
        | {"PYTHONPATH": str(Path(__file__).parent), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout


def test_every_kernel_is_counted():
    """A version is counted once, whether it was compiled or read from the disk."""

    def use():
        op = JacobianBuilder(np.eye(3)).operator(np.ones(3))
        return op @ np.ones(3), op.T @ np.ones(9)

    use()
    found = compiled_versions()
    names = {version.split()[0].rpartition(".")[2] for version in found}
    assert {"matvec_dense", "rmatvec_dense"} <= names
    use()
    assert compiled_versions() == found


@pytest.mark.parametrize(
    "options",
    [(), pytest.param(("-p", "xdist", "-n", "2"), marks=pytest.mark.slow)],
    ids=["alone", "two workers"],
)
def test_too_many_versions_fail(tmp_path, options):
    """The versions of two workers are united, not added."""
    code, printed = run(tmp_path, 2, *options)
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "2 passed" in printed
    assert "compiled versions of kernels: 3" in printed
    assert "FAILED: at most 2 compiled versions may be needed by default" in printed


def test_other_results_are_left_alone(tmp_path):
    """At the limit and without one nothing fails, and a test that fails stays what it is."""
    for limit in (3, 0):
        code, printed = run(tmp_path, limit)
        assert (code, "compiled versions of kernels: 3" in printed) == (pytest.ExitCode.OK, True)
        assert "FAILED" not in printed
    code, printed = run(tmp_path, 3, failing="float32")
    assert (code, "1 failed, 1 passed" in printed) == (pytest.ExitCode.TESTS_FAILED, True)


def test_the_limit_of_this_run(request):
    """By default slow tests are left out, and the limit holds for the others."""
    option, whole = request.config.getoption("max_versions"), request.config.getoption("whole")
    counter = request.config.pluginmanager.get_plugin("compiled_versions")
    assert counter.limit == (option if option is not None else 0 if whole else LIMIT)
    marked = [item for item in request.session.items if item.get_closest_marker("slow")]
    assert whole or not marked
