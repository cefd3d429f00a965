"""Write a data set anew, physically sorted by a column."""

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fluxcore.data.chunk_checks import NO_TOKEN
from fluxcore.data.dataset import Dataset
from fluxcore.data.dataset import open as open_data_set
from fluxcore.data.manifest import MANIFEST_NAME, SortKey
from fluxcore.data.manifest import read as read_manifest
from fluxcore.data.manifest_check import STANDARD_COLUMNS
from fluxcore.data.ranking import rank_chunks
from fluxcore.data.writer import ShardWriter

_BATCH_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class SortResult:
    """What `sort` did."""

    path: Path
    chunks: int
    already_sorted: bool
    """The folder held this very sort, and nothing was written."""


def sort(
    src: Dataset | str | PathLike[str],
    dst: str | PathLike[str],
    column: str,
    descending: bool = False,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> SortResult:
    """Write the chunks of `src` to a new data set `dst`, ordered by (`column`, source, document, offset, chunk).

    Keys and columns are held in memory (about 100 bytes a chunk); then every chunk is read once, checked, and appended.
    All columns come along; `original_index` still says where a chunk stood when it was first written, so that
    `Order.sorted("original_index")` has that order back. Nothing stands at `dst` until all chunks and scores do; other
    added columns follow in a second publication. When `dst` is already this sort of `src`, nothing is done.

    Args:
        src: a data set or its folder.
        dst: folder to write; new, or an earlier result.
        column: name of a score.
        descending: highest first; ties stand as they do when ascending.
        progress: called with (chunks done, chunks in all).
    Raises:
        ValueError: no such score, or `dst` is `src`.
        FileExistsError: another data set stands at `dst`.
        CorruptShardError: a chunk of `src` is not what was written.
        OSError: writing failed; `dst` is as it was.
    """
    ds = src if isinstance(src, Dataset) else open_data_set(src)
    target = Path(dst)
    if target.resolve() == ds.path.resolve():
        raise ValueError(f"`dst` must be another folder than `src`, got {target}")
    _check_score(ds, column)
    if _is_sort_of(target, ds, column, descending):
        return SortResult(target, len(ds), already_sorted=not _add_integer_columns(ds, target))
    ranking = rank_chunks(ds, column, descending=descending)
    _write_sorted(
        ds, target, np.arange(len(ds), dtype=np.uint64) if ranking is None else ranking, column, descending, progress
    )
    _add_integer_columns(ds, target)
    return SortResult(target, len(ds), already_sorted=False)


def _write_sorted(
    ds: Dataset,
    target: Path,
    ranking: NDArray[np.uint64],
    column: str,
    descending: bool,
    progress: Callable[[int, int], None] | None,
) -> None:
    scores = {name: info.definition for name, info in ds.manifest.columns.items() if info.dtype == "float32"}
    columns = {name: ds.column(name) for name in (*STANDARD_COLUMNS, *scores)}
    with ShardWriter(
        target,
        chunk_tokens=ds.chunk_tokens,
        dtype=ds.token_dtype.name,
        vocab_size=ds.vocab_size,
        sources=ds.sources,
        tokenizer=None if ds.manifest.tokenizer is None else bytes.fromhex(ds.manifest.tokenizer),
        score_columns=scores,
        sorted_by=(column, descending),
        parent=ds.manifest.hash,
        token_mask=ds.manifest.token_mask,
    ) as writer:
        rows = max(_BATCH_BYTES // (ds.chunk_tokens * ds.token_dtype.itemsize), 1)
        for start in range(0, len(ranking), rows):
            ids = ranking[start : start + rows]
            tokens, _ = ds._core.gather(ids, out=ds.token_dtype.name, targets=False, verify=True)
            batch = {name: values[ids] for name, values in columns.items()}
            following = batch["next_token"].astype(np.int64)
            writer.append_batch(
                tokens,
                sources=batch["source"],
                doc_ids=batch["doc_id"],
                doc_offsets=batch["doc_offset"],
                next_tokens=np.where(following == NO_TOKEN, -1, following),
                valid_lens=batch["valid_len"],
                original_index=batch["original_index"],
                scores={name: batch[name] for name in scores},
                mask=np.array([ds.token_mask(int(i)) for i in ids]) if ds.manifest.token_mask else None,
            )
            if progress is not None:
                progress(start + len(ids), len(ranking))


def _is_sort_of(target: Path, ds: Dataset, column: str, descending: bool) -> bool:
    if not (target / MANIFEST_NAME).exists():
        return False
    manifest = read_manifest(target)
    return manifest.sorted_by == SortKey(column=column, descending=descending) and manifest.parent == ds.manifest.hash


def _add_integer_columns(ds: Dataset, target: Path) -> bool:
    """Add the columns that a writer does not take, where they are missing; whether there were any."""
    copy = open_data_set(target)
    missing = {name: info.definition for name, info in ds.manifest.columns.items() if name not in copy.columns}
    if missing:
        # Both sets know a chunk by its original index.
        ours, theirs = ds.column("original_index"), copy.column("original_index")
        by_index = np.argsort(ours)
        rows = by_index[np.searchsorted(ours[by_index], theirs)]
        copy.add_columns({name: ds.column(name)[rows] for name in missing}, missing)
    return bool(missing)


def _check_score(ds: Dataset, column: str) -> None:
    scores = [name for name, info in ds.manifest.columns.items() if info.dtype == "float32"]
    if column not in scores:
        raise ValueError(
            f"`column` must be a score of the data set ({', '.join(scores) or 'it has none'}), got {column!r}"
            "\n\nScores are added by `fluxcore score` or `Dataset.add_column`."
        )
