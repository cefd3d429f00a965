"""From statistics of tokens to scores of chunks, added up in float64.

n chunks, T tokens a chunk, L <= T of them real. Predictions are numbered by the token they are about: prediction j is
the distribution of token j given the tokens before it, and prediction L is about what follows the chunk. Prediction 0
has no token to go by, so it needs a model that knows how texts begin (`include_bos`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

UNSCORED = -1.0
"""Score of a chunk that has no scored prediction. No true score is negative, and NaN is never written."""

MEANINGS = {
    "entropy_mean": "mean of H, nats",
    "entropy_sum": "sum of H, nats",
    "entropy_max": "largest H, nats",
    "varentropy_mean": "mean of V, nats^2",
    "varentropy_sum": "sum of V, nats^2",
    "varentropy_max": "largest V, nats^2",
    "sqrt_varentropy": "mean of sqrt(V), nats",
    "h2_plus_v": "mean of H^2 + V, nats^2",
    "sqrt_h2_plus_v": "mean of sqrt(H^2 + V), nats",
    "cross_entropy": "mean of -ln p of the actual next token, nats",
    "last_token_entropy": "H of what follows the last token of the chunk, nats",
}
"""Scores from a model of tokens: H = -sum p ln p and V = sum p (ln p + H)^2 of each scored prediction."""


@dataclass(frozen=True, slots=True)
class TokenStats:
    """Statistics of every prediction, [n, T + 1] each; what stands beyond prediction L, or is not known, is ignored."""

    entropy: Floats
    """Nats."""
    varentropy: Floats
    """Nats squared."""
    cross_entropy: Floats
    """-ln p of the actual token, nats; ignored where there is none."""


def scored(valid_lens: NDArray[np.int64], T: int, *, include_last: bool, include_bos: bool) -> NDArray[np.bool_]:
    """Which predictions count, [n, T + 1]: 1 .. L - 1 (made at positions 0 .. L - 2), and 0 and L on request."""
    j = np.arange(T + 1)
    last = valid_lens[:, None] if include_last else valid_lens[:, None] - 1
    return (j >= (0 if include_bos else 1)) & (j <= last)


def chunk_scores(
    stats: TokenStats, counted: NDArray[np.bool_], has_target: NDArray[np.bool_], valid_lens: NDArray[np.int64]
) -> dict[str, Floats]:
    """The scores named in `MEANINGS`, [n] each.

    Args:
        stats: of every prediction, [n, T + 1].
        counted: which predictions count, [n, T + 1].
        has_target: for which the actual token is known, [n, T + 1].
        valid_lens: real tokens a chunk, [n].
    """
    H = np.where(counted, stats.entropy, 0.0)
    V = np.where(counted, np.maximum(stats.varentropy, 0.0), 0.0)
    with_target = counted & has_target
    losses = np.where(with_target, stats.cross_entropy, 0.0)
    sums = {
        "entropy_mean": H,
        "varentropy_mean": V,
        "sqrt_varentropy": np.sqrt(V),
        "h2_plus_v": H**2 + V,
        "sqrt_h2_plus_v": np.sqrt(H**2 + V),
    }
    count = counted.sum(1)
    scores = {name: _mean(values.sum(1), count) for name, values in sums.items()}
    scores["cross_entropy"] = _mean(losses.sum(1), with_target.sum(1))
    for name, values in (("entropy", H), ("varentropy", V)):
        scores[f"{name}_sum"] = np.where(count, values.sum(1), UNSCORED)
        scores[f"{name}_max"] = np.where(count, values.max(1), UNSCORED)
    last = stats.entropy[np.arange(len(valid_lens)), valid_lens]
    scores["last_token_entropy"] = np.where(count, last, UNSCORED)
    return {name: scores[name] for name in MEANINGS}


def _mean(total: Floats, count: NDArray[np.int64]) -> Floats:
    return np.where(count, total / np.maximum(count, 1), UNSCORED)
