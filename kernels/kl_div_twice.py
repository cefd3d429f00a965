"""Divergences of rows of logits from two reads: the first for both log-sum-exps, the second for the sums of the terms.

The Jensen-Shannon divergence has no other way, since its mixture needs both log-sum-exps; the two KL divergences come
here for the rows that the kernel of one read refuses. Every term p log(p/q) + q - p is >= 0, and so an error of the
log-sum-exps counts only squared (fluxcore/reference/kl_div.py).
"""

import triton
import triton.language as tl
from fluxcore.kernels.logit_pairs import (
    FLOOR,
    difference,
    divergence_term,
    jsd_terms,
    load_edge_pair,
    load_pair,
    log_ratio,
    scaled,
    scaled_exp,
)
from fluxcore.kernels.rows import edge_columns, row_bounds


@triton.jit
def absorb_exps(m, c, s, x, scale):
    # Add a tile [LANES, ROWS, DEPTH, VEC] to the lanes' states: m the largest logit, c its count, s the other e^(x-m).
    new = tl.maximum(m, tl.max(tl.max(x, axis=3), axis=2))
    z = x - new[:, :, None, None]
    e = scaled_exp(z, scale)
    s2 = tl.sum(tl.sum(tl.where(z == 0, 0.0, e), axis=3), axis=2)
    c2 = tl.sum(tl.sum(tl.where(z == 0, 1.0, 0.0), axis=3), axis=2).to(s.dtype)
    up = new > m
    n = scaled_exp(m - new, scale) * (c + s)
    return new, tl.where(up, 0.0, c) + c2, tl.where(up, n, s) + s2


@triton.jit
def collapse_exps(m, c, s, scale):
    # One state [ROWS] of the states [LANES, ROWS] of its parts.
    top = tl.max(m, axis=0)
    n = scaled_exp(m - top[None, :], scale) * (c + s)
    same = m == top[None, :]
    return top, tl.sum(tl.where(same, c, 0.0), axis=0), tl.sum(tl.where(same, s, n), axis=0)


@triton.jit
def without_largest(m, c, s):
    # The sum of e^(x-m) without one largest, NaN for a row that is no distribution.
    return tl.where((m > FLOOR) & (m < float("inf")), s + (c - 1), float("nan"))


@triton.jit
def terms(x, v, m, s, v_m, v_s, shift, scale, beta, DIRECTION: tl.constexpr, SCALED: tl.constexpr):
    # Terms of the divergence, and for jsd also those of KL(p || M); `s`, `v_s` [...] broadcast.
    p = scaled_exp(x - m, scale) * (1 / (1 + s))
    r = scaled_exp(v - v_m, scale) * (1 / (1 + v_s))
    l = scaled((x - v) - (m - v_m), scale, SCALED) - shift
    l = tl.where((x == FLOOR) & (v == FLOOR), 0.0, l)
    if DIRECTION == 2:
        first, second = jsd_terms(p, r, l, beta)
    elif DIRECTION == 1:
        first = tl.where((x == FLOOR) & (r > 0), float("inf"), divergence_term(r, p, -l))
        second = tl.zeros_like(first)
    else:
        first = tl.where((v == FLOOR) & (p > 0), float("inf"), divergence_term(p, r, l))
        second = tl.zeros_like(first)
    return first, second


