"""Passes over matrices on disk beside reading the file: cold, warm, and what they hold meanwhile.

``STREAMED_GIB=8 STREAMED_FOLDER=/somewhere`` makes a matrix of 8 GiB there, and a Y beside it; the
default is a quarter of a GiB.
"""

import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from sparsejac import JacobianBuilder, LeastSquares, RowSums, symmetric_scaling

pytestmark = pytest.mark.filterwarnings("default")

GIB = float(os.environ.get("STREAMED_GIB", "0.25"))
K = int((GIB * 2**27) ** 0.5)  # 8 GiB: 32 768
BUDGET = max(2**29 * GIB / 8, 32 * 2**20)


@pytest.fixture(scope="module")
def files():
    """A symmetric A > 0, and Y = F(x) with noise."""
    folder = Path(tempfile.mkdtemp(dir=os.environ.get("STREAMED_FOLDER")))
    try:
        rng = np.random.default_rng(0)
        a, x = 3 * rng.standard_normal(K), rng.uniform(0.5, 2, K)
        A, Y = (
            np.lib.format.open_memmap(folder / name, "w+", np.float64, (K, K))
            for name in ("A.npy", "Y.npy")
        )
        for i in range(0, K, 512):
            rows = slice(i, i + 512)
            A[rows] = np.exp(np.sin(np.multiply.outer(a[rows], a)))
            Y[rows] = A[rows] * x[rows, np.newaxis] * x
        A.flush()
        Y.flush()
        del A, Y  # what is mapped is not forgotten
        yield str(folder / "A.npy"), str(folder / "Y.npy")
    finally:
        shutil.rmtree(folder)


def forget(*paths):
    """The page cache's copy of these files."""
    for path in paths:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(*paths):
    """Plain sequential reading, into a megabyte that is used again."""
    buffer = memoryview(bytearray(2**20))
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) * 1024


class Watch(threading.Thread):
    """The most anonymous memory that the process had, beyond what it had at first."""

    def __init__(self):
        super().__init__(daemon=True)
        self._over, self._before, self.most = threading.Event(), anonymous(), 0

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self.join()

    def run(self):
        while not self._over.wait(0.001):
            self.most = max(self.most, anonymous() - self._before)


def passes(A, Y, budget):
    """{name: (function, files that it is about)}, each one pass."""
    x = np.random.default_rng(1).uniform(0.5, 2, K)
    problem = LeastSquares(A, Y, memory=budget)
    operator = JacobianBuilder(A, memory=budget).operator(x)
    normal = operator.normal()
    sums = RowSums(A, memory=budget)
    steps = iter(range(1, 10**6))
    return {
        "cost, gradient, diagonal": (
            lambda: problem.value_and_grad(x * (1 + 1e-3 * next(steps))),
            (A, Y),
        ),
        "JᵀJ v": (lambda: normal @ x, (A,)),
        "column norms": (operator.column_norms, (A,)),
        "row sums, of five eighths of the file": (lambda: sums.value(x), (A,)),
    }


@pytest.mark.skipif(
    not hasattr(os, "posix_fadvise"), reason="nothing here tells the system to forget a file"
)
@pytest.mark.parametrize("cache", ["cold", "warm"])
def test_passes(record, files, cache):
    """How many times as fast as reading the same files a pass is; each reading is the one beside
    the pass.
    """
    for name, (run, paths) in passes(*files, int(BUDGET)).items():
        run()  # compiles, and looks at the matrix for the first time
        times = {"read": [], "pass": []}
        with Watch() as watch:
            for turn in range(3 if cache == "cold" else 5):
                for what in ("read", "pass") if turn % 2 else ("pass", "read"):
                    if cache == "cold":
                        forget(*paths)
                    start = time.perf_counter()
                    run() if what == "pass" else read(*paths)
                    times[what].append(time.perf_counter() - start)
        seconds = {what: float(np.median(measured)) for what, measured in times.items()}
        gigabytes = sum(os.path.getsize(path) for path in paths) / 1e9
        record(
            f"passes over {K} rows on disk, {cache}, budget {BUDGET / 2**20:.0f} MiB",
            {
                "pass": name,
                "GB": f"{gigabytes:.3g}",
                "s": f"{seconds['pass']:.3g}",
                "GB/s": f"{gigabytes / seconds['pass']:.3g}",
                "rate relative to reading": f"{seconds['read'] / seconds['pass']:.2f}",
                "anonymous memory, MiB": f"{watch.most / 2**20:.0f}",
            },
        )


def test_scaling(record, files):
    A, _ = files
    RowSums(A, memory=int(BUDGET)).value(np.ones(K))
    with Watch() as watch:
        start = time.perf_counter()
        result = symmetric_scaling(A, memory=int(BUDGET))
        seconds = time.perf_counter() - start
    assert result.success
    record(
        "symmetric_scaling of it",
        {
            "residual": f"{result.residual:.1e}",
            "passes": result.n_products + 1,
            "s": f"{seconds:.3g}",
            "anonymous memory, MiB": f"{watch.most / 2**20:.0f}",
        },
    )


@pytest.mark.skipif("STREAMED_GIB" not in os.environ, reason="takes minutes")
def test_a_gaussian_kernel(record):
    """20 000 points: 3.2 GB if it were stored. The function is BLAS and NumPy, on one thread."""
    k, budget = 20_000, 64 * 2**20
    points = np.random.default_rng(0).random((k, 3))
    squares = (points**2).sum(axis=1)

    def rows(start, stop):
        block = points[start:stop] @ points.T
        block *= 2
        block -= squares[start:stop, np.newaxis]
        block -= squares
        np.minimum(block, 0, out=block)
        block /= 2 * 0.2**2
        return np.exp(block, out=block)

    symmetric_scaling(lambda i, j: np.eye(8)[i:j])
    with Watch() as watch:
        start = time.perf_counter()
        result = symmetric_scaling(rows, memory=budget)
        seconds = time.perf_counter() - start
    assert result.success
    sums = np.concatenate([rows(i, i + 100) @ result.x for i in range(0, k, 100)]) * result.x
    assert abs(sums - 1).max() <= 1.1e-8
    record(
        "a Gaussian kernel of 20 000 points, scaled to unit row sums, budget 64 MiB",
        {
            "residual": f"{result.residual:.1e}",
            "passes": result.n_products + 1,
            "s": f"{seconds:.3g}",
            "anonymous memory, MiB": f"{watch.most / 2**20:.0f}",
        },
    )
