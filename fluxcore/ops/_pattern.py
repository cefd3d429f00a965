"""N:M sparsity: of each M consecutive weights along the last dim, N stay."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from fluxcore.ops.kth_magnitude import SCOPES

MAX_GROUP = 1024


class Pattern(NamedTuple):
    """At most `keep` active weights of each `group` consecutive ones."""

    keep: int
    group: int


def pattern_of(scope: str) -> Pattern | None:
    """The pattern that a scope such as "2:4" names; None for "tensor" and "global".

    Raises:
        ValueError: another scope, or numbers that are no pattern.
    """
    if scope in SCOPES:
        return None
    found = re.fullmatch(r"([0-9]{1,4}):([0-9]{1,4})", scope) if isinstance(scope, str) else None
    if found is None:
        raise ValueError(f"`scope` must be one of {', '.join(SCOPES)}, or N:M as in '2:4', got {scope!r}")
    pattern = Pattern(int(found[1]), int(found[2]))
    if not 1 <= pattern.keep <= pattern.group <= MAX_GROUP:
        raise ValueError(f"`scope` must be N:M with 1 <= N <= M <= {MAX_GROUP}, got {scope!r}")
    return pattern


def check_pattern(
    pattern: Pattern, drop_fraction: float, weights: Mapping[str, Tensor], offsets: Sequence[int]
) -> None:
    """Whole groups in every tensor, and a fraction that says the same as the pattern.

    Raises:
        ValueError: otherwise.
    """
    keep, group = pattern
    if drop_fraction != 0 and not math.isclose(drop_fraction, 1 - keep / group, rel_tol=1e-6):
        raise ValueError(
            f"`drop_fraction` must be 0, to drop nothing, or {1 - keep / group:g} for scope '{keep}:{group}', "
            f"got {drop_fraction}"
        )
    for (name, weight), offset in zip(weights.items(), offsets, strict=True):
        if not weight.ndim or weight.shape[-1] % group:
            raise ValueError(
                f"`params` must have a last dim that {group} divides for scope '{keep}:{group}', "
                f"got shape {tuple(weight.shape)} for {name!r}"
            )
        if offset % group:
            raise ValueError(
                f"`offsets` must be multiples of {group} for scope '{keep}:{group}', got {offset} for {name!r}"
            )
