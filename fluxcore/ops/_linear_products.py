"""What the products with a head launch and move, and how launches of chunks add up; for `_linear_launches.py`."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from fluxcore.ops._linear_filter import SLAB
from fluxcore.ops._linear_head import Wanted
from fluxcore.ops._linear_rows import most_products
from fluxcore.ops._linear_schedule import (
    Passes,
    Request,
    Tile,
    chunk_rate,
    extra_columns,
    logits_rate,
    padding_columns,
    row_bytes,
    tile_of,
)
from fluxcore.schedule import Launch, Machine, OpCall

NOTHING = Wanted(False, False, False)


class Head(NamedTuple):
    """The products of a pass over one head, as `LinearHead` makes them."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    dtype: torch.dtype
    accumulate: torch.dtype
    wanted: Wanted
    tile: Tile
    extra: int
    """Columns of a chunk behind its classes: where it has all, or where the gradient is made."""
    workspace_bytes: int
    is_filtered: bool
    device_type: str
    made_rows: int
    """Rows of which products are made."""

    @property
    def is_whole(self) -> bool:
        """Whether chunks have all classes."""
        return self.tile.classes == self.weight.shape[0]

    def logits(self, chunk: Tile, extra: bool = False) -> Tensor:
        """Without memory."""
        columns = chunk.classes + (self.extra if extra or self.is_whole else 0)
        return self.hidden.new_empty((chunk.rows, columns), dtype=self.dtype)

    def make_logits(self, chunk: Tile) -> list[Launch]:
        """The product of a chunk's rows with its classes' part of the weight."""
        rows, classes = chunk
        D = self.hidden.shape[1]
        read = self._bytes((rows + classes) * D + (0 if self.bias is None else classes))
        rate = self._chunk_rate(chunk) * logits_rate(
            classes + (self.extra if self.is_whole else 0), self.dtype, self.device_type
        )
        return [self._product("logits", chunk, read, self._bytes(rows * classes), rate)]

    def make_gradients(self, chunk: Tile) -> list[Launch]:
        """What `LinearHead.add` does with the gradient of the logits of a chunk."""
        rows, classes = chunk
        D, launches = self.hidden.shape[1], []
        gradient, hidden, weight = (self._bytes(n) for n in (rows * classes, rows * D, classes * D))
        if self.is_filtered:
            norms = 2 * classes * torch.float32.itemsize
            launches.append(Launch(kernel="norms of classes", bytes_read=gradient, bytes_written=norms))
        if self.wanted.input:
            sums = hidden if self.is_whole else rows * D * self.accumulate.itemsize
            read = gradient + weight + (0 if self.is_whole else sums)
            launches.append(self._product("gradient of input", chunk, read, sums, self._chunk_rate(chunk)))
        if self.wanted.weight:
            sums = classes * D * self.accumulate.itemsize
            launches.append(self._product("gradient of weight", chunk, gradient + hidden + sums, sums))
        if self.wanted.bias:
            sums = classes * self.accumulate.itemsize
            launches.append(Launch(kernel="sum, gradient of bias", bytes_read=gradient + sums, bytes_written=sums))
        return launches

    def _bytes(self, elements: int) -> int:
        return elements * self.dtype.itemsize

    def _chunk_rate(self, chunk: Tile) -> float:
        return chunk_rate(chunk, self.device_type)

    def _product(self, what: str, chunk: Tile, read: int, written: int, rate: float = 1.0) -> Launch:
        flop = 2 * chunk.rows * chunk.classes * self.hidden.shape[1]
        return Launch(kernel=f"product, {what}", bytes_read=read, bytes_written=written, flop=flop, product_rate=rate)


