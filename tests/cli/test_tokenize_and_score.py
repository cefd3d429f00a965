"""`fluxcore tokenize` and `fluxcore score`, from text to columns."""

import numpy as np
import pytest
from support.command_line import fails, run

import fluxcore.data
from fluxcore.cli.variadic import _repeated


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "a.txt").write_text("the cat sat on the mat; the cat sat\n" * 30)
    (tmp_path / "b.md").write_text("Colourless green ideas sleep furiously.\n" * 20)
    return [tmp_path / "a.txt", tmp_path / "b.md"]


@pytest.fixture
def data(texts, tmp_path):
    done = run("tokenize", tmp_path / "ds", "--vocab-size", 300, "--chunk-tokens", 16, "--text", *texts)
    assert done.exit_code == 0, done.output
    assert "2 documents" in done.output
    return tmp_path / "ds"


def test_text_to_scores(data):
    ds = fluxcore.data.open(data)
    assert ds.sources == ["a.txt", "b.md"]
    assert ds.chunk_tokens == 16
    for scorer, column in (("ngram", "ngram.entropy_mean"), ("zlib", "zlib.bits_per_byte")):
        done = run("score", data, "--scorer", scorer)
        assert done.exit_code == 0, done.output
        assert column in done.output
        assert np.isfinite(fluxcore.data.open(data).column(column)).all()
    done = run("score", data, "--scorer", "ngram", "--order", 2, "--prefix", "pairs")
    assert done.exit_code == 0, done.output
    assert "pairs.cross_entropy" in fluxcore.data.open(data).columns


def test_quantiles_within_sources(data):
    assert run("score", data).exit_code == 0
    scores = [name for name in fluxcore.data.open(data).columns if name.startswith("ngram.")]
    for added in (len(scores), 0):
        done = run("score", data, "--source-quantiles")
        assert done.exit_code == 0, done.output
        assert f"{added} columns of quantiles within the source, COLUMN.source_quantile" in done.output
    ds = fluxcore.data.open(data)
    quantiles = ds.column("ngram.entropy_mean.source_quantile")
    for source in range(2):
        own = ds.column("source") == source
        lowest = np.flatnonzero(own)[ds.column("ngram.entropy_mean")[own].argmin()]
        assert quantiles[lowest] == quantiles[own].min()


def test_a_given_tokenizer_is_used(data, texts, tmp_path):
    done = run("tokenize", tmp_path / "again", "--text", texts[0], "--tokenizer", data / "tokenizer.json")
    assert done.exit_code == 0, done.output
    assert fluxcore.data.open(tmp_path / "again").manifest.tokenizer == fluxcore.data.open(data).manifest.tokenizer


def test_embedded_text(tmp_path):
    done = run("tokenize", tmp_path / "ds", "--embedded", "--budget-bytes", 20000, "--vocab-size", 300)
    assert done.exit_code == 0, done.output
    assert "stdlib" in fluxcore.data.open(tmp_path / "ds").sources


def test_one_origin_of_the_text(texts, tmp_path):
    for origins in ([], ["--embedded", "--text", texts[0]]):
        done = run("tokenize", tmp_path / "ds", *origins)
        assert done.exit_code == 2
        assert "exactly one of" in done.stderr


def test_errors_end_with_one_line_and_the_way_out(data, texts, tmp_path):
    assert "does not exist" in fails("tokenize", tmp_path / "x", "--text", tmp_path / "nowhere.txt")
    assert "uint8" in fails("tokenize", tmp_path / "x", "--text", texts[0], "--dtype", "uint8")
    assert "none.json` does not exist" in fails(
        "tokenize", tmp_path / "x", "--text", texts[0], "--tokenizer", tmp_path / "none.json"
    )
    assert "must be a folder with config.json" in fails("score", data, "--scorer", tmp_path / "no_model")
    run("score", data)
    assert "another `prefix`" in fails("score", data, "--order", 2)


def test_values_up_to_the_next_option():
    args = ["out", "--text", "a", "b", "--seed", "1", "--text", "c"]
    assert list(_repeated(args, {"--text"})) == ["out", "--text", "a", "--text", "b", "--seed", "1", "--text", "c"]
    assert list(_repeated(["--seed", "1", "2"], {"--text"})) == ["--seed", "1", "2"]
