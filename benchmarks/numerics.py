"""How exact losses and statistics are in float32, ours and the usual ones; numerics_page.py writes it down.

The truth is computed in float64 from the same float32 logits, with the largest logit kept out of the sums, since the
usual form cancels in float64 too.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

import fluxcore

V = 50304
STABLEMAX_CLASSES = 113
MARGINS = (0, 5, 10, 12, 15, 17, 20, 30, 40, 60)
STABLEMAX_LOGITS = (1e1, 1e2, 1e3, 1e4, 3e4, 1e5)
KL_DISTANCES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
WRONG = 0.05
"""Relative error from which a figure counts as wrong."""


@dataclass(frozen=True)
class Point:
    """One quantity of one input, three times."""

    quantity: str
    at: float
    """Margin, logit or distance."""
    truth: float
    usual: float
    ours: float

    def error(self, value: float) -> float:
        """Relative."""
        return abs(value - self.truth) / abs(self.truth) if math.isfinite(value) else math.inf


def sure_row(margin: float) -> tuple[Tensor, Tensor]:
    """Logits [1, V] whose target, class 7, is `margin` above the largest of the others, which spread over one unit."""
    x = torch.linspace(-1, 0, V).unsqueeze(0)
    x[0, 7] = margin
    return x, torch.tensor([7])


def at_margin(margin: float) -> list[Point]:
    """Loss, gradient at the target, entropy and 1 - p_max of a row that is sure of its target."""
    x, target = sure_row(margin)
    z = x[0].double() - margin
    z = torch.cat((z[:7], z[8:]))
    s, t = z.exp().sum().item(), (z * z.exp()).sum().item()
    truth = {
        "loss": math.log1p(s),
        "gradient": s / (1 + s),
        "entropy, lse - sum p x": math.log1p(s) - t / (1 + s),
        "entropy, - sum p log p": math.log1p(s) - t / (1 + s),
        "1 - p_max": s / (1 + s),
    }

    leaf = x.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(leaf, target)
    (gradient,) = torch.autograd.grad(loss, leaf)
    logp = x.log_softmax(-1)
    p = logp.exp()
    usual = {
        "loss": loss,
        "gradient": gradient[0, 7].abs(),
        "entropy, lse - sum p x": x.logsumexp(-1) - (p * x).sum(),
        "entropy, - sum p log p": -(p * logp).sum(),
        "1 - p_max": 1 - p.max(),
    }

    loss = fluxcore.cross_entropy(leaf, target)
    (gradient,) = torch.autograd.grad(loss, leaf)
    stats = fluxcore.softmax_stats(x, outputs=("entropy", "one_minus_max_prob"))
    ours = {
        "loss": loss,
        "gradient": gradient[0, 7].abs(),
        "entropy, lse - sum p x": stats.entropy,
        "entropy, - sum p log p": stats.entropy,
        "1 - p_max": stats.one_minus_max_prob,
    }
    return [Point(name, margin, value, usual[name].item(), ours[name].item()) for name, value in truth.items()]


def at_stablemax_logit(logit: float) -> list[Point]:
    """StableMax loss of a row with `logit` at the target and -`logit` elsewhere."""
    x = torch.full((1, STABLEMAX_CLASSES), -logit)
    x[0, 7] = logit
    target = torch.tensor([7])
    exact = x[0].double()
    sigma = torch.where(exact >= 0, exact + 1, 1 / (1 - exact))
    truth = math.log1p(((sigma[:7].sum() + sigma[8:].sum()) / sigma[7]).item())
    sigma = torch.where(x >= 0, x + 1, 1 / (1 - x))
    usual = -(sigma[0, 7] / sigma.sum()).log()
    ours = fluxcore.cross_entropy(x, target, link="stablemax")
    return [Point("StableMax loss", logit, truth, usual.item(), ours.item())]


def at_distance(distance: float) -> list[Point]:
    """KL(p || r) where the logits of r are those of p and `distance` times noise."""
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(1, V, generator=generator) for _ in range(2))
    ref = 3 * x + distance * noise
    x = 3 * x
    logp, logr = (value.double().log_softmax(-1) for value in (x, ref))
    truth = (logp.exp() * (logp - logr)).sum()
    logp, logr = (value.log_softmax(-1) for value in (x, ref))
    usual = torch.nn.functional.kl_div(logr, logp, log_target=True, reduction="sum")
    ours = fluxcore.kl_div(x, ref)
    return [Point("KL divergence", distance, truth.item(), usual.item(), ours.item())]


def all_points(
    margins: Iterable[float] = MARGINS,
    logits: Iterable[float] = STABLEMAX_LOGITS,
    distances: Iterable[float] = KL_DISTANCES,
) -> list[Point]:
    """Every quantity at every place."""
    found: list[Point] = []
    for measure, places in ((at_margin, margins), (at_stablemax_logit, logits), (at_distance, distances)):
        for place in places:
            found += measure(place)
    return found
