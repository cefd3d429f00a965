"""The shard files of one data set in the making: split by size, described for the manifest."""

import errno
import re
from collections.abc import Collection
from pathlib import Path

import numpy as np

from fluxcore import _core
from fluxcore.data.chunk_checks import Array
from fluxcore.data.manifest import MANIFEST_NAME, Manifest, ShardInfo
from fluxcore.data.manifest_check import STANDARD_COLUMNS
from fluxcore.errors import CorruptShardError

_SHARD_FILE = r"shard-[0-9]{6,7}(\.g[0-9]+-[0-9]+)?\.(fxs|fxc)"
_OURS = re.compile(rf"{_SHARD_FILE}|\.({_SHARD_FILE}|manifest\.json)\.[0-9]+\.tmp")
_PAGE = 4096


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"shard-{number:06d}.fxs"


def quantiles(values: Array) -> tuple[float, ...]:
    """Minimum, quartiles and maximum, each a value that occurs."""
    return tuple(float(v) for v in np.quantile(values, [0, 0.25, 0.5, 0.75, 1], method="lower"))


def check_vacant(folder: Path) -> None:
    """Refuse a folder that holds a data set already.

    Raises:
        FileExistsError: it does.
    """
    if (folder / MANIFEST_NAME).exists():
        raise FileExistsError(
            errno.EEXIST,
            "the folder holds a data set already; write to another folder, or remove this one first",
            str(folder),
        )


def remove_unlisted(folder: Path, manifest: Manifest | None, *, keep: Collection[str] = ()) -> None:
    """Take away what an interrupted writer left: our temporary files, and shards that no manifest lists."""
    listed = set(keep)
    for shard in () if manifest is None else manifest.shards:
        listed |= {shard.name, *(sidecar.name for sidecar in shard.sidecars)}
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name) and path.name not in listed:
            path.unlink()


