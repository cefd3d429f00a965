"""The gradient of the softmax statistics of rows of logits: kernel and launcher, by way of row_gradient.py."""

import torch
import triton
import triton.language as tl
from fluxcore.kernels.row_gradient import gradient_of_rows, max_gradient_splits
from fluxcore.kernels.rows import (
    launch_options,
    on_device,
    plan_rows,
    programs_to_fill,
    row_layout,
    rows_of_program,
    transform_kind,
)
from torch import Tensor


@triton.jit
def upstream(grads_ptr, rows, N, like, OUTPUTS: tl.constexpr, BIT: tl.constexpr):
    # Upstream gradient [ROWS] of the output whose bit is BIT; 0 where it was not asked for.
    grad = tl.zeros_like(like)
    if OUTPUTS & BIT:
        index = 0
        for lower in tl.static_range(6):
            if (OUTPUTS & (BIT - 1)) >> lower & 1:
                index += 1
        grad = tl.load(grads_ptr + index * tl.cast(N, tl.int64) + rows)
    return grad


@triton.jit(do_not_specialize=["row_stride", "offset", "N", "V"])
def softmax_stats_bwd_kernel(
    x_ptr, y_ptr, grads_ptr, argmax_ptr, state_ptr, top_index_ptr, dx_ptr,
    row_stride, offset, N, V, scale: tl.float64, softcap: tl.float64,
    OUTPUTS: tl.constexpr, TOP_K: tl.constexpr, SLOTS: tl.constexpr, TRANSFORM: tl.constexpr, EDGES: tl.constexpr,
    SAME_PHASE: tl.constexpr, VEC: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr, DEPTH: tl.constexpr,
    SPLITS: tl.constexpr,
):  # fmt: skip
    # Gradient of sum(grads * stats) by the logits, from the saved state; one exponential an element.
    #
    #   x [N, V], row_stride apart, from `offset`     grads [requested, N]     dx [N, V], contiguous, x's type
    #   grid (row groups of ROWS, SPLITS)             reads N*V, writes N*V
    #
    # SAME_PHASE: each row of dx is as far from a 16-byte boundary as that of x, so its body too moves by 16 bytes.
    rows, live, split, from_tile, to_tile, begin, first, count = rows_of_program(
        N, V, row_stride, offset, VEC, ROWS, LANES, DEPTH, SPLITS, EDGES
    )
    plane = tl.cast(N, tl.int64)
    m = tl.load(state_ptr + rows)
    s = tl.load(state_ptr + plane + rows)
    n = 1 + s
    mean = tl.load(state_ptr + 2 * plane + rows) / n
    varentropy = tl.load(state_ptr + 3 * plane + rows) / n
    outside = tl.load(state_ptr + 5 * plane + rows) / n
    argmax = tl.load(argmax_ptr + rows)
    y = argmax
    if OUTPUTS & 2:
        y = tl.load(y_ptr + rows)

    g_lse = upstream(grads_ptr, rows, N, m, OUTPUTS, 1)
    g_logprob = upstream(grads_ptr, rows, N, m, OUTPUTS, 2)
    g_entropy = upstream(grads_ptr, rows, N, m, OUTPUTS, 4)
    g_var = upstream(grads_ptr, rows, N, m, OUTPUTS, 8)
    g_max = upstream(grads_ptr, rows, N, m, OUTPUTS, 16)
    g_rest = upstream(grads_ptr, rows, N, m, OUTPUTS, 32)
    g_top = upstream(grads_ptr, rows, N, m, OUTPUTS, 64)
    # Nothing comes from a row with no upstream gradient, be it poisoned, nor from one whose logits are all -inf.
    nothing = (g_lse == 0) & (g_logprob == 0) & (g_entropy == 0) & (g_var == 0) & (g_max == 0) & (g_rest == 0)
    nothing = (nothing & (g_top == 0)) | (m == -float("inf"))
    g_logprob = tl.where((g_logprob != 0) & ((y < 0) | (y >= V)), float("nan"), g_logprob)
    none = tl.zeros_like(m)
    gradient_of_rows(
        x_ptr, dx_ptr, top_index_ptr, rows, live, split, from_tile, to_tile, begin, first, count, V, scale, softcap,
        None, m, s, mean, varentropy, outside, argmax, y, g_lse, g_logprob, g_entropy, g_var, g_max - g_rest, g_top,
        none, none, nothing,
        OUTPUTS, 0, False, TOP_K, SLOTS, TRANSFORM, EDGES, SAME_PHASE, VEC, LANES, DEPTH,
    )  # fmt: skip


def launch_softmax_stats_bwd(
    x: Tensor,
    target: Tensor | None,
    outputs: int,
    top_k: int,
    temperature: float,
    softcap: float,
    grads: Tensor,
    argmax: Tensor,
    state: Tensor,
    top_index: Tensor,
    dx: Tensor,
) -> None:
    """Fill dx [N, V], which may be x itself, with the gradient by x of sum(grads * stats).

    The rest is what the forward pass left.
    """
    N, V = x.shape
    if outputs == 0:
        dx.zero_()
    if outputs == 0 or N == 0:
        return
    layout = row_layout(x)
    max_splits = max_gradient_splits(x, dx, top_k)
    plan = plan_rows(N, V, x.element_size(), layout.edges, programs_to_fill(x.device), max_splits)
    depth = min(plan.depth, 32 // layout.vec)  # nothing asks for a whole row at once here, and registers are short
    with on_device(x):
        softmax_stats_bwd_kernel[plan.grid](
            layout.base, argmax if target is None else target, grads, argmax, state, top_index, dx,
            x.stride(0), layout.offset, N, V, 1 / temperature, softcap,
            OUTPUTS=outputs, TOP_K=top_k, SLOTS=triton.next_power_of_2(2 + top_k),
            TRANSFORM=transform_kind(temperature, softcap), EDGES=layout.edges,
            SAME_PHASE=layout.offset == 0 and (x.stride(0) - V) % layout.vec == 0, VEC=layout.vec,
            ROWS=plan.rows, LANES=plan.lanes, DEPTH=depth, SPLITS=plan.splits,
            **launch_options(top_k > 0 or softcap > 0 or x.dtype == torch.float64, plan),
        )  # fmt: skip
