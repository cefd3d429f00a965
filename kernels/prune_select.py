"""Exact selection of the smallest keys of many tensors: radix histograms, most significant bits first.

A search is over all tensors or over one. Its state stays on the device: the bits found so far (`prefix`), and how many
elements are still to be chosen among those that agree with them (`k`). Each of three passes reads every element once
and counts the next 11, 10 and 10 bits; one more counts ties, and a last one finds the place of the last of them.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from fluxcore.kernels.prune_keys import KINDS, load_keys, run_length
from fluxcore.kernels.rows import NUM_WARPS, THREADS, on_device
from torch import Tensor

BLOCK = 2048
PASSES = ((20, 2048), (10, 1024), (0, 1024))
TILES = 8
ALL = (1 << 63) - 1


@triton.jit
def count_tile(
    counts, x_ptr, mask_ptr, prefix, places, inside, offset, key, step,
    SHIFT: tl.constexpr, BINS: tl.constexpr, FIRST: tl.constexpr, KIND: tl.constexpr, HAS_MASK: tl.constexpr,
    RUN: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    keys = load_keys(x_ptr, mask_ptr, places, inside, offset, key, step, KIND, HAS_MASK, RUN, WHOLE)
    match = keys >= 0
    if not FIRST:
        match = match & ((keys >> (SHIFT + 10)) == prefix)
    return counts + tl.histogram((keys >> SHIFT) & (BINS - 1), BINS, mask=match)


@triton.jit(do_not_specialize=["n", "offset", "key", "step"])
def histogram_kernel(
    x_ptr, mask_ptr, prefix_ptr, histogram_ptr, n, offset, key, step,
    SHIFT: tl.constexpr, BINS: tl.constexpr, FIRST: tl.constexpr, KIND: tl.constexpr, HAS_MASK: tl.constexpr,
    RUN: tl.constexpr,
    LANES: tl.constexpr, DEPTH: tl.constexpr, VEC: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    # Add the counts of the keys' next bits, of those keys that agree with the prefix.
    #
    #   x [n]      histogram [BINS] int32      grid (ceil(n / (BLOCK TILES)),)
    BLOCK: tl.constexpr = LANES * DEPTH * VEC
    counts = tl.zeros((BINS,), tl.int32)
    begin = tl.program_id(0).to(tl.int64) * (BLOCK * TILES)
    prefix = tl.load(prefix_ptr).to(tl.int32)
    lane = tl.arange(0, BLOCK)
    whole = (tl.minimum(n - begin, BLOCK * TILES) // BLOCK).to(tl.int32)
    for tile in range(whole):
        places = begin + tile * BLOCK + lane
        counts = count_tile(
            counts, x_ptr, mask_ptr, prefix, places, lane >= 0, offset, key, step,
            SHIFT, BINS, FIRST, KIND, HAS_MASK, RUN, True,
        )  # fmt: skip
    places = begin + whole * BLOCK + lane
    if (whole < TILES) & (begin + whole * BLOCK < n):
        counts = count_tile(
            counts, x_ptr, mask_ptr, prefix, places, places < n, offset, key, step,
            SHIFT, BINS, FIRST, KIND, HAS_MASK, RUN, False,
        )  # fmt: skip
    bins = tl.arange(0, BINS)
    tl.atomic_add(histogram_ptr + bins, counts, mask=counts > 0)


@triton.jit(do_not_specialize=["n", "offset", "key", "step"])
def ties_kernel(
    x_ptr, mask_ptr, cut_ptr, ties_ptr, n, offset, key, step,
    KIND: tl.constexpr, HAS_MASK: tl.constexpr, RUN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # How many keys of each block equal the cut's.
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    cut = tl.load(cut_ptr).to(tl.int32)
    if (tl.program_id(0).to(tl.int64) + 1) * BLOCK <= n:
        keys = load_keys(x_ptr, mask_ptr, places, places >= 0, offset, key, step, KIND, HAS_MASK, RUN, True)
        tl.store(ties_ptr + tl.program_id(0), tl.sum((keys == cut).to(tl.int32), axis=0))
    else:
        keys = load_keys(x_ptr, mask_ptr, places, places < n, offset, key, step, KIND, HAS_MASK, RUN)
        tl.store(ties_ptr + tl.program_id(0), tl.sum((keys == cut).to(tl.int32), axis=0))


@triton.jit(do_not_specialize=["n", "offset", "key", "step", "first_block", "blocks"])
def last_tie_kernel(
    x_ptr, mask_ptr, cut_ptr, block_ptr, wanted_ptr, n, offset, key, step, first_block, blocks,
    KIND: tl.constexpr, HAS_MASK: tl.constexpr, RUN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # One program: the index up to which ties are chosen. `block` is where the last chosen tie is, counted over all
    # tensors of the search, and `wanted` which of that block's ties it is.
    block = tl.load(block_ptr) - first_block
    here = (block >= 0) & (block < blocks)
    places = tl.where(here, block, 0) * BLOCK + tl.arange(0, BLOCK)
    keys = load_keys(x_ptr, mask_ptr, places, places < n, offset, key, step, KIND, HAS_MASK, RUN)
    tied = (keys == tl.load(cut_ptr).to(tl.int32)).to(tl.int32)
    nth = tl.cumsum(tied, axis=0)
    found = (tied == 1) & (nth == tl.load(wanted_ptr).to(tl.int32))
    place = tl.max(tl.where(found, places, -1), axis=0)
    bound = tl.where(here, offset + place + 1, tl.where(block < 0, 0, 0x7FFFFFFFFFFFFFFF))
    tl.store(cut_ptr + 1, bound)


def launch_select_smallest(
    weights: Sequence[Tensor],
    masks: Sequence[Tensor],
    gradients: Sequence[Tensor],
    offsets: Sequence[int],
    keys: Sequence[int],
    step: int,
    kind: str,
    per_tensor: bool,
    fraction: float,
    k: Sequence[int] | None,
    ties: bool,
) -> Tensor:
    """Cuts [P, 2] int64, one (key, index) a tensor, that choose floor(fraction * candidates), or k, elements.

    Nothing waits for the device.
    """
    P, device = len(weights), weights[0].device
    searches = P if per_tensor else 1
    owner = [i if per_tensor else 0 for i in range(P)]
    read = gradients if kind == "gradient" else weights
    options = {"KIND": KINDS[kind], "HAS_MASK": bool(masks)}
    # ptxas would rather spill a few bytes; with this many there is room for three programs.
    registers = {"maxnreg": 168} if kind == "random" and torch.version.hip is None else {}
    # Tensors without elements have nothing to launch.
    live = [i for i in range(P) if weights[i].numel()]
    common = {i: (read[i], masks[i].view(torch.uint8) if masks else read[i]) for i in live}
    places = {i: (weights[i].numel(), offsets[i], keys[i], step) for i in live}
    prefix = torch.zeros(searches, dtype=torch.int64, device=device)
    wanted = torch.zeros(searches, dtype=torch.int64, device=device)
    cuts = torch.zeros((P, 2), dtype=torch.int64, device=device)
    with on_device(weights[0]):
        for number, (shift, bins) in enumerate(PASSES):
            counted = torch.zeros((searches, bins), dtype=torch.int32, device=device)
            for i in live:
                grid = (triton.cdiv(weights[i].numel(), BLOCK * TILES),)
                vec = 16 // weights[i].element_size()
                histogram_kernel[grid](
                    *common[i], prefix[owner[i]], counted[owner[i]], *places[i],
                    SHIFT=shift, BINS=bins, FIRST=number == 0, RUN=run_length(BLOCK, offsets[i]), **options,
                    LANES=THREADS, DEPTH=BLOCK // (THREADS * vec), VEC=vec, TILES=TILES,
                    num_warps=NUM_WARPS, **registers,
                )  # fmt: skip
            cumulated = counted.to(torch.int64).cumsum(1)
            if number == 0:
                wanted = _wanted(cumulated[:, -1], fraction, k)
                chosen = wanted
            bin_ = (cumulated < wanted.unsqueeze(1)).sum(1).clamp_max(bins - 1)
            before = cumulated.gather(1, (bin_ - 1).clamp_min(0).unsqueeze(1)).squeeze(1)
            wanted = wanted - torch.where(bin_ > 0, before, 0)
            prefix = bin_ if number == 0 else prefix << 10 | bin_
        owners = torch.tensor(owner, device="cpu").to(device, non_blocking=True)
        cuts[:, 0] = prefix[owners]
        if ties:
            options |= {"BLOCK": BLOCK, "num_warps": NUM_WARPS}
            for group in [[i] for i in live] if per_tensor else [live]:
                _cut_ties(group, common, places, options, cuts, wanted[owner[group[0]] if group else 0])
        return torch.where((chosen > 0)[owners].unsqueeze(1), cuts, 0)


def _wanted(candidates: Tensor, fraction: float, k: Sequence[int] | None) -> Tensor:
    if k is None:
        return (fraction * candidates.double()).floor().to(torch.int64)
    return torch.tensor(list(k), dtype=torch.int64).to(candidates.device, non_blocking=True)


def _cut_ties(
    group: list[int],
    common: dict[int, tuple[Tensor, Tensor]],
    places: dict[int, tuple[int, int, int, int]],
    options: dict[str, int],
    cuts: Tensor,
    wanted: Tensor,
) -> None:
    """Write the index of the cuts of one search."""
    if not group:
        return
    blocks = {i: triton.cdiv(places[i][0], BLOCK) for i in group}
    first, total = {}, 0
    for i in group:
        first[i] = total
        total += blocks[i]
    ties = torch.zeros(total, dtype=torch.int32, device=cuts.device)
    for i in group:
        run = run_length(BLOCK, places[i][1])
        ties_kernel[(blocks[i],)](*common[i], cuts[i], ties[first[i] :], *places[i], RUN=run, **options)
    cumulated = ties.to(torch.int64).cumsum(0)
    block = (cumulated < wanted).sum().clamp_max(total - 1)
    nth = wanted - (cumulated[block.reshape(1)] - ties[block.reshape(1)]).squeeze(0)
    for i in group:
        sought = (block, nth, *places[i], first[i], blocks[i])
        last_tie_kernel[(1,)](*common[i], cuts[i], *sought, RUN=run_length(BLOCK, places[i][1]), **options)
