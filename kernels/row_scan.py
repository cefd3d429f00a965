"""One pass over rows of logits: the sums of which every statistic and loss of a row is made.

The state of a row (or of one lane's share of it) has the largest logit m kept out of the sums, so that nothing cancels:

    c = how often m occurs      s = sum of e^z over z < 0, where z = x - m
    t = sum of z e^z            q = sum of (z - mean)^2 e^z over all, where mean = t / (c + s)

and with n = c + s = sum of e^z:  lse = m + log1p(n - 1), H = log1p(n - 1) - mean, 1 - p_max = (n - 1) / n,
varentropy = q / n, where n - 1 is s + (c - 1). Moving a state to a larger m' = m - d scales it by a = e^d:
t' = a (t + d n), n' = a n, mean' = mean + d; and q of two parts adds n1 n2 / (n1 + n2) (mean1 - mean2)^2.

With weights w of the classes (class_weights.py) there are also

    k = sum of w over z = 0 (only of probabilities)      r = sum of the other w      b = sum of w z

where b moves to m' as b' = b + d (k + r), and a weight of 0 gives 0 even at z = -inf.

Bits of MOMENTS: 4 t is needed, 8 t and q are. STABLE: the sums of stablemax.py instead, of sigma(x).
"""

import triton
import triton.language as tl
from fluxcore.kernels.class_weights import weights_at, weights_of_tile
from fluxcore.kernels.rows import (
    NO_COLUMN,
    centred,
    edge_columns,
    exp,
    load_body,
    load_logits,
    lowest,
    tile_columns,
    transform,
    widen,
)
from fluxcore.kernels.stablemax import absorb_stable, collapse_stable, log_sigma


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
def moved(b, weight, d):
    # b for a maximum that is -d higher, of classes that weigh `weight` together.
    return b + tl.where(weight == 0, 0.0, weight * d)


@triton.jit
def absorb(m, c, s, t, q, k, r, b, x, weights, new, MOMENTS: tl.constexpr, WEIGHTS: tl.constexpr):
    # Add a tile x [LANES, ROWS, DEPTH, VEC] to the lanes' states [LANES, ROWS], for a maximum `new` >= m and >= x.
    far = x - new[:, :, None, None]
    z = centred(x, new[:, :, None, None]) if MOMENTS & 12 else far
    e = exp(z)
    # 0 where z = 0, else 1. As a comparison it costs less on paper, but the compiler packs its bits and unpacks them.
    below = tl.minimum(z * -3e38, 1.0)
    s2 = tl.sum(tl.sum(e * below, axis=3), axis=2)
    c2 = x.shape[2] * x.shape[3] - tl.sum(tl.sum(below, axis=3), axis=2)
    d = centred(m, new)
    a = exp(d)
    up = new > m
    n = a * (c + s)
    if MOMENTS & 12:
        t2 = tl.sum(tl.sum(e * z, axis=3), axis=2)
        t = a * t + d * n
        if MOMENTS & 8:
            n2 = c2 + s2
            mean2 = ratio(t2, n2)
            w = z - mean2[:, :, None, None]
            q2 = tl.sum(tl.sum(e * w * w, axis=3), axis=2)
            apart = ratio(t, n) - mean2
            q = a * q + q2 + ratio(n * n2, n + n2) * apart * apart
        t += t2
    if WEIGHTS:
        b = moved(b, k + r, m - new)
        b += tl.sum(tl.sum(weights * tl.where(weights == 0, 0.0, far), axis=3), axis=2)
        under = weights
        if WEIGHTS & 4:
            under = weights * below
            r = tl.where(up, r + k, r)
            k = tl.where(up, 0.0, k) + tl.sum(tl.sum(weights - under, axis=3), axis=2)
        r += tl.sum(tl.sum(under, axis=3), axis=2)
    return tl.where(up, 0.0, c) + c2, tl.where(up, n, s) + s2, t, q, k, r, b


@triton.jit
def absorb_tile(
    m, c, s, t, q, k, r, b, found, x, weights, tile,
    MOMENTS: tl.constexpr, WEIGHTS: tl.constexpr, STABLE: tl.constexpr,
):  # fmt: skip
    # The lanes' states with the tile x added, and for each lane the first tile in which its maximum was found.
    top = tl.max(tl.max(x, axis=3), axis=2)
    found = tl.where((top > m) | ((top == m) & (found == NO_COLUMN)), tile, found)
    new = tl.maximum(m, top)
    if STABLE:
        c, s, k, r, b = absorb_stable(m, c, s, k, r, b, x, weights, new, WEIGHTS)
    else:
        c, s, t, q, k, r, b = absorb(m, c, s, t, q, k, r, b, x, weights, new, MOMENTS, WEIGHTS)
    return new, c, s, t, q, k, r, b, found


