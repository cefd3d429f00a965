"""Mean loss on held-out chunks, the same at every validation and for every order."""

import math
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from fluxcore.data import Dataset
from fluxcore.training.language_model import IGNORED, TokenSums
from fluxcore.training.meters import Meters
from fluxcore.training.split import Ids

Measure = TypeVar("Measure", contravariant=True)


class Validates(Protocol[Measure]):
    """What a run validates on."""

    def run(self, accelerator: Accelerator, model: nn.Module, measure: Measure) -> dict[str, float]:
        """Means over all that is held out, `loss` among them; all ranks call it."""


class Validation:
    """Held-out chunks and how they are measured.

    Args:
        ds: Data set of the chunks.
        chunk_ids: Held-out chunks.
        batch_size: Chunks a rank puts through the model at once.
        seq: Tokens in a sequence; divides the chunk length.
    """

    def __init__(self, ds: Dataset, chunk_ids: Ids, *, batch_size: int, seq: int) -> None:
        self.ds = ds
        self.chunk_ids = chunk_ids
        self.batch_size = batch_size
        self.seq = seq

    def run(
        self, accelerator: Accelerator, model: nn.Module, measure: Callable[[Tensor, Tensor], TokenSums]
    ) -> dict[str, float]:
        """Token-weighted means over all chunks and ranks. All ranks call it.

        Args:
            accelerator: Device and ranks.
            model: Called with `input_ids=`; is in evaluation mode meanwhile.
            measure: (logits [B, T, V], targets [B, T]) -> sums.
        Returns:
            `loss` (nats a token), `perplexity`, `entropy`, `max_prob`, `val_tokens`.
        """
        was_training = model.training
        model.eval()
        meters = Meters(accelerator)
        with torch.no_grad():
            for tokens, targets in self.sequences(accelerator):
                sums = measure(model(input_ids=tokens).logits, targets)
                for name in ("loss", "entropy", "max_prob"):
                    meters.add(name, getattr(sums, name), sums.tokens)
        model.train(was_training)
        means = meters.close_interval()
        return {**means, "perplexity": perplexity(means["loss"]), "val_tokens": int(meters.weight("loss"))}

    def sequences(self, accelerator: Accelerator) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of this rank, on its device: tokens [B, T], and targets [B, T], -100 where none counts."""
        for ids, counted in self.batches(accelerator.process_index, accelerator.num_processes):
            tokens, targets = (torch.from_numpy(array) for array in self.ds.gather(ids, out="int64"))
            targets[~torch.from_numpy(counted)] = IGNORED
            yield tokens.view(-1, self.seq).to(accelerator.device), targets.view(-1, self.seq).to(accelerator.device)

    def batches(self, rank: int, world_size: int) -> list[tuple[Ids, np.ndarray[tuple[int], np.dtype[np.bool_]]]]:
        """Chunk ids of this rank and whether each counts: ranks have equally many batches, as sharded models need."""
        count = -(-len(self.chunk_ids) // world_size)
        mine = self.chunk_ids[rank::world_size]
        counted = np.arange(count) < len(mine)
        padded = np.concatenate([mine, np.repeat(self.chunk_ids[:1], count - len(mine))])
        starts = range(0, count, self.batch_size)
        return [(padded[i : i + self.batch_size], counted[i : i + self.batch_size]) for i in starts]


def perplexity(loss: float) -> float:
    """e^loss; infinite where that is beyond a float."""
    return math.exp(loss) if loss < 709 else math.inf
