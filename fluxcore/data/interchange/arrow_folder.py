"""Folders of Arrow files, as `datasets.Dataset.save_to_disk` lays them out."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fluxcore.data.interchange.blocks import Block, Tokens
from fluxcore.errors import MalformedInputError, require

if TYPE_CHECKING:
    import pyarrow as pa

TOKENS = "input_ids"


class ArrowFiles:
    """Rows of token ids in one column; each row is a document.

    Args:
        folders: made by `save_to_disk`.
        column: lists of integers, of one length or of several.
    Raises:
        MalformedInputError: a folder or a file in it is not what it should be, or has no such column.
        MissingExtraError: pyarrow is not installed.
    """

    def __init__(self, folders: Sequence[Path], column: str = TOKENS) -> None:
        self._column = column
        self._files = [path for folder in folders for path in list_arrow_files(folder)]
        self.tokens: int | None = None
        """Not known before all is read."""

    def blocks(self) -> Iterator[Block]:
        """All tokens, row by row."""
        for path in self._files:
            position = 0
            for batch in read_batches(path):
                tokens, lengths = list_items(batch, self._column, path)
                yield Block(tokens, np.cumsum(lengths), path, position)
                position += len(tokens)


def list_arrow_files(folder: Path) -> list[Path]:
    """The files of a saved data set, in order.

    Raises:
        MalformedInputError: its list of files is missing, or not a list of file names in this folder.
    """
    path = folder / "state.json"
    if not path.is_file():
        parts = (folder / "dataset_dict.json").is_file()
        raise MalformedInputError(
            f"`{folder}` must be a folder made by `datasets.Dataset.save_to_disk`, it has no state.json"
            + ("\n\nIt holds several splits: give the folder of one of them." if parts else ""),
            path=folder,
        )
    try:
        state = json.loads(path.read_bytes())
        names = [entry["filename"] for entry in state["_data_files"]]
        if state.get("_indices_data_files"):
            raise ValueError("its rows are rearranged by a second file; call `flatten_indices` before saving")
        if not all(isinstance(name, str) and Path(name).name == name != "" for name in names):
            raise ValueError(f"its files must be names in this folder, got {names}")
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise MalformedInputError(f"`{path}` is no list of Arrow files: {error!r}", path=path) from error
    return [folder / name for name in names]


def read_batches(path: Path) -> Iterator["pa.RecordBatch"]:
    """The record batches of an Arrow stream, checked; their numbers lie in the mapped file.

    Raises:
        MalformedInputError: it is no sound Arrow stream.
    """
    pa = require("pyarrow", extra="train")
    require("pyarrow.ipc", extra="train")
    if not path.is_file():
        raise MalformedInputError(f"`{path}`, an Arrow file of the data set, is missing", path=path)
    try:
        with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
            # Names are decoded when they are asked for: here the error knows the file.
            _ = (str(stream.schema), stream.schema.names)
            for batch in stream:
                batch.validate(full=True)
                yield batch
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise MalformedInputError(f"`{path}` is no sound Arrow stream: {error}", path=path) from error


def list_items(batch: "pa.RecordBatch", column: str, path: Path) -> tuple[Tokens, NDArray[np.int64]]:
    """The items of all lists of a column, without a copy, and the length of each list.

    Raises:
        MalformedInputError: there is no such column, it holds no lists of integers or booleans, or something is null.
    """
    import pyarrow as pa

    lists = _column(batch, column, path)
    kind = lists.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise MalformedInputError(f"`{path}`: column `{column}` must hold lists of integers, it is {kind}", path=path)
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    return _numbers(lists.flatten(), column, path), lengths


def column_values(batch: "pa.RecordBatch", column: str, path: Path) -> NDArray[Any]:
    """A column of numbers.

    Raises:
        MalformedInputError: there is no such column, it holds no numbers, or something is null.
    """
    return _numbers(_column(batch, column, path), column, path)


def _column(batch: "pa.RecordBatch", name: str, path: Path) -> Any:
    if batch.schema.names.count(name) != 1:
        raise MalformedInputError(
            f"`{path}` must have one column `{name}`, its columns are {', '.join(batch.schema.names)}", path=path
        )
    values = batch.column(name)
    if values.null_count:
        raise MalformedInputError(f"`{path}`: column `{name}` has {values.null_count} values that are null", path=path)
    return values


def _numbers(values: Any, column: str, path: Path) -> NDArray[Any]:
    import pyarrow as pa

    kind = values.type
    if not (pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_float32(kind)) or values.null_count:
        raise MalformedInputError(
            f"`{path}`: column `{column}` must hold numbers, none of them null, it is {kind} with {values.null_count}"
            " nulls",
            path=path,
        )
    return np.asarray(values.to_numpy(zero_copy_only=not pa.types.is_boolean(kind)))
