"""What a loader delivers: the right rows, in the right order, whatever reads them."""

import pickle

import numpy as np
import pytest
import torch
from support.data_sets import VOCAB_SIZE

import fluxcore.data
from fluxcore.data import Loader, Order, ShardWriter

ORDERS = {
    "ascending": Order.sorted("score"),
    "descending": Order.sorted("score", descending=True),
    "random": Order.shuffled(),
    "bucketed": Order.bucketed("score"),
    "jittered": Order.jittered("score", 9),
    "interleaved": Order.interleaved("score", 5),
    "paced": Order.paced("score", "log", start=0.3),
    "chain": Order.shuffled().then(Order.sorted("score"), at=0.3),
}


def ids_of(loader):
    return [batch.meta.chunk_ids.tolist() for batch in loader]


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_rows_are_the_chunks_that_the_order_names(ds, order, threads):
    loader = Loader(
        ds, order, global_batch_size=8, epochs=2, out="int64", columns=["score"], threads=threads, drop_last=False
    )
    expected = order.compile(ds, positions=2 * len(ds)).chunks_at(0, 2 * len(ds)).astype(np.int64)
    assert len(loader) == 13
    seen = []
    for tokens, targets, meta in loader:
        ids = meta.chunk_ids.numpy()
        seen.append(ids)
        wanted_tokens, wanted_targets = ds.gather(ids, out="int64")
        assert tokens.dtype == targets.dtype == torch.int64
        assert np.array_equal(tokens, wanted_tokens)
        assert np.array_equal(targets, wanted_targets)
        for row, chunk in enumerate(ids):
            assert np.array_equal(tokens[row], ds[int(chunk)])
        for name in ("source", "doc_id", "doc_offset", "valid_len"):
            assert np.array_equal(getattr(meta, name), ds.column(name)[ids].astype(np.int64))
        assert meta.scores["score"].dtype == torch.float32
        assert np.array_equal(meta.scores["score"], ds.column("score")[ids])
    assert np.array_equal(np.concatenate(seen), expected)
    assert [len(ids) for ids in seen] == [8] * 12 + [4]


def test_targets_are_the_next_tokens_and_minus_100_where_there_is_none(ds):
    loader = Loader(ds, Order.sorted("original_index"), global_batch_size=10, out="int64")
    tokens, targets, meta = next(iter(loader))
    assert torch.equal(targets[0, :-1], tokens[0, 1:])
    assert targets[0, -1] == ds.column("next_token")[0]
    assert meta.valid_len[4] == 13
    assert torch.equal(targets[4, :12], tokens[4, 1:13])
    assert targets[4, 12:].tolist() == [-100] * 4


@pytest.mark.parametrize(("out", "dtype"), [(None, torch.uint16), ("uint16", torch.uint16), ("uint32", torch.uint32)])
def test_tokens_come_in_the_dtype_asked_for(ds, out, dtype):
    tokens, targets, meta = next(iter(Loader(ds, Order.shuffled(), global_batch_size=4, out=out)))
    assert tokens.dtype == targets.dtype == dtype
    assert np.array_equal(tokens.numpy(), ds.gather(meta.chunk_ids.numpy(), out="int64")[0])


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("batch", [24, 40, 56])
def test_global_batches_are_the_same_on_any_world_size(ds, order, batch):
    """Also the short one at the end, of 4, 20 or 44 rows: with up to 8 ranks, some get no row of the first."""
    options = {"global_batch_size": batch, "epochs": 2, "drop_last": False, "out": "int64", "threads": 1}
    alone = list(Loader(ds, order, **options))
    for world_size in range(1, 9):
        if batch % world_size:
            continue
        ranks = [list(Loader(ds, order, rank=rank, world_size=world_size, **options)) for rank in range(world_size)]
        assert {len(batches) for batches in ranks} == {len(alone)}
        for step, whole in enumerate(alone):
            shares = [batches[step] for batches in ranks]
            assert max(map(rows, shares)) - min(map(rows, shares)) <= 1
            assert torch.equal(torch.cat([share.tokens for share in shares]), whole.tokens)
            assert torch.equal(torch.cat([share.targets for share in shares]), whole.targets)
            assert torch.equal(torch.cat([share.meta.chunk_ids for share in shares]), whole.meta.chunk_ids)


def rows(batch):
    return len(batch.tokens)


