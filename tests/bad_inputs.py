"""Inputs that must be refused, as data: for each the error's type and a part of its message.

A group has the calls that take an argument, and the values that it must not have. Each value is
tried with each call, unless `but` names the call, with other words, or with None if it is accepted.
"""

# ruff: noqa: E501  # a line is an input

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse
from scipy.optimize import Bounds
from scipy.sparse.linalg import aslinearoperator

from sparsejac import (
    JacobianBuilder,
    LeastSquares,
    RowSums,
    fit,
    jacobian,
    row_column_scaling,
    symmetric_scaling,
)
from sparsejac.testing import check_jacobian, dense_jacobian

K = 4
A = np.arange(16.0).reshape(K, K) % 5 + 1 + np.arange(16.0).reshape(K, K).T % 5
S = scipy.sparse.csr_array(np.triu(A) % 3)
X = np.ones(K)
M = K * K


class Bad(NamedTuple):
    what: str
    make: object  # () -> the value
    error: type | tuple
    words: str  # parts of the message, in this order, with … between them
    but: dict = {}  # other words, or None, for some of the calls  # noqa: RUF012


class Group(NamedTuple):
    argument: str  # its name in messages
    calls: dict  # name -> a function of the value
    bad: list


def entry(value, i=1, j=2, of=A):
    """A copy of A with another entry."""
    B = of.astype(np.result_type(of, type(value)))
    B[i, j] = value
    return B


def sparse_with(form="csr", **arrays):
    """A sparse array whose arrays were replaced after it was made, so that nobody checked them."""
    B = S.asformat(form, copy=True)
    for name, array in arrays.items():
        setattr(B, name, array)
    return B


def at(array, place, value):
    array = array.copy()
    array[place] = value
    return array


def quiet(make):
    """Make a value without NumPy's or SciPy's warnings."""

    def made():
        with warnings.catch_warnings(action="ignore"):
            return make()

    return made


class Rows:
    """An object with rows, some of whose attributes are wrong."""

    def __init__(self, shape=(K, K), dtype=A.dtype, rows=lambda key: A[key]):
        self.shape, self.dtype, self._rows = shape, dtype, rows

    def __getitem__(self, key):
        return self._rows(key)


def raising(i0, i1):
    raise ArithmeticError("no such rows")


NOT_NUMBERS = [
    ("object", lambda: A.astype(object)),
    ("text", lambda: A.astype(str)),
    ("bytes", lambda: A.astype("S3")),
    ("dates", lambda: A.astype("M8[s]")),
    ("times", lambda: A.astype("m8[s]")),
    ("float16", lambda: A.astype(np.float16)),
    ("longdouble", lambda: A.astype(np.longdouble)),
    ("clongdouble", lambda: A.astype(np.clongdouble)),
    ("records", lambda: np.zeros((K, K), [("a", "f8")])),
]
NO_ARRAYS = [
    ("None", lambda: None),
    ("a set", lambda: {1.0}),
    ("a mapping", lambda: {0: A}),
    ("a generator", lambda: (row for row in A)),
    ("a class", lambda: np.ndarray),
    ("an object", object),
    ("a slice", lambda: slice(3)),
]

# --- A --------------------------------------------------------------------------------------------

TARGET = np.ones((K, K))
OF_A = {
    "JacobianBuilder": JacobianBuilder,
    "jacobian": lambda A: jacobian(A, X),
    "LeastSquares": lambda A: LeastSquares(A, TARGET),
    "fit": lambda A: fit(A, TARGET),
    "RowSums": RowSums,
    "symmetric_scaling": symmetric_scaling,
    "row_column_scaling": row_column_scaling,
    "dense_jacobian": lambda A: dense_jacobian(A, X),
    "check_jacobian": check_jacobian,
}
STREAMING = ("JacobianBuilder", "jacobian", "LeastSquares", "fit", "RowSums", "symmetric_scaling")
IN_MEMORY = ("row_column_scaling", "dense_jacobian", "check_jacobian")
ANY_SHAPE = {"row_column_scaling": None}
NOT_FINITE = {"dense_jacobian": None}  # it computes with them
NO_ARRAY = dict.fromkeys(IN_MEMORY, "A must be a NumPy array or a SciPy sparse array or matrix")
INCONSISTENT = {
    "dense_jacobian": "A has an inconsistent",
    "check_jacobian": "A has an inconsistent",
}

