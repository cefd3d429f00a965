"""Filters by column: which chunks pass, and that a run goes on with the same ones."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxcore.data import Filter, Loader, Order


def make(ds, **options):
    return Loader(ds, Order.shuffled(), **({"global_batch_size": 4, "epochs": 2, "drop_last": False} | options))


def ids_of(loader):
    return [batch.meta.chunk_ids.tolist() for batch in loader]


bounds = st.none() | st.floats(-2, 6, width=32)


@settings(max_examples=40, deadline=None)
@given(bounds, bounds, st.none() | st.integers(0, 60), st.booleans())
def test_a_run_sees_what_passes_every_filter(ds, low, high, max_doc, with_subset):
    if (low is None and high is None) or (low is not None and high is not None and low > high):
        with pytest.raises(ValueError, match="`low` and `high` must be bounds of `score`"):
            Filter("score", low, high)
        return
    filters = [Filter("score", low, high)]
    expected = set(range(10, 40) if with_subset else range(50))
    expected &= {
        i for i, score in enumerate(ds.column("score").tolist())
        if (low is None or score >= low) and (high is None or score <= high)
    }  # fmt: skip
    if max_doc is not None:
        filters.append(Filter("doc_id", high=max_doc))
        expected &= set(np.flatnonzero(ds.column("doc_id") <= max_doc).tolist())
    options = {"where": filters, "subset": np.arange(10, 40) if with_subset else None}
    if not expected:
        with pytest.raises(ValueError, match="what `subset`, `where` and `mix` leave, must have at least one chunk"):
            make(ds, **options)
        return
    ids = np.concatenate(ids_of(make(ds, **options)))
    assert np.array_equal(np.sort(ids), np.repeat(sorted(expected), 2))


def test_percentiles_are_those_of_what_passes(ds):
    loader = Loader(ds, Order.bucketed("score", [50]), global_batch_size=1, where=Filter("score", low=1.0))
    scores = ds.column("score")[np.concatenate(ids_of(loader))]
    half = len(scores) // 2
    assert scores[:half].max() <= scores[half:].min()


def test_a_filter_is_a_plain_value_and_survives_a_resume(ds):
    where = Filter("score", 0.0, 2.5)
    assert Filter.from_dict(json.loads(json.dumps(where.to_dict()))) == where
    whole = ids_of(make(ds, where=where))
    for stop in range(len(whole)):
        one = make(ds, where=where)
        for _, _ in zip(range(stop), one, strict=False):
            pass
        two = make(ds, where=[where])
        two.load_state_dict(json.loads(json.dumps(one.state_dict())))
        assert ids_of(two) == whole[stop:]


def test_a_state_under_other_filters_is_refused(ds):
    state = make(ds, where=Filter("score", low=0.0)).state_dict()
    for other in (Filter("score", low=0.25), Filter("score", high=0.0), ()):
        with pytest.raises(ValueError, match=r"its 'where' is .*\n\nGive the filters that the run was started with"):
            make(ds, where=other).load_state_dict(state)


def test_what_is_no_filter_is_refused(ds):
    with pytest.raises(ValueError, match=r"`where` must name columns of the data set \(.*score.*\), got 'entropy'"):
        make(ds, where=Filter("entropy", low=1.0))
    with pytest.raises(TypeError, match="`where` must be a Filter or several, got function\n\nFor example Filter"):
        make(ds, where=[lambda values: values > 1])
    for low, high in ((None, None), (float("nan"), None), (2.0, 1.0)):
        with pytest.raises(ValueError, match="`low` and `high` must be bounds of `score`, one at least"):
            Filter("score", low, high)
