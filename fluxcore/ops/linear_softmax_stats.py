"""Softmax statistics straight from hidden states, without ever storing all logits: public function."""

from collections.abc import Collection

import torch
from torch import Tensor

from fluxcore.ops._linear_checks import check_linear, logits_stand_in, plan_of
from fluxcore.ops._linear_op import compute_dtype_of
from fluxcore.ops._linear_schedule import LinearOptions, Passes
from fluxcore.ops._linear_softmax_stats_op import linear_softmax_stats_fwd
from fluxcore.ops.softmax_stats import checked_arguments, named_stats
from fluxcore.reference import SoftmaxStats


def linear_softmax_stats(
    input: Tensor,  # noqa: A002 -- torch's name
    linear_weight: Tensor,
    target: Tensor | None = None,
    *,
    linear_bias: Tensor | None = None,
    outputs: Collection[str],
    top_k: int | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    options: LinearOptions | None = None,
) -> SoftmaxStats:
    """`fluxcore.softmax_stats` of the logits input linear_weight^T + linear_bias, a chunk of which exists at a time.

    The statistics and their gradients are those of `softmax_stats` on the logits that `torch.nn.functional.linear`
    would give, up to the rounding of the matrix products. Any upstream gradient of any output and row is taken, as PPO
    or GRPO give them; the backward pass makes the logits again: 2 N V D operations forward, and 2 N V D backward for
    them and for each gradient that is needed.

    Rows whose upstream gradients are all 0 get no matrix product in the backward pass on a CPU. On a GPU, where to know
    their number would mean to wait, they are only left out by the kernels over the logits.

    Under `torch.autocast` the products are in its dtype, whatever that of the arguments; sums stay in float32. Results
    are bitwise equal from run to run for the same options, number of threads and device.

    Args:
        input: [..., D], hidden states, float32, bfloat16, float16 or float64.
        linear_weight: [V, D], of the dtype of `input` unless under autocast.
        target: [...], integer classes; needed for `logprob`.
        linear_bias: [V], or None.
        outputs: Names of the statistics wanted, the fields of `SoftmaxStats`.
        top_k: Number of classes in `top_k_mass`, within [1, min(V, 64)].
        temperature: Finite and > 0.
        softcap: Finite and > 0, or None.
        options: Workspace and chunks; None to have them chosen.

    Returns:
        `SoftmaxStats`, fields [...] in nats; float64 for float64 input, else float32 (argmax: int64); None where not
        asked for. Every real one is differentiable by `input`, `linear_weight` and `linear_bias`, once.

    Raises:
        TypeError: a tensor has a wrong dtype, or `options` is no `LinearOptions`.
        ValueError: a shape, device, name or number out of range, a workspace too small for one row, or a backend that
            cannot run here.
        RuntimeError: a second derivative is asked for.
    """
    check_linear(input, linear_weight, linear_bias)
    logits = logits_stand_in(input, linear_weight)
    bits, flat_target = checked_arguments(logits, target, outputs, top_k, temperature, softcap)
    needed = torch.is_grad_enabled() and (input.requires_grad or linear_weight.requires_grad)
    passes = Passes(False, False, needed, mergeable=top_k is None)
    shape = input.shape[:-1]
    stats, argmax, _, _ = linear_softmax_stats_fwd(
        input if input.dim() == 2 else input.reshape(shape.numel(), input.shape[-1]),
        linear_weight,
        linear_bias,
        flat_target,
        bits,
        top_k or 0,
        float(temperature),
        float(softcap or 0),
        *plan_of(options, logits.shape[-1], compute_dtype_of(input), passes),
    )
    return named_stats(stats, argmax, bits, outputs, shape)