BAD_A = [
    Bad("2x3", lambda: np.ones((2, 3)), ValueError,
        "A must be a square matrix, got shape (2, 3)…pass bilinear=True", ANY_SHAPE),
    Bad("sparse 2x3", lambda: scipy.sparse.csr_array((2, 3)), ValueError,
        "A must be a square matrix, got shape (2, 3)", ANY_SHAPE),
    *(Bad(what, make, ValueError, f"A must be a square matrix, got shape {shape}",
        {"row_column_scaling": f"A must be a matrix with rows and columns, got shape {shape}"})
      for what, make, shape in [
        ("a vector", lambda: X, "(4,)"),
        ("three axes", lambda: np.ones((2, 2, 2)), "(2, 2, 2)"),
        ("a number", lambda: 3.0, "()"),
        ("an empty list", list, "(0,)"),
        ("a sparse vector", lambda: scipy.sparse.coo_array([1.0, 2.0]), "(2,)"),
      ]),
    *(Bad(what, quiet(make), TypeError, "A must have a dtype among bool, integers, float32…got…: convert it")
      for what, make in NOT_NUMBERS),
    *(Bad(what, make, TypeError, "A must be a", NO_ARRAY) for what, make in NO_ARRAYS),
    Bad("ragged", lambda: [[1.0], [1.0, 2.0]], ValueError, "A must be a rectangular array of numbers"),
    Bad("words", lambda: [["a", "b"], ["c", "d"]], TypeError, "A must have a dtype among…got <U1"),
    Bad("masked", lambda: np.ma.masked_equal(A, 3), TypeError, "A is a masked array…pass A.filled(0)"),
    Bad("a data frame", lambda: pd.DataFrame(A), TypeError,
        "A must be a NumPy array…got pandas.DataFrame: pass np.asarray(A)"),
    Bad("a series", lambda: pd.Series(X), TypeError, "A must be a NumPy array…got pandas.Series"),
    Bad("an operator", lambda: aslinearoperator(A), TypeError, "A must be a", NO_ARRAY),
    *(Bad(f"dense with {value}", lambda value=value: entry(value), ValueError,
        f"A must be finite, but A[1, 2] = {value}: pass check_finite=False", NOT_FINITE)
      for value in (np.nan, np.inf, -np.inf)),
    *(Bad(f"{form} with NaN", lambda form=form: sparse_with("csr", data=at(S.data, 3, np.nan)).asformat(form),
        ValueError, "A must be finite, but A[…] = nan: pass check_finite=False", NOT_FINITE)
      for form in ("csr", "csc", "coo")),
    Bad("an index too large", lambda: sparse_with(indices=at(S.indices, 1, 9)), ValueError,
        "A has an inconsistent csr structure: row 1 has an index outside 0…build it anew"),
    Bad("a negative index", lambda: sparse_with(indices=at(S.indices, 1, -1)), ValueError,
        "A has an inconsistent csr structure: row 1 has an index outside 0"),
    Bad("pointers that fall", lambda: sparse_with(indptr=at(S.indptr, 1, 7)), ValueError,
        "A has an inconsistent csr structure: indptr must start at 0, not decrease"),
    Bad("a last pointer that is negative", lambda: sparse_with(indptr=at(S.indptr, -1, -1)), ValueError,
        "A has an inconsistent csr structure"),
    Bad("pointers that start late", lambda: sparse_with(indptr=at(S.indptr, 0, 1)), ValueError,
        "A has an inconsistent csr structure: indptr must start at 0"),
    Bad("pointers of another matrix", lambda: sparse_with(indptr=S.indptr[:-1]), ValueError,
        "A has an inconsistent csr structure: indptr has 4 elements instead of 5"),
    Bad("fewer numbers", lambda: sparse_with(data=S.data[:-1]), ValueError,
        "A has an inconsistent csr structure"),
    Bad("indices of floats", lambda: sparse_with(indices=S.indices + 0.5), ValueError,
        "A has an inconsistent csr structure: its index arrays are float64 and int32"),
    Bad("numbers of two axes", lambda: sparse_with(data=S.data[:, np.newaxis]), ValueError,
        "A has an inconsistent csr structure: its data has 2 dimensions instead of 1"),
    Bad("csc with an index too large", lambda: sparse_with("csc", indices=at(S.tocsc().indices, 0, 4)),
        ValueError, "A has an inconsistent csc structure: column 0 has an index outside 0"),
    Bad("coo with an index too large", lambda: sparse_with("coo", coords=(S.tocoo().row + 4, S.tocoo().col)),
        ValueError, "A has an inconsistent coo structure: it has an index i outside 0"),
    Bad("sparse float16", quiet(lambda: sparse_with(data=S.data.astype(np.float16))), TypeError,
        "A must have a dtype among…got float16"),
    Bad("sparse longdouble", lambda: S.astype(np.longdouble), TypeError,
        "A must have a dtype among…got…128"),
    Bad("no such file", lambda: "missing.npy", FileNotFoundError, "missing.npy",
        dict.fromkeys(IN_MEMORY, (TypeError, "A must be a NumPy array…got str"))),
    Bad("a path of an unknown format", lambda: Path("A.txt"), ValueError,
        "A may be the path of a .npy, a .cool, or a folder…read it with sparsejac.io.read_matrix",
        dict.fromkeys(IN_MEMORY, (TypeError, "A must be a NumPy array"))),
    Bad("a folder that is no matrix", lambda: ".", ValueError,
        "is not the folder of a CSR matrix…write it anew",
        dict.fromkeys(IN_MEMORY, (TypeError, "A must be a NumPy array…got str"))),
    Bad("no such map", lambda: "missing.cool", FileNotFoundError, "missing.cool",
        dict.fromkeys(IN_MEMORY, (TypeError, "A must be a NumPy array…got str"))),
]  # fmt: skip
# --- A that is read by rows -----------------------------------------------------------------------

