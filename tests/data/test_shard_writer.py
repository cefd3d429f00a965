import numpy as np
import pytest
from support.shards import VOCAB, T, write

import fluxcore.data as data
from fluxcore.errors import DatasetLockedError


def writer(path, **options):
    return data.ShardWriter(path, **({"chunk_tokens": T, "vocab_size": VOCAB, "sources": ["web"]} | options))


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".fluxcore.lock")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 128256}, r'`dtype` must hold 128256 token ids .*holds 65536\n\nUse dtype="uint32"'),
        ({"vocab_size": 300, "dtype": "uint8"}, 'Use dtype="uint16"'),
        ({"vocab_size": 2**32}, "`vocab_size` must be <= 4294967295, got 4294967296"),
        ({"vocab_size": 0}, "`vocab_size` must be >= 1, got 0"),
        ({"dtype": "int64"}, r"`dtype` must be one of \['uint8', 'uint16', 'uint32'\], got 'int64'"),
        ({"chunk_tokens": 0}, "`chunk_tokens` must be >= 1, got 0"),
        ({"sources": []}, "`sources` must be"),
        ({"sources": ["a", "a"]}, "distinct"),
        ({"sources": ["a\n"]}, "cannot name a source"),
        ({"sources": ["x" * 129]}, "cannot name a source"),
        ({"tokenizer": b"short"}, "16 bytes, got 5"),
        ({"shard_bytes": 100}, "`shard_bytes` must be within"),
        ({"shard_bytes": 2**41}, "`shard_bytes` must be within"),
        ({"sorted_by": ("missing", False)}, "`sorted_by` must be one of"),
        ({"resume": True}, "`uuid` must be given with `resume`"),
        ({"score_columns": ["a b"]}, "cannot name a column"),
        ({"score_columns": ["doc_id"]}, "is a standard column"),
        ({"score_columns": [f"s{i}" for i in range(125)]}, "add_column"),
    ],
)
def test_wrong_settings_are_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        writer(tmp_path / "set", **options)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("tokens", "given", "error", "message"),
    [
        ([1, 2, VOCAB], {}, ValueError, r"within \[0, 50256\], got 50257 at position 2\n\n.*`vocab_size`"),
        ([1, -7], {}, ValueError, "got -7 at position 1"),
        ([1, 70000], {}, ValueError, 'dtype="uint32"'),
        ([0.5], {}, TypeError, "`tokens` must be integers, got float64"),
        ([True], {}, TypeError, "must be integers, got bool"),
        ([], {}, ValueError, "1 to 16 tokens"),
        ([1] * (T + 1), {}, ValueError, r"1 to 16 tokens .* got shape \(17,\)"),
        ([[1]], {}, ValueError, "one dimension"),
        ([1], {"source": "books"}, ValueError, r"`source` must be one of \['web'\], got 'books'"),
        ([1], {"source": 1}, ValueError, "`source` must be within"),
        ([1], {"doc_id": -1}, ValueError, "`doc_id` must be within"),
        ([1], {"doc_offset": 2**32}, ValueError, "`doc_offset` must be within"),
        ([1], {"next_token": VOCAB}, ValueError, "`next_token` must be within"),
        ([1], {"next_token": -1}, ValueError, "`next_token` must be a token or None"),
        ([1], {"scores": {}}, ValueError, r"`scores` must give each of \['s'\], got \[\]"),
        ([1], {"scores": {"s": 1.0, "t": 1.0}}, ValueError, "must give each of"),
        ([1], {"scores": {"s": float("nan")}}, ValueError, "score `s` must be finite float32 values, got nan"),
        ([1], {"scores": {"s": 1e39}}, ValueError, "must be finite"),
        ([1], {"scores": {"s": "high"}}, TypeError, "score `s` must be numbers"),
        ([1], {"mask": [True]}, ValueError, "token_mask=True"),
    ],
)
def test_a_chunk_that_cannot_be_stored_leaves_no_trace(tmp_path, tokens, given, error, message):
    good = {"source": "web", "doc_id": 1, "scores": {"s": 1.0}}
    with writer(tmp_path / "set", score_columns=["s"]) as w:
        w.append([1, 2], **good)
        with pytest.raises(error, match=message):
            w.append(tokens, **(good | given))
        w.append([3, 4], **good)
    ds = data.open(tmp_path / "set")
    assert ds.gather([0, 1])[0][:, :2].tolist() == [[1, 2], [3, 4]]
    ds.verify()


def test_a_batch_is_checked_as_a_whole(tmp_path):
    batch = {"sources": ["web"] * 2, "doc_ids": [1, 2], "doc_offsets": [0, 0]}
    with writer(tmp_path / "set") as w:
        tokens = np.ones((2, T), int)
        tokens[1, 3] = VOCAB
        with pytest.raises(ValueError, match=r"got 50257 at position \(1, 3\)"):
            w.append_batch(tokens, **batch)
        tokens[1, 3] = 0
        with pytest.raises(ValueError, match=r"`doc_id` must have shape \(2,\)"):
            w.append_batch(tokens, **(batch | {"doc_ids": [1]}))
        with pytest.raises(ValueError, match="`valid_len` must be within"):
            w.append_batch(tokens, **batch, valid_lens=[0, T])
        with pytest.raises(ValueError, match=r"shape \[n, 16\]"):
            w.append_batch(tokens[:, :5], **batch)
        w.append_batch(tokens, **batch, valid_lens=[2, T], next_tokens=[-1, 9])
        tokens[:] = 7  # the writer keeps no reference
    ds = data.open(tmp_path / "set")
    assert ds[0].tolist() == [1, 1] + [0] * (T - 2)
    assert ds.gather([1])[1][0, -1] == 9


