"""Before and after the rows of `cross_entropy`: what a reduction divides by, and the sum of the rows' losses.

Either is one program that adds in a fixed order in float64, over a few bytes a row.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["N", "V", "ignore_index"])
def cross_entropy_totals_kernel(
    target_ptr, weight_ptr, token_weight_ptr, mask_ptr, totals_ptr, N, V, ignore_index: tl.int64,
    MEAN: tl.constexpr, TOKEN_MEAN: tl.constexpr, PROBABILITIES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # What loss, z-loss and penalty are divided by, and the sum of the class weights.
    #
    #   target [N] int64, or probabilities (then unread); weight [V], token_weight [N], mask [N], or None
    #   totals [4]     grid (1,)     reads at most 24 N + 8 V bytes (nothing of the rows without MEAN or TOKEN_MEAN)
    lane = tl.arange(0, BLOCK)
    kind: tl.constexpr = totals_ptr.dtype.element_ty
    one = tl.full((), 1.0, tl.float64)
    by_loss, by_lse, by_penalty, every_weight = one, one, one, one * V
    if weight_ptr is not None:
        sums = tl.zeros([BLOCK], tl.float64)
        for start in range(0, V, BLOCK):
            sums += tl.load(weight_ptr + start + lane, mask=start + lane < V, other=0.0).to(tl.float64)
        every_weight = tl.sum(sums, axis=0)
    if MEAN or TOKEN_MEAN:
        owns = tl.zeros([BLOCK], tl.float64)
        counts = tl.zeros([BLOCK], tl.float64)
        tokens = tl.zeros([BLOCK], tl.float64)
        masked = tl.zeros([BLOCK], tl.float64)
        for start in range(0, N, BLOCK):
            rows = start + lane
            counting = rows < N
            if not PROBABILITIES:
                y = tl.load(target_ptr + rows, mask=counting, other=-1)
                counting = counting & (y != ignore_index) & (y >= 0) & (y < V)
            here = tl.where(counting, 1.0, 0.0).to(tl.float64)
            counts += here
            own = here
            if (not PROBABILITIES) and MEAN and (weight_ptr is not None):
                own = tl.load(weight_ptr + y, mask=counting, other=0.0).to(tl.float64)
            owns += own
            token = here
            if token_weight_ptr is not None:
                token = tl.load(token_weight_ptr + rows, mask=counting, other=0.0).to(tl.float64)
            tokens += token
            if mask_ptr is not None:
                token *= tl.load(mask_ptr + rows, mask=counting, other=0.0).to(tl.float64)
            masked += token
        by_loss = tl.sum(owns, axis=0) if MEAN else tl.sum(tokens, axis=0)
        by_lse = tl.sum(counts, axis=0) if MEAN else by_loss
        by_penalty = tl.sum(masked, axis=0)
    tl.store(totals_ptr, by_loss.to(kind))
    tl.store(totals_ptr + 1, by_lse.to(kind))
    tl.store(totals_ptr + 2, by_penalty.to(kind))
    tl.store(totals_ptr + 3, every_weight.to(kind))


@triton.jit(do_not_specialize=["N"])
def cross_entropy_sum_kernel(rows_ptr, totals_ptr, loss_ptr, N, BLOCK: tl.constexpr):
    # loss [] = sum of the rows' losses [N], NaN if there is nothing to divide by; grid (1,), reads N.
    lane = tl.arange(0, BLOCK)
    sums = tl.zeros([BLOCK], tl.float64)
    for start in range(0, N, BLOCK):
        sums += tl.load(rows_ptr + start + lane, mask=start + lane < N, other=0.0).to(tl.float64)
    loss = tl.where(tl.load(totals_ptr) == 0, float("nan"), tl.sum(sums, axis=0))
    tl.store(loss_ptr, loss.to(loss_ptr.dtype.element_ty))