BY_ROWS = {name: OF_A[name] for name in STREAMING if name[0] not in "JL"} | {
    "value": lambda A: JacobianBuilder(A).value(X),
    "hess": lambda A: LeastSquares(A, TARGET).hess(X),
}
BAD_ROWS = [
    Bad("one row too few", lambda: lambda i0, i1: A[i0 : max(i1 - 1, i0)], ValueError,
        "A must return rows 0 to 0 as an array of shape (1, k), got shape (0, 4)"),
    Bad("rows of text", lambda: lambda i0, i1: A[i0:i1].astype(str), TypeError,
        "what A returned for rows(0, 1) must have a dtype among…got <U32: convert it to float64"),
    Bad("rows of objects", lambda: lambda i0, i1: A[i0:i1].astype(object), TypeError,
        "what A returned for rows(0, 1) must have a dtype among…got object: convert it to float64"),
    Bad("None for rows", lambda: lambda i0, i1: None, TypeError,
        "what A returned for rows(0, 1) must be a NumPy array, got NoneType"),
    Bad("a vector for rows", lambda: lambda i0, i1: A[0], ValueError,
        "A must return rows 0 to 0 as an array of shape (1, k), got shape (4,)"),
    Bad("sparse rows", lambda: lambda i0, i1: scipy.sparse.csr_array(A[i0:i1]), TypeError,
        "what A returned for rows(0, 1) must be a dense array…pass its.toarray()"),
    Bad("masked rows", lambda: lambda i0, i1: np.ma.masked_equal(A[i0:i1], 3), TypeError,
        "what A returned for rows(0, 1) is a masked array…pass its.filled(0)"),
    Bad("another dtype later", lambda: lambda i0, i1: A[i0:i1] + (0 if i1 - i0 < 2 else 0j), TypeError,
        "A must return float64 for rows(0, 4), as it did for rows(0, 1), got complex128"),
    Bad("an error", lambda: raising, ArithmeticError, "no such rows"),
    Bad("a function without arguments", lambda: lambda: A, TypeError, "takes 0 positional arguments"),
    Bad("NaN in a row", lambda: lambda i0, i1: entry(np.nan)[i0:i1], ValueError,
        "A must be finite, but A[1, 2] = nan"),
    Bad("a shape of one number", lambda: Rows(shape=(K,)), TypeError, "A must be a NumPy array"),
    Bad("a shape that is not square", lambda: Rows(shape=(K, 3)), ValueError,
        "A must be a square matrix, got shape (4, 3)"),
    *(Bad(f"the shape {shape!r}", lambda shape=shape: Rows(shape=shape), ValueError,
        f"A.shape must be integers, 0 or more, got {shape!r}")
      for shape in ("44", (4.5, 4.5), (-4, -4), (None, 4))),
    Bad("a dtype of objects", lambda: Rows(dtype=np.dtype(object)), TypeError,
        "A must have a dtype among"),
    Bad("no dtype", lambda: Rows(dtype="nonsense"), TypeError, "A must be a NumPy array"),
    Bad("fewer rows than the shape", lambda: Rows(rows=lambda key: A[:1]), ValueError,
        "A[0:4] must be float64 of shape (4, 4), as A says, got float64 of shape (1, 4)"),
]  # fmt: skip

# --- x, and vectors that an operator multiplies ---------------------------------------------------

BUILDER = JacobianBuilder(A)
PROBLEM = LeastSquares(A, TARGET)
SUMS = RowSums(A)
J = BUILDER.operator(X)
OF_X = {
    "value": BUILDER.value,
    "max_abs": BUILDER.max_abs,
    "tocsr": BUILDER.tocsr,
    "iter_csr": BUILDER.iter_csr,
    "operator": BUILDER.operator,
    "slice": lambda x: BUILDER.slice(x, 0),
    "jacobian": lambda x: jacobian(A, x),
    "fun": PROBLEM.fun,
    "jac": PROBLEM.jac,
    "jac_csr": PROBLEM.jac_csr,
    "cost": PROBLEM.cost,
    "grad": PROBLEM.grad,
    "value_and_grad": PROBLEM.value_and_grad,
    "hess": PROBLEM.hess,
    "hessp": lambda x: PROBLEM.hessp(x, X),
    "normal": PROBLEM.normal,
    "x_scale": PROBLEM.x_scale,
    "sums.value": SUMS.value,
    "sums.operator": SUMS.operator,
    "dense_jacobian": lambda x: dense_jacobian(A, x),
    "check_jacobian": lambda x: check_jacobian(A, x),
}
REAL = ("fun", "jac", "jac_csr", "cost", "grad", "value_and_grad", "hess", "hessp", "normal",
        "x_scale", "sums.value", "sums.operator")  # fmt: skip
