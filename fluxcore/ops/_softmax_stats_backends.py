"""The op `softmax_stats` on each backend; layouts of its results are described beside the op's schema."""

import torch
from torch import Tensor

from fluxcore import _core, reference
from fluxcore.backends import resolve_backend
from fluxcore.reference import RowState, SoftmaxStats

Results = tuple[Tensor, Tensor, Tensor, Tensor]


def forward(
    logits: Tensor, target: Tensor | None, outputs: int, top_k: int, temperature: float, softcap: float
) -> Results:
    """Implementation of `fluxcore::softmax_stats_fwd` for every device."""
    rows = _contiguous_rows(logits)
    if target is not None:
        target = target.contiguous()
    results = empty_results(logits, outputs, top_k)
    match resolve_backend(logits.device):
        case "cpp":
            stats, argmax, state, top_index = results
            _core.softmax_stats_fwd(
                rows.data_ptr(),
                _DTYPE_NAMES[rows.dtype],
                rows.shape[0],
                rows.shape[1],
                rows.stride(0),
                0 if target is None else target.data_ptr(),
                outputs,
                top_k,
                temperature,
                softcap,
                stats.data_ptr(),
                argmax.data_ptr(),
                state.data_ptr(),
                top_index.data_ptr(),
                torch.get_num_threads(),
            )
        case "triton":
            from fluxcore.kernels.softmax_stats import launch_softmax_stats_fwd

            launch_softmax_stats_fwd(rows, target, outputs, top_k, temperature, softcap, *results)
        case "reference":
            _reference_forward(rows, target, outputs, top_k, temperature, softcap, results)
    return results


def backward(
    grads: Tensor,
    logits: Tensor,
    target: Tensor | None,
    argmax: Tensor,
    state: Tensor,
    top_index: Tensor,
    outputs: int,
    top_k: int,
    temperature: float,
    softcap: float,
    gradient: Tensor | None = None,
) -> Tensor:
    """Implementation of `fluxcore::softmax_stats_bwd` for every device: the gradient, contiguous, in logits' dtype.

    `gradient` is where it is written, if not into new memory.
    """
    rows = _contiguous_rows(logits)
    grads = grads.contiguous()
    if gradient is None:
        gradient = torch.empty(rows.shape, dtype=rows.dtype, device=rows.device)
    if target is not None:
        target = target.contiguous()
    match resolve_backend(logits.device):
        case "cpp":
            _core.softmax_stats_bwd(
                rows.data_ptr(),
                _DTYPE_NAMES[rows.dtype],
                rows.shape[0],
                rows.shape[1],
                rows.stride(0),
                0 if target is None else target.data_ptr(),
                outputs,
                top_k,
                temperature,
                softcap,
                grads.data_ptr(),
                argmax.data_ptr(),
                state.data_ptr(),
                top_index.data_ptr(),
                gradient.data_ptr(),
                torch.get_num_threads(),
            )
        case "triton":
            from fluxcore.kernels.softmax_stats_gradient import launch_softmax_stats_bwd

            launch_softmax_stats_bwd(
                rows, target, outputs, top_k, temperature, softcap, grads, argmax, state, top_index, gradient
            )
        case "reference":
            gradient.copy_(
                _reference_backward(rows, target, outputs, top_k, temperature, softcap, grads, argmax, state, top_index)
            )
    return gradient


def empty_results(logits: Tensor, outputs: int, top_k: int) -> Results:
    """Uninitialised results of the forward pass of `logits` [N, V]."""
    N = logits.shape[0]
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    return (
        torch.empty((outputs.bit_count(), N), dtype=dtype, device=logits.device),
        torch.empty((N,), dtype=torch.int64, device=logits.device),
        torch.empty((6, N), dtype=dtype, device=logits.device),
        torch.empty((N, top_k), dtype=torch.int32, device=logits.device),
    )


def _reference_forward(
    rows: Tensor, target: Tensor | None, outputs: int, top_k: int, temperature: float, softcap: float, results: Results
) -> None:
    stats, argmax, state, top_index = results
    x = reference.transform_logits(rows, temperature, softcap or None)
    row = reference.row_state(x, top_k or None)
    if target is None:
        x_y = torch.zeros_like(row.m)
        every = reference.stats_from_state(row)
    else:
        x_y = reference.target_logit(x, target)
        every = reference.stats_from_state(row, x_y, target == row.argmax)
    for i, name in enumerate(_names(outputs)):
        stats[i] = getattr(every, name)
    argmax.copy_(row.argmax)
    torch.stack((row.m, row.s, row.t, row.spread, x_y, row.outside), out=state)
    if top_k:
        top_index.copy_(row.top_index)


def _reference_backward(
    rows: Tensor,
    target: Tensor | None,
    outputs: int,
    top_k: int,
    temperature: float,
    softcap: float,
    grads: Tensor,
    argmax: Tensor,
    state: Tensor,
    top_index: Tensor,
) -> Tensor:
    x = reference.transform_logits(rows, temperature, softcap or None)
    m, s, t, spread, _, outside = state
    members = top_index.long()
    inside = (x.gather(-1, members) - m.unsqueeze(-1)).exp().sum(-1)
    upstream = SoftmaxStats(**dict(zip(_names(outputs), grads, strict=True)))
    row = RowState(m, s, t, spread, inside, outside, argmax, members)
    gradient = reference.softmax_stats_grad(upstream, x, row, target) / temperature
    # The derivative of softcap * tanh(v / softcap), without the cancellation of 1 - tanh^2.
    return gradient / (rows.to(x.dtype) / softcap).cosh().square() if softcap else gradient


def _names(outputs: int) -> list[str]:
    return [name for i, name in enumerate(SoftmaxStats._fields[:-1]) if outputs >> i & 1]


def _contiguous_rows(logits: Tensor) -> Tensor:
    return logits if logits.stride(1) == 1 or logits.shape[1] == 1 else logits.contiguous()


_DTYPE_NAMES = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
    torch.float64: "float64",
}
