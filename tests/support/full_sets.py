"""A data set that has everything that one can have, and whether another has the same."""

import numpy as np

import fluxcore.data
from fluxcore.data import ShardWriter


def write_full(folder):
    """A sorted set with a mask, a tokenizer, short chunks, a float and an integer column, in several shards."""
    rng = np.random.default_rng(3)
    with ShardWriter(
        folder / "first",
        chunk_tokens=6,
        vocab_size=70_000,
        dtype="uint32",
        sources=["web", "code"],
        tokenizer=bytes(range(16)),
        score_columns={"lm.entropy_mean": "nats"},
        token_mask=True,
        shard_bytes=60_000,
    ) as writer:
        for i in range(40):
            length = 1 + i % 6
            writer.append(
                rng.integers(0, 70_000, length),
                source=i % 2,
                doc_id=(1 << 63) + i // 3,
                doc_offset=i % 3 * 6,
                next_token=None if i % 3 == 2 else i,
                scores={"lm.entropy_mean": rng.random()},
                mask=rng.random(length) < 0.7,
            )
    fluxcore.data.open(folder / "first").add_column("cluster", np.arange(40, dtype=np.uint8), definition="of web pages")
    fluxcore.data.sort(folder / "first", folder / "set", "lm.entropy_mean", descending=True)
    return fluxcore.data.open(folder / "set")


def same(one, other):
    for field in ("chunk_tokens", "dtype", "vocab_size", "tokenizer", "token_mask", "sources", "columns", "sorted_by"):
        assert getattr(one.manifest, field) == getattr(other.manifest, field), field
    assert one.columns == other.columns
    for name in one.columns:
        assert np.array_equal(one.column(name), other.column(name)), name
    assert all(np.array_equal(one[i], other[i]) for i in range(len(one)))
    if one.manifest.token_mask:
        assert all(np.array_equal(one.token_mask(i), other.token_mask(i)) for i in range(len(one)))