def test_random_and_sorted_runs_see_the_same_chunks(ds):
    delivered = [
        np.concatenate(ids_of(Loader(ds, order, global_batch_size=7, epochs=3, drop_last=False)))
        for order in ORDERS.values()
        if order.kind != "paced"  # sees the first chunks more often
    ]
    for ids in delivered:
        assert np.array_equal(np.sort(ids), np.repeat(np.arange(len(ds)), 3))
    assert len({tuple(ids) for ids in delivered}) == len(ORDERS) - 1


def test_a_batch_may_be_kept_and_changed(ds):
    loader = Loader(ds, Order.shuffled(), global_batch_size=8, out="int64", prefetch=1)
    kept = list(loader)
    copies = [batch.tokens.clone() for batch in kept]
    for batch in kept:
        batch.targets.zero_()
    again = list(loader)
    assert all(torch.equal(batch.tokens, copy) for batch, copy in zip(kept, copies, strict=True))
    assert all(bool(batch.targets.any()) for batch in again)


def test_what_is_known_about_a_batch_is_its_own_also_when_first_asked_for_late_or_elsewhere(ds):
    loader = Loader(ds, Order.shuffled(), global_batch_size=7, epochs=9, drop_last=False, columns=["score"])
    batches = list(loader)  # of more than one piece of memory, the last one short
    assert len(batches) > 64
    for step, batch in enumerate(batches):
        ids = loader.explain(step).chunk_ids
        for meta in (batch.meta, pickle.loads(pickle.dumps(batch.meta))):
            for name in ("source", "doc_id", "doc_offset", "valid_len"):
                assert np.array_equal(getattr(meta, name), ds.column(name)[ids])
            assert np.array_equal(meta.chunk_ids, ids)
            assert np.array_equal(meta.scores["score"], ds.column("score")[ids])


@pytest.mark.parametrize("threads", [0, 2])
def test_a_run_without_targets_has_the_same_tokens_and_the_same_state(ds, threads):
    options = {"global_batch_size": 8, "out": "int64", "threads": threads}
    whole, alone = Loader(ds, Order.shuffled(), **options), Loader(ds, Order.shuffled(), **options, targets=False)
    for expected, batch in zip(whole, alone, strict=True):
        assert torch.equal(batch.tokens, expected.tokens)
        assert batch.targets.shape == (8, 0)
        assert batch.targets.dtype == torch.int64
        assert torch.equal(batch.meta.chunk_ids, expected.meta.chunk_ids)
        assert alone.state_dict() == whole.state_dict()


def test_tokens_are_pinned_only_where_cuda_is_there(ds):
    batch = next(iter(Loader(ds, Order.shuffled(), global_batch_size=8, pin=True)))
    assert batch.tokens.is_pinned() == torch.cuda.is_available()


def test_the_length_of_a_run(ds):
    assert len(Loader(ds, Order.shuffled(), global_batch_size=8)) == 6
    assert len(Loader(ds, Order.shuffled(), global_batch_size=8, drop_last=False)) == 7
    assert len(Loader(ds, Order.shuffled(), global_batch_size=8, epochs=4)) == 25
    assert len(Loader(ds, Order.shuffled(), global_batch_size=8, total_steps=100)) == 100
    larger_than_the_set = Loader(ds, Order.shuffled(), global_batch_size=64, drop_last=False)
    assert [sorted(ids) for ids in ids_of(larger_than_the_set)] == [list(range(50))]


def test_total_steps_go_on_over_as_many_epochs_as_it_takes(ds):
    ids = np.concatenate(ids_of(Loader(ds, Order.shuffled(), global_batch_size=64, total_steps=3)))
    assert len(ids) == 192
    for epoch in range(3):
        assert np.array_equal(np.sort(ids[epoch * 50 :][:50]), np.arange(50))


def test_a_loop_goes_on_where_it_stopped_and_starts_over_at_its_end(ds):
    loader = Loader(ds, Order.shuffled(), global_batch_size=10)
    whole = ids_of(loader)
    assert ids_of(loader) == whole
    first = [batch.meta.chunk_ids.tolist() for _, batch in zip(range(2), loader, strict=False)]
    loader.rewind()
    assert first == whole[:2]
    loader.skip(1)
    for batch in loader:
        assert batch.meta.chunk_ids.tolist() == whole[1]
        break
    assert loader.step == 2
    assert ids_of(loader) == whole[2:]


