"""Pacing functions: how large a share of the sorted chunks a run draws from, and when.

With x the share of the growing time that has passed and y that of the growth (both from 0 to 1), the functions are
those of Wu, Dyer and Neyshabur, arXiv:2012.03107, and a staircase as in Bengio et al. 2009:

    linear       y = x                       step         y = 0 for x < 1, then 1
    quadratic    y = x^2                     exponential  y = (e^(10 x) - 1) / (e^10 - 1)
    root         y = sqrt(x)                 log          y = 1 + ln(x + e^-10) / 10
    discrete     y = floor(L x) / L, with L levels

Each is given here by its inverse, the time at which a growth is reached, since the pool grows in steps.
"""

import math
from collections.abc import Callable, Mapping

STEPS = 64
"""Steps in which a pool grows, at most."""

_STAIRS = ("step", "discrete")
_ARRIVAL: Mapping[str, Callable[[float], float]] = {
    "linear": lambda y: y,
    "quadratic": math.sqrt,
    "root": lambda y: y * y,
    "step": lambda y: 1.0,
    "exponential": lambda y: math.log1p(y * math.expm1(10)) / 10,
    "log": lambda y: math.exp(10 * (y - 1)) - math.exp(-10) * (1 - y),
    "discrete": lambda y: y,
}

PACINGS = tuple(_ARRIVAL)

# Times are rounded to this fraction: coarser than the last digit of a libm, so that all platforms agree.
_TIME_UNIT = 1 << 32


def pool_sizes(
    pacing: str, *, chunks: int, positions: int, start: float, full_at: float, levels: int
) -> list[tuple[int, int]]:
    """When a pool grows, and to which size.

    The pool is the share of the pacing, to the nearest 64th of its growth or, where that is more, to the nearest chunk;
    and it is full at `full_at`.

    Args:
        pacing: one of `PACINGS`.
        chunks: chunks in all, >= 1.
        positions: rows of the run.
        start: share of the chunks in the first pool, within (0, 1]; one chunk at least.
        full_at: share of the run after which the pool holds all chunks, within [0, 1].
        levels: steps of `discrete`.
    Returns:
        (position, size) pairs, rising; the first begins at position 0, the last has all chunks.
    """
    first = min(max(round(chunks * start), 1), chunks)
    growth = chunks - first
    steps = {"step": 1, "discrete": levels}.get(pacing, min(STEPS, growth))
    pools = [(0, first)]
    for step in range(1, steps + 1):
        growth_reached = (step if pacing in _STAIRS else step - 0.5) / steps
        time = round(full_at * _ARRIVAL[pacing](growth_reached) * _TIME_UNIT)
        pools.append((-(-positions * time // _TIME_UNIT), first + (2 * growth * step + steps) // (2 * steps)))
    return pools
