"""The public functions that `fluxcore.explain` knows: their tensor arguments, and what their ops launch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from fluxcore.backends import Backend
from fluxcore.ops import _cross_entropy_backends, _kl_div_backends
from fluxcore.ops._cross_entropy_schedule import cross_entropy_bwd, cross_entropy_fwd, scale_
from fluxcore.ops._kl_div_schedule import kl_div_bwd, kl_div_fwd
from fluxcore.ops._linear_launches import (
    linear_cross_entropy_bwd,
    linear_cross_entropy_fwd,
    linear_kl_div_bwd,
    linear_kl_div_fwd,
    linear_softmax_stats_bwd,
    linear_softmax_stats_fwd,
)
from fluxcore.ops._softmax_stats_schedule import (
    selective_log_softmax_bwd,
    selective_log_softmax_fwd,
    softmax_stats_bwd,
    softmax_stats_fwd,
)
from fluxcore.ops.cross_entropy import cross_entropy
from fluxcore.ops.kl_div import kl_div
from fluxcore.ops.linear_cross_entropy import linear_cross_entropy
from fluxcore.ops.linear_kl_div import linear_kl_div
from fluxcore.ops.linear_softmax_stats import linear_softmax_stats
from fluxcore.ops.softmax_helpers import entropy_from_logits, logsumexp, selective_log_softmax
from fluxcore.ops.softmax_stats import softmax_stats
from fluxcore.schedule import Launch, Machine, OpCall

Shape = tuple[int, ...]


class Argument(NamedTuple):
    """A tensor argument of a public function."""

    default: Callable[[Mapping[str, Shape]], Shape] | None = None
    """Its shape if none is given, from those of the arguments before it; None: then it is left out."""
    dtype: torch.dtype | None = None
    """None: that of the call."""
    is_needed: bool = False
    is_differentiated: bool = False
    may_be_probabilities: bool = False
    """Of the call's dtype if it has as many dims as the first argument."""


@dataclass(frozen=True)
class Op:
    """A public function, its first argument first."""

    function: Callable[..., Any]
    arguments: Mapping[str, Argument]
    backends: Sequence[Backend] = ("triton", "cpp")


def _rows(shapes: Mapping[str, Shape]) -> Shape:
    return next(iter(shapes.values()))[:-1]


def _like(name: str) -> Argument:
    return Argument(lambda shapes: shapes[name])


_FIRST = Argument(is_needed=True, is_differentiated=True)
_CLASSES = Argument(_rows, torch.int64)
_TARGET = Argument(_rows, torch.int64, may_be_probabilities=True)
_WEIGHTS = Argument(None, torch.float32)
_LOSS_WEIGHTS = {"weight": _WEIGHTS, "token_weight": _WEIGHTS, "penalty_mask": _WEIGHTS}
_HEAD = {"input": _FIRST, "linear_weight": _FIRST, "linear_bias": Argument(is_differentiated=True)}
_REF_HEAD = {"ref_input": _like("input"), "ref_linear_weight": _like("linear_weight"), "ref_linear_bias": Argument()}
OPS = {
    "softmax_stats": Op(softmax_stats, {"logits": _FIRST, "target": _CLASSES}),
    "entropy_from_logits": Op(entropy_from_logits, {"logits": _FIRST}),
    "selective_log_softmax": Op(selective_log_softmax, {"logits": _FIRST, "index": _CLASSES}),
    "logsumexp": Op(logsumexp, {"logits": _FIRST}),
    "cross_entropy": Op(
        cross_entropy, {"logits": _FIRST, "target": _TARGET, **_LOSS_WEIGHTS}, _cross_entropy_backends.BACKENDS
    ),
    "kl_div": Op(
        kl_div,
        {"logits": _FIRST, "ref_logits": _like("logits"), "token_weight": _WEIGHTS},
        _kl_div_backends.BACKENDS,
    ),
    "linear_softmax_stats": Op(linear_softmax_stats, {**_HEAD, "target": _CLASSES}),
    "linear_cross_entropy": Op(
        linear_cross_entropy, {**_HEAD, "target": _TARGET, **_LOSS_WEIGHTS}, _cross_entropy_backends.BACKENDS
    ),
    "linear_kl_div": Op(linear_kl_div, {**_HEAD, **_REF_HEAD, "token_weight": _WEIGHTS}, _kl_div_backends.BACKENDS),
}
"""By name."""

COUNTERS: dict[str, Callable[[OpCall, Machine], list[Launch]]] = {
    f"fluxcore::{counter.__name__}": counter
    for counter in (
        softmax_stats_fwd,
        softmax_stats_bwd,
        selective_log_softmax_fwd,
        selective_log_softmax_bwd,
        cross_entropy_fwd,
        cross_entropy_bwd,
        scale_,
        kl_div_fwd,
        kl_div_bwd,
        linear_softmax_stats_fwd,
        linear_softmax_stats_bwd,
        linear_cross_entropy_fwd,
        linear_cross_entropy_bwd,
        linear_kl_div_fwd,
        linear_kl_div_bwd,
    )
}
"""What each `torch.library` op launches; a function has its op's name."""
