"""Surge and collapse inside Hugging Face's `Trainer`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from fluxcore.surge.collapse import SurgeCollapse, SurgeReport

FILE = "surge_collapse.pt"


class SurgeCollapseCallback(TrainerCallback):
    """Runs a `SurgeCollapse` after each optimizer step of a `Trainer`, and saves and restores it with the checkpoints.

    Triggers that want the loss get the last one that was logged. Every process must make the same `SurgeCollapse`:
    the random numbers are then the same on all.

    Args:
        make: Gets the model and the optimizer when training begins, and makes the `SurgeCollapse`.
        on_report: Gets each report.

    Raises:
        TypeError: `make` cannot be called.
    """

    def __init__(
        self,
        make: Callable[[nn.Module, Optimizer], SurgeCollapse],
        on_report: Callable[[SurgeReport], None] | None = None,
    ) -> None:
        if not callable(make):
            raise TypeError(
                "`make` must be a function of model and optimizer that gives a SurgeCollapse, "
                f"got {type(make).__name__}"
            )
        self._make = make
        self._on_report = on_report
        self._loss: float | None = None
        self.surge: SurgeCollapse | None = None
        """Made when training begins."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make the `SurgeCollapse`; in a resumed run, restore it from the checkpoint in the output folder."""
        self.surge = self._make(kwargs["model"], kwargs["optimizer"])
        if state.global_step > 0:
            path = _folder(args, state) / FILE
            if not path.is_file():
                raise FileNotFoundError(f"{path}: the checkpoint to resume from has no state of surge and collapse")
            self.surge.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Remember the loss."""
        self._loss = (kwargs.get("logs") or {}).get("loss", self._loss)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Act, while the gradients are still there."""
        if self.surge is None:
            raise RuntimeError("on_optimizer_step came before on_train_begin: add the callback before train()")
        report = self.surge.step(self._loss)
        if report is not None and self._on_report is not None:
            self._on_report(report)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save beside the optimizer's state, from the main process."""
        if self.surge is not None and state.is_world_process_zero:
            torch.save(self.surge.state_dict(), _folder(args, state) / FILE)


def _folder(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
