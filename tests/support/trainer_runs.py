"""Runs of a trainer that are small, and comparable line by line."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

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
