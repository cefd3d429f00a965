"""The n-gram scorer against distributions written out over the whole vocabulary."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from support.token_sets import random_rows, write_tokens

from fluxcore.scoring import NGramScorer, token_entropies
from fluxcore.scoring.scorer import ChunkReader

V, T = 19, 9


class WrittenOut:
    """Witten-Bell by dictionaries: p(.|h) as V numbers."""

    def __init__(self, rows, order):
        self.order = order
        self.followers = [defaultdict(Counter) for _ in range(order)]
        for ids, following in rows:
            sequence = [*ids, *([] if following is None else [following])]
            for t, token in enumerate(sequence):
                for k in range(min(order, t + 1)):
                    self.followers[k][tuple(sequence[t - k : t])][token] += 1

    def p(self, history):
        history = tuple(history)[max(0, len(history) - self.order + 1) :]
        base = np.full(V, 1 / V) if not history else self.p(history[1:])
        counts = self.followers[len(history)].get(history)
        if not counts:
            return base
        total = sum(counts.values())
        weight = total / (total + len(counts))
        p = (1 - weight) * base
        for token, count in counts.items():
            p[token] += weight * count / total
        return p


@pytest.fixture
def rows():
    return random_rows(40, chunk_tokens=T, vocab_size=V)


@pytest.fixture
def ds(tmp_path, rows):
    return write_tokens(tmp_path / "ds", rows, chunk_tokens=T, vocab_size=V)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_every_prediction_is_exact(ds, rows, order):
    fitted = np.arange(25)  # the other chunks hold contexts that were never seen
    scorer = NGramScorer.fit(ds, order=order, chunk_ids=fitted)
    truth = WrittenOut([rows[i] for i in fitted], order)
    stats = scorer.token_stats(ChunkReader(ds)(np.arange(len(rows))))
    for i, (ids, following) in enumerate(rows):
        for j in range(len(ids) + 1):
            p = truth.p(ids[:j])
            H = -(p * np.log(p)).sum()
            assert stats.entropy[i, j] == pytest.approx(H, abs=1e-13)
            assert stats.varentropy[i, j] == pytest.approx((p * (np.log(p) + H) ** 2).sum(), abs=1e-12)
            token = ids[j] if j < len(ids) else following
            if token is not None:
                assert stats.cross_entropy[i, j] == pytest.approx(-np.log(p[token]), rel=1e-13)


def test_token_entropies_stand_at_the_token_they_are_of(ds, rows):
    plain = NGramScorer.fit(ds, order=2)
    found = token_entropies(plain, ds, [3, 1])
    truth = WrittenOut(rows, 2)
    assert found.shape == (2, T)
    assert found.dtype == np.float32
    for row, i in zip(found, (3, 1), strict=True):
        ids = rows[i][0]
        expected = [-(p * np.log(p)).sum() for p in (truth.p(ids[:j]) for j in range(len(ids)))]
        assert np.isnan(row[0])
        np.testing.assert_allclose(row[1 : len(ids)], expected[1:], rtol=1e-6)
        assert np.isnan(row[len(ids) :]).all()
    with_bos = NGramScorer.fit(ds, order=2, include_bos=True)
    p = truth.p(())
    np.testing.assert_allclose(token_entropies(with_bos, ds, [3])[0, 0], -(p * np.log(p)).sum(), rtol=1e-6)


def test_fingerprints_tell_models_apart(ds):
    one = NGramScorer.fit(ds, order=2)
    others = [
        NGramScorer.fit(ds, order=3),
        NGramScorer.fit(ds, order=2, chunk_ids=np.arange(10)),
        NGramScorer.fit(ds, order=2, include_last=True),
        NGramScorer.fit(ds, order=2, include_bos=True),
    ]
    assert NGramScorer.fit(ds, order=2).fingerprint == one.fingerprint
    assert len({one.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_a_large_corpus_is_sampled_evenly(ds):
    sampled = NGramScorer.fit(ds, order=2, max_tokens=4 * T)
    assert sampled.fingerprint == NGramScorer.fit(ds, order=2, chunk_ids=[0, 13, 26, 39]).fingerprint


def test_bad_input(ds, tmp_path):
    with pytest.raises(ValueError, match=r"`order` must be >= 1, got 0"):
        NGramScorer.fit(ds, order=0)
    with pytest.raises(ValueError, match=r"no chunk of .* to fit"):
        NGramScorer.fit(ds, chunk_ids=[])
    larger = write_tokens(tmp_path / "larger", [([V, V], None)], chunk_tokens=T, vocab_size=V + 1)
    with pytest.raises(ValueError, match=rf"3-gram model has a vocabulary of {V}, the data set .* one of {V + 1}\n\n"):
        NGramScorer.fit(ds).check(larger)
