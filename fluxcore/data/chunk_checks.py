"""Checks and conversions of what a user hands to the writer: every error is raised before a byte is written."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluxcore import _core
from fluxcore.data.manifest import Manifest, SortKey
from fluxcore.data.manifest_check import (
    MAX_SHARD_COLUMNS,
    MAX_SOURCES,
    STANDARD_COLUMNS,
    TOKEN_DTYPES,
    fault_of_source_name,
)

NO_TOKEN = 0xFFFFFFFF
"""Value of the column `next_token` where no token follows."""

Array = NDArray[Any]


def integers(values: Any, argument: str, *, low: int, high: int, dtype: str) -> Array:
    """`values` as a C-contiguous array of `dtype`, each within [low, high].

    Raises:
        TypeError: they are not integers.
        ValueError: one is out of range; the message names it and its position.
    """
    array = np.asarray(values)
    if array.size == 0 and not isinstance(values, np.ndarray):
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"`{argument}` must be integers, got {array.dtype}")
    for index in () if array.size == 0 else (array.argmin(), array.argmax()):
        value = int(array.flat[index])
        if not low <= value <= high:
            place = f" at position {_position(array, int(index))}" if array.ndim else ""
            raise ValueError(f"`{argument}` must be within [{low}, {high}], got {value}{place}")
    return np.asarray(array, dtype=dtype, order="C")


def token_ids(values: Any, *, vocab_size: int, dtype: str) -> Array:
    """Token ids as `dtype`, each below `vocab_size`.

    Raises:
        TypeError: they are not integers.
        ValueError: one is out of range; the message names it, its position and the way out.
    """
    try:
        return integers(values, "tokens", low=0, high=vocab_size - 1, dtype=dtype)
    except ValueError as error:
        wider = f', and dtype="uint32" if it passes {np.iinfo(dtype).max}' if dtype != "uint32" else ""
        raise ValueError(
            f"{error}\n\nGive the writer the size of the tokenizer's whole vocabulary, added tokens included, as "
            f"`vocab_size` (now {vocab_size}){wider}."
        ) from None


def score_values(values: Any, name: str, count: int) -> Array:
    """A score of `count` chunks as float32, finite.

    Raises:
        TypeError: they are not numbers.
        ValueError: another shape, or one that is NaN, infinite or too large for float32.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"score `{name}` must be numbers, got {array.dtype}")
    if array.shape != (count,):
        raise ValueError(f"score `{name}` must have shape ({count},), one a chunk, got {array.shape}")
    with np.errstate(over="ignore"):
        result = np.ascontiguousarray(array, dtype=np.float32)
    bad = ~np.isfinite(result)
    if bad.any():
        index = int(bad.argmax())
        raise ValueError(
            f"score `{name}` must be finite float32 values, got {array[index]} at position {index}"
            "\n\nLeave out the chunks that cannot be scored, or give them a value that you choose."
        )
    return result


def column_values(values: Any, name: str, count: int, dtype: str) -> Array:
    """An added column of `count` chunks: float32 as `score_values` makes it, or unsigned integers.

    Raises:
        TypeError, ValueError: they cannot be stored as `dtype`.
    """
    if dtype == "float32":
        return score_values(values, name, count)
    array = integers(values, name, low=0, high=int(np.iinfo(dtype).max), dtype=dtype)
    if array.shape != (count,):
        raise ValueError(f"column `{name}` must have shape ({count},), one a chunk, got {array.shape}")
    return array


def source_numbers(values: Any, sources: Sequence[str]) -> Array:
    """Names or numbers of sources as uint16.

    Raises:
        ValueError: a name or number that is not in the table; the message lists it.
    """
    array = np.asarray(values)
    if array.dtype.kind != "U":
        return integers(array, "source", low=0, high=len(sources) - 1, dtype="uint16")
    names, places = np.unique(array, return_inverse=True)
    for name in names:
        if name not in sources:
            raise ValueError(f"`source` must be one of {list(sources)[:20]}, got {str(name)!r}")
    numbers = np.array([sources.index(name) for name in names], np.uint16)
    return numbers[places.reshape(array.shape)]


def chunk_columns(manifest: Manifest, count: int, given: Mapping[str, Any]) -> dict[str, Array]:
    """Every column of `count` chunks as it is stored, from what was given to the writer.

    Raises:
        TypeError, ValueError: a value cannot be stored.
    """
    following = integers(given["next_token"], "next_token", low=-1, high=manifest.vocab_size - 1, dtype="int64")
    top = (1 << 64) - 1
    columns = {
        "source": source_numbers(given["source"], manifest.sources),
        "doc_id": integers(given["doc_id"], "doc_id", low=0, high=top, dtype="uint64"),
        "doc_offset": integers(given["doc_offset"], "doc_offset", low=0, high=NO_TOKEN, dtype="uint32"),
        "next_token": np.where(following < 0, NO_TOKEN, following).astype(np.uint32),
        "original_index": integers(given["original_index"], "original_index", low=0, high=top, dtype="uint64"),
        "valid_len": integers(given["valid_len"], "valid_len", low=1, high=manifest.chunk_tokens, dtype="uint32"),
    }
    scores = given["scores"]
    if scores.keys() != manifest.columns.keys():
        raise ValueError(f"`scores` must give each of {sorted(manifest.columns)}, got {sorted(scores)}")
    for name, info in manifest.columns.items():
        columns[name] = column_values(scores[name], name, count, info.dtype)
    for name, values in columns.items():
        if values.shape != (count,):
            raise ValueError(f"`{name}` must have shape ({count},), one a chunk, got {values.shape}")
    if manifest.token_mask:
        columns["mask"] = packed_mask(given["mask"], count, manifest.chunk_tokens)
    elif given["mask"] is not None:
        raise ValueError("`mask` was given, but the writer has none\n\nPass token_mask=True to ShardWriter.")
    return columns


