"""What `cross_entropy` makes of the sums of a row: its loss, and its gradient by way of row_gradient.py.

Each row [ROWS] has a `terms` tuple: target y (-1 with probabilities), token weight a, own = (1 - label_smoothing) w_y,
penalty mask, whether it is dead (exactly 0, never read unless for statistics), whether its target is no class.
`numbers` are (1 - label_smoothing, label_smoothing / V, lse_square_scale, penalty coefficient) in the rows' type, and
`tensors` (target, class weights w, token weights, penalty mask, totals), None where absent.

PENALTY is the bit of OUTPUTS (softmax_stats.py) of the statistic that is penalised: 4, 16, 32, 64, or 0.
"""

import triton
import triton.language as tl
from fluxcore.kernels.class_weights import weights_at
from fluxcore.kernels.row_gradient import gradient_of_rows, replace_special, special_classes, sweep_rows
from fluxcore.kernels.rows import log1p
from fluxcore.kernels.stablemax import log_sigma, sigma, slopes


@triton.jit
def numbers_as(totals_ptr, keep, even, lse_square_scale, coef):
    kind: tl.constexpr = totals_ptr.dtype.element_ty
    return (
        tl.full((), keep, kind),
        tl.full((), even, kind),
        tl.full((), lse_square_scale, kind),
        tl.full((), coef, kind),
    )


@triton.jit
def terms_of_rows(tensors, rows, V, ignore_index, numbers, PROBABILITIES: tl.constexpr):
    target_ptr, weight_ptr, token_weight_ptr, mask_ptr, totals_ptr = tensors
    own = numbers[0] + tl.zeros(rows.shape, totals_ptr.dtype.element_ty)
    a, mask = tl.full(own.shape, 1.0, own.dtype), tl.full(own.shape, 1.0, own.dtype)
    if token_weight_ptr is not None:
        a = tl.load(token_weight_ptr + rows)
    if mask_ptr is not None:
        mask = tl.load(mask_ptr + rows)
    y = tl.full(rows.shape, -1, tl.int64)
    dead = a == 0
    invalid = dead & False
    if not PROBABILITIES:
        y = tl.load(target_ptr + rows)
        dead = dead | (y == ignore_index)
        within = (y >= 0) & (y < V)
        invalid = ~dead & ~within
        if weight_ptr is not None:
            own *= tl.load(weight_ptr + y, mask=within, other=0.0)
    return y, a, own, mask, dead, invalid


@triton.jit
def softmax_loss(terms, numbers, every_weight, m, s, x_y, column, k, r, b, WEIGHTS: tl.constexpr):
    # Sum of the classes' w (-log p) [ROWS].
    log_n = log1p(s)
    if WEIGHTS & 4:
        loss = (k + r) * log_n - b
    else:
        own = terms[2]
        loss = tl.where(own == 0, 0.0, own * (log_n - tl.where(terms[0] == column, 0.0, x_y - m)))
        if WEIGHTS:
            loss += numbers[1] * (every_weight * log_n - b)
    return tl.where(s != s, s, loss)


@triton.jit
def penalty_of_rows(s, t, inside, outside, PENALTY: tl.constexpr):
    n = 1 + s
    if PENALTY == 4:
        value = log1p(s) - t / n
    elif PENALTY == 16:
        value = -1 / n
    elif PENALTY == 32:
        value = s / n
    else:
        value = outside / (inside + outside)
    return value


@triton.jit
def stablemax_state(m, c, s, x_y, PROBABILITIES: tl.constexpr):
    # sigma of the class that is kept out (the target, or with probabilities the argmax), and the sum of all others;
    # both 0 for a row of -inf, NaN for a NaN or +inf. The sum of all less sigma_y cancels only if y is the maximum;
    # then it is left out.
    top = sigma(m)
    others = s + (c - 1) * top
    kept = top
    if not PROBABILITIES:
        kept = sigma(x_y)
        others = tl.where(x_y == m, others, s + c * top - kept)
    others = tl.where((m != m) | (m == float("inf")), float("nan"), others)
    return tl.where(c == 0, 0.0, kept), tl.where(c == 0, 0.0, others)


@triton.jit
def stablemax_loss(terms, numbers, every_weight, m, kept, others, k, r, b, c_top, WEIGHTS: tl.constexpr):
    odds = others / kept
    surprise = tl.where(odds == float("inf"), odds, log1p(odds))
    log_sum = tl.log(others + kept)
    if WEIGHTS & 4:
        ties = k - c_top
        mass = r + ties
        loss = tl.where(mass == 0, 0.0, mass * log_sum) - (b + tl.where(ties == 0, 0.0, ties * log_sigma(m)))
        loss += tl.where(c_top == 0, 0.0, c_top * surprise)
    else:
        own = terms[2]
        loss = tl.where(own == 0, 0.0, own * surprise)
        if WEIGHTS:
            loss += numbers[1] * (every_weight * log_sum - b)
    return tl.where(odds != odds, odds, loss)


@triton.jit
def store_state(state_ptr, rows, live, N, m, s, t, x_y, inside, outside, rest):
    row_count = tl.cast(N, tl.int64)
    state = state_ptr + rows
    tl.store(state, m, mask=live)
    tl.store(state + row_count, s, mask=live)
    tl.store(state + 2 * row_count, t, mask=live)
    tl.store(state + 3 * row_count, x_y, mask=live)
    tl.store(state + 4 * row_count, inside, mask=live)
    tl.store(state + 5 * row_count, outside, mask=live)
    tl.store(state + 6 * row_count, rest, mask=live)


