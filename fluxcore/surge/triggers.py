"""When to collapse or surge: at fixed steps, or when training says so."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from fluxcore.ops._checks import check_whole


@dataclass(frozen=True, kw_only=True)
class Signals:
    """What triggers look at after an optimizer step."""

    step: int
    """Number of the step, from 1."""
    loss: float | Tensor | None
    """Of this step, if the caller gave one."""
    parameters: Sequence[Tensor]
    """Those that are pruned, with their gradients."""


class Trigger(Protocol):
    """Says whether to act after this step; asked once a step, in order."""

    def fires(self, signals: Signals) -> bool:
        """Whether to act now."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it over."""


class Every:
    """Fires at steps start + interval, start + 2 interval, ... up to and including `end`; steps count from 1.

    Args:
        interval: Steps, >= 1.
        start: Step after which the first interval begins, >= 0.
        end: Last step that may fire; None for no end.

    Raises:
        TypeError: no whole number.
        ValueError: a number out of range.
    """

    def __init__(self, interval: int, *, start: int = 0, end: int | None = None) -> None:
        if check_whole("interval", interval) < 1:
            raise ValueError(f"`interval` must be >= 1 step, got {interval}")
        if check_whole("start", start) < 0:
            raise ValueError(f"`start` must be >= 0, got {start}")
        self.interval, self.start, self.end = interval, start, end

    def fires(self, signals: Signals) -> bool:
        """Depends on the step alone."""
        since = signals.step - self.start
        return since > 0 and since % self.interval == 0 and (self.end is None or signals.step <= self.end)

    def state_dict(self) -> dict[str, Any]:
        """Empty."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to take over."""


class LossPlateau:
    """Fires when the running mean of the loss has not fallen for `patience` steps; then it begins anew.

    Args:
        patience: Steps, >= 1.
        min_delta: By how much the mean must fall below the best one to count, >= 0, in the loss's unit.
        smoothing: Within [0, 1), memory of the mean; 0 takes each loss as it is.

    Raises:
        TypeError: `patience` is no whole number.
        ValueError: a number out of range, or no loss at a step.
    """

    def __init__(self, patience: int, *, min_delta: float = 0.0, smoothing: float = 0.9) -> None:
        if check_whole("patience", patience) < 1:
            raise ValueError(f"`patience` must be >= 1 step, got {patience}")
        if not min_delta >= 0:
            raise ValueError(f"`min_delta` must be >= 0, got {min_delta}")
        if not 0 <= smoothing < 1:
            raise ValueError(f"`smoothing` must be within [0, 1), got {smoothing}")
        self.patience, self.min_delta, self.smoothing = patience, min_delta, smoothing
        self._mean: float | None = None
        self._best = math.inf
        self._waited = 0

    def fires(self, signals: Signals) -> bool:
        """Reads the loss, which waits for the device."""
        if signals.loss is None:
            raise ValueError("`loss` must be given to `step` for the trigger LossPlateau, got None")
        loss = float(signals.loss)
        self._mean = loss if self._mean is None else self.smoothing * self._mean + (1 - self.smoothing) * loss
        if self._mean < self._best - self.min_delta:
            self._best, self._waited = self._mean, 0
            return False
        self._waited += 1
        if self._waited < self.patience:
            return False
        self._best, self._waited = self._mean, 0
        return True

    def state_dict(self) -> dict[str, Any]:
        """The running mean, the best one, and how long it has stood."""
        return {"mean": self._mean, "best": self._best, "waited": self._waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them over."""
        self._mean, self._best, self._waited = state_dict["mean"], state_dict["best"], state_dict["waited"]


class GradientNormBelow:
    """Fires while the length of the pruned parameters' gradient, all as one vector, is below `bound`.

    Steps at which none has a gradient do not count.

    Args:
        bound: > 0.

    Raises:
        ValueError: `bound` is not > 0.
    """

    def __init__(self, bound: float) -> None:
        if not bound > 0:
            raise ValueError(f"`bound` must be > 0, got {bound}")
        self.bound = bound

    def fires(self, signals: Signals) -> bool:
        """Reads the norm, which waits for the device."""
        gradients = [parameter.grad for parameter in signals.parameters if parameter.grad is not None]
        if not gradients:
            return False
        return float(torch.nn.utils.get_total_norm(gradients)) < self.bound

    def state_dict(self) -> dict[str, Any]:
        """Empty."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to take over."""
