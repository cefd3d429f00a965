"""An interpolated n-gram model: a scorer that needs no weights, only the corpus.

p_k(w|h) = lambda_h c(h,w) / c(h) + (1 - lambda_h) p_{k-1}(w|h'), where h' is h without its first token, p_0 = 1 / V,
and lambda_h = c(h) / (c(h) + d(h)) with d(h) the number of different tokens seen after h (Witten and Bell 1991).

Entropy over the whole vocabulary is exact and costs one term a seen n-gram, not V a token: p_k differs from its base
r q, r = 1 - lambda, only at the few tokens S that followed h, so that each moment is the base's, scaled, with the terms
of S exchanged: sum_{w not in S} r q ln^m(r q) expands in the sums of q, q ln q and q ln^2 q, over all w less over S.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fluxcore.data import Dataset
from fluxcore.data.progress import Progress, ProgressCallback
from fluxcore.scoring.chunk_scores import Floats, TokenStats
from fluxcore.scoring.scorer import ChunkBatch, ChunkReader, TokenScorer, check_vocabulary

Ints = NDArray[np.int64]
_READ_CHUNKS = 4096


@dataclass(frozen=True, slots=True)
class _Level:
    """All seen n-grams of one length k >= 2. Their contexts are the (k-1)-grams of the level below, by index."""

    keys: Ints
    """[G] sorted: context index * V + token."""
    count: Ints
    """[G]"""
    suffix: Ints
    """[G] index of the gram without its first token, in the level below."""
    p: Floats
    """[G] p_k of the gram's last token given the others."""
    rest: Floats
    """[contexts] 1 - lambda, the share of the shorter context."""
    moments: Floats
    """[contexts, 2] sum of p ln p and of p ln^2 p over the vocabulary."""


