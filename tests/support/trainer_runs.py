"""Runs of a trainer that are small, and comparable line by line."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fluxcore.training.run import Run

TIMES = {"seconds", "tokens_per_second"}
TINY_MODEL: dict[str, Any] = {"n_layer": 1, "n_embd": 16, "n_head": 2, "resid_pdrop": 0.1}
"""With dropout, so that the state of the random generator matters."""


def metrics(run: Path) -> list[dict[str, Any]]:
    """What a run logged, without the times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def split(run: Path, name: str) -> list[dict[str, Any]]:
    """The lines of one split."""
    return [line for line in metrics(run) if line["split"] == name]


def weights(run: Path) -> dict[str, Tensor]:
    """Weights of the last checkpoint."""
    return load_file(run / "checkpoints" / "last" / "model.safetensors")


def assert_same(ours: Path, theirs: Path) -> None:
    """Two runs logged the same, and ended with the same weights, bit for bit."""
    assert metrics(ours) == metrics(theirs)
    mine, other = weights(ours), weights(theirs)
    assert mine.keys() == other.keys()
    assert all(torch.equal(mine[name], other[name]) for name in mine)


@contextmanager
def killed_at(monkeypatch: pytest.MonkeyPatch, step: int) -> Iterator[None]:
    """Runs in it end as by Ctrl-C before they log this step, which they must reach."""
    log_training = Run.log_training

    def log(self: Run, **extra: float) -> None:
        if self.step == step:
            raise KeyboardInterrupt
        log_training(self, **extra)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log_training", log)
        with pytest.raises(KeyboardInterrupt):
            yield