BAD_X = [
    *(Bad(what, make, ValueError, f"x must be a vector of length 4…A is 4x4…shape {shape}")
      for what, make, shape in [
        ("too short", lambda: np.ones(3), "(3,)"),
        ("too long", lambda: np.ones(5), "(5,)"),
        ("empty", list, "(0,)"),
        ("a number", lambda: 1.0, "()"),
        ("a row", lambda: np.ones((1, 4)), "(1, 4)"),
        ("a column", lambda: np.ones((4, 1)), "(4, 1)"),
        ("a matrix", lambda: A, "(4, 4)"),
      ]),
    *(Bad(f"with {value}", lambda value=value: at(X, 2, value), ValueError,
        "x must be finite…pass check_finite=False", {"dense_jacobian": None})
      for value in (np.nan, np.inf, -np.inf)),
    *(Bad(what, quiet(lambda make=make: make()[0]), TypeError, "x must have a dtype among…got…: convert it")
      for what, make in NOT_NUMBERS if what != "records"),
    *(Bad(what, make, TypeError, "x must be a NumPy array, got") for what, make in NO_ARRAYS
      if what != "None"),
    Bad("ragged", lambda: [[1.0], [1.0, 2.0]], ValueError, "x must be a rectangular array of numbers"),
    Bad("a word", lambda: "1111", TypeError, "x must be a NumPy array, got str: pass sparsejac.io.read_vector"),
    Bad("masked", lambda: np.ma.masked_equal(X, 3), TypeError, "x is a masked array…pass x.filled(0)"),
    Bad("sparse", lambda: S[:1], TypeError, "x must be a dense array, got a sparse…pass x.toarray()"),
    Bad("a series", lambda: pd.Series(X), TypeError, "x must be a NumPy array, got pandas.Series: pass np.asarray(x)"),
]  # fmt: skip
OF_REAL_X = {name: OF_X[name] for name in REAL}
BAD_REAL_X = [
    Bad("complex", lambda: X + 1j, TypeError, "is for real numbers, and x is complex128"),
    Bad("complex64", lambda: (X + 1j).astype(np.complex64), TypeError, "is for real numbers, and x is"),
]  # fmt: skip
OF_VECTOR = {
    "J @ x": lambda v: J @ v,
    "J.matvec": J.matvec,
    "J.normal": lambda v: J.normal() @ v,
    "hess @ x": lambda v: PROBLEM.hess(X) @ v,
    "sums @ x": lambda v: SUMS.operator(X) @ v,
    "hessp": lambda v: PROBLEM.hessp(X, v),
}
BAD_VECTOR = [
    Bad("too short", lambda: np.ones(3), ValueError, "imension mismatch…must have…4…shape…(3,)"),
    *(Bad(what, quiet(lambda make=make: make()[0]), TypeError, "x must have a dtype among…got…: convert it")
      for what, make in NOT_NUMBERS if what in ("object", "text", "float16", "longdouble")),
    Bad("masked", lambda: np.ma.masked_equal(X, 3), TypeError, "x is a masked array"),
]  # fmt: skip
OF_CHECKED_VECTOR = {"J.matvec": J.matvec, "hessp": lambda v: PROBLEM.hessp(X, v)}
BAD_CHECKED_VECTOR = [
    Bad("three axes", lambda: np.ones((2, 2, 2)), ValueError, "dimension mismatch in…x must have length 4"),
    Bad("a series", lambda: pd.Series(X), TypeError, "x must be a NumPy array, got pandas.Series: pass np.asarray(x)"),
    Bad("None", lambda: None, TypeError, "x must be a NumPy array, got NoneType"),
    Bad("a word", lambda: "1111", TypeError, "x must be a NumPy array, got str"),
    Bad("ragged", lambda: [[1.0], [1.0, 2.0]], ValueError, "x must be a rectangular array"),
]  # fmt: skip
OF_ADJOINT = {
    "J.T @ w": lambda w: J.T @ w,
    "J.H @ w": lambda w: J.H @ w,
    "J.rmatvec": J.rmatvec,
}
BAD_ADJOINT = [
    Bad("too short", lambda: np.ones(4), ValueError, "imension mismatch…must have…16…shape…(4,)"),
    Bad("text", lambda: np.array(["a"] * M), TypeError, "x must have a dtype among"),
    Bad("masked", lambda: np.ma.masked_equal(np.ones(M), 3), TypeError, "x is a masked array"),
]  # fmt: skip
OF_WEIGHTS = {"hessian": BUILDER.hessian}
BAD_WEIGHTS = [
    Bad("too short", lambda: np.ones(4), ValueError, "w must be a vector of length 16, a weight for each row of J"),
    Bad("a matrix", lambda: A, ValueError, "w must be a vector of length 16…got an array of shape (4, 4)"),
    Bad("NaN", lambda: np.full(M, np.nan), ValueError, "w must be finite, but w[0] = nan: pass check_finite=False"),
    Bad("complex", lambda: np.ones(M) + 1j, TypeError, "the Hessian of wᵀF is for real numbers, and w is complex128"),
    Bad("text", lambda: np.array(["a"] * M), TypeError, "w must have a dtype among"),
    Bad("None", lambda: None, TypeError, "w must be a NumPy array, got NoneType"),
    Bad("a sparse matrix", lambda: S, TypeError, "w must be a dense array"),
]  # fmt: skip
OF_S = {"slice": lambda s: BUILDER.slice(X, s)}
BAD_S = [
    Bad("too large", lambda: 4, IndexError, "s must be the index of a variable, 0 <= s < 4, got 4"),
    Bad("negative", lambda: -1, IndexError, "s must be the index of a variable, 0 <= s < 4, got -1"),
    Bad("a float", lambda: 1.0, TypeError, "s must be an integer, the index of one variable, got 1.0"),
    Bad("text", lambda: "1", TypeError, "s must be an integer"),
    Bad("an array", lambda: np.array([0, 1]), TypeError, "s must be an integer"),
    Bad("a slice", lambda: slice(2), TypeError, "s must be an integer"),
    Bad("None", lambda: None, TypeError, "s must be an integer"),
]  # fmt: skip

