"""How hard each source is, measured under a copy of the model that lags behind."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from fluxcore import linear_softmax_stats
from fluxcore.data import Dataset, Difficulty, Loader, Order
from fluxcore.integrations.model_head import hidden_instead_of_logits, linear_head
from fluxcore.rl.policy import evaluating
from fluxcore.training.language_model import IGNORED, TokenSums
from fluxcore.training.split import Ids


class FrozenCopy:
    """A copy of a model that is brought up to date now and then, and is part of a checkpoint.

    Args:
        model: As it is now; without what wraps it.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = deepcopy(model).requires_grad_(False).eval()

    def refresh(self, model: nn.Module) -> None:
        """Take over the weights that `model` has now; those of parts that the copy lacks are left out."""
        now = model.state_dict()
        self.model.load_state_dict({name: now[name] for name in self.model.state_dict()})

    def state_dict(self) -> dict[str, Any]:
        """The weights, on the CPU."""
        return {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over weights."""
        self.model.load_state_dict(state)


def token_losses(model: Any, head: nn.Linear, tokens: Tensor, targets: Tensor) -> Tensor:
    """Loss [B, T] of each target, nats, 0 where there is none; logits are never stored."""
    with hidden_instead_of_logits(head):
        hidden = model(input_ids=tokens, use_cache=False).logits
    return -hidden_stats(hidden, head, targets)[0]


def hidden_stats(hidden: Tensor, head: nn.Linear, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability, entropy and largest probability [B, T] at each target, 0 where there is none."""
    counted = targets != IGNORED
    stats = linear_softmax_stats(
        hidden[counted],
        head.weight,
        targets[counted],
        linear_bias=head.bias,
        outputs=("logprob", "entropy", "max_prob"),
    )
    zeros = torch.zeros(targets.shape, dtype=torch.float32, device=hidden.device)
    found = []
    for each in (stats.logprob, stats.entropy, stats.max_prob):
        assert each is not None
        found.append(zeros.masked_scatter(counted, each.float()))
    logprob, entropy, max_prob = found
    return logprob, entropy, max_prob


def hidden_sums(hidden: Tensor, targets: Tensor, head: nn.Linear) -> TokenSums:
    """`token_sums` of hidden states."""
    logprob, entropy, max_prob = hidden_stats(hidden, head, targets)
    return TokenSums(-logprob.sum(), entropy.sum(), max_prob.sum(), (targets != IGNORED).sum())


def measure_difficulty(
    accelerator: Accelerator,
    model: nn.Module,
    ds: Dataset,
    chunks: Mapping[str, Ids],
    *,
    count: int,
    batch_size: int,
    seq: int,
    seed: int,
) -> dict[str, Difficulty]:
    """Mean and variance over chunks of their mean loss, for each source, on a seeded sample. All ranks call it.

    Args:
        accelerator: The ranks share the chunks.
        model: Called on whole chunks.
        ds: Of the chunks.
        chunks: Source -> its chunk ids.
        count: Chunks of each source; all of one that has fewer.
        batch_size: Chunks that a rank puts through the model at once.
        seq: Tokens in a sequence; divides the chunk length.
        seed: Another seed, another sample.
    """
    generator = np.random.default_rng(seed)
    drawn = [generator.permutation(ids)[:count] for ids in chunks.values()]
    world = accelerator.num_processes
    loader = Loader(
        ds,
        Order.shuffled(),
        subset=np.concatenate(drawn),
        global_batch_size=batch_size * world,
        drop_last=False,
        rank=accelerator.process_index,
        world_size=world,
        out="int64",
    )
    # Count, sum and sum of squares of each source.
    sums = torch.zeros(len(ds.sources), 3, dtype=torch.float64, device=accelerator.device)
    head = linear_head(model)
    with evaluating(model):
        for tokens, targets, meta in loader:
            if not len(tokens):
                continue
            tokens, targets = (each.to(accelerator.device) for each in (tokens, targets))
            pieces = (each.view(-1, seq) for each in (tokens, targets))
            losses = token_losses(model, head, *pieces).view(targets.shape).double().sum(1)
            mean = losses / (targets != IGNORED).sum(1).clamp(min=1)
            sums.index_add_(0, meta.source.to(sums.device), torch.stack([torch.ones_like(mean), mean, mean**2], 1))
    sums = accelerator.reduce(sums, "sum")
    found = {}
    for name in chunks:
        number, total, squares = sums[ds.sources.index(name)].tolist()
        found[name] = Difficulty(total / number, max(squares / number - (total / number) ** 2, 0.0))
    return found
