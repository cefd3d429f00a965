"""The state of a loader, and whether it belongs to this run."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORMAT = 1
_WAY_OUT = {
    "format": "It was written by another version of fluxcore: resume with that one, or start anew.",
    "uuid": "Open the data set that the run was started on, or start anew.",
    "manifest": "The data set was changed since, by new columns or chunks. Open it as it was then, or start anew.",
    "subset": "Give the `subset` that the run was started with, or start anew.",
    "order": "Give the order that the run was started with, or start anew.",
    "seed": "Give the seed that the run was started with, or start anew.",
    "global_batch_size": "The ranks' number may change, the global batch size may not: give that one, or start anew.",
}


def hash_subset(chunks: NDArray[np.uint64] | None) -> str | None:
    """Fingerprint of ascending chunk ids; None for the whole data set."""
    return None if chunks is None else hashlib.blake2b(chunks.tobytes(), digest_size=16).hexdigest()


def check_state(state: Mapping[str, Any], own: Mapping[str, Any], steps: int) -> int:
    """The step to go on at, once `state` is known to be of the run that `own` is a state of.

    Raises:
        ValueError: a field is missing or differs, or the step is not within the run.
    """
    for field, way_out in _WAY_OUT.items():
        if field not in state:
            raise ValueError(f"`state` must have the field {field!r}, got {sorted(state)}")
        if state[field] != own[field]:
            raise ValueError(
                f"`state` must be of this run: its {field!r} is {state[field]!r}, this loader's is {own[field]!r}"
                f"\n\n{way_out}"
            )
    step = state.get("step")
    if not isinstance(step, int) or not 0 <= step <= steps:
        raise ValueError(
            f"`state` must be within this run of {steps} steps, its 'step' is {step!r}"
            "\n\nGive `epochs` or `total_steps` large enough to go on."
        )
    return step
