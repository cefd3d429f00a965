"""Rows of a linear op: those of a chunk, and those that its products can leave out."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

Rows = slice | Tensor
"""Rows of a chunk: a range, or their indices."""


class LiveRows(NamedTuple):
    """Rows of which products are made, and which of these are dead: give exactly 0, whatever their input holds."""

    total: int
    """N, of all rows."""
    chosen: Tensor | None = None
    """[L], of which products are made; None: of all."""
    dead: Tensor | None = None
    """[N]; None: all are live of which products are made."""
    missing: Tensor | None = None
    """[N], live rows of which none are made, since there are more than the caller said; None: there are none."""

    def chunks(self, size: int) -> Iterator[Rows]:
        """At most `size` rows at a time."""
        if self.chosen is None:
            yield from slices(self.total, size)
        else:
            yield from self.chosen.split(size) if self.chosen.shape[0] else ()

    def without_dead(self, values: Tensor, rows: Rows) -> Tensor:
        """`values` [C, D] of `rows`, 0 at the dead ones."""
        return values if self.dead is None else values.masked_fill(take(self.dead, rows).unsqueeze(1), 0)

    def mark_missing(self, values: Tensor) -> Tensor:
        """`values` [N], NaN at the rows that should be there and are not."""
        return values if self.missing is None else values.masked_fill(self.missing, torch.nan)


def live_rows(dead: Tensor, most: int) -> LiveRows:
    """The rows that are not `dead` [N], brought together; no more than `most` of them, 0: however many there are.

    A GPU is not waited for. So there its rows stay where they are if `most` does not say how many products to make, and
    `most` rows are made of the live ones, in order, and of dead ones behind them.
    """
    N = dead.shape[0]
    if 0 < most < N:
        index = dead.to(torch.uint8).argsort(stable=True)[:most]
        live = dead.logical_not()
        return LiveRows(N, index, dead, live & (live.cumsum(0) > most))
    if dead.device.type == "cpu":
        return LiveRows(N, dead.logical_not().nonzero().squeeze(1)) if dead.any() else LiveRows(N)
    return LiveRows(N, dead=dead)


def raise_if_too_many(dead: Tensor, most: int) -> None:
    """Count the rows that are not `dead` [N]; waits for the device.

    Raises:
        ValueError: there are more than `most`, 0: not said.
    """
    count = dead.shape[0] - int(dead.sum())
    if most and count > most:
        raise ValueError(f"`options.live_rows` must be at least {count}, the number of rows that count, got {most}")


def most_products(N: int, most: int) -> int:
    """Of how many rows products are made at most, if `most` are live, 0: not said."""
    return min(N, most) if most else N


def slices(count: int, size: int) -> Iterator[slice]:
    """Ranges of at most `size`, in order."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def take(value: Tensor, rows: Rows, dim: int = 0) -> Tensor:
    """The rows of `value`."""
    if isinstance(rows, Tensor):
        return value.index_select(dim, rows)
    return value.narrow(dim, rows.start, rows.stop - rows.start)


def take_or_none(value: Tensor | None, rows: Rows) -> Tensor | None:
    """The rows of `value`, if there is one."""
    return None if value is None else take(value, rows)


def put(to: Tensor, rows: Rows, value: Tensor, dim: int = 0) -> None:
    """Write the rows of `to`."""
    if isinstance(rows, Tensor):
        to.index_copy_(dim, rows, value.to(to.dtype))
    else:
        take(to, rows, dim).copy_(value)
