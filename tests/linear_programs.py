"""Which entries a matrix with given row and column sums can have, by linear programs.

They are the judge of the verdicts of scalings, and share no code with the package.
"""

from typing import NamedTuple

import numpy as np
import scipy.sparse
from scipy.optimize import linprog

_TOGETHER = 250  # programs that are solved as one, which has a block for each


class Problem(NamedTuple):
    """A matrix A ≥ 0, its row sums, and its column sums; None stands for a symmetric matrix."""

    A: np.ndarray
    rows: np.ndarray
    columns: np.ndarray | None = None


def possible_entries(problems):
    """For each problem, which entries are positive in some P ≥ 0 that has the sums.

    P is zero wherever A is. No entry is possible if and only if there is no such P. With the
    multiples of these P, one program finds all entries: it maximises ``Σ s_ij`` for
    ``s_ij ≤ P_ij``, ``s_ij ≤ 1`` and sums that are t times the given ones, where t is free.
    """
    found = []
    for first in range(0, len(problems), _TOGETHER):
        found += _solved(problems[first : first + _TOGETHER])
    return found


def _solved(problems):
    blocks, masks = [], []
    for A, targets, columns in problems:
        i, j = np.nonzero(A if columns is not None else np.triu(A))
        sums = np.zeros((len(A), i.size))
        sums[i, np.arange(i.size)] = 1
        if columns is None:
            sums[j, np.arange(i.size)] = 1
        else:
            others = np.zeros((columns.size, i.size))
            others[j, np.arange(i.size)] = 1
            sums = np.concatenate([sums, others])
        blocks.append((sums, np.append(targets, [] if columns is None else columns)))
        masks.append((i, j))
    numbers = [sums.shape[1] for sums, _ in blocks]
    count = sum(numbers)
    eye = scipy.sparse.eye_array(count)
    t = scipy.sparse.block_diag(
        [scipy.sparse.coo_array(targets[:, np.newaxis]) for _, targets in blocks]
    )
    P = scipy.sparse.block_diag([scipy.sparse.coo_array(sums) for sums, _ in blocks])
    zeros = scipy.sparse.csr_array((count, len(problems)))
    solution = linprog(  # the variables are P, s and t
        np.concatenate([np.zeros(count), -np.ones(count), np.zeros(len(problems))]),
        A_eq=scipy.sparse.hstack([P, scipy.sparse.csr_array(P.shape), -t]),
        b_eq=np.zeros(P.shape[0]),
        A_ub=scipy.sparse.hstack([-eye, eye, zeros]),
        b_ub=np.zeros(count),
        bounds=[(0, None)] * count + [(0, 1)] * count + [(0, None)] * len(problems),
    )
    assert solution.status == 0, solution.message
    s = solution.x[count : 2 * count]
    assert np.all((s < 1e-6) | (s > 1 - 1e-6))
    parts = np.split(s > 0.5, np.cumsum(numbers)[:-1])
    results = []
    for (A, _, columns), (i, j), part in zip(problems, masks, parts, strict=True):
        possible = np.zeros(A.shape, bool)
        possible[i, j] = part
        results.append(possible if columns is not None else possible | possible.T)
    return results
