"""The losses that a trainer may be told to use on its logits."""

from dataclasses import dataclass
from enum import StrEnum, auto
from typing import Literal

from torch import Tensor
from torch.nn import functional

from fluxcore import Sharpness, cross_entropy


class LossName(StrEnum):
    """Cross entropy by which formula."""

    softmax = auto()
    residual = auto()
    stablemax = auto()


@dataclass(frozen=True, slots=True)
class LinkLoss:
    """Cross entropy in nats.

    Raises:
        ValueError: a penalty on another loss than `residual`.
    """

    name: LossName
    """softmax: `torch.nn.functional.cross_entropy` in float32; on sure rows it rounds to 0, and its gradient too.
    residual: `fluxcore.cross_entropy`, which does not. stablemax: the same with p proportional to s(x)
    (arXiv:2501.04697)."""
    penalty: Sharpness | None = None
    """Added to each row of `residual`."""

    def __post_init__(self) -> None:
        if self.penalty is not None and self.name is not LossName.residual:
            raise ValueError(f"`penalty` needs loss=residual, got loss={self.name}\n\nSet penalty=null, or that loss.")

    def without_penalty(self) -> "LinkLoss":
        """The cross entropy alone, which perplexities are made of."""
        return LinkLoss(self.name)

    def __call__(self, logits: Tensor, targets: Tensor, reduction: Literal["sum", "none"] = "sum") -> Tensor:
        """Loss of rows.

        Args:
            logits: [N, V], floating point.
            targets: [N] int64; -100 where there is none, which has loss 0.
            reduction: "sum" over the rows, or "none".
        Returns:
            [] or [N], differentiable.
        """
        if self.name is LossName.softmax:
            return functional.cross_entropy(logits.float(), targets, reduction=reduction)
        if self.name is LossName.stablemax:
            return cross_entropy(logits, targets, link="stablemax", reduction=reduction)
        return cross_entropy(logits, targets, penalty=self.penalty, reduction=reduction)