# --- Y --------------------------------------------------------------------------------------------

OF_Y = {"LeastSquares": lambda Y: LeastSquares(A, Y).cost(X), "fit": lambda Y: fit(A, Y)}
SHAPE_OF_Y = "Y must be a 4x4 matrix as A is, or a vector of length 16 in the order of J's rows"
BAD_Y = [
    Bad("2x2", lambda: np.ones((2, 2)), ValueError, f"{SHAPE_OF_Y}, got shape (2, 2)"),
    Bad("a vector of k", lambda: X, ValueError, f"{SHAPE_OF_Y}, got shape (4,)"),
    Bad("a column", lambda: np.ones((M, 1)), ValueError, f"{SHAPE_OF_Y}, got shape (16, 1)"),
    Bad("a number", lambda: 1.0, ValueError, f"{SHAPE_OF_Y}, got shape ()"),
    Bad("NaN", lambda: entry(np.nan), ValueError, "Y must be finite, but Y[1, 2] = nan: leave out unknown entries"),
    Bad("inf in a vector", lambda: at(np.ones(M), 5, np.inf), ValueError, "Y must be finite, but Y[5] = inf"),
    Bad("complex", lambda: A + 1j, TypeError, "least squares is for real numbers, and Y is complex128"),
    *(Bad(what, quiet(make), TypeError, "Y must have a dtype among") for what, make in NOT_NUMBERS),
    *(Bad(what, make, TypeError, "Y must be") for what, make in NO_ARRAYS if what != "None"),
    Bad("masked", lambda: np.ma.masked_equal(A, 3), TypeError, "Y is a masked array"),
    Bad("a data frame", lambda: pd.DataFrame(A), TypeError, "Y must be a NumPy array…got pandas.DataFrame: pass np.asarray(Y)"),
    Bad("a wrong index", lambda: sparse_with(indices=at(S.indices, 1, 9)), ValueError, "Y has an inconsistent csr structure"),
    Bad("no such file", lambda: "missing.npy", FileNotFoundError, "missing.npy"),
    Bad("a path of an unknown format", lambda: Path("Y.txt"), ValueError, "Y may be the path of a .npy"),
    Bad("rows of another length", lambda: lambda i0, i1: A[i0:i1, :3], ValueError, "Y must"),
]  # fmt: skip
OF_SPARSE_Y = {"LeastSquares": lambda Y: LeastSquares(S, Y), "fit": lambda Y: fit(S, Y)}
BAD_SPARSE_Y = [
    Bad("outside the pattern", lambda: scipy.sparse.csr_array(TARGET), ValueError,
        "Y has…entries that are not zero where A stores none, the first at (0, 1)…remove them from Y"),
    Bad("dense outside", lambda: TARGET, ValueError, "Y has…entries that are not zero where A stores none"),
    Bad("a vector of another length", lambda: np.ones(M), ValueError, "Y must be a 4x4 matrix as A is, or a vector of length 4"),
]  # fmt: skip

# --- options --------------------------------------------------------------------------------------


def options(calls, name, *bad):
    """The same option of several calls."""
    return Group(name, {called: lambda value, call=call: call(**{name: value}) for called, call in calls.items()},
                 list(bad))  # fmt: skip


