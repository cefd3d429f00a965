"""The keys of trainers that collapse and surge."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum, auto
from typing import ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from fluxcore.surge import ActivationEntropy, Every, GradientNormBelow, LossPlateau, SurgeCollapse, Trigger
from fluxcore.training.config import ConfigError, ConfigFile


class TriggerName(StrEnum):
    """What sets off a collapse or a surge."""

    every = auto()
    entropy_above = auto()
    entropy_below = auto()
    plateau = auto()
    gradient_norm = auto()


class RegrowName(StrEnum):
    """Where and how weights come back."""

    noise = auto()
    gradient = auto()
    random = auto()


class NoiseScaleName(StrEnum):
    """What `noise_std` is a multiple of."""

    init = auto()
    current = auto()
    absolute = auto()


# By a call, because `global` is a word of Python.
ScopeName = StrEnum("ScopeName", ["tensor", "global"])


@dataclass(kw_only=True, slots=True)
class SurgeConfig(ConfigFile):
    """When the smallest weights are dropped, and when and how dropped ones come back."""

    name: ClassVar[str] = "surge"
    collapse_on: list[TriggerName] = field(default_factory=list)
    """Drop weights when one of these fires: every, entropy_above, entropy_below, plateau, gradient_norm. []: never."""
    surge_on: list[TriggerName] = field(default_factory=list)
    """Bring weights back when one of these fires; as `collapse_on`."""
    collapse_every: int = 100
    """Of collapse_on=[every]: optimizer steps of the run, whatever the epochs."""
    surge_every: int = 200
    """Of surge_on=[every]: optimizer steps of the run."""
    start: int = 0
    """Of `every`: steps before the first interval."""
    end: int | None = None
    """Of `every`: last step that may fire. None: the last of the run."""
    drop_fraction: float = 0.5
    """Of the active weights, in a collapse."""
    cosine: bool = False
    """Whether the drop fraction falls to 0 at the end of the run, along half a cosine."""
    regrow: RegrowName = RegrowName.noise
    """noise or random: at random places; gradient: where the gradient is largest."""
    regrow_fraction: float = 1.0
    """Of the dropped weights, in a surge."""
    noise_std: float = 1.0
    """Standard deviation of what comes back, as a multiple of `noise_scale`."""
    noise_scale: NoiseScaleName = NoiseScaleName.init
    """init: each parameter's at the beginning; current: that of its active weights; absolute: 1."""
    scope: ScopeName = ScopeName.tensor
    """tensor: fractions of each parameter; global: of all together."""
    entropy_layers: list[str] = field(default_factory=list)
    """Of the entropy triggers: modules whose output's softmax is measured, by their names in the model."""
    entropy_above: float = 0.9
    """Of the trigger of this name: fires above it; a share of ln width."""
    entropy_below: float = 0.5
    """Of the trigger of this name: fires below it; a share of ln width."""
    entropy_smoothing: float = 0.9
    """Memory of the running mean of the entropy, over steps."""
    plateau_patience: int = 100
    """Of plateau: steps without a lower running mean of the loss."""
    plateau_min_delta: float = 0.0
    """Of plateau: by how much the mean must fall to count, nats."""
    gradient_norm: float = 1e-3
    """Of gradient_norm: fires while the norm of the gradient of all prunable weights is below it."""

    def __post_init__(self) -> None:
        self.coerce()
        for key in ("drop_fraction", "regrow_fraction", "entropy_above", "entropy_below"):
            if not 0 <= getattr(self, key) <= 1:
                raise ValueError(f"`surge.{key}` must be within [0, 1], got {getattr(self, key)}")
        for key in ("collapse_every", "surge_every", "plateau_patience"):
            if getattr(self, key) < 1:
                raise ValueError(f"`surge.{key}` must be >= 1 step, got {getattr(self, key)}")
        for key in ("start", "noise_std", "plateau_min_delta"):
            if not 0 <= getattr(self, key) < float("inf"):
                raise ValueError(f"`surge.{key}` must be finite and >= 0, got {getattr(self, key)}")
        if not 0 <= self.entropy_smoothing < 1:
            raise ValueError(f"`surge.entropy_smoothing` must be within [0, 1), got {self.entropy_smoothing}")
        if not self.gradient_norm > 0:
            raise ValueError(f"`surge.gradient_norm` must be > 0, got {self.gradient_norm}")
        if self.surge_on and not self.collapse_on:
            raise ValueError("`surge.surge_on` needs something to bring back\n\nSet surge.collapse_on too.")
        entropy = {TriggerName.entropy_above, TriggerName.entropy_below} & {*self.collapse_on, *self.surge_on}
        if entropy and not self.entropy_layers:
            raise ValueError(
                f"`surge.entropy_layers` must name modules for {min(entropy)}, got none"
                "\n\nFor example surge.entropy_layers=[1] of the mlp, whose modules are numbered."
            )

    def make(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        steps: int,
        seed: int,
        mean_over_ranks: Callable[[Tensor], Tensor],
    ) -> SurgeCollapse | None:
        """What the keys describe; None where nothing would ever fire.

        Args:
            model: The bare model.
            optimizer: The bare optimizer.
            steps: Of the whole run.
            seed: Of the random numbers.
            mean_over_ranks: Of a scalar that each rank has its own of, so that all ranks do the same.
        Raises:
            ConfigError: a trigger that would never fire within the run, or an unknown layer.
        """
        if not self.collapse_on:
            return None
        for key, names in (("collapse_every", self.collapse_on), ("surge_every", self.surge_on)):
            first = self.start + getattr(self, key)
            last = steps if self.end is None else min(steps, self.end)
            if TriggerName.every in names and first > last:
                raise ConfigError(
                    f"`surge.{key}` would first fire at step {first}, and the run may until step {last}"
                    "\n\nSet it or surge.start lower, or train longer."
                )

        def make_trigger(name: TriggerName, interval: int) -> Trigger:
            if name is TriggerName.every:
                return Every(interval, start=self.start, end=self.end)
            if name is TriggerName.plateau:
                return LossPlateau(self.plateau_patience, min_delta=self.plateau_min_delta)
            if name is TriggerName.gradient_norm:
                return GradientNormBelow(self.gradient_norm)
            return ActivationEntropy(
                model,
                self.entropy_layers,
                above=self.entropy_above if name is TriggerName.entropy_above else None,
                below=self.entropy_below if name is TriggerName.entropy_below else None,
                smoothing=self.entropy_smoothing,
                mean_over_ranks=mean_over_ranks,
            )

        try:
            return SurgeCollapse(
                model,
                optimizer,
                collapse=[make_trigger(name, self.collapse_every) for name in self.collapse_on],
                surge=[make_trigger(name, self.surge_every) for name in self.surge_on],
                drop_fraction=self.drop_fraction,
                cosine_steps=steps if self.cosine else None,
                regrow=self.regrow.value,  # type: ignore[arg-type]
                regrow_fraction=self.regrow_fraction,
                noise_std=self.noise_std,
                noise_scale=self.noise_scale.value,  # type: ignore[arg-type]
                scope=self.scope.value,  # type: ignore[arg-type]
                seed=seed,
            )
        except ValueError as error:
            raise ConfigError(f"`surge`: {error}") from error
