"""Tokenising that is killed anywhere: the next run goes on, to the bytes and the report of a run without a break."""

import json
import os
import resource
import shutil
import signal
from uuid import UUID

import pytest
from support.killing import contents, killed_at, killed_everywhere

import fluxcore.data
from fluxcore.data import tokenise as module
from fluxcore.data.text import files
from fluxcore.data.text.corpus import Corpus, Document
from fluxcore.data.tokenise import tokenise
from fluxcore.data.tokenizer import Tokenizer
from fluxcore.data.unfinished import train_beside

OPTIONS = {"chunk_tokens": 8, "min_chunk_tokens": 3, "shard_bytes": 12 * 4096 + 256 + 50 * (8 * 2 + 34)}


@pytest.fixture
def text(tmp_path):
    lines = [["word " * (n % 17), "", "ab", " "][n % 4 if n % 3 else 0] + f"n{n} ü" * (n % 5) for n in range(120)]
    path = tmp_path / "lines.jsonl"
    path.write_text("\n".join(json.dumps({"text": line}) for line in lines))
    return path


@pytest.fixture
def letters(text):
    """A tokenizer whose tokens are bytes."""
    return Tokenizer.train(files(text), vocab_size=257)


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(module, "_BATCH_DOCUMENTS", 7)


class Counting:
    """A tokenizer that counts what it encodes."""

    def __init__(self, inner):
        self.inner, self.documents = inner, 0

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def encode_batch(self, texts):
        self.documents += len(texts)
        return self.inner.encode_batch(texts)


def test_killed_anywhere_it_goes_on_to_the_same_bytes_and_report(text, letters, tmp_path):
    expected = tokenise(files(text), tmp_path / "whole", letters, **OPTIONS)
    whole = contents(tmp_path / "whole")
    assert set(whole) > {"shard-000002.fxs", "manifest.json", "documents.jsonl", "tokenizer.json"}
    encoded = []

    def run(tick):
        return tokenise(files(text), tmp_path / "set", letters, progress=tick, **OPTIONS)

    for number in killed_everywhere(run, stride=3):
        if not (tmp_path / "set" / "manifest.json").exists():
            counting = Counting(letters)
            assert tokenise(files(text), tmp_path / "set", counting, **OPTIONS) == expected
            encoded.append(counting.documents)
            assert contents(tmp_path / "set") == whole, number
        else:  # killed after it was published: what is hidden may be left
            assert contents(tmp_path / "set").items() >= whole.items()
        shutil.rmtree(tmp_path / "set")
    assert encoded[0] == 120
    assert encoded == sorted(encoded, reverse=True)
    assert min(encoded) < 40  # of three shards the last is written anew


def test_killed_again_and_again_it_ends(text, letters, tmp_path):
    expected = tokenise(files(text), tmp_path / "whole", letters, **OPTIONS)
    kills = 0
    while killed_at(
        14 + kills % 3, lambda tick: tokenise(files(text), tmp_path / "set", letters, progress=tick, **OPTIONS)
    ):
        kills += 1
        assert kills < 30
    assert kills > 1
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")
    assert expected.chunks == len(fluxcore.data.open(tmp_path / "set"))


def kill_late(text, letters, folder):
    """Leave two full shards and a checkpoint."""
    documents = []

    def progress(_):
        documents.append(1)
        if len(documents) == 14:
            os.kill(os.getpid(), signal.SIGKILL)

    assert killed_at(1 << 40, lambda _: tokenise(files(text), folder, letters, progress=progress, **OPTIONS))
    assert (folder / "shard-000001.fxs").exists()
    assert (folder / ".tokenise.json").exists()


