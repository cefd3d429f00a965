"""Token files as other projects write them."""

import json

import numpy as np
import pyarrow as pa


def write_nanogpt(path, tokens):
    np.asarray(tokens, "<u2").tofile(path)
    return path


def write_modded(path, tokens, *, magic=20240520, version=1, count=None, dtype="<u2"):
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, len(tokens) if count is None else count
    path.write_bytes(header.tobytes() + np.asarray(tokens, dtype).tobytes())
    return path


def write_megatron(stem, documents, *, code=8, dtype="<u2", pointers=None, reverse=False):
    """Documents are lists of sequences, which are lists of ids; with `reverse` the .bin has the last sequence first."""
    sequences = [sequence for document in documents for sequence in document]
    lengths = [len(sequence) for sequence in sequences]
    order = range(len(sequences))[:: -1 if reverse else 1]
    stem.with_suffix(".bin").write_bytes(b"".join(np.asarray(sequences[i], dtype).tobytes() for i in order))
    if pointers is None:
        places = np.zeros(len(sequences), "<i8")
        placed = np.cumsum([0, *(lengths[i] for i in order)])[:-1] * np.dtype(dtype).itemsize
        places[list(order)] = placed
    else:
        places = np.asarray(pointers, "<i8")
    bounds = np.cumsum([0, *map(len, documents)])
    head = b"MMIDIDX\0\0" + (1).to_bytes(8, "little") + bytes([code])
    head += len(sequences).to_bytes(8, "little") + len(bounds).to_bytes(8, "little")
    body = np.asarray(lengths, "<i4").tobytes() + places.tobytes() + bounds.astype("<i8").tobytes()
    stem.with_suffix(".idx").write_bytes(head + body)
    return stem


def write_arrow(folder, rows, *, kind=None, column="input_ids"):
    """A folder as `datasets` saves it, in two files."""
    folder.mkdir()
    kind = kind or pa.list_(pa.int64())
    half = len(rows) // 2
    for name, part in (("a.arrow", rows[:half]), ("b.arrow", rows[half:])):
        table = pa.table({column: pa.array(part, kind)})
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table, max_chunksize=3)
    state = {"_data_files": [{"filename": "a.arrow"}, {"filename": "b.arrow"}], "_indices_data_files": None}
    (folder / "state.json").write_text(json.dumps(state))
    return folder


def documents_of(ds):
    """The documents of a data set, in order, from its chunks alone."""
    found = {}
    for i, doc_id in enumerate(ds.column("doc_id").tolist()):
        tokens = found.setdefault(doc_id, [])
        assert ds.column("doc_offset")[i] == len(tokens)
        tokens += ds[i][: ds.column("valid_len")[i]].tolist()
    return list(found.values())


def targets_follow(ds):
    """Whether the token after each chunk is the first of the next one of its document, and none after the last."""
    following = ds.column("next_token")
    doc_id = ds.column("doc_id")
    for i in range(len(ds)):
        goes_on = i + 1 < len(ds) and doc_id[i + 1] == doc_id[i]
        if following[i] != (ds[i + 1][0] if goes_on else 0xFFFFFFFF):
            return False
    return True
