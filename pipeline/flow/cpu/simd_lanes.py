"""Making SIMD vectors, moving their lanes about, and adding them up."""

from llvmlite import ir
from numba import types
from numba.core import cgutils

from stin_pipe.pipeline.flow.cpu.simd import (
    F32,
    I32,
    LANES,
    VEC,
    constant_lanes,
    divide_lanes,
    lane_intrinsic,
    spread_scalar,
    vector,
)


@lane_intrinsic
def spread(typingctx, scalar):
    """Return the vector that has `scalar` in every lane."""
    del typingctx

    def codegen(context, builder, sig, args):
        del context, sig
        return spread_scalar(builder, args[0])

    return vector(types.float32), codegen


@lane_intrinsic
def lanes_below(typingctx, count):
    """Return 1 in the lanes below `count` and 0 in the others."""
    del typingctx

    def codegen(context, builder, sig, args):
        del context, sig
        count = builder.trunc(args[0], I32)
        kind = ir.VectorType(I32, LANES)
        counts = builder.insert_element(ir.Constant(kind, ir.Undefined), count, ir.Constant(I32, 0))
        counts = builder.shuffle_vector(counts, counts, ir.Constant(kind, [0] * LANES))
        below = builder.icmp_signed("<", ir.Constant(kind, list(range(LANES))), counts)
        return builder.select(below, constant_lanes(1.0), constant_lanes(0.0))

    return vector(types.intp), codegen


def _shuffle_by(first_lane: int):
    def typed(typingctx, low, high):
        del typingctx

        def codegen(context, builder, sig, args):
            del context, sig
            order = list(range(first_lane, first_lane + LANES))
            return builder.shuffle_vector(*args, ir.Constant(ir.VectorType(I32, LANES), order))

        return vector(low, high), codegen

    return typed


shift_from_left = lane_intrinsic(_shuffle_by(LANES - 1))
"""(before, here) -> the vector one element to the left of `here`."""
shift_from_right = lane_intrinsic(_shuffle_by(1))
"""(here, after) -> the vector one element to the right of `here`."""


@lane_intrinsic
def sum_lanes(typingctx, value):
    """Add the lanes of a vector in float64, halves to halves, in an order that never changes."""
    del typingctx

    def codegen(context, builder, sig, args):
        del context, sig
        value, lanes = builder.fpext(args[0], ir.VectorType(ir.DoubleType(), LANES)), LANES
        while lanes > 1:
            lanes //= 2
            kind = ir.VectorType(I32, lanes)
            low = builder.shuffle_vector(value, value, ir.Constant(kind, list(range(lanes))))
            high = builder.shuffle_vector(value, value, ir.Constant(kind, list(range(lanes, 2 * lanes))))
            value = builder.fadd(low, high)
        return builder.extract_element(value, ir.Constant(I32, 0))

    return types.float64(value), codegen


@lane_intrinsic
def floor_lanes(typingctx, value):
    """Return the floor of each lane."""
    del typingctx

    def codegen(context, builder, sig, args):
        del context, sig
        kind = ir.FunctionType(VEC, [VEC])
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.floor.v{LANES}f32")
        return builder.call(function, args)

    return vector(value), codegen


@lane_intrinsic
def reciprocal_above(typingctx, value, floor):
    """Return 1/x in the lanes where x > `floor`, 0 in the others."""
    del typingctx

    def codegen(context, builder, sig, args):
        del context, sig
        value, floor = args
        inverse = divide_lanes(builder, constant_lanes(1.0), value)
        return builder.select(builder.fcmp_ordered(">", value, floor), inverse, constant_lanes(0.0))

    return vector(vector, vector), codegen


@lane_intrinsic
def lane_numbers(typingctx):
    """Return 0, 1, 2, ... in the lanes."""
    del typingctx

    def codegen(context, builder, sig, args):
        del context, builder, sig, args
        return ir.Constant(VEC, [ir.Constant(F32, float(lane)) for lane in range(LANES)])

    return vector(), codegen
