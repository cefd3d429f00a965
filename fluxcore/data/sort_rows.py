"""Chunks in sorted order, with all their columns, block by block."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fluxcore.data.chunk_checks import Array
from fluxcore.data.manifest_check import STANDARD_COLUMNS
from fluxcore.data.partitions import Partition
from fluxcore.data.parts import Parts
from fluxcore.data.sort_memory import SortMemory

_BATCH_BYTES = 16 << 20

Rows = dict[str, Array]
"""Columns [n], "tokens" [n, T], and where the set has one "mask" [n, ceil(T / 8)]."""


def ranking_rows(parts: Parts, ranking: NDArray[np.uint64] | None, names: Sequence[str], start: int) -> Iterator[Rows]:
    """Rows from `start` on in the order of `ranking`, None for that of their ids; columns are held in memory.

    Raises:
        CorruptShardError: a chunk or a column is not what was written.
    """
    columns = {name: parts.column(name) for name in (*STANDARD_COLUMNS, *names)}
    order = np.arange(len(parts), dtype=np.uint64) if ranking is None else ranking
    rows = max(_BATCH_BYTES // (parts.chunk_tokens * parts.token_dtype.itemsize), 1)
    for first in range(start, len(order), rows):
        ids = order[first : first + rows]
        yield parts.payload(ids) | {name: values[ids] for name, values in columns.items()}


def partition_rows(
    parts: Parts,
    partitions: Sequence[Partition],
    names: Sequence[str],
    memory: SortMemory,
    *,
    start: int,
    stop: int,
) -> Iterator[Rows]:
    """Rows `start` to `stop` in the order of the partitions; the columns of one and a block of chunks are held.

    Columns are read once a partition, and each block reads its chunks in the order in which they lie in the data set.

    Raises:
        CorruptShardError: a chunk, a column or a partition is not what was written.
    """
    base = 0
    for partition in partitions:
        low, high = max(start - base, 0), min(stop - base, partition.chunks)
        base += partition.chunks
        if low < high:
            ranked = partition.ranked()[low:high]
            columns = _ranked_columns(parts, ranked, names)
            for first in range(0, len(ranked), memory.block):
                last = min(first + memory.block, len(ranked))
                payload = _ranked_payload(parts, ranked[first:last], memory.batch)
                for at in range(first, last, memory.batch):
                    own = slice(at, min(at + memory.batch, last))
                    # Copied: whoever keeps some rows of a column must not keep all of it.
                    yield {name: values[at - first : own.stop - first] for name, values in payload.items()} | {
                        name: values[own].copy() for name, values in columns.items()
                    }


def _ranked_columns(parts: Parts, ranked: NDArray[np.uint64], names: Sequence[str]) -> Rows:
    place = np.argsort(ranked)
    ids = ranked[place]
    held: Rows = {}
    for name in (*STANDARD_COLUMNS, *names):
        values = parts.take((name,), ids)[name]
        held[name] = np.empty_like(values)
        held[name][place] = values
    return held


def _ranked_payload(parts: Parts, ranked: NDArray[np.uint64], batch: int) -> Rows:
    place = np.argsort(ranked)
    held: Rows = {}
    for start in range(0, len(ranked), batch):
        own = place[start : start + batch]
        for name, values in parts.payload(ranked[own]).items():
            if name not in held:
                held[name] = np.empty((len(ranked), *values.shape[1:]), values.dtype)
            held[name][own] = values
    return held
