import json

import numpy as np
import pytest

import fluxcore.data
from fluxcore.data import ShardWriter
from fluxcore.data.text import files
from fluxcore.data.tokenizer import Tokenizer
from fluxcore.report.dataset import scores_by_source, texts_by_entropy
from fluxcore.scoring import UNSCORED, NGramScorer

T = 16


@pytest.fixture
def ds(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("One two three. " * 20)
    tokenizer = Tokenizer.train(files([text]), vocab_size=270)
    with ShardWriter(
        tmp_path / "data", chunk_tokens=T, vocab_size=tokenizer.vocab_size, sources=["web", "code"],
        score_columns={"s": "made up"},
    ) as writer:  # fmt: skip
        ids = tokenizer.encode_batch([text.read_text()])[0]
        for i in range(8):
            tokens = ids[:3] if i == 7 else ids[i : i + T]
            score = UNSCORED if i == 6 else float(10 - i)
            writer.append(tokens, source="web" if i < 5 else "code", doc_id=i, doc_offset=0, scores={"s": score})
    (tmp_path / "data" / "tokenizer.json").write_text(tokenizer.to_json())
    names = [json.dumps({"doc_id": i, "source": "web", "name": f"page {i}", "tokens": T}) for i in range(4)]
    (tmp_path / "data" / "documents.jsonl").write_text("\n".join(names) + "\n")
    return fluxcore.data.open(tmp_path / "data")


def test_scores_are_given_by_source_without_chunks_that_have_none(ds):
    scores = scores_by_source(ds, "s")
    assert scores["web"].tolist() == [10, 9, 8, 7, 6]
    assert scores["code"].tolist() == [5, 3]


def test_texts_are_whole_chunks_from_the_lowest_to_the_highest(ds):
    texts = texts_by_entropy(ds, "s", NGramScorer.fit(ds))
    # Chunk 6 has no score and chunk 7 is short.
    assert [(text.label, text.chunk, text.score) for text in texts] == [
        ("lowest", 5, 5), ("lowest", 4, 6), ("median", 3, 7), ("median", 2, 8), ("highest", 1, 9), ("highest", 0, 10),
    ]  # fmt: skip
    assert [text.document for text in texts] == ["document 5", "document 4", "page 3", "page 2", "page 1", "page 0"]
    assert [text.source for text in texts] == ["code", "web", "web", "web", "web", "web"]
    tokenizer = Tokenizer.load(ds.path / "tokenizer.json")
    for text in texts:
        assert "".join(piece.text for piece in text.pieces) == tokenizer.decode(ds[text.chunk])
        assert np.isnan(text.pieces[0].entropy)
        assert all(piece.entropy >= 0 for piece in text.pieces[1:])
