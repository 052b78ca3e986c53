"""Denormal numbers off and on again: where u diffuses into still regions it decays to them.

On Zen 5 they cost nothing that can be measured; processors that handle them by microcode take over a
hundred cycles for each.
"""

import platform

from llvmlite import ir
from numba import types
from numba.core import cgutils

from stin_pipe.pipeline.flow.cpu.simd import lane_intrinsic

HAS_MXCSR = platform.machine() in ("x86_64", "AMD64")
_FLUSH = 0x8040  # MXCSR: results (bit 15) and operands (bit 6) that are denormal count as zero
_I32 = ir.IntType(32)


def _move(builder, name: str, slot) -> None:
    pointer = builder.bitcast(slot, ir.PointerType(ir.IntType(8)))
    kind = ir.FunctionType(ir.VoidType(), [pointer.type])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.sse.{name}"), [pointer])


@lane_intrinsic
def flush_denormals(typingctx):
    """Let this thread treat denormals as zero; return the old mode, for `restore_denormals`.

    Processors other than x86 keep them: slower there, and never wrong.
    """
    del typingctx

    def codegen(context, builder, sig, args):
        del context, sig, args
        slot = cgutils.alloca_once_value(builder, ir.Constant(_I32, 0))
        if HAS_MXCSR:
            _move(builder, "stmxcsr", slot)
            before = builder.load(slot)
            builder.store(builder.or_(before, ir.Constant(_I32, _FLUSH)), slot)
            _move(builder, "ldmxcsr", slot)
            return before
        return builder.load(slot)

    return types.int32(), codegen


@lane_intrinsic
def restore_denormals(typingctx, mode):
    """Restore the mode of before `flush_denormals`, which other code of the thread may rely on."""
    del typingctx

    def codegen(context, builder, sig, args):
        del sig
        if HAS_MXCSR:
            slot = cgutils.alloca_once_value(builder, args[0])
            builder.store(args[0], slot)
            _move(builder, "ldmxcsr", slot)
        return context.get_dummy_value()

    return types.void(types.int32), codegen
