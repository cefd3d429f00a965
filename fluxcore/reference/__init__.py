"""Definitions of the ops in plain PyTorch: any float dtype, any device, differentiable as often as PyTorch allows.

They are what every other backend is tested against (in float64), and the backend `reference` itself. Float16 and
bfloat16 are computed in float32. Everything is in residual form, so that nothing cancels when one class has nearly all
the mass: the largest logit is kept out of the sums.
"""

from fluxcore.reference.cross_entropy import (
    class_weights,
    cross_entropy,
    cross_entropy_grad,
    cross_entropy_rows,
    dead_and_invalid_rows,
    loss_by_stats,
    penalty_value,
    reduction_totals,
    stablemax_weight,
    sum_of_rows,
)
from fluxcore.reference.gae import gae
from fluxcore.reference.kl_div import Pair, kl_div, kl_div_grad, kl_state, kl_total, paired, row_divergence
from fluxcore.reference.softmax_stats import (
    RowState,
    SoftmaxStats,
    row_state,
    softmax_stats,
    softmax_stats_grad,
    stats_from_state,
    target_logit,
    transform_logits,
)

__all__ = [
    "Pair",
    "RowState",
    "SoftmaxStats",
    "class_weights",
    "cross_entropy",
    "cross_entropy_grad",
    "cross_entropy_rows",
    "dead_and_invalid_rows",
    "gae",
    "kl_div",
    "kl_div_grad",
    "kl_state",
    "kl_total",
    "loss_by_stats",
    "paired",
    "penalty_value",
    "reduction_totals",
    "row_divergence",
    "row_state",
    "softmax_stats",
    "softmax_stats_grad",
    "stablemax_weight",
    "stats_from_state",
    "sum_of_rows",
    "target_logit",
    "transform_logits",
]
