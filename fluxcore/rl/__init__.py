"""Parts of proximal policy optimisation on language models; none of them knows a trainer."""

from fluxcore.rl.kl import AdaptiveKLController, FixedKLController, kl_estimate
from fluxcore.rl.losses import PolicyLoss, ValueLoss, policy_loss, value_loss
from fluxcore.rl.masked import masked_mean, masked_sum, whiten
from fluxcore.rl.rollouts import Minibatch, RolloutBuffer, Rollouts, concatenate

__all__ = [
    "AdaptiveKLController",
    "FixedKLController",
    "Minibatch",
    "PolicyLoss",
    "RolloutBuffer",
    "Rollouts",
    "ValueLoss",
    "concatenate",
    "kl_estimate",
    "masked_mean",
    "masked_sum",
    "policy_loss",
    "value_loss",
    "whiten",
]
