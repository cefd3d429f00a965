"""Several data sets of the hub as sources of one run, each read in its own way."""

import datasets
import huggingface_hub
import pytest
from fluxcore.trainers.ppo import CONFIGS, PPOConfig, train

import fluxcore.data
from fluxcore.data.tokenizer import Tokenizer
from fluxcore.training.config import ConfigError
from fluxcore.training.hub_source import HubSource
from fluxcore.training.text_data import TextConfig
from fluxcore.training.trainer_config import Precision


@pytest.fixture
def folders(tmp_path):
    """Stand for the hub: `datasets` loads them by path as it does by name."""
    rows = {
        "articles": {"article": ["first article", "second article"]},
        "dialogues": {"dialog": [["hello", "who is there"], ["nobody"]]},
        "speeches": {"translation": [{"de": "guten tag", "en": "good day"}]},
    }
    for name, columns in rows.items():
        (tmp_path / name).mkdir()
        datasets.Dataset.from_dict(columns).to_parquet(tmp_path / name / "train.parquet")
    return tmp_path


def test_each_is_read_by_its_own_column_and_adapter(folders):
    sources = [
        HubSource(path=str(folders / "articles"), column="article"),
        HubSource(path=str(folders / "dialogues"), column="dialog", adapter="dialogue"),
        HubSource(path=str(folders / "speeches"), column="translation", adapter="translation", language="en"),
    ]
    text = TextConfig(hub=sources, vocab_size=300, cache=folders / "cache")
    folder = text.prepare(32)
    ds, tokenizer = fluxcore.data.open(folder), Tokenizer.load(folder / "tokenizer.json")
    assert list(ds.sources) == [each.path for each in sources]
    lengths = ds.column("valid_len")
    found = {tokenizer.decode(ds[chunk][: lengths[chunk]].tolist()) for chunk in range(len(ds))}
    expected = ["first article", "second article", "hello\nwho is there", "nobody", "good day"]
    assert found == {f"{text}<|endoftext|>" for text in expected}


def test_what_is_not_there_is_named(folders):
    empty = folders / "empty"
    empty.mkdir()
    features = datasets.Features(text=datasets.Value("string"))
    datasets.Dataset.from_dict({"text": []}, features=features).to_parquet(empty / "train.parquet")
    for keys, message in (
        (
            {"path": str(folders / "articles"), "column": "body"},
            "/articles` has no column 'body'\n\nPass `column`; there",
        ),
        ({"path": str(empty)}, "the data set `.*/empty` could not be loaded: .* corresponds to no data"),
        (
            {"path": str(folders / "articles"), "column": "article", "split": "test"},
            '`.*/articles` .*Unknown split "test"',
        ),
    ):
        with pytest.raises(ValueError, match=message):
            TextConfig(hub=[HubSource(**keys)], cache=folders / "cache").prepare(32)


def test_the_ten_data_sets_of_the_large_run():
    config = PPOConfig.from_yaml(CONFIGS / "destruct.yaml")
    names = [each.path for each in config.text.hub]
    assert len(set(names)) == 10
    adapters = {each.path.rpartition("/")[2]: each.adapter.name for each in config.text.hub}
    assert (adapters["daily_dialog"], adapters["europarl"], adapters["wikitext"]) == ("dialogue", "translation", "text")


def test_a_language_without_a_translation_is_refused():
    with pytest.raises(ValueError, match="`language` goes with adapter=translation alone, got 'en' with text for a/b"):
        HubSource(path="a/b", language="en")
    with pytest.raises(ValueError, match="got None with translation for a/b"):
        HubSource(path="a/b", adapter="translation")


def test_prompts_come_from_a_folder_or_from_text_not_both(tmp_path):
    for arguments in ({}, {"data": tmp_path, "text": TextConfig(sources=["embedded"])}):
        with pytest.raises(ConfigError, match=r"one of `data` and `text.sources` must be given"):
            PPOConfig(steps=1, model="micro", **arguments)


def test_a_hub_out_of_reach_is_said_at_the_start(tmp_path, monkeypatch):
    for module in (huggingface_hub.constants, datasets.config):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    config = PPOConfig.from_yaml(CONFIGS / "destruct.yaml")
    config.run_dir, config.text.cache, config.mixed_precision = tmp_path / "run", tmp_path, Precision.fp32
    with pytest.raises(
        ConnectionError, match=r"not be reached for `Salesforce/wikitext`[\s\S]*set HF_HOME to that cache"
    ):
        train(config)
    assert [each for each in tmp_path.iterdir() if each.name != "run"] == []  # nothing half made
