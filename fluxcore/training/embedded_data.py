"""A small scored data set of real text for first runs; nothing is downloaded."""

import logging
import os
import shutil
from pathlib import Path

import fluxcore.data
from fluxcore.data.text import embedded
from fluxcore.data.tokenise import tokenise
from fluxcore.data.tokenizer import Tokenizer
from fluxcore.scoring import NGramScorer, score

BYTES_A_SOURCE = 64 << 10
VOCAB_SIZE = 1024
CHUNK_TOKENS = 64
log = logging.getLogger(__name__)


def embedded_data(folder: Path) -> Path:
    """Prepare the data set, unless the folder is there: text of this Python installation, scored by a 3-gram model.

    Args:
        folder: Appears when all is done; a killed preparation begins anew.
    Returns:
        `folder`: shards with columns `ngram.*`, and `tokenizer.json`.
    """
    if folder.exists():
        return folder
    log.info("preparing a small data set in %s", folder)
    unfinished = folder.with_name(f".{folder.name}-{os.getpid()}")
    try:
        corpus = embedded(budget_bytes=BYTES_A_SOURCE)
        tokenise(corpus, unfinished, Tokenizer.train(corpus, vocab_size=VOCAB_SIZE), chunk_tokens=CHUNK_TOKENS)
        ds = fluxcore.data.open(unfinished)
        score(ds, NGramScorer.fit(ds), prefix="ngram")
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder
