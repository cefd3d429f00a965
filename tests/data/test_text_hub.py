"""Documents through Hugging Face `datasets`; a local folder stands in for the hub."""

import json
import os
import subprocess
import sys

import pytest

from fluxcore.data.text import hub


@pytest.fixture
def folder(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [
        {
            "text": "one",
            "turns": ["hi", "ho"],
            "chat": [{"role": "user", "content": "q"}],
            "pair": {"en": "a", "fr": "b"},
        },
        {"text": None, "turns": ["x"], "chat": [{"role": "user", "content": "r"}], "pair": {"en": "c", "fr": "d"}},
    ]
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    datasets.disable_progress_bars()
    return str(data)


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        ({}, ["one", ""]),
        ({"column": "turns", "adapter": "dialogue"}, ["hi\nho", "x"]),
        ({"column": "chat", "adapter": "dialogue"}, ["q", "r"]),
        ({"column": "pair", "adapter": "translation", "language": "fr"}, ["b", "d"]),
        ({"split": "train[1:]", "column": "pair", "adapter": "translation", "language": "en"}, ["c"]),
    ],
)
def test_adapters(folder, arguments, texts):
    corpus = hub(folder, **arguments)
    assert [d.text for d in corpus] == texts == [d.text for d in corpus]
    assert corpus.sources == (folder,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"column": "body"}, "has no column 'body'\n\nPass `column`; there are: text, turns, chat, pair"),
        ({"adapter": "poem"}, "`adapter` must be one of text, dialogue, translation, got 'poem'"),
        ({"adapter": "translation"}, "`language` goes with"),
        ({"language": "fr"}, "`language` goes with"),
        ({"column": "turns"}, "row 0 of .* the text must be a string, got (list|List)\n\nPass the `adapter`"),
        ({"adapter": "dialogue"}, "a dialogue must be a list of turns, got str"),
        ({"column": "pair", "adapter": "translation", "language": "de"}, "no language 'de', there are: en, fr"),
        ({"split": "test"}, "test"),
    ],
)
def test_what_does_not_fit_is_named(folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        list(hub(folder, **arguments))


def test_a_folder_without_data(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty doesn't contain any data files"):
        hub(str(tmp_path / "empty"))


def test_a_hub_out_of_reach_is_said_clearly(tmp_path):
    # In a process of its own: the offline switch is read once, at import.
    code = "from fluxcore.data.text import hub\ntry: hub('nobody/nothing')\nexcept ConnectionError as e: print(e)"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "could not be reached for `nobody/nothing`" in done.stdout
    assert "HF_HOME" in done.stdout
