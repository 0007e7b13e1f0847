"""Loops over a few numbers, four at a time.

Numba does not let LLVM join neighbouring statements into one of vectors, and LLVM's own vectors are
for long loops: for r = 8 the tests before such a loop take longer than its numbers.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, call-arg, index"

from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

_FLAGS = "reassoc", "contract", "nsz"  # as of reductions


def _dot_in_turn(array, p, q, fours):
    """``Σ array[p + c] array[q + c]`` over four times so many c; the array is taken as flat."""
    numbers, total = array.reshape(-1), array.dtype.type(0)
    for c in range(4 * fours):
        total += numbers[p + c] * numbers[q + c]
    return total


def _two_dots_in_turn(array, p, q, s, t, fours):
    """`_dot_in_turn` for (p, q) and for (s, t) together."""
    numbers, total = array.reshape(-1), array.dtype.type(0)
    for c in range(4 * fours):
        total += numbers[p + c] * numbers[q + c] + numbers[s + c] * numbers[t + c]
    return total


def _add_in_turn(array, to, at, to_other, at_other, scale, fours):
    """``array[to + c] += scale array[at + c]``, and the same for the others."""
    numbers = array.reshape(-1)
    for c in range(4 * fours):
        numbers[to + c] += scale * numbers[at + c]
        numbers[to_other + c] += scale * numbers[at_other + c]


def _add_conjugate_in_turn(array, to, at, to_other, at_other, scale, fours):
    """`_add_in_turn` with the conjugates of what is added."""
    numbers = array.reshape(-1)
    for c in range(4 * fours):
        numbers[to + c] += scale * np.conj(numbers[at + c])
        numbers[to_other + c] += scale * np.conj(numbers[at_other + c])


class _Lanes:
    """Four numbers of an array, in LLVM."""

    def __init__(self, context, builder, array_type, array):
        self._builder, self._align = builder, array_type.dtype.bitwidth // 8
        self._data = context.make_array(array_type)(context, builder, array).data
        self.type = ir.VectorType(context.get_value_type(array_type.dtype), 4)

    def address(self, start, four):
        builder = self._builder
        place = builder.add(start, builder.shl(four, four.type(2)))
        return builder.bitcast(builder.gep(self._data, [place]), self.type.as_pointer())

    def load(self, address):
        return self._builder.load(address, align=self._align)

    def store(self, numbers, address):
        self._builder.store(numbers, address, align=self._align)

    def same(self, number):
        """The number four times."""
        lane, none = ir.IntType(32), ir.Constant(self.type, ir.Undefined)
        one = self._builder.insert_element(none, number, lane(0))
        first = ir.Constant(ir.VectorType(lane, 4), (0, 0, 0, 0))
        return self._builder.shuffle_vector(one, none, first)

    def sum(self, four):
        builder, lane = self._builder, ir.IntType(32)
        a, b, c, d = (builder.extract_element(four, lane(each)) for each in range(4))
        pairs = builder.fadd(a, b, flags=_FLAGS), builder.fadd(c, d, flags=_FLAGS)
        return builder.fadd(*pairs, flags=_FLAGS)


def _dots(in_turn, pairs):
    def typed(array, *places):
        def generate(context, builder, signature, arguments):
            if array.dtype not in (types.float64, types.float32):
                return context.compile_internal(builder, in_turn, signature, arguments)
            lanes = _Lanes(context, builder, array, arguments[0])
            total = cgutils.alloca_once_value(builder, ir.Constant(lanes.type, None))
            with cgutils.for_range(builder, arguments[-1]) as loop:
                at = [lanes.load(lanes.address(each, loop.index)) for each in arguments[1:-1]]
                both = builder.load(total)
                for p, q in zip(at[::2], at[1::2], strict=True):
                    both = builder.fadd(both, builder.fmul(p, q, flags=_FLAGS), flags=_FLAGS)
                builder.store(both, total)
            return lanes.sum(builder.load(total))

        return array.dtype(array, *[types.int64] * (2 * pairs + 1)), generate

    return typed


_one_dot, _both_dots = _dots(_dot_in_turn, 1), _dots(_two_dots_in_turn, 2)


@intrinsic
def _dot_of_lanes(typing_context, array, p, q, fours):
    return _one_dot(array, p, q, fours)


@intrinsic
def _two_dots_of_lanes(typing_context, array, p, q, s, t, fours):
    return _both_dots(array, p, q, s, t, fours)


def _adding(in_turn):
    @intrinsic
    def add(typing_context, array, to, at, to_other, at_other, scale, fours):
        def generate(context, builder, signature, arguments):
            if array.dtype not in (types.float64, types.float32):
                return context.compile_internal(builder, in_turn, signature, arguments)
            lanes = _Lanes(context, builder, array, arguments[0])
            scales = lanes.same(arguments[5])
            with cgutils.for_range(builder, arguments[6]) as loop:
                for into, of in (arguments[1:3], arguments[3:5]):
                    numbers = lanes.load(lanes.address(of, loop.index))
                    address = lanes.address(into, loop.index)
                    product = builder.fmul(scales, numbers, flags=_FLAGS)
                    lanes.store(builder.fadd(lanes.load(address), product, flags=_FLAGS), address)
            return context.get_dummy_value()

        places = [types.int64] * 4
        return types.void(array, *places, array.dtype, types.int64), generate

    return add


_in_python = getattr(config, "DISABLE_JIT", False)
_dot: Any = _dot_in_turn if _in_python else _dot_of_lanes
_two_dots: Any = _two_dots_in_turn if _in_python else _two_dots_of_lanes
_add: Any = _add_in_turn if _in_python else _adding(_add_in_turn)
_add_conjugate: Any = _add_conjugate_in_turn if _in_python else _adding(_add_conjugate_in_turn)