MAKERS = {
    "JacobianBuilder": lambda **o: JacobianBuilder(A, **o),
    "LeastSquares": lambda **o: LeastSquares(A, TARGET, **o),
    "fit": lambda **o: fit(A, TARGET, **o),
}
MATRICES = MAKERS | {
    "RowSums": lambda **o: RowSums(A, **o),
    "symmetric_scaling": lambda **o: symmetric_scaling(A, **o),
}
ITERATIVE = {
    "symmetric_scaling": MATRICES["symmetric_scaling"],
    "row_column_scaling": lambda **o: row_column_scaling(A, **o),
}
SOLVERS = {"fit": MAKERS["fit"]} | ITERATIVE
TESTING = {
    "dense_jacobian": lambda **o: dense_jacobian(A, X, **o),
    "check_jacobian": lambda **o: check_jacobian(A, **o),
}
NO_FLAG = [
    ("1", lambda: 1),
    ("None", lambda: None),
    ("text", lambda: "yes"),
    ("an array", lambda: X > 0),
]


def flags(calls, name):
    return options(calls, name, *(Bad(what, make, TypeError, f"{name} must be True or False, got")
                                  for what, make in NO_FLAG))  # fmt: skip


def integers(calls, name, needed="a positive integer", none=True):
    """An option that must be an integer, at least 1, or at least 0."""
    wrong = [1.5, 2.0, "2", True, [2], np.float64(2), *([] if none else [None])]
    low = [-1, *([0] if needed != "an integer, 0 or more" else [])]
    return options(calls, name,
        *(Bad(repr(v), lambda v=v: v, TypeError, f"{name} must be {needed}, got {v!r}") for v in wrong),
        *(Bad(repr(v), lambda v=v: v, ValueError, f"{name} must be {needed}, got {v}") for v in low),
    )  # fmt: skip


def numbers(calls, name):
    """An option that must be a real number, 0 or more."""
    return options(calls, name,
        *(Bad(repr(v), lambda v=v: v, TypeError, f"{name} must be a real number, got {v!r}")
          for v in ("1e-9", None, True, 1j, [1e-9])),
        *(Bad(repr(v), lambda v=v: v, ValueError, f"{name} must be at least 0 and finite, got {v}")
          for v in (-1e-9, np.nan, np.inf)),
    )  # fmt: skip


def choices(calls, name, *wrong):
    return options(calls, name, *(Bad(repr(v), lambda v=v: v, ValueError, f"{name} must be one of '…got {v!r}")
                                  for v in wrong))  # fmt: skip


