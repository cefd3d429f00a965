"""What the policy of a run gets before it trains, and the models that it is compared with."""

from copy import deepcopy
from typing import Any, NamedTuple

import torch

from fluxcore.rl.lora import WithoutLora, add_lora
from fluxcore.rl.policy import add_value_head, add_value_network
from fluxcore.training.config import ConfigError
from fluxcore.training.difficulty import FrozenCopy
from fluxcore.training.ppo_config import PPOKeys, ValueName

VALUES = {ValueName.head: add_value_head, ValueName.network: add_value_network}


class Others(NamedTuple):
    """Models beside the policy."""

    reference: Any
    """What the policy was at the start."""
    frozen: FrozenCopy
    """What it was some steps ago."""


def equip(config: PPOKeys, policy: Any, device: torch.device) -> Others:
    """Give a policy its values and its adapters.

    Args:
        config: `value` and `lora`.
        policy: A causal language model of `transformers`; changed in place, and on any device yet.
        device: Of the others.
    Raises:
        ConfigError: a rank that the model is too narrow for.
        TypeError, ValueError: as `add_value_head`.
    """
    original = deepcopy(policy).requires_grad_(False).to(device)
    VALUES[config.value](policy)
    if not config.lora.rank:
        return Others(original, FrozenCopy(original))
    try:
        add_lora(policy, rank=config.lora.rank, alpha=config.lora.alpha)
    except ValueError as error:
        raise ConfigError(f"`lora`: {error}") from error
    return Others(WithoutLora(policy), FrozenCopy(original))
