"""What is measured of a language model's logits: its loss and the shape of its distributions."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fluxcore import softmax_stats

IGNORED = -100
"""Target of a position without a next token."""


class TokenSums(NamedTuple):
    """Sums over the positions that have a target; divide by `tokens` for means."""

    loss: Tensor
    """Cross entropy, or another loss, nats; differentiable."""
    entropy: Tensor
    """Entropy of the model's distribution, nats."""
    max_prob: Tensor
    """Probability of its likeliest token."""
    tokens: Tensor
    """Positions counted."""


def token_sums(logits: Tensor, targets: Tensor, loss: Callable[[Tensor, Tensor], Tensor] | None = None) -> TokenSums:
    """Loss and statistics of a batch, as sums, so that batches of any padding average rightly.

    Args:
        logits: [B, T, V], float; logits at t are of the token that `targets` has at t.
        targets: [B, T], int64; -100 where there is none.
        loss: (logits [N, V], targets [N]) -> their sum, nats. None: cross entropy in float32.
    Returns:
        Scalars on the device of the logits; nothing waits for it.
    """
    rows, flat = logits.flatten(0, 1), targets.flatten()
    counted = flat != IGNORED
    with torch.no_grad():
        stats = softmax_stats(rows.detach(), outputs=("entropy", "max_prob"))
    assert stats.entropy is not None
    assert stats.max_prob is not None
    if loss is None:
        total = cross_entropy(rows.float(), flat, ignore_index=IGNORED, reduction="sum")
    else:
        total = loss(rows, flat)
    return TokenSums(
        loss=total,
        entropy=torch.where(counted, stats.entropy, 0).sum(),
        max_prob=torch.where(counted, stats.max_prob, 0).sum(),
        tokens=counted.sum(),
    )
