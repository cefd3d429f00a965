"""Learning rate over the run: linear warm-up, then constant, linear or cosine."""

import math
from enum import StrEnum, auto

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from fluxcore.training.config import ConfigError


class ScheduleName(StrEnum):
    """Shape of the learning rate after warm-up."""

    constant = auto()
    linear = auto()
    cosine = auto()


def make_scheduler(
    optimizer: Optimizer, name: ScheduleName, *, steps: int, warmup_steps: int = 0, min_ratio: float = 0.0
) -> LambdaLR:
    """Scale the learning rates of `optimizer`; call `.step()` after each optimizer step.

    Args:
        optimizer: Its present learning rates are the peak.
        name: Shape after warm-up.
        steps: Optimizer steps of the whole run.
        warmup_steps: The first of them, where the rate rises linearly; the first step is at 1 / warmup_steps.
        min_ratio: Rate at the end, as a share of the peak (linear and cosine).
    Raises:
        ConfigError: `warmup_steps` is not shorter than the run.
    """
    if warmup_steps > 0 and warmup_steps >= steps:
        raise ConfigError(
            f"`warmup_steps` must be shorter than the run of {steps} steps, got {warmup_steps}"
            "\n\nTrain longer, or set warmup_steps lower."
        )

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        done = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
        if name is ScheduleName.constant:
            return 1.0
        left = 1 - done if name is ScheduleName.linear else (1 + math.cos(math.pi * done)) / 2
        return min_ratio + (1 - min_ratio) * left

    return LambdaLR(optimizer, factor)
