"""Mixtures: quotas that keep their shares row by row, and weights that change without a source losing its place."""

import json
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.mixtures import PERIOD, mixture_loader

import fluxcore.data
from fluxcore import _core
from fluxcore.data import Filter, Loader, Order, ShardWriter
from fluxcore.data.mixture import quantise


def ids_of(loader):
    return [batch.meta.chunk_ids.tolist() for batch in loader]


def sources_of(loader):
    return np.concatenate([batch.meta.source.numpy() for batch in loader])


def mixed(weights, sizes=None, begin=0, cursors=None):
    orders = [_core.RankedOrder(None, n, [(0, n, "forward", 1)], 0) for n in sizes or [10] * len(weights)]
    return _core.MixedOrder(orders, begin, cursors or [0] * len(weights), weights)


weight_lists = st.lists(st.floats(0, 1e6), min_size=1, max_size=8).filter(any).map(quantise)


@settings(max_examples=60, deadline=None)
@given(weight_lists, st.integers(0, 3 * PERIOD))
def test_every_source_is_less_than_a_row_away_from_its_share(weights, row):
    order = mixed(weights)
    sources, positions = order.places_at(row, 700)
    before = np.array(order.cursors_at(row))
    counts = before + np.cumsum(sources[:, None] == np.arange(len(weights)), axis=0)
    ideal = np.arange(row + 1, row + 701)[:, None] * np.array(weights) / PERIOD
    assert np.abs(counts - ideal).max() < 1
    assert before.sum() == row
    assert np.array_equal(order.cursors_at(row + 700), counts[-1])
    rows = np.arange(700)
    assert np.array_equal(positions, np.vstack([before, counts])[rows, sources])


def test_quotas_are_dealt_by_earliest_deadline():
    """Against the definition, in fractions."""
    weights = quantise([0.5, 0.3, 0.2])
    counts, expected = [0, 0, 0], []
    for row in range(2000):
        due = {
            -(-(counts[s] + 1) * PERIOD // weights[s]): s
            for s in reversed(range(3))
            if counts[s] * PERIOD // weights[s] <= row
        }
        expected.append(due[min(due)])
        counts[expected[-1]] += 1
    assert np.array_equal(mixed(weights).places_at(0, 2000)[0], expected)


def test_golden_vectors():
    order = mixed(quantise([0.5, 0.3, 0.2]))
    first, late = [0, 1, 0, 2, 0, 1, 0, 1, 0, 2], [0, 1, 0, 2, 0, 1, 0, 2, 0, 1]
    assert order.places_at(0, 10)[0].tolist() == first
    assert order.places_at(10**12, 10)[0].tolist() == late


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1e300), min_size=1, max_size=20).filter(any))
def test_weights_keep_their_proportions(weights):
    whole = quantise(weights)
    assert sum(whole) == PERIOD
    total = math.fsum(weight / max(weights) for weight in weights)
    for share, weight in zip(whole, weights, strict=True):
        assert (share > 0) == (weight > 0)
        assert abs(share - PERIOD * weight / max(weights) / total) < 20


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 200), weight_lists.filter(lambda w: len(w) == 2)), max_size=5),
    st.integers(0, 900),
    st.integers(0, 300),
)
def test_a_change_of_weights_makes_no_source_skip_or_repeat(changes, start, length):
    order, begin = mixed(quantise([1, 2]), [7, 11]), 0
    for rows, weights in changes:
        begin += rows
        order = order.with_weights(begin, weights)
    sources, positions = order.places_at(0, 1200)
    for source, size in enumerate((7, 11)):
        assert np.array_equal(positions[sources == source], np.arange(np.sum(sources == source)))
        chunks = order.chunks_at(0, 1200)[sources == source]
        assert np.array_equal(chunks, np.arange(len(chunks)) % size)
    assert np.array_equal(order.chunks_at(start, length), order.chunks_at(0, 1200)[start : start + length])


def test_each_source_goes_through_the_order_and_then_begins_again(ds):
    loader = mixture_loader(ds, Order.sorted("score"), columns=["score"], total_steps=15)
    batches = list(loader)
    sources = np.concatenate([batch.meta.source.numpy() for batch in batches])
    ids = np.concatenate([batch.meta.chunk_ids.numpy() for batch in batches])
    scores = ds.column("score")
    for number, weight in ((0, 0.7), (1, 0.3)):
        own = ids[sources == number]
        size = int(np.sum(ds.column("source") == number))
        assert size == 25
        assert abs(len(own) - 120 * weight) < 1.01
        for first in range(0, len(own), size):
            assert np.all(np.diff(scores[own[first : first + size]]) >= 0)
            assert len(set(own[first : first + size])) == len(own[first : first + size])
    assert np.sum(sources == 0) > 75  # web began its fourth epoch
    for batch in batches:
        assert int((batch.meta.source == 0).sum()) in (5, 6)


def test_sources_are_shuffled_on_their_own(ds):
    ids = np.concatenate(ids_of(mixture_loader(ds, mix={"web": 1, "code": 1}, total_steps=12)))
    assert not np.array_equal(np.argsort(ids[0:48:2]), np.argsort(ids[1:48:2]))


