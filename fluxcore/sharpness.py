"""Sharpness penalties: what a loss may add to keep the model's softmax from, or drive it to, certainty."""

import math
from dataclasses import dataclass
from enum import StrEnum


class SharpnessKind(StrEnum):
    """Which statistic of the softmax is penalised; adding a positive multiple of any of them makes it sharper."""

    NON_MAX_SUM = "non_max_sum"
    """1 - p_max."""
    NEG_ENTROPY = "neg_entropy"
    """The entropy H itself: it is minimised, the name is the literature's."""
    NEG_MAX_PROB = "neg_max_prob"
    """-p_max: the gradient of `non_max_sum`, another value."""
    TOP_K_MASS = "top_k_mass"
    """1 - the sum of the k largest p."""


@dataclass(slots=True)
class Sharpness:
    """A penalty of weight `coef` on the sharpness of the softmax, averaged over the rows that count.

    Raises:
        ValueError: unknown kind, `coef` not finite, or `k` missing for `top_k_mass`, or given for another kind.
    """

    kind: SharpnessKind
    """Or its name."""
    coef: float
    """Factor of the penalty; positive makes the softmax sharper, negative flatter."""
    k: int | None = None
    """Number of classes in `top_k_mass`, within [1, min(V, 64)]."""

    def __post_init__(self) -> None:
        if self.kind not in list(SharpnessKind):
            raise ValueError(f"`kind` must be one of {', '.join(SharpnessKind)}, got {self.kind!r}")
        self.kind = SharpnessKind(self.kind)
        if not math.isfinite(self.coef):
            raise ValueError(f"`coef` must be finite, got {self.coef}")
        if self.kind == SharpnessKind.TOP_K_MASS and (self.k is None or self.k < 1):
            raise ValueError(f"`k` must be >= 1 for the kind top_k_mass, got {self.k}")
        if self.kind != SharpnessKind.TOP_K_MASS and self.k is not None:
            raise ValueError(f"`k` is only of use for the kind top_k_mass, got {self.k} for {self.kind}")
