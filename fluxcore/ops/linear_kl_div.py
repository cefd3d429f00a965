"""Divergence of two models straight from their hidden states, without storing all logits: public function."""

import torch
from torch import Tensor

from fluxcore.ops._checks import check_no_gradient, checked_row_weights
from fluxcore.ops._linear_checks import check_linear, logits_stand_in, plan_of
from fluxcore.ops._linear_kl_div_op import linear_kl_div_fwd
from fluxcore.ops._linear_op import compute_dtype_of
from fluxcore.ops._linear_schedule import LinearOptions, Passes
from fluxcore.ops.cross_entropy import Reduction
from fluxcore.ops.kl_div import Direction, check_divergence


def linear_kl_div(
    input: Tensor,  # noqa: A002 -- torch's name
    linear_weight: Tensor,
    ref_input: Tensor,
    ref_linear_weight: Tensor,
    *,
    linear_bias: Tensor | None = None,
    ref_linear_bias: Tensor | None = None,
    direction: Direction = "policy_ref",
    beta: float = 0.5,
    token_weight: Tensor | None = None,
    reduction: Reduction = "mean",
    temperature: float = 1.0,
    options: LinearOptions | None = None,
) -> Tensor:
    """`fluxcore.kl_div` of the logits of two heads over the same classes, a chunk of which exists at a time.

    The policy's logits are input linear_weight^T + linear_bias, the reference's ref_input ref_linear_weight^T +
    ref_linear_bias: the hidden sizes may differ, as in distillation, the classes may not. The divergence, its options
    and its gradient are those of `kl_div` on these logits, up to the rounding of the matrix products. The backward pass
    makes both logits again. Rows whose token_weight or upstream gradient is 0 get no matrix product on a CPU; what the
    inputs hold there is of no effect.

    Under `torch.autocast` the products are in its dtype. Results are bitwise equal from run to run for the same
    options, number of threads and device.

    Args:
        input: [..., D], the policy's hidden states, float32, bfloat16, float16 or float64.
        linear_weight: [V, D], of the dtype of `input` unless under autocast.
        ref_input: [..., R], of that dtype too; must not require grad, nor the two other tensors of the reference.
        ref_linear_weight: [V, R].
        linear_bias: [V], or None.
        ref_linear_bias: [V], or None.
        direction: "policy_ref", "ref_policy" or "jsd".
        beta: Within (0, 1); the policy's share of the mixture. Of use for "jsd" alone.
        token_weight: [...], factor of each row.
        reduction: "none"; "sum"; "mean", the sum / number of rows; or "token_mean", the sum / sum of token_weight.
        temperature: Finite and > 0; divides both logits.
        options: Workspace and chunks; None to have them chosen.

    Returns:
        [], or [...] for "none"; nats, >= 0; float64 for float64 input, else float32. Differentiable by `input`,
        `linear_weight` and `linear_bias`, once.

    Raises:
        TypeError: a tensor has a wrong dtype, or `options` is no `LinearOptions`.
        ValueError: a shape, device, name or number out of range, a workspace too small for one row, an argument of the
            reference that requires grad, or a backend that cannot run here.
        RuntimeError: a second derivative is asked for.
    """
    check_linear(input, linear_weight, linear_bias)
    _check_reference(input, linear_weight, ref_input, ref_linear_weight, ref_linear_bias)
    check_divergence(direction, beta, reduction, temperature)
    logits = logits_stand_in(input, linear_weight)
    shape = input.shape[:-1]
    needed = torch.is_grad_enabled() and (input.requires_grad or linear_weight.requires_grad)
    results = linear_kl_div_fwd(
        input.reshape(shape.numel(), input.shape[-1]),
        linear_weight,
        linear_bias,
        ref_input.reshape(shape.numel(), ref_input.shape[-1]),
        ref_linear_weight,
        ref_linear_bias,
        checked_row_weights("token_weight", token_weight, logits),
        direction,
        float(beta),
        reduction,
        float(temperature),
        *plan_of(options, logits.shape[-1], compute_dtype_of(input), Passes(False, False, needed, heads=2)),
    )
    loss: Tensor = results[0]
    return loss.reshape(shape) if reduction == "none" else loss


def _check_reference(
    hidden: Tensor, weight: Tensor, ref_hidden: Tensor, ref_weight: Tensor, ref_bias: Tensor | None
) -> None:
    check_linear(ref_hidden, ref_weight, ref_bias, prefix="ref_")
    if ref_hidden.shape[:-1] != hidden.shape[:-1]:
        raise ValueError(
            f"`ref_input` must have the rows of `input`, {tuple(hidden.shape[:-1])}, got {tuple(ref_hidden.shape[:-1])}"
        )
    if ref_weight.shape[0] != weight.shape[0]:
        raise ValueError(
            f"`ref_linear_weight` must have the classes of `linear_weight`, {weight.shape[0]}, "
            f"got {ref_weight.shape[0]}\n\nTwo models can be compared if they share a tokenizer."
        )
    if ref_hidden.device != hidden.device:
        raise ValueError(f"`ref_input` must be on the device of `input`, {hidden.device}, got {ref_hidden.device}")
    if ref_hidden.dtype != hidden.dtype and not torch.is_autocast_enabled(hidden.device.type):
        raise TypeError(f"`ref_input` must have the dtype of `input`, {hidden.dtype}, got {ref_hidden.dtype}")
    for name, value in (("ref_input", ref_hidden), ("ref_linear_weight", ref_weight), ("ref_linear_bias", ref_bias)):
        if value is not None:
            check_no_gradient(name, value)
