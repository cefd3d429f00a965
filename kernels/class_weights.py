"""A weight of every class of a row: what label smoothing and class probabilities sum over.

Bits of WEIGHTS: 1 every class weighs 1, 2 the class weights w, 4 probabilities P of the target, smoothed: keep P +
even; with both 2 and 4 their product. 0: nothing is summed.

`source` is what weights are loaded from: (w [V], P, where each row of P begins [ROWS], keep, even, shifted w, vectors
of one shift).

The body of a row begins at any of the first columns, from which on w is not aligned. So w is written once for each of
them, shifted to an aligned address (shift_weights_kernel); the copies stay in the L2 cache.
"""

import torch
import triton
import triton.language as tl
from fluxcore.kernels.rows import RowLayout, body_offsets, body_tile, widen
from torch import Tensor

SHIFT_BLOCK = 1024


@triton.jit(do_not_specialize=["V"])
def shift_weights_kernel(weight_ptr, shifted_ptr, V, VEC: tl.constexpr, BLOCK: tl.constexpr):
    # shifted [VEC, V up to a whole vector]: row h is w [V] from class h on, then 0; grid (blocks, VEC).
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    classes = tl.program_id(1) + columns
    width = (V + VEC - 1) // VEC * VEC
    weights = tl.load(weight_ptr + classes, mask=classes < V, other=0.0)
    tl.store(shifted_ptr + tl.program_id(1) * width + columns, weights, mask=columns < width)


def launch_shift_weights(weight: Tensor, layout: RowLayout) -> Tensor:
    """Class weights [V] for rows of that layout: [VEC, V or more], or themselves where every body begins at class 0."""
    if not layout.edges:
        return weight
    V = weight.shape[0]
    width = triton.cdiv(V, layout.vec) * layout.vec
    shifted = torch.empty((layout.vec, width), dtype=weight.dtype, device=weight.device)
    shift_weights_kernel[triton.cdiv(width, SHIFT_BLOCK), layout.vec](
        weight, shifted, V, VEC=layout.vec, BLOCK=SHIFT_BLOCK, num_warps=4
    )
    return shifted


@triton.jit
def weights_at(columns, valid, like, begin, source, WEIGHTS: tl.constexpr):
    # Weights at `columns`, of the type and shape of `like`; 0 where not `valid`. Rows of P begin at `begin`, to be
    # broadcast to `columns`.
    weights = tl.full(like.shape, 1.0, like.dtype)
    if WEIGHTS & 4:
        share = tl.load(source[1] + begin + columns, mask=valid, other=0.0)
        weights = source[3] * widen(share) + source[4]
    if WEIGHTS & 2:
        weights *= tl.load(source[0] + columns, mask=valid, other=0.0)
    return tl.where(valid, weights, 0.0)


@triton.jit
def weights_of_tile(
    x, begin, first, count, tile, source,
    WEIGHTS: tl.constexpr, IN_PHASE: tl.constexpr, VEC: tl.constexpr, DEPTH: tl.constexpr, LANES: tl.constexpr,
    WHOLE: tl.constexpr,
):  # fmt: skip
    # Weights of a tile x of each row's body [LANES, ROWS, DEPTH, VEC]; 0 past its end, or WHOLE: all inside. Without
    # WEIGHTS x itself, which nobody uses then.
    # IN_PHASE: each row of P is as far from a 16-byte boundary as that of x, so that it moves by 16 bytes too.
    vectors = body_tile(tile, DEPTH, LANES)
    offsets = body_offsets(vectors, VEC)
    valid = (vectors < count[None, :, None])[:, :, :, None]
    head = first * VEC - begin
    weights = tl.full(x.shape, 1.0, x.dtype) if WEIGHTS else x
    if WEIGHTS & 4:
        start = source[2] + head
        if IN_PHASE:
            start = start // VEC * VEC
        places = (source[1] + start)[None, :, None, None] + offsets
        share = tl.load(places) if WHOLE else tl.load(places, mask=valid, other=0.0)
        weights = source[3] * widen(share) + source[4]
    if WEIGHTS & 2:
        places = (source[5] + head * source[6] * VEC)[None, :, None, None] + offsets
        weights *= tl.load(places) if WHOLE else tl.load(places, mask=valid, other=0.0)
    if WEIGHTS > 0 and not WHOLE:
        weights = tl.where(valid, weights, 0.0)
    return weights
