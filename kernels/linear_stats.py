"""Softmax statistics of the rows of X W^T + b in the epilogue of that product: no logit is ever stored.

A program has a block of rows and a range of classes. It makes the logits of a tile of both in registers, as a matrix
product does, folds them into the state of its rows (row_scan.py), and leaves it for a second kernel, which merges the
ranges. Letters: N rows, V classes, D hidden size.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from fluxcore.kernels.row_scan import merge_parts, ratio, store_part
from fluxcore.kernels.rows import (
    NO_COLUMN,
    NUM_WARPS,
    centred,
    exp,
    lowest,
    on_device,
    programs_to_fill,
    transform,
    transform_kind,
)
from fluxcore.kernels.softmax_stats import settle, store_stats
from torch import Tensor

MAX_SPLITS = 256
BLOCKS = {2: (128, 128, 64), 4: (64, 64, 32)}
"""Rows, classes and hidden states of a block, by the size of an element."""
_MERGED = 128  # parts that a program of the merge takes


class ProductPlan(NamedTuple):
    """Launch over the logits [N, V] of a product; the grid is (row blocks, splits)."""

    block_rows: int
    block_classes: int
    block_hidden: int
    num_warps: int
    num_stages: int
    splits: int
    """Ranges of classes."""
    grid: tuple[int, int]


def plan_product(N: int, V: int, element_size: int, outputs: int, programs_wanted: int) -> ProductPlan:
    """Choose the launch for N rows and V classes; `programs_wanted` is how many programs fill the device.

    The varentropy is of two sweeps over a tile, which then has to be smaller to stay in registers. Programs beside each
    other have the same classes, so that a part of the weight comes from memory once, and the splits are so many that
    the last programs do not leave the device idle for long.
    """
    half = element_size == 2
    rows, classes, hidden = BLOCKS[element_size]
    classes = classes // 2 if outputs & 8 else classes
    stages = 3 if half and torch.version.hip is None else 2
    row_blocks = triton.cdiv(N, rows)
    tiles = triton.cdiv(V, classes)
    most = triton.next_power_of_2(tiles + 1) // 2  # the largest power of two that leaves no program without a tile
    splits = min(triton.next_power_of_2(triton.cdiv(programs_wanted, row_blocks)), most, MAX_SPLITS)
    return ProductPlan(rows, classes, hidden, NUM_WARPS * (1 + half), stages, splits, (row_blocks, splits))


@triton.jit
def logits_of_tile(
    x_ptr, w_ptr, bias_ptr, begin, start, w_step, D, V, scale, softcap,
    TRANSFORM: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    # The transformed logits [BLOCK_N, BLOCK_V] of rows that start at `begin`, rounded to the type of X as a product
    # that stores them does it, because the backward pass will; anything for classes past the last.
    v = tl.arange(0, BLOCK_V)
    inside = start + v < V
    d = tl.arange(0, BLOCK_D)
    xs = x_ptr + begin[:, None] + d[None, :]
    ws = w_ptr + tl.cast(start, tl.int64) * w_step + (v[:, None] * w_step + d[None, :])
    logits = tl.zeros((begin.shape[0], BLOCK_V), tl.float32)
    for at in range(0, D, BLOCK_D):
        in_hidden = (at + d < D)[None, :]
        x = tl.load(xs + at, mask=in_hidden, other=0.0)
        w = tl.load(ws + at, mask=inside[:, None] & in_hidden, other=0.0)
        logits = tl.dot(x, tl.trans(w), logits, input_precision="ieee")
    if bias_ptr is not None:
        logits += tl.load(bias_ptr + start + v, mask=inside, other=0.0).to(tl.float32)[None, :]
    return transform(logits.to(x_ptr.dtype.element_ty).to(tl.float32), scale, softcap, TRANSFORM)


@triton.jit
def absorb_tile(m, c, s, t, q, x, new, MOMENTS: tl.constexpr):
    # `row_scan.absorb` of a tile x [BLOCK_N, BLOCK_V] into one state a row [BLOCK_N], for a maximum `new` >= m and x.
    z = centred(x, new[:, None]) if MOMENTS & 12 else x - new[:, None]
    e = exp(z)
    below = tl.minimum(z * -3e38, 1.0)  # 0 where z = 0, else 1
    s2 = tl.sum(e * below, axis=1)
    c2 = x.shape[1] - tl.sum(below, axis=1)
    d = centred(m, new)
    a = exp(d)
    up = new > m
    n = a * (c + s)
    if MOMENTS & 12:
        t2 = tl.sum(e * z, axis=1)
        t = a * t + d * n
        if MOMENTS & 8:
            n2 = c2 + s2
            mean2 = ratio(t2, n2)
            w = z - mean2[:, None]
            apart = ratio(t, n) - mean2
            q = a * q + tl.sum(e * w * w, axis=1) + ratio(n * n2, n + n2) * apart * apart
        t += t2
    return tl.where(up, 0.0, c) + c2, tl.where(up, n, s) + s2, t, q


@triton.jit(do_not_specialize=["x_vectors", "w_vectors", "d_vectors", "N", "V"])
def linear_stats_fwd_kernel(
    x_ptr, w_ptr, bias_ptr, y_ptr, order_ptr, count_ptr, x_y_ptr, partial_ptr, partial_column_ptr,
    x_vectors, w_vectors, d_vectors, N, V, scale: tl.float64, softcap: tl.float64,
    MOMENTS: tl.constexpr, TRANSFORM: tl.constexpr, VEC: tl.constexpr, SPLITS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    # The state of each row over a range of its classes.
    #
    #   x [N, D], w [V, D], last dims contiguous; D and the strides of the others are multiples of VEC
    #   bias [V] or None      y [N] int64 or None      order [N] int64, count [] int64: the first `count` rows of this
    #   order are those to be made, or None for all; of others nothing is written, and whole blocks of them cost nothing
    #   partial [5, N, SPLITS]: m, c, s, t, q; t and q as far as MOMENTS asks for them      partial_column [N, SPLITS]
    #   x_y [N]: the logit of class y, NaN if there is none; the program whose range has it writes it
    #   grid (row blocks, SPLITS)      2 N V D operations, an exponential a logit
    #   reads x and w as a product in such blocks does, writes about 6 N SPLITS
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    live = rows < N
    rows = tl.minimum(rows, N - 1).to(tl.int64)
    split = tl.program_id(1)
    tiles = (V + BLOCK_V - 1) // BLOCK_V
    from_tile, to_tile = tiles * split // SPLITS, tiles * (split + 1) // SPLITS
    if order_ptr is not None:
        count = tl.load(count_ptr)
        live = live & (rows < count)
        rows = tl.load(order_ptr + rows)
        to_tile = tl.where(tl.program_id(0) * BLOCK_N < count, to_tile, from_tile)
    begin = rows * (x_vectors * VEC)
    w_step, D = w_vectors * VEC, d_vectors * VEC
    y = tl.full((BLOCK_N,), -1, tl.int32)
    if y_ptr is not None:
        given = tl.load(y_ptr + rows)
        y = tl.where((given >= 0) & (given < V), given, -1).to(tl.int32)
    c = tl.zeros((BLOCK_N,), tl.float32)
    m = c + lowest(c)
    s, t, q, x_y = c, c, c, c + float("nan")
    column = tl.full((BLOCK_N,), NO_COLUMN, tl.int32)
    for tile in tl.range(from_tile, to_tile, disable_licm=True):
        start = tile * BLOCK_V
        classes = start + tl.arange(0, BLOCK_V)
        x = logits_of_tile(
            x_ptr, w_ptr, bias_ptr, begin, start, w_step, D, V, scale, softcap, TRANSFORM, BLOCK_V, BLOCK_D
        )
        x = tl.where((classes < V)[None, :], x, -float("inf"))
        if y_ptr is not None:
            hit = (y >= start) & (y < start + BLOCK_V)
            if tl.max(hit.to(tl.int32), axis=0) > 0:  # few tiles have the class of a target
                own = tl.sum(tl.where(classes[None, :] == y[:, None], x, 0.0), axis=1)
                x_y = tl.where(hit, own, x_y)
        new = tl.maximum(m, tl.max(x, axis=1))
        # The first of the largest; a NaN, which is not less than anything, wins over all but an earlier one.
        place = tl.where(x == x, classes[None, :], classes[None, :] - NO_COLUMN)
        first = tl.min(tl.where(x < new[:, None], NO_COLUMN, place), axis=1)
        column = tl.where(((new > m) & (column >= 0)) | (column == NO_COLUMN), first, tl.minimum(column, first))
        c, s, t, q = absorb_tile(m, c, s, t, q, x, new, MOMENTS)
        m = new
    m = tl.where(column < 0, float("nan"), m)
    column = tl.where(column < 0, column + NO_COLUMN, column)
    store_part(partial_ptr, partial_column_ptr, rows, live, split, N, m, c, s, t, q, c, c, c, column, 0, SPLITS)
    if y_ptr is not None:
        ours = tl.where(y < 0, split == 0, (y >= from_tile * BLOCK_V) & (y < to_tile * BLOCK_V))
        tl.store(x_y_ptr + rows, x_y, mask=live & ours)


@triton.jit(do_not_specialize=["N"])
def linear_stats_merge_kernel(
    y_ptr, stats_ptr, argmax_ptr, state_ptr, partial_ptr, partial_column_ptr, N,
    OUTPUTS: tl.constexpr, SPLITS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    # Statistics, argmax and state of each row from its parts, as `softmax_stats_fwd_kernel` stores them; the logit of
    # the target is in the state already. Grid (row groups of ROWS,).
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = rows < N
    rows = tl.minimum(rows, N - 1).to(tl.int64)
    m, c, s, t, q, _, _, _, column = merge_parts(partial_ptr, partial_column_ptr, rows, N, OUTPUTS, 0, False, SPLITS)
    m, s = settle(m, c, s)
    column = tl.where(column == NO_COLUMN, 0, column)
    row_count = tl.cast(N, tl.int64)
    state = state_ptr + rows
    none = tl.zeros_like(m)
    x_y, y = none, column
    if y_ptr is None:
        tl.store(state + 4 * row_count, none, mask=live)
    else:
        x_y, y = tl.load(state + 4 * row_count), tl.load(y_ptr + rows)
    store_stats(stats_ptr, argmax_ptr, rows, live, N, m, s, t, q, none, none, x_y, y, column, OUTPUTS)
    tl.store(state, m, mask=live)
    tl.store(state + row_count, s, mask=live)
    tl.store(state + 2 * row_count, t, mask=live)
    tl.store(state + 3 * row_count, q, mask=live)
    tl.store(state + 5 * row_count, none, mask=live)


def registers_of(num_warps: int) -> dict[str, int]:
    """Options of a launch whose threads may take all registers; ptxas would rather spill a few bytes."""
    if torch.version.hip is not None:
        return {"num_warps": num_warps}
    return {"num_warps": num_warps, "maxnreg": min(255, 65536 // (32 * num_warps))}


def parts_bytes(N: int, splits: int) -> int:
    """Of what the first kernel leaves for the second: five float32 and an int32 for each row and range of classes."""
    return 24 * N * splits


def launch_linear_stats_fwd(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor | None,
    outputs: int,
    temperature: float,
    softcap: float,
    stats: Tensor,
    argmax: Tensor,
    state: Tensor,
    order: Tensor | None = None,
    count: Tensor | None = None,
) -> None:
    """Fill `stats`, `argmax` and `state`, as those of `launch_softmax_stats_fwd` for x weight^T + bias, top k left out.

    x [N, D], weight [V, D] and bias [V] are of one dtype, of 32 bits at most; the last dims are contiguous. `target`
    [N] int64 is needed for the logprob. Of rows that are not among the first `count` [] in `order` [N], both int64,
    the results mean nothing.
    """
    (N, D), V = x.shape, weight.shape[0]
    if N == 0:
        return
    plan = plan_product(N, V, x.element_size(), outputs, programs_to_fill(x.device))
    # Where all rows begin at 16 bytes, they are loaded by as many.
    vec = 16 // x.element_size()
    vec = 1 if any(size % vec for size in (D, x.stride(0), weight.stride(0))) else vec
    partial = torch.empty((5, N, plan.splits), dtype=torch.float32, device=x.device)
    partial_column = torch.empty((N, plan.splits), dtype=torch.int32, device=x.device)
    merged = max(1, _MERGED // plan.splits)
    with on_device(x):
        linear_stats_fwd_kernel[plan.grid](
            x, weight, bias, target, order, count, state[4], partial, partial_column,
            x.stride(0) // vec, weight.stride(0) // vec, D // vec, N, V, 1 / temperature, softcap,
            MOMENTS=outputs & 12, TRANSFORM=transform_kind(temperature, softcap), VEC=vec, SPLITS=plan.splits,
            BLOCK_N=plan.block_rows, BLOCK_V=plan.block_classes, BLOCK_D=plan.block_hidden,
            num_stages=plan.num_stages, **registers_of(plan.num_warps),
        )  # fmt: skip
        linear_stats_merge_kernel[(triton.cdiv(N, merged),)](
            target, stats, argmax, state, partial, partial_column, N,
            OUTPUTS=outputs, SPLITS=plan.splits, ROWS=merged, num_warps=1,
        )  # fmt: skip
