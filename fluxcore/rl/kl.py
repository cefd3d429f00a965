"""How far a policy is from its reference, estimated from samples, and what coefficient holds it there."""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from fluxcore.rl.masked import check_mask

Estimator = Literal["k1", "k2", "k3"]


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, *, estimator: Estimator = "k3", mask: Tensor) -> Tensor:
    """Estimates of KL(policy || reference) from tokens that the policy sampled, one a token.

    With d = log p_ref - log p of the sampled token:

    | estimator | value | |
    |---|---|---|
    | k1 | -d | unbiased; of either sign, and of high variance |
    | k2 | d^2 / 2 | biased, and >= 0; its gradient is that of the KL in expectation |
    | k3 | e^d - 1 - d | unbiased, and >= 0 |

    Args:
        logprobs: [...], nats, of the sampled tokens under the policy.
        ref_logprobs: The same shape, under the reference.
        estimator: "k1", "k2" or "k3".
        mask: The same shape, bool, False for padding; what is there is not looked at.
    Returns:
        [...], nats, 0 where `mask` is False. Differentiable by both; k3 overflows to infinity at d > 88 in float32.
    Raises:
        TypeError, ValueError: shapes that differ, a mask of another dtype, or an unknown estimator.

    Source: Schulman, Approximating KL divergence, 2020 (joschu.net/blog/kl-approx.html).
    """
    if ref_logprobs.shape != logprobs.shape:
        raise ValueError(
            f"`ref_logprobs` must have the shape of `logprobs`, {tuple(logprobs.shape)}, got"
            f" {tuple(ref_logprobs.shape)}"
        )
    check_mask(mask, logprobs.shape)
    # Cut before, so that what stands in the padding reaches no gradient either.
    d = torch.where(mask, ref_logprobs, 0) - torch.where(mask, logprobs, 0)
    if estimator == "k1":
        return -d
    if estimator == "k2":
        return d.square() / 2
    if estimator == "k3":
        return torch.expm1(d) - d
    raise ValueError(f"`estimator` must be one of k1, k2, k3, got {estimator!r}")


class FixedKLController:
    """A coefficient that stays.

    Args:
        coefficient: >= 0 and finite; of a nat of KL, in units of the reward.
    """

    def __init__(self, coefficient: float) -> None:
        self.coefficient = _checked("coefficient", coefficient, least=0)

    def update(self, kl: float, tokens: int) -> float:
        """The coefficient, whatever was measured."""
        return self.coefficient

    def state_dict(self) -> dict[str, Any]:
        """The coefficient."""
        return {"coefficient": self.coefficient}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a coefficient."""
        self.coefficient = _checked("coefficient", state["coefficient"], least=0)


class AdaptiveKLController(FixedKLController):
    """A coefficient that rises while the KL is above its target and falls while it is below.

    After n tokens of mean KL k the coefficient is multiplied by 1 + clip(k / target - 1, -0.2, 0.2) n / horizon.

    Args:
        coefficient: > 0, at the beginning.
        target: > 0, nats a token (or a sequence, if that is what `update` is told).
        horizon: > 0, tokens over which the coefficient changes by a fifth at most, about.

    Source: Ziegler et al., arXiv:1909.08593, section 2.2.
    """

    def __init__(self, coefficient: float, *, target: float, horizon: float) -> None:
        for name, value in (("coefficient", coefficient), ("target", target), ("horizon", horizon)):
            if not 0 < value < math.inf:
                way_out = {
                    "target": "\n\nTo train without a bound on KL, take FixedKLController(0).",
                    "coefficient": "\n\nIt is multiplied, so 0 would stay 0.",
                }.get(name, "")
                raise ValueError(f"`{name}` must be finite and > 0, got {value}{way_out}")
        super().__init__(coefficient)
        self.target = float(target)
        self.horizon = float(horizon)

    def update(self, kl: float, tokens: int) -> float:
        """Take in a mean KL over so many tokens, and return the coefficient from now on.

        Args:
            kl: Nats; may be negative, as k1 is.
            tokens: >= 0 and below 5 `horizon`, at which a fifth off would leave nothing.
        Raises:
            ValueError: `kl` is NaN or infinite, or `tokens` out of range.
        """
        if not math.isfinite(kl):
            raise ValueError(f"`kl` must be finite, got {kl}\n\nThe policy has diverged: lower its learning rate.")
        if not 0 <= tokens < 5 * self.horizon:
            raise ValueError(
                f"`tokens` must be within [0, 5 x horizon = {5 * self.horizon:g}), got {tokens}"
                "\n\nRaise `horizon`: in one update the coefficient would fall to 0."
            )
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.coefficient *= 1 + error * tokens / self.horizon
        return self.coefficient


def _checked(name: str, value: float, *, least: float) -> float:
    if not least <= value < math.inf:
        raise ValueError(f"`{name}` must be finite and >= {least}, got {value}")
    return float(value)
