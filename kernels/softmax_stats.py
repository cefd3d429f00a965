"""Softmax statistics of rows of logits: forward kernels and their launcher. The gradient is in row_gradient.py.

The state of a row (or of one lane's share of it) has the largest logit m kept out of the sums, so that nothing cancels:

    c = how often m occurs      s = sum of e^z over z < 0, where z = x - m
    t = sum of z e^z            q = sum of (z - mean)^2 e^z over all, where mean = t / (c + s)

and with n = c + s = sum of e^z:  lse = m + log1p(n - 1), H = log1p(n - 1) - mean, 1 - p_max = (n - 1) / n,
varentropy = q / n, where n - 1 is s + (c - 1). Moving a state to a larger m' = m - d scales it by a = e^d:
t' = a (t + d n), n' = a n, mean' = mean + d; and q of two parts adds n1 n2 / (n1 + n2) (mean1 - mean2)^2.

Bits of OUTPUTS: 1 lse, 2 logprob, 4 entropy (needs t), 8 varentropy (needs t and q), 16 max_prob,
32 one_minus_max_prob, 64 top_k_mass.
"""

import torch
import triton
import triton.language as tl
from fluxcore.kernels.rows import (
    NO_COLUMN,
    body_offsets,
    body_tile,
    centred,
    edge_columns,
    exp,
    launch_options,
    load_body,
    load_logits,
    log1p,
    lowest,
    on_device,
    plan_rows,
    programs_to_fill,
    row_bounds,
    row_layout,
    transform,
    transform_kind,
    widen,
)
from fluxcore.kernels.top_k import top_k_of_rows
from torch import Tensor

MAX_SPLITS = 64


@triton.jit
def ratio(a, b):
    # a / b to a few ulp, for b >= 0, and 0 for an empty sum b (then a is 0 too). A third of a division's instructions.
    b = tl.maximum(b, 1e-30)
    if b.dtype == tl.float64:
        quotient = a / b
    else:
        root = tl.rsqrt(b)
        quotient = a * root * root
    return quotient


@triton.jit
def absorb(m, c, s, t, q, x, new, OUTPUTS: tl.constexpr):
    # Add a tile x [LANES, ROWS, DEPTH, VEC] to the lanes' states [LANES, ROWS], for a maximum `new` >= m and >= x.
    z = centred(x, new[:, :, None, None]) if OUTPUTS & 12 else x - new[:, :, None, None]
    e = exp(z)
    # 0 where z = 0, else 1. As a comparison it costs less on paper, but the compiler packs its bits and unpacks them.
    below = tl.minimum(z * -3e38, 1.0)
    s2 = tl.sum(tl.sum(e * below, axis=3), axis=2)
    c2 = x.shape[2] * x.shape[3] - tl.sum(tl.sum(below, axis=3), axis=2)
    d = centred(m, new)
    a = exp(d)
    up = new > m
    n = a * (c + s)
    if OUTPUTS & 12:
        t2 = tl.sum(tl.sum(e * z, axis=3), axis=2)
        t = a * t + d * n
        if OUTPUTS & 8:
            n2 = c2 + s2
            mean2 = ratio(t2, n2)
            w = z - mean2[:, :, None, None]
            q2 = tl.sum(tl.sum(e * w * w, axis=3), axis=2)
            apart = ratio(t, n) - mean2
            q = a * q + q2 + ratio(n * n2, n + n2) * apart * apart
        t += t2
    return tl.where(up, 0.0, c) + c2, tl.where(up, n, s) + s2, t, q


@triton.jit
def absorb_tile(m, c, s, t, q, found, x, tile, OUTPUTS: tl.constexpr):
    # The lanes' states with the tile x added, and for each lane the first tile in which its maximum was found.
    top = tl.max(tl.max(x, axis=3), axis=2)
    found = tl.where((top > m) | ((top == m) & (found == NO_COLUMN)), tile, found)
    new = tl.maximum(m, top)
    c, s, t, q = absorb(m, c, s, t, q, x, new, OUTPUTS)
    return new, c, s, t, q, found


@triton.jit
def collapse(m, c, s, t, q, OUTPUTS: tl.constexpr):
    # One state [ROWS] of the states [LANES, ROWS] of its parts.
    top = tl.max(m, axis=0)
    d = centred(m, top[None, :])
    a = exp(d)
    n = a * (c + s)
    same = m == top[None, :]
    c1 = tl.sum(tl.where(same, c, 0.0), axis=0)
    s1 = tl.sum(tl.where(same, s, n), axis=0)
    t1 = tl.zeros_like(c1)
    q1 = tl.zeros_like(c1)
    if OUTPUTS & 12:
        t1 = tl.sum(a * t + d * n, axis=0)
        if OUTPUTS & 8:
            apart = ratio(t, c + s) + d - ratio(t1, c1 + s1)[None, :]
            q1 = tl.sum(a * q + n * apart * apart, axis=0)
    return top, c1, s1, t1, q1


