"""The formulas of fluxcore/reference/ortho.py in numpy's long double: a truth for what is computed in float64."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fluxcore.reference.ortho import NOTHING_LEFT

Long = NDArray[np.longdouble]
DOUBLE, SINGLE = 2.0**-53, 2.0**-24
"""Half a step of rounding at 1."""


class Bounded(NamedTuple):
    """Exact values, and how far float64 arithmetic may end from them."""

    value: Long
    error: Long


class Step(NamedTuple):
    """What a step of AdamW leaves."""

    weight: Bounded
    exp_avg: Bounded
    exp_avg_sq: Bounded


def perpendicular(direction: Bounded, weight: Long) -> Bounded:
    """The part of `direction` perpendicular to `weight`, both flat."""
    d, w = direction.value, weight
    along = (w @ d) / (w @ w)
    left = d - along * w
    length, remains = np.sqrt(d @ d), np.sqrt(left @ left)
    stretch = np.longdouble(1) if remains < NOTHING_LEFT * length else length / remains
    # A sum of n products is off by at most sqrt(n) half steps with high probability (Higham and Mary, "A new approach
    # to probabilistic rounding error analysis", 2019). What is left of the difference is then stretched.
    sums = max(4.0, len(w) ** 0.5) * DOUBLE * length / np.sqrt(w @ w)
    error = (sums + DOUBLE * abs(along)) * abs(w) + DOUBLE * abs(d) + direction.error
    return Bounded(left * stretch, (error + sums * abs(left)) * stretch)


def exact(x: Tensor) -> Bounded:
    """The elements of `x`, flat."""
    value = x.detach().double().numpy().reshape(-1).astype(np.longdouble)
    return Bounded(value, np.zeros_like(value))


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
) -> Step:
    """Weight and both moments after step number `step` (from 1), flat."""
    w, m_old, v_old = (exact(x).value for x in (weight, exp_avg, exp_avg_sq))
    g = exact(gradient) if project_update else perpendicular(exact(gradient), w)
    b1, b2 = (np.longdouble(beta) for beta in betas)
    m = m_old + (1 - b1) * (g.value - m_old)
    v = b2 * v_old + (1 - b2) * g.value**2
    m_error = (1 - b1) * g.error + 4 * DOUBLE * (abs(m_old) + abs(g.value))
    v_error = (1 - b2) * (2 * abs(g.value) + g.error) * g.error + 4 * DOUBLE * v
    root = np.sqrt(v / (1 - b2**step)) + np.longdouble(eps)
    value = m / (1 - b1**step) / root
    error = m_error / (1 - b1**step) / root + abs(value) * (v_error / np.maximum(v, 1e-300) + 8 * DOUBLE)
    update = Bounded(value, error)
    if project_update:
        update = perpendicular(update, w)
    kept = w * (1 - np.longdouble(lr) * np.longdouble(weight_decay))
    moved = np.longdouble(lr) * update.value
    after = Bounded(kept - moved, lr * update.error + 4 * DOUBLE * (abs(kept) + abs(moved)))
    return Step(after, Bounded(m, m_error), Bounded(v, v_error))


def assert_rounded_once(found: Tensor, truth: Bounded) -> None:
    """`found` is `truth` as float64 has it, rounded to its own type at most once."""
    rounding = {torch.float32: SINGLE, torch.float64: 0.0}[found.dtype]
    off = abs(exact(found).value - truth.value)
    allowed = rounding * (abs(truth.value) + truth.error) * (1 + 1e-6) + truth.error + 2.0**-150
    worst = (off - allowed).argmax()
    assert off[worst] <= allowed[worst], f"off by {off[worst]:.3e}, allowed {allowed[worst]:.3e}, at {worst}"
