"""``F = A ∘ (X Xᵀ)`` and ``F = A ∘ (X Yᵀ)`` by loops over their entries, for tests of rank r.

It shares no code with the package. All functions take A as a dense array, X of shape (k, r), and
the list of entries (i, j) of F that are the rows of J. In the bilinear form A is m×n, and X holds
m rows of X and n rows of Y. Small integers stay exact: as Python's own if the dtype is `object`.
"""

import numpy as np


def rows_of_J(stored, rows, order):
    """Which entry (i, j) of F each row of J is. `stored[i][j]` says whether A has the entry."""
    m, n = np.shape(stored)
    pairs = [(i, j) for i in range(m) for j in range(n)]
    if order == "F":
        pairs = [(i, j) for j in range(n) for i in range(m)]
    if rows == "all":
        return pairs
    return [(i, j) for i, j in pairs if stored[i][j] and (rows == "stored" or i <= j)]


def nodes(A, i, j, bilinear):
    """The rows of X that F_ij depends on."""
    return (i, len(A) + j) if bilinear else (i, j)


def value(A, X, pairs, *, bilinear=False):
    f = np.zeros(len(pairs), np.result_type(A, X))
    for row, (i, j) in enumerate(pairs):
        p, q = nodes(A, i, j, bilinear)
        for c in range(X.shape[1]):
            f[row] += A[i, j] * X[p, c] * X[q, c]
    return f


def jacobian(A, X, pairs, *, bilinear=False):
    """J as a dense array. Column p·r + c is the variable X[p, c]."""
    k, r = X.shape
    J = np.zeros((len(pairs), k * r), np.result_type(A, X))
    for row, (i, j) in enumerate(pairs):
        p, q = nodes(A, i, j, bilinear)
        for c in range(r):
            J[row, p * r + c] += A[i, j] * X[q, c]
            J[row, q * r + c] += A[i, j] * X[p, c]
    return J


def structure(stored, pairs, r, *, bilinear=False):
    """The index arrays of the canonical CSR matrix. An entry that A does not store has no entry."""
    indptr, indices = [0], []
    for i, j in pairs:
        if stored[i][j]:
            p, q = (i, len(stored) + j) if bilinear else (i, j)
            for node in sorted({p, q}):
                indices += [node * r + c for c in range(r)]
        indptr.append(len(indices))
    return np.array(indptr), np.array(indices, int)


def transposed_times(A, X, pairs, w, *, bilinear=False, conjugate=False):
    """``Jᵀw``, or ``Jᴴw``, of shape (k, r), without J."""
    if conjugate:
        A, X = A.conj(), X.conj()
    result = np.zeros(X.shape, np.result_type(A, X, w))
    for (i, j), number in zip(pairs, w, strict=True):
        p, q = nodes(A, i, j, bilinear)
        for c in range(X.shape[1]):
            result[p, c] += A[i, j] * number * X[q, c]
            result[q, c] += A[i, j] * number * X[p, c]
    return result


def normal(A, X, pairs, *, bilinear=False, damping=0):
    """``JᴴJ + damping I``, added up from the outer product of each row of J with itself."""
    k, r = X.shape
    N = np.zeros((k * r, k * r), np.result_type(A, X))
    for i, j in pairs:
        p, q = nodes(A, i, j, bilinear)
        row = {}
        for c in range(r):
            row[p * r + c] = row.get(p * r + c, 0) + A[i, j] * X[q, c]
            row[q * r + c] = row.get(q * r + c, 0) + A[i, j] * X[p, c]
        for s, left in row.items():
            for t, right in row.items():
                N[s, t] += np.conj(left) * right
    for s in range(k * r):
        N[s, s] += damping
    return N


def blocks(N, r):
    """The r×r blocks on the diagonal of N, of shape (k, r, r)."""
    k = len(N) // r
    found = np.zeros((k, r, r), N.dtype)
    for p in range(k):
        for c in range(r):
            for d in range(r):
                found[p, c, d] = N[p * r + c, p * r + d]
    return found


def hessian(A, shape, pairs, w, *, bilinear=False):
    """``∇² wᵀF`` by the identity of a quadratic form q: its entry (s, t) is
    ``q(e_s + e_t) - q(e_s) - q(e_t)``.

    Single entries of F are evaluated, so this is for small sizes.
    """
    k, r = shape
    H = np.zeros((k * r, k * r), np.result_type(A, w))

    def form(points):
        """q at the sum of the unit vectors of `points`."""
        total = 0
        for (i, j), number in zip(pairs, w, strict=True):
            p, q = nodes(A, i, j, bilinear)
            for c in range(r):
                total += number * A[i, j] * points.count((p, c)) * points.count((q, c))
        return total

    variables = [(p, c) for p in range(k) for c in range(r)]
    alone = [form([s]) for s in variables]
    for s, first in enumerate(variables):
        for t, second in enumerate(variables):
            H[s, t] = form([first, second]) - alone[s] - alone[t]
    return H


def curvature(A, shape, pairs, w, *, bilinear=False):
    """``∇² wᵀF`` by its entries: ``A_ij w_ij`` for each c at (i r + c, j r + c) and the reverse."""
    k, r = shape
    H = np.zeros((k * r, k * r), np.result_type(A, w))
    for (i, j), number in zip(pairs, w, strict=True):
        p, q = nodes(A, i, j, bilinear)
        for c in range(r):
            H[p * r + c, q * r + c] += A[i, j] * number
            H[q * r + c, p * r + c] += A[i, j] * number
    return H


class LeastSquares:
    """Residuals, cost, gradient, JᵀJ and Hessian of ``½‖F - Y‖²`` over J's rows, at X."""

    def __init__(self, A, Y, X, pairs, *, bilinear=False):
        F = value(A, X, pairs, bilinear=bilinear)
        differences = [f - Y[i][j] for f, (i, j) in zip(F, pairs, strict=True)]
        self.residuals = np.array(differences, float)
        self.cost = sum(residual * residual for residual in self.residuals.tolist()) / 2
        self.gradient = transposed_times(A, X, pairs, self.residuals, bilinear=bilinear)
        self.normal = normal(A, X, pairs, bilinear=bilinear)
        self.hessian = self.normal + curvature(A, X.shape, pairs, self.residuals, bilinear=bilinear)
        self.scale = [1 / np.sqrt(d) if d > 0 else 1.0 for d in np.diag(self.normal)]


def largest(A, X, *, bilinear=False):
    """The largest |F_ij| in each row and in each column of the whole F."""
    m, n = A.shape
    pairs = [(i, j) for i in range(m) for j in range(n)]
    size = abs(value(A, X, pairs, bilinear=bilinear)).reshape(m, n)
    return (
        np.array([max(size[i].tolist(), default=0) for i in range(m)]),
        np.array([max(size[:, j].tolist(), default=0) for j in range(n)]),
    )


def embedded(A):
    """The symmetric form that is the bilinear one: A in the upper right block."""
    m, n = A.shape
    B = np.zeros((m + n, m + n), A.dtype)
    for i in range(m):
        for j in range(n):
            B[i, m + j] = A[i, j]
    return B
