"""Columns: read them, and add new ones to a data set that is already written.

An added column lives in sidecar files, one a shard; the shards themselves are never rewritten.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fluxcore import _core
from fluxcore.data import chunk_checks as checks
from fluxcore.data import manifest as manifests
from fluxcore.data.chunk_checks import Array
from fluxcore.data.lock import WriterLock
from fluxcore.data.manifest import ColumnInfo, Manifest, ShardInfo, SidecarInfo
from fluxcore.data.manifest_check import MAX_COLUMNS, MAX_SHARD_COLUMNS, STANDARD_COLUMNS
from fluxcore.data.mapped_copy import copy_mapped
from fluxcore.data.regular_file import open_regular
from fluxcore.data.shard_series import quantiles, remove_unlisted
from fluxcore.data.writer_settings import check_column_name, check_definition
from fluxcore.errors import CorruptShardError

_READ_ONLY_FLAGS = slice(24, 32)  # bytes of a superblock; version 1.0 knows none


def open_sidecar(folder: Path, manifest: Manifest, number: int, info: SidecarInfo) -> _core.Sidecar:
    """The sidecar `info` of shard `number`, checked against the manifest.

    Raises:
        CorruptShardError: it is not the file that the manifest lists.
        OSError: it cannot be opened.
    """
    sidecar = _core.Sidecar(folder / info.name)
    shard = manifest.shards[number]
    found = {
        "kind": (sidecar.is_sidecar, True),
        "data set (UUID)": (sidecar.uuid.hex(), manifest.uuid),
        "shard number": (sidecar.shard_number, number),
        "shard (root hash)": (sidecar.parent.hex(), shard.root),
        "number of chunks": (sidecar.chunk_count, shard.chunks),
        "size": (sidecar.size, info.bytes),
        "root hash": (sidecar.root.hex(), info.root),
        "set of columns": (sorted(sidecar.column_names), sorted(info.columns)),
    }
    for what, (has, listed) in found.items():
        if has != listed:
            raise CorruptShardError(
                f"`{folder / info.name}` is corrupt: its {what} is not the one that the manifest lists", shard=info.name
            )
    return sidecar


def find_column(folder: Path, manifest: Manifest, core: _core.ShardSet, number: int, name: str) -> tuple[Array, Path]:
    """Column `name` of one shard as a read-only view of its file, and that file.

    Whoever reads the view is killed by SIGBUS when the file is cut: copy it by `mapped_copy`.

    Raises:
        CorruptShardError: it is not what the manifest lists, or not what was written.
    """
    shard = manifest.shards[number]
    listed = STANDARD_COLUMNS.get(name) or manifest.columns[name].dtype
    values, path = None, folder / shard.name
    for info in shard.sidecars:
        if name in info.columns:
            values, path = open_sidecar(folder, manifest, number, info).column(name), folder / info.name
    if values is None and (name in STANDARD_COLUMNS or name in core.column_names(number)):
        values = core.column(number, name)
    if values is None or values.dtype != listed:
        found = "missing" if values is None else str(values.dtype)
        raise CorruptShardError(
            f"`{folder / shard.name}` is corrupt: the manifest lists column `{name}` as {listed}, here it is {found}",
            shard=shard.name,
        )
    return values, path


def shard_column(folder: Path, manifest: Manifest, core: _core.ShardSet, number: int, name: str) -> Array:
    """Column `name` of one shard, in memory."""
    view, path = find_column(folder, manifest, core, number, name)
    values = np.empty_like(view)
    copy_mapped(view, values, path)
    return values


def read_column(folder: Path, manifest: Manifest, core: _core.ShardSet, name: str) -> Array:
    """Column `name` of all chunks, in memory; read-only."""
    values = np.empty(manifest.chunks, STANDARD_COLUMNS.get(name) or manifest.columns[name].dtype)
    for number, shard in enumerate(manifest.shards):
        view, path = find_column(folder, manifest, core, number, name)
        copy_mapped(view, values[shard.base : shard.base + shard.chunks], path)
    values.flags.writeable = False
    return values


def add_columns(folder: Path, uuid: str, values: Mapping[str, Any], definitions: Mapping[str, str]) -> Manifest:
    """Write sidecars for new columns and publish them, all at once; returns the new manifest.

    Raises:
        ValueError: a column is there already, its values cannot be stored, or a newer version forbids this one to.
        DatasetLockedError: another process is writing to the data set.
        CorruptShardError, OSError: as in reading and writing.
    """
    with WriterLock(folder):
        manifest = manifests.read(folder)
        if manifest.uuid != uuid:
            raise ValueError(f"the data set in `{folder}` was replaced after it was opened\n\nOpen it again.")
        _check_extensible(folder, manifest)
        if unknown := definitions.keys() - values.keys():
            raise ValueError(f"`definitions` must be of the columns that are added, got {sorted(unknown)} too")
        arrays = {name: _check(manifest, name, column) for name, column in values.items()}
        if len(manifest.columns) + len(arrays) + len(STANDARD_COLUMNS) > MAX_COLUMNS:
            raise ValueError(f"a data set has at most {MAX_COLUMNS} columns, it has {len(manifest.columns)} added ones")
        if not arrays:
            return manifest
        remove_unlisted(folder, manifest)
        generation = manifest.generation + 1
        for name in arrays:
            check_definition(definitions.get(name, ""), name)
        infos = {n: ColumnInfo(dtype=a.dtype.name, definition=definitions.get(n, "")) for n, a in arrays.items()}
        try:
            shards = tuple(_extend(folder, manifest, n, generation, arrays) for n in range(len(manifest.shards)))
            columns = {**manifest.columns, **infos}
            return manifests.publish(folder, replace(manifest, generation=generation, columns=columns, shards=shards))
        except BaseException:
            remove_unlisted(folder, manifests.read(folder))
            raise


def _check_extensible(folder: Path, manifest: Manifest) -> None:
    """Refuse a data set that a newer version lets this one read, but not add to."""
    for shard in manifest.shards:
        with os.fdopen(open_regular(folder / shard.name, os.O_RDONLY), "rb") as file:
            flags = int.from_bytes(file.read(_READ_ONLY_FLAGS.stop)[_READ_ONLY_FLAGS], "little")
        if flags != 0:
            raise ValueError(
                f"`{folder / shard.name}` has features with which this version may read the data set, but not add to it"
                f" (flags {flags})\n\nUpgrade fluxcore to add columns."
            )


def _check(manifest: Manifest, name: str, values: Any) -> Array:
    check_column_name(name)
    if name in STANDARD_COLUMNS or name in manifest.columns:
        raise ValueError(f"column `{name}` is there already\n\nAdd it under another name.")
    array = np.asanyarray(values)  # a masked array stays one, and is refused
    dtype = array.dtype.name if array.dtype.kind == "u" else "float32"
    return checks.column_values(array, name, manifest.chunks, dtype)


def _extend(folder: Path, manifest: Manifest, number: int, generation: int, arrays: Mapping[str, Array]) -> ShardInfo:
    shard = manifest.shards[number]
    parts = {name: values[shard.base : shard.base + shard.chunks] for name, values in arrays.items()}
    names = list(parts)
    sidecars = list(shard.sidecars)
    for first in range(0, len(names), MAX_SHARD_COLUMNS):
        some = names[first : first + MAX_SHARD_COLUMNS]
        file = f"shard-{number:06d}.g{generation}-{first // MAX_SHARD_COLUMNS}.fxc"
        writer = _core.ShardWriter(
            folder / file,
            kind="sidecar",
            dtype=manifest.dtype,
            chunk_tokens=manifest.chunk_tokens,
            vocab_size=manifest.vocab_size,
            uuid=bytes.fromhex(manifest.uuid),
            shard_number=number,
            tokenizer=bytes.fromhex(manifest.tokenizer or "00" * 16),
            parent=bytes.fromhex(shard.root),
            columns=[(name, parts[name].dtype.name) for name in some],
            sort_column=None,
            sort_descending=False,
            token_mask=False,
        )
        writer.append(shard.chunks, None, None, [parts[name] for name in some])
        size, _, root = writer.finish()
        sidecars.append(SidecarInfo(name=file, bytes=size, root=root.hex(), columns=tuple(some)))
    added = {name: quantiles(values) for name, values in parts.items() if values.dtype == np.float32}
    return replace(shard, sidecars=tuple(sidecars), quantiles={**shard.quantiles, **added})
