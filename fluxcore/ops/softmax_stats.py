"""Softmax statistics of rows of logits in one pass: public function, checks, `torch.library` op and its gradient."""

from collections.abc import Collection

import torch
from torch import Tensor
from torch.library import Library, fallthrough_kernel, register_autograd, register_fake

from fluxcore.ops import _softmax_stats_backends as backends
from fluxcore.ops._checks import check_logits, check_softcap, check_temperature, check_top_k, checked_classes
from fluxcore.reference import SoftmaxStats

REAL_OUTPUTS = SoftmaxStats._fields[:-1]
"""The differentiable outputs; bit i of the op's `outputs` asks for the i-th."""
_BITS = {name: 1 << i for i, name in enumerate(REAL_OUTPUTS)}


def softmax_stats(
    logits: Tensor,
    target: Tensor | None = None,
    *,
    outputs: Collection[str],
    top_k: int | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
) -> SoftmaxStats:
    """Statistics of the softmax over the last dim, from one read of the logits; the softmax is never stored.

    All of them are exact also where one class has nearly all the mass: at margin 30 over 50304 classes the entropy is
    1.5e-7 and not 0. Of a row, -inf logits have p = 0 and gradient 0; a row that is all -inf has lse = -inf, argmax 0
    and NaN elsewhere; a NaN makes every real statistic of its row NaN; +inf gives lse = +inf and NaN elsewhere. With a
    softcap, a logit of -inf becomes -softcap like any other very negative one.

    Args:
        logits: [..., V], float32, bfloat16, float16 or float64. A last dim that is not contiguous is copied first.
        target: [...], integer classes; needed for `logprob`. A target outside [0, V) has logprob NaN.
        outputs: Names of the statistics wanted, the fields of `SoftmaxStats`: "lse", "logprob", "entropy",
            "varentropy", "max_prob", "one_minus_max_prob", "top_k_mass", "argmax".
        top_k: Number of classes in `top_k_mass`, within [1, min(V, 64)]; needed for it, and for nothing else.
        temperature: Finite and > 0. The statistics are of the softmax of logits / temperature.
        softcap: Finite and > 0, or None. Applied before the temperature: softcap * tanh(logits / softcap).

    Returns:
        `SoftmaxStats`, fields [...] in nats; float64 for float64 logits, else float32 (argmax: int64); None where not
        asked for. Every real one is differentiable by `logits`, once. Ties: the first index wins.

    Raises:
        TypeError: `logits` or `target` has another dtype.
        ValueError: no dimension, V = 0, a target of another shape or device, an unknown output, `top_k`,
            `temperature` or `softcap` out of range, or a backend that cannot run here.
        RuntimeError: a second derivative is asked for.

    Source: online normalizer, arXiv:1805.02867, with the largest logit kept out of the sums.
    """
    check_logits(logits)
    bits, flat_target = checked_arguments(logits, target, outputs, top_k, temperature, softcap)
    shape = logits.shape[:-1]
    stats, argmax, _, _ = torch.ops.fluxcore.softmax_stats_fwd(
        logits if logits.dim() == 2 else logits.reshape(shape.numel(), logits.shape[-1]),
        flat_target,
        bits,
        top_k or 0,
        float(temperature),
        float(softcap or 0),
    )
    return named_stats(stats, argmax, bits, outputs, shape)


def checked_arguments(
    logits: Tensor,
    target: Tensor | None,
    outputs: Collection[str],
    top_k: int | None,
    temperature: float,
    softcap: float | None,
) -> tuple[int, Tensor | None]:
    """The op's `outputs`, and its target [N] where it is needed; only shape, dtype and device of `logits` are used."""
    bits = output_bits(outputs)
    _check_options(bits, top_k, temperature, softcap, logits.shape[-1])
    return bits, _checked_target(target, logits).reshape(-1) if bits & _BITS["logprob"] else None


def named_stats(stats: Tensor, argmax: Tensor, bits: int, outputs: Collection[str], shape: torch.Size) -> SoftmaxStats:
    """The op's results [number of outputs, N] and [N] by their names, in the shape of the rows."""
    fields = dict(zip((name for name in REAL_OUTPUTS if bits & _BITS[name]), stats.unbind(0), strict=True))
    if "argmax" in outputs:
        fields["argmax"] = argmax
    if len(shape) != 1:
        fields = {name: value.reshape(shape) for name, value in fields.items()}
    return SoftmaxStats(**fields)


