"""Cross entropy of rows of logits, with everything that training adds to it: the launchers.

Forward: totals (cross_entropy_totals.py), the rows (cross_entropy_kernels.py), the sum of their losses; when rows are
few their parts are merged, and their gradient is a launch of its own. Backward: one launch.
"""

from functools import cached_property
from typing import Any

import torch
import triton
from fluxcore.kernels.class_weights import launch_shift_weights
from fluxcore.kernels.cross_entropy_kernels import (
    cross_entropy_bwd_kernel,
    cross_entropy_fwd_kernel,
    cross_entropy_merge_kernel,
)
from fluxcore.kernels.cross_entropy_totals import cross_entropy_sum_kernel, cross_entropy_totals_kernel
from fluxcore.kernels.row_gradient import max_gradient_splits
from fluxcore.kernels.rows import (
    LANE_ELEMENTS,
    THREADS,
    RowLayout,
    RowPlan,
    launch_options,
    on_device,
    plan_rows,
    programs_to_fill,
    row_layout,
    transform_kind,
)
from fluxcore.kernels.softmax_stats import MAX_SPLITS
from torch import Tensor

PENALTY_BITS = {"": 0, "neg_entropy": 4, "neg_max_prob": 16, "non_max_sum": 32, "top_k_mass": 64}
TOTALS_BLOCK, TOTALS_WARPS = 2048, 8


def is_crowded(logits: Tensor, target: Tensor, weight: Tensor | None, link: str, top_k: int, softcap: float) -> bool:
    """Whether a program wants all registers that there are."""
    probabilities_and_more = target.is_floating_point() and (weight is not None or link == "stablemax")
    return top_k > 0 or softcap > 0 or logits.dtype == torch.float64 or probabilities_and_more


