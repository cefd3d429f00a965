"""Drop-in versions of the helpers that RL trainers (TRL, verl) call on logits, each one pass of `softmax_stats`."""

import torch
from torch import Tensor

from fluxcore.ops import _selective_log_softmax_op  # noqa: F401 (registers the op)
from fluxcore.ops._checks import check_dense, check_logits, checked_classes
from fluxcore.ops.softmax_stats import softmax_stats


def entropy_from_logits(logits: Tensor, chunk_size: int | None = None) -> Tensor:
    """Entropy of the softmax over the last dim; the softmax is never stored.

    Args:
        logits: [..., V], float16, bfloat16, float32 or float64. -inf means p = 0.
        chunk_size: Rows at a time in TRL's function of this name, where it bounds memory. Here nothing of the size of
            the logits is stored in any case: it is checked, and the result is bitwise the same for every value.

    Returns:
        [...], nats, within [0, log V]; float64 for float64 logits, else float32. Differentiable once.

    Raises:
        TypeError: another dtype.
        ValueError: no dimension, V = 0, or a `chunk_size` below 1.

    Source: online normalizer, arXiv:1805.02867, extended by the sum of (x - max) e^(x - max).
    """
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"`chunk_size` must be >= 1, or None, got {chunk_size}")
    return _wanted(softmax_stats(logits, outputs=("entropy",)).entropy)


def selective_log_softmax(logits: Tensor, index: Tensor) -> Tensor:
    """Log-probability of chosen classes: `logits.log_softmax(-1).gather(-1, index)` without the [..., V] in between.

    Args:
        logits: [..., V], float16, bfloat16, float32 or float64.
        index: [...], one class a row, or [..., K], K classes a row, of which several may be the same; all of them take
            one read of the logits together. Outside [0, V) the result is NaN.

    Returns:
        Of the shape of `index`, nats, <= 0; float64 for float64 logits, else float32. Differentiable once.

    Raises:
        TypeError: another dtype, of `logits` or of `index`.
        ValueError: no dimension, V = 0, or an `index` that does not go with `logits`.
        RuntimeError: a second derivative is asked for.
    """
    check_logits(logits)
    check_dense("index", index)
    columns = index if index.dim() == logits.dim() else index.unsqueeze(-1)
    K, V = columns.shape[-1], logits.shape[-1]
    if K == 0:
        raise ValueError(f"`index` must have at least one class a row, got shape {tuple(index.shape)}")
    first = checked_classes("index", columns[..., 0], logits)
    if K == 1:
        return _wanted(softmax_stats(logits, first, outputs=("logprob",)).logprob).reshape(index.shape)
    rows = first.numel()
    logprob: Tensor = torch.ops.fluxcore.selective_log_softmax_fwd(
        logits.reshape(rows, V), columns.to(torch.int64).reshape(rows, K)
    )[0]
    return logprob.reshape(index.shape)


def logsumexp(logits: Tensor) -> Tensor:
    """log sum exp over the last dim.

    Args:
        logits: [..., V], float16, bfloat16, float32 or float64.

    Returns:
        [...], nats; -inf for a row that is all -inf; float64 for float64 logits, else float32. Differentiable once.

    Raises:
        TypeError: another dtype.
        ValueError: no dimension, or V = 0.
    """
    return _wanted(softmax_stats(logits, outputs=("lse",)).lse)


def _wanted(value: Tensor | None) -> Tensor:
    assert value is not None, "a requested output is never None"
    return value
