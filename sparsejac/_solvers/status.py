"""The statuses of solvers: numbers with names, and a message for each."""

from __future__ import annotations

import enum
from typing import Any, Self

_NO_TOTAL_SUPPORT = 'A has no total support, if support="check" has not ruled that out'


class Status(enum.IntEnum):
    """A status number with the template of its message.

    The message lists likely causes, the likeliest first.
    """

    template: str

    def __new__(cls, number: int, template: str) -> Self:
        member = int.__new__(cls, number)
        member._value_ = number
        member.template = template
        return member

    def message(self, **values: Any) -> str:
        return self.template.format(**values)


class FitStatus(Status):
    """How a fit ended."""

    MAX_ITER = (
        0,
        (
            "the maximum of {nit} iterations was reached: optimality is {optimality:.2g}, tol is "
            "{tol:.2g}; likely causes: max_iter is small; the cost falls while some x grow "
            "without bound and others vanish; tol is too small"
        ),
    )
    CONVERGED = 1, "converged: optimality {optimality:.2g} is at most tol, {tol:.2g}"
    ROUNDING = (
        2,
        (
            "rounding prevents further progress: optimality is {optimality:.2g}, tol is "
            "{tol:.2g}; likely causes: tol is below what rounding allows; entries of A or Y "
            "differ widely in size; entries of x0, or bounds, are far larger than x need be"
        ),
    )
    OUT_OF_RANGE = (
        3,
        (
            "squares of A, Y or F leave the range of float64, so cost and gradient are not "
            "reliable: multiply A by p and Y by q, powers of two that bring their largest entries "
            "near 1, and multiply the resulting x by √(p / q); less likely causes: an entry of A, "
            "Y or x0 is not a finite number; entries of x0, or bounds, are far larger than x need "
            "be"
        ),
    )
    SADDLE = (
        4,
        (
            "optimality {optimality:.2g} is at most tol, {tol:.2g}, but this is a saddle that "
            "could not be left: the Hessian's least Ritz value is {curvature:.2g} of its norm; "
            "likely causes: the cost falls by less than rounding in that direction; tol is too "
            "large to distinguish that curvature from zero"
        ),
    )
    DIVERGES = (
        5,
        (
            "some x seem to grow without bound while the cost falls ever more slowly, so these "
            "data have no best x: after {nit} iterations, the optimality is {optimality:.2g}, tol "
            "is {tol:.2g}; add regularization, or bounds that limit x; a less likely cause: "
            "max_iter is small"
        ),
    )
    CALLBACK = 99, "stopped by the callback"


class ScalingStatus(Status):
    """How a scaling ended."""

    MAX_PRODUCTS = (
        0,
        (
            "max_products = {limit} was reached: the residual is {residual:.2g}, tol is "
            f"{{tol:.2g}}; likely causes: max_products is small; {_NO_TOTAL_SUPPORT}"
        ),
    )
    CONVERGED = 1, "converged: the residual {residual:.2g} is at most tol, {tol:.2g}"
    ROUNDING = (
        2,
        (
            "rounding prevents further progress: the residual is {residual:.2g}, tol is "
            f"{{tol:.2g}}; likely causes: tol is below what rounding allows; {_NO_TOTAL_SUPPORT}"
        ),
    )
    OUT_OF_RANGE = (
        3,
        (
            "{numbers} leaves the range of numbers: the residual was {residual:.2g}, tol is "
            f"{{tol:.2g}}; likely causes: {_NO_TOTAL_SUPPORT}; entries of A, or targets, differ "
            "too widely in size; with check_finite=False, an entry of A is not a finite number"
        ),
    )
    NO_SUPPORT = 4, "no scaling exists, as A has no support: {why}"
    NO_TOTAL_SUPPORT = 5, "no scaling exists, as A has support, but no total support: {why}"
    ENTRIES_DROPPED = (
        6,
        (
            "scaled after dropping entries, and A itself is not: {scales} A without them to a "
            "residual of {dropped:.2g}, tol is {tol:.2g}, but that of A is {residual:.2g}"
        ),
    )
    IN_PART = 7, "scaled in part: {why}"
    NOTHING_KEPT = 8, "no scaling exists: every {noun} is left out"
    CALLBACK = 99, "stopped by the callback"