OPTIONS = [
    choices(MAKERS | TESTING, "rows", "lower", "ALL", "", 1, ["all"]),
    choices(MAKERS | TESTING, "order", "A", "c", None, 0, b"C"),
    choices(MATRICES, "uplo", "u", "upper", 0, True),
    choices(ITERATIVE, "support", "yes", None, True, 1),
    choices({name: MAKERS[name] for name in ("LeastSquares", "fit")}, "loss", "l2", "Huber", None, abs),
    choices({"symmetric_scaling": ITERATIVE["symmetric_scaling"]}, "pairs", "cis", None, 1),
    flags(MATRICES, "check_finite"),
    flags(MATRICES | SOLVERS, "progress"),
    flags(MAKERS | TESTING, "bilinear"),
    integers(MATRICES | ITERATIVE, "workers"),
    integers(MATRICES, "memory", "a number of bytes"),
    integers(MAKERS | TESTING, "rank"),
    integers({"fit": MAKERS["fit"]}, "max_iter", none=False),
    integers(ITERATIVE, "max_products", none=False),
    integers({"symmetric_scaling": ITERATIVE["symmetric_scaling"]}, "min_nnz", "an integer, 0 or more", none=False),
    integers({"symmetric_scaling": ITERATIVE["symmetric_scaling"]}, "ignore_diags", "an integer, 0 or more", none=False),
    integers({"iter_csr": lambda **o: BUILDER.iter_csr(X, **o)}, "block_rows"),
    numbers(SOLVERS, "tol"),
    numbers({"symmetric_scaling": ITERATIVE["symmetric_scaling"]}, "min_count"),
    numbers({"fit": MAKERS["fit"]}, "regularization"),
    numbers({"normal": J.normal, "problem.normal": lambda **o: PROBLEM.normal(X, **o)}, "damping"),
    numbers({name: MAKERS[name] for name in ("LeastSquares", "fit")}, "f_scale"),
    options({name: MAKERS[name] for name in ("LeastSquares", "fit")}, "f_scale",
        Bad("0", lambda: 0, ValueError, "f_scale must be between 1e-150 and 1e150, got 0: give the size of a residual"),
        Bad("1e200", lambda: 1e200, ValueError, "f_scale must be between 1e-150 and 1e150, got 1e+200")),
    options({"fit": MAKERS["fit"], "symmetric_scaling": ITERATIVE["symmetric_scaling"]}, "callback",
        Bad("text", lambda: "print", TypeError, "callback must be callable, got 'print'"),
        Bad("a number", lambda: 3, TypeError, "callback must be callable, got 3")),
    options({"fit": MAKERS["fit"]}, "x0",
        Bad("too short", lambda: np.ones(3), ValueError, "x0 must be a vector of length 4, as A is 4x4"),
        Bad("NaN", lambda: at(X, 1, np.nan), ValueError, "x0 must be finite…x0[1] = nan"),
        Bad("complex", lambda: X + 1j, TypeError, "is for real numbers, and x0 is complex128"),
        Bad("text", lambda: "ones", TypeError, "x0 must be a NumPy array, got str"),
        Bad("a mapping", dict, TypeError, "x0 must be a NumPy array, got dict")),
    options({"fit": MAKERS["fit"]}, "bounds",
        Bad("a number", lambda: 0, TypeError, "bounds must be a pair (low, high)…got a int: pass (0, np.inf) for x"),
        Bad("one", lambda: (0,), TypeError, "bounds must be a pair (low, high)…got a tuple of length 1"),
        Bad("pairs", lambda: [(0, 1)] * K, TypeError, "bounds must be a pair (low, high)…got a list of length 4"),
        Bad("reversed", lambda: (1, 0), ValueError, "bounds must not cross, but those of x[0] are 1.0 and 0.0"),
        Bad("NaN", lambda: (np.nan, 1), ValueError, "bounds[0] must not be NaN, but it is for x[0]: pass -np.inf below"),
        Bad("None", lambda: (None, 1), TypeError, "bounds[0] must be a number or an array, got None: pass -np.inf below or np.inf above"),
        Bad("None above", lambda: (0, None), TypeError, "bounds[1] must be a number or an array, got None: pass -np.inf below or np.inf above"),
        Bad("too short", lambda: (np.zeros(3), 1), ValueError, "bounds[0] must be a number, or an array that broadcasts"),
        Bad("infinite", lambda: (np.inf, np.inf), ValueError, "bounds must leave a finite x"),
        Bad("complex", lambda: (0, 1j), TypeError, "is for real numbers, and bounds[1] is complex128"),
        Bad("text", lambda: "0,1", TypeError, "bounds must be a pair (low, high)"),
        Bad("a Bounds that crosses", lambda: Bounds(2, 1), ValueError, "bounds must not cross")),
    options({"tocsr": lambda **o: BUILDER.tocsr(X, **o)}, "out",
        Bad("an array", lambda: np.zeros((M, K)), (TypeError, ValueError), "out"),
        Bad("csc", lambda: BUILDER.tocsr(X).tocsc(), (TypeError, ValueError), "out"),
        Bad("of another builder", lambda: JacobianBuilder(A).tocsr(X), ValueError, "out"),
        Bad("a copy", lambda: BUILDER.tocsr(X).copy(), ValueError, "out"),
        Bad("another dtype", lambda: BUILDER.tocsr(X).astype(np.complex128), ValueError, "out"),
        Bad("text", lambda: "J.npz", (TypeError, ValueError), "out")),
    options({"symmetric_scaling": ITERATIVE["symmetric_scaling"]}, "mask",
        Bad("numbers of rows", lambda: [0, 1], ValueError, "mask must be a boolean for each of the 4 rows…mask[rows] = True"),
        Bad("too short", lambda: [True], ValueError, "mask must be a boolean for each of the 4 rows"),
        Bad("text", lambda: "0101", ValueError, "mask must be a boolean for each of the 4 rows")),
    options({"symmetric_scaling": ITERATIVE["symmetric_scaling"]}, "groups",
        Bad("too short", lambda: [1, 2], ValueError, "groups must be a label for each of the 4 rows"),
        Bad("a label twice", lambda: [1, 2, 1, 2], ValueError, "the rows of a group must be neighbours, but group 1 begins again at row 2"),
        Bad("NaN", lambda: [1.0, 1.0, np.nan, 2.0], ValueError, "groups must be a label for each row, but that of row 2 is missing"),
        Bad("None in it", lambda: ["a", "a", None, "b"], ValueError, "that of row 2 is missing (None)"),
        Bad("lists", lambda: [[1], [2], [3], [4]], ValueError, "groups must be labels that can be compared")),
    options({"symmetric_scaling": ITERATIVE["symmetric_scaling"]}, "pairs",
        Bad("without groups", lambda: "within", ValueError, 'pairs="within" needs groups: pass the label of each row')),
    options({"check_jacobian": TESTING["check_jacobian"]}, "J",
        Bad("another shape", lambda: A, ValueError, "J must have shape (16, 4), a row for each of the 16 entries"),
        Bad("a list", lambda: [[1.0]], ValueError, "J must have shape (16, 4)…got (1, 1)"),
        Bad("text", lambda: "J.npz", TypeError, "J must be a NumPy array, got str: pass sparsejac.io.read_matrix(J)"),
        Bad("masked", lambda: np.ma.ones((M, K)), TypeError, "J is a masked array, and its mask would be lost: pass J.filled(0)"),
        Bad("a wrong one", lambda: np.ones((M, K)), AssertionError, "J is not the Jacobian of A∘(xxᵀ) at x")),
]  # fmt: skip

