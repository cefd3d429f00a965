import numpy as np
import pytest

import fluxcore.data as data

T = 16


def write(path, *, dtype="uint16", n=10, **options):
    """A data set of `n` chunks, every third one short; returns what was written."""
    rng = np.random.default_rng(1)
    vocab_size = {"uint8": 256, "uint16": 50257, "uint32": 2**32 - 1}[dtype]
    tokens = rng.integers(0, vocab_size, (n, T), dtype=np.uint64).astype(dtype)
    valid = np.where(np.arange(n) % 3 == 2, 5, T)
    following = np.where(np.arange(n) % 2 == 0, rng.integers(0, vocab_size, n), -1)
    tokens[np.arange(T) >= valid[:, None]] = 0
    with data.ShardWriter(
        path,
        chunk_tokens=T,
        dtype=dtype,
        vocab_size=vocab_size,
        sources=["web", "code"],
        score_columns={"s": "a score"},
        **options,
    ) as writer:
        for i in range(n):
            writer.append(
                tokens[i, : valid[i]],
                source="web" if i % 2 else "code",
                doc_id=2**40 + i,
                doc_offset=i * T,
                next_token=None if following[i] < 0 else int(following[i]),
                scores={"s": i / 3},
            )
    return tokens, valid, following


def expected_targets(tokens, valid, following, missing):
    targets = np.full(tokens.shape, missing, np.int64)
    for i, (row, size) in enumerate(zip(tokens, valid, strict=True)):
        targets[i, : size - 1] = row[1:size]
        targets[i, size - 1] = following[i] if following[i] >= 0 else missing
    return targets


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
@pytest.mark.parametrize("shard_bytes", [1 << 30, 13 * 4096], ids=["one", "many"])
def test_what_is_written_is_read(tmp_path, dtype, shard_bytes):
    tokens, valid, following = write(tmp_path / "set", dtype=dtype, n=200, shard_bytes=shard_bytes)
    ds = data.open(tmp_path / "set")
    assert (len(ds.manifest.shards) > 1) == (shard_bytes < 1 << 30)
    assert len(ds) == 200
    assert all(np.array_equal(ds[i], tokens[i]) for i in range(200))
    assert ds[0].dtype == ds.token_dtype == dtype
    assert np.array_equal(ds.column("valid_len"), valid)
    assert np.array_equal(ds.column("next_token"), np.where(following < 0, 0xFFFFFFFF, following))
    assert np.array_equal(ds.column("doc_id"), 2**40 + np.arange(200))
    assert np.array_equal(ds.column("doc_offset"), np.arange(200) * T)
    assert np.array_equal(ds.column("original_index"), np.arange(200))
    assert [ds.sources[s] for s in ds.column("source")[:2]] == ["code", "web"]
    assert np.array_equal(ds.column("s"), (np.arange(200) / 3).astype(np.float32))
    report = ds.verify()
    assert (report.chunks, report.tokens) == (200, valid.sum())


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
@pytest.mark.parametrize("out", ["uint8", "uint16", "uint32", "int32", "int64"])
def test_gather(tmp_path, dtype, out):
    tokens, valid, following = write(tmp_path / "set", dtype=dtype, n=40)
    ds = data.open(tmp_path / "set")
    ids = np.random.default_rng(2).permutation(40)[:33]
    if np.iinfo(out).max < ds.vocab_size - 1:
        with pytest.raises(ValueError, match="must hold every token"):
            ds.gather(ids, out=out)
        return
    got, targets = ds.gather(ids, out=out)
    assert got.dtype == targets.dtype == out
    assert np.array_equal(got, tokens[ids])
    missing = -100 if out.startswith("int") else 0
    assert np.array_equal(targets, expected_targets(tokens, valid, following, missing)[ids])
    assert ds.gather(ids, out=out, targets=False)[1] is None
