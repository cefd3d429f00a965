"""One backward pass for every function of the softmax statistics of a row, and for its cross entropies.

Such a function has, at nearly every class, the gradient e^z (a + b u + c u^2) + g w, with z = x - m, u = z - mean =
log p + H, the class's weight w (class_weights.py) and coefficients a row. (In powers of z instead it would cancel where
the mean is far from m.) At the argmax, the target and the top k other terms come in, which cancel against that; there
the value is computed on its own, in residual form, and *replaces* the sweep's. So a further statistic or penalty costs
no bytes.
"""

import triton
import triton.language as tl
from fluxcore.kernels.class_weights import weights_at, weights_of_tile
from fluxcore.kernels.rows import (
    body_offsets,
    body_tile,
    centred,
    edge_columns,
    exp,
    load_body,
    tanh_parts,
    transform,
    widen,
)
from fluxcore.kernels.stablemax import slopes_of_tile
from torch import Tensor

MAX_SPLITS = 1 << 16  # the second grid dimension


def max_gradient_splits(x: Tensor, dx: Tensor, top_k: int) -> int:
    """Most programs that a row of x may have: one where dx is written over x, and each needs the whole top k."""
    return 1 if top_k and dx.data_ptr() == x.data_ptr() else MAX_SPLITS


@triton.jit
def softcap_derivative(x, softcap):
    return tanh_parts(x / tl.full((), softcap, x.dtype))[1]


@triton.jit
def sweep(
    x, weights, m, mean, a, b, c, g, nothing, scale, softcap,
    MOMENTS: tl.constexpr, WEIGHTS: tl.constexpr, STABLE: tl.constexpr, TRANSFORM: tl.constexpr,
):  # fmt: skip
    # e^z (a + b u + c u^2) + g w at the logits x, with the softcap's derivative; the other arguments broadcast to x.
    # STABLE: a sigma' + g w (log sigma)'.
    if STABLE:
        slope, log_slope = slopes_of_tile(x)
        dx = a * slope
        if WEIGHTS:
            dx += g * weights * log_slope
    else:
        z = centred(transform(x, scale, softcap, TRANSFORM), m)
        if MOMENTS & 8:
            u = z - mean
            factor = a + u * (b + u * c)
        elif MOMENTS & 4:
            factor = a + (z - mean) * b
        else:
            factor = a
        dx = exp(z) * factor
        if WEIGHTS:
            dx += g * weights
            nothing = nothing | (x == -float("inf"))
        if TRANSFORM == 2:
            dx *= softcap_derivative(x, softcap)
    return tl.where(nothing, 0.0, dx)