@triton.jit
def collapse(m, c, s, t, q, k, r, b, MOMENTS: tl.constexpr, WEIGHTS: tl.constexpr, STABLE: tl.constexpr):
    # One state [ROWS] of the states [LANES, ROWS] of its parts.
    if STABLE:
        top, c1, s1, k1, r1, b1 = collapse_stable(m, c, s, k, r, b, WEIGHTS)
        t1, q1 = tl.zeros_like(c1), tl.zeros_like(c1)
    else:
        top = tl.max(m, axis=0)
        d = centred(m, top[None, :])
        a = exp(d)
        n = a * (c + s)
        same = m == top[None, :]
        c1 = tl.sum(tl.where(same, c, 0.0), axis=0)
        s1 = tl.sum(tl.where(same, s, n), axis=0)
        t1, q1, k1, r1, b1 = (
            tl.zeros_like(c1),
            tl.zeros_like(c1),
            tl.zeros_like(c1),
            tl.zeros_like(c1),
            tl.zeros_like(c1),
        )
        if MOMENTS & 12:
            t1 = tl.sum(a * t + d * n, axis=0)
            if MOMENTS & 8:
                apart = ratio(t, c + s) + d - ratio(t1, c1 + s1)[None, :]
                q1 = tl.sum(a * q + n * apart * apart, axis=0)
        if WEIGHTS:
            b1 = tl.sum(moved(b, k + r, m - top[None, :]), axis=0)
            k1 = tl.sum(tl.where(same, k, 0.0), axis=0)
            r1 = tl.sum(tl.where(same, r, r + k), axis=0)
    return top, c1, s1, t1, q1, k1, r1, b1


@triton.jit
def first_column(hit, columns):
    # Smallest column [ROWS] of a tile at which `hit`.
    best = tl.min(tl.min(tl.where(hit, columns, NO_COLUMN), axis=3), axis=2)
    return tl.min(best, axis=0)


@triton.jit
def start_lanes(edge, edge_column, in_edge, source, WEIGHTS: tl.constexpr, STABLE: tl.constexpr):
    # States of lanes [LANES, ROWS] that have seen nothing, or one element of the row's edges.
    seen = edge != -float("inf")
    m = tl.maximum(tl.where(edge == edge, edge, -float("inf")), lowest(edge))
    c = tl.where(seen, 1.0, 0.0).to(edge.dtype)
    s = tl.where(seen, edge - edge, 0.0)  # NaN for an edge that is NaN or +inf
    k, r, b = tl.zeros_like(s), tl.zeros_like(s), tl.zeros_like(s)
    if WEIGHTS:
        weights = weights_at(edge_column, in_edge, edge, source[2][None, :], source, WEIGHTS)
        b = tl.where(seen | (weights == 0), 0.0, -float("inf")).to(edge.dtype)
        if STABLE and not WEIGHTS & 4:
            b = tl.where(weights == 0, 0.0, weights * log_sigma(edge))
        r = weights
        if WEIGHTS & 4:
            k = tl.where(seen, weights, 0.0)
            r = weights - k
    return m, c, s, tl.zeros_like(s), tl.zeros_like(s), k, r, b


