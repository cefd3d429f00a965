"""What a checkpoint holds, and how it is written and read back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer
from transformers import PreTrainedModel

from fluxcore.training.models import no_progress_bar
from fluxcore.training.seeds import rng_state, set_rng_state

MODEL = "model.safetensors"
STATE = "training_state.pt"
# Whole tensors on the host, named as in the bare model, however many ranks hold parts of them.
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class Stateful(Protocol):
    """Anything with a state of plain values and tensors: scheduler, loader, meters, a curriculum, mixture weights."""

    def state_dict(self) -> dict[str, Any]:
        """State to save; all ranks call it."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Go on from a saved state; all ranks call it."""


class TrainingState:
    """Model, optimizer, random generators, the scaler of mixed precision, and named parts with a state of their own.

    The files are `config.json` and `model.safetensors`, as `from_pretrained` reads them, or the latter alone where the
    model is not of `transformers` (it must share no weights then); and `training_state.pt`, which holds plain values
    and tensors only and is read with `weights_only=True`.

    Args:
        accelerator: Prepared the model and the optimizer.
        model: As `accelerator.prepare` returned it.
        optimizer: As `accelerator.prepare` returned it.
        parts: Name -> whatever else has a state.
    """

    def __init__(
        self, accelerator: Accelerator, model: nn.Module, optimizer: Optimizer, parts: Mapping[str, Stateful]
    ) -> None:
        self.accelerator = accelerator
        self.model = model
        # accelerate's wrapper is no torch optimizer inside; its state is that of the bare one.
        self.optimizer: Optimizer = getattr(optimizer, "optimizer", optimizer)
        self.parts = dict(parts)
        if accelerator.scaler is not None:
            self.parts["scaler"] = accelerator.scaler

    def collect(self) -> dict[str, Any]:
        """Everything, gathered; all ranks call it, and the main one may write it."""
        return {
            "weights": get_model_state_dict(self.model, options=WHOLE),
            "optimizer": get_optimizer_state_dict(self.model, self.optimizer, options=WHOLE),
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
            "rng": gather_object([rng_state()]),
        }

    def write(self, folder: Path, collected: dict[str, Any]) -> None:
        """Write what `collect` returned into an empty folder; the main rank calls it."""
        weights = collected.pop("weights")
        bare = self.accelerator.unwrap_model(self.model)
        if isinstance(bare, PreTrainedModel):
            with no_progress_bar():
                bare.save_pretrained(folder, state_dict=weights, max_shard_size="1000GB")
        else:
            save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / MODEL)
        torch.save(collected, folder / STATE)

    def load(self, folder: Path) -> None:
        """Take over a checkpoint's state; all ranks call it.

        Random generators go on from their state when there are as many ranks as there were; else they stay as seeded.

        Raises:
            ValueError: the model or the parts are others than those saved.
        """
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        missing = state["parts"].keys() ^ self.parts.keys()
        if missing:
            raise ValueError(
                f"checkpoint {folder} and this run differ in {', '.join(sorted(missing))}"
                "\n\nResume with the configuration that it was written with."
            )
        weights: dict[str, Any] = load_file(folder / MODEL)
        # A weight shared by two modules is saved once, so names may be missing; wrong shapes still raise.
        set_model_state_dict(self.model, weights, options=StateDictOptions(full_state_dict=True, strict=False))
        self.load_optimizer(state["optimizer"])
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
        if len(state["rng"]) == self.accelerator.num_processes:
            set_rng_state(state["rng"][self.accelerator.process_index])

    def load_optimizer(self, saved: dict[str, Any]) -> None:
        """Take over the optimizer's part."""
        if any(isinstance(value, Tensor) for state in saved["state"].values() for value in state.values()):
            options = StateDictOptions(full_state_dict=True)
            set_optimizer_state_dict(self.model, self.optimizer, saved, options=options)
            return
        # Of an optimizer that keeps nothing, such as SGD without momentum, torch wants tensors all the same.
        for group, settings in zip(self.optimizer.param_groups, saved["param_groups"], strict=True):
            group.update({key: value for key, value in settings.items() if key != "params"})
