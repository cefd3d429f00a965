"""The key by which chunks are sorted, as a record that compares as its bytes do."""

import numpy as np
from numpy.typing import NDArray

from fluxcore import _core
from fluxcore.data.chunk_checks import Array
from fluxcore.data.manifest import SortKey
from fluxcore.data.parts import Parts
from fluxcore.data.ranking import TIE_BREAK, ordered_key

RECORD = np.dtype([("key", ">u8"), ("source", ">u2"), ("doc_id", ">u8"), ("doc_offset", ">u4"), ("chunk", ">u8")])
"""Big-endian and without gaps. The chunk id comes last: no two are equal."""

Records = NDArray[np.void]


def read_records(parts: Parts, key: SortKey, start: int, stop: int) -> Records:
    """Keys of the chunks `start` to `stop`, in the order of their ids."""
    ids = np.arange(start, stop, dtype=np.uint64)
    columns = parts.take((key.column, *TIE_BREAK), ids)
    records: Records = np.empty(stop - start, RECORD)
    records["key"] = ordered_key(columns[key.column], descending=key.descending)
    for name in TIE_BREAK:
        records[name] = columns[name]
    records["chunk"] = ids
    return records


def as_bytes(records: Records) -> Array:
    """The same memory as byte strings, which NumPy sorts and searches; they are of one length, so zeros count."""
    return records.view(f"S{RECORD.itemsize}")


def rank_records(records: Records) -> NDArray[np.uint64]:
    """Places within `records`, which are in the order of their chunk ids, from the lowest key to the highest."""
    ranking = np.arange(len(records), dtype=np.uint64)
    for name in (*reversed(TIE_BREAK), "key"):
        _core.radix_argsort(records[name].astype(np.uint64), ranking)
    return ranking
