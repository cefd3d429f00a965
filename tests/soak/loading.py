"""Loaders of any make, stopped and resumed at any step: always the batches of a run without a break."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.data_sets import write_data_set

from fluxcore.data import Filter, Loader, Order
from soak.target import FoundError, Target


class Resumed(Target):
    """Orders, filters, mixtures, threads and ranks at random."""

    name = "resumed loaders"

    def prepare(self, folder: Path) -> None:
        """A set with ties, short chunks and two sources."""
        self._ds = write_data_set(folder / "set", 120)

    def attempt(self, rng: np.random.Generator) -> str:
        """One run without a break on one rank, and one with breaks on several."""
        options: dict[str, Any] = {"seed": int(rng.integers(1 << 62)), "out": "int64"}
        mixed = rng.random() < 0.3
        order = Order.shuffled() if mixed else _order(rng)
        if mixed:
            options |= {"mix": {"web": float(rng.uniform(0.1, 1)), "code": float(rng.uniform(0.1, 1))}}
        elif rng.random() < 0.3:
            options |= {"where": Filter("score", low=float(rng.uniform(-1, 5)))}
        batch = int(rng.choice([4, 8, 12]))
        options |= {"global_batch_size": batch, "epochs": int(rng.integers(1, 4))}
        try:
            whole = [one.tokens for one in Loader(self._ds, order, **options, threads=0)]
        except ValueError as error:
            if "unseen" not in str(error) and "chunks" not in str(error):
                raise
            return "refused"
        step, states, breaks = 0, None, 0
        while step < len(whole):
            ranks = int(rng.choice([n for n in (1, 2, 4) if batch % n == 0]))
            many = {"threads": int(rng.integers(0, 3)), "prefetch": int(rng.integers(1, 5))}
            loaders = [Loader(self._ds, order, **options, **many, rank=r, world_size=ranks) for r in range(ranks)]
            for loader in loaders:
                if states is not None:
                    loader.load_state_dict(states)
            count = int(rng.integers(1, 12))
            for rows in zip(*(_some(loader, count) for loader in loaders), strict=True):
                if not torch.equal(torch.cat(rows), whole[step]):
                    raise FoundError(f"batch {step} of {len(whole)} differs after {breaks} breaks, {ranks} ranks")
                step += 1
            states = loaders[int(rng.integers(ranks))].state_dict()
            breaks += 1
        return "the same"


def _some(loader: Loader, count: int) -> list[torch.Tensor]:
    return [batch.tokens for _, batch in zip(range(count), loader, strict=False)]


def _order(rng: np.random.Generator) -> Order:
    orders = [
        Order.shuffled(),
        Order.sorted("score", descending=bool(rng.integers(2))),
        Order.bucketed("score", edges=[float(rng.uniform(5, 45)), float(rng.uniform(55, 95))]),
        Order.jittered("score", int(rng.integers(1, 90))),
        Order.interleaved("score", int(rng.integers(1, 20))),
        Order.paced("score", str(rng.choice(["linear", "root", "quadratic"])), start=0.3, full_at=0.5),
    ]
    order = orders[int(rng.integers(len(orders)))]
    return order.then(orders[int(rng.integers(5))], at=float(rng.uniform(0.1, 0.9))) if rng.random() < 0.4 else order
