"""Quantiles within a source: what they are, and that orders and filters go by them at once."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fluxcore.data
from fluxcore.data import Filter, Loader, Order, ShardWriter
from fluxcore.data.source_quantiles import source_quantiles

VALUES = st.sampled_from([-2.5, -0.0, 0.0, 0.5, 1e30]) | st.floats(-5, 5, width=32)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(VALUES, st.integers(0, 3)), max_size=40))
def test_the_definition(rows):
    """Chunk by chunk, in fractions; a half is rounded up."""
    values, sources = np.array([v for v, _ in rows], np.float32), np.array([s for _, s in rows], np.uint16)
    found = source_quantiles(values, sources)
    assert found.dtype == np.uint16
    for value, source, quantile in zip(values, sources, found.tolist(), strict=True):
        own = values[sources == source]
        rank = np.sum(own < value) + Fraction(int(np.sum(own == value)), 2)
        assert quantile == int(rank / len(own) * 65535 + Fraction(1, 2))


def test_all_of_the_range_is_used_and_integers_are_ranked_exactly():
    many = source_quantiles(np.arange(200_000), np.zeros(200_000, np.uint16))
    assert (many[0], many[-1]) == (0, 65535)
    assert np.array_equal(np.unique(many), np.arange(65536))
    large = np.array([(1 << 63) + 2, (1 << 63) + 1, (1 << 63) + 3], np.uint64)  # alike as floats
    assert source_quantiles(large, np.zeros(3, np.uint16)).argsort().tolist() == [1, 0, 2]


@pytest.fixture
def ds(tmp_path):
    """The second source is harder than the first throughout, and the third has one chunk."""
    with ShardWriter(
        tmp_path / "set", chunk_tokens=4, vocab_size=9, sources=["easy", "hard", "one"], score_columns=["s"],
        shard_bytes=60_000,
    ) as writer:  # fmt: skip
        rng = np.random.default_rng(2)
        for doc in range(1001):
            source = 2 if doc == 500 else doc % 2
            writer.append([1], source=source, doc_id=doc, scores={"s": 10 * source + rng.random()})
    return fluxcore.data.open(tmp_path / "set")


def test_they_are_a_column_of_every_shard(ds):
    assert len(ds.manifest.shards) > 1
    assert ds.add_source_quantiles("s", "doc_id") == ("s.source_quantile", "doc_id.source_quantile")
    assert ds.manifest.generation == 2
    assert ds.manifest.columns["s.source_quantile"].dtype == "uint16"
    assert "Quantile of s in the chunk's source" in ds.manifest.columns["s.source_quantile"].definition
    expected = source_quantiles(ds.column("s"), ds.column("source"))
    for seen in (ds, fluxcore.data.open(ds.path)):
        assert np.array_equal(seen.column("s.source_quantile"), expected)
    assert ds.verify().sidecars == len(ds.manifest.shards)
    assert ds.add_source_quantiles() == ()
    assert fluxcore.data.open(ds.path).manifest.generation == 2


def test_orders_and_filters_go_by_them(ds):
    (name,) = ds.add_source_quantiles("s")
    assert set(ds.column("source")[ids_of(ds, Order.sorted("s"))[:400]]) == {0}
    ids = ids_of(ds, Order.sorted(name))
    assert np.all(np.diff(ds.column(name)[ids].astype(int)) >= 0)
    for order in (Order.sorted(name), Order.bucketed(name), Order.paced(name, start=0.2)):
        shares = np.bincount(ds.column("source")[ids_of(ds, order)[:200]], minlength=3)
        assert abs(shares[0] - shares[1]) < 5 * np.sqrt(200)
    low = ids_of(ds, Order.shuffled(), where=Filter(name, high=65535 // 4))
    assert np.bincount(ds.column("source")[low]).tolist() == [125, 125]


def ids_of(ds, order, **options):
    loader = Loader(ds, order, global_batch_size=1, **options)
    return loader._compiled.chunks_at(0, len(loader)).astype(np.int64)


def test_a_sorted_copy_carries_them(ds, tmp_path):
    (name,) = ds.add_source_quantiles("s")
    fluxcore.data.sort(ds, tmp_path / "sorted", "s")
    copy = fluxcore.data.open(tmp_path / "sorted")
    assert np.array_equal(copy.column(name), ds.column(name)[copy.column("original_index")])


def test_one_chunk_and_none(tmp_path):
    for chunks in (0, 1):
        with ShardWriter(
            tmp_path / str(chunks), chunk_tokens=4, vocab_size=9, sources=["a", "b"], score_columns=["s"]
        ) as writer:
            for doc in range(chunks):
                writer.append([1], source="b", doc_id=doc, scores={"s": 3.0})
        ds = fluxcore.data.open(tmp_path / str(chunks))
        ds.add_source_quantiles("s")
        assert ds.column("s.source_quantile").tolist() == [32768] * chunks


def test_wrong_columns(ds):
    with pytest.raises(KeyError, match="no column `t`; there are"):
        ds.add_source_quantiles("s", "t")
    ds.add_column("x" * 120, np.zeros(len(ds)))
    with pytest.raises(ValueError, match="cannot name a column"):
        ds.add_source_quantiles("x" * 120)
    ds.add_source_quantiles("s")
    with pytest.raises(ValueError, match=r"column `s\.source_quantile` is there already"):
        ds.add_source_quantiles("s")
