"""Gradient filtering: classes whose gradients are small take no part in the products of a backward pass.

Letters: N rows, V classes, D hidden size; R the rows of a chunk, G the gradient of the logits, w_j the rows of the
weight, X_R those of the input, |.| the Euclidean and the Frobenius norm. Of each chunk those classes are left out of
which every |G_ij|, i in R, is below a threshold. What they would have added are sums of rank-one terms g_Rj w_j^T, to
the gradient of X_R, and of rows X_R^T g_Rj, to that of the weight. By the triangle inequality the errors are at most

    by input:  sqrt(sum_R (sum_j |g_Rj| |w_j|)^2)
    by weight: sqrt(sum_j (sum_R |g_Rj| |X_R X_R^T|^(1/2))^2)

each inner sum over what was left out. The largest singular value of X_R, by which X_R^T lengthens g_Rj, is at most the
root of |X_R X_R^T|, whose square is the sum of all singular values to the fourth power.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

SUMS = 4
"""Numbers that the ops give: bounds by input and by weight, elements of G that were left out, and all."""
SLAB = 4096
"""Most classes whose part of G, weight and sums is gathered at once."""
_WORTH_GATHERING = 0.75  # of the classes; of more the products take longer with the copies than without them
_ROWS_AT_ONCE = 16  # of G on a CPU, which then stay in the cache
_LEAST_SQUARE = 1e-15  # squares of numbers that are smaller get lost in float32


class GradientBound(NamedTuple):
    """What a `GradientFilter` has left out; each [], float64."""

    input: Tensor
    """Frobenius norm of the error of the gradient by `input` is at most this."""
    weight: Tensor
    """And of that by `linear_weight`."""
    left_out: Tensor
    """Share of the gradients of logits that took part in no product, within [0, 1]; 0 before the first pass."""


class GradientFilter:
    """Lets `linear_cross_entropy` skip products with gradients that are small, and bounds what that changes.

    In a chunk of rows (`LinearOptions.rows`) a class takes part in the products that make the gradients of `input` and
    `linear_weight` only if the loss' gradient by one of its logits there is `threshold` or more, or NaN. These are the
    gradients as they are, penalties and reduction included: of a mean over N rows a probability p makes p / N. The
    gradient of `linear_bias` is whole. Where hardly any class would be left out of a chunk, none is.

    The bounds grow with each backward pass just as the `.grad` of hidden states and weight do, upstream gradients and
    loss scales included: read them when you would read `.grad`, and `reset` where you zero it. `torch.autograd.grad`
    leaves them as they are. Rounding comes on top. Where the backward pass makes the gradients (reduction "none",
    float16), they are compared with the upstream gradient in them; otherwise those of the loss itself are.

    On a GPU the CPU has to know which classes to multiply: it waits once a chunk.

    Args:
        threshold: Finite and >= 0; 0 leaves nothing out.
        device: Of the hidden states; None for PyTorch's default.

    Raises:
        ValueError: a threshold out of range.
    Source: gradient filtering of cut cross entropy (arXiv:2411.09009), there of blocks and without a bound; the bounds
        are derived in `fluxcore/ops/_linear_filter.py`.
    """

    def __init__(self, threshold: float, *, device: torch.device | str | None = None) -> None:
        if not 0 <= threshold < math.inf:
            raise ValueError(f"`threshold` must be finite and >= 0, got {threshold}")
        self.threshold = float(threshold)
        self.sums = torch.zeros(SUMS, dtype=torch.float64, device=device, requires_grad=True)
        """[4], zeros; autograd adds what each pass leaves out to its `.grad`."""

    @property
    def bound(self) -> GradientBound:
        """Of all backward passes since the last `reset`. Nothing waits for the GPU."""
        sums = self.sums.detach() if self.sums.grad is None else self.sums.grad.clone()
        return GradientBound(sums[0], sums[1], sums[2] / sums[3].clamp(min=1))

    def reset(self) -> None:
        """Forget what was left out."""
        self.sums.grad = None


class LeftOut:
    """What a pass leaves out, and the bounds of it."""

    def __init__(self, threshold: float, hidden: Tensor, weight: Tensor, *, by_input: bool, by_weight: bool) -> None:
        """`hidden` [N, D] and `weight` [V, D]; gradients are made by one of them at least."""
        self._threshold = threshold
        self._wide = torch.promote_types(weight.dtype, torch.float32)
        self._weight_norms = torch.linalg.vector_norm(weight, dim=1, dtype=self._wide) if by_input else None
        self._by_row = _sums(hidden.shape[0], hidden.device)
        self._by_class = _sums(weight.shape[0], hidden.device) if by_weight else None
        self._elements = [0, 0]  # left out, all

    def kept(self, rows: slice | Tensor, gradient: Tensor, x: Tensor | None, classes: slice) -> Tensor | None:
        """Indices of the classes that take part, among those of the chunk; None for all.

        `gradient` [C, K] of the logits of `rows` and `classes`; `x` [C, D], of use for the gradient by weight.
        """
        C, K = gradient.shape
        largest, norms = _column_norms(gradient, self._wide)
        kept = (largest < self._threshold).logical_not().nonzero().squeeze(1)
        self._elements[1] += C * K
        if kept.shape[0] > _WORTH_GATHERING * K:
            return None
        self._elements[0] += C * (K - kept.shape[0])
        norms = norms.index_fill(0, kept, 0)
        if self._weight_norms is not None:
            longest = self._weight_norms[classes].index_fill(0, kept, 0)
            self._by_row[rows] += (norms.double() @ longest.double()) / math.sqrt(C)
        if x is not None and self._by_class is not None:
            self._by_class[classes] += norms * _root_of_gram(x.to(self._wide))
        return kept

    def sums(self) -> Tensor:
        """[4]: a chunk's bound is spread over its rows, so that they add up over its classes and not over the rows."""
        by_weight = 0 * self._by_row.sum() if self._by_class is None else torch.linalg.vector_norm(self._by_class)
        counts = torch.tensor(self._elements, dtype=torch.float64).to(self._by_row.device, non_blocking=True)
        return torch.cat((torch.stack((torch.linalg.vector_norm(self._by_row), by_weight)), counts))