class NGramScorer(TokenScorer):
    """Predicts a token from the `order - 1` before it in the same chunk, by counts of a corpus."""

    def __init__(
        self, unigram: Floats, levels: list[_Level], *, include_last: bool = False, include_bos: bool = False
    ) -> None:
        super().__init__(include_last=include_last, include_bos=include_bos)
        self.order = 1 + len(levels)
        self.vocab_size = len(unigram)
        self.name = f"{self.order}-gram"
        self._unigram, self._levels = unigram, levels
        digest = hashlib.blake2b(f"ngram/1/{include_last}/{include_bos}".encode(), digest_size=16)
        for array in (unigram, *(array for level in levels for array in (level.keys, level.count))):
            digest.update(array.tobytes())
        self.fingerprint = digest.hexdigest()

    @classmethod
    def fit(
        cls,
        ds: Dataset,
        *,
        order: int = 3,
        chunk_ids: NDArray[Any] | None = None,
        max_tokens: int = 1 << 25,
        include_last: bool = False,
        include_bos: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Self:
        """Count the n-grams of a data set.

        Text that was counted looks more predictable than it is. To score text that was not, pass the others'
        `chunk_ids`.

        Args:
            ds: data set.
            order: 1 for single tokens, 2 for pairs, ...
            chunk_ids: chunks to count; None for all.
            max_tokens: of a larger corpus, evenly spaced chunks are counted: about 100 bytes of memory a token.
            include_last: count the prediction of what follows a chunk in its scores.
            include_bos: count the prediction of a chunk's first token, by single tokens, in its scores.
            progress: told after each block of chunks.
        Raises:
            ValueError: `order` < 1, or nothing to count.
        """
        if order < 1:
            raise ValueError(f"`order` must be >= 1, got {order}")
        ids = np.arange(len(ds)) if chunk_ids is None else np.asarray(chunk_ids, dtype=np.int64)
        most = max(1, max_tokens // ds.chunk_tokens)
        if len(ids) > most:
            ids = ids[np.linspace(0, len(ids) - 1, most).astype(np.int64)]
        if len(ids) == 0:
            raise ValueError(f"no chunk of `{ds.path}` to fit an n-gram model on")
        tokens = _read(ds, ids, progress)
        V = ds.vocab_size
        counts = np.bincount(tokens[tokens >= 0], minlength=V)
        weight = counts.sum() / (counts.sum() + np.count_nonzero(counts))
        unigram = weight * counts / counts.sum() + (1 - weight) / V
        return cls(unigram, _fit_levels(tokens, unigram, order), include_last=include_last, include_bos=include_bos)

    def check(self, ds: Dataset) -> None:
        """Raise ValueError when `ds` has ids that the model has not."""
        check_vocabulary(ds, self.vocab_size, f"the {self.name} model")

    def token_stats(self, batch: ChunkBatch) -> TokenStats:
        """Exact statistics over the whole vocabulary, float64, of each token given the longest context known."""
        n, T = batch.tokens.shape
        sequence = batch.sequence
        tokens, targets = sequence[:, :-1], np.maximum(sequence[:, 1:], 0)
        moments = np.broadcast_to(_moments(self._unigram), (n, T + 1, 2)).copy()
        p = np.ones((n, T + 1))
        p[:, 0] = self._unigram[batch.tokens[:, 0]]
        p[:, 1:] = self._unigram[targets]
        grams = tokens  # at t the index of the k-gram that ends there, -1 where it was never seen
        for level in self._levels:
            known = grams >= 0
            context = np.where(known, grams, 0)
            moments[:, 1:][known] = level.moments[context[known]]
            gram, found = _find(level.keys, context * self.vocab_size + targets)
            shorter = level.rest[context] * p[:, 1:]
            p[:, 1:] = np.where(known, np.where(found, level.p[gram], shorter), p[:, 1:])
            grams = _advance(level.keys, grams, tokens, self.vocab_size)
        H = -moments[..., 0]
        return TokenStats(H, np.maximum(moments[..., 1] - H**2, 0.0), -np.log(p))


def _read(ds: Dataset, ids: Ints, progress: ProgressCallback | None) -> Ints:
    """[n, T + 1] tokens of each chunk and the one that follows; -1 where there is none."""
    T = ds.chunk_tokens
    tokens = np.full((len(ids), T + 1), -1, dtype=np.int64)
    read, counted = ChunkReader(ds), 0
    for start in range(0, len(ids), _READ_CHUNKS):
        batch = read(ids[start : start + _READ_CHUNKS])
        tokens[start : start + _READ_CHUNKS] = batch.sequence
        counted += int(batch.valid_lens.sum())
        if progress is not None:
            progress(Progress(start + len(batch.tokens), len(ids), counted))
    return tokens


def _fit_levels(tokens: Ints, unigram: Floats, order: int) -> list[_Level]:
    V = len(unigram)
    levels: list[_Level] = []
    grams, contexts = tokens, V
    p, base = unigram, np.broadcast_to(_moments(unigram), (V, 2))
    for _ in range(2, order + 1):
        before, token, here = grams[:, :-1], tokens[:, 1:], grams[:, 1:]
        seen = (before >= 0) & (token >= 0)
        keys, first, inverse, count = np.unique(
            before[seen] * V + token[seen], return_index=True, return_inverse=True, return_counts=True
        )
        level = _fit_level(keys, count, here[seen][first], contexts, V, p, base)
        levels.append(level)
        grams = np.full_like(tokens, -1)
        grams[:, 1:][seen] = inverse
        # The next level's contexts are this one's grams, and their shorter context is the gram's suffix.
        contexts, p, base = len(keys), level.p, level.moments[level.suffix]
    return levels


def _fit_level(keys: Ints, count: Ints, suffix: Ints, contexts: int, V: int, q_all: Floats, base: Floats) -> _Level:
    context = keys // V
    total = np.bincount(context, weights=count, minlength=contexts)
    different = np.bincount(context, minlength=contexts)
    rest = np.where(total > 0, different / np.maximum(total + different, 1), 1.0)
    q = q_all[suffix]
    p = (1 - rest[context]) * count / total[context] + rest[context] * q

    def over_seen(values: Floats) -> Floats:
        return np.bincount(context, weights=values, minlength=contexts).astype(np.float64, copy=False)

    log_q, log_p, log_rest = np.log(q), np.log(p), np.log(rest)
    left0 = 1.0 - over_seen(q)  # sums of q ln^m q over the tokens that did not follow
    left1 = base[:, 0] - over_seen(q * log_q)
    left2 = base[:, 1] - over_seen(q * log_q**2)
    first = over_seen(p * log_p) + rest * (log_rest * left0 + left1)
    second = over_seen(p * log_p**2) + rest * (log_rest**2 * left0 + 2 * log_rest * left1 + left2)
    return _Level(keys, count, suffix, p, rest, np.stack([first, second], axis=1))


def _moments(p: Floats) -> Floats:
    log_p = np.log(p)
    return np.array([(p * log_p).sum(), (p * log_p**2).sum()])


def _find(keys: Ints, wanted: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Index of each wanted key, and whether it is there."""
    if len(keys) == 0:
        return np.zeros_like(wanted), np.zeros(wanted.shape, dtype=np.bool_)
    index: Ints = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return index, keys[index] == wanted


def _advance(keys: Ints, grams: Ints, tokens: Ints, V: int) -> Ints:
    """From the (k-1)-grams that end at each token to the k-grams."""
    longer = np.full_like(grams, -1)
    before, token = grams[:, :-1], tokens[:, 1:]
    index, found = _find(keys, np.where(before >= 0, before, 0) * V + np.maximum(token, 0))
    longer[:, 1:] = np.where(found & (before >= 0) & (token >= 0), index, -1)
    return longer
