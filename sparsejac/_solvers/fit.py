"""Newton's method for ``½‖A ∘ (x xᵀ) - Y‖²``, in k-vectors."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

from .. import _kernels
from .._backends.rows import Rows
from .._backends.sums import Sums
from .._matrix.pattern import Pattern
from . import float_range
from .lanczos import Lanczos
from .status import FitStatus
from .steihaug import Step, steihaug

_FORCING = 0.1  # conjugate gradients stop when the residual of the linear system has fallen to this
_SLOW = 0.5  # Gauss and Newton's step should have brought the gradient down to _FORCING: from here on, second derivatives pay
_SWEEPS = 10  # of the start, at most
_NEAR = 0.1  # an optimality at which they end: Newton's steps are better from there on
_VANISHED = 1e-6  # of what x_j² would be on average if F were Y
_INNER = 500  # steps of conjugate gradients in one of Newton's
_ROUNDING = 1e-10  # of the cost: below that, a difference of costs is mostly rounding, and the gradient decides
_VISIBLE = 1e-13  # of the cost: a fall that is larger than this is no rounding
_NEGATIVE = 1e-8  # relative to the Hessian: a curvature below minus this is negative
_LANCZOS = 8  # vectors that Lanczos keeps where x is zero
_RITZ = 6  # products with the Hessian that look for one
_POLISH = 20  # steps beyond convergence where a negative curvature makes no visible difference to the cost
_SMOOTH = 5  # averages over neighbours that smooth an estimate of how large x is to be
_SPREAD = 24  # steps of the power method that bring the negative curvature of all connected parts into one vector


class _Point(NamedTuple):
    """x, and what one pass over A and Y says of it."""

    x: NDArray[Any]
    cost: float
    gradient: NDArray[Any]
    scale: NDArray[Any]  # S (x∘x): JᵀJ is its diagonal matrix and Diag(x) S Diag(x)
    steepness: float  # the gradient's length in the norm of JᵀJ's inverse diagonal
    derived: bool = False  # whether all this was not computed here, but follows from another point


class Newton:
    """One fit under way."""

    def __init__(
        self,
        sums: Sums,
        rows: Rows,
        x0: ArrayLike | None,
        tol: float,
        callback: Any,
        bar: Any,
    ) -> None:
        self._sums = sums
        self._tol, self._callback, self._bar = tol, callback, bar
        self._nit = self._nfev = self._n_products = 0
        self._count_product()
        self._degree, squares, overlap, size = self._sums.beginning()  # S 1
        self._in_range = self._can_be_squared(rows.pattern, squares)
        self._norm = float(np.sqrt(squares))
        total = float(np.sum(self._degree))
        # how large x_j² is on average if F is Y
        self._expected = self._norm * np.sqrt(2 / total) if total > 0 else 0.0
        a = rows.diagonal()
        self._own = 2 * a**2 if a.any() else None  # S's diagonal
        del a
        self._radius = np.inf
        self._exact = self._damped = False
        self._overflow = False
        self._draws = self._polished = 0
        self._bent: NDArray[Any] | None = (
            None  # a direction of negative curvature that conjugate gradients met last
        )
        self._curvature = 0.0  # the least Ritz value, relative to the largest
        self._at = self._start(x0, overlap, size)

    def _can_be_squared(self, pattern: Pattern, squares: float) -> bool:
        """Whether the squares of A and Y are numbers, and not zero where A and Y are not."""
        if not float_range.beginning_holds(self._degree, squares) or (
            squares == 0 and self._sums.has_target()
        ):
            return False
        lost = self._degree < float_range.SMALLEST
        if self._sums.symmetric and not np.any(
            lost & (pattern.hi > pattern.lo)
        ):  # no entry in the row, and none in the column
            return True
        if not lost.any():
            return True
        self._count_product()
        return not np.any(lost & (self._sums.nonzeros() > 0))

    # --- where to start -----------------------------------------------------------------------------------------------

    def _start(self, x0: ArrayLike | None, overlap: float, size: float) -> _Point:
        x = np.zeros(self._sums.k) if x0 is None else np.array(x0, np.float64)
        if not self._in_range:
            return self._look(x)
        reached = self._degree > 0  # nothing depends on the others
        if self._norm == 0:
            return self._look(np.where(reached, 0.0, x))
        largest = float(np.max(np.abs(x), where=reached, initial=0.0))
        if largest == 0:
            return self._from_data(x, positive=overlap > (0.5 if x0 is None else 1 - 1e-12) * size)
        usual = float(np.sqrt(self._expected))
        if (
            not 1e-30 * usual < largest < 1e30 * usual and largest < np.inf
        ):  # F might leave the range
            x = np.where(reached, np.ldexp(x, int(np.frexp(usual)[1] - np.frexp(largest)[1])), x)
        return self._best_on_ray(self._look(x))

    def _look(self, x: NDArray[Any]) -> _Point:
        cost, gradient, scale = self._sums.gradient(x)
        self._nfev += 1
        self._tick()
        return self._point(x, cost, gradient, scale)

    def _point(
        self, x: NDArray[Any], cost: float, gradient: NDArray[Any], scale: NDArray[Any]
    ) -> _Point:
        return _Point(
            x, cost, gradient, scale, _length(gradient, _inverse(self._measure(x, scale)))
        )

    def _measure(self, x: NDArray[Any], scale: NDArray[Any]) -> NDArray[Any]:
        """The D of the optimality. Its floor is for x that tend to zero: there no J is left to measure by."""
        return np.maximum(self._squared_norms(x, scale), 1e-4 * self._expected * self._degree)

    def _squared_norms(self, x: NDArray[Any], scale: NDArray[Any]) -> NDArray[Any]:
        """diag(JᵀJ)."""
        return scale if self._own is None else scale + self._own * x**2

    def _best_on_ray(self, at: _Point) -> _Point:
        """The point ``β x`` for which ``½‖β² F - Y‖²`` is least.

        ``J x = 2 F``, so ``g·x = 2 F·(F - Y)``, and ``JᵀF = x ∘ S (x∘x)``: no pass is needed.
        """
        for _ in range(40):
            FF = float(np.sum(at.x**2 * at.scale)) / 2
            FY = FF - float(np.sum(at.gradient * at.x)) / 2
            if not (FF > 0 or at.gradient.any()) or not np.isfinite(FF + FY):
                return at
            if 1e-16 * self._norm**2 < FF < 1e8 * self._norm**2:
                square = FY / FF
                if square <= 0:  # the best is x = 0, or in another direction
                    return at
                beta, JtF = np.sqrt(square), at.x * at.scale
                gradient = beta * (square * JtF - (JtF - at.gradient))
                cost = max(square * (square * FF - 2 * FY) + self._norm**2, 0.0) / 2
                there = self._point(self._scaled(at.x, beta), cost, gradient, square * at.scale)
                return there._replace(derived=True)
            # x is far too long or too short, and F·Y lost in rounding: look again from where F is about as large as Y.
            size, wanted = (
                (FF**0.25, self._norm) if FF > 0 else (np.max(np.abs(at.x)), self._expected)
            )
            at = self._look(self._scaled(at.x, np.sqrt(wanted) / size))
        return at

    def _scaled(self, x: NDArray[Any], beta: float) -> NDArray[Any]:
        """``β x``, but for variables that nothing depends on."""
        return np.where(self._degree > 0, beta * x, x)

    def _from_data(self, x: NDArray[Any], *, positive: bool) -> _Point:
        """A start where x is zero in all variables that F depends on."""
        if positive:  # then most of x can have one sign
            at = self._look(np.where(self._degree > 0, np.sqrt(self._expected), x))
        else:
            zero = self._look(x)
            found = self._off_zero(zero, self._degree > 0)
            if found is None:
                return zero
            at = found
        for _ in range(_SWEEPS):
            at = self._best_on_ray(at)
            if self._optimality(at) <= _NEAR:
                return at
            # The best x_i if the others are right is x_i - g_i / scale_i.
            at = self._look(at.x - 0.5 * at.gradient * _inverse(at.scale))
        return self._best_on_ray(at)

    # --- negative curvature -------------------------------------------------------------------------------------------

    def _leave(self) -> bool | None:
        """Look for negative curvature. None: there is none. True: it led to a lower cost. False: it did not, visibly."""
        at = self._at
        if self._norm == 0:
            return None
        small = _VANISHED * self._expected
        asleep = (self._degree > 0) & (at.x**2 <= small) & (at.scale <= small * self._degree)
        found = self._off_zero(at, asleep)
        if found is None:
            bent = self._negative_curvature()
            if bent is None:
                return None
            found = self._lower_along(at, *bent) or at
        if found is at:
            return False
        self._at, self._exact, self._radius, self._bent = found, True, np.inf, None
        return True

    def _negative_curvature(self) -> tuple[NDArray[Any], float] | None:
        """A direction v, and ``v·H v``, of the least Ritz value of ``D^-½ H D^-½`` with the optimality's D, if negative.

        The start is random, so it has a part in every eigenvector. What conjugate gradients met last is added. The part
        in x is taken out: where the gradient is zero, ``H x = 2 S(x∘x) ∘ x``, so that x belongs to the largest
        eigenvalue, which is 2 if A has no diagonal.
        """
        x, scale = self._at.x, self._at.scale
        root = np.sqrt(_inverse(self._measure(x, scale)))

        def product(z: NDArray[Any]) -> NDArray[Any]:
            self._count_product()
            v = root * z
            hv = self._sums.curvature(x, v)
            v *= scale
            hv += v
            hv *= root
            return hv

        start = self._random() * (root > 0)
        if self._bent is not None:
            bent = np.divide(self._bent, root, out=np.zeros(x.size), where=root > 0)
            length = _length(bent, 1.0)
            if 0 < length < np.inf:
                start += (_length(start, 1.0) / length) * bent
            del bent
        known = np.divide(x, root, out=np.zeros(x.size), where=root > 0)
        length, largest = _length(known, 1.0), 0.0
        if 0 < length < np.inf:
            known /= length
            largest = 2 * float(np.sum(scale * (root * known) ** 2))
            if np.count_nonzero(start) > 1:
                start -= float(np.sum(start * known)) * known
        del known
        ritz = Lanczos(product, start, _RITZ)
        norm = max(ritz.norm, largest)
        self._curvature = ritz.value / norm if norm > 0 else 0.0
        return None if self._curvature >= -_NEGATIVE else (root * ritz.vector(), ritz.value)

    def _lower_along(
        self, at: _Point, v: NDArray[Any], bend: float, *, visible: float = _VISIBLE
    ) -> _Point | None:
        """The best point on the line ``x + t v``, where ``v·H v`` is negative; None if the cost does not visibly fall."""
        fourth = float(np.sum(v**2 * self._squares(v**2))) / 4  # ½‖F(v)‖²
        if not (bend < 0 and 0 < fourth < np.inf):
            return None
        t = np.sqrt(-bend / (4 * fourth))  # best if there were neither slope nor a third power
        s = t * v
        slope, second, fourth = float(np.sum(at.gradient * s)), bend * t**2 / 2, fourth * t**4
        there = self._look(at.x + s)
        # A difference of slopes has digits where one of costs has none: other parts of A have their share in the costs.
        third = (float(np.sum(there.gradient * s)) - slope - 2 * second - 4 * fourth) / 3
        best, fall = _least_of_quartic(slope, second, third, fourth, backwards=True)
        if not fall > visible * at.cost:
            return None
        if abs(best - 1) > 0.1:
            there = self._look(at.x + best * s)
        return there if there.cost < at.cost * (1 if visible else 1 + _VISIBLE) else None

    def _off_zero(self, at: _Point, asleep: NDArray[np.bool_]) -> _Point | None:
        """Find a point of lower cost near one where x is zero in the `asleep` variables and in all their neighbours.

        The gradient is zero there, whatever the data. The result is None if no curvature is negative, and `at` itself if
        none of the points that were tried is better. Connected parts of A may have data of very different sizes.
        So the size that the data ask of each variable is estimated first, and curvatures are relative to that.
        """
        x = at.x
        if asleep.any():
            asleep, size = self._sizes_asked_for(at, asleep)
        if not asleep.any():
            return None
        root = np.sqrt(_inverse(self._degree) * _inverse(size)) * asleep
        np.sqrt(size, out=size)
        value, v = self._most_negative_curvature(x, root)
        self._curvature = value
        if not value < -_NEGATIVE:
            return None
        w = self._spread(x, root, value)
        # v is of one connected part, w of all. The sign of v is arbitrary, and must be that of w, which has the small
        # entries of the same part.
        own = np.abs(v) > 1e-3 * np.max(np.abs(v))
        v *= np.copysign(1.0, np.sum(v * w)) * root
        np.sign(w, out=w)
        w *= size
        np.copyto(w, v * np.sqrt(np.sum(size**2, where=own) / np.sum(v**2, where=own)), where=own)
        del root, size, own
        there = self._look(np.where(w != 0, w, x))
        del w
        for _ in range(_SWEEPS):
            if there.cost < (1 - _VISIBLE) * at.cost:
                return there
            there = self._look(there.x - 0.5 * asleep * there.gradient * _inverse(there.scale))
        # A part whose data are tiny beside the others makes no visible difference to the cost. It is fitted all the same.
        return self._lower_along(at, v, value, visible=0.0) or at

    def _sizes_asked_for(
        self, at: _Point, asleep: NDArray[np.bool_]
    ) -> tuple[NDArray[np.bool_], NDArray[Any]]:
        """Which of these variables the data ask to be larger than they are, and about how large x_j² should be.

        A product with random numbers tells how strongly the data pull at each variable. Averages over neighbours smooth
        that within each connected part.
        """
        random = self._random()
        random = np.copysign(0.5 + np.abs(random) % 1.0, random) * asleep
        self._count_product()
        size = np.abs(self._sums.curvature(at.x, random)) * asleep
        inverse = _inverse(self._degree)
        asleep = (size > 0) & (at.scale <= 1e-3 * size)
        size *= inverse
        asleep &= at.x**2 <= 1e-3 * size
        for _ in range(_SMOOTH if asleep.any() else 0):
            size *= asleep
            size = self._squares(size)
            size *= inverse
        size *= asleep
        return asleep, size

    def _spread(self, x: NDArray[Any], root: NDArray[Any], value: float) -> NDArray[Any]:
        """A direction along which the curvature of each connected part is negative; 0 where it seems not to be.

        These are a few steps of the power method, for the negative end of the spectrum, from random numbers. `value` is
        the least eigenvalue.
        """
        w = np.abs(self._random()) * (
            root > 0
        )  # of one sign, as the answer is where A∘Y is positive
        for _ in range(_SPREAD):
            rw = self._scaled_curvature(x, root, w)
            bent = w * rw < 0
            rw /= value
            w += rw
            w /= np.max(np.abs(w))
        return w * bent

    def _scaled_curvature(
        self, x: NDArray[Any], root: NDArray[Any], z: NDArray[Any]
    ) -> NDArray[Any]:
        """``Diag(root) (M + Mᵀ) Diag(root) z``."""
        self._count_product()
        return root * self._sums.curvature(x, root * z)

    def _most_negative_curvature(
        self, x: NDArray[Any], root: NDArray[Any]
    ) -> tuple[float, NDArray[Any]]:
        """The least eigenvalue, and its unit vector, of ``Diag(root) (M + Mᵀ) Diag(root)`` at x, to a hundredth.

        Of k-vectors, Lanczos takes eight and its own.
        """
        k = x.size

        def product(z: NDArray[Any]) -> NDArray[Any]:
            return self._scaled_curvature(x, root, z.reshape(-1))

        start = self._random() * (root > 0)
        if np.count_nonzero(start) > _LANCZOS:
            operator = LinearOperator((k, k), product, dtype=np.float64)
            with contextlib.suppress(ArpackError):  # not converged
                values, vectors = eigsh(
                    operator, k=1, which="SA", v0=start, tol=0.01, ncv=_LANCZOS, maxiter=200
                )
                return float(values[0]), vectors[:, 0]
        ritz = Lanczos(product, start, _LANCZOS)
        return ritz.value, ritz.vector()

    def _random(self) -> NDArray[Any]:
        self._draws += 1
        return np.random.default_rng(self._draws).standard_normal(self._sums.k)

    # --- the steps ----------------------------------------------------------------------------------------------------

    def run(self, max_iter: int) -> OptimizeResult:
        """Step until there is nothing to gain."""
        while True:
            if not (self._in_range and self._is_finite()):
                return self._result(FitStatus.OUT_OF_RANGE)
            if self._optimality(self._at) <= self._tol:
                if self._at.derived:  # it has lost the digits that ‖Y‖² has not
                    self._at = self._look(self._at.x)
                    continue
                left = self._leave()
                if left is None:
                    return self._result(FitStatus.CONVERGED)
                if self._nit == max_iter:
                    return self._result(FitStatus.MAX_ITER if left else FitStatus.SADDLE)
                self._nit += 1
                if not left:
                    # Either this is a saddle, or the gradient is still too large for the curvature to be told from zero.
                    self._polished += 1
                    if self._polished > _POLISH or not self._step():
                        return self._result(FitStatus.SADDLE)
            elif self._nit == max_iter:
                return self._result(FitStatus.MAX_ITER)
            else:
                self._nit += 1
                if not self._step():
                    if self._overflow:
                        return self._result(FitStatus.OUT_OF_RANGE)
                    if not self._leave():
                        return self._result(FitStatus.ROUNDING)
            if self._callback is not None:
                try:
                    self._callback(self._state(x=self._at.x.copy()))
                except StopIteration:
                    return self._result(FitStatus.CALLBACK)

    def _is_finite(self) -> bool:
        at = self._at
        return bool(
            np.isfinite(at.cost + at.steepness)
            and np.all(np.isfinite(at.scale))
            and np.all(np.isfinite(at.x))
        )

    def _step(self) -> bool:
        """Move to a better point, or see what prevents it; False if nothing helps."""
        at = self._at
        if at.steepness == 0:
            return False
        s, predicted, length, solved, bent = self._solve()
        self._bent = bent if self._exact else None
        self._overflow = not np.isfinite(predicted)
        there = self._look(at.x + s)
        gained = at.cost - there.cost
        if (
            predicted < _ROUNDING * at.cost
        ):  # a difference of costs is mostly rounding here, and the gradient decides
            if there.steepness < at.steepness:
                self._at = there
                return True
            if self._exact and solved:
                return False
            self._exact, self._radius = True, np.inf
            return True
        if gained > 0.1 * predicted:
            self._at = there
            if gained < 0.25 * predicted:
                self._radius = 0.5 * length
            elif not solved:
                self._radius = 2 * length
            near = self._optimality(at) < _NEAR
            self._exact |= near and (
                gained < 0.25 * predicted or (solved and there.steepness > _SLOW * at.steepness)
            )
            return True
        if not self._damped:
            self._damped = True
            return True
        shorter = self._shorter(s, at, there)
        if not 0 < shorter < np.inf:
            return False
        self._exact |= self._optimality(at) < _NEAR
        self._radius = shorter * length
        there = self._look(at.x + shorter * s)
        if not there.cost < at.cost:
            return False
        self._at = there
        return True

    def _shorter(self, s: NDArray[Any], at: _Point, there: _Point) -> float:
        """How much of the step is best. Along it the cost is a quartic polynomial, of which five numbers are known."""
        if not np.isfinite(there.cost):
            return 0.01
        slope = float(np.sum(at.gradient * s))
        fourth = float(np.sum(s**2 * self._squares(s**2))) / 4  # ½‖F(s)‖²
        rest = there.cost - at.cost - slope - fourth
        third = float(np.sum(there.gradient * s)) - slope - 4 * fourth - 2 * rest
        return _least_of_quartic(slope, rest - third, third, fourth)[0]

    def _solve(self) -> Step:
        """Steihaug's conjugate gradients for ``H s = -g``.

        The norm of lengths is that of the preconditioner, in which the trust region is a ball: M = diag(JᵀJ), and from the first step that
        failed on Levenberg's damping, which grows with the gradient, ``μ S 1``. That is what M would be, times μ, if all x_j were as large as
        they are on average; M alone lets a variable run away whose neighbours happen to be small.
        """
        x, gradient, scale = self._at.x, self._at.gradient, self._at.scale
        total = float(np.sum(self._degree))
        average = np.sqrt(float(np.sum(x**2 * scale)) / total) if total > 0 else 0.0  # of x_j²
        damping = float(min(1.0, self._optimality(self._at)) * average) if self._damped else 0.0
        inverse = _inverse(self._squared_norms(x, scale) + damping * self._degree)

        def product(d: NDArray[Any]) -> tuple[NDArray[Any], float]:
            if self._exact:
                self._count_product()
                Hd = self._sums.curvature(x, d)
                return Hd, _kernels.cg_product(d, None, Hd, scale, damping, self._degree)
            Hd = self._squares(x * d)
            return Hd, _kernels.cg_product(d, x, Hd, scale, damping, self._degree)

        unit = self._norm * self._norm or 1.0
        return steihaug(
            product,
            gradient,
            inverse,
            enough=max(_FORCING, 0.3 * self._tol / self._optimality(self._at)) ** 2,
            radius=self._radius,
            limit=_INNER,
            unit=unit,
            longest=_length(x, _inverse(inverse)) ** 2 / unit,
        )

    # --- what others see ----------------------------------------------------------------------------------------------

    def _optimality(self, at: _Point) -> float:
        return at.steepness / self._norm if self._norm > 0 else at.steepness

    def _squares(self, u: NDArray[Any]) -> NDArray[Any]:
        self._count_product()
        return self._sums.squares(u)

    def _count_product(self) -> None:
        self._n_products += 1
        self._tick()

    def _tick(self) -> None:
        if self._bar is not None:
            self._bar.update()
            if self._nit:
                cost, optimality = self._at.cost, self._optimality(self._at)
                self._bar.set_postfix(
                    cost=f"{cost:.6g}", optimality=f"{optimality:.1e}", refresh=False
                )

    def _state(self, **more: Any) -> OptimizeResult:
        return OptimizeResult(
            cost=self._at.cost,
            optimality=self._optimality(self._at),
            nit=self._nit,
            nfev=self._nfev,
            n_products=self._n_products,
            **more,
        )

    def _result(self, status: FitStatus) -> OptimizeResult:
        at = self._at
        if status in (FitStatus.CONVERGED, FitStatus.ROUNDING, FitStatus.SADDLE):
            squares = self._measure(at.x, at.scale)
            if not float_range.is_trusted(at.x, at.gradient, squares, self._degree, self._norm):
                status = FitStatus.OUT_OF_RANGE
        return self._state(
            x=at.x,
            grad=at.gradient.copy(),
            status=status,
            success=status is FitStatus.CONVERGED,
            message=status.message(
                nit=self._nit,
                optimality=self._optimality(at),
                tol=self._tol,
                curvature=self._curvature,
            ),
        )


def _least_of_quartic(
    slope: float, second: float, third: float, fourth: float, *, backwards: bool = False
) -> tuple[float, float]:
    """Where ``slope t + second t² + third t³ + fourth t⁴`` is least, and by how much it falls; 0 if it falls nowhere.

    Only t > 0 counts, unless `backwards`.
    """
    coefficients = np.array([0.0, slope, second, third, fourth])
    unit = float(np.max(np.abs(coefficients)))
    if not 0 < unit < np.inf:
        return 0.0, 0.0
    polynomial = np.polynomial.Polynomial(coefficients / unit).trim(1e-100)
    if polynomial.degree() < 2:
        return 0.0, 0.0
    roots = polynomial.deriv().roots()
    steps = roots.real[np.abs(roots.imag) <= 1e-6 * np.abs(roots.real)]
    steps = steps[(steps != 0) if backwards else (steps > 0)]
    if not steps.size:
        return 0.0, 0.0
    best = float(steps[np.argmin(polynomial(steps))])
    return best, -unit * float(polynomial(best))


def _inverse(diagonal: NDArray[Any]) -> NDArray[Any]:
    """1/d, and 0 where d is."""
    return np.divide(1.0, diagonal, out=np.zeros(diagonal.size), where=diagonal > 0)


def _length(v: NDArray[Any], weights: NDArray[Any] | float) -> float:
    return float(np.sqrt(np.sum(weights * v * v)))
