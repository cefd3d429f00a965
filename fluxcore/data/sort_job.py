"""A sort that many processes share, on one machine or on many over one file system."""

import errno
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Self

import numpy as np

from fluxcore.data.chunk_checks import check_order
from fluxcore.data.companions import take_along
from fluxcore.data.dataset import open as open_data_set
from fluxcore.data.finished_shards import check_finished, is_finished, standing
from fluxcore.data.lock import WriterLock
from fluxcore.data.manifest import Manifest, ShardInfo, SortKey, publish
from fluxcore.data.manifest_check import STANDARD_COLUMNS
from fluxcore.data.partitions import WORK_FOLDER, find_partitions, keys_bytes, open_partitions
from fluxcore.data.parts import Parts, Source, open_parts
from fluxcore.data.ranking import check_score
from fluxcore.data.shard_series import ShardSeries, remove_unlisted, shard_name
from fluxcore.data.sort_identity import add_missing_columns, is_sort_of, sorted_manifest
from fluxcore.data.sort_memory import SortMemory, divide_memory
from fluxcore.data.sort_plan import SortPlan, read_record, remove_plan, task_folder, write_record
from fluxcore.data.sort_rows import partition_rows
from fluxcore.data.sorted_copy import check_free, check_room, check_target, write_rows
from fluxcore.errors import CorruptShardError


