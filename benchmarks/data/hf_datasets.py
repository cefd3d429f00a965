"""Hugging Face datasets: Arrow files, mapped."""

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.data import corpus
from benchmarks.data.contender import BATCH, Contender, as_long


class Arrow(Contender):
    """`shuffle` and a DataLoader of the torch format; tuned: `shuffle` and whole batches of the numpy format."""

    files = package = "datasets"

    def __init__(self, name: str, *, tuned: bool) -> None:
        self.name = name
        self._tuned = tuned

    def write(self, folder: Path, chunks: int) -> None:
        import datasets
        import pyarrow as pa

        kind = pa.list_(pa.uint16(), corpus.CHUNK_TOKENS)
        arrays = [pa.FixedSizeListArray.from_arrays(b.reshape(-1), type=kind) for b in corpus.blocks(chunks)]
        table = pa.table({"tokens": pa.chunked_array(arrays)})
        datasets.disable_progress_bars()
        datasets.Dataset(table).save_to_disk(str(folder / "set"))

    def open(self, folder: Path) -> None:
        import datasets

        self._ds = datasets.load_from_disk(str(folder / "set")).with_format("numpy" if self._tuned else "torch")

    def batches(self, seed: int) -> Iterator[Tensor]:
        return self._batches_of(self._ds.shuffle(seed=seed, keep_in_memory=True), BATCH)

    def _batches_of(self, ds: "object", rows: int) -> Iterator[Tensor]:
        if self._tuned:
            return (as_long(batch["tokens"]) for batch in ds.iter(rows, drop_last_batch=True))
        return (as_long(batch["tokens"]) for batch in DataLoader(ds, batch_size=rows, drop_last=True))

    def share(self, seed: int, state: object, rank: int, world: int) -> Iterator[Tensor]:
        from datasets.distributed import split_dataset_by_node

        shuffled = self._ds.shuffle(seed=seed, keep_in_memory=True)
        own = split_dataset_by_node(shuffled, rank=rank, world_size=world)
        rows = BATCH // world
        return self._batches_of(own if state is None else own.skip(state[1] * rows), rows)

    def item(self, index: int) -> object:
        return self._ds[index]["tokens"]
