"""A data set as a folder that `datasets.load_from_disk` opens, with every column, and back without a loss.

A row is a chunk: `input_ids` without its padding, `loss_mask` where the set has a mask, the standard columns but
`valid_len`, and the added ones. Beside the Arrow file, `fluxcore.json` keeps what is known of the set as a whole.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluxcore.data.dataset import Dataset
from fluxcore.data.interchange.arrow_folder import TOKENS, column_values, list_arrow_files, list_items, read_batches
from fluxcore.data.interchange.pieces import read_pieces
from fluxcore.data.manifest import ColumnInfo
from fluxcore.data.writer import ShardWriter
from fluxcore.errors import CorruptShardError, MalformedInputError, require

FACTS_FILE = "fluxcore.json"
_FORMAT = "fluxcore data set in Arrow"
_MASK = "loss_mask"
_PLACES = {"source": "uint16", "doc_id": "uint64", "doc_offset": "uint32", "next_token": "int64"}
_INDEX = "original_index"
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


def write_rows(ds: Dataset, folder: Path) -> Iterator[int]:
    """Write the folder; yields the number of chunks done.

    Raises:
        ValueError: a column has a name that the layout keeps for itself.
        MissingExtraError: `datasets` is not installed.
    """
    datasets = require("datasets", extra="train")
    pa = require("pyarrow", extra="train")
    for name in (TOKENS, _MASK):
        if name in ds.manifest.columns:
            raise ValueError(f"a data set with a column `{name}` cannot be written: that name is the layout's own")
    manifest = ds.manifest
    length = ds.chunk_tokens if len(ds) and int(ds.column("valid_len").min()) == ds.chunk_tokens else -1
    types = {**_PLACES, _INDEX: "uint64", **{name: info.dtype for name, info in manifest.columns.items()}}
    features = {TOKENS: datasets.Sequence(datasets.Value(ds.token_dtype.name), length=length)}
    if manifest.token_mask:
        features[_MASK] = datasets.Sequence(datasets.Value("bool"), length=length)
    features |= {name: datasets.Value(dtype) for name, dtype in types.items()}
    info = datasets.DatasetInfo(features=datasets.Features(features))
    schema = info.features.arrow_schema
    name = "data-00000-of-00001.arrow"
    with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
        done = 0
        for piece in read_pieces(ds):
            kept = np.arange(ds.chunk_tokens) < piece.columns["valid_len"][:, None]
            lists = {TOKENS: piece.tokens[kept]}
            if piece.mask is not None:
                lists[_MASK] = piece.mask[kept]
            bounds = np.concatenate([[0], np.cumsum(piece.columns["valid_len"], dtype=np.int32)])
            arrays = [_list_array(schema.field(key).type, items, bounds) for key, items in lists.items()]
            columns = piece.columns | {"next_token": piece.next_tokens}
            arrays += [pa.array(columns[key], schema.field(key).type) for key in types]
            stream.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
            done += len(piece.tokens)
            yield done
    info.write_to_directory(str(folder))
    state: dict[str, Any] = {"_data_files": [{"filename": name}], "_fingerprint": manifest.hash[:16], "_split": None}
    state |= {"_format_columns": None, "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False}
    (folder / "state.json").write_text(json.dumps(state, indent=2))
    (folder / FACTS_FILE).write_text(json.dumps(_facts(ds), indent=2))


def _list_array(kind: Any, items: NDArray[Any], bounds: NDArray[np.int32]) -> Any:
    import pyarrow as pa

    values = pa.array(items, kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(values, type=kind)
    return pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), values, type=kind)


def _facts(ds: Dataset) -> dict[str, Any]:
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


def read_facts(folder: Path) -> dict[str, Any] | None:
    """What `write_rows` wrote about the data set as a whole; None where another program wrote the folder.

    Raises:
        MalformedInputError: it is not what `write_rows` writes.
    """
    path = folder / FACTS_FILE
    if not path.is_file():
        return None
    try:
        facts = json.loads(path.read_bytes())
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


def restore(folder: Path, facts: Mapping[str, Any], path: Path, **options: Any) -> Iterator[tuple[int, int]]:
    """Write the data set at `path` that `write_rows` had; yields chunks and tokens done.

    Args:
        facts: by `read_facts`.
        options: `uuid` and `shard_bytes` of the writer.
    Raises:
        MalformedInputError: the rows are not those of a data set, or not as many as there were.
    """
    try:
        tokenizer = None if facts["tokenizer"] is None else bytes.fromhex(facts["tokenizer"])
        with ShardWriter(
            path,
            chunk_tokens=facts["chunk_tokens"],
            dtype=facts["dtype"],
            vocab_size=facts["vocab_size"],
            sources=facts["sources"],
            tokenizer=tokenizer,
            score_columns=facts["columns"],
            sorted_by=None if facts["sorted_by"] is None else tuple(facts["sorted_by"]),
            token_mask=facts["token_mask"],
            parent=facts["manifest"],
            **options,
        ) as writer:
            chunks, tokens = 0, 0
            for file in list_arrow_files(folder):
                for batch in read_batches(file):
                    tokens += _append(writer, batch, facts, file)
                    chunks += batch.num_rows
                    yield chunks, tokens
            if chunks != facts["chunks"]:
                raise ValueError(f"it has {chunks} rows, {FACTS_FILE} lists {facts['chunks']}")
    except (ValueError, TypeError, CorruptShardError) as error:  # the last: a manifest that no reader would accept
        raise MalformedInputError(f"`{folder}` is not what an export writes: {error}", path=folder) from error


def _append(writer: ShardWriter, batch: Any, facts: Mapping[str, Any], file: Path) -> int:
    """Returns the number of tokens."""
    items, lengths = list_items(batch, TOKENS, file)
    columns = {name: column_values(batch, name, file) for name in (*_PLACES, _INDEX, *facts["columns"])}
    mask = None
    if facts["token_mask"]:
        bits, mask_lengths = list_items(batch, _MASK, file)
        if not np.array_equal(mask_lengths, lengths):
            raise ValueError(f"`{_MASK}` and `{TOKENS}` are not of one length")
        mask = _pad(bits, lengths, facts["chunk_tokens"])
    writer.append_batch(
        _pad(items, lengths, facts["chunk_tokens"]),
        sources=columns["source"],
        doc_ids=columns["doc_id"],
        doc_offsets=columns["doc_offset"],
        next_tokens=columns["next_token"],
        valid_lens=lengths,
        original_index=columns[_INDEX],
        scores={name: columns[name] for name in facts["columns"]},
        mask=mask,
    )
    return len(items)


def _pad(items: NDArray[Any], lengths: NDArray[np.int64], width: int) -> NDArray[Any]:
    """Lists laid one after another as the rows [n, width] of an array, without a copy where they fill it."""
    if lengths.size and not 1 <= lengths.min() <= lengths.max() <= width:
        raise ValueError(f"a chunk has 1 to {width} tokens, here are {lengths.min()} to {lengths.max()}")
    if (lengths == width).all():
        return items.reshape(len(lengths), width)
    rows = np.zeros((len(lengths), width), items.dtype)
    rows[np.arange(width) < lengths[:, None]] = items
    return rows
