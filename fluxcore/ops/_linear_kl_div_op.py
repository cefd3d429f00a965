"""The `torch.library` ops behind `linear_kl_div`: schema, passes, fake, gradient, autocast.

`input` [N, D], `linear_weight` [V, D], `linear_bias` [V] of the policy, `ref_input` [N, R], `ref_linear_weight` [V, R],
`ref_linear_bias` [V] of the reference; all else is that of `kl_div` on the logits of both (fluxcore/ops/kl_div.py). The
backward pass makes the logits of each chunk again, and gradients by the policy's three alone.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.library import Library

from fluxcore import reference
from fluxcore.ops import _kl_div_backends as row_kernels
from fluxcore.ops._linear_head import PLAN_SCHEMA, Gradients, LinearHead, Plan, Wanted
from fluxcore.ops._linear_op import LinearOp, Signature
from fluxcore.ops._linear_rows import live_rows, put, take, take_or_none


class _Arguments(NamedTuple):
    """Those that both passes have, in the order of the schema."""

    input: Tensor
    linear_weight: Tensor
    linear_bias: Tensor | None
    ref_input: Tensor
    ref_linear_weight: Tensor
    ref_linear_bias: Tensor | None
    token_weight: Tensor | None


class _Options(NamedTuple):
    direction: str
    beta: float
    reduction: str
    temperature: float


_OPTIONS = "str direction, float beta, str reduction, float temperature"
_TENSORS = (
    "Tensor input, Tensor linear_weight, Tensor? linear_bias, Tensor ref_input, Tensor ref_linear_weight,"
    " Tensor? ref_linear_bias, Tensor? token_weight"
)
_NOTHING = Wanted(False, False, False)
_signature = Signature(_Arguments, _Options)
_library = Library("fluxcore", "FRAGMENT")
_tags = (torch.Tag.pt2_compliant_tag,)
_library.define(
    f"linear_kl_div_fwd({_TENSORS}, {_OPTIONS}, {PLAN_SCHEMA}) -> (Tensor loss, Tensor state, Tensor totals)",
    tags=_tags,
)
_library.define(
    f"linear_kl_div_bwd(Tensor upstream, {_TENSORS}, Tensor state, Tensor totals, {_OPTIONS}, {PLAN_SCHEMA},"
    " bool[3] wanted) -> (Tensor input_gradient, Tensor weight_gradient, Tensor bias_gradient)",
    tags=_tags,
)


def forward(*args: Any) -> row_kernels.Results:
    """Implementation of `fluxcore::linear_kl_div_fwd` for every device: rows of weight 0 are left out."""
    arguments, options, plan, _ = _signature.split_forward(args)
    results = _empty_results(arguments, options, plan)
    weight = _token_weight(arguments, results.state)
    results.totals.copy_(reference.kl_total(weight.double(), options.reduction))
    rows_loss = results.state.new_zeros(weight.shape)
    results.state.zero_()
    policy, ref = _heads(arguments, plan, _NOTHING)
    in_rows = options._replace(reduction="none")
    policy.live = live_rows(weight == 0, plan.live_rows)
    for rows in policy.chunks():
        part = row_kernels.forward(policy.logits(rows), ref.logits(rows), take(weight, rows), *in_rows)
        put(rows_loss, rows, part.loss)
        put(results.state, rows, part.state, 1)
    rows_loss = policy.live.mark_missing(torch.where(rows_loss == 0, 0, rows_loss / results.totals))
    results.loss.copy_(rows_loss if options.reduction == "none" else reference.sum_of_rows(rows_loss, results.totals))
    return results


def backward(*args: Any) -> Gradients:
    """Implementation of `fluxcore::linear_kl_div_bwd`: rows without weight or upstream gradient are left out."""
    upstream, arguments, (state, totals), options, plan, wanted = _signature.split_backward(args)
    weight = _token_weight(arguments, state)
    policy, ref = _heads(arguments, plan, wanted)
    policy.live = live_rows((weight == 0) | (upstream == 0), plan.live_rows)
    for rows in policy.chunks():
        logits = policy.logits(rows)
        gradient = row_kernels.backward(
            take(upstream, rows) if upstream.dim() else upstream,
            logits,
            ref.logits(rows),
            take_or_none(arguments.token_weight, rows),
            take(state, rows, 1).contiguous(),
            totals,
            *options,
            gradient=logits,
        )
        policy.add(rows, gradient)
    return policy.gradients()


def _heads(arguments: _Arguments, plan: Plan, wanted: Wanted) -> tuple[LinearHead, LinearHead]:
    """The policy's and the reference's, with chunks of the same rows."""
    shared = plan._replace(compute_dtype=plan.compute_dtype or arguments.input.dtype)
    policy = LinearHead(*arguments[:3], shared, wanted, others=1)
    ref = LinearHead(*arguments[3:6], shared._replace(rows=policy.tile.rows), _NOTHING)
    return policy, ref


def _token_weight(arguments: _Arguments, like: Tensor) -> Tensor:
    if arguments.token_weight is None:
        return torch.ones(arguments.input.shape[0], dtype=like.dtype, device=like.device)
    return arguments.token_weight


def _empty_results(arguments: _Arguments, options: _Options, plan: Plan, *_: object) -> row_kernels.Results:
    N, V = arguments.input.shape[0], arguments.linear_weight.shape[0]
    logits = arguments.input.new_empty((1, 1), dtype=plan.compute_dtype).expand(N, V)
    return row_kernels.empty_results(logits, options.reduction)


LinearOp("linear_kl_div", _signature, slice(1, None), "kl_div").register(_library, forward, backward, _empty_results)

linear_kl_div_fwd = torch.ops.fluxcore.linear_kl_div_fwd
