"""Write a data set anew, physically sorted by a column, or keep its chunks and write the order alone."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from fluxcore import _core
from fluxcore.data.companions import take_along
from fluxcore.data.dataset import Dataset
from fluxcore.data.dataset import open as open_data_set
from fluxcore.data.lock import WriterLock
from fluxcore.data.manifest import SortKey
from fluxcore.data.manifest_check import STANDARD_COLUMNS
from fluxcore.data.partitions import WORK_FOLDER, keys_bytes, open_partitions, ranked_ids
from fluxcore.data.parts import Parts, Source, open_parts
from fluxcore.data.ranking import check_column, check_score, index_name, rank_chunks
from fluxcore.data.sort_identity import add_missing_columns, copy_bytes, is_sort_of, sorted_manifest
from fluxcore.data.sort_memory import divide_memory
from fluxcore.data.sort_rows import partition_rows, ranking_rows
from fluxcore.data.sorted_copy import SortedCopy, check_target


@dataclass(frozen=True, slots=True)
class SortResult:
    """What `sort` did."""

    path: Path
    chunks: int
    already_sorted: bool
    """The folder held this very sort, and nothing was written."""


def sort(
    src: Source | Sequence[Source],
    dst: str | PathLike[str],
    column: str,
    descending: bool = False,
    *,
    memory_bytes: int | None = None,
    shard_bytes: int = 1 << 30,
    progress: Callable[[int, int], None] | None = None,
) -> SortResult:
    """Write the chunks of `src` to a new data set `dst`, ordered by (`column`, source, document, offset, chunk).

    All columns come along, and so do the tokenizer and the table of documents that lie beside the shards.
    `original_index` still says where a chunk stood when it was first written, so that `Order.sorted("original_index")`
    has that order back. Each chunk is read once and checked. The same sort of the same data set gives the same bytes,
    whatever the memory.

    Several data sets become one: sources are united by name, and document ids and original indices of each go on behind
    the highest of those before it, so that both stay unique.

    Nothing can be read at `dst` until all of it is there. A run that was killed, or that found the disk full, leaves
    its finished shards, and the same call goes on from them. When `dst` is already this sort of `src`, nothing is done.
    The room that all shards need is looked for first.

    Args:
        src: a data set or its folder, or several, alike in chunk length, token type, vocabulary, tokenizer and columns.
        dst: folder to write; new, or what an earlier call left or finished.
        column: name of a score.
        descending: highest first; ties stand as they do when ascending.
        memory_bytes: what may be allocated beyond what the process holds. The chunks are then sorted in partitions, for
            which `dst` takes 30 bytes a chunk more meanwhile, and are read in sweeps through `src` rather than at
            random. None: keys and columns of all chunks are held, about 100 bytes each, and no payload.
        shard_bytes: size at which a new shard is begun.
        progress: called with (chunks done, chunks in all); those done by an earlier run count.
    Raises:
        ValueError: no such score, `dst` is a `src`, data sets that are not alike, or `memory_bytes` is too little; the
            message says what would do.
        FileExistsError: another data set stands at `dst`.
        DatasetLockedError: another process is writing to `dst`.
        CorruptShardError: a chunk of `src` is not what was written.
        OSError: writing failed, or there is too little room for it.
    """
    parts = open_parts(src)
    target = Path(dst)
    check_target(parts, target)
    check_score(parts, column)
    key = SortKey(column=column, descending=descending)
    if is_sort_of(target, parts, key):
        if (target / WORK_FOLDER).exists():  # of a run that was killed right behind the publication
            shutil.rmtree(target / WORK_FOLDER)
        return SortResult(target, len(parts), already_sorted=not _complete(parts, target))
    report = progress or (lambda _done, _total: None)
    manifest = sorted_manifest(parts, key, shard_bytes)
    names = list(manifest.columns)
    work_bytes = 0 if memory_bytes is None else keys_bytes(len(parts))
    with SortedCopy(target, manifest, shard_bytes, len(parts), work_bytes) as copy:
        report(copy.kept, len(parts))
        if memory_bytes is None:
            rows = ranking_rows(parts, rank_chunks(parts, column, descending=descending), names, copy.kept)
        else:
            memory = divide_memory(parts, (*STANDARD_COLUMNS, *names), memory_bytes, shard_chunks=copy.shard_chunks)
            partitions = open_partitions(copy.work_folder, parts, key, memory, identity=manifest.uuid)
            rows = partition_rows(parts, partitions, names, memory, start=copy.kept, stop=len(parts))
        copy.write(rows, lambda done: report(done, len(parts)))
        copy.publish()
    _complete(parts, target)
    return SortResult(target, len(parts), already_sorted=False)


def _complete(parts: Parts, target: Path) -> bool:
    """Add what has no place in the shards; whether a column was missing."""
    take_along(parts, target)
    return add_missing_columns(parts, target)


def sort_disk_bytes(
    src: Source | Sequence[Source], column: str, *, memory_bytes: int | None = None, shard_bytes: int = 1 << 30
) -> int:
    """What `sort` takes on the disk at most, its temporary files included.

    Raises:
        ValueError: no such score, or `shard_bytes` is out of range.
    """
    parts = open_parts(src)
    check_score(parts, column)
    manifest = sorted_manifest(parts, SortKey(column=column, descending=False), shard_bytes)
    return copy_bytes(manifest, shard_bytes, len(parts)) + (0 if memory_bytes is None else keys_bytes(len(parts)))


def sort_index(
    src: Dataset | str | PathLike[str], column: str, descending: bool = False, *, memory_bytes: int | None = None
) -> SortResult:
    """Write the order by (`column`, source, document, offset, chunk) beside a data set; its chunks stay where they are.

    It is an added column, `order:COLUMN:ascending` or `:descending`, which holds at place i the id of the i-th chunk.
    Every order by `column` then takes it from there in place of sorting.

    Args:
        src: a data set or its folder; one that is open already knows the column after it is opened anew.
        column: name of a score or another column.
        descending: highest first; ties stand as they do when ascending.
        memory_bytes: what may be allocated beyond what the process holds, and 8 bytes a chunk of a shard; None: 60
            bytes a chunk.
    Raises:
        ValueError: no such column, its name is too long for that of an index, or `memory_bytes` is too little.
        DatasetLockedError: another process is writing to the data set.
        CorruptShardError: a column is not what was written.
        OSError: the folder cannot be written to, or the disk is full; the data set is as it was.
    """
    ds = open_data_set(src.path if isinstance(src, Dataset) else src)
    check_column(ds, column)
    name = index_name(column, descending=descending)
    if fault := _core.fault_of_column_name(name):
        raise ValueError(f"{name!r}, the index by `column`, cannot name a column: {fault}")
    if name in ds.columns:
        return SortResult(ds.path, len(ds), already_sorted=True)
    dtype = np.dtype(np.uint32 if len(ds) < 1 << 32 else np.uint64)
    definition = f"Chunk ids by {column}, {'descending' if descending else 'ascending'}; then source, document, place."
    if memory_bytes is None:
        ranking = rank_chunks(ds, column, descending=descending)
        ids = np.arange(len(ds)) if ranking is None else ranking
        ds.add_column(name, ids.astype(dtype), definition=definition)
        return SortResult(ds.path, len(ds), already_sorted=False)
    key = SortKey(column=column, descending=descending)
    parts = Parts([ds])
    memory = divide_memory(parts, (), memory_bytes, shard_chunks=0)
    work = ds.path / WORK_FOLDER
    with WriterLock(ds.path):
        partitions = open_partitions(work, parts, key, memory, identity=f"{ds.manifest.hash} {name}")
        ids_file = work / "ids"
        with ids_file.open("wb") as file:
            for ranked in ranked_ids(partitions):
                file.write(ranked.astype(dtype).tobytes())
    ids = np.memmap(ids_file, dtype, "r") if len(ds) else np.empty(0, dtype)
    ds.add_column(name, ids, definition=definition)
    del ids  # an open file cannot be removed everywhere
    shutil.rmtree(work)
    return SortResult(ds.path, len(ds), already_sorted=False)
