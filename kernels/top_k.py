"""The k largest logits of each row, first index winning ties, with the mass inside and outside of them."""

import triton
import triton.language as tl
from fluxcore.kernels.rows import NO_COLUMN, body_offsets, body_tile, exp, load_logits, lowest


@triton.jit
def any_row(flags):
    return tl.max(flags.to(tl.int32), axis=0) > 0


@triton.jit
def max_of_tile(x):
    return tl.max(tl.max(tl.max(x, axis=3), axis=2), axis=0)


@triton.jit
def min_of_tile(x):
    return tl.min(tl.min(tl.min(x, axis=3), axis=2), axis=0)


@triton.jit
def best_of_tile(x, columns, open_):
    # The largest open element of a tile and its first column, each [ROWS]; (-inf, NO_COLUMN) for none.
    best = max_of_tile(tl.where(open_, x, -float("inf")))
    return best, min_of_tile(tl.where(open_ & (x == best[None, :, None, None]), columns, NO_COLUMN))


@triton.jit
def worst_of_list(values, indices):
    worst = tl.min(values, axis=1)
    return worst, tl.max(tl.where(values == worst[:, None], indices, -1), axis=1)


@triton.jit
def offer_tile(values, indices, outside, x, columns, valid, floor, m):
    # Insert a tile [LANES, ROWS, DEPTH, VEC] into the lists [ROWS, K]; what is not kept adds its mass to `outside`.
    # Only elements >= floor [ROWS] can be among the top k.
    taken = valid & (x != x)
    open_ = valid & (x >= floor[None, :, None, None])
    slots = tl.arange(0, values.shape[1])[None, :]
    best, column = best_of_tile(x, columns, open_)
    worst, index = worst_of_list(values, indices)
    better = (best > worst) | ((best == worst) & (column < index))
    while any_row(better):
        outside += tl.where(better & (index != NO_COLUMN), exp(worst - m), 0.0)
        out = (values == worst[:, None]) & (indices == index[:, None])
        slot = tl.min(tl.where(out, slots, values.shape[1]), axis=1)
        change = better[:, None] & (slots == slot[:, None])
        values = tl.where(change, best[:, None], values)
        indices = tl.where(change, column[:, None], indices)
        now = better[None, :, None, None] & (columns == column[None, :, None, None])
        taken = taken | (now & open_)
        open_ = open_ & ~now
        best, column = best_of_tile(x, columns, open_)
        worst, index = worst_of_list(values, indices)
        better = (best > worst) | ((best == worst) & (column < index))
    rest = tl.where(valid & ~taken, exp(x - m[None, :, None, None]), 0.0)
    outside += tl.sum(tl.sum(tl.sum(rest, axis=3), axis=2), axis=0)
    return values, indices, outside


@triton.jit
def floor_of_top_k(lane_top, TOP_K: tl.constexpr):
    # A value that at least TOP_K elements of the row reach, from the largest of each lane [LANES, ROWS].
    floor = tl.max(lane_top, axis=0)
    count = tl.sum((lane_top >= floor[None, :]).to(tl.int32), axis=0)
    for _ in range(TOP_K - 1):
        lower = tl.max(tl.where(lane_top < floor[None, :], lane_top, -float("inf")), axis=0)
        floor = tl.where(count < TOP_K, lower, floor)
        count = tl.sum((lane_top >= floor[None, :]).to(tl.int32), axis=0)
    return tl.where((count < TOP_K) | (floor <= lowest(floor)), -float("inf"), floor)


@triton.jit
def top_k_of_rows(
    x_ptr, begin, first, count, edge, edge_column, in_edge, lane_top, m, tiles, scale, softcap,
    TOP_K: tl.constexpr, SLOTS: tl.constexpr, TRANSFORM: tl.constexpr, EDGES: tl.constexpr, VEC: tl.constexpr,
    LANES: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    # Second pass over the row. Returns the sums of e^(x-m) inside and outside the top k [ROWS], and their columns
    # [ROWS, SLOTS], the first TOP_K of which count.
    floor = floor_of_top_k(lane_top, TOP_K)
    slots = tl.arange(0, SLOTS)[None, :]
    empty = tl.where(slots < TOP_K, -float("inf"), float("inf")).to(m.dtype)
    values = empty + tl.zeros_like(m)[:, None]
    indices = tl.where(values < 0, NO_COLUMN, -1)
    outside = tl.zeros_like(m)
    if EDGES:
        values, indices, outside = offer_tile(
            values, indices, outside, edge[:, :, None, None], edge_column[:, :, None, None],
            in_edge[:, :, None, None], floor, m,
        )  # fmt: skip
    for tile in range(tiles):
        x = load_logits(x_ptr, first, count, tile, scale, softcap, TRANSFORM, VEC, DEPTH, LANES)
        vectors = body_tile(tile, DEPTH, LANES)
        columns = (first * VEC - begin).to(tl.int32)[None, :, None, None] + body_offsets(vectors, VEC)
        valid = (vectors < count[None, :, None])[:, :, :, None] & (columns >= 0)
        values, indices, outside = offer_tile(values, indices, outside, x, columns, valid, floor, m)
    kept = tl.where(slots < TOP_K, exp(values - m[:, None]), 0.0)
    return tl.sum(kept, axis=1), outside, indices
