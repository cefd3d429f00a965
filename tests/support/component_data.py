"""A data set of several components with statistics of their own, in documents of whole chunks."""

from pathlib import Path

import numpy as np

from fluxcore.data import ShardWriter

COMPONENTS = ["alpha", "beta", "gamma", "delta"]
CHUNK_TOKENS = 8
VOCAB_SIZE = 32
DOCUMENTS = 60
"""Of each component, of one to three chunks."""


def write_components(path: Path) -> Path:
    """Each component counts up by a step of its own."""
    rng = np.random.default_rng(0)
    with ShardWriter(
        path, chunk_tokens=CHUNK_TOKENS, dtype="uint16", vocab_size=VOCAB_SIZE, sources=COMPONENTS
    ) as writer:
        for number, name in enumerate(COMPONENTS):
            for doc_id in range(DOCUMENTS):
                length = CHUNK_TOKENS * int(rng.integers(1, 4))
                tokens = (rng.integers(VOCAB_SIZE) + (number + 1) * np.arange(length)) % VOCAB_SIZE
                for offset in range(0, length, CHUNK_TOKENS):
                    following = offset + CHUNK_TOKENS
                    writer.append(
                        tokens[offset:following].astype(np.uint16),
                        source=name,
                        doc_id=doc_id,
                        doc_offset=offset,
                        next_token=int(tokens[following]) if following < length else None,
                    )
    return path
