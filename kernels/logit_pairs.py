"""Two rows of logits side by side, policy x and reference v [N, V] each, and functions of l = log(p/r), exact near 0.

Tiles follow the 16-byte vectors of x (rows.py). Those of v stand at the same columns, so they move by 16 bytes too if
each row of v is as far from a 16-byte boundary as that of x: always so when both are contiguous.
"""

import triton
import triton.language as tl
from fluxcore.kernels.rows import LOG2_E, RowLayout, body_offsets, body_tile, load_body, log1p, widen

# Stands for -inf: then a difference of two logits is finite, and 0 where both are -inf.
FLOOR = tl.constexpr(-1e30)
NEAR = tl.constexpr(0.5)


@triton.jit
def finite_below(x):
    # x with -inf raised to FLOOR; NaN stays.
    return tl.maximum(x, FLOOR, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def scaled_exp(z, scale):
    # e^(z scale) for z <= 0; the scale costs nothing, being folded into the constant.
    exact = tl.full((), scale, tl.float64)
    return tl.exp(z * exact) if z.dtype == tl.float64 else tl.exp2(z * (exact * 1.4426950408889634).to(tl.float32))


@triton.jit
def scaled(u, scale, SCALED: tl.constexpr):
    return u * tl.full((), scale, u.dtype) if SCALED else u


@triton.jit
def series(u):
    # f(u) / u^2 for |u| < NEAR, where f(u) = u + e^-u - 1: minimax to 3e-8 in float32, Taylor in float64.
    if u.dtype == tl.float64:
        g = tl.zeros_like(u) + 1
        for i in tl.static_range(14):
            g = 1 - u * g * (1 / (16 - i))
        g = 0.5 * g
    else:
        g = ((-1.99448744e-4 * u + 1.398218605e-3) * u - 8.333236133e-3) * u + 4.166579123e-2
        g = (g * u - 1.666666680e-1) * u + 0.5
    return g


@triton.jit
def excess(u):
    # f(u) = u + e^-u - 1 >= 0, to all digits; inf where e^-u overflows.
    far = (u - 1) + (tl.exp(-u) if u.dtype == tl.float64 else tl.exp2(u * -LOG2_E))
    return tl.where(tl.abs(u) < NEAR, u * u * series(u), far)


@triton.jit
def divergence_term(p, q, u):
    # p log(p/q) + q - p for u = log(p/q); q where p = 0.
    return tl.where(tl.abs(u) < NEAR, p * (u * u * series(u)), tl.where(p > 0, p * u, 0.0) + (q - p))


@triton.jit
def mixture_ratios(l, beta):
    # log(p/M) and log(r/M) for M = beta p + (1-beta) r and l = log(p/r).
    exact = tl.full((), beta, tl.float64)
    beta_p = exact.to(l.dtype)
    beta_r = (1 - exact).to(l.dtype)
    share = tl.where(l > 0, beta_p, beta_r)
    rest = tl.where(l > 0, beta_r, beta_p)
    h = tl.abs(l)
    near = h < NEAR
    y = rest * (h * (h * series(h) - 1))  # rest (e^-h - 1)
    mean = tl.where(near, 1 + y, share + rest * (tl.exp(-h) if l.dtype == tl.float64 else tl.exp2(h * -LOG2_E)))
    # What rounding 1 + y loses is as good as lost to the logarithm, whose derivative is nearly 1 there.
    log_mean = tl.log(mean) + tl.where(near, y - (mean - 1), 0.0)
    return tl.minimum(l, 0.0) - log_mean, -tl.maximum(l, 0.0) - log_mean


@triton.jit
def jsd_terms(p, r, l, beta):
    # beta p log(p/M) + (1-beta) r log(r/M), never negative where l is near 0; and p log(p/M) + M - p.
    exact = tl.full((), beta, tl.float64)
    p_share = exact.to(l.dtype) * p
    r_share = (1 - exact).to(l.dtype) * r
    by_policy, by_ref = mixture_ratios(l, beta)
    near = tl.abs(l) < NEAR
    policy_near = by_policy * by_policy * series(by_policy)
    policy_far = tl.where(p > 0, p * by_policy, 0.0)
    both_near = p_share * policy_near + r_share * (by_ref * by_ref * series(by_ref))
    both_far = tl.where(p > 0, p_share * by_policy, 0.0) + tl.where(r > 0, r_share * by_ref, 0.0)
    policy = tl.where(near, p * policy_near, policy_far + ((p_share + r_share) - p))
    return tl.where(near, both_near, both_far), policy


@triton.jit
def difference(a, b):
    # a - b, rounded, and what the rounding lost.
    d = a - b
    back = d - a
    return d, (a - (d - back)) - (b + back)


@triton.jit
def log_ratio(a, b):
    # log((1 + a) / (1 + b)) of a, b >= 0, right in all digits also where they are small or nearly equal.
    log = log1p(tl.abs(a - b) / (1 + tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)))
    return tl.where(a >= b, log, -log)


@triton.jit
def load_pair(
    x_ptr, v_ptr, first, count, v_start, tile,
    SAME_PHASE: tl.constexpr, VEC: tl.constexpr, DEPTH: tl.constexpr, LANES: tl.constexpr, WHOLE: tl.constexpr = False,
):  # fmt: skip
    # A tile of both rows' bodies [LANES, ROWS, DEPTH, VEC], float32 at least, -inf as FLOOR; FLOOR past their end.
    x = load_body(x_ptr, first, count, tile, VEC, DEPTH, LANES, WHOLE)
    vectors = body_tile(tile, DEPTH, LANES)
    if SAME_PHASE:
        v_start = v_start // VEC * VEC
    places = (v_ptr + v_start)[None, :, None, None] + body_offsets(vectors, VEC)
    if WHOLE:
        v = tl.load(places)
    else:
        v = tl.load(places, mask=(vectors < count[None, :, None])[:, :, :, None], other=-float("inf"))
    return finite_below(x), finite_below(widen(v))


@triton.jit
def load_edge_pair(x_ptr, v_ptr, begin, v_begin, columns, in_edge):
    # The pairs before and after the body, one a lane [LANES, ROWS], -inf as FLOOR; FLOOR where a lane has none.
    x = widen(tl.load(x_ptr + begin[None, :] + columns, mask=in_edge, other=-float("inf")))
    v = widen(tl.load(v_ptr + v_begin[None, :] + columns, mask=in_edge, other=-float("inf")))
    return finite_below(x), finite_below(v)


def same_phase(x: RowLayout, v: RowLayout, strides_apart: int) -> bool:
    """Whether each row of v is as far from a 16-byte boundary as that of x; `strides_apart` = difference of strides."""
    return (x.offset - v.offset) % x.vec == 0 and strides_apart % x.vec == 0