@triton.jit
def sweep_rows(
    x_ptr, dx_ptr, rows, live, split, from_tile, to_tile, begin, first, count, V, scale, softcap, source,
    m, mean, a, b, c, g, nothing,
    MOMENTS: tl.constexpr, WEIGHTS: tl.constexpr, IN_PHASE: tl.constexpr, STABLE: tl.constexpr,
    TRANSFORM: tl.constexpr, EDGES: tl.constexpr, SAME_PHASE: tl.constexpr, VEC: tl.constexpr, LANES: tl.constexpr,
    DEPTH: tl.constexpr,
):  # fmt: skip
    # `sweep` over the tiles given of the rows, and over their edges for split 0. Rows with `nothing` are not read.
    head = first * VEC - begin
    readable = tl.where(nothing, 0, count)
    for tile in range(from_tile, to_tile):
        x = load_body(x_ptr, first, readable, tile, VEC, DEPTH, LANES)
        weights = weights_of_tile(x, begin, first, readable, tile, source, WEIGHTS, IN_PHASE, VEC, DEPTH, LANES, False)
        dx = sweep(
            x, weights, m[None, :, None, None], mean[None, :, None, None], a[None, :, None, None],
            b[None, :, None, None], c[None, :, None, None], g[None, :, None, None], nothing[None, :, None, None],
            scale, softcap, MOMENTS, WEIGHTS, STABLE, TRANSFORM,
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
        loaded = in_edge & ~nothing[None, :]
        x = widen(tl.load(x_ptr + begin[None, :] + columns, mask=loaded, other=-float("inf")))
        at_edges = x  # unused without WEIGHTS
        if WEIGHTS:
            at_edges = weights_at(columns, loaded, x, source[2][None, :], source, WEIGHTS)
        dx = sweep(
            x, at_edges, m[None, :], mean[None, :], a[None, :], b[None, :], c[None, :], g[None, :], nothing[None, :],
            scale, softcap, MOMENTS, WEIGHTS, STABLE, TRANSFORM,
        )  # fmt: skip
        tl.store(dx_ptr + rows[None, :] * V + columns, dx.to(dx_ptr.dtype.element_ty), mask=in_edge)


@triton.jit
def special_classes(x_ptr, top_index_ptr, rows, begin, V, argmax, y, nothing, TOP_K: tl.constexpr, SLOTS: tl.constexpr):
    # Where the sweep is replaced: the argmax, the target, then the top k. Their classes [ROWS, SLOTS] and logits, which
    # of them are classes, and which are of the top k.
    slots = tl.arange(0, SLOTS)[None, :]
    special = tl.where(slots == 0, argmax[:, None], tl.where(slots == 1, y[:, None], -1))
    in_top_k = special < 0
    if TOP_K > 0:
        listed = (slots >= 2) & (slots < 2 + TOP_K)
        members = tl.load(top_index_ptr + rows[:, None] * TOP_K + (slots - 2), mask=listed, other=-1).to(tl.int64)
        special = tl.where(listed, members, special)
        target_listed = tl.max((listed & (special == y[:, None])).to(tl.int32), axis=1) > 0
        in_top_k = (slots != 1) | target_listed[:, None]
    known = (special >= 0) & (special < V)
    loaded = known & ~nothing[:, None]
    x = widen(tl.load(x_ptr + begin[:, None] + special, mask=loaded, other=-float("inf")))
    tl.debug_barrier()  # the gradient may be written over the logits: not before every thread has read these
    return special, x, known, in_top_k


@triton.jit
def replace_special(
    dx_ptr, dx, special, known, rows, live, split, from_tile, to_tile, begin, first, count, V,
    VEC: tl.constexpr, LANES: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    # Store dx [ROWS, SLOTS] at its classes: by the program that swept a class, and only after each of its threads has
    # stored its part.
    head = first * VEC - begin
    tile = (special - head[:, None]) // (VEC * DEPTH * LANES)
    in_body = (special >= head[:, None]) & (special < (head + count * VEC)[:, None])
    ours = tl.where(in_body, (tile >= from_tile) & (tile < to_tile), split == 0)
    tl.debug_barrier()
    tl.store(dx_ptr + rows[:, None] * V + special, dx.to(dx_ptr.dtype.element_ty), mask=known & ours & live[:, None])


@triton.jit
def gradient_of_rows(
    x_ptr, dx_ptr, top_index_ptr, rows, live, split, from_tile, to_tile, begin, first, count, V, scale, softcap, source,
    m, s, mean, varentropy, outside, argmax, y, own, g_logprob, g_entropy, g_var, g_max, g_top, g_weights, rest,
    nothing,
    OUTPUTS: tl.constexpr, WEIGHTS: tl.constexpr, IN_PHASE: tl.constexpr, TOP_K: tl.constexpr, SLOTS: tl.constexpr,
    TRANSFORM: tl.constexpr, EDGES: tl.constexpr, SAME_PHASE: tl.constexpr, VEC: tl.constexpr, LANES: tl.constexpr,
    DEPTH: tl.constexpr,
):  # fmt: skip
    # Store the gradient of a function of the rows' statistics, whose derivatives by them are g_* [ROWS].
    #
    # `own` is by the lse, and `outside` the share of what is not in the top k. g_weights is by the sum of w log p but
    # for the lse in it, which `own` has; with probabilities it is by all of it, and `rest` is the weight of all classes
    # but the argmax. OUTPUTS has the bits of the g_* that may not be 0.
    n = 1 + s
    own -= g_var * varentropy
    special, x, known, in_top_k = special_classes(
        x_ptr, top_index_ptr, rows, begin, V, argmax, y, nothing, TOP_K, SLOTS
    )
    z = centred(transform(x, scale, softcap, TRANSFORM), m[:, None])
    p = exp(z) / n[:, None]
    inside = tl.zeros_like(m)
    if TOP_K > 0:
        inside = tl.sum(tl.where((tl.arange(0, SLOTS)[None, :] >= 2) & known, p, 0.0), axis=1)
    weights, everything, at_argmax = p, tl.zeros_like(m), tl.zeros_like(m)
    if WEIGHTS:
        weights = weights_at(special, known & ~nothing[:, None], p, source[2][:, None], source, WEIGHTS)
        if WEIGHTS & 4:
            at_argmax = tl.sum(tl.where(tl.arange(0, SLOTS)[None, :] == 0, weights, 0.0), axis=1)
            everything = rest + at_argmax

    b = 2 * g_var - g_entropy
    unit = tl.full((), scale, m.dtype)
    factor = unit / n
    sweep_rows(
        x_ptr, dx_ptr, rows, live, split, from_tile, to_tile, begin, first, count, V, scale, softcap, source, m, mean,
        (own - g_weights * everything - g_logprob - g_max / n - g_top * inside) * factor, b * factor, g_var * factor,
        g_weights * unit, nothing,
        OUTPUTS, WEIGHTS, IN_PHASE, False, TRANSFORM, EDGES, SAME_PHASE, VEC, LANES, DEPTH,
    )  # fmt: skip

    if (OUTPUTS & (2 | 16 | 32 | 64)) or (WEIGHTS & 4):
        is_argmax = special == argmax[:, None]
        one_minus_p = tl.where(is_argmax, (s / n)[:, None], 1 - p)
        u = z - mean[:, None]
        dx = p * (own[:, None] + u * (b[:, None] + u * g_var[:, None]))
        dx += g_logprob[:, None] * tl.where(special == y[:, None], one_minus_p, -p)
        dx += (g_max / n)[:, None] * tl.where(is_argmax, one_minus_p, -p)
        if TOP_K > 0:
            dx += g_top[:, None] * p * tl.where(in_top_k, outside[:, None], -inside[:, None])
        if WEIGHTS & 4:
            dx += g_weights[:, None] * tl.where(
                is_argmax, ((at_argmax * s - rest) / n)[:, None], weights - everything[:, None] * p
            )
        elif WEIGHTS:
            dx += g_weights[:, None] * weights
        dx *= unit
        if TRANSFORM == 2:
            dx *= softcap_derivative(x, softcap)
        dx = tl.where(nothing[:, None] | (x == -float("inf")), 0.0, dx)
        replace_special(
            dx_ptr, dx, special, known, rows, live, split, from_tile, to_tile, begin, first, count, V, VEC, LANES, DEPTH
        )
