"""From an order and a data set to the function (position) -> chunk that the C++ loader follows."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fluxcore import _core
from fluxcore.data.argument_checks import whole
from fluxcore.data.dataset import Dataset
from fluxcore.data.pacing import pool_sizes
from fluxcore.data.ranking import rank_chunks

if TYPE_CHECKING:
    from fluxcore.data.order import Order

Chunks = NDArray[np.uint64]
_LINK_KEYS = 1  # keys of the orders in a chain descend from it


def check_seed(seed: Any) -> int:
    """A seed as an int.

    Raises:
        TypeError: no integer.
        ValueError: not within [0, 2^64).
    """
    try:
        return whole(seed, "seed", low=0, high=(1 << 64) - 1)
    except ValueError:
        raise ValueError(f"`seed` must be within [0, 2^64), got {seed}") from None


def compile_order(
    order: "Order", ds: Dataset, *, seed: int, subset: Chunks | None, positions: int | None
) -> _core.Order:
    """See `Order.compile`."""
    seed = check_seed(seed)
    count = len(ds) if subset is None else len(subset)
    positions = count if positions is None else positions
    parts = [part for _, part in order.parts] or [order]
    for part in parts:
        if part.kind == "interleaved" and part.strides > count > 0:
            raise ValueError(
                f"`n` must be at most the {count} chunks, got {part.strides}\n\nEach pass needs a chunk of its own."
            )
    if count == 0:
        return _core.RankedOrder(None, 0, [], seed)
    if order.kind == "chain":
        compiled, missing = _compile_chain(order, ds, seed, subset, positions)
    elif order.kind == "paced":
        compiled = paced = _compile_paced(order, ds, seed, subset, positions)
        missing = paced.unseen(positions)
    else:
        return _compile_epochs(order, ds, seed, subset)
    if len(missing):
        raise _unseen_error(order, ds, missing, count)
    return compiled


def _compile_epochs(order: "Order", ds: Dataset, seed: int, subset: Chunks | None) -> _core.Order:
    """An order whose epochs are all alike."""
    count = len(ds) if subset is None else len(subset)
    ranking = _rank(order, ds, subset)
    if order.kind == "bucketed":
        bounds = [0, *(math.floor(count * edge / 100) for edge in order.edges), count]
        buckets = [(low, high) for low, high in pairwise(bounds) if low < high]
        if not order.shuffle and ranking is not None:
            ranking = np.concatenate([np.sort(ranking[low:high]) for low, high in buckets] or [ranking])
        walk = "shuffled" if order.shuffle else "forward"
        segments = [(low, high - low, walk, 1) for low, high in buckets]
    else:
        walk, width = {
            "jittered": ("jittered", order.window),
            "interleaved": ("strided", min(order.strides, count)),
            "sorted": ("forward", 1),
        }.get(order.kind, ("shuffled", 1))
        segments = [(0, count, walk, width)]
    return _core.RankedOrder(ranking, count, segments, seed)


def _rank(order: "Order", ds: Dataset, subset: Chunks | None) -> Chunks | None:
    return subset if order.column is None else rank_chunks(ds, order.column, descending=order.descending, subset=subset)


def _compile_paced(
    order: "Order", ds: Dataset, seed: int, subset: Chunks | None, positions: int, begin: int = 0
) -> _core.PacedOrder:
    """`begin`: rows of the run that another order has before; the result's own positions count from there."""
    count = len(ds) if subset is None else len(subset)
    pools = pool_sizes(
        order.pacing,
        chunks=count,
        positions=positions,
        start=order.start,
        full_at=order.full_at,
        levels=order.levels,
    )
    moved = [(max(position - begin, 0), size) for position, size in pools]
    ranking = subset if order.random else _rank(order, ds, subset)
    return _core.PacedOrder(ranking, count, moved, order.random, seed)


@dataclass(frozen=True, slots=True)
class _Link:
    """What a chain follows from a row on."""

    begin: int
    offset: int
    """Its own position there, where a pass of it begins."""
    order: _core.Order
    chunks: Chunks | None
    """None: all those of the chain."""

    def rest(self, row: int) -> Chunks:
        """Chunks that the pass in progress has not visited before `row`, ascending."""
        return np.sort(self.order.rest_of_pass(row - self.begin + self.offset))

    def seen(self, row: int, everything: Chunks) -> Chunks:
        """Chunks that it visits before `row`."""
        length = row - self.begin
        if length == 0:
            return everything[:0]
        if isinstance(self.order, _core.PacedOrder):
            unseen = self.order.unseen(length)
        else:
            unseen = self.rest(row) if length < self.order.epoch_size else np.empty(0, np.uint64)
        return np.setdiff1d(everything if self.chunks is None else self.chunks, unseen, assume_unique=True)


def _compile_chain(
    order: "Order", ds: Dataset, seed: int, subset: Chunks | None, positions: int
) -> tuple[_core.Order, Chunks]:
    """The chain, and the chunks that it leaves unseen although it has a paced part."""
    everything = np.arange(len(ds), dtype=np.uint64) if subset is None else subset
    links: list[_Link] = []
    for number, (share, part) in enumerate(order.parts):
        begin = round(share * positions)
        links = [link for link in links if link.begin < begin]
        rest = links[-1].rest(begin) if links else everything[:0]
        key = _core.derive_key(_core.derive_key(seed, _LINK_KEYS), number)
        links += _follow(part, ds, key, subset, rest, begin=begin, positions=positions)
    missing = everything
    if any(part.kind == "paced" for _, part in order.parts):
        for link, end in zip(links, [*(link.begin for link in links[1:]), positions], strict=True):
            missing = np.setdiff1d(missing, link.seen(end, everything), assume_unique=True)
    else:
        missing = everything[:0]
    return _core.ChainOrder([(link.begin, link.offset, link.order) for link in links], len(everything)), missing


def _follow(
    part: "Order", ds: Dataset, seed: int, subset: Chunks | None, rest: Chunks, *, begin: int, positions: int
) -> list[_Link]:
    """The links of one order that takes over at row `begin`, where a pass has yet to visit `rest`."""
    count = len(ds) if subset is None else len(subset)
    next_pass = begin + len(rest)
    if part.kind == "paced":
        chunks = rest if len(rest) and next_pass >= positions else None
        paced = _compile_paced(part, ds, seed, subset if chunks is None else chunks, positions, begin)
        return [_Link(begin, 0, paced, chunks)]
    links = [_Link(begin, 0, _compile_epochs(part, ds, seed, rest), rest)] if len(rest) else []
    if next_pass < positions:
        epoch = -(-next_pass // count)  # shuffles of the rest are those of epoch 0
        links.append(_Link(next_pass, epoch * count, _compile_epochs(part, ds, seed, subset), None))
    return links


def _unseen_error(order: "Order", ds: Dataset, missing: Chunks, count: int) -> ValueError:
    which = ""
    if order.columns:
        values = ds.column(order.columns[0])[missing]
        which = f", whose `{order.columns[0]}` is {values.min()} to {values.max()}"
    return ValueError(
        f"`order` must show every chunk, and this run would leave {len(missing)} of {count} unseen{which}"
        "\n\nLet the pool grow sooner (a larger `start`, a smaller `full_at`, another `pacing`) or the run be longer."
    )
