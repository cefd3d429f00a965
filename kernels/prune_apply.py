"""Drop and regrow by cuts, in one pass over weights, masks and the optimizer's moments."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from fluxcore.kernels.prune_keys import KINDS, load_keys, normals
from fluxcore.kernels.rows import on_device
from torch import Tensor

BLOCK = 1024


@triton.jit
def chosen_by(cut_ptr, keys, index):
    # Which keys a cut chooses; its index is a bound among equal keys.
    key = tl.load(cut_ptr)
    tied = (keys == key) & (index < tl.load(cut_ptr + 1))
    return (keys >= 0) & ((keys < key) | tied)


@triton.jit(do_not_specialize=["offset", "key", "step", "noise_std"])
def prune_apply_kernel(
    w_ptr, g_ptr, mask_ptr, s0_ptr, s1_ptr, drop_ptr, regrow_ptr, counts_ptr, n, offset, key, step, noise_std,
    KIND: tl.constexpr, HAS_MASK: tl.constexpr, NOISE: tl.constexpr, STATES: tl.constexpr, WEIGHTS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    # Dropped weights become 0 and inactive, regrown ones noise and active, and up to two moments 0 at both.
    #
    #   w, g, s0, s1 [n]      mask [n] uint8      drop, regrow [2] int64      counts [3] int64: dropped, regrown, active
    #   grid (ceil(n / BLOCK),)      reads and writes w and mask, writes what changes of the moments
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    index = offset + places
    inside = places < n
    dropped = chosen_by(drop_ptr, load_keys(w_ptr, mask_ptr, places, n, offset, key, step, 0, HAS_MASK), index)
    regrown = chosen_by(regrow_ptr, load_keys(g_ptr, mask_ptr, places, n, offset, key, step, KIND, HAS_MASK), index)
    touched = dropped | regrown
    if STATES >= 1:
        tl.store(s0_ptr + places, tl.zeros((BLOCK,), s0_ptr.dtype.element_ty), mask=touched)
    if STATES >= 2:
        tl.store(s1_ptr + places, tl.zeros((BLOCK,), s1_ptr.dtype.element_ty), mask=touched)
    if WEIGHTS:
        value = tl.zeros((BLOCK,), tl.float32)
        if NOISE:
            value = tl.where(regrown, normals(index, key, step) * noise_std, value)
        tl.store(w_ptr + places, value.to(w_ptr.dtype.element_ty), mask=touched)
        active = inside
        if HAS_MASK:
            active = (tl.load(mask_ptr + places, mask=inside, other=0) != 0) & (dropped == 0) | regrown
            tl.store(mask_ptr + places, active.to(tl.uint8), mask=inside)
        tl.atomic_add(counts_ptr, tl.sum(dropped.to(tl.int64), axis=0))
        tl.atomic_add(counts_ptr + 1, tl.sum(regrown.to(tl.int64), axis=0))
        tl.atomic_add(counts_ptr + 2, tl.sum(active.to(tl.int64), axis=0))


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
) -> Tensor:
    """Change weights, masks and the moments `owned`, each with its tensor's number, in place.

    Gives [P, 3] int64: dropped, regrown, active afterwards.
    """
    counts = torch.zeros((len(weights), 3), dtype=torch.int64, device=weights[0].device)
    with on_device(weights[0]):
        for i, weight in enumerate(weights):
            n = weight.numel()
            if not n:
                continue
            mine = [state for state, owner in owned if owner == i]
            gradient = gradients[i] if kind == "gradient" and gradients else weight
            mask = masks[i].view(torch.uint8) if masks else weight
            # The weights last: what is chosen depends on them. Adam's two moments go along with them.
            rounds = [mine[at : at + 2] for at in range(0, len(mine), 2)] or [[]]
            for number, pair in enumerate(rounds):
                s0, s1 = [*pair, weight, weight][:2]
                prune_apply_kernel[(triton.cdiv(n, BLOCK),)](
                    weight, gradient, mask, s0, s1, drop[i], regrow[i], counts[i],
                    n, offsets[i], keys[i], step, float(noise_std[i]),
                    KIND=KINDS[kind], HAS_MASK=bool(masks), NOISE=noise_std[i] > 0, STATES=len(pair),
                    WEIGHTS=number + 1 == len(rounds), BLOCK=BLOCK,
                )  # fmt: skip
    return counts
