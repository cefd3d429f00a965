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

from typing import Any

import torch
from torch import Tensor
from torch.library import Library

from fluxcore.ops import _linear_cross_entropy_passes as passes
from fluxcore.ops._cross_entropy_backends import Options
from fluxcore.ops._cross_entropy_op import OPTIONS_SCHEMA
from fluxcore.ops._linear_filter import nothing_left_out, times_upstream
from fluxcore.ops._linear_head import PLAN_SCHEMA, Plan, Wanted, no_gradients
from fluxcore.ops._linear_op import LinearOp

_TENSORS = (
    "Tensor input, Tensor linear_weight, Tensor? linear_bias, Tensor target, Tensor? weight, Tensor? token_weight,"
    " Tensor? penalty_mask, Tensor? filter_sums"
)
_library = Library("fluxcore", "FRAGMENT")
_tags = (torch.Tag.pt2_compliant_tag,)
_library.define(
    f"linear_cross_entropy_fwd({_TENSORS}, {OPTIONS_SCHEMA}, {PLAN_SCHEMA}, bool[3] wanted)"
    " -> (Tensor loss, Tensor stats, Tensor argmax, Tensor state, Tensor top_index, Tensor totals,"
    " Tensor input_gradient, Tensor weight_gradient, Tensor bias_gradient, Tensor left_out)",
    tags=_tags,
)
_library.define(
    f"linear_cross_entropy_bwd(Tensor upstream, {_TENSORS}, Tensor argmax, Tensor state, Tensor top_index,"
    f" Tensor totals, {OPTIONS_SCHEMA}, {PLAN_SCHEMA}, bool[3] wanted)"
    " -> (Tensor input_gradient, Tensor weight_gradient, Tensor bias_gradient, Tensor left_out)",
    tags=_tags,
)


class _MadeAtOnce(LinearOp):
    """An op whose forward pass makes gradients that an upstream one need only multiply.

    What is left out of them comes to the user as the gradient of `filter_sums`, and autograd adds it up over passes.
    """

    places = (*LinearOp.places, passes.Arguments._fields.index("filter_sums"))

    def save(self, ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        super().save(ctx, inputs, output)
        ctx.made = tuple(inputs[-1])
        ctx.made_gradients = output[6:] if any(ctx.made) else None

    def gradients(self, ctx: Any, upstream: Tensor, needed: list[bool]) -> tuple[Tensor, ...]:
        gradients, ctx.made_gradients = ctx.made_gradients, None
        missing = any(need and not made for need, made in zip(needed, ctx.made, strict=True))
        # With create_graph the op is called, because it knows how to refuse a second derivative.
        if gradients is None or missing or torch.is_grad_enabled():
            return super().gradients(ctx, upstream, needed)
        *gradients, left_out = gradients
        left_out = times_upstream(left_out, upstream) if ctx.needs_input_grad[self.places[-1]] else left_out
        if _is_functionalised():  # by a compiler, which would copy them before a change in place
            return *(gradient * upstream for gradient in gradients), left_out
        for gradient in gradients:
            torch.ops.fluxcore.scale_(gradient, upstream)
        return *gradients, left_out

    def empty_gradients(self, *args: Any) -> tuple[Tensor, ...]:
        return *super().empty_gradients(*args), nothing_left_out(args[1].device)


def _is_functionalised() -> bool:
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FUNCTIONAL) is not None


def _empty_results(arguments: passes.Arguments, options: Options, plan: Plan, rest: Any) -> tuple[Tensor, ...]:
    wanted = Wanted(*rest[0])
    results = passes.empty_results(arguments, options, plan)[:-1]
    return *results, *no_gradients(*arguments[:3], wanted), nothing_left_out(results[0].device)


_MadeAtOnce("linear_cross_entropy", passes.SIGNATURE, passes.SAVED, "cross_entropy").register(
    _library, passes.forward, passes.backward, _empty_results
)

linear_cross_entropy_fwd = torch.ops.fluxcore.linear_cross_entropy_fwd
