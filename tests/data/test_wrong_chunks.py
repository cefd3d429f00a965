"""What a data set cannot hold: settings, chunks and columns are refused by name before a byte is written."""

import numpy as np
import pytest

import fluxcore.data
from fluxcore.data import ShardWriter

WRONG_SETTINGS = {
    "chunk_tokens": ({"chunk_tokens": [8]}, TypeError, r"`chunk_tokens` must be an integer, got \[8\]"),
    "vocab_size": (
        {"vocab_size": 1 << 70},
        ValueError,
        r"`vocab_size` must be <= 4294967295, got 1180591620717411303424",
    ),
    "one source": ({"sources": None}, TypeError, "`sources` must be a list of names, got None"),
    "no text": ({"sources": [1]}, ValueError, "1 cannot name a source: it is no text"),
    "one score": (
        {"score_columns": "s"},
        TypeError,
        "`score_columns` must be names, or names and definitions, got 's'",
    ),
    "a score twice": (
        {"score_columns": ["s", "s"]},
        ValueError,
        r"`score_columns` must be distinct names, got \['s', 's'\]",
    ),
    "no name": ({"score_columns": [1]}, TypeError, "the name of a column must be text, got 1"),
    "definition": ({"score_columns": {"s": 1}}, ValueError, "`definition` of column `s` must be a text"),
    "sorted_by": (
        {"score_columns": ["s"], "sorted_by": "s"},
        TypeError,
        "`sorted_by` must be a score column and whether",
    ),
    "parent": (
        {"parent": "zz"},
        ValueError,
        "`parent` must be the hash of a manifest, 32 hexadecimal digits, got 'zz'",
    ),
    "token_mask": ({"token_mask": "no"}, TypeError, "`token_mask` must be True or False, got 'no'"),
    "uuid": ({"uuid": "7"}, TypeError, r"`uuid` must be a uuid\.UUID, got '7'"),
    "tokenizer": ({"tokenizer": "x" * 16}, TypeError, "`tokenizer` must be a fingerprint of 16 bytes, got 'xxxx"),
    "resume": ({"resume": "no"}, TypeError, "`resume` must be True or False, got 'no'"),
}


@pytest.mark.parametrize(("settings", "kind", "message"), WRONG_SETTINGS.values(), ids=WRONG_SETTINGS)
def test_settings_of_a_writer(tmp_path, settings, kind, message):
    with pytest.raises(kind, match=message):
        ShardWriter(tmp_path / "set", **({"chunk_tokens": 8, "vocab_size": 10, "sources": ["a"]} | settings))
    assert not (tmp_path / "set").exists()


def test_chunks_for_a_writer(tmp_path):
    with ShardWriter(tmp_path / "set", chunk_tokens=2, vocab_size=10, sources=["a"]) as writer:
        for wrong in (1.5, "x", True):
            with pytest.raises(TypeError, match="`next_token` must be an integer, got"):
                writer.append([1], source="a", doc_id=0, next_token=wrong)
        with pytest.raises(TypeError, match="`scores` must map names of score columns to values, got 5"):
            writer.append([1], source="a", doc_id=0, scores=5)
        with pytest.raises(
            ValueError, match=r"`doc_id` must be within \[0, 18446744073709551615\], got 18446744073709551616"
        ):
            writer.append([1], source="a", doc_id=1 << 64)
        # NumPy makes floats of a list that needs both signs of 64 bits.
        numbers = [5, (1 << 63) + 1, (1 << 64) - 1]
        writer.append_batch(np.ones((3, 2), int), sources="a", doc_ids=numbers, doc_offsets=[0, 0, 0])
    assert fluxcore.data.open(tmp_path / "set").column("doc_id").tolist() == numbers


WRONG_COLUMNS = {
    "no name": (5, np.zeros(50), "", TypeError, "the name of a column must be text, got 5"),
    "masked": (
        "x",
        np.ma.masked_equal(np.arange(50.0), 7),
        "",
        ValueError,
        "column `x` must have a value for each chunk",
    ),
    "masked integers": (
        "x",
        np.ma.masked_equal(np.arange(50, dtype=np.uint8), 7),
        "",
        ValueError,
        "column `x` must have",
    ),
    "rounded": (
        "x",
        np.arange(50) + (1 << 24),
        "",
        ValueError,
        "integers that float32 can hold, got 16777217 at position 1",
    ),
    "rounded by little": ("x", np.full(50, (1 << 60) + 1), "", ValueError, "must be integers that float32 can hold"),
    "definition": (
        "x",
        np.zeros(50),
        "d" * 65537,
        ValueError,
        "`definition` of column `x` must be a text of at most 65536",
    ),
}


@pytest.mark.parametrize(("name", "values", "definition", "kind", "message"), WRONG_COLUMNS.values(), ids=WRONG_COLUMNS)
def test_columns_that_are_added(ds, name, values, definition, kind, message):
    with pytest.raises(kind, match=message):
        ds.add_column(name, values, definition=definition)
    with pytest.raises(ValueError, match=r"`definitions` must be of the columns that are added, got \['y'\] too"):
        ds.add_columns({"x": np.zeros(50)}, {"y": "misspelt"})
    assert ds.manifest.generation == fluxcore.data.open(ds.path).manifest.generation == 1
