"""KL(p || r) of rows of logits from one read and two exponentials a pair, for rows whose l = log(p/r) is not extreme.

With u = delta - mu, delta the difference of the logits and mu any pivot, f(u) = u + e^-u - 1 and sums weighted by e^x:

    log-sum-exp(x) - log-sum-exp(v) = mu + shift, shift = -log(1 + G/n),  KL(p || r) = F/n - f(shift)
    n = sum of 1,  F = sum of f(u),  G = sum of e^-u - 1

It cancels only where the pivot is many standard deviations of delta away. So each lane keeps the mean of delta so far
for its pivot, and before a tile is added the sums move to the mean with that tile, by k:

    F' = F + n f(-k) + (e^k - 1) G,   G' = G + (e^k - 1) (n + G)

A mean that is within rounding of the difference at class 0 is taken to be that, so that rows which differ by a constant
have divergence 0. Rows with a |u| or |k| of more than FAR or a divergence of more than 1 nat are refused, so that
nothing overflows and no part of the reference's mass is lost to underflow; the kernel of two reads takes them.
"""

import triton
import triton.language as tl
from fluxcore.kernels.logit_pairs import (
    FLOOR,
    excess,
    finite_below,
    load_edge_pair,
    load_pair,
    scaled,
    scaled_exp,
)
from fluxcore.kernels.rows import edge_columns, log1p, row_bounds, widen

FAR = tl.constexpr(30.0)


@triton.jit
def snapped(mean, base):
    # The mean, or `base` if that is within rounding of it.
    ulp = 2.220446049250313e-16 if mean.dtype == tl.float64 else 1.1920929e-7
    return tl.where(tl.abs(mean - base) <= 8 * ulp * tl.abs(base), base, mean)


@triton.jit
def mean_of_two(n, mu, n2, mu2):
    # Of two means by weight; exactly the one that has nearly all of it, so reached from the larger.
    total = tl.maximum(n + n2, 1e-30)
    lighter = tl.minimum(n, n2) / total
    return tl.where(n2 > n, mu2 + lighter * (mu - mu2), mu + lighter * (mu2 - mu))


@triton.jit
def moved(n, F, G, k):
    # The sums F and G for a pivot that is k higher.
    f = excess(-k)
    grown = f + k
    return F + n * f + grown * G, G + grown * (n + G)


@triton.jit
def absorb_pairs(
    m, n, mu, F, G, far, v_top, x, v, base, scale, SCALED: tl.constexpr, SWAPPED: tl.constexpr, WHOLE: tl.constexpr
):
    # Add a tile [LANES, ROWS, DEPTH, VEC] of pairs to the lanes' states [LANES, ROWS].
    new = tl.maximum(m, tl.max(tl.max(x, axis=3), axis=2))
    if SWAPPED:
        v_top = tl.maximum(v_top, tl.max(tl.max(v, axis=3), axis=2))
    e = scaled_exp(x - new[:, :, None, None], scale)
    delta = x - v
    if not WHOLE:  # pairs past the end are no reason to refuse the row
        delta = tl.where((x > FLOOR) | (v > FLOOR), delta, base[:, :, None, None])
    n2 = tl.sum(tl.sum(e, axis=3), axis=2)
    mean2 = tl.sum(tl.sum(e * delta, axis=3), axis=2) / tl.where(n2 > 0, n2, 1.0)
    a = scaled_exp(m - new, scale)
    n, F, G = n * a, F * a, G * a
    pivot = tl.where(n > 0, mean_of_two(n, mu, n2, snapped(mean2, base)), snapped(mean2, base))
    pivot = snapped(pivot, base)
    k = tl.where(n > 0, scaled(pivot - mu, scale, SCALED), 0.0)
    F, G = moved(n, F, G, k)
    u = scaled(delta - pivot[:, :, None, None], scale, SCALED)
    far = tl.maximum(far, tl.max(tl.max(tl.abs(u), axis=3), axis=2))
    far = tl.maximum(far, tl.abs(k))
    F2 = tl.sum(tl.sum(e * excess(u), axis=3), axis=2)
    U2 = tl.sum(tl.sum(e * u, axis=3), axis=2)
    return new, n + n2, pivot, F + F2, G + (F2 - U2), far, v_top