@triton.jit
def first_column(hit, columns):
    # Smallest column [ROWS] of a tile at which `hit`.
    best = tl.min(tl.min(tl.where(hit, columns, NO_COLUMN), axis=3), axis=2)
    return tl.min(best, axis=0)


@triton.jit
def tile_columns(begin, first, tile, VEC: tl.constexpr, DEPTH: tl.constexpr, LANES: tl.constexpr):
    # Columns of a tile of the body [LANES, ROWS, DEPTH, VEC].
    head = (first * VEC - begin).to(tl.int32)[None, :, None, None]
    return head + body_offsets(body_tile(tile, DEPTH, LANES), VEC)


@triton.jit
def finish(
    y_ptr, stats_ptr, argmax_ptr, state_ptr, x_ptr, begin, rows, live, N, V, scale, softcap,
    m, c, s, t, q, inside, outside, column, OUTPUTS: tl.constexpr, TRANSFORM: tl.constexpr,
):  # fmt: skip
    # Store the requested statistics and the state of the rows [ROWS] whose sums are given; m is NaN if a NaN was seen.
    # m = lowest and c = 0 mean that every logit was -inf.
    empty = c == 0
    m = tl.where(empty, -float("inf"), m)
    s = tl.where(empty | (m != m), float("nan"), s + (c - 1))
    n = 1 + s
    log_n = log1p(s)
    mean = t / n
    row_count = tl.cast(N, tl.int64)
    out = stats_ptr + rows
    if OUTPUTS & 1:
        tl.store(out, tl.where(tl.abs(m) == float("inf"), m, m + log_n), mask=live)
        out += row_count
    x_y = tl.zeros_like(m)
    if OUTPUTS & 2:
        y = tl.load(y_ptr + rows)
        valid = (y >= 0) & (y < V)
        x_y = transform(widen(tl.load(x_ptr + begin + y, mask=valid, other=0.0)), scale, softcap, TRANSFORM)
        x_y = tl.where(valid, x_y, float("nan"))
        tl.store(out, tl.where(y == column, 0.0, x_y - m) - log_n, mask=live)
        out += row_count
    if OUTPUTS & 4:
        tl.store(out, log_n - mean, mask=live)
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
    tl.store(argmax_ptr + rows, tl.where(column == NO_COLUMN, 0, column).to(tl.int64), mask=live)
    state = state_ptr + rows
    tl.store(state, m, mask=live)
    tl.store(state + row_count, s, mask=live)
    tl.store(state + 2 * row_count, t, mask=live)
    tl.store(state + 3 * row_count, q, mask=live)
    tl.store(state + 4 * row_count, x_y, mask=live)
    tl.store(state + 5 * row_count, outside, mask=live)


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
    # Lanes run along the row, each with a state of its own, and meet at the end of it. WHOLE_ROW: one tile holds the
    # row, so lanes share its maximum at once. SPLITS > 1: each program leaves its part of the row in
    # `partial` [5, N, SPLITS] and `partial_column` [N, SPLITS] for softmax_stats_merge_kernel.
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = rows < N
    rows = tl.minimum(rows, N - 1)
    split = tl.program_id(1)
    begin, first, count = row_bounds(rows, row_stride, offset, V, VEC, EDGES)
    tiles = (V // VEC + DEPTH * LANES - 1) // (DEPTH * LANES)
    from_tile = tiles * split // SPLITS
    to_tile = tiles * (split + 1) // SPLITS

    # Every lane starts from at most one element of the edges.
    edge_column, in_edge = edge_columns(begin, first, count, V, VEC, LANES)
    in_edge = in_edge & EDGES & (split == 0)
    edge = widen(tl.load(x_ptr + begin[None, :] + edge_column, mask=in_edge, other=-float("inf")))
    edge = tl.where(in_edge, transform(edge, scale, softcap, TRANSFORM), -float("inf"))
    seen = edge != -float("inf")
    m = tl.maximum(tl.where(edge == edge, edge, -float("inf")), lowest(edge))
    c = tl.where(seen, 1.0, 0.0).to(edge.dtype)
    s = tl.where(seen, edge - edge, 0.0)  # NaN for an edge that is NaN or +inf
    t = tl.zeros_like(s)
    q = tl.zeros_like(s)

    if WHOLE_ROW:
        x = load_logits(x_ptr, first, count, 0, scale, softcap, TRANSFORM, VEC, DEPTH, LANES)
        lane_top = tl.maximum(m, tl.max(tl.max(x, axis=3), axis=2))
        top = tl.max(lane_top, axis=0)[None, :] + tl.zeros_like(m)
        c, s, t, q = absorb(m, c, s, t, q, x, top, OUTPUTS)
        m = top
    else:
        found = tl.zeros_like(edge_column) + NO_COLUMN
        # Tiles that lie wholly inside need no masks; at most one in a row does not.
        last_whole = tl.min(count, axis=0).to(tl.int32) // (DEPTH * LANES)
        from_partial = tl.maximum(tl.minimum(to_tile, last_whole), from_tile)
        for tile in range(from_tile, from_partial):
            x = load_logits(x_ptr, first, count, tile, scale, softcap, TRANSFORM, VEC, DEPTH, LANES, WHOLE=True)
            m, c, s, t, q, found = absorb_tile(m, c, s, t, q, found, x, tile, OUTPUTS)
        for tile in range(from_partial, to_tile):
            x = load_logits(x_ptr, first, count, tile, scale, softcap, TRANSFORM, VEC, DEPTH, LANES)
            m, c, s, t, q, found = absorb_tile(m, c, s, t, q, found, x, tile, OUTPUTS)
        lane_top = m

    m, c, s, t, q = collapse(m, c, s, t, q, OUTPUTS)

    # The argmax is in the edges, or in the first tile that reached m.
    column = tl.min(tl.where(edge == m[None, :], edge_column, NO_COLUMN), axis=0)
    if not WHOLE_ROW:
        tile = tl.max(tl.min(tl.where(lane_top == m[None, :], found, NO_COLUMN), axis=0), axis=0)
        tile = tl.where(tile == NO_COLUMN, from_tile, tile)
        x = load_logits(x_ptr, first, count, tile, scale, softcap, TRANSFORM, VEC, DEPTH, LANES)
        columns = tile_columns(begin, first, tile, VEC, DEPTH, LANES)
    else:
        columns = tile_columns(begin, first, 0, VEC, DEPTH, LANES)
    column = tl.minimum(column, first_column(x == m[None, :, None, None], columns))
    if tl.max((s != s).to(tl.int32), axis=0) > 0:  # a NaN or +inf somewhere: the first NaN wins
        nan_column = tl.min(tl.where(edge != edge, edge_column, NO_COLUMN), axis=0)
        for tile in range(from_tile, to_tile):
            x = load_body(x_ptr, first, count, tile, VEC, DEPTH, LANES)
            columns = tile_columns(begin, first, tile, VEC, DEPTH, LANES)
            nan_column = tl.minimum(nan_column, first_column(x != x, columns))
        m = tl.where(nan_column == NO_COLUMN, m, float("nan"))
        column = tl.where(nan_column == NO_COLUMN, column, nan_column)

    if SPLITS > 1:
        part = rows * SPLITS + split
        plane = tl.cast(N, tl.int64) * SPLITS
        tl.store(partial_column_ptr + part, column, mask=live)
        tl.store(partial_ptr + part, m, mask=live)
        tl.store(partial_ptr + plane + part, c, mask=live)
        tl.store(partial_ptr + 2 * plane + part, s, mask=live)
        tl.store(partial_ptr + 3 * plane + part, t, mask=live)
        tl.store(partial_ptr + 4 * plane + part, q, mask=live)
    else:
        inside, outside = tl.zeros_like(s), tl.zeros_like(s)
        if OUTPUTS & 64:
            inside, outside, indices = top_k_of_rows(
                x_ptr, begin, first, count, edge, edge_column, in_edge, lane_top, m, tiles, scale, softcap,
                TOP_K, SLOTS, TRANSFORM, EDGES, VEC, LANES, DEPTH,
            )  # fmt: skip
            slots = tl.arange(0, SLOTS)[None, :]
            places = top_index_ptr + rows[:, None].to(tl.int64) * TOP_K + slots
            tl.store(places, indices, mask=live[:, None] & (slots < TOP_K))
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
    rows = tl.program_id(0) + tl.arange(0, 1)
    part = rows[None, :] * SPLITS + tl.arange(0, SPLITS)[:, None]
    plane = tl.cast(N, tl.int64) * SPLITS
    m = tl.load(partial_ptr + part)
    columns = tl.load(partial_column_ptr + part)
    c = tl.load(partial_ptr + plane + part)
    s = tl.load(partial_ptr + 2 * plane + part)
    t = tl.load(partial_ptr + 3 * plane + part)
    q = tl.load(partial_ptr + 4 * plane + part)
    nan_column = tl.min(tl.where(m != m, columns, NO_COLUMN), axis=0)
    number = tl.where(m == m, m, lowest(m))
    top, c, s, t, q = collapse(number, c, s, t, q, OUTPUTS)
    column = tl.min(tl.where(number == top[None, :], columns, NO_COLUMN), axis=0)
    top = tl.where(nan_column == NO_COLUMN, top, float("nan"))
    column = tl.where(nan_column == NO_COLUMN, column, nan_column)
    begin = rows.to(tl.int64) * row_stride + offset
    none = tl.zeros_like(s)
    finish(
        y_ptr, stats_ptr, argmax_ptr, state_ptr, x_ptr, begin, rows, rows < N, N, V, scale, softcap,
        top, c, s, t, q, none, none, column, OUTPUTS, TRANSFORM,
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
            **launch_options(crowded=top_k > 0 or softcap > 0 or x.dtype == torch.float64),
        )  # fmt: skip
        if plan.splits > 1:
            softmax_stats_merge_kernel[(N,)](
                layout.base, y, stats, argmax, state, partial, partial_column, *where, **options, num_warps=1
            )
