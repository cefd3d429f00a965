"""An order that is written beside the chunks is the one that a sort would find."""

import numpy as np
import pytest
from support.data_sets import write_data_set

import fluxcore.data
from fluxcore.data import Filter, Loader, Order, ranking, sort, sort_index
from fluxcore.data.ranking import rank_chunks


@pytest.fixture
def ds(tmp_path):
    return write_data_set(tmp_path / "set", 300)


@pytest.mark.parametrize("memory_bytes", [None, 40_000, 1 << 30])
@pytest.mark.parametrize("descending", [False, True])
def test_orders_take_it_in_place_of_sorting(ds, descending, memory_bytes, monkeypatch):
    subset = np.flatnonzero(np.arange(300) % 7 != 2).astype(np.uint64)
    expected = [rank_chunks(ds, "score", descending=descending, subset=part) for part in (None, subset)]
    result = sort_index(ds, "score", descending, memory_bytes=memory_bytes)
    assert (result.path, result.chunks, result.already_sorted) == (ds.path, 300, False)
    assert sort_index(ds.path, "score", descending).already_sorted
    indexed = fluxcore.data.open(ds.path)
    indexed.verify()
    monkeypatch.setattr(ranking._core, "radix_argsort", lambda *_: pytest.fail("it was sorted"))
    found = [rank_chunks(indexed, "score", descending=descending, subset=part) for part in (None, subset)]
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one, other)
    assert {path.name for path in ds.path.iterdir() if path.is_dir()} == set()


def test_a_loader_delivers_the_same_with_and_without(ds):
    def batches(data):
        order = Order.paced("score", full_at=0.5).then(Order.sorted("score"), at=0.8)
        loader = Loader(data, order, global_batch_size=10, epochs=2, where=Filter("score", low=-0.5), out="int64")
        return [batch.tokens.tolist() for batch in loader]

    before = batches(ds)
    sort_index(ds, "score")
    assert batches(fluxcore.data.open(ds.path)) == before


def test_a_sorted_copy_leaves_it_behind(ds, tmp_path):
    sort_index(ds, "score", True)
    indexed = fluxcore.data.open(ds.path)
    sort(indexed, tmp_path / "sorted", "score")
    copy = fluxcore.data.open(tmp_path / "sorted")
    assert set(copy.manifest.columns) == {"score"}
    assert sort(indexed, tmp_path / "sorted", "score").already_sorted


def test_an_order_that_a_user_made_up_is_refused(ds):
    ds.add_column("order:score:ascending", np.full(300, 4, np.uint32))
    with pytest.raises(ValueError, match="column `order:score:ascending` must hold each chunk id once"):
        Order.sorted("score").compile(ds)


def test_what_cannot_be_ordered_by_is_refused(ds):
    with pytest.raises(ValueError, match="`column` must be a column of the data set"):
        sort_index(ds, "entropy", memory_bytes=1 << 20)
    long = "c" * 120
    ds.add_column(long, np.arange(300))
    with pytest.raises(ValueError, match="cannot name a column"):
        sort_index(ds, long)


def test_an_empty_data_set_has_an_empty_order(tmp_path):
    with fluxcore.data.ShardWriter(
        tmp_path / "set", chunk_tokens=4, vocab_size=10, sources=["web"], score_columns=["score"]
    ):
        pass
    for memory_bytes, descending in ((None, False), (1 << 20, True)):
        assert sort_index(tmp_path / "set", "score", descending, memory_bytes=memory_bytes).chunks == 0
