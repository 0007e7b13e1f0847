"""Hypothesis profiles, the choice of tests, and the folder of real matrices: shared/data beside the
checkout.

By default pytest leaves out the tests that are marked as `slow` or `long`, and 39 of 40 cases of
each `cross_product`. The option `--whole` takes all of them but those marked as `long`, which
`--long` takes. Without either the tests may use `compiled_versions.LIMIT` compiled versions of the
kernels.

The profile `everyday` of Hypothesis tries the same few examples each time, so that a failure is due
to a change. The profile `long` tries many, and others each time: HYPOTHESIS_PROFILE=long.
"""

import os
import signal
import threading
import zlib
from pathlib import Path

import pytest
from compiled_versions import LIMIT, Counter
from hypothesis import HealthCheck, settings
from tried import Summary

# The first example of a dtype compiles kernels, so a deadline would measure the compiler.
_common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("everyday", max_examples=20, derandomize=True, **_common)
settings.register_profile("long", max_examples=2000, derandomize=False, **_common)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "everyday"))

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_addoption(parser):
    parser.addoption(
        "--whole",
        action="store_true",
        help="also the tests marked as slow, and all of each cross product, not one case in forty",
    )
    parser.addoption(
        "--long",
        action="store_true",
        help="all tests, those included that take minutes",
    )
    parser.addoption(
        "--max-versions",
        type=int,
        metavar="N",
        help="fail if the tests use more than N compiled versions of the kernels, 0 for any number "
        f"(default: {LIMIT}, and 0 with --whole or --long)",
    )


def pytest_configure(config):
    """Register our markers, and those of SciPy's own tests, some of which test_operator.py runs."""
    limit = config.getoption("max_versions")
    if limit is None:
        limit = 0 if config.getoption("whole") or config.getoption("long") else LIMIT
    config.pluginmanager.register(Counter(limit), "compiled_versions")
    config.pluginmanager.register(Summary(), "tried")
    config.addinivalue_line(
        "markers", "slow: takes long, or needs kernels of a rare dtype; run with --whole"
    )
    config.addinivalue_line("markers", "long: takes minutes; run with --long")
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
    if config.getoption("long"):
        return
    whole = config.getoption("whole")
    left_out = [
        item
        for item in items
        if item.get_closest_marker("long")
        or (not whole and (item.get_closest_marker("slow") or _is_left_out(item)))
    ]
    config.hook.pytest_deselected(items=left_out)
    out = set(left_out)
    items[:] = [item for item in items if item not in out]


def _is_left_out(item):
    return item.get_closest_marker("cross_product") and zlib.crc32(item.name.encode()) % 40


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
