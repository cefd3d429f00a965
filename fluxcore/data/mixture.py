"""Sources of a data set, mixed in proportions that can change while a run goes on."""

import hashlib
import json
import math
from collections.abc import Mapping
from operator import index
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluxcore import _core
from fluxcore.data.argument_checks import real
from fluxcore.data.batches import MAX_POSITIONS
from fluxcore.data.dataset import Dataset
from fluxcore.data.order import Order

_SOURCE_KEYS = 2  # keys of the sources' orders descend from it

Chunks = NDArray[np.uint64]
Log = list[tuple[int, list[int]]]
"""Steps, rising, and the weights that hold from each of them on."""


def part_by_source(ds: Dataset, mix: Mapping[str, float], chunks: Chunks | None) -> dict[str, Chunks]:
    """Ascending chunk ids of each source that `mix` names, in the order of `ds.sources`.

    Raises:
        TypeError: `mix` is no mapping.
        ValueError: the data set has no such source.
    """
    _check_mapping(mix, "mix")
    for name in mix:
        if name not in ds.sources:
            raise ValueError(f"`mix` must name sources of the data set ({', '.join(ds.sources)}), got {name!r}")
    numbers = ds.column("source")
    ids = np.arange(len(ds), dtype=np.uint64) if chunks is None else chunks
    numbers = numbers[ids]
    return {name: ids[numbers == number] for number, name in enumerate(ds.sources) if name in mix}


def _check_mapping(weights: Mapping[str, float], argument: str) -> None:
    if not isinstance(weights, Mapping):
        raise TypeError(
            f"`{argument}` must map names of sources to weights, got {type(weights).__name__}"
            '\n\nFor example {"web": 0.7, "code": 0.3}.'
        )


