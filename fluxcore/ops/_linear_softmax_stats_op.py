"""The `torch.library` ops behind `linear_softmax_stats`: schema, passes, fake, gradient, autocast.

`input` [N, D], `linear_weight` [V, D], `linear_bias` [V]; all else is that of `softmax_stats` on the logits
input linear_weight^T + linear_bias (fluxcore/ops/softmax_stats.py). Nothing of size N V is saved: the backward pass
makes the logits of each chunk again. Each row has upstream gradients of its own, so that none of the products can be
made before they are known.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.library import Library

from fluxcore.backends import Backend, resolve_backend
from fluxcore.ops import _softmax_stats_backends as row_kernels
from fluxcore.ops._cross_entropy_backends import output_names
from fluxcore.ops._linear_fused import Product, is_fused, makes_state_again, product_of
from fluxcore.ops._linear_fused import forward as fused_forward
from fluxcore.ops._linear_head import PLAN_SCHEMA, Gradients, LinearHead, Plan, Wanted
from fluxcore.ops._linear_op import LinearOp, Signature
from fluxcore.ops._linear_row_parts import RowParts, Statistics, add_gradients, rows_over_all_classes, statistics_of
from fluxcore.ops._linear_rows import live_rows, put, take, take_or_none

_ROW_DIMS = (1, 0, 1, 0)  # of stats, argmax, state, top_index


class _Arguments(NamedTuple):
    """Those that both passes have, in the order of the schema."""

    input: Tensor
    linear_weight: Tensor
    linear_bias: Tensor | None
    target: Tensor | None


class _Options(NamedTuple):
    outputs: int
    top_k: int
    temperature: float
    softcap: float


_OPTIONS = "int outputs, int top_k, float temperature, float softcap"
_TENSORS = "Tensor input, Tensor linear_weight, Tensor? linear_bias, Tensor? target"
_SAVED = "Tensor argmax, Tensor state, Tensor top_index"
_signature = Signature(_Arguments, _Options)
_library = Library("fluxcore", "FRAGMENT")
_tags = (torch.Tag.pt2_compliant_tag,)
_library.define(
    f"linear_softmax_stats_fwd({_TENSORS}, {_OPTIONS}, {PLAN_SCHEMA})"
    " -> (Tensor stats, Tensor argmax, Tensor state, Tensor top_index)",
    tags=_tags,
)
_library.define(
    f"linear_softmax_stats_bwd(Tensor grads, {_TENSORS}, {_SAVED}, {_OPTIONS}, {PLAN_SCHEMA}, bool[3] wanted)"
    " -> (Tensor input_gradient, Tensor weight_gradient, Tensor bias_gradient)",
    tags=_tags,
)


def forward(*args: Any) -> row_kernels.Results:
    """Implementation of `fluxcore::linear_softmax_stats_fwd` for every device."""
    arguments, options, plan, _ = _signature.split_forward(args)
    hidden, weight, bias, target = arguments
    if is_fused(*_where(arguments, plan), plan, mergeable=options.top_k == 0):
        return fused_forward(hidden, weight, bias, target, _statistics(options), plan)
    head = LinearHead(*arguments[:3], plan, Wanted(False, False, False), mergeable=options.top_k == 0)
    results = _empty_results(arguments, options, plan)
    if not head.is_whole:
        parts = rows_over_all_classes(head, target, _statistics(options))
        return _put_parts(parts, target, options, results)
    for rows in head.chunks():
        part = row_kernels.forward(head.logits(rows), head.places(take_or_none(target, rows)), *options)
        for whole, own, dim in zip(results, part, _ROW_DIMS, strict=True):
            put(whole, rows, own, dim)
    return results


def backward(*args: Any) -> Gradients:
    """Implementation of `fluxcore::linear_softmax_stats_bwd`: rows whose upstream gradients are all 0 are left out."""
    grads, arguments, saved, options, plan, wanted = _signature.split_backward(args)
    head = LinearHead(*arguments[:3], plan, wanted, mergeable=options.top_k == 0)
    head.live = live_rows((grads == 0).all(0), plan.live_rows)
    if not head.is_whole:
        argmax, state, _ = saved
        m, s, t, spread, x_y, _ = state.double()
        parts = RowParts(m, s, t, spread, x_y, argmax)
        add_gradients(head, grads, arguments.target, parts, _statistics(options))
        return head.gradients()
    again = makes_state_again(*_where(arguments, plan), plan, mergeable=options.top_k == 0)
    for rows in head.chunks():
        logits, target = head.logits(rows), head.places(take_or_none(arguments.target, rows))
        if again:
            _, argmax, state, top_index = row_kernels.forward(logits, target, *options)
        else:
            argmax, state, top_index = (
                take(value, rows, dim).contiguous() for value, dim in zip(saved, _ROW_DIMS[1:], strict=True)
            )
        gradient = row_kernels.backward(
            take(grads, rows, 1),
            logits,
            target,
            argmax,
            state,
            top_index,
            *options,
            logits,
        )
        head.add(rows, gradient)
    return head.gradients()


def _where(arguments: _Arguments, plan: Plan) -> tuple[Product, Backend, str]:
    device = arguments.input.device
    return product_of(*arguments[:2], plan), resolve_backend(device), device.type


def _statistics(options: _Options) -> Statistics:
    return Statistics(options.outputs, options.temperature, options.softcap)


def _put_parts(
    parts: RowParts, target: Tensor | None, options: _Options, results: row_kernels.Results
) -> row_kernels.Results:
    """Fill the results as the row kernels do."""
    stats, argmax, state, _ = results
    every = statistics_of(parts, target)
    for to, name in zip(stats, output_names(options.outputs), strict=True):
        to.copy_(getattr(every, name))
    argmax.copy_(parts.argmax)
    state.copy_(torch.stack((*parts[:5], torch.zeros_like(parts.m))))
    return results


def _empty_results(arguments: _Arguments, options: _Options, plan: Plan, *_: object) -> row_kernels.Results:
    N, V = arguments.input.shape[0], arguments.linear_weight.shape[0]
    logits = arguments.input.new_empty((1, 1), dtype=plan.compute_dtype).expand(N, V)
    return row_kernels.empty_results(logits, options.outputs, options.top_k)


LinearOp("linear_softmax_stats", _signature, slice(1, None), "softmax_stats").register(
    _library, forward, backward, _empty_results
)

linear_softmax_stats_fwd = torch.ops.fluxcore.linear_softmax_stats_fwd
