"""How the linear ops cut their rows into chunks: the cost model, and what a caller may say instead.

Letters: N rows, V classes, D hidden size, C rows of a chunk. The logits of a chunk live in a workspace. Each chunk
reads the weight once a matrix product that needs it, and reads and writes the weight's gradient, however few rows it
has: against 2 V D operations a row and product that is an overhead of

    (weight bytes x products with the weight + 2 x bytes of its gradient) x balance / (2 x products x C)

where the balance is the rate of matrix products over the bandwidth of memory, in operations a byte.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

_WORKSPACE_BYTES = {"cpu": 176 << 20, "cuda": 1 << 30}
_LEAST_OVERHEAD = 0.02  # more rows than that takes save nothing
_ROWS_MULTIPLE = 64  # of a chunk; the tile of a matrix product
_BALANCE = {"cpu": 8.0, "half": 184.0, "wide": 15.0}  # of an H200: 790 TFLOP/s in half precision, 4.3 TB/s


@dataclass(kw_only=True, frozen=True, slots=True)
class LinearOptions:
    """How a linear op uses memory; its results differ only by rounding.

    Raises:
        ValueError: a number below 1.
        TypeError: `accumulate` is not a floating point dtype.
    """

    workspace_bytes: int | None = None
    """Most memory for the logits of a chunk of rows, and their gradient; None for 176 MiB on a CPU and 1 GiB on a GPU,
    or what one row needs, if that is more."""
    rows: int | None = None
    """Rows of a chunk; None: chosen by the cost model."""
    accumulate: torch.dtype | None = None
    """In which the gradients of weight and bias are summed over the chunks; None for float32, or float64 for float64
    input."""

    def __post_init__(self) -> None:
        for name in ("workspace_bytes", "rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be >= 1, or None to have it chosen, got {value}")
        if self.accumulate is not None and not self.accumulate.is_floating_point:
            raise TypeError(f"`accumulate` must be a floating point dtype, or None for float32, got {self.accumulate}")


class Passes(NamedTuple):
    """What is done with each chunk of logits."""

    input_gradient: bool
    weight_gradient: bool
    buffers: int
    """Times the logits of a chunk that the workspace holds: 1, or 2 with their gradient."""


def rows_of_chunk(
    N: int,
    V: int,
    dtype: torch.dtype,
    device_type: str,
    passes: Passes,
    workspace_bytes: int,
    rows: int,
    accumulate: torch.dtype,
) -> int:
    """C, at least 1. `workspace_bytes` and `rows` are 0 to have them chosen."""
    if rows:
        return max(1, min(rows, N))
    bytes_of_row = row_bytes(V, dtype, passes)
    fitting = max(1, (workspace_bytes or default_workspace_bytes(device_type)) // bytes_of_row)
    most = min(N, fitting, rows_enough(dtype, device_type, passes, accumulate))
    if most < 1:
        return 1
    even = math.ceil(N / math.ceil(N / most))  # no chunk much smaller than the others
    return min(most, math.ceil(even / _ROWS_MULTIPLE) * _ROWS_MULTIPLE)


def rows_enough(dtype: torch.dtype, device_type: str, passes: Passes, accumulate: torch.dtype) -> int:
    """Rows of a chunk beyond which the overhead of chunks is negligible."""
    with_weight = 1 + passes.input_gradient
    products = with_weight + passes.weight_gradient
    bytes_of_weight = with_weight * dtype.itemsize + 2 * passes.weight_gradient * accumulate.itemsize
    return math.ceil(bytes_of_weight * balance(dtype, device_type) / (2 * products * _LEAST_OVERHEAD))


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
    return V * dtype.itemsize * passes.buffers


def check_options(options: LinearOptions | None, V: int, dtype: torch.dtype, passes: Passes) -> LinearOptions:
    """The options, or the defaults.

    Raises:
        TypeError: not `LinearOptions`.
        ValueError: the workspace is too small for one row, or for the rows asked for.
    """
    options = LinearOptions() if options is None else options
    if not isinstance(options, LinearOptions):
        raise TypeError(f"`options` must be a LinearOptions, or None for the defaults, got {type(options).__name__}")
    least = row_bytes(V, dtype, passes) * (options.rows or 1)
    if options.workspace_bytes is not None and options.workspace_bytes < least:
        what = "one row" if options.rows is None else f"`rows` = {options.rows}"
        raise ValueError(
            f"`options.workspace_bytes` must be at least {least} for {what} of {V} classes in {dtype}"
            f"{', and their gradient' if passes.buffers == 2 else ''}, got {options.workspace_bytes}"
        )
    return options
