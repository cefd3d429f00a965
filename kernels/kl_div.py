"""Divergence of two rows of logits: the launcher of its forward pass, and the sum over rows.

policy_ref and ref_policy read the logits once (kl_div_near.py), and rows that this refuses once more, twice
(kl_div_twice.py); jsd reads them twice. The gradient is in kl_div_gradient.py.
"""

import torch
import triton
import triton.language as tl
from fluxcore.kernels.kl_div_near import kl_div_near_kernel, kl_div_near_merge_kernel
from fluxcore.kernels.kl_div_twice import kl_div_twice_kernel, kl_div_twice_merge_kernel
from fluxcore.kernels.logit_pairs import same_phase
from fluxcore.kernels.rows import (
    RowLayout,
    RowPlan,
    launch_options,
    on_device,
    plan_rows,
    programs_to_fill,
    row_layout,
)
from torch import Tensor

MAX_SPLITS = 64
REDUCTIONS = ("none", "sum", "mean", "token_mean")
DIRECTIONS = ("policy_ref", "ref_policy", "jsd")


@triton.jit(do_not_specialize=["N"])
def kl_div_total_kernel(
    rows_ptr, weight_ptr, loss_ptr, totals_ptr, N,
    REDUCTION: tl.constexpr, WEIGHTED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # totals [1] = what the reduction divides by; loss [] = sum of rows [N] / that, NaN if it is 0. One program, so that
    # the order is fixed; float64. REDUCTION: 0 none (the rows are the loss), 1 sum, 2 mean, 3 token_mean.
    total = tl.full((), 1, tl.float64)
    if REDUCTION == 2 or (REDUCTION == 3 and not WEIGHTED):
        total = tl.full((), 1, tl.float64) * N
    if REDUCTION > 0:
        lane = tl.arange(0, BLOCK)
        loss = tl.zeros([BLOCK], tl.float64)
        weights = tl.zeros([BLOCK], tl.float64)
        for start in range(0, N, BLOCK):
            inside = start + lane < N
            loss += tl.load(rows_ptr + start + lane, mask=inside, other=0.0).to(tl.float64)
            if REDUCTION == 3 and WEIGHTED:
                weights += tl.load(weight_ptr + start + lane, mask=inside, other=0.0).to(tl.float64)
        if REDUCTION == 3 and WEIGHTED:
            total = tl.sum(weights, axis=0)
        value = tl.where(total == 0, float("nan"), tl.sum(loss, axis=0) / tl.where(total == 0, 1.0, total))
        tl.store(loss_ptr, value.to(loss_ptr.dtype.element_ty))
    tl.store(totals_ptr, total.to(totals_ptr.dtype.element_ty))


def launch_kl_div_fwd(
    logits: Tensor,
    ref_logits: Tensor,
    token_weight: Tensor | None,
    direction: str,
    beta: float,
    reduction: str,
    temperature: float,
    loss: Tensor,
    state: Tensor,
    totals: Tensor,
) -> None:
    """Fill `loss`, `state` and `totals`, laid out as the op's schema says, from logits and ref_logits [N, V]."""
    N, V = logits.shape
    rows = loss if reduction == "none" else torch.empty(N, dtype=loss.dtype, device=loss.device)
    weight = rows if token_weight is None else token_weight
    with on_device(logits):
        if N > 0:
            x, v = row_layout(logits), row_layout(ref_logits)
            programs = programs_to_fill(logits.device)
            results = (weight, rows, state)
            given: dict[str, int] = {"SCALED": temperature != 1, "WEIGHTED": token_weight is not None}
            refused = None
            if direction != "jsd":
                pair = (ref_logits, v, logits, x) if direction == "ref_policy" else (logits, x, ref_logits, v)
                plan = plan_rows(N, V, logits.element_size(), pair[1].edges, programs, MAX_SPLITS)
                refused = torch.empty(N, dtype=torch.int32, device=logits.device)
                swapped = {"SWAPPED": direction == "ref_policy"}
                _launch_near(plan, *pair, *results, refused, 1 / temperature, given | swapped)
            plan = plan_rows(N, V, logits.element_size(), x.edges, programs, MAX_SPLITS)
            given |= {"DIRECTION": DIRECTIONS.index(direction)}
            _launch_twice(plan, logits, x, ref_logits, v, *results, refused, 1 / temperature, beta, given)
        kl_div_total_kernel[(1,)](
            rows, weight, loss, totals, N, REDUCTION=REDUCTIONS.index(reduction), WEIGHTED=token_weight is not None,
            BLOCK=1024, num_warps=4,
        )  # fmt: skip


def _launch_near(
    plan: RowPlan, logits: Tensor, x: RowLayout, ref_logits: Tensor, v: RowLayout,
    weight: Tensor, rows: Tensor, state: Tensor, refused: Tensor, scale: float, given: dict[str, int],
) -> None:  # fmt: skip
    N, V = logits.shape
    partial = state
    if plan.splits > 1:
        partial = torch.empty((7, N, plan.splits), dtype=state.dtype, device=state.device)
    tensors = (x.base, v.base, weight, rows, state, refused, partial)
    where = (logits.stride(0), x.offset, ref_logits.stride(0), v.offset, N, V, scale)
    # Of the parts of a row with a temperature ptxas would spill two words on sm_100.
    crowded = logits.dtype == torch.float64 or (plan.splits > 1 and given["SCALED"] > 0)
    kl_div_near_kernel[plan.grid](
        *tensors, *where, **given, **_tiles(plan, x, v, logits, ref_logits, 32), **launch_options(crowded)
    )  # fmt: skip
    if plan.splits > 1:
        kl_div_near_merge_kernel[(N,)](*tensors, *where, **given, SPLITS=plan.splits, num_warps=1)


def _launch_twice(
    plan: RowPlan, logits: Tensor, x: RowLayout, ref_logits: Tensor, v: RowLayout,
    weight: Tensor, rows: Tensor, state: Tensor, refused: Tensor | None, scale: float, beta: float,
    given: dict[str, int],
) -> None:  # fmt: skip
    N, V = logits.shape
    partial = state
    if plan.splits > 1:
        partial = torch.empty((8, N, plan.splits), dtype=state.dtype, device=state.device)
    given = given | {"REFUSED_ONLY": refused is not None}
    results = (weight, rows, state, rows if refused is None else refused, partial)
    where = (logits.stride(0), x.offset, ref_logits.stride(0), v.offset, N, V, scale, beta)
    for reads in (3,) if plan.splits == 1 else (1, 2):
        kl_div_twice_kernel[plan.grid](
            x.base, v.base, *results, *where, **given, **_tiles(plan, x, v, logits, ref_logits, 16), READS=reads,
            **launch_options(crowded=True),
        )  # fmt: skip
    if plan.splits > 1:
        kl_div_twice_merge_kernel[(N,)](*results, N, scale, **given, SPLITS=plan.splits, num_warps=1)


def _tiles(
    plan: RowPlan, x: RowLayout, v: RowLayout, logits: Tensor, ref_logits: Tensor, per_lane: int
) -> dict[str, int]:
    """Tiles of at most `per_lane` pairs a lane."""
    return {
        "EDGES": x.edges, "SAME_PHASE": same_phase(x, v, logits.stride(0) - ref_logits.stride(0)), "VEC": x.vec,
        "ROWS": plan.rows, "LANES": plan.lanes, "DEPTH": min(plan.depth, max(1, per_lane // x.vec)),
        "SPLITS": plan.splits,
    }  # fmt: skip
