"""Run folders as the curriculum trainer leaves them, with chosen losses."""

import json
from pathlib import Path

TOKENS_PER_STEP = 1000


def write_run(folder: Path, *, order="random", seed=0, validation, train=None, scores=None, **config) -> Path:
    """Write a run whose validation loss after step i is `validation[i]`, and the training loss `train[i]`."""
    folder.mkdir(parents=True)
    settings = {"order": order, "seed": seed, "run_dir": str(folder), **config}
    (folder / "config.yaml").write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in settings.items()))
    lines = []
    for i, loss in enumerate(validation):
        common = {"step": i + 1, "tokens": (i + 1) * TOKENS_PER_STEP}
        trained = {**common, "split": "train", "loss": (train or validation)[i], "tokens_per_second": 500.0}
        if scores is not None:
            trained["score"] = scores[i]
        lines += [trained, {**common, "split": "val", "loss": loss}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
