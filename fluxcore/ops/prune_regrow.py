"""Collapse and surge: drop the smallest weights of a model and bring dropped ones back, in place."""

import math
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from fluxcore.ops._checks import check_choice
from fluxcore.ops._pattern import check_pattern, pattern_of
from fluxcore.ops._prune_op import prune_apply_, prune_cuts
from fluxcore.ops._random_key import random_key
from fluxcore.ops._tensor_lists import contiguous, named
from fluxcore.ops.kth_magnitude import Scope

Regrow = Literal["none", "noise", "gradient", "random"]
REGROW = ("none", "noise", "gradient", "random")
Tensors = Mapping[str, Tensor] | Iterable[Tensor]


class PruneReport(NamedTuple):
    """What a call of `prune_regrow_` did; tensors on the weights' device, which nothing has waited for."""

    names: tuple[str, ...]
    """Of the P tensors, each once."""
    dropped: Tensor
    """[P] int64, weights dropped."""
    regrown: Tensor
    """[P] int64, weights brought back."""
    active: Tensor
    """[P] int64, active weights afterwards."""
    cuts: tuple[Tensor, Tensor]
    """[P, 2] int64 each, of what was dropped and regrown: key and global index; see `fluxcore.reference.prune`."""


def prune_regrow_(
    params: Tensors,
    *,
    drop_fraction: float = 0.0,
    regrow: Regrow = "none",
    regrow_fraction: float = 0.0,
    noise_std: float | Mapping[str, float] | None = None,
    seed: int = 0,
    step: int = 0,
    masks: Tensors | None = None,
    optimizer: Optimizer | None = None,
    scope: Scope | str = "tensor",
    offsets: Mapping[str, int] | None = None,
    cuts: tuple[Tensor, Tensor] | None = None,
) -> PruneReport:
    """Set the smallest active weights to 0 and inactive (collapse), and make inactive ones active again (surge).

    Dropped are exactly floor(drop_fraction * active) weights, those of smallest |w|; of equal ones the first, in the
    order of the tensors and then of the elements. Regrown are exactly floor(regrow_fraction * inactive) of the
    positions that were inactive before the call, so that no weight dropped in a call is regrown in it. NaN counts as
    the largest weight and as the smallest gradient. All happens in one pass after the selection; a call that raises
    has changed nothing.

    Random numbers depend on `seed`, `step`, the tensor's name and the element's global index alone, so the same come
    on every device, backend and sharding; the normal numbers made from them agree to 4 ulp across backends and bit for
    bit within one.

    Args:
        params: A mapping of names (as `dict(model.named_parameters())`), or a list, whose names are "0", "1", ...;
            float32, bfloat16 or float16, all on one device. A parameter under two names (tied) counts once, under the
            first.
        drop_fraction: Within [0, 1], of the active weights.
        regrow: Which inactive positions come back: "none"; "noise" and "random", random ones; "gradient", those where
            the parameter's `.grad` is largest.
        regrow_fraction: Within [0, 1], of the inactive positions.
        noise_std: Regrown weights are drawn from N(0, noise_std^2), or 0 for noise_std 0; one number, or one by name.
            Required for "noise", 0 by default for the others (RigL, SET).
        seed: Within [0, 2^64).
        step: Within [0, 2^63): the same seed and step give the same numbers again.
        masks: Bool tensors by the names of `params` (or a list for a list), True = active, updated in place. Without
            masks all weights are active, and nothing can be regrown.
        optimizer: Its moments are set to 0 where a weight was dropped or regrown: all tensors in the state of a
            parameter that have its shape.
        scope: "tensor" takes the fractions of each tensor, "global" of all together. "N:M", as "2:4", drops all
            active weights but the N largest of each M consecutive ones along the last dim, which M must divide;
            `drop_fraction` is then 1 - N/M (or 0: nothing is dropped), and regrowth is by tensor.
        offsets: Global index of the first element of a tensor that is part of a larger one; 0 where none is given.
        cuts: `cuts` of a report, in place of a selection: parts of a tensor, with their offsets and the whole's cuts,
            end as the whole does, bit for bit. The fractions are not used then, but for an N:M scope.

    Returns:
        A `PruneReport`.

    Raises:
        TypeError: wrong types or dtypes.
        ValueError: a fraction, name, shape, device or number out of range; regrowth without masks, or by gradients
            that are not there; tensors that share memory in part, or do not consist of groups of M.

    Source: Evci et al., "Rigging the lottery" (arXiv:1911.11134); Mocanu et al., SET (arXiv:1707.04780); random
    numbers by Philox4x32-10 (Salmon et al., 2011) and Box-Muller.
    """
    params = params if isinstance(params, Mapping) else list(params)
    weights = named("params", params)
    _check_options(drop_fraction, regrow, regrow_fraction, noise_std, seed, step, scope, masks)
    stds = _noise(noise_std, weights)
    bits = _masks(masks, weights)
    states, owners = _moments(optimizer, params, weights)
    gradients = _gradients(params, weights) if regrow == "gradient" else []
    places = _offsets(offsets, weights)
    pattern = pattern_of(scope)
    if pattern is not None:
        check_pattern(pattern, drop_fraction, weights, places)
    if not weights:
        empty = torch.zeros(0, dtype=torch.int64)
        return PruneReport((), empty, empty, empty, (empty.reshape(0, 2), empty.reshape(0, 2)))

    work = [contiguous(tensors) for tensors in (weights.values(), bits, states)]
    keys = [_signed(random_key(name, seed)) for name in weights]
    kind = "random" if regrow == "noise" else regrow
    shared = (places, keys, step)
    group = pattern if pattern is not None and drop_fraction > 0 else (0, 0)
    if cuts is None:
        drop = _cuts(work[0], work[1], [], "magnitude", 0.0 if pattern else drop_fraction, scope, *shared)
        grown = _cuts(work[0], work[1], gradients, kind, regrow_fraction, scope, *shared)
    else:
        drop, grown = _given_cuts(cuts, weights)
    counts = prune_apply_(*work, owners, gradients, drop, grown, kind, stds, *shared, *group)
    for tensors, done in zip((list(weights.values()), bits, states), work, strict=True):
        for tensor, result in zip(tensors, done, strict=True):
            if result is not tensor:
                tensor.copy_(result)
            elif not tensor.is_inference():
                torch.autograd.graph.increment_version(tensor)
    dropped, regrown, active = counts.unbind(1)
    return PruneReport(tuple(weights), dropped, regrown, active, (drop, grown))


