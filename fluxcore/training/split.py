"""Which chunks train and which are held out, and how a budget of steps is spent on them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fluxcore.data import Dataset
from fluxcore.training.config import ConfigError

Ids = NDArray[np.int64]
Keys = NDArray[np.uint64]


def mix(x: Keys) -> Keys:
    """A random-looking bijection of 64-bit numbers: the finaliser of splitmix64 (Steele, Lea and Flood, 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def document_keys(ds: Dataset, seed: int) -> Keys:
    """[chunks]; equal for the chunks of a document, random between documents; the storage order plays no part."""
    source, document = (ds.column(name).astype(np.uint64) for name in ("source", "doc_id"))
    return mix(mix(mix(np.full(1, seed, np.uint64)) ^ source) ^ document)


def chunk_keys(ds: Dataset, seed: int) -> Keys:
    """[chunks]; random between chunks; the storage order plays no part."""
    return mix(~document_keys(ds, seed) ^ ds.column("doc_offset").astype(np.uint64))


def split_by_document(ds: Dataset, held_out: float, seed: int) -> tuple[Ids, Ids]:
    """Hold out whole documents, chosen by a seeded hash of source and document id.

    Args:
        ds: Its columns `source` and `doc_id` name each chunk's document.
        held_out: Share of the documents, within (0, 1).
        seed: Another seed holds out other documents.
    Returns:
        Chunk ids to train on, and chunk ids held out; both ascending and together all.
    Raises:
        ConfigError: one of the two would be empty.
    """
    chosen = document_keys(ds, seed) < np.uint64(int(held_out * 2.0**64))
    training, held = np.flatnonzero(~chosen), np.flatnonzero(chosen)
    if not len(training) or not len(held):
        documents = len(np.unique(document_keys(ds, seed)))
        raise ConfigError(
            f"`val_fraction` = {held_out} of {documents} documents leaves {len(training)} chunks to train on"
            f" and {len(held)} to validate on\n\nSet another val_fraction or split_seed, or give a separate val_data."
        )
    return training, held


def sample_chunks(ids: Ids, keys: Keys, count: int | None) -> Ids:
    """The `count` chunks of the smallest keys, in the order of their keys; all of them for None."""
    return ids[np.lexsort((ids, keys[ids]))][:count]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Which chunks a run sees, how often; each order then arranges exactly these."""

    chunk_ids: Ids
    """Ascending; a multiple of the chunks in a step."""
    epochs: int
    steps: int
    """Optimizer steps, the same number in each epoch."""


def plan_run(
    ids: Ids, keys: Keys, *, chunks_per_step: int, steps: int | None = None, epochs: int | None = None
) -> Plan:
    """Spend a budget on chunks so that runs in different orders see the same ones equally often.

    A step never mixes epochs, and no step is short: when the chunks do not divide evenly, or the budget ends within an
    epoch, the chunks of the largest keys are left out of the whole run, whatever the order.

    Args:
        ids: Chunks that may train.
        keys: [all chunks] The smallest are used first.
        chunks_per_step: In an optimizer step, over all ranks and micro-batches.
        steps: Budget; rounded down to a multiple of the epochs that it takes.
        epochs: Budget, when `steps` is None; 1 when both are.
    Raises:
        ConfigError: fewer chunks than a step takes.
    """
    steps_per_epoch = len(ids) // chunks_per_step
    if steps_per_epoch == 0:
        raise ConfigError(
            f"`batch_size` x `accumulation` takes {chunks_per_step} chunks a step, and there are {len(ids)} to train on"
            "\n\nLower one of them, or use more data."
        )
    if steps is not None:
        epochs = -(-steps // steps_per_epoch)
        steps_per_epoch = steps // epochs
    epochs = epochs or 1
    chosen = sample_chunks(ids, keys, steps_per_epoch * chunks_per_step)
    return Plan(chunk_ids=np.sort(chosen), epochs=epochs, steps=steps_per_epoch * epochs)
