"""Resume is exact: the batches after a resume are those of the run that was never stopped."""

import json
import os
import pickle
import shutil
import uuid as uuids

import numpy as np
import pytest
import torch
from support.data_sets import write_data_set

import fluxcore.data
from fluxcore.data import Filter, Loader, Order, ShardWriter

FACTS = ("chunk_ids", "source", "doc_id", "doc_offset", "valid_len")


def make(ds, order=None, **options):
    """13 batches over two epochs; the seventh straddles them and the last is short."""
    options = {"global_batch_size": 8, "epochs": 2, "drop_last": False, "out": "int64", "prefetch": 3} | options
    return Loader(ds, order or Order.shuffled(), **options)


def same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.tokens, other.tokens)
        assert torch.equal(one.targets, other.targets)
        assert all(torch.equal(getattr(one.meta, name), getattr(other.meta, name)) for name in FACTS)


def take(loader, count):
    """Leave the loop after `count` batches, with others read ahead."""
    return [batch for _, batch in zip(range(count), loader, strict=False)] if count else []


ORDERS = [
    Order.shuffled(),
    Order.sorted("score"),
    Order.bucketed("score"),
    Order.jittered("score", 7),
    Order.interleaved("score", 3),
    Order.paced("score", "root", start=0.2, full_at=0.5),
    Order.shuffled().then(Order.sorted("score"), at=0.3).then(Order.jittered("score", 4), at=0.6),
]


