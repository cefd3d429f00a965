"""Gradient of a divergence by the policy's logits, from the state that the forward pass left of each row.

    policy_ref  p (l - KL)          ref_policy  p - r          jsd  beta p (log(p/M) - KL(p || M))

with l = log(p/r) = delta - pivot - shift; p - r is p (1 - e^-l) where p and r are close.
"""

import torch
import triton
import triton.language as tl
from fluxcore.kernels.logit_pairs import (
    FLOOR,
    NEAR,
    difference,
    load_edge_pair,
    load_pair,
    mixture_ratios,
    same_phase,
    scaled,
    series,
)
from fluxcore.kernels.rows import (
    body_offsets,
    body_tile,
    edge_columns,
    exp,
    launch_options,
    on_device,
    plan_rows,
    programs_to_fill,
    row_bounds,
    row_layout,
)
from torch import Tensor

MAX_SPLITS = 1 << 16  # the second grid dimension


@triton.jit
def sweep(
    x, v, m, v_m, pivot, shift, centre, a, b, scale, beta, DIRECTION: tl.constexpr, SCALED: tl.constexpr
):  # fmt: skip
    # Gradient at the pairs x, v, whose state broadcasts to them: a p's factor over its sum, b likewise that of r.
    l = (scaled(x - v, scale, SCALED) - pivot) - shift
    e = exp(scaled(x, scale, SCALED) - m)
    if DIRECTION == 0:
        dx = e * a * (l - centre)
    elif DIRECTION == 1:
        far = e * a - exp(scaled(v, scale, SCALED) - v_m) * b
        dx = tl.where(tl.abs(l) < NEAR, e * a * (l - l * l * series(l)), far)
    else:
        dx = e * a * (mixture_ratios(l, beta)[0] - centre)
    # A class that the policy excludes gets nothing whatever l is; one that it all but excludes, what r gives it.
    gone = (x == FLOOR) if DIRECTION == 1 else e == 0
    return tl.where(gone | (a == 0), 0.0, dx)


