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


@pytest.fixture
def papers(tmp_path, monkeypatch):
    """Papers with class labels, of which one has none; and beside them a folder of others."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["x", "y", "z"])}
    )
    for name, labels in (("no_ref", [2, 0, 1, 2, -1]), ("default", [1])):
        (tmp_path / "papers" / name / "train").mkdir(parents=True)
        rows = {"text": [f"{name} {i}" for i in range(len(labels))], "label": labels}
        path = tmp_path / "papers" / name / "train" / "0000.parquet"
        datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    return str(tmp_path / "papers")


def test_labels_become_sources(papers):
    corpus = hub(papers, folder="no_ref", label_column="label")
    assert corpus.sources == ("x", "y", "z")
    found = [(each.source, each.text, each.name.removeprefix(papers)) for each in corpus]
    assert found == [("z", "no_ref 0", ":0"), ("x", "no_ref 1", ":1"), ("y", "no_ref 2", ":2"), ("z", "no_ref 3", ":3")]
    some = hub(papers, folder="no_ref", label_column="label", labels=["z", "y"])
    assert some.sources == ("z", "y")
    assert [each.text for each in some] == ["no_ref 0", "no_ref 2", "no_ref 3"]


def test_labels_may_be_strings(folder):
    corpus = hub(folder, label_column="text")
    assert [(each.source, each.text) for each in corpus] == [("one", "one")]  # the other row has none


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label_column": "topic"}, "has no column 'topic'\n\nPass `label_column`; there are: text, label"),
        ({"label_column": "label", "labels": ["w"]}, "`labels` must be among the labels of .*, x, y, z, got 'w'"),
        ({"labels": ["x"]}, "`labels` goes with `label_column` alone, got x"),
        ({"folder": "nowhere"}, "nowhere"),
    ],
)
def test_labels_that_are_not_there(papers, arguments, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        hub(papers, **{"folder": "no_ref", **arguments})


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


def test_its_identity_is_the_same_in_another_process(folder, tmp_path):
    found = hub(folder).identity
    code = f"from fluxcore.data.text import hub; print(hub({folder!r}).identity)"
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == found
    assert hub(folder, split="train[:1]").identity != found
    assert hub(folder, column="turns", adapter="dialogue").identity != found
    assert hub(folder, streaming=True).identity is None
