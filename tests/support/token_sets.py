"""Small data sets of given tokens."""

import numpy as np

import fluxcore.data
from fluxcore.data import ShardWriter


def write_tokens(path, rows, *, chunk_tokens, vocab_size, shard_bytes=1 << 30, tokenizer=None):
    """A data set with one chunk a row, a row being (ids, the token that follows or None)."""
    with ShardWriter(
        path,
        chunk_tokens=chunk_tokens,
        vocab_size=vocab_size,
        sources=["test"],
        shard_bytes=shard_bytes,
        tokenizer=tokenizer,
    ) as writer:
        for doc_id, (ids, following) in enumerate(rows):
            writer.append(np.asarray(ids), source="test", doc_id=doc_id, doc_offset=0, next_token=following)
    return fluxcore.data.open(path)


def random_rows(n, *, chunk_tokens, vocab_size, seed=0):
    """Rows of every length from 2 to `chunk_tokens`, some with a token that follows, of few tokens often seen."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, chunk_tokens + 1, n)
    lengths[:2] = 2, chunk_tokens
    few = min(7, vocab_size)
    return [
        (rng.integers(0, few if i % 2 else vocab_size, length), int(rng.integers(few)) if i % 3 else None)
        for i, length in enumerate(lengths)
    ]