@triton.jit(do_not_specialize=["u_stride", "row_stride", "offset", "v_stride", "v_offset", "N", "V"])
def kl_div_bwd_kernel(
    upstream_ptr, x_ptr, v_ptr, weight_ptr, state_ptr, totals_ptr, dx_ptr,
    u_stride, row_stride, offset, v_stride, v_offset, N, V, scale: tl.float64, beta: tl.float64,
    DIRECTION: tl.constexpr, SCALED: tl.constexpr, WEIGHTED: tl.constexpr, EDGES: tl.constexpr,
    SAME_PHASE: tl.constexpr, SAME_PHASE_OUT: tl.constexpr,
    VEC: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr, DEPTH: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    # Gradient of sum(upstream * loss) by x.
    #
    #   upstream [N] or [] (u_stride 0)     x, v [N, V], row_stride and v_stride apart     state [5, N], totals [1]
    #   dx [N, V], contiguous, x's type     grid (row groups of ROWS, SPLITS)              reads 2 N*V, writes N*V
    #
    # SAME_PHASE_OUT: each row of dx is as far from a 16-byte boundary as that of x.
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = rows < N
    rows = tl.minimum(rows, N - 1).to(tl.int64)
    split = tl.program_id(1)
    begin, first, count = row_bounds(rows, row_stride, offset, V, VEC, EDGES)
    head = first * VEC - begin
    v_begin = rows * v_stride + v_offset
    tiles = (V // VEC + DEPTH * LANES - 1) // (DEPTH * LANES)
    from_tile = tiles * split // SPLITS
    to_tile = tiles * (split + 1) // SPLITS

    plane = tl.cast(N, tl.int64)
    m = tl.load(state_ptr + rows)
    n = 1 + tl.load(state_ptr + plane + rows)
    pivot = tl.load(state_ptr + 2 * plane + rows)
    shift = tl.load(state_ptr + 3 * plane + rows)
    centre = tl.load(state_ptr + 4 * plane + rows)
    g = tl.load(upstream_ptr + rows * u_stride)
    if WEIGHTED:
        g *= tl.load(weight_ptr + rows)
    nothing = g == 0
    g = g / tl.load(totals_ptr) * tl.full((), scale, m.dtype)
    if DIRECTION == 2:
        g *= tl.full((), beta, m.dtype)
    g = tl.where(nothing, 0.0, g)
    # Of r too: its largest logit, or nearly, and the factor over its sum, which is n e^-shift.
    v_m, lost = difference(m, pivot)
    a = g / n
    b = a * tl.exp(shift - (lost + centre))
    # Rows of which nothing comes are not read.
    readable = tl.where(live & (g != 0), count, 0)

    for tile in range(from_tile, to_tile):
        x, v = load_pair(x_ptr, v_ptr, first, readable, v_begin + head, tile, SAME_PHASE, VEC, DEPTH, LANES)
        dx = sweep(
            x, v, m[None, :, None, None], v_m[None, :, None, None], pivot[None, :, None, None],
            shift[None, :, None, None], centre[None, :, None, None], a[None, :, None, None], b[None, :, None, None],
            scale, beta, DIRECTION, SCALED,
        )  # fmt: skip
        vectors = body_tile(tile, DEPTH, LANES)
        start = rows * V + head
        if SAME_PHASE_OUT:
            start = start // VEC * VEC
        in_body = ((vectors < count[None, :, None]) & live[None, :, None])[:, :, :, None]
        place = (dx_ptr + start)[None, :, None, None] + body_offsets(vectors, VEC)
        tl.store(place, dx.to(dx_ptr.dtype.element_ty), mask=in_body)
    if EDGES:
        columns, in_edge = edge_columns(begin, first, count, V, VEC, LANES)
        in_edge = in_edge & live[None, :] & (split == 0)
        x, v = load_edge_pair(x_ptr, v_ptr, begin, v_begin, columns, in_edge & (g != 0)[None, :])
        dx = sweep(
            x, v, m[None, :], v_m[None, :], pivot[None, :], shift[None, :], centre[None, :], a[None, :],
            b[None, :], scale, beta, DIRECTION, SCALED,
        )  # fmt: skip
        tl.store(dx_ptr + rows[None, :] * V + columns, dx.to(dx_ptr.dtype.element_ty), mask=in_edge)


def launch_kl_div_bwd(
    upstream: Tensor,
    logits: Tensor,
    ref_logits: Tensor,
    token_weight: Tensor | None,
    state: Tensor,
    totals: Tensor,
    direction: str,
    beta: float,
    reduction: str,
    temperature: float,
    gradient: Tensor,
) -> None:
    """Fill `gradient` [N, V]; `upstream` is [] or [N], the rest is what the forward pass took and left."""
    N, V = logits.shape
    if N == 0:
        return
    x, v = row_layout(logits), row_layout(ref_logits)
    plan = plan_rows(N, V, logits.element_size(), x.edges, programs_to_fill(logits.device), MAX_SPLITS)
    with on_device(logits):
        kl_div_bwd_kernel[plan.grid](
            upstream, x.base, v.base, state if token_weight is None else token_weight, state, totals, gradient,
            upstream.stride(0) if upstream.dim() else 0, logits.stride(0), x.offset, ref_logits.stride(0), v.offset,
            N, V, 1 / temperature, beta,
            DIRECTION=("policy_ref", "ref_policy", "jsd").index(direction), SCALED=temperature != 1,
            WEIGHTED=token_weight is not None, EDGES=x.edges,
            SAME_PHASE=same_phase(x, v, logits.stride(0) - ref_logits.stride(0)),
            SAME_PHASE_OUT=x.offset == 0 and (logits.stride(0) - V) % x.vec == 0,
            VEC=x.vec, ROWS=plan.rows, LANES=plan.lanes, DEPTH=min(plan.depth, 16 // x.vec or 1), SPLITS=plan.splits,
            **launch_options(crowded=direction == "jsd" or logits.dtype == torch.float64),
        )  # fmt: skip
