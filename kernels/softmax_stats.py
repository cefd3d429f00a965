"""Softmax statistics of rows of logits: forward kernels and their launcher; softmax_stats_gradient.py has the gradient.

Bits of OUTPUTS: 1 lse, 2 logprob, 4 entropy, 8 varentropy, 16 max_prob, 32 one_minus_max_prob, 64 top_k_mass.
"""

import torch
import triton
import triton.language as tl
from fluxcore.kernels.row_scan import merge_parts, scan, store_part
from fluxcore.kernels.rows import (
    NO_COLUMN,
    launch_options,
    log1p,
    on_device,
    plan_rows,
    programs_to_fill,
    row_layout,
    rows_of_program,
    transform,
    transform_kind,
    widen,
)
from fluxcore.kernels.top_k import top_k_of_rows
from torch import Tensor

MAX_SPLITS = 64


@triton.jit
def settle(m, c, s):
    # The m and s of the saved state, the maximum counted once: m is -inf for a row of them, s then NaN, as for m NaN.
    empty = (c == 0) & (m == m)
    m = tl.where(empty, -float("inf"), m)
    return m, tl.where(empty | (m != m), float("nan"), s + (c - 1))


@triton.jit
def target_logit(x_ptr, begin, y, V, scale, softcap, TRANSFORM: tl.constexpr):
    # The transformed logit of class y [ROWS], NaN for no class.
    valid = (y >= 0) & (y < V)
    x_y = transform(widen(tl.load(x_ptr + begin + y, mask=valid, other=0.0)), scale, softcap, TRANSFORM)
    return tl.where(valid, x_y, float("nan"))


@triton.jit
def store_stats(
    stats_ptr, argmax_ptr, rows, live, N, m, s, t, q, inside, outside, x_y, y, column, OUTPUTS: tl.constexpr
):
    # Store the statistics that are asked for, and the argmax, of the rows [ROWS] whose state is given.
    n = 1 + s
    log_n = log1p(s)
    row_count = tl.cast(N, tl.int64)
    out = stats_ptr + rows
    if OUTPUTS & 1:
        tl.store(out, tl.where(tl.abs(m) == float("inf"), m, m + log_n), mask=live)
        out += row_count
    if OUTPUTS & 2:
        tl.store(out, tl.where(y == column, 0.0, x_y - m) - log_n, mask=live)
        out += row_count
    if OUTPUTS & 4:
        tl.store(out, log_n - t / n, mask=live)
        out += row_count
    if OUTPUTS & 8:
        tl.store(out, q / n, mask=live)
        out += row_count
    if OUTPUTS & 16:
        tl.store(out, 1 / n, mask=live)
        out += row_count
    if OUTPUTS & 32:
        tl.store(out, s / n, mask=live)
        out += row_count
    if OUTPUTS & 64:
        tl.store(out, tl.where(outside < inside, 1 - outside / n, inside / n), mask=live)
    tl.store(argmax_ptr + rows, column.to(tl.int64), mask=live)


@triton.jit
def finish(
    y_ptr, stats_ptr, argmax_ptr, state_ptr, x_ptr, begin, rows, live, N, V, scale, softcap,
    m, c, s, t, q, inside, outside, column, OUTPUTS: tl.constexpr, TRANSFORM: tl.constexpr,
):  # fmt: skip
    # Store the requested statistics and the state of the rows [ROWS] whose sums are given.
    m, s = settle(m, c, s)
    column = tl.where(column == NO_COLUMN, 0, column)
    x_y = tl.zeros_like(m)
    y = column
    if OUTPUTS & 2:
        y = tl.load(y_ptr + rows)
        x_y = target_logit(x_ptr, begin, y, V, scale, softcap, TRANSFORM)
    store_stats(stats_ptr, argmax_ptr, rows, live, N, m, s, t, q, inside, outside, x_y, y, column, OUTPUTS)
    row_count = tl.cast(N, tl.int64)
    state = state_ptr + rows
    tl.store(state, m, mask=live)
    tl.store(state + row_count, s, mask=live)
    tl.store(state + 2 * row_count, t, mask=live)
    tl.store(state + 3 * row_count, q, mask=live)
    tl.store(state + 4 * row_count, x_y, mask=live)
    tl.store(state + 5 * row_count, outside, mask=live)


@triton.jit
def store_top_index(top_index_ptr, rows, live, indices, TOP_K: tl.constexpr):
    slots = tl.arange(0, indices.shape[1])[None, :]
    tl.store(top_index_ptr + rows[:, None] * TOP_K + slots, indices, mask=live[:, None] & (slots < TOP_K))


