"""Answers drawn by the generation of `transformers`, each from a random stream of its own."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from fluxcore.rl.policy import evaluating


class Answers(NamedTuple):
    """Prompts padded on the left, with the answers after them padded on the right."""

    tokens: Tensor
    """[B, P + A] int64."""
    attention: Tensor
    """[B, P + A] bool, False for padding on either side."""
    mask: Tensor
    """[B, A] bool: the tokens of the answer, the end token among them."""


def left_padded(prompts: Sequence[Tensor], pad_id: int) -> tuple[Tensor, Tensor]:
    """Tokens [B, P] int64 and attention [B, P] bool of prompts that end at the same column.

    Raises:
        ValueError: no prompt, or one without a token.
    """
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise ValueError(
            f"`prompts` must have a token each, got lengths {[len(prompt) for prompt in prompts]}"
            "\n\nBegin an empty prompt with the tokenizer's end token."
        )
    longest = max(len(prompt) for prompt in prompts)
    tokens = torch.full((len(prompts), longest), pad_id, dtype=torch.int64)
    attention = torch.zeros((len(prompts), longest), dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = prompt
        attention[row, longest - len(prompt) :] = True
    return tokens, attention


class GumbelNoise(LogitsProcessor):
    """Makes the largest logit a sample: noise of the Gumbel distribution is added to logits over a temperature.

    Each row has its own random stream, so that what is drawn for it does not depend on the rows beside it: not on the
    batch size, and not on the number of ranks.

    Args:
        seeds: One a row.
        temperature: > 0.
        device: Of the logits.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, device: torch.device) -> None:
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self.temperature = temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """[B, V] logits to [B, V] whose argmax is drawn from their softmax."""
        noise = torch.empty_like(scores, dtype=torch.float32)
        for row, generator in zip(noise, self.generators, strict=True):
            row.exponential_(generator=generator)
        tiny = torch.finfo(torch.float32).tiny
        return scores.float() / self.temperature - noise.clamp(min=tiny).log()


def draw_answers(
    model: Any,
    prompts: Sequence[Tensor],
    *,
    seeds: Sequence[int],
    new_tokens: int,
    pad_id: int,
    end_id: int | None,
    temperature: float = 1.0,
) -> Answers:
    """Continue each prompt by tokens drawn from the model's distribution, with a cache of keys and values.

    Args:
        model: A causal language model of `transformers`.
        prompts: [B], each [p] int64 on the CPU.
        seeds: [B], of the rows' random streams.
        new_tokens: At most so many; fewer where `end_id` is drawn, which then is the last of the answer.
        pad_id: Fills rows up; a token that the model knows, otherwise of no effect.
        end_id: Ends an answer; None: all have `new_tokens`.
        temperature: > 0.
    Raises:
        ValueError: a prompt without a token or without room in the model's context, or seeds of another number.
    """
    if len(seeds) != len(prompts):
        raise ValueError(f"`seeds` must be one a prompt, {len(prompts)}, got {len(seeds)}")
    padded, seen = left_padded(prompts, pad_id)
    context = getattr(model.config, "max_position_embeddings", None)
    if context is not None and padded.shape[1] + new_tokens > context:
        raise ValueError(
            f"`prompts` must leave room for `new_tokens` = {new_tokens} in the model's context of {context}, got a"
            f" prompt of {padded.shape[1]} tokens\n\nCut the prompts, or ask for fewer tokens."
        )
    device = next(model.parameters()).device
    padded, seen = padded.to(device), seen.to(device)
    # Greedy, and every other knob off: the noise alone decides.
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        pad_token_id=pad_id,
        eos_token_id=end_id,
        bos_token_id=None,
    )
    noise = GumbelNoise(seeds, temperature, device)
    with evaluating(model):
        tokens: Tensor = model.generate(
            input_ids=padded,
            attention_mask=seen.long(),
            generation_config=settings,
            logits_processor=LogitsProcessorList([noise]),
        )
    answer = tokens[:, padded.shape[1] :]
    ends = torch.zeros_like(answer) if end_id is None else (answer == end_id).long()
    mask = ends.cumsum(1) - ends == 0  # up to the first end token, which counts
    tokens = torch.cat([padded, torch.where(mask, answer, pad_id)], 1)
    return Answers(tokens, torch.cat([seen, mask], 1), mask)


def given_answers(
    prompts: Sequence[Tensor], answers: Sequence[Tensor], *, pad_id: int, device: torch.device
) -> Answers:
    """Answers that are there already, such as the text that followed: teacher forcing.

    Args:
        prompts: [B], each [p] int64 on the CPU.
        answers: [B], each [a] int64, a >= 1.
        pad_id: Fills rows up.
        device: Of the result.
    """
    tokens, seen = left_padded(prompts, pad_id)
    reversed_tokens, reversed_seen = left_padded([answer.flip(0) for answer in answers], pad_id)
    mask = reversed_seen.flip(1)
    whole = Answers(torch.cat([tokens, reversed_tokens.flip(1)], 1), torch.cat([seen, mask], 1), mask)
    return Answers(*(each.to(device) for each in whole))
