"""The gauge of two factors: ``X G`` and ``Y G⁻ᵀ`` have the same product ``X Yᵀ``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_ALIKE = 10.0  # columns whose lengths differ by no more than this factor are left alone


def balanced(Z: NDArray[Any], split: int) -> NDArray[Any]:
    """X above Y, with columns of about the same length in both, and with the same ``X Yᵀ``.

    The optimality of a fit and its preconditioner compare a variable with what it would be if all
    were alike. With a large X and a small Y they would take a gradient for small that is not.
    If both have full rank, ``XᵀX = YᵀY`` is diagonal in the result. Otherwise both are multiplied
    by numbers. Nothing is done if one of them is zero, or has a number that is not finite.
    """
    X, Y = Z[:split], Z[split:]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        lengths = [float(np.max(np.abs(each), initial=0.0)) for each in (X, Y)]
        if not all(0 < length < np.inf for length in lengths):
            return Z
        # No square may overflow or underflow.
        scaled = [each / length for each, length in zip((X, Y), lengths, strict=True)]
        of_x, of_y = (np.sqrt(np.sum(each * each, axis=0)) for each in scaled)
        root = np.sqrt(lengths[0]) * np.sqrt(lengths[1])
        ratio = of_x / of_y * (lengths[0] / lengths[1])
        if np.all((ratio <= _ALIKE) & (ratio >= 1 / _ALIKE)):
            return Z
        of_rows, of_columns = (np.linalg.qr(each) for each in scaled)
        U, s, V = np.linalg.svd(of_rows.R @ of_columns.R.T)
        if s.size < Z.shape[1] or s[-1] <= 1e-10 * s[0]:
            middle = [float(np.median(of)) or 1.0 for of in (of_x, of_y)]
            factor = np.sqrt(middle[1] / middle[0])
            return root * np.concatenate([scaled[0] * factor, scaled[1] / factor])
        sides = (of_rows.Q @ (U * np.sqrt(s)), of_columns.Q @ (V.T * np.sqrt(s)))
        return root * np.concatenate([*sides])


def balanced_within(
    Z: NDArray[Any], split: int, low: NDArray[Any], high: NDArray[Any]
) -> NDArray[Any]:
    """The same for a Z that must stay within bounds.

    If the balanced factors do not, positive multiples of the columns of Z are tried. They have its
    signs. If they are not within the bounds either, Z stays as it is.
    """
    found = balanced(Z, split)
    if found is Z:
        return Z
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        largest = [np.max(np.abs(each), axis=0) for each in (Z[:split], Z[split:])]
        factor = np.sqrt(largest[1]) / np.sqrt(largest[0])
        factor = np.where((factor > 0) & (factor < np.inf), factor, 1.0)
        multiples = np.concatenate([Z[:split] * factor, Z[split:] / factor])
    for each in (found, multiples):
        if np.all((low <= each) & (each <= high)):
            return each
    return Z
