"""Documents to shards and back: no token lost, none in the wrong place, and the same bytes each time."""

import json
from uuid import UUID

import numpy as np
import pytest

import fluxcore.data
from fluxcore.data import tokenise as module
from fluxcore.data.text import files
from fluxcore.data.tokenise import tokenise
from fluxcore.data.tokenizer import Tokenizer

LINES = ["abcdefgh", "", "ij", "k", " \n", "the quick brown fox jumps over the lazy dog", "ü🙂"]


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text("\n".join(json.dumps({"text": line}) for line in LINES))
    (tmp_path / "more.txt").write_text("lmnopq" * 10)
    return files([path, tmp_path / "more.txt"])


@pytest.fixture
def letters(corpus):
    """A tokenizer whose tokens are bytes."""
    return Tokenizer.train(corpus, vocab_size=257)


def documents_of(ds, tokenizer):
    """Text of each document, put together from its chunks."""
    texts = {}
    for i in range(len(ds)):
        doc_id, length = int(ds.column("doc_id")[i]), int(ds.column("valid_len")[i])
        ids = texts.setdefault(doc_id, [])
        assert ds.column("doc_offset")[i] == len(ids)
        ids.extend(ds[i][:length].tolist())
        assert not ds[i][length:].any()
    return {doc_id: tokenizer.decode(ids) for doc_id, ids in texts.items()}


@pytest.mark.parametrize("batch_documents", [1, 1024])
@pytest.mark.parametrize("chunk_tokens", [1, 4, 60, 1000])
def test_every_document_comes_back(corpus, letters, tmp_path, chunk_tokens, batch_documents, monkeypatch):
    monkeypatch.setattr(module, "_BATCH_DOCUMENTS", batch_documents)
    report = tokenise(corpus, tmp_path / "ds", letters, chunk_tokens=chunk_tokens, min_chunk_tokens=1)
    ds = fluxcore.data.open(tmp_path / "ds")
    expected = {i: line + "<|endoftext|>" for i, line in enumerate(LINES) if line.strip()}
    expected[len(LINES)] = "lmnopq" * 10 + "<|endoftext|>"
    assert documents_of(ds, letters) == expected
    assert (report.documents, report.empty_documents, report.short_documents) == (6, 2, 0)
    assert report.chunks == len(ds)
    assert report.tokens == ds.column("valid_len").sum()
    assert report.text_bytes == sum(len(d.text.encode()) for d in corpus)
    assert ds.sources == ["lines.jsonl", "more.txt"]
    assert [ds.sources[s] for s in ds.column("source")[[0, -1]]] == ["lines.jsonl", "more.txt"]
    ds.verify()


def test_the_token_after_a_chunk_is_known_within_a_document(corpus, letters, tmp_path):
    tokenise(corpus, tmp_path / "ds", letters, chunk_tokens=4, append_end=False)
    ds = fluxcore.data.open(tmp_path / "ds")
    last = 0xFFFFFFFF
    after = [letters.decode([token]) if token != last else None for token in ds.column("next_token")]
    chunks = [letters.decode(ds[i][:n]) for i, n in enumerate(ds.column("valid_len"))]
    assert list(zip(chunks, after, strict=True))[:3] == [("abcd", "e"), ("efgh", None), ("ij", None)]


def test_short_ends_are_dropped_and_counted(corpus, letters, tmp_path):
    report = tokenise(corpus, tmp_path / "ds", letters, chunk_tokens=5, min_chunk_tokens=4, append_end=False)
    ds = fluxcore.data.open(tmp_path / "ds")
    texts = documents_of(ds, letters)
    assert set(texts) == {0, 5, 6, 7}
    assert texts[0] == "abcde"
    assert letters.decode([ds.column("next_token")[0]]) == "f"  # the chunk is gone, what comes next is still known
    assert report.short_documents == 2
    assert report.dropped_tokens == len("fgh") + len("ij") + len("k") + len(LINES[5]) % 5 + 1
    assert report.tokens == ds.column("valid_len").sum()


