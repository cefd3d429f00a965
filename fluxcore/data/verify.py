"""Read and check a whole data set."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fluxcore import _core
from fluxcore.data.chunk_checks import Array
from fluxcore.data.columns import open_sidecar, shard_column
from fluxcore.data.manifest import Manifest
from fluxcore.data.manifest_check import STANDARD_COLUMNS
from fluxcore.data.shard_series import quantiles
from fluxcore.data.verify_state import VerifyState
from fluxcore.errors import CorruptShardError


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyReport:
    """What `Dataset.verify` went through and found sound."""

    shards: int
    sidecars: int
    chunks: int
    tokens: int
    """Without padding."""
    bytes: int
    """Of shards and sidecars."""
    seconds: float
    resumed_shards: int
    """Of them, found sound by the run that this one went on from."""


def verify_dataset(
    folder: Path,
    manifest: Manifest,
    core: _core.ShardSet,
    progress: Callable[[int, int], None] | None,
    resume_from: Path | None,
) -> VerifyReport:
    """Check every byte of the data set; see `Dataset.verify`."""
    started = time.perf_counter()
    tokens, indices, resumed = 0, [], 0
    with VerifyState(resume_from, folder, manifest) if resume_from is not None else nullcontext() as state:
        for number, shard in enumerate(manifest.shards):
            if state is not None and state.has(shard):
                resumed += 1
            else:
                stamp = [] if state is None else state.stamp(shard)
                _verify_shard(folder, manifest, core, number)
                if state is not None:
                    state.add(shard, stamp)
            tokens += int(shard_column(folder, manifest, core, number, "valid_len").sum(dtype=np.uint64))
            indices.append(shard_column(folder, manifest, core, number, "original_index"))
            if progress is not None:
                progress(shard.base + shard.chunks, manifest.chunks)
        _check_unique(folder, manifest, indices)
        if state is not None:
            state.remove()
    return VerifyReport(
        shards=len(manifest.shards),
        sidecars=sum(len(shard.sidecars) for shard in manifest.shards),
        chunks=manifest.chunks,
        tokens=tokens,
        bytes=sum(shard.bytes + sum(car.bytes for car in shard.sidecars) for shard in manifest.shards),
        seconds=time.perf_counter() - started,
        resumed_shards=resumed,
    )


def _verify_shard(folder: Path, manifest: Manifest, core: _core.ShardSet, number: int) -> None:
    shard = manifest.shards[number]
    core.verify_shard(number)
    for sidecar in shard.sidecars:
        open_sidecar(folder, manifest, number, sidecar).verify()
    columns = {
        name: shard_column(folder, manifest, core, number, name) for name in (*STANDARD_COLUMNS, *manifest.columns)
    }
    if fault := _fault_of_columns(manifest, number, columns):
        raise CorruptShardError(f"`{folder / shard.name}` is corrupt: {fault}", shard=shard.name)


def _fault_of_columns(manifest: Manifest, number: int, columns: dict[str, Array]) -> str:
    """What is wrong with the values of one shard's columns, or an empty string."""
    shard = manifest.shards[number]
    if int(columns["source"].max()) >= len(manifest.sources):
        return f"source {columns['source'].max()} is not in the table of {len(manifest.sources)}"
    for name in manifest.columns:
        if columns[name].dtype != np.float32:
            continue
        if not np.isfinite(columns[name]).all():
            return f"column `{name}` holds a value that is not finite"
        if shard.quantiles.get(name) != quantiles(columns[name]):
            return f"the quantiles of column `{name}` are not those that the manifest lists"
    key = manifest.sorted_by
    if key is None:
        return ""
    values = columns[key.column]
    steps = np.diff(values)
    if (steps > 0 if key.descending else steps < 0).any():
        return f"column `{key.column}` is not in the order that the manifest declares"
    if (shard.first_key, shard.last_key) != (float(values[0]), float(values[-1])):
        return "its first and last key are not those that the manifest lists"
    if number > 0:
        before = manifest.shards[number - 1].last_key
        first = float(values[0])
        if before is None or (first > before if key.descending else first < before):
            return "it does not go on in the order of the shard before it"
    return ""


def _check_unique(folder: Path, manifest: Manifest, indices: list[Array]) -> None:
    if not indices:
        return
    merged = np.sort(np.concatenate(indices))
    twice = merged[1:][merged[1:] == merged[:-1]]
    if twice.size:
        for shard, column in zip(manifest.shards, indices, strict=True):
            if twice[0] in column:
                raise CorruptShardError(
                    f"`{folder / shard.name}` is corrupt: original index {twice[0]} occurs twice in the data set",
                    shard=shard.name,
                )
