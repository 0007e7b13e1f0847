"""Whole problems for Hypothesis: an A in any form, options, and x; and what is refused for them."""

import contextlib
import pathlib
import tempfile
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from forms import (
    DTYPES,
    MEMORY,
    QUICK_DTYPES,
    RARE,
    SPARSE,
    STREAMED,
    STRUCTURES,
    Forms,
    Matrix,
    garbage,
    handed,
    is_by_columns,
    is_streamed,
    matrix,
    mirrored,
    small,
)
from hypothesis import strategies as st

from sparsejac import _validation, builder
from sparsejac._backends import budget, partition, protocol, threads
from sparsejac._matrix import contact_map, csr, dense, memory, numbers
from sparsejac._operators import assembly, hermitian
from sparsejac._system import recycling

# --- problems -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Problem:
    """A, how it is handed over, and x."""

    whole: Matrix  # what A stands for: both triangles
    form: str
    given: Matrix  # what is handed over: A, or one triangle of it
    options: dict  # of JacobianBuilder
    x: np.ndarray
    x_form: str
    blocks: int | None  # entries of a block, or None for the usual constants
    tight: bool  # the least `memory`
    swapped: bool
    quick: bool = field(repr=False)
    seed: int = field(repr=False)

    @property
    def uplo(self):
        return "U" if self.form == "cool" else self.options.get("uplo")

    @property
    def order(self):
        return self.options.get("order", "C")

    @property
    def bilinear(self):
        return self.options.get("bilinear", False)

    @property
    def rank(self):
        return self.options.get("rank")

    @property
    def sparse(self):
        return self.form in SPARSE

    @property
    def streamed(self):
        return is_streamed(self.form, self.given)

    def rows(self, default="all"):
        return self.options.get("rows") or ("upper" if self.uplo else default)

    def by_columns(self):
        return is_by_columns(self.form, self.given.shape)

    def lower_is_read(self, by_columns=None):
        """Whether the lower triangle of a symmetric A is read, and stands for the upper one."""
        by_columns = self.streamed and self.by_columns() if by_columns is None else by_columns
        return self.uplo == "L" if self.uplo else (self.order == "F") != by_columns

    def stored(self, default="all", by_columns=None):
        """Which entries have rows. Of a symmetric A, zeros may be stored in one triangle only."""
        stored = self.whole.stored
        if self.rows(default) != "upper" or stored.shape[0] != stored.shape[1]:
            return stored
        return mirrored(stored.T if self.lower_is_read(by_columns) else stored)

    def hand_over(self, forms):
        return handed(self.form, self.given, forms, swapped=self.swapped)

    def refused(self, default="all"):
        """The type and a part of the message if there is no builder, or None."""
        rows = self.rows(default)
        if self.bilinear and self.form == "function":
            return TypeError, "A must not be a function with bilinear=True"
        if self.form == "cool" and rows != "upper":
            return ValueError, 'rows must be "upper" for a contact map'
        if self.form == "cool" and self.options.get("uplo") == "L":
            return ValueError, 'uplo must be "U" for a contact map'
        if self.bilinear and (self.uplo or rows == "upper"):
            return ValueError, "is for a symmetric A, and with bilinear=True"
        if self.streamed and self.uplo and rows != "upper":
            return ValueError, 'rows must be "upper" for an A that is read from disk'
        if rows == "upper" and not (self.uplo or np.array_equal(*self._both_ways())):
            return ValueError, 'rows="upper" needs a symmetric A, but '
        stored = self.given.stored
        one_sided = rows == "upper" and not self.uplo and not np.array_equal(stored, stored.T)
        if one_sided and self.sparse and self.streamed and self.by_columns():
            return ValueError, "each triangle must have the entries of the other one"
        return None

    def _both_ways(self):
        return self.whole.numbers, self.whole.numbers.T

    def in_order(self, by_columns=None, default="all"):
        """Whether J's rows follow the rows that a file stores. They always do in memory."""
        if by_columns is None:
            if not self.streamed:
                return True
            by_columns = self.by_columns()
        rows = self.rows(default)
        if min(self.whole.shape) <= 1 or (rows == "upper" and not self.uplo):
            return True
        wanted = self.order == "F"
        if rows == "upper":
            wanted = (self.uplo == "U") != (self.order == "C")
        return by_columns == wanted


