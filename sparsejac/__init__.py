"""The sparse Jacobian of ``F(x) = A ∘ (x xᵀ)``: as a CSR matrix built from its index pattern, and matrix-free."""

from importlib.metadata import PackageNotFoundError as _PackageNotFoundError
from importlib.metadata import version as _version

from ._builder import JacobianBuilder, jacobian
from ._fit import fit
from ._kspace import HessianOperator, NormalOperator
from ._operator import JacobianOperator
from ._optimize import LeastSquares
from ._rowsums import RowSums, RowSumsOperator
from ._scaling import symmetric_scaling

try:
    __version__ = _version("sparsejac-hadamard")
except _PackageNotFoundError:  # imported from a source tree that is not installed
    __version__ = "0+unknown"

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
    "symmetric_scaling",
]
