"""Reductions over the residuals ``F - Y``: cost, gradient and curvature of least squares.

A and Y are real.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, call-arg, index"

from .generate import Operation, sum_kernel


def _beginning(a, y, xi, xj):
    """``S x``, ``Σ y²``, ``Σ a y`` and ``Σ |a y|``: what a fit needs before it has an x."""
    y = 1.0 * y
    t = a * y
    return (a * a * xj,), (a * a * xi,), (y * y, t, abs(t))


def _gradient(a, y, xi, xj):
    """``Jᵀ(F - Y)``, ``S (x∘x)``, and ``‖F - Y‖²``: all of a Newton step but its products."""
    r = a * (xi * xj) - y
    t, square = a * r, a * a
    return (t * xj, square * (xj * xj)), (t * xi, square * (xi * xi)), (r * r,)


def _curvature(a, y, xi, xj, vi, vj):
    """``(M + Mᵀ) v`` with ``M = A∘(2 F - Y)``.

    The Hessian of ``½‖F - Y‖²`` is ``Diag(S (x∘x)) + M + Mᵀ``.
    """
    t = a * (a * (2.0 * xi * xj) - y)
    return (t * vj,), (t * vi,), ()


beginning = sum_kernel("beginning", Operation(_beginning, scalars=3, rows=1))
gradient = sum_kernel("gradient", Operation(_gradient, at_i=(0, 1), at_j=(0, 1), scalars=1))
curvature = sum_kernel("curvature", Operation(_curvature))
gradient_by_rows = sum_kernel(
    "gradient_by_rows", Operation(_gradient, at_i=(0, 1), at_j=(0, 1), scalars=1, by_rows=True)
)
curvature_by_rows = sum_kernel("curvature_by_rows", Operation(_curvature, by_rows=True))
