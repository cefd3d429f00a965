"""Kernels of `cross_entropy`: the rows forward (with their gradient or without), the merge of split rows, backward.

The rows' sums are those of row_scan.py, their gradient is that of row_gradient.py, what lies between is in
cross_entropy_rows.py.
"""

import triton
import triton.language as tl
from fluxcore.kernels.class_weights import weights_at
from fluxcore.kernels.cross_entropy_rows import (
    cross_entropy_gradient,
    divided,
    numbers_as,
    penalty_of_rows,
    softmax_loss,
    stablemax_loss,
    stablemax_state,
    store_state,
    terms_of_rows,
)
from fluxcore.kernels.row_scan import merge_parts, scan, store_part
from fluxcore.kernels.rows import NO_COLUMN, log1p, rows_of_program
from fluxcore.kernels.softmax_stats import settle, store_stats, store_top_index, target_logit
from fluxcore.kernels.top_k import top_k_of_rows

NOT_SPECIALISED = ["row_stride", "offset", "target_stride", "target_offset", "N", "V"]


@triton.jit
def finish(
    x_ptr, tensors, terms, numbers, source, loss_ptr, stats_ptr, argmax_ptr, state_ptr,
    rows, live, begin, N, V, scale, softcap, m, c, s, t, q, k, r, b, inside, outside, column,
    OUTPUTS: tl.constexpr, PENALTY: tl.constexpr, WEIGHTS: tl.constexpr, STABLE: tl.constexpr, TRANSFORM: tl.constexpr,
):  # fmt: skip
    # Store losses, statistics and state of the rows [ROWS] whose sums are given; returns the state for the gradient.
    y, dead = terms[0], terms[4]
    totals_ptr = tensors[4]
    column = tl.where(column == NO_COLUMN, 0, column)
    x_y, rest = tl.zeros_like(m), tl.zeros_like(m)
    c_top = rest
    if WEIGHTS & 4:
        c_top = weights_at(column, live, m, source[2], source, WEIGHTS)
        rest = r + (k - c_top)
    else:
        x_y = target_logit(x_ptr, begin, y, V, scale, softcap, TRANSFORM)
    every_weight = tl.load(totals_ptr + 3)
    if STABLE:
        kept, others = stablemax_state(m, c, s, x_y, WEIGHTS & 4 > 0)
        loss = stablemax_loss(terms, numbers, every_weight, m, kept, others, k, r, b, c_top, WEIGHTS)
        m, s, lse, penalty = kept, others, m, m
    else:
        m, s = settle(m, c, s)
        loss = softmax_loss(terms, numbers, every_weight, m, s, x_y, column, k, r, b, WEIGHTS)
        lse = m + log1p(s)
        penalty = penalty_of_rows(s, t, inside, outside, PENALTY) if PENALTY else lse
    tl.store(loss_ptr + rows, divided(loss, totals_ptr, terms, numbers, lse, penalty, PENALTY), mask=live)
    if OUTPUTS == 0:
        column = tl.where(dead, 0, column)
    store_stats(stats_ptr, argmax_ptr, rows, live, N, m, s, t, q, inside, outside, x_y, y, column, OUTPUTS)
    none = tl.zeros_like(m)
    m, s, t = tl.where(dead, none, m), tl.where(dead, none, s), tl.where(dead, none, t)
    x_y, rest = tl.where(dead, none, x_y), tl.where(dead, none, rest)
    inside, outside = tl.where(dead, none, inside), tl.where(dead, none, outside)
    store_state(state_ptr, rows, live, N, m, s, t, x_y, inside, outside, rest)
    return m, s, t, outside, rest, column.to(tl.int64)


