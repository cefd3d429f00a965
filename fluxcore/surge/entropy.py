"""Entropy of activations as a trigger."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fluxcore.ops.softmax_stats import softmax_stats
from fluxcore.surge.triggers import Signals


class ActivationEntropy:
    """Fires while the entropy of a model's activations is out of bounds.

    A layer's entropy is that of the softmax over the last dim of its output, in nats, divided by ln of the width, so
    that 0 is one unit alone and 1 is all alike; averaged over all else, over the layers, and over steps. Only forward
    passes in training mode count. Hooks stay on the modules until `close`.

    Args:
        model: Where the layers are.
        layers: Names of modules whose output is a floating point tensor of width >= 2, at least one.
        below: Fires while the mean is lower, within [0, 1].
        above: Fires while the mean is higher, within [0, 1].
        smoothing: Within [0, 1), memory of the mean over steps.
        mean_over_ranks: Of a scalar tensor that each rank has its own of, so that all ranks fire together, for example
            `lambda x: accelerator.reduce(x, "mean")`. None: this process is alone.

    Raises:
        ValueError: an unknown layer, no bound, or a number out of range; in a forward pass, an output of width 1.
        TypeError: in a forward pass, an output that is no floating point tensor.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        *,
        below: float | None = None,
        above: float | None = None,
        smoothing: float = 0.9,
        mean_over_ranks: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if below is None and above is None:
            raise ValueError("`below` or `above` must be given, got neither")
        for name, bound in (("below", below), ("above", above)):
            if bound is not None and not 0 <= bound <= 1:
                raise ValueError(f"`{name}` must be within [0, 1], a share of ln width, got {bound}")
        if not 0 <= smoothing < 1:
            raise ValueError(f"`smoothing` must be within [0, 1), got {smoothing}")
        modules = dict(model.named_modules())
        unknown = [name for name in layers if name not in modules]
        if unknown or not layers:
            some = ", ".join(name for name in list(modules)[:20] if name)
            raise ValueError(f"`layers` must name modules, got {unknown or 'none'}\n\nThe model has {some} ...")
        self.below, self.above, self.smoothing = below, above, smoothing
        self.mean: float | None = None
        """Running mean, a share of ln width; None before the first step."""
        self._mean_over_ranks = mean_over_ranks
        self._seen: list[Tensor] = []  # one number each, on the model's device
        self._hooks = [modules[name].register_forward_hook(self._observe) for name in layers]

    def _observe(self, module: nn.Module, _: object, output: object) -> None:
        if not module.training:
            return
        if isinstance(output, tuple):
            output = output[0]
        if not isinstance(output, Tensor) or not output.is_floating_point():
            raise TypeError(f"`layers` must give floating point tensors, got {type(output).__name__}")
        width = output.shape[-1] if output.ndim else 1
        if width < 2:
            raise ValueError(f"`layers` must give outputs of width >= 2, got shape {tuple(output.shape)}")
        entropy = softmax_stats(output.detach(), outputs=("entropy",)).entropy
        if entropy is not None and entropy.numel():
            self._seen.append(entropy.mean() / math.log(width))

    def fires(self, signals: Signals) -> bool:
        """Takes the step's forward passes into the mean, which waits for the device."""
        if self._seen:
            seen = torch.stack([value.to(self._seen[0].device, torch.float64) for value in self._seen]).mean()
            self._seen.clear()
            now = float(seen if self._mean_over_ranks is None else self._mean_over_ranks(seen))
            self.mean = now if self.mean is None else self.smoothing * self.mean + (1 - self.smoothing) * now
        if self.mean is None:
            return False
        too_low = self.below is not None and self.mean < self.below
        too_high = self.above is not None and self.mean > self.above
        return too_low or too_high

    def close(self) -> None:
        """Take the hooks off the modules."""
        for hook in self._hooks:
            hook.remove()

    def state_dict(self) -> dict[str, Any]:
        """The running mean."""
        return {"mean": self.mean}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it over."""
        self.mean = state_dict["mean"]
