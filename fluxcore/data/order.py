"""Orders: which chunk comes at which position of training."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluxcore import _core
from fluxcore.data.dataset import Dataset
from fluxcore.data.ranking import rank_chunks

_KINDS = ("sorted", "shuffled", "bucketed")
_NAMES = ("ascending", "descending", "random", "bucketed")
_PERCENTILES = (10.0, 25.0, 50.0, 75.0, 90.0)


@dataclass(frozen=True, slots=True)
class Order:
    """An order of the chunks of any data set: a plain value that can be compared, stored and compiled.

    Make one by `Order.sorted`, `Order.shuffled`, `Order.bucketed` or `Order.from_name`. For a given data set, seed and
    epoch it says which chunk stands at every position, and each chunk stands at exactly one position of an epoch. A
    shuffle is keyed by seed and epoch, takes no memory, and is the same on every platform.
    """

    kind: str
    column: str | None = None
    descending: bool = False
    edges: tuple[float, ...] = ()
    shuffle: bool = True

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise _unknown("kind", self.kind, _KINDS)
        if (self.kind == "shuffled") != (self.column is None):
            wanted = "None" if self.kind == "shuffled" else "the name of a column to order by"
            raise ValueError(f"`column` of a {self.kind} order must be {wanted}, got {self.column!r}")
        ascending = all(low < high for low, high in zip((0.0, *self.edges), (*self.edges, 100.0), strict=True))
        if not ascending:
            raise ValueError(f"`edges` must rise from above 0 to below 100 (percentiles), got {list(self.edges)}")

    @classmethod
    def sorted(cls, column: str, descending: bool = False) -> "Order":
        """By the value of a column.

        Ties stand in order of source, document, offset and chunk, whichever the direction. NaN comes last.
        """
        return cls("sorted", column, descending=descending)

    @classmethod
    def shuffled(cls) -> "Order":
        """At random, anew in every epoch."""
        return cls("shuffled")

    @classmethod
    def bucketed(cls, column: str, edges: Sequence[float] = _PERCENTILES, shuffle: bool = True) -> "Order":
        """Buckets of rising value, one after another, without an order by value inside a bucket.

        Args:
            column: the column whose percentiles part the chunks.
            edges: percentiles within (0, 100), rising; n edges make n + 1 buckets, and every bucket is visited.
            shuffle: inside a bucket at random, anew in every epoch; else as the data set stores the chunks.
        """
        return cls("bucketed", column, edges=tuple(float(edge) for edge in edges), shuffle=shuffle)

    @classmethod
    def from_name(cls, name: str, *, column: str | None = None) -> "Order":
        """The order that a configuration calls `ascending`, `descending`, `random` or `bucketed`.

        Args:
            name: one of these four.
            column: the column to order by; `random` has no use for it.
        Raises:
            ValueError: another name, or no column where one is needed.
        """
        if name not in _NAMES:
            raise _unknown("order", name, _NAMES)
        if name == "random":
            return cls.shuffled()
        if column is None:
            raise ValueError(f"`column` must name the column that the order {name!r} goes by, got None")
        return cls.bucketed(column) if name == "bucketed" else cls.sorted(column, descending=name == "descending")

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold; `from_dict` undoes it."""
        plain: dict[str, Any] = {"kind": self.kind}
        if self.column is not None:
            plain["column"] = self.column
        if self.kind == "sorted":
            plain["descending"] = self.descending
        if self.kind == "bucketed":
            plain |= {"edges": list(self.edges), "shuffle": self.shuffle}
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Order":
        """The order that `to_dict` described.

        Raises:
            ValueError: an unknown kind or key.
        """
        values = dict(plain)
        unknown = values.keys() - cls.__dataclass_fields__.keys()
        if unknown or "kind" not in values:
            raise ValueError(f"an order must have `kind` and no unknown keys, got {dict(plain)}")
        values["edges"] = tuple(values.get("edges", ()))
        return cls(**values)

    def compile(self, ds: Dataset, *, seed: int = 0, subset: NDArray[np.uint64] | None = None) -> _core.Order:
        """Bind the order to a data set.

        Args:
            ds: the data set.
            seed: key of all shuffles, within [0, 2^64).
            subset: ascending chunk ids; the order runs over these alone, and percentiles are theirs.
        Raises:
            ValueError: the data set has no such column, or `seed` is out of range.
        """
        if not 0 <= seed < 1 << 64:
            raise ValueError(f"`seed` must be within [0, 2^64), got {seed}")
        count = len(ds) if subset is None else len(subset)
        ranking = subset
        if self.column is not None:
            ranking = rank_chunks(ds, self.column, descending=self.descending, subset=subset)
        bounds = [0, *(math.floor(count * edge / 100) for edge in self.edges), count]
        buckets = [(low, high) for low, high in pairwise(bounds) if low < high]
        if self.kind == "bucketed" and not self.shuffle and ranking is not None:
            ranking = np.concatenate([np.sort(ranking[low:high]) for low, high in buckets] or [ranking])
        shuffle = self.kind != "sorted" and self.shuffle
        return _core.Order(ranking, count, [(low, high - low, shuffle) for low, high in buckets], seed)


def _unknown(what: str, name: str, known: tuple[str, ...]) -> ValueError:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"\n\nDid you mean {near[0]!r}?" if near else ""
    return ValueError(f"`{what}` must be one of {', '.join(known)}, got {name!r}{hint}")
