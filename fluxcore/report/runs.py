"""A run folder as the report reads it: its configuration and its curves."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluxcore.errors import require

# What two runs may differ in and still be compared: the order itself, the seed, and where the run was kept.
COMPARED_KEYS = frozenset({"order", "seed", "run_dir", "resume"})
WHOLE = "whole.json"
"""In the folder of a run of a grid that spent its budget or was stopped by its own rule."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One split's log. All arrays are [L], L lines in the order of the steps."""

    tokens: NDArray[np.int64]
    """Tokens trained on so far."""
    loss: NDArray[np.float64]
    """Nats a token."""
    score: NDArray[np.float64]
    """Mean score of the chunks of the interval; NaN where it was not logged."""
    tokens_per_second: NDArray[np.float64]
    """Speed in the interval; NaN where it was not logged."""


@dataclass(frozen=True, slots=True)
class Run:
    """One finished or unfinished training run."""

    folder: Path
    config: dict[str, Any]
    train: Curve
    validation: Curve
    seconds: float
    """Wall time of the training steps, without validation and checkpoints; NaN where the speed was not logged."""
    environment: dict[str, Any]
    """Versions, commit and command of the run, as its folder has them; empty where it has none."""

    @property
    def order(self) -> str:
        """Name of the order that the run trained in."""
        return str(self.config["order"])

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.config["seed"])

    @property
    def tokens_per_second(self) -> float:
        """Over all training steps."""
        return float(self.train.tokens[-1]) / self.seconds

    @property
    def final_loss(self) -> float:
        """Last validation loss, nats a token."""
        return float(self.validation.loss[-1])

    @property
    def total_tokens(self) -> int:
        """Tokens trained on, up to the last line of the log."""
        return int(max(self.train.tokens[-1], self.validation.tokens[-1]))


def read_run(folder: Path) -> Run:
    """Read `config.yaml` and `metrics.jsonl` of a run folder.

    Raises:
        FileNotFoundError: not a run folder.
        ValueError: a line that is not a JSON object, or a log without a training or a validation loss.
    """
    yaml = require("yaml", extra="report")
    for name in ("config.yaml", "metrics.jsonl"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"`{folder}` must be a run folder, but has no `{name}`"
                "\n\nA run folder is the `run_dir` of `python -m fluxcore.trainers.curriculum`."
            )
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    for key in ("order", "seed"):
        if not isinstance(config, dict) or key not in config:
            raise ValueError(f"`{folder / 'config.yaml'}` must have a key `{key}`, as the curriculum trainer writes it")
    rows = read_metrics(folder / "metrics.jsonl")
    environment = folder / "environment.json"
    train = curve(rows, "train", folder)
    return Run(
        folder=folder,
        config=config,
        train=train,
        validation=curve(rows, "val", folder),
        seconds=float(np.sum(np.diff(train.tokens, prepend=0) / train.tokens_per_second)),
        environment=json.loads(environment.read_text(encoding="utf-8")) if environment.exists() else {},
    )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file; a last line without a newline was cut off by a kill, and is left out."""
    *lines, torn = path.read_text(encoding="utf-8").split("\n")
    del torn
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if not isinstance(row, dict):
            raise ValueError(  # noqa: TRY004 (the file's content is wrong, not an argument's type)
                f"line {number} of `{path}` must be a JSON object, got {line[:80]!r}"
                "\n\nRemove the line if something else wrote it, or train the run again."
            )
        rows.append(row)
    return rows


def curve(rows: Iterable[dict[str, Any]], split: str, folder: Path) -> Curve:
    """The losses of one split; of a step that was logged again after a resume, the last line counts."""
    by_step = {int(row["step"]): row for row in rows if row.get("split") == split and "loss" in row}
    if not by_step:
        raise ValueError(
            f"`{folder / 'metrics.jsonl'}` must hold a `loss` of split `{split}`, got none"
            "\n\nDid the run end before it first logged? Run it again: it goes on from its last checkpoint."
        )
    kept = [by_step[step] for step in sorted(by_step)]

    def numbers(name: str) -> NDArray[np.float64]:
        # The log has null for what JSON cannot say: a loss that is not a number, or infinite.
        return np.array([math.nan if row.get(name) is None else row[name] for row in kept], np.float64)

    return Curve(
        tokens=np.array([row["tokens"] for row in kept], np.int64),
        loss=numbers("loss"),
        score=numbers("score"),
        tokens_per_second=numbers("tokens_per_second"),
    )


def differing_keys(runs: list[Run]) -> list[str]:
    """Configuration keys, other than order and seed, in which the runs are not alike."""
    keys = sorted({key for run in runs for key in run.config} - COMPARED_KEYS)
    return [key for key in keys if any(run.config.get(key) != runs[0].config.get(key) for run in runs)]
