"""Steps along the part of a gradient that is perpendicular to the weight, for many float32 tensors in five launches.

The sums of a tensor are made a chunk at a time and then added in the chunks' order, so that they are the same at each
run. What their difference is too coarse for is summed anew, element by element, of those tensors alone. Tensors come as
a table of addresses, so that a launch serves all of them, and nothing waits for the device.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import triton
from fluxcore.kernels.ortho_kernels import (
    FOUND,
    OPTIONS,
    SUMS,
    ortho_found_kernel,
    ortho_rest_kernel,
    ortho_step_kernel,
    ortho_sums_kernel,
)
from fluxcore.kernels.rows import NUM_WARPS, THREADS, on_device
from torch import Tensor

VEC = 4
DEPTH = 2
CHUNK = 8 * THREADS * DEPTH * VEC


class AdamOptions(NamedTuple):
    """Of one tensor's step."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    correction1: float
    """1 - beta1^step."""
    correction2: float


class OrthoRow(NamedTuple):
    """One tensor's part in a step: float32 tensors of one shape and layout, without gaps."""

    weight: Tensor
    gradient: Tensor
    exp_avg: Tensor | None = None
    exp_avg_sq: Tensor | None = None
    options: AdamOptions | None = None


@lru_cache(maxsize=32)
def _chunks(counts: tuple[int, ...], device: torch.device) -> tuple[Tensor, tuple[int, ...]]:
    """The tensor of each chunk [C] int32, and each tensor's first chunk."""
    chunks = torch.tensor([triton.cdiv(count, CHUNK) for count in counts], dtype=torch.int64)
    first = tuple((chunks.cumsum(0) - chunks).tolist())
    owner = torch.arange(len(counts), dtype=torch.int32).repeat_interleave(chunks)
    return owner.to(device, non_blocking=True), first


def _addresses(row: OrthoRow) -> list[int]:
    return [0 if x is None else x.data_ptr() for x in row[:4]]


def _factors(options: AdamOptions | None) -> tuple[float, ...]:
    # As the kernels want them; divisions are made here, once.
    if options is None:
        none: tuple[float, ...] = (0.0,) * OPTIONS.value
        return none
    lr, beta1, beta2, eps, weight_decay, correction1, correction2 = options
    return lr, 1 - lr * weight_decay, 1 - beta1, beta2, 1 - beta2, eps, 1 / correction1, 1 / correction2


def launch_orthogonalize(rows: Sequence[OrthoRow]) -> None:
    """Replace each row's gradient by its part perpendicular to the weight; rows of one device."""
    _launch(rows, adam=False, update=False)


def launch_ortho_adamw(rows: Sequence[OrthoRow], project_update: bool) -> None:
    """One step of AdamW with the gradient, or the update, projected; rows of one device."""
    _launch(rows, adam=True, update=project_update)


def _launch(rows: Sequence[OrthoRow], adam: bool, update: bool) -> None:
    # Tensors that begin inside a 16-byte vector go apart, so that all others move by whole vectors.
    for aligned in (True, False):
        some = [row for row in rows if row.weight.numel() and _is_aligned(row) == aligned]
        if some:
            with on_device(some[0].weight):
                _launch_alike(some, adam, update, aligned)


def _is_aligned(row: OrthoRow) -> bool:
    return not any(address % 16 for address in _addresses(row))


def _launch_alike(rows: Sequence[OrthoRow], adam: bool, update: bool, aligned: bool) -> None:
    device = rows[0].weight.device
    counts = tuple(row.weight.numel() for row in rows)
    owner, first = _chunks(counts, device)
    table = torch.tensor([[*_addresses(row), n, at] for row, n, at in zip(rows, counts, first, strict=True)])
    options = torch.tensor([_factors(row.options) for row in rows], dtype=torch.float64)
    table, options = (x.to(device, non_blocking=True) for x in (table, options))
    sums = torch.empty((len(owner), SUMS.value), dtype=torch.float64, device=device)
    rest = torch.empty(len(owner), dtype=torch.float64, device=device)
    found = torch.empty((len(rows), FOUND.value), dtype=torch.float64, device=device)
    tile = {"ALIGNED": aligned, "LANES": THREADS, "DEPTH": DEPTH, "VEC": VEC, "CHUNK": CHUNK, "num_warps": NUM_WARPS}
    merge = {"CHUNK": CHUNK, "LANES": THREADS, "num_warps": NUM_WARPS}
    chunks, tensors = (len(owner),), (len(rows),)
    ortho_sums_kernel[chunks](table, owner, options, sums, UPDATE=update, **tile)
    ortho_found_kernel[tensors](table, sums, rest, found, AGAIN=False, **merge)
    ortho_rest_kernel[chunks](table, owner, options, found, rest, UPDATE=update, **tile)
    ortho_found_kernel[tensors](table, sums, rest, found, AGAIN=True, **merge)
    ortho_step_kernel[chunks](table, owner, options, found, ADAM=adam, UPDATE=update, **tile)