@triton.jit
def scan(
    x_ptr, begin, first, count, reading, split, from_tile, to_tile, V, scale, softcap, source,
    MOMENTS: tl.constexpr, WEIGHTS: tl.constexpr, IN_PHASE: tl.constexpr, STABLE: tl.constexpr,
    TRANSFORM: tl.constexpr, EDGES: tl.constexpr, VEC: tl.constexpr, LANES: tl.constexpr, DEPTH: tl.constexpr,
    WHOLE_ROW: tl.constexpr,
):  # fmt: skip
    # The state of each row [ROWS] (of the tiles given, and of the edges for split 0), and the column of its maximum.
    #
    # Lanes run along the row, each with a state of its own, and meet at the end of it. WHOLE_ROW: one tile holds the
    # row, so lanes share its maximum at once. m is NaN if a NaN was seen; then the column is that of the first. m =
    # lowest and c = 0 mean that every logit was -inf, as for a row [ROWS] that is not `reading`, which is not loaded.
    #
    # Also returns what top_k_of_rows wants: the edges with their columns, which lanes have one, and the lanes' maxima.
    edge_column, in_edge = edge_columns(begin, first, count, V, VEC, LANES)
    in_edge = in_edge & EDGES & (split == 0) & reading[None, :]
    edge = widen(tl.load(x_ptr + begin[None, :] + edge_column, mask=in_edge, other=-float("inf")))
    edge = tl.where(in_edge, transform(edge, scale, softcap, TRANSFORM), -float("inf"))
    m, c, s, t, q, k, r, b = start_lanes(edge, edge_column, in_edge, source, WEIGHTS, STABLE)
    count = tl.where(reading, count, 0)

    if WHOLE_ROW:
        x = load_logits(x_ptr, first, count, 0, scale, softcap, TRANSFORM, VEC, DEPTH, LANES)
        weights = weights_of_tile(x, begin, first, count, 0, source, WEIGHTS, IN_PHASE, VEC, DEPTH, LANES, False)
        lane_top = tl.maximum(m, tl.max(tl.max(x, axis=3), axis=2))
        top = tl.max(lane_top, axis=0)[None, :] + tl.zeros_like(m)
        if STABLE:
            c, s, k, r, b = absorb_stable(m, c, s, k, r, b, x, weights, top, WEIGHTS)
        else:
            c, s, t, q, k, r, b = absorb(m, c, s, t, q, k, r, b, x, weights, top, MOMENTS, WEIGHTS)
        m = top
    else:
        found = tl.zeros_like(edge_column) + NO_COLUMN
        # Tiles that lie wholly inside need no masks; at most one in a row does not.
        last_whole = tl.min(count, axis=0).to(tl.int32) // (DEPTH * LANES)
        from_partial = tl.maximum(tl.minimum(to_tile, last_whole), from_tile)
        for tile in range(from_tile, from_partial):
            x = load_logits(x_ptr, first, count, tile, scale, softcap, TRANSFORM, VEC, DEPTH, LANES, WHOLE=True)
            weights = weights_of_tile(x, begin, first, count, tile, source, WEIGHTS, IN_PHASE, VEC, DEPTH, LANES, True)
            m, c, s, t, q, k, r, b, found = absorb_tile(
                m, c, s, t, q, k, r, b, found, x, weights, tile, MOMENTS, WEIGHTS, STABLE
            )
        for tile in range(from_partial, to_tile):
            x = load_logits(x_ptr, first, count, tile, scale, softcap, TRANSFORM, VEC, DEPTH, LANES)
            weights = weights_of_tile(x, begin, first, count, tile, source, WEIGHTS, IN_PHASE, VEC, DEPTH, LANES, False)
            m, c, s, t, q, k, r, b, found = absorb_tile(
                m, c, s, t, q, k, r, b, found, x, weights, tile, MOMENTS, WEIGHTS, STABLE
            )
        lane_top = m

    m, c, s, t, q, k, r, b = collapse(m, c, s, t, q, k, r, b, MOMENTS, WEIGHTS, STABLE)

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
    return m, c, s, t, q, k, r, b, column, edge, edge_column, in_edge, lane_top


@triton.jit
def store_part(
    partial_ptr, partial_column_ptr, rows, live, split, N, m, c, s, t, q, k, r, b, column,
    WEIGHTS: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    # Leave a program's part of its rows in partial [8, N, SPLITS] ([5, ...] without WEIGHTS) and partial_column.
    part = partial_ptr + rows * SPLITS + split
    plane = tl.cast(N, tl.int64) * SPLITS
    tl.store(partial_column_ptr + rows * SPLITS + split, column, mask=live)
    tl.store(part, m, mask=live)
    tl.store(part + plane, c, mask=live)
    tl.store(part + 2 * plane, s, mask=live)
    tl.store(part + 3 * plane, t, mask=live)
    tl.store(part + 4 * plane, q, mask=live)
    if WEIGHTS:
        tl.store(part + 5 * plane, k, mask=live)
        tl.store(part + 6 * plane, r, mask=live)
        tl.store(part + 7 * plane, b, mask=live)


@triton.jit
def merge_parts(
    partial_ptr, partial_column_ptr, rows, N,
    MOMENTS: tl.constexpr, WEIGHTS: tl.constexpr, STABLE: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    # The rows' states and the columns of their maxima, from what store_part left.
    place = rows[None, :] * SPLITS + tl.arange(0, SPLITS)[:, None]
    part = partial_ptr + place
    plane = tl.cast(N, tl.int64) * SPLITS
    m = tl.load(part)
    columns = tl.load(partial_column_ptr + place)
    c = tl.load(part + plane)
    s = tl.load(part + 2 * plane)
    t = tl.load(part + 3 * plane)
    q = tl.load(part + 4 * plane)
    k, r, b = c, c, c
    if WEIGHTS:
        k = tl.load(part + 5 * plane)
        r = tl.load(part + 6 * plane)
        b = tl.load(part + 7 * plane)
    nan_column = tl.min(tl.where(m != m, columns, NO_COLUMN), axis=0)
    number = tl.where(m == m, m, lowest(m))
    top, c, s, t, q, k, r, b = collapse(number, c, s, t, q, k, r, b, MOMENTS, WEIGHTS, STABLE)
    column = tl.min(tl.where(number == top[None, :], columns, NO_COLUMN), axis=0)
    top = tl.where(nan_column == NO_COLUMN, top, float("nan"))
    column = tl.where(nan_column == NO_COLUMN, column, nan_column)
    return top, c, s, t, q, k, r, b, column
