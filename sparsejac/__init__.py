"""The sparse Jacobian of ``F(x) = A ∘ (x xᵀ)`` as a CSR matrix, and matrix-free."""

from ._operators.hermitian import HessianOperator, NormalOperator
from ._operators.jacobian import JacobianOperator
from ._operators.row_sums import RowSumsOperator
from ._system.version import __version__ as __version__
from .builder import JacobianBuilder, jacobian
from .fitting import fit
from .least_squares import LeastSquares
from .rectangular import row_column_scaling
from .row_sums import RowSums
from .scaling import symmetric_scaling

__all__ = [
    "HessianOperator",
    "JacobianBuilder",
    "JacobianOperator",
    "LeastSquares",
    "NormalOperator",
    "RowSums",
    "RowSumsOperator",
    "fit",
    "jacobian",
    "row_column_scaling",
    "symmetric_scaling",
]