def packed_mask(values: Any, count: int, chunk_tokens: int) -> Array:
    """Booleans [count, chunk_tokens] as bits, the lowest bit first, each row filled up with zeros to whole bytes.

    Raises:
        TypeError: no booleans.
        ValueError: another shape, or none given.
    """
    if values is None:
        raise ValueError("`mask` must be given: the writer was made with token_mask=True")
    array = np.asarray(values)
    if array.dtype != np.bool_:
        raise TypeError(f"`mask` must be booleans, got {array.dtype}")
    if array.shape != (count, chunk_tokens):
        raise ValueError(f"`mask` must have shape ({count}, {chunk_tokens}), as the tokens, got {array.shape}")
    return np.packbits(array, axis=1, bitorder="little")


def check_order(values: Array, key: SortKey, before: float | None) -> float | None:
    """Check that `values` go on in the declared order after `before`; returns the last.

    Raises:
        ValueError: one steps back.
    """
    if values.size == 0:
        return before
    row = values if before is None else np.concatenate([[np.float32(before)], values])
    steps = np.diff(row)
    wrong = steps > 0 if key.descending else steps < 0
    if wrong.any():
        at = int(wrong.argmax())
        direction = "descend" if key.descending else "ascend"
        raise ValueError(f"`{key.column}` must {direction} as `sorted_by` says, got {row[at + 1]} after {row[at]}")
    return float(values[-1])


def check_unique(parts: Sequence[Array]) -> None:
    """Check that no value of `original_index` comes twice.

    Raises:
        ValueError: one does.
    """
    if parts:
        indices = np.sort(np.concatenate(parts))
        twice = indices[1:][indices[1:] == indices[:-1]]
        if twice.size:
            raise ValueError(f"`original_index` must be unique, got {twice[0]} more than once")


def check_vocabulary(vocab_size: int, dtype: str) -> None:
    """Check that `dtype` can hold every id of the vocabulary.

    Raises:
        ValueError: it cannot, or one of the two is out of range.
    """
    if dtype not in TOKEN_DTYPES:
        raise ValueError(f"`dtype` must be one of {list(TOKEN_DTYPES)}, got {dtype!r}")
    integers(vocab_size, "vocab_size", low=1, high=(1 << 32) - 1, dtype="uint32")
    if vocab_size > np.iinfo(dtype).max + 1:
        wider = "uint16" if vocab_size <= 1 << 16 else "uint32"
        raise ValueError(
            f"`dtype` must hold {vocab_size} token ids (`vocab_size`), got {dtype!r}, which holds "
            f'{np.iinfo(dtype).max + 1}\n\nUse dtype="{wider}".'
        )


def check_sources(sources: Sequence[str]) -> None:
    """Check the table of source names.

    Raises:
        TypeError: one string instead of a list.
        ValueError: empty, too long, a name twice, or a name that cannot be stored.
    """
    if isinstance(sources, str):
        raise TypeError(f"`sources` must be a list of names, got the string {sources!r}")
    if not 1 <= len(sources) <= MAX_SOURCES or len(set(sources)) != len(sources):
        raise ValueError(f"`sources` must be 1 to {MAX_SOURCES} distinct names, got {list(sources)[:20]}")
    for name in sources:
        if fault := fault_of_source_name(name):
            raise ValueError(f"{name!r} cannot name a source: {fault}")


def check_column_names(names: Collection[str]) -> None:
    """Check the names of the columns that are given with each chunk.

    Raises:
        ValueError: one cannot be stored, or names a standard column; or there are too many for one file.
    """
    if len(names) > MAX_SHARD_COLUMNS - len(STANDARD_COLUMNS):
        raise ValueError(
            f"`score_columns` must have at most {MAX_SHARD_COLUMNS - len(STANDARD_COLUMNS)} names, got {len(names)}"
            "\n\nAdd the others with `add_columns` when the data set is written."
        )
    for name in names:
        if fault := _core.fault_of_column_name(name):
            raise ValueError(f"{name!r} cannot name a column: {fault}")
        if name in STANDARD_COLUMNS:
            raise ValueError(f"`{name}` is a standard column and cannot be a score column")


def fingerprint(tokenizer: bytes) -> str:
    """A tokenizer's 16-byte fingerprint as hexadecimal digits.

    Raises:
        ValueError: another length.
    """
    if len(tokenizer) != 16:
        raise ValueError(f"`tokenizer` must be a fingerprint of 16 bytes, got {len(tokenizer)}")
    return bytes(tokenizer).hex()


def _position(array: Array, index: int) -> str:
    place = [int(i) for i in np.unravel_index(index, array.shape)]
    return str(place[0] if len(place) == 1 else tuple(place))
