"""The identities that a Jacobian of ``F(x) = A ∘ (x xᵀ)`` satisfies, as checks with a verdict each.

They share no code with the kernels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.linalg import LinearOperator

from . import _validation
from ._matrix.conversions import csr_arrays
from ._operators.jacobian import JacobianOperator
from ._validation import Order, Rows
from .builder import JacobianBuilder


@dataclass(frozen=True)
class Check:
    """The verdict on one identity.

    Attributes
    ----------
    name : str
        The identity.
    error : float
        The largest deviation, divided by the largest rounding error that the computation may have.
    passed : bool
        Whether `error` is at most 1.
    """

    name: str
    error: float
    passed: bool


def verdicts(
    A: Any,
    x: ArrayLike | None = None,
    *,
    J: Any = None,
    rank: int | None = None,
    bilinear: bool = False,
    rows: Rows | None = None,
    order: Order = "C",
    seed: int = 0,
) -> Iterator[Check]:
    """Yield the checks of `check_jacobian` one by one, also those that fail."""
    A = matrix_in_memory(A, bilinear)  # it must be in memory, because single entries are read
    builder = JacobianBuilder(A, rank=rank, bilinear=bilinear, rows=rows, order=order)
    k, r, offset = sizes_of(A, rank, bilinear)
    m, size = builder.shape
    rng = np.random.default_rng(seed)
    if x is None:
        x = _integers(rng, size, np.dtype(np.float64))
    else:
        x = _validation.point("x", x, A.shape, rank, bilinear=bilinear, finite=True).reshape(-1)
    x = x.astype(np.result_type(builder.dtype, _validation.float_dtype("x", x.dtype)))
    if isinstance(J, np.ndarray) or not (J is None or hasattr(J, "shape")):
        J = _validation.array("J", J)
    if J is not None and J.shape != (m, size):
        raise ValueError(
            f"J must have shape {(m, size)}, a row for each of the {m} entries of F that `rows` "
            f"asks for, got {J.shape}"
        )
    _validation.fits(
        "the check", 16 * (m + size) * x.dtype.itemsize, 'take rows="stored" for a sparse A'
    )
    op = builder.operator(x)
    i, j = builder.row_pairs()
    a = _entries(A, i, j).astype(x.dtype)
    terms = _Terms(a, x.reshape(k, r), i, j + j.dtype.type(offset) if offset else j)
    # One step may be orthogonal to the error in a row, so there are two. They are about as large as
    # x in each entry and have no zero, so that rounding of another term cannot hide an error.
    steps = [_integers(rng, size, x.dtype) * _powers_of_two(x) for _ in range(2)]
    yield from _quadratic_identities(op if J is None else J, terms, steps, rng)
    if J is None:
        yield from _own_identities(builder, op, terms, steps, rng)


def matrix_in_memory(A: Any, bilinear: bool) -> Any:
    """Return A as a matrix in memory, which is square unless F is bilinear."""
    A = _validation.matrix(A, square=not _validation.flag("bilinear", bilinear))
    if scipy.sparse.issparse(A):  # SciPy would write beyond its arrays
        csr_arrays(A, transposed=False)
    return A


def sizes_of(A: Any, rank: int | None, bilinear: bool) -> tuple[int, int, int]:
    """The shape (k, r) of X, and its row that belongs to the first column of A."""
    r = 1 if rank is None else _validation.positive_integer("rank", rank)
    m, n = A.shape
    return (m + n, r, m) if bilinear else (m, r, 0)


@dataclass(frozen=True)
class _Terms:
    """F at the rows of J: the entries a of A, the rows i and j of X that they multiply, and X.

    The methods take points and steps as vectors.
    """

    a: NDArray[Any]
    X: NDArray[Any]
    i: NDArray[Any]
    j: NDArray[Any]

    @property
    def x(self) -> NDArray[Any]:
        return self.X.reshape(-1)

    @property
    def count(self) -> int:
        """The number of columns of X. Each adds a product of three numbers to an entry of F."""
        return self.X.shape[1]

    def F(self, y: NDArray[Any]) -> NDArray[Any]:
        a, i, j = self.a, self.i, self.j
        return self._sum(a * column[i] * column[j] for column in y.reshape(self.X.shape).T)

    def product(self, h: NDArray[Any]) -> NDArray[Any]:
        """``J h`` by its formula."""
        a, i, j = self.a, self.i, self.j
        columns = zip(self.X.T, h.reshape(self.X.shape).T, strict=True)
        return self._sum(a * (x[i] * h[j] + h[i] * x[j]) for x, h in columns)

    def size(self, h: NDArray[Any]) -> NDArray[Any]:
        """The magnitude of the terms of ``J h``."""
        return _Terms(abs(self.a), abs(self.X), self.i, self.j).product(abs(h))

    def bound(self, steps: list[NDArray[Any]]) -> NDArray[Any]:
        """An upper bound of the magnitude of the terms of ``F(x ± h)``."""
        with np.errstate(over="ignore", under="ignore"):
            y = abs(self.x) + np.maximum(*map(abs, steps))
            return _Terms(abs(self.a), abs(self.X), self.i, self.j).F(y)

    @staticmethod
    def _sum(columns: Iterator[NDArray[Any]]) -> NDArray[Any]:
        total = next(columns)
        for column in columns:
            total += column
        return total


def _quadratic_identities(
    J: Any, terms: _Terms, steps: list[NDArray[Any]], rng: np.random.Generator
) -> Iterator[Check]:
    x, F, count = terms.x, terms.F, terms.count
    size = terms.bound(steps)
    _check_range(size, x.dtype)
    products = [J @ h for h in steps]
    name = "F(x+h) - F(x-h) = 2 J h"
    found = [
        _entrywise(name, F(x + h) - F(x - h), 2 * Jh, size, terms=count)
        for h, Jh in zip(steps, products, strict=True)
    ]
    # With those steps the weight of an entry of J is the x in its column. A wrong entry where x is
    # small could be hidden by the other entries of its row. Steps of equal entries in one column of
    # X find it. For them, F(x+h) - F(x-h) would lose the digits of the smaller of x and h, so
    # `product` is used.
    for c, _ in itertools.product(range(count), range(2)):
        H = np.zeros_like(terms.X)
        H[:, c] = _integers(rng, len(H), x.dtype) * _powers_of_two(terms.X[:, c]).max(initial=0)
        h = H.reshape(-1)
        found.append(_entrywise(name, terms.product(h), J @ h, terms.size(h), terms=count))
    yield _worst(found)
    yield _worst(
        _entrywise("F(x+h) - F(x) - J h = F(h)", F(x + h) - F(x) - Jh, F(h), size, terms=count)
        for h, Jh in zip(steps, products, strict=True)
    )
    yield _entrywise("J x = 2 F(x)", J @ x, 2 * F(x), size, terms=count)
    adjoint = [adjoint_check(J, rng, x.dtype)]
    if isinstance(J, LinearOperator):
        adjoint.append(_adjoint_entrywise(J, rng, terms))
    yield _worst(adjoint)


def _own_identities(
    builder: JacobianBuilder,
    op: JacobianOperator,
    terms: _Terms,
    steps: list[NDArray[Any]],
    rng: np.random.Generator,
) -> Iterator[Check]:
    x, h, (m, n) = terms.x, steps[0], op.shape
    name = "J(x) h = J(h) x"
    size = terms.bound(steps)
    yield _entrywise(name, op @ h, builder.operator(h) @ x, size, terms=terms.count)
    csr = op.tocsr()
    v, w = _integers(rng, n, x.dtype), _integers(rng, m, x.dtype)
    name = "CSR @ v = operator @ v"
    yield _entrywise(name, csr @ v, op @ v, terms.size(v), terms=terms.count)
    transposed, max_terms = csr.conj().T, _max_column_nnz(csr)
    name = "CSR^H @ w = operator^H @ w"
    yield _entrywise(name, transposed @ w, op.H @ w, abs(transposed) @ abs(w), terms=max_terms)
    norms = np.sqrt(np.asarray((abs(csr).astype(np.float64) ** 2).sum(axis=0)).ravel())
    size, name = norms.astype(x.real.dtype), "column norms of CSR = of operator"
    yield _entrywise(name, norms, op.column_norms(), size, terms=max_terms)


_ADJOINT = "<J u, w> = <u, J^H w>"


def adjoint_check(op: Any, rng: np.random.Generator, dtype: np.dtype[Any]) -> Check:
    m, n = op.shape
    u, w = _normal(rng, n, dtype), _normal(rng, m, dtype)
    forward = op @ u
    adjoint = (op.H if isinstance(op, LinearOperator) else op.conj().T) @ w
    left, right = np.vdot(w, forward), np.vdot(adjoint, u)
    scale = _norm(w) * _norm(forward) + _norm(adjoint) * _norm(u)
    # Compare the real and the imaginary parts separately, as either may be wrong.
    difference = max(abs(np.real(left) - np.real(right)), abs(np.imag(left) - np.imag(right)))
    return _verdict(_ADJOINT, difference, 32 * np.finfo(dtype).eps * scale)


def _adjoint_entrywise(op: Any, rng: np.random.Generator, terms: _Terms) -> Check:
    """Compare each entry of ``Jᴴ w`` with the definition.

    w makes the rows of J equally large. Scalar products cannot detect an error in a row that is
    small compared with others.
    """
    a, X, i, j = terms.a, terms.X, terms.i, terms.j
    x, largest_x = terms.x, abs(X).max(axis=1, initial=0)
    largest, limits = abs(a) * np.maximum(largest_x[i], largest_x[j]), np.finfo(x.dtype)
    w = _integers(rng, i.size, x.dtype)
    # The reciprocal of a smaller number overflows.
    w *= np.where(largest > 4 * limits.tiny, 1 / _powers_of_two(largest), 0)
    wide = np.result_type(x.dtype, np.float64)
    expected, sizes = np.zeros(X.shape, wide), np.zeros(X.shape, np.float64)
    for c, (here, there) in itertools.product(range(terms.count), ((i, j), (j, i))):
        part = (a * X[there, c]).conj() * w
        np.add.at(expected[:, c], here, part)
        np.add.at(sizes[:, c], here, abs(part))
    max_terms = max((int(np.bincount(index, minlength=1).max()) for index in (i, j)), default=0)
    size = sizes.astype(x.real.dtype).reshape(-1)
    return _entrywise(_ADJOINT, op.H @ w, expected.reshape(-1), size, terms=2 * max_terms)


def _entrywise(
    name: str, left: NDArray[Any], right: NDArray[Any], size: NDArray[Any], terms: int = 1
) -> Check:
    """Compare the difference with the rounding error of sums.

    A sum has `terms` products of total magnitude `size`.
    """
    if left.size == 0:
        return Check(name, 0.0, passed=True)
    limit = (16 + terms) * np.finfo(size.dtype).eps * size
    difference = abs(left - right)
    beyond_zero = np.where(difference > 0, np.inf, 0)
    relative = difference / np.where(limit > 0, limit, 1)
    worst = int(np.argmax(np.where(limit > 0, relative, beyond_zero)))
    return _verdict(name, difference[worst], limit[worst])


def _verdict(name: str, difference: Any, limit: Any) -> Check:
    difference, limit = float(difference), float(limit)
    error = difference / limit if limit > 0 else (0.0 if difference == 0 else np.inf)
    return Check(name, error, passed=bool(error <= 1))  # NaN fails


def _norm(v: NDArray[Any]) -> float:
    """The Euclidean norm. NumPy's norm would be 0 if the squares underflow."""
    largest = float(abs(v).max(initial=0.0))
    return largest * float(np.linalg.norm(v / largest)) if largest > 0 else 0.0


