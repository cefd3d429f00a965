"""Small data sets with every column filled, in several shards and with ties and short chunks."""

from pathlib import Path

import numpy as np

import fluxcore.data
from fluxcore.data import Dataset, ShardWriter

VOCAB_SIZE = 1000


def write_data_set(
    path: Path, chunks: int = 50, *, chunk_tokens: int = 16, chunks_per_shard: int = 20, dtype: str = "uint16"
) -> Dataset:
    """Documents of up to five chunks from two sources, with a score that has ties; the same for the same arguments."""
    rng = np.random.default_rng(chunks)
    scores = {"score": rng.integers(0, max(chunks // 2, 1), chunks).astype(np.float32) / 4 - 1}
    # Sections stand at page boundaries: a dozen pages, and then what each chunk takes.
    shard_bytes = 12 * 4096 + 256 + chunks_per_shard * (chunk_tokens * np.dtype(dtype).itemsize + 38)
    doc_ids = np.arange(chunks) // 5
    last = np.arange(chunks) % 5 == 4
    with ShardWriter(
        path,
        chunk_tokens=chunk_tokens,
        dtype=dtype,
        vocab_size=VOCAB_SIZE,
        sources=["web", "code"],
        score_columns={"score": "made up"},
        shard_bytes=shard_bytes,
    ) as writer:
        valid_lens = np.where(last, chunk_tokens - 3, chunk_tokens)
        tokens = rng.integers(0, VOCAB_SIZE, (chunks, chunk_tokens))
        tokens[np.arange(chunk_tokens) >= valid_lens[:, None]] = 0
        writer.append_batch(
            tokens.astype(dtype),
            sources=doc_ids % 2,
            doc_ids=doc_ids,
            doc_offsets=np.arange(chunks) % 5 * chunk_tokens,
            next_tokens=np.where(last, -1, np.arange(chunks) % VOCAB_SIZE),
            valid_lens=valid_lens,
            scores=scores,
        )
    return fluxcore.data.open(path)


def flip_bit(shard: Path, payload: bytes) -> None:
    """Change one bit of `payload`, which must stand in the file once."""
    data = bytearray(shard.read_bytes())
    assert data.count(payload) == 1
    data[data.index(payload)] ^= 1
    shard.write_bytes(data)
