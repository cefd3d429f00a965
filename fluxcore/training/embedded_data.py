"""A small scored data set of real text for first runs; nothing is downloaded."""

from pathlib import Path

import fluxcore.data
from fluxcore.data.text import embedded
from fluxcore.data.tokenise import tokenise
from fluxcore.data.tokenizer import Tokenizer
from fluxcore.scoring import NGramScorer, score
from fluxcore.training.text_data import made_once

BYTES_A_SOURCE = 64 << 10
VOCAB_SIZE = 1024
CHUNK_TOKENS = 64


def embedded_data(folder: Path) -> Path:
    """Prepare the data set, unless the folder is there: text of this Python installation, scored by a 3-gram model.

    Args:
        folder: Appears when all is done; a killed preparation begins anew.
    Returns:
        `folder`: shards with columns `ngram.*`, and `tokenizer.json`.
    """

    def write(unfinished: Path) -> None:
        corpus = embedded(budget_bytes=BYTES_A_SOURCE)
        tokenise(corpus, unfinished, Tokenizer.train(corpus, vocab_size=VOCAB_SIZE), chunk_tokens=CHUNK_TOKENS)
        ds = fluxcore.data.open(unfinished)
        score(ds, NGramScorer.fit(ds), prefix="ngram")

    return made_once(folder, write)
