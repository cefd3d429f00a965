"""Cross entropy with a sharpness penalty, and everything that is logged of it, from one pass over the hidden states."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from fluxcore import linear_cross_entropy
from fluxcore.integrations.model_head import hidden_instead_of_logits
from fluxcore.reference import SoftmaxStats
from fluxcore.rl.policy import evaluating
from fluxcore.sharpness import Sharpness, SharpnessKind
from fluxcore.training.calibration import Calibration
from fluxcore.training.language_model import IGNORED
from fluxcore.training.meters import Meters
from fluxcore.training.validation import Validation, perplexity

STATISTIC = {
    SharpnessKind.NON_MAX_SUM: "one_minus_max_prob",
    SharpnessKind.NEG_ENTROPY: "entropy",
    SharpnessKind.NEG_MAX_PROB: "max_prob",
    SharpnessKind.TOP_K_MASS: "top_k_mass",
}
"""What each penalty is made of."""


class SharpnessSums(NamedTuple):
    """Sums over a micro-batch, on its device."""

    loss: Tensor
    """Cross entropy + coef x penalty, nats; differentiable. Over `tokens` it is the mean loss."""
    means: dict[str, tuple[Tensor, Tensor]]
    """Name -> detached sum, weight."""
    tokens: Tensor
    """Positions with a target."""
    counted: Tensor
    """[B, T] bool, these positions."""
    right: Tensor
    """[B, T] bool, where the likeliest token is the target."""
    max_prob: Tensor
    """[B, T]."""


@dataclass(frozen=True, slots=True)
class SharpnessLoss:
    """Loss of a causal language model with a linear head; the logits are never stored."""

    head: nn.Linear
    penalty: Sharpness | None
    """None: cross entropy alone."""
    last: bool = False
    """Whether the penalty is taken at the last position of a sequence too."""

    def penalised(self, targets: Tensor) -> Tensor:
        """[B, T] bool: where the penalty is taken. Never where there is no target: padding and ends of documents."""
        mask = targets != IGNORED
        if not self.last:
            mask = mask.clone()
            mask[:, -1] = False
        return mask

    def balance(self, accelerator: Accelerator, targets: Tensor, seq: int) -> Tensor:
        """Positions with a target over positions with a penalty, in the step; all ranks call it.

        The penalty's mean is over its own positions. As a weight of it, this makes one sum, divided by the number of
        targets, out of both means.

        Args:
            accelerator: Device and ranks.
            targets: [n, T], a rank's rows of the step.
            seq: Tokens in a sequence; divides T.
        """
        targets = targets.to(accelerator.device).reshape(-1, seq)
        counts = torch.stack([(targets != IGNORED).sum(), self.penalised(targets).sum()])
        counts = accelerator.reduce(counts, "sum").clamp(min=1)
        ratio: Tensor = counts[0] / counts[1]
        return ratio

    def __call__(self, model: Any, tokens: Tensor, targets: Tensor, balance: Tensor) -> SharpnessSums:
        """Run the model on [B, T] tokens, and `linear_cross_entropy` once on what comes out of it."""
        with hidden_instead_of_logits(self.head):
            hidden = model(input_ids=tokens, use_cache=False).logits
        mask = self.penalised(targets)
        wanted = {"logprob", "entropy", "max_prob", "argmax"}
        if self.penalty is not None:
            wanted.add(STATISTIC[self.penalty.kind])
        loss, stats = linear_cross_entropy(
            hidden,
            self.head.weight,
            targets,
            linear_bias=self.head.bias,
            reduction="sum",
            penalty=self.penalty,
            penalty_mask=mask * balance if self.penalty is not None else None,
            return_stats=wanted,
        )
        return self.sums(loss, stats, targets, mask)

    def sums(self, loss: Tensor, stats: SoftmaxStats, targets: Tensor, mask: Tensor) -> SharpnessSums:
        """What is logged."""
        assert stats.logprob is not None
        assert stats.entropy is not None
        assert stats.max_prob is not None
        counted = targets != IGNORED
        count, right = counted.sum(), (stats.argmax == targets) & counted
        # logprob is NaN where there is no target.
        means = {"cross_entropy": (-torch.where(counted, stats.logprob, 0).sum(), count)}
        for name in ("entropy", "max_prob"):
            means[name] = (torch.where(counted, getattr(stats, name), 0).sum(), count)
        means["accuracy"] = (right.sum(), count)
        if self.penalty is not None:
            means["penalty"] = (torch.where(mask, self.value(stats), 0).sum(), mask.sum())
        return SharpnessSums(loss, means, count, counted, right, stats.max_prob)

    def value(self, stats: SoftmaxStats) -> Tensor:
        """The penalty at each position."""
        assert self.penalty is not None
        statistic: Tensor = getattr(stats, STATISTIC[self.penalty.kind])
        if self.penalty.kind is SharpnessKind.NEG_MAX_PROB:
            return -statistic
        return 1 - statistic if self.penalty.kind is SharpnessKind.TOP_K_MASS else statistic


@dataclass(frozen=True, slots=True)
class SharpnessValidation:
    """Held-out chunks, measured as in training and by expected calibration error."""

    validation: Validation

    def run(self, accelerator: Accelerator, model: nn.Module, measure: SharpnessLoss) -> dict[str, float]:
        """Means over all chunks and ranks; `loss` has the penalty in it. All ranks call it.

        Returns:
            `loss`, `cross_entropy`, `entropy` (nats a token), `penalty`, `perplexity`, `max_prob`, `accuracy`,
            `calibration_error` (within [0, 1]), `val_tokens`.
        """
        meters, calibration = Meters(accelerator), Calibration(accelerator)
        one = torch.ones((), device=accelerator.device)
        with evaluating(model), accelerator.autocast():
            for tokens, targets in self.validation.sequences(accelerator):
                sums = measure(model, tokens, targets, one)
                for name, (total, weight) in sums.means.items():
                    meters.add(name, total, weight)
                calibration.add(sums.max_prob, sums.right, sums.counted)
        means = meters.close_interval()
        coef = measure.penalty.coef if measure.penalty is not None else 0.0
        loss = means["cross_entropy"] + coef * means.get("penalty", 0.0)
        return {
            "loss": loss,
            **means,
            "perplexity": perplexity(means["cross_entropy"]),
            "calibration_error": calibration.error(),
            "val_tokens": int(meters.weight("cross_entropy")),
        }
