"""How the linear ops cut their logits into chunks: the cost model, and what a caller may say instead.

Letters: N rows, V classes, D hidden size; C rows and K classes of a chunk, whose logits live in a workspace. Each chunk
reads its classes' part of the weight once a matrix product that needs it, and reads and writes that of the weight's
gradient, however few rows it has; and so its rows' part of the input, however few classes. Against 2 C K D operations a
product that is an overhead of

    (weight bytes x products with the weight + 2 x bytes of its gradient) x balance / (2 x products x C)
    + (input bytes x products with the input + 2 x bytes of its gradient) x balance / (2 x products x K)

where the balance is the rate of matrix products over the bandwidth of memory, in operations a byte. On a CPU a product
also puts its factors in another order first, which its fast loops want: that takes as long as the operations of some
rows and of some classes. With all classes in
a chunk (K = V) nothing has to be merged, and a scalar loss can make its gradients while the logits are there; with
fewer, they are known only once all chunks of a row have been seen, and the logits are made again.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from fluxcore.ops._linear_filter import GradientFilter

_WORKSPACE_BYTES = {"cpu": 200 << 20, "cuda": 1 << 30}
_LEAST_OVERHEAD = 0.02  # more rows than that takes save nothing
_MULTIPLE = 64  # of rows and classes of a chunk; the tile of a matrix product
_WORTH_MERGING = 1.05  # times as long must chunks of all classes take for fewer to be taken
_NEED_A_WHOLE_ROW = "label smoothing, class probabilities, StableMax, top-k mass and divergences need a row whole"
_REORDERED = 24.0  # rows, and classes, in whose time a CPU's product X W^T or G W puts its factors in order
_RAGGED_RATE = 0.78  # of a CPU's product that writes rows which do not begin 16 bytes apart, as a share of others
_BALANCE = {"cpu": 8.0, "half": 184.0, "wide": 15.0}  # of an H200: 790 TFLOP/s in half precision, 4.3 TB/s


@dataclass(kw_only=True, frozen=True, slots=True)
class LinearOptions:
    """How a linear op uses memory; its results differ only by rounding, but for `gradient_filter`.

    Raises:
        ValueError: a number below 1, or of live rows below 0.
        TypeError: `accumulate` is not a floating point dtype, or `gradient_filter` no `GradientFilter`.
    """

    workspace_bytes: int | None = None
    """Most memory for the logits of a chunk, over which their gradient is written; None for 200 MiB on a CPU and 1 GiB
    on a GPU, or what one row needs, if that is more."""
    rows: int | None = None
    """Rows of a chunk; None: chosen by the cost model."""
    classes: int | None = None
    """Classes of a chunk; None: all if `rows` is given, else chosen by the cost model. Label smoothing, class
    probabilities, StableMax, top-k mass and divergences need a row whole, and cannot have fewer than all."""
    accumulate: torch.dtype | None = None
    """In which the gradients of weight and bias are summed over the chunks; None for float32, or float64 for float64
    input."""
    fused: bool | None = None
    """Whether statistics and losses are made in the epilogue of the product, so that no logit is stored: by Triton, not
    in float64, where no gradient is made at once. None: on a GPU, where the cost model takes it to be faster, which it
    does for D up to about 1100 in half precision, and neither `rows` nor `classes` is given. True: a scalar loss makes
    its gradients in the backward pass too. What needs a row whole (see `classes`) cannot be fused."""
    live_rows: int | None = None
    """At most so many rows count: have a target that is not ignored, a weight and an upstream gradient that are not 0.
    They are brought together on the device, which nobody waits for, and no products are made of more; the loss and
    gradients are NaN if there are more. None: on a CPU they are counted, on a GPU all rows take part, since to know how
    many count it would have to be waited for. Say it where the number is known, as it is to who makes the targets."""
    gradient_filter: GradientFilter | None = None
    """Leaves small gradients out of the products of `linear_cross_entropy`, and bounds the error; None: none."""

    def __post_init__(self) -> None:
        for name in ("workspace_bytes", "rows", "classes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be >= 1, or None to have it chosen, got {value}")
        if self.live_rows is not None and self.live_rows < 0:
            raise ValueError(f"`live_rows` must be >= 0, or None where it is not known, got {self.live_rows}")
        if self.gradient_filter is not None and not isinstance(self.gradient_filter, GradientFilter):
            raise TypeError(
                f"`gradient_filter` must be a GradientFilter, or None, got {type(self.gradient_filter).__name__}"
            )
        if self.accumulate is not None and not self.accumulate.is_floating_point:
            raise TypeError(f"`accumulate` must be a floating point dtype, or None for float32, got {self.accumulate}")


class Passes(NamedTuple):
    """What is done with each chunk of logits."""

    input_gradient: bool
    weight_gradient: bool
    gradient: bool = False
    """Whether the gradient of the logits is made, which is written over them."""
    heads: int = 1
    """Of whose logits a chunk is held: 2 where a reference is compared with."""
    mergeable: bool = False
    """Whether a row's results can be merged from those of chunks of its classes."""
    at_once: bool = False
    """Whether gradients are made along with results, which chunks of all classes can do from the same logits."""

    def products(self, merging: bool = False) -> int:
        """Matrix products."""
        return 1 + self.input_gradient + self.weight_gradient + (self.at_once and merging)

    def overhead_bytes(self, dtype: torch.dtype, accumulate: torch.dtype) -> tuple[int, int]:
        """Moved for an element of the weight, and for one of the input, once a chunk."""
        by_weight = (1 + self.input_gradient) * dtype.itemsize + 2 * self.weight_gradient * accumulate.itemsize
        by_input = (1 + self.weight_gradient) * dtype.itemsize + 2 * self.input_gradient * accumulate.itemsize
        return by_weight, by_input