def _worst(checks: Iterable[Check]) -> Check:
    return max(checks, key=lambda check: (not check.passed, check.error))


def _check_range(size: NDArray[Any], dtype: np.dtype[Any]) -> None:
    """Refuse numbers whose squares overflow or underflow, because their norm is wrong."""
    largest, limits = float(size.max(initial=0.0)), np.finfo(dtype)
    if largest > 0 and not np.sqrt(float(limits.tiny)) < largest < np.sqrt(float(limits.max)):
        raise ValueError(
            f"the entries of F are as large as {largest:.1e}, and their squares leave the range "
            f"of {dtype}: multiply A by a power of two, which changes no digit"
        )


def _powers_of_two(x: NDArray[Any]) -> NDArray[Any]:
    """The power of two below each |x_i|. If x_i = 0, it is the one of the largest |x_i|."""
    size = abs(x)
    size[size == 0] = size.max(initial=0.0) or 1.0
    return np.ldexp(np.ones_like(size), np.frexp(size)[1] - 1)


def _integers(rng: np.random.Generator, n: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Make random integers of 1 to 4 in size."""
    real, imaginary = rng.integers(1, 5, (2, n)) * rng.choice([-1, 1], (2, n))
    return (real + 1j * imaginary if dtype.kind == "c" else real).astype(dtype)


def _normal(rng: np.random.Generator, n: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    result = rng.standard_normal(n)
    return (
        (result + 1j * rng.standard_normal(n)).astype(dtype)
        if dtype.kind == "c"
        else result.astype(dtype)
    )


def _entries(A: Any, i: NDArray[Any], j: NDArray[Any]) -> NDArray[Any]:
    """``A[i, j]`` for arrays of indices."""
    if scipy.sparse.issparse(A):
        return (
            np.asarray(wide_integers(A).tocsr()[i, j]).ravel() if i.size else np.zeros(0, A.dtype)
        )
    return np.asarray(A)[i, j]


def wide_integers(A: Any) -> Any:
    """Convert a sparse A so that duplicates can be summed: 100 + 100 is -56 in int8."""
    return A.astype(np.int64) if A.dtype.kind in "iu" and A.dtype.itemsize < 8 else A


def _max_column_nnz(csr: Any) -> int:
    return int(np.bincount(csr.indices, minlength=1).max()) if csr.nnz else 1
