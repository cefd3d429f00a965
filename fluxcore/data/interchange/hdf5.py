"""Chunks in an HDF5 file, one row a chunk: `token_chunks`, `doc_idx_for_chunk`, `category_for_chunk`.

An export adds what a data set knows beyond that: `valid_len_for_chunk`, `doc_offset_for_chunk`, `next_token_for_chunk`
(-1 where none follows), `original_index_for_chunk`, `loss_mask_for_chunk`, a group `columns`, and the attribute
`fluxcore`, from which `convert` makes the same data set again.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fluxcore.data.interchange.blocks import BLOCK_TOKENS, Block, list_files, regular_size
from fluxcore.data.interchange.facts import parse_facts, writer_of
from fluxcore.errors import CorruptShardError, MalformedInputError, require

FILE = "chunks.h5"
"""What an export is named."""
TOKENS, DOCUMENTS, CATEGORIES = "token_chunks", "doc_idx_for_chunk", "category_for_chunk"
MASK, FACTS = "loss_mask_for_chunk", "fluxcore"
PLACES = {
    DOCUMENTS: "uint64",
    "valid_len_for_chunk": "uint32",
    "doc_offset_for_chunk": "uint32",
    "next_token_for_chunk": "int64",
    "original_index_for_chunk": "uint64",
}


class Hdf5Files:
    """Rows of one category, or of all; rows of one document that follow each other are read as one text.

    Args:
        inputs: files, or folders of .h5 files.
        category: whose rows to read; None for all.
    Raises:
        MalformedInputError: a file is not HDF5, or not of this layout.
        MissingExtraError: h5py is not installed.
    """

    def __init__(self, inputs: Sequence[Path], category: str | None = None) -> None:
        self._category = category
        self._rows = {path: _rows_of(path, category) for path in list_files(inputs, ".h5")}
        self.tokens = sum(width * len(rows) for rows, width in self._rows.values())

    def blocks(self) -> Iterator[Block]:
        """All tokens, document by document."""
        for path, (rows, width) in self._rows.items():
            with _opened(path) as file:
                tokens, documents = file[TOKENS], file[DOCUMENTS][:]
                step = max(BLOCK_TOKENS // max(width, 1), 1)
                for start in range(0, len(rows), step):
                    here = rows[start : start + step]
                    behind = rows[start + 1 : start + step + 1]
                    # A document ends where the next row is of another, or does not follow in the file.
                    last = np.ones(len(here), bool)
                    count = len(behind)
                    last[:count] = (documents[here[:count]] != documents[behind]) | (behind != here[:count] + 1)
                    ends = (np.flatnonzero(last) + 1) * width
                    block = tokens[int(here[0]) : int(here[-1]) + 1][here - here[0]]
                    yield Block(block.reshape(-1), ends, path, int(here[0]) * width)


def list_categories(inputs: Sequence[Path]) -> list[str]:
    """Names of all categories in the files, in the order in which they first come."""
    names: dict[str, None] = {}
    for path in list_files(inputs, ".h5"):
        with _opened(path) as file:
            _check_layout(file, path)
            names |= dict.fromkeys(_category_names(file, path))
    return list(names)


def chunk_width(inputs: Sequence[Path]) -> int:
    """Tokens a row, of the first file."""
    path = list_files(inputs, ".h5")[0]
    with _opened(path) as file:
        return _check_layout(file, path)


class LabelCount(NamedTuple):
    """How much of a file has one category."""

    documents: int
    chunks: int
    tokens: int
    """Without padding, where the file says how long its chunks are."""


def read_label_counts(path: Path) -> tuple[dict[str, LabelCount], int]:
    """The categories of a file, most tokens first, and the tokens of a row.

    Raises:
        MalformedInputError: it is no HDF5 file, or not in this layout.
        MissingExtraError: h5py is not installed.
    """
    with _opened(path) as file:
        width = _check_layout(file, path)
        names = np.array(_category_names(file, path), object)
        documents = file[DOCUMENTS][:]
        lengths = np.full(len(names), width, np.int64)
        if "valid_len_for_chunk" in file:
            lengths = _check_dataset(file, "valid_len_for_chunk", path)[:].astype(np.int64)
    counts = {}
    for name in dict.fromkeys(names.tolist()):
        mine = names == name
        tokens = int(lengths[mine].sum())
        counts[str(name)] = LabelCount(len(np.unique(documents[mine])), int(mine.sum()), tokens)
    return dict(sorted(counts.items(), key=lambda item: -item[1].tokens)), width


def read_facts(path: Path) -> dict[str, Any] | None:
    """What `write_file` of hdf5_export wrote about the data set as a whole; None where another program wrote the file.

    Raises:
        MalformedInputError: it is no HDF5 file, or its facts are not what `write_file` writes.
    """
    files = list_files([path], ".h5")
    with _opened(files[0]) as file:
        text = file.attrs.get(FACTS)
    return None if text is None else parse_facts(text, files[0])


def restore(path: Path, facts: Mapping[str, Any], out: Path, **options: Any) -> Iterator[tuple[int, int]]:
    """Write the data set at `out` that `write_file` had; yields chunks and tokens done.

    Args:
        path: the file, or the folder that it is alone in.
        facts: by `read_facts`.
        options: `uuid` and `shard_bytes` of the writer.
    Raises:
        MalformedInputError: the rows are not those of a data set, or not as many as there were.
    """
    (path,) = list_files([path], ".h5")
    numbers = {name: f"columns/{number}" for number, name in enumerate(facts["columns"])}
    try:
        with _opened(path) as file, writer_of(facts, out, **options) as writer:
            width = _check_layout(file, path)
            names = (*PLACES, *([MASK] if facts["token_mask"] else []), *numbers.values())
            for name in names:
                _check_dataset(file, name, path)
            if any(len(file[name]) != facts["chunks"] for name in (TOKENS, *names)):
                raise ValueError(f"its rows are not the {facts['chunks']} that it lists")
            by_name = {name: number for number, name in enumerate(facts["sources"])}
            tokens, step = 0, max(BLOCK_TOKENS // width, 1)
            for start in range(0, facts["chunks"], step):
                part = slice(start, min(start + step, facts["chunks"]))
                lengths = file["valid_len_for_chunk"][part].astype(np.int64)
                writer.append_batch(
                    file[TOKENS][part],
                    sources=np.array([by_name[name] for name in _decoded(file[CATEGORIES][part], path)], np.uint16),
                    doc_ids=file[DOCUMENTS][part],
                    doc_offsets=file["doc_offset_for_chunk"][part],
                    next_tokens=file["next_token_for_chunk"][part],
                    valid_lens=lengths,
                    original_index=file["original_index_for_chunk"][part],
                    scores={name: file[number][part] for name, number in numbers.items()},
                    mask=file[MASK][part].astype(bool) if facts["token_mask"] else None,
                )
                tokens += int(lengths.sum())
                yield part.stop, tokens
    except (ValueError, TypeError, KeyError, CorruptShardError) as error:
        raise MalformedInputError(f"`{path}` is not what an export writes: {error}", path=path) from error


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file, open for reading; what HDF5 says of a broken one names it."""
    h5py = require("h5py", extra="hdf5")
    regular_size(path)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
            raise  # of the data set that is written meanwhile
        raise MalformedInputError(f"`{path}` is no sound HDF5 file: {error}", path=path) from error


