"""The handler of a signal raises while files are read or written: its exception is what is raised.

Users set time limits in that way. The signal comes at any call of a function that our code makes.
A reader that says of any error that the file cannot be read would hide it.
"""

import contextlib
import functools
import gzip
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import h5py
import numba
import numpy as np
import pytest
import scipy.sparse
from failing import NthCall
from fuzz_readers import READERS, array_bytes

import sparsejac
from sparsejac import JacobianBuilder, _kernels, cool, io
from sparsejac._matrix import hicpro
from sparsejac._system import signals
from sparsejac._system.threads import undisturbed

pytestmark = [
    pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="signals of POSIX are sent"),
    # The signal may come between the opening of a file and its `with`. Python then closes the file.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class TimeIsUp(Exception):
    """A class of a user's own."""


class NoNumber(ValueError):
    """Our readers raise ValueError themselves."""


class Limit:
    """A handler that is an object. Its method, and a partial of that, are handlers too."""

    def __init__(self, kind):
        self.kind = kind

    def __call__(self, *_):
        raise self.kind("it took too long")

    def ring(self, _text, _number, _frame):
        self()

    @property
    def function(self):
        def handler(*_):
            raise self.kind("it took too long")

        return handler


KINDS = {
    "own": lambda: Limit(TimeIsUp).function,
    "TimeoutError": lambda: Limit(TimeoutError),
    "ValueError": lambda: functools.partial(Limit(NoNumber).ring, "text"),
}


WANTED = {"own": TimeIsUp, "TimeoutError": TimeoutError, "ValueError": NoNumber}


@contextlib.contextmanager
def handled(handler):
    before = signal.signal(signal.SIGALRM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)


class AnyCall(NthCall):
    """Leaves out what Python calls when an archive is deleted: it ignores an exception there."""

    def _see(self, frame, event, called):
        if frame.f_code.co_filename not in (gzip.__file__, zipfile.__file__):
            super()._see(frame, event, called)


def ring(_):
    """Called by `NthCall` for the exception that it raises."""
    signal.raise_signal(signal.SIGALRM)


def rung(act, most):
    """The exceptions that come if the signal does at any of the calls, or at so many of them."""
    calls = AnyCall()
    act()
    count = calls.counted(act)
    steps = range(1, count + 1) if count <= most else np.linspace(1, count, most).astype(int)
    for nth in map(int, steps):
        try:
            calls.fails(act, nth, ring)
        except Exception as error:  # noqa: BLE001  # the caller looks at it
            yield nth, error
        else:  # a builder reads the list of mappings, which may be shorter than when it was counted
            assert calls.raised is None, f"the exception of call {nth} was lost"


def check(act, kind, most):
    handler = KINDS[kind]()
    tries = 0
    with handled(handler):
        for nth, error in rung(act, most):
            assert type(error) is WANTED[kind], (nth, repr(error))
            assert str(error) == "it took too long", nth
            tries += 1
    return tries


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


HOW = [
    ("TimeoutError", 12),
    *(pytest.param(kind, 60, marks=pytest.mark.slow) for kind in KINDS),
]


@pytest.mark.parametrize(("kind", "most"), HOW)
@pytest.mark.parametrize("name", [name for name in READERS if "streamed" not in name])
def test_readers(here, name, kind, most, tried):
    reader = READERS[name]
    for file, part in zip(reader.names, reader.seeds()[0], strict=True):
        path = Path(file)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(part)
    tried("readers with a time limit", check(reader.read, kind, most))


def write_blocks():
    J = scipy.sparse.csr_array(np.eye(4))
    io.write_csr_blocks(f"J{len(os.listdir())}", [(0, J)], shape=(4, 4))


ACTS = {
    "write_vector": lambda: io.write_vector("x.npy", np.ones(4)),
    "write_csr_blocks": write_blocks,
    "a builder of a .npy": lambda: JacobianBuilder("A.npy", workers=1),
    "a builder of a folder": lambda: JacobianBuilder("A", workers=1, check_finite=False),
}


@pytest.mark.parametrize(("kind", "most"), HOW)
@pytest.mark.parametrize("name", ACTS)
def test_writers_and_builders(here, name, kind, most, tried):
    np.save("A.npy", np.ones((4, 4)))
    io.write_csr_blocks("A", [(0, scipy.sparse.csr_array(np.ones((4, 4))))], shape=(4, 4))
    tried("writers with a time limit", check(ACTS[name], kind, most))


@pytest.mark.parametrize("kind", KINDS)
def test_several_maps(here, kind, monkeypatch):
    """An error of one map is in its result, and the next one is balanced. A time limit is not."""
    with h5py.File("A.mcool", "w") as several:
        several.create_group("resolutions/10")
    monkeypatch.setattr("sparsejac._solvers.balancing.balanced", lambda *_: ring(None))
    with handled(KINDS[kind]()), pytest.raises(WANTED[kind], match="it took too long"):
        cool.balance_all("A.mcool")


