"""Checks of what `prune_regrow_` is given: all that may be wrong is found before anything is written."""

import math
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from fluxcore.ops._checks import check_choice, check_number, check_whole
from fluxcore.ops._pattern import pattern_of
from fluxcore.ops._tensor_lists import check_no_overlap, check_writable

Regrow = Literal["none", "noise", "gradient", "random"]
REGROW = ("none", "noise", "gradient", "random")
Tensors = Mapping[str, Tensor] | Iterable[Tensor]


def check_options(
    drop_fraction: float,
    regrow: str,
    regrow_fraction: float,
    noise_std: float | Mapping[str, float] | None,
    seed: int,
    step: int,
    scope: str,
    masks: Tensors | None,
) -> None:
    """Raises for an option out of range."""
    pattern_of(scope)
    check_choice("regrow", regrow, REGROW)
    for name, fraction in (("drop_fraction", drop_fraction), ("regrow_fraction", regrow_fraction)):
        if not 0 <= check_number(name, fraction) <= 1:
            raise ValueError(f"`{name}` must be within [0, 1], got {fraction}")
    if not 0 <= check_whole("seed", seed) < 1 << 64:
        raise ValueError(f"`seed` must be within [0, 2^64), got {seed}")
    if not 0 <= check_whole("step", step) < 1 << 63:
        raise ValueError(f"`step` must be within [0, 2^63), got {step}")
    if noise_std is None and regrow == "noise":
        raise ValueError('`noise_std` must be given for `regrow="noise"`, got None')
    if regrow == "none" and regrow_fraction > 0:
        raise ValueError(f'`regrow_fraction` must be 0 for `regrow="none"`, got {regrow_fraction}')
    if regrow != "none" and masks is None:
        raise ValueError(
            f"`masks` must be given for `regrow={regrow!r}`, got None"
            "\n\nThey say which positions are inactive: begin with torch.ones_like(parameter, dtype=torch.bool)."
        )


def noise_of(noise_std: float | Mapping[str, float] | None, weights: Mapping[str, Tensor]) -> list[float]:
    """Standard deviation of each tensor."""
    if not isinstance(noise_std, Mapping):
        noise_std = dict.fromkeys(weights, noise_std or 0.0)
    missing = [name for name in weights if name not in noise_std]
    if missing:
        raise ValueError(f"`noise_std` must have a number for every tensor, got none for {missing[0]!r}")
    found = [check_number("noise_std", noise_std[name]) for name in weights]
    for name, std in zip(weights, found, strict=True):
        if not 0 <= std < math.inf:
            raise ValueError(f"`noise_std` must be finite and >= 0, got {std} for {name!r}")
    return found


def masks_of(masks: Tensors | None, weights: Mapping[str, Tensor]) -> list[Tensor]:
    """One mask a tensor, or none at all."""
    if masks is None:
        return []
    by_name = _by_name(masks)
    found = {}
    for name, weight in weights.items():
        mask = by_name.get(name)
        if mask is None:
            raise ValueError(f"`masks` must have a mask for every tensor, got none for {name!r}")
        if not isinstance(mask, Tensor):
            raise TypeError(f"`masks` must hold tensors, got {type(mask).__name__} for {name!r}")
        if mask.dtype != torch.bool:
            raise TypeError(f"`masks` must be bool, got {mask.dtype} for {name!r}")
        if mask.shape != weight.shape:
            raise ValueError(
                f"`masks` must have the shape of the weight, {tuple(weight.shape)}, "
                f"got {tuple(mask.shape)} for {name!r}"
            )
        if mask.device != weight.device:
            raise ValueError(
                f"`masks` must be on the device of the weight, {weight.device}, got {mask.device} for {name!r}"
                "\n\nMove them as the model moves: mask.to(parameter.device)."
            )
        found[name] = mask
    check_writable("masks", found)
    check_no_overlap("masks", found)
    return list(found.values())


def _by_name(tensors: Tensors) -> dict[str, Tensor]:
    pairs = tensors.items() if isinstance(tensors, Mapping) else enumerate(tensors)
    return {str(key): x for key, x in pairs}


def _originals(params: Tensors, weights: Mapping[str, Tensor]) -> list[Tensor]:
    by_name = _by_name(params)
    return [by_name[name] for name in weights]


def moments_of(
    optimizer: Optimizer | None, params: Tensors, weights: Mapping[str, Tensor]
) -> tuple[list[Tensor], list[int]]:
    """Tensors of the optimizer's state with a weight's shape, and the place of that weight."""
    if optimizer is None:
        return [], []
    if not isinstance(getattr(optimizer, "state", None), Mapping):
        raise TypeError(f"`optimizer` must be a torch.optim.Optimizer or None, got {optimizer!r}")
    states, owners = [], []
    for place, (name, parameter) in enumerate(zip(weights, _originals(params, weights), strict=True)):
        for key, value in optimizer.state.get(parameter, {}).items():
            # A parameter without dims has the shape of the step counter.
            if key == "step" or not isinstance(value, Tensor) or value.shape != parameter.shape:
                continue
            if not value.is_floating_point() or value.element_size() == 1:
                raise TypeError(
                    f"`optimizer` must keep {key!r} as plain numbers of 16 bits or more, got {value.dtype} for {name!r}"
                )
            if value.device != parameter.device:
                raise ValueError(
                    f"`optimizer` must keep {key!r} on the device of the weight, {parameter.device}, "
                    f"got {value.device} for {name!r}"
                )
            states.append(value)
            owners.append(place)
    return states, owners


def gradients_of(params: Tensors, weights: Mapping[str, Tensor]) -> list[Tensor]:
    """One dense gradient a tensor, in its dtype."""
    found = []
    for name, parameter in zip(weights, _originals(params, weights), strict=True):
        if parameter.grad is None:
            raise ValueError(
                f'`params` must have gradients for `regrow="gradient"`, got none for {name!r}'
                "\n\nCall it after backward() and before zero_grad(), and leave parameters without a gradient out."
            )
        if parameter.grad.layout != torch.strided:
            raise ValueError(
                f"`params` must have dense gradients, got one of {parameter.grad.layout} for {name!r}"
                "\n\nFor an embedding pass `sparse=False`."
            )
        found.append(parameter.grad.detach().to(parameter.dtype).contiguous())
    return found


def offsets_of(offsets: Mapping[str, int] | None, weights: Mapping[str, Tensor]) -> list[int]:
    """Global index of each tensor's first element."""
    if offsets is not None and not isinstance(offsets, Mapping):
        raise TypeError(f"`offsets` must be a mapping of names, got {type(offsets).__name__}")
    found = [(offsets or {}).get(name, 0) for name in weights]
    for name, offset in zip(weights, found, strict=True):
        if not 0 <= check_whole("offsets", offset) < 1 << 62:
            raise ValueError(f"`offsets` must be within [0, 2^62), got {offset} for {name!r}")
    return found


def given_cuts(cuts: tuple[Tensor, Tensor], weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """As they are."""
    device = next(iter(weights.values())).device
    if not isinstance(cuts, tuple) or len(cuts) != 2 or not all(isinstance(cut, Tensor) for cut in cuts):
        raise TypeError(f"`cuts` must be two tensors, as in a report, got {type(cuts).__name__}")
    for cut in cuts:
        if cut.shape != (len(weights), 2) or cut.dtype != torch.int64 or cut.device != device:
            raise ValueError(
                f"`cuts` must be two tensors [{len(weights)}, 2] of int64 on {device}, "
                f"got {tuple(cut.shape)} of {cut.dtype} on {cut.device}"
            )
    return cuts
