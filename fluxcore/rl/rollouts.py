"""Prompts and sampled answers with what was measured of them, padded so that a mask says all.

B rows    P the longest prompt    A the longest answer

tokens     [pad pad p p p | a a a a]      prompts end, and answers begin, at the same column: generation goes on
           [p   p   p p p | a a pad pad]  there for all rows at once
attention  [0 0 1 1 1 | 1 1 1 1], [1 1 1 1 1 | 1 1 0 0]
mask                   [1 1 1 1],             [1 1 0 0]    the tokens that the policy chose
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from fluxcore import gae
from fluxcore.rl.masked import SumOverRanks, whiten


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollouts:
    """Rows of prompts and answers. Columns of the answers are those of `mask`; entries where it is False mean nothing.

    Raises:
        ValueError: shapes that do not fit together, or padding that is not as above.
    """

    tokens: Tensor
    """[B, P + A] int64."""
    attention: Tensor
    """[B, P + A] bool, False for padding on either side."""
    mask: Tensor
    """[B, A] bool, True for the tokens that the policy chose, the end token among them."""
    row_ids: Tensor
    """[B] int64, what the caller knows the rows by, such as chunk ids."""
    logprobs: Tensor
    """[B, A], nats, under the policy that sampled."""
    values: Tensor
    """[B, A], expected return before each token."""
    kl: Tensor
    """[B, A], nats, of the policy to the reference at each token, or an estimate of it."""
    rewards: Tensor
    """[B, A]."""

    def __post_init__(self) -> None:
        rows, width = self.mask.shape
        if self.tokens.shape != self.attention.shape or self.tokens.shape[0] != rows or self.tokens.shape[1] <= width:
            raise ValueError(
                "`tokens` and `attention` must have a shape [B, P + A] with P >= 1, where `mask` has [B, A] ="
                f" {[rows, width]}, got {list(self.tokens.shape)} and {list(self.attention.shape)}"
            )
        for name in ("logprobs", "values", "kl", "rewards"):
            if getattr(self, name).shape != self.mask.shape:
                raise ValueError(
                    f"`{name}` must have the shape of `mask`, {[rows, width]}, got {list(getattr(self, name).shape)}"
                )
        prompt, answer = self.attention[:, :-width].long(), self.attention[:, -width:]
        if not torch.equal(answer, self.mask) or bool((self.mask.long().diff() > 0).any()):
            raise ValueError("`mask` must be `attention` of the answers, which are padded at their end alone")
        if bool((prompt.diff() < 0).any()) or not bool(prompt[:, -1].all()):
            raise ValueError("`attention` must pad prompts at their beginning, and leave a token of each")

    def __len__(self) -> int:
        """Rows."""
        return len(self.mask)

    @property
    def answer_width(self) -> int:
        """A, tokens of the longest answer."""
        return self.mask.shape[1]

    def select(self, rows: Tensor) -> "Rollouts":
        """Some rows, with the same padding."""
        return Rollouts(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def concatenate(parts: Sequence[Rollouts]) -> Rollouts:
    """Rows of several generations as one, padded to their longest prompt and longest answer."""
    if not parts:
        raise ValueError("`parts` must hold rollouts, got none")
    answer = max(part.answer_width for part in parts)
    prompt = max(part.tokens.shape[1] - part.answer_width for part in parts)

    def padded(part: Rollouts, name: str) -> Tensor:
        value: Tensor = getattr(part, name)
        if name == "row_ids":
            return value
        left = prompt - (part.tokens.shape[1] - part.answer_width) if name in ("tokens", "attention") else 0
        return torch.nn.functional.pad(value, (left, answer - part.answer_width))

    return Rollouts(
        **{field.name: torch.cat([padded(part, field.name) for part in parts]) for field in fields(Rollouts)}
    )


@dataclass(frozen=True, slots=True)
class Minibatch:
    """Rows of a buffer with their advantages, for one step of the losses."""

    rollouts: Rollouts
    advantages: Tensor
    """[B, A], whitened over the buffer."""
    returns: Tensor
    """[B, A]."""


class RolloutBuffer:
    """The rollouts of one policy, handed out in minibatches for several epochs.

    Args:
        parts: Rollouts of any padding.
        gamma: Discount a token, within [0, 1].
        lam: Of generalised advantage estimation, within [0, 1].
        kl_coefficient: Taken from the rewards for each nat of `kl`. That holds the policy back if `kl` is k1 of
            `kl_estimate`; the divergence itself is the same whichever token is chosen, and belongs in the loss.
        whiten_advantages: To mean 0 and variance 1 over all tokens, and over all ranks by `sum_over_ranks`.
        sum_over_ranks: As of `whiten`.
    """

    def __init__(
        self,
        parts: Sequence[Rollouts],
        *,
        gamma: float,
        lam: float,
        kl_coefficient: float = 0.0,
        whiten_advantages: bool = True,
        sum_over_ranks: SumOverRanks | None = None,
    ) -> None:
        rollouts = concatenate(parts)
        rewards = torch.where(rollouts.mask, rollouts.rewards - kl_coefficient * rollouts.kl, 0)
        self.rollouts = replace(rollouts, rewards=rewards)
        """All rows; rewards less the penalty on KL."""
        # An answer is an episode: after its last token comes nothing, so padding needs no `dones`.
        advantages, self.returns = gae(
            rewards,
            rollouts.values,
            torch.zeros_like(rollouts.mask),
            bootstrap=0.0,
            gamma=gamma,
            lam=lam,
            mask=rollouts.mask,
        )
        self.advantages = (
            whiten(advantages, rollouts.mask, sum_over_ranks=sum_over_ranks) if whiten_advantages else advantages
        )

    def minibatches(self, rows: int, generator: torch.Generator) -> Iterator[Minibatch]:
        """Every row once, in a random order; the last minibatch may be smaller.

        Args:
            rows: >= 1, of a minibatch.
            generator: On the CPU.
        """
        if rows < 1:
            raise ValueError(f"`rows` must be >= 1, got {rows}")
        order = torch.randperm(len(self.rollouts), generator=generator).to(self.advantages.device)
        for chosen in order.split(rows):
            yield Minibatch(self.rollouts.select(chosen), self.advantages[chosen], self.returns[chosen])
