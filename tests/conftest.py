"""Hypothesis profiles, the choice of tests, and the folder of real matrices: shared/data beside the
checkout.

By default pytest leaves out the tests that are marked as `slow`, and 39 of 40 cases of each
`cross_product`. The option `--whole` takes all of them. Without it the tests may use
`compiled_versions.LIMIT` compiled versions of the kernels.
"""

import os
import signal
import threading
import zlib
from pathlib import Path

import pytest
from compiled_versions import LIMIT, Counter
from hypothesis import HealthCheck, settings

# The first example of a dtype compiles kernels, so a deadline would measure the compiler.
_common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "derandomize": True}
settings.register_profile("dev", max_examples=10, **_common)
settings.register_profile("ci", max_examples=60, **_common)
settings.register_profile("large", max_examples=1000, **(_common | {"derandomize": False}))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_addoption(parser):
    parser.addoption(
        "--whole",
        action="store_true",
        help="also the tests marked as slow, and all of each cross product, not one case in forty",
    )
    parser.addoption(
        "--max-versions",
        type=int,
        metavar="N",
        help="fail if the tests use more than N compiled versions of the kernels, 0 for any number "
        f"(default: {LIMIT}, and 0 with --whole)",
    )


def pytest_configure(config):
    """Register our markers, and those of SciPy's own tests, some of which test_operator.py runs."""
    limit = config.getoption("max_versions")
    if limit is None:
        limit = 0 if config.getoption("whole") else LIMIT
    config.pluginmanager.register(Counter(limit), "compiled_versions")
    config.addinivalue_line(
        "markers", "slow: takes long, or needs kernels of a rare dtype; run with --whole"
    )
    config.addinivalue_line(
        "markers", "cross_product: one case in forty is run, all of them with --whole"
    )
    for name in (
        "uses_xp_capabilities",
        "skip_xp_backends",
        "xfail_xp_backends",
        "array_api_backends",
    ):
        config.addinivalue_line("markers", f"{name}: SciPy's own")


def pytest_collection_modifyitems(config, items):
    """Leave out slow tests, and most cases of the cross products.

    A checksum of its name decides on a case of a cross product, so each process takes the same
    ones.
    """
    if config.getoption("whole"):
        return
    left_out = [
        item
        for item in items
        if item.get_closest_marker("slow")
        or (item.get_closest_marker("cross_product") and zlib.crc32(item.name.encode()) % 40)
    ]
    config.hook.pytest_deselected(items=left_out)
    out = set(left_out)
    items[:] = [item for item in items if item not in out]


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard():
    """Python's own handler of SIGINT, also where it is ignored, as in a background job of a script.

    A process that a test starts has the default then: a handler is not inherited, but to ignore a
    signal, or to block it, is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGALRM})
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def real_data():
    """A function from a file's name to its path. It skips the test if the file is missing."""

    def path(name):
        if not (DATA / name).is_file():
            pytest.skip(f"{name} of the collection of real matrices is not on this machine")
        return DATA / name

    return path


@pytest.fixture(scope="module")
def dirty_results():
    """Results of every size are recycled, and their fresh memory is no zeros.

    So a test fails if a result depends on what its memory held before.
    """
    import numpy as np  # not above: the benchmarks first say how long its threads may spin

    from sparsejac._system import recycling

    def dirty(shape, dtype):
        memory = allocated(shape, dtype)
        memory.view(np.uint8)[...] = 0xA5
        return memory

    allocated = recycling.allocated
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recycling, "LARGE", 1)
        patch.setattr(recycling, "allocated", dirty)
        yield
