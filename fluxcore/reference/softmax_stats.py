"""Definition of `softmax_stats`, and its gradient without cancellation."""

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor


class SoftmaxStats(NamedTuple):
    """Statistics of the softmax over the last dim, each [...], in nats; `None` where not asked for.

    float64 for float64 logits, else float32; `argmax` is int64.
    """

    lse: Tensor | None = None
    """log sum exp x; -inf for a row that is all -inf."""
    logprob: Tensor | None = None
    """log p of the target, <= 0; NaN where the target is outside [0, V)."""
    entropy: Tensor | None = None
    """H = -sum p log p, within [0, log V]."""
    varentropy: Tensor | None = None
    """Variance of -log p under p, >= 0."""
    max_prob: Tensor | None = None
    """Largest p."""
    one_minus_max_prob: Tensor | None = None
    """Sum of all p but the largest; accurate where `max_prob` rounds to 1."""
    top_k_mass: Tensor | None = None
    """Sum of the `top_k` largest p; the first index wins a tie."""
    argmax: Tensor | None = None
    """Class of the largest logit; the first index wins a tie, and the first NaN wins over all."""


class RowState(NamedTuple):
    """What all statistics of a row follow from, each [...]: sums relative to its largest logit m."""

    m: Tensor
    """Largest logit."""
    s: Tensor
    """Sum of e^(x-m) over all classes but the argmax."""
    t: Tensor
    """Sum of (x-m) e^(x-m) over the same classes."""
    spread: Tensor
    """Sum of (x-m-mean)^2 e^(x-m) over all classes, mean = t / (1+s); a sum of squares less a square would cancel."""
    inside: Tensor
    """Sum of e^(x-m) over the top k, the argmax included."""
    outside: Tensor
    """Sum of e^(x-m) over all classes outside the top k."""
    argmax: Tensor
    top_index: Tensor
    """[..., top_k] int64, the classes of the top k."""


def transform_logits(logits: Tensor, temperature: float, softcap: float | None) -> Tensor:
    """The x that all statistics are of: softcap * tanh(logits / softcap), then divided by `temperature`.

    No gradient reaches a logit of -inf.
    """
    x = logits.to(torch.float64 if logits.dtype == torch.float64 else torch.float32)
    x = torch.where(x == -torch.inf, x.detach(), x)
    if softcap is not None:
        x = softcap * torch.tanh(x / softcap)
    return x / temperature


def row_state(x: Tensor, top_k: int | None = None) -> RowState:
    """The sums of each row of x [..., V]."""
    argmax = x.argmax(dim=-1, keepdim=True)
    top_index = x.detach().sort(dim=-1, descending=True, stable=True).indices[..., : top_k or 1]
    others = torch.ones_like(x, dtype=torch.bool).scatter(-1, argmax, False) & (x != -torch.inf)
    member = torch.zeros_like(others).scatter(-1, top_index, True)
    m = x.gather(-1, argmax)
    z = torch.where(others, x - m, 0)
    e = torch.where(others, z.exp(), 0)
    own = torch.where(m.isinf(), torch.nan, 1).squeeze(-1)  # e^(m-m), which has no value at an infinite m
    s, t = e.sum(-1) * own, (z * e).sum(-1)
    mean = (t / (1 + s)).unsqueeze(-1)
    return RowState(
        m=m.squeeze(-1),
        s=s,
        t=t,
        spread=((z - mean).square() * e).sum(-1) + mean.squeeze(-1).square(),
        inside=own + torch.where(member, e, 0).sum(-1),
        outside=torch.where(member, 0, e).sum(-1),
        argmax=argmax.squeeze(-1),
        top_index=top_index,
    )


def target_logit(x: Tensor, target: Tensor) -> Tensor:
    """x [..., V] at the class `target` [...]; NaN where that is outside [0, V)."""
    valid = (target >= 0) & (target < x.shape[-1])
    picked = x.gather(-1, torch.where(valid, target, 0).unsqueeze(-1)).squeeze(-1)
    return torch.where(valid, picked, torch.nan)


