"""A data set as one HDF5 file, `chunks.h5`, in the layout that `hdf5` reads; killed, it goes on from a checkpoint."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluxcore.data.dataset import Dataset
from fluxcore.data.interchange.checkpointed import CheckpointedFile
from fluxcore.data.interchange.facts import facts_of
from fluxcore.data.interchange.hdf5 import CATEGORIES, DOCUMENTS, FACTS, FILE, MASK, PLACES, TOKENS
from fluxcore.data.interchange.pieces import Piece, read_pieces
from fluxcore.errors import require

_CHECKPOINT_BYTES = 1 << 28  # of tokens: seconds of work, beside which a checkpoint costs little
_CHUNK_BYTES = 1 << 20  # of an HDF5 chunk
_CACHE_BYTES = 4 << 20  # a data set: a chunk that one piece does not fill stays there until the next does


def write_file(ds: Dataset, folder: Path) -> Iterator[int]:
    """Write `chunks.h5`, or go on with it; yields the number of chunks done, first of all that of an interrupted run.

    Every part begins with a file that was closed, so that the bytes are the same wherever a run was interrupted.

    Raises:
        MissingExtraError: h5py is not installed.
        OSError: it cannot be written; names the file.
    """
    h5py = require("h5py", extra="hdf5")
    rows = max(_CHECKPOINT_BYTES // (ds.chunk_tokens * 4), 1)
    with CheckpointedFile(folder / FILE) as file:
        if file.done is None:
            with _opened(h5py, file, "w") as h5:
                _create(h5py, h5, ds)
            file.checkpoint(0)
        done = file.done or 0
        yield done
        while done < len(ds):
            stop = min(done + rows, len(ds))
            with _opened(h5py, file, "r+") as h5:
                for piece in read_pieces(ds, done, stop):
                    _write(h5, ds, piece, done)
                    file.check()
                    done += len(piece.tokens)
                    yield done
            file.checkpoint(done)
        file.finish()


@contextmanager
def _opened(h5py: Any, file: CheckpointedFile, mode: str) -> Iterator[Any]:
    """The file for HDF5; what a write met is raised in place of what HDF5 makes of it."""
    try:
        # One version of the format, whatever is installed: the one that HDF5 1.10 and newer read.
        with h5py.File(file, mode, libver=("v110", "v110"), rdcc_nbytes=_CACHE_BYTES) as h5:
            yield h5
    except (OSError, RuntimeError):
        file.check()
        raise
    file.check()


def _create(h5py: Any, h5: Any, ds: Dataset) -> None:
    """All data sets, without values, and all that is known of the set as a whole."""
    count, width, manifest = len(ds), ds.chunk_tokens, ds.manifest
    types: dict[str, tuple[str, tuple[int, ...]]] = {
        TOKENS: ("int32" if ds.vocab_size <= 1 << 31 else "uint32", (width,))
    }
    types |= {name: (dtype, ()) for name, dtype in PLACES.items()}
    if manifest.token_mask:
        types[MASK] = ("uint8", (width,))
    types |= {f"columns/{number}": (info.dtype, ()) for number, info in enumerate(manifest.columns.values())}
    for name, (dtype, shape) in types.items():
        # Fletcher's sum: HDF5 has no checksum of data unless it is asked for one.
        rows = max(min(count, _CHUNK_BYTES // (max(int(np.prod(shape)), 1) * np.dtype(dtype).itemsize)), 1)
        h5.create_dataset(name, (count, *shape), dtype, chunks=(rows, *shape), fletcher32=True)
    for number, (name, info) in enumerate(manifest.columns.items()):
        h5[f"columns/{number}"].attrs.update({"name": name, "definition": info.definition})
    h5.create_dataset(CATEGORIES, (count,), h5py.string_dtype())
    h5.attrs.update({"num_chunks": count, "chunk_size": width, "vocab_size": ds.vocab_size})
    h5.attrs[FACTS] = json.dumps(facts_of(ds))


def _write(h5: Any, ds: Dataset, piece: Piece, start: int) -> None:
    part = slice(start, start + len(piece.tokens))
    for name, values in _values(piece, list(ds.manifest.columns)).items():
        h5[name][part] = values
    h5[CATEGORIES][part] = np.array(ds.manifest.sources, object)[piece.columns["source"]]


def _values(piece: Piece, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    columns = piece.columns
    found = {
        TOKENS: piece.tokens,
        DOCUMENTS: columns["doc_id"],
        "valid_len_for_chunk": columns["valid_len"],
        "doc_offset_for_chunk": columns["doc_offset"],
        "next_token_for_chunk": piece.next_tokens,
        "original_index_for_chunk": columns["original_index"],
    }
    if piece.mask is not None:
        found[MASK] = piece.mask
    return found | {f"columns/{number}": columns[name] for number, name in enumerate(names)}
