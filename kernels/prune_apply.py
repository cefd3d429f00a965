"""Drop and regrow by cuts, or drop by a pattern, in one pass over weights, masks and the optimizer's moments."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from fluxcore.kernels.prune_keys import KINDS, candidates_of, keys_of, load_keys, load_some, numbers_of, run_length
from fluxcore.kernels.rows import NUM_WARPS, THREADS, on_device
from torch import Tensor

BLOCK = 1024
TILES = 8


@triton.jit
def chosen_by(cut_key, cut_index, keys, index):
    # Which keys a cut chooses; its index is a bound among equal keys.
    tied = (keys == cut_key) & (index < cut_index)
    return (keys >= 0) & ((keys < cut_key) | tied)


@triton.jit
def all_but_largest(w_ptr, mask_ptr, keys, places, inside, keep, GROUP: tl.constexpr, HAS_MASK: tl.constexpr):
    # Of each GROUP consecutive keys all but the `keep` largest, of equal ones the first. The others of a group come
    # from the cache; NO_KEY is smaller than any key.
    first = places // GROUP * GROUP
    larger = tl.zeros_like(keys)
    for i in range(GROUP):
        other = load_keys(w_ptr, mask_ptr, first + i, inside, 0, 0, 0, 0, HAS_MASK, 0)
        larger += ((other > keys) | ((other == keys) & (first + i > places))).to(tl.int32)
    return (keys >= 0) & (larger >= keep)


@triton.jit
def apply_tile(
    counts, w_ptr, g_ptr, mask_ptr, s0_ptr, s1_ptr, drop_key, drop_index, regrow_key, regrow_index,
    places, inside, offset, key, step, noise_std, keep,
    KIND: tl.constexpr, HAS_MASK: tl.constexpr, NOISE: tl.constexpr, STATES: tl.constexpr, WEIGHTS: tl.constexpr,
    GROUP: tl.constexpr, RUN: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    # A tile of prune_apply_kernel. Gives `counts`, of ten bits each, with the tile's.
    index = offset + places
    w = load_some(w_ptr, places, inside, WHOLE)
    active = candidates_of(mask_ptr, places, inside, 0, HAS_MASK, WHOLE)
    keys = tl.where(active, keys_of(w, 0), -1)
    if GROUP > 0:
        dropped = all_but_largest(w_ptr, mask_ptr, keys, places, inside, keep, GROUP, HAS_MASK)
        tl.debug_barrier()  # others of a group read what is written below
    else:
        dropped = chosen_by(drop_key, drop_index, keys, index)
    regrown = dropped & (keys < 0)
    if KIND != 3:
        others = load_keys(g_ptr, mask_ptr, places, inside, offset, key, step, KIND, HAS_MASK, RUN, WHOLE)
        regrown = chosen_by(regrow_key, regrow_index, others, index)
    touched = dropped | regrown
    if STATES >= 1:
        tl.store(s0_ptr + places, tl.zeros_like(places).to(s0_ptr.dtype.element_ty), mask=touched)
    if STATES >= 2:
        tl.store(s1_ptr + places, tl.zeros_like(places).to(s1_ptr.dtype.element_ty), mask=touched)
    if WEIGHTS:
        value = tl.zeros_like(keys).to(tl.float32)
        if NOISE:
            value = tl.where(regrown, numbers_of(index, key, step, True, RUN) * noise_std, value)
        # All are written, so that they are by vectors.
        w = tl.where(touched, value.to(w.dtype), w)
        after = ((active & (dropped == 0)) | regrown) if HAS_MASK else active
        if WHOLE:
            tl.store(w_ptr + places, w)
        else:
            tl.store(w_ptr + places, w, mask=inside)
        if HAS_MASK:
            if WHOLE:
                tl.store(mask_ptr + places, after.to(tl.uint8))
            else:
                tl.store(mask_ptr + places, after.to(tl.uint8), mask=inside)
        counts += dropped.to(tl.int32) + (regrown.to(tl.int32) << 10) + (after.to(tl.int32) << 20)
    return counts


@triton.jit(do_not_specialize=["n", "offset", "key", "step", "keep"])
def prune_apply_kernel(
    w_ptr, g_ptr, mask_ptr, s0_ptr, s1_ptr, drop_ptr, regrow_ptr, counts_ptr, n, offset, key, step,
    noise_std: tl.float32, keep,
    KIND: tl.constexpr, HAS_MASK: tl.constexpr, NOISE: tl.constexpr, STATES: tl.constexpr, WEIGHTS: tl.constexpr,
    GROUP: tl.constexpr, RUN: tl.constexpr,
    LANES: tl.constexpr, DEPTH: tl.constexpr, VEC: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    # Dropped weights become 0 and inactive, regrown ones noise and active, and up to two moments 0 at both. With GROUP
    # weights are dropped by that pattern.
    #
    #   w, g, s0, s1 [n]      mask [n] uint8      drop, regrow [2] int64      counts [3] int64: dropped, regrown, active
    #   grid (ceil(n / (SPAN TILES)),)      reads and writes w and mask, writes what changes of the moments
    BLOCK: tl.constexpr = LANES * DEPTH * VEC
    SPAN: tl.constexpr = BLOCK // GROUP * GROUP if GROUP > 0 else BLOCK  # whole groups
    lane = tl.arange(0, BLOCK)
    drop_key, drop_index = tl.load(drop_ptr).to(tl.int32), tl.load(drop_ptr + 1)
    regrow_key, regrow_index = tl.load(regrow_ptr).to(tl.int32), tl.load(regrow_ptr + 1)
    counts = tl.zeros((BLOCK,), tl.int32)
    begin = tl.program_id(0).to(tl.int64) * (SPAN * TILES)
    end = tl.minimum(n - begin, SPAN * TILES) + begin
    whole = ((end - begin) // SPAN).to(tl.int32) if SPAN == BLOCK else 0
    for tile in range(whole):
        counts = apply_tile(
            counts, w_ptr, g_ptr, mask_ptr, s0_ptr, s1_ptr, drop_key, drop_index, regrow_key, regrow_index,
            begin + tile * BLOCK + lane, lane >= 0, offset, key, step, noise_std, keep,
            KIND, HAS_MASK, NOISE, STATES, WEIGHTS, GROUP, RUN, True,
        )  # fmt: skip
    for start in range(begin + whole * SPAN, end, SPAN):
        places = lane.to(tl.int64) + start
        counts = apply_tile(
            counts, w_ptr, g_ptr, mask_ptr, s0_ptr, s1_ptr, drop_key, drop_index, regrow_key, regrow_index,
            places, (lane < SPAN) & (places < end), offset, key, step, noise_std, keep,
            KIND, HAS_MASK, NOISE, STATES, WEIGHTS, GROUP, RUN, False,
        )  # fmt: skip
    if WEIGHTS:
        tl.atomic_add(counts_ptr, tl.sum((counts & 1023).to(tl.int64), axis=0))
        tl.atomic_add(counts_ptr + 1, tl.sum(((counts >> 10) & 1023).to(tl.int64), axis=0))
        tl.atomic_add(counts_ptr + 2, tl.sum((counts >> 20).to(tl.int64), axis=0))


def launch_prune_apply(
    weights: Sequence[Tensor],
    masks: Sequence[Tensor],
    gradients: Sequence[Tensor],
    offsets: Sequence[int],
    keys: Sequence[int],
    step: int,
    owned: Sequence[tuple[Tensor, int]],
    drop: Tensor,
    regrow: Tensor,
    kind: str,
    noise_std: Sequence[float],
    keep: int,
    group: int,
) -> Tensor:
    """Change weights, masks and the moments `owned`, each with its tensor's number, in place.

    Gives [P, 3] int64: dropped, regrown, active afterwards.
    """
    counts = torch.zeros((len(weights), 3), dtype=torch.int64, device=weights[0].device)
    span = (BLOCK // group * group if group else BLOCK) * TILES
    with on_device(weights[0]):
        for i, weight in enumerate(weights):
            n, vec = weight.numel(), 16 // weight.element_size()
            if not n:
                continue
            mine = [state for state, owner in owned if owner == i]
            gradient = gradients[i] if kind == "gradient" and gradients else weight
            mask = masks[i].view(torch.uint8) if masks else weight
            # The weights last: what is chosen depends on them. Adam's two moments go along with them.
            rounds = [mine[at : at + 2] for at in range(0, len(mine), 2)] or [[]]
            for number, pair in enumerate(rounds):
                s0, s1 = [*pair, weight, weight][:2]
                prune_apply_kernel[(triton.cdiv(n, span),)](
                    weight, gradient, mask, s0, s1, drop[i], regrow[i], counts[i],
                    n, offsets[i], keys[i], step, float(noise_std[i]), keep,
                    KIND=KINDS[kind], HAS_MASK=bool(masks), NOISE=noise_std[i] > 0 and kind != "none",
                    STATES=len(pair), WEIGHTS=number + 1 == len(rounds), GROUP=group,
                    RUN=run_length(BLOCK, offsets[i], span),
                    LANES=THREADS, DEPTH=BLOCK // (THREADS * vec), VEC=vec, TILES=TILES, num_warps=NUM_WARPS,
                )  # fmt: skip
    return counts
