"""mosaicml-streaming: MDS shards."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.data import corpus
from benchmarks.data.contender import BATCH, Contender, as_long


class Mosaic(Contender):
    """Arrays, its defaults and a DataLoader; tuned: raw bytes, and one canonical node."""

    package = "streaming"
    writes_fast = False

    def __init__(self, name: str, *, tuned: bool) -> None:
        self.name = name
        self.files = "mosaicml-streaming tuned" if tuned else "mosaicml-streaming"
        self._tuned = tuned

    def write(self, folder: Path, chunks: int) -> None:
        from streaming import MDSWriter

        encoding = "bytes" if self._tuned else f"ndarray:uint16:{corpus.CHUNK_TOKENS}"
        with MDSWriter(out=str(folder / "set"), columns={"tokens": encoding}) as writer:
            for block in corpus.blocks(chunks):
                for row in block:
                    writer.write({"tokens": row.tobytes() if self._tuned else row})

    def open(self, folder: Path) -> None:
        self._folder = folder
        self._set = self._stream(0)

    def _stream(self, seed: int, rows: int = BATCH) -> "object":
        from streaming import StreamingDataset
        from streaming.base.util import clean_stale_shared_memory

        clean_stale_shared_memory()
        options = {"num_canonical_nodes": 1, "shuffle_algo": "naive"} if self._tuned else {}
        return StreamingDataset(
            local=str(self._folder / "set"), shuffle=True, shuffle_seed=seed, batch_size=rows, **options
        )

    def _tokens(self, samples: list[dict[str, object]]) -> Tensor:
        rows = [np.frombuffer(sample["tokens"], np.uint16) for sample in samples]
        return as_long(np.stack(rows).astype(np.int64))

    def batches(self, seed: int) -> Iterator[Tensor]:
        return self._batches_of(self._stream(seed))

    def _batches_of(self, stream: "object", rows: int = BATCH) -> Iterator[Tensor]:
        if self._tuned:
            return iter(DataLoader(stream, batch_size=rows, drop_last=True, collate_fn=self._tokens))
        return (as_long(b["tokens"].to(int)) for b in DataLoader(stream, batch_size=rows, drop_last=True))

    def item(self, index: int) -> object:
        return self._set[index]["tokens"]

    def state(self, seed: int, step: int) -> object:
        stream = self._stream(seed)
        next(self._batches_of(stream))  # a stream that was not begun says that it is in epoch -1
        return seed, stream.state_dict(step * BATCH, from_beginning=True)

    def resume(self, state: object) -> Iterator[Tensor]:
        seed, kept = state
        stream = self._stream(seed)
        stream.load_state_dict(kept)
        return self._batches_of(stream)

    def share(self, seed: int, state: object, rank: int, world: int) -> Iterator[Tensor]:
        stream = self._stream(seed, BATCH // world)
        if state is not None:
            stream.load_state_dict(state[1])
        return self._batches_of(stream, BATCH // world)