class SortJob:
    """A sort in three steps: `plan` once, `run` each task anywhere and in any order, then `publish` once.

    The result has the bytes of `fluxcore.data.sort`, its identity included, whatever the number of tasks, their order,
    and how often they were killed. All steps see the folders under the same paths, on a file system that locks files
    between its machines (`flock`).
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        """Open the sort into the folder `path`, which another process may have planned.

        Raises:
            FileNotFoundError: none is planned there.
            CorruptShardError: its plan is not what was written.
        """
        self.path = Path(path).absolute()
        self._plan = SortPlan.read(self.path)

    @classmethod
    def plan(
        cls,
        src: Source | Sequence[Source],
        dst: str | PathLike[str],
        column: str,
        descending: bool = False,
        *,
        tasks: int,
        memory_bytes: int = 1 << 30,
        shard_bytes: int = 1 << 30,
    ) -> Self:
        """Divide a sort into tasks: keys are read, 30 bytes a chunk are written, no payload is touched.

        Planned again, with other arguments too, finished shards of the same sort are kept.

        Args:
            src: a data set or its folder, or several, as `sort` takes them.
            dst: folder to write.
            column: name of a score.
            descending: highest first; ties stand as they do when ascending.
            tasks: how many processes may work at once. Each writes whole shards: more tasks than shards are idle.
            memory_bytes: what planning, and then each task, may allocate beyond what the process holds.
            shard_bytes: size at which a new shard is begun.
        Raises:
            ValueError: no such score, `dst` is a `src`, data sets that are not alike, or too few tasks or bytes.
            FileExistsError: a data set stands at `dst`.
            DatasetLockedError: a task, or another writer, is at work there.
            CorruptShardError: a column of `src` is not what was written.
            OSError: writing failed, or there is too little room for all shards.
        """
        if tasks < 1:
            raise ValueError(f"`tasks` must be >= 1, got {tasks}")
        parts, target = open_parts(src), Path(dst).absolute()
        check_target(parts, target)
        check_score(parts, column)
        key = SortKey(column=column, descending=descending)
        if is_sort_of(target, parts, key):
            raise FileExistsError(errno.EEXIST, "this sort is published already, nothing is left to do", str(target))
        manifest = sorted_manifest(parts, key, shard_bytes)
        series = ShardSeries(target, manifest, shard_bytes)
        memory = _memory(parts, manifest, memory_bytes, series.capacity)
        plan = _plan(parts, manifest, tasks, memory_bytes, shard_bytes, series.capacity)
        target.mkdir(parents=True, exist_ok=True)
        with WriterLock(target):
            check_free(target)
            kept = dict(standing(target, plan))
            remove_unlisted(target, None, keep=kept)
            check_room(target, series.size_bytes(len(parts)) - sum(kept.values()) + keys_bytes(len(parts)))
            open_partitions(target / WORK_FOLDER, parts, key, memory, identity=manifest.uuid)
            for folder in (target / WORK_FOLDER).glob("task-*"):
                shutil.rmtree(folder)  # records of tasks that may have been divided in another way
            plan.write(target)
        return cls(target)

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        return self._plan.tasks

    @property
    def shards(self) -> int:
        """Shards that all tasks write together."""
        return self._plan.shards

    @property
    def chunks(self) -> int:
        """Chunks in all."""
        return self._plan.chunks

    def run(self, task: int, progress: Callable[[int, int], None] | None = None) -> None:
        """Write the shards of one task, but for those that an earlier run of it finished.

        Any number of tasks may run at once. A task that was killed, or that found the disk full, is run again.

        Args:
            task: within [0, `tasks`).
            progress: called with (chunks done, chunks of the task).
        Raises:
            ValueError: no such task, or the data sets or the plan have changed since it was planned.
            FileNotFoundError: the sort is published, or its plan is gone.
            DatasetLockedError: another process runs this task, or plans or publishes the sort.
            CorruptShardError: a chunk, a column or a file of keys is not what was written.
            OSError: writing failed; finished shards stay.
        """
        shards = self._plan.shards_of(task)
        with WriterLock(self.path, shared=True):
            self._check_plan()
            folder = task_folder(self.path, task)
            folder.mkdir(exist_ok=True)
            with WriterLock(folder):
                record = read_record(self.path, self._plan, task)
                unsound = [shard for shard in record or () if not is_finished(self.path, self._plan, shard)]
                for shard in unsound:
                    (self.path / shard.name).unlink(missing_ok=True)
                if record is None or unsound:
                    record = self._write(shards, progress or (lambda _done, _total: None))
                    write_record(self.path, self._plan, task, record)
                elif progress is not None:
                    chunks = sum(shard.chunks for shard in record)
                    progress(chunks, chunks)

    def publish(self) -> None:
        """Check that every shard is there and sound, and make the data set visible.

        Columns and checksums are read, 2 to 4% of the data; chunks are checked whenever they are read. Done twice, or
        again after it was killed, it does what is left.

        Raises:
            FileNotFoundError: a shard is missing; the message names it and the task that writes it.
            CorruptShardError: a shard is not what its task wrote; the message names both.
            DatasetLockedError: a task is running.
            ValueError: the data sets or the plan have changed.
            OSError: the folder cannot be written to.
        """
        parts = self._open_parts()
        with WriterLock(self.path):
            self._check_plan()
            if not is_sort_of(self.path, parts, self._plan.key):
                check_free(self.path)
                shards = tuple(shard for task in range(self.tasks) for shard in self._finished(task))
                keys = [key for shard in shards for key in (shard.first_key, shard.last_key)]
                check_order(np.array(keys, np.float32), self._plan.key, None)
                publish(self.path, replace(self._manifest(parts), shards=shards))
        take_along(parts, self.path)
        add_missing_columns(parts, self.path)
        remove_plan(self.path)

    def _manifest(self, parts: Parts) -> Manifest:
        return sorted_manifest(parts, self._plan.key, self._plan.shard_bytes)

    def _check_plan(self) -> None:
        """Raise ValueError where the sort was planned anew after it was opened."""
        if SortPlan.read(self.path) != self._plan:
            raise ValueError(f"the sort into `{self.path}` was planned anew meanwhile\n\nOpen it again.")

    def _open_parts(self) -> Parts:
        """The data sets, as they were when the sort was planned."""
        data = [open_data_set(path) for path in self._plan.sources]
        for ds, planned in zip(data, self._plan.hashes, strict=True):
            if ds.manifest.hash != planned:
                raise ValueError(
                    f"`{ds.path}` has changed since the sort into `{self.path}` was planned"
                    "\n\nPlan it again, and run every task again."
                )
        return Parts(data, self._plan.bases)

    def _write(self, shards: range, report: Callable[[int, int], None]) -> tuple[ShardInfo, ...]:
        plan, parts = self._plan, self._open_parts()
        manifest = self._manifest(parts)
        start, stop = plan.chunks_before(shards.start), plan.chunks_before(shards.stop)
        memory = _memory(parts, manifest, plan.memory_bytes, plan.shard_chunks)
        partitions = find_partitions(self.path / WORK_FOLDER, memory, identity=plan.uuid)
        if partitions is None:
            raise ValueError(f"`{self.path / WORK_FOLDER}` lacks the keys that were planned\n\nPlan the sort again.")
        for number in shards:
            for leftover in self.path.glob(f".{shard_name(number)}.*.tmp"):
                leftover.unlink()
        series = ShardSeries(self.path, manifest, plan.shard_bytes, first=shards.start)
        kept = series.adopt(stop - start)
        report(kept, stop - start)
        rows = partition_rows(parts, partitions, list(manifest.columns), memory, start=start + kept, stop=stop)
        try:
            write_rows(series, manifest, rows, kept, lambda done: report(done, stop - start))
            return series.finish()
        except BaseException:
            series.discard_unfinished()
            raise

    def _finished(self, task: int) -> tuple[ShardInfo, ...]:
        """Shards of a task, each checked."""
        shards = self._plan.shards_of(task)
        again = f"run task {task} (of {self.tasks}, counted from 0) again"
        names = [shard_name(number) for number in shards]
        record = read_record(self.path, self._plan, task)
        if record is None and shards:
            missing = next((name for name in names if not (self.path / name).exists()), names[-1])
            raise FileNotFoundError(
                errno.ENOENT, f"a task has not finished this shard: {again}", str(self.path / missing)
            )
        for shard in record or ():
            try:
                check_finished(self.path, self._plan, shard)
            except FileNotFoundError as error:
                message = f"a finished shard is missing: {again}"
                raise FileNotFoundError(errno.ENOENT, message, str(self.path / shard.name)) from error
            except CorruptShardError as error:
                raise CorruptShardError(f"{error}\n\nTo have it written anew, {again}.", shard=shard.name) from error
        return record or ()


def _memory(parts: Parts, manifest: Manifest, memory_bytes: int, shard_chunks: int) -> SortMemory:
    return divide_memory(parts, (*STANDARD_COLUMNS, *manifest.columns), memory_bytes, shard_chunks=shard_chunks)


def _plan(
    parts: Parts, manifest: Manifest, tasks: int, memory_bytes: int, shard_bytes: int, shard_chunks: int
) -> SortPlan:
    key = manifest.sorted_by
    assert key is not None
    return SortPlan(
        sources=tuple(str(ds.path) for ds in parts.data),
        hashes=tuple(ds.manifest.hash for ds in parts.data),
        bases=tuple(parts.bases),
        chunks=len(parts),
        column=key.column,
        descending=key.descending,
        memory_bytes=memory_bytes,
        shard_bytes=shard_bytes,
        shard_chunks=shard_chunks,
        tasks=tasks,
        uuid=manifest.uuid,
    )
