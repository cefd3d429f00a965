"""In-context cross entropy: the loss on fixed windows, for each component and each position."""

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import nn

from fluxcore.integrations.model_head import linear_head
from fluxcore.rl.policy import evaluating
from fluxcore.training.difficulty import token_losses
from fluxcore.training.language_model import IGNORED
from fluxcore.training.validation import Validation, perplexity


class ErgodicValidation:
    """The windows of several components.

    Args:
        windows: Component -> its windows, of T tokens each.
    """

    def __init__(self, windows: Mapping[str, Validation]) -> None:
        self.windows = windows
        self.profiles: dict[str, list[float]] = {}
        """Of the last validation: component -> mean loss of the tokens 1..T-1, nats, [T - 1]."""

    def run(self, accelerator: Accelerator, model: nn.Module, measure: None = None) -> dict[str, float]:
        """Measure all windows. All ranks call it.

        Returns:
            `xe/NAME`, the mean over windows and positions of each component; `loss`, the mean over components, nats a
            token; `perplexity`, `val_tokens`.
        """
        del measure
        counted = 0
        with evaluating(model), accelerator.autocast():
            for name, windows in self.windows.items():
                sums, count = self.measure(accelerator, model, windows)
                self.profiles[name] = (sums / count).tolist()
                counted += int(count.sum())
        means = {f"xe/{name}": sum(profile) / len(profile) for name, profile in self.profiles.items()}
        loss = sum(means.values()) / len(means)
        return {"loss": loss, **means, "perplexity": perplexity(loss), "val_tokens": counted}

    def measure(
        self, accelerator: Accelerator, model: nn.Module, windows: Validation
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of the losses and number of windows at each position, over all ranks: [T - 1] each."""
        head = linear_head(accelerator.unwrap_model(model))
        totals = torch.zeros(2, windows.seq - 1, dtype=torch.float64, device=accelerator.device)
        for tokens, targets in windows.sequences(accelerator):
            # The token after the window has no place in it.
            targets[:, -1] = IGNORED
            losses = token_losses(model, head, tokens, targets)[:, :-1]
            totals += torch.stack([losses.double().sum(0), (targets[:, :-1] != IGNORED).double().sum(0)])
        sums, count = accelerator.reduce(totals, "sum")
        return sums, count
