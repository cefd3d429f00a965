"""What holds for a data set as a whole, as a user hands it to the writer: checked, and put into the manifest."""

import uuid as uuids
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fluxcore import _core
from fluxcore.data.argument_checks import whole, yes_or_no
from fluxcore.data.manifest import ColumnInfo, Manifest, SortKey
from fluxcore.data.manifest_check import (
    MAX_SHARD_COLUMNS,
    MAX_SOURCES,
    STANDARD_COLUMNS,
    TOKEN_DTYPES,
    fault_of_definition,
    fault_of_source_name,
)


def first_manifest(
    *,
    chunk_tokens: int,
    dtype: str,
    vocab_size: int,
    sources: Sequence[str],
    tokenizer: bytes | None,
    score_columns: Mapping[str, str | ColumnInfo] | Iterable[str],
    sorted_by: tuple[str, bool] | None,
    parent: str | None,
    token_mask: bool,
    uuid: uuids.UUID | None,
) -> Manifest:
    """The manifest of a data set before its first shard; see `ShardWriter` for the arguments.

    Raises:
        TypeError, ValueError: an argument cannot be; the message names it.
    """
    check_vocabulary(vocab_size, dtype)
    check_sources(sources)
    columns = _columns(score_columns)
    if uuid is not None and not isinstance(uuid, uuids.UUID):
        raise TypeError(f"`uuid` must be a uuid.UUID, got {uuid!r}")
    if not (parent is None or (isinstance(parent, str) and len(parent) == 32 and not parent.strip("0123456789abcdef"))):
        raise ValueError(f"`parent` must be the hash of a manifest, 32 hexadecimal digits, got {parent!r}")
    return Manifest(
        generation=1,
        uuid=(uuid or uuids.uuid4()).hex,
        chunk_tokens=whole(chunk_tokens, "chunk_tokens", low=1, high=1 << 24),
        dtype=dtype,
        vocab_size=int(vocab_size),
        tokenizer=None if tokenizer is None else fingerprint(tokenizer),
        token_mask=yes_or_no(token_mask, "token_mask"),
        sources=tuple(sources),
        columns=columns,
        sorted_by=None if sorted_by is None else _sort_key(sorted_by, columns),
        parent=parent,
        shards=(),
    )


def _columns(given: Mapping[str, str | ColumnInfo] | Iterable[str]) -> dict[str, ColumnInfo]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"`score_columns` must be names, or names and definitions, got {given!r}")
    names = list(given)
    check_column_names(names)
    columns = {}
    for name in names:
        info = given[name] if isinstance(given, Mapping) else ""
        columns[name] = info if isinstance(info, ColumnInfo) else ColumnInfo(dtype="float32", definition=info)
        check_definition(columns[name].definition, name)
    return columns


def _sort_key(sorted_by: tuple[str, bool], columns: Mapping[str, ColumnInfo]) -> SortKey:
    if not (isinstance(sorted_by, tuple) and len(sorted_by) == 2 and type(sorted_by[1]) is bool):
        raise TypeError(f"`sorted_by` must be a score column and whether it descends, got {sorted_by!r}")
    if sorted_by[0] not in columns:
        raise ValueError(f"`sorted_by` must be one of the score columns {list(columns)}, got {sorted_by[0]!r}")
    return SortKey(column=sorted_by[0], descending=sorted_by[1])


def check_vocabulary(vocab_size: int, dtype: str) -> None:
    """Check that `dtype` can hold every id of the vocabulary.

    Raises:
        TypeError: the size is no integer.
        ValueError: it cannot, or one of the two is out of range.
    """
    if dtype not in TOKEN_DTYPES:
        raise ValueError(f"`dtype` must be one of {list(TOKEN_DTYPES)}, got {dtype!r}")
    whole(vocab_size, "vocab_size", low=1, high=(1 << 32) - 1)
    if vocab_size > np.iinfo(dtype).max + 1:
        wider = "uint16" if vocab_size <= 1 << 16 else "uint32"
        raise ValueError(
            f"`dtype` must hold {vocab_size} token ids (`vocab_size`), got {dtype!r}, which holds "
            f'{np.iinfo(dtype).max + 1}\n\nUse dtype="{wider}".'
        )


def check_sources(sources: Sequence[str]) -> None:
    """Check the table of source names.

    Raises:
        TypeError: no list, as one string is none.
        ValueError: empty, too long, a name twice, or a name that cannot be stored.
    """
    if isinstance(sources, str) or not isinstance(sources, Collection):
        raise TypeError(f"`sources` must be a list of names, got {sources!r}")
    if not 1 <= len(sources) <= MAX_SOURCES or len(set(sources)) != len(sources):
        raise ValueError(f"`sources` must be 1 to {MAX_SOURCES} distinct names, got {list(sources)[:20]}")
    for name in sources:
        if fault := fault_of_source_name(name):
            raise ValueError(f"{name!r} cannot name a source: {fault}")


def check_column_names(names: Collection[Any]) -> None:
    """Check the names of the columns that are given with each chunk.

    Raises:
        ValueError: one cannot be stored, comes twice, or names a standard column; or there are too many for one file.
    """
    if len(names) > MAX_SHARD_COLUMNS - len(STANDARD_COLUMNS):
        raise ValueError(
            f"`score_columns` must have at most {MAX_SHARD_COLUMNS - len(STANDARD_COLUMNS)} names, got {len(names)}"
            "\n\nAdd the others with `add_columns` when the data set is written."
        )
    for name in names:
        check_column_name(name)
        if name in STANDARD_COLUMNS:
            raise ValueError(f"`{name}` is a standard column and cannot be a score column")
    if len(set(names)) != len(names):
        raise ValueError(f"`score_columns` must be distinct names, got {list(names)}")


def check_column_name(name: Any) -> None:
    """Check that a column can have this name.

    Raises:
        TypeError: it is no text.
        ValueError: it cannot be stored.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a column must be text, got {name!r}")
    if fault := _core.fault_of_column_name(name):
        raise ValueError(f"{name!r} cannot name a column: {fault}")


def check_definition(definition: Any, column: str) -> None:
    """Check what is said of a column.

    Raises:
        ValueError: it is no text, or too long a one.
    """
    if fault := fault_of_definition(definition):
        raise ValueError(f"`definition` of column `{column}` {fault}")


def fingerprint(tokenizer: bytes) -> str:
    """A tokenizer's 16-byte fingerprint as hexadecimal digits.

    Raises:
        TypeError: no bytes.
        ValueError: another length.
    """
    if not isinstance(tokenizer, bytes | bytearray | memoryview):
        raise TypeError(f"`tokenizer` must be a fingerprint of 16 bytes, got {tokenizer!r}")
    if len(tokenizer) != 16:
        raise ValueError(f"`tokenizer` must be a fingerprint of 16 bytes, got {len(tokenizer)}")
    return bytes(tokenizer).hex()
