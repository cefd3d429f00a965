"""Ending a run before its budget is spent, when validation says so."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum, auto
from typing import Any, ClassVar

from fluxcore.training.config import ConfigFile


class StopMetric(StrEnum):
    """What early stopping looks at."""

    loss = auto()
    accuracy = auto()


@dataclass(kw_only=True, slots=True)
class StopConfig(ConfigFile):
    """When a run ends before its budget is spent."""

    name: ClassVar[str] = "stop"
    metric: StopMetric = StopMetric.loss
    """loss (lower is better) or accuracy, of the validation."""
    patience: int | None = None
    """Validations in a row without a better value. None: no limit."""
    min_delta: float = 0.0
    """By how much a value must be better to count."""
    at: float | None = None
    """Stop once the metric is as good as this. None: never."""

    def __post_init__(self) -> None:
        self.coerce()
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"`stop.patience` must be >= 1 validation, got {self.patience}")
        if not self.min_delta >= 0:
            raise ValueError(f"`stop.min_delta` must be >= 0, got {self.min_delta}")
        if self.at is not None and not math.isfinite(self.at):
            raise ValueError(f"`stop.at` must be finite, got {self.at}")


class Patience:
    """Counts validations in a row that were not better than the best."""

    def __init__(self, min_delta: float) -> None:
        self.min_delta = min_delta
        self.best = math.inf
        self.waited = 0

    def wait(self, value: float) -> int:
        """Take a value, of which lower is better; how many in a row were not. NaN is never better."""
        if value < self.best - self.min_delta:
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        return self.waited

    def state_dict(self) -> dict[str, Any]:
        """The best value, and how many came since."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them over."""
        self.best, self.waited = state_dict["best"], state_dict["waited"]


class EarlyStopping:
    """Says after a validation whether the run should end; remembers it, so that a resumed run stays ended."""

    def __init__(self, config: StopConfig) -> None:
        self.config = config
        self.stopped = False
        self.patience = Patience(config.min_delta)

    def observe(self, means: Mapping[str, float]) -> bool:
        """Take a validation's means; whether to stop."""
        sign = -1 if self.config.metric is StopMetric.accuracy else 1
        value = sign * means[self.config.metric.name]
        waited = self.patience.wait(value)
        reached = self.config.at is not None and value <= sign * self.config.at
        self.stopped = reached or (self.config.patience is not None and waited >= self.config.patience)
        return self.stopped

    def state_dict(self) -> dict[str, Any]:
        """Whether it stopped, and what it waits for."""
        return {"stopped": self.stopped, **self.patience.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it over."""
        self.stopped = state_dict["stopped"]
        self.patience.load_state_dict(state_dict)
