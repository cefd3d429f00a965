"""The `torch.library` ops behind `linear_kl_div`: schema, passes, fake, gradient, autocast.

`input` [N, D], `linear_weight` [V, D], `linear_bias` [V] of the policy, `ref_input` [N, R], `ref_linear_weight` [V, R],
`ref_linear_bias` [V] of the reference; all else is that of `kl_div` on the logits of both (fluxcore/ops/kl_div.py). The
backward pass makes the logits of each chunk again, and gradients by the policy's three alone.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.library import Library, register_autograd, register_fake

from fluxcore import reference
from fluxcore.ops import _kl_div_backends as row_kernels
from fluxcore.ops._linear_head import (
    PLAN_SCHEMA,
    Gradients,
    LinearHead,
    Plan,
    Wanted,
    live_rows,
    no_gradients,
    put,
    register_compute_dtype,
    take,
    take_or_none,
)


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
    arguments, options, plan = _Arguments(*args[:7]), _Options(*args[7:11]), Plan(*args[11:])
    results = _empty_results(arguments, options, plan)
    weight = _token_weight(arguments, results.state)
    results.totals.copy_(reference.kl_total(weight.double(), options.reduction))
    rows_loss = results.state.new_zeros(weight.shape)
    results.state.zero_()
    policy, ref = _heads(arguments, plan, _NOTHING, buffers=1)
    in_rows = options._replace(reduction="none")
    for rows in policy.chunks(live_rows(weight == 0)):
        part = row_kernels.forward(policy.logits(rows), ref.logits(rows), take(weight, rows), *in_rows)
        put(rows_loss, rows, part.loss)
        put(results.state, rows, part.state, 1)
    rows_loss = torch.where(rows_loss == 0, 0, rows_loss / results.totals)
    results.loss.copy_(rows_loss if options.reduction == "none" else reference.sum_of_rows(rows_loss, results.totals))
    return results


def backward(*args: Any) -> Gradients:
    """Implementation of `fluxcore::linear_kl_div_bwd`: rows without weight or upstream gradient are left out."""
    upstream, arguments, (state, totals) = args[0], _Arguments(*args[1:8]), args[8:10]
    options, plan, wanted = _Options(*args[10:14]), Plan(*args[14:18]), Wanted(*args[18])
    weight = _token_weight(arguments, state)
    dead = (weight == 0) | (upstream == 0)
    live = live_rows(dead)
    policy, ref = _heads(arguments, plan, wanted, buffers=2)
    for rows in policy.chunks(live):
        logits = policy.logits(rows)
        gradient = row_kernels.backward(
            take(upstream, rows) if upstream.dim() else upstream,
            logits,
            ref.logits(rows),
            take_or_none(arguments.token_weight, rows),
            take(state, rows, 1).contiguous(),
            totals,
            *options,
            gradient=policy.gradient_memory(logits.shape[0]),
        )
        policy.add(rows, gradient, take(dead, rows) if live is None else None)
    return policy.gradients()


_library.impl("linear_kl_div_fwd", forward, "CompositeExplicitAutograd")
_library.impl("linear_kl_div_bwd", backward, "CompositeExplicitAutograd")
register_compute_dtype(_library, "linear_kl_div_fwd", 14)


def _heads(arguments: _Arguments, plan: Plan, wanted: Wanted, *, buffers: int) -> tuple[LinearHead, LinearHead]:
    """The policy's and the reference's, with chunks of the same rows."""
    shared = plan._replace(compute_dtype=plan.compute_dtype or arguments.input.dtype)
    policy = LinearHead(*arguments[:3], shared, wanted, buffers=buffers, others=1)
    ref = LinearHead(*arguments[3:6], shared._replace(rows=policy.chunk), _NOTHING, buffers=1)
    return policy, ref


def _token_weight(arguments: _Arguments, like: Tensor) -> Tensor:
    if arguments.token_weight is None:
        return torch.ones(arguments.input.shape[0], dtype=like.dtype, device=like.device)
    return arguments.token_weight


def _empty_results(arguments: _Arguments, options: _Options, plan: Plan) -> row_kernels.Results:
    N, V = arguments.input.shape[0], arguments.linear_weight.shape[0]
    logits = arguments.input.new_empty((1, 1), dtype=plan.compute_dtype).expand(N, V)
    return row_kernels.empty_results(logits, options.reduction)


def _forward_fake(*args: Any) -> row_kernels.Results:
    return _empty_results(_Arguments(*args[:7]), _Options(*args[7:11]), Plan(*args[11:]))


def _backward_fake(*args: Any) -> Gradients:
    arguments = _Arguments(*args[1:8])
    return no_gradients(arguments.input, arguments.linear_weight, arguments.linear_bias, Wanted(*args[18]))


def _save(ctx: Any, inputs: tuple[Any, ...], output: row_kernels.Results) -> None:
    _, state, totals = output
    ctx.save_for_backward(*inputs[:7], state, totals)
    ctx.mark_non_differentiable(state, totals)
    ctx.set_materialize_grads(False)
    ctx.options = inputs[7:]


def _backward(ctx: Any, upstream: Tensor | None, *_: object) -> tuple[Tensor | None, ...]:
    if upstream is None:
        return (None,) * 15
    needed = list(ctx.needs_input_grad[:3])
    gradients = torch.ops.fluxcore.linear_kl_div_bwd(upstream, *ctx.saved_tensors, *ctx.options, needed)
    return *(value if need else None for value, need in zip(gradients, needed, strict=True)), *[None] * 12


def _refuse_double_backward(ctx: object, *_: object) -> None:
    raise RuntimeError(
        "`linear_kl_div` can be differentiated once, and a second derivative was asked for"
        "\n\n`fluxcore.reference.kl_div` of `torch.nn.functional.linear` is differentiable as often as you like."
    )


register_fake("fluxcore::linear_kl_div_fwd", _forward_fake, lib=_library)
register_fake("fluxcore::linear_kl_div_bwd", _backward_fake, lib=_library)
register_autograd("fluxcore::linear_kl_div_fwd", _backward, setup_context=_save, lib=_library)
register_autograd("fluxcore::linear_kl_div_bwd", _refuse_double_backward, lib=_library)

linear_kl_div_fwd = torch.ops.fluxcore.linear_kl_div_fwd
