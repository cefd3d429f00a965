"""Means over seeds, with the interval that says how well they are known."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
"""Of every interval."""
GRID_POINTS = 200_001


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its two-sided Student t interval; of one value the interval is NaN, since its error is not known."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def half_width(self) -> float:
        """From the mean to either end."""
        return (self.high - self.low) / 2

    @property
    def excludes_zero(self) -> bool:
        """Whether the sign of the mean is known."""
        return self.low > 0 or self.high < 0

    def text(self, decimals: int = 4) -> str:
        """Mean and interval, such as `0.12 [0.10, 0.14]`."""
        if not math.isfinite(self.low):
            return f"{self.mean:.{decimals}f}"
        return f"{self.mean:.{decimals}f} [{self.low:.{decimals}f}, {self.high:.{decimals}f}]"


def mean_interval(values: Iterable[float]) -> Interval:
    """Mean of independent values, and its interval.

    Raises:
        ValueError: there is no value.
    """
    array = np.asarray(list(values), np.float64)
    if not array.size:
        raise ValueError("`values` must hold at least one value, got none")
    mean = float(array.mean())
    if array.size == 1:
        return Interval(mean, math.nan, math.nan, 1)
    half = t_quantile(array.size - 1, (1 + CONFIDENCE) / 2) * float(array.std(ddof=1)) / math.sqrt(array.size)
    return Interval(mean, mean - half, mean + half, array.size)


def paired_interval(values: Mapping[int, float], baseline: Mapping[int, float]) -> Interval | None:
    """Mean over the seeds that both have of value - baseline; None where they share no seed."""
    shared = sorted(values.keys() & baseline.keys())
    return mean_interval(values[seed] - baseline[seed] for seed in shared) if shared else None


def t_quantile(degrees: int, probability: float) -> float:
    """Quantile of Student's t distribution, to about 1e-8.

    With t = sqrt(degrees) tan(angle) the density is proportional to cos^(degrees - 1), over a quarter turn each way.

    Args:
        degrees: Degrees of freedom, >= 1.
        probability: Within [0.5, 1).
    """
    angle = np.linspace(0, np.pi / 2, GRID_POINTS)
    density = np.cos(angle) ** (degrees - 1)
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    found = np.interp((2 * probability - 1) * mass[-1], mass, angle)
    return math.sqrt(degrees) * math.tan(float(found))
