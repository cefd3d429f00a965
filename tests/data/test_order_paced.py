"""Paced orders: what the pool is at every position, and that nothing is left out or drawn too early."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxcore import _core
from fluxcore.data import Order
from fluxcore.data.pacing import PACINGS, pool_sizes

# Growth y that a pacing has reached at time x, as the papers write it.
GROWTH = {
    "linear": lambda x: x,
    "quadratic": lambda x: x**2,
    "root": math.sqrt,
    "step": math.floor,
    "exponential": lambda x: math.expm1(10 * x) / math.expm1(10),
    "log": lambda x: 1 + 0.1 * math.log(x + math.exp(-10)),
    "discrete": lambda x: math.floor(4 * x) / 4,
}

# First chunks of a run of 100, 20 of them at first, all 100 from position 60 on. Everybody's runs depend on them.
GOLDEN = {
    (0, False): [10, 2, 5, 4, 12, 8, 19, 17],
    (30, False): [45, 54, 57, 49, 23, 56, 13, 58],
    (95, False): [92, 86, 64, 62, 43, 97, 72, 52],
    (0, True): [35, 50, 45, 51, 76, 17, 21, 13],
}


def paced(count, pools, seed=0, *, scattered=False):
    return _core.PacedOrder(None, count, pools, scattered, seed)


@pytest.mark.parametrize(("position", "scattered"), GOLDEN, ids=str)
def test_golden_vectors(position, scattered):
    pools = [(0, 20), (15, 40), (30, 60), (45, 80), (60, 100)]
    expected = GOLDEN[position, scattered]
    chunks = paced(100, pools, 2024, scattered=scattered).chunks_at(position, len(expected))
    assert chunks.tolist() == expected


@pytest.mark.parametrize("pacing", PACINGS)
@pytest.mark.parametrize(("chunks", "positions"), [(50, 50), (50, 120), (10_000, 30_000), (3, 1000)])
def test_pools_are_the_share_of_the_pacing(pacing, chunks, positions):
    start, full_at = 0.2, 0.7
    pools = pool_sizes(pacing, chunks=chunks, positions=positions, start=start, full_at=full_at, levels=4)
    first = max(round(start * chunks), 1)
    assert pools[0] == (0, first)
    assert pools == sorted(pools)
    full = full_at * positions
    assert pools[-1][0] <= math.ceil(full)
    assert pools[-1][1] == chunks
    begins, sizes = np.array(pools).T
    for position in range(math.ceil(full)):
        size = sizes[np.searchsorted(begins, position, side="right") - 1]
        now, before = (
            first + (chunks - first) * GROWTH[pacing](max(each, 0) / full) for each in (position, position - 1)
        )
        tolerance = 1 + max((chunks - first) / 128, 0.5) if pacing not in ("step", "discrete") else 1
        assert before - tolerance <= size <= now + tolerance


@st.composite
def growing_pools(draw):
    steps = draw(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 25)), max_size=8))
    pools = [(0, draw(st.integers(1, 25)))]
    for length, growth in steps:
        pools.append((pools[-1][0] + length, pools[-1][1] + growth))
    return pools


@settings(max_examples=150, deadline=None)
@given(growing_pools(), st.integers(0, 2**64 - 1), st.integers(0, 60))
def test_passes_draw_the_whole_pool_and_nothing_twice(pools, seed, more):
    """The definition, followed draw by draw: also `rest_of_pass` and `unseen` at every position."""
    count, length = pools[-1][1], pools[-1][0] + more
    order = paced(count, pools, seed)
    chunks = order.chunks_at(0, length).tolist()
    drawn, ever = set(), set()
    for position, chunk in enumerate(chunks):
        pool = next(size for begin, size in reversed(pools) if begin <= position)
        if len(drawn) == pool:
            drawn = set()
        missing = set(range(count)) - drawn if position and drawn else set()
        assert len(drawn) in (0, count) or set(order.rest_of_pass(position).tolist()) == missing
        assert set(order.unseen(position).tolist()) == set(range(count)) - ever
        assert chunk < pool
        assert chunk not in drawn
        drawn.add(chunk)
        ever.add(chunk)
    assert set(order.unseen(length).tolist()) == set(range(count)) - ever


@settings(max_examples=50, deadline=None)
@given(growing_pools(), st.data())
def test_batches_may_be_cut_anywhere(pools, data):
    order = paced(pools[-1][1], pools, 3, scattered=True)
    whole = order.chunks_at(0, 300)
    start = data.draw(st.integers(0, 300))
    length = data.draw(st.integers(0, 300 - start))
    assert np.array_equal(order.chunks_at(start, length), whole[start : start + length])


def test_every_chunk_of_the_pool_is_as_likely():
    """Chi-square at five standard deviations, of a draw from chunks that were carried through two stretches."""
    seeds, pools = 3000, [(0, 6), (2, 9), (4, 12)]
    seen = np.zeros(12)
    for seed in range(seeds):
        seen[paced(12, pools, seed).chunks_at(8, 1)[0]] += 1
    # A chunk of the first pool is still there with probability 4/6 * 5/7, and of the second with 5/7.
    left = np.array([4 / 6 * 5 / 7] * 6 + [5 / 7] * 3 + [1] * 3)
    expected = seeds * left / left.sum()
    assert abs(((seen - expected) ** 2 / expected).sum() - 11) < 5 * np.sqrt(22)


@pytest.mark.parametrize(
    "pools", [[], [(1, 10)], [(0, 0), (1, 10)], [(0, 5), (3, 9)], [(0, 5), (9, 7), (3, 10)], [(0, 7), (3, 5), (5, 10)]]
)
def test_what_cannot_be_pools_is_refused(pools):
    with pytest.raises(ValueError, match="`pools` must begin at position 0, rise, and end with all 10 ranks"):
        paced(10, pools)


@pytest.mark.parametrize("pacing", ["linear", "root", "log"])
@pytest.mark.parametrize("epochs", [1, 3, 10])
def test_a_paced_run_shows_every_chunk_and_none_too_early(ds, pacing, epochs):
    order = Order.paced("score", pacing, start=0.2, full_at=0.5)
    chunks = order.compile(ds, positions=50 * epochs, seed=5).chunks_at(0, 50 * epochs).astype(np.int64)
    times = np.bincount(chunks, minlength=50)
    assert times.min() >= 1
    if epochs == 1:
        assert times.max() == 1
    rank = np.argsort(Order.sorted("score").compile(ds).chunks_at(0, 50))
    for position, chunk in enumerate(chunks):
        share = 0.2 + 0.8 * GROWTH[pacing](min(position / (25 * epochs), 1))
        assert rank[chunk] < 50 * share + 1.5


ENOUGH = {"linear": 1, "root": 1, "log": 1, "quadratic": 2, "exponential": 2, "discrete": 2, "step": 3}


@pytest.mark.parametrize(("pacing", "epochs"), ENOUGH.items())
def test_how_many_epochs_the_defaults_take(ds, pacing, epochs):
    """As the documentation has it."""
    for allowed in (1, 2, 3, 10):
        if allowed >= epochs:
            Order.paced("score", pacing).compile(ds, positions=50 * allowed)
        else:
            with pytest.raises(ValueError, match="unseen"):
                Order.paced("score", pacing).compile(ds, positions=50 * allowed)


def test_the_control_has_the_same_pace_on_a_random_order(ds):
    rank = np.argsort(Order.sorted("score").compile(ds).chunks_at(0, 50))
    ordered, control = (
        rank[Order.paced("score", start=0.2, full_at=0.5, random=random).compile(ds, positions=200).chunks_at(0, 200)]
        for random in (False, True)
    )
    sizes = [len(set(ranks[:20])) for ranks in (ordered, control)]
    assert sizes[0] == sizes[1]  # as many chunks at first, but from everywhere
    assert ordered[:10].max() < 15
    assert control[:10].max() > 25


UNSEEN = {
    "pool too small for an epoch": (Order.paced("score", "step", start=0.5, full_at=0.6), 50),
    "full at the very end": (Order.paced("score", start=0.1, full_at=1.0), 200),
    "control": (Order.paced(None, "exponential", start=0.1, full_at=0.9, random=True), 100),
    "a run of half an epoch": (Order.paced("score"), 25),
}


@pytest.mark.parametrize(("order", "positions"), UNSEEN.values(), ids=UNSEEN)
def test_a_run_that_would_leave_chunks_unseen_is_refused(ds, order, positions):
    with pytest.raises(ValueError, match=r"this run would leave \d+ of 50 unseen") as error:
        order.compile(ds, positions=positions)
    assert "a larger `start`, a smaller `full_at`" in str(error.value)
    assert ("whose `score` is" in str(error.value)) == (order.column is not None)


def test_the_chunks_said_to_be_unseen_are(ds):
    order = Order.paced("score", "step", start=0.5, full_at=0.6)
    with pytest.raises(ValueError, match="unseen") as error:
        order.compile(ds, positions=50, seed=9)
    ranking = Order.sorted("score").compile(ds).chunks_at(0, 50)
    pools = pool_sizes("step", chunks=50, positions=50, start=0.5, full_at=0.6, levels=5)
    seen = set(_core.PacedOrder(ranking, 50, pools, False, 9).chunks_at(0, 50).tolist())
    missing = ds.column("score")[sorted(set(range(50)) - seen)]
    assert f"{len(missing)} of 50 unseen, whose `score` is {missing.min()} to {missing.max()}" in str(error.value)
