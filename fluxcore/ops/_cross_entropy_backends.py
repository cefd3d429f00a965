"""The op `cross_entropy` on each backend; layouts of its results are described beside the op's schema."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fluxcore import _core, reference
from fluxcore.backends import Backend
from fluxcore.ops._checks import wide_dtype
from fluxcore.ops._dispatch import DTYPE_NAMES, backend_of, contiguous_rows, pointer, row_stride_0_or_1
from fluxcore.reference import SoftmaxStats
from fluxcore.sharpness import Sharpness
from fluxcore.target_check import raise_if_out_of_range, targets_are_checked

BACKENDS: tuple[Backend, ...] = ("triton", "cpp", "reference")
"""Those that have this op."""


class Options(NamedTuple):
    """The op's options, in the order in which they follow the tensors in the schema."""

    link: str
    reduction: str
    """A public one, or "given" for rows of a larger whole: then `Results.totals` is an input, and the loss has rows."""
    ignore_index: int
    label_smoothing: float
    lse_square_scale: float
    penalty: str
    """A `SharpnessKind`, or "" for none."""
    penalty_coef: float
    top_k: int
    """k of the penalty and of the statistic top_k_mass; 0 for none."""
    outputs: int
    """Bits of the statistics wanted as in `softmax_stats`, and bit 7 for the argmax of every row."""
    temperature: float
    softcap: float
    """0 for none."""

    @property
    def sharpness(self) -> Sharpness | None:
        return Sharpness(self.penalty, self.penalty_coef, self.top_k or None) if self.penalty else None  # type: ignore[arg-type]


class Results(NamedTuple):
    """What the forward op returns."""

    loss: Tensor
    stats: Tensor
    argmax: Tensor
    state: Tensor
    top_index: Tensor
    totals: Tensor
    gradient: Tensor


class Inputs(NamedTuple):
    """The tensors, as kernels want them."""

    logits: Tensor
    """[N, V], last dim contiguous."""
    target: Tensor
    """[N] int64 contiguous, or probabilities [N, V], last dim contiguous."""
    weight: Tensor | None
    """[V] contiguous."""
    token_weight: Tensor | None
    """[N] contiguous."""
    penalty_mask: Tensor | None
    """[N] contiguous."""


def forward(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    token_weight: Tensor | None,
    penalty_mask: Tensor | None,
    *rest: Any,
    results: Results | None = None,
) -> Results:
    """Implementation of `fluxcore::cross_entropy_fwd` for every device.

    `results` are those to fill, for the reduction "given", which is not public.
    """
    options, with_gradient = Options(*rest[:-1]), rest[-1]
    inputs = _inputs(logits, target, weight, token_weight, penalty_mask)
    if not target.is_floating_point() and targets_are_checked():
        raise_if_out_of_range(target, logits.shape[1], options.ignore_index)
    if results is None:
        results = empty_results(logits, options, with_gradient)
    match backend_of("cross_entropy", BACKENDS, logits.device):
        case "cpp":
            addresses = [pointer(result) for result in results[:-1]]
            addresses.append(pointer(results.gradient if with_gradient else None))
            _core.cross_entropy_fwd(_extension_call(inputs, options), *addresses)
        case "triton":
            from fluxcore.kernels.cross_entropy import launch_cross_entropy_fwd

            launch_cross_entropy_fwd(*inputs, *options, *results[:-1], results.gradient if with_gradient else None)
        case _:
            _reference_forward(inputs, options, results)
    return results


def backward(
    upstream: Tensor,
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    token_weight: Tensor | None,
    penalty_mask: Tensor | None,
    argmax: Tensor,
    state: Tensor,
    top_index: Tensor,
    totals: Tensor,
    *rest: Any,
    gradient: Tensor | None = None,
) -> Tensor:
    """Implementation of `fluxcore::cross_entropy_bwd` for every device: the gradient, contiguous, in logits' dtype.

    `gradient` is where it is written, if not into new memory.
    """
    options = Options(*rest)
    inputs = _inputs(logits, target, weight, token_weight, penalty_mask)
    if gradient is None:
        gradient = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
    match backend_of("cross_entropy", BACKENDS, logits.device):
        case "cpp":
            upstream = row_stride_0_or_1(upstream)
            addresses = [pointer(tensor) for tensor in (argmax, state, top_index, totals, gradient)]
            stride = upstream.stride(0) if upstream.dim() else 0
            _core.cross_entropy_bwd(_extension_call(inputs, options), upstream.data_ptr(), stride, *addresses)
        case "triton":
            from fluxcore.kernels.cross_entropy import launch_cross_entropy_bwd

            upstream = row_stride_0_or_1(upstream)
            launch_cross_entropy_bwd(upstream, *inputs, argmax, state, top_index, totals, *options, gradient)
        case _:
            gradient.copy_(_reference_backward(upstream, inputs, totals, options))
    return gradient


def scale_(gradient: Tensor, scale: Tensor) -> None:
    """Implementation of `fluxcore::scale_` for every device; 0 times NaN is 0."""
    match backend_of("scale_", BACKENDS, gradient.device):
        case "cpp":
            name, threads = DTYPE_NAMES[gradient.dtype], torch.get_num_threads()
            _core.scale_(gradient.data_ptr(), name, gradient.numel(), scale.data_ptr(), threads)
        case "triton":
            from fluxcore.kernels.scale import launch_scale_

            launch_scale_(gradient, scale)
        case _:
            gradient.copy_(torch.where(scale == 0, 0, gradient * scale))


