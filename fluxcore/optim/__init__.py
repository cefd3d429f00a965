"""Optimizers that step perpendicular to the weights, and a filter that makes slow gradients faster."""

from fluxcore.optim.grokfast import GrokfastEMA
from fluxcore.optim.ortho_adamw import OrthoAdamW
from fluxcore.optim.ortho_grad import OrthoGrad, orthogonalize_

__all__ = ["GrokfastEMA", "OrthoAdamW", "OrthoGrad", "orthogonalize_"]
