"""Row states of the logits of a head made in the epilogue of the product, without the logits: when, and the call.

The platform's product writes a chunk's logits to memory and the row kernels read them again. What that costs depends on
D: 2 D operations a logit against two moves of it. Our own product moves none, and is slower as a product.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fluxcore.backends import Backend
from fluxcore.ops import _softmax_stats_backends as row_kernels
from fluxcore.ops._linear_head import Plan
from fluxcore.ops._linear_row_parts import RowParts, Statistics
from fluxcore.ops._linear_schedule import Passes, Request, balance, relative_time, tile_of

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
PRODUCT_RATE = {"half": 0.75, "wide": 0.5}
"""Of our product, as a share of the platform's; neither is measured. In half precision by that of cut-cross-entropy's
Triton kernel, which is made alike: 46 ms for 8192 rows of Gemma-2-2B's head on an A100 (arXiv:2411.09009) are 67% of
the chip's peak, where the platform's reaches some 85%. In float32, which Triton multiplies without tensor cores, on the
safe side."""


class Product(NamedTuple):
    """The logits of a pass that makes no gradient."""

    N: int
    V: int
    D: int
    dtype: torch.dtype


def product_of(hidden: Tensor, weight: Tensor, plan: Plan) -> Product:
    """Of `hidden` [N, D] and `weight` [V, D]."""
    return Product(hidden.shape[0], weight.shape[0], hidden.shape[1], plan.compute_dtype or hidden.dtype)


def is_fused(product: Product, backend: Backend, device_type: str, plan: Plan, *, mergeable: bool) -> bool:
    """Whether they are made here; `mergeable` is as in `Passes`.

    Raises:
        ValueError: the plan asks for it, and the backend has no such kernel.
    """
    if plan.fused:
        if backend != "triton":
            raise ValueError(
                f"`options.fused` must be None or False on the backend `{backend}`, got True: the kernel is Triton's"
            )
        return True
    possible = backend == "triton" and mergeable and product.dtype in DTYPES
    if plan.fused is not None or not possible or device_type != "cuda" or plan.rows or plan.classes:
        return False
    return fused_operations(product, device_type) < chunked_operations(product, device_type, plan)


def makes_state_again(product: Product, backend: Backend, device_type: str, plan: Plan, *, mergeable: bool) -> bool:
    """Whether a backward pass makes the state of its rows anew, from its own logits.

    In float32 the logits of both products differ in their last bits, so that probabilities by the state of the other
    do not add up to 1. In half precision rounding makes them alike, but for a few.
    """
    if plan.fused is False or backend != "triton" or product.dtype != torch.float32:
        return False
    return plan.fused or is_fused(product, backend, device_type, plan, mergeable=mergeable)


def fused_operations(product: Product, device_type: str) -> float:
    """The operations that the platform's product does in the time of ours."""
    from fluxcore.kernels.linear_stats import BLOCKS

    N, V, D, dtype = product
    rows = BLOCKS[dtype.itemsize][0]
    padded = (N + rows - 1) // rows * rows
    moved = (N + V) * D * dtype.itemsize
    return 2 * padded * V * D / product_rate(dtype) + moved * balance(dtype, device_type)


def chunked_operations(product: Product, device_type: str, plan: Plan) -> float:
    """The same of the platform's product in chunks of logits, which are written and read."""
    N, V, D, dtype = product
    passes = Passes(False, False, mergeable=True)
    request = Request(plan.workspace_bytes, plan.rows, plan.classes)
    wide = torch.promote_types(dtype, torch.float32)
    tile = tile_of(N, V, dtype, device_type, passes, request, wide)
    round_trip = 2 * dtype.itemsize * balance(dtype, device_type)
    return N * V * (2 * D * relative_time(tile, V, dtype, device_type, passes, wide) + round_trip)


def product_rate(dtype: torch.dtype) -> float:
    """Of our product, as a share of the platform's."""
    return PRODUCT_RATE["half" if dtype.itemsize == 2 else "wide"]


def forward(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor | None,
    statistics: Statistics,
    plan: Plan,
    dead: Tensor | None = None,
) -> row_kernels.Results:
    """Results of `softmax_stats` for the logits of `hidden` [N, D]; of rows that are `dead` [N] they mean nothing.

    Rows that are not come first in the kernel's order, so that it does nothing for most of the others. Nobody has to
    wait until their number is known.
    """
    from fluxcore.kernels.linear_stats import launch_linear_stats_fwd

    dtype = plan.compute_dtype or hidden.dtype
    x, weight = (value.to(dtype) for value in (hidden, weight))
    results = row_kernels.empty_results(x.new_empty((1, 1)).expand(x.shape[0], weight.shape[0]), statistics.outputs, 0)
    launch_linear_stats_fwd(
        _with_contiguous_rows(x),
        _with_contiguous_rows(weight),
        None if bias is None else bias.to(dtype).contiguous(),
        None if target is None else target.contiguous(),
        *statistics,
        *results[:3],
        *(() if dead is None else (dead.byte().argsort(stable=True), dead.logical_not().sum())),
    )
    return results


def row_parts(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor | None,
    statistics: Statistics,
    plan: Plan,
    dead: Tensor | None,
) -> RowParts:
    """The state of every row, as `rows_over_all_classes` gives it; it means nothing where a row is `dead`."""
    _, argmax, state, _ = forward(hidden, weight, bias, target, statistics, plan, dead)
    m, s, t, spread, x_y, _ = state.double()
    return RowParts(m, s, t, spread, x_y, argmax)


def _with_contiguous_rows(value: Tensor) -> Tensor:
    return value if value.stride(1) == 1 else value.contiguous()
