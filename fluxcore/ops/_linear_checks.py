"""Checks that the linear ops share. All can be traced by `torch.compile`; none reads a tensor's values."""

import torch
from torch import Tensor

from fluxcore.ops._checks import DTYPES, check_dense
from fluxcore.ops._linear_head import Plan
from fluxcore.ops._linear_schedule import LinearOptions, Passes, check_options


def check_linear(hidden: Tensor, weight: Tensor, bias: Tensor | None, prefix: str = "") -> None:
    """Hidden states [..., D], and a weight [V, D] and bias [V] that fit them.

    Args:
        hidden: The argument `input`.
        weight: The argument `linear_weight`.
        bias: The argument `linear_bias`.
        prefix: Of all three names.
    """
    _check_floating(f"{prefix}input", hidden, "\n\nDid you pass token ids? Hidden states go into the model's head.")
    way_out = "\n\nA quantised head has to be dequantised first: `.dequantize()`, or its integers times their scales."
    _check_floating(f"{prefix}linear_weight", weight, way_out)
    if hidden.dim() == 0:
        raise ValueError(f"`{prefix}input` must have a last dim of hidden states, got a scalar")
    if weight.dim() != 2 or weight.shape[0] == 0:
        raise ValueError(f"`{prefix}linear_weight` must be [V, D] with V >= 1, got {tuple(weight.shape)}")
    if weight.shape[1] != hidden.shape[-1]:
        raise ValueError(
            f"`{prefix}linear_weight` must have a column for each of the {hidden.shape[-1]} hidden states of "
            f"`{prefix}input`, got {tuple(weight.shape)}\n\nIt is [V, D], as that of `torch.nn.Linear`."
        )
    if bias is not None:
        _check_floating(f"{prefix}linear_bias", bias, "")
        if bias.shape != weight.shape[:1]:
            raise ValueError(
                f"`{prefix}linear_bias` must have one element a class, {weight.shape[0]}, got {tuple(bias.shape)}"
            )
    for name, value in ((f"{prefix}linear_weight", weight), (f"{prefix}linear_bias", bias)):
        if value is not None:
            _check_alike(name, value, f"{prefix}input", hidden)


def _check_floating(name: str, value: Tensor, way_out: str) -> None:
    check_dense(name, value)
    if value.is_quantized or value.dtype not in DTYPES:
        raise TypeError(f"`{name}` must be float32, bfloat16, float16 or float64, got {value.dtype}{way_out}")


def _check_alike(name: str, value: Tensor, of: str, hidden: Tensor) -> None:
    if value.device != hidden.device:
        way_out = "\n\nIts values have not been loaded." if value.is_meta else ""
        raise ValueError(f"`{name}` must be on the device of `{of}`, {hidden.device}, got {value.device}{way_out}")
    if value.dtype != hidden.dtype and not torch.is_autocast_enabled(hidden.device.type):
        raise TypeError(
            f"`{name}` must have the dtype of `{of}`, {hidden.dtype}, got {value.dtype}"
            "\n\nConvert one of them, or call it under `torch.autocast`."
        )


def logits_stand_in(hidden: Tensor, weight: Tensor) -> Tensor:
    """[..., V] of the shape, dtype and device of the logits, without their memory: for checks against logits."""
    return hidden.new_empty((1,) * hidden.dim()).expand(*hidden.shape[:-1], weight.shape[0])


def plan_of(
    options: LinearOptions | None, V: int, dtype: torch.dtype, passes: Passes, *, can_filter: bool = False
) -> Plan:
    """The plan as arguments of an op, whose autocast rule sets the dtype."""
    options = check_options(options, V, dtype, passes)
    gradient_filter = options.gradient_filter
    if gradient_filter is not None and not can_filter:
        raise ValueError("`options.gradient_filter` must be None but in `linear_cross_entropy`, got a GradientFilter")
    sizes = (options.workspace_bytes or 0, options.rows or 0, options.classes or 0)
    live_rows = 0 if options.live_rows is None else max(1, options.live_rows)
    filter_below = 0.0 if gradient_filter is None else gradient_filter.threshold
    return Plan(*sizes, options.fused, live_rows, filter_below, options.accumulate, None)


def filter_sums(options: LinearOptions | None, hidden: Tensor) -> Tensor | None:
    """Where autograd adds up what the filter of `options` leaves out, if there is one."""
    if options is None or options.gradient_filter is None:
        return None
    sums = options.gradient_filter.sums
    if sums.device != hidden.device:
        raise ValueError(
            f"`options.gradient_filter` must be on the device of `input`, {hidden.device}, got {sums.device}"
            f'\n\nMake it with GradientFilter(..., device="{hidden.device}").'
        )
    return sums
