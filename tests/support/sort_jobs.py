"""A data set of many small chunks, and what a sort of it by one process writes."""

from pathlib import Path

import numpy as np

from fluxcore.data import Dataset, SortJob, sort
from support.data_sets import write_data_set

SHARD_BYTES = 80_000  # a few hundred of the small chunks
MEMORY_BYTES = 240_000  # so that they make several partitions and blocks
OPTIONS = {"shard_bytes": SHARD_BYTES, "memory_bytes": MEMORY_BYTES}


def write_many(path: Path) -> Dataset:
    """3000 chunks in five shards."""
    ds = write_data_set(path, 3000, chunks_per_shard=700)
    ds.add_column("cluster", (np.arange(3000) * 7 % 50).astype(np.uint16), definition="unsigned")
    return ds


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones included, but for the lock, which names the process."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".fluxcore.lock"}


def sorted_files(ds: Dataset, folder: Path, *, descending: bool = False) -> dict[str, bytes]:
    """Files of the sort of `ds` by `score`."""
    sort(ds, folder, "score", descending, shard_bytes=SHARD_BYTES)
    return contents(folder)


def run_all(job: SortJob) -> None:
    """Run every task, then publish."""
    for task in range(job.tasks):
        job.run(task)
    job.publish()