@triton.jit
def finish_twice(
    rows_ptr, state_ptr, weight_ptr, rows, store, N, scale, m, s, v_m, shift, first, second,
    DIRECTION: tl.constexpr, SCALED: tl.constexpr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    # Store divergence and state of the rows [ROWS] at `store`.
    value = tl.where(shift == shift, first, float("nan"))  # also where a class that r excludes made it inf
    centre = value
    pivot = scaled(m - v_m, scale, SCALED)
    if DIRECTION == 2:
        centre = second
    elif DIRECTION == 1:
        # By how much m - pivot misses the reference's largest logit: the rounding of the two.
        near_v_m, lost = difference(scaled(m, scale, SCALED), pivot)
        centre = (scaled(v_m, scale, SCALED) - near_v_m) - lost
    if WEIGHTED:
        weight = tl.load(weight_ptr + rows)
        dead = weight == 0
        value = tl.where(dead, 0.0, weight * value)
    else:
        dead = tl.zeros_like(rows) > 0
    row_count = tl.cast(N, tl.int64)
    tl.store(rows_ptr + rows, value, mask=store)
    state = state_ptr + rows
    tl.store(state, tl.where(dead, 0.0, scaled(m, scale, SCALED)), mask=store)
    tl.store(state + row_count, tl.where(dead, 0.0, s), mask=store)
    tl.store(state + 2 * row_count, tl.where(dead, 0.0, pivot), mask=store)
    tl.store(state + 3 * row_count, tl.where(dead, 0.0, shift), mask=store)
    tl.store(state + 4 * row_count, tl.where(dead, 0.0, centre), mask=store)


@triton.jit
def merged_exps(partial_ptr, rows, plane, scale, SPLITS: tl.constexpr):
    # Both rows' states from the parts of all splits, [ROWS].
    part = partial_ptr + rows[None, :] * SPLITS + tl.arange(0, SPLITS)[:, None]
    m, c, s = collapse_exps(tl.load(part), tl.load(part + plane), tl.load(part + 2 * plane), scale)
    v_m, v_c, v_s = collapse_exps(
        tl.load(part + 3 * plane), tl.load(part + 4 * plane), tl.load(part + 5 * plane), scale
    )
    return m, c, s, v_m, v_c, v_s


@triton.jit(do_not_specialize=["row_stride", "offset", "v_stride", "v_offset", "N", "V"])
def kl_div_twice_kernel(
    x_ptr, v_ptr, weight_ptr, rows_ptr, state_ptr, refused_ptr, partial_ptr,
    row_stride, offset, v_stride, v_offset, N, V, scale: tl.float64, beta: tl.float64,
    DIRECTION: tl.constexpr, SCALED: tl.constexpr, WEIGHTED: tl.constexpr, REFUSED_ONLY: tl.constexpr,
    READS: tl.constexpr, EDGES: tl.constexpr, SAME_PHASE: tl.constexpr,
    VEC: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr, DEPTH: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    # weight * divergence of each row, or of each that was refused, from two reads.
    #
    #   x (the policy), v [N, V] float, row_stride and v_stride apart     weight [N], or unused
    #   rows [N], state [5, N], refused [N] int32                         grid (row groups of ROWS, SPLITS)
    #
    # DIRECTION: 0 policy_ref, 1 ref_policy, 2 jsd. READS: 3 both, one after the other; with SPLITS > 1 a launch each,
    # first 1 and then 2, which leave their parts of the row in `partial` [8, N, SPLITS]; kl_div_twice_merge_kernel
    # ends it.
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = rows < N
    rows = tl.minimum(rows, N - 1).to(tl.int64)
    if REFUSED_ONLY:
        live = live & (tl.load(refused_ptr + rows) != 0)
        if tl.max(live.to(tl.int32), axis=0) == 0:
            return
    read = live
    if WEIGHTED:
        read = live & (tl.load(weight_ptr + rows) != 0)
    split = tl.program_id(1)
    begin, first, count = row_bounds(rows, row_stride, offset, V, VEC, EDGES)
    v_begin = rows * v_stride + v_offset
    v_start = v_begin + (first * VEC - begin)
    tiles = (V // VEC + DEPTH * LANES - 1) // (DEPTH * LANES)
    from_tile = tiles * split // SPLITS
    to_tile = tiles * (split + 1) // SPLITS
    columns, in_edge = edge_columns(begin, first, count, V, VEC, LANES)
    in_edge = in_edge & EDGES & (split == 0) & read[None, :]
    count = tl.where(read, count, 0)
    edge, v_edge = load_edge_pair(x_ptr, v_ptr, begin, v_begin, columns, in_edge)
    plane = tl.cast(N, tl.int64) * SPLITS
    part = partial_ptr + rows * SPLITS + split

    if READS & 1:
        # Every lane starts from at most one pair of the edges; NaN goes by way of s.
        m = tl.where(edge == edge, edge, FLOOR)
        v_m = tl.where(v_edge == v_edge, v_edge, FLOOR)
        c = tl.where(m > FLOOR, 1.0, 0.0).to(edge.dtype)
        v_c = tl.where(v_m > FLOOR, 1.0, 0.0).to(edge.dtype)
        s = edge - edge
        v_s = v_edge - v_edge
        for tile in range(from_tile, to_tile):
            x, v = load_pair(x_ptr, v_ptr, first, count, v_start, tile, SAME_PHASE, VEC, DEPTH, LANES)
            m, c, s = absorb_exps(m, c, s, x, scale)
            v_m, v_c, v_s = absorb_exps(v_m, v_c, v_s, v, scale)
        m, c, s = collapse_exps(m, c, s, scale)
        v_m, v_c, v_s = collapse_exps(v_m, v_c, v_s, scale)
        if SPLITS > 1:
            tl.store(part, m, mask=live)
            tl.store(part + plane, c, mask=live)
            tl.store(part + 2 * plane, s, mask=live)
            tl.store(part + 3 * plane, v_m, mask=live)
            tl.store(part + 4 * plane, v_c, mask=live)
            tl.store(part + 5 * plane, v_s, mask=live)
    else:
        m, c, s, v_m, v_c, v_s = merged_exps(partial_ptr, rows, plane, scale, SPLITS)

    if READS & 2:
        s = without_largest(m, c, s)
        v_s = without_largest(v_m, v_c, v_s)
        shift = log_ratio(s, v_s)
        first_sum, second_sum = terms(
            edge, v_edge, m[None, :], s[None, :], v_m[None, :], v_s[None, :], shift[None, :], scale, beta,
            DIRECTION, SCALED,
        )  # fmt: skip
        for tile in range(from_tile, to_tile):
            x, v = load_pair(x_ptr, v_ptr, first, count, v_start, tile, SAME_PHASE, VEC, DEPTH, LANES)
            one, two = terms(
                x, v, m[None, :, None, None], s[None, :, None, None], v_m[None, :, None, None],
                v_s[None, :, None, None], shift[None, :, None, None], scale, beta, DIRECTION, SCALED,
            )  # fmt: skip
            first_sum += tl.sum(tl.sum(one, axis=3), axis=2)
            second_sum += tl.sum(tl.sum(two, axis=3), axis=2)
        one = tl.sum(first_sum, axis=0)
        two = tl.sum(second_sum, axis=0)
        if SPLITS > 1:
            tl.store(part + 6 * plane, one, mask=live)
            tl.store(part + 7 * plane, two, mask=live)
        else:
            finish_twice(
                rows_ptr, state_ptr, weight_ptr, rows, live, N, scale, m, s, v_m, shift, one, two,
                DIRECTION, SCALED, WEIGHTED,
            )  # fmt: skip


@triton.jit(do_not_specialize=["N"])
def kl_div_twice_merge_kernel(
    weight_ptr, rows_ptr, state_ptr, refused_ptr, partial_ptr, N, scale: tl.float64,
    DIRECTION: tl.constexpr, SCALED: tl.constexpr, WEIGHTED: tl.constexpr, REFUSED_ONLY: tl.constexpr,
    SPLITS: tl.constexpr,
):  # fmt: skip
    # Rows and state from the parts that kl_div_twice_kernel left in partial [8, N, SPLITS]; grid (N,).
    rows = (tl.program_id(0) + tl.arange(0, 1)).to(tl.int64)
    store = rows < N
    if REFUSED_ONLY:
        store = store & (tl.load(refused_ptr + rows) != 0)
    plane = tl.cast(N, tl.int64) * SPLITS
    m, c, s, v_m, v_c, v_s = merged_exps(partial_ptr, rows, plane, scale, SPLITS)
    s = without_largest(m, c, s)
    v_s = without_largest(v_m, v_c, v_s)
    part = partial_ptr + rows[None, :] * SPLITS + tl.arange(0, SPLITS)[:, None]
    one = tl.sum(tl.load(part + 6 * plane), axis=0)
    two = tl.sum(tl.load(part + 7 * plane), axis=0)
    finish_twice(
        rows_ptr, state_ptr, weight_ptr, rows, store, N, scale, m, s, v_m, log_ratio(s, v_s), one, two,
        DIRECTION, SCALED, WEIGHTED,
    )  # fmt: skip
