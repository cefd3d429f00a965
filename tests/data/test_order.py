"""Orders as values, and what they compile to."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.data_sets import write_data_set

from fluxcore import _core
from fluxcore.data import Order
from fluxcore.data.ranking import ordered_key, rank_chunks

ORDERS = [
    Order.sorted("score"),
    Order.sorted("score", descending=True),
    Order.shuffled(),
    Order.bucketed("score"),
    Order.bucketed("score", edges=[50], shuffle=False),
]


@pytest.fixture(scope="module")
def ds(tmp_path_factory):
    return write_data_set(tmp_path_factory.mktemp("data") / "set")


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


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="`order` must be one of ascending, descending, random, bucketed, got 'paced'"):
        Order.from_name("paced", column="score")
    with pytest.raises(ValueError, match="got 'ascnding'\n\nDid you mean 'ascending'"):
        Order.from_name("ascnding", column="score")
    with pytest.raises(ValueError, match="`kind` must be one of sorted, shuffled, bucketed, got 'interleaved'"):
        Order.from_dict({"kind": "interleaved", "column": "score"})
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
    chunks = np.array(sorted(subset), dtype=np.uint64)
    assert np.array_equal(np.sort(epoch(order, ds, number, seed=seed, subset=chunks)), chunks)


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
