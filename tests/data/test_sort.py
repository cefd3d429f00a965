"""A physically sorted copy has the same chunks, in the order that the loader would have computed."""

import numpy as np
import pytest
import torch
from support.data_sets import flip_bit, write_data_set

import fluxcore.data
from fluxcore.data import Loader, Order, ShardWriter, sort
from fluxcore.data.ranking import rank_chunks
from fluxcore.errors import CorruptShardError


@pytest.fixture(scope="module")
def ds(tmp_path_factory):
    ds = write_data_set(tmp_path_factory.mktemp("data") / "set")
    ds.add_column("cluster", (np.arange(50) * 7 % 50).astype(np.uint16), definition="unsigned")
    return ds


def row_by_row(ds, chunk):
    return ds[chunk].tolist(), *(ds.column(name)[chunk].item() for name in ds.columns)


@pytest.mark.parametrize("descending", [False, True])
def test_a_sorted_copy_has_every_chunk_with_all_its_columns(ds, tmp_path, descending):
    done = []
    result = sort(ds, tmp_path / "sorted", "score", descending, progress=lambda at, of: done.append((at, of)))
    assert (result.path, result.chunks, result.already_sorted) == (tmp_path / "sorted", 50, False)
    assert done[-1] == (50, 50)
    copy = fluxcore.data.open(tmp_path / "sorted")
    ranking = rank_chunks(ds, "score", descending=descending)
    assert [row_by_row(copy, i) for i in range(50)] == [row_by_row(ds, int(i)) for i in ranking]
    assert copy.columns == ds.columns
    assert copy.manifest.columns == ds.manifest.columns
    assert copy.sources == ds.sources
    assert copy.vocab_size == ds.vocab_size
    assert copy.uuid != ds.uuid
    assert copy.manifest.parent == ds.manifest.hash
    assert (copy.manifest.sorted_by.column, copy.manifest.sorted_by.descending) == ("score", descending)
    copy.verify()


def test_the_loader_delivers_the_same_batches_from_the_copy(ds, tmp_path):
    sort(ds, tmp_path / "sorted", "score")
    copy = fluxcore.data.open(tmp_path / "sorted")
    for order in (Order.sorted("score"), Order.sorted("score", descending=True), Order.bucketed("score")):
        ours, theirs = (list(Loader(data, order, global_batch_size=10, out="int64")) for data in (ds, copy))
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one.tokens, other.tokens)
            assert torch.equal(one.targets, other.targets)


def test_a_sorted_data_set_is_read_in_place(ds, tmp_path):
    """No key is read and no ranking is held, so that the order compiles at once whatever the size."""
    sort(ds, tmp_path / "sorted", "score")
    copy = fluxcore.data.open(tmp_path / "sorted")
    assert rank_chunks(copy, "score") is None
    assert rank_chunks(copy, "score", descending=True) is not None
    subset = np.array([3, 8, 40], np.uint64)
    assert rank_chunks(copy, "score", subset=subset) is subset


def test_the_original_order_can_be_had_back(ds, tmp_path):
    sort(ds, tmp_path / "sorted", "score", descending=True)
    copy = fluxcore.data.open(tmp_path / "sorted")
    ids = Order.sorted("original_index").compile(copy).chunks_at(0, 50)
    assert [row_by_row(copy, int(i)) for i in ids] == [row_by_row(ds, i) for i in range(50)]


def test_a_finished_sort_is_not_done_again(ds, tmp_path):
    sort(ds, tmp_path / "sorted", "score")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "sorted").iterdir()}
    assert sort(ds, tmp_path / "sorted", "score").already_sorted
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "sorted").iterdir()} == before


def test_what_a_sort_killed_behind_its_publication_left_is_taken_away(ds, tmp_path):
    sort(ds, tmp_path / "sorted", "score")
    work = tmp_path / "sorted" / ".sort"
    work.mkdir()
    (work / "keys-000").write_bytes(b"keys")
    assert sort(ds, tmp_path / "sorted", "score").already_sorted
    assert not work.exists()


def test_another_data_set_is_not_written_over(ds, tmp_path):
    sort(ds, tmp_path / "sorted", "score")
    before = fluxcore.data.open(tmp_path / "sorted").manifest
    with pytest.raises(FileExistsError, match="sorted"):
        sort(ds, tmp_path / "sorted", "score", descending=True)
    assert fluxcore.data.open(tmp_path / "sorted").manifest == before
    with pytest.raises(ValueError, match="`dst` must be another folder"):
        sort(ds, ds.path, "score")


def test_a_corrupt_chunk_stops_the_sort_and_publishes_nothing(tmp_path):
    ds = write_data_set(tmp_path / "set")
    shard = sorted((tmp_path / "set").glob("*.fxs"))[0]
    flip_bit(shard, ds[3].tobytes())
    with pytest.raises(CorruptShardError, match=shard.name):
        sort(fluxcore.data.open(tmp_path / "set"), tmp_path / "sorted", "score")
    with pytest.raises(FileNotFoundError):
        fluxcore.data.open(tmp_path / "sorted")


@pytest.mark.parametrize("column", ["entropy", "source"])
def test_only_scores_are_sorted_by(ds, tmp_path, column):
    with pytest.raises(ValueError, match=rf"`column` must be a score of the data set \(score\), got '{column}'"):
        sort(ds, tmp_path / "sorted", column)
    assert not (tmp_path / "sorted").exists()


def test_an_empty_data_set_sorts_to_an_empty_one(tmp_path):
    with ShardWriter(
        tmp_path / "set", chunk_tokens=16, vocab_size=10, sources=["web"], score_columns={"score": "made up"}
    ):
        pass
    assert sort(tmp_path / "set", tmp_path / "sorted", "score").chunks == 0
    assert len(fluxcore.data.open(tmp_path / "sorted")) == 0
