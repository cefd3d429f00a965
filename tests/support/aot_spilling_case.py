"""A kernel that must not pass the gate."""

import torch
import triton
import triton.language as tl


@triton.jit(do_not_specialize=["offset"])
def spilling_kernel(x_ptr, offset, SIZE: tl.constexpr):
    columns = tl.arange(0, SIZE)
    x = tl.load(x_ptr + offset + columns)
    for _ in range(2):
        x = tl.exp2(x - tl.max(x, axis=0)) + tl.sum(x, axis=0)
    tl.store(x_ptr + offset + columns, x)


def launch() -> None:
    spilling_kernel[(1,)](torch.empty(16), 3, SIZE=16384, num_warps=1)


CASES = {"spills": launch}
