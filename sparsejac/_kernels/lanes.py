"""A few neighbouring numbers of an array as one value, which LLVM keeps in a vector register.

Numba does not let LLVM join neighbouring statements into one of vectors. LLVM's own vectors are for
long loops: for r = 8 the tests before such a loop take longer than its numbers.

In Python such a value is an array.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, call-arg, index"

from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.extending import intrinsic, models, register_model

_FLAGS = "reassoc", "contract", "nsz"  # as of reductions


class _Lanes(types.Type):
    """So many numbers of this type. A complex one is its real part beside its imaginary part."""

    def __init__(self, dtype, count):
        super().__init__(f"lanes({dtype}, {count})")
        self.dtype, self.count = dtype, count
        self.parts = 2 if isinstance(dtype, types.Complex) else 1


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, lanes):
        real = lanes.dtype.underlying_float if lanes.parts == 2 else lanes.dtype
        real = manager.lookup(real).get_value_type()
        super().__init__(manager, lanes, ir.VectorType(real, lanes.parts * lanes.count))


def _address(context, builder, array_type, array, position, lanes):
    data = context.make_array(array_type)(context, builder, array).data
    kind = context.get_value_type(lanes).as_pointer()
    return builder.bitcast(builder.gep(data, [position]), kind)


def _align(lanes):
    return lanes.dtype.bitwidth // 8 // lanes.parts


def _picked(builder, lanes, chosen):
    """The lanes at these places."""
    places = ir.Constant(ir.VectorType(ir.IntType(32), len(chosen)), chosen)
    return builder.shuffle_vector(lanes, ir.Constant(lanes.type, ir.Undefined), places)


def _signs(vector_type):
    """-1 for each real part, and 1 for each imaginary part."""
    return ir.Constant(vector_type, (-1.0, 1.0) * (vector_type.count // 2))


@intrinsic(prefer_literal=True)
def _load_lanes(typing_context, array, position, count):
    lanes = _Lanes(array.dtype, count.literal_value)

    def generate(context, builder, signature, arguments):
        address = _address(context, builder, array, *arguments[:2], lanes)
        return builder.load(address, align=_align(lanes))

    return lanes(array, types.int64, count), generate


@intrinsic(prefer_literal=True)
def _store_lanes(typing_context, array, position, lanes):
    def generate(context, builder, signature, arguments):
        address = _address(context, builder, array, *arguments[:2], lanes)
        builder.store(arguments[2], address, align=_align(lanes))
        return context.get_dummy_value()

    return types.void(array, types.int64, lanes), generate


@intrinsic(prefer_literal=True)
def _same_lanes(typing_context, array, number, count):
    lanes = _Lanes(array.dtype, count.literal_value)

    def generate(context, builder, signature, arguments):
        parts = [arguments[1]]
        if lanes.parts == 2:
            parts = [builder.extract_value(arguments[1], part) for part in range(2)]
        vector, lane = ir.Constant(ir.VectorType(parts[0].type, len(parts)), ir.Undefined), 0
        for lane, part in enumerate(parts):
            vector = builder.insert_element(vector, part, ir.IntType(32)(lane))
        return _picked(builder, vector, list(range(lanes.parts)) * lanes.count)

    return lanes(array, array.dtype, count), generate


@intrinsic
def _plus_times_lanes(typing_context, total, left, right):
    def generate(context, builder, signature, arguments):
        found, a, b = arguments
        if total.parts == 2:
            # (p + iq) (s + it) is (p s - q t) + i (p t + q s)
            even = range(0, a.type.count, 2)
            twice = [lane for lane in even for _ in range(2)]
            other = [lane + at for lane in even for at in (1, 0)]
            crossed = builder.fmul(_picked(builder, b, other), _signs(b.type), flags=_FLAGS)
            imaginary = _picked(builder, a, [lane + 1 for lane in twice])
            product = builder.fmul(imaginary, crossed, flags=_FLAGS)
            found = builder.fadd(found, product, flags=_FLAGS)
            a = _picked(builder, a, twice)
        return builder.fadd(found, builder.fmul(a, b, flags=_FLAGS), flags=_FLAGS)

    return total(total, left, right), generate


@intrinsic
def _conjugate_lanes(typing_context, lanes):
    def generate(context, builder, signature, arguments):
        if lanes.parts == 1:
            return arguments[0]
        return builder.fneg(builder.fmul(arguments[0], _signs(arguments[0].type), flags=_FLAGS))

    return lanes(lanes), generate


@intrinsic
def _total_lanes(typing_context, lanes):
    def generate(context, builder, signature, arguments):
        vector = arguments[0]
        while vector.type.count > lanes.parts:
            half = vector.type.count // 2
            left, right = (_picked(builder, vector, [*range(q, q + half)]) for q in (0, half))
            vector = builder.fadd(left, right, flags=_FLAGS)
        parts = [builder.extract_element(vector, ir.IntType(32)(q)) for q in range(lanes.parts)]
        if lanes.parts == 1:
            return parts[0]
        number = context.make_complex(builder, lanes.dtype)
        number.real, number.imag = parts
        return number._getvalue()

    return lanes.dtype(lanes), generate


def _load_array(array, position, count):
    return array.reshape(-1)[position : position + count].copy()


def _store_array(array, position, numbers):
    array.reshape(-1)[position : position + len(numbers)] = numbers


def _same_array(array, number, count):
    return np.full(count, number, array.dtype)


def _plus_times_arrays(total, left, right):
    return total + left * right


_in_python = getattr(config, "DISABLE_JIT", False)
_load: Any = _load_array if _in_python else _load_lanes
_store: Any = _store_array if _in_python else _store_lanes
_same: Any = _same_array if _in_python else _same_lanes
_plus_times: Any = _plus_times_arrays if _in_python else _plus_times_lanes
_conjugate: Any = np.conj if _in_python else _conjugate_lanes
_total: Any = np.sum if _in_python else _total_lanes