def test_an_empty_set_is_a_data_set(tmp_path):
    with writer(tmp_path / "set", score_columns=["s"]):
        pass
    ds = data.open(tmp_path / "set")
    assert len(ds) == 0
    assert list(ds) == []
    assert ds.column("s").shape == ds.column("doc_id").shape == (0,)
    assert ds.gather([])[0].shape == (0, T)
    assert ds.verify().chunks == 0
    with pytest.raises(IndexError):
        ds[0]


def test_an_exception_publishes_nothing(tmp_path):
    def interrupted():
        with writer(tmp_path / "set", shard_bytes=13 * 4096) as w:
            for i in range(1000):
                w.append([1], source="web", doc_id=i)
            assert files(tmp_path / "set")  # finished shards
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert files(tmp_path / "set") == []
    with pytest.raises(FileNotFoundError, match="manifest"):
        data.open(tmp_path / "set")
    write(tmp_path / "set")


def test_a_finished_data_set_is_not_written_over(tmp_path):
    tokens = write(tmp_path / "set")
    with pytest.raises(FileExistsError, match="holds a data set already"):
        writer(tmp_path / "set")
    assert np.array_equal(data.open(tmp_path / "set")[3], tokens[3])


def test_a_closed_writer_refuses(tmp_path):
    w = writer(tmp_path / "set")
    w.close()
    w.close()
    with pytest.raises(ValueError, match="the writer is closed"):
        w.append([1], source="web", doc_id=0)


def test_one_writer_a_folder(tmp_path):
    with writer(tmp_path / "set") as first:
        with pytest.raises(DatasetLockedError, match=r"process \d+ on '.+'"):
            writer(tmp_path / "set")
        first.append([1], source="web", doc_id=0)
    assert len(data.open(tmp_path / "set")) == 1


def test_a_declared_order_is_checked_and_kept(tmp_path):
    def chunks(path, scores, *, descending):
        with writer(path, score_columns=["s"], sorted_by=("s", descending), parent="ab" * 16, shard_bytes=50_000) as w:
            for i, score in enumerate(scores):
                w.append([1], source="web", doc_id=i, scores={"s": score})

    chunks(tmp_path / "up", np.arange(500) // 2, descending=False)
    ds = data.open(tmp_path / "up")
    assert len(ds.manifest.shards) > 1
    assert ds.manifest.sorted_by == data.SortKey(column="s", descending=False)
    assert ds.manifest.parent == "ab" * 16
    assert (ds.manifest.shards[0].first_key, ds.manifest.shards[-1].last_key) == (0.0, 249.0)
    ds.verify()
    chunks(tmp_path / "down", [3, 2, 2, 1], descending=True)
    data.open(tmp_path / "down").verify()
    with pytest.raises(ValueError, match=r"`s` must ascend as `sorted_by` says, got 1\.0 after 2\.0"):
        chunks(tmp_path / "wrong", [1, 2, 1], descending=False)
    assert files(tmp_path / "wrong") == []


def test_original_indices_are_unique(tmp_path):
    batch = {"sources": "web", "doc_ids": [0, 1], "doc_offsets": [0, 0]}
    tokens = np.ones((2, T), int)
    w = writer(tmp_path / "set")
    w.append_batch(tokens, **batch, original_index=[5, 3])
    w.append_batch(tokens, **batch, original_index=[4, 5])
    with pytest.raises(ValueError, match="`original_index` must be unique, got 5"):
        w.close()
    assert files(tmp_path / "set") == []
    with writer(tmp_path / "set") as w:
        w.append_batch(tokens, **batch, original_index=[5, 3])
        with pytest.raises(ValueError, match="for every batch or for none"):
            w.append_batch(tokens, **batch)
    assert data.open(tmp_path / "set").column("original_index").tolist() == [5, 3]


def test_the_same_input_gives_the_same_bytes(tmp_path):
    import uuid

    for name in ("a", "b"):
        write(tmp_path / name, n=300, shard_bytes=13 * 4096, uuid=uuid.UUID(int=5))
    assert files(tmp_path / "a") == files(tmp_path / "b")
    for name in files(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert data.open(tmp_path / "a").manifest.hash == data.open(tmp_path / "b").manifest.hash


def test_shards_keep_to_their_size(tmp_path):
    write(tmp_path / "set", n=1000, shard_bytes=60_000)
    shards = data.open(tmp_path / "set").manifest.shards
    assert len(shards) > 1
    assert all(shard.bytes <= 60_000 for shard in shards)


def test_a_mask_takes_targets_out(tmp_path):
    mask = np.random.default_rng(0).random((3, T)) < 0.5
    with writer(tmp_path / "set", token_mask=True) as w:
        tokens = np.arange(3 * T).reshape(3, T)
        w.append_batch(tokens[:2], sources="web", doc_ids=[0, 1], doc_offsets=[0, 0], next_tokens=[9, 9], mask=mask[:2])
        w.append(tokens[2, :5], source="web", doc_id=2, mask=mask[2, :5])
        with pytest.raises(ValueError, match="`mask` must be given"):
            w.append([1], source="web", doc_id=0)
        with pytest.raises(TypeError, match="`mask` must be booleans"):
            w.append([1], source="web", doc_id=0, mask=[1])
    ds = data.open(tmp_path / "set")
    assert np.array_equal(ds.token_mask(1), mask[1])
    assert np.array_equal(ds.token_mask(2), np.where(np.arange(T) < 5, mask[2], False))
    following = np.concatenate([tokens[:2, 1:], [[9], [9]]], axis=1)
    assert np.array_equal(ds.gather([0, 1])[1], np.where(mask[:2], following, -100))
    ds.verify()
