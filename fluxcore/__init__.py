"""Entropy core for people who train language models."""

from importlib.metadata import version

from fluxcore import _extension_check  # noqa: F401 -- first
from fluxcore.backends import backend
from fluxcore.explanation import explain
from fluxcore.ops._linear_filter import GradientBound, GradientFilter
from fluxcore.ops._linear_schedule import LinearOptions
from fluxcore.ops.cross_entropy import cross_entropy
from fluxcore.ops.gae import gae
from fluxcore.ops.kl_div import kl_div
from fluxcore.ops.kth_magnitude import kth_magnitude
from fluxcore.ops.linear_cross_entropy import linear_cross_entropy
from fluxcore.ops.linear_kl_div import linear_kl_div
from fluxcore.ops.linear_softmax_stats import linear_softmax_stats
from fluxcore.ops.prune_regrow import PruneReport, prune_regrow_
from fluxcore.ops.softmax_helpers import entropy_from_logits, logsumexp, selective_log_softmax
from fluxcore.ops.softmax_stats import softmax_stats
from fluxcore.reference import SoftmaxStats
from fluxcore.sharpness import Sharpness
from fluxcore.target_check import check_targets

__version__ = version("fluxcore")
__all__ = [
    "GradientBound",
    "GradientFilter",
    "LinearOptions",
    "PruneReport",
    "Sharpness",
    "SoftmaxStats",
    "__version__",
    "backend",
    "check_targets",
    "cross_entropy",
    "entropy_from_logits",
    "explain",
    "gae",
    "kl_div",
    "kth_magnitude",
    "linear_cross_entropy",
    "linear_kl_div",
    "linear_softmax_stats",
    "logsumexp",
    "prune_regrow_",
    "selective_log_softmax",
    "softmax_stats",
]
