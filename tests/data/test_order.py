"""Orders as values, and what they compile to."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fluxcore import _core
from fluxcore.data import Order
from fluxcore.data.ranking import ordered_key, rank_chunks

ORDERS = [
    Order.sorted("score"),
    Order.sorted("score", descending=True),
    Order.shuffled(),
    Order.bucketed("score"),
    Order.bucketed("score", edges=[50], shuffle=False),
    Order.jittered("score", 8),
    Order.interleaved("score", 3),
    Order.paced("score"),
    Order.paced("score", "root", start=0.5, full_at=0.9, descending=True),
    Order.paced(None, "discrete", start=0.5, full_at=0.6, random=True, levels=3),
    Order.shuffled().then(Order.sorted("score"), at=0.3),
    Order.paced("score").then(Order.jittered("score", 4), at=0.5).then(Order.shuffled(), at=0.8),
]


def epoch(order, ds, number=0, **options):
    compiled = order.compile(ds, **options)
    return compiled.chunks_at(number * compiled.epoch_size, compiled.epoch_size).astype(np.int64)


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_an_order_is_a_plain_value(order):
    assert Order.from_dict(json.loads(json.dumps(order.to_dict()))) == order
    assert hash(Order.from_dict(order.to_dict())) == hash(order)
    assert sum(order == other for other in ORDERS) == 1


def test_names():
    assert Order.from_name("ascending", column="score") == Order.sorted("score")
    assert Order.from_name("descending", column="score") == Order.sorted("score", descending=True)
    assert Order.from_name("random") == Order.from_name("random", column="score") == Order.shuffled()
    assert Order.from_name("bucketed", column="score") == Order.bucketed("score", edges=[10, 25, 50, 75, 90])
    assert Order.from_name("jittered", column="score", window=9) == Order.jittered("score", 9)
    assert Order.from_name("interleaved", column="score", n=4) == Order.interleaved("score", 4)
    assert Order.from_name("paced", column="score", pacing="log") == Order.paced("score", "log")
    assert Order.from_name("paced", random=True) == Order.paced(None, random=True)
    with pytest.raises(TypeError, match="window"):
        Order.from_name("random", window=3)


def test_unknown_names_are_refused_with_the_known_ones():
    known = "ascending, descending, random, bucketed, jittered, interleaved, paced"
    with pytest.raises(ValueError, match=f"`order` must be one of {known}, got 'easy'"):
        Order.from_name("easy", column="score")
    with pytest.raises(ValueError, match="got 'ascnding'\n\nDid you mean 'ascending'"):
        Order.from_name("ascnding", column="score")
    with pytest.raises(ValueError, match=r"`kind` must be one of sorted, shuffled, .*, paced, chain, got 'spiral'"):
        Order.from_dict({"kind": "spiral", "column": "score"})
    with pytest.raises(ValueError, match="no unknown keys"):
        Order.from_dict({"kind": "sorted", "column": "score", "windw": 3})
    with pytest.raises(ValueError, match="`column` must name the column that the order 'descending' goes by"):
        Order.from_name("descending")
    with pytest.raises(ValueError, match="`column` of a shuffled order must be None, got 'score'"):
        Order.from_dict({"kind": "shuffled", "column": "score"})


@pytest.mark.parametrize("edges", [[0], [100], [50, 50], [75, 25], [float("nan")]], ids=str)
def test_edges_must_rise_within_the_percentiles(edges):
    with pytest.raises(ValueError, match="`edges` must rise from above 0 to below 100"):
        Order.bucketed("score", edges=edges)


@pytest.mark.parametrize("descending", [False, True])
def test_sorted_goes_by_value_and_breaks_ties_by_document(ds, descending):
    ids = epoch(Order.sorted("score", descending), ds)
    sign = -1 if descending else 1
    keys = [
        (sign * ds.column("score")[i], *(ds.column(name)[i] for name in ("source", "doc_id", "doc_offset")), i)
        for i in range(len(ds))
    ]
    assert [keys[i] for i in ids] == sorted(keys)
    assert np.array_equal(epoch(Order.sorted("score", descending), ds, 3), ids)


def test_an_empty_bucket_list_and_a_single_bucket_are_whole_epochs(ds):
    assert np.array_equal(np.sort(epoch(Order.bucketed("score", edges=[]), ds)), np.arange(50))
    assert np.array_equal(epoch(Order.bucketed("score", edges=[], shuffle=False), ds), np.arange(50))


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("count", [1, 3, 30, 50])
def test_every_bucket_is_visited_in_turn(ds, count, shuffle):
    edges = [10, 25, 50, 75, 90]
    subset = np.arange(count, dtype=np.uint64)
    ranking = epoch(Order.sorted("score"), ds, subset=subset)
    ids = epoch(Order.bucketed("score", edges, shuffle), ds, subset=subset)
    bounds = [0, *(count * edge // 100 for edge in edges), count]
    for low, high in pairwise(bounds):
        bucket = ids[low:high]
        assert np.array_equal(np.sort(bucket), np.sort(ranking[low:high]))
        assert shuffle or np.array_equal(bucket, np.sort(bucket))
    if count == 50:
        again = epoch(Order.bucketed("score", edges, shuffle), ds, 1, subset=subset)
        assert np.array_equal(ids, again) != shuffle


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(ORDERS), st.sets(st.integers(0, 49)), st.integers(0, 2**64 - 1), st.integers(0, 9))
def test_every_order_visits_every_chunk_of_its_subset_once(ds, order, subset, seed, number):
    assume(order.kind != "interleaved" or len(subset) >= 3)
    assume(order.kind != "chain" or number == 0)  # planned for a run of one epoch
    chunks = np.array(sorted(subset), dtype=np.uint64)
    assert np.array_equal(np.sort(epoch(order, ds, number, seed=seed, subset=chunks)), chunks)


def test_jittered_and_interleaved_arrange_the_sorted_order(ds):
    ranked = epoch(Order.sorted("score", descending=True), ds)
    rank = np.argsort(ranked)
    jittered = epoch(Order.jittered("score", 6, descending=True), ds, seed=3)
    assert 0 < np.abs(rank[jittered] - np.arange(50)).max() < 6
    assert not np.array_equal(jittered, epoch(Order.jittered("score", 6, descending=True), ds, 1, seed=3))
    interleaved = epoch(Order.interleaved("score", 4, descending=True), ds)
    assert np.array_equal(interleaved, np.concatenate([ranked[start::4] for start in range(4)]))
    for start in range(0, 48, 12):  # each stretch spans the range
        assert np.ptp(ds.column("score")[interleaved[start : start + 12]]) > 0.8 * np.ptp(ds.column("score"))


BAD_FIELDS = {
    "no window": (lambda: Order.jittered("score", 0), "`window` must be a whole number of places, 1 at least, got 0"),
    "half a pass": (lambda: Order.interleaved("score", 2.5), "`strides` must be a whole number of passes"),
    "no levels": (lambda: Order.paced("score", "discrete", levels=0), "`levels` must be a whole number"),
    "no such pacing": (
        lambda: Order.paced("score", "rot"),
        "`pacing` must be one of linear.*got 'rot'\n\nDid you mean",
    ),
    "no start": (lambda: Order.paced("score", start=0), r"`start` must be .* within \(0, 1\], got 0"),
    "start NaN": (lambda: Order.paced("score", start=float("nan")), "`start` must be .*, got nan"),
    "full late": (lambda: Order.paced("score", full_at=1.5), r"`full_at` must be .* within \[0, 1\], got 1.5"),
    "no column": (lambda: Order.paced(None), "`column` of a paced order must be the name of a column"),
    "at 0": (
        lambda: Order.shuffled().then(Order.sorted("score"), at=0),
        "`at` must be .* above 0.0 and below 1, got 0.0",
    ),
    "at 1": (lambda: Order.shuffled().then(Order.sorted("score"), at=1), "below 1, got 1.0"),
    "back": (
        lambda: Order.shuffled().then(Order.sorted("score"), at=0.5).then(Order.shuffled(), at=0.4),
        "above 0.5 and below 1, got 0.4\n\nShares of orders that follow one another are all of the whole run",
    ),
}


@pytest.mark.parametrize(("make", "message"), BAD_FIELDS.values(), ids=BAD_FIELDS)
def test_orders_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_more_passes_than_chunks_are_refused(ds):
    with pytest.raises(ValueError, match="`n` must be at most the 50 chunks, got 51"):
        Order.interleaved("score", 51).compile(ds)
    with pytest.raises(ValueError, match="`n` must be at most the 50 chunks, got 51"):
        Order.shuffled().then(Order.interleaved("score", 51), at=0.5).compile(ds)


def test_an_unknown_column_is_refused(ds):
    with pytest.raises(ValueError, match=r"`column` must be .*score.*, got 'entropy'\n\nScores are added by"):
        Order.sorted("entropy").compile(ds)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_have_64_bits(ds, seed):
    with pytest.raises(ValueError, match=rf"`seed` must be within \[0, 2\^64\), got {seed}"):
        Order.shuffled().compile(ds, seed=seed)


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32)), st.booleans())
def test_keys_sort_as_numbers_do_with_nan_last(values, descending):
    keys = ordered_key(values, descending=descending)
    order = np.argsort(keys, kind="stable")
    expected = np.argsort(-values if descending else values, kind="stable")
    assert np.array_equal(order, expected)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**64 - 1)), max_size=40))
def test_radix_argsort_by_two_keys_is_lexsort(rows):
    major, minor = (np.array([row[i] for row in rows], dtype=np.uint64) for i in (0, 1))
    permutation = np.arange(len(rows), dtype=np.uint64)
    for keys in (minor, major):
        _core.radix_argsort(keys, permutation)
    assert np.array_equal(permutation, np.lexsort((minor, major)))


def test_document_order_is_not_taken_for_granted(tmp_path, ds):
    """A data set whose chunks stand out of document order still breaks ties by document."""
    ranked = rank_chunks(ds, "valid_len")
    keys = np.lexsort(tuple(ds.column(name) for name in ("doc_offset", "doc_id", "source", "valid_len")))
    assert np.array_equal(ranked, keys)
    assert np.any(np.diff(ds.column("source").astype(int)) < 0)
