"""Our trainer on a task of `ppo_task`: `python -m benchmarks.trainers.ppo_fluxcore FOLDER` writes `fluxcore.json`."""

import json
import resource
import sys
from itertools import pairwise
from pathlib import Path

import torch
from fluxcore.trainers.ppo import PPOConfig, train

import fluxcore
from benchmarks.trainers.ppo_task import Task
from fluxcore.rl.rewards import RewardBatch
from fluxcore.training.ppo_config import AutocurriculumConfig, KlConfig, RewardConfig


def share_of_good(batch: RewardBatch, *, path: str) -> torch.Tensor:
    """Share of the answer's tokens that are rewarded."""
    good = torch.load(path, weights_only=True)[batch.answer_tokens]
    return (good & batch.mask).sum(1) / batch.mask.sum(1)


def configuration(task: Task, folder: Path) -> PPOConfig:
    """The task in our keys, with all that the other loop lacks switched off."""
    return PPOConfig(
        data=Path(task.data),
        tokenizer=folder / "tokenizer.json",
        pad_token=0,
        model=task.model,
        rewards=[
            RewardConfig(name="benchmarks.trainers.ppo_fluxcore:share_of_good", args={"path": str(folder / "good.pt")})
        ],
        prompt_tokens=[task.prompt_tokens, task.prompt_tokens],
        kl=KlConfig(estimator="k1", controller="fixed", coefficient=task.kl_coefficient, stop=0),
        autocurriculum=AutocurriculumConfig(rule="none"),
        schedule="constant",
        warmup_steps=0,
        weight_decay=0.0,
        grad_clip=0.0,
        log_every=1,
        eval_every=0,
        eval_chunks=task.batch_size,
        save_every=0,
        trackers=[],
        run_dir=folder / "run",
        resume="never",
        log_level="error",
        **{
            name: getattr(task, name)
            for name in (
                "steps", "batch_size", "accumulation", "ppo_epochs", "answer_tokens", "lr", "clip", "value_clip",
                "value_weight", "gamma", "lam", "seed",
            )
        },
    )  # fmt: skip


def main() -> None:
    folder = Path(sys.argv[1])
    task = Task(**json.loads((folder / "task.json").read_text()))
    torch.set_num_threads(task.threads)
    imported = resident_mb()
    run = train(configuration(task, folder))
    peak = resident_mb()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    training = [line for line in lines if line["split"] == "train"]
    row = {
        "contender": "fluxcore",
        "version": fluxcore.__version__,
        "reward": [line["reward"] for line in training],
        "kl": [line["kl"] for line in training],
        "step_s": [after["seconds"] - before["seconds"] for before, after in pairwise(training)],
        "imported_mb": imported,
        "peak_mb": peak,
    }
    (folder / "fluxcore.json").write_text(json.dumps(row))


def resident_mb() -> float:
    """Most memory of this process so far, 1e6 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main()
