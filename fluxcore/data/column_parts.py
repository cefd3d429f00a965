"""Columns of some chunks, read where they lie: no column is ever in memory as a whole."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fluxcore.data.chunk_checks import Array
from fluxcore.data.columns import find_column
from fluxcore.data.dataset import Dataset
from fluxcore.data.manifest_check import STANDARD_COLUMNS
from fluxcore.data.mapped_copy import take_mapped


def take_columns(ds: Dataset, names: Iterable[str], ids: NDArray[np.uint64]) -> dict[str, Array]:
    """Columns `names` of the chunks `ids`, [n] each.

    Args:
        ds: the data set.
        names: of columns that it has.
        ids: [n], ascending.
    Raises:
        CorruptShardError: a column is not what was written.
    """
    types = STANDARD_COLUMNS | {name: info.dtype for name, info in ds.manifest.columns.items()}
    columns: dict[str, Array] = {name: np.empty(len(ids), types[name]) for name in names}
    shards = ds.manifest.shards
    cuts = np.searchsorted(ids, np.array([shard.base + shard.chunks for shard in shards], np.uint64))
    start = 0
    for number, stop in enumerate(cuts.tolist()):
        if stop > start:
            rows = ids[start:stop] - np.uint64(shards[number].base)
            for name, values in columns.items():
                view, path = find_column(ds.path, ds.manifest, ds._core, number, name)
                values[start:stop] = take_mapped(view, rows, path)
        start = stop
    return columns