@pytest.mark.parametrize("change", ["text", "tokenizer", "option", "uuid"])
def test_what_is_not_the_same_begins_anew(text, letters, tmp_path, change):
    kill_late(text, letters, tmp_path / "set")
    options = dict(OPTIONS)
    if change == "text":
        text.write_text(text.read_text().replace("word", "WORD"))
    elif change == "tokenizer":
        letters = Tokenizer.train(files(text), vocab_size=260)
    elif change == "option":
        options["min_chunk_tokens"] = 1
    else:
        # A name that a person gives says nothing of the text, even if it is that of the shards that stand there.
        options["uuid"] = UUID(json.loads((tmp_path / "set" / ".tokenise.json").read_text())["uuid"])
        options["append_end"] = False
    for name in ("set", "whole"):
        tokenise(files(text), tmp_path / name, letters, **options)
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["shard", "table", "table is gone", "checkpoint"])
def test_what_was_damaged_meanwhile_is_made_again(text, letters, tmp_path, damage):
    tokenise(files(text), tmp_path / "whole", letters, **OPTIONS)
    kill_late(text, letters, tmp_path / "set")
    shard, table = tmp_path / "set" / "shard-000000.fxs", tmp_path / "set" / ".documents.jsonl.tmp"
    if damage == "shard":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif damage == "table":
        table.write_bytes(table.read_bytes().replace(b"lines", b"LINES", 1))
    elif damage == "table is gone":
        table.unlink()
    else:
        (tmp_path / "set" / ".tokenise.json").unlink()
    tokenise(files(text), tmp_path / "set", letters, **OPTIONS)
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


def test_a_full_disk_is_named_and_it_goes_on_when_there_is_room(text, letters, tmp_path):
    tokenise(files(text), tmp_path / "whole", letters, **OPTIONS)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill(_):
        if (tmp_path / "set" / ".tokenise.json").exists():
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))

    try:
        with pytest.raises(OSError, match="File too large") as error:
            tokenise(files(text), tmp_path / "set", letters, progress=fill, **OPTIONS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert str(tmp_path / "set") in error.value.filename
    assert (tmp_path / "set" / "shard-000000.fxs").exists()
    counting = Counting(letters)
    tokenise(files(text), tmp_path / "set", counting, **OPTIONS)
    assert counting.documents < 120
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


def test_a_tokenizer_that_a_killed_run_trained_is_taken(text, tmp_path, monkeypatch):
    assert killed_at(1 << 40, lambda _: train_and_die(text, tmp_path / "set"))
    monkeypatch.setattr(Tokenizer, "train", lambda *_, **__: pytest.fail("it was trained again"))
    tokenizer = train_beside(tmp_path / "set", files(text), vocab_size=300)
    monkeypatch.undo()
    assert tokenizer.to_json() == Tokenizer.train(files(text), vocab_size=300).to_json()
    other = train_beside(tmp_path / "set", files(text), vocab_size=290)
    assert other.vocab_size == 290
    tokenise(files(text), tmp_path / "set", tokenizer, chunk_tokens=8)
    names = {path.name for path in (tmp_path / "set").iterdir()}
    assert names == {".fluxcore.lock", "shard-000000.fxs", "manifest.json", "documents.jsonl", "tokenizer.json"}
    with pytest.raises(FileExistsError, match="holds a data set already"):
        train_beside(tmp_path / "set", files(text), vocab_size=300)


def train_and_die(text, folder):
    train_beside(folder, files(text), vocab_size=300)
    os.kill(os.getpid(), signal.SIGKILL)


class Nameless(Corpus):
    sources = ("s",)

    def __iter__(self):
        return (Document("some text " * n, "s", str(n)) for n in range(60))


def test_text_without_an_identity_begins_anew(letters, tmp_path):
    expected = tokenise(Nameless(), tmp_path / "whole", letters, **OPTIONS)
    with pytest.raises(KeyboardInterrupt):
        tokenise(Nameless(), tmp_path / "set", letters, progress=interrupt, **OPTIONS)
    assert set(contents(tmp_path / "set")) == set()
    assert tokenise(Nameless(), tmp_path / "set", letters, **OPTIONS) == expected
    one, other = (fluxcore.data.open(tmp_path / name).manifest for name in ("whole", "set"))
    assert one.uuid != other.uuid


def interrupt(progress):
    if progress.done > 9000:
        raise KeyboardInterrupt