def _cuts(
    weights: list[Tensor],
    masks: list[Tensor],
    gradients: list[Tensor],
    kind: str,
    fraction: float,
    scope: str,
    *shared: object,
) -> Tensor:
    """Cuts [P, 2] that choose `fraction` of the candidates; nothing is read for 0."""
    if fraction == 0:
        return torch.zeros((len(weights), 2), dtype=torch.int64, device=weights[0].device)
    cuts: Tensor = prune_cuts(weights, masks, gradients, kind, fraction, scope != "global", *shared)
    return cuts


def _check_options(
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
        if not 0 <= fraction <= 1:
            raise ValueError(f"`{name}` must be within [0, 1], got {fraction}")
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"`seed` must be within [0, 2^64), got {seed}")
    if not 0 <= step < 1 << 63:
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


def _noise(noise_std: float | Mapping[str, float] | None, weights: Mapping[str, Tensor]) -> list[float]:
    """Standard deviation of each tensor."""
    if not isinstance(noise_std, Mapping):
        noise_std = dict.fromkeys(weights, noise_std or 0.0)
    missing = [name for name in weights if name not in noise_std]
    if missing:
        raise ValueError(f"`noise_std` must have a number for every tensor, got none for {missing[0]!r}")
    found = [float(noise_std[name]) for name in weights]
    for name, std in zip(weights, found, strict=True):
        if not 0 <= std < math.inf:
            raise ValueError(f"`noise_std` must be finite and >= 0, got {std} for {name!r}")
    return found


def _masks(masks: Tensors | None, weights: Mapping[str, Tensor]) -> list[Tensor]:
    """One mask a tensor, or none at all."""
    if masks is None:
        return []
    by_name = dict(masks) if isinstance(masks, Mapping) else {str(i): mask for i, mask in enumerate(masks)}
    found = []
    for name, weight in weights.items():
        mask = by_name.get(name)
        if mask is None:
            raise ValueError(f"`masks` must have a mask for every tensor, got none for {name!r}")
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
        found.append(mask)
    return found


def _originals(params: Tensors, weights: Mapping[str, Tensor]) -> list[Tensor]:
    by_name = params if isinstance(params, Mapping) else {str(i): x for i, x in enumerate(params)}
    return [by_name[name] for name in weights]


def _moments(
    optimizer: Optimizer | None, params: Tensors, weights: Mapping[str, Tensor]
) -> tuple[list[Tensor], list[int]]:
    """Tensors of the optimizer's state with a weight's shape, and the place of that weight."""
    if optimizer is None:
        return [], []
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


def _gradients(params: Tensors, weights: Mapping[str, Tensor]) -> list[Tensor]:
    found = []
    for name, parameter in zip(weights, _originals(params, weights), strict=True):
        if parameter.grad is None:
            raise ValueError(
                f'`params` must have gradients for `regrow="gradient"`, got none for {name!r}'
                "\n\nCall it after backward() and before zero_grad(), and leave parameters without a gradient out."
            )
        found.append(parameter.grad.detach().to(parameter.dtype).contiguous())
    return found


def _offsets(offsets: Mapping[str, int] | None, weights: Mapping[str, Tensor]) -> list[int]:
    found = [(offsets or {}).get(name, 0) for name in weights]
    for name, offset in zip(weights, found, strict=True):
        if not 0 <= offset < 1 << 62:
            raise ValueError(f"`offsets` must be within [0, 2^62), got {offset} for {name!r}")
    return found


def _given_cuts(cuts: tuple[Tensor, Tensor], weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    device = next(iter(weights.values())).device
    for cut in cuts:
        if cut.shape != (len(weights), 2) or cut.dtype != torch.int64 or cut.device != device:
            raise ValueError(
                f"`cuts` must be two tensors [{len(weights)}, 2] of int64 on {device}, "
                f"got {tuple(cut.shape)} of {cut.dtype} on {cut.device}"
            )
    return cuts


def _signed(key: int) -> int:
    return key - (1 << 64) if key >= 1 << 63 else key