class Tile(NamedTuple):
    """Size of a chunk of logits."""

    rows: int
    """C"""
    classes: int
    """K"""


class Request(NamedTuple):
    """What a caller said; 0 for nothing."""

    workspace_bytes: int
    rows: int
    classes: int


def tile_of(
    N: int, V: int, dtype: torch.dtype, device_type: str, passes: Passes, request: Request, accumulate: torch.dtype
) -> Tile:
    """The chunks of a pass: of all classes, unless the workspace is too small for them or fewer take less time."""
    whole = Tile(rows_of_chunk(N, V, dtype, device_type, passes, request, accumulate), V)
    if not passes.mergeable or N == 0 or (request.rows and not request.classes):
        return whole
    room = (request.workspace_bytes or default_workspace_bytes(device_type)) // (dtype.itemsize * passes.heads)
    extra = extra_columns(dtype, passes)
    if request.classes:
        if request.classes >= V:
            return whole
        return Tile(request.rows or max(1, min(N, room // (request.classes + extra))), request.classes)
    part = _part_of_classes(N, V, dtype, device_type, passes, room, accumulate)
    fits = room >= V or not request.workspace_bytes
    times = [relative_time(tile, V, dtype, device_type, passes, accumulate) for tile in (whole, part)]
    return whole if part.classes >= V or (fits and times[0] <= _WORTH_MERGING * times[1]) else part


def _part_of_classes(
    N: int, V: int, dtype: torch.dtype, device_type: str, passes: Passes, room: int, accumulate: torch.dtype
) -> Tile:
    """The chunk of at most `room` logits that has the least overhead, or a smaller one whose overhead is negligible."""
    by_rows, by_classes = _overheads(dtype, device_type, passes, accumulate, merging=True)
    negligible = passes.products(True) * _LEAST_OVERHEAD
    extra = extra_columns(dtype, passes)
    most_rows = max(1, room // (_MULTIPLE + extra))
    rows = min(N, most_rows, math.ceil(by_rows / negligible), math.ceil(math.sqrt(room * by_rows / by_classes)))
    rows = _even(N, rows)
    classes = min(V, room // rows - extra, max(_MULTIPLE, math.ceil(by_classes / negligible)))
    if classes > _MULTIPLE:
        classes -= classes % _MULTIPLE  # else the products of all chunks but few have ragged edges
    return Tile(rows, _even(V, max(1, classes)))


def _even(count: int, most: int) -> int:
    """At most `most`, such that no chunk of `count` is much smaller than the others."""
    even = math.ceil(count / math.ceil(count / most))
    return min(most, math.ceil(even / _MULTIPLE) * _MULTIPLE)


def relative_time(
    tile: Tile, V: int, dtype: torch.dtype, device_type: str, passes: Passes, accumulate: torch.dtype
) -> float:
    """Of a pass in such chunks, in units of one matrix product."""
    merging = tile.classes < V
    by_rows, by_classes = _overheads(dtype, device_type, passes, accumulate, merging=merging)
    logits = 1 + (passes.at_once and merging)
    columns = tile.classes if merging else V + padding_columns(V, dtype, passes)
    ragged = logits / logits_rate(columns, dtype, device_type) - logits
    return passes.products(merging) + ragged + by_rows / tile.rows + by_classes / tile.classes


def _overheads(
    dtype: torch.dtype, device_type: str, passes: Passes, accumulate: torch.dtype, *, merging: bool
) -> tuple[float, float]:
    """Of chunks of one row, and of one class, in units of one matrix product: divided by their numbers."""
    by_weight, by_input = passes.overhead_bytes(dtype, accumulate)
    moved = balance(dtype, device_type) / 2
    reordered = _reordered(device_type) * (passes.products(merging) - passes.weight_gradient)
    return by_weight * moved + reordered, by_input * moved + reordered


def _reordered(device_type: str) -> float:
    return _REORDERED if device_type == "cpu" else 0.0


def chunk_rate(tile: Tile, device_type: str) -> float:
    """Of products that read the weight's part of a chunk and not its gradient, as a share of that of large ones."""
    return 1 / (1 + _reordered(device_type) * (1 / tile.rows + 1 / tile.classes))


def logits_rate(columns: int, dtype: torch.dtype, device_type: str) -> float:
    """Of a product that writes rows of so many logits, as a share of that of others."""
    return _RAGGED_RATE if device_type == "cpu" and columns * dtype.itemsize % 16 else 1.0


def padding_columns(V: int, dtype: torch.dtype, passes: Passes) -> int:
    """Of -inf behind chunks of all classes: products write rows faster that begin 16 bytes apart.

    A CPU's by a third. Where a row cannot be divided, every class counts, and there is none; nor where it would be more
    than a hundredth.
    """
    ragged = -V * dtype.itemsize % 64
    return ragged // dtype.itemsize if passes.mergeable and 100 * ragged <= V * dtype.itemsize else 0


def extra_columns(dtype: torch.dtype, passes: Passes) -> int:
    """Of a chunk of fewer than all classes: where a gradient is made, the largest logit and the target's come along.

    As many as keep rows 16 bytes apart.
    """
    return max(2, 16 // dtype.itemsize) if passes.gradient else 0


def rows_of_chunk(
    N: int, V: int, dtype: torch.dtype, device_type: str, passes: Passes, request: Request, accumulate: torch.dtype
) -> int:
    """C of chunks of all classes, at least 1."""
    if request.rows:
        return max(1, min(request.rows, N))
    bytes_of_row = row_bytes(V + padding_columns(V, dtype, passes), dtype, passes)
    fitting = max(1, (request.workspace_bytes or default_workspace_bytes(device_type)) // bytes_of_row)
    by_rows, _ = _overheads(dtype, device_type, passes, accumulate, merging=False)
    enough = math.ceil(by_rows / (passes.products() * _LEAST_OVERHEAD))
    most = min(N, fitting, enough)
    return _even(N, most) if most >= 1 else 1


def balance(dtype: torch.dtype, device_type: str) -> float:
    """Operations of a matrix product in the time of a byte."""
    if device_type == "cpu":
        return _BALANCE["cpu"]
    return _BALANCE["half" if dtype.itemsize == 2 else "wide"]


def default_workspace_bytes(device_type: str) -> int:
    """What a call takes that does not say."""
    return _WORKSPACE_BYTES.get(device_type, _WORKSPACE_BYTES["cuda"])


def row_bytes(V: int, dtype: torch.dtype, passes: Passes) -> int:
    """Workspace of one row."""
    return V * dtype.itemsize * passes.heads


def check_options(options: LinearOptions | None, V: int, dtype: torch.dtype, passes: Passes) -> LinearOptions:
    """The options, or the defaults.

    Raises:
        TypeError: not `LinearOptions`.
        ValueError: the workspace is too small for one row, or for the rows and classes asked for, or these cannot be
            fewer than all.
    """
    options = LinearOptions() if options is None else options
    if not isinstance(options, LinearOptions):
        raise TypeError(f"`options` must be a LinearOptions, or None for the defaults, got {type(options).__name__}")
    if options.classes is not None and not passes.mergeable and options.classes < V:
        raise ValueError(f"`options.classes` must be None, or all {V}, got {options.classes}: {_NEED_A_WHOLE_ROW}")
    if options.fused and not passes.mergeable:
        raise ValueError(f"`options.fused` must be None or False, got True: {_NEED_A_WHOLE_ROW}")
    if options.fused and dtype == torch.float64:
        raise ValueError("`options.fused` must be None or False in float64, got True: the kernel sums in float32")
    if options.workspace_bytes is None:
        return options
    classes = min(V, options.classes or V)
    if passes.mergeable and options.classes is None and options.rows is None:
        classes = min(V, _MULTIPLE)
    extra = extra_columns(dtype, passes) if classes < V else padding_columns(V, dtype, passes)
    least = row_bytes(classes + extra, dtype, passes) * (options.rows or 1)
    if options.workspace_bytes < least:
        what = "one row" if options.rows is None else f"`rows` = {options.rows}"
        raise ValueError(
            f"`options.workspace_bytes` must be at least {least} for {what} of {classes} classes in {dtype}"
            f"{', and those of the reference' if passes.heads == 2 else ''}, got {options.workspace_bytes}"
        )
    return options
