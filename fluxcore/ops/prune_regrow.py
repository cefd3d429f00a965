"""Collapse and surge: drop the smallest weights of a model and bring dropped ones back, in place."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from fluxcore.ops._pattern import check_pattern, pattern_of
from fluxcore.ops._prune_checks import (
    REGROW,
    Regrow,
    Tensors,
    check_options,
    given_cuts,
    gradients_of,
    masks_of,
    moments_of,
    noise_of,
    offsets_of,
)
from fluxcore.ops._prune_op import prune_apply_, prune_cuts
from fluxcore.ops._random_key import random_key
from fluxcore.ops._tensor_lists import check_writable, contiguous, named
from fluxcore.ops.kth_magnitude import Scope

__all__ = ["REGROW", "PruneReport", "Regrow", "prune_regrow_"]


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
            that are not there or sparse; weights that share memory in part, masks that share any, expanded tensors, or
            such as do not consist of groups of M.

    Source: Evci et al., "Rigging the lottery" (arXiv:1911.11134); Mocanu et al., SET (arXiv:1707.04780); random
    numbers by Philox4x32-10 (Salmon et al., 2011) and Box-Muller.
    """
    params = list(params) if isinstance(params, Iterator) else params
    weights = named("params", params)
    check_options(drop_fraction, regrow, regrow_fraction, noise_std, seed, step, scope, masks)
    drop_fraction, regrow_fraction, seed, step = float(drop_fraction), float(regrow_fraction), int(seed), int(step)
    stds = noise_of(noise_std, weights)
    check_writable("params", weights)
    bits = masks_of(masks, weights)
    states, owners = moments_of(optimizer, params, weights)
    gradients = gradients_of(params, weights) if regrow == "gradient" else []
    places = offsets_of(offsets, weights)
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
        drop, grown = given_cuts(cuts, weights)
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


def _signed(key: int) -> int:
    return key - (1 << 64) if key >= 1 << 63 else key
