"""What a careful user of plain PyTorch would write; the rival for accuracy."""

import torch
from torch import Tensor

from fluxcore import SoftmaxStats


def softmax_stats(
    logits: Tensor,
    target: Tensor | None = None,
    top_k: int = 1,
    temperature: float = 1.0,
    softcap: float | None = None,
) -> SoftmaxStats:
    """All statistics by `log_softmax`, half types in float32."""
    x = logits if logits.dtype == torch.float64 else logits.float()
    if softcap is not None:
        x = softcap * torch.tanh(x / softcap)
    x = x / temperature
    logp = x.log_softmax(-1)
    p = logp.exp()
    live = torch.where(p > 0, logp, 0)
    entropy = -(p * live).sum(-1)
    return SoftmaxStats(
        lse=x.logsumexp(-1),
        logprob=None if target is None else logp.gather(-1, target.unsqueeze(-1)).squeeze(-1),
        entropy=entropy,
        varentropy=(p * (live + entropy.unsqueeze(-1)).square()).sum(-1),
        max_prob=p.amax(-1),
        one_minus_max_prob=1 - p.amax(-1),
        top_k_mass=p.topk(top_k).values.sum(-1),
        argmax=x.argmax(-1),
    )
