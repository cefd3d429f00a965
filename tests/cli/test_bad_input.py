"""Each bad input ends with a message that names it and the way out, a non-zero exit, and no data lost."""

import json
import resource
import runpy
import subprocess
import sys

import numpy as np
import pytest
from support.command_line import fails, run, succeeds

import fluxcore.data
from fluxcore.data import ShardWriter

BY = ("--by", "ngram.entropy_mean")
TEXT = "".join(f"Line {i} of {i * i} is like no other.\n" for i in range(60))


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "fox.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def data(tmp_path, text):
    succeeds("tokenize", tmp_path / "data", "--text", text, "--vocab-size", 300, "--chunk-tokens", 16)
    succeeds("score", tmp_path / "data", "--scorer", "ngram")
    return tmp_path / "data"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_missing_file(tmp_path):
    assert str(tmp_path / "nowhere.txt") in fails("tokenize", tmp_path / "out", "--text", tmp_path / "nowhere.txt")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("content", "says"), [(b"", "empty"), (b" \n\t\n", "")], ids=["empty", "white space alone"])
def test_a_file_without_a_token(tmp_path, content, says):
    path = tmp_path / "void.txt"
    path.write_bytes(content)
    message = fails("tokenize", tmp_path / "out", "--text", path)
    assert "void.txt" in message
    assert says in message
    with pytest.raises(FileNotFoundError):
        fluxcore.data.open(tmp_path / "out")


def test_undecodable_bytes(tmp_path):
    path = tmp_path / "latin1.txt"
    path.write_bytes(b"caf\xe9 au lait")
    message = fails("tokenize", tmp_path / "out", "--text", path)
    assert "latin1.txt" in message
    assert "3" in message  # the offset of the byte
    assert "replace" in message
    succeeds("tokenize", tmp_path / "out", "--text", path, "--errors", "replace")


def test_ids_beyond_the_dtype(tmp_path, text):
    words = {f"w{i}": i for i in range(70_000)}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"},
    }
    (tmp_path / "big.json").write_text(json.dumps(tokenizer))
    options = ("--text", text, "--tokenizer", tmp_path / "big.json")
    message = fails("tokenize", tmp_path / "out", *options, "--dtype", "uint16")
    assert "uint16" in message
    assert "70000" in message.replace(",", "")
    assert "uint32" in message
    succeeds("tokenize", tmp_path / "out", *options, "--dtype", "uint32")


@pytest.mark.parametrize("command", ["info", "verify"])
def test_a_shard_cut_short(data, command):
    shard = next(data.glob("*.fxs"))
    shard.write_bytes(shard.read_bytes()[:-100])
    assert shard.name in fails(command, data)


def test_a_flipped_bit(data, tmp_path):
    shard = next(data.glob("*.fxs"))
    payload = fluxcore.data.open(data)[1].tobytes()
    damaged = bytearray(shard.read_bytes())
    damaged[damaged.index(payload)] ^= 1
    shard.write_bytes(damaged)
    before = contents(data)
    for command in (("verify", data), ("score", data, "--scorer", "zlib"), ("sort", data, tmp_path / "sorted", *BY)):
        message = fails(*command)
        assert shard.name in message
        assert "chunk 1" in message
    assert contents(data).items() >= before.items()
    with pytest.raises(FileNotFoundError):
        fluxcore.data.open(tmp_path / "sorted")


def test_a_full_disk(data, tmp_path, text):
    before = contents(data)
    script = "import sys; from fluxcore.cli import main; sys.argv[0] = 'fluxcore'; main()"
    limit = 1024  # bytes a file: the least that makes writing fail as a full disk does, with errno and file name
    ran = subprocess.run(
        [sys.executable, "-c", script, "sort", data, tmp_path / "sorted", *BY],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 1
    assert "File too large" in ran.stderr
    assert str(tmp_path / "sorted") in ran.stderr
    assert contents(data) == before
    with pytest.raises(FileNotFoundError):
        fluxcore.data.open(tmp_path / "sorted")


def test_a_second_writer(tmp_path, text):
    out = tmp_path / "out"
    with ShardWriter(out, chunk_tokens=4, vocab_size=10, sources=["first"]) as first:
        message = fails("tokenize", out, "--text", text)
        assert str(out) in message
        first.append(np.arange(4), source="first", doc_id=0, doc_offset=0)
    assert fluxcore.data.open(out).sources == ["first"]


def test_a_folder_that_holds_a_data_set_is_not_written_over(data, text):
    before = contents(data)
    assert str(data) in fails("tokenize", data, "--text", text)
    assert contents(data) == before


def test_an_unknown_column(data, tmp_path):
    message = fails("sort", data, tmp_path / "sorted", "--by", "entropy")
    assert "entropy" in message
    assert "ngram.entropy_mean" in message


def test_an_unknown_order_of_the_demo(tmp_path):
    result = run("demo", "--order", "upward", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "upward" in result.stderr
    assert "ascending" in result.stderr


@pytest.mark.parametrize(
    ("argument", "says"),
    [("order=upward", ("upward", "ascending, descending, random, bucketed")), ("colunm=x", ("`colunm`", "`column`"))],
)
def test_a_wrong_value_or_key_of_the_trainer(data, monkeypatch, capsys, argument, says):
    monkeypatch.delitem(sys.modules, "fluxcore.trainers.curriculum", raising=False)  # as in a process of its own
    monkeypatch.setattr(sys, "argv", ["curriculum", f"data={data}", argument])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("fluxcore.trainers.curriculum", run_name="__main__")
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert all(words in message for words in says)


def test_a_demo_does_not_touch_what_is_not_its_own(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "must be new, empty, or left by an earlier run" in fails("demo", "--out", tmp_path, "--size", "mini")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
