"""How a sort divides the memory that it may take."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fluxcore.data.manifest_check import STANDARD_COLUMNS
from fluxcore.data.parts import Parts
from fluxcore.data.sort_keys import RECORD

MAX_PARTITIONS = 256
"""Files of keys that are open at once; the keys that are sampled to part them grow with its square."""
_MAX_BATCH_BYTES = 16 << 20
_RANK_BYTES = RECORD.itemsize + 64  # a chunk whose key is ranked: its record, keys, two arrays of pairs, the ranking
_PLACE_BYTES = 32  # a chunk that is held: its id, in both orders, its place, and a value on the way
_RUN_BYTES = 2 * RECORD.itemsize + 64  # a chunk whose key is read: its record, sorted too, and the columns of it


@dataclass(frozen=True, slots=True)
class SortMemory:
    """Numbers of chunks."""

    partition: int
    """Ranked at once, by their keys; their columns are held together."""
    block: int
    """Whose payload is held at once."""
    run: int
    """Keys read at once."""
    batch: int
    """Read from the source at once."""
    samples: int
    """Keys held at once to choose the bounds of the partitions."""

    def stride(self, chunks: int) -> int:
        """Of the sorted keys of a run, each s-th is kept; with this s partitions can be as large as they may."""
        return max(self.partition // (4 * max(self.runs(chunks), 1)), 1)

    def runs(self, chunks: int) -> int:
        """In so many pieces the keys are read."""
        return -(-chunks // self.run)


def row_bytes(parts: Parts, columns: Iterable[str]) -> tuple[int, int]:
    """Bytes of a chunk: of its tokens and mask, and of its columns."""
    types = STANDARD_COLUMNS | {name: info.dtype for name, info in parts.manifest.columns.items()}
    mask = (parts.chunk_tokens + 7) // 8 if parts.manifest.token_mask else 0
    payload = parts.chunk_tokens * parts.token_dtype.itemsize + mask
    return payload, sum(np.dtype(types[name]).itemsize for name in columns)


def divide_memory(parts: Parts, columns: Iterable[str], memory_bytes: int, *, shard_chunks: int) -> SortMemory:
    """Divide `memory_bytes` among a shard's columns, which are held until it is written, and what is sorted at once.

    Args:
        parts: what is sorted.
        columns: those that come along.
        memory_bytes: beyond what the process holds already; pages of the mapped files, which the system takes back
            when it needs them, do not count.
        shard_chunks: chunks of a shard that is written; 0 where none is.
    Raises:
        ValueError: it is too little; the message says how much would do.
    """
    payload, in_columns = row_bytes(parts, columns)
    mask = (parts.chunk_tokens + 7) // 8 if parts.manifest.token_mask else 0
    # A shard's columns grow by doubling, and those beyond the standard ones are held once more, for their quantiles.
    shard = min(shard_chunks, len(parts)) * (5 * in_columns + 2 * mask + 16)
    memory = _divide(len(parts), payload, in_columns, memory_bytes - shard)
    if memory is None:
        sizes = (1 << power for power in range(10, 63))
        enough = next(size for size in sizes if _divide(len(parts), payload, in_columns, size))
        raise ValueError(
            f"`memory_bytes` is too little to sort {len(parts)} chunks of {payload + in_columns} bytes,"
            f" got {memory_bytes}; {shard + enough} would do"
            + ("\n\nWith a smaller `shard_bytes` less would." if shard > enough else "")
        )
    return memory


def _divide(chunks: int, payload: int, in_columns: int, memory_bytes: int) -> SortMemory | None:
    """One part in eight for batches, a third for a partition's keys, then for its columns and a block of chunks, or a
    quarter for a run of keys, each in its turn; the rest stays free, for what the allocator keeps back.

    None where it is too little.
    """
    third, held = memory_bytes // 3, in_columns + _PLACE_BYTES
    partition = min(third // _RANK_BYTES, third // 2 // held)
    memory = SortMemory(
        partition=partition,
        block=(third - held * min(partition, chunks)) // (payload + _PLACE_BYTES),
        run=memory_bytes // 4 // _RUN_BYTES,
        batch=max(1, min(memory_bytes // 8, _MAX_BATCH_BYTES) // (2 * payload)),
        samples=memory_bytes // 4 // (3 * RECORD.itemsize),
    )
    if min(memory.partition, memory.block, memory.run) < 1 or chunks > MAX_PARTITIONS // 2 * memory.partition:
        return None
    return memory if chunks // memory.stride(chunks) <= memory.samples else None