def head_of(
    call: OpCall,
    machine: Machine,
    wanted: Wanted,
    *,
    others: int = 0,
    prefix: str = "",
    mergeable: bool = False,
    at_once: bool = False,
    every_row: bool = False,
) -> Head:
    """The head whose arguments have a prefix, of rows that count alone unless it is of `every_row`.

    All else is as for `LinearHead`.
    """
    hidden, weight, bias = (call.inputs[prefix + name] for name in ("input", "linear_weight", "linear_bias"))
    dtype = call.inputs["compute_dtype"] or hidden.dtype
    accumulate = call.inputs["accumulate"] or torch.promote_types(dtype, torch.float32)
    (N, D), V = hidden.shape, weight.shape[0]
    passes = Passes(wanted.input, wanted.weight, any(wanted), heads=1 + others, mergeable=mergeable, at_once=at_once)
    request = Request(*(call.inputs[name] for name in Request._fields))
    count = most_products(N, call.inputs["live_rows"])
    tile = tile_of(count, V, dtype, machine.device.type, passes, request, accumulate)
    is_whole = tile.classes == V
    extra = padding_columns(V, dtype, passes) if is_whole else extra_columns(dtype, passes)
    # Sums in another dtype than the gradient's are kept apart from it, and so is a weight converted for the products.
    apart = V * D * accumulate.itemsize if wanted.weight and accumulate != weight.dtype else 0
    apart += V * D * dtype.itemsize if dtype != weight.dtype else 0
    if wanted.input:
        apart += tile.rows * D * dtype.itemsize if is_whole else 0
        apart += 0 if is_whole or accumulate == hidden.dtype else N * D * accumulate.itemsize
    is_filtered = call.inputs["filter_below"] > 0 and (wanted.input or wanted.weight)
    if is_filtered:  # what is gathered of the classes that are kept
        apart += min(SLAB, V) * (tile.rows * dtype.itemsize + D * (dtype.itemsize + accumulate.itemsize))
    workspace = row_bytes(tile.classes + extra, dtype, passes) * tile.rows + apart
    return Head(
        hidden,
        weight,
        bias,
        dtype,
        accumulate,
        wanted,
        tile,
        extra,
        workspace,
        is_filtered,
        machine.device.type,
        N if every_row else count,
    )


def in_chunks(head: Head, launches_of: Callable[[Tile], list[Launch]]) -> list[Launch]:
    """The launches of all chunks, those of one kernel together."""
    V = head.weight.shape[0]
    found: dict[str, Launch] = {}
    chunks = 0
    for rows, times_rows in _sizes(head.made_rows, head.tile.rows):
        for classes, times_classes in _sizes(V, head.tile.classes):
            times = times_rows * times_classes
            chunks += times
            for launch in launches_of(Tile(rows, classes)):
                found[launch.kernel] = _add(found.get(launch.kernel), launch, times)
    each = f"{chunks} chunk{'s' if chunks > 1 else ''} of {head.tile.rows} rows"
    if not head.is_whole:
        each += f" x {head.tile.classes} classes"
    return [
        replace(
            launch,
            work=f"{each}; {launch.work}" if launch.work else each,
            workspace_bytes=launch.workspace_bytes + head.workspace_bytes,
        )
        for launch in found.values()
    ]


def _sizes(count: int, size: int) -> Iterator[tuple[int, int]]:
    """Sizes of the chunks of `count`, and how many have each."""
    full, rest = divmod(count, size)
    return ((size, times) for size, times in ((size, full), (rest, 1 if rest else 0)) if times)


_COUNTED = ("bytes_read", "bytes_written", "bytes_reread", "exps", "flop")


def _add(sum_: Launch | None, launch: Launch, times: int) -> Launch:
    """`sum_` and `times` more of `launch`; its shape is that of the first, its rate such that times add up."""
    counted = {name: times * getattr(launch, name) for name in _COUNTED}
    if sum_ is None:
        return replace(launch, **counted, launches=times)
    flop = sum_.flop + times * launch.flop
    rate = flop / (sum_.flop / sum_.product_rate + times * launch.flop / launch.product_rate) if flop else 1.0
    return replace(
        sum_,
        product_rate=rate,
        **{name: getattr(sum_, name) + value for name, value in counted.items()},
        launches=sum_.launches + times,
    )
