"""Reward functions by name, and whatever function of the user's own, weighted and checked.

A reward function takes a `RewardBatch` and the keyword arguments of its configuration, and returns one number an answer
[B], which its last token gets, or one a token [B, A].
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from importlib import import_module
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from fluxcore.errors import FluxcoreError


class RewardError(FluxcoreError):
    """A reward function raised, or returned something else than finite numbers of the right shape."""


@dataclass(frozen=True, kw_only=True)
class RewardBatch:
    """Answers to be rewarded."""

    tokens: Tensor
    """[B, P + A] int64, prompts padded on the left, answers on the right."""
    attention: Tensor
    """[B, P + A] bool."""
    mask: Tensor
    """[B, A] bool, the tokens of the answers."""
    decode: Callable[[Sequence[int]], str]
    """Token ids to text."""

    @property
    def answer_tokens(self) -> Tensor:
        """[B, A] int64."""
        return self.tokens[:, -self.mask.shape[1] :]

    @cached_property
    def prompts(self) -> list[str]:
        """Text of each prompt."""
        width = self.mask.shape[1]
        rows = zip(self.tokens[:, :-width].tolist(), self.attention[:, :-width].tolist(), strict=True)
        return [self.decode([token for token, kept in zip(*row, strict=True) if kept]) for row in rows]

    @cached_property
    def answers(self) -> list[str]:
        """Text of each answer."""
        rows = zip(self.answer_tokens.tolist(), self.mask.tolist(), strict=True)
        return [self.decode([token for token, kept in zip(*row, strict=True) if kept]) for row in rows]


Reward = Callable[..., Tensor]


def repetition(batch: RewardBatch, *, penalty: float = 0.1) -> Tensor:
    """-`penalty` for each token that equals the one before it in the answer, at that token."""
    answer = batch.answer_tokens
    repeated = torch.zeros_like(batch.mask)
    repeated[:, 1:] = answer[:, 1:] == answer[:, :-1]
    return (repeated & batch.mask).float() * -penalty


def ngram_repetition(batch: RewardBatch, *, n: int = 3, penalty: float = 1.0) -> Tensor:
    """-`penalty` x the share of an answer's n-grams that occur in it before; 0 of an answer shorter than n + 1."""
    if batch.mask.shape[1] < n:
        return torch.zeros(len(batch.mask), device=batch.mask.device)
    windows = batch.answer_tokens.unfold(1, n, 1)  # [B, W, n]
    whole = batch.mask[:, n - 1 :]
    _, kinds = torch.unique(windows.reshape(-1, n), dim=0, return_inverse=True)
    kinds = kinds.view(whole.shape).masked_fill(~whole, -1).sort(dim=1).values
    repeats = ((kinds[:, 1:] == kinds[:, :-1]) & (kinds[:, 1:] >= 0)).sum(1)
    share: Tensor = repeats / whole.sum(1).clamp(min=1)
    return share * -penalty


def length(batch: RewardBatch, *, target: int) -> Tensor:
    """-|tokens - target| / target."""
    return -(batch.mask.sum(1) - target).abs() / target


def regex(batch: RewardBatch, *, pattern: str) -> Tensor:
    """Share of the answer's characters that matches of `pattern` cover, within [0, 1]."""
    compiled = re.compile(pattern)
    covered = [sum(len(found[0]) for found in compiled.finditer(text)) / max(len(text), 1) for text in batch.answers]
    return torch.tensor(covered, device=batch.mask.device)


def exact_match(batch: RewardBatch, *, text: str) -> Tensor:
    """1 of an answer that is `text`, white space at its ends aside, else 0."""
    equal = [float(answer.strip() == text) for answer in batch.answers]
    return torch.tensor(equal, device=batch.mask.device)


