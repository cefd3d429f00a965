"""A gradient times a scalar, in place."""

import triton
import triton.language as tl
from fluxcore.kernels.rows import NUM_WARPS, on_device, programs_to_fill, widen
from torch import Tensor

BLOCK_BYTES = 8192  # four 16-byte vectors a thread


@triton.jit
def scaled(x, scale):
    # 0 times whatever is 0: nothing comes from rows with no upstream gradient, be they poisoned.
    return tl.where(scale == 0, 0.0, widen(x) * scale).to(x.dtype)


@triton.jit(do_not_specialize=["size"])
def scale_kernel(x_ptr, scale_ptr, size, BLOCK: tl.constexpr):
    # x *= scale for x [size] contiguous and a scalar on the device; x is not touched if that is 1.
    #
    #   grid: any number of programs, which take turns in blocks     reads and writes `size`
    scale = tl.load(scale_ptr)
    if scale != 1:
        lane = tl.arange(0, BLOCK)
        blocks = size // BLOCK
        for block in range(tl.program_id(0), blocks, tl.num_programs(0)):
            places = x_ptr + tl.cast(block, tl.int64) * BLOCK + lane
            tl.store(places, scaled(tl.load(places), scale))
        if tl.program_id(0) == 0:
            rest = blocks.to(tl.int64) * BLOCK + lane
            x = tl.load(x_ptr + rest, mask=rest < size, other=0.0)
            tl.store(x_ptr + rest, scaled(x, scale), mask=rest < size)


def launch_scale_(gradient: Tensor, scale: Tensor) -> None:
    """Multiply `gradient`, contiguous, by `scale` [] of float32 (float64 for a float64 gradient)."""
    size, block = gradient.numel(), BLOCK_BYTES // gradient.element_size()
    if size == 0:
        return
    programs = min(max(1, size // block), 4 * programs_to_fill(gradient.device))
    with on_device(gradient):
        scale_kernel[(programs,)](gradient, scale, size, BLOCK=block, num_warps=NUM_WARPS)
