"""`linear_cross_entropy` on every device: chunks of logits by the platform's matrix product, then our row kernels."""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fluxcore import reference
from fluxcore.backends import Backend, resolve_backend
from fluxcore.ops import _cross_entropy_backends as row_kernels
from fluxcore.ops import _linear_cross_entropy_parts as parts
from fluxcore.ops._cross_entropy_backends import Options, Results
from fluxcore.ops._linear_filter import nothing_left_out
from fluxcore.ops._linear_fused import Product, is_fused, makes_state_again, product_of
from fluxcore.ops._linear_fused import row_parts as fused_row_parts
from fluxcore.ops._linear_head import LinearHead, Plan, Wanted, no_gradients
from fluxcore.ops._linear_op import Signature
from fluxcore.ops._linear_row_parts import RowParts, Statistics, rows_over_all_classes
from fluxcore.ops._linear_rows import LiveRows, Rows, live_rows, put, raise_if_too_many, take, take_or_none
from fluxcore.target_check import raise_if_out_of_range, targets_are_checked


class Arguments(NamedTuple):
    """The tensors of both ops, in the order of their schemas."""

    input: Tensor
    """[N, D]"""
    linear_weight: Tensor
    """[V, D]"""
    linear_bias: Tensor | None
    """[V]"""
    target: Tensor
    """[N] int64, or probabilities [N, V]."""
    weight: Tensor | None
    """[V]"""
    token_weight: Tensor | None
    """[N]"""
    penalty_mask: Tensor | None
    """[N]"""
    filter_sums: Tensor | None
    """[4], `GradientFilter.sums`: of no account but for autograd."""


SIGNATURE = Signature(Arguments, Options)
_IN_ROWS = ("target", "token_weight", "penalty_mask")
SAVED = slice(2, 6)
"""The results from `argmax` up to `totals`, which the backward op takes."""
_ROW_DIMS = (1, 0, 1, 0)  # of stats, argmax, state, top_index


def forward(*args: Any) -> tuple[Tensor, ...]:
    """Implementation of `fluxcore::linear_cross_entropy_fwd`: of the row kernels, `Gradients`, `left_out`."""
    arguments, options, plan, (wanted,) = SIGNATURE.split_forward(args)
    if not arguments.target.is_floating_point() and targets_are_checked():
        raise_if_out_of_range(arguments.target, arguments.linear_weight.shape[0], options.ignore_index)
    dead = _dead(arguments, options)
    if targets_are_checked():
        raise_if_too_many(dead, plan.live_rows)
    wanted = Wanted(*wanted)
    mergeable = parts.is_mergeable(options, arguments.target)
    fused = not any(wanted) and is_fused(*_where(arguments, plan), plan, mergeable=mergeable)
    head = None if fused else _head(arguments, options, plan, wanted, at_once=any(wanted))
    results = empty_results(arguments, options, plan)
    results.totals.copy_(_totals(arguments, options, results.totals.dtype))
    live = LiveRows(dead.shape[0], dead=dead) if fused or options.outputs else live_rows(dead, plan.live_rows)
    if live.chosen is not None:
        for value in (results.loss, results.argmax, results.state, results.top_index):
            value.zero_()
    if head is not None:
        head.live = live
    if head is not None and head.is_whole:
        rows_loss = _forward_whole(head, arguments, options, results, wanted)
    else:
        left_out = None if options.outputs else dead
        row_parts = partial(_row_parts, head, arguments, plan, left_out)
        rows_loss = parts.forward(
            row_parts, head if any(wanted) else None, arguments, options, results, dead, plan.live_rows
        )
    rows_loss = live.mark_missing(rows_loss)
    results.loss.copy_(rows_loss if options.reduction == "none" else reference.sum_of_rows(rows_loss, results.totals))
    if head is None:
        return *results[:-1], *no_gradients(*arguments[:3], wanted), nothing_left_out(results.loss.device)
    return *results[:-1], *head.gradients(), head.left_out()


def _where(arguments: Arguments, plan: Plan) -> tuple[Product, Backend, str]:
    device = arguments.input.device
    return product_of(*arguments[:2], plan), resolve_backend(device), device.type


def _row_parts(
    head: LinearHead | None,
    arguments: Arguments,
    plan: Plan,
    dead: Tensor | None,
    statistics: Statistics,
) -> RowParts:
    """Without a head in the epilogue of the product, in which `dead` rows are left out if they are given."""
    if head is None:
        return fused_row_parts(*arguments[:3], arguments.target, statistics, plan, dead)
    return rows_over_all_classes(head, arguments.target, statistics)


