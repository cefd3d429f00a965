"""What an export keeps of a data set as a whole, so that `convert` makes the same one of it again."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluxcore.data.dataset import Dataset
from fluxcore.data.manifest import ColumnInfo
from fluxcore.data.writer import ShardWriter
from fluxcore.errors import MalformedInputError

_FORMAT = "fluxcore data set"
_FACTS = {
    "chunks": int,
    "chunk_tokens": int,
    "dtype": str,
    "vocab_size": int,
    "tokenizer": str | None,
    "token_mask": bool,
    "sources": list,
    "columns": dict,
    "sorted_by": list | None,
    "manifest": str,
}


def facts_of(ds: Dataset) -> dict[str, Any]:
    """Plain values that JSON takes and `parse_facts` reads."""
    manifest = ds.manifest
    return {
        "format": _FORMAT,
        "version": 1,
        "chunks": len(ds),
        "chunk_tokens": ds.chunk_tokens,
        "dtype": manifest.dtype,
        "vocab_size": manifest.vocab_size,
        "tokenizer": manifest.tokenizer,
        "token_mask": manifest.token_mask,
        "sources": list(manifest.sources),
        "columns": {name: asdict(info) for name, info in manifest.columns.items()},
        "sorted_by": None if manifest.sorted_by is None else [manifest.sorted_by.column, manifest.sorted_by.descending],
        "manifest": manifest.hash,
    }


def parse_facts(data: bytes | str, path: Path) -> dict[str, Any]:
    """The facts in a JSON text; `columns` as `ColumnInfo`.

    Raises:
        MalformedInputError: it is not what `facts_of` makes; names `path`.
    """
    try:
        facts = json.loads(data)
        if (facts["format"], facts["version"]) != (_FORMAT, 1):
            raise ValueError(f"format {facts['format']!r}, version {facts['version']!r}")
        for key, kind in _FACTS.items():
            if not isinstance(facts[key], kind):
                raise TypeError(f"{key!r} is {facts[key]!r}")
        column, descending = facts["sorted_by"] or ("", False)
        if not isinstance(column, str) or not isinstance(descending, bool):
            raise TypeError(f"'sorted_by' is {facts['sorted_by']!r}")
        columns = {name: ColumnInfo(**info) for name, info in facts["columns"].items()}
        return {key: facts[key] for key in _FACTS} | {"columns": columns}
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise MalformedInputError(f"`{path}` is not what an export writes: {error!r}", path=path) from error


def writer_of(facts: Mapping[str, Any], path: Path, **options: Any) -> ShardWriter:
    """A writer for the data set that the facts are of.

    Args:
        facts: by `parse_facts`.
        path: folder to write.
        options: `uuid` and `shard_bytes` of the writer.
    Raises:
        ValueError: the facts are not those of a data set.
    """
    return ShardWriter(
        path,
        chunk_tokens=facts["chunk_tokens"],
        dtype=facts["dtype"],
        vocab_size=facts["vocab_size"],
        sources=facts["sources"],
        tokenizer=None if facts["tokenizer"] is None else bytes.fromhex(facts["tokenizer"]),
        score_columns=facts["columns"],
        sorted_by=None if facts["sorted_by"] is None else tuple(facts["sorted_by"]),
        token_mask=facts["token_mask"],
        parent=facts["manifest"],
        **options,
    )


def pad_lists(items: NDArray[Any], lengths: NDArray[np.int64], width: int) -> NDArray[Any]:
    """Lists laid one after another as the rows [n, width] of an array, without a copy where they fill it.

    Raises:
        ValueError: a list is empty, or longer than `width`.
    """
    if lengths.size and not 1 <= lengths.min() <= lengths.max() <= width:
        raise ValueError(f"a chunk has 1 to {width} tokens, here are {lengths.min()} to {lengths.max()}")
    if (lengths == width).all():
        return items.reshape(len(lengths), width)
    rows = np.zeros((len(lengths), width), items.dtype)
    rows[np.arange(width) < lengths[:, None]] = items
    return rows
