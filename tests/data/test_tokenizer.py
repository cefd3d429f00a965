"""Byte-level BPE: the same from the same text, and it neither adds nor cuts."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tokenizers

from fluxcore.data.text import files
from fluxcore.data.tokenizer import Tokenizer

TEXT = "The quick brown fox jumps over the lazy dog; the dog sleeps. Größe, naïve, 日本語 🙂\n" * 20


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "fox.txt"
    path.write_text(TEXT)
    return files(path)


@pytest.fixture
def tokenizer(corpus):
    return Tokenizer.train(corpus, vocab_size=320)


def test_round_trip_of_any_text(tokenizer):
    assert tokenizer.vocab_size == 320
    texts = [TEXT, "", "\x00\x01 unseen ŽÝ \U0001f680", "a <|endoftext|> b"]
    encoded = tokenizer.encode_batch(texts)
    assert [tokenizer.decode(ids) for ids in encoded] == texts
    assert all(ids.dtype == np.uint32 for ids in encoded)


def test_a_special_token_cannot_be_forged_by_text(tokenizer):
    assert tokenizer.end_id == 0
    (ids,) = tokenizer.encode_batch(["a <|endoftext|> b"])
    assert 0 not in ids
    assert tokenizer.decode([0]) == "<|endoftext|>"


def test_another_process_trains_the_same(corpus, tokenizer, tmp_path):
    code = (
        "import sys; from fluxcore.data.text import files; from fluxcore.data.tokenizer import Tokenizer\n"
        "print(Tokenizer.train(files(sys.argv[1]), vocab_size=320).fingerprint.hex())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "fox.txt")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == tokenizer.fingerprint.hex()


def test_load_from_file_and_folder(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_json())
    for spec in (path, str(path), tmp_path):
        loaded = Tokenizer.load(spec)
        assert loaded.fingerprint == tokenizer.fingerprint
        assert len(loaded.fingerprint) == 16


def test_what_a_file_asks_for_is_not_done(tokenizer, tmp_path):
    # Truncation, padding and a template would lose or invent tokens; none of them changes what the tokenizer is.
    inner = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    inner.enable_truncation(5)
    inner.enable_padding(length=100)
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    path = tmp_path / "tokenizer.json"
    inner.save(str(path))
    loaded = Tokenizer.load(path)
    np.testing.assert_array_equal(loaded.encode_batch([TEXT])[0], tokenizer.encode_batch([TEXT])[0])
    assert loaded.fingerprint == tokenizer.fingerprint


def test_another_vocabulary_is_another_fingerprint(corpus, tokenizer):
    assert Tokenizer.train(corpus, vocab_size=319).fingerprint != tokenizer.fingerprint


def test_the_vocabulary_reaches_to_the_largest_id(tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 500}, unk_token="a")).save(str(path))
    loaded = Tokenizer.load(path)
    assert loaded.vocab_size == 501
    assert loaded.end_id is None


def test_bad_input(corpus, tmp_path):
    with pytest.raises(ValueError, match=r"`vocab_size` must be >= 257.* got 256"):
        Tokenizer.train(corpus, vocab_size=256)
    (tmp_path / "blank.txt").write_text(" \n")
    with pytest.raises(ValueError, match=r"no text to train a tokenizer on in blank\.txt"):
        Tokenizer.train(files(tmp_path / "blank.txt"), vocab_size=300)
    with pytest.raises(FileNotFoundError, match=r"no\.json` does not exist"):
        Tokenizer.load(tmp_path / "no.json")
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer\.json in it"):
        Tokenizer.load(tmp_path)
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ValueError, match=r"bad\.json` must be a tokenizer's file"):
        Tokenizer.load(tmp_path / "bad.json")


def test_a_name_that_cannot_be_fetched(tmp_path):
    code = """
from fluxcore.data.tokenizer import Tokenizer
try:
    Tokenizer.load("nobody/nothing")
except OSError as error:
    print(error)
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "no tokenizer `nobody/nothing`" in done.stdout
    assert "Give a tokenizer.json" in done.stdout


def test_a_forked_child_neither_warns_nor_hangs(tokenizer, tmp_path):
    code = """
import os, sys
from fluxcore.data.tokenizer import Tokenizer
tokenizer = Tokenizer.load(sys.argv[1])
tokenizer.encode_batch(["some text"] * 1000)
child = os.fork()
tokenizer.encode_batch(["some text"] * 1000)
if child:
    assert os.waitpid(child, 0)[1] == 0
    print("TOKENIZERS_PARALLELISM" in os.environ)
"""
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_json())
    environment = {key: value for key, value in os.environ.items() if key != "TOKENIZERS_PARALLELISM"}
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"
    assert done.stderr == ""
