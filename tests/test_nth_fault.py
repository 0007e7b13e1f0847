"""Each call that our code makes fails once: of NumPy, of the system, of a function of our own.

That is done for every operation and every source. Afterwards nothing is left, inputs are unchanged,
earlier results are as they were, and the next call gives the right numbers, on another thread.
"""

import gc
import hashlib
import itertools
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.sparse
import test_faults
from failing import Failure, NthCall, held, nothing_left
from support import toarray
from test_faults import OPERATIONS, PLACES, K, V, made, target, v, x

from sparsejac import fit, io, row_column_scaling
from sparsejac._backends import threads as _threads
from sparsejac._system.files import sync_folder

pytestmark = [
    pytest.mark.usefixtures("dirty_results"),
    # A profiler may interrupt where no signal does: between the opening of a file and its `with`.
    # Python then closes the file with a warning.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
_small_blocks = test_faults._small_blocks

# --- every operation and every source -------------------------------------------------------------

SOURCES = {
    "dense": (lambda folder: test_faults.dense(), "npy"),
    "sparse": (lambda folder: test_faults.sparse(), "csr"),
} | {
    place: (make, place)
    for place, (make, *_) in PLACES.items()
    if place not in ("memmap", "csr's columns")
}


def fitted(A, place, **options):
    how = {"rows": test_faults.rows_of(place), "max_iter": 2, "workers": 2}
    return fit(A, target(place), **how, **options).x


def out_again(builder):
    J = builder.tocsr(x)
    J.data[:] = np.nan
    return builder.tocsr(x, out=J)


def written_and_read(builder, folder):
    path = folder / f"J{len(list(folder.iterdir()))}"
    io.write_csr_blocks(path, builder.iter_csr(x, block_rows=40), shape=builder.shape)
    return io.read_matrix(path).toarray()


def balanced(uri):
    from sparsejac import cool

    how = {"min_nnz": 0, "mad_max": 0, "ignore_diags": 0, "max_products": 4, "workers": 2}
    return cool.balance(uri, **how).weight


# What test_faults.py has no name for: the object on which an operation works, and the operation of
# that, of the source and of a folder.
MORE = {
    "a new builder": ("A", lambda A, place, _: made("builder", A, place).value(x)),
    "a new problem": ("A", lambda A, place, _: made("problem", A, place).grad(x)),
    "tocsr(out=)": ("builder", lambda b, *_: out_again(b)),
    "written and read": ("builder", lambda b, _, folder: written_and_read(b, folder)),
    "fit, rank 2": ("A", lambda A, place, _: fitted(A, place, rank=2, x0=V[:, :2] + 5.0)),
    "fit, bounds": ("A", lambda A, place, _: fitted(A, place, bounds=(0, 3), x0=np.ones(K))),
    "fit, loss": ("A", lambda A, place, _: fitted(A, place, loss="soft_l1", x0=np.ones(K))),
    "row_column_scaling": (
        "A",
        lambda A, *_: row_column_scaling(A, max_products=4, workers=2).r,
    ),
    "cool.balance": ("path", lambda uri, *_: balanced(uri)),
}
INEXACT = {"fit", "symmetric_scaling", "fit, rank 2", "fit, bounds", "fit, loss"}
INEXACT |= {"row_column_scaling", "cool.balance"}


def fits_together(source, name):
    if name == "cool.balance":
        return source == "cool"
    return source in ("dense", "sparse") or name != "row_column_scaling"


EVERY = [
    (source, name)
    for source, name in itertools.product(SOURCES, [*OPERATIONS, *MORE])
    if fits_together(source, name)
]


class Subject:
    """An operation on a source: it is run again and again."""

    def __init__(self, source, name, folder):
        make, self.place = SOURCES[source]
        self.name, self.folder, self._given = name, folder, make(folder)
        (folder / "written").mkdir()
        what = OPERATIONS[name][0] if name in OPERATIONS else MORE[name][0]
        if what == "path":
            self._of = self._given
        else:
            self._of = made(what, self._given, self.place)
        self.expected = self.run()

    def run(self):
        if hasattr(self._of, "_last"):
            self._of._last = None  # the results at the last x would need no pass
        if self.name in OPERATIONS:
            return test_faults.run(self.name, self._of, self.place)
        return toarray(MORE[self.name][1](self._of, self.place, self.folder / "written"))

    def expect(self, found):
        assert found.shape == self.expected.shape
        if self.name in INEXACT:
            np.testing.assert_allclose(found, self.expected, rtol=1e-6, atol=1e-9)
        else:
            np.testing.assert_array_equal(found, self.expected)

    def checksum(self):
        """A checksum of all inputs."""
        digest, A = hashlib.sha256(), self._given
        arrays = [A.data, A.indices, A.indptr] if scipy.sparse.issparse(A) else []
        for array in (x, v, V, *arrays, *([A] if isinstance(A, np.ndarray) else [])):
            digest.update(np.ascontiguousarray(array).tobytes())
        for file in sorted(self.folder.rglob("*")):
            if file.is_file() and self.folder / "written" not in file.parents:
                digest.update(file.read_bytes())
        return digest.hexdigest()

    def leftovers(self):
        """What an interrupted write has left."""
        return [file for file in (self.folder / "written").iterdir() if file.suffix == ".part"]


# --- faults ---------------------------------------------------------------------------------------

# What is raised, and whether the call has ended by then.
FAULTS = [
    (MemoryError, False),
    (KeyboardInterrupt, True),
    (OSError, False),
    (Failure, True),
    (Failure, False),
    (MemoryError, True),
]
QUICK = [("sparse", "J.T w"), ("npy", "tocsr"), ("function", "grad"), ("csr", "value")]
CASES = [
    *((*case, 61) for case in QUICK),
    *(pytest.param(*case, 997, marks=pytest.mark.slow) for case in EVERY),
    # The steps of a fit make the same calls again and again. Of these every eleventh fails.
    *(
        pytest.param(*case, 11 if case[1].startswith("fit") else 1, marks=pytest.mark.long)
        for case in EVERY
    ),
]
each_case = pytest.mark.parametrize(("source", "name", "step"), CASES)


@pytest.fixture
def other_thread(monkeypatch):
    """Call a function on another thread, which no lock may keep waiting."""
    monkeypatch.setattr(_threads, "_INLINE", 0)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        yield lambda act: pool.submit(act).result(60)


def numbers_of(faults, subject, step):
    """The numbers of the calls that are to fail. A first run is another one: it scans A."""
    count = max(faults.counted(subject.run) for _ in range(2))
    return range(1, count + 1, step)


@each_case
def test_any_call_fails(source, name, step, tmp_path, other_thread, tried):
    subject, faults = Subject(source, name, tmp_path), NthCall()
    kept, inputs = subject.run(), subject.checksum()
    bits = kept.tobytes()
    numbers = numbers_of(faults, subject, step)
    before = held()
    for nth in numbers:
        error, after = FAULTS[nth % len(FAULTS)]
        found = faults.fails(subject.run, nth, error, after=after)
        if not isinstance(found, BaseException):  # the error did no harm
            subject.expect(found)
        del found
        nothing_left(before)
        assert not subject.leftovers()
        subject.expect(other_thread(subject.run))
    assert (kept.tobytes(), subject.checksum()) == (bits, inputs)
    tried("calls that fail", len(numbers))


def test_a_folder_that_is_synced_is_closed(tmp_path):
    """Also if Ctrl-C comes when it was opened, and its descriptor has no name yet."""
    faults, before = NthCall(), held()
    for nth in range(1, faults.counted(lambda: sync_folder(tmp_path)) + 1):
        faults.fails(lambda: sync_folder(tmp_path), nth, KeyboardInterrupt, after=True)
        nothing_left(before)


@pytest.mark.parametrize(
    ("source", "name", "step"),
    [CASES[1], *(pytest.param(*case, 97, marks=pytest.mark.long) for case in EVERY)],
)
def test_failed_calls_keep_no_memory(source, name, step, tmp_path, other_thread, tried):
    """The same calls fail again and again, and no more is allocated after that than before.

    An array of k×k numbers takes over a kilobyte here.
    """
    subject, faults = Subject(source, name, tmp_path), NthCall()
    numbers = numbers_of(faults, subject, max(step // 4, 1))

    def fail():
        for nth in numbers:
            error, after = FAULTS[nth % len(FAULTS)]
            faults.fails(subject.run, nth, error, after=after)
        subject.expect(subject.run())
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    fail()
    tracemalloc.start()
    try:
        held_then = [fail() for _ in range(4)]
    finally:
        tracemalloc.stop()
    growth = np.diff(held_then).min()  # caches grow in some of the rounds, and a leak in each
    assert growth < 200 * len(numbers) + 1000
    tried("calls that fail, counted in bytes", 5 * len(numbers))