def threads_to_read_twice(logits: Tensor, crowded: bool) -> int:
    """Threads of a program that reads its row again for the gradient.

    A program of many threads leaves no room for others on its multiprocessor, so that all rows that are under way, and
    the gradients written meanwhile, fit into the L2 cache: up to 64 KB of a row for 128 threads.
    """
    row_bytes = logits.shape[1] * logits.element_size()
    most = 2 * THREADS if crowded else 4 * THREADS  # a crowded one needs 255 registers a thread
    wanted: int = THREADS * triton.next_power_of_2(max(1, row_bytes // 32768))
    return min(most, wanted)


def lane_elements(target: Tensor, weight: Tensor | None, link: str, label_smoothing: float) -> int:
    """Most elements of a short row that a thread takes in the forward pass.

    They stay in registers together with what goes with each: its probability, weight and logarithm of StableMax.
    """
    has_shares = target.is_floating_point() or label_smoothing > 0
    beside = target.is_floating_point() + (has_shares and weight is not None) + (has_shares and link == "stablemax")
    return LANE_ELEMENTS // 2 if beside >= 2 else LANE_ELEMENTS


class Call:
    """What the launches of one call have in common: their arguments and compile-time options."""

    def __init__(
        self,
        inputs: tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None],
        link: str,
        reduction: str,
        ignore_index: int,
        label_smoothing: float,
        lse_square_scale: float,
        penalty: str,
        penalty_coef: float,
        top_k: int,
        outputs: int,
        temperature: float,
        softcap: float,
    ) -> None:
        logits, target, weight, _, _ = inputs
        V = logits.shape[1]
        self.inputs, self.reduction, self.ignore_index = inputs, reduction, ignore_index
        self.logits, self.target, self.layout = logits, target, row_layout(logits)
        self.probabilities = target.is_floating_point()
        share = row_layout(target) if self.probabilities else RowLayout(target, 0, 1, False)
        smoothed = 2 if weight is not None else 1
        weights = 4 + 2 * (weight is not None) if self.probabilities else smoothed * (label_smoothing > 0)
        self.tensors = (self.layout.base, share.base, *inputs[2:])
        self.numbers = (
            *(logits.stride(0), self.layout.offset, target.stride(0), share.offset, *logits.shape, ignore_index),
            *(1 - label_smoothing, label_smoothing / V, lse_square_scale, penalty_coef, 1 / temperature, softcap),
        )
        vec = self.layout.vec
        self.outputs, self.top_k = outputs, top_k
        self.crowded = is_crowded(logits, target, weight, link, top_k, softcap)
        self.lane_elements = lane_elements(target, weight, link, label_smoothing)
        self.variant: dict[str, Any] = {
            "PENALTY": PENALTY_BITS[penalty],
            "WEIGHTS": weights,
            "STABLE": link == "stablemax",
            "TRANSFORM": transform_kind(temperature, softcap),
        }
        self.shape: dict[str, Any] = {
            "IN_PHASE": self.probabilities
            and share.offset == self.layout.offset
            and (target.stride(0) - logits.stride(0)) % vec == 0,
            "TOP_K": top_k,
            "EDGES": self.layout.edges,
            "SAME_PHASE": self.layout.offset == 0 and (logits.stride(0) - V) % vec == 0,
            "VEC": vec,
        }

    def plan(self, max_splits: int, threads: int = THREADS, per_lane: int = LANE_ELEMENTS) -> RowPlan:
        """The launch of a kernel over the rows."""
        layout, (N, V) = self.layout, self.logits.shape
        programs = programs_to_fill(self.logits.device)
        return plan_rows(N, V, self.logits.element_size(), layout.edges, programs, max_splits, threads, per_lane)

    @cached_property
    def shifted(self) -> Tensor | None:
        """The class weights where rows sum them, shifted for each row to read them by aligned vectors."""
        weight = self.inputs[2]
        if weight is None or not self.variant["WEIGHTS"] & 2:
            return None
        return launch_shift_weights(weight, self.layout)

    def launch_totals(self, totals: Tensor) -> None:
        """Fill `totals` [4]."""
        cross_entropy_totals_kernel[(1,)](
            *self.inputs[1:], totals, *self.logits.shape, self.ignore_index,
            MEAN=self.reduction == "mean", TOKEN_MEAN=self.reduction == "token_mean", PROBABILITIES=self.probabilities,
            BLOCK=TOTALS_BLOCK, num_warps=TOTALS_WARPS,
        )  # fmt: skip

    def launch_rows(
        self, loss: Tensor, stats: Tensor, argmax: Tensor, state: Tensor, top_index: Tensor, totals: Tensor,
        gradient: Tensor | None,
    ) -> None:  # fmt: skip
        """Fill everything but `totals`; `loss` [N]."""
        threads = THREADS if gradient is None else threads_to_read_twice(self.logits, self.crowded)
        # The top k of a row are found by one program.
        plan = self.plan(1 if self.top_k else MAX_SPLITS, threads, self.lane_elements)
        N, splits = self.logits.shape[0], plan.splits
        partial, partial_column = state, argmax
        if splits > 1:
            partial = state.new_empty((8 if self.variant["WEIGHTS"] else 5, N, splits))
            partial_column = torch.empty((N, splits), dtype=torch.int32, device=state.device)
        results = (loss, stats, argmax, state)
        options = {"OUTPUTS": self.outputs, "SPLITS": splits} | self.variant
        cross_entropy_fwd_kernel[plan.grid](
            *self.tensors, self.shifted, totals, *results, top_index, gradient, partial, partial_column, *self.numbers,
            **options, **self.shape, SLOTS=triton.next_power_of_2(max(1, self.top_k)), GRADIENT_SLOTS=self.slots(),
            ROWS=plan.rows, LANES=plan.lanes, DEPTH=plan.depth, GRADIENT_DEPTH=min(plan.depth, 32 // self.layout.vec),
            WHOLE_ROW=plan.regime == "rows", GRADIENT=gradient is not None and splits == 1,
            **launch_options(self.crowded or self.many_registers(threads), plan),
        )  # fmt: skip
        if splits > 1:
            cross_entropy_merge_kernel[(N,)](
                *self.tensors, totals, *results, partial, partial_column, *self.numbers, **options, num_warps=1
            )
            if gradient is not None:
                one = torch.ones((), dtype=state.dtype, device=state.device)
                self.launch_gradient(one, argmax, state, top_index, totals, gradient)

    def many_registers(self, threads: int) -> bool:
        """Whether ptxas would spill a few bytes of a forward pass rather than take as many registers as it needs."""
        weights, moments = self.variant["WEIGHTS"], (self.outputs | self.variant["PENALTY"]) & 12
        if self.variant["STABLE"]:
            return weights > 0 and threads == THREADS
        return weights & 6 > 0 or (moments > 0 and threads > THREADS)

    def launch_gradient(
        self, upstream: Tensor, argmax: Tensor, state: Tensor, top_index: Tensor, totals: Tensor, gradient: Tensor
    ) -> None:
        """Fill `gradient`, which may be the logits themselves."""
        plan = self.plan(max_gradient_splits(self.logits, gradient, self.top_k))
        # Of a gradient with loaded weights ptxas would spill two words on sm_80.
        crowded = self.crowded or self.variant["WEIGHTS"] & 6 > 0
        cross_entropy_bwd_kernel[plan.grid](
            upstream, *self.tensors, self.shifted, totals, argmax, state, top_index, gradient,
            upstream.stride(0) if upstream.dim() else 0, *self.numbers, **self.variant, **self.shape,
            SPLITS=plan.splits, SLOTS=self.slots(), ROWS=plan.rows, LANES=plan.lanes,
            DEPTH=min(plan.depth, 32 // self.layout.vec), **launch_options(crowded, plan),
        )  # fmt: skip

    def slots(self) -> int:
        """Places for the classes at which the gradient is replaced."""
        slots: int = triton.next_power_of_2(2 + self.top_k)
        return slots


def launch_cross_entropy_fwd(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    token_weight: Tensor | None,
    penalty_mask: Tensor | None,
    *rest: Any,
) -> None:
    """Fill the results of the op `cross_entropy_fwd`, laid out as its schema says.

    `rest` are the options in the order of the schema, then loss, stats, argmax, state, top_index, totals (an input for
    the reduction "given") and the gradient, or None for no gradient.
    """
    *options, loss, stats, argmax, state, top_index, totals, gradient = rest
    call = Call((logits, target, weight, token_weight, penalty_mask), *options)
    N = logits.shape[0]
    with on_device(logits):
        if call.reduction != "given":
            call.launch_totals(totals)
        rows = loss if loss.dim() else loss.new_empty((N,))
        if N > 0:
            call.launch_rows(rows, stats, argmax, state, top_index, totals, gradient)
        if loss.dim() == 0:
            cross_entropy_sum_kernel[(1,)](rows, totals, loss, N, BLOCK=TOTALS_BLOCK, num_warps=TOTALS_WARPS)


def launch_cross_entropy_bwd(
    upstream: Tensor,
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    token_weight: Tensor | None,
    penalty_mask: Tensor | None,
    argmax: Tensor,
    state: Tensor,
    top_index: Tensor,
    totals: Tensor,
    *rest: Any,
) -> None:
    """Fill the gradient for `upstream`, [] or [N], from what the forward pass left; `rest` are the options, then it."""
    *options, gradient = rest
    if logits.shape[0] == 0:
        return
    call = Call((logits, target, weight, token_weight, penalty_mask), *options)
    with on_device(logits):
        call.launch_gradient(upstream, argmax, state, top_index, totals, gradient)
