"""Rank the chunks of a data set by a column."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fluxcore import _core
from fluxcore.data.chunk_checks import Array
from fluxcore.data.manifest import Manifest, SortKey

TIE_BREAK = ("source", "doc_id", "doc_offset")
"""Columns that settle which of two equal values comes first; behind them the chunk id."""
_INDEX = "order:"


class Ranked(Protocol):
    """What is ranked: a data set, or several in a row."""

    @property
    def manifest(self) -> Manifest:
        """Says how the chunks are sorted already."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns."""

    def __len__(self) -> int: ...

    def column(self, name: str) -> Array:
        """A column of all chunks, [len]."""


def rank_chunks(
    ds: Ranked, column: str, *, descending: bool = False, subset: NDArray[np.uint64] | None = None
) -> NDArray[np.uint64] | None:
    """Chunk ids by (`column`, source, document id, document offset, chunk id), or None for the identity.

    Only `column` is turned round by `descending`; chunks without a score (NaN) come last either way. A data set that is
    physically sorted so needs no sort, and no column of it is read; one with an index by `column` needs none either.

    Args:
        ds: the data set.
        column: name of a column.
        descending: highest value first.
        subset: ascending chunk ids to rank; None for all.
    Raises:
        ValueError: no such column, or the index is none.
    """
    check_column(ds, column)
    if ds.manifest.sorted_by == SortKey(column=column, descending=descending):
        return subset
    if index_name(column, descending=descending) in ds.manifest.columns:
        return _read_index(ds, index_name(column, descending=descending), subset)
    permutation = np.arange(len(ds) if subset is None else len(subset), dtype=np.uint64)
    for keys in _sort_keys(ds, column, descending, subset):
        _core.radix_argsort(keys, permutation)
    return permutation if subset is None else subset[permutation]


def check_column(ds: Ranked, column: str) -> None:
    """Check that there is such a column.

    Raises:
        ValueError: there is none; the message lists them.
    """
    if column not in ds.columns:
        raise ValueError(
            f"`column` must be a column of the data set ({', '.join(ds.columns)}), got {column!r}"
            "\n\nScores are added by `fluxcore score` or `Dataset.add_column`."
        )


def check_score(ds: Ranked, column: str) -> None:
    """Check that there is such a score.

    Raises:
        ValueError: there is none; the message lists them.
    """
    scores = [name for name, info in ds.manifest.columns.items() if info.dtype == "float32"]
    if column not in scores:
        raise ValueError(
            f"`column` must be a score of the data set ({', '.join(scores) or 'it has none'}), got {column!r}"
            "\n\nScores are added by `fluxcore score` or `Dataset.add_column`."
        )


def index_name(column: str, *, descending: bool) -> str:
    """The column that holds, at place i, the id of the i-th chunk by `column`."""
    return f"{_INDEX}{column}:{'descending' if descending else 'ascending'}"


def is_index(column: str) -> bool:
    """Whether the column numbers chunks of its own data set; in a rearranged one it would mean nothing."""
    return column.startswith(_INDEX)


def _read_index(ds: Ranked, name: str, subset: NDArray[np.uint64] | None) -> NDArray[np.uint64]:
    index = ds.column(name)
    seen = np.zeros(len(ds), dtype=bool)
    if index.dtype.kind == "u" and index.max(initial=0) < max(len(ds), 1):
        seen[index] = True
    if not seen.all():
        raise ValueError(
            f"column `{name}` must hold each chunk id once; it does not\n\nNames that begin with `{_INDEX}` are for"
            " `fluxcore sort --index-only`."
        )
    if subset is not None:
        wanted = np.zeros(len(ds), dtype=bool)
        wanted[subset] = True
        index = index[wanted[index]]
    permutation: NDArray[np.uint64] = index.astype(np.uint64)
    return permutation


def _sort_keys(
    ds: Ranked, column: str, descending: bool, subset: NDArray[np.uint64] | None
) -> Iterator[NDArray[np.uint64]]:
    """Keys that order the chunks, the least significant first."""
    ties = [_take(ds, name, subset) for name in TIE_BREAK]
    if not _is_lexicographic(ties):
        for values in reversed(ties):
            yield values.astype(np.uint64)
    yield ordered_key(_take(ds, column, subset), descending=descending)


def _take(ds: Ranked, name: str, subset: NDArray[np.uint64] | None) -> Array:
    values = ds.column(name)
    return values if subset is None else values[subset]


def _is_lexicographic(columns: list[Array]) -> bool:
    """Whether the rows already stand in order, as they do in a freshly tokenised data set."""
    settled = np.zeros(max(len(columns[0]) - 1, 0), dtype=bool)
    for values in columns:
        before, after = values[:-1], values[1:]
        if np.any((before > after) & ~settled):
            return False
        settled |= before < after
    return True


def ordered_key(values: Array, *, descending: bool = False) -> NDArray[np.uint64]:
    """Unsigned keys that compare as `values` do; -0 equals 0 and NaN is highest, also when descending.

    Args:
        values: float32 or unsigned integers.
        descending: turn the comparison round.
    """
    if values.dtype != np.float32:
        integers: NDArray[np.uint64] = values.astype(np.uint64)
        return ~integers if descending else integers
    bits = (values + np.float32(0)).view(np.uint32)
    negative = bits >> 31 != 0
    bits = np.where(negative, ~bits, bits | np.uint32(1 << 31))
    keys: NDArray[np.uint64] = (~bits if descending else bits).astype(np.uint64)
    keys[np.isnan(values)] = 1 << 32
    return keys
