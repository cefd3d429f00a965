"""Tokens that every contender stores and reads; each chunk carries its own number."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

CHUNK_TOKENS = 2048
VOCAB_SIZE = 1 << 16
_BLOCK = 2048


def blocks(chunks: int) -> Iterator[NDArray[np.uint16]]:
    """All chunks [n, CHUNK_TOKENS], some thousands at a time; the same for the same number."""
    rng = np.random.default_rng(0)
    for start in range(0, chunks, _BLOCK):
        ids = np.arange(start, min(start + _BLOCK, chunks))
        rows = rng.integers(0, VOCAB_SIZE, (len(ids), CHUNK_TOKENS), dtype=np.uint16)
        rows[:, 0], rows[:, 1] = ids & 0xFFFF, ids >> 16
        yield rows


def numbers(tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which chunks the rows [n, CHUNK_TOKENS] are, as their first two tokens say."""
    return tokens[:, 0] + (tokens[:, 1] << 16)