class ShardSeries:
    """Spreads chunks over shards of at most `shard_bytes` each.

    Args:
        folder: where they are written.
        manifest: describes the data set.
        shard_bytes: size at which a new shard is begun.
        first: number of the first shard; others write the full ones before it.
    Raises:
        ValueError: `shard_bytes` is out of range, or too small for one chunk.
    """

    def __init__(self, folder: Path, manifest: Manifest, shard_bytes: int, *, first: int = 0) -> None:
        self._folder = folder
        self._manifest = manifest
        self._types = {**STANDARD_COLUMNS, **{name: info.dtype for name, info in manifest.columns.items()}}
        self._capacity = self._chunks_within(shard_bytes)
        self._first = first
        self._shards: list[ShardInfo] = []
        self._writer: _core.ShardWriter | None = None
        self._scores: dict[str, list[Array]] = {}

    @property
    def capacity(self) -> int:
        """Chunks of a full shard."""
        return self._capacity

    @property
    def shards(self) -> tuple[ShardInfo, ...]:
        """Those that are finished."""
        return tuple(self._shards)

    @property
    def chunks(self) -> int:
        """Chunks in the shards that are finished."""
        return sum(shard.chunks for shard in self._shards)

    def size_bytes(self, chunks: int) -> int:
        """What the files of so many chunks take at most."""
        fixed, chunk = self._sizes()
        return -(-chunks // self._capacity) * fixed + chunks * chunk

    @property
    def _number(self) -> int:
        """Of the shard that comes next."""
        return self._first + len(self._shards)

    def adopt(self, total: int | None = None) -> int:
        """Take over the full shards that an interrupted writer of the very same data set finished.

        Its UUID tells the same data set: it must follow from all that goes into the shards. Returns their chunks.

        Args:
            total: chunks that the series will have, where it is known: its last shard is then taken over too, and
                none behind it.
        """
        done = 0
        while done != total and (path := self._folder / shard_name(self._number)).is_file():
            chunks = self._capacity if total is None else min(self._capacity, total - done)
            try:
                shard = _core.Sidecar(path)
                found = (shard.is_sidecar, shard.uuid.hex(), shard.shard_number, shard.chunk_count)
                if found != (False, self._manifest.uuid, self._number, chunks):
                    break
                scores = {name: shard.column(name) for name in self._manifest.columns}
            except (CorruptShardError, ValueError, KeyError):
                break  # it is written again, and the ones behind it
            self._list_shard(shard.size, chunks, shard.root, scores)
            done += chunks
        return done

    def _sizes(self) -> tuple[int, int]:
        """Bytes of a shard without chunks, at most, and of a chunk in it."""
        manifest = self._manifest
        chunk = manifest.chunk_tokens * np.dtype(manifest.dtype).itemsize + 4  # its tokens and their CRC
        chunk += sum(np.dtype(dtype).itemsize for dtype in self._types.values())
        chunk += (manifest.chunk_tokens + 7) // 8 if manifest.token_mask else 0
        # The superblock, a section a column, TOKENS, CHUNK_CRC, TOKEN_MASK and NAMES, each rounded up to a page.
        return _PAGE * (len(self._types) + 5) + 64 + sum(1 + len(name) for name in self._types), chunk

    def _chunks_within(self, shard_bytes: int) -> int:
        fixed, chunk = self._sizes()
        if not fixed + chunk <= shard_bytes <= 1 << 40:
            raise ValueError(
                f"`shard_bytes` must be within [{fixed + chunk}, {1 << 40}], so that a chunk fits in, got {shard_bytes}"
            )
        return int(shard_bytes - fixed) // chunk

    def append(self, columns: dict[str, Array]) -> None:
        """Write checked columns, "tokens" [n, T] and where the set has one "mask" among them."""
        start, total = 0, len(columns["tokens"])
        while start < total:
            writer = self._writer or self._begin()
            stop = min(total, start + self._capacity - writer.chunk_count)
            part = {name: values[start:stop] for name, values in columns.items()}
            writer.append(stop - start, part["tokens"], part.get("mask"), [part[name] for name in self._types])
            for name in self._manifest.columns:
                self._scores[name].append(part[name])
            if writer.chunk_count == self._capacity:
                self._finish_shard()
            start = stop

    def _begin(self) -> _core.ShardWriter:
        manifest = self._manifest
        number = self._number
        self._scores = {name: [] for name in manifest.columns}
        self._writer = _core.ShardWriter(
            self._folder / shard_name(number),
            kind="shard",
            dtype=manifest.dtype,
            chunk_tokens=manifest.chunk_tokens,
            vocab_size=manifest.vocab_size,
            uuid=bytes.fromhex(manifest.uuid),
            shard_number=number,
            tokenizer=bytes.fromhex(manifest.tokenizer or "00" * 16),
            parent=bytes(16),
            columns=list(self._types.items()),
            sort_column=None if manifest.sorted_by is None else manifest.sorted_by.column,
            sort_descending=manifest.sorted_by is not None and manifest.sorted_by.descending,
            token_mask=manifest.token_mask,
        )
        return self._writer

    def _finish_shard(self) -> None:
        if self._writer is None:
            return
        size, chunks, root = self._writer.finish()
        self._writer = None
        self._list_shard(size, chunks, root, {name: np.concatenate(parts) for name, parts in self._scores.items()})

    def _list_shard(self, size: int, chunks: int, root: bytes, scores: dict[str, Array]) -> None:
        key = None if self._manifest.sorted_by is None else scores[self._manifest.sorted_by.column]
        self._shards.append(
            ShardInfo(
                name=shard_name(self._number),
                bytes=size,
                chunks=chunks,
                base=self._number * self._capacity,  # all before it are full
                root=root.hex(),
                first_key=None if key is None else float(key[0]),
                last_key=None if key is None else float(key[-1]),
                quantiles={name: quantiles(v) for name, v in scores.items() if v.dtype == np.float32},
            )
        )

    def finish(self) -> tuple[ShardInfo, ...]:
        """Publish the last shard; returns all of them."""
        self._finish_shard()
        return tuple(self._shards)

    def discard_unfinished(self) -> None:
        """Take away the shard in work."""
        if self._writer is not None:
            self._writer.discard()
            self._writer = None

    def discard(self) -> None:
        """Take away every file of this series."""
        self.discard_unfinished()
        for shard in self._shards:
            (self._folder / shard.name).unlink(missing_ok=True)
        self._shards = []
