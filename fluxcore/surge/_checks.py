"""Checks of the options of `SurgeCollapse`, so that a bad one does not stop a run in its middle."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from fluxcore.ops._checks import check_choice, check_number, check_whole
from fluxcore.ops._tensor_lists import named
from fluxcore.ops.kth_magnitude import SCOPES


def check_owners(model: object, optimizer: object, parameters: object) -> None:
    """A module, an optimizer or None, and parameters by name or None.

    Raises:
        TypeError: otherwise.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}")
    if optimizer is not None and not isinstance(getattr(optimizer, "state", None), Mapping):
        made = "a class" if isinstance(optimizer, type) else type(optimizer).__name__
        raise TypeError(
            f"`optimizer` must be a torch.optim.Optimizer or None, got {made}"
            "\n\nPass the object that takes the steps, for its moments are reset."
        )
    if parameters is not None and not isinstance(parameters, Mapping):
        raise TypeError(
            f"`parameters` must be a mapping of names, got {type(parameters).__name__}"
            "\n\nFor example {'head.weight': model.head.weight}, or dict(model.named_parameters())."
        )


def once_each(parameters: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Parameters by name, a shared one under its first name alone.

    Raises:
        TypeError: not of float32, bfloat16 or float16.
        ValueError: none, several devices, or two that share a part of their memory.
    """
    if not parameters:
        raise ValueError("`model` must have weights to prune, got none\n\nName them in `parameters`.")
    return {name: parameters[name] for name in named("parameters", parameters)}


def checked_triggers(name: str, triggers: Any) -> tuple[Any, ...]:
    """Of a list of triggers.

    Raises:
        TypeError: no list, or something in it that is no trigger.
    """
    if not isinstance(triggers, Iterable):
        raise TypeError(
            f"`{name}` must be a list of triggers, got {type(triggers).__name__}\n\nFor example {name}=[Every(100)]."
        )
    found = tuple(triggers)
    for trigger in found:
        if isinstance(trigger, type) or not callable(getattr(trigger, "fires", None)):
            raise TypeError(
                f"`{name}` must hold triggers, objects with `fires`, got {trigger!r}"
                f"\n\nFor example {name}=[Every(100)]."
            )
    return found


def check_numbers(
    drop_fraction: object, regrow_fraction: object, noise_std: object, cosine_steps: object, seed: object
) -> None:
    """All within their ranges.

    Raises:
        TypeError: no number, or no whole one.
        ValueError: out of range.
    """
    for name, fraction in (("drop_fraction", drop_fraction), ("regrow_fraction", regrow_fraction)):
        if not 0 <= check_number(name, fraction) <= 1:
            raise ValueError(f"`{name}` must be within [0, 1], got {fraction}\n\nIt is a share, not a percentage.")
    if not 0 <= check_number("noise_std", noise_std) < math.inf:
        raise ValueError(f"`noise_std` must be finite and >= 0, got {noise_std}\n\n0 regrows weights as 0.")
    if cosine_steps is not None and check_whole("cosine_steps", cosine_steps) < 1:
        raise ValueError(f"`cosine_steps` must be >= 1 step, got {cosine_steps}\n\nNone keeps the drop fraction.")
    if not 0 <= check_whole("seed", seed) < 1 << 64:
        raise ValueError(f"`seed` must be within [0, 2^64), got {seed}\n\nTake it modulo 2^64.")


def check_scope(scope: str) -> None:
    """ "tensor" or "global".

    Raises:
        ValueError: another scope; a pattern's drop fraction is fixed, and no schedule can change it.
    """
    if isinstance(scope, str) and ":" in scope:
        raise ValueError(
            f"`scope` must be one of {', '.join(SCOPES)} here, got {scope!r}"
            f"\n\nA pattern has no drop fraction to schedule: call prune_regrow_(..., scope={scope!r}) yourself."
        )
    check_choice("scope", scope, SCOPES)
