"""What the tasks of one sort must agree on, and what each leaves behind: small files, each whole or not there."""

import errno
import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from fluxcore import _core
from fluxcore.data.manifest import MANIFEST_NAME, ShardInfo, SortKey
from fluxcore.data.partitions import WORK_FOLDER
from fluxcore.errors import CorruptShardError

_VERSION = 1
_PLAN_FILE = "job.json"
_RECORD_FILE = "done.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class SortPlan:
    """A sort and its division into tasks."""

    sources: tuple[str, ...]
    """Folders of the data sets, absolute."""
    hashes: tuple[str, ...]
    """Of their manifests."""
    bases: tuple[tuple[int, int], ...]
    """See `Parts`."""
    chunks: int
    """Of all together."""
    column: str
    descending: bool
    memory_bytes: int
    """Of each task."""
    shard_bytes: int
    shard_chunks: int
    """Chunks of a full shard."""
    tasks: int
    uuid: str
    """Of the data set that they write."""

    @property
    def key(self) -> SortKey:
        """The order."""
        return SortKey(column=self.column, descending=self.descending)

    @property
    def shards(self) -> int:
        """Shards that the data set will have."""
        return -(-self.chunks // self.shard_chunks)

    @property
    def identity(self) -> str:
        """The same for the same plan, 32 hex digits."""
        return hashlib.blake2b(_line(asdict(self)), digest_size=16).hexdigest()

    def shards_of(self, task: int) -> range:
        """Numbers of the shards that a task writes; the tasks share them as evenly as may be.

        Raises:
            ValueError: there is no such task.
        """
        if not 0 <= task < self.tasks:
            raise ValueError(f"`task` must be within [0, {self.tasks}), the tasks that were planned, got {task}")
        return range(self.shards * task // self.tasks, self.shards * (task + 1) // self.tasks)

    def chunks_before(self, shard: int) -> int:
        """Chunks of the shards before one."""
        return min(shard * self.shard_chunks, self.chunks)

    def write(self, folder: Path) -> None:
        """Make it the plan of the sort into `folder`."""
        _write_sealed(folder / WORK_FOLDER / _PLAN_FILE, asdict(self) | {"version": _VERSION})

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The plan of the sort into `folder`.

        Raises:
            FileNotFoundError: there is none.
            CorruptShardError: it is not what was written.
            ValueError: a newer version of fluxcore wrote it.
        """
        path = folder / WORK_FOLDER / _PLAN_FILE
        facts = _read_sealed(path)
        if facts is None:
            published = (folder / MANIFEST_NAME).exists()
            hint = "; a data set stands there, which may be the sort, published" if published else ""
            raise FileNotFoundError(errno.ENOENT, f"no sort by tasks is planned in this folder{hint}", str(folder))
        if facts.pop("version", None) != _VERSION:
            raise ValueError(f"`{path}` was written by another version of fluxcore\n\nPlan the sort again.")
        facts["bases"] = tuple((doc, index) for doc, index in facts["bases"])
        return cls(**facts | {name: tuple(facts[name]) for name in ("sources", "hashes")})


def remove_plan(folder: Path) -> None:
    """Take away the work folder of a sort that is published, the plan last: who is killed meanwhile can go on."""
    work = folder / WORK_FOLDER
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _PLAN_FILE:
            path.unlink()
    shutil.rmtree(work)


def task_folder(folder: Path, task: int) -> Path:
    """Where a task of the sort into `folder` keeps its lock and its record."""
    return folder / WORK_FOLDER / f"task-{task:05d}"


def write_record(folder: Path, plan: SortPlan, task: int, shards: tuple[ShardInfo, ...]) -> None:
    """Note that a task has finished its shards."""
    facts = {"plan": plan.identity, "shards": [asdict(shard) for shard in shards]}
    _write_sealed(task_folder(folder, task) / _RECORD_FILE, facts)


def read_record(folder: Path, plan: SortPlan, task: int) -> tuple[ShardInfo, ...] | None:
    """Shards that a task has finished by this very plan; None where it has not.

    Raises:
        CorruptShardError: the record is not what was written.
    """
    facts = _read_sealed(task_folder(folder, task) / _RECORD_FILE)
    if facts is None or facts["plan"] != plan.identity:
        return None
    return tuple(_shard(fields) for fields in facts["shards"])


def _shard(fields: dict[str, Any]) -> ShardInfo:
    quantiles = {name: tuple(values) for name, values in fields["quantiles"].items()}
    return ShardInfo(**fields | {"quantiles": quantiles, "sidecars": ()})


def _line(facts: dict[str, Any]) -> bytes:
    return json.dumps(facts, sort_keys=True).encode("ascii")


def _write_sealed(path: Path, facts: dict[str, Any]) -> None:
    line = _line(facts)
    _core.publish_file(path, line + b"\ncrc32c:%08x\n" % _core.crc32c(line))


def _read_sealed(path: Path) -> dict[str, Any] | None:
    try:
        line, _, seal = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    if seal != b"crc32c:%08x\n" % _core.crc32c(line):
        raise CorruptShardError(
            f"`{path}` is corrupt: its CRC does not match\n\nRemove it, then plan the sort or run the task again;"
            " finished shards are kept.",
            shard=path.name,
        )
    facts: dict[str, Any] = json.loads(line)
    return facts
