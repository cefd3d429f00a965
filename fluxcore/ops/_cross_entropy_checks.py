"""Checks of the arguments that `cross_entropy` and `linear_cross_entropy` share. None reads a tensor's values."""

import math
from collections.abc import Collection

from torch import Tensor

from fluxcore.ops._checks import (
    check_choice,
    check_dense,
    check_no_gradient,
    check_same_device,
    check_softcap,
    check_temperature,
    check_top_k,
    checked_classes,
    checked_row_weights,
    wide_dtype,
)
from fluxcore.ops._cross_entropy_backends import Options
from fluxcore.ops.softmax_stats import REAL_OUTPUTS, output_bits
from fluxcore.sharpness import Sharpness

REDUCTIONS = ("none", "mean", "sum", "token_mean")
LINKS = ("softmax", "stablemax")
_ARGMAX_BIT = 1 << len(REAL_OUTPUTS)


def checked_options(
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
    """The op's options for those of the public function, over V classes."""
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


def flat_target(target: Tensor, logits: Tensor, ignore_index: int, return_stats: Collection[str] | None) -> Tensor:
    """[N] int64, or probabilities [N, V]."""
    check_dense("target", target)
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


def checked_class_weights(weight: Tensor | None, logits: Tensor) -> Tensor | None:
    """`weight` [V] in the dtype of the loss, or None."""
    if weight is None:
        return None
    if weight.shape != logits.shape[-1:]:
        raise ValueError(f"`weight` must have one element a class, {logits.shape[-1]}, got {tuple(weight.shape)}")
    if not weight.is_floating_point():
        raise TypeError(f"`weight` must be floating point, got {weight.dtype}")
    check_same_device("weight", weight, logits)
    check_no_gradient("weight", weight)
    return weight.to(wide_dtype(logits))


def checked_penalty_mask(penalty_mask: Tensor | None, penalty: Sharpness | None, logits: Tensor) -> Tensor | None:
    """`penalty_mask` [N] in the dtype of the loss, or None; to ignore one without a penalty would hide a mistake."""
    if penalty_mask is not None and penalty is None:
        raise ValueError(
            "`penalty_mask` is only of use with a `penalty`, got one without"
            '\n\nFor a run without the penalty pass one with coef 0, such as `Sharpness("neg_entropy", 0.0)`.'
        )
    return checked_row_weights("penalty_mask", penalty_mask, logits)
