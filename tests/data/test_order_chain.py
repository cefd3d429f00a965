"""Orders one after another: where they switch, and that the switch loses and repeats nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxcore import _core
from fluxcore.data import Order

PLAIN = [
    Order.sorted("score"),
    Order.shuffled(),
    Order.bucketed("score"),
    Order.jittered("score", 5),
    Order.interleaved("score", 4),
]


def run(order, ds, epochs=1, **options):
    return order.compile(ds, positions=50 * epochs, **options).chunks_at(0, 50 * epochs).astype(np.int64)


def test_shares_are_of_the_whole_run_however_a_chain_is_made():
    a, b, c = PLAIN[:3]
    assert a.then(b, at=0.2).then(c, at=0.5) == a.then(b.then(c, at=0.5), at=0.2)
    with pytest.raises(ValueError, match=r"above 0\.6 and below 1, got 0\.5"):
        a.then(b.then(c, at=0.5), at=0.6)


def test_a_warm_start_leaves_the_rest_in_order(ds):
    chunks = run(Order.shuffled().then(Order.sorted("score"), at=0.3), ds, seed=1)
    assert np.array_equal(np.sort(chunks), np.arange(50))
    assert np.array_equal(chunks[:15], Order.shuffled().compile(ds, seed=_key(1, 0)).chunks_at(0, 15))
    rest = np.array(sorted(set(range(50)) - set(chunks[:15].tolist())), np.uint64)
    assert np.array_equal(chunks[15:], Order.sorted("score").compile(ds, subset=rest).chunks_at(0, 35))


def _key(seed, link):
    return _core.derive_key(_core.derive_key(seed, 1), link)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 3), st.integers(0, 2**64 - 1))
def test_every_epoch_of_a_chain_is_whole(ds, data, epochs, seed):
    parts = data.draw(st.lists(st.sampled_from(PLAIN), min_size=2, max_size=4))
    shares = sorted(
        data.draw(st.lists(st.integers(1, 99), min_size=len(parts) - 1, max_size=len(parts) - 1, unique=True))
    )
    order = parts[0]
    for part, share in zip(parts[1:], shares, strict=True):
        order = order.then(part, at=share / 100)
    chunks = run(order, ds, epochs, seed=seed)
    for epoch in chunks.reshape(epochs, 50):
        assert np.array_equal(np.sort(epoch), np.arange(50))
    first = round(shares[0] / 100 * (50 * epochs))
    assert np.array_equal(chunks[:first], parts[0].compile(ds, seed=_key(seed, 0)).chunks_at(0, first))


def test_after_the_switch_each_epoch_is_shuffled_anew(ds):
    epochs = run(Order.sorted("score").then(Order.shuffled(), at=0.25), ds, 4).reshape(4, 50)
    assert np.array_equal(epochs[0], run(Order.sorted("score"), ds))
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_paced_then_shuffled(ds):
    order = Order.paced("score", "root", start=0.1, full_at=0.6).then(Order.shuffled(), at=0.8)
    chunks = run(order, ds)
    assert np.array_equal(np.sort(chunks), np.arange(50))
    alone = Order.paced("score", "root", start=0.1, full_at=0.6).compile(ds, seed=_key(0, 0)).chunks_at(0, 40)
    assert np.array_equal(chunks[:40], alone)
    early = run(Order.paced("score", "root", start=0.1, full_at=0.6).then(Order.shuffled(), at=0.3), ds, 3)
    assert np.bincount(early).min() >= 1  # the pool was not yet full: what never joined it comes next


def test_shuffled_then_paced(ds):
    warm = Order.shuffled().then(Order.paced("score", start=0.2, full_at=0.7), at=0.2)
    chunks = run(warm, ds)
    assert np.array_equal(np.sort(chunks), np.arange(50))
    rank = np.argsort(run(Order.sorted("score"), ds))
    assert rank[chunks[10:15]].mean() < rank[chunks[40:]].mean() - 15
    longer = run(warm, ds, 4)
    assert np.bincount(longer).min() >= 1
    assert rank[longer[40:60]].max() < 50 * (0.2 + 0.8 * 60 / 140) + 1  # on all chunks, at the pace of the whole run


def test_a_chain_whose_paced_part_leaves_chunks_unseen_is_refused(ds):
    step = Order.paced("score", "step", start=0.5, full_at=0.9)
    with pytest.raises(ValueError, match=r"would leave \d+ of 50 unseen, whose `score` is"):
        step.then(Order.sorted("score", descending=False), at=0.8).compile(ds, positions=50)
    late = Order.shuffled().then(Order.paced("score", full_at=1.0), at=0.9)
    with pytest.raises(ValueError, match="unseen"):
        late.compile(ds, positions=40)
    assert np.bincount(run(late, ds, 2)).min() >= 1  # the first epoch has shown everything


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(PLAIN), st.floats(0.05, 0.95), st.integers(0, 149), st.integers(0, 60))
def test_batches_may_be_cut_anywhere(ds, order, at, start, length):
    compiled = Order.shuffled().then(order, at=at).compile(ds, positions=150)
    assert np.array_equal(compiled.chunks_at(start, length), compiled.chunks_at(0, start + length)[start:])


@pytest.mark.parametrize("begins", [[], [1], [0, 5, 5], [0, 7, 3]])
def test_what_cannot_be_links_is_refused(begins):
    order = _core.RankedOrder(None, 3, [(0, 3, "forward", 1)], 0)
    with pytest.raises(ValueError, match="`links` must begin at position 0 and rise"):
        _core.ChainOrder([(begin, 0, order) for begin in begins], 3)