def nothing_left_out(device: torch.device) -> Tensor:
    """As `LeftOut.sums` of a pass without a filter."""
    return _sums(SUMS, device)


def times_upstream(sums: Tensor, upstream: Tensor) -> Tensor:
    """`LeftOut.sums` of the gradients that a scalar upstream one is to multiply."""
    return torch.cat((sums[:2] * upstream.abs(), sums[2:]))


def _sums(count: int, device: torch.device) -> Tensor:
    return torch.zeros(count, dtype=torch.float64, device=device)


def _column_norms(gradient: Tensor, wide: torch.dtype) -> tuple[Tensor, Tensor]:
    """Largest absolute value and Euclidean norm of each column of `gradient` [C, K], each [K] in `wide`."""
    C, K = gradient.shape
    largest, squares = gradient.new_zeros((2, K), dtype=wide).unbind(0)
    for part in gradient.split(_ROWS_AT_ONCE if gradient.device.type == "cpu" else C):
        part = part.to(wide).abs()
        largest = torch.maximum(largest, part.amax(0))
        squares += part.square_().sum(0)
    return largest, torch.where(largest < _LEAST_SQUARE, math.sqrt(C) * largest, squares.sqrt())


def _root_of_gram(x: Tensor) -> Tensor:
    """|X X^T|^(1/2) = |X^T X|^(1/2) of `x` [C, D], from the smaller one."""
    C, D = x.shape
    root: Tensor = torch.linalg.vector_norm(x.mm(x.t()) if C <= D else x.t().mm(x)).sqrt()
    return root
