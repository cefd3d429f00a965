"""Definition of `kl_div`, and its gradient, without cancellation where policy and reference nearly agree.

p and r are the softmax of policy and reference, l_i = log(p_i / r_i). The sum of p l has terms of order |l| and a
value of order l^2, so it cancels. Since p and r both sum to 1, each divergence is also a sum of terms never negative,

    p log(p/q) + q - p = p f(l) with f(l) = l + e^-l - 1 = l^2/2 - l^3/6 + ...,  l = log(p/q),

in which an error of the two log-sum-exps counts only squared.
"""

from typing import NamedTuple

import torch
from torch import Tensor

_SERIES_BELOW = 0.3
_SERIES_TERMS = 14


class Pair(NamedTuple):
    """Policy and reference of a row, [..., V] each."""

    p: Tensor
    r: Tensor
    l: Tensor
    """log(p / r): -inf where only p is 0, inf where only r is, 0 where both are."""


def paired(logits: Tensor, ref_logits: Tensor, temperature: float) -> Pair:
    """The two distributions of logits / temperature, and their log-ratio from differences of logits."""
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    x, v = logits.to(wide), ref_logits.to(wide)
    x = torch.where(x == -torch.inf, x.detach(), x)
    m, s = _largest_and_rest(x, temperature)
    m_ref, s_ref = _largest_and_rest(v, temperature)
    gone, ref_gone = x == -torch.inf, v == -torch.inf
    p = _exp_or_0(torch.where(gone, -torch.inf, x - m) / temperature) / (1 + s)
    r = _exp_or_0(torch.where(ref_gone, -torch.inf, v - m_ref) / temperature) / (1 + s_ref)
    both = ~(gone | ref_gone)
    difference = torch.where(both, x, 0) - torch.where(both, v, 0)
    l = (difference - (m - m_ref)) / temperature + _log_ratio(s_ref, s)
    l = torch.where(both, l, torch.where(gone, -torch.inf, torch.inf))
    return Pair(p, r, torch.where(gone & ref_gone, 0, l))