def log_likelihood(batch: RewardBatch, *, model: str) -> Tensor:
    """Mean log-probability of the answer's tokens, nats, under another model of the same tokenizer.

    Args:
        batch: The answers.
        model: A folder, or a name on the Hugging Face hub.
    """
    from fluxcore.rl.policy import evaluating, score_answers

    judge = _judge(model).to(batch.mask.device)
    with evaluating(judge):
        scores = score_answers(judge, judge, batch.tokens, batch.attention, batch.mask)
    return scores.logprobs.sum(1) / batch.mask.sum(1)


@lru_cache(maxsize=4)
def _judge(spec: str) -> Any:
    from fluxcore.training.models import pretrained_model

    return pretrained_model(spec)


REWARDS: dict[str, Reward] = {
    each.__name__: each for each in (repetition, ngram_repetition, length, regex, exact_match, log_likelihood)
}
"""Name -> function; add your own to give it a name."""


def find_reward(name: str, args: Mapping[str, Any]) -> Reward:
    """The reward function of a registered name, or of `module:function`, with its keyword arguments.

    Raises:
        ValueError: no such name, module or function, or arguments that it does not take.
    """
    if ":" in name:
        module, _, attribute = name.partition(":")
        try:
            function = getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"the reward {name!r} could not be imported: {error}") from error
    elif name in REWARDS:
        function = REWARDS[name]
    else:
        raise ValueError(f"a reward must be one of {', '.join(REWARDS)}, or module:function, got {name!r}")
    try:
        signature(function).bind(None, **args)
    except TypeError as error:
        raise ValueError(f"the reward {name!r} does not take the `args` {dict(args)}: {error}") from error
    return partial(function, **args)


class Rewards:
    """Several rewards as one, by weight.

    Args:
        weighted: (name, weight, arguments) of each; a name more than once is told apart by its place.
    Raises:
        ValueError: none, an unknown one, wrong arguments, or a weight that is not finite.
    """

    def __init__(self, weighted: Sequence[tuple[str, float, Mapping[str, Any]]]) -> None:
        if not weighted:
            raise ValueError("`rewards` must name a reward at least, got none")
        self.parts: dict[str, tuple[float, Reward]] = {}
        for place, (name, weight, args) in enumerate(weighted):
            if not abs(weight) < float("inf"):
                raise ValueError(f"the weight of reward {name!r} must be finite, got {weight}")
            self.parts[name if name not in self.parts else f"{name}#{place}"] = (weight, find_reward(name, args))

    def __call__(self, batch: RewardBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Rewards of every token [B, A] float32, and of every answer [B] by each function, before its weight.

        Raises:
            RewardError: a function raised, or returned NaN, an infinity, no tensor or a wrong shape.
        """
        total = torch.zeros(batch.mask.shape, device=batch.mask.device)
        of_answers = {}
        for name, (weight, function) in self.parts.items():
            each = _checked(name, function, batch)
            of_answers[name] = each.sum(1)
            total += weight * each
        return total, of_answers


def _checked(name: str, function: Reward, batch: RewardBatch) -> Tensor:
    """[B, A] float32 of one function, 0 in the padding."""
    try:
        got = function(batch)
    except Exception as error:
        raise RewardError(f"the reward {name!r} raised {type(error).__name__}: {error}") from error
    rows, width = batch.mask.shape
    if not isinstance(got, Tensor) or got.shape not in {(rows,), (rows, width)}:
        what = f"shape {tuple(got.shape)}" if isinstance(got, Tensor) else type(got).__name__
        raise RewardError(
            f"the reward {name!r} must return a tensor of shape {(rows,)}, a number an answer, or {(rows, width)}, a"
            f" number a token, got {what}"
        )
    got = got.detach().to(batch.mask.device, torch.float32)
    if got.dim() == 1:
        last = batch.mask.sum(1, keepdim=True) - 1
        got = torch.zeros(batch.mask.shape, device=got.device).scatter(1, last, got[:, None])
    got = torch.where(batch.mask, got, 0)
    wrong = ~got.isfinite().all(1)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise RewardError(
            f"the reward {name!r} must return finite numbers, got {got[row][~got[row].isfinite()][0].item()} for the"
            f" answer {batch.answers[row]!r:.200}"
        )
    return got
