"""The solvers' loops over k-vectors."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, call-arg, index"

from .compile import _sum

# --- conjugate gradients: k-vectors only ---------------------------------------------------------
# BLAS would do them on threads of its own, which then spin on the cores of ours.


@_sum
def cg_product(d, x, Hd, scale, damping, degree):
    """``Hd ← (scale + damping degree)∘d + x∘Hd``, or without x ``… + Hd``; returns ``d·Hd``."""
    total = 0.0
    for i in range(d.size):
        h = (scale[i] + damping * degree[i]) * d[i] + (Hd[i] if x is None else x[i] * Hd[i])
        Hd[i] = h
        total += d[i] * h
    return total


@_sum
def cg_step(alpha, d, Hd, inverse, s, r):
    """``s ← s + alpha d``, ``r ← r + alpha Hd``; returns ``r·z`` with ``z = inverse∘r``."""
    total = 0.0
    for i in range(d.size):
        s[i] += alpha * d[i]
        ri = r[i] + alpha * Hd[i]
        r[i] = ri
        total += inverse[i] * ri * ri
    return total


@_sum
def cg_direction(beta, r, inverse, d):
    """``d ← beta d - z``."""
    for i in range(d.size):
        d[i] = beta * d[i] - inverse[i] * r[i]


# --- symmetric scaling: k-vectors only -----------------------------------------------------------
# At x the map has the values r = x∘(A x). By log(x), ½ xᵀA x - d·log(x) has the gradient g = r - d
# and the Hessian H = Diag(r) + Diag(x) A Diag(x); z = g / diag(H). A direction q in x is s = q/x in
# log(x). No loop has a branch, so all of them vectorise: rows that are left out have
# x = A x = d = 1 and q = A q = 0, and change nothing.


@_sum
def scaling_step(t, x, Ax, q, Aq, s, z, error, d, own):
    """Go on to ``x + t q``: there, ``s``, ``z`` and ``|g|/d``; returns ``z·H s`` and ``s·H s``."""
    above = below = 0.0
    for i in range(x.size):
        xi, y = x[i] + t * q[i], Ax[i] + t * Aq[i]
        x[i], Ax[i] = xi, y
        r = xi * y
        g = r - d[i]
        error[i] = abs(g) / d[i]
        zi, si = g / (xi * (y + own[i] * xi)), q[i] / xi  # x² might leave the range of numbers
        z[i], s[i] = zi, si
        Hs = r * si + xi * Aq[i]
        above += zi * Hs
        below += si * Hs
    return above, below


@_sum
def scaling_direction(beta, x, Ax, q, s, z, d):
    """``s ← β s - z`` and q with it; returns ``g·s``."""
    slope = 0.0
    for i in range(x.size):
        si = beta * s[i] - z[i]
        s[i] = si
        q[i] = x[i] * si
        slope += (x[i] * Ax[i] - d[i]) * si
    return slope


@_sum
def scaling_line(q, Aq, s, d):
    """``q·A q`` and ``d·s²``: what a line search needs to know of its line."""
    square = weight = 0.0
    for i in range(q.size):
        square += q[i] * Aq[i]
        weight += d[i] * s[i] * s[i]
    return square, weight


@_sum
def scaling_slope(t, s, d):
    """``d·(s²/(1 + t s))`` and ``d·(s²/(1 + t s)²)``."""
    first = second = 0.0
    for i in range(s.size):
        w = s[i] / (1.0 + t * s[i])
        first += d[i] * w * s[i]
        second += d[i] * w * w
    return first, second
