"""What a bar says of the time that is left."""

import contextlib
import math

import numpy as np
import pytest
import scipy.sparse
from tqdm import tqdm

from sparsejac import fit, symmetric_scaling
from sparsejac._solvers.outlook import passes_left
from sparsejac._system import progress


def falling(factor, passes, count, start=1.0):
    """A history of a measure that is multiplied by a factor in each step of so many passes."""
    return [(passes * n, start * factor**n) for n in range(count)]


@pytest.mark.parametrize("made", [0, 1])
@pytest.mark.parametrize(("factor", "passes", "count"), [(0.1, 5, 8), (0.9, 1, 40), (0.5, 2, 300)])
def test_linear_convergence(factor, passes, count, made):
    """The steps until the measure is tol are those of the geometric series."""
    history = falling(factor, passes, count)
    steps = 7.25
    tol = history[-1][-1] * factor**steps
    if tol < 1e-15:
        history = [(n, value * 1e100) for n, value in history]
        tol *= 1e100
    left = passes_left(history, history[-1][0] + made, tol)
    assert left == pytest.approx(steps * passes - made)


def test_the_later_half_counts():
    slow = falling(0.99, 1, 50, start=1e30)
    fast = [(50 + n, slow[-1][-1] * 0.5**n) for n in range(60)]
    left = passes_left(slow + fast, 109, fast[-1][-1] / 2**10)
    assert left == pytest.approx(10)


def test_below_rounding_nothing_is_expected():
    history = falling(0.1, 1, 11)
    assert passes_left(history, 10, 0.0) == pytest.approx(5)  # to 1e-15
    assert passes_left(history, 10, 1.0) == 0
    assert passes_left(history, 100, 1e-12) == 0


@pytest.mark.parametrize(
    "history",
    [
        [],
        [(3, 1.0)],
        falling(0.1, 1, 3),
        falling(0.999, 1, 300),
        falling(1.1, 1, 30),
        [(5, 0.5**n) for n in range(9)],
        [(n, math.inf) for n in range(9)],
        [(n, math.nan) for n in range(9)],
        [(n, 0.0) for n in range(9)],
        [*falling(0.1, 1, 9), (9, math.nan)],
    ],
)
def test_where_the_speed_says_nothing(history):
    assert passes_left(history, 1000, 1e-12) is None


class Recorder:
    """In place of a bar, one that makes a pass each second."""

    def __init__(self):
        self.n, self.said = 0, []
        self.format_dict = {"rate": 1.0, "n": 0, "elapsed": 0.0}

    def update(self):
        self.n += 1

    def set_postfix(self, refresh, **said):
        self.said.append((self.n, said))

    @staticmethod
    def format_interval(seconds):
        return str(seconds)


@pytest.fixture
def recorder(monkeypatch):
    found = Recorder()
    monkeypatch.setattr(progress, "bar", lambda **how: contextlib.nullcontext(found))
    return found


def hubs_and_leaves(k=300):
    """A graph whose scaling converges slowly, and at a steady speed."""
    rng = np.random.default_rng(1)
    i, j = np.arange(1, k), [rng.integers(0, max(n // 8, 1)) for n in range(1, k)]
    G = scipy.sparse.coo_array((np.ones(k - 1), (i, j)), shape=(k, k)).tocsr()
    return G + G.T + 1e-3 * scipy.sparse.eye_array(k, format="csr")


def test_a_scaling_says_when_it_will_end(recorder):
    result = symmetric_scaling(hubs_and_leaves(), progress=True)
    assert result.success
    assert result.n_products == recorder.n > 50
    checked = 0
    for n, said in recorder.said:
        if 0.5 * recorder.n < n < 0.9 * recorder.n and said["left"] != "?":
            assert 0.3 < float(said["left"]) / (recorder.n - n) < 3
            checked += 1
    assert checked > 10


def test_a_scaling_ends_at_its_limit(recorder):
    symmetric_scaling(hubs_and_leaves(), progress=True, max_products=60, support="skip")
    left = [(n, float(said["left"])) for n, said in recorder.said if said["left"] != "?"]
    assert left
    assert all(passes <= 60 - n for n, passes in left)


@pytest.mark.parametrize("rank", [None, 1])
def test_a_fit_says_when_it_will_end(recorder, rank):
    rng = np.random.default_rng(0)
    A = (rng.random((60, 60)) < 0.3) + np.eye(60)
    result = fit(A, A * rng.lognormal(0, 1, (60, 60)), progress=True, rank=rank, tol=1e-12)
    assert result.success
    late = [(n, said["left"]) for n, said in recorder.said if said["left"] != "?"]
    assert late
    n, left = late[len(late) // 2]
    assert float(left) < 3 * (recorder.n - n) + 10


def test_time_left():
    """It is the passes divided by the rate: tqdm's own, and before it has one, their mean."""
    bar = Recorder()
    bar.format_interval = tqdm.format_interval
    for shown, wanted in [
        ({"rate": 4.0, "n": 9, "elapsed": 1.0}, "00:30"),
        ({"rate": None, "n": 10, "elapsed": 5.0}, "01:00"),
        ({"rate": None, "n": 0, "elapsed": 0.0}, "?"),
    ]:
        bar.format_dict = shown
        assert progress.time_left(bar, 120) == wanted
        assert progress.time_left(bar, None) == "?"
