"""`sort`, `verify` and `report` on a small scored data set."""

import json
import shutil

import numpy as np
import pytest
from support.command_line import fails, run, succeeds
from support.runs import write_run

import fluxcore.data

COLUMN = "ngram.entropy_mean"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for i in range(6):
        (folder / f"{i}.txt").write_text("".join(f"Line {i * j} of text {i} is {j * j}.\n" for j in range(40)))
    succeeds("tokenize", folder / "data", "--text", folder, "--vocab-size", 300, "--chunk-tokens", 32)
    succeeds("score", folder / "data", "--scorer", "ngram")
    return folder / "data"


def test_sort_takes_the_tokenizer_and_the_documents_along(data, tmp_path):
    assert "it is" in succeeds("sort", data, tmp_path / "up", "--by", COLUMN)
    scores = fluxcore.data.open(tmp_path / "up").column(COLUMN)
    assert (np.diff(scores) >= 0).all()
    for name in ("tokenizer.json", "documents.jsonl"):
        assert (tmp_path / "up" / name).read_bytes() == (data / name).read_bytes()
    assert "was already" in succeeds("sort", data, tmp_path / "up", "--by", COLUMN)


def test_sort_descending(data, tmp_path):
    succeeds("sort", data, tmp_path / "down", "--by", COLUMN, "--descending")
    assert (np.diff(fluxcore.data.open(tmp_path / "down").column(COLUMN)) <= 0).all()
    facts = json.loads(succeeds("info", tmp_path / "down", "--json"))
    assert facts["sorted_by"] == {"column": COLUMN, "descending": True}


def test_sort_within_a_memory_limit(data, tmp_path):
    succeeds("sort", data, tmp_path / "up", "--by", COLUMN)
    printed = succeeds("sort", data, tmp_path / "parts", "--by", COLUMN, "--memory-mb", 10)
    assert "takes up to 0.0" in printed
    for name in ("shard-000000.fxs", "manifest.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "up" / name).read_bytes()


def test_sort_writes_the_order_alone(data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    command = ("sort", tmp_path / "data", "--by", COLUMN, "--index-only", "--descending")
    assert "is a column now" in succeeds(*command)
    assert "was there already" in succeeds(*command, "--memory-mb", 10)
    order = fluxcore.data.open(tmp_path / "data").column(f"order:{COLUMN}:descending")
    scores = fluxcore.data.open(data).column(COLUMN)
    assert (np.diff(scores[order]) <= 0).all()


@pytest.mark.parametrize("options", [(), ("sorted", "--index-only")], ids=str)
def test_sort_writes_either_chunks_or_an_order(data, options):
    result = run("sort", data, *options, "--by", COLUMN)
    assert result.exit_code == 2
    assert "--index-only" in result.stderr


def test_verify_says_what_it_read(data):
    printed = succeeds("verify", data)
    assert "sound" in printed
    assert f"{len(fluxcore.data.open(data)):,} chunks" in printed


@pytest.fixture
def runs(data, tmp_path):
    return [
        write_run(tmp_path / "runs" / order, order=order, validation=losses, data=str(data), column=COLUMN)
        for order, losses in {"random": [5.0, 4.0], "ascending": [5.0, 4.1]}.items()
    ]


def test_report_stands_where_the_runs_are_and_takes_data_and_column_from_them(runs):
    printed = succeeds("report", *runs)
    page = runs[0].parent / "report.html"
    assert str(page) in printed
    assert COLUMN in page.read_text()


def test_report_colours_text_by_any_scorer(runs, tmp_path):
    succeeds("report", *runs, "--scorer", "ngram", "--out", tmp_path / "page")
    html = (tmp_path / "page" / "report.html").read_text()
    assert html.count('<article class="chunk">') == 6
    assert ' nats">' in html


def test_report_of_runs_on_different_data_asks_which(runs, tmp_path, data):
    other = write_run(tmp_path / "other", validation=[5.0], data="elsewhere", column=COLUMN)
    message = fails("report", *runs, other)
    assert "elsewhere" in message
    assert "--data" in message
    succeeds("report", *runs, other, "--data", data, "--out", tmp_path / "page")


def test_report_of_an_unknown_score_names_the_known(runs):
    message = fails("report", *runs, "--column", "lm.entropy")
    assert "lm.entropy" in message
    assert COLUMN in message


def test_report_of_a_folder_that_is_no_run(tmp_path):
    assert "must be a run folder" in fails("report", tmp_path)