def _forward_whole(
    head: LinearHead,
    arguments: Arguments,
    options: Options,
    results: Results,
    wanted: Wanted,
) -> Tensor:
    """As `parts.forward`, in chunks of all classes."""
    rows_loss = torch.zeros_like(results.state[0])
    given = options._replace(reduction="given")
    for rows in head.chunks():
        logits = head.logits(rows)
        part = row_kernels.empty_results(logits, given, False)
        part.totals.copy_(results.totals)
        if any(wanted):
            part = part._replace(gradient=logits)
        row_kernels.forward(logits, *_row_inputs(head, arguments, options, rows), *given, any(wanted), results=part)
        put(rows_loss, rows, part.loss)
        for whole, own, dim in zip(results[1:5], part[1:5], _ROW_DIMS, strict=True):
            put(whole, rows, own, dim)
        if any(wanted):
            head.add(rows, part.gradient)
    return rows_loss


def backward(*args: Any) -> tuple[Tensor, ...]:
    """Implementation of `fluxcore::linear_cross_entropy_bwd`: makes the logits of each chunk again.

    `Gradients`, and what is left out of them.
    """
    upstream, arguments, saved, options, plan, wanted = SIGNATURE.split_backward(args)
    *by_rows, totals = saved
    head = _head(arguments, options, plan, wanted)
    dead = _dead(arguments, options) | (upstream == 0)
    if not head.is_whole:
        parts.backward(head, upstream, arguments, options, saved, dead, plan.live_rows)
        return *head.gradients(), head.left_out()
    head.live = live_rows(dead, plan.live_rows)
    again = makes_state_again(*_where(arguments, plan), plan, mergeable=parts.is_mergeable(options, arguments.target))
    given = options._replace(reduction="given", outputs=0)
    for rows in head.chunks():
        logits = head.logits(rows)
        # The kernels take a chunk's state to be contiguous.
        own = [take(value, rows, dim).contiguous() for value, dim in zip(by_rows, _ROW_DIMS[1:], strict=True)]
        if again:
            results = row_kernels.empty_results(logits, given, False)
            results.totals.copy_(totals)
            row_kernels.forward(logits, *_row_inputs(head, arguments, options, rows), *given, False, results=results)
            own = [results.argmax, results.state, results.top_index]
        gradient = row_kernels.backward(
            take(upstream, rows) if upstream.dim() else upstream,
            logits,
            *_row_inputs(head, arguments, options, rows),
            *own,
            totals,
            *options,
            gradient=logits,
        )
        head.add(rows, gradient)
    return *head.gradients(), head.left_out()


def empty_results(arguments: Arguments, options: Options, plan: Plan) -> Results:
    """Uninitialised results of the forward pass; its gradient of the logits has no rows."""
    N, V = arguments.input.shape[0], arguments.linear_weight.shape[0]
    logits = arguments.input.new_empty((1, 1), dtype=plan.compute_dtype).expand(N, V)
    return row_kernels.empty_results(logits, options, False)


def _head(arguments: Arguments, options: Options, plan: Plan, wanted: Wanted, *, at_once: bool = False) -> LinearHead:
    mergeable = parts.is_mergeable(options, arguments.target)
    return LinearHead(*arguments[:3], plan, wanted, mergeable=mergeable, at_once=at_once)


def _dead(arguments: Arguments, options: Options) -> Tensor:
    """Rows [N] without loss or gradient."""
    ones = arguments.input.new_ones(arguments.input.shape[0])
    a = ones if arguments.token_weight is None else arguments.token_weight
    V = arguments.linear_weight.shape[0]
    return reference.dead_and_invalid_rows(arguments.target, V, a, options.ignore_index)[0]


def _totals(arguments: Arguments, options: Options, dtype: torch.dtype) -> Tensor:
    """The divisors over all rows: they depend on no logit."""
    ones = torch.ones(arguments.input.shape[0], dtype=torch.float64, device=arguments.input.device)
    a, mask = (ones if value is None else value.double() for value in (arguments.token_weight, arguments.penalty_mask))
    weight = None if arguments.weight is None else arguments.weight.double()
    V = arguments.linear_weight.shape[0]
    totals = reference.reduction_totals(arguments.target, V, weight, a, mask, options.ignore_index, options.reduction)
    return totals.to(dtype)


def _row_inputs(
    head: LinearHead, arguments: Arguments, options: Options, rows: Rows
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Target, class weights, token weights and penalty mask of the rows of a chunk."""
    target, token_weight, penalty_mask = (take_or_none(getattr(arguments, name), rows) for name in _IN_ROWS)
    assert target is not None
    target = target.to(head.dtype) if target.is_floating_point() else head.places(target, options.ignore_index)
    assert target is not None
    return target, head.padded(arguments.weight), token_weight, penalty_mask
