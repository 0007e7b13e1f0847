"""A Y beside the A of a drawn problem, in any form, and what is refused for the two together."""

from dataclasses import dataclass, replace

import numpy as np
from forms import (
    MEMORY,
    QUICK_DTYPES,
    RARE,
    REAL_DTYPES,
    SPARSE,
    STREAMED,
    STRUCTURES,
    VECTORS,
    Matrix,
    handed,
    is_by_columns,
    is_streamed,
    matrix,
)
from hypothesis import strategies as st
from problems import wrong_order

LOSSES = ["soft_l1", "huber", "cauchy", "arctan"]
DIFFERENT_ORDERS = "Y must be stored as A is, which is read along its"
LOWER_IS_READ = 'rows="upper" reads the lower triangles of A and Y here'
OUTSIDE = "Y has [0-9]+ entries that are not zero where A stores none"


@dataclass(frozen=True, eq=False)
class Target:
    """Y, and how it is handed over."""

    form: str
    given: Matrix  # as it is handed over: whole, or one triangle
    options: dict  # of LeastSquares, without those of the builder

    @property
    def streamed(self):
        """Whether it is read block by block, along an axis of its own."""
        return self.form not in VECTORS and is_streamed(self.form, self.given)

    @property
    def by_columns(self):
        return is_by_columns(self.form, self.given.shape)

    @property
    def numbers(self):
        return self.given.numbers

    def is_zero(self, triangle):
        return not np.any(triangle(self.numbers))

    @property
    def zero_below(self):
        return self.is_zero(lambda B: np.tril(B, -1))

    @property
    def zero_above(self):
        return self.is_zero(lambda B: np.triu(B, 1))

    @property
    def is_symmetric(self):
        return np.array_equal(self.numbers, self.numbers.T)


def stored(problem, target):
    """Which entries have rows."""
    return problem.stored("stored", bool(reads_by_columns(problem, target)))


def hand_over(problem, target, pairs, forms):
    """Y in its form. A vector has a number for each row of J."""
    if target.form not in VECTORS:
        return handed(target.form, target.given, forms)
    numbers = compared(problem, target)
    vector = np.array([numbers[i, j] for i, j in pairs], numbers.dtype)
    return {
        "vector": lambda: vector,
        "strided vector": lambda: np.repeat(vector, 2)[::2],
        "mapped vector": lambda: forms.mapped(vector),
    }[target.form]()


def compared(problem, target):
    """The numbers of Y that F is compared with."""
    Y = target.numbers
    if problem.rows("stored") == "upper" and target.form != "cool":
        if target.zero_below and not target.is_symmetric:
            return Y
        if target.zero_above and not target.is_symmetric:
            return Y.T
    return Y


def reads_by_columns(problem, target):
    """The axis along which A and Y are read, or None if both are in memory."""
    if problem.streamed:
        return problem.by_columns()
    return target.by_columns if target.streamed else None


def in_order(problem, target):
    by_columns = reads_by_columns(problem, target)
    return by_columns is None or problem.in_order(by_columns, "stored")


def message_of_order(problem, target):
    return wrong_order(problem, reads_by_columns(problem, target))


def refused(problem, target):
    """The type and a part of the message if there is no problem, or None."""
    if problem.bilinear and target.form == "function":
        return TypeError, "Y must not be a function with bilinear=True"
    found = problem.refused("stored")
    if found is not None:
        return found
    if target.form not in VECTORS:
        message = _upper(problem, target) if _is_upper(problem) else _whole(problem, target)
        if message is not None:
            return ValueError, message
    message = _orders(problem, target)
    return (ValueError, message) if message is not None else None


def _is_upper(problem):
    return problem.rows("stored") == "upper"


def _whole(problem, target):
    """All of Y is compared, so it must not be one triangle beside one of A."""
    is_triangle = problem.uplo is not None and target.zero_below != target.zero_above
    if target.form == "cool" or is_triangle:
        side = "upper" if target.form == "cool" or target.zero_below else "lower"
        return f"Y must be whole for .*, but it holds its {side} triangle only"
    return None


def _upper(problem, target):
    """The upper triangle is compared, so Y must be symmetric, or hold that triangle."""
    lower = reads_lower(problem, target)
    if target.form == "cool":
        return LOWER_IS_READ if lower else None
    if target.is_symmetric:
        return None
    if target.zero_above:
        fine = problem.uplo == "L" and (lower or not target.streamed)
        return None if fine else "but this Y holds its lower triangle only"
    if not target.zero_below:
        return "Y must be symmetric or zero below its diagonal"
    return LOWER_IS_READ if target.streamed and lower else None


def reads_lower(problem, target):
    """Whether the lower triangles of files are read."""
    return problem.lower_is_read(bool(reads_by_columns(problem, target)))


