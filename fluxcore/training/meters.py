"""Weighted averages over an interval and over the run, summed over all ranks."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor


class Meters:
    """Sums and weights that stay on the device until an interval is closed.

    `add` never waits for the device: `.item()` inside a micro-batch would. Every rank adds under the same names, and
    the names of an interval are those that were ever added.

    Args:
        accelerator: Device, and the ranks to sum over.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.interval: dict[str, Tensor] = {}
        """Name -> [2] float64: weighted sum, weight. Of this rank, since the interval began."""
        self.run: dict[str, Tensor] = {}
        """The same of all ranks, up to where the interval began."""

    def add(self, name: str, total: Tensor | float, weight: Tensor | float = 1.0) -> None:
        """Add a weighted sum and its weight, both scalars; tensors must be on the device, and are detached."""
        entry = self.interval.get(name)
        if entry is None:
            entry = self.interval[name] = torch.zeros(2, dtype=torch.float64, device=self.accelerator.device)
        for i, value in enumerate((total, weight)):
            entry[i] += value.detach().double() if isinstance(value, Tensor) else value

    def close_interval(self) -> dict[str, float]:
        """Average of each name over the interval and all ranks; then begin a new interval. All ranks call it."""
        averages = {}
        for name, entry in self.reduced().items():
            if name in self.run:
                self.run[name] += entry
            else:
                self.run[name] = entry
            total, weight = entry.tolist()
            averages[name] = total / weight if weight else float("nan")
            self.interval[name].zero_()
        return averages

    def average(self, name: str) -> float:
        """Average over the run, up to the last `close_interval`."""
        total, weight = self.run[name].tolist()
        return float(total / weight) if weight else float("nan")

    def weight(self, name: str) -> float:
        """Weight over the run: for averages over tokens, their number. All ranks call it."""
        entries = (self.run.get(name), self.reduced().get(name))
        return sum(float(entry[1]) for entry in entries if entry is not None)

    def reduced(self) -> dict[str, Tensor]:
        """The interval's sums over all ranks, in one message."""
        if not self.interval:
            return {}
        summed = self.accelerator.reduce(torch.stack(list(self.interval.values())), "sum")
        return dict(zip(self.interval, summed.clone(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Sums over all ranks. All ranks call it."""
        return {
            "interval": {name: entry.tolist() for name, entry in self.reduced().items()},
            "run": {name: entry.tolist() for name, entry in self.run.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, on any number of ranks."""
        device = self.accelerator.device
        # The first rank carries the sums of all.
        mine = 1.0 if self.accelerator.is_main_process else 0.0
        self.interval = {
            name: mine * torch.tensor(entry, dtype=torch.float64, device=device)
            for name, entry in state["interval"].items()
        }
        self.run = {
            name: torch.tensor(entry, dtype=torch.float64, device=device) for name, entry in state["run"].items()
        }