def empty_results(logits: Tensor, options: Options, with_gradient: bool) -> Results:
    """Uninitialised results of the forward pass of `logits` [N, V]."""
    N, V = logits.shape
    dtype, device = wide_dtype(logits), logits.device
    return Results(
        loss=torch.empty((N,) if options.reduction in ("none", "given") else (), dtype=dtype, device=device),
        stats=torch.empty(((options.outputs & 127).bit_count(), N), dtype=dtype, device=device),
        argmax=torch.empty((N,), dtype=torch.int64, device=device),
        state=torch.empty((7, N), dtype=dtype, device=device),
        top_index=torch.empty((N, options.top_k), dtype=torch.int32, device=device),
        totals=torch.empty((4,), dtype=dtype, device=device),
        gradient=torch.empty((N if with_gradient else 0, V), dtype=logits.dtype, device=device),
    )


def _inputs(
    logits: Tensor, target: Tensor, weight: Tensor | None, token_weight: Tensor | None, penalty_mask: Tensor | None
) -> Inputs:
    optional = (value if value is None else value.contiguous() for value in (weight, token_weight, penalty_mask))
    if target.is_floating_point():
        # Stride 0 tells the extension that there are no probabilities.
        target = target.contiguous() if target.stride(0) == 0 else contiguous_rows(target)
    else:
        target = target.contiguous()
    return Inputs(contiguous_rows(logits), target, *optional)


def _extension_call(inputs: Inputs, options: Options) -> _core.CrossEntropyCall:
    """What both passes of the extension take. It holds addresses only: `inputs` must outlive it."""
    logits, target, *optional = inputs
    matrix = (logits.data_ptr(), DTYPE_NAMES[logits.dtype], *logits.shape, logits.stride(0))
    targets = (target.data_ptr(), target.stride(0) if target.dim() == 2 else 0)
    addresses = (pointer(tensor) for tensor in optional)
    arguments = [*matrix, *targets, *addresses, *options, torch.get_num_threads()]
    return _core.CrossEntropyCall(*arguments)


def _reference_forward(inputs: Inputs, options: Options, results: Results) -> None:
    logits, target, weight, token_weight, penalty_mask = inputs
    V = logits.shape[1]
    ones = results.state.new_ones(logits.shape[0])
    a, mask = (ones if value is None else value for value in (token_weight, penalty_mask))
    dead, _ = reference.dead_and_invalid_rows(target, V, a, options.ignore_index)
    if options.reduction != "given":
        results.totals.copy_(
            reference.reduction_totals(target, V, weight, a, mask, options.ignore_index, options.reduction)
        )

    x = reference.transform_logits(logits, options.temperature, options.softcap or None)
    results.loss.copy_(_reference_loss(x, target, weight, a, mask, results.totals, options))
    row = reference.row_state(x, options.top_k or None)
    x_y = torch.zeros_like(row.m) if target.is_floating_point() else reference.target_logit(x, target)
    m, s, mass_rest = row.m, row.s, torch.zeros_like(row.m)
    if target.is_floating_point():
        c = reference.class_weights(target, V, weight, options.label_smoothing, x.dtype)
        mass_rest = c.scatter(1, row.argmax.unsqueeze(1), 0).sum(1)
    if options.link == "stablemax":
        kept = row.argmax if target.is_floating_point() else torch.where((target >= 0) & (target < V), target, 0)
        sigma = reference.stablemax_weight(x)
        m = sigma.gather(1, kept.unsqueeze(1)).squeeze(1)
        s = sigma.scatter(1, kept.unsqueeze(1), 0).sum(1)
    state = torch.stack((m, s, row.t, x_y, row.inside, row.outside, mass_rest))
    results.state.copy_(torch.where(dead, 0, state))
    results.argmax.copy_(row.argmax if options.outputs else torch.where(dead, 0, row.argmax))
    if options.top_k:
        results.top_index.copy_(row.top_index)
    if options.outputs & 127:
        stats = reference.stats_from_state(row, x_y, target == row.argmax) if target.dim() == 1 else None
        stats = stats or reference.stats_from_state(row)
        for i, name in enumerate(output_names(options.outputs)):
            results.stats[i] = getattr(stats, name)
    if results.gradient.shape[0]:
        one = results.totals.new_ones(())
        results.gradient.copy_(_reference_backward(one, inputs, results.totals, options))


def _reference_loss(
    x: Tensor, target: Tensor, weight: Tensor | None, a: Tensor, mask: Tensor, totals: Tensor, options: Options
) -> Tensor:
    rows = reference.cross_entropy_rows(
        x,
        target,
        weight,
        a,
        mask,
        totals,
        ignore_index=options.ignore_index,
        label_smoothing=options.label_smoothing,
        lse_square_scale=options.lse_square_scale,
        penalty=options.sharpness,
        link=options.link,
    )
    return rows if options.reduction in ("none", "given") else reference.sum_of_rows(rows, totals)


def _reference_backward(upstream: Tensor, inputs: Inputs, totals: Tensor, options: Options) -> Tensor:
    return reference.cross_entropy_grad(
        upstream,
        *inputs,
        totals,
        ignore_index=options.ignore_index,
        label_smoothing=options.label_smoothing,
        lse_square_scale=options.lse_square_scale,
        softcap=options.softcap or None,
        temperature=options.temperature,
        penalty=options.sharpness,
        link=options.link,
    )


def output_names(outputs: int) -> list[str]:
    """Names of the real statistics in `outputs`, in canonical order."""
    return [name for i, name in enumerate(SoftmaxStats._fields[:-1]) if outputs >> i & 1]
