"""numba's CUDA compiler, the right one, and the 16-byte memory accesses that it lacks.

Importing this module needs the package numba-cuda, but no GPU. Under numba's simulator
(NUMBA_ENABLE_CUDASIM=1) pointers are numpy arrays and the accesses are plain ones.
"""

# Each name below has one of two definitions, and numba types both.
# pyright: reportRedeclaration=false, reportAttributeAccessIssue=false, reportArgumentType=false

import numpy as np
from numba import cuda, types
from numba.core import config

from stin_pipe.stin.shards.errors import StinPipeError

INSTALL = 'install it with: pip install "stin-pipe[cuda]"'

if not config.ENABLE_CUDASIM and "numba_cuda" not in (cuda.__file__ or ""):
    # numba carries an old numba.cuda of its own, which the package numba-cuda takes the place of.
    raise StinPipeError(f"the package numba-cuda is missing (numba.cuda is {cuda.__file__}): {INSTALL}")

FLOATS = types.CPointer(types.float32)
INTS = types.CPointer(types.int32)
BYTES = types.CPointer(types.uint8)

if config.ENABLE_CUDASIM:

    def device(function):
        """Leave a function as it is: the simulator runs Python."""
        return function

    def load4(array, at):
        """Return the 4 floats at `at`."""
        return tuple(np.float32(value) for value in array[at : at + 4])

    def store4(array, at, a, b, c, d):
        """Put 4 floats at `at`."""
        array[at : at + 4] = (a, b, c, d)

    def select(condition, yes, no):
        """Return `yes` or `no`."""
        return yes if condition else no

    def advance(array, count):
        """Return the array from `count` on."""
        return array[count:]

    def take_ticket(counter):
        """Add one to an integer, and return its old value; blocks are simulated one after another."""
        counter[0] += 1
        return counter[0] - 1

    def pointer_to(array):
        """Return what the simulator indexes: the array."""
        return array

else:
    from llvmlite import ir
    from numba.core.extending import intrinsic

    _ROW = ir.VectorType(ir.FloatType(), 4)
    _ROW_BYTES = 16

    def device(function):
        """Compile a function into the kernels that call it."""
        # Inlined before typing: a called device function would ask for a GPU at compile time.
        return cuda.jit(device=True, fastmath=True, inline="always")(function)

    def _row_address(builder, pointer, at):
        return builder.bitcast(builder.gep(pointer, [at]), _ROW.as_pointer())

    @intrinsic
    def load4(typing_context, pointer, at):
        """Return the 4 floats at `at`, a multiple of 4, in one access."""

        def generate(context, builder, signature, arguments):
            row = builder.load(_row_address(builder, *arguments), align=_ROW_BYTES)
            values = [builder.extract_element(row, ir.Constant(ir.IntType(32), lane)) for lane in range(4)]
            return context.make_tuple(builder, signature.return_type, values)

        return types.UniTuple(types.float32, 4)(pointer, types.int64), generate

    @intrinsic
    def store4(typing_context, pointer, at, a, b, c, d):
        """Put 4 floats at `at`, a multiple of 4, in one access."""

        def generate(context, builder, signature, arguments):
            row = ir.Constant(_ROW, ir.Undefined)
            for lane, value in enumerate(arguments[2:]):
                row = builder.insert_element(row, value, ir.Constant(ir.IntType(32), lane))
            builder.store(row, _row_address(builder, *arguments[:2]), align=_ROW_BYTES)
            return context.get_dummy_value()

        return types.void(pointer, types.int64, *[types.float32] * 4), generate

    @intrinsic
    def select(typing_context, condition, yes, no):
        """Return `yes` or `no` without a branch."""

        def generate(context, builder, signature, arguments):
            return builder.select(*arguments)

        return yes(types.boolean, yes, yes), generate

    @intrinsic
    def advance(typing_context, pointer, count):
        """Return the pointer `count` elements on, so that what follows counts in 32 bits."""

        def generate(context, builder, signature, arguments):
            return builder.gep(arguments[0], [arguments[1]])

        return pointer(pointer, types.int64), generate

    @intrinsic
    def take_ticket(typing_context, counter):
        """Add one to the integer at a pointer, at once for all blocks, and return its old value."""

        def generate(context, builder, signature, arguments):
            return builder.atomic_rmw("add", arguments[0], ir.Constant(ir.IntType(32), 1), "monotonic")

        return types.int32(counter), generate

    @intrinsic
    def pointer_to(typing_context, array):
        """Return an array's bare pointer: indexing an array would test for negative indices each time."""

        def generate(context, builder, signature, arguments):
            return context.make_array(signature.args[0])(context, builder, arguments[0]).data

        return FLOATS(array), generate