@triton.jit
def collapse_pairs(m, n, mu, F, G, far, v_top, base, scale, SCALED: tl.constexpr):
    # One state [ROWS] of the states [LANES, ROWS] of its parts.
    top = tl.max(m, axis=0)
    a = scaled_exp(m - top[None, :], scale)
    # A part with no weight has no say, whatever its sums.
    n = n * a
    total = tl.sum(n, axis=0)
    pivot = snapped(tl.sum(n * mu, axis=0) / tl.where(total > 0, total, 1.0), base)
    k = tl.where(n > 0, scaled(pivot[None, :] - mu, scale, SCALED), 0.0)
    F, G = moved(n, F * a, G * a, k)
    far = tl.max(tl.maximum(far, tl.abs(k)), axis=0)
    return top, total, pivot, tl.sum(F, axis=0), tl.sum(G, axis=0), far, tl.max(v_top, axis=0)


@triton.jit
def first_difference(x_ptr, v_ptr, begin, v_begin, live):
    # Difference [ROWS] of the logits of class 0.
    x = widen(tl.load(x_ptr + begin, mask=live, other=0.0))
    return finite_below(x) - finite_below(widen(tl.load(v_ptr + v_begin, mask=live, other=0.0)))


@triton.jit
def finish_near(
    rows_ptr, state_ptr, refused_ptr, weight_ptr, rows, live, N, scale,
    m, n, mu, F, G, far, v_top, SCALED: tl.constexpr, WEIGHTED: tl.constexpr, SWAPPED: tl.constexpr,
):  # fmt: skip
    # Store divergence and state of the rows [ROWS] whose sums are given, and which of them are refused.
    weight = tl.full([1], 1, m.dtype) + tl.zeros_like(m)
    if WEIGHTED:
        weight = tl.load(weight_ptr + rows)
    dead = weight == 0
    n = tl.where(dead, 1.0, n)
    shift = -log1p(G / n)
    value = F / n - excess(shift)
    # Comparisons with NaN are false. A mean as large as FLOOR comes of a reference that excludes every class.
    taken = (far <= FAR) & (value <= 1) & (m > FLOOR) & (tl.abs(mu) < -1e-2 * FLOOR)
    value = tl.maximum(value, 0.0)
    # The state is the policy's, which is v here if the two are swapped.
    s = n - 1
    pivot = scaled(mu, scale, SCALED)
    top = m
    centre = value
    if SWAPPED:
        top = v_top
        s = tl.exp(scaled((m - v_top) - mu, scale, SCALED) + (tl.log(n) - shift)) - 1
        pivot = -pivot
        shift = -shift
        centre = tl.zeros_like(value)
    row_count = tl.cast(N, tl.int64)
    tl.store(refused_ptr + rows, tl.where(taken | dead, 0, 1), mask=live)
    tl.store(rows_ptr + rows, tl.where(dead, 0.0, weight * value), mask=live)
    state = state_ptr + rows
    tl.store(state, tl.where(dead, 0.0, scaled(top, scale, SCALED)), mask=live)
    tl.store(state + row_count, tl.where(dead, 0.0, s), mask=live)
    tl.store(state + 2 * row_count, tl.where(dead, 0.0, pivot), mask=live)
    tl.store(state + 3 * row_count, tl.where(dead, 0.0, shift), mask=live)
    tl.store(state + 4 * row_count, tl.where(dead, 0.0, centre), mask=live)


