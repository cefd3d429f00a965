"""The state of a loader, and whether it belongs to this run."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluxcore.data.manifest import Manifest

FORMAT = 2
_WAY_OUT = {
    "format": "It was written by another version of fluxcore: resume with that one, or start anew.",
    "uuid": "Open the data set that the run was started on, or start anew.",
    "shards": "The tokens or the chunks are not those of the run: open the data set as it was then, or start anew.",
    "subset": "Give the `subset` that the run was started with, or start anew.",
    "where": "Give the filters that the run was started with, or start anew.",
    "mix": "Give the `mix` that the run was started with, and change its weights by `set_weights`; or start anew.",
    "order": "Give the order that the run was started with, or start anew.",
    "seed": "Give the seed that the run was started with, or start anew.",
    "columns": "The columns that the run goes by were written anew: take the old ones, or start anew.",
    "positions": "The order is planned over the whole run: give the same `epochs` or `total_steps`, or start anew.",
    "global_batch_size": "The ranks' number may change, the global batch size may not: give that one, or start anew.",
}


def pin_data(manifest: Manifest, columns: Iterable[str]) -> dict[str, str | None]:
    """What a state keeps of a data set: its identity, its shards, and the columns that decide which chunk comes when.

    The roots cover tokens, chunks and every column in the shards, and those of sidecars the columns added later. A
    column that is added and not used here changes nothing.

    Args:
        manifest: of the data set.
        columns: names of the columns that order and filters go by.
    """
    shards, used = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
    names = sorted(set(columns))
    for shard in manifest.shards:
        shards.update(bytes.fromhex(shard.root))
        for name in names:
            for sidecar in shard.sidecars:
                if name in sidecar.columns:
                    used.update(name.encode() + b"\0" + bytes.fromhex(sidecar.root))
    return {"uuid": manifest.uuid, "shards": shards.hexdigest(), "columns": used.hexdigest() if names else None}


def hash_subset(chunks: NDArray[np.uint64] | None) -> str | None:
    """Fingerprint of ascending chunk ids; None for the whole data set."""
    return None if chunks is None else hashlib.blake2b(chunks.tobytes(), digest_size=16).hexdigest()


def _equal(found: Any, own: Any) -> bool:
    """Whether two plain values are the same; what is not plain, such as an array, is the same as none."""
    return isinstance(found, str | int | list | tuple | dict | None) and type(found) is not bool and bool(found == own)


def check_state(state: Mapping[str, Any], own: Mapping[str, Any], steps: int) -> int:
    """The step to go on at, once `state` is known to be of the run that `own` is a state of.

    Raises:
        TypeError: `state` is no mapping.
        ValueError: a field is missing or differs, or the step is not within the run.
    """
    if not isinstance(state, Mapping):
        raise TypeError(
            f"`state` must be what `state_dict` returned, got {type(state).__name__}\n\nIs it text? Parse it first."
        )
    for field, way_out in _WAY_OUT.items():
        if field not in state:
            raise ValueError(f"`state` must have the field {field!r}, got {list(state)}")
        if not _equal(state[field], own[field]):
            raise ValueError(
                f"`state` must be of this run: its {field!r} is {state[field]!r}, this loader's is {own[field]!r}"
                f"\n\n{way_out}"
            )
    step = state.get("step")
    if type(step) is not int or not 0 <= step <= steps:
        raise ValueError(
            f"`state` must be within this run of {steps} steps, its 'step' is {step!r}"
            "\n\nGive `epochs` or `total_steps` large enough to go on."
        )
    return step