def wrong_order(problem, by_columns):
    """The message for what needs J's rows in the order of the file."""
    ours, theirs = ("columns", "rows") if by_columns else ("rows", "columns")
    other = "C" if problem.order == "F" else "F"
    return f'A is stored by {ours}, and this needs its {theirs}: take order="{other}"'


@st.composite
def problems(draw, quick, *, real=False):
    sources = [*MEMORY] if quick else [*MEMORY, *RARE, *STREAMED, *STREAMED]
    form, seed = draw(st.sampled_from(sources)), draw(st.integers(0, 2**32 - 1))
    rank = draw(st.sampled_from([None, None, None, 2] if quick else [None, None, 1, 2, 3, 5]))
    bilinear = draw(st.sampled_from([False, False, False, rank is not None or not quick]))
    rows = draw(st.sampled_from([None, "all", "stored", "upper"]))
    uplo = draw(st.sampled_from([None, None, "U", "L"])) if form != "cool" else None
    if form == "cool":
        rows, bilinear = draw(st.sampled_from([None, "upper", "upper", "all"])), False
    if bilinear and draw(st.integers(0, 9)):  # else it is refused
        uplo, rows = None, rows if rows != "upper" else None
    size = (
        st.integers(form == "cool", 9)
        if quick or form == "cool"
        else st.sampled_from([*range(13), 17, 33])
    )
    shape = (draw(size),) * 2 if not bilinear else (draw(size), draw(size))
    dtypes = QUICK_DTYPES if quick else ["int32", "float64"] if form == "cool" else DTYPES
    if real:
        dtypes = [dtype for dtype in dtypes if "complex" not in dtype]
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    if quick and form in SPARSE:  # others need rare kernels
        dtype = np.dtype("float64")
    if form == "list":
        dtype = np.dtype("complex128" if dtype.kind == "c" else "float64")
    likely = (
        [True] if quick and rows == "upper" else [True, True, True, False]
    )  # else it is refused
    if rows != "upper":
        likely = [True, False]
    symmetric = shape[0] == shape[1] and (
        uplo is not None or form == "cool" or draw(st.sampled_from(likely))
    )
    whole = matrix(
        draw(st.sampled_from(STRUCTURES)),
        shape, dtype, seed, symmetric=symmetric, sparse=form in SPARSE,
    )  # fmt: skip
    if symmetric and uplo is None and form in SPARSE - {"cool"} and not draw(st.integers(0, 3)):
        lost = np.random.default_rng(seed + 2).random(shape) < 0.5
        whole = replace(whole, stored=whole.stored & ~(lost & (whole.numbers == 0)))
    options = {"rank": rank, "bilinear": bilinear, "rows": rows, "uplo": uplo}
    options |= {
        "order": draw(st.sampled_from("CF")),
        "workers": draw(st.sampled_from([None, 1, 3])),
    }
    options = {name: value for name, value in options.items() if value not in (None, False)}
    x_dtypes = ["float64"] if quick else ["float64", "int8", "bool", "float32", "complex128"]
    if real:
        x_dtypes = [name for name in x_dtypes if "complex" not in name]
    x_dtype, x_forms = (
        draw(st.sampled_from(x_dtypes)),
        ["C", "C", "F", "reversed", "swapped", "list"],
    )
    x = small(_shape_of_x(shape, rank, bilinear=bilinear), x_dtype, np.random.default_rng(seed + 1))
    return Problem(
        whole, form, _given(whole, uplo, form), options, x,
        draw(st.sampled_from(x_forms)),
        draw(st.sampled_from([None, 1, 3, 20, 100])),
        draw(st.booleans()), draw(st.booleans()) and not quick, quick, seed,
    )  # fmt: skip


def _shape_of_x(shape, rank, *, bilinear):
    count = sum(shape) if bilinear else shape[0]
    return (count, rank) if rank else (count,)