@triton.jit
def divided(loss, totals_ptr, terms, numbers, lse, penalty, PENALTY: tl.constexpr):
    # The loss of each row with z-loss and penalty, in shares of what the reduction divides by.
    _, a, _, mask, dead, invalid = terms
    row = loss / tl.load(totals_ptr)
    row += tl.where(numbers[2] == 0, 0.0, numbers[2] * lse * lse / tl.load(totals_ptr + 1))
    if PENALTY:
        by = tl.load(totals_ptr + 2)
        factor = tl.where(by == 0, 0.0, numbers[3] * mask / by)
        row += tl.where(factor == 0, 0.0, factor * penalty)
    return tl.where(dead, 0.0, tl.where(invalid, float("nan"), a * row))


@triton.jit
def cross_entropy_gradient(
    x_ptr, dx_ptr, top_index_ptr, tensors, terms, numbers, source, upstream,
    rows, live, split, from_tile, to_tile, begin, first, count, V, scale, softcap,
    m, s, t, outside, rest, argmax,
    PENALTY: tl.constexpr, WEIGHTS: tl.constexpr, IN_PHASE: tl.constexpr, STABLE: tl.constexpr, TOP_K: tl.constexpr,
    SLOTS: tl.constexpr, TRANSFORM: tl.constexpr, EDGES: tl.constexpr, SAME_PHASE: tl.constexpr, VEC: tl.constexpr,
    LANES: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    # Store the gradient of the rows for `upstream` [ROWS], from their state.
    y, a, own, mask, dead, invalid = terms
    totals_ptr = tensors[4]
    g = upstream * a
    g_ce = tl.where(invalid, float("nan"), g / tl.load(totals_ptr))
    nothing = dead | (upstream == 0)
    none = tl.zeros_like(m)
    by_lse, g_weights = none, none
    if WEIGHTS & 4:
        y = argmax
        own = none
        g_weights = -g_ce
    elif WEIGHTS:
        g_weights = -g_ce * numbers[1]
        by_lse = g_ce * numbers[1] * tl.load(totals_ptr + 3)
    if STABLE:
        stablemax_gradient(
            x_ptr, dx_ptr, rows, live, split, from_tile, to_tile, begin, first, count, V, source,
            m, s, y, g_ce * own, by_lse, g_weights, rest, nothing | (m + s == 0),
            WEIGHTS, IN_PHASE, EDGES, SAME_PHASE, VEC, LANES, DEPTH,
        )  # fmt: skip
    else:
        lse = m + log1p(s)
        by_lse += tl.where(numbers[2] == 0, 0.0, g * 2 * numbers[2] * lse / tl.load(totals_ptr + 1))
        by_penalty = none
        if PENALTY:
            by = tl.load(totals_ptr + 2)
            by_penalty = tl.where(mask == 0, 0.0, g * numbers[3] * mask / tl.where(by == 0, float("inf"), by))
        n = 1 + s
        gradient_of_rows(
            x_ptr, dx_ptr, top_index_ptr, rows, live, split, from_tile, to_tile, begin, first, count, V, scale, softcap,
            source, m, s, t / n, none, outside / n, argmax, y, by_lse, -g_ce * own,
            by_penalty if PENALTY == 4 else none, none, -by_penalty if PENALTY & 48 else none,
            -by_penalty if PENALTY == 64 else none, g_weights, rest, nothing | (m == -float("inf")),
            PENALTY | (0 if WEIGHTS & 4 else 2), WEIGHTS, IN_PHASE, TOP_K, SLOTS, TRANSFORM, EDGES, SAME_PHASE, VEC,
            LANES, DEPTH,
        )  # fmt: skip


@triton.jit
def stablemax_gradient(
    x_ptr, dx_ptr, rows, live, split, from_tile, to_tile, begin, first, count, V, source,
    sigma_kept, others, kept, g_own, by_log_sum, g_weights, rest, nothing,
    WEIGHTS: tl.constexpr, IN_PHASE: tl.constexpr, EDGES: tl.constexpr, SAME_PHASE: tl.constexpr, VEC: tl.constexpr,
    LANES: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    # The same for StableMax, where class `kept` is replaced. by_log_sum is by the logarithm of the sum, but for what
    # g_own, the share of the target, has in it.
    total = others + sigma_kept
    special, x, known, _ = special_classes(x_ptr, dx_ptr, rows, begin, V, kept, kept, nothing, 0, 2)
    slope, log_slope = slopes(x)
    weights, everything = slope, by_log_sum
    if WEIGHTS:
        weights = weights_at(special, known & ~nothing[:, None], x, source[2][:, None], source, WEIGHTS)
        if WEIGHTS & 4:
            everything = -g_weights * (rest + tl.max(weights, axis=1))
    sweep_rows(
        x_ptr, dx_ptr, rows, live, split, from_tile, to_tile, begin, first, count, V, 1.0, 0.0, source,
        total, total, (everything + g_own) / total, total, total, g_weights, nothing,
        0, WEIGHTS, IN_PHASE, True, 0, EDGES, SAME_PHASE, VEC, LANES, DEPTH,
    )  # fmt: skip
    if WEIGHTS & 4:
        dx = (g_weights / total)[:, None] * (weights * (others / sigma_kept)[:, None] - rest[:, None]) * slope
    else:
        dx = log_slope * (-g_own * (others / total))[:, None] + slope * (by_log_sum / total)[:, None]
        if WEIGHTS:
            dx += g_weights[:, None] * weights * log_slope
    dx = tl.where(nothing[:, None] | (x == -float("inf")), 0.0, dx)
    replace_special(
        dx_ptr, dx, special, known, rows, live, split, from_tile, to_tile, begin, first, count, V, VEC, LANES, DEPTH
    )
