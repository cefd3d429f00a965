"""Logits X W^T + b of some rows and classes at a time, and the gradients by X, W and b of what is made of them.

Letters: N rows, V classes, D hidden size, C rows and K classes of a chunk.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fluxcore.ops._linear_filter import SLAB, LeftOut, nothing_left_out
from fluxcore.ops._linear_rows import LiveRows, Rows, most_products, put, slices, take
from fluxcore.ops._linear_schedule import Passes, Request, extra_columns, padding_columns, tile_of


class Plan(NamedTuple):
    """How a pass is run; arguments of the ops in the order of their schemas."""

    workspace_bytes: int
    """0: the default."""
    rows: int
    """0: chosen."""
    classes: int
    """0: chosen."""
    fused: bool | None
    """Whether a pass without gradients stores no logits; None: chosen."""
    live_rows: int
    """At most so many rows are not dead; 0: not said."""
    filter_below: float
    """Threshold of a `GradientFilter`; 0: none."""
    accumulate: torch.dtype | None
    """None: at least float32."""
    compute_dtype: torch.dtype | None
    """Of the matrix products and the logits; None: that of the input."""


class Wanted(NamedTuple):
    """Of which gradients are made."""

    input: bool
    weight: bool
    bias: bool


class Gradients(NamedTuple):
    """Those not wanted have no rows."""

    input: Tensor
    """[N, D]"""
    weight: Tensor
    """[V, D]"""
    bias: Tensor
    """[V]"""


PLAN_SCHEMA = (
    "int workspace_bytes, int rows, int classes, bool? fused, int live_rows, float filter_below,"
    " ScalarType? accumulate, ScalarType? compute_dtype"
)


class LinearHead:
    """The products of one forward or backward pass.

    Memory for the logits of a chunk is taken once, and their gradient is written over them. A gradient is summed over
    the chunks in float32 at least, so that its rounding does not grow with their number.
    """

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        plan: Plan,
        wanted: Wanted,
        *,
        others: int = 0,
        mergeable: bool = False,
        at_once: bool = False,
    ) -> None:
        """`hidden` [N, D], `weight` [V, D], `bias` [V].

        The workspace also has to hold the logits of `others` heads. `mergeable` and `at_once` are as in `Passes`.
        """
        dtype = plan.compute_dtype or hidden.dtype
        self._hidden, self._original = hidden, Gradients(hidden, weight, weight if bias is None else bias)
        self.dtype, self._wanted = dtype, wanted
        self._weight = weight.to(dtype)
        self._bias = None if bias is None else bias.to(dtype)
        self._accumulate = plan.accumulate or torch.promote_types(dtype, torch.float32)
        N, V = hidden.shape[0], weight.shape[0]
        self.live = LiveRows(N)
        """Set before the first chunk."""
        passes = Passes(
            wanted.input, wanted.weight, any(wanted), heads=1 + others, mergeable=mergeable, at_once=at_once
        )
        request = Request(plan.workspace_bytes, plan.rows, plan.classes)
        self.tile = tile_of(
            most_products(N, plan.live_rows), V, dtype, hidden.device.type, passes, request, self._accumulate
        )
        self.classes, self.device = V, hidden.device
        self.is_whole = self.tile.classes == V
        """Whether chunks have all classes."""
        self.padding = padding_columns(V, dtype, passes) if self.is_whole else 0
        """Columns of -inf behind all classes."""
        self._extra = self.padding if self.is_whole else extra_columns(dtype, passes)
        count = min(self.tile.rows, N) * (self.tile.classes + self._extra)
        self._logits = torch.empty(count, dtype=dtype, device=hidden.device)
        self._sums = Gradients(
            self._zeros(hidden, wanted.input, hidden.dtype if self.is_whole else self._accumulate),
            self._zeros(weight, wanted.weight, self._accumulate),
            self._zeros(self._original.bias, wanted.bias, self._accumulate),
        )
        is_filtered = plan.filter_below > 0 and (wanted.input or wanted.weight)
        self._left_out = (
            LeftOut(plan.filter_below, hidden, self._weight, by_input=wanted.input, by_weight=wanted.weight)
            if is_filtered
            else None
        )

    def _zeros(self, like: Tensor, wanted: bool, dtype: torch.dtype) -> Tensor:
        shape = like.shape if wanted else (0, *like.shape[1:])
        return torch.zeros(shape, dtype=dtype, device=like.device)

    def chunks(self) -> Iterator[Rows]:
        """Chunks of the rows of which products are made."""
        return self.live.chunks(self.tile.rows)

    def class_chunks(self) -> Iterator[slice]:
        """Ranges of classes, in order."""
        return slices(self._weight.shape[0], self.tile.classes)

    def logits(self, rows: Rows, classes: slice = slice(None), *, extra: bool = False) -> Tensor:
        """[C, K], in memory that the next chunk overwrites; with `extra`, columns of -inf behind them.

        Of all classes, with `padding` columns of -inf behind them.
        """
        x, weight = take(self._hidden, rows).to(self.dtype), self._weight[classes]
        K = weight.shape[0]
        extra = extra or self.is_whole
        columns = K + (self._extra if extra else 0)
        memory = self._logits[: x.shape[0] * columns].view(x.shape[0], columns)
        if extra:
            memory[:, K:] = -torch.inf
        if self._bias is None:
            torch.mm(x, weight.t(), out=memory[:, :K])
        else:
            torch.addmm(self._bias[classes], x, weight.t(), out=memory[:, :K])
        return memory

    def places(self, target: Tensor | None, ignore_index: int = -1) -> Tensor | None:
        """Columns of the classes `target` [C] in logits of all classes: what is no class is in no padding either."""
        if not self.padding or target is None:
            return target
        return torch.where((target < self.classes) | (target == ignore_index), target, target + self.padding)

    def padded(self, by_class: Tensor | None) -> Tensor | None:
        """`by_class` [V], and 0 for the padding."""
        return (
            by_class if not self.padding or by_class is None else torch.nn.functional.pad(by_class, (0, self.padding))
        )

    def add(self, rows: Rows, gradient: Tensor, classes: slice = slice(None)) -> None:
        """Take in the gradient [C, K] of the logits of `rows`, which is 0 at dead rows, whatever X holds.

        Columns of padding are passed by.
        """
        gradient = gradient[:, : self._weight[classes].shape[0]]
        x = self._live_input(rows) if self._wanted.weight else None
        kept = None if self._left_out is None else self._left_out.kept(rows, gradient, x, classes)
        if kept is not None:
            self._add_kept(rows, gradient, x, classes, kept)
        else:
            if self._wanted.input:
                self._add_to_input(rows, gradient, self._weight[classes])
            if x is not None:
                _add_product(self._sums.weight[classes], gradient, x)
        if self._wanted.bias:
            self._sums.bias[classes].add_(gradient.sum(0, dtype=self._accumulate))

    def _live_input(self, rows: Rows) -> Tensor:
        return self.live.without_dead(take(self._hidden, rows).to(self.dtype), rows)

    def _add_kept(self, rows: Rows, gradient: Tensor, x: Tensor | None, classes: slice, kept: Tensor) -> None:
        """Products with the classes `kept` of the chunk's, gathered some at a time."""
        own_weight, own_sums = self._weight[classes], self._sums.weight[classes]
        shape = gradient.shape[0], own_weight.shape[1]
        if self._wanted.input and not self.is_whole:
            sums = take(self._sums.input, rows)
        else:
            sums = gradient.new_zeros(shape, dtype=self._accumulate)
        for part in kept.split(SLAB):
            own = gradient.index_select(1, part)
            if self._wanted.input:
                _add_product(sums, own.t(), own_weight.index_select(0, part))
            if x is not None:
                of_part = own_sums.index_select(0, part)
                _add_product(of_part, own, x)
                own_sums.index_copy_(0, part, of_part)
        if self._wanted.input:
            put(self._sums.input, rows, sums)

    def left_out(self) -> Tensor:
        """[4], as `LeftOut.sums`."""
        return nothing_left_out(self.device) if self._left_out is None else self._left_out.sums()

    def _add_to_input(self, rows: Rows, gradient: Tensor, weight: Tensor) -> None:
        if self.is_whole:
            put(self._sums.input, rows, torch.mm(gradient, weight))
        else:
            sums = take(self._sums.input, rows)
            _add_product(sums, gradient.t(), weight)
            if isinstance(rows, Tensor):
                put(self._sums.input, rows, sums)

    def gradients(self) -> Gradients:
        """In the dtypes of input, weight and bias; NaN where rows are missing, and of class 0."""
        if self.live.missing is not None:
            if self._wanted.input:
                self._sums.input.masked_fill_(self.live.missing.unsqueeze(1), torch.nan)
            for value in self._sums[1:]:
                value[:1].masked_fill_(self.live.missing.any(), torch.nan)
        return Gradients(*(value.to(like.dtype) for value, like in zip(self._sums, self._original, strict=True)))


def no_gradients(hidden: Tensor, weight: Tensor, bias: Tensor | None, wanted: Wanted) -> Gradients:
    """Uninitialised memory of the shapes and dtypes of `LinearHead.gradients`."""
    values = (hidden, weight, weight.new_empty((weight.shape[0],)) if bias is None else bias)
    return Gradients(
        *(torch.empty_like(v) if w else v.new_empty((0, *v.shape[1:])) for v, w in zip(values, wanted, strict=True))
    )


def _add_product(to: Tensor, gradient: Tensor, x: Tensor) -> None:
    """to [V, D] += gradient [C, V]^T x [C, D], summed in the dtype of `to`."""
    if to.dtype == gradient.dtype:
        to.addmm_(gradient.t(), x)
    elif gradient.device.type == "cuda":
        torch.addmm(to, gradient.t(), x, out_dtype=to.dtype, out=to)
    else:
        x = x.to(to.dtype)
        for slab, part in zip(to.split(_SLAB), gradient.split(_SLAB, dim=1), strict=True):
            slab.addmm_(part.t().to(to.dtype), x)


_SLAB = 8192  # classes at once, so that what is converted stays small
