"""The `torch.library` ops behind `linear_cross_entropy`: schema, fake, gradient, autocast.

`input` [N, D], `linear_weight` [V, D], `linear_bias` [V]; other tensors, and the results of the forward op up to
`totals`, are those of `cross_entropy` on the logits input linear_weight^T + linear_bias
(fluxcore/ops/_cross_entropy_op.py). `wanted` says by which of input, weight and bias the forward op makes the gradient
of its loss at once; a gradient not wanted has no rows.

A scalar loss has one upstream gradient, so that all three products of a chunk can be made while its logits are there:
6 N V D operations. The first backward pass then multiplies these gradients by the upstream one; a second one through
the same graph, and that of a loss for each row, makes the logits again: 8 N V D.

Under autocast the products are in its dtype, as those of `torch.nn.functional.linear`; sums over rows and classes stay
in float32, and so does the gradient of a float32 weight.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.library import Library, register_autograd, register_fake

from fluxcore.ops import _linear_cross_entropy_passes as passes
from fluxcore.ops._cross_entropy_op import OPTIONS_SCHEMA
from fluxcore.ops._linear_head import PLAN_SCHEMA, Gradients, register_compute_dtype

_TENSORS = (
    "Tensor input, Tensor linear_weight, Tensor? linear_bias, Tensor target, Tensor? weight, Tensor? token_weight,"
    " Tensor? penalty_mask"
)
_library = Library("fluxcore", "FRAGMENT")
_tags = (torch.Tag.pt2_compliant_tag,)
_library.define(
    f"linear_cross_entropy_fwd({_TENSORS}, {OPTIONS_SCHEMA}, {PLAN_SCHEMA}, bool[3] wanted)"
    " -> (Tensor loss, Tensor stats, Tensor argmax, Tensor state, Tensor top_index, Tensor totals,"
    " Tensor input_gradient, Tensor weight_gradient, Tensor bias_gradient)",
    tags=_tags,
)
_library.define(
    f"linear_cross_entropy_bwd(Tensor upstream, {_TENSORS}, Tensor argmax, Tensor state, Tensor top_index,"
    f" Tensor totals, {OPTIONS_SCHEMA}, {PLAN_SCHEMA}, bool[3] wanted)"
    " -> (Tensor input_gradient, Tensor weight_gradient, Tensor bias_gradient)",
    tags=_tags,
)
_library.impl("linear_cross_entropy_fwd", passes.forward, "CompositeExplicitAutograd")
_library.impl("linear_cross_entropy_bwd", passes.backward, "CompositeExplicitAutograd")
_COMPUTE_DTYPE = passes.TENSORS + passes.OPTIONS + passes.PLAN - 1
register_compute_dtype(_library, "linear_cross_entropy_fwd", _COMPUTE_DTYPE)


def _forward_fake(*args: Any) -> tuple[Tensor, ...]:
    arguments, options, plan, wanted = passes.split_forward(args)
    return *passes.empty_results(arguments, options, plan)[:-1], *passes.empty_gradients(arguments, wanted)


def _backward_fake(*args: Any) -> Gradients:
    _, arguments, _, _, _, wanted = passes.split_backward(args)
    return passes.empty_gradients(arguments, wanted)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    arguments, ctx.options = inputs[: passes.TENSORS], inputs[passes.TENSORS : -1]
    ctx.save_for_backward(*arguments, *output[2:6])  # argmax, state, top_index, totals
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.made = tuple(inputs[-1])
    ctx.gradients = output[6:] if any(ctx.made) else None


def _backward(ctx: Any, upstream: Tensor | None, *_: object) -> tuple[Tensor | None, ...]:
    nothing = [None] * (len(ctx.options) + passes.TENSORS + 1)
    if upstream is None:
        return tuple(nothing)
    needed = list(ctx.needs_input_grad[:3])
    gradients, ctx.gradients = ctx.gradients, None
    missing = any(need and not made for need, made in zip(needed, ctx.made, strict=True))
    # With create_graph the op is called, because it knows how to refuse a second derivative.
    if gradients is None or missing or torch.is_grad_enabled():
        backward: Callable[..., tuple[Tensor, ...]] = torch.ops.fluxcore.linear_cross_entropy_bwd
        gradients = backward(upstream, *ctx.saved_tensors, *ctx.options, needed)
    elif type(upstream) is not Tensor:  # traced by a compiler, which would copy them before a change in place
        gradients = [gradient * upstream for gradient in gradients]
    else:
        for gradient in gradients:
            torch.ops.fluxcore.scale_(gradient, upstream)
    return *(value if need else None for value, need in zip(gradients, needed, strict=True)), *nothing[3:]


def _refuse_double_backward(ctx: object, *_: object) -> None:
    raise RuntimeError(
        "`linear_cross_entropy` can be differentiated once, and a second derivative was asked for"
        "\n\n`fluxcore.reference.cross_entropy` of `torch.nn.functional.linear` is differentiable as often as you like."
    )


register_fake("fluxcore::linear_cross_entropy_fwd", _forward_fake, lib=_library)
register_fake("fluxcore::linear_cross_entropy_bwd", _backward_fake, lib=_library)
register_autograd("fluxcore::linear_cross_entropy_fwd", _backward, setup_context=_save, lib=_library)
register_autograd("fluxcore::linear_cross_entropy_bwd", _refuse_double_backward, lib=_library)

linear_cross_entropy_fwd = torch.ops.fluxcore.linear_cross_entropy_fwd
