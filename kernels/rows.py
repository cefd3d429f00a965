"""How kernels walk over rows of logits [N, V]: the plan of a launch, aligned tiles, and the logit transform.

A row is its *body*, all 16-byte vectors that lie wholly inside it, and its *edges*, the elements before and after. The
body starts at an aligned address whatever the row's stride, so it moves by 16-byte loads at V = 50257 too; the edges
are fewer than two vectors, one element a lane. A tile of the body is [LANES, ROWS, DEPTH, VEC]: VEC elements are one
vector, LANES vectors stand side by side, and DEPTH of those are in flight. In this order of the dims Triton keeps DEPTH
and VEC within one thread, so that reducing over them costs no shuffle.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

NUM_WARPS = 4 if torch.version.hip is None else 2
THREADS = 128
LANE_ELEMENTS = 64
PROGRAMS_A_MULTIPROCESSOR = 4
NO_COLUMN = tl.constexpr(2**31 - 1)
LOG2_E = tl.constexpr(1.44269502162933349609375)  # in float32
LOG2_E_REST = tl.constexpr(1.925963033500848e-8)


class RowPlan(NamedTuple):
    """Launch of a kernel over rows; `grid` is (row groups, splits)."""

    regime: str
    """"rows": several whole rows a program; "loop": one row a program; "split": several programs a row."""
    rows: int
    lanes: int
    depth: int
    splits: int
    grid: tuple[int, int]
    tiles: int
    """Tiles of one row."""


class RowLayout(NamedTuple):
    """Where the rows of a tensor are, in elements from a base that is aligned if it can be."""

    base: Tensor
    offset: int
    vec: int
    """Elements of a 16-byte vector."""
    edges: bool
    """Whether any row begins or ends inside a vector."""


def row_layout(x: Tensor) -> RowLayout:
    """Layout of x [N, V], last dim contiguous."""
    vec = 16 // x.element_size()
    offset = x.data_ptr() % 16 // x.element_size()
    if offset > x.storage_offset():  # the storage itself is not aligned
        offset = 0
    base = x.as_strided((1,), (1,), x.storage_offset() - offset) if offset else x
    return RowLayout(base, offset, vec, bool(offset or x.stride(0) % vec or x.shape[1] % vec))


def plan_rows(
    N: int,
    V: int,
    element_size: int,
    edges: bool,
    programs_wanted: int,
    max_splits: int,
    threads: int = THREADS,
    per_lane: int = LANE_ELEMENTS,
) -> RowPlan:
    """Choose the launch for N rows of V classes.

    `programs_wanted` is how many programs fill the device; rows are split when there are fewer rows than half of that.
    `threads` are those of a program that has a row to itself.
    A short row is given few lanes of up to `per_lane` elements (8 in float64), because what is done once a row costs as
    much as dozens of elements.
    """
    vec = 16 // element_size
    vectors = V // vec
    per_lane = 8 if element_size == 8 else per_lane
    if 32 * per_lane >= V:
        lanes = triton.next_power_of_2(triton.cdiv(V, per_lane))
        lanes = max(lanes, 2 * vec) if edges else lanes
        depth = triton.next_power_of_2(max(1, triton.cdiv(vectors, lanes)))
        rows = THREADS // lanes
        return RowPlan("rows", rows, lanes, depth, 1, (triton.cdiv(N, rows), 1), 1)
    depth = max(1, (8 if element_size == 8 else 32) // vec)
    tiles = triton.cdiv(vectors, depth * threads)
    most = triton.next_power_of_2(tiles + 1) // 2  # the largest power of two that leaves no program without a tile
    splits = min(triton.next_power_of_2(triton.cdiv(programs_wanted, N)), most, max_splits)
    if programs_wanted < 2 * N or splits < 2:
        return RowPlan("loop", 1, threads, depth, 1, (N, 1), tiles)
    return RowPlan("split", 1, threads, depth, splits, (N, splits), tiles)


def programs_to_fill(device: torch.device) -> int:
    """Programs of NUM_WARPS warps that keep every multiprocessor of `device` busy; 8 for the interpreter's CPU."""
    if device.type != "cuda":
        return 8
    return PROGRAMS_A_MULTIPROCESSOR * torch.cuda.get_device_properties(device).multi_processor_count


