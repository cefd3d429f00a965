"""Definition of `cross_entropy`, and its gradient without cancellation.

With p = softmax(x) over V classes and c_i = weight_i * ((1 - label_smoothing) P_i + label_smoothing / V), where P is
the target (a class is a one-hot P), the loss of a row is ce = sum_i c_i (-log p_i). In residual form, for a class k
that is kept out of the sums (here the argmax), z_i = log(p_i / p_k) and s = sum of e^z over the others:

    -log p_i = log1p(s) - z_i,  both terms >= 0, so nothing cancels;  z_k is exactly 0.

StableMax is the softmax of log sigma(x), where sigma(x) = x + 1 for x >= 0 and 1 / (1 - x) below; it needs no exp.
"""

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor

from fluxcore.reference.softmax_stats import (
    RowState,
    SoftmaxStats,
    row_state,
    softmax_stats,
    softmax_stats_grad,
    transform_logits,
)
from fluxcore.sharpness import Sharpness, SharpnessKind


class Odds(NamedTuple):
    """A row's distribution relative to its most probable class k."""

    z: Tensor
    """[..., V] log(p_i / p_k), exactly 0 at k."""
    e: Tensor
    """[..., V] p_i / p_k, but 0 at k."""
    s: Tensor
    """[...] sum of e = (1 - p_k) / p_k; NaN for a row without a distribution."""
    k: Tensor
    """[..., V] bool, where i = k."""


def link_odds(x: Tensor, link: str) -> Odds:
    """The distribution that `link` ("softmax" or "stablemax") makes of each row of x [..., V]."""
    argmax = x.argmax(-1, keepdim=True)
    k = torch.zeros_like(x, dtype=torch.bool).scatter(-1, argmax, True)
    if link == "softmax":
        top = x.gather(-1, argmax)
        z = torch.where(k, 0, x - top)
        z = torch.where(top.isinf(), torch.nan, z)
        masked = k | (x == -torch.inf)
        e = torch.where(masked, 0, torch.where(masked, 0, z).exp())
    else:
        sigma = stablemax_weight(x)
        top = sigma.gather(-1, argmax)
        e = torch.where(k, 0, sigma / top)
        z = torch.where(e > 0, torch.where(e > 0, e, 1).log(), torch.where(k, 0, -torch.inf))
        top = torch.where(top == 0, torch.inf, top)
    return Odds(z, e, torch.where(top.isinf().squeeze(-1), torch.nan, e.sum(-1)), k)


def stablemax_weight(x: Tensor) -> Tensor:
    """sigma(x) = x + 1 for x >= 0, 1 / (1 - x) below."""
    return torch.where(x >= 0, x + 1, 1 / (1 - x.clamp(max=0)))


def class_weights(target: Tensor, V: int, weight: Tensor | None, label_smoothing: float, dtype: torch.dtype) -> Tensor:
    """The c_i [..., V] of the module's text; `target` [...] holds classes (0 where out of range), or [..., V] P."""
    if target.is_floating_point():
        share = target.to(dtype)
    else:
        valid = (target >= 0) & (target < V)
        share = torch.nn.functional.one_hot(torch.where(valid, target, 0), V).to(dtype)
    c = (1 - label_smoothing) * share + label_smoothing / V
    return c if weight is None else c * weight.to(dtype)


