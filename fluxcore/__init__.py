"""Entropy core for people who train language models."""

from importlib.metadata import version

from fluxcore import _extension_check  # noqa: F401 -- first
from fluxcore.backends import backend
from fluxcore.explanation import explain
from fluxcore.ops.softmax_stats import softmax_stats
from fluxcore.reference import SoftmaxStats

__version__ = version("fluxcore")
__all__ = ["SoftmaxStats", "__version__", "backend", "explain", "softmax_stats"]
