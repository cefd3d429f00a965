"""The op `kl_div` on each backend; layouts of its results are described beside the op's schema."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fluxcore import _core, reference
from fluxcore.backends import Backend
from fluxcore.ops._checks import wide_dtype
from fluxcore.ops._dispatch import DTYPE_NAMES, backend_of, contiguous_rows, pointer, row_stride_0_or_1

BACKENDS: tuple[Backend, ...] = ("triton", "cpp", "reference")
"""Those that have this op."""


class Results(NamedTuple):
    """What the forward op returns."""

    loss: Tensor
    state: Tensor
    totals: Tensor


def forward(
    logits: Tensor,
    ref_logits: Tensor,
    token_weight: Tensor | None,
    direction: str,
    beta: float,
    reduction: str,
    temperature: float,
) -> Results:
    """Implementation of `fluxcore::kl_div_fwd` for every device."""
    logits, ref_logits = contiguous_rows(logits), contiguous_rows(ref_logits)
    results = empty_results(logits, reduction)
    match backend_of("kl_div", BACKENDS, logits.device):
        case "cpp":
            arguments = [*_addresses(logits, ref_logits, token_weight), direction, beta, reduction, temperature]
            arguments += [*(result.data_ptr() for result in results), torch.get_num_threads()]
            _core.kl_div_fwd(*arguments)
        case "triton":
            from fluxcore.kernels.kl_div import launch_kl_div_fwd

            launch_kl_div_fwd(logits, ref_logits, token_weight, direction, beta, reduction, temperature, *results)
        case _:
            _reference_forward(logits, ref_logits, token_weight, direction, beta, reduction, temperature, results)
    return results


def backward(
    upstream: Tensor,
    logits: Tensor,
    ref_logits: Tensor,
    token_weight: Tensor | None,
    state: Tensor,
    totals: Tensor,
    direction: str,
    beta: float,
    reduction: str,
    temperature: float,
    gradient: Tensor | None = None,
) -> Tensor:
    """Implementation of `fluxcore::kl_div_bwd` for every device: the gradient, contiguous, in logits' dtype.

    `gradient` is where it is written, if not into new memory.
    """
    logits, ref_logits = contiguous_rows(logits), contiguous_rows(ref_logits)
    if gradient is None:
        gradient = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
    match backend_of("kl_div", BACKENDS, logits.device):
        case "cpp":
            upstream = row_stride_0_or_1(upstream)
            arguments: list[Any] = [upstream.data_ptr(), upstream.stride(0) if upstream.dim() else 0]
            arguments += [*_addresses(logits, ref_logits, token_weight), state.data_ptr(), totals.data_ptr()]
            arguments += [direction, beta, reduction, temperature, gradient.data_ptr(), torch.get_num_threads()]
            _core.kl_div_bwd(*arguments)
        case "triton":
            from fluxcore.kernels.kl_div_gradient import launch_kl_div_bwd

            upstream = row_stride_0_or_1(upstream)
            options = (direction, beta, reduction, temperature)
            launch_kl_div_bwd(upstream, logits, ref_logits, token_weight, state, totals, *options, gradient)
        case _:
            weight = state.new_ones(logits.shape[0]) if token_weight is None else token_weight
            scale = upstream * weight
            row_grads = torch.where(scale == 0, 0, scale / totals[0])
            pair = reference.paired(logits, ref_logits, temperature)
            full = reference.kl_div_grad(pair, row_grads, direction=direction, beta=beta, temperature=temperature)
            gradient.copy_(torch.where(row_grads.unsqueeze(-1) == 0, 0, full))
    return gradient


def empty_results(logits: Tensor, reduction: str) -> Results:
    """Uninitialised results of the forward pass of `logits` [N, V]."""
    N = logits.shape[0]
    dtype, device = wide_dtype(logits), logits.device
    return Results(
        loss=torch.empty((N,) if reduction == "none" else (), dtype=dtype, device=device),
        state=torch.empty((5, N), dtype=dtype, device=device),
        totals=torch.empty((1,), dtype=dtype, device=device),
    )


def _addresses(logits: Tensor, ref_logits: Tensor, token_weight: Tensor | None) -> list[Any]:
    """The tensors, as the C++ functions take them."""
    return [
        logits.data_ptr(),
        ref_logits.data_ptr(),
        DTYPE_NAMES[logits.dtype],
        *logits.shape,
        logits.stride(0),
        ref_logits.stride(0),
        pointer(token_weight),
    ]


def _reference_forward(
    logits: Tensor,
    ref_logits: Tensor,
    token_weight: Tensor | None,
    direction: str,
    beta: float,
    reduction: str,
    temperature: float,
    results: Results,
) -> None:
    weight = results.state.new_ones(logits.shape[0]) if token_weight is None else token_weight
    results.loss.copy_(
        reference.kl_div(
            logits,
            ref_logits,
            direction=direction,
            beta=beta,
            token_weight=token_weight,
            reduction=reduction,
            temperature=temperature,
        )
    )
    results.totals.copy_(reference.kl_total(weight, reduction))
    results.state.copy_(reference.kl_state(logits, ref_logits, direction, beta, temperature))
    results.state.masked_fill_(weight == 0, 0)
