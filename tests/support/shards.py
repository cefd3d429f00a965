"""Small data sets for tests."""

import numpy as np

import fluxcore.data as data

T = 16
VOCAB = 50257


def write(path, *, n=10, scores=("s",), then=None, **options):
    """`n` full chunks of T random u16 tokens, document i for chunk i, scores i / 3; returns the tokens [n, T].

    `then`: an exception to end with before anything is published.
    """
    tokens = np.random.default_rng(1).integers(0, VOCAB, (n, T)).astype(np.uint16)
    options = {"chunk_tokens": T, "vocab_size": VOCAB, "sources": ["web", "code"], "score_columns": scores} | options
    with data.ShardWriter(path, **options) as writer:
        writer.append_batch(
            tokens,
            sources=np.arange(n) % 2,
            doc_ids=np.arange(n),
            doc_offsets=np.zeros(n, int),
            scores={name: np.arange(n) / 3 for name in scores},
        )
        if then is not None:
            raise then
    return tokens


def flip(path, at, bit=0):
    """Flip one bit of a file in place."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))
