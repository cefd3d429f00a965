"""Exact magnitude selection, pruning and regrowing, and the random numbers behind it, in plain PyTorch.

A selection ends in one cut a tensor, a pair (key, index): chosen are the elements whose key is below the cut's, and of
those with the very same key the ones with a smaller global index.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

NO_KEY = 0xFFFFFFFF
"""Key of an element that is no candidate."""
ALL = (1 << 63) - 1
"""Index of a cut that chooses all elements with its key."""
_MAX_KEY = 0x7FFFFFFF
_WORD = 0xFFFFFFFF


def magnitude_keys(values: Tensor) -> Tensor:
    """The bits of |values| as float32, [n] int64: they order like |values|, with NaN last."""
    return values.detach().reshape(-1).float().view(torch.int32).to(torch.int64) & _MAX_KEY


def gradient_keys(gradient: Tensor) -> Tensor:
    """Keys [n] int64 that fall as |gradient| rises; NaN comes last."""
    magnitude = magnitude_keys(gradient)
    return torch.where(magnitude > 0x7F800000, _MAX_KEY, _MAX_KEY - magnitude)


def random_keys(count: int, key: int, step: int, offset: int, device: torch.device | None = None) -> Tensor:
    """31 random bits for each global index from `offset`, [count] int64."""
    word, counters = _layout(count, offset, device)
    words = philox(counters & _WORD, counters >> 32, step, key)
    return words.gather(0, word.unsqueeze(0)).squeeze(0) >> 1


def normals(count: int, key: int, step: int, offset: int, device: torch.device | None = None) -> Tensor:
    """A normal number for each global index from `offset`, [count] float64 (the kernels give them in float32).

    Box-Muller on words of 24 bits: the largest possible is 5.77.
    """
    word, counters = _layout(count, offset, device)
    words = philox(counters & _WORD, counters >> 32 | 1 << 31, step, key)
    first, second = (words.gather(0, (word & 2 | i).unsqueeze(0)).squeeze(0) >> 8 for i in (0, 1))
    radius = ((first + 1).double() * 2**-24).log().mul(-2).sqrt()
    # Of a quarter turn, so that sine and cosine are exact at its ends.
    quarter, t = second >> 22, (second & 0x3FFFFF).double() * 2**-22
    rising, falling = (t * (math.pi / 2)).sin(), ((1 - t) * (math.pi / 2)).sin()
    odd = quarter & 1 == 1
    cosine = torch.where(odd, rising, falling) * (1 - (quarter + 1 & 2))
    sine = torch.where(odd, falling, rising) * (1 - (quarter & 2))
    return radius * torch.where(word & 1 == 0, cosine, sine)


def philox(low: Tensor, high: Tensor, step: int, key: int) -> Tensor:
    """Philox4x32-10 of the counters (low, high, step's halves), [4, n] int64 within [0, 2^32).

    Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011).
    """
    c = [low, high, torch.full_like(low, step & _WORD), torch.full_like(low, step >> 32 & _WORD)]
    k0, k1 = key & _WORD, key >> 32 & _WORD
    for _ in range(10):
        (high0, low0), (high1, low1) = _multiply(c[0], 0xD2511F53), _multiply(c[2], 0xCD9E8D57)
        c = [high1 ^ c[1] ^ k0, low1, high0 ^ c[3] ^ k1, low0]
        k0, k1 = k0 + 0x9E3779B9 & _WORD, k1 + 0xBB67AE85 & _WORD
    return torch.stack(c)


def _multiply(a: Tensor, b: int) -> tuple[Tensor, Tensor]:
    # High and low half of the product, in parts of 16 bits that stay below 2^63.
    low, high = a * (b & 0xFFFF), a * (b >> 16)
    middle = (low >> 16) + high
    return middle >> 16, (middle & 0xFFFF) << 16 | low & 0xFFFF


def _layout(count: int, offset: int, device: torch.device | None) -> tuple[Tensor, Tensor]:
    # Word and counter of each index: a counter serves four neighbours.
    index = torch.arange(offset, offset + count, device=device)
    return index & 3, index >> 2


def selected_count(fraction: float, candidates: Tensor) -> Tensor:
    """floor(fraction * candidates), in float64, [] int64."""
    return (fraction * candidates.double()).floor().to(torch.int64)


def cut_of_smallest(keys: Sequence[Tensor], offsets: Sequence[int], k: Tensor) -> Tensor:
    """Cuts [P, 2] int64 that choose the `k` smallest of all keys; of equal ones the first, tensor by tensor.

    Args:
        keys: [n] int64 a tensor; NO_KEY for an element that is no candidate.
        offsets: Global index of the first element of each tensor.
        k: [] int64, at most the number of candidates.
    """
    every = torch.cat(list(keys))
    index = torch.cat([torch.arange(o, o + len(x), device=x.device) for x, o in zip(keys, offsets, strict=True)])
    tensor = torch.cat([torch.full_like(x, i) for i, x in enumerate(keys)])
    if not len(every):
        return torch.zeros((len(keys), 2), dtype=torch.int64, device=k.device)
    last = every.sort(stable=True).indices[(k - 1).clamp_min(0)]
    place = torch.arange(len(keys), device=k.device)
    bound = torch.where(place < tensor[last], ALL, torch.where(place == tensor[last], index[last] + 1, 0))
    return torch.where(k > 0, torch.stack((every[last].expand_as(bound), bound), dim=1), 0)


def chosen(keys: Tensor, offset: int, cut: Tensor) -> Tensor:
    """Which elements a cut [2] chooses, [n] bool."""
    index = torch.arange(offset, offset + len(keys), device=keys.device)
    return (keys < cut[0]) | ((keys == cut[0]) & (index < cut[1]))


def all_but_largest(keys: Tensor, keep: int, group: int) -> Tensor:
    """Of each `group` consecutive keys [n] all but the `keep` largest, of equal ones the first; [n] bool.

    What is no candidate is not chosen, and none of those that are kept.
    """
    candidate = keys != NO_KEY
    rows = torch.where(candidate, keys, -1).reshape(-1, group)
    # The first in ascending order; what is no candidate stands before all others.
    rank = rows.argsort(dim=1, stable=True).argsort(dim=1)
    return (rank < group - keep).reshape(-1) & candidate


def kth_magnitude(tensors: Sequence[Tensor], k: Sequence[int], *, per_tensor: bool) -> Tensor:
    """The k-th smallest |w| of all tensors, [], or of each, [P]; float32."""
    keys = [magnitude_keys(x) for x in tensors]
    groups = keys if per_tensor else [torch.cat(keys)]
    found = [group.sort().values[number - 1] for group, number in zip(groups, k, strict=True)]
    values = torch.stack(found).to(torch.int32).view(torch.float32)
    return values if per_tensor else values[0]
