"""The `torch.library` ops behind `cross_entropy`: schema, fake, gradient.

`logits` [N, V]; `target` [N] int64, or probabilities [N, V] of the logits' dtype; `weight` [V], `token_weight` [N] and
`penalty_mask` [N] of the loss's dtype, which is float32 (float64 for float64 logits). The forward op returns

    loss [] or, for reduction none, [N]      stats [number of statistics, N] in canonical order      argmax [N] int64
    state [7, N]: m, s, t, x_y, inside, outside (of `fluxcore.reference.RowState`), and the sum of all class weights c_i
        but the argmax's (probabilities only); for StableMax m is the sigma of the class that is kept out of the sums
        (the target, or with probabilities the argmax) and s the sum of all others
    top_index [N, top_k] int32       totals [4]: divisors of loss, z-loss and penalty, and the sum of the class weights
    gradient [N, V] of the loss by the logits if `with_gradient`, else [0, V]

where entries of the state that nothing needs may be 0. Backends share all this: a backward pass may run on another
than the forward. There is no autocast rule on purpose: logits of any dtype are computed in float32 at least.

A forward pass that can make the gradient at once (`with_gradient`) saves the backward a read of the logits from memory.
The first backward pass multiplies that gradient by the upstream one in place and hands it over; a second one through
the same graph has none left, and computes it from the logits.
"""

from typing import Any

import torch
from torch import Tensor
from torch.library import Library, register_autograd, register_fake

from fluxcore.ops import _cross_entropy_backends as backends

OPTIONS_SCHEMA = (
    "str link, str reduction, int ignore_index, float label_smoothing, float lse_square_scale, str penalty,"
    " float penalty_coef, int top_k, int outputs, float temperature, float softcap"
)
_library = Library("fluxcore", "FRAGMENT")
_tags = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order)
_library.define(
    "cross_entropy_fwd(Tensor logits, Tensor target, Tensor? weight, Tensor? token_weight, Tensor? penalty_mask,"
    f" {OPTIONS_SCHEMA}, bool with_gradient) -> (Tensor loss, Tensor stats, Tensor argmax, Tensor state,"
    " Tensor top_index, Tensor totals, Tensor gradient)",
    tags=_tags,
)
_library.define(
    "cross_entropy_bwd(Tensor upstream, Tensor logits, Tensor target, Tensor? weight, Tensor? token_weight,"
    " Tensor? penalty_mask, Tensor argmax, Tensor state, Tensor top_index, Tensor totals,"
    f" {OPTIONS_SCHEMA}) -> Tensor",
    tags=_tags,
)
_library.define("scale_(Tensor(a!) gradient, Tensor scale) -> ()", tags=_tags)
_library.impl("cross_entropy_fwd", backends.forward, "CompositeExplicitAutograd")
_library.impl("cross_entropy_bwd", backends.backward, "CompositeExplicitAutograd")
_library.impl("scale_", backends.scale_, "CompositeExplicitAutograd")


def _forward_fake(logits: Tensor, *rest: Any) -> backends.Results:
    return backends.empty_results(logits, backends.Options(*rest[4:-1]), rest[-1])


def _backward_fake(upstream: Tensor, logits: Tensor, *_: object) -> Tensor:
    return torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)


def _scale_fake(gradient: Tensor, scale: Tensor) -> None:
    return None


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    results = backends.Results(*output)
    ctx.save_for_backward(*inputs[:5], results.argmax, results.state, results.top_index, results.totals)
    ctx.mark_non_differentiable(*output[1:])
    # Else the backward pass is given zeros in the place of each of them, the [N, V] gradient included.
    ctx.set_materialize_grads(False)
    ctx.options = inputs[5:-1]
    ctx.gradient = results.gradient if inputs[-1] else None


def _backward(ctx: Any, upstream: Tensor | None, *_: object) -> tuple[Tensor | None, ...]:
    if upstream is None:
        return (None,) * 17
    gradient, ctx.gradient = ctx.gradient, None
    # With create_graph the op is called, because it knows how to refuse a second derivative.
    if gradient is None or torch.is_grad_enabled():
        gradient = torch.ops.fluxcore.cross_entropy_bwd(upstream, *ctx.saved_tensors, *ctx.options)
    else:
        torch.ops.fluxcore.scale_(gradient, upstream)
    return gradient, *[None] * 16


def _refuse_double_backward(ctx: object, *_: object) -> None:
    raise RuntimeError(
        "`cross_entropy` can be differentiated once, and a second derivative was asked for"
        "\n\n`fluxcore.reference.cross_entropy` is differentiable as often as you like, at PyTorch's speed."
    )


register_fake("fluxcore::cross_entropy_fwd", _forward_fake, lib=_library)
register_fake("fluxcore::cross_entropy_bwd", _backward_fake, lib=_library)
register_fake("fluxcore::scale_", _scale_fake, lib=_library)
register_autograd("fluxcore::cross_entropy_fwd", _backward, setup_context=_save, lib=_library)
register_autograd("fluxcore::cross_entropy_bwd", _refuse_double_backward, lib=_library)

cross_entropy_fwd = torch.ops.fluxcore.cross_entropy_fwd