def dead_and_invalid_rows(target: Tensor, V: int, token_weight: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Rows [...] that give exactly 0, and rows whose loss is NaN because their target is not a class."""
    dead = token_weight == 0
    if target.is_floating_point():
        return dead, torch.zeros_like(dead)
    dead |= target == ignore_index
    return dead, ~dead & ((target < 0) | (target >= V))


def reduction_totals(
    target: Tensor,
    V: int,
    weight: Tensor | None,
    token_weight: Tensor,
    penalty_mask: Tensor,
    ignore_index: int,
    reduction: str,
) -> Tensor:
    """[4]: what `reduction` divides the loss, the z-loss and the penalty by, and the sum of the class weights."""
    if target.is_floating_point():
        counts = torch.ones_like(token_weight)
        own = counts
    else:
        within = (target != ignore_index) & (target >= 0) & (target < V)
        counts = within.to(token_weight.dtype)
        own = counts if weight is None else counts * weight[torch.where(within, target, 0)]
    one = token_weight.new_ones(())
    divisors = (one, one, one)
    if reduction in ("mean", "token_mean"):
        by_token = (counts * token_weight).sum()
        by_penalty = (counts * token_weight * penalty_mask).sum()
        divisors = (own.sum(), counts.sum(), by_penalty) if reduction == "mean" else (by_token, by_token, by_penalty)
    return torch.stack((*divisors, one * V if weight is None else weight.sum()))


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    token_weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    lse_square_scale: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    penalty: Sharpness | None = None,
    penalty_mask: Tensor | None = None,
    link: str = "softmax",
    return_stats: Collection[str] | None = None,
) -> Tensor | tuple[Tensor, SoftmaxStats]:
    """The definition of `fluxcore.cross_entropy`: same arguments, same results, unchecked and unfused."""
    x = transform_logits(logits, temperature, softcap)
    V = x.shape[-1]
    a, mask = (
        x.new_ones(x.shape[:-1]) if value is None else value.to(x.dtype) for value in (token_weight, penalty_mask)
    )
    weight = None if weight is None else weight.to(x.dtype)
    totals = reduction_totals(target, V, weight, a, mask, ignore_index, reduction)
    rows = cross_entropy_rows(
        x,
        target,
        weight,
        a,
        mask,
        totals,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        lse_square_scale=lse_square_scale,
        penalty=penalty,
        link=link,
    )
    loss = rows if reduction == "none" else sum_of_rows(rows, totals)
    if return_stats is None:
        return loss
    k = None if penalty is None else penalty.k
    y = None if target.is_floating_point() else target
    options = {"top_k": k, "temperature": temperature, "softcap": softcap}
    return loss, softmax_stats(logits.detach(), y, outputs=return_stats, **options)  # type: ignore[arg-type]


def cross_entropy_rows(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    token_weight: Tensor,
    penalty_mask: Tensor,
    totals: Tensor,
    *,
    ignore_index: int,
    label_smoothing: float,
    lse_square_scale: float,
    penalty: Sharpness | None,
    link: str,
) -> Tensor:
    """Each row's part [...] of the loss of transformed logits x [..., V], for `reduction_totals` given."""
    dead, invalid = dead_and_invalid_rows(target, x.shape[-1], token_weight, ignore_index)

    x = torch.where(dead.unsqueeze(-1), 0, x)
    odds = link_odds(x, link)
    c = class_weights(target, x.shape[-1], weight, label_smoothing, x.dtype)
    surprise = odds.s.log1p().unsqueeze(-1) - odds.z
    rows = torch.where(c == 0, 0, c * torch.where(c == 0, 0, surprise)).sum(-1) / totals[0]
    rows = torch.where(odds.s.isnan(), torch.nan, rows)
    if lse_square_scale or penalty is not None:
        row = row_state(x, penalty.k if penalty is not None else None)
        if lse_square_scale:
            rows = rows + lse_square_scale * (row.m + row.s.log1p()).square() / totals[1]
        if penalty is not None:
            factor = torch.where(totals[2] == 0, 0, penalty.coef * penalty_mask / totals[2])
            rows = rows + torch.where(factor == 0, 0, factor * penalty_value(row, penalty.kind))
    return torch.where(dead, 0, torch.where(invalid, torch.nan, token_weight * rows))


def sum_of_rows(rows: Tensor, totals: Tensor) -> Tensor:
    """The loss, a scalar, from its rows; NaN if no row counts in a mean."""
    return rows.double().sum().to(rows.dtype) + torch.where(totals[0] == 0, torch.nan, 0).to(rows.dtype)


def penalty_value(row: RowState, kind: str) -> Tensor:
    """The penalty of each row [...]; the state's top k is the penalty's."""
    n = 1 + row.s
    match kind:
        case SharpnessKind.NON_MAX_SUM:
            return row.s / n
        case SharpnessKind.NEG_ENTROPY:
            return row.s.log1p() - row.t / n
        case SharpnessKind.NEG_MAX_PROB:
            return -1 / n
        case _:
            return row.outside / (row.inside + row.outside)


def cross_entropy_grad(
    upstream: Tensor,
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    token_weight: Tensor | None,
    penalty_mask: Tensor | None,
    totals: Tensor,
    *,
    ignore_index: int,
    label_smoothing: float,
    lse_square_scale: float,
    softcap: float | None,
    temperature: float,
    penalty: Sharpness | None,
    link: str,
) -> Tensor:
    """Gradient [..., V] by the logits for `upstream`, [] or [...], without cancellation.

    With A = sum c and A' = A less the c of the argmax k, the loss has A p_i - c_i, written A' p_k - c_k (1 - p_k) at k.
    The z-loss has 2 lse_square_scale lse p_i, and the penalties are statistics of the softmax.
    """
    x = transform_logits(logits, temperature, softcap)
    a, mask = (
        x.new_ones(x.shape[:-1]) if value is None else value.to(x.dtype) for value in (token_weight, penalty_mask)
    )
    dead, invalid = dead_and_invalid_rows(target, x.shape[-1], a, ignore_index)
    scale = torch.where(dead, 0, upstream * a)

    odds = link_odds(x, link)
    c = class_weights(target, x.shape[-1], weight, label_smoothing, x.dtype)
    n = 1 + odds.s.unsqueeze(-1)
    others = torch.where(odds.k, 0, c).sum(-1, keepdim=True)
    p = torch.where(odds.k, 1, odds.e) / n
    gradient = torch.where(odds.k, others * p - c * (odds.s.unsqueeze(-1) / n), c.sum(-1, keepdim=True) * p - c)
    gradient = gradient * (scale / totals[0]).unsqueeze(-1)
    if link == "stablemax":
        gradient = gradient * torch.where(x >= 0, 1 / (x + 1), stablemax_weight(x))
    if lse_square_scale or penalty is not None:
        row = row_state(x, penalty.k if penalty is not None else None)
        by_lse = scale / totals[1] * 2 * lse_square_scale * (row.m + row.s.log1p()) if lse_square_scale else None
        by_penalty = torch.where((totals[2] == 0) | (mask == 0), 0, scale * mask / totals[2])
        gradient = gradient + softmax_stats_grad(loss_by_stats(by_lse, by_penalty, penalty), x, row, None)
    gradient = torch.where(invalid.unsqueeze(-1), torch.nan, gradient) / temperature
    if softcap is not None:
        gradient = gradient / (logits.to(x.dtype) / softcap).cosh().square()
    return torch.where((x == -torch.inf) | (scale == 0).unsqueeze(-1), 0, gradient)


def loss_by_stats(by_lse: Tensor | None, by_penalty: Tensor, penalty: Sharpness | None) -> SoftmaxStats:
    """The upstream gradients of the statistics that z-loss and penalty are made of."""
    if penalty is None:
        return SoftmaxStats(lse=by_lse)
    name, sign = {
        SharpnessKind.NON_MAX_SUM: ("one_minus_max_prob", 1),
        SharpnessKind.NEG_ENTROPY: ("entropy", 1),
        SharpnessKind.NEG_MAX_PROB: ("max_prob", -1),
        SharpnessKind.TOP_K_MASS: ("top_k_mass", -1),
    }[penalty.kind]
    return SoftmaxStats(lse=by_lse, **{name: sign * penalty.coef * by_penalty})
