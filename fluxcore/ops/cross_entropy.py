"""Cross entropy with all that training adds to it, in one pass forward and one backward: public function and checks."""

from collections.abc import Collection
from typing import Literal, overload

import torch
from torch import Tensor

from fluxcore.ops._checks import check_logits, checked_row_weights
from fluxcore.ops._cross_entropy_backends import Results, output_names
from fluxcore.ops._cross_entropy_checks import checked_class_weights, checked_options, checked_penalty_mask, flat_target
from fluxcore.ops._cross_entropy_op import cross_entropy_fwd
from fluxcore.reference import SoftmaxStats
from fluxcore.sharpness import Sharpness

Reduction = Literal["none", "mean", "sum", "token_mean"]
Link = Literal["softmax", "stablemax"]


@overload
def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
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
) -> Tensor: ...


@overload
def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
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
) -> tuple[Tensor, SoftmaxStats]: ...


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
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
) -> Tensor | tuple[Tensor, SoftmaxStats]:
    """Cross entropy, with z-loss, label smoothing, weights and a sharpness penalty, in one read of the logits.

    As `torch.nn.functional.cross_entropy`, but classes are the last dim, the loss of half-precision logits is float32,
    and nothing cancels: at margin 30 over 50304 classes the loss is 4.9e-9 and not 0, and so is the gradient's size at
    the target. The loss of a row is

        token_weight * (cross entropy + lse_square_scale * lse^2 + penalty.coef * penalty_mask * penalty)

    and `reduction` makes of them: "none", the rows; "sum", their sum; otherwise the sum of each term over a divisor:

        "mean"        weight[target] for cross entropy, 1 for z-loss, token_weight * penalty_mask for penalty
        "token_mean"  token_weight, token_weight, token_weight * penalty_mask

    summed over the rows that count, those whose target is not `ignore_index`. If the penalty's divisor is 0 it is left
    out. Class weights act on the cross entropy alone.

    A row that is ignored, or whose token_weight is 0, has loss 0 and gradient 0 whatever its logits. If none counts,
    "mean" and "token_mean" are NaN, as in torch, and the gradient 0. A target outside [0, V) that is not
    `ignore_index` makes loss and gradient of its row NaN, without waiting for the device; within
    `fluxcore.check_targets` it raises. A logit of -inf means p = 0 and gets gradient 0; a class of weight 0 then adds
    nothing. A NaN or +inf, or a row that is all -inf, has loss NaN.

    Args:
        logits: [..., V], float32, bfloat16, float16 or float64. A last dim that is not contiguous is copied first.
        target: [...], integer classes, or [..., V] probabilities in the dtype of `logits` (`ignore_index` is of no use
            then, and "mean" divides by the number of rows, as in torch).
        weight: [V], weights of the classes.
        token_weight: [...], weights of the rows; any sign.
        ignore_index: Class of the rows that do not count.
        reduction: "mean", "token_mean", "sum" or "none".
        label_smoothing: Within [0, 1]; share of the uniform distribution in the target, weighted as in torch.
        lse_square_scale: >= 0; factor of the z-loss lse^2.
        softcap: Finite and > 0, or None. Applied before the temperature: softcap * tanh(logits / softcap).
        temperature: Finite and > 0; divides the logits.
        penalty: Which statistic of the softmax to add, and how much of it. Of equal logits the first index is the
            largest, or within the top k.
        penalty_mask: [...], bool or weights of the rows in the penalty; only with a `penalty`.
        link: "softmax", or "stablemax": p is proportional to x + 1 for x >= 0 and to 1 / (1 - x) below
            (arXiv:2501.04697), with neither penalty, z-loss, softcap, temperature nor statistics.
        return_stats: Names of statistics to return, fields of `SoftmaxStats`; of every row, ignored ones too.
            "top_k_mass" is that of the penalty's k.

    Returns:
        The loss, [] or, for "none", [...], in nats; float64 for float64 logits, else float32. Differentiable by
        `logits`, once. With `return_stats` a pair (loss, `SoftmaxStats`), the statistics [...] detached.

    Raises:
        TypeError: `logits` or another tensor has a wrong dtype.
        ValueError: a shape, device, name or number out of range, options that exclude each other, an argument other
            than `logits` that requires grad, or a backend that cannot run here.
        RuntimeError: a second derivative is asked for.

    Source: online normalizer, arXiv:1805.02867, with the largest logit kept out of the sums.
    """
    check_logits(logits)
    options = checked_options(
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
    shape = logits.shape[:-1]
    flat_targets = flat_target(target, logits, ignore_index, return_stats)
    arguments = (
        logits if logits.dim() == 2 else logits.reshape(shape.numel(), logits.shape[-1]),
        flat_targets,
        checked_class_weights(weight, logits),
        checked_row_weights("token_weight", token_weight, logits),
        checked_penalty_mask(penalty_mask, penalty, logits),
    )
    results = Results(*cross_entropy_fwd(*arguments, *options, _make_gradient_now(logits, reduction)))
    loss = results.loss.reshape(shape) if reduction == "none" else results.loss
    if return_stats is None:
        return loss
    fields = dict(zip(output_names(options.outputs), results.stats.unbind(0), strict=True))
    if "argmax" in return_stats:
        fields["argmax"] = results.argmax
    return loss, SoftmaxStats(**{name: value.reshape(shape) for name, value in fields.items()})


def _make_gradient_now(logits: Tensor, reduction: str) -> bool:
    """Whether the forward pass makes the gradient too: then the logits are read from memory only once.

    Not in float16, where a gradient divided by the number of rows underflows before a loss scale can save it, and not
    in a compiled function, where the gradient that is scaled in place would be copied.
    """
    differentiable = logits.requires_grad and torch.is_grad_enabled() and reduction != "none"
    return differentiable and logits.dtype != torch.float16 and not torch.compiler.is_compiling()
