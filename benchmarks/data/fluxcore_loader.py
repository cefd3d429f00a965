"""Our own loader. Unless told not to, it writes the targets too, which the others leave to the caller."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

import fluxcore.data
from benchmarks.data import corpus
from benchmarks.data.contender import BATCH, Contender
from benchmarks.data.sparse import write_sparse_set
from fluxcore.data import Loader, Order


class Fluxcore(Contender):
    """Shuffled from the shards."""

    files = "fluxcore"

    def __init__(
        self,
        name: str,
        *,
        verify: str = "always",
        look_ahead: int = 1024,
        targets: bool = True,
        threads: int | None = None,
    ) -> None:
        self.name = name
        self._verify = verify
        self._options = {"out": "int64", "look_ahead": look_ahead, "targets": targets, "threads": threads}

    def write(self, folder: Path, chunks: int) -> None:
        with fluxcore.data.ShardWriter(
            folder / "set", chunk_tokens=corpus.CHUNK_TOKENS, vocab_size=corpus.VOCAB_SIZE, sources=["all"]
        ) as writer:
            for block in corpus.blocks(chunks):
                ids = np.arange(len(block))
                writer.append_batch(block, sources="all", doc_ids=ids, doc_offsets=np.zeros_like(ids))

    def open(self, folder: Path) -> None:
        self._ds = fluxcore.data.open(folder / "set", verify=self._verify)

    def _loader(self, ds: fluxcore.data.Dataset, seed: int, rank: int = 0, world: int = 1) -> Loader:
        ranks = {"rank": rank, "world_size": world}
        return Loader(ds, Order.shuffled(), global_batch_size=BATCH, seed=seed, **ranks, **self._options)

    def batches(self, seed: int) -> Iterator[Tensor]:
        return (batch.tokens for batch in self._loader(self._ds, seed))

    def item(self, index: int) -> object:
        return self._ds[index]

    def state(self, seed: int, step: int) -> object:
        loader = self._loader(self._ds, seed)
        loader.skip(step)
        return seed, loader.state_dict()

    def resume(self, state: object) -> Iterator[Tensor]:
        seed, kept = state
        loader = self._loader(self._ds, seed)
        loader.load_state_dict(kept)
        return (batch.tokens for batch in loader)

    def share(self, seed: int, state: object, rank: int, world: int) -> Iterator[Tensor]:
        loader = self._loader(self._ds, seed, rank, world)
        if state is not None:
            loader.load_state_dict(state[1])
        return (batch.tokens for batch in loader)

    def write_sparse(self, folder: Path, chunks: int) -> None:
        write_sparse_set(folder, chunks, corpus.CHUNK_TOKENS)

    def start(self, folder: Path) -> Iterator[Tensor]:
        ds = fluxcore.data.open(folder, verify=self._verify)
        return (batch.tokens for batch in self._loader(ds, 0))
