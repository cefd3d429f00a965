"""The ops behind `kth_magnitude` and `prune_regrow_` on each backend."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fluxcore import _core
from fluxcore.backends import Backend
from fluxcore.ops._dispatch import DTYPE_NAMES, backend_of, pointer
from fluxcore.reference import prune as reference

BACKENDS: tuple[Backend, ...] = ("cpp", "triton", "reference")
"""Those that have these ops."""
_NEEDS_64_BITS = (1 << 64) - 1


class Tensors(NamedTuple):
    """What keys are made of; all sequences hold one entry a tensor, or none."""

    weights: Sequence[Tensor]
    masks: Sequence[Tensor]
    gradients: Sequence[Tensor]
    offsets: Sequence[int]
    keys: Sequence[int]
    step: int


def kth_magnitude(tensors: Sequence[Tensor], k: Sequence[int], per_tensor: bool) -> Tensor:
    """Implementation of `fluxcore::kth_magnitude` for every device."""
    none = [0] * len(tensors)
    searched = Tensors(tensors, [], [], none, none, 0)
    match backend_of("kth_magnitude", BACKENDS, tensors[0].device):
        case "cpp":
            cuts = torch.zeros((len(tensors), 2), dtype=torch.int64)
            _core.select_smallest(
                _columns(searched), "magnitude", 0, per_tensor, 0.0, list(k), False,
                cuts.data_ptr(), torch.get_num_threads(),
            )  # fmt: skip
        case "triton":
            from fluxcore.kernels.prune_select import launch_select_smallest

            cuts = launch_select_smallest(*searched, "magnitude", per_tensor, 0.0, k, False)
        case _:
            return reference.kth_magnitude(tensors, k, per_tensor=per_tensor)
    values = cuts[:, 0].to(torch.int32).view(torch.float32)
    return values if per_tensor else values[0].clone()


def prune_cuts(
    weights: Sequence[Tensor],
    masks: Sequence[Tensor],
    gradients: Sequence[Tensor],
    kind: str,
    fraction: float,
    per_tensor: bool,
    offsets: Sequence[int],
    keys: Sequence[int],
    step: int,
) -> Tensor:
    """Implementation of `fluxcore::prune_cuts` for every device."""
    tensors = Tensors(weights, masks, gradients, offsets, keys, step)
    match backend_of("prune_regrow_", BACKENDS, weights[0].device):
        case "triton":
            from fluxcore.kernels.prune_select import launch_select_smallest

            return launch_select_smallest(*tensors, kind, per_tensor, fraction, None, True)
        case "reference":
            return _reference_cuts(tensors, kind, fraction, per_tensor)
    cuts = torch.zeros((len(weights), 2), dtype=torch.int64)
    _core.select_smallest(
        _columns(tensors), kind, step, per_tensor, fraction, [], True, cuts.data_ptr(), torch.get_num_threads()
    )
    return cuts


def prune_apply_(
    weights: Sequence[Tensor],
    masks: Sequence[Tensor],
    states: Sequence[Tensor],
    state_owners: Sequence[int],
    gradients: Sequence[Tensor],
    drop: Tensor,
    regrow: Tensor,
    kind: str,
    noise_std: Sequence[float],
    offsets: Sequence[int],
    keys: Sequence[int],
    step: int,
    keep: int = 0,
    group: int = 0,
) -> Tensor:
    """Implementation of `fluxcore::prune_apply_` for every device."""
    tensors = Tensors(weights, masks, gradients, offsets, keys, step)
    owned = list(zip(states, state_owners, strict=True))
    match backend_of("prune_regrow_", BACKENDS, weights[0].device):
        case "triton":
            from fluxcore.kernels.prune_apply import launch_prune_apply

            return launch_prune_apply(*tensors, owned, drop, regrow, kind, noise_std, keep, group)
        case "reference":
            return _reference_apply(tensors, owned, drop, regrow, kind, noise_std, keep, group)
    counts = torch.zeros((len(weights), 3), dtype=torch.int64)
    if kind == "none":
        kind, regrow = "random", torch.zeros_like(regrow)
    _core.prune_apply(
        _columns(tensors),
        [(x.data_ptr(), x.element_size(), owner) for x, owner in owned],
        drop.contiguous().data_ptr(), regrow.contiguous().data_ptr(), kind, step, list(noise_std),
        keep, group, counts.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return counts


def _columns(tensors: Tensors) -> "_core.PruneColumns":
    weights = tensors.weights
    none = [0] * len(weights)
    return (
        [pointer(x) for x in weights],
        [DTYPE_NAMES[x.dtype] for x in weights],
        [pointer(x) for x in tensors.masks] or none,
        [pointer(x) for x in tensors.gradients] or none,
        [x.numel() for x in weights],
        list(tensors.offsets),
        [key & _NEEDS_64_BITS for key in tensors.keys],
    )


def _reference_keys(tensors: Tensors, kind: str) -> list[Tensor]:
    weights, masks, gradients, offsets, keys, step = tensors
    found = []
    for i, weight in enumerate(weights):
        match kind:
            case "magnitude":
                x = reference.magnitude_keys(weight)
            case "gradient":
                x = reference.gradient_keys(gradients[i])
            case "none":
                x = torch.full((weight.numel(),), reference.NO_KEY, device=weight.device)
            case _:
                x = reference.random_keys(weight.numel(), keys[i], step, offsets[i], weight.device)
        active = masks[i].reshape(-1) if masks else torch.ones_like(x, dtype=torch.bool)
        found.append(torch.where(active if kind == "magnitude" else ~active, x, reference.NO_KEY))
    return found


def _reference_cuts(tensors: Tensors, kind: str, fraction: float, per_tensor: bool) -> Tensor:
    found = _reference_keys(tensors, kind)
    groups = [slice(i, i + 1) for i in range(len(found))] if per_tensor else [slice(None)]
    cuts = []
    for group in groups:
        candidates = torch.stack([(x != reference.NO_KEY).sum() for x in found[group]]).sum()
        k = reference.selected_count(fraction, candidates)
        cuts.append(reference.cut_of_smallest(found[group], tensors.offsets[group], k))
    return torch.cat(cuts)


def _reference_apply(
    tensors: Tensors,
    owned: Sequence[tuple[Tensor, int]],
    drop: Tensor,
    regrow: Tensor,
    kind: str,
    noise_std: Sequence[float],
    keep: int,
    group: int,
) -> Tensor:
    weights, masks, _, offsets, keys, step = tensors
    drop_keys = _reference_keys(tensors, "magnitude")
    # Without gradients nothing is regrown by them.
    regrow_keys = _reference_keys(tensors, kind)
    counts = []
    for i, weight in enumerate(weights):
        if group:
            dropped = reference.all_but_largest(drop_keys[i], keep, group).view_as(weight)
        else:
            dropped = reference.chosen(drop_keys[i], offsets[i], drop[i]).view_as(weight)
        regrown = reference.chosen(regrow_keys[i], offsets[i], regrow[i]).view_as(weight)
        weight.masked_fill_(dropped, 0)
        if noise_std[i] > 0:
            noise = reference.normals(weight.numel(), keys[i], step, offsets[i], weight.device).float() * noise_std[i]
            weight.copy_(torch.where(regrown, noise.view_as(weight).to(weight.dtype), weight))
        else:
            weight.masked_fill_(regrown, 0)
        if masks:
            masks[i].logical_and_(~dropped).logical_or_(regrown)
        for state, owner in owned:
            if owner == i:
                state.masked_fill_((dropped | regrown).view_as(state), 0)
        active = masks[i].sum() if masks else torch.tensor(weight.numel(), device=weight.device)
        counts.append(torch.stack((dropped.sum(), regrown.sum(), active)))
    return torch.stack(counts)
