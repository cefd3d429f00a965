"""What the report takes from a scored data set."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fluxcore.data import Dataset
from fluxcore.data.tokenise import DOCUMENTS_FILE, TOKENIZER_FILE
from fluxcore.data.tokenizer import Tokenizer
from fluxcore.report.heat import ScoredText, chunks_to_show, pieces_of

if TYPE_CHECKING:
    from fluxcore.scoring import TokenScorer


def scores_by_source(ds: Dataset, column: str) -> dict[str, NDArray[np.float32]]:
    """Source -> scores of its chunks; chunks without anything to score are left out.

    Raises:
        ValueError: `ds` has no such column.
    """
    scores = scores_of(ds, column)
    source = ds.column("source")
    known = scores_known(scores)
    return {name: scores[known & (source == index)] for index, name in enumerate(ds.sources)}


def texts_by_entropy(ds: Dataset, column: str, scorer: "TokenScorer") -> list[ScoredText]:
    """Chunks from the lowest to the highest score, each token with its entropy.

    Args:
        ds: a data set with its tokenizer beside it.
        column: score to choose the chunks by; of whole chunks only, since short ones are no fair example.
        scorer: foresees the tokens.
    Raises:
        FileNotFoundError: no tokenizer beside the data set.
        ValueError: `ds` has no such column, or `scorer` cannot read it.
    """
    from fluxcore.scoring import token_entropies

    tokenizer = Tokenizer.load(Path(ds.path) / TOKENIZER_FILE)
    names = document_names(Path(ds.path) / DOCUMENTS_FILE)
    scores = scores_of(ds, column)
    whole = np.flatnonzero(scores_known(scores) & (ds.column("valid_len") == ds.chunk_tokens))
    shown = [(label, int(whole[place])) for label, place in chunks_to_show(scores[whole])]
    entropies = token_entropies(scorer, ds, [chunk for _, chunk in shown])
    documents, sources = ds.column("doc_id"), ds.column("source")
    return [
        ScoredText(
            label=label,
            chunk=chunk,
            source=ds.sources[int(sources[chunk])],
            document=names.get(int(documents[chunk]), f"document {documents[chunk]}"),
            score=float(scores[chunk]),
            pieces=pieces_of(ds[chunk].tolist(), entropies[row], tokenizer),
        )
        for row, (label, chunk) in enumerate(shown)
    ]


def scores_of(ds: Dataset, column: str) -> NDArray[np.float32]:
    """The scores of all chunks, [n]."""
    if column not in ds.manifest.columns:
        raise ValueError(
            f"`{ds.path}` must have a score {column!r}, got {', '.join(ds.manifest.columns) or 'no scores at all'}"
            "\n\nScore it with `fluxcore score`, or name one of its scores with --column."
        )
    return np.asarray(ds.column(column), np.float32)


def scores_known(scores: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which chunks had anything to score, [n]."""
    from fluxcore.scoring import UNSCORED

    return np.asarray(scores != UNSCORED)


def document_names(path: Path) -> dict[int, str]:
    """Document id -> name, from the table beside the shards; empty where there is none."""
    if not path.exists():
        return {}
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return {int(row["doc_id"]): str(row["name"]) for row in rows}
