"""Prompts out of a data set, by weighted sources."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from torch import Tensor

from fluxcore.data import Autocurriculum, Loader, Order
from fluxcore.data.batch import Batch
from fluxcore.data.tokenizer import Tokenizer
from fluxcore.training.config import ConfigError
from fluxcore.training.ppo_config import PPOKeys
from fluxcore.training.split import Ids, mix
from fluxcore.training.training_data import TrainingData, open_training_data


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptData:
    """What PPO reads."""

    data: TrainingData
    chunk_ids: Ids
    """Chunks that train: of documents that are not held out, and with a token to go on with."""
    sources: list[str]
    steps: int
    """Of the run."""
    tokenizer: Tokenizer
    pad_id: int
    curriculum: Autocurriculum | None

    def loader(self, config: PPOKeys, accelerator: Accelerator) -> Loader:
        """A batch is a step's prompts."""
        return Loader(
            self.data.ds,
            Order.shuffled(),
            subset=self.chunk_ids,
            mix=None if self.curriculum is None else self.curriculum.weights,
            total_steps=self.steps,
            global_batch_size=self.data.chunks_per_step,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            seed=config.seed,
            out="int64",
        )

    def chunks_of(self, source: str) -> Ids:
        """Chunks of one source that train."""
        number = self.data.ds.sources.index(source)
        chunks: Ids = self.chunk_ids[self.data.ds.column("source")[self.chunk_ids] == number]
        return chunks


def open_prompts(config: PPOKeys, accelerator: Accelerator) -> PromptData:
    """Open the data, and check all that a run would meet later.

    Raises:
        ConfigError: keys that do not fit the data or each other; a source without a chunk; no token to pad with.
        OSError: data or a tokenizer that cannot be read.
    """
    if config.tokens is not None:
        raise ConfigError("`tokens` is no budget of PPO, which draws its own\n\nGive `steps` or `epochs`.")
    with accelerator.main_process_first():
        path = config.data or config.text.prepare(config.seq or config.prompt_tokens[1] + config.answer_tokens)
    # The sources' weights say how often a chunk comes, so a budget cannot leave chunks out.
    data = open_training_data(
        replace(config, steps=None),
        accelerator,
        path,
        val_path=config.val_data,
        val_fraction=config.val_fraction,
    )
    ids = data.plan.chunk_ids
    ids = ids[data.ds.column("valid_len")[ids] >= 2]
    numbers = data.ds.column("source")[ids]
    empty = [name for number, name in enumerate(data.ds.sources) if not (numbers == number).any()]
    if empty:
        raise ConfigError(
            f"`data` must have chunks of two tokens or more to train on from every source, and has none of {empty[0]!r}"
            "\n\nLeave the source out when the data is tokenised, or hold out fewer documents."
        )
    tokenizer = find_tokenizer(data.tokenizer)
    pad_id = config.pad_token if config.pad_token is not None else tokenizer.end_id
    if pad_id is None:
        raise ConfigError(
            f"the tokenizer {data.tokenizer} has no end token, which would be padded with"
            "\n\nSet pad_token=ID of a token that may stand in the padding, such as 0."
        )
    return PromptData(
        data=data,
        chunk_ids=ids,
        sources=list(data.ds.sources),
        steps=config.steps or data.plan.steps,
        tokenizer=tokenizer,
        pad_id=pad_id,
        curriculum=config.autocurriculum.make(list(data.ds.sources)),
    )


def find_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer that the data was made with."""
    if not path.is_file():
        raise ConfigError(
            f"rewards need a tokenizer, and there is none at {path}\n\nSet tokenizer=PATH of its tokenizer.json."
        )
    return Tokenizer.load(path)


def cut_prompts(config: PPOKeys, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
    """The beginning of each chunk, and what follows it there, up to the longest answer.

    A chunk's prompt has a length of its own, the same each time that the chunk comes.

    Returns:
        Prompts, each [p] int64, p >= 1; and what follows, each [a] int64, a >= 1.
    """
    least, greatest = config.prompt_tokens
    keys = mix(batch.meta.chunk_ids.numpy().astype(np.uint64) ^ mix(np.full(1, config.seed, np.uint64)))
    lengths = least + (keys % np.uint64(greatest - least + 1)).astype(np.int64)
    prompts, following = [], []
    for row, valid, wanted in zip(batch.tokens, batch.meta.valid_len.tolist(), lengths.tolist(), strict=True):
        cut = min(wanted, valid - 1)
        prompts.append(row[:cut])
        following.append(row[cut : min(cut + config.answer_tokens, valid)])
    return prompts, following


def row_seeds(seed: int, step: int, first: int, batch: Batch) -> list[int]:
    """A seed of its own for each row of each step.

    Args:
        seed: Of the run.
        step: Of the run.
        first: Place of this rank's first row in the global batch, so that a chunk that comes twice gets two answers.
        batch: This rank's rows.
    """
    ids = batch.meta.chunk_ids.numpy().astype(np.uint64)
    places = np.arange(first, first + len(ids), dtype=np.uint64)
    keys = mix(mix(mix(np.full(1, seed, np.uint64)) ^ np.uint64(step)) ^ mix(places) ^ ids)
    return [int(key) for key in keys >> np.uint64(1)]
