"""Text that the model writes while it is being trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from fluxcore.data.tokenizer import Tokenizer
from fluxcore.training.config import ConfigError
from fluxcore.training.trainer_config import TrainerConfig


class Sampler:
    """Continues prompts by nucleus sampling.

    The draws have a seed of their own, so that sampling does not change the training that follows.

    Args:
        tokenizer: Path of a `tokenizer.json`.
        prompts: Beginnings; each must give at least a token.
        new_tokens: Tokens to add at most; the model's context is not exceeded.
        top_p: Draw from the likeliest tokens of this total probability.
        context: Tokens that the model reads at most.
    Raises:
        FileNotFoundError: there is no such tokenizer.
        ConfigError: a prompt without a token, or one that fills the context.
    """

    def __init__(self, tokenizer: Path, *, prompts: Sequence[str], new_tokens: int, top_p: float, context: int) -> None:
        if not tokenizer.is_file():
            raise FileNotFoundError(
                f"samples need a tokenizer, and there is none at {tokenizer}"
                "\n\nSet tokenizer=PATH of its tokenizer.json, or generate_every=0."
            )
        self.tokenizer = Tokenizer.load(tokenizer)
        self.prompts = dict(zip(prompts, self.tokenizer.encode_batch(prompts), strict=True))
        self.new_tokens = new_tokens
        self.top_p = top_p
        self.context = context
        for prompt, ids in self.prompts.items():
            if not 0 < len(ids) < context:
                raise ConfigError(
                    f"`prompts` must have between 1 and {context - 1} tokens, got {len(ids)} in {prompt!r}"
                )

    @classmethod
    def from_config(cls, config: TrainerConfig, tokenizer: Path, *, context: int) -> Self:
        """The sampler that a trainer's keys describe."""
        return cls(
            tokenizer,
            prompts=config.prompts,
            new_tokens=config.sample_tokens,
            top_p=config.top_p,
            context=context,
        )

    def sample(self, model: nn.Module, seed: int) -> dict[str, str]:
        """Prompt -> prompt and continuation; the same seed gives the same. All ranks of a sharded model call it."""
        device = next(model.parameters()).device
        end = self.tokenizer.end_id
        generate: Any = model.generate
        was_training = model.training
        model.eval()
        texts = {}
        with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            for prompt, ids in self.prompts.items():
                tokens = torch.tensor([ids.tolist()], device=device)
                written = generate(
                    input_ids=tokens,
                    attention_mask=torch.ones_like(tokens),
                    max_new_tokens=min(self.new_tokens, self.context - len(ids)),
                    do_sample=True,
                    top_p=self.top_p,
                    top_k=0,
                    eos_token_id=end,
                    pad_token_id=0 if end is None else end,
                )
                texts[prompt] = self.tokenizer.decode(written[0].tolist())
        model.train(was_training)
        return texts
