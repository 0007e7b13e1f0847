"""A plugin of pytest for runs in which the kernels are functions of Python: `-p recorder`.

It ends a test that takes more than `--seconds` of the processor's time, or four times that while it
waits for other processes, as its matrix is made for compiled kernels. It counts as skipped. Where
coverage is measured, each test is a context of its own: `mutate` asks which tests run a line.
"""

import json
import os
import signal
import threading
from pathlib import Path

import pytest

_seconds = {}


def pytest_addoption(parser):
    parser.addoption("--seconds", type=float, default=20.0, help="at most so long for each test")
    parser.addoption("--seconds-file", help="where to write how long each test took that passed")


def _too_long(signum, frame):
    for children in Path("/proc/self/task").glob("*/children"):  # a test may wait for them
        for child in children.read_text().split():
            os.kill(int(child), signal.SIGKILL)
    pytest.skip("it takes too long where the kernels are functions of Python")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    coverage = _coverage()
    if coverage is not None:
        coverage.switch_context(item.nodeid)
    yield
    if coverage is not None:
        coverage.switch_context("")
    return True


def _coverage():
    if "COVERAGE_CONTEXTS" not in os.environ:
        return None
    from coverage import Coverage

    return Coverage.current()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    if threading.current_thread() is not threading.main_thread():
        return (yield)
    seconds = item.config.getoption("seconds")
    timers = (
        (signal.ITIMER_PROF, signal.SIGPROF, seconds),
        (signal.ITIMER_REAL, signal.SIGALRM, 4 * seconds),
    )
    before = [signal.signal(number, _too_long) for _, number, _ in timers]
    for timer, _, limit in timers:
        signal.setitimer(timer, limit)
    try:
        return (yield)
    finally:
        for (timer, number, _), handler in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def pytest_runtest_logreport(report):
    seconds = _seconds.setdefault(report.nodeid, [0.0, True])
    seconds[0] += report.duration
    seconds[1] &= report.passed


def pytest_sessionfinish(session):
    if path := session.config.getoption("seconds_file"):
        known = json.loads(Path(path).read_text()) if Path(path).exists() else {}
        known |= {test: took for test, (took, passed) in _seconds.items() if passed}
        Path(path).write_text(json.dumps(known))
