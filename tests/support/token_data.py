"""Small data sets of tokens that a model can learn, in documents of several chunks."""

from pathlib import Path

import numpy as np

from fluxcore.data import ShardWriter

VOCAB_SIZE = 64
CHUNK_TOKENS = 16
SCORE = "lm.entropy_mean"


def write_documents(path: Path, *, documents: int = 40, seed: int = 0, reverse: bool = False) -> Path:
    """Documents of one to four chunks from two sources, the last chunk of each padded; each chunk has a score.

    With `reverse` the same chunks are stored in the opposite order.
    """
    rng = np.random.default_rng(seed)
    chunks = []
    for doc_id in range(documents):
        length = int(rng.integers(4, 4 * CHUNK_TOKENS))
        stride = int(rng.integers(1, 4))
        tokens = (rng.integers(VOCAB_SIZE) + stride * np.arange(length) + rng.integers(0, 2, length)) % VOCAB_SIZE
        for offset in range(0, length, CHUNK_TOKENS):
            following = offset + CHUNK_TOKENS
            place = {
                "source": ("web", "code")[doc_id % 2],
                "doc_id": doc_id // 2,  # ids are unique within a source only
                "doc_offset": offset,
                "next_token": int(tokens[following]) if following < length else None,
                "scores": {SCORE: float(rng.random())},
            }
            chunks.append((tokens[offset:following].astype(np.uint16), place))
    with ShardWriter(
        path,
        chunk_tokens=CHUNK_TOKENS,
        dtype="uint16",
        vocab_size=VOCAB_SIZE,
        sources=["web", "code"],
        score_columns={SCORE: "random, for tests"},
    ) as writer:
        for tokens, place in reversed(chunks) if reverse else chunks:
            writer.append(tokens, **place)
    return path
