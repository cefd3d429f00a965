"""A set of more shards than may be mapped at once reads as any other, and what was handed out stays."""

import functools
import gc
from pathlib import Path

import numpy as np
import pytest
from support.data_sets import write_data_set

import fluxcore.data
from fluxcore import _core
from fluxcore.data import Loader, Order, columns

CHUNKS = 60
KEPT = 2  # maps that nobody holds, under a limit of 4


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    ds = write_data_set(tmp_path_factory.mktemp("data") / "set", CHUNKS, chunks_per_shard=5)
    assert len(ds.manifest.shards) > 3 * KEPT
    return ds


@pytest.fixture
def limited(plain, monkeypatch):
    monkeypatch.setattr(_core, "ShardSet", functools.partial(_core.ShardSet, map_limit=2 * KEPT))
    return fluxcore.data.open(plain.path)


def maps(path):
    """Maps of files in the folder that this process has; those of `plain` among them."""
    return sum(str(path) in line for line in Path("/proc/self/maps").read_text().splitlines())


def test_all_is_read_as_without_a_limit(plain, limited):
    everything = range(CHUNKS)
    for ours, theirs in zip(limited.gather(everything), plain.gather(everything), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for name in plain.columns:
        np.testing.assert_array_equal(limited.column(name), plain.column(name))
    assert limited.verify().tokens == plain.verify().tokens
    for threads in (0, 3):
        options = {"global_batch_size": 7, "threads": threads, "columns": ["score"], "drop_last": False}
        for ours, theirs in zip(*(Loader(ds, Order.shuffled(), **options) for ds in (limited, plain)), strict=True):
            np.testing.assert_array_equal(ours.tokens, theirs.tokens)
            assert repr(ours.meta) == repr(theirs.meta)


def test_views_keep_their_maps_and_nothing_else_does(plain, limited):
    everything = range(CHUNKS)
    before = maps(plain.path)
    for chunk in everything:
        np.testing.assert_array_equal(limited[chunk], plain[chunk])
    before_views = maps(plain.path)
    assert before_views - before <= KEPT + len(plain.manifest.shards)  # those of `plain` are kept for good
    views = [limited[chunk] for chunk in everything]
    scores = [limited._core.column(shard, "score") for shard in range(len(plain.manifest.shards))]
    limited.gather(everything)
    assert maps(plain.path) == len(plain.manifest.shards) * 2
    for chunk, view in enumerate(views):
        np.testing.assert_array_equal(view, plain[chunk])
    np.testing.assert_array_equal(np.concatenate(scores), plain.column("score"))
    del views, view
    assert maps(plain.path) == len(plain.manifest.shards) * 2
    del scores
    assert maps(plain.path) == len(plain.manifest.shards) + KEPT


def test_a_view_outlives_its_set(plain, limited):
    view, expected = limited[CHUNKS - 1], plain[CHUNKS - 1]
    before = maps(plain.path)
    del limited
    gc.collect()
    np.testing.assert_array_equal(view, expected)
    del view
    assert maps(plain.path) <= before


def test_no_more_shards_are_held_than_are_read(plain, limited, monkeypatch):
    plain.gather(range(CHUNKS))
    lasting = maps(plain.path)
    seen = []
    read = columns.copy_mapped
    monkeypatch.setattr(columns, "copy_mapped", lambda *a: seen.append(maps(plain.path) - lasting) or read(*a))
    limited.column("score")
    limited.verify(lambda done, chunks: seen.append(maps(plain.path) - lasting))
    assert len(seen) > 2 * len(plain.manifest.shards)  # at each shard of the column, and at each while verifying
    assert max(seen) <= KEPT + 1
