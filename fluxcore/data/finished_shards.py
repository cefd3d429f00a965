"""Shards that a task of a sort has finished: which are there, and whether they are what it wrote."""

from collections.abc import Iterator
from pathlib import Path

from fluxcore import _core
from fluxcore.data.manifest import ShardInfo
from fluxcore.data.shard_series import shard_name
from fluxcore.data.sort_plan import SortPlan
from fluxcore.errors import CorruptShardError


def standing(folder: Path, plan: SortPlan) -> Iterator[tuple[str, int]]:
    """Name and bytes of each shard in `folder` that belongs to the sort and is whole."""
    for number in range(plan.shards):
        path = folder / shard_name(number)
        chunks = plan.chunks_before(number + 1) - plan.chunks_before(number)
        try:
            shard = _core.Sidecar(path)
        except (FileNotFoundError, CorruptShardError):
            continue  # its task writes it
        if (shard.is_sidecar, shard.uuid.hex(), shard.shard_number, shard.chunk_count) == (
            False,
            plan.uuid,
            number,
            chunks,
        ):
            yield path.name, shard.size


def check_finished(folder: Path, plan: SortPlan, shard: ShardInfo) -> None:
    """Check a shard by its root hash, and its columns and checksums by theirs; chunks are checked when they are read.

    Raises:
        FileNotFoundError: it is not there.
        CorruptShardError: it is not what was written.
    """
    path = folder / shard.name
    file = _core.Sidecar(path)
    if (file.uuid.hex(), file.size, file.chunk_count, file.root.hex()) != (
        plan.uuid,
        shard.bytes,
        shard.chunks,
        shard.root,
    ):
        raise CorruptShardError(f"`{path}` is corrupt: it is another file than the task wrote", shard=shard.name)
    file.verify()


def is_finished(folder: Path, plan: SortPlan, shard: ShardInfo) -> bool:
    """Whether a shard is there and what was written."""
    try:
        check_finished(folder, plan, shard)
    except (FileNotFoundError, CorruptShardError):
        return False
    return True