def _check_layout(file: Any, path: Path) -> int:
    """Check tokens, documents and categories; returns the tokens a row."""
    tokens, documents = _check_dataset(file, TOKENS, path), _check_dataset(file, DOCUMENTS, path)
    if tokens.ndim != 2 or tokens.shape[1] < 1 or tokens.dtype.kind not in "iu":
        raise _malformed(path, TOKENS, f"must be integers [chunks, tokens], it is {tokens.dtype} {tokens.shape}")
    if documents.shape != tokens.shape[:1] or documents.dtype.kind not in "iu":
        raise _malformed(
            path, DOCUMENTS, f"must be {tokens.shape[0]} integers, it is {documents.dtype} {documents.shape}"
        )
    if CATEGORIES in file:
        categories = _check_dataset(file, CATEGORIES, path)
        if categories.shape != tokens.shape[:1] or categories.dtype.kind not in "iuOS":
            raise _malformed(path, CATEGORIES, f"must be {tokens.shape[0]} names, it is {categories.shape}")
    return int(tokens.shape[1])


def _check_dataset(file: Any, name: str, path: Path) -> Any:
    """A data set that lies in this very file: no link and no storage leads out of it."""
    import h5py

    node = file
    for part in name.split("/"):
        if not isinstance(node, h5py.Group) or not isinstance(node.get(part, getlink=True), h5py.HardLink):
            raise _malformed(path, name, "is missing, or is a link")
        node = node[part]
    if not isinstance(node, h5py.Dataset) or node.is_virtual or node.external or node.shape is None:
        raise _malformed(path, name, "must be a data set within the file")
    return node


def _rows_of(path: Path, category: str | None) -> tuple[NDArray[np.int64], int]:
    """Numbers of the rows of a category, and the tokens of a row."""
    with _opened(path) as file:
        width = _check_layout(file, path)
        if category is None:
            return np.arange(len(file[TOKENS])), width
        return np.flatnonzero(np.array(_category_names(file, path), object) == category), width


def _category_names(file: Any, path: Path) -> list[str]:
    """The category of each row, by name; a number stands for itself."""
    if CATEGORIES not in file:
        return ["hdf5"] * len(file[TOKENS])
    return _decoded(file[CATEGORIES][:], path)


def _decoded(values: NDArray[Any], path: Path) -> list[str]:
    try:
        return [value.decode() if isinstance(value, bytes) else str(value) for value in values.tolist()]
    except UnicodeDecodeError as error:
        raise _malformed(path, CATEGORIES, f"must be names in UTF-8: {error}") from error


def _malformed(path: Path, name: str, fault: str) -> MalformedInputError:
    return MalformedInputError(f"`{path}`: `{name}` {fault}", path=path)
