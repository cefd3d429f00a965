"""One backward pass for every function of the softmax statistics of a row.

Such a function has, at nearly every class, the gradient e^z (a + b u + c u^2) with z = x - m, u = z - mean = log p + H
and three coefficients a row. (In powers of z instead it would cancel where the mean is far from m.) At the argmax, the
target and the top k other terms come in, which cancel against that; there the value is computed on its own, in residual
form, and *replaces* the sweep's. So a further statistic or penalty costs no bytes.
"""

import torch
import triton
import triton.language as tl
from fluxcore.kernels.rows import (
    body_offsets,
    body_tile,
    centred,
    edge_columns,
    exp,
    launch_options,
    load_body,
    on_device,
    plan_rows,
    programs_to_fill,
    row_bounds,
    row_layout,
    tanh_parts,
    transform,
    transform_kind,
    widen,
)
from torch import Tensor

MAX_SPLITS = 1 << 16  # the second grid dimension


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


@triton.jit
def softcap_derivative(x, softcap):
    return tanh_parts(x / tl.full((), softcap, x.dtype))[1]


@triton.jit
def sweep(x, m, mean, a, b, c, nothing, scale, softcap, OUTPUTS: tl.constexpr, TRANSFORM: tl.constexpr):
    # e^z (a + b u + c u^2) at the logits x, with the softcap's derivative; the other arguments broadcast to x.
    z = centred(transform(x, scale, softcap, TRANSFORM), m)
    if OUTPUTS & 8:
        u = z - mean
        factor = a + u * (b + u * c)
    elif OUTPUTS & 4:
        factor = a + (z - mean) * b
    else:
        factor = a
    dx = exp(z) * factor
    if TRANSFORM == 2:
        dx *= softcap_derivative(x, softcap)
    return tl.where(nothing, 0.0, dx)


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
    # Special classes stand in SLOTS slots: the argmax, the target, then the top k.
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = rows < N
    rows = tl.minimum(rows, N - 1).to(tl.int64)
    split = tl.program_id(1)
    begin, first, count = row_bounds(rows, row_stride, offset, V, VEC, EDGES)
    head = first * VEC - begin
    tiles = (V // VEC + DEPTH * LANES - 1) // (DEPTH * LANES)
    from_tile = tiles * split // SPLITS
    to_tile = tiles * (split + 1) // SPLITS

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
    g_max -= g_rest
    g_logprob = tl.where((g_logprob != 0) & ((y < 0) | (y >= V)), float("nan"), g_logprob)

    slots = tl.arange(0, SLOTS)[None, :]
    special = tl.where(slots == 0, argmax[:, None], tl.where(slots == 1, y[:, None], -1))
    if TOP_K > 0:
        listed = (slots >= 2) & (slots < 2 + TOP_K)
        members = tl.load(top_index_ptr + rows[:, None] * TOP_K + (slots - 2), mask=listed, other=-1).to(tl.int64)
        special = tl.where(listed, members, special)
    known = (special >= 0) & (special < V)
    x_special = widen(tl.load(x_ptr + begin[:, None] + special, mask=known, other=-float("inf")))
    z_special = centred(transform(x_special, scale, softcap, TRANSFORM), m[:, None])
    p_special = exp(z_special) / n[:, None]
    inside = tl.zeros_like(m)
    if TOP_K > 0:
        inside = tl.sum(tl.where(listed, p_special, 0.0), axis=1)

    # `own` is the part of a that is right at the special classes too.
    own = g_lse - g_var * varentropy
    b = 2 * g_var - g_entropy
    factor = tl.full((), scale, m.dtype) / n
    sweep_a = (own - g_logprob - g_max / n - g_top * inside) * factor
    sweep_b = b * factor
    sweep_c = g_var * factor
    for tile in range(from_tile, to_tile):
        x = load_body(x_ptr, first, count, tile, VEC, DEPTH, LANES)
        dx = sweep(
            x, m[None, :, None, None], mean[None, :, None, None], sweep_a[None, :, None, None],
            sweep_b[None, :, None, None], sweep_c[None, :, None, None], nothing[None, :, None, None],
            scale, softcap, OUTPUTS, TRANSFORM,
        )  # fmt: skip
        vectors = body_tile(tile, DEPTH, LANES)
        start = rows * V + head
        if SAME_PHASE:
            start = start // VEC * VEC
        in_body = ((vectors < count[None, :, None]) & live[None, :, None])[:, :, :, None]
        place = (dx_ptr + start)[None, :, None, None] + body_offsets(vectors, VEC)
        tl.store(place, dx.to(dx_ptr.dtype.element_ty), mask=in_body)
    if EDGES:
        columns, in_edge = edge_columns(begin, first, count, V, VEC, LANES)
        in_edge = in_edge & live[None, :] & (split == 0)
        x = widen(tl.load(x_ptr + begin[None, :] + columns, mask=in_edge, other=-float("inf")))
        dx = sweep(
            x, m[None, :], mean[None, :], sweep_a[None, :], sweep_b[None, :], sweep_c[None, :], nothing[None, :],
            scale, softcap, OUTPUTS, TRANSFORM,
        )  # fmt: skip
        tl.store(dx_ptr + rows[None, :] * V + columns, dx.to(dx_ptr.dtype.element_ty), mask=in_edge)

    if OUTPUTS & (2 | 16 | 32 | 64):
        in_top_k = tl.full([1, SLOTS], TOP_K > 0, tl.int1)
        if TOP_K > 0:
            target_listed = tl.max((listed & (special == y[:, None])).to(tl.int32), axis=1) > 0
            in_top_k = (slots != 1) | target_listed[:, None]
        is_argmax = special == argmax[:, None]
        one_minus_p = tl.where(is_argmax, (s / n)[:, None], 1 - p_special)
        u_special = z_special - mean[:, None]
        dx = p_special * (own[:, None] + u_special * (b[:, None] + u_special * g_var[:, None]))
        dx += g_logprob[:, None] * tl.where(special == y[:, None], one_minus_p, -p_special)
        dx += (g_max / n)[:, None] * tl.where(is_argmax, one_minus_p, -p_special)
        dx += g_top[:, None] * p_special * tl.where(in_top_k, outside[:, None], -inside[:, None])
        dx *= tl.full((), scale, m.dtype)
        if TRANSFORM == 2:
            dx *= softcap_derivative(x_special, softcap)
        dx = tl.where(nothing[:, None] | (x_special == -float("inf")), 0.0, dx)
        # The program that swept a class replaces it, and only after each of its threads has stored its part.
        tile = (special - head[:, None]) // (VEC * DEPTH * LANES)
        in_body = (special >= head[:, None]) & (special < (head + count * VEC)[:, None])
        ours = tl.where(in_body, (tile >= from_tile) & (tile < to_tile), split == 0)
        tl.debug_barrier()
        tl.store(
            dx_ptr + rows[:, None] * V + special, dx.to(dx_ptr.dtype.element_ty), mask=known & ours & live[:, None]
        )


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
    """Fill dx [N, V] with the gradient by x of sum(grads * stats); the rest is what the forward pass left."""
    N, V = x.shape
    if outputs == 0:
        dx.zero_()
    if outputs == 0 or N == 0:
        return
    layout = row_layout(x)
    plan = plan_rows(N, V, x.element_size(), layout.edges, programs_to_fill(x.device), MAX_SPLITS)
    depth = min(plan.depth, 32 // layout.vec)  # nothing asks for a whole row at once here, and registers are short
    with on_device(x):
        softmax_stats_bwd_kernel[plan.grid](
            layout.base, argmax if target is None else target, grads, argmax, state, top_index, dx,
            x.stride(0), layout.offset, N, V, 1 / temperature, softcap,
            OUTPUTS=outputs, TOP_K=top_k, SLOTS=triton.next_power_of_2(2 + top_k),
            TRANSFORM=transform_kind(temperature, softcap), EDGES=layout.edges,
            SAME_PHASE=layout.offset == 0 and (x.stride(0) - V) % layout.vec == 0, VEC=layout.vec,
            ROWS=plan.rows, LANES=plan.lanes, DEPTH=depth, SPLITS=plan.splits,
            **launch_options(crowded=top_k > 0 or softcap > 0 or x.dtype == torch.float64),
        )  # fmt: skip