@pytest.mark.parametrize("order", ORDERS, ids=lambda o: o.kind)
def test_resume_at_every_step_twice_in_a_row(ds, order):
    whole = list(make(ds, order))
    for first in range(len(whole) + 1):
        one = make(ds, order)
        same(take(one, first), whole[:first])
        two = make(ds, order)
        two.load_state_dict(json.loads(json.dumps(one.state_dict())))
        assert (two.step, two.epoch) == (first, first * 8 // 50)
        more = min(2, len(whole) - first)
        same(take(two, more), whole[first : first + more])
        three = make(ds, order)
        three.load_state_dict(two.state_dict())
        same(list(three), whole[first + more :])


def test_resume_on_another_world_size(ds):
    whole = list(make(ds))
    stopped = make(ds, rank=1, world_size=2)
    take(stopped, 5)
    shares = []
    for rank in range(4):
        resumed = make(ds, rank=rank, world_size=4)
        resumed.load_state_dict(stopped.state_dict())
        shares.append(list(resumed))
    for step, ranks in enumerate(zip(*shares, strict=True)):
        assert torch.equal(torch.cat([rank.tokens for rank in ranks]), whole[5 + step].tokens)


def test_the_state_counts_what_was_delivered_not_what_was_read_ahead(ds):
    loader = make(ds, prefetch=8)
    for count, _ in enumerate(loader, start=1):
        assert loader.state_dict()["step"] == count


def test_a_loaded_state_moves_a_loop_that_runs(ds):
    loader = make(ds)
    states, seen = [], []
    for batch in loader:
        seen.append(batch.meta.chunk_ids.tolist())
        states.append(loader.state_dict())
        if len(seen) == 6:
            loader.load_state_dict(states[1])
    assert seen[6:] == [batch.meta.chunk_ids.tolist() for batch in make(ds)][2:]


def test_a_finished_run_stays_finished_when_resumed(ds):
    loader = make(ds)
    assert len(list(loader)) == 13
    resumed = make(ds)
    resumed.load_state_dict(loader.state_dict())
    assert list(resumed) == []


def test_a_run_may_be_made_longer(ds):
    stopped = make(ds, epochs=1, drop_last=True)
    take(stopped, 6)
    resumed = make(ds)
    resumed.load_state_dict(stopped.state_dict())
    same(list(resumed), list(make(ds))[6:])
    ahead = make(ds)
    ahead.skip(12)
    with pytest.raises(ValueError, match="within this run of 6 steps, its 'step' is 12\n\nGive `epochs`"):
        stopped.load_state_dict(ahead.state_dict())


def test_a_run_planned_as_a_whole_may_not_be_made_longer(ds):
    for order in ORDERS[-2:]:
        state = make(ds, order).state_dict()
        with pytest.raises(ValueError, match="its 'positions' is 100, this loader's is 150\n\nThe order is planned"):
            make(ds, order, epochs=3).load_state_dict(state)


LARGE = {
    "edges": Order.bucketed("score", edges=range(5, 100, 5)),
    "chain": Order.paced("score", "root", start=0.5)
    .then(Order.jittered("score", 4), at=0.5)
    .then(Order.shuffled(), at=0.8),
}


@pytest.mark.parametrize("order", LARGE.values(), ids=LARGE)
def test_the_state_is_small(ds, order):
    where = Filter("score", -1.0, 5.0)
    loader = make(ds, order, seed=2**64 - 1, subset=np.arange(30), where=where, mix={"web": 0.6, "code": 0.4})
    assert len(json.dumps(loader.state_dict())) <= 1024


OTHER_RUNS = {
    "seed": ({"seed": 1}, "'seed' is 1, this loader's is 0\n\nGive the seed"),
    "order": ({"order": Order.sorted("score")}, "'order' is .*sorted.*, this loader's is .*shuffled"),
    "batch": ({"global_batch_size": 4}, "'global_batch_size' is 4, this loader's is 8\n\nThe ranks' number may change"),
    "subset": ({"subset": np.arange(20)}, "'subset' is '[0-9a-f]{32}', this loader's is None"),
}


@pytest.mark.parametrize(("other", "message"), OTHER_RUNS.values(), ids=OTHER_RUNS)
def test_the_state_of_another_run_is_refused(ds, other, message):
    loader = make(ds)
    take(loader, 2)
    with pytest.raises(ValueError, match=message):
        loader.load_state_dict(make(ds, **other).state_dict())
    assert loader.step == 2


def test_the_state_of_another_data_set_is_refused(ds, tmp_path):
    other = write_data_set(tmp_path / "other")
    with pytest.raises(ValueError, match=r"'uuid' is .*this loader's is .*\n\nOpen the data set"):
        make(ds).load_state_dict(make(other).state_dict())


def copy_of(ds, path):
    shutil.copytree(ds.path, path)
    return fluxcore.data.open(path)


def test_a_column_added_later_does_not_refuse_an_older_state(ds, tmp_path):
    copy = copy_of(ds, tmp_path / "set")
    copy.add_column("first", np.arange(50, dtype=np.float32))
    options = {"order": Order.sorted("first"), "where": Filter("first", low=3), "mix": {"web": 1, "code": 2}}
    whole = list(make(copy, **options))
    stopped = make(copy, **options)
    take(stopped, 4)
    copy.add_column("later", np.zeros(50, np.float32), definition="nothing")
    resumed = make(fluxcore.data.open(tmp_path / "set"), **options)
    resumed.load_state_dict(stopped.state_dict())
    same(list(resumed), whole[4:])


@pytest.mark.parametrize(
    "options",
    [
        {"order": Order.sorted("own")},
        {"where": Filter("own", low=0)},
        {"order": Order.shuffled().then(Order.sorted("own"), 0.5)},
    ],
    ids=["order", "where", "then"],
)
def test_other_values_in_a_column_that_decides_are_refused(ds, tmp_path, options):
    one, other = copy_of(ds, tmp_path / "one"), copy_of(ds, tmp_path / "other")
    one.add_column("own", np.arange(50, dtype=np.float32))
    other.add_column("own", np.arange(50, dtype=np.float32)[::-1])
    assert one.uuid == other.uuid
    with pytest.raises(ValueError, match=r"'columns' is .*\n\nThe columns that the run goes by were written anew"):
        make(other, **options).load_state_dict(make(one, **options).state_dict())
    make(other).load_state_dict(make(one).state_dict())  # nothing goes by it here


@pytest.mark.parametrize("change", ["tokens", "chunks", "score"])
def test_other_tokens_chunks_or_stored_scores_are_refused(tmp_path, change):
    """Even under the same identity."""
    uuid = uuids.UUID(int=7)
    sets = []
    for name in ("one", "other"):
        changed = name == "other"
        with ShardWriter(
            tmp_path / name, chunk_tokens=4, vocab_size=10, sources=["web"], score_columns={"score": ""}, uuid=uuid
        ) as writer:
            for chunk in range(16 + 4 * (changed and change == "chunks")):
                tokens = np.full(4, 1 + (changed and change == "tokens" and chunk == 9), np.uint16)
                score = float(chunk + (changed and change == "score" and chunk == 9))
                writer.append(tokens, source="web", doc_id=chunk, doc_offset=0, scores={"score": score})
        sets.append(fluxcore.data.open(tmp_path / name))
    one, other = (make(each, Order.sorted("score"), global_batch_size=4) for each in sets)
    with pytest.raises(ValueError, match=r"'shards' is .*\n\nThe tokens or the chunks are not those of the run"):
        other.load_state_dict(one.state_dict())


@pytest.mark.parametrize("state", [{}, {"format": 2}, {"format": 1}], ids=str)
def test_what_is_no_state_is_refused(ds, state):
    with pytest.raises(ValueError, match="`state` must"):
        make(ds).load_state_dict(state)


@pytest.mark.parametrize("step", [-1, 14, 1.0, None])
def test_a_step_outside_the_run_is_refused(ds, step):
    with pytest.raises(ValueError, match="within this run of 13 steps"):
        make(ds).load_state_dict(make(ds).state_dict() | {"step": step})


def test_a_pickled_loader_goes_on_where_it_was(ds):
    loader = make(ds, Order.bucketed("score"), columns=["score"], subset=np.arange(0, 50, 2))
    take(loader, 3)
    copy = pickle.loads(pickle.dumps(loader))
    same(list(copy), list(loader))


def test_a_forked_child_reads_for_itself(ds):
    loader = make(ds, threads=2)
    whole = list(make(ds))
    take(loader, 4)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            same(list(loader), whole[4:])
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    same(list(loader), whole[4:])