@triton.jit(do_not_specialize=["row_stride", "offset", "v_stride", "v_offset", "N", "V"])
def kl_div_near_kernel(
    x_ptr, v_ptr, weight_ptr, rows_ptr, state_ptr, refused_ptr, partial_ptr,
    row_stride, offset, v_stride, v_offset, N, V, scale: tl.float64,
    SCALED: tl.constexpr, WEIGHTED: tl.constexpr, SWAPPED: tl.constexpr, EDGES: tl.constexpr, SAME_PHASE: tl.constexpr,
    VEC: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr, DEPTH: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    # weight * KL(softmax x || softmax v) of each row that is not refused, from one read.
    #
    #   x, v [N, V] float, row_stride and v_stride apart     weight [N], or unused
    #   rows [N], state [5, N], refused [N] int32            grid (row groups of ROWS, SPLITS)
    #
    # SWAPPED: x is the reference and v the policy. SPLITS > 1: each program leaves its part of the row in `partial`
    # [7, N, SPLITS] for kl_div_near_merge_kernel.
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = rows < N
    rows = tl.minimum(rows, N - 1).to(tl.int64)
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
    base = first_difference(x_ptr, v_ptr, begin, v_begin, read)

    # Every lane starts from at most one pair of the edges.
    columns, in_edge = edge_columns(begin, first, count, V, VEC, LANES)
    in_edge = in_edge & EDGES & (split == 0) & read[None, :]
    m, v_top = load_edge_pair(x_ptr, v_ptr, begin, v_begin, columns, in_edge)
    mu = m - v_top
    n = tl.where(m > FLOOR, 1.0, 0.0).to(m.dtype)
    F = tl.where(m == m, 0.0, m)
    G = tl.zeros_like(F)
    # A class that only x excludes has weight 0 but its share of v; so it must be noticed.
    far = tl.where((n == 0) & (mu < 0), 1e30, 0.0).to(m.dtype)

    count = tl.where(read, count, 0)
    last_whole = tl.min(count, axis=0).to(tl.int32) // (DEPTH * LANES)
    from_partial = tl.maximum(tl.minimum(to_tile, last_whole), from_tile)
    for tile in range(from_tile, from_partial):
        x, v = load_pair(x_ptr, v_ptr, first, count, v_start, tile, SAME_PHASE, VEC, DEPTH, LANES, WHOLE=True)
        m, n, mu, F, G, far, v_top = absorb_pairs(
            m, n, mu, F, G, far, v_top, x, v, base[None, :], scale, SCALED, SWAPPED, True
        )
    for tile in range(from_partial, to_tile):
        x, v = load_pair(x_ptr, v_ptr, first, count, v_start, tile, SAME_PHASE, VEC, DEPTH, LANES)
        m, n, mu, F, G, far, v_top = absorb_pairs(
            m, n, mu, F, G, far, v_top, x, v, base[None, :], scale, SCALED, SWAPPED, False
        )
    m, n, mu, F, G, far, v_top = collapse_pairs(m, n, mu, F, G, far, v_top, base, scale, SCALED)
    if SPLITS > 1:
        part = partial_ptr + rows * SPLITS + split
        plane = tl.cast(N, tl.int64) * SPLITS
        tl.store(part, m, mask=live)
        tl.store(part + plane, n, mask=live)
        tl.store(part + 2 * plane, mu, mask=live)
        tl.store(part + 3 * plane, F, mask=live)
        tl.store(part + 4 * plane, G, mask=live)
        tl.store(part + 5 * plane, far, mask=live)
        tl.store(part + 6 * plane, v_top, mask=live)
    else:
        finish_near(
            rows_ptr, state_ptr, refused_ptr, weight_ptr, rows, live, N, scale,
            m, n, mu, F, G, far, v_top, SCALED, WEIGHTED, SWAPPED,
        )  # fmt: skip


@triton.jit(do_not_specialize=["row_stride", "offset", "v_stride", "v_offset", "N", "V"])
def kl_div_near_merge_kernel(
    x_ptr, v_ptr, weight_ptr, rows_ptr, state_ptr, refused_ptr, partial_ptr,
    row_stride, offset, v_stride, v_offset, N, V, scale: tl.float64,
    SCALED: tl.constexpr, WEIGHTED: tl.constexpr, SWAPPED: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    # Rows, state and refusals from the parts that kl_div_near_kernel left in partial [7, N, SPLITS]; grid (N,).
    rows = (tl.program_id(0) + tl.arange(0, 1)).to(tl.int64)
    part = partial_ptr + rows[None, :] * SPLITS + tl.arange(0, SPLITS)[:, None]
    plane = tl.cast(N, tl.int64) * SPLITS
    base = first_difference(x_ptr, v_ptr, rows * row_stride + offset, rows * v_stride + v_offset, rows < N)
    m, n, mu, F, G, far, v_top = collapse_pairs(
        tl.load(part), tl.load(part + plane), tl.load(part + 2 * plane), tl.load(part + 3 * plane),
        tl.load(part + 4 * plane), tl.load(part + 5 * plane), tl.load(part + 6 * plane), base, scale, SCALED,
    )  # fmt: skip
    finish_near(
        rows_ptr, state_ptr, refused_ptr, weight_ptr, rows, rows < N, N, scale,
        m, n, mu, F, G, far, v_top, SCALED, WEIGHTED, SWAPPED,
    )  # fmt: skip
