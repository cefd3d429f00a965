"""Run a scorer over a data set: resumable, and published only when whole."""

import hashlib
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fluxcore.data import Dataset
from fluxcore.data.progress import Progress, ProgressCallback
from fluxcore.scoring.chunk_scores import UNSCORED
from fluxcore.scoring.journal import Journal
from fluxcore.scoring.scorer import ChunkReader, Scorer

_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class ScoreReport:
    """What a run of `score` did."""

    chunks: int
    """Chunks of the data set."""
    resumed_chunks: int
    """Of them, scored by an earlier run."""
    unscored_chunks: int
    """Of them, without anything to score: their scores are `UNSCORED`."""
    tokens: int
    """Tokens scored by this run."""
    columns: tuple[str, ...]
    """Names of the columns, prefix included."""


def score(
    ds: Dataset,
    scorer: Scorer,
    *,
    prefix: str = "lm",
    batch_size: int = 32,
    progress: ProgressCallback | None = None,
    journal_seconds: float = 5.0,
) -> ScoreReport:
    """Score every chunk and add the scores to the data set, as float32 columns `PREFIX.NAME`.

    What is done is kept in a journal in the data set's folder: a killed run, started again with an equal scorer, goes
    on where it was. The columns appear when all chunks are scored. With columns of these names and of this very
    scorer already there, nothing is done.

    Args:
        ds: data set; the new columns are visible through it.
        scorer: language model, n-gram model, compressor, or another.
        prefix: tells scorers apart: letters, digits and `_.-`.
        batch_size: chunks at once.
        progress: told after each batch, in chunks.
        journal_seconds: at most so much work is lost when the process is killed.
    Raises:
        ValueError: the scorer does not fit the data set, gives a number that is not finite, or other scores have these
            names.
        DatasetLockedError: another process is scoring, or writing.
    """
    if not _PREFIX.fullmatch(prefix):
        raise ValueError(f"`prefix` must be letters, digits and _.-, at most 64, got {prefix!r}")
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be >= 1, got {batch_size}")
    if len(ds) == 0:
        raise ValueError(f"the data set `{ds.path}` has no chunk to score")
    scorer.check(ds)
    definitions = {
        f"{prefix}.{name}": f"{meaning}; {scorer.name}, fingerprint {scorer.fingerprint}"
        for name, meaning in scorer.columns.items()
    }
    if not _missing(ds, definitions):
        unscored = _count_unscored(np.stack([ds.column(name) for name in definitions]))
        return ScoreReport(len(ds), len(ds), unscored, 0, tuple(definitions))
    header = {"version": 1, "data": _identity(ds), "scorer": scorer.fingerprint, "columns": list(definitions)}
    key = hashlib.blake2b(json.dumps(header).encode(), digest_size=8).hexdigest()
    with Journal(Path(ds.path) / f".score-{key}.journal", header, len(definitions), len(ds)) as journal:
        resumed = journal.done
        tokens = _fill(journal, ds, scorer, batch_size, progress, journal_seconds)
        missing = _missing(ds, definitions)
        values = dict(zip(definitions, journal.scores, strict=True))
        ds.add_columns({name: values[name] for name in missing}, {name: definitions[name] for name in missing})
        unscored = _count_unscored(journal.scores)
        journal.remove()
    return ScoreReport(len(ds), resumed, unscored, tokens, tuple(definitions))


def _fill(
    journal: Journal,
    ds: Dataset,
    scorer: Scorer,
    batch_size: int,
    progress: ProgressCallback | None,
    journal_seconds: float,
) -> int:
    """Score what the journal lacks; the number of tokens."""
    read, tokens = ChunkReader(ds), 0
    kept: list[NDArray[np.float32]] = []
    written = time.monotonic()
    for start in range(journal.done, len(ds), batch_size):
        ids = np.arange(start, min(start + batch_size, len(ds)))
        batch = read(ids)
        scores = scorer.score_batch(batch)
        kept.append(np.stack([scores[name] for name in scorer.columns]).astype(np.float32))
        _check_finite(kept[-1], list(scorer.columns), ids, scorer)
        tokens += int(batch.valid_lens.sum())
        if ids[-1] == len(ds) - 1 or time.monotonic() - written >= journal_seconds:
            journal.append(np.concatenate(kept, axis=1))
            kept, written = [], time.monotonic()
        if progress is not None:
            progress(Progress(int(ids[-1]) + 1, len(ds), tokens))
    return tokens


def _missing(ds: Dataset, definitions: dict[str, str]) -> list[str]:
    """Columns that are not there; those that are must have the same definition."""
    for name, definition in definitions.items():
        info = ds.manifest.columns.get(name)
        if info is not None and info.definition != definition:
            raise ValueError(
                f"`{ds.path}` has a column {name!r} of another scorer: {info.definition}\n\nChoose another `prefix`."
            )
    return [name for name in definitions if name not in ds.columns]


def _identity(ds: Dataset) -> list[str]:
    """What is equal as long as the tokens are: columns may come."""
    return [str(ds.uuid), *(shard.root for shard in ds.manifest.shards)]


def _check_finite(scores: NDArray[np.float32], names: list[str], ids: NDArray[np.int64], scorer: Scorer) -> None:
    bad = np.argwhere(~np.isfinite(scores))
    if len(bad):
        column, i = bad[0]
        raise ValueError(
            f"the scorer {scorer.name} gave {scores[column, i]} as {names[column]} of chunk {ids[i]}"
            "\n\nIts model gives logits that are not finite: its weights may be broken, or overflow in `dtype`."
        )


def _count_unscored(scores: NDArray[np.float32]) -> int:
    return int((scores == UNSCORED).all(axis=0).sum())
