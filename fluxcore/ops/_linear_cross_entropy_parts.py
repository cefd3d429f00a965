"""`linear_cross_entropy` in chunks of classes: its loss is made of softmax statistics, whose row states can be merged.

With c = weight of the target's class and a = token_weight, a row's loss is

    a (-c logprob / T0 + lse_square_scale lse^2 / T1 + coef mask P / T2)

where P is the penalty's statistic and T the totals of the reduction. So its gradient is that of these statistics.
Label smoothing and class probabilities weigh every class, StableMax has no maximum, and the k largest classes are not
known to a chunk: those need a row whole.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fluxcore import reference
from fluxcore.ops._cross_entropy_backends import Options, Results, output_names
from fluxcore.ops._linear_head import LinearHead
from fluxcore.ops._linear_row_parts import (
    RowParts,
    Statistics,
    add_gradients,
    row_state,
    statistics_of,
)
from fluxcore.ops._linear_rows import live_rows
from fluxcore.ops.softmax_stats import output_bits
from fluxcore.reference import SoftmaxStats

if TYPE_CHECKING:
    from fluxcore.ops._linear_cross_entropy_passes import Arguments

_REAL = 127  # bits of the statistics but argmax


def is_mergeable(options: Options, target: Tensor) -> bool:
    """Whether a row's loss can be made of chunks of its classes."""
    is_plain = options.link == "softmax" and options.label_smoothing == 0 and options.top_k == 0
    return is_plain and not target.is_floating_point()


def forward(
    row_parts: Callable[[Statistics], RowParts],
    head: LinearHead | None,
    arguments: "Arguments",
    options: Options,
    results: Results,
    dead: Tensor,
    most_live: int,
) -> Tensor:
    """Fill `results`, but for the loss, whose rows [N] are returned.

    `row_parts` gives the state of every row that is not dead; `head`, if there is one, takes in the gradients.
    """
    target = arguments.target
    nothing = torch.zeros_like(results.state[0])
    needed = output_bits(_named(_upstream(nothing, nothing, nothing, arguments, options, results.totals)))
    statistics = Statistics(needed | options.outputs & _REAL, options.temperature, options.softcap)
    parts = row_parts(statistics)
    every = statistics_of(parts, target)
    for to, name in zip(results.stats, output_names(options.outputs), strict=True):
        to.copy_(getattr(every, name))
    results.argmax.copy_(parts.argmax if options.outputs else torch.where(dead, 0, parts.argmax))
    m, s, t, _, x_y, _ = parts
    zero = torch.zeros_like(m)
    results.state.copy_(torch.where(dead, 0, torch.stack((m, s, t, x_y, zero, zero, zero))))
    if head is not None:
        _add_gradients(
            head, torch.ones_like(results.totals[0]), arguments, options, results.totals, parts, dead, most_live
        )
    return _row_losses(arguments, options, results.totals, parts, every, dead).to(results.loss.dtype)


def backward(
    head: LinearHead,
    upstream: Tensor,
    arguments: "Arguments",
    options: Options,
    saved: list[Tensor],
    dead: Tensor,
    most_live: int,
) -> None:
    """Let `head` take in the gradients, from what the forward op saved."""
    argmax, state, _, totals = saved
    m, s, t, x_y, *_ = state.double()
    parts = RowParts(m, s, t, torch.zeros_like(m), x_y, argmax)
    _add_gradients(head, upstream, arguments, options, totals, parts, dead, most_live)


def _add_gradients(
    head: LinearHead,
    upstream: Tensor,
    arguments: "Arguments",
    options: Options,
    totals: Tensor,
    parts: RowParts,
    dead: Tensor,
    most_live: int,
) -> None:
    ones = torch.ones_like(parts.m)
    a = ones if arguments.token_weight is None else arguments.token_weight
    scale = torch.where(dead, 0, upstream * a)
    by_statistic = _upstream(scale, parts.m, parts.s, arguments, options, totals)
    names = _named(by_statistic)
    grads = torch.stack([getattr(by_statistic, name) for name in names]).to(totals.dtype)
    statistics = Statistics(output_bits(names), options.temperature, options.softcap)
    head.live = live_rows(dead | (scale == 0), most_live)
    add_gradients(head, grads, arguments.target, parts, statistics)


def _upstream(
    scale: Tensor, m: Tensor, s: Tensor, arguments: "Arguments", options: Options, totals: Tensor
) -> SoftmaxStats:
    """Gradients [N] of the loss by the statistics that it is made of, times `scale`; None for the others."""
    by_class, by_z_loss, by_mask, _ = totals.double()
    by_lse = None
    if options.lse_square_scale:
        by_lse = scale / by_z_loss * 2 * options.lse_square_scale * (m + s.log1p())
        by_lse = torch.where(scale == 0, 0, by_lse)
    mask = torch.ones_like(scale) if arguments.penalty_mask is None else arguments.penalty_mask
    by_penalty = torch.where((by_mask == 0) | (mask == 0), 0, scale * mask / by_mask)
    by_logprob = torch.where(scale == 0, 0, -scale * _class_weights(arguments) / by_class)
    return reference.loss_by_stats(by_lse, by_penalty, options.sharpness)._replace(logprob=by_logprob)


def _named(by_statistic: SoftmaxStats) -> list[str]:
    """Those that are there, in canonical order."""
    return [name for name, value in by_statistic._asdict().items() if value is not None]


def _class_weights(arguments: "Arguments") -> Tensor:
    """[N], or [] if all are 1; also 1 where the target is not a class."""
    target, weight = arguments.target, arguments.weight
    if weight is None:
        return torch.ones((), dtype=torch.float64, device=target.device)
    is_class = (target >= 0) & (target < weight.shape[0])
    return torch.where(is_class, weight[torch.where(is_class, target, 0)].double(), 1)


def _row_losses(
    arguments: "Arguments", options: Options, totals: Tensor, parts: RowParts, every: SoftmaxStats, dead: Tensor
) -> Tensor:
    """[N] float64."""
    assert every.lse is not None
    assert every.logprob is not None
    by_class, by_z_loss, by_mask, _ = totals.double()
    c = _class_weights(arguments)
    rows = torch.where(c == 0, 0, -c * every.logprob) / by_class
    if options.lse_square_scale:
        rows = rows + options.lse_square_scale * every.lse.square() / by_z_loss
    if options.sharpness is not None:
        mask = torch.ones_like(rows) if arguments.penalty_mask is None else arguments.penalty_mask
        factor = torch.where((by_mask == 0) | (mask == 0), 0, options.penalty_coef * mask / by_mask)
        value = reference.penalty_value(row_state(parts), options.sharpness.kind)
        rows = rows + torch.where(factor == 0, 0, factor * value)
    rows = torch.where(parts.s.isnan(), torch.nan, rows)
    if arguments.token_weight is not None:
        rows = arguments.token_weight * rows
    return torch.where(dead, 0, rows)
