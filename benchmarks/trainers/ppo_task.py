"""The task that PPO loops are compared on: a model, prompts, and a reward that is the share of certain tokens.

All answers have the same length and no token ends one, so that neither loop depends on how it pads.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from fluxcore.trainers.ppo import embedded_model

import fluxcore.data
from fluxcore.data.tokenizer import Tokenizer
from fluxcore.training.embedded_data import embedded_data
from fluxcore.training.models import load_model

WIDE_VOCABULARY = 50257
END = "<|endoftext|>"


@dataclass(kw_only=True)
class Task:
    """What every contender reads from `task.json`; names of its fields are fluxcore's keys, in its units."""

    name: str
    model: str
    """Folder of a causal language model."""
    data: str
    """Folder of shards that the prompts are the beginnings of."""
    vocab_size: int
    steps: int
    batch_size: int = 32
    accumulation: int = 2
    ppo_epochs: int = 4
    prompt_tokens: int = 16
    answer_tokens: int = 24
    lr: float = 3e-4
    clip: float = 0.2
    value_clip: float = 0.2
    value_weight: float = 0.5
    gamma: float = 1.0
    lam: float = 0.95
    kl_coefficient: float = 0.1
    """Of k1, taken from the rewards, and fixed."""
    seed: int = 0
    threads: int = 2


def make_task(folder: Path, name: str, options: Mapping[str, int]) -> Task:
    """Write the task, its tokenizer, its prompts and the tokens that are rewarded.

    Args:
        folder: Written into.
        name: "spaces": a small model that has learnt the embedded text, 1024 classes, is to write blanks and line ends;
            "wide": one of random weights and 50257 classes is to write tokens of the first half.
        options: Fields of the task to change.
    """
    data = embedded_data(Path("outputs") / "embedded-data")
    ds, tokenizer = fluxcore.data.open(data), Tokenizer.load(data / "tokenizer.json")
    if name == "spaces":
        model, vocab_size = embedded_model(), ds.vocab_size
        good = torch.tensor([" " in text or "\n" in text for text in map(tokenizer.decode, ids_of(vocab_size))])
    else:
        torch.manual_seed(0)
        model, vocab_size = str(folder / "model"), WIDE_VOCABULARY
        load_model("micro", vocab_size=vocab_size, context=ds.chunk_tokens).save_pretrained(model)
        good = torch.arange(vocab_size) < vocab_size // 2
        options = {"batch_size": 8, **options}
    task = Task(name=name, model=str(Path(model).resolve()), data=str(data.resolve()), vocab_size=vocab_size, **options)
    # A token by another name is none that ends an answer.
    (folder / "tokenizer.json").write_text((data / "tokenizer.json").read_text().replace(END, "<|nothing|>"))
    torch.save(good, folder / "good.pt")
    whole = np.flatnonzero(ds.column("valid_len") > task.prompt_tokens)
    torch.save(torch.from_numpy(ds.gather(whole)[0].astype(np.int64))[:, : task.prompt_tokens], folder / "prompts.pt")
    (folder / "task.json").write_text(json.dumps(asdict(task), indent=2))
    return task


def ids_of(vocab_size: int) -> list[list[int]]:
    """Each token alone."""
    return [[token] for token in range(vocab_size)]
