"""Derivatives of ``½‖F - Y‖²``, or of a robust cost, for one column of variables or for several."""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray

from .._backends.rank_sums import rank_sums_of
from .._backends.robust_sums import Loss, robust_sums_of
from .._backends.sums import sums_of
from .._matrix.indices import frozen
from .assembly import Assembly
from .base import silence
from .hermitian import HessianOperator, NormalOperator
from .rank_assembly import RankAssembly
from .rank_hermitian import RankHessian, RankNormal
from .robust_hermitian import RobustHessian, RobustNormal


class Terms(Protocol):
    """What `LeastSquares` needs at an x of the shape that kernels take.

    `scale` is the third number of `gradient`, for this x.
    """

    sums: Any

    def gradient(self, x: NDArray[Any]) -> tuple[float, NDArray[Any], Any]: ...
    def hessian(self, x: NDArray[Any], scale: Any, dtype: Any) -> HessianOperator: ...
    def normal(self, x: NDArray[Any], scale: Any, damping: float) -> NormalOperator: ...
    def column_squares(self, x: NDArray[Any], scale: Any) -> NDArray[Any]: ...


class _OneColumn:
    def __init__(self, of: Assembly, target: Any) -> None:
        self._rows, self._target, self.sums = of.rows, target, sums_of(of.rows, target)

    def gradient(self, x: NDArray[Any]) -> tuple[float, NDArray[Any], Any]:
        return self.sums.gradient(x)

    def hessian(self, x: NDArray[Any], scale: Any, dtype: Any) -> HessianOperator:
        return HessianOperator(self._rows, dtype, x=x, sums=self.sums, y=self._target, scale=scale)

    def normal(self, x: NDArray[Any], scale: Any, damping: float) -> NormalOperator:
        return NormalOperator(self._rows, self.sums, x, damping, scale)

    def column_squares(self, x: NDArray[Any], scale: Any) -> NDArray[Any]:
        with silence():
            found: NDArray[Any] = scale + 2 * (self._rows.diagonal() * x) ** 2
            return found


class _SeveralColumns:
    def __init__(self, of: RankAssembly, target: Any) -> None:
        self._of, self._target = of, target
        self.sums = rank_sums_of(of.rows, of.variables, target)

    def gradient(self, x: NDArray[Any]) -> tuple[float, NDArray[Any], Any]:
        return *self.sums.gradient(x), None

    def hessian(self, x: NDArray[Any], _: Any, dtype: Any) -> HessianOperator:
        return RankHessian(self._of, self.sums, dtype, x=x, y=self._target)

    def normal(self, x: NDArray[Any], _: Any, damping: float) -> NormalOperator:
        return RankNormal(self._of, self.sums, x, damping)

    def column_squares(self, x: NDArray[Any], _: Any) -> NDArray[Any]:
        return self.sums.column_squares(x)


class _Robust:
    """The terms of a robust loss. One column of variables is treated as several."""

    def __init__(self, of: Assembly, target: Any, loss: Loss) -> None:
        several = of if isinstance(of, RankAssembly) else RankAssembly(of.rows, of.variables)
        self._of, self._target = several, target
        self.sums = robust_sums_of(of.rows, of.variables, target, loss)

    def _shaped(self, x: NDArray[Any]) -> NDArray[Any]:
        return frozen(x.reshape(self._of.variables.shape))

    def gradient(self, x: NDArray[Any]) -> tuple[float, NDArray[Any], Any]:
        cost, gradient = self.sums.gradient(self._shaped(x))
        return cost, gradient.reshape(x.shape), None

    def hessian(self, x: NDArray[Any], _: Any, dtype: Any) -> HessianOperator:
        return RobustHessian(self._of, self.sums, dtype, x=self._shaped(x), y=self._target)

    def normal(self, x: NDArray[Any], _: Any, damping: float) -> NormalOperator:
        return RobustNormal(self._of, self.sums, self._shaped(x), damping, self._target)

    def column_squares(self, x: NDArray[Any], _: Any) -> NDArray[Any]:
        return self.sums.column_squares(self._shaped(x))


def least_squares_of(of: Assembly, target: Any, loss: Loss) -> Terms:
    """The terms of the cost with this loss."""
    if loss.name != "linear":
        return _Robust(of, target, loss)
    if isinstance(of, RankAssembly):
        return _SeveralColumns(of, target)
    return _OneColumn(of, target)