def test_the_tokenizer_and_the_documents_stand_beside_the_shards(corpus, letters, tmp_path):
    tokenise(corpus, tmp_path / "ds", letters, chunk_tokens=8)
    assert Tokenizer.load(tmp_path / "ds").fingerprint == letters.fingerprint
    assert fluxcore.data.open(tmp_path / "ds").manifest.tokenizer == letters.fingerprint.hex()
    rows = [json.loads(line) for line in (tmp_path / "ds" / "documents.jsonl").read_text().splitlines()]
    assert rows[0] == {
        "doc_id": 0,
        "source": "lines.jsonl",
        "name": "lines.jsonl:1",
        "tokens": 8,
    }  # its end is a chunk of one
    assert [row["doc_id"] for row in rows] == [0, 2, 3, 5, 6, 7]


def test_equal_input_gives_equal_bytes(corpus, letters, tmp_path):
    for name in ("a", "b"):
        tokenise(corpus, tmp_path / name, letters, chunk_tokens=8, uuid=UUID(int=7))
    first = {path.name: path.read_bytes() for path in (tmp_path / "a").glob("[!.]*")}
    second = {path.name: path.read_bytes() for path in (tmp_path / "b").glob("[!.]*")}
    assert first == second
    assert len(first) >= 4  # a shard, the manifest, tokenizer and documents


def test_progress_ends_at_the_whole(corpus, letters, tmp_path):
    seen = []
    report = tokenise(corpus, tmp_path / "ds", letters, chunk_tokens=8, progress=seen.append)
    assert seen[0].total == corpus.size_bytes
    assert (seen[-1].done, seen[-1].total, seen[-1].tokens) == (report.text_bytes, report.text_bytes, report.tokens)


def nothing_written(path):
    return not path.exists() or {file.name for file in path.iterdir()} <= {".fluxcore.lock"}


def test_ids_beyond_the_dtype_are_refused_before_anything_is_written(corpus, letters, tmp_path):
    with pytest.raises(ValueError, match="uint8"):
        tokenise(corpus, tmp_path / "ds", letters, dtype="uint8")
    assert nothing_written(tmp_path / "ds")


def test_the_smallest_dtype_that_fits_is_taken():
    assert module.smallest_dtype(1 << 16) == "uint16"
    assert module.smallest_dtype((1 << 16) + 1) == "uint32"
    assert np.iinfo(module.smallest_dtype(50257)).max >= 50256


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (" \n\t", {}, r"no document of a\.txt has a chunk of tokens: 1 without a token, 0 with fewer than 2"),
        ("a", {"append_end": False}, "0 without a token, 1 with fewer than 2"),
        ("abc", {"min_chunk_tokens": 0}, r"`min_chunk_tokens` must be within \[1, chunk_tokens = 1024\], got 0"),
        ("abc", {"min_chunk_tokens": 9, "chunk_tokens": 8}, "got 9"),
    ],
)
def test_bad_input(letters, tmp_path, text, options, message):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        tokenise(files(tmp_path / "a.txt"), tmp_path / "ds", letters, **options)
    assert nothing_written(tmp_path / "ds")


def test_a_file_that_cannot_be_read_half_way_leaves_nothing(letters, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("fine " * 100)
    (folder / "b.txt").write_bytes(b"not \xff fine")
    with pytest.raises(ValueError, match=r"b\.txt` must be UTF-8, got the bytes ff at byte 4"):
        tokenise(files(folder), tmp_path / "ds", letters)
    assert nothing_written(tmp_path / "ds")


def test_a_part_without_a_chunk_may_be_written(letters, tmp_path):
    (tmp_path / "blank.txt").write_text(" \n")
    blank = files([tmp_path / "blank.txt"])
    with pytest.raises(ValueError, match="has a chunk of tokens"):
        tokenise(blank, tmp_path / "ds", letters)
    report = tokenise(blank, tmp_path / "ds", letters, allow_empty=True)
    assert (report.chunks, report.empty_documents, len(fluxcore.data.open(tmp_path / "ds"))) == (0, 1, 0)


def test_a_finished_data_set_is_known_by_its_identity(corpus, letters, tmp_path):
    tokenise(corpus, tmp_path / "ds", letters, chunk_tokens=8)
    uuid = UUID(hex=fluxcore.data.open(tmp_path / "ds").uuid)
    assert module.shards_identity(corpus, letters, chunk_tokens=8) == uuid
    assert module.shards_identity(corpus, letters, chunk_tokens=9) != uuid
