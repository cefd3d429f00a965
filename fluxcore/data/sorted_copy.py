"""The sorted data set in the making: shards that outlive the process, then the manifest that makes them visible."""

import errno
import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from fluxcore.data.chunk_checks import Array, check_order
from fluxcore.data.dataset import Dataset
from fluxcore.data.lock import WriterLock
from fluxcore.data.manifest import MANIFEST_NAME, Manifest, SortKey, publish
from fluxcore.data.manifest_check import MAX_SHARD_COLUMNS, STANDARD_COLUMNS
from fluxcore.data.partitions import WORK_FOLDER
from fluxcore.data.ranking import is_index
from fluxcore.data.shard_series import ShardSeries, remove_unlisted


def sort_identity(ds: Dataset, key: SortKey, shard_bytes: int) -> str:
    """UUID of a sorted copy: the same sort gives the same bytes, and finds again what it had finished."""
    fields = ["fluxcore sort 1", ds.manifest.hash, key.column, str(key.descending), str(shard_bytes)]
    return hashlib.blake2b("\n".join(fields).encode(), digest_size=16).hexdigest()


def sorted_manifest(ds: Dataset, key: SortKey, shard_bytes: int) -> Manifest:
    """The manifest of a sorted copy before its first shard."""
    # The key first: it must stand in the shards. What does not fit beside it is added to the finished set.
    names = sorted((name for name in ds.manifest.columns if not is_index(name)), key=lambda name: name != key.column)
    names = names[: MAX_SHARD_COLUMNS - len(STANDARD_COLUMNS)]
    return replace(
        ds.manifest,
        generation=1,
        uuid=sort_identity(ds, key, shard_bytes),
        columns={name: info for name, info in ds.manifest.columns.items() if name in names},
        sorted_by=key,
        parent=ds.manifest.hash,
        shards=(),
        hash="",
    )


def copy_bytes(manifest: Manifest, shard_bytes: int, chunks: int) -> int:
    """What so many chunks take on the disk at most."""
    return ShardSeries(Path(), manifest, shard_bytes).size_bytes(chunks)


class SortedCopy:
    """Writes the chunks of a data set in sorted order to `path`; locked meanwhile.

    Leaving the `with` block by an exception keeps the finished shards, from which the next one goes on.

    Args:
        path: folder; made if it is not there.
        manifest: by `sorted_manifest`.
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
            if (self._path / MANIFEST_NAME).exists():
                raise FileExistsError(
                    errno.EEXIST,
                    "the folder holds a data set already; write to another folder, or remove this one first",
                    str(self._path),
                )
            self.kept: int = self._series.adopt()
            """Chunks of an earlier run that was cut off."""
            shards = self._series.shards
            self._last_key = shards[-1].last_key if shards else None
            remove_unlisted(self._path, None, keep=[shard.name for shard in shards])
            self._check_room(self._series.size_bytes(total - self.kept) + work_bytes)
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

    def _check_room(self, need: int) -> None:
        free = shutil.disk_usage(self._path).free
        if need > free:
            raise OSError(
                errno.ENOSPC,
                f"the sorted copy needs up to {need / 1e9:.3f} GB more, the disk has {free / 1e9:.3f} GB free",
                str(self._path),
            )

    def append(self, columns: dict[str, Array]) -> None:
        """Write chunks that follow in the order, as `ShardSeries.append` takes them.

        Raises:
            ValueError: they do not follow.
            OSError: writing failed.
        """
        key = self._manifest.sorted_by
        if key is not None:
            self._last_key = check_order(columns[key.column], key, self._last_key)
        self._series.append(columns)

    def publish(self) -> None:
        """Make the data set visible."""
        publish(self._path, replace(self._manifest, shards=self._series.finish()))
        shutil.rmtree(self.work_folder, ignore_errors=True)

    def __enter__(self) -> "SortedCopy":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._series.discard_unfinished()
        finally:
            self._lock.release()
