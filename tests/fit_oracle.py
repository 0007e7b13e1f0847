"""Cost, gradient and Hessian of a fit by a loop over its residuals, and the documented optimality.

It shares no code with the package, and is for small sizes.
"""

import numpy as np


def rho(loss, z):
    """ρ, ρ' and ρ'' of a loss, as SciPy defines it."""
    one = np.ones_like(z)
    if loss == "linear":
        return z, one, 0 * z
    if loss == "soft_l1":
        root = np.sqrt(1 + z)
        return 2 * z / (root + 1), 1 / root, -0.5 / root**3
    if loss == "huber":
        large = np.where(z > 1, z, 1.0)
        return (
            np.where(z > 1, 2 * np.sqrt(large) - 1, z),
            1 / np.sqrt(large),
            np.where(z > 1, -0.5 / large**1.5, 0.0),
        )
    if loss == "cauchy":
        return np.log1p(z), 1 / (1 + z), -1 / (1 + z) ** 2
    assert loss == "arctan"
    return np.arctan(z), 1 / (1 + z * z), -2 * z / (1 + z * z) ** 2


class Dense:
    """What a fit computes at X, of shape (count, r), from the residuals of some pairs (i, j).

    If it is bilinear, the m×n matrix A belongs to rows i and m + j of X.
    """

    def __init__(self, A, Y, X, pairs, *, bilinear, regularization, loss, scale):
        count, r = X.shape
        n = count * r
        self.X, self.rank, self.regularization = X, r, regularization
        J, rest, y, a, size = (np.zeros((len(pairs), *shape)) for shape in ((n,), (), (), (), ()))
        nodes = [(i, len(A) + j) if bilinear else (i, j) for i, j in pairs]
        self.degree = np.zeros(count)
        for row, ((i, j), (p, q)) in enumerate(zip(pairs, nodes, strict=True)):
            a[row], y[row] = A[i, j], Y[i, j]
            rest[row] = A[i, j] * sum(X[p, c] * X[q, c] for c in range(r)) - Y[i, j]
            size[row] = abs(Y[i, j]) + abs(A[i, j]) * sum(np.abs(X[p] * X[q]))
            for c in range(r):
                J[row, p * r + c] += A[i, j] * X[q, c]
                J[row, q * r + c] += A[i, j] * X[p, c]
            self.degree[p] += A[i, j] ** 2
            self.degree[q] += A[i, j] ** 2
        value, slope, bend = rho(loss, (rest / scale) ** 2)
        self.norm = float(np.sqrt(scale**2 * np.sum(rho(loss, (y / scale) ** 2)[0])))
        self.cost = float(scale**2 * np.sum(value) + regularization * np.sum(X * X)) / 2
        self.gradient = J.T @ (slope * rest) + regularization * X.ravel()
        self.squares = float(np.sum(size * size))  # of what the residuals add up
        # a bound of what the gradient adds up
        self.terms = np.abs(J).T @ (slope * size) + regularization * np.abs(X.ravel())
        weights = slope + 2 * (rest / scale) ** 2 * bend
        self.hessian = J.T @ (weights[:, np.newaxis] * J) + regularization * np.eye(n)
        for row, (p, q) in enumerate(nodes):
            for c in range(r):
                number = slope[row] * rest[row] * a[row]
                self.hessian[p * r + c, q * r + c] += number
                self.hessian[q * r + c, p * r + c] += number
        self.normal = J.T @ J

    def diagonal(self):
        """The D of the optimality, with its lower bound: 1e-4 of its value if all x were equal."""
        total = float(np.sum(self.degree))
        usual = self.norm * np.sqrt(2 / total) if total > 0 else 0.0
        least = np.repeat(1e-4 * usual * self.degree, self.rank)
        if not self.always_added:
            return np.maximum(np.diag(self.normal), least)
        return np.diag(self.normal) + least + self.regularization

    blocks = False  # whether D is made of blocks, as for several columns
    always_added = False  # whether the lower bound is added, and not only a bound

    def metric(self):
        """D as a matrix."""
        D = np.diag(self.diagonal())
        for p in range(len(self.X) if self.blocks else 0):
            block = slice(p * self.rank, (p + 1) * self.rank)
            own = self.normal[block, block]
            D[block, block] += own - np.diag(np.diag(own))
        return D

    def optimality(self):
        D = self.metric()
        some = np.diag(D) > 0
        g = self.gradient[some]
        size = float(np.sqrt(max(g @ np.linalg.lstsq(D[np.ix_(some, some)], g)[0], 0.0)))
        return size / (self.norm or 1.0)

    def optimality_within(self, low, high):
        d = self.diagonal()
        x, step = self.X.ravel(), -np.divide(self.gradient, d, out=np.zeros(d.size), where=d > 0)
        p = np.clip(step, low.ravel() - x, high.ravel() - x)
        return float(np.sqrt(np.sum(d * p * p))) / (self.norm or 1.0)

    def least_curvature(self, some):
        """The least eigenvalue of the Hessian for some variables, in the metric, over the norm.

        What rounding may have made of it is added: the blocks of the metric can be nearly singular.
        """
        D = self.metric()
        some = some & (np.diag(D) > 0)
        if not some.any():
            return 0.0
        D, H = D[np.ix_(some, some)], self.hessian[np.ix_(some, some)]
        root = 1 / np.sqrt(np.diag(D))
        D, H = (root[:, np.newaxis] * M * root for M in (D, H))
        D += 1e-12 * np.eye(len(D))
        L = np.linalg.inv(np.linalg.cholesky(D))
        values = np.linalg.eigvalsh(L @ H @ L.T)
        rounding = 1e-15 * float(np.linalg.cond(D))
        return float(values[0] / max(np.max(np.abs(values)), 1e-300)) + rounding
