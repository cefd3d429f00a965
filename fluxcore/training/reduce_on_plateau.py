"""Lowering the learning rate when the validation loss no longer falls."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch.optim.lr_scheduler import LambdaLR

from fluxcore.training.config import ConfigFile
from fluxcore.training.early_stopping import Patience


@dataclass(kw_only=True, slots=True)
class ReduceConfig(ConfigFile):
    """When the learning rate is lowered for lack of progress."""

    name: ClassVar[str] = "reduce_lr"
    factor: float | None = None
    """Times the learning rate when the validation loss has not fallen for `patience` validations. None: never."""
    patience: int = 10
    """Validations in a row without a lower loss."""
    min_delta: float = 0.0
    """By how much the loss must fall to count, nats."""
    min_lr: float = 0.0
    """Lowest peak learning rate."""

    def __post_init__(self) -> None:
        if self.factor is not None and not 0 < self.factor < 1:
            raise ValueError(f"`reduce_lr.factor` must be within (0, 1), got {self.factor}")
        if self.patience < 1:
            raise ValueError(f"`reduce_lr.patience` must be >= 1 validation, got {self.patience}")
        for key in ("min_delta", "min_lr"):
            if not getattr(self, key) >= 0:
                raise ValueError(f"`reduce_lr.{key}` must be >= 0, got {getattr(self, key)}")


class ReduceOnPlateau:
    """Lowers the peak learning rate of a schedule when the validation loss has not fallen for a while.

    Args:
        scheduler: Its rates are multiplied from the next step on, whatever their shape.
        config: When, and by how much.
    """

    def __init__(self, scheduler: LambdaLR, config: ReduceConfig) -> None:
        self.scheduler = scheduler
        self.config = config
        self.patience = Patience(config.min_delta)

    def observe(self, means: Mapping[str, float]) -> None:
        """Take a validation's means."""
        factor = self.config.factor
        if factor is None or self.patience.wait(means["loss"]) < self.config.patience:
            return
        self.patience.waited = 0
        groups = self.scheduler.optimizer.param_groups
        for i, (group, peak) in enumerate(zip(groups, self.scheduler.base_lrs, strict=True)):
            lowered = max(peak * factor, min(peak, self.config.min_lr))
            group["lr"] *= lowered / peak
            self.scheduler.base_lrs[i] = lowered

    def state_dict(self) -> dict[str, Any]:
        """What it waits for; the rates are in the state of scheduler and optimizer."""
        return self.patience.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it over."""
        self.patience.load_state_dict(state_dict)
