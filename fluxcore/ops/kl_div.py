"""Divergence of two rows of logits in one pass: public function, checks, `torch.library` op and its gradient."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.library import Library, register_autograd, register_fake

from fluxcore.ops import _kl_div_backends as backends
from fluxcore.ops._checks import (
    check_choice,
    check_logits,
    check_no_gradient,
    check_same_device,
    check_temperature,
    checked_row_weights,
)
from fluxcore.ops._cross_entropy_checks import REDUCTIONS
from fluxcore.ops.cross_entropy import Reduction

Direction = Literal["policy_ref", "ref_policy", "jsd"]
DIRECTIONS = ("policy_ref", "ref_policy", "jsd")


def kl_div(
    logits: Tensor,
    ref_logits: Tensor,
    *,
    direction: Direction = "policy_ref",
    beta: float = 0.5,
    token_weight: Tensor | None = None,
    reduction: Reduction = "mean",
    temperature: float = 1.0,
) -> Tensor:
    """Divergence between the softmax p of a policy's logits and the softmax r of a reference's, over all classes.

    Not `torch.nn.functional.kl_div`, which takes log-probabilities. With M = beta p + (1 - beta) r

        policy_ref  KL(p || r)       ref_policy  KL(r || p)       jsd  beta KL(p || M) + (1 - beta) KL(r || M)

    Exactly 0 where the two are equal, and right in all digits where they nearly are: 4e-13 and not 1e-7. (TRL's
    generalised JSD of the same name has 1 - beta for beta.)

    A row whose token_weight is 0 has divergence 0 and gradient 0 whatever its logits. Logits of -inf mean probability 0
    and get gradient 0; a class that only the second distribution excludes makes KL(first || second) inf. NaN, +inf and
    rows that are all -inf give NaN.

    Args:
        logits: [..., V], float32, bfloat16, float16 or float64, the policy's.
        ref_logits: Of the same shape, dtype and device; must not require grad.
        direction: "policy_ref", "ref_policy" or "jsd".
        beta: Within (0, 1); the policy's share of M. Of use for "jsd" alone.
        token_weight: [...], factor of each row.
        reduction: "none"; "sum"; "mean", the sum / number of rows; or "token_mean", the sum / sum of token_weight.
        temperature: Finite and > 0; divides both logits.

    Returns:
        [], or [...] for "none"; nats, >= 0; "jsd" at most beta log(1/beta) + (1-beta) log(1/(1-beta)). float64 for
        float64 logits, else float32. Differentiable by `logits`, once.

    Raises:
        TypeError: another dtype, or two of them.
        ValueError: a shape, device, name or number out of range, an argument other than `logits` that requires grad, or
            a backend that cannot run here.
        RuntimeError: a second derivative is asked for.

    Source: the terms p log(p/q) + q - p, never negative, are those of http://joschu.net/blog/kl-approx.html (k3).
    """
    check_logits(logits)
    _check_reference(ref_logits, logits)
    check_divergence(direction, beta, reduction, temperature)
    shape, V = logits.shape[:-1], logits.shape[-1]
    results = torch.ops.fluxcore.kl_div_fwd(
        logits.reshape(shape.numel(), V),
        ref_logits.reshape(shape.numel(), V),
        checked_row_weights("token_weight", token_weight, logits),
        direction,
        float(beta),
        reduction,
        float(temperature),
    )
    loss: Tensor = results[0]
    return loss.reshape(shape) if reduction == "none" else loss


def check_divergence(direction: str, beta: float, reduction: str, temperature: float) -> None:
    """Names that exist, numbers within their ranges."""
    check_choice("direction", direction, DIRECTIONS)
    check_choice("reduction", reduction, REDUCTIONS)
    check_temperature(temperature)
    if not 0 < beta < 1:
        raise ValueError(f"`beta` must be within (0, 1), got {beta}\n\nAt 0 or 1 the jsd is 0; see `direction`.")


def _check_reference(ref_logits: Tensor, logits: Tensor) -> None:
    if ref_logits.dtype != logits.dtype:
        raise TypeError(f"`ref_logits` must have the dtype of `logits`, {logits.dtype}, got {ref_logits.dtype}")
    if ref_logits.shape != logits.shape:
        raise ValueError(
            f"`ref_logits` must have the shape of `logits`, {tuple(logits.shape)}, got {tuple(ref_logits.shape)}"
        )
    check_same_device("ref_logits", ref_logits, logits)
    check_no_gradient("ref_logits", ref_logits)


# The op. `logits` and `ref_logits` [N, V], `token_weight` [N] of the loss's dtype. Returns
#   loss [] or, for reduction none, [N]; float32 (float64 for float64 logits)
#   state [5, N]: m, s (fluxcore.reference.RowState, of the policy), pivot, shift, centre, such that
#   l = log(p/r) = (logits - ref_logits) / temperature - pivot - shift, and the gradient is p (l - centre) or, for jsd,
#   beta p (log(p/M) - centre); totals [1], what the reduction divides by
_library = Library("fluxcore", "FRAGMENT")
_tags = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order)
_library.define(
    "kl_div_fwd(Tensor logits, Tensor ref_logits, Tensor? token_weight, str direction, float beta, str reduction,"
    " float temperature) -> (Tensor loss, Tensor state, Tensor totals)",
    tags=_tags,
)
_library.define(
    "kl_div_bwd(Tensor upstream, Tensor logits, Tensor ref_logits, Tensor? token_weight, Tensor state, Tensor totals,"
    " str direction, float beta, str reduction, float temperature) -> Tensor",
    tags=_tags,
)
_library.impl("kl_div_fwd", backends.forward, "CompositeExplicitAutograd")
_library.impl("kl_div_bwd", backends.backward, "CompositeExplicitAutograd")


def _forward_fake(logits: Tensor, *rest: Any) -> backends.Results:
    return backends.empty_results(logits, rest[-2])


def _backward_fake(upstream: Tensor, logits: Tensor, *_: object) -> Tensor:
    return torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, state, totals = output
    ctx.save_for_backward(*inputs[:3], state, totals)
    ctx.mark_non_differentiable(state, totals)
    ctx.set_materialize_grads(False)
    ctx.options = inputs[3:]


def _backward(ctx: Any, upstream: Tensor | None, *_: object) -> tuple[Tensor | None, ...]:
    if upstream is None:
        return (None,) * 7
    gradient = torch.ops.fluxcore.kl_div_bwd(upstream, *ctx.saved_tensors, *ctx.options)
    return gradient, *[None] * 6


def _refuse_double_backward(ctx: object, *_: object) -> None:
    raise RuntimeError(
        "`kl_div` can be differentiated once, and a second derivative was asked for"
        "\n\n`fluxcore.reference.kl_div` is differentiable as often as you like, at PyTorch's speed."
    )


register_fake("fluxcore::kl_div_fwd", _forward_fake, lib=_library)
register_fake("fluxcore::kl_div_bwd", _backward_fake, lib=_library)
register_autograd("fluxcore::kl_div_fwd", _backward, setup_context=_save, lib=_library)
register_autograd("fluxcore::kl_div_bwd", _refuse_double_backward, lib=_library)