class Mixture:
    """Several sources as one order of rows, by integer quotas: see `csrc/data/quotas.hpp`.

    Each source goes through its own order, and begins its next epoch when it runs out; a change of weights makes it
    neither skip nor repeat. Weights are kept to 1/65536, and a positive one never becomes 0.

    Args:
        ds: the data set.
        order: the order of each source, compiled for its chunks alone.
        parts: chunks of each source.
        weights: of each source; only their proportions matter.
        seed: key of the shuffles; each source has its own.
        batch: rows of a global batch.
        positions: rows of the run.
    """

    def __init__(
        self,
        ds: Dataset,
        order: Order,
        parts: Mapping[str, Chunks],
        weights: Mapping[str, float],
        *,
        seed: int,
        batch: int,
        positions: int,
    ) -> None:
        self._names = list(parts)
        self._sizes = np.array([len(chunks) for chunks in parts.values()], np.int64)
        self._batch = batch
        self._planned = order.spans_run
        first = self._check(weights, "mix")
        self._log: Log = [(0, first)]
        self._orders = self._compile(ds, order, parts, first, seed, positions)
        self.order = _core.MixedOrder(self._orders, 0, [0] * len(first), first)
        """Rows of the run, with every change of weights so far."""
        self.hash = hashlib.blake2b(json.dumps([self._names, first]).encode(), digest_size=16).hexdigest()
        """Of the sources and the weights at the beginning."""

    @property
    def first_step(self) -> int:
        """The first step whose weights are known."""
        return self._log[0][0]

    def set_weights(self, weights: Mapping[str, float], at_step: int) -> None:
        """Let other weights hold from a step on.

        Raises:
            ValueError: a source is missing or unknown, a weight is negative or not finite, all are 0, a change at a
                later step is there already, or the order was planned for the weights at the beginning.
        """
        if self._planned:
            raise ValueError(
                "the weights of a paced order, or of one that another follows, must stay: it is planned for them"
                "\n\nUse an order that does not depend on the length of the run."
            )
        checked = self._check(weights, "weights")
        if at_step < self._log[-1][0]:
            raise ValueError(f"`at_step` must be >= {self._log[-1][0]}, the last change so far, got {at_step}")
        self.order = self.order.with_weights(at_step * self._batch, checked)
        self._log = [entry for entry in self._log if entry[0] < at_step] + [(at_step, checked)]

    def places(self, row: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Epoch and position of rows, within their sources."""
        sources, positions = self.order.places_at(row, count)
        epoch, position = np.divmod(positions.astype(np.int64), self._sizes[sources])
        return epoch, position

    def state(self, step: int) -> dict[str, Any]:
        """What it takes to go on at `step`: the weights that hold there and those to come, and the sources' cursors.

        The cursors are the positions of the sources where the first of these weights began to hold.
        """
        log = [entry for entry in self._log if entry[0] > step]
        log.insert(0, self._log[len(self._log) - len(log) - 1])
        return {
            "log": [[begin, list(weights)] for begin, weights in log],
            "cursors": self.order.cursors_at(log[0][0] * self._batch),
        }

    def load(self, state: Mapping[str, Any], step: int) -> None:
        """Go on as the mixture did of which `state` is; earlier weights are forgotten.

        Raises:
            ValueError: it is no state of a mixture of as many sources at this step.
        """
        try:
            log: Log = [(index(begin), [index(weight) for weight in weights]) for begin, weights in state["log"]]
            cursors = [index(cursor) for cursor in state["cursors"]]
            begins = [begin for begin, _ in log]
            if begins[0] > step or begins != sorted(set(begins)) or sum(cursors) != begins[0] * self._batch:
                raise ValueError("cursors and steps do not fit together")
            if min(cursors) < 0 or min(min(weights) for _, weights in log) < 0:
                raise ValueError("a cursor or a weight is negative")
            if begins[-1] > MAX_POSITIONS // self._batch:
                raise ValueError("a change of weights lies beyond any run")
            order = _core.MixedOrder(self._orders, begins[0] * self._batch, cursors, log[0][1])
            for begin, weights in log[1:]:
                order = order.with_weights(begin * self._batch, weights)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ValueError(
                f"`state` must hold a mixture's log and cursors, its 'mixture' is {str(state)[:200]}: {error}"
            ) from error
        self.order, self._log = order, log

    def _check(self, weights: Mapping[str, float], argument: str) -> list[int]:
        _check_mapping(weights, argument)
        if set(weights) != set(self._names):
            raise ValueError(
                f"`{argument}` must name each source of the mixture once ({', '.join(self._names)}),"
                f" got {', '.join(map(repr, weights)) or 'none'}\n\nA weight of 0 leaves a source out."
            )
        for name, size in zip(self._names, self._sizes, strict=True):
            weight = real(weights[name], argument)
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"`{argument}` must be numbers >= 0 and finite, got {weight} for {name!r}")
            if weight > 0 and size == 0:
                raise ValueError(f"`{argument}` must be 0 for {name!r}, which has no chunks here, got {weight}")
            if weight == 0 and self._planned:
                raise ValueError(
                    f"`{argument}` must be > 0 with an order planned over the whole run, got 0 for {name!r}"
                )
        if not any(weights.values()):
            raise ValueError(
                f"`{argument}` must not all be 0, got {dict(weights)}\n\nGive one source a positive weight."
            )
        return quantise([float(weights[name]) for name in self._names])

    def _compile(
        self,
        ds: Dataset,
        order: Order,
        parts: Mapping[str, Chunks],
        weights: list[int],
        seed: int,
        positions: int,
    ) -> list[_core.Order]:
        plain = [_core.RankedOrder(None, n, [(0, n, "forward", 1)] if n else [], 0) for n in self._sizes.tolist()]
        rows = _core.MixedOrder(list(plain), 0, [0] * len(weights), weights).cursors_at(positions)
        key = _core.derive_key(seed, _SOURCE_KEYS)
        compiled = []
        for (name, chunks), length in zip(parts.items(), rows, strict=True):
            source_key = _core.derive_key(key, ds.sources.index(name))
            try:
                compiled.append(order.compile(ds, seed=source_key, subset=chunks, positions=length))
            except ValueError as error:
                raise ValueError(f"source {name!r}: {error}") from error
        return compiled


def quantise(weights: list[float]) -> list[int]:
    """Whole numbers in proportion to `weights`, that sum to `MixedOrder.period`; by largest remainder.

    Args:
        weights: finite and >= 0, not all 0. A positive one becomes 1 at least.
    """
    period = _core.MixedOrder.period
    largest = max(weights)
    scaled = [weight / largest for weight in weights]
    total = math.fsum(scaled)
    exact = [period * weight / total for weight in scaled]
    whole = [max(math.floor(value), int(weight > 0)) for value, weight in zip(exact, weights, strict=True)]
    by_remainder = sorted(range(len(whole)), key=lambda i: (whole[i] - exact[i], i))
    for i in by_remainder[: max(period - sum(whole), 0)]:
        whole[i] += 1
    while (over := sum(whole) - period) > 0:  # the smallest were lifted to 1
        largest_at = whole.index(max(whole))
        whole[largest_at] -= min(over, whole[largest_at] - 1)
    return whole