def output_bits(outputs: Collection[str], name: str = "outputs") -> int:
    """The op's `outputs` for names of statistics; `argmax` has no bit."""
    if isinstance(outputs, str):
        raise TypeError(f"`{name}` must be a collection of names, got the string {outputs!r}\n\nWrite ({outputs!r},).")
    if not outputs:
        raise ValueError(f"`{name}` must name at least one of {', '.join(SoftmaxStats._fields)}, got none")
    bits = 0
    for output in outputs:
        if output not in SoftmaxStats._fields:
            raise ValueError(f"`{name}` must be among {', '.join(SoftmaxStats._fields)}, got {output!r}")
        bits |= _BITS.get(output, 0)
    return bits


def _check_options(bits: int, top_k: int | None, temperature: float, softcap: float | None, classes: int) -> None:
    if bits & _BITS["top_k_mass"]:
        if top_k is None:
            raise ValueError("`top_k` must be given for the output top_k_mass, got None")
        check_top_k("top_k", top_k, classes)
    elif top_k is not None:
        raise ValueError(f"`top_k` is only of use for the output top_k_mass, got {top_k} without it")
    check_temperature(temperature)
    check_softcap(softcap)


def _checked_target(target: Tensor | None, logits: Tensor) -> Tensor:
    if target is None:
        raise ValueError("`target` must be given for the output logprob, got None")
    return checked_classes("target", target, logits)


# The op. `logits` [N, V], `target` [N] int64. Returns
#   stats [number of outputs, N] in canonical order, float32 (float64 for float64 logits)
#   argmax [N] int64, state [6, N] of the same type as stats: m, s, t, spread, x_y,
#   outside (fluxcore.reference.RowState; entries that no output needs may be 0); top_index [N, top_k] int32
# `softcap` and `top_k` are 0 for none. Backends share the state: a backward pass may run on another than the forward.
# Autocast lets logits through as they are: any dtype is computed in float32 at least, so a cast would only cost bytes.
_library = Library("fluxcore", "FRAGMENT")
_tags = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order)
_library.define(
    "softmax_stats_fwd(Tensor logits, Tensor? target, int outputs, int top_k, float temperature, float softcap)"
    " -> (Tensor stats, Tensor argmax, Tensor state, Tensor top_index)",
    tags=_tags,
)
_library.define(
    "softmax_stats_bwd(Tensor grads, Tensor logits, Tensor? target, Tensor argmax, Tensor state, Tensor top_index,"
    " int outputs, int top_k, float temperature, float softcap) -> Tensor",
    tags=_tags,
)
_library.impl("softmax_stats_fwd", backends.forward, "CompositeExplicitAutograd")
_library.impl("softmax_stats_bwd", backends.backward, "CompositeExplicitAutograd")
for _key in ("AutocastCPU", "AutocastCUDA"):
    _library.impl("softmax_stats_fwd", fallthrough_kernel, _key)


def _forward_fake(
    logits: Tensor, target: Tensor | None, outputs: int, top_k: int, temperature: float, softcap: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return backends.empty_results(logits, outputs, top_k)


def _backward_fake(grads: Tensor, logits: Tensor, *_: object) -> Tensor:
    return torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)


def _save(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[object, ...], output: tuple[Tensor, ...]) -> None:
    logits, target, *options = inputs
    _, argmax, state, top_index = output
    ctx.save_for_backward(logits, target, argmax, state, top_index)  # type: ignore[arg-type]
    ctx.mark_non_differentiable(argmax, state, top_index)
    ctx.set_materialize_grads(False)
    ctx.options = options  # type: ignore[attr-defined]


def _backward(ctx: torch.autograd.function.FunctionCtx, grads: Tensor | None, *_: object) -> tuple[Tensor | None, ...]:
    if grads is None:
        return (None,) * 6
    gradient = torch.ops.fluxcore.softmax_stats_bwd(grads, *ctx.saved_tensors, *ctx.options)  # type: ignore[attr-defined]
    return gradient, None, None, None, None, None


def _refuse_double_backward(ctx: object, *_: object) -> None:
    raise RuntimeError(
        "`softmax_stats` can be differentiated once, and a second derivative was asked for"
        "\n\n`fluxcore.reference.softmax_stats` is differentiable as often as you like, at PyTorch's speed."
    )


register_fake("fluxcore::softmax_stats_fwd", _forward_fake, lib=_library)
register_fake("fluxcore::softmax_stats_bwd", _backward_fake, lib=_library)
register_autograd("fluxcore::softmax_stats_fwd", _backward, setup_context=_save, lib=_library)
register_autograd("fluxcore::softmax_stats_bwd", _refuse_double_backward, lib=_library)