def test_an_error_of_the_file_is_still_one(here):
    """Also while a time limit is set that did not come."""
    Path("A.npz").write_bytes(b"PK")
    with (
        handled(KINDS["own"]()),
        pytest.raises(ValueError, match=r"A\.npz cannot be read as"),
    ):
        io.read_matrix("A.npz")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_ignored(kind):
    """A time limit is not."""
    with signals.suppress(ValueError, OSError):
        raise OSError
    with (
        handled(KINDS[kind]()),
        pytest.raises(Exception, match="it took too long"),
        signals.suppress(Exception),
    ):
        ring(None)


def test_no_clause_catches_any_exception():
    """It would catch that of a handler: `unless_signalled` names the classes."""
    files = list(Path(sparsejac.__file__).parent.rglob("*.py"))
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"except \(?[^:()]*\bException\b", text), path
        assert "contextlib.suppress(Exception" not in text, path
    assert len(files) > 100


# --- a lack of memory -----------------------------------------------------------------------------


@pytest.mark.parametrize("most", [8, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["npy", "npz", "mtx", "mtx.gz", "folder", "hicpro"])
def test_a_lack_of_memory_names_the_file(here, name, most, tried):
    """It comes at any call once the name of the file has been looked at."""
    reader, calls = READERS[name], AnyCall()
    for file, part in zip(reader.names, reader.seeds()[0], strict=True):
        path = Path(file)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(part)
    act = reader.read if name != "hicpro" else lambda: hicpro._read("A.matrix")
    count, wrong = calls.counted(act), []
    for nth in map(int, np.linspace(15 if name != "hicpro" else 3, 0.8 * count, most)):
        error = calls.fails(act, nth, MemoryError)
        # The parser of a header also raises a MemoryError if it is damaged.
        assert isinstance(error, MemoryError) or "header is damaged" in str(error)
        if not str(error).startswith((*reader.names, "A ")):
            wrong.append((nth, str(error)))
    assert not wrong
    tried("readers without memory", most)


ARCHIVE = """
import resource, sys
from sparsejac.io import read_matrix
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 2**28, size + 2**28))
try:
    read_matrix("A.npz")
except MemoryError as error:
    print(error)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits as Linux has them")
def test_an_archive_that_announces_a_dictionary(here):
    """That of LZMA is allocated at once, and its size is in the header of the member."""
    with zipfile.ZipFile("A.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("A.npy", array_bytes(np.eye(3)))
    content = bytearray(Path("A.npz").read_bytes())
    at = content.index(b"\x09\x04\x05\x00\x5d") + 5  # the version and the size of the properties
    content[at : at + 4] = b"\xff\xff\xff\x7f"
    Path("A.npz").write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", ARCHIVE],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": str(Path(sparsejac.__file__).parents[1])},
    )
    assert done.stdout.startswith("A.npz cannot be read: there is not enough memory for what its")


# --- what must not end halfway --------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("times", [1, 3])
def test_undisturbed(kind, times):
    """The function ends, on another thread, and then the exception is raised."""
    steps, began = [], threading.Event()

    def act(*args):
        steps.append(args)
        for _ in range(times):
            began.wait()
            began.clear()
            os.kill(os.getpid(), signal.SIGALRM)
            time.sleep(0.02)
            began.set()
        steps.append(threading.get_ident())

    began.set()
    with handled(KINDS[kind]()), pytest.raises(WANTED[kind], match="it took too long"):
        undisturbed(act, 1, 2)
    (args, thread) = steps
    assert args == (1, 2)
    assert thread != threading.get_ident()


def test_undisturbed_without_a_signal():
    """What the function returns and raises comes, and other threads call it themselves."""
    assert undisturbed(divmod, 7, 4) == (1, 3)
    with pytest.raises(ZeroDivisionError):
        undisturbed(divmod, 7, 0)
    with ThreadPoolExecutor(1) as pool:
        here = pool.submit(threading.get_ident).result()
        assert pool.submit(undisturbed, threading.get_ident).result() == here


def test_undisturbed_by_a_thread_that_dies(monkeypatch):
    monkeypatch.setattr("_thread.start_new_thread", lambda *_: None)
    with pytest.raises(MemoryError, match="there is no memory left for a thread"):
        undisturbed(threading.get_ident)


def test_undisturbed_without_a_thread(monkeypatch):
    def fails(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("_thread.start_new_thread", fails)
    assert undisturbed(threading.get_ident) == threading.get_ident()


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="no kernel is compiled")
@pytest.mark.parametrize("form", ["compiled", "sparse"])
@pytest.mark.parametrize("name", ["csr_data", "squares_of_many", "csr_defect"])
def test_kernels_are_compiled_undisturbed(name, form, monkeypatch):
    """Loaded, too. Kernels share the tables that both change."""
    found = getattr(_kernels.compiled_kernel(name), form)
    threads = []
    monkeypatch.setattr(found, "compile", lambda _: threads.append(threading.get_ident()))
    found._compile_for_args(1.0, 2)
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()


def test_kernels_are_imported_undisturbed(monkeypatch):
    threads = []

    def imported(name):
        threads.append(threading.get_ident())
        return import_module(name)

    monkeypatch.setattr(_kernels, "import_module", imported)
    _kernels.compiled_kernel.__wrapped__("csr_defect")
    assert set(threads) - {threading.get_ident()} == set(threads) != set()