def _orders(problem, target):
    """A and Y must be read along one axis."""
    if target.form in VECTORS:
        if not problem.streamed:
            return None
        size = problem.whole.numbers.size
        every = problem.rows("stored") == "all" or not problem.sparse
        every = every and not (_is_upper(problem) and problem.whole.shape[0] > 1)
        in_memory = target.form != "mapped vector" or not size
        fine = in_order(problem, target) or (every and in_memory)
        return None if fine else f"{DIFFERENT_ORDERS} .*Y is a vector"
    if target.streamed and problem.streamed and problem.by_columns() != target.by_columns:
        return f"{DIFFERENT_ORDERS} .*Y can be read only along"
    return None


def is_outside(problem, target):
    """Whether Y has a number where A stores none, which is refused, for a streamed A or Y by the
    first pass.
    """
    if not problem.sparse:
        return False
    Y, stored = compared(problem, target), problem.whole.stored
    if target.form in VECTORS:
        return problem.rows("stored") == "all" and bool(np.any(Y[~stored]))
    if problem.uplo and _is_upper(problem):
        return bool(np.any(np.triu(Y)[~stored]))
    lower = _is_upper(problem) and reads_lower(problem, target)
    return bool(np.any((target.numbers.T if lower else target.numbers)[~stored]))


@st.composite
def targets(draw, problem, quick):
    likely = [True, True, True, False] if _is_upper(problem) else [True, False]
    is_square = problem.whole.shape[0] == problem.whole.shape[1]
    symmetric = is_square and draw(st.sampled_from(likely))
    forms = [*MEMORY, *VECTORS[:2]] if quick else [*MEMORY, *RARE, *STREAMED, *STREAMED, *VECTORS]
    form = draw(st.sampled_from(forms))
    if form == "cool" and not (symmetric and problem.whole.shape[0]):
        form = "csr"
    dtypes = QUICK_DTYPES if quick else ["int32", "float64"] if form == "cool" else REAL_DTYPES
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    if quick and (form in SPARSE or (problem.sparse and dtype.kind == "b")):
        dtype = np.dtype("float64")
    if form == "list":
        dtype = np.dtype("float64")
    kind, seed = draw(st.sampled_from(STRUCTURES)), draw(st.integers(0, 2**32 - 1))
    found = matrix(
        kind, problem.whole.shape, dtype, seed, symmetric=symmetric, sparse=form in SPARSE
    )
    if problem.sparse and draw(st.integers(0, 9)):  # else numbers outside are refused
        found = replace(found, numbers=np.where(problem.whole.stored, found.numbers, 0))
    if draw(st.booleans()) and form in SPARSE:  # the structure of A
        found = Matrix(np.where(problem.whole.stored, found.numbers, 0), problem.whole.stored)
    part = (
        draw(st.sampled_from(["whole", "whole", "upper", "lower"])) if form != "cool" else "whole"
    )
    if part != "whole":
        held = np.tri(*found.shape, dtype=bool)
        held = held.T if part == "upper" and held.shape[0] == held.shape[1] else held
        found = Matrix(np.where(held, found.numbers, 0), found.stored)
    found = replace(found, numbers=found.numbers.astype(dtype))
    loss = draw(st.sampled_from(["linear"] if quick else ["linear", "linear", *LOSSES]))
    options = (
        {} if loss == "linear" else {"loss": loss, "f_scale": draw(st.sampled_from([0.5, 2.0]))}
    )
    return Target(form, found, options)


# --- losses ---------------------------------------------------------------------------------------


def loss_terms(options, r):
    """``½ C² ρ(z)``, ρ'(z) and ``ρ'(z) + 2 z ρ''(z)`` for ``z = r²/C²``, number by number."""
    scale = options.get("f_scale", 1.0)
    found = np.zeros((3, len(r)))
    for place, number in enumerate(r.tolist()):
        z = (number / scale) ** 2
        if options.get("loss", "linear") == "linear":
            rho, slope, bend = z, 1.0, 0.0
        elif options["loss"] == "soft_l1":
            rho, slope, bend = 2 * ((1 + z) ** 0.5 - 1), (1 + z) ** -0.5, -((1 + z) ** -1.5) / 2
        elif options["loss"] == "huber":
            inside = z <= 1
            rho, slope = (z, 1.0) if inside else (2 * z**0.5 - 1, z**-0.5)
            bend = 0.0 if inside else -(z**-1.5) / 2
        elif options["loss"] == "cauchy":
            rho, slope, bend = float(np.log1p(z)), 1 / (1 + z), -1 / (1 + z) ** 2
        else:
            rho, slope = float(np.arctan(z)), 1 / (1 + z**2)
            bend = -2 * z / (1 + z**2) ** 2
        found[:, place] = scale**2 * rho / 2, slope, slope + 2 * z * bend
    return found