@triton.jit(do_not_specialize=NOT_SPECIALISED)
def cross_entropy_fwd_kernel(
    x_ptr, target_ptr, weight_ptr, token_weight_ptr, mask_ptr, shifted_ptr, totals_ptr,
    loss_ptr, stats_ptr, argmax_ptr, state_ptr, top_index_ptr, dx_ptr, partial_ptr, partial_column_ptr,
    row_stride, offset, target_stride, target_offset, N, V, ignore_index: tl.int64,
    keep: tl.float64, even: tl.float64, lse_square_scale: tl.float64, coef: tl.float64, scale: tl.float64,
    softcap: tl.float64,
    OUTPUTS: tl.constexpr, PENALTY: tl.constexpr, WEIGHTS: tl.constexpr, IN_PHASE: tl.constexpr, STABLE: tl.constexpr,
    TRANSFORM: tl.constexpr, SPLITS: tl.constexpr, TOP_K: tl.constexpr, SLOTS: tl.constexpr, EDGES: tl.constexpr,
    SAME_PHASE: tl.constexpr, VEC: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr, DEPTH: tl.constexpr,
    GRADIENT_DEPTH: tl.constexpr, GRADIENT_SLOTS: tl.constexpr, WHOLE_ROW: tl.constexpr, GRADIENT: tl.constexpr,
):  # fmt: skip
    # Loss, statistics and state of each row in one pass, one exponential an element. GRADIENT: and then the gradient
    # for an upstream one of 1; for it the row is read again, from the L2 cache.
    #
    #   x [N, V], row_stride apart, from `offset`      target [N] int64, or probabilities [N, V] with WEIGHTS & 4
    #   weight [V], token_weight [N], mask [N], or None     totals [4]: see the op's schema, as for all results
    #   shifted: class_weights.py, or None
    #   loss [N]                                       grid (row groups of ROWS, SPLITS)
    #   reads N*V (and once more with TOP_K), N*V of probabilities; writes about 10 N, dx [N, V] with GRADIENT
    #
    # SPLITS > 1: each program leaves its part of the row for cross_entropy_merge_kernel.
    rows, live, split, from_tile, to_tile, begin, first, count = rows_of_program(
        N, V, row_stride, offset, VEC, ROWS, LANES, DEPTH, SPLITS, EDGES
    )
    tensors = (target_ptr, weight_ptr, token_weight_ptr, mask_ptr, totals_ptr)
    numbers = numbers_as(totals_ptr, keep, even, lse_square_scale, coef)
    shares = rows * target_stride + target_offset
    source = (weight_ptr, target_ptr, shares, numbers[0], numbers[1], shifted_ptr, (V + VEC - 1) // VEC)
    terms = terms_of_rows(tensors, rows, V, ignore_index, numbers, WEIGHTS & 4 > 0)
    reading = live
    if OUTPUTS == 0:
        reading = live & ~terms[4]
    to_tile = tl.where(tl.max(reading.to(tl.int32), axis=0) > 0, to_tile, from_tile)
    m, c, s, t, q, k, r, b, column, edge, edge_column, in_edge, lane_top = scan(
        x_ptr, begin, first, count, reading, split, from_tile, to_tile, V, scale, softcap, source,
        OUTPUTS | PENALTY, WEIGHTS, IN_PHASE, STABLE, TRANSFORM, EDGES, VEC, LANES, DEPTH, WHOLE_ROW,
    )  # fmt: skip
    if SPLITS > 1:
        store_part(
            partial_ptr, partial_column_ptr, rows, live, split, N, m, c, s, t, q, k, r, b, column, WEIGHTS, SPLITS
        )
    else:
        inside, outside = tl.zeros_like(s), tl.zeros_like(s)
        if (OUTPUTS | PENALTY) & 64:
            inside, outside, indices = top_k_of_rows(
                x_ptr, begin, first, tl.where(reading, count, 0), edge, edge_column, in_edge, lane_top, m, to_tile,
                scale, softcap, TOP_K, SLOTS, TRANSFORM, EDGES, VEC, LANES, DEPTH,
            )  # fmt: skip
            store_top_index(top_index_ptr, rows, live, indices, TOP_K)
        m, s, t, outside, rest, column = finish(
            x_ptr, tensors, terms, numbers, source, loss_ptr, stats_ptr, argmax_ptr, state_ptr,
            rows, live, begin, N, V, scale, softcap, m, c, s, t, q, k, r, b, inside, outside, column,
            OUTPUTS, PENALTY, WEIGHTS, STABLE, TRANSFORM,
        )  # fmt: skip
        if GRADIENT:
            if TOP_K > 0:
                tl.debug_barrier()  # top_index is read back by other threads than those that stored it
            tiles = (V // VEC + GRADIENT_DEPTH * LANES - 1) // (GRADIENT_DEPTH * LANES)
            cross_entropy_gradient(
                x_ptr, dx_ptr, top_index_ptr, tensors, terms, numbers, source, tl.full(m.shape, 1.0, m.dtype),
                rows, live, split, 0, tiles, begin, first, count, V, scale, softcap, m, s, t, outside, rest, column,
                PENALTY, WEIGHTS, IN_PHASE, STABLE, TOP_K, GRADIENT_SLOTS, TRANSFORM, EDGES, SAME_PHASE, VEC, LANES,
                GRADIENT_DEPTH,
            )  # fmt: skip


@triton.jit(do_not_specialize=NOT_SPECIALISED)
def cross_entropy_merge_kernel(
    x_ptr, target_ptr, weight_ptr, token_weight_ptr, mask_ptr, totals_ptr,
    loss_ptr, stats_ptr, argmax_ptr, state_ptr, partial_ptr, partial_column_ptr,
    row_stride, offset, target_stride, target_offset, N, V, ignore_index: tl.int64,
    keep: tl.float64, even: tl.float64, lse_square_scale: tl.float64, coef: tl.float64, scale: tl.float64,
    softcap: tl.float64,
    OUTPUTS: tl.constexpr, PENALTY: tl.constexpr, WEIGHTS: tl.constexpr, STABLE: tl.constexpr, TRANSFORM: tl.constexpr,
    SPLITS: tl.constexpr,
):  # fmt: skip
    # Loss, statistics and state of each row from the parts that cross_entropy_fwd_kernel left in partial
    # [8, N, SPLITS]; grid (N,).
    rows = (tl.program_id(0) + tl.arange(0, 1)).to(tl.int64)
    tensors = (target_ptr, weight_ptr, token_weight_ptr, mask_ptr, totals_ptr)
    numbers = numbers_as(totals_ptr, keep, even, lse_square_scale, coef)
    source = (weight_ptr, target_ptr, rows * target_stride + target_offset, numbers[0], numbers[1])
    terms = terms_of_rows(tensors, rows, V, ignore_index, numbers, WEIGHTS & 4 > 0)
    m, c, s, t, q, k, r, b, column = merge_parts(
        partial_ptr, partial_column_ptr, rows, N, OUTPUTS | PENALTY, WEIGHTS, STABLE, SPLITS
    )
    none = tl.zeros_like(s)
    finish(
        x_ptr, tensors, terms, numbers, source, loss_ptr, stats_ptr, argmax_ptr, state_ptr,
        rows, rows < N, rows * row_stride + offset, N, V, scale, softcap, m, c, s, t, q, k, r, b, none, none, column,
        OUTPUTS, PENALTY, WEIGHTS, STABLE, TRANSFORM,
    )  # fmt: skip


@triton.jit(do_not_specialize=[*NOT_SPECIALISED, "upstream_stride"])
def cross_entropy_bwd_kernel(
    upstream_ptr, x_ptr, target_ptr, weight_ptr, token_weight_ptr, mask_ptr, shifted_ptr, totals_ptr,
    argmax_ptr, state_ptr, top_index_ptr, dx_ptr,
    upstream_stride, row_stride, offset, target_stride, target_offset, N, V, ignore_index: tl.int64,
    keep: tl.float64, even: tl.float64, lse_square_scale: tl.float64, coef: tl.float64, scale: tl.float64,
    softcap: tl.float64,
    PENALTY: tl.constexpr, WEIGHTS: tl.constexpr, IN_PHASE: tl.constexpr, STABLE: tl.constexpr,
    TRANSFORM: tl.constexpr, SPLITS: tl.constexpr, TOP_K: tl.constexpr, SLOTS: tl.constexpr, EDGES: tl.constexpr,
    SAME_PHASE: tl.constexpr, VEC: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    # Gradient of the loss by the logits for an upstream one [N] (or a scalar: stride 0), from the saved state; one
    # exponential an element.
    #
    #   arguments as of cross_entropy_fwd_kernel     dx [N, V], contiguous, x's type
    #   grid (row groups of ROWS, SPLITS)            reads N*V (and N*V of probabilities), writes N*V
    rows, live, split, from_tile, to_tile, begin, first, count = rows_of_program(
        N, V, row_stride, offset, VEC, ROWS, LANES, DEPTH, SPLITS, EDGES
    )
    tensors = (target_ptr, weight_ptr, token_weight_ptr, mask_ptr, totals_ptr)
    numbers = numbers_as(totals_ptr, keep, even, lse_square_scale, coef)
    shares = rows * target_stride + target_offset
    source = (weight_ptr, target_ptr, shares, numbers[0], numbers[1], shifted_ptr, (V + VEC - 1) // VEC)
    terms = terms_of_rows(tensors, rows, V, ignore_index, numbers, WEIGHTS & 4 > 0)
    plane = tl.cast(N, tl.int64)
    cross_entropy_gradient(
        x_ptr, dx_ptr, top_index_ptr, tensors, terms, numbers, source, tl.load(upstream_ptr + rows * upstream_stride),
        rows, live, split, from_tile, to_tile, begin, first, count, V, scale, softcap,
        tl.load(state_ptr + rows), tl.load(state_ptr + plane + rows), tl.load(state_ptr + 2 * plane + rows),
        tl.load(state_ptr + 5 * plane + rows), tl.load(state_ptr + 6 * plane + rows), tl.load(argmax_ptr + rows),
        PENALTY, WEIGHTS, IN_PHASE, STABLE, TOP_K, SLOTS, TRANSFORM, EDGES, SAME_PHASE, VEC, LANES, DEPTH,
    )  # fmt: skip
