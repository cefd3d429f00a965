"""Cross entropy with all that training adds to it, in one pass forward and one backward: public function and checks."""

import math
from collections.abc import Collection
from typing import Literal, overload

import torch
from torch import Tensor

from fluxcore.ops._checks import (
    check_choice,
    check_logits,
    check_no_gradient,
    check_same_device,
    check_softcap,
    check_temperature,
    check_top_k,
    checked_classes,
    checked_row_weights,
    wide_dtype,
)
from fluxcore.ops._cross_entropy_backends import Options, Results, output_names
from fluxcore.ops._cross_entropy_op import cross_entropy_fwd
from fluxcore.ops.softmax_stats import REAL_OUTPUTS, output_bits
from fluxcore.reference import SoftmaxStats
from fluxcore.sharpness import Sharpness

Reduction = Literal["none", "mean", "sum", "token_mean"]
Link = Literal["softmax", "stablemax"]
REDUCTIONS = ("none", "mean", "sum", "token_mean")
LINKS = ("softmax", "stablemax")
_ARGMAX_BIT = 1 << len(REAL_OUTPUTS)


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
        penalty_mask: [...], bool or weights of the rows in the penalty.
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
    options = _options(
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
    flat_target = _flat_target(target, logits, ignore_index, return_stats)
    arguments = (
        logits if logits.dim() == 2 else logits.reshape(shape.numel(), logits.shape[-1]),
        flat_target,
        _class_weights(weight, logits),
        checked_row_weights("token_weight", token_weight, logits),
        checked_row_weights("penalty_mask", penalty_mask, logits),
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


def _options(
    V: int,
    *,
    link: str,
    reduction: str,
    ignore_index: int,
    label_smoothing: float,
    lse_square_scale: float,
    penalty: Sharpness | None,
    return_stats: Collection[str] | None,
    temperature: float,
    softcap: float | None,
) -> Options:
    check_choice("link", link, LINKS)
    check_choice("reduction", reduction, REDUCTIONS)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"`label_smoothing` must be within [0, 1], got {label_smoothing}")
    if not 0 <= lse_square_scale < math.inf:
        raise ValueError(f"`lse_square_scale` must be finite and >= 0, got {lse_square_scale}")
    check_temperature(temperature)
    check_softcap(softcap)
    if penalty is not None and not isinstance(penalty, Sharpness):
        raise TypeError(f"`penalty` must be a Sharpness, or None for none, got {penalty!r}")
    outputs = 0
    if return_stats is not None:
        outputs = output_bits(return_stats, "return_stats") | (_ARGMAX_BIT if "argmax" in return_stats else 0)
        if "top_k_mass" in return_stats and (penalty is None or penalty.k is None):
            raise ValueError(
                "`return_stats` can have top_k_mass only with a penalty of that kind, whose k it shares, got "
                f"{penalty}\n\n`fluxcore.softmax_stats` takes a `top_k` of its own."
            )
    if link == "stablemax":
        _check_plain(lse_square_scale, penalty, return_stats, temperature, softcap)
    k = 0 if penalty is None or penalty.k is None else penalty.k
    if k:
        check_top_k("penalty.k", k, V)
    return Options(
        link=link,
        reduction=reduction,
        ignore_index=ignore_index,
        label_smoothing=float(label_smoothing),
        lse_square_scale=float(lse_square_scale),
        penalty="" if penalty is None else penalty.kind.value,
        penalty_coef=0.0 if penalty is None else float(penalty.coef),
        top_k=k,
        outputs=outputs,
        temperature=float(temperature),
        softcap=float(softcap or 0),
    )


def _check_plain(
    lse_square_scale: float,
    penalty: Sharpness | None,
    return_stats: Collection[str] | None,
    temperature: float,
    softcap: float | None,
) -> None:
    """StableMax has no log-sum-exp, and the statistics are those of the softmax."""
    given = {
        "lse_square_scale": lse_square_scale != 0,
        "penalty": penalty is not None,
        "return_stats": return_stats is not None,
        "temperature": temperature != 1,
        "softcap": softcap is not None,
    }
    names = [f"`{name}`" for name, is_given in given.items() if is_given]
    if names:
        raise ValueError(
            f'`link` = "stablemax" goes without {", ".join(names)}, which are of the softmax'
            '\n\nTake link="softmax", or `fluxcore.softmax_stats` for statistics of the same logits.'
        )


def _flat_target(target: Tensor, logits: Tensor, ignore_index: int, return_stats: Collection[str] | None) -> Tensor:
    """[N] int64, or probabilities [N, V]."""
    if not target.is_floating_point():
        return checked_classes("target", target, logits).reshape(-1)
    if target.shape != logits.shape:
        raise ValueError(
            f"`target` must have the shape of `logits`, {tuple(logits.shape)}, when it holds probabilities, "
            f"got {tuple(target.shape)}\n\nClasses are an integer tensor of shape {tuple(logits.shape[:-1])}."
        )
    if target.dtype != logits.dtype:
        raise TypeError(
            f"`target` must have the dtype of `logits`, {logits.dtype}, as probabilities, got {target.dtype}"
        )
    check_same_device("target", target, logits)
    check_no_gradient("target", target)
    if ignore_index >= 0:
        raise ValueError(f"`ignore_index` is of no use for a `target` of probabilities, got {ignore_index}")
    if return_stats is not None and "logprob" in return_stats:
        raise ValueError("`return_stats` can have logprob only for a `target` of classes, got probabilities")
    return target.reshape(-1, target.shape[-1])


def _class_weights(weight: Tensor | None, logits: Tensor) -> Tensor | None:
    if weight is None:
        return None
    if weight.shape != logits.shape[-1:]:
        raise ValueError(f"`weight` must have one element a class, {logits.shape[-1]}, got {tuple(weight.shape)}")
    if not weight.is_floating_point():
        raise TypeError(f"`weight` must be floating point, got {weight.dtype}")
    check_same_device("weight", weight, logits)
    check_no_gradient("weight", weight)
    return weight.to(wide_dtype(logits))
