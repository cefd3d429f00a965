"""Surge and collapse: prune a model by magnitude in training, and bring weights back, by schedule or by trigger."""

from fluxcore.surge.collapse import SurgeCollapse, SurgeReport
from fluxcore.surge.entropy import ActivationEntropy
from fluxcore.surge.parameters import prunable_parameters
from fluxcore.surge.triggers import Every, GradientNormBelow, LossPlateau, Signals, Trigger

__all__ = [
    "ActivationEntropy",
    "Every",
    "GradientNormBelow",
    "LossPlateau",
    "Signals",
    "SurgeCollapse",
    "SurgeReport",
    "Trigger",
    "prunable_parameters",
]
