"""Which chunks a run on K components sees, and the fixed windows that it is evaluated on."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray

import fluxcore.data
from fluxcore.data import Dataset
from fluxcore.data.tokenise import tokenise
from fluxcore.data.tokenizer import Tokenizer
from fluxcore.training.config import ConfigError
from fluxcore.training.ergodic_config import SPECIAL_TOKENS, DatasetConfig, ErgodicConfig, LabelsName
from fluxcore.training.split import Ids, Plan, chunk_keys, document_keys, mix, sample_chunks, split_by_document
from fluxcore.training.text_data import made_once
from fluxcore.training.training_data import TrainingData
from fluxcore.training.validation import Validation


@dataclass(frozen=True, slots=True)
class ErgodicData:
    """What a run reads."""

    data: TrainingData
    subset: list[str]
    """The components that train, the one to compare first."""
    windows: dict[str, Validation]
    """Component of the subset -> its evaluation windows."""


def open_components(config: ErgodicConfig, accelerator: Accelerator) -> ErgodicData:
    """Open the data, choose the components and their chunks, and check all that a run would meet later.

    Raises:
        ConfigError: K above the number of components, an unknown component, or one with fewer tokens than its share.
        OSError: data that cannot be read.
    """
    with accelerator.main_process_first():
        path = prepare(config.dataset)
    ds = fluxcore.data.open(path)
    if ds.chunk_tokens != config.dataset.chunk_tokens:
        raise ConfigError(f"`dataset.chunk_tokens` must be {ds.chunk_tokens}, as {path} has, got another")
    whole = ds.column("valid_len") == ds.chunk_tokens
    training, held_out = (
        ids[whole[ids]] for ids in split_by_document(ds, config.dataset.val_fraction, config.split_seed)
    )
    labels = component_of_chunks(ds, config, [training, held_out])
    names = largest(ds.sources, labels, config.dataset.num_top_categories)
    config.check_count(len(names))
    subset = chosen(config, names)
    keys = chunk_keys(ds, config.split_seed)
    chunks_per_step = config.batch_size * config.accumulation
    shares = split_shares(config.steps_a_pass() * chunks_per_step, len(subset))
    ids = []
    for name, share in zip(subset, shares, strict=True):
        mine = training[labels[training] == ds.sources.index(name)]
        if len(mine) < share:
            raise ConfigError(
                f"component {name!r} has {len(mine) * ds.chunk_tokens} tokens to train on, fewer than its share of"
                f" {share * ds.chunk_tokens}\n\nLower budget_tokens, raise passes, or leave the component out."
            )
        # The first by their keys, so that a smaller share is part of a larger one.
        ids.append(sample_chunks(mine, keys, share))
    windows = {name: windows_of(config, ds, held_out, labels, keys, name, accelerator) for name in subset}
    plan = Plan(chunk_ids=np.sort(np.concatenate(ids)), epochs=config.passes, steps=config.run_steps())
    data = TrainingData(
        ds=ds,
        plan=plan,
        validation=windows[subset[0]],
        chunks_per_step=chunks_per_step,
        seq=ds.chunk_tokens,
        vocab_size=ds.vocab_size,
        tokenizer=config.tokenizer or path / "tokenizer.json",
    )
    return ErgodicData(data, subset, windows)


def windows_of(
    config: ErgodicConfig, ds: Dataset, held_out: Ids, labels: Ids, keys: NDArray[np.uint64], name: str,
    accelerator: Accelerator,
) -> Validation:  # fmt: skip
    """The evaluation windows of a component, which depend on neither K nor the seed."""
    mine = held_out[labels[held_out] == ds.sources.index(name)]
    if not len(mine):
        raise ConfigError(
            f"component {name!r} has no chunk held out for evaluation\n\nHold out more (dataset.val_fraction), cut long"
            " texts into parts (dataset.part_bytes), or set another split_seed."
        )
    chunks = sample_chunks(mine, keys, config.dataset.eval_windows)
    return Validation(ds, chunks, batch_size=config.batch_size // accelerator.num_processes, seq=ds.chunk_tokens)


def split_shares(chunks: int, parts: int) -> list[int]:
    """Equal shares, up to one chunk; together all."""
    return [chunks // parts + (i < chunks % parts) for i in range(parts)]


def component_of_chunks(ds: Dataset, config: ErgodicConfig, halves: list[Ids]) -> Ids:
    """[chunks] number of the component; shuffled among the documents of each half for labels=shuffled."""
    labels = ds.column("source").astype(np.int64)
    if config.labels is LabelsName.own:
        return labels
    keys = document_keys(ds, config.split_seed)
    shuffled = labels.copy()
    for ids in halves:
        documents, first, place = np.unique(keys[ids], return_index=True, return_inverse=True)
        order = np.argsort(mix(documents), kind="stable")
        shuffled[ids] = labels[ids][first][order][place]
    return shuffled


def largest(sources: list[str], labels: Ids, count: int | None) -> list[str]:
    """The components with most chunks, in the order of the sources; all for None."""
    sizes = np.bincount(labels, minlength=len(sources))
    kept = sorted(np.argsort(-sizes, kind="stable")[:count].tolist())
    return [sources[number] for number in kept]


def chosen(config: ErgodicConfig, names: list[str]) -> list[str]:
    """The subset that the keys describe."""
    unknown = [name for name in config.subset if name not in names]
    if unknown or len(set(config.subset)) < len(config.subset):
        raise ConfigError(f"`subset` must be different ones of {', '.join(names)}, got {', '.join(config.subset)}")
    if config.subset:
        return list(config.subset)
    # One order for all runs: by a hash, so that it is none that a person chose.
    order = sorted(names, key=lambda name: hashlib.blake2b(f"{config.split_seed}/{name}".encode()).digest())
    return (order[config.chain :] + order[: config.chain])[: config.k]


def prepare(config: DatasetConfig) -> Path:
    """The folder of shards, made when it is first asked for; as `TextConfig.prepare`."""
    if config.shards is not None:
        return config.shards
    if config.hdf5 is not None:
        return made_once(config.folder(config.chunk_tokens), lambda folder: from_hdf5(config, folder))

    def write(folder: Path) -> None:
        corpus = config.corpus()
        if config.tokenizer is None:
            tokenizer = Tokenizer.train(corpus, vocab_size=config.vocab_size, special_tokens=SPECIAL_TOKENS)
        else:
            tokenizer = Tokenizer.load(config.tokenizer)
        tokenise(corpus, folder, tokenizer, chunk_tokens=config.chunk_tokens, min_chunk_tokens=config.chunk_tokens)

    return made_once(config.folder(config.chunk_tokens), write)


def from_hdf5(config: DatasetConfig, folder: Path) -> None:
    """Chunks of a file in the layout of `token_chunks`."""
    assert config.hdf5 is not None
    known = fluxcore.data.interchange.hdf5.read_facts(config.hdf5) is not None
    vocab_size = None if known else config.vocab_size
    fluxcore.data.convert(config.hdf5, folder, format="hdf5", vocab_size=vocab_size)