@triton.jit(do_not_specialize=["row_stride", "offset", "N", "V"])
def softmax_stats_fwd_kernel(
    x_ptr, y_ptr, stats_ptr, argmax_ptr, state_ptr, top_index_ptr, partial_ptr, partial_column_ptr,
    row_stride, offset, N, V, scale: tl.float64, softcap: tl.float64,
    OUTPUTS: tl.constexpr, TOP_K: tl.constexpr, SLOTS: tl.constexpr, TRANSFORM: tl.constexpr, EDGES: tl.constexpr,
    VEC: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr, DEPTH: tl.constexpr, SPLITS: tl.constexpr,
    WHOLE_ROW: tl.constexpr,
):  # fmt: skip
    # Statistics of each row in one pass, one exponential an element.
    #
    #   x [N, V] float, row_stride apart, from `offset`      y [N] int64, or unused
    #   stats [requested, N], argmax [N], state [6, N]: see the op's schema;  top_index [N, TOP_K] int32
    #   grid (row groups of ROWS, SPLITS)                    reads N*V (twice with TOP_K), writes about 10 N
    #
    # SPLITS > 1: each program leaves its part of the row for softmax_stats_merge_kernel.
    rows, live, split, from_tile, to_tile, begin, first, count = rows_of_program(
        N, V, row_stride, offset, VEC, ROWS, LANES, DEPTH, SPLITS, EDGES
    )
    m, c, s, t, q, k, r, b, column, edge, edge_column, in_edge, lane_top = scan(
        x_ptr, begin, first, count, live, split, from_tile, to_tile, V, scale, softcap, None,
        OUTPUTS, 0, False, False, TRANSFORM, EDGES, VEC, LANES, DEPTH, WHOLE_ROW,
    )  # fmt: skip
    if SPLITS > 1:
        store_part(
            partial_ptr, partial_column_ptr, rows, live, split, N, m, c, s, t, q, k, r, b, column, 0, SPLITS
        )  # fmt: skip
    else:
        inside, outside = tl.zeros_like(s), tl.zeros_like(s)
        if OUTPUTS & 64:
            inside, outside, indices = top_k_of_rows(
                x_ptr, begin, first, count, edge, edge_column, in_edge, lane_top, m, to_tile, scale, softcap,
                TOP_K, SLOTS, TRANSFORM, EDGES, VEC, LANES, DEPTH,
            )  # fmt: skip
            store_top_index(top_index_ptr, rows, live, indices, TOP_K)
        finish(
            y_ptr, stats_ptr, argmax_ptr, state_ptr, x_ptr, begin, rows, live, N, V, scale, softcap,
            m, c, s, t, q, inside, outside, column, OUTPUTS, TRANSFORM,
        )  # fmt: skip


@triton.jit(do_not_specialize=["row_stride", "offset", "N", "V"])
def softmax_stats_merge_kernel(
    x_ptr, y_ptr, stats_ptr, argmax_ptr, state_ptr, partial_ptr, partial_column_ptr,
    row_stride, offset, N, V, scale: tl.float64, softcap: tl.float64,
    OUTPUTS: tl.constexpr, TRANSFORM: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    # Statistics of each row from the parts that softmax_stats_fwd_kernel left in partial [5, N, SPLITS]; grid (N,).
    rows = (tl.program_id(0) + tl.arange(0, 1)).to(tl.int64)
    m, c, s, t, q, _, _, _, column = merge_parts(partial_ptr, partial_column_ptr, rows, N, OUTPUTS, 0, False, SPLITS)
    none = tl.zeros_like(s)
    finish(
        y_ptr, stats_ptr, argmax_ptr, state_ptr, x_ptr, rows * row_stride + offset, rows, rows < N, N, V, scale,
        softcap, m, c, s, t, q, none, none, column, OUTPUTS, TRANSFORM,
    )  # fmt: skip


def launch_softmax_stats_fwd(
    x: Tensor,
    target: Tensor | None,
    outputs: int,
    top_k: int,
    temperature: float,
    softcap: float,
    stats: Tensor,
    argmax: Tensor,
    state: Tensor,
    top_index: Tensor,
) -> None:
    """Fill `stats`, `argmax`, `state` and `top_index`, laid out as the op's schema says, from x [N, V]."""
    N, V = x.shape
    if N == 0:
        return
    layout = row_layout(x)
    max_splits = 1 if top_k else MAX_SPLITS  # the top k of a row are found by one program
    plan = plan_rows(N, V, x.element_size(), layout.edges, programs_to_fill(x.device), max_splits)
    options = {"OUTPUTS": outputs, "TRANSFORM": transform_kind(temperature, softcap), "SPLITS": plan.splits}
    y = argmax if target is None else target
    partial, partial_column = state, argmax
    if plan.splits > 1:
        partial = torch.empty((5, N, plan.splits), dtype=state.dtype, device=x.device)
        partial_column = torch.empty((N, plan.splits), dtype=torch.int32, device=x.device)
    where = (x.stride(0), layout.offset, N, V, 1 / temperature, softcap)
    with on_device(x):
        softmax_stats_fwd_kernel[plan.grid](
            layout.base, y, stats, argmax, state, top_index, partial, partial_column, *where, **options,
            TOP_K=top_k, SLOTS=triton.next_power_of_2(max(1, top_k)), EDGES=layout.edges, VEC=layout.vec,
            ROWS=plan.rows, LANES=plan.lanes, DEPTH=plan.depth, WHOLE_ROW=plan.regime == "rows",
            **launch_options(top_k > 0 or softcap > 0 or x.dtype == torch.float64, plan),
        )  # fmt: skip
        if plan.splits > 1:
            softmax_stats_merge_kernel[(N,)](
                layout.base, y, stats, argmax, state, partial, partial_column, *where, **options, num_warps=1
            )
