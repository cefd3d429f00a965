"""PPO runs of a second, on documents that `write_documents` makes, with a tokenizer of a token a number."""

import os
from pathlib import Path
from typing import Any

import torch
from fluxcore.trainers.ppo import PPOConfig
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from fluxcore.rl.rewards import RewardBatch
from fluxcore.training.ppo_config import AutocurriculumConfig, KlConfig, LoraConfig, RewardConfig
from support.token_data import VOCAB_SIZE, write_documents
from support.trainer_runs import TINY_MODEL


def write_tokenizer(folder: Path, *, end: str = "<|endoftext|>") -> None:
    """A token a number, of which 0 ends a text."""
    vocabulary = {end: 0} | {f"n{i}": i for i in range(1, VOCAB_SIZE)}
    (folder / "tokenizer.json").write_text(Tokenizer(WordLevel(vocabulary, end)).to_str())


def write_prompts(folder: Path, **options: Any) -> Path:
    """A data set of two sources, and its tokenizer."""
    write_documents(folder, **options)
    write_tokenizer(folder)
    return folder


def share_of_small(batch: RewardBatch) -> torch.Tensor:
    """Share of the answer's tokens below half of the vocabulary."""
    small = (batch.answer_tokens < VOCAB_SIZE // 2) & batch.mask
    return small.sum(1) / batch.mask.sum(1)


def write_down(batch: RewardBatch, *, path: str) -> torch.Tensor:
    """Keep what every process saw: prompts and answers, by process."""
    lines = "".join(f"{prompt}|{answer}\n" for prompt, answer in zip(batch.prompts, batch.answers, strict=True))
    with Path(f"{path}-{os.getpid()}").open("a") as file:
        file.write(lines)
    return (batch.answer_tokens % 2 * batch.mask).sum(1) / batch.mask.sum(1)


def ppo_config(data: Path, run_dir: Path, **changes: Any) -> PPOConfig:
    """Two of everything; its changes may name keys of `kl`, `lora` and `autocurriculum` by a prefix."""
    settings: dict[str, Any] = {
        "data": data,
        "val_fraction": 0.2,
        "model": "micro",
        "model_args": TINY_MODEL,
        "rewards": [RewardConfig(name="support.ppo_runs:share_of_small"), RewardConfig(name="repetition")],
        "prompt_tokens": [2, 6],
        "answer_tokens": 6,
        "batch_size": 8,
        "accumulation": 2,
        "minibatches": 2,
        "ppo_epochs": 2,
        "steps": 6,
        "lr": 3e-3,
        "schedule": "linear",
        "warmup_steps": 1,
        "log_every": 1,
        "eval_every": 3,
        "save_every": 2,
        "trackers": [],
        "run_dir": run_dir,
    }
    kl: dict[str, Any] = {"target": 0.02, "horizon": 500}
    lora: dict[str, Any] = {}
    curriculum: dict[str, Any] = {"every": 2, "freeze_interval": 3, "chunks": 8, "rate": 2.0}
    for name, value in changes.items():
        head, _, key = name.partition("__")
        {"kl": kl, "lora": lora, "autocurriculum": curriculum}.get(head if key else "", settings)[key or name] = value
    groups = {"kl": KlConfig(**kl), "lora": LoraConfig(**lora), "autocurriculum": AutocurriculumConfig(**curriculum)}
    return PPOConfig(**settings, **groups)


def assert_reward_rises_and_kl_holds(lines: list[dict[str, Any]], target: float) -> None:
    """The reward rises by 3 standard errors from the first steps to the second half, where KL is near its target."""
    later = lines[len(lines) // 2 :]
    first, last = (torch.tensor([line["reward"] for line in part]) for part in (lines[:8], later))
    error = (first.var() / len(first) + last.var() / len(last)).sqrt()
    assert last.mean() - first.mean() > 3 * error, (first.mean(), last.mean(), error)
    kl = sum(line["kl"] for line in later) / len(later)
    assert 0.5 * target < kl < 2 * target, kl