# --- targets of scalings --------------------------------------------------------------------------

POSITIVE = abs(A)
OF_TARGET = {"symmetric_scaling": lambda d: symmetric_scaling(POSITIVE, d)}
BAD_TARGET = [
    *(Bad(repr(v), lambda v=v: v, ValueError, f"target must be positive and finite in every row that is kept, but it is {v}")
      for v in (0.0, -1.0, np.nan, np.inf)),
    Bad("a zero", lambda: at(X, 2, 0.0), ValueError, "target must be positive…it is 0.0 in row 2: change it, or leave the row out by mask="),
    Bad("too short", lambda: np.ones(3), ValueError, "target must be a number, or a vector of length 4 as A is 4x4, got shape (3,)"),
    Bad("complex", lambda: X + 1j, TypeError, "a scaling is for real numbers, and target is complex128: pass target.real"),
    Bad("text", lambda: "1", TypeError, "target must be a NumPy array, got str"),
    Bad("None", lambda: None, TypeError, "target must be a NumPy array, got NoneType"),
]  # fmt: skip
OF_LINES = {
    "rows": lambda d: row_column_scaling(POSITIVE, row_target=d),
}
BAD_LINES = [
    *(Bad(repr(v), lambda v=v: v, ValueError, f"row_target must be positive and finite, but it is {v} for row 0")
      for v in (0.0, -1.0, np.nan, np.inf)),
    Bad("too short", lambda: np.ones(3), ValueError, "row_target must be a number, or one number for each of A's 4 rows, got shape (3,)"),
    Bad("complex", lambda: X + 1j, TypeError, "a scaling is for real numbers, and row_target is complex128"),
]  # fmt: skip
OF_COLUMNS = {"columns": lambda d: row_column_scaling(POSITIVE, column_target=d)}
BAD_COLUMNS = [
    Bad("another sum", lambda: 2 * X, ValueError, "row_target and column_target must have the same sum…leave out column_target"),
    Bad("negative", lambda: -X, ValueError, "column_target must be positive and finite, but it is -1.0 for column 0"),
]  # fmt: skip
OF_SCALED = {
    "symmetric_scaling": symmetric_scaling,
    "row_column_scaling": row_column_scaling,
}
BAD_SCALED = [
    Bad("a negative entry", lambda: entry(-1.0, 2, 2), ValueError, "A must have no negative entries, but A[2, 2] = -1.0…pass abs(A)"),
    Bad("a sparse negative entry", lambda: -scipy.sparse.csr_array(A), ValueError, "A must have no negative entries, but A[0, 1]"),
    Bad("complex", lambda: A + 1j, TypeError, "is for real numbers, and A is complex128"),
]  # fmt: skip
OF_SYMMETRIC = {
    "rows=upper": lambda A: JacobianBuilder(A, rows="upper"),
    "fit": lambda A: fit(A, TARGET, rows="upper"),
    "symmetric_scaling": symmetric_scaling,
}
BAD_SYMMETRIC = [
    Bad("not symmetric", lambda: entry(9.0), ValueError, "symmetric…A[1, 2] != A[2, 1], by more than rounding: pass (A + A.T) / 2"),
    Bad("sparse", lambda: scipy.sparse.csr_array(entry(9.0)), ValueError, "symmetric…A[1, 2] != A[2, 1], by more than rounding"),
    Bad("a triangle", lambda: scipy.sparse.csr_array(np.triu(A)), ValueError, "symmetric…by more than rounding"),
]  # fmt: skip
OF_TRIANGLE = {
    "JacobianBuilder": lambda A: JacobianBuilder(A, uplo="L"),
    "RowSums": lambda A: RowSums(A, uplo="L"),
    "symmetric_scaling": lambda A: symmetric_scaling(A, uplo="L"),
}
BAD_TRIANGLE = [
    Bad("the other triangle", lambda: scipy.sparse.csr_array(np.triu(A)), ValueError, 'uplo="L" is for an A that holds one triangle only, but it has…above its diagonal: leave out uplo'),
]  # fmt: skip

NAMES = ("A", "X", "REAL_X", "VECTOR", "CHECKED_VECTOR", "ADJOINT", "WEIGHTS", "S", "Y", "SPARSE_Y",
         "TARGET", "LINES", "COLUMNS", "SCALED", "SYMMETRIC", "TRIANGLE")  # fmt: skip
GROUPS = [
    *(Group(name, globals()[f"OF_{name}"], globals()[f"BAD_{name}"]) for name in NAMES),
    Group("rows of A", BY_ROWS, BAD_ROWS),
    *OPTIONS,
]
