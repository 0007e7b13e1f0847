"""Tells whether products of two variables stay in the range of their dtype.

Overflow gives infinity, and underflow zero, where the product with an entry of A may be neither.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._kernels import compiled_kernel
from .._matrix.entries import wide
from .._matrix.indices import frozen

_BIAS, _DIGITS = 1023, 52  # of float64
_INFINITE = 0x7FF << _DIGITS
_OF_ZERO = -10_000  # below the exponents of all other products


def products_hold(x: NDArray[Any], v: NDArray[Any], terms: int) -> bool:
    """Whether sums of so many products ``x_i v_j`` neither overflow nor lose digits by underflow.

    Zeros do not count. Nothing is said of NaN and infinity: the answer is yes. It may be no for
    products that are within a factor of 4 of the ends of the range.
    """
    of_x = _extent(x)
    of_v = of_x if v is x else _extent(v)
    if max(of_x[0], of_v[0]) > _INFINITE or max(of_x[1], of_v[1]) >= _INFINITE:
        return True
    lowest, highest = (-126, 128) if x.real.dtype == np.float32 else (-1022, 1024)
    low, high = (_exponent(one) + _exponent(other) for one, other in zip(of_x, of_v, strict=True))
    # A complex product is the sum of two. Each number is less than twice its power of two.
    return low >= lowest and high + 2 + terms.bit_length() + 1 <= highest


def _extent(numbers: NDArray[Any]) -> tuple[int, int]:
    """The bits of the smallest and of the largest size. Parts of complex numbers count alone."""
    parts = numbers.astype(wide(numbers.dtype), copy=False).reshape(-1)
    # They are NumPy's integers where kernels run as Python, and those would overflow.
    least, most = map(int, compiled_kernel("extent")(frozen(parts.view(np.int64))))
    return least + 1, most


def _exponent(bits: int) -> int:
    """The n for which a float64 number of these bits is at least 2ⁿ, and less than twice that."""
    exponent = bits >> _DIGITS
    return exponent - _BIAS if exponent else bits.bit_length() - _BIAS - _DIGITS  # subnormal


def split(x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The exponents n, and numbers near 1, with which x is ``near_one 2ⁿ``.

    The larger part of a complex number is near 1.
    """
    parts = x.reshape(-1, 1).view(x.real.dtype)
    exponents = np.frexp(np.abs(parts).max(axis=1, initial=0))[1].astype(np.int64)
    near_one = np.ldexp(parts, -exponents[:, np.newaxis]).astype(parts.dtype, copy=False)
    exponents[~parts.any(axis=1)] = _OF_ZERO
    return frozen(exponents.reshape(x.shape)), frozen(near_one.view(x.dtype).reshape(x.shape))
