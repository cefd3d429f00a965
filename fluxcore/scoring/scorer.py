"""What a scorer is: something that gives every chunk of a batch some numbers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluxcore.data import Dataset
from fluxcore.data.tokenizer import Tokenizer
from fluxcore.scoring.chunk_scores import MEANINGS, Floats, TokenStats, chunk_scores, scored

IGNORED = -100


@dataclass(frozen=True, slots=True)
class ChunkBatch:
    """Some chunks of a data set, read and checked."""

    tokens: NDArray[np.int64]
    """[n, T]; padding is some id of the vocabulary."""
    targets: NDArray[np.int64]
    """[n, T], the token after each; -100 where it is padding, not known, or left out by the data set's mask."""
    valid_lens: NDArray[np.int64]
    """[n], real tokens of each chunk."""

    @property
    def sequence(self) -> NDArray[np.int64]:
        """[n, T + 1]: the real tokens and the one that follows the chunk; -1 where there is none."""
        n, T = self.tokens.shape
        rows = np.arange(n)
        following = self.targets[rows, self.valid_lens - 1]
        sequence = np.full((n, T + 1), -1, dtype=np.int64)
        sequence[:, :T] = np.where(np.arange(T) < self.valid_lens[:, None], self.tokens, -1)
        sequence[rows, self.valid_lens] = np.where(following == IGNORED, -1, following)
        return sequence


class ChunkReader:
    """Reads chunks of a data set, each checked."""

    def __init__(self, ds: Dataset) -> None:
        self._ds = ds
        self._valid_lens = ds.column("valid_len")  # once: it may be put together from many shards

    def __call__(self, chunk_ids: NDArray[np.int64]) -> ChunkBatch:
        """The chunks `chunk_ids`, [n]."""
        tokens, targets = self._ds.gather(chunk_ids, out="int64")
        assert targets is not None
        return ChunkBatch(tokens, targets, self._valid_lens[chunk_ids].astype(np.int64))


class Scorer(ABC):
    """Gives every chunk the same named numbers, each on its own: neither order nor batch matters."""

    name: str
    """What a person calls it."""
    fingerprint: str
    """Equal for scorers that give equal numbers."""

    @property
    @abstractmethod
    def columns(self) -> Mapping[str, str]:
        """What each number is called, without prefix, and what it means."""

    @abstractmethod
    def check(self, ds: Dataset) -> None:
        """Raise ValueError when the chunks of `ds` cannot be scored."""

    @abstractmethod
    def score_batch(self, batch: ChunkBatch) -> Mapping[str, Floats]:
        """[n] for each of `columns`; finite, `UNSCORED` for a chunk without anything to score."""


class TokenScorer(Scorer):
    """A scorer that predicts every token; its scores are those in `MEANINGS`.

    Predictions of tokens 1 .. L - 1 of a chunk count, made at positions 0 .. L - 2. `include_bos` adds that of the
    first token, `include_last` that of what follows the chunk (its loss only where the data set knows the next token).
    """

    def __init__(self, *, include_last: bool, include_bos: bool) -> None:
        self.include_last = include_last
        self.include_bos = include_bos

    @property
    def columns(self) -> Mapping[str, str]:
        """The scores of `MEANINGS`, with the positions that count."""
        first, last = ("bos" if self.include_bos else "0"), ("T-1" if self.include_last else "T-2")
        return {name: f"{meaning}; positions {first}..{last}, padding excluded" for name, meaning in MEANINGS.items()}

    @abstractmethod
    def token_stats(self, batch: ChunkBatch) -> TokenStats:
        """Statistics of every prediction, [n, T + 1]; number 0 may be anything unless `include_bos`."""

    def score_batch(self, batch: ChunkBatch) -> Mapping[str, Floats]:
        """The scores of `MEANINGS`, [n] each."""
        T = batch.tokens.shape[1]
        counted = scored(batch.valid_lens, T, include_last=self.include_last, include_bos=self.include_bos)
        has_target = np.ones_like(counted)
        has_target[:, 1:] = batch.targets != IGNORED
        return chunk_scores(self.token_stats(batch), counted, has_target, batch.valid_lens)


def token_entropies(scorer: TokenScorer, ds: Dataset, chunk_ids: Sequence[int] | NDArray[Any]) -> NDArray[np.float32]:
    """Entropy of the prediction of each token of some chunks, for a heat map.

    Args:
        scorer: a language model or an n-gram model.
        ds: data set.
        chunk_ids: [n] of its chunks.
    Returns:
        [n, T], nats: at j the entropy of token j given those before it. NaN at padding, and at the first token unless
        the scorer has `include_bos`.
    """
    scorer.check(ds)
    batch = ChunkReader(ds)(np.asarray(chunk_ids, dtype=np.int64))
    T = batch.tokens.shape[1]
    shown = scored(batch.valid_lens, T, include_last=False, include_bos=scorer.include_bos)
    return np.where(shown, scorer.token_stats(batch).entropy, np.nan)[:, :T].astype(np.float32)


def check_vocabulary(ds: Dataset, vocab_size: int, what: str) -> None:
    """Raise ValueError when ids of `ds` may be beyond a model's vocabulary."""
    if ds.vocab_size > vocab_size:
        raise ValueError(
            f"{what} has a vocabulary of {vocab_size}, the data set `{ds.path}` one of {ds.vocab_size}"
            "\n\nThe scorer must know the tokens of the data set: tokenise the text with the model's own tokenizer."
        )


def check_tokenizer(ds: Dataset, tokenizer: Tokenizer, what: str) -> None:
    """Raise ValueError when `ds` is known to be of another tokenizer."""
    if ds.manifest.tokenizer not in (None, tokenizer.fingerprint.hex()):
        raise ValueError(
            f"{what} has another tokenizer than the data set `{ds.path}`: fingerprint {tokenizer.fingerprint.hex()},"
            f" not {ds.manifest.tokenizer}"
            "\n\nTokenise the text with the scorer's own tokenizer."
        )
