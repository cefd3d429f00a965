"""What a careful user of plain PyTorch would write; the rival for accuracy."""

import torch
from torch import Tensor

from fluxcore import SoftmaxStats
from fluxcore.sharpness import Sharpness


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


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
    lse_square_scale: float = 0.0,
    penalty: Sharpness | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    link: str = "softmax",
) -> Tensor:
    """The rows' losses [...] by `torch.nn.functional.cross_entropy`, half types in float32."""
    x = logits if logits.dtype == torch.float64 else logits.float()
    if softcap is not None:
        x = softcap * torch.tanh(x / softcap)
    x = x / temperature
    if link == "stablemax":
        x = torch.where(x >= 0, x + 1, 1 / (1 - x)).log()
    classes = target if target.is_floating_point() else target.reshape(-1)
    rows = torch.nn.functional.cross_entropy(
        x.reshape(-1, x.shape[-1]),
        classes.to(x.dtype).reshape(-1, x.shape[-1]) if target.is_floating_point() else classes,
        reduction="none",
        label_smoothing=label_smoothing,
        weight=None if weight is None else weight.to(x.dtype),
    ).reshape(x.shape[:-1])
    if lse_square_scale:
        rows = rows + lse_square_scale * x.logsumexp(-1).square()
    if penalty is not None:
        stats = softmax_stats(x, top_k=penalty.k or 1)
        value = {
            "non_max_sum": stats.one_minus_max_prob,
            "neg_entropy": stats.entropy,
            "neg_max_prob": -stats.max_prob,
            "top_k_mass": 1 - stats.top_k_mass,
        }[penalty.kind]
        rows = rows + penalty.coef * value
    return rows


def kl_div(logits: Tensor, ref_logits: Tensor, *, direction: str, beta: float, temperature: float = 1.0) -> Tensor:
    """The rows' divergences [...] by `log_softmax`, half types in float32."""
    wide = logits.dtype if logits.dtype == torch.float64 else torch.float32
    logp, logr = ((value.to(wide) / temperature).log_softmax(-1) for value in (logits, ref_logits))
    p, r = logp.exp(), logr.exp()
    if direction == "policy_ref":
        return (p * (logp - logr)).sum(-1)
    if direction == "ref_policy":
        return (r * (logr - logp)).sum(-1)
    log_mixture = (beta * p + (1 - beta) * r).log()
    return (beta * p * (logp - log_mixture) + (1 - beta) * r * (logr - log_mixture)).sum(-1)