def launch_options(crowded: bool, plan: RowPlan | None = None) -> dict[str, int]:
    """Options of a launch, by programs of THREADS threads or as many as `plan` has.

    A `crowded` kernel may take all registers; ptxas would rather spill a few bytes.
    """
    num_warps = NUM_WARPS * (plan.rows * plan.lanes // THREADS) if plan else NUM_WARPS
    if crowded and torch.version.hip is None:
        return {"num_warps": num_warps, "maxnreg": min(255, 65536 // (32 * num_warps))}
    return {"num_warps": num_warps}


def transform_kind(temperature: float, softcap: float) -> int:
    """The constexpr TRANSFORM of `transform`."""
    return 2 if softcap else int(temperature != 1)


def on_device(x: Tensor) -> AbstractContextManager[object]:
    """Launches go to the current device; make it that of `x`."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


@triton.jit
def lowest(x):
    # The lowest finite value of x's type: the maximum of nothing, with which -inf logits never win.
    return tl.full((), -1.7976931348623157e308 if x.dtype == tl.float64 else -3.4028234663852886e38, x.dtype)


@triton.jit
def exp(z):
    # e^z for z <= 0, exactly 0 for -inf; NaN stays. One multiplication and one special-function instruction in float32.
    return tl.exp(z) if z.dtype == tl.float64 else tl.exp2(z * LOG2_E)


@triton.jit
def log1p(s):
    # Accurate for tiny s too: what rounding 1 + s loses is made up for by the quotient.
    u = 1 + s
    return tl.where(u == 1, s, tl.log(u) * (s / tl.where(u == 1, 1.0, u - 1)))


@triton.jit
def centred(x, m):
    # x - m, cut where e^(x-m) is 0 anyway: so -inf * 0 never arises, and NaN stays NaN.
    return tl.maximum(x - m, -2000.0 if x.dtype == tl.float64 else -200.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def tanh_parts(v):
    # tanh(v) and 1 - tanh(v)^2, neither by cancellation. Cephes' approximations near 0.
    z = -2 * tl.abs(v)
    e = exp(z)
    if v.dtype != tl.float64:  # the rounding of z * log2(e), which `exp` leaves to the result
        bounded = tl.maximum(z, -256.0)  # e is 0 long before, and inf - inf would be NaN
        power = bounded * LOG2_E
        e += e * 0.6931471805599453 * (tl.fma(bounded, LOG2_E, -power) + bounded * LOG2_E_REST)
    tail = 4 * e / ((1 + e) * (1 + e))
    w = v * v
    if v.dtype == tl.float64:
        p = (-9.64399179425052238628e-1 * w - 9.92877231001918586564e1) * w - 1.61468768441708447952e3
        q = ((w + 1.12811678491632931402e2) * w + 2.23548839060100448583e3) * w + 4.84406305325125486048e3
        near = v + v * w * (p / q)
    else:
        p = ((-5.70498872745e-3 * w + 2.06390887954e-2) * w - 5.37397155531e-2) * w + 1.33314422036e-1
        near = v + v * w * (p * w - 3.33332819422e-1)
    far = 1 - 2 * e / (1 + e)
    return tl.where(tl.abs(v) < 0.625, near, tl.where(v < 0, -far, far)), tail


@triton.jit
def transform(x, scale, softcap, TRANSFORM: tl.constexpr):
    # The x that all statistics are of: softcap * tanh(logit / softcap) if TRANSFORM is 2, times `scale` unless it is 0.
    if TRANSFORM == 2:
        cap = tl.full((), softcap, x.dtype)
        x = cap * tanh_parts(x / cap)[0]
    if TRANSFORM > 0:
        # Two parts of the scale, so that the product is rounded once, as a division by the temperature would be.
        exact = tl.full((), scale, tl.float64)
        high = exact.to(x.dtype)
        low = (exact - high.to(tl.float64)).to(x.dtype)
        x = tl.fma(x, high, tl.where(tl.abs(x) == float("inf"), 0.0, x * low))
    return x


@triton.jit
def row_bounds(rows, row_stride, offset, V, VEC: tl.constexpr, EDGES: tl.constexpr):
    # Of each row [ROWS]: its first element, the first vector of its body and how many of those, from the base. int64.
    begin = rows.to(tl.int64) * row_stride + offset
    first = begin // VEC
    count = tl.zeros_like(first) + V // VEC
    if EDGES:
        first = (begin + (VEC - 1)) // VEC
        count = tl.maximum((begin + V) // VEC - first, 0)
    return begin, first, count


@triton.jit
def rows_of_program(
    N, V, row_stride, offset,
    VEC: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr, DEPTH: tl.constexpr, SPLITS: tl.constexpr,
    EDGES: tl.constexpr,
):  # fmt: skip
    # A program's rows [ROWS] (int64, the last one again past N), which of them live, its split of them with the range
    # of its tiles, and the rows' bounds.
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = rows < N
    rows = tl.minimum(rows, N - 1).to(tl.int64)
    split = tl.program_id(1)
    begin, first, count = row_bounds(rows, row_stride, offset, V, VEC, EDGES)
    tiles = (V // VEC + DEPTH * LANES - 1) // (DEPTH * LANES)
    return rows, live, split, tiles * split // SPLITS, tiles * (split + 1) // SPLITS, begin, first, count


@triton.jit
def body_tile(tile, DEPTH: tl.constexpr, LANES: tl.constexpr):
    # Index of each vector of a tile within the body, [LANES, 1, DEPTH].
    depth = tl.arange(0, DEPTH)[None, None, :]
    return (tile * DEPTH + depth) * LANES + tl.arange(0, LANES)[:, None, None]


@triton.jit
def body_offsets(vectors, VEC: tl.constexpr):
    # Elements of the vectors of a tile, from the start of the body, [LANES, 1, DEPTH, VEC].
    return vectors[:, :, :, None] * VEC + tl.arange(0, VEC)[None, None, None, :]


@triton.jit
def tile_columns(begin, first, tile, VEC: tl.constexpr, DEPTH: tl.constexpr, LANES: tl.constexpr):
    # Columns of a tile of the body [LANES, ROWS, DEPTH, VEC].
    head = (first * VEC - begin).to(tl.int32)[None, :, None, None]
    return head + body_offsets(body_tile(tile, DEPTH, LANES), VEC)


@triton.jit
def load_body(
    x_ptr, first, count, tile, VEC: tl.constexpr, DEPTH: tl.constexpr, LANES: tl.constexpr, WHOLE: tl.constexpr = False
):
    # A tile of each row's body [LANES, ROWS, DEPTH, VEC], float32 at least; -inf past its end, or WHOLE: all inside.
    vectors = body_tile(tile, DEPTH, LANES)
    start = (x_ptr + first * VEC)[None, :, None, None]
    places = start + body_offsets(vectors, VEC)
    if WHOLE:
        x = tl.load(places)
    else:
        x = tl.load(places, mask=(vectors < count[None, :, None])[:, :, :, None], other=-float("inf"))
    return widen(x)


@triton.jit
def load_logits(
    x_ptr, first, count, tile, scale, softcap,
    TRANSFORM: tl.constexpr, VEC: tl.constexpr, DEPTH: tl.constexpr, LANES: tl.constexpr, WHOLE: tl.constexpr = False,
):  # fmt: skip
    # A tile of each row's transformed body, as load_body.
    x = transform(load_body(x_ptr, first, count, tile, VEC, DEPTH, LANES, WHOLE), scale, softcap, TRANSFORM)
    if TRANSFORM == 2 and not WHOLE:  # a softcap lifts -inf
        inside = (body_tile(tile, DEPTH, LANES) < count[None, :, None])[:, :, :, None]
        x = tl.where(inside, x, -float("inf"))
    return x


@triton.jit
def edge_columns(begin, first, count, V, VEC: tl.constexpr, LANES: tl.constexpr):
    # Columns of the elements before and after the body, one a lane [LANES, ROWS], and which lanes have one.
    lane = tl.arange(0, LANES)[:, None]
    head = (first * VEC - begin)[None, :]
    tail = head + count[None, :] * VEC + (lane - VEC)
    in_head = (lane < VEC) & (lane < tl.minimum(head, V))
    in_tail = (lane >= VEC) & (lane < 2 * VEC) & (tail < V)
    return tl.where(lane < VEC, lane, tail).to(tl.int32), in_head | in_tail


@triton.jit
def widen(x):
    return x if x.dtype == tl.float64 else x.to(tl.float32)
