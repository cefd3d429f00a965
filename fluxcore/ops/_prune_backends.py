"""The ops behind `kth_magnitude` and `prune_regrow_` on each backend."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fluxcore import _core
from fluxcore.backends import Backend
from fluxcore.ops._dispatch import DTYPE_NAMES, backend_of, pointer
from fluxcore.reference import prune as reference

BACKENDS: tuple[Backend, ...] = ("cpp", "triton", "reference")
"""Those that have these ops."""
_NEEDS_64_BITS = (1 << 64) - 1


def kth_magnitude(tensors: Sequence[Tensor], k: Sequence[int], per_tensor: bool) -> Tensor:
    """Implementation of `fluxcore::kth_magnitude` for every device."""
    none = [0] * len(tensors)
    match backend_of("kth_magnitude", BACKENDS, tensors[0].device):
        case "cpp":
            cuts = torch.zeros((len(tensors), 2), dtype=torch.int64)
            _core.select_smallest(
                _columns(tensors, [], [], none, none), "magnitude", 0, per_tensor, 0.0, list(k), False,
                cuts.data_ptr(), torch.get_num_threads(),
            )  # fmt: skip
        case "triton":
            from fluxcore.kernels.prune_select import launch_select_smallest

            cuts = launch_select_smallest(tensors, [], [], "magnitude", per_tensor, 0.0, k, False, none, none, 0)
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
    match backend_of("prune_regrow_", BACKENDS, weights[0].device):
        case "triton":
            from fluxcore.kernels.prune_select import launch_select_smallest

            return launch_select_smallest(
                weights, masks, gradients, kind, per_tensor, fraction, None, True, offsets, keys, step
            )
        case "reference":
            return _reference_cuts(weights, masks, gradients, kind, fraction, per_tensor, offsets, keys, step)
    cuts = torch.zeros((len(weights), 2), dtype=torch.int64)
    _core.select_smallest(
        _columns(weights, masks, gradients, offsets, keys), kind, step, per_tensor, fraction, [], True,
        cuts.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
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
) -> Tensor:
    """Implementation of `fluxcore::prune_apply_` for every device."""
    shared = (weights, masks, states, state_owners, gradients, drop, regrow, kind, noise_std, offsets, keys, step)
    match backend_of("prune_regrow_", BACKENDS, weights[0].device):
        case "triton":
            from fluxcore.kernels.prune_apply import launch_prune_apply

            return launch_prune_apply(*shared)
        case "reference":
            return _reference_apply(*shared)
    counts = torch.zeros((len(weights), 3), dtype=torch.int64)
    _core.prune_apply(
        _columns(weights, masks, gradients, offsets, keys),
        [(x.data_ptr(), x.element_size(), owner) for x, owner in zip(states, state_owners, strict=True)],
        drop.contiguous().data_ptr(), regrow.contiguous().data_ptr(), kind, step, list(noise_std),
        counts.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return counts


def _columns(
    weights: Sequence[Tensor],
    masks: Sequence[Tensor],
    gradients: Sequence[Tensor],
    offsets: Sequence[int],
    keys: Sequence[int],
) -> "_core.PruneColumns":
    none = [0] * len(weights)
    return (
        [pointer(x) for x in weights],
        [DTYPE_NAMES[x.dtype] for x in weights],
        [pointer(x) for x in masks] or none,
        [pointer(x) for x in gradients] or none,
        [x.numel() for x in weights],
        list(offsets),
        [key & _NEEDS_64_BITS for key in keys],
    )


def _reference_keys(
    weights: Sequence[Tensor],
    masks: Sequence[Tensor],
    gradients: Sequence[Tensor],
    kind: str,
    offsets: Sequence[int],
    keys: Sequence[int],
    step: int,
) -> list[Tensor]:
    found = []
    for i, weight in enumerate(weights):
        match kind:
            case "magnitude":
                x = reference.magnitude_keys(weight)
            case "gradient":
                x = reference.gradient_keys(gradients[i])
            case _:
                x = reference.random_keys(weight.numel(), keys[i], step, offsets[i], weight.device)
        active = masks[i].reshape(-1) if masks else torch.ones_like(x, dtype=torch.bool)
        found.append(torch.where(active if kind == "magnitude" else ~active, x, reference.NO_KEY))
    return found


def _reference_cuts(
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
    found = _reference_keys(weights, masks, gradients, kind, offsets, keys, step)
    groups = [slice(i, i + 1) for i in range(len(found))] if per_tensor else [slice(None)]
    cuts = []
    for group in groups:
        candidates = torch.stack([(x != reference.NO_KEY).sum() for x in found[group]]).sum()
        k = reference.selected_count(fraction, candidates)
        cuts.append(reference.cut_of_smallest(found[group], offsets[group], k))
    return torch.cat(cuts)


def _reference_apply(
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
) -> Tensor:
    shared = (offsets, keys, step)
    drop_keys = _reference_keys(weights, masks, gradients, "magnitude", *shared)
    # Without gradients nothing is regrown by them.
    regrow_keys = _reference_keys(weights, masks, gradients, kind, *shared)
    counts = []
    for i, weight in enumerate(weights):
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
        for state, owner in zip(states, state_owners, strict=True):
            if owner == i:
                state.masked_fill_((dropped | regrown).view_as(state), 0)
        active = masks[i].sum() if masks else torch.tensor(weight.numel(), device=weight.device)
        counts.append(torch.stack((dropped.sum(), regrown.sum(), active)))
    return torch.stack(counts)
