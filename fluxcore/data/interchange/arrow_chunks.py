"""A data set as a folder that `datasets.load_from_disk` opens, with every column, and back without a loss.

A row is a chunk: `input_ids` without its padding, `loss_mask` where the set has a mask, the standard columns but
`valid_len`, and the added ones. Beside the Arrow files, `fluxcore.json` keeps what is known of the set as a whole.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluxcore.data.dataset import Dataset
from fluxcore.data.interchange.arrow_folder import TOKENS, column_values, list_arrow_files, list_items, read_batches
from fluxcore.data.interchange.facts import facts_of, pad_lists, parse_facts, writer_of
from fluxcore.data.interchange.pieces import read_pieces
from fluxcore.data.writer import ShardWriter
from fluxcore.durable import naming, sync
from fluxcore.errors import CorruptShardError, MalformedInputError, require

FACTS_FILE = "fluxcore.json"
_MASK = "loss_mask"
_PLACES = {"source": "uint16", "doc_id": "uint64", "doc_offset": "uint32", "next_token": "int64"}
_INDEX = "original_index"
_FILE_BYTES = 1 << 29  # of tokens in a file, about as `datasets` has it: what a kill loses at most


def write_rows(ds: Dataset, folder: Path) -> Iterator[int]:
    """Write the folder, or go on with it; yields the number of chunks done, first of all those of an interrupted run.

    Each Arrow file has its name once it is whole and on the disk.

    Raises:
        ValueError: a column has a name that the layout keeps for itself.
        MissingExtraError: `datasets` is not installed.
        OSError: it cannot be written; names the file.
    """
    datasets = require("datasets", extra="train")
    for name in (TOKENS, _MASK):
        if name in ds.manifest.columns:
            raise ValueError(f"a data set with a column `{name}` cannot be written: that name is the layout's own")
    info = datasets.DatasetInfo(features=_features(datasets, ds))
    rows = max(_FILE_BYTES // (ds.chunk_tokens * ds.token_dtype.itemsize), 1)
    count = max(-(-len(ds) // rows), 1)
    names = [f"data-{number:05d}-of-{count:05d}.arrow" for number in range(count)]
    done = next((number for number, name in enumerate(names) if not (folder / name).is_file()), count)
    yield min(done * rows, len(ds))
    for number in range(done, count):
        path = folder / names[number]
        temporary = path.with_name(f".{path.name}.tmp")
        yield from _write_file(
            ds, temporary, info.features.arrow_schema, number * rows, min((number + 1) * rows, len(ds))
        )
        sync(temporary)
        temporary.rename(path)
    with naming(folder / "dataset_info.json"):
        info.write_to_directory(str(folder))
    state: dict[str, Any] = {"_data_files": [{"filename": name} for name in names], "_split": None}
    state |= {"_fingerprint": ds.manifest.hash[:16], "_format_columns": None, "_format_kwargs": {}}
    state |= {"_format_type": None, "_output_all_columns": False}
    for name, facts in (("state.json", state), (FACTS_FILE, facts_of(ds))):
        with naming(folder / name):
            (folder / name).write_text(json.dumps(facts, indent=2))


def _features(datasets: Any, ds: Dataset) -> Any:
    length = ds.chunk_tokens if len(ds) and int(ds.column("valid_len").min()) == ds.chunk_tokens else -1
    features = {TOKENS: datasets.Sequence(datasets.Value(ds.token_dtype.name), length=length)}
    if ds.manifest.token_mask:
        features[_MASK] = datasets.Sequence(datasets.Value("bool"), length=length)
    return datasets.Features(features | {name: datasets.Value(dtype) for name, dtype in _types(ds).items()})


def _types(ds: Dataset) -> dict[str, str]:
    return {**_PLACES, _INDEX: "uint64", **{name: info.dtype for name, info in ds.manifest.columns.items()}}


def _write_file(ds: Dataset, path: Path, schema: Any, first: int, stop: int) -> Iterator[int]:
    """Write chunks `first` to `stop` as one Arrow stream; yields the number of chunks done."""
    pa = require("pyarrow", extra="train")
    # Of Arrow's own files errors do not say what was full.
    with naming(path), path.open("wb") as file, pa.ipc.new_stream(file, schema) as stream:
        for piece in read_pieces(ds, first, stop):
            kept = np.arange(ds.chunk_tokens) < piece.columns["valid_len"][:, None]
            lists = {TOKENS: piece.tokens[kept]}
            if piece.mask is not None:
                lists[_MASK] = piece.mask[kept]
            bounds = np.concatenate([[0], np.cumsum(piece.columns["valid_len"], dtype=np.int32)])
            arrays = [_list_array(schema.field(key).type, items, bounds) for key, items in lists.items()]
            columns = piece.columns | {"next_token": piece.next_tokens}
            arrays += [pa.array(columns[key], schema.field(key).type) for key in _types(ds)]
            stream.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
            first += len(piece.tokens)
            yield first


def _list_array(kind: Any, items: NDArray[Any], bounds: NDArray[np.int32]) -> Any:
    import pyarrow as pa

    values = pa.array(items, kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(values, type=kind)
    return pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), values, type=kind)


def read_facts(folder: Path) -> dict[str, Any] | None:
    """What `write_rows` wrote about the data set as a whole; None where another program wrote the folder.

    Raises:
        MalformedInputError: it is not what `write_rows` writes.
    """
    path = folder / FACTS_FILE
    return parse_facts(path.read_bytes(), path) if path.is_file() else None


def restore(folder: Path, facts: Mapping[str, Any], path: Path, **options: Any) -> Iterator[tuple[int, int]]:
    """Write the data set at `path` that `write_rows` had; yields chunks and tokens done.

    Args:
        facts: by `read_facts`.
        options: `uuid` and `shard_bytes` of the writer.
    Raises:
        MalformedInputError: the rows are not those of a data set, or not as many as there were.
    """
    try:
        with writer_of(facts, path, **options) as writer:
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
        mask = pad_lists(bits, lengths, facts["chunk_tokens"])
    writer.append_batch(
        pad_lists(items, lengths, facts["chunk_tokens"]),
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