def test_a_skip_within_a_loop_is_followed(ds):
    loader = Loader(ds, Order.shuffled(), global_batch_size=5)
    whole = ids_of(loader)
    seen = []
    for batch in loader:
        seen.append(batch.meta.chunk_ids.tolist())
        if loader.step == 3:
            loader.skip(4)
    assert seen == whole[:3] + whole[7:]


def test_explain_says_what_a_step_delivers(ds):
    loader = Loader(ds, Order.bucketed("score"), global_batch_size=8, epochs=2)
    for step, batch in enumerate(loader):
        explained = loader.explain(step)
        assert np.array_equal(explained.chunk_ids, batch.meta.chunk_ids)
        assert np.array_equal(explained.scores["score"], ds.column("score")[explained.chunk_ids])
        assert np.array_equal(explained.epoch * 50 + explained.position, np.arange(8) + step * 8)
    assert set(loader.explain(6).epoch) == {0, 1}


def test_subset_orders_these_chunks_alone(ds):
    subset = np.arange(1, 50, 3)[::-1]
    loader = Loader(ds, Order.sorted("score"), global_batch_size=4, drop_last=False, subset=subset)
    ids = np.concatenate(ids_of(loader))
    assert np.array_equal(np.sort(ids), np.sort(subset))
    assert np.all(np.diff(ds.column("score")[ids]) >= 0)
    shuffled = Loader(ds, Order.shuffled(), global_batch_size=4, drop_last=False, subset=subset)
    assert np.array_equal(np.sort(np.concatenate(ids_of(shuffled))), np.sort(subset))


BAD_ARGUMENTS = {
    "batch of nothing": ({"global_batch_size": 0}, "`global_batch_size` must be >= 1, got 0"),
    "ranks do not divide": ({"world_size": 3}, "divisible by `world_size` = 3, got 8\n\nThe nearest size that is: 9"),
    "rank too high": ({"rank": 2, "world_size": 2}, r"`rank` must be within \[0, 2\)"),
    "two lengths": ({"epochs": 1, "total_steps": 5}, "not both"),
    "no epochs": ({"epochs": 0}, "`epochs` must be >= 1, got 0"),
    "batch too large": ({"global_batch_size": 64}, "must be <= the 50 chunks of the run, got 64"),
    "narrow out": ({"out": "uint8"}, "`out` must be one of uint16, uint32, int32, int64"),
    "no such out": ({"out": "float"}, "`out` must be one of"),
    "no such column": ({"columns": ["entropy"]}, r"\(score\), got 'entropy'"),
    "not a score": ({"columns": ["source"]}, r"\(score\), got 'source'"),
    "seed": ({"seed": -1}, "`seed` must be within"),
    "threads": ({"threads": -1}, "`threads` must be >= 0, got -1"),
    "subset twice": ({"subset": np.array([3, 3])}, "chunk 3 more than once"),
    "subset range": ({"subset": np.array([0, 50])}, r"within \[0, 50\), got 0 to 50"),
    "subset floats": ({"subset": np.array([0.5])}, "1-D integer array"),
    "subset of nothing": ({"subset": np.array([], np.int64)}, "at least one chunk, got none"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_bad_arguments_are_refused(ds, arguments, message):
    with pytest.raises(ValueError, match=message):
        Loader(ds, Order.shuffled(), **{"global_batch_size": 8, **arguments})


def test_an_empty_data_set_is_refused(tmp_path):
    with ShardWriter(tmp_path / "set", chunk_tokens=16, vocab_size=VOCAB_SIZE, sources=["web"]):
        pass
    with pytest.raises(ValueError, match="at least one chunk, got none"):
        Loader(fluxcore.data.open(tmp_path / "set"), Order.shuffled(), global_batch_size=1, drop_last=False)


def test_skip_and_explain_stay_within_the_run(ds):
    loader = Loader(ds, Order.shuffled(), global_batch_size=8)
    for steps in (-1, 7):
        with pytest.raises(ValueError, match=rf"`steps` must be within \[0, 6\], the batches left, got {steps}"):
            loader.skip(steps)
        with pytest.raises(ValueError, match="`step` must be within"):
            loader.explain(steps)
    loader.skip(6)
    assert list(loader) == []