def stats_from_state(row: RowState, x_y: Tensor | None = None, is_argmax: Tensor | None = None) -> SoftmaxStats:
    """Every statistic from the sums of a row, where x_y [...] is the target's logit, maybe that of the argmax."""
    n = 1 + row.s
    log_n = row.s.log1p()
    mean = row.t / n
    z_y = None if x_y is None or is_argmax is None else torch.where(is_argmax, 0, x_y - row.m)
    return SoftmaxStats(
        lse=torch.where(row.m.isinf(), row.m, row.m + log_n),
        logprob=None if z_y is None else z_y - log_n,
        entropy=log_n - mean,
        varentropy=row.spread / n,
        max_prob=1 / n,
        one_minus_max_prob=row.s / n,
        top_k_mass=row.inside / (row.inside + row.outside),
        argmax=row.argmax,
    )


def softmax_stats(
    logits: Tensor,
    target: Tensor | None = None,
    *,
    outputs: Collection[str],
    top_k: int | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
) -> SoftmaxStats:
    """The definition of `fluxcore.softmax_stats`: same arguments, same results, unchecked and unfused."""
    x = transform_logits(logits, temperature, softcap)
    row = row_state(x, top_k)
    if target is None:
        stats = stats_from_state(row)
    else:
        stats = stats_from_state(row, target_logit(x, target), target == row.argmax)
    return SoftmaxStats(**{name: value for name, value in stats._asdict().items() if name in outputs})


def softmax_stats_grad(
    grads: SoftmaxStats,
    x: Tensor,
    row: RowState,
    target: Tensor | None,
) -> Tensor:
    """Gradient [..., V] of sum(grads * stats) by x [..., V], from the sums of each row and without cancellation.

    With p = e^(x-m) / (1+s), mean = t / (1+s), u = (x-m) - mean (which is log p + H):

        lse           p                              logprob     [i = target] - p
        entropy       -p u                           varentropy  p (u^2 + 2u - varentropy)
        max_prob      p_max ([i = argmax] - p)       top_k_mass  p ([i in top k] - top_k_mass)

    where [...] - p and its like would cancel, the value is written from the sums: 1 - p_max = s / (1+s) and
    1 - top_k_mass = outside / (1+s). A logit of -inf gets exactly 0, and so does all of a row whose upstream gradients
    are all 0; a nonzero gradient for the logprob of a target outside [0, V) makes its row NaN.
    """
    m, s, t, spread, inside, outside, argmax = (field.unsqueeze(-1) for field in row[:-1])
    n = 1 + s
    z = torch.where(x == -torch.inf, 0, x - m)
    p = torch.where(x == -torch.inf, 0, z.exp() / n)
    mean = t / n
    u = z - mean
    column = torch.arange(x.shape[-1], device=x.device)
    is_argmax = column == argmax
    is_member = torch.zeros_like(x, dtype=torch.bool).scatter(-1, row.top_index, True)
    one_minus_p = torch.where(is_argmax, s / n, 1 - p)

    total = torch.zeros_like(x)
    for name, grad in grads._asdict().items():
        if grad is None:
            continue
        match name:
            case "lse":
                term = p
            case "logprob":
                assert target is not None
                is_target = column == target.unsqueeze(-1)
                term = torch.where(is_target, one_minus_p, -p)
                valid = (target >= 0) & (target < x.shape[-1])
                term = torch.where(valid.unsqueeze(-1), term, torch.nan)
            case "entropy":
                term = -p * u
            case "varentropy":
                term = p * (u.square() + 2 * u - spread / n)
            case "max_prob":
                term = torch.where(is_argmax, one_minus_p, -p) / n
            case "one_minus_max_prob":
                term = torch.where(is_argmax, -one_minus_p, p) / n
            case _:
                term = p * torch.where(is_member, outside, -inside) / n
        total += torch.where(grad.unsqueeze(-1) == 0, 0, grad.unsqueeze(-1) * term)
    return torch.where(x == -torch.inf, 0, total)
