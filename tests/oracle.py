"""F, J, cost, gradient and Hessian by loops over the entries of dense lists: exact on integers, and
no code of the kernels.
"""


def rows_of_J(stored, rows, order):
    """Which entry (i, j) of F each row of J is. `stored[i][j]` says whether A has the entry."""
    k = range(len(stored))
    pairs = [(i, j) for i in k for j in k] if order == "C" else [(i, j) for j in k for i in k]
    if rows == "all":
        return pairs
    return [(i, j) for i, j in pairs if stored[i][j] and (rows == "stored" or i <= j)]


def value(A, x, pairs):
    return [A[i][j] * x[i] * x[j] for i, j in pairs]


def jacobian(A, x, pairs):
    J = [[0] * len(x) for _ in pairs]
    for row, (i, j) in zip(J, pairs, strict=True):
        row[i] += A[i][j] * x[j]
        row[j] += A[i][j] * x[i]
    return J


def times(J, v):
    return [sum(entry * number for entry, number in zip(row, v, strict=True)) for row in J]


def transposed(J, n):
    return [[row[s] for row in J] for s in range(n)]


def least_squares(A, Y, x, v, pairs):
    """Cost, gradient, Hessian times v, and diag(JᵀJ) of ``½ Σ (F_ij - Y_ij)²`` over J's rows."""
    J = jacobian(A, x, pairs)
    residuals = [f - Y[i][j] for f, (i, j) in zip(value(A, x, pairs), pairs, strict=True)]
    Jt = transposed(J, len(x))
    product = times(Jt, times(J, v))
    for r, (i, j) in zip(
        residuals, pairs, strict=True
    ):  # each residual is a quadratic form of its own
        product[i] += r * A[i][j] * v[j]
        product[j] += r * A[i][j] * v[i]
    return (
        sum(r * r for r in residuals) / 2,
        times(Jt, residuals),
        product,
        [sum(e * e for e in row) for row in Jt],
    )