def test_a_weight_of_zero_leaves_a_source_out_until_it_is_set(ds):
    loader = mixture_loader(ds, mix={"web": 1, "code": 0})
    assert set(sources_of(loader)) == {0}
    loader = mixture_loader(ds, mix={"web": 1, "code": 0})
    loader.set_weights({"web": 0, "code": 5}, at_step=9)
    sources = sources_of(loader)
    assert not sources[:72].any()
    assert sources[72:].all()
    assert set(sources_of(mixture_loader(ds, mix={"code": 2}))) == {1}


@pytest.mark.parametrize("order", [Order.shuffled(), Order.sorted("score"), Order.paced("score", start=0.5)], ids=str)
def test_global_batches_are_the_same_on_any_world_size(ds, order):
    options = {"global_batch_size": 24, "total_steps": 7}
    alone = mixture_loader(ds, order, **options)
    changes = order.kind != "paced"
    if changes:
        alone.set_weights({"web": 0.2, "code": 0.8}, at_step=3)
    whole = list(alone)
    for world_size in (1, 2, 3, 4, 6, 8):
        shares = []
        for rank in range(world_size):
            loader = mixture_loader(ds, order, rank=rank, world_size=world_size, threads=1, **options)
            if changes:
                loader.set_weights({"web": 0.2, "code": 0.8}, at_step=3)
            shares.append(list(loader))
        for step, batch in enumerate(whole):
            assert torch.equal(torch.cat([share[step].tokens for share in shares]), batch.tokens)
            assert torch.equal(torch.cat([share[step].meta.chunk_ids for share in shares]), batch.meta.chunk_ids)


def run_with_changes(loader, until=None):
    """Ids of batches; the weights change in the loop as training would have it, and one change is planned ahead."""
    seen = []
    for batch in loader:
        seen.append(batch.meta.chunk_ids.tolist())
        if loader.step == 3:
            loader.set_weights({"web": 1, "code": 3})
        if loader.step == 5:
            loader.set_weights({"web": 0, "code": 1}, at_step=9)
        if loader.step == until:
            break
    return seen


def test_resume_at_every_step_twice_in_a_row_across_changes_and_epoch_ends(ds):
    whole = run_with_changes(mixture_loader(ds))
    assert len(whole) == 14
    for first in range(1, 14):
        one = mixture_loader(ds)
        assert run_with_changes(one, first) == whole[:first]
        two = mixture_loader(ds, rank=1, world_size=4)
        two.load_state_dict(json.loads(json.dumps(one.state_dict())))
        run_with_changes(two, min(first + 2, 14))
        three = mixture_loader(ds)
        three.load_state_dict(two.state_dict())
        assert three.step == min(first + 2, 14)
        assert run_with_changes(three) == whole[first + 2 :]


def test_what_a_change_replaces_was_read_ahead_in_vain(ds):
    ahead = mixture_loader(ds, prefetch=10)
    assert run_with_changes(ahead) == run_with_changes(mixture_loader(ds, threads=0))


def test_explain_says_what_a_step_delivers_as_far_as_weights_are_known(ds):
    loader = mixture_loader(ds, Order.bucketed("score"))
    for step, ids in enumerate(run_with_changes(loader)):
        explained = loader.explain(step)
        assert explained.chunk_ids.tolist() == ids
        assert np.array_equal(explained.scores["score"], ds.column("score")[ids])
        assert np.all(explained.position < 25)
    assert explained.epoch.max() >= 2
    resumed = mixture_loader(ds, Order.bucketed("score"))
    resumed.load_state_dict(loader.state_dict())
    with pytest.raises(ValueError, match="`step` must be >= 9, where the weights of the loaded state begin, got 8"):
        resumed.explain(8)
    with pytest.raises(ValueError, match="got 0\n\nA state holds no earlier weights"):
        resumed.rewind()
    loader.rewind()
    assert ids_of(loader)[:4] == [loader.explain(step).chunk_ids.tolist() for step in range(4)]


def test_the_length_of_a_mixture(ds):
    assert len(mixture_loader(ds, total_steps=None)) == 6
    assert len(mixture_loader(ds, total_steps=None, epochs=2, mix={"web": 1})) == 6


def test_filters_and_subsets_hold_within_sources(ds):
    loader = mixture_loader(ds, where=Filter("score", high=2.0), subset=np.arange(40), total_steps=20)
    ids = np.concatenate(ids_of(loader))
    expected = [i for i in range(40) if ds.column("score")[i] <= 2.0]
    assert set(ids) == set(expected)


def test_the_state_is_small(tmp_path):
    names = [f"source number {n}" for n in range(1000)]
    with ShardWriter(tmp_path / "set", chunk_tokens=4, vocab_size=10, sources=names) as writer:
        for name in names:
            writer.append(np.zeros(4, np.uint16), source=name, doc_id=0, doc_offset=0)
    many = Loader(
        fluxcore.data.open(tmp_path / "set"),
        Order.shuffled(),
        global_batch_size=64,
        total_steps=10**6,
        mix={name: 1 + n % 7 for n, name in enumerate(names)},
    )
    assert len(json.dumps(many.state_dict())) <= 1024 + 16 * 1000
    many.skip(900_000)
    many.set_weights(dict.fromkeys(names, 1.0))
    assert len(json.dumps(many.state_dict())) <= 1024 + 16 * 1000
    resumed = pickle.loads(pickle.dumps(many))
    assert np.array_equal(resumed.explain(900_001).chunk_ids, many.explain(900_001).chunk_ids)
