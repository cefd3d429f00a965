"""Projection of a gradient away from its weight, and the AdamW step along it, in float64.

The arithmetic is in float64 whatever the dtypes: where the gradient is all but parallel to the weight, float32 would
leave nothing but rounding.
"""

import torch
from torch import Tensor

NOTHING_LEFT = 1e-6
"""Share of the gradient's length below which what is left is not stretched."""


def perpendicular(direction: Tensor, weight: Tensor) -> Tensor:
    """The part of `direction` perpendicular to `weight`, both as one flat vector, stretched to the old length.

    It keeps its own, smaller length if that is under 1e-6 of the old one. A weight of zeros takes nothing away.

    Args:
        direction: Any shape.
        weight: The same shape.

    Returns:
        float64, of that shape.

    Source: Prieto et al., "Grokking at the edge of numerical stability" (arXiv:2501.04697).
    """
    d, w = direction.double(), weight.double()
    ww = (w * w).sum()
    along = torch.where(ww > 0, (w * d).sum() / torch.where(ww > 0, ww, 1), 0)
    left = d - along * w
    length, remains = (d * d).sum().sqrt(), (left * left).sum().sqrt()
    stretched = (remains > 0) & ~(remains < NOTHING_LEFT * length)
    return left * torch.where(stretched, length / torch.where(stretched, remains, 1), 1)


def ortho_adamw_step(
    weight: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    project_update: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Weight and both moments after step number `step` (from 1), float64 each; nothing is written."""
    w, g = weight.double(), gradient.double()
    if not project_update:
        g = perpendicular(g, w)
    m = exp_avg.double() + (1 - betas[0]) * (g - exp_avg.double())
    v = betas[1] * exp_avg_sq.double() + (1 - betas[1]) * g * g
    update = m / (1 - betas[0] ** step) / ((v / (1 - betas[1] ** step)).sqrt() + eps)
    if project_update:
        update = perpendicular(update, w)
    return w * (1 - lr * weight_decay) - lr * update, m, v
