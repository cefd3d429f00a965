"""The sorted data set in the making: shards that outlive the process, then the manifest that makes them visible."""

import errno
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from fluxcore.data.chunk_checks import check_order
from fluxcore.data.lock import WriterLock
from fluxcore.data.manifest import MANIFEST_NAME, Manifest, publish
from fluxcore.data.partitions import WORK_FOLDER
from fluxcore.data.parts import Parts
from fluxcore.data.shard_series import ShardSeries, remove_unlisted
from fluxcore.data.sort_rows import Rows


def check_target(parts: Parts, target: Path) -> None:
    """Check that a sort does not write over what it reads.

    Raises:
        ValueError: it would.
    """
    if target.resolve() in [ds.path.resolve() for ds in parts.data]:
        raise ValueError(f"`dst` must be another folder than `src`, got {target}")


def check_free(folder: Path) -> None:
    """Check that no data set stands in `folder`.

    Raises:
        FileExistsError: one does.
    """
    if (folder / MANIFEST_NAME).exists():
        raise FileExistsError(
            errno.EEXIST,
            "the folder holds a data set already; write to another folder, or remove this one first",
            str(folder),
        )


def check_room(folder: Path, need: int) -> None:
    """Check that the disk of `folder` has room for `need` bytes.

    Raises:
        OSError: it has not.
    """
    free = shutil.disk_usage(folder).free
    if need > free:
        raise OSError(
            errno.ENOSPC,
            f"the sorted copy needs up to {need / 1e9:.3f} GB more, the disk has {free / 1e9:.3f} GB free",
            str(folder),
        )


def write_rows(
    series: ShardSeries, manifest: Manifest, rows: Iterable[Rows], done: int, report: Callable[[int], None]
) -> None:
    """Append rows to `series`, and check that they stand in the order that `manifest` declares.

    Args:
        series: what was taken over from an earlier run stands in it.
        manifest: of the data set.
        rows: those that follow.
        done: chunks that stand already.
        report: called with the chunks done, after each block.
    Raises:
        ValueError: they do not stand in order.
        OSError: writing failed.
    """
    key = manifest.sorted_by
    last = series.shards[-1].last_key if series.shards else None
    for block in rows:
        if key is not None:
            last = check_order(block[key.column], key, last)
        series.append(block)
        done += len(block["tokens"])
        report(done)
        del block  # it holds what was read together, which must be gone before more is


class SortedCopy:
    """Writes the chunks of a data set in sorted order to `path`; locked meanwhile.

    Leaving the `with` block by an exception keeps the finished shards, from which the next one goes on.

    Args:
        path: folder; made if it is not there.
        manifest: by `sorted_manifest`, or another one without shards.
        shard_bytes: size at which a new shard is begun.
        total: chunks that will come.
        work_bytes: what the sort puts into `work_folder`.
    Raises:
        ValueError: `shard_bytes` is out of range.
        FileExistsError: a data set stands there.
        DatasetLockedError: another process writes there.
        OSError: the folder cannot be written to, or the disk has too little room for all; nothing was written then.
    """

    def __init__(self, path: Path, manifest: Manifest, shard_bytes: int, total: int, work_bytes: int = 0) -> None:
        self._path = path.absolute()
        self._manifest = manifest
        self._series = ShardSeries(self._path, manifest, shard_bytes)
        self._path.mkdir(parents=True, exist_ok=True)
        self._lock = WriterLock(self._path)
        try:
            check_free(self._path)
            self.kept: int = self._series.adopt(total)
            """Chunks of an earlier run that was cut off."""
            remove_unlisted(self._path, None, keep=[shard.name for shard in self._series.shards])
            check_room(self._path, self._series.size_bytes(total - self.kept) + work_bytes)
        except BaseException:
            self._lock.release()
            raise

    @property
    def shard_chunks(self) -> int:
        """Chunks of a full shard."""
        return self._series.capacity

    @property
    def work_folder(self) -> Path:
        """For files of the sort itself; gone once it is published."""
        return self._path / WORK_FOLDER

    def write(self, rows: Iterable[Rows], report: Callable[[int], None]) -> None:
        """Write the chunks behind those that are kept; `report` is called with the chunks done, after each block.

        Raises:
            ValueError: they do not stand in order.
            OSError: writing failed.
        """
        write_rows(self._series, self._manifest, rows, self.kept, report)

    def publish(self) -> None:
        """Make the data set visible."""
        publish(self._path, replace(self._manifest, shards=self._series.finish()))
        if self.work_folder.exists():
            shutil.rmtree(self.work_folder)

    def __enter__(self) -> "SortedCopy":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._series.discard_unfinished()
        finally:
            self._lock.release()
