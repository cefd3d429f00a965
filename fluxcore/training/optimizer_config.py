"""The keys of trainers that choose their optimizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum, auto
from typing import ClassVar

from torch import nn
from torch.optim import SGD, Optimizer

from fluxcore.optim import GrokfastEMA, OrthoAdamW, OrthoGrad
from fluxcore.training.config import ConfigFile
from fluxcore.training.optim import adamw, decay_groups


class OptimizerName(StrEnum):
    """How weights follow gradients."""

    adamw = auto()
    ortho_adamw = auto()
    ortho_grad = auto()
    sgd = auto()


class BaseName(StrEnum):
    """Optimizer inside `ortho_grad`."""

    adamw = auto()
    sgd = auto()


class ProjectName(StrEnum):
    """What `ortho_adamw` makes perpendicular to the weights."""

    gradient = auto()
    update = auto()


@dataclass(kw_only=True, slots=True)
class OptimizerConfig(ConfigFile):
    """An optimizer; learning rate, weight decay and betas are the trainer's own keys."""

    name: ClassVar[str] = "optimizer"
    kind: OptimizerName = OptimizerName.adamw
    """adamw, ortho_adamw (perpendicular to the weights), ortho_grad (around `base`) or sgd."""
    base: BaseName = BaseName.adamw
    """Of kind=ortho_grad: adamw or sgd."""
    eps: float = 1e-8
    """Of the AdamW kinds, added to the root of the second moment: 1e-8 hides smaller gradients."""
    momentum: float = 0.0
    """Of the SGD kinds."""
    project: ProjectName = ProjectName.gradient
    """Of kind=ortho_adamw: gradient (before the moments) or update (after them)."""
    grokfast: bool = False
    """Whether the slow part of the gradients is added to them once more (arXiv:2405.20233)."""
    grokfast_alpha: float = 0.98
    """Memory of the slow part."""
    grokfast_lambda: float = 2.0
    """Factor of the slow part."""

    def __post_init__(self) -> None:
        self.coerce()
        if not 0 <= self.eps < float("inf"):
            raise ValueError(f"`optimizer.eps` must be finite and >= 0, got {self.eps}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"`optimizer.momentum` must be within [0, 1), got {self.momentum}")
        if not 0 <= self.grokfast_alpha < 1:
            raise ValueError(f"`optimizer.grokfast_alpha` must be within [0, 1), got {self.grokfast_alpha}")
        if not abs(self.grokfast_lambda) < float("inf"):
            raise ValueError(f"`optimizer.grokfast_lambda` must be finite, got {self.grokfast_lambda}")

    def make(self, model: nn.Module, *, lr: float, weight_decay: float, betas: Sequence[float]) -> Optimizer:
        """The optimizer that the keys describe; its decay leaves out norms and biases.

        The decay of SGD is added to the gradient, after the projection of `ortho_grad`; that of AdamW is decoupled.
        """
        if self.kind is OptimizerName.ortho_adamw:
            return OrthoAdamW(
                decay_groups(model, weight_decay),
                lr,
                (betas[0], betas[1]),
                self.eps,
                project="update" if self.project is ProjectName.update else "gradient",
            )
        inner = self.base if self.kind is OptimizerName.ortho_grad else self.kind
        base: Optimizer
        if inner.value == "sgd":
            base = SGD(decay_groups(model, weight_decay), lr=lr, momentum=self.momentum)
        else:
            base = adamw(model, lr=lr, weight_decay=weight_decay, betas=betas, eps=self.eps)
        return OrthoGrad(base) if self.kind is OptimizerName.ortho_grad else base

    def make_filter(self, model: nn.Module) -> GrokfastEMA | None:
        """The gradient filter, if it is on."""
        if not self.grokfast:
            return None
        return GrokfastEMA(model.parameters(), alpha=self.grokfast_alpha, lamb=self.grokfast_lambda)
