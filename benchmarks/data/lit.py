"""litdata: chunks of its own binary format."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.data import corpus
from benchmarks.data.contender import BATCH, Contender, as_long

_CHUNK_BYTES = 64 << 20


class Lit(Contender):
    """Arrays with its defaults; tuned: its loader of tokens, which stores no headers."""

    package = "litdata"
    writes_fast = False

    def __init__(self, name: str, *, tuned: bool) -> None:
        self.name = name
        self.files = "litdata tuned" if tuned else "litdata"
        self._tuned = tuned

    def _tokens_loader(self) -> "object":
        from litdata import TokensLoader

        return TokensLoader(block_size=corpus.CHUNK_TOKENS) if self._tuned else None

    def write(self, folder: Path, chunks: int) -> None:
        from litdata.streaming.cache import Cache

        cache = Cache(str(folder / "set"), chunk_bytes=_CHUNK_BYTES, item_loader=self._tokens_loader())
        number = 0
        for block in corpus.blocks(chunks):
            for row in block:
                cache[number] = torch.from_numpy(row) if self._tuned else {"tokens": row}
                number += 1
        cache.done()
        cache.merge()

    def open(self, folder: Path) -> None:
        self._folder = folder
        self._set = self._stream(0)

    def _stream(self, seed: int) -> "object":
        from litdata import StreamingDataset

        return StreamingDataset(
            str(self._folder / "set"), shuffle=True, seed=seed, drop_last=True, item_loader=self._tokens_loader()
        )

    def _loader(self, seed: int, rows: int = BATCH) -> "object":
        from litdata import StreamingDataLoader

        return StreamingDataLoader(self._stream(seed), batch_size=rows, drop_last=True)

    def batches(self, seed: int) -> Iterator[Tensor]:
        return self._batches_of(self._loader(seed))

    def _batches_of(self, loader: "object") -> Iterator[Tensor]:
        for batch in loader:
            tokens = batch if self._tuned else batch["tokens"]
            yield as_long(tokens.to(torch.int64))

    def item(self, index: int) -> object:
        item = self._set[index]
        return item if self._tuned else item["tokens"]

    def state(self, seed: int, step: int) -> object:
        loader = self._loader(seed)
        batches = iter(loader)
        for _ in range(step):
            next(batches)
        return seed, loader.state_dict()

    def resume(self, state: object) -> Iterator[Tensor]:
        seed, kept = state
        loader = self._loader(seed)
        loader.load_state_dict(kept)
        return self._batches_of(loader)

    def share(self, seed: int, state: object, rank: int, world: int) -> Iterator[Tensor]:
        loader = self._loader(seed, BATCH // world)
        if state is not None:
            loader.load_state_dict(state[1])
        return self._batches_of(loader)
