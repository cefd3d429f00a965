"""The clipped losses of PPO, as means over the tokens that the policy chose."""

from typing import NamedTuple

import torch
from torch import Tensor

from fluxcore.rl.masked import check_mask, masked_mean


class PolicyLoss(NamedTuple):
    """Scalars over the tokens that the mask keeps."""

    loss: Tensor
    """To be minimised; differentiable."""
    clip_fraction: Tensor
    """Share of the tokens whose ratio is beyond the clip; detached, as all that follow."""
    approx_kl: Tensor
    """KL(old || new), nats a token, by k3."""
    ratio: Tensor
    """Mean of new over old probability."""


class ValueLoss(NamedTuple):
    """Scalars over the tokens that the mask keeps."""

    loss: Tensor
    """To be minimised; differentiable."""
    clip_fraction: Tensor
    """Share of the tokens where the clipped error is the larger one; detached."""


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    mask: Tensor,
    clip: float = 0.1,
    tokens: Tensor | float | None = None,
) -> PolicyLoss:
    """The clipped surrogate: the mean over tokens of max(-A r, -A clip(r, 1 - clip, 1 + clip)), r = e^(new - old).

    Every token weighs the same, whatever the length of its answer.

    Args:
        logprobs: [...], nats, of the sampled tokens under the policy that is trained.
        old_logprobs: The same shape, under the policy that sampled; must not require grad.
        advantages: The same shape; must not require grad.
        mask: The same shape, bool, False for padding; what the others hold there is not looked at.
        clip: Within (0, 1).
        tokens: What sums are divided by: the tokens of a whole step, of which this is one of several micro-batches.
            None: those that `mask` keeps.
    Raises:
        TypeError, ValueError: shapes that differ, a mask of another dtype, a constant that requires grad, `clip` out
            of range.

    Source: Schulman et al., arXiv:1707.06347, equation 7.
    """
    _check(logprobs, mask, old_logprobs=old_logprobs, advantages=advantages)
    if not 0 < clip < 1:
        raise ValueError(f"`clip` must be within (0, 1), got {clip}")
    change = torch.where(mask, logprobs, 0) - torch.where(mask, old_logprobs, 0)
    ratio = change.exp()
    gain = torch.where(mask, advantages, 0)
    loss = torch.maximum(-gain * ratio, -gain * ratio.clamp(1 - clip, 1 + clip))
    with torch.no_grad():
        beyond = ((ratio - 1).abs() > clip).to(loss.dtype)
        clip_fraction = masked_mean(beyond, mask, tokens)
        approx_kl = masked_mean(torch.expm1(change) - change, mask, tokens)
        mean_ratio = masked_mean(ratio, mask, tokens)
    return PolicyLoss(masked_mean(loss, mask, tokens), clip_fraction, approx_kl, mean_ratio)


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    *,
    mask: Tensor,
    clip: float | None = 0.2,
    tokens: Tensor | float | None = None,
) -> ValueLoss:
    """Half the mean squared error, of the worse of the value and of the value within `clip` of the old one.

    Args:
        values: [...], of the policy that is trained.
        old_values: The same shape, at sampling; must not require grad.
        returns: The same shape, what the values should be; must not require grad.
        mask: The same shape, bool, False for padding; what the others hold there is not looked at.
        clip: > 0, in units of the reward; None: not clipped.
        tokens: As of `policy_loss`.
    Raises:
        TypeError, ValueError: as `policy_loss`.

    Source: the PPO of OpenAI Baselines; Ziegler et al., arXiv:1909.08593.
    """
    _check(values, mask, old_values=old_values, returns=returns)
    if clip is not None and not clip > 0:
        raise ValueError(f"`clip` must be > 0, or None for no clip, got {clip}")
    now, old, goal = (torch.where(mask, x, 0) for x in (values, old_values, returns))
    plain = (now - goal).square()
    if clip is None:
        return ValueLoss(masked_mean(plain, mask, tokens) / 2, torch.zeros((), device=values.device))
    clipped = (old + (now - old).clamp(-clip, clip) - goal).square()
    worse = (clipped > plain).to(plain.dtype)
    loss = masked_mean(torch.maximum(plain, clipped), mask, tokens) / 2
    return ValueLoss(loss, masked_mean(worse, mask, tokens).detach())


def _check(x: Tensor, mask: Tensor, **constants: Tensor) -> None:
    check_mask(mask, x.shape)
    for name, value in constants.items():
        if value.shape != x.shape:
            raise ValueError(f"`{name}` must have shape {tuple(x.shape)}, as the others have, got {tuple(value.shape)}")
        if value.requires_grad:
            raise ValueError(f"`{name}` must not require grad: it is a constant of the loss\n\nPass `{name}.detach()`.")
