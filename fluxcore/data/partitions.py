"""Keys of a data set too large to sort in memory, divided into files, each of one range of the sorted order.

Keys are read run by run. Of each sorted run every s-th key is kept; once all that were kept are sorted, the bounds
stand at equal distances among them. A range that holds w kept keys has at most (w + runs) * s keys, whatever the
values and however many are alike: hence ranking a partition never takes more memory than it may. Then the keys are
read once more and appended to the files of their ranges, a few bytes a chunk; the payload is not touched.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluxcore import _core
from fluxcore.data.chunk_checks import Array
from fluxcore.data.manifest import SortKey
from fluxcore.data.parts import Parts
from fluxcore.data.sort_keys import RECORD, Records, as_bytes, rank_records, read_records
from fluxcore.data.sort_memory import SortMemory
from fluxcore.durable import sync
from fluxcore.errors import CorruptShardError

WORK_FOLDER = ".sort"
_PLAN_FILE = "plan.json"


@dataclass(frozen=True, slots=True)
class Partition:
    """A file of keys, in the order of their chunk ids."""

    path: Path
    chunks: int
    crc: int

    def read(self) -> Records:
        """The keys.

        Raises:
            CorruptShardError: the file is not what was written.
        """
        data = self.path.read_bytes()
        if len(data) != self.chunks * RECORD.itemsize or _core.crc32c(data) != self.crc:
            raise CorruptShardError(
                f"`{self.path}` is corrupt: it is not what the sort wrote\n\nRemove `{self.path.parent}`; the sort"
                " makes it anew and keeps the shards that it finished.",
                shard=self.path.name,
            )
        return np.frombuffer(data, RECORD)

    def ranked(self) -> NDArray[np.uint64]:
        """Its chunk ids in sorted order."""
        records = self.read()
        return records["chunk"][rank_records(records)].astype(np.uint64)


def open_partitions(
    folder: Path, parts: Parts, key: SortKey, memory: SortMemory, *, identity: str
) -> tuple[Partition, ...]:
    """The partitions of `parts` in `folder`, those of a run that was cut off if they are there.

    Args:
        folder: for nothing but them; what else stands in it is removed.
        parts: what is sorted.
        key: the order.
        memory: chunks of a partition and of a run.
        identity: names data sets and order; partitions of another one are made anew.
    Raises:
        CorruptShardError: a column is not what was written.
        OSError: the folder cannot be written to.
    """
    found = find_partitions(folder, memory, identity=identity)
    if found is not None:
        return found
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    bounds = _find_bounds(parts, key, memory)
    files = _distribute(folder, parts, key, memory, bounds)
    sync(folder)
    _core.publish_file(folder / _PLAN_FILE, json.dumps(_facts(memory, identity) | {"files": files}).encode())
    return _partitions(folder, files)


def find_partitions(folder: Path, memory: SortMemory, *, identity: str) -> tuple[Partition, ...] | None:
    """The partitions that stand in `folder`, as `open_partitions` makes them; None where it would make them anew."""
    plan = _read_plan(folder)
    facts = _facts(memory, identity)
    if plan is None or {name: plan.get(name) for name in facts} != facts:
        return None
    return _partitions(folder, plan["files"])


def keys_bytes(chunks: int) -> int:
    """What the files take for so many chunks."""
    return chunks * RECORD.itemsize


def ranked_ids(partitions: tuple[Partition, ...]) -> Iterator[NDArray[np.uint64]]:
    """All chunk ids in sorted order, a partition at a time."""
    for partition in partitions:
        yield partition.ranked()


def _facts(memory: SortMemory, identity: str) -> dict[str, Any]:
    return {"identity": identity, "partition": memory.partition, "run": memory.run}


def _partitions(folder: Path, files: list[tuple[int, int]]) -> tuple[Partition, ...]:
    return tuple(Partition(_file(folder, n), chunks, crc) for n, (chunks, crc) in enumerate(files))


def _read_plan(folder: Path) -> dict[str, Any] | None:
    try:
        plan = json.loads((folder / _PLAN_FILE).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return plan if isinstance(plan, dict) else None


def _runs(parts: Parts, key: SortKey, memory: SortMemory) -> Iterator[Records]:
    for start in range(0, len(parts), memory.run):
        yield read_records(parts, key, start, min(start + memory.run, len(parts)))


def _find_bounds(parts: Parts, key: SortKey, memory: SortMemory) -> Array:
    """Highest keys of all partitions but the last, ascending."""
    stride = memory.stride(len(parts))
    kept = [np.sort(as_bytes(run))[stride - 1 :: stride] for run in _runs(parts, key, memory)]
    samples = np.sort(np.concatenate(kept)) if kept else np.empty(0, f"S{RECORD.itemsize}")
    # Where every key was kept, the distance is exact.
    apart = memory.partition if stride == 1 else memory.partition // stride - memory.runs(len(parts))
    return samples[apart - 1 :: apart]


def _distribute(folder: Path, parts: Parts, key: SortKey, memory: SortMemory, bounds: Array) -> list[tuple[int, int]]:
    """Write the files; returns chunks and CRC of each."""
    paths = [_file(folder, number) for number in range(len(bounds) + 1)]
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("wb", buffering=0)) for path in paths]
        for run in _runs(parts, key, memory):
            numbers = np.searchsorted(bounds, as_bytes(run), side="left")
            order = np.argsort(numbers, kind="stable")  # so that chunk ids ascend in each file
            ends = np.searchsorted(numbers[order], np.arange(len(paths)), side="right")
            pieces = np.split(run[order], ends[:-1])
            for path, file, piece in zip(paths, files, pieces, strict=True):
                _write(path, file, piece.tobytes())
    described = []
    for path in paths:
        sync(path)
        data = path.read_bytes()
        described.append((len(data) // RECORD.itemsize, _core.crc32c(data)))
    return described


def _write(path: Path, file: FileIO, data: bytes) -> None:
    try:
        while data:
            data = data[file.write(data) :]
    except OSError as error:
        raise OSError(error.errno, f"cannot write: {error.strerror}", str(path)) from error


def _file(folder: Path, number: int) -> Path:
    return folder / f"keys-{number:03d}"
