"""A file of uint16, as nanoGPT and its like have it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from benchmarks.data import corpus
from benchmarks.data.contender import BATCH, Contender


class _Numpy(Contender):
    files = "numpy"

    def write(self, folder: Path, chunks: int) -> None:
        with (folder / "tokens.bin").open("wb") as file:
            for block in corpus.blocks(chunks):
                file.write(block.tobytes())

    def open(self, folder: Path) -> None:
        self._map = np.memmap(folder / "tokens.bin", np.uint16, "r").reshape(-1, corpus.CHUNK_TOKENS)

    def item(self, index: int) -> object:
        return self._map[index]

    def write_sparse(self, folder: Path, chunks: int) -> None:
        folder.mkdir(parents=True)
        with (folder / "tokens.bin").open("wb") as file:
            file.truncate(chunks * corpus.CHUNK_TOKENS * 2)

    def start(self, folder: Path) -> Iterator[Tensor]:
        self.open(folder)
        return self.batches(0)


class FancyIndex(_Numpy):
    """A permutation, and 32 rows of the map at a time."""

    name = "numpy fancy index"

    def batches(self, seed: int) -> Iterator[Tensor]:
        order = np.random.default_rng(seed).permutation(len(self._map))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            yield torch.from_numpy(self._map[order[start : start + BATCH]].astype(np.int64))


class _Chunks(Dataset[Tensor]):
    def __init__(self, chunks: np.ndarray) -> None:
        self._chunks = chunks

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(self._chunks[index].astype(np.int64))


class _Batches(_Chunks):
    def __getitems__(self, indices: list[int]) -> Tensor:
        return torch.from_numpy(self._chunks[indices].astype(np.int64))


class MapLoader(_Numpy):
    """A data set over the map and a shuffling DataLoader, a chunk at a time or, tuned, a batch at a time."""

    def __init__(self, name: str, *, tuned: bool) -> None:
        self.name = name
        self._tuned = tuned

    def batches(self, seed: int) -> Iterator[Tensor]:
        return self._batches(batch_size=BATCH, shuffle=True, generator=torch.Generator().manual_seed(seed))

    def _batches(self, **options: object) -> Iterator[Tensor]:
        if self._tuned:
            return iter(DataLoader(_Batches(self._map), collate_fn=lambda batch: batch, drop_last=True, **options))
        return iter(DataLoader(_Chunks(self._map), drop_last=True, **options))

    def share(self, seed: int, state: object, rank: int, world: int) -> Iterator[Tensor]:
        sampler = DistributedSampler(self._map, num_replicas=world, rank=rank, seed=seed, drop_last=True)
        batches = self._batches(batch_size=BATCH // world, sampler=sampler)
        for _ in range(0 if state is None else state[1]):
            next(batches)
        return batches


class InOrder(_Numpy):
    """No loader: one thread widens the file in its order. A loader with one thread cannot be faster."""

    name = "floor: one thread, in order"

    def batches(self, seed: int) -> Iterator[Tensor]:
        for start in range(0, len(self._map) - BATCH + 1, BATCH):
            yield torch.from_numpy(self._map[start : start + BATCH].astype(np.int64))
