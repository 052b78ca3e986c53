"""Loads and stores of SIMD vectors, and the four-channel samples of the warp. Nothing is checked here.

Legend: a "quad" is four channels of one pixel, side by side in memory; four quads make 16 floats.
"""

from llvmlite import ir
from numba import types

from stin_pipe.pipeline.flow.cpu.simd import F32, I32, LANES, VEC, lane_intrinsic, vector

_QUADS = ir.VectorType(F32, 16)
_QUAD = ir.VectorType(F32, 4)
_CONTRACT = ("contract",)


def _address(context, builder, sig, args, which, kind):
    """Address of the element args[which + 1] of the array args[which], as a pointer to `kind`."""
    array_type, array, index = sig.args[which], args[which], args[which + 1]
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), ir.PointerType(kind))


def _is_flat(array, index, dtype: types.Type = types.float32) -> bool:
    return (
        isinstance(array, types.Array)
        and array.dtype == dtype
        and (array.ndim, array.layout) == (1, "C")
        and isinstance(index, types.Integer)
    )


@lane_intrinsic
def load(typingctx, array, index):
    """Return the vector at `array[index:]` of a flat float32 array; nothing is checked."""
    del typingctx
    if not _is_flat(array, index):
        return None

    def codegen(context, builder, sig, args):
        address = _address(context, builder, sig, args, 0, VEC)
        return builder.load(address, align=4)

    return vector(array, types.intp), codegen


@lane_intrinsic
def store(typingctx, array, index, value):
    """Write a vector to `array[index:]` of a flat float32 array; nothing is checked."""
    del typingctx
    if not _is_flat(array, index):
        return None

    def codegen(context, builder, sig, args):
        address = _address(context, builder, sig, args, 0, VEC)
        builder.store(args[2], address, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), codegen


def _shuffle(builder, low, high, order):
    return builder.shuffle_vector(low, high, ir.Constant(ir.VectorType(I32, len(order)), list(order)))


@lane_intrinsic
def store_quads(typingctx, array, index, first, second, third, fourth):
    """Write four vectors as quads: lane i of each, then lane i+1 of each."""
    del typingctx
    if not _is_flat(array, index):
        return None

    def codegen(context, builder, sig, args):
        kind = ir.VectorType(F32, 4 * LANES)
        address = _address(context, builder, sig, args, 0, kind)
        pairs = [_shuffle(builder, args[2 + i], args[3 + i], range(2 * LANES)) for i in (0, 2)]
        order = [channel * LANES + lane for lane in range(LANES) for channel in range(4)]
        builder.store(_shuffle(builder, pairs[0], pairs[1], order), address, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector, vector, vector, vector), codegen


@lane_intrinsic
def load_quads(typingctx, array, index):
    """Read `LANES` quads; return their first three channels as vectors."""
    del typingctx
    if not _is_flat(array, index):
        return None
    result = types.UniTuple(vector, 3)

    def codegen(context, builder, sig, args):
        address = _address(context, builder, sig, args, 0, ir.VectorType(F32, 4 * LANES))
        quads = builder.load(address, align=4)
        channels = [_shuffle(builder, quads, quads, range(channel, 4 * LANES, 4)) for channel in range(3)]
        return context.make_tuple(builder, sig.return_type, channels)

    return result(array, types.intp), codegen


@lane_intrinsic
def store_offsets(typingctx, array, index, row, column, stride):
    """Write row * stride + column of each lane, both whole, as int32."""
    del typingctx
    if not _is_flat(array, index, types.int32):
        return None

    def codegen(context, builder, sig, args):
        kind = ir.VectorType(I32, LANES)
        row, column, stride = args[2:]
        address = _address(context, builder, sig, args, 0, kind)
        stride = builder.insert_element(ir.Constant(kind, ir.Undefined), stride, ir.Constant(I32, 0))
        stride = _shuffle(builder, stride, stride, [0] * LANES)
        offset = builder.mul(builder.fptosi(row, kind), stride)
        builder.store(builder.add(offset, builder.fptosi(column, kind)), address, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector, vector, types.int32), codegen


@lane_intrinsic
def sample_quad(typingctx, image, at, stride, weights_x, at_x, weights_y, at_y, step_y, out, at_out):
    """Weigh 4 x 4 quads of `image` from `at` on, rows `stride` floats apart, and write the sum quad.

    The column weights are the quad at `weights_x[at_x]`; the row weights lie `step_y` floats apart from
    `weights_y[at_y]` on.
    """
    del typingctx
    integers = (at, stride, at_x, at_y, step_y, at_out)
    arrays = (image, weights_x, weights_y, out)
    if not all(_is_flat(a, types.intp) for a in arrays):
        return None
    if not all(isinstance(i, types.Integer) for i in integers):
        return None

    # Rows first: four quads are one load of 16 floats, so the columns come last and once.
    def codegen(context, builder, sig, args):
        _, at, stride, _, _, _, at_y, step_y, _, _ = args
        total = ir.Constant(_QUADS, [ir.Constant(F32, 0.0)] * 16)
        for row in range(4):
            tap = list(args)
            tap[1], tap[6] = at, at_y
            quads = builder.load(_address(context, builder, sig, tap, 0, _QUADS), align=4)
            weight = builder.insert_element(
                ir.Constant(_QUADS, ir.Undefined),
                builder.load(_address(context, builder, sig, tap, 5, F32)),
                ir.Constant(I32, 0),
            )
            weighted = builder.fmul(quads, _shuffle(builder, weight, weight, [0] * 16), flags=_CONTRACT)
            total = builder.fadd(total, weighted, flags=_CONTRACT) if row else weighted
            at, at_y = builder.add(at, stride), builder.add(at_y, step_y)
        weights = builder.load(_address(context, builder, sig, args, 3, _QUAD), align=4)
        weights = _shuffle(builder, weights, weights, [tap for tap in range(4) for _ in range(4)])
        total = builder.fmul(total, weights, flags=_CONTRACT)
        for width in (8, 4):
            low = _shuffle(builder, total, total, range(width))
            high = _shuffle(builder, total, total, range(width, 2 * width))
            total = builder.fadd(low, high, flags=_CONTRACT)
        builder.store(total, _address(context, builder, sig, args, 8, _QUAD), align=4)
        return context.get_dummy_value()

    ints = types.intp
    return types.void(image, ints, ints, weights_x, ints, weights_y, ints, ints, out, ints), codegen
