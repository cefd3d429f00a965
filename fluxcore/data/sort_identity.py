"""What a sorted copy is: its identity, its manifest, and whether it is whole."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from fluxcore.data.dataset import open as open_data_set
from fluxcore.data.manifest import MANIFEST_NAME, Manifest, SortKey
from fluxcore.data.manifest import read as read_manifest
from fluxcore.data.manifest_check import MAX_SHARD_COLUMNS, STANDARD_COLUMNS
from fluxcore.data.parts import Parts
from fluxcore.data.ranking import is_index
from fluxcore.data.shard_series import ShardSeries


def sort_identity(parts: Parts, key: SortKey, shard_bytes: int) -> str:
    """UUID of a sorted copy: the same sort gives the same bytes, and finds again what it had finished."""
    fields = ["fluxcore sort 1", parts.manifest.hash, key.column, str(key.descending), str(shard_bytes)]
    return hashlib.blake2b("\n".join(fields).encode(), digest_size=16).hexdigest()


def sorted_manifest(parts: Parts, key: SortKey, shard_bytes: int) -> Manifest:
    """The manifest of a sorted copy before its first shard."""
    infos = {name: info for name, info in parts.manifest.columns.items() if not is_index(name)}
    # The key first: it must stand in the shards. What does not fit beside it is added to the finished set.
    names = sorted(infos, key=lambda name: name != key.column)[: MAX_SHARD_COLUMNS - len(STANDARD_COLUMNS)]
    return replace(
        parts.manifest,
        generation=1,
        uuid=sort_identity(parts, key, shard_bytes),
        columns={name: info for name, info in infos.items() if name in names},
        sorted_by=key,
        parent=parts.manifest.hash,
        shards=(),
        hash="",
    )


def copy_bytes(manifest: Manifest, shard_bytes: int, chunks: int) -> int:
    """What so many chunks take on the disk at most."""
    return ShardSeries(Path(), manifest, shard_bytes).size_bytes(chunks)


def is_sort_of(target: Path, parts: Parts, key: SortKey) -> bool:
    """Whether `target` holds `parts` sorted by `key`; columns that did not fit into its shards may be missing."""
    if not (target / MANIFEST_NAME).exists():
        return False
    manifest = read_manifest(target)
    return manifest.sorted_by == key and manifest.parent == parts.manifest.hash


def add_missing_columns(parts: Parts, target: Path) -> bool:
    """Add the columns that did not fit into the shards, where they are missing; whether there were any."""
    copy = open_data_set(target)
    infos = {name: info for name, info in parts.manifest.columns.items() if not is_index(name)}
    missing = {name: info.definition for name, info in infos.items() if name not in copy.columns}
    if missing:
        # Both sets know a chunk by its original index.
        ours, theirs = parts.column("original_index"), copy.column("original_index")
        by_index = np.argsort(ours)
        rows = by_index[np.searchsorted(ours[by_index], theirs)]
        copy.add_columns({name: parts.column(name)[rows] for name in missing}, missing)
    return bool(missing)