def _given(whole, uplo, form):
    if uplo is None or whole.shape[0] != whole.shape[1]:
        return whole
    held = np.tri(len(whole.numbers), dtype=bool)
    held = held.T if uplo == "U" else held
    if form in SPARSE:
        part = np.where(held, whole.numbers, np.zeros_like(whole.numbers))
        return Matrix(part, whole.stored & held)
    unread = garbage(whole.numbers.dtype)
    return Matrix(np.where(held, whole.numbers, unread).astype(whole.numbers.dtype), whole.stored)


def point(problem, x=None):
    """x in the layout that was drawn."""
    x = problem.x if x is None else x
    form = problem.x_form
    if not x.size or (form == "list" and x.dtype in (np.float32, np.complex64)):
        form = "C"  # a list has no single precision
    return {
        "C": x.copy,
        "F": lambda: np.asfortranarray(x),
        "reversed": lambda: np.ascontiguousarray(x[::-1])[::-1],
        "swapped": lambda: x.astype(x.dtype.newbyteorder()),
        "list": x.tolist,
    }[form]()


@st.composite
def row_sums(draw, quick):
    """A problem whose options are those of RowSums, and which of A's entries count."""
    drawn = draw(problems(quick, real=True).filter(lambda drawn: not drawn.rank and _is_sum(drawn)))
    k = len(drawn.x)
    options = {"ignore_diags": draw(st.integers(0, k + 1))}
    options |= {name: drawn.options[name] for name in ("uplo", "workers") if name in drawn.options}
    i, j = np.indices(drawn.whole.shape)
    counts = abs(i - j) >= options["ignore_diags"]
    if draw(st.booleans()):
        sizes, groups = st.integers(1, max(k, 1)), []
        while len(groups) < k:
            groups += [len(groups)] * draw(sizes)
        options["groups"], labels = groups[:k], np.array(groups[:k], int)
        options["pairs"] = draw(st.sampled_from(["all", "within", "between"]))
        alike = labels[:, np.newaxis] == labels
        counts &= {"all": True, "within": alike, "between": ~alike}[options["pairs"]]
    return RowSumsProblem(**{**vars(drawn), "options": options}), counts


def _is_sum(drawn):
    return not drawn.bilinear


class RowSumsProblem(Problem):
    """A symmetric A, one side of whose diagonal is read."""

    def rows(self, default="all"):  # it has none
        return "upper"

    def refused(self, default="all"):  # as above
        if not (self.uplo or np.array_equal(*self._both_ways())):
            return ValueError, "A must be symmetric, but|RowSums needs a symmetric A, but"
        return None

    def lower_is_read(self, by_columns=None):  # as above
        return self.uplo == "L"


# --- the constants at which the library begins another block --------------------------------------


@contextlib.contextmanager
def environment(problem):
    """A folder for files, and blocks of so many entries, so that few numbers are many blocks."""
    count = problem.blocks
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        if count is not None:
            for owner, name, value in [
                (budget, "BLOCK", 8 * count),
                (partition, "_PIECE", count),
                (partition, "_LARGE_PIECE", count),
                (threads, "_INLINE", count),
                (threads, "_CONTIGUOUS", 8 * count),
                (csr, "_COLUMNS", count),
                (memory, "_TILE", count % 7 + 1),
                (memory, "_ENTRIES", count),
                (hermitian, "_BLOCK", count),
                (contact_map, "_PIECE", count),
                (dense, "_SMALL", count),
                (numbers, "_PIECE", 8 * count),
                (builder, "_BLOCK", 24 * count),
                (_validation, "LARGE", count),
                (recycling, "LARGE", count),
            ]:
                assert hasattr(owner, name)
                patch.setattr(owner, name, value)
        yield Forms(pathlib.Path(folder))


@contextlib.contextmanager
def stores_past_caches():
    """Results are written past the caches, as only large ones are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembly.Assembly, "caches", 0)
        patch.setattr(protocol, "CACHES", 0)
        patch.setattr(protocol, "maps_go_past_caches", lambda: True)
        yield
