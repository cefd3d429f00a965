"""Grokfast: amplify the slow part of the gradients."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fluxcore.optim._lists import with_gradient


class GrokfastEMA:
    """Adds to each gradient `lamb` times its running mean; call `filter_` between backward and the optimizer's step.

    The mean begins with the first gradient; after that mean = alpha * mean + (1 - alpha) * g.

    Args:
        params: Parameters; those without gradient are left out, one that comes twice counts once.
        alpha: Within [0, 1), memory of the mean.
        lamb: Finite, factor of the mean.

    Raises:
        ValueError: an option out of range.
        RuntimeError: at a call, for a sparse or complex gradient.

    Source: Lee et al., "Grokfast" (arXiv:2405.20233).
    """

    def __init__(self, params: Iterable[Tensor], *, alpha: float = 0.98, lamb: float = 2.0) -> None:
        if not 0 <= alpha < 1:
            raise ValueError(f"`alpha` must be within [0, 1), got {alpha}")
        if not math.isfinite(lamb):
            raise ValueError(f"`lamb` must be finite, got {lamb}")
        self.alpha = alpha
        self.lamb = lamb
        self._params = list(dict.fromkeys(params))
        self._means: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def filter_(self) -> None:
        """Take the gradients into the means and add those to them, in place."""
        trained = list(with_gradient([{"params": self._params}]))
        for parameter in trained:
            if parameter not in self._means and parameter.grad is not None:
                self._means[parameter] = parameter.grad.clone()
        gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
        if not gradients:
            return
        means = [self._means[parameter] for parameter in trained]
        torch._foreach_lerp_(means, gradients, 1 - self.alpha)
        torch._foreach_add_(gradients, means, alpha=self.lamb)

    def state_dict(self) -> dict[str, Any]:
        """The means, by the place of their parameter in `params`."""
        return {"means": {i: self._means[p] for i, p in enumerate(self._params) if p in self._means}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take means over, on the devices and in the dtypes of the parameters.

        Raises:
            ValueError: they are of other parameters.
        """
        means = {}
        for place, mean in state_dict["means"].items():
            if not 0 <= place < len(self._params) or mean.shape != self._params[place].shape:
                raise ValueError(
                    f"`state_dict` must be of the same parameters, got a mean of shape {tuple(mean.shape)} for "
                    f"number {place} of {len(self._params)}"
                )
            parameter = self._params[place]
            means[parameter] = mean.to(parameter).clone()
        self._means = means
