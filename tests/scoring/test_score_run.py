"""Running a scorer over a data set: resumed after a kill, published whole, never over another's scores."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from support.token_sets import random_rows, write_tokens

import fluxcore.data
from fluxcore.errors import DatasetLockedError
from fluxcore.scoring import NGramScorer, score
from fluxcore.scoring.scorer import ChunkReader

V, T, N = 50, 8, 300


@pytest.fixture
def ds(tmp_path):
    rows = random_rows(N, chunk_tokens=T, vocab_size=V)
    return write_tokens(tmp_path / "ds", rows, chunk_tokens=T, vocab_size=V, shard_bytes=52_000)


def journals(ds):
    return list(ds.path.glob(".score-*"))


class Dies(Exception):  # noqa: N818
    pass


class DyingScorer(NGramScorer):
    """Dies at its `life`-th batch."""

    life = 1_000_000

    def score_batch(self, batch):
        self.life -= 1
        if self.life == 0:
            raise Dies
        return super().score_batch(batch)


def test_columns_do_not_depend_on_the_batch(ds, tmp_path):
    scorer = NGramScorer.fit(ds)
    calls = []
    one = score(ds, scorer, prefix="one", batch_size=1, progress=calls.append)
    many = score(ds, scorer, prefix="many", batch_size=77)
    assert one.tokens == many.tokens == ds.column("valid_len").sum()
    assert [call.done for call in calls] == list(range(1, N + 1))
    assert calls[-1].total == N
    assert calls[-1].tokens == one.tokens
    expected = scorer.score_batch(ChunkReader(ds)(np.arange(N)))
    reopened = fluxcore.data.open(ds.path)
    assert len(reopened.manifest.shards) > 1
    for name in scorer.columns:
        np.testing.assert_array_equal(reopened.column(f"one.{name}"), expected[name].astype(np.float32))
        np.testing.assert_array_equal(reopened.column(f"many.{name}"), reopened.column(f"one.{name}"))
    definition = reopened.manifest.columns["one.entropy_mean"].definition
    assert "positions 0..T-2" in definition
    assert scorer.fingerprint in definition
    assert not journals(ds)


def test_equal_chunks_have_equal_scores(tmp_path):
    rows = [([1, 2, 3, 1, 2], None), ([1, 2, 2], 4), ([1, 2, 3, 1, 2], 9)]
    ds = write_tokens(tmp_path / "ties", rows * 5, chunk_tokens=T, vocab_size=V)
    score(ds, NGramScorer.fit(ds), prefix="n", batch_size=4)
    means = ds.column("n.entropy_mean")
    assert len(np.unique(means)) == 2
    np.testing.assert_array_equal(means[0::3], means[2::3])


def test_work_done_is_not_done_again(ds):
    dying = DyingScorer.fit(ds)
    dying.life = 20
    with pytest.raises(Dies):
        score(ds, dying, batch_size=10, journal_seconds=0)
    assert not [name for name in ds.columns if name.startswith("lm.")]
    assert len(journals(ds)) == 1
    scorer = NGramScorer.fit(ds)
    report = score(ds, scorer, batch_size=10)
    assert report.resumed_chunks == 190
    assert report.tokens == ds.column("valid_len")[190:].sum()
    expected = scorer.score_batch(ChunkReader(ds)(np.arange(N)))
    for name, values in expected.items():
        np.testing.assert_array_equal(ds.column(f"lm.{name}"), values.astype(np.float32))
    again = score(ds, scorer)
    assert (again.resumed_chunks, again.tokens) == (N, 0)
    assert not journals(ds)


def test_a_killed_process_goes_on_where_it_was(ds):
    code = """
import sys, time
import fluxcore.data
from fluxcore.scoring import NGramScorer, score
ds = fluxcore.data.open(sys.argv[1])
def slow(progress):
    print(progress.done, flush=True)
    time.sleep(0.02)
score(ds, NGramScorer.fit(ds), batch_size=5, journal_seconds=0, progress=slow)
"""
    child = subprocess.Popen([sys.executable, "-c", code, str(ds.path)], stdout=subprocess.PIPE, text=True)
    with child:
        done = 0
        while done < 100:
            done = int(child.stdout.readline())
        os.kill(child.pid, signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    reopened = fluxcore.data.open(ds.path)
    assert reopened.columns == ds.columns
    scorer = NGramScorer.fit(reopened)
    report = score(reopened, scorer)
    assert 100 <= report.resumed_chunks < N
    expected = scorer.score_batch(ChunkReader(ds)(np.arange(N)))
    for name, values in expected.items():
        np.testing.assert_array_equal(reopened.column(f"lm.{name}"), values.astype(np.float32))


def test_a_killed_publication_is_completed(ds, monkeypatch):
    scorer = NGramScorer.fit(ds)

    def dies(*arguments):
        raise Dies

    with monkeypatch.context() as patch:
        patch.setattr(type(ds), "add_columns", dies)
        with pytest.raises(Dies):
            score(ds, scorer)
    reopened = fluxcore.data.open(ds.path)
    report = score(reopened, scorer)
    assert (report.resumed_chunks, report.tokens) == (N, 0)
    assert set(report.columns) <= set(reopened.columns)


def test_scores_of_another_scorer_are_never_overwritten(ds):
    score(ds, NGramScorer.fit(ds, order=2), prefix="n")
    before = ds.column("n.entropy_mean").copy()
    with pytest.raises(ValueError, match=r"has a column 'n\.entropy_mean' of another scorer: (.|\n)*another `prefix`"):
        score(ds, NGramScorer.fit(ds, order=3), prefix="n")
    np.testing.assert_array_equal(ds.column("n.entropy_mean"), before)


def test_two_at_once_are_refused(ds):
    scorer = NGramScorer.fit(ds)

    def again(progress):
        score(ds, scorer)

    with pytest.raises(DatasetLockedError, match="another process is computing the scores"):
        score(ds, scorer, progress=again)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prefix": "a/b"}, r"`prefix` must be letters, digits and _\.-, at most 64, got 'a/b'"),
        ({"prefix": ""}, "`prefix` must be"),
        ({"batch_size": 0}, "`batch_size` must be >= 1, got 0"),
    ],
)
def test_bad_arguments(ds, options, message):
    with pytest.raises(ValueError, match=message):
        score(ds, NGramScorer.fit(ds), **options)
