"""Generalized advantage estimation: a scan from the last step to the first, in tiles of time with a carry between them.

A step maps what comes from the step after it, A', to A = k A' + b; maps compose, and a scan composes them in parallel.
Where steps may be left out, the next value that counts takes part too: (A', V') -> (k A' + e V' + b, f V' + v).
"""

import torch
import triton
import triton.language as tl
from fluxcore.kernels.rows import NUM_WARPS, on_device, widen
from torch import Tensor

TILE = 2048  # steps of all rows of a program


@triton.jit
def times(k, x):
    # k x, and 0 where k is, whatever x.
    return tl.where(k == 0, 0.0, k * x)


@triton.jit
def compose(k1, b1, k2, b2):
    # First the step of 1, which is later in time, then that of 2.
    return times(k2, k1), times(k2, b1) + b2


@triton.jit
def compose_with_values(k1, e1, b1, f1, v1, k2, e2, b2, f2, v2):
    return (
        times(k2, k1),
        times(k2, e1) + times(e2, f1),
        times(k2, b1) + (times(e2, v1) + b2),
        times(f2, f1),
        times(f2, v1) + v2,
    )


@triton.jit(do_not_specialize=["T", "inner", "width", "groups"])
def gae_kernel(
    rewards_ptr, values_ptr, dones_ptr, bootstrap_ptr, mask_ptr, ratio_ptr, advantages_ptr, returns_ptr,
    T, inner, width, groups, gamma: tl.float64, decay: tl.float64, rho_clip: tl.float64, c_clip: tl.float64,
    TIME_LAST: tl.constexpr, MASKED: tl.constexpr, RATIO: tl.constexpr, ROWS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    # Advantages and returns of each row.
    #
    #   rewards, values, dones, mask (bytes), ratio, advantages, returns [outer, T, inner], contiguous
    #   bootstrap [outer, inner]     grid (groups of ROWS rows in slabs,)     reads and writes all of them once
    #
    # TIME_LAST: inner is 1, and the rows of all slabs stand side by side, `width` of them; else those of one slab.
    # mask and ratio are unused without MASKED and RATIO.
    column = tl.program_id(0) % groups * ROWS + tl.arange(0, ROWS)
    live = column < width
    column = tl.minimum(column, width - 1).to(tl.int64)
    slab = (tl.program_id(0) // groups).to(tl.int64)
    if TIME_LAST:
        rows = column
        begin = rows * T
        stride = 1
    else:
        rows = slab * inner + column
        begin = slab * T * inner + column
        stride = inner
    wide = bootstrap_ptr.dtype.element_ty
    next_value = tl.load(bootstrap_ptr + rows)
    advantage = tl.zeros([ROWS], wide)
    g = tl.full((), gamma, wide)
    d = tl.full((), decay, wide)
    step = tl.arange(0, STEPS)
    for tile in range((T + STEPS - 1) // STEPS - 1, -1, -1):
        t = tile * STEPS + step
        inside = live[:, None] & (t < T)[None, :]
        places = begin[:, None] + t[None, :].to(tl.int64) * stride
        r = widen(tl.load(rewards_ptr + places, mask=inside, other=0.0))
        value = widen(tl.load(values_ptr + places, mask=inside, other=0.0))
        n = 1 - tl.load(dones_ptr + places, mask=inside, other=0).to(wide)
        rho = tl.full((), 1, wide)
        c = tl.full((), 1, wide)
        if RATIO:
            ratio = tl.load(ratio_ptr + places, mask=inside, other=1.0)
            rho = tl.minimum(ratio, tl.full((), rho_clip, wide), propagate_nan=tl.PropagateNan.ALL)
            c = tl.minimum(ratio, tl.full((), c_clip, wide), propagate_nan=tl.PropagateNan.ALL)
        counts = inside
        if MASKED:
            counts = inside & (tl.load(mask_ptr + places, mask=inside, other=0) != 0)
            k = tl.where(counts, d * n * c, 1.0)
            e = tl.where(counts, rho * g * n, 0.0)
            b = tl.where(counts, rho * (r - value), 0.0)
            f = tl.where(counts, 0.0, 1.0).to(wide)
            v = tl.where(counts, value, 0.0)
            k, e, b, f, v = tl.associative_scan((k, e, b, f, v), 1, compose_with_values, reverse=True)
            found = times(k, advantage[:, None]) + (times(e, next_value[:, None]) + b)
            found_value = times(f, next_value[:, None]) + v
        else:
            after = tl.load(values_ptr + places + stride, mask=inside & (t + 1 < T)[None, :], other=0.0)
            after = tl.where((t + 1 < T)[None, :], widen(after), next_value[:, None])
            k = tl.where(inside, d * n * c, 1.0)
            b = tl.where(inside, rho * ((r + g * times(n, after)) - value), 0.0)
            k, b = tl.associative_scan((k, b), 1, compose, reverse=True)
            found = times(k, advantage[:, None]) + b
            found_value = value
        tl.store(advantages_ptr + places, tl.where(counts, found, 0.0), mask=inside)
        tl.store(returns_ptr + places, tl.where(counts, found + value, 0.0), mask=inside)
        first = (step == 0)[None, :]
        advantage = tl.sum(tl.where(first, found, 0.0), axis=1)
        if MASKED:
            next_value = tl.sum(tl.where(first, found_value, 0.0), axis=1)


def launch_gae(
    rewards: Tensor,
    values: Tensor,
    dones: Tensor,
    bootstrap: Tensor,
    mask: Tensor | None,
    ratio: Tensor | None,
    gamma: float,
    lam: float,
    rho_clip: float,
    c_clip: float,
    advantages: Tensor,
    returns: Tensor,
) -> None:
    """Fill `advantages` and `returns` [outer, T, inner] from contiguous tensors; `mask` is bytes, `dones` may be."""
    outer, T, inner = rewards.shape
    if rewards.numel() == 0:
        return
    time_last = inner == 1
    width, slabs = (outer, 1) if time_last else (inner, outer)
    # Neighbours in memory stand side by side: steps of a row, or rows of a step.
    steps = min(256 if time_last else 32, triton.next_power_of_2(T))
    rows = min(TILE // steps // (2 if rewards.dtype == torch.float64 else 1), triton.next_power_of_2(width))
    groups = triton.cdiv(width, rows)
    with on_device(rewards):
        gae_kernel[(groups * slabs,)](
            rewards, values, dones, bootstrap, rewards if mask is None else mask, rewards if ratio is None else ratio,
            advantages, returns, T, inner, width, groups, gamma, gamma * lam, rho_clip, c_clip, TIME_LAST=time_last,
            MASKED=mask is not None, RATIO=ratio is not None, ROWS=rows, STEPS=steps, num_warps=NUM_WARPS,
        )  # fmt: skip
