"""Stores that go past the caches.

An ordinary store reads a cache line from memory before it writes to it. A non-temporal store of a
whole line only writes. That pays for an output that is larger than the caches.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, call-arg, index"

from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.extending import intrinsic

from .compile import _inline

_EIGHT = 8  # numbers that are stored at once: a cache line of float64


@intrinsic
def _store_eight(typing_context, out, at, a, x, scale, p, q, scaled_first):
    """Store ``a[p + n] * scale`` and ``a[q + n] * x[q + n]``, for four n, from ``out[at]`` on.

    ``out[at]`` must lie at a multiple of the size of eight numbers. All are of one real
    floating-point dtype.
    """

    def generate(context, builder, signature, arguments):
        number, lane = context.get_value_type(out.dtype), ir.IntType(32)
        four, eight = ir.VectorType(number, 4), ir.VectorType(number, _EIGHT)

        def address(which, place, vector):
            array = context.make_array(signature.args[which])(context, builder, arguments[which])
            return builder.bitcast(builder.gep(array.data, [place]), vector.as_pointer())

        def load(which, place):
            return builder.load(address(which, place, four), align=out.dtype.bitwidth // 8)

        def chosen(*lanes):
            return ir.Constant(ir.VectorType(lane, len(lanes)), lanes)

        _, at_, _, _, scale_, p_, q_, scaled_first_ = arguments
        none = ir.Constant(four, ir.Undefined)
        scales = builder.insert_element(none, scale_, lane(0))
        scales = builder.shuffle_vector(scales, none, chosen(0, 0, 0, 0))
        scaled = builder.fmul(load(2, p_), scales)
        products = builder.fmul(load(2, q_), load(3, q_))
        before = builder.shuffle_vector(scaled, products, chosen(0, 4, 1, 5, 2, 6, 3, 7))
        behind = builder.shuffle_vector(scaled, products, chosen(4, 0, 5, 1, 6, 2, 7, 3))
        store = builder.store(
            builder.select(scaled_first_, before, behind),
            address(0, at_, eight),
            align=out.dtype.bitwidth,  # the bytes of eight numbers
        )
        one = builder.module.add_metadata([lane(1)])
        store.set_metadata("nontemporal", one)
        return context.get_dummy_value()

    integer = types.int64
    types_of_all = out, integer, a, x, a.dtype, integer, integer, types.boolean
    return types.void(*types_of_all), generate


@intrinsic
def _store_one_of(typing_context, out, at, number):
    """``out[at] = number``, for a real floating-point dtype. Lines fill up on their way to memory.

    As a floating-point number it would be stored as usual on most processors.
    """

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        integer = ir.IntType(out.dtype.bitwidth)
        address = builder.bitcast(builder.gep(array.data, [arguments[1]]), integer.as_pointer())
        number = builder.bitcast(arguments[2], integer)
        store = builder.store(number, address, align=out.dtype.bitwidth // 8)
        one = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
        store.set_metadata("nontemporal", one)
        return context.get_dummy_value()

    return types.void(out, types.int64, out.dtype), generate


@intrinsic
def _finish_stores(typing_context):
    """Let no later store come before these: it could tell another thread that they are done."""

    def generate(context, builder, signature, arguments):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


def _store_in_python(out, at, a, x, scale, p, q, scaled_first):
    pair = a[p : p + 4] * scale, a[q : q + 4] * x[q : q + 4]
    out[at : at + 8 : 2], out[at + 1 : at + 8 : 2] = pair if scaled_first else pair[::-1]


def _store_one_in_python(out, at, number):
    out[at] = number


def _finish_in_python():
    """Python's stores are in order."""


_python = getattr(config, "DISABLE_JIT", False)
_store: Any = _store_in_python if _python else _store_eight
_store_one: Any = _store_one_in_python if _python else _store_one_of
_finish: Any = _finish_in_python if _python else _finish_stores


@_inline
def _until_aligned(out, at, n):
    """How many of the n numbers from ``out[at]`` on come before one where `_store` may begin.

    It is n if none of them is such a number.
    """
    size = np.int64(out.itemsize)
    address = np.int64(out.ctypes.data) + at * size
    return min(-address % (_EIGHT * size) // size, n) if address % size == 0 else n
