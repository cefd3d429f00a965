"""Score every chunk of a data set by entropy: language models, n-grams, compressors.

A scorer gives numbers to a batch of chunks; `score` runs it over a data set, survives being killed, and publishes the
numbers as columns.
"""

from fluxcore.scoring.chunk_scores import UNSCORED, TokenStats
from fluxcore.scoring.compression import CompressionScorer
from fluxcore.scoring.lm import LanguageModelScorer
from fluxcore.scoring.ngram import NGramScorer
from fluxcore.scoring.run import ScoreReport, score
from fluxcore.scoring.scorer import ChunkBatch, Scorer, TokenScorer, token_entropies

__all__ = [
    "UNSCORED",
    "ChunkBatch",
    "CompressionScorer",
    "LanguageModelScorer",
    "NGramScorer",
    "ScoreReport",
    "Scorer",
    "TokenScorer",
    "TokenStats",
    "score",
    "token_entropies",
]
