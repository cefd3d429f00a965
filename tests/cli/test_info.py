import json

import numpy as np
import pytest
from support.command_line import fails, run

from fluxcore.data import ShardWriter


@pytest.fixture
def data(tmp_path):
    with ShardWriter(
        tmp_path / "data", chunk_tokens=8, vocab_size=100, sources=["web", "code"],
        score_columns={"lm.entropy_mean": "mean of H, nats"}, tokenizer=bytes(range(16)),
    ) as writer:  # fmt: skip
        for i in range(5):
            writer.append(
                np.arange(8 - i), source="code" if i == 4 else "web", doc_id=i // 2, doc_offset=0,
                scores={"lm.entropy_mean": float(i)},
            )  # fmt: skip
    return tmp_path / "data"


def test_the_facts_are_those_of_the_data_set(data):
    facts = json.loads(run("info", data, "--json").stdout)
    assert (facts["chunks"], facts["chunk_tokens"], facts["tokens"], facts["padding_tokens"]) == (5, 8, 30, 10)
    assert (facts["token_dtype"], facts["vocab_size"], facts["shards"]) == ("uint16", 100, 1)
    assert facts["tokenizer"] == bytes(range(16)).hex()
    assert facts["bytes"] == sum(file.stat().st_size for file in data.glob("*.fxs"))
    assert facts["sources"] == [
        {"name": "web", "documents": 2, "chunks": 4, "tokens": 26},
        {"name": "code", "documents": 1, "chunks": 1, "tokens": 4},
    ]
    columns = {column["name"]: column for column in facts["columns"]}
    assert columns["lm.entropy_mean"]["definition"] == "mean of H, nats"
    assert list(columns["lm.entropy_mean"]["quantiles"].values()) == [0, 0, 2, 3, 4]
    assert list(columns["valid_len"]["quantiles"].values()) == [4, 4, 6, 7, 8]


def test_the_tables_show_the_sources_and_columns(data):
    shown = run("info", data)
    assert shown.exit_code == 0
    for text in ("5 of 8 tokens", "30, and 10 of padding", "web", "code", "lm.entropy_mean: mean of H, nats"):
        assert text in shown.stdout


def test_an_empty_data_set_is_shown(tmp_path):
    with ShardWriter(tmp_path / "none", chunk_tokens=8, vocab_size=100, sources=["web"]):
        pass
    assert json.loads(run("info", tmp_path / "none", "--json").stdout)["chunks"] == 0
    assert run("info", tmp_path / "none").exit_code == 0


def test_a_folder_without_a_data_set_is_an_error(tmp_path):
    assert str(tmp_path) in fails("info", tmp_path)
    assert "nowhere" in fails("info", tmp_path / "nowhere")
