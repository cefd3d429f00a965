"""Several log-probabilities a row as a `torch.library` op: one pass of the kernels of `softmax_stats` for all of them.

`logits` [N, V], `index` [N, K] int64. The forward op returns
    logprob [N, K], float32 (float64 for float64 logits); NaN where the index is outside [0, V)
    argmax [N] int64 and state [6, N], those of `softmax_stats_fwd`
and the backward op the gradient of `logits`, contiguous, in their dtype.
"""

from typing import Any

import torch
from torch import Tensor
from torch.library import Library, fallthrough_kernel, register_autograd, register_fake

from fluxcore.ops import _softmax_stats_backends as backends

_LSE = 1  # the op's bit of its first output

_library = Library("fluxcore", "FRAGMENT")
_tags = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order)
_library.define(
    "selective_log_softmax_fwd(Tensor logits, Tensor index) -> (Tensor logprob, Tensor argmax, Tensor state)",
    tags=_tags,
)
_library.define(
    "selective_log_softmax_bwd(Tensor upstream, Tensor logits, Tensor index, Tensor argmax, Tensor state) -> Tensor",
    tags=_tags,
)


def _forward(logits: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    _, argmax, state, _ = backends.forward(logits, None, _LSE, 0, 1.0, 0.0)
    logprob = _below_largest(logits, index, state) - state[1, :, None].log1p()
    return torch.where(_is_class(index, logits), logprob, torch.nan), argmax, state


def _backward(upstream: Tensor, logits: Tensor, index: Tensor, argmax: Tensor, state: Tensor) -> Tensor:
    """Of every class -p times the sum of `upstream`, and to the chosen ones their own added.

    The dense pass rounds to the logits' dtype, so that the chosen classes, and the argmax, where 1 - p may be small,
    are written anew from unrounded numbers.
    """
    invalid = (upstream != 0) & ~_is_class(index, logits)
    total = torch.where(invalid, torch.nan, upstream).sum(-1, keepdim=True)
    top_index = torch.empty(len(logits), 0, dtype=torch.int32, device=logits.device)
    gradient = backends.backward(-total.T, logits, None, argmax, state, top_index, _LSE, 0, 1.0, 0.0)

    places = torch.cat([torch.where(_is_class(index, logits), index, argmax[:, None]), argmax[:, None]], -1)
    own = sum(torch.where(index[:, [k]] == places, upstream[:, [k]], 0) for k in range(index.shape[-1]))
    s = state[1, :, None]
    below = _below_largest(logits, places, state)
    excluded = logits.gather(-1, places) == -torch.inf
    of_others = own - total * (below.exp() / (1 + s))
    of_argmax = (own - total) + total * (s / (1 + s))
    value = torch.where(places == argmax[:, None], of_argmax, of_others)
    value = torch.where(excluded, 0, value)
    return gradient.scatter_(-1, places, value.to(logits.dtype))


def _is_class(index: Tensor, logits: Tensor) -> Tensor:
    return (index >= 0) & (index < logits.shape[-1])


def _below_largest(logits: Tensor, index: Tensor, state: Tensor) -> Tensor:
    """Chosen logits less the row's largest: exactly 0 at the argmax, where the log-probability is all in the sums."""
    chosen = logits.gather(-1, torch.where(_is_class(index, logits), index, 0))
    return chosen.to(state.dtype) - state[0, :, None]


def _forward_fake(logits: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    _, argmax, state, _ = backends.empty_results(logits, _LSE, 0)
    return torch.empty(index.shape, dtype=state.dtype, device=logits.device), argmax, state


def _backward_fake(upstream: Tensor, logits: Tensor, *_: object) -> Tensor:
    return torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    _, argmax, state = output
    ctx.save_for_backward(*inputs, argmax, state)
    ctx.mark_non_differentiable(argmax, state)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, upstream: Tensor | None, *_: object) -> tuple[Tensor | None, None]:
    if upstream is None:
        return None, None
    return torch.ops.fluxcore.selective_log_softmax_bwd(upstream, *ctx.saved_tensors), None


def _refuse_double_backward(ctx: object, *_: object) -> None:
    raise RuntimeError(
        "`selective_log_softmax` can be differentiated once, and a second derivative was asked for"
        "\n\n`fluxcore.reference.softmax_stats` is differentiable as often as you like, at PyTorch's speed."
    )


_library.impl("selective_log_softmax_fwd", _forward, "CompositeExplicitAutograd")
_library.impl("selective_log_softmax_bwd", _backward, "CompositeExplicitAutograd")
for _key in ("AutocastCPU", "AutocastCUDA"):
    _library.impl("selective_log_softmax_fwd", fallthrough_kernel, _key)
register_fake("fluxcore::selective_log_softmax_fwd", _forward_fake, lib=_library)
register_fake("fluxcore::selective_log_softmax_bwd", _backward_fake, lib=_library)
register_autograd("fluxcore::selective_log_softmax_fwd", _differentiate, setup_context=_save, lib=_library)
register_autograd("fluxcore::selective_log_softmax_bwd", _refuse_double_backward, lib=_library)
