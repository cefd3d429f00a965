"""A data set, what of it trains and what validates, checked before a model is built."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accelerate import Accelerator

import fluxcore.data
from fluxcore.data import Dataset, Loader, Order
from fluxcore.training.config import ConfigError
from fluxcore.training.embedded_data import embedded_data
from fluxcore.training.split import Ids, Plan, chunk_keys, plan_run, sample_chunks, split_by_document
from fluxcore.training.trainer_config import TrainerConfig
from fluxcore.training.validation import Validation

EMBEDDED = Path("embedded")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingData:
    """What a trainer reads."""

    ds: Dataset
    plan: Plan
    """Chunks of `ds` that train, and how often."""
    validation: Validation
    chunks_per_step: int
    """In an optimizer step, over all ranks and micro-batches."""
    seq: int
    """Tokens in a sequence."""
    vocab_size: int
    tokenizer: Path
    """`tokenizer.json` for samples; need not exist."""

    def loader(self, accelerator: Accelerator, order: Order, seed: int, *, columns: Sequence[str] = ()) -> Loader:
        """The chunks of the plan in this order, a step's over all ranks at a time.

        Args:
            accelerator: Device, and which of how many ranks reads.
            order: Of each epoch.
            seed: Of what is random in the order.
            columns: Scores that come with each batch.
        """
        return Loader(
            self.ds,
            order,
            subset=self.plan.chunk_ids,
            epochs=self.plan.epochs,
            global_batch_size=self.chunks_per_step,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            seed=seed,
            out="int64",
            pin=accelerator.device.type == "cuda",
            columns=columns,
        )

    def shuffled_loader(self, accelerator: Accelerator, seed: int) -> Loader:
        """As `loader`, in another order each epoch."""
        return self.loader(accelerator, Order.shuffled(), seed)


def open_training_data(
    config: TrainerConfig, accelerator: Accelerator, path: Path, *, val_path: Path | None, val_fraction: float
) -> TrainingData:
    """Open the data of a run and spend its budget of steps, tokens or epochs.

    Args:
        config: Batch, budget, sequence length, seed and tokenizer.
        accelerator: Each of its ranks takes an equal share of a batch.
        path: Folder of shards; or `embedded`, which prepares a small one under `outputs/` when it is not there.
        val_path: Folder of shards to validate on. None: whole documents of `path` are held out.
        val_fraction: Share of the documents held out, when `val_path` is None.
    Raises:
        ConfigError: keys that do not fit the data, or each other.
        OSError: a folder that cannot be read.
    """
    world_size = accelerator.num_processes
    if path == EMBEDDED:
        with accelerator.main_process_first():
            path = embedded_data(Path("outputs") / "embedded-data")
    ds = fluxcore.data.open(path)
    if len(ds) == 0:
        raise ConfigError(f"`data` must have a chunk at least, and {path} has none\n\nTokenise text that is not empty.")
    seq = config.seq or ds.chunk_tokens
    if ds.chunk_tokens % seq:
        raise ConfigError(f"`seq` must divide the chunk length, {ds.chunk_tokens} tokens, got {seq}")
    if config.batch_size % world_size:
        raise ConfigError(f"`batch_size` must be a multiple of the {world_size} ranks, got {config.batch_size}")
    if val_path is None:
        val_ds = ds
        training, held_out = split_by_document(ds, val_fraction, config.split_seed)
    else:
        val_ds = fluxcore.data.open(val_path)
        check_alike(ds, val_ds)
        training, held_out = all_chunks(ds), all_chunks(val_ds)
    chunks_per_step = config.batch_size * config.accumulation
    steps = config.steps
    if config.tokens is not None:
        steps = config.tokens // (chunks_per_step * ds.chunk_tokens)
        if steps == 0:
            raise ConfigError(
                f"`tokens` must be at least a step's {chunks_per_step * ds.chunk_tokens}, got {config.tokens}"
            )
    keys = chunk_keys(ds, config.split_seed)
    val_keys = keys if val_ds is ds else chunk_keys(val_ds, config.split_seed)
    return TrainingData(
        ds=ds,
        plan=plan_run(training, keys, chunks_per_step=chunks_per_step, steps=steps, epochs=config.epochs),
        validation=Validation(
            val_ds,
            sample_chunks(held_out, val_keys, config.eval_chunks),
            batch_size=config.batch_size // world_size,
            seq=seq,
        ),
        chunks_per_step=chunks_per_step,
        seq=seq,
        vocab_size=max(ds.vocab_size, val_ds.vocab_size),
        tokenizer=config.tokenizer or path / "tokenizer.json",
    )


def all_chunks(ds: Dataset) -> Ids:
    """Every chunk id."""
    if len(ds) == 0:
        raise ConfigError("a data set must have chunks, and one of `data` and `val_data` is empty")
    return np.arange(len(ds))


def check_alike(ds: Dataset, val_ds: Dataset) -> None:
    """Refuse validation data of another chunk length or tokenizer: its loss would mean something else."""
    if val_ds.chunk_tokens != ds.chunk_tokens:
        raise ConfigError(
            f"`val_data` must have chunks of {ds.chunk_tokens} tokens as `data` has, got {val_ds.chunk_tokens}"
        )
    if val_ds.vocab_size != ds.vocab_size:
        raise ConfigError(
            f"`val_data` must have a vocabulary of {ds.vocab_size} tokens as `data` has, got {val_ds.vocab_size}"
        )
