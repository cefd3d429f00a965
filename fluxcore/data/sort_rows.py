"""The chunks of a data set in sorted order, with all their columns, block by block."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fluxcore.data.chunk_checks import Array
from fluxcore.data.column_parts import take_columns
from fluxcore.data.dataset import Dataset
from fluxcore.data.manifest_check import STANDARD_COLUMNS
from fluxcore.data.partitions import Partition
from fluxcore.data.sort_keys import rank_records

_BATCH_BYTES = 16 << 20

Rows = dict[str, Array]
"""Columns [n], "tokens" [n, T], and where the set has one "mask" [n, ceil(T / 8)]."""


def ranking_rows(ds: Dataset, ranking: NDArray[np.uint64] | None, names: Sequence[str], skip: int) -> Iterator[Rows]:
    """Rows in the order of `ranking`, None for that of their ids, without the first `skip`; columns are held in memory.

    Raises:
        CorruptShardError: a chunk or a column is not what was written.
    """
    columns = {name: ds.column(name) for name in (*STANDARD_COLUMNS, *names)}
    order = np.arange(len(ds), dtype=np.uint64) if ranking is None else ranking
    rows = max(_BATCH_BYTES // (ds.chunk_tokens * ds.token_dtype.itemsize), 1)
    for start in range(skip, len(order), rows):
        ids = order[start : start + rows]
        yield _payload(ds, ids) | {name: values[ids] for name, values in columns.items()}


def partition_rows(
    ds: Dataset, partitions: Sequence[Partition], names: Sequence[str], skip: int, *, batch: int
) -> Iterator[Rows]:
    """Rows in the order of the partitions, without the first `skip`; one partition is held in memory at a time.

    Each partition reads its chunks in the order in which they lie in the data set.

    Raises:
        CorruptShardError: a chunk, a column or a partition is not what was written.
    """
    for partition in partitions:
        here = min(skip, partition.chunks)
        skip -= here
        if here < partition.chunks:
            held = _read_partition(ds, partition, names, here, batch)
            for start in range(0, partition.chunks - here, batch):
                yield {name: values[start : start + batch] for name, values in held.items()}


def _read_partition(ds: Dataset, partition: Partition, names: Sequence[str], skip: int, batch: int) -> Rows:
    records = partition.read()
    ids = records["chunk"].astype(np.uint64)
    place = np.empty(len(ids), np.int64)
    place[rank_records(records)] = np.arange(len(ids))
    del records
    wanted = place >= skip
    ids, place = ids[wanted], place[wanted] - skip
    held: Rows = {}
    for start in range(0, len(ids), batch):
        part = slice(start, start + batch)
        for name, values in _payload(ds, ids[part]).items():
            if name not in held:
                held[name] = np.empty((len(ids), *values.shape[1:]), values.dtype)
            held[name][place[part]] = values
    for name in (*STANDARD_COLUMNS, *names):
        values = take_columns(ds, (name,), ids)[name]
        held[name] = np.empty_like(values)
        held[name][place] = values
    return held


def _payload(ds: Dataset, ids: NDArray[np.uint64]) -> Rows:
    tokens, _ = ds._core.gather(ids, out=ds.token_dtype.name, targets=False, verify=True)
    if not ds.manifest.token_mask:
        return {"tokens": tokens}
    bits = [ds._core.mask(int(chunk), False) for chunk in ids]  # checked together with the tokens
    return {"tokens": tokens, "mask": np.stack([row for row in bits if row is not None])}