def _largest_and_rest(x: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """m [..., 1] and the sum of e^((x-m)/temperature) without the argmax; NaN where m is infinite."""
    k = x.argmax(-1, keepdim=True)
    m = x.gather(-1, k)
    m = torch.where(m.isinf(), torch.nan, m)
    out = torch.zeros_like(x, dtype=torch.bool).scatter(-1, k, True) | (x == -torch.inf)
    return m, torch.where(out, 0, (torch.where(out, m, x) - m).div(temperature).exp()).sum(-1, keepdim=True) + 0 * m


def _log_ratio(a: Tensor, b: Tensor) -> Tensor:
    """log((1 + a) / (1 + b)) of sums a, b >= 0, right in all digits also where they are small or nearly equal."""
    return torch.where(a >= b, ((a - b).clamp(min=0) / (1 + b)).log1p(), -((b - a).clamp(min=0) / (1 + a)).log1p())


def _exp_or_0(z: Tensor) -> Tensor:
    gone = z == -torch.inf
    return torch.where(gone, 0, torch.where(gone, 0, z).exp())


def divergence_terms(p: Tensor, q: Tensor, l: Tensor) -> Tensor:
    """p log(p/q) + q - p, where l = log(p/q); q where p = 0."""
    small = l.abs() < _SERIES_BELOW
    u = torch.where(small, l, 0)
    series = torch.ones_like(u)
    for k in range(_SERIES_TERMS, 2, -1):
        series = 1 - u / k * series
    usual = small | (p == 0)
    far = p * torch.where(usual, 0, l) + q - p
    return torch.where(small, p * u.square() / 2 * series, torch.where(p == 0, q, far))


def _mixture_ratios(l: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """log(p/M) and log(r/M) of M = beta p + (1-beta) r, from l = log(p/r)."""
    above = torch.where(l > 0, l, 0)
    below = torch.where(l > 0, 0, l)
    by_larger_p = -_log_mean(beta, -above)
    by_larger_r = -_log_mean(1 - beta, below)
    return torch.where(l > 0, by_larger_p, below + by_larger_r), torch.where(l > 0, by_larger_p - above, by_larger_r)


def _log_mean(share: float, l: Tensor) -> Tensor:
    """log(share + (1 - share) e^l) for l <= 0."""
    near = l > -_SERIES_BELOW
    close = ((1 - share) * torch.where(near, l, 0).expm1()).log1p()
    return torch.where(near, close, (share + (1 - share) * torch.where(near, -1, l).exp()).log())


def row_divergence(pair: Pair, direction: str, beta: float) -> Tensor:
    """The divergence of each row [...], in nats."""
    p, r, l = pair
    match direction:
        case "policy_ref":
            terms = divergence_terms(p, r, l)
        case "ref_policy":
            terms = divergence_terms(r, p, -l)
        case _:
            by_policy, by_ref = _mixture_ratios(l, beta)
            mixture = beta * p + (1 - beta) * r
            terms = beta * divergence_terms(p, mixture, by_policy)
            terms = terms + (1 - beta) * divergence_terms(r, mixture, by_ref)
    return terms.sum(-1)


def kl_div(
    logits: Tensor,
    ref_logits: Tensor,
    *,
    direction: str = "policy_ref",
    beta: float = 0.5,
    token_weight: Tensor | None = None,
    reduction: str = "mean",
    temperature: float = 1.0,
) -> Tensor:
    """The definition of `fluxcore.kl_div`: same arguments, same results, unchecked and unfused."""
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    weight = logits.new_ones(logits.shape[:-1], dtype=wide) if token_weight is None else token_weight.to(wide)
    dead = weight == 0
    logits, ref_logits = (torch.where(dead.unsqueeze(-1), 0, value) for value in (logits, ref_logits))
    rows = row_divergence(paired(logits, ref_logits, temperature), direction, beta)
    total = kl_total(weight, reduction)
    rows = torch.where(dead, 0, weight * rows / total)
    if reduction == "none":
        return rows
    return rows.double().sum().to(wide) + torch.where(total == 0, torch.nan, 0).to(wide)


def kl_total(token_weight: Tensor, reduction: str) -> Tensor:
    """What `reduction` divides the sum of the rows by, a scalar."""
    match reduction:
        case "mean":
            return token_weight.new_full((), token_weight.numel())
        case "token_mean":
            return token_weight.sum()
        case _:
            return token_weight.new_ones(())


def kl_state(logits: Tensor, ref_logits: Tensor, direction: str, beta: float, temperature: float) -> Tensor:
    """[5, ...]: m and s of the policy, pivot, shift, centre, from which other backends make the gradient.

    log(p / r) = (logits - ref_logits) / temperature - pivot - shift; `centre` is what the gradient subtracts from it.
    """
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    m, s = _largest_and_rest(logits.to(wide), temperature)
    m_ref, s_ref = _largest_and_rest(ref_logits.to(wide), temperature)
    p, r, l = paired(logits, ref_logits, temperature)
    centre = torch.zeros_like(m)
    if direction == "policy_ref":
        centre = divergence_terms(p, r, l).sum(-1, keepdim=True)
    elif direction == "jsd":
        by_policy, _ = _mixture_ratios(l, beta)
        centre = divergence_terms(p, beta * p + (1 - beta) * r, by_policy).sum(-1, keepdim=True)
    pivot, shift = (m - m_ref) / temperature, _log_ratio(s, s_ref)
    return torch.stack((m / temperature, s, pivot, shift, centre)).squeeze(-1)


def kl_div_grad(pair: Pair, row_grads: Tensor, *, direction: str, beta: float, temperature: float) -> Tensor:
    """Gradient [..., V] by the policy's logits, where `row_grads` [...] is that of each row's divergence.

    policy_ref  p (l - KL)          ref_policy  p - r          jsd  beta p (log(p/M) - KL(p || M))
    """
    p, r, l = pair
    match direction:
        case "policy_ref":
            gradient = p * _less_mean(p, l)
        case "ref_policy":
            near = l.abs() < _SERIES_BELOW  # farther apart, p - r has fewer roundings than l has
            u = torch.where(near, l, 0)
            gradient = torch.where(near, torch.where(u >= 0, -p * (-u).expm1(), r * u.expm1()), p - r)
        case _:
            gradient = beta * p * _less_mean(p, _mixture_ratios(l, beta)[0])
    masked = l == -torch.inf if direction == "ref_policy" else p == 0
    return torch.where(masked, 0, row_grads.unsqueeze(-1) * gradient / temperature)


def _less_mean(p: Tensor, values: Tensor) -> Tensor:
    """`values` less their mean under p; both from their differences to the value where p is largest, so that a class
    with nearly all of p does not lose the little that remains."""
    relative = torch.where(p == 0, 0, values - values.gather(-1, p.argmax(-1, keepdim=True)))
    return relative - (p * relative).sum(-1, keepdim=True)
