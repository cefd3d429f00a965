"""Batches of rows that fit into memory, on the device, with exact resume."""

from collections.abc import Iterator
from typing import Any

import torch

from fluxcore.training.algorithmic_data import Rows


class RowLoader:
    """Hands out `steps` batches: all rows each time, or the rows of shuffled epochs.

    The rows at the end of an epoch that fill no batch are left out of it; another shuffle leaves out others.

    Args:
        rows: Of all ranks.
        batch_rows: Rows in a step, over all ranks; None takes all, in their own order.
        steps: Batches of the whole run.
        seed: Of the shuffles.
        rank: Takes every `world_size`th row of a batch.
        world_size: Number of ranks.
    """

    def __init__(
        self, rows: Rows, *, batch_rows: int | None, steps: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.rows = rows
        self.batch_rows = batch_rows
        self.steps = steps
        self.seed = seed
        self.rank, self.world_size = rank, world_size
        self.done = 0
        """Batches handed out."""
        self.mine = Rows(*(each[rank::world_size].contiguous() for each in rows))
        self.shuffled: tuple[int, torch.Tensor] | None = None

    def __iter__(self) -> Iterator[Rows]:
        while self.done < self.steps:
            self.done += 1
            yield self.mine if self.batch_rows is None else self.batch(self.done - 1)

    def batch(self, index: int) -> Rows:
        """This rank's rows of batch `index` of the run."""
        assert self.batch_rows is not None
        per_epoch = len(self.rows.targets) // self.batch_rows
        epoch, place = divmod(index, per_epoch)
        if self.shuffled is None or self.shuffled[0] != epoch:
            generator = torch.Generator().manual_seed((self.seed << 20) + epoch & (1 << 63) - 1)
            order = torch.randperm(len(self.rows.targets), generator=generator)
            self.shuffled = (epoch, order.to(self.rows.targets.device))
        chosen = self.shuffled[1][place * self.batch_rows : (place + 1) * self.batch_rows]
        return Rows(*(each[chosen[self.rank :: self.world_size]] for each in self.rows))

    def state_dict(self) -> dict[str, Any]:
        """How many batches were handed out."""
        return {"done": self.done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after them, on any number of ranks."""
        self.done = state_dict["done"]
