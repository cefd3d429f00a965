"""Chunk scores against a loop over tokens, straight from their definitions."""

import math

import numpy as np
import pytest

from fluxcore.scoring.chunk_scores import MEANINGS, UNSCORED, TokenStats, chunk_scores, scored

T = 6


def by_loop(H, V, loss, has_target, length, include_last, include_bos):
    """Scores of one chunk: prediction j is about token j, and number `length` about what follows."""
    js = list(range(0 if include_bos else 1, length)) + ([length] if include_last else [])
    if not js:
        return dict.fromkeys(MEANINGS, UNSCORED)
    losses = [loss[j] for j in js if has_target[j]]
    return {
        "entropy_mean": math.fsum(H[j] for j in js) / len(js),
        "entropy_sum": math.fsum(H[j] for j in js),
        "entropy_max": max(H[j] for j in js),
        "varentropy_mean": math.fsum(V[j] for j in js) / len(js),
        "varentropy_sum": math.fsum(V[j] for j in js),
        "varentropy_max": max(V[j] for j in js),
        "sqrt_varentropy": math.fsum(math.sqrt(V[j]) for j in js) / len(js),
        "h2_plus_v": math.fsum(H[j] ** 2 + V[j] for j in js) / len(js),
        "sqrt_h2_plus_v": math.fsum(math.hypot(H[j], math.sqrt(V[j])) for j in js) / len(js),
        "cross_entropy": math.fsum(losses) / len(losses) if losses else UNSCORED,
        "last_token_entropy": H[length],
    }


@pytest.mark.parametrize("include_last", [False, True])
@pytest.mark.parametrize("include_bos", [False, True])
def test_against_the_definitions(include_last, include_bos):
    rng = np.random.default_rng(0)
    lengths = np.array([1, 2, 3, T - 1, T, T])
    H, V, loss = rng.exponential(2, (3, len(lengths), T + 1))
    has_target = rng.random((len(lengths), T + 1)) < 0.8
    beyond = np.arange(T + 1) > lengths[:, None]
    for values in (H, V, loss):
        values[beyond] = np.nan  # padding must not be looked at
    if not include_bos:
        H[:, 0] = V[:, 0] = loss[:, 0] = np.nan
    counted = scored(lengths, T, include_last=include_last, include_bos=include_bos)
    found = chunk_scores(TokenStats(H, V, loss), counted, has_target, lengths)
    assert list(found) == list(MEANINGS)
    for i, length in enumerate(lengths):
        expected = by_loop(H[i], V[i], loss[i], has_target[i], length, include_last, include_bos)
        for name in MEANINGS:
            assert found[name][i] == pytest.approx(expected[name], rel=1e-14), (name, length)


def test_one_token_with_nothing_after_is_unscored_and_never_nan():
    zero = np.zeros((2, T + 1))
    lengths = np.array([1, T])
    counted = scored(lengths, T, include_last=False, include_bos=False)
    found = chunk_scores(TokenStats(zero, zero, zero), counted, np.ones_like(counted), lengths)
    assert all(values[0] == UNSCORED and values[1] == 0 for values in found.values())
