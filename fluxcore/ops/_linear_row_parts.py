"""Softmax statistics of rows whose classes come in chunks: each gives a row's state, and the states are merged.

Letters: N rows, V classes, C rows and K classes of a chunk. A state needs no other chunk's logits, so that parts of a
vocabulary may as well be on different machines: gather their `RowParts` and merge them in the order of their classes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fluxcore import reference
from fluxcore.ops import _softmax_stats_backends as row_kernels
from fluxcore.ops._linear_head import LinearHead
from fluxcore.ops._linear_rows import Rows, put, take, take_or_none
from fluxcore.reference import RowState, SoftmaxStats


class Statistics(NamedTuple):
    """Which ones, and of which logits: options of `fluxcore::softmax_stats_fwd`, top-k mass left out."""

    outputs: int
    temperature: float
    softcap: float
    """0 for none."""


class RowParts(NamedTuple):
    """State of rows over some of their classes, each [N] float64; sums are relative to m, as in `RowState`."""

    m: Tensor
    s: Tensor
    t: Tensor
    spread: Tensor
    x_y: Tensor
    """NaN where the target is not among these classes."""
    argmax: Tensor
    """int64, in all classes."""


def merge(first: RowParts, second: RowParts) -> RowParts:
    """State over the classes of both; those of `first` come first, so that it wins a tie.

    With d = m_low - m_high and a = e^d the sums of the part with the lower maximum move to the higher one; in none of
    them anything cancels, and the spread about the common mean is that of both parts and of their two means.
    """
    wins = (second.m > first.m) | (second.m.isnan() & ~first.m.isnan())
    high, low = ((torch.where(wins, a, b) for a, b in zip(*parts, strict=True)) for parts in _orders(first, second))
    m, s, t, spread, _, argmax = high
    low_m, low_s, low_t, low_spread, _, _ = low
    d = low_m - m
    a = d.exp()
    n, low_n = 1 + s, a * (1 + low_s)
    between = n * low_n / (n + low_n) * (low_t / (1 + low_s) + d - t / n).square()
    empty = low_m == -torch.inf  # a part whose logits are all -inf
    return RowParts(
        m=m,
        s=torch.where(empty, s, s + low_n),
        t=torch.where(empty, t, t + a * (low_t + d * (1 + low_s))),
        spread=torch.where(empty | (low_n == 0), spread, spread + a * low_spread + between),
        x_y=torch.where(first.x_y.isnan(), second.x_y, first.x_y),
        argmax=argmax,
    )


def _orders(first: RowParts, second: RowParts) -> tuple[tuple[RowParts, RowParts], tuple[RowParts, RowParts]]:
    return (second, first), (first, second)


def rows_over_all_classes(head: LinearHead, target: Tensor | None, statistics: Statistics) -> RowParts:
    """The state of every row of which the head makes products; others are 0. 2 N V D operations."""
    zero = torch.zeros(head.live.total, dtype=torch.float64, device=head.device)
    whole = RowParts(*(zero.clone() for _ in RowParts._fields))._replace(argmax=zero.long())
    for rows in head.chunks():
        merged = None
        for classes in head.class_chunks():
            part = _part(head, rows, classes, take_or_none(target, rows), statistics)
            merged = part if merged is None else merge(merged, part)
        assert merged is not None
        for to, value in zip(whole, merged, strict=True):
            put(to, rows, value)
    return whole


def _part(head: LinearHead, rows: Rows, classes: slice, target: Tensor | None, statistics: Statistics) -> RowParts:
    outputs, temperature, softcap = statistics
    own_target = None if target is None else target - classes.start
    logits = head.logits(rows, classes)
    _, argmax, state, _ = row_kernels.forward(logits, own_target, outputs, 0, temperature, softcap)
    m, s, t, spread, x_y, _ = state.double()
    if target is None:
        x_y = torch.full_like(m, torch.nan)
    else:
        x_y = torch.where((target >= classes.start) & (target < classes.stop), x_y, torch.nan)
    return RowParts(m, s, t, spread, x_y, argmax + classes.start)


def statistics_of(parts: RowParts, target: Tensor | None) -> SoftmaxStats:
    """Every statistic but top-k mass, [N] float64."""
    return reference.stats_from_state(row_state(parts), parts.x_y, None if target is None else target == parts.argmax)


def row_state(parts: RowParts) -> RowState:
    """As the reference has it; of a top k that nobody asked for."""
    nothing = torch.zeros_like(parts.m)
    return RowState(*parts[:4], nothing, nothing, parts.argmax, parts.argmax.unsqueeze(1))


def add_gradients(
    head: LinearHead, grads: Tensor, target: Tensor | None, parts: RowParts, statistics: Statistics
) -> None:
    """Take in what upstream gradients [outputs, N] make, 0 at dead rows. 2 N V D operations, and the head's own.

    The kernels are told of the whole row: its state, its largest logit and the target's. Where these two are of other
    classes they stand in columns behind the chunk's own, whose gradients are left out.
    """
    V, wide = head.classes, grads.dtype
    for rows in head.chunks():
        own = RowParts(*(take(value, rows) for value in parts))
        y = take_or_none(target, rows)
        state = torch.stack((*own[:4], own.x_y, torch.zeros_like(own.m))).to(wide)
        top_index = own.argmax.new_empty((own.m.shape[0], 0), dtype=torch.int32)
        for classes in head.class_chunks():
            K = classes.stop - classes.start
            logits = head.logits(rows, classes, extra=True)
            logits[:, K] = _before_transform(own.m, statistics)
            argmax = _place(own.argmax, classes, K)
            place_of_target = None
            if y is not None:
                is_class = (y >= 0) & (y < V)
                logits[:, K + 1] = torch.where(is_class, _before_transform(own.x_y, statistics), -torch.inf)
                elsewhere = torch.where(y == own.argmax, K, K + 1)
                place_of_target = torch.where(is_class, _place(y, classes, elsewhere), -1)
            gradient = row_kernels.backward(
                take(grads, rows, 1),
                logits,
                place_of_target,
                argmax,
                state,
                top_index,
                statistics.outputs,
                0,
                statistics.temperature,
                statistics.softcap,
                logits,
            )
            head.add(rows, gradient[:, :K], classes)


def _place(index: Tensor, classes: slice, elsewhere: int | Tensor) -> Tensor:
    """Column of the class `index` [C] in a chunk; `elsewhere` if it is not of these classes."""
    return torch.where((index >= classes.start) & (index < classes.stop), index - classes.start, elsewhere)


def _before_transform(x: Tensor, statistics: Statistics) -> Tensor:
    """The logit that softcap and temperature made x of."""
    x = x * statistics.temperature
    if not statistics.softcap:
        return x
    return statistics.softcap * (x / statistics.softcap).clamp(-1, 1).atanh()
