"""Cross entropy straight from hidden states, without ever storing all logits: public function."""

from collections.abc import Collection
from typing import overload

import torch
from torch import Tensor

from fluxcore.ops._checks import checked_row_weights
from fluxcore.ops._cross_entropy_backends import output_names
from fluxcore.ops._cross_entropy_checks import checked_class_weights, checked_options, checked_penalty_mask, flat_target
from fluxcore.ops._linear_checks import check_linear, filter_sums, logits_stand_in, plan_of
from fluxcore.ops._linear_cross_entropy_op import linear_cross_entropy_fwd
from fluxcore.ops._linear_cross_entropy_parts import is_mergeable
from fluxcore.ops._linear_head import Wanted
from fluxcore.ops._linear_op import compute_dtype_of
from fluxcore.ops._linear_schedule import LinearOptions, Passes
from fluxcore.ops.cross_entropy import Link, Reduction
from fluxcore.reference import SoftmaxStats
from fluxcore.sharpness import Sharpness


@overload
def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    token_weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    lse_square_scale: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    penalty: Sharpness | None = None,
    penalty_mask: Tensor | None = None,
    link: Link = "softmax",
    return_stats: None = None,
    options: LinearOptions | None = None,
) -> Tensor: ...


@overload
def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    token_weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    lse_square_scale: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    penalty: Sharpness | None = None,
    penalty_mask: Tensor | None = None,
    link: Link = "softmax",
    return_stats: Collection[str],
    options: LinearOptions | None = None,
) -> tuple[Tensor, SoftmaxStats]: ...


def linear_cross_entropy(
    input: Tensor,  # noqa: A002 -- torch's name
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    token_weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    lse_square_scale: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    penalty: Sharpness | None = None,
    penalty_mask: Tensor | None = None,
    link: Link = "softmax",
    return_stats: Collection[str] | None = None,
    options: LinearOptions | None = None,
) -> Tensor | tuple[Tensor, SoftmaxStats]:
    """`fluxcore.cross_entropy` of the logits input linear_weight^T + linear_bias, a chunk of which exists at a time.

    The loss, its options, its rows that do not count and its statistics are those of `cross_entropy` on the logits
    that `torch.nn.functional.linear` would give, up to the rounding of the matrix products. A scalar loss makes its
    gradients while the logits are there, in 6 N V D operations; with reduction "none", in float16 and in a second
    backward pass the logits are made again, in 8 N V D; and so they are where the workspace holds too few rows, and
    chunks have fewer than all classes (see `LinearOptions.classes`). The gradient of an argument that needs none is not
    made.

    Rows that do not count get no matrix product on a CPU, nor do rows whose upstream gradient is 0 (unless
    `return_stats` asks for the statistics of every row). On a GPU, where to know their number would mean to wait, they
    are only left out by the kernels over the logits, and by the one that stores none (`LinearOptions.fused`). Either
    way what `input` holds there is of no effect.

    Under `torch.autocast` the products are in its dtype, whatever that of the arguments; sums stay in float32, and the
    gradient of a float32 weight is not rounded to half precision on its way.

    Results are bitwise equal from run to run for the same options, number of threads and device.

    Args:
        input: [..., D], hidden states, float32, bfloat16, float16 or float64.
        linear_weight: [V, D], of the dtype of `input` unless under autocast. May be tied to an embedding.
        target: [...], integer classes, or [..., V] probabilities in the dtype of `input`.
        linear_bias: [V], or None.
        weight: As in `cross_entropy`, and so are all from here on. [V].
        token_weight: [...].
        ignore_index: Class of the rows that do not count.
        reduction: "mean", "token_mean", "sum" or "none".
        label_smoothing: Within [0, 1].
        lse_square_scale: >= 0.
        softcap: Finite and > 0, or None.
        temperature: Finite and > 0.
        penalty: Which statistic of the softmax to add, and how much of it.
        penalty_mask: [...].
        link: "softmax" or "stablemax".
        return_stats: Names of statistics to return, fields of `SoftmaxStats`.
        options: Workspace and chunks; None to have them chosen.

    Returns:
        The loss, [] or, for "none", [...], in nats; float64 for float64 input, else float32. Differentiable by
        `input`, `linear_weight` and `linear_bias`, once. With `return_stats` a pair (loss, `SoftmaxStats`), the
        statistics [...] detached; `fluxcore.linear_softmax_stats` gives differentiable ones.

    Raises:
        TypeError: a tensor has a wrong dtype, or `options` is no `LinearOptions`.
        ValueError: a shape, device, name or number out of range, options that exclude each other, a workspace too small
            for one row, another argument that requires grad, or a backend that cannot run here.
        RuntimeError: a second derivative is asked for.
    """
    check_linear(input, linear_weight, linear_bias)
    logits = logits_stand_in(input, linear_weight)
    row_options = checked_options(
        logits.shape[-1],
        link=link,
        reduction=reduction,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        lse_square_scale=lse_square_scale,
        penalty=penalty,
        return_stats=return_stats,
        temperature=temperature,
        softcap=softcap,
    )
    shape = input.shape[:-1]
    dtype = compute_dtype_of(input)
    is_fused = isinstance(options, LinearOptions) and options.fused
    wanted = _gradients_now(input, linear_weight, linear_bias, "none" if is_fused else reduction, dtype)
    needed = torch.is_grad_enabled() and (input.requires_grad or linear_weight.requires_grad)
    flat = flat_target(target, logits, ignore_index, return_stats)
    passes = Passes(wanted.input, wanted.weight, needed, mergeable=is_mergeable(row_options, flat), at_once=any(wanted))
    plan = plan_of(options, logits.shape[-1], dtype, passes, can_filter=True)
    results = linear_cross_entropy_fwd(
        input if input.dim() == 2 else input.reshape(shape.numel(), input.shape[-1]),
        linear_weight,
        linear_bias,
        flat,
        checked_class_weights(weight, logits),
        checked_row_weights("token_weight", token_weight, logits),
        checked_penalty_mask(penalty_mask, penalty, logits),
        filter_sums(options, input) if needed else None,
        *row_options,
        *plan,
        wanted,
    )
    loss: Tensor = results[0].reshape(shape) if reduction == "none" else results[0]
    if return_stats is None:
        return loss
    fields = dict(zip(output_names(row_options.outputs), results[1].unbind(0), strict=True))
    if "argmax" in return_stats:
        fields["argmax"] = results[2]
    return loss, SoftmaxStats(**{name: value.reshape(shape) for name, value in fields.items()})


def _gradients_now(hidden: Tensor, weight: Tensor, bias: Tensor | None, reduction: str, dtype: torch.dtype) -> Wanted:
    """Which gradients the forward pass makes, so that the logits need not be made again.

    None in float16, where a gradient divided by the number of rows underflows before a loss scale can save it.
    """
    if not torch.is_grad_enabled() or reduction == "none" or dtype == torch.float16:
        return Wanted(False, False, False)
    return Wanted(hidden.requires_grad, weight.requires_grad, bias is not None and bias.requires_grad)
