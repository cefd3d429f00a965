"""Which chunks of a data set a loader reads at all."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluxcore.data.argument_checks import real
from fluxcore.data.dataset import Dataset


@dataclass(frozen=True, slots=True)
class Filter:
    """Chunks whose value in a column is within [low, high]: a plain value that a loader's state can hold.

    Args:
        column: name of a column.
        low: least value, itself included. None: no bound.
        high: greatest value, itself included. None: no bound.

    Bounds of a float32 column are rounded to float32, so that one which is written as the column shows it is met.

    Raises:
        TypeError: a bound that is no number.
        ValueError: no bound, one that is NaN or infinite, or `low` above `high`.
    """

    column: str
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        for name in ("low", "high"):  # plain values, which a state can hold
            object.__setattr__(self, name, _bound(getattr(self, name), name))
        bounds = [bound for bound in (self.low, self.high) if bound is not None]
        if not bounds or not all(math.isfinite(bound) for bound in bounds) or bounds != sorted(bounds):
            raise ValueError(
                f"`low` and `high` must be bounds of `{self.column}`, one at least, finite and with low <= high,"
                f" got {self.low} and {self.high}\n\nNone is no bound."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold; `from_dict` undoes it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Filter":
        """The filter that `to_dict` described.

        Raises:
            ValueError: it describes none.
        """
        if not isinstance(plain, Mapping) or not {"column"} <= plain.keys() <= {"column", "low", "high"}:
            raise ValueError(f"a filter must have `column`, and `low` or `high`, got {plain!r}")
        return cls(**plain)

    def accepts(self, ds: Dataset) -> NDArray[np.bool_]:
        """Which chunks pass, [len(ds)]; a value that is NaN never does.

        Raises:
            ValueError: the data set has no such column.
        """
        if self.column not in ds.columns:
            raise ValueError(
                f"`where` must name columns of the data set ({', '.join(ds.columns)}), got {self.column!r}"
                "\n\nScores are added by `fluxcore score` or `Dataset.add_column`."
            )
        values = ds.column(self.column)
        passing = ~np.isnan(values)
        with np.errstate(over="ignore"):  # a bound beyond float32 is infinite in it, which is what it means
            if self.low is not None:
                passing &= values >= self.low
            if self.high is not None:
                passing &= values <= self.high
        return passing


def _bound(value: Any, argument: str) -> float | None:
    if value is None or type(value) is int:  # an int stays one: a float has no room for all document numbers
        return value
    return int(value) if isinstance(value, np.integer) else real(value, argument)


def as_filters(where: Filter | Sequence[Filter]) -> tuple[Filter, ...]:
    """One filter or several, as several.

    Raises:
        TypeError: something else.
    """
    filters = (where,) if isinstance(where, Filter) or not isinstance(where, Iterable) else tuple(where)
    for each in filters:
        if not isinstance(each, Filter):
            raise TypeError(
                f"`where` must be a Filter or several, got {type(each).__name__}"
                '\n\nFor example Filter("lm.entropy_mean", low=1.0). A function could not be kept in a state.'
            )
    return filters


def select_chunks(
    ds: Dataset, subset: NDArray[np.int64] | None, filters: Sequence[Filter]
) -> NDArray[np.uint64] | None:
    """Ascending ids of the chunks that are in `subset` and pass every filter; None for all chunks.

    Raises:
        ValueError: `subset` is not a set of chunk ids, or a column does not exist.
    """
    chunks = None if subset is None else check_subset(subset, len(ds))
    if not filters:
        return chunks
    passing = np.logical_and.reduce([each.accepts(ds) for each in filters])
    return np.flatnonzero(passing).astype(np.uint64) if chunks is None else chunks[passing[chunks]]


def check_subset(subset: NDArray[np.int64], count: int) -> NDArray[np.uint64]:
    """Ascending chunk ids; the order in which they came does not matter."""
    ids = np.asarray(subset)
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"`subset` must be a 1-D integer array of chunk ids, got {ids.dtype} {list(ids.shape)}")
    ids = np.sort(ids)
    if ids.size and not (ids[0] >= 0 and ids[-1] < count):
        raise ValueError(f"`subset` must hold chunk ids within [0, {count}), got {ids[0]} to {ids[-1]}")
    twice = np.flatnonzero(ids[1:] == ids[:-1])
    if twice.size:
        raise ValueError(f"`subset` must hold each chunk once, got chunk {ids[twice[0]]} more than once")
    return ids.astype(np.uint64)
