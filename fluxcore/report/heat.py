"""Text coloured by the entropy with which a model foresaw each token."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

LEVELS = 8
UTF8_BYTES = 4  # the most tokens over which a byte-level tokenizer spreads one character


class Decoder(Protocol):
    """What is asked of a tokenizer; `fluxcore.data.tokenizer.Tokenizer` has it."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids, special tokens by their names."""
        ...


@dataclass(frozen=True, slots=True)
class Piece:
    """The least run of tokens that is whole text, mostly one token."""

    text: str
    entropy: float
    """Nats, the mean over its tokens; NaN where nothing foresaw it, as at a chunk's start."""

    @property
    def level(self) -> int | None:
        """Colour level, a nat each and the last without an upper end; None without an entropy."""
        return None if math.isnan(self.entropy) else min(int(self.entropy), LEVELS - 1)


@dataclass(frozen=True, slots=True)
class ScoredText:
    """One chunk of text to be shown."""

    label: str
    """Its place in the order of scores, such as "lowest"."""
    chunk: int
    source: str
    document: str
    score: float
    pieces: Sequence[Piece]


def pieces_of(tokens: Sequence[int], entropies: NDArray[np.floating], tokenizer: Decoder) -> list[Piece]:
    """Split tokens into pieces of whole text.

    Args:
        tokens: [T] ids.
        entropies: [T] nats, of the distribution that foresaw each token; NaN where there was none.
        tokenizer: decodes ids; a character that is not whole yet must decode to U+FFFD.
    """
    pieces: list[Piece] = []
    start = 0
    for end in range(1, len(tokens) + 1):
        text = tokenizer.decode(tokens[start:end])
        if text.endswith("\ufffd") and end - start < UTF8_BYTES and end < len(tokens):
            continue
        known = entropies[start:end][~np.isnan(entropies[start:end])]
        pieces.append(Piece(text, float(known.mean()) if known.size else math.nan))
        start = end
    return pieces


def chunks_to_show(scores: NDArray[np.float32], each: int = 2) -> list[tuple[str, int]]:
    """Chunks at the ends and in the middle of the scores [n], as (label, chunk id), by rising score."""
    ranking = np.argsort(scores, kind="stable")
    n = len(ranking)
    each = min(each, max(n // 3, 1))
    middle = max((n - each) // 2, 0)
    picks = {"lowest": ranking[:each], "median": ranking[middle : middle + each], "highest": ranking[n - each :]}
    return [(label, int(chunk)) for label, chunks in picks.items() for chunk in chunks]
