"""Means over the tokens that a mask keeps, over all ranks where these are asked for."""

from collections.abc import Callable

import torch
from torch import Tensor

SumOverRanks = Callable[[Tensor], Tensor]
"""A tensor of this rank -> its sum over all ranks; all call it."""


def check_mask(mask: Tensor, shape: torch.Size) -> None:
    """A bool tensor of the shape of what it masks."""
    if mask.dtype != torch.bool:
        raise TypeError(f"`mask` must be bool, got {mask.dtype}\n\nWrite `mask != 0`.")
    if mask.shape != shape:
        raise ValueError(f"`mask` must have the shape of what it masks, {tuple(shape)}, got {tuple(mask.shape)}")


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Sum over the entries where `mask` is True; what the others hold, NaN or infinite, is of no effect.

    Args:
        x: Any shape, floating point.
        mask: Of that shape, bool.
    Returns:
        Scalar of the dtype of `x`; differentiable, with gradient 0 where `mask` is False.
    """
    check_mask(mask, x.shape)
    return torch.where(mask, x, 0).sum()


def masked_mean(x: Tensor, mask: Tensor, tokens: Tensor | float | None = None) -> Tensor:
    """Mean over the entries where `mask` is True; 0 where there is none. Else as `masked_sum`.

    With `tokens` the sum is divided by it instead: for the share of a part in the mean over a whole, of which `tokens`
    is the number of entries.
    """
    return masked_sum(x, mask) / (mask.sum().clamp(min=1) if tokens is None else tokens)


def whiten(
    x: Tensor, mask: Tensor, *, shift_mean: bool = True, eps: float = 1e-8, sum_over_ranks: SumOverRanks | None = None
) -> Tensor:
    """Scale to variance 1, and shift to mean 0, over the entries that `mask` keeps.

    The variance is of the entries themselves (divided by their number), in float64.

    Args:
        x: Any shape, floating point, such as advantages.
        mask: Of that shape, bool.
        shift_mean: False keeps the mean.
        eps: > 0, added to the variance, so that equal entries become 0 and not NaN.
        sum_over_ranks: Sums a tensor over ranks, so that each scales by the moments of all; None for this rank's.
    Returns:
        Shape and dtype of `x`; 0 where `mask` is False.
    Raises:
        TypeError, ValueError: a mask of another dtype or shape, or `eps` out of range.
    """
    check_mask(mask, x.shape)
    if not eps > 0:
        raise ValueError(f"`eps` must be > 0, got {eps}")
    reduce = sum_over_ranks or (lambda sums: sums)
    kept = torch.where(mask, x, 0).double()
    total, count = reduce(torch.stack([kept.sum(), mask.sum().double()])).unbind()
    mean = total / count.clamp(min=1)
    centred = torch.where(mask, kept - mean, 0)
    variance = reduce(centred.square().sum()) / count.clamp(min=1)
    scaled = centred / (variance + eps).sqrt()
    if not shift_mean:
        scaled = torch.where(mask, scaled + mean, 0)
    return scaled.to(x.dtype)
