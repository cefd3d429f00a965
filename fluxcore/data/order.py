"""Orders: which chunk comes at which position of training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluxcore import _core
from fluxcore.data.argument_checks import real
from fluxcore.data.dataset import Dataset
from fluxcore.data.order_checks import FIELDS, check_order, unknown
from fluxcore.data.order_compile import compile_order

_PERCENTILES = (10.0, 25.0, 50.0, 75.0, 90.0)
_NAMES = ("ascending", "descending", "random", "bucketed", "jittered", "interleaved", "paced")


@dataclass(frozen=True, slots=True)
class Order:
    """An order of the chunks of any data set: a plain value that can be compared, stored and compiled.

    Make one by `Order.sorted`, `shuffled`, `bucketed`, `jittered`, `interleaved`, `paced` or `from_name`, and put
    orders one after another with `then`. For a given data set, seed and length of the run it says which chunk stands at
    every position. But for `paced`, each chunk stands at exactly one position of an epoch. What is random is keyed by
    seed and epoch, takes no memory, and is the same on every platform.
    """

    kind: str
    column: str | None = None
    descending: bool = False
    edges: tuple[float, ...] = ()
    shuffle: bool = True
    window: int = 1
    strides: int = 1
    pacing: str = "linear"
    start: float = 1.0
    full_at: float = 0.0
    levels: int = 5
    random: bool = False
    parts: tuple[tuple[float, "Order"], ...] = ()

    def __post_init__(self) -> None:
        for name in ("window", "strides", "levels"):
            if isinstance(getattr(self, name), np.integer):
                object.__setattr__(self, name, int(getattr(self, name)))
        check_order({name: getattr(self, name) for name in self.__dataclass_fields__})

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
        return cls("bucketed", column, edges=tuple(real(edge, "edges") for edge in edges), shuffle=shuffle)

    @classmethod
    def jittered(cls, column: str, window: int, descending: bool = False) -> "Order":
        """Sorted, then shuffled within a moving window, anew in every epoch.

        Args:
            column: the column to sort by.
            window: no chunk stands `window` places or more from where `sorted` has it; 1 is `sorted`.
            descending: highest value first.
        """
        return cls("jittered", column, window=window, descending=descending)

    @classmethod
    def interleaved(cls, column: str, n: int, descending: bool = False) -> "Order":
        """Every n-th chunk of the sorted order, then every n-th from the second on, and so forth.

        Each of the n passes spans the whole range of values, from lowest to highest, with different chunks. Nothing is
        random.

        Args:
            column: the column to sort by.
            n: passes in an epoch; at most the number of chunks.
            descending: each pass from highest to lowest.
        """
        return cls("interleaved", column, strides=n, descending=descending)

    @classmethod
    def paced(
        cls,
        column: str | None,
        pacing: str = "linear",
        start: float = 0.1,
        full_at: float = 0.6,
        *,
        random: bool = False,
        descending: bool = False,
        levels: int = 5,
    ) -> "Order":
        """At random from a growing prefix of the sorted order.

        Chunks are drawn without replacement until all of the prefix were drawn; then the next pass over it begins.
        Chunks that join the prefix join the pass in progress. So a run of one epoch sees each chunk once, as long as
        the prefix grows ahead of it, and a longer one sees the first chunks more often. A run that would leave a chunk
        unseen is refused. `fluxcore.data.pacing` has the pacing functions.

        Args:
            column: the column to sort by; may be None with `random`.
            pacing: "linear", "quadratic", "root", "step", "exponential", "log" or "discrete".
            start: share of the chunks to begin with, within (0, 1].
            full_at: share of the run after which all chunks take part, within [0, 1].
            random: a random order in place of the sorted one: the control that tells whether the order by value
                matters, or only that few chunks come first.
            descending: highest value first.
            levels: steps of "discrete".
        Source: arXiv:2012.03107.
        """
        return cls(
            "paced",
            column,
            pacing=pacing,
            start=real(start, "start"),
            full_at=real(full_at, "full_at"),
            random=random,
            descending=descending,
            levels=levels,
        )

    @classmethod
    def from_name(cls, name: str, *, column: str | None = None, **options: Any) -> "Order":
        """The order that a configuration calls by a name.

        Args:
            name: ascending, descending, random, bucketed, jittered, interleaved or paced.
            column: the column to order by; `random` has no use for it.
            options: further arguments of `bucketed`, `jittered`, `interleaved` or `paced`.
        Raises:
            ValueError: another name, or no column where one is needed.
            TypeError: an option that this order does not have.
        """
        if name not in _NAMES:
            raise unknown("order", name, _NAMES)
        if name == "random":
            return cls.shuffled(**options)
        if column is None and not (name == "paced" and options.get("random")):
            raise ValueError(f"`column` must name the column that the order {name!r} goes by, got None")
        if name in ("ascending", "descending"):
            options["descending"] = name == "descending"
        make = getattr(cls, "sorted" if name in ("ascending", "descending") else name)
        order: Order = make(column, **options)
        return order

    def then(self, other: "Order", at: float) -> "Order":
        """This order, and from a share of the run on another one.

        The other first takes what the pass in progress has not visited, so that the switch makes no chunk come twice
        or never; from the next epoch on it goes over all chunks. If the other is paced and the run goes on after this
        epoch, it starts anew, on all chunks.

        Args:
            other: the order to go on with; its own shares too are of the whole run.
            at: share of the run, within (0, 1), after any switch within this order and before any within `other`.
        Raises:
            TypeError: `other` is no order, or `at` no number.
            ValueError: `at` is not such a share.
        """
        if not isinstance(other, Order):
            raise TypeError(f"`other` must be an Order, got {other!r} ({type(other).__name__})")
        before = self.parts if self.kind == "chain" else ((0.0, self),)
        after = other.parts if other.kind == "chain" else ((0.0, other),)
        return Order("chain", parts=(*before, (real(at, "at"), after[0][1]), *after[1:]))

    @property
    def spans_run(self) -> bool:
        """Whether it depends on the length of the run."""
        return self.kind in ("paced", "chain")

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns it goes by, each once."""
        if self.kind == "chain":
            return tuple(dict.fromkeys(name for _, part in self.parts for name in part.columns))
        return () if self.column is None else (self.column,)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold; `from_dict` undoes it."""
        if self.kind == "chain":
            return {"kind": "chain", "parts": [[share, part.to_dict()] for share, part in self.parts]}
        own = {"kind": self.kind} | {name: getattr(self, name) for name in FIELDS[self.kind]}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in own.items()}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Order":
        """The order that `to_dict` described.

        Raises:
            ValueError: it describes none: an unknown kind or key, or a value that cannot be.
        """
        if not isinstance(plain, Mapping) or plain.keys() - cls.__dataclass_fields__.keys() or "kind" not in plain:
            raise ValueError(f"an order must have `kind` and no unknown keys, got {plain!r}")
        values = dict(plain)
        try:
            values["edges"] = tuple(real(edge, "edges") for edge in values.get("edges", ()))
            values["parts"] = tuple((real(share, "at"), cls.from_dict(part)) for share, part in values.get("parts", ()))
        except TypeError as error:
            raise ValueError(f"an order must have lists as `edges` and `parts`, got {plain!r}: {error}") from error
        return cls(**values)

    def compile(
        self,
        ds: Dataset,
        *,
        seed: int = 0,
        subset: NDArray[np.uint64] | None = None,
        positions: int | None = None,
    ) -> _core.Order:
        """Bind the order to a data set.

        Args:
            ds: the data set.
            seed: key of all shuffles, within [0, 2^64).
            subset: ascending chunk ids; the order runs over these alone, and percentiles are theirs.
            positions: rows of the run, of which `start`, `full_at` and `at` are shares. None: one epoch.
        Raises:
            ValueError: the data set has no such column, `seed` is out of range, or the run would leave chunks unseen
                that a paced order has to show.
        """
        return compile_order(self, ds, seed=seed, subset=subset, positions=positions)
