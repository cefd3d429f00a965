"""Checks and conversions of what a user hands to the writer: every error is raised before a byte is written."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluxcore.data.manifest import Manifest, SortKey

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
    if array.dtype.kind not in "iu":
        array = _exact(values, array, argument)
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
        ValueError: another shape, or one that is NaN, infinite, too large for float32, or an integer that float32
            would round.
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
    if array.dtype.kind in "iu" and (rounded := result.astype(np.longdouble) != array.astype(np.longdouble)).any():
        index = int(rounded.argmax())
        raise ValueError(
            f"score `{name}` must be integers that float32 can hold, got {array[index]} at position {index}"
            "\n\nAs unsigned integers, of a type such as uint32, `add_column` keeps them as they are."
        )
    return result


def column_values(values: Any, name: str, count: int, dtype: str) -> Array:
    """An added column of `count` chunks: float32 as `score_values` makes it, or unsigned integers.

    Raises:
        TypeError, ValueError: they cannot be stored as `dtype`.
    """
    if np.ma.is_masked(values):
        raise ValueError(f"column `{name}` must have a value for each chunk, got some that are masked")
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


def _exact(values: Any, array: Array, argument: str) -> Array:
    """Python's integers as they are, where NumPy made floats of them because no type of its own holds all of them."""
    if not isinstance(values, np.ndarray):
        if array.size == 0:
            return array.astype(np.int64)
        exact = np.asarray(values, dtype=object)
        if all(type(value) is int for value in exact.flat):
            return exact
    raise TypeError(f"`{argument}` must be integers, got {array.dtype}")


def _position(array: Array, index: int) -> str:
    place = [int(i) for i in np.unravel_index(index, array.shape)]
    return str(place[0] if len(place) == 1 else tuple(place))
